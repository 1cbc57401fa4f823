//! Byte streams over io_uring: connections of TCP or of anything else that is a stream, for services of any protocol.
//!
//! ```text
//!    your service, one thread on one core
//!      loop { streams.turn(now, budget);  while let Some(event) = streams.poll() { .. write, send, close .. } }
//!                 |                                        ^
//!   listen, connect, adopt                                 | Accepted, Connected, Received, Sent, Writable, PeerClosed, Closed
//!                 v                                        |
//!    +-----------------------------------------------------------------+
//!    | rows      a connection: phase, what it wants of the ring        |
//!    | segments  what waits to be sent, and what the kernel has of it  |
//!    | chains    sends under way, their results and notifications      |
//!    | buffers   from which the kernel picks when bytes have come      |
//!    +-----------------------------------------------------------------+
//!                 | one submission a turn                  ^
//!                 v                                        |
//!    +-----------------------------------------------------------------+
//!    | uring::Ring                                                     |
//!    +-----------------------------------------------------------------+
//! ```
//!
//! | file | what it does |
//! |---|---|
//! | [`provided`] | gives buffers to the kernel and takes them back filled |
//! | `service` | the table of connections: how they begin, events |
//! | `turn` | turns, and their halves |
//! | `close` | how they end |
//! | `write`, `posted` | what callers hand in to be sent |
//! | `share` | who may have how many of the buffers that are written into |
//! | `row` | one connection, and what it wants |
//! | `segment` | queues of what is to be sent |
//! | `drive` | turns wants into submissions, as far as there is room for them |
//! | `arrive` | turns completions into events |
//! | `ask` | asks who was just heard, instead of waiting for him |
//! | `limit` | timeouts |
//! | `operation` | time limits of single operations, and what is taken back |
//! | `audit` | whether all tables are as they should be, for tests |
//!
//! *A connection wants things of the ring* (to receive, to send, to be cancelled, to be closed), a bit each. A turn goes through the
//! connections that want something and submits what there is room for; what there is none for is wanted still. So nothing
//! that a caller or a completion asks for is ever lost because the queue is full, and there is one place where submissions
//! are made.
//!
//! *Bytes that come* lie in a buffer that the kernel has picked; the event hands it out as a [`Loan`]. While it is held, the kernel
//! has one less. Where it has none, receiving stops by itself and goes on as buffers come back: one by one at first, then as
//! before.
//!
//! *Bytes that go* are copied into buffers of the service by [`Streams::write`], or handed over in a loan by [`Streams::send`]. They go out in
//! that order. All that waits goes with one submission, or as one chain of linked ones where some of it is large enough to go uncopied.
//! The next may begin when every operation of the one before has ended; memory comes back when the kernel has said its last word of it.
//!
//! Sockets have to be in blocking mode: of a non-blocking one io_uring waits for nothing (`REQ_F_NOWAIT`).
//!
//! Invariants: (1) a row is free only when the kernel has no operation of it; (2) a segment is in the queue of one row, or with one
//! chain, or ended and about to be reported, or free; (3) at most one chain of a row has operations under way; (4) who was refused
//! something is told once that it is there, whatever others do.

mod arrive;
mod ask;
mod audit;
mod close;
mod drive;
mod limit;
mod operation;
mod posted;
pub mod provided;
mod row;
mod segment;
mod service;
mod share;
mod turn;
mod write;

use core::fmt;

use crate::raw::loan::Loan;
use crate::table::Key;
use crate::time::Nanos;

pub use service::{PlaceError, Streams};

/// A connection or a listener, as its [`Streams`] knows it: slot and generation.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct ConnId(pub(crate) Key);

impl ConnId {
    /// Its slot: below the number of connections that the service was placed for. For tables of the caller's own.
    #[must_use]
    pub const fn slot(self) -> u32 {
        self.0.slot()
    }
}

impl fmt::Display for ConnId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.0.slot(), self.0.generation().as_raw())
    }
}

/// What the kernel can do, as the host has found out. Without one there is another way.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct StreamFeatures {
    /// One submission accepts many connections; else one each.
    pub accept_multishot: bool,
    /// One submission receives many times; else once.
    pub recv_multishot: bool,
    /// One completion fills many buffers; else one each.
    pub bundles: bool,
    /// Sends without a copy (`SEND_ZC`); else all are copied.
    pub send_zero_copy: bool,
    /// And of messages of many parts (`SENDMSG_ZC`); else such a message is a chain. Only where no buffers are registered.
    pub sendmsg_zero_copy: bool,
    /// The arena of the ring is registered, so that what is sent without a copy is not pinned for each send.
    pub fixed_buffers: bool,
    /// Accepted connections live in the ring's own table of files, which the host has registered; else they are descriptors.
    pub direct_files: bool,
}

