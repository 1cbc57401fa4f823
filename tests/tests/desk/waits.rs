//! Waits that bring something, and whose it is.

use core::cell::Cell;
use core::time::Duration;

use spinwire_dataplane::error::{Misuse, Retry};
use spinwire_dataplane::msg::{Count, Counted, Kind, RecvFrom, SendTo};
use spinwire_dataplane::provider::Status;
use spinwire_hostshim::desk::{CancelToken, Desk, Received, Wait, WaitError};

use super::end::{LOAN_BYTES, with_scene};

#[test]
fn a_message_goes_from_slice_to_slice() {
    with_scene(|scene| {
        let at_a = Desk::open(&scene.a, scene.pool, || scene.now()).unwrap();
        let at_b = Desk::open(&scene.b, scene.pool, || scene.now()).unwrap();
        let mut into = [0xEE; 64];
        for tag in [None, Some(7)] {
            let (mut to, mut from) = (SendTo::peer(scene.to_b).immediate(3), RecvFrom::any());
            if let Some(tag) = tag {
                (to, from) = (to.tag(tag), from.tag(tag));
            }
            at_a.send(to, b"from one slice", Wait::FOREVER).unwrap();
            let received = at_b.recv(from, &mut into, Wait::FOREVER);
            let (immediate, source) = (Some(3), Some(scene.to_a));
            assert_eq!(received, Ok(Received { length: 14, tag, immediate, source }));
            assert_eq!(&into[..14], b"from one slice");
            assert!(into[14..].iter().all(|&byte| byte == 0xEE), "no byte beyond the message");
        }
        assert!(scene.is_at_rest());
        assert_eq!((at_a.counts().met, at_b.counts().met), (2, 2));
    });
}

#[test]
fn a_wait_of_no_time_looks_once() {
    with_scene(|scene| {
        let turns = Cell::new(0);
        let at_b = Desk::open(&scene.b, scene.pool, || scene.now())
            .unwrap()
            .resting(|_| turns.set(turns.get() + 1));
        let mut into = [0; 8];
        let nothing = at_b.recv(RecvFrom::any(), &mut into, Wait::ONCE);
        assert_eq!((nothing, turns.get()), (Err(WaitError::Timeout), 0));
        assert!(scene.is_at_rest(), "the receive was taken back");
        scene.a.inject(SendTo::peer(scene.to_b), b"waits").unwrap();
        scene.a.flush();
        let there = at_b.recv(RecvFrom::any(), &mut into, Wait::ONCE).unwrap();
        assert_eq!((there.length, &into[..5], turns.get()), (5, &b"waits"[..], 0));
        let within = Wait::within(Duration::ZERO);
        assert_eq!(at_b.recv(RecvFrom::any(), &mut into, within), Err(WaitError::Timeout));
        assert_eq!(turns.get(), 0, "zero is one look");
        let within = Wait::within(Duration::from_micros(5));
        assert_eq!(at_b.recv(RecvFrom::any(), &mut into, within), Err(WaitError::Timeout));
        assert!((10..100).contains(&turns.get()), "{} rests in 5 us", turns.get());
    });
}

