//! libibverbs: what is opened through it is closed again, in the right order and once.
//!
//! ```text
//!   Context ── Domain ── Registration          each holds (Rc) what it was made of, so that the order of
//!        \         \                           closing is always from the outside in
//!         Completions ── Pair ── AddressHandle
//!                         |
//!                    SharedQueue
//! ```
//!
//! [`cm`] has the same for librdmacm.
//!
//! Everything of one context is used by one thread: `Rc` makes these types neither `Send` nor `Sync`.

mod arena;
pub(crate) mod cm;
mod list;
mod pair;
mod shared;

use core::cell::Cell;
use core::ffi::CStr;
use core::fmt;
use core::mem::{ManuallyDrop, MaybeUninit, offset_of};
use core::ptr::{self, NonNull};
use std::os::fd::BorrowedFd;
use std::rc::Rc;

use rdma_sys as sys;
use spinwire_dataplane::raw::line::{Line, lines_from_raw};
use spinwire_dataplane::verbs::{WcFields, WcStatus};

pub use arena::Grants;
pub(crate) use arena::{Arena, Borrowed};
pub(crate) use list::{Entry, Posting, RecvList, SendList, Target, Word};
use pair::count_lost;
pub(crate) use pair::{AddressHandle, Pair, gid_of, lost};
pub(crate) use shared::SharedQueue;

use super::file;
use crate::error::Errno;
use crate::mem::Mapping;

type PollCq = unsafe extern "C" fn(*mut sys::ibv_cq, i32, *mut sys::ibv_wc) -> i32;
pub(super) type PostSend = unsafe extern "C" fn(
    *mut sys::ibv_qp,
    *mut sys::ibv_send_wr,
    *mut *mut sys::ibv_send_wr,
) -> i32;
pub(super) type PostRecv = unsafe extern "C" fn(
    *mut sys::ibv_qp,
    *mut sys::ibv_recv_wr,
    *mut *mut sys::ibv_recv_wr,
) -> i32;

/// The answer of a call that returns an errno.
const fn answer(code: i32) -> Result<(), Errno> {
    if code == 0 { Ok(()) } else { Err(Errno::new(code.saturating_abs())) }
}

fn made<T>(of: *mut T) -> Result<NonNull<T>, Errno> {
    NonNull::new(of).ok_or_else(Errno::last)
}

/// A zeroed structure of libibverbs that is to be filled in, by the library or by the caller.
///
/// # Safety
/// All bytes zero is a value of `T`.
const unsafe fn zeroed<T>() -> T {
    // SAFETY: the caller's promise.
    unsafe { MaybeUninit::zeroed().assume_init() }
}

/// Attributes of a queue pair, all 0.
pub(crate) const fn pair_attributes() -> sys::ibv_qp_attr {
    // SAFETY: numbers only.
    unsafe { zeroed() }
}

/// What `ibv_get_device_list` gave.
pub(crate) struct Devices {
    list: NonNull<*mut sys::ibv_device>,
    count: usize,
}

impl Devices {
    pub(crate) fn list() -> Result<Self, Errno> {
        let mut count = 0;
        // SAFETY: the pointer is to a live int.
        let list = unsafe { sys::ibv_get_device_list(&raw mut count) };
        Ok(Self { list: made(list)?, count: usize::try_from(count).unwrap_or(0) })
    }

    pub(crate) const fn count(&self) -> usize {
        self.count
    }

    pub(crate) fn device(&self, index: usize) -> Result<NonNull<sys::ibv_device>, Errno> {
        if index >= self.count {
            return Err(Errno::new(libc::ENODEV));
        }
        // SAFETY: the list has `count` entries, and index is below.
        let entry = unsafe { self.list.add(index) };
        // SAFETY: an entry of the list, which lives until it is dropped.
        let device = unsafe { entry.read() };
        NonNull::new(device).ok_or(Errno::new(libc::ENODEV))
    }

