//! What one turn does for whom: no device, no virtual queue pair and no request has all of it.

use spinwire_dataplane::poll::Budget;
use spinwire_dataplane::verbs::{WcFields, WcStatus};
use spinwire_dataplane::vqp::{
    Direction, Op, RecvKind, RecvWr, Remote, SendWr, Signal, VirtualQp, VqpConfig,
};

use crate::manual::{Bench, ManualQp};
use crate::rules::{BAD, MS, OK, dqplb, settle, spray};

fn deep() -> VqpConfig {
    VqpConfig { sends: 1024, send_depth: 1024, post_burst: 1024, ..spray() }
}

type Vqp<'m> = VirtualQp<'m, &'m ManualQp>;

/// Stages a write of so many bytes on one of several.
fn stage(bench: &Bench<'_>, vqp: &Vqp<'_>, context: u64, length: u64) {
    let sges = [bench.sge(0, length)];
    let remote = Some(Remote { region: bench.there, offset: 0 });
    let (op, signal) = (Op::Write, Signal::Always);
    vqp.post_send(&SendWr { context, op, sges: &sges, remote, signal }).unwrap();
}

#[test]
fn a_budget_is_shared_by_the_devices_and_who_is_first_goes_round() {
    Bench::with(
        (&[0, 1], None),
        &VqpConfig { scheme: dqplb().scheme, window: 1024, ..deep() },
        |bench| {
            for context in 0..200 {
                bench.post(context, Op::WriteNotify, 10);
            }
            for path in [0, 1] {
                while bench.loads()[path] > 0 {
                    bench.complete(path, OK);
                }
            }
            let fragments = || [0, 1].map(|path| bench.vqp.path(path).unwrap().fragments);
            assert_eq!(fragments(), [0, 0]);
            let budget = |completions| Budget { completions, timers: 1, posts: 1 };
            bench.turn_after(1, budget(32));
            assert_eq!(fragments(), [16, 16], "half for each");
            // Not enough for both: one now, the other with the next turn.
            bench.turn_after(1, budget(8));
            bench.turn_after(1, budget(8));
            assert_eq!(fragments(), [32, 32], "nobody waits for ever");
        },
    );
}

#[test]
fn what_is_over_is_handed_out_by_turns() {
    Bench::beside(1, (&[0], None), &deep(), |bench| {
        let other = bench.neighbours[0];
        for context in 0..64 {
            stage(bench, other, context, 10);
            stage(bench, bench.vqp, context, 10);
        }
        bench.drain();
        for sent in bench.more[0][0].sent.borrow_mut().drain(..) {
            bench.completes_for(0, 6, sent.wr_id);
        }
        while bench.loads()[0] > 0 {
            bench.complete(0, OK);
        }
        bench.turn_after(1, Budget { completions: 1024, timers: 1, posts: 16 });
        let first: Vec<u32> = (0..40).map(|_| bench.vcq.take().unwrap().vqp).collect();
        let of_one = first.iter().filter(|vqp| **vqp == first[0]).count();
        assert!((8..=32).contains(&of_one), "{first:?}");
        assert_eq!((0..128 - 40).filter(|_| bench.vcq.take().is_some()).count(), 88);
        assert!(bench.vcq.take().is_none());
    });
}

#[test]
fn what_is_not_flushed_is_given_up_some_at_a_time() {
    Bench::with((&[0], None), &deep(), |bench| {
        for context in 0..1000 {
            bench.post(context, Op::Write, 10);
        }
        bench.complete(0, BAD);
        bench.drain();
        let mut before = bench.vqp.path(0).unwrap().sends_in_flight;
        assert_eq!(before, 999);
        for turn in 0..200 {
            bench.turn_after(10 * MS, Budget::DEFAULT);
            let left = bench.vqp.path(0).unwrap().sends_in_flight;
            assert!(before - left <= 256, "{} in turn {turn}", before - left);
            before = left;
        }
        assert_eq!((before, settle(bench).len()), (0, 999));
    });
}

