//! One rule a test, on devices that do what they are told.

use spinwire_dataplane::error::{Fatal, PostError, Retry};
use spinwire_dataplane::poll::Budget;
use spinwire_dataplane::verbs::{Verb, WcFields, WcStatus};
use spinwire_dataplane::vqp::sequence::{SequenceCodec, SequenceFault};
use spinwire_dataplane::vqp::{
    CallError, Cause, Direction, Done, Health, Op, RecvKind, RecvWr, Refusal, Remains, Remote,
    Scheme, SendWr, Signal, Spread, Visibility, VqpConfig,
};

use crate::manual::{Bench, LOCAL_BASE, REMOTE_BASE};

pub(crate) const OK: WcStatus = WcStatus::SUCCESS;
pub(crate) const BAD: WcStatus = WcStatus::RETRY_EXCEEDED;
pub(crate) const MS: u64 = 1_000_000;

pub(crate) fn spray() -> VqpConfig {
    VqpConfig {
        max_message: 1000,
        sends: 16,
        recvs: 16,
        send_depth: 4,
        recv_depth: 4,
        window: 16,
        ..VqpConfig::default()
    }
}

pub(crate) fn dqplb() -> VqpConfig {
    VqpConfig { scheme: Scheme::Dqplb(SequenceCodec::Clean), ..spray() }
}

pub(crate) const fn failed(status: WcStatus) -> Cause {
    Cause::Device { status, vendor: 0x77 }
}

/// Completes everything that is on its way until nothing is, and gives what was over.
pub(crate) fn settle(bench: &Bench<'_>) -> Vec<(u64, Result<Done, Cause>)> {
    let mut over = Vec::new();
    for _ in 0..100 {
        over.extend(bench.drain().iter().map(|c| (c.context, c.outcome)));
        let loads = bench.loads();
        if loads.iter().all(|load| *load == 0) {
            break;
        }
        for (path, load) in loads.iter().enumerate() {
            for _ in 0..*load {
                bench.complete(path, OK);
            }
        }
    }
    over
}

#[test]
fn garbage_in_a_failed_completion_is_not_looked_at() {
    Bench::with((&[0, 0], Some(0)), &spray(), |bench| {
        let buffer = [bench.sge(0, 64)];
        let recv = RecvWr { context: 50, kind: RecvKind::Buffer, sges: &buffer };
        bench.vqp.post_recv(&recv).unwrap();
        bench.post(1, Op::Write, 500);
        bench.post(2, Op::Write, 500);
        // `complete` fills length and immediate with garbage; the id alone says what has failed, and which way it went.
        bench.complete(0, BAD);
        let over = bench.drain();
        assert_eq!(over.len(), 1, "{over:?}");
        assert_eq!((over[0].context, over[0].direction), (1, Direction::Send));
        assert_eq!(over[0].outcome, Err(failed(BAD)));
        bench.receive(0, WcStatus::FLUSHED, 1 << 30, 0xFFFF_FFFF);
        bench.complete(1, OK);
        let over = bench.drain();
        let of = |direction| over.iter().find(|c| c.direction == direction).unwrap();
        assert_eq!(of(Direction::Recv).outcome, Err(failed(BAD)), "not its echo");
        assert_eq!(of(Direction::Send).outcome, Ok(Done { bytes: 500, immediate: None }));
    });
}

#[test]
fn a_dead_path_gets_no_new_work() {
    Bench::with((&[0, 0, 0], Some(0)), &spray(), |bench| {
        bench.post(1, Op::Write, 3000);
        bench.complete(1, BAD);
        assert_eq!(bench.drain().len(), 0, "the other fragments are on their way yet");
        assert_eq!(bench.vqp.path(1).unwrap().health, Health::Down);
        for context in 2..5 {
            bench.post(context, Op::Write, 1000);
        }
        assert_eq!(bench.qps[1].log.borrow().len(), 1, "nothing after the error");
        let over = settle(bench);
        let expected = |context| (context, Ok(Done { bytes: 1000, immediate: None }));
        assert_eq!(over, [(1, Err(failed(BAD))), expected(2), expected(3), expected(4)]);
        // Taken in again, it has its turn.
        bench.vqp.readmit(1).unwrap();
        assert_eq!(bench.vqp.path(1).unwrap().health, Health::Recovered);
        bench.post(5, Op::Write, 3000);
        assert_eq!(bench.qps[1].log.borrow().len(), 2);
        assert_eq!(settle(bench).len(), 1);
        assert_eq!(bench.vqp.path(1).unwrap().health, Health::Ok);
        assert_eq!(bench.vqp.readmit(1), Err(Refusal::Misuse(CallError::NotDown)));
    });
}