    /// The name of a device, as in `/sys/class/infiniband`.
    pub(crate) fn name(&self, index: usize) -> Result<String, Errno> {
        let device = self.device(index)?;
        // SAFETY: a device of the list.
        let name = unsafe { sys::ibv_get_device_name(device.as_ptr()) };
        if name.is_null() {
            return Err(Errno::new(libc::ENODEV));
        }
        // SAFETY: the library's own text, which ends with a zero and lives as long as the list.
        let name = unsafe { CStr::from_ptr(name) };
        Ok(name.to_string_lossy().into_owned())
    }

    pub(crate) fn open(&self, index: usize) -> Result<Rc<Context>, Errno> {
        let device = self.device(index)?;
        // SAFETY: a device of the list.
        let context = made(unsafe { sys::ibv_open_device(device.as_ptr()) })?;
        let context = Rc::new(Context { raw: context });
        context.operations().ok_or(Errno::new(libc::EOPNOTSUPP))?;
        Ok(context)
    }
}

impl Drop for Devices {
    fn drop(&mut self) {
        // SAFETY: the list that the library gave, once.
        unsafe { sys::ibv_free_device_list(self.list.as_ptr()) };
    }
}

/// An open device.
pub(crate) struct Context {
    raw: NonNull<sys::ibv_context>,
}

impl fmt::Debug for Context {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Context").finish_non_exhaustive()
    }
}

/// Something that the device or its kernel driver tells out of turn (`ibv_get_async_event(3)`).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct RawEvent {
    /// `enum ibv_event_type`.
    pub(crate) kind: u32,
    /// The number of the port, of the queue pair or of the completion queue it is about; 0 where it is about none of them.
    pub(crate) about: u32,
}

impl Context {
    pub(crate) const fn as_ptr(&self) -> *mut sys::ibv_context {
        self.raw.as_ptr()
    }

    /// Its device.
    #[cfg(feature = "mlx5")]
    pub(crate) const fn device(&self) -> Option<NonNull<sys::ibv_device>> {
        // SAFETY: an open context.
        let context = unsafe { self.raw.as_ref() };
        NonNull::new(context.device)
    }

    /// The calls of the fast path: read once, here, so that nothing is found missing later.
    fn operations(&self) -> Option<(PollCq, PostSend, PostRecv)> {
        // SAFETY: an open context.
        let context = unsafe { self.raw.as_ref() };
        let ops = &context.ops;
        Some((ops.poll_cq?, ops.post_send?, ops.post_recv?))
    }

    pub(crate) fn device_attributes(&self) -> Result<sys::ibv_device_attr, Errno> {
        // SAFETY: numbers only.
        let mut attributes: sys::ibv_device_attr = unsafe { zeroed() };
        // SAFETY: an open context and a live structure of the type.
        answer(unsafe { sys::ibv_query_device(self.raw.as_ptr(), &raw mut attributes) })?;
        Ok(attributes)
    }

    pub(crate) fn port_attributes(&self, port: u8) -> Result<sys::ibv_port_attr, Errno> {
        // SAFETY: numbers only.
        let mut attributes: sys::ibv_port_attr = unsafe { zeroed() };
        // SAFETY: as above.
        answer(unsafe { sys::___ibv_query_port(self.raw.as_ptr(), port, &raw mut attributes) })?;
        Ok(attributes)
    }

    pub(crate) fn gid(&self, port: u8, index: u8) -> Result<[u8; 16], Errno> {
        let mut gid = sys::ibv_gid { raw: [0; 16] };
        // SAFETY: an open context and a live gid.
        let code =
            unsafe { sys::ibv_query_gid(self.raw.as_ptr(), port, i32::from(index), &raw mut gid) };
        answer(code)?;
        // SAFETY: both views of the union are 16 plain bytes.
        Ok(unsafe { gid.raw })
    }

