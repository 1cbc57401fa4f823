//! Who was just heard is asked in turn, and waited for when he has nothing to say.

use spinwire_dataplane::poll::{Budget, Outcome, Poll};
use spinwire_dataplane::stream::{ConnId, StreamConfig, StreamEvent};
use spinwire_dataplane::time::Instant;
use spinwire_layouts::uring::{Sqe, cqe, op, recvsend};
use spinwire_tests::fake_kernel::FakeConfig;
use spinwire_tests::fake_net::memory::BufferRing;

use super::{Rig, config, with};

/// Of errno(3), and of recv(2).
pub(super) const EAGAIN: i32 = 11;
pub(super) const DONT_WAIT: u32 = 0x40;

const fn asking() -> StreamConfig {
    StreamConfig { ask_max: 2, ..config() }
}

/// Whether it asks, waits for one, or waits for all that comes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Kind {
    Asks,
    WaitsOnce,
    Waits,
}

fn kind(entry: &Sqe) -> Kind {
    match (entry.op_flags, entry.ioprio & recvsend::RECV_MULTISHOT != 0) {
        (DONT_WAIT, false) => Kind::Asks,
        (0, false) => Kind::WaitsOnce,
        (0, true) => Kind::Waits,
        _ => panic!("{entry:?}"),
    }
}

impl Rig<'_, '_, '_> {
    /// A byte comes, which ends that receive.
    fn come(&self, ring: &mut BufferRing, receive: &Sqe, flags: u32) {
        let number = u32::from(ring.peek().2);
        ring.advance();
        self.complete(receive, 1, flags | cqe::BUFFER | number << cqe::BUFFER_SHIFT);
        let events = self.events();
        assert!(matches!(events.as_slice(), [StreamEvent::Received { .. }]), "{events:?}");
    }

    fn ring(&self) -> BufferRing {
        BufferRing::new(self.streams.buffers().registration())
    }

    /// A connection that was heard, and stands in the line.
    fn heard(&self, ring: &mut BufferRing) -> ConnId {
        let (conn, receive) = self.connection();
        self.come(ring, &receive, 0);
        conn
    }

    /// Receives that the kernel was given in a turn that had so much to do.
    fn receives(&self) -> (Vec<Sqe>, Outcome) {
        let outcome = self.streams.turn(Instant::from_nanos(self.now.get()), Budget::default());
        self.audit();
        let is_receive = |entry: &Sqe| entry.opcode == op::RECV;
        (self.taken().into_iter().filter(is_receive).collect(), outcome)
    }
}

#[test]
fn who_was_heard_is_asked_for_a_while_and_then_waited_for() {
    with(&asking(), FakeConfig::default(), |rig| {
        let (_conn, first) = rig.connection();
        assert_eq!(kind(&first), Kind::WaitsOnce, "a client that was not heard may take its time");
        let mut ring = rig.ring();
        rig.come(&mut ring, &first, 0);
        let mut receive = rig.submitted_one(op::RECV);
        for round in 0..3 {
            assert_eq!(kind(&receive), Kind::Asks, "{round}");
            rig.come(&mut ring, &receive, 0);
            receive = rig.submitted_one(op::RECV);
        }
        let mut in_vain = 0;
        while kind(&receive) == Kind::Asks {
            rig.complete(&receive, -EAGAIN, 0);
            assert!(rig.events().is_empty());
            receive = rig.submitted_one(op::RECV);
            in_vain += 1;
        }
        assert!((2..100).contains(&in_vain), "{in_vain}");
        assert_eq!(kind(&receive), Kind::WaitsOnce);
        let (none, outcome) = rig.receives();
        assert!(none.is_empty() && outcome == Outcome::Idle, "{none:?} {outcome:?}");
        rig.come(&mut ring, &receive, 0);
        assert_eq!(kind(&rig.submitted_one(op::RECV)), Kind::Asks);
    });
}

