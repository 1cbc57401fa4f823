//! How old a buffer is: stamps by the pool's clock, which somebody else keeps, for who takes buffers reads none.
#![allow(
    clippy::unwrap_used,
    clippy::arithmetic_side_effects,
    reason = "a test stops at the first thing that is not as expected"
)]

use core::mem::offset_of;

use spinwire_dataplane::pool::{
    BufferRow, Description, Pool, PoolError, PoolGeometry, Shape, TICK_NS,
};
use spinwire_dataplane::raw::line::word;
use spinwire_dataplane::sync::Ordering;
use spinwire_layouts::shm::pool::POOL_HEADER_OFFSET;
use spinwire_layouts::shm::{BufferId, DType, PoolHeader, SlotSplit, SlotWord};
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

/// A buffer with that number in a stream, left for whoever knows the id.
fn numbered(pool: &Pool<'_>, sequence: u64) -> BufferId {
    let mut guard = pool.acquire(4).unwrap();
    let mut description =
        Description::new(DType::U32, Shape::contiguous(DType::U32, &[1]).unwrap());
    description.sequence = sequence;
    guard.describe(&description).unwrap();
    guard.detach().unwrap()
}

/// Every 100,000th hand-over of a day in which one slot is used a million times a second: 864,000 of 8.64e10. What lies between
/// them is left out by setting the slot word to what it would be. In a pool for 32 handles a generation has 23 bits, so it comes
/// round ten thousand times; in one for 16 it has 39 bits, and does not.
#[test]
fn a_day_of_hand_overs() {
    const LEFT_OUT: u64 = 100_000;
    const SECOND: u64 = 1_000_000_000;
    for processes in [16, 32] {
        let rig = Rig::new(PoolGeometry::new(processes).class(64, 1));
        let (from, to) = (rig.process(1), rig.process(2));
        let meta = (POOL_HEADER_OFFSET + offset_of!(PoolHeader, meta_offset)) / 8;
        let meta = word(rig.lines, meta).unwrap().load(Ordering::Relaxed);
        let slot = word(rig.lines, usize::try_from(meta / 8).unwrap()).unwrap();
        let split = SlotSplit::new(processes);
        let (mut before, mut rounds) = (BufferId::NONE, 0_u64);
        for number in (0..24 * 3600 * 1_000_000_u64).step_by(100_000) {
            let day = DAY + number * (SECOND / 1_000_000);
            rig.segment.tick(day);
            let sequence = (u64::from(u32::MAX) - 500).wrapping_add(number);
            let id = numbered(from, sequence);
            let row = row(&rig, id);
            assert!(day - row.taken_unix_ns <= TICK_NS, "{number}: {row:?}");
            let read = to.adopt(id).unwrap();
            assert_eq!(read.description().unwrap().sequence, sequence);
            drop(read);
            for stale in [id, before] {
                assert!(to.get(stale).is_err(), "{number}: {stale} of {id}");
            }
            rounds += u64::from(id.generation() < before.generation());
            before = id;
            // As many uses more, by others.
            let word = slot.load(Ordering::Relaxed);
            let parts = split.unpack(word);
            let later = (parts.generation + LEFT_OUT - 1) % split.generation_max();
            slot.store(split.pack(SlotWord { generation: later, ..parts }), Ordering::Relaxed);
        }
        assert_eq!(rounds > 10_000, processes == 32, "{rounds}");
        assert_eq!(rounds == 0, processes == 16, "{rounds}");
    }
}
