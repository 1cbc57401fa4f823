//! Operations of an endpoint: `fi_msg(3)`, `fi_tagged(3)`, `fi_rma(3)`, `fi_atomic(3)`.
//!
//! What is refused is refused by a number of `fi_errno(3)`, positive; then nothing was consumed.

use core::ffi::c_void;
use core::ptr;

use spinwire_dataplane::provider::{OneSided, RemotePlace};
use spinwire_dataplane::raw::loan::Sge;
use spinwire_ofi_sys as sys;

use super::Active;

/// What the library wants to be told of a buffer: `fi_mr_desc(3)`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Descriptor(pub(super) *mut c_void);

impl Descriptor {
    /// That of a buffer that the library need not know.
    pub(crate) const NONE: Self = Self(ptr::null_mut());
}

/// To whom a message goes, and what goes with it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Target {
    pub(crate) address: u64,
    pub(crate) tag: Option<u64>,
    pub(crate) data: Option<u64>,
}

pub(super) const fn answer(code: isize) -> Result<(), i32> {
    if code == 0 { Ok(()) } else { Err(failed(code)) }
}

#[cold]
const fn failed(code: isize) -> i32 {
    #[expect(
        clippy::as_conversions,
        clippy::cast_possible_truncation,
        reason = "numbers of errors are below 2^16"
    )]
    {
        code.saturating_abs() as i32
    }
}

impl Active {
    /// Sends bytes, which are the caller's again at return.
    #[inline]
    pub(crate) fn inject(&self, to: &Target, bytes: &[u8]) -> Result<(), i32> {
        let (ep, at, length) = (self.handle.raw(), bytes.as_ptr().cast(), bytes.len());
        let address = to.address;
        // SAFETY (of all four): a live endpoint; the bytes are read before this returns.
        answer(match (to.tag, to.data) {
            // SAFETY: as said.
            (Some(tag), None) => unsafe { sys::fi_tinject(ep, at, length, address, tag) },
            // SAFETY: as said.
            (None, None) => unsafe { sys::fi_inject(ep, at, length, address) },
            // SAFETY: as said.
            (Some(tag), Some(data)) => unsafe {
                sys::fi_tinjectdata(ep, at, length, data, address, tag)
            },
            // SAFETY: as said.
            (None, Some(data)) => unsafe { sys::fi_injectdata(ep, at, length, data, address) },
        })
    }

    /// Sends a range, which is the library's until the operation in that space is over.
    #[inline]
    pub(crate) fn send(
        &self,
        to: &Target,
        (range, descriptor): (&Sge, Descriptor),
        space: usize,
    ) -> Result<(), i32> {
        let (ep, at, length) = (self.handle.raw(), range.bytes().as_ptr().cast(), range.length());
        let (context, desc, address) = (self.bound.spaces.at(space), descriptor.0, to.address);
        // A `Sge` is a promise: the range stays as it is until the completion. The space is this operation's alone.
        answer(match (to.tag, to.data) {
            // SAFETY: as said.
            (Some(tag), None) => unsafe {
                sys::fi_tsend(ep, at, length, desc, address, tag, context)
            },
            // SAFETY: as said.
            (None, None) => unsafe { sys::fi_send(ep, at, length, desc, address, context) },
            // SAFETY: as said.
            (Some(tag), Some(data)) => unsafe {
                sys::fi_tsenddata(ep, at, length, desc, data, address, tag, context)
            },
            // SAFETY: as said.
            (None, Some(data)) => unsafe {
                sys::fi_senddata(ep, at, length, desc, data, address, context)
            },
        })
    }

