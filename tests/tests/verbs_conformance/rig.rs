//! Ports over reliable connections of Soft-RoCE: the two devices of the guest, in one thread. The rig is the host, and connects pairs by their cards.
//!
//! A suite that counts turns wants a network that comes to rest: every send is made to complete, and before a poll the rig waits until all have.

use core::cell::{Cell, RefCell};
use core::ptr::NonNull;
use core::time::Duration;
use std::collections::{BTreeMap, VecDeque};
use std::io::Write as _;
use std::rc::{Rc, Weak};
use std::sync::Once;
use std::time::Instant as RealTime;

use heapless::VecView;
use spinwire_dataplane::error::{Fatal, Misuse, PostError};
use spinwire_dataplane::id::{Addr, Name, OpTag, WrId};
use spinwire_dataplane::provider::rdma::{
    LinkId, Loans, Memory, RdmaConfig, RdmaPort, Request, Unreachable,
};
use spinwire_dataplane::provider::{
    CancelError, Cqe, EndpointType, Event, ExposeWr, Info, KeepsPosted, OneSidedWr, Provider,
    Published, RecvPartsWr, RecvWr, RemoteRegion, Select, SendPartsWr, SendWr, Sight, Source,
    Waiting,
};
use spinwire_dataplane::raw::line::Line;
use spinwire_dataplane::raw::loan::LoanPool;
use spinwire_dataplane::raw::place::Bump;
use spinwire_dataplane::time::Instant;
use spinwire_dataplane::verbs::{
    CompletionQueue as _, Limits, PairId, QueuePair, RecvRequest, SendFlags, SendRequest, Wc,
};
use spinwire_hostshim::verbs::{
    Access, CompletionQueue, ConnectConfig, Device, Grants, LocalKey, Pair, PairConfig, PairKind,
    ProtectionDomain, Region,
};
use spinwire_tests::conformance::{Rig, Sizes};

/// Ports on `rxe0` and `rxe1`, in turn.
#[derive(Debug)]
pub struct Verbs;

type Port<'m> = RdmaPort<'m, Counted, Harvest, Grants>;

/// A pair whose sends all complete; those that were not to are taken out of the completions again.
#[derive(Clone, Debug)]
pub struct Counted {
    pair: Rc<Pair>,
    parts: Rc<Parts>,
    /// Of the sends that are staged: whether each was to complete.
    staged: Rc<RefCell<VecDeque<bool>>>,
}

impl QueuePair for Counted {
    type Key = LocalKey;

    fn limits(&self) -> Limits {
        self.pair.limits()
    }
    fn qp_num(&self) -> u32 {
        self.pair.qp_num()
    }
    fn id(&self) -> PairId {
        QueuePair::id(&*self.pair)
    }
    fn end(self) -> bool {
        let number = self.qp_num();
        let Some(pair) = Rc::into_inner(self.pair) else { return false };
        let is_over = QueuePair::end(pair);
        self.parts.harvest();
        self.parts.flights.borrow_mut().remove(&number);
        is_over
    }
    fn post_send(&self, send: &SendRequest<'_, LocalKey>) -> Result<(), PostError> {
        let flags = SendFlags { unsignaled: false, ..send.flags };
        self.pair.post_send(&send.with(flags))?;
        self.staged.borrow_mut().push_back(!send.flags.unsignaled);
        Ok(())
    }
    fn post_recv(&self, recv: &RecvRequest<'_, LocalKey>) -> Result<(), PostError> {
        self.pair.post_recv(recv)
    }
    fn ring_doorbell(&self) -> Published {
        let published = self.pair.ring_doorbell();
        let mut staged = self.staged.borrow_mut();
        let count = usize::try_from(published.count).unwrap();
        let mut flights = self.parts.flights.borrow_mut();
        flights.entry(self.qp_num()).or_default().extend(staged.drain(..count));
        staged.clear();
        published
    }
    fn ring_recv_doorbell(&self) -> Published {
        self.pair.ring_recv_doorbell()
    }
}

/// What a port stands on. Its memory lives as long as it.
#[derive(Debug)]
pub struct Parts {
    on: Opened,
    cq: Rc<CompletionQueue>,
    slots: Region,
    limits: Limits,
    /// Of each pair: whether each send that is under way was to complete.
    flights: RefCell<BTreeMap<u32, VecDeque<bool>>>,
    came: RefCell<VecDeque<Wc>>,
}

