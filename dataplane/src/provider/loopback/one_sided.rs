//! One-sided operations over a hub: asked by one port, done by the owner of the memory when it polls, answered.
//!
//! ```text
//!   initiator        post ---> staged ---doorbell---> asked ---the owner polls---> answered ---poll---> completion
//!   list (by port)             initiator's            owner's                      initiator's
//! ```
//!
//! Bytes go through a body of the hub, in and out. So only the owner's port touches exposed memory, and only the initiator's its local
//! range: a port that was forgotten touches nothing.
//!
//! Invariants: (1) a request of a live initiator is on one of the three lists, and in the port's own table until it is completed; (2) nothing stays on a list of a port that has left: what it had asked is done, and then nobody is told.

use super::PortConfig;
use super::hub::{Hub, Leave, PortId};
use super::port::Port;
use crate::error::{Misuse, PostError, Retry};
use crate::id::{Generation, WrId};
use crate::provider::copy_bytes;
use crate::provider::one_sided::ATOMIC_BYTES;
use crate::provider::{
    Access, CancelError, Caps, Cqe, ExposeWr, OneSided, OneSidedWr, RemotePlace, RemoteRegion, Sge,
    Status,
};
use crate::raw::loan::Loan;
use crate::raw::place::{Bump, Exhausted};
use crate::table::{Fifos, Key, Slab};
use spinwire_layouts::word::{from_usize, high, join, low, to_usize, widen};

/// Requests that a port does in one poll.
const SERVED_MAX: u32 = 64;

/// An operation under way.
#[derive(Debug)]
struct Request<'m> {
    initiator: PortId,
    /// What the initiator knows it by.
    own: Key,
    owner: PortId,
    op: OneSided,
    remote: RemotePlace,
    status: Status,
    /// What is written, or what was read.
    body: Loan<'m>,
}

/// What a request waits for.
#[derive(Clone, Copy)]
enum Stage {
    Staged,
    Asked,
    Answered,
}

/// The one-sided operations under way in a hub.
#[derive(Debug)]
pub(super) struct Requests<'m> {
    table: Slab<'m, Request<'m>>,
    /// Three lists for each port, by [`Stage`].
    lists: Fifos<'m>,
}

impl<'m> Requests<'m> {
    pub(super) fn place(bump: &Bump<'m>, count: u32, ports: u32) -> Result<Self, Exhausted> {
        let lists = Fifos::place(bump, count, ports.saturating_mul(3))?;
        Ok(Self { table: Slab::place(bump, count)?, lists })
    }

    pub(super) const fn len(&self) -> u32 {
        self.table.len()
    }

    const fn list(stage: Stage, port: PortId) -> u32 {
        let number = match stage {
            Stage::Staged => 0,
            Stage::Asked => 1,
            Stage::Answered => 2,
        };
        port.slot.wrapping_mul(3).wrapping_add(number)
    }

    fn put(&self, key: Key, stage: Stage, port: PortId) {
        let linked = self.lists.push_back(Self::list(stage, port), key.slot());
        debug_assert!(linked.is_ok(), "it is on no list");
    }

    fn stage(&self, request: Request<'m>) -> Result<(), Retry> {
        let initiator = request.initiator;
        let key = self.table.insert(request).map_err(|_full| Retry::NoSpill)?;
        self.put(key, Stage::Staged, initiator);
        Ok(())
    }

    fn pop(&self, stage: Stage, port: PortId) -> Option<Key> {
        self.table.key_at(self.lists.pop_front(Self::list(stage, port))?)
    }

