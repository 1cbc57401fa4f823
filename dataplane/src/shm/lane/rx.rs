//! The receiving end: looking, copying out, returning credit.

use core::cell::Cell;

use spinwire_layouts::shm::lane::CELL_INLINE_BYTES;
use spinwire_layouts::wire::message::{Head, flags};

use super::{
    Carried, Envelope, LaneMemory, PAYLOAD_WORD, Place, ReceiverState, index, length_u64,
    next_spill_line, place, sequence, spill_index, words_of_line,
};
use crate::error::Fatal;
use crate::raw::line::{self, LINE_BYTES, Line, WORD_BYTES};
use crate::sync::{AtomicU64, Ordering};

/// A message at the front of a lane: the checked copy of its head word.
#[derive(Clone, Copy, Debug)]
pub struct Arrival<'s> {
    /// Bytes in the message.
    pub length: usize,
    /// Tag and immediate data.
    pub envelope: Envelope,
    /// What its bytes are.
    pub content: Content,
    pub(super) cell: &'s Line,
    pub(super) place: Place,
}

/// What the bytes of a message are.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Content {
    /// The message.
    Bytes,
    /// A [`Descriptor`](super::Descriptor): the message is a buffer of a pool.
    Parcel,
}

/// The receiving end of a lane. Owned by one thread.
#[derive(Debug)]
pub struct LaneRx<'s> {
    pub(super) memory: Cell<LaneMemory<'s>>,
    cell_mask: Cell<usize>,
    /// Position of the next cell to read.
    head: Cell<u64>,
    spill_head: Cell<u64>,
    /// What the sender was last told of `head`.
    returned: Cell<u64>,
    spill_returned: Cell<u64>,
    /// A quarter of the cells, and of the bytes of the spill: so much is consumed before the sender is told.
    quarters: [Cell<u64>; 2],
    message_bytes_max: Cell<usize>,
    /// The head word that was found in the next cell when there was nothing in it.
    idle_word: Cell<u64>,
    /// Whether the last message went on in the spill.
    spill_used: Cell<bool>,
    /// Parcels that were taken and are not settled, a bit each.
    pub(super) parcels_held: Cell<u64>,
    /// What was last stored into `settled`.
    pub(super) parcels_settled: Cell<u64>,
}

