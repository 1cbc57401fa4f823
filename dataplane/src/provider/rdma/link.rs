//! One connection: its queue pair, what is posted on it, and credit in both directions.
//!
//! ```text
//!   Free -- connect --> Asked -- the host has connected it --> Offered -- its hello --.
//!    |                                                                                v
//!    '-- the host has accepted it --> Accepted -- its hello --> (decision) --------> Up -- goodbye, failure, loss --> Over
//!                                                                |    ^               |                                |
//!                                                                v    |               '-- disconnect --> Leaving       |
//!                                                                Held-'                                     |          |
//!   Free <-- the host has destroyed the queue pair -- Closing <---------------------------------------------'----------'
//! ```
//!
//! Both queues of the pair are lists in the order of posting. A completion is taken only if it is one that may come next; any other
//! ends this connection and no other. Requests are numbered on from one queue pair of a row to the next, so that a completion of an earlier
//! one is seen to be late, though the device has given the same number to both: it ends nothing.
//!
//! Invariants:
//! 1. Receives that are posted, hold a piece that was not read, or are to be posted sum up to [`RdmaConfig::receives`](super::RdmaConfig::receives).
//! 2. `credit` and `control_credit` are at most what the other end has posted, so that its device always finds a receive.
//! 3. A slot is written only while the device does not have it: slot `n` of the sends is that of request `n` modulo their number.

use core::cell::Cell;

use super::LinkFigures;
use super::memory::{Slots, short};
use super::piece::{self, Content, Grant};
use crate::error::{Fatal, PostError};
use crate::id::{Addr, OpTag, WrId};
use crate::provider::tcp::frame::Greeting;
use crate::raw::place::{Bump, Exhausted};
use crate::shm::lane::Envelope;
use crate::table::{Fronted, Ring};
use crate::time::Instant;
use crate::verbs::{Destination, PairId, QueuePair, RemotePlace, SendRequest, Verb};

/// Receives for control: hello, credit, goodbye. They are never held up by messages that nobody has asked for.
pub(super) const CONTROL_RECEIVES: u32 = 4;

/// What a connection is good for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Stage {
    /// Nobody's.
    Free,
    /// The host is to connect it.
    Asked,
    /// It is connected, and its other end has to answer.
    Offered,
    /// Somebody has connected it, and has to say who it is.
    Accepted,
    /// It is known who that is, and not yet whether it is taken.
    Held,
    /// Messages go both ways.
    Up,
    /// Nothing more comes by it. What has come is in its slots.
    Over,
    /// Given up by this end; its last sends are under way.
    Leaving,
    /// Given up; the host is to destroy the queue pair.
    Closing,
}

/// A send, as long as the device has it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sent {
    /// Who is told when it is done.
    pub(super) done: Done,
    /// Whether a completion comes of it though it does not fail.
    pub(super) is_signaled: bool,
    /// Whether a message ends with it.
    pub(super) is_last: bool,
}

/// Who is told when a send is done.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Done {
    /// Nobody: its bytes were copied.
    Nobody,
    /// Nobody, but it is to be known here.
    Known,
    /// Whoever has posted the buffer that it was sent from.
    Sender(WrId),
    /// Whoever has posted a one-sided operation, of so many bytes.
    Initiator(WrId, u32),
}

/// Where a send goes.
#[derive(Clone, Copy, Debug)]
pub(super) enum Aim {
    /// To the other end.
    Connected,
    /// To memory of the other end.
    Memory(RemotePlace),
    /// To whoever that is.
    Datagram(Destination),
}

/// A piece that has come.
#[derive(Clone, Copy, Debug)]
pub(super) struct Piece {
    pub(super) slot: u32,
    /// Bytes of the header in front of it.
    pub(super) start: u32,
    /// Pieces of the message that begins with it; 0 where it goes on with one.
    pub(super) pieces: u32,
    /// Bytes of that message.
    pub(super) length: u32,
    pub(super) envelope: Envelope,
}

