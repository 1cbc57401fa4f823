//! Machines that do not give what is asked for: a `/dev/shm` that is too small, no lockable memory, huge pages that run
//! out, no permission. Each error names its remedy, nothing is left behind, and memory that was handed out stays.
//!
//! Every test plays its part in a process of its own, whose surroundings are made that way. Where this machine does not
//! allow that, a line that begins with `!! NOT RUN` says so on standard error.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    reason = "a test stops at the first thing that is not as expected"
)]

mod host_process;

use core::time::Duration;
use std::fs::{self, File, Permissions};
use std::io::{Seek, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::process::Command;
use std::time::Instant;

use host_process::private::{
    as_nobody, done, in_namespace, in_user_namespace, is_root, not_run, output, run_to_the_end,
    without_memlock,
};
use host_process::{Folder, again, lines, role, say, wait_for_end_of_input};
use spinwire_dataplane::id::Name;
use spinwire_dataplane::pool::PoolGeometry;
use spinwire_dataplane::sync::{AtomicU64, Ordering};
use spinwire_hostshim::domain::{Domain, DomainConfig, DomainError};
use spinwire_hostshim::mem::{
    Backing, Locking, MapError, Mapping, PageKind, PagePolicy, Problem, Refusal, SegmentDir,
    SharedMapping,
};
use spinwire_hostshim::plane::{Plane, PlaneError, StatsPage};
use spinwire_hostshim::pool::{BufferPool, PoolConfig};
use spinwire_hostshim::preflight::{Probe, Verdict};
use spinwire_layouts::shm::BufferId;

const KIB: usize = 1 << 10;
const MIB: usize = 1 << 20;
const HUGE: usize = 2 * MIB;
const BASE: PagePolicy = PagePolicy::Only(PageKind::Base4K);
const NOBODY: u32 = 65534;

/// Plays this test in a namespace where `script` has run, or says that it could not.
fn play_in_namespace(test: &str, inner: &Command, script: &str) {
    match in_namespace(inner, script) {
        Ok(command) => run_to_the_end(command),
        Err(why) => not_run(test, &why),
    }
}

/// Stores a word into every line: an end by SIGBUS where a page is not there.
fn store_everywhere(segment: &SharedMapping) {
    for line in segment.lines() {
        line.words()[0].store(0x5C5C, Ordering::Relaxed);
    }
}

/// Takes all that is left of a file system.
fn fill_up(folder: &Path) -> File {
    let mut file = File::create(folder.join("filler")).unwrap();
    for piece in [vec![1; 64 * KIB], vec![1; 4 * KIB]] {
        while file.write_all(&piece).is_ok() {}
    }
    file
}

fn shm() -> SegmentDir {
    let dir = SegmentDir::from_env();
    assert_eq!(dir.path(), Path::new("/dev/shm"));
    dir
}

fn entries() -> usize {
    fs::read_dir("/dev/shm").unwrap().count()
}

#[test]
fn files_that_may_not_be_as_large_are_refused_and_end_nobody() {
    let test = "files_that_may_not_be_as_large_are_refused_and_end_nobody";
    if role().is_none() {
        return play_in_namespace(
            test,
            &again(test, "play"),
            "mount -t tmpfs -o mode=1777 tmpfs /dev/shm; ulimit -f 64",
        );
    }
    // The kernel answers by a signal that would end this process.
    let domain = Domain::create("large", &DomainConfig::default()).unwrap_err();
    assert!(domain.to_string().contains("remedy: raise the limit of file sizes"), "{domain}");
    let page = BufferPool::create("large", &PoolConfig::default()).unwrap_err();
    assert!(page.to_string().contains("ulimit -f unlimited"), "{page}");
    assert_eq!(entries(), 0, "nothing is left behind");
    drop(shm().create("small", 4 * KIB, BASE).unwrap());
    done();
}

#[test]
fn who_cannot_start_a_thread_leaves_nothing_that_it_has_made() {
    let test = "who_cannot_start_a_thread_leaves_nothing_that_it_has_made";
    if role().is_none() {
        if !is_root() {
            return not_run(test, "only root becomes another user");
        }
        let inner = as_nobody(&again(test, "play"));
        return play_in_namespace(test, &inner, "mount -t tmpfs -o mode=1777 tmpfs /dev/shm");
    }
    drop(BufferPool::create("pool", &PoolConfig::default()).unwrap());
    // Of this user nothing may be started any more.
    let me = std::process::id().to_string();
    output("prlimit", &["--pid", &me, "--nproc=0:0"]).unwrap();
    let refusals = [
        Domain::create("new", &DomainConfig::default()).map(drop).unwrap_err().to_string(),
        BufferPool::create("new", &PoolConfig::default()).map(drop).unwrap_err().to_string(),
        BufferPool::open("pool", &PoolConfig::default()).map(drop).unwrap_err().to_string(),
    ];
    for refused in refusals {
        assert!(refused.contains("remedy: raise the limit of processes and threads"), "{refused}");
    }
    assert_eq!(entries(), 1, "what was there is there, and nothing else");
    done();
}

#[test]
fn a_dev_shm_that_is_too_small_says_how_to_mend_it() {
    if role().is_none() {
        let test = "a_dev_shm_that_is_too_small_says_how_to_mend_it";
        return play_in_namespace(
            test,
            &again(test, "play"),
            "mount -t tmpfs -o size=1m,mode=1777 tmpfs /dev/shm",
        );
    }
    let dir = shm();
    let config = DomainConfig { pages: BASE, ..DomainConfig::default() };
    let domain = Domain::create("big", &config).unwrap_err();
    assert!(matches!(domain, DomainError::Map(MapError::DirectoryTooSmall { .. })), "{domain}");
    let e = dir.create("big", HUGE, BASE).unwrap_err();
    let MapError::DirectoryTooSmall { needed, free, .. } = e else { panic!("{e}") };
    assert_eq!((needed, free), (2 << 20, 1 << 20));
    assert_eq!(entries(), 0, "nothing is left behind");

    // The page of a plane needs room, too, though not much.
    let filler = fill_up(dir.path());
    let plane = StatsPage::create(&Name::new("quotes").unwrap()).unwrap_err();
    assert!(matches!(plane, PlaneError::Map(MapError::DirectoryTooSmall { .. })), "{plane}");
    assert_eq!(verdict("shm"), Verdict::Bad);
    fs::remove_file("/dev/shm/filler").unwrap();
    drop(filler);

    // What the error tells to do is enough.
    let text = e.to_string();
    let (_, remedy) = text.split_once("; remedy: ").unwrap();
    assert!(remedy.starts_with("mount -o remount,size="), "{text}");
    match output("sh", &["-c", remedy]) {
        Ok(_silent) => store_everywhere(&dir.create("big", HUGE, BASE).unwrap()),
        Err(why) if in_user_namespace() => not_run(remedy, &why),
        Err(why) => panic!("{remedy}: {why}"),
    }
    done();
}

#[test]
fn memory_that_was_handed_out_is_there_when_dev_shm_fills_up() {
    if role().is_none() {
        let test = "memory_that_was_handed_out_is_there_when_dev_shm_fills_up";
        // A lock would bring the pages in by itself, and hide that nothing else had.
        let inner = without_memlock(&again(test, "play"), 0);
        return play_in_namespace(
            test,
            &inner,
            "mount -t tmpfs -o size=6m,mode=1777 tmpfs /dev/shm",
        );
    }
    let dir = shm();
    let mut made = vec![dir.create("base", MIB, BASE).unwrap()];
    made.push(dir.open("base").unwrap());
    match dir.create("thp", HUGE, PagePolicy::Only(PageKind::Thp)) {
        Ok(segment) => made.push(segment),
        Err(e @ MapError::Pages { .. }) => not_run("transparent huge pages", &e.to_string()),
        Err(e) => panic!("{e}"),
    }
    let staged = dir.stage("staged", 64 * KIB, BASE).unwrap();
    let filler = fill_up(dir.path());
    let e = dir.create("late", 4 * KIB, BASE).unwrap_err();
    assert!(matches!(e, MapError::DirectoryTooSmall { .. }), "{e}");
    made.push(staged.publish().unwrap());
    made.push(dir.open("thp").unwrap_or_else(|_none| dir.open("base").unwrap()));
    made.iter().for_each(store_everywhere);
    drop(filler);
    done();
}

#[test]
fn a_file_with_holes_is_no_segment() {
    if role().is_none() {
        let test = "a_file_with_holes_is_no_segment";
        return play_in_namespace(
            test,
            &again(test, "play"),
            "mount -t tmpfs -o size=1m,mode=1777 tmpfs /dev/shm",
        );
    }
    let dir = shm();
    for bytes in [8 << 10, 1 << 20, 1 << 40, 1 << 60] {
        let file = File::create("/dev/shm/spinwire.holes").unwrap();
        file.set_permissions(Permissions::from_mode(0o600)).unwrap();
        file.set_len(bytes).unwrap();
        let e = dir.open("holes").unwrap_err();
        assert_eq!(e.problem(), Some(Problem::Sparse { bytes, reserved: 0 }), "{e}");
        assert_eq!(dir.list().unwrap()[0].state, Err(e));
        assert_eq!(file.metadata().unwrap().blocks(), 0, "a look takes no memory");
    }
    done();
}

/// Whoever cuts a file off while it is opened gets an answer into the joiner's hands, not a signal. (Once it is mapped,
/// nothing helps: see `mem`.)
#[test]
fn a_file_that_changes_its_size_while_it_is_opened() {
    if role().is_none() {
        let test = "a_file_that_changes_its_size_while_it_is_opened";
        return play_in_namespace(
            test,
            &again(test, "play"),
            "mount -t tmpfs -o size=8m,mode=1777 tmpfs /dev/shm",
        );
    }
    let dir = shm();
    drop(dir.create("seg", 256 * KIB, BASE).unwrap());
    let stop = AtomicU64::new(0);
    let (mut opened, mut refused, mut strange) = (0, 0, None);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut file = File::options().write(true).open("/dev/shm/spinwire.seg").unwrap();
            let pages = vec![0; 256 * KIB];
            while stop.load(Ordering::Relaxed) == 0 {
                file.rewind().unwrap();
                file.write_all(&pages).unwrap();
                file.set_len(0).unwrap();
            }
        });
        for _ in 0..5000 {
            match dir.open("seg") {
                Ok(_segment) => opened += 1,
                Err(e) => match e.problem() {
                    Some(Problem::Size { .. } | Problem::Sparse { .. } | Problem::Link { .. }) => {
                        refused += 1;
                    }
                    _ => strange = Some(e),
                },
            }
        }
        stop.store(1, Ordering::Relaxed);
    });
    assert_eq!(strange, None);
    println!("{opened} times opened, {refused} times refused");
    done();
}

