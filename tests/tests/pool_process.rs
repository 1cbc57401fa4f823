//! Real processes that take, share, hand over and release buffers of one pool, and are killed at random moments.
//!
//! ```text
//!   test ---> referee ---> 3 mortals      each arrow starts this very binary again, in another role
//!                |            |
//!                '-- one pool '    all four do the same: acquire, publish, detach, get, get_mut, adopt, add_ref, release, on
//!                                  buffers of their own and on whatever they find in the pool
//! ```
//!
//! Every buffer tells by its content which use of it this is, and a writer marks what it writes and looks whether the mark is
//! still its own: two owners would see each other. After each 50 kills nobody but the referee is left, and then every
//! slot is free, held by it, or detached; nothing is left to collect; and every buffer that is free can be had.
//!
//! `SPINWIRE_POOL_KILLS=N` sets how many are killed; 2000 where it is not set.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    clippy::large_stack_frames,
    clippy::wildcard_enum_match_arm,
    reason = "a test stops at the first thing that is not as expected"
)]

mod host_process;

use core::time::Duration;
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::Child;
use std::time::Instant;

use host_process::{Folder, again, lines, role, say};
use spinwire_dataplane::error::Retry;
use spinwire_dataplane::pool::{ExclusiveGuard, PoolError, PoolGeometry, Reclaimed, SharedGuard};
use spinwire_dataplane::shm::lease;
use spinwire_hostshim::mem::{PageKind, PagePolicy};
use spinwire_hostshim::plane::Plane;
use spinwire_hostshim::pool::{BufferPool, PoolConfig, PoolFiles, PoolHandle};
use spinwire_layouts::shm::BufferId;
use spinwire_layouts::shm::pool::DETACHED_MAX;
use spinwire_tests::rng::Rng;

const NAME: &str = "the_killed_lose_their_buffers_and_nobody_elses";
const POOL: &str = "arena";
const SEATS: usize = 3;
const KILLS_A_ROUND: u64 = 50;
const PATIENCE: Duration = Duration::from_secs(60);
const CLASSES: [(u64, u32); 2] = [(256, 24), (4096, 12)];

fn config() -> PoolConfig {
    let geometry =
        CLASSES.iter().fold(PoolGeometry::new(8), |g, (bytes, count)| g.class(*bytes, *count));
    PoolConfig {
        geometry,
        pages: PagePolicy::Only(PageKind::Base4K),
        death_noticed_within: Duration::from_millis(8),
    }
}

#[test]
fn the_killed_lose_their_buffers_and_nobody_elses() {
    match role().as_deref() {
        Some("referee") => return referee(),
        Some(seed) => return mortal(seed.parse().unwrap()),
        None => {}
    }
    let folder = Folder::new();
    let mut process =
        again(NAME, "referee").env("SPINWIRE_SHM_DIR", folder.path()).spawn().unwrap();
    let said: Vec<String> = lines(&mut process).collect();
    assert!(process.wait().unwrap().success(), "{said:?}");
    println!("{said:?}");
    assert!(said.last().is_some_and(|line| line.starts_with("killed ")), "{said:?}");
    assert_eq!(folder.names(), Vec::<String>::new(), "left behind");
}

/// The content of a use of a buffer, as whoever published or detached it has left it.
fn content(id: BufferId, version: u64) -> [u8; 24] {
    let check = (id.as_raw() ^ version).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    let mut bytes = [0; 24];
    for (to, word) in bytes.as_chunks_mut::<8>().0.iter_mut().zip([id.as_raw(), version, check]) {
        *to = word.to_le_bytes();
    }
    bytes
}

/// Marks the buffer, turns a little, and finds its mark; then leaves good content.
fn write(guard: &mut ExclusiveGuard<'_, PoolFiles>, rng: &mut Rng) {
    let mark = [rng.word(), u64::from(std::process::id()), rng.word()];
    let bytes: Vec<u8> = mark.iter().flat_map(|word| word.to_le_bytes()).collect();
    guard.set_len(24).unwrap();
    guard.copy_from(0, &bytes).unwrap();
    for _turn in 0..rng.below(200) {
        core::hint::spin_loop();
    }
    let mut seen = [0; 24];
    guard.copy_to(0, &mut seen).unwrap();
    assert_eq!(&seen[..], bytes, "two owners of {}", guard.id());
    let id = guard.id();
    guard.copy_from(0, &content(id, rng.word())).unwrap();
}

fn read(guard: &SharedGuard<'_, PoolFiles>) {
    let mut seen = [0; 24];
    guard.copy_to(0, &mut seen).unwrap();
    let version = u64::from_le_bytes(seen.as_chunks::<8>().0[1]);
    assert_eq!(seen, content(guard.id(), version), "not what {} was left as", guard.id());
}

