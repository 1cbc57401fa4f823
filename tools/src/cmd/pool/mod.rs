//! `spinwire pool`: pools of buffers that processes share, made, looked at and mended from the command line.
//!
//! | file | command |
//! |---|---|
//! | [`create`] | makes a pool |
//! | [`stat`] | `ls` and `stat`: who has how many buffers of which size |
//! | [`dump`] | one buffer: what it says about itself, and its bytes |
//! | [`mend`] | `gc` and `rm` |

mod create;
mod dump;
mod mend;
mod stat;

use clap::{Args as ClapArgs, Subcommand};
use spinwire_dataplane::pool::PoolSegment;
use spinwire_dataplane::shm::copy_header;
use spinwire_hostshim::mem::SharedMapping;
use spinwire_layouts::shm::{BufferId, SegmentHeader};

use crate::report::{Failure, Verdict};

/// What `spinwire pool` takes.
#[derive(Debug, ClapArgs)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Command,
}

const EXAMPLES: &str = "\
Examples:
  spinwire pool create frames --class 4Kx1024 --class 1Mx64
      make a pool, to be opened by its name
  spinwire pool ls
      all pools, and how full they are
  spinwire pool stat frames --buffers
      who holds which buffer
  spinwire pool dump frames 17.3
      what is in a buffer, by its id as stat has it
  spinwire pool gc frames
      take back what dead processes held, now
  spinwire pool gc --detached frames
      also free what was left behind for nobody
  spinwire pool rm frames
      remove it, with its large buffers

A process that dies loses its buffers by itself: every other process that has the pool open takes them back.
A reference that was detached belongs to whoever knows the id, and stays. A pool stays until it is removed by
its name, or by `spinwire rm --dead` when nobody has it open and its creator is dead.";

#[derive(Debug, Subcommand)]
enum Command {
    /// Make a pool, for processes to open by its name.
    Create(create::Args),
    /// List pools, and how full they are.
    Ls(stat::LsArgs),
    /// Show one pool: its buffers by size, how much of them is slack, and who holds them.
    Stat(stat::Args),
    /// Show one buffer: what it says about itself, and its bytes.
    Dump(dump::Args),
    /// Take back what dead processes held, and say what that was. With --detached, free what nobody was told of.
    Gc(mend::GcArgs),
    /// Remove pools with their large buffers. One that a live process has open is kept.
    Rm(mend::RmArgs),
}

pub(crate) fn run(args: &Args) -> Result<Verdict, Failure> {
    match &args.command {
        Command::Create(args) => create::run(args),
        Command::Ls(args) => stat::list(args),
        Command::Stat(args) => stat::run(args),
        Command::Dump(args) => dump::run(args),
        Command::Gc(args) => mend::collect(args),
        Command::Rm(args) => mend::remove(args),
    }
}

/// A pool that is looked at, not opened: no process slot, no watcher.
fn look<T>(
    name: &str,
    with: impl FnOnce(&SharedMapping, &PoolSegment<'_>, &SegmentHeader) -> Result<T, Failure>,
) -> Result<T, Failure> {
    let mapping = SharedMapping::look(name)?;
    look_in(&mapping, |pool, header| with(&mapping, pool, header))
}

/// The same, in a mapping that is there.
fn look_in<T>(
    mapping: &SharedMapping,
    with: impl FnOnce(&PoolSegment<'_>, &SegmentHeader) -> Result<T, Failure>,
) -> Result<T, Failure> {
    let broken = |why| format!("segment {}: {why}", mapping.name());
    let pool = PoolSegment::attach(mapping.lines()).map_err(broken)?;
    let header = copy_header(mapping.lines()).map_err(broken)?;
    with(&pool, &header)
}

/// `4096`, `4K`, `1M`, `2G`.
fn parse_bytes(text: &str) -> Result<u64, String> {
    let (digits, shift) = match text.char_indices().last() {
        Some((at, 'K' | 'k')) => (text.get(..at), 10),
        Some((at, 'M' | 'm')) => (text.get(..at), 20),
        Some((at, 'G' | 'g')) => (text.get(..at), 30),
        _ => (Some(text), 0),
    };
    let number: Option<u64> = digits.and_then(|digits| digits.parse().ok());
    number
        .and_then(|number| number.checked_mul(1 << shift))
        .filter(|bytes| *bytes > 0)
        .ok_or_else(|| format!("'{text}' is no size; try 4096, 4K, 1M or 2G"))
}

/// `17.3` as `stat` prints it, or the whole word, `0x..` or decimal, as programs pass it on.
fn parse_id(text: &str, tag: u8) -> Option<BufferId> {
    if let Some((slot, generation)) = text.split_once('.') {
        return Some(BufferId::new(slot.parse().ok()?, tag, generation.parse().ok()?));
    }
    let raw = match text.strip_prefix("0x") {
        Some(hex) => u64::from_str_radix(hex, 16).ok()?,
        None => text.parse().ok()?,
    };
    Some(BufferId::from_raw(raw))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_and_ids() {
        assert_eq!(parse_bytes("4096"), Ok(4096));
        assert_eq!(
            [parse_bytes("4K"), parse_bytes("1m"), parse_bytes("2G")],
            [Ok(4096), Ok(1 << 20), Ok(2 << 30)]
        );
        for none in ["", "K", "0", "-1", "4T", "99999999999G", "é"] {
            assert!(parse_bytes(none).is_err(), "{none}");
        }
        let id = BufferId::new(17, 5, 3);
        assert_eq!(parse_id("17.3", 5), Some(id));
        assert_eq!(parse_id(&id.as_raw().to_string(), 1), Some(id));
        assert_eq!(parse_id(&format!("{:#x}", id.as_raw()), 1), Some(id));
        assert_eq!(parse_id("17.", 5), None);
    }
}
