//! Where messages go and which ones a receive takes, in the words of a caller.

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
