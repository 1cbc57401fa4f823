//! Checks of memory: in which pages it comes, whether it stays, and whether there is enough.

use super::{Check, Probe, Subject};
use crate::discover::Absence;

const MIB: u64 = 1 << 20;
/// Free pages of 2 MiB below which a few segments and arenas use the pool up.
const HUGE_PAGES_WANTED: u64 = 8;
/// Lockable memory below which larger segments, and RDMA, come short.
const MEMLOCK_WANTED: u64 = 64 * MIB;
const MEMLOCK_NEEDED: u64 = MIB;
/// Room for segments below which some, or the first, will not fit.
const SHM_WANTED: u64 = 64 * MIB;
const SHM_NEEDED: u64 = 16 * MIB;

pub(super) fn checks(probe: &Probe) -> Vec<Check> {
    vec![
        huge_pages(probe),
        hugetlbfs(probe),
        transparent(probe),
        transparent_shm(probe),
        memlock(probe),
        segment_room(probe),
        swap(probe),
    ]
}

fn huge_pages(probe: &Probe) -> Check {
    const ABOUT: Subject = Subject {
        id: "hugepages",
        title: "pool of 2M pages",
        why: "one TLB entry covers 2 MiB instead of 4 KiB, so that polling and copying miss it less",
    };
    let folder = "sys/kernel/mm/hugepages/hugepages-2048kB";
    let pages = |file: &str| probe.number(&format!("{folder}/{file}"));
    let (Some(all), Some(free)) = (pages("nr_hugepages"), pages("free_hugepages")) else {
        return ABOUT.unknown("this kernel shows no pool of 2M pages");
    };
    let free = free.saturating_sub(pages("resv_hugepages").unwrap_or(0));
    let found = format!("{free} of {all} pages free");
    let remedy =
        format!("sudo sysctl -w vm.nr_hugepages={}", all.saturating_sub(free).saturating_add(64));
    match free {
        HUGE_PAGES_WANTED.. => ABOUT.ok(found),
        0 if !probe.facts.transparent_page => {
            ABOUT.bad(format!("{found}, and no transparent one was given"), remedy)
        }
        _ => ABOUT.warn(found, remedy),
    }
}

fn hugetlbfs(probe: &Probe) -> Check {
    const ABOUT: Subject = Subject {
        id: "hugetlbfs",
        title: "hugetlbfs mount",
        why: "segments on a hugetlbfs can be joined after their creator has ended; those in a memfd cannot",
    };
    let Some(mounts) = probe.text("proc/self/mounts") else {
        return ABOUT.unknown("the mounts cannot be read");
    };
    let kinds = |line: &str| {
        let fields: Vec<String> = line.split_ascii_whitespace().map(str::to_owned).collect();
        let [_source, point, kind, options, ..] = fields.as_slice() else {
            return None;
        };
        // Without the option, the pages are of the default size, which is 2M unless the boot line says otherwise.
        let other_size = options
            .split(',')
            .any(|o| o.starts_with("pagesize=") && !matches!(o, "pagesize=2M" | "pagesize=2048K"));
        (kind == "hugetlbfs" && !other_size).then(|| point.clone())
    };
    let remedy = "sudo mkdir -p /dev/hugepages && sudo mount -t hugetlbfs -o pagesize=2M,mode=1777 none /dev/hugepages";
    match mounts.lines().find_map(kinds) {
        Some(point) => ABOUT.ok(point),
        None => ABOUT.warn("none with 2M pages", remedy),
    }
}

fn transparent(probe: &Probe) -> Check {
    const ABOUT: Subject = Subject {
        id: "thp",
        title: "transparent huge pages",
        why: "where the pool is empty, private memory gets huge pages only by this",
    };
    const REMEDY: &str = "echo madvise | sudo tee /sys/kernel/mm/transparent_hugepage/enabled";
    // What is asked for by hand is gathered whatever the setting says (Linux 6.1), and arenas ask.
    let setting = probe.choice("sys/kernel/mm/transparent_hugepage/enabled");
    match (setting.as_deref(), probe.facts.transparent_page) {
        (Some(setting @ ("always" | "madvise")), true) => ABOUT.ok(setting),
        (Some(setting @ ("always" | "madvise")), false) => ABOUT.warn(
            format!("{setting}, and none was given: free memory is in pieces"),
            "echo 1 | sudo tee /proc/sys/vm/compact_memory",
        ),
        (Some(setting), true) => ABOUT.ok(format!("{setting}, but given where asked for by hand")),
        (Some(setting), false) => ABOUT.warn(setting, REMEDY),
        (None, _) => ABOUT.unknown("this kernel shows no transparent huge pages"),
    }
}

