//! CQEs that no kernel writes, and what comes after the end: nothing of it changes anything, and all of it is counted.

use core::mem::MaybeUninit;

use spinwire_dataplane::chain::{
    CHAINS_MAX, ChainConfig, ChainError, ChainFault, ChainId, ChainTable, ENTRIES_MAX, Entry,
    EntrySet, PlaceError,
};
use spinwire_dataplane::id::{Generation, OpTag, WrId};
use spinwire_dataplane::raw::place::Bump;

use crate::world::{World, entries};
use crate::{ECANCELED, F_MORE, F_NOTIF, with_table};

const RESULTS: [i32; 9] = [0, 1, 10, 11, -1, -ECANCELED, i32::MAX, i32::MIN, i32::MIN + 1];

/// Chains in every stage at once: with operations, with notifications to come, complete, abandoned, taken, never begun.
fn stages(world: &mut World<'_, '_>) {
    let wanted = [Some(10), None, Some(10)];
    let ids: Vec<ChainId> = (0..5)
        .map(|context| world.start(None, context, &entries(context, &wanted)).unwrap())
        .collect();
    for id in &ids[1..4] {
        for entry in 0..3 {
            world.entry_cqe((*id, entry), 10, F_MORE).unwrap();
        }
    }
    for id in &ids[2..4] {
        for entry in 0..3 {
            world.entry_cqe((*id, entry), 0, F_NOTIF).unwrap();
        }
    }
    world.take(ids[3]);
    world.entry_cqe((ids[4], 1), 0, F_MORE).unwrap();
    world.abandon(ids[4]);
}

#[test]
fn every_name_near_a_real_one_with_every_flag() {
    for res in RESULTS {
        for flags in 0..32 {
            with_table(6, 3, |table| {
                let mut world = World::new(table);
                stages(&mut world);
                for tag in 0..5_u64 {
                    for generation in 0..4_u64 {
                        for place in 0..8 * 64_u64 {
                            let name = tag << 56 | generation << 32 | place;
                            world.on_cqe(name, res, flags).ok();
                        }
                    }
                }
                world.check();
            });
        }
    }
}

#[test]
fn single_bits_and_their_opposites_fit_nothing() {
    with_table(6, 3, |table| {
        let mut world = World::new(table);
        stages(&mut world);
        for at in 0..64 {
            for name in [1_u64 << at, !(1_u64 << at), u64::MAX << at, u64::MAX >> at] {
                for flags in [0, F_MORE, F_NOTIF, F_MORE | F_NOTIF, u32::MAX] {
                    assert!(world.on_cqe(name, i32::MIN, flags).is_err(), "{name:#x}");
                }
            }
        }
        world.check();
    });
}

/// The half of a word that says kind and generation is compared as one: a kind of zero must not find a vacant slot
/// whose last chain was abandoned with CQEs to come.
#[test]
fn a_name_without_a_kind_finds_no_vacant_slot() {
    with_table(1, 2, |table| {
        let id = table.start(1, &[Entry::plain(0), Entry::plain(1)]).unwrap();
        assert!(table.abandon(id, |_, _| ()).is_ok());
        let next = u64::from(id.generation().next().as_raw());
        for tag in 0..=255_u64 {
            let answer = table.on_cqe(tag << 56 | next << 32, 0, 0);
            assert_eq!(answer, Err(ChainFault::Unknown), "tag {tag}");
        }
        assert_eq!(table.fault_count(ChainFault::Unknown), 256);
    });
}

#[test]
fn the_cqes_of_a_chain_that_has_ended_do_not_reach_its_successor() {
    with_table(1, 2, |table| {
        let mut world = World::new(table);
        let mut old: Vec<ChainId> = Vec::new();
        for round in 0..20 {
            let id = world.start(None, round, &entries(round, &[Some(5), Some(5)])).unwrap();
            for late in &old {
                for entry in 0..2 {
                    for flags in [0, F_MORE, F_NOTIF] {
                        let answer = world.entry_cqe((*late, entry), 5, flags);
                        assert_eq!(answer, Err(ChainFault::Stale));
                    }
                }
                world.take(*late);
                world.cancel(*late);
                world.abandon(*late);
            }
            assert_eq!(table.outstanding(id).unwrap().operations, EntrySet::from_bits(0b11));
            old.push(id);
            world.entry_cqe((id, 0), 5, F_MORE).unwrap();
            world.entry_cqe((id, 1), 5, 0).unwrap();
            if round % 2 == 0 {
                world.entry_cqe((id, 0), 0, F_NOTIF).unwrap();
                world.take(id);
            } else {
                assert_eq!(world.abandon(id), [0], "its notification may come after all");
            }
        }
        world.check();
        assert_eq!(table.fault_count(ChainFault::Stale), 20 * 19 / 2 * 6);
    });
}