    /// Makes [`Context::next_event`] return at once where there is none. The descriptor becomes readable with an event.
    pub(crate) const fn event_fd(&self) -> BorrowedFd<'_> {
        // SAFETY: an open context.
        let fd = unsafe { self.raw.as_ref() }.async_fd;
        // SAFETY: the context's own, open as long as it is.
        unsafe { BorrowedFd::borrow_raw(fd) }
    }

    /// The next event, acknowledged. Blocks, unless the descriptor was made non-blocking.
    pub(crate) fn next_event(&self) -> Result<RawEvent, Errno> {
        let mut room = MaybeUninit::<sys::ibv_async_event>::zeroed();
        // SAFETY: an open context and room for an event.
        if unsafe { sys::ibv_get_async_event(self.raw.as_ptr(), room.as_mut_ptr()) } != 0 {
            return Err(Errno::last());
        }
        // Newer libraries know kinds that the bindings have no name for, so the kind is read as the number that it is.
        let at = room.as_ptr().wrapping_byte_add(offset_of!(sys::ibv_async_event, event_type));
        // SAFETY: the field of that offset, which the library has written, is 32 bits wide and aligned.
        let kind: u32 = unsafe { at.cast::<u32>().read() };
        // SAFETY: the union is the first field of the structure (C), and its bytes are initialised.
        let element: sys::ibv_async_event_element_t =
            unsafe { room.as_ptr().cast::<sys::ibv_async_event_element_t>().read() };
        let about = match kind {
            // IBV_EVENT_QP_FATAL .. IBV_EVENT_PATH_MIG_ERR, IBV_EVENT_QP_LAST_WQE_REACHED
            1..=7 | 16 => {
                // SAFETY: events of these kinds are about a queue pair.
                let pair = unsafe { element.qp };
                // SAFETY: it cannot be destroyed before the event is acknowledged (ibv_get_async_event(3)).
                unsafe { pair.as_ref() }.map_or(0, |pair| pair.qp_num)
            }
            // IBV_EVENT_PORT_ACTIVE .. IBV_EVENT_SM_CHANGE, IBV_EVENT_CLIENT_REREGISTER, IBV_EVENT_GID_CHANGE
            9..=13 | 17 | 18 => {
                // SAFETY: events of these kinds are about a port.
                u32::try_from(unsafe { element.port_num }).unwrap_or(0)
            }
            // IBV_EVENT_CQ_ERR
            0 => {
                // SAFETY: events of this kind are about a completion queue.
                let queue = unsafe { element.cq };
                // SAFETY: as of queue pairs.
                unsafe { queue.as_ref() }.map_or(0, |queue| queue.handle)
            }
            _ => 0,
        };
        // SAFETY: the event that was just got, once.
        unsafe { sys::ibv_ack_async_event(room.as_mut_ptr()) };
        Ok(RawEvent { kind, about })
    }
}

impl Drop for Context {
    fn drop(&mut self) {
        // SAFETY: opened by us; all that was made of it holds it, so it is gone.
        let _closed = unsafe { sys::ibv_close_device(self.raw.as_ptr()) };
    }
}

/// A protection domain.
pub(crate) struct Domain {
    raw: NonNull<sys::ibv_pd>,
    context: Rc<Context>,
}

impl fmt::Debug for Domain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Domain").finish_non_exhaustive()
    }
}

impl Domain {
    pub(crate) fn make(context: &Rc<Context>) -> Result<Rc<Self>, Errno> {
        // SAFETY: an open context.
        let raw = made(unsafe { sys::ibv_alloc_pd(context.as_ptr()) })?;
        Ok(Rc::new(Self { raw, context: Rc::clone(context) }))
    }

    pub(crate) const fn context(&self) -> &Rc<Context> {
        &self.context
    }

    pub(crate) const fn as_ptr(&self) -> *mut sys::ibv_pd {
        self.raw.as_ptr()
    }
}

impl Drop for Domain {
    fn drop(&mut self) {
        // SAFETY: made by us; all that was made of it holds it, so it is gone.
        let _closed = unsafe { sys::ibv_dealloc_pd(self.raw.as_ptr()) };
    }
}