#[test]
fn one_post_stages_no_more_than_its_burst() {
    for paths in [(&[0][..], None), (&[0, 0][..], Some(0))] {
        Bench::with(paths, &VqpConfig { post_burst: 4, ..deep() }, |bench| {
            bench.post(1, Op::Write, 100_000);
            assert_eq!(bench.loads().iter().sum::<usize>(), 4);
            assert_eq!(settle(bench).len(), 1);
        });
    }
}

#[test]
fn one_turn_looks_at_a_few_for_which_nothing_came() {
    Bench::beside(63, (&[0], None), &spray(), |bench| {
        let vqps = || bench.neighbours.iter().copied().chain([bench.vqp]);
        bench.drain();
        // Staged, and no doorbell was rung.
        vqps().for_each(|vqp| stage(bench, vqp, 1, 10));
        let rung = || {
            let all = bench.more.iter().map(|qps| &qps[0]).chain([bench.qps[0]]);
            all.filter(|qp| !qp.log.borrow().is_empty()).count()
        };
        for turn in 1..=4 {
            bench.turn_after(1, Budget::DEFAULT);
            assert_eq!(rung(), 16 * turn, "turn {turn}");
        }
    });
}

/// Of a path that was just looked at for its device, a completion with its id from another device is none of its own.
#[test]
fn ids_of_one_device_mean_nothing_on_another_within_one_turn() {
    Bench::with((&[0, 1], None), &dqplb(), |bench| {
        bench.post(1, Op::WriteNotify, 1000);
        bench.post(2, Op::WriteNotify, 1000);
        bench.post(3, Op::WriteNotify, 1000);
        let later = bench.qps[0].sent.borrow()[1].wr_id;
        // Whichever device is polled first.
        for _ in 0..2 {
            bench.completes_for(1, 7, later);
            bench.turn_after(1, Budget::DEFAULT);
        }
        bench.complete(0, OK);
        bench.completes_for(1, 7, later);
        bench.turn_after(1, Budget::DEFAULT);
        let figures = bench.vqp.path(0).unwrap();
        assert_eq!((figures.fragments, figures.stale, figures.sends_in_flight), (1, 0, 1));
        assert_eq!(bench.vcq.strays().unknown, 3);
        assert_eq!(settle(bench).len(), 3);
    });
}

/// Whatever else a device writes beside a good id, of what succeeded nothing is looked at that means nothing.
#[test]
fn garbage_beside_a_good_id_changes_nothing() {
    Bench::with((&[0, 0], Some(0)), &spray(), |bench| {
        let garbage = |wr_id, status| WcFields {
            wr_id,
            qp_num: 7,
            status,
            vendor: 0xFFFF_FFFF,
            byte_len: 0xFFFF_FFFF,
            immediate: Some(0xFFFF_FFFF),
            is_written: true,
            source_qp: 0xFFFF_FFFF,
        };
        let sges = [bench.sge(0, 64)];
        bench.vqp.post_recv(&RecvWr { context: 9, kind: RecvKind::Buffer, sges: &sges }).unwrap();
        bench.post(1, Op::Send, 64);
        bench.post(2, Op::Write, 1000);
        let ids: Vec<u64> = bench.qps[0].sent.borrow_mut().drain(..).map(|s| s.wr_id).collect();
        bench.stray(0, garbage(ids[0], WcStatus::SUCCESS));
        let over = bench.drain();
        assert_eq!((over.len(), over[0].direction), (1, Direction::Send));
        assert_eq!(over[0].outcome.map(|done| (done.bytes, done.immediate)), Ok((64, None)));
        assert_eq!(bench.vqp.path(0).unwrap().bytes, 64);
        // Every status there is, and every one there is not, of a receive: it fails alone with what it says.
        let id = bench.qps[0].recvs.borrow_mut().pop_front().unwrap();
        bench.stray(0, garbage(id, WcStatus::from_raw(0xFF)));
        let over = bench.drain();
        assert_eq!((over.len(), over[0].context, over[0].direction), (1, 9, Direction::Recv));
        assert!(over[0].outcome.is_err());
    });
}
