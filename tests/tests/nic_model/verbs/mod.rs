//! Queue pairs and completion queues of mlx5 as verbs have them, over the model of the device: both ends move messages by all verbs, with an
//! oracle of every request; errors, flushes, and lives after that.

mod cases;
mod shared;

use core::mem::MaybeUninit;
use std::collections::VecDeque;

use heapless::VecView;
use spinwire_dataplane::error::{Fatal, Misuse, PostError, Retry};
use spinwire_dataplane::id::WrId;
use spinwire_dataplane::provider::mlx5::{Completions, Pair, PairConfig};
use spinwire_dataplane::raw::line::Line;
use spinwire_dataplane::raw::mmio::Device;
use spinwire_dataplane::raw::place::Bump;
use spinwire_dataplane::raw::region::MemoryKey;
use spinwire_dataplane::sync::AtomicU32;
use spinwire_dataplane::verbs::{
    CompletionQueue, QueuePair, RecvRequest, RemotePlace, Segment, SendFlags, SendRequest, Verb,
    Wc, WcStatus,
};
use spinwire_dataplane::wqe::{
    BlueFlame, Qp, QpConfig, QpMemory, RecvConfig, SendConfig, Straddle, Transport,
};
use spinwire_tests::rng::{Rng, pattern};
use spinwire_tests::sim::nic::bytes::{read_ring, write_lines};
use spinwire_tests::sim::nic::memory::Access;
use spinwire_tests::sim::nic::wqe::{Rules, Transport as Kind};
use spinwire_tests::sim::nic::{CqPlan, Fabric, Flush, Manner, QpPlan, Receives, Short, lines};

use crate::driven::node::region;
use crate::driven::reader::open;

const DOMAIN: u32 = 4;
const KEY: [u32; 2] = [0x5100, 0x5200];
const QPN: [u32; 2] = [0x71, 0x72];
/// Blocks of a send queue, and receives.
const BLOCKS: u16 = 16;
const RECEIVES: u16 = 8;
/// Places of a message in memory: as many for sends, then as many for receives; then what others write to, read, and count with.
const SLOT: usize = 256;
const SLOTS: usize = 24;
const TARGET: usize = 2 * SLOTS * SLOT;
const CONSTANT: usize = TARGET + SLOT;
const SUM: usize = CONSTANT + SLOT;
/// In an id: it is a receive.
const RECEIVE: u64 = 1 << 40;

struct Ground {
    sq: Vec<Line>,
    rq: Vec<Line>,
    record: [AtomicU32; 2],
    register: Vec<Line>,
    cq: Vec<Line>,
    cq_record: [AtomicU32; 2],
    data: Vec<Line>,
}

impl Ground {
    fn new() -> Self {
        let record = || [AtomicU32::new(0), AtomicU32::new(0)];
        let data = lines((SUM + 64) / 64);
        write_lines(&data, CONSTANT, &pattern(99, SLOT));
        Self {
            sq: lines(BLOCKS.into()),
            rq: lines(usize::from(RECEIVES) / 2),
            record: record(),
            register: lines(8),
            cq: lines(32),
            cq_record: record(),
            data,
        }
    }
}

/// A send that was posted and has not ended.
#[derive(Debug)]
struct Sent {
    id: u64,
    unsignaled: bool,
    bad: bool,
    slot: usize,
    /// What it brings into its slot.
    brings: Option<Vec<u8>>,
}

/// What a receive will bring: bytes of a send, what goes beside them, and whether it is a write that brings only that.
struct Coming {
    bytes: Vec<u8>,
    told: Option<u32>,
    is_written: bool,
}

impl Coming {
    /// What such a request with those bytes brings; nothing, where no receive hears of it.
    fn of(verb: Verb, bytes: Vec<u8>) -> Option<Self> {
        Some(match verb {
            Verb::Send => Self { bytes, told: None, is_written: false },
            Verb::SendImm(told) => Self { bytes, told: Some(told), is_written: false },
            // What is written goes elsewhere.
            Verb::WriteImm(told) => Self { bytes: Vec::new(), told: Some(told), is_written: true },
            Verb::SendInvalidate(_)
            | Verb::Write
            | Verb::Read
            | Verb::FetchAdd(_)
            | Verb::CompareSwap { .. } => return None,
        })
    }
}

