//! Messages out of the slots into receives.

use heapless::VecView;
use spinwire_layouts::word::{to_usize, widen};

use super::link::{Link, Piece, Stage};
use super::port::RdmaPort;
use crate::id::Addr;
use crate::msg::matching::{Incoming, Verdict};
use crate::provider::connect::Connects;
use crate::provider::queues::Found;
use crate::provider::{Cqe, Select, Source, Waiting};
use crate::raw::region::Registrar;
use crate::shm::lane::Envelope;
use crate::table::NIL;
use crate::verbs::{CompletionQueue, QueuePair};

/// Messages taken from one connection before the next has its turn.
const LINK_QUOTA: u32 = 32;

impl<Q: QueuePair> Link<'_, Q> {
    /// Whether its messages can be handed out as they have come.
    #[inline]
    pub(super) fn gives(&self) -> bool {
        self.stage.get() == Stage::Up && !self.is_stalled.get()
    }

    /// The oldest piece and who has sent it, where it is a message without a header of a connection that has not failed.
    #[inline(always)]
    fn brief_front(&self) -> Option<(Piece, Addr)> {
        let piece = self.arrived.front()?;
        let is_brief = piece.start == 0 && piece.pieces == 1;
        if is_brief && self.failed.get().is_none() { Some((piece, self.peer.get()?)) } else { None }
    }
}

/// How a look at a connection ended.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Look {
    /// All that has come whole is taken.
    Drained,
    /// The next message has to wait: nobody asked for it and the unexpected queue does not take it.
    Stalled,
    /// There is more.
    More,
}

impl<'m, Q: QueuePair, C: CompletionQueue, X: Registrar> RdmaPort<'m, Q, C, X> {
    /// Hands out what has come.
    #[inline]
    pub(super) fn deliver(&self, out: &mut VecView<Cqe>) {
        let count = self.ready.len();
        if self.went_round.replace(true)
            && count > 1
            && let Some(first) = self.ready.pop()
        {
            // Where all have to wait for room, another is the first to find some.
            let _there = self.ready.push(first);
        }
        for _ in 0..count {
            if out.is_full() {
                self.went_round.set(false);
                return;
            }
            let Some(at) = self.ready.pop() else { return };
            let Some(link) = self.link(at) else { continue };
            link.is_ready.set(false);
            let look = self.drain((at, link), out);
            link.is_stalled.set(look == Look::Stalled);
            if look != Look::Drained {
                self.make_readable(at, link);
            } else if link.stage.get() == Stage::Over {
                self.unsettled.set(true);
            }
        }
    }

    /// Whether one link alone has something to read, which can be handed out message by message as far as is known.
    #[inline(always)]
    pub(super) const fn is_lone(&self) -> bool {
        self.ready.is_one() && !self.is_intricate.get()
    }

    /// The completion of the oldest message of the only link that has any, without a batch. Where it takes more than that, the next poll
    /// has to see to it.
    #[inline(never)]
    pub(super) fn take_lone(&self, at: u32) -> Option<Cqe> {
        let is_plain = !self.queues.matcher().wants_many();
        if is_plain
            && let Some(link) = self.link(at)
            && link.gives()
            && link.arrived.is_one()
            && let Some((piece, source)) = link.brief_front()
        {
            let length = to_usize(widen(piece.length));
            let message = Incoming { source, envelope: Envelope::default(), length };
            // A verdict that is not followed has changed nothing, and is asked for again.
            match self.queues.matcher().judge(&message) {
                Verdict::Deliver(mut landing) => {
                    if let Some(bytes) = landing.place() {
                        self.slots.read(piece.slot, 0, bytes);
                        let _gone = (link.arrived.pop_lone(), self.ready.pop_lone());
                        link.is_ready.set(false);
                        self.lone_at.set(NIL);
                        if link.release_message(piece.slot) {
                            self.soil(at, link);
                        }
                        return Some(self.queues.matcher().land(&landing, &message));
                    }
                }
                Verdict::GivenBack(cqe) => return Some(cqe),
                Verdict::Unasked => {}
            }
        }
        self.take_any_lone(at)
    }

    /// The same, whatever message it is.
    #[inline(never)]
    fn take_any_lone(&self, at: u32) -> Option<Cqe> {
        // What was posted or given up since the look.
        let is_plain = !self.queues.matcher().wants_many();
        let link = self.link(at).filter(|link| is_plain && link.gives());
        let taken = link.and_then(|link| self.take_front((at, link)));
        if taken.is_none() {
            self.lone_at.set(NIL);
            self.is_intricate.set(true);
        }
        taken
    }

