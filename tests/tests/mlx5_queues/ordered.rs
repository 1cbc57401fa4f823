//! The ordered tracker against a list of everything that was ever posted: each work request ends exactly once.

use std::collections::VecDeque;

use proptest::prelude::*;
use spinwire_dataplane::error::{Fatal, PostError, Retry};
use spinwire_dataplane::raw::place::Bump;
use spinwire_dataplane::tracker::{
    Completed, Earlier, Failed, FailedBy, Flushed, Ordered, OrderedConfig, PlaceError, Posted,
    Stale,
};
use spinwire_tests::rng::Rng;

use crate::with_arena;

/// Positions are counted in basic blocks from the oldest one in use, so that most of them hit.
#[derive(Clone, Copy, Debug)]
enum Op {
    Post { blocks: u16, signaled: bool },
    Fill { blocks: u16 },
    CompleteOldest,
    Complete { at: u16 },
    Fail { at: u16, by: FailedBy },
    Flush,
    Restart,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Kind {
    Signaled,
    Unsignaled,
    Fill,
}

#[derive(Clone, Copy, Debug)]
struct Wqe {
    start: u64,
    blocks: u16,
    kind: Kind,
    id: usize,
}

struct Oracle {
    config: OrderedConfig,
    /// Index that counts on for ever.
    pi: u64,
    under_way: VecDeque<Wqe>,
    failed: bool,
    /// How often each work request has ended, by its id.
    ended: Vec<u32>,
}

const fn index(position: u64) -> u16 {
    let [a, b, ..] = position.to_le_bytes();
    u16::from_le_bytes([a, b])
}

impl Oracle {
    const fn new(config: OrderedConfig) -> Self {
        Self { config, pi: 0, under_way: VecDeque::new(), failed: false, ended: Vec::new() }
    }

    fn ci(&self) -> u64 {
        self.under_way.front().map_or(self.pi, |wqe| wqe.start)
    }

    fn free(&self) -> u16 {
        self.config.rows - u16::try_from(self.pi - self.ci()).unwrap()
    }

    /// Blocks behind the last signaled one, which nothing will retire.
    fn trailing(&self) -> u16 {
        let behind = self.under_way.iter().rev().take_while(|wqe| wqe.kind != Kind::Signaled);
        behind.map(|wqe| wqe.blocks).sum()
    }

    fn why_refused(&self, blocks: u16, kind: Kind) -> Option<PostError> {
        let OrderedConfig { rows, wqe_blocks_max } = self.config;
        let room_after = rows.saturating_sub(self.trailing()).saturating_sub(blocks);
        // Behind it the longest one goes, with fill before it where it would pass the end of the ring.
        let to_end = rows - (index(self.pi).wrapping_add(blocks) & (rows - 1));
        let wanted = match kind {
            Kind::Signaled => 0,
            Kind::Unsignaled if to_end < wqe_blocks_max => to_end + wqe_blocks_max,
            Kind::Unsignaled | Kind::Fill => wqe_blocks_max,
        };
        if self.failed {
            Some(PostError::Fatal(Fatal::QueueError))
        } else if blocks > self.free() || room_after < wanted {
            Some(PostError::Retry(Retry::SqFull))
        } else {
            None
        }
    }

    fn push(&mut self, blocks: u16, kind: Kind) {
        let id = self.ended.len();
        self.ended.push(u32::from(kind == Kind::Fill));
        self.under_way.push_back(Wqe { start: self.pi, blocks, kind, id });
        self.pi += u64::from(blocks);
    }

    /// Ends everything up to the `count`th under way, and says how many unsignaled there were before it.
    fn end(&mut self, count: usize) -> (Wqe, u16, u16) {
        let ended: Vec<_> = self.under_way.drain(..=count).collect();
        for wqe in &ended {
            self.ended[wqe.id] += u32::from(wqe.kind != Kind::Fill);
        }
        let unsignaled = ended[..count].iter().filter(|wqe| wqe.kind == Kind::Unsignaled).count();
        let blocks = ended.iter().map(|wqe| wqe.blocks).sum();
        (ended[count], u16::try_from(unsignaled).unwrap(), blocks)
    }

