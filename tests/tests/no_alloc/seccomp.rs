//! A child process that may compute and exit, and nothing else; and the page faults of a thread.

use core::mem::offset_of;

use libc::{seccomp_data, sock_filter, sock_fprog};

/// How the child ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ended {
    /// It ran to its end without a system call.
    Done {
        /// What the work answered.
        answer: bool,
    },
    /// The filter killed it.
    MadeSystemCall,
    /// Anything else, as `waitpid` put it.
    Otherwise {
        /// The wait status.
        status: i32,
    },
}

/// Runs `work` in a forked child under a filter that lets `exit_group` through and kills at everything else.
///
/// The child is a copy of one thread: `work` must not take locks that other threads may hold. The allocator's is one, and a
/// panic is a system call, so `work` answers instead of asserting.
pub(crate) fn without_system_calls(work: impl FnOnce() -> bool) -> Ended {
    // SAFETY: the child calls nothing but `work`, prctl and _exit, none of which needs the threads it has lost.
    let child = unsafe { libc::fork() };
    assert!(child >= 0, "fork: {}", std::io::Error::last_os_error());
    if child == 0 {
        let code = if forbid_system_calls() { i32::from(!work()) } else { SETUP_FAILED };
        // SAFETY: ends the child at once, without the exit handlers of its parent.
        unsafe { libc::_exit(code) }
    }
    let mut status = 0;
    // SAFETY: `child` is a child of ours that nobody else waits for.
    let waited = unsafe { libc::waitpid(child, &raw mut status, 0) };
    assert_eq!(waited, child, "waitpid: {}", std::io::Error::last_os_error());
    if libc::WIFSIGNALED(status) && libc::WTERMSIG(status) == libc::SIGSYS {
        return Ended::MadeSystemCall;
    }
    if !libc::WIFEXITED(status) {
        return Ended::Otherwise { status };
    }
    match libc::WEXITSTATUS(status) {
        0 => Ended::Done { answer: true },
        1 => Ended::Done { answer: false },
        SETUP_FAILED => {
            panic!("this kernel refuses seccomp filters; the test needs CONFIG_SECCOMP_FILTER")
        }
        _ => Ended::Otherwise { status },
    }
}

const SETUP_FAILED: i32 = 77;

const LOAD_WORD: u16 = 0x20; // BPF_LD | BPF_W | BPF_ABS
const JUMP_IF_EQUAL: u16 = 0x15; // BPF_JMP | BPF_JEQ | BPF_K
const RETURN: u16 = 0x06; // BPF_RET | BPF_K

const fn statement(code: u16, k: u32) -> sock_filter {
    sock_filter { code, jt: 0, jf: 0, k }
}

/// From here on every system call but `exit_group` kills this process with SIGSYS.
fn forbid_system_calls() -> bool {
    let number = u32::try_from(offset_of!(seccomp_data, nr)).unwrap_or(0);
    let exit_group = u32::try_from(libc::SYS_exit_group).unwrap_or(u32::MAX);
    let mut filter = [
        statement(LOAD_WORD, number),
        sock_filter { code: JUMP_IF_EQUAL, jt: 0, jf: 1, k: exit_group },
        statement(RETURN, libc::SECCOMP_RET_ALLOW),
        statement(RETURN, libc::SECCOMP_RET_KILL_PROCESS),
    ];
    let program = sock_fprog { len: 4, filter: filter.as_mut_ptr() };
    // SAFETY: gives up privileges of this child only; no pointers.
    let settled = unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) };
    if settled != 0 {
        return false;
    }
    // SAFETY: `program` and the filter that it points to live through the call; the kernel copies them.
    let filtered =
        unsafe { libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &raw const program) };
    filtered == 0
}

/// Minor and major page faults of the calling thread so far.
pub(crate) fn page_faults() -> (i64, i64) {
    // SAFETY: all zero is a valid rusage.
    let mut usage: libc::rusage = unsafe { core::mem::zeroed() };
    // SAFETY: `usage` is writable for the kernel to fill.
    let code = unsafe { libc::getrusage(libc::RUSAGE_THREAD, &raw mut usage) };
    assert_eq!(code, 0, "getrusage: {}", std::io::Error::last_os_error());
    (usage.ru_minflt, usage.ru_majflt)
}
