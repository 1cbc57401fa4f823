//! `spinwire pool ls` and `spinwire pool stat`.

use core::fmt::Write as _;

use clap::Args as ClapArgs;
use serde::Serialize;
use spinwire_dataplane::pool::{BufferRow, PoolSegment};
use spinwire_hostshim::mem;
use spinwire_hostshim::pool::detacher;
use spinwire_layouts::shm::{BufferId, Orphans, SegmentHeader};
use spinwire_layouts::word::TagWord;

use super::dump::Described;
use super::look;
use crate::cmd::ps::holders::Holders;
use crate::cmd::ps::pools::{Class, classes, stamp_age};
use crate::cmd::ps::survey::{Found, Process, What, look_at, members, seconds_since, word};
use crate::cmd::ps::table::{Lean, Table, age, bytes, json, plain};
use crate::cmd::ps::{dash, live_and_dead};
use crate::report::{Failure, Verdict, emit};

/// What `spinwire pool ls` takes.
#[derive(Debug, ClapArgs)]
pub(crate) struct LsArgs {
    /// Print JSON: the list of `spinwire ps --json`, pools only.
    #[arg(long)]
    json: bool,
}

/// What `spinwire pool stat` takes.
#[derive(Debug, ClapArgs)]
pub(crate) struct Args {
    /// The pool.
    name: String,
    /// Also list every buffer that is in use: id, bytes, for how long, who has it, who left it and when, and what is in it.
    #[arg(long)]
    buffers: bool,
    /// Print JSON: {"name", "bytes", .., "classes": [..], "holders": [..], "buffers": [..]}.
    #[arg(long)]
    json: bool,
}

pub(crate) fn list(args: &LsArgs) -> Result<Verdict, Failure> {
    let holders = Holders::look();
    let all = mem::list()?.into_iter().map(|listed| look_at(listed, &holders));
    let pools: Vec<Found> = all.filter(|found| matches!(found.what, What::Pool { .. })).collect();
    emit(&if args.json { json(&pools)? } else { list_in_words(&pools) })?;
    Ok(Verdict::Well)
}

fn list_in_words(pools: &[Found]) -> String {
    if pools.is_empty() {
        return "No pools.\n".to_owned();
    }
    let mut table = Table::new(&[
        ("POOL", Lean::Left),
        ("SIZE", Lean::Right),
        ("PAGE", Lean::Left),
        ("BUFFERS", Lean::Right),
        ("IN USE", Lean::Right),
        ("HANDLES", Lean::Left),
        ("AGE", Lean::Right),
    ]);
    for pool in pools {
        let What::Pool { processes, classes } = &pool.what else { continue };
        table.row([
            pool.name.clone(),
            pool.bytes.map_or_else(dash, bytes),
            pool.page.clone().unwrap_or_else(dash),
            classes.iter().map(|class| class.slots).sum::<u32>().to_string(),
            classes.iter().map(Class::in_use).sum::<u32>().to_string(),
            live_and_dead(processes),
            pool.age_s.map_or_else(dash, age),
        ]);
    }
    table.text("")
}

/// A pool.
#[derive(Debug, Serialize)]
struct Stat {
    name: String,
    bytes: u64,
    /// Pages of this look at it, which are those of its creator.
    page: String,
    created_unix_ns: u64,
    age_s: u64,
    creator_pid: u64,
    /// `keep` or `release`: what becomes of references that a dead process detached last.
    orphans: &'static str,
    /// Handles that can be open at once.
    handles: u32,
    classes: Vec<Class>,
    holders: Vec<Holder>,
    #[serde(skip_serializing_if = "Option::is_none")]
    buffers: Option<Vec<Buffer>>,
}

/// A handle, and what it holds.
#[derive(Debug, Serialize)]
struct Holder {
    #[serde(flatten)]
    process: Process,
    writes: u32,
    reads: u32,
    /// Bytes in use of those that it reads or writes.
    bytes: u64,
    /// For how long the one of them is in use that was taken first, by whomever.
    oldest_s: Option<u64>,
}

