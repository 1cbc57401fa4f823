//! A raw address becomes a posted range only by an unsafe promise.

use core::ptr::NonNull;

use spinwire_dataplane::raw::loan::Sge;

fn range(bytes: &mut [u8]) -> Sge {
    Sge::from_raw(NonNull::from(bytes).cast(), 1)
}

fn main() {
    drop(range(&mut [0]));
}
