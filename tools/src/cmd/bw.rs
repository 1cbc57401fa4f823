//! `spinwire bw`: one-way streaming between two pinned processes, beside a bare copy.

use serde::Serialize;
use spinwire_dataplane::error::PostError;
use spinwire_dataplane::provider::Provider;

use crate::pair::client::{Client, Measure, Progress, with_client};
use crate::pair::floor::Floor;
use crate::pair::loans::{self, Loans};
use crate::pair::options::PairOptions;
use crate::pair::order::{Marking, Order};
use crate::pair::server;
use crate::pair::station::{Deadline, data_to, mind};
use crate::pattern::Stamper;
use crate::plot;
use crate::report::{Failure, Verdict, median};

/// Arguments of `spinwire bw`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Both ends in one command:
  spinwire bw
  spinwire bw --all-sizes --seconds 0.5 --plot bw.svg
  spinwire bw --zero-copy --size 4k,1m
Apart, as two terminals:
  spinwire bw --listen demo --cpus 1
  spinwire bw --connect demo --cpus 0 --size 4k
Over TCP, here or between two machines:
  spinwire bw --provider tcp --size 4k,1m
  spinwire bw --listen tcp://0.0.0.0:7000
  spinwire bw --connect tcp://otherhost:7000 --size 4k

The receiving end checks that every message arrives once, in order and unchanged (of messages over 256 bytes: order and
ends of each, a moving line of each, every byte of one in 64); a bad one is an error. The floor is the same
two processes copying as many blocks in and out of as much shared memory, with one counter each way; over TCP, writing and
reading as many on a plain socket.")]
pub(crate) struct Args {
    #[command(flatten)]
    pair: PairOptions,

    /// Messages per doorbell; the lane's credit bounds how many are under way.
    #[arg(long, value_name = "N", default_value_t = 32, value_parser = clap::value_parser!(u32).range(1..=4096))]
    batch: u32,
}

#[derive(Debug, Serialize)]
struct Report {
    provider: &'static str,
    zero_copy: bool,
    size: usize,
    messages: u64,
    messages_per_s: f64,
    bytes_per_s: f64,
    floor_bytes_per_s: f64,
    ratio: f64,
    ratio_best_rounds: f64,
    rounds: u32,
}

/// What is measured where the arguments say nothing: about so long per size.
const SECONDS: f64 = 1.0;
/// Bytes, and at least so many messages, before the first that counts.
const WARM_UP_BYTES: usize = 8 << 20;
const WARM_UP_MESSAGES: usize = 2_000;

/// Runs the command.
pub(crate) fn run(args: &Args) -> Result<Verdict, Failure> {
    let options = &args.pair;
    if let Some(name) = &options.listen {
        return server::serve(("bw", name), options);
    }
    let reports = with_client("bw", options, AllSizes(args))?;
    if let Some(path) = &options.plot {
        let points: Vec<_> =
            reports.iter().map(|r| (r.size, r.bytes_per_s, r.floor_bytes_per_s)).collect();
        plot::throughput(path, &points)?;
    }
    if options.json {
        crate::report::print_json(&reports.iter().collect::<Vec<_>>())?;
    } else {
        print_table(&reports);
    }
    Ok(Verdict::Well)
}

struct AllSizes<'a>(&'a Args);

impl Measure for AllSizes<'_> {
    type Result = Vec<Report>;

    fn run<P: Provider, F: Floor>(
        self,
        client: &Client<'_, '_, P, F>,
    ) -> Result<Vec<Report>, Failure> {
        self.0.pair.sizes().into_iter().map(|size| measure(client, self.0, size)).collect()
    }
}

fn measure<P: Provider, F: Floor>(
    client: &Client<'_, '_, P, F>,
    args: &Args,
    size: usize,
) -> Result<Report, Failure> {
    let options = &args.pair;
    let marking = options.marking();
    let stream = Stream { client, marking, size, batch: args.batch };
    let warm_up = u64::try_from((WARM_UP_BYTES / size).clamp(WARM_UP_MESSAGES, 1 << 20))?;
    let warm = stream.run(warm_up)? + stream.floor(warm_up)?;
    let rounds = options.rounds;
    let per_round = match options.iters {
        Some(iters) => iters.div_ceil(u64::from(rounds)),
        None => {
            let each = warm / float(warm_up);
            let seconds = options.seconds.unwrap_or(SECONDS) / f64::from(rounds);
            whole(seconds / each).max(100)
        }
    };
    let mut ratios = Vec::new();
    let (mut seconds, mut floor_seconds) = (0.0, 0.0);
    let (mut best, mut best_floor) = (f64::MAX, f64::MAX);
    let mut progress = Progress::new();
    for round in 0..rounds {
        progress.show(size, round, rounds);
        let floor = stream.floor(per_round)?;
        let ours = stream.run(per_round)?;
        ratios.push(floor / ours);
        seconds += ours;
        floor_seconds += floor;
        best = best.min(ours);
        best_floor = best_floor.min(floor);
    }
    drop(progress);
    let messages = per_round.saturating_mul(u64::from(rounds));
    let bytes = float(messages) * float(u64::try_from(size)?);
    Ok(Report {
        provider: options.provider().as_str(),
        zero_copy: options.zero_copy,
        size,
        messages,
        messages_per_s: float(messages) / seconds,
        bytes_per_s: bytes / seconds,
        floor_bytes_per_s: bytes / floor_seconds,
        ratio: median(&mut ratios),
        ratio_best_rounds: best_floor / best,
        rounds,
    })
}

