//! Messages on a byte stream: frames out, frames in, and the credit between.
//!
//! ```text
//!   the user's message                                                 the user's receive
//!        |  message(length, envelope): spends credit                       ^  Message, Body: where the bytes go
//!        v                                                                 |  release(length): gives credit back
//!   [header 32][bytes ..][header][bytes ..]  ===== TCP, any pieces =====>  next(&mut piece)
//! ```
//!
//! A [`Framing`] is one end of one connection. It moves no payload: it makes headers, and it says of the bytes that came
//! what they are. Whoever owns it writes its own [`Greeting`] first, reads the other's, and from then on sends as credit
//! allows.
//!
//! **Credit.** Each end says in its hello how many messages, and how many bytes of messages, may be on their way to it. A
//! message counts from its header until its receiver has called [`Framing::release`]. What is released goes back with the
//! next frame in the other direction, whatever that is, or in a frame of its own once a quarter of the allowance is due, or what is left of
//! it may be too little for the longest message ([`Framing::credit_frame`]): so two ends that wait for each other always
//! have something to say.
//!
//! Invariants:
//!
//! 1. Nothing of a frame is believed before it was checked, and nothing is read beyond what its head says. A [`FrameFault`]
//!    is for ever: the same answer comes to every later call, and nothing is written any more.
//! 2. However the stream is cut into pieces, the same events come, with bodies cut where the pieces are.
//! 3. What one end may still send, what it has under way, and what is due to it sum up to what the other end allowed.
//! 4. No call allocates, panics, or does more than one pass over the bytes of a header.
//!
//! The layouts are in `spinwire_layouts::wire`.

use core::cell::Cell;

use spinwire_layouts::endian::Le64;
use spinwire_layouts::pod::Pod;
pub use spinwire_layouts::wire::message::HEADER_BYTES;
use spinwire_layouts::wire::message::flags;
use spinwire_layouts::wire::{ControlKind, Head, MESSAGE_LENGTH_MAX, MessageHeader};

pub use self::credit::{Grant, Incoming, NotHeld, Outgoing};
pub use self::fault::{FrameFault, LimitsError};
pub use self::hello::{Greeting, Limits};
pub use self::reader::{End, Event, Reader};
use crate::error::{Misuse, PostError, Retry};
pub use crate::shm::lane::Envelope;

mod credit;
mod fault;
mod hello;
mod reader;

/// One end of one connection: what it reads, what it writes, and the credit of both directions.
#[derive(Debug)]
pub struct Framing {
    reader: Reader,
    incoming: Incoming,
    outgoing: Outgoing,
    /// Number of the next frame out.
    sequence: Cell<u32>,
    has_said_goodbye: Cell<bool>,
}

impl Framing {
    /// The end of a fresh connection that takes as much as `own` says. Write [`Greeting::to_wire`] with the same
    /// limits before anything else.
    ///
    /// # Errors
    /// Which of the limits cannot be.
    pub fn new(own: Limits) -> Result<Self, LimitsError> {
        own.check()?;
        Ok(Self::with_limits(own))
    }

    /// [`Framing::new`] for limits that were checked.
    pub(super) const fn with_limits(own: Limits) -> Self {
        Self {
            reader: Reader::new(own.message_bytes_max),
            incoming: Incoming::new(own),
            outgoing: Outgoing::closed(),
            sequence: Cell::new(0),
            has_said_goodbye: Cell::new(false),
        }
    }

    /// Begins anew, for another connection of the same limits.
    pub fn reset(&self) {
        self.reader.reset();
        self.incoming.reset();
        self.outgoing.close();
        self.sequence.set(0);
        self.has_said_goodbye.set(false);
    }

