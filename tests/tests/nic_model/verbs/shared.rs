//! Receives that several pairs take from, by the host part, over the model of the device: each ends once, with the pair that has taken it, and is
//! returned where that pair goes and nobody was told.

use core::cell::{Cell, RefCell};
use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;

use spinwire_dataplane::error::{Fatal, Misuse, PostError, Retry};
use spinwire_dataplane::id::WrId;
use spinwire_dataplane::provider::mlx5::{CompletionsError, PairConfig};
use spinwire_dataplane::raw::line::Line;
use spinwire_dataplane::raw::region::{Destroyed, MemoryKey};
use spinwire_dataplane::sync::{AtomicU32, Ordering};
use spinwire_dataplane::verbs::{
    CompletionQueue as _, PairId, QueuePair as _, RecvRequest, Segment, SendRequest, Verb, Wc,
};
use spinwire_dataplane::wqe::Transport;
use spinwire_hostshim::mlx5::dv::{DvCq, DvQp, DvSrq};
use spinwire_hostshim::mlx5::{
    Completions, CompletionsHandle, Mlx5Error, Pair, PairHandle, QueueConfig, SharedHandle,
    SharedReceives,
};
use spinwire_tests::conformance::{describe_completions, describe_pair};
use spinwire_tests::rng::{Rng, pattern};
use spinwire_tests::sim::nic::bytes::{read_ring, write_lines};
use spinwire_tests::sim::nic::memory::Access;
use spinwire_tests::sim::nic::wqe::{Rules, Transport as Kind};
use spinwire_tests::sim::nic::{
    CqPlan, Fabric, Manner, QpPlan, Receives, Short, SrqPlan, State, lines,
};

use super::{DOMAIN, KEY, address};
use crate::driven::node::region;

const PAIRS: usize = 3;
/// Places of the shared queue: one less can be posted.
const PLACES: usize = 16;
const BLOCKS: usize = 16;
/// Bytes of a place for a message.
const SLOT: usize = 256;
const SLOTS: usize = 64;
const SRQ: u32 = 9;
const STRIDE: usize = 32;
const SHARED_CONFIG: QueueConfig = QueueConfig {
    transport: Transport::Rc { path: None },
    send_depth: 8,
    recv_depth: 0,
    pair: PairConfig { sge_max: 1, ..PairConfig::DEFAULT },
};

type Record = [AtomicU32; 2];

/// What libmlx5 says otherwise.
type Change = fn(&mut DvSrq);

/// Memory of one node.
struct Machine {
    sqs: [Vec<Line>; PAIRS],
    registers: [Vec<Line>; PAIRS],
    records: [Record; PAIRS],
    cqs: [Vec<Line>; 2],
    cq_records: [Record; 2],
    srq: Vec<Line>,
    srq_record: Record,
    data: Vec<Line>,
    /// What libmlx5 says of the shared queue.
    dv_srq: Cell<Change>,
    ids: Cell<u64>,
}

impl Machine {
    fn new() -> Self {
        let record = || [AtomicU32::new(0), AtomicU32::new(0)];
        Self {
            sqs: core::array::from_fn(|_| lines(BLOCKS)),
            registers: core::array::from_fn(|_| lines(2)),
            records: core::array::from_fn(|_| record()),
            cqs: [lines(64), lines(64)],
            cq_records: core::array::from_fn(|_| record()),
            srq: lines(PLACES * STRIDE / 64),
            srq_record: record(),
            data: lines(SLOTS * SLOT / 64),
            dv_srq: Cell::new(|_| ()),
            ids: Cell::new(0),
        }
    }
}

type Network<'m> = RefCell<Fabric<'m>>;

struct LentPair<'m> {
    fabric: &'m Network<'m>,
    machine: &'m Machine,
    node: usize,
    number: usize,
}

fn qpn(number: usize) -> u32 {
    0x200 + u32::try_from(number).unwrap()
}

