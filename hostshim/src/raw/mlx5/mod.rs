//! Queues of mlx5 devices: their memory as the data plane wants to see it, and who owns what of it.
//!
//! ```text
//!   PairSeat           Pair of the data plane ── references to ──> rings, record, registers     of the handle
//!                                             ── references to ──> tables                       of the seat
//!   CompletionsSeat    Completions            the same
//!   SharedSeat         Shared                 the same; the seats of its pairs refer to it, and keep it
//! ```
//!
//! Invariants: (1) what refers goes before what it refers to; (2) memory of a queue is seen through lines and words of atomics alone, and as
//! long as its handle says that it is there; (3) a seat gives out no reference that outlives it.

#[cfg(feature = "mlx5")]
pub(crate) mod direct;

use core::ffi::c_void;
use core::fmt;
use core::mem::MaybeUninit;
use core::ops::Deref;
use core::ptr::NonNull;
use std::rc::Rc;

use spinwire_dataplane::cq::{Compression, Cq, CqMemory};
use spinwire_dataplane::error::Fatal;
use spinwire_dataplane::provider::mlx5 as rings;
use spinwire_dataplane::raw::line::{Line, lines_from_raw};
use spinwire_dataplane::raw::mmio::{Device, DoorbellRecord};
use spinwire_dataplane::raw::place::Bump;
use spinwire_dataplane::raw::region::{Destroyed, MemoryKey};
use spinwire_dataplane::raw::words::words_from_raw;
use spinwire_dataplane::sync::AtomicU32;
use spinwire_dataplane::verbs::{PairId, Segment};
use spinwire_dataplane::wqe::receive::RecvMemory;
use spinwire_dataplane::wqe::{Qp, QpConfig, QpMemory, SharedRecvQueue};
use spinwire_layouts::mlx5::cq_db;
use spinwire_layouts::word::{from_usize, line_of, to_usize, widen, word_of};

use crate::mlx5::dv::{DvCq, DvQp, DvSrq};
use crate::mlx5::{Mlx5Error, entry_bytes, shared_config};

/// A queue pair as somebody has made it: libmlx5, or a model of the device. Nobody posts to it but who reads this.
///
/// # Safety
/// What [`describe`](PairHandle::describe) says lies there, mapped for reading and writing, until the handle was destroyed or dropped, and nobody else in this
/// process sees it as plain data meanwhile. Memory that [`admits`](PairHandle::admits) gives a key for is as [`MemoryKey::promise`] wants it, as long as the
/// handle lives. Destroying it ends what was posted: the device touches none of that memory any more, or it stays for good. No other has its
/// [`id`](PairHandle::id), now or later.
pub unsafe trait PairHandle<'m> {
    /// What lets the device into memory.
    type Key: Copy;
    /// Why it was not destroyed.
    type Error: From<Mlx5Error>;

    /// Its number.
    fn qp_num(&self) -> u32;

    /// Which one it is, for good.
    fn id(&self) -> PairId;

    /// Where its queues lie (`mlx5dv_init_obj`).
    ///
    /// # Errors
    /// What the library says.
    fn describe(&self) -> Result<DvQp, Mlx5Error>;

    /// The memory around a range, where the key of the range is good for it; `None` where it is not.
    fn admits(&self, range: &Segment<Self::Key>) -> Option<MemoryKey<'m>>;

    /// Destroys it.
    ///
    /// # Errors
    /// Then nothing is certain of what was posted.
    fn destroy(self) -> Result<Destroyed, Self::Error>;
}

/// A completion queue as somebody has made it.
///
/// # Safety
/// As of [`PairHandle`], for the memory that [`describe`](CompletionsHandle::describe) says.
pub unsafe trait CompletionsHandle {
    /// Where it lies (`mlx5dv_init_obj`). From then on it is not the library's any more to poll, nor to clean where queue pairs go.
    ///
    /// # Errors
    /// What the library says.
    fn describe(&self) -> Result<DvCq, Mlx5Error>;

    /// Why it brings no more, where the device has told so in another way: told once.
    fn take_error(&self) -> Option<Fatal>;
}

