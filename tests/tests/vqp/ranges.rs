//! Lengths, ranges and keys at their limits, on the short way of one path and on the long one.

use spinwire_dataplane::error::Retry;
use spinwire_dataplane::verbs::{Limits, Verb};
use spinwire_dataplane::vqp::{
    CallError, Cause, Done, Op, PlanError, RecvKind, RecvWr, Refusal, Remote, SendWr, Sge, Signal,
    Spread, VqpConfig,
};

use crate::manual::{Bench, LOCAL_BASE};
use crate::rules::{OK, dqplb, notification, settle, spray};
use crate::sizes::{BASE, DQPLB, LIMITS, place_on, plan};

/// Paths, and the one for notifications: one alone, and two.
const EITHER: [(&[u32], Option<u32>); 2] = [(&[0], None), (&[0, 0], Some(0))];

fn post(bench: &Bench<'_>, op: Op, sges: &[Sge], remote: Option<Remote>) -> Result<(), Refusal> {
    bench.vqp.post_send(&SendWr { context: 1, op, sges, remote, signal: Signal::Always })
}

#[test]
fn ranges_that_reach_beyond_their_region_are_refused_on_either_way() {
    let beyond = Err(Refusal::Misuse(CallError::OutsideRegion));
    for paths in EITHER {
        Bench::with(paths, &spray(), |bench| {
            let at = |offset| Some(Remote { region: bench.there, offset });
            let good = [bench.sge(0, 10)];
            for offset in [(1 << 36) - 9, 1 << 36, u64::MAX - 9, u64::MAX] {
                assert_eq!(post(bench, Op::Write, &good, at(offset)), beyond, "{offset:#x}");
                let sges = [bench.sge(offset, 10)];
                assert_eq!(post(bench, Op::Write, &sges, at(0)), beyond, "{offset:#x}");
                assert_eq!(post(bench, Op::Send, &sges, None), beyond, "{offset:#x}");
            }
            assert_eq!(bench.vqp.remains().sends, 0);
            let sges = [bench.sge((1 << 36) - 10, 10)];
            assert_eq!(post(bench, Op::Write, &sges, at((1 << 36) - 10)), Ok(()));
            // A region that would go round the end of memory ends there.
            let key = [Some(1000)];
            let top = bench.local.register(u64::MAX - 100, 1000, &key).unwrap();
            let of_top = |offset| [Sge { region: top, offset, length: 10 }];
            assert_eq!(post(bench, Op::Write, &of_top(91), at(0)), beyond);
            assert_eq!(post(bench, Op::Write, &of_top(90), at(0)), Ok(()));
        });
    }
}

#[test]
fn lengths_whose_sum_is_no_number_are_refused() {
    for paths in EITHER {
        Bench::with(paths, &spray(), |bench| {
            let region = bench.local.register(0, u64::MAX, &[Some(1000)]).unwrap();
            let half = Sge { region, offset: 0, length: 1 << 63 };
            let too_long = Err(Refusal::Misuse(CallError::TooLong));
            let remote = Some(Remote { region: bench.there, offset: 0 });
            assert_eq!(post(bench, Op::Write, &[half, half], remote), too_long);
            assert_eq!(bench.vqp.remains().sends, 0);
        });
    }
}

#[test]
fn more_than_4_gib_are_said_to_have_been_written() {
    let config = VqpConfig { max_message: 1 << 30, send_depth: 64, ..spray() };
    for paths in EITHER {
        Bench::with(paths, &config, |bench| {
            let lengths = [5_u64 << 30, (5 << 30) + 7, 9 << 30];
            for (context, length) in (0..).zip(lengths) {
                bench.post(context, Op::Write, length);
            }
            let expected = lengths.map(|bytes| Ok(Done { bytes, immediate: None }));
            assert_eq!(settle(bench).iter().map(|over| over.1).collect::<Vec<_>>(), expected);
            let given = bench.qps.iter().flat_map(|qp| qp.log.borrow().clone());
            assert_eq!(given.map(|sent| sent.bytes()).sum::<u64>(), lengths.iter().sum::<u64>());
        });
    }
}

