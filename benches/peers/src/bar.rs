//! The bars: what the project promises against its peers and against the floor.

use core::fmt;

use serde::Serialize;

use crate::peer::floor;
use crate::ratio::Ratio;
use crate::schedule::Record;
use crate::work::Work;

/// Steady rounds below which a bar is not judged.
const PAIRS_MIN: usize = 3;

/// On which side of the number the ratio must lie.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Limit {
    /// A time: at most this part of the other's.
    AtMost(f64),
    /// A rate: at least this multiple of the other's.
    AtLeast(f64),
}

/// One bar.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct Bar {
    /// The work.
    pub(crate) work: Work,
    /// Whose figure is judged.
    pub(crate) ours: &'static str,
    /// Whose figure it is held against.
    pub(crate) theirs: &'static str,
    /// The limit for ours / theirs.
    pub(crate) limit: Limit,
}

const fn bar(work: Work, ours: &'static str, theirs: &'static str, limit: Limit) -> Bar {
    Bar { work, ours, theirs, limit }
}

/// Every bar of the project.
pub(crate) const BARS: [Bar; 12] = [
    bar(Work::rtt(32), "spinwire", floor::NAME, Limit::AtMost(1.3)),
    bar(Work::rtt(64), "spinwire tagged", floor::NAME, Limit::AtMost(1.45)),
    bar(Work::rtt(64), "spinwire tagged", "ucx", Limit::AtMost(0.9)),
    bar(Work::rtt(64), "spinwire tagged", "iceoryx2", Limit::AtMost(0.3)),
    bar(Work::stream(32), "spinwire tagged", "ucx", Limit::AtLeast(6.0)),
    bar(Work::stream(64), "spinwire tagged", "ucx", Limit::AtLeast(3.0)),
    bar(Work::stream(4096), "spinwire tagged", "ucx", Limit::AtLeast(1.0)),
    bar(Work::stream(65536), "spinwire tagged", "ucx", Limit::AtLeast(1.0)),
    bar(Work::LEND, "spinwire lent", "spinwire 64 B", Limit::AtMost(1.5)),
    bar(Work::ACQUIRE, "spinwire pool", "iceoryx2 loan", Limit::AtMost(0.25)),
    bar(Work::GET, "spinwire pool", "iceoryx2 loan", Limit::AtMost(0.25)),
    bar(Work::TWO, "two processes", "one process", Limit::AtLeast(0.3)),
];

/// What came out.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Verdict {
    /// The median of the paired ratios lies on the right side.
    Met,
    /// It does not.
    Missed,
    /// Too few rounds in which the machine held still, or one side is missing: says which.
    Unknown(String),
}

/// A bar and what came out.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Judged {
    /// The bar.
    pub(crate) bar: Bar,
    /// The ratio.
    pub(crate) ratio: Ratio,
    /// The judgement.
    pub(crate) verdict: Verdict,
}

impl Bar {
    /// Judges this bar by a record.
    pub(crate) fn judge(&self, record: &Record) -> Judged {
        let Some(ours) = record.series(self.ours, self.work) else {
            return self.unknown(format!("no {} in this run", self.ours));
        };
        let ratio = if self.theirs == floor::NAME {
            Ratio::to_floor(ours)
        } else if let Some(theirs) = record.series(self.theirs, self.work) {
            Ratio::between(ours, theirs)
        } else {
            return self.unknown(format!("no {} in this run", self.theirs));
        };
        let verdict = match ratio.median {
            _ if ratio.rounds == 0 => Verdict::Unknown("not measured".to_owned()),
            Some(median) if ratio.pairs >= PAIRS_MIN => {
                if self.limit.holds(median) {
                    Verdict::Met
                } else {
                    Verdict::Missed
                }
            }
            _ => Verdict::Unknown(format!("{} of {} rounds steady", ratio.pairs, ratio.rounds)),
        };
        Judged { bar: *self, ratio, verdict }
    }

    fn unknown(&self, why: String) -> Judged {
        Judged { bar: *self, ratio: Ratio::default(), verdict: Verdict::Unknown(why) }
    }
}

impl Judged {
    /// Limit and verdict in words. A machine in several states (near and far processors) can meet a
    /// bar by the median of all rounds and miss it at its best; then the words say so.
    pub(crate) fn words(&self) -> String {
        let missed_at_best = self.ratio.best.is_some_and(|best| !self.bar.limit.holds(best));
        let but = if self.is_met() && missed_at_best { " (not at best)" } else { "" };
        let scale = if self.bar.theirs == floor::NAME { " x floor" } else { "" };
        format!("{}{scale}: {}{but}", self.bar.limit, self.verdict)
    }

    /// Whether the bar is known to be met.
    pub(crate) fn is_met(&self) -> bool {
        self.verdict == Verdict::Met
    }
}

impl Limit {
    fn holds(self, ratio: f64) -> bool {
        match self {
            Self::AtMost(limit) => ratio <= limit,
            Self::AtLeast(limit) => ratio >= limit,
        }
    }
}

impl fmt::Display for Limit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AtMost(limit) => write!(f, "<= {limit}"),
            Self::AtLeast(limit) => write!(f, ">= {limit}"),
        }
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Met => f.write_str("met"),
            Self::Missed => f.write_str("MISSED"),
            Self::Unknown(why) => write!(f, "unknown ({why})"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sample::{Rtt, Sample};
    use crate::schedule::{Reading, Series};

    const BAR: Bar = bar(Work::rtt(64), "spinwire tagged", "ucx", Limit::AtMost(0.9));

    fn record(ours_ns: f64, rounds: u32) -> Record {
        let series = |name, p50: f64| {
            let mut series = Series::new(name, BAR.work, None);
            for round in 1..=rounds {
                let sample = Sample::Rtt(Rtt { p50_ns: Some(p50), ..Rtt::default() });
                series.add(Reading { round, sample, floor_before: 80.0, floor_after: 80.0 });
            }
            series
        };
        Record {
            found: vec![],
            works: vec![BAR.work],
            floors: vec![],
            series: vec![series(BAR.ours, ours_ns), series(BAR.theirs, 200.0)],
        }
    }

    #[test]
    fn a_bar_is_met_or_missed_by_the_median() {
        assert_eq!(BAR.judge(&record(180.0, 3)).verdict, Verdict::Met);
        assert_eq!(BAR.judge(&record(181.0, 3)).verdict, Verdict::Missed);
    }

    #[test]
    fn two_rounds_are_no_verdict() {
        assert!(matches!(BAR.judge(&record(100.0, 2)).verdict, Verdict::Unknown(_)));
    }

    #[test]
    fn a_missing_side_is_named() {
        let mut record = record(100.0, 3);
        record.series.pop();
        let Verdict::Unknown(why) = BAR.judge(&record).verdict else { panic!("a verdict") };
        assert!(why.contains("ucx"), "{why}");
    }
}
