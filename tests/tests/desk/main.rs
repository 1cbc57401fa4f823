//! Desks: who waits gets what he waits for, nobody else's, and nothing is written into memory that its owner has back. Over a hub, in one
//! thread and on virtual time: what another end does happens while the desk rests.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    clippy::large_stack_frames,
    reason = "a test stops at the first thing that is not as expected"
)]

mod end;
mod given_up;
mod many;
mod several;
mod tasks;
mod waits;