#[test]
fn a_doorbell_that_publishes_a_part_leaves_nothing_behind() {
    for error in [None, Some(Fatal::Injected)] {
        for taken in 0..3 {
            Bench::with((&[0, 0], Some(0)), &spray(), |bench| {
                // Six fragments, three a path; of path 0 the device takes only some.
                bench.qps[0].publish.set(Some((taken, error)));
                bench.post(1, Op::Write, 6000);
                assert_eq!(bench.loads()[0], usize::try_from(taken).unwrap());
                let over = settle(bench);
                // What no device ever had was carried by whoever was left, and every byte went out once.
                assert_eq!(over, [(1, Ok(Done { bytes: 6000, immediate: None }))], "{taken}");
                let logs = bench.qps.iter().map(|qp| qp.log.borrow().len());
                assert_eq!(logs.sum::<usize>(), 6, "{taken} {error:?}");
                assert_eq!(bench.vqp.remains(), Remains::default());
            });
        }
    }
    // Where nobody is left, the request fails, once.
    Bench::with((&[0], None), &spray(), |bench| {
        bench.qps[0].publish.set(Some((1, Some(Fatal::Injected))));
        bench.post(1, Op::Write, 3000);
        bench.complete(0, OK);
        let cause = Cause::Refused(PostError::Fatal(Fatal::Injected));
        assert_eq!(settle(bench), [(1, Err(cause))]);
        assert_eq!(bench.vqp.failure(), Some(cause));
    });
}

#[test]
fn the_first_cause_is_the_one_that_is_reported() {
    Bench::with((&[0, 0], Some(0)), &spray(), |bench| {
        bench.post(1, Op::Write, 4000);
        bench.complete(1, WcStatus::REMOTE_ACCESS);
        bench.complete(0, BAD);
        bench.complete(0, WcStatus::FLUSHED);
        bench.complete(1, WcStatus::FLUSHED);
        let over = settle(bench);
        assert_eq!(over, [(1, Err(failed(WcStatus::REMOTE_ACCESS)))]);
        let again = SendWr {
            context: 2,
            op: Op::Write,
            sges: &[],
            remote: Some(Remote { region: bench.there, offset: 0 }),
            signal: Signal::Always,
        };
        let refused = bench.vqp.post_send(&again);
        assert_eq!(refused, Err(Refusal::Down(failed(WcStatus::REMOTE_ACCESS))));
        assert_eq!(bench.vqp.path(0).unwrap().cause, Some(failed(BAD)));
    });
    // The word of the device is kept where a post is refused for good, too.
    Bench::with((&[0], None), &spray(), |bench| {
        bench.qps[0].refuse.set(Some(PostError::Fatal(Fatal::PeerGone)));
        bench.post(1, Op::Write, 10);
        let cause = Cause::Refused(PostError::Fatal(Fatal::PeerGone));
        assert_eq!(settle(bench), [(1, Err(cause))]);
    });
}

#[test]
fn lengths_of_more_than_4_gib_are_cut_exactly() {
    let config = VqpConfig { max_message: 1 << 30, send_depth: 64, ..spray() };
    let gib = 1_u64 << 30;
    for length in [4 * gib - 1, 4 * gib, 4 * gib + 1, 5 * gib - 1, 20 * gib + 7] {
        Bench::with((&[0, 0, 0], Some(0)), &config, |bench| {
            bench.post(1, Op::Write, length);
            assert_eq!(settle(bench), [(1, Ok(Done { bytes: length, immediate: None }))]);
            let mut parts: Vec<(u64, u64, u64)> = Vec::new();
            for qp in &bench.qps {
                for sent in qp.log.borrow().iter() {
                    let remote = sent.remote.unwrap().address - REMOTE_BASE;
                    parts.push((remote, sent.segments[0].0 - LOCAL_BASE, sent.bytes()));
                }
            }
            parts.sort_unstable();
            let mut at = 0;
            for (remote, local, bytes) in parts {
                assert_eq!((remote, local), (at, at));
                at += bytes;
            }
            assert_eq!(at, length);
        });
    }
}