/// What `doctor` says.
fn verdict(id: &str) -> Verdict {
    Probe::live().run().iter().find(|check| check.id == id).unwrap().verdict
}

#[test]
fn too_little_lockable_memory_is_told_and_endured() {
    let test = "too_little_lockable_memory_is_told_and_endured";
    let Some(bytes) = role() else {
        for bytes in [0, 64 * 1024] {
            let folder = Folder::new();
            let mut inner = again(test, &bytes.to_string());
            inner.env("SPINWIRE_SHM_DIR", folder.path());
            run_to_the_end(without_memlock(&inner, bytes));
        }
        return;
    };
    let dir = SegmentDir::from_env();
    let refused = |locking: Locking, errno: i32| {
        let text = locking.to_string();
        assert!(matches!(locking, Locking::Refused(e) if e.number() == errno), "{text}");
        assert!(text.contains("remedy: ulimit -l unlimited"), "{text}");
    };
    let errno = if bytes == "0" { libc::EPERM } else { libc::ENOMEM };
    let segment = dir.create("seg", MIB, BASE).unwrap();
    refused(segment.report().locking(), errno);
    refused(dir.open("seg").unwrap().report().locking(), errno);
    refused(Mapping::anonymous(MIB, BASE).unwrap().report().locking(), errno);
    store_everywhere(&segment);
    let small = dir.create("small", 1, BASE).unwrap();
    if bytes == "0" {
        refused(small.report().locking(), errno);
    } else {
        assert_eq!(small.report().locking(), Locking::Locked, "as far as the limit goes");
    }
    assert_eq!(verdict("memlock"), Verdict::Bad);
    // It is a warning: the domain works.
    drop(
        Domain::create("domain", &DomainConfig { pages: BASE, ..DomainConfig::default() }).unwrap(),
    );
    done();
}

