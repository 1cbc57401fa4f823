//! A service on a ring of the kernel that runs, its clients, and what it has said.

use core::net::SocketAddr;
use core::time::Duration;
use std::io::{ErrorKind, Read};
use std::net::TcpStream;
use std::os::fd::{AsRawFd, OwnedFd};
use std::time::Instant;

use spinwire_dataplane::poll::{Budget, Poll};
use spinwire_dataplane::raw::loan::Loan;
use spinwire_dataplane::stream::{CloseReason, ConnId, StreamConfig, StreamEvent, Streams};
use spinwire_hostshim::clock::TscClock;
use spinwire_hostshim::socket::{self, SocketOptions};
use spinwire_hostshim::uring::{Feature, FeatureSet, RingEntry, SqPoll, Uring, UringConfig};

/// How long anything may take that nothing holds up.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

pub(crate) const CONFIG: StreamConfig = StreamConfig {
    conns: 16,
    recv_buffers: (32, 4096),
    send_buffers: (32, 4096),
    segments: 128,
    zero_copy_min: 16 << 10,
    // Half of the rows: listeners go both ways.
    backlog: 8,
    ..StreamConfig::DEFAULT
};

pub(crate) type Kernel<'m> = RingEntry<'m>;

/// A service, a socket that listens for it, and what it has said.
pub(crate) struct World<'s, 'm> {
    pub(crate) uring: &'s Uring,
    pub(crate) streams: &'s Streams<'m, Kernel<'m>>,
    pub(crate) clock: TscClock,
    pub(crate) address: SocketAddr,
    pub(crate) listener: ConnId,
    _fd: OwnedFd,
    pub(crate) heard: Vec<StreamEvent<'m>>,
}

/// Has `test` play with a service on a ring that is like `config` and without what `deny` names.
pub(crate) fn play<R>(
    (config, deny): (&StreamConfig, FeatureSet),
    test: impl for<'s, 'm> FnOnce(&mut World<'s, 'm>) -> R,
) -> R {
    play_on((config, UringConfig { deny, ..UringConfig::for_streams(config) }), test)
}

/// The same on a ring like that.
pub(crate) fn play_on<R>(
    (config, ring): (&StreamConfig, UringConfig),
    test: impl for<'s, 'm> FnOnce(&mut World<'s, 'm>) -> R,
) -> R {
    let uring = Uring::open(&ring).unwrap();
    let ring = uring.ring().unwrap();
    let streams = uring.streams(&ring, 0, config).unwrap();
    let local = SocketAddr::from(([127, 0, 0, 1], 0));
    let bound = socket::listen(local, 128, &SocketOptions::default()).unwrap();
    let listener = streams.listen(bound.fd.as_raw_fd()).unwrap();
    let mut world = World {
        uring: &uring,
        streams: &streams,
        clock: TscClock::calibrate(),
        address: bound.local,
        listener,
        _fd: bound.fd,
        heard: Vec::new(),
    };
    let result = test(&mut world);
    streams.audit().unwrap();
    result
}

