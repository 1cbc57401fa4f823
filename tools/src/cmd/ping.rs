//! `spinwire ping`: round trips to a `spinwire serve`, one by one.

use core::cell::Cell;
use core::sync::atomic::Ordering;
use core::time::Duration;
use std::sync::Arc;

use hdrhistogram::Histogram;
use serde::Serialize;
use signal_hook::consts::{SIGINT, SIGTERM};
use spinwire_dataplane::error::{Misuse, PostError};
use spinwire_dataplane::id::Addr;
use spinwire_dataplane::msg::{Completion, Kind, RecvFrom, SendTo};
use spinwire_dataplane::poll::{Budget, Poll};
use spinwire_dataplane::provider::{Caps, EndpointType, Event, Status};
use spinwire_dataplane::raw::loan::LoanPool;
use spinwire_dataplane::raw::pause::pause;
use spinwire_hostshim::affinity;
use spinwire_hostshim::discover::{Hints, Sizes, Transport, discover};
use spinwire_hostshim::negotiate::{Requirements, negotiate};
use spinwire_hostshim::open::{OpenConfig, Opened, with};
use spinwire_hostshim::uri::Uri;

use super::ps::table::nanoseconds;
use crate::arguments;
use crate::report::{self, Failure, Verdict};

/// Arguments of `spinwire ping`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  spinwire ping shm://demo
      against: spinwire serve shm://demo
  spinwire ping tcp://otherhost:7000 --count 10 --interval 0.2
  spinwire ping udp://otherhost:7000 --size 1400
      what is lost is counted
  spinwire ping ofi://tcp/otherhost:7000
      over libfabric, in builds with --features libfabric
  spinwire ping shm://demo tcp://otherhost:7000
      the best that can be reached; says which, and why not the others
  spinwire ping tcp://otherhost:7000 --count 1000 --interval 0 --quiet --json

Several URIs are several ways to one service: they are ranked as `spinwire providers --peer ..` ranks them, and tried in
that order. The first message is not counted: it warms caches, and connections. `ratio` is that of the median round trip to the
best one; how far the best one is from what the machine can do is what `spinwire lat` tells, by a floor of its own.

Exit codes: 0 every message came back, 1 some did not, or the service went, 2 nobody was reached.")]
pub(crate) struct Args {
    /// Where the service is found.
    #[arg(required = true, value_name = "URI")]
    uris: Vec<Uri>,

    /// Messages to send; without it, until Ctrl-C.
    #[arg(long, short = 'c', value_name = "N", value_parser = arguments::count)]
    count: Option<u64>,

    /// Seconds from one message to the next; 0: as soon as the last one came back.
    #[arg(long, short = 'i', value_name = "S", default_value = "1", value_parser = arguments::seconds)]
    interval: Duration,

    /// Bytes of a message, with an optional k or m.
    #[arg(long, short = 's', value_name = "BYTES", default_value = "64", value_parser = arguments::size)]
    size: usize,

    /// Seconds after which a message is lost, and a URI given up at which nobody answers.
    #[arg(long, short = 'W', value_name = "S", default_value = "2", value_parser = arguments::seconds)]
    timeout: Duration,

    /// The CPU to run on.
    #[arg(long, value_name = "N", value_parser = arguments::one_cpu)]
    cpus: Option<u32>,

    /// Say nothing of single messages.
    #[arg(long, short = 'q')]
    quiet: bool,

