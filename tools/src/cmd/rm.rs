//! `spinwire rm`: removes what dead owners left behind, and nothing else.
//!
//! ```text
//!   domain   a live process is in it                        kept: who, and how to end it
//!            nobody is in it, somebody has it mapped        kept: may be joining
//!            nobody                                         removed; by --dead only if the creator is dead, too
//!   pool     as a domain                                    its large buffers are removed with it
//!   buffer   its pool is there, or somebody has it mapped   kept
//!            neither                                        removed
//!   stats    its plane lives                                kept
//!            its plane is dead                              removed
//!   private  another user's                                 kept
//!   broken   not made by Spinwire                           kept
//!            somebody has it mapped, or is making it        kept
//!            cut off, damaged, unfinished, other version    removed
//! ```
//!
//! A process that is stopped lives. Removing takes the name away, of exactly the file that was looked at; who has it mapped
//! keeps the memory.

use clap::Args as ClapArgs;
use serde::Serialize;
use spinwire_dataplane::pool::PoolSegment;
use spinwire_dataplane::shm::{Segment, copy_header};
use spinwire_hostshim::liveness::Life;
use spinwire_hostshim::mem::{self, MapError, SegmentDir, SegmentName};
use spinwire_hostshim::pool::{self, large_prefix};

use super::ps::holders::Holders;
use super::ps::survey::{Content, Found, Party, Process, What, claim_of, look_at, processes};
use super::ps::{kind, table};
use crate::report::{self, Failure, Verdict};

/// What `spinwire rm` takes.
#[derive(Debug, ClapArgs)]
pub(crate) struct Args {
    /// The segments to remove. One that a live process is in is kept.
    #[arg(required_unless_present = "dead", conflicts_with = "dead")]
    names: Vec<String>,
    /// Remove whatever dead owners left behind.
    #[arg(long)]
    dead: bool,
    /// Only say what would be removed.
    #[arg(long)]
    dry_run: bool,
    /// Print JSON: [{"name", "kind", "action": "removed"|"would_remove"|"kept", "why", "remedy"}].
    #[arg(long)]
    json: bool,
}

/// What becomes of one name.
#[derive(Debug, Serialize)]
pub(crate) struct Outcome {
    pub(crate) name: String,
    pub(crate) kind: &'static str,
    pub(crate) action: Action,
    pub(crate) why: String,
    pub(crate) remedy: Option<String>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Action {
    Removed,
    WouldRemove,
    Kept,
}

/// What ought to become of it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Ruling {
    Remove { why: String },
    Keep { why: String, remedy: String },
}

fn remove(why: impl Into<String>) -> Ruling {
    Ruling::Remove { why: why.into() }
}

fn keep(why: impl Into<String>, remedy: impl Into<String>) -> Ruling {
    Ruling::Keep { why: why.into(), remedy: remedy.into() }
}

/// How a segment came to be looked at.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Asked {
    ByName,
    Sweep,
}

/// Removes. Not well where something that was named is kept, or a removal failed.
pub(crate) fn run(args: &Args) -> Result<Verdict, Failure> {
    for name in &args.names {
        SegmentName::new(name)?;
    }
    let asked = if args.dead { Asked::Sweep } else { Asked::ByName };
    let wanted = |name: &String| asked == Asked::Sweep || args.names.contains(name);
    let listed: Vec<_> = mem::list()?.into_iter().filter(|l| wanted(&l.name)).collect();
    let missing = args.names.iter().filter(|name| !listed.iter().any(|l| l.name == **name));
    let mut outcomes: Vec<Outcome> = missing.map(|name| not_there(name)).collect();
    let holders = Holders::look();
    let mut well = outcomes.is_empty();
    for l in listed {
        // Gone with its pool, which came before it.
        if asked == Asked::Sweep && l.path.symlink_metadata().is_err() {
            continue;
        }
        let found = look_at(l, &holders);
        let ruling = judge(&found, asked);
        // What lives is no failure of a sweep.
        well &= asked == Asked::Sweep || matches!(ruling, Ruling::Remove { .. });
        let outcome = carry_out(&found, ruling, args.dry_run);
        well &= outcome.remedy.is_none() || outcome.action == Action::Kept && asked == Asked::Sweep;
        outcomes.push(outcome);
    }
    let text = if args.json { table::json(&outcomes)? } else { in_words(&outcomes) };
    report::emit(&text)?;
    Ok(if well { Verdict::Well } else { Verdict::NotWell })
}

