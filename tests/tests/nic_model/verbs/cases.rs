//! What both ends are put through.

use core::mem::MaybeUninit;

use spinwire_dataplane::cq::{Compression, Cq, CqMemory, EntryBytes};
use spinwire_dataplane::error::{Misuse, PostError, Retry};
use spinwire_dataplane::id::WrId;
use spinwire_dataplane::provider::mlx5::{
    BadPair, Completions, CompletionsError, Pair, PairConfig, Route,
};
use spinwire_dataplane::raw::mmio::Device;
use spinwire_dataplane::raw::place::Bump;
use spinwire_dataplane::verbs::{
    CompletionQueue, Destination, QueuePair, RecvRequest, RemotePlace, Segment, SendRequest, Verb,
    Wc, WcStatus,
};
use spinwire_dataplane::wqe::{
    IbPath, Qp, QpConfig, QpMemory, RecvConfig, SendConfig, Straddle, Transport,
};
use spinwire_tests::rng::{Rng, pattern};
use spinwire_tests::sim::nic::bytes::{read_ring, write_lines};
use spinwire_tests::sim::nic::wqe::Transport as Kind;
use spinwire_tests::sim::nic::{Counters, Fabric, Flush, Manner, Short};

use super::{
    End, Ground, KEY, Plan, QPN, RECEIVES, SLOT, SLOTS, address, connected, device_plan, settle,
    turn,
};

fn plans() -> impl Iterator<Item = Plan> {
    const SHORT: [Short; 5] = [
        Short::Never,
        Short::Basic(Counters::Counted),
        Short::Basic(Counters::Told),
        Short::Enhanced(Counters::Counted),
        Short::Enhanced(Counters::Told),
    ];
    (1..=12_u64).map(|seed| Plan {
        seed,
        inline: [0, 28, 220][usize::try_from(seed % 3).unwrap()],
        straddle: if seed % 4 == 0 { Straddle::Wrap } else { Straddle::Fill },
        scatter: seed % 5 < 2,
        flush: if seed % 2 == 0 { Flush::Every } else { Flush::Signaled },
        compress: SHORT[usize::try_from(seed % 5).unwrap()],
        bad_percent: 0,
        unsignaled_percent: [0, 50, 95, 100][usize::try_from(seed / 3).unwrap() % 4],
        unheard_max: SLOTS - 4,
    })
}

#[test]
fn messages_of_all_verbs_arrive_and_each_request_ends_once() {
    for plan in plans() {
        connected(&plan, |fabric, ends, rng| {
            for _ in 0..150 {
                turn(fabric, ends, &plan, rng);
            }
            settle(fabric, ends, rng);
            for end in ends.iter() {
                // Of those that asked for nothing the last may not have been told of yet.
                assert!(end.sends.iter().all(|sent| sent.unsignaled), "seed {}", plan.seed);
                assert!(end.coming.is_empty(), "seed {}", plan.seed);
                assert!(end.ended[1] > 15, "seed {}: {:?}", plan.seed, end.ended);
                let counts = end.cq.counts();
                assert_eq!(
                    (counts.failed, counts.odd, counts.stale, counts.unknown_queue),
                    (0, 0, 0, 0)
                );
            }
        });
    }
}