/// The kernel's pool of huge pages, enlarged for a while. One test at a time, on the whole machine.
struct Pool {
    lock: File,
    before: u64,
}

const POOL: &str = "/proc/sys/vm/nr_hugepages";
/// Arenas of whatever runs beside it take pages of the pool as well, and give them back when they end: for so long at most.
const OTHERS_NEED: Duration = Duration::from_secs(60);

impl Pool {
    fn pages() -> Result<u64, String> {
        let text = fs::read_to_string(POOL).map_err(|e| format!("{POOL}: {e}"))?;
        text.trim().parse().map_err(|e| format!("{POOL}: {e}"))
    }

    fn with(more: u64) -> Result<Self, String> {
        let lock = File::open(POOL).map_err(|e| format!("{POOL}: {e}"))?;
        lock.lock().map_err(|e| format!("lock {POOL}: {e}"))?;
        let before = Self::pages()?;
        let wanted = before + more;
        fs::write(POOL, wanted.to_string()).map_err(|e| format!("{POOL}: {e}"))?;
        let pool = Self { lock, before };
        let got = Self::pages()?;
        if got < wanted {
            return Err(format!("{POOL}: {wanted} asked for, {got} given: too little free memory"));
        }
        Ok(pool)
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        fs::write(POOL, self.before.to_string()).unwrap();
        self.lock.unlock().unwrap();
    }
}

