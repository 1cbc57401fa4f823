//! What a WQE is made of, by type.
//!
//! ```text
//!   SqWqe (RC)      send, send_imm, send_inval, write, write_imm ----> NeedsData<Gather> --sge, sges, inline, empty--> HasData ─┐
//!                   read --------------------------------------------> NeedsData<Scatter> --sge, sges, empty---------> HasData ─┤
//!                   atomic_cs, atomic_fa, masked_cs, masked_fa, .. --> NeedsResult --result--------------------------> Bare ────┤
//!                   nop, local_inval, bind_window, update_key -------> Bare ────────────────────────────────────────────────────┤
//!   UdSqWqe         av(&av) ----> AddressedWqe    send, send_imm, nop                                                           │
//!   RoceUdSqWqe     to(peer) ---> AddressedWqe                                              finish_signaled, finish_unsignaled <┘
//! ```
//!
//! The two exits exist for states that are [`Complete`] only. A builder holds its queue by a lent reference; the lenders
//! (`with_sq_wqe` and its like) call a closure for every lifetime, so that it cannot take the builder out.

use core::fmt;
use core::marker::PhantomData;
use core::ops::BitOr;

use spinwire_layouts::endian::{Be32, Be64};
use spinwire_layouts::mlx5::{
    AtomicSeg, MaskedCs32Seg, MaskedFa32Seg, MaskedOperandSeg, RaddrSeg, atomic_opmod, fm_ce_se, op,
};

use super::address::{Av, RoceGrh, UdPeer};
use super::borrow::BorrowGuard;
use super::segment::{Inline, List, Nothing, Part, Then, data, operands};
use super::send::SendQueue;
use crate::error::{Misuse, PostError};
use crate::raw::mmio::Bus;
use crate::raw::region::LocalSge;

/// What surrounds an operation. Whether it asks for a completion is said by the exit that finishes it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct WqeFlags(u8);

impl WqeFlags {
    /// Nothing.
    pub const NONE: Self = Self(0);
    /// Begins after all reads and atomics before it are complete, and after changes of keys.
    pub const FENCE: Self = Self(fm_ce_se::FENCE);
    /// Asks for an event at the receiver.
    pub const SOLICITED: Self = Self(fm_ce_se::SOLICITED);

    #[inline(always)]
    pub(super) const fn bits(self) -> u8 {
        self.0
    }
}

impl BitOr for WqeFlags {
    type Output = Self;

    fn bitor(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

/// Memory that is gathered from: it can stand in the WQE itself.
#[derive(Clone, Copy, Debug)]
pub struct Gather(());

/// Memory that is scattered to.
#[derive(Clone, Copy, Debug)]
pub struct Scatter(());

/// The opcode wants data, or to be told that there are none.
#[derive(Clone, Copy, Debug)]
pub struct NeedsData<K>(PhantomData<K>);

/// There are data, and may be more.
#[derive(Clone, Copy, Debug)]
pub struct HasData<K>(PhantomData<K>);

/// The opcode wants memory for what was there before.
#[derive(Clone, Copy, Debug)]
pub struct NeedsResult(());

/// Nothing is missing, and nothing can be added.
#[derive(Clone, Copy, Debug)]
pub struct Bare(());

mod sealed {
    #[expect(unnameable_types, reason = "it is what seals the others")]
    pub trait Sealed {}
    impl<K> Sealed for super::HasData<K> {}
    impl<K> Sealed for super::NeedsData<K> {}
    impl Sealed for super::Bare {}
}

/// States in which nothing is missing.
#[diagnostic::on_unimplemented(
    message = "this WQE lacks what its opcode needs",
    label = "it cannot be finished",
    note = "add data (`sge`, `sges`, `inline`, or `empty` for none), or for an atomic operation its `result`"
)]
pub trait Complete: sealed::Sealed {}

impl<K> Complete for HasData<K> {}
impl Complete for Bare {}

/// States that take data.
pub trait TakesData: sealed::Sealed {
    /// From where, or to where.
    type Kind;
}

impl<K> TakesData for NeedsData<K> {
    type Kind = K;
}

impl<K> TakesData for HasData<K> {
    type Kind = K;
}

