//! Lanes: one-way rings from one endpoint to one other, in memory that both map.
//!
//! ```text
//!            written by the sender                                      written by the receiver
//!   cells    | seq len flags | tag | 48 bytes |  | seq ... |  ...       credit line | cells | spill | armed |
//!   spill    | the bytes that did not fit into their cell, back to back ....... |
//! ```
//!
//! A message is one cell: a head word with its sequence number, a tag, and its first 48 bytes, in one cache line, so
//! that a small message costs one line transfer. What is longer goes on in the *spill*, a byte ring beside the cells, in
//! steps of 16 bytes: the 16 bytes by which a 64-byte message overflows its cell share their line with those of three
//! neighbours, where a second cell would cost a line of its own, and long messages are copied whole, in at most two
//! pieces, not cell by cell. The receiver works out the place in the spill for itself; no offset is ever read from
//! the peer.
//!
//! *Publishing.* [`LaneTx::stage`] writes cells. Of a batch, the head word of the first cell is held back;
//! [`LaneTx::publish`] stores it with Release, and the whole batch becomes visible at once. A sender that is killed
//! in the middle has published nothing.
//!
//! *Credit.* The receiver returns cells and spill bytes by storing how far it has come, once per quarter of either
//! ring. A sender can need at most half of the spill at once ([`Geometry`](super::Geometry) checks that), and at most a
//! quarter of it is consumed but not returned, so a sender that waits is always served: the lane cannot wedge.
//!
//! Invariants: (1) `published <= tail <= head + cells`; the same for the spill in bytes; (2) every cell of a lap is a
//! message head, so a stale cell carries exactly the sequence number of the lap before, or is all zero; (3) each side
//! keeps its own positions privately; what it reads of the other's is checked to move forward and stay in bounds, else
//! the lane is `Corrupt`; (4) a head word is read once, and only the copy is used.

use core::cell::Cell;

use spinwire_layouts::shm::lane::CELL_INLINE_BYTES;
use spinwire_layouts::wire::message::{Head, flags};

use crate::error::{Fatal, PostError, Retry};
use crate::raw::line::{self, LINE_BYTES, Line};
use crate::sync::{AtomicU64, Ordering};

/// Steps in which the spill is used, in bytes.
pub const SPILL_STEP_BYTES: u64 = 16;
/// Cells that may be staged before a batch is published on its own account, so that the receiver can start.
pub const BATCH_CELLS_MAX: u64 = 64;
/// Words of a cell before the payload.
const PAYLOAD_WORD: usize = 2;
/// From this many bytes on, a message's spill starts on a line of its own, so that long copies run on whole lines.
const SPILL_WHOLE_LINES_BYTES: usize = 512;

/// The shared memory of one lane.
#[derive(Clone, Copy, Debug)]
pub struct LaneMemory<'s> {
    /// The ring of cells; a power of two of them.
    pub cells: &'s [Line],
    /// The byte ring; a power of two of lines.
    pub spill: &'s [Line],
    /// The line that the receiver writes.
    pub credit: &'s Line,
}

impl<'s> LaneMemory<'s> {
    /// No memory: a lane that is not open. Every stage fails with `NoCredit`, every receive finds nothing.
    #[must_use]
    pub const fn closed(credit: &'s Line) -> Self {
        Self { cells: &[], spill: &[], credit }
    }

