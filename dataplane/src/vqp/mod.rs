//! Virtual queue pairs: several queue pairs, on several devices, that act as one.
//!
//! ```text
//!   post_send(write, 3 MiB)                                              Completion, in posting order
//!        |                                                                     ^
//!   VirtualQp   rows --> fragments of 1 MiB, round robin                  VirtualCq   turn, take
//!        |      +--------+----------+----------+                               ^
//!      path 0   | path 1 |   path 2 |   path 3 | (notify)                      | every completion checked:
//!     device 0  | dev. 1 |   dev. 0 |   dev. 0 |                               | id, device, queue pair, order
//!        |          |          |          |                                    |
//!        +----------+----------+----------+------ QueuePair, CompletionQueue ------+
//!                              |
//!                verbs, queues of a device, or the simulator of the tests
//! ```
//!
//! | word | what it is |
//! |---|---|
//! | *path* | One physical queue pair of a virtual one ([`PathFigures`]), with its health ([`Health`]). |
//! | *fragment* | A part of a write or read, at most [`VqpConfig::max_message`] long. Sends and atomics are never cut. |
//! | *notification* | What completes a receive of the peer: a write with immediate. |
//! | *SPRAY* | Data by plain writes; when all of it has arrived, a notification of no bytes over a queue pair of its own ([`Scheme::Spray`]). |
//! | *DQPLB* | Every fragment is a notification with a sequence number, which the peer puts in order ([`Scheme::Dqplb`]). |
//! | *region* | Memory with a key for each device ([`Regions`]). |
//!
//! What holds, and the tests show (`tests/vqp`):
//! 1. Every request that was taken over is reported exactly once (or, if so wished, only if it fails), in posting order of
//!    its direction, with the first cause where it failed. That is so when every path dies, when a device never flushes,
//!    and when the virtual queue pair is closed with work on its way.
//! 2. Which request a completion belongs to, and in which direction it went, is known from the queue that it was posted on.
//!    Of a completion that failed nothing but that is looked at.
//! 3. A path that has failed gets no new work until it is taken in again; the others go on.
//! 4. The peer is notified of a write only if every byte of it was written. Between devices that takes a flushing read
//!    ([`Visibility`]).
//! 5. A sequence number is used up only by a fragment that was staged. Numbers cannot be taken for each other after the wrap
//!    ([`sequence`]).
//! 6. Sizes are proved to fit together before anything is posted ([`PlanError`]), so that no queue of a device overflows.
//! 7. A turn is bounded by its budget, allocates nothing, and cannot panic on anything that a device or the caller gives it.
//!
//! What does not hold: between two requests there is no order but that of their completions. A write can be overtaken by a
//! later one that goes over another path, in memory too; only notifications come in order. With one data path everything is
//! as on the queue pair itself.

mod config;
mod cq;
mod flight;
mod health;
mod path;
mod qp;
mod receive;
mod refusal;
mod region;
mod request;
mod send;
pub mod sequence;

pub use config::{PATHS_MAX, PlanError, Replay, Scheme, Spread, Visibility, VqpConfig};
pub use cq::{Strays, VirtualCq};
pub use path::{Health, PathFigures};
pub use qp::{Remains, Setup, VirtualQp};
pub use refusal::{CallError, Cause, Refusal};
pub use region::{DEVICES_MAX, RegionId, Regions};
pub use request::{
    Completion, Direction, Done, Op, RecvKind, RecvWr, Remote, SGE_MAX, SendWr, Sge, Signal,
};
