//! Is this machine set up for low latency? What `spinwire doctor` asks, as data.
//!
//! ```text
//!   Probe { root, facts }  ->  run()  ->  [Check { verdict, found, why, remedy }]
//!     |         \ what only a system call tells: room in /dev/shm, huge pages, io_uring
//!     \ where /proc, /sys and /dev are read: `/`, or a made-up tree in a test
//! ```
//!
//! | file | what is checked |
//! |---|---|
//! | `memory` | huge pages, transparent ones, locking, `/dev/shm`, swap |
//! | `processor` | CPUs and quota, isolation, frequency, idle states, hardware threads, nodes, the counter |
//! | `device` | io_uring and what it has, open files, RDMA, mlx5 |
//!
//! Nothing is changed by a check. A check that cannot find out says so ([`Verdict::Unknown`]) and is no complaint.

mod device;
mod memory;
mod processor;

use core::fmt;
use std::fs;
use std::path::{Path, PathBuf};

use crate::affinity::CpuList;
use crate::error::OsError;
use crate::mem::{Mapping, PageKind, PagePolicy, SegmentDir};
use crate::raw::syscall;
use crate::uring::{FeatureSet, Features, Uring, UringConfig, UringError};

/// How good what was found is.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Verdict {
    /// Nothing to mend.
    Ok,
    /// The system does not tell, or does not have what is asked about (a virtual machine shows no idle states).
    Unknown,
    /// Costs some latency, or a spike now and then, or a provider.
    Warn,
    /// Costs much latency, or something will not start.
    Bad,
}

impl Verdict {
    /// Would latency be better if this were mended?
    #[must_use]
    pub const fn hurts(self) -> bool {
        matches!(self, Self::Warn | Self::Bad)
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Ok => "ok",
            Self::Unknown => "unknown",
            Self::Warn => "warn",
            Self::Bad => "bad",
        })
    }
}

/// One thing that was looked at.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Check {
    /// A word that never changes, for scripts.
    pub id: &'static str,
    /// The same for people.
    pub title: &'static str,
    /// How good it is.
    pub verdict: Verdict,
    /// What was found.
    pub found: String,
    /// Why it matters.
    pub why: &'static str,
    /// The command that mends it; none where nothing needs mending, or no command can.
    pub remedy: Option<String>,
}

/// What a check is about. Each check has one as a constant and turns it into a [`Check`].
#[derive(Clone, Copy)]
struct Subject {
    id: &'static str,
    title: &'static str,
    why: &'static str,
}

impl Subject {
    fn check(self, verdict: Verdict, found: impl Into<String>, remedy: Option<String>) -> Check {
        let Self { id, title, why } = self;
        Check { id, title, verdict, found: found.into(), why, remedy }
    }

    fn ok(self, found: impl Into<String>) -> Check {
        self.check(Verdict::Ok, found, None)
    }

    fn unknown(self, found: impl Into<String>) -> Check {
        self.check(Verdict::Unknown, found, None)
    }

    fn warn(self, found: impl Into<String>, remedy: impl Into<String>) -> Check {
        self.check(Verdict::Warn, found, Some(remedy.into()))
    }

    fn bad(self, found: impl Into<String>, remedy: impl Into<String>) -> Check {
        self.check(Verdict::Bad, found, Some(remedy.into()))
    }
}

/// Room on a file system. None stands for no limit.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Room {
    /// Bytes in all.
    pub total: Option<u64>,
    /// Bytes left.
    pub free: Option<u64>,
}

/// What no file tells.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Facts {
    /// The folder of segment names.
    pub segment_dir: PathBuf,
    /// The room in it, or why no file can be made there.
    pub segment_room: Result<Room, OsError>,
    /// Whether private memory got a transparent huge page when it asked for one. The setting does not tell: kernels
    /// since 6.1 gather one by hand whatever it says (`MADV_COLLAPSE` of madvise(2)), and fragmented memory has none.
    pub transparent_page: bool,
    /// What a ring of io_uring has here, or why there is none.
    pub io_uring: Result<Features, UringError>,
}

/// The ring that is opened to see whether there can be one.
const RING: UringConfig = UringConfig {
    entries: 64,
    completions: 128,
    clamp: true,
    sq_poll: None,
    files: 0,
    napi: None,
    arena_bytes: 0,
    deny: FeatureSet::EMPTY,
};