    /// How far the receiver has come, in cells.
    #[inline(always)]
    fn credit_cells(&self) -> &'s AtomicU64 {
        let [cells, ..] = self.credit.words();
        cells
    }

    /// How far the receiver has come, in spill bytes.
    #[inline(always)]
    fn credit_spill(&self) -> &'s AtomicU64 {
        let [_, spill, ..] = self.credit.words();
        spill
    }

    /// Whether the receiver wants to be told of news in this lane, because it does not look by itself.
    #[inline(always)]
    fn armed(&self) -> &'s AtomicU64 {
        let [_, _, armed, ..] = self.credit.words();
        armed
    }

    /// What the receiver made of the lane: see [`ReceiverState`].
    #[inline(always)]
    fn receiver_state(&self) -> &'s AtomicU64 {
        let [_, _, _, state, ..] = self.credit.words();
        state
    }

    /// Makes the memory that of a new lane: no cell valid, no credit taken. The caller holds the lane alone.
    pub fn reset(&self) {
        for cell in self.cells {
            let [head, ..] = cell.words();
            head.store(0, Ordering::Relaxed);
        }
        self.credit_cells().store(0, Ordering::Relaxed);
        self.credit_spill().store(0, Ordering::Relaxed);
        self.receiver_state().store(ReceiverState::Unseen.as_raw(), Ordering::Relaxed);
        // A new lane is cold: its receiver does not know of it yet.
        self.armed().store(1, Ordering::Relaxed);
    }
}

/// What the receiver has made of a lane that a sender opened.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum ReceiverState {
    /// It has not looked yet.
    Unseen,
    /// It took the lane.
    Accepted,
    /// It will not take it: a connected endpoint has its one peer already, or the address table is full.
    Refused,
    /// It took the lane and has let go of it since: it disconnected, or cut this peer off.
    Left,
}

impl ReceiverState {
    const fn as_raw(self) -> u64 {
        match self {
            Self::Unseen => 0,
            Self::Accepted => 1,
            Self::Refused => 2,
            Self::Left => 3,
        }
    }

    const fn from_raw(raw: u64) -> Self {
        match raw {
            1 => Self::Accepted,
            2 => Self::Refused,
            3 => Self::Left,
            _ => Self::Unseen,
        }
    }
}

/// What travels with the bytes of a message.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Envelope {
    /// The tag of a tagged message.
    pub tag: Option<u64>,
    /// 64 bits of immediate data.
    pub immediate: Option<u64>,
}

/// Where a message lies in its lane: in its cell, and from where in the spill.
#[derive(Clone, Copy, Debug)]
struct Place {
    /// Bytes of it in the cell.
    inline_bytes: usize,
    /// Position of the rest in the spill; free-running.
    spill_at: u64,
    /// Position behind it.
    spill_end: u64,
}

/// Where a message of `length` bytes lies if the spill is used up to `spill`. Both sides compute it, from nothing but
/// the length.
#[inline(always)]
fn place(length: usize, immediate: bool, spill: u64) -> Place {
    let inline_max = if immediate { CELL_INLINE_BYTES - 8 } else { CELL_INLINE_BYTES };
    let inline_bytes = length.min(inline_max);
    let rest = length.wrapping_sub(inline_bytes);
    if rest == 0 {
        return Place { inline_bytes, spill_at: spill, spill_end: spill };
    }
    let step = if rest >= SPILL_WHOLE_LINES_BYTES { 64 } else { SPILL_STEP_BYTES };
    let spill_at = round_up(spill, step);
    let rest = u64::try_from(rest).unwrap_or(u64::MAX);
    Place { inline_bytes, spill_at, spill_end: spill_at.wrapping_add(round_up(rest, SPILL_STEP_BYTES)) }
}

#[inline(always)]
const fn round_up(value: u64, step: u64) -> u64 {
    value.wrapping_add(step.wrapping_sub(1)) & !step.wrapping_sub(1)
}

/// Low bits of a free-running position as an index.
#[inline(always)]
#[expect(
    clippy::as_conversions,
    clippy::cast_possible_truncation,
    reason = "the low bits of a position are what is wanted: they are masked to the ring at once"
)]
const fn index(position: u64, mask: usize) -> usize {
    position as usize & mask
}

/// Low 32 bits of a free-running position: the sequence number of its cell.
#[inline(always)]
#[expect(
    clippy::as_conversions,
    clippy::cast_possible_truncation,
    reason = "a sequence number is the position modulo 2^32"
)]
const fn sequence(position: u64) -> u32 {
    position as u32
}

