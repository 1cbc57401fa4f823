//! Messages that nobody has asked for yet: kept in order of arrival, and compared with every receive that is posted later.

use heapless::VecView;

use super::{ARRIVALS, Incoming, Landing, Matcher, Verdict};
use crate::id::Addr;
use crate::provider::Cqe;
use crate::raw::loan::Loan;
use crate::shm::lane::{Descriptor, Envelope};
use crate::table::Key;

/// A message that waits.
#[derive(Debug)]
pub(super) struct Unexpected<'m> {
    pub(super) source: Addr,
    pub(super) envelope: Envelope,
    pub(super) body: Loan<'m>,
    /// Where the message is a buffer of a pool; `body` is empty then.
    parcel: Option<Descriptor>,
}

impl Matcher<'_> {
    /// Keeps a message that nobody asked for. `copy` fills the given bytes, as many as the message has.
    ///
    /// Returns whether it was kept; if not, it has to stay where it is (and the stall is counted).
    #[inline]
    pub fn stash(&self, message: &Incoming, copy: impl FnOnce(&mut [u8])) -> bool {
        let kept = self.try_stash(message, None, copy).is_some();
        if !kept {
            self.stalls.set(self.stalls.get().wrapping_add(1));
        }
        kept
    }

    pub(super) fn try_stash(
        &self,
        message: &Incoming,
        parcel: Option<Descriptor>,
        copy: impl FnOnce(&mut [u8]),
    ) -> Option<()> {
        if self.unexpected.is_full() {
            return None;
        }
        let mut body = self.bodies.lend()?;
        body.set_len(message.length).ok()?;
        copy(&mut body);
        let entry = Unexpected { source: message.source, envelope: message.envelope, body, parcel };
        let key = self.unexpected.insert(entry).ok()?;
        self.arrivals.push_back(ARRIVALS, key.slot()).ok()
    }

    /// Compares new receives with the messages that wait. Returns whether `out` had room for all that came of it; if not,
    /// no arrival may be looked at yet.
    #[inline(always)]
    pub fn settle(&self, out: &mut VecView<Cqe>) -> bool {
        self.fresh.get() == 0 || self.settle_fresh(out)
    }

    #[inline(never)]
    fn settle_fresh(&self, out: &mut VecView<Cqe>) -> bool {
        // Oldest message first, each to the first posted receive that takes it. Receives that are not fresh have
        // declined all of these before, so that only a fresh one can take any.
        let mut next = self.arrivals.front(ARRIVALS);
        while let Some(slot) = next {
            if out.is_full() {
                return false;
            }
            next = self.arrivals.iter_after(slot, 1).next();
            let Some(key) = self.unexpected.key_at(slot) else { continue };
            let looked = self.unexpected.with(key, |waiting| Incoming {
                source: waiting.source,
                envelope: waiting.envelope,
                length: waiting.body.len(),
            });
            let Ok(message) = looked else { continue };
            match self.judge(&message) {
                Verdict::Unasked => {}
                Verdict::GivenBack(cqe) => {
                    let pushed = out.push(cqe);
                    debug_assert!(pushed.is_ok(), "room was checked");
                    next = Some(slot);
                }
                Verdict::Deliver(landing) => {
                    let cqe = self.deliver_waiting(key, landing, &message);
                    let pushed = out.push(cqe);
                    debug_assert!(pushed.is_ok(), "room was checked");
                }
            }
        }
        for (_, posted) in self.rows() {
            posted.fresh.set(false);
        }
        self.fresh.set(0);
        true
    }

    fn deliver_waiting(&self, key: Key, mut landing: Landing, message: &Incoming) -> Cqe {
        let unlinked = self.arrivals.unlink(key.slot());
        let taken = self.unexpected.remove(key);
        debug_assert!(unlinked.is_ok() && taken.is_ok(), "kept and linked go together");
        if let Ok(Unexpected { parcel: Some(descriptor), .. }) = &taken {
            return self.land_parcel(&landing, message, *descriptor);
        }
        if let Ok(waiting) = taken {
            self.fill(&mut landing, 0, &waiting.body);
        }
        self.land(&landing, message)
    }
}
