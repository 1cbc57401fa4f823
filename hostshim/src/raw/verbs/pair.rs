//! Queue pairs, and where datagrams of theirs go.

use core::any::Any;
use core::cell::Cell;
use core::fmt;
use core::mem::ManuallyDrop;
use core::ptr::{self, NonNull};
use std::rc::Rc;

use rdma_sys as sys;
use spinwire_dataplane::raw::region::Destroyed;
use spinwire_dataplane::sync::{AtomicU64, Ordering};
use spinwire_dataplane::verbs::PairId;

use super::{
    Completions, Domain, PostRecv, PostSend, SendList, SharedQueue, answer, made, pair_attributes,
    zeroed,
};
use crate::error::Errno;

type DestroyQp = unsafe extern "C" fn(*mut sys::ibv_qp) -> i32;

/// Queue pairs have numbers here that none of this process has twice.
static PAIRS: AtomicU64 = AtomicU64::new(1);
/// What could not be ended, and was left to the kernel with all that it stands on.
static LOST: AtomicU64 = AtomicU64::new(0);

pub(super) fn count_lost() {
    LOST.fetch_add(1, Ordering::Relaxed);
}

/// Queue pairs and registrations of this process that the library did not end.
pub(crate) fn lost() -> u64 {
    LOST.load(Ordering::Relaxed)
}

/// A queue pair.
pub(crate) struct Pair {
    raw: NonNull<sys::ibv_qp>,
    id: PairId,
    destroy: DestroyQp,
    post_send: PostSend,
    post_recv: PostRecv,
    cap: sys::ibv_qp_cap,
    /// Outlive the pair.
    domain: Rc<Domain>,
    completions: (Rc<Completions>, Rc<Completions>),
    shared: Option<Rc<SharedQueue>>,
    registered: Rc<dyn Any>,
    is_gone: bool,
}

impl fmt::Debug for Pair {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pair").field("qp_num", &self.number()).finish_non_exhaustive()
    }
}

impl Pair {
    /// `kind` is of `enum ibv_qp_type`; `cap` says what is wanted, and afterwards [`Pair::cap`] what there is. Its receives are those of
    /// `shared`, where there is one. `registered` is what has the memory that it may be told of.
    pub(crate) fn make(
        (domain, registered): (&Rc<Domain>, Rc<dyn Any>),
        (send_cq, recv_cq): (&Rc<Completions>, &Rc<Completions>),
        shared: Option<&Rc<SharedQueue>>,
        kind: u32,
        cap: sys::ibv_qp_cap,
    ) -> Result<Self, Errno> {
        let (_, post_send, post_recv) =
            domain.context().operations().ok_or(Errno::new(libc::EOPNOTSUPP))?;
        let mut wanted = sys::ibv_qp_init_attr {
            qp_context: ptr::null_mut(),
            send_cq: send_cq.as_ptr(),
            recv_cq: recv_cq.as_ptr(),
            srq: shared.map_or(ptr::null_mut(), |shared| shared.parts().0),
            cap,
            qp_type: kind,
            sq_sig_all: 0,
        };
        // SAFETY: a live domain, live queues, and a structure that is read and written during the call.
        let raw = made(unsafe { sys::ibv_create_qp(domain.as_ptr(), &raw mut wanted) })?;
        Ok(Self {
            raw,
            id: PairId::from_raw(PAIRS.fetch_add(1, Ordering::Relaxed)),
            destroy: sys::ibv_destroy_qp,
            post_send,
            post_recv,
            cap: wanted.cap,
            domain: Rc::clone(domain),
            completions: (Rc::clone(send_cq), Rc::clone(recv_cq)),
            shared: shared.map(Rc::clone),
            registered,
            is_gone: false,
        })
    }

    pub(crate) const fn cap(&self) -> &sys::ibv_qp_cap {
        &self.cap
    }

    #[cfg(feature = "mlx5")]
    pub(crate) const fn as_ptr(&self) -> *mut sys::ibv_qp {
        self.raw.as_ptr()
    }

    pub(crate) const fn number(&self) -> u32 {
        // SAFETY: alive until dropped.
        unsafe { self.raw.as_ref() }.qp_num
    }

    /// `ibv_modify_qp(3)`: `mask` is of `enum ibv_qp_attr_mask`.
    pub(crate) fn modify(&self, attributes: &mut sys::ibv_qp_attr, mask: u32) -> Result<(), Errno> {
        let mask = i32::try_from(mask).unwrap_or(0);
        // SAFETY: a live pair and a live structure.
        answer(unsafe { sys::ibv_modify_qp(self.raw.as_ptr(), attributes, mask) })
    }

