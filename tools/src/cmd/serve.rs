//! `spinwire serve`: an endpoint at each URI that sends back whatever comes, for any number of clients.

use core::cell::RefCell;
use core::fmt::Write as _;
use core::sync::atomic::Ordering;
use core::time::Duration;
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Instant;

use serde::Serialize;
use signal_hook::consts::{SIGINT, SIGTERM};
use spinwire_dataplane::error::{Misuse, PostError};
use spinwire_dataplane::msg::{Completion, Endpoint, RecvFrom, SendTo};
use spinwire_dataplane::poll::{Budget, Outcome, Poll};
use spinwire_dataplane::provider::{Caps, EndpointType, Status};
use spinwire_dataplane::raw::loan::{Loan, LoanPool};
use spinwire_dataplane::raw::pause::pause;
use spinwire_hostshim::affinity;
use spinwire_hostshim::clock::TscClock;
use spinwire_hostshim::discover::{Sizes, Transport};
use spinwire_hostshim::open::{AnyPort, Host, News, OpenConfig, OpenError, Seat};
use spinwire_hostshim::uri::Uri;

use crate::arguments;
use crate::report::{self, Failure, Verdict};

/// Arguments of `spinwire serve`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  spinwire serve shm://demo
      then, in another terminal: spinwire ping shm://demo
  spinwire serve tcp://0.0.0.0:7000 udp://0.0.0.0:7000
      from another host: spinwire ping tcp://thishost:7000
  spinwire serve shm://market/echo --nap
      sleeps while nothing comes, until the next message wakes it
  spinwire serve tcp://127.0.0.1:0 --json
      any free port; the first line says which

A URI is one of these, with /NAME behind it where the endpoint is not to be called `server`:
  shm://DOMAIN
  tcp://HOST:PORT
  udp://HOST:PORT
  verbs://DEVICE/HOST:PORT    in builds with --features verbs
  mlx5://DEVICE/HOST:PORT     in builds with --features mlx5
  ofi://PROVIDER/HOST:PORT    in builds with --features libfabric
The last three tell each other at HOST:PORT who they are. Over shm, tcp, verbs and ofi endpoints are of type rdm, over udp dgram. Every message goes back to its sender as it came (over ofi://shm: those without a tag, and those of ping), with
its tag and its immediate data, by any program that uses endpoints. It polls and never sleeps, unless told to: give it a
CPU of its own. It ends with SIGINT (Ctrl-C) or SIGTERM and says what it has done.

Exit codes: 0 it has served, 2 it could not be found at one of its URIs.")]
pub(crate) struct Args {
    /// Where to be found; several are served together.
    #[arg(required = true, value_name = "URI")]
    uris: Vec<Uri>,

    /// The longest message that is answered, in bytes, with an optional k or m. Over udp at most what a datagram holds.
    #[arg(long, value_name = "BYTES", default_value = "64k", value_parser = arguments::size)]
    message: usize,

    /// Clients at the same time, at each URI.
    #[arg(long, value_name = "N", default_value_t = 64, value_parser = arguments::whole(1..=1024_u32))]
    clients: u32,

    /// The CPU to run on.
    #[arg(long, value_name = "N", value_parser = arguments::one_cpu)]
    cpus: Option<u32>,

    /// Sleep while nothing has come for a while. A message wakes it; over what has no descriptor to be woken by (mlx5, ofi://shm) it looks every
    /// millisecond. It is woken fast, within some 100 us, where its CPU is its own (--cpus): where the other end spins on that CPU, as an unpinned
    /// ping may, it waits for the scheduler, for milliseconds.
    #[arg(long)]
    nap: bool,

    /// Print JSON for machines: a line when it is found, an object at the end.
    #[arg(long)]
    json: bool,
}

/// What it has done.
#[derive(Debug, Default, Serialize)]
struct Done {
    messages: u64,
    bytes: u64,
    answered: u64,
    /// Answers that their client did not take.
    dropped: u64,
    /// Messages longer than what is answered.
    cut: u64,
    clients_gone: u64,
    /// Packets that were no messages, and what was wrong with the last of them.
    garbage: u64,
    garbage_is: Option<String>,
}

/// Messages that are received at once, of each kind.
const RECEIVES: u32 = 16;
/// An answer that a client does not take for so long is given up: it holds a buffer.
const STUCK: Duration = Duration::from_secs(1);
/// Turns without anything before it sleeps.
const QUIET: u32 = 100_000;
/// The longest sleep where nothing wakes it.
const UNTOLD: Duration = Duration::from_millis(1);
/// The longest sleep where everything does. A signal may have come just before.
const TOLD: Duration = Duration::from_millis(200);

/// An answer that could not be sent yet.
struct Owed<'a> {
    message: Completion<'a>,
    since: Instant,
}

