//! Completions of parcels: those of messages without bytes, and the parcel.

use super::Endpoint;
use super::reading::{Apart, Unfinished};
use crate::msg::{Completion, Kind};
use crate::provider::{Cqe, Provider, Status};

impl<'m, P: Provider> Endpoint<'m, P> {
    /// The completion of a parcel: like that of any other message, of no bytes. `None` where it is not the caller's, or is later.
    #[cold]
    #[inline(never)]
    pub(super) fn poll_parcel(&self, cqe: &Cqe, is_batched: bool) -> Option<Apart<'m>> {
        let plain = Cqe { status: Status::Success, offset: 0, length: 0, count: 1, ..*cqe };
        let concluded = if self.desk.is_full() {
            // Later, when the caller has dropped one.
            Err(Unfinished::BeingRead)
        } else {
            self.conclude(&plain)
        };
        if matches!(concluded, Err(Unfinished::BeingRead)) {
            if is_batched {
                self.taken.set(self.taken.get().saturating_sub(1));
            } else {
                self.keep_for_later(cqe);
            }
            return None;
        }
        let descriptor = cqe.parcel().zip(cqe.source);
        let parcel = descriptor.and_then(|(what, source)| self.desk.hand_out(what, source));
        let Ok(Completion { context, loan, .. }) = concluded else {
            // Stale. The parcel is dropped with this, and goes back to its sender.
            self.note_stale(cqe.wr_id, is_batched);
            return None;
        };
        if !is_batched && self.readers.get() > 0 {
            self.direct_then.set(self.direct_then.get().saturating_sub(1));
        }
        Some(Apart { cqe: plain, kind: Kind::Parcel, context, loan, parcel })
    }
}
