//! What a record says: rows, ratios, judged bars and the notes that a reader needs.

use serde::Serialize;

use crate::bar::{self, Judged};
use crate::peer::floor;
use crate::ratio::{self, Ratio};
use crate::sample::Sample;
use crate::schedule::{Effort, Found, Plan, Record, Series};
use crate::work::{Kind, Work};

mod columns;
pub(crate) mod json;
pub(crate) mod table;

/// A spread of floors beyond this factor is worth a note.
const SPREAD_NOTED: f64 = 1.5;

/// A difference of two floors beyond this factor is worth a note.
const OWN_FLOOR_NOTED: f64 = 1.15;

/// Somebody waits for a processor in this part of the time: then others run here.
const WAITED_NOTED: f64 = 0.1;

/// A mean bounce beyond this multiple of the median one means that somebody else runs here.
const CROWD_NOTED: f64 = 1.3;

/// Everything there is to print.
#[derive(Debug, Serialize)]
pub(crate) struct Report<'a> {
    /// The machine and how it was used.
    pub(crate) machine: Machine,
    /// Who was found and who was not.
    pub(crate) found: &'a [Found],
    /// The rows, by work.
    pub(crate) rows: Vec<Row<'a>>,
    /// The bars of the works that ran.
    pub(crate) bars: Vec<Judged>,
    /// What a reader must know.
    pub(crate) notes: Vec<String>,
    /// Every single reading.
    pub(crate) series: &'a [Series],
}

/// The machine and how it was used.
#[derive(Debug, Serialize)]
pub(crate) struct Machine {
    /// The processor's name.
    pub(crate) model: String,
    /// The kernel's version.
    pub(crate) kernel: String,
    /// The two processors, near and far.
    pub(crate) cpus: [usize; 2],
    /// Rounds.
    pub(crate) rounds: u32,
    /// The load average when the table was made; one measurement keeps both processors busy.
    pub(crate) load: String,
    /// The clock's step in nanoseconds.
    pub(crate) clock_step_ns: f64,
}

/// A row of the table.
#[derive(Debug, Serialize)]
pub(crate) struct Row<'a> {
    /// The work.
    pub(crate) work: Work,
    /// Whose figures.
    pub(crate) name: &'a str,
    /// The figures, or why there are none.
    pub(crate) state: State,
    /// Against the floor.
    pub(crate) to_floor: Option<Ratio>,
    /// Spinwire against this row.
    pub(crate) rival: Option<Rival<'a>>,
}

/// Spinwire against a row.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct Rival<'a> {
    /// The Spinwire row.
    pub(crate) name: &'a str,
    /// Its figures over those of the row that it is set against.
    pub(crate) ratio: Ratio,
}

/// The figures of a row, or why there are none.
#[derive(Debug, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum State {
    /// There they are.
    Measured(Figures),
    /// Not there.
    Skipped(String),
    /// There, but not one round went well.
    Failed(String),
}

/// Medians over all rounds.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub(crate) struct Figures {
    /// Median trip in ns, or messages a second; absent where the tool knows only a mean.
    pub(crate) p50_or_rate: Option<f64>,
    /// Median trip in ns; of a rate, the median time of a request.
    pub(crate) p50: Option<f64>,
    /// 99th percentile in ns.
    pub(crate) p99: Option<f64>,
    /// 99.9th percentile in ns.
    pub(crate) p99_9: Option<f64>,
    /// Longest trip in ns.
    pub(crate) max: Option<f64>,
    /// Mean trip in ns.
    pub(crate) mean: Option<f64>,
    /// The part of the time that the client needs.
    pub(crate) client_busy: Option<f64>,
    /// Nanoseconds of its processor that the server needs for a request.
    pub(crate) server_ns: Option<f64>,
    /// The best round.
    pub(crate) best: Option<f64>,
}

impl<'a> Report<'a> {
    /// Works out everything that a record says.
    pub(crate) fn new(plan: &Plan, record: &'a Record) -> Self {
        let mut rows = Vec::new();
        for &work in &record.works {
            rows.push(floor_row(record, work));
            let here = record.found.iter().filter(|found| found.works.contains(&work));
            rows.extend(here.map(|found| row(record, found, work)));
        }
        let bars: Vec<Judged> = bar::all()
            .iter()
            .filter(|bar| record.works.contains(&bar.work))
            .map(|bar| bar.judge(record))
            .collect();
        Self {
            machine: Machine::look(plan),
            found: &record.found,
            rows,
            bars,
            notes: notes(plan, record),
            series: &record.series,
        }
    }
}

impl State {
    fn of(work: Work, samples: &[Sample]) -> Self {
        let median =
            |figure: fn(&Sample) -> Option<f64>| ratio::median(samples.iter().filter_map(figure));
        Self::Measured(Figures {
            p50_or_rate: median(Sample::p50_or_rate),
            p50: median(Sample::p50),
            p99: median(Sample::p99),
            p99_9: median(Sample::p99_9),
            max: median(Sample::max),
            mean: median(Sample::mean),
            client_busy: median(Sample::client_busy),
            server_ns: median(Sample::server_ns),
            best: ratio::better(work.kind, samples.iter().filter_map(Sample::p50_or_rate)),
        })
    }
}

