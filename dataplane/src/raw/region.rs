//! Memory that a device may read and write by itself, and the ranges of it that are named to it.
//!
//! ```text
//!   Region       lines of shared memory under one key       range(offset, length)  ─┐
//!   Registered   an arena with loans, under one key         posted(sge)            ─┼─> LocalSge: address, length, key
//!   MemoryKey    a range of addresses under one key         range(address, length) ─┘
//!   Loans        an arena with loans, under a key of any device
//! ```
//!
//! A WQE can have the device write to any registered address at any later time. So a builder takes a [`LocalSge`] and nothing else,
//! and safe code gets one only of memory in which such a write harms nobody: shared memory, or a range that was posted and is
//! its owner's again after the completion.
//!
//! Invariant: a range is not empty (0 bytes would mean 2 GiB to the device), at most 2 GiB long, and inside of its memory.

use core::fmt;
use core::marker::PhantomData;
use core::ptr::NonNull;

use spinwire_layouts::word::{from_usize, to_usize, widen};

use super::kernel_memory::address_of;
use super::line::Line;
use super::loan::Sge;
use crate::error::{Misuse, PostError};
use crate::provider::Access;
use crate::verbs::{PairId, QueuePair};

/// Most bytes of a range.
pub const RANGE_BYTES_MAX: u32 = (1 << 31) - 1;

/// A range of registered memory, as a WQE names it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LocalSge {
    addr: u64,
    length: u32,
    lkey: u32,
}

impl LocalSge {
    /// Any range.
    ///
    /// # Safety
    /// `addr..addr+length` is registered under `lkey`, and stays registered and mapped until everything that names this range has
    /// completed or its queue is destroyed. Until then nobody reads it as plain memory where the device may write it, nor writes
    /// it where the device may read it.
    ///
    /// # Errors
    /// [`Misuse::BadRange`] where it is empty or longer than [`RANGE_BYTES_MAX`].
    #[inline]
    pub const unsafe fn from_raw(addr: u64, length: u32, lkey: u32) -> Result<Self, Misuse> {
        Self::checked(addr, length, lkey)
    }

    const fn checked(addr: u64, length: u32, lkey: u32) -> Result<Self, Misuse> {
        if length == 0 || length > RANGE_BYTES_MAX {
            return Err(Misuse::BadRange);
        }
        Ok(Self { addr, length, lkey })
    }

    /// Where it begins.
    #[inline(always)]
    #[must_use]
    pub const fn addr(&self) -> u64 {
        self.addr
    }

    /// Its bytes.
    #[inline(always)]
    #[must_use]
    pub const fn length(&self) -> u32 {
        self.length
    }

    /// Its local key.
    #[inline(always)]
    #[must_use]
    pub const fn lkey(&self) -> u32 {
        self.lkey
    }
}

/// Shared memory under one key: whatever the device does to it is what another process could do.
#[derive(Clone, Copy, Debug)]
pub struct Region<'m> {
    lines: &'m [Line],
    lkey: u32,
}

impl<'m> Region<'m> {
    /// Memory that is registered.
    ///
    /// # Safety
    /// The lines are registered under `lkey`, and stay registered and mapped until no queue has anything under way that names them.
    #[must_use]
    pub const unsafe fn promise(lines: &'m [Line], lkey: u32) -> Self {
        Self { lines, lkey }
    }

    /// Its memory.
    #[must_use]
    pub const fn lines(&self) -> &'m [Line] {
        self.lines
    }

    /// All of it, for requests that name addresses.
    #[must_use]
    pub fn key(&self) -> MemoryKey<'m> {
        let start = address_of(NonNull::from_ref(self.lines));
        let bytes = from_usize(self.lines.len()).wrapping_mul(64);
        MemoryKey { start, bytes, lkey: self.lkey, memory: PhantomData }
    }

    /// `length` bytes from `offset` on.
    ///
    /// # Errors
    /// [`Misuse::BadRange`] where they are none, too many, or not inside.
    #[inline]
    pub fn range(&self, offset: u64, length: u32) -> Result<LocalSge, Misuse> {
        let bytes = from_usize(self.lines.len()).wrapping_mul(64);
        within((address_of(NonNull::from_ref(self.lines)), bytes), offset, length, self.lkey)
    }
}

/// Says that a queue pair is no more, so that its device touches no memory by it. Of that one alone: whoever keeps it has nothing of another that
/// got the same number of the device. It is neither copied nor kept by whoever believes it.
#[derive(Debug)]
pub struct Destroyed {
    pair: PairId,
}

impl Destroyed {
    /// That queue pair is no more.
    ///
    /// # Safety
    /// It was destroyed, or reset (`IBV_QPS_RESET`) for good: its device neither reads nor writes any memory that a request of it had named. No
    /// other queue pair has this [`id`](crate::verbs::QueuePair::id), now or later.
    #[must_use]
    pub const unsafe fn promise(pair: PairId) -> Self {
        Self { pair }
    }

