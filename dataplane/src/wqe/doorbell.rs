//! The order in which a device hears of new WQEs.
//!
//! ```text
//!   WQE ..  words of the ring
//!   to_device                      the device that sees the record sees the WQEs
//!   record[1] = pi                 send (a receive queue: record[0], and that is all)
//!   wc_start                       the record goes before the register
//!   register half = 8 bytes        the first word of the last control segment
//!     or the blocks of the WQE     BlueFlame: one WQE, which the device then does not have to fetch
//!   flush                          it leaves now, and is not combined with the next one
//!   the other half next time
//! ```
//!
//! The order is that of `post_send_db` of rdma-core (providers/mlx5/qp.c). Invariant: BlueFlame only for a batch of one WQE without
//! fill before it, which lies in one piece and fits into a half.

use core::cell::Cell;

use super::BadQueue;
use crate::raw::line::Line;
use crate::raw::mmio::Bus;

/// When WQEs go by BlueFlame.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum BlueFlame {
    /// Never: 8 bytes always.
    Never,
    /// Those with inline data.
    #[default]
    Inline,
    /// All that fit.
    Always,
}

/// Doorbell registers: one line, or two halves that are used in turn.
#[derive(Debug)]
pub struct Uar<'m> {
    lines: &'m [Line],
    half_lines: usize,
    next: Cell<usize>,
}

impl<'m> Uar<'m> {
    /// The registers in `lines`: one line, whose first word is the doorbell of a device without BlueFlame; or both halves, each as
    /// long as the device says (`mlx5dv_qp.bf.size`).
    ///
    /// # Errors
    /// [`BadQueue::Registers`].
    pub const fn new(lines: &'m [Line]) -> Result<Self, BadQueue> {
        let half_lines = match lines.len() {
            1 => 0,
            2 => 1,
            4 => 2,
            8 => 4,
            lines => return Err(BadQueue::Registers { lines }),
        };
        Ok(Self { lines, half_lines, next: Cell::new(0) })
    }

    /// Whether so many blocks go by BlueFlame.
    #[inline(always)]
    pub(super) const fn takes(&self, blocks: usize) -> bool {
        blocks <= self.half_lines
    }

    fn half(&self) -> &'m [Line] {
        let at = self.next.replace(self.next.get() ^ self.half_lines);
        self.lines.get(at..).unwrap_or_default()
    }

    /// Rings with eight bytes.
    pub(super) fn ring(&self, bus: &impl Bus, word: u64) {
        if let [line, ..] = self.half() {
            let [register, ..] = line.words();
            bus.write_register(register, word);
        }
    }

    /// Rings with the whole WQE.
    pub(super) fn blue_flame(&self, bus: &impl Bus, blocks: &[Line]) {
        for (register, block) in self.half().iter().zip(blocks) {
            bus.copy_block(register, block);
        }
    }
}
