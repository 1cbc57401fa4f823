//! Messages of several parts: gathered into slots, and scattered out of them, byte by byte once.
//!
//! ```text
//!   parts    | a a a |   | b b b b b b b b b b b b b b b b b |   | c |
//!   pieces   | header | a a a b b b b b b b b |    | b b b b b b b b b c |      what goes is what goes of a message in one range
//! ```
//!
//! They are always copied: to gather them from where they lie every work request would need room for as many segments as there may be parts.

use spinwire_layouts::word::{to_usize, widen};

use super::link::{Aim, Done, Link, Piece};
use super::memory::{Slots, short};
use super::piece::{self, Content, HEADER_BYTES};
use super::port::RdmaPort;
use crate::error::PostError;
use crate::msg::matching::{Incoming, Landing};
use crate::provider::{SendPartsWr, Sge, Status};
use crate::raw::line;
use crate::raw::region::Registrar;
use crate::shm::lane::Envelope;
use crate::verbs::{CompletionQueue, QueuePair, Verb};

impl<K: Copy> Slots<'_, K> {
    /// Writes bytes `from..until` of the message that `parts` are into a slot, from `at` on, a multiple of 8.
    pub(super) fn gather(
        &self,
        (slot, at): (u32, usize),
        parts: &[Sge],
        (from, until): (usize, usize),
    ) {
        let mut start = 0_usize;
        let pieces = parts.iter().map(|part| {
            let bytes = part.bytes();
            let (first, behind) = (from.saturating_sub(start), until.saturating_sub(start));
            start = start.saturating_add(bytes.len());
            bytes.get(first.min(bytes.len())..behind.min(bytes.len())).unwrap_or_default()
        });
        line::pour(pieces, |position, bytes| self.write(slot, at.saturating_add(position), bytes));
    }
}

impl<'m, Q: QueuePair, C: CompletionQueue, X: Registrar> RdmaPort<'m, Q, C, X> {
    /// Stages a message of several parts, `length` bytes in all, on a link that is up. Nothing is consumed where it does not go whole.
    pub(super) fn stage_parts(
        &self,
        (at, link): (u32, &'m Link<'m, Q>),
        wr: &SendPartsWr<'_>,
        length: usize,
    ) -> Result<(), PostError> {
        let envelope = Envelope { tag: wr.tag, immediate: wr.immediate };
        let content = Content::Message { length: short(length), envelope };
        let pieces = self.admit(link, short(length))?;
        let piece = to_usize(widen(link.piece_bytes.get()));
        let mut from = 0_usize;
        for number in 0..pieces {
            let slot = link.next_slot();
            let is_first = number == 0;
            let start = if is_first { HEADER_BYTES } else { 0 };
            if is_first {
                let header = piece::write(link.sequence_out.get(), content, link.grant());
                self.slots.write(slot, 0, &header);
            }
            let until = from.saturating_add(piece.saturating_sub(start)).min(length);
            self.slots.gather((slot, start), wr.parts, (from, until));
            let bytes = short(until.saturating_sub(from).saturating_add(start));
            let segments = [self.slots.segment(slot, bytes)];
            let is_last = number.wrapping_add(1) == pieces;
            let (what, done) = ((Verb::Send, Aim::Connected), (Done::Nobody, is_last));
            if let Err(refused) = link.stage_send(what, &segments, done) {
                return self.refused((at, link), refused, (is_first, Done::Nobody));
            }
            if is_first {
                self.spend(link);
            }
            link.credit.set(link.credit.get().saturating_sub(1));
            from = until;
        }
        self.soil(at, link);
        self.finish_send(wr.wr_id, Status::Success, 0);
        Ok(())
    }

    /// Copies the oldest message of a link, which begins with that piece, to the several places where it belongs.
    #[cold]
    #[inline(never)]
    pub(super) fn scatter(
        &self,
        link: &Link<'m, Q>,
        first: Piece,
        (landing, message): (Landing, Incoming),
    ) {
        let copy = |from, to: &mut [u8]| self.copy_range(link, first, from, to);
        self.queues.matcher().scatter(&landing, (0, message.length), copy);
    }

    /// Copies bytes of the oldest message of a link, from byte `from` of it on.
    fn copy_range(&self, link: &Link<'m, Q>, first: Piece, from: usize, mut to: &mut [u8]) {
        let piece = to_usize(widen(link.piece_bytes.get())).max(HEADER_BYTES);
        // All pieces are full but the last, and in front of the first one's bytes is the header, if there is one.
        let mut at = from.saturating_add(to_usize(widen(first.start)));
        while !to.is_empty() {
            let number = short(at.checked_div(piece).unwrap_or(0));
            let skip = at.checked_rem(piece).unwrap_or(0);
            let here = piece.saturating_sub(skip).min(to.len());
            let (part, rest) = to.split_at_mut_checked(here).unwrap_or_default();
            let there = if number == 0 { Some(first) } else { link.arrived.peek(number) };
            if let Some(Piece { slot, .. }) = there {
                self.slots.read_from(slot, skip, part);
            }
            (at, to) = (at.saturating_add(here), rest);
        }
    }
}
