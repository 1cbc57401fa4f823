//! Results, announcements and notifications of zero-copy sends.

use spinwire_dataplane::stream::{CloseReason, StreamConfig, StreamEvent, StreamFeatures};
use spinwire_dataplane::uring::EnterError;
use spinwire_layouts::uring::{Sqe, cqe, op};
use spinwire_layouts::word::low;
use spinwire_tests::fake_kernel::FakeConfig;
use spinwire_tests::fake_net::memory;

use super::{ALL, Rig, config, with};

#[derive(Clone, Copy, PartialEq, Debug)]
enum Outcome {
    Whole,
    Short,
    Failed,
    Cancelled,
}

#[derive(Clone, Copy, PartialEq, Debug)]
enum Notice {
    Before,
    After,
    Never,
}

const BYTES: &[u8] = b"sixteen bytes ok";

fn one(rig: &Rig<'_, '_, '_>, outcome: Outcome, announced: bool, notice: Notice) {
    let what = format!("{outcome:?}, announced: {announced}, notice: {notice:?}");
    let (conn, _receive) = rig.connection();
    rig.send(conn, BYTES, 42);
    let entry = rig.submitted_one(op::SEND_ZC);
    if notice == Notice::Before {
        rig.complete(&entry, 0, cqe::NOTIF);
        assert!(rig.events().is_empty(), "{what}");
    }
    let res = match outcome {
        Outcome::Whole => 16,
        Outcome::Short => 5,
        Outcome::Failed => -104,
        Outcome::Cancelled => -125,
    };
    rig.complete(&entry, res, if announced { cqe::MORE } else { 0 });
    if announced {
        assert!(rig.events().is_empty(), "its memory is the kernel's: {what}");
        let queued = rig.streams.queued(conn).unwrap();
        assert_eq!(queued, if outcome == Outcome::Whole { 0 } else { 16 }, "{what}");
    }
    if notice == Notice::After {
        rig.complete(&entry, 0, cqe::NOTIF);
    }
    if announced && notice != Notice::After {
        // It would come with the end of the ring, if at all.
        assert!(rig.events().is_empty() && rig.taken().is_empty(), "{what}");
        rig.kernel.answer_with(&[EnterError::Fatal(9)]);
        rig.streams.pause(conn).unwrap();
        rig.turn();
        let events = rig.events();
        let [StreamEvent::Closed { reason: CloseReason::RingLost, .. }] = events.as_slice() else {
            panic!("{what}: {events:?}");
        };
        return;
    }
    let mut events = rig.events();
    if matches!(outcome, Outcome::Short | Outcome::Cancelled) {
        assert!(events.is_empty(), "{what}: {events:?}");
        let rest = rig.submitted_one(op::SEND_ZC);
        let from = if outcome == Outcome::Short { 5 } else { 0 };
        assert_eq!((rest.addr, rest.len), (entry.addr + u64::from(from), 16 - from), "{what}");
        rig.complete(&rest, (16 - from).cast_signed(), cqe::MORE);
        assert!(rig.events().is_empty(), "{what}");
        rig.complete(&rest, 0, cqe::NOTIF);
        events = rig.events();
    }
    match (outcome, events.as_slice()) {
        (Outcome::Failed, [StreamEvent::NotSent { context: 42, loan, .. }])
        | (_, [StreamEvent::Sent { context: 42, loan, .. }]) => assert_eq!(&**loan, BYTES),
        _ => panic!("{what}: {events:?}"),
    }
    drop(events);
    assert!(rig.events().is_empty(), "{what}");
}

#[test]
fn a_loan_comes_back_once_and_after_the_last_word_of_the_kernel() {
    for outcome in [Outcome::Whole, Outcome::Short, Outcome::Failed, Outcome::Cancelled] {
        for announced in [true, false] {
            for notice in [Notice::Before, Notice::After, Notice::Never] {
                with(&config(), FakeConfig::default(), |rig| one(rig, outcome, announced, notice));
            }
        }
    }
}

#[test]
fn a_connection_goes_on_while_notifications_are_to_come_and_they_may_come_in_any_order() {
    with(&config(), FakeConfig::default(), |rig| {
        let (conn, _receive) = rig.connection();
        let mut entries = Vec::new();
        for context in 0..4 {
            rig.send(conn, BYTES, context);
            let entry = rig.submitted_one(op::SEND_ZC);
            rig.complete(&entry, 16, cqe::MORE);
            assert!(rig.events().is_empty() && rig.streams.queued(conn).unwrap() == 0);
            entries.push(entry);
        }
        for at in [2, 0, 3, 1] {
            rig.complete(&entries[at], 0, cqe::NOTIF);
            let events = rig.events();
            let [StreamEvent::Sent { context, .. }] = events.as_slice() else {
                panic!("{events:?}");
            };
            assert_eq!(*context, u64::try_from(at).unwrap());
        }
    });
}

