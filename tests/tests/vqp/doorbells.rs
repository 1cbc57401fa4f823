//! What a device refuses, or a doorbell leaves behind, of receives and of what notifies.

use spinwire_dataplane::error::{Fatal, Misuse, PostError, Retry};
use spinwire_dataplane::verbs::Verb;
use spinwire_dataplane::vqp::{
    Cause, Health, Op, RecvKind, RecvWr, Refusal, Replay, Scheme, Spread, Visibility, VqpConfig,
};

use crate::manual::Bench;
use crate::rules::{BAD, OK, dqplb, failed, notification, settle, spray};

fn health(bench: &Bench<'_>, path: u32) -> Health {
    bench.vqp.path(path).unwrap().health
}

#[test]
fn credits_that_a_doorbell_left_behind_are_posted_again() {
    Bench::with((&[0, 1], None), &dqplb(), |bench| {
        let posted = || bench.qps.iter().map(|qp| qp.recvs.borrow().len()).collect::<Vec<_>>();
        assert_eq!(posted(), [4, 4]);
        for number in 0..3 {
            bench.receive(0, OK, 10, (1 << 31) | number);
        }
        bench.qps[0].publish_recvs.set(Some((1, None)));
        bench.turn_after(1, spinwire_dataplane::poll::Budget::DEFAULT);
        assert_eq!(posted(), [2, 4]);
        bench.drain();
        assert_eq!(posted(), [4, 4], "as many as before, and no more");
        let figures = bench.vqp.path(0).unwrap();
        assert_eq!((figures.recvs_in_flight, figures.health), (4, Health::Ok));
    });
}

#[test]
fn a_device_that_refuses_receives_for_good_has_its_path_taken_out() {
    let gone = PostError::Fatal(Fatal::PeerGone);
    let cause = Cause::Refused(gone);
    // One is refused; or the doorbell fails.
    Bench::with((&[0, 0], Some(0)), &spray(), |bench| {
        bench.qps[2].refuse.set(Some(gone));
        assert_eq!(bench.vqp.post_recv(&notification(1)), Err(Refusal::Down(cause)));
        bench.drain();
        assert_eq!((health(bench, 2), health(bench, 0)), (Health::Down, Health::Ok));
        assert_eq!(bench.vqp.path(2).unwrap().cause, Some(cause));
    });
    Bench::with((&[0, 0], Some(0)), &spray(), |bench| {
        bench.vqp.post_recv(&notification(1)).unwrap();
        bench.qps[2].publish_recvs.set(Some((0, Some(Fatal::PeerGone))));
        bench.vqp.ring_doorbell();
        let over: Vec<_> = bench.drain().iter().map(|c| (c.context, c.outcome)).collect();
        assert_eq!(over, [(1, Err(cause))]);
        assert_eq!(health(bench, 2), Health::Down);
    });
    // A credit names nothing, so a device that calls it a misuse takes none.
    Bench::with((&[0, 1], None), &dqplb(), |bench| {
        let misuse = PostError::Misuse(Misuse::Unsupported);
        bench.receive(0, OK, 10, 1 << 31);
        bench.qps[0].refuse.set(Some(misuse));
        bench.drain();
        assert_ne!(health(bench, 0), Health::Ok);
        assert_eq!(bench.vqp.path(0).unwrap().cause, Some(Cause::Refused(misuse)));
        assert_eq!(health(bench, 1), Health::Ok);
    });
}

#[test]
fn receives_that_are_left_behind_twice_stay_in_their_order() {
    let config = VqpConfig { recv_depth: 8, spread: Spread::Pinned(0), ..spray() };
    Bench::with((&[0, 0], Some(0)), &config, |bench| {
        for context in 1..=6 {
            let sges = [bench.sge(0, context)];
            let recv = RecvWr { context, kind: RecvKind::Buffer, sges: &sges };
            bench.vqp.post_recv(&recv).unwrap();
        }
        bench.qps[0].publish_recvs.set(Some((0, None)));
        bench.vqp.ring_doorbell();
        // Two of the six find room, and these two are left behind again.
        bench.qps[0].recv_room.set(Some(2));
        bench.qps[0].publish_recvs.set(Some((0, None)));
        bench.turn_after(1, spinwire_dataplane::poll::Budget::DEFAULT);
        bench.qps[0].recv_room.set(None);
        bench.drain();
        for _ in 0..6 {
            bench.receive(0, OK, 1, 0);
        }
        let contexts: Vec<u64> = bench.drain().iter().map(|c| c.context).collect();
        assert_eq!(contexts, [1, 2, 3, 4, 5, 6]);
        let lengths: Vec<u32> = bench.qps[0].buffers.borrow().iter().flatten().copied().collect();
        assert!(lengths.ends_with(&[1, 2, 3, 4, 5, 6]), "{lengths:?}");
    });
}

