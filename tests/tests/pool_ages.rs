//! How old a buffer is: stamps by the pool's clock, which somebody else keeps, for who takes buffers reads none.
#![allow(
    clippy::unwrap_used,
    clippy::arithmetic_side_effects,
    reason = "a test stops at the first thing that is not as expected"
)]

use spinwire_dataplane::pool::{BufferRow, PoolError, PoolGeometry, TICK_NS};
use spinwire_layouts::shm::BufferId;
use spinwire_tests::pool::Rig;

/// Some day in 2026.
const DAY: u64 = 1_800_000_000_000_000_000;
const HOUR: u64 = 3_600_000_000_000;

fn rig() -> Rig {
    Rig::new(PoolGeometry::new(4).class(1024, 1).class(4096, 2))
}

fn row(rig: &Rig, id: BufferId) -> BufferRow {
    rig.segment.rows().find(|row| row.id == id).unwrap()
}

#[test]
fn a_buffer_is_as_old_as_its_present_use() {
    let rig = rig();
    let pool = rig.process(1);
    let guard = pool.acquire(1).unwrap();
    assert_eq!(row(&rig, guard.id()).taken_unix_ns, 0, "nobody keeps the clock");
    drop(guard);
    rig.segment.tick(DAY);
    let first = pool.acquire(1).unwrap();
    rig.segment.tick(DAY + HOUR);
    assert_eq!(
        row(&rig, first.id()).taken_unix_ns,
        DAY,
        "when it was taken, not when it was looked at"
    );
    let first = first.publish().unwrap();
    let other = rig.process(2).get(first.id()).unwrap();
    assert_eq!(row(&rig, first.id()).taken_unix_ns, DAY, "who reads makes it no younger");
    drop((first, other));
    let second = pool.acquire(1).unwrap();
    assert_eq!(row(&rig, second.id()).taken_unix_ns, DAY + HOUR, "the same slot, another use");
}

#[test]
fn a_search_stamps_as_well_as_a_slot_that_is_remembered() {
    let rig = rig();
    rig.segment.tick(DAY);
    let pool = rig.process(1);
    let all = [pool.acquire(4096).unwrap(), pool.acquire(4096).unwrap()];
    assert!(all.iter().all(|guard| row(&rig, guard.id()).taken_unix_ns == DAY));
}

#[test]
fn what_is_left_behind_says_since_when() {
    let rig = rig();
    let (a, b) = (rig.process(1), rig.process(2));
    rig.segment.tick(DAY);
    let guard = a.acquire(1).unwrap();
    let id = guard.id();
    assert_eq!(row(&rig, id).left_unix_ns, 0, "nothing is");
    rig.segment.tick(DAY + HOUR);
    assert_eq!(guard.detach().map_err(PoolError::from), Ok(id));
    assert_eq!([row(&rig, id).taken_unix_ns, row(&rig, id).left_unix_ns], [DAY, DAY + HOUR]);
    rig.segment.tick(DAY + 2 * HOUR);
    b.add_ref(id).unwrap();
    assert_eq!(row(&rig, id).left_unix_ns, DAY + 2 * HOUR, "by whom, too, is told of the last one");
    for _reference in 0..29 {
        b.add_ref(id).unwrap();
    }
    rig.segment.tick(DAY + 3 * HOUR);
    assert_eq!(b.add_ref(id), Err(PoolError::TooManyReferences));
    assert_eq!(row(&rig, id).left_unix_ns, DAY + 2 * HOUR, "who is refused leaves nothing");
    for _reference in 0..31 {
        b.release(id).unwrap();
    }
    rig.segment.tick(DAY + 4 * HOUR);
    let next = a.acquire(1).unwrap();
    assert_eq!(
        (next.id().slot(), row(&rig, next.id()).left_unix_ns),
        (id.slot(), 0),
        "not of this use"
    );
    next.set_ref_count(2).unwrap();
    assert_eq!(row(&rig, next.id()).left_unix_ns, DAY + 4 * HOUR);
    let id = next.id();
    b.add_ref(id).unwrap();
    rig.segment.tick(DAY + 5 * HOUR);
    b.add_ref(id).unwrap();
    assert_eq!(row(&rig, id).left_unix_ns, DAY + 5 * HOUR, "to a buffer that is being written");
}

#[test]
fn the_clock_moves_in_steps_and_follows_a_calendar_that_was_set_back() {
    let rig = rig();
    let pool = rig.process(1);
    let stamp = |unix_ns| {
        rig.segment.tick(unix_ns);
        row(&rig, pool.acquire(1).unwrap().id()).taken_unix_ns
    };
    assert_eq!(stamp(DAY), DAY);
    assert_eq!(stamp(DAY + TICK_NS), DAY, "the line stays where it is");
    assert_eq!(stamp(DAY + TICK_NS + 1), DAY + TICK_NS + 1);
    assert_eq!(stamp(DAY - HOUR), DAY - HOUR);
    assert_eq!(stamp(u64::MAX), u64::MAX, "a scribbler");
    assert_eq!(stamp(DAY), DAY);
}