/// One end, and the oracle of what it has posted.
struct End<'m> {
    ground: &'m Ground,
    pair: &'m Pair<'m, Device>,
    cq: Completions<'m, Device, &'m Pair<'m, Device>>,
    key: MemoryKey<'m>,
    data: &'m [Line],
    next_id: u64,
    sends: VecDeque<Sent>,
    receives: VecDeque<(u64, usize)>,
    free: Vec<usize>,
    free_receives: Vec<usize>,
    /// What the other end has sent and this one has not received, in order.
    coming: VecDeque<Coming>,
    staged: [u64; 2],
    failed: Option<WcStatus>,
    ended: [u64; 2],
    sums: u64,
}

/// What a run is like.
#[derive(Clone, Copy)]
struct Plan {
    seed: u64,
    inline: u32,
    straddle: Straddle,
    scatter: bool,
    flush: Flush,
    compress: Short,
    bad_percent: u64,
    unsignaled_percent: u64,
    /// So many in a row at most that ask for no completion: with few the queue needs none of its own, by which they end unheard.
    unheard_max: usize,
}

fn address(lines: &[Line]) -> u64 {
    u64::try_from(lines.as_ptr().expose_provenance()).unwrap()
}

fn device_plan<'m>(node: usize, ground: &'m Ground, plan: &Plan, kind: Kind) -> QpPlan<'m> {
    QpPlan {
        rules: Rules { qpn: QPN[node], transport: kind, inline_max: 512 },
        domain: DOMAIN,
        sq: &ground.sq,
        rq: Receives::Ring(&ground.rq, 32),
        record: &ground.record,
        register: &ground.register,
        cqs: (0, 0),
        qkey: 0x11,
        retries: 7,
        rnr_retries: 7,
        scatter_to_cqe: plan.scatter,
    }
}

fn qp<'m>(
    bump: &Bump<'m>,
    node: usize,
    ground: &'m Ground,
    plan: &Plan,
    kind: Kind,
) -> Pair<'m, Device> {
    let rc = kind == Kind::Rc;
    let transport = if rc { Transport::Rc { path: None } } else { Transport::Ud };
    let config = PairConfig {
        sge_max: 2,
        inline_bytes_max: plan.inline,
        message_bytes_max: u32::try_from(SLOT).unwrap(),
        routes_max: 1,
    };
    let send = SendConfig {
        wqe_blocks_max: config.wqe_blocks(transport),
        straddle: plan.straddle,
        blue_flame: BlueFlame::Inline,
    };
    let recv = Some(RecvConfig { wqes: RECEIVES, sge_max: 2 });
    let memory =
        QpMemory { sq: &ground.sq, rq: &ground.rq, record: &ground.record, uar: &ground.register };
    let qp = Qp::place(bump, QpConfig { qpn: QPN[node], transport, send, recv }, memory, Device);
    Pair::place(bump, qp.unwrap(), config).unwrap()
}

impl<'m> End<'m> {
    fn new(
        bump: &Bump<'m>,
        node: usize,
        ground: &'m Ground,
        (plan, kind): (&Plan, Kind),
        fabric: &mut Fabric<'m>,
    ) -> Self {
        let data = &ground.data;
        fabric.nodes[node].keys.lines((KEY[node], DOMAIN), address(data), data, Access::ALL);
        let (ring, record, compress) = (&ground.cq, &ground.cq_record, plan.compress);
        let cq = open(ring, record, (false, compress));
        fabric.cq(node, CqPlan { number: 0, ring, cqe_bytes: 64, record, compress });
        fabric.qp(node, device_plan(node, ground, plan, kind));
        let pair = &*bump.value(qp(bump, node, ground, plan, kind)).unwrap();
        let cq = Completions::place(bump, cq, 1).unwrap();
        cq.add(pair).unwrap();
        Self {
            ground,
            pair,
            cq,
            key: region(data, KEY[node]).key(),
            data,
            next_id: 1,
            sends: VecDeque::new(),
            receives: VecDeque::new(),
            free: (0..SLOTS).collect(),
            free_receives: (0..SLOTS).collect(),
            coming: VecDeque::new(),
            staged: [0; 2],
            failed: None,
            ended: [0; 2],
            sums: 0,
        }
    }