fn transparent_shm(probe: &Probe) -> Check {
    const ABOUT: Subject = Subject {
        id: "shm_thp",
        title: "transparent huge pages in shared memory",
        why: "where the pool is empty, segments get huge pages only by this",
    };
    // On a mounted tmpfs only `deny` forbids gathering pages by hand, which is how segments get theirs.
    match probe.choice("sys/kernel/mm/transparent_hugepage/shmem_enabled").as_deref() {
        Some("deny") => ABOUT.warn(
            "deny",
            "echo advise | sudo tee /sys/kernel/mm/transparent_hugepage/shmem_enabled",
        ),
        Some(setting) => ABOUT.ok(setting),
        None => ABOUT.unknown("this kernel shows no such setting"),
    }
}

fn memlock(probe: &Probe) -> Check {
    const ABOUT: Subject = Subject {
        id: "memlock",
        title: "lockable memory",
        why: "memory that is not locked can be swapped out, RDMA cannot register it, and rings of io_uring count as locked",
    };
    if probe.text("proc/self/status").is_some_and(|status| crate::limits::has_ipc_lock(&status)) {
        return ABOUT.ok("no limit (CAP_IPC_LOCK)");
    }
    let limits = probe.text("proc/self/limits").unwrap_or_default();
    let soft = limits
        .lines()
        .find_map(|line| line.strip_prefix("Max locked memory")?.split_ascii_whitespace().next());
    let remedy = "echo \"$USER - memlock unlimited\" | sudo tee /etc/security/limits.d/spinwire.conf # then log in anew";
    match soft.map(|soft| (soft, soft.parse::<u64>())) {
        Some(("unlimited", _)) => ABOUT.ok("no limit"),
        Some((_, Ok(bytes))) => {
            let found = format!("{} KiB", bytes / 1024);
            match bytes {
                MEMLOCK_WANTED.. => ABOUT.ok(found),
                MEMLOCK_NEEDED.. => ABOUT.warn(found, remedy),
                _ => ABOUT.bad(found, remedy),
            }
        }
        Some((_, Err(_))) | None => ABOUT.unknown("the limit cannot be read"),
    }
}

fn segment_room(probe: &Probe) -> Check {
    const ABOUT: Subject = Subject {
        id: "shm",
        title: "room for segments",
        why: "a segment takes all its memory when it is created, and is refused where that is not there",
    };
    let folder = probe.facts.segment_dir.display();
    let room = match &probe.facts.segment_room {
        Ok(room) => room,
        Err(e) => {
            let elsewhere = "export SPINWIRE_SHM_DIR=... # a tmpfs that this user may write";
            let Absence { why, remedy } = e.clone().into();
            let remedy = remedy.unwrap_or_else(|| elsewhere.to_owned());
            return ABOUT.bad(format!("no segment can be made: {why}"), remedy);
        }
    };
    let Some(free) = room.free else {
        return ABOUT.ok(format!("{folder}: no limit"));
    };
    let total = room.total.unwrap_or(free);
    let found = format!("{folder}: {} of {} MiB free", free / MIB, total / MIB);
    let remedy =
        format!("sudo mount -o remount,size={}M {folder}", (total / MIB).saturating_add(256));
    match free {
        SHM_WANTED.. => ABOUT.ok(found),
        SHM_NEEDED.. => ABOUT.warn(found, remedy),
        _ => ABOUT.bad(found, remedy),
    }
}

