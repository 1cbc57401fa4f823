//! Matching: the first posted receive that takes a message gets it; a receive gets the first message that it takes.

use spinwire_dataplane::id::Addr;
use spinwire_dataplane::msg::{RecvFrom, SendTo};
use spinwire_dataplane::provider::{Status, Waiting};

use super::{Node, Rig, World};
use crate::rng::pattern;

/// Sends messages that are told apart by their immediate data, and lets them arrive or wait.
fn deliver<'m, R: Rig>(
    world: &World<'m, R>,
    (a, b, to_b): (&Node<'m, R>, &Node<'m, R>, Addr),
    messages: &[(Option<u64>, u64)],
) {
    for &(tag, number) in messages {
        let to = SendTo::peer(to_b).immediate(number);
        let to = tag.map_or(to, |tag| to.tag(tag));
        world.insist(&[a, b], || a.inject(to, b"body"));
    }
    world.turns(40, &[a, b]);
}

/// What has arrived: (context of the receive, number of the message).
fn arrived<R: Rig>(b: &Node<'_, R>) -> Vec<(u64, u64)> {
    core::iter::from_fn(|| b.take())
        .map(|got| {
            assert_eq!(got.status, Status::Success);
            (got.context, got.immediate.unwrap())
        })
        .collect()
}

/// A tag takes its like and nothing else.
pub fn tags_match_exactly<R: Rig>(world: &World<'_, R>) {
    let (a, b, to_b, _) = world.pair();
    b.recv(RecvFrom::any().tag(7), 70).unwrap();
    b.recv(RecvFrom::any().tag(8), 80).unwrap();
    deliver(world, (&a, &b, to_b), &[(Some(9), 1), (Some(8), 2), (Some(7 | 1 << 63), 3)]);
    assert_eq!(arrived(&b), [(80, 2)]);
    deliver(world, (&a, &b, to_b), &[(Some(7), 4)]);
    assert_eq!(arrived(&b), [(70, 4)]);
    b.recv(RecvFrom::any().tag(7 | 1 << 63), 71).unwrap();
    b.recv(RecvFrom::any().tag(9), 90).unwrap();
    world.turns(2, &[&a, &b]);
    let mut late = arrived(&b);
    late.sort_unstable();
    assert_eq!(late, [(71, 3), (90, 1)]);
}

/// Bits of the mask do not count, the others do.
pub fn masks_ignore_their_bits<R: Rig>(world: &World<'_, R>) {
    let (a, b, to_b, _) = world.pair();
    b.recv(RecvFrom::any().tag_ignoring(0xAB00, 0xFF), 1).unwrap();
    b.recv(RecvFrom::any().tag_ignoring(0xFFFF_0000_0000_0012, !0xFF), 2).unwrap();
    deliver(world, (&a, &b, to_b), &[(Some(0xAC00), 10)]);
    assert_eq!(arrived(&b), []);
    deliver(world, (&a, &b, to_b), &[(Some(0xAB7F), 11), (Some(0x12), 12)]);
    assert_eq!(arrived(&b), [(1, 11), (2, 12)]);
    b.recv(RecvFrom::any().tag_ignoring(0, u64::MAX), 3).unwrap();
    world.turns(2, &[&a, &b]);
    assert_eq!(arrived(&b), [(3, 10)]);
}

/// Of receives that all take a message, the first posted gets it, exact or masked.
pub fn the_first_posted_wins<R: Rig>(world: &World<'_, R>) {
    let (a, b, to_b, _) = world.pair();
    let exact = RecvFrom::any().tag(5);
    let masked = RecvFrom::any().tag_ignoring(4, 3);
    let all = RecvFrom::any().tag_ignoring(0, u64::MAX);
    for order in [
        [exact, masked, all],
        [exact, all, masked],
        [masked, exact, all],
        [masked, all, exact],
        [all, exact, masked],
        [all, masked, exact],
    ] {
        for (context, from) in (0..).zip(order) {
            b.recv(from, context).unwrap();
        }
        deliver(world, (&a, &b, to_b), &[(Some(5), 1), (Some(5), 2), (Some(5), 3)]);
        assert_eq!(arrived(&b), [(0, 1), (1, 2), (2, 3)]);
    }
}