#[test]
fn a_notification_that_finds_no_room_is_posted_later() {
    Bench::with((&[0, 0], Some(0)), &spray(), |bench| {
        // Six notifications, room for four.
        for context in 0..6 {
            bench.post(context, Op::WriteImm(90 + u32::try_from(context).unwrap()), 0);
        }
        assert_eq!(bench.loads(), [0, 0, 4]);
        for _ in 0..4 {
            bench.complete(2, OK);
        }
        assert_eq!(bench.drain().len(), 4);
        assert_eq!(bench.loads(), [0, 0, 2], "the others followed without another post");
        assert_eq!(settle(bench).len(), 2);
        let verbs: Vec<Verb> = bench.qps[2].log.borrow().iter().map(|sent| sent.verb).collect();
        assert_eq!(verbs, (90..96).map(Verb::WriteImm).collect::<Vec<_>>());
        // One that the device will not take for now is tried with the next turn.
        bench.qps[2].refuse.set(Some(PostError::Retry(Retry::SqFull)));
        bench.post(6, Op::WriteImm(1), 0);
        assert_eq!((bench.drain().len(), bench.loads()[2]), (0, 0));
        bench.qps[2].refuse.set(None);
        assert_eq!(settle(bench).len(), 1);
    });
}

#[test]
fn a_receive_that_finds_no_room_is_refused() {
    Bench::with((&[0, 0], Some(0)), &spray(), |bench| {
        let recv = |context| RecvWr { context, kind: RecvKind::Notification, sges: &[] };
        for context in 0..4 {
            bench.vqp.post_recv(&recv(context)).unwrap();
        }
        let full = Err(Refusal::Retry(Retry::RqFull));
        assert_eq!(bench.vqp.post_recv(&recv(4)), full);
        assert_eq!(bench.vqp.remains().recvs, 4, "nothing was taken over");
        bench.vqp.ring_doorbell();
        bench.receive(2, OK, 0, 17);
        let over = bench.drain();
        let done = Done { bytes: 0, immediate: Some(17) };
        assert_eq!((over[0].context, over[0].outcome), (0, Ok(done)));
        bench.vqp.post_recv(&recv(4)).unwrap();
    });
}

#[test]
fn a_turn_takes_no_more_than_its_budget() {
    let config = VqpConfig { sends: 64, send_depth: 64, ..spray() };
    Bench::with((&[0, 0], Some(0)), &config, |bench| {
        for context in 0..64 {
            bench.post(context, Op::Write, 10);
        }
        for step in 0..64 {
            bench.complete(step % 2, OK);
        }
        let budget = Budget { completions: 16, timers: 1, posts: 1 };
        for turn in 1..=4 {
            bench.turn_after(1, budget);
            assert_eq!(bench.vqp.remains().in_flight, 64 - 16 * turn, "turn {turn}");
        }
        let mut count = 0;
        while bench.vcq.take().is_some() {
            count += 1;
        }
        assert_eq!(count, 64);
    });
}

#[test]
fn closing_reports_everything_that_was_on_its_way() {
    Bench::with((&[0, 0], Some(0)), &spray(), |bench| {
        let recv = RecvWr { context: 70, kind: RecvKind::Notification, sges: &[] };
        bench.vqp.post_recv(&recv).unwrap();
        bench.post(1, Op::Write, 2000);
        // More than there is room for: part of it is never given to a device.
        bench.post(2, Op::Write, 9000);
        bench.post(3, Op::WriteImm(5), 10);
        bench.complete(0, OK);
        bench.complete(1, OK);
        bench.vqp.close();
        let busy = bench.vcq.detach(bench.vqp).unwrap_err();
        assert_eq!((busy.sends, busy.recvs), (3, 1), "{busy:?}");
        // One more comes; the others never do.
        bench.complete(0, OK);
        let mut over = bench.drain();
        assert_eq!(over.len(), 1, "{over:?}");
        over.extend(bench.drain_after(3000 * MS));
        let mut contexts: Vec<u64> = over.iter().map(|c| c.context).collect();
        contexts.sort_unstable();
        assert_eq!(contexts, [1, 2, 3, 70], "each once");
        assert_eq!(over[0].outcome, Ok(Done { bytes: 2000, immediate: None }));
        assert!(over[1..].iter().all(|c| c.outcome == Err(Cause::Closed)), "{over:?}");
        bench.vcq.detach(bench.vqp).unwrap();
        // What comes late is counted, and matches nothing.
        let before = bench.vcq.strays().unknown;
        bench.complete(0, OK);
        assert!(bench.drain().is_empty());
        assert_eq!(bench.vcq.strays().unknown, before + 1);
        let remote = Some(Remote { region: bench.there, offset: 0 });
        let op = Op::Write;
        let wr = SendWr { context: 9, op, sges: &[], remote, signal: Signal::Always };
        assert_eq!(bench.vqp.post_send(&wr), Err(Refusal::Misuse(CallError::Closing)));
    });
}

