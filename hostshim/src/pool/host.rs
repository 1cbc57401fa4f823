//! What the data plane's pool leaves to the host: sleeping, waking, and the segments of large buffers.
//!
//! ```text
//!   frames                  the pool
//!   frames.5f3a09c1.1040    large buffer of slot 1040; the stamp is that of the pool, by its creator and time
//! ```
//!
//! Invariants: (1) a large buffer is mapped once a process and stays mapped for as long as the pool is open; (2) a segment that
//! was made for another pool of the same name is never taken, because its stamp differs, and its header is compared, too; (3) all
//! processes see the same segment behind a slot. It is made where there is none, by whoever has taken the slot to write it, and is
//! removed after the pool's name only. So who looks at that name *after* it has made or opened a segment, and finds it there,
//! has the one segment that there is; who does not find it, takes none.

use core::fmt;
use core::time::Duration;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use spinwire_dataplane::id::Name;
use spinwire_dataplane::pool::{
    PoolGeometry, PoolHost, PoolSegment, PoolShape, Slept, attach_large, format_large, large_bytes,
};
use spinwire_dataplane::raw::line::Line;
use spinwire_dataplane::shm::Identity;
use spinwire_dataplane::sync::AtomicU64;
use spinwire_dataplane::time::Instant;
use spinwire_layouts::shm::{SegmentHeader, SlotHome};

use super::PoolOpenError;
use crate::mem::{
    Lasting, MapError, PageKind, PagePolicy, PageReport, Problem, SegmentName, SharedMapping,
};
use crate::membership::MemberError;
use crate::raw::syscall::clock_ns;
use crate::raw::{futex, view};

/// `.STAMP.SLOT`: eight digits, and up to seven.
const SUFFIX_BYTES: usize = 17;
/// How often a segment is looked for that others make or remove meanwhile.
const ATTEMPTS_MAX: u32 = 64;

/// Why a large buffer could not be mapped.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum LargeError {
    /// Its segment could not be made or opened, or is none of this pool.
    Segment {
        /// The slot of the pool.
        slot: u32,
        /// Why.
        why: MemberError,
    },
    /// It has no segment, and is not being written: nobody ever used it, or somebody removed its file.
    NeverMade {
        /// The slot of the pool.
        slot: u32,
    },
    /// The pool was removed, and its large buffers with it, before this process had mapped this one.
    PoolRemoved {
        /// The slot of the pool.
        slot: u32,
        /// The pool.
        pool: String,
    },
}

impl LargeError {
    /// The slot of the pool.
    #[must_use]
    pub const fn slot(&self) -> u32 {
        match self {
            Self::Segment { slot, .. }
            | Self::NeverMade { slot }
            | Self::PoolRemoved { slot, .. } => *slot,
        }
    }
}

impl fmt::Display for LargeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Segment { slot, why } => write!(f, "large buffer in slot {slot}: {why}"),
            Self::NeverMade { slot } => write!(
                f,
                "large buffer in slot {slot}: it has no segment and nobody writes it; remedy: pass an id that its writer gave out"
            ),
            Self::PoolRemoved { slot, pool } => write!(
                f,
                "large buffer in slot {slot}: the pool {pool} was removed before this process had mapped it; \
                 remedy: map_large before the pool is removed, or make it anew"
            ),
        }
    }
}

impl core::error::Error for LargeError {}

/// Sleeps and wakes, and maps nothing.
#[derive(Clone, Copy, Debug)]
pub(super) struct Futexes;

impl PoolHost for Futexes {
    fn sleep(&self, word: &AtomicU64, expected: u32, until: Option<Instant>) -> Slept {
        let left = until.map(|until| {
            let now = clock_ns(libc::CLOCK_MONOTONIC);
            Duration::from_nanos(until.as_nanos().saturating_sub(now))
        });
        if left.is_some_and(|left| left.is_zero()) || !futex::wait_low(word, expected, left) {
            return Slept::TimedOut;
        }
        Slept::Woken
    }

    fn wake(&self, word: &AtomicU64) {
        futex::wake_all(word);
    }
}

