//! After `seal()`: no heap, no system call, no page fault, on everything that a turn does.
//!
//! ```text
//!   traffic.rs    two endpoints of one segment exchange messages of every kind, in one thread
//!   pools.rs      two handles on one pool do everything that is done with buffers
//!   files.rs      chains of writes and reads of a file, at most one system call a turn
//!   udp.rs        two ports over UDP, at most one system call a turn
//!   parcels.rs    two endpoints hand over buffers of one pool
//!   tcp.rs        two ports over TCP, which make system calls, but use no heap
//!   streams.rs    both ends of a connection in one service, over a ring of the kernel
//!   queues.rs     work queues of a device that is not there
//!   completions.rs  its completion queue
//!   vqp.rs        a virtual queue pair loses paths and gets them back
//!   rdma.rs       two ports over a connection of devices that are not there
//!   chains.rs     chains of linked submissions, and the completions of a ring that is not there
//!   heap          a counting allocator under the whole test
//!   syscalls      a child process under a seccomp filter that kills at the first system call but exit    seccomp.rs
//!   page faults   getrusage of the thread, before and after
//! ```
//!
//! Each of the three has a canary: the same measurement with one planted sin must find it.
#![allow(
    clippy::large_stack_frames,
    clippy::large_stack_arrays,
    clippy::let_underscore_must_use,
    clippy::as_conversions,
    reason = "set-up is on the test's stack, and what a turn says does not matter here"
)]
#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    clippy::arithmetic_side_effects,
    reason = "a test fails by panicking, and its numbers are its own"
)]

mod chains;
mod completions;
mod files;
mod parcels;
mod pools;
mod queues;
mod rdma;
mod seccomp;
mod streams;
mod tcp;
mod traffic;
mod udp;
mod vqp;

use std::sync::{Mutex, MutexGuard};

use seccomp::{Ended, without_system_calls};
use spinwire_hostshim::alloc_gate::{self, CountingAlloc, OnUse};

#[global_allocator]
static HEAP: CountingAlloc = CountingAlloc::new();

const WARM_UP_ROUNDS: u64 = 200;
const ROUNDS: u64 = 2_000;

/// The tests take turns: a fork makes the pages of the whole process copy-on-write, and the next write to each a fault.
static TURN: Mutex<()> = Mutex::new(());

fn take_turn() -> MutexGuard<'static, ()> {
    TURN.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

#[test]
fn a_sealed_thread_uses_no_heap() {
    let _turn = take_turn();
    assert!(alloc_gate::is_installed(), "the gate counts nothing, so it would pass everything");
    traffic::with(|traffic| {
        let sealed = alloc_gate::seal(OnUse::Count);
        let seen = traffic.run(0..ROUNDS);
        let counts = sealed.open();
        traffic.check(&seen, ROUNDS);
        assert!(counts.is_clean(), "{counts:?}");
    });
}

#[test]
fn buffers_of_a_pool_need_no_heap_no_system_call_and_no_page_fault() {
    let _turn = take_turn();
    pools::with(|pools| {
        assert_eq!(pools.run(WARM_UP_ROUNDS), WARM_UP_ROUNDS);
        let before = seccomp::page_faults();
        let sealed = alloc_gate::seal(OnUse::Count);
        let good = pools.run(ROUNDS);
        let counts = sealed.open();
        let after = seccomp::page_faults();
        assert_eq!(good, ROUNDS);
        assert!(counts.is_clean(), "{counts:?}");
        assert_eq!(before, after, "(minor, major) page faults of the thread, before and after");
        let ended = without_system_calls(|| pools.run(ROUNDS) == ROUNDS);
        assert_eq!(ended, Ended::Done { answer: true }, "strace -f names the call");
    });
}

#[test]
fn buffers_as_messages_need_no_heap_no_system_call_and_no_page_fault() {
    let _turn = take_turn();
    parcels::with(|parcels| {
        assert_eq!(parcels.run(WARM_UP_ROUNDS), WARM_UP_ROUNDS);
        let before = seccomp::page_faults();
        let sealed = alloc_gate::seal(OnUse::Count);
        let good = parcels.run(ROUNDS);
        let counts = sealed.open();
        let after = seccomp::page_faults();
        assert_eq!(good, ROUNDS);
        assert!(counts.is_clean(), "{counts:?}");
        assert_eq!(before, after, "(minor, major) page faults of the thread, before and after");
        let ended = without_system_calls(|| parcels.run(ROUNDS) == ROUNDS);
        assert_eq!(ended, Ended::Done { answer: true }, "strace -f names the call");
    });
}