#[expect(unsafe_code, reason = "a promise about a model of devices")]
// SAFETY: the queues lie in the machine, which outlives the handle; a pair that the model has destroyed touches nothing any more.
unsafe impl<'m> PairHandle<'m> for LentPair<'m> {
    type Key = MemoryKey<'m>;
    type Error = Mlx5Error;

    fn qp_num(&self) -> u32 {
        qpn(self.number)
    }

    fn id(&self) -> PairId {
        PairId::from_raw(self.machine.ids.replace(self.machine.ids.get() + 1))
    }

    fn describe(&self) -> Result<DvQp, Mlx5Error> {
        let Machine { sqs, registers, records, .. } = self.machine;
        let (sq, register) = (&sqs[self.number], &registers[self.number]);
        Ok(describe_pair([sq, &[], register], &records[self.number], STRIDE))
    }

    fn admits(&self, range: &Segment<MemoryKey<'m>>) -> Option<MemoryKey<'m>> {
        range.key.covers(range.address, range.length).then_some(range.key)
    }

    fn destroy(self) -> Result<Destroyed, Mlx5Error> {
        let id = self.id();
        drop(self);
        // SAFETY: it was, just now.
        Ok(unsafe { Destroyed::promise(id) })
    }
}

impl Drop for LentPair<'_> {
    fn drop(&mut self) {
        self.fabric.borrow_mut().destroy(self.node, qpn(self.number));
        let Machine { sqs, registers, records, .. } = self.machine;
        let blocks = sqs[self.number].iter().chain(&registers[self.number]);
        blocks.flat_map(Line::words).for_each(|word| word.store(0, Ordering::Relaxed));
        records[self.number].iter().for_each(|word| word.store(0, Ordering::Relaxed));
    }
}

struct LentCompletions<'m> {
    machine: &'m Machine,
    number: usize,
}

#[expect(unsafe_code, reason = "a promise about a model of devices")]
// SAFETY: as of pairs.
unsafe impl CompletionsHandle for LentCompletions<'_> {
    fn describe(&self) -> Result<DvCq, Mlx5Error> {
        let (ring, record) =
            (&self.machine.cqs[self.number], &self.machine.cq_records[self.number]);
        let cqn = u32::try_from(self.number).unwrap();
        Ok(describe_completions(ring, record, (cqn, 64)))
    }

    fn take_error(&self) -> Option<Fatal> {
        None
    }
}

struct LentShared<'m> {
    machine: &'m Machine,
}

#[expect(unsafe_code, reason = "a promise about a model of devices")]
// SAFETY: as of pairs.
unsafe impl<'m> SharedHandle<'m> for LentShared<'m> {
    type Key = MemoryKey<'m>;

    fn describe(&self) -> Result<DvSrq, Mlx5Error> {
        let mut told = DvSrq {
            buf: self.machine.srq.as_ptr().cast_mut().cast(),
            dbrec: self.machine.srq_record.as_ptr().cast_mut().cast(),
            stride: u32::try_from(STRIDE).unwrap(),
            head: 0,
            tail: u32::try_from(PLACES).unwrap() - 1,
            comp_mask: 0,
            srqn: SRQ,
        };
        (self.machine.dv_srq.get())(&mut told);
        Ok(told)
    }

    fn admits(&self, range: &Segment<MemoryKey<'m>>) -> Option<MemoryKey<'m>> {
        range.key.covers(range.address, range.length).then_some(range.key)
    }
}

type HostCq<'m> = Completions<'m, LentPair<'m>, LentCompletions<'m>>;
type HostPair<'m> = Pair<'m, LentPair<'m>, LentCompletions<'m>>;
type HostShared<'m> = SharedReceives<'m, LentShared<'m>>;

/// One node: its pairs all take from one queue.
struct End<'m> {
    fabric: &'m Network<'m>,
    machine: &'m Machine,
    node: usize,
    key: MemoryKey<'m>,
    cq: Rc<HostCq<'m>>,
    shared: Rc<HostShared<'m>>,
    pairs: [Option<HostPair<'m>>; PAIRS],
    free: Vec<usize>,
    /// Slots of what is under way, by its id.
    posted: BTreeMap<u64, usize>,
    next_id: u64,
}

