//! Where a process of the data plane stops, in a test of one thread: built with `--cfg spinwire_asked`, the data plane asks before each
//! write to shared memory whether it happens. [`stepped`] answers: up to a certain write yes; from there on never again, or yes again
//! after somebody else has acted. The writes that are answered with no are those that the dead do not make.

use std::cell::{Cell, RefCell};

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
