//! `lat` and `bw`: what they refuse, what their JSON holds, and what they leave behind.

use std::io::{BufRead, BufReader};
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};

use serde_json::Value;

use crate::arguments::refused;
use crate::rig::{Folder, command};

#[test]
fn arguments_that_cannot_be_meant() {
    for command in ["lat", "bw"] {
        refused(&[command, "--size", "0"], "--size");
        refused(&[command, "--size", "64,x"], "--size");
        refused(&[command, "--size", "9m"], "--size");
        refused(&[command, "--size", "64", "--all-sizes"], "--all-sizes");
        refused(&[command, "--iters", "0"], "--iters");
        refused(&[command, "--iters", "5", "--seconds", "1"], "--seconds");
        refused(&[command, "--seconds", "NaN"], "--seconds");
        refused(&[command, "--seconds=-1"], "--seconds");
        refused(&[command, "--rounds", "0"], "--rounds");
        refused(&[command, "--provider", "pigeon"], "pigeon");
        refused(&[command, "--cpus", "zero"], "--cpus");
        refused(&[command, "--cpus", "0,9999"], "CPU 9999");
        refused(&[command, "--cpus", "0,0,0"], "--cpus");
        refused(&[command, "--listen", "a/b"], "'/'");
        refused(&[command, "--connect", ".hidden"], "dot");
        refused(&[command, "--connect", "ghost"], "ghost");
        refused(&[command, "--listen", "a", "--connect", "a"], "--connect");
        refused(&[command, "--provider", "tcp", "--listen", "demo"], "tcp://127.0.0.1:7000");
        refused(&[command, "--connect", "tcp://127.0.0.1"], "tcp://127.0.0.1:7000");
        refused(&[command, "--connect", "tcp://127.0.0.1:1"], "tcp://127.0.0.1:1");
        refused(&[command, "--provider", "tcp", "--zero-copy"], "--zero-copy");
        refused(&[command, "--provider", "udp", "--zero-copy"], "--zero-copy");
        refused(&[command, "--provider", "udp", "--listen", "demo"], "udp://127.0.0.1:7000");
        refused(
            &[command, "--provider", "tcp", "--listen", "udp://[::1]:0"],
            "tcp://127.0.0.1:7000",
        );
        refused(&[command, "--connect", "udp://127.0.0.1"], "udp://127.0.0.1:7000");
        refused(&[command, "--connect", "udp://127.0.0.1:1"], "udp://127.0.0.1:1: nobody answers");
        refused(&[command, "--provider", "udp", "--size", "64,64k"], "--size: 65536");
        refused(&[command, "--provider", "udp", "--lost-after", "0"], "--lost-after");
        // At once, and not when all is measured.
        refused(&[command, "--seconds", "3600", "--plot", "/nowhere/x.svg"], "--plot /nowhere");
    }
}

/// Fails where a field is missing or no number above zero.
pub(crate) fn positive(report: &Value, fields: &[&str]) {
    for field in fields {
        let value = report.pointer(field).and_then(Value::as_f64);
        assert!(value.is_some_and(|value| value > 0.0), "{field}: {report}");
    }
}

#[test]
fn lat_reports_what_it_promises_and_leaves_nothing_behind() {
    let folder = Folder::new();
    let ran = folder.run(&["lat", "--size", "32,4k", "--iters", "400", "--rounds", "2", "--json"]);
    assert_eq!(ran.code, 0, "{ran:?}");
    let json = ran.json();
    assert_eq!(json.as_array().map(Vec::len), Some(2), "{json}");
    for (report, size) in json.as_array().unwrap().iter().zip([32, 4096]) {
        assert_eq!((&report["provider"], &report["size"]), (&"shm".into(), &size.into()), "{json}");
        positive(report, &["/iters", "/ratio_p50", "/floor_rtt_ns/p50", "/floor_rtt_ns/p99"]);
        positive(report, &["/rtt_ns/min", "/rtt_ns/p99_9", "/rtt_ns/mean"]);
        let steps = ["min", "p50", "p90", "p99", "p99_9", "max"];
        let values = steps.map(|step| report["rtt_ns"][step].as_u64().unwrap());
        assert!(values.is_sorted(), "{report}");
        assert_eq!(report["cpus"].as_array().unwrap().len(), 2, "{report}");
        assert!(["2M", "thp", "4K"].contains(&report["page"].as_str().unwrap()), "{report}");
    }
    assert_eq!(folder.run(&["ps", "--json"]).json(), serde_json::json!([]));
}

