//! One end: its memory, its queues, the work that it makes up, and what it makes of completions.

use core::mem::MaybeUninit;

use spinwire_dataplane::cq::Arrival;
use spinwire_dataplane::error::{Fatal, PostError, Retry};
use spinwire_dataplane::raw::line::Line;
use spinwire_dataplane::raw::mmio::{Device, DoorbellRecord};
use spinwire_dataplane::raw::place::Bump;
use spinwire_dataplane::raw::region::{LocalSge, Region};
use spinwire_dataplane::sync::AtomicU32;
use spinwire_dataplane::tracker::{Earlier, Posted};
use spinwire_dataplane::wqe::receive::RecvMemory;
use spinwire_dataplane::wqe::{
    Qp, QpConfig, QpMemory, RecvConfig, SendConfig, SharedRecvQueue, Transport, WqeFlags,
};
use spinwire_tests::rng::Rng;
use spinwire_tests::sim::nic::bytes::{read_ring, write_lines};
use spinwire_tests::sim::nic::memory::Access;
use spinwire_tests::sim::nic::wqe::{Rules, Transport as Kind};
use spinwire_tests::sim::nic::{CqPlan, Fabric, QpPlan, Receives, SrqPlan, State, lines};

use super::Plan;
use super::oracle::{Effect, Message, Oracle, Request};
use super::reader::{Reader, Seen};

/// Bytes of the place of a message.
const SLOT: usize = 512;
/// Number of the shared receive queue.
const SRQ: u32 = 0x77;
const DOMAIN: u32 = 3;

/// Finishes a request: with an entry it asks for a completion.
macro_rules! finish {
    ($wqe:expr, $entry:expr) => {{
        let wqe = $wqe;
        match $entry {
            Some(entry) => wqe.finish_signaled(entry),
            None => wqe.finish_unsignaled(),
        }
    }};
}

pub(crate) fn qpn(node: usize, pair: usize) -> u32 {
    u32::try_from(0x100 + node * 0x10 + pair).unwrap()
}

const fn key(node: usize) -> u32 {
    if node == 0 { 0x1100 } else { 0x2200 }
}

/// Parts of the memory of a node that its messages lie in: of each queue pair places to send from, to receive into, to be written
/// to; then bytes that only are read, and a sum for each.
#[derive(Clone, Copy)]
struct Map {
    sends: usize,
    receives: usize,
    pairs: usize,
}

impl Map {
    fn new(plan: &Plan) -> Self {
        Self { sends: plan.blocks, receives: usize::from(plan.receives), pairs: plan.pairs }
    }

    const fn of_pair(self) -> usize {
        (2 * self.sends + self.receives) * SLOT
    }

    const fn send(self, pair: usize, slot: usize) -> usize {
        pair * self.of_pair() + slot * SLOT
    }

    const fn target(self, pair: usize, slot: usize) -> usize {
        pair * self.of_pair() + (self.sends + slot) * SLOT
    }

    const fn receive(self, pair: usize, slot: usize) -> usize {
        pair * self.of_pair() + (2 * self.sends + slot) * SLOT
    }

    const fn constant(self) -> usize {
        self.pairs * self.of_pair()
    }

    const fn sum(self, pair: usize) -> usize {
        self.constant() + SLOT + pair * 64
    }

    const fn bytes(self) -> usize {
        self.constant() + SLOT + self.pairs * 64
    }
}

struct PairMemory {
    sq: Vec<Line>,
    rq: Vec<Line>,
    record: [AtomicU32; 2],
    register: Vec<Line>,
}

pub(crate) struct Memory {
    pairs: Vec<PairMemory>,
    srq: Vec<Line>,
    record: [AtomicU32; 2],
    cqs: Vec<(Vec<Line>, [AtomicU32; 2])>,
    data: Vec<Line>,
}

const fn record() -> [AtomicU32; 2] {
    [AtomicU32::new(0), AtomicU32::new(0)]
}

/// Segments of a receive.
const SGES: u16 = 2;

