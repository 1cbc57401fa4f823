//! Checks of the CPUs: whether a poller has one for itself, at full speed, with a counter to tell the time by.

use super::{Check, Probe, Subject};
use crate::affinity::{CpuList, Topology};

/// Idle states that take longer than this to leave, in us, are worth forbidding.
const WAKE_US_MAX: u64 = 10;

pub(super) fn checks(probe: &Probe) -> Vec<Check> {
    vec![
        cpus(probe),
        quota(probe),
        isolation(probe),
        governor(probe),
        idle_states(probe),
        threads(probe),
        nodes(probe),
        balancing(probe),
        counter(probe),
    ]
}

fn cpus(probe: &Probe) -> Check {
    const ABOUT: Subject = Subject {
        id: "cpus",
        title: "CPUs that may be used",
        why: "two pollers on one CPU take turns, and every exchange waits for the scheduler",
    };
    let Some(allowed) = probe.allowed() else {
        return ABOUT.unknown("/proc/self/status does not tell");
    };
    let online = probe.list("sys/devices/system/cpu/online").unwrap_or_default();
    let found = format!("{allowed} ({} of {})", allowed.len(), online.len().max(allowed.len()));
    if allowed.len() > 1 {
        ABOUT.ok(found)
    } else if online.len() > 1 {
        ABOUT.bad(
            found,
            format!("taskset -c {online} spinwire ... # or give the container more CPUs"),
        )
    } else {
        ABOUT.check(super::Verdict::Bad, found, None)
    }
}

/// A CPU quota on some cgroup above this process.
struct Quota {
    file: String,
    /// What lifts it.
    lifted: &'static str,
    quota_us: u64,
    period_us: u64,
}

fn quota(probe: &Probe) -> Check {
    const ABOUT: Subject = Subject {
        id: "cpu_quota",
        title: "CPU quota",
        why: "a poller uses its CPU all the time; a quota stops it for the rest of every period",
    };
    let Some(groups) = probe.text("proc/self/cgroup") else {
        return ABOUT.unknown("/proc/self/cgroup does not tell");
    };
    // The tightest of all limits on the way up holds.
    let quotas = groups.lines().flat_map(|line| quotas_of(probe, line));
    let Some(tightest) =
        quotas.min_by_key(|q| q.quota_us.saturating_mul(1000).checked_div(q.period_us))
    else {
        return ABOUT.ok("none");
    };
    let found =
        format!("{} of every {} us, by {}", tightest.quota_us, tightest.period_us, tightest.file);
    let wanted =
        probe.allowed().map_or(1, |allowed| u64::try_from(allowed.len()).unwrap_or(u64::MAX));
    if tightest.quota_us >= tightest.period_us.saturating_mul(wanted) {
        return ABOUT.ok(found);
    }
    ABOUT.bad(found, format!("echo {} | sudo tee {}", tightest.lifted, tightest.file))
}

/// The quotas on the cgroup of one line of `/proc/self/cgroup`, and on those above it: cgroups(7).
fn quotas_of(probe: &Probe, line: &str) -> Vec<Quota> {
    let mut parts = line.splitn(3, ':');
    let (Some(_number), Some(controllers), Some(path)) = (parts.next(), parts.next(), parts.next())
    else {
        return Vec::new();
    };
    let second_version = controllers.is_empty();
    let mounts = if second_version {
        ["sys/fs/cgroup", "sys/fs/cgroup/unified"]
    } else if controllers.split(',').any(|c| c == "cpu") {
        ["sys/fs/cgroup/cpu", "sys/fs/cgroup/cpu,cpuacct"]
    } else {
        return Vec::new();
    };
    let read = if second_version { quota_v2 } else { quota_v1 };
    let mut found = Vec::new();
    for mount in mounts {
        let mut path = path.trim_matches('/');
        loop {
            let folder =
                if path.is_empty() { (*mount).to_owned() } else { format!("{mount}/{path}") };
            found.extend(read(probe, &folder));
            match path.rsplit_once('/') {
                Some((above, _here)) => path = above,
                None if path.is_empty() => break,
                None => path = "",
            }
        }
    }
    found
}

/// `max 100000` or `50000 100000`.
fn quota_v2(probe: &Probe, folder: &str) -> Option<Quota> {
    let text = probe.text(&format!("{folder}/cpu.max"))?;
    let (quota, period) = text.split_once(' ')?;
    let (quota_us, period_us) = (quota.parse().ok()?, period.trim().parse().ok()?);
    Some(Quota { file: format!("/{folder}/cpu.max"), lifted: "max", quota_us, period_us })
}

/// -1 for no quota.
fn quota_v1(probe: &Probe, folder: &str) -> Option<Quota> {
    let quota_us = probe.number(&format!("{folder}/cpu.cfs_quota_us"))?;
    let period_us = probe.number(&format!("{folder}/cpu.cfs_period_us"))?;
    Some(Quota { file: format!("/{folder}/cpu.cfs_quota_us"), lifted: "-1", quota_us, period_us })
}

