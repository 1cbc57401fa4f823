//! Taking receives back, and looking at what waits: nothing of this is on the way of a message.

use super::{ARRIVALS, Matcher, PostedRecv, UNTAGGED};
use crate::id::{Addr, WrId};
use crate::provider::{CancelError, Cqe, Select, Source, Status, Waiting};

/// A receive that was taken out without a message, and what is known of it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Withdrawn {
    /// The id of its completion.
    pub wr_id: WrId,
    /// Whose messages it would have taken.
    pub from: Source,
    /// The tag that it waited for; `None` where it took untagged messages.
    pub tag: Option<u64>,
}

impl Withdrawn {
    /// Its completion, with that status and the number of the provider for the reason (0 for none).
    #[must_use]
    pub const fn ended(self, status: Status, code: u32) -> Cqe {
        let cqe = Cqe::without_message(self.wr_id, status).with_code(code);
        Cqe { tag: self.tag, ..cqe }
    }
}

impl Matcher<'_> {
    /// Takes back a posted receive.
    ///
    /// # Errors
    /// `NotPosted` where it is not there (any more), or a message is streaming into it.
    pub fn cancel(&self, wr_id: WrId) -> Result<Withdrawn, CancelError> {
        self.take_where(|posted| posted.wr_id.get() == wr_id && !posted.is_claimed())
            .ok_or(CancelError::NotPosted)
    }

    /// Takes out one receive that can get nothing any more because it waits for `peer` alone, which is gone.
    pub fn take_hopeless(&self, peer: Addr) -> Option<Withdrawn> {
        self.take_directed(|addr| addr == peer)
    }

    /// Takes out one receive that waits for a peer of that kind alone.
    pub fn take_directed(&self, meant: impl Fn(Addr) -> bool) -> Option<Withdrawn> {
        self.take_where(|posted| matches!(posted.from.get(), Source::Only(addr) if meant(addr)))
    }

    /// Takes out one posted receive, whichever.
    pub fn take_any(&self) -> Option<Withdrawn> {
        self.take_where(|posted| !posted.is_claimed())
    }

    fn take_where(&self, meant: impl Fn(&PostedRecv) -> bool) -> Option<Withdrawn> {
        let (row, posted) = self.rows().find(|(_, posted)| meant(posted))?;
        let is_tagged = self.lists.list_of(row) != Some(UNTAGGED);
        let tag = is_tagged.then_some(posted.tag.get());
        self.retire(row);
        Some(Withdrawn { wr_id: posted.wr_id.get(), from: posted.from.get(), tag })
    }

    /// The oldest message that waits and would be taken by such a receive.
    #[must_use]
    pub fn peek(&self, from: Source, select: Select) -> Option<Waiting> {
        self.arrivals.iter(ARRIVALS, u32::MAX).find_map(|slot| {
            let key = self.unexpected.key_at(slot)?;
            let seen = self.unexpected.with(key, |waiting| Waiting {
                source: waiting.source,
                length: waiting.body.len(),
                tag: waiting.envelope.tag,
                immediate: waiting.envelope.immediate,
            });
            seen.ok().filter(|w| from.takes(w.source) && select.takes(w.tag))
        })
    }

    /// Whether a message of that peer waits.
    #[must_use]
    pub fn holds_of(&self, peer: Addr) -> bool {
        self.arrivals.iter(ARRIVALS, u32::MAX).any(|slot| {
            let source = self
                .unexpected
                .key_at(slot)
                .and_then(|key| self.unexpected.with(key, |waiting| waiting.source).ok());
            source == Some(peer)
        })
    }
}
