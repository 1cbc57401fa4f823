//! What a port for datagrams stands on: a device, registered memory, one queue pair, and the address handles of whoever it sends to.
//!
//! ```text
//!   VerbsDatagrams::open    device, domain, completion queue, slots, queue pair (UD); tells its card over TCP to whoever asks
//!      .port()              the port
//!      .introduce()         asks for the card of somebody who listens: blocks
//!      .attend(&port)       between turns: answers those who ask, makes handles for those who were heard first
//! ```
//!
//! A card is one line of text ([`Card`]). The number of a queue pair is found in it, and its address; who has sent a datagram is told by that itself, so
//! only whoever speaks first needs the card of the other.
//!
//! What makes the queues is `Q`, as of a [`VerbsPlane`](super::VerbsPlane).
//!
//! A handle wants the neighbour's place on the network, which the kernel may have to ask for. For those who were heard `attend` has it [ask](super::neighbours) and goes on; `introduce` and
//! `know` wait.
//!
//! Handles are shared by all queue pairs of one address, and given back when nobody is left who needs them and nothing is under way.

use core::cell::{Cell, RefCell};
use core::net::{IpAddr, SocketAddr};
use core::time::Duration;
use std::io::{ErrorKind, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::rc::Rc;

use spinwire_dataplane::error::{Misuse, PostError};
use spinwire_dataplane::id::{Addr, Name};
use spinwire_dataplane::provider::rdma::{
    Gid as RawGid, Mailbox, Memory, RdmaDatagrams, RdmaDatagramsConfig,
};
use spinwire_dataplane::raw::place::Bump;
use spinwire_dataplane::verbs::Destination;

use super::connect::{Card, ConnectError, read_card};
use super::device::Device;
use super::error::VerbsError;
use super::event::{Event, EventKind, Told};
use super::gid::{Gid, GidKind};
use super::neighbours::{Neighbours, News};
use super::pair::{PairConfig, PairKind};
use super::plane::{LOOKS, VerbsPlaneError};
use super::queues::{Library, Queues, QueuesConfig};
use super::region::{Access, ProtectionDomain, Region};
use super::states::{AddressOf, ConnectConfig, QKEY_DEFAULT};
use crate::error::Errno;
use crate::mem::PageReport;

/// A port for datagrams over a device, on queues that `Q` makes.
pub type VerbsDatagramPort<'p, Q = Library> =
    RdmaDatagrams<'p, &'p <Q as Queues>::Pair, &'p <Q as Queues>::Completions>;

/// Those who ask for the card that a call of `attend` answers, at most.
const CALLS: u32 = 8;

/// How long whoever is asked for its card may take.
const PATIENCE: Duration = Duration::from_secs(2);

/// What such a plane shall be like.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct VerbsDatagramsConfig {
    /// How much the port holds.
    pub port: RdmaDatagramsConfig,
    /// How its datagrams travel.
    pub how: ConnectConfig,
    /// The key of datagrams: the same at all ends.
    pub qkey: u32,
    /// The port of the device, from 1.
    pub device_port: u8,
    /// The entry of its table of addresses; the best one where `None`.
    pub gid_index: Option<u8>,
    /// Bytes that the queue pair shall take within a request.
    pub inline_bytes: u32,
}

impl Default for VerbsDatagramsConfig {
    fn default() -> Self {
        Self {
            port: RdmaDatagramsConfig::default(),
            how: ConnectConfig::default(),
            qkey: QKEY_DEFAULT,
            device_port: 1,
            gid_index: None,
            inline_bytes: 128,
        }
    }
}

/// A handle, and whom it leads to.
#[derive(Clone, Copy, Debug)]
struct Way {
    gid: Gid,
    handle: u32,
    /// Nobody needs it: what has to be over before it is given back.
    spare_since: Option<u32>,
}

/// What a port for datagrams stands on. Belongs to the thread that opened it.
#[derive(Debug)]
pub struct VerbsDatagrams<Q: Queues = Library> {
    pair: Q::Pair,
    slots: Region,
    cq: Rc<Q::Completions>,
    ways: RefCell<Vec<Way>>,
    /// Who is to be answered when the kernel has found the way: its row, its address, its queue pair.
    waiting: RefCell<Vec<(Addr, Gid, u32)>>,
    neighbours: Result<Neighbours, VerbsError>,
    listener: Option<TcpListener>,
    config: VerbsDatagramsConfig,
    domain: ProtectionDomain,
    idle: Cell<u32>,
    has_port: Cell<bool>,
    told: Told,
}

