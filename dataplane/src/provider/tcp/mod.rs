//! Messages over TCP: a port over the byte streams of one ring, for endpoints on different machines.
//!
//! ```text
//!   post_send --> header, bytes --> Streams::write, or posted memory uncopied     ring_doorbell: one submission
//!                                         |
//!   ============================== one connection a pair ==============================
//!                                         |
//!   poll_cq  <-- Matcher <-- frames <-- bytes in a buffer that the kernel has picked
//!                   |           '-- a message that nobody asked for yet: matcher, else backlog of the connection
//!                   '-- copied once, as it comes, into the receive that takes it
//! ```
//!
//! | file | what it does |
//! |---|---|
//! | [`frame`] | what a connection speaks |
//! | `link` | one connection, and what has come by it that cannot be placed yet |
//! | `meet` | who has connected, and whether that is taken |
//! | `peers` | the address table: how peers come and go |
//! | `read` | bytes into messages |
//! | `hear` | what the streams say; the end of the port |
//! | `port` | the port: posting, polling |
//!
//! *Names.* A peer is known by the name of its endpoint. Where to connect is said by the table of routes, which the host fills; a socket
//! is taken from those that the host has opened beforehand, since nothing here makes any. Who connects to this port says its name, and
//! has a row of the address table from then on: answering it needs no route.
//!
//! *One connection a pair.* It is opened by the first message (RDM), by `connect` (MSG), or by [`TcpPort::reach`]. Until the other end
//! has answered, sends are refused with `NotConnected`. Where both ends connect at the same time, the connection of the one
//! with the lower name stays: the other answers to it and gives up its own.
//!
//! *Credit.* Each end takes a number of messages, and of their bytes, that nobody has asked for. What it holds of a connection beyond the
//! matcher's queue lies in the backlog of the connection, which has room for all that the credit allows; so a connection is
//! always read, neither end can wait for the other to read first, and a sender that is too fast is told `NoCredit`. Who sends more than it
//! may, or what is no frame, is cut off, and nobody else.
//!
//! *The end of a peer* is its goodbye, the end of its stream, a reset, or a timeout of the streams: `PeerGone`. What it had sent before
//! and has arrived is delivered first. What the network has not delivered by then is lost, and with it a kill of the
//! sending process may take messages along that a lane of shared memory would keep.

pub mod frame;
mod hear;
mod link;
mod meet;
mod peers;
mod port;
mod read;

use core::fmt;

use self::frame::LimitsError;
use super::secret::Secret;
use crate::msg::matching::MatchingConfig;
use crate::raw::place::Exhausted;
use crate::stream::{StreamConfig, StreamFeatures};
use crate::time::Nanos;
use spinwire_layouts::word::{to_usize, widen};

pub use frame::FrameFault;
pub use port::TcpPort;

/// How much a port holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TcpConfig {
    /// Rows of the address table.
    pub peers_max: u32,
    /// Sends whose completions may be outstanding; rounded up to a power of two.
    pub send_depth: u32,
    /// Receives and unexpected messages.
    pub matching: MatchingConfig,
    /// Longest message, in bytes: at most 2^24 - 1.
    pub message_bytes_max: u32,
    /// Messages of one peer that may be under way to here. Not more than so many are sent to one either, whatever it takes.
    pub credit_messages: u32,
    /// Their bytes: at least `message_bytes_max`. So much memory, and 64 bytes for each message, is kept for every peer.
    pub credit_bytes: u32,
    /// Rows of the table of routes.
    pub routes_max: u32,
    /// Sockets that the host may open beforehand.
    pub sockets_max: u32,
    /// How long the other end may take to say hello, to answer, or to let go.
    pub greeting_timeout: Nanos,
    /// How long a send may lack credit while the other end returns none. The kernel of a process that is stopped takes all that there is credit
    /// for, and answers every question of the network, so that nothing else tells that nobody reads. `MAX`, the default, for any time: a
    /// peer that turns and whose owner asks for nothing returns no credit either, and is not to be given up for that. Whoever
    /// sets it says how long an owner may take.
    pub credit_timeout: Nanos,
    /// By what peers know this end again that have lost the connection with it: random, and another for each port. [`Secret::NONE`]: they do not.
    pub secret: Secret,
}

impl Default for TcpConfig {
    /// 16 peers; 256 sends, 256 receives, 256 unexpected messages of up to 4 KiB; messages of up to 64 KiB, 64 of them or 256 KiB
    /// under way from each peer; five seconds to greet, and any time to return credit.
    fn default() -> Self {
        Self {
            peers_max: 16,
            send_depth: 256,
            matching: MatchingConfig {
                recv_depth: 256,
                unexpected_depth: 256,
                unexpected_bytes_max: 4096,
            },
            message_bytes_max: 64 << 10,
            credit_messages: 64,
            credit_bytes: 256 << 10,
            routes_max: 16,
            sockets_max: 16,
            greeting_timeout: Nanos::from_millis(5000),
            credit_timeout: Nanos::MAX,
            secret: Secret::NONE,
        }
    }
}

