//! How connections end, and when.

use spinwire_dataplane::error::{Fatal, PostError};
use spinwire_dataplane::stream::{CloseReason, ConnId, StreamConfig, StreamEvent};
use spinwire_dataplane::time::Nanos;
use spinwire_dataplane::uring::EnterError;
use spinwire_layouts::uring::{SockAddr, Sqe, accept, cancel, cqe, op, recvsend};
use spinwire_tests::fake_kernel::FakeConfig;
use spinwire_tests::fake_net::memory;

use super::{Rig, config, with};

pub(super) fn somewhere() -> SockAddr {
    SockAddr::new("127.0.0.1:7000".parse().unwrap())
}

/// The kernel ends what is cancelled, and closes. Returns how it was cancelled.
fn end_of(rig: &Rig<'_, '_, '_>, conn: ConnId, reason: CloseReason, entries: &[Sqe]) {
    for entry in entries {
        rig.complete(entry, -125, 0);
    }
    rig.turn();
    let mut events: Vec<_> = core::iter::from_fn(|| rig.streams.poll()).collect();
    let close = rig.submitted_one(op::CLOSE);
    rig.complete(&close, 0, 0);
    events.extend(rig.events());
    let Some(StreamEvent::Closed { conn: of, reason: why }) = events.last() else {
        panic!("{events:?}");
    };
    assert_eq!((*of, *why), (conn, reason));
    assert!(rig.streams.close(conn).is_err(), "its id is stale");
}

#[test]
fn a_connection_that_is_being_connected_can_be_closed_and_aborted() {
    for abort in [false, true] {
        with(&config(), FakeConfig::default(), |rig| {
            let conn = rig.streams.connect(7, &somewhere()).unwrap();
            let connect = rig.submitted_one(op::CONNECT);
            let reason = if abort {
                rig.streams.abort(conn).unwrap();
                CloseReason::Aborted
            } else {
                rig.streams.close(conn).unwrap();
                CloseReason::Closed
            };
            let request = rig.submitted_one(op::ASYNC_CANCEL);
            assert!(request.fd == 7 && request.op_flags == cancel::FD | cancel::ALL);
            end_of(rig, conn, reason, &[connect]);
        });
    }
}

#[test]
fn what_was_handed_in_before_the_connection_was_up_is_sent_before_it_is_closed() {
    with(&config(), FakeConfig::default(), |rig| {
        let conn = rig.streams.connect(7, &somewhere()).unwrap();
        rig.streams.write(conn, b"last words").unwrap();
        rig.streams.close(conn).unwrap();
        let refused = rig.streams.write(conn, b"more");
        assert_eq!(refused, Err(PostError::Fatal(Fatal::PeerGone)));
        let connect = rig.submitted_one(op::CONNECT);
        rig.complete(&connect, 0, 0);
        assert!(rig.events().is_empty());
        let send = rig.submitted_one(op::SEND_ZC);
        assert_eq!(memory::read(send.addr, 10), b"last words");
        rig.complete(&send, 10, 0);
        assert!(rig.events().is_empty());
        end_of(rig, conn, CloseReason::Closed, &[]);
    });
}

#[test]
fn what_has_no_bytes_is_sent_too_before_the_end() {
    with(&config(), FakeConfig::default(), |rig| {
        let (conn, receive) = rig.connection();
        rig.send(conn, b"", 1);
        rig.streams.close(conn).unwrap();
        let send = rig.submitted_one(op::SEND);
        rig.complete(&send, 0, 0);
        assert!(matches!(rig.events().as_slice(), [StreamEvent::Sent { context: 1, .. }]));
        end_of(rig, conn, CloseReason::Closed, &[receive]);
    });
}

/// The peer takes nothing more: notifications come only when the connection is reset.
#[test]
fn an_abort_resets_where_the_network_has_pages() {
    for whole in [true, false] {
        with(&config(), FakeConfig::default(), |rig| {
            let (conn, receive) = rig.connection();
            rig.send(conn, b"0123456789", 1);
            let send = rig.submitted_one(op::SEND_ZC);
            if whole {
                rig.complete(&send, 10, cqe::MORE);
                assert!(rig.events().is_empty());
            }
            rig.streams.abort(conn).unwrap();
            let _cancel = rig.submitted_one(op::ASYNC_CANCEL);
            if !whole {
                rig.complete(&send, 4, cqe::MORE);
            }
            rig.complete(&receive, -125, 0);
            assert!(rig.events().is_empty());
            let reset = rig.submitted_one(op::CONNECT);
            assert_eq!(memory::read(reset.addr, 2), [0, 0], "AF_UNSPEC");
            assert_eq!(rig.submitted(op::CLOSE), []);
            rig.complete(&reset, 0, 0);
            rig.complete(&send, 0, cqe::NOTIF);
            let events = rig.events();
            match events.as_slice() {
                [StreamEvent::Sent { context: 1, .. }] if whole => {}
                [StreamEvent::NotSent { context: 1, .. }] if !whole => {}
                other => panic!("{other:?}"),
            }
            drop(events);
            end_of(rig, conn, CloseReason::Aborted, &[]);
        });
    }
}

