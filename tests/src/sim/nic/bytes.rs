//! Bytes in lines: what a device sees of memory, byte by byte, in its own order. Nothing here knows the layouts of the house.

use core::sync::atomic::Ordering;

use spinwire_dataplane::raw::line::{LINE_BYTES, Line};
use spinwire_dataplane::sync::AtomicU32;

/// `length` bytes from byte `at`, in a ring that begins anew at its end.
#[must_use]
pub fn read_ring(ring: &[Line], at: usize, length: usize) -> Vec<u8> {
    let size = ring.len() * LINE_BYTES;
    let mut bytes = Vec::with_capacity(length + 8);
    let mut at = at % size;
    while bytes.len() < length {
        let word = ring[at / LINE_BYTES].words()[at % LINE_BYTES / 8].load(Ordering::Acquire);
        bytes.extend_from_slice(&word.to_le_bytes()[at % 8..]);
        at = (at / 8 * 8 + 8) % size;
    }
    bytes.truncate(length);
    bytes
}

/// What a slot of a doorbell record says.
#[must_use]
pub fn read_record(slot: &AtomicU32) -> u32 {
    u32::from_be_bytes(slot.load(Ordering::Acquire).to_le_bytes())
}

/// Writes bytes from byte `at`; no others change.
pub fn write_lines(lines: &[Line], mut at: usize, mut bytes: &[u8]) {
    while !bytes.is_empty() {
        let word = &lines[at / LINE_BYTES].words()[at % LINE_BYTES / 8];
        let here = bytes.len().min(8 - at % 8);
        let mut now = word.load(Ordering::Relaxed).to_le_bytes();
        now[at % 8..at % 8 + here].copy_from_slice(&bytes[..here]);
        word.store(u64::from_le_bytes(now), Ordering::Release);
        (at, bytes) = (at + here, &bytes[here..]);
    }
}

/// The 16-bit number of a device at byte `at`.
#[must_use]
pub fn be16(bytes: &[u8], at: usize) -> u16 {
    u16::from_be_bytes(bytes[at..at + 2].try_into().unwrap())
}

/// The 32-bit number of a device at byte `at`.
#[must_use]
pub fn be32(bytes: &[u8], at: usize) -> u32 {
    u32::from_be_bytes(bytes[at..at + 4].try_into().unwrap())
}

/// The 64-bit number of a device at byte `at`.
#[must_use]
pub fn be64(bytes: &[u8], at: usize) -> u64 {
    u64::from_be_bytes(bytes[at..at + 8].try_into().unwrap())
}

/// A length or an index as a `usize`.
#[must_use]
pub fn size(number: u32) -> usize {
    usize::try_from(number).unwrap()
}

/// A length as the 32 bits that a device has for it.
#[must_use]
pub fn count(length: usize) -> u32 {
    u32::try_from(length).unwrap()
}

/// What is written over blocks that have completed: a word that says which block and which lap it was.
#[must_use]
pub fn poison(index: u16) -> u64 {
    0xDEAD_B10C_0000_F00D | u64::from(index) << 16
}

/// Whether it was written over a block that has completed.
#[must_use]
pub fn is_poison(word: u64) -> bool {
    word & !(0xFFFF << 16) == poison(0)
}
