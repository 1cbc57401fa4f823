//! What is under way is counted, whatever kind it is of; and what is told once is not told twice.

use heapless::Vec as FixedVec;
use spinwire_dataplane::error::{Misuse, PostError, Retry};
use spinwire_dataplane::msg::{Kind, Parts, RecvFrom, SendTo, Target};
use spinwire_dataplane::poll::{Budget, Poll};
use spinwire_dataplane::provider::{Access, Cqe, Event, Provider, Status};
use spinwire_dataplane::time::{Instant, Nanos};
use spinwire_hostshim::libfabric::{OfiConfig, OfiFailure};

use super::pair::{End, Ground, config, on_ground};
use super::{SHM, SOCKETS, SOCKETS_MSG, TCP, TCP_MSG, UDP};

/// `send_depth` and `recv_depth` of the ports here.
const DEPTH: u64 = 16;

/// Posts until it is refused. How often it was not, and why it was.
fn fill(mut post: impl FnMut(u64) -> Result<(), PostError>) -> (u64, PostError) {
    for number in 0..DEPTH * 4 {
        if let Err(refused) = post(number) {
            return (number, refused);
        }
    }
    panic!("nothing bounds it");
}

/// A message from one buffer or from two, by turns.
fn send<'m>(
    ground: &Ground<'m>,
    (a, to): (&End<'m>, SendTo),
    number: u64,
) -> Result<(), PostError> {
    if number.is_multiple_of(2) {
        return a.post_send(to, ground.loan(), number).map(|_| ()).map_err(|back| back.error);
    }
    let mut parts = Parts::of([ground.loan(), ground.loan()]);
    a.post_sendv(to, &mut parts, number).map(|_| ())
}

/// What is over, with all of its buffers.
fn taken(end: &End<'_>) -> Option<Kind> {
    let mut over = end.poll()?;
    drop(end.take_parts(&mut over));
    Some(over.kind)
}

/// Sends and receives of one buffer and of several have one depth together, and give back what they took of it.
#[test]
fn operations_of_several_buffers_are_counted_like_others() {
    for choice in [TCP, SOCKETS, SHM, UDP] {
        on_ground(|ground| {
            let (a, b, to_b, _) = ground.pair(&config(&choice));
            let receive = |number: u64| {
                if number.is_multiple_of(2) {
                    let posted = b.post_recv(RecvFrom::any(), ground.loan(), number);
                    return posted.map(|_| ()).map_err(|back| back.error);
                }
                let mut parts = Parts::of([ground.loan(), ground.loan()]);
                b.post_recvv(RecvFrom::any(), &mut parts, number).map(|_| ())
            };
            // Connected before anything is counted.
            receive(0).unwrap();
            ground.until("it is taken", &[&a, &b], || a.inject(SendTo::peer(to_b), b"m").is_ok());
            assert_eq!(ground.next(&b, &[&a, &b]).kind, Kind::Received);
            // The first that is refused is of either kind.
            for kind in 0..2 {
                let full = fill(|number| receive(number + kind));
                assert_eq!(full, (DEPTH, Retry::RqFull.into()), "{choice:?}");
                let full = fill(|number| send(ground, (&a, SendTo::peer(to_b)), number + kind));
                assert_eq!(full, (DEPTH, Retry::CqFull.into()), "{choice:?}");
                let (mut sent, mut got) = (0, 0);
                ground.until("all are over", &[&a, &b], || {
                    sent += u64::from(taken(&a) == Some(Kind::Sent));
                    got += u64::from(taken(&b) == Some(Kind::Received));
                    (sent, got) == (DEPTH, DEPTH)
                });
            }
        });
    }
}

/// Connections carry no tags over `tcp`: not with several buffers either.
#[test]
fn what_several_buffers_cannot_carry_is_refused() {
    on_ground(|ground| {
        let (a, _b, to_b, _) = ground.pair(&config(&TCP_MSG));
        let mut parts = Parts::of([ground.loan(), ground.loan()]);
        let refused = a.post_sendv(SendTo::peer(to_b).tag(1), &mut parts, 1);
        assert_eq!(refused, Err(PostError::Misuse(Misuse::Unsupported)));
        assert_eq!((parts.iter().count(), a.posted_count()), (2, 0));
    });
}

