//! Every case by wall time, and the ratios that we promise.
//!
//! `cargo bench -p spinwire-benches --bench hot_paths` measures; `cargo test` runs each case a few times and checks its
//! result. Every case prints the hash of what came out of it. `-- --endpoint` is the one comparison of endpoints with their provider alone, with a
//! verdict and an exit code.
#![allow(
    clippy::unwrap_used,
    clippy::arithmetic_side_effects,
    reason = "a bench stops at the first thing that is not as expected"
)]
#![allow(clippy::float_arithmetic, reason = "times are for people")]
#![allow(clippy::print_stdout, reason = "a bench reports")]

use core::hint::black_box;
use core::time::Duration;
use std::process::ExitCode;
use std::time::Instant;

use criterion::{Criterion, Throughput};
use spinwire_benches::case::Case;
use spinwire_benches::ratio::Ratio;
use spinwire_benches::{bare, catalogue, chain, completion, copy, idle, ratio, vqp, wqe};
use spinwire_dataplane::raw::mmio::{CoherentDevice, Device};

/// Rounds before anything is timed. More than any ring has places, so that each has wrapped.
const WARM_ROUNDS: u64 = 300;
/// So many times endpoints and their providers are built anew to be compared: at most as many as there are samples.
const PLACES: usize = 15;

fn main() -> ExitCode {
    let is_measured = std::env::args().any(|argument| argument == "--bench");
    if std::env::args().any(|argument| argument == "--endpoint") {
        return if report_endpoint(615, 20_000) { ExitCode::SUCCESS } else { ExitCode::FAILURE };
    }
    let mut criterion = Criterion::default()
        .sample_size(20)
        .warm_up_time(Duration::from_millis(200))
        .measurement_time(Duration::from_millis(800))
        .without_plots()
        .configure_from_args();
    for entry in catalogue() {
        let mut case = (entry.build)();
        let hash = case.run(WARM_ROUNDS);
        case.check(WARM_ROUNDS, hash);
        println!("{}: hash {hash:#018x}", entry.name);
        let (part, what) = entry.name.split_once('/').unwrap();
        let mut group = criterion.benchmark_group(part);
        group.throughput(Throughput::Elements(u64::from(entry.ops_per_round)));
        group.bench_function(what, |bencher| bencher.iter_custom(|n| timed(&mut case, n)));
        group.finish();
    }
    criterion.final_summary();
    let (samples, rounds) = if is_measured { (101, 20_000) } else { (3, 64) };
    report_ratios(samples, rounds);
    report_queue_pairs(if is_measured { 20_001 } else { 3 });
    ExitCode::SUCCESS
}

fn timed(case: &mut Case, rounds: u64) -> Duration {
    let start = Instant::now();
    let hash = black_box(case.run(rounds));
    let took = start.elapsed();
    case.check(rounds, hash);
    took
}

fn report_ratios(samples: usize, rounds: u64) {
    println!(
        "\nratio, median of {samples} pairs of {rounds} rounds (the same thread, warm caches)"
    );
    let found = ratio::compare(&mut idle::idle_turn(64), &mut idle::idle_turn(1), samples, rounds);
    println!(
        "  idle turn, 64 peers / 1 peer   {:5.2}   {:8.1} ns {:8.1} ns   (bar: at most {})",
        found.ratio,
        found.first_ns,
        found.second_ns,
        idle::RATIO_MAX
    );
    let found =
        ratio::compare(&mut chain::cqes(), &mut chain::slab_get(), samples, rounds / 64 + 1)
            .by_operation(chain::CQES_A_ROUND);
    println!(
        "  CQE of a chain / look at a slab {:5.2}  {:8.1} ns {:8.1} ns   (bar: at most {} ns a CQE)",
        found.ratio,
        found.first_ns,
        found.second_ns,
        chain::CQE_NS_MAX
    );
    let _verdict = report_endpoint(samples, rounds);
    for (what, mut other, bar) in [
        ("RefCell", wqe::inline_send_ref_cell(), "ours is faster"),
        ("unchecked", wqe::inline_send_unchecked(), "at most 1 ns more"),
    ] {
        let mut ours = wqe::inline_send();
        let found = ratio::compare(&mut ours, &mut other, samples, rounds / 64 + 1)
            .by_operation(wqe::ROUND_OPS);
        println!(
            "  inline SEND / {what:16} {:5.2}   {:8.2} ns {:8.2} ns   (bar: at most {} ns; {bar})",
            found.ratio,
            found.first_ns,
            found.second_ns,
            wqe::SEND_NS_MAX
        );
    }
    report_completions(samples, rounds);
    for size in [64, 512, 4096, 65_536] {
        let rounds = (rounds * 512 / u64::try_from(size).unwrap()).clamp(1, rounds);
        for (what, case) in
            [("memcpy / copy_in", copy::copy_in(size)), ("memcpy / copy_out", copy::copy_out(size))]
        {
            let (mut yardstick, mut ours) = (copy::memcpy(size), case);
            let found = ratio::compare(&mut yardstick, &mut ours, samples, rounds);
            println!(
                "  {what:17} {size:6} bytes  {:5.2}   {:8.1} ns {:8.1} ns   (1: as fast as memcpy)",
                found.ratio, found.first_ns, found.second_ns
            );
        }
    }
}

