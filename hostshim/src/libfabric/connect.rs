//! Type MSG: one connection, to one peer.
//!
//! ```text
//!   connect(name)    fi_connect with a hello: who speaks       request    hello of no version of ours, another peer: fi_reject
//!                                                                         else fi_accept
//!   Connected        receives that were posted before go to the endpoint, in their order
//!   Shutdown         what has come is read; then all operations end, then the peer's end is told
//! ```
//!
//! Both ends may connect at the same time. Then the connection of the lower name stays: its owner holds the other request, unanswered, until its
//! own is; the higher name gives up its own and accepts. Nobody is refused by an answer that overtakes a request.

use spinwire_dataplane::error::{Fatal, Misuse, PostError};
use spinwire_dataplane::id::{Addr, Name};
use spinwire_dataplane::provider::peers::Standing;
use spinwire_dataplane::provider::{Event, Status};

use super::contexts::{Operation, What};
use super::port::OfiPort;
use crate::raw::ofi::{Active, NOBODY, Offer, Told};

/// What a hello begins with: what speaks, and the version of that. The name follows, without the zeros behind it: over RDMA devices 55 bytes go with
/// a request to connect (`VERBS_CM_DATA_SIZE`), so that names have up to 47.
const GREETING: [u8; 8] = *b"spwofi\x00\x02";
/// Events that one poll takes.
const EVENTS_MAX: u32 = 8;

fn hello_of(name: &Name) -> Vec<u8> {
    [&GREETING[..], name.as_str().as_bytes()].concat()
}

/// Who says hello, where that is one of ours.
fn read_hello(hello: &[u8]) -> Option<Name> {
    // What the library hands over may be longer than what was sent, by zeros.
    let name = hello.strip_prefix(&GREETING)?;
    let name = core::str::from_utf8(name).ok()?;
    Name::new(name.trim_end_matches('\0')).ok()
}

