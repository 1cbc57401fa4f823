//! The matcher against the naive oracle: random operations, and all short sequences of a few of them.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    reason = "a test stops at the first thing that is not as expected"
)]

use core::mem::MaybeUninit;
use core::ptr::NonNull;
use std::collections::{BTreeMap, VecDeque};

use heapless::Vec as FixedVec;
use proptest::prelude::*;
use spinwire_dataplane::id::{Addr, Generation, OpTag, WrId};
use spinwire_dataplane::msg::matching::{Incoming, Matcher, MatchingConfig, Verdict};
use spinwire_dataplane::provider::{Buffer, Cqe, RecvWr, Select, Source, Use};
use spinwire_dataplane::raw::loan::Sge;
use spinwire_dataplane::raw::place::Bump;
use spinwire_dataplane::shm::lane::Envelope;
use spinwire_tests::model::{Done, Message, Oracle, Receive, Wanted};
use spinwire_tests::rng::pattern;

const SENDERS: usize = 2;
/// Copies of waiting messages lie in whole lines.
const WAITING_BYTES_MAX: usize = 64;

#[derive(Clone, Copy, Debug)]
enum Op {
    Post {
        wanted: Wanted,
        room: usize,
        many: Option<usize>,
    },
    Send {
        sender: usize,
        tag: Option<u64>,
        length: usize,
    },
    Poll {
        room: usize,
    },
    /// The n-th of those that were posted since the start, whether it still is or not.
    Cancel {
        which: usize,
    },
    Peek {
        wanted: Wanted,
    },
    Lose {
        sender: usize,
    },
}

/// The matcher, driven as a provider drives it, with lanes that are plain queues.
struct Driven<'m> {
    matcher: Matcher<'m>,
    lanes: Vec<VecDeque<Message>>,
    buffers: BTreeMap<u64, Sge>,
}

fn addr(sender: usize) -> Addr {
    Addr::new(u32::try_from(sender).unwrap(), Generation::FIRST)
}

fn source(wanted: &Wanted) -> Source {
    wanted.sender.map_or(Source::Any, |sender| Source::Only(addr(sender)))
}

fn select(wanted: &Wanted) -> Select {
    wanted.tagged.map_or(Select::Untagged, |(tag, ignore)| Select::Tagged { tag, ignore })
}

fn wr_id(id: u64) -> WrId {
    WrId::new(OpTag::Recv, Generation::FIRST, u32::try_from(id).unwrap())
}

fn id_of(wr_id: WrId) -> u64 {
    u64::from(wr_id.parts().unwrap().2)
}

fn incoming(message: &Message) -> Incoming {
    Incoming {
        source: addr(message.sender),
        // The immediate data tell which message it is.
        envelope: Envelope { tag: message.tag, immediate: Some(message.number) },
        length: message.length,
    }
}

fn done(cqe: &Cqe) -> Done {
    let to_usize = |number: u32| usize::try_from(number).unwrap();
    assert_eq!(cqe.source.is_some(), cqe.immediate.is_some());
    Done {
        id: id_of(cqe.wr_id),
        status: cqe.status,
        message: cqe.immediate,
        place: (to_usize(cqe.offset), to_usize(cqe.length)),
        returned: cqe.buffer == Buffer::Returned,
    }
}

impl<'m> Driven<'m> {
    fn new(bump: &Bump<'m>, recv_depth: u32, unexpected_depth: u32) -> Self {
        let unexpected_bytes_max = WAITING_BYTES_MAX;
        let config = MatchingConfig { recv_depth, unexpected_depth, unexpected_bytes_max };
        let matcher = Matcher::place(bump, &config).unwrap();
        Self { matcher, lanes: vec![VecDeque::new(); SENDERS], buffers: BTreeMap::new() }
    }

    #[expect(unsafe_code, reason = "a bare matcher is posted bare memory")]
    fn post(&mut self, bump: &Bump<'m>, receive: &Receive) -> bool {
        let buffer = NonNull::from_mut(bump.slice_with(receive.room, |_| 0xEE_u8).unwrap()).cast();
        // SAFETY: the buffer lies in the arena, which outlives the matcher; nobody else writes it.
        let sge = unsafe { Sge::from_raw(buffer, u32::try_from(receive.room).unwrap()) };
        let wr = RecvWr {
            wr_id: wr_id(receive.id),
            sge,
            from: source(&receive.wanted),
            select: select(&receive.wanted),
            buffer: match receive.many {
                None => Use::Single,
                Some(least) => Use::Multi { room_bytes_min: u32::try_from(least).unwrap() },
            },
        };
        let posted = self.matcher.post(&wr).is_ok();
        if posted {
            self.buffers.insert(receive.id, sge);
        }
        posted
    }

