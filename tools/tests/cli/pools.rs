//! `spinwire pool`: pools of live, stopped and killed processes.

use std::fs;

use serde_json::Value;
use spinwire_dataplane::pool::{Description, PoolGeometry, Shape};
use spinwire_hostshim::plane::Plane;
use spinwire_hostshim::pool::{BufferPool, PoolConfig};
use spinwire_layouts::shm::DType;

use crate::arguments::refused;
use crate::rig::{Folder, Ran};

/// Holds a buffer that it writes, one that it reads and has described, one that is detached, and a large one.
pub(crate) fn hold(name: &str) {
    let geometry = PoolGeometry::new(4).class(4096, 8).large_class(1 << 20, 2);
    let pool = BufferPool::open_or_create(name, &PoolConfig { geometry, ..PoolConfig::default() })
        .unwrap();
    let mut memory = Plane::memory(pool.handle_bytes()).unwrap();
    let bump = Plane::arena(&mut memory);
    let handle = pool.handle(&bump).unwrap();
    let _written = handle.acquire(100).unwrap();
    let mut tensor = handle.acquire(24).unwrap();
    let shape = Shape::contiguous(DType::F32, &[2, 3]).unwrap();
    let mut description = Description::new(DType::F32, shape);
    description.sequence = 42;
    description.producer[..6].copy_from_slice(b"camera");
    tensor.describe(&description).unwrap();
    tensor.copy_from(0, &[0x41; 24]).unwrap();
    let _read = tensor.publish().unwrap();
    handle.acquire(10).unwrap().detach().unwrap();
    let _large = handle.acquire(5000).unwrap();
    super::say_and_wait(|| {});
}

fn stat(folder: &Folder, name: &str) -> (i32, Value) {
    let ran = folder.run(&["pool", "stat", name, "--buffers", "--json"]);
    (ran.code, ran.json())
}

fn id_of(stat: &Value, state: &str) -> String {
    let mut rows = stat["buffers"].as_array().unwrap().iter();
    rows.find(|row| row["state"] == state).unwrap()["id"].as_str().unwrap().to_owned()
}

#[test]
fn a_pool_is_made_shown_and_removed() {
    let folder = Folder::new();
    let ran =
        folder.run(&["pool", "create", "frames", "--class", "1Mx2", "--class", "4Kx16", "--json"]);
    assert_eq!(ran.code, 0, "{ran:?}");
    assert_eq!(ran.json()["slots"], 18, "{ran:?}");
    let ran = folder.run(&["pool", "create", "frames"]);
    assert_eq!(ran.code, 2);
    assert!(
        ran.err.contains("exists already; remedy") && ran.err.contains(": spinwire rm "),
        "{ran:?}"
    );
    let ran = folder.run(&["pool", "ls"]);
    assert!(ran.code == 0 && ran.out.contains("frames") && ran.out.contains("18"), "{ran:?}");
    assert_eq!(folder.run(&["pool", "ls", "--json"]).json()[0]["kind"], "pool");
    assert_eq!(folder.ps("frames")["classes"][0]["free"], 16);
    let ran = folder.run(&["pool", "stat", "frames"]);
    assert!(ran.code == 0 && ran.out.contains("0 of 16 handles"), "{ran:?}");
    let ran = folder.run(&["pool", "rm", "frames"]);
    assert!(ran.code == 0 && ran.out.contains("removed frames"), "{ran:?}");
    assert!(!folder.has("frames"));
    let ran = folder.run(&["pool", "rm", "frames"]);
    assert_eq!(ran.code, 1, "{ran:?}");
    assert_eq!(folder.run(&["pool", "ls"]).out, "No pools.\n");
}

