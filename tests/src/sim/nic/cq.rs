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

use spinwire_dataplane::raw::line::{LINE_BYTES, Line};
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

/// How runs of receives are written: in short entries of 8 bytes, which say what differs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Short {
    /// Each has an entry of its own.
    Never,
    /// The first is a title that says how many there are; the next place has up to eight short ones, the other places of the run
    /// stay as they were. With counters in the short ones, or one after the other.
    Basic(Counters),
    /// A full one is the title of what follows; a place with up to seven short ones stands for as many. What is valid says a count of
    /// laps in each place (linux: `en_rx.c`, enhanced).
    Enhanced(Counters),
}

/// Where the number of a receive is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Counters {
    /// One more than the one before.
    Counted,
    /// In the short entry.
    Told,
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
    /// Whether runs of receives of one queue pair are written short.
    pub compress: Short,
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
    /// The title of what follows, and the counter that would come next.
    title: Option<(Completion, u16)>,
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
        Self { plan, written: 0, consumed: 0, pending: VecDeque::new(), title: None }
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
        match self.plan.compress {
            Short::Basic(_) if run >= 2 => return Ok(self.write_basic(run, rng)),
            Short::Enhanced(_) if run >= 1 => return Ok(self.write_enhanced(run, rng)),
            Short::Never | Short::Basic(_) | Short::Enhanced(_) => {}
        }
        let Some(completion) = self.pending.pop_front() else { return Ok(Vec::new()) };
        let (at, owner) = self.next(0);
        let (mut entry, data) = entry_of(&completion, owner, rng);
        if let Some(data) = data {
            write_lines(self.plan.ring, at - 64, &data);
        }
        if let Short::Enhanced(_) = self.plan.compress {
            entry[62] = self.lap();
        }
        self.write_block(at, &entry);
        self.written = self.written.wrapping_add(1);
        self.title = Some((completion.clone(), completion.counter.wrapping_add(1)));
        Ok(vec![completion])
    }

    /// The lap in which the next entry lies, of which eight bits are written.
    fn lap(&self) -> u8 {
        (self.written / self.entries()).to_le_bytes()[0]
    }

    fn write_block(&self, at: usize, bytes: &[u8; LINE_BYTES]) {
        let words: Vec<u64> =
            bytes.as_chunks::<8>().0.iter().map(|word| u64::from_le_bytes(*word)).collect();
        self.write(at, &words);
    }

    /// How many that wait can be written short: receives of one queue pair in a row that differ in length and counter only.
    fn run(&self) -> usize {
        let (first, next, most, counters) = match (self.plan.compress, self.pending.front()) {
            (Short::Basic(counters), Some(first)) => (first, first.counter, 8, counters),
            (Short::Enhanced(counters), Some(_)) => match &self.title {
                Some((title, next)) => (title, *next, 7, counters),
                None => return 0,
            },
            (Short::Never, _) | (_, None) => return 0,
        };
        let plain = |outcome: &Outcome| match outcome {
            Outcome::Received { kind, solicited, from, inline, .. } => {
                let short = *kind == cqe::RESP_SEND && inline.is_empty();
                short.then_some((*solicited, *from))
            }
            Outcome::Sent { .. } | Outcome::Failed { .. } => None,
        };
        if plain(&first.outcome).is_none() {
            return 0;
        }
        let fits = |(number, completion): &(usize, &Completion)| {
            let same = (completion.qpn, completion.srqn) == (first.qpn, first.srqn)
                && plain(&completion.outcome) == plain(&first.outcome);
            let counted = next.wrapping_add(u16::try_from(*number).unwrap());
            same && (counters == Counters::Told || completion.counter == counted)
        };
        self.pending.iter().take(most).enumerate().take_while(fits).count()
    }

    /// Short entries: checksum or hash, or the counter in its second half; and the length.
    fn minis(&self, done: &[Completion], rng: &mut Rng) -> [u8; LINE_BYTES] {
        let mut minis = [0; LINE_BYTES];
        for chunk in minis.chunks_exact_mut(8) {
            chunk.copy_from_slice(&rng.word().to_le_bytes());
        }
        let counters = match self.plan.compress {
            Short::Basic(counters) | Short::Enhanced(counters) => counters,
            Short::Never => Counters::Counted,
        };
        for (mini, completion) in minis.chunks_exact_mut(8).zip(done) {
            let Outcome::Received { bytes, .. } = completion.outcome else { continue };
            if counters == Counters::Told {
                mini[2..4].copy_from_slice(&completion.counter.to_be_bytes());
            }
            mini[4..].copy_from_slice(&bytes.to_be_bytes());
        }
        minis
    }

    /// A title with the number of entries, then a place of short ones; the places of the others stay as they are.
    fn write_basic(&mut self, run: usize, rng: &mut Rng) -> Vec<Completion> {
        let done: Vec<Completion> = self.pending.drain(..run).collect();
        let (at, owner) = self.next(0);
        let (mut title, _) = entry_of(&done[0], owner, rng);
        let count = u32::try_from(run).unwrap();
        title[44..48].copy_from_slice(&count.to_be_bytes());
        title[63] |= 3 << 2;
        let (minis_at, _) = self.next(1);
        let minis = self.minis(&done, rng);
        self.write_block(minis_at, &minis);
        self.write_block(at, &title);
        self.written = self.written.wrapping_add(count);
        done
    }

    /// A place of short ones, for as many.
    fn write_enhanced(&mut self, run: usize, rng: &mut Rng) -> Vec<Completion> {
        let done: Vec<Completion> = self.pending.drain(..run).collect();
        let (at, owner) = self.next(0);
        let mut minis = self.minis(&done, rng);
        minis[62] = self.lap();
        minis[63] = (u8::try_from(run).unwrap() - 1) << 4 | 3 << 2 | owner;
        self.write_block(at, &minis);
        self.written = self.written.wrapping_add(u32::try_from(run).unwrap());
        if let (Some((_, next)), Some(last)) = (&mut self.title, done.last()) {
            *next = last.counter.wrapping_add(1);
        }
        done
    }
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
