//! Opening a port: by the best offer for what is asked.

use core::cell::{Cell, RefCell};
use std::rc::Rc;

use spinwire_dataplane::id::{Name, WrId};
use spinwire_dataplane::provider::peers::Peers;
use spinwire_dataplane::provider::{Caps, Cqe, EndpointType, Event, Info, Limits, Status};
use spinwire_dataplane::raw::place::Bump;
use spinwire_dataplane::table::Ring;
use spinwire_dataplane::time::{Instant, Nanos};

use super::contexts::Contexts;
use super::error::{OfiError, OfiFailure};
use super::left::with_its_name_free;
use super::names::Names;
use super::offer::{self, Guard, OfiModes};
use super::port::{OfiCounters, OfiPort, Row, wide};
use crate::raw::ofi::{
    Active, AddressVector, Bound, Completions, Copies, Domain, Events, Fabric, Offer, Passive,
    Spaces,
};

/// Failures that are kept for [`OfiPort::poll_failure`].
const FAILURES_KEPT: u32 = 16;
/// The first key that a port gives out, where they are its own: no number that comes about by itself.
const FIRST_KEY: u64 = 0x6F66_6900;

/// What a port is to be like.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct OfiConfig {
    /// The provider, as `fi_info -p` takes it; `None` for the one that libfabric holds for the best.
    pub provider: Option<String>,
    /// What the endpoint is to be.
    pub endpoint_type: EndpointType,
    /// The address to be at: a host, or an address of an interface. `None` where the provider chooses, as `shm` has to.
    pub node: Option<String>,
    /// Its port there, or whatever the provider calls a service.
    pub service: Option<String>,
    /// Rows of the address table.
    pub peers_max: u32,
    /// Posted sends whose completions were not polled; a power of two.
    pub send_depth: u32,
    /// Posted receives.
    pub recv_depth: u32,
    /// Longest message, in bytes.
    pub message_bytes_max: u32,
    /// Messages under way that were injected and that the library does not copy: those longer than its `inject_size`, and for each peer
    /// one of so many, by whose end the port sees that the others have left. Each has a slot for the longest. At least 1.
    pub copies_max: u32,
    /// How long a peer may take nothing, or not be there to be connected to, before it is held for gone.
    pub patience: Nanos,
    /// Whether there are to be one-sided operations, where the provider has them.
    pub one_sided: bool,
    /// Whether to do what the provider is known to do wrong, instead of refusing it: see the room's comment. What crashes is refused all the same
    /// ([`OfiError::Crashes`]).
    pub accept_faults: bool,
    /// Whether a thread may sleep until something comes ([`OfiPort::descriptors`]), where the provider has descriptors for that ([`Caps::DESCRIPTOR`]). It
    /// costs each completion something.
    pub waits: bool,
}

impl Default for OfiConfig {
    /// RDM, 64 peers, 256 sends and 1024 receives, messages up to 64 KiB, 16 copies, ten seconds of patience.
    fn default() -> Self {
        Self {
            provider: None,
            endpoint_type: EndpointType::Rdm,
            node: None,
            service: None,
            peers_max: 64,
            send_depth: 256,
            recv_depth: 1024,
            message_bytes_max: 64 << 10,
            copies_max: 16,
            patience: Nanos::from_millis(10_000),
            one_sided: false,
            accept_faults: false,
            waits: false,
        }
    }
}

/// What a provider has for one endpoint.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bounds {
    /// Bytes of a message.
    pub(super) longest: usize,
    /// Sends and receives under way.
    pub(super) depths: (usize, usize),
    /// Ranges of a message.
    pub(super) parts: u32,
}

/// What a port is to be, within what the provider has.
pub(super) fn sized(provider: &str, bounds: Bounds, caps: Caps, config: &OfiConfig) -> Info {
    let longest = offer::longest(provider, bounds.longest).min(wide(config.message_bytes_max));
    let least = |own: u32, theirs: usize| own.min(u32::try_from(theirs).unwrap_or(u32::MAX));
    let limits = Limits {
        message_bytes_max: longest,
        inject_bytes_max: longest,
        sge_max: bounds.parts,
        send_depth: least(config.send_depth.max(4), bounds.depths.0),
        recv_depth: least(config.recv_depth, bounds.depths.1),
        unexpected_depth: u32::MAX,
        unexpected_bytes_max: longest,
        peers_max: config.peers_max,
    };
    let info = Info::of_type(offer::label(provider), config.endpoint_type, caps, limits);
    with_caps(Info { latency: offer::latency(provider), ..info }, caps)
}

