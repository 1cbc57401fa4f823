//! What a person asks for at the command line: buffers that were left for nobody, bits that nobody set, and a look at what is in
//! a buffer without taking it.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    reason = "a test stops at the first thing that is not as expected"
)]

use spinwire_dataplane::pool::{
    BufferRow, Description, NoHost, PoolError, PoolGeometry, PoolSegment, Shape,
};
use spinwire_dataplane::raw::line::word;
use spinwire_dataplane::sync::{AtomicU64, Ordering};
use spinwire_hostshim::pool::detacher;
use spinwire_layouts::shm::{BufferId, DType};
use spinwire_tests::pool::Rig;

fn small() -> Rig {
    Rig::new(PoolGeometry::new(4).class(64, 2).class(256, 4))
}

fn row(segment: &PoolSegment<'_>, id: BufferId) -> BufferRow {
    segment.rows().find(|row| row.id == id).unwrap()
}

fn free_count(rig: &Rig) -> u32 {
    rig.segment.stats().map(|class| class.free).sum()
}

/// A word of the pool, by its distance from where a word of the pool header points to.
fn word_at(rig: &Rig, field_at: usize, distance: u64) -> &'static AtomicU64 {
    let start = word(rig.lines, field_at / 8).unwrap().load(Ordering::Relaxed);
    word(rig.lines, usize::try_from((start + distance) / 8).unwrap()).unwrap()
}

const LIVE_OFFSET: usize = 256 + 8;
const META_OFFSET: usize = 256 + 16;

#[test]
fn what_was_left_for_nobody_is_freed_as_it_was_seen_and_no_other() {
    let rig = small();
    let (a, b) = (rig.process(1), rig.process(2));
    let segment = rig.segment;
    let id = a.acquire(200).unwrap().detach().unwrap();
    let seen = row(segment, id);
    assert_eq!(detacher(segment, &seen), Some(a.lease().slot()));

    let held = b.get(id).unwrap();
    assert!(!segment.free_detached(&seen, &NoHost), "somebody came for it");
    assert!(!segment.free_detached(&row(segment, id), &NoHost), "somebody holds it");
    drop(held);
    let again = b.adopt(id).unwrap().detach().unwrap();
    assert_eq!(row(segment, again).word, seen.word);
    assert!(!segment.free_detached(&seen, &NoHost), "another left it since");
    b.add_ref(id).unwrap();
    assert!(!segment.free_detached(&seen, &NoHost), "another count");
    assert_eq!(b.ref_count(id), Ok(2));
    let seen = row(segment, id);
    assert_eq!(detacher(segment, &seen), Some(b.lease().slot()), "the last one counts");
    assert!(segment.free_detached(&seen, &NoHost), "with all its references");
    assert_eq!(b.get(id).unwrap_err(), PoolError::Stale);
    assert_eq!(b.release(id), Err(PoolError::Stale));
    assert_eq!(free_count(&rig), 6);
    assert!(!segment.free_detached(&seen, &NoHost), "once");

    // The slot goes round, and what was seen is not taken for what is there now.
    let next = (0..5)
        .map(|_| a.acquire(200).unwrap().detach().unwrap())
        .find(|next| next.slot() == id.slot() || a.release(*next).is_err());
    assert!(!segment.free_detached(&seen, &NoHost));
    assert!(next.is_none_or(|next| a.ref_count(next) == Ok(1)));
    let writing = a.acquire(1).unwrap();
    assert!(!segment.free_detached(&row(segment, writing.id()), &NoHost));
    let free = segment.rows().find(|row| row.id == BufferId::NONE).unwrap();
    assert!(!segment.free_detached(&free, &NoHost));
    let far = BufferRow { id: BufferId::new(1_000_000, segment.tag(), 1), ..seen };
    assert!(!segment.free_detached(&far, &NoHost));
}

#[test]
fn a_handle_that_left_is_no_detacher_any_more() {
    let rig = small();
    let (a, b) = (rig.process(1), rig.process(2));
    let id = a.acquire(1).unwrap().detach().unwrap();
    assert!(rig.mark_dead(a.lease()));
    assert_eq!(detacher(rig.segment, &row(rig.segment, id)), Some(0), "dead, and still listed");
    assert_eq!(rig.reclaim(a.lease()).unwrap().leases, 1);
    assert_eq!(detacher(rig.segment, &row(rig.segment, id)), None);
    let successor = rig.process(1);
    assert_eq!(successor.lease().slot(), a.lease().slot());
    assert_eq!(detacher(rig.segment, &row(rig.segment, id)), None, "another stay in its slot");
    assert_eq!(b.adopt(id).unwrap().id(), id, "it is there for whoever knows the id");
}

#[test]
fn bits_that_nobody_set_are_set_and_no_others() {
    let rig = small();
    let pool = rig.process(1);
    let held = pool.acquire(64).unwrap();
    // The first class has two slots; its bits are the third word of its line.
    let bits = word_at(&rig, LIVE_OFFSET, 16);
    bits.store(0, Ordering::Relaxed);
    assert_eq!(
        pool.acquire(64).map(drop),
        Err(PoolError::Retry(spinwire_dataplane::error::Retry::PoolFull))
    );
    assert_eq!(rig.segment.mend(&NoHost), 1, "the one that is free");
    assert_eq!(bits.load(Ordering::Relaxed).count_ones(), 1);
    assert_eq!(rig.segment.mend(&NoHost), 0);
    let found = pool.acquire(64).unwrap();
    assert_ne!(found.id().slot(), held.id().slot());
}

