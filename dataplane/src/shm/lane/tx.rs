//! The sending end: staging cells, publishing batches, asking for credit.

use core::cell::Cell;

use spinwire_layouts::shm::lane::CELL_INLINE_BYTES;
use spinwire_layouts::wire::message::{Head, flags};

use super::{
    BATCH_CELLS_MAX, Carried, Envelope, LaneMemory, Place, ReceiverState, index, length_u64,
    next_spill_line, place, sequence, spill_index, words_of_line,
};
use crate::error::{Fatal, PostError, Retry};
use crate::raw::barrier::store_before_load_of_bell;
use crate::raw::line::{self, LINE_BYTES, Line, WORD_BYTES};
use crate::sync::{AtomicU64, Ordering};

/// The sending end of a lane. Owned by one thread.
#[derive(Debug)]
pub struct LaneTx<'s> {
    pub(super) memory: Cell<LaneMemory<'s>>,
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
    /// How far the spill was used when the batch before the last one was published, and the last one.
    spill_published: [Cell<u64>; 2],
    /// Bit n is flipped with each parcel of number n.
    pub(super) parcels_sent: Cell<u64>,
    /// Numbers that were given out and not yet [seen](LaneTx::is_settled) to be settled, a bit each.
    pub(super) parcels_out: Cell<u64>,
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
            spill_published: [Cell::new(0), Cell::new(0)],
            parcels_sent: Cell::new(0),
            parcels_out: Cell::new(0),
        };
        lane.open(memory);
        lane
    }

    /// Puts this end to work on another lane. What was staged and not published is gone.
    pub fn open(&self, memory: LaneMemory<'s>) {
        self.memory.set(memory);
        self.cell_mask.set(memory.cells.len().wrapping_sub(1));
        self.held_back.set(0);
        self.parcels_sent.set(0);
        self.parcels_out.set(0);
        self.go_on_at(Carried::default());
    }

    /// All that was sent so far was taken.
    pub(super) fn go_on_at(&self, carried: Carried) {
        self.tail.set(carried.cells);
        self.published.set(carried.cells);
        self.head.set(carried.cells);
        self.spill_tail.set(carried.spill_bytes);
        self.spill_head.set(carried.spill_bytes);
        self.spill_published.iter().for_each(|position| position.set(carried.spill_bytes));
    }

    /// Writes a message behind those already staged. It is visible to the receiver after [`LaneTx::publish`].
    ///
    /// # Errors
    /// `NoCredit` or `NoSpill` where the lane is full (what was staged is published first, so that the receiver can make
    /// room); `Corrupt` where the credit that the receiver returned is impossible. Nothing was consumed.
    #[inline(always)]
    pub fn stage(&self, payload: &[u8], envelope: Envelope) -> Result<(), PostError> {
        self.stage_as(payload, envelope, 0)
    }

    /// [`LaneTx::stage`] with more flags. With any, what has become a long batch is not published.
    #[inline(always)]
    pub(super) fn stage_as(
        &self,
        payload: &[u8],
        envelope: Envelope,
        more: u8,
    ) -> Result<(), PostError> {
        self.stage_bytes(payload.len(), payload, envelope, more)
    }

    /// [`LaneTx::stage_as`] for a message whose `length` bytes write themselves.
    #[inline(always)]
    pub(super) fn stage_bytes(
        &self,
        length: usize,
        bytes: impl Staged,
        envelope: Envelope,
        more: u8,
    ) -> Result<(), PostError> {
        let cells = self.memory.get().cells;
        let tail = self.tail.get();
        if tail.wrapping_sub(self.head.get()) >= length_u64(cells) {
            self.refresh(Retry::NoCredit)?;
        }
        let mut bits = flags::VALID | more;
        if envelope.tag.is_some() {
            bits |= flags::TAGGED;
        }
        if envelope.immediate.is_some() {
            bits |= flags::IMMEDIATE;
        }
        let waiting = tail.wrapping_sub(self.published.get());
        let mut is_first = waiting == 0;
        if waiting >= BATCH_CELLS_MAX && more == 0 {
            self.publish();
            is_first = true;
        }
        if is_first {
            bits |= flags::OWN_LINE;
        }
        let place = place(length, bits, self.spill_tail.get());
        if place.spill_end != self.spill_tail.get() && !self.has_spill(place.spill_end) {
            self.refresh(Retry::NoSpill)?;
            // What was staged is published by now.
            is_first = true;
            if !self.has_spill(place.spill_end) {
                return Err(Retry::NoSpill.into());
            }
        }
        let Some(cell) = cells.get(index(tail, self.cell_mask.get())) else {
            return Err(Retry::NoCredit.into());
        };
        // All that is known of the message is put down first, so that nothing of it has to be kept while its bytes are written: nobody looks at
        // a cell before the head word of the first of its batch is published.
        let head = Head::pack(sequence(tail), length, bits);
        if is_first {
            self.held_back.set(head);
        } else {
            let [head_word, ..] = cell.words();
            head_word.store(head, Ordering::Relaxed);
        }
        self.spill_tail.set(place.spill_end);
        self.tail.set(tail.wrapping_add(1));
        bytes.write(cell, &self.memory, place, envelope);
        Ok(())
    }

    /// Whether the spill has room up to `end`.
    #[inline(always)]
    fn has_spill(&self, end: u64) -> bool {
        let size = length_u64(self.memory.get().spill).wrapping_mul(64);
        end.wrapping_sub(self.spill_head.get()) <= size
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
            let [before, last] = &self.spill_published;
            before.set(last.replace(self.spill_tail.get()));
        }
        count
    }

    /// Whether the receiver asked to be told of news, as far as can be seen without waiting for it.
    ///
    /// The load may be served before the store of [`LaneTx::publish`] is visible, so a receiver that has just armed the
    /// lane can be missed. One that turns sweeps its cold lanes one a turn, which bounds the delay; see `provider::shm`. One
    /// that goes to sleep has all CPUs pass a barrier first; see [`shm::bell`](crate::shm::bell).
    #[must_use]
    #[inline(always)]
    pub fn is_armed(&self) -> bool {
        let armed = self.memory.get().armed();
        store_before_load_of_bell();
        armed.load(Ordering::Relaxed) != 0
    }

    /// What the receiver has made of the lane.
    #[must_use]
    pub fn receiver_state(&self) -> ReceiverState {
        // SYNC(accept): Acquire pairs with the Release in LaneRx::answer.
        ReceiverState::from_raw(self.memory.get().receiver_state().load(Ordering::Acquire))
    }

    /// Position of the next message: how many were staged, ever.
    #[must_use]
    #[inline(always)]
    pub const fn position(&self) -> u64 {
        self.tail.get()
    }

    /// Asks for the next cell to be this CPU's alone, before there is anything to write into it; and for the line of the
    /// spill that comes with it, where the last batch went on there.
    #[inline(always)]
    pub fn warm(&self) {
        let memory = self.memory.get();
        if let Some(cell) = memory.cells.get(index(self.tail.get(), self.cell_mask.get())) {
            line::prefetch_for_write(cell);
        }
        let [before, last] = &self.spill_published;
        if before.get() != last.get()
            && let Some(spill) = memory.spill.get(next_spill_line(&memory, self.spill_tail.get()))
        {
            line::prefetch_for_write(spill);
        }
    }

    /// Messages staged and not yet published.
    #[must_use]
    #[inline(always)]
    pub const fn staged(&self) -> u64 {
        self.tail.get().wrapping_sub(self.published.get())
    }
}

