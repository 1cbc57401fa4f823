//! What is not understood, and folders that are none.

use std::fs;
use std::io::{BufRead as _, BufReader, Read};
use std::os::unix::fs::symlink;
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use crate::pair::positive;
use crate::rig::{Folder, command, run_in};

/// Refused, without doing anything, with exit code 2, and with a text that names what is wrong.
pub(crate) fn refused(args: &[&str], says: &str) {
    let folder = Folder::new();
    let ran = folder.run(args);
    assert_eq!(ran.code, 2, "{args:?}: {ran:?}");
    assert!(ran.err.contains(says), "{args:?}: {ran:?}");
    assert!(ran.out.is_empty(), "{args:?}: {ran:?}");
}

#[test]
fn arguments_that_are_not_understood() {
    refused(&[], "Usage");
    refused(&["dance"], "dance");
    refused(&["rm"], "NAMES");
    refused(&["rm", "--dead", "quotes"], "--dead");
    refused(&["rm", "../../etc/passwd"], "'/' at character 3");
    refused(&["rm", "a/b"], "'/' at character 2");
    refused(&["rm", ""], "empty");
    refused(&["rm", &"x".repeat(64)], "64 bytes");
    refused(&["top", "--interval", "0"], "--interval");
    refused(&["top", "--interval", "soon"], "--interval");
    refused(&["ps", "--force"], "--force");
    refused(&["doctor", "quotes"], "quotes");
    refused(&["lat", "--cpus", "a,b"], "numbers of CPUs, like 2,3");
    refused(&["ping", "tcp://127.0.0.1:1", "--cpus", "0,1"], "the number of one CPU");
    refused(&["ping", "tcp://127.0.0.1:1", "-s", "-4"], "from 1 to 8m");
    refused(&["ping", "tcp://127.0.0.1:1", "-c", "-1"], "a whole number above 0");
    refused(&["ping", "tcp://127.0.0.1:1", "-i", "-1"], "seconds from 0 to 3600");
    refused(&["serve", "tcp://127.0.0.1:0", "--clients", "1025"], "from 1 to 1024");
}

/// What was measured is told all the same.
#[test]
fn a_plot_that_could_not_be_written_is_a_failure() {
    let brief = ["--iters", "10", "--rounds", "1", "--plot", "/dev/full"];
    for command in ["lat", "bw"] {
        let ran = Folder::new().run(&[&[command][..], &brief].concat());
        assert_eq!(ran.code, 2, "{ran:?}");
        assert!(ran.out.contains("ratio: median of 1 rounds"), "{ran:?}");
        assert!(ran.err.contains("--plot /dev/full: "), "{ran:?}");
        assert!(ran.out.lines().all(|line| line.chars().count() <= 80), "{ran:?}");
    }
}

/// By default the kernel ends who writes beyond the limit of file sizes, by a signal, and in silence.
#[test]
fn files_beyond_the_limit_of_sizes_are_told() {
    let folder = Folder::new();
    let limited = |args: &[&str], out: Stdio| {
        let mut limited = Command::new("prlimit");
        limited.args(["--fsize=1000", env!("CARGO_BIN_EXE_spinwire")]).args(args).stdout(out);
        let ran = limited.stderr(Stdio::piped()).output().unwrap();
        (ran.status.code(), String::from_utf8(ran.stderr).unwrap())
    };
    let file = folder.file("curve");
    let curve = file.to_str().unwrap();
    let brief = ["--provider", "tcp", "--iters", "10", "--rounds", "1"];
    let remedy = "remedy: raise the limit of file sizes: ulimit -f unlimited";
    for asked in [["lat", "--hgrm", curve], ["bw", "--plot", curve]] {
        let (code, said) = limited(&[&asked[..], &brief].concat(), Stdio::null());
        let names_it = said.contains(&format!("{} {curve}: ", asked[1]));
        assert!(code == Some(2) && names_it && said.contains(remedy), "{asked:?} {code:?}: {said}");
        assert!(!file.exists(), "half a curve is none");
    }
    let (code, said) = limited(&["lat", "--help"], fs::File::create(&file).unwrap().into());
    assert!(code == Some(2) && said.starts_with("spinwire: standard output: "), "{said}");
    assert!(said.contains(remedy), "{said}");
}