    /// Print JSON for machines: an object at the end.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Serialize)]
struct Report {
    provider: &'static str,
    endpoint_type: String,
    uri: String,
    /// What was preferred, and why it was in vain.
    passed_over: Vec<String>,
    size: usize,
    sent: u64,
    received: u64,
    /// Those that came after they were given up.
    late: u64,
    loss_percent: f64,
    /// It ended because the service did.
    gone: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    rtt_ns: Option<RoundTrips>,
    /// The median round trip to the best one.
    #[serde(skip_serializing_if = "Option::is_none")]
    ratio: Option<f64>,
}

#[derive(Debug, Serialize)]
struct RoundTrips {
    min: u64,
    p50: u64,
    p99: u64,
    max: u64,
    mean: f64,
}

/// The tag of what is sent: `PING`.
pub(super) const TAG: u64 = 0x474E_4950;
/// Bytes of the number that each message begins with. A shorter one has as much of it as it holds, and all of it as immediate data where
/// there are any.
const NUMBER_BYTES: usize = 8;
const GONE: &str = "the service is gone";
const FULL: &str = "the service did not take this client: it has as many as it takes; remedy: spinwire serve --clients N # there";
/// Buffers that answers come into; late ones take some.
const RECEIVES: u32 = 8;

/// Runs the command.
pub(crate) fn run(args: &Args) -> Result<Verdict, Failure> {
    let stop = Arc::default();
    for signal in [SIGINT, SIGTERM] {
        signal_hook::flag::register(signal, Arc::clone(&stop))?;
    }
    if let Some(cpu) = args.cpus {
        affinity::pin(cpu)?;
    }
    let sizes = Sizes::messages_of(args.size.max(64 << 10));
    let wanted = Requirements::default()
        .of_types(&[EndpointType::Rdm, EndpointType::Dgram])
        .with_caps(Caps::TAGGED.with(Caps::DIRECTED_RECV))
        .for_messages_of(args.size)
        .for_peer_at(&args.uris);
    // What there is no address for need not be looked at.
    let transports: Vec<Transport> = args.uris.iter().map(Uri::transport).collect();
    let plan = negotiate(&wanted, &discover(&Hints::only(&transports).with_sizes(sizes)));
    let arena = usize::try_from(RECEIVES)? * (args.size + 256) + (1 << 20);
    let config = OpenConfig::connect().with_sizes(sizes).with_arena(arena).within(args.timeout);
    let stopped = || stop.load(Ordering::Relaxed);
    let report = with(&plan, &config, |opened| Pinger::new(&opened, args)?.run(&stopped))??;
    if args.json {
        report::print_json(core::slice::from_ref(&report))?;
    } else {
        report::emit(&in_words(&report))?;
    }
    let is_well = report.received == report.sent && !report.gone;
    Ok(if is_well { Verdict::Well } else { Verdict::NotWell })
}

/// One end that asks.
struct Pinger<'o, 'a> {
    opened: &'o Opened<'a>,
    args: &'o Args,
    peer: Addr,
    message: Vec<u8>,
    late: u64,
    /// Nothing will come any more.
    is_gone: bool,
}

/// What has become of a message.
enum Answer {
    After(u64),
    Lost,
    /// And what has come until then is all that will.
    Gone,
    Stopped,
}

impl<'o, 'a> Pinger<'o, 'a> {
    fn new(opened: &'o Opened<'a>, args: &'o Args) -> Result<Self, Failure> {
        let peer = opened.peer.ok_or("there is nobody to ask")?;
        let buffers = LoanPool::place(opened.bump(), RECEIVES, args.size)?;
        let pinger =
            Self { opened, args, peer, message: vec![0x5A; args.size], late: 0, is_gone: false };
        while let Some(loan) = buffers.lend() {
            pinger.opened.endpoint.post_recv(from(peer), loan, 0).map_err(|e| e.error)?;
        }
        Ok(pinger)
    }