fn length_u64(lines: &[Line]) -> u64 {
    u64::try_from(lines.len()).unwrap_or(0)
}

/// The sending end of a lane. Owned by one thread.
#[derive(Debug)]
pub struct LaneTx<'s> {
    memory: Cell<LaneMemory<'s>>,
    cell_mask: Cell<usize>,
    /// Position of the next cell to write.
    tail: Cell<u64>,
    /// Position up to which the receiver can see.
    published: Cell<u64>,
    /// How far the receiver was when last asked.
    head: Cell<u64>,
    /// The head word of the first staged cell, held back until the batch is published.
    held_back: Cell<u64>,
    spill_tail: Cell<u64>,
    spill_head: Cell<u64>,
}

impl<'s> LaneTx<'s> {
    /// The sending end of the lane in `memory`, which was just [reset](LaneMemory::reset).
    #[must_use]
    pub fn new(memory: LaneMemory<'s>) -> Self {
        let lane = Self {
            memory: Cell::new(memory),
            cell_mask: Cell::new(0),
            tail: Cell::new(0),
            published: Cell::new(0),
            head: Cell::new(0),
            held_back: Cell::new(0),
            spill_tail: Cell::new(0),
            spill_head: Cell::new(0),
        };
        lane.open(memory);
        lane
    }

    /// Puts this end to work on another lane. What was staged and not published is gone.
    pub fn open(&self, memory: LaneMemory<'s>) {
        self.memory.set(memory);
        self.cell_mask.set(memory.cells.len().wrapping_sub(1));
        self.tail.set(0);
        self.published.set(0);
        self.head.set(0);
        self.held_back.set(0);
        self.spill_tail.set(0);
        self.spill_head.set(0);
    }

    /// Writes a message behind those already staged. It is visible to the receiver after [`LaneTx::publish`].
    ///
    /// # Errors
    /// `NoCredit` or `NoSpill` where the lane is full (what was staged is published first, so that the receiver can make
    /// room); `Corrupt` where the credit that the receiver returned is impossible. Nothing was consumed.
    #[inline(always)]
    pub fn stage(&self, payload: &[u8], envelope: Envelope) -> Result<(), PostError> {
        let memory = self.memory.get();
        let tail = self.tail.get();
        if tail.wrapping_sub(self.head.get()) >= length_u64(memory.cells) {
            self.refresh(Retry::NoCredit)?;
        }
        let place = place(payload.len(), envelope.immediate.is_some(), self.spill_tail.get());
        if place.spill_end != self.spill_tail.get() {
            self.stage_spill(&memory, payload, place)?;
        }
        let Some(cell) = memory.cells.get(index(tail, self.cell_mask.get())) else {
            return Err(Retry::NoCredit.into());
        };
        write_cell(cell, payload, envelope, place.inline_bytes);
        let mut bits = flags::VALID;
        if envelope.tag.is_some() {
            bits |= flags::TAGGED;
        }
        if envelope.immediate.is_some() {
            bits |= flags::IMMEDIATE;
        }
        let head = Head::pack(sequence(tail), payload.len(), bits);
        if tail == self.published.get() {
            self.held_back.set(head);
        } else {
            let [head_word, ..] = cell.words();
            // Behind the held-back head of the batch: nobody looks here before that is published.
            head_word.store(head, Ordering::Relaxed);
        }
        self.spill_tail.set(place.spill_end);
        self.tail.set(tail.wrapping_add(1));
        if tail.wrapping_sub(self.published.get()) >= BATCH_CELLS_MAX {
            self.publish();
        }
        Ok(())
    }

