//! Buffer pools: buffers that processes share, hand over by id, and lose none of when one of them is killed.
//!
//! ```text
//!  SegmentHeader            kind: pool; counts of lanes and endpoints are zero
//!  PoolHeader               where everything lies; written once, before `ready`
//!  SizeClass[16]            slot_bytes x slot_count each, ascending; written once
//!  ProcessEntry[]           who may hold buffers: one lease each, one bit each in the slot words
//!  per class: ClassLive     futex word, and a bit for each slot that may be free
//!  BufferMeta[slot_count]   slot word, size; description
//!  arena                    the bytes: class after class, slot after slot
//! ```
//!
//! The slot word alone says who has a buffer. Its parts are as wide as the number of processes wants them, which
//! [`SlotSplit`] works out:
//!
//! ```text
//!  bit  63              shift            9 8         6 5          1     0
//!      +---------------------+------------+-----------+------------+--------+
//!      | generation, 23 - 40 |  holders   | repairs 3 | detached 5 | writer |     shift = max(24, 9 + process_count)
//!      +---------------------+------------+-----------+------------+--------+
//! ```
//!
//! A bit in `holders` stands for all guards of one process; how many those are is that process's own business. `detached`
//! counts references that belong to whoever knows the id. With these and `writer` zero the slot is free, and the generation
//! is that of its last use: who takes it raises it in the same compare-and-swap. `repairs` is raised by whoever takes back
//! from the dead, so that a slow one of two such finds another word even if a successor has put the same bit there again.

use crate::word::{TagWord, to_usize, widen};

/// Most dimensions of a tensor.
pub const MAX_NDIM: usize = 8;
/// Most size classes of a pool.
pub const CLASS_COUNT_MAX: usize = 16;
/// Most processes that a pool can have room for: each has a bit in every slot word.
pub const POOL_PROCESS_COUNT_MAX: u32 = 32;
/// Most slots of a pool: what the slot field of a [`BufferId`] can say.
pub const SLOT_COUNT_MAX: u32 = 1 << SLOT_BITS;
/// Most references of one buffer that belong to no process.
pub const DETACHED_MAX: u32 = 31;
/// Where the [`PoolHeader`] lies: behind the header of the segment.
pub const POOL_HEADER_OFFSET: usize = 256;
/// Bytes of the fields for content type and producer.
pub const LABEL_BYTES: usize = 32;
/// Bits of free slots in a [`ClassLive`]; further ones lie in the lines behind it, 512 each.
pub const FREE_BITS_IN_LIVE: usize = 384;

codes! {
    /// Type of the elements of a buffer.
    pub enum DType: u8 {
        /// Unsigned, 8 bits; also for bytes without a type.
        U8 = 0 "u8",
        /// Signed, 8 bits.
        I8 = 1 "i8",
        /// Unsigned, 16 bits.
        U16 = 2 "u16",
        /// Signed, 16 bits.
        I16 = 3 "i16",
        /// Unsigned, 32 bits.
        U32 = 4 "u32",
        /// Signed, 32 bits.
        I32 = 5 "i32",
        /// Unsigned, 64 bits.
        U64 = 6 "u64",
        /// Signed, 64 bits.
        I64 = 7 "i64",
        /// IEEE 754 binary16.
        F16 = 8 "f16",
        /// The upper half of a binary32: 8 bits of exponent, 7 of fraction.
        Bf16 = 9 "bf16",
        /// IEEE 754 binary32.
        F32 = 10 "f32",
        /// IEEE 754 binary64.
        F64 = 11 "f64",
    }
}

impl DType {
    /// Bytes of one element, which is also how it is aligned.
    #[inline]
    #[must_use]
    pub const fn bytes(self) -> u64 {
        match self {
            Self::U8 | Self::I8 => 1,
            Self::U16 | Self::I16 | Self::F16 | Self::Bf16 => 2,
            Self::U32 | Self::I32 | Self::F32 => 4,
            Self::U64 | Self::I64 | Self::F64 => 8,
        }
    }
}

