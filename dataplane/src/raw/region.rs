//! Memory that a device may read and write by itself, and the ranges of it that are named to it.
//!
//! ```text
//!   Region       lines of shared memory under one key       range(offset, length) ─┐
//!   Registered   an arena with loans, under one key         posted(sge)           ─┴─> LocalSge: address, length, key
//!   Loans        the same, under a key of any device
//! ```
//!
//! A WQE can have the device write to any registered address at any later time. So a builder takes a [`LocalSge`] and nothing else,
//! and safe code gets one only of memory in which such a write harms nobody: shared memory, or a range that was posted and is
//! its owner's again after the completion.
//!
//! Invariant: a range is not empty (0 bytes would mean 2 GiB to the device), at most 2 GiB long, and inside of its memory.

use core::ptr::NonNull;

use spinwire_layouts::word::from_usize;

use super::kernel_memory::address_of;
use super::line::Line;
use super::loan::Sge;
use crate::error::{Misuse, PostError};
use crate::provider::Access;

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

/// Says that a queue pair is no more, so that its device touches no memory by it.
#[derive(Clone, Copy, Debug)]
pub struct Destroyed(());

impl Destroyed {
    /// The queue pair that this is said of is no more.
    ///
    /// # Safety
    /// It was destroyed, or reset (`IBV_QPS_RESET`): its device neither reads nor writes any memory that a request of it had named.
    #[must_use]
    pub const unsafe fn promise() -> Self {
        Self(())
    }
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

/// An arena in which buffers of an endpoint lie, registered under the addresses that they have here, with a key of any device.
#[derive(Clone, Copy, Debug)]
pub struct Loans<K> {
    start: u64,
    bytes: u64,
    key: K,
}

impl<K: Copy> Loans<K> {
    /// Memory that is registered.
    ///
    /// # Safety
    /// `start..start+bytes` is registered under `key`, and stays registered and mapped as long as a queue pair lives that is told of it. The devices
    /// of those queue pairs use a range that a request names until they have completed that request and no longer, and none once
    /// the queue pair was dropped.
    #[must_use]
    pub const unsafe fn promise(start: u64, bytes: u64, key: K) -> Self {
        Self { start, bytes, key }
    }

    /// Posted memory, as the device is told it: address, length and key; `None` where it is empty or not inside.
    #[must_use]
    #[inline]
    pub fn posted(&self, sge: &Sge) -> Option<(u64, u32, K)> {
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
/// [`unregister`](Registrar::unregister) has said yes, or when this was dropped.
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