impl Facts {
    /// Asks the kernel.
    #[must_use]
    pub fn gather() -> Self {
        let directory = SegmentDir::from_env();
        Self {
            segment_room: room(&directory),
            segment_dir: directory.path().to_path_buf(),
            transparent_page: Mapping::anonymous(1, PagePolicy::Only(PageKind::Thp)).is_ok(),
            io_uring: Uring::open(&RING).map(|ring| ring.features().clone()),
        }
    }
}

/// Makes a file without a name, which proves the right to, and asks for the room.
fn room(directory: &SegmentDir) -> Result<Room, OsError> {
    directory.try_file()?;
    let path = directory.path();
    let fs = syscall::file_system(path).map_err(|e| OsError::at("statfs", path, e))?;
    Ok(Room { total: fs.total_bytes(), free: fs.free_bytes() })
}

/// The machine to look at.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Probe {
    /// What stands for `/`.
    pub root: PathBuf,
    /// What no file tells.
    pub facts: Facts,
}

impl Probe {
    /// This machine.
    #[must_use]
    pub fn live() -> Self {
        Self { root: PathBuf::from("/"), facts: Facts::gather() }
    }

    /// All checks, in an order that suits a report.
    #[must_use]
    pub fn run(&self) -> Vec<Check> {
        let parts: [fn(&Self) -> Vec<Check>; 3] =
            [processor::checks, memory::checks, device::checks];
        parts.iter().flat_map(|checks| checks(self)).collect()
    }

    /// A file's text without the white space around it; none where it cannot be read.
    fn text(&self, path: &str) -> Option<String> {
        let text = fs::read_to_string(self.root.join(path)).ok()?;
        Some(text.trim().to_owned())
    }

    fn number(&self, path: &str) -> Option<u64> {
        self.text(path)?.parse().ok()
    }

    /// A list of CPUs or nodes; none where there is no file or no list in it (`(null)`, for instance).
    fn list(&self, path: &str) -> Option<CpuList> {
        self.text(path)?.parse().ok()
    }

    /// The word in brackets: `always [madvise] never`.
    fn choice(&self, path: &str) -> Option<String> {
        let text = self.text(path)?;
        let (_before, rest) = text.split_once('[')?;
        Some(rest.split_once(']')?.0.to_owned())
    }

    /// The value of `key:` in a file of such lines.
    fn field(&self, path: &str, key: &str) -> Option<String> {
        let text = self.text(path)?;
        let value =
            text.lines().find_map(|line| line.strip_prefix(key)?.trim_start().strip_prefix(':'));
        value.map(|v| v.trim().to_owned())
    }

    /// The names in a folder, sorted; none where it is absent or empty.
    fn names(&self, path: &str) -> Vec<String> {
        let Ok(entries) = fs::read_dir(self.root.join(path)) else {
            return Vec::new();
        };
        let named = |e: Result<fs::DirEntry, _>| e.ok()?.file_name().into_string().ok();
        let mut names: Vec<String> = entries.filter_map(named).collect();
        names.sort();
        names
    }

    fn root(&self) -> &Path {
        &self.root
    }

