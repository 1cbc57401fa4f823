//! Segments that hold one large buffer of a pool each.
//!
//! ```text
//!   SegmentHeader    kind: buffer; creator and time are those of the pool, which is how the two know each other
//!   at 4096          the bytes of the buffer
//! ```
//!
//! Who has the buffer is said by the slot word, in the pool.

use spinwire_layouts::shm::{SegmentKind, SlotHome, SlotSplit};
use spinwire_layouts::word::{from_usize, to_usize, widen};

use super::segment::PoolSegment;
use crate::raw::line::{LINE_BYTES, Line};
use crate::shm::segment::{
    Identity, JoinError, check, check_identity, copy_header, publish_header,
};
use crate::sync::Ordering;

const HEADER_BYTES: u64 = 4096;

/// Bytes of the segment of a large buffer of `slot_bytes` bytes.
#[must_use]
pub const fn large_bytes(slot_bytes: u64) -> u64 {
    slot_bytes.saturating_add(HEADER_BYTES)
}

/// Makes the segment of a large buffer in `lines`: fresh memory, all zero, that nobody else looks at yet. `identity` is that of
/// the pool, with the name of this segment.
///
/// # Errors
/// `Truncated` where the memory is too small.
pub fn format_large(lines: &[Line], identity: &Identity, slot_bytes: u64) -> Result<(), JoinError> {
    payload(lines, slot_bytes)?;
    publish_header(lines, &identity.header(SegmentKind::Buffer, large_bytes(slot_bytes)));
    Ok(())
}

/// The bytes of the large buffer in `lines`, which somebody has made for the pool of that identity.
///
/// # Errors
/// [`JoinError`] names the field that is wrong: `created_unix_ns`, `creator_pid` and `creator_start_time` are those of the pool.
pub fn attach_large<'s>(
    lines: &'s [Line],
    identity: &Identity,
    slot_bytes: u64,
) -> Result<&'s [Line], JoinError> {
    let header = copy_header(lines)?;
    check_identity(&header, SegmentKind::Buffer)?;
    check("segment_bytes", header.segment_bytes, large_bytes(slot_bytes))?;
    check("created_unix_ns", header.created_unix_ns, identity.created_unix_ns)?;
    check("creator_pid", header.creator_pid, widen(identity.pid))?;
    check("creator_start_time", header.creator_start_time, identity.start_time)?;
    payload(lines, slot_bytes)
}

fn payload(lines: &[Line], slot_bytes: u64) -> Result<&[Line], JoinError> {
    let wanted = large_bytes(slot_bytes);
    let found = from_usize(lines.len().saturating_mul(LINE_BYTES));
    let part = lines.get(to_usize(HEADER_BYTES) / LINE_BYTES..to_usize(wanted) / LINE_BYTES);
    part.ok_or(JoinError::Truncated { found, wanted })
}

impl PoolSegment<'_> {
    /// Whether somebody has the buffer in `slot` to write it: the only one who may find that its segment is not made yet.
    #[must_use]
    pub fn is_written(&self, slot: u32) -> bool {
        // SYNC(slot): Acquire pairs with the Release of the claim.
        self.slot(slot)
            .is_some_and(|slot| slot.word.load(Ordering::Acquire) & SlotSplit::WRITER != 0)
    }

    /// The slots that have segments of their own, each with its bytes.
    pub fn large_slots(&self) -> impl Iterator<Item = (u32, u64)> {
        let large = self.classes().filter(|class| class.spec.home == SlotHome::Segment);
        large.flat_map(|class| {
            let slots = 0..class.spec.slot_count;
            slots.map(move |index| (class.first_slot.wrapping_add(index), class.spec.slot_bytes))
        })
    }
}