    /// The next thing that `piece` says; `None` once all of it is taken. `piece` is moved on behind what was read.
    ///
    /// # Errors
    /// The peer wrote what no correct peer writes: close this connection. `piece` stands anywhere then.
    #[inline]
    pub fn next<'b>(&self, piece: &mut &'b [u8]) -> Result<Option<Event<'b>>, FrameFault> {
        let event = self.reader.next(piece)?;
        let accepted = match event {
            None | Some(Event::Body { .. }) => Ok(()),
            Some(Event::Hello) => {
                self.outgoing.open(self.reader.greeting().map(|greeting| greeting.limits));
                Ok(())
            }
            Some(Event::Message { length, credit, .. }) => {
                self.outgoing.give_back(credit).and_then(|()| self.incoming.arrive(length))
            }
            Some(Event::Credit(credit) | Event::Goodbye(credit)) => self.outgoing.give_back(credit),
        };
        accepted.map_err(|fault| self.reader.fail(fault))?;
        Ok(event)
    }

    /// After the peer's hello: sends no more messages than this end takes itself, whatever the peer allows.
    pub fn send_evenly(&self) {
        let greeting = self.reader.greeting();
        self.outgoing.open(greeting.map(|greeting| self.incoming.evened(greeting.limits)));
    }

    /// The header of a message of `length` bytes, which are to follow it on the stream. It takes along what credit is due.
    /// Credit and a number are spent by this call, so see first that there is room to write both.
    ///
    /// # Errors
    /// `TooLong` for the peer; `NoCredit` until it gives some back; `NotConnected` before its hello was read, and after
    /// [`Framing::goodbye`]; `Fatal` after a fault. Nothing was consumed.
    #[inline]
    pub fn message(
        &self,
        length: usize,
        envelope: Envelope,
    ) -> Result<[u8; HEADER_BYTES], PostError> {
        if let Some(fault) = self.reader.fault() {
            return Err(fault.fatal().into());
        }
        if self.has_said_goodbye.get() {
            return Err(Retry::NotConnected.into());
        }
        if length > MESSAGE_LENGTH_MAX {
            return Err(Misuse::TooLong.into());
        }
        self.outgoing.spend(length)?;
        let tagged = if envelope.tag.is_some() { flags::TAGGED } else { 0 };
        let immediate = if envelope.immediate.is_some() { flags::IMMEDIATE } else { 0 };
        Ok(self.header(MessageHeader {
            head: Le64::new(self.head(length, flags::VALID | tagged | immediate)),
            tag: Le64::new(envelope.tag.unwrap_or(0)),
            imm: Le64::new(envelope.immediate.unwrap_or(0)),
            credit: Le64::new(0),
        }))
    }

    /// Bytes that a message of `length` takes on the stream.
    #[must_use]
    pub const fn frame_bytes(length: usize) -> usize {
        HEADER_BYTES.saturating_add(length)
    }

    /// What [`Framing::message`] would say to a message of that length, without spending anything.
    ///
    /// # Errors
    /// As [`Framing::message`].
    pub fn may_send(&self, length: usize) -> Result<(), PostError> {
        if let Some(fault) = self.reader.fault() {
            return Err(fault.fatal().into());
        }
        if self.has_said_goodbye.get() {
            return Err(Retry::NotConnected.into());
        }
        self.outgoing.allows(length)
    }

    /// A message of `length` bytes that came is done with: its credit may go back.
    ///
    /// # Errors
    /// [`NotHeld`] where no such message is held. Nothing changed.
    #[inline]
    pub fn release(&self, length: u32) -> Result<(), NotHeld> {
        self.incoming.release(length)
    }

    /// Whether [`Framing::credit_frame`] has something to say.
    #[must_use]
    #[inline]
    pub const fn is_credit_due(&self) -> bool {
        self.incoming.is_due()
    }

    /// A frame that gives credit back, where enough is due and no message takes it along. Look after each round of releases.
    #[inline]
    pub fn credit_frame(&self) -> Option<[u8; HEADER_BYTES]> {
        let may_write = self.reader.fault().is_none() && self.outgoing.is_open();
        (may_write && self.incoming.is_due()).then(|| self.control(ControlKind::Credit))
    }

    /// A frame without content, for a connection that must not be silent for too long. `None` where nothing may be written.
    pub fn sign_of_life(&self) -> Option<[u8; HEADER_BYTES]> {
        let may_write = self.reader.fault().is_none() && self.outgoing.is_open();
        may_write.then(|| self.control(ControlKind::Credit))
    }

    /// The last frame but for credit: no message follows. `None` where it was said already, or nothing may be written.
    pub fn goodbye(&self) -> Option<[u8; HEADER_BYTES]> {
        let may_write = self.reader.fault().is_none() && !self.has_said_goodbye.get();
        may_write.then(|| {
            self.has_said_goodbye.set(true);
            self.control(ControlKind::Goodbye)
        })
    }

    /// Bytes of the message that is coming in that have not come yet.
    #[must_use]
    pub const fn body_left(&self) -> u32 {
        self.reader.body_left()
    }

    /// The next `count` bytes of the message that is coming in were put where they belong without passing through
    /// [`Framing::next`]. Returns how many of them it took to be of that message: at most [`Framing::body_left`].
    pub fn body_taken(&self, count: u32) -> u32 {
        self.reader.body_taken(count)
    }

    /// Who is at the other end, once [`Event::Hello`] has come.
    #[must_use]
    pub const fn greeting(&self) -> Option<Greeting> {
        self.reader.greeting()
    }

    /// Whether the stream may end here, and how that is to be understood.
    #[must_use]
    pub const fn end(&self) -> End {
        self.reader.end()
    }

    /// The fault that ended this connection.
    #[must_use]
    pub const fn fault(&self) -> Option<FrameFault> {
        self.reader.fault()
    }

    /// Whether all that was sent has been released by the peer.
    #[must_use]
    pub const fn is_drained(&self) -> bool {
        self.outgoing.is_drained()
    }

    /// How many times the other end has given credit back. Comes round.
    #[must_use]
    pub const fn credit_returns(&self) -> u32 {
        self.outgoing.returns()
    }

    fn head(&self, length: usize, flags: u8) -> u64 {
        let sequence = self.sequence.get();
        self.sequence.set(sequence.wrapping_add(1));
        Head::pack(sequence, length, flags)
    }

    fn control(&self, kind: ControlKind) -> [u8; HEADER_BYTES] {
        self.header(MessageHeader {
            head: Le64::new(self.head(0, flags::VALID | flags::CONTROL)),
            tag: Le64::new(u64::from(kind.code())),
            imm: Le64::new(0),
            credit: Le64::new(0),
        })
    }

    /// The bytes of a header, with all the credit that is due.
    #[inline]
    fn header(&self, header: MessageHeader) -> [u8; HEADER_BYTES] {
        let credit = Le64::new(self.incoming.take_due().pack());
        let header = MessageHeader { credit, ..header };
        // The length is that of the type, so there is such a chunk.
        header.as_bytes().first_chunk().copied().unwrap_or([0; HEADER_BYTES])
    }
}