fn swap(probe: &Probe) -> Check {
    const ABOUT: Subject = Subject {
        id: "swap",
        title: "swap",
        why: "code and memory that is not locked can be swapped out, and comes back after milliseconds",
    };
    let total = probe.field("proc/meminfo", "SwapTotal");
    match total.and_then(|t| t.strip_suffix("kB")?.trim().parse::<u64>().ok()) {
        Some(0) => ABOUT.ok("none"),
        Some(kib) => ABOUT.warn(format!("{} MiB", kib / 1024), "sudo swapoff -a"),
        None => ABOUT.unknown("the amount of swap cannot be read"),
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Room, Verdict};
    use super::*;
    use crate::error::{Errno, OsError};
    use crate::fake_tree::Tree;

    fn pool(all: &str, free: &str, reserved: &str, transparent_page: bool) -> Check {
        let tree = Tree::new();
        for (file, text) in [("nr", all), ("free", free), ("resv", reserved)] {
            tree.file(&format!("sys/kernel/mm/hugepages/hugepages-2048kB/{file}_hugepages"), text);
        }
        let mut probe = tree.probe();
        probe.facts.transparent_page = transparent_page;
        huge_pages(&probe)
    }

    #[test]
    fn the_pool() {
        assert_eq!(pool("64\n", "64\n", "0\n", true).verdict, Verdict::Ok);
        assert_eq!(
            pool("64", "64", "60", true).verdict,
            Verdict::Warn,
            "promised pages are not free"
        );
        let empty = pool("0", "0", "0", true);
        assert_eq!(empty.verdict, Verdict::Warn);
        assert_eq!(empty.remedy.as_deref(), Some("sudo sysctl -w vm.nr_hugepages=64"));
        assert_eq!(pool("0", "0", "0", false).verdict, Verdict::Bad);
        let used = pool("32", "2", "0", true);
        assert_eq!(
            used.remedy.as_deref(),
            Some("sudo sysctl -w vm.nr_hugepages=94"),
            "keeps those in use"
        );
    }

    fn one(path: &str, text: &str, check: fn(&Probe) -> Check) -> Check {
        let tree = Tree::new();
        tree.file(path, text);
        check(&tree.probe())
    }

    #[test]
    fn mounts() {
        let check = |text| one("proc/self/mounts", text, hugetlbfs);
        assert_eq!(
            check("none /dev/hugepages hugetlbfs rw,pagesize=2M 0 0\n").verdict,
            Verdict::Ok
        );
        assert_eq!(check("none /dev/hugepages hugetlbfs rw 0 0\n").found, "/dev/hugepages");
        assert_eq!(check("none /h hugetlbfs rw,pagesize=1024M 0 0\n").verdict, Verdict::Warn);
        assert_eq!(check("tmpfs /dev/shm tmpfs rw 0 0\n").verdict, Verdict::Warn);
    }

    #[test]
    fn settings() {
        let thp = |text: &str, given| {
            let tree = Tree::new();
            tree.file("sys/kernel/mm/transparent_hugepage/enabled", text);
            let mut probe = tree.probe();
            probe.facts.transparent_page = given;
            transparent(&probe).verdict
        };
        for on in ["[always] madvise never", "always [madvise] never"] {
            assert_eq!(thp(on, true), Verdict::Ok);
            assert_eq!(thp(on, false), Verdict::Warn, "fragmented memory");
        }
        assert_eq!(thp("always madvise [never]", false), Verdict::Warn);
        assert_eq!(thp("always madvise [never]", true), Verdict::Ok, "gathered by hand");
        assert_eq!(thp("nonsense", true), Verdict::Unknown);
        let shm = |text| {
            one("sys/kernel/mm/transparent_hugepage/shmem_enabled", text, transparent_shm).verdict
        };
        assert_eq!(shm("always within_size advise [never] deny force"), Verdict::Ok);
        assert_eq!(shm("always within_size advise never [deny] force"), Verdict::Warn);
    }

    #[test]
    fn locking() {
        let limited = |soft: &str, capabilities: &str| {
            let tree = Tree::new();
            tree.file("proc/self/status", format!("Name:\tx\nCapEff:\t{capabilities}\n"));
            tree.file(
                "proc/self/limits",
                format!(
                    "Limit                     Soft Limit           Hard Limit           Units\n\
                         Max locked memory         {soft}              unlimited            bytes\n"
                ),
            );
            memlock(&tree.probe()).verdict
        };
        assert_eq!(limited("unlimited", "0"), Verdict::Ok);
        assert_eq!(limited("67108864", "0"), Verdict::Ok);
        assert_eq!(limited("8388608", "0"), Verdict::Warn);
        assert_eq!(limited("65536", "0"), Verdict::Bad);
        assert_eq!(limited("65536", "0000000000004000"), Verdict::Ok);
        assert_eq!(limited("lots", "0"), Verdict::Unknown);
    }

    #[test]
    fn room() {
        let check = |segment_room| {
            let mut probe = Tree::new().probe();
            probe.facts.segment_room = segment_room;
            super::segment_room(&probe)
        };
        let sized =
            |total, free| check(Ok(Room { total: Some(total * MIB), free: Some(free * MIB) }));
        assert_eq!(sized(1000, 900).verdict, Verdict::Ok);
        assert_eq!(sized(64, 63).verdict, Verdict::Warn);
        let small = sized(15, 15);
        assert_eq!(small.verdict, Verdict::Bad);
        assert_eq!(small.remedy.as_deref(), Some("sudo mount -o remount,size=271M /dev/shm"));
        assert_eq!(check(Ok(Room { total: None, free: None })).verdict, Verdict::Ok);
        let denied = check(Err(OsError::new("open", Errno::new(libc::EACCES))));
        assert_eq!(denied.verdict, Verdict::Bad);
        assert!(denied.found.contains("Permission denied"), "{}", denied.found);
        let full = check(Err(OsError::new("open", Errno::new(libc::ENOSPC))));
        assert!(full.remedy.is_some_and(|remedy| remedy.contains("df -i")), "{}", full.found);
        assert!(!full.found.contains("remedy"), "said once: {}", full.found);
    }

    #[test]
    fn swapping() {
        let check = |text| one("proc/meminfo", text, swap).verdict;
        assert_eq!(check("MemTotal: 1 kB\nSwapTotal:       0 kB\n"), Verdict::Ok);
        assert_eq!(check("SwapTotal:    2097148 kB\n"), Verdict::Warn);
        assert_eq!(check("SwapFree: 3 kB\n"), Verdict::Unknown);
    }
}
