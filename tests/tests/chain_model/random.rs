//! All calls in any order, with CQEs of chains that live, have lived, or never will.

use proptest::prelude::*;
use spinwire_dataplane::chain::{ChainId, EntrySet};

use crate::world::{World, entries};
use crate::{ECANCELED, F_MORE, F_NOTIF, with_table};

const SLOTS: u32 = 4;
const ENTRIES_MAX: u16 = 6;

#[derive(Clone, Debug)]
enum Op {
    Start(Option<u32>, Vec<Option<u32>>),
    /// Which chain of those that were ever issued, which entry; result and flags.
    Cqe(usize, u16, i32, u32),
    /// The next CQE that the kernel could send, which of them by number: result, and whether it announces another.
    Next(usize, i32, bool),
    Raw(u64, i32, u32),
    Take(usize),
    Cancel(usize),
    Abandon(usize),
}

fn wanted() -> impl Strategy<Value = Option<u32>> {
    prop_oneof![
        6 => (0..50_u32).prop_map(Some),
        2 => Just(None),
        1 => Just(Some(i32::MAX.cast_unsigned())),
        1 => (i32::MAX.cast_unsigned()..=u32::MAX).prop_map(Some),
    ]
}

fn result() -> impl Strategy<Value = i32> {
    prop_oneof![6 => 0..60, 2 => Just(-ECANCELED), 2 => -40..0, 1 => any::<i32>()]
}

fn flags() -> impl Strategy<Value = u32> {
    prop_oneof![4 => Just(0), 4 => Just(F_MORE), 4 => Just(F_NOTIF), 1 => 0..64_u32, 1 => any::<u32>()]
}

/// Words that look as if they were names of entries.
fn user_data() -> impl Strategy<Value = u64> {
    let near =
        (0..5_u64, 0..6_u64, 0..6_u64, 0..64_u64).prop_map(|(tag, generation, slot, entry)| {
            tag << 56 | generation << 32 | slot << 6 | entry
        });
    prop_oneof![3 => near, 1 => any::<u64>()]
}

fn op() -> impl Strategy<Value = Op> {
    let at = 0..32_usize;
    let wanted = prop::collection::vec(wanted(), 0..8);
    prop_oneof![
        6 => (prop::option::weighted(0.3, 0..SLOTS + 2), wanted).prop_map(|(at, w)| Op::Start(at, w)),
        4 => (at.clone(), 0..70_u16, result(), flags()).prop_map(|(a, e, r, f)| Op::Cqe(a, e, r, f)),
        20 => (at.clone(), result(), any::<bool>()).prop_map(|(a, r, m)| Op::Next(a, r, m)),
        2 => (user_data(), any::<i32>(), flags()).prop_map(|(u, r, f)| Op::Raw(u, r, f)),
        5 => at.clone().prop_map(Op::Take),
        1 => at.clone().prop_map(Op::Cancel),
        1 => at.prop_map(Op::Abandon),
    ]
}

/// Every CQE that a correct kernel could send next: chain, entry, whether it is a notification.
fn possible(world: &World<'_, '_>) -> Vec<(ChainId, u16, bool)> {
    let mut found = Vec::new();
    for chain in world.oracle.live.values() {
        let mut add = |set: EntrySet, is_notice| {
            found.extend(set.iter().map(|entry| (chain.id, entry, is_notice)));
        };
        add(chain.operations(), false);
        add(chain.notifications(), true);
    }
    found
}

fn apply(world: &mut World<'_, '_>, issued: &mut Vec<ChainId>, op: &Op) {
    let pick = |at: &usize| (!issued.is_empty()).then(|| issued[at % issued.len()]);
    match op {
        Op::Start(at, wanted) => {
            let context = u64::try_from(issued.len()).unwrap();
            issued.extend(world.start(*at, context, &entries(context, wanted)).ok());
        }
        Op::Cqe(at, entry, res, flags) => {
            let Some(name) = pick(at).and_then(|id| id.user_data(*entry)) else { return };
            world.on_cqe(name.as_raw(), *res, *flags).ok();
        }
        Op::Next(at, res, more) => {
            let possible = possible(world);
            let Some((id, entry, is_notice)) = possible.get(at % possible.len().max(1)).copied()
            else {
                return;
            };
            let flags = if is_notice { F_NOTIF } else { u32::from(*more) * F_MORE };
            world.entry_cqe((id, entry), *res, flags).unwrap();
        }
        Op::Raw(user_data, res, flags) => {
            world.on_cqe(*user_data, *res, *flags).ok();
        }
        Op::Take(at) => pick(at).into_iter().for_each(|id| world.take(id)),
        Op::Cancel(at) => pick(at).into_iter().for_each(|id| world.cancel(id)),
        Op::Abandon(at) => pick(at).into_iter().for_each(|id| {
            world.abandon(id);
        }),
    }
}

proptest! {
    #![proptest_config(crate::config())]

    #[test]
    fn random_operations(ops in prop::collection::vec(op(), 0..300)) {
        with_table(SLOTS, ENTRIES_MAX, |table| {
            let mut world = World::new(table);
            let mut issued = Vec::new();
            for op in &ops {
                apply(&mut world, &mut issued, op);
                world.check();
            }
        });
    }
}
