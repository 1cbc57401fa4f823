//! What C sees: handles, structures, numbered names. Comments of this file are those of the header.

use core::ffi::{CStr, c_char, c_int};

use spinwire_layouts::shm::DType;

/// What every function but the texts returns: 0, or why it did nothing.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum sw_status {
    /// Done.
    SW_OK = 0,
    /// All buffers of that size are in use. Try again, or wait.
    SW_FULL = 1,
    /// The buffer is in use in a way that excludes this one: somebody writes it, or, to write it, somebody has it. Try again.
    SW_BUSY = 2,
    /// The buffer of that id was freed; its memory may hold another one by now.
    SW_STALE = 3,
    /// The id is of no buffer of this pool.
    SW_FOREIGN = 4,
    /// No detached reference is left.
    SW_NO_REFERENCE = 5,
    /// A buffer has at most 31 detached references.
    SW_TOO_MANY_REFERENCES = 6,
    /// No buffer of the pool is that large.
    SW_TOO_LARGE = 7,
    /// The buffer has a segment of its own, which could not be mapped: sw_last_error() says why.
    SW_NOT_MAPPED = 8,
    /// The buffer was taken for reading.
    SW_READ_ONLY = 9,
    /// The bytes are not in main memory, or of another type.
    SW_TYPE = 10,
    /// More bytes than the buffer has.
    SW_OUT_OF_RANGE = 11,
    /// Shape and strides do not lie in the buffer, or overflow.
    SW_SHAPE = 12,
    /// The writer left no description.
    SW_NOT_DESCRIBED = 13,
    /// This handle of the pool was taken for dead and its buffers were given away: close it, and open the pool again.
    SW_FENCED = 14,
    /// Somebody wrote nonsense into the pool.
    SW_CORRUPT = 15,
    /// An argument cannot be right: sw_last_error() names it.
    SW_ARGUMENT = 16,
    /// No such handle: it was released, detached or closed before, or never was one.
    SW_HANDLE = 17,
    /// The handle belongs to another thread.
    SW_THREAD = 18,
    /// This process is the child of a fork(): the handles are its parent's.
    SW_FORKED = 19,
    /// The pool has buffers in hand: release or detach them first.
    SW_IN_USE = 20,
    /// A segment of that name exists.
    SW_EXISTS = 21,
    /// No pool of that name exists.
    SW_MISSING = 22,
    /// What has that name cannot be used: sw_last_error() says which field is wrong.
    SW_UNUSABLE = 23,
    /// As many handles as the pool was made for are open.
    SW_NO_SLOT = 24,
    /// The kernel said no: sw_last_error() says to what.
    SW_SYSTEM = 25,
    /// An error in the library. Nothing else is harmed; please report it.
    SW_INTERNAL = 26,
}

impl sw_status {
    pub(crate) const LINES: [(Self, &'static CStr); 27] = [
        (Self::SW_OK, c"done"),
        (Self::SW_FULL, c"all buffers of that size are in use"),
        (Self::SW_BUSY, c"the buffer is in use"),
        (Self::SW_STALE, c"the buffer of that id was freed"),
        (Self::SW_FOREIGN, c"the id is of no buffer of this pool"),
        (Self::SW_NO_REFERENCE, c"no detached reference is left"),
        (Self::SW_TOO_MANY_REFERENCES, c"too many references"),
        (Self::SW_TOO_LARGE, c"no buffer of the pool is that large"),
        (Self::SW_NOT_MAPPED, c"the buffer's own segment could not be mapped"),
        (Self::SW_READ_ONLY, c"the buffer was taken for reading"),
        (Self::SW_TYPE, c"the bytes are stored elsewhere, or of another type"),
        (Self::SW_OUT_OF_RANGE, c"more bytes than the buffer has"),
        (Self::SW_SHAPE, c"shape and strides do not lie in the buffer"),
        (Self::SW_NOT_DESCRIBED, c"the writer left no description"),
        (Self::SW_FENCED, c"this handle of the pool was taken for dead"),
        (Self::SW_CORRUPT, c"somebody wrote nonsense into the pool"),
        (Self::SW_ARGUMENT, c"an argument cannot be right"),
        (Self::SW_HANDLE, c"no such handle"),
        (Self::SW_THREAD, c"the handle belongs to another thread"),
        (Self::SW_FORKED, c"the handles are those of the parent process"),
        (Self::SW_IN_USE, c"the pool has buffers in hand"),
        (Self::SW_EXISTS, c"a segment of that name exists"),
        (Self::SW_MISSING, c"no pool of that name exists"),
        (Self::SW_UNUSABLE, c"what has that name cannot be used"),
        (Self::SW_NO_SLOT, c"all handles that the pool was made for are open"),
        (Self::SW_SYSTEM, c"the kernel said no"),
        (Self::SW_INTERNAL, c"an error in the library"),
    ];

    #[expect(clippy::as_conversions, reason = "the number that C sees")]
    pub(crate) const fn code(self) -> c_int {
        self as c_int
    }
}

/// Type of the elements of a tensor.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum sw_dtype {
    /// Unsigned, 8 bits; also bytes without a type.
    SW_U8 = 0,
    SW_I8 = 1,
    SW_U16 = 2,
    SW_I16 = 3,
    SW_U32 = 4,
    SW_I32 = 5,
    SW_U64 = 6,
    SW_I64 = 7,
    /// IEEE 754 binary16.
    SW_F16 = 8,
    /// The upper half of a binary32.
    SW_BF16 = 9,
    SW_F32 = 10,
    SW_F64 = 11,
}