#[test]
fn pinned_sends_wait_for_room() {
    let config = VqpConfig { spread: Spread::Pinned(1), ..spray() };
    Bench::with((&[0, 0], Some(0)), &config, |bench| {
        for context in 0..16 {
            bench.post(context, Op::Send, 10);
        }
        assert_eq!(bench.loads(), [0, 4, 0], "no more than the queue holds");
        let sges = [bench.sge(0, 10)];
        let (op, signal) = (Op::Send, Signal::Always);
        let one_more = SendWr { context: 16, op, sges: &sges, remote: None, signal };
        assert_eq!(bench.vqp.post_send(&one_more), Err(Refusal::Retry(Retry::SqFull)));
        let over = settle(bench);
        assert_eq!(over.iter().map(|o| o.0).collect::<Vec<_>>(), (0..16).collect::<Vec<_>>());
        assert_eq!(bench.qps[1].log.borrow().len(), 16, "in order, on one path");
        // Atomics too.
        bench.post(20, Op::FetchAdd(3), 8);
        assert_eq!(bench.loads(), [0, 1, 0]);
    });
}

#[test]
fn what_the_sequence_cannot_carry_is_refused() {
    Bench::with((&[0, 1], None), &dqplb(), |bench| {
        let remote = Some(Remote { region: bench.there, offset: 0 });
        let sges = [bench.sge(0, 10)];
        let post = |op, remote| {
            let signal = Signal::Always;
            bench.vqp.post_send(&SendWr { context: 1, op, sges: &sges, remote, signal })
        };
        let not_carried = Err(Refusal::Misuse(CallError::NotCarried));
        assert_eq!(post(Op::Write, remote), not_carried);
        assert_eq!(post(Op::Send, None), not_carried);
        assert_eq!(post(Op::SendImm(1), None), not_carried);
        let immediate = Err(Refusal::Misuse(CallError::ImmediateNotCarried));
        assert_eq!(post(Op::WriteImm(1), remote), immediate);
        let recv = RecvWr { context: 1, kind: RecvKind::Buffer, sges: &sges };
        assert_eq!(bench.vqp.post_recv(&recv), not_carried);
        assert_eq!(post(Op::WriteNotify, remote), Ok(()));
        bench.vqp.ring_doorbell();
        let sent = bench.qps[0].log.borrow()[0].clone();
        assert_eq!(sent.verb, Verb::WriteImm(1 << 31), "number 0, and the last");
    });
}

#[test]
fn equal_queue_pair_numbers_on_two_devices_are_kept_apart() {
    Bench::with((&[0, 1], None), &dqplb(), |bench| {
        bench.post(1, Op::WriteNotify, 2000);
        // Path 1's completion, seen on device 0: not its own.
        let wr_id = bench.qps[1].sent.borrow()[0].wr_id;
        let fields = WcFields {
            wr_id,
            qp_num: 7,
            status: OK,
            vendor: 0,
            byte_len: 0,
            immediate: None,
            is_written: false,
            source_qp: 0,
        };
        bench.stray(0, fields);
        assert!(bench.drain().is_empty());
        assert_eq!(bench.vcq.strays().unknown, 1);
        assert_eq!(bench.vqp.path(1).unwrap().sends_in_flight, 1);
        // An id that was never given, another queue pair's number, and one that comes twice.
        for (wr_id, qp_num) in [(0, 7), (u64::MAX, 7), (wr_id, 8), (wr_id ^ (1 << 40), 7)] {
            bench.stray(1, WcFields { wr_id, qp_num, ..fields });
        }
        assert!(bench.drain().is_empty());
        bench.complete(1, OK);
        bench.stray(1, fields);
        bench.complete(0, OK);
        let over = bench.drain();
        assert_eq!(over.len(), 1, "{over:?}");
        assert_eq!(over[0].outcome, Ok(Done { bytes: 2000, immediate: None }));
        let strays = bench.vcq.strays();
        assert_eq!((strays.unknown, strays.stale), (4, 2));
    });
}

