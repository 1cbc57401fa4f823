//! Named segments between real processes: joined, refused, removed, and left behind by the dead.
#![allow(
    clippy::large_stack_arrays,
    clippy::wildcard_enum_match_arm,
    reason = "one page of zeros; and a test names the cases that it knows"
)]
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
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;
use std::process::Command;

use host_process::{Folder, Memory, again, lines, role, say, wait_for_end_of_input};
use spinwire_hostshim::liveness::Identity;
use spinwire_hostshim::mem::{
    self, Backing, Locking, MapError, Mount, PageKind, PagePolicy, Problem, SegmentDir,
    SharedMapping,
};

const HUGE: usize = 2 << 20;
const BASE: PagePolicy = PagePolicy::Only(PageKind::Base4K);

/// What the second process of the tests below does: joins the segment `seg` and adds one to the bytes at both ends.
fn join_and_count() {
    let segment = SharedMapping::open("seg").unwrap();
    let memory = Memory::open();
    for offset in [0, segment.len() - 1] {
        memory.set(segment.as_ptr(), offset, memory.get(segment.as_ptr(), offset) + 1);
    }
    say(&format!("{} {}", segment.page(), segment.len()));
}

fn count_in_another_process(test: &str, folder: &Folder) -> String {
    let mut child = again(test, "join").env("SPINWIRE_SHM_DIR", folder.path()).spawn().unwrap();
    let mut heard = lines(&mut child);
    let said = heard.next().unwrap();
    assert!(child.wait().unwrap().success());
    said
}

#[test]
fn two_processes_see_each_others_stores() {
    if role().is_some() {
        return join_and_count();
    }
    let memory = Memory::open();
    for policy in [
        BASE,
        PagePolicy::Only(PageKind::Thp),
        PagePolicy::Only(PageKind::Huge2M),
        PagePolicy::Best,
    ] {
        let folder = Folder::new();
        let dir = SegmentDir::new(folder.path());
        let segment = match dir.create("seg", 3 * HUGE - 5, policy) {
            Ok(segment) => segment,
            Err(e @ MapError::Pages { .. }) => {
                // This machine has none of those. The error has to say what to do, and nothing may be left.
                assert!(policy != BASE && policy != PagePolicy::Best, "{e}");
                assert!(e.to_string().contains("remedy: "), "{e}");
                assert!(folder.names().is_empty());
                continue;
            }
            Err(e) => panic!("{policy:?}: {e}"),
        };
        let (at, last) = (segment.as_ptr(), segment.len() - 1);
        assert!(last >= 3 * HUGE - 6);
        memory.set(at, 0, 10);
        memory.set(at, last, 20);
        let said = count_in_another_process("two_processes_see_each_others_stores", &folder);
        println!("{policy:?}: {said}, {}", segment.backing());
        assert_eq!(
            said,
            format!("{} {}", segment.page(), segment.len()),
            "both got the same pages"
        );
        assert_eq!((memory.get(at, 0), memory.get(at, last)), (11, 21));
        if let PagePolicy::Only(kind) = policy {
            assert_eq!(segment.page(), kind);
        }
        assert!(segment.unlink().unwrap());
        assert!(folder.names().is_empty());
        if let Backing::Hugetlbfs(path) = segment.backing() {
            assert!(!path.exists(), "the huge pages go with the name");
        }
        assert_eq!(memory.get(at, 0), 11, "who has it keeps it");
    }
}

#[test]
fn memory_is_zeroed_and_reserved() {
    let folder = Folder::new();
    let segment = SegmentDir::new(folder.path()).create("seg", 1, BASE).unwrap();
    assert_eq!(segment.len(), 4096);
    let file = fs::metadata(folder.path().join("spinwire.seg")).unwrap();
    assert_eq!((file.len(), file.blocks() * 512), (4096, 4096));
    let memory = Memory::open();
    assert!((0..4096).all(|offset| memory.get(segment.as_ptr(), offset) == 0));
}

/// Bytes of the mapping at that address that this process has in its page tables: proc_pid_smaps(5).
fn brought_in(segment: &SharedMapping) -> usize {
    let start = format!("{:x}-", segment.as_ptr().as_ptr().addr());
    let smaps = fs::read_to_string("/proc/self/smaps").unwrap();
    let mapping = smaps.lines().skip_while(|line| !line.starts_with(&start));
    let rss = mapping.into_iter().find_map(|line| line.strip_prefix("Rss:")).unwrap();
    rss.trim().strip_suffix(" kB").unwrap().parse::<usize>().unwrap() * 1024
}

