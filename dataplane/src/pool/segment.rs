//! A pool in a mapping: made once, checked by everybody who opens it, seen as tables of lines.
//!
//! Where everything lies is computed from the geometry alone; the offsets in the headers are compared with that, never used.
//! Headers and classes are copied once and not read again.
//!
//! Invariants: as for [`Segment`](crate::shm::Segment): tables lie inside of the mapping and do not overlap.

use core::mem::offset_of;

use spinwire_layouts::pod::Pod;
use spinwire_layouts::shm::pool::{CLASS_COUNT_MAX, POOL_HEADER_OFFSET, TAG_BITS};
use spinwire_layouts::shm::{
    BufferId, BufferMeta, Orphans, PoolHeader, SegmentHeader, SegmentKind, SizeClass, SlotHome,
    SlotSplit,
};
use spinwire_layouts::word::{from_usize, to_usize, widen};

use super::free_map::FreeMap;
use super::geometry::{ClassPlan, ClassSpec, PoolGeometry, PoolPlan};
use super::slot::Slot;
use crate::id::Name;
use crate::raw::line::{LINE_BYTES, LINE_WORDS, Line, word};
use crate::raw::payload::PlainAccess;
use crate::shm::lease::{Members, ProcessTable};
use crate::shm::segment::{
    Identity, JoinError, check, check_identity, copy_header, publish_header, raise_epoch,
    read_epoch,
};
use crate::sync::{AtomicU64, Ordering};

/// Lines of a [`BufferMeta`].
pub(super) const META_LINES: usize = 5;
const _: () = assert!(size_of::<BufferMeta>() == META_LINES * LINE_BYTES);

/// The clock of a pool is as exact as that, where somebody keeps it in time.
pub const TICK_NS: u64 = 100_000_000;
/// Its word.
const CLOCK: usize = (POOL_HEADER_OFFSET + offset_of!(PoolHeader, clock_unix_ns)) / 8;

/// A checked pool. Cheap to share by reference, for any thread; good for as long as the mapping.
///
/// Who wants to take buffers joins it ([`lease::join`](crate::shm::lease::join)) and opens a [`Pool`](super::Pool) on it.
#[derive(Clone, Debug)]
pub struct PoolSegment<'s> {
    lines: &'s [Line],
    metas: &'s [[Line; META_LINES]],
    geometry: PoolGeometry,
    plan: PoolPlan,
    name: Name,
    tag: u8,
    key: u32,
    access: Option<PlainAccess>,
}

/// What was checked of a pool, to see the same mapping again without another look at its headers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PoolShape {
    geometry: PoolGeometry,
    name: Name,
    tag: u8,
}

/// One class in the mapping.
#[derive(Clone, Copy, Debug)]
pub(super) struct ClassPart<'s> {
    pub(super) spec: ClassSpec,
    pub(super) first_slot: u32,
    pub(super) map: FreeMap<'s>,
    /// Empty where the slots have segments of their own.
    pub(super) arena: &'s [Line],
}

impl<'s> PoolSegment<'s> {
    /// Makes a pool in `lines`: fresh memory, all zero, that nobody else looks at as a pool yet.
    ///
    /// # Errors
    /// `Geometry` where a number is out of range, `Truncated` where the memory is too small.
    pub fn format(
        lines: &'s [Line],
        geometry: &PoolGeometry,
        identity: &Identity,
    ) -> Result<Self, JoinError> {
        let plan = geometry.plan().map_err(JoinError::Geometry)?;
        let tag = tag_of(identity.created_unix_ns ^ widen(identity.pid));
        let shape = PoolShape { geometry: *geometry, name: identity.name, tag };
        let pool = Self::cut(lines, &shape, &plan)?;
        write_tables(lines, &shape, &plan);
        for class in pool.classes() {
            class.map.mark_all();
        }
        let header = SegmentHeader {
            process_count: geometry.process_count(),
            process_table_offset: plan.process_table,
            ..identity.header(SegmentKind::Pool, plan.segment_bytes)
        };
        publish_header(lines, &header);
        Ok(pool)
    }