#[test]
fn who_holds_what_is_shown() {
    let folder = Folder::new();
    let holder = folder.holder("pool frames");
    let (code, shown) = stat(&folder, "frames");
    assert_eq!(code, 0, "{shown}");
    let of_4k = &shown["classes"][0];
    assert_eq!(
        [&of_4k["written"], &of_4k["shared"], &of_4k["detached"], &of_4k["free"]],
        [1, 1, 1, 5],
        "{shown}"
    );
    assert_eq!(of_4k["used_bytes"], 134, "{shown}");
    assert_eq!(of_4k["slack_bytes"], 3 * 4096 - 134, "{shown}");
    assert_eq!(shown["classes"][1]["home"], "segment", "{shown}");
    let held = &shown["holders"][0];
    assert_eq!(held["pid"], holder.pid(), "{shown}");
    assert_eq!([&held["writes"], &held["reads"]], [2, 1], "{shown}");
    let words = folder.run(&["pool", "stat", "frames", "--buffers"]);
    assert!(words.out.contains("alive") && words.out.contains("detached"), "{words:?}");
    for heading in ["OLDEST", "AGE", "LEFT", "SLACK"] {
        assert!(words.out.contains(heading), "{heading}: {words:?}");
    }

    // All were taken just now, and one left; what nobody has has no age.
    let just_now = |age: &Value| age.as_u64().is_some_and(|seconds| seconds < 3600);
    assert!(just_now(&of_4k["oldest_s"]) && just_now(&held["oldest_s"]), "{shown}");
    for row in shown["buffers"].as_array().unwrap() {
        assert!(just_now(&row["age_s"]), "{row}");
        assert!(row["taken_unix_ns"].as_u64() >= shown["created_unix_ns"].as_u64(), "{row}");
        assert_eq!(just_now(&row["detached_age_s"]), row["state"] == "detached", "{row}");
    }

    // Its large buffer is part of it.
    let listed = folder.run(&["ps", "--json"]).json();
    let buffer = listed.as_array().unwrap().iter().find(|row| row["kind"] == "buffer").unwrap();
    assert_eq!(buffer["pool"], "frames", "{buffer}");
    let ran = folder.run(&["rm", buffer["name"].as_str().unwrap()]);
    assert!(ran.code == 1 && ran.out.contains("large buffer of the pool frames"), "{ran:?}");
    holder.let_go();
}

#[test]
fn a_buffer_is_dumped_as_any_reader_sees_it() {
    let folder = Folder::new();
    let holder = folder.holder("pool frames");
    let (_, shown) = stat(&folder, "frames");
    let dump = |id: &str, more: &[&str]| -> Ran {
        let args: Vec<&str> = ["pool", "dump", "frames", id].iter().chain(more).copied().collect();
        folder.run(&args)
    };
    let id = id_of(&shown, "shared");
    let json = dump(&id, &["--json"]).json();
    assert_eq!(json["description"]["shape"], serde_json::json!([2, 3]), "{json}");
    assert_eq!(json["description"]["producer"], "camera", "{json}");
    assert_eq!(json["bytes_hex"], "41".repeat(24), "{json}");
    assert_eq!(json["references"], 1, "{json}");
    assert!(json["age_s"].as_u64().is_some_and(|seconds| seconds < 3600), "{json}");
    let words = dump(&id, &[]);
    assert!(
        words.out.contains("f32 [2, 3]") && words.out.contains("|") | words.out.contains("AAAA"),
        "{words:?}"
    );
    assert!(words.out.contains(", taken ") && words.out.contains("s ago\n"), "{words:?}");
    assert_eq!(dump(&id, &["--raw"]).out, "A".repeat(24));
    assert_eq!(dump(&json["raw"].to_string(), &["--raw"]).out, "A".repeat(24), "by its number");
    let busy = dump(&id_of(&shown, "written"), &[]);
    assert!(busy.code == 2 && busy.err.contains("busy"), "{busy:?}");
    let stale = dump("7.999", &[]);
    assert!(stale.code == 2 && stale.err.contains("stale"), "{stale:?}");
    assert_eq!(
        stat(&folder, "frames").1["holders"].as_array().unwrap().len(),
        1,
        "it left nothing behind"
    );
    holder.let_go();
}

