//! How much a port for datagrams holds, and what it counts.

use spinwire_layouts::wire::datagram::DATAGRAM_HEADER_BYTES;
use spinwire_layouts::word::{to_usize, widen};

use super::memory::short;
use super::source::ROUTE_BYTES;
use crate::msg::matching::MatchingConfig;
use crate::provider::{Caps, EndpointType, Info, LatencyClass, Limits};
use crate::raw::line::LINE_BYTES;
use crate::time::Nanos;

/// Bytes in front of a message that has come.
pub(super) const LEAD_BYTES: usize = ROUTE_BYTES + DATAGRAM_HEADER_BYTES;

/// The longest packet of any device, in bytes: `IBV_MTU_4096` (ibv_query_port(3)).
const PACKET_BYTES_MAX: usize = 4096;

/// How much a port for datagrams holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RdmaDatagramsConfig {
    /// Rows of the address table.
    pub peers_max: u32,
    /// A sender that was silent for so long gives up its row to another, unless it was connected to by name.
    pub age_min: Nanos,
    /// Sends whose completions may be outstanding.
    pub send_depth: u32,
    /// Receives and unexpected messages.
    pub matching: MatchingConfig,
    /// Longest message, in bytes: at most what the queue pair sends, less 24.
    pub message_bytes_max: u32,
    /// Receives that are posted: at least 8.
    pub receives: u32,
    /// Names that may be connected to.
    pub routes_max: u32,
    /// Whether its host can wake a thread that sleeps ([`Caps::DESCRIPTOR`]).
    pub descriptor: bool,
}

impl Default for RdmaDatagramsConfig {
    /// 64 peers, silent for ten seconds; 256 sends, receives, and unexpected messages; messages of up to 1000 bytes, which fit the smallest
    /// packets that are usual.
    fn default() -> Self {
        Self {
            peers_max: 64,
            age_min: Nanos::from_millis(10_000),
            send_depth: 256,
            matching: MatchingConfig {
                recv_depth: 256,
                unexpected_depth: 256,
                unexpected_bytes_max: 1000,
            },
            message_bytes_max: 1000,
            receives: 256,
            routes_max: 64,
            descriptor: false,
        }
    }
}

impl RdmaDatagramsConfig {
    /// Sends that may be posted on the queue pair.
    #[must_use]
    pub const fn sends(&self) -> u32 {
        let least = if self.send_depth < 8 { 8 } else { self.send_depth };
        if least > 1 << 28 { 1 << 30 } else { least.saturating_mul(4).next_power_of_two() }
    }

    /// Completions that there may be at once: so deep has the completion queue to be.
    #[must_use]
    pub const fn completions(&self) -> u32 {
        self.receives.saturating_add(self.sends())
    }

    /// Bytes of a slot: room for any packet, since a device may take one that is too long for its receive as the end of the queue pair.
    pub(super) fn slot_bytes(&self) -> u32 {
        let own = to_usize(widen(self.message_bytes_max)).saturating_add(LEAD_BYTES);
        let bytes = own.max(PACKET_BYTES_MAX.saturating_add(ROUTE_BYTES));
        short(bytes.checked_next_multiple_of(LINE_BYTES).unwrap_or(usize::MAX))
    }

    /// Bytes of registered memory for all slots.
    #[must_use]
    pub fn memory_bytes(&self) -> u64 {
        widen(self.completions()).saturating_mul(widen(self.slot_bytes()))
    }

    /// Bytes that the tables of such a port take in an arena, with some to spare for alignment.
    #[must_use]
    pub fn arena_bytes(&self) -> usize {
        let many = |count: u32, bytes: usize| to_usize(widen(count)).saturating_mul(bytes);
        let bodies = self.matching.unexpected_bytes_max.saturating_add(256);
        [
            many(self.sends(), 32),
            many(self.receives.next_power_of_two(), 96),
            many(self.peers_max, 256),
            many(self.matching.unexpected_depth, bodies),
            many(self.matching.recv_depth, 384),
            many(self.send_depth.next_power_of_two(), 16),
            many(self.routes_max, 160),
            32 << 10,
        ]
        .into_iter()
        .fold(0, usize::saturating_add)
    }

    /// What the queue pair has to take, at least.
    #[must_use]
    pub fn pair(&self) -> crate::verbs::Limits {
        crate::verbs::Limits {
            send_depth: self.sends(),
            recv_depth: self.receives,
            sge_max: 1,
            message_bytes_max: self.message_bytes_max.saturating_add(short(DATAGRAM_HEADER_BYTES)),
            inline_bytes_max: 0,
        }
    }

    /// What such a port says of itself.
    #[must_use]
    pub const fn info(&self) -> Info {
        let longest = to_usize(widen(self.message_bytes_max));
        let limits = Limits::copied(longest, self.peers_max, self.send_depth, &self.matching);
        let wakes = if self.descriptor { Caps::DESCRIPTOR } else { Caps::NONE };
        let caps = Caps::MATCHED.with(Caps::PARTS).with(wakes);
        Info::of_type("rdma", EndpointType::Dgram, caps, limits.with_parts())
            .with_latency(LatencyClass::Device)
    }
}

/// What a port for datagrams has seen and done so far.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct DatagramCounters {
    /// Packets that have come.
    pub received: u64,
    /// Of those: no message of this protocol, or by nobody that can be told.
    pub garbage: u64,
    /// Of those: by a sender for whom there was no row.
    pub crowded: u64,
    /// Of those: messages that nobody had asked for when the unexpected queue was full.
    pub unasked: u64,
    /// Rows that senders have lost to others.
    pub aged: u64,
    /// Completions that belong to nothing.
    pub strays: u64,
}
