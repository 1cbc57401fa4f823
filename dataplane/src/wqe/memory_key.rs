//! Keys that are changed by a WQE (UMR): invalidated, bound as a window, given other memory or rights.
//!
//! The next WQE on the queue waits for the change (initiator small fence), as with rdma-core: the queue sees to that.
//!
//! Relaxed ordering is a property of a key, not of a WQE. A bit for it in the signature byte of the control segment, as an ancestor
//! of this room sets it, is no part of the format: there it is a wrong signature at most.

use spinwire_layouts::endian::{Be16, Be32, Be64};
use spinwire_layouts::mlx5::{
    MkeyContextSeg, UmrCtrlSeg, mkey, mkey_access, op, umr_flag, umr_mask,
};

use super::builder::{Bare, Head, SqWqe, Wqe, WqeFlags};
use super::segment::{Entries, Nothing, Part, Then};
use crate::raw::mmio::Bus;
use crate::raw::region::LocalSge;

/// What may be done with a key.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Access {
    /// The device may write locally.
    pub local_write: bool,
    /// Others may write.
    pub remote_write: bool,
    /// Others may read.
    pub remote_read: bool,
    /// Others may do atomic operations.
    pub remote_atomic: bool,
}

impl Access {
    const fn bits(self) -> u8 {
        on(self.local_write, mkey_access::LOCAL_WRITE)
            | on(self.remote_write, mkey_access::REMOTE_WRITE)
            | on(self.remote_read, mkey_access::REMOTE_READ)
            | on(self.remote_atomic, mkey_access::ATOMIC)
    }
}

const ACCESS_MASK: u64 = umr_mask::ACCESS_LOCAL_WRITE
    | umr_mask::ACCESS_REMOTE_READ
    | umr_mask::ACCESS_REMOTE_WRITE
    | umr_mask::ACCESS_ATOMIC;

const fn on(is_set: bool, bit: u8) -> u8 {
    if is_set { bit } else { 0 }
}

/// A window onto registered memory.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Window {
    /// Its key so far.
    pub rkey: u32,
    /// Its key from then on, of which the low eight bits differ.
    pub new_rkey: u32,
    /// What others may do.
    pub access: Access,
    /// Its addresses begin at 0.
    pub zero_based: bool,
}

/// Which transfers over PCIe may overtake each other (ibv_reg_mr(3), `IBV_ACCESS_RELAXED_ORDERING`): those of one message may then
/// come in any order, and only its completion says that all of it is there.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct RelaxedOrdering {
    /// Writes of the device.
    pub writes: bool,
    /// Answers to its reads.
    pub reads: bool,
}

/// What a key is given. What is `None` stays.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct KeyUpdate {
    /// Rights.
    pub access: Option<Access>,
    /// Order on PCIe, where the device can change it by a WQE.
    pub relaxed_ordering: Option<RelaxedOrdering>,
}

/// A WQE that changes a key.
type Change<'a, 'm, E, B, T> = Wqe<'a, 'm, E, B, Then<Context, T>, Bare>;

/// What is changed, and what the key becomes.
type Context = Then<UmrCtrlSeg, MkeyContextSeg>;

impl<'a, 'm, E: Copy, B: Bus> SqWqe<'a, 'm, E, B> {
    fn change<T: Part>(
        self,
        flags: WqeFlags,
        key: u32,
        context: Context,
        entries: T,
    ) -> Change<'a, 'm, E, B, T> {
        let head = Head { imm: key, changes_keys: true, ..Head::new(op::UMR, flags) };
        Wqe::new(self.queue, head, Then(context, entries))
    }

    /// Invalidates the key of a window that this queue pair has bound.
    pub fn local_inval(self, flags: WqeFlags, rkey: u32) -> Change<'a, 'm, E, B, Nothing> {
        let control = UmrCtrlSeg {
            flags: umr_flag::INLINE | umr_flag::TRANSLATION_OFFSET | umr_flag::CHECK_QPN,
            mkey_mask: Be64::new(umr_mask::FREE | umr_mask::MKEY | umr_mask::QPN),
            ..UmrCtrlSeg::ZERO
        };
        let context = MkeyContextSeg {
            free: mkey::FREE,
            qpn_mkey: Be32::new(0xffff_ff00),
            ..MkeyContextSeg::ZERO
        };
        self.change(flags, rkey, Then(control, context), Nothing)
    }

    /// Binds a window (of type 2) to `memory`, of which it is a part that others may use.
    pub fn bind_window<'d>(
        self,
        flags: WqeFlags,
        window: &Window,
        memory: &'d LocalSge,
    ) -> Change<'a, 'm, E, B, Entries<'d>> {
        let mask = umr_mask::FREE | umr_mask::MKEY | umr_mask::QPN;
        let control = UmrCtrlSeg {
            flags: umr_flag::INLINE | umr_flag::TRANSLATION_OFFSET | umr_flag::CHECK_FREE,
            klm_octowords: Be16::new(4),
            mkey_mask: Be64::new(mask | umr_mask::LEN | umr_mask::START_ADDR | ACCESS_MASK),
            ..UmrCtrlSeg::ZERO
        };
        let context = MkeyContextSeg {
            access_flags: window.access.bits(),
            qpn_mkey: Be32::new(self.queue.qpn() << 8 | window.new_rkey & 0xff),
            start_addr: Be64::new(if window.zero_based { 0 } else { memory.addr() }),
            len: Be64::new(u64::from(memory.length())),
            ..MkeyContextSeg::ZERO
        };
        let entries = Entries(core::slice::from_ref(memory));
        self.change(flags, window.rkey, Then(control, context), entries)
    }

    /// Gives a key of this process the memory of `entries`, one behind the other (none: what it has stays), and what `update` says.
    pub fn update_key<'d>(
        self,
        flags: WqeFlags,
        key: u32,
        update: &KeyUpdate,
        entries: &'d [LocalSge],
    ) -> Change<'a, 'm, E, B, Entries<'d>> {
        let entries = Entries(entries);
        let mut mask = umr_mask::FREE | umr_mask::MKEY;
        let mut context = MkeyContextSeg {
            qpn_mkey: Be32::new(0xffff_ff00 | key & 0xff),
            ..MkeyContextSeg::ZERO
        };
        if let Some(access) = update.access {
            mask |= ACCESS_MASK;
            context.access_flags = access.bits();
        }
        if let Some(relaxed) = update.relaxed_ordering {
            mask |=
                UmrCtrlSeg::MASK_RELAXED_ORDERING_WRITE | UmrCtrlSeg::MASK_RELAXED_ORDERING_READ;
            context.reserved1 = on(relaxed.writes, MkeyContextSeg::RELAXED_ORDERING_WRITE);
            context.log_page_size = on(relaxed.reads, MkeyContextSeg::RELAXED_ORDERING_READ);
        }
        let units = entries.units();
        if units > 0 {
            mask |= umr_mask::LEN;
            context.len = Be64::new(entries.bytes());
        }
        let control = UmrCtrlSeg {
            flags: umr_flag::INLINE,
            klm_octowords: Be16::new(u16::try_from(units).unwrap_or(u16::MAX)),
            mkey_mask: Be64::new(mask),
            ..UmrCtrlSeg::ZERO
        };
        self.change(flags, key, Then(control, context), entries)
    }
}
