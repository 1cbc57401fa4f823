//! `spinwire lat`: round trips between two pinned processes, beside the floor.

use core::fmt::Write as _;
use std::path::PathBuf;

use hdrhistogram::Histogram;
use serde::Serialize;
use spinwire_dataplane::error::PostError;
use spinwire_dataplane::msg::Kind;
use spinwire_dataplane::provider::Provider;

use super::ps::table::wrapped;
use crate::hgrm;
use crate::pair::client::{Client, Measure, Progress, with_client};
use crate::pair::floor::Floor;
use crate::pair::laps::Laps;
use crate::pair::limit::Limit;
use crate::pair::loans::{Stamper, looks_like};
use crate::pair::lossy::Loss;
use crate::pair::one_sided;
use crate::pair::options::{PairOptions, ProviderName};
use crate::pair::order::{Marking, Order};
use crate::pair::server;
use crate::pair::station::{DataUse, Deadline, ON_ONE_CPU, data_to};
use crate::plot;
use crate::report::{self, Failure, Verdict, median};

/// Arguments of `spinwire lat`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Both ends in one command:
  spinwire lat
  spinwire lat --size 32,64,4k --tagged --plot lat.svg
  spinwire lat --all-sizes --seconds 0.2 --json
  spinwire lat --zero-copy --size 64,1m
Apart, as two terminals:
  spinwire lat --listen demo --cpus 1
  spinwire lat --connect demo --cpus 0 --size 64
By a URI, both ends at once:
  spinwire lat --uri tcp://127.0.0.1:0
  spinwire lat --uri shm://demo
Over TCP, here or between two machines:
  spinwire lat --provider tcp --size 64,4k
  spinwire lat --listen tcp://0.0.0.0:7000
  spinwire lat --connect tcp://otherhost:7000
Over UDP, where messages may be lost, likewise:
  spinwire lat --provider udp --size 64,1400
  spinwire lat --listen udp://0.0.0.0:7000 --size 1400
  spinwire lat --connect udp://otherhost:7000 --size 1400
On RDMA devices, in builds with --features verbs, likewise (spinwire devices lists them):
  spinwire lat --provider verbs --device rxe0,rxe1
  spinwire lat --provider verbs --device rxe0,rxe1 --one-sided
  spinwire lat --provider verbs --device rxe0,rxe1 --datagrams
  spinwire lat --listen verbs://rxe1/10.0.0.2:7000
  spinwire lat --connect verbs://rxe0/10.0.0.2:7000
On the queues of mlx5 devices without a library between, in builds with --features mlx5 (unverified on hardware), likewise:
  spinwire lat --provider mlx5 --device mlx5_0,mlx5_1
Over a provider of libfabric, in builds with --features libfabric, likewise:
  spinwire lat --uri ofi://tcp/127.0.0.1:0
  spinwire lat --listen ofi://tcp/0.0.0.0:7000
  spinwire lat --connect ofi://tcp/otherhost:7000
The same without a floor, as fi_pingpong measures:
  spinwire lat --provider ofi --fabric-provider tcp

A round trip is: send, the other end receives and sends back, receive. The floor is the same between the same two
processes with one bare cache line and no code of ours; over TCP, UDP and RDMA, with as many bytes on a plain socket on which both spin. The machine's speed drifts, so the two take turns in short
rounds; `ratio` is the median of the rounds' ratios. Over UDP and with --datagrams a message that is not answered within --lost-after is lost: it is counted,
not timed, and another is sent in its place; an answer that comes later is counted and taken for nothing else.")]
pub(crate) struct Args {
    #[command(flatten)]
    pair: PairOptions,

    /// Write the latency by percentile to this file, as HdrHistogram's plotters read it. With several sizes: one file
    /// each, the size before the ending.
    #[arg(long, value_name = "FILE")]
    hgrm: Option<PathBuf>,
}

/// Nanoseconds of the round trips of one size.
#[derive(Debug, Serialize)]
struct RoundTrips {
    min: u64,
    p50: u64,
    p90: u64,
    p99: u64,
    p99_9: u64,
    max: u64,
    mean: f64,
}

impl RoundTrips {
    fn of(trips: &Histogram<u64>) -> Self {
        Self {
            min: trips.min(),
            p50: trips.value_at_quantile(0.5),
            p90: trips.value_at_quantile(0.9),
            p99: trips.value_at_quantile(0.99),
            p99_9: trips.value_at_quantile(0.999),
            max: trips.max(),
            mean: trips.mean(),
        }
    }
}

