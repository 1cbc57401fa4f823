//! What a port over RDMA stands on: a device, registered memory, a completion queue, and somebody who makes connections.
//!
//! ```text
//!   VerbsPlane::open    device, domain, completion queue, slots and arena; listens by librdmacm
//!      .port()          the port, placed in the arena
//!      .introduce()     where somebody listens
//!      .attend(&port)   between turns: makes the queue pairs that the port asks for, answers those who call, closes what is over
//! ```
//!
//! `attend` never waits. While connections begin or end it looks at every call, else once in a thousand calls, since a look is a system call. It
//! is the cold half of a port: what it makes is allocated, by this process and by the kernel. A thread that never calls it again keeps its
//! connections, and hears of a peer that is gone by the next send alone.

use core::cell::{Cell, RefCell};
use core::fmt;
use core::net::{IpAddr, SocketAddr};
use core::time::Duration;
use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::rc::Rc;

use spinwire_dataplane::error::{Misuse, PostError};
use spinwire_dataplane::id::Name;
use spinwire_dataplane::provider::EndpointType;
use spinwire_dataplane::provider::rdma::{
    self, Memory, PortOpenError, RdmaConfig, RdmaPort, Request, Unreachable,
};
use spinwire_dataplane::raw::place::Bump;

use super::cm::{CmChannel, CmEvent, CmNews, Link, Listener};
use super::device::{Device, PortState};
use super::error::VerbsError;
use super::event::{Event, EventKind, Told};
use super::gid::GidKind;
use super::pair::{PairConfig, PairKind};
use super::parting::{Held, Parting};
use super::queues::{Library, Queues, QueuesConfig};
use super::region::{Access, Arena, ProtectionDomain, Region};
use super::states::ConnectConfig;
use crate::mem::PageReport;
use crate::raw::verbs::Grants;
use crate::secret;

/// A port over a device, on queues that `Q` makes.
pub type VerbsPort<'p, Q = Library> =
    RdmaPort<'p, <Q as Queues>::Pair, &'p <Q as Queues>::Completions, Grants>;

/// Calls of `attend` for each look where nothing begins or ends.
pub(super) const LOOKS: u32 = 1024;

/// Events of connections that a call of `attend` hears, at most.
const EVENTS: u32 = 8;

/// What such a plane shall be like.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct VerbsPlaneConfig {
    /// How much the port holds.
    pub port: RdmaConfig,
    /// How its queue pairs talk to their peers.
    pub connect: ConnectConfig,
    /// The port of the device, from 1.
    pub device_port: u8,
    /// The entry of its table of addresses; the best one where `None`.
    pub gid_index: Option<u8>,
    /// Bytes that a queue pair shall take within a request.
    pub inline_bytes: u32,
    /// Who may wait to be answered.
    pub backlog: u32,
    /// Bytes of the arena beside what the port takes: for the endpoint's tables, and for buffers.
    pub arena_bytes: usize,
}

impl Default for VerbsPlaneConfig {
    fn default() -> Self {
        Self {
            port: RdmaConfig::default(),
            connect: ConnectConfig::default(),
            device_port: 1,
            gid_index: None,
            inline_bytes: 128,
            backlog: 16,
            arena_bytes: 4 << 20,
        }
    }
}

impl VerbsPlaneConfig {
    /// What its queue pairs take.
    const fn pair(&self, gid_index: u8) -> PairConfig {
        let limits = self.port.pair();
        PairConfig {
            send_depth: limits.send_depth,
            recv_depth: limits.recv_depth,
            sge_max: limits.sge_max,
            inline_bytes: self.inline_bytes,
            port: self.device_port,
            gid_index: Some(gid_index),
            access: Access::REMOTE,
            psn: None,
        }
    }
}

/// Why there is no such plane or port.
#[derive(Debug)]
pub enum VerbsPlaneError {
    /// The device, or what is made of it.
    Verbs(VerbsError),
    /// The port.
    Port(PortOpenError),
    /// A table of the port.
    Post(PostError),
}

impl fmt::Display for VerbsPlaneError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Verbs(e) => e.fmt(f),
            Self::Port(e) => e.fmt(f),
            Self::Post(e) => e.fmt(f),
        }
    }
}

impl core::error::Error for VerbsPlaneError {}

macro_rules! from {
    ($($error:ty => $variant:ident),+ $(,)?) => {
        $(impl From<$error> for VerbsPlaneError {
            fn from(e: $error) -> Self {
                Self::$variant(e)
            }
        })+
    };
}

