//! The report for people.

use super::{Report, Row, State, columns};
use crate::bar::{Judged, Verdict};
use crate::work::Work;

const LEGEND: &str = "\
Figures are medians over the rounds. Ratios are medians over those rounds whose floors agree within
25 %; `rounds` says how many did. `spinw/this` is Spinwire over this row: of a time less is better,
of a rate more. `x floor` of a stream is in bytes. Set against `spinwire tagged`: UCX, iceoryx2 and
libfabric; against `spinwire`: rtrb; against `spinwire pool`: `iceoryx2 loan`; against `two
processes`: `one process`. The floor of the pool's works is two compare-and-swaps (bare swaps).
Over TCP: `spinwire echo` and `spinwire resp` against everybody; the floor is one connection of plain
sockets on which both sides spin. `client %` is how much of its time the client needs for so many
requests; at 100 it goes no faster, and a quicker server would show no higher rate. `bare` behind a bar
is what bare sockets reach against the same row in this run, for a bar beyond that is out of reach. `serv. us`, and
`server` of spinw/this, is what a request costs the server of its processor: another measure, and no
bar is held against it. It says what a server could do beside clients that are no limit.";

/// Prints the table.
pub(crate) fn print(report: &Report<'_>) {
    print_head(report);
    let mut last = None;
    for row in &report.rows {
        if last != Some(row.work) {
            print_work(row.work);
            last = Some(row.work);
        }
        println!("{}", line(row, &report.bars));
    }
    print_foot(report);
}

fn print_head(report: &Report<'_>) {
    let machine = &report.machine;
    println!(
        "{} / Linux {} / processors {} and {} / {} rounds / clock step {:.1} ns / load {}",
        machine.model,
        machine.kernel,
        machine.cpus[0],
        machine.cpus[1],
        machine.rounds,
        machine.clock_step_ns,
        machine.load
    );
    for found in report.found {
        match (&found.what, &found.skipped) {
            (Some(what), _) => println!("  {:<18}{what}", found.name),
            (None, Some(why)) => println!("  {:<18}SKIPPED: {why}", found.name),
            (None, None) => {}
        }
    }
}

fn print_work(work: Work) {
    let by = if work.is_socket() { "by p99" } else { "by mean" };
    let by_server = if work.is_socket() { "  server" } else { "" };
    println!(
        "\n{:<20}{} |{:>8}{:>8} |{:>11}{:>8}{:>8}{by_server}{:>7}  bar",
        work.to_string(),
        columns::heads(work),
        "x floor",
        "best",
        "spinw/this",
        by,
        "best",
        "rounds",
    );
}

/// One row as a line.
fn line(row: &Row<'_>, bars: &[Judged]) -> String {
    let name = format!("  {:<18}", row.name);
    let figures = match &row.state {
        State::Skipped(why) => return format!("{name}  NOT MEASURED: {why}"),
        State::Failed(why) => return format!("{name}  FAILED: {why}"),
        State::Measured(figures) => columns::figures(row.work, row.name, figures),
    };
    let to_floor = row.to_floor.unwrap_or_default();
    let floor_part = format!("{}{}", times(to_floor.median, 8), times(to_floor.best, 8));
    let ratio = row.rival.map(|rival| rival.ratio);
    let rounds = ratio
        .or(row.to_floor)
        .map_or_else(String::new, |ratio| format!("{}/{}", ratio.pairs, ratio.rounds));
    let rival = ratio.unwrap_or_default();
    let is_socket = row.work.is_socket();
    let rival_part = format!(
        "{}{}{}{}{rounds:>7}",
        times(rival.median, 11),
        times(if is_socket { rival.by_p99 } else { rival.by_mean }, 8),
        times(rival.best, 8),
        if is_socket { times(rival.by_server, 8) } else { String::new() }
    );
    let line = format!("{name}{figures} |{floor_part} |{rival_part}  {}", bar_words(row, bars));
    line.trim_end().to_owned()
}

/// The bars that belong to a row: on a peer's row those against it, on a Spinwire row those against
/// the floor.
fn bar_words(row: &Row<'_>, bars: &[Judged]) -> String {
    let belongs = |judged: &&Judged| {
        let at = if judged.bar.is_against_floor() { judged.bar.ours } else { judged.bar.theirs };
        judged.bar.work == row.work && at == row.name
    };
    let words: Vec<String> = bars.iter().filter(belongs).map(Judged::words).collect();
    words.join(", ")
}

fn print_foot(report: &Report<'_>) {
    println!();
    if !report.bars.is_empty() {
        let count = |is: fn(&Verdict) -> bool| {
            report.bars.iter().filter(|judged| is(&judged.verdict)).count()
        };
        println!(
            "bars: {} met, {} missed, {} unknown",
            count(|verdict| *verdict == Verdict::Met),
            count(|verdict| *verdict == Verdict::Missed),
            count(|verdict| matches!(verdict, Verdict::Unknown(_))),
        );
    }
    for note in &report.notes {
        println!("note: {note}.");
    }
    println!("{LEGEND}");
}

fn times(ratio: Option<f64>, width: usize) -> String {
    ratio.map_or_else(|| " ".repeat(width), |ratio| format!("{ratio:>width$.2}"))
}