#[test]
fn huge_pages_are_used_run_out_and_come_back() {
    let test = "huge_pages_are_used_run_out_and_come_back";
    match role().as_deref() {
        Some("hugetlbfs") => {
            return fill_the_pool(|backing| matches!(backing, Backing::Hugetlbfs(_)));
        }
        Some("memfd") => return fill_the_pool(|backing| matches!(backing, Backing::Memfd { .. })),
        _ => {}
    }
    let pool = match Pool::with(4) {
        Ok(pool) => pool,
        Err(why) => return not_run("huge pages of the pool", &why),
    };
    for (role, script) in [("hugetlbfs", with_hugetlbfs(8)), ("memfd", without_hugetlbfs(8))] {
        play_in_namespace(test, &again(test, role), &script);
    }
    drop(pool);
}

/// A fresh `/dev/shm`. Whatever hugetlbfs is mounted already is hidden.
fn without_hugetlbfs(shm_mib: u32) -> String {
    let tmpfs = format!("mount -t tmpfs -o size={shm_mib}m,mode=1777 tmpfs /dev/shm");
    let hide = "for m in $(awk '$3 == \"hugetlbfs\" { print $2 }' /proc/self/mounts); do umount -l $m; done";
    format!("{tmpfs}; {hide}")
}

/// The same, with one that is all there is.
fn with_hugetlbfs(shm_mib: u32) -> String {
    let mount = "mkdir /dev/shm/h; mount -t hugetlbfs -o pagesize=2M none /dev/shm/h";
    format!("{}; {mount}", without_hugetlbfs(shm_mib))
}

fn buffers(pages: PagePolicy) -> PoolConfig {
    let geometry = PoolGeometry::new(4).class(4096, 8).large_class(1 << 20, 2);
    PoolConfig { geometry, pages, ..PoolConfig::default() }
}

#[test]
fn a_pool_on_huge_pages_outlives_its_maker() {
    let test = "a_pool_on_huge_pages_outlives_its_maker";
    match role().as_deref() {
        Some("maker") => return make_and_wait(),
        Some(role) => return outlive(test, role == "hugetlbfs"),
        None => {}
    }
    let pool = match Pool::with(8) {
        Ok(pool) => pool,
        Err(why) => return not_run("a pool of buffers on huge pages", &why),
    };
    for (role, script) in [("hugetlbfs", with_hugetlbfs(64)), ("none", without_hugetlbfs(64))] {
        play_in_namespace(test, &again(test, role), &script);
    }
    drop(pool);
}

