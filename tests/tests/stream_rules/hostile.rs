//! A kernel that completes anything: names that it was given, names like those, any result, any flags.

use std::collections::BTreeMap;

use spinwire_dataplane::poll::{Budget, Poll};
use spinwire_dataplane::raw::loan::Loan;
use spinwire_dataplane::stream::{ConnId, StreamConfig, StreamEvent};
use spinwire_dataplane::time::{Instant, Nanos};
use spinwire_dataplane::uring::EnterError;
use spinwire_layouts::uring::{SockAddr, cqe};
use spinwire_tests::fake_kernel::FakeConfig;
use spinwire_tests::fake_net::memory;
use spinwire_tests::rng::Rng;

use super::{Rig, config, with};

fn any_name(rng: &mut Rng, names: &[u64]) -> u64 {
    let name = if names.is_empty() { rng.word() } else { names[rng.index(names.len())] };
    match rng.below(10) {
        0 => rng.word(),
        // Another operation of the same row, another row, another entry, another generation.
        1 => name & !(0xff << 56) | rng.below(12) << 56,
        2 => name ^ rng.below(8),
        3 => name ^ rng.below(4) << 32,
        _ => name,
    }
}

fn any_result(rng: &mut Rng) -> i32 {
    let few = i32::try_from(rng.below(300)).unwrap();
    [few, -few, 0, i32::MAX, i32::MIN, -1, -105, -125, 64][rng.index(9)]
}

fn any_flags(rng: &mut Rng) -> u32 {
    let number = u32::try_from(rng.below(12)).unwrap();
    let any = u32::try_from(rng.below(1 << 32)).unwrap();
    let some =
        [0, cqe::MORE, cqe::BUFFER, cqe::BUFFER | cqe::MORE, cqe::NOTIF, cqe::NOTIF | cqe::MORE];
    if rng.chance(5) { any } else { some[rng.index(6)] | number << cqe::BUFFER_SHIFT }
}

/// What the application holds lies apart, and was filled by nobody since.
fn check(held: &[Loan<'_>]) {
    let mut places = BTreeMap::new();
    for loan in held {
        let at = loan.as_ptr().addr();
        assert!(places.insert(at, ()).is_none(), "one buffer was handed out twice");
        assert!(loan.len() <= loan.capacity());
    }
}

struct Victim<'m> {
    held: Vec<Loan<'m>>,
    conns: Vec<ConnId>,
    lent: BTreeMap<u64, ()>,
    context: u64,
}

impl<'m> Victim<'m> {
    fn hear(&mut self, event: StreamEvent<'m>) {
        match event {
            StreamEvent::Accepted { conn, .. } | StreamEvent::Connected(conn) => {
                if !self.conns.contains(&conn) {
                    self.conns.push(conn);
                }
            }
            StreamEvent::Received { bytes, .. } => self.held.push(bytes),
            StreamEvent::Sent { context, loan, .. }
            | StreamEvent::NotSent { context, loan, .. } => {
                assert!(self.lent.remove(&context).is_some(), "a loan came back twice");
                self.held.push(loan);
            }
            StreamEvent::Closed { conn, .. } => self.conns.retain(|other| *other != conn),
            StreamEvent::AcceptFailed { .. }
            | StreamEvent::RangeBack { .. }
            | StreamEvent::Writable(_)
            | StreamEvent::ReceiveTimedOut(_)
            | StreamEvent::PeerClosed(_) => {}
        }
        check(&self.held);
    }

    fn act(&mut self, rig: &Rig<'_, '_, 'm>, rng: &mut Rng) {
        if self.held.len() > 4 {
            drop(self.held.swap_remove(rng.index(self.held.len())));
        }
        if self.conns.is_empty() || rng.chance(10) {
            let to = SockAddr::new("127.0.0.1:7000".parse().unwrap());
            let made =
                if rng.chance(50) { rig.streams.adopt(9) } else { rig.streams.connect(9, &to) };
            self.conns.extend(made.ok());
            return;
        }
        let conn = self.conns[rng.index(self.conns.len())];
        match rng.below(12) {
            0 => drop(rig.streams.close(conn)),
            1 => drop(rig.streams.abort(conn)),
            2 => drop(rig.streams.shutdown(conn)),
            3 => drop(rig.streams.pause(conn)),
            4 => drop(rig.streams.resume(conn)),
            5..=7 => drop(rig.streams.write(conn, &vec![1; rng.between(0, 200)])),
            _ => {
                let loan = if rng.chance(50) { self.held.pop() } else { rig.streams.lend() };
                if let Some(loan) = loan {
                    match rig.streams.send(conn, loan, self.context) {
                        Ok(()) => {
                            self.lent.insert(self.context, ());
                            self.context += 1;
                        }
                        Err(refused) => self.held.push(refused.item),
                    }
                }
            }
        }
    }
}

fn suffer(rig: &Rig<'_, '_, '_>, seed: u64) -> u64 {
    let mut rng = Rng::new(seed);
    let mut victim =
        Victim { held: Vec::new(), conns: Vec::new(), lent: BTreeMap::new(), context: 0 };
    let _listener = rig.streams.listen(3).unwrap();
    let mut names = Vec::new();
    let mut events = 0;
    let mut now = 1 << 40;
    for _ in 0..200 {
        for _ in 0..rng.below(6) {
            let name = any_name(&mut rng, &names);
            rig.kernel.complete(name, any_result(&mut rng), any_flags(&mut rng));
        }
        if rng.chance(10) {
            // Lengths and tail of the ring of buffers.
            let (start, entries) = rig.streams.buffers().registration();
            let word = rng.below(u64::from(entries) * 2);
            memory::write(start + word * 8 + 6, &rng.word().to_le_bytes()[..2]);
        }
        now += rng.below(5_000_000);
        let enters = rig.kernel.enters();
        let _busy = rig.streams.turn(Instant::from_nanos(now), Budget::default());
        assert!(rig.kernel.enters() <= enters + 1);
        let mut count = 0;
        while let Some(event) = rig.streams.poll() {
            victim.hear(event);
            count += 1;
            assert!(count < 5_000, "events without end");
        }
        events += count;
        names.extend(rig.taken().iter().map(|entry| entry.user_data).filter(|name| *name != 0));
        let old = names.len().saturating_sub(40);
        names.drain(..old);
        victim.act(rig, &mut rng);
    }
    rig.kernel.answer_with(&[EnterError::Fatal(9)]);
    for _ in 0..50 {
        now += 100_000_000;
        let _busy = rig.streams.turn(Instant::from_nanos(now), Budget::default());
        while let Some(event) = rig.streams.poll() {
            victim.hear(event);
        }
        victim.act(rig, &mut rng);
    }
    assert!(rig.streams.ring().fatal().is_none() || rig.streams.is_empty());
    events
}

#[test]
fn a_kernel_that_completes_anything_is_survived() {
    let limit = Nanos::from_millis(100);
    let config = StreamConfig {
        recv_buffers: (8, 64),
        idle_timeout: limit,
        send_timeout: limit,
        queue_high: 300,
        queue_low: 100,
        queue_max: 1_000,
        ..config()
    };
    let one = StreamConfig { segments: 1, recv_buffers: (1, 64), send_buffers: (1, 64), ..config };
    for config in [config, one] {
        let mut events = 0;
        for seed in 0..400 {
            let rings = FakeConfig { sq_entries: 16, cq_entries: 64, ..FakeConfig::default() };
            events += with(&config, rings, |rig| suffer(rig, seed));
        }
        assert!(events > 10_000, "too little has happened: {events}");
    }
}
