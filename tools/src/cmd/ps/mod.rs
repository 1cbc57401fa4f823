//! `spinwire ps`: what segments exist, how large and how old they are, and who is in them.
//!
//! | file | what it holds |
//! |---|---|
//! | [`survey`] | the facts, which `rm` judges by too |
//! | [`pools`] | what is in a pool, for `ps`, `rm` and `pool` |
//! | [`holders`] | who has a file mapped, as the kernel tells |
//! | [`table`] | columns, sizes, ages, and the way out |

pub(crate) mod holders;
pub(crate) mod pools;
pub(crate) mod survey;
pub(crate) mod table;

use core::fmt::Write;

use clap::Args as ClapArgs;
use spinwire_hostshim::mem;

use self::holders::Holders;
use self::pools::Class;
use self::survey::{Found, Process, What, look_at, word};
use self::table::{Lean, Table, age, bytes};
use crate::report::{self, Failure, Verdict};

/// What `spinwire ps` takes.
#[derive(Debug, ClapArgs)]
pub(crate) struct Args {
    /// Only these segments; all where none is named. A name that is not there is said so, and ends with exit code 1.
    names: Vec<String>,
    /// Print JSON: a list of segments.
    #[arg(long)]
    json: bool,
}

/// Looks at every segment.
pub(crate) fn run(args: &Args) -> Result<Verdict, Failure> {
    let wanted = |name: &String| args.names.is_empty() || args.names.contains(name);
    let listed = mem::list()?;
    let holders = Holders::look();
    let found: Vec<Found> =
        listed.into_iter().filter(|l| wanted(&l.name)).map(|l| look_at(l, &holders)).collect();
    let text = if args.json { table::json(&found)? } else { in_words(&found) };
    report::emit(&text)?;
    let missing: Vec<&String> =
        args.names.iter().filter(|name| !found.iter().any(|f| f.name == **name)).collect();
    for name in &missing {
        let name = table::plain(name);
        report::complain(&format!(
            "spinwire: {name}: no such segment; see all of them: spinwire ps\n"
        ));
    }
    Ok(if missing.is_empty() { Verdict::Well } else { Verdict::NotWell })
}

fn in_words(found: &[Found]) -> String {
    if found.is_empty() {
        return "No segments.\n".to_owned();
    }
    let mut segments = Table::new(&[
        ("SEGMENT", Lean::Left),
        ("KIND", Lean::Left),
        ("SIZE", Lean::Right),
        ("PAGE", Lean::Left),
        ("AGE", Lean::Right),
        ("CREATOR", Lean::Left),
        ("IN USE BY", Lean::Left),
    ]);
    for segment in found {
        segments.row([
            segment.name.clone(),
            kind(segment).to_owned(),
            segment.bytes.map_or_else(dash, bytes),
            segment.page.clone().unwrap_or_else(dash),
            segment.age_s.map_or_else(dash, age),
            segment.creator.as_ref().map_or_else(dash, |c| format!("{} {}", c.pid, word(&c.life))),
            use_of(segment),
        ]);
    }
    let mut text = segments.text("");
    for segment in found {
        text.push_str(&details(segment));
    }
    text
}

pub(crate) fn dash() -> String {
    "-".to_owned()
}

pub(crate) const fn kind(segment: &Found) -> &'static str {
    match segment.what {
        What::Domain { .. } => "domain",
        What::Stats { .. } => "stats",
        What::Pool { .. } => "pool",
        What::Buffer { .. } => "buffer",
        What::Private => "private",
        What::Broken { .. } => "broken",
    }
}

/// One cell about who is in it.
fn use_of(segment: &Found) -> String {
    match &segment.what {
        What::Domain { processes, endpoints, lanes } => {
            format!(
                "{}; {} endpoints, {} of {} lanes",
                live_and_dead(processes),
                endpoints.len(),
                lanes.open,
                lanes.count
            )
        }
        What::Pool { processes, classes } => {
            let in_use: u32 = classes.iter().map(Class::in_use).sum();
            let slots: u32 = classes.iter().map(|class| class.slots).sum();
            format!("{}; {in_use} of {slots} buffers", live_and_dead(processes))
        }
        What::Buffer { pool: Some(pool) } => format!("pool {pool}"),
        What::Buffer { pool: None } => "a pool that is gone".to_owned(),
        What::Stats { plane: Some(plane) } => {
            let cpu = plane.cpu.map_or_else(String::new, |cpu| format!(", cpu {cpu}"));
            format!("plane {} ({} {}{cpu})", plane.name, plane.party.pid, word(&plane.party.life))
        }
        What::Stats { plane: None } => "a plane that could not be read".to_owned(),
        What::Private => format!("user {}", segment.uid),
        What::Broken { .. } if segment.mapped_by.is_empty() => "nobody".to_owned(),
        What::Broken { .. } => {
            let pids: Vec<String> = segment.mapped_by.iter().map(u32::to_string).collect();
            format!("mapped by {}", pids.join(", "))
        }
    }
}

pub(crate) fn live_and_dead(processes: &[Process]) -> String {
    let dead = processes.iter().filter(|p| !p.party.may_live()).count();
    let live = processes.len().saturating_sub(dead);
    if dead == 0 { format!("{live} live") } else { format!("{live} live, {dead} dead") }
}

/// Who is in it.
pub(crate) fn process_table(processes: &[Process]) -> Table {
    let mut rows = Table::new(&[
        ("SLOT", Lean::Right),
        ("PID", Lean::Right),
        ("COMMAND", Lean::Left),
        ("STATE", Lean::Left),
        ("SINCE", Lean::Right),
    ]);
    for p in processes {
        let since = if p.joined_unix_ns == 0 { dash() } else { age(p.since_s) };
        rows.row([
            p.slot.to_string(),
            p.party.pid.to_string(),
            p.command.clone(),
            p.party.life.to_string(),
            since,
        ]);
    }
    rows
}

/// What does not fit into one row.
fn details(segment: &Found) -> String {
    let name = table::plain(&segment.name);
    let mut text = String::new();
    match &segment.what {
        What::Stats { .. } | What::Buffer { .. } => {}
        What::Pool { processes, .. } if processes.is_empty() => {}
        What::Pool { processes, .. } => {
            let _written = write!(text, "\n{name}\n{}", process_table(processes).text("  "));
        }
        What::Private => {
            // Writing to a String does not fail.
            let _written = writeln!(
                text,
                "\n{name} belongs to user {0}, who alone may look into it; remedy: sudo -u '#{0}' spinwire ps {name}",
                segment.uid
            );
        }
        What::Broken { why, .. } => {
            // As above.
            let _written = writeln!(text, "\n{name} is broken: {}", table::plain(why));
        }
        What::Domain { processes, endpoints, lanes } => {
            let rows = process_table(processes);
            let mut ends = Table::new(&[
                ("ENDPOINT", Lean::Left),
                ("TYPE", Lean::Left),
                ("OWNER", Lean::Right),
            ]);
            for e in endpoints {
                let owner = e.owner_pid.map_or_else(|| "gone".to_owned(), |pid| pid.to_string());
                ends.row([e.name.clone(), e.kind.to_owned(), owner]);
            }
            if !rows.is_empty() {
                let _written = write!(text, "\n{name}\n{}", rows.text("  "));
            }
            if !ends.is_empty() {
                text.push_str(&ends.text("  "));
            }
            if lanes.corrupt > 0 {
                let _written = writeln!(
                    text,
                    "\n{name}: {} lanes have a state that does not exist",
                    lanes.corrupt
                );
            }
        }
    }
    text
}
