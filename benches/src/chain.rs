//! Chains: what it costs to know whose memory a CQE gives back. Beside it, one look into a slab.

use core::hint::black_box;

use spinwire_dataplane::chain::{ChainConfig, ChainEvent, ChainId, ChainTable, Entry as Part};
use spinwire_dataplane::table::Slab;

use crate::case::{Case, Entry, fold};
use crate::memory;

/// The cases.
pub const ENTRIES: &[Entry] = &[
    Entry::new("chain/cqe", cqes).ops(CQES_A_ROUND),
    Entry::new("chain/one_entry", || whole(1, 0)),
    Entry::new("chain/four_entries", || whole(4, 0)),
    Entry::new("chain/four_zero_copy", || whole(4, F_MORE)),
    Entry::new("chain/floor_slab_get", slab_get).ops(CQES_A_ROUND).yardstick(),
];

/// Nanoseconds that a CQE may take, the chain's start and end shared out among its CQEs.
pub const CQE_NS_MAX: f64 = 10.0;

/// Chains at once in the case of many, and the entries of each.
const CHAINS: u32 = 8;
const PARTS: u32 = 64;
/// CQEs of all of them, and looks of the yardstick.
pub const CQES_A_ROUND: u32 = CHAINS * PARTS * 2;
const ARENA_BYTES: usize = 1 << 18;
const WANTED: u32 = 4096;
const RESULT: i32 = 4096;
const F_MORE: u32 = 1 << 1;
const F_NOTIF: u32 = 1 << 3;

fn table() -> ChainTable<'static> {
    let config = ChainConfig { chains: 1024, entries_max: 16 };
    ChainTable::place(&memory::arena(ARENA_BYTES * 2), config).unwrap()
}

fn parts(count: u32) -> Vec<Part> {
    (0..count).map(|at| Part::bytes(WANTED, at.into())).collect()
}

fn name(id: ChainId, entry: u32) -> u64 {
    id.user_data(u16::try_from(entry).unwrap()).unwrap().as_raw()
}

/// The CQEs of one round, in the order in which they come: chain and entry go round, all notifications behind all
/// operations.
fn in_turns() -> impl Iterator<Item = (u32, u32, i32, u32)> {
    let each = |res, flags| {
        (0..PARTS).flat_map(move |part| (0..CHAINS).map(move |chain| (chain, part, res, flags)))
    };
    each(RESULT, F_MORE).chain(each(0, F_NOTIF))
}

/// The two CQEs of each zero-copy send of eight long chains at once, their start and end included. The names are laid out
/// before, as a ring has them.
#[must_use]
pub fn cqes() -> Case {
    let config = ChainConfig { chains: CHAINS, entries_max: 64 };
    let table = ChainTable::place(&memory::arena(ARENA_BYTES), config).unwrap();
    let parts = parts(PARTS);
    let ring: Vec<_> = in_turns()
        .map(|(chain, part, res, flags)| (u64::from(chain << 6 | part), res, flags))
        .collect();
    let rounds = move |rounds| {
        let mut hash = 0;
        for _ in 0..rounds {
            let mut ids = [None; 8];
            let mut kind = 0;
            for (slot, id) in (0..CHAINS).zip(&mut ids) {
                let started = table.start_at(slot, 1, &parts).unwrap();
                kind = name(started, 0) & !0xffff_ffff;
                *id = Some(started);
            }
            for (place, res, flags) in black_box(&ring) {
                let progress = table.on_cqe(kind | place, *res, *flags).unwrap();
                if let Some(buffer) = progress.returned {
                    hash = fold(hash, buffer);
                }
            }
            for id in ids.into_iter().flatten() {
                hash = fold(hash, table.take(id).unwrap().bytes);
            }
        }
        hash
    };
    Case::new(rounds, |rounds| {
        let buffers = || in_turns().filter(|cqe| cqe.3 == F_NOTIF).map(|cqe| u64::from(cqe.1));
        let bytes = u64::from(PARTS * WANTED);
        (0..rounds).fold(0, |hash, _| {
            let hash = buffers().fold(hash, fold);
            (0..CHAINS).fold(hash, |hash, _| fold(hash, bytes))
        })
    })
}

/// The life of one chain: start, every CQE, take.
fn whole(count: u32, flags: u32) -> Case {
    let table = table();
    let parts = parts(count);
    let rounds = move |rounds| {
        let mut hash = 0;
        for i in 0..rounds {
            let id = table.start(i, black_box(&parts)).unwrap();
            for part in 0..count {
                let seen = table.on_cqe(black_box(name(id, part)), RESULT, flags).unwrap();
                hash = fold(hash, u64::from(seen.event == ChainEvent::Pending));
            }
            for part in (0..count).filter(|_| flags == F_MORE) {
                let seen = table.on_cqe(black_box(name(id, part)), 0, F_NOTIF).unwrap();
                hash = fold(hash, seen.returned.unwrap());
            }
            hash = fold(hash, table.take(id).unwrap().bytes);
        }
        hash
    };
    Case::new(rounds, move |rounds| {
        (0..rounds).fold(0, |hash, _| {
            let hash = (0..count).fold(hash, |h, part| fold(h, u64::from(part + 1 < count)));
            let notices = if flags == F_MORE { count } else { 0 };
            let hash = (0..notices).fold(hash, |h, part| fold(h, part.into()));
            fold(hash, u64::from(count * WANTED))
        })
    })
}

fn there_and_back() -> impl Iterator<Item = u32> {
    let there = || (0..PARTS).flat_map(|part| (0..CHAINS).map(move |chain| chain * PARTS + part));
    let all: Vec<u32> = there().collect();
    there().chain(all.into_iter().rev())
}

/// As many looks into a slab, at keys that go round in the same order, and back: what any table of generations has to do.
#[must_use]
pub fn slab_get() -> Case {
    let slab = Slab::place(&memory::arena(ARENA_BYTES), CHAINS * PARTS).unwrap();
    let keys: Vec<_> = (0..CHAINS * PARTS).map(|i| slab.insert(u64::from(i)).unwrap()).collect();
    let ring: Vec<_> = there_and_back().map(|at| keys[usize::try_from(at).unwrap()]).collect();
    let rounds = move |rounds| {
        let mut hash = 0;
        for _ in 0..rounds {
            for key in black_box(&ring) {
                hash = fold(hash, slab.get(*key).unwrap());
            }
        }
        hash
    };
    Case::new(rounds, |rounds| {
        (0..rounds).fold(0, |hash, _| there_and_back().fold(hash, |hash, at| fold(hash, at.into())))
    })
}
