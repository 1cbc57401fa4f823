//! The rules of the buffer pool, one by one: who may have a buffer, how long an id is good, what a count counts.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    reason = "a test stops at the first thing that is not as expected"
)]

use spinwire_dataplane::error::{Fatal, Retry};
use spinwire_dataplane::pool::{AnyGuard, Description, Pool, PoolError, PoolGeometry, Shape};
use spinwire_dataplane::raw::line::word;
use spinwire_dataplane::sync::Ordering;
use spinwire_layouts::shm::pool::{Bf16Bits, F16Bits};
use spinwire_layouts::shm::{AccessMode, BufferId, DType, Element, Orphans, StorageType};
use spinwire_tests::pool::Rig;

const FULL: PoolError = PoolError::Retry(Retry::PoolFull);

fn small() -> Rig {
    Rig::new(PoolGeometry::new(4).class(1024, 4).class(4096, 2))
}

fn free_count(rig: &Rig) -> u32 {
    rig.segment.stats().map(|class| class.free).sum()
}

#[test]
fn a_pool_has_what_its_geometry_says() {
    let rig = small();
    assert_eq!(rig.segment.name().as_str(), "pool");
    assert_eq!(rig.segment.geometry().slot_count(), 6);
    let classes: Vec<_> = rig.segment.stats().map(|c| (c.slot_bytes, c.slots, c.free)).collect();
    assert_eq!(classes, [(1024, 4, 4), (4096, 2, 2)]);
    assert_eq!(rig.segment.rows().count(), 6);
    assert!(rig.segment.rows().all(|row| row.id == BufferId::NONE && row.is_marked));
}

#[test]
fn a_buffer_is_acquired_written_and_read_back() {
    let rig = small();
    let pool = rig.process(1);
    let mut buffer = pool.acquire(1000).unwrap();
    assert_eq!((buffer.len(), buffer.capacity()), (1000, 1024));
    assert_eq!(buffer.id().generation(), 1);
    buffer.as_mut_slice::<u8>().unwrap()[..5].copy_from_slice(b"hello");
    assert_eq!(&buffer.as_slice::<u8>().unwrap()[..5], b"hello");
    buffer.copy_from(8, b"0123456789").unwrap();
    buffer.copy_from(8, b"abc").unwrap();
    let mut text = [0; 10];
    buffer.copy_to(8, &mut text).unwrap();
    assert_eq!(&text, b"abc3456789", "what follows the bytes stays");
    assert_eq!(buffer.copy_from(4, b"x"), Err(PoolError::Misaligned));
    assert_eq!(
        buffer.copy_from(1000, b"x"),
        Err(PoolError::OutOfRange { end: 1001, length: 1000 })
    );
    let beyond = PoolError::OutOfRange { end: u64::MAX, length: 1000 };
    assert_eq!(buffer.copy_to(usize::MAX - 1, &mut text), Err(beyond));
    assert_eq!(buffer.set_len(1025), Err(PoolError::OutOfRange { end: 1025, length: 1024 }));
    buffer.set_len(1024).unwrap();
    assert_eq!(buffer.as_slice::<u64>().unwrap().len(), 128);
    drop(buffer);
    assert_eq!(free_count(&rig), 6);
}

#[test]
fn a_class_that_is_full_says_so_and_sizes_choose_their_class() {
    let rig = small();
    let pool = rig.process(1);
    let all: Vec<_> = (0..4).map(|_| pool.acquire(0).unwrap()).collect();
    let mut slots: Vec<_> = all.iter().map(|buffer| buffer.id().slot()).collect();
    slots.sort_unstable();
    assert_eq!(slots, [0, 1, 2, 3]);
    assert_eq!(pool.acquire(1024).unwrap_err(), FULL);
    assert_eq!(pool.acquire_until(1024, None).unwrap_err(), FULL, "nobody can sleep here");
    assert!(pool.acquire(1025).unwrap().id().slot() >= 4);
    let too_large = PoolError::TooLarge { wanted: 4097, most: 4096 };
    assert_eq!(pool.acquire(4097).unwrap_err(), too_large);
    assert!(pool.acquire(usize::MAX).is_err());
    let last = all[2].id().slot();
    drop(all);
    let again = pool.acquire(1).unwrap();
    assert_eq!(again.id().generation(), 2, "a used slot is taken first");
    assert_ne!(again.id().slot(), last, "the last to come is the first to go");
}

