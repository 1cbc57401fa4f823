//! A flight recorder: the last events of a plane, for a look after something went wrong.
//!
//! ```text
//!   events  | 96 | 97 | 98 | 91 | 92 | 93 | 94 | 95 |      the oldest is overwritten
//!                           ^ next
//! ```
//!
//! Recording is one store of 32 bytes and two additions: no formatting, no clock read (the turn's `now` is passed), no
//! branch on fullness. Numbers only; what an event's number means is said where the plane that records it is.

use core::cell::Cell;

use crate::raw::place::{Bump, Exhausted};
use crate::time::Instant;

/// One event.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct TraceEvent {
    /// The turn in which it happened.
    pub at: Instant,
    /// What happened.
    pub id: u16,
    /// First detail, by the event's own meaning.
    pub a: u64,
    /// Second detail.
    pub b: u64,
}

impl TraceEvent {
    /// No event: what fills a ring before its first round.
    pub const NONE: Self = Self { at: Instant::ORIGIN, id: 0, a: 0, b: 0 };
}

/// The newest events of one plane, as many as there is room for.
///
/// ```
/// use core::cell::Cell;
/// use spinwire_dataplane::poll::{TraceEvent, TraceRing};
/// use spinwire_dataplane::time::Instant;
///
/// let mut storage = [const { Cell::new(TraceEvent::NONE) }; 2];
/// let trace = TraceRing::new(&mut storage);
/// for a in 1..=3 {
///     trace.record(Instant::from_nanos(a), 7, a, 0);
/// }
/// assert_eq!(trace.newest(9).map(|event| event.a).collect::<Vec<_>>(), [3, 2]);
/// assert_eq!(trace.recorded(), 3);
/// ```
pub struct TraceRing<'m> {
    events: &'m [Cell<TraceEvent>],
    next: Cell<usize>,
    recorded: Cell<u64>,
}

impl<'m> TraceRing<'m> {
    /// Takes over `storage`. Without any room, events are counted and not kept.
    #[must_use]
    pub const fn new(storage: &'m mut [Cell<TraceEvent>]) -> Self {
        Self { events: storage, next: Cell::new(0), recorded: Cell::new(0) }
    }

    /// Places a ring of `capacity` events, 32 bytes each.
    ///
    /// # Errors
    /// The arena has too little room left.
    pub fn place(bump: &Bump<'m>, capacity: u32) -> Result<Self, Exhausted> {
        let capacity = crate::table::wide(capacity);
        Ok(Self::new(bump.slice_with(capacity, |_| Cell::new(TraceEvent::NONE))?))
    }

    /// Keeps an event, in the place of the oldest.
    #[inline]
    pub fn record(&self, at: Instant, id: u16, a: u64, b: u64) {
        let next = self.next.get();
        if let Some(event) = self.events.get(next) {
            event.set(TraceEvent { at, id, a, b });
        }
        let after = next.wrapping_add(1);
        self.next.set(if after < self.events.len() { after } else { 0 });
        self.recorded.set(self.recorded.get().wrapping_add(1));
    }

    /// The newest `count` events that are kept, newest first.
    pub fn newest(&self, count: u32) -> impl Iterator<Item = TraceEvent> + use<'_, 'm> {
        let kept =
            usize::try_from(self.recorded.get()).unwrap_or(usize::MAX).min(self.events.len());
        let (older, newer) =
            self.events.split_at_checked(self.next.get()).unwrap_or((self.events, &[]));
        older
            .iter()
            .rev()
            .chain(newer.iter().rev())
            .map(Cell::get)
            .take(kept.min(crate::table::wide(count)))
    }

    /// How many events were recorded since the start, kept or not.
    #[must_use]
    pub const fn recorded(&self) -> u64 {
        self.recorded.get()
    }

    /// How many events are kept at most.
    #[must_use]
    pub const fn capacity(&self) -> usize {
        self.events.len()
    }
}

impl core::fmt::Debug for TraceRing<'_> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("TraceRing")
            .field("recorded", &self.recorded.get())
            .field("capacity", &self.events.len())
            .finish_non_exhaustive()
    }
}
