//! What is measured: a round trip or a one-way stream of messages of one size, or what is done with
//! a buffer of that size.

use core::fmt;

use serde::Serialize;

/// The shape of a work: what its figure is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Kind {
    /// One message there, one back, nothing else in flight; or one operation: nanoseconds, less is
    /// better.
    Rtt,
    /// Messages one way, or operations, as fast as both sides can: so many a second, more is
    /// better.
    Stream,
}

/// What is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Subject {
    /// Messages go from one side to the other.
    Message,
    /// A buffer goes from one side to the other and back, uncopied.
    Lend,
    /// One process takes a buffer and lets go of it.
    Acquire,
    /// One process looks up a buffer of another by its id, and lets go of it.
    Get,
    /// Two processes take buffers of one class and let go of them, at the same time.
    Two,
}

/// One work: a kind and a payload size in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Work {
    /// Time or rate.
    pub(crate) kind: Kind,
    /// Payload bytes of one message or buffer.
    pub(crate) size: u32,
    /// Of what.
    pub(crate) subject: Subject,
}

/// Bytes of the buffers.
const BUFFER: u32 = 4096;

impl Work {
    /// A round trip of `size` bytes.
    pub(crate) const fn rtt(size: u32) -> Self {
        Self { kind: Kind::Rtt, size, subject: Subject::Message }
    }

    /// A stream of messages of `size` bytes.
    pub(crate) const fn stream(size: u32) -> Self {
        Self { kind: Kind::Stream, size, subject: Subject::Message }
    }

    /// A buffer of 1 MiB there and back.
    pub(crate) const LEND: Self = Self { kind: Kind::Rtt, size: 1 << 20, subject: Subject::Lend };

    /// A buffer taken and let go.
    pub(crate) const ACQUIRE: Self =
        Self { kind: Kind::Rtt, size: BUFFER, subject: Subject::Acquire };

    /// A buffer of another process looked up and let go.
    pub(crate) const GET: Self = Self { kind: Kind::Rtt, size: BUFFER, subject: Subject::Get };

    /// Buffers taken and let go by two processes.
    pub(crate) const TWO: Self = Self { kind: Kind::Stream, size: BUFFER, subject: Subject::Two };

    /// Every work, in the order of the table.
    pub(crate) const ALL: [Self; 12] = [
        Self::rtt(32),
        Self::rtt(64),
        Self::rtt(4096),
        Self::rtt(65536),
        Self::stream(32),
        Self::stream(64),
        Self::stream(4096),
        Self::stream(65536),
        Self::LEND,
        Self::ACQUIRE,
        Self::GET,
        Self::TWO,
    ];

    /// Whether something goes from one side to the other, so that a line that does is its floor.
    pub(crate) fn is_message(self) -> bool {
        self.is_copied() || self.subject == Subject::Lend
    }

    /// Whether messages are sent whose bytes are copied in and out.
    pub(crate) fn is_copied(self) -> bool {
        self.subject == Subject::Message
    }

    /// The word that `--only` takes for this work: `rtt64`, `stream4096`, `get4096`.
    pub(crate) fn word(self) -> String {
        let what = match (self.subject, self.kind) {
            (Subject::Message, Kind::Rtt) => "rtt",
            (Subject::Message, Kind::Stream) => "stream",
            (Subject::Lend, _) => "lend",
            (Subject::Acquire, _) => "acquire",
            (Subject::Get, _) => "get",
            (Subject::Two, _) => "two",
        };
        format!("{what}{}", self.size)
    }
}

impl fmt::Display for Work {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let what = match (self.subject, self.kind) {
            (Subject::Message, Kind::Rtt) => "round trip",
            (Subject::Message, Kind::Stream) => "stream",
            (Subject::Lend, _) => "pool lend",
            (Subject::Acquire, _) => "pool acquire",
            (Subject::Get, _) => "pool get",
            (Subject::Two, _) => "pool two",
        };
        if self.size.is_multiple_of(1024) {
            write!(f, "{what} {} KiB", self.size / 1024)
        } else {
            write!(f, "{what} {} B", self.size)
        }
    }
}
