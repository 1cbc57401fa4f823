//! Ratios of figures that were made on the same machine: paired by round, where the floors agree.

use serde::Serialize;

use crate::peer::floor::LINE_BYTES;
use crate::sample::Sample;
use crate::schedule::{Reading, Series};
use crate::work::{Kind, Work};

/// How far apart two floors may lie and still be the same machine.
const STEADY: f64 = 1.25;

/// A ratio over all rounds of a run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub(crate) struct Ratio {
    /// The median of the ratios of single rounds: of median trips, or of rates.
    pub(crate) median: Option<f64>,
    /// The same of mean trips; a stream has none.
    pub(crate) by_mean: Option<f64>,
    /// The same of median times: of rates, those of a request.
    pub(crate) by_p50: Option<f64>,
    /// The same of 99th percentiles.
    pub(crate) by_p99: Option<f64>,
    /// The same of what a request costs the server.
    pub(crate) by_server: Option<f64>,
    /// The best figure of one side against the best of the other, of the steady rounds in which
    /// the floor was (nearly) the best one: the machine at its best.
    pub(crate) best: Option<f64>,
    /// Rounds in which the floors agreed; only these count for the medians.
    pub(crate) pairs: usize,
    /// Rounds in which both were measured.
    pub(crate) rounds: usize,
}

impl Reading {
    /// The floor of this reading.
    fn floor(&self) -> f64 {
        f64::midpoint(self.floor_before, self.floor_after)
    }

    /// Whether the machine was the same before and after.
    fn is_steady(&self) -> bool {
        agree(self.floor_before, self.floor_after)
    }
}

/// The two sides of a round, both made on the same machine.
#[derive(Clone, Copy, Debug)]
struct Pair {
    ours: Side,
    theirs: Side,
    floor: f64,
}

/// One side: its median trip or rate, and what else can be compared.
#[derive(Clone, Copy, Debug, Default)]
struct Side {
    p50_or_rate: Option<f64>,
    mean: Option<f64>,
    p50: Option<f64>,
    p99: Option<f64>,
    server: Option<f64>,
}

impl Ratio {
    /// `ours` against `theirs`.
    pub(crate) fn between(ours: &Series, theirs: &Series) -> Self {
        let other_of = |mine: &Reading| {
            let same_round = |other: &&Reading| other.round == mine.round;
            theirs.readings.iter().find(same_round)
        };
        let both = || {
            let pairs = ours.readings.iter();
            pairs.filter_map(|mine| Some((mine, other_of(mine)?)))
        };
        let pairs: Vec<Pair> = both()
            .filter(|(mine, other)| mine.is_steady() && other.is_steady())
            .filter(|(mine, other)| agree(mine.floor(), other.floor()))
            .map(|(mine, other)| Pair {
                ours: Side::of(&mine.sample),
                theirs: Side::of(&other.sample),
                floor: f64::midpoint(mine.floor(), other.floor()),
            })
            .collect();
        Self::over(ours.work.kind, &pairs, both().count())
    }

    /// A row against its own floors. A stream is compared in bytes, a line of the floor counted in
    /// full.
    pub(crate) fn to_floor(series: &Series) -> Self {
        let scale = floor_scale(series.work);
        let steady = series.readings.iter().filter(|reading| reading.is_steady());
        let pairs: Vec<Pair> = steady
            .map(|reading| Pair {
                ours: Side::of(&reading.sample),
                theirs: Side { p50_or_rate: Some(reading.floor() / scale), ..Side::default() },
                floor: reading.floor(),
            })
            .collect();
        Self::over(series.work.kind, &pairs, series.readings.len())
    }

    fn over(kind: Kind, pairs: &[Pair], rounds: usize) -> Self {
        let median_of = |figure: fn(&Side) -> Option<f64>| {
            let ratio = |pair: &Pair| Some(figure(&pair.ours)? / figure(&pair.theirs)?);
            median(pairs.iter().filter_map(ratio))
        };
        let best_floor = better(kind, pairs.iter().map(|pair| pair.floor));
        let best_of = |side: fn(&Pair) -> Side| {
            let at_best = |pair: &&Pair| best_floor.is_some_and(|best| agree(best, pair.floor));
            let figures = pairs.iter().filter(at_best);
            better(kind, figures.filter_map(|pair| side(pair).p50_or_rate))
        };
        Self {
            median: median_of(|side| side.p50_or_rate),
            by_mean: median_of(|side| side.mean),
            by_p50: median_of(|side| side.p50),
            by_p99: median_of(|side| side.p99),
            by_server: median_of(|side| side.server),
            best: best_of(|pair| pair.ours)
                .zip(best_of(|pair| pair.theirs))
                .map(|(ours, theirs)| ours / theirs),
            pairs: pairs.len(),
            rounds,
        }
    }
}

