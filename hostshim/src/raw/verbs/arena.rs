//! Registered memory in which tables and buffers of this process are placed, and buffers in which peers are let.

use core::cell::{Cell, RefCell};
use core::fmt;
use core::mem::{ManuallyDrop, MaybeUninit};
use core::ptr::NonNull;
use std::rc::Rc;

use rdma_sys as sys;
use spinwire_dataplane::error::{Misuse, PostError, Retry};
use spinwire_dataplane::provider::{Access, Sge};
use spinwire_dataplane::raw::place::Bump;
use spinwire_dataplane::raw::region::{Loans, Registrar};
use spinwire_dataplane::verbs::QueuePair;

use super::{Domain, Registration, count_lost, made};
use crate::error::Errno;
use crate::verbs::{LocalKey, ProtectionDomain, Queues, VerbsError};

/// A registration whose memory is lent once, to be built in. Nobody sees it as lines.
pub(crate) struct Arena {
    registration: Rc<Registration>,
    is_lent: Cell<bool>,
}

impl fmt::Debug for Arena {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Arena").field("is_lent", &self.is_lent.get()).finish_non_exhaustive()
    }
}

impl Arena {
    /// An arena in memory that was registered just now; so nobody else has it.
    pub(crate) fn of(registration: Registration) -> Self {
        Self { registration: Rc::new(registration), is_lent: Cell::new(false) }
    }

    /// For whoever must keep it as long as a queue pair may name it, and look at nothing in it.
    pub(crate) const fn registration(&self) -> &Rc<Registration> {
        &self.registration
    }

    /// What a port must know to hand buffers in it to the device: `key` is of this registration.
    pub(crate) fn loans<Q: Queues>(&self, key: LocalKey) -> Loans<Q::Pair, &Q::Completions> {
        let memory = self.registration.memory();
        let start = u64::try_from(memory.as_ptr().as_ptr().expose_provenance()).unwrap_or(0);
        let bytes = u64::try_from(memory.len()).unwrap_or(0);
        // SAFETY: registered, and kept so by its domain as long as a queue pair lives that posts with such a key: it takes keys of its own
        // domain alone, and those are of one device, which numbers its queue pairs. A device lets go of what it was told of when it completes, or its
        // queue pair is destroyed (ibv_post_send(3)), and of that is told what the library answers; ids are given once. Who makes queues
        // is sealed, and keeps to that.
        unsafe { Loans::promise(start, bytes, key) }
    }

    /// The memory. Once.
    pub(crate) fn bump(&self) -> Option<Bump<'_>> {
        if self.is_lent.replace(true) {
            return None;
        }
        let memory = self.registration.memory();
        let block: NonNull<[MaybeUninit<u8>]> =
            NonNull::slice_from_raw_parts(memory.as_ptr().cast(), memory.len());
        // SAFETY: private memory of that length, mapped while the registration lives, and lent this once; the device touches
        // what was posted alone. MaybeUninit asks for no particular content.
        Some(Bump::new(unsafe { &mut *block.as_ptr() }))
    }
}

/// Memory of a caller's that is registered. The kernel keeps its pages (`ibv_reg_mr(3)`), mapped or not.
pub(crate) struct Borrowed {
    raw: NonNull<sys::ibv_mr>,
    /// Outlives the registration.
    _domain: Rc<Domain>,
}

impl fmt::Debug for Borrowed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Borrowed").finish_non_exhaustive()
    }
}

impl Borrowed {
    /// # Safety
    /// The memory is mapped, and whoever gets the key names it only as long as it is.
    pub(crate) unsafe fn make(domain: &Rc<Domain>, memory: NonNull<[u8]>) -> Result<Self, Errno> {
        // IBV_ACCESS_LOCAL_WRITE
        let local = 1;
        let start = memory.as_ptr().cast();
        // SAFETY: a live domain, and the caller's promise.
        let raw = made(unsafe { sys::ibv_reg_mr(domain.as_ptr(), start, memory.len(), local) })?;
        Ok(Self { raw, _domain: Rc::clone(domain) })
    }

    /// The local key.
    pub(crate) const fn key(&self) -> u32 {
        // SAFETY: alive until dropped.
        unsafe { self.raw.as_ref() }.lkey
    }
}

impl Drop for Borrowed {
    fn drop(&mut self) {
        // SAFETY: made by us. Whatever uses it is gone: its domain keeps it.
        if unsafe { sys::ibv_dereg_mr(self.raw.as_ptr()) } != 0 {
            // The kernel keeps its pages for good.
            count_lost();
        }
    }
}