/// Memory of this process that a device may touch, with the memory, which other devices may touch, too.
pub(crate) struct Registration {
    raw: NonNull<sys::ibv_mr>,
    memory: ManuallyDrop<Rc<Mapping>>,
    /// Outlives the registration.
    _domain: Rc<Domain>,
}

impl fmt::Debug for Registration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Registration").field("memory", &self.memory).finish_non_exhaustive()
    }
}

impl Registration {
    pub(crate) fn make(
        domain: &Rc<Domain>,
        memory: Rc<Mapping>,
        access: u32,
    ) -> Result<Self, Errno> {
        let address = memory.as_ptr().as_ptr().cast();
        let access = i32::try_from(access).unwrap_or(0);
        // SAFETY: private memory of that length, which stays mapped until after the registration ends (see `drop`).
        let raw = unsafe { sys::ibv_reg_mr(domain.as_ptr(), address, memory.len(), access) };
        let memory = ManuallyDrop::new(memory);
        let raw = match made(raw) {
            Ok(raw) => raw,
            Err(e) => {
                drop(ManuallyDrop::into_inner(memory));
                return Err(e);
            }
        };
        Ok(Self { raw, memory, _domain: Rc::clone(domain) })
    }

    pub(crate) fn memory(&self) -> &Rc<Mapping> {
        &self.memory
    }

    /// The memory as the data plane sees what others write too.
    pub(crate) fn lines(&self) -> &[Line] {
        // SAFETY: mapped for `len` bytes as long as this lives; this process touches it by such views only, and what devices
        // do is outside of Rust's model.
        unsafe { lines_from_raw(self.memory.as_ptr(), self.memory.len()) }.unwrap_or_default()
    }

    /// The local and the remote key.
    pub(crate) const fn keys(&self) -> (u32, u32) {
        // SAFETY: alive until dropped.
        let raw = unsafe { self.raw.as_ref() };
        (raw.lkey, raw.rkey)
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        // SAFETY: made by us. The memory is unmapped after this, by the other field.
        let answer = unsafe { sys::ibv_dereg_mr(self.raw.as_ptr()) };
        if answer == 0 {
            // SAFETY: once, here, and nobody looks at it any more.
            unsafe { ManuallyDrop::drop(&mut self.memory) };
        } else {
            // The device may still get at it, and it stays mapped for good.
            count_lost();
        }
    }
}

/// Where completion queues tell a thread that sleeps (`ibv_create_comp_channel(3)`).
struct Channel {
    raw: NonNull<sys::ibv_comp_channel>,
    /// Outlives the channel.
    _context: Rc<Context>,
}

impl Channel {
    /// One whose events are asked for without waiting.
    fn make(context: &Rc<Context>) -> Result<Self, Errno> {
        // SAFETY: an open context.
        let raw = made(unsafe { sys::ibv_create_comp_channel(context.as_ptr()) })?;
        let channel = Self { raw, _context: Rc::clone(context) };
        file::set_nonblocking(channel.fd())?;
        Ok(channel)
    }

    const fn fd(&self) -> BorrowedFd<'_> {
        // SAFETY: a live channel.
        let fd = unsafe { self.raw.as_ref() }.fd;
        // SAFETY: the channel's own, open as long as it is.
        unsafe { BorrowedFd::borrow_raw(fd) }
    }

    /// Takes an event, if there is one, and says so to the queue that it is of: whoever destroys that waits for this.
    fn take(&self) -> Result<bool, Errno> {
        let (mut queue, mut cookie) = (ptr::null_mut(), ptr::null_mut());
        // SAFETY: a live channel, and room for two pointers.
        let code =
            unsafe { sys::ibv_get_cq_event(self.raw.as_ptr(), &raw mut queue, &raw mut cookie) };
        if code == 0 {
            // SAFETY: the queue of the event that was just got, once.
            unsafe { sys::ibv_ack_cq_events(queue, 1) };
            return Ok(true);
        }
        match Errno::last() {
            e if matches!(e.number(), libc::EAGAIN | libc::EINTR) => Ok(false),
            e => Err(e),
        }
    }
}

