//! One descriptor that tells when an endpoint has something to turn for, whatever it goes over.
//!
//! ```text
//!   tcp, udp    an eventfd that the kernel writes to for their ring            uring::News
//!   shm         an eventfd; a thread waits at the bell and writes to it        bell
//!   verbs       epoll: completions, events of the device, of connections
//!   ofi         epoll: what fi_control(FI_GETWAIT) gives, calls and ends of peers
//!
//!   turn  idle?  ── busy ──> awake: nobody need tell
//!           '── first ──> arm: forget what was told, have everybody tell from now on
//!                '── still idle, once more ──> one more turn of its own: idle, too ──> asleep: wait for the descriptor
//! ```
//!
//! The turns between arming and sleeping are what loses nothing: what came before the arming is found by them, what comes after it is told. The last of them is
//! taken here, after all that the program has posted since its own: so no message stays behind that was staged only, and no receive that a message waits for already.

use core::cell::Cell;
use core::fmt;
use core::time::Duration;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
#[cfg(any(feature = "verbs", feature = "libfabric"))]
use std::rc::Rc;

use spinwire_dataplane::error::{Misuse, PostError};
use spinwire_dataplane::msg::Endpoint;
use spinwire_dataplane::poll::{Budget, Outcome, Poll, WakeSource};
#[cfg(feature = "libfabric")]
use spinwire_dataplane::provider::{Caps, Provider as _};
use spinwire_dataplane::time::Instant;

use super::bell::BellFd;
use super::{AnyPort, OpenError};
use crate::discover::Transport;
use crate::domain::Domain;
use crate::error::OsError;
use crate::idle::NAP_MAX;
#[cfg(any(feature = "verbs", feature = "libfabric"))]
use crate::raw::epoll::Epoll;
use crate::raw::syscall::{self, Readable};
use crate::uring;

/// Idle turns of the program between arming and sleeping: what comes of the first may be an errand for the host, which is done with the second, and seen by
/// the one that is taken before a sleep.
const TURNS: u8 = 2;

/// What is watched.
enum Told {
    Ring(uring::News),
    Bell(BellFd),
    #[cfg(any(feature = "verbs", feature = "libfabric"))]
    Set(Rc<Epoll>),
}

/// How far its owner is on the way to sleep.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Stage {
    /// Nobody need tell.
    Awake,
    /// Everybody tells, and so many idle turns are to come.
    Armed(u8),
}

/// A descriptor that tells when an endpoint has something to turn for: for `epoll(7)`, for the reactor of a runtime, or for [`News::sleep`].
///
/// ```text
///   let news = opened.news()?;                        // once
///   loop {
///       let outcome = opened.endpoint.turn(opened.now(), Budget::DEFAULT);
///       ..                                            // take completions and events, all of them; post
///       if let Some(most) = news.may_sleep(outcome, opened.now()) {
///           news.sleep(most)?;                        // or: timeout(most, async_fd.readable()).await
///       }
///   }
/// ```
///
/// Whoever asks [`may_sleep`](News::may_sleep) after each turn misses nothing, be the reactor's interest level-triggered or edge-triggered. Of the descriptor
/// itself nothing is to be read. What only its owner can move is not told: a message that was refused for lack of room is to be tried again after each sleep, for
/// which `may_sleep` keeps those short.
pub struct News<'e, 'a> {
    told: Told,
    end: &'e Endpoint<'a, AnyPort<'a>>,
    stage: Cell<Stage>,
    /// Whether all who have something for this end tell.
    is_heard: Cell<bool>,
    is_armed: Cell<bool>,
}

impl fmt::Debug for News<'_, '_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("News")
            .field("fd", &self.as_raw_fd())
            .field("stage", &self.stage)
            .finish_non_exhaustive()
    }
}

impl AsFd for News<'_, '_> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match &self.told {
            Told::Ring(news) => news.as_fd(),
            Told::Bell(bell) => bell.as_fd(),
            #[cfg(any(feature = "verbs", feature = "libfabric"))]
            Told::Set(set) => set.as_fd(),
        }
    }
}

/// For runtimes that ask for it, as tokio's `AsyncFd` does.
impl AsRawFd for News<'_, '_> {
    fn as_raw_fd(&self) -> RawFd {
        self.as_fd().as_raw_fd()
    }
}

/// What an endpoint in shared memory is told by.
fn told_by_bell(domain: &Domain, end: &Endpoint<'_, AnyPort<'_>>) -> Result<Told, OpenError> {
    let AnyPort::Shm(port) = end.provider() else {
        return Err(OpenError::NoDescriptor(Transport::Shm));
    };
    Ok(Told::Bell(BellFd::new(domain, port.id().slot).map_err(OpenError::System)?))
}

