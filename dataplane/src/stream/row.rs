//! One connection or listener: where it stands, what the kernel has of it, and what it wants.
//!
//! ```text
//!   Free --listen--> Listening ------------------.
//!    |   --connect-> Connecting --.              | close
//!    |   --adopt---> Open <-------'--- close --> Draining --sent all--> Parting --its end, or enough--.
//!    |   accepted       |  abort, error, timeout                                                      v
//!    '<-- reported <----|---------------------------------------------------------------------> Closing --nothing under way--> Ended
//! ```

use core::cell::Cell;

use spinwire_layouts::uring::SockAddr;
use spinwire_layouts::word::{from_usize, low, widen};

use super::{CloseReason, ConnId};
use crate::chain::ChainId;
use crate::id::Generation;
use crate::raw::kernel_memory::address_in;
use crate::table::{Key, NIL};
use crate::time::Instant;

/// Where a row stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Phase {
    /// Nobody's.
    Free,
    Listening,
    Connecting,
    Open,
    /// Closed by its owner; what was to be sent still is.
    Draining,
    /// Closed by its owner, and all is sent; what the other end still sends is received and dropped, so that closing is not a reset.
    Parting,
    /// Everything of it is being cancelled, or its descriptor closed.
    Closing,
    /// The kernel has nothing of it; it is to be reported.
    Ended,
}

/// What a row wants of the ring: bits.
pub(super) mod want {
    pub(crate) const ACCEPT: u16 = 1;
    pub(crate) const CONNECT: u16 = 1 << 1;
    pub(crate) const RECEIVE: u16 = 1 << 2;
    /// Its receive is to be stopped.
    pub(crate) const PAUSE: u16 = 1 << 3;
    pub(crate) const SEND: u16 = 1 << 4;
    /// No more is to be sent after what is queued.
    pub(crate) const SHUTDOWN: u16 = 1 << 5;
    /// All operations are to be cancelled.
    pub(crate) const CANCEL: u16 = 1 << 6;
    pub(crate) const CLOSE: u16 = 1 << 7;
    /// What it sends just now is to be cancelled: some of it is taken back.
    pub(crate) const WITHDRAW: u16 = 1 << 8;
}

/// What is true of a row: bits.
pub(super) mod flag {
    /// The descriptor is a place in the ring's table of files.
    pub(crate) const DIRECT: u16 = 1;
    /// The descriptor is closed by its owner.
    pub(crate) const BORROWED: u16 = 1 << 1;
    /// An operation that accepts, connects or receives is under way.
    pub(crate) const ARMED: u16 = 1 << 2;
    /// And is being stopped.
    pub(crate) const STOPPING: u16 = 1 << 3;
    /// The caller wants nothing received.
    pub(crate) const PAUSED: u16 = 1 << 4;
    /// Too much waits to be sent for anything more to be received.
    pub(crate) const CROWDED: u16 = 1 << 5;
    /// It waits for buffers.
    pub(crate) const PARKED: u16 = 1 << 6;
    /// The other end sends no more.
    pub(crate) const PEER_CLOSED: u16 = 1 << 7;
    /// A write was refused.
    pub(crate) const REFUSED: u16 = 1 << 8;
    /// This end sends no more.
    pub(crate) const SHUT: u16 = 1 << 9;
    /// The next receive takes one buffer only.
    pub(crate) const ONE_SHOT: u16 = 1 << 10;
    /// It is to be told that there is room.
    pub(crate) const WRITABLE: u16 = 1 << 11;
    /// The connection was reset, so that the network lets go of what was sent.
    pub(crate) const RESET: u16 = 1 << 12;
    /// Nothing can be sent uncopied: the socket or a limit of memory forbids it.
    pub(crate) const COPIED: u16 = 1 << 13;
    /// It is to be closed when it is connected and what was handed in is sent.
    pub(crate) const LAST: u16 = 1 << 14;
    /// The other end takes nothing any more; what it had sent before is still received.
    pub(crate) const MUTE: u16 = 1 << 15;
}

/// Pieces that go with one submission.
pub(super) const PARTS_MAX: usize = 16;

/// The address of a peer as the kernel wants it (`struct sockaddr`): at most 32 bytes, enough for IPv4 and IPv6.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(C)]
pub(super) struct RowAddress {
    words: [u64; 4],
    length: u32,
}

impl RowAddress {
    pub(super) fn new(to: &SockAddr) -> Self {
        let bytes = to.as_bytes();
        let mut words = [0; 4];
        for (word, bytes) in words.iter_mut().zip(bytes.chunks(8)) {
            *word = crate::raw::line::partial_word(bytes);
        }
        Self { words, length: low(from_usize(bytes.len())) }
    }

    /// `AF_UNSPEC`: to connect to it is to disconnect (connect(2)).
    pub(super) const NONE: Self = Self { words: [0; 4], length: 16 };

    pub(super) const fn length(&self) -> u32 {
        self.length
    }
}

