//! libfabric: what is opened through it is closed again, in the right order and once.
//!
//! ```text
//!   Fabric ── Domain ── AddressVector           each holds (Rc) what it was made of, so that the order of
//!      |         |------ Completions            closing is always from the outside in
//!      |         |------ Region
//!      |         '------ Active ── Spaces
//!      '── Events ────── Passive
//! ```
//!
//! Everything of one domain is used by one thread (`FI_THREAD_DOMAIN`): `Rc` makes these types neither `Send` nor `Sync`.
//! Numbers are those of `fi_errno(3)`, positive.

mod connect;
mod copies;
mod load;
mod offer;
mod parts;
mod post;
mod read;

use core::cell::Cell;
use core::ffi::{CStr, c_int, c_void};
use core::fmt;
use core::ptr::{self, NonNull};
use std::os::fd::RawFd;
use std::rc::Rc;

use spinwire_dataplane::raw::loan::Sge;
use spinwire_dataplane::raw::place::Bump;
use spinwire_ofi_sys as sys;

use super::syscall::page_bytes;

pub(crate) use connect::{Passive, Told};
pub(crate) use copies::Copies;
pub(crate) use load::{CALL as LOADING, why_missing};
pub(crate) use offer::{Offer, Wanted};
pub(crate) use parts::Ranges;
pub(crate) use post::{Descriptor, Target};
pub(crate) use read::{BATCH, Entry, Failure, Seen};

/// The version of the interface that this is written for.
const VERSION: u32 = sys::FI_MAJOR_VERSION << 16 | 17;
/// The address of nobody, and of anybody: both are this one number in `fabric.h`.
pub(crate) const NOBODY: u64 = u64::MAX;
/// Bytes of an address, at most; those of shared memory are texts of up to 256.
const NAME_BYTES_MAX: usize = 512;
/// So many bytes an operation has for the library: `struct fi_context2`, which is as much as any provider asks for.
const SPACE_BYTES: usize = size_of::<sys::fi_context2>();
const _: () = assert!(SPACE_BYTES == 64, "a line each");

/// A call that failed, and the number of `fi_errno(3)`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Failed {
    pub(crate) call: &'static str,
    pub(crate) code: i32,
}

pub(crate) type Answer<T> = Result<T, Failed>;

const fn answer(call: &'static str, code: c_int) -> Answer<()> {
    if code == 0 { Ok(()) } else { Err(Failed { call, code: code.saturating_abs() }) }
}

/// The answer of an operation: a number that is 0, or negative.
fn number(code: isize) -> i32 {
    i32::try_from(code.saturating_abs()).unwrap_or(i32::MAX)
}

/// What the library says of a number of `fi_errno(3)`.
pub(crate) fn text(code: i32) -> String {
    let Ok(library) = load::library() else { return format!("error {code}") };
    // SAFETY: any number is taken; the text is the library's own and stays.
    let text = unsafe { (library.strerror)(code) };
    if text.is_null() {
        return format!("error {code}");
    }
    // SAFETY: a text that ends with a zero.
    unsafe { CStr::from_ptr(text) }.to_string_lossy().into_owned()
}

/// The version of the library: major, minor.
pub(crate) fn version() -> Answer<(u32, u32)> {
    let library = load::library()?;
    // SAFETY: no arguments.
    let version = unsafe { (library.version)() };
    Ok((version >> 16, version & 0xFFFF))
}

/// Something that the library has opened; closed once. Every such structure begins with its `struct fid`.
struct Handle<T>(NonNull<T>);

impl<T> Handle<T> {
    fn made(call: &'static str, code: c_int, raw: *mut T) -> Answer<Self> {
        answer(call, code)?;
        NonNull::new(raw).map(Self).ok_or(Failed { call, code: libc::EIO })
    }

    const fn raw(&self) -> *mut T {
        self.0.as_ptr()
    }

    const fn fid(&self) -> *mut sys::fid {
        self.0.as_ptr().cast()
    }
}

impl<T> Drop for Handle<T> {
    fn drop(&mut self) {
        // SAFETY: opened by the library, and closed here alone.
        let closed = unsafe { sys::fi_close(self.fid()) };
        debug_assert_eq!(closed, 0, "what was opened of it is closed before it");
    }
}

