//! What becomes of requests when paths fail, one rule a test, on devices that do what they are told.

use spinwire_dataplane::poll::Budget;
use spinwire_dataplane::verbs::WcStatus;
use spinwire_dataplane::vqp::{
    CallError, Cause, Done, Health, Op, Refusal, Replay, Scheme, Spread, Visibility, VqpConfig,
};

use crate::manual::Bench;
use crate::rules::{BAD, MS, OK, dqplb, failed, notification, settle, spray};

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
    // In rotation there is another path that could carry it.
    for spread in [Spread::Pinned(0), Spread::Rotation] {
        let config = VqpConfig { replay: Replay::Idempotent, spread, ..spray() };
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

#[test]
fn the_first_cause_is_kept_until_all_is_well_and_then_forgotten() {
    Bench::with((&[0, 0], Some(0)), &spray(), |bench| {
        // The second path fails after the first, and is the last of which anything is heard.
        bench.post(1, Op::Write, 4000);
        bench.complete(0, WcStatus::REMOTE_ACCESS);
        bench.complete(0, WcStatus::FLUSHED);
        bench.complete(1, BAD);
        bench.complete(1, WcStatus::FLUSHED);
        assert_eq!(settle(bench), [(1, Err(failed(WcStatus::REMOTE_ACCESS)))]);
        assert_eq!(bench.vqp.failure(), Some(failed(WcStatus::REMOTE_ACCESS)));
        for path in 0..2 {
            bench.vqp.readmit(path).unwrap();
        }
        assert_eq!(bench.vqp.failure(), None);
        bench.post(2, Op::Write, 2000);
        bench.complete(0, BAD);
        bench.complete(1, BAD);
        assert_eq!(settle(bench), [(2, Err(failed(BAD)))]);
        assert_eq!(bench.vqp.failure(), Some(failed(BAD)), "not that of long ago");
    });
    // An echo of one path says less than what another one says.
    Bench::with((&[0, 0], Some(0)), &spray(), |bench| {
        bench.post(1, Op::Write, 2000);
        bench.complete(0, WcStatus::FLUSHED);
        bench.complete(1, BAD);
        assert_eq!(settle(bench), [(1, Err(failed(BAD)))]);
        assert_eq!(bench.vqp.failure(), Some(failed(BAD)));
    });
}

#[test]
fn nothing_behind_a_lost_part_is_sent_any_more() {
    Bench::with((&[0, 1], None), &dqplb(), |bench| {
        for context in 0..16 {
            bench.post(context, Op::WriteNotify, 10);
        }
        let given = || bench.given(0).len() + bench.given(1).len();
        assert_eq!(given(), 8, "the others wait for room");
        bench.complete(1, BAD);
        let over = settle(bench);
        assert_eq!(over.iter().map(|over| over.0).collect::<Vec<_>>(), (0..16).collect::<Vec<_>>());
        assert_eq!(over[0].1, Ok(Done { bytes: 10, immediate: None }));
        assert_eq!(over[1].1, Err(failed(BAD)));
        assert!(over[2..].iter().all(|over| over.1 == Err(Cause::SequenceLost)), "{over:?}");
        assert_eq!(given(), 8, "the peer would wait for ever");
    });
}

#[test]
fn a_full_path_that_is_taken_in_again_has_room() {
    for config in [spray(), dqplb()] {
        let notify = (config.scheme == Scheme::Spray(Visibility::OneDevice)).then_some(0);
        let config = VqpConfig { replay: Replay::Idempotent, ..config };
        Bench::with((&[0, 0], notify), &config, |bench| {
            bench.post(1, Op::WriteNotify, 8000);
            assert_eq!(bench.loads()[..2], [4, 4]);
            bench.complete(0, BAD);
            for _ in 0..3 {
                bench.complete(0, WcStatus::FLUSHED);
            }
            assert!(settle(bench)[0].1.is_ok());
            while let Some(id) = bench.qps[0].recvs.borrow_mut().pop_front() {
                bench.completes(0, id, WcStatus::FLUSHED, (0, None));
            }
            bench.drain();
            bench.vqp.readmit(0).unwrap();
            bench.post(2, Op::WriteNotify, 8000);
            assert_eq!(bench.loads()[..2], [4, 4], "as before");
            assert!(settle(bench)[0].1.is_ok());
        });
    }
}

#[test]
fn receives_fail_when_no_path_is_left_that_could_serve_them() {
    Bench::with((&[0, 1], None), &dqplb(), |bench| {
        bench.vqp.post_recv(&notification(1)).unwrap();
        bench.vqp.post_recv(&notification(2)).unwrap();
        for path in 0..2 {
            bench.receive(path, BAD, 0, 0);
            for _ in 0..3 {
                bench.receive(path, WcStatus::FLUSHED, 0, 0);
            }
        }
        let over: Vec<_> = bench.drain().iter().map(|c| (c.context, c.outcome)).collect();
        assert_eq!(over, [(1, Err(failed(BAD))), (2, Err(failed(BAD)))]);
        assert_eq!(bench.vqp.remains().recvs, 0);
    });
}

#[test]
fn what_is_received_says_nothing_of_a_send_that_is_stuck() {
    Bench::with((&[0, 0], Some(0)), &VqpConfig { spread: Spread::Pinned(0), ..spray() }, |bench| {
        let sges = [bench.sge(0, 10)];
        let kind = spinwire_dataplane::vqp::RecvKind::Buffer;
        let wr = spinwire_dataplane::vqp::RecvWr { context: 9, kind, sges: &sges };
        bench.vqp.post_recv(&wr).unwrap();
        bench.post(1, Op::Write, 1000);
        bench.drain_after(200 * MS);
        bench.receive(0, OK, 1, 0);
        bench.turn_after(1, Budget::DEFAULT);
        assert_eq!(bench.vqp.path(0).unwrap().health, Health::Suspect);
        bench.complete(0, OK);
        assert_eq!(bench.drain().len(), 2);
        assert_eq!(bench.vqp.path(0).unwrap().health, Health::Ok);
    });
}

/// Numbers that come a second time, or not at all, on receives that were posted: by a peer that has sent something again, or writes
/// without a number.
#[test]
fn a_fragment_that_comes_twice_or_without_a_number_is_dropped() {
    Bench::with((&[0, 1], None), &dqplb(), |bench| {
        for context in 0..3 {
            bench.vqp.post_recv(&notification(context)).unwrap();
        }
        let last = |number: u32| (1 << 31) | number;
        bench.receive(0, OK, 10, last(0));
        bench.receive(1, OK, 10, last(0));
        bench.receive(0, OK, 30, last(2));
        bench.receive(1, OK, 30, last(2));
        let id = bench.qps[0].recvs.borrow_mut().pop_front().unwrap();
        bench.completes(0, id, OK, (1 << 30, None));
        bench.receive(1, OK, 20, last(1));
        let over: Vec<_> = bench.drain().iter().map(|c| (c.context, c.outcome)).collect();
        let done = |context, bytes| (context, Ok(Done { bytes, immediate: None }));
        assert_eq!(over, [done(0, 10), done(1, 20), done(2, 30)]);
        let stale = [0, 1].map(|path| bench.vqp.path(path).unwrap().stale);
        assert_eq!((stale, bench.vqp.failure()), ([1, 2], None));
        // Each used up a receive, which is posted anew.
        assert_eq!([0, 1].map(|path: usize| bench.qps[path].recvs.borrow().len()), [4, 4]);
    });
}

#[test]
fn a_receive_that_is_left_out_takes_its_path_out() {
    Bench::with((&[0, 0], Some(0)), &spray(), |bench| {
        for context in 0..3 {
            bench.vqp.post_recv(&notification(context)).unwrap();
        }
        bench.post(7, Op::WriteImm(1), 10);
        let second = bench.qps[2].recvs.borrow()[1];
        bench.completes(2, second, OK, (0, Some(5)));
        assert!(bench.drain().is_empty());
        let path = bench.vqp.path(2).unwrap();
        assert_eq!((path.health, path.stale), (Health::Draining, 1));
        assert_eq!(path.cause, Some(Cause::Disorder));
    });
}

/// What a device has not taken has a new id when it is posted again: what comes for the old one is nobody's.
#[test]
fn ids_that_a_doorbell_left_behind_are_not_used_again() {
    for paths in [(&[0][..], None), (&[0, 0][..], Some(0))] {
        Bench::with(paths, &spray(), |bench| {
            bench.stage(1, Op::Send, 10).unwrap();
            let old = bench.staged(0)[0];
            bench.qps[0].publish.set(Some((0, None)));
            bench.vqp.ring_doorbell();
            assert!(bench.drain().is_empty());
            assert_eq!(bench.loads()[0], 1, "it went out after all");
            bench.completes(0, old, OK, (0, None));
            assert!(bench.drain().is_empty());
            assert_eq!(settle(bench).len(), 1);
        });
    }
}

#[test]
fn who_is_being_closed_takes_nothing_and_nobody_in() {
    Bench::with((&[0, 0], Some(0)), &spray(), |bench| {
        bench.vqp.exclude(0).unwrap();
        bench.drain();
        bench.vqp.close();
        let closing = Err(Refusal::Misuse(CallError::Closing));
        assert_eq!(bench.vqp.post_recv(&notification(1)), closing);
        assert_eq!(bench.stage(1, Op::Write, 10), closing);
        assert_eq!(bench.vqp.readmit(0), closing);
        bench.drain();
        bench.vcq.detach(bench.vqp).unwrap();
    });
}