/// One endpoint at work.
struct Service<'a> {
    endpoint: Endpoint<'a, AnyPort<'a>>,
    owed: RefCell<VecDeque<Owed<'a>>>,
}

const fn kind_of(uri: &Uri) -> EndpointType {
    match uri.transport() {
        Transport::Udp => EndpointType::Dgram,
        Transport::Shm | Transport::Tcp | Transport::Verbs | Transport::Mlx5 | Transport::Ofi => {
            EndpointType::Rdm
        }
    }
}

/// Runs the command.
pub(crate) fn run(args: &Args) -> Result<Verdict, Failure> {
    let stop = Arc::default();
    for signal in [SIGINT, SIGTERM] {
        signal_hook::flag::register(signal, Arc::clone(&stop))?;
    }
    if let Some(cpu) = args.cpus {
        affinity::pin(cpu)?;
    }
    let sizes =
        Sizes { message_bytes: Some(args.message), peers: Some(args.clients), ..Sizes::default() };
    let buffers = usize::try_from(RECEIVES)? * 2 * (args.message + 256);
    let config = OpenConfig::listen().with_sizes(sizes).with_arena(buffers + (1 << 20));
    let config = if args.nap { config.waiting() } else { config };
    let open = |uri: &Uri| {
        Host::open(uri, kind_of(uri), &config).map_err(|e| Failure::from(format!("{uri}: {e}")))
    };
    let mut hosts = args.uris.iter().map(open).collect::<Result<Vec<_>, _>>()?;
    let found_at: Vec<String> = hosts.iter().map(|host| host.uri().to_string()).collect();
    let seats = hosts.iter_mut().map(Host::seat).collect::<Result<Vec<_>, _>>()?;
    let mut services = Vec::new();
    for (seat, uri) in seats.iter().zip(&found_at) {
        let service = Service::open(seat, args.message);
        services.push(service.map_err(|e| format!("{uri}: {e}"))?);
    }
    announce(&services, &found_at, args.json)?;
    let clock = TscClock::calibrate();
    let bed = if args.nap { Some(Bed::of(&seats, &services)?) } else { None };
    let mut done = Done::default();
    let mut quiet = 0_u32;
    while !stop.load(Ordering::Relaxed) {
        let mut is_busy = false;
        for service in &services {
            is_busy |= service.turn(&clock, &mut done)?;
        }
        quiet = if is_busy { 0 } else { quiet.saturating_add(1) };
        if let Some(bed) = &bed {
            bed.rest(quiet > QUIET, clock.now())?;
        }
        if quiet > 0 {
            pause();
        }
    }
    drop(bed);
    services.iter().for_each(|service| service.tell_garbage(&mut done));
    say(&done, args.json)
}

/// Where the services sleep while nothing comes.
struct Bed<'e, 'a> {
    news: Vec<News<'e, 'a>>,
    /// Whether everything that comes is told.
    is_told: bool,
}

