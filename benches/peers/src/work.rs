//! What is measured: a round trip or a one-way stream, of messages of one size.

use core::fmt;

use serde::Serialize;

/// The shape of a work.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Kind {
    /// One message there, one back, nothing else in flight: nanoseconds, less is better.
    Rtt,
    /// Messages one way, as fast as both sides can: messages a second, more is better.
    Stream,
}

/// One work: a kind and a payload size in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Work {
    /// Round trip or stream.
    pub(crate) kind: Kind,
    /// Payload bytes of one message.
    pub(crate) size: u32,
}

impl Work {
    /// A round trip of `size` bytes.
    pub(crate) const fn rtt(size: u32) -> Self {
        Self { kind: Kind::Rtt, size }
    }

    /// A stream of messages of `size` bytes.
    pub(crate) const fn stream(size: u32) -> Self {
        Self { kind: Kind::Stream, size }
    }

    /// Every work, in the order of the table.
    pub(crate) const ALL: [Self; 8] = [
        Self::rtt(32),
        Self::rtt(64),
        Self::rtt(4096),
        Self::rtt(65536),
        Self::stream(32),
        Self::stream(64),
        Self::stream(4096),
        Self::stream(65536),
    ];

    /// The word that `--only` takes for this work: `rtt64`, `stream4096`.
    pub(crate) fn word(self) -> String {
        match self.kind {
            Kind::Rtt => format!("rtt{}", self.size),
            Kind::Stream => format!("stream{}", self.size),
        }
    }
}

impl fmt::Display for Work {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match self.kind {
            Kind::Rtt => "round trip",
            Kind::Stream => "stream",
        };
        if self.size.is_multiple_of(1024) {
            write!(f, "{kind} {} KiB", self.size / 1024)
        } else {
            write!(f, "{kind} {} B", self.size)
        }
    }
}
