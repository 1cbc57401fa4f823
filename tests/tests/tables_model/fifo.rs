//! The lists over slots against a `VecDeque` each.

use std::collections::VecDeque;

use proptest::prelude::*;
use spinwire_dataplane::table::{FifoError, Fifos, Head, Link, NIL};

use crate::{every_sequence, with_arena};

#[derive(Clone, Copy, Debug)]
enum Op {
    PushBack(u32, u32),
    PushFront(u32, u32),
    PopFront(u32),
    Unlink(u32),
}

struct Model {
    slots: u32,
    lists: Vec<VecDeque<u32>>,
}

impl Model {
    fn list_of(&self, slot: u32) -> Option<usize> {
        self.lists.iter().position(|list| list.contains(&slot))
    }

    fn may_push(&self, list: u32, slot: u32) -> Result<usize, FifoError> {
        let at = usize::try_from(list).unwrap();
        if at >= self.lists.len() {
            Err(FifoError::UnknownList)
        } else if slot >= self.slots {
            Err(FifoError::UnknownSlot)
        } else if self.list_of(slot).is_some() {
            Err(FifoError::Linked)
        } else {
            Ok(at)
        }
    }

    fn apply(&mut self, fifos: &Fifos<'_>, op: Op) {
        match op {
            Op::PushBack(list, slot) => {
                let expected = self.may_push(list, slot);
                assert_eq!(fifos.push_back(list, slot), expected.map(|_| ()));
                if let Ok(at) = expected {
                    self.lists[at].push_back(slot);
                }
            }
            Op::PushFront(list, slot) => {
                let expected = self.may_push(list, slot);
                assert_eq!(fifos.push_front(list, slot), expected.map(|_| ()));
                if let Ok(at) = expected {
                    self.lists[at].push_front(slot);
                }
            }
            Op::PopFront(list) => {
                let model = self.lists.get_mut(usize::try_from(list).unwrap());
                assert_eq!(fifos.pop_front(list), model.and_then(VecDeque::pop_front));
            }
            Op::Unlink(slot) => {
                let expected = match self.list_of(slot) {
                    Some(at) => {
                        self.lists[at].retain(|&other| other != slot);
                        Ok(u32::try_from(at).unwrap())
                    }
                    None if slot < self.slots => Err(FifoError::Unlinked),
                    None => Err(FifoError::UnknownSlot),
                };
                assert_eq!(fifos.unlink(slot), expected);
            }
        }
    }

    fn check(&self, fifos: &Fifos<'_>) {
        for (number, model) in (0..).zip(&self.lists) {
            assert_eq!(fifos.iter(number, u32::MAX).collect::<VecDeque<_>>(), *model);
            assert_eq!(fifos.len(number), u32::try_from(model.len()).unwrap());
            assert_eq!(fifos.is_empty(number), model.is_empty());
            assert_eq!(fifos.front(number), model.front().copied());
            for (place, &slot) in model.iter().enumerate() {
                let after: Vec<_> = fifos.iter_after(slot, 1).collect();
                assert_eq!(after.first(), model.get(place + 1));
            }
        }
        for slot in 0..self.slots {
            let list = self.list_of(slot).map(|at| u32::try_from(at).unwrap());
            assert_eq!(fifos.list_of(slot), list);
        }
    }
}

fn run(slots: u32, lists: u32, ops: &[Op]) {
    let mut links: Vec<_> = (0..slots).map(|_| Link::unlinked()).collect();
    let mut heads: Vec<_> = (0..lists).map(|_| Head::empty()).collect();
    let fifos = Fifos::new(&mut links, &mut heads);
    let mut model = Model { slots, lists: (0..lists).map(|_| VecDeque::new()).collect() };
    for &op in ops {
        model.apply(&fifos, op);
        model.check(&fifos);
    }
}

