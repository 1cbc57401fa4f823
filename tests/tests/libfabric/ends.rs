//! How the end of a peer of type RDM is found out: by sending to it.

use core::net::SocketAddr;
use std::io::ErrorKind;
use std::sync::mpsc::{self, TryRecvError};
use std::thread;

use spinwire_dataplane::error::{Fatal, Misuse, PostError};
use spinwire_dataplane::msg::{Kind, RecvFrom, SendTo};
use spinwire_dataplane::poll::{Budget, Poll};
use spinwire_dataplane::provider::{Event, Status};
use spinwire_dataplane::time::Nanos;
use spinwire_hostshim::libfabric::{OfiConfig, OfiPlane};
use spinwire_tests::overdue;

use super::pair::{LONG, config, named, on_ground};
use super::{SOCKETS, TCP, UDP};

/// Sends to one who is gone are refused, at the latest when it has taken nothing for as long as the port has patience. Then the receives that wait
/// for it alone end, then its end is told, and its address is stale. Others are not touched by any of it.
#[test]
fn who_takes_nothing_is_held_for_gone() {
    for choice in [TCP, SOCKETS, UDP] {
        on_ground(|ground| {
            let patience = Nanos::from_millis(1500);
            let config = OfiConfig { patience, ..config(&choice) };
            let (a, b, to_b, to_a) = ground.pair(&config);
            let c = ground.end("c", &config);
            let to_c = a.connect(&named("c")).unwrap();
            for (from, to, addr) in [(&a, &b, to_b), (&b, &a, to_a), (&a, &c, to_c)] {
                to.post_recv(RecvFrom::any(), ground.loan(), 1).unwrap();
                let send = || from.inject(SendTo::peer(addr), b"m").is_ok();
                ground.until("it is taken", &[&a, &b, &c], send);
                assert_eq!(ground.next(to, &[&a, &b, &c]).kind, Kind::Received);
            }
            a.post_recv(RecvFrom::peer(to_b), ground.loan(), 5).unwrap();
            a.post_recv(RecvFrom::any(), ground.loan(), 6).unwrap();
            drop(b);
            let mut refused = None;
            ground.until("a send is refused", &[&a, &c], || {
                refused = a.inject(SendTo::peer(to_b), b"m").err();
                !matches!(refused, None | Some(PostError::Retry(_)))
            });
            assert_eq!(refused, Some(PostError::Fatal(Fatal::PeerGone)), "{choice:?}");
            let ended = ground.next(&a, &[&a, &c]);
            let expected = (5, Kind::RecvEnded, Status::PeerGone);
            assert_eq!((ended.context, ended.kind, ended.status), expected, "{choice:?}");
            let mut event = None;
            ground.until("its end is told", &[&a, &c], || {
                event = a.poll_event();
                event.is_some()
            });
            assert_eq!(event, Some(Event::PeerGone(to_b)), "{choice:?}");
            let stale = Err(PostError::Misuse(Misuse::StaleAddress));
            assert_eq!(a.inject(SendTo::peer(to_b), b"m"), stale);
            c.post_recv(RecvFrom::any(), ground.loan(), 7).unwrap();
            ground.until("it is taken", &[&a, &c], || a.inject(SendTo::peer(to_c), b"on").is_ok());
            assert_eq!(ground.next(&c, &[&a, &c]).bytes(), Some(&b"on"[..]));
            assert_eq!((a.poll_event(), a.posted_count()), (None, 1));
        });
    }
}

/// At a URI the connection at which the two met tells that the process of a peer has ended, also to who does not attend the plane.
#[test]
fn the_connection_of_a_plane_tells_the_end_of_its_peer() {
    let _watched = overdue::watch("planes");
    let open = |at: SocketAddr, listens| OfiPlane::open(at, listens, config(&TCP)).unwrap();
    let (say, said) = mpsc::channel();
    let (let_go, stay) = mpsc::channel::<()>();
    thread::scope(|scope| {
        scope.spawn(move || {
            let plane = open(SocketAddr::from(([127, 0, 0, 1], 0)), true);
            on_ground(|ground| {
                let port = plane.port(ground.bump, &named("server")).unwrap();
                say.send(plane.local().unwrap()).unwrap();
                while stay.try_recv() == Err(TryRecvError::Empty) {
                    plane.attend(&port, ground.now());
                }
            });
        });
        let at = said.recv().unwrap();
        let plane = open(at, false);
        on_ground(|ground| {
            let port = plane.port(ground.bump, &named("client")).unwrap();
            let server = plane.call(&port, (&named("server"), at), LONG).unwrap();
            let met = plane.connection_to(server).unwrap().unwrap();
            assert_eq!(met.peek(&mut [0]).unwrap_err().kind(), ErrorKind::WouldBlock);
            drop(let_go);
            ground.until("its end is told", &[], || met.peek(&mut [0]).is_ok_and(|n| n == 0));
            // Once the plane has heard of it there is none.
            ground.until("the plane has heard of it", &[], || {
                plane.attend(&port, ground.now());
                plane.connection_to(server).unwrap().is_none()
            });
        });
    });
}

/// A clock that does not begin at 0, or that goes on while nobody turns, makes nobody gone: who was away has not waited.
#[test]
fn who_was_away_holds_nobody_for_gone() {
    const HOUR: Nanos = Nanos::from_millis(3_600_000);
    on_ground(|ground| {
        let (a, b, to_b, _) = ground.pair(&OfiConfig { patience: HOUR, ..config(&TCP) });
        b.post_recv(RecvFrom::any(), ground.loan(), 1).unwrap();
        let from = std::time::Instant::now();
        let (mut sent, mut now) = (false, ground.now());
        while b.poll().is_none() {
            assert!(from.elapsed() < LONG);
            sent = sent || a.inject(SendTo::peer(to_b), b"m").inspect_err(still_there).is_ok();
            now = now.saturating_add(HOUR).saturating_add(HOUR);
            for end in [&a, &b] {
                let _busy = end.turn(now, Budget::DEFAULT).is_busy();
            }
        }
    });
}

fn still_there(refused: &PostError) {
    assert!(matches!(refused, PostError::Retry(_)), "{refused}");
}
