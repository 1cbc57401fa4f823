//! When what is measured: interleaved, in short rounds, each measurement between two floors.
//!
//! The machine is not the same machine twice. On a virtual one the two processors may share a cache
//! now and lie on two dies a second later, and a bounce that took 80 ns takes 500. Two long runs
//! after each other would compare two machines. Therefore:
//!
//! * a round visits every work, and within a work everybody runs right after each other;
//! * the floor is measured before and after every one of them, so each figure knows the machine
//!   that it was made on;
//! * every other round runs backwards, so that nobody always comes first.
//!
//! What [`crate::ratio`] compares are figures of the same round whose floors agree.

use std::path::PathBuf;

use serde::Serialize;

use crate::clock::Clock;
use crate::cpu::{Cpus, Pressure};
use crate::peer::{self, Peer, floor};
use crate::sample::Sample;
use crate::work::{Kind, Work};

/// Failures in a row after which a row is given up for a work.
const FAILURES_MAX: u32 = 2;

/// How a run is to be made.
#[derive(Debug)]
pub(crate) struct Plan {
    /// Rounds.
    pub(crate) rounds: u32,
    /// How long a single measurement is.
    pub(crate) effort: Effort,
    /// The two processors.
    pub(crate) cpus: Cpus,
    /// The tick counter.
    pub(crate) clock: Clock,
    /// The `spinwire` command.
    pub(crate) spinwire: PathBuf,
    /// Spinwire's server of the Redis protocol, where there is one.
    pub(crate) resp_server: Option<String>,
    /// Requests that each of many connections has under way.
    pub(crate) depth: u32,
}

/// How long a single measurement is: some tens of milliseconds on a good machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Effort {
    /// Enough to see that everything runs; the figures mean nothing.
    Smoke,
    /// Enough for a look.
    Quick,
    /// Enough for a claim.
    Full,
}

impl Effort {
    /// Round trips of a message of `size` bytes.
    pub(crate) const fn trips(self, size: u32) -> u32 {
        let full = match size {
            0..=1024 => 200_000,
            1025..=16384 => 100_000,
            _ => 20_000,
        };
        self.scale(full)
    }

    /// Messages of a stream of `size` bytes each.
    pub(crate) const fn messages(self, size: u32) -> u32 {
        let full = match size {
            0..=1024 => 2_000_000,
            1025..=16384 => 300_000,
            _ => 30_000,
        };
        self.scale(full)
    }

    /// Operations of some tens of nanoseconds each.
    pub(crate) const fn operations(self) -> u32 {
        self.scale(2_000_000)
    }

    /// Seconds of a stream, for who takes seconds.
    pub(crate) const fn seconds(self) -> f64 {
        match self {
            Self::Smoke => 0.01,
            Self::Quick => 0.05,
            Self::Full => 0.2,
        }
    }

    /// Nanoseconds of requests to a server.
    pub(crate) const fn server_ns(self) -> f64 {
        match self {
            Self::Smoke => 1e7,
            Self::Quick => 1.5e8,
            Self::Full => 4e8,
        }
    }

    /// Commands of `redis-benchmark` at so many a second.
    pub(crate) const fn commands(self, pipeline: u32) -> u32 {
        self.scale(if pipeline > 1 { 1_600_000 } else { 120_000 })
    }

    const fn scale(self, full: u32) -> u32 {
        match self {
            Self::Smoke => full / 100,
            Self::Quick => full / 4,
            Self::Full => full,
        }
    }
}

/// Who runs, and at which works.
pub(crate) struct Selection {
    /// The rows.
    pub(crate) peers: Vec<Box<dyn Peer>>,
    /// The works.
    pub(crate) works: Vec<Work>,
}

/// One figure with the machine it was made on.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct Reading {
    /// The round, from 1.
    pub(crate) round: u32,
    /// The figure.
    pub(crate) sample: Sample,
    /// The floor right before: median trip in ns, or lines a second.
    pub(crate) floor_before: f64,
    /// The floor right after.
    pub(crate) floor_after: f64,
    /// The part of the time meanwhile in which somebody on this machine waited for a processor.
    pub(crate) waited: Option<f64>,
}

/// All readings of one row at one work.
#[derive(Debug, Serialize)]
pub(crate) struct Series {
    /// The row.
    pub(crate) name: &'static str,
    /// The work.
    pub(crate) work: Work,
    /// The Spinwire row that it is set against.
    #[serde(skip)]
    pub(crate) rival: Option<&'static str>,
    /// The readings, at most one a round.
    pub(crate) readings: Vec<Reading>,
    /// The last failure, where there was one.
    pub(crate) failure: Option<String>,
    #[serde(skip)]
    failures_in_a_row: u32,
}

/// What is known of a row before the first round.
#[derive(Debug, Serialize)]
pub(crate) struct Found {
    /// The row.
    pub(crate) name: &'static str,
    /// The works that it has rows for.
    #[serde(skip)]
    pub(crate) works: Vec<Work>,
    /// What was found.
    pub(crate) what: Option<String>,
    /// Why it is skipped.
    pub(crate) skipped: Option<String>,
}