/// What the control segment says, but for the queue's part of it.
#[derive(Clone, Copy, Debug)]
pub struct Head {
    pub(super) opcode: u8,
    pub(super) opmod: u8,
    pub(super) flags: WqeFlags,
    pub(super) imm: u32,
    /// It changes keys: what follows waits for it.
    pub(super) changes_keys: bool,
}

impl Head {
    #[inline(always)]
    pub(super) const fn new(opcode: u8, flags: WqeFlags) -> Self {
        Self { opcode, opmod: 0, flags, imm: 0, changes_keys: false }
    }

    #[inline(always)]
    pub(super) const fn imm(self, imm: u32) -> Self {
        Self { imm, ..self }
    }
}

/// A queue that is lent to a builder, with the flag that falls when the builder ends.
pub(crate) struct Lent<'a, 'm, E: Copy, B> {
    queue: &'a SendQueue<'m, E, B>,
    guard: Option<BorrowGuard<'a>>,
}

impl<'a, 'm, E: Copy, B: Bus> Lent<'a, 'm, E, B> {
    /// With the flag, where it is not somebody else's business.
    #[inline(always)]
    pub(crate) const fn new(
        queue: &'a SendQueue<'m, E, B>,
        guard: Option<BorrowGuard<'a>>,
    ) -> Self {
        Self { queue, guard }
    }

    #[inline(always)]
    pub(super) const fn qpn(&self) -> u32 {
        self.queue.qpn()
    }

    /// The builder ends here: the flag falls, and what it has built is staged. No code of the caller runs in between.
    #[inline(always)]
    fn stage(self, head: Head, parts: impl Part, entry: Option<E>) -> Result<(), PostError> {
        drop(self.guard);
        self.queue.stage(head, parts, entry)
    }
}

/// A WQE under construction: parts `P`, state `S`.
#[must_use = "a WQE that is not finished is not staged"]
pub struct Wqe<'a, 'm, E: Copy, B, P, S> {
    queue: Lent<'a, 'm, E, B>,
    head: Head,
    parts: P,
    state: PhantomData<S>,
}

impl<'a, 'm, E: Copy, B: Bus, P: Part, S> Wqe<'a, 'm, E, B, P, S> {
    #[inline(always)]
    pub(super) const fn new(queue: Lent<'a, 'm, E, B>, head: Head, parts: P) -> Self {
        Self { queue, head, parts, state: PhantomData }
    }

    #[inline(always)]
    fn then<Q: Part, T>(self, part: Q) -> Wqe<'a, 'm, E, B, Then<P, Q>, T> {
        Wqe::new(self.queue, self.head, Then(self.parts, part))
    }
}

/// A WQE with data of kind `K`, to which part `Q` was added.
type WithData<'a, 'm, E, B, P, Q, K> = Wqe<'a, 'm, E, B, Then<P, Q>, HasData<K>>;

impl<'a, 'm, E: Copy, B: Bus, P: Part, S: TakesData> Wqe<'a, 'm, E, B, P, S> {
    /// A range of memory.
    #[inline(always)]
    pub fn sge(
        self,
        sge: LocalSge,
    ) -> WithData<'a, 'm, E, B, P, spinwire_layouts::mlx5::DataSeg, S::Kind> {
        self.then(data(sge))
    }

    /// Ranges of memory, one after the other.
    #[inline(always)]
    pub fn sges<'d>(self, sges: &'d [LocalSge]) -> WithData<'a, 'm, E, B, P, List<'d>, S::Kind> {
        self.then(List(sges))
    }
}

impl<'a, 'm, E: Copy, B: Bus, P: Part, S: TakesData<Kind = Gather>> Wqe<'a, 'm, E, B, P, S> {
    /// The bytes themselves: they are copied into the WQE when it is finished.
    #[inline(always)]
    pub fn inline<'d>(self, bytes: &'d [u8]) -> WithData<'a, 'm, E, B, P, Inline<'d>, Gather> {
        self.then(Inline(bytes))
    }
}

impl<'a, 'm, E: Copy, B: Bus, P: Part, K> Wqe<'a, 'm, E, B, P, NeedsData<K>> {
    /// No bytes.
    #[inline(always)]
    pub fn empty(self) -> Wqe<'a, 'm, E, B, P, Bare> {
        Wqe::new(self.queue, self.head, self.parts)
    }
}

