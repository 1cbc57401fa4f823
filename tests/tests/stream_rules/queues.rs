//! Queues and rings that are small, full, or come round.

use spinwire_dataplane::error::{Fatal, Misuse, PostError, Retry};
use spinwire_dataplane::poll::{Budget, Outcome, Poll};
use spinwire_dataplane::stream::{CloseReason, StreamConfig, StreamEvent};
use spinwire_dataplane::time::Instant;
use spinwire_layouts::uring::{Sqe, cqe, op, sqe};
use spinwire_tests::fake_kernel::FakeConfig;
use spinwire_tests::fake_net::memory::{self, BufferRing};

use super::{Rig, config, with};

/// Of errno(3): there is no buffer.
const ENOBUFS: i32 = 105;

#[test]
fn chains_pass_a_queue_of_any_size_that_is_full_at_any_position() {
    let config = StreamConfig { conns: 18, segments: 32, send_buffers: (32, 64), ..config() };
    for entries in [1, 2, 4, 8, 16] {
        let rings = FakeConfig { sq_entries: entries, cq_entries: 64, ..FakeConfig::default() };
        for before in 0..=entries {
            for length in 1..=17_usize {
                with(&config, rings, |rig| {
                    for _ in 0..before {
                        rig.streams.adopt(9).unwrap();
                    }
                    let conn = rig.streams.adopt(7).unwrap();
                    for context in 0..length {
                        rig.send(conn, &[u8::try_from(context).unwrap()], 0);
                    }
                    let (mut receives, mut sent) = (0, Vec::new());
                    let mut idle = 0;
                    while idle < 3 {
                        rig.turn();
                        let mut open = false;
                        let taken = rig.taken();
                        idle = if taken.is_empty() { idle + 1 } else { 0 };
                        for entry in taken {
                            if entry.opcode == op::RECV {
                                assert!(!open, "in the middle of a chain");
                                receives += 1;
                                continue;
                            }
                            open = entry.flags & sqe::IO_LINK != 0;
                            sent.extend(memory::read(entry.addr, 1));
                            rig.complete(&entry, 1, 0);
                        }
                        assert!(!open, "a chain is whole");
                        let events = core::iter::from_fn(|| rig.streams.poll()).count();
                        assert!(events <= length);
                    }
                    let wanted: Vec<u8> = (0..u8::try_from(length).unwrap()).collect();
                    assert_eq!(
                        (receives, sent),
                        (before + 1, wanted),
                        "{entries} {before} {length}"
                    );
                });
            }
        }
    }
}

#[test]
fn what_can_never_wait_is_refused_for_good() {
    let config = StreamConfig { send_buffers: (2, 64), segments: 3, queue_max: 1_000, ..config() };
    with(&config, FakeConfig::default(), |rig| {
        let (conn, _receive) = rig.connection();
        let write = |length: usize| rig.streams.write(conn, &vec![1; length]);
        assert_eq!(write(129), Err(PostError::Misuse(Misuse::TooLong)));
        assert_eq!(write(1_001), Err(PostError::Misuse(Misuse::TooLong)));
        assert_eq!(write(0), Ok(()));
        assert_eq!(write(100), Ok(()));
        assert_eq!(write(100), Err(PostError::Retry(Retry::NoSlot)));
        assert_eq!(write(28), Ok(()), "the rest of the last buffer");
        let all = rig.submitted(op::SEND_ZC);
        assert_eq!(all.len(), 2);
        for entry in &all {
            rig.complete(entry, entry.len.cast_signed(), 0);
        }
        assert!(rig.events().is_empty());
        let events = rig.events();
        assert!(matches!(events.as_slice(), [StreamEvent::Writable(_)]), "{events:?}");
        assert_eq!(write(100), Ok(()));
    });
}