    /// The bytes of `payload` that go into the spill.
    fn stage_spill(
        &self,
        memory: &LaneMemory<'s>,
        payload: &[u8],
        place: Place,
    ) -> Result<(), PostError> {
        let size = length_u64(memory.spill).wrapping_mul(64);
        if place.spill_end.wrapping_sub(self.spill_head.get()) > size {
            self.refresh(Retry::NoSpill)?;
            if place.spill_end.wrapping_sub(self.spill_head.get()) > size {
                return Err(Retry::NoSpill.into());
            }
        }
        let rest = payload.get(place.inline_bytes..).unwrap_or_default();
        let bytes = memory.spill.len().wrapping_mul(LINE_BYTES);
        let at = index(place.spill_at, bytes.wrapping_sub(1));
        let (first, second) =
            rest.split_at_checked(bytes.wrapping_sub(at)).unwrap_or((rest, &[]));
        let written = line::copy_in(memory.spill, at, first)
            && (second.is_empty() || line::copy_in(memory.spill, 0, second));
        debug_assert!(written, "the free range lies in the ring");
        Ok(())
    }

    /// Asks how far the receiver is by now. Errors with `lack` where that frees no cell.
    #[cold]
    fn refresh(&self, lack: Retry) -> Result<(), PostError> {
        self.publish();
        let memory = self.memory.get();
        match self.receiver_state() {
            ReceiverState::Refused => return Err(Fatal::Refused.into()),
            ReceiverState::Left => return Err(Fatal::PeerGone.into()),
            ReceiverState::Unseen | ReceiverState::Accepted => {}
        }
        // SYNC(credit): Acquire pairs with the Release in LaneRx::return_credit. What the receiver read before it
        // returned the credit is read; the cells and bytes may be written again.
        let cells = memory.credit_cells().load(Ordering::Acquire);
        let spill = memory.credit_spill().load(Ordering::Acquire);
        let cells_ahead = cells.wrapping_sub(self.head.get());
        let spill_ahead = spill.wrapping_sub(self.spill_head.get());
        if cells_ahead > self.tail.get().wrapping_sub(self.head.get())
            || spill_ahead > self.spill_tail.get().wrapping_sub(self.spill_head.get())
        {
            return Err(Fatal::Corrupt.into());
        }
        self.head.set(cells);
        self.spill_head.set(spill);
        if self.tail.get().wrapping_sub(cells) >= length_u64(memory.cells) {
            return Err(lack.into());
        }
        Ok(())
    }

    /// Makes everything staged visible to the receiver, by one store. Returns how many messages that were.
    #[inline(always)]
    pub fn publish(&self) -> u64 {
        let from = self.published.get();
        let tail = self.tail.get();
        let count = tail.wrapping_sub(from);
        if count > 0 {
            let memory = self.memory.get();
            if let Some(cell) = memory.cells.get(index(from, self.cell_mask.get())) {
                let [head, ..] = cell.words();
                // SYNC(lane): Release pairs with the Acquire in LaneRx::peek. All cells and spill bytes of the batch
                // are written before its first head word shows.
                head.store(self.held_back.get(), Ordering::Release);
            }
            self.published.set(tail);
        }
        count
    }

    /// Whether the receiver asked to be told of news, as far as can be seen without waiting for it.
    ///
    /// The load may be served before the store of [`LaneTx::publish`] is visible, so a receiver that has just armed the
    /// lane can be missed. It sweeps its cold lanes one a turn, which bounds the delay; see `provider::shm`.
    #[must_use]
    #[inline(always)]
    pub fn is_armed(&self) -> bool {
        self.memory.get().armed().load(Ordering::Relaxed) != 0
    }

    /// What the receiver has made of the lane.
    #[must_use]
    pub fn receiver_state(&self) -> ReceiverState {
        // SYNC(accept): Acquire pairs with the Release in LaneRx::answer.
        ReceiverState::from_raw(self.memory.get().receiver_state().load(Ordering::Acquire))
    }

