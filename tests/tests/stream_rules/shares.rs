//! Who gets how many of the buffers that writes copy into, and who may hold those that were received into, where other ends take nothing.

use spinwire_dataplane::error::{Misuse, PostError, Retry};
use spinwire_dataplane::poll::Poll;
use spinwire_dataplane::stream::{CloseReason, ConnId, StreamConfig, StreamEvent};
use spinwire_dataplane::time::{Instant, Nanos};
use spinwire_layouts::uring::{Sqe, cqe, op};
use spinwire_tests::fake_kernel::FakeConfig;

use super::notices::parts;
use super::{Rig, config, with};

const REFUSED: Result<(), PostError> = Err(PostError::Retry(Retry::NoSlot));

/// Twenty buffers of 64 bytes; four are kept, so that sixteen are shared.
const fn fair() -> StreamConfig {
    StreamConfig {
        conns: 4,
        send_buffers: (20, 64),
        segments: 40,
        zero_copy_min: 0,
        queue_high: u32::MAX,
        fair_sends: true,
        ..config()
    }
}

impl Rig<'_, '_, '_> {
    fn write(&self, conn: ConnId, buffers: usize) -> Result<(), PostError> {
        self.streams.write(conn, &vec![1; 64 * buffers])
    }

    /// A connection whose other end takes nothing, with all the buffers that it gets.
    fn stuck(&self) -> u32 {
        let (conn, _receive) = self.connection();
        (0..).find(|_| self.write(conn, 1).is_err()).unwrap()
    }

    /// What was submitted is sent.
    fn sent(&self, entry: &Sqe, buffers: usize) {
        self.complete(entry, i32::try_from(64 * buffers).unwrap(), 0);
    }

    fn sends(&self) -> Vec<Sqe> {
        self.turn();
        let is_send = |entry: &Sqe| matches!(entry.opcode, op::SEND | op::SENDMSG);
        self.taken().into_iter().filter(is_send).collect()
    }
}

#[test]
fn one_that_takes_nothing_never_stops_the_longest_message() {
    with(&fair(), FakeConfig::default(), |rig| {
        assert!(rig.stuck() <= 9);
        let (conn, _receive) = rig.connection();
        assert_eq!(rig.write(conn, 9), Err(PostError::Misuse(Misuse::TooLong)));
        assert_eq!(rig.write(conn, 8), Ok(()));
    });
}

/// One waits for many buffers, and two others ask for one more whenever one of theirs has come back. What comes back is kept for
/// the first, though the others may have one each in any case.
#[test]
fn who_waits_for_many_buffers_is_not_starved_by_those_who_want_few() {
    with(&fair(), FakeConfig::default(), |rig| {
        rig.stuck();
        let [(a, _), (b, _), (many, _)] = [(); 3].map(|()| rig.connection());
        let mut under_way = vec![(a, Vec::new()), (b, Vec::new())];
        let _of_the_stuck = rig.sends();
        for _ in 0..8 {
            for (conn, sends) in &mut under_way {
                if rig.write(*conn, 1).is_ok() {
                    sends.extend(rig.sends());
                }
            }
        }
        assert_eq!(rig.write(many, 8), REFUSED);
        let mut served = false;
        for _ in 0..32 {
            for (conn, sends) in &mut under_way {
                if !sends.is_empty() {
                    let first = sends.remove(0);
                    // All that was waiting goes with the next.
                    let buffers =
                        usize::try_from(parts(&first).map(|(_, length)| length).sum::<u32>())
                            .unwrap()
                            / 64;
                    rig.sent(&first, buffers);
                    assert!(rig.events().iter().all(|e| matches!(e, StreamEvent::Writable(_))));
                }
                while rig.write(*conn, 1).is_ok() {}
                sends.extend(rig.sends());
            }
            served |= rig.write(many, 8).is_ok();
        }
        assert!(served, "it waits for ever");
    });
}

/// Where it cannot have them the others go on: they are kept for a while only.
#[test]
fn nobody_waits_for_long_with_who_waits_for_what_he_cannot_have() {
    with(&fair(), FakeConfig::default(), |rig| {
        rig.stuck();
        assert!(rig.stuck() > 1);
        let [(some, _), (many, _)] = [(); 2].map(|()| rig.connection());
        assert_eq!(rig.write(some, 1), Ok(()));
        assert_eq!(rig.write(many, 8), REFUSED);
        assert_eq!(rig.write(some, 1), REFUSED, "they are kept");
        rig.turn_after(11);
        assert_eq!(rig.write(many, 8), REFUSED);
        assert_eq!(rig.write(some, 1), Ok(()), "not again at once");
        rig.turn_after(11);
        assert_eq!(rig.write(many, 8), REFUSED);
        assert_eq!(rig.write(some, 1), REFUSED, "but again");
        rig.streams.abort(many).unwrap();
        assert_eq!(rig.write(some, 1), Ok(()), "it wants them no more");
    });
}

