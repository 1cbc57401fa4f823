//! One end: its memory, its queues, the work that it makes up, and what it makes of completions.

use core::mem::MaybeUninit;
use std::rc::Rc;

use spinwire_dataplane::error::{Fatal, PostError, Retry};
use spinwire_dataplane::raw::line::Line;
use spinwire_dataplane::raw::mmio::{Device, DoorbellRecord};
use spinwire_dataplane::raw::place::Bump;
use spinwire_dataplane::raw::region::{LocalSge, Region};
use spinwire_dataplane::sync::AtomicU32;
use spinwire_dataplane::wqe::receive::RecvMemory;
use spinwire_dataplane::wqe::{
    Qp, QpConfig, QpMemory, RecvConfig, SendConfig, SharedRecvQueue, Transport, WqeFlags,
};
use spinwire_tests::rng::Rng;
use spinwire_tests::sim::nic::bytes::write_lines;
use spinwire_tests::sim::nic::memory::Access;
use spinwire_tests::sim::nic::wqe::{Rules, Transport as Kind};
use spinwire_tests::sim::nic::{CqPlan, Fabric, QpPlan, Receives, SrqPlan, lines};

use super::Plan;
use super::ends::{Dispatch, Ends};
use super::oracle::{Effect, Message, Oracle, Request};
use super::reader;

/// Bytes of the place of a message.
pub(super) const SLOT: usize = 512;
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
pub(super) struct Map {
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

    pub(super) const fn receive(self, pair: usize, slot: usize) -> usize {
        pair * self.of_pair() + (2 * self.sends + slot) * SLOT
    }

    const fn constant(self) -> usize {
        self.pairs * self.of_pair()
    }

    pub(super) const fn sum(self, pair: usize) -> usize {
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
    pub(super) data: Vec<Line>,
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
    pub(super) ends: Rc<Ends<'m>>,
    pub(crate) oracle: Oracle,
    pub(super) free: Vec<usize>,
    pub(super) sums: u64,
    pub(super) receives_free: Vec<usize>,
    receives_out: usize,
}

pub(crate) struct Node<'m> {
    pub(crate) number: usize,
    pub(super) plan: Plan,
    pub(super) map: Map,
    pub(crate) pairs: Vec<Pair<'m>>,
    srq: Rc<SharedRecvQueue<'m, u64, Device>>,
    pub(super) srq_free: Vec<usize>,
    cqs: Vec<Dispatch<'m>>,
    region: Region<'m>,
    pub(super) memory: &'m [Memory; 2],
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
        let bump = Bump::new(arena);
        let start = address(&here.data);
        fabric.nodes[number].keys.lines((key(number), DOMAIN), start, &here.data, Access::ALL);
        let cqe_bytes = if plan.wide_cqe { 128 } else { 64 };
        let form = (plan.wide_cqe, plan.compress);
        let mut cqs = Vec::new();
        for (at, (ring, record)) in (0..).zip(&here.cqs) {
            let pairs = u32::try_from(plan.pairs).unwrap();
            cqs.push(Dispatch::new(&bump, reader::open(ring, record, form), pairs));
            let compress = plan.compress;
            fabric.cq(number, CqPlan { number: at, ring, cqe_bytes, record, compress });
        }
        let (ring, record) = (&here.srq, &here.record);
        fabric.srq(number, SrqPlan { number: SRQ, domain: DOMAIN, ring, stride: 64, record });
        let recv = RecvConfig { wqes: plan.receives, sge_max: SGES + 1 };
        let srq_memory = RecvMemory { ring, record: DoorbellRecord::new(record) };
        let srq = Rc::new(SharedRecvQueue::place(&bump, recv, srq_memory, Device).unwrap());
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
            let qp = Qp::place(&bump, config, memory, Device).unwrap();
            let ends = Rc::new(Ends { qp, srq: plan.shared.then(|| Rc::clone(&srq)) });
            cqs[if plan.own_cqs { pair } else { 0 }].add(&ends);
            Pair {
                ends,
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

    pub(super) const fn other(&self) -> usize {
        1 - self.number
    }

    pub(super) fn data(&self) -> &'m [Line] {
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
                busy |= self.pairs[pair].ends.qp.ring_doorbell() > 0;
            }
        }
        if self.plan.shared {
            self.srq.ring_doorbell();
        }
        let first = rng.index(self.cqs.len());
        for at in (first..self.cqs.len()).chain(0..first) {
            let seen = self.cqs[at].poll([1, 16, 64][rng.index(3)]);
            busy |= !seen.is_empty();
            for (qpn, ended) in seen {
                self.handle(self.pair_of(qpn), ended);
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
            self.pairs[pair].ends.qp.with_rq_wqe(|wqe| wqe.sges(&sges).finish(entry))
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
        let qp = &self.pairs[pair].ends.qp;
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
        let qp = &self.pairs[pair].ends.qp;
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
        let qp = &self.pairs[pair].ends.qp;
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
        let qp = &self.pairs[pair].ends.qp;
        qp.with_sq_wqe(|wqe| {
            finish!(wqe.atomic_fa(WqeFlags::NONE, place, 1).result(result)?, entry)
        })?;
        let before = self.pairs[pair].sums.to_le_bytes().to_vec();
        Ok(Effect::Read(u64::try_from(at).unwrap(), before))
    }

    fn pair_of(&self, number: u32) -> usize {
        (0..self.pairs.len()).find(|pair| qpn(self.number, *pair) == number).expect("it is ours")
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