    fn run(mut self, stopped: &impl Fn() -> bool) -> Result<Report, Failure> {
        let is_shown = !self.args.quiet && !self.args.json;
        // Who reads no more of it, as `head`, has ended it as Ctrl-C does.
        let is_read = Cell::new(true);
        let stopped = &|| stopped() || !is_read.get();
        let say = |text: &str| {
            is_read.set(is_read.get() && report::tell(&format!("{text}\n"))?);
            Ok::<_, Failure>(())
        };
        if !self.args.json {
            say(&format!("PING {}, {} bytes", self.opened, self.args.size))?;
        }
        let mut trips = Histogram::<u64>::new_with_bounds(1, 3_600_000_000_000, 3)?;
        let mut sent = 0;
        // Not counted: the first of a connection is another thing than the rest.
        if matches!(self.ask(0, stopped)?, Answer::Gone) {
            return Err(GONE.into());
        }
        while !stopped() && self.args.count.is_none_or(|count| sent < count) {
            let began = self.opened.now();
            match self.ask(sent + 1, stopped)? {
                Answer::After(ns) => {
                    trips.record(ns)?;
                    if is_shown {
                        let (size, time) = (self.args.size, nanoseconds(ns));
                        say(&format!("{size} bytes: seq={} time={time}", sent + 1))?;
                    }
                }
                Answer::Lost if is_shown => say(&format!("seq={} lost", sent + 1))?,
                Answer::Lost | Answer::Gone => {}
                Answer::Stopped => break,
            }
            sent += 1;
            if self.is_gone {
                break;
            }
            let is_last = self.args.count == Some(sent);
            while !is_last && !self.is_gone && !stopped() && self.since(began) < self.args.interval
            {
                self.turn(None)?;
                std::thread::sleep(Duration::from_micros(200).min(self.args.interval));
            }
        }
        Ok(self.report(sent, &trips))
    }

    fn since(&self, began: spinwire_dataplane::time::Instant) -> Duration {
        Duration::from_nanos(self.opened.now().saturating_since(began).as_nanos())
    }

    /// Sends a message and waits for it to come back.
    fn ask(&mut self, number: u64, stopped: &impl Fn() -> bool) -> Result<Answer, Failure> {
        let number_of = number.to_le_bytes();
        let length = NUMBER_BYTES.min(self.message.len());
        if let (Some(to), Some(from)) = (self.message.get_mut(..length), number_of.get(..length)) {
            to.copy_from_slice(from);
        }
        let to = SendTo::peer(self.peer).tag(TAG);
        let to = if self.is_beside() { to.immediate(number) } else { to };
        let began = self.opened.now();
        loop {
            match self.opened.endpoint.inject(to, &self.message) {
                Ok(()) => break,
                Err(PostError::Retry(_)) if self.since(began) < self.args.timeout => {
                    self.turn(Some(number))?;
                }
                Err(PostError::Retry(_)) => return Ok(Answer::Lost),
                // It had let this end go before that could send anything.
                Err(PostError::Misuse(Misuse::StaleAddress)) if number == 0 => {
                    return Err(FULL.into());
                }
                Err(PostError::Fatal(_) | PostError::Misuse(Misuse::StaleAddress)) => {
                    self.is_gone = true;
                    return Ok(Answer::Gone);
                }
                Err(refused) => return Err(refused.into()),
            }
        }
        self.opened.endpoint.flush();
        let mut looks = 0_u32;
        loop {
            if self.turn(Some(number))? {
                let ns = self.opened.now().saturating_since(began).as_nanos();
                return Ok(Answer::After(ns.max(1)));
            }
            if self.is_gone {
                return Ok(Answer::Gone);
            }
            looks = looks.wrapping_add(1);
            if looks.is_multiple_of(64) {
                if self.since(began) > self.args.timeout {
                    return Ok(Answer::Lost);
                }
                if stopped() {
                    return Ok(Answer::Stopped);
                }
            }
        }
    }