impl Parts {
    /// Takes what the device has.
    fn harvest(&self) {
        let mut out: heapless::Vec<Wc, 16> = heapless::Vec::new();
        loop {
            self.cq.poll_cq(&mut out);
            if out.is_empty() {
                return;
            }
            for wc in out.drain(..) {
                let is_send = wc.wr_id().parts().is_some_and(|(op, _, _)| op == OpTag::Send);
                let mut flights = self.flights.borrow_mut();
                let flight = flights.get_mut(&wc.qp_num()).filter(|_| is_send);
                let wanted = flight.is_none_or(|flight| flight.pop_front().unwrap());
                if wanted || wc.outcome().is_err() {
                    self.came.borrow_mut().push_back(wc);
                }
            }
        }
    }

    fn is_at_rest(&self) -> bool {
        self.flights.borrow().values().all(VecDeque::is_empty)
    }
}

impl Drop for Parts {
    /// Its port and all pairs of it have gone before.
    fn drop(&mut self) {
        self.on.spare.borrow_mut().push(self.slots.clone());
    }
}

/// The completion queue of a port.
#[derive(Debug)]
pub struct Harvest(Rc<Parts>);

impl spinwire_dataplane::verbs::CompletionQueue for Harvest {
    fn depth(&self) -> u32 {
        self.0.cq.depth()
    }
    fn poll_cq(&self, out: &mut VecView<Wc>) {
        let mut came = self.0.came.borrow_mut();
        while out.len() < out.capacity()
            && let Some(wc) = came.pop_front()
        {
            out.push(wc).unwrap();
        }
    }
    fn take_error(&self) -> Option<Fatal> {
        self.0.cq.take_error()
    }
}

/// One end of a connection, and where the other one is.
#[derive(Debug)]
struct End<'m> {
    link: LinkId,
    /// The port's alone, which destroys it when it goes.
    pair: Weak<Pair>,
    other: (Weak<Station<'m>>, LinkId),
}

/// A port, and what its host knows of it.
#[derive(Debug)]
struct Station<'m> {
    port: Port<'m>,
    parts: Rc<Parts>,
    is_dead: Cell<bool>,
    calls: RefCell<VecDeque<(Weak<Self>, LinkId)>>,
    ends: RefCell<Vec<End<'m>>>,
}

/// The devices, and who is there.
#[derive(Debug)]
pub struct Ground<'m> {
    /// Where the buffers of all lie, and what lets each of the devices into them.
    pool: Cell<Option<NonNull<[u8]>>>,
    loans: [Cell<Option<Loans<Counted, Harvest>>>; 2],
    parts: RefCell<Vec<Weak<Parts>>>,
    opened: Cell<usize>,
    listed: RefCell<BTreeMap<String, Rc<Station<'m>>>>,
}

/// A device, open, with what the ports on it share.
#[derive(Clone, Debug)]
struct Opened {
    device: Device,
    domain: ProtectionDomain,
    gid_index: u8,
    /// Registered memory that no port has: a domain gives none back, and to map it anew takes long.
    spare: Rc<RefCell<Vec<Region>>>,
}

impl Opened {
    fn new(name: &str) -> Self {
        let device = Device::open(name).unwrap();
        let domain = ProtectionDomain::new(&device).unwrap();
        let gid_index = device.gid(1, None).unwrap().index;
        Self { device, domain, gid_index, spare: Rc::default() }
    }

    fn slots(&self, bytes: usize) -> Region {
        let mut spare = self.spare.borrow_mut();
        let found = spare.iter().position(|region| region.len() >= bytes);
        found.map_or_else(
            || self.domain.register(bytes, Access::LOCAL).unwrap(),
            |at| spare.swap_remove(at),
        )
    }
}

thread_local! {
    /// A case makes many worlds, and to open a device takes longer than most of them.
    static DEVICES: [Opened; 2] = ["rxe0", "rxe1"].map(Opened::new);
}

fn how() -> ConnectConfig {
    ConnectConfig { timeout: 10, retry_count: 2, ..ConnectConfig::default() }
}

fn pair_of(parts: &Rc<Parts>) -> Counted {
    let Limits { send_depth, recv_depth, sge_max, .. } = parts.limits;
    let gid_index = Some(parts.on.gid_index);
    let access = Access::REMOTE;
    let depths = PairConfig { send_depth, recv_depth, sge_max, ..PairConfig::default() };
    let config = PairConfig { gid_index, access, ..depths };
    let queues = (&parts.cq, &parts.cq);
    let pair = Rc::new(Pair::new(&parts.on.domain, PairKind::Rc, queues, &config).unwrap());
    Counted { pair, parts: Rc::clone(parts), staged: Rc::default() }
}

