//! Queues of mlx5 devices for planes: made by the libraries, then asked about with `mlx5dv_init_obj`.

use std::rc::Rc;

use spinwire_dataplane::provider::mlx5::{self as rings, Route};
use spinwire_dataplane::raw::region::Destroyed;
use spinwire_dataplane::verbs::QueuePair as _;
use spinwire_dataplane::wqe::Transport;

use super::{Completions, Mlx5Error, Pair, PairHandle as _, QueueConfig, SharedReceives};
use crate::raw::mlx5::direct as raw;
use crate::uri;
use crate::verbs::{
    AddressOf, CompletionQueue, ConnectConfig, Device, LinkLayer, PairConfig, PairKind,
    ProtectionDomain, Queues, QueuesConfig, Trusted, VerbsError, devices_that,
};
use crate::{verbs, verbs::Pair as VerbsPair};

/// Addresses of one pair for datagrams.
const ROUTES_MAX: u32 = 1024;

/// A queue pair of the library that nobody posts to by the library.
#[derive(Debug)]
pub struct LibraryPair {
    pair: VerbsPair,
}

impl LibraryPair {
    pub(crate) const fn pair(&self) -> &VerbsPair {
        &self.pair
    }

    pub(crate) fn into_pair(self) -> VerbsPair {
        self.pair
    }
}

/// A completion queue of the library that nobody polls by the library.
#[derive(Debug)]
pub struct LibraryCompletions {
    queue: Rc<CompletionQueue>,
}

impl LibraryCompletions {
    pub(crate) fn queue(&self) -> &CompletionQueue {
        &self.queue
    }
}

/// A queue pair of an mlx5 device.
pub type DirectPair = Pair<'static, LibraryPair, LibraryCompletions>;

/// A completion queue of one.
pub type DirectCompletions = Completions<'static, LibraryPair, LibraryCompletions>;

impl AsRef<VerbsPair> for DirectPair {
    fn as_ref(&self) -> &VerbsPair {
        self.handle().pair()
    }
}

impl AsRef<CompletionQueue> for DirectCompletions {
    fn as_ref(&self) -> &CompletionQueue {
        self.handle().queue()
    }
}

/// Queues of mlx5 devices, posted to and polled without a library between. **Unverified on hardware.**
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Direct;

impl Trusted for Direct {}

/// What the library is asked for: as many segments as make a receive a power of two of bytes.
fn asked(config: &PairConfig) -> PairConfig {
    let sge_max = config.sge_max.max(1).next_power_of_two().min(rings::config::SGE_MAX);
    let inline_bytes = config.inline_bytes.min(rings::config::INLINE_BYTES_MAX);
    PairConfig { sge_max, inline_bytes, ..*config }
}

fn library_pair(
    domain: &ProtectionDomain,
    kind: PairKind,
    queue: &Rc<CompletionQueue>,
    config: &PairConfig,
) -> Result<LibraryPair, VerbsError> {
    let pair = VerbsPair::new(domain, kind, (queue, queue), &asked(config))?;
    Ok(LibraryPair { pair: pair.without_lists() })
}

fn queue(domain: &ProtectionDomain, entries: u32) -> Result<Rc<CompletionQueue>, VerbsError> {
    CompletionQueue::new_by(domain.device(), entries, "mlx5dv_create_cq", raw::completions)
}

/// Entries that a pair of that kind may take in its completion queue: all blocks of its send queue, as long as the library makes it, and all
/// its receives. It is looked at on a pair that is made for the moment.
fn entries_of_one(domain: &ProtectionDomain, config: &QueuesConfig) -> Result<u32, VerbsError> {
    let pair = &config.pair;
    let of_the_moment = queue(domain, pair.send_depth.saturating_add(pair.recv_depth).max(1))?;
    let dv = library_pair(domain, config.kind, &of_the_moment, pair)?.describe()?;
    Ok(dv.sq_wqe_cnt.saturating_add(dv.rq_wqe_cnt))
}

/// What the data plane is to make of it.
fn queue_config(library: &LibraryPair, kind: PairKind, config: &PairConfig) -> QueueConfig {
    let (transport, routes_max) = match kind {
        PairKind::Rc => (Transport::Rc { path: None }, 0),
        PairKind::Ud => (Transport::Ud, ROUTES_MAX),
    };
    let asked = asked(config);
    let pair = rings::PairConfig {
        sge_max: asked.sge_max,
        inline_bytes_max: asked.inline_bytes,
        message_bytes_max: library.pair.limits().message_bytes_max,
        routes_max,
    };
    let (send_depth, recv_depth) = (config.send_depth, config.recv_depth);
    QueueConfig { transport, send_depth, recv_depth, pair }
}

impl Queues for Direct {
    const TRANSPORT: uri::Transport = uri::Transport::Mlx5;

    type Pair = DirectPair;
    type Completions = DirectCompletions;

    fn suits(device: &Device) -> Result<(), VerbsError> {
        if device.context().device().is_some_and(raw::is_supported) {
            return Ok(());
        }
        let have = devices_that(raw::is_supported)?;
        Err(Mlx5Error::NotMlx5 { device: device.name().to_owned(), have }.into())
    }

