//! Streams and files on one ring: one harvest, one call of the kernel a turn, for services that answer when what they were told is on the disk.
//!
//! ```text
//!                      StreamsAndFiles::turn
//!   Ring -- harvest --> completion: whose tag? --.--> Streams::take_in --> Streams::poll
//!                                                |--> Files::take_in   --> Files::poll
//!                                                '--> nobody's: counted, and the last one kept
//!   Ring <-- submit once -- Streams::stage, Files::stage
//! ```
//!
//! Each completion carries the name of its operation, and in it a tag ([`OpTag`](crate::id::OpTag)); files have one of their own. Both services lie in the arena of the
//! ring: a buffer that bytes have come into can be written to a file as it is, and then be sent. Such a ring is opened for both: with
//! the bytes that both arenas take, and entries for the longest chain of either.
//!
//! Invariants: (1) a completion is taken in by one service, or counted as a stray; (2) a turn enters the kernel at most once; (3) who comes
//! first takes turns, so that neither service keeps the other out of the queue.

use core::cell::Cell;
use core::fmt;

use spinwire_layouts::uring::Cqe;

use crate::file::Files;
use crate::poll::{Budget, Outcome, Poll};
use crate::stream::Streams;
use crate::time::Instant;
use crate::uring::{Enter, Ring};

/// The two services are on different rings. Place both on one, or turn each by itself.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TwoRings;

impl fmt::Display for TwoRings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("streams and files: on two rings; place both on one, or turn each by itself")
    }
}

impl core::error::Error for TwoRings {}

/// Completions that were nobody's.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Strays {
    /// How many.
    pub count: u64,
    /// The last of them.
    pub last: Option<Cqe>,
}

/// Streams and files that share a ring, for one thread. See the [module](self).
#[derive(Debug)]
pub struct StreamsAndFiles<'s, 'm, E: Enter> {
    ring: &'m Ring<'m, E>,
    streams: &'s Streams<'m, E>,
    files: &'s Files<'m, E>,
    files_first: Cell<bool>,
    strays: Cell<Strays>,
}

impl<'s, 'm, E: Enter> StreamsAndFiles<'s, 'm, E> {
    /// Takes over the turns of both, which are not turned by themselves from here on.
    ///
    /// # Errors
    /// [`TwoRings`].
    pub fn new(streams: &'s Streams<'m, E>, files: &'s Files<'m, E>) -> Result<Self, TwoRings> {
        if !core::ptr::eq(streams.ring(), files.ring()) {
            return Err(TwoRings);
        }
        Ok(Self {
            ring: streams.ring(),
            streams,
            files,
            files_first: Cell::new(false),
            strays: Cell::new(Strays { count: 0, last: None }),
        })
    }

    /// The streams.
    #[must_use]
    pub const fn streams(&self) -> &'s Streams<'m, E> {
        self.streams
    }

    /// The files.
    #[must_use]
    pub const fn files(&self) -> &'s Files<'m, E> {
        self.files
    }

    /// Completions that were nobody's: of operations that the caller has staged by himself, or nonsense.
    #[must_use]
    pub const fn strays(&self) -> Strays {
        self.strays.get()
    }

    /// Hands a completion to whose it is.
    #[inline]
    fn hand_on(&self, cqe: &Cqe) {
        if !self.streams.take_in(cqe) && !self.files.take_in(cqe) {
            self.stray(cqe);
        }
    }

    #[cold]
    fn stray(&self, cqe: &Cqe) {
        // There is one group of buffers here; the kernel has none to lose.
        self.streams.give_back(*cqe);
        let count = self.strays.get().count.wrapping_add(1);
        self.strays.set(Strays { count, last: Some(*cqe) });
    }

    /// Hands in everything that waits, with one call of the kernel; for who wants it to leave before the next turn.
    pub fn flush(&self) {
        self.streams.stage_all();
        self.files.stage(u32::MAX);
        let _counted_by_the_ring = self.ring.submit();
    }
}

impl<E: Enter> Poll for StreamsAndFiles<'_, '_, E> {
    /// Takes completions in, which [`Streams::poll`] and [`Files::poll`] report, and submits what both want with at most one call of the
    /// kernel. None are taken in before all events of the streams were polled.
    fn turn(&self, now: Instant, budget: Budget) -> Outcome {
        self.streams.set_now(now);
        let heard = match self.streams.room_for_completions() {
            0 => 0,
            room => self.ring.harvest(budget.completions.min(room), |cqe| self.hand_on(&cqe)),
        };
        let files_first = self.files_first.get();
        self.files_first.set(!files_first);
        if files_first {
            self.files.stage(budget.posts);
            self.streams.stage(budget);
        } else {
            self.streams.stage(budget);
            self.files.stage(budget.posts);
        }
        let submitted = self.ring.submit();
        let busy = heard != 0
            || submitted.entered
            || self.streams.is_busy()
            || self.files.is_busy()
            || self.ring.has_news();
        if busy { Outcome::Busy } else { Outcome::Idle }
    }

    fn poll_at(&self) -> Option<Instant> {
        self.streams.poll_at()
    }
}