/// A file that could not be written is no help.
#[test]
fn help_that_could_not_be_written_is_a_failure() {
    let folder = Folder::new();
    let full = || fs::File::options().write(true).open("/dev/full").unwrap();
    for args in [&["--help"][..], &["ping", "--help"], &["--version"], &["ps"]] {
        let ran = command(folder.path(), args).stdout(full()).output().unwrap();
        let said = String::from_utf8_lossy(&ran.stderr);
        assert_eq!(ran.status.code(), Some(2), "{args:?}: {said}");
        assert!(said.contains("standard output: "), "{args:?}: {said}");
    }
}

/// Who reads the last line knows what to do, and nothing of what was not asked for stands between.
#[test]
fn the_remedy_is_the_last_word() {
    let folder = Folder::new();
    let ran = folder.run(&["ping", "shm://nobody", "--count", "1"]);
    let last = ran.err.lines().last().unwrap_or_default();
    assert!(last.contains("shm://nobody: ") && last.contains("remedy: "), "{ran:?}");
    assert!(ran.code == 2 && !ran.err.contains("msg"), "{ran:?}");
    let absent = folder.run(&["ping", "mlx5://mlx5_0/127.0.0.1:1", "--count", "1"]);
    assert!(absent.code == 2 && !absent.err.contains("has no address"), "{absent:?}");
    let named = folder.run(&["serve", "udp://127.0.0.1:0/quotes"]);
    let says = "name of the endpoint has no place here; remedy: leave it out: udp://HOST:PORT";
    assert!(named.code == 2 && named.err.contains(says), "{named:?}");
    // Nobody says no over UDP.
    let silent = ["ping", "udp://127.0.0.1:1", "--count", "1", "--timeout", "0.01"];
    let ran = folder.run(&silent);
    let says = "nothing came back; remedy: spinwire serve udp://127.0.0.1:1 ";
    assert!(ran.code == 1 && ran.out.contains(says), "{ran:?}");
    if cfg!(feature = "libfabric") {
        let ran = folder.run(&["ping", "ofi://nonsense/127.0.0.1:1", "--count", "1"]);
        assert_eq!((ran.code, ran.err.lines().count()), (2, 2), "{ran:?}");
        assert!(ran.err.contains("there is no provider \"nonsense\""), "{ran:?}");
        refused(&["lat", "--connect", "ofi://tcp"], "ofi://tcp/127.0.0.1:7000");
    }
}

#[test]
fn one_bad_name_keeps_all_the_others() {
    let folder = Folder::new();
    folder.holder("domain quotes").kill();
    let ran = folder.run(&["rm", "quotes", "a/b"]);
    assert_eq!(ran.code, 2, "{ran:?}");
    assert!(folder.has("quotes"), "nothing is done before all names were looked at");
}

#[test]
fn folders_that_are_none() {
    let folder = Folder::new();
    let file = folder.file("file");
    fs::write(&file, "").unwrap();
    let circle = folder.file("circle");
    symlink(&circle, &circle).unwrap();
    for path in [file, circle, folder.file("missing")] {
        for args in [&["ps"][..], &["rm", "--dead"], &["rm", "quotes"], &["top", "--once"]] {
            let ran = run_in(&path, args);
            assert_eq!(ran.code, 2, "{args:?} in {path:?}: {ran:?}");
            assert!(ran.err.contains(path.to_str().unwrap()), "{args:?} in {path:?}: {ran:?}");
        }
    }
}

#[test]
fn nothing_is_nothing_to_complain_about() {
    let folder = Folder::new();
    for (args, says) in [
        (&["ps"][..], "No segments."),
        (&["rm", "--dead"], "Nothing to remove."),
        (&["top", "--once"], "No planes."),
        (&["top"], "No planes."),
    ] {
        let ran = folder.run(args);
        assert_eq!((ran.code, ran.out.trim_end()), (0, says), "{args:?}: {ran:?}");
    }
    for args in [&["ps", "--json"][..], &["rm", "--dead", "--json"], &["top", "--json"]] {
        let ran = folder.run(args);
        assert_eq!(ran.code, 0, "{args:?}: {ran:?}");
        assert_eq!(ran.json(), serde_json::json!([]), "{args:?}");
    }
}

