//! The trace provider: a wrapper that keeps the newest calls, completions and events for a look after something went wrong.
//!
//! ```text
//!   120 ns  send            to 0.1  64 bytes                     wr 0x0100000100000000
//!   120 ns  doorbell        1 published
//!   340 ns  completion      success  0 bytes                     wr 0x0100000100000000
//! ```
//!
//! Every call is passed on as it is; what comes of it is one [`TraceEvent`] in a fixed ring, with the instant of the newest
//! poll. (It does not answer [`Provider::look`] by itself, so that every turn is a poll and the instants are those of the
//! turns.) [`Trace::newest`] decodes them into [`Record`]s, which say in text what they mean.

use core::cell::Cell;
use core::fmt;

use heapless::VecView;
use spinwire_layouts::word;

use crate::error::{Fatal, Misuse, PostError, Retry};
use crate::id::{Addr, Generation, Name, WrId};
use crate::poll::{TraceEvent, TraceRing};
use crate::provider::{
    CancelError, Cqe, Event, ExposeWr, Info, OneSidedWr, ParcelWr, Payload, Provider, Published,
    RecvPartsWr, RecvWr, RemoteRegion, Select, SendPartsWr, SendWr, Sge, Source, Status, Waiting,
};
use crate::raw::place::{Bump, Exhausted};
use crate::time::Instant;

/// What a [`TraceEvent`] of this wrapper is about: its `id`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[repr(u16)]
pub enum TraceId {
    /// A connect that was taken. `a`: the address.
    Connect,
    /// One that was refused. `b`: why.
    ConnectRefused,
    /// A disconnect. `a`: the address.
    Disconnect,
    /// A send that was staged. `a`: the address. `b`: bytes, and the low half of its id (all ones: injected).
    Send,
    /// One that was refused. `a`: the address. `b`: why.
    SendRefused,
    /// A receive that was posted. `a`: its id. `b`: bytes.
    Recv,
    /// One that was refused. `a`: its id. `b`: why.
    RecvRefused,
    /// A doorbell that published something. `a`: how many.
    Doorbell,
    /// A completion. `a`: its id. `b`: bytes, and status.
    Completion,
    /// An event about a peer. `a`: the address. `b`: which event.
    Event,
    /// A receive that was taken back. `a`: its id.
    Cancel,
    /// A one-sided operation that was staged. `a`: the address. `b`: bytes, and the low half of its id.
    OneSided,
    /// One that was refused. `a`: the address. `b`: why.
    OneSidedRefused,
    /// Memory that was exposed. `a`: its id. `b`: bytes.
    Expose,
    /// Memory that was withdrawn. `a`: its id.
    Withdraw,
}

impl TraceId {
    /// All of them, by number.
    pub const ALL: [Self; 15] = [
        Self::Connect,
        Self::ConnectRefused,
        Self::Disconnect,
        Self::Send,
        Self::SendRefused,
        Self::Recv,
        Self::RecvRefused,
        Self::Doorbell,
        Self::Completion,
        Self::Event,
        Self::Cancel,
        Self::OneSided,
        Self::OneSidedRefused,
        Self::Expose,
        Self::Withdraw,
    ];

    /// The `id` of a [`TraceEvent`]; 0 is none.
    #[must_use]
    pub fn as_raw(self) -> u16 {
        number_in(&Self::ALL, &self)
    }

    /// Which one an `id` is.
    #[must_use]
    pub fn from_raw(raw: u16) -> Option<Self> {
        named_in(&Self::ALL, raw)
    }

    /// Its name, in one word.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Connect => "connect",
            Self::ConnectRefused => "connect-refused",
            Self::Disconnect => "disconnect",
            Self::Send => "send",
            Self::SendRefused => "send-refused",
            Self::Recv => "recv",
            Self::RecvRefused => "recv-refused",
            Self::Doorbell => "doorbell",
            Self::Completion => "completion",
            Self::Event => "event",
            Self::Cancel => "cancel",
            Self::OneSided => "rma",
            Self::OneSidedRefused => "rma-refused",
            Self::Expose => "expose",
            Self::Withdraw => "withdraw",
        }
    }
}