#[test]
fn chains_need_no_heap_no_system_call_and_no_page_fault() {
    let _turn = take_turn();
    chains::with(|table| {
        assert_eq!(chains::run(table, WARM_UP_ROUNDS), WARM_UP_ROUNDS);
        let before = seccomp::page_faults();
        let sealed = alloc_gate::seal(OnUse::Count);
        let good = chains::run(table, ROUNDS);
        let counts = sealed.open();
        let after = seccomp::page_faults();
        assert_eq!(good, ROUNDS);
        assert!(counts.is_clean(), "{counts:?}");
        assert_eq!(before, after, "(minor, major) page faults of the thread, before and after");
        let ended = without_system_calls(|| chains::run(table, ROUNDS) == ROUNDS);
        assert_eq!(ended, Ended::Done { answer: true }, "strace -f names the call");
    });
}

#[test]
fn work_queues_need_no_heap_no_system_call_and_no_page_fault() {
    let _turn = take_turn();
    queues::with(|queues| {
        assert_eq!(queues::run(queues, WARM_UP_ROUNDS), WARM_UP_ROUNDS);
        let before = seccomp::page_faults();
        let sealed = alloc_gate::seal(OnUse::Count);
        let good = queues::run(queues, ROUNDS);
        let counts = sealed.open();
        let after = seccomp::page_faults();
        assert_eq!(good, ROUNDS);
        assert!(counts.is_clean(), "{counts:?}");
        assert_eq!(before, after, "(minor, major) page faults of the thread, before and after");
        let ended = without_system_calls(|| queues::run(queues, ROUNDS) == ROUNDS);
        assert_eq!(ended, Ended::Done { answer: true }, "strace -f names the call");
    });
}

#[test]
fn completion_queues_need_no_heap_no_system_call_and_no_page_fault() {
    let _turn = take_turn();
    completions::with(|queues| {
        assert_eq!(completions::run(queues, WARM_UP_ROUNDS), WARM_UP_ROUNDS);
        let before = seccomp::page_faults();
        let sealed = alloc_gate::seal(OnUse::Count);
        let good = completions::run(queues, ROUNDS);
        let counts = sealed.open();
        let after = seccomp::page_faults();
        assert_eq!(good, ROUNDS);
        assert!(counts.is_clean(), "{counts:?}");
        assert_eq!(before, after, "(minor, major) page faults of the thread, before and after");
        let ended = without_system_calls(|| completions::run(queues, ROUNDS) == ROUNDS);
        assert_eq!(ended, Ended::Done { answer: true }, "strace -f names the call");
    });
}

#[test]
fn virtual_queue_pairs_need_no_heap_no_system_call_and_no_page_fault() {
    let _turn = take_turn();
    let work = vqp::place();
    assert_eq!(vqp::run(&work, WARM_UP_ROUNDS), WARM_UP_ROUNDS);
    let before = seccomp::page_faults();
    let sealed = alloc_gate::seal(OnUse::Count);
    let good = vqp::run(&work, ROUNDS);
    let counts = sealed.open();
    let after = seccomp::page_faults();
    assert_eq!(good, ROUNDS);
    assert!(counts.is_clean(), "{counts:?}");
    assert_eq!(before, after, "(minor, major) page faults of the thread, before and after");
    let ended = without_system_calls(|| vqp::run(&work, ROUNDS) == ROUNDS);
    assert_eq!(ended, Ended::Done { answer: true }, "strace -f names the call");
}

#[test]
fn ports_over_devices_need_no_heap_no_system_call_and_no_page_fault() {
    let _turn = take_turn();
    let work = rdma::place();
    assert_eq!(rdma::run(&work, WARM_UP_ROUNDS), WARM_UP_ROUNDS);
    let before = seccomp::page_faults();
    let sealed = alloc_gate::seal(OnUse::Count);
    let good = rdma::run(&work, ROUNDS);
    let counts = sealed.open();
    let after = seccomp::page_faults();
    assert_eq!(good, ROUNDS);
    assert!(counts.is_clean(), "{counts:?}");
    assert_eq!(before, after, "(minor, major) page faults of the thread, before and after");
    let ended = without_system_calls(|| rdma::run(&work, ROUNDS) == ROUNDS);
    assert_eq!(ended, Ended::Done { answer: true }, "strace -f names the call");
}