impl<'e, 'a> Bed<'e, 'a> {
    fn of(seats: &[Seat<'a>], services: &'e [Service<'a>]) -> Result<Self, Failure> {
        let mut bed = Self { news: Vec::new(), is_told: true };
        for (seat, service) in seats.iter().zip(services) {
            match seat.news(&service.endpoint) {
                Ok(news) => bed.news.push(news),
                Err(OpenError::NoDescriptor(_)) => bed.is_told = false,
                Err(failed) => return Err(failed.into()),
            }
        }
        Ok(bed)
    }

    /// Sleeps, where it is quiet.
    fn rest(&self, is_quiet: bool, now: spinwire_dataplane::time::Instant) -> Result<(), Failure> {
        let outcome = if is_quiet { Outcome::Idle } else { Outcome::Busy };
        if let Some(most) = News::may_sleep_on(&self.news, outcome, now)
            && is_quiet
        {
            let _told =
                News::sleep_on(&self.news, most.min(if self.is_told { TOLD } else { UNTOLD }))?;
        }
        Ok(())
    }
}

impl<'a> Service<'a> {
    fn open(seat: &Seat<'a>, message_bytes: usize) -> Result<Self, Failure> {
        let endpoint = seat.endpoint()?;
        let longest = message_bytes.min(endpoint.info().limits.message_bytes_max);
        let buffers = LoanPool::place(seat.bump(), RECEIVES * 2, longest)?;
        let service = Self { endpoint, owed: RefCell::default() };
        let is_tagged = service.endpoint.info().caps.has(Caps::TAGGED);
        let kinds = if is_tagged { &[UNTAGGED, TAGGED][..] } else { &[UNTAGGED] };
        for context in kinds.repeat(usize::try_from(RECEIVES)?) {
            let loan = buffers.lend().ok_or("there are as many buffers as receives")?;
            service.post(context, loan)?;
        }
        Ok(service)
    }

    /// Answers what has come; whether there was anything.
    fn turn(&self, clock: &TscClock, done: &mut Done) -> Result<bool, Failure> {
        let mut owed_now = self.owed.borrow_mut();
        let mut is_busy = self.endpoint.turn(clock.now(), Budget::DEFAULT).is_busy();
        while let Some(message) = self.endpoint.poll() {
            if message.status == Status::Truncated {
                done.cut += 1;
                self.post_again(message)?;
                continue;
            }
            done.messages += 1;
            done.bytes += u64::try_from(message.length)?;
            owed_now.push_back(Owed { message, since: Instant::now() });
        }
        // Who takes nothing does not hold up the others.
        for _ in 0..owed_now.len() {
            let Some(owed) = owed_now.pop_front() else { break };
            is_busy = true;
            match self.answer(&owed.message) {
                Ok(()) => done.answered += 1,
                Err(PostError::Retry(_)) if owed.since.elapsed() < STUCK => {
                    owed_now.push_back(owed);
                    continue;
                }
                Err(_gone) => done.dropped += 1,
            }
            self.post_again(owed.message)?;
        }
        self.endpoint.flush();
        while let Some(event) = self.endpoint.poll_event() {
            use spinwire_dataplane::provider::Event;
            done.clients_gone += u64::from(matches!(event, Event::PeerGone(_)));
        }
        Ok(is_busy)
    }

    /// Nobody hears why a datagram was not taken but this end.
    fn tell_garbage(&self, done: &mut Done) {
        let (count, fault) = match self.endpoint.provider() {
            AnyPort::Udp(port) => (port.counters().garbage, port.last_fault()),
            #[cfg(feature = "verbs")]
            AnyPort::VerbsDatagrams(port, _) => (port.counters().garbage, port.last_fault()),
            #[cfg(feature = "mlx5")]
            AnyPort::Mlx5Datagrams(port, _) => (port.counters().garbage, port.last_fault()),
            _ => return,
        };
        done.garbage += count;
        done.garbage_is = fault.map(|fault| fault.to_string()).or(done.garbage_is.take());
    }

    fn answer(&self, message: &Completion<'_>) -> Result<(), PostError> {
        let (Some(peer), Some(bytes)) = (message.source, message.bytes()) else { return Ok(()) };
        let to = SendTo::peer(peer);
        let to = message.tag.map_or(to, |tag| to.tag(tag));
        let to = message.immediate.map_or(to, |immediate| to.immediate(immediate));
        self.endpoint.inject(to, bytes)
    }

    fn post_again(&self, message: Completion<'a>) -> Result<(), Failure> {
        if let Some(loan) = message.loan {
            self.post(message.context, loan)?;
        }
        Ok(())
    }

    fn post(&self, context: u64, loan: Loan<'a>) -> Result<(), Failure> {
        let refused = match self.endpoint.post_recv(from(context), loan, context) {
            Ok(_id) => return Ok(()),
            Err(refused) => refused,
        };
        // The shm of libfabric has no masks: then those of `ping` are answered alone.
        let is_masked =
            context == TAGGED && refused.error == PostError::Misuse(Misuse::Unsupported);
        if !is_masked {
            return Err(refused.error.into());
        }
        let from = RecvFrom::any().tag(super::ping::TAG);
        self.endpoint.post_recv(from, refused.item, context).map_err(|e| e.error)?;
        Ok(())
    }
}

/// Contexts of receives.
const UNTAGGED: u64 = 0;
const TAGGED: u64 = 1;

const fn from(context: u64) -> RecvFrom {
    if context == TAGGED { RecvFrom::any().tag_ignoring(0, u64::MAX) } else { RecvFrom::any() }
}

fn announce(services: &[Service<'_>], found_at: &[String], json: bool) -> Result<(), Failure> {
    if json {
        return report::emit(&format!("{}\n", serde_json::json!({ "serving": found_at })));
    }
    let mut text = String::new();
    for (service, uri) in services.iter().zip(found_at) {
        let info = service.endpoint.info();
        writeln!(text, "serving {} {} at {uri}", info.provider, info.endpoint_type)?;
    }
    writeln!(text, "in another terminal: spinwire ping {}", found_at.join(" "))?;
    report::emit(&text)
}

fn say(done: &Done, json: bool) -> Result<Verdict, Failure> {
    if json {
        report::print_json(core::slice::from_ref(done))?;
    } else {
        let mut text = format!(
            "{} messages, {} bytes; {} answered, {} not taken by their client, {} too long; {} clients have gone\n",
            done.messages, done.bytes, done.answered, done.dropped, done.cut, done.clients_gone
        );
        if let Some(fault) = &done.garbage_is {
            writeln!(text, "{} packets were no messages; the last: {fault}", done.garbage)?;
        }
        report::emit(&text)?;
    }
    Ok(Verdict::Well)
}