    /// Settles, then takes what is in the lanes, for at most `room` completions, of which there are 1 to 3.
    fn poll(&mut self, room: usize) -> Vec<Done> {
        match room {
            1 => self.poll_into::<1>(),
            2 => self.poll_into::<2>(),
            3 => self.poll_into::<3>(),
            _ => self.poll_into::<64>(),
        }
    }

    fn poll_into<const N: usize>(&mut self) -> Vec<Done> {
        let mut out: FixedVec<Cqe, N> = FixedVec::new();
        if self.matcher.settle(out.as_mut_view()) {
            for lane in 0..self.lanes.len() {
                while let Some(&message) = self.lanes[lane].front() {
                    if out.is_full() || !self.take(lane, &message, &mut out) {
                        break;
                    }
                }
            }
        }
        out.iter().map(done).collect()
    }

    /// What a provider does with the first message of a lane. Returns whether to go on.
    fn take<const N: usize>(
        &mut self,
        lane: usize,
        message: &Message,
        out: &mut FixedVec<Cqe, N>,
    ) -> bool {
        let bytes = pattern(message.number, message.length);
        let arrival = incoming(message);
        match self.matcher.judge(&arrival) {
            Verdict::Deliver(mut landing) => {
                let to = landing.sge.part(landing.offset, landing.length).unwrap();
                to.copy_from_slice(&bytes[..to.len()]);
                out.push(self.matcher.land(&landing, &arrival)).unwrap();
            }
            Verdict::GivenBack(cqe) => {
                out.push(cqe).unwrap();
                return true;
            }
            Verdict::Unasked => {
                if !self.matcher.stash(&arrival, |to| to.copy_from_slice(&bytes)) {
                    return false;
                }
            }
        }
        self.lanes[lane].pop_front();
        true
    }

    /// Whether the buffer of a completion holds its message.
    fn holds(&self, done: &Done) -> bool {
        let Some(number) = done.message else { return true };
        let (offset, length) = done.place;
        self.buffers[&done.id].bytes()[offset..offset + length] == pattern(number, 200)[..length]
    }
}

/// Runs operations on both, and compares all that can be seen.
fn check(bump: &Bump<'_>, (recv_depth, waiting_depth): (u32, u32), ops: &[Op]) {
    let depth = |depth: u32| usize::try_from(depth).unwrap();
    let mut oracle =
        Oracle::new(SENDERS, depth(recv_depth), depth(waiting_depth), WAITING_BYTES_MAX);
    let mut driven = Driven::new(bump, recv_depth, waiting_depth);
    let (mut ids, mut number) = (0, 0);
    // A last poll with much room shows what is left over.
    for (at, op) in ops.iter().chain([&Op::Poll { room: 64 }]).enumerate() {
        match *op {
            Op::Post { wanted, room, many } => {
                let receive = Receive { id: ids, wanted, room, many, offset: 0 };
                ids += 1;
                assert_eq!(driven.post(bump, &receive), oracle.post(receive), "{at} {op:?}");
            }
            Op::Send { sender, tag, length } => {
                let message = Message { sender, number, tag, length };
                number += 1;
                oracle.send(message);
                driven.lanes[sender].push_back(message);
            }
            Op::Poll { room } => {
                let got = driven.poll(room);
                assert_eq!(got, oracle.poll(room), "{at} {op:?}");
                assert!(got.iter().all(|done| driven.holds(done)), "{at} {got:?}");
            }
            Op::Cancel { which } => {
                let id = u64::try_from(which).unwrap();
                let cancelled = driven.matcher.cancel(wr_id(id)).is_ok();
                assert_eq!(cancelled, oracle.cancel(id), "{at} {op:?}");
            }
            Op::Peek { wanted } => {
                let seen = driven.matcher.peek(source(&wanted), select(&wanted));
                let seen = seen.map(|w| (w.source, w.length, w.tag, w.immediate));
                let expected =
                    oracle.peek(&wanted).map(|m| (addr(m.sender), m.length, m.tag, Some(m.number)));
                assert_eq!(seen, expected, "{at} {op:?}");
            }
            Op::Lose { sender } => {
                let mut lost: Vec<u64> =
                    core::iter::from_fn(|| driven.matcher.take_hopeless(addr(sender)))
                        .map(|withdrawn| id_of(withdrawn.wr_id))
                        .collect();
                lost.sort_unstable();
                assert_eq!(lost, oracle.lose(sender), "{at} {op:?}");
            }
        }
        assert_eq!(depth(driven.matcher.posted_len()), oracle.posted().len(), "{at} {op:?}");
        assert_eq!(depth(driven.matcher.unexpected_len()), oracle.waiting(), "{at} {op:?}");
    }
}