/// A loan of which nobody hears is free again with the last word of the kernel about it, whatever that is, and not before.
#[test]
fn an_unsignaled_loan_goes_back_to_its_pool_when_the_kernel_has_done_with_it() {
    for (opcode, least) in [(op::SEND, 0), (op::SEND_ZC, 1)] {
        for (res, announced) in [(1, false), (1, true), (-32, false), (-104, true)] {
            let config = StreamConfig { send_buffers: (1, 64), zero_copy_min: least, ..config() };
            with(&config, FakeConfig::default(), |rig| {
                let (conn, _receive) = rig.connection();
                let mut loan = rig.streams.lend().unwrap();
                loan.fill(b"a").unwrap();
                rig.streams.send_unsignaled(conn, loan).unwrap();
                let entry = rig.submitted_one(opcode);
                assert!(rig.events().is_empty() && rig.streams.lend().is_none());
                rig.complete(&entry, res, if announced { cqe::MORE } else { 0 });
                assert!(rig.events().is_empty());
                assert_eq!(rig.streams.lend().is_none(), announced, "{opcode} {res}");
                if announced {
                    rig.complete(&entry, 0, cqe::NOTIF);
                    assert!(rig.events().is_empty());
                    assert!(rig.streams.lend().is_some());
                }
            });
        }
    }
    with(&config(), FakeConfig::default(), |rig| {
        let (conn, _receive) = rig.connection();
        let mut loan = rig.streams.lend().unwrap();
        loan.fill(b"a").unwrap();
        rig.streams.abort(conn).unwrap();
        let refused = rig.streams.send_unsignaled(conn, loan).unwrap_err();
        assert_eq!((refused.error, &*refused.item), (PostError::Fatal(Fatal::PeerGone), &b"a"[..]));
    });
}

/// Somebody who never reads keeps nobody from being told.
#[test]
fn who_was_refused_is_told_whatever_others_do() {
    let config = StreamConfig { send_buffers: (4, 64), queue_low: 10, ..config() };
    with(&config, FakeConfig::default(), |rig| {
        let (stalled, _receive) = rig.connection();
        let (other, _receive) = rig.connection();
        rig.streams.write(stalled, &[1; 64 * 2]).unwrap();
        rig.streams.write(other, &[2; 64 * 2]).unwrap();
        let entries = rig.submitted(op::SEND_ZC);
        assert_eq!(entries.len(), 4);
        let refused = Err(PostError::Retry(Retry::NoSlot));
        assert_eq!(rig.streams.write(stalled, &[1; 64 * 3]), refused);
        assert_eq!(rig.streams.write(other, &[2; 64]), refused);
        assert!(rig.events().is_empty());
        for entry in &entries[2..] {
            rig.complete(entry, 64, 0);
        }
        assert!(rig.events().is_empty());
        let events = rig.events();
        assert!(
            matches!(events.as_slice(), [StreamEvent::Writable(id)] if *id == other),
            "{events:?}"
        );
    });
}

#[test]
fn who_was_refused_a_segment_is_told_when_the_report_of_another_has_freed_one() {
    let config = StreamConfig { segments: 1, ..config() };
    with(&config, FakeConfig::default(), |rig| {
        let (first, _receive) = rig.connection();
        let (second, _receive) = rig.connection();
        rig.send(first, b"a", 0);
        let entry = rig.submitted_one(op::SEND_ZC);
        rig.complete(&entry, 1, 0);
        rig.turn();
        assert_eq!(rig.streams.write(second, b"b"), Err(PostError::Retry(Retry::NoSlot)));
        assert!(matches!(rig.events().as_slice(), [StreamEvent::Sent { .. }]));
        let events = rig.events();
        assert!(
            matches!(events.as_slice(), [StreamEvent::Writable(id)] if *id == second),
            "{events:?}"
        );
    });
}