#[test]
fn over_tcp_both_measure_beside_a_plain_socket() {
    let folder = Folder::new();
    let few = ["--provider", "tcp", "--size", "64,9k", "--iters", "200", "--rounds", "2", "--json"];
    let ran = folder.run(&[&["lat", "--tagged"][..], &few].concat());
    assert_eq!(ran.code, 0, "{ran:?}");
    let json = ran.json();
    for (report, size) in json.as_array().unwrap().iter().zip([64, 9216]) {
        assert_eq!((&report["provider"], &report["size"]), (&"tcp".into(), &size.into()), "{json}");
        positive(report, &["/ratio_p50", "/floor_rtt_ns/p50", "/rtt_ns/p50"]);
        assert!(report["io_uring"].as_array().is_some_and(|paths| paths.len() > 4), "{report}");
        assert!(report["loss"].is_null(), "{report}");
    }
    // The CPUs may be named: that this end is pinned to one of them takes nothing from the other.
    let cpus = &json[0]["cpus"];
    let has_two = std::thread::available_parallelism().unwrap().get() > 1;
    assert!(!has_two || cpus[0] != cpus[1], "{cpus}");
    let named = format!("{},{}", cpus[0], cpus[1]);
    for provider in ["tcp", "udp"] {
        let few = ["--provider", provider, "--iters", "50", "--rounds", "1", "--json"];
        let ran = folder.run(&[&["lat", "--cpus", &named][..], &few].concat());
        assert_eq!((ran.code, &ran.json()["cpus"]), (0, cpus), "{ran:?}");
    }
    let ran = folder.run(&[&["bw"][..], &few].concat());
    assert_eq!(ran.code, 0, "{ran:?}");
    for report in ran.json().as_array().unwrap() {
        positive(report, &["/bytes_per_s", "/floor_bytes_per_s", "/ratio"]);
    }
}

