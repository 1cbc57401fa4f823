//! Completions, as a device writes them.
//!
//! ```text
//!   64 bytes    ..  32 queue or index of the user  36 immediate  44 bytes  48 time  56 opcode 8 queue 24  60 counter  62 .  63 owner
//!   an error    everything of no meaning but   54 vendor  55 syndrome  56 (opcode) queue  60 counter  63 owner
//!   owner       opcode 4 | where the data is 2 | solicited 1 | lap of the ring, lowest bit
//!   128 bytes   64 of data, then as above
//! ```
//!
//! What has no meaning is random, so that whoever reads it finds out. The last eight bytes, with the owner, are written last.

use std::collections::VecDeque;

use spinwire_dataplane::raw::line::{LINE_BYTES, LINE_WORDS, Line};
use spinwire_dataplane::sync::AtomicU32;

use super::bytes::{read_record, write_lines};
use super::fault::{Fault, Syndrome};
use crate::rng::Rng;

/// Opcodes of completions (mlx5dv.h, `MLX5_CQE_*`).
pub mod cqe {
    #![allow(missing_docs, reason = "the names are the manual's")]
    pub const REQ: u8 = 0;
    pub const RESP_WR_IMM: u8 = 1;
    pub const RESP_SEND: u8 = 2;
    pub const RESP_SEND_IMM: u8 = 3;
    pub const RESP_SEND_INV: u8 = 4;
    pub const REQ_ERR: u8 = 13;
    pub const RESP_ERR: u8 = 14;
}

/// What a device is told of a completion queue.
#[derive(Clone, Copy, Debug)]
pub struct CqPlan<'m> {
    /// Its number.
    pub number: u32,
    /// The entries, a power of two of them.
    pub ring: &'m [Line],
    /// 64 or 128.
    pub cqe_bytes: usize,
    /// The record: how many were consumed, 24 bits, in its first 32.
    pub record: &'m [AtomicU32; 2],
    /// Runs of receives of one queue pair are written short (mini entries with counter and length).
    pub compress: bool,
}

/// What has completed.
#[derive(Clone, Debug)]
pub(super) enum Outcome {
    /// A request: its opcode, bytes that came back, those of them that are in the entry.
    Sent { opcode: u8, bytes: u32, inline: Vec<u8> },
    /// A receive.
    Received { kind: u8, imm: [u8; 4], solicited: bool, from: u32, bytes: u32, inline: Vec<u8> },
    /// An error of a request, or of a receive.
    Failed { kind: u8, syndrome: Syndrome },
}

/// A completion that is to be written.
#[derive(Clone, Debug)]
pub(super) struct Completion {
    pub(super) qpn: u32,
    /// The shared queue that the receive came from, or 0.
    pub(super) srqn: u32,
    pub(super) counter: u16,
    /// Requests up to here are done, when it is written.
    pub(super) retires: Option<u16>,
    pub(super) outcome: Outcome,
}

impl Completion {
    /// Whether data is in it.
    pub(super) const fn has_data(&self) -> bool {
        matches!(&self.outcome, Outcome::Sent { inline, .. } if !inline.is_empty())
    }
}

/// A completion queue.
#[derive(Debug)]
pub(super) struct Queue<'m> {
    pub(super) plan: CqPlan<'m>,
    /// Entries written, ever.
    pub(super) written: u32,
    /// Entries consumed, ever, as far as the record was seen.
    pub(super) consumed: u32,
    pub(super) pending: VecDeque<Completion>,
}

/// Where the data of a completion is.
const fn format_of(inline: &[u8]) -> u8 {
    match inline.len() {
        0 => 0,
        1..=32 => 1,
        _ => 2,
    }
}

impl<'m> Queue<'m> {
    pub(super) fn new(plan: CqPlan<'m>) -> Self {
        let entries = plan.ring.len() * LINE_BYTES / plan.cqe_bytes;
        assert!(entries.is_power_of_two() && matches!(plan.cqe_bytes, 64 | 128));
        Self { plan, written: 0, consumed: 0, pending: VecDeque::new() }
    }

