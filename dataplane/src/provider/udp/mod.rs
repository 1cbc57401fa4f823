//! Messages over UDP, one in a packet: endpoints of type DGRAM on a ring of io_uring.
//!
//! ```text
//!   post_send ──> slot: header, address, vector ──doorbell──> SENDMSG ──> network     one submission each, one call for all
//!   network ──> RECVMSG, again and again, into provided buffers ──> header checked ──> sender's row ──> Matcher
//!               (or one by one, into buffers of slots)                  |                 |
//!                                                                  garbage: counted    new: takes a row, or the oldest's
//! ```
//!
//! | file | what it does |
//! |---|---|
//! | [`datagram`] | what a packet looks like |
//! | `peers` | routes by name, and the table of addresses |
//! | `port` | the provider: posting, polling |
//! | `send` | slots of sends |
//! | `receive` | what has come |
//!
//! *Nothing is promised* (`EndpointType::Dgram`): a packet may be lost, come twice or out of order, and a send completes when the kernel has taken it,
//! or refused it. What was lost is counted where this end can know: packets that the kernel refused to send, packets for which the
//! socket had no room (`SO_RXQ_OVFL`, where the host has asked for it), and messages that nobody had asked for when the queue of
//! unexpected ones was full or too narrow.
//!
//! *Addresses.* A peer that is connected to by name takes a row of the table, by a route that the host has resolved; it keeps it until it is
//! disconnected. A sender that was never connected to takes one, too. Where the table is full, the row goes to it that was silent the
//! longest, if that was for [`UdpConfig::age_min`] and nothing of it waits; its address is stale then. Else the packet is dropped and counted. Nobody can be
//! seen to leave: there is no `PeerGone`, and a port that nobody listens at ends nothing.
//!
//! *Bytes that are too many.* A message longer than the receive it goes to is cut, and so is one longer than the buffers of this end
//! ([`UdpConfig::message_bytes_max`], and up to a cache line more): `Status::Truncated`. One that was cut and that nobody had asked for is dropped.
//!
//! The socket has to be in blocking mode, as for [`stream`](crate::stream). The ring carries this port alone.
//!
//! Invariants: (1) a slot of a send is free, staged, rung, with the kernel, or done: in one list, or in the kernel's hands; (2) a packet is
//! delivered, stashed or dropped at once, so that its buffer goes back; only where a batch of completions is full does one wait;
//! (3) a row is in the list of its hash as long as it has an address.

pub mod datagram;
pub(super) mod peers;
mod port;
mod receive;
mod send;

use core::fmt;

use spinwire_layouts::uring::SockAddr;

use crate::id::Name;
use crate::msg::matching::MatchingConfig;
use crate::raw::place::Exhausted;
use crate::time::Nanos;

pub use peers::Routes;
pub use port::UdpPort;

/// Where a peer is found.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Route {
    /// What it is called.
    pub name: Name,
    /// Its address.
    pub address: SockAddr,
}

/// How much a port holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct UdpConfig {
    /// Rows of the address table.
    pub peers_max: u32,
    /// For how long a sender that was never connected to must have been silent before its row is given to another.
    pub age_min: Nanos,
    /// Sends whose completions may be outstanding.
    pub send_depth: u32,
    /// Longest message, in bytes: at most [`DATAGRAM_LENGTH_MAX`](spinwire_layouts::wire::datagram::DATAGRAM_LENGTH_MAX).
    pub message_bytes_max: usize,
    /// Buffers that packets come into.
    pub recv_buffers: u32,
    /// Packets come by one submission, into provided buffers that the host registers; else one by one.
    pub multishot: bool,
    /// Receives and unexpected messages.
    pub matching: MatchingConfig,
}

impl Default for UdpConfig {
    /// 64 peers, 64 sends, messages of up to 1,432 bytes (what an Ethernet frame holds), 256 buffers.
    fn default() -> Self {
        Self {
            peers_max: 64,
            age_min: Nanos::from_millis(1000),
            send_depth: 64,
            message_bytes_max: 1432,
            recv_buffers: 256,
            multishot: false,
            matching: MatchingConfig {
                recv_depth: 256,
                unexpected_depth: 64,
                unexpected_bytes_max: 1432,
            },
        }
    }
}

/// Why a port could not be placed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum UdpPlaceError {
    /// The arena of the ring is too small.
    Arena(Exhausted),
    /// No packet holds so much.
    MessageBytes {
        /// [`UdpConfig::message_bytes_max`].
        asked: usize,
    },
}

impl fmt::Display for UdpPlaceError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Arena(e) => e.fmt(f),
            Self::MessageBytes { asked } => write!(
                f,
                "message_bytes_max: {asked} is more than a packet holds; take at most {}",
                spinwire_layouts::wire::datagram::DATAGRAM_LENGTH_MAX
            ),
        }
    }
}

impl core::error::Error for UdpPlaceError {}

impl From<Exhausted> for UdpPlaceError {
    fn from(value: Exhausted) -> Self {
        Self::Arena(value)
    }
}

/// What a port has seen and done so far.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct UdpCounters {
    /// Packets that the kernel took.
    pub sent: u64,
    /// Packets that the kernel refused: lost.
    pub send_errors: u64,
    /// Why it has refused the last of them: an `errno`; 0 where it has refused none.
    pub send_errno: u32,
    /// Packets that came, whatever they were.
    pub received: u64,
    /// Packets that were no messages.
    pub garbage: u64,
    /// Messages that nobody had asked for, and that did not fit into the queue of those: lost.
    pub unasked: u64,
    /// Packets of senders for whom there was no row: lost.
    pub crowded: u64,
    /// Senders whose row was given to another.
    pub aged: u64,
    /// Packets that the kernel had no room for, as far as it says: lost.
    pub overflowed: u64,
    /// Receives that ended with an error, and were begun again.
    pub recv_errors: u64,
    /// Completions that belong to nothing.
    pub stale: u64,
}
