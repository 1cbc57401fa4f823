//! One reliable connection as a byte stream in pieces: written into slots, sent into receives that the other end has posted beforehand.
//!
//! ```text
//!   write(header, body)                                                         read(&mut piece)
//!     copy -> slot, slot ..   SEND_IMM each      ---- in order ---->   receive, receive ..   copy -> piece, posted again
//!                             imm: receives that                         '-- due, and when a quarter is: SEND_IMM of nothing
//!                             are posted again  <------------------------    or with the next piece the other way
//! ```
//!
//! *Credit.* Each end knows how many receives the other one has posted, and never sends without one: the device is not to find none, and has not
//! to ask again (RNR). One receive is kept back from what is written, so that both ends can always say what is due; what says only that
//! takes a receive, too, and is sent when a quarter of all is due.
//!
//! Invariants:
//! 1. Receives that are posted, under way to be, or due sum up to [`ChannelConfig::slots`]; `credit` is at most what the other end has posted.
//! 2. A slot is written only after the send that it was in has completed; its bytes are the device's from then on.
//! 3. What the other end says is checked: more credit than there can be ends the channel, and so does a failed work request. Nothing that
//!    a completion says panics.

use core::cell::Cell;
use core::fmt;

use spinwire_layouts::word::{from_usize, low, to_usize, widen};

use crate::cq::{Arrival, Cqe, Side};
use crate::error::{Fatal, Misuse, PostError, Retry};
use crate::raw::line::{self, LINE_BYTES};
use crate::raw::mmio::Bus;
use crate::raw::place::{Bump, Exhausted};
use crate::raw::region::Region;
use crate::table::Ring;
use crate::tracker::Posted;
use crate::wqe::{Qp, WqeFlags};

/// How much a channel holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ChannelConfig {
    /// Receives that are posted, and slots that are sent from: at least 4.
    pub slots: u32,
    /// Bytes of each: a multiple of 64, the same at both ends.
    pub slot_bytes: u32,
    /// Receives that the other end has posted when this one begins.
    pub peer_slots: u32,
}

/// Why a channel could not be placed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum BadChannel {
    /// Give at least 4 slots at both ends.
    Slots,
    /// Give slots of a multiple of 64 bytes.
    SlotBytes,
    /// Give regions that hold all slots.
    Region,
    /// Give a queue pair with a receive queue of its own, with room for that many receives and sends.
    Queue,
    /// The arena is too small.
    Arena(Exhausted),
    /// The queue pair does not take its first receives.
    Refused(PostError),
}

impl From<Exhausted> for BadChannel {
    fn from(value: Exhausted) -> Self {
        Self::Arena(value)
    }
}

impl fmt::Display for BadChannel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Slots => "slots: give at least 4 at both ends",
            Self::SlotBytes => "slot_bytes: give a multiple of 64",
            Self::Region => "region: give one that holds all slots",
            Self::Queue => {
                "queue pair: give one with a receive queue of its own, and room for a receive and two sends a slot"
            }
            Self::Arena(error) => return error.fmt(f),
            Self::Refused(error) => return error.fmt(f),
        })
    }
}

impl core::error::Error for BadChannel {}

/// A piece that has come.
#[derive(Clone, Copy, Debug)]
struct Piece {
    slot: u32,
    length: u32,
}

/// So many receives of `slots` are due before that is said by a send of its own.
const fn much(slots: u32) -> u32 {
    let quarter = slots.div_ceil(4);
    if quarter < 2 { 2 } else { quarter }
}

/// What is posted with a send: how many slots are free again when it is done.
const NO_SLOT: u64 = 0;
const ONE_SLOT: u64 = 1;

/// One end of a connection. One thread.
pub struct Channel<'q, 'm, B> {
    qp: &'q Qp<'m, u64, B>,
    sends: Region<'m>,
    receives: Region<'m>,
    config: ChannelConfig,
    /// Pieces that were written, ever, and those of them whose sends have completed.
    written: Cell<u32>,
    done: Cell<u32>,
    /// Receives of the other end.
    credit: Cell<u32>,
    /// Receives that were posted again, and the other end does not know of.
    due: Cell<u32>,
    arrived: Ring<'m, Piece>,
    failed: Cell<Option<Fatal>>,
}