#[test]
fn what_is_not_found_when_it_is_cancelled_is_cancelled_again() {
    with(&config(), FakeConfig::default(), |rig| {
        let (conn, receive) = rig.connection();
        rig.streams.abort(conn).unwrap();
        for _ in 0..3 {
            assert_eq!(rig.submitted(op::ASYNC_CANCEL).len(), 1);
            rig.turn_after(5);
            assert_eq!(rig.taken(), []);
            rig.turn_after(5);
            rig.turn_after(1);
            rig.streams.flush();
            let again: Vec<_> = rig.taken();
            assert_eq!(again.len(), 1, "{again:?}");
            rig.turn_after(20);
        }
        end_of(rig, conn, CloseReason::Aborted, &[receive]);
    });
}

#[test]
fn time_limits_hold_and_begin_with_the_first_turn() {
    let limit = Nanos::from_millis(50);
    let none = config();
    let limits = [
        (StreamConfig { connect_timeout: limit, ..none }, CloseReason::ConnectTimeout),
        (StreamConfig { idle_timeout: limit, ..none }, CloseReason::IdleTimeout),
        (StreamConfig { send_timeout: limit, ..none }, CloseReason::SendTimeout),
    ];
    for (config, reason) in limits {
        with(&config, FakeConfig::default(), |rig| {
            let connects = reason == CloseReason::ConnectTimeout;
            let conn = if connects {
                rig.streams.connect(7, &somewhere()).unwrap()
            } else {
                rig.streams.adopt(7).unwrap()
            };
            if reason == CloseReason::SendTimeout {
                rig.streams.write(conn, b"x").unwrap();
            }
            rig.turn();
            let entries = rig.taken();
            assert!(entries.iter().all(|entry| entry.opcode != op::ASYNC_CANCEL), "too early");
            rig.turn_after(48);
            rig.streams.flush();
            assert_eq!(rig.taken(), [], "too early");
            rig.turn_after(4);
            rig.streams.flush();
            let cancel = rig.taken();
            assert!(matches!(cancel.as_slice(), [entry] if entry.opcode == op::ASYNC_CANCEL));
            end_of(rig, conn, reason, &entries);
        });
    }
}

/// A connection that is closed, has sent all, and is shut. Returns its receive.
fn parting(rig: &Rig<'_, '_, '_>) -> (ConnId, Sqe) {
    let (conn, receive) = rig.connection();
    rig.streams.write(conn, b"bye").unwrap();
    rig.streams.close(conn).unwrap();
    assert_eq!(rig.streams.write(conn, b"x"), Err(PostError::Fatal(Fatal::PeerGone)));
    rig.turn();
    let entries = rig.taken();
    let send = entries.iter().find(|entry| entry.opcode == op::SEND_ZC).unwrap();
    assert!(entries.iter().all(|entry| entry.opcode != op::SHUTDOWN), "not all is sent");
    rig.complete(&receive, -125, 0);
    rig.complete(send, 3, 0);
    assert!(rig.events().is_empty());
    rig.turn();
    let entries = rig.taken();
    let [shut, receive] = entries.as_slice() else { panic!("{entries:?}") };
    let (shut, receive) =
        if shut.opcode == op::SHUTDOWN { (shut, receive) } else { (receive, shut) };
    assert_eq!((shut.opcode, receive.opcode), (op::SHUTDOWN, op::RECV));
    rig.complete(shut, 0, 0);
    assert!(rig.events().is_empty());
    (conn, *receive)
}

const LINGER: StreamConfig = StreamConfig {
    linger_timeout: Nanos::from_millis(50),
    linger_bytes: 100,
    recv_buffers: (4, 64),
    ..config()
};