impl Memory {
    pub(crate) fn new(plan: &Plan) -> Self {
        let receives = usize::from(plan.receives);
        let pair = || PairMemory {
            sq: lines(plan.blocks),
            rq: lines((receives * 32).div_ceil(64)),
            record: record(),
            register: lines(plan.register_lines),
        };
        let completions = (plan.pairs * (plan.blocks + receives) + 1).next_power_of_two();
        let cq = || (lines(completions * if plan.wide_cqe { 2 } else { 1 }), record());
        let data = lines(Map::new(plan).bytes() / 64);
        let constant: Vec<u8> = (0..SLOT).map(|at| u8::try_from(at % 253).unwrap()).collect();
        write_lines(&data, Map::new(plan).constant(), &constant);
        Self {
            pairs: (0..plan.pairs).map(|_| pair()).collect(),
            srq: lines(receives),
            record: record(),
            cqs: (0..if plan.own_cqs { plan.pairs } else { 1 }).map(|_| cq()).collect(),
            data,
        }
    }
}

pub(crate) fn arena(plan: &Plan) -> Vec<MaybeUninit<u8>> {
    let rows = plan.pairs * (plan.blocks + usize::from(plan.receives)) + usize::from(plan.receives);
    vec![MaybeUninit::uninit(); 4096 + rows * 64]
}

pub(crate) struct Pair<'m> {
    qp: Qp<'m, u64, Device>,
    pub(crate) oracle: Oracle,
    free: Vec<usize>,
    sums: u64,
    receives_free: Vec<usize>,
    receives_out: usize,
}

pub(crate) struct Node<'m> {
    pub(crate) number: usize,
    plan: Plan,
    map: Map,
    pub(crate) pairs: Vec<Pair<'m>>,
    srq: SharedRecvQueue<'m, u64, Device>,
    srq_free: Vec<usize>,
    cqs: Vec<Reader<'m>>,
    region: Region<'m>,
    memory: &'m [Memory; 2],
}

#[expect(unsafe_code, reason = "the lines are registered with the device under that key")]
pub(crate) const fn region(lines: &[Line], key: u32) -> Region<'_> {
    // SAFETY: the device of the tests is given the same lines under that key, or none at all, and both end with the test; nobody
    // but this thread touches them, and all that do go through their atomics.
    unsafe { Region::promise(lines, key) }
}

fn address(lines: &[Line]) -> u64 {
    u64::try_from(lines.as_ptr().expose_provenance()).unwrap()
}

impl<'m> Node<'m> {
    pub(crate) fn new(
        number: usize,
        plan: &Plan,
        memory: &'m [Memory; 2],
        arena: &'m mut [MaybeUninit<u8>],
        fabric: &mut Fabric<'m>,
    ) -> Self {
        let here = &memory[number];
        let start = address(&here.data);
        fabric.nodes[number].keys.lines((key(number), DOMAIN), start, &here.data, Access::ALL);
        let cqe_bytes = if plan.wide_cqe { 128 } else { 64 };
        let form = (plan.wide_cqe, plan.compress);
        let mut cqs = Vec::new();
        for (at, (ring, record)) in (0..).zip(&here.cqs) {
            cqs.push(Reader::new(ring, record, form));
            let compress = plan.compress;
            fabric.cq(number, CqPlan { number: at, ring, cqe_bytes, record, compress });
        }
        let (ring, record) = (&here.srq, &here.record);
        fabric.srq(number, SrqPlan { number: SRQ, domain: DOMAIN, ring, stride: 64, record });
        let bump = Bump::new(arena);
        let recv = RecvConfig { wqes: plan.receives, sge_max: SGES + 1 };
        let srq_memory = RecvMemory { ring, record: DoorbellRecord::new(record) };
        let srq = SharedRecvQueue::place(&bump, recv, srq_memory, Device).unwrap();
        let pairs = (0..plan.pairs).map(|pair| {
            let at = &here.pairs[pair];
            let qpn = qpn(number, pair);
            fabric.qp(number, device_plan(plan, at, (qpn, pair)));
            let config = QpConfig {
                qpn,
                transport: Transport::Rc { path: None },
                send: SendConfig {
                    wqe_blocks_max: plan.wqe_blocks_max,
                    straddle: plan.straddle,
                    blue_flame: plan.blue_flame,
                },
                recv: (!plan.shared).then_some(RecvConfig { wqes: plan.receives, sge_max: SGES }),
            };
            let memory = QpMemory { sq: &at.sq, rq: &at.rq, record: &at.record, uar: &at.register };
            Pair {
                qp: Qp::place(&bump, config, memory, Device).unwrap(),
                oracle: Oracle::default(),
                free: (0..plan.blocks).collect(),
                sums: 0,
                receives_free: (0..usize::from(plan.receives)).collect(),
                receives_out: 0,
            }
        });
        let pairs = pairs.collect();
        let srq_free = (0..usize::from(plan.receives)).collect();
        let (map, plan) = (Map::new(plan), *plan);
        let region = region(&here.data, key(number));
        Self { number, plan, map, pairs, srq, srq_free, cqs, region, memory }
    }

