//! Echo servers over TCP: Spinwire's as its users run it, the others as children of this program.
//! The far processor has the server; the near one has the client, the same for all.

use std::process::Command;
use std::{fs, io};

use anyhow::{Context, ensure};

use super::{Peer, sockets};
use crate::client::{SILENCE_NS, Task, alone, crowd};
use crate::cpu;
use crate::process::{self, Running, last_lines};
use crate::sample::Sample;
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
}

impl Echo {
    /// The child of this program, where it is one.
    const fn kind(self) -> Option<server::Kind> {
        Some(match self {
            Self::Spinwire => return None,
            Self::Ringline => server::Kind::Ringline,
            Self::Monoio => server::Kind::Monoio,
            Self::Tokio => server::Kind::Tokio,
            Self::Epoll => server::Kind::Epoll,
        })
    }

    /// Whether it must have a ring, so that a silent way around it is an error.
    const fn has_ring(self) -> bool {
        matches!(self, Self::Ringline | Self::Monoio)
    }

    fn command(self, plan: &Plan, port: u16, (size, depth): (u32, u32)) -> anyhow::Result<Command> {
        let Some(kind) = self.kind() else {
            let mut command = Command::new(&plan.spinwire);
            command.args(["echo", "--listen", &format!("tcp://127.0.0.1:{port}")]);
            command.args(["--cpus", &plan.cpus.far.to_string()]);
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
            Self::Epoll => "bare epoll",
        }
    }

    fn word(&self) -> &'static str {
        match self {
            Self::Spinwire => "spinwire",
            Self::Epoll => "floor",
            Self::Ringline | Self::Monoio | Self::Tokio => self.name(),
        }
    }

    fn measures(&self, work: Work) -> bool {
        matches!(work.subject, Subject::Echo { .. })
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
            cpu::on(plan.cpus.near, || ask(work, plan, (port, connections)))
        });
        let said = server.stop();
        measured.with_context(|| format!("the server said: {said}"))
    }
}

/// The client's part.
fn ask(work: Work, plan: &Plan, (port, connections): (u16, u32)) -> anyhow::Result<Sample> {
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
        return crowd::run(&task).map(Sample::Stream);
    }
    alone::run(&task).map(Sample::Rtt)
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
    fn this_process_has_no_ring() {
        assert!(!has_ring(std::process::id()).unwrap());
    }
}