/// The system calls are those of the ring: at most one a turn.
#[test]
fn streams_need_no_heap_and_at_most_one_system_call_a_turn() {
    let _turn = take_turn();
    streams::with(|run| {
        assert_eq!(run(WARM_UP_ROUNDS).rounds, WARM_UP_ROUNDS);
        let before = seccomp::page_faults();
        let sealed = alloc_gate::seal(OnUse::Count);
        let done = run(ROUNDS);
        let counts = sealed.open();
        let after = seccomp::page_faults();
        assert_eq!(done.rounds, ROUNDS, "{done:?}");
        assert!(counts.is_clean(), "{counts:?}");
        assert!(done.system_calls <= done.turns, "{done:?}");
        assert_eq!(before, after, "(minor, major) page faults of the thread, before and after");
    });
}

#[test]
fn files_need_no_heap_and_one_system_call_a_turn() {
    let _turn = take_turn();
    files::with(|store| {
        assert_eq!(store.run(20), (20, 0));
        let sealed = alloc_gate::seal(OnUse::Count);
        let seen = store.run(200);
        let counts = sealed.open();
        assert_eq!(seen, (200, 0), "good rounds, and turns with more than one call");
        assert!(counts.is_clean(), "{counts:?}");
    });
}

#[test]
fn messages_over_udp_need_no_heap_and_one_system_call_a_turn() {
    let _turn = take_turn();
    udp::with(|pair| {
        assert_eq!(pair.run(20), (20, 0));
        let sealed = alloc_gate::seal(OnUse::Count);
        let seen = pair.run(500);
        let counts = sealed.open();
        assert_eq!(seen, (500, 0), "good rounds, and turns with more than one call");
        assert!(counts.is_clean(), "{counts:?}");
    });
}

#[test]
fn ports_over_tcp_need_no_heap() {
    let _turn = take_turn();
    tcp::with(|traffic| {
        assert_eq!(traffic.run(WARM_UP_ROUNDS), WARM_UP_ROUNDS);
        let sealed = alloc_gate::seal(OnUse::Count);
        let good = traffic.run(ROUNDS);
        let counts = sealed.open();
        assert_eq!(good, ROUNDS);
        assert!(counts.is_clean(), "{counts:?}");
    });
}

#[test]
fn canary_the_heap_is_watched() {
    let _turn = take_turn();
    let sealed = alloc_gate::seal(OnUse::Count);
    let culprit = core::hint::black_box(vec![1_u8]);
    let counts = sealed.open();
    assert_eq!(counts.allocations, 1, "{counts:?}");
    drop(culprit);
}

#[test]
fn a_sealed_thread_makes_no_system_call() {
    let _turn = take_turn();
    let ended = traffic::with(|traffic| {
        traffic.run(0..WARM_UP_ROUNDS);
        without_system_calls(|| {
            let seen = traffic.run(WARM_UP_ROUNDS..ROUNDS);
            seen.is_complete(ROUNDS - WARM_UP_ROUNDS)
        })
    });
    assert_eq!(ended, Ended::Done { answer: true }, "strace -f names the call");
}

#[test]
fn canary_system_calls_are_watched() {
    let _turn = take_turn();
    let ended = without_system_calls(|| std::process::id() > 0);
    assert_eq!(ended, Ended::MadeSystemCall);
    assert_eq!(without_system_calls(|| false), Ended::Done { answer: false });
}

#[test]
fn a_sealed_thread_takes_no_page_fault() {
    let _turn = take_turn();
    traffic::with(|traffic| {
        traffic.run(0..WARM_UP_ROUNDS);
        let before = seccomp::page_faults();
        let seen = traffic.run(WARM_UP_ROUNDS..ROUNDS);
        let after = seccomp::page_faults();
        traffic.check(&seen, ROUNDS - WARM_UP_ROUNDS);
        assert_eq!(before, after, "(minor, major) page faults of the thread, before and after");
    });
}

#[test]
fn canary_page_faults_are_watched() {
    let _turn = take_turn();
    let fresh: Vec<u8> = Vec::with_capacity(64 << 20);
    let before = seccomp::page_faults();
    let touched = core::ptr::from_ref::<u8>(
        core::hint::black_box(fresh).spare_capacity_mut()[32 << 20].write(1),
    );
    let after = seccomp::page_faults();
    assert!(after.0 > before.0, "a first touch is a minor fault ({touched:p})");
}
