//! A connection as a byte stream, over the device: frames as over TCP go both ways, each message arrives once and intact, whatever is lost; the
//! device never finds that there is no receive.

use core::mem::MaybeUninit;
use std::collections::VecDeque;

use spinwire_dataplane::cq::{Compression, Cq, CqMemory, EntryBytes};
use spinwire_dataplane::error::{Fatal, Misuse, PostError, Retry};
use spinwire_dataplane::id::Name;
use spinwire_dataplane::provider::mlx5::{BadChannel, Channel, ChannelConfig};
use spinwire_dataplane::provider::tcp::frame::{Envelope, Event, Framing, Greeting, Limits};
use spinwire_dataplane::raw::line::Line;
use spinwire_dataplane::raw::mmio::Device;
use spinwire_dataplane::raw::place::Bump;
use spinwire_dataplane::sync::AtomicU32;
use spinwire_dataplane::wqe::{
    BlueFlame, Qp, QpConfig, QpMemory, RecvConfig, SendConfig, Straddle, Transport, WqeFlags,
};
use spinwire_layouts::shm::EndpointKind;
use spinwire_tests::rng::{Rng, pattern};
use spinwire_tests::sim::nic::memory::Access;
use spinwire_tests::sim::nic::wqe::{Rules, Transport as Kind};
use spinwire_tests::sim::nic::{CqPlan, Fabric, Manner, QpPlan, Receives, Short, Totals, lines};

use crate::driven::node::region;

const KEY: [u32; 2] = [0x500, 0x600];
const QPN: [u32; 2] = [0x31, 0x32];

#[derive(Clone, Copy, Debug)]
struct Plan {
    seed: u64,
    slots: [u32; 2],
    /// What each end takes the other's receives for.
    believed: [u32; 2],
    slot_bytes: u32,
    wide: bool,
    scatter: bool,
    limits: Limits,
    messages: u64,
    manner: Manner,
}

impl Plan {
    fn any(seed: u64, messages: u64) -> Self {
        let mut rng = Rng::new(seed ^ 0xC4A7);
        let slots = [0, 1].map(|_| [4, 8, 16][rng.index(3)]);
        let slot_bytes = [64, 128, 512][rng.index(3)];
        let least = slots[0].min(slots[1]);
        let message_bytes_max = (least - (least / 4).max(2)) * slot_bytes - 32;
        let credit_messages = [1, 3, 40][rng.index(3)];
        let limits = Limits {
            message_bytes_max,
            credit_messages,
            credit_bytes: message_bytes_max * [1, 4][rng.index(2)],
        };
        let manner = Manner {
            loses: [0, 10][rng.index(2)],
            loses_answers: [0, 10][rng.index(2)],
            timeout: [60, 400][rng.index(2)],
            window: [1, 4, 48][rng.index(3)],
            ..Manner::default()
        };
        Self {
            seed,
            slots,
            believed: [slots[1], slots[0]],
            slot_bytes,
            wide: rng.chance(50),
            scatter: rng.chance(50),
            limits,
            messages,
            manner,
        }
    }
}

/// What an end lies in.
struct Ground {
    sq: Vec<Line>,
    rq: Vec<Line>,
    record: [AtomicU32; 2],
    register: Vec<Line>,
    cq: Vec<Line>,
    cq_record: [AtomicU32; 2],
    sends: Vec<Line>,
    receives: Vec<Line>,
}

impl Ground {
    fn new(plan: &Plan) -> Self {
        let record = || [AtomicU32::new(0), AtomicU32::new(0)];
        let data = || lines(16 * usize::try_from(plan.slot_bytes).unwrap() / 64);
        Self {
            sq: lines(64),
            rq: lines(16),
            record: record(),
            register: lines(8),
            cq: lines(if plan.wide { 256 } else { 128 }),
            cq_record: record(),
            sends: data(),
            receives: data(),
        }
    }
}

fn address(lines: &[Line]) -> u64 {
    u64::try_from(lines.as_ptr().expose_provenance()).unwrap()
}

