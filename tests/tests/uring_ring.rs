//! The rings of io_uring over a kernel at the level of bytes: chains stay whole at every position, nothing is lost where queues are
//! full, a kernel that writes nonsense harms nobody.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    reason = "a test stops at the first thing that is not as expected"
)]

use spinwire_dataplane::error::{Fatal, Misuse, PostError, Retry};
use spinwire_dataplane::sync::Ordering;
use spinwire_dataplane::uring::ring::{CHAIN_MAX, UNHEARD};
use spinwire_dataplane::uring::{EnterError, Ring, RingMemory};
use spinwire_layouts::uring::{Cqe, Sqe, op, setup, sqe};
use spinwire_tests::fake_kernel::{FakeConfig, FakeKernel};
use spinwire_tests::rng::Rng;

const fn nop(user_data: u64, flags: u8) -> Sqe {
    Sqe { opcode: op::NOP, flags, user_data, ..Sqe::ZERO }
}

/// Entries with user data from `first` on, linked to each other.
fn chain(first: u64, count: u64) -> Vec<Sqe> {
    (0..count).map(|i| nop(first + i, if i + 1 == count { 0 } else { sqe::IO_LINK })).collect()
}

fn names(entries: &[Sqe]) -> Vec<u64> {
    entries.iter().map(|entry| entry.user_data).collect()
}

fn ring_of(kernel: &FakeKernel) -> Ring<'_, &FakeKernel> {
    Ring::new(kernel.memory().unwrap(), kernel.arena(&mut []), kernel)
}

fn all(ring: &Ring<'_, &FakeKernel>) -> Vec<(u64, i32)> {
    let mut seen = Vec::new();
    while ring.harvest(64, |cqe| seen.push((cqe.user_data, cqe.res))) > 0 {}
    seen
}

#[test]
fn nothing_is_seen_before_the_submission_and_all_of_it_with_one_call() {
    let kernel = FakeKernel::new(FakeConfig::default());
    let ring = ring_of(&kernel);
    FakeKernel::push(&ring, &[nop(1, 0)]).unwrap();
    FakeKernel::push(&ring, &chain(2, 3)).unwrap();
    assert_eq!((ring.room(), kernel.enters(), kernel.taken()), (4, 0, None));
    let submitted = ring.submit();
    assert_eq!((submitted.taken, submitted.error, kernel.enters()), (4, None, 1));
    assert_eq!(names(&kernel.taken().unwrap()), [1]);
    assert_eq!(names(&kernel.taken().unwrap()), [2, 3, 4]);
    assert_eq!(kernel.taken(), None);
    assert!(!ring.submit().entered, "there is nothing to submit");
    assert_eq!(ring.room(), 8);
}

#[test]
fn a_chain_is_whole_or_refused_whole_at_every_position_of_the_queue() {
    for flags in [setup::NO_SQARRAY, 0] {
        for entries in [1, 2, 4, 8] {
            for start in 0..20_u32 {
                let start = start.wrapping_sub(10);
                let config = FakeConfig { sq_entries: entries, cq_entries: 32, flags, start };
                let kernel = FakeKernel::new(config);
                let ring = ring_of(&kernel);
                for (round, length) in (1..=u64::from(entries)).cycle().take(40).enumerate() {
                    let first = 100 * (u64::try_from(round).unwrap() + 1);
                    let mut pushed = Vec::new();
                    loop {
                        let chain =
                            chain(first + 10 * u64::try_from(pushed.len()).unwrap(), length);
                        match FakeKernel::push(&ring, &chain) {
                            Ok(()) => pushed.push(names(&chain)),
                            Err(refused) => {
                                assert_eq!(refused, PostError::Retry(Retry::SqFull));
                                break;
                            }
                        }
                    }
                    assert_eq!(pushed.len(), usize::try_from(u64::from(entries) / length).unwrap());
                    ring.submit();
                    for wanted in pushed {
                        assert_eq!(names(&kernel.taken().unwrap()), wanted);
                    }
                    assert_eq!(kernel.taken(), None);
                }
            }
        }
    }
}

