//! Time limits of single operations, and what is taken back: who gets what when, and what the kernel is asked.

use spinwire_dataplane::error::Misuse;
use spinwire_dataplane::stream::{CloseReason, ConnId, StreamEvent, Undone};
use spinwire_dataplane::time::Instant;
use spinwire_layouts::uring::{Sqe, cqe, op};
use spinwire_tests::fake_kernel::FakeConfig;

use super::ends::somewhere;
use super::{Rig, config, with};

const ECANCELED: i32 = -125;

impl Rig<'_, '_, '_> {
    /// So many milliseconds from now.
    const fn in_ms(&self, milliseconds: u64) -> Instant {
        Instant::from_nanos(self.now.get() + milliseconds * 1_000_000)
    }

    fn send_until(&self, conn: ConnId, bytes: &[u8], context: u64, until: Instant) {
        let mut loan = self.streams.lend().unwrap();
        loan.fill(bytes).unwrap();
        self.streams.send_until(conn, (loan, context), until).unwrap();
    }

    /// What is asked to be cancelled so much later, by name.
    fn cancelled_after(&self, milliseconds: u64) -> Vec<u64> {
        self.turn_after(milliseconds);
        let taken = self.taken();
        let cancels = taken.iter().filter(|entry| entry.opcode == op::ASYNC_CANCEL);
        cancels.map(|entry| entry.addr).collect()
    }

    #[track_caller]
    fn not_sent(&self, context: u64, why: Undone) {
        let events = self.events();
        let [StreamEvent::NotSent { context: of, why: because, .. }] = events.as_slice() else {
            panic!("not sent, and nothing else: {events:?}");
        };
        assert_eq!((*of, *because), (context, why));
    }

    #[track_caller]
    fn nothing(&self) {
        let events = self.events();
        assert!(events.is_empty(), "{events:?}");
    }
}

/// A connection, and a loan of four bytes with a limit of 5 ms that the kernel has.
fn under_way(rig: &Rig<'_, '_, '_>) -> (ConnId, Sqe) {
    let (conn, _receive) = rig.connection();
    rig.send_until(conn, b"late", 1, rig.in_ms(5));
    let send = rig.submitted_one(op::SEND_ZC);
    assert!(rig.cancelled_after(4).is_empty(), "before its time is up");
    (conn, send)
}

#[test]
fn what_waits_comes_back_when_its_time_is_up() {
    with(&config(), FakeConfig::default(), |rig| {
        let (conn, _receive) = rig.connection();
        rig.send(conn, b"first", 1);
        let first = rig.submitted_one(op::SEND_ZC);
        rig.send_until(conn, b"late", 2, rig.in_ms(5));
        rig.send(conn, b"last", 3);
        assert!(rig.cancelled_after(4).is_empty() && rig.events().is_empty());
        assert!(rig.cancelled_after(3).is_empty(), "the kernel has nothing of it");
        rig.not_sent(2, Undone::TimedOut);
        assert_eq!(rig.streams.queued(conn), Ok(9), "what it had is not counted any more");
        rig.complete(&first, 5, 0);
        assert!(matches!(rig.events().as_slice(), [StreamEvent::Sent { context: 1, .. }]));
        let last = rig.submitted_one(op::SEND_ZC);
        assert_eq!(last.len, 4);
        rig.complete(&last, 4, 0);
        assert!(matches!(rig.events().as_slice(), [StreamEvent::Sent { context: 3, .. }]));
    });
}