    fn locate(&self, counter: u16) -> Result<usize, Stale> {
        if let Some(found) = self.under_way.iter().position(|wqe| index(wqe.start) == counter) {
            let earlier = self.under_way.iter().take(found);
            return if earlier.into_iter().any(|wqe| wqe.kind == Kind::Signaled) {
                Err(Stale::Skips)
            } else {
                Ok(found)
            };
        }
        let within = (self.ci()..self.pi).any(|position| index(position) == counter);
        Err(if within { Stale::NotAStart } else { Stale::NotPosted })
    }

    fn complete(&mut self, counter: u16) -> Result<Completed<usize>, Stale> {
        let found = self.locate(counter)?;
        if self.failed {
            return Err(Stale::Failed);
        }
        if self.under_way[found].kind != Kind::Signaled {
            return Err(Stale::Unsignaled);
        }
        let (wqe, unsignaled, blocks) = self.end(found);
        Ok(Completed { entry: wqe.id, unsignaled, blocks })
    }

    fn fail(&mut self, counter: u16, by: FailedBy) -> Result<Failed<usize>, Stale> {
        let found = self.locate(counter)?;
        let (wqe, earlier, blocks) = self.end(found);
        let posted = match wqe.kind {
            Kind::Signaled => Posted::Signaled(wqe.id),
            Kind::Unsignaled => Posted::Unsignaled,
            Kind::Fill => Posted::Fill,
        };
        let first = !core::mem::replace(&mut self.failed, true);
        let known = first && by == FailedBy::Itself;
        let earlier = if known { Earlier::Done(earlier) } else { Earlier::Flushed(earlier) };
        Ok(Failed { wqe: posted, earlier, blocks })
    }

    fn flush(&mut self) -> Option<Flushed<usize>> {
        self.failed = true;
        let found = self.under_way.iter().position(|wqe| wqe.kind != Kind::Fill);
        let Some(found) = found else {
            self.under_way.clear();
            return None;
        };
        let (wqe, ..) = self.end(found);
        let entry = (wqe.kind == Kind::Signaled).then_some(wqe.id);
        Some(Flushed { index: index(wqe.start), entry })
    }
}

struct Rig<'m> {
    tracker: Ordered<'m, usize>,
    oracle: Oracle,
}

impl<'m> Rig<'m> {
    fn new(bump: &Bump<'m>, config: OrderedConfig) -> Self {
        Self { tracker: Ordered::place(bump, config).unwrap(), oracle: Oracle::new(config) }
    }

    fn apply(&mut self, op: Op) {
        let Self { tracker, oracle } = self;
        let ci = oracle.ci();
        match op {
            Op::Post { blocks, signaled } => {
                let kind = if signaled { Kind::Signaled } else { Kind::Unsignaled };
                let expected = oracle.why_refused(blocks, kind).map_or(Ok(()), Err);
                let entry = signaled.then_some(oracle.ended.len());
                let asked = match kind {
                    Kind::Signaled => tracker.room_signaled(blocks),
                    Kind::Unsignaled | Kind::Fill => tracker.room_unsignaled(blocks),
                };
                assert_eq!(asked, expected);
                assert_eq!(tracker.post(blocks, entry), expected);
                if expected.is_ok() {
                    oracle.push(blocks, kind);
                }
            }
            Op::Fill { blocks } => {
                let expected = oracle.why_refused(blocks, Kind::Fill).map_or(Ok(()), Err);
                assert_eq!(tracker.fill(blocks), expected);
                if expected.is_ok() {
                    oracle.push(blocks, Kind::Fill);
                }
            }
            Op::CompleteOldest => {
                let oldest = oracle.under_way.iter().find(|wqe| wqe.kind == Kind::Signaled);
                let counter = index(oldest.map_or(ci, |wqe| wqe.start));
                assert_eq!(tracker.complete(counter), oracle.complete(counter));
            }
            Op::Complete { at } => {
                let counter = index(ci).wrapping_add(at);
                assert_eq!(tracker.complete(counter), oracle.complete(counter));
            }
            Op::Fail { at, by } => {
                let counter = index(ci).wrapping_add(at);
                assert_eq!(tracker.fail(counter, by), oracle.fail(counter, by));
            }
            Op::Flush => assert_eq!(tracker.flush(), oracle.flush()),
            Op::Restart => {
                let expected =
                    if oracle.under_way.is_empty() { Ok(()) } else { Err(Retry::SqFull) };
                assert_eq!(tracker.restart(), expected);
                if expected.is_ok() {
                    oracle.pi = 0;
                    oracle.failed = false;
                }
            }
        }
        self.check();
    }

