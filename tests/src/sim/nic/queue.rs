//! Queue pairs as a device has them: what it was told of them, how far it has read, what is under way.

use std::collections::VecDeque;

use spinwire_dataplane::raw::line::{LINE_BYTES, Line};
use spinwire_dataplane::sync::AtomicU32;

use super::bytes::{be16, be32, be64, is_poison, poison, read_ring, size, write_lines};
use super::fault::{Fault, Syndrome};
use super::wqe::{INVALID_KEY, Order, Rules, Transport};

/// Where a queue pair has its receives.
#[derive(Clone, Copy, Debug)]
pub enum Receives<'m> {
    /// A ring of its own: entries of so many bytes.
    Ring(&'m [Line], usize),
    /// A shared queue, by its number.
    Shared(u32),
}

/// What a device is told of a queue pair.
#[derive(Clone, Copy, Debug)]
pub struct QpPlan<'m> {
    /// Number and kind.
    pub rules: Rules,
    /// Protection domain.
    pub domain: u32,
    /// Basic blocks of the send queue, a power of two.
    pub sq: &'m [Line],
    /// The receives.
    pub rq: Receives<'m>,
    /// The doorbell record: 32 bits of the receive queue, then 32 of the send queue.
    pub record: &'m [AtomicU32; 2],
    /// The doorbell register: one line, or two halves that are written in turn.
    pub register: &'m [Line],
    /// Completion queue of sends, and of receives.
    pub cqs: (u32, u32),
    /// The key that datagrams must have.
    pub qkey: u32,
    /// Times that a request is sent again when nobody answers.
    pub retries: u8,
    /// Times that it is sent again when there is no receive; 7 is for ever.
    pub rnr_retries: u8,
    /// Data of answers goes to the completion where it is small enough.
    pub scatter_to_cqe: bool,
}

/// A request that was published: itself, or why it cannot be done.
#[derive(Clone, Debug)]
pub(super) struct Posted {
    pub(super) index: u16,
    pub(super) blocks: u16,
    pub(super) bytes: Vec<u8>,
    pub(super) order: Result<Order, Fault>,
}

/// How far a request is that was begun.
#[derive(Clone, Debug)]
pub(super) enum Progress {
    /// On its way, since then.
    Sent(u64),
    /// Done; so many bytes have come back, and those of them that go into the completion.
    Done(u32, Vec<u8>),
    /// It failed.
    Failed(Syndrome),
}

/// A request that was begun.
#[derive(Clone, Debug)]
pub(super) struct Flight {
    pub(super) posted: Posted,
    pub(super) sequence: u64,
    pub(super) payload: Vec<u8>,
    pub(super) progress: Progress,
}

/// The send queue.
#[derive(Debug, Default)]
pub(super) struct SendSide {
    /// The record, as it was seen last.
    pub(super) seen: u16,
    /// A move of the record without a doorbell that was told already.
    pub(super) silent: Option<u16>,
    /// Everything before it has completed, and a completion was written that says so.
    pub(super) retired: u16,
    /// The half of the register that was written last.
    pub(super) half: Option<usize>,
    pub(super) posted: VecDeque<Posted>,
    pub(super) flights: VecDeque<Flight>,
    pub(super) next_sequence: u64,
    pub(super) tries: u8,
    pub(super) rnr_tries: u8,
    /// Nothing is sent before.
    pub(super) rest_until: u64,
}

/// A receive that was taken.
#[derive(Clone, Debug)]
pub(super) struct Taken {
    /// As it stands in the completion.
    pub(super) counter: u16,
    /// Address, key, bytes.
    pub(super) pieces: Vec<(u64, u32, usize)>,
}

/// The receives of a queue pair.
#[derive(Debug, Default)]
pub(super) struct RecvSide {
    /// Published, as it was seen last.
    pub(super) seen: u16,
    /// Taken.
    pub(super) taken: u16,
    /// Completed, and a completion was written.
    pub(super) done: u16,
}

/// A message on its way to the other end.
#[derive(Clone, Debug)]
pub(super) struct Request {
    pub(super) sequence: u64,
    pub(super) order: Order,
    pub(super) payload: Vec<u8>,
    /// Bytes that are to come back.
    pub(super) wanted: usize,
}

/// An answer on its way back.
#[derive(Clone, Debug)]
pub(super) enum Answer {
    /// Done, up to this one.
    Ack(u64),
    /// What was read, or what was there before.
    Data(u64, Vec<u8>),
    /// There is no receive.
    NotReady(u64),
    /// It cannot be done.
    Refused(u64, Syndrome),
}

/// Whether a queue pair works.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum State {
    /// It sends and receives.
    Ready,
    /// Everything that is in it, or comes, is flushed.
    Error,
}

/// A queue pair.
#[derive(Debug)]
pub(super) struct Pair<'m> {
    pub(super) plan: QpPlan<'m>,
    /// Node and queue pair at the other end.
    pub(super) peer: Option<(usize, u32)>,
    pub(super) state: State,
    pub(super) sq: SendSide,
    pub(super) rq: RecvSide,
    /// What it has put on the wire.
    pub(super) requests: VecDeque<Request>,
    /// What it has answered the other end.
    pub(super) answers: VecDeque<Answer>,
    /// The next request that it has not yet had.
    pub(super) expected: u64,
    /// What atomics have answered, for those that ask again.
    pub(super) atomics: VecDeque<(u64, Vec<u8>)>,
}