#[test]
fn what_can_never_be_submitted_is_refused_for_good() {
    let kernel = FakeKernel::new(FakeConfig { sq_entries: 128, ..FakeConfig::default() });
    let ring = ring_of(&kernel);
    let open = [nop(1, 0), nop(2, sqe::IO_LINK)];
    assert_eq!(FakeKernel::push(&ring, &open), Err(Misuse::OpenChain.into()));
    let open = [nop(2, sqe::IO_HARDLINK)];
    assert_eq!(FakeKernel::push(&ring, &open), Err(Misuse::OpenChain.into()));
    let long = chain(1, u64::try_from(CHAIN_MAX).unwrap() + 1);
    assert_eq!(FakeKernel::push(&ring, &long), Err(Misuse::TooLong.into()));
    let small = FakeKernel::new(FakeConfig::default());
    let ring = ring_of(&small);
    assert_eq!(FakeKernel::push(&ring, &chain(1, 9)), Err(Misuse::TooLong.into()));
    assert!(FakeKernel::push(&ring, &[]).is_ok());
    assert!(!ring.submit().entered);
}

#[test]
fn the_rest_of_a_chain_that_the_kernel_has_not_taken_whole_is_cancelled_and_never_run() {
    // A single, a chain of four, a single: the kernel stops after `taken` of them.
    for taken in 0..=6_u32 {
        let kernel = FakeKernel::new(FakeConfig::default());
        let ring = ring_of(&kernel);
        FakeKernel::push(&ring, &[nop(1, 0)]).unwrap();
        FakeKernel::push(&ring, &chain(2, 4)).unwrap();
        FakeKernel::push(&ring, &[nop(6, 0)]).unwrap();
        kernel.take_at_most(taken);
        assert_eq!(ring.submit().taken, taken);
        let cut: Vec<u64> =
            (2..=5).filter(|name| (2..5).contains(&taken) && *name > u64::from(taken)).collect();
        assert_eq!(ring.has_news(), !cut.is_empty());
        if !cut.is_empty() {
            assert!(!ring.submit().entered, "first the caller hears of it");
        }
        let heard = all(&ring);
        assert_eq!(heard, cut.iter().map(|name| (*name, -125)).collect::<Vec<_>>(), "{taken}");
        ring.submit();
        let mut run: Vec<Vec<u64>> = Vec::new();
        while let Some(entries) = kernel.taken() {
            for entry in &entries {
                if entry.user_data == UNHEARD {
                    assert_eq!((entry.opcode, entry.flags), (op::NOP, 0));
                    kernel.complete(UNHEARD, 0, 0);
                }
            }
            run.push(names(&entries));
        }
        let run: Vec<u64> = run.concat().into_iter().filter(|name| *name != UNHEARD).collect();
        let wanted: Vec<u64> = (1..=6).filter(|name| !cut.contains(name)).collect();
        assert_eq!(run, wanted, "{taken}");
        assert_eq!(all(&ring), [], "nobody hears of what stands in for them");
        assert_eq!(ring.counters().cut, u64::try_from(cut.len()).unwrap());
        assert_eq!(ring.room(), 8);
    }
}

#[test]
fn back_pressure_loses_nothing_and_a_lost_ring_says_so() {
    let kernel = FakeKernel::new(FakeConfig::default());
    let ring = ring_of(&kernel);
    FakeKernel::push(&ring, &chain(1, 3)).unwrap();
    let errors = [EnterError::Busy, EnterError::Again, EnterError::Interrupted];
    kernel.answer_with(&errors);
    for error in errors {
        let submitted = ring.submit();
        assert_eq!((submitted.taken, submitted.error), (0, Some(error)));
        assert!(ring.has_staged());
    }
    assert_eq!((ring.submit().taken, ring.counters().pushed_back), (3, 3));
    assert_eq!(names(&kernel.taken().unwrap()), [1, 2, 3]);
    kernel.answer_with(&[EnterError::Fatal(9)]);
    FakeKernel::push(&ring, &[nop(4, 0)]).unwrap();
    assert_eq!(ring.submit().error, Some(EnterError::Fatal(9)));
    assert_eq!(
        (ring.fatal(), FakeKernel::push(&ring, &[nop(5, 0)])),
        (Some(9), Err(Fatal::RingLost.into()))
    );
    let enters = kernel.enters();
    assert!(!ring.submit().entered && kernel.enters() == enters, "it is not asked again");
}

