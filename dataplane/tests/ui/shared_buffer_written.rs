//! A guard for reading has nothing that writes.

use spinwire_dataplane::pool::SharedGuard;

fn spoil(mut guard: SharedGuard<'_>) {
    let _ = guard.copy_from(0, b"mine");
    let _ = guard.as_mut_slice::<u8>();
}

fn main() {}
