//! Waits that end before their operation: whose the memory is, and what comes of what comes late.

use core::cell::Cell;
use core::time::Duration;

use spinwire_dataplane::msg::{Kind, RecvFrom, SendTo};
use spinwire_hostshim::desk::{CancelToken, Desk, Wait, WaitError};

use super::end::with_scene;

const SHORT: Wait<'static> = Wait::within(Duration::from_micros(3));

#[test]
fn a_receive_that_was_taken_back_takes_nothing() {
    with_scene(|scene| {
        let desk = Desk::open(&scene.b, scene.pool, || scene.now()).unwrap();
        let mut into = [0xEE; 16];
        assert_eq!(desk.recv(RecvFrom::any(), &mut into, SHORT), Err(WaitError::Timeout));
        assert!(scene.is_at_rest());
        scene.a.inject(SendTo::peer(scene.to_b), b"late").unwrap();
        scene.a.flush();
        for _ in 0..20 {
            let _outcome = desk.drive();
        }
        assert_eq!(into, [0xEE; 16], "the slice is its owner's again");
        assert!(desk.next_letter().is_none());
        let mut other = [0; 16];
        let received = desk.recv(RecvFrom::any(), &mut other, Wait::ONCE).unwrap();
        assert_eq!(&other[..received.length], b"late");
        assert_eq!(desk.counts().given_up, 0);
    });
}

#[test]
fn a_receive_that_cannot_be_taken_back_brings_a_letter() {
    with_scene(|scene| {
        let (token, is_over) = (CancelToken::new(), Cell::new(false));
        let desk = Desk::open(&scene.b, scene.pool, || scene.now()).unwrap().resting(|_| {
            if is_over.get() {
                token.cancel();
            }
        });
        scene.b.provider().keeps_receives.set(true);
        let mut into = [0xEE; 16];
        assert_eq!(desk.recv(RecvFrom::any(), &mut into, SHORT), Err(WaitError::Timeout));
        is_over.set(true);
        let wait = Wait::FOREVER.unless(&token);
        assert_eq!(desk.recv(RecvFrom::any().tag(4), &mut into, wait), Err(WaitError::Cancelled));
        assert_eq!((scene.b.posted_count(), desk.counts().given_up), (2, 2));
        assert_eq!(scene.pool.free_count(), 30, "their buffers stay with the library");
        scene.a.inject(SendTo::peer(scene.to_b), b"late").unwrap();
        scene.a.inject(SendTo::peer(scene.to_b).tag(4), b"later").unwrap();
        scene.a.inject(SendTo::peer(scene.to_b), b"for the next").unwrap();
        scene.a.flush();
        let mut other = [0; 16];
        let received = desk.recv(RecvFrom::any(), &mut other, Wait::FOREVER).unwrap();
        assert_eq!(&other[..received.length], b"for the next");
        assert_eq!(into, [0xEE; 16], "nothing is written into what its owner has back");
        let letters: Vec<Vec<u8>> = core::iter::from_fn(|| desk.next_letter())
            .map(|l| l.bytes().unwrap().to_vec())
            .collect();
        assert_eq!(letters, [b"late".to_vec(), b"later".to_vec()]);
        assert_eq!(desk.counts().late, 2);
        assert!(scene.is_at_rest());
    });
}

#[test]
fn a_send_that_was_given_up_keeps_its_buffer_until_it_completes() {
    with_scene(|scene| {
        let desk = Desk::open(&scene.a, scene.pool, || scene.now()).unwrap();
        scene.a.provider().is_deaf.set(true);
        let mut bytes = *b"first";
        let sent = desk.send(SendTo::peer(scene.to_b), &bytes, SHORT);
        assert_eq!(sent, Err(WaitError::Timeout));
        // The slice is the caller's: what he writes into it now is not what was sent.
        bytes.copy_from_slice(b"other");
        assert_eq!((scene.a.posted_count(), scene.pool.free_count()), (1, 31));
        scene.a.provider().is_deaf.set(false);
        while scene.a.posted_count() > 0 {
            let _outcome = desk.drive();
        }
        assert_eq!((desk.counts().given_up, desk.counts().late), (1, 1));
        assert!(desk.next_letter().is_none() && scene.is_at_rest(), "{bytes:?}");
        let at_b = Desk::open(&scene.b, scene.pool, || scene.now()).unwrap();
        let mut into = [0; 8];
        let received = at_b.recv(RecvFrom::any(), &mut into, Wait::FOREVER).unwrap();
        assert_eq!(&into[..received.length], b"first");
    });
}