impl<'m> Pair<'m> {
    pub(super) fn new(plan: QpPlan<'m>) -> Self {
        assert!(plan.sq.len().is_power_of_two() && plan.sq.len() <= 1 << 15);
        assert!(matches!(plan.register.len(), 1 | 2 | 4 | 8), "a line, or two halves");
        Self {
            plan,
            peer: None,
            state: State::Ready,
            sq: SendSide::default(),
            rq: RecvSide::default(),
            requests: VecDeque::new(),
            answers: VecDeque::new(),
            expected: 0,
            atomics: VecDeque::new(),
        }
    }

    pub(super) fn is_rc(&self) -> bool {
        self.plan.rules.transport == Transport::Rc
    }

    /// Blocks of the send queue.
    pub(super) fn blocks(&self) -> u16 {
        u16::try_from(self.plan.sq.len()).unwrap()
    }

    /// So many bytes of the send queue, from that block.
    pub(super) fn read_send(&self, index: u16, length: usize) -> Vec<u8> {
        let block = usize::from(index & (self.blocks() - 1));
        read_ring(self.plan.sq, block * LINE_BYTES, length)
    }

    /// Receives that are posted and not taken.
    pub(super) const fn receives(&self) -> u16 {
        self.rq.seen.wrapping_sub(self.rq.taken)
    }

    /// Whether there is nothing that it could do.
    pub(super) fn is_idle(&self) -> bool {
        let sends = self.sq.flights.is_empty() && self.sq.posted.is_empty();
        let heard = self.requests.is_empty() && self.answers.is_empty();
        sends && heard && (self.state != State::Error || self.receives() == 0)
    }

    /// Writes over a receive that has completed.
    pub(super) fn poison_receive(&self, counter: u16) {
        if let Receives::Ring(ring, stride) = self.plan.rq {
            let at = usize::from(counter) % (ring.len() * LINE_BYTES / stride) * stride;
            spoil(ring, (at, at + stride), counter);
        }
    }

    /// Takes the next receive of its own ring.
    pub(super) fn take_receive(&mut self) -> Option<Result<Taken, Fault>> {
        let Receives::Ring(ring, stride) = self.plan.rq else { return None };
        if self.receives() == 0 {
            return None;
        }
        let counter = self.rq.taken;
        self.rq.taken = counter.wrapping_add(1);
        let entries = ring.len() * LINE_BYTES / stride;
        let at = usize::from(counter) % entries * stride;
        Some(room(&read_ring(ring, at, stride)).map(|pieces| Taken { counter, pieces }))
    }
}

fn spoil(ring: &[Line], (from, to): (usize, usize), counter: u16) {
    for at in (from..to).step_by(8) {
        write_lines(ring, at, &poison(counter).to_le_bytes());
    }
}

/// Data segments up to the first with the key that stands for the end. What follows it was not written for this receive.
fn room(bytes: &[u8]) -> Result<Vec<(u64, u32, usize)>, Fault> {
    let mut pieces = Vec::new();
    for part in bytes.chunks_exact(16) {
        if is_poison(u64::from_le_bytes(part[..8].try_into().unwrap())) {
            return Err(Fault::StaleBlock);
        }
        let (address, key, length) = (be64(part, 8), be32(part, 4), size(be32(part, 0)));
        if key == INVALID_KEY {
            break;
        }
        pieces.push((address, key, length));
    }
    Ok(pieces)
}

/// What a device is told of a shared receive queue.
#[derive(Clone, Copy, Debug)]
pub struct SrqPlan<'m> {
    /// Its number.
    pub number: u32,
    /// Protection domain.
    pub domain: u32,
    /// Entries, each a link of 16 bytes and data segments.
    pub ring: &'m [Line],
    /// Bytes of an entry.
    pub stride: usize,
    /// The record: how many were ever posted, in its first 32 bits.
    pub record: &'m [AtomicU32; 2],
}

/// A shared receive queue.
#[derive(Debug)]
pub(super) struct Shared<'m> {
    pub(super) plan: SrqPlan<'m>,
    pub(super) seen: u16,
    pub(super) taken: u16,
    /// The entry that is next.
    pub(super) head: u16,
    /// Taken, and no completion was written yet.
    pub(super) busy: Vec<bool>,
}

impl<'m> Shared<'m> {
    pub(super) fn new(plan: SrqPlan<'m>) -> Self {
        let entries = plan.ring.len() * LINE_BYTES / plan.stride;
        Self { plan, seen: 0, taken: 0, head: 0, busy: vec![false; entries] }
    }

    /// Writes over an entry that has completed, but for its link.
    pub(super) fn poison(&self, counter: u16) {
        let at = usize::from(counter) * self.plan.stride;
        spoil(self.plan.ring, (at + 16, at + self.plan.stride), counter);
    }

    /// Takes the entry that is next.
    pub(super) fn take(&mut self) -> Option<Result<Taken, Fault>> {
        if self.seen == self.taken {
            return None;
        }
        let at = usize::from(self.head);
        if self.busy.get(at).is_none_or(|busy| *busy) {
            return Some(Err(Fault::BadNext));
        }
        let bytes = read_ring(self.plan.ring, at * self.plan.stride, self.plan.stride);
        if let Some(at) = (0..16).find(|at| !matches!(at, 2 | 3) && bytes[*at] != 0) {
            return Some(Err(Fault::Reserved(u16::try_from(at).unwrap())));
        }
        self.taken = self.taken.wrapping_add(1);
        self.busy[at] = true;
        let counter = self.head;
        self.head = be16(&bytes, 2);
        Some(room(&bytes[16..]).map(|pieces| Taken { counter, pieces }))
    }
}
