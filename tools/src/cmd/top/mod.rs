//! `spinwire top`: what running planes do, read from their stats pages without disturbing them.
//!
//! | file | what it holds |
//! |---|---|
//! | [`sample`] | two looks at the pages, and the rates between them |
//! | [`text`] | a look as plain text |
//! | [`screen`] | looks one after the other, on a terminal |

mod sample;
mod screen;
mod text;

use core::time::Duration;
use std::io::{self, IsTerminal};
use std::thread;

use clap::Args as ClapArgs;

use self::sample::{Looks, Rates, between, look};
use super::ps::table;
use crate::arguments;
use crate::report::{self, Failure, Verdict};

/// What `spinwire top` takes.
#[derive(Debug, ClapArgs)]
pub(crate) struct Args {
    /// Only these planes; all where none is named. Where it looks twice, a name that is not there is said so, and ends with exit code 1.
    names: Vec<String>,
    /// Milliseconds from one look to the next.
    #[arg(long, value_name = "MS", default_value_t = 1000, value_parser = arguments::whole(10..=3_600_000_u64))]
    interval: u64,
    /// Look twice, print what happened in between, and end. So it is, too, where the output is no terminal.
    #[arg(long)]
    once: bool,
    /// The same as JSON: a list of planes.
    #[arg(long)]
    json: bool,
}

/// Shows planes until it is told to stop, or once.
pub(crate) fn run(args: &Args) -> Result<Verdict, Failure> {
    let interval = Duration::from_millis(args.interval);
    if !args.once && !args.json && io::stdout().is_terminal() {
        screen::run(&args.names, interval)?;
        return Ok(Verdict::Well);
    }
    let before = look(&args.names)?;
    if !before.planes.is_empty() {
        thread::sleep(interval);
    }
    let after = look(&args.names)?;
    let planes = compare(&before, &after);
    let text =
        if args.json { table::json(&planes)? } else { text::in_words(&planes, &after.refused) };
    report::emit(&text)?;
    if args.json {
        for (name, why) in &after.refused {
            let (name, why) = (table::plain(name), table::plain(why));
            report::complain(&format!("spinwire: {name} could not be read: {why}\n"));
        }
    }
    let is_there = |name: &String| {
        after.planes.contains_key(name) || after.refused.iter().any(|(refused, _)| refused == name)
    };
    let missing: Vec<_> = args.names.iter().filter(|name| !is_there(name)).collect();
    for name in &missing {
        let name = table::plain(name);
        report::complain(&format!(
            "spinwire: {name}: no such plane; see all of them: spinwire top\n"
        ));
    }
    Ok(if missing.is_empty() { Verdict::Well } else { Verdict::NotWell })
}

/// What each plane of the later look did since the earlier one.
fn compare(before: &Looks, after: &Looks) -> Vec<Rates> {
    after.planes.iter().map(|(name, look)| between(before.planes.get(name), look)).collect()
}
