//! Messages that nobody has asked for yet.

use spinwire_dataplane::error::{PostError, Retry};
use spinwire_dataplane::msg::{RecvFrom, SendTo};
use spinwire_dataplane::provider::Status;

use super::{Rig, World};
use crate::rng::pattern;

/// A message waits for its receive, whole.
pub fn waits_for_a_receive<R: Rig>(world: &World<'_, R>) {
    let (a, b, to_b, to_a) = world.pair();
    for length in [0, 1, 48, 49, 255, 256] {
        let bytes = pattern(2, length);
        world.insist(&[&a, &b], || a.inject(SendTo::peer(to_b).immediate(4), &bytes));
        world.until_it_waits(RecvFrom::any(), &[&a, &b]);
        b.recv(RecvFrom::any(), 1).unwrap();
        world.until("it is there", &[&a, &b], || b.inbox_len() > 0);
        let got = b.take().unwrap();
        assert_eq!((got.bytes, got.immediate, got.source), (bytes, Some(4), Some(to_a)));
        assert_eq!(b.peek(RecvFrom::any()), None);
    }
}

/// When everything is full the sender is told, and everything accepted arrives in the end, in order.
pub fn a_full_queue_loses_nothing<R: Rig>(world: &World<'_, R>) {
    let (a, b, to_b, _) = world.pair();
    let (mut sent, mut refusals) = (0_u64, 0);
    while refusals < 200 {
        match (*a).inject(SendTo::peer(to_b).immediate(sent), &pattern(sent, 90)) {
            Ok(()) => {
                sent += 1;
                refusals = 0;
            }
            Err(PostError::Retry(_)) => refusals += 1,
            Err(other) => panic!("{other}"),
        }
        world.turn(&[&a, &b]);
        assert!(sent < 1000, "the sender is held back at some time");
    }
    let least = world.sizes().unexpected_depth + world.sizes().link_depth / 2;
    assert!(sent >= u64::from(least), "{sent} were taken");
    assert_eq!(b.inbox_len(), 0);
    let mut taken = 0;
    for context in 0..sent {
        world.insist(&[&a, &b], || b.recv(RecvFrom::any(), context));
        world.turn(&[&a, &b]);
        while let Some(got) = b.take() {
            assert_eq!((got.status, got.immediate), (Status::Success, Some(taken)));
            assert_eq!(got.bytes, pattern(taken, 90));
            taken += 1;
        }
    }
    world.until("all are there", &[&a, &b], || {
        while let Some(got) = b.take() {
            assert_eq!(got.immediate, Some(taken));
            taken += 1;
        }
        taken == sent
    });
    // And the way is free again.
    b.recv(RecvFrom::any(), 0).unwrap();
    world.insist(&[&a, &b], || a.inject(SendTo::peer(to_b), b"on"));
    world.until("it is there", &[&a, &b], || b.inbox_len() > 0);
    assert_eq!(b.take().unwrap().bytes, b"on");
}

/// A message too long to wait outside of its lane holds up what follows, until it is asked for.
pub fn a_long_one_stalls_and_resolves<R: Rig>(world: &World<'_, R>) {
    let (a, b, to_b, _) = world.pair();
    let long = pattern(1, world.sizes().unexpected_bytes_max + 1);
    world.insist(&[&a, &b], || a.inject(SendTo::peer(to_b).tag(1), &long));
    for number in 0..4 {
        world.insist(&[&a, &b], || a.inject(SendTo::peer(to_b).tag(2).immediate(number), b"short"));
    }
    world.turns(50, &[&a, &b]);
    // Whoever waits for what is behind it has to ask for it first, or both.
    b.recv(RecvFrom::any().tag(1), 10).unwrap();
    b.recv(RecvFrom::any().tag(2), 20).unwrap();
    world.until("both are there", &[&a, &b], || b.inbox_len() == 2);
    assert!(b.take().unwrap().bytes == long);
    assert_eq!(b.take().unwrap().immediate, Some(0));
    for number in 1..4 {
        b.recv(RecvFrom::any().tag(2), 20).unwrap();
        world.until("it is there", &[&a, &b], || b.inbox_len() == 1);
        assert_eq!(b.take().unwrap().immediate, Some(number));
    }
}

/// A lane that has to wait does not keep others waiting.
pub fn a_stalled_peer_keeps_nobody_else<R: Rig>(world: &World<'_, R>) {
    if world.is_msg() {
        return;
    }
    let [a, b, c] = ["a", "b", "c"].map(|text| world.node(text));
    let (a_to_b, b_to_a) = world.introduce(&a, &b);
    let (c_to_b, _) = world.introduce(&c, &b);
    let long = pattern(3, world.sizes().unexpected_bytes_max + 1);
    world.insist(&[&a, &b], || a.inject(SendTo::peer(a_to_b), &long));
    world.turns(20, &[&a, &b, &c]);
    for number in 0..200 {
        b.recv(RecvFrom::any().tag(7), number).unwrap();
        world.insist(&[&b, &c], || c.inject(SendTo::peer(c_to_b).tag(7).immediate(number), b"c"));
        world.until("it is there", &[&a, &b, &c], || b.inbox_len() > 0);
        assert_eq!(b.take().unwrap().immediate, Some(number));
    }
    b.recv(RecvFrom::peer(b_to_a), 1).unwrap();
    world.until("it is there", &[&a, &b, &c], || b.inbox_len() > 0);
    assert!(b.take().unwrap().bytes == long);
    assert_ne!((*a).inject(SendTo::peer(a_to_b), b"x"), Err(Retry::NoCredit.into()));
}
