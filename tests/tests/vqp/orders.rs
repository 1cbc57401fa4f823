//! Every order in which fragments can be completed, with an error at every place.

use spinwire_dataplane::verbs::{Verb, WcStatus};
use spinwire_dataplane::vqp::sequence::SequenceCodec;
use spinwire_dataplane::vqp::{
    CallError, Cause, Done, Op, Refusal, Replay, Scheme, Visibility, VqpConfig,
};

use crate::manual::Bench;

const PART: u64 = 1000;

fn config(scheme: Scheme, replay: Replay) -> VqpConfig {
    VqpConfig {
        scheme,
        replay,
        max_message: 1000,
        sends: 8,
        send_depth: 8,
        recv_depth: 8,
        window: 16,
        ..VqpConfig::default()
    }
}

/// All orders in which paths can complete what they have, one by one: the path of each step.
fn interleavings(loads: &mut Vec<usize>, so_far: &mut Vec<usize>, found: &mut Vec<Vec<usize>>) {
    if loads.iter().all(|load| *load == 0) {
        found.push(so_far.clone());
        return;
    }
    for path in 0..loads.len() {
        if loads[path] > 0 {
            loads[path] -= 1;
            so_far.push(path);
            interleavings(loads, so_far, found);
            so_far.pop();
            loads[path] += 1;
        }
    }
}

/// Of `fragments` over `paths`, completed in `order` with an error at `error`. What was notified.
fn run(
    scheme: Scheme,
    replay: Replay,
    (fragments, paths): (u64, u32),
    order: &[usize],
    error: usize,
) {
    let is_spray = matches!(scheme, Scheme::Spray(_)) && paths > 1;
    let data: Vec<u32> = (0..paths).map(|_| 0).collect();
    let notify = is_spray.then_some(0);
    Bench::with((&data, notify), &config(scheme, replay), |bench| {
        check(bench, (scheme, replay), (fragments, paths), order, error);
    });
}

fn check(
    bench: &Bench<'_>,
    (scheme, replay): (Scheme, Replay),
    (fragments, paths): (u64, u32),
    order: &[usize],
    error: usize,
) {
    let data = usize::try_from(paths).unwrap();
    let is_spray = matches!(scheme, Scheme::Spray(_)) && paths > 1;
    bench.post(7, Op::WriteNotify, fragments * PART);
    let mut dead = vec![false; data];
    for (step, path) in order.iter().enumerate() {
        let is_error = step == error;
        let status = match (is_error, dead[*path]) {
            (_, true) => WcStatus::FLUSHED,
            (true, _) => WcStatus::REMOTE_ACCESS,
            _ => WcStatus::SUCCESS,
        };
        dead[*path] |= is_error;
        let early: Vec<_> = bench.drain();
        assert!(early.is_empty(), "reported before it was over: {early:?} in {order:?} at {step}");
        if is_spray {
            assert!(bench.qps[data].log.borrow().is_empty(), "notified too early: {order:?}");
        }
        let sent = bench.complete(*path, status);
        // It comes twice, and the second time with another outcome.
        bench.completes(*path, sent.wr_id, WcStatus::SUCCESS, (0, None));
    }
    let mut over = bench.drain();
    assert_eq!(bench.vcq.strays().stale, fragments, "{order:?}");
    // What was replayed, and the notification.
    for _ in 0..fragments + 2 {
        for path in 0..bench.qps.len() {
            while bench.loads()[path] > 0 {
                bench.complete(path, WcStatus::SUCCESS);
            }
        }
        over.extend(bench.drain());
    }
    let has_error = error < order.len();
    let is_replayed = replay == Replay::Idempotent && paths > 1;
    assert_eq!(over.len(), 1, "{order:?}, error at {error}: {over:?}");
    assert_eq!(over[0].context, 7);
    let notified = bench
        .qps
        .last()
        .unwrap()
        .log
        .borrow()
        .iter()
        .any(|sent| matches!(sent.verb, Verb::WriteImm(_)) && sent.bytes() == 0);
    if has_error && !is_replayed {
        let expected = Cause::Device { status: WcStatus::REMOTE_ACCESS, vendor: 0x77 };
        assert_eq!(over[0].outcome, Err(expected), "the first cause, not a flush: {order:?}");
        assert!(!notified, "the peer was told of what is not there: {order:?}, error at {error}");
    } else {
        let done = Done { bytes: fragments * PART, immediate: None };
        assert_eq!(over[0].outcome, Ok(done), "{order:?}, error at {error}");
        assert_eq!(notified, is_spray);
        // Every byte was written by somebody who succeeded: what failed was posted a second time.
        let mut parts = vec![0_u64; usize::try_from(fragments).unwrap()];
        for qp in &bench.qps {
            for sent in qp.log.borrow().iter().filter(|sent| sent.bytes() > 0) {
                let offset = sent.remote.unwrap().address - crate::manual::REMOTE_BASE;
                parts[usize::try_from(offset / PART).unwrap()] += 1;
            }
        }
        assert!(parts.iter().all(|count| *count >= 1), "{parts:?}");
    }
    assert_eq!(bench.vqp.remains().sends, 0);
}

