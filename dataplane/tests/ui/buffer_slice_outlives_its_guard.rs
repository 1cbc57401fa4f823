//! The bytes of a buffer are there as long as the guard.

use spinwire_dataplane::pool::SharedGuard;

fn keep<'p>(guard: SharedGuard<'p>) -> &'p [u8] {
    guard.as_slice::<u8>().unwrap()
}

fn main() {}
