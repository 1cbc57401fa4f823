//! Messages over reliable connections of RDMA devices, whichever: everything below is a [`QueuePair`](crate::verbs::QueuePair) and a
//! [`CompletionQueue`](crate::verbs::CompletionQueue).
//!
//! ```text
//!   post_send --> copy -> slot, or the buffer itself --> one send a piece     ==== in order ====>   receive, receive ..
//!                 one doorbell a turn for each connection                                              | completion
//!   poll_cq  <-- completions of sends <-- list of the send queue                                       v
//!                                                                 matcher <-- pieces that have come whole, in their slots
//!                 credit  <---- with the next message, or by itself where much is due ----   copied once: receive posted again
//! ```
//!
//! | file | what it does |
//! |---|---|
//! | [`piece`] | the header of a piece |
//! | `memory` | registered memory: slots, and the arena of loans |
//! | `link` | one connection: its queue pair, what is posted on it, credit |
//! | `names` | what work requests are called |
//! | `sends`, `receives` | those posted on it, and again |
//! | `life` | whether anybody is at the other end |
//! | `out` | messages into pieces |
//! | `hear` | completions, and what has come with them |
//! | `read` | messages out of their slots into receives |
//! | `parts` | messages of several parts, both ways |
//! | `datagrams`, `datagram_config`, `source` | the port for datagrams (UD), how much it holds, and who has sent one |
//! | `one_sided` | reads, writes and atomics on memory of peers; memory that peers are let into |
//! | `peers`, `meet` | the address table; how connections begin and end |
//! | `host` | what the host is asked for, and answers |
//!
//! *Copies.* A message that is short, or in memory that the device does not know, is copied into a slot; a longer one of the arena of loans is
//! gathered by the device from where it lies. At the other end it is copied once, out of its slots into the receive that takes it. Messages that
//! fit into a slot are one work request; those without tag and immediate go without header.
//!
//! *Credit.* Each end knows how many receives the other one has posted, and never sends without one, so that no device has to ask again. Receives
//! for messages and receives for control are counted apart: messages that nobody has asked for stay in their slots and keep their
//! receives, while credit and goodbyes still go. So two ends that send as fast as they can never wait for each other to read.
//!
//! *Who makes queue pairs* is the host ([`Request`]): one port serves MSG and RDM, over one connection or over as many as there are peers that are
//! spoken to.
//!
//! *One-sided operations* are the device's own. What the peer's device does not let in ends with `RemoteAccess`, and with it ends the connection, as
//! reliable connections have it: the peer is gone then, and has to be connected to anew.
//!
//! *The end.* A peer that leaves says goodbye. One that dies is noticed by a send that fails, or by the host ([`RdmaPort::lost`]): a reliable
//! connection on which nothing is sent says nothing of its other end, unless it is asked now and then ([`RdmaConfig::keepalive`]).

use core::fmt;

use spinwire_layouts::wire::hello::HELLO_BYTES;
use spinwire_layouts::word::{from_usize, to_usize, widen};

use super::secret::Secret;
use super::tcp::frame::{Limits as FrameLimits, LimitsError};
use super::{Caps, EndpointType, Info, LatencyClass, Limits as PortLimits, Modes};
use crate::msg::matching::MatchingConfig;
use crate::raw::line::LINE_BYTES;
use crate::raw::place::Exhausted;
use crate::time::Nanos;
use crate::verbs::Limits;

mod datagram_config;
mod datagrams;
mod hear;
mod host;
mod life;
mod link;
mod meet;
mod memory;
mod names;
mod one_sided;
mod out;
mod parts;
mod peers;
pub mod piece;
mod port;
mod read;
mod receives;
mod sends;
mod source;

pub use crate::raw::region::{Loans, Registrar};
pub use datagram_config::{DatagramCounters, RdmaDatagramsConfig};
pub use datagrams::{Mailbox, RdmaDatagrams};
pub use host::{LinkId, Rejected, Request, Unreachable};
pub use memory::Memory;
pub use port::RdmaPort;
pub use source::Gid;

/// Most polls of one look, so that every turn ends soon.
pub const POLLS_MAX: u32 = 1024;
/// Least receives for messages.
const PAIR_SLOTS_MIN: u32 = 8;
/// Least bytes of a slot: a hello fits.
const SLOT_BYTES_MIN: u32 = 128;
const _: () = assert!(from_usize(HELLO_BYTES) <= widen(SLOT_BYTES_MIN), "a hello is one piece");