/// A buffer in use.
#[derive(Debug, Serialize)]
struct Buffer {
    /// As people type it.
    id: String,
    /// As programs pass it on.
    raw: u64,
    slot_bytes: u64,
    size: u64,
    /// When it was taken, by the pool's clock, which goes in steps of 0.1 s while anybody has the pool open; absent where nobody
    /// knows.
    taken_unix_ns: Option<u64>,
    age_s: Option<u64>,
    state: &'static str,
    /// Process slots of the handles that have guards.
    holders: Vec<u16>,
    detached: u32,
    /// Who left the last detached reference behind.
    detached_by_pid: Option<u32>,
    /// Whether the handle that did is still open: `alive`, `stopped`, `dead`, `unknown`, or `left` where it is not, and only those
    /// who were told the id know of the buffer.
    detached_by_life: Option<&'static str>,
    /// How long ago.
    detached_age_s: Option<u64>,
    /// What the writer said is in it.
    description: Option<Described>,
}

pub(crate) fn run(args: &Args) -> Result<Verdict, Failure> {
    let stat = look(&args.name, |mapping, pool, header| {
        Ok(Stat {
            name: args.name.clone(),
            bytes: u64::try_from(mapping.len()).unwrap_or(u64::MAX),
            page: mapping.page().to_string(),
            created_unix_ns: header.created_unix_ns,
            age_s: seconds_since(header.created_unix_ns),
            creator_pid: header.creator_pid,
            orphans: match pool.geometry().orphan_rule() {
                Orphans::Keep => "keep",
                Orphans::Release => "release",
            },
            handles: pool.geometry().process_count(),
            classes: classes(pool),
            holders: holders(pool, header),
            buffers: args.buffers.then(|| buffers(pool, header)),
        })
    })?;
    emit(&if args.json { json(&stat)? } else { in_words(&stat) })?;
    let all_live = stat.holders.iter().all(|holder| holder.process.party.may_live());
    Ok(if all_live { Verdict::Well } else { Verdict::NotWell })
}

fn in_use<'p>(pool: &'p PoolSegment<'_>) -> impl Iterator<Item = BufferRow> + use<'p> {
    pool.rows().filter(|row| !row.word.is_free())
}

fn has(row: &BufferRow, slot: u16) -> bool {
    row.word.holders.wrapping_shr(u32::from(slot)) & 1 != 0
}

fn holders(pool: &PoolSegment<'_>, header: &SegmentHeader) -> Vec<Holder> {
    let rows: Vec<BufferRow> = in_use(pool).collect();
    let holder = |process: Process| {
        let its = || rows.iter().filter(|row| has(row, process.slot));
        let count = |writer| its().filter(|row| row.word.writer == writer).count();
        Holder {
            writes: u32::try_from(count(true)).unwrap_or(u32::MAX),
            reads: u32::try_from(count(false)).unwrap_or(u32::MAX),
            bytes: its().map(|row| row.size).sum(),
            oldest_s: its().filter_map(|row| stamp_age(row.taken_unix_ns)).max(),
            process,
        }
    };
    members(pool, header).into_iter().map(holder).collect()
}

fn buffers(pool: &PoolSegment<'_>, header: &SegmentHeader) -> Vec<Buffer> {
    let processes = members(pool, header);
    let buffer = |row: BufferRow| {
        let pid = Some(TagWord::unpack(row.detached_by).subject).filter(|pid| *pid != 0);
        let its = detacher(pool, &row);
        let process = its.and_then(|slot| processes.iter().find(|process| process.slot == slot));
        Buffer {
            id: row.id.to_string(),
            raw: BufferId::as_raw(row.id),
            slot_bytes: row.slot_bytes,
            size: row.size,
            taken_unix_ns: stamp_age(row.taken_unix_ns).map(|_known| row.taken_unix_ns),
            age_s: stamp_age(row.taken_unix_ns),
            state: match (row.word.writer, row.word.holders) {
                (true, _) => "written",
                (false, 0) => "detached",
                (false, _) => "shared",
            },
            holders: (0..32).filter(|slot| has(&row, *slot)).collect(),
            detached: row.word.detached,
            detached_by_pid: pid,
            detached_by_life: (row.word.detached > 0)
                .then(|| process.map_or("left", |p| word(&p.party.life))),
            detached_age_s: stamp_age(row.left_unix_ns),
            description: pool.description_of(&row).map(Described::from),
        }
    };
    in_use(pool).map(buffer).collect()
}

