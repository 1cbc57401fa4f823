//! The floor: what these two processors can do at all, with nothing around it.
//!
//! * Round trip: one `AtomicU64` on a line of its own, bounced between two pinned threads that do
//!   nothing but load it. What a bounce takes depends on the line's address (which slice of the
//!   cache answers for it) by half as much again, and no process can choose; so the bounce visits
//!   many lines, a block of trips on each.
//! * Stream: a ring of bare lines, each written once (seven words, then a sequence word) and read
//!   once, with the reader's position sent back every quarter of the ring.
//!
//! * What is done with a buffer: two compare-and-swaps on a line that nobody else touches, which is
//!   what it takes to take and to let go anything that others might have. As a rate, two threads do
//!   it at the same time, each on a line of its own; the slower one counts.
//!
//! Two more round trips are rows, not the floor, because they explain it. With one `spin_loop` hint
//! in the wait loop the bounce can be a third quicker: a core that asks less often for the line
//! leaves it to its writer for longer. And with a line for each direction, as any pair of rings
//! must have it, the trip costs two lines' moves.

use core::array;
use core::hint;
use core::sync::atomic::{AtomicU64, Ordering};

use anyhow::{anyhow, ensure};

use super::{Peer, sockets};
use crate::clock::Clock;
use crate::cpu;
use crate::sample::{Sample, Stream, Trips};
use crate::schedule::Plan;
use crate::work::{Kind, Work};

/// The name of the floor's own row.
pub(crate) const NAME: &str = "bare line";

/// Payload bytes of a line of the stream: the floor of a stream is given in bytes, all of the line
/// counted.
pub(crate) const LINE_BYTES: u32 = 64;

/// Lines that a bounce visits.
const LINES: usize = 16;

/// Steps of 128 bytes from one of them to the next: odd, so that they fall into different slices
/// and sets.
const STRIDE: usize = 51;

/// Trips on one line before the next.
const BLOCK: u64 = 1024;

/// Lines in the ring: 16 KiB, which fits any first-level cache.
const RING_LINES: usize = 256;

/// Trips before the first one that counts, as a part of those that count.
pub(crate) const WARM_UP_PART: u32 = 10;

/// A word alone on its line; 128 bytes, because prefetchers like to fetch lines in pairs.
#[derive(Debug, Default)]
#[repr(align(128))]
struct Line(AtomicU64);

/// Lines to bounce on, far apart in memory.
#[derive(Debug)]
struct Lines(Vec<Line>);

impl Lines {
    fn new() -> Self {
        Self((0..LINES * STRIDE).map(|_| Line::default()).collect())
    }

    /// The lines, over and over.
    fn cycle(&self) -> impl Iterator<Item = &Line> {
        self.0.iter().step_by(STRIDE).cycle()
    }
}

/// A line of the stream: seven words of payload and the sequence word.
#[derive(Debug)]
#[repr(align(64))]
struct Cell {
    payload: [AtomicU64; 7],
    sequence: AtomicU64,
}

/// The name of its row at a work.
pub(crate) fn name_at(work: Work) -> &'static str {
    match work {
        _ if work.is_socket() => sockets::NAME,
        _ if work.is_message() => NAME,
        _ => "bare swaps",
    }
}

/// Measures the floor for a work.
pub(crate) fn measure(work: Work, plan: &Plan) -> anyhow::Result<Sample> {
    match work.kind {
        _ if work.is_socket() => sockets::measure(work, plan),
        Kind::Rtt if !work.is_message() => {
            let laps = cpu::on(plan.cpus.near, || swaps(plan))?;
            Ok(Sample::Rtt(laps.finish_blocks(&plan.clock)))
        }
        Kind::Stream if !work.is_message() => {
            let rate = || {
                let rtt = swaps(plan)?.finish_blocks(&plan.clock);
                Ok(1e9 / rtt.p50_ns.unwrap_or(rtt.mean_ns))
            };
            let (near, far): (anyhow::Result<f64>, anyhow::Result<f64>) =
                plan.cpus.run_pair(rate, rate)?;
            Ok(Sample::Stream(Stream { messages_per_s: near?.min(far?), ..Stream::default() }))
        }
        Kind::Rtt => {
            let lines = Lines::new();
            bounce(plan, &lines, &lines, || {})
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
        work.is_copied() && work.kind == Kind::Rtt && work.size <= LINE_BYTES
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
        let (ping, pong) = (Lines::new(), Lines::new());
        match self {
            Self::Pause => bounce(plan, &ping, &ping, hint::spin_loop),
            Self::TwoLines => bounce(plan, &ping, &pong, || {}),
        }
    }
}

/// Two compare-and-swaps on a line, over and over.
fn swaps(plan: &Plan) -> anyhow::Result<Trips> {
    let line = Line::default();
    Trips::of_blocks(plan.effort.operations(), || {
        let swap = |from, to| {
            hint::black_box(&line).0.compare_exchange(from, to, Ordering::AcqRel, Ordering::Relaxed)
        };
        let both = swap(0, 1).and_then(|_taken| swap(1, 0));
        both.map(drop)
            .map_err(|found| anyhow!("nobody else writes this line, but it holds {found}"))
    })
}

/// Bounces a counter: odd values go out on a line of `pings`, even ones come back on one of `pongs`
/// (which may be the same line).
fn bounce(
    plan: &Plan,
    pings: &Lines,
    pongs: &Lines,
    relax: impl Fn() + Sync,
) -> anyhow::Result<Sample> {
    let wait = |line: &Line, value: u64| {
        while line.0.load(Ordering::Acquire) != value {
            relax();
        }
    };
    let counted = (u64::from(plan.effort.trips(LINE_BYTES)) / BLOCK).max(1);
    // Every line is warmed up once, where there are trips for every line.
    let warm_up = counted.min(LINES as u64);
    let blocks = || (0..warm_up + counted).zip(pings.cycle().zip(pongs.cycle()));
    let near = || {
        let mut laps = Trips::new(usize::try_from(counted * BLOCK)?);
        for (block, (ping, pong)) in blocks() {
            let counts = block >= warm_up;
            laps.start();
            for trip in block * BLOCK..(block + 1) * BLOCK {
                ping.0.store(2 * trip + 1, Ordering::Release);
                wait(pong, 2 * trip + 2);
                if counts {
                    laps.lap();
                }
            }
        }
        anyhow::Ok(laps)
    };
    let far = || {
        for (block, (ping, pong)) in blocks() {
            for trip in block * BLOCK..(block + 1) * BLOCK {
                wait(ping, 2 * trip + 1);
                pong.0.store(2 * trip + 2, Ordering::Release);
            }
        }
    };
    let (laps, ()) = plan.cpus.run_pair(near, far)?;
    Ok(Sample::Rtt(laps?.finish(&plan.clock)))
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
    Ok(Sample::Stream(Stream { messages_per_s: f64::from(lines) / ns * 1e9, ..Stream::default() }))
}

impl Cell {
    fn empty() -> Self {
        Self { payload: array::from_fn(|_| AtomicU64::new(0)), sequence: AtomicU64::new(0) }
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
        self.payload.iter().map(|word| word.load(Ordering::Relaxed)).sum()
    }
}
