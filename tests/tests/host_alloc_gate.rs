//! The gate before the heap, installed: it counts, it aborts, and it knows threads apart.
#![allow(clippy::unwrap_used, reason = "a test stops at the first thing that is not as expected")]

mod host_process;

use core::hint::black_box;
use std::os::unix::process::ExitStatusExt;
use std::process::Stdio;
use std::sync::Arc;

use host_process::{again, role};
use spinwire_dataplane::sync::{AtomicU64, Ordering};
use spinwire_hostshim::alloc_gate::{self, CountingAlloc, Counts, OnUse};

#[global_allocator]
static HEAP: CountingAlloc = CountingAlloc::new();

#[test]
fn every_way_into_the_heap_is_counted() {
    assert!(alloc_gate::is_installed());
    let sealed = alloc_gate::seal(OnUse::Count);
    assert!(sealed.counts().is_clean());
    let mut bytes: Vec<u8> = black_box(Vec::with_capacity(100));
    assert_eq!(sealed.counts(), Counts { allocations: 1, releases: 0, bytes: 100 });
    bytes.extend_from_slice(&[1; 100]);
    assert_eq!(sealed.counts().allocations, 1, "that was room enough");
    bytes.push(1);
    assert_eq!(sealed.counts().allocations, 2, "realloc");
    let zeroed = black_box(vec![0_u8; 1000]);
    assert_eq!(sealed.counts().allocations, 3, "alloc_zeroed");
    drop(bytes);
    drop(zeroed);
    assert_eq!(sealed.counts().releases, 2);
    assert!(!sealed.open().is_clean());
    let fresh = alloc_gate::seal(OnUse::Count);
    assert!(fresh.open().is_clean(), "sealing begins at zero");
}

#[test]
fn other_threads_are_free() {
    // A channel would not do: its sender may free what its receiver waited with.
    let go = Arc::new(AtomicU64::new(0));
    let gone = Arc::clone(&go);
    let other = std::thread::spawn(move || {
        while gone.load(Ordering::Acquire) == 0 {
            std::thread::yield_now();
        }
        (0..1000).map(|n| black_box(vec![n; 10]).len()).sum::<usize>()
    });
    let sealed = alloc_gate::seal(OnUse::Count);
    go.store(1, Ordering::Release);
    while !other.is_finished() {
        std::thread::yield_now();
    }
    let counts = sealed.open();
    assert!(counts.is_clean(), "{counts:?}");
    assert_eq!(other.join().unwrap(), 10_000);
}

#[test]
fn open_again_after_the_seal() {
    drop(alloc_gate::seal(OnUse::Abort));
    drop(black_box(Box::new(1)));
    let sealed = alloc_gate::seal(OnUse::Count);
    let counts = sealed.open();
    drop(black_box(Box::new(1)));
    assert!(counts.is_clean());
}

fn stderr_of(name: &str, culprit: &str) -> (Option<i32>, String) {
    let out = again(name, culprit).stderr(Stdio::piped()).output().unwrap();
    (out.status.signal(), String::from_utf8_lossy(&out.stderr).into_owned())
}

#[test]
fn a_sealed_thread_that_uses_the_heap_ends_the_process() {
    let name = "a_sealed_thread_that_uses_the_heap_ends_the_process";
    if let Some(culprit) = role() {
        let block = Box::new(1_u8);
        let sealed = alloc_gate::seal(OnUse::Abort);
        match culprit.as_str() {
            "allocate" => drop(black_box(Box::new(2_u8))),
            "release" => drop(black_box(block)),
            "panic" => assert_eq!(black_box(1), 2, "this must come out"),
            _ => {}
        }
        // Leaving runs what others have registered, which may use the heap.
        drop(sealed);
        return;
    }
    let (signal, text) = stderr_of(name, "allocate");
    assert_eq!(signal, Some(libc::SIGABRT), "{text}");
    assert!(text.contains("a sealed thread allocated heap memory"), "{text}");
    let (signal, text) = stderr_of(name, "release");
    assert_eq!(signal, Some(libc::SIGABRT), "{text}");
    assert!(text.contains("a sealed thread released heap memory"), "{text}");
    let (_signal, text) = stderr_of(name, "panic");
    assert!(text.contains("this must come out"), "{text}");
    assert_eq!(stderr_of(name, "nothing").0, None);
}
