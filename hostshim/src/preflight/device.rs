//! Checks of what the providers beyond shared memory need.

use super::{Check, Probe, Subject, Verdict};
use crate::mlx5;

/// Open files from which on no limit is met by some thousand connections, each with its file and a bit around it.
const OPEN_FILES_WANTED: u64 = 16_384;
/// What the remedy asks for.
const OPEN_FILES_REMEDY: u64 = 65_536;

pub(super) fn checks(probe: &Probe) -> Vec<Check> {
    vec![io_uring(probe), io_uring_features(probe), open_files(probe), rdma(probe), mlx5(probe)]
}

fn io_uring(probe: &Probe) -> Check {
    const ABOUT: Subject = Subject {
        id: "io_uring",
        title: "io_uring",
        why: "the TCP and UDP providers are built on it; shared memory is not",
    };
    match &probe.facts.io_uring {
        Ok(_features) => ABOUT.ok("usable"),
        Err(e) => ABOUT.check(Verdict::Warn, e.matter(), e.remedy()),
    }
}

fn io_uring_features(probe: &Probe) -> Check {
    const ABOUT: Subject = Subject {
        id: "io_uring_features",
        title: "features of io_uring",
        why: "what is missing has a fallback, which costs system calls, copies or completions",
    };
    let Ok(features) = &probe.facts.io_uring else {
        return ABOUT.unknown("no ring can be opened");
    };
    let mut found = format!("with {}", features.active());
    let mut refused = 0;
    for feature in features.refused() {
        refused += 1;
        found += &format!("; without {feature}: {}", feature.fallback());
    }
    if refused == 0 {
        return ABOUT.ok(found);
    }
    ABOUT.warn(found, "uname -r # Linux 6.12 or later has all of them, where its configuration does not leave them out")
}

fn open_files(probe: &Probe) -> Check {
    const ABOUT: Subject = Subject {
        id: "nofile",
        title: "open files",
        why: "each connection is one; a process may raise its soft limit as far as the hard one",
    };
    let limits = probe.text("proc/self/limits").unwrap_or_default();
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files"));
    let mut numbers = line.unwrap_or_default().split_ascii_whitespace().map(|word| match word {
        "unlimited" => Some(u64::MAX),
        number => number.parse().ok(),
    });
    let (Some(Some(soft)), Some(Some(hard))) = (numbers.next(), numbers.next()) else {
        return ABOUT.unknown("the limit cannot be read");
    };
    let found = format!("{soft}, may be raised to {hard}");
    if hard >= OPEN_FILES_WANTED {
        return ABOUT.ok(found);
    }
    ABOUT.warn(found, crate::limits::open_files_remedy(OPEN_FILES_REMEDY))
}

fn rdma(probe: &Probe) -> Check {
    const ABOUT: Subject = Subject {
        id: "rdma",
        title: "RDMA devices",
        why: "the verbs and mlx5 providers need one; shared memory and TCP do not",
    };
    let class = "sys/class/infiniband";
    let devices = probe.names(class);
    if devices.is_empty() {
        return ABOUT.ok("none");
    }
    let mut found = Vec::new();
    let mut idle = None;
    for device in &devices {
        for port in probe.names(&format!("{class}/{device}/ports")) {
            let here = format!("{class}/{device}/ports/{port}");
            // `4: ACTIVE`
            let state = probe.text(&format!("{here}/state")).unwrap_or_default();
            let state = state
                .split_once(':')
                .map_or(state.as_str(), |(_number, word)| word)
                .trim()
                .to_owned();
            if state != "ACTIVE" && idle.is_none() {
                idle = Some(
                    probe
                        .text(&format!("{here}/gid_attrs/ndevs/0"))
                        .unwrap_or_else(|| device.clone()),
                );
            }
            found.push(format!("{device}/{port} {}", if state.is_empty() { "?" } else { &state }));
        }
    }
    let found = if found.is_empty() { devices.join(", ") } else { found.join(", ") };
    let opened = probe.names("dev/infiniband").iter().any(|n| n.starts_with("uverbs"));
    if !opened {
        return ABOUT
            .warn(format!("{found}, but no /dev/infiniband/uverbs*"), "sudo modprobe ib_uverbs");
    }
    match idle {
        Some(interface) => ABOUT.warn(found, format!("sudo ip link set {interface} up")),
        None => ABOUT.ok(found),
    }
}

/// The kernel's driver of a device, by the link in its folder.
fn is_mlx5(probe: &Probe, device: &str) -> bool {
    probe
        .text(&format!("sys/class/infiniband/{device}/device/uevent"))
        .is_some_and(|text| text.lines().any(|line| line == "DRIVER=mlx5_core"))
}

