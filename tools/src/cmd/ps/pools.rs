//! What a pool looks like from outside: its classes, and which pool a large buffer belongs to.

use serde::Serialize;
use spinwire_dataplane::pool::{BufferRow, ClassStats, PoolSegment, TICK_NS};
use spinwire_dataplane::shm::copy_header;
use spinwire_hostshim::mem::SharedMapping;
use spinwire_hostshim::pool::large_prefix;
use spinwire_layouts::shm::SlotHome;

use super::survey::{seconds_since, unix_now_ns};

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
    /// Since when the buffer that is longest in use is so; none where no buffer is in use, or nobody knows.
    pub(crate) oldest_s: Option<u64>,
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
    let in_use: Vec<BufferRow> = pool.rows().filter(|row| !row.word.is_free()).collect();
    let of = |bytes| in_use.iter().filter(move |row| row.slot_bytes == bytes);
    let class = |stats: ClassStats| {
        let busy = u64::from(stats.slots.saturating_sub(stats.free));
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
            slack_bytes: busy.saturating_mul(stats.slot_bytes).saturating_sub(stats.used_bytes),
            largest_used: of(stats.slot_bytes).map(|row| row.size).max().unwrap_or(0),
            oldest_s: of(stats.slot_bytes).filter_map(|row| stamp_age(row.taken_unix_ns)).max(),
        }
    };
    pool.stats().map(class).collect()
}

/// How many seconds ago a stamp by the pool's clock was made; none where that clock was not kept, or says a time to come.
pub(crate) fn stamp_age(unix_ns: u64) -> Option<u64> {
    // Whoever looks and whoever keeps the clock may have read theirs in any order.
    let soon = unix_now_ns().saturating_add(TICK_NS);
    (1..=soon).contains(&unix_ns).then(|| seconds_since(unix_ns))
}

/// The pool that a large buffer of that name belongs to, if that very pool is still there.
pub(crate) fn pool_of(name: &str) -> Option<String> {
    let (with_stamp, _slot) = name.rsplit_once('.')?;
    let (pool, _stamp) = with_stamp.rsplit_once('.')?;
    let mapping = SharedMapping::look(pool).ok()?;
    let header = copy_header(mapping.lines()).ok()?;
    name.starts_with(&large_prefix(pool, &header)).then(|| pool.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stamp_that_nobody_made_or_that_is_to_come_has_no_age() {
        let now = unix_now_ns();
        assert_eq!(stamp_age(now), Some(0));
        let an_hour_ago = stamp_age(now - 3_600_000_000_000).unwrap();
        assert!((3600..3700).contains(&an_hour_ago), "{an_hour_ago}");
        assert_eq!(
            [stamp_age(0), stamp_age(now + 3_600_000_000_000), stamp_age(u64::MAX)],
            [None; 3]
        );
    }
}
