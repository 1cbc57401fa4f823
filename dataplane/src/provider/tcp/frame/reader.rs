//! The reader of frames: a state machine over a byte stream that comes in pieces of any length.
//!
//! ```text
//!            hello 128            header 32              body, length bytes
//!   Hello ------------> Frame ----------------> Body ------------------------+
//!                        ^  |  length 0, control      |  .. in pieces        |
//!                        |  +-----> itself            +----> itself          |
//!                        +---------------------------------------------------+
//!   from anywhere: a fault -> Failed, for ever
//! ```
//!
//! A hello or header that lies whole in a piece is read where it lies; one that is cut is gathered in 128 bytes of its own.
//! Bodies are never copied: the caller gets the part that is in the piece, and where in the message it belongs.

use core::array;
use core::cell::Cell;

use spinwire_layouts::pod::Pod;
use spinwire_layouts::wire::hello::HELLO_BYTES;
use spinwire_layouts::wire::message::{HEADER_BYTES, flags};
use spinwire_layouts::wire::{ControlKind, Head, MessageHeader};
use spinwire_layouts::word::{from_usize, low, to_usize};

use super::credit::Grant;
use super::fault::FrameFault;
use super::hello::{Greeting, check_opening};
use crate::shm::lane::Envelope;

/// What a stream says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Event<'b> {
    /// The hello of the other end is read: see [`Reader::greeting`]. The first event, once.
    Hello,
    /// A message begins. Where `bytes` is shorter than `length`, the rest comes as [`Event::Body`] before anything else.
    Message {
        /// Bytes of the whole message.
        length: u32,
        /// Its tag and immediate data.
        envelope: Envelope,
        /// What its sender gives back.
        credit: Grant,
        /// The beginning of the message, as far as it is here.
        bytes: &'b [u8],
    },
    /// A message goes on.
    Body {
        /// Where in the message `bytes` belong.
        offset: u32,
        /// At least one byte.
        bytes: &'b [u8],
    },
    /// Credit, or a sign of life.
    Credit(Grant),
    /// No further message will come. Credit may.
    Goodbye(Grant),
}

/// How a stream ended, if it ends now.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[repr(u8)]
pub enum End {
    /// After a goodbye.
    Orderly,
    /// Between two frames, without a goodbye: the peer is gone.
    Gone,
    /// Within a hello, a header or a message: the peer is gone, and what it had begun is lost. Also after a fault.
    Cut,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum State {
    Hello,
    Frame,
    Body,
    Failed(FrameFault),
}

/// Flags that a frame may have.
const FLAGS: u8 = flags::VALID | flags::TAGGED | flags::IMMEDIATE | flags::CONTROL;

/// Reads one direction of one connection. It knows no credit: see [`Framing`](super::Framing), which does.
#[derive(Debug)]
pub struct Reader {
    state: Cell<State>,
    /// Number of the next frame.
    sequence: Cell<u32>,
    /// Body: bytes of the message, and how many of them have come.
    length: Cell<u32>,
    offset: Cell<u32>,
    has_heard_goodbye: Cell<bool>,
    greeting: Cell<Option<Greeting>>,
    message_bytes_max: u32,
    /// How much of a hello or a header is in `partial`.
    filled: Cell<usize>,
    partial: [Cell<u8>; HELLO_BYTES],
}

impl Reader {
    /// The reader of a fresh connection; it takes messages of up to that many bytes.
    #[must_use]
    pub const fn new(message_bytes_max: u32) -> Self {
        Self {
            state: Cell::new(State::Hello),
            sequence: Cell::new(0),
            length: Cell::new(0),
            offset: Cell::new(0),
            has_heard_goodbye: Cell::new(false),
            greeting: Cell::new(None),
            message_bytes_max,
            filled: Cell::new(0),
            partial: [const { Cell::new(0) }; HELLO_BYTES],
        }
    }

    /// As new.
    pub fn reset(&self) {
        self.state.set(State::Hello);
        self.sequence.set(0);
        self.length.set(0);
        self.offset.set(0);
        self.has_heard_goodbye.set(false);
        self.greeting.set(None);
        self.filled.set(0);
    }

