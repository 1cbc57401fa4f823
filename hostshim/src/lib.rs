//! Opens, maps, pins and watches what the Spinwire data plane polls.
//!
//! The data plane knows memory and nothing else. Everything that needs a file descriptor, a system call or a look at the
//! machine happens here, before the first turn or beside it, and may block, allocate and format text.
//!
//! ```text
//!             tools            the command line
//!               |
//!   +---------- hostshim ---------------------------------------------------+
//!   | domain     segments that processes meet in; the watcher of deaths     |
//!   | plane      arena, clock, stats page and seal of one pinned thread     |
//!   | mem        memory: private arenas, named segments, huge pages         |
//!   | affinity   which CPUs, and pinning to one                             |
//!   | clock      the time-stamp counter, calibrated                         |
//!   | liveness   who is a process, and does it still live                   |
//!   | preflight  is this machine set up for low latency: `spinwire doctor`  |
//!   | idle       yield and park: the lower rungs of the idle ladder         |
//!   | alloc_gate proof that a sealed thread allocates nothing               |
//!   | raw        the only files with `unsafe` in them                       |
//!   +-----------------------------------------------------------------------+
//!               |
//!           dataplane          loads and stores on mapped memory
//! ```
//!
//! # Errors
//! Each room has its error type; all of them keep what the kernel said (operation, path, number: [`error::OsError`]) and
//! print the remedy.
#![allow(
    clippy::arithmetic_side_effects,
    reason = "runs before the first turn; overflow is checked where a peer has a say"
)]
#![deny(unsafe_code)]

pub mod affinity;
pub mod alloc_gate;
pub mod clock;
pub mod domain;
pub mod error;
pub mod idle;
pub mod liveness;
pub mod mem;
pub mod plane;
pub mod preflight;

#[cfg(test)]
mod fake_tree;
#[allow(unsafe_code, reason = "the fenced yard")]
mod raw;
