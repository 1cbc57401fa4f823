//! Messages of several parts, as many as the provider takes in one call (`iov_limit` of `fi_endpoint(3)`).

use spinwire_dataplane::error::{Misuse, PostError, Retry};
use spinwire_dataplane::provider::{Caps, RecvPartsWr, SendPartsWr};
use spinwire_dataplane::raw::loan::Sge;

use super::contexts::{Operation, What};
use super::port::{OfiPort, wide};
use crate::raw::ofi::{Ranges, Target};

impl OfiPort<'_> {
    /// The parts as the library takes them, and their bytes.
    fn ranges(&self, parts: &[Sge], needed: Caps) -> Result<(Sge, Ranges, usize), Misuse> {
        if !self.info.caps.has(needed) || parts.len() > wide(self.info.limits.sge_max) {
            return Err(Misuse::Unsupported);
        }
        let first = parts.first().ok_or(Misuse::BadRange)?;
        let lengths = parts.iter().map(Sge::length);
        let bytes = lengths.fold(0_usize, usize::saturating_add);
        let known = |part: &Sge| Ok((*part, self.descriptor_of(part)?));
        let ranges = parts.iter().map(known).collect::<Result<Ranges, Misuse>>()?;
        Ok((*first, ranges, bytes))
    }

    pub(super) fn launch_parts(&self, wr: &SendPartsWr<'_>) -> Result<(), PostError> {
        let row = self.peers.find(wr.to)?;
        row.state.standing().may_be_sent_to()?;
        let (range, ranges, room) = self.ranges(wr.parts, Caps::GATHER)?;
        if room > self.info.limits.message_bytes_max {
            return Err(Misuse::TooLong.into());
        }
        self.check_extras(wr.tag, wr.immediate)?;
        if self.sends.get() >= self.info.limits.send_depth {
            return Err(Retry::CqFull.into());
        }
        let target = Target { address: row.number.get(), tag: wr.tag, data: wr.immediate };
        let (wr_id, what, peer) = (wr.wr_id, What::Send, Some(wr.to));
        let operation = Operation { wr_id, what, peer, range, room, ends: None, held: false };
        let space = self.contexts.enter(operation).ok_or(Retry::NoSlot)?;
        let posted = self.with_active(|active| active.send_parts(&target, &ranges, space));
        let posted = self.answered(posted, space);
        self.sent(wr.to, row, posted)?;
        self.sends.set(self.sends.get() + 1);
        Ok(())
    }

    pub(super) fn receive_parts(&self, wr: &RecvPartsWr<'_>) -> Result<(), PostError> {
        let (number, peer) = self.number_of(wr.from)?;
        let (range, ranges, room) = self.ranges(wr.parts, Caps::SCATTER)?;
        let mut ranges = self.with_tail(ranges)?;
        let tag = self.tag_of(wr.select)?;
        if self.receives.get() >= self.info.limits.recv_depth {
            return Err(Retry::RqFull.into());
        }
        let (wr_id, what) = (wr.wr_id, What::Receive(tag));
        let operation = Operation { wr_id, what, peer, range, room, ends: None, held: false };
        let space = self.contexts.enter(operation).ok_or(Retry::NoSlot)?;
        let posted =
            self.with_active(|active| active.receive_parts((number, tag), &mut ranges, space));
        if let Some(Err(code)) = posted {
            let _never_posted = self.contexts.end(space);
            return Err(self.refused(code, Retry::RqFull));
        }
        debug_assert!(posted.is_some(), "there is one from the start where there is no connection");
        self.receives.set(self.receives.get() + 1);
        Ok(())
    }
}
