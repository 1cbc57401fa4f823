//! The endpoint directory: whom one may send to, by name, and where an owner hears of news.
//!
//! An endpoint is registered by a compare-and-swap on its lease word and found by its name. Its `news` bits, one per lane,
//! are set by senders whose lane the owner does not look at by itself, and taken by the owner.

use core::fmt;
use core::mem::offset_of;

use spinwire_layouts::shm::{EndpointEntry, EndpointId, EndpointKind, Lease, LeaseState};
use spinwire_layouts::word::next_generation;

use super::lease::{ProcessLease, read_field, write_field, write_words};
use super::segment::Segment;
use super::{bell, lane_table};
use crate::id::Name;
use crate::raw::barrier::store_before_load;
use crate::raw::line::{Line, word};
use crate::sync::{AtomicU64, Ordering};

const LEASE: usize = offset_of!(EndpointEntry, lease) / 8;
const OWNER: usize = offset_of!(EndpointEntry, owner_lease) / 8;
const KIND: usize = offset_of!(EndpointEntry, kind) / 8;
const NAME_GENERATION: usize = offset_of!(EndpointEntry, name_generation) / 8;
const NAME: usize = offset_of!(EndpointEntry, name) / 8;

/// An endpoint that was found in the directory.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct EndpointRef {
    /// Slot and generation.
    pub id: EndpointId,
    /// What it is.
    pub kind: EndpointKind,
    /// The process slot of its owner.
    pub process: u16,
    /// Its name.
    pub name: Name,
}

/// Why an endpoint could not be registered.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum RegisterError {
    /// A live endpoint has that name.
    NameTaken,
    /// The directory is full.
    DirectoryFull,
    /// The process lease was taken away: somebody held this process for dead.
    LeaseLost,
}

impl fmt::Display for RegisterError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NameTaken => "name: a live endpoint has it; choose another",
            Self::DirectoryFull => {
                "endpoint_count: the directory is full; make the segment with a higher one"
            }
            Self::LeaseLost => "lease: this process was marked dead; join the segment again",
        })
    }
}

impl core::error::Error for RegisterError {}

/// Registers an endpoint for the holder of `lease`.
///
/// # Errors
/// [`RegisterError`]; then nothing is left behind. Two that register one name in the same instant may both be refused.
pub fn register(
    segment: &Segment<'_>,
    lease: &ProcessLease,
    name: &Name,
    kind: EndpointKind,
) -> Result<EndpointId, RegisterError> {
    if !super::lease::is_held(segment, lease) {
        return Err(RegisterError::LeaseLost);
    }
    for slot in 0..segment.geometry().endpoint_count {
        let Some(lines) = segment.endpoint(slot) else { break };
        let Some(state) = word(lines, LEASE) else { break };
        let found = state.load(Ordering::Acquire);
        let Some(Lease { state: LeaseState::Free, generation, .. }) = Lease::unpack(found) else {
            continue;
        };
        let generation = next_generation(generation);
        let subject = u32::from(lease.slot());
        let claim = Lease { state: LeaseState::Claiming, generation, subject }.pack();
        if state.compare_exchange(found, claim, Ordering::AcqRel, Ordering::Relaxed).is_err() {
            continue;
        }
        write_words(lines, OWNER, &[lease.word(), u64::from(kind.code()), EndpointId::NONE]);
        write_field(lines, NAME, name.as_field());
        if let Some(named) = word(lines, NAME_GENERATION) {
            // SYNC(named): Release pairs with the Acquire in bears: who sees the generation sees the name.
            named.store(u64::from(generation), Ordering::Release);
        }
        for news in news_words(lines) {
            news.store(0, Ordering::Relaxed);
        }
        if let Some(bell) = bell::bell(segment, slot) {
            bell.store(0, Ordering::Relaxed);
        }
        // Of two that claim one name at once, at least one must see the other: each writes its name, then looks. A
        // full fence between the two keeps either look from being served before the write shows.
        // SYNC(name): this fence pairs with itself in the other process.
        store_before_load();
        let free = Lease { state: LeaseState::Free, generation, subject: 0 }.pack();
        if name_is_taken(segment, name, slot) {
            let _lost_to_another =
                state.compare_exchange(claim, free, Ordering::AcqRel, Ordering::Relaxed);
            return Err(RegisterError::NameTaken);
        }
        let live = Lease { state: LeaseState::Live, generation, subject }.pack();
        // SYNC(endpoint): Release pairs with the Acquire in endpoint_at.
        return match state.compare_exchange(claim, live, Ordering::Release, Ordering::Relaxed) {
            Ok(_) => Ok(EndpointId { slot, generation }),
            Err(_scribbled) => Err(RegisterError::LeaseLost),
        };
    }
    Err(RegisterError::DirectoryFull)
}

