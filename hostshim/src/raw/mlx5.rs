//! libibverbs and libmlx5: what they hand out, owned, and its memory as the data plane wants to see it.
//!
//! ```text
//!   Context ── Pd ── Mr            each is destroyed on drop, and keeps alive what it was made of
//!                └── Qp ── Cq
//! ```
//!
//! Invariants: (1) a pointer in here came from the library and is destroyed once, on drop; (2) what it was made of is kept alive by an
//! `Rc`; (3) memory of a queue is seen only while it is borrowed.

use core::ffi::{CStr, c_int, c_void};
use core::mem::ManuallyDrop;
use core::ptr::{NonNull, null_mut};
use std::rc::Rc;

use spinwire_dataplane::raw::line::{Line, lines_from_raw};
use spinwire_dataplane::raw::region::Region;
use spinwire_dataplane::raw::words::words_from_raw;
use spinwire_dataplane::sync::AtomicU32;

use crate::error::Errno;
use crate::mem::Mapping;
use crate::mlx5::Mlx5Error;
use crate::mlx5::dv::{
    DvCq, DvObj, DvQp, Functions, IbvContext, IbvCq, IbvDevice, IbvGid, IbvMr, IbvPd, IbvPortAttr,
    IbvQp, IbvQpAttr, IbvQpInitAttr, MLX5DV_OBJ_CQ, MLX5DV_OBJ_QP,
};

/// The functions of both libraries, or of others that keep the same promises.
#[derive(Clone, Copy, Debug)]
pub struct Library(Functions);

impl Library {
    /// Those that this program is linked with.
    ///
    /// # Errors
    /// [`Mlx5Error::NotBuilt`] where it was built without the feature `mlx5`.
    #[cfg(feature = "mlx5")]
    pub const fn linked() -> Result<Self, Mlx5Error> {
        Ok(Self(crate::mlx5::dv::linked::FUNCTIONS))
    }

    /// Those that this program is linked with.
    ///
    /// # Errors
    /// [`Mlx5Error::NotBuilt`] where it was built without the feature `mlx5`.
    #[cfg(not(feature = "mlx5"))]
    pub const fn linked() -> Result<Self, Mlx5Error> {
        Err(Mlx5Error::NotBuilt)
    }

    /// Others in their place: a stand-in for tests.
    ///
    /// # Safety
    /// Each does what the manual page of the function says of memory: what it hands out is valid until it is handed back, what it fills
    /// in it fills in whole, and queues lie in mapped memory that nobody else in this process sees as plain data.
    #[must_use]
    pub const unsafe fn stand_in(functions: Functions) -> Self {
        Self(functions)
    }
}

fn refused(call: &'static str) -> Mlx5Error {
    Mlx5Error::Refused { call, errno: Errno::last() }
}

/// The answer of a function that returns an error number.
fn answered(call: &'static str, answer: c_int) -> Result<(), Mlx5Error> {
    match answer {
        0 => Ok(()),
        // Some return -1 and leave the number in errno.
        -1 => Err(refused(call)),
        number => Err(Mlx5Error::Refused { call, errno: Errno::new(number) }),
    }
}

/// The devices that there are, as long as the list lives.
pub(crate) struct Devices {
    library: Library,
    list: NonNull<*mut IbvDevice>,
    count: usize,
}

impl Devices {
    /// Asks the library. `None` where there are none.
    pub(crate) fn list(library: Library) -> Result<Option<Self>, Mlx5Error> {
        let mut count: c_int = 0;
        // SAFETY: writes the count where it is told to, and returns a list that it owns, or null.
        let list = unsafe { (library.0.get_device_list)(&raw mut count) };
        let Some(list) = NonNull::new(list) else {
            // ENOSYS is how the library says that the kernel has no RDMA at all (ibv_get_device_list(3)).
            return match Errno::last().number() {
                0 | libc::ENOSYS | libc::ENODEV | libc::ENOENT => Ok(None),
                _ => Err(refused("ibv_get_device_list")),
            };
        };
        let count = usize::try_from(count).unwrap_or(0);
        Ok(Some(Self { library, list, count }))
    }

