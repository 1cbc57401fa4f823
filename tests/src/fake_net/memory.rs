//! What a kernel does with addresses that submissions name: reads and writes there, as the memory of the ring is its own too.

use core::mem::size_of;
use core::ptr;

/// The bytes at an address.
#[must_use]
#[expect(unsafe_code, reason = "a fake of the kernel goes where submissions point")]
pub fn read(address: u64, length: usize) -> Vec<u8> {
    let from = ptr::with_exposed_provenance::<u8>(usize::try_from(address).unwrap());
    // SAFETY: the service under test names memory of the arena that it was placed in, which lives longer than this kernel, and
    // lets nobody write there before the operation has completed; that is what the tests are for.
    let bytes = unsafe { core::slice::from_raw_parts(from, length) };
    bytes.to_vec()
}

/// Writes bytes to an address.
#[expect(unsafe_code, reason = "a fake of the kernel goes where submissions point")]
pub fn write(address: u64, bytes: &[u8]) {
    let to = ptr::with_exposed_provenance_mut::<u8>(usize::try_from(address).unwrap());
    // SAFETY: as in `read`: the buffer is the kernel's until it has said that it is filled.
    unsafe { ptr::copy_nonoverlapping(bytes.as_ptr(), to, bytes.len()) };
}

fn number<const N: usize>(address: u64) -> [u8; N] {
    read(address, N).try_into().unwrap()
}

/// A word of 64 bits.
#[must_use]
pub fn word(address: u64) -> u64 {
    u64::from_le_bytes(number::<{ size_of::<u64>() }>(address))
}

/// A ring of provided buffers, as the kernel sees it.
#[derive(Clone, Copy, Debug)]
pub struct BufferRing {
    start: u64,
    entries: u16,
    head: u16,
}

impl BufferRing {
    /// The ring that a program has registered, whose counters begin with 0.
    #[must_use]
    pub fn new((start, entries): (u64, u32)) -> Self {
        assert!(entries.is_power_of_two() && start.is_multiple_of(4096), "EINVAL");
        Self { start, entries: u16::try_from(entries).unwrap(), head: 0 }
    }

    /// Buffers that the kernel has.
    #[must_use]
    pub fn available(&self) -> u16 {
        let tail = u16::from_le_bytes(number(self.start + 14));
        let available = tail.wrapping_sub(self.head);
        assert!(available <= self.entries, "the tail is ahead by more than there are");
        available
    }

    fn entry(&self) -> u64 {
        self.start + u64::from(self.head & (self.entries - 1)) * 16
    }

    /// Address, bytes and number of the next one.
    #[must_use]
    pub fn peek(&self) -> (u64, usize, u16) {
        let at = self.entry();
        let length = u32::from_le_bytes(number(at + 8));
        (word(at), usize::try_from(length).unwrap(), u16::from_le_bytes(number(at + 12)))
    }

    /// Cuts the next one, as the kernel does where it looks for a bundle of so many bytes.
    pub fn shorten(&self, length: usize) {
        write(self.entry() + 8, &u32::try_from(length).unwrap().to_le_bytes());
    }

    /// Takes the next one.
    pub const fn advance(&mut self) {
        self.head = self.head.wrapping_add(1);
    }
}