codes! {
    /// Where the bytes of a buffer are.
    pub enum StorageType: u8 {
        /// In the arena of the pool.
        Cpu = 0 "cpu",
        /// In the memory of a CUDA device. The number is reserved; this version refuses such buffers.
        Cuda = 1 "cuda",
    }
}

codes! {
    /// What the holder of a guard may do.
    pub enum AccessMode: u8 {
        /// Read; others may read, too.
        ReadOnly = 0 "read-only",
        /// Read and write, alone.
        ReadWrite = 1 "read-write",
    }
}

codes! {
    /// Where the bytes of the slots of a class lie.
    pub enum SlotHome: u32 {
        /// In the arena, one after the other.
        Arena = 0 "arena",
        /// Each in a segment of its own, which is made when it is first needed, and mapped once by each process.
        Segment = 1 "segment",
    }
}

codes! {
    /// What becomes of detached references when the process that detached them dies.
    pub enum Orphans: u8 {
        /// They stay: whoever knows the id can take the buffer. One that nobody was told of stays, too.
        Keep = 0 "keep",
        /// They end with the process that detached last. An id that is under way then turns stale.
        Release = 1 "release",
    }
}

/// Elements that a typed view of a buffer may have.
pub trait Element: crate::pod::Plain {
    /// How a buffer of them is described.
    const DTYPE: DType;
}

macro_rules! elements {
    ($($ty:ident $dtype:ident;)*) => {$(
        impl Element for $ty {
            const DTYPE: DType = DType::$dtype;
        }
        const _: () = assert!(size_of::<$ty>() == to_usize(DType::$dtype.bytes()));
        const _: () = assert!(align_of::<$ty>() == size_of::<$ty>());
    )*};
}

elements! {
    u8 U8; i8 I8; u16 U16; i16 I16; u32 U32; i32 I32; u64 U64; i64 I64;
    F16Bits F16; Bf16Bits Bf16; f32 F32; f64 F64;
}

pub use crate::pod::{Bf16Bits, F16Bits};

/// Bits of the slot in a [`BufferId`].
pub const SLOT_BITS: u32 = 20;
/// Bits of the tag in a [`BufferId`].
pub const TAG_BITS: u32 = 4;
/// Lowest bit of the generation in a [`BufferId`].
const ID_GENERATION_SHIFT: u32 = SLOT_BITS + TAG_BITS;
const SLOT_MASK: u64 = (1 << SLOT_BITS) - 1;
const TAG_MASK: u64 = (1 << TAG_BITS) - 1;

/// Names one use of one buffer of one pool: slot in bits 0 to 19, tag of the pool in bits 20 to 23, generation in bits 24 to
/// 63.
///
/// The generation is what the slot word held while the buffer was in use, and is never 0: a word of zeros names no buffer.
/// The tag, 1 to 15, lets an id of another pool be told apart in most cases.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
#[repr(transparent)]
pub struct BufferId(u64);

/// Which stay of which process left a reference behind, as `detached_by` of a [`BufferMeta`] has it: a
/// [`TagWord`] with the slot of the process table plus one as its tag, and generation and pid of the lease.
/// The lease words of two handles of one process may be the same, as they lie in different slots.
#[inline]
#[must_use]
pub const fn stay(lease: u64, slot: u16) -> u64 {
    let [low, _] = slot.to_le_bytes();
    TagWord { tag: low.wrapping_add(1), ..TagWord::unpack(lease) }.pack()
}

impl BufferId {
    /// The id that names nothing.
    pub const NONE: Self = Self(0);

    /// Packs the three parts. What is too wide is cut off.
    #[inline]
    #[must_use]
    pub const fn new(slot: u32, tag: u8, generation: u64) -> Self {
        let tag = u64::from_le_bytes([tag, 0, 0, 0, 0, 0, 0, 0]) & TAG_MASK;
        Self(generation << ID_GENERATION_SHIFT | tag << SLOT_BITS | widen(slot) & SLOT_MASK)
    }