    /// One turn: whether the answer of the number that is waited for has come. Any other is late.
    #[inline]
    fn turn(&mut self, awaited: Option<u64>) -> Result<bool, Failure> {
        let endpoint = &self.opened.endpoint;
        let outcome = endpoint.turn(self.opened.now(), Budget::DEFAULT);
        let mut has_come = false;
        while let Some(answer) = endpoint.poll() {
            if answer.kind != Kind::Received {
                continue;
            }
            if awaited.is_some_and(|number| self.is_answer(&answer, number)) {
                has_come = true;
                self.check(&answer)?;
            } else {
                self.late += 1;
            }
            if let Some(loan) = answer.loan {
                match endpoint.post_recv(from(self.peer), loan, 0).map_err(|e| e.error) {
                    Ok(_id) => {}
                    // Its last answer has come with its end.
                    Err(PostError::Fatal(_) | PostError::Misuse(Misuse::StaleAddress)) => {
                        self.is_gone = true;
                    }
                    Err(refused) => return Err(refused.into()),
                }
            }
        }
        if !outcome.is_busy() {
            match endpoint.poll_event() {
                Some(Event::PeerGone(_)) => self.is_gone = true,
                Some(Event::Refused(_)) => return Err(FULL.into()),
                Some(Event::PeerCorrupt(_)) => return Err("the service wrote nonsense".into()),
                Some(Event::Connected(_) | Event::StaleCompletion(_)) => {}
                None => pause(),
            }
        }
        Ok(has_come)
    }

    /// Whether numbers go beside messages, too.
    fn is_beside(&self) -> bool {
        self.message.len() < NUMBER_BYTES && self.opened.info().caps.has(Caps::IMMEDIATE)
    }

    /// Whether it is the answer to the question of that number.
    fn is_answer(&self, answer: &Completion<'_>, number: u64) -> bool {
        let length = NUMBER_BYTES.min(self.message.len());
        let has_its_bytes = answer.bytes().and_then(|bytes| bytes.get(..length))
            == number.to_le_bytes().get(..length);
        has_its_bytes && (!self.is_beside() || answer.immediate == Some(number))
    }

    fn check(&self, answer: &Completion<'_>) -> Result<(), Failure> {
        match (answer.status, answer.bytes()) {
            (Status::Success, Some(bytes)) if bytes == self.message => Ok(()),
            (Status::Success, _) => Err("the answer is not what was sent".into()),
            (status, _) => Err(format!("the answer: {status}").into()),
        }
    }

    fn report(&self, sent: u64, trips: &Histogram<u64>) -> Report {
        let received = trips.len();
        let any = received > 0;
        #[expect(
            clippy::cast_precision_loss,
            clippy::as_conversions,
            reason = "numbers of messages and nanoseconds, for people"
        )]
        let ratio = |a: u64, b: u64| a as f64 / b.max(1) as f64;
        let info = self.opened.info();
        let p50 = trips.value_at_quantile(0.5);
        Report {
            provider: info.provider,
            endpoint_type: info.endpoint_type.to_string(),
            uri: self.opened.uri.to_string(),
            passed_over: self.opened.failed.iter().map(ToString::to_string).collect(),
            size: self.args.size,
            sent,
            received,
            late: self.late,
            gone: self.is_gone,
            loss_percent: 100.0 * ratio(sent - received.min(sent), sent),
            rtt_ns: any.then(|| RoundTrips {
                min: trips.min(),
                p50,
                p99: trips.value_at_quantile(0.99),
                max: trips.max(),
                mean: trips.mean(),
            }),
            ratio: any.then(|| ratio(p50, trips.min())),
        }
    }
}

const fn from(peer: Addr) -> RecvFrom {
    RecvFrom::peer(peer).tag(TAG)
}

fn in_words(report: &Report) -> String {
    let mut text = format!(
        "--- {} ---\n{} sent, {} received, {:.1}% lost, {} late\n",
        report.uri, report.sent, report.received, report.loss_percent, report.late
    );
    if let (Some(trips), Some(ratio)) = (&report.rtt_ns, report.ratio) {
        let [min, p50, p99, max] = [trips.min, trips.p50, trips.p99, trips.max].map(nanoseconds);
        text += &format!(
            "rtt min/p50/p99/max = {min} / {p50} / {p99} / {max}; ratio {ratio:.2} (p50 to the best)\n"
        );
    }
    if report.gone {
        text += &format!("{GONE}\n");
    } else if report.sent > 0 && report.received == 0 {
        text += &format!(
            "nothing came back; remedy: spinwire serve {} # there, with --message {} at least\n",
            report.uri, report.size
        );
    }
    text
}