fn info(offer: &Offer, config: &OfiConfig) -> Info {
    let bounds = Bounds {
        longest: offer.endpoint().max_msg_size,
        depths: (offer.transmit().size, offer.receive().size),
        parts: offer::parts_max(offer, config.endpoint_type),
    };
    sized(&offer.provider(), bounds, offer::caps(offer, config.endpoint_type), config)
}

/// What a port of `config` will be, without opening one; and what its provider asks for.
pub(crate) fn offered(config: &OfiConfig) -> Result<(Info, OfiModes), OfiError> {
    let offer = offer::choose(config)?;
    let caps = offer::with_descriptor(&offer.provider(), caps_of(&offer, config, None));
    let info = with_caps(info(&offer, config), caps);
    Ok((info, offer::modes(&offer)))
}

/// The best offer, and what of `config` its provider has: where it has no descriptors, the port is one to be polled.
fn chosen(config: &OfiConfig) -> Result<(Offer, OfiConfig), OfiError> {
    let offer = offer::choose(config)?;
    if !config.waits || offer::can_wait(&offer.provider()) {
        return Ok((offer, config.clone()));
    }
    let polled = OfiConfig { waits: false, ..config.clone() };
    Ok((offer::choose(&polled)?, polled))
}

impl<'m> OfiPort<'m> {
    /// Opens a port under `name`, and places its tables in `bump`. `names` says where others are when it connects.
    ///
    /// # Errors
    /// [`OfiError`].
    pub fn open(
        bump: &Bump<'m>,
        names: &'m Names,
        name: &Name,
        config: &OfiConfig,
    ) -> Result<Self, OfiError> {
        let (offer, config) = chosen(config)?;
        let config = &config;
        let faults = offer::faults(&offer.provider());
        let mut info = info(&offer, config);
        let copies_max = config.copies_max.max(1);
        let copies = Copies::new(copies_max, info.limits.message_bytes_max);
        let behind = Copies::new(u32::from(faults.tail_bytes() > 0), faults.tail_bytes());
        let operations =
            wide(info.limits.send_depth) + wide(info.limits.recv_depth) + wide(copies_max);
        let fabric = Fabric::open(&offer)?;
        let domain = Domain::open(&fabric, &offer)?;
        let bound = bind(&domain, (config, &info), operations)?;
        let listen = |events| Passive::listen(&fabric, &offer, events);
        let passive = bound.events.as_ref().map(listen).transpose()?;
        let active = if passive.is_some() { None } else { Some(activate(&offer, &bound)?) };
        info = with_caps(info, caps_of(&offer, config, active.as_ref()));
        let ends = u32::try_from(operations).unwrap_or(u32::MAX).next_power_of_two();
        let events = config.peers_max.saturating_mul(2).saturating_add(16);
        let event = Event::StaleCompletion(WrId::from_raw(0));
        let filler = Cqe::without_message(WrId::from_raw(0), Status::Cancelled);
        let port = Self {
            active: RefCell::new(active),
            passive,
            crossing: Cell::new(None),
            contexts: Contexts::place(bump, operations)?,
            copies,
            tail: behind.take_whole(),
            behind,
            regions: RefCell::default(),
            exposed: RefCell::default(),
            keys: Cell::new(FIRST_KEY),
            modes: offer::modes(&offer),
            tag_bits: offer::tag_bits(&offer),
            inject_bytes_max: offer.transmit().inject_size,
            info,
            name: *name,
            names,
            peers: Peers::place(bump, config.peers_max, Row::vacant)?,
            by_number: bump
                .slice_with(wide(config.peers_max).saturating_mul(4), |_| Cell::new(None))?,
            peer: Cell::new(None),
            ended: Ring::place(bump, ends, filler)?,
            events: Ring::place(bump, events, event)?,
            failures: Ring::place(bump, FAILURES_KEPT, OfiFailure::NONE)?,
            sends: Cell::new(0),
            receives: Cell::new(0),
            staged: Cell::new(0),
            polls: Cell::new(0),
            lost: Cell::new(None),
            refusal: Cell::new(0),
            counters: Cell::new(OfiCounters::default()),
            now: Cell::new(Instant::ORIGIN),
            turned: Cell::new(Instant::ORIGIN),
            patience: config.patience,
            memory_guard: faults.memory_guard,
            misses_masks: faults.misses_masks && !config.accept_faults,
            offer,
            bound,
        };
        port.know_memory(bump)?;
        Ok(port)
    }

