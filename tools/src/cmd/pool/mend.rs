//! `spinwire pool gc` and `spinwire pool rm`.

use core::time::Duration;

use clap::Args as ClapArgs;
use serde::Serialize;
use spinwire_dataplane::pool::{BufferRow, PoolSegment};
use spinwire_hostshim::mem::{self, SegmentName, SharedMapping};
use spinwire_hostshim::pool::{detacher, free_detached_in, reclaim_in};
use spinwire_layouts::shm::SegmentHeader;

use super::look_in;
use crate::arguments;
use crate::cmd::ps::holders::Holders;
use crate::cmd::ps::pools::classes;
use crate::cmd::ps::survey::{What, look_at, members};
use crate::cmd::ps::table::{json, plain};
use crate::cmd::rm::in_words as rm_in_words;
use crate::cmd::rm::{Action, Asked, Outcome, Ruling, carry_out, judge, not_there};
use crate::report::{Failure, Verdict, emit};

/// What `spinwire pool gc` takes.
#[derive(Debug, ClapArgs)]
pub(crate) struct GcArgs {
    /// The pools; all where none is named.
    names: Vec<String>,
    /// Also free buffers that nobody holds and that were left by handles which are gone: closed, or of a dead process. An id that
    /// is still under way to somebody turns stale.
    #[arg(long, requires = "names")]
    detached: bool,
    /// With --detached: only those that nobody touches for so many seconds.
    #[arg(long, value_name = "SECONDS", default_value = "2", requires = "detached", value_parser = arguments::seconds)]
    untouched: Duration,
    /// Print JSON: [{"name", "processes", "references", "buffers", "unmarked", "freed": [..], "detached", "left", "error"}].
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

#[derive(Debug, Default, Serialize)]
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
    /// Ids of the buffers that --detached has freed.
    freed: Vec<String>,
    /// Buffers that nobody holds and whose references are detached: no garbage, as far as can be told.
    detached: u32,
    /// Of these, those whose detacher has left.
    left: u32,
    /// Why it could not be looked at.
    error: Option<String>,
}

pub(crate) fn collect(args: &GcArgs) -> Result<Verdict, Failure> {
    let names = if args.names.is_empty() { all_pools()? } else { args.names.clone() };
    let mut collected = Vec::new();
    for name in names {
        match collect_one(&name, args) {
            Ok(done) => collected.push(done),
            // One that was named alone has no list to be part of.
            Err(e) if args.names.len() == 1 => return Err(e),
            Err(e) => {
                let error = Some(e.to_string());
                collected.push(Collected { name, error, ..Collected::default() });
            }
        }
    }
    emit(&if args.json { json(&collected)? } else { in_words(&collected) })?;
    let all_seen = collected.iter().all(|c| c.error.is_none());
    Ok(if all_seen { Verdict::Well } else { Verdict::NotWell })
}

fn collect_one(name: &str, args: &GcArgs) -> Result<Collected, Failure> {
    let mapping = SharedMapping::look(name)?;
    let done = reclaim_in(&mapping)?;
    let freed = if args.detached {
        let rows = look_in(&mapping, |pool, header| Ok(left_behind(pool, header)))?;
        if !rows.is_empty() {
            std::thread::sleep(args.untouched);
        }
        free_detached_in(&mapping, &rows)?
    } else {
        Vec::new()
    };
    let (detached, left) = look_in(&mapping, |pool, header| {
        Ok((classes(pool).iter().map(|c| c.detached).sum(), left_behind(pool, header).len()))
    })?;
    Ok(Collected {
        name: name.to_owned(),
        processes: done.leases,
        references: done.held,
        buffers: done.freed,
        unmarked: done.found,
        freed: freed.iter().map(|row| row.id.to_string()).collect(),
        detached,
        left: u32::try_from(left).unwrap_or(u32::MAX),
        error: None,
    })
}

/// Buffers that nobody holds, and whose last detacher has closed its handle or is dead.
fn left_behind(pool: &PoolSegment<'_>, header: &SegmentHeader) -> Vec<BufferRow> {
    let processes = members(pool, header);
    let is_there = |row: &BufferRow| {
        let its = detacher(pool, row);
        processes.iter().any(|process| Some(process.slot) == its && process.party.may_live())
    };
    let unheld = |row: &BufferRow| row.word.holders == 0 && row.word.detached > 0;
    pool.rows().filter(|row| unheld(row) && !row.word.writer && !is_there(row)).collect()
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
    collected.iter().map(line).collect()
}

fn line(c: &Collected) -> String {
    let name = plain(&c.name);
    if let Some(error) = &c.error {
        return format!("{name}: {}\n", plain(error));
    }
    let mut parts = Vec::new();
    if (c.processes, c.references) != (0, 0) {
        parts.push(format!(
            "{} taken back from {}, {} freed",
            count(c.references, "reference"),
            count(c.processes, "dead handle"),
            count(c.buffers, "buffer")
        ));
    }
    if c.unmarked > 0 {
        parts.push(format!(
            "{} found that nobody could have found",
            count(c.unmarked, "free buffer")
        ));
    }
    if !c.freed.is_empty() {
        let many = u32::try_from(c.freed.len()).unwrap_or(u32::MAX);
        parts.push(format!("{} freed: {}", count(many, "detached buffer"), c.freed.join(" ")));
    }
    if parts.is_empty() {
        parts.push("nothing to take back".to_owned());
    }
    if c.detached > 0 {
        let belong = if c.detached == 1 { "belongs" } else { "belong" };
        parts.push(format!(
            "{} {belong} to whoever knows the id",
            count(c.detached, "detached buffer")
        ));
    }
    if c.left > 0 {
        let those = match (c.left, c.detached) {
            (1, 1) => "it".to_owned(),
            (left, all) if left == all => "them".to_owned(),
            (left, _) => format!("{left} of them"),
        };
        parts.push(format!(
            "who detached {those} has left; if nobody was told: spinwire pool gc --detached {name}"
        ));
    }
    format!("{name}: {}\n", parts.join("; "))
}

/// `1 buffer`, `2 buffers`.
fn count(many: u32, what: &str) -> String {
    format!("{many} {what}{}", if many == 1 { "" } else { "s" })
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
            (What::Broken { .. } | What::Private, keep @ Ruling::Keep { .. }) => keep,
            (What::Broken { .. }, Ruling::Remove { why }) => {
                Ruling::Keep { why, remedy: format!("spinwire rm {}", found.name) }
            }
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
