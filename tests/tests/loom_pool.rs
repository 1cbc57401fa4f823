//! Every interleaving of those who take, hand over, release and wait for buffers, and who take back from the dead. Run with
//! `RUSTFLAGS="--cfg loom"`, in release.
//!
//! The pools are real ones of the smallest geometry. At the end of each case everybody has let go: every slot is free, has its
//! bit, and can be taken.
#![cfg(loom)]
#![allow(
    clippy::unwrap_used,
    clippy::arithmetic_side_effects,
    reason = "a test stops at the first thing that is not as expected"
)]

use loom::sync::atomic::{AtomicU64, Ordering};
use loom::thread;
use spinwire_dataplane::pool::{Pool, PoolError, PoolGeometry, PoolHost, Slept};
use spinwire_dataplane::shm::lease;
use spinwire_dataplane::time::Instant;
use spinwire_tests::pool::Rig;

/// Runs `case` for every interleaving with at most so many involuntary switches of threads.
fn model(switches: usize, case: impl Fn() + Sync + Send + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(switches);
    builder.max_branches = 100_000;
    builder.check(case);
}

fn rig(slots: u32) -> Rig {
    Rig::new(PoolGeometry::new(3).class(64, slots))
}

/// Handles are for one thread each; the thread opens its own on a lease that it is given.
fn assert_all_free<H: PoolHost>(rig: Rig<H>, pool: &Pool<'_, H>) {
    for row in rig.segment.rows() {
        assert!(row.word.is_free() && row.is_marked, "{row:?}");
    }
    let all: Vec<_> = rig.segment.rows().map(|_| pool.acquire(1).unwrap()).collect();
    assert!(pool.acquire(1).is_err());
    drop(all);
}

/// Two writers of one slot: never both, and whoever is refused finds it free later. The one reuses the slot, so that a word
/// that was seen before could come back, had it no generation.
#[test]
fn one_slot_has_one_writer() {
    model(6, || {
        let rig = rig(1);
        let (a, b) = (rig.join(1).unwrap(), rig.join(2).unwrap());
        let write = |pool: &Pool<'_>, value: u8| {
            let mut ids = Vec::new();
            if let Ok(mut guard) = pool.acquire(16) {
                guard.copy_from(0, &[value; 16]).unwrap();
                let mut read = [0; 16];
                guard.copy_to(0, &mut read).unwrap();
                assert_eq!(read, [value; 16], "two writers");
                ids.push(guard.id());
            }
            ids
        };
        let other = thread::spawn(move || {
            let pool = rig.open(b);
            let mut ids = write(pool, 1);
            ids.extend(write(pool, 2));
            ids
        });
        let pool = rig.open(a);
        let mut ids = write(pool, 3);
        ids.extend(other.join().unwrap());
        let count = ids.len();
        ids.sort_unstable_by_key(|id| id.as_raw());
        ids.dedup();
        assert!(count == ids.len() && count >= 1, "one id for two uses: {ids:?}");
        assert_all_free(rig, pool);
    });
}

/// What was written before the id went over is there; the last of the two to let go frees the buffer, once.
#[test]
fn a_buffer_goes_over_by_its_id() {
    model(6, || {
        let rig = rig(1);
        let (a, b) = (rig.join(1).unwrap(), rig.join(2).unwrap());
        let pool = rig.open(a);
        let mut guard = pool.acquire(16).unwrap();
        let id = guard.id();
        let other = thread::spawn(move || {
            let pool = rig.open(b);
            // Busy while it is written, or nothing to adopt yet.
            let Ok(guard) = pool.adopt(id) else { return false };
            let mut read = [0; 16];
            guard.copy_to(0, &mut read).unwrap();
            assert_eq!(read, [7; 16], "a reader sees what the writer published");
            true
        });
        guard.copy_from(0, &[7; 16]).unwrap();
        guard.set_ref_count(2).unwrap();
        let shared = guard.publish().unwrap();
        drop(shared);
        if !other.join().unwrap() {
            assert_eq!(pool.release(id), Ok(0));
        }
        assert_eq!(pool.get(id).unwrap_err(), PoolError::Stale);
        assert_all_free(rig, pool);
    });
}

/// Two readers and a detached reference end at the same time. Whoever is last frees it; the next writer writes alone.
#[test]
fn the_last_one_frees() {
    model(6, || {
        let rig = rig(1);
        let (a, b) = (rig.join(1).unwrap(), rig.join(2).unwrap());
        let pool = rig.open(a);
        let shared = pool.acquire(8).unwrap().publish().unwrap();
        let id = shared.id();
        assert_eq!(pool.add_ref(id), Ok(2));
        let other = thread::spawn(move || {
            let pool = rig.open(b);
            let left = pool.get(id).map(drop).is_ok();
            assert!(left, "there is a reference");
            pool.release(id).unwrap()
        });
        drop(shared);
        let mut writer = pool.acquire(8);
        if let Ok(guard) = &mut writer {
            guard.copy_from(0, &[1; 8]).unwrap();
        }
        other.join().unwrap();
        drop(writer);
        assert_all_free(rig, pool);
    });
}

