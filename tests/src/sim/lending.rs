//! What an actor does with buffers of the pool that all of them share: sends them, takes, holds, sends on and drops what comes.
//!
//! What is in a buffer follows from the first message that it was sent as. It is looked at when it is taken and when it is let
//! go of: whoever gets a buffer too early writes into it.

use core::mem::MaybeUninit;
use std::collections::BTreeMap;

use spinwire_dataplane::error::PostError;
use spinwire_dataplane::id::Addr;
use spinwire_dataplane::msg::{Lender, Parcel, SendTo};
use spinwire_dataplane::pool::{Guard, Mode, NoHost, Pool, PoolError, PoolGeometry, Shared};
use spinwire_dataplane::raw::place::Bump;

use super::ledger::{Checked, Ledger, Violation, ensure};
use crate::conformance::{Node, Rig};
use crate::pool::Rig as Pools;
use crate::rng::{Rng, pattern};

const BUFFERS: u32 = 40;
const BYTES: usize = 96;
/// Buffers that an actor may have under way.
const UNDER_WAY_MAX: u32 = 12;

type Held = Guard<'static, Shared, NoHost>;

/// The pool of a run, and what is in the buffers, by the number in the message.
pub(super) struct Warehouse {
    pools: Pools,
    contents: BTreeMap<u64, u64>,
    /// Buffers that were taken by who they were sent to.
    pub(super) taken: u64,
}

impl Warehouse {
    pub(super) fn new() -> Self {
        let pools = Pools::new(PoolGeometry::new(8).class(128, BUFFERS));
        Self { pools, contents: BTreeMap::new(), taken: 0 }
    }

    /// Buffers that somebody holds, or that nobody can find.
    pub(super) fn missing(&self) -> usize {
        let rows = self.pools.segment.rows();
        rows.filter(|row| !row.word.is_free() || !row.is_marked).count()
    }
}

/// One stay's handle, and what it has.
pub(super) struct Lending<'m> {
    pool: &'static Pool<'static>,
    lender: Option<Lender<'static, 'static, NoHost>>,
    /// From whom, and the number in the message.
    parcels: Vec<(Parcel<'m>, Addr, u64)>,
    guards: Vec<(Held, u64)>,
}

impl<'m> Lending<'m> {
    pub(super) fn new(warehouse: &Warehouse) -> Self {
        let pool = warehouse.pools.process(1);
        let bump = Bump::new(Box::leak(vec![MaybeUninit::uninit(); 1024].into_boxed_slice()));
        let lender = Lender::place(pool, &bump, UNDER_WAY_MAX).expect("room for its rows");
        Self { pool, lender: Some(lender), parcels: Vec::new(), guards: Vec::new() }
    }

    pub(super) fn came(&mut self, parcel: Parcel<'m>, from: Addr, number: u64) {
        self.parcels.push((parcel, from, number));
    }

    /// Sends a buffer, a new one or one that it holds. `false` where there is none, or no room.
    pub(super) fn send<R: Rig>(
        &mut self,
        node: &Node<'m, R>,
        (stay, addr): (usize, Addr),
        (tag, warehouse): (Option<u64>, &mut Warehouse),
        (ledger, rng): (&mut Ledger, &mut Rng),
    ) -> Result<bool, Violation> {
        let Some(lender) = &self.lender else { return Ok(false) };
        let letter = ledger.write_parcel((stay, addr), tag);
        let number = letter.immediate.unwrap_or(0);
        let mut to = SendTo::peer(addr).immediate(number);
        to = tag.map_or(to, |tag| to.tag(tag));
        let (sent, content) = if !self.guards.is_empty() && rng.chance(30) {
            let at = rng.index(self.guards.len());
            let (guard, content) = self.guards.swap_remove(at);
            (node.send_loan(lender, to, guard).map_err(|refused| refused.error), content)
        } else {
            let Ok(mut guard) = self.pool.acquire(BYTES) else { return Ok(false) };
            guard.copy_from(0, &pattern(number, BYTES)).expect("it is as long");
            (node.send_loan(lender, to, guard).map_err(|refused| refused.error), number)
        };
        match sent {
            Ok(()) => {
                ledger.note(stay, format_args!("lends to {addr}: {:?} {tag:?}", letter.stream));
                warehouse.contents.insert(number, content);
                ledger.accepted(&letter, None)?;
                Ok(true)
            }
            Err(PostError::Misuse(misuse)) => {
                Err(Violation(format!("a good loan is refused: {misuse}")))
            }
            Err(PostError::Retry(_) | PostError::Fatal(_)) => Ok(false),
        }
    }