from! { VerbsError => Verbs, PortOpenError => Port, PostError => Post }

/// How far a connection is.
#[derive(Debug)]
enum Stage<P> {
    /// The address, then the way is looked for.
    Looking,
    /// The other end was asked.
    Asked(P),
    /// It is the port's: the number of its queue pair.
    Handed(u32),
}

/// A connection.
#[derive(Debug)]
struct Row<P> {
    link: Held,
    stage: Stage<P>,
    /// What the port calls it.
    of_port: rdma::LinkId,
    /// Where it leads, and how often the address is still asked for: only of those that this end begins.
    to: Option<(SocketAddr, u32)>,
}

/// How often an address is asked for, and for how long each time.
const TRIES: u32 = 5;
const TRY_LIMIT: Duration = Duration::from_secs(1);

/// What a port over RDMA stands on. Belongs to the thread that opened it.
#[derive(Debug)]
pub struct VerbsPlane<Q: Queues = Library> {
    rows: RefCell<Vec<Row<Q::Pair>>>,
    routes: RefCell<Vec<(Name, SocketAddr)>>,
    listener: Option<Listener>,
    /// Tells that the device was taken away, where nobody listens and nobody is connected.
    _watch: Link,
    channel: CmChannel,
    slots: Region,
    cq: Rc<Q::Completions>,
    domain: ProtectionDomain,
    address: IpAddr,
    config: VerbsPlaneConfig,
    arena: Arena,
    idle: Cell<u32>,
    has_port: Cell<bool>,
    is_removed: Cell<bool>,
    parting: Rc<Parting>,
    told: Told,
}

/// The address that librdmacm knows a port by, and which entry of the port's table it is.
fn address_of(device: &Device, config: &VerbsPlaneConfig) -> Result<(IpAddr, u8), VerbsError> {
    let entry = device.gid(config.device_port, config.gid_index)?;
    if entry.kind != GidKind::RoceV2 || entry.gid.is_link_local() {
        return Err(VerbsError::NoGid {
            device: device.name().to_owned(),
            port: config.device_port,
            wanted: "routable RoCE v2".to_owned(),
        });
    }
    Ok((entry.gid.address(), entry.index))
}

/// Where connections are made, at an address: the channel, who listens, and who is told of the device.
fn meeting(
    (address, listen): (IpAddr, Option<u16>),
    backlog: u32,
) -> Result<(CmChannel, Option<Listener>, Link), VerbsError> {
    let channel = CmChannel::open()?;
    let at = |port| SocketAddr::new(address, port);
    let listener = listen.map(|port| channel.listen(at(port), backlog)).transpose()?;
    let watch = channel.watch(address)?;
    Ok((channel, listener, watch))
}

fn is_down(device: &Device, port: u8) -> Result<bool, VerbsError> {
    Ok(device.port(port)?.state == PortState::Down)
}

impl VerbsPlane {
    /// Opens a device for one port, and where `listen` says so listens at that port number of librdmacm, on the device's own address; 0 takes
    /// a free one.
    ///
    /// # Errors
    /// [`VerbsPlaneError`] says what could not be had, and the remedy.
    pub fn open(
        device: &str,
        listen: Option<u16>,
        config: &VerbsPlaneConfig,
    ) -> Result<Self, VerbsPlaneError> {
        Self::open_with(device, listen, config)
    }
}

impl<Q: Queues> VerbsPlane<Q> {
    /// The same, on queues that `Q` makes.
    ///
    /// # Errors
    /// As of [`VerbsPlane::open`], and what the device lacks for such queues.
    pub fn open_with(
        device: &str,
        listen: Option<u16>,
        config: &VerbsPlaneConfig,
    ) -> Result<Self, VerbsPlaneError> {
        let device = Device::open(device)?;
        Q::suits(&device)?;
        device.events_without_waiting()?;
        let (address, gid_index) = address_of(&device, config)?;
        config.connect.check(PairKind::Rc, &device.bounds(config.device_port)?)?;
        let domain = ProtectionDomain::new(&device)?;
        let pairs = config.port.links;
        let queues = QueuesConfig { pairs, kind: PairKind::Rc, pair: config.pair(gid_index) };
        let cq = Q::completions(&domain, &queues)?;
        let bytes = usize::try_from(config.port.memory_bytes()).unwrap_or(usize::MAX);
        let slots = domain.register(bytes, Access::LOCAL)?;
        let (channel, listener, watch) = meeting((address, listen), config.backlog)?;
        let bytes = config.port.arena_bytes().saturating_add(config.arena_bytes);
        let arena = domain.register_arena(bytes)?;
        let (rows, routes) = (RefCell::default(), RefCell::default());
        // Queue pairs are made between turns: none of them looks for the address again.
        let mut config = VerbsPlaneConfig { gid_index: Some(gid_index), ..*config };
        config.port.atomics &= domain.device().attributes()?.atomic_cap != 0;
        config.port.descriptor = (*cq).as_ref().descriptor().is_some();
        let idle = Cell::new(0);
        let parting = Parting::new(is_down(&device, config.device_port)?);
        Ok(Self {
            rows,
            routes,
            listener,
            _watch: watch,
            channel,
            slots,
            cq,
            domain,
            address,
            config,
            arena,
            idle,
            has_port: Cell::new(false),
            is_removed: Cell::new(false),
            parting,
            told: Told::default(),
        })
    }