/// The bytes of a message that is staged. No closure, as that would not be sure to be inlined.
pub(super) trait Staged {
    /// Writes them to their place, and all of the cell but its head word. The spill of `memory` is looked at where they go on there.
    fn write(self, cell: &Line, memory: &Cell<LaneMemory<'_>>, place: Place, envelope: Envelope);
}

impl Staged for &[u8] {
    #[inline(always)]
    fn write(self, cell: &Line, memory: &Cell<LaneMemory<'_>>, place: Place, envelope: Envelope) {
        if let Some(rest @ [_, ..]) = self.get(place.inline_bytes..) {
            write_spill(memory.get().spill, place.spill_at, rest);
        }
        write_cell(cell, self, envelope, place.inline_bytes);
    }
}

/// Everything of the cell but its head word.
#[inline(always)]
pub(super) fn write_cell(cell: &Line, payload: &[u8], envelope: Envelope, inline_bytes: usize) {
    let [_, tag, words @ ..] = cell.words();
    tag.store(envelope.tag.unwrap_or(0), Ordering::Relaxed);
    let inline = payload.get(..inline_bytes).unwrap_or_default();
    if let Ok(full) = <&[u8; CELL_INLINE_BYTES]>::try_from(inline) {
        // A full cell has no immediate data; word by word, without a loop.
        for (bytes, word) in full.as_chunks::<WORD_BYTES>().0.iter().zip(words) {
            word.store(u64::from_le_bytes(*bytes), Ordering::Relaxed);
        }
        return;
    }
    let mut words = words.as_slice();
    if let Some(immediate) = envelope.immediate
        && let Some((first, others)) = words.split_first()
    {
        first.store(immediate, Ordering::Relaxed);
        words = others;
    }
    write_words(words, inline);
}

/// As many words as `bytes` need; what is left of the last one is zero.
#[inline(always)]
pub(super) fn write_words(words: &[AtomicU64], bytes: &[u8]) {
    let mut words = words.iter();
    let (whole, rest) = bytes.as_chunks::<WORD_BYTES>();
    for (bytes, word) in whole.iter().zip(words.by_ref()) {
        word.store(u64::from_le_bytes(*bytes), Ordering::Relaxed);
    }
    if !rest.is_empty()
        && let Some(word) = words.next()
    {
        word.store(line::partial_word(rest), Ordering::Relaxed);
    }
}

/// Writes `bytes` to position `at` of the byte ring.
#[inline(always)]
pub(super) fn write_spill(spill: &[Line], at: u64, bytes: &[u8]) {
    let at = spill_index(spill, at);
    match words_of_line(spill, at, bytes.len()) {
        Some(words) => match (words, bytes.as_chunks::<WORD_BYTES>()) {
            // What a message of 64 bytes has here: without a loop.
            ([first, second, ..], ([low, high], [])) => {
                first.store(u64::from_le_bytes(*low), Ordering::Relaxed);
                second.store(u64::from_le_bytes(*high), Ordering::Relaxed);
            }
            _ => write_words(words, bytes),
        },
        None => write_spill_lines(spill, at, bytes),
    }
}

/// Writes `bytes` to byte `at` of the ring and onwards, and from its start on where that is beyond the end.
#[inline(never)]
fn write_spill_lines(spill: &[Line], at: usize, bytes: &[u8]) {
    let whole = spill.len().wrapping_mul(LINE_BYTES).wrapping_sub(at);
    let (first, second) = bytes.split_at_checked(whole).unwrap_or((bytes, &[]));
    let written =
        line::copy_in(spill, at, first) && (second.is_empty() || line::copy_in(spill, 0, second));
    debug_assert!(written, "the free range lies in the ring");
}
