//! The kernel's side of io_uring, as `layouts` has it, against those who know: the header of this machine, by a C program
//! that the compiler of this machine compiles, and the type information of the kernel that runs.
//!
//! ```text
//!   uring::LAYOUTS   ─┐                         ┌─ header.rs   sizeof, offsetof, values: <linux/io_uring.h> by `cc`
//!   uring::NUMBERS   ─┴─> each is confirmed by ─┼─ btf.rs      structures and enumerators: /sys/kernel/btf/vmlinux
//!                         one, gainsaid by none └─ the masks of IORING_REGISTER_QUERY, where the kernel knows it
//! ```
//!
//! A header that is too old for a name says nothing of it; then the kernel must. What neither can tell is named in
//! [`names::MACROS_ONLY`] and printed: flags that are macros, which a kernel has no record of.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    clippy::print_stdout,
    reason = "a test stops at the first thing that is not as expected"
)]

mod btf;
mod header;
#[path = "../host_process/mod.rs"]
mod host_process;
mod names;

use std::collections::BTreeMap;

use host_process::private::not_run;
use spinwire_layouts::describe::{FieldLayout, StructLayout};
use spinwire_layouts::uring;

/// What somebody knows: number by name.
type Known = BTreeMap<String, u64>;

/// The bits that a number has to have in a mask of the kernel.
fn masks() -> Option<Vec<(&'static [uring::Number], u64)>> {
    let answer = spinwire_hostshim::uring::query().ok()?;
    Some(vec![
        (uring::setup::LIST, answer.ring_setup_flags),
        (uring::features::LIST, answer.feature_flags),
        (uring::enter::LIST, answer.enter_flags),
        (uring::sqe::LIST, answer.sqe_flags),
    ])
}

/// How a property is called by those who know it: `struct io_uring_sqe`, `struct io_uring_sqe.fd`, `|struct io_uring_sqe.fd|`.
fn keys(layout: &StructLayout, field: &FieldLayout) -> (String, String) {
    let place = format!("{}.{}", names::c_struct(layout.name), names::c_field(layout, field));
    let extent = format!("|{place}|");
    (place, extent)
}

/// Every property of the layouts, with its value.
fn ours() -> Vec<(String, u64)> {
    let wide = |n: usize| u64::try_from(n).unwrap();
    let mut all = Vec::new();
    for layout in uring::LAYOUTS {
        // The kernel has one structure for both sizes of completion.
        let size = if layout.name == "Cqe32" { layout.size - 16 } else { layout.size };
        all.push((names::c_struct(layout.name).to_owned(), wide(size)));
        for field in layout.fields {
            let (place, extent) = keys(layout, field);
            all.push((place, wide(field.offset)));
            if field.name != "big_cqe" {
                all.push((extent, wide(field.size)));
            }
        }
    }
    let numbers = uring::NUMBERS.iter().copied().flatten();
    all.extend(numbers.map(|number| (number.name.to_owned(), number.value)));
    all
}

/// What of `ours` the witness gainsays.
fn gainsaid(ours: &[(String, u64)], known: &Known) -> Vec<String> {
    let wrong = ours.iter().filter_map(|(name, value)| {
        let theirs = known.get(name)?;
        // What an older witness leaves unused begins earlier, or is longer: new fields were taken from it.
        let is_older = names::is_unused(name)
            && if name.starts_with('|') { theirs > value } else { theirs < value };
        (theirs != value && !is_older).then(|| format!("{name}: {value} here, {theirs} there"))
    });
    wrong.collect()
}

/// The alignment of every structure that the header knows.
fn alignments_agree(known: &Known) {
    for layout in uring::LAYOUTS {
        let key = format!("_Alignof({})", names::c_struct(layout.name));
        if let Some(theirs) = known.get(&key) {
            assert_eq!(u64::try_from(layout.align).unwrap(), *theirs, "{key}");
        }
    }
}

