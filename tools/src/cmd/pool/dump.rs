//! `spinwire pool dump`: takes a reference like any reader, for as long as it looks.

use core::fmt::Write as _;
use std::io::{self, Write as _};

use clap::Args as ClapArgs;
use serde::Serialize;
use spinwire_dataplane::pool::{Description, PoolError};
use spinwire_hostshim::plane::Plane;
use spinwire_hostshim::pool::{BufferPool, PoolConfig};
use spinwire_layouts::shm::BufferId;

use super::{parse_bytes, parse_id};
use crate::cmd::ps::dash;
use crate::cmd::ps::pools::stamp_age;
use crate::cmd::ps::table::{age, bytes, json, plain};
use crate::report::{Failure, Verdict, emit};

/// What `spinwire pool dump` takes.
#[derive(Debug, ClapArgs)]
pub(crate) struct Args {
    /// The pool.
    name: String,
    /// The buffer: its id as `stat --buffers` prints it (17.3), or as programs pass it on (a number, 0x...).
    id: String,
    /// Show at most so many bytes, from the start.
    #[arg(long, value_name = "SIZE", default_value = "256", value_parser = parse_bytes)]
    bytes: u64,
    /// Write all bytes as they are to standard output, and nothing else.
    #[arg(long, conflicts_with = "json")]
    raw: bool,
    /// Print JSON: {"id", "size", "capacity", "references", "age_s", "description": {..}|null, "bytes_hex"}.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Serialize)]
struct Dump {
    id: String,
    raw: u64,
    size: usize,
    capacity: usize,
    /// Without the one that this look took.
    references: u32,
    /// Since when it is in use; absent where nobody knows.
    age_s: Option<u64>,
    description: Option<Described>,
    bytes_hex: String,
    #[serde(skip)]
    bytes: Vec<u8>,
}

/// A description, as JSON has it.
#[derive(Debug, Serialize)]
pub(super) struct Described {
    storage: String,
    device: u32,
    dtype: String,
    shape: Vec<u64>,
    strides: Vec<u64>,
    timestamp_ns: u64,
    sequence: u64,
    content_type: String,
    producer: String,
}

impl From<Description> for Described {
    fn from(d: Description) -> Self {
        let label = |field: &[u8]| {
            let text: Vec<u8> = field.iter().copied().take_while(|byte| *byte != 0).collect();
            String::from_utf8_lossy(&text).into_owned()
        };
        Self {
            storage: d.storage.to_string(),
            device: d.device,
            dtype: d.dtype.to_string(),
            shape: d.shape.lengths().to_vec(),
            strides: d.shape.strides().to_vec(),
            timestamp_ns: d.timestamp_ns,
            sequence: d.sequence,
            content_type: label(&d.content_type),
            producer: label(&d.producer),
        }
    }
}

impl Described {
    /// In a few words: `f32 [480, 640] #42 image/raw by camera`.
    pub(super) fn in_short(&self) -> String {
        let mut text = format!("{} {:?} #{}", self.dtype, self.shape, self.sequence);
        for (before, label) in [(" ", &self.content_type), (" by ", &self.producer)] {
            if !label.is_empty() {
                let _written = write!(text, "{before}{}", plain(label));
            }
        }
        text
    }
}

pub(crate) fn run(args: &Args) -> Result<Verdict, Failure> {
    let pool = BufferPool::open(&args.name, &PoolConfig::default())?;
    let id = parse_id(&args.id, pool.segment().tag())
        .ok_or_else(|| format!("'{}' is no id; try 17.3, as stat --buffers prints it", args.id))?;
    let mut memory = Plane::memory(pool.handle_bytes())?;
    let bump = Plane::arena(&mut memory);
    let handle = pool.handle(&bump)?;
    let refused = |e: PoolError| {
        let why =
            if let PoolError::NotMapped { slot } = e { pool.why_not_mapped(slot) } else { None };
        let why = why.map_or_else(|| e.to_string(), |why| why.to_string());
        format!("buffer {id} of {}: {why}", args.name)
    };
    let guard = handle.get(id).map_err(refused)?;
    let most = if args.raw { u64::MAX } else { args.bytes };
    let shown = guard.len().min(usize::try_from(most).unwrap_or(usize::MAX));
    let mut content = vec![0; shown];
    guard.copy_to(0, &mut content).map_err(refused)?;
    if args.raw {
        return raw(&content);
    }
    let dump = Dump {
        id: id.to_string(),
        raw: id.as_raw(),
        size: guard.len(),
        capacity: guard.capacity(),
        references: guard.ref_count().saturating_sub(1),
        age_s: age_of(&pool, id),
        description: guard.description().ok().map(Described::from),
        bytes_hex: content.iter().map(|byte| format!("{byte:02x}")).collect(),
        bytes: content,
    };
    emit(&if args.json { json(&dump)? } else { in_words(&dump) })?;
    Ok(Verdict::Well)
}

fn age_of(pool: &BufferPool, id: BufferId) -> Option<u64> {
    let segment = pool.segment();
    let row = segment.rows().find(|row| row.id == id);
    row.and_then(|row| stamp_age(row.taken_unix_ns))
}

fn raw(content: &[u8]) -> Result<Verdict, Failure> {
    let mut out = io::stdout().lock();
    match out.write_all(content).and_then(|()| out.flush()) {
        Err(e) if e.kind() != io::ErrorKind::BrokenPipe => Err(e.into()),
        Ok(()) | Err(_) => Ok(Verdict::Well),
    }
}

fn in_words(dump: &Dump) -> String {
    let size = u64::try_from(dump.size).unwrap_or(u64::MAX);
    let capacity = u64::try_from(dump.capacity).unwrap_or(u64::MAX);
    let mut text = format!(
        "buffer {} ({:#x}): {size} bytes of {}, {} references, taken {} ago\n",
        dump.id,
        dump.raw,
        bytes(capacity),
        dump.references,
        dump.age_s.map_or_else(dash, age)
    );
    match &dump.description {
        None => text.push_str("  its writer left no description\n"),
        Some(d) => {
            let _written = writeln!(
                text,
                "  {} {:?}, strides {:?}, on {}\n  sequence {}, time {} ns, content '{}', by '{}'",
                d.dtype,
                d.shape,
                d.strides,
                d.storage,
                d.sequence,
                d.timestamp_ns,
                plain(&d.content_type),
                plain(&d.producer)
            );
        }
    }
    for (row, bytes) in dump.bytes.chunks(16).enumerate() {
        let hex: Vec<String> = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        let seen = |byte: &u8| if (32..127).contains(byte) { char::from(*byte) } else { '.' };
        let letters: String = bytes.iter().map(seen).collect();
        let _written = writeln!(text, "  {:08x}  {:<47}  {letters}", row * 16, hex.join(" "));
    }
    if dump.bytes.len() < dump.size {
        let _written =
            writeln!(text, "  .. {} more: --bytes, or --raw", dump.size - dump.bytes.len());
    }
    text
}
