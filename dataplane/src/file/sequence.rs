//! A chain while it is put together: entries are checked one by one, and nothing is submitted before the whole is.

use spinwire_layouts::word::{from_usize, low, to_usize, widen};

use super::op::{Op, Part};
use super::service::Files;
use super::{ENTRY_BYTES_MAX, EntryKind, FileId, OpId};
use crate::error::{Misuse, PostError, Refused};
use crate::raw::kernel_memory::address_of;
use crate::raw::loan::Loan;
use crate::uring::Enter;

/// A chain that is not submitted yet. Dropped, it is as if it had not been: its loans go back to their pool.
#[derive(Debug)]
#[must_use = "a chain does nothing before it is submitted"]
pub struct FileChain<'f, 'm, E: Enter> {
    files: &'f Files<'m, E>,
    slot: u32,
    submitted: bool,
}

/// What is to be moved.
#[derive(Clone, Copy)]
struct Range {
    offset: u64,
    length: u32,
    address: u64,
}

impl<'f, 'm, E: Enter> FileChain<'f, 'm, E> {
    pub(super) const fn new(files: &'f Files<'m, E>, slot: u32) -> Self {
        Self { files, slot, submitted: false }
    }

    /// Adds a write of what `loan` holds, at byte `offset` of `file`. `context` comes back with it.
    ///
    /// # Errors
    /// The loan comes back with the reason: `TooLong` for more entries than a chain has, more than
    /// [`ENTRY_BYTES_MAX`] bytes, or an end beyond 2^63; `UnalignedOffset`, `UnalignedLength`, `UnalignedMemory` by the
    /// [`FileShape`](super::FileShape); `Unsupported` for memory of another arena; `UnknownFile`.
    pub fn write(
        &mut self,
        file: FileId,
        offset: u64,
        loan: Loan<'m>,
        context: u64,
    ) -> Result<(), Refused<Loan<'m>>> {
        let length = loan.len();
        self.transfer((EntryKind::Write, file, context), (offset, length), loan)
    }

    /// Adds a read of `length` bytes from byte `offset` of `file` into `loan`.
    ///
    /// # Errors
    /// As [`write`](Self::write); `TooLong` for more than the loan can hold, too.
    pub fn read(
        &mut self,
        file: FileId,
        (offset, length): (u64, usize),
        loan: Loan<'m>,
        context: u64,
    ) -> Result<(), Refused<Loan<'m>>> {
        if length > loan.capacity() {
            return Err(Refused::new(Misuse::TooLong, loan));
        }
        self.transfer((EntryKind::Read, file, context), (offset, length), loan)
    }

    /// Adds an fdatasync(2) of `file`: of all that was written to it before, by whomever, and whose completion has come; and of
    /// the writes before it in this chain.
    ///
    /// # Errors
    /// `TooLong` for more entries than a chain has; `UnknownFile`.
    pub fn sync(&mut self, file: FileId, context: u64) -> Result<(), PostError> {
        self.files.row(file)?;
        let (op, part) = self.next()?;
        part.kind.set(EntryKind::Sync);
        fill(part, context, Range { offset: 0, length: 0, address: 0 });
        self.keep((op, part), file);
        Ok(())
    }

    /// Hands it in. It goes out with the next turn or [`flush`](Files::flush).
    ///
    /// # Errors
    /// `Unsupported` for a chain without entries.
    pub fn submit(mut self) -> Result<OpId, PostError> {
        let op = self.files.op_at(self.slot).ok_or(Misuse::Unsupported)?;
        if op.count.get() == 0 {
            return Err(Misuse::Unsupported.into());
        }
        self.submitted = true;
        self.files.enqueue(self.slot, op);
        Ok(op.id(self.slot))
    }

    fn transfer(
        &self,
        (kind, file, context): (EntryKind, FileId, u64),
        (offset, length): (u64, usize),
        loan: Loan<'m>,
    ) -> Result<(), Refused<Loan<'m>>> {
        let range = match self.check(file, (offset, length), &loan) {
            Ok(range) => range,
            Err(error) => return Err(Refused::new(error, loan)),
        };
        let (op, part) = match self.next() {
            Ok(next) => next,
            Err(error) => return Err(Refused::new(error, loan)),
        };
        part.kind.set(kind);
        fill(part, context, range);
        part.posted.set(Some(loan.post()));
        self.keep((op, part), file);
        Ok(())
    }

    /// Whether the kernel would take it, as far as can be said.
    fn check(
        &self,
        file: FileId,
        (offset, length): (u64, usize),
        loan: &Loan<'_>,
    ) -> Result<Range, PostError> {
        let shape = self.files.row(file)?.shape.get();
        let bytes = from_usize(length);
        let end = offset.checked_add(bytes).filter(|end| *end <= i64::MAX.cast_unsigned());
        if bytes > widen(ENTRY_BYTES_MAX) || end.is_none() {
            return Err(Misuse::TooLong.into());
        }
        if !self.files.ring().arena().covers(loan) {
            return Err(Misuse::Unsupported.into());
        }
        let address = address_of(loan.range().0);
        let (offset_align, memory_align) = (widen(shape.offset_align), widen(shape.memory_align));
        if !offset.is_multiple_of(offset_align) {
            return Err(Misuse::UnalignedOffset.into());
        }
        if !bytes.is_multiple_of(offset_align) {
            return Err(Misuse::UnalignedLength.into());
        }
        if !address.is_multiple_of(memory_align) {
            return Err(Misuse::UnalignedMemory.into());
        }
        Ok(Range { offset, length: low(bytes), address })
    }

    fn next(&self) -> Result<(&'m Op, &'m Part<'m>), PostError> {
        let op = self.files.op_at(self.slot).ok_or(Misuse::TooLong)?;
        let part = self.files.part(self.slot, op.count.get()).ok_or(Misuse::TooLong)?;
        Ok((op, part))
    }

    fn keep(&self, (op, part): (&'m Op, &'m Part<'m>), file: FileId) {
        part.file.set(file.slot());
        op.count.set(op.count.get().wrapping_add(1));
        if let Some(row) = self.files.row_at(file.slot()) {
            row.entries.set(row.entries.get().wrapping_add(1));
        }
    }
}

impl<E: Enter> Drop for FileChain<'_, '_, E> {
    fn drop(&mut self) {
        if !self.submitted {
            self.files.discard(self.slot);
        }
    }
}

fn fill(part: &Part<'_>, context: u64, range: Range) {
    part.offset.set(range.offset);
    part.length.set(range.length);
    part.address.set(range.address);
    part.context.set(context);
    part.done.set(0);
    part.from.set(0);
    part.answer.set(None);
    part.result.set(Ok(()));
}

/// The byte from which on an entry of which `done` bytes are done is submitted again: aligned as the file wants it.
pub(super) const fn resume_from(done: u32, align: u32) -> u32 {
    match done.checked_rem(align) {
        Some(over) => done.saturating_sub(over),
        None => done,
    }
}

/// The place of an entry in the table of all.
pub(super) const fn index_of(slot: u32, entry: u16, shift: u32) -> usize {
    let entry = to_usize(widen_entry(entry));
    to_usize(widen(slot)).wrapping_shl(shift).wrapping_add(entry)
}

const fn widen_entry(entry: u16) -> u64 {
    let [a, b] = entry.to_le_bytes();
    u64::from_le_bytes([a, b, 0, 0, 0, 0, 0, 0])
}