#[derive(Debug, Serialize)]
struct FloorTrips {
    p50: u64,
    p99: u64,
}

impl FloorTrips {
    fn of(trips: &Histogram<u64>) -> Self {
        Self { p50: trips.value_at_quantile(0.5), p99: trips.value_at_quantile(0.99) }
    }
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
    iters: u64,
    cpus: [u32; 2],
    page: String,
    rtt_ns: RoundTrips,
    floor_rtt_ns: FloorTrips,
    ratio_p50: f64,
    ratio_p50_best_rounds: f64,
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
    lost_after_ms: u64,
    sent: u64,
    lost: u64,
    late: u64,
    floor_sent: u64,
    floor_lost: u64,
}

impl Losses {
    const fn of(lost_after_ms: u64, ours: Loss, floor: Loss) -> Self {
        Self {
            lost_after_ms,
            sent: ours.sent,
            lost: ours.lost,
            late: ours.late,
            floor_sent: floor.sent,
            floor_lost: floor.lost,
        }
    }
}

struct Measured {
    report: Report,
    trips: Histogram<u64>,
    floor: Histogram<u64>,
}

/// Messages before the first that counts, and their bytes at most.
const WARM_UP: u64 = 20_000;
const WARM_UP_BYTES: usize = 1 << 30;
/// And nanoseconds about, of which the last messages may take as many again: between two machines a round trip may take long. But so
/// many messages at least.
const WARM_UP_NS: u64 = 125_000_000;
const WARM_UP_FEWEST: u64 = 200;
/// Turns between writing a buffer of the pool and sending it.
const TURNS_BETWEEN: u32 = 16;
/// What is measured where the arguments say nothing: about so long per size.
const SECONDS: f64 = 1.0;

/// Runs the command.
pub(crate) fn run(args: &Args) -> Result<Verdict, Failure> {
    let options = &args.pair.with_names_of_domains()?;
    if options.provider() == ProviderName::Ofi && options.is_without_floor() {
        if args.hgrm.is_some() {
            return Err("--hgrm: not offered with --provider ofi; use --uri ofi://PROVIDER/127.0.0.1:0 instead".into());
        }
        return over_fabric(options);
    }
    if let Some(name) = &options.listen {
        return server::serve(("lat", name), options);
    }
    for (argument, path) in [("--hgrm", &args.hgrm), ("--plot", &options.plot)] {
        path.iter().try_for_each(|path| report::check_file(argument, path))?;
    }
    let all = with_client("lat", options, AllSizes(options))?;
    // First what is read at once: a file may prove not to be writable.
    let reports: Vec<&Report> = all.iter().map(|m| &m.report).collect();
    if options.json {
        report::print_json(&reports)?;
    } else {
        report::emit(&in_words(&reports)?)?;
    }
    if let Some(path) = &args.hgrm {
        for measured in &all {
            hgrm::write(&hgrm::path_for(path, measured.report.size, all.len()), &measured.trips)?;
        }
    }
    if let Some(path) = &options.plot {
        let curves: Vec<_> = all
            .iter()
            .flat_map(|m| {
                let size = m.report.size;
                [
                    (format!("{size} bytes"), &m.trips),
                    (format!("floor, beside {size} bytes"), &m.floor),
                ]
            })
            .collect();
        plot::percentiles(path, &curves)?;
    }
    Ok(Verdict::Well)
}

#[cfg(feature = "libfabric")]
fn over_fabric(options: &PairOptions) -> Result<Verdict, Failure> {
    crate::pair::fabric::round_trips(options)
}

#[cfg(not(feature = "libfabric"))]
fn over_fabric(_options: &PairOptions) -> Result<Verdict, Failure> {
    Err("this build is without libfabric; remedy: apt-get install libfabric-dev libclang-dev && cargo build --release -p spinwire --features libfabric".into())
}

struct AllSizes<'o>(&'o PairOptions);

impl Measure for AllSizes<'_> {
    type Result = Vec<Measured>;

    fn run<P: Provider, F: Floor>(
        self,
        client: &Client<'_, '_, P, F>,
    ) -> Result<Vec<Measured>, Failure> {
        self.0.sizes().into_iter().map(|size| measure(client, self.0, size)).collect()
    }
}

