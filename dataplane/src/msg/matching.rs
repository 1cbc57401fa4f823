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

mod claimed;
mod parcels;
mod ranges;
mod unexpected;
mod withdraw;

use core::cell::Cell;

pub use self::claimed::Claim;
pub use self::ranges::RANGES_MAX;
use self::ranges::Sets;
use self::unexpected::Unexpected;
pub use self::withdraw::Withdrawn;
use crate::error::Retry;
use crate::id::{Addr, WrId};
use crate::provider::{Buffer, Cqe, RecvWr, Select, Source, Status, Use};
use crate::raw::loan::{LoanPool, Sge};
use crate::raw::place::{Bump, Exhausted};
use crate::shm::lane::Envelope;
use crate::table::{Fifos, NIL, Slab};
use spinwire_layouts::word::{from_usize, low, to_usize, widen};

const UNTAGGED: u32 = 0;
const MASKED: u32 = 1;
const FIRST_BUCKET: u32 = 2;
const BUCKETS: u32 = 64;
const LISTS: u32 = FIRST_BUCKET + BUCKETS;
/// No row.
const NOBODY: u32 = u32::MAX;
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

/// How a posted receive is filled.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Filling {
    /// By one message: [`Use::Single`].
    Single,
    /// By one after the other: [`Use::Multi`].
    Multi { room_bytes_min: u32 },
    /// By runs of them: [`Use::Runs`].
    Runs { room_bytes_min: u32 },
    /// By one message, which goes into the ranges of a set.
    Parts { set: u32 },
}

/// A posted receive, field by field, so that a look costs only what it looks at.
#[derive(Debug)]
struct PostedRecv {
    wr_id: Cell<WrId>,
    /// `None` where it has several ranges.
    sge: Cell<Option<Sge>>,
    tag: Cell<u64>,
    /// Bits of the tag that count. All of them for an exact receive.
    care: Cell<u64>,
    from: Cell<Source>,
    /// When it was posted, relative to the others.
    order: Cell<u64>,
    /// Where the next message of a multi-receive goes.
    offset: Cell<u32>,
    /// For how many messages its buffer is.
    buffer: Cell<Filling>,
    /// Not yet compared with the unexpected queue.
    fresh: Cell<bool>,
    /// The next row without a receive, where this is one.
    next_vacant: Cell<u32>,
}

impl PostedRecv {
    const fn vacant(next_vacant: u32) -> Self {
        Self {
            wr_id: Cell::new(WrId::from_raw(0)),
            sge: Cell::new(None),
            tag: Cell::new(0),
            care: Cell::new(0),
            from: Cell::new(Source::Any),
            order: Cell::new(0),
            offset: Cell::new(0),
            buffer: Cell::new(Filling::Single),
            fresh: Cell::new(false),
            next_vacant: Cell::new(next_vacant),
        }
    }

    /// Whether a message of so many bytes can go into its buffer without that being given back first.
    #[inline(always)]
    fn has_room(&self, length: usize) -> bool {
        let offset = to_usize(widen(self.offset.get()));
        offset == 0
            || self.sge.get().is_some_and(|sge| length <= sge.length().saturating_sub(offset))
    }

    /// Whether it takes a message that is in a list of its kind: tagged or not has been told apart, and one that is not has the tag 0.
    #[inline(always)]
    fn takes(&self, tag: u64, source: Addr) -> bool {
        (self.tag.get() ^ tag) & self.care.get() == 0 && self.from.get().takes(source)
    }
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
    row: u32,
    /// The whole buffer of the receive; its first range where it has several.
    pub sge: Sge,
    /// Where the message goes in it.
    pub offset: usize,
    /// How many of its bytes go there.
    pub length: usize,
    /// How many messages of that length go there, back to back in steps of [`Landing::stride`].
    count: u32,
    /// Whether those are all of its bytes.
    status: Status,
    wr_id: WrId,
    buffer: Filling,
}

impl Landing {
    /// Where the message is to be copied: as many bytes as go there. `None` where it goes to several places: [`Matcher::scatter`].
    #[must_use]
    #[inline(always)]
    pub fn place(&mut self) -> Option<&mut [u8]> {
        self.sge.part(self.offset, self.length)
    }

    /// Of the message only the first `bytes` have come; the rest is lost.
    pub fn cut(&mut self, bytes: usize) {
        self.length = self.length.min(bytes);
        self.status = Status::Truncated;
    }

    /// From the start of one message of a run to that of the next.
    #[must_use]
    #[inline(always)]
    pub const fn stride(&self) -> usize {
        self.length.wrapping_add(7) & !7
    }