/// A search that clears the bit of a slot in use, and a release that looks whether the bit is set: the slot is found again.
#[test]
fn a_search_and_a_release_lose_no_slot() {
    model(6, || {
        let rig = rig(2);
        let (a, b) = (rig.join(1).unwrap(), rig.join(2).unwrap());
        let pool = rig.open(a);
        let (first, second) = (pool.acquire(1).unwrap(), pool.acquire(1).unwrap());
        let other = thread::spawn(move || {
            let pool = rig.open(b);
            pool.acquire(1).is_ok()
        });
        drop(first);
        drop(second);
        other.join().unwrap();
        assert_all_free(rig, pool);
    });
}

/// Sleeps by looking at the word. Who is not woken looks for ever, which loom finds out.
#[derive(Debug)]
struct Spinner;

impl PoolHost for Spinner {
    fn sleep(&self, word: &AtomicU64, expected: u32, _until: Option<Instant>) -> Slept {
        while u32::try_from(word.load(Ordering::Relaxed)).unwrap() == expected {
            thread::yield_now();
        }
        Slept::Woken
    }

    fn wake(&self, _word: &AtomicU64) {}
}

#[test]
fn who_waits_is_woken() {
    model(6, || {
        let rig = Rig::with_host(PoolGeometry::new(2).class(64, 1), &Spinner);
        let (a, b) = (rig.join(1).unwrap(), rig.join(2).unwrap());
        let pool = rig.open(a);
        let held = pool.acquire(1).unwrap();
        let other = thread::spawn(move || drop(rig.open(b).acquire_until(1, None).unwrap()));
        drop(held);
        other.join().unwrap();
        assert_all_free(rig, pool);
    });
}

/// Who waits for what the dead one had is woken by who takes it back.
#[test]
fn who_waits_for_the_dead_is_woken() {
    model(5, || {
        let rig = Rig::with_host(PoolGeometry::new(3).class(64, 1), &Spinner);
        let (a, b) = (rig.join(1).unwrap(), rig.join(2).unwrap());
        Box::leak(Box::new(rig.open(a).acquire(1).unwrap()));
        let other = thread::spawn(move || drop(rig.open(b).acquire_until(1, None).unwrap()));
        assert!(rig.mark_dead(&a));
        assert_eq!(rig.reclaim(&a).map(|done| done.leases), Some(1));
        other.join().unwrap();
        assert_all_free(rig, rig.process(3));
    });
}

/// Two survivors take back from one who read one buffer and wrote another, while one of them reads on.
#[test]
fn two_survivors_of_one_dead() {
    model(5, || {
        let rig = rig(2);
        let (a, b) = (rig.join(1).unwrap(), rig.join(2).unwrap());
        let dead = rig.open(a);
        let shared = dead.acquire(8).unwrap().publish().unwrap();
        let (read, written) = (shared.id(), dead.acquire(8).unwrap());
        let pool = rig.open(b);
        let mine = pool.get(read).unwrap();
        vec![shared].leak();
        vec![written].leak();
        assert!(rig.mark_dead(&a));
        let other = thread::spawn(move || rig.reclaim(&a).is_some_and(|done| done.leases == 1));
        let by_me = rig.reclaim(&a).is_some_and(|done| done.leases == 1);
        assert!(other.join().unwrap() != by_me, "the lease is freed once");
        assert_eq!(pool.ref_count(read), Ok(1));
        drop(mine);
        assert_all_free(rig, pool);
    });
}

/// A survivor that is slow takes nothing from the successor, who has the same bit and reads the same buffer.
#[test]
fn a_slow_survivor_and_a_successor() {
    model(5, || {
        let rig = rig(1);
        let (a, b) = (rig.join(1).unwrap(), rig.join(2).unwrap());
        let pool = rig.open(b);
        let mine = pool.acquire(8).unwrap().publish().unwrap();
        let id = mine.id();
        vec![rig.open(a).get(id).unwrap()].leak();
        assert!(rig.mark_dead(&a));
        let slow = thread::spawn(move || rig.reclaim(&a).is_some());
        let _by_whom = rig.reclaim(&a);
        let c = rig.join(3).unwrap();
        let successor = rig.open(c);
        let read = successor.get(id).unwrap();
        slow.join().unwrap();
        assert_eq!(c.slot(), a.slot());
        assert!(lease::is_held(rig.segment, &c), "the slot of a successor");
        assert_eq!(pool.ref_count(id), Ok(2), "the bit of a successor");
        drop(mine);
        assert_eq!(pool.ref_count(id), Ok(1));
        drop(read);
        assert_all_free(rig, pool);
    });
}
