//! A table of chains, and a round of everything that is done with chains.

use core::mem::MaybeUninit;

use spinwire_dataplane::chain::{
    ChainConfig, ChainError, ChainEvent, ChainFault, ChainId, ChainTable, Entry, Remains,
};
use spinwire_dataplane::raw::place::Bump;

const SLOTS: u32 = 4;
const F_MORE: u32 = 1 << 1;
const F_NOTIF: u32 = 1 << 3;
const ECANCELED: i32 = 125;

/// Runs `work` with a fresh table.
pub(crate) fn with<R>(work: impl FnOnce(&ChainTable<'_>) -> R) -> R {
    let mut block = vec![MaybeUninit::uninit(); 4096];
    let config = ChainConfig { chains: SLOTS, entries_max: 4 };
    work(&ChainTable::place(&Bump::new(&mut block), config).expect("a table"))
}

/// So many rounds; the number of those in which everything was as it should be.
pub(crate) fn run(table: &ChainTable<'_>, rounds: u64) -> u64 {
    (0..rounds).map(|round| u64::from(is_good(table, round).unwrap_or(false))).sum()
}

fn name(id: ChainId, entry: u16) -> u64 {
    id.user_data(entry).map_or(0, |name| name.as_raw())
}

/// `None` where a call was refused that should not be.
fn is_good(table: &ChainTable<'_>, round: u64) -> Option<bool> {
    let parts = [Entry::bytes(100, round), Entry::bytes(50, round + 1), Entry::plain(7)];
    // All is sent.
    let whole = table.start(round, &parts).ok()?;
    table.on_cqe(name(whole, 0), 100, F_MORE).ok()?;
    table.on_cqe(name(whole, 1), 50, 0).ok()?;
    table.on_cqe(name(whole, 2), 0, 0).ok()?;
    let last = table.on_cqe(name(whole, 0), 0, F_NOTIF).ok()?;
    let mut good = last.event == ChainEvent::Complete { bytes: 150, result: Ok(()) };
    good &= last.returned == Some(round);
    // It breaks, and is cancelled.
    let broken = table.start_at((whole.slot() + 1) % SLOTS, round, &parts).ok()?;
    good &= table.start_at(broken.slot(), 0, &parts) == Err(ChainError::Occupied);
    good &= table.cancel(broken).ok()?.user_data().count() == 3;
    table.on_cqe(name(broken, 2), -ECANCELED, 0).ok()?;
    table.on_cqe(name(broken, 1), -ECANCELED, F_MORE).ok()?;
    table.on_cqe(name(broken, 0), 30, 0).ok()?;
    good &= table.on_cqe(name(broken, 0), 30, 0) == Err(ChainFault::Duplicate);
    good &= table.take(broken) == Err(ChainError::Pending);
    table.on_cqe(name(broken, 1), 0, F_NOTIF).ok()?;
    good &= table.result(broken, 0) == Ok(Some(30));
    good &= table.take(broken).ok()?.remains == Remains::From { entry: 0, byte: 30 };
    good &= table.on_cqe(name(broken, 0), 30, 0) == Err(ChainFault::Stale);
    // The ring is closed.
    let mut held = 0;
    table.start(round, &parts).ok()?;
    table.take(whole).ok()?;
    for id in table.live() {
        table.abandon(id, |_, context| held += context).ok()?;
    }
    Some(good && held == 2 * round + 8 && table.is_empty())
}
