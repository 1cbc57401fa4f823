//! Clients of the service over TCP: what the ring brings is fed where it lies, replies are written where they are sent from.
//!
//! ```text
//!   Received(buffer) --> conversation: buffers that wait --> feed --> a lent buffer, filled with replies --> send
//!                                      ^                                                            |
//!                                      '---- Sent: there is room again <--- where it was too much --'
//! ```

use core::convert::Infallible;
use std::collections::VecDeque;
use std::os::fd::AsRawFd as _;

use spinwire_dataplane::poll::{Budget, Poll as _};
use spinwire_dataplane::raw::{loan::Loan, pause::pause};
use spinwire_dataplane::stream::{ConnId, StreamConfig, StreamEvent, Streams};
use spinwire_dataplane::time::Nanos;
use spinwire_dataplane::uring::Enter;
use spinwire_hostshim::clock::TscClock;
use spinwire_hostshim::socket::{self, Address, SocketOptions};
use spinwire_hostshim::uring::{Uring, UringConfig};

use crate::LIMITS;
use crate::protocol::Replies;
use crate::service::{Client, Next};
use crate::store::Store;

type Failure = Box<dyn core::error::Error>;

/// Clients at the same time.
const CLIENTS: u32 = 512;
/// A client that has not taken so many bytes of replies is not served further before it has.
const UNSENT_MAX: u64 = 1 << 20;
const CONFIG: StreamConfig = StreamConfig {
    conns: CLIENTS + 1,
    recv_buffers: (1024, 16 << 10),
    send_buffers: (1024, Client::reply_bytes_max(LIMITS).next_multiple_of(4096)),
    segments: 1024,
    backlog: CLIENTS,
    ask_max: 16,
    send_timeout: Nanos::from_millis(30_000),
    // Those who take none of their replies would stop all others.
    hoard_timeout: Nanos::from_millis(1_000),
    ..StreamConfig::DEFAULT
};

/// A client, and what it has sent that was not looked at.
struct Conversation<'m> {
    client: Client,
    /// Its connection, while it is there.
    conn: Option<ConnId>,
    waiting: VecDeque<(Loan<'m>, usize)>,
    /// It sends no more.
    has_ended: bool,
    /// It is to be attended to.
    is_in_line: bool,
}

impl<'m> Conversation<'m> {
    fn new() -> Self {
        let (waiting, client) = (VecDeque::new(), Client::new(LIMITS));
        Self { client, conn: None, waiting, has_ended: false, is_in_line: false }
    }

    /// What has happened on its connection.
    fn hear(&mut self, event: StreamEvent<'m>) {
        match event {
            StreamEvent::Accepted { conn, .. } => {
                self.client.reset();
                self.conn = Some(conn);
            }
            StreamEvent::Received { bytes, .. } => self.waiting.push_back((bytes, 0)),
            StreamEvent::PeerClosed(_) => self.has_ended = true,
            StreamEvent::Closed { .. } => {
                self.conn = None;
                self.waiting.clear();
                self.has_ended = false;
            }
            // The buffer is free again with this.
            StreamEvent::Sent { .. }
            | StreamEvent::NotSent { .. }
            | StreamEvent::AcceptFailed { .. }
            | StreamEvent::Connected(_)
            | StreamEvent::RangeBack { .. }
            | StreamEvent::ReceiveTimedOut(_)
            | StreamEvent::Writable(_) => {}
        }
    }
}