    /// Checks the pool that somebody made in `lines`.
    ///
    /// # Errors
    /// [`JoinError`] names the field that is wrong.
    pub fn attach(lines: &'s [Line]) -> Result<Self, JoinError> {
        let header = copy_header(lines)?;
        check_identity(&header, SegmentKind::Pool)?;
        check("endpoint_count", widen(header.endpoint_count), 0)?;
        check("lane_count", widen(header.lane_count), 0)?;
        let pool_header: PoolHeader = copy(lines, POOL_HEADER_OFFSET)?;
        let tag = u8::try_from(pool_header.tag).ok().filter(|tag| (1..1 << TAG_BITS).contains(tag));
        let wrong = JoinError::Mismatch { field: "tag", found: widen(pool_header.tag), wanted: 1 };
        let shape = PoolShape {
            geometry: read_geometry(lines, header.process_count, &pool_header)?,
            name: Name::from_field(&header.name).map_err(JoinError::Name)?,
            tag: tag.ok_or(wrong)?,
        };
        let plan = shape.geometry.plan().map_err(JoinError::Geometry)?;
        check("segment_bytes", header.segment_bytes, plan.segment_bytes)?;
        check("process_table_offset", header.process_table_offset, plan.process_table)?;
        check("slot_count", widen(pool_header.slot_count), widen(plan.slot_count))?;
        check("live_offset", pool_header.live_offset, plan.live)?;
        check("meta_offset", pool_header.meta_offset, plan.meta)?;
        check("arena_offset", pool_header.arena_offset, plan.arena)?;
        Self::cut(lines, &shape, &plan)
    }

    /// What was checked, for [`PoolSegment::reattach`].
    #[must_use]
    pub const fn shape(&self) -> PoolShape {
        PoolShape { geometry: self.geometry, name: self.name, tag: self.tag }
    }

    /// The pool in `lines` again, by what was checked before. Reads nothing of it.
    ///
    /// # Errors
    /// `Truncated` where the mapping is shorter than the one that was checked.
    pub fn reattach(lines: &'s [Line], shape: &PoolShape) -> Result<Self, JoinError> {
        let plan = shape.geometry.plan().map_err(JoinError::Geometry)?;
        Self::cut(lines, shape, &plan)
    }

    fn cut(lines: &'s [Line], shape: &PoolShape, plan: &PoolPlan) -> Result<Self, JoinError> {
        let truncated = JoinError::Truncated {
            found: from_usize(lines.len().saturating_mul(LINE_BYTES)),
            wanted: plan.segment_bytes,
        };
        let at = |bytes: u64| to_usize(bytes) / LINE_BYTES;
        let lines = lines.get(..at(plan.segment_bytes)).ok_or(truncated)?;
        let meta_lines = to_usize(widen(plan.slot_count)).wrapping_mul(META_LINES);
        let metas = lines.get(at(plan.meta)..).and_then(|rest| rest.get(..meta_lines));
        Ok(Self {
            lines,
            metas: metas.ok_or(truncated)?.as_chunks::<META_LINES>().0,
            geometry: shape.geometry,
            plan: *plan,
            name: shape.name,
            tag: shape.tag,
            key: key_of(&shape.name, shape.tag),
            access: None,
        })
    }

    /// The pool with plain slices of its buffers allowed.
    #[must_use]
    pub const fn with_plain_access(mut self, access: PlainAccess) -> Self {
        self.access = Some(access);
        self
    }

    #[inline]
    pub(super) const fn access(&self) -> Option<PlainAccess> {
        self.access
    }

    /// What it has.
    #[must_use]
    pub const fn geometry(&self) -> &PoolGeometry {
        &self.geometry
    }

    /// The name that its creator gave it.
    #[must_use]
    pub const fn name(&self) -> &Name {
        &self.name
    }

    /// The tag that its ids carry.
    #[inline]
    #[must_use]
    pub const fn tag(&self) -> u8 {
        self.tag
    }

    /// What tells it from most other pools, in 24 bits.
    #[inline]
    pub(crate) const fn key(&self) -> u32 {
        self.key
    }

    /// Tells those who take buffers what time it is, in nanoseconds since 1970 UTC: they read no clock, and stamp what they take
    /// with what was told last. Costs them nothing but the line, which moves where the time has changed by more than
    /// [`TICK_NS`]; any number of processes may do it.
    pub fn tick(&self, unix_ns: u64) {
        if let Some(clock) = self.clock_word()
            && clock.load(Ordering::Relaxed).abs_diff(unix_ns) > TICK_NS
        {
            clock.store(unix_ns, Ordering::Relaxed);
        }
    }

