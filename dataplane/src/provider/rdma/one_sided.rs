//! Reads, writes and atomics on memory of peers, done by the devices; and memory of this end that peers are let into.

use spinwire_layouts::word::{from_usize, widen};

use super::link::{Aim, Done};
use super::port::RdmaPort;
use crate::error::{Misuse, PostError, Retry};
use crate::id::WrId;
use crate::provider::connect::Connects;
use crate::provider::one_sided::ATOMIC_BYTES;
use crate::provider::{
    CancelError, Caps, ExposeWr, OneSided, OneSidedWr, Provider, RemoteRegion, Status,
};
use crate::raw::kernel_memory::address_of;
use crate::raw::region::Registrar;
use crate::verbs::{CompletionQueue, QueuePair, RemotePlace, Segment, Verb};

impl<Q: QueuePair, C: CompletionQueue, X: Registrar> RdmaPort<'_, Q, C, X> {
    /// Stages a one-sided operation: a write, as most are, where it is asked for, so that nothing is asked of it that is known there.
    #[inline(always)]
    pub(super) fn ask(&self, wr: &OneSidedWr) -> Result<(), PostError> {
        match wr.op {
            OneSided::Write => self.ask_by(Verb::Write, wr),
            OneSided::Read | OneSided::FetchAdd(_) | OneSided::CompareSwap { .. } => {
                self.ask_otherwise(wr)
            }
        }
    }

    #[inline(never)]
    fn ask_otherwise(&self, wr: &OneSidedWr) -> Result<(), PostError> {
        let verb = match wr.op {
            OneSided::Write => Verb::Write,
            OneSided::Read => Verb::Read,
            OneSided::FetchAdd(add) => Verb::FetchAdd(add),
            OneSided::CompareSwap { expected, swap } => Verb::CompareSwap { expected, swap },
        };
        if wr.op.is_atomic() && !self.config.atomics {
            return Err(Misuse::Unsupported.into());
        }
        self.ask_by(verb, wr)
    }

    #[inline(always)]
    fn ask_by(&self, verb: Verb, wr: &OneSidedWr) -> Result<(), PostError> {
        let loans = self.loans.ok_or(Misuse::Unsupported)?;
        let row = self.peers.find(wr.to)?;
        if wr.local.length() > self.info.limits.message_bytes_max {
            return Err(Misuse::TooLong.into());
        }
        let (address, length, key) = loans.posted(&wr.local).ok_or(Misuse::BadRange)?;
        if wr.op.is_atomic() && wr.local.length() != ATOMIC_BYTES {
            return Err(Misuse::BadRange.into());
        }
        let (at, link) = self.make_ready(wr.to.slot(), row)?;
        if let Some(fatal) = link.failed.get() {
            return Err(fatal.into());
        }
        self.may_owe()?;
        let is_aligned = !wr.op.is_atomic() || wr.remote.address.is_multiple_of(8);
        let Some(remote_key) = u32::try_from(wr.remote.key).ok().filter(|_| is_aligned) else {
            // No device has such a key, and none does such a thing. That need not cost the connection.
            self.finish_send(wr.wr_id, Status::RemoteAccess, 0);
            return Ok(());
        };
        link.has_room(1)?;
        let remote = RemotePlace { address: wr.remote.address, key: remote_key };
        let segments = [Segment { address, length, key }];
        let done = (Done::Initiator(wr.wr_id, length), false);
        link.stage_send((verb, Aim::Memory(remote)), &segments, done)?;
        self.under_way.set(self.under_way.get().saturating_add(1));
        self.soil(at, link);
        Ok(())
    }

    /// Lets peers into local memory.
    pub(super) fn let_in(&self, wr: &ExposeWr) -> Result<RemoteRegion, PostError> {
        if !self.info().caps.has(Caps::EXPOSE) {
            return Err(Misuse::Unsupported.into());
        }
        let free = self.exposed.iter().find(|place| place.get().is_none());
        let free = free.ok_or(Retry::NoSlot)?;
        let key = self.registrar.register(&wr.sge, wr.access)?;
        free.set(Some((wr.wr_id, key)));
        let address = address_of(wr.sge.start());
        let bytes = from_usize(wr.sge.length());
        Ok(RemoteRegion { address, key: widen(key), bytes, access: wr.access })
    }

    /// Takes local memory back.
    pub(super) fn shut_out(&self, wr_id: WrId) -> Result<(), CancelError> {
        let is_it = |(id, _): (WrId, u32)| id == wr_id;
        let place = self.exposed.iter().find(|place| place.get().is_some_and(is_it));
        let place = place.ok_or(CancelError::NotPosted)?;
        let Some((_, key)) = place.get() else { return Err(CancelError::NotPosted) };
        if !self.registrar.unregister(key) {
            return Err(CancelError::Unsupported);
        }
        place.set(None);
        Ok(())
    }
}