    /// Receives into a range, which is the library's until the operation in that space is over. `tag` and the bits that do not
    /// count; `None` for untagged messages.
    #[inline]
    pub(crate) fn receive(
        &self,
        (from, tag): (u64, Option<(u64, u64)>),
        (range, descriptor): (&Sge, Descriptor),
        space: usize,
    ) -> Result<(), i32> {
        let mut range = *range;
        let length = range.length();
        let Some(room) = range.part(0, length) else { return Err(libc::EINVAL) };
        let (ep, at) = (self.handle.raw(), room.as_mut_ptr().cast());
        let (context, desc) = (self.bound.spaces.at(space), descriptor.0);
        answer(match tag {
            // SAFETY: a `Sge` is a promise: the range is the provider's until the completion. The space is this operation's alone.
            Some((tag, ignore)) => unsafe {
                sys::fi_trecv(ep, at, length, desc, from, tag, ignore, context)
            },
            // SAFETY: likewise.
            None => unsafe { sys::fi_recv(ep, at, length, desc, from, context) },
        })
    }

    /// Takes back the operation in that space. Its completion says whether it came in time.
    pub(crate) fn cancel(&self, space: usize) -> Result<(), i32> {
        let context = self.bound.spaces.at(space);
        // SAFETY: a live endpoint; the space is only compared.
        answer(unsafe { sys::fi_cancel(self.handle.fid(), context) })
    }

    /// Does a one-sided operation. `operands`, of an atomic one: 16 bytes, the number that it takes and the one that it expects.
    pub(crate) fn one_sided(
        &self,
        (op, peer, there): (OneSided, u64, RemotePlace),
        (range, descriptor): (&Sge, Descriptor),
        (operands, their): (&Sge, Descriptor),
        space: usize,
    ) -> Result<(), i32> {
        let mut range = *range;
        let length = range.length();
        let RemotePlace { address, key } = there;
        let (ep, context) = (self.handle.raw(), self.bound.spaces.at(space));
        let (desc, their) = (descriptor.0, their.0);
        let Some(room) = range.part(0, length) else { return Err(libc::EINVAL) };
        let local = room.as_mut_ptr().cast::<c_void>();
        let numbers = operands.bytes().as_ptr().cast::<[u8; 8]>();
        // SAFETY: 16 bytes.
        let expected = unsafe { numbers.add(1) }.cast::<c_void>();
        let numbers = numbers.cast::<c_void>();
        // A `Sge` is a promise: both ranges are the library's until the completion. The space is this operation's alone.
        answer(match op {
            // SAFETY: as said.
            OneSided::Write => unsafe {
                sys::fi_write(ep, local, length, desc, peer, address, key, context)
            },
            // SAFETY: as said.
            OneSided::Read => unsafe {
                sys::fi_read(ep, local, length, desc, peer, address, key, context)
            },
            // SAFETY: as said; the local range has 8 bytes.
            OneSided::FetchAdd(_) => unsafe {
                sys::fi_fetch_atomic(
                    ep,
                    numbers,
                    1,
                    their,
                    local,
                    desc,
                    peer,
                    address,
                    key,
                    sys::FI_UINT64,
                    sys::FI_SUM,
                    context,
                )
            },
            // SAFETY: likewise.
            OneSided::CompareSwap { .. } => unsafe {
                sys::fi_compare_atomic(
                    ep,
                    numbers,
                    1,
                    their,
                    expected,
                    their,
                    local,
                    desc,
                    peer,
                    address,
                    key,
                    sys::FI_UINT64,
                    sys::FI_CSWAP,
                    context,
                )
            },
        })
    }

    /// Whether it does both atomic operations.
    pub(crate) fn has_atomics(&self) -> bool {
        let ep = self.handle.raw();
        let mut count = 0;
        // SAFETY: a live endpoint, and room for one number.
        let adds =
            unsafe { sys::fi_fetch_atomicvalid(ep, sys::FI_UINT64, sys::FI_SUM, &raw mut count) };
        // SAFETY: likewise.
        let swaps = unsafe {
            sys::fi_compare_atomicvalid(ep, sys::FI_UINT64, sys::FI_CSWAP, &raw mut count)
        };
        adds == 0 && swaps == 0
    }
}
