//! The floors: what the machine itself takes for the same work, without any of our code in between.
//!
//! *Latency*: two processes bounce one bare cache line, each waiting by plain loads and nothing else. *Throughput*: one copies blocks into shared memory, the other copies
//! them out, with one counter each way and nothing else. Both use the memory of a lane that nobody else uses, so that pages
//! and size are those of the real thing.

use core::time::Duration;
use std::time::Instant;

use spinwire_dataplane::raw::line::{self, Line};
use spinwire_dataplane::shm::Segment;
use spinwire_dataplane::shm::directory;
use spinwire_dataplane::shm::lane::LaneMemory;
use spinwire_dataplane::sync::{AtomicU64, Ordering};

use super::limit::Limit;
use super::silence::Silence;
use super::station::GONE;
use crate::report::Failure;

/// How long an end waits for the other one before it gives up.
const PATIENCE: Duration = Duration::from_secs(10);
/// Looks between two glances at the clock.
const LOOKS: u32 = 1 << 16;
/// Small blocks are handed over in batches, as messages are.
const BATCH_BYTES: u64 = 2048;
/// Endpoints of a measurement in shared memory.
const ENDS: usize = 2;
/// In the counter of blocks that are there: no more will come.
const LAST: u64 = 1 << 63;

/// By what else than its messages the end of the other one can be seen.
pub(crate) trait Witness {
    /// Fails where the other end can be seen to be gone. What it has said before may still be on its way.
    fn is_there(&self) -> Result<(), Failure> {
        Ok(())
    }
}

/// The bare thing that messages are compared with: the client's half.
pub(crate) trait Floor: Witness {
    /// As at the start. By the client, before the server is told to begin.
    fn reset(&self);
    /// One bounce of `size` bytes, started by the client. It carries the number of the bounce there and back. False where it was
    /// lost on the way, which only datagrams are.
    fn bounce(&self, number: u64, size: usize) -> Result<bool, Failure>;
    /// Sends `count` blocks, fewer where that takes longer than `limit`, as room is made, and waits until the other end has them. Returns how
    /// many. Datagrams are only sent; the numbers in them begin with `round`.
    fn copy_in(&self, round: u64, block: &[u8], within: (u64, &Limit)) -> Result<u64, Failure>;
}

/// The server's half, where nothing is lost.
pub(crate) trait ServerFloor: Witness {
    /// Whether the client has begun, as far as this end can see: until then what was said last may still have to be brought on its way.
    fn has_begun(&self) -> bool {
        true
    }
    /// The server's half of `count` bounces.
    fn answer(&self, count: u64, size: usize) -> Result<(), Failure>;
    /// Takes `count` blocks, or fewer where the client says so.
    fn copy_out(&self, block: &mut [u8], count: u64) -> Result<(), Failure>;
}

/// Memory that both ends map, and nobody else uses.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LaneFloor<'s> {
    segment: Segment<'s>,
    ping: &'s AtomicU64,
    pong: &'s AtomicU64,
    ring: &'s [Line],
    yields: bool,
}

impl<'s> LaneFloor<'s> {
    /// The last lane of a segment that has more lanes than endpoints.
    pub(crate) fn of(segment: &Segment<'s>, yields: bool) -> Option<Self> {
        let LaneMemory { cells, spill, .. } =
            segment.lane_memory(segment.geometry().lane_count.checked_sub(1)?)?;
        let [first, _, second, ..] = cells else { return None };
        let ([ping, ..], [pong, ..]) = (first.words(), second.words());
        Some(Self { segment: *segment, ping, pong, ring: spill, yields })
    }

    /// Waits until `word` is what is wanted.
    #[inline(always)]
    fn wait(&self, word: &AtomicU64, good: impl Fn(u64) -> bool) -> Result<u64, Failure> {
        let silence = Silence::new();
        loop {
            for _ in 0..LOOKS {
                let value = word.load(Ordering::Acquire);
                if good(value) {
                    return Ok(value);
                }
                if self.yields {
                    std::thread::yield_now();
                }
            }
            if directory::rows(&self.segment).count() < ENDS {
                return Err(GONE.into());
            }
            if silence.at(Instant::now()) > PATIENCE {
                return Err(
                    "floor: the other end stopped answering; is its process still there?".into()
                );
            }
        }
    }

