//! Any sequence of calls of two ends, against a model of what matching means: who gets which message, how much of it, and how it ends.
//!
//! The model needs no clock. A message goes to the first posted receive that takes it, a receive takes the oldest message that it matches, and
//! each sender's messages keep their order; so what comes of a sequence is the same whenever things arrive. A call is followed by turns until the
//! ends have reported what the model says, and not before the next call by anything else. What fails is made shorter by proptest until every
//! call in it is needed.

use std::collections::VecDeque;

use proptest::prelude::*;
use proptest::test_runner::{Config, TestCaseError, TestRunner};
use spinwire_dataplane::id::{Addr, WrId};
use spinwire_dataplane::msg::{Completion, Kind, Parts, RecvFrom, SendTo};
use spinwire_dataplane::provider::{CancelError, EndpointType, Status};
use spinwire_dataplane::raw::loan::LoanPool;

use super::{Node, Rig, Sizes, World, run};
use crate::rng::pattern;

/// Bytes in a buffer of these ends.
const ROOM: usize = 128;
/// Messages that may wait for a receive at one end: fewer than there is room for, so that none is dropped where that may be.
const WAITING_MAX: usize = 6;
/// Receives that may be posted at one end.
const POSTED_MAX: usize = 12;

/// Which messages a receive takes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Wanted {
    Untagged,
    Tag(u64),
    AnyTag,
}

impl Wanted {
    const fn takes(self, tag: Option<u64>) -> bool {
        match (self, tag) {
            (Self::Untagged, None) | (Self::AnyTag, Some(_)) => true,
            (Self::Tag(wanted), Some(tag)) => wanted == tag,
            _ => false,
        }
    }

    const fn from(self, from: RecvFrom) -> RecvFrom {
        match self {
            Self::Untagged => from,
            Self::Tag(tag) => from.tag(tag),
            Self::AnyTag => from.tag_ignoring(0, u64::MAX),
        }
    }
}

/// How a message is sent.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Way {
    Copied,
    Posted,
    InParts,
}

/// A call of the end of that number, 0 or 1.
#[derive(Clone, Copy, Debug)]
enum Call {
    /// A receive into so many buffers, from the other end alone or from anybody.
    Recv { at: usize, wanted: Wanted, buffers: usize, is_directed: bool },
    /// A message to the other end.
    Send { at: usize, tag: Option<u64>, length: usize, way: Way },
    /// The receive of that number among those that are posted is taken back.
    Cancel { at: usize, which: prop::sample::Index },
    /// A look at what waits.
    Peek { at: usize, wanted: Wanted },
}

fn call() -> impl Strategy<Value = Call> {
    let wanted = || {
        prop_oneof![
            2 => Just(Wanted::Untagged),
            3 => (0..3_u64).prop_map(Wanted::Tag),
            1 => Just(Wanted::AnyTag),
        ]
    };
    let way = prop_oneof![Just(Way::Copied), Just(Way::Posted), Just(Way::InParts)];
    let length = prop_oneof![Just(0), 1..60_usize, 120..137_usize, 137..257_usize];
    prop_oneof![
        4 => (0..2_usize, wanted(), 1..4_usize, any::<bool>()).prop_map(
            |(at, wanted, buffers, is_directed)| Call::Recv { at, wanted, buffers, is_directed }
        ),
        4 => (0..2_usize, prop::option::weighted(0.7, 0..3_u64), length, way)
            .prop_map(|(at, tag, length, way)| Call::Send { at, tag, length, way }),
        1 => (0..2_usize, any::<prop::sample::Index>())
            .prop_map(|(at, which)| Call::Cancel { at, which }),
        1 => (0..2_usize, wanted()).prop_map(|(at, wanted)| Call::Peek { at, wanted }),
    ]
}

/// A receive that is posted.
struct Posted {
    id: WrId,
    wanted: Wanted,
    room: usize,
}

/// A message, by its number.
#[derive(Clone)]
struct Message {
    tag: Option<u64>,
    bytes: Vec<u8>,
    number: u64,
}

/// What the model knows of one end.
#[derive(Default)]
struct Expected {
    posted: Vec<Posted>,
    waiting: VecDeque<Message>,
    /// Completions of receives that are due, in no order.
    due: Vec<(WrId, Status, Option<Message>)>,
    /// Sends whose completions are due.
    sends: Vec<WrId>,
}

