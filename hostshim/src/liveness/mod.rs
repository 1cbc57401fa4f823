//! Who is a process, and does it still live?
//!
//! A number alone does not name a process: the kernel gives it to the next one. The number together with the start time
//! (field 22 of `/proc/PID/stat`, in clock ticks since boot) and the boot does. Of two processes that share memory each
//! writes this [`Identity`] down, and whoever wonders about the other asks [`Identity::life`] once, or keeps a
//! [`DeathWatch`].
//!
//! | found | verdict |
//! |---|---|
//! | same number, same start, running, sleeping or stopped | alive: a paused owner is not dead |
//! | zombie with no other thread left | dead: it will never run again, only nobody asked for its status yet |
//! | zombie leader, other threads run on | alive |
//! | no such number | dead |
//! | other start time, or other boot | dead, and the number belongs to somebody else |
//! | `/proc` of another PID namespace | unknown: numbers mean others there |
//! | the system would not tell | unknown, which is never taken for dead |
//!
//! Process numbers mean something inside one PID namespace only. Two containers that share `/dev/shm` but not their
//! process numbers would take each other for dead; [`pid_namespace`] lets a segment refuse such a join.

mod input;
mod stat;
mod watch;

use core::fmt;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

pub use input::has_ended;
pub use watch::{DeathWatch, WatchedBy};

use crate::error::{Errno, OsError};
use crate::raw::syscall;
use stat::Stat;

/// One process of one boot of one machine.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Identity {
    /// Its number.
    pub pid: u32,
    /// When it started, in clock ticks since boot: proc_pid_stat(5), field 22.
    pub start_time: u64,
    /// The boot: the 16 bytes of `/proc/sys/kernel/random/boot_id`, in the order in which they are printed.
    pub boot_id: [u8; 16],
}

/// Why a process counts as dead.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Death {
    /// It ended and is forgotten.
    Gone,
    /// It ended; its parent has not asked for its status.
    Zombie,
    /// Its number belongs to a later process now.
    Replaced,
    /// The machine was started anew since.
    OtherBoot,
}

/// What could be found out about a process.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Life {
    /// It runs, sleeps or waits.
    Alive,
    /// It was stopped by a signal or a debugger, and lives.
    Stopped,
    /// It ended.
    Dead(Death),
    /// The system would not tell.
    Unknown(OsError),
}

impl fmt::Display for Life {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Alive => f.write_str("alive"),
            Self::Stopped => f.write_str("stopped"),
            Self::Dead(Death::Gone) => f.write_str("dead"),
            Self::Dead(Death::Zombie) => f.write_str("dead (zombie)"),
            Self::Dead(Death::Replaced) => f.write_str("dead (its number was given away)"),
            Self::Dead(Death::OtherBoot) => f.write_str("dead (of an earlier boot)"),
            Self::Unknown(e) => write!(f, "unknown ({e})"),
        }
    }
}

impl Identity {
    /// This process.
    ///
    /// # Errors
    /// Where `/proc` is not mounted or not readable.
    pub fn mine() -> Result<Self, OsError> {
        Self::of(std::process::id())
    }

    /// The process that has the number `pid` now.
    ///
    /// # Errors
    /// Where there is none (ESRCH), or `/proc` does not tell.
    pub fn of(pid: u32) -> Result<Self, OsError> {
        let boot_id = boot_id()?;
        match read_stat(pid)? {
            Some(stat) => Ok(Self { pid, start_time: stat.start_time, boot_id }),
            None => Err(OsError::at("read", Path::new(&stat_path(pid)), Errno::new(libc::ESRCH))),
        }
    }

    /// Looks the process up in `/proc`. A few microseconds; not for a turn.
    #[must_use]
    pub fn life(&self) -> Life {
        match boot_id() {
            Ok(boot_id) if boot_id != self.boot_id => Life::Dead(Death::OtherBoot),
            Ok(_same_boot) => self.life_in_this_boot(),
            Err(e) => Life::Unknown(e),
        }
    }

    /// [`Identity::life`] for an identity whose boot was compared before.
    pub(crate) fn life_in_this_boot(&self) -> Life {
        match read_stat(self.pid) {
            Ok(Some(stat)) if stat.start_time != self.start_time => Life::Dead(Death::Replaced),
            Ok(Some(stat)) if stat.is_dead() => Life::Dead(Death::Zombie),
            Ok(Some(stat)) if stat.is_stopped() => Life::Stopped,
            Ok(Some(_running)) => Life::Alive,
            Ok(None) => Life::Dead(Death::Gone),
            Err(e) => Life::Unknown(e),
        }
    }
}

/// Does the process live? True while it is stopped, and where the system would not tell; [`Identity::life`] tells these
/// apart.
#[must_use]
pub fn is_alive(identity: &Identity) -> bool {
    !matches!(identity.life(), Life::Dead(_))
}

/// The identity of this boot: the 16 bytes of `/proc/sys/kernel/random/boot_id`.
///
/// # Errors
/// Where `/proc` is not mounted or not readable.
pub fn boot_id() -> Result<[u8; 16], OsError> {
    let path = Path::new("/proc/sys/kernel/random/boot_id");
    let text = fs::read_to_string(path);
    let text = text.map_err(|e| OsError::io("read", path, &e).with_remedy(MOUNT_PROC))?;
    parse_boot_id(text.trim()).ok_or_else(|| OsError::at("parse", path, Errno::new(libc::EINVAL)))
}

