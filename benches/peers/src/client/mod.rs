//! The client of the socket rows, the same for every server: plain non-blocking sockets on one
//! pinned thread that never sleeps.
//!
//! ```text
//!   alone   one connection: sends, then asks for the echo until it is whole
//!   crowd   many: epoll, edge-triggered, asked without waiting
//!      └── connection   requests of one length in order, their echoes checked
//! ```
//!
//! The client spins so that no server pays for waking it, and none gains by being slow enough to
//! find several requests at once that a sleeping client had let gather.
//!
//! Every echo is checked: its head, which no two requests share, and its bytes, all of them in the
//! warm-up and of short messages, and of long ones a part that moves from message to message. A
//! connection that is reset, closed, silent or sends a byte too many fails the measurement.

use core::fmt;
use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpStream};

use anyhow::Context;

use crate::clock::Clock;
use crate::sample::{Stream, Trips};

pub(crate) mod alone;
mod connection;
pub(crate) mod crowd;

/// A server that sends nothing for so many nanoseconds is given up. Whole processes are stopped for
/// some seconds now and then.
pub(crate) const SILENCE_NS: f64 = 10e9;

/// What the client does.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Task {
    /// Where the server listens, on the loopback interface.
    pub(crate) port: u16,
    /// Connections.
    pub(crate) connections: u32,
    /// Requests that a connection has under way.
    pub(crate) depth: u32,
    /// Bytes of a request.
    pub(crate) size: u32,
    /// Nanoseconds before those that count.
    pub(crate) warm_up_ns: f64,
    /// Nanoseconds that count.
    pub(crate) measured_ns: f64,
    /// Nanoseconds without an echo after which the server is given up: [`SILENCE_NS`].
    pub(crate) silence_ns: f64,
    /// The tick counter.
    pub(crate) clock: Clock,
}

/// Why a measurement is worth nothing.
#[derive(Debug)]
enum Fault {
    /// The server closed the connection, or the kernel did.
    Closed,
    /// The socket has an error.
    Socket(io::Error),
    /// The echo of a request is not what was sent.
    Wrong { request: u64 },
    /// More bytes came than were sent.
    TooMuch,
    /// Nothing came for too long.
    Silent,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Closed => f.write_str("the server closed a connection"),
            Self::Socket(error) => write!(f, "a connection failed: {error}"),
            Self::Wrong { request } => {
                write!(f, "the echo of request {request} is not what was sent")
            }
            Self::TooMuch => f.write_str("the server sent more than it was sent"),
            Self::Silent => f.write_str("the server sent nothing for too long"),
        }
    }
}

impl std::error::Error for Fault {}

/// When a measurement began, in ticks of the clock, and what it counts.
///
/// The warm-up begins with the first answer: a server may listen for some time before it serves, and that is none of its rate.
#[derive(Debug)]
struct Window {
    /// When what happens begins to count: never, before the warm-up has begun.
    from: u64,
    /// When it ends.
    until: u64,
    /// Ticks of the warm-up, and of what counts.
    spans: (u64, u64),
    /// Requests that were answered in between.
    answered: u64,
    /// How long each request took that was sent in between.
    trips: Trips,
}

impl Window {
    /// Nothing counts yet.
    fn closed(task: &Task, trips_max: usize) -> Self {
        let spans = (task.clock.ticks_in(task.warm_up_ns), task.clock.ticks_in(task.measured_ns));
        Self { from: u64::MAX, until: u64::MAX, spans, answered: 0, trips: Trips::new(trips_max) }
    }

    /// The warm-up begins: everybody was answered for the first time.
    fn warm_up(&mut self, now: u64) {
        let (warm_up, measured) = self.spans;
        self.from = now.saturating_add(warm_up);
        self.until = self.from.saturating_add(measured);
    }

    /// Counts a request.
    #[inline]
    fn count(&mut self, sent: u64, answered: u64) {
        if (self.from..self.until).contains(&answered) {
            self.answered += 1;
        }
        // None is sent after the window.
        if self.from <= sent {
            self.trips.keep(answered.wrapping_sub(sent));
        }
    }

    /// Whether no more requests are sent. Where nothing has come yet, as when somebody was stopped
    /// meanwhile, the window grows.
    #[inline]
    fn is_over(&mut self, now: u64) -> bool {
        if now >= self.until && self.trips.is_empty() {
            self.until = now.saturating_add(self.until.saturating_sub(self.from));
        }
        now >= self.until
    }

