//! Barriers, each with one meaning.
//!
//! Between processes the Release and Acquire of the accesses themselves do nearly all the work. What is left for a barrier is
//! the one order that they do not give: a store before a later load of another word.

use crate::sync::{Ordering, fence};

/// Everything that this thread stored before is visible before anything that it loads afterwards is read.
///
/// Two threads that each store a word, pass this, and load the other's word cannot both miss the other's store.
#[inline(always)]
pub fn store_before_load() {
    fence(Ordering::SeqCst);
}

/// The free half of a pair whose other half is paid for by whoever goes to sleep: the compiler keeps the stores before this
/// before the loads after it, and the CPU is made to do so when it matters, by membarrier(2) of the sleeper.
///
/// A thread that stores a word, passes this, and loads another's, and a sleeper that stores that word, has all CPUs pass a
/// barrier, and loads the first, cannot both miss the other's store. Where the sleeper has no such barrier both may.
#[inline(always)]
pub fn store_before_load_of_bell() {
    // SYNC(bell): pairs with the barrier between `WakeSource::arm` and `WakeSource::look_over`.
    #[cfg(not(loom))]
    #[expect(clippy::disallowed_methods, reason = "the processors are the sleeper's part")]
    crate::sync::compiler_fence(Ordering::SeqCst);
    // Loom knows no membarrier; what it stands for is a fence on both sides.
    #[cfg(loom)]
    fence(Ordering::SeqCst);
}

/// What this thread has swapped (compare-and-swap, or another read-modify-write) is visible before anything that it loads
/// afterwards is read.
///
/// On x86-64 every such instruction is locked, and a locked instruction is a full barrier (Intel SDM volume 3, "Locked
/// instructions have a total order"; AMD APM volume 2, 7.4.2), while the Acquire of the swap keeps the compiler from moving a later load
/// before it. Elsewhere, and under loom, it is a fence.
#[inline(always)]
#[cfg_attr(
    all(target_arch = "x86_64", not(loom)),
    expect(clippy::missing_const_for_fn, reason = "it does something elsewhere")
)]
pub fn swap_before_load() {
    #[cfg(not(all(target_arch = "x86_64", not(loom))))]
    fence(Ordering::SeqCst);
}
