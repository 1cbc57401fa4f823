//! Receives that a message streams into, piece by piece, over many polls.
//!
//! A claimed receive keeps its place among the others and takes no other message meanwhile: it waits for somebody from whom none comes.
//! So no look at a receive has to ask whether it is claimed.

use super::{Incoming, Landing, Matcher, PostedRecv};
use crate::id::{Addr, Generation};
use crate::provider::{Buffer, Cqe, Source};
use crate::table::NIL;

/// Whom no message comes from: no address table has such a row.
const NOBODY_AT_ALL: Source = Source::Only(Addr::new(NIL, Generation::FIRST));

/// A receive that waits for the rest of a message.
#[derive(Clone, Copy, Debug)]
pub struct Claim {
    /// Where the message goes.
    pub landing: Landing,
    /// Whose messages the receive takes otherwise.
    from: Source,
}

impl PostedRecv {
    pub(super) fn is_claimed(&self) -> bool {
        self.from.get() == NOBODY_AT_ALL
    }
}

impl Matcher<'_> {
    /// Keeps a receive for a message of which not all is there. [`Matcher::land_claimed`] or [`Matcher::unclaim`] ends it.
    pub fn claim(&self, landing: Landing) -> Claim {
        let from = self.row(landing.row).map(|posted| posted.from.replace(NOBODY_AT_ALL));
        Claim { landing, from: from.unwrap_or(NOBODY_AT_ALL) }
    }

    /// [`Matcher::land`] for a message that was streamed into its receive.
    pub fn land_claimed(&self, claim: &Claim, message: &Incoming) -> Cqe {
        self.clear_spent();
        if let Some(posted) = self.row(claim.landing.row) {
            posted.from.set(claim.from);
        }
        let cqe = self.land(&claim.landing, message);
        if cqe.buffer == Buffer::StillPosted {
            self.look_again(claim.landing.row);
        }
        cqe
    }

    /// The message does not come: the receive is as it was before.
    pub fn unclaim(&self, claim: &Claim) {
        if let Some(posted) = self.row(claim.landing.row) {
            posted.from.set(claim.from);
        }
        self.look_again(claim.landing.row);
    }

    /// Messages may have come meanwhile that it takes.
    fn look_again(&self, row: u32) {
        if let Some(posted) = self.row(row)
            && !self.unexpected.is_empty()
            && !posted.fresh.replace(true)
        {
            self.fresh.set(self.fresh.get().wrapping_add(1));
        }
    }
}