    /// How many more messages of that length the receive takes in one completion, and where they go: 0 where it does not
    /// take runs. Each of them finds as much room as the buffer must have not to be given back.
    #[must_use]
    #[inline(always)]
    pub fn more(&self) -> (usize, usize) {
        let Filling::Runs { room_bytes_min } = self.buffer else { return (0, 0) };
        let start = self.end();
        let stride = self.stride();
        let least = to_usize(widen(room_bytes_min)).max(stride);
        let room = self.sge.length().saturating_sub(start);
        match room.checked_sub(least).and_then(|beyond| beyond.checked_div(stride)) {
            Some(beyond) => (beyond.wrapping_add(1), start),
            None => (0, 0),
        }
    }

    /// So many more messages were copied there.
    #[inline(always)]
    pub const fn add(&mut self, count: u32) {
        self.count = self.count.wrapping_add(count);
    }

    /// Where the free part of the buffer begins after it.
    #[inline(always)]
    const fn end(&self) -> usize {
        let bytes = self.stride().wrapping_mul(to_usize(widen(self.count)));
        self.offset.wrapping_add(bytes)
    }

    /// Whether the buffer goes back with this.
    #[inline(always)]
    fn outcome(&self) -> Buffer {
        let least = match self.buffer {
            Filling::Single | Filling::Parts { .. } => return Buffer::Returned,
            Filling::Multi { room_bytes_min } | Filling::Runs { room_bytes_min } => room_bytes_min,
        };
        let left = self.sge.length().saturating_sub(self.end());
        if left == 0 || left < to_usize(widen(least)) {
            Buffer::Returned
        } else {
            Buffer::StillPosted
        }
    }
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
    posted: &'m [PostedRecv],
    lists: Fifos<'m>,
    /// The first row without a receive, [`NOBODY`] where there is none: a stack, so that the row that was used last is used
    /// next, while it is warm.
    vacant: Cell<u32>,
    /// Rows with a receive.
    occupied: Cell<u32>,
    order: Cell<u64>,
    /// The tag of the last tagged message, and its list.
    last_tag: Cell<u64>,
    last_bucket: Cell<u32>,
    /// Receives not yet compared with the unexpected queue.
    fresh: Cell<u32>,
    /// Receives that take runs.
    runs: Cell<u32>,
    /// A row whose receive is over and that is still in its list: taking it out waits until the message is on its way to
    /// its owner. [`NOBODY`] where there is none.
    spent: Cell<u32>,
    unexpected: Slab<'m, Unexpected<'m>>,
    arrivals: Fifos<'m>,
    bodies: &'m LoanPool<'m>,
    /// The ranges of receives that have several.
    sets: Sets<'m>,
    stalls: Cell<u64>,
}

#[inline(always)]
const fn list_of(select: Select) -> u32 {
    match select {
        Select::Untagged => UNTAGGED,
        Select::Tagged { tag, ignore: 0 } => bucket(tag),
        Select::Tagged { .. } => MASKED,
    }
}

/// Fibonacci hashing: the top six bits of the product.
#[inline(always)]
const fn bucket(tag: u64) -> u32 {
    FIRST_BUCKET.wrapping_add(low(tag.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 58))
}

impl<'m> Matcher<'m> {
    /// Places an empty matcher in `bump`.
    ///
    /// # Errors
    /// [`Exhausted`] where the arena is too small.
    pub fn place(bump: &Bump<'m>, config: &MatchingConfig) -> Result<Self, Exhausted> {
        let unexpected_depth = config.unexpected_depth;
        let rows = usize::try_from(config.recv_depth).unwrap_or(usize::MAX);
        let lists = Fifos::place(bump, config.recv_depth, LISTS)?;
        let next = |row: usize| match row.wrapping_add(1) {
            next if next < rows => low(from_usize(next)),
            _ => NOBODY,
        };
        Ok(Self {
            posted: bump.slice_with(rows, |row| PostedRecv::vacant(next(row)))?,
            lists,
            vacant: Cell::new(if rows == 0 { NOBODY } else { 0 }),
            occupied: Cell::new(0),
            order: Cell::new(0),
            last_tag: Cell::new(0),
            last_bucket: Cell::new(bucket(0)),
            fresh: Cell::new(0),
            runs: Cell::new(0),
            spent: Cell::new(NOBODY),
            unexpected: Slab::place(bump, unexpected_depth)?,
            arrivals: Fifos::place(bump, unexpected_depth, 1)?,
            bodies: LoanPool::place(bump, unexpected_depth, config.unexpected_bytes_max)?,
            sets: Sets::place(bump, config.recv_depth)?,
            stalls: Cell::new(0),
        })
    }