#[test]
fn a_description_is_seen_without_taking_the_buffer() {
    let rig = small();
    let pool = rig.process(1);
    let shape = Shape::contiguous(DType::U16, &[3, 5]).unwrap();
    let mut description = Description::new(DType::U16, shape);
    description.sequence = 9;
    description.producer[..2].copy_from_slice(b"me");
    let mut writer = pool.acquire(30).unwrap();
    let id = writer.id();
    assert!(rig.segment.description_of(&row(rig.segment, id)).is_none(), "nothing was said");
    writer.describe(&description).unwrap();
    assert!(rig.segment.description_of(&row(rig.segment, id)).is_none(), "it is being written");
    let reader = writer.publish().unwrap();
    let seen = row(rig.segment, id);
    assert_eq!(rig.segment.description_of(&seen), Some(description));
    assert_eq!(pool.ref_count(id), Ok(1), "no reference was taken");

    // What lies behind the last dimension is nobody's: a writer of another make may leave anything there.
    let behind = 320 * u64::from(id.slot()) + 128 + 2 * 8;
    word_at(&rig, META_OFFSET, behind).store(77, Ordering::Relaxed);
    word_at(&rig, META_OFFSET, behind + 64).store(78, Ordering::Relaxed);
    assert_eq!(reader.description().unwrap(), description);
    assert!(reader.description().unwrap().shape.is_contiguous(DType::U16));
    // A shape that leaves the buffer, and a number of dimensions that is none.
    let kind = word_at(&rig, META_OFFSET, 320 * u64::from(id.slot()) + 16);
    let good = kind.load(Ordering::Relaxed);
    for dimensions in [3_u64, 9, 255] {
        kind.store(good & !(0xff << 16) | dimensions << 16, Ordering::Relaxed);
        assert!(rig.segment.description_of(&seen).is_none(), "{dimensions} dimensions");
        assert!(reader.description().is_err(), "{dimensions} dimensions");
    }
    kind.store(good, Ordering::Relaxed);
    drop(reader);
    assert!(rig.segment.description_of(&seen).is_none(), "it was freed");
}

#[test]
fn a_dimension_of_one_element_has_no_stride_that_counts() {
    let dtype = DType::F32;
    let side_by_side = |lengths: &[u64], strides: &[u64]| {
        Shape::strided(lengths, strides).unwrap().is_contiguous(dtype)
    };
    assert!(side_by_side(&[1, 4], &[400, 4]) && side_by_side(&[4, 1], &[4, 400]));
    assert!(side_by_side(&[2, 3], &[12, 4]) && side_by_side(&[0, 3], &[1, 1]));
    assert!(side_by_side(&[], &[]) && side_by_side(&[1], &[0]));
    assert!(!side_by_side(&[2, 3], &[16, 4]) && !side_by_side(&[3], &[8]));
    assert!(!side_by_side(&[2], &[0]));
}

#[test]
fn sizes_that_cannot_be_are_refused() {
    let refused = |geometry: PoolGeometry| geometry.segment_bytes().map_err(|error| error.field);
    assert_eq!(refused(PoolGeometry::new(1).class(0, 1)), Err("slot_bytes"));
    assert_eq!(refused(PoolGeometry::new(1).large_class(0, 1)), Err("slot_bytes"));
    for least in [u64::MAX, (1 << 63) + 1, 1 << 63] {
        let none = PoolGeometry::new(1).powers_of_two(least, u64::MAX, 1);
        let error = none.segment_bytes().unwrap_err();
        assert_eq!((error.field, error.found), ("class_count", 0), "{least}");
    }
}

#[test]
fn who_added_a_reference_is_known_and_holds_nothing() {
    let rig = small();
    let (a, b) = (rig.process(1), rig.process(2));
    let id = a.acquire(1).unwrap().detach().unwrap();
    assert_eq!(b.add_ref(id), Ok(2));
    let seen = row(rig.segment, id);
    assert_eq!((seen.word.holders, seen.word.detached), (0, 2));
    assert_eq!(detacher(rig.segment, &seen), Some(b.lease().slot()));
    for _ in 2..31 {
        a.add_ref(id).unwrap();
    }
    assert_eq!(b.add_ref(id), Err(PoolError::TooManyReferences));
    let seen = row(rig.segment, id);
    assert_eq!((seen.word.holders, seen.word.detached), (0, 31), "nothing is held");
    assert_eq!(detacher(rig.segment, &seen), Some(a.lease().slot()), "nor written down");

    let writer = a.acquire(1).unwrap();
    assert_eq!(b.add_ref(writer.id()), Ok(2), "also of one that is being written");
    assert_eq!(a.add_ref(writer.id()), Ok(3));
    let seen = row(rig.segment, writer.id());
    assert!(seen.word.writer && seen.word.holders.count_ones() == 1);
    let id = writer.id();
    drop(writer);
    assert_eq!(b.release(id), Ok(1));
    assert_eq!(b.release(id), Ok(0));
    assert_eq!(b.add_ref(id), Err(PoolError::Stale));
    assert_eq!(row(rig.segment, id).word.holders, 0);
}