impl<'m> World<'_, 'm> {
    pub(crate) fn turn(&mut self) {
        let _busy = self.streams.turn(self.clock.now(), Budget::DEFAULT);
        while let Some(event) = self.streams.poll() {
            self.heard.push(event);
        }
        self.streams.audit().unwrap();
    }

    /// Turns until `seen` says so.
    pub(crate) fn until(&mut self, what: &str, mut seen: impl FnMut(&mut Self) -> bool) {
        let deadline = Instant::now() + PATIENCE;
        while !seen(self) {
            self.turn();
            assert!(Instant::now() < deadline, "{what}: {:?}", self.heard);
        }
    }

    /// The first event that `wanted` takes out.
    pub(crate) fn event<R>(
        &mut self,
        what: &str,
        mut wanted: impl FnMut(&StreamEvent<'m>) -> Option<R>,
    ) -> R {
        let mut found = None;
        self.until(what, |world| {
            let at = world.heard.iter().position(|event| {
                found = wanted(event);
                found.is_some()
            });
            if let Some(at) = at {
                world.heard.remove(at);
            }
            at.is_some()
        });
        found.unwrap()
    }

    pub(crate) fn client(&mut self) -> (TcpStream, ConnId) {
        let client = TcpStream::connect(self.address).unwrap();
        client.set_nonblocking(true).unwrap();
        client.set_nodelay(true).unwrap();
        let conn = self.event("a connection", |event| match event {
            StreamEvent::Accepted { conn, .. } => Some(*conn),
            _ => None,
        });
        (client, conn)
    }

    pub(crate) fn closed(&mut self, conn: ConnId) -> CloseReason {
        self.event("an end", |event| match event {
            StreamEvent::Closed { conn: which, reason } if *which == conn => Some(*reason),
            _ => None,
        })
    }

    /// All that has come by a connection, taken out of what was heard.
    pub(crate) fn take_bytes(&mut self, of: ConnId) -> Vec<u8> {
        let mut bytes = Vec::new();
        self.heard.retain(|event| match event {
            StreamEvent::Received { conn, bytes: loan } if *conn == of => {
                bytes.extend_from_slice(loan);
                false
            }
            _ => true,
        });
        bytes
    }

    /// Until so much has come.
    pub(crate) fn receive(&mut self, conn: ConnId, count: usize) -> Vec<u8> {
        let mut bytes = Vec::new();
        self.until("bytes", |world| {
            bytes.extend(world.take_bytes(conn));
            bytes.len() >= count
        });
        bytes
    }

    /// Until the client has so much.
    pub(crate) fn read(&mut self, client: &TcpStream, count: usize) -> Vec<u8> {
        let mut bytes = Vec::new();
        let mut room = vec![0; 1 << 16];
        self.until("bytes at the client", |_| {
            match (&mut &*client).read(&mut room) {
                Ok(0) => panic!("the end after {} of {count} bytes", bytes.len()),
                Ok(more) => bytes.extend_from_slice(&room[..more]),
                Err(e) => assert_eq!(e.kind(), ErrorKind::WouldBlock),
            }
            bytes.len() >= count
        });
        bytes
    }

    /// Until the client sees the end of the stream; resets count.
    pub(crate) fn read_end(&mut self, client: &TcpStream) {
        let mut room = vec![0; 1 << 16];
        self.until("the end at the client", |_| match (&mut &*client).read(&mut room) {
            Ok(count) => count == 0,
            Err(e) => e.kind() != ErrorKind::WouldBlock,
        });
    }

    pub(crate) fn lend(&mut self, bytes: &[u8]) -> Loan<'m> {
        let mut loan = None;
        self.until("a buffer", |world| {
            loan = world.streams.lend();
            loan.is_some()
        });
        let mut loan = loan.unwrap();
        loan.fill(bytes).unwrap();
        loan
    }

    /// Writes all of it, in pieces, as there is room.
    pub(crate) fn write(&mut self, conn: ConnId, bytes: &[u8], piece: usize) {
        for part in bytes.chunks(piece) {
            self.until("room", |world| world.streams.write(conn, part).is_ok());
        }
    }
}

pub(crate) fn bytes(count: usize, seed: usize) -> Vec<u8> {
    (0..count).map(|i| u8::try_from((i * 31 + seed * 7 + i / 251) % 251).unwrap()).collect()
}

pub(crate) fn open_files() -> usize {
    std::fs::read_dir("/proc/self/fd").unwrap().count()
}

/// Connections are descriptors of the process.
pub(crate) const fn no_table() -> FeatureSet {
    FeatureSet::EMPTY.with(Feature::Files)
}

/// A ring whose entries a thread of the kernel takes; it sleeps after a millisecond.
pub(crate) fn with_a_thread(
    config: &StreamConfig,
    deny: FeatureSet,
) -> (&StreamConfig, UringConfig) {
    let thread = SqPoll { idle: Duration::from_millis(1), cpu: None };
    (config, UringConfig { sq_poll: Some(thread), deny, ..UringConfig::for_streams(config) })
}