    /// Posts a receive.
    ///
    /// # Errors
    /// `RqFull` where as many are posted as the table holds.
    #[inline]
    pub fn post(&self, wr: &RecvWr) -> Result<(), Retry> {
        self.clear_spent();
        // Arm by arm: a copy of the whole would load eight bytes where the caller has just stored four, and such a load waits
        // for every store before it to leave the CPU.
        let filling = match wr.buffer {
            Use::Single => Filling::Single,
            Use::Multi { room_bytes_min } => Filling::Multi { room_bytes_min },
            Use::Runs { room_bytes_min } => Filling::Runs { room_bytes_min },
        };
        self.post_as((wr.wr_id, Some(wr.sge)), (wr.from, wr.select), filling)?;
        if matches!(wr.buffer, Use::Runs { .. }) {
            self.runs.set(self.runs.get().wrapping_add(1));
        }
        Ok(())
    }

    /// Posts a receive of whichever kind. The spent row was cleared.
    #[inline(always)]
    fn post_as(
        &self,
        (wr_id, sge): (WrId, Option<Sge>),
        (from, select): (Source, Select),
        filling: Filling,
    ) -> Result<(), Retry> {
        let row = self.vacant.get();
        let posted = self.row(row).ok_or(Retry::RqFull)?;
        self.vacant.set(posted.next_vacant.get());
        self.occupied.set(self.occupied.get().wrapping_add(1));
        let order = self.order.get();
        let fresh = !self.unexpected.is_empty();
        let (tag, care) = match select {
            Select::Untagged => (0, 0),
            Select::Tagged { tag, ignore } => (tag, !ignore),
        };
        posted.wr_id.set(wr_id);
        posted.sge.set(sge);
        posted.tag.set(tag);
        posted.care.set(care);
        posted.from.set(from);
        posted.order.set(order);
        posted.offset.set(0);
        posted.buffer.set(filling);
        posted.fresh.set(fresh);
        let linked = self.lists.push_back(list_of(select), row);
        debug_assert!(linked.is_ok(), "a vacant row is on no other list");
        self.order.set(order.wrapping_add(1));
        if fresh {
            self.fresh.set(self.fresh.get().wrapping_add(1));
        }
        Ok(())
    }

