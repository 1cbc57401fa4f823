//! Chains into linked submissions: the one place where they are made. What there is no room for waits on.

use spinwire_layouts::uring::{Sqe, fsync, op, sqe};
use spinwire_layouts::word::{to_usize, widen};

use super::op::{Op, Part, Phase};
use super::sequence::resume_from;
use super::service::{Files, LIST};
use super::{ENTRIES_MAX, EntryError, EntryKind, FileRef};
use crate::chain::{ChainId, Entry};
use crate::error::{PostError, Retry};
use crate::id::{OpTag, WrId};
use crate::uring::Enter;
use crate::uring::ring::UNHEARD;

const ENTRIES: usize = 32;
const _: () = assert!(ENTRIES_MAX == 32, "as many submissions are built at once");

impl<'m, E: Enter> Files<'m, E> {
    /// Submits up to `most` chains.
    #[inline]
    pub(super) fn drive(&self, most: u32) {
        for _ in 0..most.min(self.config.operations) {
            let Some(slot) = self.wanting.front(LIST) else { return };
            if self.drive_op(slot).is_err() {
                return;
            }
            let _in_front = self.wanting.unlink(slot);
        }
    }

    fn drive_op(&self, slot: u32) -> Result<(), PostError> {
        let Some(op) = self.op_at(slot) else { return Ok(()) };
        match op.phase.get() {
            Phase::Waiting => self.launch(slot, op),
            Phase::Running => self.cancel_running(op),
            Phase::Free | Phase::Building | Phase::Ended | Phase::Lost => Ok(()),
        }
    }

    /// Submits the entries of an op that are not whole, the first of them from the byte where it stopped.
    fn launch(&self, slot: u32, op: &'m Op) -> Result<(), PostError> {
        let base = op.ready.get();
        let parts = self.parts_of(slot, op).get(usize::from(base)..).unwrap_or_default();
        let count = parts.len();
        if to_usize(widen(self.ring().room())) < count {
            return Err(Retry::SqFull.into());
        }
        let mut entries = [Entry::plain(0); ENTRIES];
        for (entry, part) in entries.iter_mut().zip(parts) {
            part.answer.set(None);
            let align = self.row_at(part.file.get()).map_or(1, |row| row.shape.get().offset_align);
            part.from.set(resume_from(part.done.get(), align));
            *entry = match part.kind.get() {
                EntryKind::Sync => Entry::plain(0),
                EntryKind::Read | EntryKind::Write => Entry::bytes(part.wanted(), 0),
            };
        }
        let entries = entries.get(..count).unwrap_or_default();
        let chain = self.chains.start_at(slot, 0, entries)?;
        let mut out = [Sqe::ZERO; ENTRIES];
        let out = out.get_mut(..count).unwrap_or_default();
        for ((place, part), at) in out.iter_mut().zip(parts).zip(0_u16..) {
            *place = self.submission(part, name_of(chain, at));
            if usize::from(at).wrapping_add(1) < count {
                place.flags |= sqe::IO_LINK;
            }
        }
        if let Err(refused) = self.ring().push(out) {
            let _nothing_was_submitted = self.chains.abandon(chain, |_, _| {});
            return Err(refused);
        }
        op.base.set(base);
        op.chain.set(Some(chain));
        op.phase.set(Phase::Running);
        self.count(|c| c.launched = c.launched.wrapping_add(1));
        Ok(())
    }

    fn submission(&self, part: &Part<'m>, user_data: u64) -> Sqe {
        let file = self.row_at(part.file.get()).and_then(|row| row.file.get());
        let (fd, flags) = match file {
            Some(FileRef::Descriptor(fd)) => (fd, 0),
            Some(FileRef::Slot(slot)) => (slot.cast_signed(), sqe::FIXED_FILE),
            // No file: the kernel answers EBADF.
            None => (-1, 0),
        };
        let whole = Sqe { fd, flags, user_data, ..Sqe::ZERO };
        let fixed = if self.config.fixed_buffers {
            self.ring().arena().fixed_index(part.address.get(), part.length.get())
        } else {
            None
        };
        let opcode = match (part.kind.get(), fixed) {
            (EntryKind::Sync, _) => {
                return Sqe { opcode: op::FSYNC, op_flags: fsync::DATASYNC, ..whole };
            }
            (EntryKind::Read, Some(_)) => op::READ_FIXED,
            (EntryKind::Read, None) => op::READ,
            (EntryKind::Write, Some(_)) => op::WRITE_FIXED,
            (EntryKind::Write, None) => op::WRITE,
        };
        if fixed.is_some() {
            self.count(|c| c.fixed = c.fixed.wrapping_add(1));
        }
        let from = widen(part.from.get());
        Sqe {
            opcode,
            off: part.offset.get().wrapping_add(from),
            addr: part.address.get().wrapping_add(from),
            len: part.wanted(),
            buf_index: fixed.unwrap_or(0),
            ..whole
        }
    }

    /// Asks the kernel to cancel what it has of an op.
    fn cancel_running(&self, op: &Op) -> Result<(), PostError> {
        let Some(chain) = op.chain.get() else { return Ok(()) };
        let Ok(outstanding) = self.chains.cancel(chain) else { return Ok(()) };
        for entry in outstanding.operations {
            self.ring().push(&[Sqe {
                opcode: op::ASYNC_CANCEL,
                fd: -1,
                addr: name_of(chain, entry),
                user_data: UNHEARD,
                ..Sqe::ZERO
            }])?;
        }
        Ok(())
    }

    /// Ends everything: the ring is lost. What the kernel has of it never comes back.
    #[cold]
    pub(super) fn lose(&self) {
        if self.lost.replace(true) {
            return;
        }
        for slot in 0..self.config.operations {
            let Some(op) = self.op_at(slot) else { return };
            match op.phase.get() {
                Phase::Waiting => {
                    let _listed = self.wanting.unlink(slot);
                    self.finish((slot, op), (op.ready.get(), EntryError::RingLost));
                }
                Phase::Running => {
                    let _perhaps_listed = self.wanting.unlink(slot);
                    self.finish((slot, op), (op.ready.get(), EntryError::RingLost));
                    op.phase.set(Phase::Lost);
                }
                Phase::Free | Phase::Building | Phase::Ended | Phase::Lost => {}
            }
        }
    }
}

/// The name of an entry on the ring: that of its chain, with the tag of files.
fn name_of(chain: ChainId, entry: u16) -> u64 {
    match chain.user_data(entry).and_then(|name| name.parts()) {
        Some((_, generation, slot)) => WrId::new(OpTag::File, generation, slot).as_raw(),
        None => UNHEARD,
    }
}