    /// Which one.
    #[must_use]
    pub const fn pair(&self) -> PairId {
        self.pair
    }
}

/// What lets a device into a range of memory by its address: the capability of requests that name addresses. Whoever has it may have the
/// device read and write there at any time, and this processor in the place of the device.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct MemoryKey<'m> {
    start: u64,
    bytes: u64,
    lkey: u32,
    memory: PhantomData<&'m [Line]>,
}

impl MemoryKey<'_> {
    /// Memory that is registered.
    ///
    /// # Safety
    /// For all of `'m`, `start..start+bytes` is mapped for reading and writing and initialised; it is registered under `lkey`, and stays so until no queue
    /// has anything under way that names it. This key is handed to such only as name a part of it while it is theirs: from the post of
    /// a request to its completion nobody else reads it where the request writes, nor writes it where it reads.
    #[must_use]
    pub unsafe fn promise(start: NonNull<u8>, bytes: u64, lkey: u32) -> Self {
        Self { start: address_of(start), bytes, lkey, memory: PhantomData }
    }

    /// `length` bytes from `address` on.
    ///
    /// # Errors
    /// [`Misuse::ForeignKey`] where they are not inside; [`Misuse::BadRange`] where they are none, or too many.
    #[inline]
    pub const fn range(&self, address: u64, length: u32) -> Result<LocalSge, Misuse> {
        if !self.covers(address, length) {
            return Err(Misuse::ForeignKey);
        }
        LocalSge::checked(address, length, self.lkey)
    }

    /// Whether so many bytes from `address` on are inside.
    #[must_use]
    #[inline]
    pub const fn covers(&self, address: u64, length: u32) -> bool {
        let offset = address.wrapping_sub(self.start);
        match offset.checked_add(widen(length)) {
            Some(end) => end <= self.bytes,
            None => false,
        }
    }

    /// Copies what is at `address` into all of `to`: for requests that carry their bytes. Whether it is inside.
    #[must_use]
    #[inline]
    pub(crate) fn copy_out(&self, address: u64, to: &mut [u8]) -> bool {
        let Ok(length) = u32::try_from(to.len()) else { return false };
        if !self.covers(address, length) {
            return false;
        }
        let from = core::ptr::with_exposed_provenance::<u8>(to_usize(address));
        // SAFETY: inside of what was promised to be mapped, and exposed when the promise was made; `to` is ours; what a device or another
        // process writes there meanwhile gives other bytes and nothing worse, as the copy is opaque.
        unsafe { copy(from, to.as_mut_ptr(), to.len()) };
        true
    }

    /// Copies `from` to `address`, in the place of the device: what it has put into a completion. Whether it is inside.
    #[must_use]
    #[inline]
    pub(crate) fn copy_in(&self, address: u64, from: &[u8]) -> bool {
        let Ok(length) = u32::try_from(from.len()) else { return false };
        if !self.covers(address, length) {
            return false;
        }
        let to = core::ptr::with_exposed_provenance_mut::<u8>(to_usize(address));
        // SAFETY: as in `copy_out`; a request under way names it, so that nobody else reads or writes it as plain memory.
        unsafe { copy(from.as_ptr(), to, from.len()) };
        true
    }
}

/// Copies without the compiler looking on.
///
/// # Safety
/// `from` is readable and `to` writable for `bytes`; they do not overlap.
#[cfg(all(target_arch = "x86_64", not(loom)))]
#[inline]
unsafe fn copy(from: *const u8, to: *mut u8, bytes: usize) {
    // SAFETY: copies eight bytes a step while there are so many, then one; ends behind the last; scratch registers and flags are declared.
    unsafe {
        core::arch::asm!(
            "cmp {left}, 8",
            "jb 3f",
            "2:",
            "mov {word}, [{from}]",
            "mov [{to}], {word}",
            "add {from}, 8",
            "add {to}, 8",
            "sub {left}, 8",
            "cmp {left}, 8",
            "jae 2b",
            "3:",
            "test {left}, {left}",
            "jz 5f",
            "4:",
            "mov {word:l}, [{from}]",
            "mov [{to}], {word:l}",
            "inc {from}",
            "inc {to}",
            "dec {left}",
            "jnz 4b",
            "5:",
            from = inout(reg) from => _,
            to = inout(reg) to => _,
            left = inout(reg) bytes => _,
            word = out(reg) _,
            options(nostack),
        );
    }
}

/// Copies, as the compiler does it.
///
/// # Safety
/// As of the other one.
#[cfg(not(all(target_arch = "x86_64", not(loom))))]
unsafe fn copy(from: *const u8, to: *mut u8, bytes: usize) {
    // SAFETY: the caller's promise; devices are outside of Rust's memory model, and other threads keep away while a request names it.
    unsafe { core::ptr::copy_nonoverlapping(from, to, bytes) };
}

