//! `spinwire echo`: an echo service over TCP, for any client.

use std::os::fd::AsRawFd;

use spinwire_dataplane::error::{PostError, Refused};
use spinwire_dataplane::poll::{Budget, Outcome, Poll};
use spinwire_dataplane::raw::pause::pause;
use spinwire_dataplane::stream::{StreamConfig, StreamEvent, Streams};
use spinwire_dataplane::uring::Enter;
use spinwire_hostshim::affinity;
use spinwire_hostshim::clock::TscClock;
use spinwire_hostshim::socket::{self, Address, Scheme, SocketOptions};
use spinwire_hostshim::uring::{Uring, UringConfig};

use crate::report::{Failure, Verdict};

/// Arguments of `spinwire echo`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  spinwire echo --listen tcp://127.0.0.1:7000
  spinwire echo --listen tcp://0.0.0.0:7000 --cpus 1 --connections 4096

It polls and never sleeps: give it a CPU of its own. Any TCP client will do, for instance `nc 127.0.0.1 7000`.")]
pub(crate) struct Args {
    /// Where to listen: tcp://HOST:PORT.
    #[arg(long, value_name = "URI", default_value = "tcp://127.0.0.1:7000")]
    listen: String,

    /// The CPU to run on.
    #[arg(long, value_name = "N")]
    cpus: Option<u32>,

    /// Connections at the same time.
    #[arg(long, value_name = "N", default_value_t = 1024, value_parser = clap::value_parser!(u32).range(1..=1 << 20))]
    connections: u32,

    /// Bytes of each buffer that is received into.
    #[arg(long, value_name = "BYTES", default_value = "16k", value_parser = crate::pair::options::parse_size)]
    buffer: usize,
}

/// Runs the command.
pub(crate) fn run(args: &Args) -> Result<Verdict, Failure> {
    let address: Address = args.listen.parse()?;
    if address.scheme() != Scheme::Tcp {
        return Err("--listen: echo serves tcp://HOST:PORT only".into());
    }
    let local = *address.resolve()?.first().ok_or("--listen: the host has no address")?;
    let listener = socket::listen(local, args.connections, &SocketOptions::default())?;
    if let Some(cpu) = args.cpus {
        affinity::pin(cpu)?;
    }
    let buffers = args.connections.saturating_mul(2).clamp(64, 4096);
    let mut config = StreamConfig {
        conns: args.connections.saturating_add(1),
        recv_buffers: (buffers, args.buffer),
        send_buffers: (1, 64),
        segments: buffers,
        ..StreamConfig::default()
    };
    let uring = Uring::open(&UringConfig {
        entries: 1024,
        completions: 8192,
        clamp: true,
        files: args.connections.saturating_add(64),
        arena_bytes: config.arena_bytes(),
        ..UringConfig::default()
    })?;
    config.features = uring.stream_features();
    let ring = uring.ring()?;
    let streams = Streams::place(&ring, 0, &config)?;
    uring.provide(streams.buffers())?;
    streams.listen(listener.fd.as_raw_fd())?;
    eprintln!("listening on {}; paths: {}", listener.local, uring.features());
    let clock = TscClock::calibrate();
    serve(&streams, &clock)
}

fn serve<E: Enter>(streams: &Streams<'_, E>, clock: &TscClock) -> Result<Verdict, Failure> {
    loop {
        let mut outcome = streams.turn(clock.now(), Budget::default());
        while let Some(event) = streams.poll() {
            outcome = Outcome::Busy;
            answer(streams, event)?;
        }
        if !outcome.is_busy() {
            pause();
        }
    }
}

/// Sends back what has come; closes when the other end does.
fn answer<'m, E: Enter>(streams: &Streams<'m, E>, event: StreamEvent<'m>) -> Result<(), Failure> {
    match event {
        StreamEvent::Received { conn, bytes } => match streams.send(conn, bytes, 0) {
            Ok(()) | Err(Refused { error: PostError::Fatal(_) | PostError::Misuse(_), .. }) => {}
            Err(Refused { error: PostError::Retry(_), .. }) => streams.abort(conn)?,
        },
        StreamEvent::PeerClosed(conn) => streams.close(conn)?,
        StreamEvent::Accepted { .. }
        | StreamEvent::AcceptFailed { .. }
        | StreamEvent::Connected(_)
        | StreamEvent::Sent { .. }
        | StreamEvent::NotSent { .. }
        | StreamEvent::Writable(_)
        | StreamEvent::Closed { .. } => {}
    }
    Ok(())
}