#[test]
fn the_header_and_the_kernel_agree_with_the_layouts() {
    let test = "the_header_and_the_kernel_agree_with_the_layouts";
    let ours = ours();
    let header = header::ask(&ours).unwrap_or_else(|why| {
        not_run(test, &format!("header: {why}"));
        Known::new()
    });
    let kernel = btf::ask().unwrap_or_else(|why| {
        not_run(test, &format!("kernel: {why}"));
        Known::new()
    });
    assert_eq!(gainsaid(&ours, &header), Vec::<String>::new(), "against <linux/io_uring.h>");
    assert_eq!(gainsaid(&ours, &kernel), Vec::<String>::new(), "against the running kernel");
    alignments_agree(&header);

    let too_old = ours.iter().map(|(name, _)| name).filter(|name| !header.contains_key(*name));
    let too_old: Vec<_> = too_old.collect();
    let by_kernel = too_old.iter().filter(|name| kernel.contains_key(**name)).count();
    println!("{} properties; {} in the header", ours.len(), ours.len() - too_old.len());
    println!(
        "the header is too old for {}, of which the kernel confirms {by_kernel}",
        too_old.len()
    );
    println!("too old for: {too_old:?}");

    let masked = masks().unwrap_or_default();
    let by_mask = |name: &str| masked.iter().any(|(list, _)| list.iter().any(|n| n.name == name));
    let nobody = too_old.iter().filter(|name| !kernel.contains_key(**name) && !by_mask(name));
    // What nobody uses lies where the fields around it leave a gap: the size of the structure says as much.
    let nobody = nobody.filter(|name| !names::is_unused(name));
    let nobody: Vec<_> = nobody.map(|name| name.as_str()).collect();
    println!("macros that nobody here can tell: {nobody:?}");
    if header.is_empty() || kernel.is_empty() {
        return;
    }
    if masked.is_empty() {
        let why = "this kernel is older than Linux 6.18, from which the layouts are";
        return not_run(&format!("{test}: names that are younger than the header"), why);
    }
    // On a machine with a newer header there are fewer; a name that is not in the list is misspelt, or belongs there.
    let unlisted: Vec<_> =
        nobody.iter().filter(|name| !names::MACROS_ONLY.contains(name)).collect();
    assert!(unlisted.is_empty(), "nobody confirms {unlisted:?}");
}

/// The kernel's masks are the sum of the flags that there are: none is missing here, none is too many. A kernel that is newer
/// may know more.
#[test]
fn the_masks_of_the_kernel_are_the_sum_of_the_flags() {
    let Some(masks) = masks() else {
        let why = "this kernel does not know IORING_REGISTER_QUERY, which came with Linux 6.18";
        return not_run("the_masks_of_the_kernel_are_the_sum_of_the_flags", why);
    };
    for (list, mask) in masks {
        let sum = list.iter().fold(0, |sum, number| sum | number.value);
        assert_eq!(sum & !mask, 0, "{}: {sum:#x} here, {mask:#x} there", list[0].name);
        if mask & !sum != 0 {
            println!("{} and on: the kernel knows {:#x} besides", list[0].name, mask & !sum);
        }
    }
}

/// The witnesses find a wrong offset, size and value, each in its own way.
#[test]
fn a_planted_fault_is_found_by_each_witness() {
    let ours = ours();
    for known in [header::ask(&ours), btf::ask()] {
        let Ok(known) = known else {
            continue; // The other test says so aloud.
        };
        let mut wrong = ours.clone();
        let planted =
            ["struct io_uring_sqe.fd", "struct io_uring_sqe", "|struct io_uring_cqe.res|"];
        let planted =
            [planted.as_slice(), &["IORING_OP_RECV", "IORING_REGISTER_PBUF_RING"]].concat();
        for (name, value) in &mut wrong {
            if planted.contains(&name.as_str()) {
                *value += 1;
            }
        }
        let found = gainsaid(&wrong, &known);
        assert_eq!(found.len(), 6, "res of both completions: {found:?}");
    }
}
