//! A send queue: room, fill, fences, doorbell.
//!
//! ```text
//!   stage     room? -> tracker.post -> words of the WQE                           nobody sees them
//!   at the end of the ring   Fill: NOPs of one block each up to the end, then the WQE at the first block
//!                            Wrap: the WQE in two pieces
//!   ring_doorbell            all that is staged, by one doorbell
//! ```
//!
//! Fill is as many NOPs as there are blocks, each with a control segment of its own, as Linux does it in its Ethernet driver: so no
//! block that the device walks over is left as a former WQE wrote it, and an error may name any of them.
//!
//! Invariant: what is refused was not written, and fill is staged together with the WQE behind it or not at all.

use core::cell::Cell;
use core::fmt;

use spinwire_layouts::endian::Be32;
use spinwire_layouts::mlx5::{CtrlSeg, DS_MAX, fm_ce_se, op, words};
use spinwire_layouts::word::{high, to_usize, widen};

use super::BadQueue;
use super::borrow::{BorrowFlag, Builds};
use super::builder::Head;
use super::doorbell::{BlueFlame, Uar};
use super::ring::{Run, Sink, Straddle, Wrap};
use super::segment::Part;
use crate::error::{Misuse, PostError, Retry};
use crate::raw::line::Line;
use crate::raw::mmio::{Bus, DoorbellRecord};
use crate::raw::place::Bump;
use crate::sync::Ordering;
use crate::tracker::{Completed, Failed, FailedBy, Flushed, Ordered, OrderedConfig, Stale};

/// What a send queue is like.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SendConfig {
    /// Basic blocks of the longest WQE, 1 to 16, and at most half of the ring, rounded up. Inline data of n bytes in a SEND take
    /// `(20 + n) / 64` of them, rounded up.
    pub wqe_blocks_max: u16,
    /// What becomes of a WQE that would go past the end.
    pub straddle: Straddle,
    /// When WQEs go by BlueFlame.
    pub blue_flame: BlueFlame,
}

impl SendConfig {
    /// WQEs of up to 256 bytes, fill, BlueFlame for those with inline data.
    pub const DEFAULT: Self =
        Self { wqe_blocks_max: 4, straddle: Straddle::Fill, blue_flame: BlueFlame::Inline };
}

impl Default for SendConfig {
    fn default() -> Self {
        Self::DEFAULT
    }
}

/// Where a send queue lies.
#[derive(Clone, Copy, Debug)]
pub struct SendMemory<'m> {
    /// Its blocks: a power of two.
    pub ring: &'m [Line],
    /// Its doorbell record.
    pub record: DoorbellRecord<'m>,
    /// Its doorbell registers: see [`Uar::new`].
    pub uar: &'m [Line],
}

/// A send queue. One thread.
pub struct SendQueue<'m, E: Copy, B> {
    ring: &'m [Line],
    tracker: Ordered<'m, E>,
    record: DoorbellRecord<'m>,
    uar: Uar<'m>,
    bus: B,
    qpn: u32,
    units_max: u32,
    config: SendConfig,
    /// The first word of every control segment, as far as it is the same in all.
    control: u64,
    /// What the next WQE waits for, as it stands in the second word of its control segment.
    fence: Cell<u64>,
    /// Where the WQE begins that was staged last.
    last: Cell<u16>,
    /// WQEs since the last doorbell in the low half, and in the high half how many of them have inline data.
    staged: Cell<u32>,
    /// Whether fill is among them.
    has_fill: Cell<bool>,
    flag: BorrowFlag,
}

/// In `staged`: one WQE, one with inline data.
const ONE: u32 = 1;
const ONE_INLINE: u32 = 1 << 16 | 1;

/// Units of 16 bytes in a block.
const BLOCK_UNITS: u32 = 4;

impl<'m, E: Copy, B: Bus> SendQueue<'m, E, B> {
    /// Places the tracker of an empty queue at index 0, as it is after the reset state. It is of the queue pair `qpn`, which `builds`
    /// connected WQEs or datagrams.
    ///
    /// # Errors
    /// [`BadQueue`].
    pub fn place(
        bump: &Bump<'m>,
        (qpn, builds, config): (u32, Builds, SendConfig),
        memory: SendMemory<'m>,
        bus: B,
    ) -> Result<Self, BadQueue> {
        let SendMemory { ring, record, uar } = memory;
        let lines = ring.len();
        let rows = u16::try_from(lines).map_err(|_many| BadQueue::Ring { lines })?;
        if !rows.is_power_of_two() {
            return Err(BadQueue::Ring { lines });
        }
        let SendConfig { wqe_blocks_max, .. } = config;
        if !(1..=16).contains(&wqe_blocks_max) {
            return Err(BadQueue::Longest { wqe_blocks_max });
        }
        let tracker = Ordered::place(bump, OrderedConfig { rows, wqe_blocks_max })?;
        Ok(Self {
            ring,
            tracker: match config.straddle {
                Straddle::Fill => tracker,
                Straddle::Wrap => tracker.without_fill(),
            },
            record,
            uar: Uar::new(uar)?,
            bus,
            qpn: qpn & 0x00ff_ffff,
            units_max: u32::from(wqe_blocks_max).wrapping_mul(BLOCK_UNITS).min(DS_MAX),
            config,
            control: first_word(CtrlSeg::new((0, 0, 0), qpn, 0)),
            fence: Cell::new(0),
            last: Cell::new(0),
            staged: Cell::new(0),
            has_fill: Cell::new(false),
            flag: BorrowFlag::new(builds),
        })
    }

