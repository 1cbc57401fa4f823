//! One connection, as the provider knows it: what it is good for, whose it is, and what has come by it that cannot be placed yet.
//!
//! ```text
//!            connect                connected             its hello
//!   Free --------------> Opening ------------> Offered ---------------.
//!    |                                                                v
//!    '-- accepted ----> Accepted -- its hello --> (decision) -------> Up -- goodbye, end of the stream --> Over
//!                                                  |    ^              |
//!                                                  v    |              | disconnect
//!                                                  Held-'              '-------> Leaving -- its end, or too late --> Free
//! ```
//!
//! Whoever opened a connection says hello at once. Whoever accepted it reads that first, decides, and answers with a hello of its
//! own or closes: so a hello that answers is the acceptance, and nobody sends a message before it.

use core::cell::Cell;

use spinwire_layouts::word::{from_usize, low, to_usize, widen};

use super::frame::{Envelope, Framing};
use crate::id::Addr;
use crate::msg::matching::{Claim, Incoming};
use crate::raw::loan::{Loan, LoanPool};
use crate::stream::ConnId;
use crate::time::Instant;

/// What a connection is good for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Stage {
    /// Nobody's.
    Free,
    /// The network is asked to connect it.
    Opening,
    /// It is connected, and its other end has to answer.
    Offered,
    /// Somebody has connected it, and has to say who it is.
    Accepted,
    /// It is known who that is, and not yet whether it is taken.
    Held,
    /// Messages go both ways.
    Up,
    /// Nothing more comes by it. What has come is in the backlog.
    Over,
    /// Given up by this end; waits for the other to do the same.
    Leaving,
}

/// A message whose header has come, and for which there is no place yet.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pending {
    pub(super) length: u32,
    pub(super) envelope: Envelope,
    /// How many of its bytes, which are the first in the backlog, the framing has counted already.
    pub(super) counted: u32,
}

/// A message that is streaming into a receive.
#[derive(Clone, Copy, Debug)]
pub(super) struct Arriving {
    pub(super) claim: Claim,
    pub(super) message: Incoming,
}

pub(in crate::provider) struct Link<'m> {
    pub(super) stage: Cell<Stage>,
    /// The stream, until it is over.
    pub(super) conn: Cell<Option<ConnId>>,
    /// Whose it is.
    pub(super) peer: Cell<Option<Addr>>,
    pub(super) framing: Framing,
    pub(super) pending: Cell<Option<Pending>>,
    pub(super) arriving: Cell<Option<Arriving>>,
    /// Held: the end of the connection that its peer has already was asked for a sign of life.
    pub(super) doubted: Cell<bool>,
    /// Until when it is awaited; `None` until the next look at the clock.
    pub(super) deadline: Cell<Option<Instant>>,
    /// A send was refused for want of credit: since when, and how often credit had come by then.
    pub(super) starved: Cell<Option<(Instant, u32)>>,
    backlog: Cell<Option<Loan<'m>>>,
    /// Where the backlog begins.
    from: Cell<u32>,
}

impl<'m> Link<'m> {
    pub(super) const fn new(framing: Framing) -> Self {
        Self {
            stage: Cell::new(Stage::Free),
            conn: Cell::new(None),
            peer: Cell::new(None),
            framing,
            pending: Cell::new(None),
            arriving: Cell::new(None),
            doubted: Cell::new(false),
            deadline: Cell::new(None),
            starved: Cell::new(None),
            backlog: Cell::new(None),
            from: Cell::new(0),
        }
    }

    /// Whether the other end has yet to do something before there is a deadline no more.
    pub(super) const fn is_awaited(&self) -> bool {
        matches!(
            self.stage.get(),
            Stage::Opening | Stage::Offered | Stage::Accepted | Stage::Held | Stage::Leaving
        )
    }

    /// Since when a send lacks credit of which none has come.
    pub(super) fn starved_since(&self) -> Option<Instant> {
        let (since, returns) = self.starved.get()?;
        let up = self.stage.get() == Stage::Up;
        (up && returns == self.framing.credit_returns()).then_some(since)
    }

    pub(super) fn backlog_len(&self) -> usize {
        let Some(loan) = self.backlog.take() else { return 0 };
        let length = loan.len().saturating_sub(to_usize(widen(self.from.get())));
        self.backlog.set(Some(loan));
        length
    }

    /// Keeps bytes for later. Returns whether there was room.
    pub(super) fn keep(&self, pool: &'m LoanPool<'m>, bytes: &[u8]) -> bool {
        if bytes.is_empty() {
            return true;
        }
        let Some(mut loan) = self.backlog.take().or_else(|| pool.lend()) else { return false };
        let (from, to) = (to_usize(widen(self.from.get())), loan.len());
        let end = to.saturating_add(bytes.len());
        let kept = if end <= loan.capacity() {
            append(&mut loan, to, bytes)
        } else {
            // To the start again.
            let room = loan.room();
            if from <= to && to <= room.len() {
                room.copy_within(from..to, 0);
            }
            self.from.set(0);
            append(&mut loan, to.saturating_sub(from), bytes)
        };
        self.backlog.set(Some(loan));
        kept
    }

    /// What was kept. It has to be given back by [`Link::put_back`].
    pub(super) fn take_backlog(&self) -> Option<(Loan<'m>, usize)> {
        Some((self.backlog.take()?, to_usize(widen(self.from.get()))))
    }

    /// Of the backlog, so many bytes are done with.
    pub(super) fn put_back(&self, loan: Loan<'m>, used: usize) {
        let from = to_usize(widen(self.from.get())).saturating_add(used);
        if from < loan.len() {
            self.from.set(low(from_usize(from)));
            self.backlog.set(Some(loan));
        } else {
            self.from.set(0);
        }
    }

    /// Forgets what has come.
    pub(super) fn forget(&self) {
        self.pending.set(None);
        self.from.set(0);
        drop(self.backlog.take());
    }
}

fn append(loan: &mut Loan<'_>, at: usize, bytes: &[u8]) -> bool {
    let end = at.saturating_add(bytes.len());
    let Some(room) = loan.room().get_mut(at..end) else { return false };
    room.copy_from_slice(bytes);
    loan.set_len(end).is_ok()
}
