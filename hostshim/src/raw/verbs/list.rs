//! Work requests that wait for the doorbell: linked lists in memory that was there before, posted by one call.
//!
//! ```text
//!   wrs   [ 0 ]-->[ 1 ]-->[ 2 ]--> null     each cell is linked to the next one when it is staged, and the last one
//!           |       |       |               of a list is cut off when it is posted
//!   sges  [ 0 .. sge_max ][ .. ][ .. ]
//! ```
//!
//! Invariant: a staged entry names cells of the same list only, and those are not moved or freed while the list lives.

use core::cell::Cell;
use core::fmt;
use core::ptr;

use rdma_sys as sys;

use super::{AddressHandle, Pair, zeroed};

/// What one call has posted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Posting {
    /// Requests that are the device's now.
    pub(crate) count: usize,
    /// What the library said of the first one that is not.
    pub(crate) code: i32,
}

/// One send, in the library's numbers.
#[derive(Clone, Copy)]
pub(crate) struct Entry<'a> {
    pub(crate) wr_id: u64,
    /// `enum ibv_wr_opcode`.
    pub(crate) opcode: u32,
    /// `enum ibv_send_flags`.
    pub(crate) flags: u32,
    /// The immediate, or the key to revoke.
    pub(crate) word: Word,
    pub(crate) target: Target<'a>,
}

/// The 32 bits that go with a send.
#[derive(Clone, Copy)]
pub(crate) enum Word {
    None,
    Immediate(u32),
    Invalidate(u32),
}

/// What a send is aimed at.
#[derive(Clone, Copy)]
pub(crate) enum Target<'a> {
    Connected,
    Memory { address: u64, key: u32 },
    Atomic { address: u64, key: u32, compare_add: u64, swap: u64 },
    Datagram { handle: &'a AddressHandle, qp_num: u32, qkey: u32 },
}

/// Sends.
pub(crate) struct SendList {
    wrs: Box<[Cell<sys::ibv_send_wr>]>,
    sges: Box<[Cell<sys::ibv_sge>]>,
    sge_max: usize,
    staged: Cell<usize>,
}

impl fmt::Debug for SendList {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SendList").field("staged", &self.staged.get()).finish_non_exhaustive()
    }
}

fn sges(count: usize) -> Box<[Cell<sys::ibv_sge>]> {
    (0..count).map(|_| Cell::new(sys::ibv_sge { addr: 0, length: 0, lkey: 0 })).collect()
}

/// Puts segments into the cells of row `index`. Returns where they begin and how many there are; never a null pointer.
fn fill(
    sges: &[Cell<sys::ibv_sge>],
    (index, sge_max): (usize, usize),
    segments: impl Iterator<Item = sys::ibv_sge>,
) -> (*mut sys::ibv_sge, i32) {
    let from = index.saturating_mul(sge_max);
    let room = sges.get(from..).unwrap_or_default();
    let room = room.get(..sge_max).unwrap_or_default();
    let mut count = 0;
    for (cell, segment) in room.iter().zip(segments) {
        cell.set(segment);
        count += 1;
    }
    (room.as_ptr().cast::<sys::ibv_sge>().cast_mut(), count)
}

impl SendList {
    pub(crate) fn new(depth: usize, sge_max: usize) -> Self {
        // SAFETY: numbers and pointers, which may be null.
        let empty = || Cell::new(unsafe { zeroed() });
        let sge_max = sge_max.max(1);
        Self {
            wrs: (0..depth).map(|_| empty()).collect(),
            sges: sges(depth.saturating_mul(sge_max)),
            sge_max,
            staged: Cell::new(0),
        }
    }

    pub(crate) fn is_full(&self) -> bool {
        self.staged.get() >= self.wrs.len()
    }

    /// Forgets what is staged.
    pub(crate) fn clear(&self) {
        self.staged.set(0);
    }

    /// Appends a request. The caller has seen that there is room, and that there are not too many segments.
    #[inline]
    pub(crate) fn stage(&self, entry: &Entry<'_>, segments: impl Iterator<Item = sys::ibv_sge>) {
        let index = self.staged.get();
        let Some(cell) = self.wrs.get(index) else {
            debug_assert!(false, "the caller has seen that there is room");
            return;
        };
        let next = self.wrs.get(index.wrapping_add(1)).map_or(ptr::null_mut(), Cell::as_ptr);
        let (sg_list, num_sge) = fill(&self.sges, (index, self.sge_max), segments);
        // SAFETY: numbers and pointers, which may be null.
        let mut wr: sys::ibv_send_wr = unsafe { zeroed() };
        (wr.wr_id, wr.next, wr.sg_list, wr.num_sge) = (entry.wr_id, next, sg_list, num_sge);
        (wr.opcode, wr.send_flags) = (entry.opcode, entry.flags);
        match entry.word {
            Word::None => {}
            Word::Immediate(value) => {
                wr.imm_data_invalidated_rkey_union.imm_data = value.to_be();
            }
            Word::Invalidate(key) => wr.imm_data_invalidated_rkey_union.invalidated_rkey = key,
        }
        match entry.target {
            Target::Connected => {}
            Target::Memory { address, key } => {
                wr.wr.rdma = sys::rdma_t { remote_addr: address, rkey: key };
            }
            Target::Atomic { address, key, compare_add, swap } => {
                wr.wr.atomic = sys::atomic_t { remote_addr: address, compare_add, swap, rkey: key };
            }
            Target::Datagram { handle, qp_num, qkey } => {
                wr.wr.ud = sys::ud_t { ah: handle.as_ptr(), remote_qpn: qp_num, remote_qkey: qkey };
            }
        }
        cell.set(wr);
        self.staged.set(index.wrapping_add(1));
    }

