//! Link proof: a static program without std, without an allocator and without libc runs the data plane.
//!
//! The program is `tests/nostd/src/main.rs`. It is linked with `-nostdlib -static`: a call to malloc, to a lock of libc or
//! to an unwinder would be an undefined symbol and the link would fail. Then it runs, and answers with its exit code.
#![allow(clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

mod nostd_build;

use std::path::PathBuf;
use std::process::Command;

use nostd_build::{Build, read_object};

fn build(profile: &str) -> PathBuf {
    let flags = [
        "-Crelocation-model=static",
        "-Clink-arg=-static",
        "-Clink-arg=-nostdlib",
        "-Clink-arg=-nostartfiles",
    ];
    Build { target: "--bin=link_proof", profile, flags: &flags }.run().join("link_proof")
}

fn prove(profile: &str) {
    let program = build(profile);
    let undefined = read_object("nm", &["--undefined-only"], &program);
    assert_eq!(undefined.trim(), "", "undefined symbols in a static program");
    let symbols = read_object("nm", &[], &program);
    for name in
        ["malloc", "calloc", "realloc", "free", "__rust_alloc", "__rdl_alloc", "pthread_mutex_lock"]
    {
        let found = symbols.lines().find(|line| line.split_whitespace().last() == Some(name));
        assert_eq!(found, None, "the program defines or reaches an allocator or a lock");
    }
    assert!(
        symbols.lines().any(|line| line.ends_with(" _start")),
        "the program has no entry of its own"
    );
    let headers = read_object("readelf", &["--program-headers", "--wide"], &program);
    assert!(!headers.contains("INTERP"), "the program wants a dynamic loader:\n{headers}");
    let status = Command::new(&program).env_clear().status().expect("the program starts");
    assert_eq!(
        status.code(),
        Some(0),
        "the exit code names the step that failed, see tests/nostd/src/main.rs"
    );
}

#[test]
fn debug_program_links_and_runs() {
    prove("dev");
}

#[test]
fn release_program_links_and_runs() {
    prove("release");
}
