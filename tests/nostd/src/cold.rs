//! Functions that read what peers wrote, outside of a turn: joining, connecting, cleaning up.

use spinwire_dataplane::id::Name;
use spinwire_dataplane::poll::{
    HistogramId, HistogramSnapshot, PlaneSnapshot, StatsError, StatsReader,
};
use spinwire_dataplane::raw::line::Line;
use spinwire_dataplane::shm::directory::{self, EndpointRef, RegisterError};
use spinwire_dataplane::shm::lane_table::{self, LaneEnd};
use spinwire_dataplane::shm::lease::{self, Joiner, ProcessLease};
use spinwire_dataplane::shm::reclaim;
use spinwire_dataplane::shm::segment::{self, Geometry, Identity, JoinError, Segment};
use spinwire_layouts::shm::{EndpointId, EndpointKind};

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
