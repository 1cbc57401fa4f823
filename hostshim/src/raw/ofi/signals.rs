//! Signals that libraries behind libfabric have taken before `main`.

use core::ptr;

/// Those that `libinfinipath` (of PSM, which Debian's libfabric is linked with) handles from its constructor on.
const TAKEN: [i32; 7] = [
    libc::SIGINT,
    libc::SIGTERM,
    libc::SIGSEGV,
    libc::SIGBUS,
    libc::SIGILL,
    libc::SIGABRT,
    libc::SIGFPE,
];

/// Gives each of them its default action where a function handles it; whatever is ignored stays ignored.
pub(crate) fn give_back() {
    for signal in TAKEN {
        // SAFETY: all bytes zero are a valid `sigaction`: no flags, an empty mask, the default action.
        let mut action: libc::sigaction = unsafe { core::mem::zeroed() };
        // SAFETY: `action` can be written; nothing is changed.
        let asked = unsafe { libc::sigaction(signal, ptr::null(), &raw mut action) };
        if asked != 0 || action.sa_sigaction == libc::SIG_IGN {
            continue;
        }
        action.sa_sigaction = libc::SIG_DFL;
        action.sa_flags = 0;
        // SAFETY: `action` is one that the kernel has filled in, with the default action. It cannot fail for these signals.
        let _set = unsafe { libc::sigaction(signal, &raw const action, ptr::null_mut()) };
    }
}
