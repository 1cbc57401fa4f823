//! What was wrong in virtual queue pairs once, one fault a test, on devices that do what they are told.

use std::time::Instant as Clock;

use spinwire_dataplane::error::{Misuse, PostError, Retry};
use spinwire_dataplane::poll::Budget;
use spinwire_dataplane::time::Nanos;
use spinwire_dataplane::verbs::{Verb, WcStatus};
use spinwire_dataplane::vqp::{
    CallError, Cause, Done, Health, Op, RecvKind, RecvWr, Refusal, Remote, SendWr, Sge, Signal,
    Spread, VqpConfig,
};

use crate::manual::{Bench, LOCAL_BASE};
use crate::rules::{BAD, MS, OK, dqplb, failed, notification, settle, spray};

const fn done(bytes: u64) -> Result<Done, Cause> {
    Ok(Done { bytes, immediate: None })
}

fn verbs(bench: &Bench<'_>, path: usize) -> Vec<Verb> {
    bench.qps[path].log.borrow().iter().map(|sent| sent.verb).collect()
}

fn health(bench: &Bench<'_>, path: u32) -> Health {
    bench.vqp.path(path).unwrap().health
}

const TWO_POSTS: Budget = Budget { completions: 16, timers: 1, posts: 2 };

#[test]
fn two_short_doorbells_leave_the_order() {
    Bench::with((&[0], None), &spray(), |bench| {
        for context in 1..=3 {
            bench.stage(context, Op::Send, context * 10).unwrap();
        }
        bench.qps[0].publish.set(Some((0, None)));
        bench.vqp.ring_doorbell();
        // Two of the three are staged again, and again they are not taken.
        bench.qps[0].publish.set(Some((0, None)));
        bench.turn_after(1, TWO_POSTS);
        assert_eq!(settle(bench), [(1, done(10)), (2, done(20)), (3, done(30))]);
        assert_eq!(bench.given(0), [10, 20, 30]);
    });
}

#[test]
fn two_short_doorbells_leave_the_order_of_notifications() {
    Bench::with((&[0, 0], Some(0)), &spray(), |bench| {
        for context in 1..=3 {
            bench.stage(context, Op::WriteImm(u32::try_from(context).unwrap()), 0).unwrap();
        }
        bench.qps[2].publish.set(Some((0, None)));
        bench.vqp.ring_doorbell();
        bench.qps[2].publish.set(Some((0, None)));
        bench.turn_after(1, TWO_POSTS);
        assert_eq!(settle(bench).len(), 3);
        assert_eq!(verbs(bench, 2), [1, 2, 3].map(Verb::WriteImm));
    });
}

#[test]
fn a_younger_notification_does_not_pass_one_that_was_taken_back() {
    // The device has no room for the first, and a moment later it has; or it has some at once.
    for refusals in [1, 0] {
        Bench::with((&[0, 0], Some(0)), &spray(), |bench| {
            bench.qps[2].publish.set(Some((0, None)));
            bench.stage(1, Op::WriteImm(1), 0).unwrap();
            bench.stage(2, Op::WriteImm(2), 10).unwrap();
            bench.vqp.ring_doorbell();
            bench.complete(0, OK);
            let refused = PostError::Retry(Retry::SqFull);
            bench.qps[2].refuse.set((refusals > 0).then_some(refused));
            bench.qps[2].refusals.set(refusals);
            assert_eq!(settle(bench).len(), 2);
            assert_eq!(verbs(bench, 2), [1, 2].map(Verb::WriteImm));
        });
    }
}