    /// The address of its device.
    #[must_use]
    pub const fn address(&self) -> IpAddr {
        self.address
    }

    /// Where it listens.
    #[must_use]
    pub fn local(&self) -> Option<SocketAddr> {
        self.listener.as_ref().and_then(Listener::local_addr)
    }

    /// Its device.
    #[must_use]
    pub fn device(&self) -> &Device {
        self.domain.device()
    }

    /// The pages of the slots.
    #[must_use]
    pub fn slots_report(&self) -> &PageReport {
        self.slots.report()
    }

    /// The arena that the port and its endpoint are placed in. Buffers in it are sent from where they lie. Once; `None` afterwards.
    #[must_use]
    pub fn arena(&self) -> Option<Bump<'_>> {
        self.arena.bump()
    }

    /// The port, placed in `bump`. Once, since its slots and its completion queue are those of the plane.
    ///
    /// # Errors
    /// [`VerbsPlaneError::Port`]; [`VerbsPlaneError::Post`] with `Misuse` where there was one already.
    pub fn port<'p>(
        &'p self,
        bump: &Bump<'p>,
        who: (&Name, EndpointType),
    ) -> Result<VerbsPort<'p, Q>, VerbsPlaneError> {
        if self.has_port.get() {
            return Err(PostError::from(Misuse::Unsupported).into());
        }
        let key = self.slots.local_key();
        let (lines, address) = (self.slots.lines(), self.slots.address());
        let memory = Memory { lines, address, key, loans: Some(self.arena.loans::<Q>()) };
        let below = (&*self.cq, self.domain.grants());
        let mut config = self.config.port;
        if !config.secret.is_some() {
            config.secret = secret::fresh();
        }
        let port = RdmaPort::place_with(bump, who, &config, below, memory)?;
        self.has_port.set(true);
        Ok(port)
    }

    /// Says where the endpoint of that name listens.
    ///
    /// # Errors
    /// [`VerbsPlaneError::Post`] where the port's table of routes is full.
    pub fn introduce(
        &self,
        port: &VerbsPort<'_, Q>,
        name: &Name,
        at: SocketAddr,
    ) -> Result<(), VerbsPlaneError> {
        port.set_route(name)?;
        let mut routes = self.routes.borrow_mut();
        routes.retain(|(known, _)| known != name);
        routes.push((*name, at));
        Ok(())
    }

    /// Connections that were handed to the port and not yet closed.
    #[must_use]
    pub fn connections(&self) -> usize {
        self.rows.borrow().iter().filter(|row| matches!(row.stage, Stage::Handed(_))).count()
    }

    /// Does what the port wants of its host, and answers those who call. To be called between turns.
    ///
    /// # Errors
    /// What the library says of the channel itself; what a single connection comes to, the port is told.
    pub fn attend(&self, port: &VerbsPort<'_, Q>) -> Result<(), VerbsPlaneError> {
        let mut has_moved = false;
        while let Some(request) = port.next_request() {
            if !has_moved {
                // Whether its port is up is to be known before anybody is told of anything.
                self.hear_device(port)?;
            }
            has_moved = true;
            match request {
                Request::Connect { link, to } => self.begin(port, link, &to),
                Request::Close { link, pair } => self.close(port, link, pair),
            }
        }
        // Nobody says that a connection is not wanted any more: its time was up, or its peer was given up.
        self.rows
            .borrow_mut()
            .retain(|row| matches!(row.stage, Stage::Handed(_)) || port.wants(row.of_port));
        let is_quiet = !has_moved && self.connections() == self.rows.borrow().len();
        let looks = self.idle.get().wrapping_add(1);
        if is_quiet && looks < LOOKS && self.listener.is_none() | (self.connections() > 0) {
            self.idle.set(looks);
            return Ok(());
        }
        self.idle.set(0);
        self.hear_device(port)?;
        for _ in 0..EVENTS {
            let Some(event) = self.channel.next_event()? else { return Ok(()) };
            self.hear(port, event);
        }
        // There may be more: the next call looks again.
        self.idle.set(LOOKS);
        Ok(())
    }

    /// What can be read from when something completes, when the device tells something, and when a connection does; `None` where completions are not
    /// told. To be slept on after [`arm`](Self::arm) and a turn that found nothing.
    pub(crate) fn descriptors(&self) -> Option<[RawFd; 3]> {
        let completions = (*self.cq).as_ref().descriptor()?;
        let (device, channel) = (self.device().as_fd(), self.channel.as_fd());
        Some([completions, device, channel].map(|fd| fd.as_raw_fd()))
    }

    /// The next completion is told, and the next call of [`attend`](Self::attend) looks at everything. Whether that can be had.
    pub(crate) fn arm(&self) -> bool {
        self.idle.set(LOOKS);
        (*self.cq).as_ref().arm().is_ok()
    }

    fn hear_device(&self, port: &VerbsPort<'_, Q>) -> Result<(), VerbsError> {
        while let Some(event) = self.device().next_event()? {
            self.note(port, event);
        }
        Ok(())
    }

    /// Takes note of an event of its device, and keeps it for [`next_event`](VerbsPlane::next_event): where a queue pair has failed, its connection is over, and where the
    /// device or the completion queue has, all are. What was posted completes, with an error where it has not. `attend` does this with all events that it finds; it is here
    /// for who reads those of the device himself.
    pub fn note(&self, port: &VerbsPort<'_, Q>, event: Event) {
        (*self.cq).as_ref().note(event);
        self.told.keep(event);
        let is_own = event.about == u32::from(self.config.device_port);
        if event.kind == EventKind::PortDown && is_own {
            self.parting.set_down(true);
        } else if event.kind == EventKind::PortActive && is_own {
            self.parting.set_down(false);
        } else if event.kind == EventKind::DeviceFatal {
            self.parting.set_removed();
        }
        // A device may tell of a failed pair in this way alone.
        if matches!(
            event.kind,
            EventKind::PairFatal | EventKind::PairRequest | EventKind::PairAccess
        ) {
            let rows = self.rows.borrow();
            let is_it = |row: &&Row<Q::Pair>| matches!(row.stage, Stage::Handed(number) if number == event.about);
            if let Some(row) = rows.iter().find(is_it) {
                port.lost(row.of_port);
            }
        }
    }

    /// What the device has told out of turn, the oldest first: of what nobody asks for, the last sixteen are kept. That it was taken away
    /// is [`EventKind::DeviceFatal`], and the kernel waits then until all that was opened on it is dropped.
    pub fn next_event(&self) -> Option<Event> {
        self.told.next()
    }

    /// Looks for the way to a peer. While the port of the device is down there is none.
    fn begin(&self, port: &VerbsPort<'_, Q>, of_port: rdma::LinkId, to: &Name) {
        let is_up = !self.parting.is_down();
        let at = self.routes.borrow().iter().find(|(name, _)| name == to).map(|(_, at)| *at);
        let link = at.filter(|_| is_up).and_then(|at| {
            let link = self.channel.resolve(Some(self.address), at, TRY_LIMIT).ok()?;
            Some((Held::new(link, &self.parting), at))
        });
        match link {
            Some((link, at)) => {
                let to = Some((at, TRIES));
                self.rows.borrow_mut().push(Row { link, stage: Stage::Looking, of_port, to });
            }
            None => port.not_connected(of_port, Unreachable::Gone),
        }
    }

    /// Destroys a queue pair. One that cannot be destroyed keeps its slots for good.
    fn close(&self, port: &VerbsPort<'_, Q>, of_port: rdma::LinkId, pair: Q::Pair) {
        let destroyed = Q::destroy(pair);
        // The other end hears of it now.
        self.rows.borrow_mut().retain(|row| row.of_port != of_port);
        if let Ok(proof) = destroyed {
            let believed = port.destroyed(of_port, proof);
            debug_assert!(believed.is_ok(), "it is the pair that the port has handed out");
        }
    }

    fn pair(&self) -> Result<Q::Pair, VerbsError> {
        // The address was looked for when it was opened.
        let index = self.config.gid_index.unwrap_or_default();
        Q::pair(&self.domain, PairKind::Rc, &self.cq, &self.config.pair(index))
    }

    fn hear(&self, port: &VerbsPort<'_, Q>, event: CmEvent) {
        if let Some(link) = event.link {
            self.answer(port, link);
            return;
        }
        // Each id on it is told.
        if event.news == CmNews::DeviceRemoved && !self.is_removed.replace(true) {
            self.note(port, Event { kind: EventKind::DeviceFatal, about: 0 });
        }
        let mut rows = self.rows.borrow_mut();
        let Some(at) = rows.iter().position(|row| row.link.id() == event.about) else { return };
        let row = rows.swap_remove(at);
        match self.step(port, row, event.news) {
            Ok(row) => rows.push(row),
            Err((of_port, why)) => port.not_connected(of_port, why),
        }
    }

    /// What a connection that has that news becomes; or it is none.
    fn step(
        &self,
        port: &VerbsPort<'_, Q>,
        mut row: Row<Q::Pair>,
        news: CmNews,
    ) -> Result<Row<Q::Pair>, (rdma::LinkId, Unreachable)> {
        let of_port = row.of_port;
        let gone = |_why: VerbsError| (of_port, Unreachable::Gone);
        row.stage = match (row.stage, news) {
            (Stage::Looking, CmNews::AddressResolved) => {
                row.link.route(TRY_LIMIT).map_err(gone)?;
                Stage::Looking
            }
            (Stage::Looking, CmNews::RouteResolved) => {
                let pair = self.pair().map_err(gone)?;
                row.link.connect(pair.as_ref(), &self.config.connect, &[]).map_err(gone)?;
                Stage::Asked(pair)
            }
            (Stage::Looking, CmNews::Failed(libc::ETIMEDOUT)) => {
                let (at, tries) = row.to.unwrap_or((SocketAddr::new(self.address, 0), 0));
                let tries = tries.checked_sub(1).ok_or((of_port, Unreachable::Gone))?;
                let from = Some(self.address);
                let link = self.channel.resolve(from, at, TRY_LIMIT).map_err(gone)?;
                row.link = Held::new(link, &self.parting);
                row.to = Some((at, tries));
                Stage::Looking
            }
            (Stage::Asked(pair), CmNews::Answered) => {
                row.link.establish(pair.as_ref(), &self.config.connect).map_err(gone)?;
                let number = pair.as_ref().card().qp_num;
                // Where it is not wanted any more, it is dropped with its link.
                port.connected(of_port, pair).map_err(|_back| (of_port, Unreachable::Gone))?;
                Stage::Handed(number)
            }
            (Stage::Asked(_), CmNews::Rejected(_)) => {
                return Err((of_port, Unreachable::Refused));
            }
            // It has ended, or one that was answered here has not come to be: who has called is gone.
            (
                Stage::Handed(number),
                CmNews::Disconnected
                | CmNews::DeviceRemoved
                | CmNews::Rejected(_)
                | CmNews::Failed(_),
            ) => {
                port.lost(of_port);
                Stage::Handed(number)
            }
            (Stage::Looking | Stage::Asked(_), _) => return Err((of_port, Unreachable::Gone)),
            (Stage::Handed(number), _) => Stage::Handed(number),
        };
        Ok(row)
    }

    /// Somebody calls. The port's receives are posted before the caller may send.
    fn answer(&self, port: &VerbsPort<'_, Q>, link: Link) {
        let (how, link) = (&self.config.connect, Held::new(link, &self.parting));
        let made = self.pair().and_then(|pair| link.prepare(pair.as_ref(), how).map(|()| pair));
        let Ok(pair) = made else { return };
        // The pair is the port's once it has accepted it, so it goes through its states before. Nobody sends yet.
        let number = pair.as_ref().card().qp_num;
        let Ok(params) = link.ready(pair.as_ref(), how, &[]) else { return };
        let Ok(of_port) = port.accept(pair) else { return };
        if link.welcome(&params).is_err() {
            // Who has called is gone. The link goes here, and the pair when the port hands it out.
            port.lost(of_port);
            return;
        }
        self.rows.borrow_mut().push(Row { link, stage: Stage::Handed(number), of_port, to: None });
    }
}