fn in_words(stat: &Stat) -> String {
    let mut text = format!(
        "{}: {} in {} pages, made {} ago by process {}; {} of {} handles are open\n\n",
        plain(&stat.name),
        bytes(stat.bytes),
        stat.page,
        age(stat.age_s),
        stat.creator_pid,
        stat.holders.len(),
        stat.handles
    );
    text.push_str(&class_table(&stat.classes).text("  "));
    if !stat.holders.is_empty() {
        let _written = write!(text, "\n{}", holder_table(&stat.holders).text("  "));
    }
    match &stat.buffers {
        Some(buffers) if !buffers.is_empty() => {
            let _written = write!(text, "\n{}", buffer_table(buffers).text("  "));
        }
        _ => {}
    }
    let left = |b: &&Buffer| b.state == "detached" && b.detached_by_life == Some("left");
    let many = stat.buffers.iter().flatten().filter(left).count();
    if many > 0 {
        let _written = writeln!(
            text,
            "\n{many} detached by handles that have left: whoever was told the id has one to adopt; \
             if nobody was, free them: spinwire pool gc --detached {}",
            plain(&stat.name)
        );
    }
    if stat.holders.iter().any(|holder| !holder.process.party.may_live()) {
        let name = plain(&stat.name);
        let _written =
            writeln!(text, "\ndead processes hold buffers; remedy: spinwire pool gc {name}");
    }
    text
}

fn class_table(classes: &[Class]) -> Table {
    let mut table = Table::new(&[
        ("BUFFER", Lean::Right),
        ("HOME", Lean::Left),
        ("COUNT", Lean::Right),
        ("FREE", Lean::Right),
        ("WRITTEN", Lean::Right),
        ("SHARED", Lean::Right),
        ("DETACHED", Lean::Right),
        ("REFS", Lean::Right),
        ("USED", Lean::Right),
        ("LARGEST", Lean::Right),
        ("SLACK", Lean::Right),
        ("OLDEST", Lean::Right),
    ]);
    for class in classes {
        let whole = u64::from(class.in_use()).saturating_mul(class.slot_bytes);
        let slack = class.slack_bytes.saturating_mul(100).checked_div(whole);
        table.row([
            bytes(class.slot_bytes),
            class.home.to_owned(),
            class.slots.to_string(),
            class.free.to_string(),
            class.written.to_string(),
            class.shared.to_string(),
            class.detached.to_string(),
            class.references.to_string(),
            bytes(class.used_bytes),
            bytes(class.largest_used),
            slack.map_or_else(dash, |percent| format!("{percent} %")),
            class.oldest_s.map_or_else(dash, age),
        ]);
    }
    table
}

fn holder_table(holders: &[Holder]) -> Table {
    let mut table = Table::new(&[
        ("SLOT", Lean::Right),
        ("PID", Lean::Right),
        ("COMMAND", Lean::Left),
        ("STATE", Lean::Left),
        ("SINCE", Lean::Right),
        ("WRITES", Lean::Right),
        ("READS", Lean::Right),
        ("BYTES", Lean::Right),
        ("OLDEST", Lean::Right),
    ]);
    for holder in holders {
        let Process { slot, party, command, since_s, joined_unix_ns } = &holder.process;
        table.row([
            slot.to_string(),
            party.pid.to_string(),
            command.clone(),
            party.life.to_string(),
            if *joined_unix_ns == 0 { dash() } else { age(*since_s) },
            holder.writes.to_string(),
            holder.reads.to_string(),
            bytes(holder.bytes),
            holder.oldest_s.map_or_else(dash, age),
        ]);
    }
    table
}

fn buffer_table(buffers: &[Buffer]) -> Table {
    let mut table = Table::new(&[
        ("ID", Lean::Left),
        ("BUFFER", Lean::Right),
        ("USED", Lean::Right),
        ("AGE", Lean::Right),
        ("STATE", Lean::Left),
        ("SLOTS", Lean::Left),
        ("DETACHED", Lean::Right),
        ("LEFT", Lean::Right),
        ("BY", Lean::Left),
        ("CONTENT", Lean::Left),
    ]);
    for buffer in buffers {
        let slots: Vec<String> = buffer.holders.iter().map(u16::to_string).collect();
        table.row([
            buffer.id.clone(),
            bytes(buffer.slot_bytes),
            bytes(buffer.size),
            buffer.age_s.map_or_else(dash, age),
            buffer.state.to_owned(),
            if slots.is_empty() { dash() } else { slots.join(",") },
            buffer.detached.to_string(),
            buffer.detached_age_s.map_or_else(dash, age),
            match (buffer.detached_by_pid, buffer.detached_by_life) {
                (Some(pid), Some("alive")) => pid.to_string(),
                (Some(pid), Some(life)) => format!("{pid} ({life})"),
                (None, _) | (Some(_), None) => dash(),
            },
            buffer.description.as_ref().map_or_else(dash, Described::in_short),
        ]);
    }
    table
}
