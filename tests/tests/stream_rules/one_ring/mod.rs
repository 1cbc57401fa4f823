//! Streams and files on one ring: an echo service that answers only what is on the disk.
//!
//! ```text
//!   bytes come --> chain: write to the log, sync --> the sync is whole --> the same buffer goes back to where it came from
//! ```
//!
//! On a kernel that is made up (`fake`), which has a disk and a network and does what it wants, and on the real one (`real`).

mod alone;
mod fake;
mod real;

use std::collections::{BTreeMap, VecDeque};

use spinwire_dataplane::error::PostError;
use spinwire_dataplane::file::{EntryKind, FileCompletion, FileConfig, FileId};
use spinwire_dataplane::poll::{Budget, Poll};
use spinwire_dataplane::raw::loan::Loan;
use spinwire_dataplane::services::StreamsAndFiles;
use spinwire_dataplane::stream::{ConnId, StreamConfig, StreamEvent};
use spinwire_dataplane::time::Instant;
use spinwire_dataplane::uring::Enter;

/// Whose a byte is: the number of its client is in it, so that the log says who has sent what.
pub(super) const CLIENTS: usize = 4;

/// What client `client` sends as its byte `at`.
pub(super) fn byte_of(client: usize, at: usize) -> u8 {
    u8::try_from((at * 7 % 61) * CLIENTS + client).unwrap()
}

/// What of a log is of that client.
pub(super) fn of_client(log: &[u8], client: usize) -> Vec<u8> {
    log.iter().copied().filter(|byte| usize::from(*byte) % CLIENTS == client).collect()
}

pub(super) const fn stream_config() -> StreamConfig {
    StreamConfig {
        conns: 8,
        recv_buffers: (16, 512),
        send_buffers: (4, 64),
        segments: 32,
        queue_max: u32::MAX,
        queue_high: u32::MAX,
        ..StreamConfig::DEFAULT
    }
}

pub(super) const fn file_config() -> FileConfig {
    FileConfig { files: 1, operations: 6, entries_max: 2, buffers: (1, 4096), fixed_buffers: false }
}

/// The service.
pub(super) struct LoggedEcho<'s, 'm, E: Enter> {
    pub(super) both: StreamsAndFiles<'s, 'm, E>,
    log: FileId,
    at: u64,
    /// What has come and is not yet given to the disk.
    came: VecDeque<(ConnId, Loan<'m>)>,
    /// What the disk has, by number; and the buffers that are back.
    logging: BTreeMap<u64, ConnId>,
    written: BTreeMap<u64, Loan<'m>>,
    /// What is on the disk, and is answered in order.
    durable: BTreeMap<u64, (ConnId, Loan<'m>)>,
    next: u64,
    answered: u64,
}

impl<'s, 'm, E: Enter> LoggedEcho<'s, 'm, E> {
    pub(super) const fn new(both: StreamsAndFiles<'s, 'm, E>, log: FileId) -> Self {
        Self {
            both,
            log,
            at: 0,
            came: VecDeque::new(),
            logging: BTreeMap::new(),
            written: BTreeMap::new(),
            durable: BTreeMap::new(),
            next: 0,
            answered: 0,
        }
    }

    /// One turn of both, and what comes of it. It makes one call of the kernel at most.
    pub(super) fn turn(&mut self, now: Instant) {
        let enters = || self.both.streams().ring().counters().enters;
        let before = enters();
        let _busy = self.both.turn(now, Budget::DEFAULT);
        assert!(enters() <= before + 1, "{} calls of the kernel in one turn", enters() - before);
        while let Some(event) = self.both.streams().poll() {
            self.heard(event);
        }
        while self.log_next() {}
        while let Some(done) = self.both.files().poll() {
            self.logged(done);
        }
        self.answer();
        self.both.streams().audit().unwrap();
    }

    fn heard(&mut self, event: StreamEvent<'m>) {
        match event {
            StreamEvent::Received { conn, bytes } => self.came.push_back((conn, bytes)),
            // It has all of its answers, or wants none.
            StreamEvent::PeerClosed(conn) => self.both.streams().close(conn).unwrap(),
            StreamEvent::NotSent { .. } => panic!("a client has gone too early"),
            StreamEvent::Accepted { .. }
            | StreamEvent::AcceptFailed { .. }
            | StreamEvent::Connected(_)
            | StreamEvent::Sent { .. }
            | StreamEvent::RangeBack { .. }
            | StreamEvent::Writable(_)
            | StreamEvent::ReceiveTimedOut(_)
            | StreamEvent::Closed { .. } => {}
        }
    }

    /// Gives the disk what has come first, as a chain of a write and a sync, if that has room for it.
    fn log_next(&mut self) -> bool {
        if self.came.is_empty() {
            return false;
        }
        let mut chain = match self.both.files().chain() {
            Ok(chain) => chain,
            Err(PostError::Retry(_)) => return false,
            Err(refused) => panic!("{refused}"),
        };
        let (conn, bytes) = self.came.pop_front().unwrap();
        let length = u64::try_from(bytes.len()).unwrap();
        chain.write(self.log, self.at, bytes, self.next).map_err(|r| r.error).unwrap();
        chain.sync(self.log, self.next).unwrap();
        chain.submit().unwrap();
        self.logging.insert(self.next, conn);
        self.at += length;
        self.next += 1;
        true
    }

    fn logged(&mut self, done: FileCompletion<'m>) {
        assert_eq!(done.result, Ok(()));
        let number = done.context;
        if done.kind == EntryKind::Write {
            self.written.insert(number, done.loan.unwrap());
            return;
        }
        let (conn, bytes) = (self.logging.remove(&number), self.written.remove(&number));
        self.durable.insert(number, (conn.unwrap(), bytes.unwrap()));
    }

    fn answer(&mut self) {
        while let Some((conn, bytes)) = self.durable.remove(&self.answered) {
            match self.both.streams().send(conn, bytes, self.answered) {
                Ok(()) => self.answered += 1,
                Err(refused) => {
                    assert!(matches!(refused.error, PostError::Retry(_)), "{}", refused.error);
                    self.durable.insert(self.answered, (conn, refused.item));
                    return;
                }
            }
        }
    }

    /// Whether all that has come is answered.
    pub(super) fn is_at_rest(&self) -> bool {
        self.came.is_empty() && self.answered == self.next
    }
}
