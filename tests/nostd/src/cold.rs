//! Functions that read what peers wrote, outside of a turn: joining, connecting, cleaning up.

use spinwire_dataplane::chain::{
    ChainConfig, ChainError, ChainFault, ChainId, ChainTable, PlaceError,
};
use spinwire_dataplane::id::Name;
use spinwire_dataplane::poll::{
    HistogramId, HistogramSnapshot, PlaneSnapshot, StatsError, StatsReader,
};
use spinwire_dataplane::pool::{
    BufferRow, ClassStats, Description, ExclusiveGuard, NoHost, Pool, PoolError, PoolGeometry,
    PoolSegment, Reclaimed,
};
use spinwire_dataplane::raw::line::Line;
use spinwire_dataplane::raw::place::{Bump, Exhausted};
use spinwire_dataplane::shm::directory::{self, EndpointRef, RegisterError};
use spinwire_dataplane::shm::lane_table::{self, LaneEnd};
use spinwire_dataplane::shm::lease::{self, Joiner, ProcessLease};
use spinwire_dataplane::shm::reclaim;
use spinwire_dataplane::shm::segment::{self, Geometry, Identity, JoinError, Segment};
use spinwire_layouts::shm::{BufferId, EndpointId, EndpointKind};

#[unsafe(no_mangle)]
pub extern "C" fn probe_segment_attach<'s>(lines: &'s [Line]) -> Result<Segment<'s>, JoinError> {
    Segment::attach(lines)
}

#[unsafe(no_mangle)]
pub extern "C" fn probe_segment_format<'s>(
    lines: &'s [Line],
    geometry: Geometry,
    identity: &Identity,
) -> Result<Segment<'s>, JoinError> {
    Segment::format(lines, geometry, identity)
}

#[unsafe(no_mangle)]
pub extern "C" fn probe_segment_attach_stats(lines: &[Line]) -> Result<&[Line], JoinError> {
    segment::attach_stats(lines)
}

#[unsafe(no_mangle)]
pub extern "C" fn probe_lease_join(segment: &Segment<'_>, joiner: &Joiner) -> Option<ProcessLease> {
    lease::rows(segment).last()?;
    lease::join(segment, joiner).ok()
}

#[unsafe(no_mangle)]
pub extern "C" fn probe_directory_register(
    segment: &Segment<'_>,
    lease: &ProcessLease,
    name: &Name,
) -> Result<EndpointId, RegisterError> {
    directory::register(segment, lease, name, EndpointKind::Rdm)
}

#[unsafe(no_mangle)]
pub extern "C" fn probe_directory_lookup(
    segment: &Segment<'_>,
    name: &Name,
) -> Option<EndpointRef> {
    directory::lookup(segment, name)
}

#[unsafe(no_mangle)]
pub extern "C" fn probe_lane_inbound<'s>(
    segment: &Segment<'s>,
    lane: u32,
    receiver: EndpointId,
) -> Option<(LaneEnd<'s>, EndpointId)> {
    lane_table::inbound(segment, lane, receiver)
}

#[unsafe(no_mangle)]
pub extern "C" fn probe_reclaim(segment: &Segment<'_>, slot: u16) -> bool {
    reclaim::reclaim(segment, slot)
}

#[unsafe(no_mangle)]
pub extern "C" fn probe_stats_reader(page: &[Line]) -> Result<PlaneSnapshot, StatsError> {
    StatsReader::new(page)?.plane()
}

#[unsafe(no_mangle)]
pub extern "C" fn probe_stats_histogram(
    page: &[Line],
    snapshot: &mut HistogramSnapshot,
) -> Result<(), StatsError> {
    StatsReader::new(page)?.histogram(HistogramId::RoundTrip, snapshot)?;
    StatsReader::new(page)?.histogram_unsettled(HistogramId::TurnBusy, snapshot)?;
    Ok(())
}

#[unsafe(no_mangle)]
pub extern "C" fn probe_pool_attach<'s>(lines: &'s [Line]) -> Result<PoolSegment<'s>, JoinError> {
    PoolSegment::attach(lines)
}

#[unsafe(no_mangle)]
pub extern "C" fn probe_pool_format<'s>(
    lines: &'s [Line],
    geometry: &PoolGeometry,
    identity: &Identity,
) -> Result<PoolSegment<'s>, JoinError> {
    PoolSegment::format(lines, geometry, identity)
}

#[unsafe(no_mangle)]
pub extern "C" fn probe_pool_open<'m>(
    segment: &PoolSegment<'m>,
    lease: ProcessLease,
    bump: &Bump<'m>,
) -> Result<Pool<'m>, Exhausted> {
    Pool::open(segment, lease, bump, &NoHost)
}

#[unsafe(no_mangle)]
pub extern "C" fn probe_pool_reclaim(segment: &PoolSegment<'_>, slot: u16) -> Option<Reclaimed> {
    segment.reclaim(slot, &NoHost)
}

#[unsafe(no_mangle)]
pub extern "C" fn probe_pool_stats(
    segment: &PoolSegment<'_>,
    id: BufferId,
) -> (Option<ClassStats>, Option<BufferRow>, Result<u32, PoolError>) {
    (segment.stats().last(), segment.rows().last(), segment.release(id, &NoHost))
}

#[unsafe(no_mangle)]
pub extern "C" fn probe_pool_describe(
    guard: &mut ExclusiveGuard<'_>,
    description: &Description,
) -> Result<Description, PoolError> {
    guard.describe(description)?;
    guard.description()
}

#[unsafe(no_mangle)]
pub extern "C" fn probe_pool_wait(pool: &Pool<'_>, ids: &mut [BufferId]) -> Result<(), PoolError> {
    drop(pool.acquire_until(1, None)?);
    pool.preallocate(64, ids)
}

#[unsafe(no_mangle)]
pub extern "C" fn probe_chain_place<'m>(
    bump: &Bump<'m>,
    config: ChainConfig,
) -> Result<ChainTable<'m>, PlaceError> {
    ChainTable::place(bump, config)
}

#[unsafe(no_mangle)]
pub extern "C" fn probe_chain_end(
    chains: &ChainTable<'_>,
    user_data: u64,
) -> Result<u64, ChainError> {
    let Some((id, entry)) = ChainId::of(user_data) else { return Ok(0) };
    let outstanding = chains.cancel(id)?;
    let names = outstanding.user_data().fold(0, |sum, name| sum ^ name.as_raw());
    let mut held = chains.context(id)? ^ chains.entry_context(id, entry)? ^ names;
    chains.abandon(id, |entry, context| held ^= context.rotate_left(entry.into()))?;
    let faults = chains.fault_count(ChainFault::Stale) ^ chains.refusal_count(ChainError::Stale);
    let live = chains.live().last().map_or(0, |id| id.slot());
    Ok(held ^ faults ^ chains.counts().started ^ u64::from(live))
}
