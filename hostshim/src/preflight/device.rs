//! Checks of what the providers beyond shared memory need.

use super::{Check, Probe, Subject};

pub(super) fn checks(probe: &Probe) -> Vec<Check> {
    vec![io_uring(probe), rdma(probe)]
}

fn io_uring(probe: &Probe) -> Check {
    const ABOUT: Subject = Subject {
        id: "io_uring",
        title: "io_uring",
        why: "the TCP and UDP providers are built on it; shared memory is not",
    };
    // Linux Documentation/admin-guide/sysctl/kernel.rst: 0 open to all, 1 to a group, 2 to nobody.
    let setting = probe.number("proc/sys/kernel/io_uring_disabled");
    let answer = probe.facts.io_uring;
    match (answer, setting) {
        (Ok(()), _) => ABOUT.ok("usable"),
        (Err(e), Some(1 | 2)) => {
            ABOUT.warn(format!("switched off ({e})"), "sudo sysctl -w kernel.io_uring_disabled=0")
        }
        (Err(e), _) if e.number() == libc::ENOSYS => {
            ABOUT.warn(format!("not in this kernel ({e})"), "uname -r # needs Linux 5.6 or later with CONFIG_IO_URING")
        }
        (Err(e), _) if e.number() == libc::EPERM => ABOUT.warn(
            format!("forbidden ({e}), most likely by a container's seccomp filter"),
            "docker run --security-opt seccomp=unconfined ... # or a profile that allows io_uring_setup",
        ),
        (Err(e), _) if e.number() == libc::ENOMEM => {
            ABOUT.warn(format!("too little lockable memory ({e})"), "ulimit -l unlimited")
        }
        (Err(e), _) => ABOUT.unknown(format!("the kernel answers: {e}")),
    }
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

#[cfg(test)]
mod tests {
    use super::super::Verdict;
    use super::*;
    use crate::error::Errno;
    use crate::fake_tree::Tree;

    #[test]
    fn rings() {
        let check = |answer: Result<(), i32>, setting: &str| {
            let tree = Tree::new();
            tree.file("proc/sys/kernel/io_uring_disabled", setting);
            let mut probe = tree.probe();
            probe.facts.io_uring = answer.map_err(Errno::new);
            io_uring(&probe)
        };
        assert_eq!(check(Ok(()), "0").verdict, Verdict::Ok);
        assert_eq!(check(Ok(()), "1").verdict, Verdict::Ok, "open to this process's group");
        let off = check(Err(libc::EPERM), "2\n");
        assert_eq!(off.remedy.as_deref(), Some("sudo sysctl -w kernel.io_uring_disabled=0"));
        let filtered = check(Err(libc::EPERM), "0");
        assert!(filtered.remedy.unwrap().contains("seccomp"));
        assert_eq!(check(Err(libc::ENOSYS), "").verdict, Verdict::Warn);
        assert_eq!(check(Err(libc::EIO), "").verdict, Verdict::Unknown);
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
}