impl Drop for Channel {
    fn drop(&mut self) {
        // SAFETY: made by us; the queue that tells here is destroyed before.
        let _closed = unsafe { sys::ibv_destroy_comp_channel(self.raw.as_ptr()) };
    }
}

/// A completion queue.
pub(crate) struct Completions {
    raw: NonNull<sys::ibv_cq>,
    poll: PollCq,
    /// Outlives the queue.
    channel: Option<Channel>,
    /// Where the library puts completions.
    room: Box<Room>,
    /// Outlives the queue.
    _context: Rc<Context>,
}

impl fmt::Debug for Completions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Completions").finish_non_exhaustive()
    }
}

/// Completions that one call of the library can bring.
pub(crate) const BATCH: usize = 16;
type Room = [Cell<sys::ibv_wc>; BATCH];

impl Completions {
    pub(crate) fn make(context: &Rc<Context>, depth: u32) -> Result<Rc<Self>, Errno> {
        let depth = i32::try_from(depth).unwrap_or(i32::MAX);
        // SAFETY: an open context; no channel and no cookie.
        let raw = unsafe {
            sys::ibv_create_cq(context.as_ptr(), depth, ptr::null_mut(), ptr::null_mut(), 0)
        };
        // SAFETY: made just now, or null.
        unsafe { Self::adopt(context, raw) }
    }

    /// One that can tell a thread that sleeps.
    pub(crate) fn make_telling(context: &Rc<Context>, depth: u32) -> Result<Rc<Self>, Errno> {
        let depth = i32::try_from(depth).unwrap_or(i32::MAX);
        let channel = Channel::make(context)?;
        let (context_ptr, tells) = (context.as_ptr(), channel.raw.as_ptr());
        // SAFETY: an open context, a live channel of it, and no cookie.
        let raw = unsafe { sys::ibv_create_cq(context_ptr, depth, ptr::null_mut(), tells, 0) };
        // SAFETY: made just now, or null; the channel that it tells on goes with it.
        unsafe { Self::adopt_with(context, raw, Some(channel)) }
    }