    /// Each: its name, and whether it is one of mlx5.
    pub(crate) fn names(&self) -> Vec<(String, bool)> {
        (0..self.count).map(|index| self.describe(self.device(index))).collect()
    }

    const fn device(&self, index: usize) -> *mut IbvDevice {
        // SAFETY: `index` is below the count that the library gave with the list.
        let at = unsafe { self.list.add(index) };
        // SAFETY: an element of the list, which lives as long as `self`.
        unsafe { at.read() }
    }

    fn describe(&self, device: *mut IbvDevice) -> (String, bool) {
        // SAFETY: a device of a list that is not freed yet.
        let name = unsafe { (self.library.0.get_device_name)(device) };
        // SAFETY: as above.
        let is_mlx5 = unsafe { (self.library.0.is_supported)(device) };
        if name.is_null() {
            return (String::new(), false);
        }
        // SAFETY: not null; a string of C that lives as long as the device.
        let name = unsafe { CStr::from_ptr(name) };
        (name.to_string_lossy().into_owned(), is_mlx5)
    }

    /// Opens the device at `index`.
    pub(crate) fn open(&self, index: usize) -> Result<Context, Mlx5Error> {
        let device = self.device(index.min(self.count.saturating_sub(1)));
        // SAFETY: a device of a list that is not freed yet; an open one outlives its list (ibv_get_device_list(3)).
        let context = unsafe { (self.library.0.open_device)(device) };
        let context = NonNull::new(context).ok_or_else(|| refused("ibv_open_device"))?;
        Ok(Context { library: self.library, context })
    }
}

impl Drop for Devices {
    fn drop(&mut self) {
        // SAFETY: (1): the list is freed once; no device of it is used afterwards.
        unsafe { (self.library.0.free_device_list)(self.list.as_ptr()) };
    }
}

/// An open device.
#[derive(Debug)]
pub(crate) struct Context {
    library: Library,
    context: NonNull<IbvContext>,
}

impl Context {
    pub(crate) fn port(&self, port: u8) -> Result<IbvPortAttr, Mlx5Error> {
        // SAFETY: all fields are integers, for which zero is a value.
        let mut attr: IbvPortAttr = unsafe { core::mem::zeroed() };
        // SAFETY: (1) an open device; `attr` is as long as the longest version that this function fills in.
        let answer =
            unsafe { (self.library.0.query_port)(self.context.as_ptr(), port, &raw mut attr) };
        answered("ibv_query_port", answer).map(|()| attr)
    }

    pub(crate) fn gid(&self, port: u8, index: u8) -> Result<[u8; 16], Mlx5Error> {
        let mut gid = IbvGid::default();
        // SAFETY: (1) an open device; 16 bytes are filled in.
        let answer = unsafe {
            (self.library.0.query_gid)(self.context.as_ptr(), port, index.into(), &raw mut gid)
        };
        answered("ibv_query_gid", answer).map(|()| gid.0)
    }
}

impl Drop for Context {
    fn drop(&mut self) {
        // SAFETY: (1), (2): everything that was made of it is gone.
        let _answer = unsafe { (self.library.0.close_device)(self.context.as_ptr()) };
    }
}

/// A protection domain, and the device.
#[derive(Debug)]
pub(crate) struct Pd {
    pub(crate) context: Context,
    pd: NonNull<IbvPd>,
}

impl Pd {
    pub(crate) fn new(context: Context) -> Result<Self, Mlx5Error> {
        // SAFETY: (1) an open device.
        let pd = unsafe { (context.library.0.alloc_pd)(context.context.as_ptr()) };
        let pd = NonNull::new(pd).ok_or_else(|| refused("ibv_alloc_pd"))?;
        Ok(Self { context, pd })
    }

    const fn functions(&self) -> &Functions {
        &self.context.library.0
    }
}

impl Drop for Pd {
    fn drop(&mut self) {
        // SAFETY: (1), (2): everything that was made of it is gone.
        let _answer = unsafe { (self.functions().dealloc_pd)(self.pd.as_ptr()) };
    }
}

