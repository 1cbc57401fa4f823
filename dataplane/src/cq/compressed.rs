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

    const fn title(&self) -> Tail {
        let [.., last] = &self.short.title;
        Tail::unpack(last.get())
    }

    fn begin(&self, count: u32) {
        self.taken.set(0);
        self.left.set(count);
    }

    fn next_counter(&self) -> u16 {
        let counter = self.wqe_counter.get();
        self.wqe_counter.set(counter.wrapping_add(1));
        counter
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
            self.session.set_title(line);
            self.session.wqe_counter.set(tail.wqe_counter.wrapping_add(1));
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
        let (ci, taken) = (self.ci.get(), session.taken.get());
        if let Compression::Basic(_) = self.compression {
            let line = self.ring().slot(ci)?;
            let within = to_usize(widen(taken)).checked_rem(MINIS_BASIC)?;
            if taken > 0 && within == 0 {
                copy(line, &session.minis);
            }
            self.invalidate(ci, line);
        }
        let mini = session.minis.get(to_usize(widen(taken)) & (MINIS_BASIC - 1))?.get();
        self.ci.set(ci.wrapping_add(1));
        session.taken.set(taken.wrapping_add(1));
        session.left.set(session.left.get().wrapping_sub(1));
        Some(self.expand(mini))
    }

    /// An entry that the device may not have written looks, in the next lap, as if it had, were it not for this.
    fn invalidate(&self, ci: u32, line: &Line) {
        let [.., last] = line.words();
        let tail = Tail::unpack(last.load(Ordering::Relaxed));
        let op_own = (cqe_op::INVALID << 4) | self.ring().lap(ci) & OWNER;
        last.store(Tail { op_own, ..tail }.pack(), Ordering::Relaxed);
    }

    fn expand(&self, mini: u64) -> Cqe<'_> {
        let session = &self.session;
        let (info, bytes) = halves(mini);
        let mut tail = session.title();
        tail.op_own &= !FORMAT;
        let [a, b, opcode, d] = info.to_be_bytes();
        let info = match self.compression {
            _ if tail.opcode() == cqe_op::REQ => {
                tail.wqe_counter = u16::from_be_bytes([a, b]);
                tail.wqe_opcode = opcode;
                None
            }
            Compression::Basic(MiniFormat::ChecksumStride)
            | Compression::Enhanced(MiniFormat::ChecksumStride) => {
                tail.wqe_counter = u16::from_be_bytes([opcode, d]);
                Some(ShortInfo::Checksum(u16::from_be_bytes([a, b])))
            }
            Compression::Basic(MiniFormat::Checksum)
            | Compression::Enhanced(MiniFormat::Checksum) => {
                tail.wqe_counter = session.next_counter();
                Some(ShortInfo::Checksum(u16::from_be_bytes([a, b])))
            }
            Compression::Off
            | Compression::Basic(MiniFormat::Hash)
            | Compression::Enhanced(MiniFormat::Hash) => {
                tail.wqe_counter = session.next_counter();
                Some(ShortInfo::Hash(info))
            }
        };
        session.short.bytes.set(bytes);
        session.short.info.set(info);
        decode(Done { tail: tail.pack(), body: Body::Short(&session.short), before: None })
    }
}
