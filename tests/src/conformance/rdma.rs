//! Ports over reliable connections of simulated devices. The rig is the host: it makes queue pairs, connects them, and destroys them.

use core::cell::{Cell, RefCell};
use std::collections::{BTreeMap, VecDeque};
use std::rc::{Rc, Weak};

use heapless::VecView;
use spinwire_dataplane::error::{Misuse, PostError};
use spinwire_dataplane::id::{Addr, Name, WrId};
use spinwire_dataplane::provider::rdma::{
    LinkId, Loans, Memory, RdmaConfig, RdmaPort, Registrar, Request, Unreachable,
};
use spinwire_dataplane::provider::{
    Access, CancelError, Cqe, EndpointType, Event, ExposeWr, Info, KeepsPosted, OneSidedWr,
    Provider, Published, RecvWr, RemoteRegion, Select, SendWr, Sge, Sight, Source, Waiting,
};
use spinwire_dataplane::raw::line::Line;
use spinwire_dataplane::raw::place::Bump;
use spinwire_dataplane::raw::region::Destroyed;
use spinwire_dataplane::time::Instant;
use spinwire_dataplane::verbs::{Limits, QueuePair, RecvRequest, SendRequest};

use super::{Rig, Sizes};
use crate::sim::fabric::{Fabric, Links, SimCq, SimQp};

/// Ports over simulated reliable connections. `UNCOPIED`: longer messages go from where they lie.
#[derive(Debug)]
pub struct Rdma<const UNCOPIED: bool>;

type Port<'m> = RdmaPort<'m, Pair<'m>, SimCq<'m>, Keys<'m>>;

/// A queue pair that is destroyed when it is dropped, as those of libraries are: what is under way then is lost.
#[derive(Debug)]
pub struct Pair<'m> {
    fabric: &'m Fabric,
    inner: SimQp<'m>,
}

impl QueuePair for Pair<'_> {
    type Key = u32;

    fn limits(&self) -> Limits {
        self.inner.limits()
    }
    fn qp_num(&self) -> u32 {
        self.inner.qp_num()
    }
    fn post_send(&self, send: &SendRequest<'_, u32>) -> Result<(), PostError> {
        self.inner.post_send(send)
    }
    fn post_recv(&self, recv: &RecvRequest<'_, u32>) -> Result<(), PostError> {
        self.inner.post_recv(recv)
    }
    fn ring_doorbell(&self) -> Published {
        self.inner.ring_doorbell()
    }
    fn ring_recv_doorbell(&self) -> Published {
        self.inner.ring_recv_doorbell()
    }
}

impl Drop for Pair<'_> {
    fn drop(&mut self) {
        self.fabric.destroy(&self.inner);
    }
}

/// Registers memory of a host, where anything is registered at all.
#[derive(Debug)]
pub struct Keys<'m> {
    fabric: &'m Fabric,
    host: usize,
    next: Cell<u32>,
}

#[expect(unsafe_code, reason = "a promise about simulated devices")]
// SAFETY: the network lets in whom it is told to, and settles what is under way when a range is taken back.
unsafe impl Registrar for Keys<'_> {
    fn register(&self, memory: &Sge, access: Access) -> Result<u32, PostError> {
        let key = self.next.get();
        self.next.set(key + 5);
        let start = u64::try_from(memory.bytes().as_ptr().expose_provenance()).unwrap();
        let bytes = u64::try_from(memory.length()).unwrap();
        self.fabric.register(self.host, key, (start, bytes), access);
        Ok(key)
    }

    fn unregister(&self, key: u32) -> bool {
        self.fabric.unregister(self.host, key)
    }
}

/// One end of a connection, and where the other one is.
#[derive(Debug)]
struct End<'m> {
    link: LinkId,
    pair: SimQp<'m>,
    other: (Weak<Station<'m>>, LinkId),
    /// How often the host has found it dead.
    looks: Cell<u32>,
}

