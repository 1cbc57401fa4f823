//! Two cases side by side, so that what else the machine does falls on both.

use core::hint::black_box;
use std::time::Instant;

use crate::case::Case;

/// Two cases, timed in turns.
#[derive(Clone, Copy, Debug)]
pub struct Ratio {
    /// Median nanoseconds of a round of the first.
    pub first_ns: f64,
    /// Median nanoseconds of a round of the second.
    pub second_ns: f64,
    /// Median of the first over the second, pair by pair.
    pub ratio: f64,
    /// Median of what the first takes more than the second, pair by pair, in nanoseconds a round.
    pub apart_ns: f64,
}

impl Ratio {
    /// The same, by operation: a round of either has `ops` of them.
    #[must_use]
    pub fn by_operation(self, ops: u32) -> Self {
        let ops = f64::from(ops);
        let Self { first_ns, second_ns, apart_ns, ratio } = self;
        Self {
            first_ns: first_ns / ops,
            second_ns: second_ns / ops,
            apart_ns: apart_ns / ops,
            ratio,
        }
    }
}

/// Times `first` and `second` in turns, `samples` times `rounds` rounds of each.
///
/// # Panics
/// Where a result is wrong.
pub fn compare(first: &mut Case, second: &mut Case, samples: usize, rounds: u64) -> Ratio {
    time(first, rounds);
    time(second, rounds);
    let pairs: Vec<(f64, f64)> =
        (0..samples).map(|_| (time(first, rounds), time(second, rounds))).collect();
    Ratio {
        first_ns: median(pairs.iter().map(|pair| pair.0)),
        second_ns: median(pairs.iter().map(|pair| pair.1)),
        ratio: median(pairs.iter().map(|(first, second)| first / second)),
        apart_ns: median(pairs.iter().map(|(first, second)| first - second)),
    }
}

/// Nanoseconds of a round.
fn time(case: &mut Case, rounds: u64) -> f64 {
    let start = Instant::now();
    let hash = black_box(case.run(rounds));
    let took = start.elapsed();
    case.check(rounds, hash);
    took.as_secs_f64() * 1e9 / f64::from(u32::try_from(rounds).unwrap())
}

fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}
