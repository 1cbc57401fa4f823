use super::super::Verdict;
use super::*;
use crate::fake_tree::Tree;

fn with_cpus(allowed: &str) -> Tree {
    let tree = Tree::new();
    tree.file(
        "proc/self/status",
        format!("Name:\tx\nCpus_allowed:\tff\nCpus_allowed_list:\t{allowed}\n"),
    );
    tree.file("sys/devices/system/cpu/online", "0-7\n");
    tree
}

#[test]
fn one_cpu_is_bad() {
    assert_eq!(cpus(&with_cpus("0-3").probe()).found, "0-3 (4 of 8)");
    let one = cpus(&with_cpus("5").probe());
    assert_eq!(one.verdict, Verdict::Bad);
    assert!(one.remedy.unwrap().starts_with("taskset -c 0-7 "));
    let tree = with_cpus("0");
    tree.file("sys/devices/system/cpu/online", "0\n");
    let alone = cpus(&tree.probe());
    assert_eq!((alone.verdict, alone.remedy), (Verdict::Bad, None));
}

#[test]
fn quotas_of_either_kind_anywhere_above() {
    let tree = with_cpus("0-1");
    tree.file("proc/self/cgroup", "0::/a/b\n");
    assert_eq!(quota(&tree.probe()).verdict, Verdict::Ok, "no file, no quota");
    tree.file("sys/fs/cgroup/a/b/cpu.max", "max 100000\n");
    assert_eq!(quota(&tree.probe()).verdict, Verdict::Ok);
    tree.file("sys/fs/cgroup/a/cpu.max", "150000 100000\n");
    let limited = quota(&tree.probe());
    assert_eq!(limited.verdict, Verdict::Bad, "less than both CPUs");
    assert_eq!(limited.remedy.as_deref(), Some("echo max | sudo tee /sys/fs/cgroup/a/cpu.max"));
    tree.file("sys/fs/cgroup/a/cpu.max", "200000 100000\n");
    assert_eq!(quota(&tree.probe()).verdict, Verdict::Ok, "as much as both CPUs");
    tree.file("sys/fs/cgroup/a/b/cpu.max", "10000 100000\n");
    assert!(quota(&tree.probe()).found.contains("/a/b/"), "the tightest");

    let tree = with_cpus("0-1");
    tree.file("proc/self/cgroup", "7:memory:/m\n4:cpu,cpuacct:/docker/x\n0::/\n");
    tree.file("sys/fs/cgroup/cpu/docker/x/cpu.cfs_quota_us", "-1\n");
    tree.file("sys/fs/cgroup/cpu/docker/x/cpu.cfs_period_us", "100000\n");
    assert_eq!(quota(&tree.probe()).verdict, Verdict::Ok);
    tree.file("sys/fs/cgroup/cpu/docker/x/cpu.cfs_quota_us", "50000\n");
    let limited = quota(&tree.probe());
    assert_eq!(
        limited.remedy.as_deref(),
        Some("echo -1 | sudo tee /sys/fs/cgroup/cpu/docker/x/cpu.cfs_quota_us")
    );
}

#[test]
fn isolation_needs_both_on_one_cpu() {
    let check = |isolated: &str, tickless: &str, allowed: &str| {
        let tree = with_cpus(allowed);
        tree.file("sys/devices/system/cpu/isolated", isolated);
        tree.file("sys/devices/system/cpu/nohz_full", tickless);
        isolation(&tree.probe())
    };
    assert_eq!(check("2-3\n", "2-3\n", "0-7").verdict, Verdict::Ok);
    let none = check("\n", "  (null)\n", "0-3");
    assert_eq!(none.verdict, Verdict::Warn);
    assert!(none.remedy.unwrap().contains("isolcpus=managed_irq,domain,1-3 nohz_full=1-3 "));
    let half = check("2\n", "3\n", "0-3");
    assert_eq!(half.verdict, Verdict::Warn);
    assert!(half.remedy.unwrap().contains("nohz_full=2 "));
    assert_eq!(check("\n", "\n", "0").remedy, None, "nothing to isolate");
}

#[test]
fn governors() {
    let tree = with_cpus("0-1");
    assert_eq!(governor(&tree.probe()).verdict, Verdict::Unknown);
    let set = |cpu, text: &str| {
        tree.file(&format!("sys/devices/system/cpu/cpu{cpu}/cpufreq/scaling_governor"), text);
    };
    set(0, "performance\n");
    set(1, "performance\n");
    set(2, "powersave\n");
    assert_eq!(governor(&tree.probe()).verdict, Verdict::Ok, "CPU 2 is not ours");
    set(1, "schedutil\n");
    let mixed = governor(&tree.probe());
    assert_eq!((mixed.verdict, mixed.found.as_str()), (Verdict::Warn, "performance, schedutil"));
}