    /// Messages staged and not yet published.
    #[must_use]
    #[inline]
    pub const fn staged(&self) -> u64 {
        self.tail.get().wrapping_sub(self.published.get())
    }
}

/// Everything of the cell but its head word.
#[inline(always)]
fn write_cell(cell: &Line, payload: &[u8], envelope: Envelope, inline_bytes: usize) {
    let (prefix, words) = cell.words().split_at(PAYLOAD_WORD);
    if let [_, tag] = prefix {
        tag.store(envelope.tag.unwrap_or(0), Ordering::Relaxed);
    }
    let mut words = words.iter();
    if let Some(immediate) = envelope.immediate
        && let Some(word) = words.next()
    {
        word.store(immediate, Ordering::Relaxed);
    }
    let inline = payload.get(..inline_bytes).unwrap_or_default();
    let (whole, rest) = inline.as_chunks::<8>();
    for (bytes, word) in whole.iter().zip(words.by_ref()) {
        word.store(u64::from_le_bytes(*bytes), Ordering::Relaxed);
    }
    if !rest.is_empty()
        && let Some(word) = words.next()
    {
        word.store(line::partial_word(rest), Ordering::Relaxed);
    }
}

/// A message at the front of a lane: the checked copy of its head word.
#[derive(Clone, Copy, Debug)]
pub struct Arrival {
    /// Bytes in the message.
    pub length: usize,
    /// Tag and immediate data.
    pub envelope: Envelope,
    place: Place,
}

/// The receiving end of a lane. Owned by one thread.
#[derive(Debug)]
pub struct LaneRx<'s> {
    memory: Cell<LaneMemory<'s>>,
    cell_mask: Cell<usize>,
    /// Position of the next cell to read.
    head: Cell<u64>,
    spill_head: Cell<u64>,
    /// What the sender was last told of `head`.
    returned: Cell<u64>,
    spill_returned: Cell<u64>,
    message_bytes_max: Cell<usize>,
    /// The head word that was found in the next cell when there was nothing in it.
    idle_word: Cell<u64>,
}

/// No head word: it has flags that do not exist.
const NO_WORD: u64 = u64::MAX;

impl<'s> LaneRx<'s> {
    /// The receiving end of the lane in `memory`, from its first message on. Longer messages than `message_bytes_max`
    /// are `Corrupt`.
    #[must_use]
    pub fn new(memory: LaneMemory<'s>, message_bytes_max: usize) -> Self {
        let lane = Self {
            memory: Cell::new(memory),
            cell_mask: Cell::new(0),
            head: Cell::new(0),
            spill_head: Cell::new(0),
            returned: Cell::new(0),
            spill_returned: Cell::new(0),
            message_bytes_max: Cell::new(message_bytes_max),
            idle_word: Cell::new(NO_WORD),
        };
        lane.open(memory, message_bytes_max);
        lane
    }

    /// Puts this end to work on another lane.
    pub fn open(&self, memory: LaneMemory<'s>, message_bytes_max: usize) {
        self.memory.set(memory);
        self.cell_mask.set(memory.cells.len().wrapping_sub(1));
        self.head.set(0);
        self.spill_head.set(0);
        self.returned.set(0);
        self.spill_returned.set(0);
        self.message_bytes_max.set(message_bytes_max);
        self.idle_word.set(NO_WORD);
    }

    /// Whether the next cell may hold something new: `false` only where it holds what [`LaneRx::peek`] last found to be
    /// nothing. One load and one comparison.
    #[must_use]
    #[inline(always)]
    pub fn may_have_news(&self) -> bool {
        let at = index(self.head.get(), self.cell_mask.get());
        self.memory.get().cells.get(at).is_some_and(|cell| {
            let [head, ..] = cell.words();
            head.load(Ordering::Relaxed) != self.idle_word.get()
        })
    }

