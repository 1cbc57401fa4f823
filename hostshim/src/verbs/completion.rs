//! Completion queues, and the promise that none overruns.
//!
//! Each queue pair is promised room for all that may be posted on it, in the queues where that completes. A pair for which there is no more room is
//! not made; so, of pairs whose completions are polled before more is posted than they were made for, no number overruns a queue.

use core::cell::{Cell, RefCell};
use std::os::fd::BorrowedFd;
use std::rc::Rc;

use heapless::VecView;
use spinwire_dataplane::error::Fatal;
use spinwire_dataplane::verbs as seam;
use spinwire_dataplane::verbs::{POLL_EACH_MAX, Wc};

use super::device::Device;
use super::error::{VerbsError, within};
use super::event::{Event, EventKind};
use super::shared::SharedReceives;
use crate::error::Errno;
use crate::raw::verbs::{self as raw, BATCH};

const _: () = assert!(POLL_EACH_MAX <= BATCH, "one call of the library brings them");

/// A completion queue. Shared by reference: `Rc`.
#[derive(Debug)]
pub struct CompletionQueue {
    pub(super) raw: Rc<raw::Completions>,
    trouble: Trouble,
    /// Entries that pairs were promised.
    promised: Cell<u32>,
    /// Shared receives that complete here, by number, and how many pairs bring them.
    shared: RefCell<Vec<(u32, u32)>>,
}

impl AsRef<Self> for CompletionQueue {
    fn as_ref(&self) -> &Self {
        self
    }
}

/// What went wrong with a queue: counted each time, told once.
#[derive(Debug, Default)]
struct Trouble {
    count: Cell<u64>,
    is_untold: Cell<bool>,
}

impl Trouble {
    fn note(&self) {
        if self.count.replace(self.count.get().saturating_add(1)) == 0 {
            self.is_untold.set(true);
        }
    }

    fn take(&self) -> Option<Fatal> {
        self.is_untold.replace(false).then_some(Fatal::QueueError)
    }
}

impl CompletionQueue {
    /// A queue with room for `depth` completions: for all that may be posted on all pairs that use it, together.
    ///
    /// # Errors
    /// [`VerbsError::Limit`], or what the library says.
    pub fn new(device: &Device, depth: u32) -> Result<Rc<Self>, VerbsError> {
        Self::new_by(device, depth, "ibv_create_cq", raw::Completions::make)
    }

    /// The same, for a thread that may sleep until something completes: see [`descriptor`](Self::descriptor). As long as it is not armed that costs nothing.
    ///
    /// # Errors
    /// As of [`new`](Self::new).
    pub fn telling(device: &Device, depth: u32) -> Result<Rc<Self>, VerbsError> {
        Self::new_by(device, depth, "ibv_create_cq", raw::Completions::make_telling)
    }

    /// What can be read from when something has completed since the queue was [armed](Self::arm); `None` of a queue that tells nobody. Of the descriptor itself
    /// nothing is to be read.
    #[must_use]
    pub fn descriptor(&self) -> Option<BorrowedFd<'_>> {
        self.raw.fd()
    }

    /// Forgets what was told so far, and has the next completion told (`ibv_req_notify_cq(3)`). What completed before that is not told: poll once more, and only
    /// then sleep.
    ///
    /// # Errors
    /// What the library says; EOPNOTSUPP of a queue that tells nobody.
    pub fn arm(&self) -> Result<(), VerbsError> {
        self.raw.arm().map_err(|e| VerbsError::os("ibv_req_notify_cq", e))
    }

    /// The same, made by the function of that name.
    pub(crate) fn new_by(
        device: &Device,
        depth: u32,
        operation: &'static str,
        make: fn(&Rc<raw::Context>, u32) -> Result<Rc<raw::Completions>, Errno>,
    ) -> Result<Rc<Self>, VerbsError> {
        let most = u32::try_from(device.attributes()?.max_cqe).unwrap_or(0);
        within("completion queue depth", depth, most)?;
        let raw = make(device.context(), depth).map_err(|e| VerbsError::os(operation, e))?;
        let (promised, shared) = (Cell::new(0), RefCell::default());
        Ok(Rc::new(Self { raw, trouble: Trouble::default(), promised, shared }))
    }

    #[cfg(feature = "mlx5")]
    pub(crate) fn raw(&self) -> &raw::Completions {
        &self.raw
    }

    /// Polls that the library has failed, and events of overruns that it was shown.
    #[must_use]
    pub const fn failures(&self) -> u64 {
        self.trouble.count.get()
    }

    /// Its number: what an [`EventKind::CqError`] is about.
    #[must_use]
    pub fn number(&self) -> u32 {
        self.raw.number()
    }

    /// Entries that are promised to the pairs that use it. What a pair has left here when it is dropped is to be polled before
    /// another one takes its place.
    #[must_use]
    pub const fn promised(&self) -> u32 {
        self.promised.get()
    }

    /// Takes note of an event of its device. Some devices (Soft-RoCE) tell of an overrun in this way only, and of one that is lost nothing completes any more.
    pub fn note(&self, event: Event) {
        let is_own = event.kind == EventKind::CqError && event.about == self.number();
        if is_own || event.kind == EventKind::DeviceFatal {
            self.trouble.note();
        }
    }

    /// Nothing is to be expected of it any more.
    pub(super) fn give_up(&self) {
        self.trouble.note();
    }
}

