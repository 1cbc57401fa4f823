//! The direct interface of libmlx5, on what `verbs` has opened.

use core::ffi::c_void;
use core::ptr::{NonNull, null_mut};
use std::rc::Rc;

use rdma_sys as sys;
use spinwire_dataplane::error::Fatal;
use spinwire_dataplane::raw::region::{Destroyed, MemoryKey};
use spinwire_dataplane::verbs::{CompletionQueue as _, PairId, QueuePair as _, Segment};
use spinwire_layouts::mlx5::AddressVector;

use super::super::verbs::{AddressHandle, Completions, Context};
use super::{CompletionsHandle, PairHandle, SharedHandle};
use crate::error::Errno;
use crate::mlx5::Mlx5Error;
use crate::mlx5::direct::{LibraryCompletions, LibraryPair, LibraryShared};
use crate::mlx5::dv::{
    CqInitAttr, DvAh, DvCq, DvCqInitAttr, DvObj, DvQp, DvSrq, MLX5DV_CQ_INIT_ATTR_MASK_CQE_SIZE,
    MLX5DV_OBJ_AH, MLX5DV_OBJ_CQ, MLX5DV_OBJ_QP, MLX5DV_OBJ_SRQ, linked,
};
use crate::verbs::{LocalKey, ProtectionDomain, VerbsError};

/// Whether a device is one of mlx5.
pub(crate) fn is_supported(device: NonNull<sys::ibv_device>) -> bool {
    // SAFETY: a device of a list that is not freed yet, or of an open context.
    unsafe { linked::mlx5dv_is_supported(device.as_ptr().cast()) }
}

/// A completion queue of at least that many entries, of 64 bytes each, none of them compressed.
pub(crate) fn completions(context: &Rc<Context>, entries: u32) -> Result<Rc<Completions>, Errno> {
    let mut wanted = CqInitAttr {
        cqe: entries,
        cq_context: null_mut(),
        channel: null_mut(),
        comp_vector: 0,
        wc_flags: 0,
        comp_mask: 0,
        flags: 0,
        parent_domain: null_mut(),
    };
    let mut direct = DvCqInitAttr {
        comp_mask: MLX5DV_CQ_INIT_ATTR_MASK_CQE_SIZE.into(),
        cqe_comp_res_format: 0,
        flags: 0,
        cqe_size: 64,
    };
    // SAFETY: an open context, and structures as long as the headers', which are read during the call.
    let made = unsafe {
        let context = context.as_ptr().cast();
        linked::mlx5dv_create_cq(context, &raw mut wanted, &raw mut direct)
    };
    // SAFETY: made just now; `struct ibv_cq_ex` begins as `struct ibv_cq` does (`ibv_cq_ex_to_cq`), and is destroyed as that.
    unsafe { Completions::adopt(context, made.cast()) }
}

/// An object with nothing to ask for.
const fn nothing() -> DvObj {
    // SAFETY: pointers only, which may be null.
    unsafe { core::mem::zeroed() }
}

fn init(mut object: DvObj, kind: u32) -> Result<(), Mlx5Error> {
    // SAFETY: what is to be asked about is alive and of an mlx5 device, as nobody else makes such; what is to be filled in is as long as the
    // header's, and alive.
    let answer = unsafe { linked::mlx5dv_init_obj(&raw mut object, kind.into()) };
    match answer {
        0 => Ok(()),
        number => {
            let errno = Errno::new(number.saturating_abs());
            Err(Mlx5Error::Refused { call: "mlx5dv_init_obj", errno })
        }
    }
}

#[inline]
fn admitted(domain: &ProtectionDomain, range: &Segment<LocalKey>) -> Option<MemoryKey<'static>> {
    let (lkey, start, bytes) = range.key.within(domain, range.address, range.length)?;
    // SAFETY: registered under that key, and so as long as the domain lives, which pairs and shared queues keep alive; the caller goes before them.
    Some(unsafe { MemoryKey::promise(start, bytes, lkey) })
}

