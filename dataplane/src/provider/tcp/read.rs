//! Bytes into messages.
//!
//! ```text
//!   buffer that has come --.                        .--> posted receive (whole, or piece by piece)
//!                          +--> frames --> place ---+--> unexpected queue of the matcher
//!   backlog ---------------'                        '--> backlog, and what comes behind it too
//! ```

use heapless::VecView;
use spinwire_layouts::word::{from_usize, low, to_usize, widen};

use super::frame::{Event as Frame, FrameFault};
use super::link::{Arriving, Link, Pending, Stage};
use super::port::TcpPort;
use crate::msg::matching::Incoming;
use crate::provider::Cqe;
use crate::provider::connect::{Connects, Linked};
use crate::provider::queues::Found;
use crate::raw::loan::Loan;
use crate::uring::Enter;

/// Why reading stopped.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Stop {
    /// All bytes are done with.
    All,
    /// There is no room for completions.
    Full,
    /// A message has come, or the beginning of one, for which there is no place.
    Waits,
    /// What came is no frame.
    Cut(FrameFault),
}

/// What became of a message.
enum Placed {
    /// So many bytes are done with.
    Yes(usize),
    No(Stop),
}

/// Bytes that were not read for want of room for completions.
pub(super) struct Current<'m> {
    pub(super) link: u32,
    bytes: Loan<'m>,
    from: usize,
}

impl<'m, E: Enter> TcpPort<'m, E> {
    /// Bytes have come.
    pub(super) fn take_bytes(&self, at: u32, bytes: Loan<'m>, out: &mut VecView<Cqe>) {
        let Some(link) = self.link(at) else { return };
        match link.stage.get() {
            Stage::Offered | Stage::Accepted | Stage::Up => {}
            Stage::Held if !bytes.is_empty() => {
                // It has said hello and was not answered, so that it can have nothing to say.
                self.cut(at, link, FrameFault::Overrun);
                return;
            }
            Stage::Free | Stage::Opening | Stage::Held | Stage::Over | Stage::Leaving => return,
        }
        if link.has_rest() {
            if link.keep(self.backlogs, &bytes) {
                drop(bytes);
                self.read_backlog(at, link, out);
            } else {
                self.cut(at, link, FrameFault::Overrun);
            }
            return;
        }
        self.read_fresh(at, link, (bytes, 0), out);
    }