fn floor_row(record: &Record, work: Work) -> Row<'_> {
    let samples: Vec<Sample> =
        record.floors.iter().filter(|(of, _)| *of == work).map(|(_, sample)| *sample).collect();
    let state = State::of(work, &samples);
    Row { work, name: floor::name_at(work), state, to_floor: None, rival: None }
}

fn row<'a>(record: &'a Record, found: &'a Found, work: Work) -> Row<'a> {
    let name = found.name;
    let Some(series) = record.series(name, work) else {
        let why = found.skipped.clone().unwrap_or_else(|| "not measured".to_owned());
        return Row { work, name, state: State::Skipped(why), to_floor: None, rival: None };
    };
    if series.readings.is_empty() {
        let why = series.failure.clone().unwrap_or_else(|| "never measured".to_owned());
        return Row { work, name, state: State::Failed(why), to_floor: None, rival: None };
    }
    let samples: Vec<Sample> = series.readings.iter().map(|reading| reading.sample).collect();
    let rival = series.rival.and_then(|name| {
        let ratio = Ratio::between(record.series(name, work)?, series);
        (ratio.rounds > 0).then_some(Rival { name, ratio })
    });
    let to_floor = Some(Ratio::to_floor(series));
    Row { work, name, state: State::of(work, &samples), to_floor, rival }
}

/// What a reader must know before believing the table.
fn notes(plan: &Plan, record: &Record) -> Vec<String> {
    let mut notes = Vec::new();
    if plan.effort == Effort::Smoke {
        notes.push("this was a smoke test: its figures and verdicts mean nothing".to_owned());
    }
    if plan.depth > 1 {
        notes.push(format!(
            "{} requests of each connection were under way at once; the bars are for one",
            plan.depth
        ));
    }
    let bounces: Vec<f64> = record
        .floors
        .iter()
        .filter(|(work, _)| work.is_message() && work.kind == Kind::Rtt)
        .map(|(_, sample)| sample.headline())
        .collect();
    let least = bounces.iter().copied().reduce(f64::min);
    let most = bounces.iter().copied().reduce(f64::max);
    if let (Some(least), Some(most)) = (least, most)
        && most > least * SPREAD_NOTED
    {
        notes.push(format!(
            "the bare line took from {least:.0} to {most:.0} ns during this run: the machine \
             changed, and figures of different rounds are of different machines. Trust the ratios"
        ));
    }
    let crowd = record.floors.iter().filter_map(|(_, sample)| {
        let Sample::Rtt(rtt) = sample else {
            return None;
        };
        Some(rtt.mean_ns / rtt.p50_ns?)
    });
    if let Some(off) = ratio::median(crowd)
        && off > CROWD_NOTED
    {
        notes.push(format!(
            "the mean floor is {off:.1} x the median one: other work runs on these processors. \
             Medians bear that; means and rates do not. Run again on a quiet machine"
        ));
    }
    notes.extend(pressure_note(record));
    let own_floors =
        record.series.iter().flat_map(|series| &series.readings).filter_map(|reading| {
            let Sample::Rtt(rtt) = reading.sample else {
                return None;
            };
            Some(rtt.own_floor_ns? / f64::midpoint(reading.floor_before, reading.floor_after))
        });
    if let Some(off) = ratio::median(own_floors)
        && !(1.0 / OWN_FLOOR_NOTED..=OWN_FLOOR_NOTED).contains(&off)
    {
        notes.push(format!(
            "spinwire's own floor is {off:.2} x the floor of this table (another wait loop?), so \
             that the ratios that `spinwire lat` prints are on another scale than these"
        ));
    }
    for series in record.series.iter().filter(|series| !series.readings.is_empty()) {
        if let Some(why) = &series.failure {
            notes.push(format!("{} at {} failed at least once: {why}", series.name, series.work));
        }
    }
    notes
}

/// Whether others wanted the processors.
fn pressure_note(record: &Record) -> Option<String> {
    let readings = record.series.iter().flat_map(|series| &series.readings);
    let part = ratio::median(readings.filter_map(|reading| reading.waited))?;
    (part > WAITED_NOTED).then(|| {
        format!(
            "in {:.0} % of the time somebody waited for a processor: other work runs here. Rates of \
             many connections are worth nothing then; JSON has that part for each reading (`waited`)",
            part * 100.0
        )
    })
}

impl Machine {
    fn look(plan: &Plan) -> Self {
        let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
        let model = read("/proc/cpuinfo")
            .lines()
            .find_map(|line| line.strip_prefix("model name")?.split_once(": "))
            .map_or_else(|| std::env::consts::ARCH.to_owned(), |(_, name)| name.to_owned());
        Self {
            model,
            kernel: read("/proc/sys/kernel/osrelease").trim().to_owned(),
            cpus: [plan.cpus.near, plan.cpus.far],
            rounds: plan.rounds,
            load: read("/proc/loadavg").split(' ').next().unwrap_or_default().to_owned(),
            clock_step_ns: plan.clock.ns(plan.clock.step() as f64),
        }
    }
}