/// What every request of a connection touches lies in the first line. Rows take an odd number of lines, so that the first ones fall into all sets
/// of a cache.
#[derive(Debug)]
#[repr(C, align(64))]
pub(super) struct Row {
    pub(super) generation: Cell<Generation>,
    pub(super) fd: Cell<i32>,
    pub(super) phase: Cell<Phase>,
    /// Nothing has come by the time that [`Row::expects`] says.
    pub(super) late: Cell<bool>,
    /// It stands among those that want something.
    pub(super) listed: Cell<bool>,
    /// It may have a limit in [`Row::expects`].
    pub(super) awaited: Cell<bool>,
    pub(super) wants: Cell<u16>,
    pub(super) flags: Cell<u16>,
    /// Operations that the kernel has of it.
    pub(super) under_way: Cell<u32>,
    /// Segments that wait: first and last.
    pub(super) first: Cell<u32>,
    pub(super) last: Cell<u32>,
    /// Chains whose operations have ended and whose notifications are to come.
    pub(super) lingering: Cell<u32>,
    /// The chain whose operations are under way.
    pub(super) active: Cell<Option<ChainId>>,
    /// Bytes to be sent, those under way included.
    pub(super) queued: Cell<u64>,
    /// When something last came, and when something last went.
    pub(super) came: Cell<Instant>,
    pub(super) went: Cell<Instant>,
    /// Segments, and buffers for copies, that there were too few of when a write was refused.
    pub(super) needs: Cell<(u32, u32)>,
    /// Not later than any time by which something of it is to be sent.
    pub(super) soonest: Cell<Instant>,
    /// When something is to come by, and whether nothing has, so that its receive is being stopped.
    pub(super) expects: Cell<Instant>,
    pub(super) timer: Cell<Option<Key>>,
    /// Buffers of the service that it has, for copies of what is to be sent.
    pub(super) copies: Cell<u32>,
    /// Bytes that are still dropped while it is parting.
    pub(super) patience: Cell<u32>,
    pub(super) cause: Cell<Option<CloseReason>>,
    pub(super) context: Cell<u64>,
    /// What submissions point at: the address of the peer; a message header and its vector.
    pub(super) address: Cell<RowAddress>,
    pub(super) header: [Cell<u64>; 7],
    pub(super) vector: [Cell<u64>; 2 * PARTS_MAX],
    _odd: [u8; 64],
}

const _: () = assert!(size_of::<Row>() / 64 % 2 == 1, "as is said");

impl Row {
    pub(super) const fn free() -> Self {
        Self {
            generation: Cell::new(Generation::FIRST),
            fd: Cell::new(-1),
            phase: Cell::new(Phase::Free),
            late: Cell::new(false),
            listed: Cell::new(false),
            awaited: Cell::new(false),
            wants: Cell::new(0),
            flags: Cell::new(0),
            under_way: Cell::new(0),
            first: Cell::new(NIL),
            last: Cell::new(NIL),
            active: Cell::new(None),
            lingering: Cell::new(0),
            needs: Cell::new((0, 0)),
            queued: Cell::new(0),
            came: Cell::new(Instant::ORIGIN),
            went: Cell::new(Instant::ORIGIN),
            soonest: Cell::new(Instant::NEVER),
            expects: Cell::new(Instant::NEVER),
            timer: Cell::new(None),
            copies: Cell::new(0),
            patience: Cell::new(0),
            cause: Cell::new(None),
            context: Cell::new(0),
            address: Cell::new(RowAddress { words: [0; 4], length: 0 }),
            header: [const { Cell::new(0) }; 7],
            vector: [const { Cell::new(0) }; 2 * PARTS_MAX],
            _odd: [0; 64],
        }
    }

    pub(super) const fn id(&self, slot: u32) -> ConnId {
        ConnId(Key::new(slot, self.generation.get()))
    }

    pub(super) const fn has(&self, flags: u16) -> bool {
        self.flags.get() & flags != 0
    }

    pub(super) fn set(&self, flags: u16) {
        self.flags.set(self.flags.get() | flags);
    }

    pub(super) fn clear(&self, flags: u16) {
        self.flags.set(self.flags.get() & !flags);
    }

    pub(super) fn begin(&self) {
        self.under_way.set(self.under_way.get().wrapping_add(1));
    }

    pub(super) fn end(&self) {
        self.under_way.set(self.under_way.get().saturating_sub(1));
    }

    /// Makes the message header and its vector, for these addresses and lengths.
    pub(super) fn gather(&self, parts: &[(u64, u32)]) {
        for ([base, length], part) in self.vector.as_chunks::<2>().0.iter().zip(parts) {
            base.set(part.0);
            length.set(widen(part.1));
        }
        // `struct msghdr`: name, its length, vector, its length, control, its length, flags (layouts::uring::MsgHdr).
        let words = [0, 0, address_in(&self.vector), from_usize(parts.len()), 0, 0, 0];
        for (place, word) in self.header.iter().zip(words) {
            place.set(word);
        }
    }

    /// Whether nothing waits to be sent, or is being sent.
    pub(super) const fn is_sent(&self) -> bool {
        self.first.get() == NIL && self.active.get().is_none()
    }

    /// Whether it is to be received from, as far as it is concerned.
    pub(super) const fn may_receive(&self) -> bool {
        matches!(self.phase.get(), Phase::Open | Phase::Parting)
            && !self.has(flag::PAUSED | flag::CROWDED | flag::PEER_CLOSED | flag::ARMED)
    }
}