/// Apart: the listening end says where it listens, serves one client, and ends with it.
#[test]
fn over_tcp_the_ends_may_be_started_apart() {
    let folder = Folder::new();
    let mut server = command(folder.path(), &["lat", "--listen", "tcp://127.0.0.1:0", "--json"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    let out = server.stdout.take().unwrap();
    BufReader::new(out).read_line(&mut line).unwrap();
    let told: Value = serde_json::from_str(&line).unwrap();
    let address = told["listening"].as_str().unwrap();
    let ran =
        folder.run(&["lat", "--connect", address, "--iters", "50", "--rounds", "1", "--json"]);
    assert_eq!(ran.code, 0, "{ran:?}");
    assert_eq!(ran.json()["provider"], "tcp");
    assert!(server.wait().unwrap().success());
}

#[test]
fn bw_reports_what_it_promises_and_leaves_nothing_behind() {
    let folder = Folder::new();
    let ran = folder.run(&["bw", "--tagged", "--iters", "2000", "--rounds", "2", "--json"]);
    assert_eq!(ran.code, 0, "{ran:?}");
    let report = ran.json();
    assert_eq!((&report["provider"], &report["size"]), (&"shm".into(), &64.into()), "{report}");
    let fields = ["/messages", "/messages_per_s", "/bytes_per_s", "/floor_bytes_per_s", "/ratio"];
    positive(&report, &fields);
    assert_eq!(folder.run(&["ps", "--json"]).json(), serde_json::json!([]));
}

#[test]
fn who_has_one_cpu_with_the_other_end_yields_and_says_so() {
    let folder = Folder::new();
    for cpus in ["0,0", "0"] {
        let few = ["--cpus", cpus, "--iters", "50", "--rounds", "1"];
        let ran = folder.run(&[&["lat", "--json"][..], &few].concat());
        assert_eq!(ran.code, 0, "{ran:?}");
        assert_eq!(ran.json()["cpus"], serde_json::json!([0, 0]));
        assert_eq!(ran.json()["shares_cpu"], true, "{ran:?}");
        let ran = folder.run(&[&["bw"][..], &few].concat());
        assert!(ran.out.contains("both ends on one CPU"), "{ran:?}");
    }
    // Of ends that are started apart each names its own.
    let apart = ["lat", "--listen", "demo", "--cpus", "0", "--json"];
    let mut listens = command(folder.path(), &apart).stdout(Stdio::null()).spawn().unwrap();
    while !folder.has("demo") {
        assert!(listens.try_wait().unwrap().is_none(), "it listens");
    }
    let few = ["--cpus", "0,0", "--iters", "50", "--rounds", "1", "--json"];
    let ran = folder.run(&[&["lat", "--connect", "demo"][..], &few].concat());
    assert_eq!((ran.code, &ran.json()["shares_cpu"]), (0, &true.into()), "{ran:?}");
    assert!(listens.wait().unwrap().success());
}

/// The second process of a command, as soon as there is one.
fn second_process(of: u32) -> u32 {
    let parent = format!(" {of} ");
    let is_second = |pid: &u32| {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        stat.rsplit(')').next().is_some_and(|rest| rest.get(2..).unwrap_or("").starts_with(&parent))
    };
    loop {
        let all = std::fs::read_dir("/proc").unwrap().filter_map(Result::ok);
        let pids = all.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
        if let Some(second) = pids.into_iter().find(is_second) {
            return second;
        }
    }
}

/// Whatever is under way when the second process is killed: nobody waits for it until the patience is at its end.
#[test]
fn who_measures_with_a_process_that_is_killed_says_so() {
    let folder = Folder::new();
    let mut ways =
        vec![vec!["lat"], vec!["bw"], vec!["bw", "--zero-copy"], vec!["bw", "--provider", "tcp"]];
    if cfg!(feature = "libfabric") {
        let tcp = "ofi://tcp/127.0.0.1:0";
        ways.extend([
            vec!["lat", "--provider", "ofi"],
            vec!["lat", "--uri", tcp],
            vec!["bw", "--uri", tcp],
        ]);
    }
    for way in ways {
        let endless = [&way[..], &["--seconds", "3600", "--rounds", "1"]].concat();
        let measures = heedful(&folder, &endless).stderr(Stdio::piped()).spawn().unwrap();
        let second = second_process(measures.id()).to_string();
        // In the middle of its warm-up, or of the first round: it spins then. Or before, where what it opens takes long.
        spins(&second);
        send("KILL", &second);
        let ran = measures.wait_with_output().unwrap();
        let said = String::from_utf8(ran.stderr).unwrap();
        assert_eq!(ran.status.code(), Some(2), "{endless:?}: {said}");
        let why = ["gone", "ended too early", "nobody answers", "did not take the connection"];
        let says_why = why.iter().any(|why| said.contains(why));
        assert!(says_why && !said.contains("10 s"), "{endless:?}: {said}");
    }
    assert!(!folder.has_any(), "the names that it had made are taken along");
}

/// Waits until a process has used its CPU for 0.15 s (proc_pid_stat(5): user and system time, in ticks of 10 ms), or has ended.
fn spins(process: &str) {
    let ticks = || {
        let stat = std::fs::read_to_string(format!("/proc/{process}/stat")).ok()?;
        let (_, fields) = stat.rsplit_once(") ")?;
        let mut times = fields.split(' ').skip(11).map(|field| field.parse::<u64>());
        Some(times.next()?.ok()? + times.next()?.ok()?)
    };
    while ticks().is_some_and(|ticks| ticks < 15) {
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
}

#[test]
fn nobody_is_said_to_listen_who_does_not() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = format!("tcp://{}", taken.local_addr().unwrap());
    let folder = Folder::new();
    for command in ["lat", "bw"] {
        for (place, part) in
            [("tcp://300.1.1.1:5", "no address"), (taken.as_str(), "in use"), ("a/b", "name")]
        {
            let ran = folder.run(&[command, "--listen", place]);
            assert_eq!(ran.code, 2, "{ran:?}");
            assert!(ran.err.contains(part) && !ran.err.contains("listening"), "{ran:?}");
        }
    }
}

/// The command in a folder, started with all signals as they are by default: whoever runs the tests in the background has them ignore some.
fn heedful(folder: &Folder, args: &[&str]) -> Command {
    let plain = command(folder.path(), args);
    let mut command = Command::new("env");
    command.arg("--default-signal").arg(plain.get_program()).args(plain.get_args());
    command.env("SPINWIRE_SHM_DIR", folder.path()).stdin(Stdio::null());
    command.stdout(Stdio::null()).stderr(Stdio::null());
    command
}

fn send(signal: &str, whom: &str) {
    assert!(Command::new("kill").args(["-s", signal, "--", whom]).status().unwrap().success());
}

/// What ends it, and whom: somebody at the terminal both ends, somebody with SIGKILL the first one only.
#[test]
fn who_is_ended_in_the_middle_leaves_nothing_behind() {
    let endless = ["lat", "--zero-copy", "--seconds", "3600"];
    for ends in ["INT", "TERM", "HUP", "KILL"] {
        let folder = Folder::new();
        let mut lat = heedful(&folder, &endless).process_group(0).spawn().unwrap();
        let both_are_in = || {
            let rows = folder.run(&["ps", "--json"]).json();
            let processes = |row: &Value| row["processes"].as_array().map_or(0, Vec::len);
            rows.as_array()
                .is_some_and(|rows| rows.len() == 2 && rows.iter().all(|row| processes(row) == 2))
        };
        while !both_are_in() {
            assert!(lat.try_wait().unwrap().is_none(), "it measures");
        }
        let whom = format!("{}{}", if ends == "KILL" { "" } else { "-" }, lat.id());
        send(ends, &whom);
        assert!(!lat.wait().unwrap().success());
        while folder.has_any() {
            std::thread::yield_now();
        }
    }
}

#[test]
fn who_listens_takes_the_name_along() {
    let folder = Folder::new();
    for ends in ["INT", "TERM"] {
        let mut listens = heedful(&folder, &["bw", "--listen", "demo"]).spawn().unwrap();
        while !folder.has("demo") {
            assert!(listens.try_wait().unwrap().is_none(), "it listens");
        }
        send(ends, &listens.id().to_string());
        assert!(!listens.wait().unwrap().success(), "the signal ends it");
        assert!(!folder.has_any(), "{ends}");
    }
}

/// A client that was killed before it came.
#[test]
fn nobody_is_waited_for_who_has_ended() {
    let folder = Folder::new();
    for place in ["demo", "tcp://127.0.0.1:0"] {
        let second = ["lat", "--listen", place, "--json", "--until-input-ends"];
        let mut second = command(folder.path(), &second);
        let mut second = second
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        if place == "demo" {
            while !folder.has("demo") {
                assert!(second.try_wait().unwrap().is_none(), "it waits");
            }
        }
        drop(second.stdin.take());
        assert_eq!(second.wait().unwrap().code(), Some(2), "{place}");
        assert!(!folder.has_any(), "{place}");
    }
}

/// `| head`: the pipe is closed before the table comes.
#[test]
fn a_reader_that_has_seen_enough_is_no_failure() {
    let folder = Folder::new();
    for json in [&[][..], &["--json"]] {
        for of in ["lat", "bw"] {
            let few = ["--iters", "20", "--rounds", "1"];
            let mut ran = command(folder.path(), &[&[of], &few[..], json].concat());
            let mut ran = ran.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
            drop(ran.stdout.take());
            let ran = ran.wait_with_output().unwrap();
            assert_eq!(
                (ran.status.code(), ran.stderr.as_slice()),
                (Some(0), &b""[..]),
                "{of} {json:?}"
            );
        }
    }
    let full = std::fs::File::options().write(true).open("/dev/full").unwrap();
    let mut lat = command(folder.path(), &["lat", "--iters", "20", "--rounds", "1"]);
    let lat = lat.stdout(full).stderr(Stdio::piped()).spawn().unwrap().wait_with_output().unwrap();
    let said = String::from_utf8(lat.stderr).unwrap();
    assert_eq!(lat.status.code(), Some(2), "{said}");
    assert!(said.starts_with("spinwire: standard output: "), "{said}");
}

/// A network of its own, in which nothing is up.
#[test]
fn who_has_no_way_to_the_other_end_names_it_and_the_remedy() {
    let alone = |args: &[&str]| Command::new("unshare").arg("-rn").args(args).output().unwrap();
    if !alone(&["true"]).status.success() {
        println!("!! NOT RUN: lat and bw without a network: unshare -rn is refused here");
        return;
    }
    let mut ways = vec![["lat", "--provider", "tcp"], ["bw", "--provider", "udp"]];
    if cfg!(feature = "libfabric") {
        ways.extend([["bw", "--uri", "ofi://tcp/127.0.0.1:0"], ["lat", "--provider", "ofi"]]);
    }
    for way in ways {
        let ran = alone(&[&[env!("CARGO_BIN_EXE_spinwire")][..], &way].concat());
        let said = String::from_utf8(ran.stderr).unwrap();
        assert_eq!(ran.status.code(), Some(2), "{way:?}: {said}");
        assert!(
            said.contains("127.0.0.1:") && said.contains("ip link set lo up"),
            "{way:?}: {said}"
        );
    }
}

/// Before the two have met, over shared memory: the first one has joined the segment of the second, which has most likely no endpoint there yet.
#[test]
fn a_second_process_that_is_killed_early_is_told_with_how() {
    let folder = Folder::new();
    for of in ["lat", "bw"] {
        let mut first = folder.start(&[of, "--seconds", "3600"]);
        let name = format!("spinwire.{of}-{}", first.id());
        let maps = format!("/proc/{}/maps", first.id());
        while !std::fs::read_to_string(&maps).unwrap().contains(&name) {
            assert!(first.runs(), "it starts the second one");
        }
        let children = format!("/proc/{0}/task/{0}/children", first.id());
        send("KILL", std::fs::read_to_string(children).unwrap().trim());
        let ran = first.ran();
        let told = ran.err.contains("(signal: 9 (SIGKILL)); remedy: dmesg");
        assert!(ran.code == 2 && told, "{ran:?}");
        // Which is what is said after a wait.
        assert!(!ran.err.contains("nobody listens"), "{ran:?}");
        assert!(!folder.has_any(), "{of}");
    }
}

/// The library says nothing of a connection that it could not open: as many files as it will need are asked for before.
#[test]
fn too_few_open_files_are_told_before_a_library_tries_for_ever() {
    if !cfg!(feature = "libfabric") {
        println!("!! NOT RUN: few open files over libfabric: a build without libfabric");
        return;
    }
    let place = "ofi://tcp/127.0.0.1:0";
    let mut few = Command::new("prlimit");
    few.args(["--nofile=14", env!("CARGO_BIN_EXE_spinwire"), "lat", "--uri", place]);
    let ran = few.output().unwrap();
    let said = String::from_utf8(ran.stderr).unwrap();
    assert_eq!(ran.status.code(), Some(2), "{said}");
    assert!(said.contains("Too many open files") && said.contains("ulimit -n"), "{said}");
}