#[test]
fn more_than_4_gib_are_said_to_have_come() {
    Bench::with((&[0, 1], None), &dqplb(), |bench| {
        for context in 0..2 {
            bench.vqp.post_recv(&notification(context)).unwrap();
        }
        for number in 0..6 {
            let path = usize::try_from(number).unwrap() % 2;
            let last = if number == 4 || number == 5 { 1 << 31 } else { 0 };
            bench.receive(path, OK, 1 << 30, number | last);
            bench.vqp.ring_doorbell();
        }
        let over: Vec<_> = bench.drain().iter().map(|c| c.outcome).collect();
        let done = |bytes| Ok(Done { bytes, immediate: None });
        assert_eq!(over, [done(5 << 30), done(1 << 30)]);
    });
}

#[test]
fn one_path_takes_over_no_more_requests_than_were_asked_for() {
    for paths in EITHER {
        let config = VqpConfig { sends: 5, send_depth: 16, ..spray() };
        Bench::with(paths, &config, |bench| {
            for context in 0..5 {
                bench.post(context, Op::Write, context + 1);
            }
            let full = Err(Refusal::Retry(Retry::SqFull));
            assert_eq!(bench.stage(5, Op::Write, 6), full);
            let over = settle(bench);
            assert_eq!(over.iter().map(|over| over.0).collect::<Vec<_>>(), [0, 1, 2, 3, 4]);
            assert_eq!(bench.stage(5, Op::Write, 6), Ok(()));
        });
    }
}

#[test]
fn memory_that_is_taken_back_fails_what_waits_and_names_the_device() {
    Bench::with((&[1, 0], None), &dqplb(), |bench| {
        let region = bench.remote.register(0, 1 << 20, &[Some(1), Some(2)]).unwrap();
        // Eight fragments go at once, and the ninth waits for room.
        let sges = [bench.sge(0, 9000)];
        post(bench, Op::WriteNotify, &sges, Some(Remote { region, offset: 0 })).unwrap();
        bench.vqp.ring_doorbell();
        bench.remote.remove(region).unwrap();
        let over = settle(bench);
        assert!(
            matches!(over[..], [(1, Err(Cause::NoKey { device: 0 | 1 }))]),
            "once, with the cause: {over:?}"
        );
        assert_eq!(bench.vqp.remains().sends, 0);
    });
    // A receive that a doorbell has left behind.
    Bench::with((&[0, 0], Some(0)), &spray(), |bench| {
        let region = bench.local.register(LOCAL_BASE, 100, &[Some(1)]).unwrap();
        let sges = [Sge { region, offset: 0, length: 10 }];
        bench.vqp.post_recv(&RecvWr { context: 3, kind: RecvKind::Buffer, sges: &sges }).unwrap();
        bench.qps[0].publish_recvs.set(Some((0, None)));
        bench.vqp.ring_doorbell();
        bench.local.remove(region).unwrap();
        let over: Vec<_> = bench.drain().iter().map(|c| (c.context, c.outcome)).collect();
        assert_eq!(over, [(3, Err(Cause::NoKey { device: 0 }))]);
    });
}