    /// Takes, drops, writes again or lets go of something; or looks for what has come back.
    pub(super) fn step<R: Rig>(
        &mut self,
        node: &Node<'m, R>,
        stay: usize,
        (warehouse, ledger, rng): (&mut Warehouse, &Ledger, &mut Rng),
    ) -> Checked {
        match rng.index(6) {
            0 | 1 if !self.parcels.is_empty() => {
                let at = rng.index(self.parcels.len());
                let parcel = self.parcels.swap_remove(at);
                self.take(parcel, stay, (warehouse, ledger))
            }
            2 if !self.parcels.is_empty() => {
                let at = rng.index(self.parcels.len());
                drop(self.parcels.swap_remove(at));
                Ok(())
            }
            3 if !self.guards.is_empty() => {
                let at = rng.index(self.guards.len());
                let (guard, content) = self.guards.swap_remove(at);
                unchanged(&guard, content)?;
                if let Ok(mut alone) = guard.try_exclusive() {
                    alone.copy_from(0, &[0xff; BYTES]).expect("it is as long");
                }
                Ok(())
            }
            4 if self.guards.len() > 3 => {
                let (guard, content) = self.guards.swap_remove(rng.index(self.guards.len()));
                unchanged(&guard, content)
            }
            _ => {
                self.lender.as_ref().map(|lender| lender.collect(node));
                Ok(())
            }
        }
    }

    fn take(
        &mut self,
        (parcel, from, number): (Parcel<'m>, Addr, u64),
        stay: usize,
        (warehouse, ledger): (&mut Warehouse, &Ledger),
    ) -> Checked {
        let Some(&content) = warehouse.contents.get(&number) else {
            return Err(Violation(format!("a buffer that nobody sent: {number:x}")));
        };
        match parcel.take(self.pool) {
            Ok(guard) => {
                unchanged(&guard, content)?;
                warehouse.taken += 1;
                self.guards.push((guard, content));
                Ok(())
            }
            Err(untaken) => {
                let late = untaken.error == PoolError::Stale && ledger.may_be_late(from, stay);
                ensure!(late, "a buffer from {from} is not to be had: {}", untaken.error);
                Ok(())
            }
        }
    }

    /// Lets go of all that has come, and looks for what has come back.
    pub(super) fn let_go<R: Rig>(&mut self, node: &Node<'m, R>) -> Checked {
        self.parcels.clear();
        for (guard, content) in self.guards.drain(..) {
            unchanged(&guard, content)?;
        }
        self.lender.as_ref().map(|lender| lender.collect(node));
        Ok(())
    }

    /// Buffers that are under way.
    pub(super) fn under_way(&self) -> usize {
        self.lender.as_ref().map_or(0, Lender::under_way)
    }

    /// Leaves in good order; whatever is under way goes with it.
    pub(super) fn leave(mut self, warehouse: &Warehouse) {
        self.guards.clear();
        self.parcels.clear();
        drop(self.lender.take());
        Self::bury(self.pool, warehouse);
    }

    /// Is killed; its handle, for whoever takes note of that.
    pub(super) const fn die(self) -> &'static Pool<'static> {
        let pool = self.pool;
        core::mem::forget(self);
        pool
    }

    /// What a handle of the dead held is taken back.
    pub(super) fn bury(pool: &'static Pool<'static>, warehouse: &Warehouse) {
        let lease = pool.lease();
        let marked = warehouse.pools.mark_dead(lease);
        let taken_back = warehouse.pools.reclaim(lease);
        assert!(marked && taken_back.is_some(), "nobody else does that");
    }
}

/// What is in it is what was sent.
fn unchanged<M: Mode>(guard: &Guard<'_, M, NoHost>, content: u64) -> Checked {
    let mut bytes = [0; BYTES];
    guard.copy_to(0, &mut bytes).map_err(|e| Violation(format!("a buffer is unreadable: {e}")))?;
    ensure!(
        bytes[..] == pattern(content, BYTES)[..],
        "somebody writes into a buffer that was lent"
    );
    Ok(())
}
