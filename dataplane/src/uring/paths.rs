//! Which ways through the kernel an endpoint takes: what is used of io_uring, and what is done instead of the rest.
//!
//! A way and the one that stands in for it have a name each, so that the set says of every choice how it fell. Ports over
//! memory take none: their set is empty.

use core::fmt;

use spinwire_layouts::uring::setup;

/// Ways through the kernel: a set.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Paths(u32);

/// Defines the ways: bit and name.
macro_rules! paths {
    ($( $(#[doc = $doc:literal])+ $path:ident = $bit:literal $name:literal; )+) => {
        impl Paths {
            $( $(#[doc = $doc])+ pub const $path: Self = Self(1 << $bit); )+

            const NAMES: &'static [(Self, &'static str)] = &[$( (Self::$path, $name) ),+];
        }
    };
}

paths! {
    /// One thread submits, so that nothing is locked (`IORING_SETUP_SINGLE_ISSUER`).
    SINGLE_ISSUER = 0 "single-issuer";
    /// Completions are made when the thread asks for them (`IORING_SETUP_DEFER_TASKRUN`).
    DEFER_TASKRUN = 1 "defer-taskrun";
    /// Instead: at its next system call (`IORING_SETUP_COOP_TASKRUN`).
    COOP_TASKRUN = 2 "coop-taskrun";
    /// Instead of both: whenever they are due, by interrupting the thread.
    INTERRUPTING_TASKRUN = 3 "interrupting-taskrun";
    /// A thread of the kernel takes submissions (`IORING_SETUP_SQPOLL`); else a system call hands them in.
    SQ_POLL = 4 "sqpoll";
    /// The ring is entered by its index (`IORING_REGISTER_RING_FDS`).
    REGISTERED_RING = 5 "registered-ring";
    /// Instead: by its descriptor.
    RING_BY_DESCRIPTOR = 6 "ring-by-descriptor";
    /// Who waits for completions polls the queues of the network (`IORING_REGISTER_NAPI`).
    NAPI = 7 "napi";
    /// Connections that are accepted live in the table of files of the ring.
    REGISTERED_FILES = 8 "registered-files";
    /// Instead: they are descriptors of the process.
    DESCRIPTORS = 9 "descriptors";
    /// One submission accepts many connections (`IORING_ACCEPT_MULTISHOT`).
    MULTISHOT_ACCEPT = 10 "multishot-accept";
    /// Instead: one.
    ONE_SHOT_ACCEPT = 11 "one-shot-accept";
    /// One submission receives many times (`IORING_RECV_MULTISHOT`).
    MULTISHOT_RECEIVE = 12 "multishot-receive";
    /// Instead: once.
    ONE_SHOT_RECEIVE = 13 "one-shot-receive";
    /// The kernel picks the buffer when something has come (`IORING_REGISTER_PBUF_RING`).
    PROVIDED_BUFFERS = 14 "provided-buffers";
    /// Instead: each receive brings its own.
    OWN_BUFFERS = 15 "own-buffers";
    /// One completion fills many buffers (`IORING_RECVSEND_BUNDLE`).
    BUNDLES = 16 "bundles";
    /// What is long enough is sent from where it lies (`IORING_OP_SEND_ZC`).
    ZERO_COPY_SENDS = 17 "zero-copy-sends";
    /// Instead: the kernel copies all that is sent.
    COPIED_SENDS = 18 "copied-sends";
    /// The memory that is sent from is registered (`IORING_REGISTER_BUFFERS2`), and not pinned for each send.
    REGISTERED_BUFFERS = 19 "registered-buffers";
    /// Instead: it is pinned for each send, and messages of many parts go as one (`IORING_OP_SENDMSG_ZC`).
    ZERO_COPY_MESSAGES = 20 "zero-copy-messages";
}

impl Paths {
    /// None: nothing goes through the kernel.
    pub const NONE: Self = Self(0);

    /// What the flags of io_uring_setup(2) say.
    #[must_use]
    pub const fn of_setup(flags: u32) -> Self {
        let taskrun = if flags & setup::DEFER_TASKRUN != 0 {
            Self::DEFER_TASKRUN
        } else if flags & setup::COOP_TASKRUN != 0 {
            Self::COOP_TASKRUN
        } else {
            Self::INTERRUPTING_TASKRUN
        };
        taskrun
            .with_if(flags & setup::SINGLE_ISSUER != 0, Self::SINGLE_ISSUER)
            .with_if(flags & setup::SQPOLL != 0, Self::SQ_POLL)
    }

    /// Both sets together.
    #[must_use]
    pub const fn with(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// This set, and the other where `taken`.
    #[must_use]
    pub const fn with_if(self, taken: bool, other: Self) -> Self {
        if taken { self.with(other) } else { self }
    }

    /// This set, and one of two: the first where `taken`, else the one that stands in for it.
    #[must_use]
    pub const fn with_either(self, taken: bool, one: Self, instead: Self) -> Self {
        self.with(if taken { one } else { instead })
    }

    /// Whether all of `wanted` are taken.
    #[must_use]
    pub const fn has(self, wanted: Self) -> bool {
        self.0 & wanted.0 == wanted.0
    }

    /// Whether there is none.
    #[must_use]
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// The names of those that are taken: words that never change, for scripts.
    pub fn names(self) -> impl Iterator<Item = &'static str> {
        Self::NAMES.iter().filter(move |(path, _)| self.has(*path)).map(|(_, name)| *name)
    }
}

/// The names, with commas between them.
impl fmt::Display for Paths {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, name) in self.names().enumerate() {
            if index > 0 {
                f.write_str(", ")?;
            }
            f.write_str(name)?;
        }
        Ok(())
    }
}

impl fmt::Debug for Paths {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.names()).finish()
    }
}

#[cfg(test)]
mod tests {
    extern crate std;

    use std::string::ToString;

    use super::*;

    #[test]
    fn every_way_has_a_bit_and_a_name_of_its_own() {
        let mut all = Paths::NONE;
        for (path, name) in Paths::NAMES {
            assert_eq!(path.0.count_ones(), 1, "{name}");
            assert!(!all.has(*path), "{name}");
            assert_eq!(Paths::NAMES.iter().filter(|(_, other)| other == name).count(), 1, "{name}");
            all = all.with(*path);
        }
        assert_eq!(all.names().count(), Paths::NAMES.len());
    }

    #[test]
    fn of_a_choice_there_is_one_side() {
        let deferred = Paths::of_setup(setup::SINGLE_ISSUER | setup::DEFER_TASKRUN);
        assert_eq!(deferred.to_string(), "single-issuer, defer-taskrun");
        assert_eq!(Paths::of_setup(setup::COOP_TASKRUN), Paths::COOP_TASKRUN);
        let poll = Paths::of_setup(setup::SQPOLL);
        assert_eq!(poll.to_string(), "interrupting-taskrun, sqpoll");
        let (one, other) = (Paths::PROVIDED_BUFFERS, Paths::OWN_BUFFERS);
        assert_eq!(Paths::NONE.with_either(true, one, other), one);
        assert_eq!(Paths::NONE.with_either(false, one, other), other);
        assert!(Paths::NONE.is_empty() && Paths::NONE.to_string().is_empty());
    }
}
