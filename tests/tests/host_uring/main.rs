//! Rings of the kernel that runs: opened with everything and with everything denied, used by bare entries, closed without
//! a trace; and kernels that refuse.
//!
//! | file | what it shows |
//! |---|---|
//! | `exchange` | entries by hand: what is submitted, what comes back |
//! | `works` | each path and each fallback carries bytes; flags do what their names say |
//! | `refused` | no io_uring, too little lockable memory, too few files: the error, the remedy, `doctor` |
//!
//! What the kernel that runs has not is told by a line that begins with `!! NOT RUN`.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    clippy::wildcard_enum_match_arm,
    reason = "a test stops at the first thing that is not as expected"
)]

mod exchange;
#[path = "../host_process/mod.rs"]
mod host_process;
mod refused;
mod works;