    fn read_fresh(
        &self,
        at: u32,
        link: &'m Link<'m>,
        (bytes, from): (Loan<'m>, usize),
        out: &mut VecView<Cqe>,
    ) {
        let rest = bytes.get(from..).unwrap_or_default();
        let (used, stop) = self.read(at, link, rest, out);
        let rest = rest.get(used..).unwrap_or_default();
        match stop {
            Stop::All => {}
            Stop::Full => {
                let from = from.saturating_add(used);
                self.current.set(Some(Current { link: at, bytes, from }));
                return;
            }
            Stop::Waits => {
                self.resting.set(true);
                self.count(|c| c.kept = c.kept.wrapping_add(1));
                if !link.keep(self.backlogs, rest) {
                    self.cut(at, link, FrameFault::Overrun);
                }
            }
            Stop::Cut(fault) => self.cut(at, link, fault),
        }
        drop(bytes);
        self.give_credit(link);
    }

    /// Reads on where it stopped for want of room. Returns whether there is none such any more.
    pub(super) fn read_on(&self, out: &mut VecView<Cqe>) -> bool {
        let Some(Current { link: at, bytes, from }) = self.current.take() else { return true };
        let Some(link) = self.link(at) else { return true };
        self.read_fresh(at, link, (bytes, from), out);
        let now = self.current.take();
        let done = now.is_none();
        self.current.set(now);
        done
    }

    /// Reads what was kept.
    pub(super) fn read_backlog(&self, at: u32, link: &'m Link<'m>, out: &mut VecView<Cqe>) {
        let stop = match link.take_backlog() {
            Some((loan, from)) => {
                let (used, stop) = self.read(at, link, loan.get(from..).unwrap_or_default(), out);
                if link.stage.get() == Stage::Free {
                    return;
                }
                link.put_back(loan, used);
                stop
            }
            None => self.read(at, link, &[], out).1,
        };
        if link.stage.get() == Stage::Over {
            // It may have been the last of a peer that is lost.
            self.unsettled.set(true);
        }
        match stop {
            Stop::All => {}
            Stop::Full | Stop::Waits => self.resting.set(true),
            Stop::Cut(fault) => self.cut(at, link, fault),
        }
        self.give_credit(link);
    }

    /// Reads links that had to wait, each time beginning with another.
    pub(super) fn read_waiting(&self, out: &mut VecView<Cqe>) {
        if !self.resting.replace(false) {
            return;
        }
        let first = self.first.get();
        let mut next = None;
        let count = low(from_usize(self.links.len()));
        for at in (first..count).chain(0..first) {
            let Some(link) = self.link(at).filter(|link| link.has_rest()) else { continue };
            next = next.or(at.checked_add(1));
            if out.is_full() {
                self.resting.set(true);
                return;
            }
            self.read_backlog(at, link, out);
        }
        self.first.set(next.filter(|next| *next < count).unwrap_or(0));
    }

    /// Takes what `bytes` say, as far as there is a place for it. Returns how many of them are done with, and why not all.
    fn read(
        &self,
        at: u32,
        link: &'m Link<'m>,
        bytes: &[u8],
        out: &mut VecView<Cqe>,
    ) -> (usize, Stop) {
        let mut rest = bytes;
        let mut pending = link.pending.take();
        let stop = loop {
            if let Some(message) = pending {
                match self.place(link, &message, rest, out) {
                    Placed::Yes(used) => {
                        pending = None;
                        rest = rest.get(used..).unwrap_or_default();
                    }
                    Placed::No(stop) => break stop,
                }
                continue;
            }
            if rest.is_empty() {
                break Stop::All;
            }
            if out.is_full() {
                break Stop::Full;
            }
            let before = rest;
            match link.framing.next(&mut rest) {
                Err(fault) => break Stop::Cut(fault),
                Ok(None) => break Stop::All,
                Ok(Some(Frame::Message { length, envelope, bytes, .. })) => {
                    let behind = rest.len().saturating_add(bytes.len());
                    let header = before.len().saturating_sub(behind);
                    rest = before.get(header..).unwrap_or_default();
                    let counted = low(from_usize(bytes.len()));
                    pending = Some(Pending { length, envelope, counted });
                }
                Ok(Some(Frame::Body { offset, bytes })) => {
                    self.stream_on(link, offset, bytes, out);
                }
                Ok(Some(Frame::Credit(_))) => {}
                Ok(Some(Frame::Hello)) => {
                    self.greeted(at, link);
                    if link.stage.get() == Stage::Up {
                        continue;
                    }
                    // Whoever was not answered has nothing more to say.
                    let silent = rest.is_empty() || link.stage.get() == Stage::Free;
                    break if silent { Stop::All } else { Stop::Cut(FrameFault::Overrun) };
                }
                Ok(Some(Frame::Goodbye(_))) => self.over(link, 0),
            }
        };
        link.pending.set(pending);
        (bytes.len().saturating_sub(rest.len()), stop)
    }

    /// Finds a place for a message of which `rest` holds the beginning, or more.
    #[inline]
    fn place(
        &self,
        link: &'m Link<'m>,
        pending: &Pending,
        rest: &[u8],
        out: &mut VecView<Cqe>,
    ) -> Placed {
        // It has one before the first message is read.
        let Some(source) = link.peer.get() else { return Placed::Yes(rest.len()) };
        let length = to_usize(widen(pending.length));
        let message = Incoming { source, envelope: pending.envelope, length };
        let whole = rest.get(..length);
        if whole.is_none() && link.stage.get() == Stage::Over {
            // The end of it will never come.
            return Placed::Yes(rest.len());
        }
        if !self.queues.matcher().settle(out) {
            return Placed::No(Stop::Full);
        }
        match self.queues.find_receive(&message, out) {
            Found::NoRoom => Placed::No(Stop::Full),
            Found::Receive(mut landing) => {
                let Some(bytes) = whole else {
                    let counted = to_usize(widen(pending.counted)).min(rest.len());
                    let first = rest.get(..counted).unwrap_or_default();
                    self.queues.matcher().fill(&mut landing, 0, first);
                    let claim = self.queues.matcher().claim(landing);
                    link.arriving.set(Some(Arriving { claim, message }));
                    return Placed::Yes(counted);
                };
                self.queues.matcher().fill(&mut landing, 0, bytes);
                self.queues.land(&landing, &message, out);
                taken(link, pending)
            }
            Found::Nobody => match whole {
                Some(bytes)
                    if self.queues.matcher().stash(&message, |to| to.copy_from_slice(bytes)) =>
                {
                    taken(link, pending)
                }
                _ => Placed::No(Stop::Waits),
            },
        }
    }

    /// More of a message that is streaming in. There is room for a completion.
    fn stream_on(&self, link: &Link<'m>, offset: u32, bytes: &[u8], out: &mut VecView<Cqe>) {
        let Some(mut arriving) = link.arriving.get() else {
            debug_assert!(false, "a body that was not kept belongs to a message that streams in");
            return;
        };
        let offset = to_usize(widen(offset));
        self.queues.matcher().fill(&mut arriving.claim.landing, offset, bytes);
        if offset.saturating_add(bytes.len()) < arriving.message.length {
            return;
        }
        link.arriving.set(None);
        self.queues.land_claimed(&arriving.claim, &arriving.message, out);
        release(link, low(from_usize(arriving.message.length)));
    }

    /// Gives credit back where that is due and no message took it along.
    pub(super) fn give_credit(&self, link: &Link<'m>) {
        let up = link.stage.get() == Stage::Up;
        let Some(conn) = link.conn.get().filter(|_| up && link.framing.is_credit_due()) else {
            return;
        };
        if !self.streams.write_control(conn, || link.framing.credit_frame()) {
            // Tried again when there is room.
            self.unsettled.set(true);
        }
    }
}

/// The whole of a message is where it belongs.
fn taken(link: &Link<'_>, pending: &Pending) -> Placed {
    link.framing.body_taken(pending.length.saturating_sub(pending.counted));
    release(link, pending.length);
    Placed::Yes(to_usize(widen(pending.length)))
}

fn release(link: &Link<'_>, length: u32) {
    let released = link.framing.release(length);
    debug_assert!(released.is_ok(), "it has arrived");
}