/// Everything that a run measured.
#[derive(Debug)]
pub(crate) struct Record {
    /// Who was found and who was not.
    pub(crate) found: Vec<Found>,
    /// The works, in order.
    pub(crate) works: Vec<Work>,
    /// The floor's readings: each before and after somebody.
    pub(crate) floors: Vec<(Work, Sample)>,
    /// Everybody's readings.
    pub(crate) series: Vec<Series>,
}

/// Runs the plan. Progress goes to standard error, and nothing is written while somebody is
/// measured.
pub(crate) fn run(plan: &Plan, selection: &Selection) -> anyhow::Result<Record> {
    plan.cpus.check()?;
    let mut record = Record::open(plan, selection);
    for round in 1..=plan.rounds {
        for &work in &selection.works {
            run_work(plan, selection, &mut record, (round, work))?;
        }
        eprintln!("peers: round {round} of {}{}", plan.rounds, record.floor_words());
    }
    Ok(record)
}

/// One work of one round: floor, somebody, floor, the next one, floor ...
fn run_work(
    plan: &Plan,
    selection: &Selection,
    record: &mut Record,
    (round, work): (u32, Work),
) -> anyhow::Result<()> {
    let mut before = record.floor(plan, work)?;
    let mut order: Vec<&dyn Peer> = selection.peers.iter().map(Box::as_ref).collect();
    if round % 2 == 0 {
        order.reverse();
    }
    for peer in order {
        if !record.is_due(peer.name(), work) {
            continue;
        }
        let pressure = Pressure::begin();
        let result = peer.measure(work, plan);
        let waited = pressure.and_then(|pressure| pressure.end());
        let after = record.floor(plan, work)?;
        if let Some(series) = record.series_mut(peer.name(), work) {
            match result {
                Ok(sample) => series.add(Reading {
                    round,
                    sample,
                    floor_before: before.headline(),
                    floor_after: after.headline(),
                    waited,
                }),
                Err(error) => series.fail(&format!("{error:#}"), round),
            }
        }
        before = after;
    }
    Ok(())
}

impl Record {
    /// Looks who is there, and opens a series for everybody who is.
    fn open(plan: &Plan, selection: &Selection) -> Self {
        let mut record =
            Self { found: vec![], works: selection.works.clone(), floors: vec![], series: vec![] };
        for peer in &selection.peers {
            let works: Vec<Work> =
                selection.works.iter().copied().filter(|&work| peer.measures(work)).collect();
            if works.is_empty() {
                continue;
            }
            let (what, skipped) = match peer.probe(plan) {
                Ok(what) => (Some(what), None),
                Err(why) => {
                    eprintln!("peers: {} is SKIPPED: {why}", peer.name());
                    (None, Some(why))
                }
            };
            if skipped.is_none() {
                let new = |&work: &Work| Series::new(peer.name(), work, peer.rival());
                record.series.extend(works.iter().map(new));
            }
            record.found.push(Found { name: peer.name(), works, what, skipped });
        }
        record
    }

    fn floor(&mut self, plan: &Plan, work: Work) -> anyhow::Result<Sample> {
        let sample = floor::measure(work, plan)?;
        self.floors.push((work, sample));
        Ok(sample)
    }

    /// The series of a row at a work.
    pub(crate) fn series(&self, name: &str, work: Work) -> Option<&Series> {
        self.series.iter().find(|series| series.name == name && series.work == work)
    }

    fn series_mut(&mut self, name: &str, work: Work) -> Option<&mut Series> {
        self.series.iter_mut().find(|series| series.name == name && series.work == work)
    }

    fn is_due(&self, name: &str, work: Work) -> bool {
        self.series(name, work).is_some_and(|series| series.failures_in_a_row < FAILURES_MAX)
    }

    /// The last bounce, for the progress line.
    fn floor_words(&self) -> String {
        let last =
            self.floors.iter().rev().find(|(work, _)| work.is_message() && work.kind == Kind::Rtt);
        last.map_or_else(String::new, |(_, sample)| {
            format!(", a bare line bounces in {:.0} ns", sample.headline())
        })
    }
}

impl Series {
    /// A series without readings.
    pub(crate) const fn new(name: &'static str, work: Work, rival: Option<&'static str>) -> Self {
        Self { name, work, rival, readings: Vec::new(), failure: None, failures_in_a_row: 0 }
    }

    /// Adds a reading.
    pub(crate) fn add(&mut self, reading: Reading) {
        self.readings.push(reading);
        self.failures_in_a_row = 0;
    }

    fn fail(&mut self, why: &str, round: u32) {
        self.failures_in_a_row += 1;
        let end = if self.failures_in_a_row == FAILURES_MAX { "; given up" } else { "" };
        eprintln!("peers: round {round}: {}, {}: FAILED{end}: {why}", self.name, self.work);
        self.failure = Some(why.to_owned());
    }
}

/// The words that `--only` knows: peers, groups of works, and works.
pub(crate) fn words() -> Vec<String> {
    let mut words: Vec<String> = peer::all().iter().map(|peer| peer.word().to_owned()).collect();
    words.dedup();
    let mut groups: Vec<&str> = Work::ALL.iter().map(|work| work.group()).collect();
    groups.dedup();
    words.extend(groups.into_iter().map(str::to_owned));
    words.extend(Work::ALL.iter().map(|work| work.word()));
    words
}