#[test]
fn who_is_closed_is_heard_out_until_its_other_end_closes_too() {
    with(&LINGER, FakeConfig::default(), |rig| {
        let (conn, receive) = parting(rig);
        for number in 0..2 {
            rig.complete(&receive, 50, cqe::MORE | cqe::BUFFER | number << cqe::BUFFER_SHIFT);
        }
        assert!(rig.events().is_empty(), "nobody wants to hear that");
        rig.streams.close(conn).unwrap();
        rig.streams.pause(conn).unwrap();
        rig.streams.resume(conn).unwrap();
        rig.turn();
        assert_eq!(rig.taken(), [], "once is enough, and it is not to be stopped");
        assert_eq!(rig.streams.buffers().given(), 4, "the kernel has its buffers back");
        rig.complete(&receive, 0, 0);
        end_of(rig, conn, CloseReason::Closed, &[]);
    });
    // Who has closed before is not waited for.
    with(&LINGER, FakeConfig::default(), |rig| {
        let (conn, receive) = rig.connection();
        rig.complete(&receive, 0, 0);
        assert!(matches!(rig.events().as_slice(), [StreamEvent::PeerClosed(_)]));
        rig.streams.close(conn).unwrap();
        end_of(rig, conn, CloseReason::Closed, &[]);
    });
}

#[test]
fn nobody_is_heard_out_for_ever() {
    // For so long,
    with(&LINGER, FakeConfig::default(), |rig| {
        let (conn, receive) = parting(rig);
        rig.turn_after(40);
        rig.complete(&receive, 1, cqe::MORE | cqe::BUFFER);
        assert!(rig.events().is_empty());
        rig.turn_after(8);
        assert_eq!(rig.taken(), [], "too early");
        rig.turn_after(4);
        let cancel = rig.submitted_one(op::ASYNC_CANCEL);
        assert_eq!(cancel.op_flags, cancel::FD | cancel::ALL);
        end_of(rig, conn, CloseReason::Closed, &[receive]);
    });
    // for so many bytes,
    with(&LINGER, FakeConfig::default(), |rig| {
        let (conn, receive) = parting(rig);
        for (number, bytes) in [(0, 60), (1, 40), (2, 1)] {
            assert_eq!(rig.submitted(op::ASYNC_CANCEL), [], "too early");
            rig.complete(&receive, bytes, cqe::MORE | cqe::BUFFER | number << cqe::BUFFER_SHIFT);
            assert!(rig.events().is_empty());
        }
        let _cancel = rig.submitted_one(op::ASYNC_CANCEL);
        end_of(rig, conn, CloseReason::Closed, &[receive]);
    });
    // not when it is aborted, and not when its other end has reset it.
    with(&LINGER, FakeConfig::default(), |rig| {
        let (conn, receive) = parting(rig);
        rig.streams.abort(conn).unwrap();
        let _cancel = rig.submitted_one(op::ASYNC_CANCEL);
        end_of(rig, conn, CloseReason::Aborted, &[receive]);
        let (conn, receive) = parting(rig);
        rig.complete(&receive, -104, 0);
        end_of(rig, conn, CloseReason::Errno(104), &[]);
    });
}

#[test]
fn who_has_no_descriptor_tries_again_later() {
    with(&config(), FakeConfig::default(), |rig| {
        let listener = rig.streams.listen(3).unwrap();
        let accept = rig.submitted_one(op::ACCEPT);
        for errno in [24, 23, 105, 12] {
            rig.complete(&accept, -errno, 0);
            let events = rig.events();
            assert!(
                matches!(events.as_slice(), [StreamEvent::AcceptFailed { errno: why, .. }] if *why == errno)
            );
            rig.turn_after(5);
            assert_eq!(rig.taken(), [], "not at once");
            rig.turn_after(6);
            rig.turn_after(1);
            rig.streams.flush();
            assert_eq!(rig.taken(), [accept]);
        }
        rig.complete(&accept, -103, 0);
        assert_eq!(rig.events().len(), 1);
        assert_eq!(rig.submitted(op::ACCEPT), [accept], "that was about one connection");
        rig.complete(&accept, -22, 0);
        assert!(matches!(rig.events().as_slice(), []));
        let events = rig.events();
        let [StreamEvent::Closed { conn, reason: CloseReason::Errno(22) }] = events.as_slice()
        else {
            panic!("{events:?}");
        };
        assert_eq!(*conn, listener);
    });
}

