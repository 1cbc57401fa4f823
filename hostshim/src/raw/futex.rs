//! Sleeping on a word of shared memory: futex(2), and the two fences without which a wake-up could be lost.
//!
//! The sleeper stores its mark and then looks for news; the publisher stores news and then looks for the mark. On every
//! machine a store may be overtaken by a later load, so each side has a sequentially consistent fence between the two; then
//! at least one of them sees what the other stored.

use core::time::Duration;

use spinwire_dataplane::sync::{AtomicU64, Ordering, fence};

use super::syscall::clock_ns;
use crate::error::Errno;

/// The sleeper's half: stores the mark, before every load that follows.
#[inline]
pub(crate) fn fenced_store(word: &AtomicU64, mark: u64) {
    word.store(mark, Ordering::Relaxed);
    // SYNC(own-bell): pairs with the fence in `fenced_load`.
    fence(Ordering::SeqCst);
}

/// The publisher's half: loads the mark, after every store that went before.
#[inline]
pub(crate) fn fenced_load(word: &AtomicU64) -> u64 {
    // SYNC(own-bell): pairs with the fence in `fenced_store`.
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
    let Ok(expected) = u32::try_from(expected) else {
        return;
    };
    // The other half is not looked at by the kernel, so it is looked at here.
    if word.load(Ordering::Relaxed) != u64::from(expected) {
        return;
    }
    let _woken_changed_or_timed_out = wait_low(word, expected, Some(span));
}

/// Sleeps while the low half of `word` is `expected`, until it is woken, or for `span`; none is for ever. May wake early.
/// `false` where the time is over. The word may be shared with other processes.
pub(crate) fn wait_low(word: &AtomicU64, expected: u32, span: Option<Duration>) -> bool {
    let timeout = span.map(|span| libc::timespec {
        tv_sec: libc::time_t::try_from(span.as_secs()).unwrap_or(libc::time_t::MAX),
        tv_nsec: span.subsec_nanos().into(),
    });
    let timeout = timeout.as_ref().map_or(core::ptr::null(), core::ptr::from_ref);
    // SAFETY: the word outlives the call, is aligned, and is only read, atomically; `timeout` outlives the call, and no timeout
    // is a null pointer, which futex(2) takes.
    let answer = unsafe {
        libc::syscall(libc::SYS_futex, low_half(word), libc::FUTEX_WAIT, expected, timeout)
    };
    answer == 0 || Errno::last().number() != libc::ETIMEDOUT
}

/// One word of several to sleep on: `struct futex_waitv` of linux/futex.h.
#[repr(C)]
#[derive(Clone, Copy)]
struct Waited {
    expected: u64,
    address: u64,
    flags: u32,
    reserved: u32,
}

/// FUTEX2_SIZE_U32 of linux/futex.h; without FUTEX2_PRIVATE, so that other processes can wake.
const SHARED_U32: u32 = 2;
/// How many words can be slept on at once, here; the kernel takes 128.
pub(crate) const WORDS_MAX: usize = 32;

/// Sleeps while all of `words` are `expected` (below 2^32), for `span` at most, until one is woken. May wake early. `false`
/// where that cannot be done: too many of them, or a kernel before 5.16; then it did not sleep.
pub(crate) fn wait_any(words: &[&AtomicU64], expected: u64, span: Duration) -> bool {
    if let [word] = words {
        wait(word, expected, span);
        return true;
    }
    if words.len() > WORDS_MAX || u32::try_from(expected).is_err() {
        return false;
    }
    // The other half is not looked at by the kernel, so it is looked at here.
    if words.iter().any(|word| word.load(Ordering::Relaxed) != expected) {
        return true;
    }
    let nothing = Waited { expected, address: 0, flags: SHARED_U32, reserved: 0 };
    let mut list = [nothing; WORDS_MAX];
    for (to, word) in list.iter_mut().zip(words) {
        to.address = u64::try_from(low_half(word).addr()).unwrap_or(0);
    }
    // Unlike FUTEX_WAIT it wants the time of day at which to end.
    let end = Duration::from_nanos(clock_ns(libc::CLOCK_MONOTONIC)).saturating_add(span);
    let seconds = libc::time_t::try_from(end.as_secs()).unwrap_or(libc::time_t::MAX);
    let timeout = libc::timespec { tv_sec: seconds, tv_nsec: end.subsec_nanos().into() };
    // SAFETY: `list` has at least as many entries as `words`, each naming an aligned word that outlives the call and is only
    // read, atomically; `list` and `timeout` outlive the call.
    let answer = unsafe {
        libc::syscall(
            libc::SYS_futex_waitv,
            list.as_ptr(),
            words.len(),
            0,
            &raw const timeout,
            libc::CLOCK_MONOTONIC,
        )
    };
    // Woken; or changed, timed out, interrupted. Anything else means that it cannot be done.
    let slept = [libc::EAGAIN, libc::ETIMEDOUT, libc::EINTR];
    answer >= 0 || slept.contains(&Errno::last().number())
}

/// Wakes one sleeper on `word`, in whatever process.
pub(crate) fn wake(word: &AtomicU64) {
    wake_up_to(word, 1);
}

/// Wakes all sleepers on `word`, in whatever processes.
pub(crate) fn wake_all(word: &AtomicU64) {
    wake_up_to(word, i32::MAX);
}

fn wake_up_to(word: &AtomicU64, most: i32) {
    // SAFETY: the address is only a key to the kernel's table of sleepers.
    let _how_many =
        unsafe { libc::syscall(libc::SYS_futex, low_half(word), libc::FUTEX_WAKE, most) };
}