/// What may be said to somebody who takes ids out of the pool itself, at the same time as others.
const fn is_fair(error: PoolError) -> bool {
    matches!(
        error,
        PoolError::Busy
            | PoolError::Stale
            | PoolError::NoReference
            | PoolError::TooManyReferences
            | PoolError::Retry(Retry::PoolFull)
    )
}

fn fair<T>(outcome: Result<T, PoolError>) -> Option<T> {
    match outcome {
        Ok(it) => Some(it),
        Err(error) => {
            assert!(is_fair(error), "{error}");
            None
        }
    }
}

/// What one process does, and holds in between.
struct Worker<'h, 'm> {
    handle: &'h PoolHandle<'m>,
    rng: Rng,
    writing: Vec<ExclusiveGuard<'h, PoolFiles>>,
    reading: Vec<SharedGuard<'h, PoolFiles>>,
    done: u64,
}

impl<'h, 'm> Worker<'h, 'm> {
    const fn new(handle: &'h PoolHandle<'m>, rng: Rng) -> Self {
        Self { handle, rng, writing: Vec::new(), reading: Vec::new(), done: 0 }
    }

    /// Any buffer of the pool that is in use, most often one with a detached reference.
    fn any_id(&mut self) -> Option<BufferId> {
        let wants_detached = self.rng.below(4) != 0;
        let rows: Vec<BufferId> = self
            .handle
            .segment()
            .rows()
            .filter(|row| !row.word.is_free() && (row.word.detached > 0 || !wants_detached))
            .map(|row| row.id)
            .collect();
        let at = usize::try_from(self.rng.below(u64::try_from(rows.len()).unwrap().max(1)));
        rows.get(at.unwrap()).copied()
    }

    fn act(&mut self) {
        self.done += 1;
        match self.rng.below(12) {
            0..=2 => {
                let size = usize::try_from(1 + self.rng.below(600)).unwrap();
                if let Some(mut guard) = fair(self.handle.acquire(size.max(24))) {
                    write(&mut guard, &mut self.rng);
                    self.writing.push(guard);
                }
            }
            3 => {
                if let Some(guard) = self.writing.pop() {
                    let guard = guard.publish().unwrap();
                    read(&guard);
                    self.reading.push(guard);
                }
            }
            4 => {
                if let Some(guard) = self.writing.pop() {
                    // Comes back, and is dropped, where there are too many already.
                    let _id = fair(guard.detach().map_err(PoolError::from));
                }
            }
            5 => {
                if let Some(guard) = self.reading.pop() {
                    let _id = fair(guard.detach().map_err(PoolError::from));
                }
            }
            6 => self.found(|handle, id| handle.get(id)),
            7 | 8 => self.found(|handle, id| handle.adopt(id)),
            9 => {
                let owned = self.any_id().and_then(|id| {
                    let outcome = if self.rng.below(2) == 0 {
                        self.handle.get_mut(id)
                    } else {
                        self.handle.adopt_mut(id)
                    };
                    fair(outcome)
                });
                if let Some(mut guard) = owned {
                    write(&mut guard, &mut self.rng);
                    self.writing.push(guard);
                }
            }
            10 => {
                if let Some(id) = self.any_id() {
                    let wants_more = self.rng.below(3) == 0;
                    let changed =
                        if wants_more { self.handle.add_ref(id) } else { self.handle.release(id) };
                    assert!(fair(changed).is_none_or(|count| count <= DETACHED_MAX + 8));
                }
            }
            _ => {
                self.writing.pop();
                self.reading.pop();
            }
        }
        // Nobody hoards.
        if self.writing.len() > 4 {
            self.writing.swap_remove(0);
        }
        if self.reading.len() > 6 {
            read(&self.reading.swap_remove(0));
        }
    }

    fn found(
        &mut self,
        take: impl FnOnce(&'h PoolHandle<'m>, BufferId) -> Result<SharedGuard<'h, PoolFiles>, PoolError>,
    ) {
        if let Some(guard) = self.any_id().and_then(|id| fair(take(self.handle, id))) {
            read(&guard);
            self.reading.push(guard);
        }
    }
}

/// Written by a mortal that finds something wrong, before it says so: it may be killed while it does.
fn complaint() -> PathBuf {
    PathBuf::from(std::env::var_os("SPINWIRE_SHM_DIR").unwrap()).join("complaint")
}

fn mortal(seed: u64) {
    std::panic::set_hook(Box::new(|what| {
        let _written = std::fs::write(complaint(), what.to_string());
        say(&what.to_string());
    }));
    let pool = BufferPool::open(POOL, &config()).unwrap();
    let mut memory = Plane::memory(pool.handle_bytes()).unwrap();
    let bump = Plane::arena(&mut memory);
    let handle = pool.handle(&bump).unwrap();
    let mut worker = Worker::new(&handle, Rng::new(seed));
    say("up");
    #[expect(clippy::infinite_loop, reason = "what it waits for is to be killed")]
    loop {
        worker.act();
    }
}