fn isolation(probe: &Probe) -> Check {
    const ABOUT: Subject = Subject {
        id: "isolation",
        title: "isolated CPUs (isolcpus, nohz_full)",
        why: "on any other CPU the scheduler's tick and other tasks interrupt a poller, some us at a time",
    };
    let Some(isolated) = probe.list("sys/devices/system/cpu/isolated") else {
        return ABOUT.unknown("this kernel does not tell");
    };
    let tickless = probe.list("sys/devices/system/cpu/nohz_full").unwrap_or_default();
    let found = format!("isolated: {isolated}; without tick: {tickless}");
    let both = isolated.iter().filter(|c| tickless.contains(*c)).count();
    if both > 0 {
        return ABOUT.ok(found);
    }
    let spare: CpuList = probe.allowed().unwrap_or_default().iter().filter(|c| *c != 0).collect();
    let chosen = if isolated.is_empty() { spare } else { isolated };
    if chosen.is_empty() {
        return ABOUT.check(super::Verdict::Warn, found, None);
    }
    let line =
        format!("isolcpus=managed_irq,domain,{chosen} nohz_full={chosen} rcu_nocbs={chosen}");
    ABOUT.warn(
        found,
        format!(
            "sudo sed -i 's/^GRUB_CMDLINE_LINUX=\"/&{line} /' /etc/default/grub && sudo update-grub && sudo reboot"
        ),
    )
}

fn governor(probe: &Probe) -> Check {
    const ABOUT: Subject = Subject {
        id: "governor",
        title: "frequency governor",
        why: "a CPU that slows down answers later, and takes its time to speed up",
    };
    let read =
        |cpu| probe.text(&format!("sys/devices/system/cpu/cpu{cpu}/cpufreq/scaling_governor"));
    let mut found: Vec<String> =
        probe.allowed().unwrap_or_default().iter().filter_map(read).collect();
    found.sort();
    found.dedup();
    match found.as_slice() {
        [] => ABOUT
            .unknown("no frequency control to be seen: a virtual machine, or left to the firmware"),
        [only] if only == "performance" => ABOUT.ok("performance"),
        _ => ABOUT.warn(
            found.join(", "),
            "echo performance | sudo tee /sys/devices/system/cpu/cpu*/cpufreq/scaling_governor",
        ),
    }
}

fn idle_states(probe: &Probe) -> Check {
    const ABOUT: Subject = Subject {
        id: "cstates",
        title: "idle states (C-states)",
        why: "a CPU that rested deeply takes long to wake, and slows down its neighbours' caches",
    };
    let Some(first) = probe.allowed().and_then(|allowed| allowed.iter().next()) else {
        return ABOUT.unknown("the CPUs cannot be told");
    };
    let folder = format!("sys/devices/system/cpu/cpu{first}/cpuidle");
    let mut deepest: Option<(u64, String)> = None;
    let states = probe.names(&folder);
    for state in &states {
        let here = |file: &str| probe.text(&format!("{folder}/{state}/{file}"));
        let wake_us = here("latency").and_then(|t| t.parse::<u64>().ok());
        let enabled = here("disable").is_none_or(|t| t == "0");
        if let (Some(wake_us), true) = (wake_us, enabled) {
            deepest = deepest.max(Some((wake_us, here("name").unwrap_or_else(|| state.clone()))));
        }
    }
    let Some((wake_us, name)) = deepest else {
        return ABOUT.unknown(
            "none to be seen: the hypervisor decides, or the kernel does not manage them",
        );
    };
    let limit_us = latency_request(probe);
    let found = format!(
        "deepest {name}, {wake_us} us to wake; limit by /dev/cpu_dma_latency: {}",
        match limit_us {
            None => "cannot be read".to_owned(),
            Some(NO_LATENCY_ASKED_US) => "none".to_owned(),
            Some(us) => format!("{us} us"),
        },
    );
    if wake_us.min(limit_us.unwrap_or(u64::MAX)) <= WAKE_US_MAX {
        return ABOUT.ok(found);
    }
    ABOUT.warn(
        found,
        "sudo sh -c 'exec 3>/dev/cpu_dma_latency; printf \"\\000\\000\\000\\000\" >&3; exec sleep infinity' & # holds while it runs",
    )
}

/// What is read where nobody asks for any: `PM_QOS_CPU_LATENCY_DEFAULT_VALUE` of linux/pm_qos.h.
const NO_LATENCY_ASKED_US: u64 = 2_000_000_000;