fn mlx5(probe: &Probe) -> Check {
    const ABOUT: Subject = Subject {
        id: "mlx5",
        title: "mlx5 devices",
        why: "queues of a ConnectX are written directly where this build links libmlx5; never run on hardware so far",
    };
    let devices = probe.names("sys/class/infiniband");
    let found: Vec<_> = devices.into_iter().filter(|name| is_mlx5(probe, name)).collect();
    if found.is_empty() {
        return ABOUT.ok("none");
    }
    let found = found.join(", ");
    match mlx5::is_linked() {
        Ok(()) => ABOUT.ok(format!("{found}, and this build can use them")),
        Err(error) => ABOUT.check(
            Verdict::Warn,
            format!("{found}, but this build cannot use them"),
            error.remedy().map(str::to_owned),
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Errno;
    use crate::fake_tree::Tree;
    use crate::uring::{Feature, Features, UringError, Why};

    #[test]
    fn rings() {
        let check = |answer| {
            let mut probe = Tree::new().probe();
            probe.facts.io_uring = answer;
            (io_uring(&probe), io_uring_features(&probe))
        };
        let (usable, features) = check(Ok(Features::everything()));
        assert_eq!((usable.verdict, features.verdict), (Verdict::Ok, Verdict::Ok));
        assert!(features.found.contains("defer_taskrun"), "{}", features.found);

        let (off, unknown) = check(Err(UringError::Disabled { setting: 2 }));
        assert_eq!(off.remedy.as_deref(), Some("sudo sysctl -w kernel.io_uring_disabled=0"));
        assert!(!off.found.contains("remedy"), "said once: {}", off.found);
        assert_eq!((off.verdict, unknown.verdict), (Verdict::Warn, Verdict::Unknown));
        let (filtered, _) = check(Err(UringError::Forbidden { errno: Errno::new(libc::EPERM) }));
        assert!(filtered.remedy.unwrap().contains("seccomp"));
        let (locked, _) = check(Err(UringError::MemlockTooLow { limit: 0, needed: 1 }));
        assert!(locked.remedy.unwrap().starts_with("ulimit -l "));
    }

    #[test]
    fn what_a_ring_lacks_is_said_with_what_is_done_instead() {
        let mut features = Features::everything();
        let errno = Errno::new(libc::EINVAL);
        features.lacks(Feature::Bundles, Why::Refused(errno));
        features.lacks(Feature::SqPoll, Why::NotAsked);
        let mut probe = Tree::new().probe();
        probe.facts.io_uring = Ok(features);
        let check = io_uring_features(&probe);
        assert_eq!(check.verdict, Verdict::Warn);
        let end = "; without bundles: one completion for each buffer";
        assert!(check.found.ends_with(end), "what was not asked for is no lack: {}", check.found);
    }

    #[test]
    fn files() {
        let check = |limits: &str| {
            let tree = Tree::new();
            tree.file("proc/self/limits", limits);
            open_files(&tree.probe())
        };
        let good = check(
            "Limit  Soft  Hard  Units\nMax open files            1024      524288    files\n",
        );
        assert_eq!(
            (good.verdict, good.found.as_str()),
            (Verdict::Ok, "1024, may be raised to 524288")
        );
        let few =
            check("Max open files            1024                 4096                 files");
        assert_eq!(few.verdict, Verdict::Warn);
        assert!(few.remedy.unwrap().contains("nofile 65536"));
        assert_eq!(check("Max open files  unlimited unlimited files").verdict, Verdict::Ok);
        for broken in ["", "Max open files", "Max open files 7", "Max open files x y files"] {
            assert_eq!(check(broken).verdict, Verdict::Unknown, "{broken}");
        }
    }

    fn device(tree: &Tree, name: &str, state: &str) {
        tree.file(&format!("sys/class/infiniband/{name}/ports/1/state"), state);
        tree.file(&format!("sys/class/infiniband/{name}/ports/1/gid_attrs/ndevs/0"), "eth5\n");
    }

    #[test]
    fn devices() {
        let tree = Tree::new();
        assert_eq!(rdma(&tree.probe()).verdict, Verdict::Ok, "nothing to mend");
        device(&tree, "mlx5_0", "4: ACTIVE\n");
        let closed = rdma(&tree.probe());
        assert_eq!(closed.remedy.as_deref(), Some("sudo modprobe ib_uverbs"));
        tree.file("dev/infiniband/uverbs0", "");
        let good = rdma(&tree.probe());
        assert_eq!((good.verdict, good.found.as_str()), (Verdict::Ok, "mlx5_0/1 ACTIVE"));
        device(&tree, "mlx5_1", "1: DOWN\n");
        let down = rdma(&tree.probe());
        assert_eq!(
            (down.verdict, down.found.as_str()),
            (Verdict::Warn, "mlx5_0/1 ACTIVE, mlx5_1/1 DOWN")
        );
        assert_eq!(down.remedy.as_deref(), Some("sudo ip link set eth5 up"));
    }

    #[test]
    fn devices_of_mlx5() {
        let tree = Tree::new();
        device(&tree, "rxe0", "4: ACTIVE\n");
        assert_eq!(mlx5(&tree.probe()).found, "none");
        tree.file(
            "sys/class/infiniband/mlx5_0/device/uevent",
            "DRIVER=mlx5_core\nPCI_CLASS=20000\n",
        );
        let check = mlx5(&tree.probe());
        assert!(check.found.starts_with("mlx5_0, "), "{}", check.found);
        let is_linked = mlx5::is_linked().is_ok();
        assert_eq!(check.verdict == Verdict::Ok, is_linked);
        let remedy = check.remedy.unwrap_or_default();
        assert_eq!(remedy.contains("--features mlx5"), !is_linked, "{remedy}");
    }
}
