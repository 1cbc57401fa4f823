//! Slots of sends: all that a submission points at, until its completion has come.
//!
//! ```text
//!   free --post--> staged --doorbell--> rung --room in the queue--> the kernel's --completion--> free, or done
//! ```

use core::cell::Cell;
use core::net::SocketAddr;

use spinwire_layouts::uring::{SockAddr, Sqe, op};
use spinwire_layouts::wire::datagram::DATAGRAM_HEADER_BYTES;
use spinwire_layouts::word::{from_usize, widen};

use super::datagram;
use super::port::UdpPort;
use crate::error::{Misuse, PostError, Retry};
use crate::id::{Addr, Generation, OpTag, WrId};
use crate::msg::matching::RANGES_MAX;
use crate::provider::{Payload, SendPartsWr, SendWr, Sge, copy_bytes, copy_ranges};
use crate::raw::kernel_memory::{address_in, address_of};
use crate::raw::line::partial_word;
use crate::raw::loan::Loan;
use crate::shm::lane::Envelope;
use crate::uring::Enter;

/// Lists of slots.
pub(super) const FREE: u32 = 0;
pub(super) const STAGED: u32 = 1;
pub(super) const RUNG: u32 = 2;
pub(super) const DONE: u32 = 3;
pub(super) const LISTS: u32 = 4;

/// `MSG_NOSIGNAL` of send(2).
const NO_SIGNAL: u32 = 0x4000;

const HEADER_WORDS: usize = DATAGRAM_HEADER_BYTES / 8;
pub(super) const HEADER_BYTES: usize = DATAGRAM_HEADER_BYTES;

pub(super) struct Slot<'m> {
    pub(super) generation: Cell<Generation>,
    /// The caller's name for it; `None` for an injected message.
    pub(super) wr_id: Cell<Option<WrId>>,
    /// A copy of what could not be left where it was.
    pub(super) copy: Cell<Option<Loan<'m>>>,
    /// `struct msghdr`, its vector, the address, the header.
    message: [Cell<u64>; 7],
    /// The header, and pieces of the message: where each lies and how long it is.
    vector: [Cell<[u64; 2]>; 1 + RANGES_MAX],
    name: [Cell<u64>; 4],
    header: [Cell<u64>; HEADER_WORDS],
}

/// What a send is made of.
#[derive(Clone, Copy)]
enum Bytes<'a> {
    /// These, which are the caller's again at return.
    Injected(&'a [u8]),
    /// These ranges, which are the port's until the completion of that id.
    Posted(WrId, &'a [Sge]),
}

impl Bytes<'_> {
    const fn wr_id(&self) -> Option<WrId> {
        match self {
            Self::Injected(_) => None,
            Self::Posted(wr_id, _) => Some(*wr_id),
        }
    }

    /// Copies all of them to `to`, which has as many.
    fn copy_to(&self, to: &mut [u8]) {
        match self {
            Self::Injected(bytes) => copy_bytes(to, bytes),
            Self::Posted(_, parts) => copy_ranges(to, parts),
        }
    }
}

impl core::fmt::Debug for Slot<'_> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Slot").field("wr_id", &self.wr_id).finish_non_exhaustive()
    }
}

impl Slot<'_> {
    pub(super) const fn free() -> Self {
        Self {
            generation: Cell::new(Generation::FIRST),
            wr_id: Cell::new(None),
            copy: Cell::new(None),
            message: [const { Cell::new(0) }; 7],
            vector: [const { Cell::new([0; 2]) }; 1 + RANGES_MAX],
            name: [const { Cell::new(0) }; 4],
            header: [const { Cell::new(0) }; HEADER_WORDS],
        }
    }

    /// For a packet to `to`, of this header and of pieces that lie there and are so long.
    fn fill(
        &self,
        to: SocketAddr,
        header: &[u8; DATAGRAM_HEADER_BYTES],
        pieces: impl Iterator<Item = (u64, usize)>,
    ) {
        let name = SockAddr::new(to);
        set_words(&self.name, name.as_bytes());
        set_words(&self.header, header);
        let head = (address_in(&self.header), DATAGRAM_HEADER_BYTES);
        let pieces = pieces.filter(|(_, length)| *length > 0);
        let mut count = 0_u64;
        for (place, (at, length)) in self.vector.iter().zip(core::iter::once(head).chain(pieces)) {
            place.set([at, from_usize(length)]);
            count = count.wrapping_add(1);
        }
        // `struct msghdr`: name, its length, vector, its length, control, its length, flags (layouts::uring::MsgHdr).
        let name_bytes = from_usize(name.as_bytes().len());
        let message =
            [address_in(&self.name), name_bytes, address_in(&self.vector), count, 0, 0, 0];
        for (place, word) in self.message.iter().zip(message) {
            place.set(word);
        }
    }
}

