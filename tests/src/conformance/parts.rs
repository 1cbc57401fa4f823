//! Messages of several parts: sent out of several buffers, received into several, where a provider can; else refused.

use spinwire_dataplane::error::{Misuse, PostError, Retry};
use spinwire_dataplane::id::{Addr, WrId};
use spinwire_dataplane::msg::endpoint::{FURTHER_MAX, PARTS_MAX};
use spinwire_dataplane::msg::{Completion, Kind, Parts, RecvFrom, SendTo};
use spinwire_dataplane::provider::{CancelError, Caps, EndpointType, Status};
use spinwire_dataplane::raw::loan::LoanPool;

use super::node::Node;
use super::rig::Rig;
use super::world::{World, past_injected};
use crate::rng::pattern;

fn parts<'m, R: Rig>(node: &Node<'m, R>, lengths: &[usize]) -> (Parts<'m>, Vec<u8>) {
    let bytes = pattern(lengths.len().try_into().unwrap(), lengths.iter().sum());
    let mut rest = &bytes[..];
    let parts = Parts::of(lengths.iter().map(|&length| {
        let (here, after) = rest.split_at(length);
        rest = after;
        node.loan(here)
    }));
    (parts, bytes)
}

/// Parts of every length arrive as one message, in their order, and come back once, as they were.
pub fn several_parts_arrive_as_one<R: Rig>(world: &World<'_, R>) {
    let (a, b, to_b, _) = world.pair();
    if !a.info().caps.has(Caps::GATHER) {
        return;
    }
    let free = world.pool().free_count();
    let most = usize::try_from(a.info().limits.sge_max).unwrap();
    let longest = world.message_bytes_max();
    for (context, lengths) in [
        &[5][..],
        &[0, 0],
        &[1, 2],
        &[40, 9, 0, 600],
        &[0, 7, 64],
        &[longest / 2, longest / 2],
        &[longest - 1, 0, 1],
    ]
    .into_iter()
    .filter(|lengths| lengths.len() <= most)
    .enumerate()
    {
        let context = u64::try_from(context).unwrap();
        let (mut parts, bytes) = parts(&a, lengths);
        let tag = (context % 2 == 0).then_some(77);
        let (mut to, mut from) = (SendTo::peer(to_b).immediate(context), RecvFrom::any());
        if let Some(tag) = tag {
            (to, from) = (to.tag(tag), from.tag(tag));
        }
        b.recv(from, 5).unwrap();
        let sent = world.insist(&[&a, &b], || a.post_sendv(to, &mut parts, context));
        assert_eq!(parts.iter().count(), 0, "they are the provider's");
        world.until("it is there", &[&b], || {
            a.flush();
            b.inbox_len() > 0
        });
        let got = b.take().unwrap();
        assert_eq!((got.status, got.tag, got.immediate), (Status::Success, tag, Some(context)));
        assert!(got.bytes == bytes, "{lengths:?}");
        let mut back = None;
        world.until("they are back", &[&b], || {
            back = back.take().or_else(|| a.completion(world.now()));
            back.is_some()
        });
        let mut back = back.unwrap();
        assert_eq!((back.id, back.context, back.kind), (sent, context, Kind::Sent));
        let parts = a.take_parts(&mut back).unwrap();
        let seen: Vec<Vec<u8>> = parts.iter().map(|part| part.to_vec()).collect();
        assert_eq!(seen.iter().map(Vec::len).collect::<Vec<_>>(), lengths);
        assert!(seen.concat() == bytes && parts.len() == bytes.len());
        assert!(a.take_parts(&mut back).is_none(), "once");
        drop(parts);
        assert_eq!((a.posted_count(), world.pool().free_count()), (0, free));
    }
}

