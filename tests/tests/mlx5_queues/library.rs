//! A stand-in for libibverbs and libmlx5: hands out memory, keeps a log, refuses what it is told to refuse.

use core::cell::RefCell;
use core::ffi::{CStr, c_char, c_int, c_void};
use core::ptr::null_mut;

use spinwire_dataplane::raw::line::Line;
use spinwire_hostshim::mlx5::Library;
use spinwire_hostshim::mlx5::dv::{
    DvCq, DvObj, DvQp, Functions, IBV_LINK_LAYER_ETHERNET, IBV_PORT_ACTIVE, IbvContext, IbvCq,
    IbvDevice, IbvGid, IbvMr, IbvPd, IbvPortAttr, IbvQp, IbvQpAttr, IbvQpInitAttr,
};

pub(crate) const SQ_BLOCKS: usize = 64;
pub(crate) const RQ_WQES: usize = 32;
pub(crate) const RQ_STRIDE: usize = 32;
pub(crate) const CQES: usize = 256;
pub(crate) const BF_BYTES: usize = 256;
pub(crate) const QPN: u32 = 0x00ab_cdef;

/// The memory of the queues, as the device sees it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Memory {
    pub(crate) sq: &'static [Line],
    pub(crate) rq: &'static [Line],
    pub(crate) cq: &'static [Line],
    /// Doorbell records: that of the queue pair in word 0, that of the completion queue in word 1.
    pub(crate) records: &'static Line,
    pub(crate) uar: &'static [Line],
    pub(crate) cq_uar: &'static [Line],
}

impl Memory {
    fn new() -> Self {
        let lines = |count| (0..count).map(|_| Line::zeroed()).collect::<Vec<_>>().leak();
        let rq = lines(RQ_WQES * RQ_STRIDE / 64);
        let [records] = lines(1) else { panic!("one") };
        let (sq, cq, uar) = (lines(SQ_BLOCKS), lines(CQES), lines(2 * BF_BYTES / 64));
        Self { sq, rq, cq, records, uar, cq_uar: lines(1) }
    }
}