/// What a poll adds to posting, writing a completion and asking the tracker, and how much of that is the barrier alone.
fn report_completions(samples: usize, rounds: u64) {
    let (mono, general) = (completion::MONO_NS_MAX, completion::GENERAL_NS_MAX);
    println!("  completions: ns for each in a round with a poll, in one without, and apart");
    for run in completion::RUNS {
        for (kind, mut case, bar) in [
            ("barrier alone", completion::barrier(run), None),
            ("mono", completion::mono(Device, run), Some(mono)),
            ("mono, coherent", completion::mono(CoherentDevice, run), Some(mono)),
            ("general", completion::general(Device, run), Some(general)),
            ("general, coherent", completion::general(CoherentDevice, run), Some(general)),
        ] {
            let floor = &mut completion::floor(run);
            let found = ratio::compare(&mut case, floor, samples, rounds / u64::from(run) + 1)
                .by_operation(run);
            let apart = found.first_ns - found.second_ns;
            let verdict = match bar {
                None => "no poll of a device is below".to_owned(),
                Some(bar) if apart <= bar => format!("bar: at most {bar}, holds"),
                Some(bar) => format!("bar: at most {bar}, missed"),
            };
            println!(
                "  CQE {kind:>17}, {run:2} a poll  {:8.1} ns {:8.1} ns   {apart:5.1} apart ({verdict})",
                found.first_ns, found.second_ns,
            );
        }
    }
}

/// What an endpoint costs above its provider. Returns whether that is within the bar.
///
/// Where the memory of both happens to lie makes a nanosecond to either side. So both are built anew [`PLACES`] times, and of the pairs' medians
/// the median counts.
fn report_endpoint(samples: usize, rounds: u64) -> bool {
    let samples = samples.div_ceil(PLACES);
    let mut pairs: Vec<Ratio> = (0..PLACES.min(samples))
        .map(|_| {
            let (mut with, mut alone) = (bare::endpoint(32), bare::bare(32));
            ratio::compare(&mut with, &mut alone, samples, rounds / 16 + 1)
                .by_operation(bare::ROUND_OPS)
        })
        .collect();
    pairs.sort_by(|a, b| a.apart_ns.total_cmp(&b.apart_ns));
    let at = |place: usize| *pairs.get(place).unwrap();
    let (least, found, most) = (at(0), at(pairs.len() / 2), at(pairs.len() - 1));
    let (least, most) = (least.apart_ns, most.apart_ns);
    let is_good = found.apart_ns <= bare::ENDPOINT_NS_MAX;
    println!(
        "  endpoint / its provider alone  {:5.2}   {:8.1} ns {:8.1} ns   {:5.2} apart, {least:.2} to {most:.2} in {} places (bar: at most {}): {}",
        found.ratio,
        found.first_ns,
        found.second_ns,
        found.apart_ns,
        pairs.len(),
        bare::ENDPOINT_NS_MAX,
        if is_good { "met" } else { "NOT met" }
    );
    is_good
}

fn report_queue_pairs(samples: usize) {
    println!("\nvirtual queue pairs, median of {samples} times 64 work requests (ns for each)");
    let splits = vqp::split(samples);
    let [alone, ..] = splits;
    let [one_post, many_post, one_poll, many_poll] = vqp::BARS_NS;
    let bars = [(0.0, 0.0), (one_post, one_poll), (many_post, many_poll), (many_post, many_poll)];
    for ((what, split), (post, poll)) in vqp::SPLITS.iter().zip(splits).zip(bars) {
        println!(
            "  {what:20} post {:5.1} (+{:5.1}, bar {post})   poll {:5.1} (+{:5.1}, bar {poll})",
            split.post_ns,
            split.post_ns - alone.post_ns,
            split.poll_ns,
            split.poll_ns - alone.poll_ns
        );
    }
}
