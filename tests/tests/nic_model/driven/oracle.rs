//! What a queue pair has been given and must give back: every work request once, in order, with what it has done.

use std::collections::VecDeque;

/// What a work request has to have done when it is done.
#[derive(Clone, Debug)]
pub(crate) enum Effect {
    /// A message of that number, which the other end sees.
    Message,
    /// Bytes at that place of the memory of the other end.
    Written(u64, Vec<u8>),
    /// Bytes at that place of this end's memory.
    Read(u64, Vec<u8>),
}

/// A work request under way.
#[derive(Clone, Debug)]
pub(crate) struct Request {
    pub(crate) id: u64,
    pub(crate) signaled: bool,
    /// The place of its bytes, which is its own until it is over.
    pub(crate) slot: Option<usize>,
    pub(crate) effect: Effect,
    /// It cannot succeed.
    pub(crate) bad: bool,
}

/// How many ended how.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Outcome {
    pub(crate) done: u64,
    pub(crate) failed: u64,
    pub(crate) flushed: u64,
}

impl Outcome {
    pub(crate) const fn add(&mut self, other: &Self) {
        self.done += other.done;
        self.failed += other.failed;
        self.flushed += other.flushed;
    }
}

/// The books of one end of a queue pair.
#[derive(Debug, Default)]
pub(crate) struct Oracle {
    pub(crate) under_way: VecDeque<Request>,
    pub(crate) next_id: u64,
    pub(crate) outcome: Outcome,
    /// Messages of this end.
    pub(crate) messages_posted: u64,
    pub(crate) messages_done: u64,
    /// Messages of the other end.
    pub(crate) delivered: u64,
    /// An error has been told.
    pub(crate) broken: bool,
}

impl Oracle {
    /// A success of that one: it and the unsignaled ones before it are done.
    pub(crate) fn complete(&mut self, id: u64, unsignaled: u16) -> Vec<Request> {
        assert!(!self.broken, "a success after an error");
        let mut over = self.take(usize::from(unsignaled), "unsignaled");
        let last = self.under_way.pop_front().expect("it is under way");
        assert!(last.signaled && last.id == id, "{id} has completed instead of {last:?}");
        over.push(last);
        self.done(&over);
        over
    }

    fn take(&mut self, count: usize, what: &str) -> Vec<Request> {
        let taken: Vec<_> = self.under_way.drain(..count.min(self.under_way.len())).collect();
        assert!(taken.len() == count && taken.iter().all(|r| !r.signaled), "{what}: {taken:?}");
        taken
    }

    fn done(&mut self, over: &[Request]) {
        for request in over {
            assert!(!request.bad, "it cannot have succeeded: {request:?}");
            self.outcome.done += 1;
            self.messages_done += u64::from(matches!(request.effect, Effect::Message));
        }
    }

    /// The unsignaled ones before an error: done if it was the first, else flushed.
    pub(crate) fn earlier(&mut self, count: u16, are_done: bool) -> Vec<Request> {
        assert!(!(are_done && self.broken), "only the first error says so");
        let over = self.take(usize::from(count), "before an error");
        if are_done {
            self.done(&over);
        } else {
            self.outcome.flushed += u64::from(count);
        }
        over
    }

    /// An error of that one; `None` where it did not ask for a completion.
    pub(crate) fn fail(&mut self, id: Option<u64>, is_flush: bool) -> Request {
        let request = self.under_way.pop_front().expect("it is under way");
        assert_eq!(request.signaled.then_some(request.id), id);
        if is_flush {
            self.outcome.flushed += 1;
        } else {
            assert!(!self.broken, "one error, and the others are flushed");
            self.outcome.failed += 1;
        }
        self.broken = true;
        request
    }
}

/// What a message is: by its sender's queue pair and its number both ends know all of it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Message {
    seed: u64,
    pub(crate) kind: u8,
    pub(crate) length: usize,
    pub(crate) imm: u32,
}

impl Message {
    pub(crate) fn new(plan_seed: u64, qpn: u32, number: u64) -> Self {
        let mut rng = spinwire_tests::rng::Rng::new(plan_seed ^ u64::from(qpn) << 40 ^ number);
        let seed = rng.word();
        let kind = [0, 0, 0, 1, 2][rng.index(5)];
        let most = [8, 40, 64, 200, 400][rng.index(5)];
        let length = rng.index(most + 1);
        let imm = u32::try_from(rng.below(1 << 32)).unwrap();
        Self { seed, kind, length, imm }
    }

    pub(crate) fn bytes(&self) -> Vec<u8> {
        spinwire_tests::rng::pattern(self.seed, self.length)
    }
}