/// Of waiting messages that a receive takes, it gets the first that has arrived.
pub fn the_first_arrived_wins<R: Rig>(world: &World<'_, R>) {
    let (a, b, to_b, _) = world.pair();
    deliver(world, (&a, &b, to_b), &[(Some(1), 1), (Some(2), 2), (Some(1), 3), (Some(2), 4)]);
    b.recv(RecvFrom::any().tag(2), 20).unwrap();
    world.turns(2, &[&a, &b]);
    assert_eq!(arrived(&b), [(20, 2)]);
    b.recv(RecvFrom::any().tag_ignoring(0, u64::MAX), 30).unwrap();
    b.recv(RecvFrom::any().tag_ignoring(0, u64::MAX), 31).unwrap();
    b.recv(RecvFrom::any().tag(2), 21).unwrap();
    world.turns(2, &[&a, &b]);
    assert_eq!(arrived(&b), [(30, 1), (31, 3), (21, 4)]);
}

/// Tag 0 is a tag; no receive of one kind takes a message of the other.
pub fn tagged_and_untagged_never_mix<R: Rig>(world: &World<'_, R>) {
    let (a, b, to_b, _) = world.pair();
    b.recv(RecvFrom::any().tag_ignoring(0, u64::MAX), 1).unwrap();
    deliver(world, (&a, &b, to_b), &[(None, 10)]);
    assert_eq!(arrived(&b), []);
    deliver(world, (&a, &b, to_b), &[(Some(0), 11)]);
    assert_eq!(arrived(&b), [(1, 11)]);
    deliver(world, (&a, &b, to_b), &[(Some(0), 12)]);
    b.recv(RecvFrom::any(), 2).unwrap();
    b.recv(RecvFrom::any(), 3).unwrap();
    world.turns(2, &[&a, &b]);
    assert_eq!(arrived(&b), [(2, 10)]);
    b.recv(RecvFrom::any().tag(0), 4).unwrap();
    world.turns(2, &[&a, &b]);
    assert_eq!(arrived(&b), [(4, 12)]);
}

/// A directed receive takes its peer's messages only, and has its place among the others.
pub fn directed_receives_take_their_peer<R: Rig>(world: &World<'_, R>) {
    if world.is_msg() {
        let (a, b, to_b, to_a) = world.pair();
        b.recv(RecvFrom::peer(to_a), 1).unwrap();
        deliver(world, (&a, &b, to_b), &[(None, 5)]);
        assert_eq!(arrived(&b), [(1, 5)]);
        return;
    }
    let [a, b, c] = ["a", "b", "c"].map(|text| world.node(text));
    let (to_b, at_a) = world.introduce(&a, &b);
    let (to_b_of_c, at_c) = world.introduce(&c, &b);
    for (context, from) in [
        (1, RecvFrom::peer(at_c)),
        (2, RecvFrom::any()),
        (3, RecvFrom::peer(at_a)),
        (4, RecvFrom::peer(at_c).tag(6)),
        (5, RecvFrom::peer(at_a).tag_ignoring(0, u64::MAX)),
    ] {
        b.recv(from, context).unwrap();
    }
    deliver(world, (&a, &b, to_b), &[(None, 10), (None, 11), (Some(6), 12)]);
    assert_eq!(arrived(&b), [(2, 10), (3, 11), (5, 12)]);
    deliver(world, (&c, &b, to_b_of_c), &[(None, 20), (Some(6), 21), (None, 22)]);
    deliver(world, (&a, &b, to_b), &[(None, 13)]);
    assert_eq!(arrived(&b), [(1, 20), (4, 21)]);
    b.recv(RecvFrom::peer(at_a), 6).unwrap();
    b.recv(RecvFrom::any(), 7).unwrap();
    world.turns(2, &[&b]);
    let mut late = arrived(&b);
    late.sort_unstable();
    assert_eq!(late, [(6, 13), (7, 22)]);
}

/// Posting a receive for a message that waits does not complete it: the next turn does.
pub fn a_post_never_completes_by_itself<R: Rig>(world: &World<'_, R>) {
    let (a, b, to_b, _) = world.pair();
    deliver(world, (&a, &b, to_b), &[(None, 1)]);
    b.recv(RecvFrom::any(), 5).unwrap();
    assert!(b.poll().is_none());
    world.turn(&[&b]);
    assert_eq!(arrived(&b), [(5, 1)]);
}

