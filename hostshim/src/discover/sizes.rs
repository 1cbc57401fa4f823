//! How much an endpoint is to hold, whatever it goes over.

use spinwire_dataplane::provider::EndpointType;
use spinwire_dataplane::provider::rdma::{RdmaConfig, RdmaDatagramsConfig};
use spinwire_dataplane::provider::shm::ShmConfig;
use spinwire_dataplane::provider::tcp::TcpConfig;
use spinwire_dataplane::provider::udp::UdpConfig;
use spinwire_dataplane::shm::Geometry;
use spinwire_layouts::wire::datagram::{DATAGRAM_HEADER_BYTES, DATAGRAM_LENGTH_MAX};

use crate::domain::DomainConfig;
#[cfg(feature = "libfabric")]
use crate::libfabric::OfiConfig;
use crate::tcp::TcpPlaneConfig;
use crate::udp::UdpOptions;
use crate::uri::Transport;

/// Longest message of a stream: a length of 24 bits.
const STREAM_BYTES_MAX: usize = (1 << 24) - 1;
/// Longest message of a lane is half its spill, which is a power of two.
const LANE_BYTES_MAX: usize = 8 << 20;

/// How much an endpoint is to hold, whatever it goes over. Where nothing is said, each transport has its own default.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Sizes {
    /// Longest message, in bytes. Each transport takes it, or as much as it can.
    pub message_bytes: Option<usize>,
    /// Rows of the address table.
    pub peers: Option<u32>,
    /// Sends whose completions may be outstanding.
    pub send_depth: Option<u32>,
    /// Receives that may be posted.
    pub recv_depth: Option<u32>,
}

impl Sizes {
    /// For messages of up to so many bytes.
    #[must_use]
    pub fn messages_of(bytes: usize) -> Self {
        Self { message_bytes: Some(bytes), ..Self::default() }
    }

    /// The longest message that an endpoint of that type over that transport can be made for; `None` where its provider alone knows.
    #[must_use]
    pub const fn longest(transport: Transport, kind: EndpointType) -> Option<usize> {
        match (transport, kind) {
            (Transport::Shm, _) => Some(LANE_BYTES_MAX),
            (Transport::Udp, _) => Some(DATAGRAM_LENGTH_MAX),
            (Transport::Tcp, _) => Some(STREAM_BYTES_MAX),
            (Transport::Verbs | Transport::Mlx5, EndpointType::Dgram) => {
                Some(4096 - DATAGRAM_HEADER_BYTES)
            }
            (Transport::Verbs | Transport::Mlx5, _) => Some(STREAM_BYTES_MAX),
            (Transport::Ofi, _) => None,
        }
    }

    /// For a domain that is made anew.
    #[must_use]
    pub fn domain(&self) -> DomainConfig {
        let default = DomainConfig::default();
        let mut geometry = default.geometry;
        if let Some(bytes) = self.message_bytes {
            let spill = bytes.min(LANE_BYTES_MAX).saturating_mul(2).next_power_of_two();
            let spill = u32::try_from(spill).unwrap_or(u32::MAX).max(geometry.lane_spill_bytes);
            // Long lanes are few, so that the segment stays of a size that a machine has.
            let lanes = (1 << 26) / spill.max(1);
            geometry = Geometry {
                lane_spill_bytes: spill,
                lane_count: geometry.lane_count.min(lanes.max(8)),
                ..geometry
            };
        }
        DomainConfig { geometry, ..default }
    }

    /// For an endpoint in a domain.
    #[must_use]
    pub fn shm(&self) -> ShmConfig {
        let mut config = ShmConfig::default();
        config.peers_max = self.peers.unwrap_or(config.peers_max);
        config.send_depth = self.send_depth.unwrap_or(config.send_depth);
        config.matching.recv_depth = self.recv_depth.unwrap_or(config.matching.recv_depth);
        config
    }

    /// For a plane over TCP.
    #[must_use]
    pub fn tcp(&self) -> TcpPlaneConfig {
        let mut port = TcpConfig::default();
        port.peers_max = self.peers.unwrap_or(port.peers_max);
        port.routes_max = port.routes_max.max(port.peers_max);
        port.sockets_max = port.sockets_max.max(port.peers_max);
        port.send_depth = self.send_depth.unwrap_or(port.send_depth);
        port.matching.recv_depth = self.recv_depth.unwrap_or(port.matching.recv_depth);
        if let Some(bytes) = self.message_bytes {
            let most = u32::try_from(bytes.min(STREAM_BYTES_MAX)).unwrap_or(u32::MAX);
            port.message_bytes_max = most;
            port.credit_bytes = port.credit_bytes.max(most.saturating_mul(2));
        }
        TcpPlaneConfig { port, ..TcpPlaneConfig::default() }
    }