#[test]
fn what_a_killed_process_held_is_taken_back() {
    let folder = Folder::new();
    let holder = folder.holder("pool frames");
    holder.kill();
    let (code, shown) = stat(&folder, "frames");
    assert_eq!((code, &shown["holders"][0]["life"]), (1, &Value::from("dead")), "{shown}");
    let words = folder.run(&["pool", "stat", "frames"]);
    assert!(words.out.contains("remedy: spinwire pool gc frames"), "{words:?}");
    let json = folder.run(&["pool", "gc", "frames", "--json"]).json();
    assert_eq!(
        [&json[0]["processes"], &json[0]["references"], &json[0]["buffers"], &json[0]["detached"]],
        [1, 3, 3, 1],
        "{json}"
    );
    let again = folder.run(&["pool", "gc"]);
    assert!(
        again.code == 0
            && again.out.contains("frames: nothing to take back; 1 detached buffer belongs to"),
        "{again:?}"
    );
    assert_eq!(stat(&folder, "frames").0, 0);
    let ran = folder.run(&["rm", "--dead", "--json"]);
    assert_eq!((ran.code, ran.action("frames").as_str()), (0, "removed"), "{ran:?}");
    assert_eq!(folder.run(&["ps"]).out, "No segments.\n", "large buffers go with their pool");
}

#[test]
fn what_was_left_for_nobody_is_shown_and_freed_when_told() {
    let folder = Folder::new();
    let holder = folder.holder("pool frames");
    let detached = |shown: &Value| -> Value {
        let rows = shown["buffers"].as_array().unwrap();
        rows.iter().find(|row| row["state"] == "detached").unwrap().clone()
    };
    let shown = stat(&folder, "frames").1;
    assert_eq!(detached(&shown)["detached_by_pid"], holder.pid(), "{shown}");
    assert_eq!(detached(&shown)["detached_by_life"], "alive", "{shown}");
    let described = shown["buffers"].as_array().unwrap().iter().find(|r| r["state"] == "shared");
    let description = &described.unwrap()["description"];
    assert_eq!([&description["producer"], &description["dtype"]], ["camera", "f32"], "{shown}");
    let words = folder.run(&["pool", "stat", "frames", "--buffers"]);
    assert!(words.out.contains("f32 [2, 3] #42 by camera"), "{words:?}");

    let gc = |more: &[&str]| {
        folder.run(&[&["pool", "gc", "frames", "--detached", "--untouched", "0"], more].concat())
    };
    let ran = gc(&["--json"]);
    assert_eq!(ran.json()[0]["freed"], serde_json::json!([]), "its handle is open: {ran:?}");
    holder.kill();
    let id = detached(&shown)["id"].as_str().unwrap().to_owned();
    let ran = folder.run(&["pool", "gc", "frames"]);
    assert!(ran.code == 0 && ran.out.contains("pool gc --detached frames"), "told how: {ran:?}");
    let words = folder.run(&["pool", "stat", "frames", "--buffers"]);
    assert!(words.out.contains("(left)") && words.out.contains("gc --detached"), "{words:?}");
    let ran = gc(&[]);
    assert!(
        ran.code == 0 && ran.out.contains(&format!("1 detached buffer freed: {id}")),
        "{ran:?}"
    );
    assert_eq!(stat(&folder, "frames").1["buffers"], serde_json::json!([]));
    assert!(gc(&[]).out.contains("nothing to take back"));
    refused(&["pool", "gc", "--detached"], "<NAMES>");
    refused(&["pool", "gc", "frames", "--untouched", "1"], "--detached");
}

#[test]
fn a_pool_that_cannot_be_looked_at_does_not_hide_the_others() {
    let folder = Folder::new();
    assert_eq!(folder.run(&["pool", "create", "good"]).code, 0);
    let ran = folder.run(&["pool", "gc", "absent", "good"]);
    let told = ran.out.contains("does not exist; remedy") && ran.out.contains("good: nothing");
    assert!(ran.code == 1 && told, "{ran:?}");
    let ran = folder.run(&["pool", "gc", "absent"]);
    assert!(ran.code == 2 && ran.err.contains("does not exist; remedy"), "{ran:?}");
}

