//! Small rings: every short sequence of posts and completions, and long random ones, against an oracle that keeps a list of what is
//! posted and an image of the ring.
//!
//! After each step the whole ring, the indices and the room are compared: what was refused has left no trace, nothing was written
//! outside of the blocks of a WQE, and inline data go on at the first block where the queue was made for that.

use std::collections::VecDeque;

use spinwire_dataplane::error::{PostError, Retry};
use spinwire_dataplane::raw::line::Line;
use spinwire_dataplane::raw::mmio::Device;
use spinwire_dataplane::sync::Ordering;
use spinwire_dataplane::wqe::{Straddle, WqeFlags};
use spinwire_tests::rng::Rng;

use super::{Memory, QPN, SHAPE, Shape, TestQp, bytes_of, open, wipe};

const FULL: PostError = PostError::Retry(Retry::SqFull);

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Step {
    /// So many blocks, signaled or not.
    Post(u16, bool),
    /// The oldest signaled one.
    Complete,
}

/// What is posted.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Posted {
    pub(crate) start: u16,
    pub(crate) blocks: u16,
    pub(crate) entry: Option<u32>,
    pub(crate) is_fill: bool,
}

/// A naive queue.
pub(crate) struct Oracle {
    blocks: u16,
    blocks_max: u16,
    straddle: Straddle,
    pub(crate) pi: u16,
    pub(crate) queue: VecDeque<Posted>,
    image: Vec<u8>,
    serial: u32,
}

impl Oracle {
    fn new(shape: Shape) -> Self {
        Self {
            blocks: u16::try_from(shape.blocks).unwrap(),
            blocks_max: shape.wqe_blocks_max,
            straddle: shape.straddle,
            pi: 0,
            queue: VecDeque::new(),
            image: vec![0xEE; shape.blocks * 64],
            serial: 0,
        }
    }

    fn used(&self) -> u16 {
        self.queue.iter().map(|posted| posted.blocks).sum()
    }

    /// Blocks behind the last signaled one.
    fn trailing(&self) -> u16 {
        let behind = self.queue.iter().rev().take_while(|posted| posted.entry.is_none());
        behind.map(|posted| posted.blocks).sum()
    }

    /// Bytes at a place of the ring that has no end.
    fn put(&mut self, block: u16, offset: usize, bytes: &[u8]) {
        let (start, size) = (usize::from(block % self.blocks) * 64 + offset, self.image.len());
        for (i, byte) in bytes.iter().enumerate() {
            self.image[(start + i) % size] = *byte;
        }
    }

    fn control(&mut self, opcode: u8, units: u8, completion: u8) {
        let ([a, b], [_, q, p, n]) = (self.pi.to_be_bytes(), QPN.to_be_bytes());
        let bytes = [0, a, b, opcode, q, p, n, units, 0, 0, 0, completion, 0, 0, 0, 0];
        self.put(self.pi, 0, &bytes);
    }

    /// Bytes of a WQE that takes so many blocks: as many as there is room for, or few, so that all paddings come.
    fn bytes(&self, blocks: u16) -> Vec<u8> {
        // 63 units are the most that a control segment can say.
        let most = (usize::from(blocks) * 64 - 20).min(988);
        let fewer = usize::try_from(self.serial).unwrap() * 5 % 44;
        let byte = |i: usize| self.serial.to_le_bytes()[0].wrapping_mul(31) ^ i.to_le_bytes()[0];
        (0..most - fewer).map(byte).collect()
    }

