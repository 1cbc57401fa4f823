//! Two ports, and much between them.

use spinwire_dataplane::error::{PostError, Retry};
use spinwire_dataplane::msg::{Kind, SendTo};
use spinwire_dataplane::provider::{EndpointType, Event, Status};
use spinwire_dataplane::raw::loan::LoanPool;
use spinwire_tests::rng::pattern;

use crate::station::{self, Station, insist, until};

fn open_descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd").unwrap().count()
}

/// Long messages both ways as fast as they go, from buffers in the arena of the ring and from others: nobody waits for the other to
/// read first, all arrives, and no byte is wrong.
#[test]
fn both_directions_at_full_speed() {
    station::with_two(["a", "b"], EndpointType::Rdm, |a, b| {
        let to_b = a.know("b", b.local());
        let to_a = b.know("a", a.local());
        let mut block = vec![core::mem::MaybeUninit::uninit(); 8 << 20];
        let bump = spinwire_dataplane::raw::place::Bump::new(&mut block);
        let _elsewhere = LoanPool::place(&bump, 4, 1 << 20).unwrap();
        let (mut sent, mut taken) = ([0_u64; 2], [0_u64; 2]);
        let length = |number: u64| match number % 5 {
            0 => 1 + usize::try_from(number % 700).unwrap(),
            1 => 5000,
            2 => 65_536,
            3 => 200_001,
            _ => usize::try_from(station::LONGEST).unwrap(),
        };
        for station in [a, b] {
            (0..4).for_each(|_| station.recv(0));
        }
        until("all has arrived", &[a, b], || {
            for (at, (station, to)) in [(a, to_b), (b, to_a)].into_iter().enumerate() {
                while sent[at] < 200 {
                    let number = sent[at];
                    let bytes = pattern(number, length(number));
                    let to = SendTo::peer(to).immediate(number);
                    let accepted = if number.is_multiple_of(2) {
                        station.endpoint.inject(to, &bytes)
                    } else {
                        let Some(mut loan) = station.pool.lend() else { break };
                        loan.fill(&bytes).unwrap();
                        let posted = station.endpoint.post_send(to, loan, number);
                        posted.map(|_| ()).map_err(|r| r.error)
                    };
                    match accepted {
                        Ok(()) => sent[at] += 1,
                        Err(PostError::Retry(_)) => break,
                        Err(e) => panic!("{e}"),
                    }
                }
                while let Some(got) = station.poll() {
                    assert_eq!(got.status, Status::Success);
                    if got.kind != Kind::Received {
                        continue;
                    }
                    let number = taken[at];
                    assert_eq!(got.immediate, Some(number), "in order");
                    let bytes = pattern(number, length(number));
                    assert!(got.loan.as_deref() == Some(&bytes[..]), "message {number}");
                    taken[at] += 1;
                    drop(got);
                    station.recv(0);
                }
            }
            taken == [200; 2]
        });
        until("all sends are over", &[a, b], || {
            while a.poll().is_some() || b.poll().is_some() {}
            a.endpoint.posted_count() == 4 && b.endpoint.posted_count() == 4
        });
        for station in [a, b] {
            assert!(station.port().counters().uncopied > 0);
            assert_eq!(station.pool.free_count() + 4, usize::try_from(station::BUFFERS).unwrap());
        }
    });
}

/// A message that nobody asked for waits in the backlog however long it is, and is had whole.
#[test]
fn long_messages_wait_for_their_receives() {
    station::with_two(["a", "b"], EndpointType::Msg, |a, b| {
        let to_b = a.know("b", b.local());
        until("they are connected", &[a, b], || a.event() == Some(Event::Connected(to_b)));
        let long = pattern(3, usize::try_from(station::LONGEST).unwrap());
        for _ in 0..4 {
            insist("it is sent", &[a, b], || a.endpoint.inject(SendTo::peer(to_b), &long));
        }
        until("there is no more room", &[a, b], || {
            let refused = a.endpoint.inject(SendTo::peer(to_b), &long);
            refused == Err(Retry::NoCredit.into())
        });
        for _ in 0..2000 {
            b.turn();
            a.turn();
        }
        for _ in 0..4 {
            b.recv(0);
            let mut got = None;
            until("it is there", &[a, b], || {
                got = b.poll();
                got.is_some()
            });
            assert!(got.unwrap().loan.as_deref() == Some(&long[..]));
        }
        insist("there is room", &[a, b], || a.endpoint.inject(SendTo::peer(to_b), &long));
    });
}

/// A thousand connections one after the other leave no descriptor, no row, no buffer.
#[test]
fn a_thousand_connections_leave_nothing() {
    station::with_two(["a", "b"], EndpointType::Rdm, |a, b| {
        let round = |number: u64| {
            a.plane.refill(a.port(), b.local(), 2).unwrap();
            let to_b = a.know("b", b.local());
            b.recv(number);
            insist("it is sent", &[a, b], || {
                a.endpoint.inject(SendTo::peer(to_b).immediate(number), b"round")
            });
            let mut got = None;
            until("it is there", &[a, b], || {
                got = b.poll();
                got.is_some()
            });
            let got = got.unwrap();
            assert_eq!(got.immediate, Some(number));
            let (first, gone) =
                if number.is_multiple_of(2) { (a, to_b) } else { (b, got.source.unwrap()) };
            first.endpoint.disconnect(gone).unwrap();
            let other = if number.is_multiple_of(2) { b } else { a };
            until("the other end is told", &[a, b], || {
                core::iter::from_fn(|| other.event()).any(|e| matches!(e, Event::PeerGone(_)))
            });
            while first.event().is_some() {}
        };
        let at_rest = |station: &Station<'_>| station.port().streams().len() == 1;
        (0..20).for_each(round);
        until("they are at rest", &[a, b], || at_rest(a) && at_rest(b));
        // Other tests of this process run beside this one, and open and close theirs.
        let before = open_descriptors();
        (20..1020).for_each(round);
        until("they are at rest", &[a, b], || at_rest(a) && at_rest(b));
        let after = open_descriptors();
        assert!(after < before + 200, "{before} descriptors before, {after} after");
        assert_eq!(a.port().counters().corrupt + b.port().counters().corrupt, 0);
    });
}
