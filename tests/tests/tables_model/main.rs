//! Every table against a naive oracle: random operations, and all operations in all orders on the smallest tables.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    reason = "a test stops at the first thing that is not as expected"
)]

mod bitset;
mod fifo;
mod ring;
mod slab;
mod timer;

use core::mem::MaybeUninit;

use proptest::test_runner::Config as ProptestConfig;
use spinwire_dataplane::raw::place::Bump;

/// A failing case is printed with its smallest input, and not kept in a file.
fn config() -> ProptestConfig {
    ProptestConfig { failure_persistence: None, ..ProptestConfig::default() }
}

/// Runs `check` on every sequence of `length` operations out of `alphabet`, and so on all shorter ones too, as `check`
/// looks at the table after each operation.
fn every_sequence<Op: Copy>(alphabet: &[Op], length: u32, mut check: impl FnMut(&[Op])) {
    let count = alphabet.len().pow(length);
    let mut sequence = Vec::new();
    for number in 0..count {
        sequence.clear();
        let mut rest = number;
        for _ in 0..length {
            sequence.push(alphabet[rest % alphabet.len()]);
            rest /= alphabet.len();
        }
        check(&sequence);
    }
}

/// Lets `use_it` place tables in an arena of `bytes`.
fn with_arena<R>(bytes: usize, use_it: impl FnOnce(&Bump<'_>) -> R) -> R {
    let mut block = vec![MaybeUninit::uninit(); bytes];
    use_it(&Bump::new(&mut block))
}
