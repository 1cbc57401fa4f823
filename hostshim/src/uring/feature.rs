//! What a ring can have, and what is done where it has not.

use core::fmt;

use spinwire_layouts::uring::setup;

use crate::error::Errno;

/// Defines the features: bit, name, flag of io_uring_setup(2) or 0, and what is done without it.
macro_rules! features {
    ($(
        $(#[doc = $doc:literal])+
        $feature:ident = $bit:literal $name:literal, $flag:expr, $fallback:literal;
    )+) => {
        /// Something that not every kernel has, or not for everybody.
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
        pub enum Feature {
            $( $(#[doc = $doc])+ $feature, )+
        }

        impl Feature {
            /// All of them, oldest first.
            pub const ALL: &'static [Self] = &[$(Self::$feature),+];

            /// A word that never changes, for scripts.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $( Self::$feature => $name, )+ }
            }

            /// What is done without it.
            #[must_use]
            pub const fn fallback(self) -> &'static str {
                match self { $( Self::$feature => $fallback, )+ }
            }

            /// The flag of io_uring_setup(2) that asks for it; 0 where it is found out later.
            #[must_use]
            pub const fn setup_flag(self) -> u32 {
                match self { $( Self::$feature => $flag, )+ }
            }

            const fn bit(self) -> u32 {
                match self { $( Self::$feature => 1 << $bit, )+ }
            }
        }
    };
}

features! {
    /// `IORING_SETUP_CLAMP`: sizes that are too great become the greatest.
    Clamp = 0 "clamp", setup::CLAMP, "sizes that are too great are refused";
    /// `IORING_SETUP_CQSIZE`: the completion queue has the size that is asked for.
    CqSize = 1 "cq_size", setup::CQSIZE, "the completion queue is twice the submission queue";
    /// `IORING_SETUP_SUBMIT_ALL`: an entry that is refused does not stop those behind it.
    SubmitAll = 2 "submit_all", setup::SUBMIT_ALL, "what is behind a refused entry is submitted again";
    /// `IORING_SETUP_TASKRUN_FLAG`: work that waits for a system call is announced in the ring.
    TaskrunFlag = 3 "taskrun_flag", setup::TASKRUN_FLAG, "completions may interrupt the thread";
    /// `IORING_SETUP_COOP_TASKRUN`: such work interrupts nobody.
    CoopTaskrun = 4 "coop_taskrun", setup::COOP_TASKRUN, "completions may interrupt the thread";
    /// `IORING_SETUP_SINGLE_ISSUER`: one thread submits.
    SingleIssuer = 5 "single_issuer", setup::SINGLE_ISSUER, "the ring is locked at each call";
    /// `IORING_SETUP_DEFER_TASKRUN`: work is done only when that thread asks for completions.
    DeferTaskrun = 6 "defer_taskrun", setup::DEFER_TASKRUN, "completions may interrupt the thread";
    /// `IORING_SETUP_NO_SQARRAY`: no array of indices.
    NoSqArray = 7 "no_sqarray", setup::NO_SQARRAY, "an array of indices is filled in once";
    /// `IORING_SETUP_SQPOLL`: a thread of the kernel takes the entries.
    SqPoll = 8 "sqpoll", setup::SQPOLL, "entries are submitted by a system call";
    /// `IORING_REGISTER_RING_FDS`: the ring is entered by an index.
    RegisteredRing = 9 "registered_ring", 0, "the ring is looked up by its descriptor";
    /// `IORING_REGISTER_FILES2` with an empty table.
    Files = 10 "files", 0, "sockets and files are looked up by their descriptors";
    /// `IORING_REGISTER_BUFFERS2`.
    Buffers = 11 "buffers", 0, "memory is looked up by its address";
    /// `IORING_REGISTER_PBUF_RING`: rings of provided buffers.
    BufferRings = 12 "buffer_rings", 0, "each receive brings its own buffer";
    /// `IOU_PBUF_RING_INC`: a provided buffer is used up piece by piece.
    IncrementalBuffers = 13 "incremental_buffers", 0, "each receive takes a whole buffer";
    /// `IORING_REGISTER_NAPI`: busy polling of network queues.
    Napi = 14 "napi", 0, "network queues interrupt";
    /// `IORING_ACCEPT_MULTISHOT`.
    MultishotAccept = 15 "multishot_accept", 0, "one accept after the other";
    /// `IORING_RECV_MULTISHOT`.
    MultishotReceive = 16 "multishot_receive", 0, "one receive after the other";
    /// `IORING_RECVSEND_BUNDLE`: one completion for several buffers.
    Bundles = 17 "bundles", 0, "one completion for each buffer";
    /// `IORING_OP_SEND_ZC`.
    SendZc = 18 "send_zc", 0, "what is sent is copied";
    /// `IORING_OP_SENDMSG_ZC`.
    SendMsgZc = 19 "sendmsg_zc", 0, "messages of many parts go as a chain of sends";
    /// A slot of the table of files lets go of its file at once, and not when every operation that is under way has ended, as before
    /// Linux 6.12 or so.
    PromptClose = 20 "prompt_close", 0, "accepted connections are descriptors of the process";
}

impl fmt::Display for Feature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// A set of features.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct FeatureSet(u32);

impl FeatureSet {
    /// Nothing.
    pub const EMPTY: Self = Self(0);

    /// Is it in the set?
    #[must_use]
    pub const fn has(self, feature: Feature) -> bool {
        self.0 & feature.bit() != 0
    }

    /// The set with it.
    #[must_use]
    pub const fn with(self, feature: Feature) -> Self {
        Self(self.0 | feature.bit())
    }

    /// The set without it.
    #[must_use]
    pub const fn without(self, feature: Feature) -> Self {
        Self(self.0 & !feature.bit())
    }

    /// What is in it, oldest first.
    pub fn iter(self) -> impl Iterator<Item = Feature> {
        Feature::ALL.iter().copied().filter(move |feature| self.has(*feature))
    }
}

impl FromIterator<Feature> for FeatureSet {
    fn from_iter<I: IntoIterator<Item = Feature>>(features: I) -> Self {
        features.into_iter().fold(Self::EMPTY, Self::with)
    }
}

impl fmt::Display for FeatureSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<_> = self.iter().map(Feature::name).collect();
        f.pad(&if names.is_empty() { "none".to_owned() } else { names.join(", ") })
    }
}

