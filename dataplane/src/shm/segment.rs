//! A segment: one mapping, checked once, seen as tables of lines.
//!
//! [`Segment::format`] makes a segment in fresh zeroed memory; [`Segment::attach`] checks one that somebody else made. Both
//! compute where every table lies from the five counts of [`Geometry`] alone; the offsets in the header are compared
//! with that, never used.
//!
//! Invariants: the tables lie inside of the mapping, do not overlap, and stay as they are for as long as it is mapped;
//! the header is copied once and the copy is checked; after that nothing of it but the epoch is read again.

use core::fmt;
use core::mem::offset_of;

use spinwire_layouts::abi::{ABI_VERSION, LAYOUT_HASH, MAGIC, READY};
use spinwire_layouts::pod::Pod;
use spinwire_layouts::shm::stats::STATS_PAGE_BYTES;
use spinwire_layouts::shm::{
    EndpointEntry, LaneHeader, NEWS_LANE_COUNT, NameError, ProcessEntry, SegmentHeader, SegmentKind,
};
use spinwire_layouts::wire::message::MESSAGE_LENGTH_MAX;
use spinwire_layouts::word::{from_usize, to_usize, widen};

use super::bell::{self, Waker};
use super::lane::LaneMemory;
use super::lease::{Members, ProcessTable};
use crate::id::Name;
use crate::raw::line::{LINE_BYTES, Line, word};
use crate::sync::Ordering;

/// How much of everything a segment has.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Geometry {
    /// Processes that can be in it at once: 1 to 4096.
    pub process_count: u32,
    /// Endpoints that can be registered at once: 1 to 4096.
    pub endpoint_count: u32,
    /// Lanes, one per (sender, receiver) pair: 1 to 512.
    pub lane_count: u32,
    /// Cells of a lane, one per message under way: a power of two from 8 to 65,536.
    pub lane_cell_count: u32,
    /// Bytes of a lane for what messages have beyond their cell: a power of two from 1 KiB to 32 MiB.
    pub lane_spill_bytes: u32,
}

impl Default for Geometry {
    /// 64 processes, 64 endpoints, 128 lanes of 256 cells (16 KiB) and 128 KiB of spill: 18 MiB.
    fn default() -> Self {
        Self {
            process_count: 64,
            endpoint_count: 64,
            lane_count: 128,
            lane_cell_count: 256,
            lane_spill_bytes: 128 << 10,
        }
    }
}

/// A count that is out of range.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct GeometryError {
    /// The field.
    pub field: &'static str,
    /// Its value.
    pub found: u64,
    /// The least that it may be.
    pub least: u64,
    /// The most that it may be.
    pub most: u64,
    /// Whether it has to be a power of two, too.
    pub power_of_two: PowerOfTwo,
}

/// Whether a count has to be a power of two.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum PowerOfTwo {
    /// It has to.
    Required,
    /// Any number will do.
    Free,
}

impl fmt::Display for GeometryError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match self.power_of_two {
            PowerOfTwo::Required => "a power of two ",
            PowerOfTwo::Free => "",
        };
        let Self { field, found, least, most, .. } = self;
        write!(f, "{field}: {found} is out of range; give {kind}from {least} to {most}")
    }
}

impl core::error::Error for GeometryError {}

/// Byte offsets of the tables, computed from a checked [`Geometry`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Plan {
    process_table: u64,
    endpoint_table: u64,
    lane_table: u64,
    lane_ring: u64,
    segment_bytes: u64,
}

/// The rings start on a page of their own.
const PAGE_BYTES: u64 = 4096;

impl Geometry {
    /// The longest message that its lanes carry: half of the spill, at most 2^24 - 1 bytes.
    #[must_use]
    pub const fn message_bytes_max(&self) -> usize {
        let half = to_usize(widen(self.lane_spill_bytes)) / 2;
        if half < MESSAGE_LENGTH_MAX { half } else { MESSAGE_LENGTH_MAX }
    }

    /// Bytes of a segment with this geometry.
    ///
    /// # Errors
    /// [`GeometryError`] names the count that is out of range.
    pub fn segment_bytes(&self) -> Result<u64, GeometryError> {
        Ok(self.plan()?.segment_bytes)
    }