/// Messages of a round, where one and a bounce of the floor take so many nanoseconds.
fn per_round(options: &PairOptions, trip_ns: u64) -> u64 {
    let rounds = options.rounds;
    match options.iters {
        Some(iters) => iters.div_ceil(u64::from(rounds)),
        None => rounds_of(options.seconds.unwrap_or(SECONDS) * 1e9 / f64::from(rounds), trip_ns),
    }
}

/// Messages of that size before the first that counts.
fn warm_up(size: usize) -> u64 {
    let messages = WARM_UP_BYTES.checked_div(size).unwrap_or(usize::MAX);
    u64::try_from(messages).unwrap_or(u64::MAX).clamp(200, WARM_UP)
}

/// Has `run` do up to `few`, fewer where it takes long; nanoseconds of each.
fn each_of_few(few: u64, mut run: impl FnMut(u64) -> Result<u64, Failure>) -> Result<u64, Failure> {
    let (mut done, mut ns) = (0_u64, 0_u64);
    while done < few && ns < WARM_UP_NS {
        let count = done.max(WARM_UP_FEWEST).min(few.saturating_sub(done));
        ns = ns.saturating_add(run(count)?);
        done = done.saturating_add(count);
    }
    Ok(ns / done.max(1))
}

fn measure<P: Provider, F: Floor>(
    client: &Client<'_, '_, P, F>,
    options: &PairOptions,
    size: usize,
) -> Result<Measured, Failure> {
    let marking = options.marking();
    let message = vec![0x5A; size];
    let mut stamper = options.zero_copy.then(|| Stamper::new(size));
    let mut trip = |count, into: &mut Histogram<u64>| match &mut stamper {
        Some(stamper) => echo_loans(client, (size, marking, count), stamper, into)
            .map(|ns| (ns, Loss::default())),
        None if options.one_sided => {
            one_sided::echo(client, (size, count), into).map(|ns| (ns, Loss::default()))
        }
        None => match &client.exchange {
            Some(exchange) => exchange.echo(client, (&message, marking), count, into),
            None => echo(client, &message, marking, count, into).map(|ns| (ns, Loss::default())),
        },
    };
    let mut trips = Histogram::<u64>::new_with_bounds(1, 60_000_000_000, 3)?;
    let mut floor = trips.clone();
    // The warm-up also tells how many make up the time that was asked for.
    let few = warm_up(size);
    let warm = each_of_few(few, |count| trip(count, &mut trips).map(|(ns, _)| ns))?;
    let bare = |count| bounce(client, (count, size), &mut floor).map(|(ns, _)| ns);
    let warm_floor = each_of_few(few, bare)?;
    let rounds = options.rounds;
    let per_round = per_round(options, warm.saturating_add(warm_floor));
    // `clear` would keep the extremes of what is no more.
    trips.reset();
    floor.reset();
    let mut ratios = Vec::new();
    let (mut best, mut best_floor) = (u64::MAX, u64::MAX);
    let (mut loss, mut floor_loss) = (Loss::default(), Loss::default());
    let mut progress = Progress::new();
    let enough = Limit::of_rounds(options.seconds_to_measure(SECONDS));
    for round in (0..rounds).take_while(|round| *round == 0 || !enough.is_over()) {
        progress.show(size, round, rounds);
        let mut of_round = Histogram::<u64>::new_from(&trips);
        floor_loss.add(bounce(client, (per_round, size), &mut of_round)?.1);
        let floor_p50 = of_round.value_at_quantile(0.5);
        floor.add(&of_round)?;
        of_round.reset();
        loss.add(trip(per_round, &mut of_round)?.1);
        let p50 = of_round.value_at_quantile(0.5);
        trips.add(&of_round)?;
        ratios.push(ratio(p50, floor_p50));
        best = best.min(p50);
        best_floor = best_floor.min(floor_p50);
    }
    drop(progress);
    let report = Report {
        provider: options.path_of(client.station.endpoint.info()),
        zero_copy: options.zero_copy,
        one_sided: options.one_sided,
        datagrams: options.datagrams,
        shares_cpu: client.station.yields,
        size,
        iters: trips.len(),
        cpus: client.cpus,
        page: client.page.clone(),
        rtt_ns: RoundTrips::of(&trips),
        floor_rtt_ns: FloorTrips::of(&floor),
        ratio_p50: median(&mut ratios),
        ratio_p50_best_rounds: ratio(best, best_floor),
        rounds: u32::try_from(ratios.len())?,
        io_uring: client.station.endpoint.info().paths.names().collect(),
        loss: client.exchange.is_some().then(|| Losses::of(options.lost_after, loss, floor_loss)),
    };
    Ok(Measured { report, trips, floor })
}