    /// The message at the front, if one is published. It stays there until [`LaneRx::advance`].
    ///
    /// # Errors
    /// `Corrupt` where the cell holds what no correct sender writes.
    #[inline(always)]
    pub fn peek(&self) -> Result<Option<Arrival>, Fatal> {
        let memory = self.memory.get();
        let head = self.head.get();
        let Some(cell) = memory.cells.get(index(head, self.cell_mask.get())) else {
            return Ok(None);
        };
        let [head_word, tag, first, ..] = cell.words();
        // SYNC(lane): Acquire pairs with the Release in LaneTx::publish.
        let raw = head_word.load(Ordering::Acquire);
        let word = Head::unpack(raw);
        if word.sequence != sequence(head) || !word.is_message() {
            return self.nothing(raw, head);
        }
        let immediate =
            (word.flags & flags::IMMEDIATE != 0).then(|| first.load(Ordering::Relaxed));
        let tag = (word.flags & flags::TAGGED != 0).then(|| tag.load(Ordering::Relaxed));
        if word.length > self.message_bytes_max.get() {
            return Err(Fatal::Corrupt);
        }
        let place = place(word.length, immediate.is_some(), self.spill_head.get());
        Ok(Some(Arrival { length: word.length, envelope: Envelope { tag, immediate }, place }))
    }

    /// No message: the cell of the lap before, or one never written. Anything else is foul play.
    #[inline]
    fn nothing(&self, raw: u64, head: u64) -> Result<Option<Arrival>, Fatal> {
        let memory = self.memory.get();
        let word = Head::unpack(raw);
        let lap_before = sequence(head.wrapping_sub(length_u64(memory.cells)));
        let never_written = raw == 0;
        if never_written || (word.sequence == lap_before && word.flags & flags::VALID != 0) {
            self.idle_word.set(raw);
            return Ok(None);
        }
        Err(Fatal::Corrupt)
    }

    /// Copies the first `to.len()` bytes of the message at the front, at most as many as it has.
    #[inline(always)]
    pub fn copy_out(&self, arrival: &Arrival, to: &mut [u8]) {
        let memory = self.memory.get();
        let Some(cell) = memory.cells.get(index(self.head.get(), self.cell_mask.get())) else {
            return;
        };
        debug_assert!(to.len() <= arrival.length, "the message has no more bytes");
        let inline_bytes = arrival.place.inline_bytes.min(to.len());
        let (inline, rest) = to.split_at_mut_checked(inline_bytes).unwrap_or_default();
        let skip = PAYLOAD_WORD.wrapping_add(usize::from(arrival.envelope.immediate.is_some()));
        read_cell(cell, skip, inline);
        if !rest.is_empty() {
            copy_spill(memory.spill, arrival.place.spill_at, rest);
        }
    }

    /// Takes messages that are like one that was just taken out of the lane (same length, same tag, no immediate data), for
    /// as long as there are any and `to` has room: one every `stride` bytes. Returns how many.
    #[inline(always)]
    pub fn take_run(&self, like: &Arrival, to: &mut [u8], stride: usize) -> u32 {
        if like.envelope.immediate.is_some() || stride < like.length.max(1) {
            return 0;
        }
        let memory = self.memory.get();
        let mask = self.cell_mask.get();
        let bits = if like.envelope.tag.is_some() { flags::VALID | flags::TAGGED } else { flags::VALID };
        let tag = like.envelope.tag.unwrap_or(0);
        let mut head = self.head.get();
        let mut spill = self.spill_head.get();
        let mut count = 0;
        // At most a quarter of the lane, so that the sender gets its credit in time.
        let quarter = memory.cells.len() / 4;
        for room in to.chunks_exact_mut(stride).take(quarter) {
            let Some(cell) = memory.cells.get(index(head, mask)) else { break };
            let [head_word, tag_word, ..] = cell.words();
            // SYNC(lane): Acquire pairs with the Release in LaneTx::publish.
            let found = head_word.load(Ordering::Acquire);
            if found != Head::pack(sequence(head), like.length, bits)
                || tag_word.load(Ordering::Relaxed) != tag
            {
                break;
            }
            let place = place(like.length, false, spill);
            let (inline, rest) = room.split_at_mut_checked(place.inline_bytes).unwrap_or_default();
            read_cell(cell, PAYLOAD_WORD, inline);
            if place.spill_end != spill {
                let rest_bytes = like.length.wrapping_sub(place.inline_bytes);
                let rest = rest.get_mut(..rest_bytes).unwrap_or_default();
                copy_spill(memory.spill, place.spill_at, rest);
                spill = place.spill_end;
            }
            head = head.wrapping_add(1);
            count = u32::wrapping_add(count, 1);
        }
        if count > 0 {
            self.move_to(head, spill);
        }
        count
    }

