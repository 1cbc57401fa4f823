//! Compressed queues: many completions in few entries.
//!
//! ```text
//!   basic      ci: title of n      1: array of 8    2 .. 7: nothing    8: array of 8   ..     n entries taken in all
//!   enhanced   ci: plain one, which is the title of what follows; then arrays, each of 1 to 7, each taking as many entries
//! ```
//!
//! In a basic queue the device writes only some of the entries that a title stands for. The others still hold what they held a
//! lap ago, and would look valid in the next one. So each is set to invalid here when it is taken. In an enhanced queue an entry is
//! ours where its signature is the count of laps, which an old one does not have; nothing is written.
//!
//! Each completion has an entry of its own, whether the device has written to that or not. So what is compressed can be written out where it
//! lies, as is done where some of it has to be told from the rest ([`discard`](super::discard)):
//!
//! ```text
//!   basic      title of 10 | 0..7 | nothing ..  | 8, 9 | nothing      -->   0 | 1 | 2 | .. | 9         an array is copied before
//!   enhanced   plain | 0..2 | nothing | nothing                       -->   plain | 0 | 1 | 2          its entry is written
//! ```
//!
//! Invariants: a title is copied before its entry is freed; a title or array that cannot be is [`Odd`](super::Odd) and takes one
//! entry; `left` counts down, so every title ends.

use core::cell::Cell;

use spinwire_layouts::mlx5::cqe::{FORMAT, MINIS_BASIC, MINIS_ENHANCED, OWNER, Tail, halves};
use spinwire_layouts::mlx5::cqe_op;
use spinwire_layouts::word::{to_usize, widen};

use super::entry::{Body, Cqe, Done, Short, ShortInfo, WORDS, decode, is_compressed, load, odd};
use super::queue::{Cq, tail};
use crate::raw::line::Line;
use crate::raw::mmio::Bus;
use crate::sync::Ordering;

/// Whether completions come in short form where they can.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Compression {
    /// They do not.
    Off,
    /// As all devices that can do it at all: titles and arrays of 8, valid by owner bit.
    Basic(MiniFormat),
    /// As newer ones: arrays of up to 7, valid by count of laps.
    Enhanced(MiniFormat),
}

/// What the short form of a receive says beside the count of bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum MiniFormat {
    /// The hash over the headers (`MLX5DV_CQE_RES_FORMAT_HASH`). WQE counters are taken to follow each other.
    Hash,
    /// The checksum (`MLX5DV_CQE_RES_FORMAT_CSUM`). WQE counters are taken to follow each other.
    Checksum,
    /// Checksum and WQE counter or stride (`MLX5DV_CQE_RES_FORMAT_CSUM_STRIDX`): the one for shared receive queues.
    ChecksumStride,
}

/// What is under way of a compressed queue.
#[derive(Debug, Default)]
pub(super) struct Session {
    short: Short,
    has_title: Cell<bool>,
    /// Of the receive that comes next.
    wqe_counter: Cell<u16>,
    minis: [Cell<u64>; WORDS],
    /// Short ones taken of this title (basic) or array (enhanced).
    taken: Cell<u32>,
    /// Short ones not taken yet.
    left: Cell<u32>,
}

impl Session {
    fn set_title(&self, line: &Line) {
        copy(line, &self.short.title);
        self.has_title.set(true);
    }

    /// What comes in short form next has this one as its title.
    fn follow(&self, line: &Line, tail: Tail) {
        self.set_title(line);
        self.wqe_counter.set(tail.wqe_counter.wrapping_add(1));
    }

    const fn title(&self) -> Tail {
        let [.., last] = &self.short.title;
        Tail::unpack(last.get())
    }

    fn begin(&self, count: u32) {
        self.taken.set(0);
        self.left.set(count);
    }

    /// The next short one, whose entry is `line`. In a basic queue it is that of the next array, too, where there is one.
    fn mini_in(&self, line: &Line) -> u64 {
        let taken = to_usize(widen(self.taken.get()));
        let within = taken & (MINIS_BASIC - 1);
        if taken > 0 && within == 0 {
            copy(line, &self.minis);
        }
        self.minis.get(within).map_or(0, Cell::get)
    }