    fn with<R>(&self, key: Key, look: impl FnOnce(&mut Request<'m>) -> R) -> Option<R> {
        self.table.with(key, look).ok()
    }

    /// Ends a request. Nobody is told where its initiator has left.
    fn answer(&self, key: Key, status: Status, is_live: impl FnOnce(PortId) -> bool) {
        let initiator = self.with(key, |request| {
            request.status = status;
            request.initiator
        });
        match initiator {
            Some(initiator) if is_live(initiator) => self.put(key, Stage::Answered, initiator),
            _ => drop(self.table.remove(key)),
        }
    }

    /// A port that has left, and is live no more, is answered nothing, and does nothing more. What it had staged goes out if it closed in good order.
    pub(super) fn leave(&self, port: PortId, how: Leave, is_live: impl Fn(PortId) -> bool) {
        while let Some(key) = self.pop(Stage::Answered, port) {
            drop(self.table.remove(key));
        }
        while let Some(key) = self.pop(Stage::Staged, port) {
            match self.with(key, |request| request.owner) {
                Some(owner) if how == Leave::Closed && owner != port && is_live(owner) => {
                    self.put(key, Stage::Asked, owner);
                }
                _ => drop(self.table.remove(key)),
            }
        }
        while let Some(key) = self.pop(Stage::Asked, port) {
            self.answer(key, Status::PeerGone, &is_live);
        }
    }
}

impl Hub<'_> {
    /// Shows the owners what a port has staged.
    pub(super) fn publish_requests(&self, port: PortId) {
        while let Some(key) = self.requests.pop(Stage::Staged, port) {
            match self.requests.with(key, |request| request.owner) {
                Some(owner) if self.is_live(owner) => self.requests.put(key, Stage::Asked, owner),
                _ => self.requests.answer(key, Status::PeerGone, |initiator| initiator == port),
            }
        }
    }
}

/// Memory that peers are let into.
#[derive(Clone, Copy, Debug)]
struct Exposure {
    wr_id: WrId,
    sge: Sge,
    access: Access,
}

/// What a port has exposed, and its own operations under way.
#[derive(Debug)]
pub(super) struct OneSidedState<'m> {
    exposed: Slab<'m, Exposure>,
    own: Slab<'m, OneSidedWr>,
}

impl<'m> OneSidedState<'m> {
    pub(super) fn place(bump: &Bump<'m>, config: &PortConfig) -> Result<Self, Exhausted> {
        Ok(Self {
            exposed: Slab::place(bump, config.regions_max)?,
            own: Slab::place(bump, config.send_depth.next_power_of_two())?,
        })
    }

    /// Where a region is said to begin. Not 0, so that an offset is not taken for an address without being noticed.
    const fn base(key: Key) -> u64 {
        join(0, key.slot().wrapping_add(1))
    }

    /// The memory that is meant, and where in it, if it is to be accessed like that.
    fn find(
        &self,
        RemotePlace { address, key }: RemotePlace,
        op: OneSided,
        length: usize,
    ) -> Option<(Sge, usize)> {
        let key = Key::new(low(key), Generation::from_raw(high(key))?);
        let Exposure { sge, access, .. } = self.exposed.get(key).ok()?;
        let offset = to_usize(address.checked_sub(Self::base(key))?);
        let inside = offset.checked_add(length)? <= sge.length();
        let aligned = !op.is_atomic() || offset.is_multiple_of(ATOMIC_BYTES);
        (access.has(op.access()) && inside && aligned).then_some((sge, offset))
    }
}

impl Port<'_, '_> {
    /// Stages an operation of this port.
    pub(super) fn ask(&self, wr: &OneSidedWr) -> Result<(), PostError> {
        let needed = if wr.op.is_atomic() { Caps::ATOMIC } else { Caps::RMA };
        if !self.info.caps.has(needed) {
            return Err(Misuse::Unsupported.into());
        }
        let length = wr.local.length();
        if length > self.info.limits.message_bytes_max {
            return Err(Misuse::TooLong.into());
        }
        if length == 0 || wr.op.is_atomic() && length != ATOMIC_BYTES {
            return Err(Misuse::BadRange.into());
        }
        let row = self.peers.find(wr.to)?;
        self.make_ready(row)?;
        let own = self.one_sided.own.next_key().ok_or(Retry::CqFull)?;
        let mut body = self.hub.lend().ok_or(Retry::NoSpill)?;
        if wr.op == OneSided::Write {
            body.fill(wr.local.bytes()).map_err(|_too_small| Misuse::TooLong)?;
        } else {
            body.set_len(length).map_err(|_too_small| Misuse::TooLong)?;
        }
        self.hub.requests.stage(Request {
            initiator: self.me,
            own,
            owner: row.remote.get(),
            op: wr.op,
            remote: wr.remote,
            status: Status::Success,
            body,
        })?;
        let inserted = self.one_sided.own.insert(*wr);
        debug_assert_eq!(inserted.ok(), Some(own), "next_key said so");
        self.queues.count_staged();
        Ok(())
    }