#[test]
fn what_an_error_ends_is_told_once_in_order_and_both_begin_anew() {
    let mut statuses = std::collections::BTreeSet::new();
    for plan in plans() {
        let plan = Plan { bad_percent: 5, unheard_max: 2, ..plan };
        connected(&plan, |fabric, ends, rng| {
            // On some it is somebody else who puts the queue pair into error.
            let pulled = plan.seed.is_multiple_of(3);
            // A short life leaves numbers behind that the next one has, too.
            let steps = if plan.seed.is_multiple_of(2) { 120 } else { 8 };
            for step in 0..steps {
                turn(fabric, ends, &Plan { bad_percent: if pulled { 0 } else { 5 }, ..plan }, rng);
                if pulled && step == steps / 2 {
                    fabric.fail(0, QPN[0]);
                }
            }
            // Who has no peer any more fails by itself, or is taken down.
            for node in [0, 1] {
                fabric.fail(node, QPN[node]);
            }
            fabric.settle(2000);
            // Some is polled, the rest is left behind in the queue; or all of it.
            for _ in 0..if plan.seed.is_multiple_of(2) { rng.index(4) } else { 0 } {
                ends[0].poll(rng);
                ends[1].poll(rng);
            }
            statuses.extend(ends.iter().filter_map(|end| end.failed.map(WcStatus::as_raw)));
            for (node, end) in ends.iter_mut().enumerate() {
                fabric.destroy(node, QPN[node]);
                if plan.seed.is_multiple_of(2) {
                    end.cq.end(end.pair).unwrap();
                    let owes = !end.sends.is_empty() || !end.receives.is_empty();
                    assert_eq!(end.pair.restart().is_err(), owes, "not before all is told");
                    while end.poll(rng) {}
                    let left = (&end.sends, &end.receives);
                    assert!(left.0.is_empty() && left.1.is_empty(), "seed {}: {left:?}", plan.seed);
                    end.pair.restart().unwrap();
                } else {
                    // Another queue pair in its place: nobody hears of what was under way.
                    assert!(end.cq.remove(QPN[node]).unwrap().is_some());
                    end.pair.renew().unwrap();
                    end.cq.add(end.pair).unwrap();
                }
                end.begin_anew();
            }
            second_life(fabric, ends, &plan, rng);
        });
    }
    let expected = [WcStatus::FLUSHED, WcStatus::REMOTE_ACCESS].map(WcStatus::as_raw);
    assert_eq!(statuses.into_iter().collect::<Vec<_>>(), expected);
}

fn second_life<'m>(fabric: &mut Fabric<'m>, ends: &mut [End<'m>; 2], plan: &Plan, rng: &mut Rng) {
    let plan = Plan { bad_percent: 0, ..*plan };
    for (node, end) in ends.iter().enumerate() {
        fabric.qp(node, device_plan(node, end.ground, &plan, Kind::Rc));
    }
    fabric.connect((0, QPN[0]), (1, QPN[1]));
    let before = ends.each_ref().map(|end| end.ended[1]);
    for _ in 0..60 {
        turn(fabric, ends, &plan, rng);
    }
    settle(fabric, ends, rng);
    for (end, before) in ends.iter().zip(before) {
        assert!(end.sends.iter().all(|sent| sent.unsignaled), "seed {}", plan.seed);
        assert!(end.coming.is_empty() && end.ended[1] > before, "seed {}", plan.seed);
        assert_eq!(end.failed, None);
    }
}

const QUIET: Plan = Plan {
    seed: 1,
    inline: 28,
    straddle: Straddle::Fill,
    scatter: false,
    flush: Flush::Every,
    compress: Short::Never,
    bad_percent: 0,
    unsignaled_percent: 0,
    unheard_max: 0,
};