    fn check(&self) {
        let Self { tracker, oracle } = self;
        assert_eq!((tracker.pi(), tracker.ci()), (index(oracle.pi), index(oracle.ci())));
        assert_eq!((tracker.free(), tracker.is_failed()), (oracle.free(), oracle.failed));
        assert_eq!(tracker.is_empty(), oracle.under_way.is_empty());
        let signaled = oracle.under_way.iter().filter(|wqe| wqe.kind == Kind::Signaled).count();
        assert_eq!(usize::from(tracker.signaled()), signaled);
        // Once everything signaled has completed, the longest one can be posted, or the fill before it.
        let OrderedConfig { rows, wqe_blocks_max } = oracle.config;
        assert!(rows - oracle.trailing() >= wqe_blocks_max, "only unsignaled ones are left");
    }

    /// Ends what is left, and looks whether everything that was ever posted has ended once.
    fn finish(mut self) {
        while !self.oracle.under_way.is_empty() {
            self.apply(Op::Flush);
        }
        self.apply(Op::Flush);
        assert!(self.oracle.ended.iter().all(|times| *times == 1));
    }
}

const fn sizes(rows: u16, wqe_blocks_max: u16) -> OrderedConfig {
    OrderedConfig { rows, wqe_blocks_max }
}

#[test]
fn every_sequence_on_a_ring_of_four() {
    let alphabet = [
        Op::Post { blocks: 1, signaled: true },
        Op::Post { blocks: 2, signaled: true },
        Op::Post { blocks: 1, signaled: false },
        Op::Fill { blocks: 1 },
        Op::Complete { at: 0 },
        Op::Complete { at: 1 },
        Op::CompleteOldest,
        Op::Fail { at: 0, by: FailedBy::Itself },
        Op::Fail { at: 0, by: FailedBy::Flush },
        Op::Fail { at: 1, by: FailedBy::Itself },
        Op::Flush,
    ];
    let length = 5_u32;
    for number in 0..alphabet.len().pow(length) {
        with_arena(1024, |bump| {
            let mut rig = Rig::new(bump, sizes(4, 2));
            let mut rest = number;
            for _ in 0..length {
                rig.apply(alphabet[rest % alphabet.len()]);
                rest /= alphabet.len();
            }
            rig.finish();
        });
    }
}

fn op(blocks: u16) -> impl Strategy<Value = Op> {
    prop_oneof![
        6 => (1..=blocks, any::<bool>())
            .prop_map(|(blocks, signaled)| Op::Post { blocks, signaled }),
        1 => (1..=blocks).prop_map(|blocks| Op::Fill { blocks }),
        4 => Just(Op::CompleteOldest),
        2 => (0..20_u16).prop_map(|at| Op::Complete { at }),
        1 => any::<u16>().prop_map(|at| Op::Complete { at }),
        1 => (0..20_u16, any::<bool>()).prop_map(|(at, itself)| {
            let by = if itself { FailedBy::Itself } else { FailedBy::Flush };
            Op::Fail { at, by }
        }),
        1 => Just(Op::Flush),
        1 => Just(Op::Restart),
    ]
}