#[test]
fn what_goes_on_after_a_wait_can_be_waited_for_again() {
    with_scene(|scene| {
        let desk = Desk::open(&scene.b, scene.pool, || scene.now()).unwrap();
        scene.b.provider().is_deaf.set(true);
        let id = scene.b.post_recv(RecvFrom::any(), scene.pool.lend().unwrap(), 1).unwrap();
        scene.a.inject(SendTo::peer(scene.to_b), b"m").unwrap();
        scene.a.flush();
        assert_eq!(desk.wait(id, SHORT).unwrap_err(), WaitError::NoCompletion);
        scene.b.provider().is_deaf.set(false);
        let completion = desk.wait(id, Wait::ONCE).unwrap();
        assert_eq!((completion.kind, completion.bytes()), (Kind::Received, Some(&b"m"[..])));
    });
}

/// It comes when the clock says for the first time that the time is over, or with one of the looks after that; where the receive cannot be
/// taken back, with the very last. Whichever of its looks at the clock that is.
#[test]
fn a_message_that_comes_with_the_last_look_is_in_time() {
    for (keeps, look) in [(false, 1), (true, 1), (true, 2), (true, 3)] {
        for limit in [3000, 3100] {
            with_scene(|scene| {
                let (began, late) = (Cell::new(None), Cell::new(0));
                let desk = Desk::open(&scene.b, scene.pool, || {
                    let now = scene.now();
                    let since = began.get().unwrap_or(now);
                    began.set(Some(since));
                    if now.saturating_since(since).as_nanos() >= limit {
                        late.set(late.get() + 1);
                        if late.get() == look {
                            scene.a.inject(SendTo::peer(scene.to_b), b"m").unwrap();
                            scene.a.flush();
                        }
                    }
                    now
                })
                .unwrap();
                scene.b.provider().keeps_receives.set(keeps);
                let mut into = [0; 8];
                let wait = Wait::within(Duration::from_nanos(limit));
                let received = desk.recv(RecvFrom::any(), &mut into, wait);
                assert_eq!(received.map(|it| it.length), Ok(1), "{keeps} {look} {limit}");
                assert!(scene.is_at_rest());
            });
        }
    }
}

/// The time in which it could not be posted counts.
#[test]
fn a_wait_takes_as_long_as_it_says_and_not_twice() {
    with_scene(|scene| {
        let all: Vec<_> = core::iter::from_fn(|| scene.pool.lend()).collect();
        let held = Cell::new(Some(all));
        let began = scene.now();
        let desk = Desk::open(&scene.b, scene.pool, || scene.now()).unwrap().resting(|_| {
            if scene.now().saturating_since(began).as_nanos() > 6_000 {
                drop(held.take());
            }
        });
        let wait = Wait::within(Duration::from_micros(10));
        assert_eq!(desk.recv(RecvFrom::any(), &mut [0; 8], wait), Err(WaitError::Timeout));
        let took = scene.now().saturating_since(began).as_nanos();
        assert!((10_000..13_000).contains(&took), "{took} ns");
        assert!(scene.is_at_rest());
    });
}

#[test]
fn nobody_waits_for_what_another_awaits_or_what_is_over() {
    with_scene(|scene| {
        let desk = Desk::open(&scene.b, scene.pool, || scene.now()).unwrap();
        let id = scene.b.post_recv(RecvFrom::any(), scene.pool.lend().unwrap(), 1).unwrap();
        let operation = desk.operation(id).unwrap();
        assert_eq!(desk.wait(id, Wait::ONCE).unwrap_err(), WaitError::UnknownContext);
        assert_eq!(desk.operation(id).unwrap_err(), WaitError::UnknownContext);
        drop(operation);
        while scene.b.posted_count() > 0 {
            let _outcome = desk.drive();
        }
        assert_eq!(desk.operation(id).unwrap_err(), WaitError::UnknownContext, "it is over");
    });
}
