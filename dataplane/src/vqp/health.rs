//! Which paths are in use: what errors and the time mean for them, and which of them is next.
//!
//! Times are told by a clock of the virtual queue pair's own. It moves when a turn looks at its paths, by the time since the last
//! look, and by no more than a *step*: if the process was stopped, or has done something else, nothing can be said of
//! devices that nobody has asked.

use core::cell::Cell;

use super::config::VqpConfig;
use super::cq::TICK;
use super::flight::InFlight;
use super::path::{Health, Path, count};
use super::qp::{Mode, State, VirtualQp, bit};
use super::refusal::Cause;
use super::request::Direction;
use super::send::Fate;
use crate::table::{NIL, wide};
use crate::time::{Instant, Nanos};
use crate::verbs::QueuePair;

/// Work requests of a path that are taken for flushed at a time.
const FLUSHES: u32 = 256;

/// The most that the clock moves at once.
fn step(config: &VqpConfig) -> Nanos {
    let least = config.suspect_after.min(config.silent_after).min(config.flush_after);
    Nanos::new(least.as_nanos() / 4).max(TICK)
}

/// What has failed.
impl<P: QueuePair> VirtualQp<'_, P> {
    /// A device has completed something with an error.
    #[cold]
    pub(super) fn fail(
        &self,
        (at, path): (u32, &Path<'_, P>),
        entry: &InFlight,
        cause: Cause,
        direction: Direction,
    ) {
        count(&path.errors, 1);
        self.fail_path(at, cause);
        path.is_silent.set(false);
        // Behind the first error of a queue pair all is flushed: what has failed is the first. It may come second only because
        // sends and receives are two queues.
        let cause = match path.cause.get() {
            Some(first) if cause.is_flush() => first,
            Some(first) if first.is_flush() => {
                path.cause.set(Some(cause));
                cause
            }
            _ => cause,
        };
        self.note(cause);
        match direction {
            Direction::Send => self.lose(entry, cause, Fate::Executed { is_silent: false }),
            Direction::Recv => self.lose_recv(entry, cause),
        }
    }

    /// Something was completed on a path that is not well.
    #[cold]
    pub(super) fn look_at(&self, at: u32, path: &Path<'_, P>, direction: Direction) {
        match path.health.get() {
            // What is received says nothing of a send that is stuck.
            Health::Suspect if direction == Direction::Recv => {}
            Health::Suspect | Health::Recovered => self.set_health(at, Health::Ok),
            Health::Draining if path.is_empty() => self.set_down(at),
            Health::Draining | Health::Ok | Health::Down => {}
        }
    }

    /// Takes a path out: what is on its way there is waited for, or taken for flushed in time.
    pub(super) fn fail_path(&self, at: u32, cause: Cause) {
        let Some(path) = self.paths.get(wide(at)).filter(|path| path.is_up()) else {
            return;
        };
        path.cause.set(Some(cause));
        path.is_silent.set(true);
        path.since.set(self.clock.get());
        self.note(cause);
        self.set_health(at, Health::Draining);
    }

    /// The first cause is kept, unless it said less than this one.
    fn note(&self, cause: Cause) {
        if self.cause.get().is_none_or(|first| first.is_weak() && !cause.is_weak()) {
            self.cause.set(Some(cause));
        }
    }

    pub(super) fn set_health(&self, at: u32, health: Health) {
        let Some(path) = self.paths.get(wide(at)) else { return };
        path.health.set(health);
        path.is_plain.set(self.mode == Mode::Single && health == Health::Ok);
        let put = |set: &Cell<u64>, is_in: bool| {
            set.set((set.get() & !bit(at)) | if is_in { bit(at) } else { 0 });
        };
        put(&self.up, matches!(health, Health::Ok | Health::Recovered));
        put(&self.suspect, health == Health::Suspect);
        if self.up.get() & self.data == self.data {
            self.cause.set(None);
        }
    }

    pub(super) fn set_down(&self, at: u32) {
        self.set_health(at, Health::Down);
        let is_left = (0..NIL)
            .zip(self.paths)
            .any(|(at, path)| self.data & bit(at) != 0 && path.health.get() != Health::Down);
        if !is_left {
            self.fail_unclaimed(self.first_cause());
        }
    }

    /// The first cause of what is wrong now.
    pub(super) fn first_cause(&self) -> Cause {
        self.cause.get().unwrap_or(Cause::Closed)
    }
}