    /// What the driver believes of it: all that it was told by [`Pair::modify`], and its state.
    pub(crate) fn attributes(&self) -> Result<sys::ibv_qp_attr, Errno> {
        let mut attributes = pair_attributes();
        // SAFETY: numbers and pointers, which may be null.
        let mut initial: sys::ibv_qp_init_attr = unsafe { zeroed() };
        // IBV_QP_STATE .. IBV_QP_DEST_QPN, without those of alternate paths
        let mask = 0x13_bff9;
        // SAFETY: a live pair and live structures.
        let code = unsafe {
            sys::ibv_query_qp(self.raw.as_ptr(), &raw mut attributes, mask, &raw mut initial)
        };
        answer(code)?;
        Ok(attributes)
    }

    pub(crate) const fn id(&self) -> PairId {
        self.id
    }

    /// Destroys it, and says so where that was done.
    pub(crate) fn destroy(mut self) -> Result<Destroyed, Errno> {
        self.close()?;
        // SAFETY: it was, and its id is no other's.
        Ok(unsafe { Destroyed::promise(self.id) })
    }

    /// Destroys it, once. One that cannot be keeps all that it stands on, for good: its device may go on with what was posted.
    fn close(&mut self) -> Result<(), Errno> {
        if core::mem::replace(&mut self.is_gone, true) {
            return Ok(());
        }
        // SAFETY: made by us; it is not destroyed again.
        let answer = answer(unsafe { (self.destroy)(self.raw.as_ptr()) });
        if answer.is_err() {
            let (sends, receives) = &self.completions;
            let _for_good = ManuallyDrop::new((
                (Rc::clone(&self.domain), Rc::clone(&self.registered)),
                (Rc::clone(sends), Rc::clone(receives), self.shared.clone()),
            ));
            count_lost();
        }
        answer
    }

    pub(super) const fn parts(&self) -> (*mut sys::ibv_qp, PostSend, PostRecv) {
        (self.raw.as_ptr(), self.post_send, self.post_recv)
    }
}

impl Drop for Pair {
    fn drop(&mut self) {
        // Afterwards the device touches no memory for it any more, or all of that stays.
        let _closed = self.close();
    }
}

/// The address that a route leads to.
pub(crate) const fn gid_of(route: &sys::ibv_global_route) -> [u8; 16] {
    // SAFETY: both views of the union are 16 plain bytes.
    unsafe { route.dgid.raw }
}

/// Where datagrams go, or room for it.
pub(crate) struct AddressHandle {
    raw: Cell<Option<NonNull<sys::ibv_ah>>>,
    /// Outlives the handle.
    domain: Rc<Domain>,
}

impl fmt::Debug for AddressHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AddressHandle").finish_non_exhaustive()
    }
}

impl AddressHandle {
    pub(crate) fn none(domain: &Rc<Domain>) -> Self {
        Self { raw: Cell::new(None), domain: Rc::clone(domain) }
    }

    /// Makes it, where there is none.
    pub(crate) fn make(&self, mut to: sys::ibv_ah_attr) -> Result<(), Errno> {
        if self.is_made() {
            return Err(Errno::new(libc::EEXIST));
        }
        // SAFETY: a live domain and a structure that is read during the call.
        let raw = made(unsafe { sys::ibv_create_ah(self.domain.as_ptr(), &raw mut to) })?;
        self.raw.set(Some(raw));
        Ok(())
    }

    pub(crate) const fn is_made(&self) -> bool {
        self.raw.get().is_some()
    }

    /// Gives it back, where no send is staged that names it. Whether it was: one that the library does not take stays as it is.
    pub(crate) fn give_back(&self, staged: &SendList) -> bool {
        let Some(raw) = self.raw.get().filter(|_| staged.is_empty()) else { return false };
        // SAFETY: made by us, and no request names it that the library has yet to be handed.
        let is_gone = unsafe { sys::ibv_destroy_ah(raw.as_ptr()) == 0 };
        if is_gone {
            self.raw.set(None);
        }
        is_gone
    }

    pub(crate) fn as_ptr(&self) -> *mut sys::ibv_ah {
        self.raw.get().map_or(ptr::null_mut(), NonNull::as_ptr)
    }
}

impl Drop for AddressHandle {
    fn drop(&mut self) {
        if let Some(raw) = self.raw.take() {
            // SAFETY: made by us; the queue pair that holds it was destroyed before (see `verbs::pair`).
            let answer = unsafe { sys::ibv_destroy_ah(raw.as_ptr()) };
            if answer != 0 {
                count_lost();
            }
        }
    }
}
