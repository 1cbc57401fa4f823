//! The bars: what the project promises against its peers and against the floor.

use core::fmt;

use serde::Serialize;

use crate::peer::{echo, floor, resp, sockets};
use crate::ratio::{self, Ratio};
use crate::schedule::Record;
use crate::work::{Command, Kind, Subject, Work};

/// A rate within this part of the most that can be had is that.
const NEARLY: f64 = 0.95;

/// A client that is busy for this part of the time is at its limit.
const FULL: f64 = 0.97;

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

/// What is compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum By {
    /// The median trip, or the rate.
    Figure,
    /// The median time of a request.
    P50,
    /// The 99th percentile.
    P99,
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
    /// Of what.
    pub(crate) by: By,
    /// The row of the most that can be had: to reach it (nearly) will do.
    pub(crate) or_all_of: Option<&'static str>,
}

const fn bar(work: Work, ours: &'static str, theirs: &'static str, limit: Limit) -> Bar {
    Bar { work, ours, theirs, limit, by: By::Figure, or_all_of: None }
}

/// The rows of echo servers that are somebody else's; every one of them must be beaten, so that the
/// best is.
const ECHO_RIVALS: [&str; 3] = ["ringline", "monoio", "tokio"];

/// Every bar of the project.
pub(crate) fn all() -> Vec<Bar> {
    let mut bars = LOCAL_BARS.to_vec();
    bars.extend(echo_bars());
    bars.extend(resp_bars());
    bars
}

/// The bars of echo servers.
fn echo_bars() -> Vec<Bar> {
    let ours = "spinwire echo";
    let mut bars = vec![bar(Work::echo(64, 1), ours, sockets::NAME, Limit::AtMost(1.25))];
    for theirs in ECHO_RIVALS {
        bars.push(bar(Work::echo(64, 1), ours, theirs, Limit::AtMost(0.6)));
        for connections in [16, 128, 1024] {
            let rate = bar(Work::echo(64, connections), ours, theirs, Limit::AtLeast(1.2));
            bars.extend([rate, Bar { by: By::P99, limit: Limit::AtMost(1.0), ..rate }]);
        }
        for size in [16 << 10, 1 << 20] {
            bars.push(bar(Work::echo(size, 1), ours, theirs, Limit::AtMost(1.0)));
            bars.push(bar(Work::echo(size, 16), ours, theirs, Limit::AtLeast(1.0)));
        }
    }
    bars
}

/// The bars of servers of the Redis protocol.
fn resp_bars() -> Vec<Bar> {
    let mut bars = Vec::new();
    for command in [Command::Get, Command::Set] {
        for (pipeline, least, or_all_of) in [(1, 1.2, Some(resp::LIMIT_ROW)), (16, 1.5, None)] {
            let work = Work::resp(command, pipeline);
            let rate = bar(work, "spinwire resp", "redis-server", Limit::AtLeast(least));
            bars.push(Bar { or_all_of, ..rate });
            bars.push(Bar { by: By::P50, limit: Limit::AtMost(1.0), ..rate });
        }
    }
    bars
}

/// The bars of shared memory.
const LOCAL_BARS: [Bar; 12] = [
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
    /// Ours against the most that can be had, where that counts.
    pub(crate) of_all: Option<f64>,
    /// The other's figure against the best that bare sockets reach in the same run: what the ratio could be at all. Of works over TCP.
    pub(crate) possible: Option<f64>,
    /// Whether the client was at its limit with ours, so that more could not have been seen.
    pub(crate) client_full: bool,
    /// The judgement.
    pub(crate) verdict: Verdict,
}

impl Bar {
    /// Judges this bar by a record.
    pub(crate) fn judge(&self, record: &Record) -> Judged {
        let Some(ours) = record.series(self.ours, self.work) else {
            return self.unknown(format!("no {} in this run", self.ours));
        };
        let ratio = if self.is_against_floor() {
            Ratio::to_floor(ours)
        } else if let Some(theirs) = record.series(self.theirs, self.work) {
            Ratio::between(ours, theirs)
        } else {
            return self.unknown(format!("no {} in this run", self.theirs));
        };
        let all = self.or_all_of.and_then(|name| record.series(name, self.work));
        let of_all = all.and_then(|all| Ratio::between(ours, all).median);
        let verdict = match self.compared(&ratio) {
            _ if ratio.rounds == 0 => Verdict::Unknown("not measured".to_owned()),
            Some(median) if ratio.pairs >= PAIRS_MIN => {
                if self.limit.holds(median) || of_all.is_some_and(|part| part >= NEARLY) {
                    Verdict::Met
                } else {
                    Verdict::Missed
                }
            }
            _ => Verdict::Unknown(format!("{} of {} rounds steady", ratio.pairs, ratio.rounds)),
        };
        let busy = ours.readings.iter().filter_map(|reading| reading.sample.client_busy());
        let client_full = ratio::median(busy).is_some_and(|busy| busy >= FULL);
        let possible = self.possible(record);
        Judged { bar: *self, ratio, of_all, possible, client_full, verdict }
    }