impl<'q, 'm, B: Bus> Channel<'q, 'm, B> {
    /// Takes a queue pair that was just connected, and posts its receives. `regions` are what is sent from, and what is received into; the
    /// channel has them to itself.
    ///
    /// # Errors
    /// [`BadChannel`].
    pub fn place(
        bump: &Bump<'m>,
        qp: &'q Qp<'m, u64, B>,
        (sends, receives): (Region<'m>, Region<'m>),
        config: ChannelConfig,
    ) -> Result<Self, BadChannel> {
        let ChannelConfig { slots, slot_bytes, peer_slots } = config;
        if slots < 4 || peer_slots < 4 {
            return Err(BadChannel::Slots);
        }
        if slot_bytes == 0 || !slot_bytes.is_multiple_of(low(from_usize(LINE_BYTES))) {
            return Err(BadChannel::SlotBytes);
        }
        let bytes = widen(slots).saturating_mul(widen(slot_bytes));
        let holds = |region: &Region<'_>| {
            from_usize(region.lines().len()).saturating_mul(from_usize(LINE_BYTES)) >= bytes
        };
        if !holds(&sends) || !holds(&receives) {
            return Err(BadChannel::Region);
        }
        let receives_max = qp.rq().map_or(0, |rq| u32::from(rq.tracker().size()));
        let sends_max = u32::from(qp.sq().tracker().size());
        if receives_max < slots || sends_max < slots.saturating_add(peer_slots) {
            return Err(BadChannel::Queue);
        }
        let none = Piece { slot: 0, length: 0 };
        let channel = Self {
            qp,
            sends,
            receives,
            config,
            written: Cell::new(0),
            done: Cell::new(0),
            credit: Cell::new(peer_slots),
            due: Cell::new(0),
            arrived: Ring::place(bump, slots, none)?,
            failed: Cell::new(None),
        };
        for slot in 0..slots {
            channel.post_receive(slot).map_err(BadChannel::Refused)?;
        }
        let _none = qp.ring_doorbell();
        Ok(channel)
    }

    /// The queue pair.
    #[must_use]
    pub const fn qp(&self) -> &'q Qp<'m, u64, B> {
        self.qp
    }

    /// Why nothing more goes or comes, if so.
    #[must_use]
    pub const fn fatal(&self) -> Option<Fatal> {
        self.failed.get()
    }

    /// Most bytes that one write can ever take.
    #[must_use]
    pub const fn bytes_max(&self) -> usize {
        let ChannelConfig { slots, slot_bytes, peer_slots } = self.config;
        // However little of it is due, so that nobody says so, there is credit for it.
        let sure = peer_slots.saturating_sub(much(peer_slots));
        let least = if slots < sure { slots } else { sure };
        to_usize(widen(least).saturating_mul(widen(slot_bytes)))
    }

    /// Whether a write of so many bytes would be taken now.
    ///
    /// # Errors
    /// As of [`Channel::write`].
    pub fn accepts(&self, bytes: usize) -> Result<u32, PostError> {
        if let Some(fatal) = self.failed.get() {
            return Err(fatal.into());
        }
        if bytes > self.bytes_max() {
            return Err(Misuse::TooLong.into());
        }
        let slot_bytes = to_usize(widen(self.config.slot_bytes)).max(1);
        let pieces = low(from_usize(bytes.div_ceil(slot_bytes)));
        let under_way = self.written.get().wrapping_sub(self.done.get());
        if under_way.saturating_add(pieces) > self.config.slots {
            return Err(Retry::NoSlot.into());
        }
        // One is left for what is due.
        if pieces >= self.credit.get() {
            return Err(Retry::NoCredit.into());
        }
        let blocks = u16::try_from(pieces).unwrap_or(u16::MAX);
        self.qp.sq().tracker().room_signaled(blocks)?;
        Ok(pieces)
    }

    /// Writes `header`, of a multiple of 8 bytes and not more than a slot, and then `body`: all of it or nothing. The next doorbell sends it.
    ///
    /// # Errors
    /// `NoSlot`, `SqFull` until sends have completed; `NoCredit` until the other end has read; `TooLong` for ever; fatal ones of the channel.
    pub fn write(&self, header: &[u8], body: &[u8]) -> Result<(), PostError> {
        let slot_bytes = to_usize(widen(self.config.slot_bytes));
        if !header.len().is_multiple_of(line::WORD_BYTES) || header.len() > slot_bytes {
            return Err(Misuse::BadRange.into());
        }
        let _pieces = self.accepts(header.len().saturating_add(body.len()))?;
        let room = slot_bytes.saturating_sub(header.len()).min(body.len());
        let (first, rest) = body.split_at_checked(room).unwrap_or_default();
        if !(header.is_empty() && first.is_empty()) {
            self.send(header, first)?;
        }
        for part in rest.chunks(slot_bytes.max(1)) {
            self.send(&[], part)?;
        }
        Ok(())
    }

    /// One piece. There is room for it.
    fn send(&self, header: &[u8], part: &[u8]) -> Result<(), PostError> {
        let number = self.written.get();
        let at = self.place_of(number.checked_rem(self.config.slots).unwrap_or(0));
        let copied = line::copy_in(self.sends.lines(), at, header)
            && line::copy_in(self.sends.lines(), at.saturating_add(header.len()), part);
        debug_assert!(copied, "the region holds all slots");
        let length = low(from_usize(header.len().saturating_add(part.len())));
        let sge = self.sends.range(from_usize(at), length)?;
        let due = self.due.get();
        self.qp.with_sq_wqe(|wqe| {
            wqe.send_imm(WqeFlags::NONE, due).sge(sge).finish_signaled(ONE_SLOT)
        })?;
        self.written.set(number.wrapping_add(1));
        self.spend();
        Ok(())
    }

    /// A receive of the other end is used, and it is told of what is due.
    fn spend(&self) {
        self.due.set(0);
        self.credit.set(self.credit.get().saturating_sub(1));
    }

    /// Tells the other end what is due, if that is much. Whether anything was staged.
    fn give_credit(&self) -> bool {
        let due = self.due.get();
        if due < much(self.config.slots) || self.credit.get() == 0 || self.failed.get().is_some() {
            return false;
        }
        let staged = self
            .qp
            .with_sq_wqe(|wqe| wqe.send_imm(WqeFlags::NONE, due).empty().finish_signaled(NO_SLOT));
        let staged: Result<(), PostError> = staged;
        if staged.is_ok() {
            self.spend();
        }
        staged.is_ok()
    }

    /// Sends what was written, and what is due if that is much. How many work requests that were.
    pub fn ring_doorbell(&self) -> u16 {
        let _staged = self.give_credit();
        self.qp.ring_doorbell()
    }

    /// A completion of this queue pair has come.
    pub fn take(&self, cqe: &Cqe<'_>) {
        match cqe {
            Cqe::Sent(sent) => match self.qp.sq().complete(sent.wqe_counter()) {
                Ok(completed) => self.free(completed.entry),
                Err(_stale) => self.fail(Fatal::QueueError),
            },
            Cqe::Received(received) => {
                let rq = self.qp.rq();
                let completed = rq.and_then(|rq| rq.complete(received.wqe_counter()).ok());
                let Some(completed) = completed else { return self.fail(Fatal::QueueError) };
                let slot = low(completed.entry);
                let length = received.bytes();
                if let Some(inline) = received.inline() {
                    let mut bytes = [0; LINE_BYTES];
                    let copied = inline.copy_out(&mut bytes);
                    let bytes = bytes.get(..copied).unwrap_or_default();
                    let at = self.place_of(slot);
                    let copied = line::copy_in(self.receives.lines(), at, bytes);
                    debug_assert!(copied, "the region holds all slots");
                }
                let Arrival::SendImm(grant) = received.arrival() else {
                    return self.fail(Fatal::Corrupt);
                };
                self.arrive(Piece { slot, length }, grant);
            }
            Cqe::Failed(failure) => {
                match failure.side {
                    Side::Send => {
                        if let Ok(failed) =
                            self.qp.sq().fail(failure.wqe_counter, failure.failed_by())
                            && let Posted::Signaled(entry) = failed.wqe
                        {
                            self.free(entry);
                        }
                    }
                    Side::Receive => {
                        let _over = self.qp.rq().map(|rq| rq.fail(failure.wqe_counter).is_ok());
                    }
                }
                self.fail(Fatal::PeerGone);
            }
            Cqe::Odd(_) => self.fail(Fatal::QueueError),
        }
    }

    fn free(&self, slots: u64) {
        self.done.set(self.done.get().wrapping_add(low(slots)));
    }

    fn fail(&self, fatal: Fatal) {
        if self.failed.get().is_none() {
            self.failed.set(Some(fatal));
        }
    }

    fn arrive(&self, piece: Piece, grant: u32) {
        let credit = self.credit.get().checked_add(grant);
        match credit.filter(|credit| *credit <= self.config.peer_slots) {
            Some(credit) => self.credit.set(credit),
            None => return self.fail(Fatal::Corrupt),
        }
        if piece.length > self.config.slot_bytes {
            return self.fail(Fatal::Corrupt);
        }
        if piece.length == 0 {
            self.repost(piece.slot);
            return;
        }
        let kept = self.arrived.push(piece).is_ok();
        debug_assert!(kept, "there are as many places as receives");
    }

    /// Whether there is something to read.
    #[must_use]
    pub const fn has_arrived(&self) -> bool {
        !self.arrived.is_empty()
    }

    /// Copies the oldest piece that has come into `piece`, which is as long as a slot, and posts its receive again. How long it is.
    pub fn read(&self, piece: &mut [u8]) -> Option<usize> {
        let Piece { slot, length } = self.arrived.pop()?;
        let length = to_usize(widen(length)).min(piece.len());
        let to = piece.get_mut(..length)?;
        let copied = line::copy_out(self.receives.lines(), self.place_of(slot), to);
        debug_assert!(copied, "the region holds all slots");
        self.repost(slot);
        Some(length)
    }

    fn repost(&self, slot: u32) {
        if self.failed.get().is_some() {
            return;
        }
        match self.post_receive(slot) {
            Ok(()) => self.due.set(self.due.get().saturating_add(1)),
            Err(_refused) => self.fail(Fatal::QueueError),
        }
    }

    fn post_receive(&self, slot: u32) -> Result<(), PostError> {
        let at = from_usize(self.place_of(slot));
        let sge = self.receives.range(at, self.config.slot_bytes)?;
        self.qp.with_rq_wqe(|wqe| wqe.sge(sge).finish(widen(slot)))
    }

    const fn place_of(&self, slot: u32) -> usize {
        to_usize(widen(slot).wrapping_mul(widen(self.config.slot_bytes)))
    }
}

impl<B> fmt::Debug for Channel<'_, '_, B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Channel")
            .field("config", &self.config)
            .field("credit", &self.credit.get())
            .field("due", &self.due.get())
            .field("failed", &self.failed.get())
            .finish_non_exhaustive()
    }
}
