//! Mending a pool from outside: for tools that look at a mapping and do not open it.

use spinwire_dataplane::pool::{BufferRow, PoolSegment, Reclaimed};
use spinwire_dataplane::shm::lease;
use spinwire_layouts::shm::pool::stay;

use super::PoolOpenError;
use super::host::Futexes;
use crate::mem::SharedMapping;
use crate::membership;
use crate::raw::view;

/// Takes back what dead processes held of the pool in `mapping`, as every process that has it open does; also finds free buffers
/// that nobody could have found for another reason, and wakes who waits.
///
/// # Errors
/// [`PoolOpenError`] where it is no pool, or one whose process numbers mean other processes.
pub fn reclaim_in(mapping: &SharedMapping) -> Result<Reclaimed, PoolOpenError> {
    let segment = see(mapping)?;
    let (me, _maker) = membership::introduce(mapping)?;
    let mut done = reclaim_dead(&segment, me.boot_id);
    done.found = done.found.saturating_add(segment.mend(&Futexes));
    Ok(done)
}

/// Frees buffers of the pool in `mapping` that nobody holds, those of `rows` that are still as they were when the rows were read:
/// [`PoolSegment::free_detached`]. Their ids turn stale for whoever knows them. Returns those that are free by this.
///
/// # Errors
/// As [`reclaim_in`].
pub fn free_detached_in(
    mapping: &SharedMapping,
    rows: &[BufferRow],
) -> Result<Vec<BufferRow>, PoolOpenError> {
    let segment = see(mapping)?;
    Ok(rows.iter().filter(|row| segment.free_detached(row, &Futexes)).copied().collect())
}

/// The process slot of the handle that last detached the buffer in `row`, if it is still open (its process may be dead and not
/// taken note of). `None` where that handle was closed or taken back: then only who was told the id knows of the buffer.
#[must_use]
pub fn detacher(segment: &PoolSegment<'_>, row: &BufferRow) -> Option<u16> {
    lease::rows(segment)
        .find(|member| stay(member.lease.pack(), member.slot) == row.detached_by)
        .map(|member| member.slot)
}

fn see(mapping: &SharedMapping) -> Result<PoolSegment<'_>, PoolOpenError> {
    let segment = PoolSegment::attach(view::shared_lines(mapping));
    segment.map_err(|why| membership::broken(mapping, why).into())
}

pub(super) fn reclaim_dead(segment: &PoolSegment<'_>, boot_id: [u8; 16]) -> Reclaimed {
    let mut sum = Reclaimed::default();
    membership::for_each_dead(segment, boot_id, |slot| {
        if let Some(done) = segment.reclaim(slot, &Futexes) {
            sum.held = sum.held.saturating_add(done.held);
            sum.freed = sum.freed.saturating_add(done.freed);
            sum.found = sum.found.saturating_add(done.found);
            sum.leases = sum.leases.saturating_add(done.leases);
        }
    });
    sum
}
