//! Dependency direction: layouts <- dataplane <- hostshim <- tools, capi. Tests and benches see the first three, nothing sees
//! them, and nothing in Rust sees the C library. What libfabric declares is seen by hostshim alone.
//!
//! The facts come from `cargo metadata`, so that renames, targets and workspace inheritance are seen as cargo sees them.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

use serde_json::Value;

use crate::rule::{self, Finding};

/// What a member may depend on in normal and build position. `None`: any crate that is not of this workspace.
struct Member {
    name: &'static str,
    folder: &'static str,
    ours: &'static [&'static str],
    foreign: Option<&'static [&'static str]>,
}

const LAYOUTS: &str = "spinwire-layouts";
const DATAPLANE: &str = "spinwire-dataplane";
const HOSTSHIM: &str = "spinwire-hostshim";
const OFI_SYS: &str = "spinwire-ofi-sys";

const MEMBERS: &[Member] = &[
    Member { name: LAYOUTS, folder: "layouts", ours: &[], foreign: Some(&["static_assertions"]) },
    Member {
        name: DATAPLANE,
        folder: "dataplane",
        ours: &[LAYOUTS],
        foreign: Some(&["heapless", "static_assertions"]),
    },
    Member {
        name: HOSTSHIM,
        folder: "hostshim",
        ours: &[LAYOUTS, DATAPLANE, OFI_SYS],
        foreign: None,
    },
    Member { name: OFI_SYS, folder: "hostshim/ofi-sys", ours: &[], foreign: None },
    Member {
        name: "spinwire-capi",
        folder: "hostshim/capi",
        ours: &[LAYOUTS, DATAPLANE, HOSTSHIM],
        foreign: Some(&["libc"]),
    },
    Member {
        name: "spinwire",
        folder: "tools",
        ours: &[LAYOUTS, DATAPLANE, HOSTSHIM],
        foreign: None,
    },
    Member {
        name: "spinwire-tests",
        folder: "tests",
        ours: &[LAYOUTS, DATAPLANE, HOSTSHIM],
        foreign: None,
    },
    Member {
        name: "spinwire-benches",
        folder: "benches",
        ours: &[LAYOUTS, DATAPLANE, HOSTSHIM],
        foreign: None,
    },
];

/// What cargo says about the workspace.
pub(crate) fn metadata(root: &Path) -> Value {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--no-deps", "--offline", "--format-version", "1"])
        .current_dir(root)
        .output()
        .expect("cargo runs");
    assert!(output.status.success(), "cargo metadata: {}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).expect("cargo metadata prints JSON")
}

/// The manifest of each member, as text.
pub(crate) fn texts(root: &Path) -> BTreeMap<String, String> {
    MEMBERS
        .iter()
        .map(|member| {
            let path = format!("{}/Cargo.toml", member.folder);
            let text = std::fs::read_to_string(root.join(&path)).unwrap_or_default();
            (path, text)
        })
        .collect()
}

pub(crate) fn check(metadata: &Value, texts: &BTreeMap<String, String>) -> Vec<Finding> {
    let mut findings = Vec::new();
    for package in metadata["packages"].as_array().expect("packages") {
        let name = package["name"].as_str().expect("name");
        let Some(member) = MEMBERS.iter().find(|member| member.name == name) else {
            let why = format!("`{name}` is no member of this workspace: they are fixed");
            findings.push(Finding::new("Cargo.toml", 0, rule::DIRECTION, why));
            continue;
        };
        for dependency in package["dependencies"].as_array().expect("dependencies") {
            findings.extend(judge(member, dependency));
        }
    }
    for (path, text) in texts {
        let inherits = text.split_once("[lints]").is_some_and(|(_, rest)| {
            rest.lines().map(str::trim).find(|line| !line.is_empty()) == Some("workspace = true")
        });
        if !inherits {
            let why =
                "missing `[lints]` with `workspace = true`: the strict list holds for every member";
            findings.push(Finding::new(path, 0, rule::MANIFEST_LINTS, why));
        }
    }
    findings
}

fn judge(member: &Member, dependency: &Value) -> Option<Finding> {
    let name = dependency["name"].as_str().expect("name");
    let kind = dependency["kind"].as_str().unwrap_or("normal");
    let target = dependency["target"].as_str().unwrap_or_default();
    let path = format!("{}/Cargo.toml", member.folder);
    let is_ours = name == "spinwire" || name.starts_with("spinwire-");
    if is_ours {
        if member.ours.contains(&name) {
            return None;
        }
        let why = format!(
            "{} may not see {name}: layouts <- dataplane <- hostshim <- tools; tests and benches see those, nothing sees them",
            member.name
        );
        return Some(Finding::new(&path, 0, rule::DIRECTION, why));
    }
    let foreign = member.foreign?;
    let for_loom = name == "loom" && target == "cfg(loom)";
    if kind == "dev" || for_loom || (kind == "normal" && foreign.contains(&name)) {
        return None;
    }
    let why = format!(
        "{} may not depend on {name} ({kind}): only on {}",
        member.name,
        foreign.join(", ")
    );
    Some(Finding::new(&path, 0, rule::DEPENDENCY, why))
}