/// A port, and what its host knows of it.
#[derive(Debug)]
struct Station<'m> {
    port: Port<'m>,
    host: usize,
    is_dead: Cell<bool>,
    /// Who has connected to here and was not accepted yet.
    calls: RefCell<VecDeque<(Weak<Self>, LinkId)>>,
    ends: RefCell<Vec<End<'m>>>,
}

/// The network, and who is there.
#[derive(Debug)]
pub struct RdmaGround<'m> {
    fabric: Fabric,
    listed: RefCell<BTreeMap<String, Rc<Station<'m>>>>,
    /// Nanoseconds that pass with each poll; `None`: until nothing happens any more.
    pace_ns: Cell<Option<u64>>,
}

/// A host notices after so many polls that a connection is dead, whatever its device says.
const HOST_LOOKS: u32 = 2000;

const PAIR: Limits = Limits {
    send_depth: 1024,
    recv_depth: 1024,
    sge_max: 4,
    message_bytes_max: 1 << 20,
    inline_bytes_max: 0,
};

/// The key of the slots, and that of the loans.
const KEYS: [u32; 2] = [0x51, 0x10];

impl<'m> RdmaGround<'m> {
    /// The network.
    #[must_use]
    pub const fn fabric(&self) -> &Fabric {
        &self.fabric
    }

    /// From now on so much time passes with each poll.
    pub fn set_pace(&self, ns: Option<u64>) {
        self.pace_ns.set(ns);
    }

    /// Lets everything that is under way happen, or so much as there is time for.
    fn settle(&self) {
        if let Some(pace) = self.pace_ns.get() {
            let end = self.fabric.now() + pace;
            while self.fabric.now() < end {
                self.fabric.advance(end - self.fabric.now());
            }
            return;
        }
        for _ in 0..10_000 {
            if !self.fabric.advance(3_000) {
                return;
            }
        }
        panic!("the network does not come to rest");
    }

    /// Does what the port of a station wants of its host.
    #[expect(unsafe_code, reason = "the host says that a queue pair is no more")]
    fn serve(&'m self, station: &Rc<Station<'m>>) {
        while let Some(request) = station.port.next_request() {
            match request {
                Request::Connect { link, to } => match self.listed.borrow().get(to.as_str()) {
                    Some(there) => {
                        there.calls.borrow_mut().push_back((Rc::downgrade(station), link));
                    }
                    None => station.port.not_connected(link, Unreachable::Refused),
                },
                Request::Close { link, pair } => {
                    drop(pair);
                    station.ends.borrow_mut().retain(|end| end.link != link);
                    // SAFETY: it was destroyed just now.
                    station.port.destroyed(link, unsafe { Destroyed::promise() });
                }
            }
        }
        for end in station.ends.borrow().iter().filter(|end| self.fabric.is_dead(&end.pair)) {
            end.looks.set(end.looks.get() + 1);
            if end.looks.get() == HOST_LOOKS {
                station.port.lost(end.link);
            }
        }
        while let Some((caller, link)) = station.calls.borrow_mut().pop_front() {
            let Some(there) = caller.upgrade().filter(|there| !there.is_dead.get()) else {
                continue;
            };
            let ends = [(there.host, 0), (station.host, 0)];
            let (theirs, ours) = self.fabric.connect_hosts(ends, PAIR);
            let pair = |inner| Pair { fabric: &self.fabric, inner };
            let Ok(accepted) = station.port.accept(pair(ours)) else {
                there.port.not_connected(link, Unreachable::Refused);
                continue;
            };
            let other = (caller, link);
            station.ends.borrow_mut().push(End {
                link: accepted,
                pair: ours,
                other,
                looks: Cell::new(0),
            });
            if there.port.connected(link, pair(theirs)).is_err() {
                station.port.lost(accepted);
                continue;
            }
            let other = (Rc::downgrade(station), accepted);
            there.ends.borrow_mut().push(End { link, pair: theirs, other, looks: Cell::new(0) });
        }
    }

