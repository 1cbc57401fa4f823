//! The three system calls of io_uring, and the memory of a ring as the data plane wants to see it.
//!
//! None of the calls touches memory of this process but for its arguments: that the kernel reads and writes later, when it
//! takes an entry, is for whoever writes entries to answer for.

use core::ptr::NonNull;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd, RawFd};

use spinwire_dataplane::error::PostError;
use spinwire_dataplane::raw::kernel_memory::{self, KernelMemory};
use spinwire_dataplane::raw::line::{Line, lines_from_raw};
use spinwire_dataplane::raw::place::Bump;
use spinwire_dataplane::raw::words::words_from_raw;
use spinwire_dataplane::sync::AtomicU32;
use spinwire_dataplane::uring::{Enter, Ring};
use spinwire_layouts::pod::Pod;
use spinwire_layouts::uring::{
    BufReg, Napi, Params, Probe, ProbeOp, QueryHeader, QueryOpcodes, RsrcRegister, RsrcUpdate,
    RsrcUpdate2, Sqe, SyncCancelReg, mapping, query, register,
};

use super::mmap::Range;
use super::syscall::own;
use crate::error::Errno;
use crate::mem::Mapping;

/// Operations that one probe can ask about.
pub(crate) const PROBE_OPS: usize = 64;

/// What [`register::PROBE`] fills in.
#[repr(C)]
#[derive(Clone, Copy)]
pub(crate) struct ProbeAnswer {
    pub(crate) head: Probe,
    pub(crate) ops: [ProbeOp; PROBE_OPS],
}

const _: () = assert!(size_of::<ProbeAnswer>() == 16 + 8 * PROBE_OPS);

/// io_uring_setup(2), close-on-exec as always. On success the kernel has filled in `params`.
pub(crate) fn setup(entries: u32, params: &mut Params) -> Result<OwnedFd, Errno> {
    let params = core::ptr::from_mut(params);
    // SAFETY: `params` is a structure of the kernel's size and alignment, exclusively ours during the call.
    let fd = unsafe { libc::syscall(libc::SYS_io_uring_setup, entries, params) };
    own(RawFd::try_from(fd).map_err(|_large| Errno::new(libc::EBADF))?)
}

/// io_uring_enter(2) without a signal mask. `ring` is a descriptor, or with `REGISTERED_RING` in `flags` an index.
#[inline]
pub(crate) fn enter(
    ring: i32,
    to_submit: u32,
    min_complete: u32,
    flags: u32,
) -> Result<u32, Errno> {
    let no_mask = core::ptr::null::<libc::sigset_t>();
    // SAFETY: takes numbers, and a null pointer where there could be a signal mask. What the entries ask for is what their
    // writer has allowed the kernel to do.
    let answer = unsafe {
        libc::syscall(
            libc::SYS_io_uring_enter,
            ring,
            to_submit,
            min_complete,
            flags,
            no_mask,
            0_usize,
        )
    };
    u32::try_from(answer).map_err(|_negative| Errno::last())
}

