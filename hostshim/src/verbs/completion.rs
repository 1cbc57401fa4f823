//! Completion queues.

use core::cell::Cell;
use std::rc::Rc;

use heapless::VecView;
use spinwire_dataplane::verbs as seam;
use spinwire_dataplane::verbs::Wc;

use super::device::Device;
use super::error::{VerbsError, within};
use crate::raw::verbs::{self as raw, BATCH};

/// A completion queue. Shared by reference: `Rc`.
#[derive(Debug)]
pub struct CompletionQueue {
    pub(super) raw: Rc<raw::Completions>,
    /// Polls that the library has failed.
    failed: Cell<u64>,
}

impl CompletionQueue {
    /// A queue with room for `depth` completions. One that overruns fails all pairs that use it, so `depth` must be at least what may
    /// be posted on all of them together.
    ///
    /// # Errors
    /// [`VerbsError::Limit`], or what the library says.
    pub fn new(device: &Device, depth: u32) -> Result<Rc<Self>, VerbsError> {
        let most = u32::try_from(device.attributes()?.max_cqe).unwrap_or(0);
        within("completion queue depth", depth, most)?;
        let raw = raw::Completions::make(device.context(), depth)
            .map_err(|e| VerbsError::os("ibv_create_cq", e))?;
        Ok(Rc::new(Self { raw, failed: Cell::new(0) }))
    }

    /// Polls that the library has failed: the queue has overrun, or the device is lost. An event says which.
    #[must_use]
    pub const fn failed_polls(&self) -> u64 {
        self.failed.get()
    }
}

impl seam::CompletionQueue for CompletionQueue {
    fn depth(&self) -> u32 {
        self.raw.depth()
    }

    fn poll_cq(&self, out: &mut VecView<Wc>) {
        loop {
            let room = out.capacity().saturating_sub(out.len()).min(BATCH);
            if room == 0 {
                return;
            }
            let count = self.raw.poll(room, |fields| {
                let pushed = out.push(Wc::new(fields));
                debug_assert!(pushed.is_ok(), "no more were asked for than there is room");
            });
            if count < 0 {
                self.failed.set(self.failed.get().wrapping_add(1));
            }
            if usize::try_from(count).unwrap_or(0) < room {
                return;
            }
        }
    }
}