    /// The CPUs that this process may use, as /proc tells.
    fn allowed(&self) -> Option<CpuList> {
        let list: CpuList = self.field("proc/self/status", "Cpus_allowed_list")?.parse().ok()?;
        (!list.is_empty()).then_some(list)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_machine_can_be_asked() {
        let checks = Probe::live().run();
        for c in &checks {
            assert!(!c.found.is_empty() && !c.why.is_empty() && !c.title.is_empty(), "{c:?}");
            assert!(c.verdict.hurts() || c.remedy.is_none(), "nothing to mend: {c:?}");
        }
        let mut ids: Vec<_> = checks.iter().map(|c| c.id).collect();
        ids.sort_unstable();
        ids.dedup();
        assert_eq!(ids.len(), checks.len(), "an id names one check");
    }

    #[test]
    fn an_empty_tree_is_unknown_and_no_panic() {
        let tree = crate::fake_tree::Tree::new();
        let checks = tree.probe().run();
        for c in checks {
            let told = matches!(c.id, "shm" | "io_uring" | "io_uring_features" | "rdma" | "mlx5");
            assert_eq!(c.verdict == Verdict::Unknown, !told, "{c:?}");
        }
    }

    #[test]
    fn garbage_in_every_file_is_no_panic() {
        let garbage = [
            "",
            "\n",
            "[",
            "]",
            "-1",
            "18446744073709551616",
            "\u{0}",
            "a:b:c",
            "[[]]",
            "max",
            "- -",
        ];
        let files = [
            "proc/self/status",
            "proc/self/limits",
            "proc/self/cgroup",
            "proc/self/mounts",
            "proc/meminfo",
            "proc/cpuinfo",
            "proc/sys/kernel/io_uring_disabled",
            "proc/sys/kernel/numa_balancing",
            "dev/cpu_dma_latency",
            "sys/devices/system/cpu/isolated",
            "sys/devices/system/cpu/nohz_full",
            "sys/devices/system/cpu/online",
            "sys/devices/system/cpu/smt/active",
            "sys/devices/system/node/online",
            "sys/devices/system/cpu/cpu0/cpufreq/scaling_governor",
            "sys/devices/system/cpu/cpu0/cpuidle/state0/latency",
            "sys/devices/system/clocksource/clocksource0/available_clocksource",
            "sys/devices/system/clocksource/clocksource0/current_clocksource",
            "sys/kernel/mm/hugepages/hugepages-2048kB/free_hugepages",
            "sys/kernel/mm/transparent_hugepage/enabled",
            "sys/kernel/mm/transparent_hugepage/shmem_enabled",
            "sys/class/infiniband/mlx5_0/ports/1/state",
            "sys/class/infiniband/mlx5_0/device/uevent",
        ];
        for text in garbage {
            let tree = crate::fake_tree::Tree::new();
            for file in files {
                tree.file(file, text);
            }
            assert!(!tree.probe().run().is_empty());
        }
    }

    #[test]
    fn numbers_beyond_belief_are_no_panic() {
        const MOST: &str = "18446744073709551615";
        for number in ["0", "1", MOST, "18446744073709551616", "-1"] {
            let tree = crate::fake_tree::Tree::new();
            for file in ["nr_hugepages", "free_hugepages", "resv_hugepages"] {
                tree.file(&format!("sys/kernel/mm/hugepages/hugepages-2048kB/{file}"), number);
            }
            let cpus = "Cpus_allowed_list:\t0,1023-1025,65535\nCapEff:\t";
            tree.file("proc/self/status", format!("{cpus}{number}\n"));
            tree.file("proc/self/limits", format!("Max locked memory {number} {number} bytes"));
            tree.file("proc/meminfo", format!("SwapTotal: {number} kB\n"));
            tree.file("proc/self/cgroup", "0::/../../a/..\n7:cpu,cpuacct:/../x\n:::::\n");
            for folder in ["sys/fs/cgroup", "sys/fs/cgroup/a", "sys/fs/cgroup/x"] {
                tree.file(&format!("{folder}/cpu.max"), format!("{number} {number}"));
                tree.file(&format!("{folder}/cpu.cfs_quota_us"), number);
                tree.file(&format!("{folder}/cpu.cfs_period_us"), number);
            }
            for state in ["state0", "state1", "state99999999999999999999", "stateful"] {
                let folder = format!("sys/devices/system/cpu/cpu0/cpuidle/{state}");
                tree.file(&format!("{folder}/latency"), number);
                tree.file(&format!("{folder}/name"), number);
            }
            tree.file("dev/cpu_dma_latency", number);
            // A folder where a file should be.
            tree.file("proc/self/mounts/folder", "");
            tree.file("sys/devices/system/cpu/isolated/folder", "");
            let mut probe = tree.probe();
            probe.facts.segment_room = Ok(Room { total: Some(0), free: Some(u64::MAX) });
            assert!(!probe.run().is_empty());
            probe.facts.segment_room = Ok(Room { total: Some(u64::MAX), free: Some(0) });
            assert!(!probe.run().is_empty());
        }
    }

    #[test]
    fn verdicts_that_hurt() {
        assert!(Verdict::Warn.hurts() && Verdict::Bad.hurts());
        assert!(!Verdict::Ok.hurts() && !Verdict::Unknown.hurts());
        assert_eq!(format!("{:>5}", Verdict::Ok), "   ok");
    }
}
