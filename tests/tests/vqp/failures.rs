//! What becomes of requests when paths fail, one rule a test, on devices that do what they are told.

use spinwire_dataplane::verbs::WcStatus;
use spinwire_dataplane::vqp::{
    CallError, Cause, Done, Health, Op, Refusal, Replay, Scheme, Visibility, VqpConfig,
};

use crate::manual::Bench;
use crate::rules::{BAD, MS, OK, dqplb, failed, settle, spray};

#[test]
fn a_device_that_never_flushes_is_flushed_by_time() {
    Bench::with((&[0, 0], Some(0)), &spray(), |bench| {
        bench.post(1, Op::Write, 4000);
        bench.post(2, Op::Write, 2000);
        bench.complete(0, BAD);
        while bench.loads()[1] > 0 {
            bench.complete(1, OK);
        }
        assert!(bench.drain().is_empty(), "the device has the rest yet");
        assert_eq!(bench.vqp.path(0).unwrap().health, Health::Draining);
        let over = bench.drain_after(2000 * MS);
        // The original cause, not the echo.
        let contexts: Vec<_> = over.iter().map(|c| (c.context, c.outcome)).collect();
        assert_eq!(contexts, [(1, Err(failed(BAD))), (2, Err(failed(BAD)))]);
        // It does flush after all: nobody's any more.
        while bench.loads()[0] > 0 {
            bench.complete(0, WcStatus::FLUSHED);
        }
        assert!(bench.drain().is_empty());
        assert!(bench.vcq.strays().stale > 0);
        bench.vqp.readmit(0).unwrap();
        bench.post(3, Op::Write, 2000);
        assert_eq!(settle(bench).len(), 1);
    });
}

#[test]
fn silence_makes_a_path_suspect_then_down_and_is_not_replayed() {
    let config = VqpConfig { replay: Replay::Idempotent, ..spray() };
    Bench::with((&[0, 0], Some(0)), &config, |bench| {
        bench.post(1, Op::Write, 1000);
        assert!(bench.drain_after(200 * MS).is_empty());
        assert_eq!(bench.vqp.path(0).unwrap().health, Health::Suspect);
        bench.post(2, Op::Write, 2000);
        assert_eq!(bench.loads(), [1, 2, 0], "others are preferred");
        bench.complete(1, OK);
        bench.complete(1, OK);
        bench.complete(0, OK);
        assert_eq!(bench.drain().len(), 2);
        assert_eq!(bench.vqp.path(0).unwrap().health, Health::Ok);
        bench.post(3, Op::Write, 2000);
        bench.complete(1, OK);
        let mut over = bench.drain();
        over.extend(bench.drain_after(11_000 * MS));
        over.extend(bench.drain_after(2000 * MS));
        assert_eq!(over.len(), 1, "{over:?}");
        assert_eq!(over[0].outcome, Err(Cause::Silent), "it may still write");
        assert_eq!(bench.qps[1].log.borrow().len(), 3);
    });
}

#[test]
fn when_all_paths_are_down_every_request_completes_once_with_the_cause() {
    for config in [spray(), dqplb()] {
        let notify = (config.scheme == Scheme::Spray(Visibility::OneDevice)).then_some(0);
        Bench::with((&[0, 0], notify), &config, |bench| {
            for context in 0..10 {
                bench.post(context, Op::WriteNotify, 3000);
            }
            bench.complete(0, BAD);
            bench.complete(1, WcStatus::REMOTE_ACCESS);
            let mut over = bench.drain();
            for path in 0..2 {
                while bench.loads()[path] > 0 {
                    bench.complete(path, WcStatus::FLUSHED);
                }
            }
            over.extend(bench.drain());
            let contexts: Vec<_> = over.iter().map(|c| c.context).collect();
            assert_eq!(contexts, (0..10).collect::<Vec<_>>(), "{over:?}");
            assert!(over.iter().all(|c| c.outcome.is_err()), "{over:?}");
            assert_eq!(over[0].outcome, Err(failed(BAD)));
            assert_eq!(bench.vqp.remains().sends, 0);
            assert!(bench.vqp.failure().is_some());
        });
    }
}

#[test]
fn a_lost_part_of_the_sequence_fails_what_comes_behind_it() {
    Bench::with((&[0, 1], None), &dqplb(), |bench| {
        bench.post(1, Op::WriteNotify, 10);
        bench.post(2, Op::WriteNotify, 10);
        bench.post(3, Op::WriteNotify, 10);
        bench.complete(0, OK);
        bench.complete(1, BAD);
        bench.complete(0, OK);
        let over: Vec<_> = bench.drain().iter().map(|c| (c.context, c.outcome)).collect();
        let done = Ok(Done { bytes: 10, immediate: None });
        let lost = Err(Cause::SequenceLost);
        assert_eq!(over, [(1, done), (2, Err(failed(BAD))), (3, lost)], "3 is never delivered");
        assert_eq!(bench.vqp.failure(), Some(Cause::SequenceLost));
        assert_eq!(bench.vqp.readmit(1), Err(Refusal::Down(Cause::SequenceLost)));
    });
    // Replayed under its number, nothing is lost.
    let config = VqpConfig { replay: Replay::Idempotent, ..dqplb() };
    Bench::with((&[0, 1], None), &config, |bench| {
        bench.post(1, Op::WriteNotify, 10);
        bench.post(2, Op::WriteNotify, 10);
        bench.complete(1, BAD);
        assert_eq!(settle(bench).len(), 2);
        let log = bench.qps[0].log.borrow().clone();
        assert_eq!(log[1].verb, bench.qps[1].log.borrow()[0].verb);
        assert_eq!(bench.vqp.failure(), None);
    });
}

#[test]
fn sends_and_atomics_are_never_done_twice() {
    let config = VqpConfig { replay: Replay::Idempotent, ..spray() };
    for op in [Op::Send, Op::FetchAdd(1), Op::CompareSwap { expected: 1, swap: 2 }] {
        Bench::with((&[0, 0], Some(0)), &config, |bench| {
            bench.post(1, op, 8);
            bench.complete(0, BAD);
            assert_eq!(settle(bench), [(1, Err(failed(BAD)))]);
            let logs: Vec<_> = bench.qps.iter().map(|qp| qp.log.borrow().len()).collect();
            assert_eq!(logs, [1, 0, 0]);
        });
    }
}

#[test]
fn a_path_is_taken_out_and_in_without_loss() {
    Bench::with((&[0, 0], Some(0)), &spray(), |bench| {
        bench.post(1, Op::Write, 4000);
        bench.vqp.exclude(0).unwrap();
        assert_eq!(bench.vqp.path(0).unwrap().health, Health::Draining);
        bench.post(2, Op::Write, 2000);
        let over = settle(bench);
        assert!(over.iter().all(|(_, outcome)| outcome.is_ok()), "{over:?}");
        assert_eq!(bench.qps[0].log.borrow().len(), 2);
        assert_eq!(bench.vqp.path(0).unwrap().health, Health::Down);
        bench.vqp.readmit(0).unwrap();
        assert_eq!(bench.vqp.exclude(9), Err(Refusal::Misuse(CallError::UnknownPath)));
    });
}
