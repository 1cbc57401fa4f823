//! The instructions of the idle ladder: how a CPU rests for a moment without leaving its thread.
//!
//! | instruction | who has it | what it does |
//! |---|---|---|
//! | `pause` | every x86-64 | some ten to 140 cycles; yields the core's resources to its sibling |
//! | `umonitor`, `umwait`, `tpause` | Intel WAITPKG | sleeps lightly until a line is written, or a TSC deadline |
//! | `monitorx`, `mwaitx` | AMD MONITORX | the same, with a bound in TSC ticks |
//!
//! Sources: Intel SDM volume 2 (PAUSE, TPAUSE, UMONITOR, UMWAIT, CPUID leaf 7); AMD APM volume 3 (MONITORX, MWAITX, CPUID
//! Fn8000_0001_ECX). Invariant: a [`CpuWait`] that names an instruction came out of [`CpuWait::detect`] on this machine.

use crate::raw::line::{LINE_WORDS, Line};
use crate::sync::Ordering;

/// One short rest: `pause`, or what the architecture has in its place.
#[inline(always)]
pub fn pause() {
    #[cfg(not(loom))]
    core::hint::spin_loop();
    #[cfg(loom)]
    loom::thread::yield_now();
}

/// A word of shared memory and the value it last had: what a wait watches.
#[derive(Clone, Copy, Debug)]
pub struct Watch<'s> {
    /// The line; a write to any of its words ends the wait.
    pub line: &'s Line,
    /// Which word of it is compared, 0 to 7.
    pub word: usize,
    /// The value that the caller acted on. Where the word has another by now, nothing is waited for.
    pub seen: u64,
}

impl Watch<'_> {
    /// Whether the word still has the value that was seen. A word that does not exist never has.
    #[inline]
    #[must_use]
    pub fn is_unchanged(&self) -> bool {
        debug_assert!(self.word < LINE_WORDS, "a line has words 0 to 7");
        // Acquire: the caller goes on to read what the writer published before it wrote the word.
        self.line.words().get(self.word).is_some_and(|w| w.load(Ordering::Acquire) == self.seen)
    }
}

/// How this CPU can wait for a write to a line.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct CpuWait(Kind);

#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
enum Kind {
    #[default]
    None,
    #[cfg(all(target_arch = "x86_64", not(loom)))]
    WaitPkg,
    #[cfg(all(target_arch = "x86_64", not(loom)))]
    MonitorX,
}

impl CpuWait {
    /// It cannot, or must not: a wait is one [`pause`].
    pub const NONE: Self = Self(Kind::None);

    /// Asks the CPU. Slow (a virtual machine leaves to its host for it): once, before the first turn. A thread that may
    /// move between unlike cores should use [`CpuWait::NONE`].
    #[must_use]
    pub fn detect() -> Self {
        #[cfg(all(target_arch = "x86_64", not(loom)))]
        {
            x86::detect()
        }
        #[cfg(not(all(target_arch = "x86_64", not(loom))))]
        {
            Self::NONE
        }
    }

    /// The name of the instruction, for reports.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self.0 {
            Kind::None => "none",
            #[cfg(all(target_arch = "x86_64", not(loom)))]
            Kind::WaitPkg => "umwait",
            #[cfg(all(target_arch = "x86_64", not(loom)))]
            Kind::MonitorX => "mwaitx",
        }
    }

    /// Whether a wait is more than a pause.
    #[must_use]
    pub const fn is_present(self) -> bool {
        !matches!(self.0, Kind::None)
    }

    /// Rests until the watched line is written, for at most `ticks` TSC ticks (the kernel may set a lower bound:
    /// `/sys/devices/system/cpu/umwait_control/max_time`). Returns early as it pleases; without an instruction for it,
    /// after one pause.
    #[inline]
    pub fn wait(self, watch: Watch<'_>, ticks: u32) {
        match self.0 {
            Kind::None => {
                let _ = (watch, ticks);
                pause();
            }
            #[cfg(all(target_arch = "x86_64", not(loom)))]
            Kind::WaitPkg => x86::umwait(watch, ticks),
            #[cfg(all(target_arch = "x86_64", not(loom)))]
            Kind::MonitorX => x86::mwaitx(watch, ticks),
        }
    }
}