#[test]
fn completions_come_once_and_in_order_whatever_the_queues_hold() {
    let mut rng = Rng::new(7);
    for flags in [0, setup::DEFER_TASKRUN | setup::TASKRUN_FLAG, setup::NO_SQARRAY] {
        for cq_entries in [1, 2, 16] {
            let kernel = FakeKernel::new(FakeConfig { cq_entries, flags, ..FakeConfig::default() });
            let ring = ring_of(&kernel);
            let (mut sent, mut seen) = (0_u64, 0_u64);
            for _ in 0..500 {
                for _ in 0..rng.below(5) {
                    sent += 1;
                    kernel.complete(sent, i32::try_from(sent).unwrap(), 0);
                }
                let most = u32::try_from(rng.below(4)).unwrap();
                ring.harvest(most, |cqe| {
                    seen += 1;
                    assert_eq!(
                        (cqe.user_data, i64::from(cqe.res)),
                        (seen, i64::try_from(seen).unwrap())
                    );
                });
                ring.submit();
            }
            while seen < sent {
                assert!(ring.has_news(), "{} wait", kernel.waiting());
                ring.submit();
                ring.harvest(8, |cqe| {
                    seen += 1;
                    assert_eq!(cqe.user_data, seen);
                });
            }
            assert!(!ring.has_news() && kernel.waiting() == 0);
            assert!(ring.counters().overflows > 0 || cq_entries == 16);
        }
    }
}

/// The thread sleeps, runs, or is about to run, at any time; what it is woken for is seen.
#[test]
fn a_thread_of_the_kernel_is_woken_once_for_what_it_has_not_seen() {
    let thread = || FakeKernel::new(FakeConfig { flags: setup::SQPOLL, ..FakeConfig::default() });
    let kernel = thread();
    let ring = ring_of(&kernel);
    let push = |first| FakeKernel::push(&ring, &chain(first, 3)).unwrap();
    push(1);
    assert!(!ring.submit().entered, "it is awake");
    assert_eq!(kernel.thread_runs(), 0);
    kernel.thread_sleeps();
    assert!(!ring.submit().entered, "there is nothing to wake it for");
    push(11);
    kernel.answer_with(&[EnterError::Interrupted]);
    assert!(ring.submit().error.is_some());
    assert!(ring.submit().entered, "it was not woken");
    assert!((0..9).all(|_| !ring.submit().entered), "it was, and has not run yet");
    push(21);
    assert!(ring.submit().entered, "it may have looked before");
    assert!(!ring.submit().entered && ring.has_staged());
    assert_eq!(kernel.thread_runs(), 2);
    kernel.complete(7, 0, 0);
    assert!(!ring.submit().entered && !ring.has_staged() && ring.room() == 8);
    assert_eq!(all(&ring), [(7, 0)]);
    // What waits in the kernel because the queue is full is fetched without the thread.
    (0..20).for_each(|number| kernel.complete(100 + number, 0, 0));
    assert_eq!(all(&ring).len(), 16);
    assert!(ring.submit().entered);
    assert_eq!((all(&ring).len(), kernel.thread_runs()), (4, 0));
    // At random: all is taken, whole and in order.
    let mut rng = Rng::new(5);
    let kernel = thread();
    let ring = ring_of(&kernel);
    let (mut next, mut taken) = (1, Vec::new());
    for _ in 0..3_000 {
        match rng.below(4) {
            0 if FakeKernel::push(&ring, &chain(next, rng.below(4) + 1)).is_ok() => next += 10,
            1 => drop(kernel.thread_runs()),
            2 if !ring.has_staged() => kernel.thread_sleeps(),
            _ => drop(ring.submit()),
        }
        while let Some(entries) = kernel.taken() {
            taken.extend(names(&entries).first().copied());
        }
    }
    ring.submit();
    kernel.thread_runs();
    taken.extend(core::iter::from_fn(|| kernel.taken()).map(|entries| names(&entries)[0]));
    assert!(taken.len() > 100 && taken == (1..next).step_by(10).collect::<Vec<_>>());
    // It is gone: so is the ring.
    kernel.thread_sleeps();
    kernel.answer_with(&[EnterError::Fatal(130)]);
    let _full = FakeKernel::push(&ring, &[nop(next, 0)]);
    assert_eq!((ring.submit().entered, ring.fatal()), (true, Some(130)));
}