    /// For a port over UDP.
    #[must_use]
    pub fn udp(&self) -> UdpOptions {
        let mut port = UdpConfig::default();
        port.peers_max = self.peers.unwrap_or(port.peers_max);
        port.send_depth = self.send_depth.unwrap_or(port.send_depth);
        port.matching.recv_depth = self.recv_depth.unwrap_or(port.matching.recv_depth);
        if let Some(bytes) = self.message_bytes {
            port.message_bytes_max = bytes.min(DATAGRAM_LENGTH_MAX);
            port.matching.unexpected_bytes_max = port.message_bytes_max;
        }
        UdpOptions { port, ..UdpOptions::default() }
    }

    /// For a port over an RDMA device.
    #[must_use]
    pub fn rdma(&self) -> RdmaConfig {
        let mut port = RdmaConfig::default();
        port.peers_max = self.peers.unwrap_or(port.peers_max);
        port.links = port.peers_max.saturating_add(2);
        port.routes_max = port.routes_max.max(port.peers_max);
        port.send_depth = self.send_depth.unwrap_or(port.send_depth);
        port.matching.recv_depth = self.recv_depth.unwrap_or(port.matching.recv_depth);
        if let Some(bytes) = self.message_bytes {
            let most = u32::try_from(bytes.min(STREAM_BYTES_MAX)).unwrap_or(u32::MAX);
            port.message_bytes_max = most;
            // A message fits into three quarters of the slots, 32 bytes of each being the header.
            let pieces = most.div_ceil(port.slot_bytes.saturating_sub(32).max(1));
            let slots = pieces.saturating_mul(4).div_ceil(3).saturating_add(4);
            port.slots = port.slots.max(slots);
        }
        port
    }

    /// For a port for datagrams over an RDMA device.
    #[must_use]
    pub fn rdma_datagrams(&self) -> RdmaDatagramsConfig {
        let mut port = RdmaDatagramsConfig::default();
        port.peers_max = self.peers.unwrap_or(port.peers_max);
        port.routes_max = port.routes_max.max(port.peers_max);
        port.send_depth = self.send_depth.unwrap_or(port.send_depth);
        port.matching.recv_depth = self.recv_depth.unwrap_or(port.matching.recv_depth);
        if let Some(bytes) = self.message_bytes {
            // Packets of 4096 bytes are the largest of any device; opening finds out whether this one has them.
            let most = bytes.min(4096 - DATAGRAM_HEADER_BYTES);
            port.message_bytes_max = u32::try_from(most).unwrap_or(u32::MAX);
            port.matching.unexpected_bytes_max = most;
        }
        port
    }

    /// For what that stands on.
    #[cfg(feature = "verbs")]
    #[must_use]
    pub fn verbs_datagrams(&self) -> crate::verbs::VerbsDatagramsConfig {
        crate::verbs::VerbsDatagramsConfig { port: self.rdma_datagrams(), ..Default::default() }
    }

    /// For what it stands on.
    #[cfg(feature = "verbs")]
    #[must_use]
    pub fn verbs(&self) -> crate::verbs::VerbsPlaneConfig {
        crate::verbs::VerbsPlaneConfig { port: self.rdma(), ..Default::default() }
    }

    /// For an endpoint of that type over a provider of libfabric.
    #[cfg(feature = "libfabric")]
    #[must_use]
    pub fn ofi(&self, provider: &str, kind: EndpointType) -> OfiConfig {
        let default = OfiConfig::default();
        let longest =
            if kind == EndpointType::Dgram { DATAGRAM_LENGTH_MAX } else { STREAM_BYTES_MAX };
        let bytes = self.message_bytes.map(|bytes| u32::try_from(bytes.min(longest)));
        let bytes = bytes.and_then(Result::ok).unwrap_or(default.message_bytes_max);
        let most = u32::try_from(longest).unwrap_or(u32::MAX);
        OfiConfig {
            provider: Some(provider.to_owned()),
            endpoint_type: kind,
            peers_max: self.peers.unwrap_or(default.peers_max),
            send_depth: self.send_depth.unwrap_or(default.send_depth),
            recv_depth: self.recv_depth.unwrap_or(default.recv_depth),
            message_bytes_max: bytes.min(most),
            one_sided: kind != EndpointType::Dgram,
            ..default
        }
    }
}
