//! Matching: which posted receive takes which message.
//!
//! ```text
//!   posted receives, each in one list, in posting order           messages that nobody has asked for yet
//!     list 0            untagged                                    one list, in order of arrival
//!     list 1            tagged, with an ignore mask
//!     list 2..          tagged, exact, by hash of the tag
//! ```
//!
//! The rules are those of `fi_tagged(3)` and MPI: a message goes to the *first posted* receive that takes it; a receive
//! takes the *first arrived* message that it matches. An arriving message looks into at most two lists and takes the
//! earlier of the two candidates.
//!
//! *Unexpected messages* are copied out of their transport into a queue of fixed size, so that those behind them can be
//! matched. **Policy when it is full, or the message is longer than its slots:** the message stays where it is, and
//! what comes behind it on the same lane waits with it; nothing is lost, the sender runs out of credit and is told so,
//! and the stall is counted. Posting a matching receive resolves it.
//!
//! A receive never completes within the call that posts it. It is flagged, and the next poll looks through the
//! unexpected queue before any transport is read, so order holds.
//!
//! Invariant: while a flagged receive is pending, no new arrival is matched.

use core::cell::Cell;

use heapless::VecView;

use crate::error::Retry;
use crate::id::{Addr, WrId};
use crate::provider::{Buffer, CancelError, Cqe, RecvWr, Select, Source, Status, Use, Waiting};
use crate::raw::loan::{Loan, LoanPool, Sge};
use crate::raw::place::{Bump, Exhausted};
use crate::shm::lane::Envelope;
use crate::table::{Fifos, Key, Slab};

const UNTAGGED: u32 = 0;
const MASKED: u32 = 1;
const FIRST_BUCKET: u32 = 2;
const BUCKETS: u32 = 64;
const LISTS: u32 = FIRST_BUCKET + BUCKETS;
/// The one list of the unexpected.
const ARRIVALS: u32 = 0;

/// How much a [`Matcher`] holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct MatchingConfig {
    /// Receives that may be posted.
    pub recv_depth: u32,
    /// Messages that may wait for a receive.
    pub unexpected_depth: u32,
    /// Longest message that may wait, in bytes.
    pub unexpected_bytes_max: usize,
}

#[derive(Clone, Copy, Debug)]
struct PostedRecv {
    wr: RecvWr,
    /// When it was posted, relative to the others.
    order: u64,
    /// Where the next message of a multi-receive goes.
    offset: u32,
    /// Not yet compared with the unexpected queue.
    fresh: bool,
}

#[derive(Debug)]
struct Unexpected<'m> {
    source: Addr,
    envelope: Envelope,
    body: Loan<'m>,
}

/// A message on its way to whoever asked for it.
#[derive(Clone, Copy, Debug)]
pub struct Incoming {
    /// Its sender.
    pub source: Addr,
    /// Tag and immediate data.
    pub envelope: Envelope,
    /// Its bytes.
    pub length: usize,
}

/// A posted receive that takes a message: where to copy it to.
#[derive(Clone, Copy, Debug)]
pub struct Landing {
    key: Key,
    /// The whole buffer of the receive.
    pub sge: Sge,
    /// Where the message goes in it.
    pub offset: usize,
    /// How many of its bytes go there.
    pub length: usize,
    /// Whether those are all of them.
    status: Status,
    wr_id: WrId,
    buffer: Buffer,
}

/// What becomes of an arrival.
#[derive(Clone, Copy, Debug)]
pub enum Verdict {
    /// Copy it there, then [`Matcher::land`].
    Deliver(Landing),
    /// A multi-receive is too full for it and is given back first; ask again.
    GivenBack(Cqe),
    /// Nobody has asked for it: [`Matcher::stash`].
    Unasked,
}

