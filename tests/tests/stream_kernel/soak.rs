//! A service that stores what clients say, on a ring that carries streams and files: clients of all manners come and go, and nothing of them
//! stays.
//!
//! ```text
//!   bytes come --> chain: write, sync --> read back into a buffer of files --> the same buffer goes to the client, uncopied
//!                    |  cancelled now and then; now and then to a file that takes no writes
//!   clients: polite | half-closed | gone unread | reset | cut off by the service | stalled
//! ```
//!
//! Invariant: at rest descriptors, buffers of all three kinds, rows, operations, pinned pages and the arena of the ring are as they were
//! when the first clients had gone; and the process has grown by no more than a few pages.

use core::time::Duration;
use std::collections::{BTreeMap, VecDeque};
use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::os::fd::AsRawFd;
use std::path::PathBuf;
use std::time::Instant;

use spinwire_dataplane::error::PostError;
use spinwire_dataplane::file::{EntryKind, FileCompletion, FileConfig, FileId, Files};
use spinwire_dataplane::poll::{Budget, Poll};
use spinwire_dataplane::raw::loan::Loan;
use spinwire_dataplane::services::{Strays, StreamsAndFiles};
use spinwire_dataplane::stream::{CloseReason, ConnId, StreamConfig, StreamEvent};
use spinwire_dataplane::time::Nanos;
use spinwire_hostshim::clock::TscClock;
use spinwire_hostshim::file::{FileOptions, HostFile};
use spinwire_hostshim::socket::{self, SocketOptions};
use spinwire_hostshim::uring::{Feature, FeatureSet, Uring, UringConfig};
use spinwire_tests::rng::Rng;

use super::world::{CONFIG, Kernel, PATIENCE, bytes, no_table, open_files, play};

const NAME: &str = "soak::streams_and_files_on_one_ring_leave_nothing";

/// Clients at the same time.
const CLIENTS: usize = 4;

const STREAMS: StreamConfig = StreamConfig {
    conns: 8,
    recv_buffers: (16, 1024),
    send_buffers: (8, 4096),
    segments: 32,
    zero_copy_min: 700,
    queue_high: 64 << 10,
    queue_low: 16 << 10,
    backlog: 4,
    // Clients that are stalled are not waited for long.
    linger_timeout: Nanos::from_millis(2),
    ..StreamConfig::DEFAULT
};

const FILES: FileConfig = FileConfig {
    files: 2,
    operations: 8,
    entries_max: 2,
    buffers: (8, 4096),
    fixed_buffers: false,
};

/// The first few touch what is touched at all.
const WARM_UP: u64 = 10;

/// The log begins anew here, so that the disk is not filled.
const LOG_BYTES: u64 = 1 << 20;

/// So many clients in all (`SPINWIRE_SOAK_CLIENTS`), and no longer than so many milliseconds (`SPINWIRE_SOAK_MS`).
fn bounds() -> (u64, Duration) {
    let of = |name, otherwise| {
        std::env::var(name).ok().and_then(|n| n.parse().ok()).unwrap_or(otherwise)
    };
    (of("SPINWIRE_SOAK_CLIENTS", 240), Duration::from_millis(of("SPINWIRE_SOAK_MS", 700)))
}

