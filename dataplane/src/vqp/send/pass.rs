//! The short way of a request that is one message of one segment on the one path there is.

use spinwire_layouts::word::low;

use super::{LocalRange, Row};
use crate::table::count;
use crate::verbs::{QueuePair, RemotePlace, Segment, SendRequest, Verb};
use crate::vqp::flight::{InFlight, Kind};
use crate::vqp::qp::{State, VirtualQp};
use crate::vqp::request::{Op, SendWr};

impl<P: QueuePair> VirtualQp<'_, P> {
    /// Stages the request if it can be staged at once and as a whole. Where not, nothing has happened, and the long way says why.
    #[inline(always)]
    pub(super) fn pass(&self, wr: &SendWr<'_>) -> bool {
        let side = &self.send;
        let position = side.tail.get();
        // With one path there is no sequence that could be broken.
        let is_free = self.state.get() == State::Open
            && (self.up.get() & self.roomy.get()) & 1 != 0
            && side.cursor.get() == position
            && side.lost.is_empty()
            && side.len() < self.config.sends;
        let ([sge], [path, ..], Some(verb)) = (wr.sges, self.paths, verb_of(wr.op)) else {
            return false;
        };
        let Some(row) = side.row(position) else { return false };
        let (length, region) = (sge.length, sge.region);
        // To a device a segment of no bytes may mean the most that there is.
        if !is_free || length == 0 || length > u64::from(self.config.max_message) {
            return false;
        }
        let found = self.local.locate(region, (sge.offset, length), path.local_keys);
        let Some((address, key)) = found else { return false };
        let segments = [Segment { address, length: low(length), key }];
        row.range.set(LocalRange { address, length, region: Some(region) });
        let wr_id = path.sends.next();
        let mut request = SendRequest::new(wr_id, verb, &segments);
        let mut remote_address = 0;
        match wr.remote {
            Some(remote) if verb.is_one_sided() => {
                let place = (remote.offset, length);
                let found = self.remote.locate(remote.region, place, path.remote_keys);
                let Some((address, key)) = found else { return false };
                remote_address = address;
                request = request.at(RemotePlace { address, key });
            }
            None if !verb.is_one_sided() => {}
            _ => return false,
        }
        if path.qp.post_send(&request).is_err() {
            return false;
        }
        row.begin(wr, (length, remote_address));
        row.offset.set(length);
        row.outstanding.set(1);
        let next = position.wrapping_add(1);
        side.cursor.set(next);
        side.tail.set(next);
        let entry = InFlight { length: low(length), ..InFlight::new(Kind::Data, position) };
        self.note_staged(path, wr_id, &entry);
        true
    }
}

impl Row {
    /// A request that nothing was done of yet.
    #[inline(always)]
    pub(super) fn begin(&self, wr: &SendWr<'_>, (length, remote_address): (u64, u64)) {
        self.context.set(wr.context);
        self.op.set(wr.op);
        self.signal.set(wr.signal);
        self.length.set(length);
        self.offset.set(0);
        self.remote_address.set(remote_address);
        self.remote.set(wr.remote.map(|remote| remote.region));
        self.sge_count.set(count(wr.sges.len()));
        self.outstanding.set(0);
        self.cause.set(None);
    }
}

/// What goes the short way; atomics have a shape of their own to be looked at.
#[inline(always)]
const fn verb_of(op: Op) -> Option<Verb> {
    match op {
        Op::Write => Some(Verb::Write),
        Op::WriteImm(immediate) => Some(Verb::WriteImm(immediate)),
        Op::WriteNotify => Some(Verb::WriteImm(0)),
        Op::Read => Some(Verb::Read),
        Op::Send => Some(Verb::Send),
        Op::SendImm(immediate) => Some(Verb::SendImm(immediate)),
        Op::FetchAdd(_) | Op::CompareSwap { .. } => None,
    }
}