/// The data is there, and nobody can be told any more: the request has failed.
#[test]
fn who_was_not_told_was_not_written_to_with_success() {
    // The path for notifications fails before the data has completed; or with the notification itself.
    Bench::with((&[0, 0], Some(0)), &spray(), |bench| {
        bench.post(1, Op::WriteImm(1), 2000);
        bench.vqp.post_recv(&notification(9)).unwrap();
        bench.vqp.ring_doorbell();
        bench.receive(2, BAD, 0, 0);
        bench.drain();
        bench.complete(0, OK);
        bench.complete(1, OK);
        assert_eq!(settle(bench), [(1, Err(failed(BAD)))]);
        assert!(bench.qps[2].log.borrow().is_empty());
    });
    for replay in [Replay::Never, Replay::Idempotent] {
        Bench::with((&[0, 0], Some(0)), &VqpConfig { replay, ..spray() }, |bench| {
            bench.post(1, Op::WriteImm(1), 2000);
            bench.complete(0, OK);
            bench.complete(1, OK);
            assert!(bench.drain().is_empty());
            bench.complete(2, BAD);
            assert_eq!(settle(bench), [(1, Err(failed(BAD)))]);
            assert_eq!(bench.qps[2].log.borrow().len(), 1, "told once at most");
        });
    }
}

/// Runs `test` with paths on devices 1 and 2, two on the first, and notifications over device 0.
fn over_devices(replay: Replay, test: impl FnOnce(&Bench<'_>)) {
    let scratch = core::cell::Cell::new(None);
    Bench::with((&[0], None), &spray(), |bench| scratch.set(Some(bench.here)));
    let scheme = Scheme::Spray(Visibility::FlushingRead(scratch.get().unwrap()));
    Bench::with((&[1, 2, 1], Some(0)), &VqpConfig { scheme, replay, ..spray() }, test);
}

fn reads(bench: &Bench<'_>) -> Vec<usize> {
    let is_read = |sent: &&crate::manual::Sent| sent.verb == Verb::Read;
    let logs = bench.qps.iter().map(|qp| qp.log.borrow());
    logs.map(|log| log.iter().filter(is_read).count()).collect()
}

#[test]
fn nobody_is_told_while_a_read_finds_no_room() {
    over_devices(Replay::Never, |bench| {
        bench.post(1, Op::WriteImm(1), 3000);
        for path in 0..3 {
            bench.complete(path, OK);
            bench.qps[path].refuse.set(Some(PostError::Retry(Retry::SqFull)));
        }
        assert!(bench.drain().is_empty());
        assert_eq!((reads(bench), bench.loads()), (vec![0; 4], vec![0; 4]));
        for path in 0..3 {
            bench.qps[path].refuse.set(None);
        }
        assert_eq!(settle(bench).len(), 1);
        assert_eq!(reads(bench).iter().sum::<usize>(), 2);
    });
    // Refused for good, the request fails, and nobody is told.
    over_devices(Replay::Never, |bench| {
        bench.post(1, Op::WriteImm(1), 3000);
        for path in 0..3 {
            bench.complete(path, OK);
        }
        let gone = PostError::Fatal(Fatal::PeerGone);
        bench.qps[1].refuse.set(Some(gone));
        assert_eq!(settle(bench), [(1, Err(Cause::Refused(gone)))]);
        assert!(bench.qps[3].log.borrow().is_empty());
    });
}

#[test]
fn a_read_that_failed_is_made_again_over_the_same_device_or_not_at_all() {
    over_devices(Replay::Idempotent, |bench| {
        bench.post(1, Op::WriteImm(1), 3000);
        for path in 0..3 {
            bench.complete(path, OK);
        }
        bench.drain();
        let first = reads(bench);
        assert_eq!((first[0] + first[2], first[1], first[3]), (1, 1, 0), "{first:?}");
        let at = if first[0] == 1 { 0 } else { 2 };
        bench.complete(at, BAD);
        bench.drain();
        assert_eq!(reads(bench)[2 - at], 1, "the other path on the same device");
        assert!(bench.qps[3].log.borrow().is_empty());
        // That of the other device fails, too, and that device has no more.
        bench.complete(1, BAD);
        assert_eq!(settle(bench), [(1, Err(failed(BAD)))]);
        assert_eq!(reads(bench).iter().sum::<usize>(), 3);
        assert!(bench.qps[3].log.borrow().is_empty(), "nobody was told");
    });
    over_devices(Replay::Never, |bench| {
        bench.post(1, Op::WriteImm(1), 3000);
        for path in 0..3 {
            bench.complete(path, OK);
        }
        bench.drain();
        bench.complete(1, BAD);
        assert_eq!(settle(bench), [(1, Err(failed(BAD)))]);
        assert!(bench.qps[3].log.borrow().is_empty(), "nobody was told");
    });
}
