//! `spinwire layout`: the layout checker, on our layouts and on those of others.
//!
//! | file | what is tried |
//! |---|---|
//! | [`compiled`] | programs in C with all that makes a layout hard: what a compiled program, `pahole`, DWARF and BTF say of them |
//! | [`random`] | the same for structures that a generator makes up |
//! | [`hostile`] | files that are cut off or have flipped bits |
//! | [`ours`] | `check`, `lock`, `header`, live segments; what is refused |

mod compiled;
mod hostile;
mod ours;
mod random;

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::Value;

use crate::rig::{Folder, Ran};

/// Says on standard error, past the test harness, what this machine does not allow to be checked. `tests/run` lists it.
fn not_run(what: &str, why: &str) {
    let line = format!("\n!! NOT RUN: {what}: {}\n", why.trim().replace('\n', "; "));
    std::io::stderr().write_all(line.as_bytes()).unwrap();
}

/// Whether a command is there; says so aloud where it is not.
fn has(command: &str, package: &str, what: &str) -> bool {
    let ran = Command::new(command).arg("--version").stdin(Stdio::null()).output();
    let there = ran.is_ok_and(|ran| ran.status.success());
    if !there {
        not_run(what, &format!("no {command}; remedy: apt-get install {package}"));
    }
    there
}

/// A folder in which things are compiled, and the command is run.
struct Bench(Folder);

impl Bench {
    fn new() -> Self {
        Self(Folder::new())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn write(&self, name: &str, text: impl AsRef<[u8]>) -> PathBuf {
        let path = self.path(name);
        fs::write(&path, text).unwrap();
        path
    }

    /// Runs a compiler or its like in the folder; what it prints.
    fn tool(&self, command: &str, args: &[&str]) -> String {
        let ran = Command::new(command).args(args).current_dir(self.0.path()).output();
        let ran = ran.unwrap_or_else(|e| panic!("{command}: {e}"));
        let err = String::from_utf8_lossy(&ran.stderr);
        assert!(ran.status.success(), "{command} {args:?}: {err}");
        String::from_utf8_lossy(&ran.stdout).into_owned()
    }

    /// `spinwire layout ..` in the folder.
    fn layout(&self, args: &[&str]) -> Ran {
        self.0.run_here(&[&["layout"], args].concat())
    }

    /// The types of a source, as JSON.
    fn dump(&self, args: &[&str]) -> Vec<Value> {
        let ran = self.layout(&[&["dump", "--json"], args].concat());
        assert_eq!(ran.code, 0, "{args:?}: {ran:?}");
        ran.json()["types"].as_array().unwrap().clone()
    }
}

/// The type of that name.
fn named<'a>(types: &'a [Value], name: &str) -> &'a Value {
    types.iter().find(|ty| ty["name"] == name).unwrap_or_else(|| panic!("no {name}"))
}

/// Offset and size of a member, in bits.
fn place(member: &Value) -> (u64, u64) {
    let bits = &member["bits"];
    if bits.is_null() {
        let number = |field: &str| member[field].as_u64().unwrap_or(0);
        return (8 * number("offset"), 8 * number("size"));
    }
    (bits["start"].as_u64().unwrap(), bits["count"].as_u64().unwrap())
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}