/// Peers may still write into the receives of a path that this end has given up by itself.
#[test]
fn what_arrives_on_a_path_that_was_given_up_here_is_not_lost() {
    let last = |number: u32| (1 << 31) | number;
    Bench::with((&[0, 1], None), &dqplb(), |bench| {
        bench.vqp.post_recv(&notification(1)).unwrap();
        bench.vqp.post_recv(&notification(2)).unwrap();
        bench.vqp.exclude(0).unwrap();
        bench.drain_after(3000 * MS);
        assert_eq!(health(bench, 0), Health::Down);
        bench.receive(0, OK, 10, last(0));
        bench.receive(1, OK, 20, last(1));
        let over: Vec<_> = bench.drain().iter().map(|c| (c.context, c.outcome)).collect();
        assert_eq!(over, [(1, done(10)), (2, done(20))]);
        // Taken in again after a reset it has all its receives, once.
        bench.qps[0].recvs.borrow_mut().clear();
        bench.vqp.readmit(0).unwrap();
        bench.drain();
        assert_eq!(bench.qps[0].recvs.borrow().len(), 4);
        assert_eq!(bench.vqp.path(0).unwrap().recvs_in_flight, 4);
    });
    Bench::with((&[0, 1], None), &dqplb(), |bench| {
        bench.vqp.post_recv(&notification(1)).unwrap();
        bench.post(7, Op::WriteNotify, 10);
        bench.drain_after(13_000 * MS);
        assert_eq!(health(bench, 0), Health::Down, "silent");
        bench.receive(0, OK, 10, last(0));
        assert_eq!(bench.drain()[0].outcome, done(10));
        // Closed, nothing is left of it.
        bench.vqp.close();
        bench.drain_after(3000 * MS);
        bench.vcq.detach(bench.vqp).unwrap();
    });
}

#[test]
fn a_receive_brings_no_more_bytes_than_its_buffer_has() {
    Bench::with((&[0], None), &spray(), |bench| {
        let sges = [bench.sge(0, 40), bench.sge(100, 24)];
        for (context, bytes) in [(1, 64), (2, 65), (3, u32::MAX), (4, 0)] {
            bench.vqp.post_recv(&RecvWr { context, kind: RecvKind::Buffer, sges: &sges }).unwrap();
            bench.vqp.ring_doorbell();
            bench.receive(0, OK, bytes, 5);
            let outcome = bench.drain()[0].outcome;
            if bytes <= 64 {
                assert_eq!(outcome, Ok(Done { bytes: u64::from(bytes), immediate: Some(5) }));
            } else {
                assert!(outcome.is_err(), "{outcome:?}");
            }
            assert_eq!(health(bench, 0), Health::Ok);
        }
    });
}

#[test]
fn what_a_device_calls_a_misuse_costs_the_request_and_not_the_path() {
    let misuse = PostError::Misuse(Misuse::BadRange);
    for (paths, notify) in [(&[0][..], None), (&[0, 0][..], Some(0))] {
        Bench::with((paths, notify), &spray(), |bench| {
            bench.qps[0].refuse.set(Some(misuse));
            bench.post(1, Op::Write, 10);
            bench.qps[0].refuse.set(None);
            bench.post(2, Op::Write, 10);
            assert_eq!(settle(bench), [(1, Err(Cause::Refused(misuse))), (2, done(10))]);
            assert_eq!(health(bench, 0), Health::Ok);
            let sges = [bench.sge(0, 10)];
            let recv = RecvWr { context: 3, kind: RecvKind::Buffer, sges: &sges };
            bench.qps[0].refuse.set(Some(misuse));
            let refused = bench.vqp.post_recv(&recv);
            assert!(matches!(refused, Err(Refusal::Misuse(_))), "{refused:?}");
            bench.qps[0].refuse.set(None);
            assert_eq!(health(bench, 0), Health::Ok);
            bench.vqp.post_recv(&recv).unwrap();
        });
    }
}

fn rotation() -> VqpConfig {
    VqpConfig { spread: Spread::Rotation, ..spray() }
}

#[test]
fn a_send_in_rotation_that_a_doorbell_left_behind_goes_where_its_receive_is() {
    Bench::with((&[0, 0], Some(0)), &rotation(), |bench| {
        for context in 1..=4 {
            bench.stage(context, Op::Send, context).unwrap();
        }
        bench.qps[0].publish.set(Some((0, None)));
        bench.vqp.ring_doorbell();
        bench.post(5, Op::Send, 5);
        assert_eq!(settle(bench).iter().filter(|over| over.1.is_ok()).count(), 5);
        assert_eq!((bench.given(0), bench.given(1)), (vec![1, 3, 5], vec![2, 4]));
    });
}

