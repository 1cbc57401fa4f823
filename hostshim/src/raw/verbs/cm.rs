//! librdmacm: the channel on which connections tell of themselves, and the ids that they are known by.
//!
//! Every event is copied and acknowledged before anybody sees it, so no id waits for one when it is destroyed. The word `context` of
//! an id is a number of ours, never a pointer.

use core::ffi::CStr;
use core::fmt;
use core::mem::offset_of;
use core::net::SocketAddr;
use core::ptr::{self, NonNull};
use std::os::fd::BorrowedFd;
use std::rc::Rc;

use rdma_sys as sys;
use spinwire_layouts::uring::SockAddr;

use super::{made, pair_attributes, zeroed};
use crate::error::Errno;

/// Most bytes of private data that an event brings (`RDMA_MAX_PRIVATE_DATA` of the kernel).
pub(crate) const DATA_MAX: usize = 256;

/// An event channel.
pub(crate) struct Channel {
    raw: NonNull<sys::rdma_event_channel>,
}

impl fmt::Debug for Channel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Channel").finish_non_exhaustive()
    }
}

/// What a connection tells.
pub(crate) struct RawNews {
    /// `enum rdma_cm_event_type`.
    pub(crate) kind: u32,
    /// 0, an errno (of either sign), or a reason of the protocol.
    pub(crate) status: i32,
    /// The number of the id that it is about; of a request, that of the listener.
    pub(crate) about: usize,
    /// The new id of a request.
    pub(crate) request: Option<Id>,
    /// Reads and atomics that the peer will have under way, and those that it answers at a time.
    pub(crate) reads: (u8, u8),
    pub(crate) data: [u8; DATA_MAX],
    pub(crate) data_len: u8,
}

/// What an end says of itself when it connects or accepts.
#[derive(Clone, Copy)]
pub(crate) struct Params<'a> {
    pub(crate) data: &'a [u8],
    pub(crate) responder_resources: u8,
    pub(crate) initiator_depth: u8,
    pub(crate) retry_count: u8,
    pub(crate) rnr_retry_count: u8,
    pub(crate) has_shared_receives: bool,
    pub(crate) qp_num: u32,
}

impl Params<'_> {
    fn raw(&self) -> Result<sys::rdma_conn_param, Errno> {
        let length = u8::try_from(self.data.len()).map_err(|_long| Errno::new(libc::EINVAL))?;
        Ok(sys::rdma_conn_param {
            private_data: self.data.as_ptr().cast(),
            private_data_len: length,
            responder_resources: self.responder_resources,
            initiator_depth: self.initiator_depth,
            flow_control: 0,
            retry_count: self.retry_count,
            rnr_retry_count: self.rnr_retry_count,
            srq: u8::from(self.has_shared_receives),
            qp_num: self.qp_num,
        })
    }
}

/// The answer of a call that returns -1 and sets errno.
fn done(code: i32) -> Result<(), Errno> {
    if code == 0 { Ok(()) } else { Err(Errno::last()) }
}

/// `enum rdma_cm_event_type`
const CONNECT_REQUEST: u32 = 4;

impl Channel {
    pub(crate) fn make() -> Result<Rc<Self>, Errno> {
        // SAFETY: takes nothing.
        let raw = made(unsafe { sys::rdma_create_event_channel() })?;
        Ok(Rc::new(Self { raw }))
    }

