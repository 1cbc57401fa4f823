//! Providers: whatever moves messages. One trait, implemented by every transport and by the wrappers around them.
//!
//! ```text
//!            post_send, post_recv          stage: a refused call has consumed nothing
//!            ring_doorbell                 publish everything staged, once
//!            poll_cq                       completions, up to what the caller has room for
//!            poll_event                    peers that came and went
//! ```
//!
//! | provider | what it is |
//! |---|---|
//! | [`shm`] | lanes of a segment, between processes |
//! | [`tcp`] | connections of TCP on a ring of io_uring, between machines |
//! | [`udp`] | packets of a UDP socket on a ring of io_uring, a message each; nothing promised |
//! | [`rdma`] | reliable connections of RDMA devices, between machines |
//! | [`mlx5`] | reliable connections of mlx5 devices: so far the byte stream that a port can stand on |
//! | [`loopback`] | ports of one thread, without foreign memory: the simplest transport that there is |
//! | [`fault`] | a wrapper that drops, delays, reorders, fails and repeats, by seed |
//! | [`trace`] | a wrapper that keeps the newest calls and completions for a post-mortem |
//!
//! What ports have in common is theirs to own, not to inherit: [`queues`] (receives, completions, events, the end of a peer) and [`peers`]
//! (address tables). ARCHITECTURE.md says how to write a provider with them.
//!
//! Openers live in `hostshim` and may block; everything here is bounded and statically dispatched. A provider is done when
//! the conformance suite passes on it.
//!
//! *The end of a peer* does not wait for ever. First what it had published goes to whoever asks for it; then the receives that
//! wait for it alone fail (those of a MSG endpoint all); then its end is reported. For receives that take what is left
//! the report waits a bounded number of polls. Messages that nobody has asked for by then are not lost. They stay where they wait, take a row of the address table and their share of the
//! transport if that is in their lane, and can be had by receives for anybody, or for the old address. A receive for
//! the old address is accepted if such a message waits, and fails with `PeerGone` if another receive was faster. Whoever
//! wants none of it disconnects the old address; what is in the unexpected queue stays there.
//!
//! *Posted memory* belongs to the provider from a successful post to the completion. A [`Sge`] can be made only from a loan
//! that the context table keeps that long, or by an unsafe promise. What a provider does with one, and when it reports the completion, is
//! a promise, too: [`KeepsPosted`].

use core::fmt;

use heapless::VecView;

pub use self::info::{LatencyClass, Modes};
pub use self::one_sided::{Access, ExposeWr, OneSided, OneSidedWr, RemotePlace, RemoteRegion};
pub use self::outcome::{Buffer, CancelError, Cqe, Event, Published, Sight, Status, Waiting};
pub use self::parcel::ParcelWr;
pub use self::request::{Payload, RecvPartsWr, RecvWr, Select, SendPartsWr, SendWr, Source, Use};
use self::request::{copy_bytes, copy_ranges};
use crate::error::{Misuse, PostError};
use crate::id::{Addr, Name, WrId};
pub use crate::raw::loan::Sge;
pub use crate::raw::posted::KeepsPosted;
use crate::time::Instant;
pub use crate::uring::Paths;

mod connect;
pub mod fault;
mod info;
pub mod loopback;
pub mod mlx5;
pub mod one_sided;
mod outcome;
mod parcel;
pub mod peers;
pub mod queues;
pub mod rdma;
mod request;
pub mod secret;

pub mod shm;
pub mod tcp;
pub mod trace;
pub mod udp;

/// What an endpoint is, in libfabric's words (`fi_endpoint(3)`).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[repr(u8)]
pub enum EndpointType {
    /// Connected: one peer, reliable, in order.
    Msg,
    /// Any peer through the address table, reliable.
    Rdm,
    /// Any peer, packet by packet, nothing promised.
    Dgram,
}

impl fmt::Display for EndpointType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Msg => "msg",
            Self::Rdm => "rdm",
            Self::Dgram => "dgram",
        })
    }
}