/// More than 2^17 buffers go through rings of every size, the largest too, so that the tail comes round twice.
#[test]
fn the_tail_of_the_ring_of_buffers_comes_round() {
    for buffers in [1, 2, 32, 32_768] {
        let config = StreamConfig { conns: 2, recv_buffers: (buffers, 64), ..config() };
        with(&config, FakeConfig::default(), |rig| {
            let (_conn, receive) = rig.connection();
            let mut ring = BufferRing::new(rig.streams.buffers().registration());
            let mut total = 0_u32;
            while total < 140_000 {
                let available = ring.available();
                // Few at once: the others stay with the service.
                assert_eq!(u32::from(available), buffers.min(32), "after {total}");
                // Bundles of up to 21, over the end of the ring too.
                let most = available.min(21);
                let (_, _, first) = ring.peek();
                for index in 0..most {
                    let (address, length, _) = ring.peek();
                    memory::write(address, &vec![u8::try_from(index).unwrap(); length]);
                    ring.advance();
                }
                let flags = cqe::MORE | cqe::BUFFER | u32::from(first) << cqe::BUFFER_SHIFT;
                rig.complete(&receive, i32::from(most) * 64, flags);
                let _busy = rig.streams.turn(Instant::ORIGIN, Budget::default());
                for index in 0..most {
                    let Some(StreamEvent::Received { bytes, .. }) = rig.streams.poll() else {
                        panic!("{index} of {most} after {total}");
                    };
                    assert_eq!(*bytes, [u8::try_from(index).unwrap(); 64]);
                }
                assert!(rig.streams.poll().is_none());
                rig.streams.flush();
                total += u32::from(most);
            }
            rig.audit();
        });
    }
}

/// The kernel cuts a buffer to what it sees, takes it later, and goes on in the next.
#[test]
fn a_buffer_that_the_kernel_has_shortened_ends_where_it_says() {
    with(&config(), FakeConfig::default(), |rig| {
        let (_conn, receive) = rig.connection();
        let ring = BufferRing::new(rig.streams.buffers().registration());
        let mut next = ring;
        ring.shorten(1);
        let (first, length, number) = next.peek();
        assert_eq!(length, 1);
        memory::write(first, b"a");
        next.advance();
        memory::write(next.peek().0, b"bcd");
        let flags = cqe::MORE | cqe::BUFFER | u32::from(number) << cqe::BUFFER_SHIFT;
        rig.complete(&receive, 4, flags);
        let events = rig.events();
        let [StreamEvent::Received { bytes: a, .. }, StreamEvent::Received { bytes: b, .. }] =
            events.as_slice()
        else {
            panic!("{events:?}")
        };
        assert_eq!((&**a, &**b), (&b"a"[..], &b"bcd"[..]));
        drop(events);
        rig.turn();
        next.advance();
        assert_eq!((rig.streams.buffers().given(), next.available()), (4, 4));
        let lengths: Vec<usize> = (0..4).map(|_| (next.peek().1, next.advance()).0).collect();
        assert_eq!(lengths, [64; 4], "what is given again is whole");
    });
}