/// Sizes of both directions of a connection.
#[derive(Clone, Copy, Debug)]
pub(super) struct Depths {
    /// Receives for messages, and a quarter of them.
    pub(super) slots: u32,
    pub(super) quarter: u32,
    /// Receives in all.
    pub(super) receives: u32,
    /// Sends; a power of two.
    pub(super) sends: u32,
}

/// A connection.
pub(in crate::provider) struct Link<'m, Q> {
    pub(super) stage: Cell<Stage>,
    /// Which use of this row it is.
    pub(super) life: Cell<u32>,
    pair: Cell<Option<Q>>,
    /// There is one.
    is_equipped: Cell<bool>,
    qp_num: Cell<u32>,
    pair_id: Cell<PairId>,
    /// The host has the queue pair and was not yet heard to have destroyed it.
    pub(super) is_with_host: Cell<bool>,
    /// The host was asked to connect it.
    pub(super) is_asked: Cell<bool>,
    /// Whose it is.
    pub(super) peer: Cell<Option<Addr>>,
    pub(super) greeting: Cell<Option<Greeting>>,
    /// Bytes of a message that the other end takes, and of one that needs no header, which either end takes.
    pub(super) longest: Cell<u32>,
    pub(super) brief_bytes: Cell<u32>,
    pub(super) doubted: Cell<bool>,
    /// The last send by which the other end's device was asked for an answer.
    pub(super) probe: Cell<Option<u32>>,
    /// Since when nothing has come of the other end, and how much had come by then.
    pub(super) watched: Cell<Option<(Instant, u32)>>,
    /// Until when it is awaited; `None` until the next look at the clock.
    pub(super) deadline: Cell<Option<Instant>>,
    /// Why nothing more goes or comes.
    pub(super) failed: Cell<Option<Fatal>>,
    /// The status of the first work completion that has failed; 0 while none has.
    pub(super) error: Cell<u32>,
    /// In the list of those with something to read, and in that of those with something to publish.
    pub(super) is_ready: Cell<bool>,
    pub(super) is_dirty: Cell<bool>,
    /// Its oldest message has to stay in its slots until somebody asks for it.
    pub(super) is_stalled: Cell<bool>,
    pub(super) depths: Depths,
    pub(super) first_slot: u32,
    /// Bytes of a piece, the same for both ends.
    pub(super) piece_bytes: Cell<u32>,
    pub(super) peer_slots: Cell<u32>,
    pub(super) sends: Ring<'m, Sent>,
    /// The number of the oldest send that the device has.
    pub(super) oldest_send: Cell<u32>,
    pub(super) staged: Cell<u32>,
    pub(super) unsignaled: Cell<u32>,
    pub(super) sequence_out: Cell<u32>,
    pub(super) credit: Cell<u32>,
    pub(super) control_credit: Cell<u32>,
    /// What its sends and its receives are called, their numbers aside.
    pub(super) ids: Cell<(u64, u64)>,
    pub(super) receives: Ring<'m, u32>,
    pub(super) oldest_receive: Cell<u32>,
    /// The first numbers of this queue pair, of sends and of receives: those before were of others.
    first: Cell<(u32, u32)>,
    /// Slots of receives that are done with.
    pub(super) released: Ring<'m, u32>,
    /// How many of them were for messages and for control, and those that the device has and the other end does not know of.
    pub(super) reposted: Cell<(u32, u32)>,
    pub(super) due: Cell<(u32, u32)>,
    pub(super) was_due: Cell<bool>,
    pub(super) arrived: Fronted<'m, Piece>,
    pub(super) sequence_in: Cell<u32>,
    /// Bytes of the message that is coming in whose pieces have not come.
    pub(super) body_left: Cell<u32>,
}