#[test]
fn a_connection_that_is_paused_before_it_is_up_is_paused_then() {
    with(&config(), FakeConfig::default(), |rig| {
        let conn = rig.streams.connect(7, &somewhere()).unwrap();
        let connect = rig.submitted_one(op::CONNECT);
        rig.streams.pause(conn).unwrap();
        rig.turn();
        assert_eq!(rig.taken(), [], "it is not to be stopped to be connected");
        rig.complete(&connect, 0, 0);
        assert!(matches!(rig.events().as_slice(), [StreamEvent::Connected(_)]));
        assert_eq!(rig.submitted(op::RECV), []);
        rig.streams.resume(conn).unwrap();
        assert_eq!(rig.submitted(op::RECV).len(), 1);
        rig.streams.pause(conn).unwrap();
        assert_eq!(rig.submitted(op::ASYNC_CANCEL).len(), 1);
    });
}

#[test]
fn a_pause_is_not_undone_by_room() {
    let config = StreamConfig { queue_high: 11, queue_low: 2, ..config() };
    with(&config, FakeConfig::default(), |rig| {
        let (conn, receive) = rig.connection();
        rig.streams.write(conn, b"0123456789").unwrap();
        let send = rig.submitted_one(op::SEND_ZC);
        rig.complete(&send, 10, 0);
        rig.turn();
        rig.streams.write(conn, b"x").unwrap();
        rig.streams.pause(conn).unwrap();
        assert!(rig.streams.poll().is_none());
        rig.audit();
        let stop = rig.submitted_one(op::ASYNC_CANCEL);
        assert_eq!(stop.addr, receive.user_data);
    });
}

#[test]
fn a_pause_stays_whatever_comes_between() {
    let config = StreamConfig { queue_high: 5, queue_low: 2, ..config() };
    with(&config, FakeConfig::default(), |rig| {
        let (conn, receive) = rig.connection();
        rig.streams.write(conn, b"0123456789").unwrap();
        let entries = {
            rig.turn();
            rig.taken()
        };
        let [stop, send] = entries.as_slice() else { panic!("{entries:?}") };
        assert!(stop.opcode == op::ASYNC_CANCEL && stop.addr == receive.user_data, "crowded");
        rig.complete(&receive, -125, 0);
        assert!(rig.events().is_empty());
        rig.streams.pause(conn).unwrap();
        rig.complete(send, 10, 0);
        assert!(rig.events().is_empty());
        assert_eq!(rig.submitted(op::RECV), [], "crowded no more, but paused");
        rig.streams.resume(conn).unwrap();
        let receive = rig.submitted_one(op::RECV);
        // A request to stop that does not find it is made again when it goes on.
        rig.streams.pause(conn).unwrap();
        assert_eq!(rig.submitted(op::ASYNC_CANCEL).len(), 1);
        rig.complete(&receive, 1, cqe::MORE | cqe::BUFFER);
        assert_eq!(rig.events().len(), 1);
        assert_eq!(rig.submitted(op::ASYNC_CANCEL).len(), 1);
    });
}

#[test]
fn a_ring_that_is_lost_ends_everything_and_takes_nothing_more() {
    with(&config(), FakeConfig::default(), |rig| {
        let listener = rig.streams.listen(3).unwrap();
        let (conn, _receive) = rig.connection();
        rig.send(conn, b"under way", 1);
        rig.turn();
        rig.send(conn, b"waits", 2);
        rig.kernel.answer_with(&[EnterError::Fatal(9)]);
        rig.streams.pause(conn).unwrap();
        rig.turn();
        let events = rig.events();
        let [
            StreamEvent::NotSent { context: 2, .. },
            StreamEvent::Closed { conn: a, reason: CloseReason::RingLost },
            StreamEvent::Closed { conn: b, reason: CloseReason::RingLost },
        ] = events.as_slice()
        else {
            panic!("{events:?}");
        };
        assert!([*a, *b].contains(&listener) && [*a, *b].contains(&conn));
        assert_eq!(rig.streams.adopt(8), Err(PostError::Fatal(Fatal::RingLost)));
        assert!(rig.streams.is_empty());
    });
}

#[test]
fn who_waits_for_buffers_when_it_ends_waits_no_more() {
    with(&config(), FakeConfig::default(), |rig| {
        let (conn, receive) = rig.connection();
        for number in 0..4 {
            rig.complete(&receive, 64, cqe::MORE | cqe::BUFFER | number << cqe::BUFFER_SHIFT);
        }
        let held = rig.events();
        assert_eq!(held.len(), 4);
        rig.complete(&receive, -105, 0);
        assert!(rig.events().is_empty());
        assert_eq!(rig.submitted(op::RECV), [], "there is no buffer");
        rig.streams.abort(conn).unwrap();
        end_of(rig, conn, CloseReason::Aborted, &[]);
        drop(held);
        let (_other, _receive) = rig.connection();
    });
}

