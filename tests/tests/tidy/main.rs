//! Tidy: the habits of this tree that neither rustc nor clippy can see.
//!
//! ```text
//!   files on disk ─┐                          ┌─ text.rs      words and paths in every text file
//!                  ├─> source.rs ─> tree.rs ──┼─ code.rs      what Rust code may not contain, and where
//!   planted sins ──┘   (lexer)     (modules)  ├─ shape.rs     sizes, names, orphans, lone SYNC tags
//!                                             ├─ links.rs     where documents lead to
//!                                             └─ manifest.rs  dependency direction, from cargo itself
//!   tests/run ───────────────────────────────── ci.rs        what it names, and what it says
//! ```
//!
//! A finding prints `file:line: [rule] what is wrong and what to do`. Where a rule is wrong for once, write
//! `// tidy-allow(rule): reason` on the line or the line above it.
//!
//! Invariant: every rule in [`rule::ALL`] has a planted sin in `planted.rs` that makes it fire. A rule that cannot fire
//! protects nothing.
#![allow(
    clippy::arithmetic_side_effects,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::string_slice,
    clippy::unwrap_used,
    reason = "a test that reads text: a panic is its way to fail, and the offsets come from the text itself"
)]

mod ci;
mod code;
mod links;
mod manifest;
mod planted;
mod rule;
mod shape;
mod source;
mod text;
mod tree;

use core::fmt::Write as _;
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use rule::Finding;
use tree::Tree;

/// The root of the workspace: the parent of this package.
fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the package has a parent").to_path_buf()
}

fn report(findings: &[Finding]) -> String {
    findings.iter().fold(String::new(), |mut out, finding| {
        writeln!(out, "{finding}").expect("a String takes all text");
        out
    })
}

/// Every rule about files, on the tree as it lies on disk.
fn check(tree: &Tree) -> Vec<Finding> {
    let mut findings = text::check(tree);
    findings.extend(code::check(tree));
    findings.extend(shape::check(tree));
    findings.extend(links::check(tree));
    findings.sort();
    findings.retain(|finding| !tree.allows(finding));
    findings
}

#[test]
fn tree_is_tidy() {
    let tree = Tree::read(&root());
    assert!(
        tree.sources().count() > 5,
        "the walk found next to nothing: it looks in the wrong place"
    );
    let findings = check(&tree);
    assert!(findings.is_empty(), "\n{}{} findings", report(&findings), findings.len());
}

#[test]
fn dependencies_point_one_way() {
    let findings = manifest::check(&manifest::metadata(&root()), &manifest::texts(&root()));
    assert!(findings.is_empty(), "\n{}", report(&findings));
}

/// The number of `unsafe` in each file may only fall. `BLESS=1` writes the counts of today.
#[test]
fn unsafe_counts_only_fall() {
    let tree = Tree::read(&root());
    let now = shape::unsafe_counts(&tree);
    let golden = root().join("tests/golden/unsafe_counts.txt");
    if std::env::var_os("BLESS").is_some_and(|value| value == "1") {
        fs::create_dir_all(golden.parent().expect("a golden file lies in a folder"))
            .expect("golden folder");
        fs::write(&golden, shape::print_counts(&now)).expect("golden file is writable");
        return;
    }
    let stored = fs::read_to_string(&golden).unwrap_or_default();
    let findings = shape::compare_counts(&shape::parse_counts(&stored), &now);
    assert!(findings.is_empty(), "\n{}", report(&findings));
}

/// Each rule fires on its planted sin, at the line that is marked, and nothing else fires there.
#[test]
fn every_rule_fires_on_its_sin() {
    let mut fired: BTreeMap<&str, u32> = BTreeMap::new();
    for sin in planted::sins() {
        let tree = Tree::from_texts(sin.files.iter().map(|(path, text)| (*path, text.as_str())));
        let findings = check(&tree);
        let hit = findings.iter().any(|finding| {
            finding.rule == sin.rule && (finding.path.as_str(), finding.line) == sin.at
        });
        assert!(hit, "[{}] did not fire at {:?}; found:\n{}", sin.rule, sin.at, report(&findings));
        let others = findings.iter().filter(|finding| finding.rule != sin.rule).count();
        assert_eq!(others, 0, "[{}] has company:\n{}", sin.rule, report(&findings));
        *fired.entry(sin.rule).or_default() += 1;
    }
    for (rule, findings) in planted::manifest_sins() {
        assert!(
            findings.iter().any(|finding| finding.rule == rule),
            "[{rule}] did not fire; found:\n{}",
            report(&findings)
        );
        *fired.entry(rule).or_default() += 1;
    }
    for rule in rule::ALL {
        assert!(fired.contains_key(rule), "no planted sin for [{rule}]: it may never fire");
    }
}

/// Text that only looks like a sin (in a string, in a comment, in a test module) draws nothing.
#[test]
fn innocent_text_draws_nothing() {
    let tree = Tree::from_texts(planted::INNOCENT.iter().copied());
    let findings = check(&tree);
    assert!(findings.is_empty(), "\n{}", report(&findings));
}

/// An excuse silences its own rule on its own line, and only with a reason.
#[test]
fn excuses_need_a_reason() {
    let sin = |excuse: &str| {
        let text = format!("//! Room.\n// tidy-allow(static-mut){excuse}\nstatic mut A: u8 = 0;\n");
        check(&Tree::from_texts([("hostshim/src/lib.rs", text.as_str())]))
    };
    assert!(sin(": a C library writes this word").is_empty());
    assert!(!sin("").is_empty(), "an excuse without a reason must not count");
    assert!(!sin(":").is_empty(), "an empty reason must not count");
}

/// The count golden refuses a rise, a new file and a fall that nobody wrote down.
#[test]
fn unsafe_count_golden_moves_one_way() {
    let stored =
        shape::parse_counts("# head\n  2 dataplane/src/raw/a.rs\n  1 dataplane/src/raw/b.rs\n");
    let case = |now: &[(&str, usize)]| {
        let now = now.iter().map(|(path, count)| ((*path).to_owned(), *count)).collect();
        shape::compare_counts(&stored, &now).len()
    };
    assert_eq!(case(&[("dataplane/src/raw/a.rs", 2), ("dataplane/src/raw/b.rs", 1)]), 0);
    assert_eq!(case(&[("dataplane/src/raw/a.rs", 3), ("dataplane/src/raw/b.rs", 1)]), 1);
    assert_eq!(case(&[("dataplane/src/raw/a.rs", 1), ("dataplane/src/raw/b.rs", 1)]), 1);
    assert_eq!(case(&[("dataplane/src/raw/a.rs", 2)]), 1, "a stale line must be blessed away");
    assert_eq!(
        case(&[
            ("dataplane/src/raw/a.rs", 2),
            ("dataplane/src/raw/b.rs", 1),
            ("dataplane/src/raw/c.rs", 1)
        ]),
        1
    );
    let printed = shape::print_counts(&stored);
    assert_eq!(shape::parse_counts(&printed), stored);
}
