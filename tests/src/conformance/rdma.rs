//! Ports over reliable connections of devices: simulated ones of verbs, queues of mlx5 over a model of the device, or real ones. The rig is the host: it has
//! queue pairs made, connected and destroyed.

use core::cell::{Cell, RefCell};
use core::fmt;
use core::marker::PhantomData;
use std::collections::{BTreeMap, VecDeque};
use std::rc::{Rc, Weak};

use heapless::VecView;
use spinwire_dataplane::error::{Misuse, PostError};
use spinwire_dataplane::id::{Addr, Name, WrId};
use spinwire_dataplane::provider::rdma::{
    LinkId, Memory, RdmaConfig, RdmaPort, Registrar, Request, Unreachable,
};
use spinwire_dataplane::provider::secret::Secret;
use spinwire_dataplane::provider::{
    CancelError, Cqe, EndpointType, Event, ExposeWr, Info, KeepsPosted, OneSidedWr, Provider,
    Published, RecvPartsWr, RecvWr, RemoteRegion, Select, SendPartsWr, SendWr, Sight, Source,
    Waiting,
};
use spinwire_dataplane::raw::line::Line;
use spinwire_dataplane::raw::loan::LoanPool;
use spinwire_dataplane::raw::place::Bump;
use spinwire_dataplane::raw::region::Destroyed;
use spinwire_dataplane::time::{Instant, Nanos};
use spinwire_dataplane::verbs::{CompletionQueue, PairId, QueuePair};

use super::{Rig, Sizes};

/// What the queue pairs of a rig run on: devices, and what is between them.
pub trait Network<'m>: Sized + 'm {
    /// A queue pair that is destroyed when it is dropped.
    type Pair: QueuePair;
    /// A completion queue.
    type Cq: CompletionQueue;
    /// Whoever lets peers into memory.
    type Keys: Registrar;

    /// Nobody is there yet.
    fn lay() -> Self;

    /// Where the buffers of all ports lie.
    fn know_pool(&self, _pool: &'m LoanPool<'m>) {}

    /// Adds a host with one device.
    fn host(&'m self, bump: &Bump<'m>, config: &RdmaConfig) -> Host<'m, Self>;

    /// Makes a queue pair on each of two hosts, connected with each other.
    fn connect(&'m self, hosts: [usize; 2]) -> [Self::Pair; 2];

    /// Destroys a queue pair of that number on a host, if it is still there.
    fn destroy(&'m self, host: usize, qp_num: u32);

    /// Lets everything that is under way happen, or so much as there is time for in so many nanoseconds.
    fn settle(&self, pace_ns: Option<u64>);

    /// Whether a queue pair of that number on a host does nothing any more.
    fn is_dead(&self, host: usize, qp_num: u32) -> bool;

    /// What a port has done that no device allows.
    fn violation(&self) -> Option<String>;
}

/// What a port of a host stands on.
pub struct Host<'m, N: Network<'m>> {
    /// Its number.
    pub number: usize,
    /// Its completion queue.
    pub cq: N::Cq,
    /// Who lets peers in.
    pub keys: N::Keys,
    /// What is registered.
    pub memory: Memory<'m, N::Pair, N::Cq>,
}

impl<'m, N: Network<'m>> fmt::Debug for Host<'m, N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Host").field("number", &self.number).finish_non_exhaustive()
    }
}

/// Which network.
pub trait NetworkKind: fmt::Debug + 'static {
    /// It.
    type Network<'m>: Network<'m>;

    /// As of [`Rig::SHORTENED`].
    const SHORTENED: u32 = 1;

    /// As of [`Rig::is_here`].
    #[must_use]
    fn is_here() -> bool {
        true
    }
}

/// Ports over reliable connections of such a network. `UNCOPIED`: longer messages go from where they lie.
#[derive(Debug)]
pub struct RdmaRig<K, const UNCOPIED: bool>(PhantomData<K>);

type Port<'m, N> =
    RdmaPort<'m, <N as Network<'m>>::Pair, <N as Network<'m>>::Cq, <N as Network<'m>>::Keys>;
/// A port, where it still is, and the number of a connection of it.
type Call<'m, N> = (Weak<Station<'m, N>>, LinkId);

/// One end of a connection, and where the other one is.
struct End<'m, N: Network<'m>> {
    link: LinkId,
    qp_num: u32,
    other: Call<'m, N>,
    /// How often the host has found it dead.
    looks: Cell<u32>,
}

/// A port, and what its host knows of it.
struct Station<'m, N: Network<'m>> {
    port: Port<'m, N>,
    host: usize,
    is_dead: Cell<bool>,
    /// Who has connected to here and was not accepted yet.
    calls: RefCell<VecDeque<Call<'m, N>>>,
    ends: RefCell<Vec<End<'m, N>>>,
}

