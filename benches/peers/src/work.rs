//! What is measured: a round trip or a one-way stream of messages of one size, what is done with a
//! buffer of that size, or requests to a server over TCP.

use core::fmt;

use serde::Serialize;

/// The shape of a work: what its figure is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Kind {
    /// One message there, one back, nothing else in flight; or one operation: nanoseconds, less is
    /// better.
    Rtt,
    /// Messages one way, operations, or requests with their answers, as fast as both sides can: so
    /// many a second, more is better.
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
    /// A server sends back what it gets, over TCP.
    Echo {
        /// Connections.
        connections: u32,
    },
    /// A server answers commands of the Redis protocol, over TCP.
    Resp {
        /// The command.
        command: Command,
        /// Commands that a connection sends at once.
        pipeline: u32,
    },
}

/// A command of the Redis protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Command {
    /// Reads a value.
    Get,
    /// Writes a value.
    Set,
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

/// Bytes of a value: what `redis-benchmark` does unasked.
const VALUE: u32 = 3;

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

    /// Requests of `size` bytes to an echo server: with one connection a round trip, else a rate.
    pub(crate) const fn echo(size: u32, connections: u32) -> Self {
        let kind = if connections == 1 { Kind::Rtt } else { Kind::Stream };
        Self { kind, size, subject: Subject::Echo { connections } }
    }

    /// Commands of the Redis protocol, so many at once.
    pub(crate) const fn resp(command: Command, pipeline: u32) -> Self {
        Self { kind: Kind::Stream, size: VALUE, subject: Subject::Resp { command, pipeline } }
    }

    /// Every work, in the order of the table.
    pub(crate) const ALL: [Self; 24] = [
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
        Self::echo(64, 1),
        Self::echo(64, 16),
        Self::echo(64, 128),
        Self::echo(64, 1024),
        Self::echo(16 << 10, 1),
        Self::echo(16 << 10, 16),
        Self::echo(1 << 20, 1),
        Self::echo(1 << 20, 16),
        Self::resp(Command::Get, 1),
        Self::resp(Command::Set, 1),
        Self::resp(Command::Get, 16),
        Self::resp(Command::Set, 16),
    ];

    /// Whether something goes from one side to the other, so that a line that does is its floor.
    pub(crate) fn is_message(self) -> bool {
        self.is_copied() || self.subject == Subject::Lend
    }

    /// Whether messages are sent whose bytes are copied in and out.
    pub(crate) fn is_copied(self) -> bool {
        self.subject == Subject::Message
    }

    /// Whether it goes over TCP, so that a pair of plain sockets is its floor.
    pub(crate) const fn is_socket(self) -> bool {
        matches!(self.subject, Subject::Echo { .. } | Subject::Resp { .. })
    }

    /// The word that `--only` takes for this work and others like it.
    pub(crate) const fn group(self) -> &'static str {
        match self.subject {
            Subject::Message => "messages",
            Subject::Lend | Subject::Acquire | Subject::Get | Subject::Two => "buffers",
            Subject::Echo { .. } => "echo",
            Subject::Resp { .. } => "resp",
        }
    }

    /// The word that `--only` takes for this work: `rtt64`, `get4096`, `echo64x16`, `respget1`.
    pub(crate) fn word(self) -> String {
        let what = match (self.subject, self.kind) {
            (Subject::Message, Kind::Rtt) => "rtt",
            (Subject::Message, Kind::Stream) => "stream",
            (Subject::Lend, _) => "lend",
            (Subject::Acquire, _) => "acquire",
            (Subject::Get, _) => "get",
            (Subject::Two, _) => "two",
            (Subject::Echo { connections: 1 }, _) => "echo",
            (Subject::Echo { connections }, _) => {
                return format!("echo{}x{connections}", self.size);
            }
            (Subject::Resp { command: Command::Get, pipeline }, _) => {
                return format!("respget{pipeline}");
            }
            (Subject::Resp { command: Command::Set, pipeline }, _) => {
                return format!("respset{pipeline}");
            }
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
            (Subject::Echo { .. }, _) => "echo",
            (Subject::Resp { command: Command::Get, pipeline }, _) => {
                return write!(f, "RESP GET -P {pipeline}");
            }
            (Subject::Resp { command: Command::Set, pipeline }, _) => {
                return write!(f, "RESP SET -P {pipeline}");
            }
        };
        if self.size.is_multiple_of(1024) {
            write!(f, "{what} {} KiB", self.size / 1024)?;
        } else {
            write!(f, "{what} {} B", self.size)?;
        }
        match self.subject {
            Subject::Echo { connections } if connections > 1 => write!(f, " x {connections}"),
            _ => Ok(()),
        }
    }
}
