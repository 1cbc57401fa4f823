//! What matching should do, in the plainest code that there is: lists that are searched from the front.
//!
//! ```text
//!   post --> posted: [receive, receive, ..]      each in the order of posting
//!   send --> lanes:  [message, ..] for each sender
//!   poll --> waiting: [message, ..] in the order of arrival;  completions
//! ```
//!
//! A poll looks at the waiting messages first, oldest first, then at one lane after the other. A message goes to the first
//! posted receive that takes it. One that nobody takes waits, if there is room and it is short enough; otherwise it stays in
//! its lane, with all that follow. Once a poll has given as many completions as there is room for, nothing moves any more.

use std::collections::VecDeque;

use spinwire_dataplane::provider::Status;

/// A message.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Message {
    /// Which sender.
    pub sender: usize,
    /// Which message.
    pub number: u64,
    /// Its tag.
    pub tag: Option<u64>,
    /// Its bytes.
    pub length: usize,
}

/// Which messages a receive takes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Wanted {
    /// Of that sender only.
    pub sender: Option<usize>,
    /// Tagged ones: the tag, and the bits of it that do not count.
    pub tagged: Option<(u64, u64)>,
}

impl Wanted {
    /// Whether a message is meant.
    #[must_use]
    pub fn takes(&self, message: &Message) -> bool {
        let sender = self.sender.is_none() || self.sender == Some(message.sender);
        let tag = match (self.tagged, message.tag) {
            (None, None) => true,
            (Some((tag, ignore)), Some(other)) => tag | ignore == other | ignore,
            _ => false,
        };
        sender && tag
    }
}

/// A posted receive.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Receive {
    /// Which one.
    pub id: u64,
    /// What it takes.
    pub wanted: Wanted,
    /// Bytes of its buffer.
    pub room: usize,
    /// For many messages, with so many free bytes at least.
    pub many: Option<usize>,
    /// Where its next message goes.
    pub offset: usize,
}

/// A completion.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Done {
    /// Of which receive.
    pub id: u64,
    /// How it ended.
    pub status: Status,
    /// Which message.
    pub message: Option<u64>,
    /// Where it lies in the buffer, and how long it is there.
    pub place: (usize, usize),
    /// Whether the buffer is back.
    pub returned: bool,
}

/// The whole state.
#[derive(Clone, Debug)]
pub struct Oracle {
    recv_depth: usize,
    waiting_depth: usize,
    waiting_bytes_max: usize,
    posted: Vec<Receive>,
    waiting: Vec<Message>,
    lanes: Vec<VecDeque<Message>>,
}

impl Oracle {
    /// Nothing posted, nothing sent.
    #[must_use]
    pub fn new(
        senders: usize,
        recv_depth: usize,
        waiting_depth: usize,
        waiting_bytes_max: usize,
    ) -> Self {
        let lanes = vec![VecDeque::new(); senders];
        let (posted, waiting) = (Vec::new(), Vec::new());
        Self { recv_depth, waiting_depth, waiting_bytes_max, posted, waiting, lanes }
    }

    /// Posts a receive. Returns whether there was room.
    pub fn post(&mut self, receive: Receive) -> bool {
        let room = self.posted.len() < self.recv_depth;
        if room {
            self.posted.push(receive);
        }
        room
    }

    /// Puts a message into the lane of its sender.
    pub fn send(&mut self, message: Message) {
        self.lanes[message.sender].push_back(message);
    }

    /// Takes a receive back. Returns whether it was posted.
    pub fn cancel(&mut self, id: u64) -> bool {
        let at = self.posted.iter().position(|receive| receive.id == id);
        at.map(|at| self.posted.remove(at)).is_some()
    }

    /// The ids of the receives that only this sender could have filled. They are not posted any more.
    pub fn lose(&mut self, sender: usize) -> Vec<u64> {
        let lost = |receive: &Receive| receive.wanted.sender == Some(sender);
        let ids = self.posted.iter().filter(|r| lost(r)).map(|r| r.id).collect();
        self.posted.retain(|receive| !lost(receive));
        ids
    }

    /// The oldest waiting message that such a receive would take.
    #[must_use]
    pub fn peek(&self, wanted: &Wanted) -> Option<Message> {
        self.waiting.iter().find(|message| wanted.takes(message)).copied()
    }

    /// The ids of all that is posted, in the order of posting.
    #[must_use]
    pub fn posted(&self) -> Vec<u64> {
        self.posted.iter().map(|receive| receive.id).collect()
    }

    /// How many messages wait.
    #[must_use]
    pub const fn waiting(&self) -> usize {
        self.waiting.len()
    }

    /// Looks at everything, for at most `room` completions.
    pub fn poll(&mut self, room: usize) -> Vec<Done> {
        let mut done = Vec::new();
        let mut at = 0;
        while at < self.waiting.len() {
            if done.len() >= room {
                return done;
            }
            match self.offer(self.waiting[at]) {
                None => at += 1,
                Some(one) => {
                    if one.message.is_some() {
                        self.waiting.remove(at);
                    }
                    done.push(one);
                }
            }
        }
        for lane in 0..self.lanes.len() {
            while let Some(&message) = self.lanes[lane].front() {
                if done.len() >= room {
                    return done;
                }
                match self.offer(message) {
                    Some(one) => {
                        if one.message.is_some() {
                            self.lanes[lane].pop_front();
                        }
                        done.push(one);
                    }
                    None if self.waiting.len() < self.waiting_depth
                        && message.length <= self.waiting_bytes_max =>
                    {
                        self.lanes[lane].pop_front();
                        self.waiting.push(message);
                    }
                    None => break,
                }
            }
        }
        done
    }

    /// Gives a message to the first receive that takes it. What comes of it may be a receive that is given back instead,
    /// because it is too full.
    fn offer(&mut self, message: Message) -> Option<Done> {
        let at = self.posted.iter().position(|receive| receive.wanted.takes(&message))?;
        let receive = self.posted[at];
        let free = receive.room - receive.offset;
        if message.length > free && receive.offset > 0 {
            self.posted.remove(at);
            let (id, status) = (receive.id, Status::Success);
            return Some(Done { id, status, message: None, place: (0, 0), returned: true });
        }
        let length = message.length.min(free);
        let end = (receive.offset + length).next_multiple_of(8);
        let left = receive.room.saturating_sub(end);
        let returned = match receive.many {
            None => true,
            Some(least) => left == 0 || left < least,
        };
        if returned {
            self.posted.remove(at);
        } else {
            self.posted[at].offset = end;
        }
        Some(Done {
            id: receive.id,
            status: if length < message.length { Status::Truncated } else { Status::Success },
            message: Some(message.number),
            place: (receive.offset, length),
            returned,
        })
    }
}
