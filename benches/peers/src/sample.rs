//! One figure for one work, and how it is made from single round trips.

use serde::Serialize;

use crate::clock::Clock;
use crate::peer::floor::WARM_UP_PART;

/// Operations between two readings of the clock.
pub(crate) const BLOCK: u32 = 64;

/// What one measurement of one work gave.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[serde(tag = "kind", rename_all = "lowercase")]
pub(crate) enum Sample {
    /// A ping-pong.
    Rtt(Rtt),
    /// A one-way stream.
    Stream(Stream),
}

/// A ping-pong, in nanoseconds of the whole round trip.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub(crate) struct Rtt {
    /// The median trip; absent where the peer's tool prints only a mean.
    pub(crate) p50_ns: Option<f64>,
    /// The 99th percentile, where the tool gives one.
    pub(crate) p99_ns: Option<f64>,
    /// The 99.9th percentile, where the tool gives one.
    pub(crate) p99_9_ns: Option<f64>,
    /// The longest trip, where the tool gives it.
    pub(crate) max_ns: Option<f64>,
    /// The mean trip: no clock step in it, but every interruption.
    pub(crate) mean_ns: f64,
    /// The floor that the tool itself measured in the same run, where it does.
    pub(crate) own_floor_ns: Option<f64>,
}

/// A one-way stream.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub(crate) struct Stream {
    /// Messages a second, counted where they arrive or when all are acknowledged; of requests, the
    /// answers a second.
    pub(crate) messages_per_s: f64,
    /// The median time from a request to its answer, where there are any.
    pub(crate) p50_ns: Option<f64>,
    /// The 99th percentile of that.
    pub(crate) p99_ns: Option<f64>,
    /// The part of the time that the client needs for so many messages: at 1 it is the client that
    /// goes no faster.
    pub(crate) client_busy: Option<f64>,
    /// Nanoseconds of its processor that the server needs for a request, where they can be told from
    /// those in which it only waits.
    pub(crate) server_ns: Option<f64>,
}

impl Sample {
    /// The headline: the median trip (the mean, where there is no median), or the rate.
    pub(crate) fn headline(&self) -> f64 {
        match self {
            Self::Rtt(rtt) => rtt.p50_ns.unwrap_or(rtt.mean_ns),
            Self::Stream(stream) => stream.messages_per_s,
        }
    }

    /// The median trip, or the rate: what the bars are held against.
    pub(crate) fn p50_or_rate(&self) -> Option<f64> {
        match self {
            Self::Rtt(rtt) => rtt.p50_ns,
            Self::Stream(stream) => Some(stream.messages_per_s),
        }
    }

    /// The median trip, or the median time of a request among many.
    pub(crate) const fn p50(&self) -> Option<f64> {
        match self {
            Self::Rtt(rtt) => rtt.p50_ns,
            Self::Stream(stream) => stream.p50_ns,
        }
    }

    /// The 99.9th percentile of a ping-pong, where known.
    pub(crate) const fn p99_9(&self) -> Option<f64> {
        match self {
            Self::Rtt(rtt) => rtt.p99_9_ns,
            Self::Stream(_) => None,
        }
    }

    /// The longest trip of a ping-pong, where known.
    pub(crate) const fn max(&self) -> Option<f64> {
        match self {
            Self::Rtt(rtt) => rtt.max_ns,
            Self::Stream(_) => None,
        }
    }

    /// The part of the time that the client of a server needs, where known.
    pub(crate) const fn client_busy(&self) -> Option<f64> {
        match self {
            Self::Rtt(_) => None,
            Self::Stream(stream) => stream.client_busy,
        }
    }

    /// What a request costs its server, where known.
    pub(crate) const fn server_ns(&self) -> Option<f64> {
        match self {
            Self::Rtt(_) => None,
            Self::Stream(stream) => stream.server_ns,
        }
    }

    /// The mean trip; a stream has none.
    pub(crate) const fn mean(&self) -> Option<f64> {
        match self {
            Self::Rtt(rtt) => Some(rtt.mean_ns),
            Self::Stream(_) => None,
        }
    }

    /// The 99th percentile, where known.
    pub(crate) const fn p99(&self) -> Option<f64> {
        match self {
            Self::Rtt(rtt) => rtt.p99_ns,
            Self::Stream(stream) => stream.p99_ns,
        }
    }
}

/// The trips of one ping-pong: one clock reading a trip, into memory that is there before the first
/// one.
#[derive(Debug)]
pub(crate) struct Trips {
    ticks: Vec<u64>,
    last: u64,
}

impl Trips {
    /// Room for `count` trips; the pages are touched here, not while measuring.
    pub(crate) fn new(count: usize) -> Self {
        let mut ticks = vec![1; count];
        ticks.clear();
        Self { ticks, last: 0 }
    }

