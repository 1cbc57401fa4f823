//! A completion queue of an mlx5 device, as verbs have it.
//!
//! ```text
//!   CQE ──> number of the queue pair ──> Pair ──> well: its id, data within the entry put into place ──> Wc
//!                                                 error: everything that it ends, in order ──> over ──> Wc, as there is room
//! ```
//!
//! Invariants: (1) what a pair has `over` is told before anything that comes after it, and the pair is on the list while there is some;
//! (2) one poll takes as many entries as the queue has at most, whatever is in them; (3) what makes no sense ends nothing, and is counted.

use core::cell::Cell;
use core::fmt;
use core::ops::Deref;

use heapless::VecView;
use spinwire_layouts::word::{from_usize, low};

use super::pair::Pair;
use super::shared::Shared;
use crate::cq::{Arrival, Cq, CqCounts, Cqe, Failure, QueueTable, Side, Syndrome, TableError};
use crate::error::PostError;
use crate::id::WrId;
use crate::raw::mmio::Bus;
use crate::raw::place::{Bump, Exhausted};
use crate::table::Ring;
use crate::tracker::Stale;
use crate::verbs::{CompletionQueue, Wc, WcFields, WcStatus};

/// Why a pair does not go with a completion queue.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum CompletionsError {
    /// All pairs together could have more completions than the queue has entries, and the device would overrun it: open one with more.
    Entries {
        /// What pairs may have under way, this one included.
        needed: u32,
        /// Entries that there are.
        entries: u32,
    },
    /// The shared receives of the pair complete in another queue already, of that number: give them pairs of one completion queue.
    Shared {
        /// The other queue.
        cqn: u32,
    },
    /// The table of pairs.
    Table(TableError),
}

impl fmt::Display for CompletionsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Entries { needed, entries } => write!(
                f,
                "send and receive queues of all pairs ({needed}) <= entries of their completion queue ({entries}): open it with more"
            ),
            Self::Shared { cqn } => write!(
                f,
                "shared receives complete in queue {cqn:#x} already: all their pairs complete in one"
            ),
            Self::Table(error) => error.fmt(f),
        }
    }
}

impl core::error::Error for CompletionsError {}

/// A completion queue, and the pairs that complete into it. `H` leads to a [`Pair`]: a plain reference, or an `Rc`.
pub struct Completions<'m, B, H> {
    cq: Cq<'m, B>,
    pairs: QueueTable<'m, H>,
    /// Numbers of pairs that have something over.
    list: Ring<'m, u32>,
    /// Entries that the pairs may need.
    needed: Cell<u32>,
}

impl<'m, B: Bus + 'm, H: Deref<Target = Pair<'m, B>>> Completions<'m, B, H> {
    /// Of a queue that was just opened, for so many pairs.
    ///
    /// # Errors
    /// The arena is too small.
    pub fn place(bump: &Bump<'m>, cq: Cq<'m, B>, pairs_max: u32) -> Result<Self, Exhausted> {
        Ok(Self {
            cq,
            pairs: QueueTable::place(bump, pairs_max)?,
            list: Ring::place(bump, pairs_max.max(1), 0)?,
            needed: Cell::new(0),
        })
    }

    /// Adds a pair, before anything is posted to it.
    ///
    /// # Errors
    /// Hands it back with the reason.
    pub fn add(&self, pair: H) -> Result<(), (CompletionsError, H)> {
        let (cqn, shared) = (self.cq.cqn(), pair.shared());
        let beside = match shared.map_or(Ok(0), |shared| shared.entries_in(cqn)) {
            Ok(beside) => beside,
            Err(error) => return Err((error, pair)),
        };
        let needed = self.needed.get().saturating_add(pair.completions_max());
        let needed = needed.saturating_add(beside);
        let entries = self.cq.entries();
        if needed > entries {
            return Err((CompletionsError::Entries { needed, entries }, pair));
        }
        let qpn = pair.qpn();
        let added = self.pairs.insert(qpn, pair);
        added.map_err(|(error, pair)| (CompletionsError::Table(error), pair))?;
        self.needed.set(needed);
        if let Some(shared) = shared {
            shared.join(cqn);
        }
        Ok(())
    }