#[cfg(test)]
mod tests {
    use spinwire_layouts::shm::EndpointKind;

    use super::*;
    use crate::id::Name;

    const LIMITS: Limits = Limits { message_bytes_max: 8, credit_messages: 9, credit_bytes: 80 };

    fn hello(token: u64, number: u64) -> Greeting {
        let (name, kind) = (Name::new("a").unwrap(), EndpointKind::Msg);
        Greeting { name, kind, limits: LIMITS, token, number }
    }

    /// Who says no token has proved nothing, and two of them are not the same one.
    #[test]
    fn who_has_said_a_token_is_known_by_it() {
        for (token, again, by_same) in [(7, 7, true), (7, 8, false), (0, 7, false), (0, 0, false)] {
            for (number, is_later) in [(9, true), (8, false), (7, false)] {
                let (before, now) = (hello(token, 8), hello(again, number));
                assert_eq!(now.is_by_same(&before), by_same);
                assert_eq!(now.is_again(&before), by_same && is_later);
            }
        }
    }

    #[test]
    fn numbers_of_frames_come_round() {
        let (limits, hello) = (LIMITS, hello(7, 8));
        let [tx, rx] = [(); 2].map(|()| Framing::new(limits).unwrap());
        for end in [&tx, &rx] {
            end.next(&mut &hello.to_wire()[..]).unwrap();
        }
        tx.sequence.set(u32::MAX - 1);
        rx.reader.begin_at(u32::MAX - 1);
        for number in [u32::MAX - 1, u32::MAX, 0, 1] {
            let frame = tx.message(0, Envelope::default()).unwrap();
            assert_eq!(frame[..4], number.to_le_bytes());
            assert!(rx.next(&mut &frame[..]).unwrap().is_some());
        }
    }
}
