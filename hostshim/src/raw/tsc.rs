//! The time-stamp counter, and what the processor says of it.
//!
//! Sources: Intel SDM volume 2 (RDTSC, CPUID) and volume 3, section "Invariant TSC"; AMD APM volume 3, CPUID function
//! 8000_0007h; the hypervisor leaf 4000_0010h as VMware defined it and KVM followers copied it.

/// What CPUID tells about the counter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub(crate) struct CounterFacts {
    /// It runs at one rate in every power state: CPUID 8000_0007h, EDX bit 8.
    pub(crate) invariant: bool,
    /// Ticks per second, where the processor or the hypervisor states it.
    pub(crate) stated_hz: Option<u64>,
}

/// The counter, now. Not ordered against other instructions: what is timed may start a few nanoseconds early.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
pub(crate) fn ticks() -> u64 {
    // SAFETY: every x86_64 processor has RDTSC. Where a kernel forbids it (CR4.TSD) the process is ended by a signal, and
    // memory is not touched.
    unsafe { core::arch::x86_64::_rdtsc() }
}

/// The counter, read after everything that was loaded before: Intel SDM volume 2, LFENCE and RDTSC.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
pub(crate) fn ticks_after_loads() -> u64 {
    // SAFETY: every x86_64 processor has LFENCE; it has no effect but that of order.
    unsafe { core::arch::x86_64::_mm_lfence() };
    ticks()
}

/// No counter that is known to be fit: the caller falls back to the kernel's clock.
#[cfg(not(target_arch = "x86_64"))]
#[inline(always)]
pub(crate) const fn ticks() -> u64 {
    0
}

/// No counter either.
#[cfg(not(target_arch = "x86_64"))]
#[inline(always)]
pub(crate) const fn ticks_after_loads() -> u64 {
    0
}

/// Asks CPUID.
#[cfg(target_arch = "x86_64")]
pub(crate) fn facts() -> CounterFacts {
    use core::arch::x86_64::__cpuid;
    const EXTENDED: u32 = 0x8000_0000;
    const HYPERVISOR: u32 = 0x4000_0000;
    let basic_last = __cpuid(0).eax;
    let extended_last = __cpuid(EXTENDED).eax;
    let invariant = extended_last >= EXTENDED + 7 && __cpuid(EXTENDED + 7).edx >> 8 & 1 == 1;

    // Leaf 15h: crystal frequency times a ratio. A zero means "not enumerated".
    let crystal = (basic_last >= 0x15).then(|| __cpuid(0x15)).and_then(|leaf| {
        let scaled = u64::from(leaf.ecx).checked_mul(u64::from(leaf.ebx))?;
        scaled.checked_div(u64::from(leaf.eax)).filter(|hz| *hz != 0)
    });
    // The hypervisor leaf 10h: kilohertz of the virtual counter.
    let hypervisor = (__cpuid(1).ecx >> 31 & 1 == 1)
        .then(|| __cpuid(HYPERVISOR).eax)
        .filter(|last| (HYPERVISOR + 0x10..HYPERVISOR + 0x1000).contains(last))
        .map(|_last| u64::from(__cpuid(HYPERVISOR + 0x10).eax).saturating_mul(1000))
        .filter(|hz| *hz != 0);
    CounterFacts { invariant, stated_hz: hypervisor.or(crystal) }
}

/// No counter that is known to be fit.
#[cfg(not(target_arch = "x86_64"))]
pub(crate) const fn facts() -> CounterFacts {
    CounterFacts { invariant: false, stated_hz: None }
}