impl VerbsDatagrams {
    /// Opens a device for one port, and where `listen` says so tells its card at that port number of TCP, on the device's own address; 0 takes a
    /// free one.
    ///
    /// # Errors
    /// [`VerbsPlaneError`] says what could not be had, and the remedy.
    pub fn open(
        device: &str,
        listen: Option<u16>,
        config: &VerbsDatagramsConfig,
    ) -> Result<Self, VerbsPlaneError> {
        Self::open_with(device, listen, config)
    }
}

impl<Q: Queues> VerbsDatagrams<Q> {
    /// The same, on queues that `Q` makes.
    ///
    /// # Errors
    /// As of [`VerbsDatagrams::open`], and what the device lacks for such queues.
    pub fn open_with(
        device: &str,
        listen: Option<u16>,
        config: &VerbsDatagramsConfig,
    ) -> Result<Self, VerbsPlaneError> {
        let device = Device::open(device)?;
        Q::suits(&device)?;
        device.events_without_waiting()?;
        let domain = ProtectionDomain::new(&device)?;
        let bytes = usize::try_from(config.port.memory_bytes()).unwrap_or(usize::MAX);
        let slots = domain.register(bytes, Access::LOCAL)?;
        let limits = config.port.pair();
        let of_pair = PairConfig {
            send_depth: limits.send_depth,
            recv_depth: limits.recv_depth,
            sge_max: limits.sge_max,
            inline_bytes: config.inline_bytes,
            port: config.device_port,
            gid_index: config.gid_index,
            access: Access::LOCAL,
            psn: None,
        };
        let queues = QueuesConfig { pairs: 1, kind: PairKind::Ud, pair: of_pair };
        let cq = Q::completions(&domain, &queues)?;
        let pair = Q::pair(&domain, PairKind::Ud, &cq, &of_pair)?;
        pair.as_ref().ready(config.qkey, &config.how)?;
        let own = pair.as_ref().card().gid.address();
        let listening = |port| {
            let listener = TcpListener::bind(SocketAddr::new(own, port))?;
            listener.set_nonblocking(true).map(|()| listener)
        };
        let listener = listen.map(listening).transpose();
        let listener =
            listener.map_err(|e| VerbsError::os("listen for those who ask", number(&e)))?;
        let mut config = *config;
        config.port.descriptor = (*cq).as_ref().descriptor().is_some();
        let neighbours = neighbours(&device, (config.device_port, pair.as_ref().gid_index));
        Ok(Self {
            pair,
            slots,
            cq,
            ways: RefCell::default(),
            waiting: RefCell::default(),
            neighbours,
            listener,
            config,
            domain,
            idle: Cell::new(0),
            has_port: Cell::new(false),
            told: Told::default(),
        })
    }

    /// What others must know to send here.
    #[must_use]
    pub fn card(&self) -> &Card {
        self.pair.as_ref().card()
    }

    /// Where it tells that.
    #[must_use]
    pub fn local(&self) -> Option<SocketAddr> {
        self.listener.as_ref()?.local_addr().ok()
    }

    /// Its device.
    #[must_use]
    pub fn device(&self) -> &Device {
        self.domain.device()
    }

    /// The address of its device.
    #[must_use]
    pub fn address(&self) -> IpAddr {
        self.card().gid.address()
    }

    /// Whether `attend` finds those who were heard without waiting, and hears of it when the device is taken away. Else why not: there is no `rdma_ucm`, say.
    ///
    /// # Errors
    /// What has failed when the device was opened.
    pub fn finds_without_waiting(&self) -> Result<(), &VerbsError> {
        self.neighbours.as_ref().map(|_neighbours| ())
    }

    /// Neighbours that are looked for now.
    #[must_use]
    pub fn lookups(&self) -> usize {
        self.neighbours.as_ref().map_or(0, Neighbours::count)
    }

    /// The pages of the slots.
    #[must_use]
    pub fn slots_report(&self) -> &PageReport {
        self.slots.report()
    }

    /// Address handles that it has.
    #[must_use]
    pub fn handles(&self) -> usize {
        self.pair.as_ref().addresses()
    }