#[test]
fn unsignaled_requests_complete_silently() {
    for config in [spray(), dqplb()] {
        let notify = (config.scheme == Scheme::Spray(Visibility::OneDevice)).then_some(0);
        Bench::with((&[0, 0], notify), &config, |bench| {
            bench.post_as(1, Op::WriteNotify, 3000, Signal::OnError);
            bench.post(2, Op::WriteNotify, 10);
            bench.post_as(3, Op::WriteNotify, 10, Signal::OnError);
            let over = settle(bench);
            assert_eq!(over, [(2, Ok(Done { bytes: 10, immediate: None }))]);
            assert_eq!(bench.vqp.remains().sends, 0, "the silent ones are over, too");
            // An error is never silent.
            bench.post_as(4, Op::Read, 1000, Signal::OnError);
            let path = bench.loads().iter().position(|load| *load > 0).unwrap();
            bench.complete(path, BAD);
            assert_eq!(settle(bench), [(4, Err(failed(BAD)))]);
        });
    }
}

#[test]
fn a_missing_key_is_named() {
    Bench::with((&[0, 2], None), &dqplb(), |bench| {
        let partial = bench.local.register(0, 100, &[Some(1), Some(1), None]).unwrap();
        let sges = [spinwire_dataplane::vqp::Sge { region: partial, offset: 0, length: 10 }];
        let remote = Some(Remote { region: bench.there, offset: 0 });
        let (op, signal) = (Op::WriteNotify, Signal::Always);
        let wr = SendWr { context: 1, op, sges: &sges, remote, signal };
        let missing = Err(Refusal::Misuse(CallError::NoKey { device: 2 }));
        assert_eq!(bench.vqp.post_send(&wr), missing);
        let far = bench.remote.register(0, 100, &[None, None, Some(1)]).unwrap();
        let sges = [bench.sge(0, 10)];
        let at = |region, offset| SendWr {
            context: 1,
            op,
            sges: &sges,
            remote: Some(Remote { region, offset }),
            signal,
        };
        let missing = Err(Refusal::Misuse(CallError::NoKey { device: 0 }));
        assert_eq!(bench.vqp.post_send(&at(far, 0)), missing);
        let beyond = Err(Refusal::Misuse(CallError::OutsideRegion));
        assert_eq!(bench.vqp.post_send(&at(bench.there, (1 << 36) - 9)), beyond);
        assert_eq!(bench.vqp.post_send(&at(bench.there, u64::MAX)), beyond);
        bench.remote.remove(far).unwrap();
        let unknown = Err(Refusal::Misuse(CallError::UnknownRegion));
        assert_eq!(bench.vqp.post_send(&at(far, 0)), unknown);
        assert_eq!(bench.vqp.remains().sends, 0);
        // Each device gets its own.
        bench.post(1, Op::WriteNotify, 2000);
        for (path, device) in [(0, 0), (1, 2)] {
            let sent = bench.qps[path].log.borrow()[0].clone();
            assert_eq!(
                (sent.segments[0].2, sent.remote.unwrap().key),
                (1000 + device, 2000 + device)
            );
        }
    });
}

#[test]
fn a_write_of_no_bytes_is_posted_and_completed() {
    for (paths, notify) in [(&[0][..], None), (&[0, 0][..], Some(0))] {
        Bench::with((paths, notify), &spray(), |bench| {
            bench.post(1, Op::Write, 0);
            bench.post(2, Op::WriteImm(9), 0);
            bench.post(3, Op::Read, 0);
            let over = settle(bench);
            let done = Ok(Done { bytes: 0, immediate: None });
            assert_eq!(over, [(1, done), (2, done), (3, done)]);
            let all: Vec<Verb> =
                bench.qps.iter().flat_map(|qp| qp.log.borrow().clone()).map(|s| s.verb).collect();
            let notified = all.iter().filter(|verb| **verb == Verb::WriteImm(9)).count();
            assert_eq!((all.len(), notified), (3, 1), "{all:?}");
        });
    }
}

