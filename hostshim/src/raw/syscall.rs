//! The system calls that the standard library lacks, one safe function each.
//!
//! Every function checks the answer and turns a refusal into [`Errno`]; none keeps a pointer that it was given.

use core::mem::MaybeUninit;
use std::ffi::CString;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use crate::error::Errno;
use crate::limits::Limit;

/// The path as the kernel wants it; EINVAL for one with a zero byte inside.
fn c_path(path: &Path) -> Result<CString, Errno> {
    CString::new(path.as_os_str().as_bytes()).map_err(|_zero| Errno::new(libc::EINVAL))
}

const fn check(answer: i32) -> Result<(), i32> {
    if answer < 0 { Err(answer) } else { Ok(()) }
}

/// Bytes of one page of the base size.
pub(crate) fn page_bytes() -> usize {
    // SAFETY: sysconf reads a constant of the process and takes no pointer.
    let answer = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
    usize::try_from(answer).unwrap_or(4096)
}

/// The effective user id of this process.
pub(crate) fn effective_uid() -> u32 {
    // SAFETY: geteuid has no arguments and always succeeds.
    unsafe { libc::geteuid() }
}

/// memfd_create(2), close-on-exec always set.
pub(crate) fn memfd(name: &str, flags: u32) -> Result<OwnedFd, Errno> {
    let name = c_path(Path::new(name))?;
    // SAFETY: `name` is a terminated string that outlives the call.
    let fd = unsafe { libc::memfd_create(name.as_ptr(), flags | libc::MFD_CLOEXEC) };
    own(fd)
}

/// Takes ownership of a descriptor that the kernel just made.
pub(super) fn own(fd: RawFd) -> Result<OwnedFd, Errno> {
    check(fd).map_err(|_negative| Errno::last())?;
    // SAFETY: the kernel returned this descriptor to us alone, and it is not negative.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// fallocate(2) from the first byte on: reserves every page of `file` up to `bytes` and sets the size. EFBIG where files of this process may not
/// be as large (RLIMIT_FSIZE): the kernel would answer by a signal that ends it, SIGXFSZ.
pub(crate) fn reserve(file: BorrowedFd<'_>, bytes: u64) -> Result<(), Errno> {
    if limit(Resource::FileBytes).is_ok_and(|may| bytes > may.soft) {
        return Err(Errno::new(libc::EFBIG));
    }
    let bytes = libc::off_t::try_from(bytes).map_err(|_large| Errno::new(libc::EFBIG))?;
    loop {
        // SAFETY: takes numbers only.
        let answer = unsafe { libc::fallocate(file.as_raw_fd(), 0, 0, bytes) };
        match check(answer).map_err(|_negative| Errno::last()) {
            Err(e) if e.number() == libc::EINTR => {}
            other => return other,
        }
    }
}

/// Fixes the size of a memfd for good, for everybody who has it.
pub(crate) fn seal_size(file: BorrowedFd<'_>) -> Result<(), Errno> {
    let seals = libc::F_SEAL_SHRINK | libc::F_SEAL_GROW | libc::F_SEAL_SEAL;
    // SAFETY: takes numbers only.
    let answer = unsafe { libc::fcntl(file.as_raw_fd(), libc::F_ADD_SEALS, seals) };
    check(answer).map_err(|_negative| Errno::last())
}

/// What a file system says about itself, as statfs(2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct FileSystem {
    /// The kind, for instance `HUGETLBFS_MAGIC`.
    pub(crate) magic: i64,
    /// Bytes per block; on hugetlbfs, bytes per huge page.
    pub(crate) block_bytes: u64,
    /// Blocks in all; zero where there is no limit.
    pub(crate) blocks: u64,
    /// Blocks that an unprivileged user may still take.
    pub(crate) free: u64,
}

impl FileSystem {
    /// Is this a hugetlbfs?
    pub(crate) const fn is_hugetlbfs(self) -> bool {
        self.magic == libc::HUGETLBFS_MAGIC
    }

    /// Is this a tmpfs?
    pub(crate) const fn is_tmpfs(self) -> bool {
        self.magic == libc::TMPFS_MAGIC
    }