#[test]
fn a_send_in_rotation_that_has_no_key_leaves_its_turn_to_the_next() {
    Bench::with((&[0, 0], Some(0)), &rotation(), |bench| {
        for context in 1..=8 {
            bench.stage(context, Op::Send, context).unwrap();
        }
        let region = bench.local.register(LOCAL_BASE, 100, &[Some(1)]).unwrap();
        let sges = [Sge { region, offset: 0, length: 9 }];
        let (op, signal) = (Op::Send, Signal::Always);
        let wr = SendWr { context: 9, op, sges: &sges, remote: None, signal };
        bench.vqp.post_send(&wr).unwrap();
        bench.stage(10, Op::Send, 10).unwrap();
        bench.local.remove(region).unwrap();
        bench.vqp.ring_doorbell();
        let over = settle(bench);
        assert_eq!(over[8], (9, Err(Cause::NoKey { device: 0 })));
        assert_eq!((bench.given(0), bench.given(1)), (vec![1, 3, 5, 7, 10], vec![2, 4, 6, 8]));
    });
}

#[test]
fn a_path_in_rotation_is_taken_in_again_while_nothing_is_posted() {
    Bench::with((&[0, 0], Some(0)), &rotation(), |bench| {
        bench.post(1, Op::Send, 1);
        bench.post(2, Op::Send, 2);
        bench.complete(1, BAD);
        bench.drain();
        // A message on its way: who takes turns with it could not know which one meets which.
        assert_eq!(bench.vqp.readmit(1), Err(Refusal::Misuse(CallError::NotIdle)));
        bench.post(3, Op::Send, 3);
        assert_eq!(settle(bench).len(), 3);
        bench.vqp.readmit(1).unwrap();
        bench.post(4, Op::Send, 4);
        bench.post(5, Op::Send, 5);
        assert_eq!((bench.given(0), bench.given(1)), (vec![1, 3, 4], vec![2, 5]));
    });
    // Writes and notifications take no turns.
    Bench::with((&[0, 0], Some(0)), &rotation(), |bench| {
        bench.vqp.post_recv(&notification(1)).unwrap();
        bench.post(2, Op::WriteImm(1), 3000);
        bench.complete(1, BAD);
        bench.drain();
        bench.vqp.readmit(1).unwrap();
    });
}

#[test]
fn a_receive_that_a_doorbell_left_behind_is_posted_again_in_its_place() {
    // Of the first path the device takes the first receive only, and later one of the others.
    for (config, given) in [
        (VqpConfig { recv_depth: 8, ..rotation() }, &[1, 3, 5, 3, 5, 5, 7][..]),
        (VqpConfig { recv_depth: 8, ..spray() }, &[1, 2, 3, 4, 5, 6, 2, 3, 4, 5, 6, 3, 4, 5, 6, 7]),
    ] {
        Bench::with((&[0, 0], Some(0)), &config, |bench| {
            let post = |context| {
                let sges = [bench.sge(0, context)];
                let recv = RecvWr { context, kind: RecvKind::Buffer, sges: &sges };
                bench.vqp.post_recv(&recv).unwrap();
            };
            (1..=6).for_each(post);
            bench.qps[0].publish_recvs.set(Some((1, None)));
            bench.vqp.ring_doorbell();
            bench.qps[0].publish_recvs.set(Some((1, None)));
            bench.turn_after(1, TWO_POSTS);
            post(7);
            assert!(bench.drain().is_empty(), "nothing has failed");
            assert_eq!(
                bench.qps[0].buffers.borrow().iter().flatten().copied().collect::<Vec<_>>(),
                given
            );
            for path in 0..2 {
                while !bench.qps[path].recvs.borrow().is_empty() {
                    bench.receive(path, OK, 1, 0);
                }
            }
            let contexts: Vec<u64> = bench.drain().iter().map(|c| c.context).collect();
            assert_eq!(contexts, (1..=7).collect::<Vec<_>>());
        });
    }
}