    pub(crate) const fn fd(&self) -> BorrowedFd<'_> {
        // SAFETY: an open channel.
        let fd = unsafe { self.raw.as_ref() }.fd;
        // SAFETY: the channel's own, open as long as it is.
        unsafe { BorrowedFd::borrow_raw(fd) }
    }

    /// The next event. `number` names the new id, where it is a request.
    pub(crate) fn next(self: &Rc<Self>, number: impl FnOnce() -> usize) -> Result<RawNews, Errno> {
        let mut event = ptr::null_mut();
        // SAFETY: an open channel, and room for a pointer.
        done(unsafe { sys::rdma_get_cm_event(self.raw.as_ptr(), &raw mut event) })?;
        // Newer libraries know kinds that the bindings have no name for, so the kind is read as the number that it is.
        let at = event.wrapping_byte_add(offset_of!(sys::rdma_cm_event, event));
        // SAFETY: the field of that offset, 32 bits wide and aligned, of the event that was just got.
        let kind: u32 = unsafe { at.cast::<u32>().read() };
        // SAFETY: the event that was just got, not yet acknowledged.
        let seen = unsafe { &*event };
        // SAFETY: ids of other kinds than connections are never made here, so this is the member that the library has written.
        let told = unsafe { seen.param.conn };
        let mut data = [0; DATA_MAX];
        let data_len = if told.private_data.is_null() { 0 } else { told.private_data_len };
        for (at, to) in data.iter_mut().enumerate().take(usize::from(data_len)) {
            let byte = told.private_data.cast::<u8>().wrapping_add(at);
            // SAFETY: the library's copy, of that length, which lives as long as the event.
            *to = unsafe { byte.read() };
        }
        let is_request = kind == CONNECT_REQUEST;
        let about = if is_request { seen.listen_id } else { seen.id };
        // SAFETY: an id lives until its event is acknowledged (rdma_destroy_id(3)).
        let about = unsafe { about.as_ref() }.map_or(0, |id| id.context.addr());
        let request = NonNull::new(seen.id).filter(|_| is_request).map(|mut raw| {
            // SAFETY: the id of a request belongs to who got the event, and the word is for its owner.
            unsafe { raw.as_mut() }.context = ptr::without_provenance_mut(number());
            Id { raw, _channel: Rc::clone(self) }
        });
        let (status, reads) = (seen.status, (told.responder_resources, told.initiator_depth));
        // SAFETY: the event that was just got, once; nothing of it is looked at any more.
        done(unsafe { sys::rdma_ack_cm_event(event) })?;
        Ok(RawNews { kind, status, about, request, reads, data, data_len })
    }
}

/// Has the library close what it has opened on devices that were taken away, now or with the last id that is on them: the kernel waits for that. It does so
/// nowhere else than where it is asked for all devices, which has it open those that are there.
pub(crate) fn close_removed() {
    // SAFETY: takes nothing that it needs: no room for the count.
    let devices = unsafe { sys::rdma_get_devices(ptr::null_mut()) };
    if !devices.is_null() {
        // SAFETY: the list that the library gave, once.
        unsafe { sys::rdma_free_devices(devices) };
    }
}

impl Drop for Channel {
    fn drop(&mut self) {
        // SAFETY: made by us; all ids hold it, so they are gone, and every event was acknowledged.
        unsafe { sys::rdma_destroy_event_channel(self.raw.as_ptr()) };
    }
}

/// An end of a connection, or a listener.
pub(crate) struct Id {
    raw: NonNull<sys::rdma_cm_id>,
    /// Outlives the id.
    _channel: Rc<Channel>,
}

impl fmt::Debug for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Id").field("number", &self.number()).finish_non_exhaustive()
    }
}

/// An address as the library takes it: aligned, and with room for any.
fn storage(address: SocketAddr) -> libc::sockaddr_storage {
    let address = SockAddr::new(address);
    // SAFETY: numbers only.
    let mut room: libc::sockaddr_storage = unsafe { zeroed() };
    let bytes = address.as_bytes();
    debug_assert!(bytes.len() <= size_of_val(&room), "there is room for any address");
    let length = bytes.len().min(size_of_val(&room));
    // SAFETY: `length` bytes of either, which are not the same.
    unsafe { ptr::copy_nonoverlapping(bytes.as_ptr(), (&raw mut room).cast::<u8>(), length) };
    room
}

/// The address that an id has at `at`.
fn address(at: *const libc::sockaddr_storage) -> Option<SocketAddr> {
    // SAFETY: an address of a live id, all of which the library has zeroed before it wrote some of it.
    let bytes = unsafe { at.cast::<[u8; size_of::<libc::sockaddr_storage>()]>().read() };
    SockAddr::read(&bytes)
}

impl Id {
    /// An id for connections, that belongs to nothing yet.
    pub(crate) fn make(channel: &Rc<Channel>, number: usize) -> Result<Self, Errno> {
        let mut raw = ptr::null_mut();
        let context = ptr::without_provenance_mut(number);
        let space = sys::rdma_port_space::RDMA_PS_TCP;
        // SAFETY: an open channel, and room for a pointer; the context is a number.
        done(unsafe { sys::rdma_create_id(channel.raw.as_ptr(), &raw mut raw, context, space) })?;
        Ok(Self { raw: made(raw)?, _channel: Rc::clone(channel) })
    }

    const fn seen(&self) -> &sys::rdma_cm_id {
        // SAFETY: alive until dropped, and changed by calls on it alone, which are made by this thread.
        unsafe { self.raw.as_ref() }
    }

    /// Its number.
    pub(crate) fn number(&self) -> usize {
        self.seen().context.addr()
    }

    /// The port of its device; 0 where it has none yet.
    pub(crate) const fn port(&self) -> u8 {
        self.seen().port_num
    }