    const fn other(&self) -> usize {
        1 - self.number
    }

    fn data(&self) -> &'m [Line] {
        &self.memory[self.number].data
    }

    fn sge(&self, at: usize, length: usize) -> LocalSge {
        let (at, length) = (u64::try_from(at).unwrap(), u32::try_from(length).unwrap());
        self.region.range(at, length).unwrap()
    }

    /// A range in up to three pieces.
    fn sges(&self, at: usize, length: usize, rng: &mut Rng) -> Vec<LocalSge> {
        if length == 0 {
            return Vec::new();
        }
        let mut cuts = [0, rng.index(length), rng.index(length), length];
        cuts.sort_unstable();
        let pieces = cuts.windows(2).filter(|cut| cut[0] < cut[1]);
        pieces.map(|cut| self.sge(at + cut[0], cut[1] - cut[0])).collect()
    }

    /// Posts receives and work, rings, polls. Whether anything was done.
    pub(crate) fn turn(&mut self, rng: &mut Rng) -> bool {
        let mut busy = false;
        for pair in 0..self.pairs.len() {
            busy |= self.post_receives(pair, rng);
            if rng.chance(70) {
                for _ in 0..rng.between(1, self.plan.batch) {
                    if !self.post(pair, rng) {
                        break;
                    }
                    busy = true;
                }
            }
            if rng.chance(80) || !busy {
                busy |= self.pairs[pair].qp.ring_doorbell() > 0;
            }
        }
        if self.plan.shared {
            self.srq.ring_doorbell();
        }
        let first = rng.index(self.cqs.len());
        for at in (first..self.cqs.len()).chain(0..first) {
            let seen = self.cqs[at].poll([1, 16, 64][rng.index(3)]);
            busy |= !seen.is_empty();
            for seen in seen {
                self.handle(seen);
            }
        }
        busy
    }

    fn post_receives(&mut self, pair: usize, rng: &mut Rng) -> bool {
        if self.pairs[pair].oracle.broken || !rng.chance(60) {
            return false;
        }
        let free =
            if self.plan.shared { &mut self.srq_free } else { &mut self.pairs[pair].receives_free };
        let Some(slot) = free.pop() else { return false };
        let at =
            if self.plan.shared { self.map.receive(0, slot) } else { self.map.receive(pair, slot) };
        let cut = rng.index(SLOT);
        let mut sges = vec![self.sge(at + cut, SLOT - cut)];
        if cut > 0 {
            sges.insert(0, self.sge(at, cut));
        }
        write_lines(self.data(), at, &[0xEE; SLOT]);
        let entry = u64::try_from(slot).unwrap();
        let posted = if self.plan.shared {
            self.srq.with_srq_wqe(|wqe| wqe.sges(&sges).finish(entry))
        } else {
            self.pairs[pair].qp.with_rq_wqe(|wqe| wqe.sges(&sges).finish(entry))
        };
        match posted {
            Ok(()) => {
                self.pairs[pair].receives_out += 1;
                true
            }
            Err(error) => {
                let failed = PostError::Fatal(Fatal::QueueError);
                assert!(error == PostError::Retry(Retry::RqFull) || error == failed);
                let free = if self.plan.shared {
                    &mut self.srq_free
                } else {
                    &mut self.pairs[pair].receives_free
                };
                free.push(slot);
                false
            }
        }
    }

    /// Posts a work request of any kind. Whether there was room.
    fn post(&mut self, pair: usize, rng: &mut Rng) -> bool {
        let oracle = &self.pairs[pair].oracle;
        if oracle.broken || oracle.messages_posted == self.plan.messages {
            return false;
        }
        let (id, left) = (oracle.next_id, self.plan.messages - oracle.messages_posted);
        let Some(slot) = self.pairs[pair].free.pop() else { return false };
        let bad = rng.below(10_000) < self.plan.bad;
        // The last one asks for a completion, so that everything ends.
        let signaled = left == 1 || rng.chance(self.plan.signaled_percent);
        let posted = match rng.below(10) {
            0 => self.post_read(pair, (slot, bad), signaled.then_some(id), rng),
            1 => self.post_write(pair, (slot, bad), signaled.then_some(id), rng),
            2 => self.post_sum(pair, (slot, bad), signaled.then_some(id)),
            _ => self.post_message(pair, (slot, bad), signaled.then_some(id), rng),
        };
        let at = &mut self.pairs[pair];
        match posted {
            Ok(effect) => {
                at.oracle.next_id += 1;
                at.oracle.messages_posted += u64::from(matches!(effect, Effect::Message));
                at.sums += u64::from(matches!(&effect, Effect::Read(_, bytes) if bytes.len() == 8));
                let request = Request { id, signaled, slot: Some(slot), effect, bad };
                at.oracle.under_way.push_back(request);
                true
            }
            Err(error) => {
                assert_eq!(error, PostError::Retry(Retry::SqFull));
                at.free.push(slot);
                false
            }
        }
    }

    const fn rkey(&self, bad: bool) -> u32 {
        if bad { 0xBAD } else { key(self.other()) }
    }

    fn far(&self, at: usize) -> u64 {
        address(&self.memory[self.other()].data) + u64::try_from(at).unwrap()
    }

    fn post_message(
        &self,
        pair: usize,
        (slot, bad): (usize, bool),
        entry: Option<u64>,
        rng: &mut Rng,
    ) -> Result<Effect, PostError> {
        let qp = &self.pairs[pair].qp;
        let number = self.pairs[pair].oracle.messages_posted;
        let message = Message::new(self.plan.seed, qp.qpn(), number);
        let (bytes, at) = (message.bytes(), self.map.send(pair, slot));
        write_lines(self.data(), at, &bytes);
        let sges = self.sges(at, bytes.len(), rng);
        let room = usize::from(self.plan.wqe_blocks_max) * 64 - 16 - 16 - 4;
        let inline = !bad && bytes.len() <= room && rng.chance(60);
        let target = (self.far(self.map.target(pair, slot)), self.rkey(bad));
        // The device has no such key.
        let wrong = [region(self.data(), 0xBAD).range(0, 8).unwrap()];
        let sges = if bad { &wrong[..] } else { &sges };
        let flags = if rng.chance(10) { WqeFlags::SOLICITED } else { WqeFlags::NONE };
        qp.with_sq_wqe(|wqe| {
            let wqe = match message.kind {
                0 if inline => return finish!(wqe.send(flags).inline(&bytes), entry),
                0 => return finish!(wqe.send(flags).sges(sges), entry),
                1 if inline => {
                    return finish!(wqe.send_imm(flags, message.imm).inline(&bytes), entry);
                }
                1 => return finish!(wqe.send_imm(flags, message.imm).sges(sges), entry),
                _ => wqe.write_imm(flags, target, message.imm),
            };
            if inline { finish!(wqe.inline(&bytes), entry) } else { finish!(wqe.sges(sges), entry) }
        })?;
        Ok(Effect::Message)
    }

    fn post_write(
        &self,
        pair: usize,
        (slot, bad): (usize, bool),
        entry: Option<u64>,
        rng: &mut Rng,
    ) -> Result<Effect, PostError> {
        let bytes = spinwire_tests::rng::pattern(rng.word(), rng.between(1, SLOT));
        let at = self.map.send(pair, slot);
        write_lines(self.data(), at, &bytes);
        let sges = self.sges(at, bytes.len(), rng);
        let to = self.map.target(pair, slot);
        let (far, rkey) = (self.far(to), self.rkey(bad));
        let qp = &self.pairs[pair].qp;
        qp.with_sq_wqe(|wqe| finish!(wqe.write(WqeFlags::NONE, far, rkey).sges(&sges), entry))?;
        Ok(Effect::Written(u64::try_from(to).unwrap(), bytes))
    }

    fn post_read(
        &self,
        pair: usize,
        (slot, bad): (usize, bool),
        entry: Option<u64>,
        rng: &mut Rng,
    ) -> Result<Effect, PostError> {
        let length = [rng.between(1, 64), rng.between(1, SLOT)][rng.index(2)];
        let length = if length == 8 { 9 } else { length };
        let from = rng.index(SLOT - length + 1);
        let at = self.map.send(pair, slot);
        let sges = self.sges(at, length, rng);
        let (far, rkey) = (self.far(self.map.constant() + from), self.rkey(bad));
        let flags = if rng.chance(30) { WqeFlags::FENCE } else { WqeFlags::NONE };
        let qp = &self.pairs[pair].qp;
        qp.with_sq_wqe(|wqe| finish!(wqe.read(flags, far, rkey).sges(&sges), entry))?;
        let bytes = (from..from + length).map(|at| u8::try_from(at % 253).unwrap());
        Ok(Effect::Read(u64::try_from(at).unwrap(), bytes.collect()))
    }

    fn post_sum(
        &self,
        pair: usize,
        (slot, bad): (usize, bool),
        entry: Option<u64>,
    ) -> Result<Effect, PostError> {
        let at = self.map.send(pair, slot);
        let place = (self.far(self.map.sum(pair)), self.rkey(bad));
        let result = self.sge(at, 8);
        let qp = &self.pairs[pair].qp;
        qp.with_sq_wqe(|wqe| {
            finish!(wqe.atomic_fa(WqeFlags::NONE, place, 1).result(result)?, entry)
        })?;
        let before = self.pairs[pair].sums.to_le_bytes().to_vec();
        Ok(Effect::Read(u64::try_from(at).unwrap(), before))
    }

    fn pair_of(&self, number: u32) -> usize {
        (0..self.pairs.len()).find(|pair| qpn(self.number, *pair) == number).expect("it is ours")
    }

    fn handle(&mut self, seen: Seen) {
        match seen {
            Seen::Sent { qpn, counter, bytes, inline } => {
                let pair = self.pair_of(qpn);
                let done = self.pairs[pair].qp.sq().complete(counter).expect("it is under way");
                let over = self.pairs[pair].oracle.complete(done.entry, done.unsignaled);
                self.check(pair, &over, (bytes, inline));
            }
            Seen::Received { qpn, counter, arrival, bytes, inline } => {
                let pair = self.pair_of(qpn);
                let slot = self.take_receive(pair, counter);
                self.arrived(pair, slot, (arrival, bytes), inline);
            }
            Seen::Failed { send: true, qpn, counter, syndrome } => {
                let pair = self.pair_of(qpn);
                self.send_failed(pair, counter, syndrome.is_flush());
            }
            Seen::Failed { send: false, qpn, counter, .. } => {
                let pair = self.pair_of(qpn);
                let slot = if self.plan.shared {
                    self.srq.complete(counter).expect("it is under way")
                } else {
                    let rq = self.pairs[pair].qp.rq().unwrap();
                    match rq.fail(counter).expect("it is under way").wqe {
                        Posted::Signaled(entry) => entry,
                        Posted::Unsignaled | Posted::Fill => panic!("a receive is neither"),
                    }
                };
                self.give_back(pair, usize::try_from(slot).unwrap());
            }
        }
    }

    fn take_receive(&self, pair: usize, counter: u16) -> usize {
        let entry = if self.plan.shared {
            self.srq.complete(counter).expect("it is under way")
        } else {
            self.pairs[pair].qp.rq().unwrap().complete(counter).expect("it is under way").entry
        };
        usize::try_from(entry).unwrap()
    }

    fn give_back(&mut self, pair: usize, slot: usize) {
        let free =
            if self.plan.shared { &mut self.srq_free } else { &mut self.pairs[pair].receives_free };
        assert!(!free.contains(&slot), "a receive came back twice");
        free.push(slot);
    }

    /// A message is here: the next one of that queue pair, all of it, and where it belongs.
    fn arrived(
        &mut self,
        pair: usize,
        slot: usize,
        (arrival, bytes): (Arrival, u32),
        inline: Option<Vec<u8>>,
    ) {
        let number = self.pairs[pair].oracle.delivered;
        let message = Message::new(self.plan.seed, qpn(self.other(), pair), number);
        self.pairs[pair].oracle.delivered += 1;
        assert_eq!(usize::try_from(bytes).unwrap(), message.length, "message {number}");
        let expected = match message.kind {
            0 => Arrival::Send,
            1 => Arrival::SendImm(message.imm),
            _ => Arrival::WriteImm(message.imm),
        };
        assert_eq!(arrival, expected);
        let map = self.map;
        let at = if self.plan.shared { map.receive(0, slot) } else { map.receive(pair, slot) };
        if message.kind != 2 {
            let here = read_ring(self.data(), at, SLOT);
            let found = inline.as_deref().unwrap_or(&here[..message.length]);
            assert_eq!(found, message.bytes(), "message {number} of pair {pair}");
            let rest = if inline.is_some() { 0 } else { message.length };
            assert!(here[rest..].iter().all(|byte| *byte == 0xEE), "and nothing behind it");
        }
        self.give_back(pair, slot);
    }

    /// What is over has had its effect.
    fn check(&mut self, pair: usize, over: &[Request], (back, inline): (u32, Option<Vec<u8>>)) {
        let last = over.last().map(|request| request.id);
        if let Some(Effect::Read(_, bytes)) = over.last().map(|request| &request.effect) {
            assert_eq!(usize::try_from(back).unwrap(), bytes.len());
        }
        for request in over {
            match &request.effect {
                Effect::Written(at, bytes) => {
                    let there = &self.memory[self.other()].data;
                    let at = usize::try_from(*at).unwrap();
                    assert_eq!(read_ring(there, at, bytes.len()), *bytes);
                }
                Effect::Read(at, bytes) => {
                    let at = usize::try_from(*at).unwrap();
                    let inline = inline.as_ref().filter(|_| last == Some(request.id));
                    let found =
                        inline.cloned().unwrap_or_else(|| read_ring(self.data(), at, bytes.len()));
                    assert_eq!(found, *bytes);
                }
                Effect::Message => {}
            }
        }
        self.release(pair, over);
    }

    fn release(&mut self, pair: usize, over: &[Request]) {
        self.pairs[pair].free.extend(over.iter().filter_map(|request| request.slot));
    }

    fn send_failed(&mut self, pair: usize, counter: u16, is_flush: bool) {
        let at = &mut self.pairs[pair];
        let failed = at.qp.sq().fail(counter).expect("it is under way");
        let (count, are_done) = match failed.earlier {
            // Where the other end broke it, those before the first that was flushed may be done or not.
            Earlier::Done(count) => (count, !is_flush),
            Earlier::Flushed(count) => (count, false),
        };
        let over = at.oracle.earlier(count, are_done);
        let id = match failed.wqe {
            Posted::Signaled(entry) => Some(entry),
            Posted::Unsignaled => None,
            Posted::Fill => {
                // The first error of a queue that the other end broke may name it.
                at.oracle.broken = true;
                return self.release(pair, &over);
            }
        };
        let request = at.oracle.fail(id, is_flush);
        self.release(pair, &over);
        self.release(pair, &[request]);
    }

    /// Whether there is nothing more to be done here.
    pub(crate) fn is_done(&self) -> bool {
        let over = |pair: &Pair<'_>| {
            let oracle = &pair.oracle;
            let all = oracle.messages_posted == self.plan.messages && oracle.under_way.is_empty();
            all || oracle.broken
        };
        self.pairs.iter().all(over)
    }

    /// Everything is quiet: what is left ends here.
    pub(crate) fn finish(&mut self, fabric: &Fabric<'m>) {
        for pair in 0..self.pairs.len() {
            let broken = fabric.state(self.number, qpn(self.number, pair)) == State::Error;
            let at = &mut self.pairs[pair];
            if broken {
                while let Some(flushed) = at.qp.sq().flush() {
                    at.oracle.broken = true;
                    let request = at.oracle.fail(flushed.entry, true);
                    at.free.extend(request.slot);
                }
            }
            let left: Vec<_> = at.oracle.under_way.iter().filter(|r| r.signaled).collect();
            assert!(left.is_empty(), "never completed: {left:?}");
            if broken {
                assert!(at.oracle.under_way.is_empty() && at.qp.sq().tracker().is_empty());
                assert_eq!(at.free.len(), self.plan.blocks, "each place is free again");
            } else {
                let sums = read_ring(&self.memory[1 - self.number].data, self.map.sum(pair), 8);
                assert_eq!(sums, at.sums.to_le_bytes(), "each sum once");
            }
        }
    }
}

fn device_plan<'m>(plan: &Plan, at: &'m PairMemory, (qpn, pair): (u32, usize)) -> QpPlan<'m> {
    let cq = if plan.own_cqs { u32::try_from(pair).unwrap() } else { 0 };

    QpPlan {
        rules: Rules { qpn, transport: Kind::Rc, inline_max: 1024 },
        domain: DOMAIN,
        sq: &at.sq,
        rq: if plan.shared { Receives::Shared(SRQ) } else { Receives::Ring(&at.rq, 32) },
        record: &at.record,
        register: &at.register,
        cqs: (cq, cq),
        qkey: 0,
        retries: 7,
        rnr_retries: 7,
        scatter_to_cqe: plan.scatter,
    }
}
