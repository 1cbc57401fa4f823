//! Parcels: messages without bytes, which need no room in the receives that take them.

use super::{Incoming, Landing, Matcher};
use crate::provider::Cqe;
use crate::shm::lane::Descriptor;

impl Matcher<'_> {
    /// [`Matcher::land`] for a parcel, which was judged with a length of 0.
    pub fn land_parcel(
        &self,
        landing: &Landing,
        message: &Incoming,
        descriptor: Descriptor,
    ) -> Cqe {
        self.land(landing, message).with_parcel(descriptor)
    }

    /// [`Matcher::stash`] for a parcel.
    pub fn stash_parcel(&self, message: &Incoming, descriptor: Descriptor) -> bool {
        let kept = self.try_stash(message, Some(descriptor), |_nothing| {}).is_some();
        if !kept {
            self.stalls.set(self.stalls.get().wrapping_add(1));
        }
        kept
    }
}