/// A shared receive queue as somebody has made it.
///
/// # Safety
/// As of [`PairHandle`], for the memory that [`describe`](SharedHandle::describe) says, and what [`admits`](SharedHandle::admits) gives a key for. The pairs
/// that take from it keep it.
pub unsafe trait SharedHandle<'m> {
    /// What lets the device into memory.
    type Key: Copy;

    /// Where it lies (`mlx5dv_init_obj`).
    ///
    /// # Errors
    /// What the library says.
    fn describe(&self) -> Result<DvSrq, Mlx5Error>;

    /// The memory around a range, where the key of the range is good for it; `None` where it is not.
    fn admits(&self, range: &Segment<Self::Key>) -> Option<MemoryKey<'m>>;
}

/// What the seats of its pairs need of a shared receive queue, whoever has made it.
pub(crate) trait SharedRings<'m> {
    fn rings(&self) -> &rings::Shared<'m, Device>;
}

/// A shared receive queue of the data plane, and all that it stands on.
pub(crate) struct SharedSeat<'m, S> {
    /// (1)
    queue: rings::Shared<'m, Device>,
    _tables: Tables,
    handle: S,
}

impl<'m, S: SharedHandle<'m>> SharedSeat<'m, S> {
    /// Places a queue for receives of up to `sge_max` ranges where the handle says that it lies.
    pub(crate) fn place(handle: S, sge_max: u32) -> Result<Self, Mlx5Error> {
        let dv = handle.describe()?;
        let config = shared_config(&dv)?;
        let each = widen(sge_max).saturating_mul(64).saturating_add(64);
        let bytes = u64::from(config.wqes).saturating_mul(each).saturating_add(4 << 10);
        let tables = Tables::new(to_usize(bytes));
        // SAFETY: once; the queue is dropped before them.
        let bump = unsafe { tables.bump() };
        let bytes = u64::from(config.wqes).saturating_mul(dv.stride.into());
        // SAFETY: the handle's word: so many places lie there; it is dropped after the queue.
        let ring = unsafe { lines(("mlx5dv_srq.buf", dv.buf), bytes) }?;
        // SAFETY: as above; a record has two slots, of which this is the first.
        let record = unsafe { record(("mlx5dv_srq.dbrec", dv.dbrec)) }?;
        let memory = RecvMemory { ring, record: DoorbellRecord::new(record) };
        let queue = SharedRecvQueue::place(&bump, config, memory, Device)?;
        let queue = rings::Shared::place(&bump, queue, sge_max)?;
        Ok(Self { queue, _tables: tables, handle })
    }

    pub(crate) const fn handle(&self) -> &S {
        &self.handle
    }
}

impl<'m, S> SharedRings<'m> for SharedSeat<'m, S> {
    fn rings(&self) -> &rings::Shared<'m, Device> {
        &self.queue
    }
}

/// Memory for the tables of one queue.
struct Tables {
    block: NonNull<[MaybeUninit<u8>]>,
}

impl Tables {
    fn new(bytes: usize) -> Self {
        let block = Box::leak(Box::<[u8]>::new_uninit_slice(bytes));
        Self { block: NonNull::from_mut(block) }
    }

    /// # Safety
    /// Once; and all that is placed in it goes before the tables do.
    const unsafe fn bump<'m>(&self) -> Bump<'m> {
        // SAFETY: of this length, nobody else's, and there as long as the tables are (the caller's promise).
        Bump::new(unsafe { &mut *self.block.as_ptr() })
    }
}

impl Drop for Tables {
    fn drop(&mut self) {
        // SAFETY: it was leaked by us, and nothing refers to it any more (`bump`).
        drop(unsafe { Box::from_raw(self.block.as_ptr()) });
    }
}

/// A queue pair of the data plane, and all that it stands on.
pub(crate) struct PairSeat<'m, H> {
    /// (1)
    pair: rings::Pair<'m, Device>,
    tables: Tables,
    handle: H,
    shared: Option<Rc<dyn SharedRings<'m> + 'm>>,
}