#[test]
fn what_the_kernel_names_and_does_not_have_is_not_handed_out() {
    with(&config(), FakeConfig::default(), |rig| {
        let (_conn, receive) = rig.connection();
        let mut ring = BufferRing::new(rig.streams.buffers().registration());
        let mut next = || (ring.peek().2, ring.advance()).0;
        let come = |number: u16| {
            let flags = cqe::MORE | cqe::BUFFER | u32::from(number) << cqe::BUFFER_SHIFT;
            rig.complete(&receive, 1, flags);
            rig.events()
        };
        let (first, second) = (next(), next());
        let held = come(first);
        assert_eq!(held.len(), 1);
        // Given again, this one takes the place that the first had.
        drop(come(second));
        rig.turn();
        assert_eq!(rig.streams.buffers().given(), 3);
        // Bytes are missing then: that connection ends, and no other.
        let none = (0, 0);
        let named = |number: u16| (cqe::BUFFER, u32::from(number) << cqe::BUFFER_SHIFT);
        let names = [first, 4, 5, 63, 32_767, u16::MAX].map(named);
        for (flag, name) in names.into_iter().chain([none]) {
            let (bad, its_receive) = rig.connection();
            let stale = rig.streams.counters().stale;
            rig.complete(&its_receive, 1, cqe::MORE | flag | name);
            assert!(rig.events().is_empty(), "{name:#x}");
            assert_eq!(
                (rig.streams.counters().stale, rig.streams.buffers().given()),
                (stale + 1, 3)
            );
            let _cancel = rig.submitted_one(op::ASYNC_CANCEL);
            rig.complete(&its_receive, -125, 0);
            assert!(rig.events().is_empty());
            let close = rig.submitted_one(op::CLOSE);
            rig.complete(&close, 0, 0);
            let events = rig.events();
            let [StreamEvent::Closed { conn, reason: CloseReason::Garbled }] = events.as_slice()
            else {
                panic!("{events:?}");
            };
            assert_eq!(*conn, bad);
        }
        let third = next();
        assert_eq!(come(third).len(), 1, "the other goes on");
        rig.turn();
        // Of a bundle that is longer than what it has, what it has.
        let fourth = next();
        rig.complete(&receive, i32::MAX, cqe::MORE | cqe::BUFFER | u32::from(fourth) << 16);
        assert_eq!(rig.events().len(), 3);
        let _cancel = rig.submitted_one(op::ASYNC_CANCEL);
        drop(held);
        rig.turn();
        assert_eq!(rig.streams.buffers().given(), 4);
    });
}

#[test]
fn a_service_with_nothing_to_do_says_so_and_enters_nothing() {
    with(&config(), FakeConfig::default(), |rig| {
        let (conn, _receive) = rig.connection();
        rig.send(conn, b"x", 1);
        let none = Budget::default().with_posts(0);
        assert_eq!(rig.streams.turn(Instant::ORIGIN, none), Outcome::Busy, "it is left over");
        let send = rig.submitted_one(op::SEND_ZC);
        rig.complete(&send, 1, cqe::MORE);
        assert!(rig.events().is_empty());
        rig.turn();
        let enters = rig.kernel.enters();
        for _ in 0..3 {
            assert_eq!(rig.streams.turn(Instant::ORIGIN, Budget::default()), Outcome::Idle);
        }
        assert_eq!(rig.kernel.enters(), enters);
        rig.complete(&send, 0, cqe::NOTIF);
        assert_eq!(rig.streams.turn(Instant::ORIGIN, Budget::default()), Outcome::Busy);
    });
}

/// The order of the ring says what a bundle goes on with, but only as far as the ring has it.
#[test]
fn a_bundle_does_not_go_on_with_what_lies_elsewhere() {
    with(&config(), FakeConfig::default(), |rig| {
        let (_conn, receive) = rig.connection();
        let flags = |number: u32| cqe::MORE | cqe::BUFFER | number << cqe::BUFFER_SHIFT;
        let mut ring = BufferRing::new(rig.streams.buffers().registration());
        let numbers: Vec<u32> =
            (0..4).map(|_| (u32::from(ring.peek().2), ring.advance()).0).collect();
        rig.complete(&receive, 4 * 64, flags(numbers[0]));
        let mut events = rig.events();
        // The one that comes back last is given first: the fourth has place 0 then, and place 3 is empty.
        let [fourth, third, second] = [events.pop(), events.pop(), events.pop()];
        drop((third, second, fourth));
        rig.turn();
        assert_eq!((rig.streams.buffers().given(), events.len()), (3, 1));
        assert_eq!(u32::from(ring.peek().2), numbers[3]);
        ring.advance();
        ring.advance();
        rig.complete(&receive, 2 * 64, flags(u32::from(ring.peek().2)));
        assert_eq!(rig.events().len(), 1, "there is nothing behind it");
    });
}

