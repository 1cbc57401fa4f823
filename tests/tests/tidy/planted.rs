//! Sins, at least one for each rule, and innocent text that looks like them.
//!
//! `sins.txt` holds one case after the other: `== rule path:line` says what must fire and where, `-- path` starts a file,
//! and `@n text` stands for n equal lines.

use std::collections::BTreeMap;

use serde_json::json;

use crate::manifest;
use crate::rule::{self, Finding};

/// One planted sin: the files, the rule that must fire, and where.
pub(crate) struct Sin {
    pub(crate) rule: &'static str,
    pub(crate) at: (&'static str, usize),
    pub(crate) files: Vec<(&'static str, String)>,
}

/// Every case of `sins.txt`.
pub(crate) fn sins() -> Vec<Sin> {
    let mut sins: Vec<Sin> = Vec::new();
    for line in include_str!("sins.txt").lines().skip_while(|line| !line.starts_with("==")) {
        if let Some(head) = line.strip_prefix("== ") {
            let (rule, place) = head.split_once(' ').expect("a rule and a place");
            let (path, line) = place.split_once(':').expect("path:line");
            let at = (path, line.parse().expect("a line number"));
            sins.push(Sin { rule, at, files: Vec::new() });
            continue;
        }
        let sin = sins.last_mut().expect("a case has begun");
        if let Some(path) = line.strip_prefix("-- ") {
            sin.files.push((path, String::new()));
            continue;
        }
        let text = &mut sin.files.last_mut().expect("a file has begun").1;
        let (count, line) = match line.strip_prefix('@').and_then(|rest| rest.split_once(' ')) {
            Some((count, line)) => (count.parse().expect("a count"), line),
            None => (1, line),
        };
        text.push_str(&format!("{line}\n").repeat(count));
    }
    sins
}

/// None of this is a sin.
pub(crate) const INNOCENT: &[(&str, &str)] = &[
    (
        "dataplane/src/lib.rs",
        r#"//! Room of the `static mut` that we do not have, and of Vec and dyn in prose.
#![no_std]
#[cfg(test)]
extern crate std;
mod raw;
mod sync;
mod table {
    mod slab;
}
#[path = "odd/place.rs"]
mod place;
static MUTABLE: &'static str = "static mut A; fence(";
// SYNC(lane): pairs with the receiver
// SYNC(lane): pairs with the sender
// SYNC(name): this fence pairs with itself in the other process
pub unsafe fn f() -> Result<u8, Retry> {}
fn field(&'static mut self) -> Result<u8, &'static str> { self.fence() }
fn fence(&self) {}
#[cfg(loom)]
fn only_under_loom() {}
#[cfg(test)]
mod tests {
    fn f() { let v: Vec<String> = vec![]; unsafe { g() } }
}
"#,
    ),
    ("dataplane/src/raw/mod.rs", "//! Fences.\nmod barrier;\n"),
    ("dataplane/src/raw/barrier.rs", "//! Fences.\nfn f() { unsafe { fence(Acquire) } }\n"),
    ("dataplane/src/sync.rs", "//! The door.\npub use core::sync::atomic::AtomicU64;\n"),
    (
        "dataplane/src/table/slab.rs",
        "//! Slots; a possession, an obsession.\nfn f(a: heapless::Vec<u8, 4>) {}\n",
    ),
    ("dataplane/src/odd/place.rs", "//! By path.\n#[cfg(test)]\nmod cases;\n"),
    ("dataplane/src/odd/place/cases.rs", "//! Under cfg(test).\nfn f(a: Vec<u8>) {}\n"),
    (
        "dataplane/src/odd/cases.rs",
        "//! Lost.\n// tidy-allow(orphan): stands for a file of another tool\n",
    ),
    ("tests/tests/a/main.rs", "//! Cases.\nfn f() -> Result<(), String> {}\n"),
    ("tests/Cargo.toml", "[[bin]]\nname = \"x\"\npath = \"odd.rs\"\n"),
    ("tests/odd.rs", "//! Named by the manifest.\n"),
    ("dataplane/tests/ui/case.rs", "fn main() { static mut_free: u8 = 0; }\n"),
    ("README.md", "`tests/run` at your home, /usr/work/x, an issue of trust; 12 issues.\n"),
    (
        "benches/README.md",
        "# To the point: `here`\n[a](#to-the-point-here), [b](../README.md), [c](https://x.y/z#w)\n```\n[d](nowhere)\n```\n",
    ),
];

/// Findings of planted manifests, by the rule that must be among them.
pub(crate) fn manifest_sins() -> Vec<(&'static str, Vec<Finding>)> {
    let case = |package: &str, name: &str, kind: Option<&str>, target: Option<&str>| {
        let dependency = json!({ "name": name, "kind": kind, "target": target });
        let workspace = json!({ "packages": [{ "name": package, "dependencies": [dependency] }] });
        manifest::check(&workspace, &BTreeMap::new())
    };
    assert!(case("spinwire-dataplane", "loom", None, Some("cfg(loom)")).is_empty());
    assert!(case("spinwire-dataplane", "heapless", None, None).is_empty());
    assert!(case("spinwire-tests", "spinwire-hostshim", None, None).is_empty());
    let mut sins: Vec<(&'static str, Vec<Finding>)> = [
        (rule::DEPENDENCY, "spinwire-dataplane", "loom", None),
        (rule::DEPENDENCY, "spinwire-dataplane", "libc", None),
        (rule::DEPENDENCY, "spinwire-layouts", "heapless", None),
        (rule::DEPENDENCY, "spinwire-layouts", "bindgen", Some("build")),
        (rule::DIRECTION, "spinwire-layouts", "spinwire-dataplane", None),
        (rule::DIRECTION, "spinwire-dataplane", "spinwire-hostshim", None),
        (rule::DIRECTION, "spinwire-hostshim", "spinwire", None),
        (rule::DIRECTION, "spinwire", "spinwire-tests", Some("dev")),
        (rule::DIRECTION, "spinwire-benches", "spinwire-tests", None),
        (rule::DIRECTION, "spinwire-extra", "libc", None),
    ]
    .into_iter()
    .map(|(rule, package, name, kind)| (rule, case(package, name, kind, None)))
    .collect();
    let bare = "[package]\n[lints]\n\n[features]\n".to_owned();
    let texts = BTreeMap::from([("tools/Cargo.toml".to_owned(), bare)]);
    sins.push((rule::MANIFEST_LINTS, manifest::check(&json!({ "packages": [] }), &texts)));
    sins
}
