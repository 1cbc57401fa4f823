//! The model of a device does what a device does: requests written by hand, byte by byte, after the structures of mlx5dv.h; and each thing
//! that a driver can do wrong, done once, has to be found out.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    reason = "a test stops at the first thing that is not as expected"
)]

mod canaries;
mod datagrams;
mod driven;
mod errors;
mod hand;
mod requests;
mod verbs;
mod wired;