/// What an endpoint can do: a set of capabilities.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Caps(u32);

impl Caps {
    /// Nothing.
    pub const NONE: Self = Self(0);
    /// Untagged messages.
    pub const MESSAGE: Self = Self(1);
    /// Tagged messages, with an ignore mask at the receiver.
    pub const TAGGED: Self = Self(1 << 1);
    /// Sends whose buffer is the caller's again at return.
    pub const INJECT: Self = Self(1 << 2);
    /// 64 bits of immediate data with a message.
    pub const IMMEDIATE: Self = Self(1 << 3);
    /// Receives that take messages of one peer only.
    pub const DIRECTED_RECV: Self = Self(1 << 4);
    /// Receives whose buffer takes many messages.
    pub const MULTI_RECV: Self = Self(1 << 5);
    /// Completions that name the sender.
    pub const SOURCE: Self = Self(1 << 6);
    /// A look at waiting messages without taking them.
    pub const PEEK: Self = Self(1 << 7);
    /// Posted receives can be taken back.
    pub const CANCEL: Self = Self(1 << 8);
    /// Buffers of a pool as messages, uncopied.
    pub const PARCEL: Self = Self(1 << 9);
    /// Reads and writes of memory that a peer has exposed ([`one_sided`]).
    pub const RMA: Self = Self(1 << 10);
    /// Atomic operations on such memory.
    pub const ATOMIC: Self = Self(1 << 11);
    /// Memory of one's own can be exposed to peers.
    pub const EXPOSE: Self = Self(1 << 12);
    /// Sends of several ranges, up to [`Limits::sge_max`].
    pub const GATHER: Self = Self(1 << 13);
    /// Receives into several ranges, up to [`Limits::sge_max`].
    pub const SCATTER: Self = Self(1 << 14);
    /// A thread may sleep until something comes, on a descriptor that its host has for it (`epoll(7)`, `FI_WAIT_FD`).
    pub const DESCRIPTOR: Self = Self(1 << 15);

    const NAMES: [(Self, &'static str); 16] = [
        (Self::MESSAGE, "message"),
        (Self::TAGGED, "tagged"),
        (Self::INJECT, "inject"),
        (Self::IMMEDIATE, "immediate"),
        (Self::DIRECTED_RECV, "directed-recv"),
        (Self::MULTI_RECV, "multi-recv"),
        (Self::SOURCE, "source"),
        (Self::PEEK, "peek"),
        (Self::CANCEL, "cancel"),
        (Self::PARCEL, "parcel"),
        (Self::RMA, "rma"),
        (Self::ATOMIC, "atomic"),
        (Self::EXPOSE, "expose"),
        (Self::GATHER, "gather"),
        (Self::SCATTER, "scatter"),
        (Self::DESCRIPTOR, "descriptor"),
    ];

    /// Both sets together.
    #[must_use]
    pub const fn with(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// This set without the other.
    #[must_use]
    pub const fn without(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }

    /// Whether all of `wanted` are in this set.
    #[must_use]
    pub const fn has(self, wanted: Self) -> bool {
        self.0 & wanted.0 == wanted.0
    }

    /// The names of those in the set.
    pub fn names(self) -> impl Iterator<Item = &'static str> {
        Self::NAMES.into_iter().filter(move |(cap, _)| self.has(*cap)).map(|(_, name)| name)
    }
}

impl fmt::Debug for Caps {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.names()).finish()
    }
}

/// Whether a message that was accepted arrives.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[repr(u8)]
pub enum Reliability {
    /// It arrives once and whole, or the peer is reported gone.
    Reliable,
    /// It may be lost or arrive twice.
    Unreliable,
}

/// In which order messages of one sender arrive.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[repr(u8)]
pub enum Order {
    /// In the order in which they were sent.
    PerPeer,
    /// In any.
    None,
}

