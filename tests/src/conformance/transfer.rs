//! Bytes, tags and immediate data arrive as they were sent, whatever the length.

use spinwire_dataplane::error::{Misuse, PostError};
use spinwire_dataplane::msg::{Kind, RecvFrom, SendTo};
use spinwire_dataplane::provider::Status;

use super::{Got, Node, Rig, World};
use crate::rng::{Rng, pattern};

/// Lengths at which something changes: cells, lines, the step of the spill, pages, the longest.
fn lengths(most: usize) -> Vec<usize> {
    let mut all: Vec<usize> = (0..=130).collect();
    all.extend([255, 256, 257, 1023, 1024, 1025, 4095, 4096, 4097, most - 1, most]);
    all.extend((511..=577).step_by(3));
    all.extend([552, 559, 560, 561, 567, 568, 569, 575, 576, 577]);
    all.retain(|&length| length <= most);
    all
}

/// Sends one message by post, again if that failed by simulation, and gives what has arrived.
fn pass<'m, R: Rig>(
    world: &World<'m, R>,
    (a, b): (&Node<'m, R>, &Node<'m, R>),
    to: SendTo,
    bytes: &[u8],
) -> Got {
    for context in 0..200 {
        world.insist(&[a, b], || a.send(to, bytes, context));
        let mut sent = None;
        world.until("the send is over", &[a, b], || {
            sent = a.take();
            sent.is_some()
        });
        let sent = sent.unwrap();
        assert_eq!((sent.context, sent.kind, sent.returned), (context, Kind::Sent, true));
        if sent.status == Status::Success {
            world.until("the message is there", &[a, b], || b.messages_len() > 0);
            return b.take_message().unwrap();
        }
        assert_eq!((sent.status, R::FAULTS), (Status::Injected, true));
    }
    panic!("200 sends in a row failed");
}

/// Every length, injected and posted, with and without tag and immediate data.
pub fn every_size_arrives_whole<R: Rig>(world: &World<'_, R>) {
    let (a, b, to_b, to_a) = world.pair();
    for length in lengths(world.message_bytes_max()) {
        let seed = u64::try_from(length).unwrap();
        let bytes = pattern(seed, length);
        for form in 0..8_u64 {
            let (mut to, mut from) = (SendTo::peer(to_b), RecvFrom::any());
            if form & 1 != 0 {
                (to, from) = (to.tag(seed), from.tag(seed));
            }
            if form & 2 != 0 {
                to = to.immediate(!seed);
            }
            b.recv(from, seed).unwrap();
            let got = if form & 4 == 0 {
                world.insist(&[&a, &b], || a.inject(to, &bytes));
                world.until("it is there", &[&a, &b], || b.messages_len() > 0);
                b.take().unwrap()
            } else {
                pass(world, (&a, &b), to, &bytes)
            };
            assert_eq!((got.status, got.context), (Status::Success, seed), "length {length}");
            assert!(got.bytes == bytes, "length {length} form {form}");
            assert_eq!(got.tag, (form & 1 != 0).then_some(seed));
            assert_eq!(got.immediate, (form & 2 != 0).then_some(!seed));
            assert_eq!((got.source, got.offset, got.returned), (Some(to_a), 0, true));
        }
    }
    assert_eq!((a.posted_count(), b.posted_count()), (0, 0));
    assert_eq!(a.take(), None, "an injected message has no completion");
}

/// One byte more than the longest is refused, and the loan comes back.
pub fn too_long_is_refused<R: Rig>(world: &World<'_, R>) {
    let (a, b, to_b, _) = world.pair();
    let free = world.pool().free_count();
    let bytes = pattern(1, world.message_bytes_max() + 1);
    let too_long = PostError::Misuse(Misuse::TooLong);
    assert_eq!(a.inject(SendTo::peer(to_b), &bytes), Err(too_long));
    assert_eq!(a.send(SendTo::peer(to_b), &bytes, 1), Err(too_long));
    assert_eq!(a.send(SendTo::peer(to_b).tag(5).immediate(6), &bytes, 1), Err(too_long));
    assert_eq!((world.pool().free_count(), a.posted_count()), (free, 0));
    // It has taken nothing: what follows is the first to arrive.
    b.recv(RecvFrom::any(), 2).unwrap();
    world.insist(&[&a, &b], || a.inject(SendTo::peer(to_b), &bytes[1..]));
    world.until("it is there", &[&a, &b], || b.inbox_len() > 0);
    assert!(b.take().unwrap().bytes == bytes[1..]);
}

/// What is done to the slice after `inject` does not show.
pub fn an_injected_buffer_is_free_at_once<R: Rig>(world: &World<'_, R>) {
    let (a, b, to_b, _) = world.pair();
    let mut buffer = Vec::new();
    for (number, length) in (0_u64..).zip([1, 8, 48, 49, 200, 1024]) {
        b.recv(RecvFrom::any(), number).unwrap();
        buffer.clear();
        buffer.extend(pattern(number, length));
        world.insist(&[&a, &b], || a.inject(SendTo::peer(to_b), &buffer));
        buffer.fill(0xEE);
    }
    world.until("all are there", &[&a, &b], || b.inbox_len() == 6);
    for (number, length) in (0_u64..).zip([1, 8, 48, 49, 200, 1024]) {
        let got = b.take().unwrap();
        assert_eq!((got.context, got.bytes), (number, pattern(number, length)));
    }
}