    #[inline(always)]
    fn row(&self, row: u32) -> Option<&'m PostedRecv> {
        self.posted.get(to_usize(widen(row)))
    }

    /// Like [`Matcher::judge`], but changes nothing: where a buffer would have to be given back first, it says `Unasked`. So it does of a receive
    /// into several ranges, which is not on the way of the others therefore; and while receives wait to be compared with the unexpected queue,
    /// where older messages may be for them.
    #[inline(always)]
    pub fn judge_only(&self, message: &Incoming) -> Verdict {
        if self.has_fresh() {
            return Verdict::Unasked;
        }
        match self.first_match(message) {
            Some((row, posted)) if posted.has_room(message.length) => match posted.sge.get() {
                Some(sge) => self.landing((row, posted), message, (sge, sge.length())),
                None => Verdict::Unasked,
            },
            _ => Verdict::Unasked,
        }
    }

    /// What is to be done with a message.
    #[inline(always)]
    pub fn judge(&self, message: &Incoming) -> Verdict {
        match self.first_match(message) {
            Some((row, posted)) => match posted.sge.get() {
                Some(sge) => self.landing((row, posted), message, (sge, sge.length())),
                None => match self.room_of_parts(posted) {
                    Some(room) => self.landing((row, posted), message, room),
                    None => Verdict::Unasked,
                },
            },
            None => Verdict::Unasked,
        }
    }

    /// The first posted receive that takes the message.
    #[inline(always)]
    fn first_match(&self, message: &Incoming) -> Option<(u32, &'m PostedRecv)> {
        self.clear_spent();
        match message.envelope.tag {
            None => self.first_in(UNTAGGED, message),
            Some(tag) => {
                let exact = self.first_in(self.bucket_of(tag), message);
                if self.lists.front_or_nil(MASKED) == NIL {
                    return exact;
                }
                self.earlier(exact, self.first_in(MASKED, message))
            }
        }
    }

    /// The list for a tag. Where it is the tag of the message before, nothing has to wait until the tag is read: the branch is
    /// foreseen.
    #[inline(always)]
    fn bucket_of(&self, tag: u64) -> u32 {
        if tag == self.last_tag.get() { self.last_bucket.get() } else { self.look_up(tag) }
    }

    #[inline(never)]
    fn look_up(&self, tag: u64) -> u32 {
        self.last_tag.set(tag);
        self.last_bucket.set(bucket(tag));
        self.last_bucket.get()
    }

    #[inline(always)]
    fn first_in(&self, list: u32, message: &Incoming) -> Option<(u32, &'m PostedRecv)> {
        let row = self.lists.front_or_nil(list);
        let posted = self.row(row)?;
        let (tag, source) = (message.envelope.tag.unwrap_or(0), message.source);
        if posted.takes(tag, source) {
            return Some((row, posted));
        }
        self.first_after(row, tag, source)
    }

    /// The same behind a row of the list. Apart, so that what the walk needs is not held ready where the first one takes the message.
    #[inline(never)]
    fn first_after(&self, before: u32, tag: u64, source: Addr) -> Option<(u32, &'m PostedRecv)> {
        let mut row = before;
        loop {
            row = self.lists.after_or_nil(row);
            let posted = self.row(row)?;
            if posted.takes(tag, source) {
                return Some((row, posted));
            }
        }
    }

    /// Of two candidates the one that was posted first.
    #[inline(never)]
    const fn earlier(
        &self,
        exact: Option<(u32, &'m PostedRecv)>,
        masked: Option<(u32, &'m PostedRecv)>,
    ) -> Option<(u32, &'m PostedRecv)> {
        match (exact, masked) {
            (Some((_, a)), Some((_, b))) if a.order.get() > b.order.get() => masked,
            (None, Some(_)) => masked,
            _ => exact,
        }
    }

    #[inline(always)]
    fn landing(
        &self,
        (row, posted): (u32, &PostedRecv),
        message: &Incoming,
        (sge, whole): (Sge, usize),
    ) -> Verdict {
        let wr_id = posted.wr_id.get();
        let offset = to_usize(widen(posted.offset.get()));
        let room = whole.saturating_sub(offset);
        let fits = message.length <= room;
        if !fits && offset > 0 {
            self.retire(row);
            return Verdict::GivenBack(Cqe::without_message(wr_id, Status::Success));
        }
        let length = message.length.min(room);
        let status = if fits { Status::Success } else { Status::Truncated };
        let buffer = posted.buffer.get();
        Verdict::Deliver(Landing { row, sge, offset, length, count: 1, status, wr_id, buffer })
    }

    /// Completes the receive that a message was copied into.
    #[inline(always)]
    pub fn land(&self, landing: &Landing, message: &Incoming) -> Cqe {
        let buffer = landing.outcome();
        match buffer {
            Buffer::Returned => {
                debug_assert_eq!(self.spent.get(), NOBODY, "whoever found the row cleared it");
                self.spent.set(landing.row);
            }
            Buffer::StillPosted => {
                if let Some(posted) = self.row(landing.row) {
                    posted.offset.set(low(from_usize(landing.end())));
                }
            }
        }
        Cqe {
            wr_id: landing.wr_id,
            status: landing.status,
            buffer,
            offset: low(from_usize(landing.offset)),
            length: low(from_usize(landing.length)),
            count: landing.count,
            tag: message.envelope.tag,
            immediate: message.envelope.immediate,
            source: Some(message.source),
        }
    }

    /// Takes the row that is over out of its list, if there is one.
    #[inline(always)]
    fn clear_spent(&self) {
        if self.spent.get() != NOBODY {
            self.retire(self.spent.replace(NOBODY));
        }
    }

    #[inline(never)]
    fn retire(&self, row: u32) {
        let unlinked = self.lists.unlink(row);
        debug_assert!(unlinked.is_ok(), "a posted receive is on a list");
        if let Some(posted) = self.row(row) {
            posted.next_vacant.set(self.vacant.replace(row));
            self.occupied.set(self.occupied.get().wrapping_sub(1));
            if posted.fresh.replace(false) {
                self.fresh.set(self.fresh.get().saturating_sub(1));
            }
            match posted.buffer.get() {
                Filling::Single | Filling::Multi { .. } => {}
                Filling::Runs { .. } => self.runs.set(self.runs.get().saturating_sub(1)),
                Filling::Parts { set } => self.sets.give_back(set),
            }
        }
    }

    /// Whether messages are best taken many at a time: receives are posted that take runs, or wait to be compared with the
    /// unexpected queue; or none are posted, and whatever comes is unexpected.
    #[must_use]
    #[inline(always)]
    pub const fn wants_many(&self) -> bool {
        (self.fresh.get() | self.runs.get()) != 0 || self.occupied.get() == 0
    }

    /// Whether receives are posted that wait to be compared with the unexpected queue, which the next poll does.
    #[must_use]
    #[inline(always)]
    pub const fn has_fresh(&self) -> bool {
        self.fresh.get() != 0
    }

    /// The rows in use.
    fn rows(&self) -> impl Iterator<Item = (u32, &'m PostedRecv)> + use<'_, 'm> {
        self.clear_spent();
        (0..u32::MAX).zip(self.posted).filter(|&(row, _)| self.lists.list_of(row).is_some())
    }

    /// Receives posted.
    #[must_use]
    pub fn posted_len(&self) -> u32 {
        let spent = u32::from(self.spent.get() != NOBODY);
        self.occupied.get().saturating_sub(spent)
    }

    /// Messages waiting.
    #[must_use]
    pub const fn unexpected_len(&self) -> u32 {
        self.unexpected.len()
    }

    /// How often a message had to stay in its lane.
    #[must_use]
    pub const fn stalls(&self) -> u64 {
        self.stalls.get()
    }
}