/// How many of `each` nanoseconds fill `ns`.
fn rounds_of(ns: f64, each: u64) -> u64 {
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        clippy::cast_precision_loss,
        clippy::as_conversions,
        reason = "a rough number of iterations; the conversion saturates"
    )]
    let count = (ns / each.max(1) as f64) as u64;
    count.max(100)
}

#[expect(
    clippy::cast_precision_loss,
    clippy::as_conversions,
    reason = "nanoseconds of one round trip are far below 2^53"
)]
fn ratio(ours: u64, floor: u64) -> f64 {
    ours as f64 / floor.max(1) as f64
}

/// Bounces the bare thing; records each that came back, and returns the nanoseconds of all. What is lost is sent anew.
fn bounce<P: Provider, F: Floor>(
    client: &Client<'_, '_, P, F>,
    (count, size): (u64, usize),
    into: &mut Histogram<u64>,
) -> Result<(u64, Loss), Failure> {
    let station = &client.station;
    station.floor.reset();
    client.prepare(Order::Floor { count, size: u64::try_from(size)? })?;
    let clock = &station.clock;
    let mut loss = Loss { sent: count, ..Loss::default() };
    let deadline = Deadline::new();
    let begin = clock.ticks();
    let mut number = 0;
    while number < count {
        let sent = clock.ticks();
        if !station.floor.bounce(number, size)? {
            loss.add(Loss { sent: 1, lost: 1, late: 0 });
            station.floor.is_there()?;
            deadline.check_now("floor: the other end does not answer in time")?;
            continue;
        }
        let back = clock.ticks_after_loads();
        into.saturating_record(clock.ticks_to_ns(back.saturating_sub(sent)).max(1));
        number = number.saturating_add(1);
        deadline.moved();
    }
    Ok((clock.ticks_to_ns(clock.ticks().saturating_sub(begin)), loss))
}

/// Sends messages and waits for each to come back; records each, and returns the nanoseconds of all.
fn echo<P: Provider, F: Floor>(
    client: &Client<'_, '_, P, F>,
    message: &[u8],
    marking: Marking,
    count: u64,
    into: &mut Histogram<u64>,
) -> Result<u64, Failure> {
    let station = &client.station;
    station.post_all_data(marking, DataUse::OneMessage)?;
    let size = u64::try_from(message.len())?;
    client.prepare(Order::Echo { count, size, marking })?;
    let to = data_to(client.server, marking);
    let deadline = Deadline::new();
    let send = || {
        loop {
            match station.endpoint.inject(to, message) {
                Ok(()) => break,
                Err(PostError::Retry(_)) => {}
                Err(refused) => return Err(refused.into()),
            }
            station.turn_for_room(&deadline, "the other end takes no messages")?;
        }
        station.endpoint.flush();
        Ok::<_, Failure>(())
    };
    let mut laps = Laps::begin(&station.clock, into);
    if count > 0 {
        send()?;
    }
    for left in (0..count).rev() {
        let completion = loop {
            if station.turns_up()
                && let Some(completion) = station.endpoint.poll()
            {
                break completion;
            }
            station.watch(&deadline, "the other end does not answer")?;
        };
        laps.lap();
        if left > 0 {
            send()?;
        }
        // While the next one is on its way.
        laps.record();
        deadline.moved();
        if completion.kind != Kind::Received || completion.bytes() != Some(message) {
            return Err("a message came back changed".into());
        }
        if let Some(loan) = completion.loan {
            station.post_data(loan, marking, DataUse::OneMessage)?;
        }
    }
    Ok(laps.ns())
}