#[test]
fn what_the_kernel_has_is_cancelled_and_comes_back_with_its_last_completion() {
    for announced in [false, true] {
        with(&config(), FakeConfig::default(), |rig| {
            let (conn, send) = under_way(rig);
            assert_eq!(rig.cancelled_after(3), [send.user_data], "it is really cancelled");
            rig.nothing();
            assert_eq!(rig.cancelled_after(12), [send.user_data], "again: it was not found");
            rig.complete(&send, ECANCELED, if announced { cqe::MORE } else { 0 });
            if announced {
                rig.nothing();
                rig.complete(&send, 0, cqe::NOTIF);
            }
            rig.not_sent(1, Undone::TimedOut);
            assert!(rig.cancelled_after(50).is_empty(), "nothing is left to cancel");
            rig.send(conn, b"more", 2);
            let more = rig.submitted_one(op::SEND_ZC);
            rig.complete(&more, 4, 0);
            assert!(matches!(rig.events().as_slice(), [StreamEvent::Sent { context: 2, .. }]));
        });
    }
}

#[test]
fn what_went_meanwhile_is_sent() {
    with(&config(), FakeConfig::default(), |rig| {
        let (_conn, send) = under_way(rig);
        assert_eq!(rig.cancelled_after(3), [send.user_data]);
        rig.complete(&send, 4, cqe::MORE);
        rig.nothing();
        rig.complete(&send, 0, cqe::NOTIF);
        assert!(matches!(rig.events().as_slice(), [StreamEvent::Sent { context: 1, .. }]));
    });
}

/// With the notification at once, and with one that does not come before the connection is reset.
#[test]
fn a_part_that_has_gone_ends_the_connection() {
    for announced in [false, true] {
        with(&config(), FakeConfig::default(), |rig| {
            let (conn, receive) = rig.connection();
            rig.send_until(conn, b"late", 1, rig.in_ms(5));
            let send = rig.submitted_one(op::SEND_ZC);
            rig.send(conn, b"next", 2);
            assert_eq!(rig.cancelled_after(6), [send.user_data]);
            rig.complete(&send, 3, if announced { cqe::MORE } else { 0 });
            let mut events = rig.events();
            rig.complete(&receive, ECANCELED, 0);
            events.extend(rig.events());
            rig.turn();
            if announced {
                let reset = rig.taken().into_iter().find(|entry| entry.opcode == op::CONNECT);
                rig.complete(&reset.expect("the network has to let go"), 0, 0);
                rig.complete(&send, 0, cqe::NOTIF);
            }
            events.extend(rig.events());
            for _ in 0..3 {
                for close in rig.taken().iter().filter(|entry| entry.opcode == op::CLOSE) {
                    rig.complete(close, 0, 0);
                }
                events.extend(rig.events());
            }
            let lost = |event: &StreamEvent<'_>| {
                let StreamEvent::NotSent { context, why: Undone::Ended, .. } = event else {
                    return None;
                };
                Some(*context)
            };
            let mut back: Vec<u64> = events.iter().filter_map(lost).collect();
            back.sort_unstable();
            assert_eq!(back, [1, 2]);
            assert!(
                matches!(
                    events.last(),
                    Some(StreamEvent::Closed { reason: CloseReason::Torn, .. })
                ),
                "{events:?}"
            );
        });
    }
}

#[test]
fn of_a_chain_the_others_go_on() {
    with(&config(), FakeConfig::default(), |rig| {
        let (conn, _receive) = rig.connection();
        rig.send(conn, b"first", 1);
        rig.send_until(conn, b"late", 2, rig.in_ms(5));
        rig.send(conn, b"last", 3);
        let chain = rig.submitted(op::SEND_ZC);
        assert_eq!(chain.len(), 3);
        assert_eq!(rig.cancelled_after(6), [chain[0].user_data], "which takes the others along");
        rig.complete(&chain[0], 2, 0);
        rig.complete(&chain[1], ECANCELED, 0);
        rig.complete(&chain[2], ECANCELED, 0);
        rig.not_sent(2, Undone::TimedOut);
        let rest = rig.submitted(op::SEND_ZC);
        let lengths: Vec<u32> = rest.iter().map(|entry| entry.len).collect();
        assert_eq!(lengths, [3, 4], "from the byte where it stopped");
    });
}