/// Too many parts, too many bytes, none, or parts where there are no such messages: refused, and all of them are back.
pub fn parts_are_refused_whole<R: Rig>(world: &World<'_, R>) {
    let (a, b, to_b, _) = world.pair();
    let free = world.pool().free_count();
    let info = *a.info();
    let most = usize::try_from(info.limits.sge_max).unwrap();
    let refused = |lengths: &[usize], expected: PostError| {
        let (mut parts, bytes) = parts(&a, lengths);
        let sent = past_injected(|| a.post_sendv(SendTo::peer(to_b), &mut parts, 1));
        assert_eq!(sent, Err(expected), "{lengths:?}");
        let back: Vec<u8> = parts.iter().flat_map(|part| part.to_vec()).collect();
        assert!(back == bytes && parts.iter().count() == lengths.len());
    };
    refused(&[], Misuse::BadRange.into());
    if info.caps.has(Caps::GATHER) {
        assert!(most > 1 && most <= PARTS_MAX);
        refused(&[world.message_bytes_max(), 1], Misuse::TooLong.into());
        if most < PARTS_MAX {
            refused(&vec![1; most + 1], Misuse::Unsupported.into());
        }
    } else {
        refused(&[1, 1], Misuse::Unsupported.into());
        refused(&[1], Misuse::Unsupported.into());
    }
    if !info.caps.has(Caps::SCATTER) {
        let (mut parts, _) = parts(&b, &[0, 0]);
        let posted = b.post_recvv(RecvFrom::any(), &mut parts, 1);
        assert_eq!((posted, parts.iter().count()), (Err(Misuse::Unsupported.into()), 2));
    }
    assert_eq!((a.posted_count(), b.posted_count()), (0, 0));
    assert_eq!(world.pool().free_count(), free);
    // And an endpoint that goes with parts posted gives them back.
    if info.caps.has(Caps::GATHER) {
        let (mut parts, _) = parts(&a, &[3, 3]);
        world.insist(&[&a, &b], || a.post_sendv(SendTo::peer(to_b), &mut parts, 1));
        drop(a);
        assert_eq!(world.pool().free_count(), free);
    }
}

/// Buffers of a line or a few, so that a message of some bytes needs several.
fn small<'m, R: Rig>(world: &World<'m, R>, slot_bytes: usize) -> &'m LoanPool<'m> {
    let count = u32::try_from((32 << 10) / slot_bytes).unwrap().min(160);
    LoanPool::place(world.bump(), count, slot_bytes).unwrap()
}

fn empty<'m>(pool: &'m LoanPool<'m>, count: usize) -> Parts<'m> {
    Parts::of((0..count).map(|_| pool.lend().expect("a loan")))
}

/// Posts buffers for one message, whatever is simulated.
fn post_parts<'m, R: Rig>(
    node: &Node<'m, R>,
    from: RecvFrom,
    mut parts: Parts<'m>,
) -> Result<WrId, (PostError, usize)> {
    past_injected(|| node.post_recvv(from, &mut parts, 9)).map_err(|e| (e, parts.iter().count()))
}

/// The next completion of `node`.
fn completion<'m, R: Rig>(
    world: &World<'m, R>,
    node: &Node<'m, R>,
    others: &[&Node<'m, R>],
) -> Completion<'m> {
    let mut got = None;
    world.until("it is over", others, || {
        got = got.take().or_else(|| node.completion(world.now()));
        got.is_some()
    });
    got.unwrap()
}

/// Sends `bytes` by the way of that number: a copy, a buffer, several buffers.
fn send<'m, R: Rig>(
    world: &World<'m, R>,
    (a, b, to): (&Node<'m, R>, &Node<'m, R>, Addr),
    way: usize,
    bytes: &[u8],
) {
    let to = SendTo::peer(to).tag(5).immediate(6);
    match way {
        // One that fails by simulation is not sent.
        1 if R::FAULTS => world.insist(&[a, b], || a.inject(to, bytes)),
        0 => world.insist(&[a, b], || a.inject(to, bytes)),
        1 => drop(world.insist(&[a, b], || a.send(to, bytes, 1))),
        _ => {
            let (first, rest) = bytes.split_at(bytes.len() / 3);
            let mut parts = Parts::of([first, rest].map(|part| a.loan(part)));
            let _id = world.insist(&[a, b], || a.post_sendv(to, &mut parts, 1));
        }
    }
}