#[test]
fn get_reads_what_another_process_wrote() {
    let rig = small();
    let (a, b) = (rig.process(1), rig.process(2));
    let mut buffer = a.acquire(1024).unwrap();
    buffer.copy_from(0, b"hello").unwrap();
    let id = buffer.id();
    assert_eq!(b.get(id).unwrap_err(), PoolError::Busy);
    assert_eq!(a.get(id).unwrap_err(), PoolError::Busy);
    let shared = buffer.publish().unwrap();
    let other = b.get(id).unwrap();
    assert_eq!(&other.as_slice::<u8>().unwrap()[..5], b"hello");
    assert_eq!(other.len(), 1024);
    assert_eq!(b.get_mut(id).unwrap_err(), PoolError::Busy);
    assert_eq!(a.get_mut(id).unwrap_err(), PoolError::Busy);
    drop(shared);
    assert_eq!(b.ref_count(id), Ok(1));
    drop(other);
    assert_eq!(b.ref_count(id), Err(PoolError::Stale));
    assert_eq!(free_count(&rig), 6);
}

#[test]
fn counts_go_up_and_down_and_never_below_zero_nor_up_from_a_freed_slot() {
    let rig = small();
    let pool = rig.process(1);
    let buffer = pool.acquire(1024).unwrap();
    let id = buffer.id();
    assert_eq!(pool.ref_count(id), Ok(1));
    assert_eq!(pool.add_ref(id), Ok(2));
    assert_eq!(pool.release(id), Ok(1));
    assert_eq!(
        pool.release(id),
        Err(PoolError::NoReference),
        "the guard's own ends with the guard"
    );
    for count in 2..=32 {
        assert_eq!(pool.add_ref(id), Ok(count));
    }
    assert_eq!(pool.add_ref(id), Err(PoolError::TooManyReferences));
    let kept = buffer.detach().unwrap_err();
    assert_eq!(kept.error, PoolError::TooManyReferences);
    drop(kept.guard);
    for count in (0..31).rev() {
        assert_eq!(pool.release(id), Ok(count));
    }
    for _again in 0..2 {
        assert_eq!(pool.release(id), Err(PoolError::Stale));
        assert_eq!(pool.add_ref(id), Err(PoolError::Stale));
        assert_eq!(pool.get(id).unwrap_err(), PoolError::Stale);
        assert_eq!(pool.get_mut(id).unwrap_err(), PoolError::Stale);
        assert_eq!(pool.adopt(id).unwrap_err(), PoolError::Stale);
    }
    assert_eq!(free_count(&rig), 6);
}

#[test]
fn a_preset_count_is_the_owners_and_keeps_the_buffer_for_the_consumers() {
    let rig = small();
    let (a, b) = (rig.process(1), rig.process(2));
    let buffer = a.acquire(1024).unwrap();
    let id = buffer.id();
    buffer.set_ref_count(3).unwrap();
    assert_eq!((buffer.ref_count(), a.ref_count(id)), (3, Ok(3)));
    assert_eq!(buffer.set_ref_count(0), Err(PoolError::NoReference));
    assert_eq!(buffer.set_ref_count(33), Err(PoolError::TooManyReferences));
    drop(buffer);
    assert_eq!(b.ref_count(id), Ok(2));
    let (first, second) = (b.adopt(id).unwrap(), b.adopt(id).unwrap());
    assert_eq!(b.ref_count(id), Ok(1), "both are guards of one process");
    assert_eq!(b.adopt(id).unwrap_err(), PoolError::NoReference);
    drop((first, second));
    assert_eq!(b.ref_count(id), Err(PoolError::Stale));
}

#[test]
fn a_detached_buffer_lives_on_by_its_id() {
    let rig = small();
    let (a, b) = (rig.process(1), rig.process(2));
    let mut buffer = a.acquire(16).unwrap();
    buffer.copy_from(0, &[7; 16]).unwrap();
    let id = buffer.detach().unwrap();
    assert_eq!(a.ref_count(id), Ok(1));
    // In place, by whoever takes it: nobody else has it.
    let mut mine = b.adopt_mut(id).unwrap();
    assert_eq!(mine.as_slice::<u8>().unwrap(), [7; 16]);
    mine.copy_from(0, &[8; 8]).unwrap();
    assert_eq!(a.adopt(id).unwrap_err(), PoolError::Busy, "first of all it is being written");
    assert_eq!(mine.detach().unwrap(), id, "the id stays as long as the buffer lives");
    let back = a.get_mut(id).unwrap();
    assert_eq!(back.ref_count(), 2, "its own and the detached one");
    drop(back);
    assert_eq!(a.release(id), Ok(0));
    assert_eq!(b.get(id).unwrap_err(), PoolError::Stale);
}

