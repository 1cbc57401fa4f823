//! Messages of several parts: gathered from where they are into the lane, and scattered out of it, byte by byte once.
//!
//! ```text
//!   parts    | a a a |   | b b b b b b b b b b b |   | c |
//!   words    | a a a b b b b b | b b b b b b c . |            a word that parts share is put together before it is written
//! ```
//!
//! Shared memory is words: [`line::pour`] puts together those that parts share.

use super::tx::{Staged, write_cell, write_spill, write_words};
use core::cell::Cell;

use super::{
    Arrival, Envelope, LaneMemory, LaneRx, LaneTx, PAYLOAD_WORD, Place, read_spill, spill_index,
};
use crate::error::{Misuse, PostError};
use crate::raw::line::{self, Line, WORD_BYTES};
use spinwire_layouts::word::from_usize;

impl LaneTx<'_> {
    /// [`LaneTx::stage`] for a message whose bytes are those of `parts`, one behind the other: `length` in all.
    ///
    /// # Errors
    /// As there; `BadRange` where they are not as many. Nothing was consumed.
    pub fn stage_parts(
        &self,
        length: usize,
        parts: impl Iterator<Item = impl AsRef<[u8]>> + Clone,
        envelope: Envelope,
    ) -> Result<(), PostError> {
        let bytes =
            parts.clone().try_fold(0, |sum: usize, part| sum.checked_add(part.as_ref().len()));
        if bytes != Some(length) {
            return Err(Misuse::BadRange.into());
        }
        self.stage_bytes(length, Parts(parts), envelope, 0)
    }
}

/// What a message is gathered from.
struct Parts<I>(I);

impl<I: Iterator<Item = B>, B: AsRef<[u8]>> Staged for Parts<I> {
    fn write(self, cell: &Line, memory: &Cell<LaneMemory<'_>>, place: Place, envelope: Envelope) {
        write_cell(cell, &[], envelope, 0);
        let spill = memory.get().spill;
        let skip = PAYLOAD_WORD.wrapping_add(usize::from(envelope.immediate.is_some()));
        Sink { cell, skip, spill, place }.pour(self.0);
    }
}

/// Where the bytes of a message lie in its lane.
struct Sink<'a> {
    cell: &'a Line,
    /// The word of the cell with the first bytes of the message.
    skip: usize,
    spill: &'a [Line],
    place: Place,
}

impl Sink<'_> {
    fn pour(&self, parts: impl Iterator<Item = impl AsRef<[u8]>>) {
        line::pour(parts, |at, bytes| self.put(at, bytes));
    }

    /// Writes bytes from position `at` of the message on, a multiple of 8.
    fn put(&self, at: usize, bytes: &[u8]) {
        let inline = self.place.inline_bytes.saturating_sub(at);
        let (inline, rest) = bytes.split_at_checked(inline).unwrap_or((bytes, &[]));
        if !inline.is_empty() {
            let first = self.skip.wrapping_add(at / WORD_BYTES);
            write_words(self.cell.words().get(first..).unwrap_or_default(), inline);
        }
        if !rest.is_empty() {
            let beyond = at.wrapping_add(inline.len()).wrapping_sub(self.place.inline_bytes);
            write_spill(self.spill, self.place.spill_at.wrapping_add(from_usize(beyond)), rest);
        }
    }
}

impl LaneRx<'_> {
    /// Copies the bytes of the message at the front from byte `from` of it on, as many as `to` has.
    #[cold]
    pub fn copy_out_part(&self, arrival: &Arrival<'_>, from: usize, to: &mut [u8]) {
        debug_assert!(from.saturating_add(to.len()) <= arrival.length, "bytes of the message");
        let skip = PAYLOAD_WORD.wrapping_add(usize::from(arrival.envelope.immediate.is_some()));
        let inline_bytes = arrival.place.inline_bytes;
        let inline = inline_bytes.saturating_sub(from).min(to.len());
        let (inline, rest) = to.split_at_mut_checked(inline).unwrap_or_default();
        if !inline.is_empty() {
            let cell = core::slice::from_ref(arrival.cell);
            copy_from(skip.wrapping_mul(WORD_BYTES).wrapping_add(from), inline, |at, to| {
                line::copy_out(cell, at, to)
            });
        }
        if !rest.is_empty() {
            let memory = self.memory.get();
            let beyond = from.wrapping_add(inline.len()).wrapping_sub(inline_bytes);
            let at = arrival.place.spill_at.wrapping_add(from_usize(beyond));
            copy_from(spill_index(memory.spill, at), rest, |at, to| {
                read_spill(memory.spill, from_usize(at), to);
                true
            });
        }
    }
}

