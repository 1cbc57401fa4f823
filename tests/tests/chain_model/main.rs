//! Chains of linked submissions against an oracle that keeps every CQE and works out everything anew from them.
//!
//! ```text
//!   oracle   what a chain is, said a second time and naively       world    the table and the oracle, fed alike, compared
//!   basic    one rule a test: what the table promises              matrix   every result x F_MORE x notification, up to 3 entries
//!   orders   every order of the CQEs of a chain, up to 6 entries   random   all calls, any CQE, by proptest
//!   hostile  words that no kernel writes, and every wrong call     soak     a kernel that keeps books of the memory it holds
//! ```
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    reason = "a test stops at the first thing that is not as expected"
)]
#![allow(clippy::print_stdout, reason = "a soak says what it did")]

mod basic;
mod hostile;
mod matrix;
mod oracle;
mod orders;
mod random;
mod soak;
mod world;

use core::mem::MaybeUninit;

use proptest::test_runner::Config as ProptestConfig;
use spinwire_dataplane::chain::{ChainConfig, ChainTable};
use spinwire_dataplane::raw::place::Bump;

/// Of a CQE, as `linux/io_uring.h` numbers them.
const F_MORE: u32 = 1 << 1;
const F_NOTIF: u32 = 1 << 3;

const EIO: i32 = 5;
const EPIPE: i32 = 32;
const ECANCELED: i32 = 125;

/// A failing case is printed with its smallest input, and not kept in a file.
fn config() -> ProptestConfig {
    ProptestConfig { failure_persistence: None, ..ProptestConfig::default() }
}

/// Lets `use_it` have a table.
fn with_table<R>(chains: u32, entries_max: u16, use_it: impl FnOnce(&ChainTable<'_>) -> R) -> R {
    let mut block = vec![MaybeUninit::uninit(); 1 << 18];
    let bump = Bump::new(&mut block);
    use_it(&ChainTable::place(&bump, ChainConfig { chains, entries_max }).unwrap())
}

/// Digit `at` of `number` to the base `base`, for loops over all combinations.
const fn digit(number: usize, base: usize, at: usize) -> usize {
    let mut rest = number;
    let mut left = at;
    while left > 0 {
        rest /= base;
        left -= 1;
    }
    rest % base
}
