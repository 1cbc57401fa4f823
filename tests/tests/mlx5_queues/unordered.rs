//! The unordered tracker against a list of all its slots.

use std::collections::VecDeque;

use proptest::prelude::*;
use spinwire_dataplane::error::Retry;
use spinwire_dataplane::tracker::{PlaceError, Stale, Ticket, Unordered};

use crate::with_arena;

#[derive(Clone, Copy, Debug)]
enum Op {
    Acquire,
    Complete(u16),
    /// By the number of the ticket in the order of issue.
    Exact(usize),
}

fn run(size: u16, ops: &[Op]) {
    with_arena(1 << 12, |bump| {
        let tracker = Unordered::place(bump, size).unwrap();
        let mut free: VecDeque<u16> = (0..size).collect();
        let mut held: Vec<Option<usize>> = vec![None; usize::from(size)];
        let mut issued: Vec<Ticket> = Vec::new();
        for &op in ops {
            match op {
                Op::Acquire => {
                    assert_eq!(tracker.next_slot(), free.front().copied());
                    match free.pop_front() {
                        Some(slot) => {
                            let ticket = tracker.acquire(issued.len()).unwrap();
                            assert_eq!(ticket.slot(), slot);
                            assert!(issued.iter().all(|old| *old != ticket));
                            held[usize::from(slot)] = Some(issued.len());
                            issued.push(ticket);
                        }
                        None => assert_eq!(tracker.acquire(0), Err(Retry::RqFull)),
                    }
                }
                Op::Complete(slot) => {
                    let expected = held.get_mut(usize::from(slot)).and_then(Option::take);
                    assert_eq!(tracker.complete(slot), expected.ok_or(Stale::NotPosted));
                    free.extend(expected.map(|_| slot));
                }
                Op::Exact(number) => {
                    let Some(ticket) = issued.get(number) else { continue };
                    let ticket = Ticket::from_raw(ticket.as_raw());
                    let inside = &mut held[usize::from(ticket.slot())];
                    let expected = match *inside {
                        None => Err(Stale::NotPosted),
                        Some(other) if other != number => Err(Stale::Reused),
                        Some(_) => Ok(inside.take().unwrap()),
                    };
                    assert_eq!(tracker.complete_exact(ticket), expected);
                    free.extend(expected.map(|_| ticket.slot()));
                }
            }
            assert_eq!(usize::from(tracker.free()), free.len());
        }
        let (mut from, mut left) = (0, Vec::new());
        while let Some((slot, entry)) = tracker.flush(&mut from) {
            assert_eq!(held[usize::from(slot)].take(), Some(entry));
            left.push(slot);
        }
        assert!(held.iter().all(Option::is_none));
        assert_eq!(tracker.free(), size);
    });
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        3 => Just(Op::Acquire),
        2 => (0..9_u16).prop_map(Op::Complete),
        1 => any::<u16>().prop_map(Op::Complete),
        2 => (0..60_usize).prop_map(Op::Exact),
    ]
}

proptest! {
    #![proptest_config(crate::config())]

    #[test]
    fn random_operations(size in 1..9_u16, ops in prop::collection::vec(op(), 0..150)) {
        run(size, &ops);
    }
}

#[test]
fn what_cannot_be_placed_says_why() {
    with_arena(64, |bump| {
        for rows in [0, (1 << 15) + 1] {
            let refused = Unordered::<u64>::place(bump, rows).unwrap_err();
            assert_eq!(refused, PlaceError::Rows { rows });
        }
        assert!(matches!(Unordered::<u64>::place(bump, 100), Err(PlaceError::Memory(_))));
    });
}