/// `peek` shows the oldest waiting message of its kind, and leaves it.
pub fn peek_looks_and_leaves<R: Rig>(world: &World<'_, R>) {
    let (a, b, to_b, to_a) = world.pair();
    assert_eq!(b.peek(RecvFrom::any()), None);
    world.insist(&[&a, &b], || a.inject(SendTo::peer(to_b).tag(3), &pattern(1, 100)));
    world.insist(&[&a, &b], || a.inject(SendTo::peer(to_b).immediate(8), &pattern(2, 60)));
    world.insist(&[&a, &b], || a.inject(SendTo::peer(to_b).tag(4), &[]));
    world.until("all wait", &[&a, &b], || b.peek(RecvFrom::any().tag(4)).is_some());
    let waiting = |length, tag, immediate| Waiting { source: to_a, length, tag, immediate };
    let any_tag = RecvFrom::any().tag_ignoring(0, u64::MAX);
    for _ in 0..3 {
        assert_eq!(b.peek(RecvFrom::any()), Some(waiting(60, None, Some(8))));
        assert_eq!(b.peek(any_tag), Some(waiting(100, Some(3), None)));
        assert_eq!(b.peek(RecvFrom::peer(to_a).tag(4)), Some(waiting(0, Some(4), None)));
        assert_eq!(b.peek(RecvFrom::any().tag(5)), None);
    }
    b.recv(any_tag, 1).unwrap();
    world.turn(&[&b]);
    assert_eq!(b.take().unwrap().bytes, pattern(1, 100));
    assert_eq!(b.peek(any_tag), Some(waiting(0, Some(4), None)));
}

/// More tags than there are buckets, received in another order than sent.
pub fn many_tags_find_their_receives<R: Rig>(world: &World<'_, R>) {
    let (a, b, to_b, _) = world.pair();
    let depth = u64::from(world.sizes().recv_depth);
    for round in 0..10 {
        let tag = |number: u64| (number * 3 + round).wrapping_mul(0x1_0000_0001) << (round * 3);
        for number in 0..depth {
            b.recv(RecvFrom::any().tag(tag(number)), number).unwrap();
        }
        for number in (0..depth).rev() {
            let to = SendTo::peer(to_b).tag(tag(number)).immediate(number);
            world.insist(&[&a, &b], || a.inject(to, b""));
        }
        let all = usize::try_from(depth).unwrap();
        world.until("all are there", &[&a, &b], || b.inbox_len() == all);
        let expected: Vec<(u64, u64)> = (0..depth).rev().map(|number| (number, number)).collect();
        assert_eq!(arrived(&b), expected);
    }
}

/// A message that is longer than the receive is cut off, and says so.
pub fn a_short_receive_truncates<R: Rig>(world: &World<'_, R>) {
    let (a, b, to_b, _) = world.pair();
    // Loans of the pool of the world hold every message; a small pool gives short ones.
    let pool =
        spinwire_dataplane::raw::loan::LoanPool::place(world.bump(), 4, 128).expect("it fits");
    let long = world.message_bytes_max().min(4096);
    for (length, waits) in [(129, false), (long, false), (130, true), (250, true)] {
        let post = || {
            let loan = pool.lend().unwrap();
            b.post_recv(RecvFrom::any(), loan, 1).map_err(|refused| refused.error)
        };
        if !waits {
            world.insist(&[&b], post);
        }
        world.insist(&[&a, &b], || a.inject(SendTo::peer(to_b), &pattern(5, length)));
        if waits {
            world.until_it_waits(RecvFrom::any(), &[&a, &b]);
            world.insist(&[&b], post);
        }
        world.until("it is there", &[&a, &b], || b.inbox_len() > 0);
        let got = b.take().unwrap();
        assert_eq!((got.status, got.returned), (Status::Truncated, true));
        assert_eq!(got.bytes, pattern(5, length)[..128]);
    }
    // What follows is not disturbed.
    b.recv(RecvFrom::any(), 2).unwrap();
    world.insist(&[&a, &b], || a.inject(SendTo::peer(to_b), b"next"));
    world.until("it is there", &[&a, &b], || b.inbox_len() > 0);
    assert_eq!(b.take().unwrap().bytes, b"next");
    assert_eq!(pool.free_count(), 4);
}
