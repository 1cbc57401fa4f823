//! Guards: the right to a buffer, as long as they live.
//!
//! ```text
//!   acquire, get_mut, adopt_mut -> Guard<Exclusive> --publish--> Guard<Shared> <- get, adopt
//!                                    |  write, describe            |  read
//!                                    '-- detach ----> id <-- detach'      drop: let go; the last one frees the buffer
//! ```
//!
//! What may be done follows from the type: a [`Guard<Shared>`](Shared) has no method that writes, and a guard that was detached
//! or published is gone. [`AnyGuard`] is for code that knows its mode only when it runs; it answers with errors instead.

use core::fmt;
use core::marker::PhantomData;
use core::mem::ManuallyDrop;

use spinwire_layouts::pod::Plain;
use spinwire_layouts::shm::{AccessMode, BufferId, StorageType};
use spinwire_layouts::word::{from_usize, to_usize};

use super::error::PoolError;
use super::handle::Pool;
use super::host::{NoHost, PoolHost};
use super::segment::{SIZE, load, store};
use super::tally::{Place, WRITING};
use crate::error::{Fatal, Misuse, PostError};
use crate::raw::line::Line;
use crate::raw::payload::{Payload, PlainAccess};

mod sealed {
    #[expect(unnameable_types, reason = "so that no other mode can be made")]
    pub trait Sealed {}
}

/// What a guard is for: [`Exclusive`] or [`Shared`].
pub trait Mode: sealed::Sealed + fmt::Debug {
    /// The same, as a value.
    const ACCESS: AccessMode;
}

/// The only guard of its buffer, for reading and writing.
#[derive(Clone, Copy, Debug)]
pub enum Exclusive {}

/// One of any number of guards, in any processes, for reading.
#[derive(Clone, Copy, Debug)]
pub enum Shared {}

impl sealed::Sealed for Exclusive {}
impl sealed::Sealed for Shared {}

impl Mode for Exclusive {
    const ACCESS: AccessMode = AccessMode::ReadWrite;
}

impl Mode for Shared {
    const ACCESS: AccessMode = AccessMode::ReadOnly;
}

/// A guard for writing, alone.
pub type ExclusiveGuard<'p, H = NoHost> = Guard<'p, Exclusive, H>;
/// A guard for reading, with others.
pub type SharedGuard<'p, H = NoHost> = Guard<'p, Shared, H>;

/// A buffer in hand. Dropping it lets go of it.
pub struct Guard<'p, M: Mode, H: PoolHost = NoHost> {
    pub(super) hold: Hold<'p, H>,
    payload: Payload<'p>,
    mode: PhantomData<M>,
}

/// What a guard is about.
pub(super) struct Hold<'p, H: PoolHost> {
    pool: &'p Pool<'p, H>,
    pub(super) place: Place<'p>,
    id: BufferId,
    /// Bytes in use; read once.
    length: u64,
}

impl<H: PoolHost> Clone for Hold<'_, H> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<H: PoolHost> Copy for Hold<'_, H> {}

impl<H: PoolHost> Hold<'_, H> {
    /// From now on it is for reading: further guards of this handle know of the buffer what this one knows.
    fn shared(&self) {
        self.place.tally.generation.set(self.id.generation());
        self.place.tally.length.set(self.length);
        self.place.tally.count.set(1);
    }
}

/// A guard that could not be given up, and why.
#[derive(Debug)]
pub struct Kept<'p, M: Mode, H: PoolHost = NoHost> {
    /// Why.
    pub error: PoolError,
    /// The guard, as it was.
    pub guard: Guard<'p, M, H>,
}

impl<M: Mode, H: PoolHost> fmt::Display for Kept<'_, M, H> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.error.fmt(f)
    }
}

impl<M: Mode, H: PoolHost> core::error::Error for Kept<'_, M, H> {}

impl<M: Mode, H: PoolHost> From<Kept<'_, M, H>> for PoolError {
    /// The reason alone; the guard is dropped.
    fn from(kept: Kept<'_, M, H>) -> Self {
        kept.error
    }
}