#[test]
fn messages_that_have_arrived_are_received_when_all_paths_are_down() {
    Bench::with((&[0, 1], None), &dqplb(), |bench| {
        bench.receive(0, OK, 10, 1 << 31);
        bench.receive(1, OK, 20, (1 << 31) | 1);
        bench.receive(0, BAD, 0, 0);
        bench.receive(1, BAD, 0, 0);
        bench.drain_after(3000 * MS);
        assert!(bench.vqp.failure().is_some());
        bench.vqp.post_recv(&notification(1)).unwrap();
        bench.vqp.post_recv(&notification(2)).unwrap();
        let down = Refusal::Down(failed(BAD));
        assert_eq!(bench.vqp.post_recv(&notification(3)), Err(down));
        let over: Vec<_> = bench.drain().iter().map(|c| (c.context, c.outcome)).collect();
        assert_eq!(over, [(1, done(10)), (2, done(20))]);
    });
    // Those before a number that cannot be right have arrived, too.
    Bench::with((&[0, 1], None), &dqplb(), |bench| {
        bench.receive(0, OK, 10, 1 << 31);
        bench.receive(1, OK, 20, 0x7F00_0001);
        bench.drain();
        bench.vqp.post_recv(&notification(1)).unwrap();
        assert_eq!(bench.drain()[0].outcome, done(10));
        assert!(matches!(bench.vqp.post_recv(&notification(2)), Err(Refusal::Down(_))));
    });
}

#[test]
fn a_send_that_is_stuck_is_seen_while_receives_go_on() {
    Bench::with((&[0], None), &spray(), |bench| {
        bench.post(1, Op::Write, 10);
        for context in 0..13_000_u64 {
            if bench.qps[0].recvs.borrow().is_empty() {
                let recv = RecvWr { context, kind: RecvKind::Notification, sges: &[] };
                if bench.vqp.post_recv(&recv).is_err() {
                    break;
                }
                bench.vqp.ring_doorbell();
            }
            bench.receive(0, OK, 0, 0);
            bench.turn_after(MS, Budget::DEFAULT);
            while bench.vcq.take().is_some() {}
        }
        assert_ne!(health(bench, 0), Health::Ok);
        assert_eq!(bench.vqp.path(0).unwrap().cause, Some(Cause::Silent));
    });
}

#[test]
fn time_in_which_nobody_polled_does_not_count() {
    Bench::with((&[0, 0], Some(0)), &spray(), |bench| {
        bench.post(1, Op::Write, 10);
        bench.drain();
        // The process is stopped for a minute, and what has completed is seen with the second turn only.
        bench.turn_after(60_000 * MS, Budget::DEFAULT);
        assert!(matches!(health(bench, 0), Health::Ok | Health::Suspect));
        bench.complete(0, OK);
        assert_eq!(bench.drain().len(), 1);
        assert_eq!(health(bench, 0), Health::Ok);
    });
    // Posted after a long pause without a turn in between, and not old.
    Bench::with((&[0, 0], Some(0)), &spray(), |bench| {
        bench.drain();
        bench.post(1, Op::Write, 10);
        bench.turn_after(60_000 * MS, Budget::DEFAULT);
        bench.turn_after(1, Budget::DEFAULT);
        assert_eq!(health(bench, 0), Health::Ok);
        bench.complete(0, OK);
        assert_eq!(bench.drain()[0].outcome, done(10));
    });
    // Nor is what a device flushes meanwhile taken for flushed.
    Bench::with((&[0], None), &spray(), |bench| {
        bench.post(1, Op::Write, 10);
        bench.post(2, Op::Write, 10);
        bench.vqp.exclude(0).unwrap();
        bench.drain();
        bench.turn_after(60_000 * MS, Budget::DEFAULT);
        bench.complete(0, OK);
        bench.complete(0, OK);
        let over = bench.drain();
        assert!(over.iter().all(|c| c.outcome.is_ok()), "{over:?}");
    });
}