impl<'m, Q: QueuePair> Link<'m, Q> {
    pub(super) fn place(
        bump: &Bump<'m>,
        depths: Depths,
        first_slot: u32,
    ) -> Result<Self, Exhausted> {
        let sent = Sent { done: Done::Nobody, is_signaled: false, is_last: false };
        let piece =
            Piece { slot: 0, start: 0, pieces: 0, length: 0, envelope: Envelope::default() };
        Ok(Self {
            stage: Cell::new(Stage::Free),
            life: Cell::new(0),
            pair: Cell::new(None),
            is_equipped: Cell::new(false),
            qp_num: Cell::new(0),
            pair_id: Cell::new(PairId::from_raw(0)),
            is_with_host: Cell::new(false),
            is_asked: Cell::new(false),
            peer: Cell::new(None),
            greeting: Cell::new(None),
            longest: Cell::new(0),
            brief_bytes: Cell::new(0),
            doubted: Cell::new(false),
            probe: Cell::new(None),
            watched: Cell::new(None),
            deadline: Cell::new(None),
            failed: Cell::new(None),
            error: Cell::new(0),
            is_ready: Cell::new(false),
            is_dirty: Cell::new(false),
            is_stalled: Cell::new(false),
            depths,
            first_slot,
            piece_bytes: Cell::new(0),
            peer_slots: Cell::new(0),
            sends: Ring::place(bump, depths.sends, sent)?,
            oldest_send: Cell::new(0),
            staged: Cell::new(0),
            unsignaled: Cell::new(0),
            sequence_out: Cell::new(0),
            credit: Cell::new(0),
            control_credit: Cell::new(0),
            ids: Cell::new((0, 0)),
            receives: Ring::place(bump, depths.receives, 0)?,
            oldest_receive: Cell::new(0),
            first: Cell::new((0, 0)),
            released: Ring::place(bump, depths.receives, 0)?,
            reposted: Cell::new((0, 0)),
            due: Cell::new((0, 0)),
            was_due: Cell::new(false),
            arrived: Fronted::place(bump, depths.slots, piece)?,
            sequence_in: Cell::new(0),
            body_left: Cell::new(0),
        })
    }

    /// A connection begins, without a queue pair so far. Numbers of work requests go on, so that what is late is seen to be.
    pub(super) fn begin(&self, stage: Stage) {
        self.stage.set(stage);
        self.life.set(self.life.get().wrapping_add(1));
        self.is_asked.set(false);
        self.peer.set(None);
        self.greeting.set(None);
        self.longest.set(0);
        self.brief_bytes.set(0);
        self.doubted.set(false);
        self.probe.set(None);
        self.watched.set(None);
        self.failed.set(None);
        self.error.set(0);
        self.is_stalled.set(false);
        self.piece_bytes.set(0);
        self.peer_slots.set(0);
        self.staged.set(0);
        self.unsignaled.set(0);
        self.sequence_out.set(0);
        self.sequence_in.set(0);
        self.credit.set(0);
        // The hello of either end takes one.
        self.control_credit.set(CONTROL_RECEIVES);
        self.reposted.set((0, 0));
        self.due.set((0, 0));
        self.was_due.set(false);
        self.body_left.set(0);
        self.arrived.clear();
    }

    /// Takes its queue pair, and posts its receives. Where that fails, some of them may be posted: so the pair stays here until it is destroyed.
    pub(super) fn equip(
        &self,
        at: u32,
        pair: Q,
        slots: &Slots<'m, Q::Key>,
    ) -> Result<(), PostError> {
        self.qp_num.set(pair.qp_num());
        self.pair_id.set(pair.id());
        self.name_requests(at);
        self.oldest_receive.set(self.oldest_receive.get().wrapping_add(self.receives.len()));
        self.receives.clear();
        self.released.clear();
        self.first.set((self.oldest_send.get(), self.oldest_receive.get()));
        self.pair.set(Some(pair));
        self.is_equipped.set(true);
        let all = self.first_slot..self.first_slot.saturating_add(self.depths.receives);
        for slot in all {
            self.post_receive(slot, slots)?;
        }
        self.ring_receives(self.depths.receives)
    }

