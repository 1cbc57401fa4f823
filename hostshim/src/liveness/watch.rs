//! Waiting for many processes to end, without asking each of them all the time.
//!
//! A pidfd becomes readable when its process ends, so one poll(2) watches any number. Where the kernel has none to give
//! (before 5.3, under a strict seccomp filter, or with no file descriptor left) that process is looked up in `/proc` every
//! few milliseconds instead; [`DeathWatch::watch`] says which.
//!
//! Invariants: the pidfd is opened before the start time is compared, so that it can only belong to the process that was
//! meant; a death is reported once; the system's silence is never a death.

use core::time::Duration;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Instant;

use super::{Identity, Life, boot_id};
use crate::error::OsError;
use crate::raw::syscall::{self, Readable};

/// How often processes without a pidfd are looked up while waiting.
const LOOKUP_EVERY: Duration = Duration::from_millis(5);

/// How a process is watched.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum WatchedBy {
    /// By a pidfd: its end is seen at once.
    Pidfd,
    /// By looking into `/proc` every few milliseconds.
    Lookup,
    /// It was dead before the watch began; the next [`DeathWatch::poll`] reports it.
    AlreadyDead,
}

#[derive(Debug)]
enum Means {
    Pidfd(OwnedFd),
    Lookup,
    AlreadyDead,
}

#[derive(Debug)]
struct Entry {
    key: u64,
    identity: Identity,
    means: Means,
}

/// A set of processes whose end is awaited. Each has a key chosen by the caller, for instance its slot and generation.
#[derive(Debug, Default)]
pub struct DeathWatch {
    entries: Vec<Entry>,
    lookup_only: bool,
}

impl DeathWatch {
    /// Watches nobody yet.
    #[must_use]
    pub const fn new() -> Self {
        Self { entries: Vec::new(), lookup_only: false }
    }

    /// Watches by `/proc` only: what happens by itself where there are no pidfds.
    #[must_use]
    pub const fn by_lookup() -> Self {
        Self { entries: Vec::new(), lookup_only: true }
    }

    /// Adds a process. A key that is watched already is replaced.
    ///
    /// # Errors
    /// Where `/proc` does not tell which boot this is.
    pub fn watch(&mut self, key: u64, identity: Identity) -> Result<WatchedBy, OsError> {
        self.forget(key);
        let means =
            if identity.boot_id == boot_id()? { self.means(&identity) } else { Means::AlreadyDead };
        let by = match means {
            Means::Pidfd(_) => WatchedBy::Pidfd,
            Means::Lookup => WatchedBy::Lookup,
            Means::AlreadyDead => WatchedBy::AlreadyDead,
        };
        self.entries.push(Entry { key, identity, means });
        Ok(by)
    }

    fn means(&self, identity: &Identity) -> Means {
        let pidfd = if self.lookup_only { None } else { syscall::pidfd_open(identity.pid).ok() };
        // Refused: no such process, no pidfds, no descriptors left. The look-up below tells the dead from the rest.
        let means = pidfd.map_or(Means::Lookup, Means::Pidfd);
        // Only now: had the number changed hands before the pidfd was opened, the start time would differ.
        match identity.life_in_this_boot() {
            Life::Dead(_) => Means::AlreadyDead,
            Life::Alive | Life::Stopped | Life::Unknown(_) => means,
        }
    }

    /// Stops watching; false if that key was not watched.
    pub fn forget(&mut self, key: u64) -> bool {
        let before = self.entries.len();
        self.entries.retain(|e| e.key != key);
        self.entries.len() != before
    }

    /// How many are watched.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.entries.len()
    }

    /// Is nobody watched?
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Waits until at least one process has ended, or `timeout` has passed (zero: only looks). Returns the keys of the
    /// dead, which are no longer watched. Allocates and sleeps: for a housekeeping thread, not for a turn.
    ///
    /// # Errors
    /// The kernel's refusal of poll(2).
    pub fn poll(&mut self, timeout: Duration) -> Result<Vec<u64>, OsError> {
        let began = Instant::now();
        loop {
            let left = timeout.saturating_sub(began.elapsed());
            let dead = self.wait(left)?;
            if !dead.is_empty() || left.is_zero() {
                return Ok(dead);
            }
        }
    }

    /// One poll(2), and one look at those that have no pidfd.
    fn wait(&mut self, at_most: Duration) -> Result<Vec<u64>, OsError> {
        let must_look = self.entries.iter().any(|e| !matches!(e.means, Means::Pidfd(_)));
        let pause = if self.entries.iter().any(|e| matches!(e.means, Means::AlreadyDead)) {
            Duration::ZERO
        } else if must_look {
            at_most.min(LOOKUP_EVERY)
        } else {
            at_most
        };
        let mut watched: Vec<Readable> = self.entries.iter().filter_map(|e| e.pidfd()).collect();
        syscall::poll(&mut watched, millis(pause)).map_err(|e| OsError::new("poll", e))?;
        let mut answers = watched.iter();
        let mut dead = Vec::new();
        self.entries.retain_mut(|entry| {
            let ended = match entry.means {
                Means::Pidfd(_) => {
                    let answer = answers.next();
                    if answer.is_some_and(|a| a.is_void()) {
                        // Somebody in this process closed what was not theirs. That is nobody's death.
                        entry.means = Means::Lookup;
                    }
                    answer.is_some_and(|a| a.is_ready())
                }
                Means::Lookup => matches!(entry.identity.life_in_this_boot(), Life::Dead(_)),
                Means::AlreadyDead => true,
            };
            if ended {
                dead.push(entry.key);
            }
            !ended
        });
        Ok(dead)
    }
}