impl fmt::Debug for FeatureSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.iter()).finish()
    }
}

/// Why a ring is without something.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Why {
    /// It was not asked for, or does not go with what was: no lack.
    NotAsked,
    /// The configuration denies it.
    Denied,
    /// The kernel does not know it, or said so.
    Refused(Errno),
    /// It rests on another that is missing.
    Needs(Feature),
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotAsked => f.write_str("not asked for"),
            Self::Denied => f.write_str("denied by the configuration"),
            Self::Refused(e) => write!(f, "this kernel: {e}"),
            Self::Needs(feature) => write!(f, "needs {feature}"),
        }
    }
}

/// What a ring has, and of what it has not, why.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Features {
    active: FeatureSet,
    missing: Vec<(Feature, Why)>,
}

impl Features {
    /// Is it there, so that its path is taken?
    #[must_use]
    pub const fn has(&self, feature: Feature) -> bool {
        self.active.has(feature)
    }

    /// All that is there.
    #[must_use]
    pub const fn active(&self) -> FeatureSet {
        self.active
    }

    /// What is not there, so that its [`fallback`](Feature::fallback) is taken.
    #[must_use]
    pub fn missing(&self) -> &[(Feature, Why)] {
        &self.missing
    }

    /// What is not there although it was asked for.
    pub fn refused(&self) -> impl Iterator<Item = Feature> {
        let refused = self.missing.iter().filter(|(_, why)| matches!(why, Why::Refused(_)));
        refused.map(|(feature, _)| *feature)
    }

    pub(super) const fn found(&mut self, feature: Feature) {
        self.active = self.active.with(feature);
    }

    pub(crate) fn lacks(&mut self, feature: Feature, why: Why) {
        self.active = self.active.without(feature);
        self.missing.retain(|(other, _)| *other != feature);
        self.missing.push((feature, why));
    }

    /// Everything, for tests of what looks at it.
    #[cfg(test)]
    pub(crate) fn everything() -> Self {
        Self { active: Feature::ALL.iter().copied().collect(), missing: Vec::new() }
    }
}

/// `with a, b; without c (this kernel: Invalid argument): what is done instead`.
impl fmt::Display for Features {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "with {}", self.active)?;
        let lacks = self.missing.iter().filter(|(_, why)| *why != Why::NotAsked);
        for (feature, why) in lacks {
            write!(f, "; without {feature} ({why}): {}", feature.fallback())?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_feature_has_a_bit_and_a_name_of_its_own() {
        let mut set = FeatureSet::EMPTY;
        for (index, feature) in Feature::ALL.iter().copied().enumerate() {
            assert!(!set.has(feature));
            set = set.with(feature);
            assert!(set.has(feature) && !feature.fallback().is_empty());
            assert_eq!(set.iter().count(), index + 1);
            assert!(!set.without(feature).has(feature));
            let same = Feature::ALL.iter().copied().filter(|other| other.name() == feature.name());
            assert_eq!(same.count(), 1, "{feature}");
        }
    }

    #[test]
    fn what_is_missing_is_said_with_why_and_what_instead() {
        let mut features = Features::default();
        features.found(Feature::Files);
        features.found(Feature::Bundles);
        features.lacks(Feature::Bundles, Why::Refused(Errno::new(libc::EINVAL)));
        features.lacks(Feature::Napi, Why::NotAsked);
        features.lacks(Feature::MultishotReceive, Why::Needs(Feature::BufferRings));
        let text = features.to_string();
        assert!(text.starts_with("with files; without bundles (this kernel: Invalid"), "{text}");
        assert!(text.contains(": one completion for each buffer; without multishot"), "{text}");
        assert!(!text.contains("napi"), "what was not asked for is no lack: {text}");
        assert!(text.ends_with("(needs buffer_rings): one receive after the other"), "{text}");
        assert_eq!(features.refused().collect::<Vec<_>>(), [Feature::Bundles]);
        assert_eq!(FeatureSet::EMPTY.to_string(), "none");
    }
}