/// An accept that brings many brings more than there are rows, where more than that wait.
#[test]
fn where_fewer_rows_are_free_than_may_wait_guests_are_let_in_one_by_one() {
    let config = StreamConfig { conns: 4, backlog: 2, ..config() };
    with(&config, FakeConfig::default(), |rig| {
        let _listener = rig.streams.listen(3).unwrap();
        let is_many = |entry: &Sqe| entry.ioprio & accept::MULTISHOT != 0;
        let many = rig.submitted_one(op::ACCEPT);
        assert!(is_many(&many), "three rows are free, and two may wait");
        rig.complete(&many, 10, cqe::MORE);
        assert_eq!(rig.events().len(), 1);
        rig.turn();
        let stop = |entry: &&Sqe| entry.opcode == op::ASYNC_CANCEL && entry.addr == many.user_data;
        assert!(rig.taken().iter().any(|entry| stop(&entry)), "two rows, and two may wait");
        rig.complete(&many, -125, 0);
        for fd in 11..13 {
            assert!(rig.events().len() <= 1);
            let one = rig.submitted_one(op::ACCEPT);
            assert!(!is_many(&one));
            rig.complete(&one, fd, 0);
        }
        assert_eq!(rig.events().len(), 1);
        assert_eq!(rig.submitted(op::ACCEPT), [], "there is no row");
        assert_eq!(rig.streams.counters().turned_away, 0);
    });
}

/// Of whom no event has told yet they have no row, but will want one.
#[test]
fn guests_who_were_not_heard_of_yet_count_as_let_in() {
    let config = StreamConfig { conns: 8, backlog: 2, ..config() };
    with(&config, FakeConfig::default(), |rig| {
        let _listener = rig.streams.listen(3).unwrap();
        let many = rig.submitted_one(op::ACCEPT);
        let stops = || {
            rig.turn();
            rig.taken().iter().any(|entry| entry.opcode == op::ASYNC_CANCEL)
        };
        let mut fd = 10;
        let mut come = |count| {
            for _ in 0..count {
                rig.complete(&many, fd, cqe::MORE);
                fd += 1;
            }
        };
        come(3);
        assert!(!stops(), "four rows are left, and two may wait");
        // Some were taken in, some are not, and none was heard of.
        come(2);
        assert!(stops(), "two rows are left, and two may wait");
        // As many as waited at most until it was stopped.
        come(2);
        rig.complete(&many, -125, 0);
        let mut accepted = 0;
        for _ in 0..4 {
            let events = rig.events();
            accepted += events.iter().filter(|e| matches!(e, StreamEvent::Accepted { .. })).count();
        }
        assert_eq!((accepted, rig.streams.counters().turned_away), (7, 0));
    });
}

#[test]
fn guests_without_a_row_wait_in_the_kernel() {
    let config = StreamConfig { conns: 2, ..config() };
    with(&config, FakeConfig::default(), |rig| {
        let _listener = rig.streams.listen(3).unwrap();
        let accept = rig.submitted_one(op::ACCEPT);
        for fd in 10..12 {
            rig.complete(&accept, fd, cqe::MORE);
        }
        let events = rig.events();
        let [StreamEvent::Accepted { conn, .. }] = events.as_slice() else { panic!("{events:?}") };
        rig.turn();
        let stop =
            |entry: &&Sqe| entry.opcode == op::ASYNC_CANCEL && entry.addr == accept.user_data;
        let taken = rig.taken();
        assert!(taken.iter().any(|entry| stop(&entry)));
        assert!(taken.iter().any(|entry| entry.opcode == op::CLOSE && entry.fd == 11));
        // That was not found: another guest is let in, and it is made again.
        rig.complete(&accept, 12, cqe::MORE);
        assert!(rig.events().is_empty());
        rig.turn();
        assert_eq!(rig.taken().iter().filter(stop).count(), 1);
        rig.complete(&accept, -125, 0);
        assert!(rig.events().is_empty());
        assert_eq!(rig.submitted(op::ACCEPT), [], "there is no row");
        rig.streams.abort(*conn).unwrap();
        rig.turn();
        let receive = rig.taken().into_iter().find(|entry| entry.opcode == op::RECV);
        assert_eq!(receive, None, "it was submitted before");
        assert_eq!(rig.streams.counters().turned_away, 2);
    });
}

