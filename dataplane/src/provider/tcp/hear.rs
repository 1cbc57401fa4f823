//! What the streams say, and the end of the port.

use heapless::VecView;

use super::link::{Link, Stage};
use super::meet::errno_of;
use super::port::TcpPort;
use crate::id::WrId;
use crate::poll::{Budget, Poll};
use crate::provider::connect::Connects;
use crate::provider::peers::Standing;
use crate::provider::{Cqe, Status};
use crate::stream::StreamEvent;
use crate::time::Nanos;
use crate::uring::Enter;

/// Turns that the end of a port gives the kernel to take what waits to be sent, and then to let go of everything.
const LAST_TURNS: u32 = 512;

impl<'m, E: Enter> TcpPort<'m, E> {
    /// Returns whether all of them were taken.
    pub(super) fn take_events(&self, out: &mut VecView<Cqe>) -> bool {
        while !out.is_full() && !self.has_current() {
            let Some(event) = self.streams.poll() else { return true };
            self.take_event(event, out);
        }
        false
    }

    fn has_current(&self) -> bool {
        self.with_current(|_| ()).is_some()
    }

    #[inline]
    fn take_event(&self, event: StreamEvent<'m>, out: &mut VecView<Cqe>) {
        match event {
            StreamEvent::Received { conn, bytes } => {
                if let Some((at, _)) = self.link_at(conn) {
                    self.take_bytes(at, bytes, out);
                }
            }
            StreamEvent::RangeBack { conn, context, sent } => {
                let status = if sent { Status::Success } else { Status::PeerGone };
                let code = if sent { 0 } else { errno_of(self.streams.cause(conn)) };
                self.under_way.set(self.under_way.get().saturating_sub(1));
                let pushed = self.done.push((WrId::from_raw(context), status, code));
                debug_assert!(pushed.is_ok(), "post_send keeps a place for it");
            }
            rare @ (StreamEvent::Accepted { .. }
            | StreamEvent::AcceptFailed { .. }
            | StreamEvent::Connected(_)
            | StreamEvent::Sent { .. }
            | StreamEvent::NotSent { .. }
            | StreamEvent::Writable(_)
            | StreamEvent::ReceiveTimedOut(_)
            | StreamEvent::PeerClosed(_)
            | StreamEvent::Closed { .. }) => self.take_rare(&rare),
        }
    }

    #[inline(never)]
    fn take_rare(&self, event: &StreamEvent<'m>) {
        match *event {
            StreamEvent::Accepted { conn, .. } => self.accepted(conn),
            StreamEvent::Connected(conn) => {
                if let Some((_, link)) = self.link_at(conn)
                    && link.stage.get() == Stage::Opening
                {
                    link.stage.set(Stage::Offered);
                }
            }
            StreamEvent::PeerClosed(conn) => match self.link_at(conn) {
                Some((at, link)) => self.ended(at, link, None),
                None => {
                    let _there = self.streams.close(conn);
                }
            },
            StreamEvent::Closed { conn, reason } => {
                let of_it = |(_, link): &(u32, &Link<'m>)| link.conn.get() == Some(conn);
                if let Some((at, link)) = (0..u32::MAX).zip(self.links).find(of_it) {
                    self.ended(at, link, Some(reason));
                }
            }
            StreamEvent::AcceptFailed { .. }
            | StreamEvent::Received { .. }
            | StreamEvent::Sent { .. }
            | StreamEvent::NotSent { .. }
            | StreamEvent::RangeBack { .. }
            | StreamEvent::ReceiveTimedOut(_)
            | StreamEvent::Writable(_) => {}
        }
    }
}

impl<E: Enter> Drop for TcpPort<'_, E> {
    /// Says goodbye to all, gives the kernel what was sent, and closes everything. It waits for nobody: a peer that takes nothing does not
    /// get what it did not take.
    fn drop(&mut self) {
        drop(self.current.take());
        for (slot, row) in self.peers.in_use() {
            if row.state.standing() != Standing::Past {
                self.vacate(slot, row);
            }
        }
        if let Some(listener) = self.listener.take() {
            let _there = self.streams.close(listener);
        }
        while let Some(socket) = self.sockets.pop() {
            // A stream that is closed at once: the ring closes the descriptor.
            if let Ok(conn) = self.streams.adopt(socket.fd) {
                let _there = self.streams.abort(conn);
            }
        }
        for turn in 0..LAST_TURNS {
            // What time it is cannot be known here: each turn counts as a millisecond, so that timeouts come.
            let now = self.now.get().saturating_add(Nanos::from_millis(u64::from(turn)));
            let _busy = self.streams.turn(now, Budget::DEFAULT);
            while let Some(event) = self.streams.poll() {
                if let StreamEvent::Closed { conn, .. } = event
                    && let Some(link) = self.links.iter().find(|link| link.conn.get() == Some(conn))
                {
                    link.conn.set(None);
                }
            }
            let conns = || self.links.iter().filter_map(|link| link.conn.get());
            let waits = conns().any(|conn| self.streams.queued(conn).is_ok_and(|q| q > 0));
            // What has come meanwhile was read, so that the end is not a reset; half of the turns are for closing.
            if turn > 2 && (!waits || turn == LAST_TURNS / 2) {
                for conn in conns() {
                    let _there = self.streams.close(conn);
                    if waits {
                        let _there = self.streams.abort(conn);
                    }
                }
            }
            if self.streams.is_empty() {
                break;
            }
        }
    }
}
