//! Connections: how they begin and end, and who is at their other end.
//!
//! ```text
//!   lower name                                     higher name
//!     connects, says hello   ------- 1 ----->       its own is under way: answers, and gives up its own
//!     holds it               <------ 2 ------       connects, says hello
//!     hello: 1 is up         <------ 1 ------
//!     end of 2               <------ 2 ------
//! ```

use super::frame::{FrameFault, Greeting};
use super::link::{Link, Stage};
use super::peers::Row;
use super::port::TcpPort;
use crate::error::{PostError, Retry};
use crate::id::{Addr, Name};
use crate::provider::peers::Standing;
use crate::provider::{EndpointType, Event};
use crate::stream::{CloseReason, ConnId};
use crate::table::wide;
use crate::time::Nanos;
use crate::uring::Enter;

/// `ECONNREFUSED` of errno(3): nobody listens there.
const NOBODY_LISTENS: CloseReason = CloseReason::Errno(111);

/// What becomes of a connection that somebody has opened.
enum Answer<'m> {
    /// It is that of this row; whether the row is new.
    Take(u32, &'m Row, bool),
    /// That is not known yet.
    Hold,
    /// It is not taken.
    Refuse,
}

impl<'m, E: Enter> TcpPort<'m, E> {
    #[inline]
    pub(super) fn link(&self, at: u32) -> Option<&'m Link<'m>> {
        self.links.get(wide(at))
    }

    pub(super) fn free_link(&self) -> Option<(u32, &'m Link<'m>)> {
        (0..u32::MAX).zip(self.links).find(|(_, link)| link.stage.get() == Stage::Free)
    }

    pub(super) fn links_of(
        &self,
        addr: Addr,
    ) -> impl Iterator<Item = (u32, &'m Link<'m>)> + use<'m, E> {
        (0..u32::MAX).zip(self.links).filter(move |(_, link)| link.peer.get() == Some(addr))
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

    /// The other end has to do something within the time for it. That begins with the next look at the clock: the last may be long ago.
    fn expect(&self, link: &Link<'m>) {
        link.deadline.set(None);
        self.unsettled.set(true);
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

    /// The other end of a connection that this end has opened takes it.
    fn answered(&self, link: &'m Link<'m>, greeting: &Greeting) {
        let Some(addr) = link.peer.get() else { return };
        let Ok(row) = self.peers.find(addr) else { return };
        if row.name.get() != Some(greeting.name) || greeting.kind != self.greeting.kind {
            // Somebody else listens there.
            self.lose(addr, Standing::Refused);
            return;
        }
        link.stage.set(Stage::Up);
        self.rise(addr, row, self.info.endpoint_type == EndpointType::Msg);
    }

    /// A connection is up.
    fn rise(&self, addr: Addr, row: &Row, tell: bool) {
        row.state.set_standing(Standing::Up);
        self.unsettled.set(true);
        self.count(|c| c.connected = c.connected.wrapping_add(1));
        if tell {
            // There was room when the connection was begun; who takes no note of events for so long misses it.
            let _told = self.queues.tell(Event::Connected(addr));
        }
    }

    /// Decides about a connection that somebody has opened, as far as that can be.
    pub(super) fn settle_held(&self, at: u32, link: &'m Link<'m>) {
        let Some(greeting) = link.framing.greeting() else { return };
        match self.answer(link, &greeting) {
            Answer::Take(slot, row, is_new) => self.welcome((at, link), (slot, row), is_new),
            Answer::Hold => self.unsettled.set(true),
            Answer::Refuse => {
                self.count(|c| c.refused = c.refused.wrapping_add(1));
                self.close(link);
            }
        }
    }

    fn answer(&self, link: &'m Link<'m>, greeting: &Greeting) -> Answer<'m> {
        if greeting.kind != self.greeting.kind {
            return Answer::Refuse;
        }
        let name = greeting.name;
        let Some((slot, row)) = self.row_of(&name) else { return self.newcomer(&name) };
        match row.state.standing() {
            Standing::Known => Answer::Take(slot, row, false),
            Standing::Connecting if name == self.greeting.name => Answer::Take(slot, row, false),
            Standing::Connecting if is_lower(&self.greeting.name, &name) => Answer::Hold,
            Standing::Connecting => Answer::Take(slot, row, false),
            Standing::Up => {
                self.doubt(row, link);
                Answer::Hold
            }
            Standing::Vacant
            | Standing::Gone
            | Standing::Refused
            | Standing::Corrupt
            | Standing::Past => Answer::Refuse,
        }
    }

    /// Somebody has connected whose connection is up: he has given this one or that one up, and does not live where that one
    /// leads if he has begun anew. The answer to a sign of life says which.
    fn doubt(&self, row: &Row, held: &Link<'m>) {
        let Some(link) = self.link(row.link.get()) else { return };
        let Some(conn) = link.conn.get() else { return };
        if held.doubted.get() {
            return;
        }
        if self.streams.write_control(conn, || link.framing.sign_of_life()) {
            held.doubted.set(true);
        }
    }