    /// It was taken.
    fn advance(&self) {
        self.wqe_counter.set(self.wqe_counter.get().wrapping_add(1));
        self.taken.set(self.taken.get().wrapping_add(1));
        self.left.set(self.left.get().wrapping_sub(1));
    }
}

fn copy(line: &Line, to: &[Cell<u64>; WORDS]) {
    for (to, from) in to.iter().zip(line.words()) {
        to.set(from.load(Ordering::Relaxed));
    }
}

/// Whether a completion of that kind may have a short form.
const fn may_be_short(tail: Tail) -> bool {
    tail.opcode() <= cqe_op::RESP_SEND_INV
}

impl<B: Bus> Cq<'_, B> {
    /// The next completion, where there is one.
    pub(super) fn next_compressed(&self) -> Option<Cqe<'_>> {
        if self.session.left.get() > 0 {
            return self.next_short();
        }
        let ci = self.ci.get();
        let line = self.ring().slot(ci)?;
        if !self.is_ours(tail(line), ci) {
            return None;
        }
        self.wait_for_device();
        let tail = tail(line);
        if is_compressed(tail) && self.begin_short(ci, line, tail).is_some() {
            return self.next_short();
        }
        self.ci.set(ci.wrapping_add(1));
        if is_compressed(tail) {
            return Some(Cqe::Odd(odd(tail)));
        }
        if matches!(self.compression, Compression::Enhanced(_)) {
            self.session.follow(line, tail);
        }
        Some(decode(Done { tail: tail.pack(), body: Body::Entry(line), before: None }))
    }

    const fn is_ours(&self, tail: Tail, ci: u32) -> bool {
        if matches!(self.compression, Compression::Enhanced(_)) {
            let fresh = !is_compressed(tail) && tail.opcode() == cqe_op::INVALID;
            return tail.signature == self.ring().lap(ci) && !fresh;
        }
        self.ring().is_owned(tail.op_own, ci)
    }

    /// Begins with a title (basic) or an array (enhanced). `None` where it makes no sense.
    fn begin_short(&self, ci: u32, line: &Line, tail: Tail) -> Option<()> {
        let session = &self.session;
        if matches!(self.compression, Compression::Enhanced(_)) {
            let count = u32::from(tail.opcode()).wrapping_add(1);
            let fits = to_usize(widen(count)) <= MINIS_ENHANCED && count <= self.entries();
            if !fits || !session.has_title.get() || !may_be_short(session.title()) {
                return None;
            }
            copy(line, &session.minis);
            session.begin(count);
            return Some(());
        }
        let count = halves(load(line, 5)).1;
        if count == 0 || count > self.entries() || !may_be_short(tail) {
            return None;
        }
        session.set_title(line);
        session.wqe_counter.set(tail.wqe_counter);
        let minis = self.ring().slot(ci.wrapping_add(1))?;
        copy(minis, &session.minis);
        session.begin(count);
        Some(())
    }

    fn next_short(&self) -> Option<Cqe<'_>> {
        let session = &self.session;
        let ci = self.ci.get();
        let line = self.ring().slot(ci)?;
        let mini = session.mini_in(line);
        if let Compression::Basic(_) = self.compression {
            self.invalidate(ci, line);
        }
        let (tail, info) = self.expand(mini, session.wqe_counter.get());
        self.ci.set(ci.wrapping_add(1));
        session.advance();
        session.short.bytes.set(halves(mini).1);
        session.short.info.set(info);
        Some(decode(Done { tail: tail.pack(), body: Body::Short(&session.short), before: None }))
    }

    /// An entry that the device may not have written looks, in the next lap, as if it had, were it not for this.
    fn invalidate(&self, ci: u32, line: &Line) {
        let [.., last] = line.words();
        let tail = Tail::unpack(last.load(Ordering::Relaxed));
        let op_own = (cqe_op::INVALID << 4) | self.ring().lap(ci) & OWNER;
        last.store(Tail { op_own, ..tail }.pack(), Ordering::Relaxed);
    }

    /// What a short one says in the last word of a whole one, and what there is no room for in that. `counter` where it names none itself.
    const fn expand(&self, mini: u64, counter: u16) -> (Tail, Option<ShortInfo>) {
        let (info, _bytes) = halves(mini);
        let mut tail = self.session.title();
        tail.op_own &= !FORMAT;
        let [a, b, opcode, d] = info.to_be_bytes();
        if tail.opcode() == cqe_op::REQ {
            tail.wqe_counter = u16::from_be_bytes([a, b]);
            tail.wqe_opcode = opcode;
            return (tail, None);
        }
        tail.wqe_counter = counter;
        let info = match self.compression {
            Compression::Basic(MiniFormat::ChecksumStride)
            | Compression::Enhanced(MiniFormat::ChecksumStride) => {
                tail.wqe_counter = u16::from_be_bytes([opcode, d]);
                ShortInfo::Checksum(u16::from_be_bytes([a, b]))
            }
            Compression::Basic(MiniFormat::Checksum)
            | Compression::Enhanced(MiniFormat::Checksum) => {
                ShortInfo::Checksum(u16::from_be_bytes([a, b]))
            }
            Compression::Off
            | Compression::Basic(MiniFormat::Hash)
            | Compression::Enhanced(MiniFormat::Hash) => ShortInfo::Hash(info),
        };
        (tail, Some(info))
    }

    /// Writes out all that is there in short form. The index behind the last one that the device has written.
    #[cold]
    pub(super) fn write_out(&self) -> u32 {
        let (session, first) = (&self.session, self.ci.get());
        let mut at = first;
        if session.left.get() > 0 {
            at = self.write_out_rest(at);
        }
        while at.wrapping_sub(first) < self.entries() {
            let Some(line) = self.ring().slot(at).filter(|line| self.is_ours(tail(line), at))
            else {
                break;
            };
            self.wait_for_device();
            let tail = tail(line);
            if is_compressed(tail) && self.begin_short(at, line, tail).is_some() {
                let end = at.wrapping_sub(first).saturating_add(session.left.get());
                if end > self.entries() {
                    // It would stand for entries that were not free, and is left to be taken, one by one.
                    session.begin(0);
                    break;
                }
                at = self.write_out_rest(at);
                continue;
            }
            if !is_compressed(tail) && matches!(self.compression, Compression::Enhanced(_)) {
                session.follow(line, tail);
            }
            at = at.wrapping_add(1);
        }
        at
    }

    /// Writes out what is left of the title or array whose next entry has index `at`. The index behind it.
    fn write_out_rest(&self, mut at: u32) -> u32 {
        let session = &self.session;
        while session.left.get() > 0 {
            if let Some(line) = self.ring().slot(at) {
                let mini = session.mini_in(line);
                self.write_one(line, self.expand(mini, session.wqe_counter.get()).0, mini, at);
            }
            session.advance();
            at = at.wrapping_add(1);
        }
        at
    }

    /// Makes a whole one of a short one, in the entry of index `at`.
    fn write_one(&self, line: &Line, tail: Tail, mini: u64, at: u32) {
        for (word, from) in line.words().iter().zip(&self.session.short.title) {
            word.store(from.get(), Ordering::Relaxed);
        }
        let [.., bytes, _, last] = line.words();
        let [a, b, c, d, ..] = bytes.load(Ordering::Relaxed).to_le_bytes();
        let [.., e, f, g, h] = mini.to_le_bytes();
        bytes.store(u64::from_le_bytes([a, b, c, d, e, f, g, h]), Ordering::Relaxed);
        last.store(self.valid_at(tail, at).pack(), Ordering::Relaxed);
    }

    /// As the last word of the entry of index `at` has to be in this lap.
    pub(super) const fn valid_at(&self, tail: Tail, at: u32) -> Tail {
        let lap = self.ring().lap(at);
        let signature =
            if let Compression::Enhanced(_) = self.compression { lap } else { tail.signature };
        Tail { op_own: tail.op_own & !OWNER | lap & OWNER, signature, ..tail }
    }
}
