//! What Rust code may not contain, by room.

use crate::rule::{self, Finding};
use crate::source::{Source, Tests, item_end, words_in};
use crate::tree::Tree;

const MEMBERS: &[&str] = &["layouts/", "dataplane/", "hostshim/", "tools/", "tests/", "benches/"];

pub(crate) fn check(tree: &Tree) -> Vec<Finding> {
    let mut findings = Vec::new();
    for source in tree.sources() {
        if !MEMBERS.iter().any(|member| source.path.starts_with(member)) {
            continue;
        }
        let core =
            source.path.starts_with("layouts/src/") || source.path.starts_with("dataplane/src/");
        if core {
            findings.extend(no_std(source));
            findings.extend(alloc(source));
            findings.extend(atomics_door(source));
            findings.extend(unsafe_fence(source));
        }
        if source.path.starts_with("dataplane/src/") {
            findings.extend(hot(source));
        }
        if !source.path.starts_with("tests/") && !source.path.starts_with("benches/") {
            findings.extend(barrier(source));
            findings.extend(side_door(source));
            findings.extend(string_error(source));
        }
        findings.extend(static_mut(source));
        findings.extend(lint_group(source));
        findings.extend(ignored_test(source));
    }
    findings
}

/// One finding per word of `words` outside of test items.
fn ban(source: &Source, words: &[&str], rule: &'static str, why: &str) -> Vec<Finding> {
    let mut found = Vec::new();
    for word in words {
        for at in source.words(word, Tests::Skip) {
            let why = format!("`{word}`: {why}");
            found.push(Finding::new(&source.path, source.line_of(at), rule, why));
        }
    }
    found
}

fn static_mut(source: &Source) -> Vec<Finding> {
    let mut found = Vec::new();
    for at in source.words("static", Tests::Search) {
        // The lifetime in `&'static mut T` is no such thing.
        if source.code[..at].ends_with('\'') {
            continue;
        }
        let behind = source.code[at + 6..].trim_start();
        if words_in(behind, "mut").first() == Some(&0) {
            let why = "`static mut`: hold the state in a value that its owner passes on";
            found.push(Finding::new(&source.path, source.line_of(at), rule::STATIC_MUT, why));
        }
    }
    found
}

/// The two core crates are no_std in every build, tests included.
fn no_std(source: &Source) -> Vec<Finding> {
    if !source.path.ends_with("src/lib.rs") || source.code.contains("#![no_std]") {
        return Vec::new();
    }
    vec![Finding::new(
        &source.path,
        1,
        rule::NO_STD,
        "missing `#![no_std]` (a cfg_attr does not count)",
    )]
}

fn alloc(source: &Source) -> Vec<Finding> {
    let mut words =
        vec!["extern crate alloc", "extern crate std", "std::", "alloc::", "Box", "Rc", "Arc"];
    words.extend([
        "format!",
        "println!",
        "eprintln!",
        "vec!",
        "HashMap",
        "BTreeMap",
        "thread_local!",
    ]);
    // heapless has its own Vec and String.
    if !source.code.contains("heapless::") {
        words.extend(["Vec", "String"]);
    }
    ban(source, &words, rule::ALLOC, "this crate neither allocates nor formats nor knows std")
}

fn hot(source: &Source) -> Vec<Finding> {
    let why = "no dynamic dispatch and no floats in the data plane: use a type parameter, or integers with a unit";
    ban(source, &["dyn", "f32", "f64"], rule::HOT, why)
}

fn atomics_door(source: &Source) -> Vec<Finding> {
    if source.path == "dataplane/src/sync.rs" || source.path.starts_with("dataplane/src/sync/") {
        return Vec::new();
    }
    let why = "take atomics from `dataplane::sync`, or loom cannot see them";
    ban(
        source,
        &["sync::atomic", "loom::sync", "loom::cell", "UnsafeCell"],
        rule::ATOMICS_DOOR,
        why,
    )
}

/// Elsewhere, what the door offers is taken through the door; other atomics are clippy's business.
fn side_door(source: &Source) -> Vec<Finding> {
    let mut found = Vec::new();
    if source.path.starts_with("dataplane/") || source.path.starts_with("layouts/") {
        return found;
    }
    for at in source.words("sync::atomic", Tests::Skip) {
        let end = source.code[at..].find(';').map_or(source.code.len(), |end| at + end);
        for word in ["AtomicU64", "fence"] {
            if !words_in(&source.code[at..end], word).is_empty() {
                let why = format!(
                    "`{word}`: take it from `spinwire_dataplane::sync`, the one door to atomics"
                );
                found.push(Finding::new(&source.path, source.line_of(at), rule::ATOMICS_DOOR, why));
            }
        }
    }
    found
}