impl<'a, 'm, E: Copy, B: Bus, P: Part> Wqe<'a, 'm, E, B, P, NeedsResult> {
    /// Where the device puts what was there before: as many bytes as the operation has.
    ///
    /// # Errors
    /// [`Misuse::BadRange`] where it has another length.
    #[inline(always)]
    pub fn result(
        self,
        sge: LocalSge,
    ) -> Result<Wqe<'a, 'm, E, B, Then<P, spinwire_layouts::mlx5::DataSeg>, Bare>, Misuse> {
        // Only masked ones say their size; plain ones have 8 bytes.
        let bytes = if self.head.opmod == atomic_opmod(2) { 4 } else { 8 };
        if sge.length() != bytes {
            return Err(Misuse::BadRange);
        }
        Ok(self.then(data(sge)))
    }
}

impl<E: Copy, B: Bus, P: Part, S> Wqe<'_, '_, E, B, P, S> {
    /// Stages it, and asks for a completion, which will bring `entry`. The next doorbell publishes it.
    ///
    /// # Errors
    /// `SqFull`; [`Misuse::WqeTooLong`]; `QueueError` where the queue has failed. Nothing was written.
    #[inline(always)]
    pub fn finish_signaled(self, entry: E) -> Result<(), PostError>
    where
        S: Complete,
    {
        self.queue.stage(self.head, self.parts, Some(entry))
    }

    /// Stages it without a completion of its own: that of the next signaled one on this queue stands for it, too.
    ///
    /// # Errors
    /// As [`Wqe::finish_signaled`], and `SqFull` where a signaled one must come first, so that the queue never fills with
    /// unsignaled ones only.
    #[inline(always)]
    pub fn finish_unsignaled(self) -> Result<(), PostError>
    where
        S: Complete,
    {
        self.queue.stage(self.head, self.parts, None)
    }
}

impl<E: Copy, B, P: fmt::Debug, S> fmt::Debug for Wqe<'_, '_, E, B, P, S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Wqe")
            .field("head", &self.head)
            .field("parts", &self.parts)
            .finish_non_exhaustive()
    }
}