    /// What becomes readable when it tells.
    pub(crate) fn fd(&self) -> Option<BorrowedFd<'_>> {
        self.channel.as_ref().map(Channel::fd)
    }

    /// Forgets what it has told, and has it tell of the next completion. What came before is to be polled for afterwards.
    pub(crate) fn arm(&self) -> Result<(), Errno> {
        let channel = self.channel.as_ref().ok_or(Errno::new(libc::EOPNOTSUPP))?;
        while channel.take()? {}
        // SAFETY: alive until dropped.
        let context = unsafe { self.raw.as_ref() }.context;
        // SAFETY: the context of a live queue is open.
        let notify = unsafe { context.as_ref() }.and_then(|context| context.ops.req_notify_cq);
        let notify = notify.ok_or(Errno::new(libc::EOPNOTSUPP))?;
        // SAFETY: a live queue with a channel; 0 asks to be told of any completion.
        answer(unsafe { notify(self.raw.as_ptr(), 0) })
    }

    /// A queue that was made just now, or none.
    ///
    /// # Safety
    /// It is one of that device, and nobody else destroys it; null, with `errno` set, where there is none. It tells on no channel.
    pub(crate) unsafe fn adopt(
        context: &Rc<Context>,
        raw: *mut sys::ibv_cq,
    ) -> Result<Rc<Self>, Errno> {
        // SAFETY: the caller's promise.
        unsafe { Self::adopt_with(context, raw, None) }
    }

    /// # Safety
    /// It is one of that device, which tells on that channel, if on any, and nobody else destroys it; null, with `errno` set, where there is none.
    unsafe fn adopt_with(
        context: &Rc<Context>,
        raw: *mut sys::ibv_cq,
        channel: Option<Channel>,
    ) -> Result<Rc<Self>, Errno> {
        let raw = made(raw)?;
        // What is open has them.
        let (poll, _, _) = context.operations().ok_or(Errno::new(libc::EOPNOTSUPP))?;
        // SAFETY: numbers only.
        let room: Box<Room> = Box::new(core::array::from_fn(|_| Cell::new(unsafe { zeroed() })));
        Ok(Rc::new(Self { raw, poll, channel, room, _context: Rc::clone(context) }))
    }

    /// Entries that it has room for: at least what was asked for.
    pub(crate) fn depth(&self) -> u32 {
        // SAFETY: alive until dropped.
        let raw = unsafe { self.raw.as_ref() };
        u32::try_from(raw.cqe).unwrap_or(0)
    }

    /// The number that the kernel knows it by: those of one context are told apart by it.
    pub(crate) const fn number(&self) -> u32 {
        // SAFETY: alive until dropped.
        unsafe { self.raw.as_ref() }.handle
    }

    pub(crate) const fn as_ptr(&self) -> *mut sys::ibv_cq {
        self.raw.as_ptr()
    }

    /// Polls for up to `most` completions, at most [`BATCH`], and keeps them until the next poll. Returns how many there were; negative: the
    /// queue is broken.
    #[inline]
    pub(crate) fn poll(&self, most: usize) -> i32 {
        let asked = i32::try_from(most.min(BATCH)).unwrap_or(0);
        // SAFETY: a live queue, used by this thread alone, and room for as many entries as asked for, that no reference is to.
        unsafe { (self.poll)(self.raw.as_ptr(), asked, self.room.as_ptr().cast_mut().cast()) }
    }

    /// Hands the first `count` of what the last poll has brought to `take`.
    #[inline]
    pub(crate) fn take(&self, count: i32, mut take: impl FnMut(WcFields)) {
        // Drivers leave fields alone that have no meaning for an entry: there is what an earlier one had, which has none either.
        for entry in self.room.iter().take(usize::try_from(count).unwrap_or(0)) {
            // SAFETY: the library writes there in `poll` only, and the reference is gone before anybody else does anything.
            let fields = fields(unsafe { &*entry.as_ptr() });
            take(fields);
        }
    }
}

// enum ibv_wc_flags
const GRH: u32 = 1;
const WITH_IMM: u32 = 2;
// enum ibv_wc_opcode: a write with immediate has taken the receive, and put nothing into it.
const RECV_RDMA_WITH_IMM: u32 = 129;

#[inline]
fn fields(wc: &sys::ibv_wc) -> WcFields {
    let is_good = wc.status == 0;
    // Of what failed nothing else is defined (ibv_poll_cq(3)), so nothing else is looked at.
    let immediate = (is_good && wc.wc_flags & WITH_IMM != 0).then(|| {
        // SAFETY: both views of the union are 32 bits.
        u32::from_be(unsafe { wc.imm_data_invalidated_rkey_union.imm_data })
    });
    WcFields {
        wr_id: wc.wr_id,
        qp_num: wc.qp_num,
        status: WcStatus::from_raw(u8::try_from(wc.status).unwrap_or(u8::MAX)),
        vendor: if is_good { 0 } else { wc.vendor_err },
        byte_len: if is_good { wc.byte_len } else { 0 },
        immediate,
        is_written: is_good && wc.opcode == RECV_RDMA_WITH_IMM,
        source_qp: if is_good && wc.wc_flags & GRH != 0 { wc.src_qp } else { 0 },
    }
}

impl Drop for Completions {
    fn drop(&mut self) {
        // SAFETY: made by us; the queue pairs that use it hold it, so they are gone.
        let _closed = unsafe { sys::ibv_destroy_cq(self.raw.as_ptr()) };
    }
}