#[test]
fn what_waits_behind_a_chain_that_is_not_over_keeps_its_place() {
    with(&config(), FakeConfig::default(), |rig| {
        let (conn, _receive) = rig.connection();
        rig.send(conn, BYTES, 0);
        rig.send(conn, BYTES, 1);
        rig.turn();
        let chain = rig.taken();
        assert_eq!(chain.len(), 2);
        rig.send(conn, BYTES, 2);
        assert_eq!(rig.submitted(op::SEND_ZC), [], "one chain at a time");
        rig.complete(&chain[1], -125, 0);
        rig.complete(&chain[0], 3, cqe::MORE);
        assert!(rig.events().is_empty());
        assert_eq!(rig.submitted(op::SEND_ZC), [], "the kernel has the first of them still");
        rig.complete(&chain[0], 0, cqe::NOTIF);
        assert!(rig.events().is_empty());
        let rest = rig.submitted(op::SEND_ZC);
        let lengths: Vec<u32> = rest.iter().map(|entry| entry.len).collect();
        assert_eq!(lengths, [13, 16, 16], "from the exact byte, and what came later behind it");
        assert_eq!(rest[0].addr, chain[0].addr + 3);
    });
}

#[test]
fn where_nothing_can_go_uncopied_it_is_copied() {
    for errno in [95, 12, 105] {
        with(&config(), FakeConfig::default(), |rig| {
            let (conn, _receive) = rig.connection();
            rig.send(conn, BYTES, 0);
            let entry = rig.submitted_one(op::SEND_ZC);
            rig.complete(&entry, -errno, 0);
            assert!(rig.events().is_empty());
            let entry = rig.submitted_one(op::SEND);
            rig.complete(&entry, 16, 0);
            assert!(matches!(rig.events().as_slice(), [StreamEvent::Sent { .. }]));
        });
    }
}

/// Three loans as one message, whose result stops at any byte: one notification for all, and only if it was announced.
#[test]
fn a_message_of_many_parts_has_one_notification_and_goes_on_from_the_exact_byte() {
    let features = StreamFeatures { sendmsg_zero_copy: true, ..ALL };
    let config = StreamConfig { features, zero_copy_min: 8, ..config() };
    let lengths = [3_u32, 16, 9];
    for sent in 0..=28_u32 {
        for announced in [false, true] {
            with(&config, FakeConfig::default(), |rig| {
                let (conn, _receive) = rig.connection();
                rig.send(conn, b"abc", 0);
                rig.send(conn, BYTES, 1);
                rig.send(conn, b"nine more", 2);
                let entry = rig.submitted_one(op::SENDMSG_ZC);
                assert_eq!(parts(&entry).map(|(_, length)| length).collect::<Vec<_>>(), lengths);
                let first = parts(&entry).collect::<Vec<_>>();
                let res = if sent == 0 { -125 } else { sent.cast_signed() };
                rig.complete(&entry, res, if announced { cqe::MORE } else { 0 });
                let mut back = rig.events();
                if announced {
                    assert!(back.is_empty(), "{sent}: the network has it");
                    rig.complete(&entry, 0, cqe::NOTIF);
                    back = rig.events();
                }
                // What was sent whole comes back; the rest is submitted from the byte where it stopped.
                let (mut left, mut expected) = (sent, Vec::new());
                let mut whole = 0;
                for (address, length) in first {
                    let part = length.min(left);
                    left -= part;
                    if part == length {
                        whole += 1;
                    } else {
                        expected.push((address + u64::from(part), length - part));
                    }
                }
                let contexts = back.iter().map(|event| {
                    let StreamEvent::Sent { context, .. } = event else { panic!("{event:?}") };
                    *context
                });
                assert_eq!(contexts.collect::<Vec<_>>(), (0..whole).collect::<Vec<_>>());
                rig.turn();
                let taken = rig.taken();
                let again: Vec<_> = taken.iter().flat_map(parts).collect();
                assert_eq!(again, expected, "{sent}");
            });
        }
    }
}

/// A chain where the arena is registered: entries that name a registered buffer have nothing pinned.
#[test]
fn registered_memory_goes_as_a_chain() {
    let features = StreamFeatures { sendmsg_zero_copy: true, fixed_buffers: true, ..ALL };
    with(&StreamConfig { features, ..config() }, FakeConfig::default(), |rig| {
        let (conn, _receive) = rig.connection();
        rig.send(conn, BYTES, 0);
        rig.send(conn, BYTES, 1);
        assert_eq!(rig.submitted(op::SEND_ZC).len(), 2);
    });
}

/// What an entry sends: addresses and lengths.
pub(super) fn parts(entry: &Sqe) -> impl Iterator<Item = (u64, u32)> {
    let many = matches!(entry.opcode, op::SENDMSG | op::SENDMSG_ZC);
    let (vector, count) =
        if many { (memory::word(entry.addr + 16), memory::word(entry.addr + 24)) } else { (0, 1) };
    let (addr, len) = (entry.addr, entry.len);
    (0..count).map(move |at| match many {
        true => (memory::word(vector + at * 16), low(memory::word(vector + at * 16 + 8))),
        false => (addr, len),
    })
}
