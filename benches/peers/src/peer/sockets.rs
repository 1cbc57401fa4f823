//! The floor of what goes over TCP: two pinned threads, a plain non-blocking socket each, one
//! connection, one request under way, and nobody ever sleeps.
//!
//! At a round trip it is that; at a rate, so many median trips a second. Commands of the Redis
//! protocol have the floor of short messages.

use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, TcpListener};

use anyhow::Context;

use crate::client::{SILENCE_NS, Task, alone};
use crate::sample::{Sample, Stream};
use crate::schedule::{Effort, Plan};
use crate::work::{Kind, Subject, Work};

/// The name of its row.
pub(crate) const NAME: &str = "bare sockets";

/// Bytes that the far side asks for at once.
const BUFFER: usize = 256 << 10;

/// A floor takes this part of the time of what it stands under: there are more floors than rows.
const PART: f64 = 3.0;

/// Bytes of a short message.
const SHORT: u32 = 64;

/// Measures the floor for a work.
pub(crate) fn measure(work: Work, plan: &Plan) -> anyhow::Result<Sample> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("no free TCP port")?;
    let port = listener.local_addr()?.port();
    let is_echo = matches!(work.subject, Subject::Echo { .. });
    let task = Task {
        port,
        connections: 1,
        depth: 1,
        size: if is_echo { work.size } else { SHORT },
        warm_up_ns: warm_up_ns(plan.effort) / PART,
        measured_ns: plan.effort.server_ns() / PART,
        silence_ns: SILENCE_NS,
        clock: plan.clock,
    };
    let (near, far) = plan.cpus.run_pair(|| alone::run(&task), || echo(&listener))?;
    let rtt = near?;
    far?;
    Ok(match work.kind {
        Kind::Rtt => Sample::Rtt(rtt),
        Kind::Stream => Sample::Stream(Stream {
            messages_per_s: 1e9 / rtt.p50_ns.unwrap_or(rtt.mean_ns),
            p50_ns: rtt.p50_ns,
            p99_ns: rtt.p99_ns,
            client_busy: None,
            server_ns: None,
        }),
    })
}

/// How long a server runs before it counts.
pub(crate) const fn warm_up_ns(effort: Effort) -> f64 {
    match effort {
        Effort::Smoke => 2e6,
        Effort::Quick | Effort::Full => 6e7,
    }
}

/// Echoes one connection until it ends.
fn echo(listener: &TcpListener) -> anyhow::Result<()> {
    let (mut stream, _) = listener.accept()?;
    stream.set_nodelay(true)?;
    stream.set_nonblocking(true)?;
    let mut buffer = vec![0; BUFFER];
    loop {
        let count = match stream.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(count) => count,
            Err(error) if error.kind() == ErrorKind::WouldBlock => continue,
            Err(error) => return Err(error.into()),
        };
        let mut rest = buffer.get(..count).unwrap_or_default();
        while !rest.is_empty() {
            match stream.write(rest) {
                Ok(sent) => rest = rest.get(sent..).unwrap_or_default(),
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
}
