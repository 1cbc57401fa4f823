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

use super::{AddressHandle, Pair, SharedQueue, zeroed};

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

/// A work request as the library links them.
trait Linked {
    fn next(&mut self) -> &mut *mut Self;
}

impl Linked for sys::ibv_send_wr {
    fn next(&mut self) -> &mut *mut Self {
        &mut self.next
    }
}

impl Linked for sys::ibv_recv_wr {
    fn next(&mut self) -> &mut *mut Self {
        &mut self.next
    }
}

/// Where a request that is being staged finds what it names.
struct Place<W> {
    next: *mut W,
    sg_list: *mut sys::ibv_sge,
    num_sge: i32,
}

/// Requests of one kind.
struct List<W> {
    wrs: Box<[Cell<W>]>,
    sges: Box<[Cell<sys::ibv_sge>]>,
    sge_max: usize,
    staged: Cell<usize>,
}

impl<W> fmt::Debug for List<W> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("List").field("staged", &self.staged.get()).finish_non_exhaustive()
    }
}

impl<W: Linked> List<W> {
    fn new(depth: usize, sge_max: usize, empty: impl Fn() -> W) -> Self {
        let sge_max = sge_max.max(1);
        Self {
            wrs: (0..depth).map(|_| Cell::new(empty())).collect(),
            sges: sges(depth.saturating_mul(sge_max)),
            sge_max,
            staged: Cell::new(0),
        }
    }

    /// Appends what `make` makes. The caller has seen that there is room, and that there are not too many segments.
    #[inline]
    fn stage(
        &self,
        segments: impl Iterator<Item = sys::ibv_sge>,
        make: impl FnOnce(Place<W>) -> W,
    ) {
        let index = self.staged.get();
        let Some(cell) = self.wrs.get(index) else {
            debug_assert!(false, "the caller has seen that there is room");
            return;
        };
        let next = self.wrs.get(index.wrapping_add(1)).map_or(ptr::null_mut(), Cell::as_ptr);
        let (sg_list, num_sge) = fill(&self.sges, (index, self.sge_max), segments);
        cell.set(make(Place { next, sg_list, num_sge }));
        self.staged.set(index.wrapping_add(1));
    }

    /// Hands what is staged to `call`, which posts a list and names the first one that it did not take; forgets all of it.
    #[inline(always)]
    fn post(&self, call: impl FnOnce(*mut W, *mut *mut W) -> i32) -> Posting {
        let staged = self.staged.replace(0);
        let Some(last) = staged.checked_sub(1).and_then(|last| self.wrs.get(last)) else {
            return Posting { count: 0, code: 0 };
        };
        // SAFETY: a cell of this list, which no other reference is to.
        let request = unsafe { &mut *last.as_ptr() };
        *request.next() = ptr::null_mut();
        let head = self.wrs.as_ptr().cast::<W>().cast_mut();
        let mut bad = ptr::null_mut();
        let code = call(head, &raw mut bad);
        Posting { count: taken(code, staged, head.addr(), bad.addr(), size_of::<W>()), code }
    }
}

/// Sends.
#[derive(Debug)]
pub(crate) struct SendList(List<sys::ibv_send_wr>);

impl SendList {
    pub(crate) fn new(depth: usize, sge_max: usize) -> Self {
        // SAFETY: numbers and pointers, which may be null.
        Self(List::new(depth, sge_max, || unsafe { zeroed() }))
    }

    pub(crate) fn is_full(&self) -> bool {
        self.0.staged.get() >= self.0.wrs.len()
    }

    /// Whether nothing is staged.
    pub(crate) const fn is_empty(&self) -> bool {
        self.0.staged.get() == 0
    }

    /// Forgets what is staged.
    pub(crate) fn clear(&self) {
        self.0.staged.set(0);
    }

    /// Appends a request. The caller has seen that there is room, and that there are not too many segments.
    pub(crate) fn stage(&self, entry: &Entry<'_>, segments: impl Iterator<Item = sys::ibv_sge>) {
        self.0.stage(segments, |place| send(entry, &place));
    }