    pub(super) fn clock_word(&self) -> Option<&'s AtomicU64> {
        word(self.lines, CLOCK)
    }

    /// How often somebody was found to be gone.
    #[must_use]
    pub fn liveness_epoch(&self) -> u64 {
        read_epoch(self.lines)
    }

    pub(super) fn raise_epoch(&self) {
        raise_epoch(self.lines);
    }

    #[inline]
    pub(super) const fn split(&self) -> SlotSplit {
        SlotSplit::new(self.geometry.process_count())
    }

    /// The five lines of a slot.
    #[inline]
    pub(super) fn meta(&self, slot: u32) -> Option<&'s [Line; META_LINES]> {
        self.metas.get(to_usize(widen(slot)))
    }

    pub(super) fn slot(&self, slot: u32) -> Option<Slot<'s>> {
        let [hot, ..] = self.meta(slot)?;
        let [word, ..] = hot.words();
        Some(Slot { word, split: self.split() })
    }

    pub(super) fn classes(&self) -> impl Iterator<Item = ClassPart<'s>> {
        let lines = self.lines;
        self.geometry.places(&self.plan).map(move |(spec, class)| {
            let part = |from: u64, length: u64| {
                let rest = lines.get(to_usize(from) / LINE_BYTES..).unwrap_or_default();
                rest.get(..to_usize(length)).unwrap_or_default()
            };
            let arena_lines = from_usize(to_usize(spec.arena_bytes()) / LINE_BYTES);
            ClassPart {
                spec: *spec,
                first_slot: class.first_slot,
                map: FreeMap::new(
                    part(class.live, FreeMap::lines_for(spec.slot_count)),
                    spec.slot_count,
                ),
                arena: match spec.home {
                    SlotHome::Arena => part(class.arena, arena_lines),
                    SlotHome::Segment => &[],
                },
            }
        })
    }

    /// The id of a use of a slot.
    #[inline]
    pub(super) const fn id(&self, slot: u32, generation: u64) -> BufferId {
        BufferId::new(slot, self.tag, generation)
    }
}

impl<'s> Members<'s> for PoolSegment<'s> {
    fn process_table(&self) -> ProcessTable<'s> {
        let from = to_usize(self.plan.process_table) / LINE_BYTES;
        let to = to_usize(self.plan.live) / LINE_BYTES;
        ProcessTable::new(self.lines.get(from..to).unwrap_or_default())
    }
}

/// Writes the pool header and the classes.
fn write_tables(lines: &[Line], shape: &PoolShape, plan: &PoolPlan) {
    let pool_header = PoolHeader {
        class_count: u32::try_from(shape.geometry.classes().len()).unwrap_or(u32::MAX),
        slot_count: plan.slot_count,
        live_offset: plan.live,
        meta_offset: plan.meta,
        arena_offset: plan.arena,
        tag: u32::from(shape.tag),
        orphans: u32::from(shape.geometry.orphan_rule().code()),
        ..PoolHeader::ZERO
    };
    write(lines, POOL_HEADER_OFFSET, pool_header.as_bytes());
    for (index, (spec, class)) in shape.geometry.places(plan).enumerate() {
        let entry = SizeClass {
            slot_bytes: spec.slot_bytes,
            slot_count: spec.slot_count,
            first_slot: class.first_slot,
            live_offset: class.live,
            arena_offset: class.arena,
            home: spec.home.code(),
            ..SizeClass::ZERO
        };
        write(lines, class_at(index), entry.as_bytes());
    }
}