    #[cfg(test)]
    pub(super) fn begin_at(&self, sequence: u32) {
        self.sequence.set(sequence);
    }

    /// The next thing that `piece` says; `None` once all of it is taken.
    ///
    /// # Errors
    /// [`FrameFault`], now and for ever.
    #[inline(always)]
    pub fn next<'b>(&self, piece: &mut &'b [u8]) -> Result<Option<Event<'b>>, FrameFault> {
        match self.state.get() {
            State::Frame => self.frame(piece),
            State::Body => Ok(self.body(piece)),
            State::Hello => self.hello(piece),
            State::Failed(fault) => Err(fault),
        }
    }

    /// Ends the connection for `fault`, and returns that. Nothing is left of a message that was coming in.
    pub fn fail(&self, fault: FrameFault) -> FrameFault {
        self.state.set(State::Failed(fault));
        self.length.set(0);
        self.offset.set(0);
        fault
    }

    /// Who is at the other end, once that is known.
    #[must_use]
    pub const fn greeting(&self) -> Option<Greeting> {
        self.greeting.get()
    }

    /// What ended the connection.
    #[must_use]
    pub const fn fault(&self) -> Option<FrameFault> {
        match self.state.get() {
            State::Failed(fault) => Some(fault),
            State::Hello | State::Frame | State::Body => None,
        }
    }

    /// How the stream ended, if it ends here.
    #[must_use]
    pub const fn end(&self) -> End {
        match (self.state.get(), self.filled.get()) {
            (State::Frame, 0) if self.has_heard_goodbye.get() => End::Orderly,
            (State::Frame | State::Hello, 0) => End::Gone,
            _ => End::Cut,
        }
    }

    /// Bytes of the current message that have not come yet.
    #[must_use]
    #[inline]
    pub const fn body_left(&self) -> u32 {
        self.length.get().saturating_sub(self.offset.get())
    }

    /// Counts the next `count` bytes of the current message as come; at most those that are left.
    pub fn body_taken(&self, count: u32) -> u32 {
        let count = count.min(self.body_left());
        self.offset.set(self.offset.get().saturating_add(count));
        if self.state.get() == State::Body && self.body_left() == 0 {
            self.state.set(State::Frame);
        }
        count
    }

    /// `N` bytes that belong together, once all of them are here.
    #[inline(always)]
    fn gather<const N: usize>(&self, piece: &mut &[u8]) -> Option<[u8; N]> {
        if self.filled.get() == 0
            && let Some((whole, rest)) = piece.split_first_chunk::<N>()
        {
            *piece = rest;
            return Some(*whole);
        }
        self.gather_slowly(piece)
    }

    #[cold]
    fn gather_slowly<const N: usize>(&self, piece: &mut &[u8]) -> Option<[u8; N]> {
        let filled = self.filled.get();
        let wanted = N.saturating_sub(filled).min(piece.len());
        let (bytes, rest) = piece.split_at_checked(wanted)?;
        for (cell, byte) in self.partial.iter().skip(filled).zip(bytes) {
            cell.set(*byte);
        }
        *piece = rest;
        let filled = filled.saturating_add(wanted);
        if filled < N {
            self.filled.set(filled);
            return None;
        }
        self.filled.set(0);
        Some(array::from_fn(|at| self.partial.get(at).map_or(0, Cell::get)))
    }

    #[cold]
    fn hello<'b>(&self, piece: &mut &'b [u8]) -> Result<Option<Event<'b>>, FrameFault> {
        let read = match self.gather::<HELLO_BYTES>(piece) {
            Some(bytes) => Greeting::from_wire(&bytes).map(Some),
            None => {
                let here = self.partial.iter().take(self.filled.get()).map(Cell::get);
                check_opening(here).map(|()| None)
            }
        };
        let greeting = read.map_err(|fault| self.fail(fault))?;
        self.greeting.set(greeting);
        Ok(greeting.map(|_| {
            self.state.set(State::Frame);
            Event::Hello
        }))
    }

    #[inline(always)]
    fn frame<'b>(&self, piece: &mut &'b [u8]) -> Result<Option<Event<'b>>, FrameFault> {
        let Some(bytes) = self.gather::<HEADER_BYTES>(piece) else {
            return Ok(None);
        };
        // The length is that of the type; a head of zeros would be refused.
        let header = MessageHeader::from_bytes(&bytes).unwrap_or(MessageHeader::ZERO);
        let head = Head::unpack(header.head.get());
        let event = self.accept(&header, head).map_err(|fault| self.fail(fault))?;
        self.sequence.set(head.sequence.wrapping_add(1));
        let Event::Message { length, envelope, credit, .. } = event else {
            return Ok(Some(event));
        };
        self.length.set(length);
        self.offset.set(0);
        let bytes = self.part_of_body(piece);
        if self.body_left() > 0 {
            self.state.set(State::Body);
        }
        Ok(Some(Event::Message { length, envelope, credit, bytes }))
    }

    /// What the header of a frame means. Of a message, the body is still to be taken.
    #[inline(always)]
    fn accept(&self, header: &MessageHeader, head: Head) -> Result<Event<'static>, FrameFault> {
        if head.flags & (flags::VALID | !FLAGS) != flags::VALID {
            return Err(FrameFault::Flags);
        }
        if head.sequence != self.sequence.get() {
            return Err(FrameFault::Sequence);
        }
        if head.flags & flags::CONTROL != 0 {
            return self.control(header, head);
        }
        if self.has_heard_goodbye.get() {
            return Err(FrameFault::AfterGoodbye);
        }
        let length = low(from_usize(head.length));
        if length > self.message_bytes_max {
            return Err(FrameFault::Length);
        }
        let (tag, immediate) = (header.tag.get(), header.imm.get());
        let is_tagged = head.flags & flags::TAGGED != 0;
        let is_immediate = head.flags & flags::IMMEDIATE != 0;
        if !is_tagged && tag != 0 {
            return Err(FrameFault::Tag);
        }
        if !is_immediate && immediate != 0 {
            return Err(FrameFault::Immediate);
        }
        let envelope = Envelope {
            tag: is_tagged.then_some(tag),
            immediate: is_immediate.then_some(immediate),
        };
        let credit = Grant::unpack(header.credit.get());
        Ok(Event::Message { length, envelope, credit, bytes: &[] })
    }

    #[cold]
    fn control(&self, header: &MessageHeader, head: Head) -> Result<Event<'static>, FrameFault> {
        if head.flags != flags::VALID | flags::CONTROL {
            return Err(FrameFault::Flags);
        }
        if head.length != 0 {
            return Err(FrameFault::Length);
        }
        if header.imm.get() != 0 {
            return Err(FrameFault::Immediate);
        }
        let code = u8::try_from(header.tag.get()).ok();
        let credit = Grant::unpack(header.credit.get());
        match code.and_then(ControlKind::from_code) {
            None => Err(FrameFault::Control),
            Some(ControlKind::Credit) => Ok(Event::Credit(credit)),
            Some(ControlKind::Goodbye) if self.has_heard_goodbye.replace(true) => {
                Err(FrameFault::AfterGoodbye)
            }
            Some(ControlKind::Goodbye) => Ok(Event::Goodbye(credit)),
        }
    }

    fn body<'b>(&self, piece: &mut &'b [u8]) -> Option<Event<'b>> {
        let offset = self.offset.get();
        let bytes = self.part_of_body(piece);
        if self.body_left() == 0 {
            self.state.set(State::Frame);
        }
        (!bytes.is_empty()).then_some(Event::Body { offset, bytes })
    }

    /// What of the current message is in `piece`, counted as come.
    #[inline(always)]
    fn part_of_body<'b>(&self, piece: &mut &'b [u8]) -> &'b [u8] {
        let count = to_usize(u64::from(self.body_left())).min(piece.len());
        let (bytes, rest) = piece.split_at_checked(count).unwrap_or_default();
        *piece = rest;
        // Not more than the length, which is a u32.
        self.offset.set(self.offset.get().saturating_add(low(from_usize(count))));
        bytes
    }
}
