//! Shared receive queues.

use core::fmt;
use core::ptr::{self, NonNull};
use std::rc::Rc;

use rdma_sys as sys;

use super::{Domain, made};
use crate::error::Errno;

pub(super) type PostShared = unsafe extern "C" fn(
    *mut sys::ibv_srq,
    *mut sys::ibv_recv_wr,
    *mut *mut sys::ibv_recv_wr,
) -> i32;

/// Receives that several queue pairs take from.
pub(crate) struct SharedQueue {
    raw: NonNull<sys::ibv_srq>,
    post_recv: PostShared,
    /// Outlives the queue.
    _domain: Rc<Domain>,
}

impl fmt::Debug for SharedQueue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SharedQueue").finish_non_exhaustive()
    }
}

impl SharedQueue {
    pub(crate) fn make(domain: &Rc<Domain>, depth: u32, sge_max: u32) -> Result<Rc<Self>, Errno> {
        // SAFETY: an open context.
        let context = unsafe { domain.context.raw.as_ref() };
        let post_recv = context.ops.post_srq_recv.ok_or(Errno::new(libc::EOPNOTSUPP))?;
        let attr = sys::ibv_srq_attr { max_wr: depth, max_sge: sge_max, srq_limit: 0 };
        let mut wanted = sys::ibv_srq_init_attr { srq_context: ptr::null_mut(), attr };
        // SAFETY: a live domain and a structure that is read and written during the call.
        let raw = made(unsafe { sys::ibv_create_srq(domain.as_ptr(), &raw mut wanted) })?;
        Ok(Rc::new(Self { raw, post_recv, _domain: Rc::clone(domain) }))
    }

    #[cfg(feature = "mlx5")]
    pub(crate) const fn as_ptr(&self) -> *mut sys::ibv_srq {
        self.raw.as_ptr()
    }

    pub(super) const fn parts(&self) -> (*mut sys::ibv_srq, PostShared) {
        (self.raw.as_ptr(), self.post_recv)
    }
}

impl Drop for SharedQueue {
    fn drop(&mut self) {
        // SAFETY: made by us; the queue pairs that use it hold it, so they are gone.
        let _closed = unsafe { sys::ibv_destroy_srq(self.raw.as_ptr()) };
    }
}