/// A large buffer, left to whoever hears its id.
fn make_and_wait() {
    let pool = BufferPool::create("frames", &buffers(PagePolicy::Best)).unwrap();
    let mut memory = Plane::memory(pool.handle_bytes()).unwrap();
    let bump = Plane::arena(&mut memory);
    let handle = pool.handle(&bump).unwrap();
    let mut guard = handle.acquire(1 << 20).unwrap();
    guard.copy_from(0, b"hello").unwrap();
    say(&guard.detach().unwrap().as_raw().to_string());
    wait_for_end_of_input();
}

fn outlive(test: &str, has_hugetlbfs: bool) {
    let began = Instant::now();
    while !outlives(test, has_hugetlbfs) {
        assert!(began.elapsed() < OTHERS_NEED, "the pages of the pool are there for this test");
    }
    done();
}

/// `false` where it found other pages than those that were to be had.
fn outlives(test: &str, has_hugetlbfs: bool) -> bool {
    let mut maker = again(test, "maker").spawn().unwrap();
    let id = lines(&mut maker).next().unwrap().parse().unwrap();
    maker.kill().unwrap();
    maker.wait().unwrap();
    let pool = BufferPool::open("frames", &buffers(PagePolicy::Best)).unwrap();
    let mut memory = Plane::memory(pool.handle_bytes()).unwrap();
    let bump = Plane::arena(&mut memory);
    let handle = pool.handle(&bump).unwrap();
    let mut text = [0; 5];
    handle.adopt(BufferId::from_raw(id)).unwrap().copy_to(0, &mut text).unwrap();
    assert_eq!(&text, b"hello");
    pool.map_large().unwrap();
    let large: Vec<PageKind> = pool.large_pages().map(|(_, report)| report.page()).collect();
    let all = [&[pool.pages().page()][..], &large].concat();
    assert_eq!(all.len(), 3);
    let are_huge = |page: &PageKind| (*page == PageKind::Huge2M) == has_hugetlbfs;
    if has_hugetlbfs && !all.iter().all(are_huge) {
        pool.unlink().unwrap();
        return false;
    }
    assert!(all.iter().all(are_huge), "{all:?}");
    let only = BufferPool::create("only", &buffers(PagePolicy::Only(PageKind::Huge2M)));
    match only {
        Ok(only) => {
            assert!(has_hugetlbfs);
            only.unlink().unwrap();
        }
        Err(_taken_meanwhile) if has_hugetlbfs => {
            pool.unlink().unwrap();
            return false;
        }
        Err(e) => assert!(e.to_string().contains("remedy: mount -t hugetlbfs"), "{e}"),
    }
    drop(handle);
    pool.unlink().unwrap();
    if has_hugetlbfs {
        assert_eq!(fs::read_dir("/dev/shm/h").unwrap().count(), 0, "the memory goes with the name");
    }
    assert!(shm().list().unwrap().is_empty());
    true
}

