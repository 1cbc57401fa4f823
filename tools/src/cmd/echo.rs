//! `spinwire echo`: an echo service over TCP, for any client.

use core::sync::atomic::Ordering;
use core::time::Duration;
use std::os::fd::AsRawFd;
use std::sync::Arc;

use serde::Serialize;
use signal_hook::consts::{SIGINT, SIGTERM};
use spinwire_dataplane::error::{PostError, Refused};
use spinwire_dataplane::poll::{Budget, Poll};
use spinwire_dataplane::raw::pause::pause;
use spinwire_dataplane::stream::{StreamConfig, StreamCounters, StreamEvent, Streams};
use spinwire_dataplane::time::{Instant, Nanos};
use spinwire_dataplane::uring::{Enter, RingCounters};
use spinwire_hostshim::affinity;
use spinwire_hostshim::clock::TscClock;
use spinwire_hostshim::limits;
use spinwire_hostshim::socket::{self, Address, Scheme, SocketOptions};
use spinwire_hostshim::uring::{Feature, Uring, UringConfig};

use crate::arguments;
use crate::report::{self, Failure, Verdict};

/// Arguments of `spinwire echo`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  spinwire echo
  spinwire echo --listen tcp://0.0.0.0:7000 --cpus 1 --connections 4096
  spinwire echo --listen tcp://127.0.0.1:0 --json
      any free port; the first line says which

It polls and never sleeps: give it a CPU of its own. Any TCP client will do, for instance `nc 127.0.0.1 7000`. It ends
with SIGINT (Ctrl-C) or SIGTERM and says what it has done. A client that takes none of its answers for 30 s is cut off,
or for 1 s while others lack buffers because of it.")]
pub(crate) struct Args {
    /// Where to listen: tcp://HOST:PORT; port 0 is any that is free.
    #[arg(long, value_name = "URI", default_value = "tcp://127.0.0.1:7000")]
    listen: Address,

    /// The CPU to run on.
    #[arg(long, value_name = "N", value_parser = arguments::one_cpu)]
    cpus: Option<u32>,

    /// Connections at the same time; further ones wait until one ends.
    #[arg(long, value_name = "N", default_value_t = 1024, value_parser = arguments::whole(1..=65536_u32))]
    connections: u32,

    /// Bytes of each buffer that is received into, with an optional k or m.
    #[arg(long, value_name = "BYTES", default_value = "16k", value_parser = arguments::size)]
    buffer: usize,

    /// Send pieces of so many bytes and more without a copy, where the kernel can; 0: never. It pays on network cards that
    /// take pages; the loop-back device copies them after all.
    #[arg(long, value_name = "BYTES", default_value = "0", value_parser = size_or_none)]
    zero_copy: u32,

    /// Close connections on which nothing has moved for so many seconds.
    #[arg(long, value_name = "S", value_parser = arguments::some_seconds)]
    idle: Option<f64>,

    /// Print JSON for machines: a line when it listens, an object at the end.
    #[arg(long)]
    json: bool,
}

/// What the command says when it listens.
#[derive(Debug, Serialize)]
struct Listening {
    listening: String,
    paths: Vec<&'static str>,
    pages: String,
}

/// What it has done.
#[derive(Debug, Serialize)]
struct Done {
    accepted: u64,
    turned_away: u64,
    received_bytes: u64,
    sent_bytes: u64,
    zero_copy_sends: u64,
    out_of_buffers: u64,
    stale_completions: u64,
    /// Receives that were waited for, and that were asked; and of those, how many found nothing.
    waits: u64,
    asks: u64,
    vain_asks: u64,
    system_calls: u64,
    completions: u64,
    retries: u64,
    /// How long it had something to do; the rest of the time it looked in vain.
    busy_ns: u64,
}

/// The time of turns in which there was something to do.
#[derive(Debug, Default)]
struct Busy {
    /// When the last turn began, if it was one.
    since: Option<Instant>,
    total_ns: u64,
}

/// Most clients that are asked at once. They are answered together: more would cost fewer system calls, and the first of them would wait for the last.
const ASKED_MAX: u32 = 16;

/// A client that takes nothing for so long, though there is something for it, is cut off: it holds buffers.
const STUCK: Nanos = Nanos::from_millis(30_000);

/// And after so long where others lack buffers because of it.
const HOARDED: Nanos = Nanos::from_millis(1_000);

/// A size, or 0.
fn size_or_none(text: &str) -> Result<u32, String> {
    if text == "0" {
        return Ok(0);
    }
    let size = arguments::size(text).map_err(|what| format!("{what}, or 0 for never"))?;
    u32::try_from(size).map_err(|_large| format!("{text} is too large"))
}

