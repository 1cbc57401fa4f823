//! Sleeping on a word of shared memory: futex(2), and the two fences without which a wake-up could be lost.
//!
//! The sleeper stores its mark and then looks for news; the publisher stores news and then looks for the mark. On every
//! machine a store may be overtaken by a later load, so each side has a sequentially consistent fence between the two; then
//! at least one of them sees what the other stored.

use core::time::Duration;

use spinwire_dataplane::sync::{AtomicU64, Ordering, fence};

/// The sleeper's half: stores the mark, before every load that follows.
#[inline]
pub(crate) fn fenced_store(word: &AtomicU64, mark: u64) {
    word.store(mark, Ordering::Relaxed);
    // SYNC(bell): pairs with the fence in `fenced_load`.
    fence(Ordering::SeqCst);
}

/// The publisher's half: loads the mark, after every store that went before.
#[inline]
pub(crate) fn fenced_load(word: &AtomicU64) -> u64 {
    // SYNC(bell): pairs with the fence in `fenced_store`.
    fence(Ordering::SeqCst);
    word.load(Ordering::Relaxed)
}

/// The half of a word that futex(2) looks at: the one with the low bits.
fn low_half(word: &AtomicU64) -> *const u32 {
    let low = usize::from(cfg!(target_endian = "big"));
    core::ptr::from_ref(word).cast::<u32>().wrapping_add(low)
}

/// Sleeps while `word` is `expected` (below 2^32), for `span` at most, until it is woken. May wake early. The word may be
/// shared with other processes.
pub(crate) fn wait(word: &AtomicU64, expected: u64, span: Duration) {
    let seconds = libc::time_t::try_from(span.as_secs()).unwrap_or(libc::time_t::MAX);
    let timeout = libc::timespec { tv_sec: seconds, tv_nsec: span.subsec_nanos().into() };
    let Ok(expected) = u32::try_from(expected) else {
        return;
    };
    // The other half is not looked at by the kernel, so it is looked at here.
    if word.load(Ordering::Relaxed) != u64::from(expected) {
        return;
    }
    // SAFETY: the word outlives the call, is aligned, and is only read, atomically; `timeout` outlives the call.
    let _woken_changed_or_timed_out = unsafe {
        libc::syscall(
            libc::SYS_futex,
            low_half(word),
            libc::FUTEX_WAIT,
            expected,
            &raw const timeout,
        )
    };
}

/// Wakes one sleeper on `word`, in whatever process.
pub(crate) fn wake(word: &AtomicU64) {
    // SAFETY: the address is only a key to the kernel's table of sleepers.
    let _how_many = unsafe { libc::syscall(libc::SYS_futex, low_half(word), libc::FUTEX_WAKE, 1) };
}
