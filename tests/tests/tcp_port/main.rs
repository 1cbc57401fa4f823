//! Ports over TCP, on the real kernel for the most part: strangers, hostile peers, peers that are killed, long messages at full speed.
//!
//! ```text
//!   stranger.rs   a plain socket of std that speaks, or does not speak, the protocol
//!   silent.rs     peers that say nothing, take nothing, are stopped; time limits
//!   traffic.rs    two ports, and much between them
//!   killed.rs     a peer in another process, which is killed
//!   sleeps.rs     a thread that sleeps on a descriptor
//!   soak.rs       peers that come and go, over and over
//!   one_call.rs   on a kernel that is made up: how often a turn enters it
//! ```
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    clippy::large_stack_frames,
    clippy::wildcard_enum_match_arm,
    reason = "a test stops at the first thing that is not as expected, whatever it is"
)]

mod errnos;
#[path = "../host_process/mod.rs"]
mod host_process;
mod killed;
mod namesake;
mod one_call;
mod silent;
mod sleeps;
mod soak;
mod station;
mod stranger;
mod traffic;