impl StreamFeatures {
    /// None of them.
    pub const NONE: Self = Self {
        accept_multishot: false,
        recv_multishot: false,
        bundles: false,
        send_zero_copy: false,
        sendmsg_zero_copy: false,
        fixed_buffers: false,
        direct_files: false,
    };
}

/// How many of everything, and when to give up.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct StreamConfig {
    /// Connections and listeners.
    pub conns: u32,
    /// Buffers that the kernel receives into, and their bytes.
    pub recv_buffers: (u32, usize),
    /// Buffers that [`Streams::write`] copies into, and their bytes.
    pub send_buffers: (u32, usize),
    /// Pieces that wait to be sent or are under way.
    pub segments: u32,
    /// With so many bytes to be sent a connection is not received from any more (what the kernel has taken for it already still
    /// comes, which may be as much as the socket's receive buffer holds),
    pub queue_high: u32,
    /// and with so few it is again.
    pub queue_low: u32,
    /// More than so many bytes are not taken for a connection.
    pub queue_max: u32,
    /// A connection gets no more of the buffers that [`Streams::write`] copies into than it leaves to others, and one in any case. So
    /// other ends that take nothing cannot have them all. For services whose connections have nothing to do with each other. One for each
    /// connection is kept (at most half of all), and one write takes at most half of the others: more is `TooLong`.
    pub fair_sends: bool,
    /// From so many bytes on a piece is sent without a copy, where the kernel can; 0 for never. On loop-back it never pays, as the kernel copies
    /// there after all: a round trip took 1.1 times as long with 2 KiB, 1.6 times with 64 KiB (`spinwire echo --zero-copy`). On a
    /// network card it was not measured.
    pub zero_copy_min: u32,
    /// Who was just heard is asked by a receive that does not wait, in turn with others, for a while: for services that answer requests, on a
    /// thread that spins. That saves both ends the news that something has come. An eighth of the connections are asked at once, two at least and
    /// so many at most: with few, what comes is answered in order. 0 for none: all are waited for.
    pub ask_max: u32,
    /// What the kernel can do.
    pub features: StreamFeatures,
    /// How many connections a listener may bring at once: what its socket was made to let wait (listen(2)). Only while more rows than that are
    /// free does one accept bring many; else they are accepted one by one, so that none is taken in for which there is no row.
    pub backlog: u32,
    /// How long to connect may take; `MAX` for any time. So are the others.
    pub connect_timeout: Nanos,
    /// How long nothing may come and nothing go.
    pub idle_timeout: Nanos,
    /// How long what is to be sent may make no progress; also after a close.
    pub send_timeout: Nanos,
    /// The same, while buffers lack: to receive into, so that others wait for one, or to send ([`Streams::lend`], [`Streams::write`]). For then other
    /// ends that take nothing may hold them all. That a part of one operation has gone is no progress that can be seen.
    pub hoard_timeout: Nanos,
    /// How long a connection that was closed, and has sent all, waits for the other end to close as well, so that its end is no reset:
    /// see [`Streams::close`]. Zero for not at all: for protocols in which both ends know which bytes are the last, and for services that
    /// need the row at once. `MAX` for however long it takes; else 10 ms where a listener lacks a row.
    pub linger_timeout: Nanos,
    /// More than so many bytes are not received and dropped meanwhile.
    pub linger_bytes: u32,
}

impl StreamConfig {
    /// 64 connections, 256 buffers of 16 KiB each way, no timeouts but of a second or 256 KiB after a close, no features.
    pub const DEFAULT: Self = Self {
        conns: 64,
        recv_buffers: (256, 16 << 10),
        send_buffers: (256, 16 << 10),
        segments: 1024,
        queue_high: 256 << 10,
        queue_low: 64 << 10,
        queue_max: 4 << 20,
        fair_sends: false,
        zero_copy_min: 0,
        ask_max: 0,
        features: StreamFeatures::NONE,
        backlog: 128,
        connect_timeout: Nanos::MAX,
        idle_timeout: Nanos::MAX,
        send_timeout: Nanos::MAX,
        hoard_timeout: Nanos::MAX,
        linger_timeout: Nanos::from_millis(1000),
        linger_bytes: 256 << 10,
    };
}

impl Default for StreamConfig {
    /// [`StreamConfig::DEFAULT`].
    fn default() -> Self {
        Self::DEFAULT
    }
}