impl Expected {
    fn deliver(&mut self, at: usize, message: Message) {
        let Posted { id, room, .. } = self.posted.remove(at);
        let status = if message.bytes.len() <= room { Status::Success } else { Status::Truncated };
        let bytes = message.bytes[..message.bytes.len().min(room)].to_vec();
        self.due.push((id, status, Some(Message { bytes, ..message })));
    }
}

/// Two ends, and the model of each.
struct Game<'w, 'm, R: Rig> {
    world: &'w World<'m, R>,
    ends: [Node<'m, R>; 2],
    to_other: [Addr; 2],
    pool: &'m LoanPool<'m>,
    expected: [Expected; 2],
    sent: u64,
}

impl<'m, R: Rig> Game<'_, 'm, R> {
    fn turn_until(&self, what: &str, so: impl FnMut() -> bool) {
        self.world.until(what, &[&self.ends[0], &self.ends[1]], so);
    }

    fn play(&mut self, call: Call) -> Result<(), TestCaseError> {
        match call {
            Call::Recv { at, wanted, buffers, is_directed } => {
                if self.expected[at].posted.len() < POSTED_MAX {
                    self.recv(at, wanted, buffers, is_directed);
                }
            }
            Call::Send { at, tag, length, way } => {
                if self.expected[1 - at].waiting.len() < WAITING_MAX {
                    self.send(at, tag, length, way);
                }
            }
            Call::Cancel { at, which } => {
                if !self.expected[at].posted.is_empty() {
                    let which = which.index(self.expected[at].posted.len());
                    self.cancel(at, which)?;
                }
            }
            Call::Peek { at, wanted } => self.peek(at, wanted)?,
        }
        self.settle()
    }

    fn recv(&mut self, at: usize, wanted: Wanted, buffers: usize, is_directed: bool) {
        let from = if is_directed { RecvFrom::peer(self.to_other[at]) } else { RecvFrom::any() };
        let (node, from) = (&self.ends[at], wanted.from(from));
        let mut parts = Parts::of((0..buffers).map(|_| self.pool.lend().unwrap()));
        let id = if buffers == 1 {
            let loan = parts.into_loans().next().unwrap();
            node.post_recv(from, loan, 1).map_err(|refused| refused.error).unwrap()
        } else {
            node.post_recvv(from, &mut parts, 1).unwrap()
        };
        let expected = &mut self.expected[at];
        expected.posted.push(Posted { id, wanted, room: ROOM * buffers });
        let first = expected.waiting.iter().position(|message| wanted.takes(message.tag));
        if let Some(message) = first.and_then(|first| expected.waiting.remove(first)) {
            let last = expected.posted.len() - 1;
            expected.deliver(last, message);
        }
    }

    fn send(&mut self, at: usize, tag: Option<u64>, length: usize, way: Way) {
        self.sent += 1;
        let (number, bytes) = (self.sent, pattern(self.sent, length));
        let to = SendTo::peer(self.to_other[at]).immediate(number);
        let to = tag.map_or(to, |tag| to.tag(tag));
        let (node, both) = (&self.ends[at], [&self.ends[0], &self.ends[1]]);
        match way {
            Way::Copied => self.world.insist(&both, || node.inject(to, &bytes)),
            Way::Posted => {
                let id = self.world.insist(&both, || node.send(to, &bytes, 2));
                self.expected[at].sends.push(id);
            }
            Way::InParts => {
                let (first, rest) = bytes.split_at(length / 3);
                let mut parts = Parts::of([first, rest].map(|part| node.loan(part)));
                let id = self.world.insist(&both, || node.post_sendv(to, &mut parts, 2));
                self.expected[at].sends.push(id);
            }
        }
        let (other, message) = (&mut self.expected[1 - at], Message { tag, bytes, number });
        match other.posted.iter().position(|posted| posted.wanted.takes(tag)) {
            Some(first) => other.deliver(first, message),
            None => other.waiting.push_back(message),
        }
    }

    fn cancel(&mut self, at: usize, which: usize) -> Result<(), TestCaseError> {
        let id = self.expected[at].posted.remove(which).id;
        prop_assert_eq!(self.ends[at].cancel(id), Ok(()));
        prop_assert_eq!(self.ends[at].cancel(id), Err(CancelError::NotPosted));
        self.expected[at].due.push((id, Status::Cancelled, None));
        Ok(())
    }