/// Those who were heard first are asked first, and nobody before he was: who has nothing is asked again after all others.
#[test]
fn few_are_asked_at_once_in_the_order_of_the_line() {
    with(&asking(), FakeConfig::default(), |rig| {
        let mut ring = rig.ring();
        let receives: Vec<Sqe> = (0..4).map(|_| rig.connection().1).collect();
        for receive in &receives {
            let number = u32::from(ring.peek().2);
            ring.advance();
            rig.complete(receive, 1, cqe::BUFFER | number << cqe::BUFFER_SHIFT);
        }
        assert_eq!(rig.events().len(), 4);
        let names: Vec<u64> = receives.iter().map(|receive| receive.user_data).collect();
        let mut asked = Vec::new();
        let (mut under_way, outcome) = rig.receives();
        assert_eq!((under_way.len(), outcome), (2, Outcome::Busy));
        for _ in 0..6 {
            assert!(under_way.iter().all(|entry| kind(entry) == Kind::Asks));
            let (more, outcome) = rig.receives();
            assert!(more.is_empty() && outcome == Outcome::Busy, "two at once: {more:?}");
            let entry = under_way.remove(0);
            asked.push(names.iter().position(|name| *name == entry.user_data).unwrap());
            rig.complete(&entry, -EAGAIN, 0);
            assert!(rig.events().is_empty());
            under_way.extend(rig.receives().0);
            assert_eq!(under_way.len(), 2);
        }
        assert_eq!(asked, [0, 1, 2, 3, 0, 1]);
    });
}

#[test]
fn who_sends_more_than_a_receive_takes_is_received_from_for_good() {
    with(&asking(), FakeConfig::default(), |rig| {
        let (_conn, receive) = rig.connection();
        let mut ring = rig.ring();
        rig.come(&mut ring, &receive, cqe::SOCK_NONEMPTY);
        let receive = rig.submitted_one(op::RECV);
        assert_eq!(kind(&receive), Kind::Waits);
        rig.come(&mut ring, &receive, cqe::MORE);
        let (none, outcome) = rig.receives();
        assert!(none.is_empty() && outcome == Outcome::Idle, "{none:?} {outcome:?}");
        // Where that has ended and nothing was left, he is one of the others again.
        rig.come(&mut ring, &receive, 0);
        assert_eq!(kind(&rig.submitted_one(op::RECV)), Kind::Asks);
    });
}

#[test]
fn who_is_paused_or_gone_is_not_asked() {
    with(&asking(), FakeConfig::default(), |rig| {
        let mut ring = rig.ring();
        let conn = rig.heard(&mut ring);
        rig.streams.pause(conn).unwrap();
        assert_eq!(rig.receives().0, []);
        assert_eq!(rig.receives(), (Vec::new(), Outcome::Idle));
        rig.streams.resume(conn).unwrap();
        let receive = rig.submitted_one(op::RECV);
        assert_eq!(kind(&receive), Kind::WaitsOnce);
        rig.come(&mut ring, &receive, 0);
        rig.streams.abort(conn).unwrap();
        let close = rig.submitted_one(op::CLOSE);
        rig.complete(&close, 0, 0);
        let events = rig.events();
        assert!(matches!(events.as_slice(), [StreamEvent::Closed { .. }]), "{events:?}");
        // The next in that row was not heard.
        let (_next, receive) = rig.connection();
        assert_eq!(kind(&receive), Kind::WaitsOnce);
    });
}

/// A connection that is closed while it stands in the line is still received from, so that its end is no reset.
#[test]
fn who_lingers_is_waited_for() {
    let config = StreamConfig { linger_timeout: spinwire_dataplane::time::Nanos::MAX, ..asking() };
    with(&config, FakeConfig::default(), |rig| {
        let mut ring = rig.ring();
        let conn = rig.heard(&mut ring);
        rig.streams.close(conn).unwrap();
        let mut receives = Vec::new();
        for _ in 0..3 {
            rig.turn();
            for entry in rig.taken() {
                match entry.opcode {
                    op::RECV => receives.push(kind(&entry)),
                    op::SHUTDOWN => rig.complete(&entry, 0, 0),
                    _ => panic!("{entry:?}"),
                }
            }
            assert!(rig.events().is_empty());
        }
        receives.extend(rig.taken().iter().map(kind));
        assert_eq!(receives, [Kind::WaitsOnce]);
    });
}

/// So that it is seen who holds the buffers that others lack.
#[test]
fn who_finds_no_buffer_waits_for_one() {
    let config = StreamConfig { recv_buffers: (1, 64), ..asking() };
    with(&config, FakeConfig::default(), |rig| {
        let ring = rig.ring();
        let (_conn, receive) = rig.connection();
        rig.complete(&receive, 1, cqe::BUFFER | u32::from(ring.peek().2) << cqe::BUFFER_SHIFT);
        let held = rig.events();
        assert!(matches!(held.as_slice(), [StreamEvent::Received { .. }]), "{held:?}");
        for _ in 0..3 {
            assert_eq!(rig.receives().0, []);
        }
        drop(held);
        assert_eq!(kind(&rig.submitted_one(op::RECV)), Kind::WaitsOnce);
    });
}