/// One-sided operations have the depth of sends.
#[test]
fn one_sided_operations_are_counted() {
    for choice in [SOCKETS, SOCKETS_MSG] {
        on_ground(|ground| {
            let asked = OfiConfig { one_sided: true, ..config(&choice) };
            let (a, b, to_b, _) = ground.pair(&asked);
            let exposed = b.expose(ground.loan(), Access::ALL).unwrap();
            let target = Target::new(to_b, exposed.region.place(0, 8).unwrap());
            for _ in 0..2 {
                let full = fill(|number| {
                    let posted = a.post_read(target, ground.loan(), 8, number);
                    posted.map(|_| ()).map_err(|back| back.error)
                });
                assert_eq!(full, (DEPTH, Retry::CqFull.into()), "{choice:?}");
                for _ in 0..DEPTH {
                    let done = ground.next(&a, &[&a, &b]);
                    assert_eq!((done.kind, done.status), (Kind::Read, Status::Success));
                }
            }
        });
    }
}

/// Who has no room for a while, takes everything and has none again was not away in between.
#[test]
fn patience_begins_anew_with_each_message_that_is_taken() {
    on_ground(|ground| {
        let patience = Nanos::from_millis(1000);
        let (a, b, to_b, _) = ground.pair(&OfiConfig { patience, ..config(&TCP) });
        let inject = || a.inject(SendTo::peer(to_b), b"m");
        let retry = |refused: PostError| matches!(refused, PostError::Retry(_));
        let full = |sent: &mut u64| loop {
            match inject() {
                Ok(()) => *sent += 1,
                Err(refused) => break refused,
            }
        };
        let mut now = ground.now();
        let mut turn = |passes: Nanos| {
            now = now.saturating_add(passes);
            let _busy = a.turn(now, Budget::DEFAULT).is_busy();
            let _busy = b.turn(ground.now(), Budget::DEFAULT).is_busy();
        };
        let mut sent = 0;
        assert!(retry(full(&mut sent)));
        let (mut taken, mut is_free, since) = (0, false, std::time::Instant::now());
        while !is_free || taken < sent {
            assert!(since.elapsed() < super::pair::LONG);
            if b.posted_count() == 0 {
                b.post_recv(RecvFrom::any(), ground.loan(), 1).unwrap();
            }
            turn(Nanos::new(100));
            taken += u64::from(b.poll().is_some());
            if !is_free {
                is_free = inject().inspect_err(|refused| assert!(retry(*refused))).is_ok();
                sent += u64::from(is_free);
            }
        }
        // Of the time between two turns at most a tenth of a second counts.
        (0..20).for_each(|_| turn(Nanos::from_millis(100)));
        assert!(retry(full(&mut sent)), "it has waited for nothing since");
        assert_eq!(a.poll_event(), None);
    });
}

/// What was sent to one who goes fails, its end is told once, and it cannot be entered anew before that was heard.
#[test]
fn sends_that_fail_lose_their_peer_once() {
    on_ground(|ground| {
        let (a, b, to_b, _) = ground.pair(&config(&SOCKETS));
        b.post_recv(RecvFrom::any(), ground.loan(), 1).unwrap();
        ground.until("it is taken", &[&a, &b], || a.inject(SendTo::peer(to_b), b"m").is_ok());
        assert_eq!(ground.next(&b, &[&a, &b]).kind, Kind::Received);
        for context in 0..4 {
            ground.until("it is taken", &[&a], || {
                let to = SendTo::peer(to_b).tag(context + 40);
                a.post_send(to, ground.loan(), context).is_ok()
            });
        }
        drop(b);
        let mut failed = 0;
        ground.until("all have failed", &[&a], || {
            while let Some(over) = a.poll() {
                assert_eq!((over.kind, over.status), (Kind::Sent, Status::PeerGone));
                // The library's word of it, in one number.
                let said = a.provider().poll_failure().unwrap();
                assert_eq!(said.wr_id, over.id);
                let numbers = [said.provider_errno.unsigned_abs(), number_of(&said)];
                let failure = over.failure().unwrap();
                assert_eq!(failure.code, numbers[usize::from(numbers[0] == 0)]);
                assert_eq!(failure.tag, Some(over.context + 40));
                assert!(numbers[1] != 0, "{said}");
                failed += 1;
            }
            failed == 4
        });
        let again = a.connect(&super::pair::named("b"));
        assert_eq!(again, Err(PostError::Retry(Retry::AddressesFull)));
        assert_eq!(a.poll_event(), Some(Event::PeerGone(to_b)));
        let mut turns = 0;
        ground.until("a while has passed", &[&a], || {
            turns += 1;
            turns > 100
        });
        assert_eq!(a.poll_event(), None);
    });
}

