//! Real processes that are killed and stopped at random moments, while they exchange checked messages.
//!
//! ```text
//!   test ---> survivor ---> child of seat 0, 1, 2 ..      each arrow starts this very binary again, in another role
//!                hub    <==== RDM ====>  rdm-SEAT
//!                line-SEAT <= MSG ====>  msg-SEAT         every message tells by itself whether it is the right one
//! ```
//!
//! The test proper only chooses a folder for segments, waits, and looks that nothing is left in it.
//!
//! `SPINWIRE_KILLS=N` sets how many children are killed; 1000 where it is not set.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    clippy::wildcard_enum_match_arm,
    reason = "a test stops at the first thing that is not as expected, whatever it is"
)]
#![allow(clippy::print_stdout, reason = "the distribution of the times is for those who run it")]

mod child;
#[path = "../host_process/mod.rs"]
mod host_process;
mod pause;
mod survivor;
mod traffic;
mod twins;

use host_process::{Folder, again, lines, role};

/// Runs the role `name` of the test of that name in a folder for segments of its own, which is empty at the end.
fn run_alone(test: &str, first_role: &str) {
    let folder = Folder::new();
    let mut process =
        again(test, first_role).env("SPINWIRE_SHM_DIR", folder.path()).spawn().unwrap();
    for line in lines(&mut process) {
        println!("{line}");
    }
    assert!(process.wait().unwrap().success(), "see above");
    assert_eq!(folder.names(), Vec::<String>::new(), "left behind");
}

#[test]
fn the_killed_take_nobody_with_them() {
    const NAME: &str = "the_killed_take_nobody_with_them";
    match role().as_deref() {
        None => run_alone(NAME, "survivor"),
        Some("survivor") => survivor::run(NAME),
        Some(child) => child::run(child),
    }
}

#[test]
fn the_creator_and_everybody_can_be_killed() {
    const NAME: &str = "the_creator_and_everybody_can_be_killed";
    match role().as_deref() {
        None => run_alone(NAME, "killer"),
        Some("killer") => twins::run(NAME),
        Some(twin) => twins::twin(twin),
    }
}

#[test]
fn a_stopped_process_is_waited_for() {
    const NAME: &str = "a_stopped_process_is_waited_for";
    match role().as_deref() {
        None => run_alone(NAME, "survivor"),
        Some("survivor") => pause::run(NAME),
        Some(child) => child::run(child),
    }
}
