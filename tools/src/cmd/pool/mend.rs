//! `spinwire pool gc` and `spinwire pool rm`.

use clap::Args as ClapArgs;
use serde::Serialize;
use spinwire_hostshim::mem::{self, SegmentName, SharedMapping};
use spinwire_hostshim::pool::reclaim_in;

use super::look;
use crate::cmd::ps::holders::Holders;
use crate::cmd::ps::pools::classes;
use crate::cmd::ps::survey::{What, look_at};
use crate::cmd::ps::table::{emit, json, plain};
use crate::cmd::rm::in_words as rm_in_words;
use crate::cmd::rm::{Action, Asked, Outcome, Ruling, carry_out, judge, not_there};
use crate::report::{Failure, Verdict};

/// What `spinwire pool gc` takes.
#[derive(Debug, ClapArgs)]
pub(crate) struct GcArgs {
    /// The pools; all where none is named.
    names: Vec<String>,
    /// Print JSON: [{"name", "processes", "references", "buffers", "unmarked", "detached"}].
    #[arg(long)]
    json: bool,
}

/// What `spinwire pool rm` takes.
#[derive(Debug, ClapArgs)]
pub(crate) struct RmArgs {
    /// The pools to remove.
    #[arg(required = true)]
    names: Vec<String>,
    /// Also one that a live process has open. It keeps what it has mapped; nobody can open it any more.
    #[arg(long)]
    force: bool,
    /// Only say what would be removed.
    #[arg(long)]
    dry_run: bool,
    /// Print JSON, as `spinwire rm --json` does.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Serialize)]
struct Collected {
    name: String,
    /// Dead processes whose slots are free now.
    processes: u32,
    /// References that were taken from them.
    references: u32,
    /// Buffers that are free because of that.
    buffers: u32,
    /// Free buffers that nobody could have found.
    unmarked: u32,
    /// Buffers that nobody holds and whose references are detached: no garbage, as far as can be told.
    detached: u32,
}

pub(crate) fn collect(args: &GcArgs) -> Result<Verdict, Failure> {
    let names = if args.names.is_empty() { all_pools()? } else { args.names.clone() };
    let mut collected = Vec::new();
    for name in names {
        let done = reclaim_in(&SharedMapping::open(&name)?)?;
        let detached =
            look(&name, |_, pool, _| Ok(classes(pool).iter().map(|class| class.detached).sum()))?;
        collected.push(Collected {
            name,
            processes: done.leases,
            references: done.held,
            buffers: done.freed,
            unmarked: done.found,
            detached,
        });
    }
    emit(&if args.json { json(&collected)? } else { in_words(&collected) })?;
    Ok(Verdict::Well)
}

fn all_pools() -> Result<Vec<String>, Failure> {
    let holders = Holders::look();
    let found = mem::list()?.into_iter().map(|listed| look_at(listed, &holders));
    let pools = found.filter(|found| matches!(found.what, What::Pool { .. }));
    Ok(pools.map(|found| found.name).collect())
}

fn in_words(collected: &[Collected]) -> String {
    if collected.is_empty() {
        return "No pools.\n".to_owned();
    }
    let line = |c: &Collected| {
        let name = plain(&c.name);
        let kept = match c.detached {
            0 => String::new(),
            many => format!("; {many} buffers are detached, and belong to whoever knows their ids"),
        };
        if (c.processes, c.references, c.unmarked) == (0, 0, 0) {
            return format!("{name}: nothing to take back{kept}\n");
        }
        format!(
            "{name}: {} references taken back from {} dead processes, {} buffers freed, {} found{kept}\n",
            c.references, c.processes, c.buffers, c.unmarked
        )
    };
    collected.iter().map(line).collect()
}

pub(crate) fn remove(args: &RmArgs) -> Result<Verdict, Failure> {
    for name in &args.names {
        SegmentName::new(name)?;
    }
    let listed: Vec<_> =
        mem::list()?.into_iter().filter(|l| args.names.contains(&l.name)).collect();
    let missing = args.names.iter().filter(|name| !listed.iter().any(|l| l.name == **name));
    let mut outcomes: Vec<Outcome> = missing.map(|name| not_there(name)).collect();
    let holders = Holders::look();
    for l in listed {
        let found = look_at(l, &holders);
        let ruling = match (&found.what, judge(&found, Asked::ByName)) {
            (What::Pool { .. }, Ruling::Keep { why, .. }) if args.force => Ruling::Remove { why },
            (What::Pool { .. }, Ruling::Keep { why, remedy }) => {
                let remedy = format!("{remedy}; or: spinwire pool rm --force {}", found.name);
                Ruling::Keep { why, remedy }
            }
            (What::Pool { .. }, ruling) => ruling,
            _ => Ruling::Keep {
                why: "it is no pool".to_owned(),
                remedy: format!("see what it is: spinwire ps {}", found.name),
            },
        };
        outcomes.push(carry_out(&found, ruling, args.dry_run));
    }
    emit(&if args.json { json(&outcomes)? } else { rm_in_words(&outcomes) })?;
    let all_gone = outcomes.iter().all(|outcome| outcome.action != Action::Kept);
    Ok(if all_gone { Verdict::Well } else { Verdict::NotWell })
}