#[test]
fn every_order_of_completions_with_an_error_at_each_place() {
    let spray = Scheme::Spray(Visibility::OneDevice);
    let mut cases = 0;
    for scheme in [spray, Scheme::Dqplb(SequenceCodec::Clean)] {
        for paths in 1..=3_u32 {
            for fragments in 1..=6_u64 {
                let mut loads: Vec<usize> = vec![0; usize::try_from(paths).unwrap()];
                for fragment in 0..fragments {
                    loads[usize::try_from(fragment % u64::from(paths)).unwrap()] += 1;
                }
                let mut found = Vec::new();
                interleavings(&mut loads, &mut Vec::new(), &mut found);
                for order in &found {
                    for error in 0..=order.len() {
                        for replay in [Replay::Never, Replay::Idempotent] {
                            run(scheme, replay, (fragments, paths), order, error);
                            cases += 1;
                        }
                    }
                }
            }
        }
    }
    assert!(cases > 3000, "{cases}");
}

/// Devices that break their promise: any of all 720 orders of six fragments, whichever queue they were on.
#[test]
fn devices_that_complete_in_any_order_cause_no_false_success() {
    let mut order: Vec<usize> = (0..6).collect();
    let mut orders = Vec::new();
    permute(&mut order, 0, &mut orders);
    assert_eq!(orders.len(), 720);
    for order in &orders {
        let scheme = Scheme::Spray(Visibility::OneDevice);
        let config = VqpConfig {
            flush_after: spinwire_dataplane::time::Nanos::from_micros(10),
            ..config(scheme, Replay::Never)
        };
        Bench::with((&[0, 0, 0], Some(0)), &config, |bench| complete_in(order, bench));
    }
}

fn complete_in(order: &[usize], bench: &Bench<'_>) {
    {
        bench.post(7, Op::Write, 6 * PART);
        let all: Vec<(usize, u64)> = (0..3)
            .flat_map(|path| {
                let sent = bench.qps[path].sent.borrow();
                sent.iter().map(|sent| (path, sent.wr_id)).collect::<Vec<_>>()
            })
            .collect();
        assert_eq!(all.len(), 6);
        let mut over = Vec::new();
        let mut last = [None; 3];
        let mut is_honest = true;
        for at in order {
            let (path, wr_id) = all[*at];
            is_honest &= last[path].is_none_or(|before| before < *at);
            last[path] = Some(*at);
            bench.completes(path, wr_id, WcStatus::SUCCESS, (0, None));
            over.extend(bench.drain());
        }
        over.extend(bench.drain_after(10_000_000));
        assert_eq!(over.len(), 1, "{order:?}: {over:?}");
        if is_honest {
            assert_eq!(over[0].outcome, Ok(Done { bytes: 6 * PART, immediate: None }));
        } else {
            assert_eq!(over[0].outcome, Err(Cause::Disorder), "{order:?}");
        }
    }
}

/// Arrivals at a receiver in all orders of six fragments (messages of two), around the wrap, each twice.
#[test]
fn every_order_of_arrivals_is_put_in_order() {
    let mut order: Vec<usize> = (0..6).collect();
    let mut orders = Vec::new();
    permute(&mut order, 0, &mut orders);
    for (codec, numbers) in [
        (SequenceCodec::Clean, [0xFF_FFFE, 0xFF_FFFF, 0, 1, 2, 3]),
        (SequenceCodec::Compatible, [0xFF_FFFD, 0xFF_FFFE, 0, 1, 2, 3]),
    ] {
        let config = config(Scheme::Dqplb(codec), Replay::Never);
        let config = VqpConfig { first_sequence: numbers[0], ..config };
        for order in &orders {
            Bench::with((&[0, 0, 0], None), &config, |bench| arrive_in(order, &numbers, bench));
        }
    }
}

