//! What a ring shall be like, and which flags of io_uring_setup(2) that means.

use core::time::Duration;

use spinwire_dataplane::file::FileConfig;
use spinwire_dataplane::stream::StreamConfig;
use spinwire_layouts::uring::{self as layout, Params, setup};

use super::error::UringError;
use super::feature::{Feature, FeatureSet, Features, Why};
use super::settle;
use crate::error::Errno;

/// Entries of the greatest submission queue, and of the greatest completion queue (io_uring_setup(2)).
pub const ENTRIES_MAX: u32 = 32_768;
/// See [`ENTRIES_MAX`].
pub const COMPLETIONS_MAX: u32 = 65_536;
/// Buffers of the greatest ring of provided buffers.
pub const PROVIDED_MAX: u32 = 32_768;

/// What a ring shall be like.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct UringConfig {
    /// Entries of the submission queue; the kernel rounds up to a power of two.
    pub entries: u32,
    /// Entries of the completion queue, at least as many; rounded up too. 0: twice the submission queue.
    pub completions: u32,
    /// Are sizes that are too great to become the greatest, and not to be refused?
    pub clamp: bool,
    /// Have a thread of the kernel take the entries.
    pub sq_poll: Option<SqPoll>,
    /// Slots of the table of files; 0: none.
    pub files: u32,
    /// Have waits for completions poll the network queues.
    pub napi: Option<NapiConfig>,
    /// Bytes of memory that entries may name, for whatever is placed on the ring: see [`Uring::ring`](super::Uring::ring).
    pub arena_bytes: usize,
    /// What is not to be used though the kernel had it.
    pub deny: FeatureSet,
}

impl Default for UringConfig {
    fn default() -> Self {
        Self {
            entries: 256,
            completions: 4096,
            clamp: false,
            sq_poll: None,
            files: 0,
            napi: None,
            arena_bytes: 0,
            deny: FeatureSet::EMPTY,
        }
    }
}

impl UringConfig {
    /// A ring for streams: a table of files and an arena for so many connections.
    #[must_use]
    pub fn for_streams(streams: &StreamConfig) -> Self {
        Self {
            entries: streams.conns.saturating_mul(2).clamp(64, 4096),
            completions: streams.conns.saturating_mul(8).clamp(1024, COMPLETIONS_MAX),
            clamp: true,
            // A place is free again a moment after its row is.
            files: streams.conns.saturating_add(64),
            arena_bytes: streams.arena_bytes(),
            ..Self::default()
        }
    }

    /// A ring that carries streams and files together: see [`spinwire_dataplane::services`].
    #[must_use]
    pub fn for_streams_and_files(streams: &StreamConfig, files: &FileConfig) -> Self {
        let alone = Self::for_streams(streams);
        let entries = u32::from(files.entries_max);
        let completions = files.operations.saturating_mul(entries);
        Self {
            entries: alone.entries.max(entries.next_power_of_two()),
            completions: alone.completions.saturating_add(completions).min(COMPLETIONS_MAX),
            arena_bytes: alone.arena_bytes.saturating_add(files.arena_bytes()),
            ..alone
        }
    }
}

/// A thread of the kernel that takes the entries.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SqPoll {
    /// After how long without work it sleeps; the kernel counts in milliseconds.
    pub idle: Duration,
    /// On which CPU it runs; `None`: anywhere.
    pub cpu: Option<u32>,
}

/// Busy polling of network queues by who waits for completions.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct NapiConfig {
    /// How long; the kernel counts in microseconds.
    pub busy_poll: Duration,
    /// Whether interrupts of the queue stay off meanwhile.
    pub prefer: bool,
}

pub(super) fn check_sizes(config: &UringConfig) -> Result<(), UringError> {
    let within = |field, asked: u32, least: u32, most: u32| {
        let too_great = asked > most && !config.clamp;
        if asked < least || too_great {
            return Err(UringError::Size { field, asked, least, most });
        }
        Ok(())
    };
    within("entries", config.entries, 1, ENTRIES_MAX)?;
    if config.completions == 0 {
        return Ok(());
    }
    within("completions", config.completions, config.entries, COMPLETIONS_MAX)
}

/// Bytes of the memory of a ring, about.
pub(super) fn bytes_about(entries: u32, completions: u32) -> u64 {
    let entries = entries.min(ENTRIES_MAX).next_power_of_two();
    let completions = completions.min(COMPLETIONS_MAX).next_power_of_two().max(2 * entries);
    u64::from(entries) * 68 + u64::from(completions) * 16 + 4096
}

/// The flags that suit a thread that polls, and those that were asked for.
pub(super) fn wanted(config: &UringConfig) -> FeatureSet {
    let always = [
        Feature::SubmitAll,
        Feature::TaskrunFlag,
        Feature::CoopTaskrun,
        Feature::SingleIssuer,
        Feature::DeferTaskrun,
        Feature::NoSqArray,
    ];
    let asked = [
        (Feature::Clamp, config.clamp),
        (Feature::CqSize, config.completions != 0),
        (Feature::SqPoll, config.sq_poll.is_some()),
    ];
    let asked = asked.into_iter().filter(|(_, asked)| *asked).map(|(feature, _)| feature);
    let all = always.into_iter().chain(asked);
    all.filter(|feature| !config.deny.has(*feature)).collect()
}

pub(super) fn params(config: &UringConfig, flags: u32) -> Params {
    let poll = config.sq_poll.filter(|_| flags & setup::SQPOLL != 0);
    let pinned = poll.and_then(|poll| poll.cpu);
    let flags = if pinned.is_some() { flags } else { flags & !setup::SQ_AFF };
    let idle = poll.map_or(0, |poll| poll.idle.as_millis());
    Params {
        flags,
        cq_entries: if flags & setup::CQSIZE == 0 { 0 } else { config.completions },
        sq_thread_cpu: pinned.unwrap_or(0),
        sq_thread_idle: u32::try_from(idle).unwrap_or(u32::MAX),
        ..Params::ZERO
    }
}

/// Says of each flag of the set-up whether it is there, and if not why.
pub(super) fn note_setup(
    config: &UringConfig,
    wanted: FeatureSet,
    have: FeatureSet,
    flags: u32,
    found: &mut Features,
) {
    let possible = settle::compatible(wanted);
    for feature in Feature::ALL.iter().copied().filter(|feature| feature.setup_flag() != 0) {
        // A kernel may take a flag back: SINGLE_ISSUER, where it has a thread of its own.
        if flags & feature.setup_flag() != 0 {
            found.found(feature);
        } else if config.deny.has(feature) {
            found.lacks(feature, Why::Denied);
        } else if possible.has(feature) && !have.has(feature) {
            found.lacks(feature, Why::Refused(Errno::new(libc::EINVAL)));
        } else {
            found.lacks(feature, Why::NotAsked);
        }
    }
}

/// What the data plane counts on, and every kernel since 5.11 has.
pub(super) fn is_young_enough(features: u32) -> Result<(), UringError> {
    use layout::features as f;
    let counted_on = [f::SINGLE_MMAP, f::NODROP, f::SUBMIT_STABLE, f::FAST_POLL, f::EXT_ARG];
    let missing = f::LIST.iter().find(|number| {
        let bit = u32::try_from(number.value).unwrap_or(0);
        counted_on.contains(&bit) && features & bit == 0
    });
    missing.map_or(Ok(()), |number| Err(UringError::TooOld { missing: number.name }))
}