#[test]
fn idle_states_unless_disabled_or_limited() {
    let tree = with_cpus("3");
    assert_eq!(idle_states(&tree.probe()).verdict, Verdict::Unknown);
    let state = |n: u32, name: &str, us: &str, disable: &str| {
        for (file, text) in [("name", name), ("latency", us), ("disable", disable)] {
            tree.file(&format!("sys/devices/system/cpu/cpu3/cpuidle/state{n}/{file}"), text);
        }
    };
    state(0, "POLL\n", "0\n", "0\n");
    state(1, "C1\n", "2\n", "0\n");
    assert_eq!(idle_states(&tree.probe()).verdict, Verdict::Ok);
    state(2, "C6\n", "133\n", "0\n");
    let deep = idle_states(&tree.probe());
    assert_eq!(deep.verdict, Verdict::Warn);
    assert!(deep.found.starts_with("deepest C6, 133 us"), "{}", deep.found);
    tree.file("dev/cpu_dma_latency", 2_000_000_000_i32.to_le_bytes());
    assert_eq!(idle_states(&tree.probe()).verdict, Verdict::Warn);
    tree.file("dev/cpu_dma_latency", 0_i32.to_le_bytes());
    assert_eq!(idle_states(&tree.probe()).verdict, Verdict::Ok);
    tree.file("dev/cpu_dma_latency", "");
    state(2, "C6\n", "133\n", "1\n");
    assert_eq!(idle_states(&tree.probe()).verdict, Verdict::Ok);
}

#[test]
fn siblings_matter_only_if_both_may_be_used() {
    let tree = with_cpus("0-1");
    assert_eq!(threads(&tree.probe()).verdict, Verdict::Unknown);
    tree.file("sys/devices/system/cpu/smt/active", "0\n");
    assert_eq!(threads(&tree.probe()).verdict, Verdict::Ok);
    tree.file("sys/devices/system/cpu/smt/active", "1\n");
    for (cpu, core) in [(0, "0,4\n"), (1, "1,5\n")] {
        tree.file(&format!("sys/devices/system/cpu/cpu{cpu}/topology/core_cpus_list"), core);
    }
    assert_eq!(threads(&tree.probe()).verdict, Verdict::Ok);
    tree.file("sys/devices/system/cpu/cpu0/topology/core_cpus_list", "0-1\n");
    tree.file("sys/devices/system/cpu/cpu1/topology/core_cpus_list", "0-1\n");
    let shared = threads(&tree.probe());
    assert_eq!(shared.verdict, Verdict::Warn);
    assert!(shared.found.contains("CPUs 0-1"), "{}", shared.found);
}

#[test]
fn nodes_of_the_allowed_cpus() {
    let tree = with_cpus("0-1");
    tree.file("sys/devices/system/node/online", "0-1\n");
    tree.file("sys/devices/system/cpu/cpu0/node0/x", "");
    tree.file("sys/devices/system/cpu/cpu1/node0/x", "");
    assert_eq!(nodes(&tree.probe()).verdict, Verdict::Ok);
    let tree = with_cpus("0-1");
    tree.file("sys/devices/system/node/online", "0-1\n");
    tree.file("sys/devices/system/cpu/cpu0/node0/x", "");
    tree.file("sys/devices/system/cpu/cpu1/node1/x", "");
    let both = nodes(&tree.probe());
    assert_eq!(both.verdict, Verdict::Warn);
    assert!(both.remedy.unwrap().starts_with("numactl --cpunodebind=0 --membind=0 "));
}

#[test]
fn balancing_matters_with_several_nodes() {
    let check = |online: &str, setting: &str| {
        let tree = Tree::new();
        tree.file("sys/devices/system/node/online", online);
        tree.file("proc/sys/kernel/numa_balancing", setting);
        balancing(&tree.probe()).verdict
    };
    assert_eq!(check("0\n", "1\n"), Verdict::Ok);
    assert_eq!(check("0-1\n", "0\n"), Verdict::Ok);
    assert_eq!(check("0-1\n", "1\n"), Verdict::Warn);
}

#[test]
fn counters() {
    let check = |flags: &str, available: &str, current: &str| {
        let tree = Tree::new();
        tree.file(
            "proc/cpuinfo",
            format!("processor\t: 0\nflags\t\t: {flags}\n\nprocessor\t: 1\n"),
        );
        tree.file("sys/devices/system/clocksource/clocksource0/available_clocksource", available);
        tree.file("sys/devices/system/clocksource/clocksource0/current_clocksource", current);
        counter(&tree.probe())
    };
    let good = "fpu constant_tsc nonstop_tsc";
    assert_eq!(check(good, "tsc kvm-clock \n", "tsc\n").verdict, Verdict::Ok);
    let other = check(good, "tsc kvm-clock \n", "kvm-clock\n");
    assert_eq!(other.verdict, Verdict::Warn);
    assert!(other.remedy.unwrap().starts_with("echo tsc | sudo tee /sys/"));
    assert_eq!(check(good, "hpet acpi_pm\n", "hpet\n").verdict, Verdict::Bad);
    for flags in ["fpu tsc constant_tsc", "fpu nonstop_tsc_s3 constant_tsc"] {
        assert_eq!(check(flags, "tsc hpet\n", "hpet\n").verdict, Verdict::Bad);
        assert_eq!(check(flags, "tsc hpet\n", "tsc\n").verdict, Verdict::Ok, "the kernel's own");
    }
}