#[cfg(all(target_arch = "x86_64", not(loom)))]
mod x86 {
    use super::{CpuWait, Kind, Watch};
    use core::arch::asm;
    use core::arch::x86_64::{__cpuid, __cpuid_count};

    /// SPEC: Intel SDM volume 2, CPUID leaf 7, subleaf 0: ECX bit 5 is WAITPKG.
    const WAITPKG: u32 = 1 << 5;
    /// SPEC: AMD APM volume 3, Fn8000_0001_ECX bit 29 is MONITORX.
    const MONITORX: u32 = 1 << 29;
    /// SPEC: Intel SDM volume 2, UMWAIT: bit 0 set asks for C0.1, the state that is faster to leave.
    const C0_1: u32 = 1;
    /// SPEC: AMD APM volume 3, MWAITX: EAX bits 7:4 = F asks for C0; ECX bit 1 makes EBX the bound.
    const C0: u32 = 0xF0;
    const EBX_IS_BOUND: u32 = 1 << 1;

    pub(super) fn detect() -> CpuWait {
        let leaf_max = __cpuid(0).eax;
        let extended_max = __cpuid(0x8000_0000).eax;
        if leaf_max >= 7 && __cpuid_count(7, 0).ecx & WAITPKG != 0 {
            CpuWait(Kind::WaitPkg)
        } else if extended_max >= 0x8000_0001 && __cpuid(0x8000_0001).ecx & MONITORX != 0 {
            CpuWait(Kind::MonitorX)
        } else {
            CpuWait::NONE
        }
    }

    #[inline]
    pub(super) fn umwait(watch: Watch<'_>, ticks: u32) {
        let line = core::ptr::from_ref(watch.line);
        // SAFETY: WAITPKG is there (a CpuWait that says so comes from `detect`); the line is mapped, and the
        // instruction only notes its address.
        unsafe { asm!("umonitor {0}", in(reg) line, options(nostack, preserves_flags)) };
        // Armed first, looked at second: a write after the look ends the wait.
        if !watch.is_unchanged() {
            return;
        }
        // SAFETY: the time-stamp counter may be read in user mode on Linux.
        let deadline = unsafe { core::arch::x86_64::_rdtsc() }.wrapping_add(u64::from(ticks));
        let (low, high) = halves(deadline);
        // SAFETY: WAITPKG is there, as above; it changes the flags and nothing else.
        unsafe {
            asm!("umwait {0:e}", in(reg) C0_1, in("eax") low, in("edx") high, options(nostack))
        };
    }

    #[inline]
    pub(super) fn mwaitx(watch: Watch<'_>, ticks: u32) {
        let line = core::ptr::from_ref(watch.line);
        // SAFETY: MONITORX is there (a CpuWait that says so comes from `detect`); the line is mapped, and the
        // instruction only notes its address.
        unsafe {
            asm!("monitorx", in("rax") line, in("ecx") 0, in("edx") 0, options(nostack, preserves_flags));
        };
        // Armed first, looked at second: a write after the look ends the wait.
        if !watch.is_unchanged() {
            return;
        }
        // SAFETY: MONITORX is there, as above. The compiler keeps rbx for itself: it is swapped in and out again.
        unsafe {
            asm!(
                "xchg rbx, {bound}",
                "mwaitx",
                "xchg rbx, {bound}",
                bound = inout(reg) u64::from(ticks) => _,
                in("eax") C0,
                in("ecx") EBX_IS_BOUND,
                options(nostack, preserves_flags),
            );
        };
    }

    #[inline]
    #[expect(
        clippy::as_conversions,
        clippy::cast_possible_truncation,
        reason = "the two halves of a word, as the instruction wants them"
    )]
    const fn halves(word: u64) -> (u32, u32) {
        (word as u32, (word >> 32) as u32)
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn a_wait_ends_by_its_bound_and_at_once_when_the_word_has_moved_on() {
        // Says which instruction ran: on a machine without one this is a pause.
        let wait = CpuWait::detect();
        assert_eq!(wait.is_present(), wait.name() != "none");
        let line = Line::zeroed();
        wait.wait(Watch { line: &line, word: 0, seen: 0 }, 1000);
        wait.wait(Watch { line: &line, word: 7, seen: 1 }, u32::MAX);
        assert!(!Watch { line: &line, word: 3, seen: 1 }.is_unchanged());
        assert!(Watch { line: &line, word: 3, seen: 0 }.is_unchanged());
    }
}