impl TcpConfig {
    /// Connections at once: one for each peer, and as many that begin or end.
    #[must_use]
    pub const fn conns(&self) -> u32 {
        self.peers_max.saturating_mul(2).saturating_add(4)
    }

    /// The limits that this end announces.
    #[must_use]
    pub const fn limits(&self) -> frame::Limits {
        frame::Limits {
            message_bytes_max: self.message_bytes_max,
            credit_messages: self.credit_messages,
            credit_bytes: self.credit_bytes,
        }
    }

    /// The streams for such a port: no connection is ever stopped because much waits to be sent on it, since two ends that do so could
    /// wait for each other.
    #[must_use]
    pub fn streams(&self, features: StreamFeatures) -> StreamConfig {
        let frame = self.message_bytes_max.saturating_add(256);
        let queue_max = frame.max(256 << 10);
        let each = 16_u32 << 10;
        let most = queue_max.saturating_mul(2).max(self.conns().saturating_mul(1 << 10));
        // Half of what is shared holds the longest message; one for each connection is kept.
        let rows = self.conns().saturating_add(1);
        let send = most.div_ceil(each).saturating_add(1).saturating_add(rows);
        let depth = self.send_depth.next_power_of_two();
        StreamConfig {
            conns: rows,
            recv_buffers: (self.conns().saturating_mul(2).clamp(16, 512), to_usize(widen(each))),
            send_buffers: (send, to_usize(widen(each))),
            segments: send.saturating_add(depth).saturating_add(rows),
            queue_high: u32::MAX,
            queue_low: queue_max / 2,
            queue_max,
            // Of peers that take nothing, none is to stop the others before its timeout comes.
            fair_sends: true,
            // A port says goodbye in its frames, and reads what has come before it closes.
            linger_timeout: Nanos::ZERO,
            features,
            ..StreamConfig::default()
        }
    }

    /// Bytes that the tables of such a port take in an arena, with some to spare for alignment.
    #[must_use]
    pub fn arena_bytes(&self) -> usize {
        let rows = to_usize(widen(self.peers_max));
        let links = to_usize(widen(self.conns())).saturating_add(rows);
        let bodies = self.matching.unexpected_bytes_max.saturating_add(256);
        [
            rows.saturating_add(2).saturating_mul(self.backlog_bytes().saturating_add(256)),
            links.saturating_mul(1024),
            to_usize(widen(self.matching.unexpected_depth)).saturating_mul(bodies),
            to_usize(widen(self.matching.recv_depth)).saturating_mul(384),
            to_usize(widen(self.send_depth.next_power_of_two())).saturating_mul(32),
            to_usize(widen(self.routes_max.saturating_add(self.sockets_max))).saturating_mul(128),
            64 << 10,
        ]
        .into_iter()
        .fold(0, usize::saturating_add)
    }

    /// Bytes of the backlog of a connection: all that a correct peer can have sent, frames of credit included.
    pub(super) const fn backlog_bytes(&self) -> usize {
        let headers = self.credit_messages.saturating_mul(2).saturating_add(16);
        let headers = headers.saturating_mul(32);
        to_usize(widen(self.credit_bytes.saturating_add(headers)))
    }
}

/// A socket that is not connected, of one of the two families.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SpareSocket {
    /// The descriptor, in blocking mode. The port's from now on.
    pub fd: i32,
    /// Whether it is one of IPv6.
    pub is_v6: bool,
}

/// What a port has seen and done so far.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct TcpCounters {
    /// Connections that came up.
    pub connected: u64,
    /// Connections that were cut off because their other end wrote what no correct peer writes.
    pub corrupt: u64,
    /// Connections that were not taken.
    pub refused: u64,
    /// Connections whose other end did not greet, answer, return credit or let go in time.
    pub expired: u64,
    /// Messages that were put into the backlog of their connection.
    pub kept: u64,
    /// Posted sends that went uncopied.
    pub uncopied: u64,
}

/// Why a port could not be opened.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum PortOpenError {
    /// One of its limits cannot be.
    Limits(LimitsError),
    /// Streams are of types MSG and RDM.
    Type,
    /// Its streams have too few connections or too little room for the longest message.
    Streams,
    /// The arena is too small for its tables.
    Arena(Exhausted),
}

impl fmt::Display for PortOpenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Limits(e) => e.fmt(f),
            Self::Type => f.write_str("endpoint_type: over TCP it is msg or rdm"),
            Self::Streams => f.write_str(
                "streams: too few connections or buffers; place them with TcpConfig::streams",
            ),
            Self::Arena(e) => e.fmt(f),
        }
    }
}

impl core::error::Error for PortOpenError {}

impl From<Exhausted> for PortOpenError {
    fn from(value: Exhausted) -> Self {
        Self::Arena(value)
    }
}

impl From<LimitsError> for PortOpenError {
    fn from(value: LimitsError) -> Self {
        Self::Limits(value)
    }
}