/// `struct fid_fabric`.
pub(crate) struct Fabric {
    handle: Handle<sys::fid_fabric>,
}

impl Fabric {
    pub(crate) fn open(offer: &Offer) -> Answer<Rc<Self>> {
        let mut raw = ptr::null_mut();
        let open = load::library()?.fabric;
        // SAFETY: the attributes are those that the library gave.
        let code = unsafe { open(offer.fabric_attributes(), &raw mut raw, ptr::null_mut()) };
        Ok(Rc::new(Self { handle: Handle::made("fi_fabric", code, raw)? }))
    }

    /// Whether a thread may sleep on the descriptors of these: nothing has come that it would not be woken for.
    pub(crate) fn may_wait(&self, completions: &Completions, events: Option<&Events>) -> bool {
        let events = events.map_or(ptr::null_mut(), |events| events.handle.fid());
        let mut all = [completions.handle.fid(), events];
        let count = if events.is_null() { 1 } else { 2 };
        // SAFETY: as many live handles as are said, all of this fabric.
        unsafe { sys::fi_trywait(self.handle.raw(), all.as_mut_ptr(), count) == 0 }
    }
}

/// `struct fid_domain`.
pub(crate) struct Domain {
    handle: Handle<sys::fid_domain>,
    fabric: Rc<Fabric>,
}

impl Domain {
    pub(crate) fn open(fabric: &Rc<Fabric>, offer: &Offer) -> Answer<Rc<Self>> {
        let mut raw = ptr::null_mut();
        // SAFETY: the offer is of that fabric; the library only reads it.
        let code = unsafe {
            sys::fi_domain(fabric.handle.raw(), offer.raw(), &raw mut raw, ptr::null_mut())
        };
        let handle = Handle::made("fi_domain", code, raw)?;
        Ok(Rc::new(Self { handle, fabric: Rc::clone(fabric) }))
    }

    pub(crate) const fn fabric(&self) -> &Rc<Fabric> {
        &self.fabric
    }
}

/// `struct fid_av`.
pub(crate) struct AddressVector {
    handle: Handle<sys::fid_av>,
    _domain: Rc<Domain>,
}

impl AddressVector {
    pub(crate) fn open(domain: &Rc<Domain>, count: usize) -> Answer<Rc<Self>> {
        let mut attributes = sys::fi_av_attr {
            type_: sys::FI_AV_TABLE,
            rx_ctx_bits: 0,
            count,
            ep_per_node: 0,
            name: ptr::null(),
            map_addr: ptr::null_mut(),
            flags: 0,
        };
        let mut raw = ptr::null_mut();
        // SAFETY: live attributes, which are only read.
        let code = unsafe {
            sys::fi_av_open(domain.handle.raw(), &raw mut attributes, &raw mut raw, ptr::null_mut())
        };
        let handle = Handle::made("fi_av_open", code, raw)?;
        Ok(Rc::new(Self { handle, _domain: Rc::clone(domain) }))
    }

    /// The number of that address. `whole` is as many bytes as the library's addresses of that format have.
    pub(crate) fn insert(&self, address: &[u8]) -> Answer<u64> {
        let mut found = NOBODY;
        // SAFETY: one address, which is read, and room for one number.
        let count = unsafe {
            sys::fi_av_insert(
                self.handle.raw(),
                address.as_ptr().cast(),
                1,
                &raw mut found,
                0,
                ptr::null_mut(),
            )
        };
        if count == 1 && found != NOBODY {
            return Ok(found);
        }
        let code = if count < 0 { count.saturating_abs() } else { libc::EADDRNOTAVAIL };
        Err(Failed { call: "fi_av_insert", code })
    }

    pub(crate) fn remove(&self, number: u64) -> Answer<()> {
        let mut number = number;
        // SAFETY: one number, which `insert` gave.
        let code = unsafe { sys::fi_av_remove(self.handle.raw(), &raw mut number, 1, 0) };
        answer("fi_av_remove", code)
    }
}

