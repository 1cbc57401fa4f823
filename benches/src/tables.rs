//! Tables: an entry in and out again, in tables that hold others.

use core::hint::black_box;

use spinwire_dataplane::table::{BitSet, Fifos, Ring, Slab, Timers};
use spinwire_dataplane::time::{Instant, Nanos};

use crate::case::{Case, Entry, fold, fold_below};
use crate::memory;

/// The cases.
pub const ENTRIES: &[Entry] = &[
    Entry::new("table/slab_insert_remove", slab),
    Entry::new("table/fifo_push_pop", fifo_ends),
    Entry::new("table/fifo_unlink_middle", fifo_middle),
    Entry::new("table/ring_push_pop", ring),
    Entry::new("table/bitset_insert_find_remove", bitset),
    Entry::new("table/timer_insert_cancel", timer_cancel),
    Entry::new("table/timer_insert_expire", timer_expire),
];

const CAPACITY: u32 = 1024;
const ARENA_BYTES: usize = 1 << 20;
/// Nanoseconds between two rounds of the timer cases.
const STEP_NS: u64 = 100;

/// A number below [`CAPACITY`] that jumps about, from one that counts.
#[inline(always)]
fn scattered(i: u64) -> u32 {
    u32::try_from(i.wrapping_mul(389) % u64::from(CAPACITY)).unwrap()
}

fn slab() -> Case {
    let slab = Slab::place(&memory::arena(ARENA_BYTES), CAPACITY).unwrap();
    for i in 0..CAPACITY / 2 {
        slab.insert(u64::from(i)).unwrap();
    }
    let rounds = move |rounds| {
        let mut hash = 0;
        for i in 0..rounds {
            let key = black_box(slab.insert(i).unwrap());
            hash = fold(hash, slab.remove(key).unwrap());
        }
        hash
    };
    Case::new(rounds, fold_below)
}

fn fifo_ends() -> Case {
    let fifos = Fifos::place(&memory::arena(ARENA_BYTES), CAPACITY, 4).unwrap();
    let rounds = move |rounds| {
        let mut hash = 0;
        for i in 0..rounds {
            fifos.push_back(1, black_box(scattered(i))).unwrap();
            hash = fold(hash, u64::from(fifos.pop_front(1).unwrap()));
        }
        hash
    };
    Case::new(rounds, |rounds| (0..rounds).fold(0, |h, i| fold(h, u64::from(scattered(i)))))
}

fn fifo_middle() -> Case {
    let fifos = Fifos::place(&memory::arena(ARENA_BYTES), CAPACITY, 4).unwrap();
    for slot in 0..CAPACITY {
        fifos.push_back(1, slot).unwrap();
    }
    let rounds = move |rounds| {
        let mut hash = 0;
        for i in 0..rounds {
            let slot = black_box(scattered(i));
            let list = fifos.unlink(slot).unwrap();
            fifos.push_back(list, slot).unwrap();
            hash = fold(hash, u64::from(list));
        }
        hash
    };
    Case::new(rounds, |rounds| (0..rounds).fold(0, |h, _| fold(h, 1)))
}

fn ring() -> Case {
    let ring = Ring::place(&memory::arena(ARENA_BYTES), CAPACITY, 0).unwrap();
    let rounds = move |rounds| {
        let mut hash = 0;
        for i in 0..rounds {
            ring.push(black_box(i)).unwrap();
            hash = fold(hash, ring.pop().unwrap());
        }
        hash
    };
    Case::new(rounds, fold_below)
}

fn bitset() -> Case {
    let set = BitSet::place(&memory::arena(ARENA_BYTES), CAPACITY).unwrap();
    let rounds = move |rounds| {
        let mut hash = 0;
        for i in 0..rounds {
            set.insert(black_box(scattered(i))).unwrap();
            let first = set.first().unwrap();
            set.remove(first).unwrap();
            hash = fold(hash, u64::from(first));
        }
        hash
    };
    Case::new(rounds, |rounds| (0..rounds).fold(0, |h, i| fold(h, u64::from(scattered(i)))))
}

fn timers() -> Timers<'static, u64> {
    Timers::place(&memory::arena(ARENA_BYTES), CAPACITY, Nanos::new(64)).unwrap()
}

/// The usual end of a deadline: what it guards comes in time.
fn timer_cancel() -> Case {
    let timers = timers();
    for i in 0..u64::from(CAPACITY / 2) {
        timers
            .insert(Instant::from_nanos(1 << 40).saturating_add(Nanos::new(i * 7919)), i)
            .unwrap();
    }
    let rounds = move |rounds| {
        let mut hash = 0;
        for i in 0..rounds {
            let deadline = Instant::from_nanos(black_box(1_000_000 + i * STEP_NS));
            let key = timers.insert(deadline, i).unwrap();
            hash = fold(hash, timers.cancel(black_box(key)).unwrap());
        }
        hash
    };
    Case::new(rounds, fold_below)
}

fn timer_expire() -> Case {
    let timers = timers();
    let mut now = Instant::ORIGIN;
    let rounds = move |rounds| {
        let mut hash = 0;
        for i in 0..rounds {
            timers.insert(black_box(now).saturating_add(Nanos::new(STEP_NS / 2)), i).unwrap();
            now = now.saturating_add(Nanos::new(2 * STEP_NS));
            hash = timers.expire(now, 4).fold(hash, |hash, due| fold(hash, due.payload));
        }
        hash
    };
    Case::new(rounds, fold_below)
}