impl<'m, H: PairHandle<'m>> PairSeat<'m, H> {
    /// Places a pair on the queues that the handle describes, which `queues` looks at.
    pub(crate) fn place(
        handle: H,
        queues: impl FnOnce(u32, &DvQp) -> Result<QpConfig, Mlx5Error>,
        pair: rings::PairConfig,
        shared: Option<Rc<dyn SharedRings<'m> + 'm>>,
    ) -> Result<Self, Mlx5Error> {
        let dv = handle.describe()?;
        let queues = queues(handle.qp_num(), &dv)?;
        let rows = widen(dv.sq_wqe_cnt).saturating_add(widen(dv.rq_wqe_cnt));
        let each = widen(pair.sge_max).saturating_mul(64).saturating_add(160);
        let routes = widen(pair.routes_max).saturating_mul(64);
        let bytes = rows.saturating_mul(each).saturating_add(routes).saturating_add(8 << 10);
        let tables = Tables::new(to_usize(bytes));
        // SAFETY: once; the pair is dropped before them.
        let bump = unsafe { tables.bump() };
        // SAFETY: the handle's word; it is dropped after the pair.
        let memory = unsafe { pair_memory(&dv) }?;
        let qp = Qp::place(&bump, queues, memory, Device)?;
        let mut pair = rings::Pair::place(&bump, qp, pair)?;
        if let Some(shared) = &shared {
            // SAFETY: it stays where it is as long as this seat has it, which is until the pair was dropped.
            pair = pair.with_shared(unsafe { &*core::ptr::from_ref(shared.rings()) });
        }
        Ok(Self { pair, tables, handle, shared })
    }

    /// Where its receives come from, if they are not its own.
    pub(crate) fn shared(&self) -> Option<&Rc<dyn SharedRings<'m> + 'm>> {
        self.shared.as_ref()
    }

    pub(crate) const fn handle(&self) -> &H {
        &self.handle
    }

    /// Ends the pair, then what it stood on.
    pub(crate) fn destroy(self) -> Result<Destroyed, H::Error> {
        // (1): nothing looks at the pair any more, and its place goes with this function.
        let Self { pair: _, tables, handle, shared } = self;
        drop(tables);
        let destroyed = handle.destroy();
        // Until then the device takes from it.
        drop(shared);
        destroyed
    }
}

impl<'m, H> Deref for PairSeat<'m, H> {
    type Target = rings::Pair<'m, Device>;

    #[inline(always)]
    fn deref(&self) -> &Self::Target {
        &self.pair
    }
}

impl<H> fmt::Debug for PairSeat<'_, H> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.pair.fmt(f)
    }
}

/// A completion queue of the data plane, and all that it stands on. `P` leads to a pair.
pub(crate) struct CompletionsSeat<'m, P, C> {
    /// (1)
    queue: rings::Completions<'m, Device, P>,
    _tables: Tables,
    handle: C,
}

impl<'m, P, C> CompletionsSeat<'m, P, C>
where
    P: Deref<Target = rings::Pair<'m, Device>>,
    C: CompletionsHandle,
{
    /// Places a queue for so many pairs where the handle says that it lies. All its entries are invalid then.
    pub(crate) fn place(handle: C, pairs_max: u32) -> Result<Self, Mlx5Error> {
        let dv = handle.describe()?;
        let bytes = widen(pairs_max).saturating_mul(256).saturating_add(4 << 10);
        let tables = Tables::new(to_usize(bytes));
        // SAFETY: once; the queue is dropped before them.
        let bump = unsafe { tables.bump() };
        // SAFETY: the handle's word; it is dropped after the queue.
        let memory = unsafe { completions_memory(&dv) }?;
        let queue = Cq::new(memory, Compression::Off, Device)?;
        let queue = rings::Completions::place(&bump, queue, pairs_max);
        Ok(Self { queue: queue.map_err(rings::BadPair::from)?, _tables: tables, handle })
    }

    pub(crate) const fn handle(&self) -> &C {
        &self.handle
    }
}

impl<'m, P, C> Deref for CompletionsSeat<'m, P, C> {
    type Target = rings::Completions<'m, Device, P>;

    #[inline(always)]
    fn deref(&self) -> &Self::Target {
        &self.queue
    }
}

