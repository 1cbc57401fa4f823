//! A process is killed before each of its writes to a pool, from the take of its lease to the farewell. Run with
//! `RUSTFLAGS="--cfg spinwire_steps"`.
//!
//! ```text
//!   mortal    opens (takes back from a corpse) | acquire, describe, publish, get, detach, adopt, add_ref, release, get_mut,
//!             recycle, preallocate, a full class | leaves
//!             kill -9 before store 0, 1, 2, ..            one life each, until one comes to its end
//!   survivor  holds buffers of its own; takes back; then all is free but those, and the next life begins
//! ```
//!
//! `pool_asked` has the same deaths, and pauses, within one thread. Here the kernel kills, and what the survivor finds has
//! gone through a real mapping.
#![cfg(spinwire_steps)]
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::arithmetic_side_effects,
    clippy::large_stack_frames,
    reason = "a test stops at the first thing that is not as expected, and has a stack to itself"
)]

mod host_process;
mod lives;

use core::mem::ManuallyDrop;
use core::time::Duration;

use host_process::{role, say};
use lives::{LIVES_MAX, a_life, survivor_of};
use spinwire_dataplane::error::Retry;
use spinwire_dataplane::pool::{Description, PoolError, PoolGeometry, Reclaimed, Shape};
use spinwire_dataplane::shm::lease::{self, Joiner};
use spinwire_hostshim::mem::{PageKind, PagePolicy};
use spinwire_hostshim::plane::Plane;
use spinwire_hostshim::pool::{BufferPool, PoolConfig, PoolHandle};
use spinwire_layouts::shm::{BufferId, DType, Orphans};
use spinwire_tests::steps;

const TEST: &str = "a_kill_before_every_store_loses_no_buffer";
const SLOTS: u32 = 6;
/// The survivor holds one for reading, and one is detached by it; the rest is to be had.
const LEFT: usize = 4;

const fn config() -> PoolConfig {
    // What a dead process detached last goes with it, or these ids would be nobody's.
    let geometry = PoolGeometry::new(4).class(256, SLOTS).orphans(Orphans::Release);
    // The watcher must not be the one that takes back: its first round is its last.
    let death_noticed_within = Duration::from_secs(4 * 3600);
    PoolConfig { geometry, pages: PagePolicy::Only(PageKind::Base4K), death_noticed_within }
}

fn mortal(writes: u32, shared: BufferId) {
    let mut memory = Plane::memory(1 << 20).unwrap();
    let bump = Plane::arena(&mut memory);
    steps::kill_after(writes);
    let pool = BufferPool::open(
        "steps",
        &PoolConfig { death_noticed_within: Duration::from_millis(4), ..config() },
    )
    .unwrap();
    let handle = pool.handle(&bump).unwrap();
    live(&handle, shared).unwrap();
    drop(handle);
    drop(pool);
    say(&format!("the end, {} writes", writes - steps::left()));
}

/// Everything that a process does with buffers.
fn live(handle: &PoolHandle<'_>, shared: BufferId) -> Result<(), PoolError> {
    let read = handle.get(shared)?;
    let mut guard = handle.acquire(64)?;
    let shape = Shape::contiguous(DType::U8, &[64])?;
    guard.describe(&Description::new(DType::U8, shape))?;
    guard.copy_from(0, &[1; 64])?;
    guard.set_ref_count(3)?;
    let published = guard.publish()?;
    let again = handle.get(published.id())?;
    let adopted = handle.adopt(published.id())?;
    drop((published, again));
    handle.release(adopted.id())?;
    drop(adopted);
    let id = handle.acquire(9)?.detach().map_err(PoolError::from)?;
    handle.add_ref(id)?;
    handle.release(id)?;
    let owned = handle.get_mut(id)?;
    handle.release(id)?;
    let id = owned.detach().map_err(PoolError::from)?;
    drop(handle.adopt_mut(id)?);
    // A class that is full: every free bit is cleared, and set again as its slots come free.
    let mut ids = [BufferId::NONE; LEFT];
    handle.preallocate(1, &mut ids)?;
    assert_eq!(handle.acquire(1).unwrap_err(), PoolError::Retry(Retry::PoolFull));
    assert!(handle.acquire_until(1, Some(spinwire_dataplane::time::Instant::ORIGIN)).is_err());
    for id in ids {
        drop(handle.adopt(id)?);
    }
    for _round in 0..3 {
        drop(handle.acquire(200)?);
    }
    read.detach().map_err(PoolError::from).and_then(|id| handle.release(id).map(drop))
}

/// A process that died before: it read the survivor's buffer, wrote one, and left one behind.
fn lay_out_a_corpse<'m>(
    pool: &'m BufferPool,
    bump: &spinwire_dataplane::raw::place::Bump<'m>,
    shared: BufferId,
) {
    let segment = pool.segment();
    // This process's number with another's start: whose it was is dead.
    let joiner =
        Joiner { pid: std::process::id(), start_time: 1, joined_unix_ns: 1, command: [0; 64] };
    let lease = lease::join(&segment, &joiner).unwrap();
    let handle = spinwire_dataplane::pool::Pool::open(&segment, lease, bump, pool.host()).unwrap();
    let _kept = ManuallyDrop::new(handle.get(shared).unwrap());
    let _kept = ManuallyDrop::new(handle.acquire(7).unwrap());
    handle.acquire(7).unwrap().detach().unwrap();
}

#[test]
fn a_kill_before_every_store_loses_no_buffer() {
    match role().as_deref() {
        Some("survivor") => return survive(),
        Some(life) => {
            let (writes, id) = life.split_once(' ').unwrap();
            return mortal(writes.parse().unwrap(), BufferId::from_raw(id.parse().unwrap()));
        }
        None => {}
    }
    survivor_of(TEST);
}

fn survive() {
    // Never dropped: its watcher sleeps for an hour, and this process ends before that.
    let pool = Box::leak(Box::new(BufferPool::create("steps", &config()).unwrap()));
    let mut memory = Plane::memory(64 << 20).unwrap();
    let bump = Plane::arena(&mut memory);
    let handle = pool.handle(&bump).unwrap();
    let shared = handle.acquire(8).unwrap().publish().unwrap();
    let left = handle.acquire(8).unwrap().detach().unwrap();
    let mut lives = 0..LIVES_MAX;
    let last = lives.find_map(|writes| {
        lay_out_a_corpse(pool, &bump, shared.id());
        let said = a_life(TEST, &format!("{writes} {}", shared.id().as_raw()), || {
            std::thread::sleep(Duration::from_micros(200));
        });
        let _what = pool.reclaim();
        let at = format!("killed before write {writes}");
        assert_eq!(pool.reclaim(), Reclaimed::default(), "{at}: there was more to take back");
        assert_eq!(lease::rows(&pool.segment()).count(), 1, "{at}");
        for row in pool.segment().rows() {
            let mine = row.id == shared.id() || row.id == left;
            assert_eq!(!row.word.is_free(), mine, "{at}: {row:?}");
            assert!(!row.word.is_free() || row.is_marked, "{at}: nobody can find {row:?}");
        }
        assert_eq!(handle.ref_count(shared.id()), Ok(1), "{at}");
        assert_eq!(handle.ref_count(left), Ok(1), "{at}");
        let all: Vec<_> = (0..LEFT).map(|_| handle.acquire(1).unwrap()).collect();
        assert!(handle.acquire(1).is_err(), "{at}");
        drop(all);
        said
    });
    let last = last.unwrap();
    let count = lives.start;
    assert!(count > 50, "{count} lives are fewer than there are steps to die at");
    say(&format!("after {count} lives: {last}"));
}