impl<'m> End<'m> {
    fn new(fabric: &'m Network<'m>, machine: &'m Machine, node: usize) -> Self {
        {
            let mut fabric = fabric.borrow_mut();
            let data = &machine.data;
            fabric.nodes[node].keys.lines((KEY[node], DOMAIN), address(data), data, Access::ALL);
            let (ring, record) = (&machine.cqs[0], &machine.cq_records[0]);
            let compress = Short::Never;
            fabric.cq(node, CqPlan { number: 0, ring, cqe_bytes: 64, record, compress });
            let (ring, record) = (&machine.srq, &machine.srq_record);
            let (number, domain, stride) = (SRQ, DOMAIN, STRIDE);
            fabric.srq(node, SrqPlan { number, domain, ring, stride, record });
        }
        let pairs_max = u32::try_from(PAIRS).unwrap();
        let cq = HostCq::new(LentCompletions { machine, number: 0 }, pairs_max).unwrap();
        let shared = HostShared::new(LentShared { machine }, 1).unwrap();
        let key = region(&machine.data, KEY[node]).key();
        let (free, posted) = ((0..SLOTS).collect(), BTreeMap::new());
        let pairs = core::array::from_fn(|_| None);
        Self { fabric, machine, node, key, cq, shared, pairs, free, posted, next_id: 1 }
    }

    fn open(&mut self, number: usize, scatter_to_cqe: bool) {
        let machine = self.machine;
        let plan = QpPlan {
            rules: Rules { qpn: qpn(number), transport: Kind::Rc, inline_max: 64 },
            domain: DOMAIN,
            sq: &machine.sqs[number],
            rq: Receives::Shared(SRQ),
            record: &machine.records[number],
            register: &machine.registers[number],
            cqs: (0, 0),
            qkey: 0,
            retries: 7,
            rnr_retries: 7,
            scatter_to_cqe,
        };
        self.fabric.borrow_mut().qp(self.node, plan);
        let handle = LentPair { fabric: self.fabric, machine, number, node: self.node };
        let pair = HostPair::with_shared(&self.cq, handle, &SHARED_CONFIG, &self.shared);
        self.pairs[number] = Some(pair.unwrap());
    }

    fn segment(&self, slot: usize, length: usize) -> Segment<MemoryKey<'m>> {
        let at = u64::try_from(slot * SLOT).unwrap();
        let address = address(&self.machine.data) + at;
        Segment { address, length: u32::try_from(length).unwrap(), key: self.key }
    }

    /// The next id, for what uses that slot.
    fn note(&mut self, slot: usize) -> WrId {
        let id = self.next_id;
        self.next_id += 1;
        self.posted.insert(id, slot);
        WrId::from_raw(id)
    }

    /// What was under way in a slot is over.
    fn ended(&mut self, id: WrId) -> usize {
        let slot = self.posted.remove(&id.as_raw()).expect("it was posted, and has not ended");
        self.free.push(slot);
        slot
    }

    fn post_receive(&mut self, bytes: usize) -> Result<(), PostError> {
        let Some(slot) = self.free.pop() else { return Err(Retry::RqFull.into()) };
        let segments = [self.segment(slot, bytes)];
        let wr_id = self.note(slot);
        let posted = self.shared.post_recv(&RecvRequest { wr_id, segments: &segments });
        if posted.is_err() {
            self.ended(wr_id);
        }
        posted
    }

    fn send(&mut self, number: usize, message: &[u8]) -> bool {
        let Some(slot) = self.free.pop() else { return false };
        write_lines(&self.machine.data, slot * SLOT, message);
        let segments = [self.segment(slot, message.len())];
        let wr_id = self.note(slot);
        let pair = self.pairs[number].as_ref().unwrap();
        let posted = pair.post_send(&SendRequest::new(wr_id, Verb::Send, &segments)).is_ok();
        assert_eq!(pair.ring_doorbell().count, u64::from(posted));
        if !posted {
            self.ended(wr_id);
        }
        posted
    }

    fn poll(&self) -> Vec<Wc> {
        let mut out = heapless::Vec::<Wc, 8>::new();
        self.cq.poll_cq(&mut out);
        out.to_vec()
    }

    /// Everything of a shared queue that was returned.
    fn take_returned(&mut self) -> usize {
        let (mut count, mut more) = (0, true);
        while let Some(id) = self.shared.next_returned() {
            assert!(more, "while some are returned none is posted");
            self.ended(id);
            count += 1;
            // There is a place for it: that of the one that is back.
            more = self.post_receive(SLOT).is_err();
        }
        assert!(count == 0 || !more);
        count
    }
}