/// The device's side of an end, and the queues of it.
fn open<'m>(
    node: usize,
    plan: &Plan,
    ground: &'m Ground,
    bump: &Bump<'m>,
    fabric: &mut Fabric<'m>,
) -> (Qp<'m, u64, Device>, Cq<'m, Device>) {
    let keys = &mut fabric.nodes[node].keys;
    let (sends, receives) = (&ground.sends, &ground.receives);
    keys.lines((KEY[node], 1), address(sends), sends, Access::LOCAL_READ);
    keys.lines((KEY[node] + 1, 1), address(receives), receives, Access::LOCAL_WRITE);
    let (entry_bytes, cqe_bytes) =
        if plan.wide { (EntryBytes::B128, 128) } else { (EntryBytes::B64, 64) };
    let (lines, record) = (&ground.cq[..], &ground.cq_record);
    let memory = CqMemory { lines, entry_bytes, record, register: None, cqn: 1 };
    let cq = Cq::new(memory, Compression::Off, Device).unwrap();
    fabric.cq(node, CqPlan { number: 0, ring: lines, cqe_bytes, record, compress: Short::Never });
    let device = QpPlan {
        rules: Rules { qpn: QPN[node], transport: Kind::Rc, inline_max: 64 },
        domain: 1,
        sq: &ground.sq,
        rq: Receives::Ring(&ground.rq, 16),
        record: &ground.record,
        register: &ground.register,
        cqs: (0, 0),
        qkey: 0,
        retries: 7,
        rnr_retries: 7,
        scatter_to_cqe: plan.scatter,
    };
    fabric.qp(node, device);
    let config = QpConfig {
        qpn: QPN[node],
        transport: Transport::Rc { path: None },
        send: SendConfig {
            wqe_blocks_max: 1,
            straddle: Straddle::Fill,
            blue_flame: BlueFlame::Inline,
        },
        recv: Some(RecvConfig { wqes: 64, sge_max: 1 }),
    };
    let memory =
        QpMemory { sq: &ground.sq, rq: &ground.rq, record: &ground.record, uar: &ground.register };
    (Qp::place(bump, config, memory, Device).unwrap(), cq)
}

const fn config(plan: &Plan, node: usize) -> ChannelConfig {
    ChannelConfig {
        slots: plan.slots[node],
        slot_bytes: plan.slot_bytes,
        peer_slots: plan.believed[node],
    }
}

/// An end that speaks frames.
struct End<'q, 'm> {
    node: usize,
    channel: Channel<'q, 'm, Device>,
    cq: Cq<'m, Device>,
    framing: Framing,
    greeted: bool,
    sent: u64,
    delivered: u64,
    arriving: Vec<u8>,
    wanted: usize,
    held: VecDeque<u32>,
    plan: Plan,
}

fn text(seed: u64, node: usize, number: u64, most: u32) -> Vec<u8> {
    let seed = seed ^ number << 8 ^ u64::try_from(node).unwrap();
    let mut rng = Rng::new(seed);
    let most = usize::try_from(most).unwrap();
    let most = [8.min(most), 100.min(most), most][rng.index(3)];
    pattern(seed, rng.index(most + 1))
}

impl End<'_, '_> {
    fn turn(&mut self, rng: &mut Rng) {
        self.cq.poll([1, 64][rng.index(2)], |cqe| self.channel.take(&cqe));
        let limits = self.plan.limits;
        if !self.greeted {
            let name = Name::new(["a", "b"][self.node]).unwrap();
            let greeting = Greeting { name, kind: EndpointKind::Msg, limits };
            self.greeted = self.write_parts(&greeting.to_wire());
        }
        if rng.chance(70) {
            self.read();
        }
        for _ in 0..rng.index(4) {
            if let Some(length) = self.held.pop_front() {
                self.framing.release(length).unwrap();
            }
        }
        if self.greeted
            && self.channel.accepts(32).is_ok()
            && let Some(frame) = self.framing.credit_frame()
        {
            self.channel.write(&frame, &[]).unwrap();
        }
        for _ in 0..rng.index(5) {
            self.send(rng);
        }
        if rng.chance(60) {
            self.channel.ring_doorbell();
        }
    }

    /// The greeting is longer than a slot may be.
    fn write_parts(&self, bytes: &[u8]) -> bool {
        match self.channel.accepts(bytes.len()) {
            Ok(_) => self.channel.write(&[], bytes).is_ok(),
            Err(_) => false,
        }
    }

    fn send(&mut self, rng: &mut Rng) {
        if !self.greeted || self.sent == self.plan.messages {
            return;
        }
        let bytes = text(self.plan.seed, self.node, self.sent, self.plan.limits.message_bytes_max);
        if self.framing.may_send(bytes.len()).is_err() {
            return;
        }
        match self.channel.accepts(bytes.len() + 32) {
            Ok(_) => {}
            Err(PostError::Retry(Retry::NoCredit | Retry::NoSlot)) => return,
            Err(other) => panic!("{other}"),
        }
        let envelope = Envelope { tag: Some(self.sent), immediate: rng.chance(20).then_some(7) };
        let header = self.framing.message(bytes.len(), envelope).unwrap();
        self.channel.write(&header, &bytes).unwrap();
        self.sent += 1;
    }