macro_rules! entry_point {
    ($(#[$doc:meta])+ $name:ident) => {
        $(#[$doc])+
        #[must_use = "an entry point builds nothing by itself"]
        pub struct $name<'a, 'm, E: Copy, B> {
            pub(super) queue: Lent<'a, 'm, E, B>,
        }

        impl<'a, 'm, E: Copy, B: Bus> $name<'a, 'm, E, B> {
            #[inline(always)]
            pub(crate) const fn new(queue: Lent<'a, 'm, E, B>) -> Self {
                Self { queue }
            }

            /// Nothing, in one block.
            #[inline(always)]
            pub fn nop(self, flags: WqeFlags) -> Wqe<'a, 'm, E, B, Nothing, Bare> {
                Wqe::new(self.queue, Head::new(op::NOP, flags), Nothing)
            }
        }

        impl<E: Copy, B> fmt::Debug for $name<'_, '_, E, B> {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(stringify!($name))
            }
        }
    };
}

entry_point! {
    /// Where a WQE of a connected queue pair begins: what shall it do?
    SqWqe
}

entry_point! {
    /// Where a WQE of a datagram queue pair begins: to whom does it go?
    UdSqWqe
}

/// A WQE that sends or writes, and wants data.
type Out<'a, 'm, E, B, P> = Wqe<'a, 'm, E, B, P, NeedsData<Gather>>;
/// Behind the remote address.
type Remote<T> = Then<Then<Nothing, RaddrSeg>, T>;
/// An atomic operation with operands `T`, that wants memory for what was there.
type Atomic<'a, 'm, E, B, T> = Wqe<'a, 'm, E, B, Remote<T>, NeedsResult>;
/// Operands and masks of 8 bytes each.
type Masked64 = Then<MaskedOperandSeg, MaskedOperandSeg>;

#[inline(always)]
const fn remote(raddr: u64, rkey: u32) -> Then<Nothing, RaddrSeg> {
    Then(Nothing, RaddrSeg::new(raddr, rkey))
}

impl<'a, 'm, E: Copy, B: Bus> SqWqe<'a, 'm, E, B> {
    #[inline(always)]
    fn out<P: Part, S>(self, head: Head, parts: P) -> Wqe<'a, 'm, E, B, P, S> {
        Wqe::new(self.queue, head, parts)
    }

    /// Sends.
    #[inline(always)]
    pub fn send(self, flags: WqeFlags) -> Out<'a, 'm, E, B, Nothing> {
        self.out(Head::new(op::SEND, flags), Nothing)
    }

    /// Sends with immediate data.
    #[inline(always)]
    pub fn send_imm(self, flags: WqeFlags, imm: u32) -> Out<'a, 'm, E, B, Nothing> {
        self.out(Head::new(op::SEND_IMM, flags).imm(imm), Nothing)
    }

    /// Sends, and invalidates `rkey` at the receiver.
    #[inline(always)]
    pub fn send_inval(self, flags: WqeFlags, rkey: u32) -> Out<'a, 'm, E, B, Nothing> {
        self.out(Head::new(op::SEND_INVAL, flags).imm(rkey), Nothing)
    }

    /// Writes to remote memory.
    #[inline(always)]
    pub fn write(
        self,
        flags: WqeFlags,
        raddr: u64,
        rkey: u32,
    ) -> Out<'a, 'm, E, B, Then<Nothing, RaddrSeg>> {
        self.out(Head::new(op::RDMA_WRITE, flags), remote(raddr, rkey))
    }

    /// Writes to remote memory, and completes a receive there with immediate data.
    #[inline(always)]
    pub fn write_imm(
        self,
        flags: WqeFlags,
        (raddr, rkey): (u64, u32),
        imm: u32,
    ) -> Out<'a, 'm, E, B, Then<Nothing, RaddrSeg>> {
        self.out(Head::new(op::RDMA_WRITE_IMM, flags).imm(imm), remote(raddr, rkey))
    }

    /// Reads from remote memory.
    #[inline(always)]
    pub fn read(
        self,
        flags: WqeFlags,
        raddr: u64,
        rkey: u32,
    ) -> Wqe<'a, 'm, E, B, Then<Nothing, RaddrSeg>, NeedsData<Scatter>> {
        self.out(Head::new(op::RDMA_READ, flags), remote(raddr, rkey))
    }

    /// Swaps in `swap` where 8 remote bytes are `compare`.
    #[inline(always)]
    pub fn atomic_cs(
        self,
        flags: WqeFlags,
        (raddr, rkey): (u64, u32),
        compare: u64,
        swap: u64,
    ) -> Atomic<'a, 'm, E, B, AtomicSeg> {
        let operands = AtomicSeg { swap_add: Be64::new(swap), compare: Be64::new(compare) };
        self.out(Head::new(op::ATOMIC_CS, flags), Then(remote(raddr, rkey), operands))
    }

    /// Adds `add` to 8 remote bytes.
    #[inline(always)]
    pub fn atomic_fa(
        self,
        flags: WqeFlags,
        (raddr, rkey): (u64, u32),
        add: u64,
    ) -> Atomic<'a, 'm, E, B, AtomicSeg> {
        let operands = AtomicSeg { swap_add: Be64::new(add), compare: Be64::new(0) };
        self.out(Head::new(op::ATOMIC_FA, flags), Then(remote(raddr, rkey), operands))
    }

    /// Compares the bits of a mask in 8 remote bytes, and swaps those of another. Pairs are (compare, swap).
    #[inline(always)]
    pub fn masked_cs(
        self,
        flags: WqeFlags,
        (raddr, rkey): (u64, u32),
        (compare, swap): (u64, u64),
        (compare_mask, swap_mask): (u64, u64),
    ) -> Atomic<'a, 'm, E, B, Masked64> {
        let parts = Then(operands(swap, compare), operands(swap_mask, compare_mask));
        self.out(masked(op::ATOMIC_MASKED_CS, flags, 3), Then(remote(raddr, rkey), parts))
    }

    /// Adds to fields of 8 remote bytes; `boundary` has the highest bit of each.
    #[inline(always)]
    pub fn masked_fa(
        self,
        flags: WqeFlags,
        (raddr, rkey): (u64, u32),
        add: u64,
        boundary: u64,
    ) -> Atomic<'a, 'm, E, B, MaskedOperandSeg> {
        let parts = operands(add, boundary);
        self.out(masked(op::ATOMIC_MASKED_FA, flags, 3), Then(remote(raddr, rkey), parts))
    }

    /// As [`SqWqe::masked_cs`], of 4 bytes.
    #[inline(always)]
    pub fn masked_cs32(
        self,
        flags: WqeFlags,
        (raddr, rkey): (u64, u32),
        (compare, swap): (u32, u32),
        (compare_mask, swap_mask): (u32, u32),
    ) -> Atomic<'a, 'm, E, B, MaskedCs32Seg> {
        let parts = MaskedCs32Seg {
            swap: Be32::new(swap),
            compare: Be32::new(compare),
            swap_mask: Be32::new(swap_mask),
            compare_mask: Be32::new(compare_mask),
        };
        self.out(masked(op::ATOMIC_MASKED_CS, flags, 2), Then(remote(raddr, rkey), parts))
    }

    /// As [`SqWqe::masked_fa`], of 4 bytes.
    #[inline(always)]
    pub fn masked_fa32(
        self,
        flags: WqeFlags,
        (raddr, rkey): (u64, u32),
        add: u32,
        boundary: u32,
    ) -> Atomic<'a, 'm, E, B, MaskedFa32Seg> {
        let parts = MaskedFa32Seg {
            add: Be32::new(add),
            boundary: Be32::new(boundary),
            ..MaskedFa32Seg::ZERO
        };
        self.out(masked(op::ATOMIC_MASKED_FA, flags, 2), Then(remote(raddr, rkey), parts))
    }
}

#[inline(always)]
const fn masked(opcode: u8, flags: WqeFlags, log_bytes: u8) -> Head {
    Head { opmod: atomic_opmod(log_bytes), ..Head::new(opcode, flags) }
}

impl<'a, 'm, E: Copy, B: Bus> UdSqWqe<'a, 'm, E, B> {
    /// To that address.
    #[inline(always)]
    pub fn av(self, av: &Av) -> AddressedWqe<'a, 'm, E, B> {
        AddressedWqe { queue: self.queue, av: *av }
    }
}

/// Where a datagram over RoCE begins, the route of which is known.
#[must_use = "an entry point builds nothing by itself"]
pub struct RoceUdSqWqe<'a, 'm, E: Copy, B> {
    queue: Lent<'a, 'm, E, B>,
    grh: RoceGrh,
}

impl<'a, 'm, E: Copy, B: Bus> RoceUdSqWqe<'a, 'm, E, B> {
    pub(super) const fn new(queue: Lent<'a, 'm, E, B>, grh: RoceGrh) -> Self {
        Self { queue, grh }
    }

    /// To that queue pair.
    #[inline(always)]
    pub fn to(self, peer: UdPeer) -> AddressedWqe<'a, 'm, E, B> {
        AddressedWqe { queue: self.queue, av: Av::roce(&self.grh, peer) }
    }
}

impl<E: Copy, B> fmt::Debug for RoceUdSqWqe<'_, '_, E, B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RoceUdSqWqe").field("grh", &self.grh).finish_non_exhaustive()
    }
}

/// A datagram with an address: what shall it do?
#[must_use = "an entry point builds nothing by itself"]
pub struct AddressedWqe<'a, 'm, E: Copy, B> {
    queue: Lent<'a, 'm, E, B>,
    av: Av,
}

impl<'a, 'm, E: Copy, B: Bus> AddressedWqe<'a, 'm, E, B> {
    /// Sends.
    #[inline(always)]
    pub fn send(self, flags: WqeFlags) -> Out<'a, 'm, E, B, Then<Nothing, Av>> {
        Wqe::new(self.queue, Head::new(op::SEND, flags), Then(Nothing, self.av))
    }

    /// Sends with immediate data.
    #[inline(always)]
    pub fn send_imm(self, flags: WqeFlags, imm: u32) -> Out<'a, 'm, E, B, Then<Nothing, Av>> {
        Wqe::new(self.queue, Head::new(op::SEND_IMM, flags).imm(imm), Then(Nothing, self.av))
    }
}

impl<E: Copy, B> fmt::Debug for AddressedWqe<'_, '_, E, B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AddressedWqe").field("av", &self.av).finish_non_exhaustive()
    }
}
