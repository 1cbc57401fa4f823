//! One look as plain text.

use core::fmt::Write;

use super::sample::{PathLine, Rates, Since, Spread};
use crate::cmd::ps::survey::word;
use crate::cmd::ps::table::{Lean, Table, bytes, nanoseconds, plain, thousands};

/// The columns of the list of planes.
pub(super) const COLUMNS: [(&str, Lean); 12] = [
    ("PLANE", Lean::Left),
    ("PID", Lean::Right),
    ("CPU", Lean::Right),
    ("PATH", Lean::Left),
    ("STATE", Lean::Left),
    ("SENT/S", Lean::Right),
    ("RECEIVED/S", Lean::Right),
    ("OUT/S", Lean::Right),
    ("IN/S", Lean::Right),
    ("TURNS/S", Lean::Right),
    ("BUSY", Lean::Right),
    ("TROUBLE", Lean::Left),
];

/// One plane as a row of that list.
pub(super) fn cells(rates: &Rates) -> [String; 12] {
    [
        plain(&rates.row.name),
        rates.row.party.pid.to_string(),
        rates.row.cpu.map_or_else(|| "-".to_owned(), |cpu| cpu.to_string()),
        rates.row.path.as_deref().map_or_else(|| "-".to_owned(), plain),
        state(rates),
        thousands(rates.messages_sent_per_s),
        thousands(rates.messages_received_per_s),
        bytes(rates.bytes_sent_per_s),
        bytes(rates.bytes_received_per_s),
        thousands(rates.turns_per_s),
        format!("{}%", rates.busy_percent),
        trouble(rates),
    ]
}

/// Alive, but not turning, is worth a word of its own.
fn state(rates: &Rates) -> String {
    match (word(&rates.row.party.life), rates.span_ns) {
        ("alive", 0) => "still".to_owned(),
        (word, _) => word.to_owned(),
    }
}

fn trouble(rates: &Rates) -> String {
    let t = &rates.trouble;
    let kinds = [
        ("retries", t.retries),
        ("stalls", t.stalls),
        ("stale", t.stale),
        ("corrupt", t.corrupt),
        ("gone", t.peers_gone),
    ];
    let words: Vec<String> = kinds
        .iter()
        .filter(|(_, count)| *count > 0)
        .map(|(name, count)| format!("{name} {}", thousands(*count)))
        .collect();
    if words.is_empty() { "-".to_owned() } else { words.join(", ") }
}

/// The columns of the list of histograms.
pub(super) const SPREAD_COLUMNS: [(&str, Lean); 7] = [
    ("HISTOGRAM", Lean::Left),
    ("VALUES", Lean::Right),
    ("P50", Lean::Right),
    ("P90", Lean::Right),
    ("P99", Lean::Right),
    ("P99.9", Lean::Right),
    ("MAX", Lean::Right),
];

/// One histogram as a row of that list.
pub(super) fn spread_cells(spread: &Spread) -> [String; 7] {
    let value = |value| match spread.unit {
        "ns" => nanoseconds(value),
        "bytes" => bytes(value),
        _ => value.to_string(),
    };
    let old = if spread.since == Since::Start { " (since start)" } else { "" };
    [
        format!("{}{old}", spread.name),
        thousands(spread.count),
        value(spread.p50),
        value(spread.p90),
        value(spread.p99),
        value(spread.p99_9),
        value(spread.max),
    ]
}

/// The columns of the list of paths.
pub(super) const PATH_COLUMNS: [(&str, Lean); 9] = [
    ("PATH", Lean::Left),
    ("DEVICE", Lean::Right),
    ("QP", Lean::Right),
    ("HEALTH", Lean::Left),
    ("IN FLIGHT", Lean::Right),
    ("FRAGMENTS/S", Lean::Right),
    ("OUT/S", Lean::Right),
    ("ERRORS", Lean::Right),
    ("STALE", Lean::Right),
];

/// One path of a virtual queue pair as a row of that list.
pub(super) fn path_cells(path: &PathLine) -> [String; 9] {
    [
        format!("{}.{}", path.vqp, path.path),
        path.device.to_string(),
        path.qp_num.to_string(),
        path.health.to_owned(),
        path.in_flight.to_string(),
        thousands(path.fragments_per_s),
        bytes(path.bytes_per_s),
        thousands(path.errors),
        thousands(path.stale),
    ]
}

/// All planes, each with its histograms and paths.
pub(super) fn in_words(planes: &[Rates], refused: &[(String, String)]) -> String {
    let mut text = String::new();
    if planes.is_empty() {
        text.push_str("No planes.\n");
    } else {
        let mut table = Table::new(&COLUMNS);
        planes.iter().for_each(|rates| table.row(cells(rates)));
        text.push_str(&table.text(""));
    }
    for rates in planes.iter().filter(|rates| !rates.histograms.is_empty()) {
        let mut table = Table::new(&SPREAD_COLUMNS);
        rates.histograms.iter().for_each(|spread| table.row(spread_cells(spread)));
        // Writing to a String does not fail.
        let _written = write!(text, "\n{}\n{}", plain(&rates.row.name), table.text("  "));
    }
    for rates in planes.iter().filter(|rates| !rates.paths.is_empty()) {
        let mut table = Table::new(&PATH_COLUMNS);
        rates.paths.iter().for_each(|path| table.row(path_cells(path)));
        let _written = write!(text, "\n{}\n{}", plain(&rates.row.name), table.text("  "));
    }
    for (name, why) in refused {
        let _written = writeln!(text, "\n{} could not be read: {}", plain(name), plain(why));
    }
    text
}