#[test]
fn a_look_brings_in_what_it_touches_and_no_more() {
    let folder = Folder::new();
    let dir = SegmentDir::new(folder.path());
    let bytes = 8 * HUGE;
    let made = dir.create("seg", bytes, BASE).unwrap();
    let memory = Memory::open();
    memory.set(made.as_ptr(), bytes - 1, 33);
    let (joined, looked) = (dir.open("seg").unwrap(), dir.look("seg").unwrap());
    assert_eq!(brought_in(&joined), bytes);
    assert!(brought_in(&looked) < HUGE, "{}", brought_in(&looked));
    assert_eq!((looked.len(), looked.page()), (bytes, PageKind::Base4K));
    assert_eq!(looked.report().locking(), Locking::NotAsked);
    assert_eq!(memory.get(looked.as_ptr(), bytes - 1), 33);
    assert_eq!(dir.look("none").unwrap_err().problem(), Some(Problem::Missing));
    // Huge pages are seen as what they are.
    if let Ok(thp) = dir.create("thp", HUGE, PagePolicy::Only(PageKind::Thp)) {
        assert_eq!(dir.look("thp").unwrap().page(), thp.page());
    }
    File::options()
        .write(true)
        .open(folder.path().join("spinwire.seg"))
        .unwrap()
        .set_len(0)
        .unwrap();
    let e = dir.look("seg").unwrap_err();
    assert_eq!(e.problem(), Some(Problem::Size { bytes: 0 }), "{e}");
}

#[test]
fn nobody_sees_a_staged_segment() {
    let folder = Folder::new();
    let dir = SegmentDir::new(folder.path());
    let staged = dir.stage("seg", HUGE, PagePolicy::Best).unwrap();
    let visible = |folder: &Folder| folder.names().iter().any(|n| n == "spinwire.seg");
    assert!(!visible(&folder));
    assert_eq!(dir.open("seg").unwrap_err().problem(), Some(Problem::Missing));
    let memory = Memory::open();
    memory.set(staged.as_ptr(), 7, 77);
    let address = staged.as_ptr();
    let segment = staged.publish().unwrap();
    assert_eq!(segment.as_ptr(), address);
    let joined = dir.open("seg").unwrap();
    assert_eq!(memory.get(joined.as_ptr(), 7), 77);
    assert_ne!(joined.as_ptr(), address);
    drop(dir.stage("other", HUGE, PagePolicy::Best).unwrap());
    assert!(!dir.list().unwrap().iter().any(|l| l.name == "other"), "a dropped one vanishes");
}

#[test]
fn one_of_many_creators_wins() {
    let folder = Folder::new();
    let dir = SegmentDir::new(folder.path());
    for _ in 0..20 {
        let race = std::thread::scope(|scope| {
            let racers: Vec<_> =
                (0..6).map(|_| scope.spawn(|| dir.create("seg", 1, BASE))).collect();
            racers.into_iter().map(|r| r.join().unwrap()).collect::<Vec<_>>()
        });
        let losers = race.iter().filter_map(|r| r.as_ref().err()).collect::<Vec<_>>();
        assert_eq!(losers.len(), 5);
        assert!(losers.iter().all(|e| e.problem() == Some(Problem::Exists)), "{losers:?}");
        dir.unlink("seg").unwrap();
    }
}

#[test]
fn the_file_is_private_whatever_the_umask() {
    if role().is_some() {
        drop(SharedMapping::create("seg", 1, BASE).unwrap());
        return say("done");
    }
    for umask in ["000", "077", "777"] {
        let folder = Folder::new();
        let inner = again("the_file_is_private_whatever_the_umask", "create");
        let mut shell = Command::new("sh");
        shell.arg("-c").arg(format!("umask {umask}; exec \"$0\" \"$@\"")).arg(inner.get_program());
        shell.args(inner.get_args()).envs(inner.get_envs().filter_map(|(k, v)| Some((k, v?))));
        shell.env("SPINWIRE_SHM_DIR", folder.path());
        assert!(shell.output().unwrap().status.success());
        let found = fs::symlink_metadata(folder.path().join("spinwire.seg")).unwrap();
        assert_eq!(found.mode() & 0o7777, 0o600, "umask {umask}");
    }
}

fn refusal(dir: &SegmentDir, name: &str) -> Problem {
    let e = dir.open(name).unwrap_err();
    assert!(e.to_string().contains("remedy: ") && e.to_string().contains(name), "{e}");
    let listed = dir.list().unwrap().into_iter().find(|l| l.name == name);
    if let Some(listed) = listed {
        assert_eq!(listed.state.unwrap_err(), e, "the list says the same");
    }
    e.problem().unwrap_or_else(|| panic!("{e}"))
}