impl<'m> Ground<'m> {
    /// Waits until everything that is under way has come, or has failed.
    fn settle(&self) {
        let parts: Vec<_> = self.parts.borrow().iter().filter_map(Weak::upgrade).collect();
        let until = RealTime::now() + Duration::from_secs(10);
        loop {
            let is_at_rest = parts.iter().all(|parts| parts.is_at_rest());
            parts.iter().for_each(|parts| parts.harvest());
            if is_at_rest {
                return;
            }
            assert!(RealTime::now() < until, "the network does not come to rest");
        }
    }

    /// Does what the port of a station wants of its host.
    fn serve(&self, station: &Rc<Station<'m>>) {
        while let Some(request) = station.port.next_request() {
            match request {
                Request::Connect { link, to } => match self.listed.borrow().get(to.as_str()) {
                    Some(there) => {
                        there.calls.borrow_mut().push_back((Rc::downgrade(station), link));
                    }
                    None => station.port.not_connected(link, Unreachable::Refused),
                },
                Request::Close { link, pair } => {
                    station.ends.borrow_mut().retain(|end| end.link != link);
                    let number = pair.qp_num();
                    let pair = Rc::into_inner(pair.pair).expect("nobody else has it");
                    let proof = pair.destroy().unwrap();
                    station.parts.harvest();
                    station.parts.flights.borrow_mut().remove(&number);
                    station.port.destroyed(link, proof).expect("it is of that link");
                }
            }
        }
        loop {
            let Some((caller, link)) = station.calls.borrow_mut().pop_front() else { return };
            let Some(there) = caller.upgrade().filter(|there| !there.is_dead.get()) else {
                continue;
            };
            let (theirs, ours) = (pair_of(&there.parts), pair_of(&station.parts));
            theirs.pair.connect(ours.pair.card(), &how()).unwrap();
            ours.pair.connect(theirs.pair.card(), &how()).unwrap();
            let pairs = [&theirs, &ours].map(|counted| Rc::downgrade(&counted.pair));
            let [their_pair, our_pair] = pairs;
            let Ok(accepted) = station.port.accept(ours) else {
                there.port.not_connected(link, Unreachable::Refused);
                continue;
            };
            let other = (caller, link);
            station.ends.borrow_mut().push(End { link: accepted, pair: our_pair, other });
            if there.port.connected(link, theirs).is_err() {
                station.port.lost(accepted);
                continue;
            }
            let other = (Rc::downgrade(station), accepted);
            there.ends.borrow_mut().push(End { link, pair: their_pair, other });
        }
    }

    /// What the kernels do when a process ends: nothing of its queue pairs answers, and the connections by which the hosts have met go.
    fn end(ends: Vec<End<'m>>, calls: VecDeque<(Weak<Station<'m>>, LinkId)>) {
        for end in ends {
            if let Some(pair) = end.pair.upgrade() {
                pair.fail().unwrap();
            }
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
    ground: &'m Ground<'m>,
}

impl<'m> HostedPort<'m> {
    const fn station(&self) -> &Rc<Station<'m>> {
        self.station.as_ref().expect("until it is dropped")
    }

    fn rdma(&self) -> &Port<'m> {
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

impl Drop for HostedPort<'_> {
    fn drop(&mut self) {
        let listed = self.ground.listed.borrow_mut().remove(self.name.as_str());
        drop(listed);
        let Some(station) = self.station.take() else { return };
        station.is_dead.set(true);
        let (ends, calls) = (station.ends.take(), station.calls.take());
        // Its queue pairs are destroyed: those with loans were when it was asked whether anything lingers.
        let pairs: Vec<_> = ends.iter().map(|end| Weak::clone(&end.pair)).collect();
        Ground::end(ends, calls);
        drop(Rc::into_inner(station).expect("nobody else has it"));
        assert!(pairs.iter().all(|pair| pair.strong_count() == 0));
    }
}

