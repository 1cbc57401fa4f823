//! Hostile pools: whatever is scribbled into the metadata, nobody panics, hangs, leaves the mapping, or has two guards of his own
//! on one buffer of which one writes; and a pool that is not as it should be is not opened.
//!
//! `SPINWIRE_CHAOS_ROUNDS` sets how many seeds are tried, `SPINWIRE_SEED` with which to begin.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    reason = "a test stops at the first thing that is not as expected"
)]
#![allow(clippy::large_stack_frames, reason = "a test has a whole stack to itself")]

use std::collections::BTreeMap;

use spinwire_dataplane::pool::{
    AnyGuard, Description, NoHost, Pool, PoolGeometry, PoolSegment, Shape,
};
use spinwire_dataplane::raw::line::{Line, word};
use spinwire_dataplane::shm::{Geometry, JoinError, Segment, lease};
use spinwire_dataplane::sync::{AtomicU64, Ordering};
use spinwire_layouts::shm::{
    AccessMode, BufferId, DType, Lease, LeaseState, PoolHeader, SegmentHeader, SizeClass,
    SlotSplit, SlotWord,
};
use spinwire_tests::pool::{Rig, identity};
use spinwire_tests::rng::Rng;

const ROUNDS: u64 = 300;
const OPERATIONS: u64 = 400;
const PROCESSES: u32 = 4;

fn number_of(variable: &str, otherwise: u64) -> u64 {
    std::env::var(variable).map_or(otherwise, |text| text.parse().unwrap())
}

const fn geometry() -> PoolGeometry {
    PoolGeometry::new(PROCESSES).class(64, 70).class(512, 3)
}

/// Bytes before the process table: what is read once, when a pool is opened.
const HEADERS: usize =
    size_of::<SegmentHeader>() + size_of::<PoolHeader>() + 16 * size_of::<SizeClass>();

/// Any word behind the headers and before the arena: leases, free bits, slot words, descriptions.
fn scribble(lines: &[Line], rng: &mut Rng) {
    let metadata = lines.len() * 8 - (70 * 8 + 3 * 64);
    let at = match rng.index(4) {
        0 => rng.between(HEADERS / 8, HEADERS / 8 + 4 * 16 + 16),
        // The hot line of a slot; the two classes have one line of free bits each.
        1 | 2 => HEADERS / 8 + 4 * 16 + 16 + rng.index(73) * 40 + rng.index(6),
        _ => rng.between(HEADERS / 8, metadata - 1),
    };
    let Some(word) = word(lines, at) else { return };
    let old = word.load(Ordering::Relaxed);
    let small = |rng: &mut Rng| u32::try_from(rng.below(12)).unwrap();
    let value = match rng.index(9) {
        0 => rng.word(),
        1 => rng.below(16),
        2 => u64::MAX - rng.below(16),
        3 | 4 => old ^ (1 << rng.below(64)),
        5 => {
            let states =
                [LeaseState::Free, LeaseState::Claiming, LeaseState::Live, LeaseState::Dead];
            Lease { state: states[rng.index(4)], generation: small(rng), subject: small(rng) }
                .pack()
        }
        6 | 7 => SlotSplit::new(PROCESSES).pack(SlotWord {
            generation: rng.below(6),
            holders: small(rng),
            repairs: 0,
            detached: small(rng),
            writer: rng.chance(50),
        }),
        _ => 0,
    };
    word.store(value, Ordering::Relaxed);
}

struct Process {
    pool: &'static Pool<'static>,
    guards: Vec<AnyGuard<'static>>,
}

impl Process {
    fn act(&mut self, ids: &mut Vec<BufferId>, rng: &mut Rng) {
        let id = if ids.is_empty() { BufferId::NONE } else { ids[rng.index(ids.len())] };
        match rng.index(12) {
            0..=2 => {
                if let Ok(mut guard) = self.pool.acquire(rng.index(600)) {
                    ids.push(guard.id());
                    let length = guard.len();
                    assert!(length <= guard.capacity() && guard.capacity() <= 512);
                    guard.copy_from(0, &vec![1; length]).unwrap_or_default();
                    let shape = Shape::contiguous(DType::U16, &[rng.below(9), 3]).unwrap();
                    let _refused = guard.describe(&Description::new(DType::U16, shape));
                    self.guards.push(AnyGuard::Exclusive(guard));
                }
            }
            3 => self.guards.extend(self.pool.get(id).map(AnyGuard::Shared)),
            4 => self.guards.extend(self.pool.get_as(id, AccessMode::ReadWrite)),
            5 => self.guards.extend(self.pool.adopt(id).map(AnyGuard::Shared)),
            6 => self.guards.extend(self.pool.adopt_mut(id).map(AnyGuard::Exclusive)),
            7 => drop((self.pool.add_ref(id), self.pool.release(id), self.pool.ref_count(id))),
            8 => {
                let mut some = [BufferId::NONE; 3];
                let _refused = self.pool.preallocate(64, &mut some);
                ids.extend(some);
            }
            _ => {
                if let Some(mut guard) = self.guards.pop() {
                    if let AnyGuard::Exclusive(guard) = &guard {
                        let _refused = guard.set_ref_count(u32::try_from(rng.below(40)).unwrap());
                    }
                    if rng.chance(40) {
                        ids.extend(guard.forget());
                    }
                }
            }
        }
        self.look(rng);
        ids.truncate(64);
    }