#[test]
fn guards_of_one_process_are_one_reference() {
    let rig = small();
    let (a, b) = (rig.process(1), rig.process(2));
    let shared = a.acquire(8).unwrap().publish().unwrap();
    let id = shared.id();
    let more: Vec<_> = (0..100).map(|_| a.get(id).unwrap()).collect();
    assert_eq!(b.ref_count(id), Ok(1));
    let third = a.get(id).unwrap().detach().unwrap();
    assert_eq!((third, b.ref_count(id)), (id, Ok(2)));
    drop(shared);
    drop(more);
    assert_eq!(b.release(id), Ok(0));
}

#[test]
fn a_mode_that_only_the_program_knows() {
    let rig = small();
    let pool = rig.process(1);
    let id = pool.acquire(64).unwrap().detach().unwrap();
    let mut buffer = pool.get_as(id, AccessMode::ReadOnly).unwrap();
    assert_eq!(buffer.mode(), Ok(AccessMode::ReadOnly));
    assert!(buffer.as_slice::<u8>().is_ok());
    assert_eq!(buffer.as_mut_slice::<u8>().unwrap_err(), PoolError::ReadOnly);
    assert_eq!(buffer.copy_from(0, b"x"), Err(PoolError::ReadOnly));
    assert_eq!(buffer.forget(), Ok(id));
    assert!(matches!(buffer, AnyGuard::Forgotten));
    assert_eq!(buffer.forget(), Err(PoolError::AlreadyForgotten));
    assert_eq!(buffer.as_slice::<u8>().unwrap_err(), PoolError::AlreadyForgotten);
    assert_eq!(buffer.as_mut_slice::<u8>().unwrap_err(), PoolError::AlreadyForgotten);
    assert_eq!(
        (buffer.len(), buffer.id()),
        (Err(PoolError::AlreadyForgotten), Err(PoolError::AlreadyForgotten))
    );
    drop(buffer);
    assert_eq!(pool.ref_count(id), Ok(2));
    let mut buffer = pool.get_as(id, AccessMode::ReadWrite).unwrap();
    buffer.copy_from(0, b"x").unwrap();
    assert_eq!((pool.release(id), pool.release(id)), (Ok(2), Ok(1)));
    drop(buffer);
    assert_eq!(pool.ref_count(id), Err(PoolError::Stale));
}

#[test]
fn preallocation_is_all_or_nothing() {
    let rig = small();
    let pool = rig.process(1);
    let mut ids = [BufferId::NONE; 3];
    pool.preallocate(1024, &mut ids).unwrap();
    assert!(ids.iter().all(|id| pool.ref_count(*id) == Ok(1)));
    let mut more = [ids[0]; 2];
    assert_eq!(pool.preallocate(1024, &mut more), Err(FULL));
    assert_eq!(more, [BufferId::NONE; 2]);
    assert_eq!(free_count(&rig), 3, "what was taken is back");
    for id in ids {
        assert_eq!(pool.adopt(id).unwrap().id(), id);
    }
    assert_eq!(free_count(&rig), 6);
}

#[test]
fn ids_of_elsewhere_are_foreign_and_old_ids_stale() {
    let rig = small();
    let pool = rig.process(1);
    let id = pool.acquire(1).unwrap().detach().unwrap();
    let other_tag = if id.tag() == 1 { 2 } else { 1 };
    for foreign in [
        BufferId::NONE,
        BufferId::from_raw(u64::MAX),
        BufferId::new(id.slot(), other_tag, id.generation()),
        BufferId::new(6, id.tag(), 1),
    ] {
        assert_eq!(pool.get(foreign).unwrap_err(), PoolError::Foreign, "{foreign}");
        assert_eq!(pool.release(foreign), Err(PoolError::Foreign), "{foreign}");
    }
    for generation in [0, id.generation() - 1, id.generation() + 1, (1 << 40) - 1] {
        let stale = BufferId::new(id.slot(), id.tag(), generation);
        assert_eq!(pool.get(stale).unwrap_err(), PoolError::Stale);
    }
    // A free slot knows none of its uses, not even the last or the next.
    assert_eq!(pool.release(id), Ok(0));
    for generation in [id.generation(), id.generation() + 1] {
        let stale = BufferId::new(id.slot(), id.tag(), generation);
        assert_eq!(pool.get(stale).unwrap_err(), PoolError::Stale);
    }
}