    /// Blocks of `size` bytes that fit into the ring, and how many are handed over at once.
    fn blocks(&self, size: u64) -> (u64, u64) {
        let ring_bytes = u64::try_from(self.ring.len()).unwrap_or(0).wrapping_mul(64);
        let slots = (ring_bytes / size.next_multiple_of(64).max(64)).max(1);
        (slots, (BATCH_BYTES / size.max(1)).clamp(1, slots.div_ceil(4)))
    }

    fn place(size: u64, number: u64, slots: u64) -> usize {
        let slot = number % slots;
        usize::try_from(slot.wrapping_mul(size.next_multiple_of(64))).unwrap_or(usize::MAX)
    }
}

/// Shared memory tells of it by events.
impl Witness for LaneFloor<'_> {}

impl Floor for LaneFloor<'_> {
    fn reset(&self) {
        self.ping.store(0, Ordering::Relaxed);
        self.pong.store(0, Ordering::Release);
    }

    #[inline(always)]
    fn bounce(&self, number: u64, _size: usize) -> Result<bool, Failure> {
        let there = number.wrapping_mul(2).wrapping_add(1);
        self.ping.store(there, Ordering::Release);
        self.wait(self.ping, |value| value == there.wrapping_add(1)).map(|_| true)
    }

    fn copy_in(
        &self,
        _round: u64,
        block: &[u8],
        (count, limit): (u64, &Limit),
    ) -> Result<u64, Failure> {
        let size = u64::try_from(block.len()).unwrap_or(0);
        let (slots, batch) = self.blocks(size);
        let mut taken = 0;
        let mut number = 0;
        while limit.goes_on(number, count) {
            let end = number.saturating_add(batch).min(count);
            if end.saturating_sub(taken) > slots {
                taken = self.wait(self.pong, |t| end.saturating_sub(t) <= slots)?;
            }
            for block_number in number..end {
                if !line::copy_in(self.ring, Self::place(size, block_number, slots), block) {
                    return Err(
                        "floor: the block is longer than the ring; use a smaller --size".into()
                    );
                }
            }
            self.ping.store(end, Ordering::Release);
            number = end;
        }
        if number < count {
            self.ping.store(LAST | number, Ordering::Release);
        }
        self.wait(self.pong, |t| t == number)
    }
}

impl ServerFloor for LaneFloor<'_> {
    fn answer(&self, count: u64, _size: usize) -> Result<(), Failure> {
        for number in 0..count {
            let there = number.wrapping_mul(2).wrapping_add(1);
            self.wait(self.ping, |value| value == there)?;
            self.ping.store(there.wrapping_add(1), Ordering::Release);
        }
        Ok(())
    }

    fn copy_out(&self, block: &mut [u8], mut count: u64) -> Result<(), Failure> {
        let size = u64::try_from(block.len()).unwrap_or(0);
        let (slots, _) = self.blocks(size);
        let mut number = 0;
        let mut told = 0;
        while number < count {
            let ready = self.wait(self.ping, |ready| ready > number)?;
            if ready & LAST != 0 {
                count = ready & !LAST;
            }
            let ready = ready.min(count);
            while number < ready {
                if !line::copy_out(self.ring, Self::place(size, number, slots), block) {
                    return Err(
                        "floor: the block is longer than the ring; use a smaller --size".into()
                    );
                }
                number = number.saturating_add(1);
                // Credit in quarters, as a lane does.
                if number.saturating_sub(told) >= slots.div_ceil(4) {
                    self.pong.store(number, Ordering::Release);
                    told = number;
                }
            }
        }
        self.pong.store(count, Ordering::Release);
        Ok(())
    }
}