/// Memory that is registered, and stays so until the handle is gone.
#[derive(Debug)]
pub(crate) struct Mr {
    pd: Rc<Pd>,
    mr: NonNull<IbvMr>,
    /// Unmapped only where the library has let go of it.
    memory: ManuallyDrop<Mapping>,
}

impl Mr {
    pub(crate) fn new(pd: &Rc<Pd>, memory: Mapping, access: u32) -> Result<Self, Mlx5Error> {
        let start = memory.as_ptr().as_ptr();
        let iova = spinwire_layouts::word::from_usize(start.addr());
        // SAFETY: (1) a domain; the memory is mapped for as long as it is registered: both are dropped together.
        let mr = unsafe {
            let start = start.cast::<c_void>();
            (pd.functions().reg_mr)(pd.pd.as_ptr(), start, memory.len(), iova, access)
        };
        let mr = NonNull::new(mr).ok_or_else(|| refused("ibv_reg_mr_iova2"))?;
        Ok(Self { pd: Rc::clone(pd), mr, memory: ManuallyDrop::new(memory) })
    }

    /// Local and remote key.
    pub(crate) const fn keys(&self) -> (u32, u32) {
        // SAFETY: (1) a region, whose fields are set when it is made.
        let mr = unsafe { self.mr.read() };
        (mr.lkey, mr.rkey)
    }

    /// Where it is, and how long.
    pub(crate) fn range(&self) -> (NonNull<u8>, usize) {
        (self.memory.as_ptr(), self.memory.len())
    }

    /// As lines, for WQEs of queues that keep the region alive.
    pub(crate) fn region(&self) -> Region<'_> {
        let (start, bytes) = self.range();
        // SAFETY: mapped while `self` is borrowed; this process sees it as these lines only: it is never handed out as an arena, too.
        let lines = unsafe { lines_from_raw(start, bytes) }.unwrap_or_default();
        // SAFETY: registered under that key; the region is one of the device's, which every queue pair keeps alive.
        unsafe { Region::promise(lines, self.keys().0) }
    }
}

impl Drop for Mr {
    fn drop(&mut self) {
        // SAFETY: (1): deregistered once, before the memory goes.
        let answer = unsafe { (self.pd.functions().dereg_mr)(self.mr.as_ptr()) };
        if answer == 0 {
            // SAFETY: the device cannot reach it any more, and `self` is not used after this.
            unsafe { ManuallyDrop::drop(&mut self.memory) };
        }
    }
}

/// What a completion queue has: entries, record, page of registers.
pub(crate) type CqParts<'h> = (&'h [Line], &'h [AtomicU32; 2], &'h [Line]);

/// A completion queue.
#[derive(Debug)]
pub(crate) struct CqHandle {
    pd: Rc<Pd>,
    cq: NonNull<IbvCq>,
    dv: DvCq,
}

impl CqHandle {
    pub(crate) fn new(pd: &Rc<Pd>, entries: u32) -> Result<Self, Mlx5Error> {
        let functions = pd.functions();
        let entries = c_int::try_from(entries).unwrap_or(c_int::MAX);
        // SAFETY: (1) an open device; no channel, no context.
        let cq = unsafe {
            let context = pd.context.context.as_ptr();
            (functions.create_cq)(context, entries, null_mut(), null_mut(), 0)
        };
        let cq = NonNull::new(cq).ok_or_else(|| refused("ibv_create_cq"))?;
        // SAFETY: all fields are integers or pointers, for which zero is a value.
        let dv: DvCq = unsafe { core::mem::zeroed() };
        let mut handle = Self { pd: Rc::clone(pd), cq, dv };
        // SAFETY: as above.
        let mut obj: DvObj = unsafe { core::mem::zeroed() };
        obj.cq_in = cq.as_ptr();
        obj.cq_out = &raw mut handle.dv;
        // SAFETY: (1) a queue of mlx5, and a structure as long as the header's to fill in.
        let answer = unsafe { (functions.init_obj)(&raw mut obj, MLX5DV_OBJ_CQ.into()) };
        answered("mlx5dv_init_obj", answer).map(|()| handle)
    }

