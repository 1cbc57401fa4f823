//! `spinwire pool create`.

use clap::Args as ClapArgs;
use serde::Serialize;
use spinwire_dataplane::pool::PoolGeometry;
use spinwire_hostshim::mem::{PageKind, PagePolicy};
use spinwire_hostshim::pool::{BufferPool, PoolConfig};
use spinwire_layouts::shm::Orphans;

use super::parse_bytes;
use crate::cmd::ps::table;
use crate::report::{self, Failure, Verdict};

/// What `spinwire pool create` takes.
#[derive(Debug, ClapArgs)]
pub(crate) struct Args {
    /// Its name: 1 to 63 of A-Z a-z 0-9 . _ -
    name: String,
    /// So many buffers of that size, e.g. 4Kx1024. May be repeated, in any order. Without: 1024 of 4K, 128 of 64K, 16 of 1M.
    #[arg(long = "class", value_name = "SIZExCOUNT", value_parser = parse_class)]
    classes: Vec<(u64, u32)>,
    /// The same for buffers that get a segment of their own each, when they are first used, e.g. 256Mx8.
    #[arg(long = "large", value_name = "SIZExCOUNT", value_parser = parse_class)]
    large: Vec<(u64, u32)>,
    /// How many handles (one a thread that uses the pool) can be open at once: 1 to 32.
    #[arg(long, value_name = "N", default_value_t = PoolGeometry::default().process_count())]
    handles: u32,
    /// Let references go that a dead process had detached last. Without, they stay for whoever knows the id.
    #[arg(long)]
    release_orphans: bool,
    /// Only these pages; the best that can be had where it is not given.
    #[arg(long, value_parser = parse_pages, value_name = "2M|thp|4K")]
    pages: Option<PageKind>,
    /// Print JSON: {"name", "bytes", "page", "slots", "handles", "refused": [..]}.
    #[arg(long)]
    json: bool,
}

/// Fields of the geometry, and the arguments that set them.
const NAMES: &[(&str, &str)] = &[
    ("process_count", "--handles"),
    ("class_count", "--class and --large, how often they are given"),
    ("slot_bytes", "--class or --large, its SIZE, which must differ from the others"),
    ("slot_count", "--class or --large, its COUNT, and all of them together"),
    ("segment_bytes", "--class, the bytes of all together"),
];

fn parse_class(text: &str) -> Result<(u64, u32), String> {
    let (bytes, count) =
        text.split_once('x').ok_or_else(|| format!("'{text}' is no class; try 4Kx1024"))?;
    let count = count.parse().map_err(|_none| format!("'{count}' is no count; try 4Kx1024"))?;
    Ok((parse_bytes(bytes)?, count))
}

fn parse_pages(text: &str) -> Result<PageKind, String> {
    let kinds = [PageKind::Huge2M, PageKind::Thp, PageKind::Base4K];
    let found = kinds.into_iter().find(|kind| kind.to_string() == text);
    found.ok_or_else(|| format!("'{text}' are no pages; try 2M, thp or 4K"))
}

#[derive(Debug, Serialize)]
struct Made {
    name: String,
    bytes: usize,
    page: String,
    slots: u32,
    handles: u32,
    /// Pages that would have been better, and why they could not be had.
    refused: Vec<String>,
}

fn geometry(args: &Args) -> PoolGeometry {
    if args.classes.is_empty() && args.large.is_empty() {
        let usual = PoolGeometry::default();
        let empty = PoolGeometry::new(args.handles).orphans(orphans(args));
        return usual.classes().iter().fold(empty, |g, c| g.class(c.slot_bytes, c.slot_count));
    }
    let arena = args.classes.iter().map(|class| (*class, false));
    let mut all: Vec<((u64, u32), bool)> =
        arena.chain(args.large.iter().map(|class| (*class, true))).collect();
    all.sort_unstable();
    let empty = PoolGeometry::new(args.handles).orphans(orphans(args));
    all.into_iter().fold(empty, |geometry, ((bytes, count), large)| {
        if large { geometry.large_class(bytes, count) } else { geometry.class(bytes, count) }
    })
}

const fn orphans(args: &Args) -> Orphans {
    if args.release_orphans { Orphans::Release } else { Orphans::Keep }
}

pub(crate) fn run(args: &Args) -> Result<Verdict, Failure> {
    let config = PoolConfig {
        geometry: geometry(args),
        pages: args.pages.map_or(PagePolicy::Best, PagePolicy::Only),
        ..PoolConfig::default()
    };
    let pool = BufferPool::create(&args.name, &config).map_err(|e| e.renamed(NAMES))?;
    let made = Made {
        name: args.name.clone(),
        bytes: pool.mapping().len(),
        page: pool.pages().page().to_string(),
        slots: config.geometry.slot_count(),
        handles: args.handles,
        refused: pool.pages().refused().iter().map(ToString::to_string).collect(),
    };
    let text = if args.json { table::json(&made)? } else { in_words(&made) };
    report::emit(&text)?;
    Ok(Verdict::Well)
}

fn in_words(made: &Made) -> String {
    let size = table::bytes(u64::try_from(made.bytes).unwrap_or(u64::MAX));
    let mut text = format!(
        "made {}: {} buffers for {} handles, {size} in {} pages\n",
        made.name, made.slots, made.handles, made.page
    );
    for refused in &made.refused {
        text.push_str(&format!("  better pages were not to be had: {}\n", table::plain(refused)));
    }
    text
}