    /// The word, to be carried anywhere.
    #[inline]
    #[must_use]
    pub const fn as_raw(self) -> u64 {
        self.0
    }

    /// Takes back a word. Any word is taken here; the pool tells whether it names a buffer.
    #[inline]
    #[must_use]
    pub const fn from_raw(raw: u64) -> Self {
        Self(raw)
    }

    /// Which slot.
    #[inline]
    #[must_use]
    pub const fn slot(self) -> u32 {
        crate::word::low(self.0 & SLOT_MASK)
    }

    /// The tag of its pool.
    #[inline]
    #[must_use]
    pub const fn tag(self) -> u8 {
        let [tag, ..] = (self.0 >> SLOT_BITS & TAG_MASK).to_le_bytes();
        tag
    }

    /// Which use of the slot.
    #[inline]
    #[must_use]
    pub const fn generation(self) -> u64 {
        self.0 >> ID_GENERATION_SHIFT
    }
}

impl core::fmt::Display for BufferId {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "{}.{}", self.slot(), self.generation())
    }
}

const DETACHED_SHIFT: u32 = 1;
const REPAIRS_SHIFT: u32 = 6;
const REPAIRS_MAX: u32 = 7;
const HOLDERS_SHIFT: u32 = 9;
/// The generation begins here, or above the bits of the holders where those go further.
const GENERATION_SHIFT_MIN: u32 = 24;

/// How the slot words of a pool are divided.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SlotSplit {
    generation_shift: u32,
}

/// A slot word, taken apart.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SlotWord {
    /// How often the slot was taken, modulo the width of the field, leaving out 0.
    pub generation: u64,
    /// Bit n: the process in slot n of the process table has guards.
    pub holders: u32,
    /// How often something was taken back from a dead process in this use of the slot, modulo 8.
    pub repairs: u32,
    /// References that belong to no process.
    pub detached: u32,
    /// Whether the one holder may write, and nobody else may even read.
    pub writer: bool,
}

impl SlotWord {
    /// References altogether: one for each holding process, and the detached ones.
    #[inline]
    #[must_use]
    pub const fn references(self) -> u32 {
        self.holders.count_ones().wrapping_add(self.detached)
    }

    /// Whether nobody has the slot.
    #[inline]
    #[must_use]
    pub const fn is_free(self) -> bool {
        self.holders == 0 && self.detached == 0 && !self.writer
    }
}

impl SlotSplit {
    /// The bit of the writer.
    pub const WRITER: u64 = 1;
    /// One detached reference.
    pub const DETACHED_ONE: u64 = 1 << DETACHED_SHIFT;
    /// All detached references.
    pub const DETACHED: u64 = widen(DETACHED_MAX) << DETACHED_SHIFT;
    /// The count of repairs.
    pub const REPAIRS: u64 = widen(REPAIRS_MAX) << REPAIRS_SHIFT;

    /// For a pool with that many processes, 1 to [`POOL_PROCESS_COUNT_MAX`].
    #[must_use]
    pub const fn new(process_count: u32) -> Self {
        let above = process_count.wrapping_add(HOLDERS_SHIFT);
        let least = GENERATION_SHIFT_MIN;
        let most = HOLDERS_SHIFT.wrapping_add(POOL_PROCESS_COUNT_MAX);
        Self {
            generation_shift: match above {
                _ if above < least => least,
                _ if above > most => most,
                _ => above,
            },
        }
    }

    /// Lowest bit of the generation.
    #[must_use]
    pub const fn generation_shift(self) -> u32 {
        self.generation_shift
    }

    /// Greatest generation.
    #[must_use]
    pub const fn generation_max(self) -> u64 {
        u64::MAX.wrapping_shr(self.generation_shift)
    }

    /// The generation that follows; 0 is left out.
    #[inline]
    #[must_use]
    pub const fn next_generation(self, generation: u64) -> u64 {
        let next = generation.wrapping_add(1) & self.generation_max();
        if next == 0 { 1 } else { next }
    }