fn tags() -> impl Strategy<Value = u64> {
    // Few, so that they meet; 3 and 1 << 40 differ in all that a mask may look at.
    prop_oneof![Just(0), Just(1), Just(2), Just(3), Just(1 << 40 | 1)]
}

fn wanted() -> impl Strategy<Value = Wanted> {
    let sender = prop_oneof![3 => Just(None), 1 => (0..SENDERS).prop_map(Some)];
    let ignore = prop_oneof![3 => Just(0), 1 => Just(1), 1 => Just(!3), 1 => Just(u64::MAX)];
    let tagged = prop_oneof![1 => Just(None), 2 => (tags(), ignore).prop_map(Some)];
    (sender, tagged).prop_map(|(sender, tagged)| Wanted { sender, tagged })
}

fn operation() -> impl Strategy<Value = Op> {
    let many = prop_oneof![
        3 => Just(None),
        1 => Just(Some(0)),
        1 => Just(Some(8)),
        1 => Just(Some(48)),
        1 => Just(Some(1000)),
    ];
    let room = prop_oneof![Just(24_usize), Just(64), Just(68), Just(160)];
    let length = prop_oneof![Just(0_usize), Just(8), Just(13), Just(64), Just(65), Just(150)];
    prop_oneof![
        6 => (wanted(), room, many).prop_map(|(wanted, room, many)| Op::Post { wanted, room, many }),
        6 => (0..SENDERS, proptest::option::weighted(0.7, tags()), length)
            .prop_map(|(sender, tag, length)| Op::Send { sender, tag, length }),
        4 => prop_oneof![Just(64_usize), Just(1), Just(2), Just(3)].prop_map(|room| Op::Poll { room }),
        1 => (0..40_usize).prop_map(|which| Op::Cancel { which }),
        2 => wanted().prop_map(|wanted| Op::Peek { wanted }),
        1 => (0..SENDERS).prop_map(|sender| Op::Lose { sender }),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(600) })]

    #[test]
    fn it_does_what_the_oracle_does(
        recv_depth in 0..7_u32,
        waiting_depth in 0..5_u32,
        ops in proptest::collection::vec(operation(), 0..160),
    ) {
        let mut block: Box<[MaybeUninit<u8>]> = Box::new_uninit_slice(1 << 18);
        check(&Bump::new(&mut block), (recv_depth, waiting_depth), &ops);
    }
}

/// Every sequence of `length` operations of an alphabet.
fn exhaust(alphabet: &[Op], length: u32, depths: (u32, u32)) {
    let mut block: Box<[MaybeUninit<u8>]> = Box::new_uninit_slice(1 << 16);
    let mut ops = Vec::new();
    for mut rest in 0..alphabet.len().pow(length) {
        ops.clear();
        for _ in 0..length {
            ops.push(alphabet[rest % alphabet.len()]);
            rest /= alphabet.len();
        }
        check(&Bump::new(&mut block), depths, &ops);
    }
}

const fn post(sender: Option<usize>, tagged: Option<(u64, u64)>) -> Op {
    Op::Post { wanted: Wanted { sender, tagged }, room: 24, many: None }
}

const fn send(sender: usize, tag: Option<u64>) -> Op {
    Op::Send { sender, tag, length: 8 }
}

#[test]
fn every_short_sequence_of_tags_and_masks() {
    let alphabet = [
        post(None, Some((1, 0))),
        post(None, Some((0, u64::MAX))),
        post(None, None),
        send(0, Some(1)),
        send(0, Some(2)),
        send(0, None),
        Op::Poll { room: 64 },
    ];
    exhaust(&alphabet, 6, (2, 2));
}

#[test]
fn every_short_sequence_of_senders_and_cancels() {
    let alphabet = [
        post(None, None),
        post(Some(0), None),
        send(0, None),
        send(1, None),
        Op::Poll { room: 1 },
        Op::Cancel { which: 0 },
        Op::Lose { sender: 0 },
    ];
    exhaust(&alphabet, 6, (2, 1));
}

#[test]
fn every_short_sequence_of_buffers_for_many() {
    let many = |room, least| Op::Post {
        wanted: Wanted { sender: None, tagged: None },
        room,
        many: Some(least),
    };
    let send = |length| Op::Send { sender: 0, tag: None, length };
    let alphabet =
        [many(24, 0), many(24, 16), send(0), send(8), send(17), send(65), Op::Poll { room: 1 }];
    exhaust(&alphabet, 6, (2, 2));
}