proptest! {
    #![proptest_config(crate::config())]

    #[test]
    fn random_operations(
        (rows, longest) in prop_oneof![Just((1, 1)), Just((2, 1)), Just((8, 4)), Just((64, 16))],
        ops in prop::collection::vec(op(5), 0..200),
    ) {
        with_arena(1 << 13, |bump| {
            let mut rig = Rig::new(bump, sizes(rows, longest));
            ops.into_iter().for_each(|op| rig.apply(op));
            rig.finish();
        });
    }
}

#[test]
fn the_indices_wrap_many_times_unseen() {
    for (seed, (rows, longest)) in (0..).zip([(8, 4), (32, 16), (256, 3)]) {
        with_arena(1 << 14, |bump| {
            let mut rig = Rig::new(bump, sizes(rows, longest));
            let mut rng = Rng::new(seed);
            while rig.oracle.pi < 3 << 16 {
                let blocks = u16::try_from(rng.between(1, usize::from(longest))).unwrap();
                rig.apply(match rng.weighted(&[30, 20, 5, 50, 5, 1]) {
                    0 => Op::Post { blocks, signaled: true },
                    1 => Op::Post { blocks, signaled: false },
                    2 => Op::Fill { blocks },
                    3 => Op::CompleteOldest,
                    4 => Op::Complete { at: index(rng.word()) },
                    // One lap and several laps of the ring away: the same row.
                    _ => Op::Complete { at: rows << rng.index(3) },
                });
            }
            rig.finish();
        });
    }
}

#[test]
fn a_ring_as_large_as_can_be_fills_and_empties() {
    with_arena(Ordered::<usize>::bytes(1 << 15) + 64, |bump| {
        let tracker = Ordered::place(bump, sizes(1 << 15, 16)).unwrap();
        assert_eq!((tracker.size(), tracker.free()), (1 << 15, 1 << 15));
        for lap in 0..3 {
            for entry in 0..1 << 15 {
                tracker.post(1, Some(entry)).unwrap();
            }
            assert_eq!(tracker.post(1, Some(0)), Err(PostError::Retry(Retry::SqFull)), "lap {lap}");
            for entry in 0..1 << 15 {
                assert_eq!(tracker.complete(tracker.ci()).unwrap().entry, entry);
            }
        }
    });
}

#[test]
fn an_error_of_an_unsignaled_one_retires_up_to_it_and_says_so() {
    with_arena(1024, |bump| {
        let tracker = Ordered::place(bump, sizes(16, 2)).unwrap();
        for entry in [None, None, None, Some('s'), None] {
            tracker.post(2, entry).unwrap();
        }
        let failed = tracker.fail(2, FailedBy::Itself).unwrap();
        assert_eq!(failed.wqe, Posted::Unsignaled);
        assert_eq!((failed.earlier, failed.blocks), (Earlier::Done(1), 4));
        // The device flushes the rest, and names only what it wants to.
        assert_eq!(tracker.complete(6), Err(Stale::Failed));
        let failed = tracker.fail(6, FailedBy::Flush).unwrap();
        assert_eq!((failed.wqe, failed.earlier), (Posted::Signaled('s'), Earlier::Flushed(1)));
        assert_eq!(tracker.post(1, Some('t')), Err(PostError::Fatal(Fatal::QueueError)));
        assert_eq!(tracker.flush(), Some(Flushed { index: 8, entry: None }));
        assert_eq!(tracker.flush(), None);
        tracker.restart().unwrap();
        assert_eq!((tracker.pi(), tracker.post(1, Some('t'))), (0, Ok(())));
    });
}

#[test]
fn what_cannot_be_placed_says_why() {
    with_arena(256, |bump| {
        let place = |rows, longest| Ordered::<u64>::place(bump, sizes(rows, longest)).unwrap_err();
        for rows in [0, 3, 6, (1 << 15) + 1, u16::MAX] {
            assert_eq!(place(rows, 1), PlaceError::Rows { rows });
        }
        for wqe_blocks_max in [0, 9, 16, u16::MAX] {
            assert_eq!(place(16, wqe_blocks_max), PlaceError::Longest { wqe_blocks_max, rows: 16 });
        }
        let refused = place(1024, 16);
        assert!(matches!(refused, PlaceError::Memory(_)), "{refused}");
    });
}
