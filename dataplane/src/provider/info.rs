//! What ports are alike in, in what they say of themselves; and what a program asks about it before it opens one.

use core::fmt;

use super::{Caps, EndpointType, Info, Limits, Order, Paths, Reliability, Source};
use crate::id::Addr;
use crate::msg::matching::{MatchingConfig, RANGES_MAX};
use spinwire_layouts::word::{from_usize, low};

/// What lies between two ends, the quickest first. It orders transports; it promises no figure.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[repr(u8)]
pub enum LatencyClass {
    /// Memory that both map: cache lines that move.
    Memory,
    /// Network cards that read and write memory by themselves.
    Device,
    /// The network stack of a kernel.
    Kernel,
}

impl LatencyClass {
    /// Its name.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Memory => "memory",
            Self::Device => "device",
            Self::Kernel => "kernel",
        }
    }
}

impl fmt::Display for LatencyClass {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// What a provider asks of its user: a set, in the sense of the mode bits of `fi_getinfo(3)`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Modes(u8);

impl Modes {
    /// Nothing.
    pub const NONE: Self = Self(0);
    /// A peer has a row of the address table before anything is sent to it.
    pub const ADDRESSING: Self = Self(1);
    /// Memory that a device is to touch is registered first (`FI_MR_LOCAL`); what is not is copied.
    pub const REGISTRATION: Self = Self(1 << 1);
    /// Local memory is named by a key, too.
    pub const LOCAL_KEYS: Self = Self(1 << 2);
    /// Keys of remote memory are the provider's (`FI_MR_PROV_KEY`): they have to be told to the peer.
    pub const REMOTE_KEYS: Self = Self(1 << 3);

    const NAMES: [(Self, &'static str); 4] = [
        (Self::ADDRESSING, "addressing"),
        (Self::REGISTRATION, "registration"),
        (Self::LOCAL_KEYS, "local-keys"),
        (Self::REMOTE_KEYS, "remote-keys"),
    ];

    /// Both sets together.
    #[must_use]
    pub const fn with(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// Whether all of `wanted` are in this set.
    #[must_use]
    pub const fn has(self, wanted: Self) -> bool {
        self.0 & wanted.0 == wanted.0
    }

    /// The names of those in the set.
    pub fn names(self) -> impl Iterator<Item = &'static str> {
        Self::NAMES.into_iter().filter(move |(mode, _)| self.has(*mode)).map(|(_, name)| name)
    }
}

impl fmt::Debug for Modes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.names()).finish()
    }
}

impl Caps {
    /// The capability of that name, one of [`Caps::names`].
    #[must_use]
    pub fn of_name(name: &str) -> Option<Self> {
        Self::NAMES.iter().find(|(_, its)| *its == name).map(|(cap, _)| *cap)
    }

    /// The names of all that there are.
    pub fn all_names() -> impl Iterator<Item = &'static str> {
        Self::NAMES.into_iter().map(|(_, name)| name)
    }

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

    /// Messages of several ranges both ways, as a [`Matcher`](crate::msg::matching::Matcher) has them: see [`Limits::with_parts`].
    pub const PARTS: Self = Self::GATHER.with(Self::SCATTER);
}

impl EndpointType {
    /// All of them, the one that is preferred first.
    pub const ALL: [Self; 3] = [Self::Rdm, Self::Msg, Self::Dgram];

    /// The type of that name, as it is displayed.
    #[must_use]
    pub fn of_name(name: &str) -> Option<Self> {
        match name {
            "msg" => Some(Self::Msg),
            "rdm" => Some(Self::Rdm),
            "dgram" => Some(Self::Dgram),
            _ => None,
        }
    }

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

impl Limits {
    /// The same, with [as many ranges](RANGES_MAX) in a message as a [`Matcher`](crate::msg::matching::Matcher) takes.
    #[must_use]
    pub const fn with_parts(self) -> Self {
        Self { sge_max: low(from_usize(RANGES_MAX)), ..self }
    }
}

impl Info {
    /// That of a port which promises what its type does: nothing for DGRAM, else that messages arrive, each peer's in order. What has no
    /// connection asks for addresses. It is held to go through the kernel, see [`Info::with_latency`].
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
        let modes = match endpoint_type {
            EndpointType::Msg => Modes::NONE,
            EndpointType::Rdm | EndpointType::Dgram => Modes::ADDRESSING,
        };
        Self {
            provider,
            endpoint_type,
            caps,
            limits,
            reliability,
            order,
            paths: Paths::NONE,
            modes,
            latency: LatencyClass::Kernel,
            immediate_bits: if caps.has(Caps::IMMEDIATE) { 64 } else { 0 },
        }
    }

    /// The same, by these ways through the kernel.
    #[must_use]
    pub const fn with_paths(self, paths: Paths) -> Self {
        Self { paths, ..self }
    }

    /// The same, with that between the two ends.
    #[must_use]
    pub const fn with_latency(self, latency: LatencyClass) -> Self {
        Self { latency, ..self }
    }

    /// The same, asking for these too.
    #[must_use]
    pub const fn with_modes(self, modes: Modes) -> Self {
        Self { modes: self.modes.with(modes), ..self }
    }

    /// The same, with so many bits of immediate data.
    #[must_use]
    pub const fn with_immediate_bits(self, immediate_bits: u8) -> Self {
        Self { immediate_bits, ..self }
    }

    /// Whether endpoints are of that type.
    #[must_use]
    pub const fn supports_endpoint_type(&self, wanted: EndpointType) -> bool {
        matches!(
            (self.endpoint_type, wanted),
            (EndpointType::Msg, EndpointType::Msg)
                | (EndpointType::Rdm, EndpointType::Rdm)
                | (EndpointType::Dgram, EndpointType::Dgram)
        )
    }

    /// Whether endpoints are connected, with one peer.
    #[must_use]
    pub const fn supports_msg(&self) -> bool {
        self.supports_endpoint_type(EndpointType::Msg)
    }

    /// Whether endpoints reach any peer, and nothing gets lost.
    #[must_use]
    pub const fn supports_rdm(&self) -> bool {
        self.supports_endpoint_type(EndpointType::Rdm)
    }

    /// Whether endpoints send datagrams, of which nothing is promised.
    #[must_use]
    pub const fn supports_datagram(&self) -> bool {
        self.supports_endpoint_type(EndpointType::Dgram)
    }

    /// Whether messages can have tags, and receives masks.
    #[must_use]
    pub const fn supports_tagged(&self) -> bool {
        self.caps.has(Caps::TAGGED)
    }

    /// Whether one receive can take many messages.
    #[must_use]
    pub const fn supports_multi_recv(&self) -> bool {
        self.caps.has(Caps::MULTI_RECV)
    }

    /// Whether a receive can be for messages of one peer alone.
    #[must_use]
    pub const fn supports_directed_recv(&self) -> bool {
        self.caps.has(Caps::DIRECTED_RECV)
    }

    /// Whether memory that a peer exposes can be read and written.
    #[must_use]
    pub const fn supports_rma(&self) -> bool {
        self.caps.has(Caps::RMA)
    }

    /// Whether numbers in it can be changed in one step.
    #[must_use]
    pub const fn supports_atomics(&self) -> bool {
        self.caps.has(Caps::ATOMIC)
    }

    /// Whether a message of so many bytes can be sent whose buffer is the caller's again at once.
    #[must_use]
    pub const fn supports_inject(&self, bytes: usize) -> bool {
        self.caps.has(Caps::INJECT) && bytes <= self.limits.inject_bytes_max
    }
}