    pub(crate) const fn dv(&self) -> &DvCq {
        &self.dv
    }

    /// Its entries, its doorbell record, and the page of its register.
    pub(crate) fn memory(&self) -> Result<CqParts<'_>, Mlx5Error> {
        let DvCq { buf, dbrec, cqe_cnt, cqe_size, cq_uar, .. } = self.dv;
        let bytes = u64::from(cqe_cnt).saturating_mul(u64::from(cqe_size));
        // SAFETY: (1), (3): the library says that so many entries lie there, mapped as long as the queue is.
        let lines = unsafe { lines(("mlx5dv_cq.buf", buf), bytes) }?;
        // SAFETY: (1), (3): the record has two slots.
        let record = unsafe { record(("mlx5dv_cq.dbrec", dbrec)) }?;
        // SAFETY: (1), (3): the register page is mapped as long as the device is open.
        let page = unsafe { lines_or_none(("mlx5dv_cq.cq_uar", cq_uar), 64) }?;
        Ok((lines, record, page))
    }
}

impl Drop for CqHandle {
    fn drop(&mut self) {
        // SAFETY: (1), (2): the queue pairs that complete into it are gone.
        let _answer = unsafe { (self.pd.functions().destroy_cq)(self.cq.as_ptr()) };
    }
}

/// A queue pair, with the queue that it completes into.
#[derive(Debug)]
pub(crate) struct QpHandle {
    pd: Rc<Pd>,
    qp: NonNull<IbvQp>,
    dv: DvQp,
    /// (2)
    _cq: Rc<CqHandle>,
}

/// What a queue pair has: send blocks, receives, record, registers.
pub(crate) type QpParts<'h> = (&'h [Line], &'h [Line], &'h [AtomicU32; 2], &'h [Line]);

impl QpHandle {
    pub(crate) fn new(
        pd: &Rc<Pd>,
        cq: &Rc<CqHandle>,
        mut attr: IbvQpInitAttr,
    ) -> Result<Self, Mlx5Error> {
        let functions = pd.functions();
        attr.send_cq = cq.cq.as_ptr();
        attr.recv_cq = cq.cq.as_ptr();
        // SAFETY: (1) a domain, and a structure whose pointers are null or of this device.
        let qp = unsafe { (functions.create_qp)(pd.pd.as_ptr(), &raw mut attr) };
        let qp = NonNull::new(qp).ok_or_else(|| refused("ibv_create_qp"))?;
        // SAFETY: all fields are integers or pointers, for which zero is a value.
        let dv: DvQp = unsafe { core::mem::zeroed() };
        let mut handle = Self { pd: Rc::clone(pd), qp, dv, _cq: Rc::clone(cq) };
        // SAFETY: as above.
        let mut obj: DvObj = unsafe { core::mem::zeroed() };
        obj.qp_in = qp.as_ptr();
        obj.qp_out = &raw mut handle.dv;
        // SAFETY: (1) a queue pair of mlx5, and a structure as long as the header's to fill in.
        let answer = unsafe { (functions.init_obj)(&raw mut obj, MLX5DV_OBJ_QP.into()) };
        answered("mlx5dv_init_obj", answer).map(|()| handle)
    }

    /// An attribute structure of zeros.
    pub(crate) const fn no_attr() -> IbvQpAttr {
        // SAFETY: all fields are integers, for which zero is a value.
        unsafe { core::mem::zeroed() }
    }

    /// Nothing set, for [`QpHandle::new`].
    pub(crate) const fn no_init_attr() -> IbvQpInitAttr {
        // SAFETY: all fields are integers or pointers, for which zero is a value.
        unsafe { core::mem::zeroed() }
    }

    pub(crate) const fn number(&self) -> u32 {
        // SAFETY: (1) a queue pair, whose first fields are as the header says.
        unsafe { self.qp.read() }.qp_num
    }

