//! A pinned service with timers, a stats page and a seal: nothing is allocated once it turns.
//!
//! `cargo run --release --example timer_service 600` runs for ten minutes (two seconds if nothing is said); meanwhile,
//! elsewhere: `spinwire top`.
#![allow(clippy::arithmetic_side_effects, reason = "an example")]
#![allow(clippy::large_stack_frames, reason = "an example")]
#![allow(clippy::print_stdout, reason = "an example")]

use std::{env, thread};

use spinwire_dataplane::id::Name;
use spinwire_dataplane::poll::{Budget, Counter, HistogramId, HistogramSnapshot};
use spinwire_dataplane::table::Timers;
use spinwire_dataplane::time::Nanos;
use spinwire_hostshim::affinity;
use spinwire_hostshim::alloc_gate::CountingAlloc;
use spinwire_hostshim::error::InWords;
use spinwire_hostshim::plane::{Plane, PlaneConfig, StatsPage};

/// Aborts the process if the sealed thread allocates: the proof that the loop below does not.
#[global_allocator]
static HEAP: CountingAlloc = CountingAlloc::new();

/// What a timer stands for.
#[derive(Clone, Copy, Debug)]
enum Job {
    Sample,
    Report,
    Stop,
}

fn main() -> Result<(), InWords> {
    let seconds = env::args().nth(1).map_or(Ok(2), |text| text.parse())?;

    // Set-up: here one may allocate, block, and fail.
    let cpu = affinity::allowed_cpus()?.iter().last();
    cpu.map_or(Ok(()), affinity::pin)?;
    let mut memory = Plane::memory(1 << 20)?;
    let bump = Plane::arena(&mut memory);
    let name = Name::new("timer-service")?;
    let page = StatsPage::create(&name)?;
    let stats_every = Nanos::from_millis(10);
    let plane = Plane::open(&name, &page, &bump, &PlaneConfig { cpu, stats_every })?;
    let timers = Timers::place(&bump, 16, Nanos::from_micros(1))?;
    let (sample, report) = (Nanos::from_millis(1), Nanos::from_millis(100));
    let (start, end) = (plane.now(), Nanos::from_millis(1000 * seconds));
    for (span, job) in [(sample, Job::Sample), (report, Job::Report), (end, Job::Stop)] {
        timers.insert(start.saturating_add(span), job)?;
    }
    let (stats, counters) = (plane.stats(), plane.stats().counters());
    let mut running = true;

    // From here on: turns, and nothing else.
    let seal = plane.seal();
    while running {
        let now = plane.now();
        let fired_before = counters.get(Counter::TimersFired);
        for due in timers.expire(now, Budget::DEFAULT.timers) {
            counters.increment(Counter::TimersFired);
            let late = now.saturating_since(due.deadline);
            stats.record(HistogramId::TimerLateness, late.as_nanos());
            let again = match due.payload {
                Job::Sample => sample,
                Job::Report => report,
                Job::Stop => {
                    running = false;
                    continue;
                }
            };
            // From the deadline, not from now: being late once does not shift all that follow.
            timers.insert(due.deadline.saturating_add(again), due.payload)?;
        }
        if counters.get(Counter::TimersFired) == fired_before {
            counters.increment(Counter::TurnsIdle);
            thread::yield_now(); // not on a CPU of its own
        } else {
            counters.increment(Counter::TurnsBusy);
        }
        plane.publish(now);
    }
    let heap = seal.open();

    let mut late = Box::new(HistogramSnapshot::EMPTY);
    let histogram = stats.histogram(HistogramId::TimerLateness);
    histogram.ok_or("no histogram")?.copy_to(&mut late);
    let at = |parts_per_million| late.value_at(parts_per_million).unwrap_or(0);
    let (p50, p99, max) = (at(500_000), at(990_000), late.max);
    println!("{} timers fired, {} allocations", late.count, heap.allocations);
    println!("late by: p50 {p50} ns, p99 {p99} ns, max {max} ns");
    Ok(())
}
