//! The layout checker for structures of your own: defined by `layout!`, checked against whoever else says how they lie.
//!
//! ```sh
//! cargo run --example own_layouts                        # the table below
//! cargo run --example own_layouts -- header > quote.h    # the same for C and C++
//! cargo run --example own_layouts -- check --prefix sw_ quote.h target/debug/feed
//! cargo run --example own_layouts -- lock --write        # layouts.lock: then `lock` alone, in the tests
//! ```
#![allow(clippy::print_stdout, reason = "an example says what it did")]

use std::process::ExitCode;

use spinwire_hostshim::layout::{disturbances, main as checker, table, type_of};
use spinwire_layouts::describe::Room;
use spinwire_layouts::layout;

layout! {
    /// A ring of quotes: one process puts in, another takes out. With both ends in one line it would not compile.
    pub struct QuoteRing, size 192, align 64 {
        /// Quotes that were put in.
        pub tail: u64 @ 0 by feed,
        /// Zero.
        pub unused0: [u64; 7] @ 8,
        /// Quotes that were taken out.
        pub head: u64 @ 64 by reader,
        /// Zero.
        pub unused1: [u64; 7] @ 72,
        /// Prices, in ticks.
        pub prices: [u64; 8] @ 128 by feed,
    }
}

const ROOMS: &[Room] = &[Room::own("quotes", "what feed and readers share", &[&QuoteRing::LAYOUT])];

fn main() -> ExitCode {
    if std::env::args().len() > 1 {
        return checker(ROOMS);
    }
    let ring = type_of(&QuoteRing::LAYOUT);
    print!("{}", table(&ring));
    println!("{} risks of false sharing", disturbances(&ring).len());
    ExitCode::SUCCESS
}
