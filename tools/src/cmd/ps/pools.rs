//! What a pool looks like from outside: its classes, and which pool a large buffer belongs to.

use serde::Serialize;
use spinwire_dataplane::pool::{ClassStats, PoolSegment};
use spinwire_dataplane::shm::copy_header;
use spinwire_hostshim::mem::SharedMapping;
use spinwire_hostshim::pool::large_prefix;
use spinwire_layouts::shm::SlotHome;

/// The buffers of one size.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct Class {
    pub(crate) slot_bytes: u64,
    /// Where their bytes lie: `arena`, or `segment` for one each.
    pub(crate) home: &'static str,
    pub(crate) slots: u32,
    pub(crate) free: u32,
    pub(crate) written: u32,
    pub(crate) shared: u32,
    /// Held by nobody, referred to by whoever knows the id.
    pub(crate) detached: u32,
    pub(crate) references: u64,
    /// Bytes that their users asked for.
    pub(crate) used_bytes: u64,
    /// Bytes of the buffers in use beyond those.
    pub(crate) slack_bytes: u64,
    /// The largest content of a buffer in use.
    pub(crate) largest_used: u64,
}

impl Class {
    pub(crate) const fn in_use(&self) -> u32 {
        self.slots.saturating_sub(self.free)
    }
}

/// All classes of a pool, smallest first.
pub(crate) fn classes(pool: &PoolSegment<'_>) -> Vec<Class> {
    let home = |bytes| {
        let mut specs = pool.geometry().classes().iter();
        specs.find(|spec| spec.slot_bytes == bytes).map_or(SlotHome::Arena, |spec| spec.home)
    };
    let largest = |bytes| {
        let rows = pool.rows().filter(|row| row.slot_bytes == bytes && !row.word.is_free());
        rows.map(|row| row.size).max().unwrap_or(0)
    };
    let class = |stats: ClassStats| {
        let in_use = u64::from(stats.slots.saturating_sub(stats.free));
        Class {
            slot_bytes: stats.slot_bytes,
            home: home(stats.slot_bytes).name(),
            slots: stats.slots,
            free: stats.free,
            written: stats.written,
            shared: stats.shared,
            detached: stats.detached,
            references: stats.references,
            used_bytes: stats.used_bytes,
            slack_bytes: in_use.saturating_mul(stats.slot_bytes).saturating_sub(stats.used_bytes),
            largest_used: largest(stats.slot_bytes),
        }
    };
    pool.stats().map(class).collect()
}

/// The pool that a large buffer of that name belongs to, if that very pool is still there.
pub(crate) fn pool_of(name: &str) -> Option<String> {
    let (with_stamp, _slot) = name.rsplit_once('.')?;
    let (pool, _stamp) = with_stamp.rsplit_once('.')?;
    let mapping = SharedMapping::look(pool).ok()?;
    let header = copy_header(mapping.lines()).ok()?;
    name.starts_with(&large_prefix(pool, &header)).then(|| pool.to_owned())
}