/// Runs the command.
pub(crate) fn run(args: &Args) -> Result<Verdict, Failure> {
    if args.listen.scheme() != Scheme::Tcp {
        return Err("--listen: echo serves tcp://HOST:PORT only".into());
    }
    let stop = Arc::default();
    for signal in [SIGINT, SIGTERM] {
        signal_hook::flag::register(signal, Arc::clone(&stop))?;
    }
    // As far as that is allowed: a ring that cannot have its table of files says so, with the remedy.
    limits::raise_open_files(u64::from(args.connections) + 128)?;
    let local = *args.listen.resolve()?.first().ok_or("--listen: the host has no address")?;
    if let Some(cpu) = args.cpus {
        affinity::pin(cpu)?;
    }
    let config = config(args);
    let uring = Uring::open(&UringConfig::for_streams(&config))?;
    let ring = uring.ring()?;
    let streams = uring.streams(&ring, 0, &config)?;
    let clock = TscClock::calibrate();
    // The last of all: whoever can connect is served, and does not wait for the memory and the clock.
    let listener = socket::listen(local, args.connections, &SocketOptions::default())?;
    streams.listen(listener.fd.as_raw_fd())?;
    let listening = Listening {
        listening: format!("tcp://{}", listener.local),
        paths: uring.features().active().iter().map(Feature::name).collect(),
        pages: uring.arena_report().map(|report| report.page().to_string()).unwrap_or_default(),
    };
    if args.json {
        report::emit(&format!("{}\n", serde_json::to_string(&listening)?))?;
    } else {
        let Listening { listening, pages, paths } = &listening;
        let paths = paths.join(", ");
        report::emit(&format!("listening on {listening}\n{pages} pages; io_uring with {paths}\n"))?;
    }
    let mut busy = Busy::default();
    while !stop.load(Ordering::Relaxed) {
        // A look at the flag now and then.
        for _ in 0..1024 {
            turn(&streams, &clock, &mut busy)?;
        }
    }
    let busy_ns = busy.total_ns;
    say(&Done { busy_ns, ..Done::of(&streams.counters(), &ring.counters()) }, args.json)
}

/// Buffers for all, and no fewer than two for each while there are not too many connections.
fn config(args: &Args) -> StreamConfig {
    // What has come and cannot wait to be sent back ends its connection: so there is a place for every buffer, and of those there are a power
    // of two.
    let buffers = args.connections.saturating_mul(2).clamp(64, 4096).next_power_of_two();
    let nanos = |seconds: f64| {
        let span = Duration::try_from_secs_f64(seconds).unwrap_or(Duration::MAX);
        Nanos::new(u64::try_from(span.as_nanos()).unwrap_or(u64::MAX))
    };
    StreamConfig {
        conns: args.connections.saturating_add(1),
        recv_buffers: (buffers, args.buffer),
        send_buffers: (1, 64),
        segments: buffers,
        // What waits lies in buffers that were received into: there are no more of those.
        queue_max: u32::MAX,
        backlog: args.connections,
        send_timeout: STUCK,
        hoard_timeout: HOARDED,
        zero_copy_min: args.zero_copy,
        ask_max: ASKED_MAX,
        idle_timeout: args.idle.map_or(Nanos::MAX, nanos),
        ..StreamConfig::default()
    }
}

#[inline]
fn turn<E: Enter>(
    streams: &Streams<'_, E>,
    clock: &TscClock,
    busy: &mut Busy,
) -> Result<(), Failure> {
    let now = clock.now();
    if let Some(since) = busy.since.take() {
        busy.total_ns += now.saturating_since(since).as_nanos();
    }
    let outcome = streams.turn(now, Budget::default());
    let mut events = false;
    while let Some(event) = streams.poll() {
        events = true;
        answer(streams, event)?;
    }
    if outcome.is_busy() || events {
        busy.since = Some(now);
    } else {
        pause();
    }
    Ok(())
}

/// Sends back what has come; closes when the other end does.
fn answer<'m, E: Enter>(streams: &Streams<'m, E>, event: StreamEvent<'m>) -> Result<(), Failure> {
    match event {
        StreamEvent::Received { conn, bytes } => match streams.send_unsignaled(conn, bytes) {
            // What the other end does not want any more, it does not get.
            Ok(()) | Err(Refused { error: PostError::Fatal(_) | PostError::Misuse(_), .. }) => {}
            Err(Refused { error: PostError::Retry(_), .. }) => streams.abort(conn)?,
        },
        StreamEvent::PeerClosed(conn) => streams.close(conn)?,
        StreamEvent::Accepted { .. }
        | StreamEvent::AcceptFailed { .. }
        | StreamEvent::Connected(_)
        | StreamEvent::Sent { .. }
        | StreamEvent::NotSent { .. }
        | StreamEvent::RangeBack { .. }
        | StreamEvent::Writable(_)
        | StreamEvent::ReceiveTimedOut(_)
        | StreamEvent::Closed { .. } => {}
    }
    Ok(())
}

impl Done {
    const fn of(streams: &StreamCounters, ring: &RingCounters) -> Self {
        Self {
            accepted: streams.accepted,
            turned_away: streams.turned_away,
            received_bytes: streams.received_bytes,
            sent_bytes: streams.sent_bytes,
            zero_copy_sends: streams.zero_copy,
            out_of_buffers: streams.out_of_buffers,
            stale_completions: streams.stale,
            waits: streams.waits,
            asks: streams.asks,
            vain_asks: streams.vain_asks,
            system_calls: ring.enters,
            completions: ring.harvested,
            retries: ring.pushed_back,
            busy_ns: 0,
        }
    }
}

fn say(done: &Done, json: bool) -> Result<Verdict, Failure> {
    if json {
        report::print_json(core::slice::from_ref(done))?;
    } else {
        report::emit(&format!(
            "{} connections; {} bytes in, {} bytes out; {} completions by {} system calls; busy for {:.1} s\n",
            done.accepted,
            done.received_bytes,
            done.sent_bytes,
            done.completions,
            done.system_calls,
            Duration::from_nanos(done.busy_ns).as_secs_f64()
        ))?;
    }
    Ok(Verdict::Well)
}