/// How much an endpoint takes.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Limits {
    /// Longest message, in bytes.
    pub message_bytes_max: usize,
    /// Longest injected message, in bytes.
    pub inject_bytes_max: usize,
    /// Ranges in one send ([`Caps::GATHER`]) or receive ([`Caps::SCATTER`]).
    pub sge_max: u32,
    /// Sends whose completions may be outstanding.
    pub send_depth: u32,
    /// Receives that may be posted.
    pub recv_depth: u32,
    /// Messages that may wait for a receive.
    pub unexpected_depth: u32,
    /// Longest message that may wait outside of its lane, in bytes.
    pub unexpected_bytes_max: usize,
    /// Rows of the address table.
    pub peers_max: u32,
}

/// What an endpoint is and can do.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Info {
    /// The provider's name.
    pub provider: &'static str,
    /// What the endpoint is.
    pub endpoint_type: EndpointType,
    /// What it can do.
    pub caps: Caps,
    /// How much it takes.
    pub limits: Limits,
    /// Whether accepted messages arrive.
    pub reliability: Reliability,
    /// In which order.
    pub order: Order,
    /// By which ways through the kernel; none where the transport is memory.
    pub paths: Paths,
    /// What it asks of its user.
    pub modes: Modes,
    /// What lies between the two ends.
    pub latency: LatencyClass,
    /// Bits of immediate data that a message carries; 0 without [`Caps::IMMEDIATE`].
    pub immediate_bits: u8,
}

/// Whatever moves messages for one endpoint. `&self` throughout: an endpoint belongs to one thread, and its counters are
/// `Cell`s.
pub trait Provider: KeepsPosted {
    /// What the endpoint is and can do.
    fn info(&self) -> &Info;

    /// The address of the peer of that name, entered into the address table where it is not there yet. For a MSG endpoint
    /// this begins to connect; [`Event::Connected`] says when the connection is up.
    ///
    /// # Errors
    /// `UnknownAddress` where no such peer is to be found, `WrongPeer` where a MSG endpoint has another already, `Retry`
    /// where a table is full.
    fn connect(&self, name: &Name) -> Result<Addr, PostError>;

    /// The name of the peer at an address, which is what [`Provider::connect`] looks up the other way round. `None` where nobody has told it: of
    /// one from whom packets come, and of one who is gone.
    ///
    /// # Errors
    /// `UnknownAddress` or `StaleAddress`; `Unsupported` where a provider looks up no names.
    fn name_of(&self, _addr: Addr) -> Result<Option<Name>, Misuse> {
        Err(Misuse::Unsupported)
    }

    /// Takes a peer out of the address table. Its address is stale from now on. Of one whose end was reported it gives up what
    /// was left in its lane.
    ///
    /// # Errors
    /// `UnknownAddress` or `StaleAddress`.
    fn disconnect(&self, addr: Addr) -> Result<(), Misuse>;

