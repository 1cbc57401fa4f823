//! Whether a service is as its invariants say. For tests, which ask after every step; it takes time linear in all tables.

use super::row::{Phase, Row, flag, want};
use super::segment::{List, Report};
use super::service::{Flight, PARTING, Stage, Streams};
use crate::table::{NIL, count};
use crate::uring::Enter;

impl<E: Enter> Streams<'_, E> {
    /// Looks for what contradicts the invariants of the [module](super).
    ///
    /// # Errors
    /// Says what is wrong, and of which slot.
    #[doc(hidden)]
    pub fn audit(&self) -> Result<(), (&'static str, u32)> {
        let (free, ended) = self.segments.count_unused();
        claim(free == self.segments.free_count(), "free segments are counted", free)?;
        let mut pieces = free.saturating_add(ended);
        let mut chains = 0_u32;
        for (flight, slot) in self.flights.iter().zip(0_u32..) {
            let (length, _) = self.length_of(flight.segments.first.get());
            pieces = pieces.saturating_add(length);
            if flight.conn.get().is_some() {
                chains = chains.wrapping_add(1);
            }
            let holds = flight.conn.get().is_some();
            claim(holds == (length > 0), "a chain has segments while it is under way", slot)?;
            claim(is_list(&flight.segments), "ends of the list of a chain", slot)?;
        }
        claim(chains == self.chains.len(), "every chain has a flight", chains)?;
        let mut free = 0_u32;
        for (row, slot) in self.rows.iter().zip(0_u32..) {
            let (length, _) = self.length_of(row.first.get());
            pieces = pieces.saturating_add(length);
            claim((row.first.get() == NIL) == (row.last.get() == NIL), "ends of a queue", slot)?;
            free = free.wrapping_add(u32::from(row.phase.get() == Phase::Free));
            self.audit_row(slot, row)?;
        }
        let is_ending = |row: &&Row| matches!(row.phase.get(), Phase::Closing | Phase::Ended);
        let ending = count(self.rows.iter().filter(is_ending).count());
        claim(ending == self.ending.get(), "rows that end are counted", ending)?;
        let is_parting = |row: &&Row| row.phase.get() == Phase::Parting;
        let parting = count(self.rows.iter().filter(is_parting).count());
        claim(parting == self.refused.len(PARTING), "rows that linger are in the list", parting)?;
        let lost = self.ring.fatal().is_some();
        let holders = count(self.rows.iter().filter(|row| row.copies.get() > 0).count());
        claim(lost || holders == self.holders.get(), "who has copies is counted", holders)?;
        claim(free == self.config.conns.wrapping_sub(self.len()), "rows are free or not", free)?;
        claim(pieces == self.config.segments, "a segment is in one place", pieces)?;
        self.buffers.audit()
    }

    fn audit_row(&self, slot: u32, row: &Row) -> Result<(), (&'static str, u32)> {
        let id = row.id(slot);
        let of_row = |flight: &&Flight| flight.conn.get() == Some(id);
        let flights = || self.flights.iter().filter(of_row);
        let flying = flights().filter(|flight| flight.stage.get() == Stage::Flying).count();
        let stranded = flights().filter(|flight| flight.stage.get() == Stage::Stranded).count();
        let lingering = flights().count().wrapping_sub(flying);
        let phase = row.phase.get();
        claim(flying.wrapping_add(stranded) <= 1, "one chain of a row is active", slot)?;
        if phase == Phase::Free || phase == Phase::Ended {
            let lost = self.ring.fatal().is_some();
            claim(lost || flights().next().is_none(), "a row that is over has no chain", slot)?;
            claim(lost || row.under_way.get() == 0, "a row that is over has no operation", slot)?;
            claim(row.first.get() == NIL, "a row that is over has nothing to send", slot)?;
            let waits = [&self.parked, &self.refused].iter().any(|l| l.list_of(slot).is_some());
            claim(!waits, "a row that is over waits for nothing", slot)?;
            return Ok(());
        }
        let active = flying.wrapping_add(stranded) == 1;
        claim(row.active.get().is_some() == active, "the active chain is under way", slot)?;
        claim(row.lingering.get() == count(lingering), "chains that linger are counted", slot)?;
        let others = row.under_way.get().wrapping_sub(count(flying));
        claim(others <= 4, "operations are counted", slot)?;
        let armed = u32::from(row.has(flag::ARMED));
        claim(others >= armed, "what is armed is counted", slot)?;
        let waits = row.has(flag::PARKED);
        let listed = self.parked.list_of(slot).is_some();
        claim(!listed || waits, "who is parked knows", slot)?;
        if phase == Phase::Closing {
            claim(row.first.get() == NIL, "a row that ends has nothing to send", slot)?;
            return Ok(());
        }
        let own = self.copies_of(row.first.get());
        let copies = flights()
            .map(|flight| self.copies_of(flight.segments.first.get()))
            .fold(own, u32::wrapping_add);
        claim(row.copies.get() == copies, "the copies of a row are counted", slot)?;
        let waiting = self.length_of(row.first.get()).1;
        let sent = flights()
            .filter(|flight| flight.stage.get() != Stage::Landed)
            .map(|flight| self.length_of(flight.segments.first.get()).1)
            .fold(0, u64::wrapping_add);
        let queued = waiting.wrapping_add(sent);
        claim(row.queued.get() == queued, "the bytes of a queue are counted", slot)?;
        self.audit_wants(slot, row)
    }

    /// What a row should want, it wants, and is in the list.
    fn audit_wants(&self, slot: u32, row: &Row) -> Result<(), (&'static str, u32)> {
        let (wants, listed) = (row.wants.get(), row.listed.get());
        let open = matches!(row.phase.get(), Phase::Open | Phase::Draining);
        if open && row.first.get() != NIL && row.active.get().is_none() {
            claim(wants & want::SEND != 0 && listed, "what waits is wanted to be sent", slot)?;
        }
        let parked = self.parked.list_of(slot).is_some();
        if row.may_receive() && !parked {
            claim(wants & want::RECEIVE != 0 && listed, "who may receive wants to", slot)?;
        }
        if row.phase.get() == Phase::Connecting && !row.has(flag::ARMED) {
            claim(wants & want::CONNECT != 0 && listed, "who connects wants to", slot)?;
        }
        if row.phase.get() == Phase::Listening && !row.has(flag::ARMED | flag::PAUSED) {
            let later = self.starved.get() || row.timer.get().is_some();
            let now = wants & want::ACCEPT != 0 && listed;
            claim(now || later, "who listens wants to accept, now or later", slot)?;
        }
        let pause = row.has(flag::ARMED) && row.has(flag::PAUSED | flag::CROWDED);
        if pause && row.phase.get() == Phase::Open && !row.has(flag::STOPPING) {
            claim(wants & want::PAUSE != 0 && listed, "who pauses wants to stop", slot)?;
        }
        Ok(())
    }

    /// Segments from `index` on that have a buffer of the service.
    fn copies_of(&self, index: u32) -> u32 {
        let all =
            core::iter::successors(self.segments.at(index), |s| self.segments.at(s.next.get()));
        let most = crate::table::wide(self.config.segments);
        count(all.take(most).filter(|s| s.report.get() == Report::Nothing).count())
    }

    /// Segments from `index` on, and their bytes.
    fn length_of(&self, index: u32) -> (u32, u64) {
        let (mut length, mut bytes, mut at) = (0_u32, 0_u64, index);
        while let Some(segment) = self.segments.at(at) {
            length = length.wrapping_add(1);
            bytes = bytes.wrapping_add(u64::from(segment.bytes()));
            if length > self.config.segments {
                break;
            }
            at = segment.next.get();
        }
        (length, bytes)
    }
}

const fn is_list(list: &List) -> bool {
    (list.first.get() == NIL) == (list.last.get() == NIL)
}

pub(super) const fn claim(
    holds: bool,
    what: &'static str,
    slot: u32,
) -> Result<(), (&'static str, u32)> {
    if holds { Ok(()) } else { Err((what, slot)) }
}