#[cfg(any(feature = "verbs", feature = "libfabric"))]
fn set_of(all: impl IntoIterator<Item = RawFd>) -> Result<Rc<Epoll>, OpenError> {
    let failed = |e| OpenError::System(OsError::new("epoll", e));
    let set = Epoll::new().map_err(failed)?;
    all.into_iter().try_for_each(|fd| set.add(fd)).map_err(failed)?;
    Ok(Rc::new(set))
}

impl<'e, 'a> News<'e, 'a> {
    /// For an endpoint that stands on a ring, or on that domain, or on what its port holds.
    pub(super) fn of(
        end: &'e Endpoint<'a, AnyPort<'a>>,
        (ring, domain): (Option<&uring::Uring>, Option<&Domain>),
    ) -> Result<Self, OpenError> {
        let told = match (end.provider(), ring, domain) {
            (AnyPort::Tcp(_) | AnyPort::Udp(_), Some(ring), _) => Told::Ring(ring.news()?),
            (AnyPort::Shm(_), _, Some(domain)) => told_by_bell(domain, end)?,
            #[cfg(feature = "verbs")]
            (AnyPort::Verbs(_, plane), ..) => match plane.descriptors() {
                Some(all) => Told::Set(set_of(all)?),
                None => return Err(OpenError::NoDescriptor(Transport::Verbs)),
            },
            #[cfg(feature = "verbs")]
            (AnyPort::VerbsDatagrams(_, plane), ..) => match plane.descriptors() {
                Some(all) => Told::Set(set_of(all)?),
                None => return Err(OpenError::NoDescriptor(Transport::Verbs)),
            },
            #[cfg(feature = "mlx5")]
            (AnyPort::Mlx5(..) | AnyPort::Mlx5Datagrams(..), ..) => {
                return Err(OpenError::NoDescriptor(Transport::Mlx5));
            }
            #[cfg(feature = "libfabric")]
            (AnyPort::Ofi(port, plane), ..) => {
                if !port.can_wait() {
                    return Err(OpenError::NoDescriptor(Transport::Ofi));
                }
                if !port.info().caps.has(Caps::DESCRIPTOR) {
                    return Err(OpenError::Polled(Transport::Ofi));
                }
                let set = set_of(port.descriptors()?)?;
                plane.watch_in(&set).map_err(|e| OpenError::System(OsError::new("epoll", e)))?;
                Told::Set(set)
            }
            // A seat has what its own endpoint stands on, and no other's.
            _ => return Err(PostError::from(Misuse::Unsupported).into()),
        };
        let (stage, is_heard) = (Cell::new(Stage::Awake), Cell::new(true));
        Ok(Self { told, end, stage, is_heard, is_armed: Cell::new(false) })
    }

    /// To be asked after each turn, with what that came to, when all completions and events were taken. `None`: take another turn. Else there is nothing to
    /// do, and everybody tells from now on: wait until the descriptor can be read from, but no longer than that, and turn again. What is posted in between goes
    /// out with that turn, unless it is flushed.
    ///
    /// Before it lets anybody sleep it takes a turn itself, with which all goes out that was posted so far.
    ///
    /// A wait is short (100 us; in the milliseconds of a reactor one) where somebody may not tell: a process of the segment that does not ring,
    /// a message that was refused for lack of room.
    #[must_use = "what is not slept for is to be turned for"]
    pub fn may_sleep(&self, outcome: Outcome, now: Instant) -> Option<Duration> {
        if outcome.is_busy() || self.time_left(now).is_zero() {
            self.disarm();
            return None;
        }
        match self.stage.get() {
            Stage::Awake => {
                self.is_heard.set(self.arm());
                self.stage.set(Stage::Armed(TURNS));
                None
            }
            Stage::Armed(left) if left > 1 => {
                self.stage.set(Stage::Armed(left.saturating_sub(1)));
                None
            }
            Stage::Armed(_) => {
                if !self.has_nothing_left(now) {
                    self.disarm();
                    return None;
                }
                let most = self.time_left(now);
                if most.is_zero() || !self.is_told_from_here() {
                    return None;
                }
                // What was told is forgotten, and everybody armed anew, before the next sleep.
                self.stage.set(Stage::Awake);
                Some(if self.is_heard.get() { most } else { most.min(NAP_MAX) })
            }
        }
    }

    /// Sleeps on the descriptor, for as long as [`may_sleep`](News::may_sleep) has said at most, rounded up to milliseconds. Whether it was told something.
    ///
    /// # Errors
    /// What poll(2) says.
    pub fn sleep(&self, most: Duration) -> Result<bool, OsError> {
        Self::wait_for(&mut [Readable::new(self.as_fd())], most)
    }

