//! Messages of several ranges: `fi_sendmsg`, `fi_recvmsg` and their tagged forms of `fi_msg(3)`, `fi_tagged(3)`.

use core::ffi::c_void;
use core::ptr;

use heapless::Vec;
use spinwire_dataplane::msg::endpoint::PARTS_MAX;
use spinwire_dataplane::raw::loan::Sge;
use spinwire_ofi_sys as sys;

use super::Active;
use super::post::{Descriptor, Target, answer};

/// The ranges of one message, at most [`PARTS_MAX`], each with what the library wants to be told of it.
pub(crate) type Ranges = Vec<(Sge, Descriptor), PARTS_MAX>;

/// The same as the library takes them. Both lists are read while it is called, and not later.
struct Lists {
    ranges: [sys::iovec; PARTS_MAX],
    descriptors: [*mut c_void; PARTS_MAX],
}

impl Lists {
    fn of(ranges: &Ranges) -> Self {
        let none = sys::iovec { iov_base: ptr::null_mut(), iov_len: 0 };
        let mut lists =
            Self { ranges: [none; PARTS_MAX], descriptors: [ptr::null_mut(); PARTS_MAX] };
        let places = lists.ranges.iter_mut().zip(&mut lists.descriptors);
        for ((place, known), (range, descriptor)) in places.zip(ranges) {
            let iov_base = range.bytes().as_ptr().cast_mut().cast();
            *place = sys::iovec { iov_base, iov_len: range.length() };
            *known = descriptor.0;
        }
        lists
    }
}

impl Active {
    /// Sends the ranges as one message. They are the library's until the operation in that space is over.
    pub(crate) fn send_parts(&self, to: &Target, ranges: &Ranges, space: usize) -> Result<(), i32> {
        let marked = if to.data.is_some() { sys::FI_REMOTE_CQ_DATA } else { 0 };
        self.message(to, 0, (ranges, space), (sys::FI_COMPLETION | marked, true))
    }

    /// Receives one message into the ranges, which are the library's until the operation in that space is over. `tag` and the bits that do
    /// not count; `None` for untagged messages.
    pub(crate) fn receive_parts(
        &self,
        (from, tag): (u64, Option<(u64, u64)>),
        ranges: &mut Ranges,
        space: usize,
    ) -> Result<(), i32> {
        for (range, _) in ranges.iter_mut() {
            let length = range.length();
            // Only who may write into all of it has it received into.
            if range.part(0, length).is_none() {
                return Err(libc::EINVAL);
            }
        }
        let from = Target { address: from, tag: tag.map(|(tag, _)| tag), data: None };
        let ignore = tag.map_or(0, |(_, ignore)| ignore);
        self.message(&from, ignore, (ranges, space), (sys::FI_COMPLETION, false))
    }

    fn message(
        &self,
        peer: &Target,
        ignore: u64,
        (ranges, space): (&Ranges, usize),
        (flags, is_send): (u32, bool),
    ) -> Result<(), i32> {
        let mut lists = Lists::of(ranges);
        let (msg_iov, desc) = (lists.ranges.as_ptr(), lists.descriptors.as_mut_ptr());
        let (context, iov_count) = (self.bound.spaces.at(space), ranges.len());
        let (ep, addr, flags) = (self.handle.raw(), peer.address, u64::from(flags));
        let data = peer.data.unwrap_or(0);
        let Some(tag) = peer.tag else {
            let message = sys::fi_msg { msg_iov, desc, iov_count, addr, context, data };
            let act = if is_send { sys::fi_sendmsg } else { sys::fi_recvmsg };
            // SAFETY: a live endpoint, and lists as long as is said. A `Sge` is a promise: the ranges are the library's until the completion,
            // those of a receive to be written to. The space is this operation's alone.
            return answer(unsafe { act(ep, &raw const message, flags) });
        };
        let message =
            sys::fi_msg_tagged { msg_iov, desc, iov_count, addr, tag, ignore, context, data };
        let act = if is_send { sys::fi_tsendmsg } else { sys::fi_trecvmsg };
        // SAFETY: likewise.
        answer(unsafe { act(ep, &raw const message, flags) })
    }
}
