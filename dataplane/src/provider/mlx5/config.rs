//! What a pair is placed with: sizes, and why they may not go together; where its datagrams go.

use core::fmt;

use spinwire_layouts::mlx5::AddressVector;

use crate::raw::place::Exhausted;
use crate::raw::region::RANGE_BYTES_MAX;
use crate::wqe::{Grh, IbPath, RoceGrh, Transport};

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
    /// Its table of addresses has fewer rows.
    Row {
        /// Asked for.
        row: u32,
        /// So many there are.
        routes_max: u32,
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
            Self::Row { row, routes_max } => {
                write!(f, "row {row} of a table of {routes_max} addresses: raise routes_max")
            }
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

/// Bit 30 of `grh_gid_fl`, over InfiniBand.
const GRH_PRESENT: u32 = 1 << 30;

impl Route {
    /// The route in an address that the library has made, on a port of Ethernet or of InfiniBand: it knows the MAC of the receiver and whatever
    /// else there is below the global address.
    #[must_use]
    pub fn of_vector(av: &AddressVector, is_ethernet: bool) -> Self {
        let word = av.grh_gid_fl.get();
        let grh = Grh {
            dgid: av.rgid,
            sgid_index: low_byte(word >> 20),
            flow_label: word & 0x000f_ffff,
            traffic_class: av.tclass,
            hop_limit: av.hop_limit,
        };
        let static_rate = av.stat_rate_sl >> 4;
        if is_ethernet {
            let priority = av.stat_rate_sl >> 1 & 7;
            let udp_source_port = av.rlid.get();
            return Self::Roce(RoceGrh {
                grh,
                mac: av.rmac,
                priority,
                static_rate,
                udp_source_port,
            });
        }
        Self::Ib(IbPath {
            dlid: av.rlid.get(),
            service_level: av.stat_rate_sl & 0xf,
            static_rate,
            path_bits: av.fl_mlid & 0x7f,
            grh: (word & GRH_PRESENT != 0).then_some(grh),
        })
    }
}

/// The lowest eight bits.
const fn low_byte(word: u32) -> u8 {
    let [.., byte] = word.to_be_bytes();
    byte
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wqe::{Av, UdPeer};

    #[test]
    fn routes_go_through_the_form_of_the_device() {
        let grh = Grh {
            dgid: [7; 16],
            sgid_index: 0xa5,
            flow_label: 0x000f_1234,
            traffic_class: 0x81,
            hop_limit: 64,
        };
        let (mac, peer) = ([1, 2, 3, 4, 5, 6], UdPeer { qpn: 0x00ff_ffff, qkey: u32::MAX });
        let roce = RoceGrh { grh, mac, priority: 5, static_rate: 9, udp_source_port: 0xc0de };
        let told = Route::of_vector(Av::roce(&roce, peer).segment(), true);
        assert_eq!(told, Route::Roce(roce));
        let near =
            IbPath { dlid: 0x1234, service_level: 11, static_rate: 3, path_bits: 0x55, grh: None };
        for path in [near, IbPath { grh: Some(grh), ..near }] {
            assert_eq!(Route::of_vector(Av::ib(&path, peer).segment(), false), Route::Ib(path));
        }
    }
}
