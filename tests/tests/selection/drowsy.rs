//! What a program does in the moments before it falls asleep on the descriptor of its endpoint: nothing of it is left behind for the sleep.
//!
//! Before a sleep a program asks some times whether it may. Whatever it does is done here before each of these times in turn, at one of two ends in one thread.

use core::cell::Cell;
use core::time::Duration;

use spinwire_dataplane::error::PostError;
use spinwire_dataplane::id::Addr;
use spinwire_dataplane::msg::{Kind, RecvFrom, SendTo};
use spinwire_dataplane::poll::{Budget, Poll, Rester as _, WakeSource};
use spinwire_dataplane::provider::{EndpointType, Event};
use spinwire_dataplane::raw::loan::LoanPool;
use spinwire_hostshim::clock::TscClock;
use spinwire_hostshim::idle::HostRester;
use spinwire_hostshim::open::{Host, News, OpenConfig};
use spinwire_hostshim::uri::Uri;

use crate::sleeps::fresh;
use crate::{Any, STUCK, message, send, until};

/// After less than this the program looks by itself.
const NAP: Duration = Duration::from_millis(1);

/// An end that falls asleep, and one that never does.
struct Pair<'e, 'a> {
    end: &'e Any<'a>,
    other: &'e Any<'a>,
    /// The address of the other here, and of the end there.
    to: Addr,
    back: Addr,
    buffers: &'a LoanPool<'a>,
    clock: &'e TscClock,
    /// Messages that the end has received.
    heard: Cell<u32>,
}

fn with_pair(uri: &Uri, kind: EndpointType, play: impl FnOnce(&Pair<'_, '_>, &News<'_, '_>)) {
    let clock = TscClock::calibrate();
    let mut host = Host::open(uri, kind, &OpenConfig::listen()).unwrap();
    let at = host.uri();
    let mut beside = Host::open(&at, kind, &OpenConfig::connect()).unwrap();
    let (seat, seat_beside) = (host.seat().unwrap(), beside.seat().unwrap());
    let (end, other) = (seat.endpoint().unwrap(), seat_beside.endpoint().unwrap());
    let buffers = LoanPool::place(seat.bump(), 8, 64).unwrap();
    let buffers = seat.bump().value(buffers).unwrap();
    let back = seat_beside.connect(&other, &at, &clock).unwrap();
    end.post_recv(RecvFrom::any(), buffers.lend().unwrap(), 0).unwrap();
    send(&other, SendTo::peer(back), b"hello", &[&end, &other]);
    let to = message(&end, &[&end, &other]).source.unwrap();
    let heard = Cell::new(0);
    let news = seat.news(&end).unwrap();
    play(&Pair { end: &end, other: &other, to, back, buffers, clock: &clock, heard }, &news);
}

impl<'a> Pair<'_, 'a> {
    fn listen(&self, end: &Any<'a>) {
        end.post_recv(RecvFrom::any(), self.buffers.lend().unwrap(), 0).unwrap();
    }

    /// Turns the end until it may sleep, and does the deed before it asks for the time after so many. For how long it may; `None` where it may before that.
    fn fall_asleep(&self, news: &News<'_, '_>, after: u32, deed: &dyn Fn()) -> Option<Duration> {
        let mut asked = 0;
        loop {
            let outcome = self.end.turn(self.clock.now(), Budget::DEFAULT);
            while let Some(completion) = self.end.poll() {
                self.heard.set(self.heard.get() + u32::from(completion.kind == Kind::Received));
            }
            if asked == after {
                deed();
            }
            asked += 1;
            if let Some(most) = news.may_sleep(outcome, self.clock.now()) {
                return (asked > after).then_some(most);
            }
        }
    }

    /// The same before each of the times that it asks; `before` and `asleep` come before the first of them, and when it sleeps.
    fn whenever(
        &self,
        news: &News<'_, '_>,
        (before, deed): (&dyn Fn(), &dyn Fn()),
        asleep: impl Fn(&str, Duration),
    ) {
        let mut after = 0;
        loop {
            before();
            let Some(most) = self.fall_asleep(news, after, deed) else { break };
            asleep(&format!("done before it asked for the {after}th time"), most);
            after += 1;
        }
        assert!(after >= 3, "it arms, turns, and only then sleeps");
    }
}