/// Each posted loan comes back with one completion, and to its pool.
pub fn posted_loans_come_back_once<R: Rig>(world: &World<'_, R>) {
    let (a, b, to_b, _) = world.pair();
    let free = world.pool().free_count();
    let (mut seen, mut arrived, mut failed) = (vec![0_u32; 300], 0, 0);
    let mut rng = Rng::new(9);
    for context in 0..300_u64 {
        if b.posted_count() < world.sizes().recv_depth {
            b.recv(RecvFrom::any(), 0).unwrap();
        }
        let bytes = pattern(context, rng.index(400));
        world.insist(&[&a, &b], || a.send(SendTo::peer(to_b), &bytes, context));
        world.turn(&[&a, &b]);
        arrived += core::iter::from_fn(|| b.take_message()).count();
    }
    world.until("all have arrived or failed", &[&a, &b], || {
        arrived += core::iter::from_fn(|| b.take_message()).count();
        while let Some(got) = a.take() {
            seen[usize::try_from(got.context).unwrap()] += 1;
            failed += usize::from(got.status != Status::Success);
        }
        a.posted_count() == 0 && arrived + failed == 300
    });
    assert!(R::FAULTS || failed == 0);
    assert!(seen.iter().all(|&times| times == 1), "{seen:?}");
    world.turns(50, &[&a, &b]);
    assert_eq!((a.inbox_len(), b.messages_len()), (0, 0), "nothing comes twice");
    let still_posted = usize::try_from(b.posted_count()).unwrap();
    assert_eq!(world.pool().free_count() + still_posted, free);
}

/// All 64 bits of both, zero included, and told apart from none.
pub fn tags_and_immediate_data_arrive<R: Rig>(world: &World<'_, R>) {
    let (a, b, to_b, _) = world.pair();
    let values =
        [None, Some(0), Some(1), Some(u64::MAX), Some(1 << 63), Some(0x0123_4567_89AB_CDEF)];
    for tag in values {
        for immediate in values {
            for length in [0, 1, 39, 40, 41, 47, 48, 49, 56, 64] {
                let (mut to, mut from) = (SendTo::peer(to_b), RecvFrom::any());
                if let Some(tag) = tag {
                    (to, from) = (to.tag(tag), from.tag(tag));
                }
                if let Some(immediate) = immediate {
                    to = to.immediate(immediate);
                }
                b.recv(from, 0).unwrap();
                world.insist(&[&a, &b], || a.inject(to, &pattern(3, length)));
                world.until("it is there", &[&a, &b], || b.inbox_len() > 0);
                let got = b.take().unwrap();
                assert_eq!((got.tag, got.immediate), (tag, immediate));
                assert_eq!(got.bytes, pattern(3, length));
            }
        }
    }
}

/// Long messages in both directions at the same time.
pub fn both_ways_at_once<R: Rig>(world: &World<'_, R>) {
    let (a, b, to_b, to_a) = world.pair();
    let mut sent = [0_u64; 2];
    let mut taken = [0_u64; 2];
    for node in [&a, &b] {
        for _ in 0..4 {
            node.recv(RecvFrom::any(), 0).unwrap();
        }
    }
    let least = world.message_bytes_max().min(4096) - 96;
    let length = |number: u64| least + usize::try_from(number % 97).unwrap();
    world.until("all have arrived", &[&a, &b], || {
        for (at, (node, to)) in [(&a, to_b), (&b, to_a)].into_iter().enumerate() {
            if sent[at] < 100 {
                let bytes = pattern(sent[at], length(sent[at]));
                sent[at] += u64::from(node.inject(SendTo::peer(to), &bytes).is_ok());
            }
            while let Some(got) = node.take() {
                assert!(got.bytes == pattern(taken[at], length(taken[at])));
                taken[at] += 1;
                node.recv(RecvFrom::any(), 0).unwrap();
            }
        }
        taken == [100, 100]
    });
}

/// An endpoint that is not bound to one peer can send to itself.
pub fn sends_to_oneself<R: Rig>(world: &World<'_, R>) {
    if world.is_msg() {
        return;
    }
    let a = world.node("a");
    let me = a.connect(a.name()).unwrap();
    for number in 0..100_u64 {
        a.recv(RecvFrom::peer(me), number).unwrap();
        let bytes = pattern(number, 70);
        world.insist(&[&a], || a.inject(SendTo::peer(me), &bytes));
        world.until("it is there", &[&a], || a.inbox_len() > 0);
        let got = a.take().unwrap();
        assert_eq!((got.context, got.source, got.bytes), (number, Some(me), bytes));
    }
}
