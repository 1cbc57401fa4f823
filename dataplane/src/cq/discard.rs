//! What a queue pair leaves behind when it goes through the reset state.
//!
//! ```text
//!   ci                                        7 begins anew
//!   | 5 | 7 | 5 | 7 | 7 | invalid ..    -->   | . | . | . | 5 | 5 | invalid ..      those of others move up, in their order
//!                                                           ci
//! ```
//!
//! A queue pair that begins anew has the same number as before, and its work requests are counted from 0 again: completions of its
//! former life that nobody has polled would end new ones. The order of work is that of rdma-core (`mlx5_cq_clean`), which knows nothing of
//! compressed queues. In those, all that is there is written out first, so that each completion is an entry, and then taken out like any other.
//!
//! Invariant: the device has written all entries that are looked at, and writes none of them before the record says that it may.

use super::entry::{Body, Cqe, Done, decode, is_compressed, load};
use super::queue::{Cq, Next, Turn, tail};
use super::{Compression, entry};
use crate::error::{PostError, Retry};
use crate::raw::line::Line;
use crate::raw::mmio::Bus;
use crate::sync::Ordering;

impl<B: Bus> Cq<'_, B> {
    /// Takes out the completions of the queue pair `qpn` that wait here, and hands them to `each`: those of a shared receive queue still name
    /// receives to give back. Says how many there were.
    ///
    /// After the queue pair was put into the reset state, which ends its completions, and before its queues restart. Of a compressed queue, what
    /// waited here in short form, whosever it is, has no [`short_info`](super::Received::short_info) afterwards.
    ///
    /// # Errors
    /// [`Retry::WouldBlock`] within a poll. Nothing was changed.
    pub fn discard(&self, qpn: u32, mut each: impl FnMut(Cqe<'_>)) -> Result<u32, PostError> {
        let next = self.turn.replace(Next::Nothing);
        if next == Next::Nothing {
            return Err(Retry::WouldBlock.into());
        }
        let _turn = Turn(&self.turn, next);
        let first = self.ci.get();
        let after = if next == Next::Compressed {
            self.write_out()
        } else {
            let ready = self.ring().ready(first, self.entries());
            self.wait_for_device();
            first.wrapping_add(ready)
        };
        for at in indices(first, after) {
            if let Some(line) = self.ring().slot(at).filter(|line| self.is_of(line, qpn)) {
                let (body, before) = (Body::Entry(line), self.ring().before(at));
                each(decode(Done { tail: load(line, 7), body, before }));
            }
        }
        let mut to = after;
        for at in indices(first, after).rev() {
            if self.ring().slot(at).is_some_and(|line| !self.is_of(line, qpn)) {
                to = to.wrapping_sub(1);
                if to != at {
                    self.transfer(at, to);
                }
            }
        }
        self.ci.set(to);
        let discarded = to.wrapping_sub(first);
        if discarded > 0 {
            self.bus.to_device();
            self.publish();
        }
        Ok(discarded)
    }

    /// Whether that queue pair is named. What is still in short form makes no sense, and may have anything in place of a number.
    fn is_of(&self, line: &Line, qpn: u32) -> bool {
        let tail = tail(line);
        tail.qpn == qpn && (self.compression == Compression::Off || !is_compressed(tail))
    }

    /// Copies the entry of index `from` to that of `to`, where it is valid in the lap of that one.
    fn transfer(&self, from: u32, to: u32) {
        if let Some((source, target)) = self.ring().before(from).zip(self.ring().before(to)) {
            copy(source, target);
        }
        if let Some((source, target)) = self.ring().slot(from).zip(self.ring().slot(to)) {
            copy(source, target);
            let tail = tail(source);
            let [.., last] = target.words();
            last.store(self.valid_at(tail, to).pack(), Ordering::Relaxed);
        }
    }
}

fn copy(from: &Line, to: &Line) {
    for (index, word) in (0..entry::WORDS).zip(to.words()) {
        word.store(load(from, index), Ordering::Relaxed);
    }
}

/// Free-running indices, of which there are at most as many as a queue has entries.
fn indices(first: u32, after: u32) -> impl DoubleEndedIterator<Item = u32> {
    (0..after.wrapping_sub(first)).map(move |offset| first.wrapping_add(offset))
}