    /// All bits below the generation.
    const fn below(self) -> u64 {
        !u64::MAX.wrapping_shl(self.generation_shift)
    }

    /// All bits of holders.
    #[inline]
    #[must_use]
    pub const fn holders(self) -> u64 {
        self.below() & u64::MAX << HOLDERS_SHIFT
    }

    /// The bits that are all zero where the slot is free.
    #[inline]
    #[must_use]
    pub const fn in_use(self) -> u64 {
        self.holders() | Self::DETACHED | Self::WRITER
    }

    /// The bit of the process in `slot` of the process table.
    #[inline]
    #[must_use]
    pub const fn holder(self, slot: u16) -> u64 {
        let [low, _] = slot.to_le_bytes();
        1_u64.wrapping_shl(HOLDERS_SHIFT.wrapping_add(u32::from_le_bytes([low & 31, 0, 0, 0])))
    }

    /// `word` with one repair more.
    #[inline]
    #[must_use]
    pub const fn repaired(word: u64) -> u64 {
        let raised = (word & Self::REPAIRS).wrapping_add(1 << REPAIRS_SHIFT);
        word & !Self::REPAIRS | raised & Self::REPAIRS
    }

    /// The word. What is too wide is cut off.
    #[inline]
    #[must_use]
    pub const fn pack(self, word: SlotWord) -> u64 {
        let below = self.below();
        let detached = widen(word.detached & DETACHED_MAX) << DETACHED_SHIFT;
        let holders = widen(word.holders) << HOLDERS_SHIFT & below;
        let repairs = widen(word.repairs & REPAIRS_MAX) << REPAIRS_SHIFT;
        let writer = if word.writer { Self::WRITER } else { 0 };
        word.generation.wrapping_shl(self.generation_shift) | holders | repairs | detached | writer
    }

    /// The parts of a word. Every word has some.
    #[inline]
    #[must_use]
    pub const fn unpack(self, word: u64) -> SlotWord {
        let below = word & self.below();
        SlotWord {
            generation: word.wrapping_shr(self.generation_shift),
            holders: crate::word::low(below >> HOLDERS_SHIFT),
            repairs: crate::word::low(below >> REPAIRS_SHIFT) & REPAIRS_MAX,
            detached: crate::word::low(below >> DETACHED_SHIFT) & DETACHED_MAX,
            writer: below & Self::WRITER != 0,
        }
    }
}

layout! {
    /// What a pool is made of: behind the header of its segment. Written once, but for its clock.
    pub struct PoolHeader, size 64, align 64 {
        /// Size classes that there are: 1 to 16.
        pub class_count: u32 @ 0,
        /// Slots of all classes together.
        pub slot_count: u32 @ 4,
        /// Where the [`ClassLive`] of the first class lies: bytes from the start of the segment, a multiple of 64. So are the
        /// others.
        pub live_offset: u64 @ 8,
        /// Where the [`BufferMeta`] of slot 0 lies.
        pub meta_offset: u64 @ 16,
        /// Where the arena starts: on a page.
        pub arena_offset: u64 @ 24,
        /// Tag that ids of this pool carry: 1 to 15.
        pub tag: u32 @ 32,
        /// Code of an [`Orphans`].
        pub orphans: u32 @ 36,
        /// What time it is, roughly, in nanoseconds since 1970 UTC: written by every process that has the pool open, now and then,
        /// for who takes buffers and reads no clock. 0 where nobody keeps it.
        pub clock_unix_ns: u64 @ 40,
        /// Zero.
        pub reserved: [u64; 2] @ 48,
    }
}

