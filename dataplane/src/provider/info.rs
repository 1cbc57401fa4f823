//! What ports are alike in, in what they say of themselves.

use super::{Caps, EndpointType, Info, Limits, Order, Paths, Reliability, Source};
use crate::id::Addr;
use crate::msg::matching::MatchingConfig;

impl Caps {
    /// What a port can do that copies messages and matches them by a [`Matcher`](crate::msg::matching::Matcher): all but parcels.
    pub const MATCHED: Self = Self::MESSAGE
        .with(Self::TAGGED)
        .with(Self::INJECT)
        .with(Self::IMMEDIATE)
        .with(Self::DIRECTED_RECV)
        .with(Self::MULTI_RECV)
        .with(Self::SOURCE)
        .with(Self::PEEK)
        .with(Self::CANCEL);
}

impl EndpointType {
    /// Whose receives have nothing to wait for any more when `peer` is gone: those of a MSG endpoint all, since it has no other.
    #[must_use]
    pub const fn bereft_of(self, peer: Addr) -> Source {
        match self {
            Self::Msg => Source::Any,
            Self::Rdm | Self::Dgram => Source::Only(peer),
        }
    }
}

impl Limits {
    /// Those of a port that copies messages of up to `message_bytes_max` bytes, so that all of them can be injected.
    #[must_use]
    pub const fn copied(
        message_bytes_max: usize,
        peers_max: u32,
        send_depth: u32,
        matching: &MatchingConfig,
    ) -> Self {
        Self {
            message_bytes_max,
            inject_bytes_max: message_bytes_max,
            sge_max: 1,
            send_depth,
            recv_depth: matching.recv_depth,
            unexpected_depth: matching.unexpected_depth,
            unexpected_bytes_max: matching.unexpected_bytes_max,
            peers_max,
        }
    }
}

impl Info {
    /// That of a port which promises what its type does: nothing for DGRAM, else that messages arrive, each peer's in order.
    #[must_use]
    pub const fn of_type(
        provider: &'static str,
        endpoint_type: EndpointType,
        caps: Caps,
        limits: Limits,
    ) -> Self {
        let (reliability, order) = match endpoint_type {
            EndpointType::Msg | EndpointType::Rdm => (Reliability::Reliable, Order::PerPeer),
            EndpointType::Dgram => (Reliability::Unreliable, Order::None),
        };
        let paths = Paths::NONE;
        Self { provider, endpoint_type, caps, limits, reliability, order, paths }
    }

    /// The same, by these ways through the kernel.
    #[must_use]
    pub const fn with_paths(self, paths: Paths) -> Self {
        Self { paths, ..self }
    }
}