    /// What the kernels do when a process ends: its queue pairs go, and so do the connections by which the hosts have met.
    fn end(&self, ends: Vec<End<'m>>, calls: VecDeque<(Weak<Station<'m>>, LinkId)>) {
        for end in ends {
            self.fabric.destroy(&end.pair);
            if let Some(there) = end.other.0.upgrade() {
                there.port.lost(end.other.1);
            }
        }
        for (caller, link) in calls {
            if let Some(there) = caller.upgrade() {
                there.port.not_connected(link, Unreachable::Gone);
            }
        }
    }
}

/// A port that has its host served as it is polled.
#[derive(Debug)]
pub struct HostedPort<'m> {
    station: Option<Rc<Station<'m>>>,
    name: Name,
    ground: &'m RdmaGround<'m>,
}

impl<'m> HostedPort<'m> {
    const fn station(&self) -> &Rc<Station<'m>> {
        self.station.as_ref().expect("until it is dropped")
    }

    /// The port itself.
    #[must_use]
    pub fn rdma(&self) -> &Port<'m> {
        &self.station().port
    }
}

#[expect(unsafe_code, reason = "a promise, which its port keeps")]
// SAFETY: it hands everything on to its port, which goes with it, or is never turned again.
unsafe impl KeepsPosted for HostedPort<'_> {}

impl Provider for HostedPort<'_> {
    fn info(&self) -> &Info {
        self.rdma().info()
    }
    fn connect(&self, name: &Name) -> Result<Addr, PostError> {
        if self.ground.listed.borrow().contains_key(name.as_str()) {
            self.rdma().set_route(name).unwrap();
        } else {
            self.rdma().forget_route(name);
        }
        self.rdma().connect(name)
    }
    fn disconnect(&self, addr: Addr) -> Result<(), Misuse> {
        self.rdma().disconnect(addr)
    }
    fn post_send(&self, wr: &SendWr<'_>) -> Result<(), PostError> {
        self.rdma().post_send(wr)
    }
    fn post_recv(&self, wr: &RecvWr) -> Result<(), PostError> {
        self.rdma().post_recv(wr)
    }
    fn post_one_sided(&self, wr: &OneSidedWr) -> Result<(), PostError> {
        self.rdma().post_one_sided(wr)
    }
    fn expose(&self, wr: &ExposeWr) -> Result<RemoteRegion, PostError> {
        self.rdma().expose(wr)
    }
    fn withdraw(&self, wr_id: WrId) -> Result<(), CancelError> {
        self.rdma().withdraw(wr_id)
    }
    fn ring_doorbell(&self) -> Published {
        self.rdma().ring_doorbell()
    }
    fn poll_cq(&self, now: Instant, out: &mut VecView<Cqe>) {
        self.ground.settle();
        self.ground.serve(self.station());
        self.rdma().poll_cq(now, out);
        self.ground.serve(self.station());
        assert_eq!(self.ground.fabric.violation(), None);
    }
    fn look(&self) -> Sight {
        self.rdma().look()
    }
    fn take_ready(&self) -> Option<Cqe> {
        self.rdma().take_ready()
    }
    fn poll_event(&self) -> Option<Event> {
        self.rdma().poll_event()
    }
    fn cancel(&self, wr_id: WrId) -> Result<(), CancelError> {
        self.rdma().cancel(wr_id)
    }
    fn peek(&self, from: Source, select: Select) -> Option<Waiting> {
        self.rdma().peek(from, select)
    }
    fn poll_at(&self) -> Option<Instant> {
        self.rdma().poll_at()
    }
}

impl Drop for HostedPort<'_> {
    fn drop(&mut self) {
        let listed = self.ground.listed.borrow_mut().remove(self.name.as_str());
        drop(listed);
        let Some(station) = self.station.take() else { return };
        station.is_dead.set(true);
        let (ends, calls) = (station.ends.take(), station.calls.take());
        // Its queue pairs are destroyed.
        drop(Rc::into_inner(station).expect("nobody else has it"));
        self.ground.end(ends, calls);
    }
}

