//! What a pair is placed with: sizes, and why they may not go together; where its datagrams go.

use core::fmt;

use crate::raw::place::Exhausted;
use crate::raw::region::RANGE_BYTES_MAX;
use crate::wqe::{IbPath, RoceGrh, Transport};

/// Most ranges of a request.
pub const SGE_MAX: u32 = 8;
/// Most bytes of a request that carries them.
pub const INLINE_BYTES_MAX: u32 = 220;

/// What a pair takes, within what its queues have.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PairConfig {
    /// Ranges of a request: 1 to [`SGE_MAX`].
    pub sge_max: u32,
    /// Bytes of a send or write that go within the WQE, up to [`INLINE_BYTES_MAX`]. The longer, the more blocks each request may take.
    pub inline_bytes_max: u32,
    /// Bytes of the longest message: up to 2^31 - 1 of a connection, the packet size of the network for datagrams.
    pub message_bytes_max: u32,
    /// Addresses that datagrams go to: rows of the table behind `Destination::handle`.
    pub routes_max: u32,
}

impl PairConfig {
    /// Requests of one block: up to 28 bytes within, two ranges.
    pub const DEFAULT: Self = Self {
        sge_max: 2,
        inline_bytes_max: 28,
        message_bytes_max: RANGE_BYTES_MAX,
        routes_max: 0,
    };

    /// Blocks of the longest request: control segment, and either a remote address or the receiver of a datagram, then data.
    #[must_use]
    pub fn wqe_blocks(&self, transport: Transport) -> u16 {
        let head_units = match transport {
            // tidy-allow(alloc): the reliable connection of RDMA
            Transport::Rc { .. } => 2_u32,
            Transport::Ud => 4,
        };
        let inline_units = self.inline_bytes_max.saturating_add(4).div_ceil(16);
        let units = head_units.saturating_add(self.sge_max.max(inline_units).max(2));
        u16::try_from(units.div_ceil(4)).unwrap_or(u16::MAX)
    }
}

impl Default for PairConfig {
    fn default() -> Self {
        Self::DEFAULT
    }
}

/// Why a pair cannot be placed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum BadPair {
    /// Give 1 to [`SGE_MAX`] ranges, and at most as many as the places of its receive queue have.
    Segments {
        /// Asked for.
        sge_max: u32,
    },
    /// Give at most [`INLINE_BYTES_MAX`].
    Inline {
        /// Asked for.
        inline_bytes_max: u32,
    },
    /// Its requests are longer than its send queue takes: place that with more, or take fewer bytes inline.
    Longest {
        /// Blocks of the longest request.
        wanted: u16,
        /// `SendConfig::wqe_blocks_max` of its queue.
        wqe_blocks_max: u16,
    },
    /// The arena is too small.
    Arena(Exhausted),
}

impl From<Exhausted> for BadPair {
    fn from(value: Exhausted) -> Self {
        Self::Arena(value)
    }
}

impl fmt::Display for BadPair {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Segments { sge_max } => write!(
                f,
                "sge_max = {sge_max}: give 1 to {SGE_MAX}, and not more than the receive queue has"
            ),
            Self::Inline { inline_bytes_max } => {
                write!(f, "inline_bytes_max = {inline_bytes_max}: give 0 to {INLINE_BYTES_MAX}")
            }
            Self::Longest { wanted, wqe_blocks_max } => write!(
                f,
                "requests of up to {wanted} blocks on a queue with wqe_blocks_max = {wqe_blocks_max}: raise that, or lower inline_bytes_max or sge_max"
            ),
            Self::Arena(error) => error.fmt(f),
        }
    }
}

impl core::error::Error for BadPair {}

/// Where datagrams go.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Route {
    /// Over InfiniBand.
    Ib(IbPath),
    /// Over RoCE.
    Roce(RoceGrh),
}