fn name_is_taken(segment: &Segment<'_>, name: &Name, but: u32) -> bool {
    (0..segment.geometry().endpoint_count)
        .filter(|&slot| slot != but)
        .any(|slot| segment.endpoint(slot).is_some_and(|lines| bears(lines, name)))
}

/// Whether an entry is, or is about to be, an endpoint of that name.
fn bears(lines: &[Line; 4], name: &Name) -> bool {
    let lease = word(lines, LEASE).and_then(|w| Lease::unpack(w.load(Ordering::Acquire)));
    let named = match lease {
        Some(Lease { state: LeaseState::Live, .. }) => true,
        // SYNC(named): Acquire pairs with the Release in register. Before, the name is that of an earlier stay.
        Some(Lease { state: LeaseState::Claiming, generation, .. }) => word(lines, NAME_GENERATION)
            .is_some_and(|w| w.load(Ordering::Acquire) == u64::from(generation)),
        _ => false,
    };
    named && read_field(lines, NAME) == *name.as_field()
}

/// Takes an endpoint out of the directory, and lets go of the lanes to it that it never met. Its peers see that at their next
/// look.
pub fn unregister(segment: &Segment<'_>, id: EndpointId) {
    if let Some(state) = segment.endpoint(id.slot).and_then(|lines| word(lines, LEASE)) {
        let found = state.load(Ordering::Acquire);
        if let Some(lease @ Lease { state: LeaseState::Live, generation, .. }) =
            Lease::unpack(found)
            && generation == id.generation
        {
            let free = Lease { state: LeaseState::Free, subject: 0, ..lease }.pack();
            let _lost_to_another =
                state.compare_exchange(found, free, Ordering::AcqRel, Ordering::Relaxed);
        }
    }
    // Whoever opens or leaves a lane to here either sees that the endpoint is gone, or is seen by the look that follows.
    store_before_load();
    lane_table::disown(segment, id);
    segment.raise_epoch();
}

/// The live endpoint in `slot`.
#[must_use]
pub fn endpoint_at(segment: &Segment<'_>, slot: u32) -> Option<EndpointRef> {
    let lines = segment.endpoint(slot)?;
    // SYNC(endpoint): Acquire pairs with the Release in register.
    let lease = Lease::unpack(word(lines, LEASE)?.load(Ordering::Acquire))?;
    if lease.state != LeaseState::Live {
        return None;
    }
    let kind = u8::try_from(word(lines, KIND)?.load(Ordering::Relaxed)).ok()?;
    Some(EndpointRef {
        id: EndpointId::unpack(EndpointId { slot, generation: lease.generation }.pack())?,
        kind: EndpointKind::from_code(kind)?,
        process: u16::try_from(lease.subject).ok()?,
        name: Name::from_field(&read_field(lines, NAME)).ok()?,
    })
}

/// The live endpoint of that name.
#[must_use]
pub fn lookup(segment: &Segment<'_>, name: &Name) -> Option<EndpointRef> {
    rows(segment).find(|row| row.name == *name)
}

/// All live endpoints.
pub fn rows<'s>(segment: &Segment<'s>) -> impl Iterator<Item = EndpointRef> + use<'s> {
    let segment = *segment;
    (0..segment.geometry().endpoint_count).filter_map(move |slot| endpoint_at(&segment, slot))
}

/// Whether that stay of that endpoint is over.
#[must_use]
#[inline]
pub fn is_gone(segment: &Segment<'_>, id: EndpointId) -> bool {
    let lease = segment
        .endpoint(id.slot)
        .and_then(|lines| word(lines, LEASE))
        .and_then(|w| Lease::unpack(w.load(Ordering::Acquire)));
    !matches!(lease, Some(Lease { state: LeaseState::Live, generation, .. }) if generation == id.generation)
}

/// The news words of an endpoint: bit `i % 64` of word `i / 64` stands for lane `i`.
pub(super) const fn news_words(lines: &[Line; 4]) -> &[AtomicU64; 8] {
    let [_, _, news, _] = lines;
    news.words()
}

const _: () = assert!(offset_of!(EndpointEntry, news) == 128, "the news are line 2");

/// The news of an endpoint, for its owner and for those who send to it.
#[must_use]
pub fn news<'s>(segment: &Segment<'s>, slot: u32) -> Option<&'s [AtomicU64; 8]> {
    segment.endpoint(slot).map(news_words)
}

pub(super) fn lease_word<'s>(segment: &Segment<'s>, slot: u32) -> Option<&'s AtomicU64> {
    word(segment.endpoint(slot)?, LEASE)
}