/// What the library was asked and what it says.
pub(crate) struct World {
    pub(crate) devices: Vec<(&'static CStr, bool)>,
    pub(crate) port: IbvPortAttr,
    /// Every call, in order.
    pub(crate) log: Vec<&'static str>,
    /// Objects that are not destroyed yet, by kind.
    pub(crate) alive: Vec<&'static str>,
    /// Which call refuses, and which one of its kind.
    pub(crate) refuses: Option<(&'static str, usize)>,
    pub(crate) modified: Vec<(IbvQpAttr, u32)>,
    pub(crate) made: Vec<IbvQpInitAttr>,
    pub(crate) registered: Vec<(usize, u32)>,
    pub(crate) dv_qp: fn(&mut DvQp),
    pub(crate) dv_cq: fn(&mut DvCq),
    pub(crate) memory: Memory,
}

thread_local! {
    static WORLD: RefCell<Option<World>> = const { RefCell::new(None) };
}

/// Lets `look` see the world of this thread.
pub(crate) fn world<R>(look: impl FnOnce(&mut World) -> R) -> R {
    WORLD.with_borrow_mut(|world| look(world.get_or_insert_with(World::new)))
}

impl World {
    fn new() -> Self {
        // SAFETY: integers only.
        let mut port: IbvPortAttr = unsafe { core::mem::zeroed() };
        (port.state, port.active_mtu, port.lid) = (IBV_PORT_ACTIVE, 5, 0);
        port.link_layer = u8::try_from(IBV_LINK_LAYER_ETHERNET).unwrap();
        Self {
            devices: vec![(c"rxe0", false), (c"mlx5_0", true), (c"mlx5_1", true)],
            port,
            log: Vec::new(),
            alive: Vec::new(),
            refuses: None,
            modified: Vec::new(),
            made: Vec::new(),
            registered: Vec::new(),
            dv_qp: |_| (),
            dv_cq: |_| (),
            memory: Memory::new(),
        }
    }
}

/// Notes a call. Whether it is to be refused.
fn call(name: &'static str) -> bool {
    world(|world| {
        world.log.push(name);
        let count = world.log.iter().filter(|other| **other == name).count();
        world.refuses == Some((name, count))
    })
}

fn set_errno(number: c_int) {
    // SAFETY: always succeeds.
    let at = unsafe { libc::__errno_location() };
    // SAFETY: the number of this thread.
    unsafe { at.write(number) };
}

fn refuse<T>() -> *mut T {
    set_errno(libc::ENOMEM);
    null_mut()
}

/// An object: an address that is nobody's, or a leaked value.
fn made<T>(call_name: &'static str, kind: &'static str, object: *mut T) -> *mut T {
    if call(call_name) {
        return refuse();
    }
    world(|world| world.alive.push(kind));
    object
}

fn gone(call_name: &'static str, kind: &'static str) -> c_int {
    let _refused = call(call_name);
    // What is made of it, or may be named to it, goes first.
    let before: &[&str] = match kind {
        "context" => &["pd", "cq"],
        "pd" => &["mr", "qp"],
        "cq" | "mr" => &["qp"],
        _ => &[],
    };
    world(|world| {
        assert!(!world.alive.iter().any(|other| before.contains(other)), "{kind} goes too early");
        let at = world.alive.iter().position(|other| *other == kind).unwrap();
        world.alive.remove(at);
    });
    0
}

const fn token<T>(number: usize) -> *mut T {
    core::ptr::without_provenance_mut(number)
}

fn index(device: *mut IbvDevice) -> usize {
    device.addr() / 16 - 1
}

unsafe extern "C" fn get_device_list(count: *mut c_int) -> *mut *mut IbvDevice {
    let devices = world(|world| world.devices.len());
    let list: Vec<*mut IbvDevice> = (0..devices).map(|number| token((number + 1) * 16)).collect();
    // SAFETY: the caller's.
    unsafe { *count = c_int::try_from(devices).unwrap() };
    made("ibv_get_device_list", "list", list.leak().as_mut_ptr())
}

unsafe extern "C" fn free_device_list(_list: *mut *mut IbvDevice) {
    let _refused = call("ibv_free_device_list");
    world(|world| {
        let at = world.alive.iter().position(|kind| *kind == "list").unwrap();
        world.alive.remove(at);
    });
}

unsafe extern "C" fn get_device_name(device: *mut IbvDevice) -> *const c_char {
    world(|world| world.devices[index(device)].0.as_ptr())
}

unsafe extern "C" fn is_supported(device: *mut IbvDevice) -> bool {
    world(|world| world.devices[index(device)].1)
}

unsafe extern "C" fn open_device(device: *mut IbvDevice) -> *mut IbvContext {
    made("ibv_open_device", "context", token(0x1000 + index(device)))
}

unsafe extern "C" fn close_device(_context: *mut IbvContext) -> c_int {
    gone("ibv_close_device", "context")
}

unsafe extern "C" fn query_port(
    _context: *mut IbvContext,
    _port: u8,
    attr: *mut IbvPortAttr,
) -> c_int {
    if call("ibv_query_port") {
        return libc::EINVAL;
    }
    // SAFETY: the caller's.
    unsafe { *attr = world(|world| world.port) };
    0
}

unsafe extern "C" fn query_gid(
    _context: *mut IbvContext,
    _port: u8,
    at: c_int,
    gid: *mut IbvGid,
) -> c_int {
    if call("ibv_query_gid") {
        set_errno(libc::ENODATA);
        return -1;
    }
    // SAFETY: the caller's.
    unsafe { *gid = IbvGid([u8::try_from(at).unwrap() + 1; 16]) };
    0
}

unsafe extern "C" fn alloc_pd(_context: *mut IbvContext) -> *mut IbvPd {
    made("ibv_alloc_pd", "pd", token(0x2000))
}

unsafe extern "C" fn dealloc_pd(_pd: *mut IbvPd) -> c_int {
    gone("ibv_dealloc_pd", "pd")
}

unsafe extern "C" fn reg_mr(
    pd: *mut IbvPd,
    addr: *mut c_void,
    length: usize,
    iova: u64,
    access: u32,
) -> *mut IbvMr {
    assert_eq!(u64::try_from(addr.addr()), Ok(iova));
    world(|world| world.registered.push((length, access)));
    let mr = IbvMr { context: null_mut(), pd, addr, length, handle: 0, lkey: 0x11, rkey: 0x22 };
    made("ibv_reg_mr_iova2", "mr", Box::leak(Box::new(mr)))
}

unsafe extern "C" fn dereg_mr(_mr: *mut IbvMr) -> c_int {
    gone("ibv_dereg_mr", "mr")
}

unsafe extern "C" fn create_cq(
    _context: *mut IbvContext,
    _entries: c_int,
    _cq_context: *mut c_void,
    _channel: *mut c_void,
    _vector: c_int,
) -> *mut IbvCq {
    made("ibv_create_cq", "cq", token(0x3000))
}

unsafe extern "C" fn destroy_cq(_cq: *mut IbvCq) -> c_int {
    gone("ibv_destroy_cq", "cq")
}

unsafe extern "C" fn create_qp(pd: *mut IbvPd, attr: *mut IbvQpInitAttr) -> *mut IbvQp {
    // SAFETY: the caller's.
    let attr = unsafe { *attr };
    world(|world| world.made.push(attr));
    let qp = IbvQp {
        context: null_mut(),
        qp_context: null_mut(),
        pd,
        send_cq: attr.send_cq,
        recv_cq: attr.recv_cq,
        srq: null_mut(),
        handle: 0,
        qp_num: QPN,
    };
    made("ibv_create_qp", "qp", Box::leak(Box::new(qp)))
}

unsafe extern "C" fn destroy_qp(_qp: *mut IbvQp) -> c_int {
    gone("ibv_destroy_qp", "qp")
}

unsafe extern "C" fn modify_qp(_qp: *mut IbvQp, attr: *mut IbvQpAttr, mask: c_int) -> c_int {
    if call("ibv_modify_qp") {
        return libc::EINVAL;
    }
    // SAFETY: the caller's.
    let attr = unsafe { *attr };
    world(|world| world.modified.push((attr, u32::try_from(mask).unwrap())));
    0
}

const fn bytes_of(lines: &'static [Line]) -> *mut c_void {
    lines.as_ptr().cast_mut().cast()
}

unsafe extern "C" fn init_obj(obj: *mut DvObj, kind: u64) -> c_int {
    if call("mlx5dv_init_obj") {
        return libc::EOPNOTSUPP;
    }
    // SAFETY: the caller's.
    let obj = unsafe { *obj };
    let (memory, dv_qp, dv_cq) = world(|world| (world.memory, world.dv_qp, world.dv_cq));
    let count = |count: usize| u32::try_from(count).unwrap();
    let records = core::ptr::from_ref(memory.records).cast_mut().cast::<u32>();
    if kind == 1 {
        assert!(!obj.qp_in.is_null());
        // SAFETY: the caller's.
        let out = unsafe { &mut *obj.qp_out };
        out.dbrec = records;
        (out.sq_buf, out.sq_wqe_cnt, out.sq_stride) = (bytes_of(memory.sq), count(SQ_BLOCKS), 64);
        out.rq_buf = bytes_of(memory.rq);
        (out.rq_wqe_cnt, out.rq_stride) = (count(RQ_WQES), count(RQ_STRIDE));
        (out.bf_reg, out.bf_size) = (bytes_of(memory.uar), u64::from(count(BF_BYTES)));
        dv_qp(out);
    } else {
        assert_eq!(kind, 2);
        // SAFETY: the caller's.
        let out = unsafe { &mut *obj.cq_out };
        // The second word of eight bytes of that line.
        out.dbrec = records.wrapping_add(2);
        (out.buf, out.cqe_cnt, out.cqe_size) = (bytes_of(memory.cq), count(CQES), 64);
        (out.cq_uar, out.cqn) = (bytes_of(memory.cq_uar), 0x77);
        dv_cq(out);
    }
    0
}

/// The stand-in.
pub(crate) fn library() -> Library {
    let functions = Functions {
        get_device_list,
        free_device_list,
        get_device_name,
        is_supported,
        open_device,
        close_device,
        query_port,
        query_gid,
        alloc_pd,
        dealloc_pd,
        reg_mr,
        dereg_mr,
        create_cq,
        destroy_cq,
        create_qp,
        destroy_qp,
        modify_qp,
        init_obj,
    };
    // SAFETY: the queues lie in leaked lines of atomics, which are seen as such only; structures are filled in whole.
    unsafe { Library::stand_in(functions) }
}