#[expect(clippy::cast_precision_loss, clippy::as_conversions, reason = "counts are far below 2^53")]
const fn float(count: u64) -> f64 {
    count as f64
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    clippy::as_conversions,
    reason = "a rough number of messages; the conversion saturates"
)]
const fn whole(count: f64) -> u64 {
    count as u64
}

/// What the other end said.
fn told(bad: u64, count: u64) -> Result<(), Failure> {
    if bad == 0 {
        return Ok(());
    }
    Err(format!("{bad} of {count} messages were lost, repeated, out of order or changed").into())
}

/// A stream of messages of one size.
struct Stream<'c, 'p, 'm, P, F> {
    client: &'c Client<'p, 'm, P, F>,
    marking: Marking,
    size: usize,
    batch: u32,
}

impl<P: Provider, F: Floor> Stream<'_, '_, '_, P, F> {
    /// Streams `count` messages, and returns the seconds until the other end had checked the last of them.
    fn run(&self, count: u64) -> Result<f64, Failure> {
        if let Some(loans) = &self.client.loans {
            return self.run_loans(loans, count);
        }
        let station = &self.client.station;
        let size = u64::try_from(self.size)?;
        self.client.prepare(Order::Drain { count, size, marking: self.marking })?;
        let to = data_to(self.client.server, self.marking);
        let mut stamper = Stamper::new(self.size);
        let deadline = Deadline::new();
        let begin = station.clock.now_ns();
        let mut number = 0;
        while number < count {
            let end = number.saturating_add(u64::from(self.batch)).min(count);
            while number < end {
                match station.endpoint.inject(to, stamper.message(number)) {
                    Ok(()) => {
                        number = number.saturating_add(1);
                        deadline.moved();
                    }
                    Err(PostError::Retry(_)) => break,
                    Err(refused) => return Err(refused.into()),
                }
            }
            station.turn();
            if let Some(event) = station.endpoint.poll_event() {
                mind(event)?;
            }
            deadline.check("the other end takes no messages")?;
        }
        let bad = self.client.answer()?;
        let seconds = float(station.clock.now_ns().saturating_sub(begin)) / 1e9;
        told(bad, count).map(|()| seconds)
    }

    /// As [`run`](Self::run), with buffers of the pool, written and checked in place.
    fn run_loans(&self, loans: &Loans<'_>, count: u64) -> Result<f64, Failure> {
        let station = &self.client.station;
        let size = u64::try_from(self.size)?;
        self.client.prepare(Order::DrainLoans { count, size, marking: self.marking })?;
        let to = data_to(self.client.server, self.marking);
        let mut stamper = loans::Stamper::new(self.size);
        let deadline = Deadline::new();
        let begin = station.clock.now_ns();
        let mut number = 0;
        while number < count {
            let end = number.saturating_add(u64::from(self.batch)).min(count);
            while number < end {
                let mut guard = loans.acquire(station, self.size, &deadline)?;
                stamper.write(&mut guard, number)?;
                loans.send(station, to, guard, &deadline)?;
                number = number.saturating_add(1);
                deadline.moved();
            }
            station.turn();
            station.watch(&deadline, "the other end takes no buffers")?;
        }
        let bad = self.client.answer()?;
        let seconds = float(station.clock.now_ns().saturating_sub(begin)) / 1e9;
        loans.settle(station)?;
        told(bad, count).map(|()| seconds)
    }

    /// Copies as many blocks through bare shared memory, and returns the seconds.
    fn floor(&self, count: u64) -> Result<f64, Failure> {
        let station = &self.client.station;
        let size = u64::try_from(self.size)?;
        station.floor.reset();
        self.client.prepare(Order::CopyOut { count, size })?;
        let block = vec![0x5A; self.size];
        let begin = station.clock.now_ns();
        station.floor.copy_in(&block, count)?;
        Ok(float(station.clock.now_ns().saturating_sub(begin)) / 1e9)
    }
}

fn print_table(reports: &[Report]) {
    let Some(first) = reports.first() else { return };
    let what = if first.zero_copy { ", pool buffers uncopied" } else { "" };
    println!("one way through {}{what}, checked by the receiver", first.provider);
    println!(
        "{:>8} {:>11} {:>14} {:>10} {:>11}  {:>6} {:>6}",
        "bytes", "messages", "messages/s", "MB/s", "floor MB/s", "ratio", "best"
    );
    for r in reports {
        println!(
            "{:>8} {:>11} {:>14.0} {:>10.1} {:>11.1}  {:>6.2} {:>6.2}",
            r.size,
            r.messages,
            r.messages_per_s,
            r.bytes_per_s / 1e6,
            r.floor_bytes_per_s / 1e6,
            r.ratio,
            r.ratio_best_rounds
        );
    }
    println!(
        "floor: {} between the same two processes; ratio: median of {} rounds in turn, best: of the best rounds",
        if first.provider == "tcp" { "a plain socket" } else { "a bare copy in and out" },
        first.rounds
    );
}
