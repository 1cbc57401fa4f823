//! How many buffers of which sizes, and where that puts everything.

use spinwire_layouts::shm::pool::{
    CLASS_COUNT_MAX, POOL_HEADER_OFFSET, POOL_PROCESS_COUNT_MAX, SLOT_COUNT_MAX,
};
use spinwire_layouts::shm::{BufferMeta, Orphans, PoolHeader, ProcessEntry, SizeClass, SlotHome};
use spinwire_layouts::word::{from_usize, to_usize, widen};

use super::free_map::FreeMap;
use crate::raw::line::LINE_BYTES;
use crate::shm::GeometryError;
use crate::shm::segment::PowerOfTwo;

/// Largest buffer: 1 TiB.
const SLOT_BYTES_MAX: u64 = 1 << 40;
/// The arena starts on a page.
const PAGE_BYTES: u64 = 4096;

/// Buffers of one size.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ClassSpec {
    /// Bytes of each: a multiple of 64, to 1 TiB.
    pub slot_bytes: u64,
    /// How many.
    pub slot_count: u32,
    /// Where their bytes lie.
    pub home: SlotHome,
}

impl ClassSpec {
    const NONE: Self = Self { slot_bytes: 0, slot_count: 0, home: SlotHome::Arena };

    /// Bytes of all slots in the arena.
    pub(super) const fn arena_bytes(&self) -> u64 {
        match self.home {
            SlotHome::Arena => self.slot_bytes.wrapping_mul(widen(self.slot_count)),
            SlotHome::Segment => 0,
        }
    }
}

/// What a pool has: processes, classes, and what becomes of references that nobody holds.
///
/// ```
/// use spinwire_dataplane::pool::PoolGeometry;
///
/// // 1,024 buffers of 4 KiB and 16 of 1 MiB, for up to 16 processes.
/// let geometry = PoolGeometry::new(16).class(4 << 10, 1024).class(1 << 20, 16);
/// assert_eq!(geometry.slot_count(), 1040);
/// assert!(geometry.segment_bytes().is_ok());
/// assert!(PoolGeometry::new(16).segment_bytes().is_err(), "no class");
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PoolGeometry {
    process_count: u32,
    class_count: u32,
    classes: [ClassSpec; CLASS_COUNT_MAX],
    orphans: Orphans,
}

impl Default for PoolGeometry {
    /// 16 processes; 1,024 buffers of 4 KiB, 128 of 64 KiB, 16 of 1 MiB: 28 MiB.
    fn default() -> Self {
        Self::new(16).class(4 << 10, 1024).class(64 << 10, 128).class(1 << 20, 16)
    }
}

impl PoolGeometry {
    /// For up to so many handles (1 to 32, one a thread) at once, without any buffers yet. Each process beyond 15 halves the
    /// number of uses of a buffer after which its generations come round again, 2^40.
    #[must_use]
    pub const fn new(process_count: u32) -> Self {
        Self {
            process_count,
            class_count: 0,
            classes: [ClassSpec::NONE; CLASS_COUNT_MAX],
            orphans: Orphans::Keep,
        }
    }

    /// With `slot_count` buffers of `slot_bytes` (rounded up to whole cache lines) more. Larger than those of the class
    /// before. The 17th class makes the geometry one that is refused.
    #[must_use]
    pub const fn class(self, slot_bytes: u64, slot_count: u32) -> Self {
        self.with(ClassSpec { slot_bytes, slot_count, home: SlotHome::Arena })
    }

    /// As [`class`](Self::class), for buffers so large that each gets a segment of its own when it is first used.
    #[must_use]
    pub const fn large_class(self, slot_bytes: u64, slot_count: u32) -> Self {
        self.with(ClassSpec { slot_bytes, slot_count, home: SlotHome::Segment })
    }

    /// With a class of `slot_count` buffers for every power of two from `least` to `most` bytes.
    #[must_use]
    pub const fn powers_of_two(self, least: u64, most: u64, slot_count: u32) -> Self {
        let mut geometry = self;
        let mut bytes = match least.checked_next_power_of_two() {
            Some(bytes) => bytes,
            None => u64::MAX,
        };
        while bytes <= most
            && bytes <= SLOT_BYTES_MAX
            && to_usize(widen(geometry.class_count)) <= CLASS_COUNT_MAX
        {
            geometry = geometry.class(bytes, slot_count);
            bytes = bytes.wrapping_mul(2);
        }
        geometry
    }

    /// With another rule for references that a dead process left behind. The default is to keep them.
    #[must_use]
    pub const fn orphans(self, orphans: Orphans) -> Self {
        Self { orphans, ..self }
    }

    const fn with(mut self, spec: ClassSpec) -> Self {
        self.push(spec);
        self
    }

    pub(super) const fn push(&mut self, spec: ClassSpec) {
        let line = from_usize(LINE_BYTES);
        let slot_bytes = match spec.slot_bytes.checked_next_multiple_of(line) {
            Some(bytes) => bytes,
            None => u64::MAX,
        };
        let (_, rest) = self.classes.split_at_mut(match to_usize(widen(self.class_count)) {
            at if at < CLASS_COUNT_MAX => at,
            _ => CLASS_COUNT_MAX,
        });
        if let [first, ..] = rest {
            *first = ClassSpec { slot_bytes, ..spec };
        }
        self.class_count = self.class_count.saturating_add(1);
    }