layout! {
    /// Buffers of one size. Written once; all zero where there is no such class.
    pub struct SizeClass, size 64, align 64 {
        /// Bytes of each: a multiple of 64, greater than in the class before.
        pub slot_bytes: u64 @ 0,
        /// How many.
        pub slot_count: u32 @ 8,
        /// The first of them, counted over all classes.
        pub first_slot: u32 @ 12,
        /// Where its [`ClassLive`] lies: bytes from the start of the segment.
        pub live_offset: u64 @ 16,
        /// Where the bytes of its first slot lie; 0 where each has a segment of its own.
        pub arena_offset: u64 @ 24,
        /// Code of a [`SlotHome`].
        pub home: u32 @ 32,
        /// Zero.
        pub reserved0: u32 @ 36,
        /// Zero.
        pub reserved1: [u64; 3] @ 40,
    }
}

layout! {
    /// What changes of a class: who waits, and where a free slot may be. Behind it come further lines with free bits where
    /// [`FREE_BITS_IN_LIVE`] are not enough.
    pub struct ClassLive, size 64, align 64 {
        /// Raised when a slot comes free while somebody waits. Its low half is the futex word (futex(2)).
        pub released: u64 @ 0,
        /// Not 0 where somebody waits for a slot: 1 in the upper half, and below it what `released` was. Who frees one raises
        /// `released`, wakes all who wait, and sets it to 0 if it is still the same.
        pub armed: u64 @ 8,
        /// Bit n: slot n of the class may be free. It is set wherever one is; where it is set, the slot word decides.
        pub free: [u64; 6] @ 16,
    }
}

layout! {
    /// One buffer: who has it, and what is in it.
    ///
    /// ```text
    ///  line 0   word; the rest of the line        by compare-and-swap; by the writer, and by who leaves a reference behind
    ///  line 1   id, time, sequence                line 1 to 4: by the writer, before it publishes
    ///  line 2   shape     line 3   strides        valid where `kind` says that they are
    ///  line 4   content type, producer
    /// ```
    pub struct BufferMeta, size 320, align 64 {
        /// The slot word: see [`SlotSplit`].
        pub word: u64 @ 0,
        /// Bytes in use.
        pub size: u64 @ 8,
        /// [`StorageType`] in bits 0 to 7, [`DType`] in bits 8 to 15, number of dimensions in bits 16 to 23, 1 in bit 24 where
        /// lines 1 to 4 are of this use of the slot, device number in bits 32 to 63.
        pub kind: u64 @ 16,
        /// Who last left a reference behind in this use of the slot: see [`stay`]; 0 for nobody.
        pub detached_by: u64 @ 24,
        /// When this use of the slot began, by the pool's clock ([`PoolHeader`]); 0 where that told nothing.
        pub taken_unix_ns: u64 @ 32,
        /// When somebody last left a reference behind, by the same clock. Of this use of the slot where it has detached references.
        pub left_unix_ns: u64 @ 40,
        /// Zero.
        pub reserved0: [u64; 2] @ 48,

        /// [`BufferId`] of the buffer that is described.
        pub id: u64 @ 64,
        /// When it was made, in nanoseconds; of which clock is between writer and reader.
        pub timestamp_ns: u64 @ 72,
        /// Number in a stream of buffers.
        pub sequence: u64 @ 80,
        /// Zero.
        pub reserved1: [u64; 5] @ 88,

        /// Elements in each dimension, outermost first.
        pub shape: [u64; 8] @ 128,

        /// Bytes from one element to the next in each dimension.
        pub strides: [u64; 8] @ 192,

        /// What the content is, filled up with zeros. Any bytes.
        pub content_type: [u8; 32] @ 256,
        /// Who made it, filled up with zeros. Any bytes.
        pub producer: [u8; 32] @ 288,
    }
}

const _: () = assert!(core::mem::offset_of!(BufferMeta, id) == crate::word::LINE_BYTES);
const _: () = assert!(8 * (crate::word::LINE_BYTES - 16) == FREE_BITS_IN_LIVE);

/// The `kind` word of a buffer, taken apart.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct KindWord {
    /// Code of a [`StorageType`].
    pub storage: u8,
    /// Code of a [`DType`].
    pub dtype: u8,
    /// Number of dimensions.
    pub ndim: u8,
    /// Bit 0: described.
    pub flags: u8,
    /// Number of the device.
    pub device: u32,
}