/// Serves clients at `address` for ever.
#[expect(clippy::infinite_loop, reason = "it serves until it is killed")]
pub(crate) fn serve(address: &str, store: &mut Store) -> Result<Infallible, Failure> {
    let local = *address.parse::<Address>()?.resolve()?.first().ok_or("no address")?;
    let uring = Uring::open(&UringConfig::for_streams(&CONFIG))?;
    let ring = uring.ring()?;
    let streams = uring.streams(&ring, 0, &CONFIG)?;
    let clock = TscClock::calibrate();
    // When it is ready: who connects before waits for that.
    let listener = socket::listen(local, CLIENTS, &SocketOptions::default())?;
    streams.listen(listener.fd.as_raw_fd())?;
    println!("serving {}", listener.local);
    let mut conversations: Vec<Conversation<'_>> =
        (0..CONFIG.conns).map(|_| Conversation::new()).collect();
    // Who is to be attended to. They stay where no buffer could be had for the first of them.
    let mut line = VecDeque::new();
    loop {
        let outcome = streams.turn(clock.now(), Budget::DEFAULT);
        while let Some(event) = streams.poll() {
            let Some(slot) = conn_of(&event).map(slot) else { continue };
            let Some(conversation) = conversations.get_mut(slot) else { continue };
            conversation.hear(event);
            if !conversation.is_in_line {
                conversation.is_in_line = true;
                line.push_back(slot);
            }
            serve_line(&streams, &mut line, &mut conversations, store);
        }
        serve_line(&streams, &mut line, &mut conversations, store);
        if !outcome.is_busy() {
            pause();
        }
    }
}

/// Attends to who is in line, as far as there are buffers.
#[inline]
fn serve_line<'m, E: Enter>(
    streams: &Streams<'m, E>,
    line: &mut VecDeque<usize>,
    conversations: &mut [Conversation<'m>],
    store: &mut Store,
) {
    while let Some(slot) = line.front() {
        if let Some(conversation) = conversations.get_mut(*slot) {
            if !attend(streams, conversation, store) {
                return;
            }
            conversation.is_in_line = false;
        }
        line.pop_front();
    }
}

/// The client that an event is about.
const fn conn_of(event: &StreamEvent<'_>) -> Option<ConnId> {
    match event {
        StreamEvent::Accepted { conn, .. }
        | StreamEvent::Received { conn, .. }
        | StreamEvent::Sent { conn, .. }
        | StreamEvent::NotSent { conn, .. }
        | StreamEvent::Closed { conn, .. }
        | StreamEvent::PeerClosed(conn) => Some(*conn),
        StreamEvent::AcceptFailed { .. }
        | StreamEvent::Connected(_)
        | StreamEvent::RangeBack { .. }
        | StreamEvent::ReceiveTimedOut(_)
        | StreamEvent::Writable(_) => None,
    }
}

fn slot(conn: ConnId) -> usize {
    usize::try_from(conn.slot()).unwrap_or(0)
}

/// Answers what waits, as far as there is room for answers. False where no buffer could be had.
fn attend<'m, E: Enter>(
    streams: &Streams<'m, E>,
    conversation: &mut Conversation<'m>,
    store: &mut Store,
) -> bool {
    let Some(conn) = conversation.conn else { return true };
    while let Some((bytes, at)) = conversation.waiting.front_mut() {
        // Stale where it has been closed meanwhile.
        let unsent = streams.queued(conn).unwrap_or(u64::MAX);
        if unsent > UNSENT_MAX {
            return true;
        }
        let Some(mut room) = streams.lend() else { return false };
        let mut replies = Replies::new(room.room());
        let fed =
            conversation.client.feed(bytes.get(*at..).unwrap_or_default(), store, &mut replies);
        let length = replies.written().len();
        *at += fed.taken;
        if *at >= bytes.len() {
            conversation.waiting.pop_front();
        }
        // Who has too much with this is attended to again when it is sent.
        let is_waited_for =
            unsent.saturating_add(u64::try_from(length).unwrap_or(u64::MAX)) > UNSENT_MAX;
        let sent = room.set_len(length).is_ok()
            && (length == 0
                || if is_waited_for {
                    streams.send(conn, room, 0).is_ok()
                } else {
                    streams.send_unsignaled(conn, room).is_ok()
                });
        if fed.next == Next::Close || !sent {
            conversation.waiting.clear();
            conversation.has_ended = true;
        }
    }
    if conversation.has_ended {
        // It may be closed already.
        let _stale = streams.close(conn);
    }
    true
}
