//! The slab against a list of every key that it ever issued.

use core::cell::RefCell;
use std::collections::BTreeSet;

use proptest::prelude::*;
use spinwire_dataplane::id::Generation;
use spinwire_dataplane::table::{Full, Key, Slab, SlabError, Slot};

use crate::{every_sequence, with_arena};

/// The keys are numbered in the order in which they were issued.
#[derive(Clone, Copy, Debug)]
enum Op {
    Insert,
    Remove(usize),
    Discard(usize),
    Take(usize),
    Put(usize),
    With(usize),
    Set(usize),
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum State {
    Holds(u32),
    Taken,
    Ended,
}

struct Model {
    capacity: usize,
    issued: Vec<(Key, State)>,
    values: u32,
}

impl Model {
    const fn new(capacity: usize) -> Self {
        Self { capacity, issued: Vec::new(), values: 0 }
    }

    const fn value(&mut self) -> u32 {
        self.values += 1;
        self.values
    }

    fn live(&self) -> usize {
        self.issued.iter().filter(|(_, state)| *state != State::Ended).count()
    }

    fn apply(&mut self, slab: &Slab<'_, u32>, op: Op) {
        let value = self.value();
        let (at, key, state) = match op {
            Op::Insert => return self.insert(slab, value),
            Op::Remove(at)
            | Op::Discard(at)
            | Op::Take(at)
            | Op::Put(at)
            | Op::With(at)
            | Op::Set(at) => match self.issued.get(at) {
                Some(&(key, state)) => (at, key, state),
                None => return,
            },
        };
        let present = match state {
            State::Holds(held) => Ok(held),
            State::Taken => Err(SlabError::Busy),
            State::Ended => Err(SlabError::Stale),
        };
        let held = present.ok();
        let after = match op {
            Op::Insert => state,
            Op::Remove(_) => {
                assert_eq!(slab.remove(key), present);
                if held.is_some() { State::Ended } else { state }
            }
            Op::Discard(_) => {
                let expected = if state == State::Ended { Err(SlabError::Stale) } else { Ok(held) };
                assert_eq!(slab.discard(key), expected);
                State::Ended
            }
            Op::Take(_) => {
                assert_eq!(slab.take(key), present);
                if held.is_some() { State::Taken } else { state }
            }
            Op::Put(_) if state == State::Ended => {
                assert_eq!(slab.put(key, value), Err((SlabError::Stale, value)));
                state
            }
            Op::Put(_) => {
                assert_eq!(slab.put(key, value), Ok(held));
                State::Holds(value)
            }
            Op::With(_) => {
                let seen = slab.with(key, |inside| core::mem::replace(inside, value));
                assert_eq!(seen, present);
                if held.is_some() { State::Holds(value) } else { state }
            }
            Op::Set(_) => {
                assert_eq!(slab.set(key, value), present);
                if held.is_some() { State::Holds(value) } else { state }
            }
        };
        self.issued[at].1 = after;
    }

    fn insert(&mut self, slab: &Slab<'_, u32>, value: u32) {
        let announced = slab.next_key();
        match slab.insert(value) {
            Ok(key) => {
                assert!(self.live() < self.capacity, "more entries than slots");
                assert_eq!(announced, Some(key));
                assert!(
                    self.issued.iter().all(|(old, _)| *old != key),
                    "{key:?} was issued before"
                );
                self.issued.push((key, State::Holds(value)));
            }
            Err(Full(back)) => {
                assert_eq!(self.live(), self.capacity, "refused although there is room");
                assert_eq!((announced, back), (None, value));
            }
        }
    }