/// How much a port holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RdmaConfig {
    /// Rows of the address table.
    pub peers_max: u32,
    /// Connections at once, those that begin or end included: two more than peers that are spoken to at once are enough.
    pub links: u32,
    /// Sends whose completions may be outstanding; rounded up to a power of two.
    pub send_depth: u32,
    /// Receives and unexpected messages.
    pub matching: MatchingConfig,
    /// Longest message, in bytes: at most 2^24 - 1, and what three quarters of the slots of a connection hold. To a peer with fewer or smaller
    /// slots less goes, and a longer send is refused with `TooLong`.
    pub message_bytes_max: u32,
    /// Pieces of messages that may be under way to here on each connection: at least 8.
    pub slots: u32,
    /// Bytes of a piece, 32 of them for the header: a multiple of 64, at least 128. A message that fits is one work request.
    pub slot_bytes: u32,
    /// From this many bytes on a posted buffer of the arena of loans is sent from where it lies.
    pub uncopied_bytes_min: u32,
    /// Whether the device has atomics: without, nobody is promised any.
    pub atomics: bool,
    /// How often a look asks a completion queue that has nothing before it goes back to the caller; 0 counts as 1, and more than [`POLLS_MAX`] as that. More than one are for a port that is all its
    /// thread turns for: most of its time goes into asking then, and little into the way around, in which nothing is seen to come. On a
    /// thread that turns for others too they would wait for it.
    pub polls: u32,
    /// Names that may be connected to.
    pub routes_max: u32,
    /// Buffers that peers may be let into at once, where there is a [`Registrar`].
    pub exposed_max: u32,
    /// How long the other end may take to say hello, to answer, or to let go, and the host to connect.
    pub greeting_timeout: Nanos,
    /// A connection on which nothing has come for so long is asked for a sign of life, which the device of the other end gives; where none is given for as
    /// long again, the peer is gone. `Nanos::MAX`: never; then one that vanishes without a word is noticed by the next send. The queue pairs have to let
    /// their other ends write (`IBV_ACCESS_REMOTE_WRITE`): a write of nothing is the question. The clock is looked at in one of four turns that find nothing.
    pub keepalive: Nanos,
    /// Whether its host can wake a thread that sleeps ([`Caps::DESCRIPTOR`]).
    pub descriptor: bool,
    /// By what peers know this end again that have lost the connection with it: random, and another for each port. [`Secret::NONE`]: they do not.
    pub secret: Secret,
}

impl Default for RdmaConfig {
    /// One peer; 256 sends, 256 receives, 256 unexpected messages of up to 4 KiB; messages of up to 64 KiB in pieces of 8 KiB, 32 of which may be
    /// under way; uncopied from 4 KiB on; one poll a look; five seconds to greet; nobody is asked for signs of life.
    fn default() -> Self {
        Self {
            peers_max: 1,
            links: 3,
            send_depth: 256,
            matching: MatchingConfig {
                recv_depth: 256,
                unexpected_depth: 256,
                unexpected_bytes_max: 4096,
            },
            message_bytes_max: 64 << 10,
            slots: 32,
            slot_bytes: 8 << 10,
            uncopied_bytes_min: 4096,
            atomics: true,
            polls: 1,
            routes_max: 4,
            exposed_max: 16,
            greeting_timeout: Nanos::from_millis(5000),
            keepalive: Nanos::MAX,
            descriptor: false,
            secret: Secret::NONE,
        }
    }
}

impl RdmaConfig {
    /// What such a port says of itself. Memory that is to be sent from where it lies has to be registered.
    ///
    /// One that is told of an arena of loans has [`Caps::RMA`] besides, and [`Caps::ATOMIC`] where the device has atomics, one with a [`Registrar`] [`Caps::EXPOSE`].
    #[must_use]
    pub const fn info(&self, endpoint_type: EndpointType) -> Info {
        let longest = to_usize(widen(self.message_bytes_max));
        let send_depth = self.send_depth.next_power_of_two();
        let limits = PortLimits::copied(longest, self.peers_max, send_depth, &self.matching);
        let wakes = if self.descriptor { Caps::DESCRIPTOR } else { Caps::NONE };
        let caps = Caps::MATCHED.with(Caps::PARTS).with(wakes);
        Info::of_type("rdma", endpoint_type, caps, limits.with_parts())
            .with_latency(LatencyClass::Device)
            .with_modes(Modes::REGISTRATION)
    }

    /// Receives that are posted on each connection: one a slot, and those for control.
    #[must_use]
    pub const fn receives(&self) -> u32 {
        self.slots.saturating_add(link::CONTROL_RECEIVES)
    }

    /// Sends that may be posted on each connection.
    #[must_use]
    pub const fn sends(&self) -> u32 {
        let twice = self.slots.saturating_mul(2);
        if twice > 1 << 30 { 1 << 31 } else { twice.next_power_of_two() }
    }

    /// Completions that there may be at once: so deep has the completion queue to be.
    #[must_use]
    pub const fn completions(&self) -> u32 {
        self.receives().saturating_add(self.sends()).saturating_mul(self.links)
    }

    const fn depths(&self) -> link::Depths {
        let quarter = self.slots.div_ceil(4);
        link::Depths { slots: self.slots, quarter, receives: self.receives(), sends: self.sends() }
    }

    /// Bytes of registered memory for the slots of all connections.
    #[must_use]
    pub const fn memory_bytes(&self) -> u64 {
        widen(self.completions()).saturating_mul(widen(self.slot_bytes))
    }