#[test]
fn several_segments_are_gathered_across_fragments() {
    Bench::with((&[0, 0], Some(0)), &spray(), |bench| {
        let sges =
            [bench.sge(0, 700), bench.sge(10_000, 0), bench.sge(5000, 1600), bench.sge(1, 1)];
        let remote = Some(Remote { region: bench.there, offset: 50 });
        let (op, signal) = (Op::Write, Signal::Always);
        let wr = SendWr { context: 1, op, sges: &sges, remote, signal };
        bench.vqp.post_send(&wr).unwrap();
        bench.vqp.ring_doorbell();
        let segment = |at: u64, length: u32| (LOCAL_BASE + at, length, 1000);
        let sent = |path: usize, index: usize| bench.qps[path].log.borrow()[index].clone();
        assert_eq!(sent(0, 0).segments, [segment(0, 700), segment(5000, 300)]);
        assert_eq!(sent(1, 0).segments, [segment(5300, 1000)]);
        assert_eq!(sent(0, 1).segments, [segment(6300, 300), segment(1, 1)]);
        assert_eq!(sent(0, 1).remote.unwrap().address, REMOTE_BASE + 2050);
        assert_eq!(settle(bench), [(1, Ok(Done { bytes: 2301, immediate: None }))]);
        let five = [bench.sge(0, 1); 5];
        let wr = SendWr { context: 1, op, sges: &five, remote, signal };
        let refused = Err(Refusal::Misuse(CallError::TooManySegments));
        assert_eq!(bench.vqp.post_send(&wr), refused);
        let huge = [bench.sge(0, u64::MAX), bench.sge(0, 2)];
        let wr = SendWr { context: 1, op, sges: &huge, remote, signal };
        assert!(matches!(bench.vqp.post_send(&wr), Err(Refusal::Misuse(_))));
    });
}

#[test]
fn a_refused_post_uses_up_no_sequence_number() {
    for (first, codec) in [(0, SequenceCodec::Clean), (0xFF_FFFE, SequenceCodec::Compatible)] {
        let scheme = Scheme::Dqplb(codec);
        let config = VqpConfig { scheme, first_sequence: first, ..dqplb() };
        Bench::with((&[0, 1], None), &config, |bench| {
            bench.qps[0].refuse.set(Some(PostError::Retry(Retry::SqFull)));
            bench.qps[1].refuse.set(Some(PostError::Retry(Retry::SqFull)));
            bench.post(1, Op::WriteNotify, 2000);
            bench.drain();
            bench.qps[0].refuse.set(None);
            // Path 1 is done for good; and of path 0's doorbell only a part is taken, once.
            bench.qps[1].refuse.set(Some(PostError::Fatal(Fatal::Injected)));
            bench.qps[0].publish.set(Some((0, None)));
            bench.post(2, Op::WriteNotify, 10);
            assert_eq!(settle(bench).len(), 2);
            let immediates: Vec<Verb> =
                bench.qps[0].log.borrow().iter().map(|sent| sent.verb).collect();
            let numbers = [first, codec.next(first), codec.next(codec.next(first))];
            let expected = [(0, false), (1, true), (2, true)]
                .map(|(at, last): (usize, _)| Verb::WriteImm(codec.encode(numbers[at], last)));
            assert_eq!(immediates, expected, "no number left out");
        });
    }
}

#[test]
fn a_read_uses_up_no_sequence_number() {
    Bench::with((&[0, 1], None), &dqplb(), |bench| {
        bench.post(1, Op::WriteNotify, 10);
        bench.post(2, Op::Read, 4000);
        bench.post(3, Op::FetchAdd(1), 8);
        bench.post(4, Op::WriteNotify, 10);
        assert_eq!(settle(bench).len(), 4);
        let mut numbers = Vec::new();
        for qp in &bench.qps {
            for sent in qp.log.borrow().iter() {
                if let Verb::WriteImm(immediate) = sent.verb {
                    numbers.push(immediate & 0xFF_FFFF);
                }
            }
        }
        numbers.sort_unstable();
        assert_eq!(numbers, [0, 1]);
    });
}