impl<'p, M: Mode, H: PoolHost> Guard<'p, M, H> {
    #[inline]
    pub(super) const fn new(
        pool: &'p Pool<'p, H>,
        place: Place<'p>,
        id: BufferId,
        length: u64,
        lines: &'p [Line],
    ) -> Self {
        Self::from_hold(Hold { pool, place, id, length }, lines)
    }

    /// With the length that its writer left.
    #[inline]
    pub(super) fn read(
        pool: &'p Pool<'p, H>,
        place: Place<'p>,
        id: BufferId,
        lines: &'p [Line],
    ) -> Self {
        let length = load(place.hot(), SIZE).min(place.class.slot_bytes);
        Self::new(pool, place, id, length, lines)
    }

    #[inline]
    const fn from_hold(hold: Hold<'p, H>, lines: &'p [Line]) -> Self {
        Self { hold, payload: Payload::new(lines), mode: PhantomData }
    }

    /// The id by which others find it, for as long as it has references.
    #[must_use]
    #[inline]
    pub const fn id(&self) -> BufferId {
        self.hold.id
    }

    /// Bytes in use.
    #[must_use]
    #[inline]
    pub const fn len(&self) -> usize {
        to_usize(self.hold.length)
    }

    /// Bytes that the buffer can hold.
    #[must_use]
    pub const fn capacity(&self) -> usize {
        self.payload.capacity()
    }