fn config_of(endpoint_type: EndpointType, sizes: &Sizes, is_uncopied: bool) -> RdmaConfig {
    RdmaConfig {
        peers_max: sizes.peers_max,
        links: if endpoint_type == EndpointType::Msg { 4 } else { sizes.peers_max + 4 },
        send_depth: sizes.send_depth,
        matching: sizes.matching(),
        message_bytes_max: sizes.message_bytes_max,
        slots: sizes.link_depth,
        slot_bytes: 1024,
        uncopied_bytes_min: if is_uncopied { 300 } else { u32::MAX },
        routes_max: sizes.endpoints + 4,
        ..RdmaConfig::default()
    }
}

impl<const UNCOPIED: bool> Rig for Rdma<UNCOPIED> {
    type Ground<'m> = RdmaGround<'m>;
    type Port<'m> = HostedPort<'m>;
    const TYPES: &'static [EndpointType] = &[EndpointType::Msg, EndpointType::Rdm];
    const SPILLS: bool = false;
    const MEETS: bool = true;
    const FENCES: bool = false;
    const REFUSALS_END: bool = true;

    fn lay<'m>(_lines: &'m [Line], _bump: &Bump<'m>, _sizes: &Sizes) -> RdmaGround<'m> {
        RdmaGround {
            fabric: Fabric::new(1, 0, Links::QUIET, 1),
            listed: RefCell::default(),
            pace_ns: Cell::new(None),
        }
    }

    #[expect(unsafe_code, reason = "the rig says what is registered")]
    fn open<'m>(
        ground: &'m RdmaGround<'m>,
        bump: &Bump<'m>,
        (name, endpoint_type): (&Name, EndpointType),
        sizes: &Sizes,
    ) -> Result<HostedPort<'m>, String> {
        if ground.listed.borrow().contains_key(name.as_str()) {
            return Err("the name is taken".into());
        }
        if ground.listed.borrow().len() == usize::try_from(sizes.endpoints).unwrap() {
            return Err("there are too many".into());
        }
        let config = config_of(endpoint_type, sizes, UNCOPIED);
        let bytes = usize::try_from(config.memory_bytes()).unwrap();
        let lines: &'m [Line] = bump.slice_with(bytes.div_ceil(64), |_| Line::zeroed()).unwrap();
        let host = ground.fabric.add_host();
        let address = u64::try_from(lines.as_ptr().expose_provenance()).unwrap();
        ground.fabric.register(host, KEYS[0], (address, config.memory_bytes()), Access::NONE);
        ground.fabric.register(host, KEYS[1], (0, u64::MAX), Access::NONE);
        // SAFETY: all memory of the world outlives its ports and the network. Simulated devices use what requests name until they have completed
        // them, or the queue pair was destroyed, as it is when it is dropped.
        let loans = unsafe { Loans::promise(0, u64::MAX, KEYS[1]) };
        let memory = Memory { lines, address, key: KEYS[0], loans: Some(loans) };
        let cq = ground.fabric.cq(host, 0, config.completions());
        let keys = Keys { fabric: &ground.fabric, host, next: Cell::new(0x1000) };
        let who = (name, endpoint_type);
        let port = RdmaPort::place_with(bump, who, &config, (cq, keys), memory)
            .map_err(|e| e.to_string())?;
        let station = Rc::new(Station {
            port,
            host,
            is_dead: Cell::new(false),
            calls: RefCell::default(),
            ends: RefCell::default(),
        });
        ground.listed.borrow_mut().insert(name.to_string(), Rc::clone(&station));
        Ok(HostedPort { station: Some(station), name: *name, ground })
    }

    fn has_met(port: &HostedPort<'_>, peer: Addr) -> bool {
        port.rdma().reach(peer) == Ok(true)
    }

    fn kill<'m>(ground: &'m RdmaGround<'m>, who: &Name) {
        let station =
            ground.listed.borrow_mut().remove(who.as_str()).expect("there is such a port");
        station.is_dead.set(true);
        ground.end(station.ends.take(), station.calls.take());
    }

    fn leftovers<'m>(ground: &'m RdmaGround<'m>) -> String {
        ground.listed.borrow().keys().cloned().collect::<Vec<_>>().join(", ")
    }
}