fn barrier(source: &Source) -> Vec<Finding> {
    let rooms =
        ["dataplane/src/raw/", "dataplane/src/raw.rs", "hostshim/src/raw/", "hostshim/src/raw.rs"];
    if rooms.iter().any(|room| source.path.starts_with(room)) {
        return Vec::new();
    }
    let words = [
        "fence(",
        "compiler_fence(",
        "read_volatile",
        "write_volatile",
        "asm!",
        "global_asm!",
        "naked_asm!",
    ];
    let why = "fences, volatile accesses and inline assembly live in `raw/`, with one meaning each";
    let mut found = Vec::new();
    for word in words {
        for at in source.words(word, Tests::Skip) {
            let before = source.code[..at].trim_end();
            // To fence off a process is another thing.
            if word == "fence(" && (before.ends_with('.') || before.ends_with("fn")) {
                continue;
            }
            let why = format!("`{word}`: {why}");
            found.push(Finding::new(&source.path, source.line_of(at), rule::BARRIER, why));
        }
    }
    found
}

/// In the core, blocks and impls that are unsafe stand in `raw/` (dataplane) and `pod.rs` (layouts) only.
fn unsafe_fence(source: &Source) -> Vec<Finding> {
    let rooms = ["dataplane/src/raw/", "dataplane/src/raw.rs", "layouts/src/pod.rs"];
    if rooms.iter().any(|room| source.path.starts_with(room)) {
        return Vec::new();
    }
    let mut found = Vec::new();
    for at in source.words("unsafe", Tests::Skip) {
        let behind = source.code[at + 6..].trim_start();
        if behind.starts_with('{') || behind.starts_with("impl") {
            let why = "unsafe code of the core stands in `raw/` (dataplane) or `pod.rs` (layouts)";
            found.push(Finding::new(&source.path, source.line_of(at), rule::UNSAFE_FENCE, why));
        }
    }
    found
}

/// `Result<_, String>` and its like as the answer of a public function.
fn string_error(source: &Source) -> Vec<Finding> {
    let mut found = Vec::new();
    for at in source.words("Result<", Tests::Skip) {
        let function = words_in(&source.code[..at], "fn").pop();
        let head = function.map_or("", |start| source.code[..start].trim_end());
        if !["pub", "pub const", "pub unsafe"].iter().any(|public| head.ends_with(public)) {
            continue;
        }
        let open = at + "Result".len();
        let Some(close) = closing_angle(&source.code, open) else {
            continue;
        };
        let inside = &source.code[open + 1..close];
        let Some(error) = last_argument(inside) else {
            continue;
        };
        if matches!(error, "String" | "&'static str" | "&str" | "()")
            || error.starts_with("Box<dyn")
        {
            let why = format!("`{error}` as an error: use a small Copy enum with Display");
            found.push(Finding::new(&source.path, source.line_of(at), rule::STRING_ERROR, why));
        }
    }
    found
}

fn closing_angle(code: &str, open: usize) -> Option<usize> {
    let (mut depth, bytes) = (0_usize, code.as_bytes());
    for (at, byte) in bytes.iter().enumerate().skip(open) {
        match byte {
            b'<' => depth += 1,
            b'>' if bytes[at - 1] != b'-' => {
                depth -= 1;
                if depth == 0 {
                    return Some(at);
                }
            }
            b'{' | b';' if depth == 1 => return None,
            _ => {}
        }
    }
    None
}

fn last_argument(inside: &str) -> Option<&str> {
    let (mut depth, mut comma) = (0_i32, None);
    for (at, c) in inside.replace("->", "  ").char_indices() {
        match c {
            '<' | '(' | '[' => depth += 1,
            '>' | ')' | ']' => depth -= 1,
            ',' if depth == 0 => comma = Some(at),
            _ => {}
        }
    }
    comma.map(|at| inside[at + 1..].trim()).filter(|last| !last.is_empty())
}

/// `allow(clippy::pedantic)` and its like: single lints are relaxed by name.
fn lint_group(source: &Source) -> Vec<Finding> {
    const GROUPS: &[&str] = &[
        "clippy::all",
        "clippy::cargo",
        "clippy::complexity",
        "clippy::correctness",
        "clippy::nursery",
        "clippy::pedantic",
        "clippy::perf",
        "clippy::restriction",
        "clippy::style",
        "clippy::suspicious",
        "warnings",
        "unused",
    ];
    let mut found = Vec::new();
    for opener in ["allow(", "expect("] {
        for at in words_in(&source.code, opener) {
            let is_attribute = source.code[..at].trim_end().ends_with(['[', ',', '(']);
            let end = item_end(&source.code[..], at);
            let list = source.code[at..end].split(']').next().unwrap_or_default();
            for group in GROUPS.iter().filter(|_| is_attribute) {
                if words_in(list, group)
                    .iter()
                    .any(|hit| !list[hit + group.len()..].starts_with("::"))
                {
                    let why = format!(
                        "`{group}` relaxes a whole group: name the single lint and its reason"
                    );
                    found.push(Finding::new(
                        &source.path,
                        source.line_of(at),
                        rule::LINT_GROUP,
                        why,
                    ));
                }
            }
        }
    }
    found
}

/// A test that does not run, or that returns early with a shrug.
fn ignored_test(source: &Source) -> Vec<Finding> {
    let mut found = Vec::new();
    for (at, _) in source.code.match_indices("#[ignore") {
        let why = "`#[ignore]`: make it run everywhere, or make it a separate command that the report names";
        found.push(Finding::new(&source.path, source.line_of(at), rule::IGNORED_TEST, why));
    }
    found
}