#[test]
fn repeated_and_impossible_cqes_are_refused_by_name_and_give_nothing_back() {
    with_table(1, 4, |table| {
        let mut world = World::new(table);
        let id = world.start(None, 1, &entries(1, &[Some(9), Some(9)])).unwrap();
        let mut refused = |entry, res, flags| world.entry_cqe((id, entry), res, flags).unwrap_err();
        assert_eq!(refused(0, 0, F_NOTIF), ChainFault::EarlyNotification);
        assert_eq!(refused(0, 0, F_NOTIF | F_MORE), ChainFault::EarlyNotification);
        assert_eq!(refused(2, 9, 0), ChainFault::NoEntry);
        assert_eq!(refused(3, 0, F_NOTIF), ChainFault::NoEntry);
        assert_eq!(refused(4, 9, 0), ChainFault::NoEntry);
        assert_eq!(refused(63, 9, F_MORE), ChainFault::NoEntry);
        world.entry_cqe((id, 0), 9, F_MORE).unwrap();
        world.entry_cqe((id, 1), 9, 0).unwrap();
        let mut refused = |entry, res, flags| world.entry_cqe((id, entry), res, flags).unwrap_err();
        assert_eq!(refused(0, 9, 0), ChainFault::Duplicate);
        assert_eq!(refused(0, 9, F_MORE), ChainFault::Duplicate);
        assert_eq!(refused(1, 9, 0), ChainFault::Duplicate);
        assert_eq!(refused(1, 0, F_NOTIF), ChainFault::Unannounced);
        assert_eq!(refused(0, 0, F_NOTIF | F_MORE), ChainFault::Endless);
        let outstanding = table.outstanding(id).unwrap();
        assert_eq!(outstanding.held(), EntrySet::from_bits(0b01), "the kernel still has it");
        world.entry_cqe((id, 0), i32::MIN, F_NOTIF).unwrap();
        assert_eq!(table.counts().copied, 1, "bit 31 of a notification says so");
        assert_eq!(world.entry_cqe((id, 0), 0, F_NOTIF), Err(ChainFault::Underflow));
        world.check();
        world.take(id);
    });
}

#[test]
fn names_are_made_and_taken_apart_alike() {
    with_table(3, 64, |table| {
        for context in 0..3 {
            let id = table.start(context, &[Entry::plain(0)]).unwrap();
            for entry in 0..ENTRIES_MAX {
                let name = id.user_data(entry).unwrap();
                assert_eq!(ChainId::of(name.as_raw()), Some((id, entry)));
                let expected = id.slot() << 6 | u32::from(entry);
                assert_eq!(name.parts(), Some((OpTag::Chain, id.generation(), expected)));
            }
            assert_eq!((id.user_data(ENTRIES_MAX), id.user_data(u16::MAX)), (None, None));
        }
    });
    for other in [OpTag::Send, OpTag::Recv] {
        assert_eq!(ChainId::of(WrId::new(other, Generation::FIRST, 0).as_raw()), None);
    }
    assert_eq!((ChainId::of(0), ChainId::of(3 << 56)), (None, None));
}

#[test]
fn sets_of_entries_are_sets() {
    let set = EntrySet::from_bits(1 << 63 | 0b101);
    assert_eq!((set.len(), set.is_empty(), EntrySet::EMPTY.is_empty()), (3, false, true));
    assert_eq!(set.iter().collect::<Vec<_>>(), [0, 2, 63]);
    let inside: Vec<u16> = (0..=u16::MAX).filter(|entry| set.contains(*entry)).collect();
    assert_eq!(inside, [0, 2, 63]);
    assert_eq!(set.union(EntrySet::from_bits(2)).bits(), 1 << 63 | 0b111);
    assert_eq!(format!("{set:?}"), "{0, 2, 63}");
}

#[test]
fn a_table_of_a_size_that_cannot_be_is_refused() {
    let mut block = vec![MaybeUninit::uninit(); 1 << 10];
    let bump = Bump::new(&mut block);
    let place = |chains, entries_max| {
        ChainTable::place(&bump, ChainConfig { chains, entries_max }).map(|_| ()).unwrap_err()
    };
    assert_eq!(place(CHAINS_MAX + 1, 1), PlaceError::Chains(CHAINS_MAX + 1));
    assert_eq!(place(1, 0), PlaceError::EntriesMax(0));
    assert_eq!(place(1, ENTRIES_MAX + 1), PlaceError::EntriesMax(ENTRIES_MAX + 1));
    assert!(matches!(place(CHAINS_MAX, ENTRIES_MAX), PlaceError::Exhausted(_)));
    assert!(place(0, 0).to_string().contains("entries_max"));
    let none = ChainTable::place(&bump, ChainConfig { chains: 0, entries_max: 1 }).unwrap();
    assert_eq!(none.start(1, &[Entry::plain(0)]), Err(ChainError::Full));
    assert_eq!(none.on_cqe(3 << 56 | 1 << 32, 0, 0), Err(ChainFault::Unknown));
    let expected: Vec<_> = ChainFault::ALL.into_iter().filter(|f| f.is_expected()).collect();
    assert_eq!(expected, [ChainFault::Stale, ChainFault::Unannounced]);
    assert!(ChainError::ALL.iter().all(|e| e.is_retry()
        == matches!(e, ChainError::Full | ChainError::Occupied | ChainError::Pending)));
}