/// `struct fid_cq`.
pub(crate) struct Completions {
    handle: Handle<sys::fid_cq>,
    /// Whether its entries have tags.
    tagged: bool,
    /// Whether it says who has sent what was received. Where nobody has asked for that it may not even be asked (`verbs`).
    names_senders: bool,
    /// Where it says who: nobody, between two reads.
    sources: Cell<[u64; BATCH]>,
    domain: Rc<Domain>,
}

impl Completions {
    pub(crate) fn open(
        domain: &Rc<Domain>,
        size: usize,
        (tagged, names_senders, waits): (bool, bool, bool),
    ) -> Answer<Rc<Self>> {
        let mut attributes = sys::fi_cq_attr {
            size,
            flags: 0,
            format: if tagged { sys::FI_CQ_FORMAT_TAGGED } else { sys::FI_CQ_FORMAT_DATA },
            wait_obj: if waits { sys::FI_WAIT_FD } else { sys::FI_WAIT_NONE },
            signaling_vector: 0,
            wait_cond: sys::FI_CQ_COND_NONE,
            wait_set: ptr::null_mut(),
        };
        let mut raw = ptr::null_mut();
        // SAFETY: live attributes, which are only read.
        let code = unsafe {
            sys::fi_cq_open(domain.handle.raw(), &raw mut attributes, &raw mut raw, ptr::null_mut())
        };
        let handle = Handle::made("fi_cq_open", code, raw)?;
        let sources = Cell::new([NOBODY; BATCH]);
        Ok(Rc::new(Self { handle, tagged, names_senders, sources, domain: Rc::clone(domain) }))
    }

    pub(crate) const fn domain(&self) -> &Rc<Domain> {
        &self.domain
    }

    /// The descriptor that can be read from when a completion has come.
    pub(crate) fn descriptor(&self) -> Answer<RawFd> {
        descriptor(self.handle.fid())
    }
}

/// `struct fid_eq`.
pub(crate) struct Events {
    handle: Handle<sys::fid_eq>,
    _fabric: Rc<Fabric>,
}

impl Events {
    pub(crate) fn open(fabric: &Rc<Fabric>, waits: bool) -> Answer<Rc<Self>> {
        let mut attributes = sys::fi_eq_attr {
            size: 64,
            flags: 0,
            wait_obj: if waits { sys::FI_WAIT_FD } else { sys::FI_WAIT_NONE },
            signaling_vector: 0,
            wait_set: ptr::null_mut(),
        };
        let mut raw = ptr::null_mut();
        // SAFETY: live attributes, which are only read.
        let code = unsafe {
            sys::fi_eq_open(fabric.handle.raw(), &raw mut attributes, &raw mut raw, ptr::null_mut())
        };
        let handle = Handle::made("fi_eq_open", code, raw)?;
        Ok(Rc::new(Self { handle, _fabric: Rc::clone(fabric) }))
    }

    /// The descriptor that can be read from when an event has come.
    pub(crate) fn descriptor(&self) -> Answer<RawFd> {
        descriptor(self.handle.fid())
    }
}

fn descriptor(fid: *mut sys::fid) -> Answer<RawFd> {
    let mut fd: c_int = -1;
    let command = i32::try_from(sys::FI_GETWAIT).unwrap_or(0);
    // SAFETY: a live handle that was opened with FI_WAIT_FD writes one int.
    let code = unsafe { sys::fi_control(fid, command, (&raw mut fd).cast::<c_void>()) };
    answer("fi_control(FI_GETWAIT)", code)?;
    Ok(fd)
}

/// The address of something that has one (`fi_getname(3)`).
fn name_of(fid: *mut sys::fid) -> Answer<Vec<u8>> {
    let mut bytes = vec![0_u8; NAME_BYTES_MAX];
    let mut length = bytes.len();
    // SAFETY: a live handle, and as much room as is said.
    let code = unsafe { sys::fi_getname(fid, bytes.as_mut_ptr().cast(), &raw mut length) };
    answer("fi_getname", code)?;
    bytes.truncate(length);
    Ok(bytes)
}

/// What each operation has for the library while it is posted: a line of 64 bytes that nobody else touches.
pub(crate) struct Spaces {
    first: NonNull<sys::fi_context2>,
    count: usize,
}

