//! What the stats pages say, and what happened between two looks at them.
//!
//! ```text
//!   look()  ->  Look { plane, counters, histograms }        every refresh, all pages anew
//!   between(before, after)  ->  Rates                        by the plane's own time
//! ```
//!
//! A plane brings its page up to date every some milliseconds and stamps it with its own time, so rates are taken by that:
//! they are right even if this process is late. A plane whose stamp stands still does not turn.

use std::collections::BTreeMap;

use serde::Serialize;
use spinwire_dataplane::poll::{
    Counter, HistogramId, HistogramSnapshot, PathStats, PlaneSnapshot, StatsError, StatsReader,
};
use spinwire_dataplane::shm::copy_header;
use spinwire_dataplane::time::Instant;
use spinwire_hostshim::mem::{self, SharedMapping};
use spinwire_hostshim::plane::stats_page;

use crate::cmd::ps::survey::{PlaneRow, plane_row};
use crate::report::Failure;

/// What a name ends with under which a plane publishes its stats page.
const SUFFIX: &str = ".stats";

/// One page at one moment.
#[derive(Debug)]
pub(super) struct Look {
    pub(super) row: PlaneRow,
    pub(super) plane: PlaneSnapshot,
    histograms: Vec<(HistogramId, Box<HistogramSnapshot>)>,
    paths: Vec<PathStats>,
}

/// All pages at one moment, by segment name; and why some could not be read.
#[derive(Debug, Default)]
pub(super) struct Looks {
    pub(super) planes: BTreeMap<String, Look>,
    pub(super) refused: Vec<(String, String)>,
}

/// Reads every stats page that there is, or those of the planes in `only`.
pub(super) fn look(only: &[String]) -> Result<Looks, Failure> {
    let mut looks = Looks::default();
    for listed in mem::list()? {
        let Some(plane) = listed.name.strip_suffix(SUFFIX) else {
            continue;
        };
        if !only.is_empty() && !only.iter().any(|name| name == plane) {
            continue;
        }
        match look_at(&listed.name) {
            Ok(look) => drop(looks.planes.insert(plane.to_owned(), look)),
            Err(e) => looks.refused.push((plane.to_owned(), e.to_string())),
        }
    }
    Ok(looks)
}

#[expect(
    clippy::large_stack_frames,
    reason = "copies of a page, once a refresh, on a thread with a stack of the usual size"
)]
fn look_at(name: &str) -> Result<Look, Failure> {
    let mapping = SharedMapping::open(name)?;
    let reader = StatsReader::new(stats_page(&mapping)?)?;
    let boot_id = copy_header(mapping.lines())?.boot_id;
    // A plane that was stopped or killed in the middle of a section left it unsettled: what is there is shown.
    let plane = match reader.plane() {
        Err(StatsError::Read(_)) => reader.plane_unsettled()?.0,
        settled => settled?,
    };
    let row = plane_row(&plane, boot_id);
    let mut histograms = Vec::new();
    for id in HistogramId::ALL {
        histograms.push((*id, copy_of(&reader, *id)?));
    }
    let paths = reader.paths().collect();
    Ok(Look { row, plane, histograms, paths })
}

fn copy_of(
    reader: &StatsReader<'_>,
    id: HistogramId,
) -> Result<Box<HistogramSnapshot>, StatsError> {
    let mut copy = Box::new(HistogramSnapshot::EMPTY);
    match reader.histogram(id, &mut copy) {
        Err(StatsError::Read(_)) => drop(reader.histogram_unsettled(id, &mut copy)?),
        settled => settled?,
    }
    Ok(copy)
}