fn arrive_in(order: &[usize], numbers: &[u32; 6], bench: &Bench<'_>) {
    for context in 0..3 {
        bench.vqp.post_recv(&crate::rules::notification(context)).unwrap();
    }
    let mut has_come = [false; 6];
    let mut next = 0;
    for (step, at) in order.iter().enumerate() {
        let last = if at % 2 == 1 { 1 << 31 } else { 0 };
        let id = bench.qps[step % 3].recvs.borrow()[0];
        bench.receive(step % 3, WcStatus::SUCCESS, 1 << at, numbers[*at] | last);
        bench.completes(step % 3, id, WcStatus::SUCCESS, (7, Some(numbers[0])));
        has_come[*at] = true;
        let over = bench.drain();
        let ready = has_come.iter().take_while(|has| **has).count() / 2;
        assert_eq!(over.len(), ready - next, "{order:?} at {step}");
        for completion in over {
            let bytes = 3 << (2 * next);
            let done = Ok(Done { bytes, immediate: None });
            assert_eq!(
                (completion.context, completion.outcome),
                (u64::try_from(next).unwrap(), done)
            );
            next += 1;
        }
    }
    assert_eq!((next, bench.vcq.strays().stale), (3, 6));
}

#[test]
fn a_notification_waits_for_a_read_over_each_other_device() {
    // The region for the byte is the first that is registered.
    let scratch = core::cell::Cell::new(None);
    Bench::with((&[0], None), &config(Scheme::Spray(Visibility::OneDevice), Replay::Never), |b| {
        scratch.set(Some(b.here));
    });
    let scheme = Scheme::Spray(Visibility::FlushingRead(scratch.get().unwrap()));
    Bench::with((&[0, 1, 2, 1], Some(0)), &config(scheme, Replay::Never), |bench| {
        bench.post(7, Op::WriteImm(9), 4 * PART);
        let reads = || -> Vec<usize> {
            let is_read = |sent: &&crate::manual::Sent| sent.verb == Verb::Read;
            let logs = bench.qps.iter().map(|qp| qp.log.borrow());
            logs.map(|log| log.iter().filter(is_read).count()).collect()
        };
        let is_notified = || !bench.qps[4].log.borrow().is_empty();
        for path in [3, 1, 0, 2] {
            assert_eq!((reads().iter().sum::<usize>(), is_notified()), (0, false));
            bench.complete(path, WcStatus::SUCCESS);
            bench.drain();
        }
        let reads = reads();
        assert_eq!((reads[0], reads[1] + reads[3], reads[2], reads[4]), (0, 1, 1, 0));
        for path in [2, if reads[1] > 0 { 1 } else { 3 }] {
            assert!(!is_notified());
            let read = bench.complete(path, WcStatus::SUCCESS);
            assert_eq!((read.verb, read.bytes()), (Verb::Read, 1));
            bench.drain();
        }
        assert!(is_notified());
        bench.complete(4, WcStatus::SUCCESS);
        assert_eq!(bench.drain()[0].outcome, Ok(Done { bytes: 4 * PART, immediate: None }));
    });
}

