//! Every order of the CQEs of a chain. What becomes of it in the end is the same in all of them.

use spinwire_dataplane::chain::ChainOutcome;

use crate::world::{World, entries};
use crate::{ECANCELED, EIO, F_MORE, F_NOTIF, digit, with_table};

const WANTED: u32 = 1000;
const RESULTS: [i32; 4] = [1000, 300, -EIO, -ECANCELED];

/// Calls `look` with every order of `items`.
fn permutations<T: Copy>(items: &mut [T], from: usize, look: &mut impl FnMut(&[T])) {
    if from + 1 >= items.len() {
        look(items);
        return;
    }
    for at in from..items.len() {
        items.swap(from, at);
        permutations(items, from + 1, look);
        items.swap(from, at);
    }
}

/// A CQE: entry, result, flags.
type Cqe = (u16, i32, u32);

/// Feeds every order of `cqes` to a chain of `count` entries. With all of the chain's notifications after
/// their operations the outcome is one and the same; with others the oracle alone is the judge.
fn in_every_order(world: &mut World<'_, '_>, count: usize, cqes: &mut [Cqe]) {
    let wanted = vec![Some(WANTED); count];
    let entries = entries(1, &wanted);
    let mut first: Option<ChainOutcome> = None;
    permutations(cqes, 0, &mut |order| {
        let id = world.start(None, 1, &entries).unwrap();
        let mut refused = 0;
        for &(entry, res, flags) in order {
            refused += u32::from(world.entry_cqe((id, entry), res, flags).is_err());
        }
        if refused > 0 {
            world.abandon(id);
            return;
        }
        let outcome = world.oracle.live[&id.slot()].outcome();
        world.take(id);
        assert_eq!(*first.get_or_insert(outcome), outcome, "{order:?}");
    });
    assert!(first.is_some());
}

/// The results of a soft chain of `count` entries that breaks at `at` with `how`; what follows is cancelled, or runs all the same.
fn broken_at(count: usize, at: usize, how: i32, after: i32) -> Vec<i32> {
    let mut results = vec![RESULTS[0]; count];
    results[at..].fill(after);
    results[at] = how;
    results
}

fn operations(results: &[i32]) -> Vec<Cqe> {
    (0..).zip(results).map(|(entry, res)| (entry, *res, 0)).collect()
}

#[test]
fn operations_of_up_to_four_entries_with_any_results() {
    with_table(2, 8, |table| {
        let mut world = World::new(table);
        for count in 1..=4 {
            for number in 0..RESULTS.len().pow(u32::try_from(count).unwrap()) {
                let results: Vec<i32> =
                    (0..count).map(|at| RESULTS[digit(number, RESULTS.len(), at)]).collect();
                in_every_order(&mut world, count, &mut operations(&results));
            }
        }
        world.check();
    });
}

#[test]
fn operations_of_five_and_six_entries_that_break_anywhere() {
    with_table(2, 8, |table| {
        let mut world = World::new(table);
        for count in 5..=6 {
            in_every_order(&mut world, count, &mut operations(&vec![RESULTS[0]; count]));
            for at in 0..count {
                for how in &RESULTS[1..] {
                    for after in [-ECANCELED, RESULTS[0]] {
                        let results = broken_at(count, at, *how, after);
                        in_every_order(&mut world, count, &mut operations(&results));
                    }
                }
            }
        }
        world.check();
    });
}

/// Up to three entries, of which any announce a notification, with any results: every order of all that comes, also
/// those in which a notification comes before what announces it.
#[test]
fn operations_and_notifications_of_up_to_three_entries() {
    with_table(2, 8, |table| {
        let mut world = World::new(table);
        for count in 1..=3 {
            for announced in 0..1_usize << count {
                for number in 0..RESULTS.len().pow(u32::try_from(count).unwrap()) {
                    let mut cqes: Vec<Cqe> = Vec::new();
                    for at in 0..count {
                        let entry = u16::try_from(at).unwrap();
                        let res = RESULTS[digit(number, RESULTS.len(), at)];
                        let more = announced >> at & 1 == 1;
                        cqes.push((entry, res, if more { F_MORE } else { 0 }));
                        if more {
                            cqes.push((entry, 0, F_NOTIF));
                        }
                    }
                    in_every_order(&mut world, count, &mut cqes);
                }
            }
        }
        world.check();
    });
}