#[test]
fn what_cannot_be_asked_is_refused_by_name_and_nothing_is_staged() {
    connected(&QUIET, |_, [end, other], rng| {
        let id = WrId::from_raw(1);
        let one = end.segments(0, 0, rng)[..1].to_vec();
        let of = |length| vec![Segment { length, ..one[0] }];
        let place = RemotePlace { address: address(other.data), key: KEY[1] };
        let end = &*end;
        let misuse = |why: Misuse| Err(PostError::Misuse(why));
        assert_eq!(end.send(Verb::Send, &[one[0]; 3], None), misuse(Misuse::TooLong));
        assert_eq!(end.send(Verb::Send, &of(257), None), misuse(Misuse::TooLong));
        let outside = [Segment { address: one[0].address - 1, length: 1, ..one[0] }];
        assert_eq!(end.send(Verb::Send, &outside, None), misuse(Misuse::ForeignKey));
        let foreign = [Segment { key: other.key, length: 8, ..one[0] }];
        assert_eq!(end.send(Verb::Send, &foreign, None), misuse(Misuse::ForeignKey));
        assert_eq!(end.send(Verb::Write, &of(8), None), misuse(Misuse::Unsupported));
        assert_eq!(end.send(Verb::FetchAdd(1), &of(4), Some(place)), misuse(Misuse::BadRange));
        assert_eq!(end.send(Verb::FetchAdd(1), &[], Some(place)), misuse(Misuse::BadRange));
        let to = Destination { handle: 0, qp_num: 1, qkey: 1 };
        let datagram = SendRequest::new(id, Verb::Send, &one).to(to);
        assert_eq!(end.pair.post_send(&datagram), misuse(Misuse::UnknownAddress));
        let receive = RecvRequest { wr_id: id, segments: &foreign };
        assert_eq!(end.pair.post_recv(&receive), misuse(Misuse::ForeignKey));
        assert_eq!((end.pair.ring_doorbell().count, end.pair.ring_recv_doorbell().count), (0, 0));
        // As many as it says.
        let limits = end.pair.limits();
        assert_eq!((limits.send_depth, limits.recv_depth, limits.sge_max), (16, 8, 2));
        for _ in 0..limits.send_depth {
            assert_eq!(end.send(Verb::Send, &of(8), None), Ok(()));
        }
        assert_eq!(end.send(Verb::Send, &of(8), None), Err(Retry::SqFull.into()));
        assert_eq!(end.pair.ring_doorbell().count, 16);
        assert_eq!(end.pair.ring_doorbell().count, 0);
    });
}

#[test]
fn the_depth_holds_for_the_longest_requests_from_every_place() {
    let plan = Plan { inline: 220, ..QUIET };
    connected(&plan, |fabric, [end, other], rng| {
        let depth = end.pair.limits().send_depth;
        assert_eq!(depth, 3, "of four blocks each, with fill");
        let segments = [Segment { length: 220, ..end.segments(0, 1, rng)[0] }];
        let short = [Segment { length: 1, ..segments[0] }];
        for _ in 0..40 {
            other.post_receive(rng);
            other.ring();
            let request = SendRequest::new(WrId::from_raw(1), Verb::Send, &short);
            end.pair.post_send(&request).unwrap();
            end.pair.ring_doorbell();
            fabric.settle(1000);
            let mut out = heapless::Vec::<Wc, 40>::new();
            end.cq.poll_cq(&mut out);
            other.cq.poll_cq(&mut out);
            other.free_receives.push(0);
            for _ in 0..depth {
                let request = SendRequest::new(WrId::from_raw(2), Verb::Send, &segments);
                end.pair.post_send(&request).unwrap();
            }
            for _ in 0..depth {
                other.post_receive(rng);
                other.free_receives.push(0);
            }
            other.ring();
            end.pair.ring_doorbell();
            fabric.settle(1000);
            end.cq.poll_cq(&mut out);
            other.cq.poll_cq(&mut out);
            assert!(out.iter().all(|wc| wc.outcome().is_ok()));
            assert_eq!(out.len(), 8);
        }
    });
}

