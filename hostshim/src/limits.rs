//! What this process may have: open files and locked memory (getrlimit(2)).

use core::fmt;

use crate::error::OsError;
use crate::raw::syscall::{self, Resource};

/// A limit of this process. `u64::MAX` stands for none.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Limit {
    /// What holds now.
    pub soft: u64,
    /// Up to what this process may raise it.
    pub hard: u64,
}

/// Open files: RLIMIT_NOFILE.
///
/// # Errors
/// Whatever getrlimit(2) says.
pub fn open_files() -> Result<Limit, OsError> {
    syscall::limit(Resource::OpenFiles).map_err(|e| OsError::new("getrlimit(RLIMIT_NOFILE)", e))
}

/// Bytes of locked memory: RLIMIT_MEMLOCK; none for a process with CAP_IPC_LOCK.
///
/// # Errors
/// Whatever getrlimit(2) says.
pub fn locked_bytes() -> Result<Limit, OsError> {
    if may_lock_all() {
        return Ok(Limit { soft: u64::MAX, hard: u64::MAX });
    }
    syscall::limit(Resource::LockedBytes).map_err(|e| OsError::new("getrlimit(RLIMIT_MEMLOCK)", e))
}

/// capabilities(7): CAP_IPC_LOCK is number 14.
const CAP_IPC_LOCK: u32 = 14;

/// Does the text of `/proc/self/status` say that the process may lock as much as it likes?
pub(crate) fn has_ipc_lock(status: &str) -> bool {
    let hex = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    let bits = hex.and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok()).unwrap_or(0);
    bits >> CAP_IPC_LOCK & 1 == 1
}

fn may_lock_all() -> bool {
    std::fs::read_to_string("/proc/self/status").is_ok_and(|status| has_ipc_lock(&status))
}

/// What became of the wish for more open files.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Raised {
    /// As many were asked for.
    pub wanted: u64,
    /// As many were allowed.
    pub before: u64,
    /// As many are.
    pub now: u64,
}

impl Raised {
    /// Are there as many as were asked for?
    #[must_use]
    pub const fn is_enough(self) -> bool {
        self.now >= self.wanted
    }
}

impl fmt::Display for Raised {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { wanted, before, now } = *self;
        if now == before {
            write!(f, "{now} open files")?;
        } else {
            write!(f, "{now} open files (before: {before})")?;
        }
        if self.is_enough() {
            return Ok(());
        }
        write!(f, " of {wanted} wanted; remedy: {}", open_files_remedy(wanted))
    }
}

/// What allows so many open files.
pub(crate) fn open_files_remedy(wanted: u64) -> String {
    format!(
        "echo \"$USER - nofile {wanted}\" | sudo tee /etc/security/limits.d/spinwire-nofile.conf # then log in anew; for a service: LimitNOFILE={wanted}"
    )
}

/// Raises the limit of open files to `wanted`, or as far as this process may. Never lowers it.
///
/// # Errors
/// Whatever getrlimit(2) and setrlimit(2) say; a limit that cannot be raised is no error, but said by [`Raised`].
pub fn raise_open_files(wanted: u64) -> Result<Raised, OsError> {
    let Limit { soft: before, hard } = open_files()?;
    if before >= wanted {
        return Ok(Raised { wanted, before, now: before });
    }
    let set = |soft, hard| syscall::set_limit(Resource::OpenFiles, Limit { soft, hard });
    // Who may, raises both.
    if wanted > hard && set(wanted, wanted).is_ok() {
        return Ok(Raised { wanted, before, now: wanted });
    }
    let now = wanted.min(hard);
    if now > before {
        set(now, hard).map_err(|e| OsError::new("setrlimit(RLIMIT_NOFILE)", e))?;
    }
    Ok(Raised { wanted, before, now })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_capability_is_bit_14() {
        assert!(has_ipc_lock("Name:\tx\nCapEff:\t0000000000004000\n"));
        assert!(!has_ipc_lock("CapEff:\t0000000000003fff\n"));
        assert!(!has_ipc_lock("") && !has_ipc_lock("CapEff:\tx"));
    }

    #[test]
    fn a_wish_that_is_granted_already_changes_nothing() {
        let before = open_files().unwrap();
        let raised = raise_open_files(1).unwrap();
        assert_eq!((raised.before, raised.now), (before.soft, before.soft));
        assert!(raised.is_enough() && !raised.to_string().contains("remedy"));
        assert_eq!(open_files().unwrap(), before);
    }

    #[test]
    fn what_is_missing_is_said_with_its_remedy() {
        let text = Raised { wanted: 9000, before: 10, now: 20 }.to_string();
        assert!(text.starts_with("20 open files (before: 10) of 9000 wanted; remedy: "), "{text}");
        assert!(text.contains("LimitNOFILE=9000"), "{text}");
    }
}
