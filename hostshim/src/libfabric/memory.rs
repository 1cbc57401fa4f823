//! Memory that others see, and operations on theirs: `fi_mr(3)`, `fi_rma(3)`, `fi_atomic(3)`. And memory that a device reads and writes for messages.
//!
//! Where the provider asks for it (`FI_MR_LOCAL`: RDMA devices do), the memory of messages is registered: what is left of the arena when the port is
//! opened, in one piece, and what lies elsewhere when it is first posted, which takes system calls; from then on it is known. It stays registered, and
//! in memory, as long as the port lives.
//!
//! A key is the provider's where it asks for that, else the port's own, and never the same twice. Libfabric has rights to read and to write, and
//! none of its own for atomics: whoever may write may do those. Which providers check what is in [`faults`](super::offer::faults); over those
//! that do not there is nothing of this, unless the configuration accepts it. Where not even a key that was withdrawn is refused, nothing can be
//! withdrawn: the memory stays exposed as long as the port lives.

use spinwire_dataplane::error::{Misuse, PostError, Retry};
use spinwire_dataplane::id::WrId;
use spinwire_dataplane::provider::one_sided::ATOMIC_BYTES;
use spinwire_dataplane::provider::{
    Access, CancelError, Caps, Cqe, ExposeWr, OneSided, OneSidedWr, RemoteRegion, Status,
};
use spinwire_dataplane::raw::loan::Sge;
use spinwire_layouts::word::from_usize;

use super::contexts::{Operation, What};
use super::offer::Guard;
use super::port::OfiPort;
use crate::raw::ofi::{Descriptor, Region};

/// The operands of an atomic operation: what it takes, and what it expects.
fn operands(op: OneSided) -> Option<[u8; 16]> {
    let (taken, expected) = match op {
        OneSided::FetchAdd(add) => (add, 0),
        OneSided::CompareSwap { expected, swap } => (swap, expected),
        OneSided::Write | OneSided::Read => return None,
    };
    let mut both = [0; 16];
    for (to, from) in both.as_chunks_mut::<8>().0.iter_mut().zip([taken, expected]) {
        *to = from.to_le_bytes();
    }
    Some(both)
}

/// Pieces of memory outside of the arena that a port keeps registered, at most.
const PIECES_MAX: usize = 256;

impl OfiPort<'_> {
    /// What the library was told of a range, which is registered if it was never met with.
    #[inline]
    pub(super) fn known(&self, range: &Sge) -> Result<Descriptor, Misuse> {
        let start = range.bytes().as_ptr().addr();
        let inside = |region: &&Region| {
            let (from, bytes) = region.range();
            start >= from && start - from + range.length() <= bytes
        };
        let known = self.regions.borrow().iter().find(inside).map(Region::descriptor);
        known.map_or_else(|| self.register_for(range), Ok)
    }

    #[cold]
    fn register_for(&self, range: &Sge) -> Result<Descriptor, Misuse> {
        let mut regions = self.regions.borrow_mut();
        if regions.len() > PIECES_MAX {
            return Err(Misuse::ForeignKey);
        }
        let region = Region::around(self.domain(), range).map_err(|_failed| Misuse::ForeignKey)?;
        let descriptor = region.descriptor();
        regions.push(region);
        Ok(descriptor)
    }

    /// Whether an operation can be right, as far as this end can tell.
    fn check_one_sided(&self, wr: &OneSidedWr) -> Result<(), Misuse> {
        let needed = if wr.op.is_atomic() { Caps::ATOMIC } else { Caps::RMA };
        let length = wr.local.length();
        if !self.info.caps.has(needed) {
            return Err(Misuse::Unsupported);
        }
        if length == 0 || (wr.op.is_atomic() && length != ATOMIC_BYTES) {
            return Err(Misuse::BadRange);
        }
        if length > self.info.limits.message_bytes_max { Err(Misuse::TooLong) } else { Ok(()) }
    }

    pub(super) fn launch_one_sided(&self, wr: &OneSidedWr) -> Result<(), PostError> {
        self.check_one_sided(wr)?;
        let row = self.peers.find(wr.to)?;
        row.state.standing().may_be_sent_to()?;
        if self.sends.get() >= self.info.limits.send_depth {
            return Err(Retry::CqFull.into());
        }
        if wr.op.is_atomic() && !wr.remote.address.is_multiple_of(from_usize(ATOMIC_BYTES)) {
            // Not every provider sees that. The loans of the peer begin at lines.
            self.end_with(Cqe::without_message(wr.wr_id, Status::RemoteAccess));
            return Ok(());
        }
        let descriptor = self.descriptor_of(&wr.local)?;
        let slot = operands(wr.op).map(|both| self.copies.take(&both).ok_or(Retry::NoSlot));
        let slot = slot.transpose()?;
        let numbers = slot.map_or(wr.local, |(_, range)| range);
        let their = self.descriptor_of(&numbers)?;
        let bytes = u32::try_from(wr.local.length()).unwrap_or(u32::MAX);
        let what = What::OneSided { bytes, operands: slot.map(|(slot, _)| slot) };
        let (wr_id, range, room) = (wr.wr_id, wr.local, wr.local.length());
        let operation =
            Operation { wr_id, what, peer: Some(wr.to), range, room, ends: None, held: false };
        let posted = self.contexts.enter(operation).ok_or(Retry::NoSlot.into()).and_then(|space| {
            let what = (wr.op, row.number.get(), wr.remote);
            let local = (&wr.local, descriptor);
            let posted =
                self.with_active(|active| active.one_sided(what, local, (&numbers, their), space));
            self.answered(posted, space)
        });
        match posted {
            Ok(()) => self.sends.set(self.sends.get() + 1),
            Err(_) => slot.into_iter().for_each(|(slot, _)| self.copies.give_back(slot)),
        }
        posted
    }

    pub(super) fn one_sided_ended(&self, operands: Option<u32>) {
        self.sends.set(self.sends.get().saturating_sub(1));
        operands.into_iter().for_each(|slot| self.copies.give_back(slot));
    }

    /// Lets others into memory.
    pub(super) fn expose_range(&self, wr: &ExposeWr) -> Result<RemoteRegion, PostError> {
        if !self.info.caps.has(Caps::EXPOSE) {
            return Err(Misuse::Unsupported.into());
        }
        if wr.sge.length() == 0 {
            return Err(Misuse::BadRange.into());
        }
        let writes = wr.access.has(Access::WRITE) || wr.access.has(Access::ATOMIC);
        let rights = (wr.access.has(Access::READ), writes);
        let key = self.keys.get();
        self.keys.set(key.wrapping_add(1));
        let region = Region::expose(self.domain(), &wr.sge, rights, key);
        let region = region.map_err(|_failed| Misuse::Unsupported)?;
        let (start, bytes) = region.range();
        let address = if self.modes.virtual_address { from_usize(start) } else { 0 };
        let (key, access, bytes) = (region.key(), wr.access, from_usize(bytes));
        self.exposed.borrow_mut().push((wr.wr_id, region));
        Ok(RemoteRegion { address, key, bytes, access })
    }

    /// Takes it back.
    pub(super) fn withdraw_range(&self, wr_id: WrId) -> Result<(), CancelError> {
        let mut exposed = self.exposed.borrow_mut();
        if self.memory_guard == Guard::None && exposed.iter().any(|(id, _)| *id == wr_id) {
            // Who knows the key still gets in.
            return Err(CancelError::Unsupported);
        }
        let at = exposed.iter().position(|(id, _)| *id == wr_id).ok_or(CancelError::NotPosted)?;
        drop(exposed.swap_remove(at));
        Ok(())
    }
}