/// All buffers are out, and too much waits for each: a frame of a port goes all the same, a few for each connection.
#[test]
fn frames_of_a_port_have_buffers_of_their_own() {
    let config = StreamConfig { queue_max: 600, ..fair() };
    with(&config, FakeConfig::default(), |rig| {
        let conns = [(); 4].map(|()| rig.connection().0);
        for conn in conns.iter().cycle().take(40) {
            while rig.write(*conn, 1).is_ok() {}
        }
        let _first = rig.sends();
        while rig.streams.write(conns[0], &[1; 64]).is_ok() {}
        for round in 0..4 {
            for conn in conns {
                assert!(rig.streams.write_control(conn, || Some([7; 32])), "frame {round}");
            }
        }
        let mut asked = false;
        let taken = rig.streams.write_control(conns[0], || {
            asked = true;
            Some([7; 32])
        });
        assert!(taken || !asked, "what cannot be sent is not made");
        assert!(!rig.streams.write_control(conns[1], || None), "there may be none");
        rig.audit();
    });
}

/// Nobody who rests until the service has something to do sleeps past the time for which buffers are kept.
#[test]
fn who_waits_behind_what_is_kept_for_another_is_looked_at_when_that_is_over() {
    with(&fair(), FakeConfig::default(), |rig| {
        rig.stuck();
        let [(some, _), (many, _), (other, _)] = [(); 3].map(|()| rig.connection());
        assert_eq!(rig.write(some, 4), Ok(()));
        assert_eq!(rig.streams.poll_at(), None);
        let since = rig.now.get();
        assert_eq!(rig.write(many, 8), REFUSED);
        assert_eq!(rig.write(other, 2), REFUSED);
        assert_eq!(rig.streams.poll_at(), Some(Instant::from_nanos(since + 10_000_000)));
        rig.turn_after(10);
        assert_eq!(rig.streams.poll_at(), None, "it is over");
    });
}

/// All that is received into waits to be sent to one that takes nothing. It has its time while nobody lacks a buffer, and a part of it when
/// another does, who then goes on. One that holds some itself and wants more does not count.
#[test]
fn who_takes_nothing_has_less_time_while_others_lack_buffers() {
    let (long, short) = (Nanos::from_millis(1000), Nanos::from_millis(100));
    let config = StreamConfig {
        zero_copy_min: 0,
        queue_high: u32::MAX,
        send_timeout: long,
        hoard_timeout: short,
        ..config()
    };
    for comes_at in [50, 300] {
        with(&config, FakeConfig::default(), |rig| {
            let (stuck, receive) = rig.connection();
            for number in 0..4 {
                rig.complete(&receive, 64, cqe::MORE | cqe::BUFFER | number << cqe::BUFFER_SHIFT);
            }
            for event in rig.events() {
                let StreamEvent::Received { conn, bytes } = event else { panic!("{event:?}") };
                rig.streams.send(conn, bytes, 0).unwrap();
            }
            let [send] = *rig.sends() else { panic!("one message of many parts") };
            rig.complete(&receive, -105, 0);
            assert!(rig.events().is_empty());
            let cancels = |milliseconds| {
                rig.turn_after(milliseconds);
                let taken = rig.taken();
                assert!(taken.iter().all(|entry| entry.opcode != op::RECV), "there is no buffer");
                taken.iter().any(|entry| entry.opcode == op::ASYNC_CANCEL)
            };
            assert!(!cancels(comes_at), "nobody else wants any");
            let other = rig.streams.adopt(8).unwrap();
            assert!(!cancels(0), "it is not known yet that the other finds none");
            if comes_at < 100 {
                assert!(rig.streams.poll_at().is_some(), "it is to be looked at again");
                assert!(!cancels(40), "not before its time");
            }
            assert!(cancels(20), "others lack what it holds");
            rig.complete(&send, -125, 0);
            let mut taken = Vec::new();
            let mut has_ended = false;
            for _ in 0..4 {
                has_ended |= rig.events().iter().any(|event| {
                    let why = CloseReason::SendTimeout;
                    matches!(event, StreamEvent::Closed { conn, reason } if (*conn, *reason) == (stuck, why))
                });
                let entries = rig.taken();
                for close in entries.iter().filter(|entry| entry.opcode == op::CLOSE) {
                    rig.complete(close, 0, 0);
                }
                taken.extend(entries);
            }
            assert!(has_ended);
            assert!(taken.iter().any(|entry| (entry.opcode, entry.fd) == (op::RECV, 8)));
            assert!(rig.streams.queued(other).is_ok());
        });
    }
}

/// The same of buffers that are lent to be filled and sent.
#[test]
fn who_takes_nothing_has_less_time_while_there_are_no_buffers_to_send() {
    let hoard_timeout = Nanos::from_millis(100);
    let config = StreamConfig { zero_copy_min: 0, queue_high: u32::MAX, hoard_timeout, ..config() };
    with(&config, FakeConfig::default(), |rig| {
        let (stuck, _receive) = rig.connection();
        for _ in 0..16 {
            rig.send(stuck, &[1; 64], 0);
        }
        rig.turn();
        rig.turn_after(500);
        let is_cancel = |entry: &Sqe| entry.opcode == op::ASYNC_CANCEL;
        assert!(!rig.taken().iter().any(is_cancel), "nobody else wants any");
        assert!(rig.streams.lend().is_none());
        rig.turn();
        assert!(rig.taken().iter().any(is_cancel), "others lack what it holds");
    });
}