/// Every refusal, by number.
const REFUSALS: [PostError; 20] = [
    PostError::Retry(Retry::NoCredit),
    PostError::Retry(Retry::NoSpill),
    PostError::Retry(Retry::NoLane),
    PostError::Retry(Retry::NoSlot),
    PostError::Retry(Retry::RqFull),
    PostError::Retry(Retry::CqFull),
    PostError::Retry(Retry::AddressesFull),
    PostError::Retry(Retry::NotConnected),
    PostError::Retry(Retry::Injected),
    PostError::Fatal(Fatal::PeerGone),
    PostError::Fatal(Fatal::Corrupt),
    PostError::Fatal(Fatal::Refused),
    PostError::Fatal(Fatal::Fenced),
    PostError::Fatal(Fatal::Injected),
    PostError::Misuse(Misuse::TooLong),
    PostError::Misuse(Misuse::UnknownAddress),
    PostError::Misuse(Misuse::StaleAddress),
    PostError::Misuse(Misuse::Unsupported),
    PostError::Misuse(Misuse::WrongPeer),
    PostError::Misuse(Misuse::BadRange),
];

const STATUSES: [Status; 8] = [
    Status::Success,
    Status::Truncated,
    Status::Cancelled,
    Status::PeerGone,
    Status::Corrupt,
    Status::Injected,
    Status::Parcel,
    Status::RemoteAccess,
];

const EVENTS: [&str; 4] = ["connected", "peer gone", "peer corrupt", "refused"];

/// The place of an item in a list, counted from 1; 0 where it is not in it.
fn number_in<T: PartialEq>(list: &[T], item: &T) -> u16 {
    let place = list.iter().position(|listed| listed == item);
    place.and_then(|at| u16::try_from(at.saturating_add(1)).ok()).unwrap_or(0)
}

fn named_in<T: Copy>(list: &[T], number: u16) -> Option<T> {
    list.get(usize::from(number).checked_sub(1)?).copied()
}

const fn addr_word(addr: Addr) -> u64 {
    word::join(addr.slot(), addr.generation().as_raw())
}

fn low_half(number: usize) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}

/// One recorded event, which can be shown as a line of text.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Record {
    /// What it is about.
    pub id: TraceId,
    /// As it was recorded.
    pub event: TraceEvent,
}

/// An address out of a word.
struct ShownAddr(u64);

impl fmt::Display for ShownAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match Generation::from_raw(word::high(self.0)) {
            Some(generation) => Addr::new(word::low(self.0), generation).fmt(f),
            None => f.write_str("nobody"),
        }
    }
}

impl Record {
    fn refusal(&self) -> Option<PostError> {
        named_in(&REFUSALS, u16::try_from(self.event.b).ok()?)
    }

    /// How a recorded completion ended.
    #[must_use]
    pub fn status(&self) -> Option<Status> {
        (self.id == TraceId::Completion)
            .then(|| named_in(&STATUSES, u16::try_from(word::high(self.event.b)).ok()?))?
    }

    /// Why a recorded call was refused.
    #[must_use]
    pub fn refused(&self) -> Option<PostError> {
        let refusals = [
            TraceId::ConnectRefused,
            TraceId::SendRefused,
            TraceId::RecvRefused,
            TraceId::OneSidedRefused,
        ];
        if refusals.contains(&self.id) { self.refusal() } else { None }
    }
}

impl fmt::Display for Record {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let TraceEvent { at, a, b, .. } = self.event;
        write!(f, "{:>12} ns  {:<16}", at.as_nanos(), self.id.name())?;
        match self.id {
            TraceId::Connect | TraceId::Disconnect => write!(f, "{}", ShownAddr(a)),
            TraceId::ConnectRefused => self.show_refusal(f),
            TraceId::Send | TraceId::OneSided => {
                write!(f, "to {}  {} bytes", ShownAddr(a), word::low(b))?;
                match word::high(b) {
                    u32::MAX => f.write_str("  injected"),
                    slot => write!(f, "  slot {slot}"),
                }
            }
            TraceId::SendRefused | TraceId::OneSidedRefused => {
                write!(f, "to {}  ", ShownAddr(a))?;
                self.show_refusal(f)
            }
            TraceId::Recv | TraceId::Expose => write!(f, "{:?}  {b} bytes", WrId::from_raw(a)),
            TraceId::RecvRefused => {
                write!(f, "{:?}  ", WrId::from_raw(a))?;
                self.show_refusal(f)
            }
            TraceId::Doorbell => write!(f, "{a} published"),
            TraceId::Completion => {
                write!(f, "{:?}  {} bytes  ", WrId::from_raw(a), word::low(b))?;
                match self.status() {
                    Some(status) => status.fmt(f),
                    None => f.write_str("unknown status"),
                }
            }
            TraceId::Event => {
                let event = u16::try_from(b).ok().and_then(|b| named_in(&EVENTS, b));
                write!(f, "{} {}", event.unwrap_or("stale completion"), ShownAddr(a))
            }
            TraceId::Cancel | TraceId::Withdraw => write!(f, "{:?}", WrId::from_raw(a)),
        }
    }
}

