//! Queues of mlx5 devices: completion queues and trackers against naive oracles, and how they are opened.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    clippy::wildcard_enum_match_arm,
    reason = "a test stops at the first thing that is not as expected"
)]

mod compressed;
mod device;
mod dispatch;
mod headers;
mod host;
mod ordered;
mod queue;
mod unordered;

use core::mem::MaybeUninit;

use proptest::test_runner::Config as ProptestConfig;
use spinwire_dataplane::raw::place::Bump;

/// A failing case is printed with its smallest input, and not kept in a file.
fn config() -> ProptestConfig {
    ProptestConfig { failure_persistence: None, ..ProptestConfig::default() }
}

/// Lets `use_it` place tables in an arena of `bytes`.
fn with_arena<R>(bytes: usize, use_it: impl FnOnce(&Bump<'_>) -> R) -> R {
    let mut block = vec![MaybeUninit::uninit(); bytes];
    use_it(&Bump::new(&mut block))
}
