//! Who gets how many of the buffers that writes copy into, where other ends take nothing.

use spinwire_dataplane::error::{Misuse, PostError, Retry};
use spinwire_dataplane::poll::Poll;
use spinwire_dataplane::stream::{ConnId, StreamConfig, StreamEvent};
use spinwire_dataplane::time::Instant;
use spinwire_layouts::uring::{Sqe, op};
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