fn set_words(places: &[Cell<u64>], bytes: &[u8]) {
    for (place, bytes) in places.iter().zip(bytes.chunks(8)) {
        place.set(partial_word(bytes));
    }
}

impl<'m, E: Enter> UdpPort<'m, E> {
    /// Stages a send.
    pub(super) fn stage(&self, wr: &SendWr<'_>) -> Result<(), PostError> {
        let envelope = Envelope { tag: wr.tag, immediate: wr.immediate };
        let bytes = match &wr.payload {
            Payload::Inject(bytes) => Bytes::Injected(bytes),
            Payload::Posted { wr_id, sge } => Bytes::Posted(*wr_id, core::slice::from_ref(sge)),
        };
        self.stage_packet((wr.to, envelope), bytes, wr.payload.bytes().len())
    }

    /// Stages a send of several ranges.
    pub(super) fn stage_parts(&self, wr: &SendPartsWr<'_>) -> Result<(), PostError> {
        let length = wr.checked_length(&self.info.limits)?;
        let envelope = Envelope { tag: wr.tag, immediate: wr.immediate };
        self.stage_packet((wr.to, envelope), Bytes::Posted(wr.wr_id, wr.parts), length)
    }

    /// Stages a packet of `length` bytes, at most [`RANGES_MAX`] pieces.
    fn stage_packet(
        &self,
        (to, envelope): (Addr, Envelope),
        bytes: Bytes<'_>,
        length: usize,
    ) -> Result<(), PostError> {
        let to = self.peers.address_of(to)?;
        if length > self.config.message_bytes_max {
            return Err(Misuse::TooLong.into());
        }
        let header = datagram::header(length, envelope)?;
        let wr_id = bytes.wr_id();
        if wr_id.is_some() && self.posted.get() >= self.config.send_depth {
            return Err(Retry::CqFull.into());
        }
        let number = self.sends.front(FREE).ok_or(Retry::NoSlot)?;
        let slot = self.slot(number).ok_or(Retry::NoSlot)?;
        let arena = self.ring.arena();
        match bytes {
            Bytes::Posted(_, parts) if parts.iter().all(|part| arena.covers_posted(part)) => {
                let pieces = parts.iter().map(|it| (address_of(it.start()), it.length()));
                slot.fill(to, &header, pieces);
            }
            Bytes::Injected(_) | Bytes::Posted(..) => {
                // There are as many copies as slots.
                let mut copy = self.copies.lend().ok_or(Retry::NoSlot)?;
                copy.set_len(length).map_err(|_too_small| Misuse::TooLong)?;
                bytes.copy_to(&mut copy);
                slot.fill(to, &header, core::iter::once((address_of(copy.range().0), length)));
                slot.copy.set(Some(copy));
            }
        }
        slot.wr_id.set(wr_id);
        self.posted.set(self.posted.get().wrapping_add(u32::from(wr_id.is_some())));
        let _in_front = self.sends.unlink(number);
        let _unlinked = self.sends.push_back(STAGED, number);
        Ok(())
    }

    /// Puts what was rung for into the ring, as far as there is room.
    pub(super) fn launch(&self) {
        while let Some(number) = self.sends.front(RUNG) {
            let Some(slot) = self.slot(number) else { return };
            let name = WrId::new(OpTag::Send, slot.generation.get(), number).as_raw();
            let entry = Sqe {
                opcode: op::SENDMSG,
                fd: self.fd,
                addr: address_in(&slot.message),
                len: 1,
                op_flags: NO_SIGNAL,
                user_data: name,
                ..Sqe::ZERO
            };
            if self.ring.push(&[entry]).is_err() {
                return;
            }
            let _in_front = self.sends.unlink(number);
        }
    }

    /// The kernel has done with a send.
    pub(super) fn sent(&self, (generation, number): (Generation, u32), res: i32) {
        let Some(slot) = self.slot(number) else { return self.stale() };
        if slot.generation.get() != generation || self.sends.list_of(number).is_some() {
            return self.stale();
        }
        slot.generation.set(generation.next());
        drop(slot.copy.take());
        self.count(|c| {
            let place = if res < 0 {
                c.send_errno = res.unsigned_abs();
                &mut c.send_errors
            } else {
                &mut c.sent
            };
            *place = place.wrapping_add(1);
        });
        let list = if slot.wr_id.get().is_some() { DONE } else { FREE };
        let _in_no_list = self.sends.push_back(list, number);
    }

    pub(super) fn slot(&self, number: u32) -> Option<&'m Slot<'m>> {
        self.slots.get(spinwire_layouts::word::to_usize(widen(number)))
    }
}