fn alphabet(slots: u32, lists: u32) -> Vec<Op> {
    let mut all: Vec<_> = (0..slots).map(Op::Unlink).collect();
    for list in 0..lists {
        all.push(Op::PopFront(list));
        for slot in 0..slots {
            all.extend([Op::PushBack(list, slot), Op::PushFront(list, slot)]);
        }
    }
    all
}

#[test]
fn all_orders_on_one_list() {
    every_sequence(&alphabet(1, 1), 6, |ops| run(1, 1, ops));
    every_sequence(&alphabet(2, 1), 5, |ops| run(2, 1, ops));
    every_sequence(&alphabet(3, 1), 4, |ops| run(3, 1, ops));
}

#[test]
fn all_orders_on_two_lists_over_the_same_slots() {
    every_sequence(&alphabet(2, 2), 4, |ops| run(2, 2, ops));
    every_sequence(&alphabet(3, 2), 4, |ops| run(3, 2, ops));
}

fn op() -> impl Strategy<Value = Op> {
    // One number more than there are, to see it refused.
    let (list, slot) = (0..5u32, 0..17u32);
    prop_oneof![
        3 => (list.clone(), slot.clone()).prop_map(|(list, slot)| Op::PushBack(list, slot)),
        1 => (list.clone(), slot.clone()).prop_map(|(list, slot)| Op::PushFront(list, slot)),
        1 => list.prop_map(Op::PopFront),
        2 => slot.prop_map(Op::Unlink),
    ]
}

proptest! {
    #![proptest_config(crate::config())]

    #[test]
    fn random_operations(ops in prop::collection::vec(op(), 0..200)) {
        run(16, 4, &ops);
    }
}

#[test]
fn a_walk_lets_its_slot_be_unlinked_and_ends_where_its_way_is_cut() {
    with_arena(1 << 12, |bump| {
        let fifos = Fifos::place(bump, 8, 2).unwrap();
        let refill = || {
            for slot in 0..8 {
                if fifos.list_of(slot).is_some() {
                    fifos.unlink(slot).unwrap();
                }
                fifos.push_back(0, slot).unwrap();
            }
        };
        refill();
        let removed = fifos.iter(0, 100).inspect(|&slot| assert_eq!(fifos.unlink(slot), Ok(0)));
        let removed: Vec<_> = removed.collect();
        assert_eq!(removed, [0, 1, 2, 3, 4, 5, 6, 7]);
        assert!(fifos.is_empty(0));

        refill();
        let mut walk = fifos.iter(0, 100);
        assert_eq!(walk.next(), Some(0));
        fifos.unlink(1).unwrap();
        fifos.push_back(1, 1).unwrap();
        assert_eq!(walk.next(), None, "slot 1 is on another list now");

        // A list that grows at its end as fast as it is walked: the budget ends the walk.
        refill();
        let moved = fifos.iter(0, 100).inspect(|&slot| {
            fifos.unlink(slot).unwrap();
            fifos.push_back(0, slot).unwrap();
        });
        assert_eq!(moved.count(), 100);
        assert_eq!(fifos.iter(0, 3).collect::<Vec<_>>(), [4, 5, 6], "100 is 12 rounds and 4");
    });
}

#[test]
fn numbers_beyond_the_table_are_refused_by_name() {
    with_arena(1 << 12, |bump| {
        let fifos = Fifos::place(bump, 2, 1).unwrap();
        assert_eq!(fifos.push_back(NIL, 0), Err(FifoError::UnknownList));
        assert_eq!(fifos.push_back(0, NIL), Err(FifoError::UnknownSlot));
        assert_eq!(fifos.unlink(NIL), Err(FifoError::UnknownSlot));
        assert_eq!((fifos.pop_front(1), fifos.len(NIL), fifos.list_of(2)), (None, 0, None));
        assert_eq!(fifos.iter(7, 9).count() + fifos.iter_after(0, 9).count(), 0);
        assert_eq!((fifos.slots(), fifos.lists()), (2, 1));
    });
}