    /// What a guard shows lies in its buffer, and a buffer that it may write is its own.
    fn look(&self, rng: &mut Rng) {
        let mut of_slot: BTreeMap<u32, (u32, u32)> = BTreeMap::new();
        for guard in &self.guards {
            let (all, writers) = of_slot.entry(guard.id().unwrap().slot()).or_default();
            *all += 1;
            *writers += u32::from(guard.mode() == Ok(AccessMode::ReadWrite));
            assert!(*writers == 0 || *all == 1, "two guards of one buffer");
        }
        if self.guards.is_empty() {
            return;
        }
        let length = match &self.guards[rng.index(self.guards.len())] {
            AnyGuard::Exclusive(guard) => {
                let _any = (guard.description(), guard.tensor::<u16>().is_ok());
                guard.len()
            }
            AnyGuard::Shared(guard) => {
                let _any = guard.description();
                if let Ok(tensor) = guard.tensor::<u16>() {
                    let _inside = tensor.get(&[rng.below(9), rng.below(4)]);
                }
                guard.copy_to(0, &mut [0; 8]).unwrap_or_default();
                guard.len()
            }
            AnyGuard::Forgotten => 0,
        };
        assert!(length <= 512);
    }
}

fn live_through(rig: Rig, rng: &mut Rng, mut harm: impl FnMut(&mut Rng)) {
    let mut processes: Vec<_> = (1..=3)
        .filter_map(|pid| rig.join(pid))
        .map(|lease| Process { pool: rig.open(lease), guards: Vec::new() })
        .collect();
    let mut ids = Vec::new();
    for _ in 0..OPERATIONS {
        harm(rng);
        if processes.is_empty() {
            return;
        }
        let who = rng.index(processes.len());
        processes[who].act(&mut ids, rng);
        if rng.chance(3) {
            // Somebody is found dead, or what looks like somebody.
            let rows: Vec<_> = lease::rows(rig.segment).collect();
            if let Some(row) = rows.get(rng.index(4)) {
                let _dead = lease::mark_dead(rig.segment, row.slot, row.lease);
                let _done = rig.segment.reclaim(row.slot, &NoHost);
            }
        }
        if rng.chance(3) {
            let seen = rig.segment.rows().filter(|row| row.size > row.slot_bytes).count();
            assert_eq!((seen, rig.segment.stats().count()), (0, 2));
            let id = ids.last().copied().unwrap_or_default();
            let _any = rig.segment.release(id, &NoHost);
        }
    }
}

#[test]
fn a_scribbler_between_the_operations() {
    let first = number_of("SPINWIRE_SEED", 0);
    for seed in first..first + number_of("SPINWIRE_CHAOS_ROUNDS", ROUNDS) {
        let rig = Rig::new(geometry());
        let mut rng = Rng::new(seed);
        let harm = rng.between(5, 100);
        let result = std::panic::catch_unwind(core::panic::AssertUnwindSafe(|| {
            live_through(rig, &mut rng, |rng| {
                if rng.chance(u64::try_from(harm).unwrap()) {
                    scribble(rig.lines, rng);
                }
            });
        }));
        assert!(result.is_ok(), "seed {seed}; again: SPINWIRE_SEED={seed}");
    }
}

#[test]
fn a_scribbler_at_the_same_time() {
    for seed in 0..number_of("SPINWIRE_CHAOS_ROUNDS", ROUNDS) / 20 {
        let rig = Rig::new(geometry());
        let over = AtomicU64::new(0);
        std::thread::scope(|scope| {
            let work = scope.spawn(|| {
                let result = std::panic::catch_unwind(core::panic::AssertUnwindSafe(|| {
                    live_through(rig, &mut Rng::new(seed), |_| {});
                }));
                over.store(1, Ordering::Relaxed);
                result.is_ok()
            });
            let mut rng = Rng::new(seed ^ 0xBAD);
            while over.load(Ordering::Relaxed) == 0 {
                scribble(rig.lines, &mut rng);
            }
            assert!(work.join().unwrap(), "seed {seed}");
        });
    }
}