// SAFETY: libmlx5 says where the queues lie: mapped until `ibv_destroy_qp`, and its own functions for them are not called: the pair was made
// without the lists that are posted with. A key is good for what its registration covers, which its domain keeps as long as a pair of it
// lives. `ibv_destroy_qp(3)` ends what was posted.
unsafe impl PairHandle<'static> for LibraryPair {
    type Key = LocalKey;
    type Error = VerbsError;

    fn qp_num(&self) -> u32 {
        self.pair().card().qp_num
    }

    fn id(&self) -> PairId {
        self.pair().id()
    }

    fn describe(&self) -> Result<DvQp, Mlx5Error> {
        // SAFETY: numbers and pointers, for which zero is a value.
        let mut told: DvQp = unsafe { core::mem::zeroed() };
        let raw: *mut c_void = self.pair().raw().as_ptr().cast();
        init(DvObj { qp_in: raw, qp_out: &raw mut told, ..nothing() }, MLX5DV_OBJ_QP)?;
        Ok(told)
    }

    #[inline]
    fn admits(&self, range: &Segment<LocalKey>) -> Option<MemoryKey<'static>> {
        admitted(self.pair().domain(), range)
    }

    fn destroy(self) -> Result<Destroyed, VerbsError> {
        self.into_pair().destroy()
    }
}

// SAFETY: as above, until `ibv_destroy_cq`. From the first `mlx5dv_init_obj` on libmlx5 leaves the queue alone where queue pairs are destroyed or
// reset (its flag `MLX5_CQ_FLAGS_DV_OWNED`); it polls only where it is asked to, and who has the handle does not.
unsafe impl CompletionsHandle for LibraryCompletions {
    fn describe(&self) -> Result<DvCq, Mlx5Error> {
        // SAFETY: numbers and pointers, for which zero is a value.
        let mut told: DvCq = unsafe { core::mem::zeroed() };
        let raw: *mut c_void = self.queue().raw().as_ptr().cast();
        init(DvObj { cq_in: raw, cq_out: &raw mut told, ..nothing() }, MLX5DV_OBJ_CQ)?;
        Ok(told)
    }

    fn take_error(&self) -> Option<Fatal> {
        self.queue().take_error()
    }
}

/// An address of datagrams, as it stands in their WQEs.
pub(crate) fn address_vector(handle: &AddressHandle) -> Result<AddressVector, Mlx5Error> {
    let mut told = DvAh { av: null_mut(), comp_mask: 0 };
    let raw: *mut c_void = handle.as_ptr().cast();
    init(DvObj { ah_in: raw, ah_out: &raw mut told, ..nothing() }, MLX5DV_OBJ_AH)?;
    let Some(vector) = NonNull::new(told.av.cast::<AddressVector>()) else {
        return Err(Mlx5Error::Memory { field: "mlx5dv_ah.av", value: 0 });
    };
    // SAFETY: the library's own, as long as the handle lives, of the size and alignment that the header says; bytes and numbers only.
    Ok(unsafe { vector.read() })
}

// SAFETY: as of completion queues, until `ibv_destroy_srq`, which comes after its pairs; nobody posts by the library, as who has the handle does not.
// Keys as of pairs.
unsafe impl SharedHandle<'static> for LibraryShared {
    type Key = LocalKey;

    fn describe(&self) -> Result<DvSrq, Mlx5Error> {
        // SAFETY: numbers and pointers, for which zero is a value.
        let mut told: DvSrq = unsafe { core::mem::zeroed() };
        let raw: *mut c_void = self.receives().raw().as_ptr().cast();
        init(DvObj { srq_in: raw, srq_out: &raw mut told, ..nothing() }, MLX5DV_OBJ_SRQ)?;
        Ok(told)
    }

    #[inline]
    fn admits(&self, range: &Segment<LocalKey>) -> Option<MemoryKey<'static>> {
        admitted(self.receives().domain(), range)
    }
}