    fn read(&mut self) {
        let mut piece = vec![0; usize::try_from(self.plan.slot_bytes).unwrap()];
        let Some(length) = self.channel.read(&mut piece) else { return };
        let mut rest = &piece[..length];
        while let Some(event) = self.framing.next(&mut rest).unwrap() {
            match event {
                Event::Hello | Event::Credit(_) => continue,
                Event::Goodbye(_) => panic!("nobody leaves"),
                Event::Message { length, envelope, bytes, .. } => {
                    assert_eq!(envelope.tag, Some(self.delivered));
                    self.wanted = usize::try_from(length).unwrap();
                    self.arriving = bytes.to_vec();
                }
                Event::Body { offset, bytes } => {
                    assert_eq!(usize::try_from(offset).unwrap(), self.arriving.len());
                    self.arriving.extend_from_slice(bytes);
                }
            }
            if self.arriving.len() == self.wanted {
                let most = self.plan.limits.message_bytes_max;
                let expected = text(self.plan.seed, 1 - self.node, self.delivered, most);
                assert_eq!(self.arriving, expected, "message {}", self.delivered);
                self.delivered += 1;
                self.held.push_back(u32::try_from(self.wanted).unwrap());
                (self.arriving, self.wanted) = (Vec::new(), usize::MAX);
            }
        }
    }
}

/// Both ends speak until all has arrived, or that many turns are over.
fn speak(plan: &Plan, turns: usize) -> (Totals, [u64; 2], Vec<String>) {
    let grounds = [Ground::new(plan), Ground::new(plan)];
    let mut arena = vec![MaybeUninit::uninit(); 1 << 16];
    let bump = Bump::new(&mut arena);
    let mut fabric = Fabric::new(plan.seed, 2, plan.manner);
    let mut queues = Vec::new();
    for (node, ground) in grounds.iter().enumerate() {
        queues.push(open(node, plan, ground, &bump, &mut fabric));
    }
    fabric.connect((0, QPN[0]), (1, QPN[1]));
    let mut qps = Vec::new();
    let mut cqs = VecDeque::new();
    for (qp, cq) in queues {
        qps.push(qp);
        cqs.push_back(cq);
    }
    let mut ends: Vec<End<'_, '_>> = Vec::new();
    for (node, qp) in qps.iter().enumerate() {
        let ground = &grounds[node];
        let regions = (region(&ground.sends, KEY[node]), region(&ground.receives, KEY[node] + 1));
        ends.push(End {
            node,
            channel: Channel::place(&bump, qp, regions, config(plan, node)).unwrap(),
            cq: cqs.pop_front().unwrap(),
            framing: Framing::new(plan.limits).unwrap(),
            greeted: false,
            sent: 0,
            delivered: 0,
            arriving: Vec::new(),
            wanted: usize::MAX,
            held: VecDeque::new(),
            plan: *plan,
        });
    }
    let mut rng = Rng::new(plan.seed);
    for _ in 0..turns {
        if ends.iter().all(|end| end.delivered == plan.messages) {
            break;
        }
        for end in &mut ends {
            end.turn(&mut rng);
            assert_eq!(end.channel.fatal(), None);
        }
        for _ in 0..rng.between(1, 8) {
            if !fabric.step() {
                fabric.settle(1);
            }
        }
    }
    let faults = fabric.violations.iter().map(ToString::to_string).collect();
    (fabric.totals, [ends[0].delivered, ends[1].delivered], faults)
}

#[test]
fn messages_go_both_ways_and_the_device_never_has_to_wait() {
    let mut lost = 0;
    for seed in 0..16 {
        let plan = Plan::any(seed, 60);
        let (totals, delivered, faults) = speak(&plan, 60_000);
        assert_eq!((delivered, faults), ([60, 60], Vec::new()), "seed {seed}: {plan:?}");
        assert_eq!((totals.not_ready, totals.errors), (0, 0), "seed {seed}");
        lost += totals.lost;
    }
    assert!(lost > 50, "some of it was lost on the way");
}

#[test]
fn an_end_that_believes_in_too_many_receives_is_seen() {
    let mut not_ready = 0;
    for seed in 0..10 {
        let mut plan = Plan::any(seed, 60);
        plan.slots = [4, 4];
        plan.believed = [12, 12];
        plan.limits.message_bytes_max = plan.slot_bytes * 2 - 32;
        let (totals, ..) = std::panic::catch_unwind(|| speak(&plan, 20_000)).unwrap_or_default();
        not_ready += totals.not_ready;
    }
    assert!(not_ready > 0, "the test can fail");
}

