//! What is measured: one list of cases, read by two benches.
//!
//! ```text
//!   case      a case: its name, its set-up, what a round does and what must come out of it
//!   memory    leaked lines and arenas; endpoints in a segment
//!   lane tables ids copy matching round bare idle pool parcel chain stream vqp rdma wqe completion  the cases, by the part that they measure
//!
//!   catalogue() ──> benches/hot_paths      wall time, by criterion: informs
//!              └──> benches/instructions   instruction counts, by valgrind: gates
//! ```
//!
//! Everything that a case needs is built before the clock starts, and leaked: a case lives as long as its process.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    reason = "a bench stops at the first thing that is not as expected"
)]
#![allow(clippy::float_arithmetic, reason = "times and ratios are for people")]

pub mod bare;
pub mod case;
pub mod chain;
pub mod completion;
pub mod copy;
pub mod idle;
pub mod ids;
pub mod lane;
pub mod matching;
pub mod memory;
pub mod parcel;
pub mod pool;
pub mod ratio;
pub mod rdma;
pub mod round;
pub mod stream;
pub mod tables;
pub mod vqp;
pub mod wqe;

pub use case::{Case, Entry};

/// Every case there is, not yet built.
#[must_use]
pub fn catalogue() -> Vec<Entry> {
    let parts: [&[Entry]; 16] = [
        lane::ENTRIES,
        tables::ENTRIES,
        ids::ENTRIES,
        copy::ENTRIES,
        matching::ENTRIES,
        round::ENTRIES,
        bare::ENTRIES,
        idle::ENTRIES,
        pool::ENTRIES,
        parcel::ENTRIES,
        chain::ENTRIES,
        stream::ENTRIES,
        vqp::ENTRIES,
        rdma::ENTRIES,
        wqe::ENTRIES,
        completion::ENTRIES,
    ];
    parts.concat()
}