    /// Whether no byte is in use.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.hold.length == 0
    }

    /// What it is for.
    #[must_use]
    pub const fn mode(&self) -> AccessMode {
        M::ACCESS
    }

    /// How many references the buffer has: one for each handle that has guards, and the detached ones.
    #[must_use]
    pub fn ref_count(&self) -> u32 {
        self.hold.pool.ref_count(self.id()).unwrap_or(0)
    }

    /// Copies `to.len()` bytes from `at` on, a multiple of 8.
    ///
    /// # Errors
    /// `OutOfRange`, `Misaligned`, `TypeMismatch`.
    pub fn copy_to(&self, at: usize, to: &mut [u8]) -> Result<(), PoolError> {
        self.check_storage()?;
        self.check_range(at, to.len())?;
        if self.payload.copy_out(at, to) { Ok(()) } else { Err(PoolError::Misaligned) }
    }

    /// The bytes in use as elements of `T`, in place.
    ///
    /// What stands behind the slice is said at [`PlainAccess`].
    ///
    /// # Errors
    /// `NoPlainAccess` where the pool was opened without; `Misaligned` where the length is no multiple of the element, or the
    /// element is aligned to more than 64 bytes; `TypeMismatch`.
    #[inline]
    pub fn as_slice<T: Plain>(&self) -> Result<&[T], PoolError> {
        let count = self.element_count::<T>()?;
        self.payload.plain(self.access(), count).ok_or_else(|| self.no_slice())
    }

    /// Gives up the guard and leaves the reference behind, for whoever takes the id: by
    /// [`adopt`](Pool::adopt), or by [`get`](Pool::get) and [`release`](Pool::release). What an exclusive guard wrote is
    /// published by it.
    ///
    /// The reference belongs to no process: it stays when this one ends. An id that reaches nobody keeps its buffer for as
    /// long as the pool exists, or until its detacher dies where the pool is made with
    /// [`Orphans::Release`](spinwire_layouts::shm::Orphans::Release).
    ///
    /// # Errors
    /// The guard comes back, with `TooManyReferences` where 31 are detached already, `Fatal` where the handle was fenced.
    #[doc(alias = "forget")]
    #[inline]
    pub fn detach(self) -> Result<BufferId, Kept<'p, M, H>> {
        let Hold { pool, place, id, .. } = self.hold;
        let count = place.tally.count.get();
        let last = count == WRITING || count == 1;
        let leaving = if last { pool.bits(M::ACCESS) } else { 0 };
        if pool.has_lease() {
            pool.sign(&place);
        }
        let slot = pool.slot_of(place.meta);
        if let Err(error) = pool.check_lease().and_then(|()| slot.detach(id.generation(), leaving))
        {
            return Err(Kept { error, guard: self });
        }
        place.tally.count.set(if last { 0 } else { count.wrapping_sub(1) });
        Ok(ManuallyDrop::new(self).id())
    }

    /// Keeps the reference without the guard, for reading: what an exclusive one wrote is published. It stays until
    /// [`Pool::let_go_of_kept`].
    #[inline]
    pub(crate) fn keep(self) {
        let Hold { pool, place, id, .. } = self.hold;
        if M::ACCESS == AccessMode::ReadWrite {
            // Refused only where the handle was taken for dead; then nobody is to find the buffer, and nobody does.
            let bit = pool.bits(AccessMode::ReadOnly);
            let _fenced = pool.slot_of(place.meta).publish(id.generation(), bit);
            self.hold.shared();
        }
        let _kept = ManuallyDrop::new(self);
    }

    /// Whether it is a guard of that handle, and the handle's lease stands.
    #[inline]
    pub(crate) fn check(&self, pool: &Pool<'p, H>) -> Result<(), PostError> {
        if !core::ptr::eq(self.hold.pool, pool) {
            return Err(Misuse::Unsupported.into());
        }
        if pool.has_lease() { Ok(()) } else { Err(Fatal::Fenced.into()) }
    }

    #[inline]
    fn element_count<T: Plain>(&self) -> Result<usize, PoolError> {
        self.check_storage()?;
        match (self.len().checked_div(size_of::<T>()), self.len().checked_rem(size_of::<T>())) {
            (Some(count), Some(0)) => Ok(count),
            _ => Err(PoolError::Misaligned),
        }
    }

    #[cold]
    const fn no_slice(&self) -> PoolError {
        if self.access().is_some() { PoolError::Misaligned } else { PoolError::NoPlainAccess }
    }

    #[inline]
    pub(super) const fn access(&self) -> Option<PlainAccess> {
        self.hold.pool.segment().access()
    }

    pub(super) const fn payload(&self) -> &Payload<'p> {
        &self.payload
    }

    pub(super) const fn check_storage(&self) -> Result<(), PoolError> {
        match StorageType::from_code(self.hold.place.tally.storage.get()) {
            Some(StorageType::Cpu) => Ok(()),
            Some(actual) => Err(PoolError::TypeMismatch { expected: StorageType::Cpu, actual }),
            None => Err(PoolError::Fatal(Fatal::Corrupt)),
        }
    }

    fn check_range(&self, at: usize, length: usize) -> Result<(), PoolError> {
        match at.checked_add(length) {
            Some(end) if end <= self.len() => Ok(()),
            end => Err(PoolError::OutOfRange {
                end: from_usize(end.unwrap_or(usize::MAX)),
                length: self.hold.length,
            }),
        }
    }
}

impl<'p, H: PoolHost> Guard<'p, Shared, H> {
    /// Becomes the only guard, for writing, if it is the last reference: no other guard of this handle, no other handle, nothing
    /// detached and nothing under way.
    ///
    /// # Errors
    /// The guard comes back, with `Busy` where it is not the last; `Fatal` where the handle was fenced.
    pub fn try_exclusive(self) -> Result<Guard<'p, Exclusive, H>, Kept<'p, Shared, H>> {
        let Hold { pool, place, id, .. } = self.hold;
        let alone = if place.tally.count.get() == 1 { Ok(()) } else { Err(PoolError::Busy) };
        let bit = pool.bits(AccessMode::ReadOnly);
        let upgraded = alone
            .and_then(|()| pool.check_lease())
            .and_then(|()| pool.slot_of(place.meta).upgrade(id.generation(), bit));
        if let Err(error) = upgraded {
            return Err(Kept { error, guard: self });
        }
        place.tally.count.set(WRITING);
        let old = ManuallyDrop::new(self);
        Ok(Guard::from_hold(old.hold, old.payload.lines()))
    }
}