/// The flag of that name in a head word.
const OWN_LINE: u64 = Head::pack(0, 0, flags::OWN_LINE);
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
            quarters: [Cell::new(0), Cell::new(0)],
            message_bytes_max: Cell::new(message_bytes_max),
            idle_word: Cell::new(NO_WORD),
            spill_used: Cell::new(false),
            parcels_held: Cell::new(0),
            parcels_settled: Cell::new(0),
        };
        lane.open(memory, message_bytes_max);
        lane
    }

    /// Puts this end to work on another lane.
    pub fn open(&self, memory: LaneMemory<'s>, message_bytes_max: usize) {
        self.memory.set(memory);
        self.cell_mask.set(memory.cells.len().wrapping_sub(1));
        self.go_on_at(Carried::default());
        let [cells, spill_bytes] = &self.quarters;
        cells.set(length_u64(memory.cells) / 4);
        spill_bytes.set(length_u64(memory.spill).wrapping_mul(64) / 4);
        self.message_bytes_max.set(message_bytes_max);
        self.idle_word.set(NO_WORD);
        self.parcels_held.set(0);
        self.parcels_settled.set(0);
    }

    /// All that was sent so far was taken, and the sender knows it.
    pub(super) fn go_on_at(&self, carried: Carried) {
        self.head.set(carried.cells);
        self.spill_head.set(carried.spill_bytes);
        self.returned.set(carried.cells);
        self.spill_returned.set(carried.spill_bytes);
    }

    /// How many messages were taken out of the lane.
    #[must_use]
    pub const fn position(&self) -> u64 {
        self.head.get()
    }

    /// Whether the next cell may hold something new: `false` only where it holds what [`LaneRx::peek`] last found to be
    /// nothing. One load and one comparison.
    ///
    /// Where the last message went on in the spill, the next one is expected to: its line is asked for along with the cell, so
    /// that both are on their way at once.
    #[must_use]
    #[inline(always)]
    pub fn may_have_news(&self) -> bool {
        let memory = self.memory.get();
        if self.spill_used.get() {
            line::prefetch(memory.spill, next_spill_line(&memory, self.spill_head.get()));
        }
        let at = index(self.head.get(), self.cell_mask.get());
        memory.cells.get(at).is_some_and(|cell| {
            let [head, ..] = cell.words();
            head.load(Ordering::Relaxed) != self.idle_word.get()
        })
    }

    /// The message at the front, if one is published. It stays there until [`LaneRx::advance`].
    ///
    /// # Errors
    /// `Corrupt` where the cell holds what no correct sender writes.
    #[inline(always)]
    pub fn peek(&self) -> Result<Option<Arrival<'s>>, Fatal> {
        let memory = self.memory.get();
        let head = self.head.get();
        let Some(cell) = memory.cells.get(index(head, self.cell_mask.get())) else {
            return Ok(None);
        };
        let [head_word, tag, first, ..] = cell.words();
        // SYNC(lane): Acquire pairs with the Release in LaneTx::publish.
        let raw = head_word.load(Ordering::Acquire);
        if !Head::is_head_of(raw, sequence(head)) {
            return self.nothing(raw, head);
        }
        let word = Head::unpack(raw);
        let immediate = (word.flags & flags::IMMEDIATE != 0).then(|| first.load(Ordering::Relaxed));
        let tag = (word.flags & flags::TAGGED != 0).then(|| tag.load(Ordering::Relaxed));
        if word.length > self.message_bytes_max.get() {
            return Err(Fatal::Corrupt);
        }
        let place = place(word.length, word.flags, self.spill_head.get());
        let content =
            if word.flags & flags::PARCEL == 0 { Content::Bytes } else { Content::Parcel };
        let envelope = Envelope { tag, immediate };
        Ok(Some(Arrival { length: word.length, envelope, content, cell, place }))
    }

    /// No message: the cell of the lap before, or one never written. Anything else is foul play.
    #[inline]
    fn nothing(&self, raw: u64, head: u64) -> Result<Option<Arrival<'s>>, Fatal> {
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
    pub fn copy_out(&self, arrival: &Arrival<'_>, to: &mut [u8]) {
        debug_assert!(to.len() <= arrival.length, "the message has no more bytes");
        let inline_bytes = arrival.place.inline_bytes.min(to.len());
        let (inline, rest) = to.split_at_mut_checked(inline_bytes).unwrap_or_default();
        let skip = PAYLOAD_WORD.wrapping_add(usize::from(arrival.envelope.immediate.is_some()));
        read_inline(arrival.cell, skip, inline);
        if !rest.is_empty() {
            read_spill(self.memory.get().spill, arrival.place.spill_at, rest);
        }
    }

    /// Takes messages that are like one that was just taken out of the lane (same length, same tag, no immediate data), for
    /// as long as there are any and `to` has room: one every `stride` bytes. Returns how many.
    #[inline(always)]
    pub fn take_run(&self, like: &Arrival<'_>, to: &mut [u8], stride: usize) -> u32 {
        if like.envelope.immediate.is_some() || stride < like.length.max(1) {
            return 0;
        }
        let memory = self.memory.get();
        let mask = self.cell_mask.get();
        let bits =
            if like.envelope.tag.is_some() { flags::VALID | flags::TAGGED } else { flags::VALID };
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
            let alike = found & !OWN_LINE;
            if alike != Head::pack(sequence(head), like.length, bits)
                || tag_word.load(Ordering::Relaxed) != tag
            {
                break;
            }
            let own_line = if found == alike { 0 } else { flags::OWN_LINE };
            let place = place(like.length, bits | own_line, spill);
            let (inline, rest) = room.split_at_mut_checked(place.inline_bytes).unwrap_or_default();
            read_inline(cell, PAYLOAD_WORD, inline);
            if place.spill_end != spill {
                let rest_bytes = like.length.wrapping_sub(place.inline_bytes);
                let rest = rest.get_mut(..rest_bytes).unwrap_or_default();
                read_spill(memory.spill, place.spill_at, rest);
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
    pub fn advance(&self, arrival: &Arrival<'_>) {
        self.move_to(self.head.get().wrapping_add(1), arrival.place.spill_end);
    }

    #[inline(always)]
    fn move_to(&self, head: u64, spill_head: u64) {
        self.idle_word.set(NO_WORD);
        self.spill_used.set(spill_head != self.spill_head.get());
        self.head.set(head);
        self.spill_head.set(spill_head);
        let [cells, spill_bytes] = &self.quarters;
        if head.wrapping_sub(self.returned.get()) >= cells.get()
            || spill_head.wrapping_sub(self.spill_returned.get()) >= spill_bytes.get()
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

/// Copies what of a message is in its cell, from word `skip` on.
#[inline(always)]
fn read_inline(cell: &Line, skip: usize, to: &mut [u8]) {
    let Ok(full) = <&mut [u8; CELL_INLINE_BYTES]>::try_from(&mut *to) else {
        return read_words(cell.words().get(skip..).unwrap_or_default(), to);
    };
    // A full cell has no immediate data: word by word, without a loop.
    let [_, _, words @ ..] = cell.words();
    for (bytes, word) in full.as_chunks_mut::<WORD_BYTES>().0.iter_mut().zip(words) {
        *bytes = word.load(Ordering::Relaxed).to_le_bytes();
    }
}

/// Copies `to.len()` bytes of words; the last one may be needed in part.
#[inline(always)]
fn read_words(words: &[AtomicU64], to: &mut [u8]) {
    let (whole, partial) = to.as_chunks_mut::<WORD_BYTES>();
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
#[inline(always)]
pub(super) fn read_spill(spill: &[Line], at: u64, to: &mut [u8]) {
    let at = spill_index(spill, at);
    match words_of_line(spill, at, to.len()) {
        Some(words) => match (words, <&mut [u8; 2 * WORD_BYTES]>::try_from(&mut *to)) {
            // What a message of 64 bytes has here: without a loop.
            ([first, second, ..], Ok(pair)) => {
                let (low, high) = pair.split_at_mut(WORD_BYTES);
                low.copy_from_slice(&first.load(Ordering::Relaxed).to_le_bytes());
                high.copy_from_slice(&second.load(Ordering::Relaxed).to_le_bytes());
            }
            _ => read_words(words, to),
        },
        None => read_spill_lines(spill, at, to),
    }
}

/// Copies `to.len()` bytes from byte `at` of the ring on, and from its start on where that is beyond the end.
#[inline(never)]
fn read_spill_lines(spill: &[Line], at: usize, to: &mut [u8]) {
    let whole = spill.len().wrapping_mul(LINE_BYTES).wrapping_sub(at).min(to.len());
    let (first, second) = to.split_at_mut_checked(whole).unwrap_or_default();
    let read =
        line::copy_out(spill, at, first) && (second.is_empty() || line::copy_out(spill, 0, second));
    debug_assert!(read, "message_bytes_max is at most half of the ring");
}