#[test]
fn a_generation_wraps_past_zero() {
    for processes in [1, 16, 32] {
        let rig = Rig::new(PoolGeometry::new(processes).class(64, 1));
        let pool = rig.process(1);
        let [slot] = [rig.segment.rows().next().unwrap()];
        assert_eq!(slot.word.generation, 0);
        let bits = 64 - 24.max(9 + processes);
        // Where the slot words lie: the one class has one line of its own before them.
        let words = rig.lines.len() * 8;
        let id = pool.acquire(1).unwrap().detach().unwrap();
        let at = (0..words)
            .find(|at| {
                let found = word(rig.lines, *at).unwrap().load(Ordering::Relaxed);
                found == 1 << (64 - bits) | 1 << 1
            })
            .unwrap();
        assert_eq!(pool.release(id), Ok(0));
        let last = (1_u64 << bits) - 2;
        word(rig.lines, at).unwrap().store(last << (64 - bits), Ordering::Relaxed);
        let max = pool.acquire(1).unwrap().detach().unwrap();
        assert_eq!(max.generation(), last + 1);
        assert_eq!(pool.release(max), Ok(0));
        let first = pool.acquire(1).unwrap().detach().unwrap();
        assert_eq!(first.generation(), 1);
        assert_eq!(pool.get(max).unwrap_err(), PoolError::Stale);
        assert_eq!(pool.release(first), Ok(0));
    }
}

fn described(pool: &Pool<'_>, description: &Description) -> Result<BufferId, PoolError> {
    let mut buffer = pool.acquire(1024).unwrap();
    buffer.describe(description)?;
    Ok(buffer.detach().unwrap())
}

#[test]
fn a_tensor_is_seen_as_it_was_described() {
    let rig = small();
    let (a, b) = (rig.process(1), rig.process(2));
    let shape = Shape::contiguous(DType::F32, &[2, 3, 4]).unwrap();
    assert_eq!(shape.strides(), [48, 16, 4]);
    let mut buffer = a.acquire(96).unwrap();
    assert_eq!(buffer.description().unwrap_err(), PoolError::NotDescribed);
    for (at, element) in (0_u16..).zip(buffer.as_mut_slice::<f32>().unwrap()) {
        *element = f32::from(at);
    }
    let mut description = Description::new(DType::F32, shape);
    (description.timestamp_ns, description.sequence) = (12, u64::MAX);
    description.content_type[..9].copy_from_slice(b"order/bbo");
    description.producer[31] = 9;
    buffer.describe(&description).unwrap();
    let id = buffer.detach().unwrap();
    let read = b.adopt(id).unwrap();
    assert_eq!(read.description(), Ok(description));
    let tensor = read.tensor::<f32>().unwrap();
    assert_eq!(tensor.get(&[1, 2, 3]), Some(&23.0));
    assert_eq!(tensor.get(&[0, 1, 0]), Some(&4.0));
    for outside in [&[2, 0, 0][..], &[0, 3, 0], &[0, 0, 4], &[0, 0], &[0, 0, 0, 0], &[u64::MAX; 3]]
    {
        assert_eq!(tensor.get(outside), None);
    }
    assert_eq!(tensor.as_contiguous().unwrap().len(), 24);
    let wrong = PoolError::ElementMismatch { expected: DType::I32, actual: DType::F32 };
    assert_eq!(read.tensor::<i32>().unwrap_err(), wrong);
    drop(read);
    let next = a.acquire(96).unwrap();
    assert_eq!(next.description().unwrap_err(), PoolError::NotDescribed, "that was its last use");
}

