//! Copies into and out of shared lines, beside the C library's `memcpy` between the same addresses.

use core::hint::black_box;

use spinwire_dataplane::raw::line;
use spinwire_dataplane::sync::Ordering;

use crate::case::{Case, Entry, fold, fold_below};
use crate::lane::{mark, number};
use crate::memory;

/// The cases.
pub const ENTRIES: &[Entry] = &[
    Entry::new("copy/in/64", || copy_in(64)),
    Entry::new("copy/in/512", || copy_in(512)),
    Entry::new("copy/in/4096", || copy_in(4096)),
    Entry::new("copy/in/65536", || copy_in(65_536)),
    Entry::new("copy/out/64", || copy_out(64)),
    Entry::new("copy/out/512", || copy_out(512)),
    Entry::new("copy/out/4096", || copy_out(4096)),
    Entry::new("copy/out/65536", || copy_out(65_536)),
    Entry::new("copy/memcpy/64", || memcpy(64)).yardstick(),
    Entry::new("copy/memcpy/512", || memcpy(512)).yardstick(),
    Entry::new("copy/memcpy/4096", || memcpy(4096)).yardstick(),
    Entry::new("copy/memcpy/65536", || memcpy(65_536)).yardstick(),
];

/// Bytes into lines. The last line tells that all of them went.
#[must_use]
pub fn copy_in(size: usize) -> Case {
    let (from, to) = (memory::bytes(size), memory::lines(size / 64));
    let rounds = move |rounds| {
        let mut hash = 0;
        for i in 0..rounds {
            mark(&mut from[size - 8..], i);
            assert!(line::copy_in(black_box(to), 0, black_box(&*from)));
            let last = line::word(to, size / 8 - 1).unwrap();
            hash = fold(hash, last.load(Ordering::Relaxed));
        }
        hash
    };
    Case::new(rounds, fold_below)
}

/// Lines into bytes.
#[must_use]
pub fn copy_out(size: usize) -> Case {
    let (from, to) = (memory::lines(size / 64), memory::bytes(size));
    let rounds = move |rounds| {
        let mut hash = 0;
        for i in 0..rounds {
            line::word(from, size / 8 - 1).unwrap().store(i, Ordering::Relaxed);
            assert!(line::copy_out(black_box(from), 0, black_box(&mut *to)));
            hash = fold(hash, number(&to[size - 8..]));
        }
        hash
    };
    Case::new(rounds, fold_below)
}

/// Bytes into bytes.
#[must_use]
pub fn memcpy(size: usize) -> Case {
    let (from, to) = (memory::bytes(size), memory::bytes(size));
    let rounds = move |rounds| {
        let mut hash = 0;
        for i in 0..rounds {
            mark(&mut from[size - 8..], i);
            black_box(&mut *to).copy_from_slice(black_box(&*from));
            hash = fold(hash, number(&to[size - 8..]));
        }
        hash
    };
    Case::new(rounds, fold_below)
}
