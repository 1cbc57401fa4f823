//! One completion, decoded as far as its status allows.
//!
//! ```text
//!   op_own ──> REQ .. RESP_SEND_INV   Sent, Received    fields are loaded when they are asked for
//!          ──> REQ_ERR, RESP_ERR      Failure           syndrome, queue pair, counter, and nothing else
//!          ──> anything else          Odd
//! ```

use core::cell::Cell;

use spinwire_layouts::mlx5::cqe::{
    FORMAT, FORMAT_COMPRESSED, FORMAT_INLINE_32, FORMAT_INLINE_64, OWNER, SOLICITED, Tail, halves,
};
use spinwire_layouts::mlx5::{cqe_op, op};
use spinwire_layouts::word::{to_usize, widen};

use super::Syndrome;
use crate::raw::line::{self, Line};
use crate::sync::Ordering;
use crate::tracker::FailedBy;

/// Words of an entry.
pub(super) const WORDS: usize = 8;

/// A completion.
#[derive(Clone, Copy, Debug)]
pub enum Cqe<'q> {
    /// A send work request, and the unsignaled ones before it, are done.
    Sent(Sent<'q>),
    /// A receive is done.
    Received(Received<'q>),
    /// A send work request or a receive has failed.
    Failed(Failure),
    /// What no device should write here.
    Odd(Odd),
}

/// A send work request that is done.
#[derive(Clone, Copy, Debug)]
pub struct Sent<'q>(Done<'q>);

/// A receive that is done.
#[derive(Clone, Copy, Debug)]
pub struct Received<'q>(Done<'q>);

/// On which side of a queue pair something happened.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Side {
    /// Its send queue.
    Send,
    /// Its receive queue, or the shared one.
    Receive,
}

/// A completion with an error.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Failure {
    /// Of which queue.
    pub side: Side,
    /// Number of the queue pair.
    pub qpn: u32,
    /// Of the work request.
    pub wqe_counter: u16,
    /// What went wrong.
    pub syndrome: Syndrome,
    /// More about it, as this maker's manuals explain it.
    pub vendor: u8,
}

impl Failure {
    /// Whether the work request failed, or was flushed.
    #[must_use]
    pub const fn failed_by(&self) -> FailedBy {
        if self.syndrome.is_flush() { FailedBy::Flush } else { FailedBy::Itself }
    }
}

/// A completion that makes no sense here: of an offload that is not used, with a form that the queue was not made for, or
/// nonsense. It was counted and taken; whether something under way has ended by it cannot be told.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Odd {
    /// Opcode, format and owner, as the entry has them.
    pub op_own: u8,
    /// Number of the queue pair.
    pub qpn: u32,
    /// WQE counter.
    pub wqe_counter: u16,
}

/// What kind of message a receive got.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Arrival {
    /// A send.
    Send,
    /// A send with immediate data.
    SendImm(u32),
    /// A send that has invalidated this key.
    SendInvalidate(u32),
    /// An RDMA write with immediate data, into other memory than that of the receive.
    WriteImm(u32),
}

/// What the short form of a completion says in place of the whole.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ShortInfo {
    /// The hash over the headers.
    Hash(u32),
    /// The checksum.
    Checksum(u16),
}

/// Where the fields of a completion are.
#[derive(Clone, Copy, Debug)]
pub(super) enum Body<'q> {
    /// In the queue.
    Entry(&'q Line),
    /// Of a short one: in the copy of its title, but for the count of bytes.
    Short(&'q Short),
}

/// What stands for a completion that came in short form, until the next one.
#[derive(Debug, Default)]
pub(super) struct Short {
    pub(super) title: [Cell<u64>; WORDS],
    pub(super) bytes: Cell<u32>,
    pub(super) info: Cell<Option<ShortInfo>>,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Done<'q> {
    /// The last word, as it lies in memory.
    pub(super) tail: u64,
    pub(super) body: Body<'q>,
    /// The 64 bytes before the entry, in a queue of 128-byte entries.
    pub(super) before: Option<&'q Line>,
}

impl<'q> Done<'q> {
    #[inline(always)]
    const fn tail(&self) -> Tail {
        Tail::unpack(self.tail)
    }

    #[inline]
    fn word(&self, index: usize) -> u64 {
        match self.body {
            Body::Entry(line) => load(line, index),
            Body::Short(short) => short.title.get(index).map_or(0, Cell::get),
        }
    }

    #[inline]
    fn bytes(&self) -> u32 {
        match self.body {
            Body::Entry(line) => halves(load(line, 5)).1,
            Body::Short(short) => short.bytes.get(),
        }
    }

    /// Whether the inline data, if there is any, fits into its place.
    #[inline]
    fn is_sound(&self) -> bool {
        match self.tail().op_own & FORMAT {
            0 => true,
            FORMAT_INLINE_32 => self.bytes() <= 32,
            FORMAT_INLINE_64 => self.before.is_some() && self.bytes() <= 64,
            _ => false,
        }
    }

    #[inline]
    fn inline(&self) -> Option<Inline<'q>> {
        let line = match (self.tail().op_own & FORMAT, self.body) {
            (FORMAT_INLINE_32, Body::Entry(line)) => line,
            (FORMAT_INLINE_64, _) => self.before?,
            _ => return None,
        };
        Some(Inline { line, length: to_usize(widen(self.bytes())) })
    }
}

