//! Receives that several pairs take from, and the room of completion queues.

use core::time::Duration;
use std::rc::Rc;
use std::time::Instant;

use spinwire_dataplane::error::{Fatal, Misuse, PostError, Retry};
use spinwire_dataplane::raw::line::copy_out;
use spinwire_dataplane::verbs::{
    CompletionQueue as _, QueuePair as _, RecvRequest, SendRequest, Verb,
};
use spinwire_hostshim::verbs::{
    Access, CompletionQueue, Pair, PairConfig, PairKind, ProtectionDomain, SharedReceives,
    VerbsError,
};

use super::rig::{BYTES, End, connected, devices, quick, wr};

#[test]
fn pairs_take_from_the_same_receives() {
    let Some([near, far]) = devices() else { return };
    let config = PairConfig { send_depth: 4, ..PairConfig::default() };
    let senders = [(); 2].map(|()| End::open(&near, PairKind::Rc, &config));
    let domain = ProtectionDomain::new(&far).unwrap();
    let cq = CompletionQueue::new(&far, 24).unwrap();
    let shared = SharedReceives::new(&domain, 16, 2).unwrap();
    let pairs =
        [(); 2].map(|()| Pair::with_shared(&shared, PairKind::Rc, (&cq, &cq), &config).unwrap());
    assert_eq!(cq.promised(), 4 + 4 + 16, "the shared receives count once");
    let third = Pair::with_shared(&shared, PairKind::Rc, (&cq, &cq), &config);
    // Some devices make a queue larger than was asked for.
    assert!(matches!(third, Err(VerbsError::Relation { left: 28, .. })) || cq.depth() >= 28);
    drop(third);
    for (sender, pair) in senders.iter().zip(&pairs) {
        sender.pair.connect(pair.card(), &quick()).unwrap();
        pair.connect(sender.pair.card(), &quick()).unwrap();
        let own = pair.post_recv(&RecvRequest { wr_id: wr(0), segments: &[] });
        assert_eq!(
            own,
            Err(PostError::Misuse(Misuse::Unsupported)),
            "it has no receives of its own"
        );
    }
    let region = domain.register(BYTES, Access::LOCAL).unwrap();
    let post = |id: u32| {
        let segments = [region.segment(u64::from(id) * 64, 64).unwrap()];
        shared.post_recv(&RecvRequest { wr_id: wr(id), segments: &segments })
    };
    (0..16).for_each(|id| post(id).unwrap());
    assert_eq!(post(16), Err(PostError::Retry(Retry::RqFull)));
    let published = shared.ring_recv_doorbell();
    assert_eq!((published.count, published.error), (16, None));
    // Whichever pair a message comes by, it takes the next receive.
    for id in 0..16_u32 {
        let by = id as usize % 3 % 2;
        senders[by].write(0, &[id as u8 + 1; 40]);
        senders[by].send(&SendRequest::new(wr(99), Verb::Send, &[senders[by].segment(0, 40)]));
        senders[by].done(99);
        let until = Instant::now() + Duration::from_secs(60);
        let mut out: heapless::Vec<_, 1> = heapless::Vec::new();
        while out.is_empty() {
            cq.poll_cq(&mut out);
            assert!(Instant::now() < until, "no completion within a minute");
        }
        let wc = out.pop().unwrap();
        assert_eq!((wc.wr_id(), wc.qp_num()), (wr(id), pairs[by].qp_num()));
        assert_eq!(wc.outcome().unwrap().bytes, 40);
        let mut came = [0; 40];
        assert!(copy_out(region.lines(), id as usize * 64, &mut came));
        assert_eq!(came, [id as u8 + 1; 40]);
    }
    let foreign = [senders[0].segment(0, 8)];
    let foreign = shared.post_recv(&RecvRequest { wr_id: wr(0), segments: &foreign });
    assert_eq!(foreign, Err(PostError::Misuse(Misuse::ForeignKey)));
    drop(pairs);
    assert_eq!(cq.promised(), 0);
}

#[test]
fn all_pairs_of_a_queue_together_have_room_in_it() {
    let Some([device, _]) = devices() else { return };
    let domain = ProtectionDomain::new(&device).unwrap();
    let cq = CompletionQueue::new(&device, 100).unwrap();
    let config = PairConfig { send_depth: 20, recv_depth: 12, ..PairConfig::default() };
    let make = || Pair::new(&domain, PairKind::Rc, (&cq, &cq), &config);
    let mut pairs = vec![];
    while cq.promised() + 32 <= cq.depth() {
        pairs.push(make().unwrap());
    }
    let (sum, room) = (u64::from(cq.promised()) + 20, u64::from(cq.depth()));
    let refused = make().unwrap_err();
    let VerbsError::Relation { left, right, .. } = refused else { panic!("{refused}") };
    assert!(left > right && right == room && left >= sum, "{refused}");
    assert!(refused.to_string().contains("all pairs") && refused.to_string().contains("remedy"));
    assert_eq!(u64::from(cq.promised()) + 20, sum, "what was refused took nothing");
    drop(pairs.pop());
    drop(make().unwrap());
    drop(pairs);
    assert_eq!((cq.promised(), Rc::strong_count(&cq)), (0, 1));
}

#[test]
fn a_queue_that_overruns_says_so_once() {
    let config = PairConfig { send_depth: 4, recv_depth: 4, ..PairConfig::default() };
    let Some([a, b]) = connected(&config, &quick()) else { return };
    a.device.events_without_waiting().unwrap();
    while a.device.next_event().unwrap().is_some() {}
    // Writes whose completions nobody polls: more of them than the queue has entries.
    let place = b.region.remote_key().place(0, 8).unwrap();
    let segments = [a.segment(0, 8)];
    let other = CompletionQueue::new(&a.device, 4).unwrap();
    let until = Instant::now() + Duration::from_secs(60);
    while a.cq.failures() == 0 {
        let write = SendRequest::new(wr(1), Verb::Write, &segments).at(place);
        if a.pair.post_send(&write).is_ok() {
            let _some = a.pair.ring_doorbell();
        }
        while let Some(event) = a.device.next_event().unwrap() {
            a.cq.note(event);
            other.note(event);
        }
        assert!(Instant::now() < until, "no word of it within a minute");
    }
    assert_eq!((a.cq.take_error(), a.cq.take_error()), (Some(Fatal::QueueError), None));
    assert_eq!(
        (b.cq.failures(), b.cq.take_error()),
        (0, None),
        "it is told of the one queue alone"
    );
}