#[test]
fn a_tensor_is_filled_in_as_it_was_described() {
    let rig = small();
    let pool = rig.process(1);
    let mut buffer = pool.acquire(64).unwrap();
    assert_eq!(buffer.tensor_mut::<u16>().unwrap_err(), PoolError::NotDescribed);
    // Rows of three, four elements apart.
    let shape = Shape::strided(&[2, 3], &[8, 2]).unwrap();
    buffer.describe(&Description::new(DType::U16, shape)).unwrap();
    let mut tensor = buffer.tensor_mut::<u16>().unwrap();
    assert_eq!(tensor.shape(), &shape);
    for (row, column) in (0..2).flat_map(|row| (0..3).map(move |column| (row, column))) {
        *tensor.get_mut(&[row, column]).unwrap() = u16::try_from(10 * row + column + 1).unwrap();
    }
    for outside in [&[2, 0][..], &[0, 3], &[0], &[u64::MAX, 0]] {
        assert_eq!(tensor.get_mut(outside), None);
    }
    assert!(tensor.as_contiguous_mut().is_none(), "there are gaps");
    let wrong = PoolError::ElementMismatch { expected: DType::I16, actual: DType::U16 };
    assert_eq!(buffer.tensor_mut::<i16>().unwrap_err(), wrong);
    let read = buffer.publish().unwrap();
    assert_eq!(&read.as_slice::<u16>().unwrap()[..8], [1, 2, 3, 0, 11, 12, 13, 0]);

    let mut buffer = pool.acquire(8).unwrap();
    let shape = Shape::contiguous(DType::F32, &[2]).unwrap();
    buffer.describe(&Description::new(DType::F32, shape)).unwrap();
    buffer.tensor_mut::<f32>().unwrap().as_contiguous_mut().unwrap().copy_from_slice(&[0.5, 1.5]);
    buffer.set_len(4).unwrap();
    assert_eq!(buffer.tensor_mut::<f32>().unwrap_err(), PoolError::BadShape, "it was cut short");
}

#[test]
fn strides_may_skip_and_repeat_but_not_leave_the_buffer() {
    let rig = small();
    let pool = rig.process(1);
    let good = [
        Shape::strided(&[128], &[8]).unwrap(),
        Shape::strided(&[4, 128], &[0, 8]).unwrap(),
        Shape::strided(&[2, 2], &[512, 16]).unwrap(),
        Shape::strided(&[0, u64::MAX], &[!7, 8]).unwrap(),
        Shape::contiguous(DType::U64, &[]).unwrap(),
    ];
    for shape in good {
        let id = described(pool, &Description::new(DType::U64, shape)).unwrap();
        let read = pool.adopt(id).unwrap();
        assert!(read.tensor::<u64>().is_ok(), "{shape:?}");
    }
    let bad = [
        Shape::strided(&[129], &[8]).unwrap(),
        Shape::strided(&[2], &[1020]).unwrap(),
        Shape::strided(&[2], &[4]).unwrap(),
        Shape::strided(&[u64::MAX], &[8]).unwrap(),
        Shape::strided(&[u64::MAX, 2], &[1 << 60, !7]).unwrap(),
    ];
    for shape in bad {
        let refused = described(pool, &Description::new(DType::U64, shape));
        assert_eq!(refused, Err(PoolError::BadShape), "{shape:?}");
    }
    assert_eq!(Shape::contiguous(DType::U8, &[1; 9]).unwrap_err(), PoolError::BadShape);
    assert_eq!(Shape::strided(&[1], &[]).unwrap_err(), PoolError::BadShape);
    assert_eq!(Shape::contiguous(DType::U64, &[u64::MAX, 8]).unwrap_err(), PoolError::BadShape);
}

#[test]
fn every_element_type_has_its_view() {
    fn there<T: Element + PartialEq + core::fmt::Debug>(pool: &Pool<'_>, value: T) {
        let mut buffer = pool.acquire(64).unwrap();
        buffer.as_mut_slice::<T>().unwrap().fill(value);
        let length = 64 / T::DTYPE.bytes();
        let shape = Shape::contiguous(T::DTYPE, &[length]).unwrap();
        buffer.describe(&Description::new(T::DTYPE, shape)).unwrap();
        let tensor = buffer.tensor::<T>().unwrap();
        assert_eq!(tensor.get(&[length - 1]), Some(&value));
        assert_eq!(tensor.get(&[length]), None);
    }
    let rig = small();
    let pool = rig.process(1);
    there(pool, 200_u8);
    there(pool, -3_i8);
    there(pool, 60_000_u16);
    there(pool, -3_i16);
    there(pool, u32::MAX);
    there(pool, -3_i32);
    there(pool, u64::MAX);
    there(pool, -3_i64);
    there(pool, F16Bits(0x3c00));
    there(pool, Bf16Bits(0x3f80));
    there(pool, 0.5_f32);
    there(pool, -0.5_f64);
    let mut odd = pool.acquire(63).unwrap();
    assert_eq!(odd.as_slice::<u64>().unwrap_err(), PoolError::Misaligned);
    assert_eq!(odd.as_mut_slice::<[u8; 0]>().unwrap_err(), PoolError::Misaligned);
}

