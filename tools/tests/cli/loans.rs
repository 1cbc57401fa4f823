//! `lat` and `bw` with `--zero-copy`: what they report, what they refuse, and that nothing is left.

use std::fs;

use serde_json::json;

use crate::arguments::refused;
use crate::pair::positive;
use crate::rig::{Folder, Running};

/// Nothing of either end is left: no segment, no pool.
fn nothing_is_left(folder: &Folder) {
    let left: Vec<_> = fs::read_dir(folder.path()).unwrap().map(|e| e.unwrap().path()).collect();
    assert!(left.is_empty(), "{left:?}");
}

/// Starts the listening end, and waits until it can be connected to.
fn listen(folder: &Folder, command: &str, more: &[&str]) -> Running {
    let mut listening = folder.start(&[&[command, "--listen", "demo"], more].concat());
    while !folder.has("demo") {
        assert!(listening.runs(), "{:?}", listening.ran());
        std::thread::yield_now();
    }
    listening
}

#[test]
fn lat_hands_over_buffers_and_leaves_nothing_behind() {
    let folder = Folder::new();
    let few = ["--iters", "400", "--rounds", "2", "--json", "--tagged"];
    let ran = folder.run(&[&["lat", "--zero-copy", "--size", "8,1m"][..], &few].concat());
    assert_eq!(ran.code, 0, "{ran:?}");
    let json = ran.json();
    assert_eq!(json.as_array().map(Vec::len), Some(2), "{json}");
    for (report, size) in json.as_array().unwrap().iter().zip([8, 1 << 20]) {
        assert_eq!((&report["zero_copy"], &report["size"]), (&json!(true), &json!(size)), "{json}");
        assert_eq!(report["iters"], json!(400), "{json}");
        positive(report, &["/ratio_p50", "/floor_rtt_ns/p50", "/rtt_ns/min", "/rtt_ns/p99_9"]);
    }
    nothing_is_left(&folder);
    let copied = folder.run(&["lat", "--iters", "40", "--rounds", "1", "--json"]);
    assert_eq!(copied.json()["zero_copy"], json!(false), "{copied:?}");
}

#[test]
fn bw_hands_over_buffers_and_leaves_nothing_behind() {
    let folder = Folder::new();
    let few = ["--iters", "2000", "--rounds", "2", "--json"];
    let ran = folder.run(&[&["bw", "--zero-copy", "--size", "4k"][..], &few].concat());
    assert_eq!(ran.code, 0, "{ran:?}");
    let report = ran.json();
    assert_eq!((&report["zero_copy"], &report["size"]), (&json!(true), &json!(4096)), "{report}");
    assert_eq!(report["messages"], json!(2000), "{report}");
    positive(&report, &["/messages_per_s", "/bytes_per_s", "/floor_bytes_per_s", "/ratio"]);
    nothing_is_left(&folder);
}

#[test]
fn the_ends_may_be_started_apart() {
    for command in ["lat", "bw"] {
        let folder = Folder::new();
        let listening = listen(&folder, command, &["--zero-copy", "--size", "64k"]);
        let args = [command, "--connect", "demo", "--zero-copy", "--size", "64,64k", "--json"];
        let ran = folder.run(&[&args[..], &["--iters", "300", "--rounds", "1"]].concat());
        assert_eq!(ran.code, 0, "{command}: {ran:?}");
        assert_eq!(ran.json()[1]["zero_copy"], json!(true), "{command}: {ran:?}");
        let listened = listening.ran();
        assert_eq!(listened.code, 0, "{command}: {listened:?}");
        nothing_is_left(&folder);
    }
}

/// Whoever connects is told what to do, and the other end goes on listening for somebody who does that.
#[test]
fn one_end_alone_hands_over_nothing() {
    for command in ["lat", "bw"] {
        let connect = |folder: &Folder, more: &[&str]| {
            let few = ["--iters", "300", "--rounds", "1"];
            folder.run(&[&[command, "--connect", "demo"], more, &few].concat())
        };
        let folder = Folder::new();
        let mut copies = listen(&folder, command, &[]);
        let ran = connect(&folder, &["--zero-copy"]);
        assert_eq!(ran.code, 2, "{command}: {ran:?}");
        assert!(ran.err.contains("start it with --zero-copy too"), "{command}: {ran:?}");
        assert!(ran.out.is_empty() && copies.runs(), "{command}: {ran:?}");
        assert_eq!(connect(&folder, &[]).code, 0, "{command}");
        assert_eq!(copies.ran().code, 0, "{command}");

        let mut lends = listen(&folder, command, &["--zero-copy"]);
        let ran = connect(&folder, &[]);
        assert_eq!(ran.code, 2, "{command}: {ran:?}");
        assert!(ran.err.contains("started with --zero-copy; say it here too"), "{ran:?}");
        assert!(ran.out.is_empty() && lends.runs(), "{command}: {ran:?}");
        assert_eq!(connect(&folder, &["--zero-copy"]).code, 0, "{command}");
        assert_eq!(lends.ran().code, 0, "{command}");
        nothing_is_left(&folder);
    }
}

#[test]
fn sizes_that_no_buffer_has() {
    for command in ["lat", "bw"] {
        refused(&[command, "--zero-copy", "--size", "64,12"], "a multiple of 8, which 12 is not");
        refused(&[command, "--zero-copy", "--size", "9m"], "--size");
        refused(&[command, "--zero-copy", "--listen", "demo", "--size", "7"], "a multiple of 8");
        let folder = Folder::new();
        let mut listening = listen(&folder, command, &["--zero-copy", "--size", "4k"]);
        let ran = folder.run(&[command, "--connect", "demo", "--zero-copy", "--size", "64,8k"]);
        assert_eq!(ran.code, 2, "{command}: {ran:?}");
        assert!(ran.err.contains("buffers of up to 4096 bytes"), "{command}: {ran:?}");
        assert!(ran.err.contains("start the listening end with --size 8192"), "{command}: {ran:?}");
        assert!(listening.runs(), "{command}: it waits for somebody else");
    }
}