    /// Takes a pair out, whose queue pair was destroyed or put into the reset state, and its completions that wait here. What was under way on
    /// it is not told; receives of a shared queue are [returned](Shared::next_returned). `None` where it is not there.
    ///
    /// # Errors
    /// As [`Cq::discard`]. Nothing was changed.
    pub fn remove(&self, qpn: u32) -> Result<Option<H>, PostError> {
        self.sweep(qpn, self.pairs.with(qpn, |pair| pair.shared()).flatten())?;
        let Some(pair) = self.pairs.remove(qpn) else { return Ok(None) };
        for _ in 0..self.list.len() {
            let other = self.list.pop().filter(|listed| *listed != qpn);
            let kept = other.map_or(Ok(()), |other| self.list.push(other));
            debug_assert!(kept.is_ok(), "it was on the list before");
        }
        pair.listed.set(false);
        let beside = pair.shared().map_or(0, Shared::leave);
        let spare = pair.completions_max().saturating_add(beside);
        self.needed.set(self.needed.get().saturating_sub(spare));
        Ok(Some(pair))
    }

    /// Takes out the completions that wait here of a queue pair that is not in the table any more, and returns the receives that it had taken from
    /// `shared`.
    ///
    /// # Errors
    /// As [`Cq::discard`]. Nothing was changed.
    pub fn sweep(&self, qpn: u32, shared: Option<&Shared<'m, B>>) -> Result<(), PostError> {
        let take_back = |cqe: Cqe<'_>| {
            if let Some(shared) = shared {
                shared.take_back(&cqe);
            }
        };
        self.cq.discard(qpn, take_back).map(|_count| ())
    }

    /// The device does nothing more of what is under way on that pair: its queue pair was destroyed, or put into the reset state. Its
    /// completions that wait here are taken out; all that was posted to it is told as flushed by the next polls, and receives of a shared queue are
    /// [returned](Shared::next_returned). Then it may [`restart`](Pair::restart).
    ///
    /// # Errors
    /// As [`Cq::discard`]. Nothing was changed.
    pub fn end(&self, pair: &Pair<'m, B>) -> Result<(), PostError> {
        self.sweep(pair.qpn(), pair.shared())?;
        pair.end();
        self.note_over(pair);
        Ok(())
    }

    /// What was seen and should not be.
    #[must_use]
    pub const fn counts(&self) -> CqCounts {
        self.cq.counts()
    }

    /// The queue: events, entries.
    #[must_use]
    pub const fn cq(&self) -> &Cq<'m, B> {
        &self.cq
    }

    fn note_over(&self, pair: &Pair<'m, B>) {
        if pair.has_over() && !pair.listed.replace(true) {
            let kept = self.list.push(pair.qpn());
            debug_assert!(kept.is_ok(), "each pair is on the list once");
        }
    }

    /// Tells what is over, as far as there is room.
    #[inline]
    fn tell(&self, out: &mut VecView<Wc>) {
        while !out.is_full() {
            let Some(qpn) = self.list.front() else { return };
            self.tell_of(qpn, out);
        }
    }

    #[cold]
    fn tell_of(&self, qpn: u32, out: &mut VecView<Wc>) {
        let more = self.pairs.with(qpn, |pair| {
            while !out.is_full() {
                let Some(over) = pair.next_over() else { break };
                let fields = failed_fields(over.id, qpn, over.status, over.vendor);
                let pushed = out.push(Wc::new(fields));
                debug_assert!(pushed.is_ok(), "there was room");
            }
            pair.listed.set(pair.has_over());
            pair.has_over()
        });
        if more != Some(true) {
            let _told = self.list.pop();
        }
    }

    /// What an entry means. `None` where it is told by another way, or ends nothing.
    #[inline]
    fn read(&self, cqe: &Cqe<'_>) -> Option<Wc> {
        let ended = match cqe {
            Cqe::Sent(sent) => self.pairs.with(sent.qpn(), |pair| {
                let id = pair.sent(sent.wqe_counter(), sent.inline().as_ref())?;
                Ok(id.map(|id| fields(id, sent.qpn(), sent.bytes())))
            }),
            Cqe::Received(received) => self.pairs.with(received.qpn(), |pair| {
                let id = pair.received(received.wqe_counter(), received.inline().as_ref())?;
                let immediate = match received.arrival() {
                    Arrival::SendImm(value) | Arrival::WriteImm(value) => Some(value),
                    Arrival::Send | Arrival::SendInvalidate(_) => None,
                };
                let is_written = matches!(received.arrival(), Arrival::WriteImm(_));
                let source_qp = received.source_qpn();
                let fields = fields(id, received.qpn(), received.bytes());
                Ok(Some(WcFields { immediate, is_written, source_qp, ..fields }))
            }),
            Cqe::Failed(failure) => self.fail(failure),
            Cqe::Odd(_) => return None,
        };
        match ended {
            Some(Ok(fields)) => fields.map(Wc::new),
            Some(Err(_stale)) => {
                self.cq.count_stale();
                None
            }
            None => {
                self.cq.count_unknown();
                None
            }
        }
    }

    #[cold]
    #[inline(never)]
    fn fail(&self, failure: &Failure) -> Option<Result<Option<WcFields>, Stale>> {
        let status = status(failure.syndrome);
        self.pairs.with(failure.qpn, |pair| {
            let at_once = match failure.side {
                Side::Send => pair.send_failed(failure, status).map(|()| None)?,
                Side::Receive => pair.receive_failed(failure, status)?,
            };
            self.note_over(pair);
            Ok(at_once.map(|id| failed_fields(id, failure.qpn, status, failure.vendor)))
        })
    }
}

