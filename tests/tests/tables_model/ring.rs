//! The ring against a `VecDeque` of the same bound.

use core::cell::Cell;
use std::collections::VecDeque;

use proptest::prelude::*;
use spinwire_dataplane::table::{Full, NotPowerOfTwo, Ring};

use crate::{every_sequence, with_arena};

#[derive(Clone, Copy, Debug)]
enum Op {
    Push,
    Pop,
    Clear,
}

fn run(capacity: usize, ops: &[Op]) {
    let mut storage: Vec<_> = (0..capacity).map(|_| Cell::new(u32::MAX)).collect();
    let ring = Ring::new(&mut storage).unwrap();
    let mut model = VecDeque::new();
    for (item, op) in (0..).zip(ops) {
        match op {
            Op::Push if model.len() == capacity => assert_eq!(ring.push(item), Err(Full(item))),
            Op::Push => {
                assert_eq!(ring.push(item), Ok(()));
                model.push_back(item);
            }
            Op::Pop => assert_eq!(ring.pop(), model.pop_front()),
            Op::Clear => {
                ring.clear();
                model.clear();
            }
        }
        assert_eq!(ring.iter().collect::<VecDeque<_>>(), model);
        assert_eq!(ring.front(), model.front().copied());
        assert_eq!(ring.peek(1), model.get(1).copied());
        let (len, room) = (model.len(), capacity - model.len());
        assert_eq!((ring.len(), ring.free()), (len.try_into().unwrap(), room.try_into().unwrap()));
        assert_eq!((ring.is_empty(), ring.is_full()), (len == 0, room == 0));
    }
}

#[test]
fn all_orders() {
    for capacity in [1, 2, 4] {
        every_sequence(&[Op::Push, Op::Pop, Op::Clear], 8, |ops| run(capacity, ops));
        every_sequence(&[Op::Push, Op::Pop], 12, |ops| run(capacity, ops));
    }
}

proptest! {
    #![proptest_config(crate::config())]

    #[test]
    fn random_operations(
        exponent in 0..7u32,
        ops in prop::collection::vec(prop_oneof![
            30 => Just(Op::Push), 25 => Just(Op::Pop), 1 => Just(Op::Clear)
        ], 0..600),
    ) {
        run(1 << exponent, &ops);
    }
}

#[test]
fn storage_must_be_a_power_of_two_and_place_rounds_up_to_one() {
    for length in [0, 3, 6] {
        let mut storage: Vec<_> = (0..length).map(|_| Cell::new(0)).collect();
        assert_eq!(Ring::new(&mut storage).err(), Some(NotPowerOfTwo { length }));
    }
    with_arena(1 << 10, |bump| {
        let capacities = [0, 1, 3, 8].map(|wish| Ring::place(bump, wish, 0u8).unwrap().capacity());
        assert_eq!(capacities, [1, 1, 4, 8]);
        assert!(Ring::place(bump, u32::MAX, 0u8).is_err());
    });
}
