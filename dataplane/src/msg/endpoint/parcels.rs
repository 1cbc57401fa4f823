//! Completions of parcels: those of messages without bytes, and the parcel.

use super::{Endpoint, Unfinished};
use crate::msg::Completion;
use crate::msg::parcel::Parcel;
use crate::provider::{Cqe, Provider, Status};
use crate::raw::loan::Loan;

/// What [`Endpoint::poll`] does not know of a parcel's completion by itself.
pub(super) struct Arrived<'m> {
    pub(super) context: u64,
    pub(super) loan: Option<Loan<'m>>,
    pub(super) parcel: Option<Parcel<'m>>,
}

impl<'m, P: Provider> Endpoint<'m, P> {
    /// The parcel of a completion, which says `Success` here, like any other. `is_batched` is that of `poll`.
    #[inline(never)]
    pub(super) fn take_parcel(&self, cqe: &Cqe, is_batched: bool) -> Option<Arrived<'m>> {
        let plain = Cqe { offset: 0, length: 0, count: 1, ..*cqe };
        let cqe = Cqe { status: Status::Parcel, ..*cqe };
        let concluded = if self.desk.is_full() {
            // Later, when the caller has dropped one.
            Err(Unfinished::BeingRead)
        } else {
            self.conclude(&plain)
        };
        if matches!(concluded, Err(Unfinished::BeingRead)) {
            self.keep_for_later(&cqe, is_batched);
            return None;
        }
        let descriptor = cqe.parcel().zip(cqe.source);
        let parcel = descriptor.and_then(|(what, source)| self.desk.hand_out(what, source));
        if let Ok(Completion { context, loan, .. }) = concluded {
            self.allowance.set(self.allowance.get().wrapping_sub(1));
            Some(Arrived { context, loan, parcel })
        } else {
            // Stale. The parcel is dropped with this, and goes back to its sender.
            self.note_stale(cqe.wr_id);
            None
        }
    }
}