    /// Takes the message at the front out of the lane, and returns credit when a quarter of a ring was consumed.
    #[inline(always)]
    pub fn advance(&self, arrival: &Arrival) {
        self.move_to(self.head.get().wrapping_add(1), arrival.place.spill_end);
    }

    #[inline(always)]
    fn move_to(&self, head: u64, spill_head: u64) {
        self.idle_word.set(NO_WORD);
        self.head.set(head);
        self.spill_head.set(spill_head);
        let memory = self.memory.get();
        let cells = length_u64(memory.cells);
        let spill_bytes = length_u64(memory.spill).wrapping_mul(64);
        if head.wrapping_sub(self.returned.get()) >= cells / 4
            || spill_head.wrapping_sub(self.spill_returned.get()) >= spill_bytes / 4
        {
            self.return_credit();
        }
    }

    /// Tells the sender how far this end has come.
    #[inline]
    pub fn return_credit(&self) {
        let memory = self.memory.get();
        // SYNC(credit): Release pairs with the Acquire in LaneTx::refresh.
        memory.credit_spill().store(self.spill_head.get(), Ordering::Release);
        memory.credit_cells().store(self.head.get(), Ordering::Release);
        self.returned.set(self.head.get());
        self.spill_returned.set(self.spill_head.get());
    }

    /// Asks the sender to tell of news from now on (`true`), or not to (`false`) because this end looks by itself.
    pub fn arm(&self, armed: bool) {
        self.memory.get().armed().store(u64::from(armed), Ordering::Relaxed);
    }

    /// Tells the sender what became of its lane.
    pub fn answer(&self, state: ReceiverState) {
        // SYNC(accept): Release pairs with the Acquire in LaneTx::receiver_state.
        self.memory.get().receiver_state().store(state.as_raw(), Ordering::Release);
    }
}

/// Copies `to.len()` bytes of a cell, from word `skip` on.
#[inline(always)]
fn read_cell(cell: &Line, skip: usize, to: &mut [u8]) {
    let words = cell.words().get(skip..).unwrap_or_default();
    let (whole, partial) = to.as_chunks_mut::<8>();
    for (bytes, word) in whole.iter_mut().zip(words) {
        *bytes = word.load(Ordering::Relaxed).to_le_bytes();
    }
    if !partial.is_empty()
        && let Some(word) = words.get(whole.len())
    {
        line::store_partial(word.load(Ordering::Relaxed), partial);
    }
}

/// Copies `to.len()` bytes from position `at` of the byte ring.
#[inline]
fn copy_spill(spill: &[Line], at: u64, to: &mut [u8]) {
    let bytes = spill.len().wrapping_mul(LINE_BYTES);
    let at = index(at, bytes.wrapping_sub(1));
    let whole = bytes.wrapping_sub(at).min(to.len());
    let (first, second) = to.split_at_mut_checked(whole).unwrap_or_default();
    let read = line::copy_out(spill, at, first)
        && (second.is_empty() || line::copy_out(spill, 0, second));
    debug_assert!(read, "message_bytes_max is at most half of the ring");
}
