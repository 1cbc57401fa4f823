//! What reaches a device, in order: doorbell records in memory, registers, and the barriers between them.
//!
//! All of it goes through one small trait, [`Bus`], so that a test can write down the order: [`Device`] does it, and [`CoherentDevice`] for less.
//!
//! Registers are seen as lines of atomics like any memory that somebody else reads; a relaxed store of a word is one write to
//! the device, as it is in rdma-core (`util/mmio.h`). Nothing here reads a register.

use spinwire_layouts::endian::Be32;
use spinwire_layouts::mlx5::dbr;

use super::barrier;
use super::line::Line;
use crate::sync::{AtomicU32, AtomicU64, Ordering};

/// Stores and barriers towards a device, in the order in which they are called.
pub trait Bus {
    /// [`barrier::to_device`].
    fn to_device(&self);

    /// [`barrier::from_device`].
    #[expect(clippy::wrong_self_convention, reason = "the direction, as in rdma-core")]
    fn from_device(&self);

    /// [`barrier::wc_start`].
    fn wc_start(&self);

    /// [`barrier::flush_writes`].
    fn flush(&self);

    /// Stores a slot of a doorbell record, in memory that the device reads.
    fn store_record(&self, slot: &AtomicU32, value: Be32);

    /// Stores eight bytes to a doorbell register, whose bytes are in the order of memory.
    fn write_register(&self, register: &AtomicU64, word: u64);

    /// Copies a block of 64 bytes to a BlueFlame register, from its first word to its last.
    fn copy_block(&self, register: &Line, block: &Line);
}

/// The device itself.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Device;

impl Bus for Device {
    #[inline(always)]
    fn to_device(&self) {
        barrier::to_device();
    }

    #[inline(always)]
    fn from_device(&self) {
        barrier::from_device();
    }

    #[inline(always)]
    fn wc_start(&self) {
        barrier::wc_start();
    }

    #[inline(always)]
    fn flush(&self) {
        barrier::flush_writes();
    }

    #[inline(always)]
    fn store_record(&self, slot: &AtomicU32, value: Be32) {
        slot.store(value.get().to_be(), Ordering::Relaxed);
    }

    #[inline(always)]
    fn write_register(&self, register: &AtomicU64, word: u64) {
        register.store(word, Ordering::Relaxed);
    }

    #[inline(always)]
    fn copy_block(&self, register: &Line, block: &Line) {
        for (to, from) in register.words().iter().zip(block.words()) {
            to.store(from.load(Ordering::Relaxed), Ordering::Relaxed);
        }
    }
}

/// The device itself, where all that it writes is ordinary memory: [`Device`], but with [`barrier::from_coherent_device`], which costs nothing on
/// x86-64. Its proof says what is promised by using it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct CoherentDevice;

impl Bus for CoherentDevice {
    #[inline(always)]
    fn to_device(&self) {
        Device.to_device();
    }

    #[inline(always)]
    fn from_device(&self) {
        barrier::from_coherent_device();
    }

    #[inline(always)]
    fn wc_start(&self) {
        Device.wc_start();
    }

    #[inline(always)]
    fn flush(&self) {
        Device.flush();
    }

    #[inline(always)]
    fn store_record(&self, slot: &AtomicU32, value: Be32) {
        Device.store_record(slot, value);
    }

    #[inline(always)]
    fn write_register(&self, register: &AtomicU64, word: u64) {
        Device.write_register(register, word);
    }

    #[inline(always)]
    fn copy_block(&self, register: &Line, block: &Line) {
        Device.copy_block(register, block);
    }
}

impl<B: Bus + ?Sized> Bus for &B {
    #[inline]
    fn to_device(&self) {
        (**self).to_device();
    }

    #[inline]
    fn from_device(&self) {
        (**self).from_device();
    }

    #[inline]
    fn wc_start(&self) {
        (**self).wc_start();
    }

    #[inline]
    fn flush(&self) {
        (**self).flush();
    }

    #[inline]
    fn store_record(&self, slot: &AtomicU32, value: Be32) {
        (**self).store_record(slot, value);
    }

    #[inline]
    fn write_register(&self, register: &AtomicU64, word: u64) {
        (**self).write_register(register, word);
    }

    #[inline]
    fn copy_block(&self, register: &Line, block: &Line) {
        (**self).copy_block(register, block);
    }
}

/// A doorbell record: two slots in one aligned word of memory that the device reads.
#[derive(Clone, Copy, Debug)]
pub struct DoorbellRecord<'m>(&'m [AtomicU32; 2]);

impl<'m> DoorbellRecord<'m> {
    /// The record in these words.
    #[must_use]
    pub const fn new(words: &'m [AtomicU32; 2]) -> Self {
        Self(words)
    }

    /// The slot of the receive queue, also of a shared one.
    #[must_use]
    #[inline(always)]
    pub const fn receive(self) -> &'m AtomicU32 {
        const { assert!(dbr::RECEIVE == 0) };
        let [receive, _send] = self.0;
        receive
    }

    /// The slot of the send queue.
    #[must_use]
    #[inline(always)]
    pub const fn send(self) -> &'m AtomicU32 {
        const { assert!(dbr::SEND == 1) };
        let [_receive, send] = self.0;
        send
    }
}
