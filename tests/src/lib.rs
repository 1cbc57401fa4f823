//! What the tests of every promise share: a conformance suite over all providers, a naive oracle of matching, and a seeded
//! simulator of peers that come, go and die.
//!
//! ```text
//!   fake_kernel   the kernel's side of a ring of io_uring                tests/uring_ring.rs
//!   fake_net      sockets and peers under that kernel, and an oracle     tests/stream_model.rs
//!   conformance   one suite; a provider is one `Rig`                       tests/provider_conformance.rs
//!   model         what matching should do, in the plainest code            tests/matching_model.rs
//!   overdue       who stands still is told of                             tests/libfabric
//!   reactor       the interest list of a runtime                         tests/selection
//!   sim           endpoints, faults and deaths by seed, and the checkers   tests/msg_sim.rs
//!   sim::nic      mlx5 devices that read queues and write completions      tests/nic_model
//!   sim::fabric   hosts, devices and links in virtual time                 tests/vqp
//!   steps         a stop before each write to shared memory              tests/pool_steps.rs, tests/kill_steps.rs
//! ```
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    reason = "a test stops at the first thing that is not as expected"
)]
#![allow(
    clippy::mem_forget,
    reason = "a process that was killed runs no destructor: its endpoints are forgotten"
)]

pub mod conformance;
pub mod fake_kernel;
pub mod fake_net;
pub mod model;
pub mod overdue;
pub mod pool;
#[cfg(not(loom))]
pub mod reactor;
pub mod rng;
pub mod sim;
#[cfg(all(spinwire_steps, not(loom)))]
pub mod steps;