    /// Bytes left; none where the file system has no limit.
    pub(crate) fn free_bytes(self) -> Option<u64> {
        (self.blocks != 0).then(|| self.free.saturating_mul(self.block_bytes))
    }

    /// Bytes in all; none where the file system has no limit.
    pub(crate) fn total_bytes(self) -> Option<u64> {
        (self.blocks != 0).then(|| self.blocks.saturating_mul(self.block_bytes))
    }
}

/// access(2): may this process write to `path`? EROFS where nobody may.
pub(crate) fn may_write(path: &Path) -> Result<(), Errno> {
    let path = c_path(path)?;
    // SAFETY: `path` is a terminated string that outlives the call.
    let answer = unsafe { libc::access(path.as_ptr(), libc::W_OK) };
    check(answer).map_err(|_negative| Errno::last())
}

/// statfs(2) of the file system that holds `path`.
pub(crate) fn file_system(path: &Path) -> Result<FileSystem, Errno> {
    let path = c_path(path)?;
    let mut answer = MaybeUninit::<libc::statfs>::uninit();
    // SAFETY: `path` is a terminated string, `answer` has room for one statfs; both outlive the call.
    let status = unsafe { libc::statfs(path.as_ptr(), answer.as_mut_ptr()) };
    check(status).map_err(|_negative| Errno::last())?;
    // SAFETY: the call succeeded, so the kernel has filled the structure.
    let s = unsafe { answer.assume_init() };
    Ok(FileSystem {
        magic: s.f_type,
        block_bytes: u64::try_from(s.f_bsize).unwrap_or(0),
        blocks: s.f_blocks,
        free: s.f_bavail,
    })
}

/// Gives the nameless file `file` (made with O_TMPFILE) the name `path`; EEXIST where anything has that name already,
/// be it a dangling symlink.
pub(crate) fn link(file: BorrowedFd<'_>, path: &Path) -> Result<(), Errno> {
    let from = c_path(Path::new(&format!("/proc/self/fd/{}", file.as_raw_fd())))?;
    let to = c_path(path)?;
    let cwd = libc::AT_FDCWD;
    // SAFETY: both strings are terminated and outlive the call.
    let answer =
        unsafe { libc::linkat(cwd, from.as_ptr(), cwd, to.as_ptr(), libc::AT_SYMLINK_FOLLOW) };
    check(answer).map_err(|_negative| Errno::last())
}

/// The CPUs that the calling thread may run on, ascending. Grows with the kernel's idea of how many there can be.
pub(crate) fn affinity() -> Result<Vec<u32>, Errno> {
    const WORD_BITS: u32 = usize::BITS;
    for words in [16_usize, 64, 256, 1024] {
        let mut mask = vec![0_usize; words];
        let bytes = words.saturating_mul(size_of::<usize>());
        // SAFETY: `mask` has `bytes` bytes, and a cpu_set_t is an array of unsigned longs, as the mask is.
        let answer = unsafe { libc::sched_getaffinity(0, bytes, mask.as_mut_ptr().cast()) };
        if answer == 0 {
            let words = (0_u32..).zip(mask);
            let cpus = words.flat_map(|(word, bits)| {
                (0..WORD_BITS)
                    .filter(move |bit| bits >> bit & 1 == 1)
                    .map(move |bit| word * WORD_BITS + bit)
            });
            return Ok(cpus.collect());
        }
        let e = Errno::last();
        if e.number() != libc::EINVAL {
            return Err(e);
        }
    }
    Err(Errno::new(libc::EINVAL))
}

/// pidfd_open(2): a descriptor that becomes readable when the process ends.
pub(crate) fn pidfd_open(pid: u32) -> Result<OwnedFd, Errno> {
    let pid = libc::pid_t::try_from(pid).map_err(|_large| Errno::new(libc::ESRCH))?;
    // SAFETY: takes numbers only.
    let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) };
    own(RawFd::try_from(fd).map_err(|_large| Errno::new(libc::EBADF))?)
}