    /// What a queue pair has to take, at least.
    #[must_use]
    pub const fn pair(&self) -> Limits {
        Limits {
            send_depth: self.sends(),
            recv_depth: self.receives(),
            sge_max: 2,
            message_bytes_max: self.slot_bytes,
            inline_bytes_max: 0,
        }
    }

    /// Bytes that the tables of such a port take in an arena, with some to spare for alignment.
    #[must_use]
    pub fn arena_bytes(&self) -> usize {
        let many = |count: u32, bytes: usize| to_usize(widen(count)).saturating_mul(bytes);
        let bodies = self.matching.unexpected_bytes_max.saturating_add(256);
        let of_link = many(self.sends(), 32)
            .saturating_add(many(self.receives().next_power_of_two(), 8))
            .saturating_add(many(self.slots.next_power_of_two(), 64))
            .saturating_add(1024);
        [
            many(self.links, of_link),
            many(self.peers_max, 512),
            many(self.matching.unexpected_depth, bodies),
            many(self.matching.recv_depth, 384),
            many(self.send_depth.next_power_of_two(), 32),
            many(self.routes_max, 128),
            many(self.exposed_max, 32),
            16 << 10,
        ]
        .into_iter()
        .fold(0, usize::saturating_add)
    }

    /// The limits that this end announces.
    const fn limits(&self) -> FrameLimits {
        FrameLimits {
            message_bytes_max: self.message_bytes_max,
            credit_messages: self.slots,
            credit_bytes: self.slots.saturating_mul(self.slot_bytes),
        }
    }

    fn check(&self) -> Result<(), PortOpenError> {
        if self.slots < PAIR_SLOTS_MIN || self.links == 0 || self.slots > 1 << 20 {
            return Err(PortOpenError::Slots);
        }
        let lines = u32::try_from(LINE_BYTES).unwrap_or(u32::MAX);
        let is_whole = self.slot_bytes.is_multiple_of(lines);
        let all = widen(self.slots).saturating_mul(widen(self.slot_bytes));
        if self.slot_bytes < SLOT_BYTES_MIN || !is_whole || all > widen(u32::MAX) {
            return Err(PortOpenError::SlotBytes);
        }
        let sure = self.slots.saturating_sub(self.slots.div_ceil(4));
        if out::pieces(self.message_bytes_max, self.slot_bytes) > sure {
            return Err(PortOpenError::MessageBytesMax);
        }
        Ok(self.limits().check()?)
    }
}

/// What a port has seen and done so far.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct RdmaCounters {
    /// Connections that came up.
    pub connected: u64,
    /// Connections that were cut off because their other end wrote what no correct peer writes.
    pub corrupt: u64,
    /// Connections that were not taken.
    pub refused: u64,
    /// Connections whose other end did not greet, answer or let go in time.
    pub expired: u64,
    /// Posted sends that went uncopied.
    pub uncopied: u64,
    /// Completions that belong to nothing: of queue pairs that are no more, or such as no device writes.
    pub strays: u64,
}

/// How a connection stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct LinkFigures {
    /// Pieces of messages that may be sent.
    pub credit: u32,
    /// Receives for messages that were posted again, and that the other end was not told of.
    pub due: u32,
    /// Pieces that have come and were not read.
    pub unread: u32,
    /// Sends that the device has, or that are staged.
    pub sends: u32,
}

/// Why a port could not be opened.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum PortOpenError {
    /// One of its limits cannot be.
    Limits(LimitsError),
    /// Reliable connections are for types MSG and RDM.
    Type,
    /// Too few slots or connections.
    Slots,
    /// Slots of an impossible size.
    SlotBytes,
    /// The longest message needs more slots than three quarters of those of a connection.
    MessageBytesMax,
    /// The queue pair takes less than it has to.
    QueuePair,
    /// The completion queue could overrun.
    CompletionQueue {
        /// `links * (receives + sends)`: see [`RdmaConfig::completions`].
        needed: u32,
        /// Its depth.
        depth: u32,
    },
    /// The registered memory does not hold all slots.
    Memory {
        /// Bytes that it has to have.
        needed: u64,
    },
    /// The arena is too small for its tables.
    Arena(Exhausted),
}

impl fmt::Display for PortOpenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Limits(e) => e.fmt(f),
            Self::Type => f.write_str("endpoint_type: over reliable connections it is msg or rdm"),
            Self::Slots => f.write_str("slots, links: give at least 8 slots and 1 connection"),
            Self::SlotBytes => {
                f.write_str("slot_bytes: give a multiple of 64, at least 128, less than 4 GiB in all slots")
            }
            Self::MessageBytesMax => f.write_str(
                "message_bytes_max <= 3/4 of slots x slot_bytes does not hold: give more or larger slots",
            ),
            Self::QueuePair => f.write_str(
                "queue pair: send_depth, recv_depth are less than the configuration asks for",
            ),
            Self::CompletionQueue { needed, depth } => write!(
                f,
                "links x (receives + sends) <= completion queue depth does not hold: {needed} > {depth}"
            ),
            Self::Memory { needed } => {
                write!(f, "memory: {needed} bytes are needed for the slots of all connections")
            }
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