    /// The ratio that bare sockets reach against theirs: two threads with one connection, or servers that do nothing but receive and send.
    fn possible(&self, record: &Record) -> Option<f64> {
        if self.by != By::Figure || self.is_against_floor() {
            return None;
        }
        let theirs = record.series(self.theirs, self.work)?;
        let rows: &[&str] = match self.work.subject {
            Subject::Echo { .. } => &echo::LIMIT_ROWS,
            Subject::Resp { .. } => &resp::LIMIT_ROWS,
            _ => return None,
        };
        let servers = rows.iter().filter_map(|name| record.series(name, self.work));
        let servers = servers.filter_map(|bare| Ratio::between(bare, theirs).median);
        // Of a rate the floor is one connection's.
        let floor = Ratio::to_floor(theirs).median.filter(|_| self.work.kind == Kind::Rtt);
        ratio::better(self.work.kind, servers.chain(floor.map(|ratio| 1.0 / ratio)))
    }

    /// Whether it is held against the floor of its work.
    pub(crate) fn is_against_floor(&self) -> bool {
        self.theirs == floor::name_at(self.work)
    }

    /// The ratio that is judged.
    const fn compared(&self, ratio: &Ratio) -> Option<f64> {
        match self.by {
            By::Figure => ratio.median,
            By::P50 => ratio.by_p50,
            By::P99 => ratio.by_p99,
        }
    }

    fn unknown(&self, why: String) -> Judged {
        Judged {
            bar: *self,
            ratio: Ratio::default(),
            of_all: None,
            possible: None,
            client_full: false,
            verdict: Verdict::Unknown(why),
        }
    }
}

