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
    /// The best figure of one side against the best of the other, whatever their rounds.
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

impl Ratio {
    /// `ours` against `theirs`.
    pub(crate) fn between(ours: &Series, theirs: &Series) -> Self {
        let both: Vec<(&Reading, &Reading)> = ours
            .readings
            .iter()
            .filter_map(|mine| {
                let other = theirs
                    .readings
                    .iter()
                    .find(|other| other.round == mine.round)?;
                Some((mine, other))
            })
            .collect();
        let steady: Vec<(&Reading, &Reading)> = both
            .iter()
            .copied()
            .filter(|(mine, other)| {
                mine.is_steady() && other.is_steady() && agree(mine.floor(), other.floor())
            })
            .collect();
        let over =
            |figure: fn(&Sample) -> Option<f64>| {
                median(steady.iter().filter_map(|(mine, other)| {
                    Some(figure(&mine.sample)? / figure(&other.sample)?)
                }))
            };
        Self {
            median: over(Sample::p50_or_rate),
            by_mean: over(Sample::mean),
            best: best(ours)
                .zip(best(theirs))
                .map(|(mine, other)| mine / other),
            pairs: steady.len(),
            rounds: both.len(),
        }
    }

    /// A row against its own floors. A stream is compared in bytes, a line of the floor counted in full.
    pub(crate) fn to_floor(series: &Series) -> Self {
        let scale = floor_scale(series.work);
        let steady: Vec<&Reading> = series
            .readings
            .iter()
            .filter(|reading| reading.is_steady())
            .collect();
        let over = |figure: fn(&Sample) -> Option<f64>| {
            median(
                steady
                    .iter()
                    .filter_map(|reading| Some(figure(&reading.sample)? / reading.floor() * scale)),
            )
        };
        let floors = series
            .readings
            .iter()
            .flat_map(|reading| [reading.floor_before, reading.floor_after]);
        let best_floor = better(series.work.kind, floors);
        Self {
            median: over(Sample::p50_or_rate),
            by_mean: None,
            best: best(series)
                .zip(best_floor)
                .map(|(mine, floor)| mine / floor * scale),
            pairs: steady.len(),
            rounds: series.readings.len(),
        }
    }
}

/// What a message counts against a line of the floor.
fn floor_scale(work: Work) -> f64 {
    match work.kind {
        Kind::Rtt => 1.0,
        Kind::Stream => f64::from(work.size) / f64::from(LINE_BYTES),
    }
}

/// The best figure of a row: median trip or rate; where the tool knows no median, there is none.
pub(crate) fn best(series: &Series) -> Option<f64> {
    let figures = series
        .readings
        .iter()
        .filter_map(|reading| reading.sample.p50_or_rate());
    better(series.work.kind, figures)
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
