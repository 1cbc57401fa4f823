//! `spinwire doctor`: what stands between this machine and low latency, and the command that mends it.
//!
//! The checks are those of [`spinwire_hostshim::preflight`]; here they are only printed. Nothing is changed.

use core::fmt::Write;
use std::env;
use std::io::{self, IsTerminal};

use clap::Args as ClapArgs;
use serde::Serialize;
use spinwire_hostshim::preflight::{Check, Probe, Verdict as Finding};

use super::ps::table;
use crate::report::{self, Failure, Verdict};

/// What `spinwire doctor` takes.
#[derive(Debug, ClapArgs)]
pub(crate) struct Args {
    /// Print JSON: {"verdict", "checks": [{"id", "title", "verdict", "found", "why", "remedy"}]}.
    #[arg(long)]
    json: bool,
}

/// The report as JSON.
#[derive(Debug, Serialize)]
struct Report<'a> {
    verdict: String,
    checks: Vec<Row<'a>>,
}

#[derive(Debug, Serialize)]
struct Row<'a> {
    id: &'a str,
    title: &'a str,
    verdict: String,
    found: &'a str,
    why: &'a str,
    remedy: Option<&'a str>,
}

/// Looks at the machine. Not well where something would hurt latency.
pub(crate) fn run(args: &Args) -> Result<Verdict, Failure> {
    let checks = Probe::live().run();
    let text = if args.json {
        table::json(&report(&checks))?
    } else {
        let paint = io::stdout().is_terminal() && env::var_os("NO_COLOR").is_none();
        in_words(&checks, if paint { Ink::Colour } else { Ink::Plain })
    };
    report::emit(&text)?;
    let hurts = checks.iter().any(|check| check.verdict.hurts());
    Ok(if hurts { Verdict::NotWell } else { Verdict::Well })
}

fn report(checks: &[Check]) -> Report<'_> {
    let rows = checks.iter().map(|check| Row {
        id: check.id,
        title: check.title,
        verdict: check.verdict.to_string(),
        found: &check.found,
        why: check.why,
        remedy: check.remedy.as_deref(),
    });
    // What cannot be found out is no complaint, so the whole is well all the same.
    let worst = checks.iter().map(|check| check.verdict).filter(|verdict| verdict.hurts()).max();
    Report { verdict: worst.unwrap_or(Finding::Ok).to_string(), checks: rows.collect() }
}

/// Whether escape sequences are wanted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Ink {
    Colour,
    Plain,
}

impl Ink {
    /// `text` in the colour of an SGR number.
    fn paint(self, sgr: &str, text: &str) -> String {
        match self {
            Self::Colour => format!("\u{1b}[{sgr}m{text}\u{1b}[0m"),
            Self::Plain => text.to_owned(),
        }
    }
}

const fn sgr(finding: Finding) -> &'static str {
    match finding {
        Finding::Ok => "32",
        Finding::Unknown => "2",
        Finding::Warn => "33",
        Finding::Bad => "1;31",
    }
}

fn in_words(checks: &[Check], ink: Ink) -> String {
    let mut text = String::new();
    for check in checks {
        // Padded before it is painted: escape sequences have no width.
        let mark = ink.paint(sgr(check.verdict), &format!("{:>7}", check.verdict));
        let title = ink.paint("1", check.title);
        let found = table::plain(&check.found);
        let why = ink.paint("2", check.why);
        // Writing to a String does not fail.
        let _written = writeln!(text, "{mark}  {title}: {found}\n         {why}");
        if let Some(remedy) = &check.remedy {
            let _written =
                writeln!(text, "         mend it: {}", ink.paint("36", &table::plain(remedy)));
        }
    }
    let _written = writeln!(text, "\n{}", summary(checks));
    text
}

fn summary(checks: &[Check]) -> String {
    let count = |wanted| checks.iter().filter(|check| check.verdict == wanted).count();
    let (bad, warn) = (count(Finding::Bad), count(Finding::Warn));
    let rest = format!("{} ok, {} unknown", count(Finding::Ok), count(Finding::Unknown));
    match (bad, warn) {
        (0, 0) => format!("Nothing found that would hurt latency ({rest})."),
        (0, _) => format!("{warn} found that cost some latency ({rest})."),
        (..) => format!("{bad} found that cost much latency, {warn} that cost some ({rest})."),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn checks() -> Vec<Check> {
        let check = |id, verdict, remedy: Option<&str>| Check {
            id,
            title: "a title",
            verdict,
            found: "two\u{1b}[31m".to_owned(),
            why: "because",
            remedy: remedy.map(str::to_owned),
        };
        vec![
            check("a", Finding::Ok, None),
            check("b", Finding::Bad, Some("sysctl x=1")),
            check("c", Finding::Warn, Some("sysctl y=1")),
            check("d", Finding::Unknown, None),
        ]
    }

    #[test]
    fn every_check_is_there_with_its_reason_and_remedy() {
        let text = in_words(&checks(), Ink::Plain);
        assert_eq!(text.matches("because").count(), 4, "{text}");
        assert!(text.contains("mend it: sysctl x=1"), "{text}");
        assert!(
            text.ends_with("1 found that cost much latency, 1 that cost some (1 ok, 1 unknown).\n"),
            "{text}"
        );
        assert!(
            !text.contains('\u{1b}'),
            "no escape sequences where they are not wanted: {text:?}"
        );
        assert!(in_words(&checks(), Ink::Colour).contains("\u{1b}[1;31m    bad\u{1b}[0m"));
    }

    #[test]
    fn the_verdict_is_that_of_the_worst() {
        let mut checks = checks();
        assert_eq!(report(&checks).verdict, "bad");
        checks.retain(|check| check.verdict != Finding::Bad);
        assert_eq!(report(&checks).verdict, "warn");
        checks.retain(|check| check.verdict == Finding::Unknown);
        assert_eq!(report(&checks).verdict, "ok", "what is unknown is no complaint");
        assert!(summary(&checks).starts_with("Nothing found"));
    }
}
