//! A port over any transport, chosen while the program runs.

use core::fmt;

use heapless::VecView;
use spinwire_dataplane::error::{Misuse, PostError};
use spinwire_dataplane::id::{Addr, Name, WrId};
use spinwire_dataplane::poll::{Armed, WakeSource};
use spinwire_dataplane::provider::shm::ShmPort;
use spinwire_dataplane::provider::tcp::TcpPort;
use spinwire_dataplane::provider::udp::UdpPort;
use spinwire_dataplane::provider::{
    CancelError, Cqe, Event, ExposeWr, Info, OneSidedWr, ParcelWr, Provider, Published,
    RecvPartsWr, RecvWr, RemoteRegion, Select, SendPartsWr, SendWr, Sight, Source, Waiting,
};
use spinwire_dataplane::sync::AtomicU64;
use spinwire_dataplane::time::Instant;

#[cfg(feature = "libfabric")]
use crate::libfabric::{OfiPlane, OfiPort};
#[cfg(feature = "mlx5")]
use crate::mlx5::Direct;
use crate::uring::RingEntry;
#[cfg(feature = "verbs")]
use crate::verbs::{VerbsDatagramPort, VerbsDatagrams, VerbsPlane, VerbsPort};

/// A port over one of the transports, each behind a branch and no pointer to a function: a program that is generic over providers takes it
/// like any other.
#[allow(
    clippy::large_enum_variant,
    reason = "a thread has few ports, and each is used where it lies: a box would be a line more to load"
)]
pub enum AnyPort<'a> {
    /// In a segment.
    Shm(ShmPort<'a, 'a>),
    /// Over connections of TCP.
    Tcp(TcpPort<'a, RingEntry<'a>>),
    /// Over packets of UDP.
    Udp(UdpPort<'a, RingEntry<'a>>),
    /// Over an RDMA device, with what makes its connections: every poll and every look attends to that.
    #[cfg(feature = "verbs")]
    Verbs(VerbsPort<'a>, &'a VerbsPlane),
    /// Over datagrams of an RDMA device, with what makes their address handles: every poll and every look attends to that.
    #[cfg(feature = "verbs")]
    VerbsDatagrams(VerbsDatagramPort<'a>, &'a VerbsDatagrams),
    /// The same on the queues of an mlx5 device, without a library between. Unverified on hardware.
    #[cfg(feature = "mlx5")]
    Mlx5(VerbsPort<'a, Direct>, &'a VerbsPlane<Direct>),
    /// Over datagrams of an mlx5 device, likewise. Unverified on hardware.
    #[cfg(feature = "mlx5")]
    Mlx5Datagrams(VerbsDatagramPort<'a, Direct>, &'a VerbsDatagrams<Direct>),
    /// Over a provider of libfabric, with what tells the ends of each other: every poll attends to that.
    #[cfg(feature = "libfabric")]
    Ofi(OfiPort<'a>, &'a OfiPlane),
}

/// The same of whichever it is.
macro_rules! of {
    ($any:expr, $port:ident => $what:expr) => {
        match $any {
            AnyPort::Shm($port) => $what,
            AnyPort::Tcp($port) => $what,
            AnyPort::Udp($port) => $what,
            #[cfg(feature = "verbs")]
            AnyPort::Verbs($port, _) => $what,
            #[cfg(feature = "verbs")]
            AnyPort::VerbsDatagrams($port, _) => $what,
            #[cfg(feature = "mlx5")]
            AnyPort::Mlx5($port, _) => $what,
            #[cfg(feature = "mlx5")]
            AnyPort::Mlx5Datagrams($port, _) => $what,
            #[cfg(feature = "libfabric")]
            AnyPort::Ofi($port, _) => $what,
        }
    };
}

impl fmt::Debug for AnyPort<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        of!(self, port => port.fmt(f))
    }
}

#[cfg(feature = "verbs")]
impl AnyPort<'_> {
    /// What the host of a port over a device does between its turns: with every poll, and with every look, since a look that sees nothing is
    /// followed by no poll.
    #[inline(always)]
    fn attend(&self) {
        if let AnyPort::Verbs(port, plane) = self {
            // A channel that is broken makes no connections any more. Those that are wanted end by their time limits; the others live on.
            let _no_new_ones = plane.attend(port);
        }
        if let AnyPort::VerbsDatagrams(port, plane) = self {
            // Without its events, a device that has failed is noticed by the next send.
            let _no_events = plane.attend(port);
        }
        #[cfg(feature = "mlx5")]
        if let AnyPort::Mlx5(port, plane) = self {
            // As above.
            let _no_new_ones = plane.attend(port);
        }
        #[cfg(feature = "mlx5")]
        if let AnyPort::Mlx5Datagrams(port, plane) = self {
            // As above.
            let _no_events = plane.attend(port);
        }
    }
}

