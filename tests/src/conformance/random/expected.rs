//! What is to come of the calls at one end, in the plainest code that there is.

use std::collections::VecDeque;

use spinwire_dataplane::id::WrId;
use spinwire_dataplane::provider::Status;

use super::calls::{WORDS, Wanted};

/// A receive that is posted.
pub(super) struct Posted {
    pub(super) id: WrId,
    pub(super) wanted: Wanted,
    pub(super) is_directed: bool,
    pub(super) room: usize,
    /// For many messages: it is given back with fewer free bytes than this.
    pub(super) many: Option<usize>,
    /// Where its next message goes.
    pub(super) offset: usize,
}

/// A message, by its number.
#[derive(Clone, Debug)]
pub(super) struct Message {
    pub(super) tag: Option<u64>,
    pub(super) bytes: Vec<u8>,
    pub(super) number: u64,
}

/// A completion of a receive that is due.
#[derive(Debug)]
pub(super) struct Due {
    pub(super) id: WrId,
    pub(super) status: Status,
    /// What it brings, as far as there was room.
    pub(super) message: Option<Message>,
    /// Where it is in the buffer.
    pub(super) offset: usize,
    /// Whether the buffer comes back.
    pub(super) is_end: bool,
    /// The tag that the error entry says, where there is no message.
    pub(super) waited_for: Option<u64>,
}

impl Due {
    fn ended(posted: &Posted, status: Status) -> Self {
        let waited_for = if status == Status::Success { None } else { posted.wanted.tag() };
        Self { id: posted.id, status, message: None, offset: 0, is_end: true, waited_for }
    }
}

/// How a one-sided operation ends.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Done {
    Written,
    /// So many words were there.
    Read([u64; WORDS], usize),
    /// This was there before.
    Atomic(u64),
}

/// What is known of one end.
#[derive(Default)]
pub(super) struct Expected {
    pub(super) posted: Vec<Posted>,
    pub(super) waiting: VecDeque<Message>,
    /// Those of one receive in their order, and else in none.
    pub(super) due: Vec<Due>,
    /// Sends whose completions are due.
    pub(super) sends: Vec<WrId>,
    /// One-sided operations whose completions are due.
    pub(super) remote: Vec<(WrId, Done)>,
    /// What it has exposed.
    pub(super) memory: [u64; WORDS],
}

impl Expected {
    pub(super) const fn is_settled(&self) -> bool {
        self.due.is_empty() && self.sends.is_empty() && self.remote.is_empty()
    }

    /// A receive is posted: it takes what waits.
    pub(super) fn post(&mut self, posted: Posted) {
        self.posted.push(posted);
        for message in core::mem::take(&mut self.waiting) {
            self.deliver(message);
        }
    }

    /// A message has come. It goes to the first receive that takes it, or waits.
    pub(super) fn deliver(&mut self, message: Message) {
        loop {
            let takes = |posted: &Posted| posted.wanted.takes(message.tag);
            let Some(at) = self.posted.iter().position(takes) else {
                self.waiting.push_back(message);
                return;
            };
            let posted = &mut self.posted[at];
            let free = posted.room - posted.offset;
            if message.bytes.len() > free && posted.offset > 0 {
                // Too full: it is given back, and the next has its turn.
                let full = self.posted.remove(at);
                self.due.push(Due::ended(&full, Status::Success));
                continue;
            }
            let delivered = message.bytes.len().min(free);
            let is_cut = delivered < message.bytes.len();
            let end = (posted.offset + delivered).next_multiple_of(8);
            let left = posted.room.saturating_sub(end);
            let is_end = posted.many.is_none_or(|least| left == 0 || left < least);
            self.due.push(Due {
                id: posted.id,
                status: if is_cut { Status::Truncated } else { Status::Success },
                offset: posted.offset,
                is_end,
                waited_for: None,
                message: Some(Message { bytes: message.bytes[..delivered].to_vec(), ..message }),
            });
            posted.offset = end;
            if is_end {
                self.posted.remove(at);
            }
            return;
        }
    }

    /// The oldest message that waits and that such a receive takes.
    pub(super) fn first_waiting(&self, wanted: Wanted) -> Option<usize> {
        self.waiting.iter().position(|message| wanted.takes(message.tag))
    }

    /// A receive is taken back.
    pub(super) fn cancel(&mut self, which: usize) -> WrId {
        let posted = self.posted.remove(which);
        self.due.push(Due::ended(&posted, Status::Cancelled));
        posted.id
    }

    /// The other end is lost to those receives: they end like that.
    pub(super) fn bereave(&mut self, status: Status, whose: impl Fn(&Posted) -> bool) {
        let (lost, stay) = core::mem::take(&mut self.posted).into_iter().partition(whose);
        self.posted = stay;
        let lost: Vec<Posted> = lost;
        self.due.extend(lost.iter().map(|posted| Due::ended(posted, status)));
    }
}