impl ProtectionDomain {
    /// Registers memory of the caller's in which loans lie, so that ports hand them to the device from where they are.
    ///
    /// # Safety
    /// The memory stays mapped as long as a queue pair lives whose port is told of it. (It stays registered as long as this domain, and so in memory,
    /// though it is unmapped.) Of `Q` and `C` holds what [`Loans::promise`] asks of them, as it does of a [`Pair`](crate::verbs::Pair), of a
    /// [`CompletionQueue`](crate::verbs::CompletionQueue), and of what hands everything on to these.
    ///
    /// # Errors
    /// What the library says: ENOMEM where so much may not be locked.
    pub unsafe fn register_loans<Q: QueuePair<Key = LocalKey>, C>(
        &self,
        memory: NonNull<[u8]>,
    ) -> Result<Loans<Q, C>, VerbsError> {
        // SAFETY: the caller's promise: the domain keeps it until it goes itself.
        let borrowed = unsafe { Borrowed::make(self.raw(), memory) };
        let borrowed = borrowed.map_err(|e| VerbsError::os("ibv_reg_mr", e))?;
        let start = u64::try_from(memory.cast::<u8>().as_ptr().expose_provenance()).unwrap_or(0);
        let bytes = u64::try_from(memory.len()).unwrap_or(0);
        let key = self.keep_borrowed(borrowed, (start, bytes));
        // SAFETY: registered, and kept so by the domain; the rest is the caller's promise.
        Ok(unsafe { Loans::promise(start, bytes, key) })
    }

    /// What lets peers into buffers that a port exposes, by this domain's device.
    #[must_use]
    pub fn grants(&self) -> Grants {
        Grants::new(self.raw())
    }
}

/// Buffers in which peers are let, by registering each with the device: what a port exposes.
pub struct Grants {
    domain: Rc<Domain>,
    /// By the key that peers use.
    given: RefCell<Vec<(u32, NonNull<sys::ibv_mr>)>>,
}

impl fmt::Debug for Grants {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Grants").field("given", &self.given.borrow().len()).finish_non_exhaustive()
    }
}

impl Grants {
    pub(crate) fn new(domain: &Rc<Domain>) -> Self {
        Self { domain: Rc::clone(domain), given: RefCell::default() }
    }
}

// SAFETY: a device lets nobody in but by a key that it has given, as far as was said, and no more when the registration is gone
// (ibv_reg_mr(3)); that it could not be ended is told.
unsafe impl Registrar for Grants {
    fn register(&self, memory: &Sge, access: Access) -> Result<u32, PostError> {
        // enum ibv_access_flags: writes and atomics of peers take the right to write here.
        let mut bits = 1;
        for (right, bit) in
            [(Access::WRITE, 1 << 1), (Access::READ, 1 << 2), (Access::ATOMIC, 1 << 3)]
        {
            bits |= if access.has(right) { bit } else { 0 };
        }
        let bytes = memory.bytes();
        let start = bytes.as_ptr().cast_mut().cast();
        // SAFETY: a live domain, and memory that was posted: it is the port's until it is withdrawn, which ends the registration.
        let raw = unsafe { sys::ibv_reg_mr(self.domain.as_ptr(), start, bytes.len(), bits) };
        let raw = made(raw).map_err(|e| match e.number() {
            libc::ENOMEM | libc::ENOSPC => PostError::from(Retry::NoSlot),
            _ => PostError::from(Misuse::Unsupported),
        })?;
        // SAFETY: registered just now.
        let key = unsafe { raw.as_ref() }.rkey;
        self.given.borrow_mut().push((key, raw));
        Ok(key)
    }

    fn unregister(&self, key: u32) -> bool {
        let mut given = self.given.borrow_mut();
        let Some(at) = given.iter().position(|(known, _)| *known == key) else { return false };
        let Some((_, raw)) = given.get(at) else { return false };
        // SAFETY: registered by us, and ended once: it is forgotten as soon as that was done.
        let is_gone = unsafe { sys::ibv_dereg_mr(raw.as_ptr()) == 0 };
        if is_gone {
            given.swap_remove(at);
        }
        is_gone
    }
}

impl Drop for Grants {
    fn drop(&mut self) {
        for (_, raw) in self.given.get_mut().drain(..) {
            // SAFETY: as in `unregister`.
            if unsafe { sys::ibv_dereg_mr(raw.as_ptr()) } != 0 {
                // Peers may still get at it. Whoever has exposed it was told so, and gives it to nobody else.
                let _for_good = ManuallyDrop::new(Rc::clone(&self.domain));
                count_lost();
            }
        }
    }
}