#[test]
fn names_that_are_not_there() {
    let folder = Folder::new();
    let ran = folder.run(&["ps", "ghost"]);
    assert_eq!(ran.code, 1, "{ran:?}");
    assert!(ran.err.contains("ghost: no such segment"), "{ran:?}");
    let ran = folder.run(&["rm", "ghost"]);
    assert_eq!(ran.code, 1, "{ran:?}");
    assert!(ran.out.contains("kept ghost: there is no such segment"), "{ran:?}");
}

#[test]
fn a_reader_that_has_seen_enough_is_no_failure() {
    let folder = Folder::new();
    let mut child = command(folder.file("x").parent().unwrap(), &["doctor"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let mut err = String::new();
    child.stderr.take().unwrap().read_to_string(&mut err).unwrap();
    let code = child.wait().unwrap().code();
    assert!(matches!(code, Some(0 | 1)), "{code:?}: {err}");
    assert_eq!(err, "");
}

#[test]
fn doctor_says_the_same_in_words_and_in_json() {
    let folder = Folder::new();
    let words = folder.run(&["doctor"]);
    let json = folder.run(&["doctor", "--json"]);
    assert_eq!(words.code, json.code, "{words:?} {json:?}");
    assert!(!words.out.contains('\u{1b}'), "no colours where there is no terminal");
    let report = json.json();
    let checks = report["checks"].as_array().unwrap();
    assert!(checks.len() >= 15, "{report}");
    let mut hurts = false;
    for check in checks {
        let text =
            |field: &str| check[field].as_str().unwrap_or_else(|| panic!("{field}: {check}"));
        assert!(words.out.contains(text("title")), "{check}");
        assert!(words.out.contains(text("why")), "{check}");
        let hurt = match text("verdict") {
            "ok" | "unknown" => false,
            "warn" | "bad" => true,
            other => panic!("{other}"),
        };
        assert_eq!(check["remedy"].is_string(), hurt, "what hurts has a remedy: {check}");
        hurts |= hurt;
    }
    assert_eq!(report["verdict"] != "ok", hurts, "{report}");
    assert_eq!(json.code, i32::from(hurts));
}

#[test]
fn doctor_sees_a_folder_in_which_no_segment_can_be_made() {
    let folder = Folder::new();
    let ran = run_in(&folder.file("missing"), &["doctor", "--json"]);
    assert_eq!(ran.code, 1, "{ran:?}");
    let report = ran.json();
    let shm =
        report["checks"].as_array().unwrap().iter().find(|check| check["id"] == "shm").unwrap();
    assert_eq!(shm["verdict"], "bad", "{shm}");
}

#[test]
fn devices_say_what_to_do_where_there_are_none() {
    let ran = Folder::new().run(&["devices"]);
    let said = format!("{}{}", ran.out, ran.err);
    match ran.code {
        0 => assert!(ran.out.contains("port 1") && ran.err.is_empty(), "{ran:?}"),
        1 => assert!(said.contains("no RDMA device") && said.contains("remedy: load"), "{ran:?}"),
        _ => assert!(ran.code == 2 && said.contains("--features verbs"), "{ran:?}"),
    }
    refused(&["devices", "--all"], "--all");
}

#[test]
fn what_a_device_would_be_needed_for() {
    // Without the feature it says how to build it; with it, that there is no device. Where there is one, this is no test.
    let folder = Folder::new();
    if fs::read_dir("/sys/class/infiniband").is_ok_and(|mut devices| devices.next().is_some()) {
        println!("!! NOT RUN: lat --provider mlx5 without a device: this machine has RDMA devices");
        return;
    }
    for command in ["lat", "bw"] {
        for more in [&[][..], &["--device", "mlx5_0"], &["--connect", "mlx5://mlx5_0/127.0.0.1:1"]]
        {
            let asked = [&[command, "--provider", "mlx5"], more].concat();
            let ran = folder.run(&asked);
            assert_eq!(ran.code, 2, "{ran:?}");
            assert!(ran.err.contains("remedy: "), "{ran:?}");
            let says = if cfg!(feature = "mlx5") { "no RDMA device" } else { "--features mlx5" };
            assert!(ran.err.contains(says), "{ran:?}");
        }
    }
    let form =
        if cfg!(feature = "mlx5") { "mlx5://DEVICE/10.0.0.1:7000" } else { "--features mlx5" };
    refused(&["lat", "--provider", "mlx5", "--connect", "x"], form);
    refused(&["bw", "--provider", "mlx5", "--listen", "verbs://mlx5_0/0.0.0.0:0"], form);
}

/// Over libfabric both ends are processes that this command starts, or one of them was started elsewhere; a build without it says how to get one
/// with it.
#[test]
fn round_trips_over_libfabric_or_how_to_get_them() {
    let folder = Folder::new();
    refused(&["lat", "--provider", "ofi", "--hgrm", "x"], "--hgrm: not offered");
    if !cfg!(feature = "libfabric") {
        refused(&["lat", "--provider", "ofi"], "--features libfabric");
        refused(&["bw", "--uri", "ofi://tcp/127.0.0.1:0"], "--features libfabric");
        return;
    }
    let form = "ofi://tcp/127.0.0.1:7000";
    refused(&["bw", "--provider", "ofi", "--connect", "x"], form);
    refused(&["bw", "--connect", "ofi://tcp/127.0.0.1:1"], "nobody answers");
    refused(&["bw", "--provider", "ofi", "--zero-copy"], "--zero-copy");
    refused(&["bw", "--provider", "ofi", "--fabric-type", "msg"], "it has no tags");
    for provider in ["tcp", "shm"] {
        let uri = format!("ofi://{provider}/127.0.0.1:0");
        let brief = ["--iters", "100", "--rounds", "1", "--size", "64,64k", "--json"];
        let ran = folder.run(&[&["bw", "--uri", &uri][..], &brief].concat());
        assert_eq!(ran.code, 0, "{ran:?}");
        for report in ran.json().as_array().unwrap() {
            let told = report["provider"].as_str().unwrap();
            assert!(told.starts_with(&format!("ofi:{provider}")), "{report}");
            positive(report, &["/messages", "/messages_per_s", "/floor_bytes_per_s"]);
        }
    }
    ends_over_libfabric_may_be_started_apart(&folder);
    ends_over_libfabric_leave_nothing_behind(&folder);
    ends_over_libfabric_leave_no_memory_behind(&folder);
    refused(&["lat", "--provider", "ofi", "--connect", "x"], "--connect: not offered");
    // On one CPU each lets the other have its turn; and what one size was pinned to, the next is not.
    for (cpus, sizes) in [("0", "64"), ("0,0", "64,128"), ("", "64,128")] {
        let cpus = if cpus.is_empty() { vec![] } else { vec!["--cpus", cpus] };
        let few = ["lat", "--provider", "ofi", "--iters", "50", "--size", sizes];
        let ran = folder.run(&[&few[..], &cpus].concat());
        assert_eq!(ran.code, 0, "{cpus:?} {ran:?}");
        assert_eq!(ran.out.lines().count(), sizes.split(',').count(), "{ran:?}");
    }
    for (provider, kind) in [("tcp", "rdm"), ("tcp", "msg"), ("shm", "rdm")] {
        let ran = folder.run(&[
            "lat",
            "--provider",
            "ofi",
            "--fabric-provider",
            provider,
            "--fabric-type",
            kind,
            "--size",
            "64",
            "--iters",
            "200",
            "--json",
        ]);
        assert_eq!(ran.code, 0, "{ran:?}");
        let report: serde_json::Value = serde_json::from_str(&ran.out).unwrap();
        assert_eq!((&report["endpoint_type"], &report["iters"]), (&kind.into(), &200.into()));
        assert!(report["mean_rtt_ns"].as_f64().unwrap() > 100.0, "{report}");
    }
}

/// Where they meet goes with the one, and where that is killed with the other.
fn ends_over_libfabric_leave_nothing_behind(folder: &Folder) {
    let meeting = folder.file("meeting");
    fs::create_dir(&meeting).unwrap();
    let places = || fs::read_dir(&meeting).unwrap().filter_map(Result::ok);
    // What both ends have told each other.
    let told = || {
        let names = |place: &fs::DirEntry| ["near", "far"].map(|name| place.path().join(name));
        places().flat_map(|place| names(&place)).filter(|name| name.exists()).count()
    };
    for signal in ["-TERM", "-KILL"] {
        let measure = ["lat", "--provider", "ofi", "--seconds", "60"];
        let mut end = command(folder.path(), &measure).env("TMPDIR", &meeting).spawn().unwrap();
        until(|| told() == 2);
        let kill = Command::new("kill").args([signal, &end.id().to_string()]).status();
        assert!(kill.unwrap().success());
        assert!(!end.wait().unwrap().success());
        until(|| places().count() == 0);
    }
}

/// What libfabric's `shm` has in `/dev/shm`, a file of 16 MiB for each end, goes with it, and where one is killed with the other.
fn ends_over_libfabric_leave_no_memory_behind(folder: &Folder) {
    let names_of = |pids: &[u32]| {
        let names = fs::read_dir("/dev/shm").into_iter().flatten().filter_map(Result::ok);
        let is_of = |name: &str| pids.iter().any(|pid| name.starts_with(&format!("{pid}:")));
        names.filter(|file| file.file_name().to_str().is_some_and(is_of)).count()
    };
    for ways in [
        ["--provider", "ofi", "--fabric-provider", "shm"].as_slice(),
        &["--uri", "ofi://shm/127.0.0.1:0"],
    ] {
        for signal in ["-TERM", "-HUP", "-KILL"] {
            let measure = [&["lat", "--seconds", "60"], ways].concat();
            let plain = command(folder.path(), &measure);
            let mut heedful = Command::new("env");
            heedful.arg("--default-signal").arg(plain.get_program()).args(plain.get_args());
            let mut end = heedful.stderr(Stdio::null()).spawn().unwrap();
            let own = end.id();
            until(|| children_of(own).len() == 1);
            let both = [own, children_of(own)[0]];
            // More where killed processes had these numbers before.
            until(|| names_of(&both) >= 2);
            let kill = Command::new("kill").args([signal, &own.to_string()]).status();
            assert!(kill.unwrap().success());
            assert!(!end.wait().unwrap().success());
            until(|| names_of(&both) == 0);
        }
    }
}

/// `/proc/PID/task/TID/children`, of all its threads.
fn children_of(pid: u32) -> Vec<u32> {
    let threads = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    let of = |thread: fs::DirEntry| fs::read_to_string(thread.path().join("children")).ok();
    let all: String = threads.filter_map(of).collect();
    all.split_ascii_whitespace().filter_map(|pid| pid.parse().ok()).collect()
}

/// Waits for it, and fails where it does not come.
fn until(is_so: impl Fn() -> bool) {
    let since = Instant::now();
    while !is_so() {
        assert!(since.elapsed() < Duration::from_secs(60), "it does not come");
        sleep(Duration::from_millis(2));
    }
}

fn ends_over_libfabric_may_be_started_apart(folder: &Folder) {
    let listen = ["lat", "--listen", "ofi://tcp/127.0.0.1:0", "--json"];
    let mut other = command(folder.path(), &listen).stdout(Stdio::piped()).spawn().unwrap();
    let mut told = String::new();
    BufReader::new(other.stdout.take().unwrap()).read_line(&mut told).unwrap();
    let told: serde_json::Value = serde_json::from_str(&told).unwrap();
    let at = told["listening"].as_str().unwrap();
    let trips = folder.path().join("trips");
    let brief = ["--iters", "100", "--rounds", "1", "--hgrm", trips.to_str().unwrap(), "--json"];
    let ran = folder.run(&[&["lat", "--connect", at][..], &brief].concat());
    assert_eq!((ran.code, &ran.json()["iters"]), (0, &100.into()), "{ran:?}");
    assert!(trips.exists());
    assert!(other.wait().unwrap().success());
}
