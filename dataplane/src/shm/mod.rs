//! Shared memory between processes: segments, who is in them, and the lanes that carry messages.
//!
//! ```text
//!   Segment (one mapping)
//!     header          who made it, by which rules; the liveness epoch
//!     process table   leases of live processes                         lease
//!     endpoints       names, and bits that say "look at this lane"     directory
//!                     and a bell for an owner that sleeps               bell
//!     lane table      who sends to whom                                lane_table
//!     rings           cells and spill of every lane                    lane
//! ```
//!
//! Joining, registering and connecting are loads, stores and compare-and-swaps in the mapping, and can be done at any
//! time by anybody who has it mapped. Whoever finds a process dead marks it so and runs [`reclaim`]: every step of it
//! is one compare-and-swap on one word, so that it can be cut short anywhere, repeated, and run by several survivors at
//! once.
//!
//! Nothing that a peer wrote is taken as an index, a length or a state before it was checked; every walk has a bound.

pub mod bell;
pub mod directory;
pub mod lane;
pub mod lane_table;
pub mod lease;
pub mod reclaim;
pub mod segment;

pub use bell::Waker;
pub use directory::{EndpointRef, RegisterError};
pub use lease::ProcessLease;
pub use segment::{
    Geometry, GeometryError, Identity, JoinError, Segment, SegmentShape, copy_header,
};