/// The inode of this process's PID namespace: equal for processes that mean the same by a process number.
///
/// # Errors
/// Where `/proc` is not mounted or not readable.
pub fn pid_namespace() -> Result<u64, OsError> {
    let path = Path::new("/proc/self/ns/pid");
    let found = fs::metadata(path).map(|m| m.ino());
    found.map_err(|e| OsError::io("stat", path, &e).with_remedy(MOUNT_PROC))
}

/// Where `/proc` is not there, or shows the processes of another PID namespace, as after `unshare --pid` without `--mount-proc`.
const MOUNT_PROC: &str = "mount -t proc proc /proc # in this PID namespace";

/// Does `/proc` show this process by its own number? If not, a number means one process there and another here, and whoever looked
/// would take somebody else's start time, and somebody else's end, for those of a peer.
fn check_proc() -> Result<(), OsError> {
    let path = Path::new("/proc/self");
    let operation = "find this process's PID namespace in";
    let refused = |errno| OsError::at(operation, path, errno).with_remedy(MOUNT_PROC);
    let shown = fs::read_link(path).map_err(|e| refused(Errno::from_io(&e)))?;
    let number: Option<u32> = shown.to_str().and_then(|number| number.parse().ok());
    match number {
        Some(number) if number == std::process::id() => Ok(()),
        // Not ESRCH, which says that a process has ended.
        Some(_) | None => Err(refused(Errno::new(libc::EXDEV))),
    }
}

fn stat_path(pid: u32) -> String {
    format!("/proc/{pid}/stat")
}

/// None where there is no such process.
fn read_stat(pid: u32) -> Result<Option<Stat>, OsError> {
    check_proc()?;
    let path = stat_path(pid);
    let path = Path::new(&path);
    match fs::read(path) {
        Ok(bytes) => {
            let stat = Stat::parse(&bytes);
            stat.map(Some).ok_or_else(|| OsError::at("parse", path, Errno::new(libc::EINVAL)))
        }
        // The file may be there at open and the process gone at read: that is ESRCH.
        Err(e) if e.kind() == io::ErrorKind::NotFound || e.raw_os_error() == Some(libc::ESRCH) => {
            // Mounted with hidepid, /proc hides the living too; and unmounted, everybody.
            if syscall::pid_exists(pid) { Err(OsError::io("read", path, &e)) } else { Ok(None) }
        }
        Err(e) => Err(OsError::io("read", path, &e)),
    }
}

/// `01234567-89ab-cdef-0123-456789abcdef`.
fn parse_boot_id(text: &str) -> Option<[u8; 16]> {
    let digits: Vec<u8> = text.bytes().filter(|b| *b != b'-').collect();
    let digits: &[u8; 32] = digits.as_slice().try_into().ok()?;
    // from_str_radix alone would take a sign.
    if !digits.iter().all(u8::is_ascii_hexdigit) {
        return None;
    }
    let mut id = [0; 16];
    for (byte, pair) in id.iter_mut().zip(digits.chunks_exact(2)) {
        let pair = core::str::from_utf8(pair).ok()?;
        *byte = u8::from_str_radix(pair, 16).ok()?;
    }
    Some(id)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn i_live() {
        let me = Identity::mine().unwrap();
        assert_eq!(me.pid, std::process::id());
        assert_eq!(me.life(), Life::Alive);
        assert!(is_alive(&me));
    }

    #[test]
    fn same_number_other_start_or_boot_is_dead() {
        let me = Identity::mine().unwrap();
        let earlier = Identity { start_time: me.start_time - 1, ..me };
        assert_eq!(earlier.life(), Life::Dead(Death::Replaced));
        let mut boot_id = me.boot_id;
        boot_id[15] ^= 1;
        let other = Identity { boot_id, ..me };
        assert_eq!(other.life(), Life::Dead(Death::OtherBoot));
        assert!(!is_alive(&earlier) && !is_alive(&other));
    }

    #[test]
    fn a_number_that_nobody_has_is_dead() {
        let me = Identity::mine().unwrap();
        for pid in [0, u32::MAX] {
            assert_eq!(Identity { pid, ..me }.life(), Life::Dead(Death::Gone));
            assert_eq!(Identity::of(pid).unwrap_err().errno(), Errno::new(libc::ESRCH));
        }
    }

    #[test]
    fn boot_ids_are_read_strictly() {
        let id = parse_boot_id("00010203-0405-0607-0809-0a0b0c0d0eff").unwrap();
        assert_eq!((id[0], id[1], id[15]), (0, 1, 0xff));
        for wrong in [
            "",
            "0001",
            "zz010203-0405-0607-0809-0a0b0c0d0eff",
            "+0010203-0405-0607-0809-0a0b0c0d0eff",
        ] {
            assert_eq!(parse_boot_id(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn namespaces_have_numbers() {
        assert_ne!(pid_namespace().unwrap(), 0);
    }
}
