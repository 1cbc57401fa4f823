//! Segments of processes that live, are stopped, or were killed.

use std::fs::{self, OpenOptions};
use std::os::unix::fs::FileExt;

use serde_json::Value;

use crate::rig::{Folder, Holder, Running};

/// Overwrites a part of a segment as a damaged or foreign build would have left it.
fn scribble(folder: &Folder, name: &str, offset: u64, bytes: &[u8]) {
    let file = OpenOptions::new().write(true).open(folder.file(name)).unwrap();
    file.write_all_at(bytes, offset).unwrap();
}

fn pids(segment: &Value) -> Vec<u64> {
    let processes = segment["processes"].as_array().unwrap().iter();
    processes.map(|process| process["pid"].as_u64().unwrap()).collect()
}

/// It is kept, whichever way one asks; and the answer names the process.
fn kept(folder: &Folder, name: &str, holder: &Holder, says: &str) {
    let ran = folder.run(&["rm", name]);
    assert_eq!(ran.code, 1, "{ran:?}");
    assert!(ran.out.contains(&holder.pid().to_string()), "{ran:?}");
    assert!(ran.out.contains(says), "{ran:?}");
    assert!(ran.out.contains("remedy: "), "{ran:?}");
    let ran = folder.run(&["rm", "--dead", "--json"]);
    assert_eq!(ran.code, 0, "what lives is no failure of a sweep: {ran:?}");
    assert_eq!(ran.action(name), "kept");
    assert!(folder.has(name));
}

#[test]
fn a_live_holder_is_shown_and_keeps_its_segment() {
    let folder = Folder::new();
    let holder = folder.holder("domain quotes");
    let segment = folder.ps("quotes");
    assert_eq!(segment["kind"], "domain", "{segment}");
    assert_eq!(segment["creator"]["pid"], holder.pid(), "{segment}");
    assert_eq!(segment["processes"][0]["life"], "alive", "{segment}");
    assert_eq!(pids(&segment), [u64::from(holder.pid())]);
    assert_eq!(segment["mapped_by"][0], holder.pid(), "{segment}");
    assert_eq!(segment["lanes"]["count"], 4, "{segment}");
    let words = folder.run(&["ps"]);
    assert!(words.out.contains("quotes") && words.out.contains("alive"), "{words:?}");
    kept(&folder, "quotes", &holder, "a live process is in it");
}

#[test]
fn a_stopped_holder_lives() {
    let folder = Folder::new();
    let holder = folder.holder("domain quotes");
    holder.signal("STOP");
    assert_eq!(folder.ps("quotes")["processes"][0]["life"], "stopped");
    kept(&folder, "quotes", &holder, "kill -CONT");
    holder.signal("CONT");
    holder.let_go();
}

#[test]
fn what_a_killed_holder_left_is_removed() {
    let folder = Folder::new();
    let holder = folder.holder("domain quotes");
    let pid = u64::from(holder.pid());
    holder.kill();
    let segment = folder.ps("quotes");
    assert_eq!(pids(&segment), [pid], "nobody has taken its slot back: {segment}");
    assert_eq!(segment["processes"][0]["life"], "dead", "{segment}");
    let ran = folder.run(&["rm", "--dead", "--dry-run", "--json"]);
    assert_eq!((ran.code, ran.action("quotes").as_str()), (0, "would_remove"));
    assert!(folder.has("quotes"), "a dry run does nothing");
    let ran = folder.run(&["rm", "--dead", "--json"]);
    assert_eq!((ran.code, ran.action("quotes").as_str()), (0, "removed"));
    assert!(!folder.has("quotes"));
}

#[test]
fn one_of_two_that_lives_is_enough() {
    let folder = Folder::new();
    let first = folder.holder("domain quotes");
    let second = folder.holder("domain quotes");
    assert_eq!(pids(&folder.ps("quotes")).len(), 2);
    first.kill();
    kept(&folder, "quotes", &second, "a live process is in it");
    second.kill();
    assert_eq!(folder.run(&["rm", "quotes"]).code, 0);
    assert!(!folder.has("quotes"));
}

#[test]
fn an_empty_domain_goes_by_its_name() {
    let folder = Folder::new();
    folder.holder("domain quotes").let_go();
    let ran = folder.run(&["rm", "quotes"]);
    assert_eq!(ran.code, 0, "{ran:?}");
    assert!(!folder.has("quotes"));
}