/// A channel at node 0, and a queue pair that says what it likes at node 1.
fn beside_a_stranger(
    act: impl FnOnce(&Channel<'_, '_, Device>, &Qp<'_, u64, Device>),
) -> Option<Fatal> {
    let plan = Plan { slots: [4, 4], believed: [4, 4], ..Plan::any(1, 0) };
    let plan = Plan { slot_bytes: 64, manner: Manner::default(), ..plan };
    let grounds = [Ground::new(&plan), Ground::new(&plan)];
    let mut arena = vec![MaybeUninit::uninit(); 1 << 16];
    let bump = Bump::new(&mut arena);
    let mut fabric = Fabric::new(1, 2, Manner { timeout: 50, ..plan.manner });
    let (qp, cq) = open(0, &plan, &grounds[0], &bump, &mut fabric);
    let (stranger, _cq) = open(1, &plan, &grounds[1], &bump, &mut fabric);
    fabric.connect((0, QPN[0]), (1, QPN[1]));
    let regions = (region(&grounds[0].sends, KEY[0]), region(&grounds[0].receives, KEY[0] + 1));
    let channel = Channel::place(&bump, &qp, regions, config(&plan, 0)).unwrap();
    act(&channel, &stranger);
    stranger.ring_doorbell();
    channel.ring_doorbell();
    fabric.settle(20_000);
    cq.poll(64, |cqe| channel.take(&cqe));
    channel.fatal()
}

#[test]
fn whoever_says_what_cannot_be_is_cut_off() {
    let says = |imm: u32| {
        beside_a_stranger(|_, stranger| {
            stranger
                .with_sq_wqe(|w| w.send_imm(WqeFlags::NONE, imm).inline(b"x").finish_signaled(0))
                .unwrap();
        })
    };
    assert_eq!(says(0), None);
    assert_eq!(says(1), Some(Fatal::Corrupt), "more credit than there is");
    assert_eq!(says(u32::MAX), Some(Fatal::Corrupt));
    let plain = beside_a_stranger(|_, stranger| {
        stranger.with_sq_wqe(|w| w.send(WqeFlags::NONE).inline(b"x").finish_signaled(0)).unwrap();
    });
    assert_eq!(plain, Some(Fatal::Corrupt), "a piece without credit");
    let gone = beside_a_stranger(|channel, stranger| {
        // It was destroyed, or never looks: it has no receive, and is asked for ever.
        channel.write(&[0; 32], b"hello").unwrap();
        stranger
            .with_sq_wqe(|w| w.send_imm(WqeFlags::NONE, 0).inline(&[1; 44]).finish_signaled(0))
            .unwrap();
    });
    assert_eq!(gone, None, "it is waited for");
}

#[test]
fn what_a_channel_does_not_take_is_refused_whole() {
    let fatal = beside_a_stranger(|channel, _| {
        assert_eq!(channel.bytes_max(), 2 * 64);
        let long = [0; 2 * 64 + 1];
        assert_eq!(channel.write(&[], &long), Err(Misuse::TooLong.into()));
        assert_eq!(channel.write(&[0; 12], &[]), Err(Misuse::BadRange.into()));
        assert_eq!(channel.write(&[0; 72], &[]), Err(Misuse::BadRange.into()));
        // Three of four receives are there to be used, whatever is sent.
        channel.write(&[], &long[..65]).unwrap();
        assert_eq!(channel.write(&[], &long[..65]), Err(Retry::NoCredit.into()));
        channel.write(&[], &long[..64]).unwrap();
        assert_eq!(channel.write(&[], b"!"), Err(Retry::NoCredit.into()));
        channel.write(&[], &[]).unwrap();
    });
    assert_eq!(fatal, None);
}

#[test]
fn channels_are_made_as_their_queues_are() {
    let plan = Plan { slots: [4, 4], believed: [4, 4], ..Plan::any(1, 0) };
    let ground = Ground::new(&plan);
    let mut arena = vec![MaybeUninit::uninit(); 1 << 16];
    let bump = Bump::new(&mut arena);
    let mut fabric = Fabric::new(1, 1, Manner::default());
    let (qp, _cq) = open(0, &plan, &ground, &bump, &mut fabric);
    let made = |config: ChannelConfig| {
        let regions = (region(&ground.sends, KEY[0]), region(&ground.receives, KEY[0] + 1));
        Channel::place(&bump, &qp, regions, config).map(|_| ()).unwrap_err()
    };
    let good = ChannelConfig { slots: 4, slot_bytes: 64, peer_slots: 4 };
    assert_eq!(made(ChannelConfig { slots: 3, ..good }), BadChannel::Slots);
    assert_eq!(made(ChannelConfig { peer_slots: 0, ..good }), BadChannel::Slots);
    assert_eq!(made(ChannelConfig { slot_bytes: 0, ..good }), BadChannel::SlotBytes);
    assert_eq!(made(ChannelConfig { slot_bytes: 100, ..good }), BadChannel::SlotBytes);
    assert_eq!(made(ChannelConfig { slot_bytes: 1 << 20, ..good }), BadChannel::Region);
    assert_eq!(made(ChannelConfig { peer_slots: 61, ..good }), BadChannel::Queue);
}
