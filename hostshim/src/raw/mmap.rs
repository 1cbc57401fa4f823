//! Ranges of address space, owned.
//!
//! ```text
//!   reservation (memmap2)  | gap | window: what the caller sees, aligned | gap |
//!                          ^     ^ start                                 ^ start + len
//! ```
//!
//! Transparent huge pages need a range that begins at a multiple of 2 MiB, which older kernels give by luck only. So a
//! range with an alignment is cut out of a larger anonymous reservation; a file is mapped over the window of it. The gaps
//! are never written, cost no memory, and keep the window a VMA of its own, so that what smaps says of it is about
//! nobody else's pages.
//!
//! Invariants: (1) `map` is the only owner of the whole reservation and unmaps it on drop; (2) `start + len <= map.len()`;
//! (3) pages of the window stay mapped readable and writable for as long as `map` lives.

use core::ptr::NonNull;
use memmap2::{Advice, MmapOptions, MmapRaw};
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

use crate::error::Errno;

/// An owned range of mapped memory. Holds no reference into it and never reads it.
#[derive(Debug)]
pub(crate) struct Range {
    map: MmapRaw,
    start: usize,
    len: usize,
}

impl Range {
    /// Private zeroed memory in pages of the base size, beginning at a multiple of `align` (a power of two).
    pub(crate) fn anonymous(len: usize, align: usize) -> Result<Self, Errno> {
        reserve(len, align)
    }

    /// Private zeroed memory in huge pages of `1 << page_bits` bytes, taken from the kernel's pool or refused.
    pub(crate) fn anonymous_huge(len: usize, page_bits: u8) -> Result<Self, Errno> {
        let map = MmapOptions::new().len(len).huge(Some(page_bits)).map_anon();
        map.map(|map| Self { map: MmapRaw::from(map), start: 0, len })
            .map_err(|e| Errno::from_io(&e))
    }

    /// The first `len` bytes of `file`, shared, wherever the kernel likes to put them.
    pub(crate) fn shared(file: &File, len: usize) -> Result<Self, Errno> {
        let map = MmapOptions::new().len(len).map_raw(file).map_err(|e| Errno::from_io(&e))?;
        Ok(Self { map, start: 0, len })
    }

    /// The first `len` bytes of `file`, shared, beginning at a multiple of `align` (a power of two).
    pub(crate) fn shared_aligned(
        file: BorrowedFd<'_>,
        len: usize,
        align: usize,
    ) -> Result<Self, Errno> {
        let range = reserve(len, align)?;
        let window: *mut libc::c_void = range.base().cast();
        let protection = libc::PROT_READ | libc::PROT_WRITE;
        let flags = libc::MAP_SHARED | libc::MAP_FIXED;
        // SAFETY: MAP_FIXED replaces the pages of [window, window + len), which lie inside a reservation that `range`
        // alone owns (invariants 1 and 2) and to which no reference exists: it was made two lines above. The pages stay
        // part of the same address range, so the munmap of the reservation unmaps them too.
        let got = unsafe { libc::mmap(window, len, protection, flags, file.as_raw_fd(), 0) };
        if got == libc::MAP_FAILED { Err(Errno::last()) } else { Ok(range) }
    }

    /// The first `len` bytes of what the ring of io_uring `ring` shows at `place`, shared and present.
    pub(crate) fn of_ring(ring: BorrowedFd<'_>, len: usize, place: u64) -> Result<Self, Errno> {
        let map = MmapOptions::new().len(len).offset(place).populate().map_raw(&ring);
        Ok(Self { map: map.map_err(|e| Errno::from_io(&e))?, start: 0, len })
    }

    fn base(&self) -> *mut u8 {
        self.map.as_mut_ptr().wrapping_add(self.start)
    }

    /// The first byte of the window.
    pub(crate) fn as_ptr(&self) -> NonNull<u8> {
        // A mapping is never at address zero; the fallback is an address that is refused by every use of it.
        NonNull::new(self.base()).unwrap_or(NonNull::dangling())
    }

    /// Bytes in the window.
    pub(crate) const fn len(&self) -> usize {
        self.len
    }

    /// madvise(2) with an advice that never changes contents.
    pub(crate) fn advise(&self, advice: Advice) -> Result<(), Errno> {
        self.advise_first(advice, self.len)
    }

    /// The same for the first `len` bytes of the window.
    pub(crate) fn advise_first(&self, advice: Advice, len: usize) -> Result<(), Errno> {
        let len = len.min(self.len);
        self.map.advise_range(advice, self.start, len).map_err(|e| Errno::from_io(&e))
    }