pub(crate) fn not_there(name: &str) -> Outcome {
    Outcome {
        name: name.to_owned(),
        kind: "missing",
        action: Action::Kept,
        why: "there is no such segment".to_owned(),
        remedy: Some("see what there is: spinwire ps".to_owned()),
    }
}

pub(crate) fn judge(found: &Found, asked: Asked) -> Ruling {
    match &found.what {
        What::Domain { processes, .. } | What::Pool { processes, .. } => {
            judge_domain(found, processes, asked)
        }
        What::Buffer { pool: Some(pool) } => keep(
            format!("it is a large buffer of the pool {pool}"),
            format!("remove the pool, and it goes with it: spinwire rm {pool}"),
        ),
        What::Buffer { pool: None } => match found.mapped_by.first() {
            Some(pid) => keep(
                format!("its pool is gone, but process {pid} has it mapped"),
                format!("end it first: kill {pid}"),
            ),
            None => remove("its pool is gone"),
        },
        What::Stats { plane } => {
            let parties = [found.creator.as_ref(), plane.as_ref().map(|plane| &plane.party)];
            match parties.into_iter().flatten().find(|party| party.may_live()) {
                Some(party) => {
                    keep(format!("its plane lives: process {}", named(party)), end(party))
                }
                None => remove("its plane is dead"),
            }
        }
        // Whether it is in use can be seen by nobody else.
        What::Private => keep(
            format!("it belongs to user {}", found.uid),
            format!("sudo -u '#{}' spinwire rm {}", found.uid, found.name),
        ),
        What::Broken { why, content } => judge_broken(found, why, *content),
    }
}

fn judge_domain(found: &Found, processes: &[Process], asked: Asked) -> Ruling {
    if let Some(live) = processes.iter().find(|p| p.party.may_live()) {
        let others = match processes.iter().filter(|p| p.party.may_live()).count() {
            1 => String::new(),
            many => format!(", and {} more", many.saturating_sub(1)),
        };
        let why =
            format!("a live process is in it: {} {}{others}", named(&live.party), live.command);
        return keep(why, end(&live.party));
    }
    if let Some(pid) = found.mapped_by.first() {
        return keep(format!("process {pid} has it mapped, and may be about to join"), "try again");
    }
    match &found.creator {
        Some(creator) if asked == Asked::Sweep && creator.may_live() => keep(
            format!("nobody is in it, but its creator lives: process {}", named(creator)),
            format!("remove it by its name: spinwire rm {}", found.name),
        ),
        Some(_) | None if processes.is_empty() => remove("nobody is in it"),
        Some(_) | None => remove("all who were in it are dead"),
    }
}

fn judge_broken(found: &Found, why: &str, content: Content) -> Ruling {
    // What was found says what to do about it, too; here something else is done.
    let why = why.split("; remedy:").next().unwrap_or(why);
    let by_hand = format!("if you know what it is: rm {}", found.path.display());
    if SegmentName::new(&found.name).is_err() {
        return keep(format!("no segment: {why}"), by_hand);
    }
    if content == Content::Foreign || content == Content::Unreadable {
        return keep(format!("not a segment of this user: {why}"), by_hand);
    }
    if let Some(pid) = found.mapped_by.first() {
        if content == Content::Link {
            return keep(format!("process {pid} has it mapped, and may be making it"), "try again");
        }
        return keep(
            format!("process {pid} has it mapped ({why})"),
            format!("end it first: kill {pid}"),
        );
    }
    remove(format!("broken, and nobody has it mapped: {why}"))
}