/// A pool's files: its large buffers. Sleeps and wakes by futex(2).
#[derive(Debug)]
pub struct PoolFiles {
    pool: Arc<SharedMapping>,
    shape: PoolShape,
    /// Of the pool; with another name, of its parts.
    identity: Identity,
    pages: PagePolicy,
    /// The large slots, by rising number, each with its mapping once there is one.
    large: Box<[(u32, OnceLock<Box<SharedMapping>>)]>,
    refused: Mutex<Option<LargeError>>,
}

impl PoolFiles {
    pub(super) fn new(
        pool: &Arc<SharedMapping>,
        segment: &PoolSegment<'_>,
        header: &SegmentHeader,
        pages: PagePolicy,
    ) -> Self {
        let identity = Identity {
            name: *segment.name(),
            boot_id: header.boot_id,
            created_unix_ns: header.created_unix_ns,
            pid: u32::try_from(header.creator_pid).unwrap_or(0),
            start_time: header.creator_start_time,
            page_bytes: header.page_bytes,
            pid_namespace: header.pid_namespace,
        };
        Self {
            pool: Arc::clone(pool),
            shape: segment.shape(),
            identity,
            pages,
            large: segment.large_slots().map(|(slot, _)| (slot, OnceLock::new())).collect(),
            refused: Mutex::new(None),
        }
    }

    /// What the names of the pool's large buffers begin with.
    #[must_use]
    pub fn prefix(&self) -> String {
        prefix_of(self.identity.name.as_str(), &self.identity)
    }

    /// The large buffers that this process has mapped: the slot, and which pages it got.
    pub fn mapped(&self) -> impl Iterator<Item = (u32, &PageReport)> {
        self.large.iter().filter_map(|(slot, place)| Some((*slot, place.get()?.report())))
    }

    /// Why the last large buffer that could not be mapped, by any thread, could not.
    #[must_use]
    pub fn refused(&self) -> Option<LargeError> {
        self.refused.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) fn map_all(&self, segment: &PoolSegment<'_>) -> Result<(), LargeError> {
        segment.large_slots().try_for_each(|(slot, bytes)| {
            let Some(place) = self.place(slot) else { return Ok(()) };
            if place.get().is_none() {
                let mapping = self.open_or_make(slot, bytes, |_| true)?;
                // Lost against another thread: its mapping is as good.
                let _lost = place.set(Box::new(mapping));
            }
            Ok(())
        })
    }

    fn place(&self, slot: u32) -> Option<&OnceLock<Box<SharedMapping>>> {
        let at = self.large.binary_search_by_key(&slot, |(slot, _)| *slot).ok()?;
        self.large.get(at).map(|(_, place)| place)
    }

    /// Whether somebody has the slot to write: only then may its segment not be there yet.
    fn is_written(&self, slot: u32) -> bool {
        let segment = PoolSegment::reattach(view::shared_lines(&self.pool), &self.shape);
        segment.is_ok_and(|segment| segment.is_written(slot))
    }

    /// The segment of a slot, made where there is none and it may be made. Of several that make it at once, one does.
    fn open_or_make(
        &self,
        slot: u32,
        bytes: u64,
        may_make: impl Fn(u32) -> bool,
    ) -> Result<SharedMapping, LargeError> {
        let found = self.open_or_make_unchecked(slot, bytes, may_make);
        // After that, not before: see invariant 3.
        if self.pool.is_named() {
            return found;
        }
        if let Ok(mapping) = found {
            // It may have been made too late to be found by who removes them. Whoever has it mapped keeps it.
            let _removed_or_not_there = mapping.unlink();
        }
        Err(LargeError::PoolRemoved { slot, pool: self.pool.name().to_owned() })
    }