#[test]
fn others_completions_are_kept_for_others() {
    with_scene(|scene| {
        let desk = Desk::open(&scene.a, scene.pool, || scene.now()).unwrap();
        let from = |tag| RecvFrom::any().tag(tag);
        scene.a.post_recv(from(1), scene.pool.lend().unwrap(), 11).unwrap();
        let many = scene.a.post_multi_recv(from(2), scene.pool.lend().unwrap(), 200, 22).unwrap();
        let second = scene.a.post_recv(from(1), scene.pool.lend().unwrap(), 12).unwrap();
        for (tag, bytes) in
            [(2, &b"two"[..]), (1, b"one"), (2, &[7; 40]), (2, &[8; 40]), (1, b"uno"), (9, b"nine")]
        {
            scene.b.inject(SendTo::peer(scene.to_a).tag(tag), bytes).unwrap();
        }
        scene.b.flush();
        let mut into = [0; 8];
        let got = desk.recv(from(9), &mut into, Wait::FOREVER).unwrap();
        assert_eq!((got.tag, &into[..got.length]), (Some(9), &b"nine"[..]));
        // One of the others can be waited for by its id; it has come already.
        let uno = desk.wait(second, Wait::ONCE).unwrap();
        assert_eq!((uno.context, uno.bytes().unwrap()), (12, &b"uno"[..]));
        assert_eq!(desk.wait(second, Wait::ONCE).unwrap_err(), WaitError::UnknownContext);
        let letters: Vec<(u64, Vec<u8>, bool)> = core::iter::from_fn(|| desk.next_letter())
            .map(|letter| {
                assert_eq!(letter.completion.status, Status::Success);
                let bytes = letter.bytes().unwrap().to_vec();
                (letter.completion.context, bytes, letter.completion.loan.is_some())
            })
            .collect();
        let expected: [(u64, &[u8], bool); 4] =
            [(22, b"two", false), (11, b"one", true), (22, &[7; 40], false), (22, &[8; 40], true)];
        assert_eq!(letters.len(), 4);
        for (letter, expected) in letters.iter().zip(expected) {
            assert_eq!((letter.0, &letter.1[..], letter.2), expected);
        }
        assert_eq!(desk.wait(many, Wait::ONCE).unwrap_err(), WaitError::UnknownContext);
        assert_eq!(desk.counts().letters, 5);
        drop(uno);
        assert!(scene.is_at_rest());
    });
}

/// What has come in a buffer that goes on is a letter, and not what is waited for by the id of the receive.
#[test]
fn a_receive_for_many_messages_is_over_with_the_last_of_them() {
    with_scene(|scene| {
        let desk = Desk::open(&scene.a, scene.pool, || scene.now()).unwrap();
        let from = |tag| RecvFrom::any().tag(tag);
        let many = scene.a.post_multi_recv(from(2), scene.pool.lend().unwrap(), 200, 22).unwrap();
        let hear = |messages: &[&[u8]]| {
            for &bytes in messages {
                scene.b.inject(SendTo::peer(scene.to_a).tag(2), bytes).unwrap();
            }
            scene.b.inject(SendTo::peer(scene.to_a).tag(9), b"heard").unwrap();
            scene.b.flush();
            assert_eq!(desk.recv(from(9), &mut [0; 8], Wait::FOREVER).unwrap().length, 5);
        };
        hear(&[b"two"]);
        assert_eq!(desk.wait(many, Wait::ONCE).unwrap_err(), WaitError::NoCompletion);
        hear(&[&[7; 40], &[8; 40]]);
        let last = desk.wait(many, Wait::ONCE).unwrap();
        assert_eq!((last.context, last.length, last.loan.is_some()), (22, 40, true));
        let lengths = core::iter::from_fn(|| desk.next_letter()).map(|it| it.completion.length);
        assert_eq!(lengths.collect::<Vec<_>>(), [3, 40]);
        drop(last);
        assert!(scene.is_at_rest());
    });
}

#[test]
fn an_operation_of_the_endpoints_own_can_be_waited_for_again() {
    with_scene(|scene| {
        let desk = Desk::open(&scene.b, scene.pool, || scene.now()).unwrap();
        let id = scene.b.post_recv(RecvFrom::any(), scene.pool.lend().unwrap(), 5).unwrap();
        let short = Wait::within(Duration::from_micros(3));
        for _ in 0..3 {
            assert_eq!(desk.wait(id, short).unwrap_err(), WaitError::NoCompletion);
            assert!(scene.b.is_posted(id), "it goes on");
        }
        scene.a.inject(SendTo::peer(scene.to_b), b"at last").unwrap();
        scene.a.flush();
        let completion = desk.wait(id, Wait::FOREVER).unwrap();
        assert_eq!((completion.kind, completion.context), (Kind::Received, 5));
        assert_eq!(completion.bytes(), Some(&b"at last"[..]));
        assert_eq!(desk.wait(id, Wait::FOREVER).unwrap_err(), WaitError::UnknownContext);
        assert!(desk.next_letter().is_none());
    });
}