/// Copies from byte `at` on, where `copy` can from whole words on only.
fn copy_from(at: usize, to: &mut [u8], copy: impl FnMut(usize, &mut [u8]) -> bool) {
    let copied = line::copy_from(at, to, copy);
    debug_assert!(copied, "it lies in the lane");
}

#[cfg(all(test, not(loom)))]
mod tests {
    extern crate std;
    use super::super::{Carried, LaneMemory};
    use super::*;
    use std::vec::Vec;

    const LONGEST: usize = 600;

    fn lines(count: usize) -> Vec<Line> {
        (0..count).map(|_| Line::zeroed()).collect()
    }

    /// Every cut of a message into three parts, of lengths around everything that has an edge, at every place of the ring: what comes out in one
    /// piece and in any three is what went in.
    #[test]
    fn whatever_the_cuts_the_bytes_are_the_same() {
        let (cells, spill, credit) = (lines(8), lines(32), Line::zeroed());
        let memory = LaneMemory { cells: &cells, spill: &spill, credit: &credit };
        let bytes: Vec<u8> = (1..=251).cycle().take(LONGEST).collect();
        let edges = [0, 1, 7, 8, 9, 39, 40, 41, 47, 48, 49, 63, 64, 100, 557, LONGEST];
        let (mut spill_bytes, mut tried) = (0, 0);
        for length in edges {
            for first in edges.into_iter().filter(|first| *first <= length) {
                for second in edges.into_iter().filter(|second| first + second <= length) {
                    for immediate in [None, Some(9)] {
                        let carried = Carried { cells: tried, spill_bytes };
                        let (tx, rx) = carried.ends(memory, LONGEST);
                        let envelope = Envelope { tag: Some(tried), immediate };
                        let (a, rest) = bytes[..length].split_at(first);
                        let (b, c) = rest.split_at(second);
                        tx.stage_parts(length, [a, b, c].into_iter(), envelope).unwrap();
                        assert_eq!(tx.publish(), 1);
                        let arrival = rx.peek().unwrap().unwrap();
                        assert_eq!((arrival.length, arrival.envelope), (length, envelope));
                        let mut whole = std::vec![0xEE; length];
                        rx.copy_out(&arrival, &mut whole);
                        assert!(whole == bytes[..length], "{length}: {first}, {second}");
                        let mut parts = std::vec![0xEE; length + 1];
                        let cut = parts.split_at_mut(second);
                        rx.copy_out_part(&arrival, 0, cut.0);
                        let (middle, last) = cut.1[..length - second].split_at_mut(first);
                        rx.copy_out_part(&arrival, second, middle);
                        rx.copy_out_part(&arrival, second + first, last);
                        assert!(parts[..length] == bytes[..length], "{length}: {first}, {second}");
                        assert_eq!(parts[length], 0xEE);
                        (spill_bytes, tried) = (spill_bytes + 16, tried + 1);
                    }
                }
            }
        }
        assert!(tried > 1000, "{tried}");
    }

    #[test]
    fn parts_that_are_not_the_length_are_refused() {
        let (cells, spill, credit) = (lines(8), lines(32), Line::zeroed());
        let memory = LaneMemory { cells: &cells, spill: &spill, credit: &credit };
        let (tx, _rx) = Carried::default().ends(memory, LONGEST);
        for length in [0, 4, 6] {
            let parts = [&[1, 2][..], &[3, 4, 5]].into_iter();
            let refused = tx.stage_parts(length, parts, Envelope::default());
            assert_eq!(refused, Err(Misuse::BadRange.into()));
        }
        assert_eq!((tx.staged(), tx.publish()), (0, 0));
    }
}