    /// Registers the slots of copies, what lies behind receives, and what is left of the arena, where the provider asks for that.
    fn know_memory(&self, bump: &Bump<'m>) -> Result<(), OfiError> {
        if !self.modes.local {
            return Ok(());
        }
        let mut regions = self.regions.borrow_mut();
        for slots in [&self.copies, &self.behind] {
            if slots.range().1 > 0 {
                regions.push(crate::raw::ofi::register_copies(self.domain(), slots)?);
            }
        }
        if bump.free_bytes() > 0 {
            regions.push(crate::raw::ofi::register_rest(self.domain(), bump)?);
        }
        Ok(())
    }
}

/// An endpoint of a type without connections.
fn activate(offer: &Offer, bound: &Bound) -> Result<Active, OfiError> {
    let faults = offer::faults(&offer.provider());
    Ok(with_its_name_free(faults.names_by_pid, || Active::open(offer, bound))?)
}

/// With these capabilities instead.
const fn with_caps(info: Info, caps: Caps) -> Info {
    Info { caps, immediate_bits: if caps.has(Caps::IMMEDIATE) { 64 } else { 0 }, ..info }
}

/// What the port can do, now that it is known whether the endpoint takes back and has atomics. Of type MSG there is none yet to ask.
fn caps_of(offer: &Offer, config: &OfiConfig, active: Option<&Active>) -> Caps {
    let faults = offer::faults(&offer.provider());
    let mut caps = offer::caps(offer, config.endpoint_type);
    if faults.loses_immediate && !config.accept_faults {
        caps = caps.without(Caps::IMMEDIATE);
    }
    if config.waits {
        caps = caps.with(Caps::DESCRIPTOR);
    }
    // What takes nothing back says so of nothing, too.
    let refuses =
        |active: &Active| matches!(active.cancel(0), Err(libc::ENOSYS | libc::EOPNOTSUPP));
    if !active.map_or(faults.keeps_receives, refuses) {
        caps = caps.with(Caps::CANCEL);
    }
    let trusted = faults.memory_guard == Guard::Checks || config.accept_faults;
    if config.one_sided && trusted && offer::has_memory(offer) {
        caps = caps.with(Caps::RMA).with(Caps::EXPOSE);
        if offer::has_atomics(offer) && active.is_none_or(Active::has_atomics) {
            caps = caps.with(Caps::ATOMIC);
        }
    }
    caps
}

/// Queue, address vector or events, and the memory of contexts.
fn bind(
    domain: &Rc<Domain>,
    (config, info): (&OfiConfig, &Info),
    operations: usize,
) -> Result<Bound, OfiError> {
    let tagged = info.caps.has(Caps::TAGGED);
    let connected = config.endpoint_type == EndpointType::Msg;
    // A connection has one peer.
    let names_senders = !connected && info.caps.has(Caps::SOURCE);
    let kind = (tagged, names_senders, config.waits);
    let completions = Completions::open(domain, operations + 16, kind)?;
    let (addresses, events) = if connected {
        (None, Some(Events::open(domain.fabric(), config.waits)?))
    } else {
        (Some(AddressVector::open(domain, wide(config.peers_max))?), None)
    };
    let spaces = Spaces::new(Contexts::spaces(operations));
    Ok(Bound { completions, addresses, events, spaces })
}
