//! RDMA on real devices: Soft-RoCE, in a virtual machine. Run by `tests/vm/suite`, which gives the guest `rxe0` and `rxe1`.
//!
//! On a machine without these devices the cases say so and check nothing.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    clippy::as_conversions,
    clippy::cast_possible_truncation,
    clippy::host_endian_bytes,
    clippy::large_stack_frames,
    clippy::print_stderr,
    missing_docs,
    reason = "a test"
)]

mod attributes;
mod chosen;
mod cm;
mod datagrams;
mod endpoints;
mod faults;
mod foreign;
mod handles;
mod heap;
mod memory;
mod messages;
mod removal;
mod rig;
mod sealed;
mod shared;
mod striped;