impl<'p, H: PoolHost> Guard<'p, Exclusive, H> {
    /// Sets how many bytes are in use.
    ///
    /// # Errors
    /// `OutOfRange` where the buffer has fewer; the length stays as it was.
    pub fn set_len(&mut self, length: usize) -> Result<(), PoolError> {
        let (end, most) = (from_usize(length), self.hold.place.class.slot_bytes);
        if end > most {
            return Err(PoolError::OutOfRange { end, length: most });
        }
        self.hold.length = end;
        store(self.hold.place.hot(), SIZE, end);
        Ok(())
    }

    /// Copies `from` to the bytes from `at` on, a multiple of 8.
    ///
    /// # Errors
    /// `OutOfRange`, `Misaligned`.
    pub fn copy_from(&mut self, at: usize, from: &[u8]) -> Result<(), PoolError> {
        self.check_range(at, from.len())?;
        if self.payload.copy_in(at, from) { Ok(()) } else { Err(PoolError::Misaligned) }
    }

    /// The bytes in use as elements of `T`, in place, to be written.
    ///
    /// # Errors
    /// As [`as_slice`](Self::as_slice).
    #[inline]
    pub fn as_mut_slice<T: Plain>(&mut self) -> Result<&mut [T], PoolError> {
        let count = self.element_count::<T>()?;
        let refused = self.no_slice();
        let access = self.access();
        self.payload.plain_mut(access, count).ok_or(refused)
    }

    /// Lets others read, and keeps a reference for reading.
    ///
    /// # Errors
    /// `Fatal` where the handle was taken for dead, and the buffer from it.
    pub fn publish(self) -> Result<Guard<'p, Shared, H>, PoolError> {
        let Hold { pool, place, id, .. } = self.hold;
        pool.check_lease()?;
        pool.slot_of(place.meta).publish(id.generation(), pool.bits(AccessMode::ReadOnly))?;
        self.hold.shared();
        let old = ManuallyDrop::new(self);
        Ok(Guard::from_hold(old.hold, old.payload.lines()))
    }

    /// Sets how many references there are, this guard's included: 1 to 32. The others are detached; each of those who are
    /// told the id has one to [`adopt`](Pool::adopt) or to [`release`](Pool::release).
    ///
    /// # Errors
    /// `TooManyReferences`; `NoReference` for 0, as the guard is one itself; `Fatal` where the handle was fenced.
    pub fn set_ref_count(&self, count: u32) -> Result<(), PoolError> {
        let Hold { pool, place, id, .. } = self.hold;
        let detached = count.checked_sub(1).ok_or(PoolError::NoReference)?;
        pool.check_lease()?;
        pool.sign(&place);
        let bit = pool.bits(AccessMode::ReadOnly);
        pool.slot_of(place.meta).preset(id.generation(), bit, detached)
    }
}

impl<M: Mode, H: PoolHost> Drop for Guard<'_, M, H> {
    #[inline(always)]
    fn drop(&mut self) {
        let Hold { pool, place, id, .. } = self.hold;
        pool.let_go(&place, id, M::ACCESS);
    }
}

impl<M: Mode, H: PoolHost> fmt::Debug for Guard<'_, M, H> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Guard")
            .field("id", &self.id())
            .field("mode", &M::ACCESS)
            .field("len", &self.hold.length)
            .finish_non_exhaustive()
    }
}

