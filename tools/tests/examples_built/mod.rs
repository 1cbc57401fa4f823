//! The examples as cargo builds them, and processes that do not outlive the test that starts them.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::Value;

/// The program of each, by its name.
pub(crate) fn all() -> BTreeMap<String, PathBuf> {
    // The cargo that runs this test, if it is one that runs it.
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    // Where the caller tells the flags by which he has built all that is tested, the examples are there.
    let flags = std::env::var("SPINWIRE_CARGO_FLAGS");
    let what = flags
        .map_or_else(|_| "build --examples".to_owned(), |flags| format!("test --no-run {flags}"));
    let built = Command::new(cargo)
        .args(what.split_whitespace())
        .args(["--message-format=json", "--manifest-path"])
        .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("Cargo.toml"))
        .stderr(Stdio::inherit())
        .output()
        .unwrap();
    assert!(built.status.success(), "the examples do not build");
    let text = String::from_utf8(built.stdout).unwrap();
    let messages = text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    let examples = messages.filter(|message| message["target"]["kind"][0] == "example");
    let programs = examples.filter_map(|message| {
        let name = message["target"]["name"].as_str()?.to_owned();
        Some((name, PathBuf::from(message["executable"].as_str()?)))
    });
    programs.collect()
}

/// A program that is killed when the thread that starts it ends, however it ends: by setpriv(1) of Debian's util-linux, which becomes it.
pub(crate) fn ending_with_us(program: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL"]).arg(program);
    command
}