    /// Posts what is staged, and forgets what the library did not take.
    #[inline]
    pub(crate) fn post(&self, pair: &Pair) -> Posting {
        let staged = self.staged.replace(0);
        let Some(last) = staged.checked_sub(1).and_then(|last| self.wrs.get(last)) else {
            return Posting { count: 0, code: 0 };
        };
        // SAFETY: a cell of this list, which no reference is to.
        unsafe { (*last.as_ptr()).next = ptr::null_mut() };
        let head = self.wrs.as_ptr().cast::<sys::ibv_send_wr>().cast_mut();
        let mut bad = ptr::null_mut();
        let (raw, post_send, _) = pair.parts();
        // SAFETY: a live pair of this thread, and a list of `staged` entries that ends with null, whose segments are in cells of
        // the list, and whose memory is registered with the pair's domain (`verbs::pair` has checked each key).
        let code = unsafe { post_send(raw, head, &raw mut bad) };
        Posting {
            count: taken(code, staged, head.addr(), bad.addr(), size_of::<sys::ibv_send_wr>()),
            code,
        }
    }
}

/// How many of `staged` entries the library took: all, or those before the bad one. Where it names none, it has failed after it had taken them
/// (the doorbell of Soft-RoCE is a system call), so all of them may be under way.
fn taken(code: i32, staged: usize, head: usize, bad: usize, size: usize) -> usize {
    if code == 0 || bad == 0 {
        return staged;
    }
    bad.checked_sub(head).map_or(0, |bytes| bytes.checked_div(size).unwrap_or(0)).min(staged)
}

/// Receives.
pub(crate) struct RecvList {
    wrs: Box<[Cell<sys::ibv_recv_wr>]>,
    sges: Box<[Cell<sys::ibv_sge>]>,
    sge_max: usize,
    staged: Cell<usize>,
}

impl fmt::Debug for RecvList {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RecvList").field("staged", &self.staged.get()).finish_non_exhaustive()
    }
}

impl RecvList {
    pub(crate) fn new(depth: usize, sge_max: usize) -> Self {
        let (next, sg_list) = (ptr::null_mut(), ptr::null_mut());
        let empty = sys::ibv_recv_wr { wr_id: 0, next, sg_list, num_sge: 0 };
        let sge_max = sge_max.max(1);
        Self {
            wrs: (0..depth).map(|_| Cell::new(empty)).collect(),
            sges: sges(depth.saturating_mul(sge_max)),
            sge_max,
            staged: Cell::new(0),
        }
    }

    pub(crate) fn is_full(&self) -> bool {
        self.staged.get() >= self.wrs.len()
    }

    /// Forgets what is staged.
    pub(crate) fn clear(&self) {
        self.staged.set(0);
    }

    /// Appends a request. The caller has seen that there is room, and that there are not too many segments.
    #[inline]
    pub(crate) fn stage(&self, wr_id: u64, segments: impl Iterator<Item = sys::ibv_sge>) {
        let index = self.staged.get();
        let Some(cell) = self.wrs.get(index) else {
            debug_assert!(false, "the caller has seen that there is room");
            return;
        };
        let next = self.wrs.get(index.wrapping_add(1)).map_or(ptr::null_mut(), Cell::as_ptr);
        let (sg_list, num_sge) = fill(&self.sges, (index, self.sge_max), segments);
        cell.set(sys::ibv_recv_wr { wr_id, next, sg_list, num_sge });
        self.staged.set(index.wrapping_add(1));
    }

    /// Posts what is staged, and forgets what the library did not take.
    #[inline]
    pub(crate) fn post(&self, pair: &Pair) -> Posting {
        let staged = self.staged.replace(0);
        let Some(last) = staged.checked_sub(1).and_then(|last| self.wrs.get(last)) else {
            return Posting { count: 0, code: 0 };
        };
        let cut = last.get();
        last.set(sys::ibv_recv_wr { next: ptr::null_mut(), ..cut });
        let head = self.wrs.as_ptr().cast::<sys::ibv_recv_wr>().cast_mut();
        let mut bad = ptr::null_mut();
        let (raw, _, post_recv) = pair.parts();
        // SAFETY: as in `SendList::post`.
        let code = unsafe { post_recv(raw, head, &raw mut bad) };
        Posting {
            count: taken(code, staged, head.addr(), bad.addr(), size_of::<sys::ibv_recv_wr>()),
            code,
        }
    }
}