/// Is there a process (or zombie) of that number that this process can see? kill(2) with signal 0.
pub(crate) fn pid_exists(pid: u32) -> bool {
    let Ok(pid) = libc::pid_t::try_from(pid) else {
        return false;
    };
    if pid <= 0 {
        return false;
    }
    // SAFETY: signal 0 is not delivered, only checked.
    let answer = unsafe { libc::kill(pid, 0) };
    answer == 0 || Errno::last().number() != libc::ESRCH
}

/// An eventfd at 0, close-on-exec, whose reads do not wait. eventfd(2).
pub(crate) fn eventfd() -> Result<OwnedFd, Errno> {
    // SAFETY: takes numbers.
    own(unsafe { libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK) })
}

/// A descriptor of which one wants to know whether it is readable. Same layout as `pollfd`.
#[repr(transparent)]
#[derive(Clone, Copy)]
pub(crate) struct Readable(libc::pollfd);

impl Readable {
    pub(crate) fn new(fd: BorrowedFd<'_>) -> Self {
        Self(libc::pollfd { fd: fd.as_raw_fd(), events: libc::POLLIN, revents: 0 })
    }

    /// Did the last [`poll`] find it readable? An error alone, as that of a descriptor that somebody closed, is none.
    pub(crate) const fn is_ready(self) -> bool {
        self.0.revents & libc::POLLIN != 0
    }

    /// Did the last [`poll`] find that nobody writes to it any more, of a pipe or a socket? There may be something to read all the same.
    pub(crate) const fn is_hung_up(self) -> bool {
        self.0.revents & libc::POLLHUP != 0
    }

    /// Did the last [`poll`] find that this is not, or no longer, something to poll? It would say so again at once.
    pub(crate) const fn is_void(self) -> bool {
        self.0.revents & (libc::POLLNVAL | libc::POLLERR) != 0
    }
}

/// poll(2): the number of ready descriptors, within `timeout_ms` (0: look only; negative: for ever). EINTR counts as none.
pub(crate) fn poll(watched: &mut [Readable], timeout_ms: i32) -> Result<usize, Errno> {
    let count = libc::nfds_t::try_from(watched.len()).map_err(|_large| Errno::new(libc::EINVAL))?;
    // SAFETY: Readable is a transparent pollfd; the slice is exclusively ours during the call and has `count` entries.
    let answer = unsafe { libc::poll(watched.as_mut_ptr().cast(), count, timeout_ms) };
    if let Ok(ready) = usize::try_from(answer) {
        return Ok(ready);
    }
    let e = Errno::last();
    if e.number() == libc::EINTR { Ok(0) } else { Err(e) }
}

/// Does `start` with all signals of this thread blocked: a thread that it starts inherits that, and takes none that is meant for the
/// program's own threads. pthread_sigmask(3).
pub(crate) fn with_signals_blocked<T>(start: impl FnOnce() -> T) -> T {
    let (mut all, mut before) = (MaybeUninit::uninit(), MaybeUninit::uninit());
    // SAFETY: fills in the set, of which it gets the address, and cannot fail.
    let _filled = unsafe { libc::sigfillset(all.as_mut_ptr()) };
    // SAFETY: `all` was filled in; `before` is filled in by this, which fails for an unknown first argument only.
    let _blocked =
        unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, all.as_ptr(), before.as_mut_ptr()) };
    let started = start();
    // SAFETY: `before` was filled in; a null pointer asks for nothing.
    let _as_before =
        unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, before.as_ptr(), core::ptr::null_mut()) };
    started
}

const MEMBARRIER_GLOBAL_EXPEDITED: i32 = 1 << 1;
const MEMBARRIER_REGISTER_GLOBAL_EXPEDITED: i32 = 1 << 2;

/// membarrier(2): `command`, without flags.
fn membarrier(command: i32) -> Result<(), Errno> {
    // SAFETY: takes numbers only.
    let answer = unsafe { libc::syscall(libc::SYS_membarrier, command, 0, 0) };
    if answer < 0 { Err(Errno::last()) } else { Ok(()) }
}

/// From now on all threads of this process take part in the barriers of [`barrier_on_all_cpus`], whoever calls it. Some
/// milliseconds, once.
pub(crate) fn register_for_barriers() -> Result<(), Errno> {
    membarrier(MEMBARRIER_REGISTER_GLOBAL_EXPEDITED)
}