    /// A range of this end's memory, in up to two pieces, one of which may be empty.
    fn segments(&self, at: usize, length: usize, rng: &mut Rng) -> Vec<Segment<MemoryKey<'m>>> {
        let piece = |at: usize, length: usize| Segment {
            address: address(self.data) + u64::try_from(at).unwrap(),
            length: u32::try_from(length).unwrap(),
            key: self.key,
        };
        if rng.chance(50) {
            return vec![piece(at, length)];
        }
        let cut = rng.index(length + 1);
        vec![piece(at, cut), piece(at + cut, length - cut)]
    }

    fn post_receive(&mut self, rng: &mut Rng) {
        let Some(slot) = self.free_receives.pop() else { return };
        let at = (SLOTS + slot) * SLOT;
        write_lines(self.data, at, &[0xEE; SLOT]);
        let id = RECEIVE | self.next_id;
        let segments = self.segments(at, SLOT, rng);
        let posted =
            self.pair.post_recv(&RecvRequest { wr_id: WrId::from_raw(id), segments: &segments });
        match posted {
            Ok(()) => {
                self.next_id += 1;
                self.receives.push_back((id, slot));
                self.staged[1] += 1;
            }
            Err(refused) => {
                let fatal = self.pair.is_failed().then_some(PostError::Fatal(Fatal::QueueError));
                assert!(refused == PostError::Retry(Retry::RqFull) || Some(refused) == fatal);
                self.free_receives.push(slot);
            }
        }
    }

    /// Posts a request of any kind. What the other end will receive by it.
    fn post(
        &mut self,
        (other, node): (&[Line], usize),
        plan: &Plan,
        rng: &mut Rng,
    ) -> Option<Coming> {
        let slot = self.free.pop()?;
        let (at, far) = (slot * SLOT, address(other));
        let bad = rng.chance(plan.bad_percent);
        let key = if bad { 0xBAD } else { KEY[1 - node] };
        let place = |at: usize| RemotePlace { address: far + u64::try_from(at).unwrap(), key };
        let bytes = pattern(rng.word(), rng.index(SLOT + 1));
        let imm = u32::try_from(rng.below(1 << 32)).unwrap();
        let from = rng.index(SLOT / 2);
        let is_atomic_verb = |verb| matches!(verb, Verb::FetchAdd(_) | Verb::CompareSwap { .. });
        let (verb, remote, length) = match rng.below(8) {
            0 => (Verb::Write, Some(place(TARGET)), bytes.len()),
            1 => (Verb::WriteImm(imm), Some(place(TARGET)), bytes.len()),
            2 => (Verb::Read, Some(place(CONSTANT + from)), rng.between(1, SLOT / 2)),
            3 => (Verb::FetchAdd(3), Some(place(SUM)), 8),
            4 => {
                let swap = Verb::CompareSwap { expected: self.sums, swap: self.sums + 5 };
                (swap, Some(place(SUM)), 8)
            }
            5 => (Verb::SendImm(imm), None, bytes.len()),
            _ => (Verb::Send, None, bytes.len()),
        };
        let bad = bad && remote.is_some() && length > 0;
        let brings = if verb == Verb::Read {
            Some(pattern(99, SLOT)[from..from + length].to_vec())
        } else {
            is_atomic_verb(verb).then(|| self.sums.to_le_bytes().to_vec())
        };
        let content = if brings.is_some() { vec![0xDD; length] } else { bytes.clone() };
        write_lines(self.data, at, &content);
        let segments = self.segments(at, length, rng);
        let is_atomic = is_atomic_verb(verb);
        let whole: Vec<_> = segments.iter().filter(|segment| segment.length > 0).copied().collect();
        // Whoever asks for none now and then has to, to have its memory back.
        let unheard = self.sends.iter().rev().take_while(|sent| sent.unsignaled).count();
        let unsignaled = unheard < plan.unheard_max && rng.chance(plan.unsignaled_percent);
        let flags = SendFlags { fence: rng.chance(10), solicited: rng.chance(10), unsignaled };
        let id = self.next_id;
        let request =
            SendRequest { remote, ..SendRequest::new(WrId::from_raw(id), verb, &segments) };
        let posted = self.pair.post_send(&request.with(flags));
        if is_atomic && whole.len() != 1 {
            assert_eq!(posted, Err(Misuse::BadRange.into()), "{segments:?}");
        }
        if let Err(refused) = posted {
            let fatal = self.pair.is_failed().then_some(PostError::Fatal(Fatal::QueueError));
            let bad_range = is_atomic.then_some(PostError::Misuse(Misuse::BadRange));
            let full = refused == PostError::Retry(Retry::SqFull);
            assert!(full || Some(refused) == fatal || Some(refused) == bad_range, "{refused}");
            self.free.push(slot);
            return None;
        }
        self.next_id += 1;
        self.staged[0] += 1;
        if !bad {
            self.sums += if let Verb::FetchAdd(add) = verb { add } else { 0 };
            self.sums += if is_atomic && verb != Verb::FetchAdd(3) { 5 } else { 0 };
        }
        // What goes within the request is the caller's again.
        if brings.is_none() && bytes.len() <= usize::try_from(plan.inline).unwrap() {
            write_lines(self.data, at, &[0xCC; SLOT]);
        }
        self.sends.push_back(Sent { id, unsignaled, bad, slot, brings });
        if bad { None } else { Coming::of(verb, bytes) }
    }

    fn send(
        &self,
        verb: Verb,
        segments: &[Segment<MemoryKey<'m>>],
        remote: Option<RemotePlace>,
    ) -> Result<(), PostError> {
        let request = SendRequest::new(WrId::from_raw(1), verb, segments);
        self.pair.post_send(&SendRequest { remote, ..request })
    }

    fn ring(&mut self) {
        let (sends, receives) = (self.pair.ring_doorbell(), self.pair.ring_recv_doorbell());
        assert_eq!((sends.error, receives.error), (None, None));
        assert_eq!([sends.count, receives.count], core::mem::take(&mut self.staged));
    }

    fn poll(&mut self, rng: &mut Rng) -> bool {
        let (mut one, mut some, mut many) = (
            heapless::Vec::<Wc, 1>::new(),
            heapless::Vec::<Wc, 3>::new(),
            heapless::Vec::<Wc, 40>::new(),
        );
        let out: &mut VecView<Wc> = match rng.index(3) {
            0 => &mut one,
            1 => &mut some,
            _ => &mut many,
        };
        self.cq.poll_cq(out);
        for wc in out.iter() {
            assert_eq!(wc.qp_num(), self.pair.qp_num());
            if wc.wr_id().as_raw() & RECEIVE == 0 { self.sent(wc) } else { self.received(wc) }
        }
        !out.is_empty()
    }

    /// Nothing is under way, and nothing was ever counted.
    fn begin_anew(&mut self) {
        self.free = (0..SLOTS).collect();
        self.free_receives = (0..SLOTS).collect();
        self.sends.clear();
        self.receives.clear();
        self.coming.clear();
        (self.staged, self.failed, self.sums) = ([0; 2], None, 0);
        write_lines(self.data, SUM, &[0; 8]);
    }

    fn sent(&mut self, wc: &Wc) {
        let id = wc.wr_id().as_raw();
        self.ended[0] += 1;
        loop {
            let sent = self.sends.pop_front().expect("it is under way");
            self.free.push(sent.slot);
            let named = sent.id == id;
            match wc.outcome() {
                Ok(received) => {
                    assert_eq!(self.failed, None, "nothing ends well behind an error");
                    assert!(named != sent.unsignaled, "who wants to be told is told: {sent:?}");
                    assert!(!sent.bad, "{sent:?}");
                    self.brought(&sent);
                    if let Some(brings) = sent.brings.filter(|_| named) {
                        assert_eq!(usize::try_from(received.bytes).unwrap(), brings.len());
                    }
                }
                Err((status, _)) if named => {
                    let first = self.failed.is_none();
                    self.failed = self.failed.or(Some(status));
                    assert!(first || status == WcStatus::FLUSHED, "{status}");
                    assert!(status == WcStatus::FLUSHED || sent.bad, "{status}: {sent:?}");
                }
                Err((status, _)) => {
                    // Before the first that failed by itself all was well, and nobody hears of it.
                    let first = self.failed.is_none() && status != WcStatus::FLUSHED;
                    assert!(
                        first && sent.unsignaled && !sent.bad,
                        "left out: {sent:?}, {status}, {:?}, {id}",
                        self.failed
                    );
                    self.brought(&sent);
                }
            }
            if named {
                return;
            }
        }
    }

    fn brought(&self, sent: &Sent) {
        if let Some(brings) = &sent.brings {
            assert_eq!(read_ring(self.data, sent.slot * SLOT, brings.len()), *brings);
        }
    }

    fn received(&mut self, wc: &Wc) {
        let (id, slot) = self.receives.pop_front().expect("it is under way");
        assert_eq!(id, wc.wr_id().as_raw());
        self.free_receives.push(slot);
        self.ended[1] += 1;
        match wc.outcome() {
            Ok(received) => {
                let Coming { bytes, told, is_written } =
                    self.coming.pop_front().expect("somebody sent it");
                assert_eq!((received.immediate, received.is_written), (told, is_written));
                let at = (SLOTS + slot) * SLOT;
                if !bytes.is_empty() {
                    assert_eq!(usize::try_from(received.bytes).unwrap(), bytes.len());
                }
                assert_eq!(read_ring(self.data, at, bytes.len()), bytes);
            }
            Err((status, _)) => assert_eq!(status, WcStatus::FLUSHED),
        }
    }
}