/// A registration, with its argument. Those with addresses inside have them only read by the kernel, and only while it is called;
/// what it pins or remembers it touches for entries alone.
pub(crate) enum Registration<'a> {
    /// Which operations there are.
    Probe(&'a mut ProbeAnswer),
    /// The ring itself; the kernel writes the index.
    Ring(&'a mut RsrcUpdate),
    /// No longer.
    NoRing(&'a mut RsrcUpdate),
    /// A table of files.
    Files(&'a RsrcRegister),
    /// Slots of that table.
    FilesUpdate(&'a RsrcUpdate2),
    /// A table of buffers.
    Buffers(&'a RsrcRegister),
    /// No longer.
    NoBuffers,
    /// A ring of provided buffers.
    BufferRing(&'a BufReg),
    /// No longer.
    NoBufferRing(&'a BufReg),
    /// What is under way is cancelled, and waited for.
    Cancel(&'a SyncCancelReg),
    /// Busy polling; the kernel writes what was set before.
    Napi(&'a mut Napi),
    /// No longer.
    NoNapi(&'a mut Napi),
    /// An eventfd that is told when there is something to turn for. The ring keeps it by itself.
    EventFd(&'a RawFd),
}

/// io_uring_register(2).
pub(crate) fn register(ring: BorrowedFd<'_>, what: Registration<'_>) -> Result<u32, Errno> {
    // Those that came with sizes say theirs; the others are counted.
    let bytes = |size: usize| u32::try_from(size).unwrap_or(0);
    let (op, argument, count): (u32, *mut libc::c_void, u32) = match what {
        Registration::Probe(answer) => {
            (register::PROBE, core::ptr::from_mut(answer).cast(), bytes(PROBE_OPS))
        }
        Registration::Ring(at) => (register::RING_FDS, core::ptr::from_mut(at).cast(), 1),
        Registration::NoRing(at) => {
            (register::UNREGISTER_RING_FDS, core::ptr::from_mut(at).cast(), 1)
        }
        Registration::Files(table) => {
            (register::FILES2, read_only(table), bytes(size_of::<RsrcRegister>()))
        }
        Registration::FilesUpdate(slots) => {
            (register::FILES_UPDATE2, read_only(slots), bytes(size_of::<RsrcUpdate2>()))
        }
        Registration::Buffers(table) => {
            (register::BUFFERS2, read_only(table), bytes(size_of::<RsrcRegister>()))
        }
        Registration::NoBuffers => (register::UNREGISTER_BUFFERS, core::ptr::null_mut(), 0),
        Registration::BufferRing(group) => (register::PBUF_RING, read_only(group), 1),
        Registration::NoBufferRing(group) => (register::UNREGISTER_PBUF_RING, read_only(group), 1),
        Registration::Cancel(which) => (register::SYNC_CANCEL, read_only(which), 1),
        Registration::Napi(napi) => (register::NAPI, core::ptr::from_mut(napi).cast(), 1),
        Registration::NoNapi(napi) => {
            (register::UNREGISTER_NAPI, core::ptr::from_mut(napi).cast(), 1)
        }
        Registration::EventFd(fd) => {
            (register::EVENTFD, core::ptr::from_ref(fd).cast_mut().cast(), 1)
        }
    };
    call(ring.as_raw_fd(), op, argument, count)
}

const fn read_only<T: Pod>(argument: &T) -> *mut libc::c_void {
    core::ptr::from_ref(argument).cast_mut().cast()
}

/// What this kernel can, without a ring; EINVAL or EBADF before Linux 6.18.
pub(crate) fn query_opcodes() -> Result<QueryOpcodes, Errno> {
    let mut answer = QueryOpcodes::ZERO;
    let mut question = QueryHeader {
        query_data: u64::try_from(core::ptr::from_mut(&mut answer).expose_provenance())
            .unwrap_or(0),
        query_op: query::OPCODES,
        size: u32::try_from(size_of::<QueryOpcodes>()).unwrap_or(0),
        ..QueryHeader::ZERO
    };
    call(-1, register::QUERY, core::ptr::from_mut(&mut question).cast(), 0)?;
    if question.result == 0 { Ok(answer) } else { Err(Errno::new(-question.result)) }
}

fn call(ring: RawFd, op: u32, argument: *mut libc::c_void, count: u32) -> Result<u32, Errno> {
    // SAFETY: the callers, all in this file, pass for each operation the structure that the kernel reads or fills in, of the size
    // that it has (compared with the kernel's header by a test), borrowed for the call: exclusively where it is written.
    let answer = unsafe { libc::syscall(libc::SYS_io_uring_register, ring, op, argument, count) };
    u32::try_from(answer).map_err(|_negative| Errno::last())
}

/// Stages entries that this crate makes itself: to probe, in tests. What they name (descriptors, memory that is registered or mapped
/// beside the ring) their makers keep until they have seen the completion.
pub(crate) fn push<E: Enter>(ring: &Ring<'_, E>, entries: &[Sqe]) -> Result<(), PostError> {
    // SAFETY: the callers, all in this crate, wait for the last completion of each, or close the ring before they let go.
    unsafe { kernel_memory::push(ring, entries) }
}

/// The memory of a ring, in its owner's mapping.
pub(crate) fn arena(mapping: &Mapping) -> KernelMemory<'_> {
    let block = NonNull::slice_from_raw_parts(mapping.as_ptr().cast(), mapping.len());
    // SAFETY: private memory of that length, mapped while the mapping lives; the owner of the ring hands it out here and once.
    let block = unsafe { &mut *block.as_ptr() };
    // SAFETY: the ring's owner unmaps it only when the kernel has let go of everything, and else never.
    unsafe { KernelMemory::promise(Bump::new(block)) }
}

/// No memory at all: for entries that name none of the arena.
pub(crate) fn no_arena<'m>() -> KernelMemory<'m> {
    // SAFETY: an empty block is nobody's.
    unsafe { KernelMemory::promise(Bump::new(&mut [])) }
}

/// The two mappings of a ring.
#[derive(Debug)]
pub(crate) struct RingMap {
    rings: Range,
    sqes: Range,
}

impl RingMap {
    /// Maps what the kernel has made: both queues at once (`SINGLE_MMAP`, which every kernel since 5.4 has), and the entries.
    pub(crate) fn new(ring: BorrowedFd<'_>, params: &Params) -> Result<Self, Errno> {
        let end = |offset: u32, count: u32, each: usize| {
            let offset = usize::try_from(offset).ok()?;
            usize::try_from(count).ok()?.checked_mul(each)?.checked_add(offset)
        };
        let too_large = Errno::new(libc::EOVERFLOW);
        // The array of indices lies behind the completions, or before them, or nowhere.
        let array = end(params.sq_off.array, params.sq_entries, 4).ok_or(too_large)?;
        let completions = end(params.cq_off.cqes, params.cq_entries, 16).ok_or(too_large)?;
        let entries = end(0, params.sq_entries, 64).ok_or(too_large)?;
        Ok(Self {
            rings: Range::of_ring(ring, array.max(completions), mapping::SQ_RING)?,
            sqes: Range::of_ring(ring, entries, mapping::SQES)?,
        })
    }

    /// Both queues.
    pub(crate) fn rings(&self) -> &[AtomicU32] {
        let (base, bytes) = (self.rings.as_ptr(), self.rings.len());
        // SAFETY: mapped for reading and writing for as long as it is borrowed; this process touches it by this view only, and
        // what the kernel does is outside of Rust's model.
        unsafe { words_from_raw(base, bytes) }.unwrap_or_default()
    }

    /// The entries of the submission queue.
    pub(crate) fn sqes(&self) -> &[Line] {
        lines(self.sqes.as_ptr(), self.sqes.len(), self)
    }
}

/// Pages of this process, at a multiple of their size, for a ring of provided buffers.
#[derive(Debug)]
pub(crate) struct BufferRingMemory(Range);

impl BufferRingMemory {
    /// Zeroed.
    pub(crate) fn new(bytes: usize) -> Result<Self, Errno> {
        Range::anonymous(bytes.next_multiple_of(super::syscall::page_bytes()), 0).map(Self)
    }

    /// Where it begins.
    pub(crate) fn as_ptr(&self) -> NonNull<u8> {
        self.0.as_ptr()
    }

    /// As lines.
    pub(crate) fn lines(&self) -> &[Line] {
        lines(self.0.as_ptr(), self.0.len(), self)
    }
}

/// `bytes` at `base`, which `_owner` keeps mapped, as lines.
fn lines<T>(base: NonNull<u8>, bytes: usize, _owner: &T) -> &[Line] {
    // SAFETY: both callers pass a range that they own, mapped for reading and writing for as long as they are borrowed, and that
    // this process touches by this view only.
    unsafe { lines_from_raw(base, bytes) }.unwrap_or_default()
}