/// Where the queues of a pair lie.
///
/// # Safety
/// It is as `dv` says, and stays so for `'m`.
unsafe fn pair_memory<'m>(dv: &DvQp) -> Result<QpMemory<'m>, Mlx5Error> {
    let sq_bytes = u64::from(dv.sq_wqe_cnt).saturating_mul(u64::from(dv.sq_stride));
    let rq_bytes = u64::from(dv.rq_wqe_cnt).saturating_mul(u64::from(dv.rq_stride));
    // Both halves of the BlueFlame register, or the line with the doorbell.
    let bf_bytes = dv.bf_size.saturating_mul(2).max(64);
    // SAFETY: the caller's promise: so many blocks lie there.
    let sq = unsafe { lines(("mlx5dv_qp.sq.buf", dv.sq_buf), sq_bytes) }?;
    // SAFETY: as above.
    let rq = unsafe { lines_or_none(("mlx5dv_qp.rq.buf", dv.rq_buf), rq_bytes) }?;
    // SAFETY: as above; the record has two slots.
    let record = unsafe { record(("mlx5dv_qp.dbrec", dv.dbrec)) }?;
    // SAFETY: as above; the halves lie behind each other (rdma-core alternates between them by adding the size).
    let uar = unsafe { lines(("mlx5dv_qp.bf.reg", dv.bf_reg), bf_bytes) }?;
    Ok(QpMemory { sq, rq, record, uar })
}

/// Where a completion queue lies.
///
/// # Safety
/// As [`pair_memory`].
unsafe fn completions_memory<'m>(dv: &DvCq) -> Result<CqMemory<'m>, Mlx5Error> {
    let entry_bytes = entry_bytes(dv.cqe_size)?;
    let bytes = u64::from(dv.cqe_cnt).saturating_mul(u64::from(dv.cqe_size));
    // SAFETY: the caller's promise: so many entries lie there.
    let lines = unsafe { lines(("mlx5dv_cq.buf", dv.buf), bytes) }?;
    // SAFETY: as above; the record has two slots.
    let record = unsafe { record(("mlx5dv_cq.dbrec", dv.dbrec)) }?;
    // SAFETY: as above; the page of registers is mapped as long as the device is open.
    let page = unsafe { lines_or_none(("mlx5dv_cq.cq_uar", dv.cq_uar), 64) }?;
    let at = to_usize(widen(cq_db::REGISTER));
    let register = page.get(line_of(at)).and_then(|line| line.words().get(word_of(at)));
    Ok(CqMemory { lines, entry_bytes, record, register, cqn: dv.cqn })
}

/// # Safety
/// As [`lines_from_raw`], for whatever lifetime the caller gives it.
unsafe fn lines<'h>(
    (field, at): (&'static str, *mut c_void),
    bytes: u64,
) -> Result<&'h [Line], Mlx5Error> {
    let wrong = Mlx5Error::Memory { field, value: from_usize(at.addr()) };
    let Some(start) = NonNull::new(at.cast::<u8>()) else {
        return Err(wrong);
    };
    let Ok(bytes) = usize::try_from(bytes) else {
        return Err(wrong);
    };
    // SAFETY: the caller's promise.
    let lines = unsafe { lines_from_raw(start, bytes) };
    lines.filter(|lines| !lines.is_empty()).ok_or(wrong)
}

/// As [`lines`]; nothing where there is nothing.
///
/// # Safety
/// As [`lines`].
unsafe fn lines_or_none<'h>(
    at: (&'static str, *mut c_void),
    bytes: u64,
) -> Result<&'h [Line], Mlx5Error> {
    if bytes == 0 || at.1.is_null() {
        return Ok(&[]);
    }
    // SAFETY: the caller's promise.
    unsafe { lines(at, bytes) }
}

/// # Safety
/// As [`words_from_raw`], for two words.
unsafe fn record<'h>(
    (field, at): (&'static str, *mut u32),
) -> Result<&'h [AtomicU32; 2], Mlx5Error> {
    let wrong = Mlx5Error::Memory { field, value: from_usize(at.addr()) };
    let Some(start) = NonNull::new(at.cast::<u8>()) else {
        return Err(wrong);
    };
    // SAFETY: the caller's promise.
    let words = unsafe { words_from_raw(start, 8) };
    words.and_then(|words| words.try_into().ok()).ok_or(wrong)
}