/// Sends buffers of the pool and waits for each to come back. What is timed is the way there and back and the look at what is in
/// it at either end, not the writing.
fn echo_loans<P: Provider, F: Floor>(
    client: &Client<'_, '_, P, F>,
    (size, marking, count): (usize, Marking, u64),
    stamper: &mut Stamper,
    into: &mut Histogram<u64>,
) -> Result<u64, Failure> {
    let station = &client.station;
    let loans = client.loans.as_ref().ok_or("there is no pool")?;
    station.post_all_data(marking, DataUse::OneMessage)?;
    client.prepare(Order::EchoLoans { count, size: u64::try_from(size)?, marking })?;
    let clock = &station.clock;
    let to = data_to(client.server, marking);
    let deadline = Deadline::new();
    let mut written = |number| {
        let mut guard = loans.acquire(station, size, &deadline)?;
        stamper.write(&mut guard, number)?;
        Ok::<_, Failure>(guard)
    };
    let begin = clock.ticks();
    let mut next = written(0)?;
    for number in 0..count {
        // A service turns when it has written something; and so what was written is out of the store buffer.
        for _ in 0..TURNS_BETWEEN {
            station.turn();
        }
        let sent = clock.ticks();
        loans.send(station, to, next, &deadline)?;
        station.endpoint.flush();
        let (mut completion, guard) = loop {
            station.turn();
            if let Some(mut completion) = station.endpoint.poll()
                && let Some(guard) = loans.take(&mut completion)?
            {
                break (completion, guard);
            }
            station.watch(&deadline, "the other end does not answer")?;
        };
        let good = looks_like(&guard, size, number)?;
        let back = clock.ticks_after_loads();
        into.saturating_record(clock.ticks_to_ns(back.saturating_sub(sent)).max(1));
        deadline.moved();
        if !good {
            return Err("a buffer came back changed".into());
        }
        drop(guard);
        if let Some(loan) = completion.loan.take() {
            station.post_data(loan, marking, DataUse::OneMessage)?;
        }
        station.endpoint.flush();
        loans.lender.collect(&station.endpoint);
        next = written(number.saturating_add(1))?;
    }
    drop(next);
    loans.settle(station)?;
    Ok(clock.ticks_to_ns(clock.ticks().saturating_sub(begin)))
}

/// The table for people.
fn in_words(reports: &[&Report]) -> Result<String, Failure> {
    let mut text = String::new();
    let Some(first) = reports.first() else { return Ok(text) };
    writeln!(
        text,
        "round trips {}through {} between CPUs {} and {}, {} pages; ns",
        match first {
            Report { zero_copy: true, .. } => "of pool buffers, uncopied, ",
            Report { one_sided: true, .. } => "of writes to memory ",
            Report { datagrams: true, .. } => "of datagrams ",
            Report { .. } => "",
        },
        first.provider,
        first.cpus[0],
        first.cpus[1],
        first.page
    )?;
    writeln!(
        text,
        "{:>8} {:>8} {:>6} {:>7} {:>7} {:>7} {:>7} {:>9} {:>6} {:>6}",
        "bytes", "iters", "min", "p50", "p90", "p99", "p99.9", "max", "ratio", "best"
    )?;
    for r in reports {
        let t = &r.rtt_ns;
        writeln!(
            text,
            "{:>8} {:>8} {:>6} {:>7} {:>7} {:>7} {:>7} {:>9} {:>6.2} {:>6.2}",
            r.size,
            r.iters,
            t.min,
            t.p50,
            t.p90,
            t.p99,
            t.p99_9,
            t.max,
            r.ratio_p50,
            r.ratio_p50_best_rounds
        )?;
        let floor = &r.floor_rtt_ns;
        writeln!(
            text,
            "{:>8} {:>8} {:>6} {:>7} {:>7} {:>7}",
            "floor", "", "", floor.p50, "", floor.p99
        )?;
    }
    notes(&mut text, first, reports)?;
    Ok(text)
}

/// What has to be said below the table.
fn notes(text: &mut String, first: &Report, reports: &[&Report]) -> Result<(), Failure> {
    for (r, loss) in reports.iter().filter_map(|r| r.loss.as_ref().map(|loss| (r, loss))) {
        writeln!(
            text,
            "{:>8} lost: {} of {}, {} answers late; floor: {} of {}",
            r.size, loss.lost, loss.sent, loss.late, loss.floor_lost, loss.floor_sent
        )?;
    }
    if let Some(loss) = &first.loss {
        writeln!(text, "lost: not answered within {} ms; not timed", loss.lost_after_ms)?;
    }
    if first.shares_cpu {
        *text += ON_ONE_CPU;
    }
    if !first.io_uring.is_empty() {
        *text += &wrapped("", &format!("io_uring: {}", first.io_uring.join(", ")));
    }
    writeln!(
        text,
        "floor: {} between the same two processes\nratio: median of {} rounds in turn; best: of the best rounds",
        if first.provider == "shm" {
            "one bare cache line"
        } else {
            "as many bytes on a plain socket"
        },
        first.rounds
    )?;
    Ok(())
}
