//! `spinwire bw`: one-way streaming between two pinned processes, beside a bare copy.

use core::fmt::Write as _;
use serde::Serialize;
use spinwire_dataplane::error::PostError;
use spinwire_dataplane::provider::Provider;

use super::ps::table::wrapped;
use crate::arguments;
use crate::pair::client::{Client, Measure, Progress, with_client};
use crate::pair::floor::Floor;
use crate::pair::limit::Limit;
use crate::pair::loans::{self, Loans};
use crate::pair::lossy::{Exchange, STREAM_MAX, Took};
use crate::pair::one_sided;
use crate::pair::options::PairOptions;
use crate::pair::order::{Marking, Order};
use crate::pair::server;
use crate::pair::sources::{Sources, are_better};
use crate::pair::station::{Deadline, ON_ONE_CPU, data_to};
use crate::pattern::Stamper;
use crate::plot;
use crate::report::{self, Failure, Verdict, median};

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
By a URI, both ends at once:
  spinwire bw --uri tcp://127.0.0.1:0 --size 64k
Over TCP, here or between two machines:
  spinwire bw --provider tcp --size 4k,1m
  spinwire bw --listen tcp://0.0.0.0:7000
  spinwire bw --connect tcp://otherhost:7000 --size 4k
Over UDP, where messages may be lost, likewise:
  spinwire bw --provider udp --size 64,1400
  spinwire bw --listen udp://0.0.0.0:7000 --size 1400
  spinwire bw --connect udp://otherhost:7000 --size 1400
On RDMA devices, in builds with --features verbs, likewise (spinwire devices lists them):
  spinwire bw --provider verbs --device rxe0,rxe1
  spinwire bw --provider verbs --device rxe0,rxe1 --one-sided --size 64k
  spinwire bw --provider verbs --device rxe0,rxe1 --datagrams --size 1000
  spinwire bw --listen verbs://rxe1/10.0.0.2:7000
  spinwire bw --connect verbs://rxe0/10.0.0.2:7000
On the queues of mlx5 devices without a library between, in builds with --features mlx5 (unverified on hardware), likewise:
  spinwire bw --provider mlx5 --device mlx5_0,mlx5_1
Over a provider of libfabric, in builds with --features libfabric, likewise:
  spinwire bw --uri ofi://tcp/127.0.0.1:0
  spinwire bw --provider ofi --fabric-provider shm --size 64,64k
  spinwire bw --listen ofi://tcp/0.0.0.0:7000
  spinwire bw --connect ofi://tcp/otherhost:7000 --size 4k

The receiving end checks that every message arrives once, in order and unchanged (of messages over 256 bytes: order and
ends of each, a moving line of each, every byte of one in 64); a bad one is an error. The floor is the same
two processes copying as many blocks in and out of as much shared memory, with one counter each way; over TCP, UDP, RDMA and libfabric, writing and
reading as many on a plain socket. Over UDP and with --datagrams the sender does not wait for the receiver: what is measured is what has come, from the first
message to the last by the receiver's clock, and what was lost is said; one that comes twice counts once.")]
pub(crate) struct Args {
    #[command(flatten)]
    pair: PairOptions,

    /// Messages per doorbell; the lane's credit bounds how many are under way.
    #[arg(long, value_name = "N", default_value_t = 32, value_parser = arguments::whole(1..=4096_u32))]
    batch: u32,
}

#[derive(Debug, Serialize)]
struct Report {
    provider: &'static str,
    zero_copy: bool,
    one_sided: bool,
    /// With `--datagrams`.
    datagrams: bool,
    /// Both ends run on one CPU, and yield to each other.
    shares_cpu: bool,
    size: usize,
    messages: u64,
    messages_per_s: f64,
    bytes_per_s: f64,
    floor_bytes_per_s: f64,
    ratio: f64,
    ratio_best_rounds: f64,
    rounds: u32,
    /// Over io_uring: which of its ways were taken.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    io_uring: Vec<&'static str>,
    /// Where messages may be lost.
    #[serde(skip_serializing_if = "Option::is_none")]
    loss: Option<Losses>,
}

/// What became of all that was sent in rounds that count.
#[derive(Debug, Serialize)]
struct Losses {
    sent: u64,
    lost: u64,
    repeated: u64,
    floor_sent: u64,
    floor_lost: u64,
}

/// A stream of one round.
#[derive(Clone, Copy, Debug, Default)]
struct Flow {
    sent: u64,
    received: u64,
    repeated: u64,
    seconds: f64,
}

impl Flow {
    /// All came.
    const fn whole((count, seconds): (u64, f64)) -> Self {
        Self { sent: count, received: count, repeated: 0, seconds }
    }

    /// Messages a second.
    fn rate(&self) -> f64 {
        float(self.received) / self.seconds
    }

