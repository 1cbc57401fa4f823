//! What a guard shows cannot change while it is looked at.

use spinwire_dataplane::pool::ExclusiveGuard;

fn both(mut guard: ExclusiveGuard<'_>) -> u8 {
    let seen = guard.as_slice::<u8>().unwrap();
    let _ = guard.copy_from(0, b"changed");
    seen[0]
}

fn main() {}