/// A completion that is well and has no data in it, as nearly all are: its last word, and where it lies. It goes through the poll in
/// two registers.
#[derive(Clone, Copy, Debug)]
pub struct Plain<'q> {
    word: u64,
    line: &'q Line,
}

/// A [`Plain`] by its side.
pub(super) enum Well<'q> {
    Sent(Sent<'q>),
    Received(Received<'q>),
}

impl<'q> Plain<'q> {
    /// The entry in `line`, whose last word is `word`, where it is plain.
    #[inline(always)]
    pub(super) const fn new(word: u64, line: &'q Line) -> Option<Self> {
        // With the opcode below and the format above it is one comparison.
        let op_own = Tail::op_own_of(word) & !(SOLICITED | OWNER);
        let is_well = op_own.rotate_right(4) <= cqe_op::RESP_SEND_INV;
        if is_well { Some(Self { word, line }) } else { None }
    }

    /// Number of the queue pair.
    #[inline(always)]
    #[must_use]
    pub const fn qpn(self) -> u32 {
        Tail::unpack(self.word).qpn
    }

    /// Index of the work request.
    #[inline(always)]
    #[must_use]
    pub const fn wqe_counter(self) -> u16 {
        Tail::unpack(self.word).wqe_counter
    }

    /// All of it.
    #[inline(always)]
    pub(super) const fn well(self) -> Well<'q> {
        let done = Done { tail: self.word, body: Body::Entry(self.line), before: None };
        if done.tail().opcode() == cqe_op::REQ {
            Well::Sent(Sent(done))
        } else {
            Well::Received(Received(done))
        }
    }

    /// The completion.
    #[inline(always)]
    #[must_use]
    pub const fn cqe(self) -> Cqe<'q> {
        match self.well() {
            Well::Sent(sent) => Cqe::Sent(sent),
            Well::Received(received) => Cqe::Received(received),
        }
    }
}

/// Decodes an entry that is ours. What is compressed has been taken apart before.
pub(super) fn decode(done: Done<'_>) -> Cqe<'_> {
    match done.tail().opcode() {
        // An error may have any bits where the format is.
        cqe_op::REQ if done.is_sound() => Cqe::Sent(Sent(done)),
        cqe_op::RESP_WR_IMM..=cqe_op::RESP_SEND_INV if done.is_sound() => {
            Cqe::Received(Received(done))
        }
        cqe_op::REQ_ERR => failure(Side::Send, done),
        cqe_op::RESP_ERR => failure(Side::Receive, done),
        _ => Cqe::Odd(odd(done.tail())),
    }
}

pub(super) const fn odd(tail: Tail) -> Odd {
    Odd { op_own: tail.op_own, qpn: tail.qpn, wqe_counter: tail.wqe_counter }
}

#[cold]
fn failure<'q>(side: Side, done: Done<'q>) -> Cqe<'q> {
    let Body::Entry(line) = done.body else {
        return Cqe::Odd(odd(done.tail()));
    };
    let [.., vendor, syndrome] = load(line, 6).to_le_bytes();
    Cqe::Failed(Failure {
        side,
        qpn: done.tail().qpn,
        wqe_counter: done.tail().wqe_counter,
        syndrome: Syndrome(syndrome),
        vendor,
    })
}

#[inline(always)]
pub(super) fn load(line: &Line, index: usize) -> u64 {
    line.words().get(index).map_or(0, |word| word.load(Ordering::Relaxed))
}

impl<'q> Sent<'q> {
    /// Number of the queue pair.
    #[inline]
    #[must_use]
    pub const fn qpn(&self) -> u32 {
        self.0.tail().qpn
    }

    /// Index of the first basic block of the work request.
    #[inline]
    #[must_use]
    pub const fn wqe_counter(&self) -> u16 {
        self.0.tail().wqe_counter
    }