/// In a process of its own, as it counts what the process has.
#[test]
fn streams_and_files_on_one_ring_leave_nothing() {
    if std::env::var_os("STREAM_ALONE").is_none() {
        let this = std::env::current_exe().unwrap();
        let mut command = std::process::Command::new(this);
        let ran = command.args([NAME, "--exact"]).env("STREAM_ALONE", "1").output().unwrap();
        assert!(ran.status.success(), "{}", String::from_utf8_lossy(&ran.stdout));
        return;
    }
    let before = (open_files(), status("VmPin"));
    for deny in [FeatureSet::EMPTY, no_table().with(Feature::Buffers).with(Feature::SendZc)] {
        soak(deny);
        assert_eq!(open_files(), before.0, "{deny}: a closed ring has no descriptors");
        // The kernel takes a ring apart after it was closed.
        let begun = Instant::now();
        while status("VmPin") != before.1 {
            assert!(begun.elapsed() < PATIENCE, "{deny}: {} of {}", status("VmPin"), before.1);
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

/// What there is of everything, at rest.
#[derive(Debug, PartialEq, Eq)]
struct Load {
    descriptors: usize,
    connections: u32,
    /// Buffers that the kernel has; those for copies; those of files.
    buffers: (u32, usize, usize),
    operations: (u32, usize),
    arena_free: usize,
    pinned: String,
    strays: Strays,
    stale: (u64, u64),
}

/// A client, and what it has said and heard.
struct Client {
    stream: TcpStream,
    conn: ConnId,
    said: Vec<u8>,
    heard: usize,
}

/// What the service has of one connection.
#[derive(Default)]
struct Talk<'m> {
    waiting: VecDeque<Loan<'m>>,
    /// With the disk, or being sent.
    busy: bool,
    ended: bool,
}

struct Service<'s, 'm> {
    both: StreamsAndFiles<'s, 'm, Kernel<'m>>,
    clock: TscClock,
    log: FileId,
    /// It takes no writes.
    fixed: FileId,
    at: u64,
    talks: BTreeMap<u32, (ConnId, Talk<'m>)>,
    /// Operations under way, by the number that they were given: whose they are, and where it was written.
    asked: BTreeMap<u64, (ConnId, u64, usize)>,
    number: u64,
    accepted: VecDeque<ConnId>,
    closed: Vec<ConnId>,
    rng: Rng,
    /// Chains that did not end well, as they were meant to.
    broken: u64,
}

impl<'m> Service<'_, 'm> {
    fn turn(&mut self) {
        let _busy = self.both.turn(self.clock.now(), Budget::DEFAULT);
        while let Some(event) = self.both.streams().poll() {
            self.heard(event);
        }
        while let Some(done) = self.both.files().poll() {
            self.done(done);
        }
        let all: Vec<ConnId> = self.talks.values().map(|(conn, _)| *conn).collect();
        all.into_iter().for_each(|conn| self.go_on(conn));
        self.both.streams().audit().unwrap();
    }

    /// Turns until something is so.
    fn until(&mut self, what: &str, mut so: impl FnMut(&mut Self) -> bool) {
        let deadline = Instant::now() + PATIENCE;
        while !so(self) {
            self.turn();
            assert!(Instant::now() < deadline, "{what}");
        }
    }

    fn talk(&mut self, conn: ConnId) -> Option<&mut Talk<'m>> {
        let (of, talk) = self.talks.get_mut(&conn.slot())?;
        (*of == conn).then_some(talk)
    }

    fn heard(&mut self, event: StreamEvent<'m>) {
        match event {
            StreamEvent::Accepted { conn, .. } => {
                self.talks.insert(conn.slot(), (conn, Talk::default()));
                self.accepted.push_back(conn);
            }
            StreamEvent::Received { conn, bytes } => {
                if let Some(talk) = self.talk(conn) {
                    talk.waiting.push_back(bytes);
                }
            }
            StreamEvent::Sent { conn, loan, .. } | StreamEvent::NotSent { conn, loan, .. } => {
                drop(loan);
                if let Some(talk) = self.talk(conn) {
                    talk.busy = false;
                }
            }
            StreamEvent::PeerClosed(conn) => {
                if let Some(talk) = self.talk(conn) {
                    talk.ended = true;
                }
            }
            StreamEvent::Closed { conn, .. } => {
                self.talks.remove(&conn.slot());
                self.closed.push(conn);
            }
            other => panic!("{other:?}"),
        }
    }

    /// Gives the disk what has come next of a connection: one piece at a time, so that answers keep their order.
    fn go_on(&mut self, conn: ConnId) {
        let (both, fixed) = (&self.both, self.fixed);
        let Some((_, talk)) = self.talks.get_mut(&conn.slot()) else { return };
        if talk.busy {
            return;
        }
        if talk.waiting.is_empty() {
            if talk.ended {
                let _closed_already = both.streams().close(conn);
            }
            return;
        }
        let Ok(mut chain) = both.files().chain() else { return };
        let Some(piece) = talk.waiting.pop_front() else { return };
        let length = piece.len();
        // Of every twentieth the write fails, and the sync with it.
        let file = if self.rng.chance(5) { fixed } else { self.log };
        chain.write(file, self.at, piece, self.number).map_err(|r| r.error).unwrap();
        chain.sync(file, self.number).unwrap();
        let op = chain.submit().unwrap();
        talk.busy = true;
        self.asked.insert(self.number, (conn, self.at, length));
        self.number += 1;
        self.at = (self.at + u64::try_from(length).unwrap()) % LOG_BYTES;
        if self.rng.chance(5) {
            if self.rng.chance(50) {
                self.both.files().flush();
            }
            self.both.files().cancel(op).unwrap();
        }
    }

    fn done(&mut self, done: FileCompletion<'m>) {
        let number = done.context;
        match done.kind {
            // The buffer goes back to the kernel with this.
            EntryKind::Write => drop(done.loan),
            EntryKind::Sync => {
                let (conn, at, length) = self.asked[&number];
                let room = self.both.files().lend().filter(|_| done.result.is_ok());
                let Some(room) = room else {
                    return self.give_up(number);
                };
                match self.both.files().read(self.log, (at, length), room, number) {
                    Ok(_op) => {}
                    Err(refused) if matches!(refused.error, PostError::Retry(_)) => {
                        self.give_up(number);
                    }
                    Err(refused) => panic!("{conn}: {}", refused.error),
                }
            }
            EntryKind::Read => {
                assert_eq!(done.result, Ok(()));
                let (conn, ..) = self.asked.remove(&number).unwrap();
                if self.both.streams().send(conn, done.loan.unwrap(), number).is_err()
                    && let Some(talk) = self.talk(conn)
                {
                    talk.busy = false;
                }
            }
        }
    }

    /// What a client has said could not be stored: it is cut off, as what it hears would have a gap.
    fn give_up(&mut self, number: u64) {
        self.broken += 1;
        let (conn, ..) = self.asked.remove(&number).unwrap();
        let _gone_already = self.both.streams().abort(conn);
        if let Some(talk) = self.talk(conn) {
            talk.waiting.clear();
        }
    }

    /// What is left when nobody is there and nothing is under way.
    fn load(&mut self) -> Load {
        self.until("rest", |service| {
            let (streams, files) = (service.both.streams(), service.both.files());
            streams.len() == 1 && files.under_way() == 0 && service.talks.is_empty()
        });
        (0..4).for_each(|_| self.turn());
        let (streams, files) = (self.both.streams(), self.both.files());
        let copies: Vec<_> = core::iter::from_fn(|| streams.lend()).collect();
        let pages: Vec<_> = core::iter::from_fn(|| files.lend()).collect();
        let chains: Vec<_> = core::iter::from_fn(|| files.chain().ok()).collect();
        Load {
            descriptors: open_files(),
            connections: streams.len(),
            buffers: (streams.buffers().given(), copies.len(), pages.len()),
            operations: (files.under_way(), chains.len()),
            arena_free: streams.ring().arena().bump().free_bytes(),
            pinned: status("VmPin"),
            strays: self.both.strays(),
            stale: (streams.counters().stale, files.counters().stale),
        }
    }
}

/// A line of `/proc/self/status`.
fn status(name: &str) -> String {
    let all = std::fs::read_to_string("/proc/self/status").unwrap();
    all.lines().find(|line| line.starts_with(name)).unwrap_or_default().to_owned()
}

/// KiB of memory that the process has, counted page by page.
fn resident() -> u64 {
    let all = std::fs::read_to_string("/proc/self/smaps_rollup").unwrap();
    let line = all.lines().find_map(|line| line.strip_prefix("Rss:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

impl Client {
    /// Says so many bytes, and hears some of the answer: as much as has come where it does not wait.
    fn talk(&mut self, service: &mut Service<'_, '_>, count: usize, waits: bool) {
        let more = bytes(count, self.said.len());
        let (mut rest, mut room) = (&more[..], vec![0; 4096]);
        self.said.extend_from_slice(&more);
        service.until("an answer", |_| {
            // Cut off by the service: whoever looks next is told.
            rest = match self.stream.write(rest) {
                Ok(sent) => &rest[sent..],
                Err(e) if e.kind() == ErrorKind::WouldBlock => rest,
                Err(_gone) => return true,
            };
            match self.stream.read(&mut room) {
                Ok(0) => return true,
                Ok(heard) => {
                    let at = self.heard..self.heard + heard;
                    assert!(self.said[at.clone()] == room[..heard], "what it has said comes back");
                    self.heard = at.end;
                }
                Err(e) if e.kind() == ErrorKind::WouldBlock => {}
                Err(_gone) => return true,
            }
            rest.is_empty() && (!waits || self.heard == self.said.len())
        });
    }

    /// Goes, in one of many manners.
    fn go(mut self, service: &mut Service<'_, '_>, manner: u64) {
        match manner {
            0 => {
                self.talk(service, 3000, true);
                drop(self.stream);
            }
            1 => {
                self.talk(service, 5000, false);
                self.stream.shutdown(Shutdown::Write).unwrap_or_default();
                let mut room = vec![0; 4096];
                service.until("the end", |_| match self.stream.read(&mut room) {
                    Ok(count) => count == 0,
                    Err(e) => e.kind() != ErrorKind::WouldBlock,
                });
            }
            2 => {
                self.talk(service, 9000, false);
                drop(self.stream);
            }
            3 => {
                // Closed with an answer in it, which resets it.
                let _all_fits = self.stream.write(&bytes(900, 1));
                service.until("bytes to be left unread", |_| {
                    let seen = self.stream.peek(&mut [0]);
                    !seen.is_err_and(|e| e.kind() == ErrorKind::WouldBlock)
                });
                drop(self.stream);
            }
            4 => {
                self.talk(service, 2000, false);
                let _gone_already = service.both.streams().abort(self.conn);
            }
            _ => {
                // It reads nothing, and the service closes.
                let _full = self.stream.write(&bytes(60_000, 1));
                (0..3).for_each(|_| service.turn());
                let _gone_already = service.both.streams().close(self.conn);
            }
        }
    }
}

fn soak(deny: FeatureSet) {
    // In memory: what a disk takes for a sync is not what counts here.
    let path = |what| PathBuf::from(format!("/dev/shm/soak-{}-{what}", std::process::id()));
    let (log_at, fixed_at) = (path("log"), path("fixed"));
    std::fs::write(&fixed_at, b"no more").unwrap();
    let options = FileOptions { truncate: true, direct: false, ..FileOptions::default() };
    let log = HostFile::open(&log_at, &options).unwrap();
    let fixed = FileOptions { write: false, truncate: false, ..options };
    let fixed = HostFile::open(&fixed_at, &fixed).unwrap();
    let config = UringConfig { deny, ..UringConfig::for_streams_and_files(&STREAMS, &FILES) };
    let uring = Uring::open(&config).unwrap();
    let ring = uring.ring().unwrap();
    let fixed_buffers = !deny.has(Feature::Buffers) && uring.register_arena().is_ok();
    let streams = uring.streams(&ring, 0, &STREAMS).unwrap();
    let files = Files::place(&ring, &FileConfig { fixed_buffers, ..FILES }).unwrap();
    let local = core::net::SocketAddr::from(([127, 0, 0, 1], 0));
    let bound = socket::listen(local, 16, &SocketOptions::default()).unwrap();
    streams.listen(bound.fd.as_raw_fd()).unwrap();
    let mut service = Service {
        log: files.add(log.file_ref(), log.shape()).unwrap(),
        fixed: files.add(fixed.file_ref(), fixed.shape()).unwrap(),
        both: StreamsAndFiles::new(&streams, &files).unwrap(),
        clock: TscClock::calibrate(),
        at: 0,
        talks: BTreeMap::new(),
        asked: BTreeMap::new(),
        number: 1,
        accepted: VecDeque::new(),
        closed: Vec::new(),
        rng: Rng::new(41),
        broken: 0,
    };
    come_and_go(&mut service, bound.local);
    assert_eq!(service.both.strays(), Strays::default());
    for path in [log_at, fixed_at] {
        std::fs::remove_file(path).unwrap();
    }
}

/// Clients come and go, some at a time, until there were enough of them.
fn come_and_go(service: &mut Service<'_, '_>, at: core::net::SocketAddr) {
    let (most, time) = bounds();
    let mut rng = Rng::new(29);
    let (mut count, mut rest, mut grown_from) = (0, None, 0);
    let begun = Instant::now();
    while count < most && (begun.elapsed() < time || count < 2 * WARM_UP) {
        let mut clients: Vec<Client> = Vec::new();
        // Ten of them, and then nobody.
        for number in 0..10 + CLIENTS {
            if number < 10 {
                let stream = TcpStream::connect(at).unwrap();
                stream.set_nonblocking(true).unwrap();
                service.until("a connection", |service| !service.accepted.is_empty());
                let conn = service.accepted.pop_front().unwrap();
                clients.push(Client { stream, conn, said: Vec::new(), heard: 0 });
                count += 1;
            }
            if clients.len() == CLIENTS || number >= 10 {
                let at = rng.index(clients.len());
                let client = &mut clients[at];
                client.talk(service, rng.between(1, 3000), true);
                clients.swap_remove(at).go(service, rng.below(6));
            }
            if clients.is_empty() {
                break;
            }
        }
        clients.clear();
        let load = service.load();
        if count >= WARM_UP && grown_from == 0 {
            grown_from = resident();
        }
        match &rest {
            None => rest = Some(load),
            Some(rest) => assert_eq!(&load, rest, "after {count} clients"),
        }
    }
    assert_eq!(service.both.streams().counters().accepted, count);
    assert!(count < 80 || service.broken > 0, "chains fail now and then");
    let grown = resident().saturating_sub(grown_from);
    if std::env::var_os("SPINWIRE_SOAK_MS").is_some() {
        println!("{count} clients, {} broken chains, grown by {grown} KiB", service.broken);
    }
    assert!(grown < 256, "grown by {grown} KiB");
}

/// Streams alone: clients that come, do something at random and go, for a second or so.
pub(super) fn of_streams(deny: FeatureSet, before: usize) {
    let mut rng = Rng::new(23);
    // Clients that stay open are not waited for long.
    let linger_timeout = Nanos::from_millis(2);
    play((&StreamConfig { conns: 9, linger_timeout, ..CONFIG }, deny), |world| {
        let mut clients: Vec<(TcpStream, ConnId)> = Vec::new();
        let begun = Instant::now();
        let mut count = 0;
        while count <= 20 || (begun.elapsed() < Duration::from_secs(1) && count < 3_000) {
            if clients.len() < 8 && rng.chance(30) {
                clients.push(world.client());
                count += 1;
            }
            if clients.is_empty() {
                continue;
            }
            let at = rng.index(clients.len());
            let (client, conn) = &clients[at];
            let conn = *conn;
            match rng.below(8) {
                0..=4 => {
                    let data = bytes(rng.between(1, 20_000), count);
                    let mut rest = &data[..];
                    let mut came = Vec::new();
                    world.until("the way there", |world| {
                        if let Ok(sent) = (&mut &*client).write(rest) {
                            rest = &rest[sent..];
                        }
                        came.extend(world.take_bytes(conn));
                        came.len() == data.len()
                    });
                    assert!(came == data);
                    world.write(conn, &data, 4000);
                    let (client, _) = &clients[at];
                    assert!(world.read(client, data.len()) == data);
                }
                5 => {
                    world.streams.close(conn).unwrap();
                    assert_eq!(world.closed(conn), CloseReason::Closed);
                    clients.swap_remove(at);
                }
                6 => {
                    drop(clients.swap_remove(at));
                    world.event("its end", |event| {
                        matches!(event, StreamEvent::PeerClosed(which) if *which == conn)
                            .then_some(())
                    });
                    world.streams.close(conn).unwrap();
                    world.closed(conn);
                }
                _ => {
                    world.streams.abort(conn).unwrap();
                    assert_eq!(world.closed(conn), CloseReason::Aborted);
                    clients.swap_remove(at);
                }
            }
            world.heard.retain(|event| !matches!(event, StreamEvent::Writable(_)));
            assert!(world.heard.is_empty(), "{:?}", world.heard);
        }
        for (client, conn) in clients.drain(..) {
            drop(client);
            world.streams.abort(conn).unwrap();
            world.closed(conn);
        }
        assert_eq!(world.streams.len(), 1, "the listener");
    });
    assert_eq!(open_files(), before);
}