/// The network, and who is there.
pub struct RdmaGround<'m, N: Network<'m>> {
    network: N,
    listed: RefCell<BTreeMap<String, Rc<Station<'m, N>>>>,
    /// Nanoseconds that pass with each poll; `None`: until nothing happens any more.
    pace_ns: Cell<Option<u64>>,
    keepalive: Cell<Nanos>,
    secret: Cell<Secret>,
}

/// A host notices after so many polls that a connection is dead, whatever its device says.
const HOST_LOOKS: u32 = 2000;

impl<'m, N: Network<'m>> fmt::Debug for RdmaGround<'m, N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RdmaGround").finish_non_exhaustive()
    }
}

impl<'m, N: Network<'m>> RdmaGround<'m, N> {
    /// The network.
    #[must_use]
    pub const fn network(&self) -> &N {
        &self.network
    }

    /// From now on so much time passes with each poll.
    pub fn set_pace(&self, ns: Option<u64>) {
        self.pace_ns.set(ns);
    }

    /// Ports that are opened from now on ask for signs of life.
    pub fn set_keepalive(&self, after: Nanos) {
        self.keepalive.set(after);
    }

    /// Ports that are opened from now on make their tokens of that.
    pub fn set_secret(&self, secret: Secret) {
        self.secret.set(secret);
    }

    /// The queue pairs of a port: their hosts and numbers.
    pub(super) fn pairs_of(&self, who: &str) -> Vec<(usize, u32)> {
        let listed = self.listed.borrow();
        let station = listed.get(who).expect("there is such a port");
        let ends = station.ends.borrow();
        ends.iter().map(|end| (station.host, end.qp_num)).collect()
    }

    fn settle(&self) {
        self.network.settle(self.pace_ns.get());
    }

    /// Does what the port of a station wants of its host.
    #[expect(unsafe_code, reason = "the host says that a queue pair is no more")]
    fn serve(&'m self, station: &Rc<Station<'m, N>>) {
        while let Some(request) = station.port.next_request() {
            match request {
                Request::Connect { link, to } => match self.listed.borrow().get(to.as_str()) {
                    Some(there) => {
                        there.calls.borrow_mut().push_back((Rc::downgrade(station), link));
                    }
                    None => station.port.not_connected(link, Unreachable::Refused),
                },
                Request::Close { link, pair } => {
                    let id = pair.id();
                    // SAFETY: there is no queue pair of the first id asked for, and that of the second was destroyed just before.
                    let proof = |id| unsafe { Destroyed::promise(id) };
                    let other = PairId::from_raw(id.as_raw() ^ 1 << 40);
                    let refused = station.port.destroyed(link, proof(other));
                    assert!(refused.is_err(), "a proof of another pair gives nothing back");
                    station.ends.borrow_mut().retain(|end| end.link != link);
                    if pair.end() {
                        station.port.destroyed(link, proof(id)).expect("it is that pair");
                    }
                }
            }
        }
        for end in station
            .ends
            .borrow()
            .iter()
            .filter(|end| self.network.is_dead(station.host, end.qp_num))
        {
            end.looks.set(end.looks.get() + 1);
            if end.looks.get() == HOST_LOOKS {
                station.port.lost(end.link);
            }
        }
        while let Some((caller, link)) = station.calls.borrow_mut().pop_front() {
            let Some(there) = caller.upgrade().filter(|there| !there.is_dead.get()) else {
                continue;
            };
            let pairs = self.network.connect([there.host, station.host]);
            let numbers = pairs.each_ref().map(QueuePair::qp_num);
            let [theirs, ours] = pairs;
            let Ok(accepted) = station.port.accept(ours) else {
                there.port.not_connected(link, Unreachable::Refused);
                continue;
            };
            let other = (caller, link);
            station.ends.borrow_mut().push(End {
                link: accepted,
                qp_num: numbers[1],
                other,
                looks: Cell::new(0),
            });
            if there.port.connected(link, theirs).is_err() {
                station.port.lost(accepted);
                continue;
            }
            let other = (Rc::downgrade(station), accepted);
            there.ends.borrow_mut().push(End {
                link,
                qp_num: numbers[0],
                other,
                looks: Cell::new(0),
            });
        }
    }

    /// Somebody has connected to the port of that name, by a queue pair that is made for its host.
    pub(super) fn adopt(&self, to: &str, make: impl FnOnce(usize) -> N::Pair) {
        let station = Rc::clone(self.listed.borrow().get(to).expect("there is such a port"));
        let pair = make(station.host);
        let qp_num = pair.qp_num();
        let link = station.port.accept(pair).expect("it is accepted");
        let (other, looks) = ((Weak::new(), link), Cell::new(0));
        station.ends.borrow_mut().push(End { link, qp_num, other, looks });
    }

    /// What the kernels do when a process ends: its queue pairs go, and so do the connections by which the hosts have met.
    fn end(&'m self, host: usize, ends: Vec<End<'m, N>>, calls: VecDeque<Call<'m, N>>) {
        for end in ends {
            self.network.destroy(host, end.qp_num);
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
pub struct HostedPort<'m, N: Network<'m>> {
    station: Option<Rc<Station<'m, N>>>,
    name: Name,
    ground: &'m RdmaGround<'m, N>,
}

impl<'m, N: Network<'m>> fmt::Debug for HostedPort<'m, N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HostedPort").field("name", &self.name).finish_non_exhaustive()
    }
}