    fn completions(
        domain: &ProtectionDomain,
        config: &QueuesConfig,
    ) -> Result<Rc<DirectCompletions>, VerbsError> {
        Self::suits(domain.device())?;
        let entries = entries_of_one(domain, config)?.saturating_mul(config.pairs);
        let queue = queue(domain, entries)?;
        Ok(Completions::new(LibraryCompletions { queue }, config.pairs)?)
    }

    fn pair(
        domain: &ProtectionDomain,
        kind: PairKind,
        completions: &Rc<DirectCompletions>,
        config: &PairConfig,
    ) -> Result<DirectPair, VerbsError> {
        Self::suits(domain.device())?;
        let library = library_pair(domain, kind, &completions.handle().queue, config)?;
        let queues = queue_config(&library, kind, config);
        Ok(Pair::new(completions, library, &queues)?)
    }

    fn add_address(
        pair: &DirectPair,
        to: AddressOf,
        how: &ConnectConfig,
    ) -> Result<u32, VerbsError> {
        pair.add_address(to, how)
    }

    fn remove_address(pair: &DirectPair, row: u32) -> bool {
        pair.remove_address(row)
    }

    fn destroy(pair: DirectPair) -> Result<Destroyed, VerbsError> {
        pair.destroy()
    }
}

impl DirectPair {
    /// Puts an address where datagrams may go into the pair's table, as [`verbs::Pair::add_address`] does.
    ///
    /// # Errors
    /// As there, and what libmlx5 says.
    pub fn add_address(&self, to: AddressOf, how: &ConnectConfig) -> Result<u32, VerbsError> {
        let pair: &VerbsPair = self.as_ref();
        let row = pair.add_address(to, how)?;
        let missing = Mlx5Error::Memory { field: "address handle", value: row.into() };
        let handle = pair.address_handle(row).ok_or(missing)?;
        let vector = raw::address_vector(handle)?;
        let is_ethernet = pair.port()?.link == LinkLayer::Ethernet;
        self.set_route(row, Route::of_vector(&vector, is_ethernet))?;
        Ok(row)
    }

    /// Puts it into the state Reset: what was posted is told as flushed by the next polls. Then [`restart`](Pair::restart) and connect it anew:
    /// libmlx5 has set its records to 0, which is where it begins.
    ///
    /// # Errors
    /// What the library says.
    pub fn reset(&self) -> Result<(), VerbsError> {
        VerbsPair::reset(self.as_ref())?;
        // Refused within a poll only, and nobody polls here.
        let ended = self.was_reset();
        debug_assert!(ended.is_ok(), "nobody polls");
        Ok(())
    }

    /// Takes an address out again, as [`verbs::Pair::remove_address`] does. What is staged has its own copy.
    #[must_use]
    pub fn remove_address(&self, row: u32) -> bool {
        self.remove_route(row) && VerbsPair::remove_address(self.as_ref(), row)
    }
}

/// A shared receive queue of the library that nobody posts to by the library.
#[derive(Debug)]
pub struct LibraryShared {
    receives: Rc<verbs::SharedReceives>,
}

impl LibraryShared {
    pub(crate) const fn receives(&self) -> &Rc<verbs::SharedReceives> {
        &self.receives
    }
}

/// Receives of an mlx5 device that several pairs take from.
pub type DirectShared = SharedReceives<'static, LibraryShared>;

impl Direct {
    /// Room for `depth` receives of at most `sge_max` segments, that several pairs take from.
    ///
    /// # Errors
    /// As of [`verbs::SharedReceives::new`], what libmlx5 says, and [`Mlx5Error::Short`].
    pub fn shared(
        domain: &ProtectionDomain,
        depth: u32,
        sge_max: u32,
    ) -> Result<Rc<DirectShared>, VerbsError> {
        Self::suits(domain.device())?;
        let receives = verbs::SharedReceives::new(domain, depth, sge_max)?;
        let shared = SharedReceives::new(LibraryShared { receives }, sge_max.max(1))?;
        let got = shared.depth();
        if got < depth {
            let field = "shared receive queue";
            return Err(Mlx5Error::Short { field, asked: depth, got }.into());
        }
        Ok(shared)
    }

    /// A pair in state Reset that takes its receives from `shared`: see [`Pair::with_shared`]. Its completion queue is made for pairs whose
    /// `recv_depth` is that of the shared queue.
    ///
    /// # Errors
    /// As of [`Queues::pair`].
    pub fn pair_with_shared(
        shared: &Rc<DirectShared>,
        kind: PairKind,
        completions: &Rc<DirectCompletions>,
        config: &PairConfig,
    ) -> Result<DirectPair, VerbsError> {
        let receives = shared.handle().receives();
        let queue = &completions.handle().queue;
        let pair = VerbsPair::with_shared(receives, kind, (queue, queue), &asked(config))?;
        let library = LibraryPair { pair: pair.without_lists() };
        let queues = queue_config(&library, kind, config);
        Ok(Pair::with_shared(completions, library, &queues, shared)?)
    }
}
