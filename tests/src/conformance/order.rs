//! Order: messages of one peer arrive as they were sent.

use spinwire_dataplane::msg::{RecvFrom, SendTo};
use spinwire_dataplane::provider::Status;

use super::{Rig, World};
use crate::rng::{Rng, pattern};

fn length_of(number: u64) -> usize {
    match number % 7 {
        0 => 0,
        1 => 8,
        2 => 48,
        3 => 49,
        4 => 64,
        5 => 250,
        _ => 700 + usize::try_from(number % 400).unwrap(),
    }
}

/// Some thousand messages of all sizes, with turns and receives whenever it pleases the dice.
pub fn messages_of_a_peer_stay_in_order<R: Rig>(world: &World<'_, R>) {
    let (a, b, to_b, _) = world.pair();
    let mut rng = Rng::new(17);
    let (mut sent, mut taken, mut posted) = (0_u64, 0_u64, 0_u64);
    for _ in 0..200_000 {
        match rng.weighted(&[40, 20, 10, 20]) {
            0 if sent < 2000 => {
                let bytes = pattern(sent, length_of(sent));
                sent += u64::from(a.inject(SendTo::peer(to_b).immediate(sent), &bytes).is_ok());
            }
            1 if posted < taken + 20 => {
                posted += u64::from(b.recv(RecvFrom::any(), posted).is_ok());
            }
            2 => world.turn(&[&a]),
            _ => world.turn(&[&b]),
        }
        while let Some(got) = b.take() {
            assert_eq!((got.status, got.immediate), (Status::Success, Some(taken)), "in order");
            assert_eq!(got.context, taken, "to the receives in the order of their posting");
            assert!(got.bytes == pattern(taken, length_of(taken)));
            taken += 1;
        }
        if taken == 2000 {
            return;
        }
    }
    panic!("only {taken} of {sent} messages have arrived");
}

/// The same where all of them wait before they are asked for.
pub fn order_holds_through_the_unexpected_queue<R: Rig>(world: &World<'_, R>) {
    let (a, b, to_b, _) = world.pair();
    for round in 0..20_u64 {
        for number in 0..20_u64 {
            let bytes = pattern(number, length_of(number).min(200));
            let tag = number % 3;
            let to = SendTo::peer(to_b).tag(tag).immediate(number);
            world.insist(&[&a, &b], || a.inject(to, &bytes));
        }
        world.turns(20, &[&a, &b]);
        assert_eq!(b.inbox_len(), 0);
        for number in 0..20_u64 {
            b.recv(RecvFrom::any().tag_ignoring(0, u64::MAX), number).unwrap();
            if (number + round) % 5 == 0 {
                world.turns(2, &[&a, &b]);
            }
        }
        world.until("all are there", &[&a, &b], || b.inbox_len() == 20);
        for number in 0..20_u64 {
            let got = b.take().unwrap();
            assert_eq!((got.context, got.immediate), (number, Some(number)));
            assert_eq!(got.tag, Some(number % 3));
        }
    }
}

/// Staged is not published; one doorbell publishes all.
pub fn nothing_shows_before_the_doorbell_and_all_after<R: Rig>(world: &World<'_, R>) {
    let (a, b, to_b, _) = world.pair();
    // The first opens the way.
    b.recv(RecvFrom::any(), 99).unwrap();
    world.insist(&[&a, &b], || a.inject(SendTo::peer(to_b), b"first"));
    world.until("it is there", &[&a, &b], || b.take().is_some());
    for number in 0..8_u64 {
        b.recv(RecvFrom::any(), number).unwrap();
        a.inject(SendTo::peer(to_b).immediate(number), &pattern(number, length_of(number)))
            .unwrap();
    }
    world.turns(30, &[&b]);
    assert_eq!(b.inbox_len(), 0, "nothing was published");
    a.flush();
    if R::FAULTS {
        world.until("all are there", &[&a, &b], || b.inbox_len() == 8);
    } else {
        world.until("all are there", &[&b], || b.inbox_len() == 8);
    }
    for number in 0..8 {
        assert_eq!(b.take().unwrap().immediate, Some(number));
    }
}
