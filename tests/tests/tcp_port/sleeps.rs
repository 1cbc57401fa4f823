//! A desk that sleeps on a descriptor, and a reactor that has it in its list: both are woken by what comes.

use core::cell::Cell;
use core::future::Future;
use core::net::SocketAddr;
use core::pin::pin;
use core::task::{Context, Waker};
use core::time::Duration;
use std::sync::{Arc, mpsc};
use std::task::Wake;

use spinwire_dataplane::msg::{RecvFrom, SendTo};
use spinwire_dataplane::poll::Poll;
use spinwire_dataplane::provider::{EndpointType, Provider};
use spinwire_dataplane::sync::{AtomicU64, Ordering};
use spinwire_dataplane::time::Instant;
use spinwire_hostshim::desk::{Desk, Wait};
use spinwire_hostshim::uring::News;
use spinwire_tests::reactor::Reactor;

use crate::station::{config, with};

/// The other end: says its number, from 0 on, each time that it is told to; stays until nobody does.
fn wake_when_told(where_is_it: &mpsc::Receiver<SocketAddr>, told: &mpsc::Receiver<()>) {
    with("b", EndpointType::Rdm, &config(), |b| {
        let to_a = b.know("a", where_is_it.recv().unwrap());
        let desk = Desk::open(&b.endpoint, b.pool, || b.now()).unwrap();
        for number in (0..).take_while(|_| told.recv().is_ok()) {
            desk.send(SendTo::peer(to_a).immediate(number), b"wake up", Wait::FOREVER).unwrap();
        }
    });
}

#[test]
fn a_desk_sleeps_on_the_descriptor_of_its_ring() {
    let (asleep, wake) = mpsc::channel();
    let (tell, where_is_it) = mpsc::channel();
    std::thread::scope(|threads| {
        threads.spawn(move || wake_when_told(&where_is_it, &wake));
        with("a", EndpointType::Rdm, &config(), |a| {
            tell.send(a.local()).unwrap();
            // Long sleeps: a descriptor that tells nothing would not pass, for who has said hello is not waited for so long.
            let (most, woken) = (Duration::from_secs(20), Cell::new(0));
            let news = a.plane.news().unwrap();
            assert!(a.plane.news().is_err(), "one a ring");
            let desk = Desk::open(&a.endpoint, a.pool, || a.now()).unwrap().resting(|outcome| {
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

/// Runs a future on a reactor: polls it when it was woken; turns the plane until nothing happens; waits for the descriptor.
fn block_on<P: Provider>(
    desk: &Desk<'_, '_, P>,
    (news, now): (&News, impl Fn() -> Instant),
    future: impl Future<Output = ()>,
) -> u32 {
    struct Flag(AtomicU64);
    impl Wake for Flag {
        fn wake(self: Arc<Self>) {
            self.0.store(1, Ordering::Relaxed);
        }
    }
    let (mut future, flag) = (pin!(future), Arc::new(Flag(AtomicU64::new(1))));
    let (reactor, waker, mut woken) = (Reactor::level(news), Waker::from(Arc::clone(&flag)), 0);
    loop {
        while flag.0.swap(0, Ordering::Relaxed) == 1 {
            if future.as_mut().poll(&mut Context::from_waker(&waker)).is_ready() {
                return woken;
            }
        }
        let _told_before_these_turns = news.clear();
        let due = || desk.endpoint().poll_at().is_some_and(|at| at <= now());
        while desk.drive().is_busy() || due() {}
        // Long: a descriptor that tells nothing would not pass, for who is connected is not waited for.
        if flag.0.load(Ordering::Relaxed) == 0 && reactor.wait(Duration::from_secs(20)) {
            woken += 1;
        }
    }
}

#[test]
fn a_reactor_with_the_descriptor_in_its_list_wakes_the_task() {
    let (asleep, wake) = mpsc::channel();
    let (tell, where_is_it) = mpsc::channel();
    std::thread::scope(|threads| {
        threads.spawn(move || wake_when_told(&where_is_it, &wake));
        with("a", EndpointType::Rdm, &config(), |a| {
            tell.send(a.local()).unwrap();
            let news = a.plane.news().unwrap();
            let desk = Desk::open(&a.endpoint, a.pool, || a.now()).unwrap();
            let woken = block_on(&desk, (&news, || a.now()), async {
                for number in 0..5_u64 {
                    let loan = a.pool.lend().unwrap();
                    let receive = desk.recv_later(RecvFrom::any(), loan).unwrap();
                    asleep.send(()).unwrap();
                    let got = receive.await;
                    assert_eq!((got.immediate, got.bytes()), (Some(number), Some(&b"wake up"[..])));
                }
            });
            assert!(woken > 0, "it was woken by what came");
            drop(asleep);
        });
    });
}