    /// Stages a send.
    ///
    /// # Errors
    /// [`PostError`]; nothing was consumed.
    fn post_send(&self, wr: &SendWr<'_>) -> Result<(), PostError>;

    /// Stages a send of several ranges.
    ///
    /// # Errors
    /// [`PostError`]; nothing was consumed. `Unsupported` without [`Caps::GATHER`].
    fn post_send_parts(&self, _wr: &SendPartsWr<'_>) -> Result<(), PostError> {
        Err(Misuse::Unsupported.into())
    }

    /// Posts a receive into several ranges. It completes like one into a single range.
    ///
    /// # Errors
    /// [`PostError`]; nothing was consumed. `Unsupported` without [`Caps::SCATTER`].
    fn post_recv_parts(&self, _wr: &RecvPartsWr<'_>) -> Result<(), PostError> {
        Err(Misuse::Unsupported.into())
    }

    /// Stages a buffer of a pool as a message, uncopied. Returns the number of the parcel. The buffer stays the sender's to keep
    /// until [`Provider::is_settled`]. It is not visible before the next [`Provider::ring_doorbell`] or post.
    ///
    /// # Errors
    /// [`PostError`]; nothing was consumed. `Unsupported` without [`Caps::PARCEL`].
    fn post_parcel(&self, _wr: &ParcelWr) -> Result<u8, PostError> {
        Err(Misuse::Unsupported.into())
    }

    /// Whether the receiver has done with a parcel, or will never do anything with it because it or its lane is gone.
    fn is_settled(&self, _to: Addr, _number: u8) -> bool {
        true
    }

    /// This end has done with parcels of that peer, a bit each by their numbers: it has references of its own, or wants none.
    fn settle(&self, _source: Addr, _numbers: u64) {}

    /// Stages a one-sided operation. Its completion is a [`Cqe::without_message`] with the number of bytes done as its length.
    ///
    /// # Errors
    /// [`PostError`]; nothing was consumed. `Unsupported` without [`Caps::RMA`], for atomics [`Caps::ATOMIC`]; `TooLong` and
    /// `BadRange` for a local range that cannot be right. What is wrong with the remote place is said by the completion.
    fn post_one_sided(&self, _wr: &OneSidedWr) -> Result<(), PostError> {
        Err(Misuse::Unsupported.into())
    }

    /// Lets peers into local memory, from now on until it is withdrawn. May take a system call: for set-up.
    ///
    /// # Errors
    /// [`PostError`]; nothing was consumed. `Unsupported` without [`Caps::EXPOSE`], or for rights that cannot be given.
    fn expose(&self, _wr: &ExposeWr) -> Result<RemoteRegion, PostError> {
        Err(Misuse::Unsupported.into())
    }

    /// Takes exposed memory back: nobody is let in any more, and the provider does not touch it again.
    ///
    /// # Errors
    /// `NotPosted` where nothing of that id is exposed; `Unsupported` where it stays exposed as long as the provider lives.
    fn withdraw(&self, _wr_id: WrId) -> Result<(), CancelError> {
        Err(CancelError::Unsupported)
    }

    /// Posts a receive. It completes at a poll, never within this call.
    ///
    /// # Errors
    /// [`PostError`]; nothing was consumed.
    fn post_recv(&self, wr: &RecvWr) -> Result<(), PostError>;

    /// Publishes everything staged.
    fn ring_doorbell(&self) -> Published;

    /// Appends completions to `out` until that is full or there are none.
    fn poll_cq(&self, now: Instant, out: &mut VecView<Cqe>);

    /// A look whether there is anything to do, as cheap as can be: this is what an idle turn costs, and how soon a message
    /// is seen. A provider that cannot tell says [`Sight::Work`].
    #[inline(always)]
    fn look(&self) -> Sight {
        Sight::Work
    }

    /// After [`Sight::Ready`]: the completion of the message that was seen, without the detour through a batch. `None` where
    /// it takes more than that; then [`Provider::poll_cq`] deals with it. Never a parcel.
    #[inline(always)]
    fn take_ready(&self) -> Option<Cqe> {
        None
    }

    /// Where [`Provider::take_ready`] has found nothing: the completion of a parcel that is next. It goes a way of its own, so that on the way of
    /// messages nobody has to ask what has come. Who does not ask has it by [`Provider::poll_cq`].
    #[inline(always)]
    fn take_ready_parcel(&self) -> Option<Cqe> {
        None
    }

    /// The next event, if any.
    fn poll_event(&self) -> Option<Event>;

    /// Takes back a posted receive. Its completion, with status `Cancelled`, comes by [`Provider::poll_cq`].
    ///
    /// # Errors
    /// [`CancelError`] where it is not posted (any more).
    fn cancel(&self, wr_id: WrId) -> Result<(), CancelError>;

    /// The oldest message that waits for a receive of that kind: of those in the unexpected queue, else of those that hold up
    /// their lanes.
    fn peek(&self, from: Source, select: Select) -> Option<Waiting>;

    /// Whether something that this provider has handed posted memory on to may go on with it when the provider is dropped now. Then whoever
    /// has lent that memory must never give it back. Asked just before the drop: nothing is exposed any more afterwards, as far as that can be.
    fn lingers(&self) -> bool {
        false
    }

    /// When this provider wants to be polled even if nothing happens.
    fn poll_at(&self) -> Option<Instant> {
        None
    }
}
