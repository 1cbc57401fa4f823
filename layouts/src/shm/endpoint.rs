//! The endpoint directory: whom one may send to, by name, and where the owner hears that there is
//! something to read.
//!
//! ```text
//!  line 0   lease, owner, kind, peer      written by the owner (claim by CAS)
//!  line 1   name                          written by the owner before the lease turns live
//!  line 2   news: 512 bits                set by senders, cleared by the owner: "look at this inbound lane"
//!  line 3   bell                          armed by the owner before it sleeps, taken by who wakes it
//! ```

use crate::word;

/// Number of inbound lanes that have a bit of their own in the `news` of an endpoint.
pub const NEWS_LANE_COUNT: usize = 512;

/// A bell whose owner wants to be woken. Anything else means that it does not.
pub const BELL_ARMED: u64 = 1;

codes! {
    /// What an endpoint is, in the words of libfabric (fi_endpoint(3)).
    pub enum EndpointKind: u8 {
        /// Connected: exactly one peer. `FI_EP_MSG`.
        Msg = 1 "msg",
        /// Unconnected, reliable: any peer, through an address table. `FI_EP_RDM`.
        Rdm = 2 "rdm",
    }
}

/// Names one stay of one endpoint in the directory: slot in bits 0 to 31, generation in bits 32 to
/// 63.
///
/// Generations start at 1, so the all-zero word names nobody.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct EndpointId {
    /// Index in the endpoint directory.
    pub slot: u32,
    /// Generation of the lease of the entry: 1 to 2^24 - 1.
    pub generation: u32,
}

impl EndpointId {
    /// The word that names nobody.
    pub const NONE: u64 = 0;

    /// The word.
    #[inline]
    #[must_use]
    pub const fn pack(self) -> u64 {
        word::join(self.slot, self.generation)
    }

    /// The parts of `word`, or `None` where it names nobody: the generation is 0 or wider than 24
    /// bits.
    #[inline]
    #[must_use]
    pub const fn unpack(word: u64) -> Option<Self> {
        let (slot, generation) = (word::low(word), word::high(word));
        if generation == 0 || generation > word::GENERATION_MAX {
            return None;
        }
        Some(Self { slot, generation })
    }
}

layout! {
    /// One named endpoint of a segment.
    pub struct EndpointEntry, size 256, align 64 {
        /// [`Lease`](super::Lease) word; subject: slot of the owner in the process table.
        pub lease: u64 @ 0,
        /// Full lease word of the owning process: names one stay of it, so that a slot that was
        /// given to somebody else is noticed.
        pub owner_lease: u64 @ 8,
        /// Code of an [`EndpointKind`], in bits 0 to 7; the other bits are zero.
        pub kind: u64 @ 16,
        /// Connected endpoints: [`EndpointId`] of the peer, or 0 while there is none.
        pub peer: u64 @ 24,
        /// Generation of the lease for which `name` was written. While an entry is being claimed, its name is that of an
        /// earlier stay until this is the generation of the claim.
        pub name_generation: u64 @ 32,
        /// Zero.
        pub reserved0: [u64; 3] @ 40,

        /// Name of the endpoint, filled up with zeros.
        pub name: [u8; 64] @ 64 by owner,

        /// One bit for each of the first 512 inbound lanes: bit `i % 64` of word `i / 64`. A sender
        /// sets the bit after it published; the owner takes the word and looks at the lanes named.
        pub news: [u64; 8] @ 128 by senders,

        /// [`BELL_ARMED`] while the owner sleeps, or is about to: whoever then publishes something that the owner has to
        /// see stores 0 here and wakes it. The low half is the futex.
        pub bell: u64 @ 192,
        /// Zero.
        pub reserved: [u64; 7] @ 200,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_come_back() {
        for slot in [0, 1, 511, u32::MAX] {
            for generation in [1, 2, 0xff_ffff] {
                let id = EndpointId { slot, generation };
                assert_eq!(EndpointId::unpack(id.pack()), Some(id));
                assert_ne!(id.pack(), EndpointId::NONE);
            }
        }
        assert_eq!(EndpointId { slot: 5, generation: 7 }.pack(), 5 | 7 << 32);
    }

    #[test]
    fn words_that_no_endpoint_ever_had_name_nobody() {
        assert_eq!(EndpointId::unpack(EndpointId::NONE), None);
        assert_eq!(EndpointId::unpack(3), None);
        assert_eq!(EndpointId::unpack(0x0100_0000_0000_0003), None);
        assert_eq!(EndpointId::unpack(u64::MAX), None);
    }
}