/// One message fills one buffer after the other: of every length, from whatever it was sent, asked for before or after it has come. What is too
/// long is cut short.
pub fn one_message_fills_several<R: Rig>(world: &World<'_, R>) {
    let (a, b, to_b, _) = world.pair();
    if !b.info().caps.has(Caps::SCATTER) {
        return;
    }
    let most = usize::try_from(b.info().limits.sge_max).unwrap();
    let ways = if a.info().caps.has(Caps::GATHER) { 3 } else { 2 };
    let mut tried = 0;
    let longest = world.message_bytes_max();
    // The last are for transports that cut long messages.
    for (slot_bytes, count) in [(64, 1), (64, 2), (64, most), (192, 3), (longest / 64 * 16, 4)] {
        if count > most {
            continue;
        }
        let (pool, all) = (small(world, slot_bytes), slot_bytes * count);
        let free = pool.free_count();
        let lengths = [0, 1, 47, 48, 49, 64, 65, all - 1, all, all + 1, all + 99];
        for length in lengths.into_iter().filter(|&length| length <= longest) {
            tried += 1;
            let bytes = pattern(tried, length);
            let waits = length <= world.sizes().unexpected_bytes_max && tried % 2 == 0;
            let post = || post_parts(&b, RecvFrom::any().tag(5), empty(pool, count)).unwrap();
            let id = if waits { None } else { Some(post()) };
            send(world, (&a, &b, to_b), usize::try_from(tried).unwrap() % ways, &bytes);
            let id = id.unwrap_or_else(|| {
                world.until_it_waits(RecvFrom::any().tag(5), &[&a, &b]);
                post()
            });
            let mut got = completion(world, &b, &[&a]);
            assert_eq!((got.id, got.kind, got.context), (id, Kind::Received, 9));
            assert_eq!((got.tag, got.immediate, got.offset), (Some(5), Some(6), 0));
            let cut = length > all;
            let status = if cut { Status::Truncated } else { Status::Success };
            let expected = &bytes[..length.min(all)];
            assert_eq!((got.status, got.length), (status, expected.len()), "{length} of {all}");
            let parts = b.take_parts(&mut got).unwrap();
            assert!(got.loan.is_none() && b.take_parts(&mut got).is_none(), "once");
            let seen: Vec<&[u8]> = parts.iter().map(|part| &part[..]).collect();
            assert_eq!(seen.len(), count);
            assert!(seen.concat() == expected, "{length} bytes into {count} of {slot_bytes}");
            let filled = seen.iter().take_while(|part| part.len() == slot_bytes).count();
            assert_eq!(filled, expected.len() / slot_bytes, "one is full before the next begins");
            drop(parts);
            assert_eq!((b.posted_count(), pool.free_count()), (0, free));
        }
    }
}

/// Receives into several buffers come back when they are cancelled, take messages in their order among the others, and are limited in number.
pub fn several_buffers_are_taken_back<R: Rig>(world: &World<'_, R>) {
    let (a, b, to_b, _) = world.pair();
    if !b.info().caps.has(Caps::SCATTER) {
        return;
    }
    let (pool, any) = (small(world, 64), RecvFrom::any().tag(5));
    let free = pool.free_count();
    let many = FURTHER_MAX.min(b.info().limits.recv_depth);
    for _ in 0..3 {
        let ids: Vec<WrId> =
            (0..many).map(|_| post_parts(&b, any, empty(pool, 2)).unwrap()).collect();
        if many == FURTHER_MAX {
            let refused = post_parts(&b, any, empty(pool, 2));
            assert_eq!(refused, Err((Retry::NoSlot.into(), 2)), "as many as can be");
        }
        for &id in &ids {
            assert_eq!((b.cancel(id), b.cancel(id)), (Ok(()), Err(CancelError::NotPosted)));
        }
        for _ in &ids {
            let mut got = completion(world, &b, &[&a]);
            assert_eq!((got.status, got.kind), (Status::Cancelled, Kind::RecvEnded));
            assert!(ids.contains(&got.id) && got.length == 0);
            let parts = b.take_parts(&mut got).unwrap();
            assert_eq!((parts.iter().count(), parts.len()), (2, 0));
        }
        assert_eq!((b.posted_count(), pool.free_count()), (0, free));
    }
    // First posted, first served, whatever the kind.
    let first = post_parts(&b, any, empty(pool, 2)).unwrap();
    let second = b.recv(any, 8).unwrap();
    let third = post_parts(&b, any, empty(pool, 2)).unwrap();
    let bytes = pattern(1, 100);
    for expected in [first, second, third] {
        send(world, (&a, &b, to_b), 0, &bytes);
        let mut got = completion(world, &b, &[&a]);
        assert_eq!((got.id, got.length), (expected, 100));
        let whole = b.take_parts(&mut got).map_or_else(
            || got.bytes().unwrap().to_vec(),
            |parts| parts.iter().flat_map(|part| part.to_vec()).collect(),
        );
        assert!(whole == bytes);
    }
    assert_eq!((b.posted_count(), pool.free_count()), (0, free));
}