/// What a plane did between two looks.
#[derive(Debug, Serialize)]
pub(super) struct Rates {
    #[serde(flatten)]
    pub(super) row: PlaneRow,
    /// How much of the plane's own time lies between the looks. 0: it stood still, or there was one look only.
    pub(super) span_ns: u64,
    pub(super) messages_sent_per_s: u64,
    pub(super) messages_received_per_s: u64,
    pub(super) bytes_sent_per_s: u64,
    pub(super) bytes_received_per_s: u64,
    pub(super) turns_per_s: u64,
    /// Busy turns in a hundred turns.
    pub(super) busy_percent: u64,
    /// What goes wrong, in all.
    pub(super) trouble: Trouble,
    pub(super) counters: Vec<Count>,
    pub(super) histograms: Vec<Spread>,
    /// Paths of its virtual queue pairs.
    pub(super) paths: Vec<PathLine>,
}

/// Counts of what should be rare, since the plane began.
#[derive(Clone, Copy, Debug, Serialize)]
pub(super) struct Trouble {
    /// Refusals of all kinds that ask for another attempt.
    pub(super) retries: u64,
    /// Polls that stopped for want of room.
    pub(super) stalls: u64,
    /// Ids that were stale or unknown.
    pub(super) stale: u64,
    /// What peers wrote and was dropped, and what should not exist.
    pub(super) corrupt: u64,
    pub(super) peers_gone: u64,
}

/// One counter that is not zero.
#[derive(Debug, Serialize)]
pub(super) struct Count {
    pub(super) name: &'static str,
    pub(super) total: u64,
    pub(super) per_s: u64,
}

/// What was recorded in one histogram between the looks; where nothing was, since the plane began.
#[derive(Debug, Serialize)]
pub(super) struct Spread {
    pub(super) name: &'static str,
    pub(super) unit: &'static str,
    pub(super) since: Since,
    pub(super) count: u64,
    pub(super) p50: u64,
    pub(super) p90: u64,
    pub(super) p99: u64,
    pub(super) p99_9: u64,
    /// Of the whole time.
    pub(super) max: u64,
}

/// Which values the percentiles are about.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Since {
    /// Those between the looks.
    LastLook,
    /// All.
    Start,
}

/// Compares two looks at one plane. A plane that was started anew in between is compared with nothing.
pub(super) fn between(before: Option<&Look>, after: &Look) -> Rates {
    // A page that was never brought up to date has no time yet.
    let before = before.filter(|before| {
        before.plane.plane == after.plane.plane && before.plane.updated > Instant::ORIGIN
    });
    let span_ns = before
        .map_or(0, |before| after.plane.updated.saturating_since(before.plane.updated).as_nanos());
    let grown = |counter| {
        before.map_or(0, |before| after.plane.get(counter).wrapping_sub(before.plane.get(counter)))
    };
    let rate = |counter| per_second(grown(counter), span_ns);
    let turns = grown(Counter::TurnsBusy).saturating_add(grown(Counter::TurnsIdle));
    let counters = Counter::ALL.iter().filter(|counter| after.plane.get(**counter) > 0);
    Rates {
        row: after.row.clone(),
        span_ns,
        messages_sent_per_s: rate(Counter::MessagesSent),
        messages_received_per_s: rate(Counter::MessagesReceived),
        bytes_sent_per_s: rate(Counter::BytesSent),
        bytes_received_per_s: rate(Counter::BytesReceived),
        turns_per_s: per_second(turns, span_ns),
        busy_percent: scale(grown(Counter::TurnsBusy), 100, turns),
        trouble: trouble(&after.plane),
        counters: counters
            .map(|c| Count { name: c.name(), total: after.plane.get(*c), per_s: rate(*c) })
            .collect(),
        histograms: spreads(before, after),
        paths: paths(before, after, span_ns),
    }
}