    /// Handles that can be open at once.
    #[must_use]
    pub const fn process_count(&self) -> u32 {
        self.process_count
    }

    /// The classes, smallest first.
    #[must_use]
    pub fn classes(&self) -> &[ClassSpec] {
        let count = to_usize(widen(self.class_count)).min(CLASS_COUNT_MAX);
        self.classes.get(..count).unwrap_or_default()
    }

    /// Buffers of all classes together.
    #[must_use]
    pub fn slot_count(&self) -> u32 {
        self.classes().iter().fold(0, |sum: u32, class| sum.saturating_add(class.slot_count))
    }

    /// What becomes of references that a dead process left behind.
    #[must_use]
    pub const fn orphan_rule(&self) -> Orphans {
        self.orphans
    }

    /// Bytes of a pool with this geometry.
    ///
    /// # Errors
    /// [`GeometryError`] names the number that is out of range.
    pub fn segment_bytes(&self) -> Result<u64, GeometryError> {
        Ok(self.plan()?.segment_bytes)
    }

    pub(super) fn plan(&self) -> Result<PoolPlan, GeometryError> {
        let most_processes = widen(POOL_PROCESS_COUNT_MAX);
        in_range("process_count", widen(self.process_count), (1, most_processes))?;
        in_range("class_count", widen(self.class_count), (1, from_usize(CLASS_COUNT_MAX)))?;
        let class_table = from_usize(POOL_HEADER_OFFSET.wrapping_add(size_of::<PoolHeader>()));
        let after = |at: u64, count: u64, each: usize| {
            // No overflow: counts are at most 2^20 and entries at most 320 bytes.
            at.wrapping_add(count.wrapping_mul(from_usize(each)))
        };
        let process_table = after(class_table, from_usize(CLASS_COUNT_MAX), size_of::<SizeClass>());
        let live = after(process_table, widen(self.process_count), size_of::<ProcessEntry>());
        let mut plan = PoolPlan {
            class_table,
            process_table,
            live,
            meta: live,
            arena: 0,
            segment_bytes: 0,
            slot_count: 0,
        };
        let mut least = from_usize(LINE_BYTES);
        let mut arena_bytes = 0_u64;
        for spec in self.classes() {
            in_range("slot_bytes", spec.slot_bytes, (least, SLOT_BYTES_MAX))?;
            let left = SLOT_COUNT_MAX.saturating_sub(plan.slot_count);
            in_range("slot_count", widen(spec.slot_count), (1, widen(left)))?;
            least = spec.slot_bytes.wrapping_add(from_usize(LINE_BYTES));
            plan.meta = after(plan.meta, FreeMap::lines_for(spec.slot_count), LINE_BYTES);
            plan.slot_count = plan.slot_count.wrapping_add(spec.slot_count);
            // No overflow: at most 2^20 slots of 2^40 bytes.
            arena_bytes = arena_bytes.wrapping_add(spec.arena_bytes());
        }
        let meta_end = after(plan.meta, widen(plan.slot_count), size_of::<BufferMeta>());
        plan.arena =
            meta_end.wrapping_add(PAGE_BYTES.wrapping_sub(1)) & !PAGE_BYTES.wrapping_sub(1);
        plan.segment_bytes = plan.arena.wrapping_add(arena_bytes);
        in_range("segment_bytes", plan.segment_bytes, (0, 1 << 46))?;
        Ok(plan)
    }

    /// Where each class lies, by a plan of this geometry.
    pub(super) fn places(&self, plan: &PoolPlan) -> impl Iterator<Item = (&ClassSpec, ClassPlan)> {
        let mut next = ClassPlan { first_slot: 0, live: plan.live, arena: plan.arena };
        self.classes().iter().map(move |spec| (spec, next.advance(spec)))
    }
}

/// Byte offsets of everything, computed from a checked [`PoolGeometry`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct PoolPlan {
    pub(super) class_table: u64,
    pub(super) process_table: u64,
    pub(super) live: u64,
    pub(super) meta: u64,
    pub(super) arena: u64,
    pub(super) segment_bytes: u64,
    pub(super) slot_count: u32,
}

/// Where the parts of a class lie.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct ClassPlan {
    pub(super) first_slot: u32,
    pub(super) live: u64,
    pub(super) arena: u64,
}

impl ClassPlan {
    /// Where this class lies; from then on, where the next one does.
    pub(super) fn advance(&mut self, spec: &ClassSpec) -> Self {
        let arena = match spec.home {
            SlotHome::Arena => self.arena,
            SlotHome::Segment => 0,
        };
        let place = Self { arena, ..*self };
        let live_bytes = FreeMap::lines_for(spec.slot_count).wrapping_mul(from_usize(LINE_BYTES));
        self.first_slot = self.first_slot.wrapping_add(spec.slot_count);
        self.live = self.live.wrapping_add(live_bytes);
        self.arena = self.arena.wrapping_add(spec.arena_bytes());
        place
    }
}

const fn in_range(
    field: &'static str,
    found: u64,
    (least, most): (u64, u64),
) -> Result<(), GeometryError> {
    if least <= found && found <= most {
        Ok(())
    } else {
        Err(GeometryError { field, found, least, most, power_of_two: PowerOfTwo::Free })
    }
}