impl Spaces {
    /// `count` of them. They stay where they are until this is dropped.
    pub(crate) fn new(count: usize) -> Rc<Self> {
        let zero = sys::fi_context2 { internal: [ptr::null_mut(); 8] };
        let all: Box<[sys::fi_context2]> = vec![zero; count.max(1)].into_boxed_slice();
        let count = all.len();
        let first = NonNull::from(Box::leak(all)).cast();
        Rc::new(Self { first, count })
    }

    /// Where the one with that number is.
    fn at(&self, number: usize) -> *mut c_void {
        debug_assert!(number < self.count, "the table of contexts has as many");
        let number = number.min(self.count.saturating_sub(1));
        // SAFETY: below the count of what was allocated.
        unsafe { self.first.add(number) }.as_ptr().cast()
    }

    /// The number of the one at that address, if it is the start of one.
    pub(crate) fn number_of(&self, address: usize) -> Option<usize> {
        let offset = address.checked_sub(self.first.as_ptr().addr())?;
        let number = offset / SPACE_BYTES;
        (offset % SPACE_BYTES == 0 && number < self.count).then_some(number)
    }
}

impl Drop for Spaces {
    fn drop(&mut self) {
        let all = NonNull::slice_from_raw_parts(self.first, self.count);
        // SAFETY: leaked by `new`, with this length; the endpoints that the library wrote for are closed: they hold this.
        drop(unsafe { Box::from_raw(all.as_ptr()) });
    }
}

/// What an endpoint is bound to.
#[derive(Clone)]
pub(crate) struct Bound {
    pub(crate) completions: Rc<Completions>,
    pub(crate) addresses: Option<Rc<AddressVector>>,
    pub(crate) events: Option<Rc<Events>>,
    pub(crate) spaces: Rc<Spaces>,
}

/// An active endpoint, `struct fid_ep`, enabled.
pub(crate) struct Active {
    handle: Handle<sys::fid_ep>,
    bound: Bound,
}

impl Active {
    pub(crate) fn open(offer: &Offer, bound: &Bound) -> Answer<Self> {
        let mut raw = ptr::null_mut();
        let domain = bound.completions.domain.handle.raw();
        // SAFETY: the offer is of that domain.
        let code = unsafe { sys::fi_endpoint(domain, offer.raw(), &raw mut raw, ptr::null_mut()) };
        let handle = Handle::made("fi_endpoint", code, raw)?;
        let active = Self { handle, bound: bound.clone() };
        let both = u64::from(sys::FI_TRANSMIT | sys::FI_RECV);
        active.bind(bound.completions.handle.fid(), both)?;
        if let Some(addresses) = &bound.addresses {
            active.bind(addresses.handle.fid(), 0)?;
        }
        if let Some(events) = &bound.events {
            active.bind(events.handle.fid(), 0)?;
        }
        // SAFETY: a live endpoint that is bound to what it needs.
        let code = unsafe { sys::fi_enable(active.handle.raw()) };
        answer("fi_enable", code)?;
        Ok(active)
    }

    fn bind(&self, to: *mut sys::fid, flags: u64) -> Answer<()> {
        // SAFETY: both live; the endpoint holds what it is bound to.
        answer("fi_ep_bind", unsafe { sys::fi_ep_bind(self.handle.raw(), to, flags) })
    }

    /// Its own address.
    pub(crate) fn name(&self) -> Answer<Vec<u8>> {
        name_of(self.handle.fid())
    }

    /// Whether events with that handle are about it.
    pub(crate) fn is(&self, fid: usize) -> bool {
        self.handle.fid().addr() == fid
    }
}

/// Memory that the library knows, `struct fid_mr`.
pub(crate) struct Region {
    handle: Handle<sys::fid_mr>,
    range: (usize, usize),
    _domain: Rc<Domain>,
}