fn trouble(plane: &PlaneSnapshot) -> Trouble {
    let sum = |counters: &[Counter]| {
        counters.iter().fold(0_u64, |sum, counter| sum.saturating_add(plane.get(*counter)))
    };
    Trouble {
        retries: sum(&[
            Counter::RetrySendQueueFull,
            Counter::RetryReceiveQueueFull,
            Counter::RetryNoCredit,
            Counter::RetryNoSlot,
            Counter::RetryNoBuffer,
        ]),
        stalls: sum(&[Counter::UnexpectedStalls, Counter::RetryCompletionQueueFull]),
        stale: sum(&[Counter::StaleIds, Counter::UnknownIds]),
        corrupt: sum(&[Counter::CorruptDrops, Counter::Quarantined]),
        peers_gone: plane.get(Counter::PeersGone),
    }
}

/// One path of a virtual queue pair: how it fares, and what it carried between the looks.
#[derive(Debug, Serialize)]
pub(super) struct PathLine {
    pub(super) vqp: u32,
    pub(super) path: u32,
    pub(super) device: u32,
    pub(super) qp_num: u32,
    pub(super) health: &'static str,
    pub(super) in_flight: u32,
    pub(super) fragments_per_s: u64,
    pub(super) bytes_per_s: u64,
    pub(super) errors: u64,
    pub(super) stale: u64,
}

fn paths(before: Option<&Look>, after: &Look, span_ns: u64) -> Vec<PathLine> {
    let line = |path: &PathStats| {
        let is_same = |old: &&PathStats| {
            (old.vqp, old.path, old.device, old.qp_num)
                == (path.vqp, path.path, path.device, path.qp_num)
        };
        let old = before.and_then(|before| before.paths.iter().find(is_same));
        let rate = |figure: fn(&PathStats) -> u64| {
            let grown = old.map_or(0, |old| figure(path).saturating_sub(figure(old)));
            per_second(grown, span_ns)
        };
        PathLine {
            vqp: path.vqp,
            path: path.path,
            device: path.device,
            qp_num: path.qp_num,
            health: path.health.name(),
            in_flight: path.in_flight,
            fragments_per_s: rate(|path| path.fragments),
            bytes_per_s: rate(|path| path.bytes),
            errors: path.errors,
            stale: path.stale,
        }
    };
    after.paths.iter().map(line).collect()
}

fn spreads(before: Option<&Look>, after: &Look) -> Vec<Spread> {
    let mut spreads = Vec::new();
    for (id, whole) in after.histograms.iter().filter(|(_, whole)| whole.count > 0) {
        let mut recent = Box::new(HistogramSnapshot::EMPTY);
        recent.copy_from(whole);
        let earlier =
            before.and_then(|before| before.histograms.iter().find(|(other, _)| other == id));
        if let Some((_, earlier)) = earlier {
            recent.subtract(earlier);
        }
        let since =
            if earlier.is_some() && recent.count > 0 { Since::LastLook } else { Since::Start };
        let values = if since == Since::LastLook { &recent } else { whole };
        let at = |parts_per_million| values.value_at(parts_per_million).unwrap_or(0);
        spreads.push(Spread {
            name: id.name(),
            unit: id.unit().name(),
            since,
            count: values.count,
            p50: at(500_000),
            p90: at(900_000),
            p99: at(990_000),
            p99_9: at(999_000),
            max: whole.max,
        });
    }
    spreads
}

fn per_second(count: u64, span_ns: u64) -> u64 {
    scale(count, 1_000_000_000, span_ns)
}

/// `count * by / of`, rounded to the nearest; 0 of nothing.
fn scale(count: u64, by: u64, of: u64) -> u64 {
    let product =
        u128::from(count).saturating_mul(u128::from(by)).saturating_add(u128::from(of / 2));
    let quotient = product.checked_div(u128::from(of)).unwrap_or(0);
    u64::try_from(quotient).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_do_not_overflow_and_do_not_divide_by_nothing() {
        assert_eq!(per_second(1_000, 1_000_000_000), 1_000);
        assert_eq!(per_second(3, 2_000_000_000), 2, "rounded");
        assert_eq!(per_second(5, 0), 0);
        assert_eq!(per_second(u64::MAX, 1), u64::MAX);
        assert_eq!(scale(1, 100, 3), 33);
    }
}