/// Posted receives and unexpected messages of one endpoint.
#[derive(Debug)]
pub struct Matcher<'m> {
    posted: Slab<'m, PostedRecv>,
    lists: Fifos<'m>,
    order: Cell<u64>,
    /// Receives not yet compared with the unexpected queue.
    fresh: Cell<u32>,
    unexpected: Slab<'m, Unexpected<'m>>,
    arrivals: Fifos<'m>,
    bodies: &'m LoanPool<'m>,
    stalls: Cell<u64>,
}

#[inline(always)]
fn list_of(select: Select) -> u32 {
    match select {
        Select::Untagged => UNTAGGED,
        Select::Tagged { tag, ignore: 0 } => bucket(tag),
        Select::Tagged { .. } => MASKED,
    }
}

/// Fibonacci hashing: the top six bits of the product.
#[inline(always)]
fn bucket(tag: u64) -> u32 {
    let hash = tag.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 58;
    FIRST_BUCKET.wrapping_add(spinwire_layouts::word::low(hash))
}

impl<'m> Matcher<'m> {
    /// Places an empty matcher in `bump`.
    ///
    /// # Errors
    /// [`Exhausted`] where the arena is too small.
    pub fn place(bump: &Bump<'m>, config: &MatchingConfig) -> Result<Self, Exhausted> {
        let unexpected_depth = config.unexpected_depth;
        Ok(Self {
            posted: Slab::place(bump, config.recv_depth)?,
            lists: Fifos::place(bump, config.recv_depth, LISTS)?,
            order: Cell::new(0),
            fresh: Cell::new(0),
            unexpected: Slab::place(bump, unexpected_depth)?,
            arrivals: Fifos::place(bump, unexpected_depth, 1)?,
            bodies: LoanPool::place(bump, unexpected_depth, config.unexpected_bytes_max)?,
            stalls: Cell::new(0),
        })
    }

    /// Posts a receive.
    ///
    /// # Errors
    /// `RqFull` where as many are posted as the table holds.
    #[inline]
    pub fn post(&self, wr: &RecvWr) -> Result<(), Retry> {
        let order = self.order.get();
        let fresh = !self.unexpected.is_empty();
        let entry = PostedRecv { wr: *wr, order, offset: 0, fresh };
        let key = self.posted.insert(entry).map_err(|_full| Retry::RqFull)?;
        let linked = self.lists.push_back(list_of(wr.select), key.slot());
        debug_assert!(linked.is_ok(), "a new slot is on no list");
        self.order.set(order.wrapping_add(1));
        if fresh {
            self.fresh.set(self.fresh.get().wrapping_add(1));
        }
        Ok(())
    }

    /// What is to be done with a message.
    #[inline(always)]
    pub fn judge(&self, message: &Incoming) -> Verdict {
        match self.first_match(message) {
            Some((key, posted)) => self.landing(key, &posted, message),
            None => Verdict::Unasked,
        }
    }

    /// The first posted receive that takes the message.
    #[inline(always)]
    fn first_match(&self, message: &Incoming) -> Option<(Key, PostedRecv)> {
        match message.envelope.tag {
            None => self.first_in(UNTAGGED, message),
            Some(tag) => {
                let exact = self.first_in(bucket(tag), message);
                if self.lists.is_empty(MASKED) {
                    return exact;
                }
                let masked = self.first_in(MASKED, message);
                match (&exact, &masked) {
                    (Some((_, a)), Some((_, b))) if a.order > b.order => masked,
                    (None, Some(_)) => masked,
                    _ => exact,
                }
            }
        }
    }

    #[inline(always)]
    fn first_in(&self, list: u32, message: &Incoming) -> Option<(Key, PostedRecv)> {
        self.lists.iter(list, u32::MAX).find_map(|slot| {
            let key = self.posted.key_at(slot)?;
            let posted = self.posted.get(key).ok()?;
            let takes = posted.wr.from.takes(message.source)
                && posted.wr.select.takes(message.envelope.tag);
            takes.then_some((key, posted))
        })
    }