#[test]
fn another_storage_is_refused() {
    let rig = small();
    let pool = rig.process(1);
    let shape = Shape::contiguous(DType::U8, &[16]).unwrap();
    let mut description = Description::new(DType::U8, shape);
    description.storage = StorageType::Cuda;
    let wrong = PoolError::TypeMismatch { expected: StorageType::Cpu, actual: StorageType::Cuda };
    assert_eq!(described(pool, &description), Err(wrong));
    // Somebody else's build knows how to, and writes that before anybody else has the buffer.
    let buffer = pool.acquire(64).unwrap();
    let id = buffer.id();
    let kind = (0..rig.lines.len()).find(|line| {
        word(rig.lines, line * 8 + 1).unwrap().load(Ordering::Relaxed) == 64 && *line > 20
    });
    let kind = word(rig.lines, kind.unwrap() * 8 + 2).unwrap();
    buffer.detach().unwrap();
    let other = rig.process(2);
    kind.store(1, Ordering::Relaxed);
    assert_eq!(other.get(id).unwrap().as_slice::<u8>().unwrap_err(), wrong);
    assert_eq!(other.get(id).unwrap().copy_to(0, &mut [0]).unwrap_err(), wrong);
    assert_eq!(other.get_mut(id).unwrap().as_slice::<u8>().unwrap_err(), wrong);
    kind.store(2, Ordering::Relaxed);
    let corrupt = PoolError::Fatal(Fatal::Corrupt);
    assert_eq!(other.get(id).unwrap().as_slice::<u8>().unwrap_err(), corrupt);
    other.add_ref(id).unwrap();
    assert_eq!(other.adopt_mut(id).unwrap().copy_to(0, &mut [0]).unwrap_err(), corrupt);
}

#[test]
fn the_dead_lose_what_they_held_and_nobody_else_does() {
    for orphans in [Orphans::Keep, Orphans::Release] {
        let rig = Rig::new(PoolGeometry::new(4).class(64, 6).orphans(orphans));
        let (a, b) = (rig.process(1), rig.process(2));
        let _writing = a.acquire(1).unwrap();
        let preset = a.acquire(1).unwrap();
        preset.set_ref_count(3).unwrap();
        let shared = a.acquire(1).unwrap().publish().unwrap();
        let both = b.get(shared.id()).unwrap();
        let left = a.acquire(1).unwrap().detach().unwrap();
        let others = b.acquire(1).unwrap().detach().unwrap();
        let taken = a.get(others).unwrap();
        assert!(rig.reclaim(a.lease()).is_none(), "it lives");
        assert!(rig.mark_dead(a.lease()));
        let done = rig.reclaim(a.lease()).unwrap();
        assert_eq!((done.leases, done.found), (1, 0));
        assert_eq!(b.ref_count(preset.id()), Err(PoolError::Stale), "nobody knows what is in it");
        assert_eq!((b.ref_count(both.id()), b.ref_count(others)), (Ok(1), Ok(1)));
        let kept = if orphans == Orphans::Keep { Ok(1) } else { Err(PoolError::Stale) };
        assert_eq!(b.ref_count(left), kept);
        let held = if orphans == Orphans::Keep { (4, 2) } else { (5, 3) };
        assert_eq!((done.held, done.freed), held);
        // A successor in the same slot, and the dead one's handle, which finds out.
        let c = rig.process(3);
        assert_eq!(c.lease().slot(), a.lease().slot());
        assert_eq!(a.acquire(1).unwrap_err(), PoolError::Fatal(Fatal::Fenced));
        assert_eq!(a.get(others).unwrap_err().to_string(), PoolError::Stale.to_string());
        let c_holds = c.get(both.id()).unwrap();
        drop(both);
        drop((shared, taken));
        drop((c_holds, preset));
        assert_eq!(b.release(others), Ok(0));
        let _gone = b.release(left);
        assert_eq!(free_count(&rig), 6);
    }
}
