//! The process table: who is in the segment. An entry is a lease, the right of a live process to
//! own things in the segment.
//!
//! ```text
//!             claim (CAS)            filled in (Release)        found dead (CAS, by anybody)
//!   Free  ---------------> Claiming ------------------> Live ------------------------------> Dead
//!     ^                        |                          |                                    |
//!     |                        '--- found dead ---------> Dead                                 |
//!     '---- left, everything released <-------------------'          '<------ reclaimed ------'
//! ```
//!
//! The claim writes the pid into the lease word at once, so that a process that dies while claiming
//! can be found. Every claim raises the generation; the full lease word thus names one stay of one
//! process, and is written as the owner into whatever that process holds.

use crate::word::TagWord;

codes! {
    /// State of a lease: of a process, or of an endpoint.
    pub enum LeaseState: u8 {
        /// Nobody's: may be claimed.
        Free = 0 "free",
        /// Claimed; the rest of the entry is being written.
        Claiming = 1 "claiming",
        /// Held by a live process.
        Live = 2 "live",
        /// The holder is dead or was told to leave; what it held is being taken back.
        Dead = 3 "dead",
    }
}

/// A lease word, taken apart: state in bits 0 to 7, generation in bits 8 to 31, subject in bits 32
/// to 63.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lease {
    /// State.
    pub state: LeaseState,
    /// How often the entry was claimed, modulo 2^24 and never 0 while claimed.
    pub generation: u32,
    /// In a process entry the process id; in an endpoint entry the slot of the owning process.
    pub subject: u32,
}

impl Lease {
    /// The word. Bits 24 to 31 of the generation are dropped.
    #[inline]
    #[must_use]
    pub const fn pack(self) -> u64 {
        TagWord { tag: self.state.code(), generation: self.generation, subject: self.subject }
            .pack()
    }

    /// The parts of `word`, or `None` where the state is not in the list: somebody scribbled over
    /// it.
    #[inline]
    #[must_use]
    pub const fn unpack(word: u64) -> Option<Self> {
        let TagWord { tag, generation, subject } = TagWord::unpack(word);
        match LeaseState::from_code(tag) {
            Some(state) => Some(Self { state, generation, subject }),
            None => None,
        }
    }
}

layout! {
    /// One process in a segment.
    pub struct ProcessEntry, size 128, align 64 {
        /// [`Lease`] word; subject: the process id.
        pub lease: u64 @ 0,
        /// Start time of the process: field 22 of `/proc/PID/stat`, clock ticks since boot
        /// (proc(5)). With the pid it names a process for as long as the machine runs, even where
        /// the pid is used again.
        pub start_time: u64 @ 8,
        /// When the process joined: nanoseconds since 1970 UTC.
        pub joined_unix_ns: u64 @ 16,
        /// Counts up now and then while the process turns its planes. For people who look: a
        /// process that stands still is not dead.
        pub heartbeat: u64 @ 24,
        /// The lease word once more, where the process rings the bells of those it publishes to: it can wake, and it takes
        /// part in the barriers of those who go to sleep. Anything else means that it does not.
        pub rings: u64 @ 32,
        /// Zero.
        pub reserved: [u64; 3] @ 40,
        /// Name of the command, filled up with zeros; cut to 63 bytes. Any bytes: it is for display
        /// only.
        pub command: [u8; 64] @ 64,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn leases_come_back() {
        for state in LeaseState::ALL.iter().copied() {
            for generation in [0, 1, 0xff_ffff] {
                for subject in [0, 1, 4_194_304, u32::MAX] {
                    let lease = Lease { state, generation, subject };
                    assert_eq!(Lease::unpack(lease.pack()), Some(lease));
                }
            }
        }
    }

    #[test]
    fn the_word_has_the_documented_bits() {
        let lease = Lease { state: LeaseState::Live, generation: 0x123456, subject: 77 };
        assert_eq!(lease.pack(), 2 | 0x123456 << 8 | 77 << 32);
        assert_eq!(Lease::unpack(0).map(|l| l.state), Some(LeaseState::Free));
    }

    #[test]
    fn unknown_states_are_refused() {
        for tag in 4..=255 {
            assert_eq!(Lease::unpack(tag), None);
            assert_eq!(Lease::unpack(tag | 0xffff_ffff_ffff_ff00), None);
        }
    }
}
