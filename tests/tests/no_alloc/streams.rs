//! Both ends of a connection over the loopback device in one service, and an echo between them.

use std::net::{TcpListener, TcpStream};
use std::os::fd::IntoRawFd as _;

use spinwire_dataplane::poll::{Budget, Poll as _};
use spinwire_dataplane::stream::{ConnId, StreamConfig, StreamEvent, Streams};
use spinwire_dataplane::time::Instant;
use spinwire_dataplane::uring::Enter;
use spinwire_hostshim::uring::{Uring, UringConfig};

const BYTES: usize = 2_000;

/// A service with the two ends.
pub(crate) struct Echo<'s, 'm, E: Enter> {
    streams: &'s Streams<'m, E>,
    asks: ConnId,
    answers: ConnId,
}

/// What was done.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub(crate) struct Done {
    /// Rounds in which all bytes came back as they were.
    pub(crate) rounds: u64,
    pub(crate) turns: u64,
    pub(crate) system_calls: u64,
}

/// Runs `work` with a fresh connection.
pub(crate) fn with<R>(work: impl FnOnce(&dyn Fn(u64) -> Done) -> R) -> R {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a listener");
    let near = TcpStream::connect(listener.local_addr().expect("its address")).expect("a stream");
    let (far, _) = listener.accept().expect("its other end");
    let config = StreamConfig {
        conns: 4,
        recv_buffers: (16, 1 << 10),
        send_buffers: (8, 1 << 10),
        segments: 16,
        ..StreamConfig::DEFAULT
    };
    let uring = Uring::open(&UringConfig::for_streams(&config)).expect("a ring");
    let ring = uring.ring().expect("its memory");
    let streams = uring.streams(&ring, 0, &config).expect("a service");
    let asks = streams.adopt(near.into_raw_fd()).expect("a row");
    let answers = streams.adopt(far.into_raw_fd()).expect("a row");
    let echo = Echo { streams: &streams, asks, answers };
    work(&|rounds| echo.run(rounds))
}

impl<E: Enter> Echo<'_, '_, E> {
    fn run(&self, rounds: u64) -> Done {
        let mut done = Done::default();
        let before = self.streams.ring().counters().enters;
        for round in 0..rounds {
            let byte = round.to_le_bytes()[0];
            if self.streams.write(self.asks, &[byte; BYTES]).is_err() {
                return done;
            }
            let mut back = 0;
            while back < BYTES {
                done.turns += 1;
                let _busy = self.streams.turn(Instant::from_nanos(done.turns), Budget::default());
                while let Some(event) = self.streams.poll() {
                    match event {
                        StreamEvent::Received { conn, bytes } if conn == self.answers => {
                            if self.streams.send(conn, bytes, 0).is_err() {
                                return done;
                            }
                        }
                        StreamEvent::Received { bytes, .. } => {
                            back += bytes.iter().filter(|other| **other == byte).count();
                        }
                        StreamEvent::Sent { .. } => {}
                        StreamEvent::Accepted { .. }
                        | StreamEvent::AcceptFailed { .. }
                        | StreamEvent::Connected(_)
                        | StreamEvent::NotSent { .. }
                        | StreamEvent::Writable(_)
                        | StreamEvent::ReceiveTimedOut(_)
                        | StreamEvent::PeerClosed(_)
                        | StreamEvent::RangeBack { .. }
                        | StreamEvent::Closed { .. } => return done,
                    }
                }
            }
            done.rounds += 1;
        }
        done.system_calls = self.streams.ring().counters().enters - before;
        done
    }
}
