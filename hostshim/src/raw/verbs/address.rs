//! Addresses of datagrams.

use core::fmt;
use core::ptr::NonNull;
use std::rc::Rc;

use rdma_sys as sys;

use super::{Domain, made};
use crate::error::Errno;

/// Where datagrams go.
pub(crate) struct AddressHandle {
    raw: NonNull<sys::ibv_ah>,
    /// Outlives the handle.
    _domain: Rc<Domain>,
}

impl fmt::Debug for AddressHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AddressHandle").finish_non_exhaustive()
    }
}

impl AddressHandle {
    pub(crate) fn make(domain: &Rc<Domain>, mut to: sys::ibv_ah_attr) -> Result<Self, Errno> {
        // SAFETY: a live domain and a structure that is read during the call.
        let raw = made(unsafe { sys::ibv_create_ah(domain.as_ptr(), &raw mut to) })?;
        Ok(Self { raw, _domain: Rc::clone(domain) })
    }

    pub(crate) const fn as_ptr(&self) -> *mut sys::ibv_ah {
        self.raw.as_ptr()
    }
}

impl Drop for AddressHandle {
    fn drop(&mut self) {
        // SAFETY: made by us; the queue pair that holds it was destroyed before (see `verbs::pair`).
        let _closed = unsafe { sys::ibv_destroy_ah(self.raw.as_ptr()) };
    }
}