#[test]
fn where_buffers_are_few_they_go_one_by_one() {
    let config = StreamConfig { recv_buffers: (16, 64), ..config() };
    with(&config, FakeConfig::default(), |rig| {
        let (_one, receive) = rig.connection();
        for number in 0..16 {
            rig.complete(&receive, 64, cqe::MORE | cqe::BUFFER | number << cqe::BUFFER_SHIFT);
        }
        let mut held = rig.events();
        held.extend(rig.events());
        assert_eq!(held.len(), 16);
        rig.complete(&receive, -105, 0);
        assert!(rig.events().is_empty());
        rig.streams.adopt(8).unwrap();
        rig.streams.adopt(9).unwrap();
        assert_eq!(rig.submitted(op::RECV), []);
        drop(held.pop());
        let once = rig.submitted_one(op::RECV);
        assert_eq!(once.ioprio & recvsend::RECV_MULTISHOT, 0, "one buffer, once");
        assert_eq!(once.user_data, receive.user_data, "who waited longest");
        held.truncate(12);
        let rest = rig.submitted(op::RECV);
        assert_eq!(rest.len(), 2);
        assert!(rest.iter().all(|entry| entry.ioprio & recvsend::RECV_MULTISHOT != 0));
        rig.complete(&once, -105, 0);
        assert!(rig.events().is_empty());
        assert_eq!(rig.submitted(op::RECV), [receive], "as before");
    });
}

/// All rows are taken, two of them by connections that linger, and a listener waits. The oldest of them lingers no longer, and not before it
/// had a little while; the other goes on.
#[test]
fn who_lingers_makes_room_for_who_wants_to_come_in() {
    let config = StreamConfig { conns: 4, ..LINGER };
    with(&config, FakeConfig::default(), |rig| {
        let listener = rig.streams.listen(3).unwrap();
        let accept = rig.submitted_one(op::ACCEPT);
        let (first, receive) = parting(rig);
        rig.turn_after(2);
        let (_second, _other_receive) = parting(rig);
        rig.complete(&accept, 9, 0);
        let events = rig.events();
        assert!(matches!(events.as_slice(), [StreamEvent::Accepted { .. }]), "{events:?}");
        let taken = rig.submitted(op::ACCEPT);
        assert_eq!(taken, [], "there is no row for another");
        rig.turn_after(6);
        assert_eq!(rig.submitted(op::ASYNC_CANCEL), [], "it may linger for a little while");
        rig.turn_after(3);
        let cancel = rig.submitted_one(op::ASYNC_CANCEL);
        rig.turn_after(8);
        assert_eq!(rig.submitted(op::ASYNC_CANCEL), [], "one is enough");
        assert_eq!(cancel.fd, 7);
        end_of(rig, first, CloseReason::Closed, &[receive]);
        let accept = rig.submitted_one(op::ACCEPT);
        rig.turn_after(20);
        assert_eq!(rig.submitted(op::ASYNC_CANCEL), [], "nobody has to hurry now");
        rig.complete(&accept, 10, 0);
        let events = rig.events();
        let accepted = |event: &StreamEvent<'_>| matches!(event, StreamEvent::Accepted { listener: of, .. } if *of == listener);
        assert!(events.iter().any(accepted), "{events:?}");
    });
}

/// The thread was away for longer than any limit. What the kernel did meanwhile was in time; what it did not do was not.
#[test]
fn who_was_away_hears_first_and_judges_then() {
    let limit = Nanos::from_millis(1_000);
    let config = StreamConfig { send_timeout: limit, idle_timeout: limit, ..config() };
    for answered in [true, false] {
        with(&config, FakeConfig::default(), |rig| {
            let (conn, receive) = rig.connection();
            rig.send(conn, b"x", 1);
            let send = rig.submitted_one(op::SEND_ZC);
            if answered {
                rig.complete(&send, 1, 0);
                rig.complete(&receive, 1, cqe::MORE | cqe::BUFFER);
            }
            rig.turn_after(5_000);
            let events: Vec<_> = core::iter::from_fn(|| rig.streams.poll()).collect();
            assert_eq!(events.len(), if answered { 2 } else { 0 }, "{events:?}");
            let cancels = rig.submitted(op::ASYNC_CANCEL).len();
            assert_eq!(cancels, usize::from(!answered));
        });
    }
}
