//! Going to sleep and being woken.
//!
//! While the endpoint is armed, every lane to it is armed, the hot ones too: all senders tell of news, and ring. Hot lanes stay
//! hot, so that the message that wakes is found by the first look.
//!
//! Nobody rings for room in a lane. Who was refused a message for lack of it is told by [`Armed::is_heard`] that a sleep has to be short, until it
//! was armed once without a refusal. Who relies on the bell by then finds it taken, so that it does not fall asleep before it was armed anew.

use core::cell::Cell;

use spinwire_layouts::shm::BELL_ARMED;

use super::ShmPort;
use crate::poll::{Armed, WakeSource};
use crate::raw::barrier::store_before_load;
use crate::shm::{bell, lease};
use crate::sync::{AtomicU64, Ordering};

/// The endpoint's own bell, and those of its peers.
#[derive(Default)]
pub(super) struct Bells {
    /// The owner sleeps, or is about to: all lanes are armed, the hot ones too.
    is_armed: Cell<bool>,
    /// Peers that were woken.
    rung: Cell<u64>,
    /// A message was refused for lack of room since the owner was last armed. Nobody rings when there is room again.
    wants_room: Cell<bool>,
    /// The owner, who is armed, was told that whatever comes is rung for.
    relies: Cell<bool>,
}

impl Bells {
    #[inline(always)]
    pub(super) const fn is_armed(&self) -> bool {
        self.is_armed.get()
    }

    /// Counts a peer that was woken.
    pub(super) fn count(&self, woken: bool) {
        self.rung.set(self.rung.get().wrapping_add(u64::from(woken)));
    }
}

impl WakeSource for ShmPort<'_, '_> {
    fn arm(&self) -> Armed {
        let Some(bell) = self.bell() else { return Armed { is_new: false, is_heard: false } };
        let was_armed = self.bells.is_armed.replace(true);
        let is_new = !was_armed || bell.load(Ordering::Relaxed) != BELL_ARMED;
        if !was_armed {
            self.arm_hot(true);
        }
        if is_new {
            bell.store(BELL_ARMED, Ordering::Relaxed);
            // SYNC(bell): the sleeper's own half; the barrier that the host has all CPUs pass is the publishers'.
            store_before_load();
        }
        let wants_room = self.bells.wants_room.replace(false);
        let is_heard = !wants_room && lease::everybody_rings(&self.segment);
        self.bells.relies.set(is_heard);
        Armed { is_new, is_heard }
    }

    fn look_over(&self) {
        for row in self.cold.iter() {
            self.look_at_cold(row);
        }
    }

    fn disarm(&self) {
        self.bells.relies.set(false);
        if self.bells.is_armed.replace(false) {
            if let Some(bell) = self.bell() {
                bell.store(0, Ordering::Relaxed);
            }
            self.arm_hot(false);
        }
    }

    fn bell(&self) -> Option<&AtomicU64> {
        if self.fenced.get() { None } else { bell::bell(&self.segment, self.me.slot) }
    }
}

impl ShmPort<'_, '_> {
    /// A message found no room.
    pub(super) fn lacks_room(&self) {
        self.bells.wants_room.set(true);
        if self.bells.relies.replace(false)
            && let Some(bell) = self.bell()
        {
            bell.store(0, Ordering::Relaxed);
        }
    }

    /// Whether the senders of the lanes that are looked at every turn are to tell of news all the same.
    fn arm_hot(&self, armed: bool) {
        let hot = usize::try_from(self.hot_count.get()).unwrap_or(0);
        for place in self.hot.iter().take(hot) {
            if let Some(peer) = self.peers.at(place.get())
                && peer.rx_lane.get().is_some()
            {
                peer.rx.arm(armed);
            }
        }
    }

    /// How many peers were woken because something was published to them.
    #[must_use]
    pub const fn bells_rung(&self) -> u64 {
        self.bells.rung.get()
    }
}
