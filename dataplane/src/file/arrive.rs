//! Completions into results.
//!
//! Entries become ready in the order of the chain: one that is whole waits for those before it. When the kernel has said its last word of all
//! that was submitted, the first entry that is not whole decides: it is over, or all from it on is submitted again.

use spinwire_layouts::uring::Cqe;
use spinwire_layouts::word::widen;

use super::op::{Op, Part, Phase};
use super::service::{Files, LIST};
use super::{EntryError, EntryKind};
use crate::chain::{ChainEvent, ChainId, ChainOutcome};
use crate::id::{OpTag, WrId};
use crate::uring::Enter;

/// How often in a row something is tried again without any progress.
const IDLE_TRIES_MAX: u32 = 64;

/// Numbers of errno(3) that pass.
mod errno {
    pub(super) const EINTR: i32 = 4;
    pub(super) const EAGAIN: i32 = 11;
    pub(super) const ECANCELED: i32 = 125;
}

/// What becomes of a chain that broke.
enum Verdict {
    /// It goes on.
    Resume,
    /// It is over, by this entry.
    Over(u16, EntryError),
}

impl<'m, E: Enter> Files<'m, E> {
    /// What a completion means; whether it is one of files at all.
    #[inline]
    pub(super) fn arrived(&self, cqe: &Cqe) -> bool {
        let Some((OpTag::File, generation, slot)) = WrId::from_raw(cqe.user_data).parts() else {
            return false;
        };
        let name = WrId::new(OpTag::Chain, generation, slot).as_raw();
        match self.chains.on_cqe(name, cqe.res, cqe.flags) {
            Ok(progress) => {
                let slot = progress.chain.slot();
                if let Some(op) = self.op_at(slot) {
                    let entry = op.base.get().wrapping_add(progress.entry);
                    if let (Some(part), Some(_last_word)) =
                        (self.part(slot, entry), progress.returned)
                    {
                        self.answered(part, (progress.chain, progress.entry));
                    }
                    self.moved((slot, op), progress.chain, progress.event);
                }
            }
            // The table of chains has counted which kind.
            Err(_fits_nothing) => self.count(|c| c.stale = c.stale.wrapping_add(1)),
        }
        true
    }

    /// The kernel's last word about an entry.
    fn answered(&self, part: &Part<'m>, (chain, entry): (ChainId, u16)) {
        let answer = self.chains.result(chain, entry).ok().flatten();
        part.answer.set(answer);
        let moved = answer.and_then(|answer| u32::try_from(answer).ok()).unwrap_or(0);
        let moved = moved.min(part.wanted());
        let done = part.from.get().saturating_add(moved);
        part.done.set(part.done.get().max(done).min(part.length.get()));
        let bytes = widen(moved);
        match part.kind.get() {
            EntryKind::Read => self.count(|c| c.read_bytes = c.read_bytes.wrapping_add(bytes)),
            EntryKind::Write => {
                self.count(|c| c.written_bytes = c.written_bytes.wrapping_add(bytes));
            }
            EntryKind::Sync => {}
        }
    }

