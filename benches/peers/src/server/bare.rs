//! Plain non-blocking sockets: one thread that spins, and nothing between the calls. It asks epoll who has something to say, or each socket
//! in turn, which costs a call for each that has nothing, and saves the client the news.

use std::io::{ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream};

use anyhow::Context;
use rustix::event::{Timespec, epoll};

use super::BUFFER;

/// Events taken at once.
const EVENTS: usize = 256;

/// The listener among the events.
const LISTENER: u64 = u64::MAX;

/// Never sleeps.
const AT_ONCE: Timespec = Timespec { tv_sec: 0, tv_nsec: 0 };

/// What a connection does with the bytes that come.
pub(super) trait Service {
    /// Appends the answer to `input` to `output`; what it leaves of `input` it keeps itself.
    fn answer(&mut self, input: &[u8], output: &mut Vec<u8>);
}

/// Bytes go back as they come.
#[derive(Debug, Default)]
pub(super) struct Echo;

impl Service for Echo {
    fn answer(&mut self, input: &[u8], output: &mut Vec<u8>) {
        output.extend_from_slice(input);
    }
}

/// One client.
struct Connection<S> {
    stream: TcpStream,
    service: S,
    /// Answers, and how much of them has been sent.
    output: Vec<u8>,
    sent: usize,
}

/// Whether a connection goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Life {
    Open,
    Closed,
}

/// Looks at every connection between two looks at the listener, where nobody says which has something.
const ROUNDS: u32 = 64;

/// Serves until it is killed, and asks every socket in turn.
pub(super) fn serve_in_turn<S: Service>(
    listener: TcpListener,
    new: fn() -> S,
) -> anyhow::Result<()> {
    let mut connections: Vec<Connection<S>> = Vec::new();
    let mut input = vec![0; BUFFER];
    loop {
        match listener.accept() {
            Ok((stream, _)) => {
                stream.set_nonblocking(true)?;
                stream.set_nodelay(true)?;
                let output = Vec::with_capacity(BUFFER);
                connections.push(Connection { stream, service: new(), output, sent: 0 });
                // More may wait.
                continue;
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(error) => return Err(error).context("accept"),
        }
        for _ in 0..ROUNDS {
            connections.retain_mut(|connection| connection.turn(&mut input) == Life::Open);
        }
    }
}

/// Serves until it is killed, and asks epoll.
pub(super) fn serve<S: Service>(listener: TcpListener, new: fn() -> S) -> anyhow::Result<()> {
    let poll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
    let (any, edge) = (epoll::EventFlags::IN, epoll::EventFlags::ET);
    epoll::add(&poll, &listener, epoll::EventData::new_u64(LISTENER), any)?;
    let mut connections: Vec<Option<Connection<S>>> = Vec::new();
    let mut events = Vec::with_capacity(EVENTS);
    let mut input = vec![0; BUFFER];
    loop {
        events.clear();
        epoll::wait(&poll, rustix::buffer::spare_capacity(&mut events), Some(&AT_ONCE))?;
        for event in &events {
            let token = event.data.u64();
            if token == LISTENER {
                let (stream, _) = listener.accept().context("accept")?;
                stream.set_nonblocking(true)?;
                stream.set_nodelay(true)?;
                let token = epoll::EventData::new_u64(connections.len() as u64);
                epoll::add(&poll, &stream, token, any | edge | epoll::EventFlags::OUT)?;
                let output = Vec::with_capacity(BUFFER);
                connections.push(Some(Connection { stream, service: new(), output, sent: 0 }));
                continue;
            }
            let slot = usize::try_from(token).ok().and_then(|index| connections.get_mut(index));
            if let Some(slot) = slot
                && let Some(connection) = slot
                && connection.turn(&mut input) == Life::Closed
            {
                *slot = None;
            }
        }
    }
}

impl<S: Service> Connection<S> {
    /// Sends and receives until neither goes on. While an answer waits, nothing more is received.
    fn turn(&mut self, input: &mut [u8]) -> Life {
        let mut drained = false;
        loop {
            while let Some(rest @ [_, ..]) = self.output.get(self.sent..) {
                match self.stream.write(rest) {
                    Ok(count) => self.sent += count,
                    Err(error) if error.kind() == ErrorKind::WouldBlock => return Life::Open,
                    Err(_reset) => return Life::Closed,
                }
            }
            self.output.clear();
            self.sent = 0;
            if drained {
                return Life::Open;
            }
            match self.stream.read(input) {
                Ok(0) => return Life::Closed,
                Ok(count) => {
                    let bytes = input.get(..count).unwrap_or_default();
                    self.service.answer(bytes, &mut self.output);
                    // What comes after a receive that was short makes an event of its own.
                    drained = count < input.len();
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Life::Open,
                Err(_reset) => return Life::Closed,
            }
        }
    }
}