    fn plan(&self) -> Result<Plan, GeometryError> {
        use PowerOfTwo::{Free, Required};
        let lanes_most = from_usize(NEWS_LANE_COUNT);
        in_range("process_count", self.process_count, (1, 4096), Free)?;
        in_range("endpoint_count", self.endpoint_count, (1, 4096), Free)?;
        in_range("lane_count", self.lane_count, (1, lanes_most), Free)?;
        in_range("lane_cell_count", self.lane_cell_count, (8, 65_536), Required)?;
        in_range("lane_spill_bytes", self.lane_spill_bytes, (1 << 10, 32 << 20), Required)?;
        // No overflow: with the ranges above the whole is less than 2^36 bytes.
        let after = |at: u64, count: u32, each: usize| {
            at.wrapping_add(widen(count).wrapping_mul(from_usize(each)))
        };
        let process_table = from_usize(size_of::<SegmentHeader>());
        let endpoint_table = after(process_table, self.process_count, size_of::<ProcessEntry>());
        let lane_table = after(endpoint_table, self.endpoint_count, size_of::<EndpointEntry>());
        let table_end = after(lane_table, self.lane_count, size_of::<LaneHeader>());
        let lane_ring = table_end.wrapping_add(PAGE_BYTES - 1) & !(PAGE_BYTES - 1);
        let segment_bytes =
            after(lane_ring, self.lane_count, self.ring_lines().wrapping_mul(LINE_BYTES));
        Ok(Plan { process_table, endpoint_table, lane_table, lane_ring, segment_bytes })
    }

    /// Lines of one lane: cells, then spill.
    const fn ring_lines(&self) -> usize {
        to_usize(widen(self.lane_cell_count)).wrapping_add(self.spill_lines())
    }

    const fn spill_lines(&self) -> usize {
        to_usize(widen(self.lane_spill_bytes)) / LINE_BYTES
    }
}

const fn in_range(
    field: &'static str,
    found: u32,
    (least, most): (u64, u64),
    power_of_two: PowerOfTwo,
) -> Result<(), GeometryError> {
    let value = widen(found);
    let ok = least <= value
        && value <= most
        && (matches!(power_of_two, PowerOfTwo::Free) || value.is_power_of_two());
    if ok { Ok(()) } else { Err(GeometryError { field, found: value, least, most, power_of_two }) }
}

/// Who makes a segment.
#[derive(Clone, Copy, Debug)]
pub struct Identity {
    /// The name of the segment.
    pub name: Name,
    /// The boot id of the machine.
    pub boot_id: [u8; 16],
    /// Now, in nanoseconds since 1970 UTC.
    pub created_unix_ns: u64,
    /// Process id of the creator.
    pub pid: u32,
    /// Start time of the creator, in clock ticks since boot.
    pub start_time: u64,
    /// Bytes of the pages that the mapping got.
    pub page_bytes: u64,
    /// The PID namespace of the creator; 0 where nobody will ask.
    pub pid_namespace: u64,
}

/// Why a mapping is no segment that this build can use.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum JoinError {
    /// It is shorter than what its header says, or than a header.
    Truncated {
        /// Bytes that there are.
        found: u64,
        /// Bytes that there should be.
        wanted: u64,
    },
    /// Its creator is not done with it yet, or died while it made it.
    NotReady,
    /// A field of the header is not what this build writes.
    Mismatch {
        /// The field.
        field: &'static str,
        /// What it holds.
        found: u64,
        /// What it should hold.
        wanted: u64,
    },
    /// A count of the header is out of range.
    Geometry(GeometryError),
    /// The name in the header is none.
    Name(NameError),
}

impl fmt::Display for JoinError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Truncated { found, wanted } => {
                write!(f, "segment_bytes: {wanted} wanted, the file has {found}; remove it")
            }
            Self::NotReady => f.write_str(
                "ready: not set; its creator is still at work (try again) or died (remove it)",
            ),
            Self::Mismatch { field: field @ "magic", .. } => {
                write!(f, "{field}: this is no Spinwire segment; use another name, or remove it")
            }
            Self::Mismatch { field: field @ ("abi_version" | "layout_hash"), found, wanted } => {
                write!(
                    f,
                    "{field}: found {found:#x}, this build has {wanted:#x}; use the same version on both sides"
                )
            }
            Self::Mismatch { field: field @ "kind", found, wanted } => {
                write!(
                    f,
                    "{field}: this is a {}, not a {}",
                    kind_name(*found),
                    kind_name(*wanted)
                )?;
                f.write_str("; use another name")
            }
            Self::Mismatch { field, found, wanted } => {
                write!(
                    f,
                    "{field}: found {found:#x}, expected {wanted:#x}; the segment is damaged, remove it"
                )
            }
            Self::Geometry(e) => write!(f, "the segment is damaged, remove it: {e}"),
            Self::Name(e) => write!(f, "name: the segment is damaged, remove it: {e}"),
        }
    }
}