    fn moved(&self, (slot, op): (u32, &'m Op), chain: ChainId, event: ChainEvent) {
        let before = op.ready.get();
        while let Some(part) = self.part(slot, op.ready.get())
            && op.ready.get() < op.count.get()
            && part.is_whole()
        {
            op.ready.set(op.ready.get().wrapping_add(1));
        }
        if op.ready.get() != before {
            let _listed_already = self.noted.push_back(LIST, slot);
        }
        if matches!(event, ChainEvent::Complete { .. }) {
            let Ok(outcome) = self.chains.take(chain) else { return };
            op.chain.set(None);
            let _perhaps_to_be_cancelled = self.wanting.unlink(slot);
            self.conclude((slot, op), &outcome);
        } else if op.cancelled.get() {
            // What ran may have been past cancelling, and what was behind it runs now.
            let _listed_already = self.wanting.push_back(LIST, slot);
        }
    }

    /// The last completion of what was submitted.
    fn conclude(&self, (slot, op): (u32, &'m Op), outcome: &ChainOutcome) {
        if op.ready.get() >= op.count.get() {
            op.phase.set(Phase::Ended);
            return;
        }
        let first = op.ready.get();
        let Some(part) = self.part(slot, first) else { return };
        if first != op.base.get() || part.answer.get().is_some_and(|answer| answer > 0) {
            op.idle_tries.set(0);
        }
        match self.judge((first, part), (op, outcome)) {
            Verdict::Resume if op.cancelled.get() => {
                self.finish((slot, op), (first, EntryError::Cancelled));
            }
            Verdict::Resume => {
                self.count(|c| c.resumed = c.resumed.wrapping_add(1));
                self.enqueue(slot, op);
            }
            Verdict::Over(entry, error) => self.finish((slot, op), (entry, error)),
        }
    }

    /// What the first entry that is not whole says of its chain.
    fn judge(
        &self,
        (first, part): (u16, &Part<'m>),
        (op, outcome): (&Op, &ChainOutcome),
    ) -> Verdict {
        let answer = part.answer.get().unwrap_or(0);
        let over = |error| Verdict::Over(first, error);
        let try_again = |why| {
            let tries = op.idle_tries.get().wrapping_add(1);
            op.idle_tries.set(tries);
            if tries > IDLE_TRIES_MAX { over(why) } else { Verdict::Resume }
        };
        match answer.wrapping_neg() {
            errno::ECANCELED if op.cancelled.get() => over(EntryError::Cancelled),
            errno::ECANCELED => {
                match outcome.result.err().and_then(|c| Some((c.entry, c.errno()?))) {
                    None | Some((_, errno::ECANCELED | errno::EINTR | errno::EAGAIN)) => {
                        // Nobody's fault: the chain was cut in two.
                        try_again(EntryError::Errno(errno::ECANCELED))
                    }
                    // An entry behind it was refused, before any was begun.
                    Some((entry, errno)) => {
                        Verdict::Over(op.base.get().wrapping_add(entry), EntryError::Errno(errno))
                    }
                }
            }
            errno @ (errno::EINTR | errno::EAGAIN) => try_again(EntryError::Errno(errno)),
            errno if errno > 0 => over(EntryError::Errno(errno)),
            _ if answer.cast_unsigned() > part.wanted() => over(EntryError::Overrun),
            _ => match part.kind.get() {
                EntryKind::Read if answer == 0 || self.is_past_end(part) => {
                    over(EntryError::EndOfFile)
                }
                EntryKind::Write if answer == 0 => try_again(EntryError::NoProgress),
                EntryKind::Read | EntryKind::Write | EntryKind::Sync => Verdict::Resume,
            },
        }
    }

    /// Whether a read that fell short can only have done so at the end of the file: direct reads end at a multiple of the alignment
    /// everywhere else.
    fn is_past_end(&self, part: &Part<'m>) -> bool {
        let align = self.row_at(part.file.get()).map_or(1, |row| row.shape.get().offset_align);
        !part.done.get().is_multiple_of(align)
    }

    /// Every entry that is not ready has its result: one has failed, the others do not count.
    pub(super) fn finish(&self, (slot, op): (u32, &'m Op), (failed, error): (u16, EntryError)) {
        let of_all = matches!(error, EntryError::Cancelled | EntryError::RingLost);
        for entry in op.ready.get()..op.count.get() {
            let why = if of_all || entry == failed { error } else { EntryError::After(failed) };
            if let Some(part) = self.part(slot, entry) {
                part.result.set(Err(why));
            }
        }
        op.ready.set(op.count.get());
        op.phase.set(Phase::Ended);
        let _listed_already = self.noted.push_back(LIST, slot);
    }
}