    /// Entries that it holds.
    pub(super) fn entries(&self) -> u32 {
        let entries = self.plan.ring.len() * LINE_BYTES / self.plan.cqe_bytes;
        u32::try_from(entries).unwrap()
    }

    /// Most bytes of data in an entry.
    pub(super) const fn inline_max(&self) -> usize {
        if self.plan.cqe_bytes == 128 { 64 } else { 32 }
    }

    /// Looks at the record of the consumer.
    pub(super) fn listen(&mut self) -> Result<(), Fault> {
        let record = read_record(&self.plan.record[0]);
        if record >> 24 != 0 {
            return Err(Fault::RecordTooWide);
        }
        let moved = record.wrapping_sub(self.consumed) & 0xFF_FFFF;
        if moved > self.written.wrapping_sub(self.consumed) {
            return Err(Fault::CqRecord);
        }
        self.consumed = self.consumed.wrapping_add(moved);
        Ok(())
    }

    /// Where the next entry of 64 bytes lies, and its owner bit.
    fn next(&self, ahead: u32) -> (usize, u8) {
        let number = self.written.wrapping_add(ahead);
        let (entries, bytes) = (self.entries(), self.plan.cqe_bytes);
        let at = usize::try_from(number % entries).unwrap() * bytes + bytes - 64;
        (at, u8::from(number & entries != 0))
    }

    fn room(&self) -> u32 {
        self.entries() - self.written.wrapping_sub(self.consumed)
    }

    /// Scribbles over the part of the next entry that is not yet valid, as a device that writes it in pieces.
    pub(super) fn scribble(&self, rng: &mut Rng) {
        if self.room() > 0 {
            let (at, _) = self.next(0);
            self.write(at, &core::array::from_fn::<_, 7, _>(|_| rng.word()));
        }
    }

    fn write(&self, at: usize, words: &[u64]) {
        for (number, word) in words.iter().enumerate() {
            write_lines(self.plan.ring, at + number * 8, &word.to_le_bytes());
        }
    }

    /// Writes the next completion. What was written, or nothing if there is no room.
    pub(super) fn write_next(&mut self, rng: &mut Rng) -> Result<Vec<Completion>, Fault> {
        // The record may have moved since.
        self.listen()?;
        let run = self.run();
        let count = u32::try_from(run).unwrap();
        if self.room() < count.max(1) {
            return Err(Fault::CqOverrun);
        }
        if run >= 2 {
            return Ok(self.write_run(run, rng));
        }
        let Some(completion) = self.pending.pop_front() else { return Ok(Vec::new()) };
        let (at, owner) = self.next(0);
        let (entry, data) = entry_of(&completion, owner, rng);
        if let Some(data) = data {
            write_lines(self.plan.ring, at - 64, &data);
        }
        let (words, _) = entry.as_chunks::<8>();
        let words: Vec<u64> = words.iter().map(|word| u64::from_le_bytes(*word)).collect();
        self.write(at, &words);
        self.written = self.written.wrapping_add(1);
        Ok(vec![completion])
    }

    /// Receives of one queue pair in a row that differ in length only, as far as one block of mini entries goes.
    fn run(&self) -> usize {
        let Some(first) = self.pending.front().filter(|_| self.plan.compress) else { return 0 };
        let same = |completion: &&Completion| {
            let plain = |outcome: &Outcome| match outcome {
                Outcome::Received { kind, solicited, from, inline, .. } => {
                    inline.is_empty().then_some((*kind, *solicited, *from))
                }
                Outcome::Sent { .. } | Outcome::Failed { .. } => None,
            };
            let same = (completion.qpn, completion.srqn) == (first.qpn, first.srqn);
            let (one, other) = (plain(&completion.outcome), plain(&first.outcome));
            let short = matches!(other, Some((cqe::RESP_SEND, _, _)));
            same && short && one == other
        };
        let run = self.pending.iter().take(8).take_while(same);
        let mut length = 0;
        for (number, completion) in run.enumerate() {
            let number = u16::try_from(number).unwrap();
            // The counters of a run count up by one; of a shared queue they do not, and so are not written short.
            if completion.counter != first.counter.wrapping_add(number) || completion.srqn != 0 {
                break;
            }
            length += 1;
        }
        length
    }