#[test]
fn what_is_no_segment_is_refused_by_kind() {
    let folder = Folder::new();
    let dir = SegmentDir::new(folder.path());
    let file = |name: &str| folder.path().join(format!("spinwire.{name}"));
    drop(dir.create("good", 1, BASE).unwrap());
    drop(dir.open("good").unwrap());

    assert_eq!(refusal(&dir, "absent"), Problem::Missing);
    symlink(file("good"), file("symlink")).unwrap();
    symlink("nowhere", file("dangling")).unwrap();
    assert_eq!(refusal(&dir, "symlink"), Problem::Symlink);
    assert_eq!(refusal(&dir, "dangling"), Problem::Symlink);
    fs::create_dir(file("folder")).unwrap();
    assert_eq!(refusal(&dir, "folder"), Problem::NotRegular);
    let _socket = std::os::unix::net::UnixListener::bind(file("socket")).unwrap();
    assert_eq!(refusal(&dir, "socket"), Problem::NotRegular);
    assert!(Command::new("mkfifo").arg(file("fifo")).status().unwrap().success());
    assert_eq!(refusal(&dir, "fifo"), Problem::NotRegular);

    for mode in [0o644, 0o660, 0o602, 0o700, 0o4600] {
        drop(dir.create("open", 1, BASE).unwrap());
        fs::set_permissions(file("open"), Permissions::from_mode(mode)).unwrap();
        assert_eq!(refusal(&dir, "open"), Problem::Mode { mode });
        dir.unlink("open").unwrap();
    }
    for bytes in [0, 4097, 8191] {
        let half = dir.create("half", 8192, BASE).unwrap();
        File::options().write(true).open(file("half")).unwrap().set_len(bytes).unwrap();
        assert_eq!(refusal(&dir, "half"), Problem::Size { bytes });
        assert!(half.unlink().unwrap());
    }
}

/// A file of another user. Only root can make one; any other user finds one of root's.
#[test]
fn other_peoples_segments_are_refused() {
    let folder = Folder::new();
    let dir = SegmentDir::new(folder.path());
    let path = folder.path().join("spinwire.seg");
    let me = fs::metadata(folder.path()).unwrap().uid();
    if me == 0 {
        drop(dir.create("seg", 1, BASE).unwrap());
        std::os::unix::fs::chown(&path, Some(65534), None).unwrap();
        assert_eq!(refusal(&dir, "seg"), Problem::Owner { uid: 65534, euid: 0 });
        assert_eq!(dir.list().unwrap()[0].uid, 65534);
    } else {
        fs::hard_link("/etc/shadow", &path)
            .or_else(|_protected| symlink("/etc/shadow", &path))
            .unwrap();
        assert!(matches!(refusal(&dir, "seg"), Problem::Owner { uid: 0, .. } | Problem::Symlink));
    }
}

#[test]
fn names_are_checked_everywhere() {
    let folder = Folder::new();
    let dir = SegmentDir::new(folder.path());
    let inside = folder.path().join("inside");
    fs::create_dir(&inside).unwrap();
    for name in ["", "../x", "a/b", ".x", "a b"] {
        let named = |e: MapError| matches!(e, MapError::Name(_));
        assert!(named(dir.create(name, 1, BASE).unwrap_err()), "{name}");
        assert!(named(dir.open(name).unwrap_err()), "{name}");
        assert!(named(dir.unlink(name).unwrap_err()), "{name}");
    }
    assert_eq!(folder.names(), ["inside"]);
    assert_eq!(dir.create("x", 0, BASE).unwrap_err(), MapError::Zero);
    let e = dir.create("x", usize::MAX, PagePolicy::Best).unwrap_err();
    assert_eq!(e, MapError::TooLarge { bytes: usize::MAX });
}

#[test]
fn a_folder_that_is_too_small_says_how_much_is_missing() {
    let folder = Folder::new();
    let dir = SegmentDir::new(folder.path());
    for policy in [BASE, PagePolicy::Best] {
        let e = dir.create("seg", 1 << 50, policy).unwrap_err();
        let MapError::DirectoryTooSmall { needed, free, ref directory, ref mount } = e else {
            panic!("{e}")
        };
        assert_eq!((needed, directory.as_path()), (1 << 50, folder.path()));
        assert!(free < needed);
        let text = e.to_string();
        match mount {
            Some(Mount { point, .. }) => {
                assert!(folder.path().starts_with(point), "{text}");
                assert!(text.contains("remedy: mount -o remount,size=10737"), "{text}");
            }
            None => assert!(text.contains("remedy: free some of it"), "{text}"),
        }
    }
    assert!(folder.names().is_empty());
    let e = SegmentDir::new("/absent/folder").create("seg", 1, BASE).unwrap_err();
    assert!(matches!(e, MapError::Os(_)) && e.to_string().contains("/absent/folder"), "{e}");
}