    /// The name of its device; none where it has none yet.
    pub(crate) fn device(&self) -> Option<String> {
        // SAFETY: the library's own open context, as long as the id lives.
        let context = unsafe { self.seen().verbs.as_ref() }?;
        // SAFETY: a device of an open context.
        let name = unsafe { sys::ibv_get_device_name(context.device) };
        if name.is_null() {
            return None;
        }
        // SAFETY: the library's own text, which ends with a zero and lives as long as the context.
        let name = unsafe { CStr::from_ptr(name) };
        Some(name.to_string_lossy().into_owned())
    }

    pub(crate) fn local(&self) -> Option<SocketAddr> {
        let room = &raw const self.seen().route.addr.src_addr_union;
        address(room.cast())
    }

    pub(crate) fn peer(&self) -> Option<SocketAddr> {
        let room = &raw const self.seen().route.addr.dst_addr_union;
        address(room.cast())
    }

    pub(crate) fn bind(&self, at: SocketAddr) -> Result<(), Errno> {
        let mut at = storage(at);
        let address = (&raw mut at).cast();
        // SAFETY: a live id and an address that is read during the call.
        done(unsafe { sys::rdma_bind_addr(self.raw.as_ptr(), address) })
    }

    pub(crate) fn listen(&self, at: SocketAddr, backlog: i32) -> Result<(), Errno> {
        self.bind(at)?;
        // SAFETY: a live id.
        done(unsafe { sys::rdma_listen(self.raw.as_ptr(), backlog) })
    }

    pub(crate) fn resolve(
        &self,
        from: Option<SocketAddr>,
        to: SocketAddr,
        limit_ms: i32,
    ) -> Result<(), Errno> {
        let mut from = from.map(storage);
        let from = from.as_mut().map_or(ptr::null_mut(), |from| ptr::from_mut(from).cast());
        let mut to = storage(to);
        let to = (&raw mut to).cast();
        // SAFETY: a live id and addresses that are read during the call, of which the first may be null.
        done(unsafe { sys::rdma_resolve_addr(self.raw.as_ptr(), from, to, limit_ms) })
    }

    pub(crate) fn route(&self, limit_ms: i32) -> Result<(), Errno> {
        // SAFETY: a live id.
        done(unsafe { sys::rdma_resolve_route(self.raw.as_ptr(), limit_ms) })
    }

    /// What the next state of a queue pair takes on this connection, and which of it (`enum ibv_qp_attr_mask`).
    pub(crate) fn attributes(&self, state: u32) -> Result<(sys::ibv_qp_attr, u32), Errno> {
        let mut attributes = pair_attributes();
        attributes.qp_state = state;
        let mut mask = 0;
        // SAFETY: a live id, and live structures.
        done(unsafe {
            sys::rdma_init_qp_attr(self.raw.as_ptr(), &raw mut attributes, &raw mut mask)
        })?;
        Ok((attributes, u32::try_from(mask).unwrap_or(0)))
    }

    pub(crate) fn connect(&self, params: &Params<'_>) -> Result<(), Errno> {
        let mut params = params.raw()?;
        // SAFETY: a live id, and a structure that is read during the call, whose data are of the length that it names.
        done(unsafe { sys::rdma_connect(self.raw.as_ptr(), &raw mut params) })
    }

    pub(crate) fn accept(&self, params: &Params<'_>) -> Result<(), Errno> {
        let mut params = params.raw()?;
        // SAFETY: as in `connect`.
        done(unsafe { sys::rdma_accept(self.raw.as_ptr(), &raw mut params) })
    }

    pub(crate) fn establish(&self) -> Result<(), Errno> {
        // SAFETY: a live id, which has no queue pair of the library's.
        done(unsafe { sys::rdma_establish(self.raw.as_ptr()) })
    }

    pub(crate) fn reject(&self, data: &[u8]) -> Result<(), Errno> {
        let length = u8::try_from(data.len()).map_err(|_long| Errno::new(libc::EINVAL))?;
        // SAFETY: a live id, and bytes that are read during the call.
        done(unsafe { sys::rdma_reject(self.raw.as_ptr(), data.as_ptr().cast(), length) })
    }

    pub(crate) fn disconnect(&self) -> Result<(), Errno> {
        // SAFETY: a live id.
        done(unsafe { sys::rdma_disconnect(self.raw.as_ptr()) })
    }
}

impl Drop for Id {
    fn drop(&mut self) {
        // SAFETY: made by us, without a queue pair of the library's; every event of it was acknowledged.
        let _closed = unsafe { sys::rdma_destroy_id(self.raw.as_ptr()) };
    }
}