    #[inline(always)]
    fn landing(&self, key: Key, posted: &PostedRecv, message: &Incoming) -> Verdict {
        let wr = &posted.wr;
        let offset = usize::try_from(posted.offset).unwrap_or(usize::MAX);
        let room = wr.sge.length().saturating_sub(offset);
        let fits = message.length <= room;
        if !fits && offset > 0 {
            self.retire(key);
            return Verdict::GivenBack(Cqe::without_message(wr.wr_id, Status::Success));
        }
        let length = message.length.min(room);
        let buffer = match wr.buffer {
            Use::Single => Buffer::Returned,
            Use::Multi { room_bytes_min } => {
                let left = room.saturating_sub(length.next_multiple_of(8));
                if left == 0 || left < usize::try_from(room_bytes_min).unwrap_or(usize::MAX) {
                    Buffer::Returned
                } else {
                    Buffer::StillPosted
                }
            }
        };
        let status = if fits { Status::Success } else { Status::Truncated };
        Verdict::Deliver(Landing {
            key,
            sge: wr.sge,
            offset,
            length,
            status,
            wr_id: wr.wr_id,
            buffer,
        })
    }

    /// Completes the receive that a message was copied into.
    #[inline(always)]
    pub fn land(&self, landing: &Landing, message: &Incoming) -> Cqe {
        match landing.buffer {
            Buffer::Returned => self.retire(landing.key),
            Buffer::StillPosted => {
                let end = landing.offset.wrapping_add(landing.length).next_multiple_of(8);
                let end = u32::try_from(end).unwrap_or(u32::MAX);
                let moved = self.posted.with(landing.key, |posted| posted.offset = end);
                debug_assert!(moved.is_ok(), "judge found it posted");
            }
        }
        Cqe {
            wr_id: landing.wr_id,
            status: landing.status,
            buffer: landing.buffer,
            offset: u32::try_from(landing.offset).unwrap_or(u32::MAX),
            length: u32::try_from(landing.length).unwrap_or(u32::MAX),
            tag: message.envelope.tag,
            immediate: message.envelope.immediate,
            source: Some(message.source),
        }
    }

    #[inline]
    fn retire(&self, key: Key) {
        let unlinked = self.lists.unlink(key.slot());
        let removed = self.posted.remove(key);
        debug_assert!(unlinked.is_ok() && removed.is_ok(), "posted and linked go together");
        if removed.is_ok_and(|posted| posted.fresh) {
            self.fresh.set(self.fresh.get().saturating_sub(1));
        }
    }

    /// Keeps a message that nobody asked for. `copy` fills the given bytes, as many as the message has.
    ///
    /// Returns whether it was kept; if not, it has to stay where it is (and the stall is counted).
    #[inline]
    pub fn stash(&self, message: &Incoming, copy: impl FnOnce(&mut [u8])) -> bool {
        let kept = self.try_stash(message, copy).is_some();
        if !kept {
            self.stalls.set(self.stalls.get().wrapping_add(1));
        }
        kept
    }

    fn try_stash(&self, message: &Incoming, copy: impl FnOnce(&mut [u8])) -> Option<()> {
        if self.unexpected.is_full() {
            return None;
        }
        let mut body = self.bodies.lend()?;
        body.set_len(message.length).ok()?;
        copy(&mut body);
        let entry = Unexpected { source: message.source, envelope: message.envelope, body };
        let key = self.unexpected.insert(entry).ok()?;
        self.arrivals.push_back(ARRIVALS, key.slot()).ok()
    }

    /// Compares new receives with the messages that wait. Returns whether `out` had room for all that came of it; if not,
    /// no arrival may be looked at yet.
    #[inline(always)]
    pub fn settle(&self, out: &mut VecView<Cqe>) -> bool {
        self.fresh.get() == 0 || self.settle_fresh(out)
    }