/// What is due.
impl<P: QueuePair> VirtualQp<'_, P> {
    /// What is due at `now`: of one path at most something is flushed. Says whether anything has changed.
    pub(super) fn on_time(&self, now: Instant) -> bool {
        let passed = now.saturating_since(self.looked.get()).min(step(&self.config));
        self.looked.set(now);
        let clock = self.clock.get().saturating_add(passed);
        self.clock.set(clock);
        let mut has_changed = false;
        for (at, path) in (0..NIL).zip(self.paths) {
            let completed = path.completed();
            let is_draining = path.health.get() == Health::Draining;
            if path.seen.replace(completed) != completed
                || !(path.sends.is_waiting() || is_draining)
            {
                path.since.set(clock);
            }
            let quiet = clock.saturating_since(path.since.get());
            match path.health.get() {
                Health::Draining if path.is_empty() => {
                    self.set_down(at);
                    has_changed = true;
                }
                Health::Draining if quiet >= self.config.flush_after => {
                    self.flush(at);
                    return true;
                }
                Health::Suspect if !path.sends.is_waiting() => self.set_health(at, Health::Ok),
                Health::Ok | Health::Recovered | Health::Suspect => {
                    if quiet >= self.config.silent_after {
                        self.fail_path(at, Cause::Silent);
                        has_changed = true;
                    } else if quiet >= self.config.suspect_after {
                        self.set_health(at, Health::Suspect);
                        has_changed = true;
                    }
                }
                Health::Draining | Health::Down => {}
            }
        }
        has_changed
    }

    /// What the device has not flushed is taken for flushed, some of it at a time. It may come yet, and is stale then.
    fn flush(&self, at: u32) {
        let Some(path) = self.paths.get(wide(at)) else { return };
        let cause = path.cause.get().unwrap_or(Cause::Silent);
        let fate = Fate::Executed { is_silent: path.is_silent.get() };
        // Receives of no bytes name no memory, and what the peer writes there yet has a number that is expected.
        let keeps_recvs = self.state.get() == State::Open && matches!(self.mode, Mode::Sequence(_));
        path.sends.tell();
        path.recvs.tell();
        for _ in 0..FLUSHES {
            if let Some(entry) = path.sends.pop() {
                self.lose(&entry, cause, fate);
            } else if let Some(entry) = path.recvs.pop_if(!keeps_recvs) {
                self.lose_recv(&entry, cause);
            } else {
                self.set_down(at);
                return;
            }
        }
    }
}

/// Which path is next.
impl<P: QueuePair> VirtualQp<'_, P> {
    /// Whether one of those paths can take work, now or later.
    #[inline]
    pub(super) const fn is_any_up(&self, allowed: u64) -> bool {
        (self.up.get() | self.suspect.get()) & allowed != 0
    }

    /// One of those paths that has room: in turn, suspect ones only where no other is up.
    #[inline]
    pub(super) fn pick(&self, allowed: u64) -> Option<u32> {
        let up = self.up.get() & allowed;
        let set = if up == 0 { self.suspect.get() & allowed } else { up };
        let ready = set & self.roomy.get();
        if ready == 0 {
            return None;
        }
        let later = ready & u64::MAX.wrapping_shl(self.turn.get());
        let chosen = if later == 0 { ready } else { later }.trailing_zeros();
        self.turn.set(chosen.wrapping_add(1) & 63);
        Some(chosen)
    }
}
