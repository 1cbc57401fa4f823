//! A guard that was given up is gone.

use spinwire_dataplane::pool::ExclusiveGuard;

fn twice(mut guard: ExclusiveGuard<'_>) {
    let _ = guard.detach();
    let _ = guard.copy_from(0, b"too late");
}

fn main() {}