#[test]
fn unlink_removes_what_was_looked_at_and_nothing_else() {
    let folder = Folder::new();
    let dir = SegmentDir::new(folder.path());
    let first = dir.create("seg", 1, BASE).unwrap();
    let joined = dir.open("seg").unwrap();
    dir.unlink("seg").unwrap();
    assert!(!first.unlink().unwrap(), "gone already");
    let second = dir.create("seg", 1, BASE).unwrap();
    assert!(!first.unlink().unwrap() && !joined.unlink().unwrap(), "that is another segment");
    assert_eq!(folder.names(), ["spinwire.seg"]);
    assert!(dir.open("seg").unwrap().unlink().unwrap());
    assert!(!second.unlink().unwrap());
    assert_eq!(dir.unlink("seg").unwrap_err().problem(), Some(Problem::Missing));

    // A symlink is removed and not what it points to.
    fs::write(folder.path().join("precious"), "x").unwrap();
    symlink(folder.path().join("precious"), folder.path().join("spinwire.seg")).unwrap();
    dir.unlink("seg").unwrap();
    assert_eq!(folder.names(), ["precious"]);
}

fn mapped(path: &Path) -> bool {
    fs::read_to_string("/proc/self/maps").unwrap().contains(path.to_str().unwrap())
}

#[test]
fn a_drop_unmaps_and_keeps_the_name() {
    let folder = Folder::new();
    let dir = SegmentDir::new(folder.path());
    for (name, bytes) in [("small", 1), ("aligned", 2 * HUGE)] {
        let path = folder.path().join(format!("spinwire.{name}"));
        let policy = if bytes == 1 { BASE } else { PagePolicy::Only(PageKind::Thp) };
        match dir.create(name, bytes, policy) {
            Ok(created) => drop(created),
            Err(MapError::Pages { .. }) => drop(dir.create(name, bytes, BASE).unwrap()),
            Err(e) => panic!("{e}"),
        }
        let segment = dir.open(name).unwrap();
        assert!(mapped(&path));
        drop(segment);
        assert!(!mapped(&path) && path.exists());
    }
}

fn memfd_link(creator: &Identity, inode: u64) -> String {
    let boot: String = creator.boot_id.iter().map(|b| format!("{b:02x}")).collect();
    format!(
        "spinwire-link 1\nkind memfd\npid {}\nstart_time {}\nboot_id {boot}\nfd 0\ninode {inode}\n",
        creator.pid, creator.start_time
    )
}

#[test]
fn links_are_not_believed() {
    let folder = Folder::new();
    let dir = SegmentDir::new(folder.path());
    let path = folder.path().join("spinwire.seg");
    let link = |text: &str| {
        let _absent = fs::remove_file(&path);
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, Permissions::from_mode(0o600)).unwrap();
    };
    let me = Identity::mine().unwrap();
    let precious = folder.path().join("spinwire.precious");
    fs::write(&precious, [0; 4096]).unwrap();
    fs::set_permissions(&precious, Permissions::from_mode(0o600)).unwrap();

    link("hello");
    assert_eq!(refusal(&dir, "seg"), Problem::Link { field: "first line" });
    link(&memfd_link(&Identity { start_time: 1, ..me }, 1));
    assert_eq!(refusal(&dir, "seg"), Problem::CreatorGone { pid: me.pid });
    link(&memfd_link(&me, u64::MAX));
    assert_eq!(
        refusal(&dir, "seg"),
        Problem::CreatorGone { pid: me.pid },
        "another file has that descriptor"
    );
    link("spinwire-link 1\nkind hugetlbfs\npath /absent/spinwire.x\n");
    let e = dir.open("seg").unwrap_err();
    assert_eq!(e.problem(), Some(Problem::TargetMissing));
    assert!(e.to_string().starts_with("/absent/spinwire.x "), "{e}");
    link(&format!("spinwire-link 1\nkind hugetlbfs\npath {}\n", precious.display()));
    assert_eq!(refusal(&dir, "seg"), Problem::Link { field: "kind" }, "that is no hugetlbfs");
    dir.unlink("seg").unwrap();
    assert!(precious.exists(), "and what it names is not removed with it");
}

