//! Where messages go and which ones a receive takes, in the words of a caller.
//!
//! An [`Addr`] is a row of the endpoint's own address table, which is what `fi_av(3)` calls an address vector:
//!
//! | there | here |
//! |---|---|
//! | `fi_av_insert`, `fi_av_insertsvc` | [`Endpoint::connect`](super::Endpoint::connect) of a name; whoever sends first enters himself. The same name again is the same row |
//! | `fi_av_remove` | [`Endpoint::disconnect`](super::Endpoint::disconnect): from then on the address is stale, whoever has its row |
//! | resolving a name | the same `connect`: a name of a segment, or one that the host has said a route for (`TcpPlane::introduce`, `udp::route`, `Seat::connect` with a URI) |
//! | `fi_av_lookup` | [`Endpoint::name_of`](super::Endpoint::name_of): the name again, where the provider knows one |
//! | `fi_getname` and a blob to be exchanged | none is needed: a name or a URI is text, and one has it before one opens. Addresses are never exchanged; each end has its own |
//! | `FI_ADDR_UNSPEC`, for a receive | [`RecvFrom::any`]: a value of its own. A completion without a source says `None` |
//! | `FI_ADDR_UNSPEC`, for a send of a connected endpoint | the address that [`Event::Connected`](crate::provider::Event::Connected) brings |
//! | index 0 | an address like any other: an `Addr` carries a generation, so that no word of it means *nobody* |

use crate::id::Addr;
use crate::provider::{RemotePlace, Select, Source};

/// Where a message goes, and what goes with it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[must_use]
pub struct SendTo {
    pub(super) peer: Addr,
    pub(super) tag: Option<u64>,
    pub(super) immediate: Option<u64>,
}

impl SendTo {
    /// To `peer`, untagged.
    #[inline(always)]
    pub const fn peer(peer: Addr) -> Self {
        Self { peer, tag: None, immediate: None }
    }

    /// With a tag.
    #[inline(always)]
    pub const fn tag(self, tag: u64) -> Self {
        Self { tag: Some(tag), ..self }
    }

    /// With 64 bits of immediate data.
    #[inline(always)]
    pub const fn immediate(self, immediate: u64) -> Self {
        Self { immediate: Some(immediate), ..self }
    }
}

/// Which messages a receive takes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[must_use]
pub struct RecvFrom {
    pub(super) from: Source,
    pub(super) select: Select,
}

impl RecvFrom {
    /// Untagged messages of anybody.
    #[inline(always)]
    pub const fn any() -> Self {
        Self { from: Source::Any, select: Select::Untagged }
    }

    /// Untagged messages of one peer.
    #[inline(always)]
    pub const fn peer(peer: Addr) -> Self {
        Self { from: Source::Only(peer), select: Select::Untagged }
    }

    /// Tagged messages with exactly this tag.
    #[inline(always)]
    pub const fn tag(self, tag: u64) -> Self {
        self.tag_ignoring(tag, 0)
    }

    /// Tagged messages whose tag is this one except in the bits of `ignore`. With all bits ignored: any tag.
    #[inline(always)]
    pub const fn tag_ignoring(self, tag: u64, ignore: u64) -> Self {
        Self { select: Select::Tagged { tag, ignore }, ..self }
    }
}

/// Where in whose memory a one-sided operation works.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[must_use]
pub struct Target {
    pub(super) peer: Addr,
    pub(super) place: RemotePlace,
}

impl Target {
    /// At `place` of what `peer` has exposed: see [`RemoteRegion::place`](crate::provider::RemoteRegion::place).
    #[inline(always)]
    pub const fn new(peer: Addr, place: RemotePlace) -> Self {
        Self { peer, place }
    }
}
