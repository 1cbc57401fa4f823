//! The receives of a connection: posted in the order of a list, taken off it as they complete, and posted again a quarter of them at a time.

use super::link::{CONTROL_RECEIVES, Link, Stage};
use super::memory::Slots;
use crate::error::{Fatal, PostError};
use crate::verbs::{QueuePair, RecvRequest};

impl<'m, Q: QueuePair> Link<'m, Q> {
    pub(super) fn post_receive(
        &self,
        slot: u32,
        slots: &Slots<'m, Q::Key>,
    ) -> Result<(), PostError> {
        let number = self.oldest_receive.get().wrapping_add(self.receives.len());
        let segments = [slots.whole(slot)];
        let request = RecvRequest { wr_id: self.receive_id(number), segments: &segments };
        self.with_pair(|pair| pair.post_recv(&request)).unwrap_or(Err(Fatal::QueueError.into()))?;
        let pushed = self.receives.push(slot);
        debug_assert!(pushed.is_ok(), "there are as many places as slots");
        Ok(())
    }

    pub(super) fn ring_receives(&self, staged: u32) -> Result<(), PostError> {
        let published = self.with_pair(QueuePair::ring_recv_doorbell).unwrap_or_default();
        if published.error.is_some() || published.count != u64::from(staged) {
            return Err(Fatal::QueueError.into());
        }
        Ok(())
    }

    /// The receive that completes next is over: its slot, if one is posted.
    #[inline(always)]
    pub(super) fn received(&self) -> Option<u32> {
        let slot = self.receives.pop()?;
        self.oldest_receive.set(self.oldest_receive.get().wrapping_add(1));
        Some(slot)
    }

    /// A receive is done with: it will be posted again. `is_control` says what it was used for.
    #[inline(always)]
    pub(super) fn release(&self, slot: u32, is_control: bool) {
        if self.failed.get().is_some() || self.stage.get() == Stage::Over {
            return;
        }
        let pushed = self.released.push(slot);
        debug_assert!(pushed.is_ok(), "there are as many places as slots");
        let (messages, control) = self.reposted.get();
        self.reposted.set(if is_control {
            (messages, control.wrapping_add(1))
        } else {
            (messages.wrapping_add(1), control)
        });
    }

    /// The same for one that was used for a message, on a connection that is up. Whether that is a quarter of them.
    #[inline(always)]
    pub(super) fn release_message(&self, slot: u32) -> bool {
        let pushed = self.released.push(slot);
        debug_assert!(pushed.is_ok(), "there are as many places as slots");
        let (messages, control) = self.reposted.get();
        let messages = messages.wrapping_add(1);
        self.reposted.set((messages, control));
        messages >= self.depths.quarter
    }

    /// Whether so much was released that it is to be posted again.
    #[inline]
    pub(super) const fn is_much_released(&self) -> bool {
        self.is_much(self.reposted.get())
    }

    /// Whether so much was given back that the other end has to hear of it.
    #[inline]
    pub(super) const fn is_much_due(&self) -> bool {
        self.is_much(self.due.get())
    }

    /// A quarter of the receives for messages, or half of those for control.
    #[inline]
    const fn is_much(&self, (messages, control): (u32, u32)) -> bool {
        (messages >= self.depths.quarter) | (control >= CONTROL_RECEIVES / 2)
    }

    /// Whether the other end has to hear of it at once.
    pub(super) const fn is_most_due(&self) -> bool {
        let (messages, control) = self.due.get();
        messages >= self.depths.slots / 2 || control > CONTROL_RECEIVES / 2
    }

    /// Posts again what was released, where that is much.
    #[inline]
    pub(super) fn publish_receives(&self, slots: &Slots<'m, Q::Key>) {
        if self.is_much_released() {
            self.post_released(slots);
        }
    }

    fn post_released(&self, slots: &Slots<'m, Q::Key>) {
        let (messages, control) = self.reposted.replace((0, 0));
        let mut staged = 0_u32;
        while let Some(slot) = self.released.pop() {
            if self.post_receive(slot, slots).is_err() {
                self.fail(Fatal::QueueError);
                return;
            }
            staged = staged.wrapping_add(1);
        }
        if self.ring_receives(staged).is_err() {
            self.fail(Fatal::QueueError);
            return;
        }
        let due = self.due.get();
        self.due.set((due.0.saturating_add(messages), due.1.saturating_add(control)));
    }
}
