//! Sending: by the library's own copy, by one of the port's, or from posted memory; and what a refusal means.
//!
//! ```text
//!   inject   n <= inject_size   fi_inject; of so many one, a mark, goes as a copy of the port, whose end the library tells
//!            else               fi_send of a copy in a slot
//!   post                        fi_send of the caller's memory
//! ```
//!
//! The library tells nothing of what it injects. By the marks the port sees that those before them have left, and lets no more be under way to one
//! peer than `send_depth`, about: what nobody takes does not fill the memory of the sender.

use spinwire_dataplane::error::{Fatal, Misuse, PostError, Retry};
use spinwire_dataplane::id::{Addr, WrId};
use spinwire_dataplane::provider::peers::Standing;
use spinwire_dataplane::provider::{Caps, Payload, SendWr};
use spinwire_dataplane::raw::loan::Sge;

use super::contexts::{Operation, What};
use super::port::{OfiPort, Row};
use crate::raw::ofi::Target;

/// Marks to one peer that may be under way. So many, and the messages between them, are as many as `send_depth`, about.
const MARKS_MAX: u32 = 3;

impl OfiPort<'_> {
    /// What a number of `fi_errno(3)` means to whoever has posted.
    #[cold]
    pub(super) fn refused(&self, code: i32, full: Retry) -> PostError {
        self.refusal.set(code);
        match code {
            libc::EAGAIN => {
                self.count(|c| c.again = c.again.wrapping_add(1));
                full.into()
            }
            libc::ENOMEM | libc::ENOBUFS => Retry::NoSlot.into(),
            libc::EMSGSIZE => Misuse::TooLong.into(),
            libc::EOPNOTSUPP | libc::ENOSYS => Misuse::Unsupported.into(),
            libc::EKEYREJECTED => Misuse::ForeignKey.into(),
            // `sockets` says that of an address where nobody is.
            libc::ENOENT
            | libc::ECONNREFUSED
            | libc::ECONNRESET
            | libc::ECONNABORTED
            | libc::ENOTCONN
            | libc::EPIPE
            | libc::EHOSTUNREACH
            | libc::ENETUNREACH
            | libc::ESHUTDOWN
            | libc::ETIMEDOUT => Fatal::PeerGone.into(),
            _ => Fatal::QueueError.into(),
        }
    }

    /// There is no endpoint to hand anything to: of type MSG, between connections.
    #[cold]
    fn not_open(&self) -> Fatal {
        self.refusal.set(0);
        Fatal::PeerGone
    }

    /// Whether the endpoint can do what is asked of it, before anything is posted.
    pub(super) fn check_send(&self, wr: &SendWr<'_>) -> Result<(), Misuse> {
        let most = match wr.payload {
            Payload::Inject(_) => self.info.limits.inject_bytes_max,
            Payload::Posted { .. } => self.info.limits.message_bytes_max,
        };
        if wr.payload.bytes().len() > most {
            return Err(Misuse::TooLong);
        }
        self.check_extras(wr.tag, wr.immediate)
    }

    /// Whether it carries what goes with a message.
    pub(super) fn check_extras(
        &self,
        tag: Option<u64>,
        immediate: Option<u64>,
    ) -> Result<(), Misuse> {
        let caps = self.info.caps;
        let bits = tag.unwrap_or(0);
        let tag = tag.is_none() || (caps.has(Caps::TAGGED) && bits & !self.tag_bits == 0);
        let immediate = immediate.is_none() || caps.has(Caps::IMMEDIATE);
        if tag && immediate { Ok(()) } else { Err(Misuse::Unsupported) }
    }

    pub(super) fn send(&self, row: &Row, wr: &SendWr<'_>) -> Result<(), PostError> {
        let target = &Target { address: row.number.get(), tag: wr.tag, data: wr.immediate };
        match wr.payload {
            Payload::Inject(bytes) => {
                let small = bytes.len() <= self.inject_bytes_max;
                let marks = small && row.untold.get() >= self.info.limits.send_depth / 4 - 1;
                if small && !marks {
                    let sent = self.with_active(|active| active.inject(target, bytes));
                    let sent = sent.ok_or_else(|| self.not_open())?;
                    sent.map_err(|code| self.refused(code, Retry::NoSendRoom))?;
                    row.untold.set(row.untold.get() + 1);
                    self.count(|c| c.injected = c.injected.wrapping_add(1));
                    return Ok(());
                }
                if marks && row.marks.get() == MARKS_MAX {
                    return Err(Retry::NoCredit.into());
                }
                self.send_copy(target, wr.to, (bytes, marks))?;
                if marks {
                    row.untold.set(0);
                    row.marks.set(row.marks.get() + 1);
                }
                Ok(())
            }
            Payload::Posted { wr_id, sge } => {
                if self.sends.get() >= self.info.limits.send_depth {
                    return Err(Retry::CqFull.into());
                }
                self.launch(target, (wr_id, What::Send), (wr.to, sge))?;
                self.sends.set(self.sends.get() + 1);
                Ok(())
            }
        }
    }

    fn send_copy(
        &self,
        target: &Target,
        to: Addr,
        (bytes, mark): (&[u8], bool),
    ) -> Result<(), PostError> {
        let (slot, range) = self.copies.take(bytes).ok_or(Retry::NoSlot)?;
        let what = What::Copy { slot, mark };
        let sent = self.launch(target, (WrId::from_raw(0), what), (to, range));
        if sent.is_err() {
            self.copies.give_back(slot);
        } else {
            self.count(|c| c.copied = c.copied.wrapping_add(1));
        }
        sent
    }

    fn launch(
        &self,
        target: &Target,
        (wr_id, what): (WrId, What),
        (peer, range): (Addr, Sge),
    ) -> Result<(), PostError> {
        let descriptor = self.descriptor_of(&range)?;
        let (peer, room) = (Some(peer), range.length());
        let operation = Operation { wr_id, what, peer, range, room, ends: None, held: false };
        let space = self.contexts.enter(operation).ok_or(Retry::NoSlot)?;
        let sent = self.with_active(|active| active.send(target, (&range, descriptor), space));
        self.answered(sent, space)
    }

    /// What the endpoint has answered to an operation that has a space. Of one that was refused nothing is kept.
    #[inline]
    pub(super) fn answered(
        &self,
        answer: Option<Result<(), i32>>,
        space: usize,
    ) -> Result<(), PostError> {
        let refused = match answer {
            Some(Ok(())) => return Ok(()),
            Some(Err(code)) => self.refused(code, Retry::NoSendRoom),
            None => self.not_open().into(),
        };
        let _never_posted = self.contexts.end(space);
        Err(refused)
    }

    /// What comes of a message that was handed over, or refused.
    #[inline]
    pub(super) fn sent(
        &self,
        to: Addr,
        row: &Row,
        sent: Result<(), PostError>,
    ) -> Result<(), PostError> {
        sent.map_err(|refused| self.not_sent(to, row, refused))?;
        self.staged.set(self.staged.get() + 1);
        row.stuck_since.set(None);
        Ok(())
    }

    /// A message was refused. A peer that is not to be reached, or takes nothing for too long, is lost.
    #[cold]
    fn not_sent(&self, to: Addr, row: &Row, refused: PostError) -> PostError {
        // With the number that says why, where it is.
        let lost = match refused {
            PostError::Retry(Retry::NoSendRoom | Retry::NoCredit) => {
                let since = row.stuck_since.get().unwrap_or(self.turned.get());
                row.stuck_since.set(Some(since));
                let is_over = self.turned.get().saturating_since(since) > self.patience;
                is_over.then_some(libc::ETIMEDOUT)
            }
            PostError::Fatal(Fatal::PeerGone) => Some(self.refusal.take()),
            PostError::Retry(_) | PostError::Misuse(_) | PostError::Fatal(_) => None,
        };
        let Some(code) = lost else { return refused };
        self.lose(to, Standing::Gone, code.unsigned_abs());
        Fatal::PeerGone.into()
    }
}