    #[inline]
    fn take_front(&self, (at, link): (u32, &'m Link<'m, Q>)) -> Option<Cqe> {
        let (piece, message) = self.front(link)?;
        match self.queues.matcher().judge(&message) {
            Verdict::Deliver(mut landing) => {
                match landing.place() {
                    Some(bytes) => self.copy_front(link, piece, bytes),
                    // Copies, so that neither need lie in memory for the other messages.
                    None => self.scatter(link, piece, (landing, message)),
                }
                self.drop_front((at, link), piece);
                if link.arrived.is_empty() || self.front(link).is_none() {
                    let _it = self.ready.pop();
                    link.is_ready.set(false);
                    self.lone_at.set(NIL);
                }
                Some(self.queues.matcher().land(&landing, &message))
            }
            Verdict::GivenBack(cqe) => Some(cqe),
            Verdict::Unasked => None,
        }
    }

    /// The oldest message of a link, where it has come whole.
    #[inline(always)]
    fn front(&self, link: &Link<'m, Q>) -> Option<(Piece, Incoming)> {
        let source = link.peer.get()?;
        let piece = link.arrived.front()?;
        let length = to_usize(widen(piece.length));
        let message = Incoming { source, envelope: piece.envelope, length };
        let is_whole = piece.pieces == 1 || link.arrived.len() >= piece.pieces;
        is_whole.then_some((piece, message))
    }

    #[inline]
    fn drain(&self, (at, link): (u32, &'m Link<'m, Q>), out: &mut VecView<Cqe>) -> Look {
        for _ in 0..LINK_QUOTA {
            let Some((piece, message)) = self.front(link) else {
                if link.stage.get() == Stage::Over {
                    // The rest of it will never come.
                    link.arrived.clear();
                }
                return Look::Drained;
            };
            match self.queues.find_receive(&message, out) {
                Found::Receive(mut landing) => {
                    match landing.place() {
                        Some(bytes) => self.copy_front(link, piece, bytes),
                        None => self.scatter(link, piece, (landing, message)),
                    }
                    self.drop_front((at, link), piece);
                    self.queues.land(&landing, &message, out);
                }
                Found::Nobody => {
                    let copy = |bytes: &mut [u8]| self.copy_front(link, piece, bytes);
                    if !self.queues.matcher().stash(&message, copy) {
                        return Look::Stalled;
                    }
                    self.drop_front((at, link), piece);
                }
                Found::NoRoom => return Look::More,
            }
        }
        Look::More
    }

    /// The first bytes of the oldest message of a link, as many as fit into `bytes`.
    #[inline(always)]
    fn copy_front(&self, link: &Link<'m, Q>, first: Piece, bytes: &mut [u8]) {
        let begins = to_usize(widen(first.start));
        if first.pieces == 1 {
            self.slots.read(first.slot, begins, bytes);
            return;
        }
        let piece = to_usize(widen(link.piece_bytes.get()));
        let room = piece.saturating_sub(begins).min(bytes.len());
        let Some((start, rest)) = bytes.split_at_mut_checked(room) else { return };
        self.slots.read(first.slot, begins, start);
        for (skip, part) in (1..first.pieces).zip(rest.chunks_mut(piece.max(1))) {
            if let Some(Piece { slot, .. }) = link.arrived.peek(skip) {
                self.slots.read(slot, 0, part);
            }
        }
    }

    #[inline(always)]
    fn drop_front(&self, (at, link): (u32, &'m Link<'m, Q>), first: Piece) {
        if first.pieces == 1 {
            let _it = link.arrived.pop();
            return self.release((at, link), first.slot, false);
        }
        for _ in 0..first.pieces {
            if let Some(Piece { slot, .. }) = link.arrived.pop() {
                self.release((at, link), slot, false);
            }
        }
    }

    /// Of the messages that have to stay in their slots, one that such a receive would take.
    pub(super) fn peek_in_slots(&self, from: Source, select: Select) -> Option<Waiting> {
        self.all_links().filter(|(_, link)| link.is_stalled.get()).find_map(|(_, link)| {
            let (_, Incoming { source, envelope, length }) = self.front(link)?;
            let (tag, immediate) = (envelope.tag, envelope.immediate);
            let meant = from.takes(source) && select.takes(tag);
            meant.then_some(Waiting { source, length, tag, immediate })
        })
    }
}