    fn post(&mut self, blocks: u16, signaled: bool) -> Result<(), PostError> {
        let left = self.blocks - self.pi % self.blocks;
        let is_filled = blocks > left && self.straddle == Straddle::Fill;
        let all = blocks + if is_filled { left } else { 0 };
        // Behind an unsignaled one the longest signaled one goes, with fill before it where it would pass the end.
        let to_end = self.blocks - self.pi.wrapping_add(all) % self.blocks;
        let is_filled_behind = to_end < self.blocks_max && self.straddle == Straddle::Fill;
        let reserve = self.blocks_max + if is_filled_behind { to_end } else { 0 };
        let too_many = !signaled && self.trailing() + all + reserve > self.blocks;
        if self.used() + all > self.blocks || too_many {
            return Err(FULL);
        }
        if is_filled {
            for _ in 0..left {
                self.control(0, 1, 0);
                self.queue.push_back(Posted {
                    start: self.pi,
                    blocks: 1,
                    entry: None,
                    is_fill: true,
                });
                self.pi = self.pi.wrapping_add(1);
            }
        }
        let bytes = self.bytes(blocks);
        let units = 1 + (bytes.len() + 4).div_ceil(16);
        self.control(0x0a, u8::try_from(units).unwrap(), if signaled { 8 } else { 0 });
        let length = u32::try_from(bytes.len()).unwrap() | 1 << 31;
        let mut inline = length.to_be_bytes().to_vec();
        inline.extend(&bytes);
        inline.resize((units - 1) * 16, 0);
        self.put(self.pi, 16, &inline);
        let entry = signaled.then_some(self.serial);
        self.queue.push_back(Posted { start: self.pi, blocks, entry, is_fill: false });
        self.pi = self.pi.wrapping_add(blocks);
        self.serial += 1;
        Ok(())
    }

    /// The oldest signaled one, and how many unsignaled ones end with it.
    fn complete(&mut self) -> Option<(u16, u32, u16, u16)> {
        let at = self.queue.iter().position(|posted| posted.entry.is_some())?;
        let ended: Vec<_> = self.queue.drain(..=at).collect();
        let last = ended[at];
        let quiet = ended[..at].iter().filter(|posted| !posted.is_fill).count();
        let blocks = ended.iter().map(|posted| posted.blocks).sum();
        Some((last.start, last.entry?, u16::try_from(quiet).unwrap(), blocks))
    }
}

/// A queue beside its oracle.
pub(crate) struct Pair {
    pub(crate) qp: TestQp<Device>,
    memory: Memory,
    pub(crate) oracle: Oracle,
    shape: Shape,
}

impl Pair {
    pub(crate) fn new(shape: Shape) -> Self {
        let (qp, memory) = open(shape, Device);
        Self { qp, memory, oracle: Oracle::new(shape), shape }
    }

    /// As it was in the beginning, `start` blocks on.
    fn begin(&mut self, start: u16) {
        while self.qp.sq().flush().is_some() {}
        self.qp.sq().restart().unwrap();
        wipe(self.memory.sq);
        self.oracle = Oracle::new(self.shape);
        for _ in 0..start {
            self.step(Step::Post(1, true));
            self.step(Step::Complete);
        }
    }

    /// On to another index, by NOPs that the oracle does not see.
    pub(crate) fn advance_to(&mut self, index: u16) {
        while self.qp.sq().tracker().pi() != index {
            let at = self.qp.sq().tracker().pi();
            self.qp.with_sq_wqe(|wqe| wqe.nop(WqeFlags::NONE).finish_signaled(0)).unwrap();
            self.qp.sq().complete(at).unwrap();
        }
        self.oracle.pi = index;
        self.oracle.image = bytes_of(self.memory.sq);
    }

    /// Builds the WQE that the oracle would have next.
    pub(crate) fn post(&self, blocks: u16, signaled: bool) -> Result<(), PostError> {
        let (bytes, serial) = (self.oracle.bytes(blocks), self.oracle.serial);
        self.qp.with_sq_wqe(|wqe| {
            let wqe = wqe.send(WqeFlags::NONE).inline(&bytes);
            if signaled { wqe.finish_signaled(serial) } else { wqe.finish_unsignaled() }
        })
    }

    pub(crate) fn step(&mut self, step: Step) {
        match step {
            Step::Post(blocks, signaled) => {
                let posted = self.post(blocks, signaled);
                assert_eq!(posted, self.oracle.post(blocks, signaled), "{step:?}");
            }
            Step::Complete => {
                if let Some((start, entry, unsignaled, blocks)) = self.oracle.complete() {
                    let done = self.qp.sq().complete(start).unwrap();
                    let seen = (done.entry, done.unsignaled, done.blocks);
                    assert_eq!(seen, (entry, unsignaled, blocks));
                }
            }
        }
        self.check(step);
    }

