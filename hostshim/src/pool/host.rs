//! What the data plane's pool leaves to the host: sleeping, waking, and the segments of large buffers.
//!
//! ```text
//!   frames                  the pool
//!   frames.5f3a09c1.1040    large buffer of slot 1040; the stamp is that of the pool, by its creator and time
//! ```
//!
//! Invariants: a large buffer is mapped once a process and stays mapped for as long as the pool is open; a segment that was
//! made for another pool of the same name is never taken, because its stamp differs, and its header is compared, too.

use core::time::Duration;
use std::sync::OnceLock;

use spinwire_dataplane::id::Name;
use spinwire_dataplane::pool::{
    PoolGeometry, PoolHost, PoolSegment, Slept, attach_large, format_large, large_bytes,
};
use spinwire_dataplane::raw::line::Line;
use spinwire_dataplane::shm::Identity;
use spinwire_dataplane::sync::AtomicU64;
use spinwire_dataplane::time::Instant;
use spinwire_layouts::shm::{SegmentHeader, SlotHome};

use super::PoolOpenError;
use crate::mem::{MapError, PageKind, PagePolicy, Problem, SegmentDir, SegmentName, SharedMapping};
use crate::membership::MemberError;
use crate::raw::syscall::clock_ns;
use crate::raw::{futex, view};

/// `.STAMP.SLOT`: eight digits, and up to seven.
const SUFFIX_BYTES: usize = 17;

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
    directory: SegmentDir,
    name: String,
    /// Of the pool; with another name, of its parts.
    identity: Identity,
    pages: PagePolicy,
    /// The large slots, by rising number, each with its mapping once there is one.
    large: Box<[(u32, OnceLock<Box<SharedMapping>>)]>,
}

impl PoolFiles {
    pub(super) fn new(
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
            directory: SegmentDir::from_env(),
            name: segment.name().as_str().to_owned(),
            identity,
            pages,
            large: segment.large_slots().map(|(slot, _)| (slot, OnceLock::new())).collect(),
        }
    }

    /// What the names of the pool's large buffers begin with.
    #[must_use]
    pub fn prefix(&self) -> String {
        prefix_of(&self.name, &self.identity)
    }

    pub(super) fn map_all(&self, segment: &PoolSegment<'_>) -> Result<(), PoolOpenError> {
        segment.large_slots().try_for_each(|(slot, bytes)| {
            let at = self.large.binary_search_by_key(&slot, |(slot, _)| *slot);
            let Some((_, place)) = at.ok().and_then(|at| self.large.get(at)) else { return Ok(()) };
            if place.get().is_none() {
                let mapping = self.open_or_make(slot, bytes)?;
                // Lost against another thread: its mapping is as good.
                let _lost = place.set(Box::new(mapping));
            }
            Ok(())
        })
    }

    /// The segment of a slot, made where there is none. Of several processes that make it at once, one does.
    fn open_or_make(&self, slot: u32, bytes: u64) -> Result<SharedMapping, MemberError> {
        let name = format!("{}{slot}", self.prefix());
        let identity = Identity { name: Name::new(&name)?, ..self.identity };
        let broken = |why| MemberError::Join { name: name.clone(), why };
        loop {
            match self.directory.open(&name) {
                Ok(mapping) => {
                    attach_large(view::shared_lines(&mapping), &identity, bytes).map_err(broken)?;
                    return Ok(mapping);
                }
                Err(e) if e.problem() == Some(Problem::Missing) => {}
                Err(e) => return Err(e.into()),
            }
            let whole = usize::try_from(large_bytes(bytes)).unwrap_or(usize::MAX);
            let staged = self.directory.stage(&name, whole, self.pages);
            let published = staged.and_then(|staged| {
                let page_bytes = match staged.page() {
                    PageKind::Huge2M => 2 << 20,
                    PageKind::Thp | PageKind::Base4K => 4096,
                };
                let identity = Identity { page_bytes, ..identity };
                let formatted = format_large(view::staged_lines(&staged), &identity, bytes);
                // As long as was asked for, or it would not have been staged.
                debug_assert!(formatted.is_ok());
                staged.publish()
            });
            match published {
                Ok(mapping) => return Ok(mapping),
                // Somebody was faster.
                Err(e) if e.problem() == Some(Problem::Exists) => {}
                Err(e) => return Err(e.into()),
            }
        }
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
        let at = self.large.binary_search_by_key(&slot, |(slot, _)| *slot).ok()?;
        let (_, place) = self.large.get(at)?;
        let mapping = match place.get() {
            Some(mapping) => mapping,
            None => {
                let mapping = self.open_or_make(slot, bytes).ok()?;
                place.get_or_init(|| Box::new(mapping))
            }
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