/// The network has the first; what never began need not wait for that.
#[test]
fn what_never_began_does_not_wait_for_the_notifications_of_others() {
    with(&config(), FakeConfig::default(), |rig| {
        let (conn, _receive) = rig.connection();
        rig.send(conn, b"first", 1);
        rig.send_until(conn, b"late", 2, rig.in_ms(5));
        let chain = rig.submitted(op::SEND_ZC);
        rig.complete(&chain[0], 5, cqe::MORE);
        rig.turn();
        assert!(rig.streams.poll().is_none());
        assert_eq!(rig.cancelled_after(6), [chain[1].user_data]);
        rig.complete(&chain[1], ECANCELED, 0);
        rig.not_sent(2, Undone::TimedOut);
        rig.nothing();
        rig.complete(&chain[0], 0, cqe::NOTIF);
        assert!(matches!(rig.events().as_slice(), [StreamEvent::Sent { context: 1, .. }]));
    });
}

#[test]
fn a_send_is_taken_back() {
    with(&config(), FakeConfig::default(), |rig| {
        let (conn, _receive) = rig.connection();
        rig.send(conn, b"first", 1);
        let first = rig.submitted_one(op::SEND_ZC);
        rig.send(conn, b"second", 2);
        assert_eq!(rig.streams.cancel_send(conn, 3), Err(Misuse::StaleOperation));
        rig.streams.cancel_send(conn, 2).unwrap();
        rig.not_sent(2, Undone::Cancelled);
        assert_eq!(rig.streams.cancel_send(conn, 2), Err(Misuse::StaleOperation));
        rig.streams.cancel_send(conn, 1).unwrap();
        assert_eq!(rig.cancelled_after(0), [first.user_data]);
        rig.complete(&first, ECANCELED, 0);
        rig.not_sent(1, Undone::Cancelled);
        assert_eq!(rig.streams.queued(conn), Ok(0));
    });
}

#[test]
fn a_receive_that_is_late_is_stopped_and_told() {
    with(&config(), FakeConfig::default(), |rig| {
        let (conn, receive) = rig.connection();
        rig.streams.receive_until(conn, rig.in_ms(5)).unwrap();
        assert!(rig.cancelled_after(4).is_empty());
        assert_eq!(rig.cancelled_after(3), [receive.user_data]);
        rig.nothing();
        assert_eq!(rig.cancelled_after(12), [receive.user_data], "again: it was not found");
        rig.complete(&receive, ECANCELED, 0);
        let events = rig.events();
        assert!(matches!(events.as_slice(), [StreamEvent::ReceiveTimedOut(of)] if *of == conn));
        assert!(rig.submitted(op::RECV).is_empty(), "nothing comes after that was said");
        rig.streams.receive_until(conn, rig.in_ms(5)).unwrap();
        let receive = rig.submitted_one(op::RECV);
        rig.complete(&receive, 0, 0);
        assert!(matches!(rig.events().as_slice(), [StreamEvent::PeerClosed(_)]));
        assert!(rig.cancelled_after(50).is_empty() && rig.events().is_empty());
    });
}

#[test]
fn bytes_that_come_while_a_receive_is_stopped_came_in_time() {
    for more in [0, cqe::MORE] {
        with(&config(), FakeConfig::default(), |rig| {
            let (conn, receive) = rig.connection();
            rig.streams.receive_until(conn, rig.in_ms(5)).unwrap();
            assert_eq!(rig.cancelled_after(6), [receive.user_data]);
            rig.complete(&receive, 3, cqe::BUFFER | more);
            assert!(matches!(rig.events().as_slice(), [StreamEvent::Received { .. }]));
            if more != 0 {
                rig.complete(&receive, ECANCELED, 0);
                rig.nothing();
            }
            rig.turn();
            let again = rig.taken().into_iter().filter(|entry| entry.opcode == op::RECV).count();
            assert_eq!(again, 1, "it is received from as before");
            assert!(rig.cancelled_after(50).is_empty() && rig.events().is_empty());
        });
    }
}

