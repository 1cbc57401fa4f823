//! The figures of a row, in the columns of its work.

use super::Figures;
use crate::peer::floor;
use crate::work::{Kind, Subject, Work};

/// From this size on, bytes a second say more than a median.
const LONG: u32 = 16 << 10;

/// A name over each figure.
pub(super) fn heads(work: Work) -> String {
    let names: &[&str] = match (work.kind, work.subject) {
        (Kind::Rtt, Subject::Echo { .. }) => &["p50 us", "p99 us", "p99.9 us", "max us", "best"],
        _ if is_long_echo(work) => &["k req/s", "GB/s", "p99 us", "client %", "serv. us", "best"],
        _ if work.is_socket() => &["k req/s", "p50 us", "p99 us", "client %", "serv. us", "best"],
        (Kind::Rtt, _) => &["p50 ns", "p99 ns", "mean ns", "best"],
        (Kind::Stream, _) if !work.is_message() => &["M op/s", "", "", "best"],
        (Kind::Stream, _) => &["M msg/s", "", "GB/s", "best"],
    };
    names.iter().map(|name| format!("{name:>9}")).collect()
}

/// The figures under them.
pub(super) fn figures(work: Work, name: &str, row: &Figures) -> String {
    let bytes = |size: u32| row.p50_or_rate.map(|rate| rate * f64::from(size));
    match (work.kind, work.subject) {
        (Kind::Rtt, Subject::Echo { .. }) => {
            [row.p50_or_rate, row.p99, row.p99_9, row.max, row.best]
                .map(|ns| scaled(ns, 1e3))
                .concat()
        }
        _ if work.is_socket() => {
            let middle = if is_long_echo(work) {
                scaled(bytes(work.size), 1e9)
            } else {
                scaled(row.p50, 1e3)
            };
            let busy = row.client_busy.map(|part| part * 100.0);
            let busy = busy.map_or_else(|| blank("-"), |percent| format!("{percent:>9.0}"));
            let (rate, best) = (scaled(row.p50_or_rate, 1e3), scaled(row.best, 1e3));
            [rate, middle, scaled(row.p99, 1e3), busy, scaled(row.server_ns, 1e3), best].concat()
        }
        (Kind::Rtt, _) => {
            // Of few nanoseconds the tenths count.
            let places = usize::from(!work.is_message());
            [row.p50_or_rate, row.p99, row.mean, row.best].map(|figure| ns(figure, places)).concat()
        }
        (Kind::Stream, _) => {
            let size = if name == floor::NAME { floor::LINE_BYTES } else { work.size };
            let third = if work.is_message() { scaled(bytes(size), 1e9) } else { blank("") };
            [scaled(row.p50_or_rate, 1e6), blank(""), third, scaled(row.best, 1e6)].concat()
        }
    }
}

/// Whether an echo is of many bytes.
fn is_long_echo(work: Work) -> bool {
    matches!(work.subject, Subject::Echo { .. }) && work.size >= LONG
}

fn blank(word: &str) -> String {
    format!("{word:>9}")
}

fn ns(figure: Option<f64>, places: usize) -> String {
    figure.map_or_else(|| blank("-"), |ns| format!("{ns:>9.places$}"))
}

fn scaled(figure: Option<f64>, unit: f64) -> String {
    figure.map_or_else(|| blank("-"), |figure| format!("{:>9.2}", figure / unit))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_figure_stands_under_its_name() {
        for work in Work::ALL {
            let row = figures(work, "somebody", &Figures::default());
            assert_eq!(heads(work).len(), row.len(), "{work}");
        }
    }
}