#[test]
fn a_list_shows_everything_with_the_name_and_nothing_else() {
    let folder = Folder::new();
    let dir = SegmentDir::new(folder.path());
    assert!(dir.list().unwrap().is_empty());
    drop(dir.create("b", 8192, BASE).unwrap());
    drop(dir.create("a", 1, BASE).unwrap());
    fs::write(folder.path().join("other"), "").unwrap();
    fs::write(folder.path().join("spinwire.c d"), "").unwrap();
    let list = dir.list().unwrap();
    assert_eq!(list.iter().map(|l| l.name.as_str()).collect::<Vec<_>>(), ["a", "b", "c d"]);
    let path = folder.path().join("spinwire.b");
    assert_eq!(list[1].state, Ok((Backing::File(path.clone()), 8192)));
    assert_eq!(list[1].path, path);
    assert!(matches!(list[2].state, Err(MapError::Name(_))));
    assert!(SegmentDir::new("/absent").list().is_err());
}

/// A creator that is killed at any moment leaves a whole segment or nothing.
#[test]
fn a_killed_creator_leaves_no_half_segment() {
    if role().is_some() {
        say("ready");
        let policies = [BASE, PagePolicy::Best];
        for policy in policies.iter().cycle() {
            let created = SharedMapping::create("seg", 64 << 10, *policy).unwrap();
            let joined = SharedMapping::open("seg").unwrap();
            assert_eq!(joined.len(), created.len());
            mem::unlink("seg").unwrap();
        }
    }
    let folder = Folder::new();
    let dir = SegmentDir::new(folder.path());
    let (mut whole, mut none) = (0, 0);
    for round in 0..40_u64 {
        let mut child = again("a_killed_creator_leaves_no_half_segment", "create")
            .env("SPINWIRE_SHM_DIR", folder.path())
            .spawn()
            .unwrap();
        let mut heard = lines(&mut child);
        assert_eq!(heard.next().unwrap(), "ready");
        std::thread::sleep(Duration::from_micros(round * 97 % 3000));
        child.kill().unwrap();
        child.wait().unwrap();
        match dir.open("seg") {
            Ok(segment) => {
                assert!(segment.len() >= 64 << 10);
                assert!(segment.unlink().unwrap());
                whole += 1;
            }
            Err(e) => match e.problem() {
                Some(Problem::Missing) => none += 1,
                // The name is published last; these two say so, and can be removed.
                Some(Problem::CreatorGone { .. } | Problem::TargetMissing) => {
                    dir.unlink("seg").unwrap()
                }
                _ => panic!("{e}"),
            },
        }
        assert!(folder.names().is_empty(), "{:?}", folder.names());
    }
    println!("{whole} whole segments, {none} times nothing");
}

/// A memfd can be joined while its creator holds it, and is reported as lost after. Needs huge pages; where there are
/// none the creator says why, which is checked instead.
#[test]
fn a_memfd_goes_with_its_creator() {
    if role().is_some() {
        match SharedMapping::create("seg", HUGE, PagePolicy::Only(PageKind::Huge2M)) {
            Ok(segment) => {
                say(&format!("{}", segment.backing()));
                wait_for_end_of_input();
            }
            Err(e) => say(&format!("no pages: {e}").replace('\n', " ")),
        }
        return;
    }
    let folder = Folder::new();
    let dir = SegmentDir::new(folder.path());
    let mut child = again("a_memfd_goes_with_its_creator", "create")
        .env("SPINWIRE_SHM_DIR", folder.path())
        .spawn()
        .unwrap();
    let mut heard = lines(&mut child);
    let said = heard.next().unwrap();
    println!("{said}");
    let pid = child.id();
    if said.starts_with("no pages") {
        assert!(said.contains("sysctl -w vm.nr_hugepages="), "{said}");
        child.wait().unwrap();
        return;
    }
    let joined = dir.open("seg").unwrap();
    assert_eq!(joined.page(), PageKind::Huge2M);
    child.kill().unwrap();
    child.wait().unwrap();
    let memory = Memory::open();
    memory.set(joined.as_ptr(), HUGE - 1, 9);
    assert_eq!(memory.get(joined.as_ptr(), HUGE - 1), 9, "who has joined keeps it");
    match joined.backing() {
        Backing::Memfd { .. } => assert_eq!(refusal(&dir, "seg"), Problem::CreatorGone { pid }),
        Backing::Hugetlbfs(_) => drop(dir.open("seg").unwrap()),
        other => panic!("{other}"),
    }
    assert!(joined.unlink().unwrap());
    assert!(folder.names().is_empty());
}
