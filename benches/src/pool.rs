//! The shared buffer pool: a buffer taken and let go, as one process does it, and by id, as another one does.

use core::hint::black_box;

use spinwire_dataplane::pool::{NoHost, Pool, PoolGeometry, PoolSegment};
use spinwire_dataplane::shm::{Identity, lease};
use spinwire_layouts::shm::BufferId;

use crate::case::{Case, Entry, fold, fold_below};
use crate::memory;

/// The cases.
pub const ENTRIES: &[Entry] = &[
    Entry::new("pool/acquire_drop/4096", acquire_drop),
    Entry::new("pool/acquire_drop_crowded/4096", acquire_drop_crowded),
    Entry::new("pool/get_drop", get_drop),
    Entry::new("pool/get_drop_again", get_drop_again),
    Entry::new("pool/detach_adopt", detach_adopt),
    Entry::new("pool/add_ref_release", add_ref_release),
];

const SLOTS: u32 = 256;
const CALL: usize = 4096;

/// A pool, and a handle for each of so many processes.
pub(crate) fn pools<const N: usize>() -> [&'static Pool<'static>; N] {
    let geometry = PoolGeometry::new(16).class(64, SLOTS).class(4096, SLOTS);
    let bytes = usize::try_from(geometry.segment_bytes().unwrap()).unwrap();
    let identity = Identity {
        name: memory::name("bench"),
        boot_id: [0; 16],
        created_unix_ns: 0,
        pid: 1,
        start_time: 1,
        pid_namespace: 1,
        page_bytes: 4096,
    };
    let segment = PoolSegment::format(memory::lines(bytes / 64), &geometry, &identity).unwrap();
    let bump = memory::arena(N * segment.handle_bytes());
    core::array::from_fn(|_| {
        let joiner = lease::Joiner { pid: 1, start_time: 1, joined_unix_ns: 0, command: [0; 64] };
        let lease = lease::join(&segment, &joiner).unwrap();
        let pool = Pool::open(&segment, lease, &bump, &NoHost).unwrap();
        &*Box::leak(Box::new(pool))
    })
}

fn taken_and_let_go(pool: &'static Pool<'static>) -> Case {
    let rounds = move |rounds| {
        let mut hash = 0;
        for i in 0..rounds {
            let guard = pool.acquire(black_box(CALL)).unwrap();
            let wrong = u64::from(black_box(&guard).len() != CALL);
            drop(guard);
            hash = fold(hash, i + wrong);
        }
        hash
    };
    Case::new(rounds, fold_below)
}

fn acquire_drop() -> Case {
    let [pool] = pools();
    taken_and_let_go(pool)
}

/// All buffers of the class but one are out.
fn acquire_drop_crowded() -> Case {
    let [pool, other] = pools();
    Vec::leak((1..SLOTS).map(|_| other.acquire(CALL).unwrap()).collect());
    taken_and_let_go(pool)
}

fn by_id(pool: &'static Pool<'static>, id: BufferId) -> Case {
    let rounds = move |rounds| {
        let mut hash = 0;
        for i in 0..rounds {
            let guard = pool.get(black_box(id)).unwrap();
            let wrong = u64::from(black_box(&guard).len() != CALL);
            drop(guard);
            hash = fold(hash, i + wrong);
        }
        hash
    };
    Case::new(rounds, fold_below)
}

/// By a process that has no other guard of it.
fn get_drop() -> Case {
    let [pool, other] = pools();
    by_id(pool, other.acquire(CALL).unwrap().detach().unwrap())
}

/// By a process that has one already.
fn get_drop_again() -> Case {
    let [pool, other] = pools();
    let id = other.acquire(CALL).unwrap().detach().unwrap();
    Vec::leak(vec![pool.get(id).unwrap()]);
    by_id(pool, id)
}

/// One takes a buffer and leaves it, the other takes it over and lets go.
fn detach_adopt() -> Case {
    let [pool, other] = pools();
    let rounds = move |rounds| {
        let mut hash = 0;
        for i in 0..rounds {
            let id = pool.acquire(black_box(CALL)).unwrap().detach().unwrap();
            let guard = other.adopt(black_box(id)).unwrap();
            let wrong = u64::from(guard.len() != CALL);
            drop(guard);
            hash = fold(hash, i + wrong);
        }
        hash
    };
    Case::new(rounds, fold_below)
}

fn add_ref_release() -> Case {
    let [pool] = pools();
    let id = pool.acquire(CALL).unwrap().detach().unwrap();
    let rounds = move |rounds| {
        let mut hash = 0;
        for i in 0..rounds {
            let count = pool.add_ref(black_box(id)).unwrap();
            let left = pool.release(black_box(id)).unwrap();
            hash = fold(hash, i + u64::from(count - left - 1));
        }
        hash
    };
    Case::new(rounds, fold_below)
}