#[test]
fn a_look_at_a_large_buffer_makes_none() {
    let folder = Folder::new();
    let ran = folder.run(&["pool", "create", "frames", "--class", "4Kx1", "--large", "1Mx1"]);
    assert_eq!(ran.code, 0, "{ran:?}");
    let ran = folder.run(&["pool", "dump", "frames", "1.1"]);
    assert_eq!(ran.code, 2, "{ran:?}");
    assert!(ran.err.contains("stale") || ran.err.contains("no segment"), "{ran:?}");
    let listed = folder.run(&["ps", "--json"]).json();
    assert_eq!(listed.as_array().unwrap().len(), 1, "{listed}");
}

#[test]
fn a_pool_that_somebody_has_open_is_kept_unless_told() {
    let folder = Folder::new();
    let holder = folder.holder("pool frames");
    let pid = holder.pid().to_string();
    for args in [&["pool", "rm", "frames"][..], &["rm", "frames"]] {
        let ran = folder.run(args);
        assert!(ran.code == 1 && ran.out.contains(&pid) && ran.out.contains("remedy"), "{ran:?}");
        assert!(folder.has("frames"));
    }
    let ran = folder.run(&["pool", "rm", "frames", "--force", "--dry-run"]);
    assert!(ran.code == 0 && ran.out.contains("would remove") && folder.has("frames"), "{ran:?}");
    let ran = folder.run(&["pool", "rm", "frames", "--force", "--json"]);
    assert_eq!((ran.code, ran.action("frames").as_str()), (0, "removed"), "{ran:?}");
    assert_eq!(folder.run(&["ps"]).out, "No segments.\n");
    holder.let_go();
}

#[test]
fn a_large_buffer_without_its_pool_is_left_over() {
    let folder = Folder::new();
    let holder = folder.holder("pool frames");
    fs::remove_file(folder.file("frames")).unwrap();
    let listed = folder.run(&["ps", "--json"]).json();
    let name = listed[0]["name"].as_str().unwrap().to_owned();
    assert_eq!(
        (&listed[0]["kind"], &listed[0]["pool"]),
        (&Value::from("buffer"), &Value::Null),
        "{listed}"
    );
    let ran = folder.run(&["rm", "--dead", "--json"]);
    assert_eq!(ran.action(&name), "kept", "somebody has it mapped: {ran:?}");
    holder.kill();
    let ran = folder.run(&["rm", "--dead", "--json"]);
    assert_eq!(ran.action(&name), "removed", "{ran:?}");
}

#[test]
fn what_is_no_pool_is_told_so() {
    let folder = Folder::new();
    let holder = folder.holder("domain market");
    for args in [
        &["pool", "stat", "market"][..],
        &["pool", "gc", "market"],
        &["pool", "dump", "market", "1.1"],
    ] {
        let ran = folder.run(args);
        assert!(ran.code == 2 && ran.err.contains("this is a domain, not a pool"), "{ran:?}");
    }
    let ran = folder.run(&["pool", "rm", "market", "--force"]);
    assert!(ran.code == 1 && ran.out.contains("no pool") && folder.has("market"), "{ran:?}");
    let ran = folder.run(&["pool", "stat", "absent"]);
    assert!(ran.code == 2 && ran.err.contains("does not exist; remedy"), "{ran:?}");
    holder.let_go();
    refused(&["pool", "create", "x", "--class", "4K"], "4Kx1024");
    refused(&["pool", "create", "x", "--class", "0x1"], "no size");
    refused(&["pool", "create", "x", "--handles", "33"], "--handles: 33");
    refused(&["pool", "create", "a/b"], "'/'");
}
