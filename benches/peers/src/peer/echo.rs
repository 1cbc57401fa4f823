//! Echo servers over TCP: Spinwire's as its users run it, the others as children of this program.
//! The far processor has the server; the near one has the client, the same for all.

use std::process::Command;
use std::{fs, io};

use anyhow::{Context, ensure};

use super::{Peer, sockets};
use crate::client::{SILENCE_NS, Task, alone, crowd};
use crate::cpu;
use crate::process::{self, Running, last_lines};
use crate::sample::{Sample, Stream};
use crate::schedule::Plan;
use crate::server::{self, FarSide};
use crate::work::{Subject, Work};

/// The versions that this program is built with.
const LOCK: &str = include_str!("../../Cargo.lock");

/// An echo server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Echo {
    /// `spinwire echo`.
    Spinwire,
    /// ringline.
    Ringline,
    /// monoio.
    Monoio,
    /// tokio.
    Tokio,
    /// Plain sockets and epoll.
    Epoll,
    /// Plain sockets, each asked in turn.
    InTurn,
}

/// The rows of servers that do nothing but receive and send: what can be had at all.
pub(crate) const LIMIT_ROWS: [&str; 2] = ["bare epoll", "bare in turn"];

impl Echo {
    /// The child of this program, where it is one.
    const fn kind(self) -> Option<server::Kind> {
        Some(match self {
            Self::Spinwire => return None,
            Self::Ringline => server::Kind::Ringline,
            Self::Monoio => server::Kind::Monoio,
            Self::Tokio => server::Kind::Tokio,
            Self::Epoll => server::Kind::Epoll,
            Self::InTurn => server::Kind::InTurn,
        })
    }

    /// Whether it must have a ring, so that a silent way around it is an error.
    const fn has_ring(self) -> bool {
        matches!(self, Self::Ringline | Self::Monoio)
    }

    /// Whether it sleeps while there is nothing to do, so that the time that it ran is the time that it needed.
    const fn sleeps(self) -> bool {
        matches!(self, Self::Ringline | Self::Monoio | Self::Tokio)
    }

    fn command(self, plan: &Plan, port: u16, (size, depth): (u32, u32)) -> anyhow::Result<Command> {
        let Some(kind) = self.kind() else {
            let mut command = Command::new(&plan.spinwire);
            command.args(["echo", "--listen", &format!("tcp://127.0.0.1:{port}")]);
            command.args(["--cpus", &plan.cpus.far.to_string(), "--json"]);
            return Ok(command);
        };
        FarSide::new(kind, port, plan.cpus.far).with_requests_of(size, depth).command()
    }
}

impl Peer for Echo {
    fn name(&self) -> &'static str {
        match self {
            Self::Spinwire => "spinwire echo",
            Self::Ringline => "ringline",
            Self::Monoio => "monoio",
            Self::Tokio => "tokio",
            Self::Epoll => LIMIT_ROWS[0],
            Self::InTurn => LIMIT_ROWS[1],
        }
    }

    fn word(&self) -> &'static str {
        match self {
            Self::Spinwire => "spinwire",
            Self::Epoll | Self::InTurn => "floor",
            Self::Ringline | Self::Monoio | Self::Tokio => self.name(),
        }
    }

    fn measures(&self, work: Work) -> bool {
        // With one connection that is the floor.
        matches!(work.subject, Subject::Echo { connections } if *self != Self::InTurn || connections > 1)
    }

    fn rival(&self) -> Option<&'static str> {
        (*self != Self::Spinwire).then_some(Self::Spinwire.name())
    }

    fn probe(&self, plan: &Plan) -> Result<String, String> {
        let version = || version_of(self.name()).unwrap_or("of unknown version");
        match self {
            Self::Spinwire => probe_spinwire(plan),
            Self::Ringline => {
                Ok(format!("{}, io_uring, one worker; direct echo of short requests", version()))
            }
            Self::Monoio => Ok(format!("{}, io_uring, a task a connection", version())),
            Self::Tokio => Ok(format!("{}, epoll, current thread, a task a connection", version())),
            Self::Epoll => Ok("plain sockets, spins on epoll".to_owned()),
            Self::InTurn => Ok("plain sockets, asks each in turn".to_owned()),
        }
    }

    fn measure(&self, work: Work, plan: &Plan) -> anyhow::Result<Sample> {
        let Subject::Echo { connections } = work.subject else {
            anyhow::bail!("{} is no work of an echo server", work);
        };
        let port = process::free_port()?;
        let depth = if connections > 1 { plan.depth } else { 1 };
        let command = self.command(plan, port, (work.size, depth))?;
        let server = Running::start(command, Some(plan.cpus.far))?;
        let measured = process::await_listener(port).and_then(|()| {
            ensure!(!self.has_ring() || has_ring(server.id())?, "the server has no io_uring");
            let before = process::ran_so_far_ns(server.id());
            let (sample, requests) =
                cpu::on(plan.cpus.near, || ask(work, plan, (port, connections)))?;
            let ran = process::ran_so_far_ns(server.id()).zip(before);
            let ran_ns = ran.filter(|_| self.sleeps()).map(|(after, before)| after - before);
            Ok((sample, requests, ran_ns))
        });
        let (sample, requests, ran_ns) = match measured {
            Ok(measured) => measured,
            Err(error) => return Err(error.context(format!("the server said: {}", server.stop()))),
        };
        let said = if self == &Self::Spinwire { server.end() } else { server.stop() };
        let busy_ns = ran_ns.or_else(|| busy_ns(&said));
        Ok(with_server(sample, busy_ns.map(|ns| ns / requests.max(1) as f64)))
    }
}