/// Of a completion that was dropped the other buffers come back when that is asked for; those that are posted stay, and those that were taken are the caller's.
pub fn parts_that_nobody_took_come_back<R: Rig>(world: &World<'_, R>) {
    let (_a, b, _, _) = world.pair();
    if !b.info().caps.has(Caps::SCATTER) {
        return;
    }
    let (pool, any) = (small(world, 64), RecvFrom::any().tag(5));
    let free = pool.free_count();
    assert_eq!(b.drop_parts(), 0);
    let many = FURTHER_MAX.min(b.info().limits.recv_depth);
    let ids: Vec<WrId> = (0..many).map(|_| post_parts(&b, any, empty(pool, 3)).unwrap()).collect();
    let stays = ids[0];
    for &id in &ids[1..] {
        b.cancel(id).unwrap();
    }
    let mut kept = completion(world, &b, &[]);
    let taken = b.take_parts(&mut kept).unwrap();
    for _ in &ids[2..] {
        drop(completion(world, &b, &[]));
    }
    let dropped = ids.len() - 2;
    assert_eq!(pool.free_count(), free - 3 - 3 - dropped * 2, "the first of each came back");
    if many == FURTHER_MAX {
        // One place is free: that of those that were taken.
        let again = post_parts(&b, any, empty(pool, 2)).unwrap();
        assert_eq!(post_parts(&b, any, empty(pool, 2)), Err((Retry::NoSlot.into(), 2)));
        b.cancel(again).unwrap();
        drop(completion(world, &b, &[]));
        assert_eq!(b.drop_parts(), dropped + 1);
    } else {
        assert_eq!(b.drop_parts(), dropped);
    }
    assert_eq!((b.drop_parts(), pool.free_count()), (0, free - 6));
    assert_eq!((taken.iter().count(), b.is_posted(stays)), (3, true));
    drop(taken);
    b.cancel(stays).unwrap();
    let mut last = completion(world, &b, &[]);
    assert_eq!(b.take_parts(&mut last).map(|parts| parts.iter().count()), Some(3));
    assert_eq!(b.drop_parts(), 0);
    drop(last);
    assert_eq!((b.posted_count(), pool.free_count()), (0, free));
}

/// Several buffers that wait for one who goes come back with what has become of him, and an endpoint that goes leaves none behind.
pub fn several_buffers_outlive_the_gone<R: Rig>(world: &World<'_, R>) {
    let (a, b, _, to_a) = world.pair();
    if !b.info().caps.has(Caps::SCATTER) || world.endpoint_type() == EndpointType::Dgram {
        return;
    }
    let pool = small(world, 64);
    let free = pool.free_count();
    let id = post_parts(&b, RecvFrom::peer(to_a), empty(pool, 2)).unwrap();
    world.kill(a);
    let mut got = completion(world, &b, &[]);
    assert_eq!((got.id, got.status), (id, Status::PeerGone));
    let parts = b.take_parts(&mut got).unwrap();
    assert_eq!((parts.iter().count(), parts.len()), (2, 0));
    drop(parts);
    let c = world.node("c");
    let _id = post_parts(&c, RecvFrom::any(), empty(pool, 2)).unwrap();
    assert_eq!(pool.free_count(), free - 2);
    drop(c);
    assert_eq!(pool.free_count(), free);
}