#[test]
fn a_slice_that_is_too_short_is_filled_and_one_that_no_buffer_holds_is_refused() {
    with_scene(|scene| {
        let desk = Desk::open(&scene.b, scene.pool, || scene.now()).unwrap();
        let mut into = [0; 10];
        scene.a.inject(SendTo::peer(scene.to_b), b"longer than that").unwrap();
        scene.a.flush();
        let short = desk.recv(RecvFrom::any(), &mut into[..4], Wait::FOREVER);
        assert_eq!(short, Err(WaitError::Truncated { delivered: 4 }));
        assert_eq!(&into, b"long\0\0\0\0\0\0");
        scene.a.inject(SendTo::peer(scene.to_b), &[5; LOAN_BYTES + 1]).unwrap();
        scene.a.flush();
        let mut whole = [0; LOAN_BYTES];
        let short = desk.recv(RecvFrom::any(), &mut whole, Wait::FOREVER);
        assert_eq!(short, Err(WaitError::Truncated { delivered: LOAN_BYTES }));
        let too_long = Err(WaitError::Refused(Misuse::TooLong.into()));
        let mut wide = [0; LOAN_BYTES + 1];
        assert_eq!(desk.recv(RecvFrom::any(), &mut wide, Wait::FOREVER), too_long);
        let to = SendTo::peer(scene.to_a);
        assert_eq!(desk.send(to, &wide, Wait::FOREVER), too_long.map(|_: Received| ()));
        assert!(scene.is_at_rest());
    });
}

#[test]
fn what_is_used_up_is_waited_for_and_named() {
    with_scene(|scene| {
        let is_open = Cell::new(false);
        let desk = Desk::open(&scene.a, scene.pool, || scene.now()).unwrap().resting(|_| {
            if is_open.get() {
                scene.turn_b();
                while scene.b.poll().is_some() {}
            }
        });
        let (to, short) = (SendTo::peer(scene.to_b), Wait::within(Duration::from_micros(5)));
        let mut sent = 0;
        let refused = loop {
            match desk.send(to, &[1; 16], short) {
                Ok(()) => sent += 1,
                Err(refused) => break refused,
            }
        };
        assert_eq!((refused, sent), (WaitError::Refused(Retry::NoCredit.into()), 8));
        // As soon as the other end takes something, it goes on.
        is_open.set(true);
        desk.send(to, &[2; 16], Wait::FOREVER).unwrap();
        let all: Vec<_> = core::iter::from_fn(|| scene.pool.lend()).collect();
        let no_buffer = Err(WaitError::Refused(Retry::PoolFull.into()));
        assert_eq!(desk.send(to, &[3; 16], short), no_buffer);
        drop(all);
        assert!(scene.is_at_rest());
    });
}

#[test]
fn the_end_of_a_peer_ends_the_wait() {
    with_scene(|scene| {
        let is_gone = Cell::new(false);
        let desk = Desk::open(&scene.a, scene.pool, || scene.now()).unwrap().resting(|_| {
            if !is_gone.replace(true) {
                scene.b.disconnect(scene.to_a).unwrap();
            }
            scene.turn_b();
        });
        scene.b.inject(SendTo::peer(scene.to_a), b"met").unwrap();
        scene.b.flush();
        let mut into = [0; 8];
        desk.recv(RecvFrom::peer(scene.to_b), &mut into, Wait::FOREVER).unwrap();
        let gone = desk.recv(RecvFrom::peer(scene.to_b), &mut into, Wait::FOREVER);
        assert_eq!(gone, Err(WaitError::PeerGone));
        assert!(desk.send(SendTo::peer(scene.to_b), b"m", Wait::FOREVER).is_err());
        assert!(scene.is_at_rest());
    });
}

