//! Connections over streams: how they come to a greeting, and how they end.

use super::frame::FrameFault;
use super::link::{Link, Stage};
use super::port::TcpPort;
use crate::error::{PostError, Retry};
use crate::provider::connect::{Connects, Linked};
use crate::provider::peers::Standing;
use crate::stream::{CloseReason, ConnId};
use crate::time::Nanos;
use crate::uring::Enter;

/// `ECONNREFUSED` of errno(3): nobody listens there.
const NOBODY_LISTENS: CloseReason = CloseReason::Errno(111);
/// `ETIMEDOUT` of errno(3).
const TIMED_OUT: u32 = 110;

/// The number of errno(3) that says why a stream has ended; 0 where none does.
pub(super) const fn errno_of(reason: Option<CloseReason>) -> u32 {
    match reason {
        Some(CloseReason::Errno(errno)) => errno.unsigned_abs(),
        Some(CloseReason::ConnectTimeout | CloseReason::IdleTimeout | CloseReason::SendTimeout) => {
            TIMED_OUT
        }
        Some(
            CloseReason::Closed
            | CloseReason::Aborted
            | CloseReason::Torn
            | CloseReason::Garbled
            | CloseReason::RingLost,
        )
        | None => 0,
    }
}

impl<'m, E: Enter> TcpPort<'m, E> {
    pub(super) fn free_link(&self) -> Option<(u32, &'m Link<'m>)> {
        (0..u32::MAX).zip(self.links).find(|(_, link)| link.stage.get() == Stage::Free)
    }

    /// The link of a stream.
    #[inline]
    pub(super) fn link_at(&self, conn: ConnId) -> Option<(u32, &'m Link<'m>)> {
        let number = u32::try_from(self.streams.context(conn).ok()?).ok()?.checked_sub(1)?;
        let link = self.link(number)?;
        (link.conn.get() == Some(conn)).then_some((number, link))
    }

    /// A link for a stream that begins.
    pub(super) fn begin(&self, at: u32, link: &'m Link<'m>, conn: ConnId, stage: Stage) {
        link.framing.reset();
        link.stage.set(stage);
        link.conn.set(Some(conn));
        link.peer.set(None);
        link.doubted.set(false);
        link.starved.set(None);
        self.expect(link);
        let _there = self.streams.set_context(conn, u64::from(at).wrapping_add(1));
    }

    /// A connection has come.
    pub(super) fn accepted(&self, conn: ConnId) {
        match self.free_link() {
            Some((at, link)) => self.begin(at, link, conn, Stage::Accepted),
            None => {
                let _there = self.streams.abort(conn);
            }
        }
    }

    /// The other end has said who it is.
    pub(super) fn greeted(&self, at: u32, link: &'m Link<'m>) {
        let Some(greeting) = link.framing.greeting() else { return };
        link.framing.send_evenly();
        if link.stage.get() == Stage::Offered {
            self.answered(link, &greeting);
        } else {
            link.stage.set(Stage::Held);
            self.settle_held(at, link);
        }
    }

    /// The other end sends no more, or the stream is over.
    pub(super) fn ended(&self, at: u32, link: &'m Link<'m>, reason: Option<CloseReason>) {
        if reason.is_some() {
            link.conn.set(None);
        }
        let code = errno_of(reason);
        match link.stage.get() {
            Stage::Opening | Stage::Offered => {
                let refused = reason.is_none() || reason == Some(NOBODY_LISTENS);
                let standing = if refused { Standing::Refused } else { Standing::Gone };
                match link.peer.get() {
                    Some(addr) => self.lose_for(addr, standing, code),
                    None => self.abort(link),
                }
            }
            Stage::Up => self.over(link, code),
            Stage::Accepted | Stage::Held | Stage::Leaving | Stage::Free => self.close(link),
            Stage::Over => {}
        }
        if link.stage.get() == Stage::Free {
            self.drop_current(at);
        }
    }

    /// Nothing more comes by a link that was up, for the reason of that number.
    pub(super) fn over(&self, link: &'m Link<'m>, code: u32) {
        self.stop(link);
        if let Some(addr) = link.peer.get() {
            self.lose_for(addr, Standing::Gone, code);
        }
    }

