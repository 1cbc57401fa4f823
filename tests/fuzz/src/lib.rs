//! What the fuzz targets share: a reader of the input, and a small segment in ordinary memory.

use spinwire_dataplane::id::Name;
use spinwire_dataplane::raw::line::{Line, word};
use spinwire_dataplane::shm::segment::{Geometry, Identity, Segment};
use spinwire_dataplane::sync::Ordering;

/// Reads the input from the front. Past its end everything is 0, so that every input is a valid one.
#[derive(Debug)]
pub struct Input<'d>(&'d [u8]);

impl<'d> Input<'d> {
    pub fn new(data: &'d [u8]) -> Self {
        Self(data)
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn byte(&mut self) -> u8 {
        let Some((first, rest)) = self.0.split_first() else {
            return 0;
        };
        self.0 = rest;
        *first
    }

    pub fn half(&mut self) -> u16 {
        u16::from_le_bytes([self.byte(), self.byte()])
    }

    pub fn word(&mut self) -> u64 {
        u64::from_le_bytes(std::array::from_fn(|_| self.byte()))
    }

    /// A number below `bound`, which is not 0.
    pub fn below(&mut self, bound: usize) -> usize {
        usize::from(self.half()) % bound
    }

    pub fn bytes(&mut self, count: usize) -> &'d [u8] {
        let (taken, rest) = self.0.split_at(count.min(self.0.len()));
        self.0 = rest;
        taken
    }

    /// A word as a scribbler would choose it: anything, a small number, or the old value with some bits changed.
    pub fn scribble(&mut self, old: u64) -> u64 {
        match self.byte() % 5 {
            0 => self.word(),
            1 => u64::from(self.byte()),
            2 => old ^ (1 << (self.byte() % 64)),
            3 => old.wrapping_add(u64::from(self.byte())).wrapping_sub(8),
            _ => u64::MAX,
        }
    }
}

/// The smallest segment in which everything can happen.
pub const GEOMETRY: Geometry = Geometry {
    process_count: 3,
    endpoint_count: 4,
    lane_count: 3,
    lane_cell_count: 8,
    lane_spill_bytes: 1024,
};

pub fn name(text: &str) -> Name {
    Name::new(text).expect("a valid name")
}

/// Fresh lines, a little more than the segment needs.
pub fn lines() -> Vec<Line> {
    let bytes = GEOMETRY.segment_bytes().expect("a valid geometry");
    let count = usize::try_from(bytes).expect("it fits") / 64 + 3;
    std::iter::repeat_with(Line::zeroed).take(count).collect()
}

pub fn format(lines: &[Line]) -> Segment<'_> {
    let identity = Identity {
        name: name("fuzz"),
        boot_id: [1; 16],
        created_unix_ns: 1,
        pid: 1,
        start_time: 1,
        page_bytes: 4096,
        pid_namespace: 0,
    };
    Segment::format(lines, GEOMETRY, &identity).expect("a fresh segment")
}

/// Overwrites a word of shared memory.
pub fn scribble(lines: &[Line], at: usize, input: &mut Input<'_>) {
    if let Some(word) = word(lines, at) {
        let value = input.scribble(word.load(Ordering::Relaxed));
        word.store(value, Ordering::Relaxed);
    }
}