#[test]
fn another_version_that_is_in_use_is_kept() {
    let folder = Folder::new();
    let holder = folder.holder("domain quotes");
    // The layout hash.
    scribble(&folder, "quotes", 16, &[0x5a; 8]);
    let segment = folder.ps("quotes");
    assert_eq!(segment["kind"], "broken", "{segment}");
    assert!(segment["why"].as_str().unwrap().contains("layout_hash"), "{segment}");
    kept(&folder, "quotes", &holder, "has it mapped");
    holder.kill();
    assert_eq!(folder.run(&["rm", "quotes"]).code, 0);
    assert!(!folder.has("quotes"));
}

#[test]
fn an_earlier_boot_left_nobody_alive() {
    let folder = Folder::new();
    let holder = folder.holder("domain quotes");
    // The boot id; the process itself lives on, and has it mapped.
    scribble(&folder, "quotes", 32, &[0x5a; 16]);
    assert_eq!(folder.ps("quotes")["processes"][0]["life"], "dead");
    kept(&folder, "quotes", &holder, "has it mapped");
    holder.kill();
    assert_eq!(folder.run(&["rm", "--dead"]).code, 0);
    assert!(!folder.has("quotes"));
}

#[test]
fn a_segment_that_was_cut_off_is_removed_once_nobody_has_it() {
    for bytes in [0, 12, 100, 4096, 8192] {
        let folder = Folder::new();
        folder.holder("domain quotes").kill();
        let file = OpenOptions::new().write(true).open(folder.file("quotes")).unwrap();
        file.set_len(bytes).unwrap();
        assert_eq!(folder.ps("quotes")["kind"], "broken", "{bytes}");
        let ran = folder.run(&["rm", "--dead", "--json"]);
        assert_eq!(ran.action("quotes"), "removed", "{bytes}: {ran:?}");
    }
}

#[test]
fn every_word_of_the_tables_may_be_nonsense() {
    // Each runs many commands, one after the other.
    std::thread::scope(|scope| {
        for pattern in [0xff_u8, 0x80, 0x02, 0x01] {
            scope.spawn(move || every_word_may_be(pattern));
        }
    });
}

fn every_word_may_be(pattern: u8) {
    let folder = Folder::new();
    folder.holder("domain quotes").kill();
    let whole = fs::read(folder.file("quotes")).unwrap();
    // Header, process table, endpoints, lanes: a line each time.
    for line in (0..whole.len().min(16 << 10)).step_by(64) {
        let offset = u64::try_from(line).unwrap();
        scribble(&folder, "quotes", offset, &[pattern; 64]);
        if line % 512 == 0 {
            let asked = ["ps --json", "ps", "rm --dead --dry-run"]
                .map(|args| folder.start(&args.split(' ').collect::<Vec<_>>()));
            let [json, ps, rm] = asked.map(Running::ran);
            assert_eq!(json.code, 0, "{pattern:#x} at {line}: {json:?}");
            assert_eq!(json.json().as_array().unwrap().len(), 1);
            assert_eq!(ps.code, 0, "{pattern:#x} at {line}");
            assert_eq!(rm.code, 0, "{pattern:#x} at {line}");
        }
        let end = (line + 64).min(whole.len());
        scribble(&folder, "quotes", offset, &whole[line..end]);
    }
}

#[test]
fn a_command_of_escape_sequences_does_not_reach_the_terminal() {
    let folder = Folder::new();
    let holder = folder.holder("domain quotes");
    let whole = fs::read(folder.file("quotes")).unwrap();
    // The command of the first process, which the test harness has named after the test.
    let at = 256 + 64;
    assert_ne!(whole[at], 0, "the command is not where it is looked for");
    scribble(&folder, "quotes", u64::try_from(at).unwrap(), b"\x1b[2J\x1b]0;x\x07\n\xff\0");
    let ran = folder.run(&["ps"]);
    assert_eq!(ran.code, 0);
    assert!(!ran.out.contains('\u{1b}') && !ran.out.contains('\u{7}'), "{ran:?}");
    assert!(ran.out.contains("\\u{1b}[2J"), "{ran:?}");
    holder.kill();
}
