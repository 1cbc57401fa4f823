//! Pools between real processes: created, opened, refused, waited for, taken back, removed.
//!
//! A helper process plays one role a test; the test tells it what to do by its standard input and hears what it says.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    clippy::arithmetic_side_effects,
    clippy::large_stack_frames,
    reason = "a test stops at the first thing that is not as expected"
)]

mod host_process;

use core::mem::ManuallyDrop;
use core::time::Duration;
use std::fs::{self, File};
use std::io::{BufRead as _, Write as _};
use std::os::unix::fs::{FileExt as _, MetadataExt};
use std::process::{Child, ChildStdin};
use std::time::Instant;

use host_process::{Folder, again, lines, role, say, wait_for_end_of_input};
use spinwire_dataplane::error::Retry;
use spinwire_dataplane::pool::{PoolError, PoolGeometry};
use spinwire_dataplane::shm::{copy_header, lease};
use spinwire_hostshim::domain::{Domain, DomainConfig};
use spinwire_hostshim::mem::{Backing, MapError, PageKind, PagePolicy, Problem};
use spinwire_hostshim::membership::MemberError;
use spinwire_hostshim::plane::Plane;
use spinwire_hostshim::pool::{BufferPool, PoolConfig, PoolOpenError};
use spinwire_layouts::shm::{BufferId, Orphans};

/// Machines are shared; what matters is that it happens at all.
const PATIENCE: Duration = Duration::from_secs(60);
const ARENA: usize = 1 << 20;

const fn small() -> PoolConfig {
    PoolConfig {
        geometry: PoolGeometry::new(4).class(4096, 4).large_class(1 << 20, 2),
        pages: PagePolicy::Only(PageKind::Base4K),
        death_noticed_within: Duration::from_millis(20),
    }
}

/// Runs `inside` in a process of its own whose segments lie in a folder of its own, which is empty at the end.
fn alone(test: &str, roles: &[(&str, fn())], inside: fn(&Folder)) {
    match role().as_deref() {
        None => {
            let folder = Folder::new();
            let mut process =
                again(test, "inside").env("SPINWIRE_SHM_DIR", folder.path()).spawn().unwrap();
            for line in lines(&mut process) {
                println!("{line}");
            }
            assert!(process.wait().unwrap().success(), "see above");
            assert_eq!(folder.names(), Vec::<String>::new(), "left behind");
        }
        Some("inside") => {
            // Its maker removes it.
            let path = std::env::var_os("SPINWIRE_SHM_DIR").unwrap();
            inside(&ManuallyDrop::new(Folder::at(path.into())));
        }
        Some(name) => roles.iter().find(|(role, _)| *role == name).unwrap().1(),
    }
}

/// Another process, in one of the roles of a test.
struct Peer {
    child: Child,
    input: Option<ChildStdin>,
    said: Box<dyn Iterator<Item = String> + Send>,
}

impl Peer {
    fn start(test: &str, role: &str) -> Self {
        let mut child = again(test, role).spawn().unwrap();
        let said = Box::new(lines(&mut child));
        let input = child.stdin.take();
        Self { child, input, said }
    }

    fn hear(&mut self) -> String {
        self.said.next().expect("it has ended early")
    }

    fn tell(&mut self, text: &str) {
        writeln!(self.input.as_mut().unwrap(), "{text}").unwrap();
    }

    fn end(mut self) {
        drop(self.input.take());
        for _rest in &mut self.said {}
        assert!(self.child.wait().unwrap().success());
    }

    fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

fn told() -> String {
    let mut line = String::new();
    std::io::stdin().lock().read_line(&mut line).unwrap();
    line.trim().to_owned()
}

fn until(what: &str, mut done: impl FnMut() -> bool) {
    let began = Instant::now();
    while !done() {
        assert!(began.elapsed() < PATIENCE, "{what}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

fn why(outcome: Result<BufferPool, PoolOpenError>) -> PoolOpenError {
    outcome.map(drop).unwrap_err()
}

fn problem(outcome: Result<BufferPool, PoolOpenError>) -> Option<Problem> {
    match why(outcome) {
        PoolOpenError::Segment(MemberError::Map(e)) => e.problem(),
        other @ (PoolOpenError::Segment(_)
        | PoolOpenError::Arena(_)
        | PoolOpenError::Large(_)
        | PoolOpenError::LongName { .. }) => panic!("{other}"),
    }
}

#[test]
fn made_opened_shared_and_removed() {
    const NAME: &str = "made_opened_shared_and_removed";
    fn reader() {
        let pool = BufferPool::open("frames", &small()).unwrap();
        let mut memory = Plane::memory(ARENA).unwrap();
        let bump = Plane::arena(&mut memory);
        let handle = pool.handle(&bump).unwrap();
        say("open");
        let ids: Vec<BufferId> =
            told().split(' ').map(|id| BufferId::from_raw(id.parse().unwrap())).collect();
        for id in ids {
            let guard = handle.adopt(id).unwrap();
            let mut bytes = vec![0; guard.len()];
            guard.copy_to(0, &mut bytes).unwrap();
            assert_eq!(handle.get_mut(id).unwrap_err(), PoolError::Busy);
            say(&format!("{} {}", bytes.len(), bytes.iter().map(|b| u64::from(*b)).sum::<u64>()));
        }
        wait_for_end_of_input();
    }
    alone(NAME, &[("reader", reader)], |folder| {
        let pool = BufferPool::create("frames", &small()).unwrap();
        assert_eq!(problem(BufferPool::create("frames", &small())), Some(Problem::Exists));
        let mut peer = Peer::start(NAME, "reader");
        assert_eq!(peer.hear(), "open");
        let mut memory = Plane::memory(ARENA).unwrap();
        let bump = Plane::arena(&mut memory);
        let handle = pool.handle(&bump).unwrap();
        let fill = |size: usize| {
            let mut guard = handle.acquire(size).unwrap();
            guard.copy_from(0, &vec![7; size]).unwrap();
            guard.detach().unwrap()
        };
        let (near, large) = (fill(5), fill(1 << 20));
        peer.tell(&format!("{} {}", near.as_raw(), large.as_raw()));
        assert_eq!(peer.hear(), "5 35");
        assert_eq!(
            peer.hear(),
            format!("{} {}", 1 << 20, 7 << 20),
            "a buffer with a segment of its own"
        );
        peer.end();
        assert_eq!(handle.get(near).unwrap_err(), PoolError::Stale, "the reader's was the last");
        let stats = pool.stats();
        assert_eq!(stats.iter().map(|class| class.slots - class.free).sum::<u32>(), 0);

        let names = folder.names();
        assert_eq!(names.len(), 2, "the pool, and one large buffer: {names:?}");
        for name in &names {
            assert_eq!(fs::metadata(folder.path().join(name)).unwrap().mode() & 0o7777, 0o600);
        }
        pool.unlink().unwrap();
        assert_eq!(folder.names(), Vec::<String>::new());
        assert_eq!(problem(BufferPool::open("frames", &small())), Some(Problem::Missing));
        handle.acquire(5).unwrap();
    });
}

#[test]
fn who_waits_is_woken_by_a_release_elsewhere() {
    const NAME: &str = "who_waits_is_woken_by_a_release_elsewhere";
    fn holder() {
        let pool = BufferPool::open("full", &small()).unwrap();
        let mut memory = Plane::memory(ARENA).unwrap();
        let bump = Plane::arena(&mut memory);
        let handle = pool.handle(&bump).unwrap();
        let mut held: Vec<_> = (0..4).map(|_| handle.acquire(1).unwrap()).collect();
        say("full");
        while told() == "release" {
            held.pop();
        }
    }
    alone(NAME, &[("holder", holder)], |_folder| {
        let pool = BufferPool::create("full", &small()).unwrap();
        let mut memory = Plane::memory(ARENA).unwrap();
        let bump = Plane::arena(&mut memory);
        let handle = pool.handle(&bump).unwrap();
        let mut peer = Peer::start(NAME, "holder");
        assert_eq!(peer.hear(), "full");
        assert_eq!(handle.acquire(1).unwrap_err(), PoolError::Retry(Retry::PoolFull));
        let soon = BufferPool::deadline(Duration::from_millis(5));
        assert_eq!(
            handle.acquire_until(1, Some(soon)).unwrap_err(),
            PoolError::Retry(Retry::PoolFull),
            "in vain"
        );
        for span in [Duration::ZERO, Duration::from_nanos(1), Duration::from_millis(5)] {
            let full = handle.acquire_timeout(1, span).unwrap_err();
            assert_eq!(full, PoolError::Retry(Retry::PoolFull), "{span:?}");
        }
        let mut got = Vec::new();
        for round in 0..2 {
            let me = thread_status();
            std::thread::scope(|scope| {
                let peer = &mut peer;
                scope.spawn(move || {
                    // It is asleep in the kernel when the buffer comes free, and not turning.
                    until("it does not sleep", || is_asleep(&me));
                    peer.tell("release");
                });
                // For ever, said in two ways: nothing but a wake-up ends it.
                got.push(match round {
                    0 => handle.acquire_until(1, None).unwrap(),
                    _ => handle.acquire_timeout(1, Duration::MAX).unwrap(),
                });
            });
            assert_eq!(got.len(), round + 1);
        }
        // The death of the holder wakes, too.
        let me = thread_status();
        std::thread::scope(|scope| {
            scope.spawn(move || {
                until("it does not sleep", || is_asleep(&me));
                peer.kill();
            });
            got.push(handle.acquire_until(1, None).unwrap());
        });
        pool.unlink().unwrap();
    });
}

/// `/proc/PID/task/TID` of this thread.
fn thread_status() -> std::path::PathBuf {
    fs::canonicalize("/proc/thread-self").unwrap()
}

fn is_asleep(task: &std::path::Path) -> bool {
    fs::read_to_string(task.join("syscall"))
        .ok()
        .and_then(|text| text.split(' ').next()?.parse::<i64>().ok())
        == Some(libc::SYS_futex)
}

#[test]
fn the_watcher_of_any_survivor_takes_back() {
    const NAME: &str = "the_watcher_of_any_survivor_takes_back";
    fn mortal() {
        let pool = BufferPool::open("mortals", &small()).unwrap();
        let mut memory = Plane::memory(ARENA).unwrap();
        let bump = Plane::arena(&mut memory);
        let handle = pool.handle(&bump).unwrap();
        let kept = BufferId::from_raw(told().parse().unwrap());
        let read = handle.get(kept).unwrap();
        let written = handle.acquire(9).unwrap();
        let left = handle.acquire(9).unwrap().detach().unwrap();
        say(&format!("{} {}", written.id().as_raw(), left.as_raw()));
        wait_for_end_of_input();
        drop((read, written));
    }
    alone(NAME, &[("mortal", mortal)], |_folder| {
        for orphans in [Orphans::Keep, Orphans::Release] {
            let geometry = small().geometry.orphans(orphans);
            let pool = BufferPool::create("mortals", &PoolConfig { geometry, ..small() }).unwrap();
            let mut memory = Plane::memory(ARENA).unwrap();
            let bump = Plane::arena(&mut memory);
            let handle = pool.handle(&bump).unwrap();
            let kept = handle.acquire(9).unwrap().publish().unwrap();
            let mut peer = Peer::start(NAME, "mortal");
            peer.tell(&kept.id().as_raw().to_string());
            let ids: Vec<BufferId> =
                peer.hear().split(' ').map(|id| BufferId::from_raw(id.parse().unwrap())).collect();
            assert_eq!(handle.ref_count(kept.id()), Ok(2));
            assert_eq!(handle.get(ids[0]).unwrap_err(), PoolError::Busy, "it is being written");
            peer.kill();
            until("nobody takes back", || lease::rows(&pool.segment()).count() == 1);
            assert_eq!(handle.ref_count(kept.id()), Ok(1));
            assert_eq!(handle.get(ids[0]).unwrap_err(), PoolError::Stale);
            let left = handle.ref_count(ids[1]);
            match orphans {
                Orphans::Keep => assert_eq!(left, Ok(1), "it belongs to whoever knows the id"),
                Orphans::Release => assert_eq!(left, Err(PoolError::Stale)),
            }
            assert_eq!(pool.reclaim(), Default::default(), "nothing more to find");
            drop(kept);
            drop(handle);
            pool.unlink().unwrap();
        }
    });
}

#[test]
fn two_handles_of_one_process_leave_references_of_their_own() {
    const NAME: &str = "two_handles_of_one_process_leave_references_of_their_own";
    alone(NAME, &[], |_folder| {
        let geometry = small().geometry.orphans(Orphans::Release);
        let pool = BufferPool::create("two", &PoolConfig { geometry, ..small() }).unwrap();
        let mut memory = Plane::memory(ARENA).unwrap();
        let bump = Plane::arena(&mut memory);
        let (a, b) = (pool.handle(&bump).unwrap(), pool.handle(&bump).unwrap());
        let of_a = a.acquire(1).unwrap().detach().unwrap();
        let of_b = b.acquire(1).unwrap().detach().unwrap();
        drop(a);
        assert_eq!(b.ref_count(of_a), Err(PoolError::Stale), "it went with its handle");
        assert_eq!(b.ref_count(of_b), Ok(1), "it is of another handle");
        pool.unlink().unwrap();
    });
}

#[test]
fn what_cannot_be_had_is_told_by_field_and_remedy() {
    const NAME: &str = "what_cannot_be_had_is_told_by_field_and_remedy";
    alone(NAME, &[], |folder| {
        for (name, part) in [("", "empty"), ("a/b", "'/'"), (".x", "dot")] {
            let text = why(BufferPool::create(name, &small())).to_string();
            assert!(text.contains(part), "{name}: {text}");
            let text = why(BufferPool::open(name, &small())).to_string();
            assert!(text.contains(part) && text.contains("remedy"), "{name}: {text}");
        }
        let long = "x".repeat(60);
        let e = why(BufferPool::create(&long, &small()));
        assert!(matches!(e, PoolOpenError::LongName { bytes: 60, most: 46 }), "{e}");
        let bare = PoolConfig { geometry: PoolGeometry::new(2), ..small() };
        let text = why(BufferPool::create("none", &bare)).to_string();
        assert!(text.contains("class_count"), "{text}");

        // Another kind.
        let domain = Domain::create("other", &DomainConfig::default()).unwrap();
        let text = why(BufferPool::open("other", &small())).to_string();
        assert!(text.contains("kind: this is a domain, not a pool"), "{text}");
        domain.unlink().unwrap();

        // Truncated, and by how much.
        let pool = BufferPool::create("cut", &small()).unwrap();
        let path = folder.path().join("spinwire.cut");
        let whole = fs::metadata(&path).unwrap().len();
        let copy = folder.path().join("spinwire.copy");
        fs::copy(&path, &copy).unwrap();
        for (bytes, field) in [(whole - 4096, "segment_bytes"), (8192, "segment_bytes"), (100, "")]
        {
            File::options().write(true).open(&copy).unwrap().set_len(bytes).unwrap();
            let e = why(BufferPool::open("copy", &small()));
            let text = e.to_string();
            assert!(text.contains(field) && text.contains("remove it"), "{bytes}: {text}");
        }
        fs::write(&copy, vec![1; 8192]).unwrap();
        let text = why(BufferPool::open("copy", &small())).to_string();
        assert!(text.contains("magic: this is no Spinwire segment"), "{text}");
        fs::remove_file(&copy).unwrap();

        // All slots, an arena without room, and a folder without any.
        let mut memory = Plane::memory(ARENA).unwrap();
        let bump = Plane::arena(&mut memory);
        let handles: Vec<_> = (0..4).map(|_| pool.handle(&bump).unwrap()).collect();
        let text = pool.handle(&bump).map(drop).unwrap_err().to_string();
        assert!(text.contains("process_count: all 4"), "{text}");
        drop(handles);
        let mut none = [];
        let nowhere = spinwire_dataplane::raw::place::Bump::new(&mut none);
        let text = pool.handle(&nowhere).map(drop).unwrap_err().to_string();
        assert!(text.contains("arena too small"), "{text}");
        assert_eq!(lease::rows(&pool.segment()).count(), 0, "its slot was given back");
        pool.unlink().unwrap();

        let geometry = PoolGeometry::new(2).class(1 << 40, 8);
        let e = why(BufferPool::create("huge", &PoolConfig { geometry, ..small() }));
        let small = matches!(
            e,
            PoolOpenError::Segment(MemberError::Map(MapError::DirectoryTooSmall { .. }))
        );
        assert!(small && e.to_string().contains("remedy"), "{e}");
    });
}

#[test]
fn a_large_buffer_of_another_pool_of_that_name_is_not_taken() {
    const NAME: &str = "a_large_buffer_of_another_pool_of_that_name_is_not_taken";
    alone(NAME, &[], |folder| {
        let mut memory = Plane::memory(4 * ARENA).unwrap();
        let bump = Plane::arena(&mut memory);
        let old = BufferPool::create("twice", &small()).unwrap();
        let old_handle = old.handle(&bump).unwrap();
        let mut held = old_handle.acquire(1 << 20).unwrap();
        held.copy_from(0, b"old").unwrap();
        // The name goes, the large buffers stay: somebody was killed while it removed them.
        fs::remove_file(folder.path().join("spinwire.twice")).unwrap();
        let new = BufferPool::create("twice", &small()).unwrap();
        let handle = new.handle(&bump).unwrap();
        let guard = handle.acquire(1 << 20).unwrap();
        let mut bytes = [1; 3];
        guard.copy_to(0, &mut bytes).unwrap();
        assert_eq!(bytes, [0; 3], "fresh memory");
        assert_eq!(folder.names().len(), 3, "{:?}", folder.names());
        new.map_large().unwrap();
        assert_eq!(folder.names().len(), 4, "both of the new pool");
        new.unlink().unwrap();
        assert_eq!(folder.names().len(), 1, "those of the old one are not its business");
        old.unlink().unwrap();
    });
}

/// A process that has opened the pool in time, and not mapped what it is told to adopt.
fn late() {
    let pool = BufferPool::open("large", &small()).unwrap();
    let mut memory = Plane::memory(ARENA).unwrap();
    let bump = Plane::arena(&mut memory);
    let handle = pool.handle(&bump).unwrap();
    say("open");
    loop {
        let text = told();
        let Ok(id) = text.parse() else { return };
        say(&match handle.adopt(BufferId::from_raw(id)) {
            Ok(guard) => {
                let mut bytes = [0; 3];
                guard.copy_to(0, &mut bytes).unwrap();
                String::from_utf8_lossy(&bytes).into_owned()
            }
            Err(PoolError::NotMapped { slot }) => pool.why_not_mapped(slot).unwrap().to_string(),
            Err(other) => other.to_string(),
        });
    }
}

#[test]
fn nobody_sees_another_segment_behind_a_large_buffer_than_its_writer() {
    const NAME: &str = "nobody_sees_another_segment_behind_a_large_buffer_than_its_writer";
    alone(NAME, &[("late", late)], |folder| {
        let pool = BufferPool::create("large", &small()).unwrap();
        let mut memory = Plane::memory(ARENA).unwrap();
        let bump = Plane::arena(&mut memory);
        let handle = pool.handle(&bump).unwrap();
        let mut peer = Peer::start(NAME, "late");
        assert_eq!(peer.hear(), "open");
        let [first, second] = [b"one", b"two"].map(|text| {
            let mut guard = handle.acquire(1 << 20).unwrap();
            guard.copy_from(0, text).unwrap();
            guard.detach().unwrap()
        });
        peer.tell(&first.as_raw().to_string());
        assert_eq!(peer.hear(), "one");
        pool.unlink().unwrap();
        assert_eq!(folder.names(), Vec::<String>::new());
        // Not zeros of a fresh segment, and no file that nobody removes.
        peer.tell(&second.as_raw().to_string());
        let text = peer.hear();
        assert!(text.contains("the pool large was removed") && text.contains("remedy"), "{text}");
        assert_eq!(folder.names(), Vec::<String>::new());
        let mut bytes = [0; 3];
        handle.adopt(second).unwrap().copy_to(0, &mut bytes).unwrap();
        assert_eq!(&bytes, b"two", "who has it mapped keeps it");

        // A slot that cannot be mapped is not tried again and again while another can.
        let removed = BufferPool::create("other", &small()).unwrap();
        let (one, two) = (removed.handle(&bump).unwrap(), removed.handle(&bump).unwrap());
        let mapped = one.acquire(1 << 20).unwrap();
        removed.unlink().unwrap();
        assert!(matches!(two.acquire(1 << 20), Err(PoolError::NotMapped { .. })));
        let slot = mapped.id().slot();
        drop(mapped);
        assert_eq!(two.acquire(1 << 20).unwrap().id().slot(), slot);

        // As little for a pool that has the name now.
        let new = BufferPool::create("large", &small()).unwrap();
        peer.tell(&first.as_raw().to_string());
        let text = peer.hear();
        assert!(text.starts_with("stale"), "{text}: it was mapped");
        assert!(new.map_large().is_ok() && new.large_pages().count() == 2);
        assert_eq!(pool.large_pages().count(), 2);
        new.unlink().unwrap();
        peer.end();
    });
}

#[test]
fn no_segment_is_made_for_an_id_that_nobody_gave_out() {
    const NAME: &str = "no_segment_is_made_for_an_id_that_nobody_gave_out";
    alone(NAME, &[], |folder| {
        let pool = BufferPool::create("large", &small()).unwrap();
        let mut memory = Plane::memory(ARENA).unwrap();
        let bump = Plane::arena(&mut memory);
        let handle = pool.handle(&bump).unwrap();
        let none = BufferId::new(4, pool.segment().tag(), 1);
        for refused in [
            handle.get(none).map(drop),
            handle.adopt(none).map(drop),
            handle.get_mut(none).map(drop),
            handle.adopt_mut(none).map(drop),
        ] {
            let error = refused.unwrap_err();
            assert_eq!(error, PoolError::Stale);
        }
        assert_eq!(folder.names(), ["spinwire.large"]);

        // One that is there and not to be believed is told by its field.
        let guard = handle.acquire(1 << 20).unwrap();
        let name = folder.names().pop().unwrap();
        drop(guard);
        drop(handle);
        let again = BufferPool::open("large", &small()).unwrap();
        let mut memory = Plane::memory(ARENA).unwrap();
        let bump = Plane::arena(&mut memory);
        let handle = again.handle(&bump).unwrap();
        let file = File::options().write(true).open(folder.path().join(&name)).unwrap();
        file.write_all_at(&[1], 0).unwrap();
        assert!(matches!(handle.acquire(1 << 20), Err(PoolError::NotMapped { .. })));
        let why = again.why_not_mapped(4).unwrap().to_string();
        assert!(
            why.contains("slot 4") && why.contains("magic") && why.contains("remove it"),
            "{why}"
        );
        pool.unlink().unwrap();
    });
}

#[test]
fn whoever_has_a_pool_open_keeps_its_clock() {
    alone("whoever_has_a_pool_open_keeps_its_clock", &[], |_| {
        let pool = BufferPool::create("clock", &small()).unwrap();
        let mut memory = Plane::memory(ARENA).unwrap();
        let bump = Plane::arena(&mut memory);
        let handle = pool.handle(&bump).unwrap();
        let stamp = || {
            let guard = handle.acquire(1).unwrap();
            let row = pool.segment().rows().find(|row| row.id == guard.id());
            row.unwrap().taken_unix_ns
        };
        let made = copy_header(pool.mapping().lines()).unwrap().created_unix_ns;
        let first = stamp();
        assert!(first >= made, "the first buffer of all has a stamp: {first}, {made}");
        until("the watcher keeps the clock", || stamp() > first);
        pool.unlink().unwrap();
    });
}

#[test]
fn a_pool_is_not_kept_in_memory_that_ends_with_its_maker() {
    const NAME: &str = "a_pool_is_not_kept_in_memory_that_ends_with_its_maker";
    alone(NAME, &[], |_folder| {
        let best = PoolConfig { pages: PagePolicy::Best, ..small() };
        let pool = BufferPool::create("best", &best).unwrap();
        pool.map_large().unwrap();
        let reports: Vec<_> = pool.large_pages().map(|(_, report)| report).collect();
        assert_eq!(reports.len(), 2);
        for report in [&[pool.pages()][..], &reports].concat() {
            let by: Vec<&str> = report.refused().iter().map(|refused| refused.by).collect();
            assert!(!by.contains(&"memfd"), "tried: {by:?}");
        }
        let backing = pool.mapping().backing();
        assert!(!matches!(backing, Backing::Memfd { .. }), "{backing}");
        pool.unlink().unwrap();
    });
}
