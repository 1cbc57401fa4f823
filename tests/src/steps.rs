//! Where a process stops: built with `--cfg spinwire_steps`, the data plane asks before each write to shared memory whether it happens.
//!
//! ```text
//!   kill_after(n)     write 1, .. write n | whichever thread is about to do the next one: SIGKILL               of real processes
//!   stepped(n, ..)    write 1, .. write n - 1 | never again, or not before somebody else has acted      of handles in one thread
//! ```
//!
//! Invariant: after the stop no word of that process changes any more; the dead do not make the writes that are answered with no.

use std::cell::{Cell, RefCell};

use spinwire_dataplane::sync::{AtomicU32, Ordering};

/// Writes that are left to this process. Nobody is asked about a word of this size.
static LEFT: AtomicU32 = AtomicU32::new(UNLIMITED);
const UNLIMITED: u32 = u32::MAX;

thread_local! {
    static WRITES: Cell<u32> = const { Cell::new(0) };
    static STOP_AT: Cell<u32> = const { Cell::new(0) };
    static MEANWHILE: RefCell<Option<Box<dyn FnOnce()>>> = const { RefCell::new(None) };
    static IS_DEAD: Cell<bool> = const { Cell::new(false) };
    static IS_ASKED: Cell<bool> = const { Cell::new(false) };
}

/// The data plane asks before each write whether it happens.
#[expect(unsafe_code, reason = "the data plane knows this by its name")]
// SAFETY: declared in `dataplane::raw::step` with this signature, and defined nowhere else.
#[unsafe(no_mangle)]
fn spinwire_step() -> bool {
    if LEFT.load(Ordering::Relaxed) != UNLIMITED {
        count_down();
    }
    if !IS_ASKED.get() {
        return true;
    }
    if IS_DEAD.get() {
        return false;
    }
    WRITES.set(WRITES.get() + 1);
    if WRITES.get() != STOP_AT.get() {
        return true;
    }
    match MEANWHILE.take() {
        Some(meanwhile) => {
            IS_ASKED.set(false);
            meanwhile();
            IS_ASKED.set(true);
            true
        }
        None => {
            IS_DEAD.set(true);
            false
        }
    }
}

/// One write less is left; after the last one this process ends here.
fn count_down() {
    let taken = LEFT.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1));
    if taken.is_err() {
        kill();
    }
}

/// Ends this process as `kill -9` does. Another thread that comes to a write meanwhile ends here, too.
#[expect(unsafe_code, reason = "kill(2)")]
fn kill() -> ! {
    let this = i32::try_from(std::process::id()).unwrap();
    // SAFETY: a number and a signal; no memory is handed over.
    let sent = unsafe { libc::kill(this, libc::SIGKILL) };
    assert_eq!(sent, 0, "{}", std::io::Error::last_os_error());
    #[expect(clippy::infinite_loop, reason = "the signal is on its way")]
    loop {
        core::hint::spin_loop();
    }
}

/// Lets this process write `writes` more words, and kills it before the next one.
pub fn kill_after(writes: u32) {
    assert!(writes < UNLIMITED, "that is no limit");
    LEFT.store(writes, Ordering::SeqCst);
}

/// How many of them are left.
pub fn left() -> u32 {
    LEFT.load(Ordering::SeqCst)
}

/// Does `work`, which stops before its write number `stop_at` (from 1): for ever, or while `meanwhile` is done. Returns what
/// it gave, and how many writes it came to.
pub fn stepped<R>(
    stop_at: u32,
    meanwhile: Option<Box<dyn FnOnce()>>,
    work: impl FnOnce() -> R,
) -> (R, u32) {
    WRITES.set(0);
    STOP_AT.set(stop_at);
    MEANWHILE.set(meanwhile);
    IS_DEAD.set(false);
    IS_ASKED.set(true);
    let result = work();
    IS_ASKED.set(false);
    IS_DEAD.set(false);
    MEANWHILE.set(None);
    (result, WRITES.get())
}

/// Whether the work that goes on is that of a process which has stopped for ever.
pub fn is_dead() -> bool {
    IS_DEAD.get()
}