    #[inline(never)]
    fn settle_fresh(&self, out: &mut VecView<Cqe>) -> bool {
        // Oldest message first, each to the first posted receive that takes it. Receives that are not fresh have
        // declined all of these before, so that only a fresh one can take any.
        let mut next = self.arrivals.front(ARRIVALS);
        while let Some(slot) = next {
            if out.is_full() {
                return false;
            }
            next = self.arrivals.iter_after(slot, 1).next();
            let Some(key) = self.unexpected.key_at(slot) else { continue };
            let looked = self.unexpected.with(key, |waiting| Incoming {
                source: waiting.source,
                envelope: waiting.envelope,
                length: waiting.body.len(),
            });
            let Ok(message) = looked else { continue };
            match self.judge(&message) {
                Verdict::Unasked => {}
                Verdict::GivenBack(cqe) => {
                    let pushed = out.push(cqe);
                    debug_assert!(pushed.is_ok(), "room was checked");
                    next = Some(slot);
                }
                Verdict::Deliver(landing) => {
                    let cqe = self.deliver_waiting(key, landing, &message);
                    let pushed = out.push(cqe);
                    debug_assert!(pushed.is_ok(), "room was checked");
                }
            }
        }
        for slot in (0..LISTS).flat_map(|list| self.lists.iter(list, u32::MAX)) {
            if let Some(key) = self.posted.key_at(slot) {
                let cleared = self.posted.with(key, |posted| posted.fresh = false);
                debug_assert!(cleared.is_ok(), "listed slots are posted");
            }
        }
        self.fresh.set(0);
        true
    }

    fn deliver_waiting(&self, key: Key, mut landing: Landing, message: &Incoming) -> Cqe {
        let unlinked = self.arrivals.unlink(key.slot());
        let taken = self.unexpected.remove(key);
        debug_assert!(unlinked.is_ok() && taken.is_ok(), "kept and linked go together");
        if let Ok(waiting) = taken
            && let Some(to) = landing.sge.part(landing.offset, landing.length)
            && let Some(from) = waiting.body.get(..landing.length)
        {
            to.copy_from_slice(from);
        }
        self.land(&landing, message)
    }

    /// Takes back a posted receive.
    ///
    /// # Errors
    /// `NotPosted` where it is not there (any more).
    pub fn cancel(&self, wr_id: WrId) -> Result<(), CancelError> {
        let key = self
            .posted
            .keys()
            .find(|&key| self.posted.get(key).is_ok_and(|posted| posted.wr.wr_id == wr_id))
            .ok_or(CancelError::NotPosted)?;
        self.retire(key);
        Ok(())
    }

    /// Takes out one receive that can get nothing any more because it waits for `peer` alone, which is gone.
    pub fn take_hopeless(&self, peer: Addr) -> Option<WrId> {
        let key = self.posted.keys().find(|&key| {
            self.posted.get(key).is_ok_and(|posted| posted.wr.from == Source::Only(peer))
        })?;
        let posted = self.posted.get(key).ok()?;
        self.retire(key);
        Some(posted.wr.wr_id)
    }

    /// Takes out one posted receive, whichever.
    pub fn take_any(&self) -> Option<WrId> {
        let key = self.posted.keys().next()?;
        let posted = self.posted.get(key).ok()?;
        self.retire(key);
        Some(posted.wr.wr_id)
    }

    /// The oldest message that waits and would be taken by such a receive.
    #[must_use]
    pub fn peek(&self, from: Source, select: Select) -> Option<Waiting> {
        self.arrivals.iter(ARRIVALS, u32::MAX).find_map(|slot| {
            let key = self.unexpected.key_at(slot)?;
            let seen = self.unexpected.with(key, |waiting| Waiting {
                source: waiting.source,
                length: waiting.body.len(),
                tag: waiting.envelope.tag,
                immediate: waiting.envelope.immediate,
            });
            seen.ok().filter(|w| from.takes(w.source) && select.takes(w.tag))
        })
    }

    /// Receives posted.
    #[must_use]
    pub fn posted_len(&self) -> u32 {
        self.posted.len()
    }

    /// Messages waiting.
    #[must_use]
    pub fn unexpected_len(&self) -> u32 {
        self.unexpected.len()
    }

    /// How often a message had to stay in its lane.
    #[must_use]
    pub const fn stalls(&self) -> u64 {
        self.stalls.get()
    }
}