    pub(crate) const fn dv(&self) -> &DvQp {
        &self.dv
    }

    pub(crate) fn modify(&self, mut attr: IbvQpAttr, mask: u32) -> Result<(), Mlx5Error> {
        let mask = c_int::try_from(mask).unwrap_or(0);
        // SAFETY: (1) a queue pair, and a structure as long as the header's.
        let answer =
            unsafe { (self.pd.functions().modify_qp)(self.qp.as_ptr(), &raw mut attr, mask) };
        answered("ibv_modify_qp", answer)
    }

    pub(crate) fn memory(&self) -> Result<QpParts<'_>, Mlx5Error> {
        let dv = &self.dv;
        let sq_bytes = u64::from(dv.sq_wqe_cnt).saturating_mul(u64::from(dv.sq_stride));
        let rq_bytes = u64::from(dv.rq_wqe_cnt).saturating_mul(u64::from(dv.rq_stride));
        // Both halves of the BlueFlame register, or the line with the doorbell.
        let bf_bytes = dv.bf_size.saturating_mul(2).max(64);
        // SAFETY: (1), (3): the library says that so many blocks lie there, mapped as long as the queue pair is.
        let sq = unsafe { lines(("mlx5dv_qp.sq.buf", dv.sq_buf), sq_bytes) }?;
        // SAFETY: as above.
        let rq = unsafe { lines_or_none(("mlx5dv_qp.rq.buf", dv.rq_buf), rq_bytes) }?;
        // SAFETY: as above; the record has two slots.
        let record = unsafe { record(("mlx5dv_qp.dbrec", dv.dbrec)) }?;
        // SAFETY: as above; the halves lie behind each other (rdma-core alternates between them by adding the size).
        let uar = unsafe { lines(("mlx5dv_qp.bf.reg", dv.bf_reg), bf_bytes) }?;
        Ok((sq, rq, record, uar))
    }
}

impl Drop for QpHandle {
    fn drop(&mut self) {
        // SAFETY: (1): destroyed once; its memory is borrowed by nobody any more.
        let _answer = unsafe { (self.pd.functions().destroy_qp)(self.qp.as_ptr()) };
    }
}

/// # Safety
/// As [`lines_from_raw`], for whatever lifetime the caller gives it.
unsafe fn lines<'h>(
    (field, at): (&'static str, *mut c_void),
    bytes: u64,
) -> Result<&'h [Line], Mlx5Error> {
    let value = spinwire_layouts::word::from_usize(at.addr());
    let wrong = Mlx5Error::Memory { field, value };
    let Some(start) = NonNull::new(at.cast::<u8>()) else {
        return Err(wrong);
    };
    let Ok(bytes) = usize::try_from(bytes) else {
        return Err(wrong);
    };
    // SAFETY: the caller's promise.
    let lines = unsafe { lines_from_raw(start, bytes) };
    lines.filter(|lines| !lines.is_empty()).ok_or(wrong)
}

/// As [`lines`]; nothing where there is nothing.
///
/// # Safety
/// As [`lines`].
unsafe fn lines_or_none<'h>(
    at: (&'static str, *mut c_void),
    bytes: u64,
) -> Result<&'h [Line], Mlx5Error> {
    if bytes == 0 || at.1.is_null() {
        return Ok(&[]);
    }
    // SAFETY: the caller's promise.
    unsafe { lines(at, bytes) }
}

/// # Safety
/// As [`words_from_raw`], for two words.
unsafe fn record<'h>(
    (field, at): (&'static str, *mut u32),
) -> Result<&'h [AtomicU32; 2], Mlx5Error> {
    let wrong = Mlx5Error::Memory { field, value: spinwire_layouts::word::from_usize(at.addr()) };
    let Some(start) = NonNull::new(at.cast::<u8>()) else {
        return Err(wrong);
    };
    // SAFETY: the caller's promise.
    let words = unsafe { words_from_raw(start, 8) };
    words.and_then(|words| words.try_into().ok()).ok_or(wrong)
}