#[derive(Debug, Default)]
struct Report {
    arrived: u64,
    failed: u64,
    returned: usize,
}

/// Messages from each pair of the first end to its peer at the second, with pairs that fail and go.
fn run(seed: u64, report: &mut Report) {
    let machines = [Machine::new(), Machine::new()];
    let manner = Manner { loses: 3, timeout: 100, ..Manner::default() };
    let fabric = RefCell::new(Fabric::new(seed, 2, manner));
    let mut rng = Rng::new(seed);
    let [mut from, mut to] = [0, 1].map(|node| End::new(&fabric, &machines[node], node));
    // What is on its way to each pair, and the sends of each.
    let mut coming: [VecDeque<Vec<u8>>; PAIRS] = Default::default();
    let mut sends: [Vec<WrId>; PAIRS] = Default::default();
    let scatter = seed.is_multiple_of(2);
    for _ in 0..700 {
        for number in 0..PAIRS {
            let is_dead = from.pairs[number].is_none()
                || [0, 1]
                    .iter()
                    .any(|node| fabric.borrow().state(*node, qpn(number)) == State::Error);
            if is_dead || rng.index(400) == 0 {
                drop((from.pairs[number].take(), to.pairs[number].take()));
                report.returned += to.take_returned();
                assert_eq!(from.take_returned(), 0);
                // What it has sent is over, whether anybody was told or not.
                sends[number].drain(..).for_each(|id| {
                    from.ended(id);
                });
                coming[number].clear();
                from.open(number, scatter);
                to.open(number, scatter);
                fabric.borrow_mut().connect((0, qpn(number)), (1, qpn(number)));
            }
        }
        if rng.chance(70) {
            // Some are too short for what comes.
            let bytes = if rng.chance(2) { 8 } else { SLOT };
            while to.post_receive(bytes).is_ok() && rng.chance(60) {}
            let _staged = to.shared.ring_recv_doorbell();
        }
        let number = rng.index(PAIRS);
        let length = rng.between(1, 200);
        let message = pattern(rng.word(), length);
        let id = WrId::from_raw(from.next_id);
        if rng.chance(50) && from.send(number, &message) {
            coming[number].push_back(message);
            sends[number].push(id);
        }
        for _ in 0..rng.index(20) {
            fabric.borrow_mut().step();
        }
        for wc in if rng.chance(40) { from.poll() } else { Vec::new() } {
            let number = usize::try_from(wc.qp_num()).unwrap() - 0x200;
            assert_eq!(sends[number].remove(0), wc.wr_id(), "in order");
            from.ended(wc.wr_id());
        }
        for wc in if rng.chance(40) { to.poll() } else { Vec::new() } {
            let number = usize::try_from(wc.qp_num()).unwrap() - 0x200;
            let slot = to.ended(wc.wr_id());
            if let Ok(received) = wc.outcome() {
                let message = coming[number].pop_front().expect("it was sent");
                assert_eq!(usize::try_from(received.bytes).unwrap(), message.len());
                let bytes = read_ring(&to.machine.data, slot * SLOT, message.len());
                assert_eq!(bytes, message, "seed {seed}");
                report.arrived += 1;
            } else {
                report.failed += 1;
            }
        }
        assert!(fabric.borrow().violations.is_empty(), "{:?}", fabric.borrow().violations);
    }
    check_ends(&fabric, &from, &mut to);
}

