//! Processes and threads that open, remove and make one pool over and over, and hand large buffers to each other by ids that may be
//! of any of these pools: whoever gets a buffer sees what its writer wrote, and no file is left.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::arithmetic_side_effects,
    clippy::large_stack_frames,
    reason = "a test stops at the first thing that is not as expected"
)]

mod host_process;

use core::time::Duration;
use std::fs::{self, File};
use std::os::unix::fs::FileExt as _;
use std::time::Instant;

use host_process::{Folder, again, lines, role, wait_for_end_of_input};
use spinwire_dataplane::error::Retry;
use spinwire_dataplane::pool::{PoolError, PoolGeometry};
use spinwire_dataplane::shm::copy_header;
use spinwire_hostshim::mem::{PageKind, PagePolicy, Problem};
use spinwire_hostshim::membership::MemberError;
use spinwire_hostshim::plane::Plane;
use spinwire_hostshim::pool::{BufferPool, PoolConfig, PoolOpenError};
use spinwire_layouts::shm::BufferId;

const LARGE: usize = 64 << 10;

const fn config() -> PoolConfig {
    PoolConfig {
        geometry: PoolGeometry::new(8).large_class(64 << 10, 3),
        pages: PagePolicy::Only(PageKind::Base4K),
        death_noticed_within: Duration::from_millis(20),
    }
}

/// Where it is looked at.
const PARTS: [usize; 3] = [0, LARGE / 2, LARGE - 8];
const MAIL: &str = "HOST_TEST_MAIL";

/// Numbers that look random (Marsaglia, "Xorshift RNGs", 2003).
struct Random(u64);

impl Random {
    const fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % limit
    }
}

/// What a writer fills a buffer with: nobody else's, in no other pool.
const fn mark(id: BufferId, made: u64) -> u64 {
    id.as_raw() ^ made.rotate_left(20)
}

/// Ids that are under way, in a file: each place holds one.
const PLACES: u64 = 8;

/// Some turns in one life of a pool. Ids that are found may be of this pool, or of one that was removed.
fn visit(pool: &BufferPool, mail: &File, random: &mut Random) {
    let mut memory = Plane::memory(pool.handle_bytes()).unwrap();
    let bump = Plane::arena(&mut memory);
    // All handles may be taken.
    let Ok(handle) = pool.handle(&bump) else { return };
    let made = copy_header(pool.mapping().lines()).unwrap().created_unix_ns;
    for _turn in 0..10 {
        let place = random.below(PLACES) * 8;
        let mut found = [0; 8];
        mail.read_exact_at(&mut found, place).unwrap();
        let mut left = 0;
        match handle.acquire(LARGE) {
            Ok(mut guard) => {
                for at in PARTS {
                    guard.copy_from(at, &mark(guard.id(), made).to_le_bytes()).unwrap();
                }
                left = guard.detach().unwrap().as_raw();
            }
            Err(PoolError::NotMapped { slot }) => assert!(pool.why_not_mapped(slot).is_some()),
            Err(PoolError::Retry(Retry::PoolFull)) => {}
            Err(other) => panic!("{other}"),
        }
        mail.write_all_at(&left.to_le_bytes(), place).unwrap();
        let id = BufferId::from_raw(u64::from_le_bytes(found));
        match handle.adopt(id) {
            Ok(guard) => {
                for at in PARTS {
                    let mut word = [0; 8];
                    guard.copy_to(at, &mut word).unwrap();
                    assert_eq!(u64::from_le_bytes(word), mark(id, made), "{id} at {at}");
                }
            }
            Err(PoolError::NotMapped { slot }) => assert!(pool.why_not_mapped(slot).is_some()),
            Err(PoolError::Stale | PoolError::Foreign | PoolError::NoReference) => {}
            Err(PoolError::Busy) => {}
            Err(other) => panic!("{other}"),
        }
    }
    if random.below(4) == 0 {
        pool.unlink().unwrap();
    }
}

fn visitor() {
    let path = std::env::var_os(MAIL).unwrap();
    let mail = File::options().read(true).write(true).open(path).unwrap();
    let mut random = Random(u64::from(std::process::id()));
    let began = Instant::now();
    while began.elapsed() < Duration::from_secs(4) {
        match BufferPool::open_or_create("race", &config()) {
            Ok(pool) => visit(&pool, &mail, &mut random),
            // Made and removed by the others more often than it looks.
            Err(PoolOpenError::Segment(MemberError::Map(e)))
                if matches!(e.problem(), Some(Problem::Missing | Problem::Exists)) => {}
            Err(other) => panic!("{other}"),
        }
    }
    wait_for_end_of_input();
    // The last of them, if there is one: by whoever comes first.
    if let Ok(pool) = BufferPool::open("race", &config()) {
        pool.unlink().unwrap();
    }
}

#[test]
fn a_large_buffer_is_what_its_writer_wrote_whoever_removes_the_pool() {
    const NAME: &str = "a_large_buffer_is_what_its_writer_wrote_whoever_removes_the_pool";
    if role().is_some() {
        return visitor();
    }
    let (folder, other) = (Folder::new(), Folder::new());
    let mail = other.path().join("mail");
    fs::write(&mail, [0; 8 * 8]).unwrap();
    let start = || {
        let mut command = again(NAME, "visitor");
        command.env("SPINWIRE_SHM_DIR", folder.path()).env(MAIL, &mail).spawn().unwrap()
    };
    let visitors: Vec<_> = (0..5).map(|_| start()).collect();
    for mut visitor in visitors {
        drop(visitor.stdin.take());
        let said: Vec<String> = lines(&mut visitor).collect();
        assert!(visitor.wait().unwrap().success(), "{said:?}");
    }
    assert_eq!(folder.names(), Vec::<String>::new(), "left behind");
}
