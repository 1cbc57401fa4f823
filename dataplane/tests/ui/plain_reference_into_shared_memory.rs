//! Shared words are atomics: no plain reference to what a peer may write.

use spinwire_dataplane::raw::line::Line;

fn word(lines: &[Line]) -> &u64 {
    &lines[0].words()[0]
}

fn main() {
    drop(word(&[]));
}
