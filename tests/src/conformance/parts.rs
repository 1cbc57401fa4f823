//! Messages of several parts: sent out of several buffers, where a provider can; else refused.

use spinwire_dataplane::error::{Misuse, PostError};
use spinwire_dataplane::msg::endpoint::PARTS_MAX;
use spinwire_dataplane::msg::{Kind, Parts, RecvFrom, SendTo};
use spinwire_dataplane::provider::{Caps, Status};

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