    fn open_or_make_unchecked(
        &self,
        slot: u32,
        bytes: u64,
        may_make: impl Fn(u32) -> bool,
    ) -> Result<SharedMapping, LargeError> {
        let segment = |why| LargeError::Segment { slot, why };
        let name = format!("{}{slot}", self.prefix());
        let of_name = Name::new(&name).map_err(|e| segment(e.into()))?;
        let identity = Identity { name: of_name, ..self.identity };
        let mut last = LargeError::NeverMade { slot };
        for _attempt in 0..ATTEMPTS_MAX {
            match self.pool.directory().open(&name) {
                Ok(mapping) => {
                    let broken = |why| segment(MemberError::Join { name: name.clone(), why });
                    attach_large(view::shared_lines(&mapping), &identity, bytes).map_err(broken)?;
                    return Ok(mapping);
                }
                Err(e) if e.problem() == Some(Problem::Missing) => {
                    if !may_make(slot) {
                        return Err(LargeError::NeverMade { slot });
                    }
                }
                // On a hugetlbfs the name comes first and the memory right after.
                Err(e) if e.problem() == Some(Problem::TargetMissing) => {
                    last = segment(e.into());
                    std::thread::sleep(Duration::from_millis(1));
                    continue;
                }
                Err(e) => return Err(segment(e.into())),
            }
            match self.make_large(&name, &identity, bytes) {
                // Somebody was faster.
                Err(e) if e.problem() == Some(Problem::Exists) => last = segment(e.into()),
                other => return other.map_err(|e| segment(e.into())),
            }
        }
        Err(last)
    }

    fn make_large(
        &self,
        name: &str,
        identity: &Identity,
        bytes: u64,
    ) -> Result<SharedMapping, MapError> {
        let whole = usize::try_from(large_bytes(bytes)).unwrap_or(usize::MAX);
        let directory = self.pool.directory();
        let staged = directory.stage_lasting(name, whole, self.pages, Lasting::WithName)?;
        let page_bytes = match staged.page() {
            PageKind::Huge2M => 2 << 20,
            PageKind::Thp | PageKind::Base4K => 4096,
        };
        let identity = Identity { page_bytes, ..*identity };
        let formatted = format_large(view::staged_lines(&staged), &identity, bytes);
        // As long as was asked for, or it would not have been staged.
        debug_assert!(formatted.is_ok());
        staged.publish()
    }
}

impl PoolHost for PoolFiles {
    fn sleep(&self, word: &AtomicU64, expected: u32, until: Option<Instant>) -> Slept {
        Futexes.sleep(word, expected, until)
    }

    fn wake(&self, word: &AtomicU64) {
        Futexes.wake(word);
    }

    fn large(&self, slot: u32, bytes: u64) -> Option<&[Line]> {
        let place = self.place(slot)?;
        let mapping = match place.get() {
            Some(mapping) => mapping,
            None => match self.open_or_make(slot, bytes, |slot| self.is_written(slot)) {
                Ok(mapping) => place.get_or_init(|| Box::new(mapping)),
                Err(why) => {
                    *self.refused.lock().unwrap_or_else(PoisonError::into_inner) = Some(why);
                    return None;
                }
            },
        };
        // The header was checked when it was mapped; what lies behind it needs no check.
        view::shared_lines(mapping).get(HEADER_LINES..)
    }
}

const HEADER_LINES: usize = 4096 / 64;

/// What the names of the large buffers of a pool begin with: its name and its stamp.
#[must_use]
pub fn large_prefix(name: &str, header: &SegmentHeader) -> String {
    let stamp = stamp(header.created_unix_ns, header.creator_pid);
    format!("{name}.{stamp:08x}.")
}

fn prefix_of(name: &str, identity: &Identity) -> String {
    let stamp = stamp(identity.created_unix_ns, u64::from(identity.pid));
    format!("{name}.{stamp:08x}.")
}

/// Two pools of one name differ in it, unless they were made in the same nanosecond or one in four billion is unlucky; then
/// their headers differ.
const fn stamp(created_unix_ns: u64, pid: u64) -> u64 {
    (created_unix_ns ^ pid.rotate_left(32)).wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 32
}

/// Whether a segment has the name of a large buffer of the pool with that prefix.
pub(super) fn is_large_of(name: &str, prefix: &str) -> bool {
    name.strip_prefix(prefix)
        .is_some_and(|slot| !slot.is_empty() && slot.bytes().all(|b| b.is_ascii_digit()))
}

/// The names of its large buffers must be names, too.
pub(super) fn check_name(name: &str, geometry: &PoolGeometry) -> Result<(), PoolOpenError> {
    SegmentName::new(name).map_err(MapError::from)?;
    let most = SegmentName::BYTES_MAX - SUFFIX_BYTES;
    let has_large = geometry.classes().iter().any(|class| class.home == SlotHome::Segment);
    if has_large && name.len() > most {
        return Err(PoolOpenError::LongName { bytes: name.len(), most });
    }
    Ok(())
}