    /// Ring, indices and room are those of the oracle.
    pub(crate) fn check(&self, step: impl core::fmt::Debug) {
        let sq = self.qp.sq();
        assert_eq!(sq.tracker().pi(), self.oracle.pi);
        assert_eq!(sq.tracker().free(), self.oracle.blocks - self.oracle.used());
        let words = self.memory.sq.iter().flat_map(Line::words);
        let (image, _rest) = self.oracle.image.as_chunks::<8>();
        let same = words
            .zip(image)
            .all(|(word, bytes)| word.load(Ordering::Relaxed) == u64::from_le_bytes(*bytes));
        assert!(same, "the ring differs after {step:?}");
    }

    /// Whatever was posted: once everything that was signaled is done, the longest signaled one fits.
    pub(crate) fn is_never_stuck(&mut self) {
        while self.oracle.queue.iter().any(|posted| posted.entry.is_some()) {
            self.step(Step::Complete);
        }
        let before = self.oracle.serial;
        self.step(Step::Post(self.shape.wqe_blocks_max, true));
        assert_eq!(self.oracle.serial, before + 1, "a queue full of unsignaled ones");
    }
}

fn steps(blocks_max: u16) -> Vec<Step> {
    let posts = (1..=blocks_max).flat_map(|n| [Step::Post(n, true), Step::Post(n, false)]);
    posts.chain([Step::Complete]).collect()
}

/// Every sequence of `length` steps from every block of the ring. Returns how many.
fn every_sequence(shape: Shape, length: u32) -> usize {
    let (mut pair, steps) = (Pair::new(shape), steps(shape.wqe_blocks_max));
    let count = steps.len().pow(length);
    let mut seen = 0;
    for start in 0..u16::try_from(shape.blocks).unwrap() {
        for number in 0..count {
            pair.begin(start);
            let mut rest = number;
            for _ in 0..length {
                pair.step(steps[rest % steps.len()]);
                rest /= steps.len();
            }
            pair.is_never_stuck();
            seen += 1;
        }
    }
    seen
}

/// Longer where more time is given: `SPINWIRE_WQE_STEPS`.
fn more() -> u32 {
    std::env::var("SPINWIRE_WQE_STEPS").ok().and_then(|n| n.parse().ok()).unwrap_or(0)
}

#[test]
fn every_short_sequence_does_what_the_oracle_does() {
    let mut seen = 0;
    for straddle in [Straddle::Fill, Straddle::Wrap] {
        let shape = Shape { straddle, ..SHAPE };
        seen += every_sequence(Shape { blocks: 1, wqe_blocks_max: 1, ..shape }, 6 + more());
        seen += every_sequence(Shape { blocks: 2, wqe_blocks_max: 1, ..shape }, 6 + more());
        seen += every_sequence(Shape { blocks: 4, wqe_blocks_max: 2, ..shape }, 5 + more());
        seen += every_sequence(Shape { blocks: 8, wqe_blocks_max: 4, ..shape }, 3 + more());
        seen += every_sequence(Shape { blocks: 8, wqe_blocks_max: 3, ..shape }, 4 + more());
    }
    println!("{seen} sequences");
}

/// Long ones, over the end of the 16-bit indices.
#[test]
fn long_random_sequences_do_what_the_oracle_does() {
    let mut rng = Rng::new(5);
    for straddle in [Straddle::Fill, Straddle::Wrap] {
        for (blocks, wqe_blocks_max) in [(2, 1), (8, 4), (16, 4), (32, 16)] {
            let shape = Shape { straddle, blocks, wqe_blocks_max, ..SHAPE };
            let mut pair = Pair::new(shape);
            let steps = steps(wqe_blocks_max);
            pair.advance_to(u16::MAX - 1000);
            for _ in 0..10_000_u32 << (2 * more().min(8)) {
                let step =
                    if rng.index(3) == 0 { Step::Complete } else { steps[rng.index(steps.len())] };
                pair.step(step);
            }
            assert!(pair.oracle.pi < u16::MAX - 1000, "the end of the indices was not passed");
            pair.is_never_stuck();
        }
    }
}
