//! Builds, completions and errors in any order, against the oracle of `wrap`: who ends with which, what is refused behind an error, and that a
//! queue that begins anew is as a fresh one.

use proptest::prelude::*;
use proptest::test_runner::Config;
use spinwire_dataplane::error::Fatal;
use spinwire_dataplane::tracker::{Earlier, Failed, FailedBy, Flushed, Posted, Stale};
use spinwire_dataplane::wqe::Straddle;

use super::wrap::{Pair, Step};
use super::{SHAPE, Shape};

#[derive(Clone, Copy, Debug)]
enum Op {
    /// A build, or a completion of the oldest signaled one.
    Step(Step),
    /// An error of the work request at that place of those under way.
    Fail(prop::sample::Index, FailedBy),
    /// A completion with any number.
    Stray(u16),
    /// The rest is flushed, and the queue begins anew.
    Renew,
}

/// Mostly builds, as half of them are refused.
fn op() -> impl Strategy<Value = Op> {
    let by = prop_oneof![Just(FailedBy::Itself), Just(FailedBy::Flush)];
    prop_oneof![
        12 => (1..=4_u16, any::<bool>()).prop_map(|(blocks, signaled)| Op::Step(Step::Post(blocks, signaled))),
        6 => Just(Op::Step(Step::Complete)),
        2 => (any::<prop::sample::Index>(), by).prop_map(|(which, by)| Op::Fail(which, by)),
        2 => any::<u16>().prop_map(Op::Stray),
        1 => Just(Op::Renew),
    ]
}

/// The queue, its oracle, and whether it has failed.
struct Run {
    pair: Pair,
    has_failed: bool,
}

impl Run {
    fn apply(&mut self, op: Op) {
        match op {
            Op::Step(Step::Post(blocks, signaled)) if self.has_failed => {
                assert_eq!(self.pair.post(blocks, signaled), Err(Fatal::QueueError.into()));
            }
            Op::Step(Step::Complete) if self.has_failed => {
                let of = self.pair.oracle.queue.iter().find(|posted| posted.entry.is_some());
                if let Some(posted) = of {
                    assert_eq!(self.pair.qp.sq().complete(posted.start), Err(Stale::Failed));
                }
            }
            Op::Step(step) => self.pair.step(step),
            Op::Fail(which, by) => self.fail(which, by),
            Op::Stray(number) => {
                let due = self.pair.oracle.queue.iter().find(|posted| posted.entry.is_some());
                if self.has_failed || due.is_none_or(|posted| posted.start != number) {
                    assert!(self.pair.qp.sq().complete(number).is_err());
                }
            }
            Op::Renew => self.renew(),
        }
        self.pair.check(op);
    }

    fn fail(&mut self, which: prop::sample::Index, by: FailedBy) {
        let (queue, sq) = (&mut self.pair.oracle.queue, self.pair.qp.sq());
        if queue.is_empty() {
            return;
        }
        let at = which.index(queue.len());
        let named = queue[at];
        if queue.iter().take(at).any(|posted| posted.entry.is_some()) {
            assert_eq!(sq.fail(named.start, by), Err(Stale::Skips));
            return;
        }
        let ended: Vec<_> = queue.drain(..=at).collect();
        let quiet = ended[..at].iter().filter(|posted| !posted.is_fill).count();
        let quiet = u16::try_from(quiet).unwrap();
        let earlier = if self.has_failed || by == FailedBy::Flush {
            Earlier::Flushed(quiet)
        } else {
            Earlier::Done(quiet)
        };
        let wqe = match named.entry {
            Some(entry) => Posted::Signaled(entry),
            None if named.is_fill => Posted::Fill,
            None => Posted::Unsignaled,
        };
        let blocks = ended.iter().map(|posted| posted.blocks).sum();
        assert_eq!(sq.fail(named.start, by), Ok(Failed { wqe, earlier, blocks }));
        self.has_failed = true;
    }

    fn renew(&mut self) {
        let sq = self.pair.qp.sq();
        for posted in self.pair.oracle.queue.drain(..).filter(|posted| !posted.is_fill) {
            let flushed = Flushed { index: posted.start, entry: posted.entry };
            assert_eq!(sq.flush(), Some(flushed));
        }
        assert_eq!(sq.flush(), None);
        sq.restart().unwrap();
        self.pair.oracle.pi = 0;
        self.has_failed = false;
    }
}

fn run(shape: Shape, ops: &[Op]) {
    let mut run = Run { pair: Pair::new(shape), has_failed: false };
    for op in ops {
        run.apply(*op);
    }
    if run.has_failed {
        run.renew();
    }
    run.pair.is_never_stuck();
}

proptest! {
    #![proptest_config(Config { failure_persistence: None, ..Config::with_cases(200) })]

    #[test]
    fn any_sequence_ends_each_once(
        fill in any::<bool>(),
        blocks in 3..=5_u32,
        ops in prop::collection::vec(op(), 0..160),
    ) {
        let straddle = if fill { Straddle::Fill } else { Straddle::Wrap };
        run(Shape { straddle, blocks: 1 << blocks, wqe_blocks_max: 4, ..SHAPE }, &ops);
    }
}
