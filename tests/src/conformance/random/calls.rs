//! The calls that a sequence is made of.

use proptest::prelude::*;
use spinwire_dataplane::msg::RecvFrom;

/// Which messages a receive takes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Wanted {
    Untagged,
    Tag(u64),
    AnyTag,
    /// Those with an even tag.
    EvenTag,
}

impl Wanted {
    pub(super) const fn takes(self, tag: Option<u64>) -> bool {
        match (self, tag) {
            (Self::Untagged, None) | (Self::AnyTag, Some(_)) => true,
            (Self::Tag(wanted), Some(tag)) => wanted == tag,
            (Self::EvenTag, Some(tag)) => tag.is_multiple_of(2),
            _ => false,
        }
    }

    pub(super) const fn from(self, from: RecvFrom) -> RecvFrom {
        match self {
            Self::Untagged => from,
            Self::Tag(tag) => from.tag(tag),
            Self::AnyTag => from.tag_ignoring(0, u64::MAX),
            Self::EvenTag => from.tag_ignoring(0, !1),
        }
    }

    /// The tag that its error entry says.
    pub(super) const fn tag(self) -> Option<u64> {
        match self {
            Self::Untagged => None,
            Self::Tag(tag) => Some(tag),
            Self::AnyTag | Self::EvenTag => Some(0),
        }
    }
}

/// How a message is sent.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Way {
    Copied,
    Posted,
    InParts,
    /// By a desk that waits until it is sent: as much of it as a buffer holds.
    AtADesk,
}

/// What is done with the memory of the other end, at a word of it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Remote {
    /// Writes a pattern over so many words.
    Write {
        words: usize,
    },
    /// Reads so many words.
    Read {
        words: usize,
    },
    Add(u64),
    /// Swaps where there is what there is, or where there is something else.
    Swap {
        is_right: bool,
        swap: u64,
    },
}

/// A call of the end of that number, 0 or 1.
#[derive(Clone, Copy, Debug)]
pub(super) enum Call {
    /// A receive into so many buffers, from the other end alone or from anybody.
    Recv { at: usize, wanted: Wanted, buffers: usize, is_directed: bool },
    /// A receive of many messages into one buffer.
    Many { at: usize, wanted: Wanted, room_bytes_min: usize, is_directed: bool },
    /// A message to the other end.
    Send { at: usize, tag: Option<u64>, length: usize, way: Way },
    /// The receive of that number among those that are posted is taken back.
    Cancel { at: usize, which: prop::sample::Index },
    /// What the other end has sent so far is on its way; and a turn that may hand out so many completions, of which so many are asked for: the rest is
    /// still to be had when the next call is made. Without a budget, what is left of the last turn's is asked for.
    Glance { at: usize, budget: Option<u32>, asked: u32 },
    /// A look at what waits.
    Peek { at: usize, wanted: Wanted },
    /// Something is done with the memory of the other end, from that word on.
    OneSided { at: usize, what: Remote, word: usize },
    /// A desk waits for a message, with a slice of so many bytes: for as long as it takes where one is due, else it looks once.
    Ask { at: usize, desk: usize, wanted: Wanted, room: usize },
    /// A desk waits for something that was posted: for what is due, as long as it takes; for what is not, once.
    Await { at: usize, desk: usize, which: prop::sample::Index },
    /// The other end is given up, and entered anew.
    Leave { at: usize },
}

/// A call, and whether all that is due is waited for before the next.
#[derive(Clone, Copy, Debug)]
pub(super) struct Step {
    pub(super) call: Call,
    pub(super) settles: bool,
}

/// Words of memory that each end exposes.
pub(super) const WORDS: usize = 8;

/// Two of them are in the same list of the matcher.
fn tag() -> impl Strategy<Value = u64> {
    prop_oneof![Just(0), Just(1), Just(56)]
}

fn wanted() -> impl Strategy<Value = Wanted> {
    prop_oneof![
        2 => Just(Wanted::Untagged),
        3 => tag().prop_map(Wanted::Tag),
        1 => Just(Wanted::AnyTag),
        1 => Just(Wanted::EvenTag),
    ]
}

fn remote() -> impl Strategy<Value = (Remote, usize)> {
    let words = || (0..WORDS).prop_flat_map(|word| (1..=WORDS - word, Just(word)));
    prop_oneof![
        words().prop_map(|(words, word)| (Remote::Write { words }, word)),
        words().prop_map(|(words, word)| (Remote::Read { words }, word)),
        (any::<u64>(), 0..WORDS).prop_map(|(add, word)| (Remote::Add(add), word)),
        (any::<bool>(), any::<u64>(), 0..WORDS)
            .prop_map(|(is_right, swap, word)| (Remote::Swap { is_right, swap }, word)),
    ]
}

fn call() -> impl Strategy<Value = Call> {
    let end = || 0..2_usize;
    let index = any::<prop::sample::Index>;
    let way =
        prop_oneof![Just(Way::Copied), Just(Way::Posted), Just(Way::InParts), Just(Way::AtADesk)];
    let length = prop_oneof![Just(0), 1..60_usize, 120..137_usize, 137..257_usize];
    prop_oneof![
        8 => (end(), wanted(), 1..4_usize, any::<bool>()).prop_map(
            |(at, wanted, buffers, is_directed)| Call::Recv { at, wanted, buffers, is_directed }
        ),
        3 => (end(), wanted(), 0..129_usize, any::<bool>()).prop_map(
            |(at, wanted, room_bytes_min, is_directed)| {
                Call::Many { at, wanted, room_bytes_min, is_directed }
            }
        ),
        10 => (end(), prop::option::weighted(0.7, tag()), length, way)
            .prop_map(|(at, tag, length, way)| Call::Send { at, tag, length, way }),
        2 => (end(), index()).prop_map(|(at, which)| Call::Cancel { at, which }),
        3 => (end(), prop::option::of(0..5_u32), 0..5_u32)
            .prop_map(|(at, budget, asked)| Call::Glance { at, budget, asked }),
        2 => (end(), wanted()).prop_map(|(at, wanted)| Call::Peek { at, wanted }),
        2 => (end(), remote()).prop_map(|(at, (what, word))| Call::OneSided { at, what, word }),
        3 => (end(), end(), wanted(), 0..129_usize)
            .prop_map(|(at, desk, wanted, room)| Call::Ask { at, desk, wanted, room }),
        3 => (end(), end(), index()).prop_map(|(at, desk, which)| Call::Await { at, desk, which }),
        1 => end().prop_map(|at| Call::Leave { at }),
    ]
}

/// Sequences of calls. In some of them much is under way at a time.
pub(super) fn steps() -> impl Strategy<Value = Vec<Step>> {
    prop_oneof![Just(0.6), Just(0.1)].prop_flat_map(|settles| {
        let step = (call(), prop::bool::weighted(settles));
        prop::collection::vec(step.prop_map(|(call, settles)| Step { call, settles }), 1..40)
    })
}
