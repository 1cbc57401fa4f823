//! What an endpoint hands out in a turn: no more than its budget, in order, by whichever way it comes; and no buffer at which somebody looks.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::arithmetic_side_effects,
    reason = "a test stops at the first thing that is not as expected"
)]

use spinwire_dataplane::error::PostError;
use spinwire_dataplane::msg::{Flags, Kind, RecvFrom, SendTo};
use spinwire_dataplane::poll::{Budget, Poll};
use spinwire_dataplane::provider::{EndpointType, Status};
use spinwire_tests::conformance::{Node, Rig, Shm, Sizes, World, run};
use spinwire_tests::rng::Rng;

/// A turn that may hand out so many.
fn turn<R: Rig>(world: &World<'_, R>, node: &Node<'_, R>, completions: u32) {
    let _outcome = Poll::turn(&**node, world.now(), Budget { completions, ..Budget::DEFAULT });
}

#[test]
fn a_turn_hands_out_no_more_than_its_budget_by_whichever_way() {
    run(EndpointType::Rdm, Sizes::default(), |world: &World<'_, Shm>| {
        let (a, b, to_b, to_a) = world.pair();
        for context in 0..8 {
            b.recv(RecvFrom::any().tag(1), context).unwrap();
        }
        let (mut rng, mut sent, mut had) = (Rng::new(11), 0_u64, 0_u64);
        for _ in 0..20_000 {
            for _ in 0..rng.below(4) {
                let to = SendTo::peer(to_b).tag(1).immediate(sent);
                sent += u64::from(a.inject(to, b"m").is_ok());
            }
            // A send of its own now and then, whose completion comes by a batch and takes its part of the budget.
            if rng.below(8) == 0 {
                let loan = world.pool().lend().unwrap();
                let _refused_when_full = b.post_send(SendTo::peer(to_a).tag(2), loan, 0);
                let _refused_when_full = a.recv(RecvFrom::any().tag(2), 0);
            }
            turn(world, &a, 64);
            while a.poll().is_some() {}
            let budget = u32::try_from(rng.below(6)).unwrap();
            turn(world, &b, budget);
            // Not all that he may have, sometimes; what he has not had then is not added to the next turn's.
            let asked = if rng.below(2) == 0 { u64::MAX } else { rng.below(4) };
            let mut in_this_turn = 0;
            while in_this_turn < asked
                && let Some(completion) = b.poll()
            {
                in_this_turn += 1;
                if completion.kind == Kind::Received {
                    assert_eq!(completion.immediate, Some(had), "in order");
                    had += 1;
                    let (loan, context) = (completion.loan.unwrap(), completion.context);
                    let posted = b.post_recv(RecvFrom::any().tag(1), loan, context);
                    posted.map_err(|refused| refused.error).unwrap();
                }
            }
            assert!(in_this_turn <= u64::from(budget), "{in_this_turn} of {budget}");
        }
        assert!(had > 10_000, "{had} of {sent}");
    });
}

#[test]
fn a_message_that_is_refused_is_not_counted_as_sent() {
    run(EndpointType::Rdm, Sizes::default(), |world: &World<'_, Shm>| {
        let (a, _b, to_b, _) = world.pair();
        let (mut sent, mut refused) = (0, 0);
        // Nobody takes any: the lane is full before long.
        for _ in 0..2000 {
            match a.inject(SendTo::peer(to_b), b"four") {
                Ok(()) => sent += 1,
                Err(PostError::Retry(_)) => refused += 1,
                Err(other) => panic!("{other}"),
            }
        }
        let totals = a.totals();
        assert!(sent > 0 && refused > 0, "{sent} sent, {refused} refused");
        assert_eq!((totals.messages_sent, totals.bytes_sent), (sent, 4 * sent));
        assert_eq!(totals.retries, refused);
    });
}

#[test]
fn while_a_part_is_read_its_buffer_is_not_given_back_and_others_are() {
    run(EndpointType::Rdm, Sizes::default(), |world: &World<'_, Shm>| {
        let (a, b, to_b, _) = world.pair();
        let capacity = world.pool().lend().unwrap().capacity();
        for round in 0..50 {
            let room = u32::try_from(capacity - 8).unwrap();
            let many = b.multi_recv(RecvFrom::any(), room, 1).unwrap();
            b.recv(RecvFrom::any().tag(1), 2).unwrap();
            // The first fills so little that the buffer stays; with the second it is used up.
            for bytes in [&b"first"[..], b"second"] {
                world.insist(&[&a], || a.inject(SendTo::peer(to_b), bytes));
            }
            world.insist(&[&a], || a.inject(SendTo::peer(to_b).tag(1), b"other"));
            a.flush();
            let first = loop {
                turn(world, &b, 1);
                if let Some(completion) = b.poll() {
                    break completion;
                }
            };
            assert_eq!((first.id, first.loan.is_none()), (many, true));
            assert!(first.flags().has(Flags::MORE));
            let came = b.read(&first, |bytes| {
                let mut came = Vec::new();
                for _ in 0..20 {
                    turn(world, &b, 1 + round % 3);
                    came.extend(core::iter::from_fn(|| b.poll()));
                }
                assert_eq!(bytes, b"first");
                came
            });
            let came = came.unwrap();
            assert!(came.iter().all(|completion| completion.id != many), "{came:?}");
            let mut rest = Vec::new();
            for _ in 0..20 {
                turn(world, &b, 4);
                rest.extend(core::iter::from_fn(|| b.poll()));
            }
            let ended = rest.iter().find(|completion| completion.id == many).unwrap();
            assert_eq!((ended.status, ended.bytes()), (Status::Success, Some(&b"second"[..])));
            assert!(ended.loan.is_some() && !ended.flags().has(Flags::MORE));
            assert_eq!(came.len() + rest.len(), 2);
            assert_eq!(b.posted_count(), 0);
        }
    });
}