    /// Number of the queue pair.
    #[must_use]
    #[inline(always)]
    pub const fn qpn(&self) -> u32 {
        self.qpn
    }

    /// The tracker: room, indices.
    #[must_use]
    #[inline(always)]
    pub const fn tracker(&self) -> &Ordered<'m, E> {
        &self.tracker
    }

    /// How it reaches the device.
    #[must_use]
    pub const fn bus(&self) -> &B {
        &self.bus
    }

    /// The flag of its builders.
    #[must_use]
    #[inline(always)]
    pub const fn flag(&self) -> &BorrowFlag {
        &self.flag
    }

    /// Index of the first block of the WQE that was staged last.
    #[must_use]
    #[inline(always)]
    pub const fn newest(&self) -> u16 {
        self.last.get()
    }

    /// Blocks of its longest WQE.
    #[must_use]
    pub const fn wqe_blocks_max(&self) -> u16 {
        self.config.wqe_blocks_max
    }

    /// WQEs that no doorbell has published.
    #[must_use]
    #[inline]
    pub const fn staged(&self) -> u16 {
        let [a, b, _, _] = self.staged.get().to_le_bytes();
        u16::from_le_bytes([a, b])
    }

    /// [`Ordered::complete`].
    ///
    /// # Errors
    /// [`Stale`].
    #[inline(always)]
    pub fn complete(&self, wqe_counter: u16) -> Result<Completed<E>, Stale> {
        self.tracker.complete(wqe_counter)
    }

    /// [`Ordered::fail`].
    ///
    /// # Errors
    /// [`Stale`].
    pub fn fail(&self, wqe_counter: u16, by: FailedBy) -> Result<Failed<E>, Stale> {
        self.tracker.fail(wqe_counter, by)
    }

    /// [`Ordered::flush`]. What was staged and not published is ended, too.
    pub fn flush(&self) -> Option<Flushed<E>> {
        self.staged.set(0);
        self.has_fill.set(false);
        self.tracker.flush()
    }

    /// Begins anew at index 0, after the queue pair went through the reset state, all was flushed, and what the completion queue still had of it
    /// was taken out ([`Cq::discard`](crate::cq::Cq::discard)).
    ///
    /// # Errors
    /// [`Retry::SqFull`] where something is still under way, [`Retry::WouldBlock`] where somebody builds.
    pub fn restart(&self) -> Result<(), Retry> {
        let _guard = self.flag.try_borrow_any()?;
        self.tracker.restart()?;
        self.fence.set(0);
        self.staged.set(0);
        self.has_fill.set(false);
        self.bus.store_record(self.record.send(), Be32::new(0));
        Ok(())
    }

    /// Stages a WQE of `parts`: signaled where there is an entry.
    #[inline(always)]
    pub(super) fn stage<P: Part>(
        &self,
        head: Head,
        parts: P,
        entry: Option<E>,
    ) -> Result<(), PostError> {
        let units = parts.units().saturating_add(1);
        if units > BLOCK_UNITS && units > self.units_max {
            return Err(Misuse::WqeTooLong.into());
        }
        let blocks = units.div_ceil(BLOCK_UNITS);
        let start = self.tracker.pi();
        let at = self.place_of(start);
        let Some(run) = self.ring.get(at..at.wrapping_add(to_usize(widen(blocks)))) else {
            return self.stage_at_end(head, parts, entry);
        };
        self.tracker.post_at((start, at), narrow(blocks), entry)?;
        self.write((head, entry.is_some()), start, &parts, &mut Run::new(run));
        Ok(())
    }

    /// There are too few blocks before the end of the ring.
    #[cold]
    #[inline(never)]
    fn stage_at_end<P: Part>(
        &self,
        head: Head,
        parts: P,
        entry: Option<E>,
    ) -> Result<(), PostError> {
        let blocks = narrow(parts.units().saturating_add(1).div_ceil(BLOCK_UNITS));
        let signaled = entry.is_some();
        let (before, _) = self.ring.split_at_checked(self.place_of(self.tracker.pi())).unzip();
        let before = before.unwrap_or_default();
        let (start, after) = (self.tracker.pi(), self.ring.get(before.len()..).unwrap_or_default());
        if self.config.straddle == Straddle::Wrap {
            self.tracker.post(blocks, entry)?;
            self.write((head, signaled), start, &parts, &mut Wrap::new(after, before));
            return Ok(());
        }
        let fill = narrow(crate::table::count(after.len()));
        if signaled {
            self.tracker.room_signaled(fill.saturating_add(blocks))?;
        } else {
            self.tracker.room_unsignaled(fill.saturating_add(blocks))?;
        }
        for block in after {
            let index = self.tracker.pi();
            self.tracker.fill(1)?;
            let nop = CtrlSeg::new((0, index, op::NOP), self.qpn, 1);
            let mut to = Run::new(core::slice::from_ref(block));
            for word in words::<_, 2>(&nop) {
                to.put(word);
            }
            self.has_fill.set(true);
        }
        let start = self.tracker.pi();
        self.tracker.post(blocks, entry)?;
        self.write((head, signaled), start, &parts, &mut Run::new(before));
        Ok(())
    }

    #[inline(always)]
    fn write<P: Part>(
        &self,
        (head, signaled): (Head, bool),
        start: u16,
        parts: &P,
        to: &mut impl Sink,
    ) {
        let [units, ..] = parts.units().wrapping_add(1).to_le_bytes();
        // The number of the queue pair is in every control segment, and put into place once.
        let mut control = CtrlSeg::new((head.opmod, start, head.opcode), 0, units);
        let flags = head.flags.bits();
        let fence = if flags & fm_ce_se::FENCE == 0 { self.fence.get() } else { 0 };
        control.fm_ce_se = flags | if signaled { fm_ce_se::CQ_UPDATE } else { 0 };
        control.imm = Be32::new(head.imm);
        let [first, second] = words::<_, 2>(&control);
        to.put(first | self.control);
        to.put(second | fence);
        parts.put(to);
        self.fence.set(if head.changes_keys { small_fence() } else { 0 });
        self.last.set(start);
        let one = if P::IS_INLINE { ONE_INLINE } else { ONE };
        self.staged.set(self.staged.get().wrapping_add(one));
    }

    /// Publishes all that is staged by one doorbell, and returns how many WQEs that were. Fill is not counted.
    #[inline]
    pub fn ring_doorbell(&self) -> u16 {
        let (count, staged) = (self.staged(), self.staged.replace(0));
        if staged == 0 {
            return 0;
        }
        let has_fill = self.has_fill.replace(false);
        self.bus.to_device();
        self.bus.store_record(self.record.send(), Be32::new(u32::from(self.tracker.pi())));
        self.bus.wc_start();
        let wqe = self.ring.get(self.place_of(self.last.get())..).unwrap_or_default();
        if let [first, ..] = wqe {
            let [word, ..] = first.words();
            let word = word.load(Ordering::Relaxed);
            let units = high(word).to_be() & DS_MAX;
            let blocks = to_usize(widen(units.div_ceil(BLOCK_UNITS)));
            let is_wanted = match self.config.blue_flame {
                BlueFlame::Never => false,
                BlueFlame::Inline => staged == ONE_INLINE,
                BlueFlame::Always => true,
            };
            let is_alone = count == 1 && !has_fill && units > 1;
            match wqe.get(..blocks) {
                Some(blocks) if is_wanted && is_alone && self.uar.takes(blocks.len()) => {
                    self.uar.blue_flame(&self.bus, blocks);
                }
                _ => self.uar.ring(&self.bus, word),
            }
        }
        self.bus.flush();
        count
    }

    #[inline(always)]
    fn place_of(&self, index: u16) -> usize {
        usize::from(index) & self.ring.len().wrapping_sub(1)
    }
}

fn first_word(control: CtrlSeg) -> u64 {
    let [first, _second] = words::<_, 2>(&control);
    first
}

/// What makes a WQE wait for changes of keys before it, in its second word.
fn small_fence() -> u64 {
    let control = CtrlSeg { fm_ce_se: fm_ce_se::INITIATOR_SMALL_FENCE, ..CtrlSeg::ZERO };
    let [_first, second] = words::<_, 2>(&control);
    second
}

/// A number of blocks: at most 32768.
#[inline(always)]
const fn narrow(blocks: u32) -> u16 {
    let [a, b, _, _] = blocks.to_le_bytes();
    u16::from_le_bytes([a, b])
}

impl<E: Copy, B> fmt::Debug for SendQueue<'_, E, B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SendQueue")
            .field("qpn", &self.qpn)
            .field("tracker", &self.tracker)
            .field("staged", &self.staged.get())
            .finish_non_exhaustive()
    }
}