impl Side {
    fn of(sample: &Sample) -> Self {
        Self {
            p50_or_rate: sample.p50_or_rate(),
            mean: sample.mean(),
            p50: sample.p50(),
            p99: sample.p99(),
            server: sample.server_ns(),
        }
    }
}

/// What a message counts against a line of the floor.
fn floor_scale(work: Work) -> f64 {
    match work.kind {
        Kind::Rtt => 1.0,
        Kind::Stream if !work.is_copied() => 1.0,
        Kind::Stream => f64::from(work.size) / f64::from(LINE_BYTES),
    }
}

/// The best of some figures: the least time, or the greatest rate.
pub(crate) fn better(kind: Kind, figures: impl Iterator<Item = f64>) -> Option<f64> {
    figures.reduce(match kind {
        Kind::Rtt => f64::min,
        Kind::Stream => f64::max,
    })
}

/// The median; of an even number, the mean of the middle two.
pub(crate) fn median(figures: impl Iterator<Item = f64>) -> Option<f64> {
    let mut sorted: Vec<f64> = figures.filter(|figure| figure.is_finite()).collect();
    sorted.sort_by(f64::total_cmp);
    let upper = sorted.get(sorted.len() / 2)?;
    let lower = sorted.get(sorted.len().saturating_sub(1) / 2)?;
    Some(f64::midpoint(*lower, *upper))
}

fn agree(a: f64, b: f64) -> bool {
    a.max(b) <= a.min(b) * STEADY
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sample::{Rtt, Stream};

    fn rtt(round: u32, p50: f64, floors: [f64; 2]) -> Reading {
        let sample = Sample::Rtt(Rtt { p50_ns: Some(p50), mean_ns: p50, ..Rtt::default() });
        Reading { round, sample, floor_before: floors[0], floor_after: floors[1], waited: None }
    }

    fn series(work: Work, readings: Vec<Reading>) -> Series {
        let mut series = Series::new("somebody", work, None);
        readings.into_iter().for_each(|reading| series.add(reading));
        series
    }

    #[test]
    fn only_rounds_on_one_machine_are_compared() {
        let work = Work::rtt(64);
        let (near, far, moved) = ([80.0, 85.0], [500.0, 520.0], [80.0, 500.0]);
        let ours = vec![rtt(1, 100.0, near), rtt(2, 700.0, far), rtt(3, 100.0, near)];
        let theirs = vec![rtt(1, 200.0, near), rtt(2, 1000.0, moved), rtt(3, 1000.0, far)];
        let ratio = Ratio::between(&series(work, ours), &series(work, theirs));
        assert_eq!((ratio.pairs, ratio.rounds), (1, 3));
        assert_eq!(ratio.median, Some(0.5));
        assert_eq!(ratio.best, Some(0.5));
    }

    #[test]
    fn the_best_of_another_machine_is_not_compared() {
        let work = Work::rtt(64);
        let (near, far) = ([80.0; 2], [500.0; 2]);
        let ours = vec![rtt(1, 110.0, near), rtt(2, 100.0, near), rtt(3, 600.0, far)];
        let theirs = vec![rtt(1, 200.0, near), rtt(2, 250.0, near), rtt(3, 150.0, far)];
        let ratio = Ratio::between(&series(work, ours), &series(work, theirs));
        assert_eq!((ratio.pairs, ratio.best), (3, Some(0.5)));
    }

    #[test]
    fn a_round_that_one_side_missed_is_no_pair() {
        let work = Work::rtt(64);
        let ours = series(work, vec![rtt(1, 100.0, [80.0; 2])]);
        let theirs = series(work, vec![rtt(2, 200.0, [80.0; 2])]);
        let ratio = Ratio::between(&ours, &theirs);
        assert_eq!((ratio.pairs, ratio.median), (0, None));
    }

    #[test]
    fn a_stream_is_held_to_its_floor_in_bytes() {
        let sample = Sample::Stream(Stream { messages_per_s: 1e8, ..Stream::default() });
        let reading =
            Reading { round: 1, sample, floor_before: 4e8, floor_after: 4e8, waited: None };
        let ratio = Ratio::to_floor(&series(Work::stream(32), vec![reading]));
        assert_eq!(ratio.median, Some(0.125));
    }

    #[test]
    fn a_median_of_two_lies_between() {
        assert_eq!(median([3.0, 1.0].into_iter()), Some(2.0));
        assert_eq!(median([3.0, f64::NAN, 1.0, 9.0].into_iter()), Some(3.0));
        assert_eq!(median([].into_iter()), None);
    }
}
