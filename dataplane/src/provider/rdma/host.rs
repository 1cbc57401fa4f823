//! What the host does for a port: it makes queue pairs, connects them, and destroys them.
//!
//! ```text
//!   port                                            host
//!     Request::Connect { link, to }   -------->       makes a queue pair, connects it with one at the other end
//!     connected(link, pair)           <--------       it may send and receive
//!     not_connected(link, why)        <--------       or it cannot be had
//!     accept(pair)                    <--------       somebody has connected to here
//!     lost(link)                      <--------       the other end is gone, as the host knows
//!     Request::Close { link, pair }   -------->       destroys it
//!     destroyed(link, ..)             <--------       its slots can be used anew
//! ```
//!
//! All of it happens between turns, and none of it is on the way of a message.

use core::fmt;

use super::link::{Link, Stage};
use super::port::RdmaPort;
use crate::error::{Misuse, PostError, Retry};
use crate::id::Name;
use crate::provider::connect::Connects;
use crate::provider::peers::Standing;
use crate::raw::region::{Destroyed, Registrar};
use crate::verbs::{CompletionQueue, QueuePair, WcStatus};

/// A connection of a port: a row, and which use of it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct LinkId {
    at: u32,
    life: u32,
}

/// What a port wants of its host.
#[derive(Debug)]
pub enum Request<Q> {
    /// A queue pair that is connected with one of the endpoint of that name. Answered by [`RdmaPort::connected`] or
    /// [`RdmaPort::not_connected`].
    Connect {
        /// The connection that it is for.
        link: LinkId,
        /// To whom.
        to: Name,
    },
    /// A queue pair is done with: destroy it, then call [`RdmaPort::destroyed`].
    Close {
        /// The connection that it was for.
        link: LinkId,
        /// The queue pair.
        pair: Q,
    },
}

/// Why there is no connection.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Unreachable {
    /// There is nobody who would take it.
    Refused,
    /// Whoever was there has gone.
    Gone,
}

/// A queue pair that a port does not take, and why.
pub struct Rejected<Q> {
    /// Why.
    pub error: PostError,
    /// The queue pair, as it was handed in. `None` where it has failed while receives were posted: then its device may write into slots, and it comes
    /// by a [`Request::Close`].
    pub pair: Option<Q>,
}

impl<Q> fmt::Debug for Rejected<Q> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Rejected").field("error", &self.error).finish_non_exhaustive()
    }
}

impl<Q> fmt::Display for Rejected<Q> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.error.fmt(f)
    }
}

impl<Q> core::error::Error for Rejected<Q> {}