fn named(party: &Party) -> String {
    if party.life == Life::Alive {
        party.pid.to_string()
    } else {
        format!("{} ({})", party.pid, party.life)
    }
}

fn end(party: &Party) -> String {
    match party.life {
        Life::Stopped => {
            format!("let it go on: kill -CONT {0}; or end it: kill -KILL {0}", party.pid)
        }
        Life::Alive | Life::Dead(_) | Life::Unknown(_) => {
            format!("end it first: kill {}", party.pid)
        }
    }
}

pub(crate) fn carry_out(found: &Found, ruling: Ruling, dry_run: bool) -> Outcome {
    let outcome = |action, why, remedy| Outcome {
        name: found.name.clone(),
        kind: kind(found),
        action,
        why,
        remedy,
    };
    match ruling {
        Ruling::Keep { why, remedy } => outcome(Action::Kept, why, Some(remedy)),
        Ruling::Remove { why } if dry_run => outcome(Action::WouldRemove, why, None),
        Ruling::Remove { why } => match take_name(found) {
            Ok(true) => match newcomer(found) {
                None => outcome(Action::Removed, why, None),
                Some(pid) => {
                    let why = format!(
                        "{why}; but process {pid} joined while it was removed, and is alone in it now"
                    );
                    outcome(Action::Removed, why, Some(format!("start process {pid} anew")))
                }
            },
            Ok(false) => outcome(
                Action::Kept,
                "somebody else removed or replaced it meanwhile".to_owned(),
                Some("see what there is: spinwire ps".to_owned()),
            ),
            Err(e) => outcome(Action::Kept, e.to_string(), Some("see the reason".to_owned())),
        },
    }
}

/// Removes the name if it still stands for what was looked at.
fn take_name(found: &Found) -> Result<bool, MapError> {
    match &found.mapping {
        Some(mapping) => {
            let header = copy_header(mapping.lines()).ok();
            let taken = mapping.unlink()?;
            if let (true, What::Pool { .. }, Some(header)) = (taken, &found.what, header) {
                let prefix = large_prefix(&found.name, &header);
                pool::unlink_large(&SegmentDir::from_env(), &prefix)?;
            }
            Ok(taken)
        }
        None if claim_of(&found.path) != found.claim => Ok(false),
        None => mem::unlink(&found.name).map(|()| true),
    }
}

/// A live process that got into it between the look and the removal.
fn newcomer(found: &Found) -> Option<u32> {
    let lines = found.mapping.as_ref()?.lines();
    let boot_id = copy_header(lines).ok()?.boot_id;
    let members = match &found.what {
        What::Domain { .. } => processes(&Segment::attach(lines).ok()?, boot_id),
        What::Pool { .. } => processes(&PoolSegment::attach(lines).ok()?, boot_id),
        What::Stats { .. } | What::Buffer { .. } | What::Private | What::Broken { .. } => {
            Vec::new()
        }
    };
    members.iter().find(|p| p.party.may_live()).map(|p| p.party.pid)
}

pub(crate) fn in_words(outcomes: &[Outcome]) -> String {
    if outcomes.is_empty() {
        return "Nothing to remove.\n".to_owned();
    }
    let line = |o: &Outcome| {
        let action = match o.action {
            Action::Removed => "removed",
            Action::WouldRemove => "would remove",
            Action::Kept => "kept",
        };
        let remedy = o
            .remedy
            .as_ref()
            .map_or_else(String::new, |r| format!("; remedy: {}", table::plain(r)));
        format!("{action} {}: {}{remedy}\n", table::plain(&o.name), table::plain(&o.why))
    };
    outcomes.iter().map(line).collect()
}
