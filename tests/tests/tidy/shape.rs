//! Sizes, names, orphans, pairs of notes, and the count of `unsafe`.

use core::cmp::Ordering;
use core::fmt::Write as _;
use std::collections::BTreeMap;

use crate::rule::{self, Finding};
use crate::source::{Source, Tests, closing, item_end, words_in};
use crate::tree::Tree;

const FILE_LINES_MAX: usize = 600;
const FN_LINES_MAX: usize = 70;
const VAGUE: &[&str] =
    &["util", "utils", "common", "misc", "helper", "helpers", "manager", "stuff"];

/// What the root folder may hold.
const TOP: &[&str] = &[
    ".cargo",
    ".ci",
    ".git",
    ".gitattributes",
    ".github",
    ".gitignore",
    "ARCHITECTURE.md",
    "CHANGELOG.md",
    "Cargo.lock",
    "Cargo.toml",
    "LICENSE-APACHE",
    "LICENSE-MIT",
    "README.md",
    "benches",
    "clippy.toml",
    "dataplane",
    "deny.toml",
    "hostshim",
    "layouts",
    "rust-toolchain.toml",
    "rustfmt.toml",
    "target",
    "tests",
    "tools",
];

pub(crate) fn check(tree: &Tree) -> Vec<Finding> {
    let mut findings = top_level(tree);
    findings.extend(lone_sync(tree));
    for source in tree.sources() {
        findings.extend(vague_name(&source.path));
        if !tree.is_reached(&source.path) {
            let why = "no `mod` and no target reaches this file: declare it or delete it";
            findings.push(Finding::new(&source.path, 0, rule::ORPHAN, why));
        }
        if source.path.starts_with("dataplane/tests/ui/") {
            continue;
        }
        findings.extend(file_length(source));
        findings.extend(fn_length(source));
        let only_tests = source.test_lines.iter().all(|in_test| *in_test);
        if !source.text.starts_with("//!") && (!only_tests || source.text.is_empty()) {
            let why = "the first lines say in `//!` what this room is for";
            findings.push(Finding::new(&source.path, 1, rule::ROOM_COMMENT, why));
        }
    }
    findings
}

fn top_level(tree: &Tree) -> Vec<Finding> {
    let written = |name: &str| name.ends_with(".svg") || name.ends_with(".hgrm");
    tree.top
        .iter()
        .filter(|name| !TOP.contains(&name.as_str()) && !written(name))
        .map(|name| {
            Finding::new(name, 0, rule::TOP_LEVEL, "the top level is fixed: find this a room")
        })
        .collect()
}

fn vague_name(path: &str) -> Vec<Finding> {
    path.split('/')
        .map(|part| part.trim_end_matches(".rs"))
        .filter(|part| VAGUE.contains(part))
        .map(|part| {
            Finding::new(
                path,
                0,
                rule::VAGUE_NAME,
                format!("`{part}` says nothing: use a noun of the field"),
            )
        })
        .collect()
}

/// Lines outside of test items. Files in `tests/tests` may grow: a list of cases is no harder to read for its length.
fn file_length(source: &Source) -> Vec<Finding> {
    if source.path.starts_with("tests/tests/") {
        return Vec::new();
    }
    let count = source.test_lines.iter().filter(|in_test| !**in_test).count();
    if count <= FILE_LINES_MAX {
        return Vec::new();
    }
    let why = format!("{count} lines without tests, the limit is {FILE_LINES_MAX}: split the room");
    vec![Finding::new(&source.path, 0, rule::FILE_LENGTH, why)]
}

/// Lines of code, from the `fn` to its closing brace; blank lines and comments are free.
fn fn_length(source: &Source) -> Vec<Finding> {
    let mut found = Vec::new();
    for at in source.words("fn", Tests::Search) {
        let head = source.code[at + 2..].trim_start();
        if !head.starts_with(|c: char| c.is_alphabetic() || c == '_' || c == '$') {
            continue;
        }
        let end = item_end(&source.code, at);
        let count = source.code[at..end].lines().filter(|line| !line.trim().is_empty()).count();
        if count > FN_LINES_MAX {
            let name: String =
                head.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
            let why = format!("`{name}` has {count} lines of code, the limit is {FN_LINES_MAX}");
            found.push(Finding::new(&source.path, source.line_of(at), rule::FN_LENGTH, why));
        }
    }
    found
}