impl seam::CompletionQueue for CompletionQueue {
    fn depth(&self) -> u32 {
        self.raw.depth()
    }

    #[inline]
    fn poll_cq(&self, out: &mut VecView<Wc>) {
        loop {
            let room = out.capacity().saturating_sub(out.len()).min(BATCH);
            if room == 0 {
                return;
            }
            let count = self.raw.poll(room);
            if count == 0 {
                return;
            }
            self.raw.take(count, |fields| {
                let pushed = out.push(Wc::new(fields));
                debug_assert!(pushed.is_ok(), "no more were asked for than there is room");
            });
            if count < 0 {
                self.trouble.note();
            }
            if usize::try_from(count).unwrap_or(0) < room {
                return;
            }
        }
    }

    #[inline(always)]
    fn poll_each(&self, mut take: impl FnMut(&Wc)) -> usize {
        let count = self.raw.poll(POLL_EACH_MAX);
        if count < 0 {
            self.trouble.note();
        }
        self.raw.take(count, |fields| take(&Wc::new(fields)));
        usize::try_from(count).unwrap_or(0)
    }

    fn take_error(&self) -> Option<Fatal> {
        self.trouble.take()
    }
}

/// Room in a queue that a pair has for as long as it lives.
#[derive(Debug)]
pub(super) struct Promise {
    queue: Rc<CompletionQueue>,
    entries: u32,
    shared: Option<Rc<SharedReceives>>,
}

impl Promise {
    /// Room for `entries`, and for all receives of `shared`: once, however many pairs take from it.
    pub(super) fn of(
        queue: &Rc<CompletionQueue>,
        entries: u32,
        shared: Option<&Rc<SharedReceives>>,
    ) -> Result<Self, VerbsError> {
        use seam::CompletionQueue as _;
        let mut known = queue.shared.borrow_mut();
        let row = shared.and_then(|shared| known.iter().position(|row| row.0 == shared.number()));
        let new = shared.filter(|_| row.is_none()).map_or(0, |shared| shared.depth());
        let sum = queue.promised.get().saturating_add(entries).saturating_add(new);
        let room = queue.depth();
        if sum > room {
            let rule = "send depths + receive depths of all pairs <= completion queue depth";
            return Err(VerbsError::Relation { rule, left: sum.into(), right: room.into() });
        }
        if let Some(shared) = shared {
            match row.and_then(|row| known.get_mut(row)) {
                Some((_, pairs)) => *pairs = pairs.saturating_add(1),
                None => known.push((shared.number(), 1)),
            }
        }
        queue.promised.set(sum);
        Ok(Self { queue: Rc::clone(queue), entries, shared: shared.map(Rc::clone) })
    }

    pub(super) const fn queue(&self) -> &Rc<CompletionQueue> {
        &self.queue
    }
}

impl Drop for Promise {
    fn drop(&mut self) {
        let mut back = self.entries;
        if let Some(shared) = &self.shared {
            let mut known = self.queue.shared.borrow_mut();
            if let Some(row) = known.iter().position(|row| row.0 == shared.number()) {
                match known.get_mut(row) {
                    Some((_, pairs)) if *pairs > 1 => *pairs = pairs.saturating_sub(1),
                    _ => {
                        known.swap_remove(row);
                        back = back.saturating_add(shared.depth());
                    }
                }
            }
        }
        self.queue.promised.set(self.queue.promised.get().saturating_sub(back));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn trouble_is_counted_each_time_and_told_once() {
        let trouble = Trouble::default();
        assert_eq!(trouble.take(), None);
        trouble.note();
        trouble.note();
        assert_eq!((trouble.count.get(), trouble.take()), (2, Some(Fatal::QueueError)));
        trouble.note();
        assert_eq!((trouble.count.get(), trouble.take()), (3, None));
    }
}