    fn peek(&self, at: usize, wanted: Wanted) -> Result<(), TestCaseError> {
        let look = || self.ends[at].peek(wanted.from(RecvFrom::any()));
        let mut waiting = self.expected[at].waiting.iter();
        match waiting.find(|message| wanted.takes(message.tag)) {
            None => prop_assert_eq!(look(), None),
            Some(message) => {
                self.turn_until("it waits", || look().is_some());
                let seen = look().map(|seen| (seen.immediate, seen.tag, seen.length));
                let expected = (Some(message.number), message.tag, message.bytes.len());
                prop_assert_eq!(seen, Some(expected));
            }
        }
        Ok(())
    }

    /// Turns until what is due has come, and compares it.
    fn settle(&mut self) -> Result<(), TestCaseError> {
        let is_over = |end: &Expected| end.due.is_empty() && end.sends.is_empty();
        for _ in 0..super::TURNS_MAX {
            if self.expected.iter().all(is_over) {
                return Ok(());
            }
            for at in [0, 1] {
                if let Some(got) = self.ends[at].completion(self.world.now()) {
                    self.compare(at, got)?;
                }
            }
        }
        let due = self.expected.iter().map(|end| (end.due.len(), end.sends.len()));
        Err(TestCaseError::fail(format!("due, and not come: {:?}", due.collect::<Vec<_>>())))
    }

    fn compare(&mut self, at: usize, mut got: Completion<'m>) -> Result<(), TestCaseError> {
        let expected = &mut self.expected[at];
        if let Some(sent) = expected.sends.iter().position(|id| *id == got.id) {
            expected.sends.remove(sent);
            prop_assert_eq!((got.kind, got.status), (Kind::Sent, Status::Success));
            drop(self.ends[at].take_parts(&mut got));
            return Ok(());
        }
        let due = expected.due.iter().position(|(id, ..)| *id == got.id);
        prop_assert!(due.is_some(), "end {}: {:?} was not due", at, got);
        let (_, status, message) = expected.due.remove(due.unwrap());
        prop_assert_eq!(got.status, status);
        let parts = self.ends[at].take_parts(&mut got);
        let bytes: Vec<u8> = match &parts {
            Some(parts) => parts.iter().flat_map(|part| part.to_vec()).collect(),
            None => got.bytes().map(<[u8]>::to_vec).unwrap_or_default(),
        };
        let Some(message) = message else {
            prop_assert_eq!((got.kind, bytes.len()), (Kind::RecvEnded, 0));
            return Ok(());
        };
        prop_assert_eq!((got.kind, got.tag), (Kind::Received, message.tag));
        prop_assert_eq!(got.immediate, Some(message.number));
        prop_assert_eq!(got.source, Some(self.to_other[at]));
        prop_assert!(bytes == message.bytes, "message {} is another", message.number);
        prop_assert_eq!(got.length, bytes.len());
        Ok(())
    }
}

fn play<R: Rig>(world: &World<'_, R>, calls: &[Call]) -> Result<(), TestCaseError> {
    let (a, b, to_b, to_a) = world.pair();
    let pool = LoanPool::place(world.bump(), 100, ROOM).unwrap();
    let mut game = Game {
        world,
        ends: [a, b],
        to_other: [to_b, to_a],
        pool,
        expected: <[Expected; 2]>::default(),
        sent: 0,
    };
    for &call in calls {
        game.play(call)?;
    }
    // What is left is taken back, and every buffer is where it was.
    for at in [0, 1] {
        while !game.expected[at].posted.is_empty() {
            game.cancel(at, 0)?;
            game.settle()?;
        }
        prop_assert_eq!(game.ends[at].posted_count(), 0);
        prop_assert!(game.ends[at].completion(world.now()).is_none());
    }
    prop_assert_eq!(pool.free_count(), 100);
    Ok(())
}

/// Plays `cases` sequences, times `SPINWIRE_RANDOM_TIMES` where that is set.
///
/// # Panics
/// Where an end does something else than the model; with the shortest sequence that was found for it.
pub fn any_sequence_is_as_the_model_says<R: Rig>(endpoint_type: EndpointType, cases: u32) {
    if !R::is_here() {
        return;
    }
    let times = std::env::var("SPINWIRE_RANDOM_TIMES").map_or(1, |text| text.parse().unwrap());
    let config = Config {
        cases: cases * times,
        max_shrink_iters: 400,
        failure_persistence: None,
        ..Config::default()
    };
    let sequence = prop::collection::vec(call(), 1..40);
    let played = TestRunner::new(config).run(&sequence, |calls| {
        let mut result = Ok(());
        run::<R>(endpoint_type, Sizes::default(), |world| result = play(world, &calls));
        result
    });
    if let Err(error) = played {
        panic!("{endpoint_type}: {error}");
    }
}