/// Has every thread that runs just now, of every process that has registered, pass a full barrier, and this one. What
/// they stored before it is visible after it; what they load after it sees what was stored before it.
pub(crate) fn barrier_on_all_cpus() -> Result<(), Errno> {
    membarrier(MEMBARRIER_GLOBAL_EXPEDITED)
}

/// What a limit is on.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Resource {
    OpenFiles,
    LockedBytes,
    FileBytes,
}

impl Resource {
    const fn number(self) -> libc::__rlimit_resource_t {
        match self {
            Self::OpenFiles => libc::RLIMIT_NOFILE,
            Self::LockedBytes => libc::RLIMIT_MEMLOCK,
            Self::FileBytes => libc::RLIMIT_FSIZE,
        }
    }
}

/// getrlimit(2).
pub(crate) fn limit(of: Resource) -> Result<Limit, Errno> {
    let mut answer = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: `answer` is ours and outlives the call.
    let status = unsafe { libc::getrlimit(of.number(), &raw mut answer) };
    check(status).map_err(|_negative| Errno::last())?;
    // RLIM_INFINITY is all ones.
    Ok(Limit { soft: answer.rlim_cur, hard: answer.rlim_max })
}

/// setrlimit(2).
pub(crate) fn set_limit(of: Resource, to: Limit) -> Result<(), Errno> {
    let wanted = libc::rlimit { rlim_cur: to.soft, rlim_max: to.hard };
    // SAFETY: `wanted` outlives the call and is only read.
    let status = unsafe { libc::setrlimit(of.number(), &raw const wanted) };
    check(status).map_err(|_negative| Errno::last())
}

/// The clock `id` in nanoseconds; zero where the kernel has no such clock.
#[inline]
pub(crate) fn clock_ns(id: libc::clockid_t) -> u64 {
    let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `now` is ours and outlives the call.
    let answer = unsafe { libc::clock_gettime(id, &raw mut now) };
    if answer != 0 {
        return 0;
    }
    let seconds = u64::try_from(now.tv_sec).unwrap_or(0);
    seconds.saturating_mul(1_000_000_000).saturating_add(u64::try_from(now.tv_nsec).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsFd;

    #[test]
    fn poll_tells_ready_from_idle() {
        let (reader, mut writer) = std::io::pipe().unwrap();
        let mut watched = [Readable::new(reader.as_fd())];
        assert_eq!(poll(&mut watched, 0).unwrap(), 0);
        assert!(!watched[0].is_ready());
        std::io::Write::write_all(&mut writer, b"x").unwrap();
        assert_eq!(poll(&mut watched, -1).unwrap(), 1);
        assert!(watched[0].is_ready() && !watched[0].is_void());
    }

    #[test]
    fn a_descriptor_that_is_none_is_void_and_not_ready() {
        let mut watched =
            [Readable(libc::pollfd { fd: i32::MAX, events: libc::POLLIN, revents: 0 })];
        assert_eq!(poll(&mut watched, -1).unwrap(), 1);
        assert!(!watched[0].is_ready() && watched[0].is_void());
    }

    #[test]
    fn affinity_agrees_with_proc() {
        let status = std::fs::read_to_string("/proc/thread-self/status").unwrap();
        let line = status.lines().find_map(|l| l.strip_prefix("Cpus_allowed_list:")).unwrap();
        let list: crate::affinity::CpuList = line.trim().parse().unwrap();
        assert_eq!(list.iter().collect::<Vec<_>>(), affinity().unwrap());
    }

    #[test]
    fn barriers_can_be_had_or_are_refused_with_a_reason() {
        // Linux 4.16 has them, and nothing in a container's usual filters is against them.
        register_for_barriers().unwrap();
        barrier_on_all_cpus().unwrap();
        assert_eq!(membarrier(1 << 30).unwrap_err().number(), libc::EINVAL);
    }

    #[test]
    fn a_pid_that_cannot_be_is_absent() {
        assert!(pid_exists(std::process::id()));
        assert!(!pid_exists(0));
        assert!(!pid_exists(u32::MAX));
        assert_eq!(pidfd_open(u32::MAX).unwrap_err().number(), libc::ESRCH);
    }
}
