//! Messages that are sent from several buffers, and received into several.

use spinwire_dataplane::error::{Misuse, PostError};
use spinwire_dataplane::msg::{Kind, Parts, RecvFrom, SendTo};
use spinwire_dataplane::provider::{Caps, EndpointType, Status};
use spinwire_dataplane::raw::loan::LoanPool;
use spinwire_tests::rng::pattern;

use super::pair::{config, on_ground};
use super::{ALL, SHM, SOCKETS, TCP, UDP};

/// Buffers of 64 and of 4096 bytes, one behind the other: what fits into the first ones leaves the last empty, and what fits into none of them
/// is told.
#[test]
fn a_message_fills_one_buffer_after_the_other() {
    for choice in [TCP, SOCKETS, SHM, UDP] {
        on_ground(|ground| {
            let (a, b, to_b, _) = ground.pair(&config(&choice));
            assert!(b.info().caps.has(Caps::SCATTER.with(Caps::GATHER)), "{choice:?}");
            let short = LoanPool::place(ground.bump, 4, 64).unwrap();
            let small = || short.lend().unwrap();
            for (round, length) in [0, 1, 63, 64, 65, 128, 129, 3000].into_iter().enumerate() {
                let round = u64::try_from(round).unwrap();
                let tag = (round % 2 == 1).then_some(7);
                let (mut to, mut from) = (SendTo::peer(to_b), RecvFrom::any());
                if let Some(tag) = tag {
                    (to, from) = (to.tag(tag), from.tag(tag));
                }
                let mut parts = Parts::of([small(), small(), ground.loan()]);
                let id = b.post_recvv(from, &mut parts, round).unwrap();
                assert_eq!(parts.iter().count(), 0);
                let bytes = pattern(round, length);
                ground.until("it is taken", &[&a, &b], || a.inject(to, &bytes).is_ok());
                let mut got = ground.next(&b, &[&a, &b]);
                assert_eq!(
                    (got.id, got.kind, got.status, got.length, got.tag),
                    (id, Kind::Received, Status::Success, length, tag),
                    "{choice:?}"
                );
                let parts = b.take_parts(&mut got).unwrap();
                let each: Vec<usize> = parts.iter().map(|part| part.len()).collect();
                let first = length.min(64);
                let second = (length - first).min(64);
                assert_eq!(each, [first, second, length - first - second], "{choice:?}");
                let all: Vec<u8> = parts.iter().flat_map(|part| part.to_vec()).collect();
                assert!(all == bytes, "{choice:?}: {length} bytes");
            }
            let mut parts = Parts::of([small(), small()]);
            b.post_recvv(RecvFrom::any(), &mut parts, 9).unwrap();
            let send = || a.inject(SendTo::peer(to_b), &[7; 200]).is_ok();
            ground.until("it is taken", &[&a, &b], send);
            let mut got = ground.next(&b, &[&a, &b]);
            assert_eq!((got.kind, got.status), (Kind::Received, Status::Truncated), "{choice:?}");
            assert!(got.length <= 128 && b.take_parts(&mut got).unwrap().len() == got.length);
        });
    }
}

/// Parts of any length arrive as one message, with what goes with it, and come back as they were. Connections receive into one buffer.
#[test]
fn several_buffers_are_sent_as_one_message() {
    for choice in ALL {
        on_ground(|ground| {
            let (a, b, to_b, _) = ground.pair(&config(choice));
            let (caps, most) = (a.info().caps, a.info().limits.sge_max);
            assert!(caps.has(Caps::GATHER) && most >= 2, "{choice:?}: {most}");
            let connected = a.info().endpoint_type == EndpointType::Msg;
            assert_eq!(caps.has(Caps::SCATTER), !connected, "{choice:?}");
            let all: [&[usize]; 7] = [
                &[5],
                &[0, 0],
                &[1, 2],
                &[40, 9, 0, 600],
                &[0, 7, 64],
                &[2048, 2048],
                &[4095, 0, 1],
            ];
            let fits = |lengths: &&[usize]| u32::try_from(lengths.len()).unwrap() <= most;
            for (round, lengths) in (0..).zip(all.into_iter().filter(fits)) {
                let bytes = pattern(round, lengths.iter().sum());
                let (mut to, mut from, mut rest) =
                    (SendTo::peer(to_b), RecvFrom::any(), &bytes[..]);
                let tag = (caps.has(Caps::TAGGED) && round % 2 == 0).then_some(7);
                if let Some(tag) = tag {
                    (to, from) = (to.tag(tag), from.tag(tag));
                }
                let immediate = caps.has(Caps::IMMEDIATE).then_some(round);
                to = immediate.map_or(to, |number| to.immediate(number));
                b.post_recv(from, ground.loan(), 2).unwrap();
                let mut parts = Parts::of(lengths.iter().map(|length| {
                    let (here, after) = rest.split_at(*length);
                    rest = after;
                    let mut loan = ground.loan();
                    loan.fill(here).unwrap();
                    loan
                }));
                let send = || a.post_sendv(to, &mut parts, round).is_ok();
                ground.until("it is taken", &[&a, &b], send);
                let got = ground.next(&b, &[&a, &b]);
                assert_eq!((got.status, got.tag, got.immediate), (Status::Success, tag, immediate));
                assert!(got.bytes() == Some(&bytes[..]), "{choice:?}: {lengths:?}");
                let mut sent = ground.next(&a, &[&a, &b]);
                let expected = (Kind::Sent, Status::Success, round);
                assert_eq!((sent.kind, sent.status, sent.context), expected, "{choice:?}");
                let back = a.take_parts(&mut sent).unwrap();
                let each: Vec<usize> = back.iter().map(|part| part.len()).collect();
                assert_eq!(each, lengths, "{choice:?}");
            }
            let mut parts = Parts::of([ground.loan(), ground.loan()]);
            if connected {
                let refused = b.post_recvv(RecvFrom::any(), &mut parts, 1);
                assert_eq!(refused, Err(PostError::Misuse(Misuse::Unsupported)));
            } else {
                let id = b.post_recvv(RecvFrom::any(), &mut parts, 1).unwrap();
                b.cancel(id).unwrap();
                let mut back = ground.next(&b, &[&a, &b]);
                assert_eq!((back.id, back.status), (id, Status::Cancelled), "{choice:?}");
                assert_eq!(b.take_parts(&mut back).map(|parts| parts.iter().count()), Some(2));
            }
        });
    }
}