#[test]
fn a_header_that_is_not_right_is_refused_by_field() {
    let rig = Rig::new(geometry());
    assert!(PoolSegment::attach(rig.lines).is_ok());
    let mut named = Vec::new();
    let mut rng = Rng::new(5);
    for at in 0..HEADERS / 8 {
        let word = word(rig.lines, at).unwrap();
        let right = word.load(Ordering::Relaxed);
        let wrong =
            [0, 1, u64::MAX, right ^ 1, right ^ 1 << 32, right ^ 1 << 63, right << 6, rng.word()];
        for wrong in wrong.into_iter().filter(|wrong| *wrong != right) {
            word.store(wrong, Ordering::Relaxed);
            match PoolSegment::attach(rig.lines) {
                Ok(opened) => assert!(opened.rows().count() >= 1),
                Err(JoinError::Mismatch { field, .. }) => named.push(field),
                Err(JoinError::Geometry(error)) => named.push(error.field),
                Err(JoinError::Truncated { .. }) => named.push("segment_bytes"),
                Err(JoinError::NotReady) => named.push("ready"),
                Err(JoinError::Name(_)) => named.push("name"),
            }
        }
        word.store(right, Ordering::Relaxed);
    }
    assert!(PoolSegment::attach(rig.lines).is_ok());
    named.sort_unstable();
    named.dedup();
    // The arena's offset is missed first where it does not suit that of the first class.
    for field in [
        "magic",
        "ready",
        "abi_version",
        "layout_hash",
        "kind",
        "segment_bytes",
        "process_count",
        "endpoint_count",
        "lane_count",
        "process_table_offset",
        "class_count",
        "slot_count",
        "first_slot",
        "slot_bytes",
        "live_offset",
        "meta_offset",
        "live_offset of a class",
        "arena_offset of a class",
        "home",
        "orphans",
        "tag",
        "name",
    ] {
        assert!(named.contains(&field), "{field} in {named:?}");
    }
}

#[test]
fn truncated_and_foreign_segments_are_no_pools() {
    let rig = Rig::new(geometry());
    for length in 0..rig.lines.len() {
        let refused = PoolSegment::attach(&rig.lines[..length]);
        assert!(matches!(refused, Err(JoinError::Truncated { .. })), "{length} lines");
        assert!(PoolSegment::reattach(&rig.lines[..length], &rig.segment.shape()).is_err());
    }
    assert!(PoolSegment::reattach(rig.lines, &rig.segment.shape()).is_ok());
    let kind = |error| matches!(error, JoinError::Mismatch { field: "kind", .. });
    assert!(kind(Segment::attach(rig.lines).unwrap_err()), "a pool is no domain");
    let small = Geometry { lane_count: 1, lane_cell_count: 8, ..Geometry::default() };
    let count = usize::try_from(small.segment_bytes().unwrap() / 64).unwrap();
    let lines: Vec<Line> = (0..count).map(|_| Line::zeroed()).collect();
    assert!(matches!(PoolSegment::attach(&lines), Err(JoinError::NotReady)));
    Segment::format(&lines, small, &identity()).unwrap();
    assert!(kind(PoolSegment::attach(&lines).unwrap_err()), "a domain is no pool");
}

#[test]
fn geometries_out_of_range_are_refused_by_field() {
    let field = |geometry: PoolGeometry| geometry.segment_bytes().map_err(|error| error.field);
    let good = PoolGeometry::new(1).class(64, 1);
    assert!(field(good).is_ok());
    assert!(field(PoolGeometry::default()).is_ok());
    assert!(field(PoolGeometry::new(32).powers_of_two(64, 1 << 20, 4)).is_ok());
    assert_eq!(PoolGeometry::new(2).powers_of_two(100, 1 << 10, 4).classes().len(), 4);
    assert_eq!(field(PoolGeometry::new(0).class(64, 1)), Err("process_count"));
    assert_eq!(field(PoolGeometry::new(33).class(64, 1)), Err("process_count"));
    assert_eq!(field(PoolGeometry::new(1)), Err("class_count"));
    assert_eq!(field(good.class(64, 1)), Err("slot_bytes"), "not ascending");
    assert_eq!(field(good.class(65, 0)), Err("slot_count"));
    assert_eq!(field(good.class(65, 1 << 20)), Err("slot_count"), "one too many");
    assert!(field(good.class(65, (1 << 20) - 1)).is_ok());
    assert_eq!(field(good.class(u64::MAX, 1)), Err("slot_bytes"));
    assert_eq!(field(good.class(1 << 40, 1 << 10)), Err("segment_bytes"));
    let many = (0..17).fold(PoolGeometry::new(1), |pool, n| pool.class(64 << n, 1));
    assert_eq!(field(many), Err("class_count"));
    assert_eq!(field(PoolGeometry::new(1).powers_of_two(1, 1 << 60, 1)), Err("class_count"));
}