impl OfiPort<'_> {
    /// Begins to connect to the one peer.
    pub(super) fn connect_one(&self, name: &Name) -> Result<Addr, PostError> {
        let address = self.find(name);
        if let Some(peer) = self.peer.get() {
            let row = self.peers.find(peer)?;
            let same = row.name.get() == Some(*name) && !row.state.is_lost();
            // A name that nobody has is that before it is another's.
            return if same {
                Ok(peer)
            } else {
                address.and(Err(Misuse::WrongPeer)).map_err(Into::into)
            };
        }
        let address = address?;
        let (slot, row) = self.peers.vacant()?;
        let offer = self.offer.towards(address.bytes()).map_err(|_failed| Fatal::QueueError)?;
        let active = Active::open(&offer, &self.bound).map_err(|_failed| Fatal::QueueError)?;
        active.connect(address.bytes(), &hello_of(&self.name)).map_err(|_failed| Fatal::Refused)?;
        drop(self.active.replace(Some(active)));
        row.name.set(Some(*name));
        row.fresh();
        row.number.set(NOBODY);
        row.state.set_standing(Standing::Connecting);
        let peer = row.state.addr(slot);
        self.peer.set(Some(peer));
        Ok(peer)
    }

    /// What has happened to connections.
    #[cold]
    pub(super) fn hear(&self) {
        let Some(events) = &self.bound.events else { return };
        for _ in 0..EVENTS_MAX {
            match events.read() {
                Ok(Some(Told::Request { offer, hello })) => self.asked(offer, &hello),
                Ok(Some(Told::Connected(fid))) if self.is_active(fid) => self.connected(),
                Ok(Some(Told::Shutdown(fid))) if self.is_active(fid) => {
                    self.broken(Standing::Gone, 0);
                }
                Ok(Some(Told::Failed(fid, code))) if self.is_active(fid) => {
                    self.broken(Standing::Refused, code.unsigned_abs());
                }
                // About an endpoint that was given up.
                Ok(Some(_)) => {}
                Ok(None) => return,
                Err(failed) => {
                    self.lost.set(Some(failed.code));
                    return;
                }
            }
        }
    }

    fn is_active(&self, fid: usize) -> bool {
        self.with_active(|active| active.is(fid)) == Some(true)
    }

    /// Somebody wants to connect.
    fn asked(&self, offer: Offer, hello: &[u8]) {
        let Some(name) = read_hello(hello) else { return self.reject(&offer) };
        if self.is_connecting_to(&name) && self.name.as_str() < name.as_str() {
            let before = self.crossing.replace(Some(offer));
            before.iter().for_each(|other| self.reject(other));
        } else if !self.accept(&offer, &name) {
            self.reject(&offer);
        }
    }

    fn reject(&self, offer: &Offer) {
        if let Some(passive) = &self.passive {
            // Who has given up meanwhile needs no answer.
            let _answer = passive.reject(offer);
        }
    }

    fn is_connecting_to(&self, name: &Name) -> bool {
        let row = self.peer.get().and_then(|peer| self.peers.find(peer).ok());
        row.is_some_and(|row| {
            row.state.standing() == Standing::Connecting && row.name.get() == Some(*name)
        })
    }

    fn accept(&self, offer: &Offer, name: &Name) -> bool {
        let row = match self.peer.get() {
            Some(peer) => {
                let Ok(row) = self.peers.find(peer) else { return false };
                if !self.is_connecting_to(name) {
                    return false;
                }
                drop(self.active.take());
                row
            }
            None => {
                let Ok((slot, row)) = self.peers.vacant() else { return false };
                row.name.set(Some(*name));
                row.fresh();
                row.number.set(NOBODY);
                row.state.set_standing(Standing::Connecting);
                self.peer.set(Some(row.state.addr(slot)));
                row
            }
        };
        let opened = Active::open(offer, &self.bound);
        let accepted = opened.and_then(|active| active.accept().map(|()| active));
        if let Ok(active) = accepted {
            drop(self.active.replace(Some(active)));
            return true;
        }
        // Nobody was told of it.
        row.name.set(None);
        row.state.vacate();
        self.peer.set(None);
        false
    }

    fn connected(&self) {
        let Some(peer) = self.peer.get() else { return };
        let Ok(row) = self.peers.find(peer) else { return };
        row.state.set_standing(Standing::Up);
        self.crossing.take().iter().for_each(|other| self.reject(other));
        let told = self.events.push(Event::Connected(peer));
        debug_assert!(told.is_ok(), "there is room for the start of every peer");
        self.release_held();
    }

    /// Hands the receives over that were posted before there was an endpoint.
    fn release_held(&self) {
        while let Some((space, operation)) = self.contexts.first(|operation| operation.held) {
            let operation = Operation { held: false, ..operation };
            self.contexts.set(space, operation);
            if self.receive(&operation, space) != Ok(true) {
                // As many fit as its `recv_depth` says.
                self.end_without(space, Status::Cancelled, 0);
            }
        }
    }

    fn broken(&self, standing: Standing, code: u32) {
        let Some(peer) = self.peer.get() else { return };
        let Ok(row) = self.peers.find(peer) else { return };
        let connecting = row.state.standing() == Standing::Connecting;
        if let (Some(offer), Some(name)) = (self.crossing.take(), row.name.get())
            && connecting
            && self.accept(&offer, &name)
        {
            // The other connection comes instead.
            return;
        }
        self.lose(peer, if connecting { standing } else { Standing::Gone }, code);
    }

    /// Closes the connection. First what has come is read; then each operation ends with the status and the number that `how` says, or is held for the next
    /// connection where it says none.
    pub(super) fn close(&self, how: impl Fn(&Operation) -> Option<(Status, u32)>) {
        self.read_all();
        drop(self.active.take());
        // The library may tell of what it has given up.
        self.read_all();
        while let Some((space, operation)) = self.contexts.first(|operation| !operation.held) {
            match how(&operation) {
                Some((status, code)) => self.end_without(space, status, code),
                None if matches!(operation.what, What::Receive(_)) && operation.ends.is_none() => {
                    self.contexts.set(space, Operation { held: true, ..operation });
                }
                None => self.end_without(space, Status::Cancelled, 0),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hellos_are_read_and_nothing_else_is() {
        let name = Name::new("quotes").unwrap();
        let hello = hello_of(&name);
        assert_eq!((hello.len(), read_hello(&hello)), (14, Some(name)));
        let padded = [&hello[..], &[0; 7]].concat();
        assert_eq!(read_hello(&padded), Some(name));
        for wrong in [
            &b"spwofi\x00\x01quotes"[..],
            b"",
            b"spwofi\x00\x02",
            b"spwofi\x00\x02a\0b",
            b"spwofi\x00\x02\xff",
        ] {
            assert_eq!(read_hello(wrong), None, "{wrong:?}");
        }
    }
}