    /// What it was: one of [`op`].
    #[inline]
    #[must_use]
    pub const fn opcode(&self) -> u8 {
        self.0.tail().wqe_opcode
    }

    /// Bytes that came back: of a read as many as were read, of an atomic 8, else 0.
    #[must_use]
    pub fn bytes(&self) -> u32 {
        match self.opcode() {
            op::RDMA_READ | op::ATOMIC_MASKED_CS | op::ATOMIC_MASKED_FA => self.0.bytes(),
            op::ATOMIC_CS | op::ATOMIC_FA => 8,
            _ => 0,
        }
    }

    /// What came back, where it lies in the completion and not in memory.
    #[must_use]
    pub fn inline(&self) -> Option<Inline<'q>> {
        self.0.inline()
    }

    /// Clock of the device.
    #[must_use]
    pub fn timestamp(&self) -> u64 {
        self.0.word(6).swap_bytes()
    }
}

impl<'q> Received<'q> {
    /// Number of the queue pair.
    #[inline]
    #[must_use]
    pub const fn qpn(&self) -> u32 {
        self.0.tail().qpn
    }

    /// Index of the receive, or its slot in a shared receive queue.
    #[inline]
    #[must_use]
    pub const fn wqe_counter(&self) -> u16 {
        self.0.tail().wqe_counter
    }

    /// Bytes of the message. Over a datagram queue pair they include the 40 of the GRH, whether there is one or not.
    #[inline]
    #[must_use]
    pub fn bytes(&self) -> u32 {
        self.0.bytes()
    }

    /// What kind of message it was.
    #[inline]
    #[must_use]
    pub fn arrival(&self) -> Arrival {
        let value = || halves(self.0.word(4)).1;
        match self.0.tail().opcode() {
            cqe_op::RESP_WR_IMM => Arrival::WriteImm(value()),
            cqe_op::RESP_SEND_IMM => Arrival::SendImm(value()),
            cqe_op::RESP_SEND_INV => Arrival::SendInvalidate(value()),
            _ => Arrival::Send,
        }
    }

    /// The message, where it lies in the completion and not in the memory of the receive.
    #[must_use]
    pub fn inline(&self) -> Option<Inline<'q>> {
        self.0.inline()
    }

    /// Number of the sender's queue pair, of a datagram.
    #[must_use]
    pub fn source_qpn(&self) -> u32 {
        halves(self.0.word(3)).0 & 0x00ff_ffff
    }

    /// Whether the first 40 bytes of the receive hold a GRH, of a datagram.
    #[must_use]
    pub fn has_grh(&self) -> bool {
        halves(self.0.word(3)).0 >> 28 & 3 != 0
    }

    /// Number of the shared receive queue; 0 where there is none. With completions of version 1 the index that the user gave
    /// the queue.
    #[must_use]
    pub fn srqn(&self) -> u32 {
        halves(self.0.word(4)).0 & 0x00ff_ffff
    }

    /// Whether the sender wanted the receiver to be told.
    #[must_use]
    pub const fn is_solicited(&self) -> bool {
        self.0.tail().op_own & SOLICITED != 0
    }

    /// Hash or checksum, of one that came in short form.
    #[must_use]
    pub const fn short_info(&self) -> Option<ShortInfo> {
        match self.0.body {
            Body::Entry(_) => None,
            Body::Short(short) => short.info.get(),
        }
    }

    /// Clock of the device; of one that came in short form that of its title.
    #[must_use]
    pub fn timestamp(&self) -> u64 {
        self.0.word(6).swap_bytes()
    }
}

/// Up to 64 bytes of data within a completion. They are the device's again after the handler.
#[derive(Clone, Copy, Debug)]
pub struct Inline<'q> {
    line: &'q Line,
    length: usize,
}

impl Inline<'_> {
    /// How many bytes there are.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.length
    }

    /// Whether there are none.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.length == 0
    }

    /// Copies the bytes, as many as there are and fit; says how many.
    pub fn copy_out(&self, to: &mut [u8]) -> usize {
        let length = self.length.min(to.len());
        let Some(to) = to.get_mut(..length) else {
            return 0;
        };
        if line::copy_out(core::slice::from_ref(self.line), 0, to) { length } else { 0 }
    }
}

/// Whether an entry is an array or a title of a compressed queue.
#[inline(always)]
pub(super) const fn is_compressed(tail: Tail) -> bool {
    tail.op_own & FORMAT == FORMAT_COMPRESSED
}