    /// [`may_sleep`](News::may_sleep) for a thread that turns several endpoints: to be asked after each turn of all of them, with `Busy` where one was.
    /// Asked one by one, each has to say so after the same turn, which may never come: they do not begin to arm together.
    #[must_use = "what is not slept for is to be turned for"]
    pub fn may_sleep_on(all: &[Self], outcome: Outcome, now: Instant) -> Option<Duration> {
        let (mut most, mut ready) = (Duration::MAX, 0_usize);
        for its in all.iter().filter_map(|news| news.may_sleep(outcome, now)) {
            most = most.min(its);
            ready = ready.saturating_add(1);
        }
        if ready == all.len() {
            return Some(most);
        }
        if ready > 0 {
            // From here on in step.
            all.iter().for_each(Self::disarm);
        }
        None
    }

    /// Sleeps on the descriptors of several endpoints, for as long as [`may_sleep_on`](News::may_sleep_on) has said at most, rounded up to milliseconds.
    /// Whether one of them was told something. Makes a list of them on the heap, as [`sleep`](News::sleep) does not.
    ///
    /// # Errors
    /// What poll(2) says.
    pub fn sleep_on(all: &[Self], most: Duration) -> Result<bool, OsError> {
        let mut watched: Vec<_> = all.iter().map(|news| Readable::new(news.as_fd())).collect();
        Self::wait_for(&mut watched, most)
    }

    fn wait_for(watched: &mut [Readable], most: Duration) -> Result<bool, OsError> {
        let millis = i32::try_from(most.as_nanos().div_ceil(1_000_000)).unwrap_or(i32::MAX);
        let ready = syscall::poll(watched, millis).map_err(|e| OsError::new("poll", e))?;
        Ok(ready > 0)
    }

    /// How long until the endpoint wants a turn though nothing comes.
    fn time_left(&self, now: Instant) -> Duration {
        let until = |at: Instant| Duration::from_nanos(at.saturating_since(now).as_nanos());
        self.end.poll_at().map_or(Duration::MAX, until)
    }

    /// Takes a turn: what was posted since the last one goes out. Whether nothing came of it that the program is to take.
    fn has_nothing_left(&self, now: Instant) -> bool {
        let events = self.end.provider().events_waiting();
        let is_idle = !self.end.turn(now, Budget::DEFAULT).is_busy();
        is_idle && self.end.provider().events_waiting() == events
    }

    /// Forgets what was told, and has everybody tell from now on. Whether everybody does.
    fn arm(&self) -> bool {
        self.is_armed.set(true);
        match (&self.told, self.end.provider()) {
            (Told::Ring(news), _) => {
                let _told_before = news.clear();
                true
            }
            (Told::Bell(bell), _) => {
                bell.clear();
                let armed = self.end.arm();
                // SYNC(bell): between `WakeSource::arm` and `WakeSource::look_over`; pairs with `store_before_load_of_bell`.
                let is_ordered = !armed.is_new || syscall::barrier_on_all_cpus().is_ok();
                self.end.look_over();
                is_ordered && armed.is_heard && self.end.bell().is_some()
            }
            #[cfg(feature = "verbs")]
            (Told::Set(_), AnyPort::Verbs(_, plane)) => plane.arm(),
            #[cfg(feature = "verbs")]
            (Told::Set(_), AnyPort::VerbsDatagrams(_, plane)) => plane.arm(),
            #[cfg(feature = "libfabric")]
            (Told::Set(_), AnyPort::Ofi(_, plane)) => {
                plane.look_next();
                true
            }
            #[cfg(any(feature = "verbs", feature = "libfabric"))]
            (Told::Set(_), _) => false,
        }
    }

    /// Whether nothing is missed from here on: nothing has come, and what comes is told.
    fn is_told_from_here(&self) -> bool {
        match &self.told {
            Told::Ring(_) => true,
            Told::Bell(bell) => {
                // Without the thread nobody tells: then sleeps are short.
                let listens = bell.listen().is_ok();
                self.is_heard.set(self.is_heard.get() && listens);
                true
            }
            #[cfg(any(feature = "verbs", feature = "libfabric"))]
            Told::Set(set) => {
                if !self.end.provider().has_heard_all() {
                    return false;
                }
                #[cfg(feature = "libfabric")]
                if let AnyPort::Ofi(port, plane) = self.end.provider()
                    && !port.may_wait()
                {
                    plane.look_next();
                    return false;
                }
                // Who watches for edges was told of what is there: it is to be dealt with before the next one can come. What cannot be asked may have told.
                let is_quiet = matches!(set.is_ready(), Ok(false));
                if !is_quiet {
                    self.stage.set(Stage::Awake);
                }
                is_quiet
            }
        }
    }

    /// Nobody need tell any more.
    fn disarm(&self) {
        self.stage.set(Stage::Awake);
        if self.is_armed.replace(false)
            && let Told::Bell(_) = self.told
        {
            self.end.disarm();
        }
    }
}

impl Drop for News<'_, '_> {
    fn drop(&mut self) {
        self.disarm();
    }
}