fn fill_the_pool(expected: impl Fn(&Backing) -> bool) {
    let dir = shm();
    let huge = PagePolicy::Only(PageKind::Huge2M);
    let empty = |why: &Refusal| {
        matches!(why, Refusal::PoolTooSmall { needed: 1, free: Some(0) } | Refusal::NoMount)
    };
    let began = Instant::now();
    let (made, e) = loop {
        let mut made = Vec::new();
        let e = loop {
            match dir.create(&format!("seg{}", made.len()), HUGE, huge) {
                Ok(segment) => made.push(segment),
                Err(e) => break e,
            }
        };
        let MapError::Pages { ref refused, .. } = e else { panic!("{e}") };
        if made.len() >= 4 && refused.iter().all(|refused| empty(&refused.why)) {
            break (made, e);
        }
        assert!(began.elapsed() < OTHERS_NEED, "{}: {e}", made.len());
        made.iter().for_each(|segment| assert_eq!(segment.unlink(), Ok(true)));
        std::thread::sleep(Duration::from_millis(20));
    };
    assert!(e.to_string().contains("remedy: sysctl -w vm.nr_hugepages="), "{e}");
    assert!(!dir.list().unwrap().iter().any(|l| l.name == format!("seg{}", made.len())));
    for segment in &made {
        assert!(expected(segment.backing()), "{}", segment.backing());
        assert_eq!((segment.page(), segment.len()), (PageKind::Huge2M, HUGE));
        assert_eq!(segment.report().locking(), Locking::NeverSwapped);
        store_everywhere(segment);
        let joined = dir.open(segment.name()).unwrap();
        assert_eq!(joined.page(), PageKind::Huge2M);
        store_everywhere(&joined);
    }
    // The size of a memfd is sealed, by whatever path it is reached.
    if let Backing::Memfd { pid } = made[0].backing() {
        let memfd = |entry: &fs::DirEntry| {
            fs::read_link(entry.path())
                .is_ok_and(|to| to.to_string_lossy().contains("spinwire.seg"))
        };
        let entries = fs::read_dir(format!("/proc/{pid}/fd")).unwrap().map(Result::unwrap);
        let path = entries.into_iter().find(memfd).unwrap().path();
        let file = File::options().write(true).open(path).unwrap();
        let e = file.set_len(0).unwrap_err();
        assert_eq!(e.raw_os_error(), Some(libc::EPERM), "{e}");
    }
    // One leads to the memory of another: that one is not removed with it.
    if let Backing::Hugetlbfs(memory) = made[0].backing() {
        fs::copy("/dev/shm/spinwire.seg0", "/dev/shm/spinwire.thief").unwrap();
        dir.unlink("thief").unwrap();
        assert!(memory.exists() && dir.open("seg0").is_ok());
    }
    for segment in made {
        assert!(segment.unlink().unwrap());
        if let Backing::Hugetlbfs(memory) = segment.backing() {
            assert!(!memory.exists());
        }
    }
    drop(dir.create("again", HUGE, huge).unwrap());
    dir.unlink("again").unwrap();
    done();
}

#[test]
fn another_user_is_told_whose_it_is_and_removes_nothing() {
    let test = "another_user_is_told_whose_it_is_and_removes_nothing";
    if role().is_some() {
        return be_nobody();
    }
    if !is_root() {
        return not_run(test, "only root can become another user");
    }
    for mode in [0o755, 0o1777] {
        let folder = Folder::new();
        let segment = SegmentDir::new(folder.path()).create("seg", 1, BASE).unwrap();
        fs::set_permissions(folder.path(), Permissions::from_mode(mode)).unwrap();
        let mut inner = again(test, &format!("{mode:o}"));
        inner.env("SPINWIRE_SHM_DIR", folder.path());
        run_to_the_end(as_nobody(&inner));
        assert_eq!(folder.names(), ["spinwire.seg"]);
        assert!(segment.unlink().unwrap());
    }
}

fn be_nobody() {
    let dir = SegmentDir::from_env();
    let foreign = Problem::Owner { uid: 0, euid: NOBODY };
    let e = dir.open("seg").unwrap_err();
    assert_eq!(e.problem(), Some(foreign), "{e}");
    assert!(e.to_string().contains("remedy: run both sides as one user"), "{e}");
    let joined = Domain::join("seg", &DomainConfig::default()).unwrap_err();
    assert_eq!(joined, DomainError::Map(e.clone()));
    let made = Domain::create_or_join("seg", &DomainConfig::default()).unwrap_err();
    assert_eq!(made, DomainError::Map(e.clone()));
    let listed = dir.list().unwrap();
    assert_eq!((listed[0].uid, &listed[0].state), (0, &Err(e)));
    let denied = |e: MapError| {
        let text = e.to_string();
        let MapError::Os(e) = e else { panic!("{e}") };
        assert!(matches!(e.errno().number(), libc::EACCES | libc::EPERM), "{text}");
        assert!(
            text.contains("remedy: ") && text.contains("spinwire") | text.contains("host-test"),
            "{text}"
        );
    };
    denied(dir.unlink("seg").unwrap_err());
    match role().as_deref() {
        Some("1777") => {
            let mine = dir.create("mine", 1, BASE).unwrap();
            assert!(mine.unlink().unwrap());
        }
        _ => {
            denied(dir.create("mine", 1, BASE).unwrap_err());
            assert_eq!(verdict("shm"), Verdict::Bad);
        }
    }
    done();
}
