//! The bit set against a `BTreeSet`.

use core::cell::Cell;
use std::collections::BTreeSet;

use proptest::prelude::*;
use spinwire_dataplane::table::{BitSet, OutOfRange};

use crate::{every_sequence, with_arena};

#[derive(Clone, Copy, Debug)]
enum Op {
    Insert(u32),
    Remove(u32),
    Merge(u32, u64),
    Clear,
}

fn apply(set: &BitSet<'_>, model: &mut BTreeSet<u32>, op: Op) {
    let capacity = set.capacity();
    match op {
        Op::Insert(number) if number < capacity => {
            assert_eq!(set.insert(number), Ok(model.insert(number)));
        }
        Op::Remove(number) if number < capacity => {
            assert_eq!(set.remove(number), Ok(model.remove(&number)));
        }
        Op::Insert(number) => assert_eq!(set.insert(number), Err(OutOfRange)),
        Op::Remove(number) => assert_eq!(set.remove(number), Err(OutOfRange)),
        Op::Merge(index, bits) => {
            let numbers = (0..64).filter(|bit| bits >> bit & 1 == 1).map(|bit| index * 64 + bit);
            let (known, unknown): (Vec<_>, Vec<_>) = numbers.partition(|&number| number < capacity);
            model.extend(known);
            assert_eq!(set.merge_word(index, bits), u32::try_from(unknown.len()).unwrap());
        }
        Op::Clear => {
            set.clear();
            model.clear();
        }
    }
}

fn check(set: &BitSet<'_>, model: &BTreeSet<u32>) {
    let capacity = set.capacity();
    assert_eq!(set.iter().collect::<BTreeSet<_>>(), *model);
    assert_eq!(set.count(), u32::try_from(model.len()).unwrap());
    assert_eq!((set.is_empty(), set.first()), (model.is_empty(), model.first().copied()));
    assert_eq!(set.first_absent(), (0..capacity).find(|number| !model.contains(number)));
    for number in 0..capacity + 65 {
        let at_least = model.range(number..).next().copied();
        assert_eq!(set.contains(number), model.contains(&number));
        assert_eq!(set.first_at_least(number), at_least);
        assert_eq!(set.next_from(number), at_least.or(model.first().copied()));
    }
}

fn run(capacity: u32, ops: &[Op]) {
    let words = usize::try_from(BitSet::words_for(capacity)).unwrap();
    let mut storage: Vec<_> = (0..words).map(|_| Cell::new(u64::MAX)).collect();
    let set = BitSet::new(&mut storage, capacity);
    let mut model = BTreeSet::new();
    check(&set, &model);
    for &op in ops {
        apply(&set, &mut model, op);
        check(&set, &model);
    }
}

#[test]
fn all_orders() {
    for capacity in 1..=3 {
        let mut alphabet = vec![Op::Clear, Op::Merge(0, 0b1010), Op::Merge(1, 1)];
        alphabet.extend((0..capacity).flat_map(|number| [Op::Insert(number), Op::Remove(number)]));
        every_sequence(&alphabet, 4, |ops| run(capacity, ops));
    }
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        8 => (0..200u32).prop_map(Op::Insert),
        8 => (0..200u32).prop_map(Op::Remove),
        2 => (0..5u32, any::<u64>()).prop_map(|(index, bits)| Op::Merge(index, bits)),
        1 => Just(Op::Clear),
    ]
}

proptest! {
    #![proptest_config(crate::config())]

    #[test]
    fn random_operations(
        capacity in prop_oneof![0..4u32, 62..67u32, 126..131u32, 0..200u32],
        ops in prop::collection::vec(op(), 0..60),
    ) {
        run(capacity, &ops);
    }
}

#[test]
fn round_robin_serves_every_member_once_a_round() {
    with_arena(1 << 10, |bump| {
        let set = BitSet::place(bump, 300).unwrap();
        let members = [0, 1, 63, 64, 65, 127, 128, 200, 299];
        for number in members {
            set.insert(number).unwrap();
        }
        let mut start = 100;
        let served: Vec<_> = (0..18)
            .map(|_| {
                let number = set.next_from(start).unwrap();
                start = number + 1;
                number
            })
            .collect();
        let round = [127, 128, 200, 299, 0, 1, 63, 64, 65];
        assert_eq!(served, [round, round].concat());
        assert_eq!(set.next_from(u32::MAX), Some(0));
        assert_eq!(set.merge_word(u32::MAX, 7), 3, "far beyond the set");
    });
}

#[test]
fn a_set_is_as_large_as_its_storage_at_most() {
    let mut storage = [Cell::new(0)];
    let set = BitSet::new(&mut storage, 1000);
    assert_eq!((set.capacity(), set.insert(63), set.insert(64)), (64, Ok(true), Err(OutOfRange)));
}