/// One that needs nobody to be turned while it connects, for messages, and one for datagrams.
fn places() -> [(Uri, EndpointType); 2] {
    let shm = format!("shm://drowsy-{}-{}", std::process::id(), fresh());
    [
        (shm.parse().unwrap(), EndpointType::Rdm),
        ("udp://127.0.0.1:0".parse().unwrap(), EndpointType::Dgram),
    ]
}

#[test]
fn a_message_that_waits_for_the_receive_that_is_posted_last_is_not_slept_beside() {
    for (uri, kind) in places() {
        with_pair(&uri, kind, |pair, news| {
            let sent = Cell::new(0);
            let before = || {
                sent.set(sent.get() + 1);
                send(pair.other, SendTo::peer(pair.back), b"waits", &[pair.other]);
                until("it waits", &[pair.end, pair.other], || {
                    assert!(pair.end.poll().is_none(), "nobody has asked for it");
                    pair.end.peek(RecvFrom::any())
                });
            };
            pair.whenever(news, (&before, &|| pair.listen(pair.end)), |when, _| {
                assert_eq!(pair.heard.get(), sent.get(), "{uri}: {when}");
            });
        });
    }
}

#[test]
fn what_is_sent_last_has_gone_before_the_sleep() {
    for (uri, kind) in places() {
        with_pair(&uri, kind, |pair, news| {
            let deed = || pair.end.inject(SendTo::peer(pair.to), b"goes").unwrap();
            pair.whenever(news, (&|| pair.listen(pair.other), &deed), |when, _| {
                let got = until(when, &[pair.other], || pair.other.poll());
                assert_eq!(got.bytes(), Some(&b"goes"[..]), "{uri}: {when}");
            });
        });
    }
}

/// Where a message of it waits that nobody has asked for, that is told after a while.
#[test]
fn the_end_of_a_peer_is_not_slept_over() {
    let [(uri, kind), _] = places();
    with_pair(&uri, kind, |pair, news| {
        send(pair.other, SendTo::peer(pair.back), b"waits", &[pair.other]);
        until("it waits", &[pair.end, pair.other], || {
            assert!(pair.end.poll().is_none(), "nobody has asked for it");
            pair.end.peek(RecvFrom::any())
        });
        pair.other.disconnect(pair.back).unwrap();
        let mut told = None;
        until("the end is told", &[pair.other], || {
            let outcome = pair.end.turn(pair.clock.now(), Budget::DEFAULT);
            told = told.or(pair.end.poll_event().filter(|it| matches!(it, Event::PeerGone(_))));
            let most = news.may_sleep(outcome, pair.clock.now())?;
            assert!(told.is_some() || news.sleep(most.min(STUCK)).unwrap(), "nobody would wake it");
            told
        });
        assert_eq!(told, Some(Event::PeerGone(pair.to)));
    });
}

/// Nobody rings for room.
#[test]
fn who_was_refused_for_lack_of_room_sleeps_briefly() {
    let [(uri, kind), _] = places();
    with_pair(&uri, kind, |pair, news| {
        let sent = Cell::new(0_u32);
        let fill = || loop {
            match pair.end.inject(SendTo::peer(pair.to), b"fills") {
                Ok(()) => sent.set(sent.get() + 1),
                Err(refused) => break assert!(matches!(refused, PostError::Retry(_)), "{refused}"),
            }
        };
        let drain = || {
            for _ in 0..sent.take() {
                pair.listen(pair.other);
                drop(message(pair.other, &[pair.other]));
            }
        };
        pair.whenever(news, (&drain, &fill), |when, most| {
            assert!(most < NAP || news.sleep(STUCK).unwrap(), "{when}: nobody would wake it");
        });
        drain();
        // One that parks by itself, likewise.
        let sources: [&dyn WakeSource; 1] = [pair.end];
        let rester = HostRester::new(pair.clock, &sources).with_park_max(STUCK);
        rester.arm();
        fill();
        rester.park(None);
        rester.arm();
        rester.park(None);
        let parks = rester.parks();
        assert_eq!(
            (parks.parks, parks.rung, parks.naps),
            (2, 1, 1),
            "awake at once, and then a nap"
        );
    });
}