impl Entry {
    fn pidfd(&self) -> Option<Readable> {
        match &self.means {
            Means::Pidfd(fd) => Some(Readable::new(fd.as_fd())),
            Means::Lookup | Means::AlreadyDead => None,
        }
    }
}

/// Rounded up, so that a wait of less than a millisecond does not become a busy loop.
fn millis(span: Duration) -> i32 {
    i32::try_from(span.as_nanos().div_ceil(1_000_000)).unwrap_or(i32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::{Child, Command, Stdio};

    /// A process that waits for its input to end, which it does when this one dies.
    fn waiter() -> (Child, Identity) {
        let child = Command::new("cat").stdin(Stdio::piped()).spawn().unwrap();
        let identity = Identity::of(child.id()).unwrap();
        (child, identity)
    }

    const LONG: Duration = Duration::from_secs(60);

    #[test]
    fn reports_the_one_that_ended_and_only_once() {
        for mut watch in [DeathWatch::new(), DeathWatch::by_lookup()] {
            let expected = if watch.lookup_only { WatchedBy::Lookup } else { WatchedBy::Pidfd };
            let (mut a, id_a) = waiter();
            let (mut b, id_b) = waiter();
            assert_eq!(watch.watch(1, id_a).unwrap(), expected);
            assert_eq!(watch.watch(2, id_b).unwrap(), expected);
            assert_eq!(watch.poll(Duration::ZERO).unwrap(), Vec::<u64>::new());
            b.kill().unwrap();
            assert_eq!(watch.poll(LONG).unwrap(), [2], "a zombie is dead");
            b.wait().unwrap();
            assert_eq!(watch.len(), 1);
            assert_eq!(watch.poll(Duration::from_millis(20)).unwrap(), Vec::<u64>::new());
            a.kill().unwrap();
            a.wait().unwrap();
            assert_eq!(watch.poll(LONG).unwrap(), [1]);
            assert!(watch.is_empty());
        }
    }

    #[test]
    fn the_dead_of_before_are_reported_at_once() {
        let (mut child, identity) = waiter();
        child.kill().unwrap();
        let mut watch = DeathWatch::new();
        let me = Identity::mine().unwrap();
        watch.watch(0, me).unwrap();
        // Killed and not waited for: wait until the kernel has made it a zombie.
        while !matches!(identity.life(), Life::Dead(_)) {
            std::thread::yield_now();
        }
        assert_eq!(watch.watch(1, identity).unwrap(), WatchedBy::AlreadyDead);
        child.wait().unwrap();
        let replaced = Identity { start_time: me.start_time + 1, ..me };
        assert_eq!(watch.watch(2, replaced).unwrap(), WatchedBy::AlreadyDead);
        let other_boot = Identity { boot_id: [0; 16], ..me };
        assert_eq!(watch.watch(3, other_boot).unwrap(), WatchedBy::AlreadyDead);
        let absent = Identity { pid: u32::MAX, ..me };
        assert_eq!(watch.watch(4, absent).unwrap(), WatchedBy::AlreadyDead);
        assert_eq!(watch.poll(LONG).unwrap(), [1, 2, 3, 4]);
        assert_eq!(watch.len(), 1);
    }

    #[test]
    fn forgotten_and_replaced_keys() {
        let me = Identity::mine().unwrap();
        let mut watch = DeathWatch::new();
        watch.watch(7, Identity { pid: u32::MAX, ..me }).unwrap();
        watch.watch(7, me).unwrap();
        assert_eq!(watch.len(), 1);
        assert_eq!(watch.poll(Duration::ZERO).unwrap(), Vec::<u64>::new());
        assert!(watch.forget(7) && !watch.forget(7));
    }

    #[test]
    fn waits_are_rounded_up() {
        assert_eq!(millis(Duration::ZERO), 0);
        assert_eq!(millis(Duration::from_nanos(1)), 1);
        assert_eq!(millis(Duration::from_micros(1001)), 2);
        assert_eq!(millis(Duration::MAX), i32::MAX);
    }
}
