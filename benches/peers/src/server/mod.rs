//! The servers of the socket rows that are not somebody else's program: this program again, as a
//! child of its own, on one thread of one processor.
//!
//! Everybody is set up as its own documentation and benchmark do where it is quickest; each file
//! says how. Bytes go back as they come.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::process::Command;

use anyhow::Context;
use clap::{Args, ValueEnum};

use crate::cpu;

mod bare;
mod monoio;
mod resp;
mod ringline;
mod tokio;

/// Bytes that a server asks for at once, where it has a buffer of its own for each connection.
const BUFFER: usize = 64 << 10;

/// Connections that may wait to be let in.
const BACKLOG: i32 = 4096;

/// What the server process is told.
#[derive(Args, Clone, Copy, Debug)]
pub(crate) struct FarSide {
    /// Which server.
    #[arg(long)]
    kind: Kind,
    /// The port of the loopback interface that it listens on.
    #[arg(long)]
    port: u16,
    /// The processor it is pinned to.
    #[arg(long)]
    cpu: usize,
    /// Bytes of a request, for who can use that.
    #[arg(long)]
    request_bytes: u32,
    /// Requests that a connection has under way at most.
    #[arg(long, default_value_t = 1)]
    depth: u32,
}

/// The servers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Kind {
    /// Echo on plain non-blocking sockets and epoll, spinning.
    Epoll,
    /// Echo on plain non-blocking sockets, each asked in turn.
    InTurn,
    /// Echo on ringline.
    Ringline,
    /// Echo on monoio.
    Monoio,
    /// Echo on tokio.
    Tokio,
    /// Answers to GET and SET that cost next to nothing.
    Resp,
    /// The same, each socket asked in turn.
    RespInTurn,
}

impl Kind {
    /// The word on the command line.
    pub(crate) const fn word(self) -> &'static str {
        match self {
            Self::Epoll => "epoll",
            Self::InTurn => "in-turn",
            Self::Ringline => "ringline",
            Self::Monoio => "monoio",
            Self::Tokio => "tokio",
            Self::Resp => "resp",
            Self::RespInTurn => "resp-in-turn",
        }
    }
}

impl FarSide {
    /// Such a server.
    pub(crate) const fn new(kind: Kind, port: u16, cpu: usize) -> Self {
        Self { kind, port, cpu, request_bytes: u32::MAX, depth: 1 }
    }

    /// The same for requests of so many bytes, of which a connection has at most so many under way.
    pub(crate) const fn with_requests_of(self, request_bytes: u32, depth: u32) -> Self {
        Self { request_bytes, depth, ..self }
    }

    /// The command that starts it.
    pub(crate) fn command(self) -> anyhow::Result<Command> {
        let mut command = Command::new(std::env::current_exe().context("this program's own path")?);
        command.args(["socket-server", "--kind", self.kind.word()]);
        command.args(["--port", &self.port.to_string(), "--cpu", &self.cpu.to_string()]);
        command.args(["--request-bytes", &self.request_bytes.to_string()]);
        command.args(["--depth", &self.depth.to_string()]);
        Ok(command)
    }
}

/// The server process: what the hidden subcommand runs, until it is killed.
pub(crate) fn run_far_side(side: &FarSide) -> anyhow::Result<()> {
    // Before any thread is started: whoever starts one inherits the pin.
    cpu::pin(side.cpu)?;
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, side.port));
    match side.kind {
        Kind::Epoll => bare::serve(listen(address)?, bare::Echo::default),
        Kind::InTurn => bare::serve_in_turn(listen(address)?, bare::Echo::default),
        Kind::Resp => bare::serve(listen(address)?, resp::Answers::default),
        Kind::RespInTurn => bare::serve_in_turn(listen(address)?, resp::Answers::default),
        Kind::Ringline => ringline::serve(address, side.request_bytes, side.depth),
        Kind::Monoio => monoio::serve(address),
        Kind::Tokio => tokio::serve(listen(address)?),
    }
}

fn listen(address: SocketAddr) -> anyhow::Result<TcpListener> {
    let listener = TcpListener::bind(address).with_context(|| format!("no port {address}"))?;
    // To listen again is how a socket that listens gets a longer queue.
    rustix::net::listen(&listener, BACKLOG)?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}