impl core::error::Error for JoinError {}

fn kind_name(code: u64) -> &'static str {
    let kind = u32::try_from(code).ok().and_then(SegmentKind::from_code);
    kind.map_or("segment of an unknown kind", SegmentKind::name)
}

/// What was checked of a segment, to see the same mapping as a segment again without another look at its header, which a peer
/// may have scribbled over since.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SegmentShape {
    geometry: Geometry,
    name: Name,
}

/// A checked segment. A handle: cheap to copy, good for as long as the mapping.
#[derive(Clone, Copy, Debug)]
pub struct Segment<'s> {
    header: &'s [Line],
    processes: &'s [Line],
    endpoints: &'s [Line],
    lanes: &'s [Line],
    rings: &'s [Line],
    geometry: Geometry,
    name: Name,
    waker: Option<Waker>,
}

impl<'s> Segment<'s> {
    /// Makes a segment in `lines`: fresh memory, all zero, that nobody else looks at as a segment yet.
    ///
    /// # Errors
    /// `Geometry` where a count is out of range, `Truncated` where the memory is too small.
    pub fn format(
        lines: &'s [Line],
        geometry: Geometry,
        identity: &Identity,
    ) -> Result<Self, JoinError> {
        let plan = geometry.plan().map_err(JoinError::Geometry)?;
        let segment = Self::cut(lines, geometry, &plan, identity.name)?;
        let header = SegmentHeader {
            process_count: geometry.process_count,
            endpoint_count: geometry.endpoint_count,
            lane_count: geometry.lane_count,
            lane_cell_count: geometry.lane_cell_count,
            lane_spill_bytes: geometry.lane_spill_bytes,
            process_table_offset: plan.process_table,
            endpoint_table_offset: plan.endpoint_table,
            lane_table_offset: plan.lane_table,
            lane_ring_offset: plan.lane_ring,
            ..identity.header(SegmentKind::Domain, plan.segment_bytes)
        };
        publish_header(segment.header, &header);
        Ok(segment)
    }

    /// Checks the segment that somebody made in `lines`.
    ///
    /// # Errors
    /// [`JoinError`] names the field that is wrong.
    pub fn attach(lines: &'s [Line]) -> Result<Self, JoinError> {
        let header = copy_header(lines)?;
        check_identity(&header, SegmentKind::Domain)?;
        let geometry = Geometry {
            process_count: header.process_count,
            endpoint_count: header.endpoint_count,
            lane_count: header.lane_count,
            lane_cell_count: header.lane_cell_count,
            lane_spill_bytes: header.lane_spill_bytes,
        };
        let plan = geometry.plan().map_err(JoinError::Geometry)?;
        check("segment_bytes", header.segment_bytes, plan.segment_bytes)?;
        check("process_table_offset", header.process_table_offset, plan.process_table)?;
        check("endpoint_table_offset", header.endpoint_table_offset, plan.endpoint_table)?;
        check("lane_table_offset", header.lane_table_offset, plan.lane_table)?;
        check("lane_ring_offset", header.lane_ring_offset, plan.lane_ring)?;
        let name = Name::from_field(&header.name).map_err(JoinError::Name)?;
        Self::cut(lines, geometry, &plan, name)
    }

    /// What was checked, for [`Segment::reattach`].
    #[must_use]
    pub const fn shape(&self) -> SegmentShape {
        SegmentShape { geometry: self.geometry, name: self.name }
    }

    /// The segment in `lines` again, by what was checked before. Reads nothing of it.
    ///
    /// # Errors
    /// `Truncated` where the mapping is shorter than the one that was checked.
    pub fn reattach(lines: &'s [Line], shape: &SegmentShape) -> Result<Self, JoinError> {
        let plan = shape.geometry.plan().map_err(JoinError::Geometry)?;
        Self::cut(lines, shape.geometry, &plan, shape.name)
    }

    fn cut(
        lines: &'s [Line],
        geometry: Geometry,
        plan: &Plan,
        name: Name,
    ) -> Result<Self, JoinError> {
        let truncated = JoinError::Truncated {
            found: from_usize(lines.len().saturating_mul(LINE_BYTES)),
            wanted: plan.segment_bytes,
        };
        let part = |from: u64, to: u64| {
            lines.get(to_usize(from) / LINE_BYTES..to_usize(to) / LINE_BYTES).ok_or(truncated)
        };
        // The gap between lane table and rings is padding: the table ends where its entries end.
        let lane_lines =
            to_usize(widen(geometry.lane_count)).wrapping_mul(size_of::<LaneHeader>() / LINE_BYTES);
        Ok(Self {
            header: part(0, plan.process_table)?,
            processes: part(plan.process_table, plan.endpoint_table)?,
            endpoints: part(plan.endpoint_table, plan.lane_table)?,
            lanes: part(plan.lane_table, plan.lane_ring)?.get(..lane_lines).ok_or(truncated)?,
            rings: part(plan.lane_ring, plan.segment_bytes)?,
            geometry,
            name,
            waker: None,
        })
    }