#[test]
fn a_token_ends_waits_from_another_thread_and_stays_cancelled() {
    with_scene(|scene| {
        let token = CancelToken::new();
        let (asked, ask) = (Cell::new(0), Cell::new(false));
        std::thread::scope(|threads| {
            let desk = Desk::open(&scene.b, scene.pool, || scene.now()).unwrap().resting(|_| {
                asked.set(asked.get() + 1);
                if !ask.replace(true) {
                    let token = token.clone();
                    threads.spawn(move || token.cancel());
                }
                std::thread::yield_now();
            });
            let mut into = [0; 8];
            let wait = Wait::FOREVER.unless(&token);
            assert_eq!(desk.recv(RecvFrom::any(), &mut into, wait), Err(WaitError::Cancelled));
            assert!(asked.get() > 0 && token.is_cancelled());
            let before = asked.get();
            assert_eq!(desk.recv(RecvFrom::any(), &mut into, wait), Err(WaitError::Cancelled));
            assert_eq!(asked.get(), before, "it is over at once");
            let none = desk.wait_for_count(Counted::Receives, 99, wait);
            assert_eq!(none, Err(WaitError::Cancelled));
        });
        assert!(scene.is_at_rest());
    });
}

#[test]
fn counters_are_waited_for() {
    with_scene(|scene| {
        let left = Cell::new(5);
        let desk = Desk::open(&scene.b, scene.pool, || scene.now()).unwrap().resting(|_| {
            if left.get() > 0 {
                left.set(left.get() - 1);
                scene.a.inject(SendTo::peer(scene.to_b), b"m").unwrap();
                scene.a.flush();
            }
        });
        for context in 0..5 {
            scene.b.post_recv(RecvFrom::any(), scene.pool.lend().unwrap(), context).unwrap();
        }
        let three = desk.wait_for_count(Counted::Receives, 3, Wait::FOREVER);
        assert_eq!(three, Ok(Count { done: 3, errors: 0 }));
        let six = desk.wait_for_count(Counted::Receives, 6, Wait::within(Duration::from_micros(9)));
        assert_eq!(six, Err(WaitError::Timeout));
        let contexts: Vec<u64> =
            core::iter::from_fn(|| desk.next_letter()).map(|l| l.completion.context).collect();
        assert_eq!(contexts, [0, 1, 2, 3, 4]);
        assert!(scene.is_at_rest());
    });
}

#[test]
fn of_a_buffer_that_goes_on_nothing_is_shown_that_was_not_reported() {
    with_scene(|scene| {
        let loan = scene.pool.lend().unwrap();
        let id = scene.b.post_multi_recv(RecvFrom::any(), loan, 64, 0).unwrap();
        let other = scene.b.post_recv(RecvFrom::any().tag(1), scene.pool.lend().unwrap(), 0);
        scene.a.inject(SendTo::peer(scene.to_b), b"reported").unwrap();
        scene.a.flush();
        scene.turn_b();
        let mut completion = scene.b.poll().unwrap();
        assert_eq!((completion.id, completion.loan.is_none()), (id, true));
        assert_eq!(scene.b.read(&completion, <[u8]>::to_vec).unwrap(), b"reported");
        completion.length += 1;
        assert!(scene.b.read(&completion, <[u8]>::to_vec).is_none(), "the next comes there");
        (completion.offset, completion.length) = (usize::MAX, 8);
        assert!(scene.b.read(&completion, <[u8]>::to_vec).is_none());
        (completion.offset, completion.id) = (0, other.unwrap());
        assert!(scene.b.read(&completion, <[u8]>::to_vec).is_none(), "nothing has come there");
    });
}

#[test]
fn what_was_cancelled_before_it_began_is_not_begun() {
    with_scene(|scene| {
        let (at_a, at_b) = (
            Desk::open(&scene.a, scene.pool, || scene.now()).unwrap(),
            Desk::open(&scene.b, scene.pool, || scene.now()).unwrap(),
        );
        let token = CancelToken::new();
        token.cancel();
        for wait in [Wait::FOREVER, Wait::ONCE].map(|wait| wait.unless(&token)) {
            let sent = at_a.send(SendTo::peer(scene.to_b), b"not wanted any more", wait);
            assert_eq!(sent, Err(WaitError::Cancelled));
            let mut into = [0; 32];
            let received = at_b.recv(RecvFrom::any(), &mut into, wait);
            assert_eq!(received, Err(WaitError::Cancelled));
        }
        assert_eq!((scene.a.totals().messages_sent, scene.pool.free_count()), (0, 32));
        let mut into = [0; 32];
        assert_eq!(at_b.recv(RecvFrom::any(), &mut into, Wait::ONCE), Err(WaitError::Timeout));
        assert!(scene.is_at_rest());
    });
}
