//! The examples, built and run as a user would: they end by themselves, say what they did, and leave nothing behind.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test stops at the first thing that is not as expected"
)]

mod examples_built;

use core::time::Duration;
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::Instant;

use examples_built::ending_with_us;

/// After that long a test has failed. Machines may stop for a while.
const LONG: Duration = Duration::from_secs(60);
/// These need RDMA devices: `verbs_rxe` runs them.
const ON_DEVICES: [&str; 2] = ["rc_pingpong", "rping"];

#[test]
fn every_example_does_what_it_says() {
    let sources = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples");
    let mut said = [
        // A line of each end, with figures that only a run that worked can have.
        ("datagram_echo", vec!["server: udp dgram", "client: 2000 datagrams, "]),
        ("frames", vec!["reader: 2000 frames"]),
        ("market_fanout", vec!["publisher: 20000 quotes", "slow: ", "fast: "]),
        ("msg_basic", vec!["1. shm msg: ", "how are you?", "well, thanks"]),
        ("own_layouts", vec!["192 bytes, align 64, 3 lines", "0 risks of false sharing"]),
        (
            "provider_switch",
            vec!["path: shm rdm", "path: shm msg", "path: tcp rdm", "(not shm rdm"],
        ),
        ("request_reply", vec!["client: 20000 answers", "server: 20000 requests"]),
        ("resp", vec!["client: 2000 answers", "service: "]),
        ("sleeper", vec!["spin: p50 ", "times a spin", "park: p50 ", "park: Parks"]),
        ("timer_service", vec![" 0 allocations", "late by: "]),
        ("wal", vec!["recovered 0 records", "durable "]),
    ];
    let mut built = examples_built::all();
    built.retain(|name, _| !ON_DEVICES.contains(&name.as_str()));
    let names: Vec<&str> = built.keys().map(String::as_str).collect();
    assert_eq!(names, said.each_ref().map(|(name, _)| *name), "each example has its line above");
    let folder = std::env::temp_dir().join(format!("examples-run-{}", std::process::id()));
    fs::create_dir(&folder).unwrap();
    for ((name, program), (_, lines)) in built.iter().zip(&mut said) {
        // Those of more than one file have a folder, and their `main.rs` counts.
        let files = [format!("{name}.rs"), format!("{name}/main.rs")];
        let source = files.iter().find_map(|file| fs::read_to_string(sources.join(file)).ok());
        let source = source.unwrap();
        assert!(source.lines().count() < 120, "{name}: an example has fewer than 120 lines");
        let ran = ending_with_us(program).env("SPINWIRE_SHM_DIR", &folder).output().unwrap();
        assert!(ran.status.success(), "{name}: {ran:?}");
        let out = String::from_utf8(ran.stdout).unwrap();
        for line in lines {
            assert!(out.contains(*line), "{name}: {line:?} is not in {out:?}");
        }
        assert_eq!(fs::read_dir(&folder).unwrap().count(), 0, "{name} left something behind");
    }
    fs::remove_dir(&folder).unwrap();
}

#[test]
fn what_stands_in_the_way_of_an_example_is_told_in_words() {
    let built = examples_built::all();
    for name in ["frames", "market_fanout", "request_reply", "sleeper", "timer_service"] {
        // The folder of segments is not there.
        let mut example = ending_with_us(&built[name]);
        let ran = example.env("SPINWIRE_SHM_DIR", "/nowhere/at/all").output().unwrap();
        let told = String::from_utf8(ran.stderr).unwrap();
        assert!(!ran.status.success(), "{name}: {told}");
        assert!(told.contains("or point SPINWIRE_SHM_DIR to a folder"), "{name}: {told}");
        assert!(!told.contains(" { "), "{name}: the form for programmers: {told}");
    }
}

/// Who starts a process and waits for it sees that it is killed before it comes.
#[test]
fn an_example_whose_second_process_dies_says_so_and_leaves_nothing_behind() {
    let built = examples_built::all();
    let folder = std::env::temp_dir().join(format!("examples-die-{}", std::process::id()));
    fs::create_dir(&folder).unwrap();
    for (name, whose) in [("frames", "the reader"), ("sleeper", "the service at spin")] {
        let mut example = ending_with_us(&built[name]);
        let example = example.env("SPINWIRE_SHM_DIR", &folder).stderr(Stdio::piped());
        let mut example = example.spawn().unwrap();
        let children = format!("/proc/{0}/task/{0}/children", example.id());
        let second = loop {
            let children = fs::read_to_string(&children).unwrap();
            if let Some(second) = children.split_whitespace().next() {
                break second.to_owned();
            }
            assert!(example.try_wait().unwrap().is_none(), "{name} starts another process");
        };
        assert!(Command::new("kill").args(["-KILL", &second]).status().unwrap().success());
        let from = Instant::now();
        while example.try_wait().unwrap().is_none() {
            assert!(from.elapsed() < LONG, "{name} waits for who has ended");
            sleep(Duration::from_millis(1));
        }
        let ran = example.wait_with_output().unwrap();
        let told = String::from_utf8(ran.stderr).unwrap();
        assert!(!ran.status.success(), "{name}: {told}");
        // It may have come by then.
        let early = told.contains(&format!("{whose} ended before it came: signal: 9"));
        assert!(early || told.contains("peer gone"), "{name}: {told}");
        assert_eq!(fs::read_dir(&folder).unwrap().count(), 0, "{name} left something behind");
    }
    fs::remove_dir(&folder).unwrap();
}