#[test]
fn a_path_without_work_is_not_suspected() {
    Bench::beside(16, (&[0, 0], Some(0)), &spray(), |bench| {
        // Staged, and for a turn nobody comes to ring: sixteen others are looked at first.
        bench.stage(1, Op::Write, 10).unwrap();
        bench.turn_after(200 * MS, Budget::DEFAULT);
        // Then the device does not take it.
        bench.qps[0].publish.set(Some((0, None)));
        for _ in 0..4 {
            bench.turn_after(MS, Budget::DEFAULT);
        }
        while bench.loads()[1] > 0 {
            bench.complete(1, OK);
        }
        while bench.loads()[0] > 0 {
            bench.complete(0, OK);
        }
        bench.drain_after(MS);
        assert_eq!(health(bench, 0), Health::Ok);
    });
}

#[test]
fn one_turn_looks_at_the_times_of_a_few_only() {
    Bench::beside(63, (&[0], None), &spray(), |bench| {
        let vqps = || bench.neighbours.iter().copied().chain([bench.vqp]);
        for vqp in vqps() {
            let sges = [bench.sge(0, 10)];
            let remote = Some(Remote { region: bench.there, offset: 0 });
            let (op, signal) = (Op::Write, Signal::Always);
            vqp.post_send(&SendWr { context: 1, op, sges: &sges, remote, signal }).unwrap();
            vqp.ring_doorbell();
        }
        let suspects =
            || vqps().filter(|vqp| vqp.path(0).unwrap().health == Health::Suspect).count();
        let mut before = 0;
        for turn in 0..1000 {
            bench.turn_after(MS, Budget::DEFAULT);
            let now = suspects();
            assert!(now - before <= 16, "{before}, then {now} in turn {turn}");
            before = now;
        }
        assert_eq!(before, 64, "all of them were seen to");
        // Those far behind are not forgotten.
        assert_eq!(bench.more[62][0].log.borrow().len(), 1);
    });
}

#[test]
fn one_turn_stages_no_more_than_its_posts_and_nobody_starves() {
    let config = VqpConfig { send_depth: 64, ..spray() };
    Bench::beside(7, (&[0], None), &config, |bench| {
        let vqps = || bench.neighbours.iter().copied().chain([bench.vqp]);
        for vqp in vqps() {
            let sges = [bench.sge(0, 200_000)];
            let remote = Some(Remote { region: bench.there, offset: 0 });
            let (op, signal) = (Op::Write, Signal::Always);
            vqp.post_send(&SendWr { context: 1, op, sges: &sges, remote, signal }).unwrap();
        }
        let loads = || vqps().map(|vqp| vqp.remains().in_flight).collect::<Vec<_>>();
        // Let everybody begin anew, with much to stage.
        assert!(loads().iter().all(|load| *load == 64), "{:?}", loads());
        bench.drain();
        for qps in bench.more {
            let sent: Vec<_> = qps[0].sent.borrow_mut().drain(..).collect();
            for sent in sent {
                bench.completes_for(0, 6, sent.wr_id);
            }
        }
        while bench.loads()[0] > 0 {
            bench.complete(0, OK);
        }
        let ever = || -> usize {
            bench.more.iter().map(|qps| qps[0].log.borrow().len()).sum::<usize>()
                + bench.given(0).len()
        };
        let budget = Budget { completions: 1024, timers: 1, posts: 16 };
        let mut before = ever();
        for turn in 0..16 {
            bench.turn_after(1, budget);
            let now = ever();
            assert!(now - before <= 16, "{} in turn {turn}", now - before);
            before = now;
        }
        let least = bench.more.iter().map(|qps| qps[0].log.borrow().len()).min().unwrap();
        assert!(least.min(bench.given(0).len()) > 64 + 16, "{least}, {}", bench.given(0).len());
    });
}