impl<Q: QueuePair, C: CompletionQueue, X: Registrar> RdmaPort<'_, Q, C, X> {
    /// Says that the endpoint of that name can be connected to.
    ///
    /// # Errors
    /// `AddressesFull` where the table of routes is.
    pub fn set_route(&self, name: &Name) -> Result<(), PostError> {
        if self.has_route(name) {
            return Ok(());
        }
        let free = self.routes.iter().find(|place| place.get().is_none());
        free.ok_or(Retry::AddressesFull)?.set(Some(*name));
        Ok(())
    }

    /// Takes a route away. Connections that are there stay.
    pub fn forget_route(&self, name: &Name) {
        for place in self.routes {
            if place.get().as_ref() == Some(name) {
                place.set(None);
            }
        }
    }

    /// What the port wants of its host, one thing after the other. Ask between turns.
    pub fn next_request(&self) -> Option<Request<Q>> {
        if !self.asks.get() {
            return None;
        }
        for (at, link) in self.all_links() {
            let id = LinkId { at, life: link.life.get() };
            match link.stage.get() {
                Stage::Asked if !link.is_asked.get() => {
                    let row = link.peer.get().and_then(|addr| self.peers.find(addr).ok());
                    if let Some(to) = row.and_then(|row| row.name.get()) {
                        link.is_asked.set(true);
                        return Some(Request::Connect { link: id, to });
                    }
                }
                Stage::Over | Stage::Closing => {
                    if let Some(pair) = link.hand_out() {
                        return Some(Request::Close { link: id, pair });
                    }
                }
                Stage::Free
                | Stage::Asked
                | Stage::Offered
                | Stage::Accepted
                | Stage::Held
                | Stage::Up
                | Stage::Leaving => {}
            }
        }
        self.asks.set(false);
        None
    }

    /// A queue pair that was asked for: connected, so that it may send at once. Its receives are posted here.
    ///
    /// # Errors
    /// `StaleOperation` where it is not wanted any more, `Unsupported` where it takes less than [`RdmaConfig::pair`](super::RdmaConfig::pair), and what
    /// the queue pair says. Where it comes back from a connection that is wanted, that fails.
    pub fn connected(&self, link: LinkId, pair: Q) -> Result<(), Rejected<Q>> {
        let LinkId { at, life } = link;
        let there = self.link(at).filter(|link| {
            link.life.get() == life && link.stage.get() == Stage::Asked && link.is_asked.get()
        });
        let Some(link) = there else {
            return Err(Rejected { error: Misuse::StaleOperation.into(), pair: Some(pair) });
        };
        let equipped = self.check(pair).and_then(|pair| {
            link.equip(at, pair, &self.slots).map_err(|error| Rejected { error, pair: None })
        });
        if let Err(rejected) = equipped {
            self.not_connected(LinkId { at, life }, Unreachable::Gone);
            return Err(rejected);
        }
        link.stage.set(Stage::Offered);
        self.expect(link);
        let row = link.peer.get().and_then(|addr| self.peers.find(addr).ok());
        let hello = row.and_then(|row| row.name.get()).map(|to| self.hello_to(&to));
        if hello.is_none_or(|hello| self.say_bytes((at, link), &hello, (1, false)).is_err()) {
            self.fail(at, link, crate::error::Fatal::QueueError);
        }
        Ok(())
    }

    /// Whether a connection that was asked for is waited for still. What is made for one that is not can go.
    #[must_use]
    pub fn wants(&self, link: LinkId) -> bool {
        let LinkId { at, life } = link;
        let is_it =
            |link: &Link<'_, Q>| link.life.get() == life && link.stage.get() == Stage::Asked;
        self.link(at).is_some_and(is_it)
    }

    /// A connection that was asked for cannot be had.
    pub fn not_connected(&self, link: LinkId, why: Unreachable) {
        let LinkId { at, life } = link;
        let Some(link) = self.link(at).filter(|link| link.life.get() == life) else { return };
        if link.stage.get() != Stage::Asked {
            return;
        }
        let standing = match why {
            Unreachable::Refused => Standing::Refused,
            Unreachable::Gone => Standing::Gone,
        };
        match link.peer.get() {
            Some(addr) => self.lose(addr, standing),
            None => self.close(at, link),
        }
    }

    /// Somebody has connected to here. Its receives are posted here: so let the other end send only afterwards.
    ///
    /// # Errors
    /// `AddressesFull` where there are as many connections as there can be, `Unsupported` where it takes less than
    /// [`RdmaConfig::pair`](super::RdmaConfig::pair), and what the queue pair says.
    pub fn accept(&self, pair: Q) -> Result<LinkId, Rejected<Q>> {
        let pair = self.check(pair)?;
        let Some((at, link)) = self.free_link() else {
            return Err(Rejected { error: Retry::AddressesFull.into(), pair: Some(pair) });
        };
        self.begin(link, Stage::Accepted);
        match link.equip(at, pair, &self.slots) {
            Ok(()) => Ok(LinkId { at, life: link.life.get() }),
            Err(error) => {
                self.close(at, link);
                Err(Rejected { error, pair: None })
            }
        }
    }

    fn check(&self, pair: Q) -> Result<Q, Rejected<Q>> {
        if let Some(fatal) = self.broken.get() {
            return Err(Rejected { error: fatal.into(), pair: Some(pair) });
        }
        let (has, needs) = (pair.limits(), self.config.pair());
        let suffices = has.send_depth >= needs.send_depth
            && has.recv_depth >= needs.recv_depth
            && has.sge_max >= needs.sge_max
            && has.message_bytes_max >= needs.message_bytes_max;
        if suffices {
            Ok(pair)
        } else {
            Err(Rejected { error: Misuse::Unsupported.into(), pair: Some(pair) })
        }
    }

    /// The host knows that the other end of a connection is gone. What has come before is delivered first.
    pub fn lost(&self, link: LinkId) {
        let LinkId { at, life } = link;
        let Some(link) = self.link(at).filter(|link| link.life.get() == life) else { return };
        match link.stage.get() {
            Stage::Asked => self.not_connected(LinkId { at, life }, Unreachable::Gone),
            Stage::Free => {}
            Stage::Offered
            | Stage::Accepted
            | Stage::Held
            | Stage::Up
            | Stage::Over
            | Stage::Leaving
            | Stage::Closing => {
                // The next poll hears what the device has, and then believes it.
                self.is_drained.set(false);
                self.fail(at, link, crate::error::Fatal::PeerGone);
            }
        }
    }

    /// The queue pair of a [`Request::Close`] is no more. Buffers that were under way by it come back.
    ///
    /// # Errors
    /// The proof, where it is of another queue pair than the one that was handed out for that connection: nothing has come back.
    pub fn destroyed(&self, link: LinkId, proof: Destroyed) -> Result<(), Destroyed> {
        let LinkId { at, life } = link;
        let there =
            self.link(at).filter(|link| link.life.get() == life && link.is_out(proof.pair()));
        let Some(link) = there else { return Err(proof) };
        link.is_with_host.set(false);
        while let Some(sent) = link.pop_sent() {
            self.over_with(link, sent, Some(WcStatus::FLUSHED));
        }
        link.staged.set(0);
        if link.stage.get() == Stage::Closing {
            self.close(at, link);
        }
        self.unsettled.set(true);
        Ok(())
    }

    /// Whether no connection is there, not even one that ends: then the port can be dropped and nobody misses anything.
    #[must_use]
    pub fn is_quiet(&self) -> bool {
        self.all_links().all(|(_, link)| link.stage.get() == Stage::Free)
    }
}