impl<'m, N: Network<'m>> HostedPort<'m, N> {
    const fn station(&self) -> &Rc<Station<'m, N>> {
        self.station.as_ref().expect("until it is dropped")
    }

    /// The port itself.
    #[must_use]
    pub fn rdma(&self) -> &Port<'m, N> {
        &self.station().port
    }
}

#[expect(unsafe_code, reason = "a promise, which its port keeps")]
// SAFETY: it hands everything on to its port, which goes with it, or is never turned again.
unsafe impl<'m, N: Network<'m>> KeepsPosted for HostedPort<'m, N> {}

impl<'m, N: Network<'m>> Provider for HostedPort<'m, N> {
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
    fn post_send_parts(&self, wr: &SendPartsWr<'_>) -> Result<(), PostError> {
        self.rdma().post_send_parts(wr)
    }
    fn post_recv_parts(&self, wr: &RecvPartsWr<'_>) -> Result<(), PostError> {
        self.rdma().post_recv_parts(wr)
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
        assert_eq!(self.ground.network.violation(), None);
    }
    fn look(&self) -> Sight {
        self.ground.settle();
        self.ground.serve(self.station());
        let sight = self.rdma().look();
        self.ground.serve(self.station());
        sight
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
    fn lingers(&self) -> bool {
        self.rdma().lingers()
    }
    fn poll_at(&self) -> Option<Instant> {
        self.rdma().poll_at()
    }
}

impl<'m, N: Network<'m>> Drop for HostedPort<'m, N> {
    fn drop(&mut self) {
        let listed = self.ground.listed.borrow_mut().remove(self.name.as_str());
        drop(listed);
        let Some(station) = self.station.take() else { return };
        station.is_dead.set(true);
        let (ends, calls) = (station.ends.take(), station.calls.take());
        // Its queue pairs are destroyed.
        let (host, station) = (station.host, Rc::into_inner(station));
        assert!(station.is_some(), "nobody else has it");
        drop(station);
        self.ground.end(host, ends, calls);
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

impl<K: NetworkKind, const UNCOPIED: bool> Rig for RdmaRig<K, UNCOPIED> {
    type Ground<'m> = RdmaGround<'m, K::Network<'m>>;
    type Port<'m> = HostedPort<'m, K::Network<'m>>;
    const TYPES: &'static [EndpointType] = &[EndpointType::Msg, EndpointType::Rdm];
    const SPILLS: bool = false;
    const MEETS: bool = true;
    const FENCES: bool = false;
    const REFUSALS_END: bool = true;
    const SHORTENED: u32 = K::SHORTENED;

    fn is_here() -> bool {
        K::is_here()
    }

    fn know_pool<'m>(ground: &'m Self::Ground<'m>, pool: &'m LoanPool<'m>) {
        ground.network.know_pool(pool);
    }

    fn lay<'m>(_lines: &'m [Line], _bump: &Bump<'m>, _sizes: &Sizes) -> Self::Ground<'m> {
        RdmaGround {
            network: K::Network::lay(),
            listed: RefCell::default(),
            pace_ns: Cell::new(None),
            keepalive: Cell::new(Nanos::MAX),
            secret: Cell::new(Secret::NONE),
        }
    }

    fn open<'m>(
        ground: &'m Self::Ground<'m>,
        bump: &Bump<'m>,
        (name, endpoint_type): (&Name, EndpointType),
        sizes: &Sizes,
    ) -> Result<Self::Port<'m>, String> {
        if ground.listed.borrow().contains_key(name.as_str()) {
            return Err("the name is taken".into());
        }
        if ground.listed.borrow().len() == usize::try_from(sizes.endpoints).unwrap() {
            return Err("there are too many".into());
        }
        let config = config_of(endpoint_type, sizes, UNCOPIED);
        let (keepalive, secret) = (ground.keepalive.get(), ground.secret.get());
        let config = RdmaConfig { keepalive, secret, ..config };
        let host = ground.network.host(bump, &config);
        let Host { number: host, cq, keys, memory } = host;
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

    fn has_met(port: &Self::Port<'_>, peer: Addr) -> bool {
        port.rdma().reach(peer) == Ok(true)
    }

    fn kill<'m>(ground: &'m Self::Ground<'m>, who: &Name) {
        let station =
            ground.listed.borrow_mut().remove(who.as_str()).expect("there is such a port");
        station.is_dead.set(true);
        ground.end(station.host, station.ends.take(), station.calls.take());
    }

    fn leftovers<'m>(ground: &'m Self::Ground<'m>) -> String {
        ground.listed.borrow().keys().cloned().collect::<Vec<_>>().join(", ")
    }
}