/// The geometry that the headers tell.
fn read_geometry(
    lines: &[Line],
    process_count: u32,
    header: &PoolHeader,
) -> Result<PoolGeometry, JoinError> {
    let most = from_usize(CLASS_COUNT_MAX);
    let found = widen(header.class_count);
    if found > most {
        return Err(JoinError::Mismatch { field: "class_count", found, wanted: most });
    }
    let found = widen(header.orphans);
    let orphans = u8::try_from(header.orphans).ok().and_then(Orphans::from_code);
    let unknown = JoinError::Mismatch { field: "orphans", found, wanted: 0 };
    let mut geometry = PoolGeometry::new(process_count).orphans(orphans.ok_or(unknown)?);
    let mut next =
        ClassPlan { first_slot: 0, live: header.live_offset, arena: header.arena_offset };
    for index in 0..to_usize(widen(header.class_count)) {
        let entry: SizeClass = copy(lines, class_at(index))?;
        let line = from_usize(LINE_BYTES);
        if entry.slot_bytes == 0 || !entry.slot_bytes.is_multiple_of(line) {
            let found = entry.slot_bytes;
            return Err(JoinError::Mismatch { field: "slot_bytes", found, wanted: line });
        }
        let found = widen(entry.home);
        let unknown = JoinError::Mismatch { field: "home", found, wanted: 0 };
        let home = SlotHome::from_code(entry.home).ok_or(unknown)?;
        let spec = ClassSpec { slot_bytes: entry.slot_bytes, slot_count: entry.slot_count, home };
        geometry.push(spec);
        // The offsets in the pool header are compared with what follows from the geometry once that is known.
        let place = next.advance(&spec);
        check("first_slot", widen(entry.first_slot), widen(place.first_slot))?;
        check("live_offset of a class", entry.live_offset, place.live)?;
        check("arena_offset of a class", entry.arena_offset, place.arena)?;
    }
    Ok(geometry)
}

/// Where the entry of a class lies.
const fn class_at(index: usize) -> usize {
    let table = POOL_HEADER_OFFSET.wrapping_add(size_of::<PoolHeader>());
    table.wrapping_add(index.wrapping_mul(size_of::<SizeClass>()))
}

/// 24 bits of a hash (FNV-1a) of a pool's name and tag.
fn key_of(name: &Name, tag: u8) -> u32 {
    let bytes = name.as_str().bytes().chain([tag]);
    let hash = bytes
        .fold(0x811c_9dc5_u32, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193));
    (hash ^ hash >> 24) & 0x00ff_ffff
}

/// A tag from 1 to 15.
const fn tag_of(seed: u64) -> u8 {
    let mixed = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 32;
    let [tag, ..] = (mixed % ((1 << TAG_BITS) - 1)).wrapping_add(1).to_le_bytes();
    tag
}

fn write(lines: &[Line], at: usize, bytes: &[u8]) {
    for (i, bytes) in bytes.as_chunks::<8>().0.iter().enumerate() {
        if let Some(to) = word(lines, (at / 8).wrapping_add(i)) {
            to.store(u64::from_le_bytes(*bytes), Ordering::Relaxed);
        }
    }
}

/// A copy of a structure at `at` bytes, read once.
fn copy<T: Pod>(lines: &[Line], at: usize) -> Result<T, JoinError> {
    let end = at.wrapping_add(size_of::<T>());
    let found = from_usize(lines.len().saturating_mul(LINE_BYTES));
    let truncated = JoinError::Truncated { found, wanted: from_usize(end) };
    let mut bytes = [0; 64];
    for (i, to) in bytes.as_chunks_mut::<8>().0.iter_mut().enumerate() {
        let word = word(lines, (at / 8).wrapping_add(i)).ok_or(truncated)?;
        *to = word.load(Ordering::Relaxed).to_le_bytes();
    }
    T::from_bytes(&bytes).ok_or(truncated)
}

/// The word of `lines` at that index, which is below [`LINE_WORDS`] times their number.
#[inline]
pub(super) fn load(line: &Line, index: usize) -> u64 {
    line.words().get(index % LINE_WORDS).map_or(0, |word: &AtomicU64| word.load(Ordering::Relaxed))
}

/// Stores a word of a line.
#[inline]
pub(super) fn store(line: &Line, index: usize, value: u64) {
    if let Some(word) = line.words().get(index % LINE_WORDS) {
        word.store(value, Ordering::Relaxed);
    }
}

/// Words of the hot line.
pub(super) const SIZE: usize = offset_of!(BufferMeta, size) / 8;
pub(super) const KIND: usize = offset_of!(BufferMeta, kind) / 8;
pub(super) const DETACHED_BY: usize = offset_of!(BufferMeta, detached_by) / 8;
pub(super) const TAKEN: usize = offset_of!(BufferMeta, taken_unix_ns) / 8;
pub(super) const LEFT: usize = offset_of!(BufferMeta, left_unix_ns) / 8;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tags_are_never_zero() {
        for seed in 0..1000 {
            assert!((1..16).contains(&tag_of(seed * 7919)));
        }
    }
}