impl Judged {
    /// Limit and verdict in words. A machine in several states (near and far processors) can meet a
    /// bar by the median of all rounds and miss it at its best; then the words say so.
    pub(crate) fn words(&self) -> String {
        let best = self.ratio.best.filter(|_| self.bar.by == By::Figure && self.of_all.is_none());
        let missed_at_best = best.is_some_and(|best| !self.bar.limit.holds(best));
        let but = match self.verdict {
            Verdict::Met if missed_at_best => " (not at best)",
            Verdict::Missed if self.client_full => " (the client is at its limit)",
            _ => "",
        };
        let possible = self.possible.map_or_else(String::new, |possible| {
            let beyond = if self.bar.limit.holds(possible) { "" } else { ", out of reach" };
            format!(" (bare: {possible:.2}{beyond})")
        });
        let scale = match self.bar.by {
            By::Figure if self.bar.is_against_floor() => " x floor",
            By::Figure => "",
            By::P50 => " by p50",
            By::P99 => " by p99",
        };
        let all = self.of_all.map_or_else(String::new, |part| {
            format!(" or {:.0} % of the client's limit ({:.0} %)", NEARLY * 100.0, part * 100.0)
        });
        format!("{}{scale}{all}: {}{but}{possible}", self.bar.limit, self.verdict)
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
    use crate::sample::{Rtt, Sample, Stream};
    use crate::schedule::{Reading, Series};

    const BAR: Bar = bar(Work::rtt(64), "spinwire tagged", "ucx", Limit::AtMost(0.9));

    fn record(ours_ns: f64, rounds: u32) -> Record {
        let series = |name, p50: f64| {
            let mut series = Series::new(name, BAR.work, None);
            for round in 1..=rounds {
                let sample = Sample::Rtt(Rtt { p50_ns: Some(p50), ..Rtt::default() });
                series.add(Reading {
                    round,
                    sample,
                    floor_before: 80.0,
                    floor_after: 80.0,
                    waited: None,
                });
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

    /// A record of rates of rows, each with a p99 and how busy its client was.
    fn rates(work: Work, rows: &[(&'static str, f64, f64, f64)]) -> Record {
        let series = rows.iter().map(|&(name, rate, p99, busy)| {
            let mut series = Series::new(name, work, None);
            for round in 1..=3 {
                let sample = Sample::Stream(Stream {
                    messages_per_s: rate,
                    p50_ns: Some(p99 / 2.0),
                    p99_ns: Some(p99),
                    client_busy: Some(busy),
                    server_ns: None,
                });
                series.add(Reading {
                    round,
                    sample,
                    floor_before: 1e5,
                    floor_after: 1e5,
                    waited: None,
                });
            }
            series
        });
        Record { found: vec![], works: vec![work], floors: vec![], series: series.collect() }
    }

    #[test]
    fn every_rival_has_its_bars() {
        let work = Work::echo(64, 16);
        let ours = ("spinwire echo", 1.3e5, 0.9e5, 0.5);
        let rivals = ECHO_RIVALS.map(|name| (name, 1e5, 1e5, 0.5));
        let record = rates(work, &[[ours].as_slice(), &rivals].concat());
        let judged: Vec<Judged> =
            all().iter().filter(|bar| bar.work == work).map(|bar| bar.judge(&record)).collect();
        assert_eq!(judged.len(), 2 * ECHO_RIVALS.len());
        for judged in judged {
            assert_eq!(judged.verdict, Verdict::Met, "{}", judged.words());
        }
        // A rate that is well does not hide a tail that is longer than theirs.
        let longer = rates(work, &[("spinwire echo", 1.3e5, 1.1e5, 0.5), ("tokio", 1e5, 1e5, 0.5)]);
        let rate = bar(work, "spinwire echo", "tokio", Limit::AtLeast(1.2));
        let tail = Bar { by: By::P99, limit: Limit::AtMost(1.0), ..rate };
        let [rate, tail] = [rate, tail].map(|bar| bar.judge(&longer).verdict);
        assert_eq!((rate, tail), (Verdict::Met, Verdict::Missed));
    }

    #[test]
    fn a_client_at_its_limit_excuses_nothing_but_is_named() {
        let work = Work::echo(64, 16);
        let rows = [("spinwire echo", 1.1e5, 1e5, 0.99), ("tokio", 1e5, 1e5, 0.99)];
        let bar = bar(work, "spinwire echo", "tokio", Limit::AtLeast(1.2));
        let words = bar.judge(&rates(work, &rows)).words();
        assert_eq!(words, ">= 1.2: MISSED (the client is at its limit)");
    }

    #[test]
    fn the_clients_own_limit_is_as_good_as_the_ratio() {
        let work = Work::resp(Command::Get, 1);
        let judge = |limit| {
            let rows = [
                ("spinwire resp", 1.1e5, 1e5, 0.99),
                ("redis-server", 1e5, 1e5, 0.99),
                (resp::LIMIT_ROW, limit, 1e5, 0.99),
            ];
            let bars = resp_bars().into_iter().find(|bar| bar.work == work && bar.by == By::Figure);
            bars.unwrap().judge(&rates(work, &rows)).verdict
        };
        assert_eq!(judge(1.15e5), Verdict::Met);
        assert_eq!(judge(1.2e5), Verdict::Missed);
    }

    #[test]
    fn what_bare_sockets_reach_stands_beside_what_is_missed() {
        let work = Work::echo(64, 16);
        let bar = bar(work, "spinwire echo", "tokio", Limit::AtLeast(1.2));
        let words = |bare| {
            let rows = [
                ("spinwire echo", 0.9e5, 1e5, 0.5),
                ("tokio", 1e5, 1e5, 0.5),
                ("bare epoll", 1.0e5, 1e5, 0.5),
                ("bare in turn", bare, 1e5, 0.5),
            ];
            bar.judge(&rates(work, &rows)).words()
        };
        assert_eq!(words(1.1e5), ">= 1.2: MISSED (bare: 1.10, out of reach)");
        assert_eq!(words(1.3e5), ">= 1.2: MISSED (bare: 1.30)");
        // With one connection it is the floor, which was 80 ns here.
        let work = Work::echo(64, 1);
        let bar = Bar { work, ours: "spinwire echo", theirs: "tokio", ..BAR };
        let mut record = record(150.0, 3);
        for (series, name) in record.series.iter_mut().zip(["spinwire echo", "tokio"]) {
            (series.name, series.work) = (name, work);
        }
        record.works = vec![work];
        let bar = Bar { limit: Limit::AtMost(0.6), ..bar };
        assert_eq!(bar.judge(&record).words(), "<= 0.6: MISSED (bare: 0.40)");
        let bar = Bar { limit: Limit::AtMost(0.3), ..bar };
        assert_eq!(bar.judge(&record).words(), "<= 0.3: MISSED (bare: 0.40, out of reach)");
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