    /// This segment in the hands of somebody who can wake those who sleep. Without, nothing that is published through it rings.
    #[must_use]
    pub const fn with_waker(mut self, waker: Waker) -> Self {
        self.waker = Some(waker);
        self
    }

    pub(super) const fn waker(&self) -> Option<Waker> {
        self.waker
    }

    /// How much of everything there is.
    #[must_use]
    pub const fn geometry(&self) -> &Geometry {
        &self.geometry
    }

    /// The name that its creator gave it.
    #[must_use]
    pub const fn name(&self) -> &Name {
        &self.name
    }

    /// How often somebody was found to be gone. One load tells whether a look at the tables is due.
    #[must_use]
    #[inline]
    pub fn liveness_epoch(&self) -> u64 {
        read_epoch(self.header)
    }

    /// Tells everybody to look at the tables; wakes who sleeps.
    pub(crate) fn raise_epoch(&self) {
        raise_epoch(self.header);
        bell::ring_all(self);
    }

    /// The lines of an endpoint entry.
    pub(super) fn endpoint(&self, slot: u32) -> Option<&'s [Line; 4]> {
        entry(self.endpoints, slot)
    }

    /// The lines of a lane header.
    pub(super) fn lane(&self, lane: u32) -> Option<&'s [Line; 4]> {
        entry(self.lanes, lane)
    }

    /// The memory of a lane.
    #[must_use]
    pub fn lane_memory(&self, lane: u32) -> Option<LaneMemory<'s>> {
        let [_, credit, ..] = self.lane(lane)?;
        let ring_lines = self.geometry.ring_lines();
        let from = to_usize(widen(lane)).checked_mul(ring_lines)?;
        let ring = self.rings.get(from..from.checked_add(ring_lines)?)?;
        let (cells, spill) =
            ring.split_at_checked(to_usize(widen(self.geometry.lane_cell_count)))?;
        Some(LaneMemory { cells, spill, credit })
    }
}

impl<'s> Members<'s> for Segment<'s> {
    fn process_table(&self) -> ProcessTable<'s> {
        ProcessTable::new(self.processes)
    }
}

impl Identity {
    /// What the headers of all kinds of segments have in common.
    pub(crate) const fn header(&self, kind: SegmentKind, segment_bytes: u64) -> SegmentHeader {
        SegmentHeader {
            magic: MAGIC,
            abi_version: ABI_VERSION,
            kind: kind.code(),
            layout_hash: LAYOUT_HASH,
            segment_bytes,
            boot_id: self.boot_id,
            created_unix_ns: self.created_unix_ns,
            page_bytes: self.page_bytes,
            pid_namespace: self.pid_namespace,
            name: *self.name.as_field(),
            creator_pid: widen(self.pid),
            creator_start_time: self.start_time,
            ..SegmentHeader::ZERO
        }
    }
}

/// Writes a header, the ready word last.
pub(crate) fn publish_header(lines: &[Line], header: &SegmentHeader) {
    for (i, bytes) in header.as_bytes().as_chunks::<8>().0.iter().enumerate() {
        if let Some(to) = word(lines, i) {
            to.store(u64::from_le_bytes(*bytes), Ordering::Relaxed);
        }
    }
    if let Some(ready) = word(lines, offset_of!(SegmentHeader, ready) / 8) {
        // SYNC(ready): Release pairs with the Acquire in copy_header.
        ready.store(READY, Ordering::Release);
    }
}