/// Why a connection ended.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum CloseReason {
    /// The caller closed it, and everything was sent.
    Closed,
    /// The caller aborted it.
    Aborted,
    /// An operation failed: the number of errno(3).
    Errno(i32),
    /// It could not be connected in time.
    ConnectTimeout,
    /// Nothing came and nothing went for too long.
    IdleTimeout,
    /// What was to be sent made no progress for too long.
    SendTimeout,
    /// A part of what was handed in has gone when its own time was up, or it was to be taken back: what follows would be taken for the
    /// rest of it.
    Torn,
    /// The kernel has said of it what cannot be, so that bytes are missing. Others go on.
    Garbled,
    /// The ring is lost.
    RingLost,
}

impl fmt::Display for CloseReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Closed => f.write_str("closed"),
            Self::Aborted => f.write_str("aborted"),
            Self::Errno(errno) => write!(f, "failed with errno {errno}"),
            Self::ConnectTimeout => f.write_str("not connected in time"),
            Self::IdleTimeout => f.write_str("idle for too long"),
            Self::SendTimeout => f.write_str("the other end takes nothing for too long"),
            Self::Torn => f.write_str("a part of what was taken back has gone"),
            Self::Garbled => f.write_str("the kernel has said of it what cannot be"),
            Self::RingLost => f.write_str("the ring is lost"),
        }
    }
}

/// Why a loan was not sent.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Undone {
    /// The connection has ended. A part of it may have gone.
    Ended,
    /// Its time was up ([`Streams::send_until`]), and no byte of it has gone.
    TimedOut,
    /// It was taken back ([`Streams::cancel_send`]), and no byte of it has gone.
    Cancelled,
}

/// What happened.
#[derive(Debug)]
pub enum StreamEvent<'m> {
    /// A connection has come.
    Accepted {
        /// By which listener.
        listener: ConnId,
        /// The connection.
        conn: ConnId,
    },
    /// None could be accepted: no descriptors or no memory at the moment. The listener tries again by itself.
    AcceptFailed {
        /// Which listener.
        listener: ConnId,
        /// The number of errno(3).
        errno: i32,
    },
    /// A connection is up that this end has opened.
    Connected(ConnId),
    /// Bytes have come.
    Received {
        /// From where.
        conn: ConnId,
        /// The bytes. Dropping it gives the buffer back to the kernel.
        bytes: Loan<'m>,
    },
    /// A loan was sent, and is the caller's again.
    Sent {
        /// Where to.
        conn: ConnId,
        /// The number that was given with it.
        context: u64,
        /// The buffer.
        loan: Loan<'m>,
    },
    /// A loan was not sent, or not all of it: the connection has ended, or it was taken back.
    NotSent {
        /// Where to.
        conn: ConnId,
        /// The number that was given with it.
        context: u64,
        /// The buffer.
        loan: Loan<'m>,
        /// Why not.
        why: Undone,
    },
    /// Posted memory is its poster's again.
    RangeBack {
        /// Where to.
        conn: ConnId,
        /// The number that was given with it.
        context: u64,
        /// Whether all of it was sent. Not where the connection has ended before.
        sent: bool,
    },
    /// There is room again, after a write or a send was refused.
    Writable(ConnId),
    /// Nothing has come by the time that [`Streams::receive_until`] was given. Nothing is received until it is called again, or
    /// [`Streams::resume`].
    ReceiveTimedOut(ConnId),
    /// The other end sends no more. It may still receive.
    PeerClosed(ConnId),
    /// The connection is over, and its id is stale. What was handed in for it has come back before.
    Closed {
        /// Which.
        conn: ConnId,
        /// Why: the first cause.
        reason: CloseReason,
    },
}

/// What a service has seen and done so far.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct StreamCounters {
    /// Connections accepted.
    pub accepted: u64,
    /// Connections that came when there was no row for them, and were closed at once.
    pub turned_away: u64,
    /// Bytes that came.
    pub received_bytes: u64,
    /// Bytes that went.
    pub sent_bytes: u64,
    /// Times that the kernel had no buffer for what had come.
    pub out_of_buffers: u64,
    /// Completions that belong to no operation of a connection that is there.
    pub stale: u64,
    /// Pieces that went uncopied.
    pub zero_copy: u64,
    /// Receives that were waited for, however often they repeat themselves.
    pub waits: u64,
    /// Receives that were asked ([`StreamConfig::ask_max`]),
    pub asks: u64,
    /// and how many of them found nothing.
    pub vain_asks: u64,
}
