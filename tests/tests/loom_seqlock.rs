//! Every interleaving of one writer and one reader of a seqlocked section, and every value that the memory model lets
//! the reader see. Run with `RUSTFLAGS="--cfg loom"`, in release.
#![cfg(loom)]
#![allow(clippy::unwrap_used, reason = "a test stops at the first thing that is not as expected")]

use loom::sync::Arc;
use loom::thread;
use spinwire_dataplane::poll::Section;
use spinwire_dataplane::raw::line::Line;

/// The first and the last word of two lines are written in two rounds; a copy is of one round, and not of an older one than
/// the reader has seen.
#[test]
fn a_copy_is_of_one_writing() {
    loom::model(|| {
        let lines = Arc::new([Line::zeroed(), Line::zeroed()]);
        let writer = {
            let lines = Arc::clone(&lines);
            thread::spawn(move || {
                let section = Section::new(&lines[..]).unwrap();
                for round in 1..=2 {
                    section.write(|words| {
                        words.set(1, round);
                        words.set(15, round);
                    });
                }
            })
        };
        let section = Section::new(&lines[..]).unwrap();
        let mut seen = 0;
        for _ in 0..2 {
            let mut copy = (0, 0);
            if section.read(1, |words| copy = (words.get(1), words.get(15))).is_ok() {
                assert_eq!(copy.0, copy.1, "a mixture of two writings");
                assert!(copy.0 >= seen, "time ran backwards");
                seen = copy.0;
            }
        }
        writer.join().unwrap();
        let mut last = 0;
        section.read(1, |words| last = words.get(15)).unwrap();
        assert_eq!(last, 2);
    });
}

/// A reader that retries gets a copy: a writer that ends leaves the section settled.
#[test]
fn a_reader_that_keeps_trying_gets_its_copy() {
    loom::model(|| {
        let lines = Arc::new([Line::zeroed()]);
        let writer = {
            let lines = Arc::clone(&lines);
            thread::spawn(move || {
                Section::new(&lines[..]).unwrap().write(|words| {
                    words.set(1, 1);
                    words.set(2, 1);
                });
            })
        };
        let section = Section::new(&lines[..]).unwrap();
        let mut copy = (0, 0);
        while section.read(1, |words| copy = (words.get(1), words.get(2))).is_err() {
            thread::yield_now();
        }
        assert_eq!(copy.0, copy.1);
        writer.join().unwrap();
    });
}