/// What all holders of `/dev/cpu_dma_latency` together ask for, in us: Linux Documentation/power/pm_qos_interface.rst, a
/// signed word of 32 bits in the machine's byte order.
fn latency_request(probe: &Probe) -> Option<u64> {
    use std::io::Read;
    let mut word = [0; 4];
    let mut file = std::fs::File::open(probe.root().join("dev/cpu_dma_latency")).ok()?;
    file.read_exact(&mut word).ok()?;
    let word = if cfg!(target_endian = "big") {
        i32::from_be_bytes(word)
    } else {
        i32::from_le_bytes(word)
    };
    u64::try_from(word).ok()
}

fn threads(probe: &Probe) -> Check {
    const ABOUT: Subject = Subject {
        id: "smt",
        title: "hardware threads (SMT)",
        why: "two hardware threads share one core: the neighbour of a poller takes half of it",
    };
    match probe.text("sys/devices/system/cpu/smt/active").as_deref() {
        Some("0") => ABOUT.ok("one thread per core"),
        Some("1") => {
            let allowed = probe.allowed().unwrap_or_default();
            let topology = Topology::read(probe.root(), &allowed);
            let shared = allowed.iter().map(|cpu| topology.siblings(cpu)).find(|s| s.len() > 1);
            match shared {
                Some(pair) => ABOUT.warn(
                    format!("on; CPUs {pair}, for instance, are one core"),
                    "echo off | sudo tee /sys/devices/system/cpu/smt/control # or leave one thread of each core idle",
                ),
                None => ABOUT.ok("on, but no two of the CPUs that may be used share a core"),
            }
        }
        Some(_) | None => ABOUT.unknown("this kernel does not tell"),
    }
}

/// The memory nodes of the CPUs that may be used.
fn nodes_of(probe: &Probe) -> Option<CpuList> {
    let allowed = probe.allowed()?;
    let topology = Topology::read(probe.root(), &allowed);
    Some(allowed.iter().filter_map(|cpu| topology.node(cpu)).collect())
}

fn nodes(probe: &Probe) -> Check {
    const ABOUT: Subject = Subject {
        id: "numa",
        title: "memory nodes (NUMA)",
        why: "a cache line from another node takes two to three times as long",
    };
    let (Some(online), Some(mine)) =
        (probe.list("sys/devices/system/node/online"), nodes_of(probe))
    else {
        return ABOUT.unknown("this kernel does not tell");
    };
    if mine.len() <= 1 {
        return ABOUT.ok(format!("CPUs of node {mine} only, of {}", online.len()));
    }
    let first = mine.iter().next().unwrap_or(0);
    ABOUT.warn(
        format!("CPUs of the nodes {mine}"),
        format!("numactl --cpunodebind={first} --membind={first} spinwire ... # or the node of the network card"),
    )
}

fn balancing(probe: &Probe) -> Check {
    const ABOUT: Subject = Subject {
        id: "numa_balancing",
        title: "automatic NUMA balancing",
        why: "the kernel unmaps pages to see who uses them, and a poller faults on each",
    };
    let Some(online) = probe.list("sys/devices/system/node/online") else {
        return ABOUT.unknown("this kernel does not tell");
    };
    match probe.number("proc/sys/kernel/numa_balancing") {
        None | Some(0) => ABOUT.ok("off"),
        Some(_) if online.len() <= 1 => ABOUT.ok("on, with one node only"),
        Some(_) => ABOUT.warn("on", "sudo sysctl -w kernel.numa_balancing=0"),
    }
}

fn counter(probe: &Probe) -> Check {
    const ABOUT: Subject = Subject {
        id: "tsc",
        title: "time-stamp counter",
        why: "without a counter at a constant rate every look at the time costs tens of ns, or a system call",
    };
    let Some(flags) = probe.field("proc/cpuinfo", "flags") else {
        return ABOUT.unknown("this processor family has none that is known to be fit");
    };
    let has = |flag: &str| flags.split_ascii_whitespace().any(|f| f == flag);
    let folder = "sys/devices/system/clocksource/clocksource0";
    let available = probe.text(&format!("{folder}/available_clocksource")).unwrap_or_default();
    let current = probe.text(&format!("{folder}/current_clocksource")).unwrap_or_default();
    if !(has("constant_tsc") && has("nonstop_tsc")) {
        if current == "tsc" {
            let found = "the kernel keeps time by it, though no constant rate is promised";
            return ABOUT.ok(found);
        }
        let found =
            "its rate changes with the power state, or the hypervisor does not promise otherwise";
        return ABOUT.check(super::Verdict::Bad, found, None);
    }
    if !available.split_ascii_whitespace().any(|s| s == "tsc") {
        return ABOUT.bad(
            "constant, but the kernel does not trust it",
            "sudo dmesg | grep -i tsc # tells why",
        );
    }
    if current != "tsc" {
        let remedy = format!("echo tsc | sudo tee /{folder}/current_clocksource");
        return ABOUT.warn(format!("constant; the kernel's own clock is {current}"), remedy);
    }
    ABOUT.ok("constant, and the kernel's clock source")
}

#[cfg(test)]
mod tests;