    /// The first trip starts now.
    pub(crate) fn start(&mut self) {
        self.last = Clock::ticks();
    }

    /// A trip ended, and the next one starts. Beyond the room, trips are not kept.
    #[inline]
    pub(crate) fn lap(&mut self) {
        let now = Clock::ticks();
        self.keep(now.wrapping_sub(self.last));
        self.last = now;
    }

    /// Whether no trip was kept.
    pub(crate) const fn is_empty(&self) -> bool {
        self.ticks.is_empty()
    }

    /// A trip took so many ticks. Beyond the room, trips are not kept.
    #[inline]
    pub(crate) fn keep(&mut self, ticks: u64) {
        if self.ticks.len() < self.ticks.capacity() {
            self.ticks.push(ticks);
        }
    }

    /// Laps of [`BLOCK`] operations each, for what is too short for a reading of the clock: so many
    /// `operations` that count, and a tenth as many before.
    pub(crate) fn of_blocks(
        operations: u32,
        mut operation: impl FnMut() -> anyhow::Result<()>,
    ) -> anyhow::Result<Self> {
        let blocks = operations.div_ceil(BLOCK);
        let mut laps = Self::new(blocks as usize);
        for _ in 0..(blocks / WARM_UP_PART).max(1) * BLOCK {
            operation()?;
        }
        laps.start();
        for _ in 0..blocks {
            for _ in 0..BLOCK {
                operation()?;
            }
            laps.lap();
        }
        Ok(laps)
    }

    /// The figures of an operation, of laps of [`BLOCK`] each.
    pub(crate) fn finish_blocks(self, clock: &Clock) -> Rtt {
        let each = |ns: f64| ns / f64::from(BLOCK);
        let whole = self.finish(clock);
        Rtt {
            p50_ns: whole.p50_ns.map(each),
            p99_ns: whole.p99_ns.map(each),
            p99_9_ns: whole.p99_9_ns.map(each),
            max_ns: whole.max_ns.map(each),
            mean_ns: each(whole.mean_ns),
            own_floor_ns: None,
        }
    }

    /// The figures.
    pub(crate) fn finish(mut self, clock: &Clock) -> Rtt {
        self.ticks.sort_unstable();
        let sum: u64 = self.ticks.iter().sum();
        let count = self.ticks.len().max(1);
        let at = |part| Some(clock.ns(grouped_percentile(&self.ticks, part, clock.step())));
        Rtt {
            p50_ns: at(0.50),
            p99_ns: at(0.99),
            p99_9_ns: at(0.999),
            max_ns: self.ticks.last().map(|&ticks| clock.ns(ticks as f64)),
            mean_ns: clock.ns(sum as f64 / count as f64),
            own_floor_ns: None,
        }
    }
}

/// A percentile that is finer than the clock: the classic percentile of grouped data.
///
/// Some clocks advance in steps (10 ns is common), and a bounce takes eight or nine of them, so
/// that a plain median jumps by a tenth. All samples within half a step of the plain percentile
/// form a group; the answer lies as deep inside that group as the wanted rank does.
fn grouped_percentile(sorted: &[u64], fraction: f64, step: u64) -> f64 {
    let rank = fraction * sorted.len() as f64;
    let at = sorted.len().saturating_sub(1).min(floor_index(rank));
    let Some(&plain) = sorted.get(at) else {
        return f64::NAN;
    };
    let low = plain.saturating_sub(step / 2);
    let high = plain + step.div_ceil(2);
    let below = sorted.partition_point(|&ticks| ticks < low);
    let inside = sorted.partition_point(|&ticks| ticks < high).saturating_sub(below).max(1);
    let depth = ((rank - below as f64) / inside as f64).clamp(0.0, 1.0);
    low as f64 + depth * (high - low) as f64
}

/// The index below a rank that is never negative and never beyond a slice's length.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a rank is between zero and the length of a slice in memory"
)]
const fn floor_index(rank: f64) -> usize {
    rank as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_percentile_is_finer_than_the_step() {
        // True value 84, clock step 10: six of ten read 80, four read 90.
        let mut samples = vec![80; 600];
        samples.extend(vec![90; 400]);
        let p50 = grouped_percentile(&samples, 0.5, 10);
        assert!((p50 - 83.3).abs() < 0.1, "{p50}");
    }

    #[test]
    fn a_percentile_without_samples_is_not_a_number() {
        assert!(grouped_percentile(&[], 0.5, 10).is_nan());
    }

    #[test]
    fn a_fine_clock_gives_the_plain_percentile() {
        let samples: Vec<u64> = (0..1000).collect();
        assert!((grouped_percentile(&samples, 0.99, 1) - 990.0).abs() <= 1.0);
    }
}
