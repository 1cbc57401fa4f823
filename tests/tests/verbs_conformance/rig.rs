//! Reliable connections of Soft-RoCE, for the rig of ports over them: the two devices of the guest, in one thread. Pairs are connected by their cards.
//!
//! A suite that counts turns wants a network that comes to rest: every send is made to complete, and before a poll all of them have.

use core::cell::{Cell, RefCell};
use core::ptr::NonNull;
use core::time::Duration;
use std::collections::{BTreeMap, VecDeque};
use std::io::Write as _;
use std::rc::{Rc, Weak};
use std::sync::{Once, OnceLock};
use std::time::Instant as RealTime;

use heapless::VecView;
use spinwire_dataplane::error::{Fatal, PostError};
use spinwire_dataplane::id::OpTag;
use spinwire_dataplane::provider::Published;
use spinwire_dataplane::provider::rdma::{Loans, Memory, RdmaConfig};
use spinwire_dataplane::raw::line::Line;
use spinwire_dataplane::raw::loan::LoanPool;
use spinwire_dataplane::raw::place::Bump;
use spinwire_dataplane::verbs::{
    CompletionQueue as _, Limits, PairId, QueuePair, RecvRequest, SendFlags, SendRequest, Wc,
};
use spinwire_hostshim::verbs::{
    Access, CompletionQueue, ConnectConfig, Device, Grants, LocalKey, Pair, PairConfig, PairKind,
    ProtectionDomain, Region,
};
use spinwire_tests::conformance::{Host, Network, NetworkKind, RdmaRig};

/// Ports on `rxe0` and `rxe1`, in turn; longer messages go from where they lie.
pub type Verbs = RdmaRig<Cabled, true>;

/// Two devices on a cable.
#[derive(Debug)]
pub struct Cabled;

impl NetworkKind for Cabled {
    type Network<'m> = Cable;
    const SHORTENED: u32 = 8;

    fn is_here() -> bool {
        is_here()
    }
}

/// A pair whose sends all complete; those that were not to are taken out of the completions again.
#[derive(Debug)]
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

/// A device, open, with what the ports on it share.
#[derive(Clone, Debug)]
struct Opened {
    device: Device,
    domain: ProtectionDomain,
    gid_index: u8,
    /// Registered memory that no port has: a domain gives none back, and to map it anew takes long.
    spare: Rc<RefCell<Vec<Region>>>,
}

/// The devices.
pub const NAMES: [&str; 2] = ["rxe0", "rxe1"];

/// The entry of the address of a device in its table. To find it takes hundreds of system calls, and there are hundreds of cases.
pub fn gid_index(number: usize) -> u8 {
    static FOUND: OnceLock<[u8; 2]> = OnceLock::new();
    let find = |name| Device::open(name).unwrap().gid(1, None).unwrap().index;
    FOUND.get_or_init(|| NAMES.map(find))[number]
}

impl Opened {
    fn new(number: usize) -> Self {
        let device = Device::open(NAMES[number]).unwrap();
        let domain = ProtectionDomain::new(&device).unwrap();
        Self { device, domain, gid_index: gid_index(number), spare: Rc::default() }
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
    static DEVICES: [Opened; 2] = [0, 1].map(Opened::new);
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

/// The cable, and who is on it.
#[derive(Debug, Default)]
pub struct Cable {
    /// Where the buffers of all lie, and what lets each of the devices into them.
    pool: Cell<Option<NonNull<[u8]>>>,
    loans: [Cell<Option<Loans<Counted, Harvest>>>; 2],
    /// Of each host, while there is somebody on it.
    hosts: RefCell<Vec<Weak<Parts>>>,
    /// Queue pairs by host and number, until they are destroyed.
    pairs: RefCell<BTreeMap<(usize, u32), Weak<Pair>>>,
}

impl<'m> Network<'m> for Cable {
    type Pair = Counted;
    type Cq = Harvest;
    type Keys = Grants;

    fn lay() -> Self {
        Self::default()
    }

    fn know_pool(&self, pool: &'m LoanPool<'m>) {
        let mut all: Vec<_> = core::iter::from_fn(|| pool.lend()).collect();
        all.sort_by_key(|loan| loan.as_ptr());
        let start = NonNull::from(all[0].room()).cast::<u8>();
        let end = all.last_mut().unwrap().room().as_mut_ptr_range().end;
        let bytes = end.addr() - start.addr().get();
        self.pool.set(Some(NonNull::slice_from_raw_parts(start, bytes)));
    }

    #[expect(unsafe_code, reason = "the memory of a port is its host's")]
    fn host(&'m self, _bump: &Bump<'m>, config: &RdmaConfig) -> Host<'m, Self> {
        let number = self.hosts.borrow().len();
        let on = DEVICES.with(|devices| devices[number % 2].clone());
        let loans = self.loans[number % 2].get().unwrap_or_else(|| {
            // SAFETY: the memory of the world, which outlives its ports. Pairs and queues hand everything on to those of the library.
            unsafe { on.domain.register_loans(self.pool.get().unwrap()) }.unwrap()
        });
        self.loans[number % 2].set(Some(loans));
        let keys = on.domain.grants();
        let cq = CompletionQueue::new(&on.device, config.completions()).unwrap();
        let slots = on.slots(usize::try_from(config.memory_bytes()).unwrap());
        let limits = config.pair();
        let (flights, came) = (RefCell::default(), RefCell::default());
        let parts = Rc::new(Parts { on, cq, slots, limits, flights, came });
        // SAFETY: a domain gives no memory back, and that of the thread's devices is there until the thread ends, as worlds are not.
        let lines: &'m [Line] = unsafe { &*core::ptr::from_ref(parts.slots.lines()) };
        let (address, key) = (parts.slots.address(), parts.slots.local_key());
        let memory = Memory { lines, address, key, loans: Some(loans) };
        self.hosts.borrow_mut().push(Rc::downgrade(&parts));
        Host { number, cq: Harvest(parts), keys, memory }
    }

    fn connect(&'m self, hosts: [usize; 2]) -> [Counted; 2] {
        let made = hosts.map(|host| {
            let parts = self.hosts.borrow()[host].upgrade().expect("somebody is on it");
            let counted = pair_of(&parts);
            let pair = Rc::downgrade(&counted.pair);
            self.pairs.borrow_mut().insert((host, counted.qp_num()), pair);
            counted
        });
        let [one, other] = &made;
        one.pair.connect(other.pair.card(), &how()).unwrap();
        other.pair.connect(one.pair.card(), &how()).unwrap();
        made
    }

    /// Nothing of it answers any more; it is destroyed by who has it.
    fn destroy(&'m self, host: usize, qp_num: u32) {
        let pair = self.pairs.borrow_mut().remove(&(host, qp_num));
        if let Some(pair) = pair.and_then(|pair| pair.upgrade()) {
            pair.fail().unwrap();
        }
    }

    /// Waits until everything that is under way has come, or has failed.
    fn settle(&self, _pace_ns: Option<u64>) {
        let parts: Vec<_> = self.hosts.borrow().iter().filter_map(Weak::upgrade).collect();
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

    /// What fails says so by itself.
    fn is_dead(&self, _host: usize, _qp_num: u32) -> bool {
        false
    }

    /// Real devices complain by failing.
    fn violation(&self) -> Option<String> {
        None
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