/// Nothing came to nobody, and each that has not ended has its place, and none has it twice: so many more can be posted.
fn check_ends<'m>(fabric: &Network<'m>, from: &End<'m>, to: &mut End<'m>) {
    for end in [from, &*to] {
        let counts = end.cq.counts();
        assert_eq!((counts.odd, counts.stale, counts.unknown_queue), (0, 0, 0));
    }
    fabric.borrow_mut().settle(100_000);
    while let [_, ..] = to.poll().iter().map(|wc| to.ended(wc.wr_id())).collect::<Vec<_>>()[..] {}
    let under_way = to.posted.len();
    let mut more = 0;
    while to.post_receive(SLOT).is_ok() {
        more += 1;
    }
    assert_eq!(under_way + more, PLACES - 1);
}

#[test]
fn shared_receives_end_once_or_are_returned() {
    let mut report = Report::default();
    for seed in 1..=10 {
        run(seed, &mut report);
    }
    assert!(report.arrived > 500 && report.failed > 5 && report.returned > 5, "{report:?}");
}

#[test]
fn what_shared_receives_cannot_be_is_refused_by_name() {
    let machine = Machine::new();
    let fabric = RefCell::new(Fabric::new(1, 2, Manner::default()));
    let mut end = End::new(&fabric, &machine, 0);
    end.open(0, false);
    let pair = end.pairs[0].as_ref().unwrap();
    let own = RecvRequest { wr_id: WrId::from_raw(1), segments: &[] };
    assert_eq!(pair.post_recv(&own), Err(Misuse::Unsupported.into()), "it has no own ones");
    assert_eq!(pair.limits().recv_depth, 0);
    let beyond = Segment { length: 1 << 20, ..end.segment(0, 8) };
    let bad = RecvRequest { wr_id: WrId::from_raw(1), segments: &[beyond] };
    assert_eq!(end.shared.post_recv(&bad), Err(Misuse::ForeignKey.into()));
    let many = [end.segment(0, 8); 2];
    let bad = RecvRequest { wr_id: WrId::from_raw(1), segments: &many };
    assert_eq!(end.shared.post_recv(&bad), Err(Misuse::TooLong.into()));
    assert_eq!(end.shared.ring_recv_doorbell().count, 0);
    // Pairs of one shared queue complete in one queue.
    let elsewhere = HostCq::new(LentCompletions { machine: &machine, number: 1 }, 2).unwrap();
    let handle = LentPair { fabric: &fabric, machine: &machine, number: 1, node: 0 };
    let refused = HostPair::with_shared(&elsewhere, handle, &SHARED_CONFIG, &end.shared);
    let why = Mlx5Error::Completions(CompletionsError::Shared { cqn: 0 });
    assert_eq!(refused.map(drop), Err(why));
    // Where nobody takes from it any more, any may; and the entries that the last one has needed for it are there again.
    end.pairs[0] = None;
    for round in 0..100 {
        let handle = LentPair { fabric: &fabric, machine: &machine, number: 1, node: 0 };
        let moved = HostPair::with_shared(&elsewhere, handle, &SHARED_CONFIG, &end.shared);
        assert!(moved.is_ok(), "{round}: {:?}", moved.map(drop));
    }
    let changes: [(Change, &str); 5] = [
        (|dv| dv.head = 1, "mlx5dv_srq.head"),
        (|dv| dv.tail = 6, "mlx5dv_srq.tail"),
        (|dv| dv.stride = 48, "mlx5dv_srq.stride"),
        (|dv| dv.buf = core::ptr::null_mut(), "mlx5dv_srq.buf"),
        (|dv| dv.dbrec = core::ptr::null_mut(), "mlx5dv_srq.dbrec"),
    ];
    for (change, says) in changes {
        machine.dv_srq.set(change);
        let refused = HostShared::new(LentShared { machine: &machine }, 1).map(drop);
        assert!(refused.unwrap_err().to_string().contains(says), "{says}");
    }
    machine.dv_srq.set(|_| ());
    let long = HostShared::new(LentShared { machine: &machine }, 2).map(drop);
    assert!(matches!(long, Err(Mlx5Error::Pair(_))), "one range is all that its places have");
}