/// How many buffers the kernel has after a round in which it filled all that it had with so many bytes each, and then found none
/// for two connections.
fn given_after_a_round(
    rig: &Rig<'_, '_, '_>,
    ring: &mut BufferRing,
    (receives, bytes): (&[Sqe; 2], i32),
) -> u32 {
    for _ in 0..ring.available() {
        let flags = cqe::MORE | cqe::BUFFER | u32::from(ring.peek().2) << cqe::BUFFER_SHIFT;
        rig.complete(&receives[0], bytes, flags);
        ring.advance();
    }
    for receive in receives {
        rig.complete(receive, -ENOBUFS, 0);
    }
    while !rig.events().is_empty() {}
    rig.turn();
    assert_eq!(u32::from(ring.available()), rig.streams.buffers().given());
    let again = rig.taken().iter().filter(|entry| entry.opcode == op::RECV).count();
    assert_eq!(again, 2, "both are received from again");
    rig.streams.buffers().given()
}

/// Many connections with little each make the buffers more, once a turn; few that fill them do not, and make them fewer again.
#[test]
fn the_kernel_has_as_many_buffers_as_stay_warm() {
    let config = StreamConfig { recv_buffers: (128, 64 << 10), ..config() };
    let rings = FakeConfig { cq_entries: 256, ..FakeConfig::default() };
    with(&config, rings, |rig| {
        let receives = [rig.connection().1, rig.connection().1];
        let mut ring = BufferRing::new(rig.streams.buffers().registration());
        assert_eq!(rig.streams.buffers().given(), 32, "few to begin with");
        // Of those that are filled by half, 32 stay warm, and 64 do not.
        let (short, half, full) = (64, 32_000, 65_536);
        let more = [(short, 64), (short, 128), (short, 128)];
        let rounds = more.into_iter().chain([full, full, half, half, half].map(|fill| (fill, 32)));
        for (round, (bytes, given)) in rounds.enumerate() {
            let now = given_after_a_round(rig, &mut ring, (&receives, bytes));
            assert_eq!(now, given, "round {round}");
        }
        for _ in 0..3 {
            given_after_a_round(rig, &mut ring, (&receives, short));
        }
        assert_eq!(rig.streams.buffers().given(), 128, "as many again as before");
    });
}

/// Two hundred connections with more to say than there are buffers. A turn asks for no more than two for each buffer that has come back; all
/// the others would be refused, and that over and over.
#[test]
fn many_that_wait_for_few_buffers_are_not_all_asked_for_at_once() {
    let config = StreamConfig { conns: 200, recv_buffers: (8, 64), ..config() };
    let rings = FakeConfig { sq_entries: 256, cq_entries: 256, ..FakeConfig::default() };
    with(&config, rings, |rig| {
        for fd in 0..200 {
            rig.streams.adopt(fd).unwrap();
        }
        let mut ring = BufferRing::new(rig.streams.buffers().registration());
        let (mut asked, mut served) = (0, 0);
        while served < 800 {
            rig.turn();
            let receives: Vec<Sqe> =
                rig.taken().into_iter().filter(|entry| entry.opcode == op::RECV).collect();
            // When all have been asked once, a turn no more than so many.
            if asked >= 1_000 {
                assert!(receives.len() <= 16, "{} for 8 buffers", receives.len());
            }
            asked += receives.len();
            // All of them have bytes, and go on until there is no buffer.
            for receive in receives {
                if ring.available() > 0 {
                    let name = u32::from(ring.peek().2) << cqe::BUFFER_SHIFT;
                    ring.advance();
                    rig.complete(&receive, 64, cqe::MORE | cqe::BUFFER | name);
                    served += 1;
                }
                rig.complete(&receive, -ENOBUFS, 0);
            }
            while rig.streams.poll().is_some() {}
        }
        assert!(asked <= 200 + 4 * served, "{asked} asked for to serve {served}");
    });
}