impl Region {
    /// Registers memory, for messages and for what others may do with it: `FI_REMOTE_READ`, `FI_REMOTE_WRITE`.
    ///
    /// # Safety
    /// The memory stays mapped, and is touched by nobody who holds a reference to it that excludes this, while the region lives.
    unsafe fn register(
        domain: &Rc<Domain>,
        (start, bytes): (NonNull<u8>, usize),
        (remote, key): (u64, u64),
    ) -> Answer<Self> {
        let access = u64::from(sys::FI_SEND | sys::FI_RECV | sys::FI_READ | sys::FI_WRITE) | remote;
        let mut raw = ptr::null_mut();
        // SAFETY: the caller's promise; the structure holds the domain.
        let code = unsafe {
            sys::fi_mr_reg(
                domain.handle.raw(),
                start.as_ptr().cast(),
                bytes,
                access,
                0,
                key,
                0,
                &raw mut raw,
                ptr::null_mut(),
            )
        };
        let handle = Handle::made("fi_mr_reg", code, raw)?;
        let range = (start.as_ptr().addr(), bytes);
        Ok(Self { handle, range, _domain: Rc::clone(domain) })
    }

    /// Lets others into a range, which is the library's until this is dropped.
    pub(crate) fn expose(
        domain: &Rc<Domain>,
        range: &Sge,
        rights: (bool, bool),
        key: u64,
    ) -> Answer<Self> {
        let mut range = *range;
        let length = range.length();
        let start = range.part(0, length).map(NonNull::from);
        let start = start.ok_or(Failed { call: "fi_mr_reg", code: libc::EINVAL })?;
        let right = |given: bool, bit: u32| if given { u64::from(bit) } else { 0 };
        let remote = right(rights.0, sys::FI_REMOTE_READ) | right(rights.1, sys::FI_REMOTE_WRITE);
        // SAFETY: a `Sge` is a promise: the range is the provider's until it was withdrawn.
        unsafe { Self::register(domain, (start.cast(), length), (remote, key)) }
    }

    /// Registers the pages that a range lies in, for messages alone.
    pub(crate) fn around(domain: &Rc<Domain>, range: &Sge) -> Answer<Self> {
        let failed = Failed { call: "fi_mr_reg", code: libc::EINVAL };
        let page = page_bytes();
        let start = NonNull::new(range.bytes().as_ptr().cast_mut()).ok_or(failed)?;
        let before = start.as_ptr().addr() % page;
        let bytes = before.saturating_add(range.length().max(1)).next_multiple_of(page);
        let start = start.as_ptr().wrapping_sub(before);
        let start = NonNull::new(start).ok_or(failed)?;
        // SAFETY: the pages are mapped while the range is posted, and the device keeps them; nothing of them is touched but what an operation is
        // given as a `Sge`. Who unmaps them before the region goes loses what a later operation would have received there, and nothing else.
        unsafe { Self::register(domain, (start, bytes), (0, u64::MAX)) }
    }

    /// The key by which others name it.
    pub(crate) fn key(&self) -> u64 {
        // SAFETY: a live region.
        unsafe { sys::fi_mr_key(self.handle.raw()) }
    }

    /// Where it begins, as a number, and its bytes.
    pub(crate) const fn range(&self) -> (usize, usize) {
        self.range
    }

    /// What the library wants to be told of a buffer in it.
    pub(crate) fn descriptor(&self) -> Descriptor {
        // SAFETY: a live region.
        Descriptor(unsafe { sys::fi_mr_desc(self.handle.raw()) })
    }
}

/// Registers the slots of copies. They are dropped after the region.
pub(crate) fn register_copies(domain: &Rc<Domain>, copies: &Copies) -> Answer<Region> {
    // SAFETY: the owner of both drops the region first; the slots are touched by who takes them alone, as they are given to the library.
    unsafe { Region::register(domain, copies.range(), (0, u64::MAX)) }
}

/// Registers what is left of an arena. What is placed there later lives as long as the arena does.
pub(crate) fn register_rest(domain: &Rc<Domain>, bump: &Bump<'_>) -> Answer<Region> {
    // SAFETY: the arena outlives the owner of the region; nothing of it is touched but what an operation is given as a `Sge`.
    unsafe { Region::register(domain, bump.free_range(), (0, u64::MAX)) }
}

macro_rules! nameless {
    ($($name:ident),+) => {$(
        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.debug_struct(stringify!($name)).finish_non_exhaustive()
            }
        }
    )+};
}

nameless!(Fabric, Domain, AddressVector, Completions, Events, Spaces, Bound, Active, Region);