#[test]
fn who_is_to_be_closed_once_it_is_up_ends_though_all_was_taken_back() {
    for cancelled in [false, true] {
        with(&config(), FakeConfig::default(), |rig| {
            let conn = rig.streams.connect(7, &somewhere()).unwrap();
            let connect = rig.submitted_one(op::CONNECT);
            rig.send_until(conn, b"late", 1, rig.in_ms(5));
            rig.streams.close(conn).unwrap();
            let why = if cancelled {
                rig.streams.cancel_send(conn, 1).unwrap();
                Undone::Cancelled
            } else {
                rig.turn_after(6);
                Undone::TimedOut
            };
            rig.not_sent(1, why);
            rig.complete(&connect, 0, 0);
            rig.nothing();
            for _ in 0..3 {
                for entry in rig.taken() {
                    rig.complete(&entry, 0, 0);
                }
                rig.turn();
            }
            let events = rig.events();
            let [StreamEvent::Closed { conn: of, reason: CloseReason::Closed }] = events.as_slice()
            else {
                panic!("{events:?}");
            };
            assert_eq!(*of, conn);
        });
    }
}

#[test]
fn a_pause_forgets_until_when_bytes_were_to_come() {
    for stopping in [false, true] {
        with(&config(), FakeConfig::default(), |rig| {
            let (conn, receive) = rig.connection();
            rig.streams.receive_until(conn, rig.in_ms(5)).unwrap();
            if stopping {
                assert_eq!(rig.cancelled_after(6), [receive.user_data]);
            }
            rig.streams.pause(conn).unwrap();
            rig.turn();
            rig.complete(&receive, ECANCELED, 0);
            rig.nothing();
            rig.turn_after(50);
            rig.nothing();
            rig.streams.resume(conn).unwrap();
            assert_eq!(rig.submitted(op::RECV).len(), 1);
            assert!(rig.cancelled_after(50).is_empty() && rig.events().is_empty());
        });
    }
}

#[test]
fn what_was_never_there_is_not_found_beside_what_is_taken_back() {
    with(&config(), FakeConfig::default(), |rig| {
        let (conn, send) = under_way(rig);
        assert_eq!(rig.cancelled_after(3), [send.user_data]);
        assert_eq!(rig.streams.cancel_send(conn, 2), Err(Misuse::StaleOperation));
        assert_eq!(rig.streams.cancel_send(conn, 1), Ok(()), "it is on its way already");
    });
}

/// One of a chain has come back, and the network still has the one behind it, which does not come back for the other's sake.
#[test]
fn what_is_behind_one_that_came_back_keeps_its_own_notification() {
    with(&config(), FakeConfig::default(), |rig| {
        let (conn, _receive) = rig.connection();
        rig.send(conn, b"first", 1);
        rig.send_until(conn, b"late", 2, rig.in_ms(5));
        rig.send(conn, b"last", 3);
        let chain = rig.submitted(op::SEND_ZC);
        rig.complete(&chain[0], 5, 0);
        rig.turn();
        assert!(rig.streams.poll().is_none());
        assert_eq!(rig.cancelled_after(6), [chain[1].user_data]);
        rig.complete(&chain[1], ECANCELED, 0);
        rig.complete(&chain[2], ECANCELED, cqe::MORE);
        rig.not_sent(2, Undone::TimedOut);
        rig.streams.cancel_send(conn, 3).unwrap();
        rig.nothing();
        rig.complete(&chain[2], 0, cqe::NOTIF);
        let events = rig.events();
        assert!(
            matches!(
                events.as_slice(),
                [
                    StreamEvent::Sent { context: 1, .. },
                    StreamEvent::NotSent { context: 3, why: Undone::Cancelled, .. }
                ]
            ),
            "{events:?}"
        );
    });
}