/// What it costs to give up a sequence must not grow with the fragments that were lost times those that wait.
#[test]
fn a_lost_sequence_is_given_up_in_one_go() {
    let time = |fragments: u32| {
        let rows = 1 << 13;
        let config = VqpConfig { sends: rows, send_depth: 512, window: 1024, ..dqplb() };
        let mut took = None;
        Bench::with((&[0], None), &VqpConfig { send_depth: 512, ..config }, |_| {});
        Bench::with((&[0, 1], None), &config, |bench| {
            for context in 0..u64::from(rows) {
                bench.stage(context, Op::WriteNotify, 10).unwrap();
            }
            bench.vqp.ring_doorbell();
            bench.complete(0, BAD);
            for _ in 1..fragments {
                bench.complete(0, WcStatus::FLUSHED);
            }
            let start = Clock::now();
            while bench.qps[0].sent.borrow().len() < 512 && start.elapsed().as_secs() < 60 {
                let before = bench.vqp.path(0).unwrap().errors;
                bench.turn_after(1, Budget::DEFAULT);
                if bench.vqp.path(0).unwrap().errors == before {
                    break;
                }
            }
            took = Some(start.elapsed());
        });
        took.unwrap()
    };
    let few = (0..3).map(|_| time(2)).min().unwrap();
    let many = (0..3).map(|_| time(512)).min().unwrap();
    assert!(many < few * 60, "{few:?} for 2 fragments, {many:?} for 512");
}

#[test]
fn a_notification_is_not_starved_by_fragments() {
    let config = VqpConfig { send_depth: 64, post_burst: 1, ..spray() };
    Bench::with((&[0, 0], Some(0)), &config, |bench| {
        bench.post(1, Op::WriteImm(1), 10);
        // There is room for its fragments all the time.
        bench.post(2, Op::Write, 60_000);
        bench.complete(0, OK);
        for _ in 0..6 {
            bench.turn_after(1, Budget { posts: 1, ..TWO_POSTS });
        }
        assert_eq!(verbs(bench, 2), [Verb::WriteImm(1)]);
        assert_eq!(settle(bench).len(), 2);
    });
}

#[test]
fn what_is_flushed_fails_with_the_cause_of_the_flush() {
    let first = WcStatus::REMOTE_ACCESS;
    Bench::with((&[0], None), &spray(), |bench| {
        let recv = RecvWr { context: 9, kind: RecvKind::Notification, sges: &[] };
        bench.vqp.post_recv(&recv).unwrap();
        // Three with the device, two that wait.
        for context in 1..=6 {
            bench.post(context, Op::Write, 10);
        }
        bench.complete(0, first);
        for _ in 0..3 {
            bench.complete(0, WcStatus::FLUSHED);
        }
        bench.receive(0, WcStatus::FLUSHED, 0, 0);
        let over = bench.drain();
        assert_eq!(over.len(), 7);
        assert!(over.iter().all(|c| c.outcome == Err(failed(first))), "{over:?}");
    });
    // The echo may come first: receives and sends are two queues.
    Bench::with((&[0], None), &spray(), |bench| {
        let recv = RecvWr { context: 9, kind: RecvKind::Notification, sges: &[] };
        bench.vqp.post_recv(&recv).unwrap();
        bench.post(1, Op::Write, 10);
        bench.post(2, Op::Write, 10);
        bench.receive(0, WcStatus::FLUSHED, 0, 0);
        bench.complete(0, first);
        bench.complete(0, WcStatus::FLUSHED);
        let over = bench.drain();
        let of = |context| over.iter().find(|c| c.context == context).unwrap().outcome;
        assert_eq!([of(1), of(2)], [Err(failed(first)); 2]);
        assert_eq!(bench.vqp.path(0).unwrap().cause, Some(failed(first)));
        assert_eq!(bench.vqp.failure(), Some(failed(first)));
    });
}

