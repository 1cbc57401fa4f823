//! The examples, built and run as a user would: they end by themselves, say what they did, and leave nothing behind.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test stops at the first thing that is not as expected"
)]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::Value;

/// These need RDMA devices: `verbs_rxe` runs them.
const ON_DEVICES: [&str; 2] = ["rc_pingpong", "rping"];

/// Builds all examples and tells where they are.
fn build() -> Vec<(String, PathBuf)> {
    // The cargo that runs this test, if it is one that runs it.
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    // The flags of the build that this test is part of, where its caller tells them: with them nothing is built twice.
    let flags = std::env::var("SPINWIRE_CARGO_FLAGS").unwrap_or_default();
    let built = Command::new(cargo)
        .args(["build", "--examples", "--message-format=json", "--manifest-path"])
        .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("Cargo.toml"))
        .args(flags.split_whitespace())
        .stderr(Stdio::inherit())
        .output()
        .unwrap();
    assert!(built.status.success(), "the examples do not build");
    let text = String::from_utf8(built.stdout).unwrap();
    let messages = text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    let examples = messages.filter(|message| message["target"]["kind"][0] == "example");
    examples
        .filter_map(|m| {
            let name = m["target"]["name"].as_str()?.to_owned();
            Some((name, PathBuf::from(m["executable"].as_str()?)))
        })
        .filter(|(name, _)| !ON_DEVICES.contains(&name.as_str()))
        .collect()
}

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
    let mut built = build();
    built.sort();
    let names: Vec<&str> = built.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, said.each_ref().map(|(name, _)| *name), "each example has its line above");
    let folder = std::env::temp_dir().join(format!("examples-run-{}", std::process::id()));
    fs::create_dir(&folder).unwrap();
    for ((name, program), (_, lines)) in built.iter().zip(&mut said) {
        // Those of more than one file have a folder, and their `main.rs` counts.
        let files = [format!("{name}.rs"), format!("{name}/main.rs")];
        let source = files.iter().find_map(|file| fs::read_to_string(sources.join(file)).ok());
        let source = source.unwrap();
        assert!(source.lines().count() < 120, "{name}: an example has fewer than 120 lines");
        let ran = Command::new(program).env("SPINWIRE_SHM_DIR", &folder).output().unwrap();
        assert!(ran.status.success(), "{name}: {ran:?}");
        let out = String::from_utf8(ran.stdout).unwrap();
        for line in lines {
            assert!(out.contains(*line), "{name}: {line:?} is not in {out:?}");
        }
        assert_eq!(fs::read_dir(&folder).unwrap().count(), 0, "{name} left something behind");
    }
    fs::remove_dir(&folder).unwrap();
}