#[test]
fn an_idle_ring_enters_nothing() {
    for flags in [0, setup::DEFER_TASKRUN | setup::TASKRUN_FLAG] {
        let kernel = FakeKernel::new(FakeConfig { flags, ..FakeConfig::default() });
        let ring = ring_of(&kernel);
        for _ in 0..100 {
            ring.harvest(8, |_| panic!("there is nothing"));
            assert!(!ring.submit().entered && !ring.has_news());
        }
        assert_eq!(kernel.enters(), 0);
    }
}

#[test]
fn a_kernel_that_writes_anything_anywhere_is_survived() {
    let mut rng = Rng::new(11);
    for _ in 0..2_000 {
        let kernel = FakeKernel::new(FakeConfig::default());
        let ring = ring_of(&kernel);
        for _ in 0..20 {
            for _ in 0..rng.below(4) {
                let words = kernel.words();
                let at = usize::try_from(rng.below(u64::try_from(words.len()).unwrap())).unwrap();
                let value = [0, u32::MAX, 1, u32::try_from(rng.below(1 << 32)).unwrap()]
                    [usize::try_from(rng.below(4)).unwrap()];
                // The fake is no more robust than the kernel where its own submission words are concerned.
                if at > 1 {
                    words[at].store(value, Ordering::Relaxed);
                } else if at == 0 {
                    words[0].store(value, Ordering::Relaxed);
                    let _room = ring.room();
                    words[0].store(words[1].load(Ordering::Relaxed), Ordering::Relaxed);
                }
            }
            let _pushed = FakeKernel::push(&ring, &chain(rng.below(9) + 1, rng.below(9)));
            let mut count = 0;
            ring.harvest(64, |_cqe: Cqe| count += 1);
            assert!(count <= 64 + CHAIN_MAX);
            ring.submit();
        }
    }
}

#[test]
fn parameters_that_do_not_fit_are_refused_by_field() {
    let kernel = FakeKernel::new(FakeConfig { flags: 0, ..FakeConfig::default() });
    let sqes: Vec<_> = (0..8).map(|_| spinwire_dataplane::raw::line::Line::zeroed()).collect();
    let good = *kernel.params();
    let refused = |params| {
        RingMemory::new(kernel.words(), &sqes, &params).map(|_| ()).map_err(|bad| bad.field)
    };
    assert_eq!(refused(good), Ok(()));
    let mut bad = good;
    bad.sq_entries = 3;
    assert_eq!(refused(bad), Err("sq_entries"));
    bad.sq_entries = 16;
    assert_eq!(refused(bad), Err("sq_entries"));
    let mut bad = good;
    bad.cq_entries = 1 << 30;
    assert_eq!(refused(bad), Err("cq_entries"));
    let mut bad = good;
    bad.flags = setup::CQE32;
    assert_eq!(refused(bad), Err("flags"));
    let mut bad = good;
    bad.sq_off.array = u32::MAX - 3;
    assert_eq!(refused(bad), Err("sq_off.array"));
    let mut bad = good;
    bad.sq_off.tail = 2;
    assert_eq!(refused(bad), Err("sq_off.tail"));
    let mut bad = good;
    bad.cq_off.tail = 1 << 20;
    assert_eq!(refused(bad), Err("cq_off.tail"));
}
