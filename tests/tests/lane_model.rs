//! A lane against a queue: random stagings, publishings and takings, in rings so small that every one of them wraps.
//!
//! What the receiver may see is bounded from both sides: at least all that was published, and nothing that was not staged;
//! each message once, in order, with its own bytes and envelope. A refused message leaves no trace.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    reason = "a test stops at the first thing that is not as expected"
)]

use proptest::prelude::*;
use spinwire_dataplane::error::{PostError, Retry};
use spinwire_dataplane::raw::line::Line;
use spinwire_dataplane::shm::lane::{Carried, Envelope, LaneMemory, LaneRx, LaneTx};

const CELLS: usize = 8;
/// Eight lines.
const SPILL_BYTES: usize = 512;
/// As `Geometry::message_bytes_max` has it.
const MESSAGE_BYTES_MAX: usize = SPILL_BYTES / 2;

#[derive(Clone, Copy, Debug)]
enum Op {
    Stage { length: usize, tag: Option<u64>, immediate: Option<u64> },
    Publish,
    Take,
    TakeRun { messages: usize },
    ReturnCredit,
}

/// What was accepted: the oracle.
struct Sent {
    bytes: Vec<u8>,
    envelope: Envelope,
}

struct Pair<'s> {
    tx: LaneTx<'s>,
    rx: LaneRx<'s>,
    sent: Vec<Sent>,
    /// How many of them the receiver must be able to see.
    published: usize,
    taken: usize,
}

fn bytes(number: usize, length: usize) -> Vec<u8> {
    (0..length).map(|at| u8::try_from((number * 31 + at * 7) % 251).unwrap()).collect()
}

impl Pair<'_> {
    fn stage(&mut self, length: usize, envelope: Envelope) {
        let bytes = bytes(self.sent.len(), length);
        match self.tx.stage(&bytes, envelope) {
            Ok(()) => self.sent.push(Sent { bytes, envelope }),
            Err(PostError::Retry(Retry::NoCredit | Retry::NoSpill)) => {
                // What was staged before is published, so that the receiver can make room.
                self.published = self.sent.len();
                if self.taken == self.sent.len() {
                    // Nothing is left in the lane: with all credit back there must be room.
                    self.rx.return_credit();
                    self.tx.stage(&bytes, envelope).expect("an empty lane takes any message");
                    self.sent.push(Sent { bytes, envelope });
                }
            }
            Err(other) => panic!("{other:?}"),
        }
    }

    fn take(&mut self) {
        let arrival = self.rx.peek().expect("nothing corrupt was written");
        let Some(arrival) = arrival else {
            assert!(self.taken >= self.published, "message {} was published", self.taken);
            return;
        };
        assert!(
            self.rx.may_have_news(),
            "there is a message, and a glance says that there is none"
        );
        let expected = self.sent.get(self.taken).expect("a message that nobody staged");
        assert_eq!((arrival.length, arrival.envelope), (expected.bytes.len(), expected.envelope));
        let mut got = vec![0; arrival.length];
        self.rx.copy_out(&arrival, &mut got);
        assert_eq!(got, expected.bytes, "message {}", self.taken);
        self.rx.advance(&arrival);
        self.taken += 1;
    }

    fn take_run(&mut self, messages: usize) {
        let Some(arrival) = self.rx.peek().unwrap() else { return self.take() };
        self.take();
        let stride = arrival.length.max(1).next_multiple_of(8);
        let mut room = vec![0; stride * messages];
        let count = usize::try_from(self.rx.take_run(&arrival, &mut room, stride)).unwrap();
        assert!(count <= messages);
        for got in room.chunks_exact(stride).take(count) {
            let expected = self.sent.get(self.taken).expect("a message that nobody staged");
            assert_eq!(expected.envelope, arrival.envelope);
            assert_eq!(got[..arrival.length], expected.bytes, "message {}", self.taken);
            self.taken += 1;
        }
    }

    fn run(&mut self, op: Op) {
        match op {
            Op::Stage { length, tag, immediate } => self.stage(length, Envelope { tag, immediate }),
            Op::Publish => {
                self.tx.publish();
                self.published = self.sent.len();
            }
            Op::Take => self.take(),
            Op::TakeRun { messages } => self.take_run(messages),
            Op::ReturnCredit => self.rx.return_credit(),
        }
    }
}

