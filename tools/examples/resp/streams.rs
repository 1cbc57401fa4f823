//! Clients of the service over TCP: what the ring brings is fed where it lies, replies are written where they are sent from.
//!
//! ```text
//!   Received(buffer) --> conversation: buffers that wait --> feed --> a lent buffer, filled with replies --> send
//!                                      ^                                                            |
//!                                      '---- Sent: there is room again <----------------------------'
//! ```

use core::convert::Infallible;
use std::collections::VecDeque;
use std::os::fd::AsRawFd as _;

use spinwire_dataplane::poll::{Budget, Poll as _};
use spinwire_dataplane::raw::{loan::Loan, pause::pause};
use spinwire_dataplane::stream::{ConnId, StreamConfig, StreamEvent, Streams};
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
    ..StreamConfig::DEFAULT
};

/// A client, and what it has sent that was not looked at.
struct Conversation<'m> {
    client: Client,
    waiting: VecDeque<(Loan<'m>, usize)>,
    /// It sends no more.
    has_ended: bool,
}

/// Serves clients at `address` for ever.
#[expect(clippy::infinite_loop, reason = "it serves until it is killed")]
pub(crate) fn serve(address: &str, store: &mut Store) -> Result<Infallible, Failure> {
    let local = *address.parse::<Address>()?.resolve()?.first().ok_or("no address")?;
    let listener = socket::listen(local, CLIENTS, &SocketOptions::default())?;
    let uring = Uring::open(&UringConfig::for_streams(&CONFIG))?;
    let ring = uring.ring()?;
    let streams = uring.streams(&ring, 0, &CONFIG)?;
    streams.listen(listener.fd.as_raw_fd())?;
    println!("serving {}", listener.local);
    let conversation =
        || Conversation { client: Client::new(LIMITS), waiting: VecDeque::new(), has_ended: false };
    let mut conversations: Vec<Conversation<'_>> =
        (0..CONFIG.conns).map(|_| conversation()).collect();
    // Those for which no buffer could be had.
    let mut starved = VecDeque::new();
    let clock = TscClock::calibrate();
    loop {
        let outcome = streams.turn(clock.now(), Budget::DEFAULT);
        while let Some(event) = streams.poll() {
            let Some(conn) = conn_of(&event) else { continue };
            let Some(conversation) = conversations.get_mut(slot(conn)) else { continue };
            match event {
                StreamEvent::Accepted { .. } => conversation.client.reset(),
                StreamEvent::Received { bytes, .. } => conversation.waiting.push_back((bytes, 0)),
                StreamEvent::PeerClosed(_) => conversation.has_ended = true,
                StreamEvent::Closed { .. } => {
                    conversation.waiting.clear();
                    conversation.has_ended = false;
                }
                // The buffer is free again with this: for who has waited longest.
                StreamEvent::Sent { loan, .. } | StreamEvent::NotSent { loan, .. } => {
                    drop(loan);
                    starved.push_back(conn);
                }
                StreamEvent::AcceptFailed { .. }
                | StreamEvent::Connected(_)
                | StreamEvent::RangeBack { .. }
                | StreamEvent::ReceiveTimedOut(_)
                | StreamEvent::Writable(_) => {}
            }
            let conn = starved.pop_front().unwrap_or(conn);
            if let Some(conversation) = conversations.get_mut(slot(conn))
                && !attend(&streams, conn, conversation, store)
            {
                starved.push_back(conn);
            }
        }
        if !outcome.is_busy() {
            pause();
        }
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
    conn: ConnId,
    conversation: &mut Conversation<'m>,
    store: &mut Store,
) -> bool {
    while let Some((bytes, at)) = conversation.waiting.front_mut() {
        // Stale where it has been closed meanwhile.
        if streams.queued(conn).map_or(true, |queued| queued > UNSENT_MAX) {
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
        let sent =
            room.set_len(length).is_ok() && (length == 0 || streams.send(conn, room, 0).is_ok());
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