    /// The figures of a rate.
    fn finish(self, task: &Task, client_busy: Option<f64>) -> Stream {
        let ns = task.clock.ns(self.until.saturating_sub(self.from) as f64);
        let rtt = self.trips.finish(&task.clock);
        Stream {
            messages_per_s: self.answered as f64 / ns * 1e9,
            p50_ns: rtt.p50_ns,
            p99_ns: rtt.p99_ns,
            client_busy,
            server_ns: None,
        }
    }
}

/// A connection to a server on this machine.
fn connect(port: u16) -> anyhow::Result<TcpStream> {
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let stream = TcpStream::connect(address).context("the server does not let a client in")?;
    stream.set_nodelay(true)?;
    stream.set_nonblocking(true)?;
    Ok(stream)
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::{Shutdown, TcpListener};
    use std::thread;

    use super::*;

    /// What a server does with the bytes that have come so far, of which the last ones are new.
    type Serve = fn(&mut TcpStream, &[u8], usize) -> io::Result<()>;

    fn honest(stream: &mut TcpStream, all: &[u8], new: usize) -> io::Result<()> {
        stream.write_all(&all[all.len() - new..])
    }

    /// A server on threads of its own, for so many connections.
    fn server(connections: u32, serve: Serve) -> u16 {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        thread::spawn(move || {
            for _ in 0..connections {
                let (mut stream, _) = listener.accept().unwrap();
                thread::spawn(move || {
                    let (mut all, mut buffer) = (Vec::new(), vec![0; 40_000]);
                    while let Ok(new @ 1..) = stream.read(&mut buffer) {
                        all.extend_from_slice(&buffer[..new]);
                        if serve(&mut stream, &all, new).is_err() {
                            break;
                        }
                        // No more is kept than a test needs.
                        all.drain(..all.len().saturating_sub(1 << 20));
                    }
                });
            }
        });
        port
    }

    fn task(port: u16, connections: u32, depth: u32, size: u32) -> Task {
        Task {
            port,
            connections,
            depth,
            size,
            warm_up_ns: 1e6,
            measured_ns: 2e7,
            silence_ns: 10e9,
            clock: Clock::calibrate(),
        }
    }

    fn refused(serve: Serve, silence_ns: f64) -> [String; 2] {
        let of = |port| Task { silence_ns, ..task(port, 1, 1, 256) };
        let alone = alone::run(&of(server(1, serve))).unwrap_err();
        let crowd = crowd::run(&of(server(1, serve))).unwrap_err();
        [alone.to_string(), crowd.to_string()]
    }

    #[test]
    fn a_request_counts_by_its_answer_and_its_trip_by_its_beginning() {
        let (from, until, trips) = (10, 20, Trips::new(8));
        let mut window = Window { from, until, spans: (4, 10), answered: 0, trips };
        window.count(5, 12);
        assert!((window.answered, window.trips.is_empty()) == (1, true));
        assert!(!window.is_over(20), "nothing was sent and answered: it grows to 30");
        window.count(12, 25);
        assert!((window.answered, window.trips.is_empty()) == (2, false));
        assert!(!window.is_over(29) && window.is_over(30));
        window.count(25, 31);
        assert_eq!(window.answered, 2);
    }

    #[test]
    fn nothing_counts_before_the_warm_up_that_begins_with_the_answers() {
        let trips = Trips::new(8);
        let mut window =
            Window { from: u64::MAX, until: u64::MAX, spans: (4, 10), answered: 0, trips };
        window.count(1, 1_000);
        assert!(!window.is_over(1_000));
        window.warm_up(1_000);
        window.count(1_001, 1_003);
        assert!((window.from, window.until, window.answered) == (1_004, 1_014, 0));
        window.count(1_003, 1_004);
        assert_eq!(window.answered, 1);
    }

    /// A server that listens long before it serves loses nothing by that.
    #[test]
    fn the_time_before_the_first_answer_is_no_part_of_a_rate() {
        let slow: Serve = |stream, all, new| {
            if all.len() == new {
                // Longer than warm-up and measurement together.
                thread::sleep(core::time::Duration::from_millis(60));
            }
            honest(stream, all, new)
        };
        let late = task(0, 1, 1, 64);
        // By counting: of all that was answered most counts, and over the time of the measurement. Whoever is stopped in the middle tries again.
        let counts = |_try: u32| {
            let (stream, all) = crowd::run(&Task { port: server(1, slow), ..late }).unwrap();
            stream.messages_per_s * late.measured_ns / 1e9 > all as f64 / 2.0
        };
        assert!((0..5).any(counts));
        let rtt = alone::run(&Task { port: server(1, slow), ..late }).unwrap();
        assert!(rtt.p50_ns.is_some_and(|ns| ns < 6e7), "{rtt:?}");
    }

    #[test]
    fn an_honest_server_is_measured() {
        let rtt = alone::run(&task(server(1, honest), 1, 1, 64)).unwrap();
        assert!(rtt.p50_ns.is_some_and(|ns| ns > 0.0) && rtt.max_ns >= rtt.p50_ns, "{rtt:?}");
        for (connections, depth, size) in [(3, 1, 64), (2, 5, 1000), (2, 3, 300_000)] {
            let port = server(connections, honest);
            let (stream, all) = crowd::run(&task(port, connections, depth, size)).unwrap();
            assert!(
                all > 0 && stream.messages_per_s > 0.0 && stream.p50_ns.is_some(),
                "{stream:?}"
            );
        }
    }

    #[test]
    fn a_long_request_does_not_wait_for_itself() {
        // More than two sockets hold: who writes it all before reading never ends.
        let rtt = alone::run(&task(server(1, honest), 1, 1, 32 << 20)).unwrap();
        assert!(rtt.mean_ns > 0.0, "{rtt:?}");
    }

    #[test]
    fn a_wrong_byte_is_seen() {
        let serve: Serve = |stream, all, new| {
            let mut echo = all[all.len() - new..].to_vec();
            *echo.last_mut().unwrap() ^= 1;
            stream.write_all(&echo)
        };
        for error in refused(serve, 10e9) {
            assert!(error.contains("is not what was sent"), "{error}");
        }
    }

    #[test]
    fn the_echo_of_an_earlier_request_is_seen() {
        let serve: Serve = |stream, all, _new| stream.write_all(&all[..256]);
        for error in refused(serve, 10e9) {
            assert!(error.contains("request 1 is not what was sent"), "{error}");
        }
    }

    #[test]
    fn a_server_that_closes_or_falls_silent_is_an_error() {
        let closes: Serve = |_stream, _all, _new| Err(io::ErrorKind::Other.into());
        for error in refused(closes, 10e9) {
            assert!(error.contains("closed") || error.contains("failed"), "{error}");
        }
        let falls_silent: Serve = |stream, all, new| {
            if all.len() <= 256 { honest(stream, all, new) } else { Ok(()) }
        };
        for error in refused(falls_silent, 5e7) {
            assert!(error.contains("nothing for too long"), "{error}");
        }
    }

    #[test]
    fn an_end_that_comes_with_bytes_is_seen() {
        // Half an echo and the end in one segment make one event.
        let serve: Serve = |stream, all, _new| {
            rustix::net::send(&*stream, &all[..128], rustix::net::SendFlags::MORE)?;
            stream.shutdown(Shutdown::Write)
        };
        for error in refused(serve, 10e9) {
            assert!(error.contains("closed"), "{error}");
        }
    }

    #[test]
    fn a_byte_behind_the_last_echo_is_seen() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let stream = connect(listener.local_addr().unwrap().port()).unwrap();
        let mut connection = connection::Connection::new(stream, 0, &[0; 64], 1);
        connection.finish().unwrap();
        let (mut server, _) = listener.accept().unwrap();
        server.write_all(&[0]).unwrap();
        assert!(matches!(connection.finish(), Err(Fault::TooMuch)));
    }

    #[test]
    fn a_byte_too_many_is_seen() {
        let serve: Serve = |stream, all, new| {
            let mut echo = all[all.len() - new..].to_vec();
            echo.push(0);
            stream.write_all(&echo)
        };
        for error in refused(serve, 10e9) {
            // The next echo is off by a byte, unless there is none.
            assert!(error.contains("not what was sent") || error.contains("more than"), "{error}");
        }
    }
}