#[test]
fn what_has_not_the_shape_of_its_kind_is_refused() {
    let refused = |error| Err(Refusal::Misuse(error));
    for paths in EITHER {
        let config = VqpConfig { sge_max: 2, ..spray() };
        Bench::with(paths, &config, |bench| {
            let remote = |offset| Some(Remote { region: bench.there, offset });
            let (one, eight) = ([bench.sge(0, 10)], [bench.sge(0, 8)]);
            assert_eq!(post(bench, Op::Send, &one, remote(0)), refused(CallError::UnwantedRemote));
            assert_eq!(post(bench, Op::Write, &one, None), refused(CallError::NoRemote));
            let shape = refused(CallError::AtomicShape);
            for op in [Op::FetchAdd(1), Op::CompareSwap { expected: 0, swap: 1 }] {
                assert_eq!(post(bench, op, &one, remote(0)), shape);
                assert_eq!(post(bench, op, &eight, remote(4)), shape, "not at a multiple of 8");
                assert_eq!(post(bench, op, &[bench.sge(0, 4); 2], remote(0)), shape);
                assert_eq!(post(bench, op, &[], remote(0)), shape);
            }
            let three = [bench.sge(0, 1); 3];
            let many = refused(CallError::TooManySegments);
            assert_eq!(post(bench, Op::Write, &three, remote(0)), many);
            let recv = |kind, sges: &[Sge]| bench.vqp.post_recv(&RecvWr { context: 1, kind, sges });
            assert_eq!(recv(RecvKind::Buffer, &three), many);
            let unwanted = refused(CallError::UnwantedSegments);
            assert_eq!(recv(RecvKind::Notification, &one), unwanted);
            let long = refused(CallError::TooLong);
            assert_eq!(recv(RecvKind::Buffer, &[bench.sge(0, (1 << 32) + 5)]), long);
            let remains = bench.vqp.remains();
            assert_eq!((remains.sends, remains.recvs, remains.in_flight), (0, 0, 0));
        });
    }
}

/// On one path the immediate goes with the last fragment, and with that alone.
#[test]
fn one_path_notifies_with_the_last_fragment() {
    Bench::with((&[0], None), &spray(), |bench| {
        bench.post(1, Op::WriteImm(9), 2500);
        assert_eq!(settle(bench).len(), 1);
        let log = bench.qps[0].log.borrow();
        let verbs: Vec<Verb> = log.iter().map(|sent| sent.verb).collect();
        assert_eq!(verbs, [Verb::Write, Verb::Write, Verb::WriteImm(9)]);
    });
}

#[test]
fn receives_of_pinned_sends_are_where_these_go_and_atomics_take_no_turns() {
    let buffer = |bench: &Bench<'_>| {
        let sges = [bench.sge(0, 10)];
        bench.vqp.post_recv(&RecvWr { context: 1, kind: RecvKind::Buffer, sges: &sges }).unwrap();
        bench.vqp.ring_doorbell();
        bench.qps.iter().map(|qp| qp.recvs.borrow().len()).collect::<Vec<_>>()
    };
    let pinned = VqpConfig { spread: Spread::Pinned(1), ..spray() };
    Bench::with((&[0, 0], Some(0)), &pinned, |bench| assert_eq!(buffer(bench), [0, 1, 0]));
    let rotation = VqpConfig { spread: Spread::Rotation, ..spray() };
    Bench::with((&[0, 0], Some(0)), &rotation, |bench| {
        assert_eq!(buffer(bench), [1, 0, 0]);
        for (context, op) in [Op::Send, Op::FetchAdd(1), Op::Send, Op::FetchAdd(1), Op::FetchAdd(1)]
            .iter()
            .enumerate()
        {
            bench.post(u64::try_from(context).unwrap(), *op, 8);
        }
        let sends = |path: usize| {
            let log = bench.qps[path].log.borrow();
            log.iter().filter(|sent| sent.verb == Verb::Send).count()
        };
        assert_eq!([sends(0), sends(1)], [1, 1], "by turns, whatever goes in between");
    });
}

#[test]
fn what_the_device_allows_is_not_exceeded() {
    for (field, limits) in [
        ("send_depth", Limits { send_depth: 7, ..LIMITS }),
        ("recv_depth", Limits { recv_depth: 7, ..LIMITS }),
        ("sge_max", Limits { sge_max: 3, ..LIMITS }),
        ("max_message", Limits { message_bytes_max: (1 << 20) - 1, ..LIMITS }),
    ] {
        let error = place_on((&[0, 0], limits), &DQPLB).unwrap_err();
        assert!(
            matches!(error, PlanError::Limit { field: found, path: 0, .. } if found == field),
            "{error}"
        );
    }
    let many = vec![0; 65];
    assert_eq!(plan((&many, None), &DQPLB, 1 << 20), Err(PlanError::Paths { paths: 65 }));
    assert_eq!(plan((&many[1..], Some(0)), &BASE, 1 << 20), Err(PlanError::Paths { paths: 65 }));
}