/// An arena under one key, in which loans are.
#[derive(Clone, Copy, Debug)]
pub struct Registered {
    start: u64,
    bytes: u64,
    lkey: u32,
}

impl Registered {
    /// Memory that is registered.
    ///
    /// # Safety
    /// `start..start+bytes` is registered under `lkey`, and stays registered and mapped until no queue has anything under way that
    /// names it.
    #[must_use]
    pub unsafe fn promise(start: NonNull<u8>, bytes: u64, lkey: u32) -> Self {
        Self { start: address_of(start), bytes, lkey }
    }

    /// Memory that was posted, and is the device's until the completion.
    ///
    /// # Errors
    /// [`Misuse::BadRange`] where it is empty, too long, or not inside.
    #[inline]
    pub fn posted(&self, sge: &Sge) -> Result<LocalSge, Misuse> {
        let offset = address_of(sge.start()).wrapping_sub(self.start);
        let length = u32::try_from(sge.length()).map_err(|_long| Misuse::BadRange)?;
        within((self.start, self.bytes), offset, length, self.lkey)
    }
}

/// An arena in which buffers of an endpoint lie, registered under the addresses that they have here, with a key of any device: for queue pairs
/// of type `Q` whose requests complete in queues of type `C`, for which is promised what safe traits cannot.
pub struct Loans<Q: QueuePair, C> {
    start: u64,
    bytes: u64,
    key: Q::Key,
    of: PhantomData<fn(Q, C)>,
}

impl<Q: QueuePair, C> Clone for Loans<Q, C> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<Q: QueuePair, C> Copy for Loans<Q, C> {}

impl<Q: QueuePair, C> fmt::Debug for Loans<Q, C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Loans").field("start", &self.start).field("bytes", &self.bytes).finish()
    }
}

impl<Q: QueuePair, C> Loans<Q, C> {
    /// Memory that is registered.
    ///
    /// # Safety
    /// `start..start+bytes` is registered under `key`, and stays registered and mapped as long as a queue pair lives that is told of it. Of every `Q`
    /// that takes this key, and every `C`: the device uses a range that a request names until `C` has said under the number of that `Q` that the request is
    /// completed, and no longer; and none once [`end`](QueuePair::end) has said yes. No two of these `Q` ever have the same
    /// [`id`](QueuePair::id), and no two of them that live the same number.
    #[must_use]
    pub const unsafe fn promise(start: u64, bytes: u64, key: Q::Key) -> Self {
        Self { start, bytes, key, of: PhantomData }
    }

    /// Posted memory, as the device is told it: address, length and key; `None` where it is empty or not inside.
    #[must_use]
    #[inline]
    pub fn posted(&self, sge: &Sge) -> Option<(u64, u32, Q::Key)> {
        let address = address_of(sge.start());
        let length = u32::try_from(sge.length()).ok()?;
        let offset = address.checked_sub(self.start)?;
        let end = offset.checked_add(u64::from(length))?;
        (length > 0 && end <= self.bytes).then_some((address, length, self.key))
    }
}

/// Lets the other ends of queue pairs into memory that was posted, by registering it with their device. `()` never does.
///
/// # Safety
/// Nobody is let in but as [`register`](Registrar::register) was asked to, and the device touches the memory no more when
/// [`unregister`](Registrar::unregister) has said yes. What was not taken back when this is dropped may be touched for ever.
pub unsafe trait Registrar {
    /// Whether it can let anybody in at all.
    const EXPOSES: bool = true;

    /// Lets whoever knows the key into `memory`, as far as `access` says. May take a system call. Returns the key.
    ///
    /// # Errors
    /// Nothing is registered: `Unsupported` for rights that cannot be given, `Retry` where there is no room.
    fn register(&self, memory: &Sge, access: Access) -> Result<u32, PostError>;

    /// Takes the memory of a key back. Whether nobody is let in any more.
    fn unregister(&self, key: u32) -> bool;
}

// SAFETY: it registers nothing.
unsafe impl Registrar for () {
    const EXPOSES: bool = false;

    fn register(&self, _memory: &Sge, _access: Access) -> Result<u32, PostError> {
        Err(Misuse::Unsupported.into())
    }

    fn unregister(&self, _key: u32) -> bool {
        false
    }
}

#[inline]
fn within(
    (start, bytes): (u64, u64),
    offset: u64,
    length: u32,
    lkey: u32,
) -> Result<LocalSge, Misuse> {
    let end = offset.checked_add(u64::from(length)).ok_or(Misuse::BadRange)?;
    if end > bytes {
        return Err(Misuse::BadRange);
    }
    LocalSge::checked(start.wrapping_add(offset), length, lkey)
}