pub(crate) const fn notification(context: u64) -> RecvWr<'static> {
    RecvWr { context, kind: RecvKind::Notification, sges: &[] }
}

#[test]
fn the_immediate_of_a_failed_receive_is_not_looked_at() {
    Bench::with((&[0, 1], None), &dqplb(), |bench| {
        bench.vqp.post_recv(&notification(1)).unwrap();
        // A completion that failed, with an immediate that would end the message.
        bench.receive(1, BAD, 10, 1 << 31);
        assert!(bench.drain().is_empty());
        assert_eq!(bench.vqp.path(1).unwrap().health, Health::Draining);
        bench.receive(0, OK, 10, 1 << 31);
        let over = bench.drain();
        assert_eq!(
            (over[0].context, over[0].outcome),
            (1, Ok(Done { bytes: 10, immediate: None }))
        );
    });
}

#[test]
fn messages_without_a_receive_hold_the_peer_back() {
    let config = VqpConfig { window: 4, recv_depth: 4, ..dqplb() };
    Bench::with((&[0, 1], None), &config, |bench| {
        let credits = || bench.qps.iter().map(|qp| qp.recvs.borrow().len()).sum::<usize>();
        assert_eq!(credits(), 8, "posted when it was attached");
        // Messages of one fragment each, and nobody asks for them.
        let mut number = 0;
        for step in 0..40 {
            let path = step % 2;
            if !bench.qps[path].recvs.borrow().is_empty() {
                bench.receive(path, OK, 100 + number, (1 << 31) | number);
                number += 1;
            }
            assert!(bench.drain().is_empty());
        }
        assert_eq!(credits(), 0, "no credit is left, so the peer waits");
        assert!((8..=12).contains(&number), "{number}");
        // Whoever asks gets them in order, and the peer goes on.
        for context in 0..u64::from(number) {
            bench.vqp.post_recv(&notification(context)).unwrap();
            let over = bench.drain();
            assert_eq!(over.len(), 1);
            let done = Done { bytes: 100 + context, immediate: None };
            assert_eq!((over[0].context, over[0].outcome), (context, Ok(done)));
        }
        assert_eq!(credits(), 8);
    });
}

#[test]
fn a_path_that_is_taken_in_again_has_all_its_credits() {
    Bench::with((&[0, 1], None), &dqplb(), |bench| {
        bench.drain();
        bench.vqp.exclude(0).unwrap();
        for _ in 0..4 {
            bench.receive(0, WcStatus::FLUSHED, 0, 0);
        }
        bench.drain();
        assert_eq!(bench.vqp.path(0).unwrap().health, Health::Down);
        bench.vqp.readmit(0).unwrap();
        bench.vqp.ring_doorbell();
        assert_eq!(bench.qps[0].recvs.borrow().len(), 4);
    });
}

#[test]
fn fragments_out_of_order_wait_for_their_predecessors() {
    let numbers = [0xFF_FFFE, 0xFF_FFFF, 0, 1];
    let config = VqpConfig { first_sequence: 0xFF_FFFE, ..dqplb() };
    Bench::with((&[0, 1], None), &config, |bench| {
        bench.vqp.post_recv(&notification(1)).unwrap();
        bench.vqp.post_recv(&notification(2)).unwrap();
        let last = |at: usize| numbers[at] | (1 << 31);
        bench.receive(1, OK, 4, last(3));
        bench.receive(1, OK, 2, last(1));
        assert!(bench.drain().is_empty());
        bench.receive(0, OK, 1, numbers[0]);
        let over = bench.drain();
        assert_eq!((over.len(), over[0].context), (1, 1));
        assert_eq!(over[0].outcome, Ok(Done { bytes: 3, immediate: None }));
        bench.receive(0, OK, 3, numbers[2]);
        let over = bench.drain();
        assert_eq!(over[0].outcome, Ok(Done { bytes: 7, immediate: None }));
        // What no sender may send ends it, and says why.
        bench.vqp.post_recv(&notification(3)).unwrap();
        bench.receive(0, OK, 1, 1 << 20);
        let cause = Cause::Sequence(SequenceFault::Beyond);
        assert_eq!(bench.drain()[0].outcome, Err(cause));
        assert_eq!(bench.vqp.post_recv(&notification(4)), Err(Refusal::Down(cause)));
    });
}
