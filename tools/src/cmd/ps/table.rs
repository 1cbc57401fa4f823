//! Text for people: columns, sizes, ages.
//!
//! Whatever came out of shared memory or a folder goes through [`plain`] first, so that a name cannot play with the
//! terminal.

use core::fmt::Write as _;

use serde::Serialize;

use crate::report::Failure;

/// Which way a column leans.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Lean {
    /// Words.
    Left,
    /// Numbers.
    Right,
}

/// Rows under a heading, padded to the widest cell of each column.
#[derive(Debug)]
pub(crate) struct Table {
    columns: Vec<(&'static str, Lean)>,
    rows: Vec<Vec<String>>,
}

impl Table {
    /// No rows yet.
    pub(crate) fn new(columns: &[(&'static str, Lean)]) -> Self {
        Self { columns: columns.to_vec(), rows: Vec::new() }
    }

    /// One more row, a cell a column.
    pub(crate) fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        self.rows.push(cells.into_iter().map(|cell| plain(&cell)).collect());
    }

    /// Whether there is nothing to show.
    pub(crate) const fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// The lines, each after `indent`.
    pub(crate) fn text(&self, indent: &str) -> String {
        let heading: Vec<String> =
            self.columns.iter().map(|(title, _)| (*title).to_owned()).collect();
        let lines = || core::iter::once(&heading).chain(&self.rows);
        let widths: Vec<usize> = (0..self.columns.len())
            .map(|at| {
                lines()
                    .filter_map(|row| row.get(at))
                    .map(|cell| cell.chars().count())
                    .max()
                    .unwrap_or(0)
            })
            .collect();
        let mut text = String::new();
        for row in lines() {
            let mut line = String::new();
            for ((cell, width), (_, lean)) in row.iter().zip(&widths).zip(&self.columns) {
                // Writing to a String does not fail.
                let _written = match lean {
                    Lean::Left => write!(line, "{cell:<width$}  "),
                    Lean::Right => write!(line, "{cell:>width$}  "),
                };
            }
            let _written = writeln!(text, "{indent}{}", line.trim_end());
        }
        text
    }
}

/// `text` with control characters and the like made visible.
pub(crate) fn plain(text: &str) -> String {
    let invisible = |c: char| {
        c.is_control()
            || matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{200b}'..='\u{200f}')
    };
    let mut shown = String::with_capacity(text.len());
    for c in text.chars() {
        if invisible(c) { shown.extend(c.escape_default()) } else { shown.push(c) }
    }
    shown
}

/// Columns of the usual terminal.
const WIDTH: usize = 80;

/// Words in lines that fit into the usual terminal, each behind `indent`. A word that is longer has a line of its own.
pub(crate) fn wrapped(indent: &str, words: &str) -> String {
    let mut text = String::new();
    let mut line = String::new();
    for word in words.split(' ') {
        let together = [indent, &line, " ", word].iter().map(|part| part.chars().count()).sum();
        if !line.is_empty() && WIDTH < together {
            text += &format!("{indent}{line}\n");
            line.clear();
        }
        let space = if line.is_empty() { "" } else { " " };
        line += &format!("{space}{word}");
    }
    text + &format!("{indent}{line}\n")
}

/// A number of bytes in words: `18.0 MiB`.
pub(crate) fn bytes(count: u64) -> String {
    scaled(count, 1024, &[" B", " KiB", " MiB", " GiB", " TiB", " PiB", " EiB"])
}

/// A count in words: `1.2 M`.
pub(crate) fn thousands(count: u64) -> String {
    scaled(count, 1000, &["", " k", " M", " G", " T", " P", " E"])
}

/// Nanoseconds in words: `1.2 us`.
pub(crate) fn nanoseconds(ns: u64) -> String {
    if ns < 1_000_000_000 {
        scaled(ns, 1000, &[" ns", " us", " ms"])
    } else {
        scaled(ns / 1_000_000, 1000, &[" ms", " s"])
    }
}

/// The largest unit of which there is at least one, with one digit behind the point.
fn scaled(count: u64, step: u64, units: &[&str]) -> String {
    let mut unit_value = 1_u64;
    let mut chosen = units.first().copied().unwrap_or_default();
    for unit in units.iter().skip(1) {
        match unit_value.checked_mul(step) {
            Some(value) if count >= value => (unit_value, chosen) = (value, unit),
            _ => break,
        }
    }
    if unit_value == 1 {
        return format!("{count}{chosen}");
    }
    let tenths =
        u128::from(count).saturating_mul(10).checked_div(u128::from(unit_value)).unwrap_or(0);
    format!("{}.{}{chosen}", tenths / 10, tenths % 10)
}

/// A span of seconds in words: `3d 4h`, `5m 6s`.
pub(crate) fn age(seconds: u64) -> String {
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86_400);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{seconds}s"),
        (0, 0, _) => format!("{minutes}m {}s", seconds % 60),
        (0, ..) => format!("{hours}h {}m", minutes % 60),
        (..) => format!("{days}d {}h", hours % 24),
    }
}

/// `value` as indented JSON with a newline.
pub(crate) fn json(value: &impl Serialize) -> Result<String, Failure> {
    let mut text = serde_json::to_string_pretty(value)?;
    text.push('\n');
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up() {
        let mut table = Table::new(&[("NAME", Lean::Left), ("PID", Lean::Right)]);
        assert!(table.is_empty());
        table.row(["quotes".to_owned(), "7".to_owned()]);
        table.row(["q".to_owned(), "12345".to_owned()]);
        assert_eq!(table.text("  "), "  NAME      PID\n  quotes      7\n  q       12345\n");
    }

    #[test]
    fn lines_end_before_the_terminal_does() {
        let words = vec!["four"; 40].join(" ");
        let text = wrapped("  ", &words);
        assert!(text.lines().all(|line| line.starts_with("  four") && line.len() <= 80), "{text}");
        assert_eq!(text.split_whitespace().count(), 40);
        assert_eq!(wrapped("  ", &words[..78]).lines().count(), 1, "as many as there is room for");
        assert_eq!(wrapped("  ", &words[..79]).lines().count(), 2);
        assert_eq!(wrapped(" ", &"x".repeat(99)).lines().count(), 1);
    }

    #[test]
    fn names_cannot_play_with_the_terminal() {
        assert_eq!(plain("a\u{1b}[2J\n\u{202e}é"), "a\\u{1b}[2J\\n\\u{202e}é");
    }

    #[test]
    fn numbers_in_words() {
        assert_eq!(
            [bytes(0), bytes(1023), bytes(1024), bytes(u64::MAX)],
            ["0 B", "1023 B", "1.0 KiB", "15.9 EiB"]
        );
        assert_eq!([thousands(999), thousands(1_250_000)], ["999", "1.2 M"]);
        assert_eq!(
            [nanoseconds(5), nanoseconds(1_500), nanoseconds(2_500_000_000)],
            ["5 ns", "1.5 us", "2.5 s"]
        );
        assert_eq!([age(59), age(61), age(3_660), age(90_000)], ["59s", "1m 1s", "1h 1m", "1d 1h"]);
    }
}