#[test]
fn datagrams_go_to_the_address_that_their_destination_names() {
    let grounds = [Ground::new(), Ground::new()];
    let mut arena = vec![MaybeUninit::uninit(); 1 << 16];
    let (bump, mut rng) = (Bump::new(&mut arena), Rng::new(3));
    let mut fabric = Fabric::new(3, 2, Manner::default());
    let mut ends =
        [0, 1].map(|node| End::new(&bump, node, &grounds[node], (&QUIET, Kind::Ud), &mut fabric));
    let path = |dlid| IbPath { dlid, service_level: 0, static_rate: 0, path_bits: 0, grh: None };
    let handle = ends[0].pair.add_route(Route::Ib(path(2))).unwrap();
    assert_eq!(ends[0].pair.add_route(Route::Ib(path(9))), Err(Retry::AddressesFull));
    let to = |handle| Destination { handle, qp_num: QPN[1], qkey: 0x11 };
    let message = pattern(5, 100);
    write_lines(ends[0].data, 0, &message);
    let segments = ends[0].segments(0, 100, &mut rng);
    let send = SendRequest::new(WrId::from_raw(7), Verb::SendImm(0xabcd), &segments);
    ends[1].post_receive(&mut rng);
    ends[1].ring();
    let pair = ends[0].pair;
    assert_eq!(pair.post_send(&send), Err(Misuse::UnknownAddress.into()), "without");
    assert_eq!(pair.post_send(&send.to(to(1))), Err(Misuse::UnknownAddress.into()));
    let write = SendRequest { verb: Verb::Write, ..send };
    assert_eq!(pair.post_send(&write.to(to(handle))), Err(Misuse::Unsupported.into()));
    pair.post_send(&send.to(to(handle))).unwrap();
    assert_eq!(pair.ring_doorbell().count, 1);
    fabric.settle(1000);
    let mut out = heapless::Vec::<Wc, 4>::new();
    ends.iter().for_each(|end| end.cq.poll_cq(&mut out));
    let [sent, received] = out.as_slice() else { panic!("{out:?}") };
    assert_eq!((sent.wr_id().as_raw(), sent.outcome().is_ok()), (7, true));
    let received = received.outcome().unwrap();
    assert_eq!(
        (received.bytes, received.immediate, received.source_qp),
        (140, Some(0xabcd), QPN[0])
    );
    let (_, slot) = ends[1].receives[0];
    assert_eq!(read_ring(ends[1].data, (SLOTS + slot) * SLOT + 40, 100), message);
    assert_eq!(pair.remove_route(handle), Some(Route::Ib(path(2))));
    assert_eq!(pair.post_send(&send.to(to(handle))), Err(Misuse::UnknownAddress.into()));
    assert!(fabric.violations.is_empty());
}

#[test]
fn sizes_that_do_not_go_together_are_refused_by_name() {
    let ground = Ground::new();
    let mut arena = vec![MaybeUninit::uninit(); 1 << 16];
    let bump = Bump::new(&mut arena);
    let place = |config| {
        let memory = QpMemory {
            sq: &ground.sq,
            rq: &ground.rq,
            record: &ground.record,
            uar: &ground.register,
        };
        let send = SendConfig { wqe_blocks_max: 1, ..SendConfig::DEFAULT };
        let recv = Some(RecvConfig { wqes: RECEIVES, sge_max: 2 });
        let transport = Transport::Rc { path: None };
        let qp = Qp::place(&bump, QpConfig { qpn: 1, transport, send, recv }, memory, Device);
        Pair::place(&bump, qp.unwrap(), config)
    };
    let config = PairConfig::DEFAULT;
    for sge_max in [0, 3, 9] {
        let refused = place(PairConfig { sge_max, ..config }).err();
        assert_eq!(refused, Some(BadPair::Segments { sge_max }));
    }
    let inline_bytes_max = 221;
    let refused = place(PairConfig { inline_bytes_max, ..config }).err();
    assert_eq!(refused, Some(BadPair::Inline { inline_bytes_max }));
    let refused = place(PairConfig { inline_bytes_max: 29, ..config }).err();
    assert_eq!(refused, Some(BadPair::Longest { wanted: 2, wqe_blocks_max: 1 }));
    let pair = place(config).unwrap();
    let memory = CqMemory {
        lines: &ground.cq[..16],
        entry_bytes: EntryBytes::B64,
        record: &ground.cq_record,
        register: None,
        cqn: 0,
    };
    let cq = Cq::new(memory, Compression::Off, Device).unwrap();
    let refused = Completions::place(&bump, cq, 1).unwrap().add(&pair).err();
    let why = refused.map(|(why, _)| why);
    assert_eq!(why, Some(CompletionsError::Entries { needed: 24, entries: 16 }));
}