impl KindWord {
    /// In `flags`: lines 1 to 4 of the entry are of this use of the slot.
    pub const DESCRIBED: u8 = 1;

    /// The word.
    #[must_use]
    pub const fn pack(self) -> u64 {
        let low = u32::from_le_bytes([self.storage, self.dtype, self.ndim, self.flags]);
        crate::word::join(low, self.device)
    }

    /// The parts of a word. Every word has some.
    #[must_use]
    pub const fn unpack(word: u64) -> Self {
        let [storage, dtype, ndim, flags] = crate::word::low(word).to_le_bytes();
        Self { storage, dtype, ndim, flags, device: crate::word::high(word) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slot_words_come_back_for_every_number_of_processes() {
        for processes in 1..=POOL_PROCESS_COUNT_MAX {
            let split = SlotSplit::new(processes);
            let all = u32::MAX >> (32 - processes);
            for generation in [0, 1, split.generation_max()] {
                for holders in [0, 1, all] {
                    for detached in [0, 1, DETACHED_MAX] {
                        for writer in [false, true] {
                            let repairs = detached % 8;
                            let word = SlotWord { generation, holders, repairs, detached, writer };
                            assert_eq!(split.unpack(split.pack(word)), word, "{processes}");
                        }
                    }
                }
            }
            assert_eq!(split.next_generation(split.generation_max()), 1);
            assert_eq!(split.next_generation(0), 1);
        }
    }

    #[test]
    fn the_word_has_the_documented_bits() {
        let parts =
            SlotWord { generation: 0xab, holders: 0b101, repairs: 2, detached: 3, writer: true };
        let below = 0b101 << 9 | 2 << 6 | 3 << 1 | 1;
        assert_eq!(SlotSplit::new(15).pack(parts), 0xab << 24 | below);
        assert_eq!(SlotSplit::new(20).pack(parts), 0xab << 29 | below);
        let shifts = [1, 15, 16, 32].map(|n| SlotSplit::new(n).generation_shift());
        assert_eq!(shifts, [24, 24, 25, 41]);
        assert!(SlotSplit::new(4).unpack(0).is_free());
        assert_eq!(parts.references(), 5);
        let split = SlotSplit::new(4);
        assert_eq!(split.unpack(split.holder(2)).holders, 0b100);
        assert_eq!(split.unpack(SlotSplit::repaired(7 << 6 | 1 << 9)).repairs, 0);
        assert_eq!(split.unpack(SlotSplit::repaired(7 << 6 | 1 << 9)).holders, 1);
        assert_eq!(split.in_use() & SlotSplit::REPAIRS, 0);
    }

    #[test]
    fn ids_come_back_and_zero_names_nothing() {
        for slot in [0, 1, SLOT_COUNT_MAX - 1] {
            for tag in [1, 15] {
                for generation in [1, 0xff_ffff_ffff] {
                    let id = BufferId::new(slot, tag, generation);
                    assert_eq!((id.slot(), id.tag(), id.generation()), (slot, tag, generation));
                    assert_eq!(BufferId::from_raw(id.as_raw()), id);
                }
            }
        }
        assert_eq!(BufferId::new(5, 2, 7).as_raw(), 7 << 24 | 2 << 20 | 5);
        assert_eq!(BufferId::default(), BufferId::NONE);
    }

    #[test]
    fn kind_words_come_back() {
        let kind = KindWord { storage: 1, dtype: 11, ndim: 8, flags: 1, device: u32::MAX };
        assert_eq!(KindWord::unpack(kind.pack()), kind);
        assert_eq!(kind.pack(), 0xffff_ffff_0108_0b01);
    }

    #[test]
    fn the_hot_word_has_a_line_without_the_description() {
        let line = |name: &str| BufferMeta::LAYOUT.field(name).unwrap().offset / 64;
        for cold in ["id", "shape", "strides", "content_type", "producer"] {
            assert_ne!(line("word"), line(cold), "{cold}");
        }
    }
}