impl Record {
    fn show_refusal(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.refusal() {
            Some(error) => write!(f, "{error}"),
            None => f.write_str("unknown refusal"),
        }
    }
}

/// A provider around another one that records what passes. See the [module](self).
#[derive(Debug)]
pub struct Trace<'m, P> {
    inner: P,
    ring: TraceRing<'m>,
    now: Cell<Instant>,
}

impl<'m, P: Provider> Trace<'m, P> {
    /// Wraps `inner`; the newest `kept` events are kept, 32 bytes each in `bump`.
    ///
    /// # Errors
    /// [`Exhausted`] where the arena is too small.
    pub fn place(inner: P, bump: &Bump<'m>, kept: u32) -> Result<Self, Exhausted> {
        let ring = TraceRing::place(bump, kept)?;
        Ok(Self { inner, ring, now: Cell::new(Instant::ORIGIN) })
    }

    /// The provider inside.
    #[must_use]
    pub const fn inner(&self) -> &P {
        &self.inner
    }

    /// The ring as it is.
    #[must_use]
    pub const fn ring(&self) -> &TraceRing<'m> {
        &self.ring
    }

    /// The newest `count` events that are kept, newest first.
    pub fn newest(&self, count: u32) -> impl Iterator<Item = Record> + use<'_, 'm, P> {
        self.ring
            .newest(count)
            .filter_map(|event| Some(Record { id: TraceId::from_raw(event.id)?, event }))
    }

    fn record(&self, id: TraceId, a: u64, b: u64) {
        self.ring.record(self.now.get(), id.as_raw(), a, b);
    }

    fn record_refusal(&self, id: TraceId, a: u64, refusal: PostError) {
        self.record(id, a, u64::from(number_in(&REFUSALS, &refusal)));
    }
}