    /// Does what others have asked of the memory that this port has exposed.
    pub(super) fn serve(&self) {
        for _ in 0..SERVED_MAX {
            let Some(key) = self.hub.requests.pop(Stage::Asked, self.me) else { return };
            // The lists are by place: what was asked of whoever was here before is not done by this port.
            let done = self.hub.requests.with(key, |request| {
                (request.owner == self.me).then(|| self.perform(request)).flatten()
            });
            let status =
                if done.flatten().is_some() { Status::Success } else { Status::RemoteAccess };
            self.hub.requests.answer(key, status, |initiator| self.hub.is_live(initiator));
        }
    }

    /// Does one operation. `None` where the memory is not to be accessed like that; then nothing was touched.
    fn perform(&self, request: &mut Request<'_>) -> Option<()> {
        let Request { op, remote, body, .. } = request;
        let (mut sge, offset) = self.one_sided.find(*remote, *op, body.len())?;
        let there = sge.part(offset, body.len())?;
        match *op {
            OneSided::Write => copy_bytes(there, body),
            OneSided::Read => copy_bytes(body, there),
            OneSided::FetchAdd(_) | OneSided::CompareSwap { .. } => {
                let before = u64::from_le_bytes(*there.first_chunk()?);
                copy_bytes(body, there);
                copy_bytes(there, &op.applied_to(before).to_le_bytes());
            }
        }
        Some(())
    }

    /// The completion of an operation of this port that was answered. One that was killed is answered by nobody: its operations end.
    pub(super) fn next_answer(&self) -> Option<Cqe> {
        let (requests, own) = (&self.hub.requests, &self.one_sided.own);
        if own.is_empty() {
            return None;
        }
        if !self.hub.is_live(self.me) {
            let wr = own.remove(own.keys().next()?).ok()?;
            return Some(Cqe::without_message(wr.wr_id, Status::PeerGone));
        }
        let answered = requests.table.remove(requests.pop(Stage::Answered, self.me)?).ok()?;
        let Request { own: key, status, body, .. } = answered;
        let OneSidedWr { wr_id, op, mut local, .. } = own.remove(key).ok()?;
        if status != Status::Success {
            return Some(Cqe::without_message(wr_id, status));
        }
        if op != OneSided::Write
            && let Some(local) = local.part(0, body.len())
        {
            copy_bytes(local, &body);
        }
        Some(Cqe::of_bytes(wr_id, status, low(from_usize(body.len()))))
    }

    /// Lets peers into a range.
    pub(super) fn let_in(&self, wr: &ExposeWr) -> Result<RemoteRegion, PostError> {
        if !self.info.caps.has(Caps::EXPOSE) {
            return Err(Misuse::Unsupported.into());
        }
        if wr.sge.length() == 0 {
            return Err(Misuse::BadRange.into());
        }
        let ExposeWr { wr_id, sge, access } = *wr;
        let exposed = &self.one_sided.exposed;
        let key = exposed.insert(Exposure { wr_id, sge, access }).map_err(|_full| Retry::NoSlot)?;
        Ok(RemoteRegion {
            address: OneSidedState::base(key),
            key: join(key.slot(), key.generation().as_raw()),
            bytes: widen(low(from_usize(sge.length()))),
            access,
        })
    }

    /// Takes a range back.
    pub(super) fn shut_out(&self, wr_id: WrId) -> Result<(), CancelError> {
        let exposed = &self.one_sided.exposed;
        let is_meant = |key: &Key| exposed.get(*key).is_ok_and(|found| found.wr_id == wr_id);
        let key = exposed.keys().find(is_meant).ok_or(CancelError::NotPosted)?;
        exposed.remove(key).map(drop).map_err(|_gone| CancelError::NotPosted)
    }
}