    fn newcomer(&self, name: &Name) -> Answer<'m> {
        let connects = self.info.endpoint_type == EndpointType::Msg;
        if connects && self.peers.has_peer() {
            // A port whose peer has gone is free for another as soon as that was taken note of.
            let all_lost = self.peers.in_use().all(|(_, row)| row.state.is_lost());
            return if all_lost { Answer::Hold } else { Answer::Refuse };
        }
        if self.queues.room_for_events() < 2 {
            return Answer::Hold;
        }
        match self.enter(name) {
            Ok((slot, row)) => Answer::Take(slot, row, true),
            Err(_full) => Answer::Refuse,
        }
    }

    /// Takes a connection.
    fn welcome(&self, (at, link): (u32, &'m Link<'m>), (slot, row): (u32, &'m Row), is_new: bool) {
        let Some(conn) = link.conn.get() else { return };
        if self.streams.write(conn, &self.greeting.to_wire()).is_err() {
            // Tried again when there is room.
            self.unsettled.set(true);
            if is_new {
                self.vacate(slot, row);
            }
            return;
        }
        link.stage.set(Stage::Up);
        link.peer.set(Some(row.state.addr(slot)));
        if row.name.get() == Some(self.greeting.name) {
            // The other end of a connection of this port with itself.
            return;
        }
        if let Some(own) = self.link(row.link.replace(at)) {
            self.abort(own);
        }
        let connects = self.info.endpoint_type == EndpointType::Msg;
        self.rise(row.state.addr(slot), row, is_new || connects);
    }

    /// The other end sends no more, or the stream is over.
    pub(super) fn ended(&self, at: u32, link: &'m Link<'m>, reason: Option<CloseReason>) {
        if reason.is_some() {
            link.conn.set(None);
        }
        match link.stage.get() {
            Stage::Opening | Stage::Offered => {
                let refused = reason.is_none() || reason == Some(NOBODY_LISTENS);
                let standing = if refused { Standing::Refused } else { Standing::Gone };
                match link.peer.get() {
                    Some(addr) => self.lose(addr, standing),
                    None => self.abort(link),
                }
            }
            Stage::Up => self.over(link),
            Stage::Accepted | Stage::Held | Stage::Leaving | Stage::Free => self.close(link),
            Stage::Over => {}
        }
        if link.stage.get() == Stage::Free {
            self.drop_current(at);
        }
    }

    /// Nothing more comes by a link that was up.
    pub(super) fn over(&self, link: &'m Link<'m>) {
        self.finish(link);
        if let Some(addr) = link.peer.get() {
            self.lose(addr, Standing::Gone);
        }
    }

    /// Closes the stream of a link; what has come stays.
    pub(super) fn finish(&self, link: &'m Link<'m>) {
        self.unclaim(link);
        link.stage.set(Stage::Over);
        if let Some(conn) = link.conn.take() {
            let _there = self.streams.set_context(conn, 0);
            let _there = self.streams.close(conn);
        }
        self.resting.set(true);
        self.unsettled.set(true);
    }

    fn unclaim(&self, link: &Link<'m>) {
        if let Some(arriving) = link.arriving.take() {
            self.queues.matcher().unclaim(&arriving.claim);
        }
    }

    /// What came by a link is nonsense.
    pub(super) fn cut(&self, at: u32, link: &'m Link<'m>, fault: FrameFault) {
        self.last_fault.set(Some(fault));
        self.count(|c| c.corrupt = c.corrupt.wrapping_add(1));
        let peer = link.peer.get();
        self.abort(link);
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
    fn close(&self, link: &'m Link<'m>) {
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

    /// This end gives a link up. What it has sent arrives; what has come is dropped.
    pub(super) fn leave(&self, at: u32, link: &'m Link<'m>) {
        self.drop_current(at);
        let Some(conn) = link.conn.get().filter(|_| link.stage.get() == Stage::Up) else {
            self.abort(link);
            return;
        };
        self.unclaim(link);
        link.forget();
        link.peer.set(None);
        // The other end closes when it has read it. Where there is no room for it, the end of the stream has to do, for which the kernel
        // needs a thread of its own.
        if !self.streams.write_control(conn, || link.framing.goodbye()) {
            let _there = self.streams.shutdown(conn);
        }
        link.stage.set(Stage::Leaving);
        self.expect(link);
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
            let now = self.now.get();
            let fresh = now.saturating_add(self.config.greeting_timeout);
            let deadline = link.deadline.get().unwrap_or(fresh);
            link.deadline.set(Some(deadline));
            if deadline <= now {
                self.expire(link);
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
        if since.saturating_add(self.config.credit_timeout) > self.now.get() {
            return true;
        }
        self.count(|c| c.expired = c.expired.wrapping_add(1));
        if let Some(addr) = link.peer.get() {
            self.lose(addr, Standing::Gone);
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

    /// The other end takes too long.
    #[cold]
    fn expire(&self, link: &'m Link<'m>) {
        self.count(|c| c.expired = c.expired.wrapping_add(1));
        let (stage, peer) = (link.stage.get(), link.peer.get());
        if stage == Stage::Held
            && let Some(greeting) = link.framing.greeting()
            && let Some((slot, row)) = self.row_of(&greeting.name)
            && row.state.standing() == Standing::Up
        {
            // It has begun anew, and the network keeps quiet about the end of the old connection.
            self.lose(row.state.addr(slot), Standing::Gone);
            self.expect(link);
            return;
        }
        match peer.filter(|_| stage != Stage::Held) {
            Some(addr) => self.lose(addr, Standing::Gone),
            None => self.abort(link),
        }
    }
}

fn is_lower(a: &Name, b: &Name) -> bool {
    a.as_field() < b.as_field()
}