impl Provider for AnyPort<'_> {
    fn info(&self) -> &Info {
        of!(self, port => port.info())
    }
    fn connect(&self, name: &Name) -> Result<Addr, PostError> {
        of!(self, port => port.connect(name))
    }
    fn name_of(&self, addr: Addr) -> Result<Option<Name>, Misuse> {
        of!(self, port => port.name_of(addr))
    }
    fn disconnect(&self, addr: Addr) -> Result<(), Misuse> {
        of!(self, port => port.disconnect(addr))
    }
    #[inline(always)]
    fn post_send(&self, wr: &SendWr<'_>) -> Result<(), PostError> {
        of!(self, port => port.post_send(wr))
    }
    fn post_send_parts(&self, wr: &SendPartsWr<'_>) -> Result<(), PostError> {
        of!(self, port => port.post_send_parts(wr))
    }
    fn post_recv_parts(&self, wr: &RecvPartsWr<'_>) -> Result<(), PostError> {
        of!(self, port => port.post_recv_parts(wr))
    }
    fn post_parcel(&self, wr: &ParcelWr) -> Result<u8, PostError> {
        of!(self, port => port.post_parcel(wr))
    }
    fn is_settled(&self, to: Addr, number: u8) -> bool {
        of!(self, port => port.is_settled(to, number))
    }
    fn settle(&self, source: Addr, numbers: u64) {
        of!(self, port => port.settle(source, numbers));
    }
    fn post_one_sided(&self, wr: &OneSidedWr) -> Result<(), PostError> {
        of!(self, port => port.post_one_sided(wr))
    }
    fn expose(&self, wr: &ExposeWr) -> Result<RemoteRegion, PostError> {
        of!(self, port => port.expose(wr))
    }
    fn withdraw(&self, wr_id: WrId) -> Result<(), CancelError> {
        of!(self, port => port.withdraw(wr_id))
    }
    #[inline(always)]
    fn post_recv(&self, wr: &RecvWr) -> Result<(), PostError> {
        of!(self, port => port.post_recv(wr))
    }
    #[inline(always)]
    fn ring_doorbell(&self) -> Published {
        of!(self, port => port.ring_doorbell())
    }
    #[inline(always)]
    fn poll_cq(&self, now: Instant, out: &mut VecView<Cqe>) {
        #[cfg(feature = "verbs")]
        self.attend();
        of!(self, port => port.poll_cq(now, out));
        #[cfg(feature = "libfabric")]
        if let AnyPort::Ofi(port, plane) = self {
            plane.attend(port, now);
        }
    }
    #[inline(always)]
    fn look(&self) -> Sight {
        #[cfg(feature = "verbs")]
        self.attend();
        of!(self, port => port.look())
    }
    #[inline(always)]
    fn take_ready(&self) -> Option<Cqe> {
        of!(self, port => port.take_ready())
    }

    #[inline(always)]
    fn take_ready_parcel(&self) -> Option<Cqe> {
        of!(self, port => port.take_ready_parcel())
    }
    fn poll_event(&self) -> Option<Event> {
        of!(self, port => port.poll_event())
    }
    fn cancel(&self, wr_id: WrId) -> Result<(), CancelError> {
        of!(self, port => port.cancel(wr_id))
    }
    fn peek(&self, from: Source, select: Select) -> Option<Waiting> {
        of!(self, port => port.peek(from, select))
    }
    fn lingers(&self) -> bool {
        of!(self, port => port.lingers())
    }
    fn poll_at(&self) -> Option<Instant> {
        let at = of!(self, port => port.poll_at());
        #[cfg(feature = "libfabric")]
        if let AnyPort::Ofi(_, plane) = self {
            return at.into_iter().chain(plane.look_at()).min();
        }
        at
    }
}

impl WakeSource for AnyPort<'_> {
    /// Over shared memory peers ring. Of the others nobody does, so that a [`HostRester`](crate::idle::HostRester) naps; to sleep longer take
    /// a descriptor ([`News`](super::News)).
    fn arm(&self) -> Armed {
        match self.bell_of() {
            Some(source) => source.arm(),
            None => Armed { is_new: false, is_heard: false },
        }
    }

    fn look_over(&self) {
        if let Some(source) = self.bell_of() {
            source.look_over();
        }
    }

    fn disarm(&self) {
        if let Some(source) = self.bell_of() {
            source.disarm();
        }
    }

    fn bell(&self) -> Option<&AtomicU64> {
        self.bell_of()?.bell()
    }
}

impl<'a> AnyPort<'a> {
    /// Events that wait to be polled.
    pub(super) const fn events_waiting(&self) -> u32 {
        match self {
            Self::Shm(port) => port.events_waiting(),
            Self::Tcp(port) => port.events_waiting(),
            // Nobody is seen to come or to go.
            Self::Udp(_) => 0,
            #[cfg(feature = "verbs")]
            Self::Verbs(port, _) => port.events_waiting(),
            #[cfg(feature = "mlx5")]
            Self::Mlx5(port, _) => port.events_waiting(),
            #[cfg(feature = "verbs")]
            Self::VerbsDatagrams(..) => 0,
            #[cfg(feature = "mlx5")]
            Self::Mlx5Datagrams(..) => 0,
            #[cfg(feature = "libfabric")]
            Self::Ofi(port, _) => port.events_waiting(),
        }
    }

    /// Whether the last look took all that its device had completed. Other transports tell of what is left.
    #[cfg(any(feature = "verbs", feature = "libfabric"))]
    pub(super) const fn has_heard_all(&self) -> bool {
        match self {
            #[cfg(feature = "verbs")]
            Self::Verbs(port, _) => port.has_heard_all(),
            #[cfg(feature = "verbs")]
            Self::VerbsDatagrams(port, _) => port.has_heard_all(),
            _ => true,
        }
    }

    /// The port, where peers ring its bell.
    const fn bell_of(&self) -> Option<&ShmPort<'a, 'a>> {
        match self {
            Self::Shm(port) => Some(port),
            Self::Tcp(_) | Self::Udp(_) => None,
            #[cfg(feature = "verbs")]
            Self::Verbs(..) | Self::VerbsDatagrams(..) => None,
            #[cfg(feature = "mlx5")]
            Self::Mlx5(..) | Self::Mlx5Datagrams(..) => None,
            #[cfg(feature = "libfabric")]
            Self::Ofi(..) => None,
        }
    }
}
