//! The kernel's side of io_uring, as `layouts` has it, against those who know: the header of this machine, the type information of
//! the kernel that runs, and its own answer.
//!
//! ```text
//!   uring::LAYOUTS   ─┐                         ┌─ <linux/io_uring.h>, <netinet/in.h>, <sys/socket.h>   by a probe
//!   uring::NUMBERS   ─┴─> each is confirmed by ─┼─ /sys/kernel/btf/vmlinux
//!                         one, gainsaid by none └─ the masks of IORING_REGISTER_QUERY, where the kernel knows it
//! ```
//!
//! The work is that of `spinwire layout check`, whose other tests are in `cli`. These stand apart so that they can be run on another
//! kernel (`tests/vm`). A header that is too old for a name says nothing of it; then the kernel must. What neither can tell is listed
//! in the room itself: flags that are macros, which a kernel has no record of.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    clippy::print_stdout,
    reason = "a test stops at the first thing that is not as expected"
)]

use std::io::Write;
use std::process::Command;

use serde_json::Value;
use spinwire_hostshim::layout::{
    Compiler, KERNEL_BTF, Naming, Opinion, Reading, Source, Wanted, opinions,
};
use spinwire_layouts::describe::{FieldLayout, StructLayout};
use spinwire_layouts::uring::{self, ROOM};

/// Says on standard error, past the test harness, what this machine does not allow to be checked. `tests/run` lists it.
fn not_run(what: &str, why: &str) {
    let line = format!("\n!! NOT RUN: {what}: {}\n", why.trim().replace('\n', "; "));
    std::io::stderr().write_all(line.as_bytes()).unwrap();
}

#[test]
fn the_header_and_the_kernel_agree_with_the_layouts() {
    let test = "the_header_and_the_kernel_agree_with_the_layouts";
    let mut command = Command::new(env!("CARGO_BIN_EXE_spinwire"));
    let ran = command.args(["layout", "check", "--room", "uring", "--json"]).output().unwrap();
    let text = String::from_utf8(ran.stdout).unwrap();
    let err = String::from_utf8_lossy(&ran.stderr).into_owned();
    if ran.status.code() == Some(2) {
        return not_run(test, &err);
    }
    assert_eq!(ran.status.code(), Some(0), "{text}{err}");
    let json: Value = serde_json::from_str(&text).unwrap();
    println!("{json:#}");
    let missing = json["not_checked"].as_array().unwrap();
    for each in missing {
        not_run(test, each.as_str().unwrap());
    }
    let heard = |start: &str| {
        let witnesses = json["witnesses"].as_array().unwrap();
        let of_it = witnesses.iter().find(|w| w["source"].as_str().unwrap().starts_with(start));
        of_it.map_or(0, |w| w["confirmed"].as_u64().unwrap())
    };
    if !missing.is_empty() {
        return;
    }
    assert!(heard("<sys/socket.h>") > 250 && heard(KERNEL_BTF) > 150, "{json}");
    if heard("the kernel") == 0 {
        let why = "this kernel is older than Linux 6.18, from which the layouts are";
        return not_run(&format!("{test}: names that are younger than the header"), why);
    }
    // On a machine with a newer header there are fewer; a name that is not in the list of the room is misspelt, or belongs there.
    assert_eq!(json["unknown"], serde_json::json!([]), "nobody confirms these");
}

/// The kernel's masks are the sum of the flags that there are: none is missing here, none is too many. A kernel that is newer
/// may know more.
#[test]
fn the_masks_of_the_kernel_are_the_sum_of_the_flags() {
    let Ok(answer) = spinwire_hostshim::uring::query() else {
        let why = "this kernel does not know IORING_REGISTER_QUERY, which came with Linux 6.18";
        return not_run("the_masks_of_the_kernel_are_the_sum_of_the_flags", why);
    };
    for (list, mask) in [
        (uring::setup::LIST, answer.ring_setup_flags),
        (uring::features::LIST, answer.feature_flags),
        (uring::enter::LIST, answer.enter_flags),
        (uring::sqe::LIST, answer.sqe_flags),
    ] {
        let sum = list.iter().fold(0, |sum, number| sum | number.value);
        assert_eq!(sum & !mask, 0, "{}: {sum:#x} here, {mask:#x} there", list[0].name);
        if mask & !sum != 0 {
            println!("{} and on: the kernel knows {:#x} besides", list[0].name, mask & !sum);
        }
    }
}

/// `layout` with one of its fields changed.
fn changed(layout: &StructLayout, name: &str, change: impl Fn(&mut FieldLayout)) -> StructLayout {
    let mut fields = layout.fields.to_vec();
    change(fields.iter_mut().find(|field| field.name == name).unwrap());
    StructLayout { fields: fields.leak(), ..*layout }
}

/// Each witness finds a wrong offset, size and byte order, and knows what is right.
#[test]
fn a_planted_fault_is_found_by_each_witness() {
    let (sqe, cqe) = (&uring::Sqe::LAYOUT, &uring::Cqe::LAYOUT);
    let planted = [
        ("fd", changed(sqe, "fd", |field| field.offset += 1)),
        ("len", changed(sqe, "len", |field| field.size += 1)),
        ("res", changed(cqe, "res", |field| field.size += 4)),
        ("sin_port", changed(&uring::SockAddrIn::LAYOUT, "sin_port", |field| field.offset += 1)),
    ];
    let with = Reading { rooms: &[], compiler: &Compiler::default() };
    let headers = ["<netinet/in.h>", "<linux/io_uring.h>"].map(str::to_owned);
    for source in [Source::Header(headers.into()), Source::Btf(KERNEL_BTF.into())] {
        let types = ["io_uring_sqe", "io_uring_cqe", "sockaddr_in"].map(str::to_owned).into();
        let witness = match source.open(&with, &Wanted::Named { types, numbers: Vec::new() }) {
            Ok(witness) => witness,
            Err(e) => {
                not_run("a_planted_fault_is_found_by_each_witness", &e.to_string());
                continue;
            }
        };
        let of = |layout: &StructLayout, name: &str| {
            let said = opinions(&ROOM, layout, &witness, &Naming::default());
            said.into_iter().find(|(field, _)| *field == Some(name)).unwrap().1
        };
        for (name, layout) in &planted {
            assert!(matches!(of(layout, name), Opinion::Differs(_)), "{source}: {name}");
            let right = ROOM.layouts.iter().find(|right| right.name == layout.name).unwrap();
            assert_eq!(of(right, name), Opinion::Same, "{source}: {name}");
        }
        let longer = StructLayout { size: sqe.size + 8, ..*sqe };
        let said = opinions(&ROOM, &longer, &witness, &Naming::default());
        assert!(matches!(said[0], (None, Opinion::Differs(_))), "{source}");
    }
}
