//! Several desks at one endpoint: each gets what it waits for, whichever of them finds it.

use core::cell::{Cell, RefCell};
use core::mem::{ManuallyDrop, MaybeUninit};
use core::time::Duration;

use spinwire_dataplane::error::PostError;
use spinwire_dataplane::msg::{Kind, RecvFrom, SendTo};
use spinwire_hostshim::desk::{CancelToken, Desk, HasDesk, Wait, WaitError};

use super::end::{End, scene, with_scene};

const SHORT: Wait<'static> = Wait::within(Duration::from_micros(3));

/// Tells the other end's messages to an endpoint of the scene, one after the other.
fn inject(from: &End<'_>, to: SendTo, bytes: &[u8]) -> Result<(), PostError> {
    from.inject(to, bytes)?;
    from.flush();
    Ok(())
}

#[test]
fn a_desk_that_knows_nothing_of_the_first_is_refused() {
    with_scene(|scene| {
        let open = || Desk::open(&scene.a, scene.pool, || scene.now());
        let first = open().unwrap();
        assert_eq!(open().unwrap_err(), HasDesk);
        assert!(HasDesk.to_string().contains("remedy: open the other one by Desk::another"));
        // Another endpoint is not meant.
        drop(Desk::open(&scene.b, scene.pool, || scene.now()).unwrap());
        let second = first.another();
        drop(first);
        assert_eq!(open().unwrap_err(), HasDesk, "the second keeps the book");
        drop(second);
        open().unwrap();
    });
}

/// A forgotten desk is its own endpoint's loss, wherever that goes, and nobody's else who comes to lie where that was.
#[test]
fn a_desk_that_is_forgotten_marks_its_endpoint_alone() {
    let mut block: Box<[MaybeUninit<u8>]> = Box::new_uninit_slice(16 << 20);
    let mut scene = scene(&mut block);
    let _forgotten = ManuallyDrop::new(Desk::open(&scene.a, scene.pool, || scene.now()).unwrap());
    core::mem::swap(&mut scene.a, &mut scene.b);
    drop(Desk::open(&scene.a, scene.pool, || scene.now()).unwrap());
    assert_eq!(Desk::open(&scene.b, scene.pool, || scene.now()).unwrap_err(), HasDesk);
}

#[test]
fn a_wait_within_a_wait_leaves_what_is_not_its_own() {
    with_scene(|scene| {
        let from = |tag| RecvFrom::any().tag(tag);
        // While the first waits for 1, the second waits for 2. What is sent first is for the first, and is found by the second.
        let (inner, found) = (RefCell::new(None), Cell::new(0));
        let first = Desk::open(&scene.b, scene.pool, || scene.now()).unwrap();
        let second = first.another();
        let first = first.resting(|_| {
            let Some(second) = inner.take() else { return };
            for (tag, bytes) in [(1, b"first"), (2, b"other")] {
                inject(&scene.a, SendTo::peer(scene.to_b).tag(tag), bytes).unwrap();
            }
            let second: Desk<'_, '_, _> = second;
            let mut into = [0; 8];
            let got = second.recv(from(2), &mut into, SHORT).unwrap();
            assert_eq!(&into[..got.length], b"other");
            found.set(found.get() + 1);
        });
        *inner.borrow_mut() = Some(second);
        let mut into = [0; 8];
        let got = first.recv(from(1), &mut into, SHORT).unwrap();
        assert_eq!((&into[..got.length], found.get()), (&b"first"[..], 1));
        assert_eq!((first.counts().met, first.counts().letters), (2, 0));
        assert!(scene.is_at_rest());
    });
}

#[test]
fn what_one_desk_has_found_waits_for_the_other() {
    with_scene(|scene| {
        let first = Desk::open(&scene.b, scene.pool, || scene.now()).unwrap();
        let second = first.another();
        let loan = || scene.pool.lend().unwrap();
        let ids = [1, 2, 3].map(|tag| {
            let posted = scene.b.post_recv(RecvFrom::any().tag(tag), loan(), tag);
            (tag, posted.unwrap())
        });
        for (tag, _) in ids {
            inject(&scene.a, SendTo::peer(scene.to_b).tag(tag), b"m").unwrap();
        }
        // The last was sent last, so that the first desk finds all of them.
        assert_eq!(first.wait(ids[2].1, SHORT).unwrap().context, 3);
        assert_eq!(second.wait(ids[1].1, Wait::ONCE).unwrap().context, 2);
        assert_eq!(first.wait(ids[1].1, Wait::ONCE).unwrap_err(), WaitError::UnknownContext);
        let letter = second.next_letter().unwrap().completion;
        assert_eq!((letter.context, letter.kind), (1, Kind::Received));
        assert!(first.next_letter().is_none() && second.next_letter().is_none());
        drop(letter);
        assert!(scene.is_at_rest());
    });
}

#[test]
fn what_one_desk_has_given_up_is_known_to_the_other() {
    with_scene(|scene| {
        let first = Desk::open(&scene.b, scene.pool, || scene.now()).unwrap();
        let second = first.another();
        scene.b.provider().keeps_receives.set(true);
        let mut into = [0xEE; 8];
        assert_eq!(first.recv(RecvFrom::any(), &mut into, SHORT), Err(WaitError::Timeout));
        drop(first);
        for bytes in [b"late", b"next"] {
            inject(&scene.a, SendTo::peer(scene.to_b), bytes).unwrap();
        }
        let mut other = [0; 8];
        let got = second.recv(RecvFrom::any(), &mut other, SHORT).unwrap();
        assert_eq!((&other[..got.length], into), (&b"next"[..], [0xEE; 8]));
        assert_eq!((second.counts().given_up, second.counts().late), (1, 1));
        assert_eq!(second.next_letter().unwrap().bytes(), Some(&b"late"[..]));
        assert!(scene.is_at_rest());
    });
}

#[test]
fn a_token_ends_the_wait_of_its_own_desk_alone() {
    with_scene(|scene| {
        let token = CancelToken::new();
        let first = Desk::open(&scene.b, scene.pool, || scene.now()).unwrap();
        let (second, ended) = (first.another(), Cell::new(None));
        let first = first.resting(|_| {
            if ended.get().is_none() {
                token.cancel();
                let mut into = [0; 8];
                let wait = Wait::FOREVER.unless(&token);
                ended.set(Some(second.recv(RecvFrom::any().tag(9), &mut into, wait)));
                inject(&scene.a, SendTo::peer(scene.to_b), b"for the first").unwrap();
            }
        });
        let mut into = [0; 16];
        let got = first.recv(RecvFrom::any(), &mut into, Wait::FOREVER).unwrap();
        assert_eq!(&into[..got.length], b"for the first");
        assert_eq!(ended.get(), Some(Err(WaitError::Cancelled)));
        assert!(scene.is_at_rest());
    });
}

/// The book is that of one place: an endpoint that lies where another one was has none yet.
#[test]
fn the_place_of_an_endpoint_is_given_free_with_its_last_desk() {
    for _ in 0..3 {
        let mut block: Box<[MaybeUninit<u8>]> = Box::new_uninit_slice(16 << 20);
        let scene = scene(&mut block);
        let desk = Desk::open(&scene.a, scene.pool, || scene.now()).unwrap();
        let other = desk.another();
        assert!(Desk::open(&scene.a, scene.pool, || scene.now()).is_err());
        drop((desk, other));
    }
}