/// A guard whose mode is known when the program runs. It can be forgotten and outlive that.
#[derive(Debug)]
pub enum AnyGuard<'p, H: PoolHost = NoHost> {
    /// For writing, alone.
    Exclusive(Guard<'p, Exclusive, H>),
    /// For reading.
    Shared(Guard<'p, Shared, H>),
    /// Given up: its buffer lives on by the id that [`AnyGuard::forget`] has returned.
    Forgotten,
}

impl<H: PoolHost> AnyGuard<'_, H> {
    /// What it is for.
    ///
    /// # Errors
    /// `AlreadyForgotten`.
    pub const fn mode(&self) -> Result<AccessMode, PoolError> {
        match self {
            Self::Exclusive(_) => Ok(AccessMode::ReadWrite),
            Self::Shared(_) => Ok(AccessMode::ReadOnly),
            Self::Forgotten => Err(PoolError::AlreadyForgotten),
        }
    }

    /// The id.
    ///
    /// # Errors
    /// `AlreadyForgotten`.
    pub const fn id(&self) -> Result<BufferId, PoolError> {
        match self {
            Self::Exclusive(guard) => Ok(guard.id()),
            Self::Shared(guard) => Ok(guard.id()),
            Self::Forgotten => Err(PoolError::AlreadyForgotten),
        }
    }

    /// Bytes in use.
    ///
    /// # Errors
    /// `AlreadyForgotten`.
    pub const fn len(&self) -> Result<usize, PoolError> {
        match self {
            Self::Exclusive(guard) => Ok(guard.len()),
            Self::Shared(guard) => Ok(guard.len()),
            Self::Forgotten => Err(PoolError::AlreadyForgotten),
        }
    }

    /// Whether no byte is in use.
    ///
    /// # Errors
    /// `AlreadyForgotten`.
    pub fn is_empty(&self) -> Result<bool, PoolError> {
        self.len().map(|length| length == 0)
    }

    /// See [`Guard::copy_to`].
    ///
    /// # Errors
    /// Its errors; `AlreadyForgotten`.
    pub fn copy_to(&self, at: usize, to: &mut [u8]) -> Result<(), PoolError> {
        match self {
            Self::Exclusive(guard) => guard.copy_to(at, to),
            Self::Shared(guard) => guard.copy_to(at, to),
            Self::Forgotten => Err(PoolError::AlreadyForgotten),
        }
    }

    /// See [`Guard::copy_from`].
    ///
    /// # Errors
    /// Its errors; `ReadOnly`; `AlreadyForgotten`.
    pub fn copy_from(&mut self, at: usize, from: &[u8]) -> Result<(), PoolError> {
        self.exclusive()?.copy_from(at, from)
    }

    /// See [`Guard::as_slice`].
    ///
    /// # Errors
    /// Its errors; `AlreadyForgotten`.
    pub fn as_slice<T: Plain>(&self) -> Result<&[T], PoolError> {
        match self {
            Self::Exclusive(guard) => guard.as_slice(),
            Self::Shared(guard) => guard.as_slice(),
            Self::Forgotten => Err(PoolError::AlreadyForgotten),
        }
    }

    /// See [`Guard::as_mut_slice`].
    ///
    /// # Errors
    /// Its errors; `ReadOnly`; `AlreadyForgotten`.
    pub fn as_mut_slice<T: Plain>(&mut self) -> Result<&mut [T], PoolError> {
        self.exclusive()?.as_mut_slice()
    }

    /// Leaves the reference behind, as [`Guard::detach`] does.
    ///
    /// # Errors
    /// Those of `detach`, and then the guard is still there; `AlreadyForgotten`.
    pub fn forget(&mut self) -> Result<BufferId, PoolError> {
        match core::mem::replace(self, Self::Forgotten) {
            Self::Exclusive(guard) => guard.detach().map_err(|kept| {
                *self = Self::Exclusive(kept.guard);
                kept.error
            }),
            Self::Shared(guard) => guard.detach().map_err(|kept| {
                *self = Self::Shared(kept.guard);
                kept.error
            }),
            Self::Forgotten => Err(PoolError::AlreadyForgotten),
        }
    }
}

impl<'p, H: PoolHost> AnyGuard<'p, H> {
    const fn exclusive(&mut self) -> Result<&mut Guard<'p, Exclusive, H>, PoolError> {
        match self {
            Self::Exclusive(guard) => Ok(guard),
            Self::Shared(_) => Err(PoolError::ReadOnly),
            Self::Forgotten => Err(PoolError::AlreadyForgotten),
        }
    }
}