#[test]
fn a_write_that_nobody_could_be_told_of_is_refused() {
    Bench::with((&[0, 0], Some(0)), &spray(), |bench| {
        bench.post(1, Op::Write, 10);
        bench.post(2, Op::WriteImm(7), 9000);
        bench.vqp.post_recv(&notification(3)).unwrap();
        bench.vqp.ring_doorbell();
        bench.receive(2, BAD, 0, 0);
        bench.drain();
        assert_eq!(health(bench, 2), Health::Down);
        let before = bench.given(0).len() + bench.given(1).len();
        for op in [Op::WriteImm(1), Op::WriteNotify] {
            assert_eq!(bench.stage(4, op, 10), Err(Refusal::Down(failed(BAD))));
        }
        // The rest of what was begun is not written for nothing.
        assert_eq!(settle(bench), [(1, done(10)), (2, Err(failed(BAD)))]);
        assert_eq!(bench.given(0).len() + bench.given(1).len(), before);
        bench.post(5, Op::Write, 10);
        assert_eq!(settle(bench), [(5, done(10))]);
    });
}

#[test]
fn segments_of_no_bytes_are_left_out() {
    for (paths, notify) in [(&[0][..], None), (&[0, 0][..], Some(0))] {
        Bench::with((paths, notify), &spray(), |bench| {
            let sges = [bench.sge(0, 0), bench.sge(0, 10), bench.sge(5, 0), bench.sge(20, 5)];
            let remote = Some(Remote { region: bench.there, offset: 0 });
            for (op, remote) in [(Op::Write, remote), (Op::Read, remote), (Op::Send, None)] {
                let signal = Signal::Always;
                let wr = SendWr { context: 1, op, sges: &sges, remote, signal };
                bench.vqp.post_send(&wr).unwrap();
            }
            bench.post(2, Op::Write, 0);
            bench
                .vqp
                .post_recv(&RecvWr { context: 3, kind: RecvKind::Buffer, sges: &sges })
                .unwrap();
            bench.vqp.ring_doorbell();
            let logs = bench.qps.iter().flat_map(|qp| qp.log.borrow().clone()).collect::<Vec<_>>();
            assert_eq!(logs.len(), 4);
            for sent in logs {
                let lengths: Vec<u32> = sent.segments.iter().map(|segment| segment.1).collect();
                assert!(lengths == [10, 5] || lengths.is_empty(), "{lengths:?}");
            }
            assert_eq!(bench.qps[0].buffers.borrow()[0], [10, 5]);
        });
    }
}

#[test]
fn a_time_of_zero_is_refused() {
    for config in [
        VqpConfig { suspect_after: Nanos::new(0), ..spray() },
        VqpConfig { silent_after: Nanos::new(0), ..spray() },
        VqpConfig { flush_after: Nanos::new(0), ..spray() },
    ] {
        let refused = crate::sizes::plan((&[0, 0], Some(0)), &config, 1000);
        assert!(refused.unwrap_err().to_string().contains("_after"));
    }
}

#[test]
fn a_request_that_could_go_at_once_waits_for_those_before_it() {
    Bench::with((&[0], None), &spray(), |bench| {
        // Left behind by a doorbell.
        bench.stage(1, Op::Send, 1).unwrap();
        bench.qps[0].publish.set(Some((0, None)));
        bench.vqp.ring_doorbell();
        bench.post(2, Op::Send, 2);
        // Four with the device, three that wait, and room for more than one.
        for length in 3..=7 {
            bench.post(length, Op::Send, length);
        }
        bench.complete(0, OK);
        bench.complete(0, OK);
        bench.turn_after(1, Budget { posts: 1, ..TWO_POSTS });
        bench.post(8, Op::Send, 8);
        assert_eq!(settle(bench).len(), 8);
        assert_eq!(bench.given(0), (1..=8).collect::<Vec<_>>());
    });
}
