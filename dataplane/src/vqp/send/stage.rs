//! Staging: a fragment as a work request on one of the paths that may carry it.

use core::cell::Cell;

use heapless::Vec;
use spinwire_layouts::word::{low, widen};

use super::{Row, SEGMENTS_MAX, Staging};
use crate::error::PostError;
use crate::id::WrId;
use crate::table::wide;
use crate::verbs::{QueuePair, RemotePlace, Segment, SendRequest, Verb};
use crate::vqp::config::{Scheme, Visibility};
use crate::vqp::flight::{InFlight, Kind};
use crate::vqp::path::Path;
use crate::vqp::qp::{Mode, VirtualQp, bit, lowest};
use crate::vqp::refusal::Cause;
use crate::vqp::request::Op;

type Segments<K> = Vec<Segment<K>, SEGMENTS_MAX>;

impl<'m, P: QueuePair> VirtualQp<'m, P> {
    /// The part of a request behind `offset`, `length` bytes long, as segments for the device of a path.
    #[inline]
    pub(super) fn segments(
        &self,
        entry: &InFlight,
        row: &Row,
        path: &Path<'m, P>,
        segments: &mut Segments<P::Key>,
    ) -> Result<(), Cause> {
        let no_key = Cause::NoKey { device: path.device };
        let (mut skip, mut left) = (entry.offset, entry.length);
        for index in 0..row.sge_count.get() {
            if left == 0 {
                break;
            }
            let Some(range) = self.send.sge(entry.row, index).map(Cell::get) else { break };
            if skip >= range.length {
                skip = skip.wrapping_sub(range.length);
                continue;
            }
            let here = range.length.wrapping_sub(skip);
            let length = if here >= widen(left) { left } else { low(here) };
            let region = range.region.ok_or(no_key)?;
            let key = self.local.key(region, path.local_keys).ok_or(no_key)?;
            let address = range.address.wrapping_add(skip);
            // There are no more than SEGMENTS_MAX segments of a request.
            let _fits = segments.push(Segment { address, length, key });
            left = left.wrapping_sub(length);
            skip = 0;
        }
        Ok(())
    }

    #[inline(always)]
    pub(super) fn verb(&self, entry: &InFlight, row: &Row) -> Verb {
        let op = row.op.get();
        let immediate = if let Op::WriteImm(immediate) = op { immediate } else { 0 };
        match (entry.kind, op) {
            (Kind::Flush, _) | (_, Op::Read) => Verb::Read,
            (Kind::Notify, _) => Verb::WriteImm(immediate),
            (_, Op::Send) => Verb::Send,
            (_, Op::SendImm(immediate)) => Verb::SendImm(immediate),
            (_, Op::FetchAdd(amount)) => Verb::FetchAdd(amount),
            (_, Op::CompareSwap { expected, swap }) => Verb::CompareSwap { expected, swap },
            (_, Op::Write | Op::WriteImm(_) | Op::WriteNotify) => {
                let end = entry.offset.wrapping_add(u64::from(entry.length));
                let is_last = end == row.length.get();
                match self.mode {
                    Mode::Single if is_last && op.notifies() => Verb::WriteImm(immediate),
                    Mode::Single | Mode::Spray => Verb::Write,
                    Mode::Sequence(codec) => Verb::WriteImm(codec.encode(entry.number, is_last)),
                }
            }
        }
    }

    /// Stages `entry` on one of the paths `allowed`.
    #[inline]
    pub(super) fn stage(&self, entry: &InFlight, row: &Row, allowed: u64) -> Staging {
        let Some(at) = self.pick(allowed) else {
            let is_up = self.is_any_up(allowed);
            return if is_up { Staging::Blocked } else { Staging::Dead(self.cause_of(allowed)) };
        };
        let Some(path) = self.paths.get(wide(at)) else { return Staging::Blocked };
        let mut segments = Vec::new();
        let gathered = match entry.kind {
            Kind::Flush => self.scratch(path, &mut segments),
            Kind::Data | Kind::Notify | Kind::Receive | Kind::Credit => {
                self.segments(entry, row, path, &mut segments)
            }
        };
        if let Err(cause) = gathered {
            return Staging::Dead(cause);
        }
        self.stage_on((at, path), entry, row, &segments)
    }

    /// Gives a work request to a path that has room.
    #[inline(always)]
    fn stage_on(
        &self,
        (at, path): (u32, &Path<'m, P>),
        entry: &InFlight,
        row: &Row,
        segments: &[Segment<P::Key>],
    ) -> Staging {
        let remote = match row.remote.get() {
            None => None,
            Some(region) => {
                let Some(key) = self.remote.key(region, path.remote_keys) else {
                    return Staging::Dead(Cause::NoKey { device: path.device });
                };
                let address = row.remote_address.get().wrapping_add(entry.offset);
                Some(RemotePlace { address, key })
            }
        };
        let wr_id = path.sends.next();
        let verb = self.verb(entry, row);
        let request = SendRequest::new(wr_id, verb, segments);
        let request = remote.map_or(request, |place| request.at(place));
        match path.qp.post_send(&request) {
            Ok(()) => {
                self.note_staged(path, wr_id, entry);
                Staging::Staged
            }
            Err(PostError::Retry(_)) => {
                // The device has less room than it said. A completion there shows that it has some again; where none is on
                // its way the next turn tries.
                if path.sends.is_empty() {
                    return Staging::Blocked;
                }
                self.roomy.set(self.roomy.get() & !bit(at));
                Staging::Again
            }
            // It is the caller's: the path has nothing to do with it.
            Err(error @ PostError::Misuse(_)) => Staging::Dead(Cause::Refused(error)),
            Err(error @ PostError::Fatal(_)) => {
                self.fail_path(at, Cause::Refused(error));
                Staging::Again
            }
        }
    }

    /// A path has taken a send.
    #[inline(always)]
    pub(super) fn note_staged(&self, path: &Path<'_, P>, id: WrId, entry: &InFlight) {
        path.sends.push(id, *entry);
        self.dirty.set(self.dirty.get() | path.bit);
        if !path.sends.has_room() {
            self.roomy.set(self.roomy.get() & !path.bit);
        }
    }

    /// Why none of those paths is up.
    pub(super) fn cause_of(&self, allowed: u64) -> Cause {
        let first = lowest(allowed).filter(|_| allowed.count_ones() == 1);
        let path = first.and_then(|at| self.paths.get(wide(at)));
        path.and_then(|path| path.cause.get()).unwrap_or_else(|| self.first_cause())
    }

    /// Where the byte goes that is read back.
    fn scratch(&self, path: &Path<'m, P>, segments: &mut Segments<P::Key>) -> Result<(), Cause> {
        let device = path.device;
        let no_key = Cause::NoKey { device };
        let Scheme::Spray(Visibility::FlushingRead(region)) = self.config.scheme else {
            return Err(no_key);
        };
        let address = self.local.resolve(region, (0, 8), bit(device)).map_err(|_gone| no_key)?;
        let key = self.local.key(region, path.local_keys).ok_or(no_key)?;
        let _fits = segments.push(Segment { address, length: 1, key });
        Ok(())
    }
}
