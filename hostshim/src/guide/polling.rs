//! Chapter 5: spinning, resting, and waiting for one answer.
//!
//! The loop of a service polls everything that it has, and that is how it is quick: nobody has to be woken. Three things can be built on that.
//!
//! *Resting.* A thread that has nothing to do may climb down the idle ladder ([`idle`](crate::idle)): spin, pause, yield, park. Over
//! shared memory whoever publishes rings the bell of one who parks. The default is to spin; the example `sleeper` shows the rest, and what each step costs.
//!
//! *Waiting for one answer.* In set-up, in tools and in tests a program wants to ask, and to go on when the answer is there. That is a loop of turns with a
//! deadline. What makes it right is what it does with the *other* completions: they belong to whoever posted them, and are handed on, never dropped.
//!
//! ```
//! use spinwire_dataplane::id::WrId;
//! use spinwire_dataplane::msg::{Completion, Endpoint};
//! use spinwire_dataplane::poll::{Budget, Poll};
//! use spinwire_dataplane::provider::Provider;
//! use spinwire_dataplane::time::Instant;
//!
//! /// Turns until the operation has completed, or until the deadline. What else completes goes to `others`.
//! fn wait<'m, P: Provider>(
//!     endpoint: &Endpoint<'m, P>,
//!     id: WrId,
//!     (now, deadline): (impl Fn() -> Instant, Option<Instant>),
//!     mut others: impl FnMut(Completion<'m>),
//! ) -> Option<Completion<'m>> {
//!     loop {
//!         let at = now();
//!         let _busy_or_idle = endpoint.turn(at, Budget::DEFAULT);
//!         while let Some(completion) = endpoint.poll() {
//!             if completion.id == id {
//!                 return Some(completion);
//!             }
//!             others(completion);
//!         }
//!         // A deadline that has passed already still gets its one look: the turn above.
//!         if deadline.is_some_and(|deadline| at >= deadline) {
//!             return None; // still posted: cancel it, or keep waiting later
//!         }
//!     }
//! }
//! ```
//!
//! *After a deadline* the operation is still posted, and its buffer is still the endpoint's: a late message goes into that buffer and into nothing else. Take a receive
//! back by `cancel`, and wait for its completion, which says `Cancelled`, or `Success` where the message was faster.
//!
//! All that is written already: a [`Desk`](crate::desk::Desk) waits in this way, and the [next chapter](super::desks) is about it.
//!
//! *Several endpoints* are one array: `[&a, &b].turn(now, budget)` turns each; `Rotation` begins with another one each time, so that none starves.
//!
//! Next: [`desks`](super::desks).