/// A copy of the header in `lines`, whatever it holds, for tools that show it. Read once.
///
/// # Errors
/// `Truncated` where there is not even a header, `NotReady` where it is not finished.
pub fn copy_header(lines: &[Line]) -> Result<SegmentHeader, JoinError> {
    let wanted = from_usize(size_of::<SegmentHeader>());
    let found = from_usize(lines.len().saturating_mul(LINE_BYTES));
    let truncated = JoinError::Truncated { found, wanted };
    let ready = word(lines, offset_of!(SegmentHeader, ready) / 8).ok_or(truncated)?;
    // SYNC(ready): Acquire pairs with the Release in publish_header.
    let ready = ready.load(Ordering::Acquire);
    let mut bytes = [0; size_of::<SegmentHeader>()];
    for (i, to) in bytes.as_chunks_mut::<8>().0.iter_mut().enumerate() {
        *to = word(lines, i).ok_or(truncated)?.load(Ordering::Relaxed).to_le_bytes();
    }
    let header = SegmentHeader::from_bytes(&bytes).ok_or(truncated)?;
    if ready != READY {
        // A file of something else is told apart from a segment that is not finished.
        let fresh = header.magic == 0 || header.magic == MAGIC;
        return Err(if fresh && ready == 0 {
            JoinError::NotReady
        } else if header.magic == MAGIC {
            JoinError::Mismatch { field: "ready", found: ready, wanted: READY }
        } else {
            JoinError::Mismatch { field: "magic", found: header.magic, wanted: MAGIC }
        });
    }
    Ok(header)
}

pub(crate) fn check_identity(header: &SegmentHeader, kind: SegmentKind) -> Result<(), JoinError> {
    check("magic", header.magic, MAGIC)?;
    check("abi_version", widen(header.abi_version), widen(ABI_VERSION))?;
    check("layout_hash", header.layout_hash, LAYOUT_HASH)?;
    check("kind", widen(header.kind), widen(kind.code()))
}

/// Bytes of a segment that holds a stats page: a page for the header, then the stats page.
pub const STATS_SEGMENT_BYTES: usize = STATS_OFFSET + STATS_PAGE_BYTES;
const STATS_OFFSET: usize = 4096;

/// Makes a segment with nothing but a stats page in `lines`: fresh memory, all zero. `introduce` makes the page before
/// anybody can see it; what it makes is returned.
///
/// # Errors
/// `Truncated` where the memory is too small; whatever `introduce` says.
pub fn format_stats<'s, T, E: From<JoinError>>(
    lines: &'s [Line],
    identity: &Identity,
    introduce: impl FnOnce(&'s [Line]) -> Result<T, E>,
) -> Result<T, E> {
    let made = introduce(stats_lines(lines)?)?;
    let header = SegmentHeader {
        stats_offset: from_usize(STATS_OFFSET),
        ..identity.header(SegmentKind::Stats, from_usize(STATS_SEGMENT_BYTES))
    };
    publish_header(lines, &header);
    Ok(made)
}

/// The stats page in a segment that somebody made.
///
/// # Errors
/// [`JoinError`] names the field that is wrong.
pub fn attach_stats(lines: &[Line]) -> Result<&[Line], JoinError> {
    let header = copy_header(lines)?;
    check_identity(&header, SegmentKind::Stats)?;
    check("segment_bytes", header.segment_bytes, from_usize(STATS_SEGMENT_BYTES))?;
    check("stats_offset", header.stats_offset, from_usize(STATS_OFFSET))?;
    stats_lines(lines)
}

fn stats_lines(lines: &[Line]) -> Result<&[Line], JoinError> {
    lines.get(STATS_OFFSET / LINE_BYTES..STATS_SEGMENT_BYTES / LINE_BYTES).ok_or(
        JoinError::Truncated {
            found: from_usize(lines.len().saturating_mul(LINE_BYTES)),
            wanted: from_usize(STATS_SEGMENT_BYTES),
        },
    )
}

/// The liveness epoch of the segment in `lines`.
#[inline]
pub(crate) fn read_epoch(lines: &[Line]) -> u64 {
    // SYNC(epoch): Acquire pairs with the Release in raise_epoch.
    word(lines, EPOCH_WORD).map_or(0, |epoch| epoch.load(Ordering::Acquire))
}

/// Raises the liveness epoch of the segment in `lines`.
pub(crate) fn raise_epoch(lines: &[Line]) {
    if let Some(epoch) = word(lines, EPOCH_WORD) {
        // SYNC(epoch): Release pairs with the Acquire in read_epoch.
        epoch.fetch_add(1, Ordering::Release);
    }
}

const EPOCH_WORD: usize = offset_of!(SegmentHeader, liveness_epoch) / 8;

fn entry<const N: usize>(table: &[Line], slot: u32) -> Option<&[Line; N]> {
    table.as_chunks::<N>().0.get(to_usize(widen(slot)))
}

pub(crate) const fn check(field: &'static str, found: u64, wanted: u64) -> Result<(), JoinError> {
    if found == wanted { Ok(()) } else { Err(JoinError::Mismatch { field, found, wanted }) }
}
