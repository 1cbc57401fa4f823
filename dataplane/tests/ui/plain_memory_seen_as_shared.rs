//! Mapped memory becomes lines only by an unsafe promise.

use core::ptr::NonNull;

use spinwire_dataplane::raw::line::{Line, lines_from_raw};

fn lines<'s>(base: NonNull<u8>) -> Option<&'s [Line]> {
    lines_from_raw(base, 64)
}

fn main() {
    drop(lines(NonNull::dangling()));
}