/// A mortal, and the moment that it is to die at.
struct Seat {
    child: Child,
    dies: Instant,
}

impl Seat {
    fn new(rng: &mut Rng) -> Self {
        let mut command = again(NAME, &rng.word().to_string());
        let child = command.stdout(std::process::Stdio::null()).spawn().unwrap();
        // Starting takes some milliseconds, in which it may die as well.
        let dies = Instant::now() + Duration::from_micros(2_000 + rng.below(12_000));
        Self { child, dies }
    }

    fn kill(&mut self) {
        self.child.kill().unwrap();
        let status = self.child.wait().unwrap();
        let complaint = std::fs::read_to_string(complaint()).unwrap_or_default();
        assert!(complaint.is_empty(), "{complaint}");
        assert_eq!(status.signal(), Some(libc::SIGKILL), "it stopped by itself: {status}");
    }
}

fn referee() {
    let kills: u64 =
        std::env::var("SPINWIRE_POOL_KILLS").map_or(2_000, |number| number.parse().unwrap());
    let pool = BufferPool::create(POOL, &config()).unwrap();
    let mut memory = Plane::memory(1 << 20).unwrap();
    let bump = Plane::arena(&mut memory);
    let handle = pool.handle(&bump).unwrap();
    let mut rng = Rng::new(u64::from(std::process::id()));
    let mut worker = Worker::new(&handle, Rng::new(7));
    let (mut killed, mut held) = (0, 0);
    while killed < kills {
        let mut seats: Vec<Seat> = (0..SEATS).map(|_| Seat::new(&mut rng)).collect();
        for _kill in 0..KILLS_A_ROUND {
            let at = loop {
                worker.act();
                let now = Instant::now();
                if let Some(at) = seats.iter().position(|seat| seat.dies <= now) {
                    break at;
                }
            };
            held += pool.segment().rows().filter(|row| row.word.holders != 0).count();
            seats[at].kill();
            seats[at] = Seat::new(&mut rng);
            killed += 1;
        }
        for seat in &mut seats {
            seat.kill();
        }
        check(&pool, &handle, &mut worker);
    }
    let done = worker.done;
    drop(worker);
    drop(handle);
    pool.unlink().unwrap();
    say(&format!("killed {killed}, {done} calls here, {held} buffers held at the kills"));
}

/// Nobody but the referee is left.
fn check<'h>(pool: &BufferPool, handle: &'h PoolHandle<'_>, worker: &mut Worker<'h, '_>) {
    let began = Instant::now();
    while lease::rows(&pool.segment()).count() > 1 {
        assert!(began.elapsed() < PATIENCE, "nobody takes back from the dead");
        std::thread::sleep(Duration::from_millis(1));
    }
    assert_eq!(pool.reclaim(), Reclaimed::default(), "there was more to take back");
    let mine = 1_u32 << handle.lease().slot();
    for row in pool.segment().rows() {
        let word = row.word;
        assert!(word.holders & !mine == 0, "held by nobody who lives: {row:?}");
        assert!(!word.writer || word.holders == mine, "{row:?}");
        assert!(!word.is_free() || row.is_marked, "free, and nobody can find it: {row:?}");
        let reads = worker.reading.iter().any(|guard| guard.id() == row.id);
        let writes = worker.writing.iter().any(|guard| guard.id() == row.id);
        assert_eq!(word.holders == mine, reads || writes, "{row:?}");
        assert_eq!(word.writer, writes, "{row:?}");
        if word.holders != 0 || word.detached != 0 {
            assert_eq!(handle.ref_count(row.id), Ok(word.holders.count_ones() + word.detached));
        }
    }
    for guard in &worker.reading {
        read(guard);
    }
    // What is detached belongs to whoever knows the id: released one by one, it is free at the last.
    for row in pool.segment().rows().filter(|row| row.word.detached > 0) {
        for left in (0..row.word.detached).rev() {
            assert_eq!(handle.release(row.id), Ok(left + row.word.holders.count_ones()));
        }
    }
    worker.writing.clear();
    worker.reading.clear();
    for (bytes, count) in CLASSES {
        let size = usize::try_from(bytes).unwrap();
        let all: Vec<_> = (0..count).map(|_| handle.acquire(size).unwrap()).collect();
        assert_eq!(handle.acquire(size).unwrap_err(), PoolError::Retry(Retry::PoolFull));
        drop(all);
    }
    assert!(pool.stats().iter().all(|class| class.free == class.slots), "{:?}", pool.stats());
}