    /// Closes the stream of a link; what has come stays.
    pub(super) fn stop(&self, link: &'m Link<'m>) {
        self.unclaim(link);
        link.stage.set(Stage::Over);
        if let Some(conn) = link.conn.take() {
            let _there = self.streams.set_context(conn, 0);
            let _there = self.streams.close(conn);
        }
        self.resting.set(true);
        self.unsettled.set(true);
    }

    pub(super) fn unclaim(&self, link: &Link<'m>) {
        if let Some(arriving) = link.arriving.take() {
            self.queues.matcher().unclaim(&arriving.claim);
        }
    }

    /// What came by a link is nonsense.
    pub(super) fn cut(&self, at: u32, link: &'m Link<'m>, fault: FrameFault) {
        self.last_fault.set(Some(fault));
        self.count(|c| c.corrupt = c.corrupt.wrapping_add(1));
        let peer = link.peer.get();
        let is_of_another_build = matches!(fault, FrameFault::Version { .. } | FrameFault::Hash);
        match link.conn.get() {
            Some(conn) if is_of_another_build && link.stage.get() == Stage::Accepted => {
                // So that the other end can say what differs, too.
                let _said = self.streams.write(conn, &self.greeting.to_wire());
                self.close(link);
            }
            Some(_) | None => self.abort(link),
        }
        self.drop_current(at);
        if let Some(addr) = peer {
            self.lose(addr, Standing::Corrupt);
        }
    }

    /// Frees a link, and ends its stream at once.
    pub(super) fn abort(&self, link: &'m Link<'m>) {
        if let Some(conn) = link.conn.take() {
            let _there = self.streams.set_context(conn, 0);
            let _there = self.streams.abort(conn);
        }
        self.release(link);
    }

    /// Frees a link, and closes its stream.
    pub(super) fn close(&self, link: &'m Link<'m>) {
        if let Some(conn) = link.conn.take() {
            let _there = self.streams.set_context(conn, 0);
            let _there = self.streams.close(conn);
        }
        self.release(link);
    }

    fn release(&self, link: &Link<'m>) {
        self.unclaim(link);
        link.forget();
        link.peer.set(None);
        link.stage.set(Stage::Free);
    }

    /// Looks after the links that wait for something. Returns whether there are any.
    pub(super) fn settle_links(&self) -> bool {
        let mut again = false;
        for (at, link) in (0..u32::MAX).zip(self.links) {
            if link.stage.get() == Stage::Up {
                self.give_credit(link);
                again |= self.expire_starved(link);
                continue;
            }
            if link.stage.get() == Stage::Over && !link.has_rest() && !self.is_current(at) {
                // Of its row there is nothing left but its end.
                self.release(link);
            }
            if !link.is_awaited() {
                continue;
            }
            again = true;
            if link.stage.get() == Stage::Held {
                self.settle_held(at, link);
            }
            if !link.is_awaited() {
                continue;
            }
            if self.is_late(link) && self.streams.has_caught_up() {
                self.expire(at, link);
            }
        }
        again
    }

    /// Gives up a peer that has returned no credit for too long. Whether the link has to be looked at again.
    fn expire_starved(&self, link: &'m Link<'m>) -> bool {
        let Some(since) = link.starved_since() else {
            link.starved.set(None);
            return false;
        };
        let limit = since.saturating_add(self.config.credit_timeout);
        if limit > self.now.get() || !self.streams.has_caught_up() {
            return true;
        }
        self.count(|c| c.expired = c.expired.wrapping_add(1));
        if let Some(addr) = link.peer.get() {
            self.lose_for(addr, Standing::Gone, TIMED_OUT);
        }
        false
    }

    /// A send was refused.
    #[cold]
    pub(super) fn note_refusal(&self, link: &Link<'m>, refused: PostError) {
        let lacks = refused == PostError::Retry(Retry::NoCredit);
        if lacks && self.config.credit_timeout != Nanos::MAX && link.starved_since().is_none() {
            link.starved.set(Some((self.now.get(), link.framing.credit_returns())));
            self.unsettled.set(true);
        }
    }
}
