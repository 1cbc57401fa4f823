//! What a port says of its connections to whoever [looks after peers](super::super::connect).

use core::cell::Cell;

use spinwire_layouts::uring::SockAddr;

use super::SpareSocket;
use super::frame::Greeting;
use super::link::{Link, Stage};
use super::port::TcpPort;
use crate::error::{Misuse, PostError, Retry};
use crate::id::{Addr, Name};
use crate::provider::connect::{Connects, Linked, Met, Row};
use crate::provider::peers::{Peers, Standing};
use crate::provider::queues::Queues;
use crate::provider::secret::Secret;
use crate::provider::{EndpointType, Select, Source, Waiting};
use crate::table::{NIL, wide};
use crate::time::{Instant, Nanos};
use crate::uring::Enter;

impl Linked for Link<'_> {
    fn peer(&self) -> &Cell<Option<Addr>> {
        &self.peer
    }

    fn deadline(&self) -> &Cell<Option<Instant>> {
        &self.deadline
    }

    fn doubted(&self) -> &Cell<bool> {
        &self.doubted
    }

    fn greeting(&self) -> Option<Greeting> {
        self.framing.greeting()
    }

    fn is_up(&self) -> bool {
        self.stage.get() == Stage::Up
    }

    fn set_up(&self) {
        self.stage.set(Stage::Up);
    }

    fn is_opening(&self) -> bool {
        matches!(self.stage.get(), Stage::Opening | Stage::Offered)
    }

    fn is_held(&self) -> bool {
        self.stage.get() == Stage::Held
    }

    fn has_rest(&self) -> bool {
        self.pending.get().is_some() || self.backlog_len() > 0
    }

    fn is_unread(&self) -> bool {
        self.has_rest() && self.pending.get().is_none()
    }
}

impl<E: Enter> TcpPort<'_, E> {
    fn route(&self, name: &Name) -> Option<SockAddr> {
        self.routes
            .iter()
            .find_map(|place| place.get().filter(|(of, _)| of == name))
            .map(|(_, to)| to)
    }
}

impl<'m, E: Enter> Connects<'m> for TcpPort<'m, E> {
    type Link = Link<'m>;

    #[inline]
    fn rows(&self) -> Peers<'m, Row> {
        self.peers
    }

    fn books(&self) -> &Queues<'m> {
        &self.queues
    }

    fn own(&self) -> &Greeting {
        &self.greeting
    }

    fn secret(&self) -> &Secret {
        &self.config.secret
    }

    fn hellos(&self) -> &Cell<u64> {
        &self.hellos
    }

    fn endpoint_type(&self) -> EndpointType {
        self.info.endpoint_type
    }

    fn unsettle(&self) {
        self.unsettled.set(true);
    }

    fn time(&self) -> (Instant, Nanos) {
        (self.now.get(), self.config.greeting_timeout)
    }

    fn tally(&self, what: Met) {
        self.count(|c| {
            let count = match what {
                Met::Connected => &mut c.connected,
                Met::Refused => &mut c.refused,
                Met::Expired => &mut c.expired,
            };
            *count = count.wrapping_add(1);
        });
    }

    #[inline]
    fn link(&self, at: u32) -> Option<&'m Link<'m>> {
        self.links.get(wide(at))
    }

    fn all_links(&self) -> impl Iterator<Item = (u32, &'m Link<'m>)> {
        (0..u32::MAX).zip(self.links)
    }

    fn has_route(&self, name: &Name) -> bool {
        self.route(name).is_some()
    }

    fn open_link(&self, slot: u32, row: &Row) -> Result<(), PostError> {
        let name = row.name.get().ok_or(Misuse::UnknownAddress)?;
        let to = self.route(&name).ok_or(Misuse::UnknownAddress)?;
        let is_v6 = to.is_v6();
        if self.queues.room_for_events() < 2 {
            return Err(Retry::CqFull.into());
        }
        let (at, link) = self.free_link().ok_or(Retry::AddressesFull)?;
        let SpareSocket { fd, .. } = self.take_socket(is_v6).ok_or(Retry::NoSocket)?;
        let conn = match self.streams.connect(fd, &to) {
            Ok(conn) => conn,
            Err(refused) => {
                self.put_socket_back(SpareSocket { fd, is_v6 });
                return Err(refused);
            }
        };
        self.begin(at, link, conn, Stage::Opening);
        link.peer.set(Some(row.state.addr(slot)));
        row.link.set(at);
        row.state.set_standing(Standing::Connecting);
        // It goes out as soon as the connection is up.
        if let Err(refused) = self.streams.write(conn, &self.hello_to(&name)) {
            self.abort(link);
            row.link.set(NIL);
            row.state.set_standing(Standing::Known);
            return Err(refused);
        }
        Ok(())
    }

    fn finish(&self, _at: u32, link: &'m Link<'m>) {
        self.stop(link);
    }

    fn abandon(&self, _at: u32, link: &'m Link<'m>) {
        self.abort(link);
    }

    fn leave(&self, at: u32, link: &'m Link<'m>) {
        self.drop_current(at);
        let Some(conn) = link.conn.get().filter(|_| link.stage.get() == Stage::Up) else {
            return self.abort(link);
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

    fn refuse(&self, _at: u32, link: &'m Link<'m>) {
        self.close(link);
    }

    fn greet(&self, _at: u32, link: &'m Link<'m>) -> bool {
        let (Some(conn), Some(to)) = (link.conn.get(), link.framing.greeting()) else {
            return false;
        };
        let is_said = self.streams.write(conn, &self.hello_to(&to.name)).is_ok();
        if !is_said {
            // Tried again when there is room.
            self.unsettled.set(true);
        }
        is_said
    }

    fn ask_for_life(&self, _at: u32, link: &'m Link<'m>) -> bool {
        let Some(conn) = link.conn.get() else { return false };
        self.streams.write_control(conn, || link.framing.sign_of_life())
    }

    /// The network tells of an end that is none any more: the kernel of a machine that is there answers for whom it knows nothing of, and where nobody
    /// answers at all, the sockets have a limit of time for that (`TCP_USER_TIMEOUT`), and the connection is over by itself.
    fn is_alive(&self, _link: &'m Link<'m>) -> bool {
        true
    }

    fn has_rest(&self, addr: Addr) -> bool {
        let of_current = self.with_current(|current| {
            self.link(current.link).is_some_and(|link| link.peer.get() == Some(addr))
        });
        of_current == Some(true) || self.links_of(addr).any(|(_, link)| link.has_rest())
    }

    fn peek_all(&self, from: Source, select: Select) -> Option<Waiting> {
        self.queues.matcher().peek(from, select).or_else(|| {
            self.links.iter().find_map(|link| {
                let (source, pending) = (link.peer.get()?, link.pending.get()?);
                let (tag, immediate) = (pending.envelope.tag, pending.envelope.immediate);
                let length = wide(pending.length);
                let meant = from.takes(source) && select.takes(tag);
                meant.then_some(Waiting { source, length, tag, immediate })
            })
        })
    }
}