    /// The faster of two: what held up the other one may be over.
    fn or_faster(self, other: Self) -> Self {
        if other.rate() > self.rate() { other } else { self }
    }

    fn add(&mut self, other: &Self) {
        self.sent = self.sent.saturating_add(other.sent);
        self.received = self.received.saturating_add(other.received);
        self.repeated = self.repeated.saturating_add(other.repeated);
        self.seconds += other.seconds;
    }

    const fn lost(&self) -> u64 {
        self.sent.saturating_sub(self.received)
    }
}

/// What is measured where the arguments say nothing: about so long per size.
const SECONDS: f64 = 1.0;
/// Bytes, and at least so many messages, before the first that counts.
const WARM_UP_BYTES: usize = 8 << 20;
const WARM_UP_MESSAGES: usize = 2_000;
/// And seconds about, for each of the two, where all of that would take longer.
const WARM_UP_SECONDS: f64 = 0.25;
const WARM_UP_FEWEST: u64 = 50;
/// A stream that takes so many times as long as the warm-up lets expect, and so many seconds more, ends early.
const STREAM_SLACK: f64 = 2.0;
const STREAM_SLACK_SECONDS: f64 = 0.01;

/// Runs the command.
pub(crate) fn run(args: &Args) -> Result<Verdict, Failure> {
    let options = &args.pair.with_names_of_domains()?;
    if let Some(name) = &options.listen {
        return server::serve(("bw", name), options);
    }
    options.plot.iter().try_for_each(|path| report::check_file("--plot", path))?;
    let reports = with_client("bw", options, AllSizes(args))?;
    // First what is read at once: a file may prove not to be writable.
    if options.json {
        report::print_json(&reports.iter().collect::<Vec<_>>())?;
    } else {
        report::emit(&in_words(&reports)?)?;
    }
    if let Some(path) = &options.plot {
        let points: Vec<_> =
            reports.iter().map(|r| (r.size, r.bytes_per_s, r.floor_bytes_per_s)).collect();
        plot::throughput(path, &points)?;
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
    let one_sided = options.one_sided;
    let stream = Stream { client, marking, size, batch: args.batch, one_sided };
    let few = u64::try_from((WARM_UP_BYTES / size).clamp(WARM_UP_MESSAGES, 1 << 20))?;
    // Where messages may be lost, too few of them may come.
    let fewest = if client.exchange.is_some() { few } else { WARM_UP_FEWEST };
    let mut fastest = warm_up((fewest, few), |count, limit| stream.run(count, limit))?;
    let mut fastest_floor = warm_up((fewest, few), |count, limit| stream.floor(count, limit))?;
    let rounds = options.rounds;
    let most = if client.exchange.is_some() { STREAM_MAX } else { u64::MAX };
    let mut ratios = Vec::new();
    let (mut all, mut all_floor) = (Flow::default(), Flow::default());
    let (mut best, mut best_floor) = (0.0_f64, 0.0_f64);
    let mut progress = Progress::new();
    let enough = Limit::of_rounds(options.seconds_to_measure(SECONDS));
    for round in (0..rounds).take_while(|round| *round == 0 || !enough.is_over()) {
        progress.show(size, round, rounds);
        let plan = Plan::new(options, (&fastest, &fastest_floor));
        let count = plan.per_round.min(most);
        let floor = stream.floor(count, &plan.limit(&fastest_floor))?;
        let ours = stream.run(count, &plan.limit(&fastest))?;
        ratios.push(ours.rate() / floor.rate());
        best = best.max(ours.rate());
        best_floor = best_floor.max(floor.rate());
        fastest = fastest.or_faster(ours);
        fastest_floor = fastest_floor.or_faster(floor);
        all.add(&ours);
        all_floor.add(&floor);
    }
    drop(progress);
    let bytes = float(u64::try_from(size)?);
    Ok(Report {
        provider: options.path_of(client.station.endpoint.info()),
        zero_copy: options.zero_copy,
        one_sided: options.one_sided,
        datagrams: options.datagrams,
        shares_cpu: client.station.yields,
        size,
        messages: all.received,
        messages_per_s: all.rate(),
        bytes_per_s: all.rate() * bytes,
        floor_bytes_per_s: all_floor.rate() * bytes,
        ratio: median(&mut ratios),
        ratio_best_rounds: best / best_floor,
        rounds: u32::try_from(ratios.len())?,
        io_uring: client.station.endpoint.info().paths.names().collect(),
        loss: client.exchange.is_some().then(|| Losses {
            sent: all.sent,
            lost: all.lost(),
            repeated: all.repeated,
            floor_sent: all_floor.sent,
            floor_lost: all_floor.lost(),
        }),
    })
}

/// What a round is to be.
#[derive(Clone, Copy, Debug)]
struct Plan {
    /// Messages, and blocks of the floor.
    per_round: u64,
    /// Of all rounds; `None` where messages were asked for, however long they take.
    seconds: Option<f64>,
    rounds: f64,
    /// Of one message and one block.
    each: f64,
}

impl Plan {
    /// By how fast both were.
    fn new(options: &PairOptions, (warm, warm_floor): (&Flow, &Flow)) -> Self {
        let rounds = f64::from(options.rounds);
        let each = 1.0 / warm.rate() + 1.0 / warm_floor.rate();
        let seconds = options.seconds_to_measure(SECONDS);
        let per_round = match options.iters {
            Some(iters) => iters.div_ceil(u64::from(options.rounds)),
            None => whole(seconds.unwrap_or(SECONDS) / rounds / each).max(100),
        };
        Self { per_round, seconds, rounds, each }
    }

    /// When a stream that begins now is to end, where it is as fast as that one.
    fn limit(&self, like: &Flow) -> Limit {
        let share = |seconds: f64| seconds / self.rounds / like.rate() / self.each;
        Limit::after(self.seconds.map(|s| share(s).mul_add(STREAM_SLACK, STREAM_SLACK_SECONDS)))
    }
}

/// Has `run` stream `few`, or fewer where it takes long; more each time, so that the last tells how fast it is.
fn warm_up(
    (fewest, few): (u64, u64),
    run: impl Fn(u64, &Limit) -> Result<Flow, Failure>,
) -> Result<Flow, Failure> {
    let (mut done, mut seconds) = (0_u64, 0.0);
    loop {
        let count = done.max(fewest).min(few.saturating_sub(done));
        let flow = run(count, &Limit::after(Some(WARM_UP_SECONDS)))?;
        done = done.saturating_add(flow.sent);
        seconds += flow.seconds;
        if done >= few || seconds > WARM_UP_SECONDS {
            return Ok(flow);
        }
    }
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

/// What came of a stream of which some may be lost. The first message begins the time, so there are one fewer in it.
fn came(sent: u64, took: Took) -> Result<Flow, Failure> {
    let Took { received, repeated, ns } = took;
    if received < 2 || ns == 0 {
        return Err(format!("of {sent} messages {received} came, too few to say how fast; send more with --iters or --seconds").into());
    }
    let seconds = float(ns) / 1e9 * float(received) / float(received.saturating_sub(1));
    Ok(Flow { sent, received, repeated, seconds })
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
    one_sided: bool,
}

impl<P: Provider, F: Floor> Stream<'_, '_, '_, P, F> {
    /// Streams `count` messages, fewer where that takes longer than `limit`, and says what came of them until the other end had checked the
    /// last.
    fn run(&self, count: u64, limit: &Limit) -> Result<Flow, Failure> {
        if let Some(exchange) = &self.client.exchange {
            let to = (self.size, self.marking);
            let most = (count, u64::from(self.batch));
            let (sent, took) = exchange.stream(self.client, to, most, limit)?;
            return came(sent, took);
        }
        self.run_all(count, limit).map(Flow::whole)
    }

    /// As [`run`](Self::run) where nothing is lost: how many, and the seconds.
    fn run_all(&self, count: u64, limit: &Limit) -> Result<(u64, f64), Failure> {
        if let Some(loans) = &self.client.loans {
            return self.run_loans(loans, count, limit);
        }
        if self.one_sided {
            let most = (self.size, count, u64::from(self.batch));
            return one_sided::stream(self.client, most, limit);
        }
        if are_better(&self.client.station, self.size) {
            return self.run_sources(count, limit);
        }
        let station = &self.client.station;
        let size = u64::try_from(self.size)?;
        self.client.prepare(Order::Drain { count, size, marking: self.marking })?;
        let to = data_to(self.client.server, self.marking);
        let mut stamper = Stamper::new(self.size);
        let deadline = Deadline::new();
        let begin = station.clock.now_ns();
        let mut number = 0;
        while limit.goes_on(number, count) {
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
            station.turn_for_room(&deadline, "the other end takes no messages")?;
        }
        self.checked((number, count), begin)
    }

    /// Waits until the other end has checked the messages that were sent of those that were to be: how many, and the seconds.
    fn checked(&self, (sent, count): (u64, u64), begin: u64) -> Result<(u64, f64), Failure> {
        let station = &self.client.station;
        if sent < count {
            station.send_order(self.client.server, Order::Enough { count: sent })?;
        }
        let bad = self.client.answer()?;
        let seconds = float(station.clock.now_ns().saturating_sub(begin)) / 1e9;
        told(bad, sent).map(|()| (sent, seconds))
    }

    /// As [`run_all`](Self::run_all), where a device reads the messages from where they lie.
    fn run_sources(&self, count: u64, limit: &Limit) -> Result<(u64, f64), Failure> {
        let station = &self.client.station;
        let mut sources = Sources::new(station, self.size)?;
        let size = u64::try_from(self.size)?;
        self.client.prepare(Order::Drain { count, size, marking: self.marking })?;
        let to = data_to(self.client.server, self.marking);
        let deadline = Deadline::new();
        let begin = station.clock.now_ns();
        let mut number = 0;
        while limit.goes_on(number, count) {
            let end = number.saturating_add(u64::from(self.batch)).min(count);
            while number < end
                && sources.post(number, |endpoint, loan| endpoint.post_send(to, loan, 0))?
            {
                number = number.saturating_add(1);
                deadline.moved();
            }
            station.turn();
            if number < count {
                sources.collect()?;
            }
            station.watch(&deadline, "the other end takes no messages")?;
        }
        // Buffers that come back meanwhile are the pool's again.
        self.checked((number, count), begin)
    }

    /// As [`run_all`](Self::run_all), with buffers of the pool, written and checked in place.
    fn run_loans(
        &self,
        loans: &Loans<'_>,
        count: u64,
        limit: &Limit,
    ) -> Result<(u64, f64), Failure> {
        let station = &self.client.station;
        let size = u64::try_from(self.size)?;
        self.client.prepare(Order::DrainLoans { count, size, marking: self.marking })?;
        let to = data_to(self.client.server, self.marking);
        let mut stamper = loans::Stamper::new(self.size);
        let deadline = Deadline::new();
        let begin = station.clock.now_ns();
        let mut number = 0;
        while limit.goes_on(number, count) {
            let end = number.saturating_add(u64::from(self.batch)).min(count);
            while number < end && limit.goes_on(number, end) {
                let mut guard = loans.acquire(station, self.size, &deadline)?;
                stamper.write(&mut guard, number)?;
                loans.send(station, to, guard, &deadline)?;
                number = number.saturating_add(1);
                deadline.moved();
            }
            station.turn_for_room(&deadline, "the other end takes no buffers")?;
        }
        let checked = self.checked((number, count), begin)?;
        loans.settle(station).map(|()| checked)
    }

    /// Hands as many blocks over by the bare thing, and says what came of them.
    fn floor(&self, count: u64, limit: &Limit) -> Result<Flow, Failure> {
        let station = &self.client.station;
        let size = u64::try_from(self.size)?;
        station.floor.reset();
        self.client.prepare(Order::CopyOut { count, size })?;
        let block = vec![0x5A; self.size];
        let begin = station.clock.now_ns();
        let round = self.client.exchange.as_ref().map_or(0, Exchange::round);
        let sent = station.floor.copy_in(round, &block, (count, limit))?;
        if let Some(exchange) = &self.client.exchange {
            return came(sent, exchange.tally(self.client)?);
        }
        let seconds = float(station.clock.now_ns().saturating_sub(begin)) / 1e9;
        Ok(Flow::whole((sent, seconds)))
    }
}

/// The table for people.
fn in_words(reports: &[Report]) -> Result<String, Failure> {
    let mut text = String::new();
    let Some(first) = reports.first() else { return Ok(text) };
    let what = if first.zero_copy { ", pool buffers uncopied" } else { "" };
    writeln!(text, "one way through {}{what}, checked by the receiver", first.provider)?;
    writeln!(
        text,
        "{:>8} {:>11} {:>14} {:>10} {:>11}  {:>6} {:>6}",
        "bytes", "messages", "messages/s", "MB/s", "floor MB/s", "ratio", "best"
    )?;
    for r in reports {
        writeln!(
            text,
            "{:>8} {:>11} {:>14.0} {:>10.1} {:>11.1}  {:>6.2} {:>6.2}",
            r.size,
            r.messages,
            r.messages_per_s,
            r.bytes_per_s / 1e6,
            r.floor_bytes_per_s / 1e6,
            r.ratio,
            r.ratio_best_rounds
        )?;
    }
    for (r, loss) in reports.iter().filter_map(|r| r.loss.as_ref().map(|loss| (r, loss))) {
        writeln!(
            text,
            "{:>8} lost: {:.2}% of {}, {} came twice; floor: {:.2}% of {}",
            r.size,
            float(loss.lost) / float(loss.sent) * 100.0,
            loss.sent,
            loss.repeated,
            float(loss.floor_lost) / float(loss.floor_sent) * 100.0,
            loss.floor_sent
        )?;
    }
    if first.shares_cpu {
        text += ON_ONE_CPU;
    }
    if !first.io_uring.is_empty() {
        text += &wrapped("", &format!("io_uring: {}", first.io_uring.join(", ")));
    }
    writeln!(
        text,
        "floor: {} between the same two processes\nratio: median of {} rounds in turn; best: of the best rounds",
        if first.provider == "shm" { "a bare copy in and out" } else { "a plain socket" },
        first.rounds
    )?;
    Ok(text)
}
