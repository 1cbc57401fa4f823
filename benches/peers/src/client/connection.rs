//! One connection: requests of one length, in order, each with a head of its own, and their echoes.
//!
//! Requests and echoes are two endless streams of bytes, each in a buffer with a place for every
//! request that may be under way; byte `n` of a stream stands at `n` modulo the length of its
//! buffer. The places hold the pattern from the beginning; a request writes only its head.

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;

use super::Fault;
use crate::clock::Clock;

/// Bytes of the head: the connection and the number of the request.
const HEAD: usize = 16;

/// Echoes up to so many bytes are compared whole.
const WHOLE: usize = 4096;

/// Bytes that are compared of a longer one.
const PART: usize = 512;

/// What is done about echoes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Check {
    /// Every byte is compared.
    Whole,
    /// Of long echoes a part is compared.
    Part,
}

/// One connection.
#[derive(Debug)]
pub(super) struct Connection {
    stream: TcpStream,
    number: u64,
    size: usize,
    /// Requests, and where the stream stands: what is written into it, and what is sent.
    requests: Vec<u8>,
    begun: u64,
    sent_bytes: u64,
    /// Echoes, and where the stream stands: requests answered, and bytes received.
    echoes: Vec<u8>,
    answered: u64,
    received_bytes: u64,
    /// When each request that is under way was begun, in ticks.
    begun_at: Vec<u64>,
}

/// Random bytes, the same for all: whatever is left out, doubled or moved becomes visible.
pub(super) fn pattern(size: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    };
    let mut bytes = Vec::with_capacity(size + 8);
    while bytes.len() < size {
        bytes.extend_from_slice(&next());
    }
    bytes.truncate(size);
    bytes
}

impl Connection {
    /// A connection that has sent nothing yet; `depth` requests of `pattern`'s length fit.
    pub(super) fn new(stream: TcpStream, number: u64, pattern: &[u8], depth: usize) -> Self {
        let size = pattern.len();
        Self {
            stream,
            number,
            size,
            requests: pattern.repeat(depth),
            begun: 0,
            sent_bytes: 0,
            echoes: vec![0; size * depth],
            answered: 0,
            received_bytes: 0,
            begun_at: vec![0; depth],
        }
    }

    /// Why the other side is gone.
    pub(super) fn gone(&self) -> Fault {
        match self.stream.take_error() {
            Ok(Some(error)) | Err(error) => Fault::Socket(error),
            Ok(None) => Fault::Closed,
        }
    }

    /// Requests whose echo has come.
    pub(super) const fn answered(&self) -> u64 {
        self.answered
    }

    /// Requests under way.
    pub(super) const fn outstanding(&self) -> u64 {
        self.begun - self.answered
    }

    /// Puts another request behind the last one; the caller knows that there is room.
    pub(super) fn begin(&mut self, now: u64) {
        let place = self.place(self.begun);
        if let Some(at) = self.begun_at.get_mut(place) {
            *at = now;
        }
        let from = place * self.size;
        if let Some(head) = self.requests.get_mut(from..from + HEAD) {
            head.copy_from_slice(&head_of(self.number, self.begun));
        }
        self.begun += 1;
    }

    /// Sends until all is sent or the socket is full.
    pub(super) fn send(&mut self) -> Result<(), Fault> {
        let staged = self.begun * self.size as u64;
        while self.sent_bytes < staged {
            let (from, until) = span(self.sent_bytes, staged, self.requests.len());
            match self.stream.write(self.requests.get(from..until).unwrap_or_default()) {
                Ok(count) => self.sent_bytes += count as u64,
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(Fault::Socket(error)),
            }
        }
        Ok(())
    }

    /// Receives until the socket is empty or all that was asked for has come.
    pub(super) fn receive(&mut self) -> Result<(), Fault> {
        let staged = self.begun * self.size as u64;
        while self.received_bytes < staged {
            let (from, until) = span(self.received_bytes, staged, self.echoes.len());
            match self.stream.read(self.echoes.get_mut(from..until).unwrap_or_default()) {
                Ok(0) => return Err(Fault::Closed),
                Ok(count) => {
                    self.received_bytes += count as u64;
                    if count < until - from {
                        break;
                    }
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(Fault::Socket(error)),
            }
        }
        Ok(())
    }

    /// Takes the next echo that is whole: when its request was begun.
    pub(super) fn take(&mut self, pattern: &[u8], check: Check) -> Result<Option<u64>, Fault> {
        if (self.answered + 1) * self.size as u64 > self.received_bytes {
            return Ok(None);
        }
        let (request, place) = (self.answered, self.place(self.answered));
        let from = place * self.size;
        let echo = self.echoes.get(from..from + self.size).unwrap_or_default();
        if !self.is_echo(echo, pattern, check) {
            return Err(Fault::Wrong { request });
        }
        self.answered += 1;
        Ok(self.begun_at.get(place).copied())
    }

    /// Whether an echo is that of the next request.
    fn is_echo(&self, echo: &[u8], pattern: &[u8], check: Check) -> bool {
        let Some((head, body)) = echo.split_at_checked(HEAD) else { return false };
        let Some(pattern) = pattern.get(HEAD..) else { return false };
        if head != head_of(self.number, self.answered) {
            return false;
        }
        if check == Check::Whole || self.size <= WHOLE {
            return body == pattern;
        }
        let parts = (body.len() / PART).max(1);
        let at = usize::try_from(self.answered).unwrap_or_default() % parts * PART;
        let end = body.len() - PART;
        body.get(at..at + PART) == pattern.get(at..at + PART)
            && body.get(end..) == pattern.get(end..)
    }

    /// Checks that nothing follows the last echo.
    pub(super) fn finish(&mut self) -> Result<(), Fault> {
        match self.stream.read(&mut [0]) {
            Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(()),
            Ok(0) => Err(Fault::Closed),
            Ok(_) => Err(Fault::TooMuch),
            Err(error) => Err(Fault::Socket(error)),
        }
    }

    /// The place of a request in the buffers.
    fn place(&self, request: u64) -> usize {
        let depth = self.begun_at.len().max(1) as u64;
        usize::try_from(request % depth).unwrap_or_default()
    }
}

/// The head of a request.
fn head_of(connection: u64, request: u64) -> [u8; HEAD] {
    (u128::from(connection) << 64 | u128::from(request)).to_le_bytes()
}

/// From where and until where the bytes `from..until` of a stream stand in one piece.
fn span(from: u64, until: u64, length: usize) -> (usize, usize) {
    let start = usize::try_from(from % length.max(1) as u64).unwrap_or_default();
    let count = usize::try_from(until - from).unwrap_or(length);
    (start, length.min(start + count))
}

/// Ticks after which a server is silent, looked at now and then.
#[derive(Debug)]
pub(super) struct Patience {
    ticks: u64,
    heard: u64,
    looks: u32,
}

/// Looks at a socket between two looks at the clock.
const LOOKS: u32 = 1 << 12;

impl Patience {
    /// Silence is so many ticks.
    pub(super) fn new(ticks: u64) -> Self {
        Self { ticks, heard: Clock::ticks(), looks: 0 }
    }

    /// Something came.
    #[inline]
    pub(super) const fn heard(&mut self, now: u64) {
        self.heard = now;
    }

    /// Nothing came.
    #[inline]
    pub(super) fn silent(&mut self) -> Result<(), Fault> {
        self.looks = self.looks.wrapping_add(1);
        if self.looks.is_multiple_of(LOOKS)
            && Clock::ticks().saturating_sub(self.heard) > self.ticks
        {
            return Err(Fault::Silent);
        }
        Ok(())
    }
}