/// Reads over other devices take their time: those of one message do not wait for those of another, the notifications do.
#[test]
fn reads_of_one_message_do_not_wait_for_those_of_another() {
    let scratch = core::cell::Cell::new(None);
    Bench::with((&[0], None), &config(Scheme::Spray(Visibility::OneDevice), Replay::Never), |b| {
        scratch.set(Some(b.here));
    });
    let scheme = Scheme::Spray(Visibility::FlushingRead(scratch.get().unwrap()));
    Bench::with((&[1, 2], Some(0)), &config(scheme, Replay::Never), |bench| {
        for context in 1..=3 {
            bench.post(context, Op::WriteImm(u32::try_from(context).unwrap()), 2 * PART);
        }
        for _ in 0..3 {
            bench.complete(0, WcStatus::SUCCESS);
            bench.complete(1, WcStatus::SUCCESS);
        }
        bench.drain();
        assert_eq!(bench.loads(), [3, 3, 0], "all reads are on their way");
        for _ in 0..2 {
            bench.complete(1, WcStatus::SUCCESS);
        }
        bench.drain();
        assert_eq!(bench.loads(), [3, 1, 0]);
        for _ in 0..2 {
            bench.complete(0, WcStatus::SUCCESS);
        }
        bench.drain();
        assert_eq!(bench.loads(), [1, 1, 2], "of those that are there the peer knows");
        bench.complete(0, WcStatus::REMOTE_ACCESS);
        bench.complete(1, WcStatus::SUCCESS);
        let over = crate::rules::settle(bench);
        let failed = Err(crate::rules::failed(WcStatus::REMOTE_ACCESS));
        assert!(over[..2].iter().all(|over| over.1.is_ok()), "{over:?}");
        assert_eq!((over.len(), over[2]), (3, (3, failed)));
    });
}

#[test]
fn what_a_device_was_not_told_of_it_cannot_have_completed() {
    for (paths, notify) in [(&[0][..], None), (&[0, 0][..], Some(0))] {
        let config = config(Scheme::Spray(Visibility::OneDevice), Replay::Never);
        Bench::with((paths, notify), &config, |bench| {
            bench.stage(1, Op::Write, 10).unwrap();
            let id = bench.staged(0)[0];
            bench.completes(0, id, WcStatus::SUCCESS, (0, None));
            assert!(bench.drain().is_empty());
            assert_eq!((bench.vcq.strays().stale, bench.loads()[0]), (1, 1));
            // Nor what it did not take.
            bench.complete(0, WcStatus::SUCCESS);
            assert_eq!(bench.drain().len(), 1);
            bench.stage(2, Op::Write, 10).unwrap();
            let id = bench.staged(0).first().copied();
            bench.qps[0].publish.set(Some((0, None)));
            bench.vqp.ring_doorbell();
            if let Some(id) = id {
                bench.completes(0, id, WcStatus::SUCCESS, (0, None));
            }
            assert!(bench.drain().is_empty());
        });
    }
}

#[test]
fn late_completions_of_a_former_user_of_the_queue_pairs_match_nothing() {
    let config = config(Scheme::Spray(Visibility::OneDevice), Replay::Never);
    Bench::with((&[0, 0], Some(0)), &config, |bench| {
        bench.post(1, Op::Write, 6 * PART);
        bench.vqp.close();
        bench.drain_after(3_000_000_000);
        bench.vcq.detach(bench.vqp).unwrap();
        let late: Vec<_> = bench.qps.iter().map(|qp| qp.sent.take()).collect();
        // Another one on the same queue pairs, with the same number.
        bench.again(&config, |bench| {
            bench.post(2, Op::Write, 6 * PART);
            for (path, sent) in late.iter().enumerate() {
                for sent in sent {
                    bench.completes(path, sent.wr_id, WcStatus::SUCCESS, (0, None));
                }
            }
            assert!(bench.drain().is_empty());
            assert_eq!(bench.vqp.remains().in_flight, 6);
            assert_eq!(bench.vcq.strays().stale, 6);
        });
    });
}

#[test]
fn a_send_of_more_than_one_message_is_refused() {
    for (paths, notify) in [(&[0][..], None), (&[0, 0][..], Some(0))] {
        let config = config(Scheme::Spray(Visibility::OneDevice), Replay::Never);
        Bench::with((paths, notify), &config, |bench| {
            let refused = Err(Refusal::Misuse(CallError::TooLong));
            assert_eq!(bench.stage(1, Op::Send, PART + 1), refused);
            assert_eq!(bench.stage(1, Op::SendImm(1), u64::from(u32::MAX) + 2), refused);
            assert_eq!(bench.stage(2, Op::Send, PART), Ok(()));
        });
    }
}

fn permute(order: &mut Vec<usize>, from: usize, found: &mut Vec<Vec<usize>>) {
    if from == order.len() {
        found.push(order.clone());
        return;
    }
    for at in from..order.len() {
        order.swap(from, at);
        permute(order, from + 1, found);
        order.swap(from, at);
    }
}