impl<'m, B: Bus + 'm, H: Deref<Target = Pair<'m, B>>> CompletionQueue for Completions<'m, B, H> {
    #[inline]
    fn depth(&self) -> u32 {
        self.cq.entries()
    }

    #[inline]
    fn poll_cq(&self, out: &mut VecView<Wc>) {
        let mut left = self.cq.entries();
        self.tell(out);
        while left > 0 && !out.is_full() {
            let room = low(from_usize(out.capacity().saturating_sub(out.len())));
            let taken = self.cq.poll(room.min(left), |cqe| {
                if let Some(wc) = self.read(&cqe) {
                    let pushed = out.push(wc);
                    debug_assert!(pushed.is_ok(), "an entry is one completion at most");
                }
            });
            if taken == 0 {
                break;
            }
            left = left.saturating_sub(taken);
            self.tell(out);
        }
    }
}

/// A request that has ended well.
#[inline]
const fn fields(id: WrId, qp_num: u32, byte_len: u32) -> WcFields {
    let (status, vendor) = (WcStatus::SUCCESS, 0);
    let wr_id = id.as_raw();
    let (immediate, is_written, source_qp) = (None, false, 0);
    WcFields { wr_id, qp_num, status, vendor, byte_len, immediate, is_written, source_qp }
}

fn failed_fields(id: WrId, qp_num: u32, status: WcStatus, vendor: u8) -> WcFields {
    WcFields { status, vendor: vendor.into(), ..fields(id, qp_num, 0) }
}

/// The status of verbs for what the device says; the pairs are those of rdma-core (`providers/mlx5/cq.c`).
const fn status(syndrome: Syndrome) -> WcStatus {
    use spinwire_layouts::mlx5::syndrome as mlx5;
    WcStatus::from_raw(match syndrome.0 {
        mlx5::LOCAL_LENGTH_ERR => 1,
        mlx5::LOCAL_QP_OP_ERR => 2,
        mlx5::LOCAL_PROT_ERR => 4,
        mlx5::WR_FLUSH_ERR => 5,
        mlx5::MW_BIND_ERR => 6,
        mlx5::BAD_RESP_ERR => 7,
        mlx5::LOCAL_ACCESS_ERR => 8,
        mlx5::REMOTE_INVAL_REQ_ERR => 9,
        mlx5::REMOTE_ACCESS_ERR => 10,
        mlx5::REMOTE_OP_ERR => 11,
        mlx5::TRANSPORT_RETRY_EXC_ERR => 12,
        mlx5::RNR_RETRY_EXC_ERR => 13,
        mlx5::REMOTE_ABORTED_ERR => 16,
        _ => 21,
    })
}

impl<B, H> fmt::Debug for Completions<'_, B, H> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Completions").field("cq", &self.cq).finish_non_exhaustive()
    }
}