    /// MADV_COLLAPSE (Linux 6.1): gather the window's pages into huge ones now.
    pub(crate) fn collapse(&self) -> Result<(), Errno> {
        // SAFETY: the range is mapped (invariants 2 and 3); collapsing moves pages and leaves addresses and contents.
        let answer = unsafe { libc::madvise(self.base().cast(), self.len, libc::MADV_COLLAPSE) };
        if answer == 0 { Ok(()) } else { Err(Errno::last()) }
    }

    /// mlock(2): keep the window's pages in memory.
    pub(crate) fn lock(&self) -> Result<(), Errno> {
        // SAFETY: mlock neither reads nor writes; the range is mapped (invariants 2 and 3).
        let answer = unsafe { libc::mlock(self.base().cast(), self.len) };
        if answer == 0 { Ok(()) } else { Err(Errno::last()) }
    }

    /// Brings every page in, writable, by adding zero to one byte of each: for kernels without MADV_POPULATE_WRITE.
    /// Contents stay, even while another process writes them.
    #[expect(
        clippy::disallowed_types,
        reason = "memory that others write may be touched by atomics only"
    )]
    pub(crate) fn touch(&self, page_bytes: usize) {
        use core::sync::atomic::{AtomicU8, Ordering};
        for offset in (0..self.len).step_by(page_bytes.max(1)) {
            let byte = self.base().wrapping_add(offset);
            // SAFETY: offset < len, so the byte is mapped and writable (invariants 2 and 3); one byte is always aligned;
            // all access to this memory, here and elsewhere, is atomic.
            let byte = unsafe { AtomicU8::from_ptr(byte) };
            byte.fetch_or(0, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
#[expect(
    clippy::disallowed_types,
    reason = "memory that others write may be touched by atomics only"
)]
impl Range {
    /// Puts `value` where `offset` is and returns what was there.
    pub(crate) fn swap_byte(&self, offset: usize, value: u8) -> u8 {
        use core::sync::atomic::{AtomicU8, Ordering};
        assert!(offset < self.len);
        // SAFETY: the byte is mapped and writable (invariants 2 and 3), and all access to it is atomic.
        let byte = unsafe { AtomicU8::from_ptr(self.base().wrapping_add(offset)) };
        byte.swap(value, Ordering::Relaxed)
    }
}

/// `len` bytes of private memory at a multiple of `align`, with a gap on either side where an alignment is asked for.
fn reserve(len: usize, align: usize) -> Result<Range, Errno> {
    let page = super::syscall::page_bytes();
    let gap = if align > page { align.saturating_add(page) } else { 0 };
    let too_large = Errno::new(libc::ENOMEM);
    let whole = len.checked_add(gap).and_then(|n| n.checked_add(gap.min(page))).ok_or(too_large)?;
    let map = MmapOptions::new().len(whole).no_reserve_swap().map_anon();
    let map = MmapRaw::from(map.map_err(|e: io::Error| Errno::from_io(&e))?);
    let start = if gap == 0 {
        0
    } else {
        let base = map.as_mut_ptr().addr();
        // Base is a multiple of the page size, so the distance is at least a page and at most `gap`.
        (base.wrapping_add(page)).next_multiple_of(align).wrapping_sub(base)
    };
    Ok(Range { map, start, len })
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB2: usize = 2 << 20;

    #[test]
    fn windows_are_aligned_and_stay_inside() {
        let page = crate::raw::syscall::page_bytes();
        for len in [page, MIB2, 3 * MIB2 + page] {
            let r = Range::anonymous(len, MIB2).unwrap();
            assert_eq!(r.as_ptr().as_ptr().addr() % MIB2, 0);
            assert_eq!(r.len(), len);
            assert!(r.start >= page, "a gap before");
            assert!(r.start + len + page <= r.map.len(), "a gap behind");
        }
    }

    #[test]
    fn an_absurd_length_is_an_error() {
        assert_eq!(Range::anonymous(usize::MAX - 5, MIB2).unwrap_err().number(), libc::ENOMEM);
    }

    #[test]
    fn touching_keeps_contents() {
        let file = crate::raw::syscall::memfd("touch", 0).unwrap();
        let file = File::from(file);
        let page = crate::raw::syscall::page_bytes();
        file.set_len(u64::try_from(2 * page).unwrap()).unwrap();
        std::os::unix::fs::FileExt::write_all_at(&file, &[7, 8, 9], u64::try_from(page).unwrap())
            .unwrap();
        let r = Range::shared(&file, 2 * page).unwrap();
        r.touch(page);
        let mut back = [0; 3];
        std::os::unix::fs::FileExt::read_exact_at(&file, &mut back, u64::try_from(page).unwrap())
            .unwrap();
        assert_eq!(back, [7, 8, 9]);
    }
}