const fn number_of(said: &OfiFailure) -> u32 {
    said.errno.number().unsigned_abs()
}

/// A connection that nobody takes ends the receives that waited for it with the library's number. (`sockets` refuses in the call already.)
#[test]
fn receives_of_a_refused_connection_say_why() {
    on_ground(|ground| {
        let a = ground.end("a", &config(&TCP_MSG));
        // Where somebody was until now.
        drop(ground.end("b", &config(&TCP_MSG)));
        a.post_recv(RecvFrom::any(), ground.loan(), 1).unwrap();
        let to_b = a.connect(&super::pair::named("b")).unwrap();
        let failure = ground.next(&a, &[&a]).failure().unwrap();
        let refused = libc::ECONNREFUSED.unsigned_abs();
        assert_eq!((failure.status, failure.code), (Status::PeerGone, refused));
        assert_eq!(a.poll_event(), Some(Event::Refused(to_b)));
    });
}

/// A message that was injected, and that the library has lost, is told as a failure of no operation.
#[test]
fn what_was_injected_and_lost_is_no_stale_completion() {
    on_ground(|ground| {
        let (a, b, to_b, to_a) = ground.pair(&config(&SOCKETS));
        // Both ways are open.
        for (from, to, addr) in [(&a, &b, to_b), (&b, &a, to_a)] {
            to.post_recv(RecvFrom::any(), ground.loan(), 1).unwrap();
            let send = || from.inject(SendTo::peer(addr), b"m").is_ok();
            ground.until("it is taken", &[&a, &b], send);
            assert_eq!(ground.next(to, &[&a, &b]).kind, Kind::Received);
        }
        for _ in 0..3 {
            ground.until("it is taken", &[&b], || b.inject(SendTo::peer(to_a), b"lost").is_ok());
        }
        drop(a);
        let mut failure = None;
        ground.until("it is told", &[&b], || {
            failure = b.provider().poll_failure();
            failure.is_some()
        });
        assert_eq!(failure.map(|failure| failure.wr_id.as_raw()), Some(0));
        assert_eq!((b.provider().counters().stale, b.posted_count()), (0, 0));
        assert!(!matches!(b.poll_event(), Some(Event::StaleCompletion(_))));
    });
}

/// First everything that waited for a connection ends, then its end is told, however little is taken at a time.
#[test]
fn the_end_of_a_connection_is_told_behind_what_it_ended() {
    for choice in [TCP_MSG, SOCKETS_MSG] {
        on_ground(|ground| {
            let (a, b, _, to_a) = ground.pair(&config(&choice));
            for context in 0..5 {
                b.post_recv(RecvFrom::any(), ground.loan(), context).unwrap();
            }
            drop(a);
            let (mut over, mut event) = (0, None);
            let since = std::time::Instant::now();
            while event.is_none() {
                assert!(since.elapsed() < super::pair::LONG, "{over} are over");
                let mut out: FixedVec<Cqe, 1> = FixedVec::new();
                b.provider().poll_cq(Instant::from_nanos(1), &mut out);
                over += out.len();
                event = b.provider().poll_event();
            }
            assert_eq!((over, event), (5, Some(Event::PeerGone(to_a))));
        });
    }
}