    /// A title with the number of entries, then an entry of eight lengths; the places of the others stay as they are.
    fn write_run(&mut self, run: usize, rng: &mut Rng) -> Vec<Completion> {
        let done: Vec<Completion> = self.pending.drain(..run).collect();
        let (at, owner) = self.next(0);
        let (mut title, _) = entry_of(&done[0], owner, rng);
        let count = u32::try_from(run).unwrap();
        title[44..48].copy_from_slice(&count.to_be_bytes());
        title[63] |= 3 << 2;
        let (minis_at, _) = self.next(1);
        let mut minis = [0; LINE_BYTES];
        for (mini, completion) in minis.chunks_exact_mut(8).zip(&done) {
            let Outcome::Received { bytes, .. } = completion.outcome else { continue };
            mini[..4].copy_from_slice(&count_bits(rng));
            mini[4..].copy_from_slice(&bytes.to_be_bytes());
        }
        for (bytes, at) in [(minis, minis_at), (title, at)] {
            let words: Vec<u64> =
                bytes.as_chunks::<8>().0.iter().map(|word| u64::from_le_bytes(*word)).collect();
            assert_eq!(words.len(), LINE_WORDS);
            self.write(at, &words);
        }
        self.written = self.written.wrapping_add(count);
        done
    }
}

fn count_bits(rng: &mut Rng) -> [u8; 4] {
    rng.word().to_le_bytes()[..4].try_into().unwrap()
}

/// The 64 bytes of an entry, and the 64 before it where the data is there.
fn entry_of(
    completion: &Completion,
    owner: u8,
    rng: &mut Rng,
) -> ([u8; LINE_BYTES], Option<[u8; LINE_BYTES]>) {
    let mut entry = [0; LINE_BYTES];
    for chunk in entry.chunks_exact_mut(8) {
        chunk.copy_from_slice(&rng.word().to_le_bytes());
    }
    let mut data = None;
    entry[32..36].copy_from_slice(&completion.srqn.to_be_bytes());
    entry[60..62].copy_from_slice(&completion.counter.to_be_bytes());
    entry[57..60].copy_from_slice(&completion.qpn.to_be_bytes()[1..]);
    let (kind, bytes, inline, solicited) = match &completion.outcome {
        Outcome::Sent { opcode, bytes, inline } => {
            entry[56] = *opcode;
            (cqe::REQ, *bytes, inline.as_slice(), false)
        }
        Outcome::Received { kind, imm, solicited, from, bytes, inline } => {
            entry[24..28].copy_from_slice(&from.to_be_bytes());
            entry[40] = 0;
            if *kind != cqe::RESP_SEND {
                entry[36..40].copy_from_slice(imm);
            }
            (*kind, *bytes, inline.as_slice(), *solicited)
        }
        Outcome::Failed { kind, syndrome } => {
            entry[55] = syndrome.code();
            // Where data would be means nothing here; but short forms are told by it before anything else is looked at.
            let bits = if entry[63] & 0xC == 0xC { 2 } else { 0xE };
            entry[63] = kind << 4 | entry[63] & bits | owner;
            return (entry, None);
        }
    };
    entry[44..48].copy_from_slice(&bytes.to_be_bytes());
    entry[63] = kind << 4 | format_of(inline) << 2 | u8::from(solicited) << 1 | owner;
    match inline.len() {
        0 => {}
        1..=32 => entry[..inline.len()].copy_from_slice(inline),
        length => {
            let mut all = [0; LINE_BYTES];
            all[..length].copy_from_slice(inline);
            data = Some(all);
        }
    }
    (entry, data)
}