    fn check(&self, slab: &Slab<'_, u32>) {
        for (key, state) in &self.issued {
            let (got, checked) = match state {
                State::Holds(value) => (Ok(*value), Ok(())),
                State::Taken => (Err(SlabError::Busy), Ok(())),
                State::Ended => (Err(SlabError::Stale), Err(SlabError::Stale)),
            };
            assert_eq!(slab.get(*key), got, "{key:?}");
            assert_eq!(slab.check(*key), checked, "{key:?}");
        }
        let live: BTreeSet<_> = self
            .issued
            .iter()
            .filter(|(_, state)| *state != State::Ended)
            .map(|(key, _)| (key.slot(), key.generation().as_raw()))
            .collect();
        let keys: Vec<_> = slab.keys().map(|key| (key.slot(), key.generation().as_raw())).collect();
        assert_eq!(keys, Vec::from_iter(live));
        assert_eq!(slab.len(), u32::try_from(self.live()).unwrap());
        assert_eq!(slab.is_empty(), self.live() == 0);
        assert_eq!(slab.is_full(), self.live() == self.capacity);
        if let Some(next) = slab.next_key() {
            assert_eq!(slab.get(next), Err(SlabError::Vacant));
        }
    }
}

fn run(capacity: usize, ops: &[Op]) {
    let mut storage: Vec<_> = (0..capacity).map(|_| Slot::vacant()).collect();
    let slab = Slab::new(&mut storage);
    let mut model = Model::new(capacity);
    for &op in ops {
        model.apply(&slab, op);
        model.check(&slab);
    }
}

#[test]
fn all_orders_of_insert_and_remove() {
    let alphabet = [Op::Insert, Op::Remove(0), Op::Remove(1), Op::Remove(2), Op::Remove(3)];
    for capacity in 0..=3 {
        every_sequence(&alphabet, 6, |ops| run(capacity, ops));
    }
}

#[test]
fn all_orders_of_all_operations() {
    let mut alphabet = vec![Op::Insert];
    for at in 0..2 {
        alphabet.extend([Op::Remove(at), Op::Discard(at), Op::Take(at)]);
        alphabet.extend([Op::Put(at), Op::With(at), Op::Set(at)]);
    }
    for capacity in 1..=3 {
        every_sequence(&alphabet, 4, |ops| run(capacity, ops));
    }
}

fn op() -> impl Strategy<Value = Op> {
    let at = 0..64usize;
    prop_oneof![
        4 => Just(Op::Insert),
        3 => at.clone().prop_map(Op::Remove),
        1 => at.clone().prop_map(Op::Discard),
        1 => at.clone().prop_map(Op::Take),
        1 => at.clone().prop_map(Op::Put),
        1 => at.clone().prop_map(Op::With),
        1 => at.prop_map(Op::Set),
    ]
}

proptest! {
    #![proptest_config(crate::config())]

    #[test]
    fn random_operations(capacity in 0..20usize, ops in prop::collection::vec(op(), 0..200)) {
        run(capacity, &ops);
    }
}

#[test]
fn keys_that_were_never_issued_are_refused_by_name() {
    with_arena(1 << 12, |bump| {
        let slab = Slab::place(bump, 2).unwrap();
        let key = slab.insert(1u8).unwrap();
        let foreign = Key::new(2, Generation::FIRST);
        assert_eq!(slab.get(foreign), Err(SlabError::Unknown));
        assert_eq!(slab.remove(Key::new(u32::MAX, key.generation())), Err(SlabError::Unknown));
        let early = Key::new(key.slot(), key.generation().next());
        assert_eq!(slab.remove(early), Err(SlabError::Stale));
        assert_eq!(slab.put(slab.next_key().unwrap(), 9), Err((SlabError::Vacant, 9)));
        assert_eq!(slab.discard(slab.next_key().unwrap()), Err(SlabError::Vacant));
        assert_eq!(slab.get(key), Ok(1));
    });
}

/// A value that is not `Copy` and says when it is dropped.
#[derive(Debug)]
struct Owned<'d>(&'static str, &'d RefCell<Vec<&'static str>>);

impl Drop for Owned<'_> {
    fn drop(&mut self) {
        self.1.borrow_mut().push(self.0);
    }
}

#[test]
fn an_entry_in_hand_is_busy_and_can_be_ended_from_within() {
    let dropped = RefCell::default();
    let mut storage = [const { Slot::vacant() }; 1];
    let slab = Slab::new(&mut storage);
    let key = slab.insert(Owned("first", &dropped)).unwrap();
    let inside = slab.with(key, |_| {
        assert!(matches!(slab.remove(key), Err(SlabError::Busy)));
        assert!(matches!(slab.take(key), Err(SlabError::Busy)));
        assert_eq!(slab.with(key, |_| ()), Err(SlabError::Busy));
        assert!(slab.insert(Owned("refused", &dropped)).is_err());
    });
    assert_eq!((inside, dropped.take()), (Ok(()), vec!["refused"]));
    let ended = slab.with(key, |_| {
        assert!(matches!(slab.discard(key), Ok(None)));
        slab.insert(Owned("second", &dropped)).unwrap()
    });
    assert_eq!(dropped.take(), ["first"], "the value in hand went when its entry had ended");
    assert_eq!(slab.check(key), Err(SlabError::Stale));
    let second = slab.take(ended.unwrap()).unwrap();
    assert_eq!((second.0, dropped.take()), ("second", vec![]), "its successor is untouched");
}

#[test]
fn a_new_slab_in_old_storage_knows_none_of_the_old_keys() {
    let mut storage = [const { Slot::vacant() }; 3];
    let old: Vec<_> = {
        let slab = Slab::new(&mut storage);
        (0..3).map(|value| slab.insert(value).unwrap()).collect()
    };
    let slab = Slab::new(&mut storage);
    assert_eq!((slab.len(), slab.is_full()), (0, false));
    for key in old {
        assert_eq!(slab.get(key), Err(SlabError::Stale));
        let fresh = slab.insert(7).unwrap();
        assert_eq!(slab.get(key), Err(SlabError::Stale), "{fresh:?}");
    }
    assert!(slab.is_full());
}

#[test]
fn an_arena_that_is_too_small_refuses() {
    with_arena(64, |bump| assert!(Slab::<u64>::place(bump, 100).is_err()));
}