/// The numbers are those of the pool itself.
#[expect(clippy::as_conversions, clippy::indexing_slicing, reason = "while compiling")]
const _: () = {
    use sw_dtype as D;
    let ours = [D::SW_U8, D::SW_I8, D::SW_U16, D::SW_I16, D::SW_U32, D::SW_I32];
    let more = [D::SW_U64, D::SW_I64, D::SW_F16, D::SW_BF16, D::SW_F32, D::SW_F64];
    let (mut at, all) = (0, DType::ALL);
    assert!(all.len() == 12);
    while at < 6 {
        assert!(ours[at] as u8 == all[at].code() && more[at] as u8 == all[at + 6].code());
        at += 1;
    }
};

/// Most dimensions of a tensor.
pub const SW_NDIM_MAX: usize = 8;
/// Most bytes of a label, without the zero at its end.
pub const SW_LABEL_MAX: usize = 32;
/// Rises where a program must be compiled anew: compare with sw_abi_version().
pub const SW_ABI_VERSION: u32 = 1;

/// A pool that this thread has open. A word to pass on, and no pointer; all zero is no pool. It may be used by the thread that
/// opened the pool, and by no other.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct sw_pool {
    pub handle: u64,
}

/// A buffer in hand. A word to pass on, and no pointer; all zero is no buffer. It belongs to the thread that took it, until
/// sw_release() or sw_detach(). Copies of the word are the same handle.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct sw_buffer {
    pub handle: u64,
}

/// Buffers of one size.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct sw_class {
    /// Bytes of each; rounded up to a multiple of 64. Larger than that of the class before.
    pub buffer_bytes: u64,
    /// How many.
    pub buffer_count: u32,
    /// 0: they lie in the pool. 1: each has a segment of its own, made when it is first used; for very large ones.
    pub own_segment: u32,
}

/// How a pool is made and watched. All zero is the default.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct sw_pool_options {
    /// The sizes, smallest first; null for the default: 1,024 of 4 KiB, 128 of 64 KiB, 16 of 1 MiB.
    pub classes: *const sw_class,
    /// How many sizes: at most 16.
    pub class_count: usize,
    /// How many handles, one a thread, can have the pool open at once: at most 32; 0 for 16.
    pub handle_count: u32,
    /// 0: a detached reference stays when the process that detached it dies. 1: it goes with the handle that detached last, when
    /// that is closed or its process dies.
    pub release_orphans: u32,
    /// 0: the largest pages that can be had and stay when this process ends. 1: 4 KiB pages.
    pub small_pages: u32,
    /// Within how many milliseconds the death of a process is noticed; 0 for 100.
    pub death_noticed_within_ms: u32,
}

/// The buffers of one size, counted.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct sw_class_stats {
    /// Bytes of each.
    pub buffer_bytes: u64,
    /// How many there are.
    pub buffer_count: u32,
    /// Nobody has them.
    pub free: u32,
    /// Somebody writes them.
    pub written: u32,
    /// Somebody reads them.
    pub shared: u32,
    /// All their references are detached.
    pub detached: u32,
    /// Zero.
    pub reserved: u32,
    /// References altogether.
    pub references: u64,
    /// Bytes in use, of those that are not free.
    pub used_bytes: u64,
}

/// What is in a buffer.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct sw_description {
    /// A number of sw_dtype.
    pub dtype: u32,
    /// Number of dimensions: at most SW_NDIM_MAX; 0 is a single element.
    pub ndim: u32,
    /// Elements in each dimension, outermost first.
    pub shape: [u64; SW_NDIM_MAX],
    /// Bytes from one element to the next in each dimension.
    pub strides: [u64; SW_NDIM_MAX],
    /// When it was made, in nanoseconds, of a clock that writer and reader agree on.
    pub timestamp_ns: u64,
    /// Number in a stream of buffers.
    pub sequence: u64,
    /// What the content is: at most SW_LABEL_MAX bytes and a zero. Any bytes: another process wrote them.
    pub content_type: [c_char; 40],
    /// Who made it: likewise.
    pub producer: [c_char; 40],
}
