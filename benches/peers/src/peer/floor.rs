//! The floor: what these two processors can do at all, with nothing around it.
//!
//! * Round trip: one `AtomicU64` on a line of its own, bounced between two pinned threads that do nothing but load it.
//! * Stream: a ring of bare lines, each written once (seven words, then a sequence word) and read once, with the
//!   reader's position sent back every quarter of the ring.
//!
//! Two more round trips are rows, not the floor, because they explain it. With one `spin_loop` hint in the wait loop
//! the bounce can be a third quicker: a core that asks less often for the line leaves it to its writer for longer.
//! And with a line for each direction, as any pair of rings must have it, the trip costs two lines' moves.

use core::array;
use core::hint;
use core::sync::atomic::{AtomicU64, Ordering};

use anyhow::ensure;

use super::Peer;
use crate::clock::Clock;
use crate::sample::{Sample, Stream, Trips};
use crate::schedule::Plan;
use crate::work::{Kind, Work};

/// The name of the floor's own row.
pub(crate) const NAME: &str = "bare line";

/// Payload bytes of a line of the stream: the floor of a stream is given in bytes, all of the line counted.
pub(crate) const LINE_BYTES: u32 = 64;

/// Lines in the ring: 16 KiB, which fits any first-level cache.
const RING_LINES: usize = 256;

/// Trips before the first one that counts, as a part of those that count.
pub(crate) const WARM_UP_PART: u32 = 10;

/// A word alone on its line; 128 bytes, because prefetchers like to fetch lines in pairs.
#[derive(Debug, Default)]
#[repr(align(128))]
struct Line(AtomicU64);

/// A line of the stream: seven words of payload and the sequence word.
#[derive(Debug)]
#[repr(align(64))]
struct Cell {
    payload: [AtomicU64; 7],
    sequence: AtomicU64,
}

/// Measures the floor for a kind of work.
pub(crate) fn measure(kind: Kind, plan: &Plan) -> anyhow::Result<Sample> {
    match kind {
        Kind::Rtt => {
            let line = Line::default();
            bounce(plan, &line, &line, || {})
        }
        Kind::Stream => stream(plan),
    }
}

/// A bounce that is not the floor, but explains it.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Reference {
    /// One line, with a `spin_loop` hint in the wait loop.
    Pause,
    /// A line for each direction.
    TwoLines,
}

impl Peer for Reference {
    fn name(&self) -> &'static str {
        match self {
            Self::Pause => "bare line, pause",
            Self::TwoLines => "two bare lines",
        }
    }

    fn word(&self) -> &'static str {
        "floor"
    }

    fn measures(&self, work: Work) -> bool {
        work.kind == Kind::Rtt && work.size <= LINE_BYTES
    }

    fn rival(&self) -> Option<&'static str> {
        None
    }

    fn probe(&self, _plan: &Plan) -> Result<String, String> {
        Ok(match self {
            Self::Pause => "one line, a spin_loop hint in the wait loop".to_owned(),
            Self::TwoLines => "a line for each direction, plain loads".to_owned(),
        })
    }

    fn measure(&self, _work: Work, plan: &Plan) -> anyhow::Result<Sample> {
        let (ping, pong) = (Line::default(), Line::default());
        match self {
            Self::Pause => bounce(plan, &ping, &ping, hint::spin_loop),
            Self::TwoLines => bounce(plan, &ping, &pong, || {}),
        }
    }
}

/// Bounces a counter: odd values go out on `ping`, even ones come back on `pong` (which may be the same line).
fn bounce(
    plan: &Plan,
    ping: &Line,
    pong: &Line,
    relax: impl Fn() + Sync,
) -> anyhow::Result<Sample> {
    let wait = |line: &Line, value: u64| {
        while line.0.load(Ordering::Acquire) != value {
            relax();
        }
    };
    let trips = plan.effort.trips(LINE_BYTES);
    let warm_up = trips / WARM_UP_PART;
    let total = u64::from(trips + warm_up);
    let near = || {
        let mut laps = Trips::new(trips as usize);
        for trip in 0..total {
            if trip == u64::from(warm_up) {
                laps.start();
            }
            ping.0.store(2 * trip + 1, Ordering::Release);
            wait(pong, 2 * trip + 2);
            if trip >= u64::from(warm_up) {
                laps.lap();
            }
        }
        laps
    };
    let far = || {
        for trip in 0..total {
            wait(ping, 2 * trip + 1);
            pong.0.store(2 * trip + 2, Ordering::Release);
        }
    };
    let (laps, ()) = plan.cpus.run_pair(near, far)?;
    Ok(Sample::Rtt(laps.finish(&plan.clock)))
}

/// Streams lines one way; the rate is of lines, taken where they are read.
fn stream(plan: &Plan) -> anyhow::Result<Sample> {
    let ring: Vec<Cell> = (0..RING_LINES).map(|_| Cell::empty()).collect();
    let credit = Line::default();
    let lines = plan.effort.messages(LINE_BYTES);
    let warm_up = lines / WARM_UP_PART;
    let total = u64::from(lines + warm_up);
    let near = || {
        let mut read = 0;
        for (line, cell) in (1..=total).zip(ring.iter().cycle()) {
            while line - read > RING_LINES as u64 {
                read = credit.0.load(Ordering::Acquire);
            }
            cell.write(line);
        }
    };
    let far = || {
        let mut wrong = 0_u64;
        let mut started = Clock::ticks();
        for (line, cell) in (1..=total).zip(ring.iter().cycle()) {
            wrong += u64::from(cell.read(line) != line * 7);
            if line % (RING_LINES as u64 / 4) == 0 {
                credit.0.store(line, Ordering::Release);
            }
            if line == u64::from(warm_up) {
                started = Clock::ticks();
            }
        }
        (Clock::ticks().wrapping_sub(started), wrong)
    };
    let ((), (ticks, wrong)) = plan.cpus.run_pair(near, far)?;
    ensure!(wrong == 0, "{wrong} lines of the bare stream were torn");
    let ns = plan.clock.ns(ticks as f64);
    Ok(Sample::Stream(Stream {
        messages_per_s: f64::from(lines) / ns * 1e9,
    }))
}

impl Cell {
    fn empty() -> Self {
        Self {
            payload: array::from_fn(|_| AtomicU64::new(0)),
            sequence: AtomicU64::new(0),
        }
    }

    #[inline]
    fn write(&self, line: u64) {
        for word in &self.payload {
            word.store(line, Ordering::Relaxed);
        }
        self.sequence.store(line, Ordering::Release);
    }

    /// Waits for `line` and returns the sum of its payload.
    #[inline]
    fn read(&self, line: u64) -> u64 {
        while self.sequence.load(Ordering::Acquire) != line {}
        self.payload
            .iter()
            .map(|word| word.load(Ordering::Relaxed))
            .sum()
    }
}