impl<P: Provider> Provider for Trace<'_, P> {
    fn info(&self) -> &Info {
        self.inner.info()
    }

    fn connect(&self, name: &Name) -> Result<Addr, PostError> {
        let connected = self.inner.connect(name);
        match connected {
            Ok(addr) => self.record(TraceId::Connect, addr_word(addr), 0),
            Err(refusal) => self.record_refusal(TraceId::ConnectRefused, 0, refusal),
        }
        connected
    }

    fn name_of(&self, addr: Addr) -> Result<Option<Name>, Misuse> {
        self.inner.name_of(addr)
    }

    fn disconnect(&self, addr: Addr) -> Result<(), Misuse> {
        self.record(TraceId::Disconnect, addr_word(addr), 0);
        self.inner.disconnect(addr)
    }

    fn post_send(&self, wr: &SendWr<'_>) -> Result<(), PostError> {
        let posted = self.inner.post_send(wr);
        let to = addr_word(wr.to);
        match posted {
            Ok(()) => {
                let slot = match wr.payload {
                    Payload::Posted { wr_id, .. } => word::low(wr_id.as_raw()),
                    Payload::Inject(_) => u32::MAX,
                };
                let bytes = low_half(wr.payload.bytes().len());
                self.record(TraceId::Send, to, word::join(bytes, slot));
            }
            Err(refusal) => self.record_refusal(TraceId::SendRefused, to, refusal),
        }
        posted
    }

    fn post_send_parts(&self, wr: &SendPartsWr<'_>) -> Result<(), PostError> {
        let posted = self.inner.post_send_parts(wr);
        let to = addr_word(wr.to);
        match posted {
            Ok(()) => {
                let bytes = low_half(wr.length().unwrap_or(usize::MAX));
                let slot = word::low(wr.wr_id.as_raw());
                self.record(TraceId::Send, to, word::join(bytes, slot));
            }
            Err(refusal) => self.record_refusal(TraceId::SendRefused, to, refusal),
        }
        posted
    }

    fn post_recv_parts(&self, wr: &RecvPartsWr<'_>) -> Result<(), PostError> {
        let posted = self.inner.post_recv_parts(wr);
        let id = wr.wr_id.as_raw();
        match posted {
            Ok(()) => {
                let bytes = wr.parts.iter().map(Sge::length).fold(0, usize::saturating_add);
                self.record(TraceId::Recv, id, word::from_usize(bytes));
            }
            Err(refusal) => self.record_refusal(TraceId::RecvRefused, id, refusal),
        }
        posted
    }

    fn post_parcel(&self, wr: &ParcelWr) -> Result<u8, PostError> {
        let posted = self.inner.post_parcel(wr);
        let to = addr_word(wr.to);
        match posted {
            Ok(_) => self.record(TraceId::Send, to, word::join(0, u32::MAX)),
            Err(refusal) => self.record_refusal(TraceId::SendRefused, to, refusal),
        }
        posted
    }

    fn is_settled(&self, to: Addr, number: u8) -> bool {
        self.inner.is_settled(to, number)
    }

    fn settle(&self, source: Addr, numbers: u64) {
        self.inner.settle(source, numbers);
    }

    fn post_one_sided(&self, wr: &OneSidedWr) -> Result<(), PostError> {
        let posted = self.inner.post_one_sided(wr);
        let to = addr_word(wr.to);
        match posted {
            Ok(()) => {
                let b = word::join(low_half(wr.local.length()), word::low(wr.wr_id.as_raw()));
                self.record(TraceId::OneSided, to, b);
            }
            Err(refusal) => self.record_refusal(TraceId::OneSidedRefused, to, refusal),
        }
        posted
    }

    fn expose(&self, wr: &ExposeWr) -> Result<RemoteRegion, PostError> {
        let exposed = self.inner.expose(wr);
        if exposed.is_ok() {
            let bytes = word::from_usize(wr.sge.length());
            self.record(TraceId::Expose, wr.wr_id.as_raw(), bytes);
        }
        exposed
    }

    fn withdraw(&self, wr_id: WrId) -> Result<(), CancelError> {
        let withdrawn = self.inner.withdraw(wr_id);
        if withdrawn.is_ok() {
            self.record(TraceId::Withdraw, wr_id.as_raw(), 0);
        }
        withdrawn
    }

    fn post_recv(&self, wr: &RecvWr) -> Result<(), PostError> {
        let posted = self.inner.post_recv(wr);
        let id = wr.wr_id.as_raw();
        match posted {
            Ok(()) => self.record(TraceId::Recv, id, word::from_usize(wr.sge.length())),
            Err(refusal) => self.record_refusal(TraceId::RecvRefused, id, refusal),
        }
        posted
    }

    fn ring_doorbell(&self) -> Published {
        let published = self.inner.ring_doorbell();
        if published.count > 0 || published.error.is_some() {
            let error = published.error.map_or(0, |e| number_in(&REFUSALS, &e.into()));
            self.record(TraceId::Doorbell, published.count, u64::from(error));
        }
        published
    }

    fn poll_cq(&self, now: Instant, out: &mut VecView<Cqe>) {
        self.now.set(now);
        let before = out.len();
        self.inner.poll_cq(now, out);
        for cqe in out.get(before..).unwrap_or_default() {
            let status = u32::from(number_in(&STATUSES, &cqe.status));
            let length = if cqe.parcel().is_some() { 0 } else { cqe.length };
            let b = word::join(length, status);
            self.record(TraceId::Completion, cqe.wr_id.as_raw(), b);
        }
    }

    fn poll_event(&self) -> Option<Event> {
        let event = self.inner.poll_event()?;
        let (about, number) = match event {
            Event::Connected(addr) => (addr_word(addr), 1),
            Event::PeerGone(addr) => (addr_word(addr), 2),
            Event::PeerCorrupt(addr) => (addr_word(addr), 3),
            Event::Refused(addr) => (addr_word(addr), 4),
            Event::StaleCompletion(wr_id) => (wr_id.as_raw(), 0),
        };
        self.record(TraceId::Event, about, number);
        Some(event)
    }

    fn cancel(&self, wr_id: WrId) -> Result<(), CancelError> {
        let cancelled = self.inner.cancel(wr_id);
        if cancelled.is_ok() {
            self.record(TraceId::Cancel, wr_id.as_raw(), 0);
        }
        cancelled
    }

    fn peek(&self, from: Source, select: Select) -> Option<Waiting> {
        self.inner.peek(from, select)
    }

    fn lingers(&self) -> bool {
        self.inner.lingers()
    }

    fn poll_at(&self) -> Option<Instant> {
        self.inner.poll_at()
    }
}