/// What a server that spins says of itself when it ends: how long it had something to do.
fn busy_ns(said: &str) -> Option<f64> {
    let values = serde_json::Deserializer::from_str(said).into_iter::<serde_json::Value>();
    values.map_while(Result::ok).find_map(|value| value.get("busy_ns")?.as_f64())
}

/// A rate with what a request costs the server.
const fn with_server(sample: Sample, server_ns: Option<f64>) -> Sample {
    match sample {
        Sample::Stream(stream) => Sample::Stream(Stream { server_ns, ..stream }),
        Sample::Rtt(_) => sample,
    }
}

/// The client's part; and how many requests it has made, where they are counted.
fn ask(work: Work, plan: &Plan, (port, connections): (u16, u32)) -> anyhow::Result<(Sample, u64)> {
    let task = Task {
        port,
        connections,
        depth: plan.depth,
        size: work.size,
        warm_up_ns: sockets::warm_up_ns(plan.effort),
        measured_ns: plan.effort.server_ns(),
        silence_ns: SILENCE_NS,
        clock: plan.clock,
    };
    if connections > 1 {
        return crowd::run(&task).map(|(stream, all)| (Sample::Stream(stream), all));
    }
    alone::run(&task).map(|rtt| (Sample::Rtt(rtt), 0))
}

/// Whether the command is there and has a server.
fn probe_spinwire(plan: &Plan) -> Result<String, String> {
    let path = plan.spinwire.display();
    let mut command = Command::new(&plan.spinwire);
    command.args(["echo", "--help"]);
    match command.output() {
        Ok(output) if output.status.success() => Ok(format!("{path} echo")),
        Ok(output) => {
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            Err(format!("{path} has no `echo`: {}", last_lines(&said)))
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Err(format!("there is no {path}")),
        Err(error) => Err(format!("{path} cannot be started: {error}")),
    }
}

/// Whether a process has a ring open.
fn has_ring(process: u32) -> anyhow::Result<bool> {
    let folder = format!("/proc/{process}/fd");
    let files = fs::read_dir(&folder).with_context(|| format!("{folder} is unreadable"))?;
    let is_ring = |target: &std::path::Path| target.to_string_lossy().contains("[io_uring]");
    Ok(files
        .filter_map(|entry| fs::read_link(entry.ok()?.path()).ok())
        .any(|target| is_ring(&target)))
}

/// The version of a crate in the lock file.
fn version_of(name: &str) -> Option<&'static str> {
    let entry = LOCK.split("[[package]]").find(|entry| {
        entry.lines().any(|line| line.strip_prefix("name = ") == Some(&format!("\"{name}\"")))
    })?;
    let version = entry.lines().find_map(|line| line.strip_prefix("version = "))?;
    Some(version.trim_matches('"'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_crate_has_a_version() {
        for server in [Echo::Ringline, Echo::Monoio, Echo::Tokio] {
            let version = version_of(server.name()).unwrap();
            assert!(version.starts_with(|first: char| first.is_ascii_digit()), "{version}");
        }
    }

    #[test]
    fn what_a_server_says_of_itself_is_found_among_the_rest() {
        let said = "{\"listening\":\"tcp://127.0.0.1:1\"}\n{\n  \"accepted\": 16,\n  \"busy_ns\": 1500\n}\n";
        assert_eq!(busy_ns(said), Some(1500.0));
        assert_eq!(busy_ns("listening on tcp://127.0.0.1:1\n"), None);
        assert_eq!(busy_ns(""), None);
    }

    #[test]
    fn this_process_has_no_ring() {
        assert!(!has_ring(std::process::id()).unwrap());
    }
}
