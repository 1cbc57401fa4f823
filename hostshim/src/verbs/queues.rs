//! Who makes the queues of a plane: everything else of a device is the same for all.
//!
//! ```text
//!   Device, ProtectionDomain, regions, librdmacm, states of pairs        one host side
//!        |
//!     Queues ── Library      posts and polls by libibverbs
//!            '─ mlx5::Direct  writes and reads the rings itself
//! ```

use core::fmt;
use std::rc::Rc;

use spinwire_dataplane::raw::region::Destroyed;
use spinwire_dataplane::verbs as seam;

use super::completion::CompletionQueue;
use super::device::Device;
use super::error::VerbsError;
use super::pair::{Pair, PairConfig, PairKind};
use super::region::{LocalKey, ProtectionDomain};
use super::states::{AddressOf, ConnectConfig};
use crate::uri::Transport;

/// Who makes queues is written here: buffers are handed to a device on its word.
pub(crate) trait Trusted {}

/// Makes queue pairs, and the completion queue that they share, on devices that are open. Sealed: that these do what `verbs` says is promised with
/// the buffers of a plane.
#[expect(private_bounds, reason = "sealed")]
pub trait Queues: fmt::Debug + Sized + Trusted {
    /// What endpoints over such queues are asked for by.
    const TRANSPORT: Transport;

    /// A queue pair. What is below it is a [`Pair`], which goes through its states and is what librdmacm is told of. It touches nobody's memory
    /// any more when it was [ended](seam::QueuePair::end), and its [id](seam::QueuePair::id) is that of the `Pair`.
    type Pair: seam::QueuePair<Key = LocalKey> + AsRef<Pair> + fmt::Debug;

    /// A completion queue, and what is below it.
    type Completions: seam::CompletionQueue + AsRef<CompletionQueue> + fmt::Debug;

    /// Whether that device has such queues. Asked before anything else is made.
    ///
    /// # Errors
    /// Why not, and the remedy.
    fn suits(device: &Device) -> Result<(), VerbsError>;

    /// A completion queue for as many pairs as `config` says.
    ///
    /// # Errors
    /// [`VerbsError::Limit`], or what the library says.
    fn completions(
        domain: &ProtectionDomain,
        config: &QueuesConfig,
    ) -> Result<Rc<Self::Completions>, VerbsError>;

    /// A pair in state Reset, all of which completes in that queue.
    ///
    /// # Errors
    /// As of [`Pair::new`].
    fn pair(
        domain: &ProtectionDomain,
        kind: PairKind,
        completions: &Rc<Self::Completions>,
        config: &PairConfig,
    ) -> Result<Self::Pair, VerbsError>;

    /// Puts an address where datagrams may go into the table of a pair, as [`Pair::add_address`] does. Its row.
    ///
    /// # Errors
    /// As there.
    fn add_address(
        pair: &Self::Pair,
        to: AddressOf,
        how: &ConnectConfig,
    ) -> Result<u32, VerbsError> {
        pair.as_ref().add_address(to, how)
    }

    /// Takes an address out again, as [`Pair::remove_address`] does. Whether there was one.
    #[must_use]
    fn remove_address(pair: &Self::Pair, row: u32) -> bool {
        pair.as_ref().remove_address(row)
    }

    /// Destroys a pair: nothing that was posted completes any more, and the device touches no memory by it.
    ///
    /// # Errors
    /// What the library says; then nothing of that is certain.
    fn destroy(pair: Self::Pair) -> Result<Destroyed, VerbsError>;
}

/// What one completion queue is to hold.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct QueuesConfig {
    /// Pairs that are there at once, at most.
    pub pairs: u32,
    /// What they are.
    pub kind: PairKind,
    /// Each of them.
    pub pair: PairConfig,
}

impl QueuesConfig {
    /// Work requests and receives of all pairs.
    #[must_use]
    pub const fn requests(&self) -> u32 {
        self.pair.send_depth.saturating_add(self.pair.recv_depth).saturating_mul(self.pairs)
    }
}

/// Queues that libibverbs posts to and polls, on any device.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Library;

impl Trusted for Library {}

impl Queues for Library {
    const TRANSPORT: Transport = Transport::Verbs;

    type Pair = Box<Pair>;
    type Completions = CompletionQueue;

    fn suits(_device: &Device) -> Result<(), VerbsError> {
        Ok(())
    }

    fn completions(
        domain: &ProtectionDomain,
        config: &QueuesConfig,
    ) -> Result<Rc<CompletionQueue>, VerbsError> {
        CompletionQueue::telling(domain.device(), config.requests())
    }

    fn pair(
        domain: &ProtectionDomain,
        kind: PairKind,
        completions: &Rc<CompletionQueue>,
        config: &PairConfig,
    ) -> Result<Box<Pair>, VerbsError> {
        Pair::new(domain, kind, (completions, completions), config).map(Box::new)
    }

    fn destroy(pair: Box<Pair>) -> Result<Destroyed, VerbsError> {
        (*pair).destroy()
    }
}
