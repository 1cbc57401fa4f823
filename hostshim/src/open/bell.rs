//! The bell of an endpoint in shared memory as a descriptor.
//!
//! A bell is a futex, and `epoll(7)` knows none. So a thread of this process waits at the bell while the owner sleeps elsewhere, and writes to an
//! eventfd when it is rung: [`Relay`] says how the two do not miss each other. While the owner is awake the thread rests. It is started with the first sleep.
//!
//! Invariants: peers see the bell, and nothing of this; the thread never rings and never arms; it looks at the bell at least every
//! [`LOOK_EVERY`], so that a ring that was begun and not made costs that much time and nothing else.

use core::cell::RefCell;
use core::time::Duration;
use std::fs::File;
use std::io::{Read as _, Write as _};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::thread::JoinHandle;

use spinwire_dataplane::poll::{Duty, Relay};
use spinwire_dataplane::shm::bell;
use spinwire_dataplane::sync::{AtomicU64, Ordering};
use spinwire_layouts::shm::BELL_ARMED;

use crate::domain::{Domain, KeptSegment};
use crate::error::{Errno, OsError};
use crate::membership::TOO_MANY_THREADS;
use crate::raw::{futex, syscall};

/// How long the thread waits at the bell before it looks at it by itself: who has taken a bell and was killed before waking is noticed within that.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// An eventfd that is written to when a bell is rung.
#[derive(Debug)]
pub(super) struct BellFd {
    shared: Arc<Shared>,
    thread: RefCell<Option<JoinHandle<()>>>,
    /// In which process the thread runs.
    pid: u32,
}

#[derive(Debug)]
struct Shared {
    relay: Relay,
    told: File,
    segment: KeptSegment,
    /// Whose bell, in the directory of the segment.
    slot: u32,
}

impl Shared {
    fn with_bell<R>(&self, act: impl FnOnce(&AtomicU64) -> R) -> Option<R> {
        self.segment.with(|segment| bell::bell(segment, self.slot).map(act)).flatten()
    }

    /// What the thread does.
    fn attend(&self) {
        loop {
            match self.relay.duty() {
                Duty::End => return,
                Duty::Rest => std::thread::park(),
                Duty::Listen => {
                    let is_armed = |bell: &AtomicU64| bell.load(Ordering::Relaxed) == BELL_ARMED;
                    let wait = |bell: &AtomicU64| {
                        if is_armed(bell) {
                            futex::wait(bell, BELL_ARMED, LOOK_EVERY);
                        }
                        is_armed(bell)
                    };
                    // Without a segment there is nothing to wait for: the owner is told that, too.
                    let is_quiet = self.with_bell(wait) == Some(true);
                    if !is_quiet && self.relay.stop() {
                        self.tell();
                    }
                }
            }
        }
    }

    fn tell(&self) {
        // A count that is full (2^64 - 2) can be read from already.
        let _full = (&self.told).write(&1_u64.to_le_bytes());
    }
}

impl AsFd for BellFd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.shared.told.as_fd()
    }
}

impl BellFd {
    /// For the bell of the endpoint in `slot`.
    pub(super) fn new(domain: &Domain, slot: u32) -> Result<Self, OsError> {
        let told = syscall::eventfd().map_err(|e| OsError::new("eventfd", e))?;
        let (told, segment) = (File::from(told), domain.kept_segment());
        let shared = Shared { relay: Relay::new(), told, segment, slot };
        Ok(Self { shared: Arc::new(shared), thread: RefCell::new(None), pid: std::process::id() })
    }

    /// Forgets what was told so far.
    pub(super) fn clear(&self) {
        // EAGAIN: nothing was told.
        let _nothing = (&self.shared.told).read(&mut [0; 8]);
    }

    /// From now on the descriptor tells of a ring: after [`clear`](Self::clear), and after the bell was armed and nothing was found.
    ///
    /// # Errors
    /// Where the thread cannot be started.
    pub(super) fn listen(&self) -> Result<(), OsError> {
        let has_to_be_roused = self.shared.relay.listen();
        let mut thread = self.thread.borrow_mut();
        if let Some(thread) = &*thread {
            if has_to_be_roused {
                thread.thread().unpark();
            }
            return Ok(());
        }
        let shared = Arc::clone(&self.shared);
        let builder = std::thread::Builder::new().name("spinwire-bell".to_owned());
        let started = syscall::with_signals_blocked(|| builder.spawn(move || shared.attend()))
            .map_err(|e| OsError::new("start the thread at the bell", Errno::from_io(&e)))
            .map_err(|e| e.with_remedy(TOO_MANY_THREADS))?;
        *thread = Some(started);
        Ok(())
    }
}

impl Drop for BellFd {
    /// Ends the thread. The bell must not be armed any more, or it may take [`LOOK_EVERY`].
    fn drop(&mut self) {
        self.shared.relay.end();
        let Some(thread) = self.thread.take() else { return };
        // In the child of a fork(2) there is no such thread to wait for.
        if self.pid != std::process::id() {
            return;
        }
        thread.thread().unpark();
        // All of them: it is not known whether somebody else waits at the word, and a wake-up too many is none.
        let _roused = self.shared.with_bell(futex::wake_all);
        // A panic was printed by the runtime; there is nothing to add.
        let _joined = thread.join();
    }
}
