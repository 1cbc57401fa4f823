//! Who was just heard is asked in turn, not waited for.
//!
//! A client that has its answer is about to send again. To wait for that costs both ends: sending, the client puts a poll of this ring to the work that is
//! due, in lines that both processors write, and the thread of the ring looks then what there is. To ask costs one entry of a submission that is made
//! anyway, and the client nothing.
//!
//! ```text
//!   Received --> in the line --asked--> bytes ----> Received, and in the line again
//!                     ^           '---> nothing --> in the line again; after some times: waited for, and in the line when heard
//!                     '-----------------------------------'
//! ```
//!
//! The line is worked off from the front, with few asked at once, so that what has come is answered in the order of the line. Were there more, clients
//! would be asked before they can have sent, and would wait for a whole round of the others then.
//!
//! Whoever sends more than a receive takes is no such client: a receive that repeats itself serves that better.
//!
//! Invariants: (1) [`AskLine::asked`] counts the rows that are being asked ([`Row::asked`]); (2) an open row that may receive has a receive under way, wants
//! one, waits for buffers, or stands in the line.

use core::cell::Cell;

use spinwire_layouts::uring::{Sqe, cqe, op, sqe};

use super::arrive::{again, errno};
use super::row::{Phase, Row, flag};
use super::service::{LIST, Streams};
use crate::id::OpTag;
use crate::raw::place::{Bump, Exhausted};
use crate::table::Fifos;
use crate::uring::Enter;

/// Flag of recv(2): `EAGAIN` where nothing is there.
const DONT_WAIT: u32 = 0x40;

/// Who was asked in vain for so much is waited for.
const VAIN_MAX: u8 = 16;
/// A vain question in a turn that had nothing else to do costs nobody anything; in another it costs those who wait.
const VAIN_IDLE: u8 = 1;
const VAIN_BUSY: u8 = 2;

/// Fewest that are asked at once, and the part of all connections that is otherwise.
const ASKED_MIN: u32 = 2;
const ASKED_PART: u32 = 8;

/// Rows that are asked next, the one that was heard first in front.
#[derive(Debug)]
pub(super) struct AskLine<'m> {
    rows: Fifos<'m>,
    /// How many they are: each turn asks.
    waiting: Cell<u32>,
    /// How many are being asked.
    asked: Cell<u32>,
    /// What a vain question counts that was asked with the last submission.
    vain: Cell<u8>,
    /// Somebody was heard since then.
    heard: Cell<bool>,
}

impl<'m> AskLine<'m> {
    pub(super) fn place(bump: &Bump<'m>, conns: u32) -> Result<Self, Exhausted> {
        Ok(Self {
            rows: Fifos::place(bump, conns, 1)?,
            waiting: Cell::new(0),
            asked: Cell::new(0),
            vain: Cell::new(VAIN_IDLE),
            heard: Cell::new(false),
        })
    }

    #[inline(always)]
    pub(super) const fn is_empty(&self) -> bool {
        self.waiting.get() == 0
    }

    pub(super) fn has(&self, slot: u32) -> bool {
        self.rows.list_of(slot).is_some()
    }

    /// Whether it is as long as it is said to be.
    pub(super) fn is_counted(&self) -> bool {
        self.rows.len(LIST) == self.waiting.get()
    }

    /// At the end, unless it is in it.
    fn join(&self, slot: u32) {
        if self.rows.push_back(LIST, slot).is_ok() {
            self.waiting.set(self.waiting.get().saturating_add(1));
        }
    }

    /// In front, where it was.
    fn put_back(&self, slot: u32) {
        if self.rows.push_front(LIST, slot).is_ok() {
            self.waiting.set(self.waiting.get().saturating_add(1));
        }
    }

    fn next(&self) -> Option<u32> {
        let slot = self.rows.pop_front(LIST)?;
        self.waiting.set(self.waiting.get().saturating_sub(1));
        Some(slot)
    }

    pub(super) fn leave(&self, slot: u32) {
        if self.rows.unlink(slot).is_ok() {
            self.waiting.set(self.waiting.get().saturating_sub(1));
        }
    }

    pub(super) const fn asked(&self) -> u32 {
        self.asked.get()
    }
}

impl<E: Enter> Streams<'_, E> {
    /// A receive has ended: whether the row is to be asked next.
    pub(super) fn is_to_ask(&self, (slot, row): (u32, &Row), (res, flags): (i32, u32)) -> bool {
        let was_asked = row.asked.replace(false);
        if was_asked {
            self.line.asked.set(self.line.asked.get().saturating_sub(1));
        }
        let asks = self.config.ask_max > 0 && row.phase.get() == Phase::Open;
        if !asks || !row.may_receive() || row.has(flag::PARKED) {
            return false;
        }
        if res > 0 {
            self.line.heard.set(true);
            row.vain.set(0);
            row.long.set(flags & cqe::SOCK_NONEMPTY != 0);
            if row.long.get() {
                return false;
            }
        } else {
            let vain = row.vain.get().saturating_add(self.line.vain.get());
            self.count(|c| {
                c.vain_asks =
                    c.vain_asks.wrapping_add(u64::from(was_asked && res == -errno::EAGAIN))
            });
            if !was_asked || res != -errno::EAGAIN || vain > VAIN_MAX {
                row.vain.set(0);
                return false;
            }
            row.vain.set(vain);
        }
        self.line.join(slot);
        true
    }

    /// Asks those at the front of the line.
    #[inline(always)]
    pub(super) fn ask(&self) {
        if !self.line.is_empty() {
            self.ask_some();
        }
    }

    #[inline(never)]
    fn ask_some(&self) {
        let is_busy = self.line.heard.replace(false);
        self.line.vain.set(if is_busy { VAIN_BUSY } else { VAIN_IDLE });
        let most = (self.len() / ASKED_PART).max(ASKED_MIN).min(self.config.ask_max);
        let more = most.saturating_sub(self.line.asked.get());
        let given = self.buffers.given();
        for _ in 0..if given == 0 { more } else { more.min(given) } {
            let Some(slot) = self.line.next() else { return };
            let Some(row) = self.row_at(slot) else { return };
            if row.phase.get() != Phase::Open || !row.may_receive() || given == 0 {
                // Whoever lingers is waited for; who is paused, or is received from already, for nothing. Who finds no buffer waits for one like everybody.
                self.want(slot, again(row));
                continue;
            }
            let entry = Self::on(row, op::RECV);
            let question = Sqe {
                flags: entry.flags | sqe::BUFFER_SELECT,
                op_flags: DONT_WAIT,
                buf_index: self.buffers.group(),
                user_data: Self::name(OpTag::Receive, slot, row),
                ..entry
            };
            if self.ring.push(&[question]).is_err() {
                self.line.put_back(slot);
                return;
            }
            self.count(|c| c.asks = c.asks.wrapping_add(1));
            row.set(flag::ARMED);
            row.begin();
            row.asked.set(true);
            self.line.asked.set(self.line.asked.get().saturating_add(1));
        }
    }
}