fn config_of(endpoint_type: EndpointType, sizes: &Sizes) -> RdmaConfig {
    RdmaConfig {
        peers_max: sizes.peers_max,
        links: if endpoint_type == EndpointType::Msg { 4 } else { sizes.peers_max + 4 },
        send_depth: sizes.send_depth,
        matching: sizes.matching(),
        message_bytes_max: sizes.message_bytes_max,
        slots: sizes.link_depth,
        slot_bytes: 1024,
        uncopied_bytes_min: 300,
        routes_max: sizes.endpoints + 4,
        ..RdmaConfig::default()
    }
}

/// Whether the devices are here.
pub fn is_here() -> bool {
    static SAID: Once = Once::new();
    let here = std::env::var_os("SPINWIRE_VM").is_some();
    if !here {
        SAID.call_once(|| {
            let why = "!! NOT RUN: endpoints on rxe0 and rxe1: only in the guest of tests/vm\n";
            // What a test that passes has printed is shown to nobody.
            std::io::stderr().write_all(why.as_bytes()).unwrap();
        });
    }
    here
}

impl Rig for Verbs {
    type Ground<'m> = Ground<'m>;
    type Port<'m> = HostedPort<'m>;
    const TYPES: &'static [EndpointType] = &[EndpointType::Msg, EndpointType::Rdm];
    const SPILLS: bool = false;
    const MEETS: bool = true;
    const FENCES: bool = false;
    const REFUSALS_END: bool = true;
    const SHORTENED: u32 = 8;

    fn is_here() -> bool {
        is_here()
    }

    fn lay<'m>(_lines: &'m [Line], _bump: &Bump<'m>, _sizes: &Sizes) -> Ground<'m> {
        let (parts, opened, listed) = (RefCell::default(), Cell::new(0), RefCell::default());
        let (pool, loans) = (Cell::default(), Default::default());
        Ground { pool, loans, parts, opened, listed }
    }

    fn know_pool<'m>(ground: &'m Ground<'m>, pool: &'m LoanPool<'m>) {
        let mut all: Vec<_> = core::iter::from_fn(|| pool.lend()).collect();
        all.sort_by_key(|loan| loan.as_ptr());
        let start = NonNull::from(all[0].room()).cast::<u8>();
        let end = all.last_mut().unwrap().room().as_mut_ptr_range().end;
        let bytes = end.addr() - start.addr().get();
        ground.pool.set(Some(NonNull::slice_from_raw_parts(start, bytes)));
    }

    #[expect(unsafe_code, reason = "the memory of a port is its host's")]
    fn open<'m>(
        ground: &'m Ground<'m>,
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
        let config = config_of(endpoint_type, sizes);
        let number = ground.opened.replace(ground.opened.get() + 1) % 2;
        let on = DEVICES.with(|devices| devices[number].clone());
        let loans = ground.loans[number].get().unwrap_or_else(|| {
            // SAFETY: the memory of the world, which outlives its ports. Pairs and queues hand everything on to those of the library.
            unsafe { on.domain.register_loans(ground.pool.get().unwrap()) }.unwrap()
        });
        ground.loans[number].set(Some(loans));
        let grants = on.domain.grants();
        let cq = CompletionQueue::new(&on.device, config.completions()).unwrap();
        let slots = on.slots(usize::try_from(config.memory_bytes()).unwrap());
        let limits = config.pair();
        let (flights, came) = (RefCell::default(), RefCell::default());
        let parts = Rc::new(Parts { on, cq, slots, limits, flights, came });
        // SAFETY: the port has them, and is dropped before them: a station holds both, in that order.
        let lines: &'m [Line] = unsafe { &*core::ptr::from_ref(parts.slots.lines()) };
        let (address, key) = (parts.slots.address(), parts.slots.local_key());
        let memory = Memory { lines, address, key, loans: Some(loans) };
        let below = (Harvest(Rc::clone(&parts)), grants);
        let port = RdmaPort::place_with(bump, (name, endpoint_type), &config, below, memory)
            .map_err(|e| e.to_string())?;
        ground.parts.borrow_mut().push(Rc::downgrade(&parts));
        let station = Rc::new(Station {
            port,
            parts,
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

    fn kill<'m>(ground: &'m Ground<'m>, who: &Name) {
        let station =
            ground.listed.borrow_mut().remove(who.as_str()).expect("there is such a port");
        station.is_dead.set(true);
        Ground::end(station.ends.take(), station.calls.take());
    }

    fn leftovers<'m>(ground: &'m Ground<'m>) -> String {
        ground.listed.borrow().keys().cloned().collect::<Vec<_>>().join(", ")
    }
}
