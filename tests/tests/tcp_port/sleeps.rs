//! A desk that sleeps on a descriptor, and is woken by what comes.

use core::cell::Cell;
use core::time::Duration;
use std::sync::mpsc;

use spinwire_dataplane::msg::{RecvFrom, SendTo};
use spinwire_dataplane::poll::Poll;
use spinwire_dataplane::provider::EndpointType;
use spinwire_hostshim::desk::{Desk, Wait};

use crate::station::{config, with};

#[test]
fn a_desk_sleeps_on_the_descriptor_of_its_ring() {
    let (asleep, wake) = mpsc::channel();
    let (tell, where_is_it) = mpsc::channel();
    std::thread::scope(|threads| {
        threads.spawn(move || {
            with("b", EndpointType::Rdm, &config(), |b| {
                let to_a = b.know("a", where_is_it.recv().unwrap());
                let desk = Desk::new(&b.endpoint, b.pool, || b.now());
                for number in 0..3_u64 {
                    wake.recv().unwrap();
                    let to = SendTo::peer(to_a).immediate(number);
                    desk.send(to, b"wake up", Wait::FOREVER).unwrap();
                }
                // It stays until the other end has all.
                assert!(wake.recv().is_err());
            });
        });
        with("a", EndpointType::Rdm, &config(), |a| {
            tell.send(a.local()).unwrap();
            // Long sleeps: a descriptor that tells nothing would not pass, for who has said hello is not waited for so long.
            let (most, woken) = (Duration::from_secs(20), Cell::new(0));
            let news = a.plane.news().unwrap();
            assert!(a.plane.news().is_err(), "one a ring");
            let desk = Desk::new(&a.endpoint, a.pool, || a.now()).resting(|outcome| {
                let is_due = a.endpoint.poll_at().is_some_and(|at| at <= a.now());
                if outcome.is_busy() || is_due || news.clear() {
                    return;
                }
                if news.sleep(&a.endpoint, a.now(), most).unwrap() {
                    woken.set(woken.get() + 1);
                }
            });
            let mut into = [0; 16];
            for number in 0..3_u64 {
                asleep.send(()).unwrap();
                let received = desk.recv(RecvFrom::any(), &mut into, Wait::FOREVER).unwrap();
                assert_eq!(received.immediate, Some(number));
                assert_eq!(&into[..received.length], b"wake up");
            }
            assert!(woken.get() > 0, "it was woken by what came");
            drop(asleep);
        });
    });
}