    /// Appends a send of one segment to the other end of a connection, or a write of one to `memory` there, its address and key. The caller has
    /// seen that there is room.
    #[inline(always)]
    pub(crate) fn stage_plain(
        &self,
        (wr_id, flags): (u64, u32),
        (opcode, immediate): (u32, u32),
        memory: Option<(u64, u32)>,
        segment: sys::ibv_sge,
    ) {
        let (list, index) = (&self.0, self.0.staged.get());
        let place = list.sges.get(index.wrapping_mul(list.sge_max));
        let (Some(cell), Some(place)) = (list.wrs.get(index), place) else {
            debug_assert!(false, "the caller has seen that there is room");
            return;
        };
        place.set(segment);
        let staged = index.wrapping_add(1);
        let next = list.wrs.get(staged).map_or(ptr::null_mut(), Cell::as_ptr);
        // SAFETY: a cell of this list, which no other reference is to.
        let wr = unsafe { &mut *cell.as_ptr() };
        (wr.wr_id, wr.next, wr.sg_list, wr.num_sge) = (wr_id, next, place.as_ptr(), 1);
        (wr.opcode, wr.send_flags) = (opcode, flags);
        wr.imm_data_invalidated_rkey_union.imm_data = immediate.to_be();
        if let Some((remote_addr, rkey)) = memory {
            wr.wr.rdma = sys::rdma_t { remote_addr, rkey };
        }
        list.staged.set(staged);
    }

    /// Posts what is staged, and forgets what the library did not take.
    #[inline(always)]
    pub(crate) fn post(&self, pair: &Pair) -> Posting {
        let (raw, post_send, _) = pair.parts();
        // SAFETY: a live pair of this thread, and a list that ends with null, whose segments are in cells of
        // the list, and whose memory is registered with the pair's domain (`verbs::pair` has checked each key).
        self.0.post(|head, bad| unsafe { post_send(raw, head, bad) })
    }
}

#[inline]
fn send(entry: &Entry<'_>, place: &Place<sys::ibv_send_wr>) -> sys::ibv_send_wr {
    // SAFETY: numbers and pointers, which may be null.
    let mut wr: sys::ibv_send_wr = unsafe { zeroed() };
    (wr.wr_id, wr.next, wr.sg_list, wr.num_sge) =
        (entry.wr_id, place.next, place.sg_list, place.num_sge);
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
    wr
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
#[derive(Debug)]
pub(crate) struct RecvList(List<sys::ibv_recv_wr>);

impl RecvList {
    pub(crate) fn new(depth: usize, sge_max: usize) -> Self {
        let (next, sg_list) = (ptr::null_mut(), ptr::null_mut());
        let empty = sys::ibv_recv_wr { wr_id: 0, next, sg_list, num_sge: 0 };
        Self(List::new(depth, sge_max, || empty))
    }

    pub(crate) fn is_full(&self) -> bool {
        self.0.staged.get() >= self.0.wrs.len()
    }

    /// Forgets what is staged.
    pub(crate) fn clear(&self) {
        self.0.staged.set(0);
    }

    /// Appends a request. The caller has seen that there is room, and that there are not too many segments.
    #[inline]
    pub(crate) fn stage(&self, wr_id: u64, segments: impl Iterator<Item = sys::ibv_sge>) {
        self.0.stage(segments, |Place { next, sg_list, num_sge }| sys::ibv_recv_wr {
            wr_id,
            next,
            sg_list,
            num_sge,
        });
    }

    /// Posts what is staged to a pair, and forgets what the library did not take.
    #[inline]
    pub(crate) fn post(&self, pair: &Pair) -> Posting {
        let (raw, _, post_recv) = pair.parts();
        // SAFETY: as in `SendList::post`.
        self.0.post(|head, bad| unsafe { post_recv(raw, head, bad) })
    }

    /// The same, to a queue that several pairs take from.
    #[inline]
    pub(crate) fn post_shared(&self, queue: &SharedQueue) -> Posting {
        let (raw, post_recv) = queue.parts();
        // SAFETY: as in `SendList::post`, with the domain of the queue.
        self.0.post(|head, bad| unsafe { post_recv(raw, head, bad) })
    }
}

#[cfg(test)]
mod tests {
    use super::taken;

    #[test]
    fn those_before_the_one_that_is_named_were_taken() {
        let (head, size) = (0x1000, 128);
        for staged in 1..9 {
            assert_eq!(taken(0, staged, head, 0, size), staged, "all went");
            assert_eq!(taken(22, staged, head, 0, size), staged, "all were taken before it failed");
            for at in 0..staged {
                assert_eq!(taken(12, staged, head, head + at * size, size), at);
            }
            assert_eq!(taken(12, staged, head, head - size, size), 0, "one that is none of these");
        }
    }
}