fn drive(ops: &[Op], carried: Carried) {
    let lines: Vec<Line> = (0..=CELLS + SPILL_BYTES / 64).map(|_| Line::zeroed()).collect();
    let (credit, rings) = lines.split_last().unwrap();
    let (cells, spill) = rings.split_at(CELLS);
    let memory = LaneMemory { cells, spill, credit };
    let (tx, rx) = carried.ends(memory, MESSAGE_BYTES_MAX);
    let mut pair = Pair { tx, rx, sent: vec![], published: 0, taken: 0 };
    for &op in ops {
        pair.run(op);
    }
    pair.run(Op::Publish);
    for _ in 0..=CELLS {
        pair.take();
    }
    assert_eq!(pair.taken, pair.sent.len(), "all that was accepted has come");
}

fn op() -> impl Strategy<Value = Op> {
    let length = prop_oneof![
        4 => 49_usize..=112,
        2 => 0_usize..=48,
        1 => 113..=MESSAGE_BYTES_MAX,
        2 => Just(64_usize),
    ];
    let stage = (length, proptest::option::of(0_u64..3), proptest::option::weighted(0.2, 0_u64..3))
        .prop_map(|(length, tag, immediate)| Op::Stage { length, tag, immediate });
    prop_oneof![
        6 => stage,
        2 => Just(Op::Publish),
        4 => Just(Op::Take),
        1 => (1_usize..6).prop_map(|messages| Op::TakeRun { messages }),
        1 => Just(Op::ReturnCredit),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4000))]

    #[test]
    fn a_lane_is_a_queue(ops in proptest::collection::vec(op(), 1..120)) {
        drive(&ops, Carried::default());
    }

    /// At 100 million messages a second the number of a message comes round every 43 s, 2,000 times a day.
    #[test]
    fn a_lane_is_a_queue_where_its_numbers_come_round(
        ops in proptest::collection::vec(op(), 40..120),
        before in (0_u64..60, 0_u64..400),
        round in prop_oneof![Just(32_u32), Just(33), Just(63)],
    ) {
        let end = 1_u64 << round;
        let carried = Carried { cells: end - before.0, spill_bytes: end - before.1 * 8 };
        drive(&ops, carried);
    }
}

/// Positions are never to end, but if they did nothing would.
#[test]
fn a_lane_goes_on_past_the_last_position_of_all() {
    let ops: Vec<Op> = (0..400)
        .map(|n| match n % 4 {
            0 | 1 => Op::Stage { length: 40 + n % 90, tag: None, immediate: Some(7) },
            2 => Op::Publish,
            _ => Op::TakeRun { messages: 2 },
        })
        .collect();
    drive(&ops, Carried { cells: u64::MAX - 50, spill_bytes: 0_u64.wrapping_sub(2048) });
}

/// One message at a time, and batches of three: each first of a batch has the line of its spill to itself.
#[test]
fn messages_that_go_alone_share_no_line_of_the_spill() {
    for batch in [1, 3] {
        let lines: Vec<Line> = (0..=CELLS + SPILL_BYTES / 64).map(|_| Line::zeroed()).collect();
        let (credit, rings) = lines.split_last().unwrap();
        let (cells, spill) = rings.split_at(CELLS);
        let memory = LaneMemory { cells, spill, credit };
        memory.reset();
        let tx = LaneTx::new(memory);
        for _ in 0..2 {
            for _ in 0..batch {
                tx.stage(&[0xEE; 64], Envelope::default()).unwrap();
            }
            tx.publish();
        }
        let used = spill.iter().filter(|line| line.words().iter().any(is_written)).count();
        assert_eq!(used, 2, "two batches of {batch}");
    }
}

fn is_written(word: &spinwire_dataplane::sync::AtomicU64) -> bool {
    word.load(spinwire_dataplane::sync::Ordering::Relaxed) != 0
}