    /// The port, its tables placed in `bump`. Once, since the queue pair and its slots are those of the plane.
    ///
    /// # Errors
    /// [`VerbsPlaneError::Port`]; [`VerbsPlaneError::Post`] with `Misuse` where there was one already.
    pub fn port<'p>(
        &'p self,
        bump: &Bump<'p>,
    ) -> Result<VerbsDatagramPort<'p, Q>, VerbsPlaneError> {
        if self.has_port.replace(true) {
            return Err(PostError::from(Misuse::Unsupported).into());
        }
        let (lines, address) = (self.slots.lines(), self.slots.address());
        let memory = Memory { lines, address, key: self.slots.local_key(), loans: None };
        Ok(RdmaDatagrams::place(bump, &self.config.port, (&self.pair, &*self.cq), &memory)?)
    }

    /// Asks whoever tells its card at `at`, and says that the endpoint of that name is found there. Blocks, for two seconds at most.
    ///
    /// # Errors
    /// [`VerbsPlaneError::Verbs`] where nobody answers, or what answers tells no card; [`VerbsPlaneError::Post`] where the port's table of routes is full.
    pub fn introduce(
        &self,
        port: &VerbsDatagramPort<'_, Q>,
        name: &Name,
        at: SocketAddr,
    ) -> Result<(), VerbsPlaneError> {
        let asked = TcpStream::connect_timeout(&at, PATIENCE)
            .map_err(|e| VerbsError::os("ask for a card", number(&e)))?;
        let card = read_card(&asked, PATIENCE).map_err(|why| match why {
            ConnectError::Card(e) => VerbsError::Card(e),
            ConnectError::Io(_) => VerbsError::os("read a card", Errno::new(libc::EPROTO)),
        })?;
        self.know(port, name, &card)
    }

    /// Says that the endpoint of that name is found where the card says.
    ///
    /// # Errors
    /// As of [`introduce`](VerbsDatagrams::introduce), but for those of the asking.
    pub fn know(
        &self,
        port: &VerbsDatagramPort<'_, Q>,
        name: &Name,
        card: &Card,
    ) -> Result<(), VerbsPlaneError> {
        let handle = self.handle(port, card.gid)?;
        let to = Destination { handle, qp_num: card.qp_num, qkey: self.config.qkey };
        Ok(port.set_route(name, Mailbox { gid: card.gid.bytes(), to })?)
    }

    /// The handle of an address. Of those that nobody needs any more, some are given back for it.
    fn handle(&self, port: &VerbsDatagramPort<'_, Q>, gid: Gid) -> Result<u32, VerbsError> {
        let mut ways = self.ways.borrow_mut();
        if let Some(way) = ways.iter_mut().find(|way| way.gid == gid) {
            way.spare_since = None;
            return Ok(way.handle);
        }
        let to = AddressOf { gid, lid: 0 };
        let most = self.config.port.peers_max.saturating_add(self.config.port.routes_max);
        if ways.len() >= usize::try_from(most).unwrap_or(usize::MAX) {
            let (posted, over) = port.sends();
            for way in ways.iter_mut().filter(|way| !port.uses(way.handle)) {
                way.spare_since = way.spare_since.or(Some(posted));
            }
            // What was posted to it by then is over: numbers go round.
            let is_over =
                |way: &Way| way.spare_since.is_some_and(|at| over.wrapping_sub(at) < 1 << 31);
            ways.retain(|way| !(is_over(way) && Q::remove_address(&self.pair, way.handle)));
        }
        let handle = Q::add_address(&self.pair, to, &self.config.how)?;
        ways.push(Way { gid, handle, spare_since: None });
        Ok(handle)
    }

    /// Answers those who ask for the card, and makes handles for those who were heard first. To be called between turns. It looks
    /// for those who ask once in a thousand calls, since a look is a system call, and while a neighbour is looked for at each.
    ///
    /// It does not wait: where the kernel has to ask for a peer's place on the network (ARP), the peer can be answered some calls later, and one that is not found is asked for anew with its next
    /// datagram, and with the next send to it that is refused. Where that [cannot be had](VerbsDatagrams::finds_without_waiting), libibverbs asks, and waits up to seconds for each neighbour that the kernel does not know,
    /// anew with each of its datagrams and with each send to it that is refused: `modprobe rdma_ucm` spares the thread that.
    ///
    /// # Errors
    /// What the library says of the device's events.
    pub fn attend(&self, port: &VerbsDatagramPort<'_, Q>) -> Result<(), VerbsPlaneError> {
        while let Some((peer, gid, qp_num)) = port.next_unresolved() {
            self.meet(port, (peer, raw(gid), qp_num));
        }
        let is_looking = self.lookups() > 0;
        let looks = self.idle.get().wrapping_add(1);
        self.idle.set(if looks < LOOKS { looks } else { 0 });
        if is_looking || looks >= LOOKS {
            self.look_around(port)?;
        }
        if looks < LOOKS {
            return Ok(());
        }
        while let Some(event) = self.device().next_event()? {
            self.note(event);
        }
        for _ in 0..CALLS {
            let Some(listener) = &self.listener else { break };
            match listener.accept() {
                Ok((asker, _)) => self.tell(&asker),
                Err(e) if e.kind() == ErrorKind::WouldBlock => break,
                // One that has gone by itself, say.
                Err(_gone) => {}
            }
        }
        Ok(())
    }

    /// What can be read from when something completes, when the device tells something, when a neighbour is found, and when somebody asks for the card; `None` where
    /// completions are not told. To be slept on after [`arm`](Self::arm) and a turn that found nothing.
    pub(crate) fn descriptors(&self) -> Option<impl Iterator<Item = RawFd>> {
        let completions = (*self.cq).as_ref().descriptor()?;
        let both = [completions, self.device().as_fd()].map(|fd| fd.as_raw_fd());
        let neighbours = self.neighbours.as_ref().ok().map(|all| all.as_fd().as_raw_fd());
        let listener = self.listener.as_ref().map(AsRawFd::as_raw_fd);
        Some(both.into_iter().chain(neighbours).chain(listener))
    }

    /// The next completion is told, and the next call of [`attend`](Self::attend) looks at everything. Whether that can be had.
    pub(crate) fn arm(&self) -> bool {
        self.idle.set(LOOKS);
        (*self.cq).as_ref().arm().is_ok()
    }

    /// Somebody was heard who cannot be answered yet.
    fn meet(&self, port: &VerbsDatagramPort<'_, Q>, who: (Addr, Gid, u32)) {
        let (peer, gid, _) = who;
        let is_known = self.ways.borrow().iter().any(|way| way.gid == gid);
        match &self.neighbours {
            Ok(neighbours) if !is_known => {
                let mut waiting = self.waiting.borrow_mut();
                // Where it is not looked for now, its next datagram asks again, and so does the next send to it.
                let most = usize::try_from(self.config.port.peers_max).unwrap_or(usize::MAX);
                let is_new = !waiting.iter().any(|(row, ..)| *row == peer);
                if neighbours.find(gid) && is_new && waiting.len() < most {
                    waiting.push(who);
                }
            }
            _ => self.answerable(port, who),
        }
    }

    /// From now on it can be answered; where there is no handle for it now, its next datagram asks again, and the next send to it.
    fn answerable(&self, port: &VerbsDatagramPort<'_, Q>, (peer, gid, qp_num): (Addr, Gid, u32)) {
        let Ok(handle) = self.handle(port, gid) else { return };
        let to = Destination { handle, qp_num, qkey: self.config.qkey };
        let _stale = port.resolve(peer, to);
    }

    /// Hears what the kernel has found.
    fn look_around(&self, port: &VerbsDatagramPort<'_, Q>) -> Result<(), VerbsError> {
        let Ok(neighbours) = &self.neighbours else { return Ok(()) };
        while let Some(news) = neighbours.next()? {
            let (gid, is_found) = match news {
                News::Found(gid) => (gid, true),
                News::Nowhere(gid) => (gid, false),
                News::Removed => {
                    self.note(Event { kind: EventKind::DeviceFatal, about: 0 });
                    continue;
                }
            };
            let mut waiting = self.waiting.borrow_mut();
            while let Some(at) = waiting.iter().position(|(_, of, _)| *of == gid) {
                let who = waiting.swap_remove(at);
                if is_found {
                    self.answerable(port, who);
                }
            }
        }
        Ok(())
    }

    /// Takes note of an event of its device, and keeps it for [`next_event`](VerbsDatagrams::next_event): where the device, the queue pair or the completion queue has
    /// failed, nothing goes any more. `attend` does this with all events that it finds; it is here for who reads those of the device himself.
    pub fn note(&self, event: Event) {
        let queue = self.cq.as_ref().as_ref();
        queue.note(event);
        if event.kind == EventKind::PairFatal && event.about == self.card().qp_num {
            queue.give_up();
        }
        self.told.keep(event);
    }

    /// What the device has told out of turn, the oldest first: of what nobody asks for, the last sixteen are kept.
    pub fn next_event(&self) -> Option<Event> {
        self.told.next()
    }

    /// Tells the card. It fits into the buffer of a new connection.
    fn tell(&self, mut asker: &TcpStream) {
        let line = format!("{}\n", self.card());
        let _gone = asker.set_nonblocking(true).and_then(|()| asker.write_all(line.as_bytes()));
    }
}

/// Who finds those who were heard, where addresses are those of IP.
fn neighbours(device: &Device, (port, index): (u8, u8)) -> Result<Neighbours, VerbsError> {
    let own = device.gid(port, Some(index))?;
    if own.kind == GidKind::RoceV2 && !own.gid.is_link_local() {
        return Neighbours::open(own.gid.address());
    }
    let (device, wanted) = (device.name().to_owned(), "routable RoCE v2".to_owned());
    Err(VerbsError::NoGid { device, port, wanted })
}

fn number(e: &std::io::Error) -> Errno {
    Errno::new(e.raw_os_error().unwrap_or(libc::EIO))
}

const fn raw(gid: RawGid) -> Gid {
    Gid::from_bytes(gid)
}