/// Both ends of a connection, over `act`.
fn connected(plan: &Plan, act: impl for<'m> FnOnce(&mut Fabric<'m>, &mut [End<'m>; 2], &mut Rng)) {
    let grounds = [Ground::new(), Ground::new()];
    let mut arena = vec![MaybeUninit::uninit(); 1 << 16];
    let bump = Bump::new(&mut arena);
    let mut rng = Rng::new(plan.seed);
    let manner = Manner { timeout: 200, flush: plan.flush, loses: 5, ..Manner::default() };
    let mut fabric = Fabric::new(plan.seed, 2, manner);
    let mut ends =
        [0, 1].map(|node| End::new(&bump, node, &grounds[node], (plan, Kind::Rc), &mut fabric));
    fabric.connect((0, QPN[0]), (1, QPN[1]));
    act(&mut fabric, &mut ends, &mut rng);
    assert!(fabric.violations.is_empty(), "seed {}: {:?}", plan.seed, fabric.violations);
}

fn turn(fabric: &mut Fabric<'_>, ends: &mut [End<'_>; 2], plan: &Plan, rng: &mut Rng) {
    let data = [ends[0].data, ends[1].data];
    let node = rng.index(2);
    let end = &mut ends[node];
    for _ in 0..rng.index(4) {
        end.post_receive(rng);
    }
    for _ in 0..rng.index(4) {
        if let Some(message) = ends[node].post((data[1 - node], node), plan, rng) {
            ends[1 - node].coming.push_back(message);
        }
    }
    if rng.chance(70) {
        ends[node].ring();
    }
    for _ in 0..rng.index(30) {
        fabric.step();
    }
    if rng.chance(60) {
        ends[node].poll(rng);
    }
}

/// Both ends receive until nothing comes any more.
fn settle(fabric: &mut Fabric<'_>, ends: &mut [End<'_>; 2], rng: &mut Rng) {
    let mut quiet = 0;
    while quiet < 4 {
        quiet += 1;
        for end in ends.iter_mut() {
            end.post_receive(rng);
            end.ring();
            fabric.settle(2000);
            while end.poll(rng) {
                quiet = 0;
            }
        }
    }
}
