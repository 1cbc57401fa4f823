//! Placement: tables are built where they will live, in memory that the host mapped, and are never moved.
//!
//! ```text
//!   mapping  | table a | pad | table b ........ | free ->            |
//!            ^ start                            ^ next               ^ end
//! ```
//!
//! Invariants: `start <= next <= end`; what lies below `next` was handed out once and is never handed out again; every
//! element is written before a reference to it exists.

use core::cell::Cell;
use core::fmt;
use core::marker::PhantomData;
use core::mem::MaybeUninit;
use core::ptr::NonNull;

/// The arena has no room left for what was asked of it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Exhausted {
    /// Bytes asked for, with alignment.
    pub wanted_bytes: usize,
    /// Bytes that are left.
    pub free_bytes: usize,
}

impl fmt::Display for Exhausted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "arena too small: {} bytes wanted, {} left; open it with more",
            self.wanted_bytes, self.free_bytes
        )
    }
}

impl core::error::Error for Exhausted {}

/// A bump allocator over one borrowed block. What it hands out lives as long as the block, `'m`; nothing is ever freed
/// and no destructor of what was placed runs.
pub struct Bump<'m> {
    next: Cell<NonNull<u8>>,
    free_bytes: Cell<usize>,
    block: PhantomData<&'m mut [MaybeUninit<u8>]>,
}

impl fmt::Debug for Bump<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Bump").field("free_bytes", &self.free_bytes.get()).finish_non_exhaustive()
    }
}

impl<'m> Bump<'m> {
    /// An arena over `block`.
    #[must_use]
    pub const fn new(block: &'m mut [MaybeUninit<u8>]) -> Self {
        let free_bytes = Cell::new(block.len());
        let start = NonNull::from_mut(block).cast::<u8>();
        Self { next: Cell::new(start), free_bytes, block: PhantomData }
    }

    /// Bytes not yet handed out.
    #[must_use]
    pub const fn free_bytes(&self) -> usize {
        self.free_bytes.get()
    }

    /// Where the free part begins, and its bytes.
    #[must_use]
    pub const fn free_range(&self) -> (NonNull<u8>, usize) {
        (self.next.get(), self.free_bytes.get())
    }

    /// Places `count` values, the i-th made by `make(i)`.
    ///
    /// # Errors
    /// [`Exhausted`] where they do not fit; then nothing was placed.
    pub fn slice_with<T>(
        &self,
        count: usize,
        mut make: impl FnMut(usize) -> T,
    ) -> Result<&'m mut [T], Exhausted> {
        let at = self.reserve(size_of::<T>().checked_mul(count), align_of::<T>())?.cast::<T>();
        for i in 0..count {
            // SAFETY: `reserve` handed out room for `count` values of T, aligned for T, and i < count.
            let slot = unsafe { at.add(i) };
            // SAFETY: the slot is inside of the room handed out to this call alone, so writing it races with nobody.
            unsafe { slot.write(make(i)) };
        }
        let slice = NonNull::slice_from_raw_parts(at, count);
        // SAFETY: all `count` values were just written, nobody else was given this room, and the block is borrowed
        // mutably for 'm.
        Ok(unsafe { &mut *slice.as_ptr() })
    }

    /// Places one value.
    ///
    /// # Errors
    /// [`Exhausted`] where it does not fit.
    pub fn value<T>(&self, value: T) -> Result<&'m mut T, Exhausted> {
        let at = self.reserve(Some(size_of::<T>()), align_of::<T>())?.cast::<T>();
        // SAFETY: `reserve` handed out room for one T, aligned for T, to this call alone.
        unsafe { at.write(value) };
        // SAFETY: the value was just written, nobody else was given this room, and the block is borrowed for 'm.
        Ok(unsafe { &mut *at.as_ptr() })
    }

    /// Takes `bytes` (None: their number overflowed) aligned to `align` from the free end.
    fn reserve(&self, bytes: Option<usize>, align: usize) -> Result<NonNull<u8>, Exhausted> {
        let next = self.next.get();
        let free_bytes = self.free_bytes.get();
        let pad = next.as_ptr().align_offset(align);
        let wanted = bytes.and_then(|b| b.checked_add(pad));
        let refused = Exhausted { wanted_bytes: wanted.unwrap_or(usize::MAX), free_bytes };
        let wanted = wanted.ok_or(refused)?;
        let left = free_bytes.checked_sub(wanted).ok_or(refused)?;
        // SAFETY: pad <= wanted <= free_bytes, so the sum stays inside of the block.
        let at = unsafe { next.add(pad) };
        // SAFETY: as above; one past the end of the block is allowed.
        let after = unsafe { next.add(wanted) };
        self.next.set(after);
        self.free_bytes.set(left);
        Ok(at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_aligned_disjoint_and_bounded() {
        let mut block = [const { MaybeUninit::<u8>::uninit() }; 256];
        let bump = Bump::new(&mut block);
        let a = bump.slice_with(3, |i| i).unwrap();
        let b = bump.value(7_u8).unwrap();
        let c = bump.slice_with(2, |i| u64::try_from(i).unwrap()).unwrap();
        *b = 9;
        a[2] = 5;
        assert_eq!((&*a, *b, &*c), (&[0, 1, 5][..], 9, &[0, 1][..]));
        assert_eq!(c.as_ptr().align_offset(8), 0);
        let free_bytes = bump.free_bytes();
        let refused = bump.slice_with(1 << 20, |_| 0_u64).unwrap_err();
        assert_eq!(refused.free_bytes, free_bytes);
        assert_eq!(bump.free_bytes(), free_bytes, "a refused call takes nothing");
        assert!(bump.slice_with(usize::MAX, |_| 0_u64).is_err(), "the size overflows");
    }
}
