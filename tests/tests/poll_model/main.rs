//! The poll loop's parts against naive oracles: turns, the idle ladder, histograms, the stats page, the trace ring.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    clippy::large_stack_arrays,
    reason = "a test stops at the first thing that is not as expected"
)]

mod histogram;
mod ladder;
mod seqlock;
mod stats;
mod trace;
mod turn;