    /// The queue pair, for the host to destroy.
    pub(super) fn hand_out(&self) -> Option<Q> {
        let pair = self.pair.take()?;
        self.is_equipped.set(false);
        self.is_with_host.set(true);
        Some(pair)
    }

    /// The port goes: a goodbye, where the connection is up.
    pub(super) fn part_for_good(&self, slots: &Slots<'m, Q::Key>) {
        let header = piece::write(self.sequence_out.get(), Content::Goodbye, Grant::default());
        let may = self.stage.get() == Stage::Up && self.failed.get().is_none();
        let has_credit = self.control_credit.get() > 0 || self.credit.get() > 0;
        if may && has_credit && !self.sends.is_full() {
            let slot = self.next_slot();
            slots.write(slot, 0, &header);
            let segments = [slots.segment(slot, short(header.len()))];
            let nobody = (Done::Nobody, false);
            let _said = self.stage_send((Verb::Send, Aim::Connected), &segments, nobody);
        }
        let _lost = self.publish();
    }

    #[inline]
    pub(super) const fn has_pair(&self) -> bool {
        self.is_equipped.get()
    }

    #[inline(always)]
    pub(super) fn with_pair<R>(&self, use_it: impl FnOnce(&Q) -> R) -> Option<R> {
        let pair = self.pair.take()?;
        let result = use_it(&pair);
        self.pair.set(Some(pair));
        Some(result)
    }

    /// Hands a work request to the queue pair. Not through a closure, which would be a function of its own: what is known of this request is not
    /// asked again.
    #[inline(always)]
    pub(super) fn hand_over(&self, request: &SendRequest<'_, Q::Key>) -> Result<(), PostError> {
        let pair = self.pair.take().ok_or(Fatal::QueueError)?;
        let posted = pair.post_send(request);
        self.pair.set(Some(pair));
        posted
    }

    /// Whether the host has that queue pair of this connection.
    pub(super) fn is_out(&self, pair: PairId) -> bool {
        self.is_with_host.get() && self.pair_id.get() == pair
    }

    /// Destroys the queue pair, if it is here. One of which that is not certain counts as the host's.
    pub(super) fn end_pair(&self) {
        self.is_equipped.set(false);
        if self.pair.take().is_some_and(|pair| !pair.end()) {
            self.is_with_host.set(true);
        }
    }

    /// Whether a completion of that queue pair may be one of this connection.
    #[inline(always)]
    pub(super) const fn is_of(&self, qp_num: u32) -> bool {
        self.qp_num.get() == qp_num && (self.has_pair() || self.is_with_host.get())
    }

    /// Whether a completion of that number is late: of a queue pair that had this one's number before, whose completions the device has kept.
    pub(super) fn is_of_another(&self, op: OpTag, number: u32) -> bool {
        let (send, receive) = self.first.get();
        let first = if op == OpTag::Send { send } else { receive };
        first.wrapping_sub(number).wrapping_sub(1) < 1 << 31
    }

    /// Whether the other end has yet to do something before there is a deadline no more.
    pub(super) const fn is_awaited(&self) -> bool {
        matches!(
            self.stage.get(),
            Stage::Asked | Stage::Offered | Stage::Accepted | Stage::Held | Stage::Leaving
        )
    }

    /// Whether nothing is to be waited for before it can be used anew.
    pub(super) const fn is_bare(&self) -> bool {
        !self.is_with_host.get() && !self.has_pair()
    }

    pub(super) fn fail(&self, fatal: Fatal) {
        if self.failed.get().is_none() {
            self.failed.set(Some(fatal));
        }
    }

    pub(super) const fn figures(&self) -> LinkFigures {
        LinkFigures {
            credit: self.credit.get(),
            due: self.due.get().0.saturating_add(self.reposted.get().0),
            unread: self.arrived.len(),
            sends: self.sends.len(),
        }
    }

    /// What is due to the other end.
    #[inline]
    pub(super) const fn grant(&self) -> Grant {
        let (messages, control) = self.due.get();
        Grant { messages, control }
    }
}
