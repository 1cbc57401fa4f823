//! Barriers, each with one meaning.
//!
//! Between processes the Release and Acquire of the accesses themselves do nearly all the work. What is left for a barrier is
//! the one order that they do not give: a store before a later load of another word.
//!
//! Towards a device those orders say nothing: it reads memory by DMA, and its registers are memory of another kind. The four
//! barriers for that have the names and at least the strength that they have in `util/udma_barrier.h` of rdma-core:
//!
//! | barrier | x86-64 | AArch64 | elsewhere, loom |
//! |---|---|---|---|
//! | [`to_device`] | the compiler | `dmb oshst` | full fence |
//! | [`from_device`] | `lfence` | `dmb oshld` | full fence |
//! | [`from_coherent_device`] | the compiler | `dmb oshld` | full fence |
//! | [`wc_start`] | `sfence` | `dsb st` | full fence |
//! | [`flush_writes`] | `sfence` | `dsb st` | full fence |
//!
//! Of two of these rdma-core knows nothing: [`from_coherent_device`], which is what the kernel has in its place, and [`loads_before_stores`],
//! which it does without.

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

/// One instruction that orders, and that the compiler moves no access of memory across.
#[cfg(not(loom))]
macro_rules! ordering_instruction {
    ($x86:literal, $arm:literal) => {{
        #[cfg(target_arch = "x86_64")]
        // SAFETY: at most one instruction that waits for memory accesses and has no other effect; by default `asm!` may read and
        // write any memory, so the compiler keeps all accesses on their side.
        unsafe {
            core::arch::asm!($x86, options(nostack, preserves_flags));
        }
        #[cfg(target_arch = "aarch64")]
        // SAFETY: as above.
        unsafe {
            core::arch::asm!($arm, options(nostack, preserves_flags));
        }
        #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
        fence(Ordering::SeqCst);
    }};
}

#[cfg(loom)]
macro_rules! ordering_instruction {
    ($x86:literal, $arm:literal) => {
        fence(Ordering::SeqCst)
    };
}

/// What was stored to memory before is seen by a device that sees anything that is stored afterwards (rdma-core:
/// `udma_to_device_barrier`). Between a WQE and the doorbell record.
///
/// On x86-64 stores to ordinary memory stay in order; it does not cover non-temporal stores, whose maker has to flush them.
#[inline(always)]
pub fn to_device() {
    ordering_instruction!("", "dmb oshst");
}

/// What a device has stored before the word that was loaded before this is seen by loads after it (rdma-core:
/// `udma_from_device_barrier`). Between the owner bit of a completion and the rest of it.
#[inline(always)]
pub fn from_device() {
    ordering_instruction!("lfence", "dmb oshld");
}

/// As [`from_device`], where all that the device writes is ordinary memory, mapped write-back: nothing else is promised.
///
/// On x86-64 it is an order for the compiler, as `dma_rmb` of the kernel is, by which its driver of the same devices reads the same
/// completions (`arch/x86/include/asm/barrier.h`, `en_rx.c`). The proof:
/// 1. What the device writes reaches memory in order. The owner bit is written last, by a posted write that does not pass those before it, unless a key was
///    registered with relaxed ordering; even then the completion is not written before its data is. The caches see each of these writes
///    (PCIe Base Specification, "Transaction Ordering" and "No Snoop"; x86-64 keeps DMA coherent).
/// 2. Loads from write-back memory are not reordered with one another: Intel SDM volume 3, "Memory Ordering in P6 and More Recent
///    Processor Families" ("Reads are not reordered with other reads"); AMD APM volume 2, 7.2. A load that was begun early is done again where its
///    line has changed before the load in front of it was done.
/// 3. So a load behind the owner bit sees what was in memory when that bit was, or something newer. The compiler keeps it behind.
///
/// What `lfence` orders beyond that are loads from write-combining memory, non-temporal loads, and instructions that are no loads at
/// all. No queue has any of them; whoever has a device write to such memory passes [`from_device`].
#[inline(always)]
pub fn from_coherent_device() {
    ordering_instruction!("", "dmb oshld");
}

/// What was stored before, to memory of any kind, goes before what is stored to write-combining memory afterwards (rdma-core:
/// `mmio_wc_start`). Between the doorbell record and the doorbell. It does what [`to_device`] does, too.
#[inline(always)]
pub fn wc_start() {
    ordering_instruction!("sfence", "dsb st");
}

/// What was stored to write-combining memory leaves the processor now, and is not combined with what is stored later
/// (rdma-core: `mmio_flush_writes`). After the doorbell.
#[inline(always)]
pub fn flush_writes() {
    ordering_instruction!("sfence", "dsb st");
}

/// What was loaded before is loaded before a device sees anything that is stored afterwards. Between the last look at a completion
/// and the doorbell record that gives its entry back.
///
/// x86-64 keeps loads before later stores by itself (Intel SDM volume 3, "Memory Ordering"; AMD APM volume 2, 7.2). rdma-core has no
/// barrier there.
#[inline(always)]
pub fn loads_before_stores() {
    ordering_instruction!("", "dmb oshld");
}