/// `SYNC(tag)` in a comment marks one end of an ordering argument; the other end carries the same tag.
fn lone_sync(tree: &Tree) -> Vec<Finding> {
    let mut ends: BTreeMap<String, Vec<(&str, usize)>> = BTreeMap::new();
    for source in tree.sources().filter(|source| !source.path.starts_with("tests/tests/tidy/")) {
        for at in words_in(&source.comments, "SYNC(") {
            let open = at + "SYNC".len();
            let Some(close) = closing(&source.comments, open) else {
                continue;
            };
            let tag = source.comments[open + 1..close].trim().to_owned();
            // "SYNC(tag)" is how prose speaks of the habit; a fence can pair with the same line in another process.
            let rest = source.comments[close..].split("SYNC(").next().unwrap_or_default();
            let with_itself = rest.lines().take(3).any(|line| line.contains("pairs with itself"));
            if tag == "tag" || with_itself {
                continue;
            }
            ends.entry(tag).or_default().push((&source.path, source.line_of(at)));
        }
    }
    ends.iter()
        .filter(|(_, places)| places.len() < 2)
        .flat_map(|(tag, places)| places.iter().map(move |place| (tag, place)))
        .map(|(tag, (path, line))| {
            let why =
                format!("SYNC({tag}) has no other end: mark the load or store that it pairs with");
            Finding::new(path, *line, rule::LONE_SYNC, why)
        })
        .collect()
}

/// `unsafe` in code, per file, tests included; files without any are left out. Attributes (`#[unsafe(no_mangle)]`) do not
/// count.
pub(crate) fn unsafe_counts(tree: &Tree) -> BTreeMap<String, usize> {
    let count = |source: &Source| {
        let mut found = source.words("unsafe", Tests::Search);
        found.retain(|at| !source.code[*at..].starts_with("unsafe("));
        found.len()
    };
    tree.sources()
        .filter(|source| !source.path.starts_with("dataplane/tests/ui/"))
        .map(|source| (source.path.clone(), count(source)))
        .filter(|(_, count)| *count > 0)
        .collect()
}

pub(crate) fn print_counts(counts: &BTreeMap<String, usize>) -> String {
    let mut out = String::from("# `unsafe` per file. May only fall. Rewritten by BLESS=1.\n");
    for (path, count) in counts {
        writeln!(out, "{count:3} {path}").expect("a String takes all text");
    }
    out
}

pub(crate) fn parse_counts(text: &str) -> BTreeMap<String, usize> {
    let mut counts = BTreeMap::new();
    for line in
        text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'))
    {
        let (count, path) = line.split_once(' ').expect("a count, a blank and a path");
        counts.insert(path.trim().to_owned(), count.parse().expect("a number"));
    }
    counts
}

pub(crate) fn compare_counts(
    stored: &BTreeMap<String, usize>,
    now: &BTreeMap<String, usize>,
) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (path, count) in now {
        let before = stored.get(path).copied().unwrap_or(0);
        let why = match count.cmp(&before) {
            Ordering::Equal => continue,
            Ordering::Greater => {
                format!(
                    "{count} `unsafe`, the golden file has {before}: find a safe way, or bless it with its review"
                )
            }
            Ordering::Less => {
                format!("{count} `unsafe`, down from {before}: keep it so, run with BLESS=1")
            }
        };
        findings.push(Finding::new(path, 0, rule::UNSAFE_COUNT, why));
    }
    for path in stored.keys().filter(|path| !now.contains_key(*path)) {
        findings.push(Finding::new(
            path,
            0,
            rule::UNSAFE_COUNT,
            "no `unsafe` is left here: run with BLESS=1",
        ));
    }
    findings
}
