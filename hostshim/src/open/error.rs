//! Why an endpoint could not be opened, or its peer not be reached.

use core::fmt;

use spinwire_dataplane::error::PostError;
use spinwire_dataplane::id::Name;
use spinwire_dataplane::provider::EndpointType;
use spinwire_dataplane::provider::tcp::FrameFault;
use spinwire_dataplane::raw::place::Exhausted;

use crate::discover::Transport;
use crate::domain::{DomainError, EndpointError};
use crate::error::{Errno, OsError};
use crate::mem::MapError;
use crate::socket::AddressError;
#[cfg(feature = "libfabric")]
use crate::socket::SocketError;
use crate::tcp::TcpError;
use crate::udp::UdpError;
use crate::uring::UringError;

/// Why an endpoint could not be opened, or its peer not be reached. The text names the remedy where there is one.
#[derive(Debug)]
pub enum OpenError {
    /// The transport has no such endpoints.
    Type {
        /// The transport.
        transport: Transport,
        /// The type.
        wanted: EndpointType,
    },
    /// Endpoints over this transport cannot be opened by this build.
    Transport(Transport),
    /// There is no address to open it at.
    NoUri,
    /// No descriptor tells of what comes by this transport, or this provider of it.
    NoDescriptor(Transport),
    /// It was opened to be polled.
    Polled(Transport),
    /// There is, or was, a descriptor of this endpoint.
    Told,
    /// The endpoint is not the one of the seat that was asked: that stands on something else.
    Stranger {
        /// What the end of that seat is called.
        seat: Name,
    },
    /// What a descriptor takes.
    System(OsError),
    /// The port to connect to is 0, by which nobody is found: who listens there gets another.
    NoPort {
        /// The address.
        at: String,
    },
    /// The address leads nowhere.
    Address(AddressError),
    /// The domain.
    Domain(DomainError),
    /// The endpoint in the domain.
    Endpoint(EndpointError),
    /// What stands on TCP.
    Tcp(TcpError),
    /// What stands on UDP.
    Udp(UdpError),
    /// What stands on an RDMA device.
    #[cfg(feature = "verbs")]
    Verbs(crate::verbs::VerbsPlaneError),
    /// The endpoint of libfabric.
    #[cfg(feature = "libfabric")]
    Ofi(crate::libfabric::OfiError),
    /// The socket at which ends of libfabric are told of each other.
    #[cfg(feature = "libfabric")]
    Meeting {
        /// Where.
        at: core::net::SocketAddr,
        /// What the system says.
        error: std::io::Error,
    },
    /// The ring.
    Ring(UringError),
    /// Memory for the tables.
    Map(MapError),
    /// The arena is too small.
    Arena(Exhausted),
    /// The peer could not be entered, or a connection not be begun.
    Post(PostError),
    /// Nobody is there.
    Nobody {
        /// Where.
        at: String,
    },
    /// No network leads there.
    Unreachable {
        /// Where.
        at: String,
        /// What the kernel says.
        errno: Errno,
    },
    /// Somebody is there who says what this end does not understand: another version, or no endpoint at all.
    Nonsense {
        /// Where.
        at: String,
        /// What was wrong with it.
        fault: FrameFault,
    },
    /// Somebody is there, and does not take the connection: an endpoint of another name or type, or one that is connected with another of this name.
    Refused {
        /// Where.
        at: String,
    },
}

/// Where the kernel knows no way.
const WAYS: &str = "ip -br address; ip route # which interfaces are up, and where they lead";

/// Whether the kernel knows no way to where that was said of.
pub(super) const fn leads_nowhere(errno: Errno) -> bool {
    matches!(errno.number(), libc::ENETUNREACH | libc::EHOSTUNREACH | libc::ENETDOWN)
}

impl fmt::Display for OpenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Type { transport, wanted } => {
                write!(f, "{transport} has no {wanted} endpoints; remedy: spinwire providers")
            }
            Self::Transport(transport) => {
                write!(
                    f,
                    "endpoints over {transport} cannot be opened by this build; remedy: spinwire providers"
                )
            }
            Self::NoUri => f.write_str("no address; remedy: give a URI that has one: shm://DOMAIN, tcp://HOST:PORT, ofi://PROVIDER/HOST:PORT"),
            Self::NoDescriptor(transport) => write!(
                f,
                "no descriptor tells of what comes over this path ({transport}); remedy: ask for the capability `descriptor` (Caps::DESCRIPTOR), rest by the idle ladder, or turn it every so often"
            ),
            Self::Polled(transport) => write!(
                f,
                "no descriptor tells of what comes over {transport}, since the endpoint was opened to be polled; remedy: open it with OpenConfig::waiting()"
            ),
            Self::Told => f.write_str(
                "an endpoint has one descriptor, and this one had its own; remedy: keep the first",
            ),
            Self::Stranger { seat } => write!(
                f,
                "the endpoint is not that of the seat \"{seat}\"; remedy: ask the seat whose endpoint() has opened it, or the endpoint's own Opened"
            ),
            Self::System(e) => e.fmt(f),
            Self::NoPort { at } => write!(
                f,
                "{at}: nobody is found at port 0, which asks for any that is free; remedy: give the port that the listening end says that it got"
            ),
            Self::Address(e) => e.fmt(f),
            Self::Domain(e) => e.fmt(f),
            Self::Endpoint(e) => e.fmt(f),
            Self::Tcp(e) => e.fmt(f),
            Self::Udp(e) => e.fmt(f),
            #[cfg(feature = "verbs")]
            Self::Verbs(e) => e.fmt(f),
            #[cfg(feature = "libfabric")]
            Self::Ofi(e) => e.fmt(f),
            #[cfg(feature = "libfabric")]
            Self::Meeting { at, error } => {
                let errno = Errno::from_io(error);
                let bound = SocketError::Bind { address: *at, errno };
                let remedy = if leads_nowhere(errno) { Some(WAYS.to_owned()) } else { bound.remedy() };
                write!(f, "{at}: {error}")?;
                remedy.map_or(Ok(()), |remedy| write!(f, "; remedy: {remedy}"))
            }
            Self::Ring(e) => e.fmt(f),
            Self::Map(e) => e.fmt(f),
            Self::Arena(e) => e.fmt(f),
            Self::Post(e) => e.fmt(f),
            Self::Nobody { at } => {
                write!(f, "nobody answers at {at}; remedy: spinwire serve {at} # there")
            }
            Self::Unreachable { at, errno } => write!(
                f,
                "no network leads to {at}: {errno}; remedy: {WAYS}"
            ),
            Self::Nonsense { at, fault } => write!(f, "what answers at {at}: {fault}"),
            Self::Refused { at } => write!(
                f,
                "the connection was not taken at {at}: an endpoint of another name or type, there is another of this end's name, or it has as many \
                 peers as it takes; remedy: name the endpoint behind the address, give each end a name of its own, and that one room for more (serve --clients)"
            ),
        }
    }
}

impl core::error::Error for OpenError {}

/// Each room's error is one of these.
macro_rules! from {
    ($($error:ty => $variant:ident),+ $(,)?) => {
        $(impl From<$error> for OpenError {
            fn from(e: $error) -> Self {
                Self::$variant(e)
            }
        })+
    };
}

from! {
    AddressError => Address, DomainError => Domain, EndpointError => Endpoint, TcpError => Tcp, UdpError => Udp,
    UringError => Ring, MapError => Map, Exhausted => Arena, PostError => Post,
}

#[cfg(feature = "libfabric")]
from! { crate::libfabric::OfiError => Ofi }

#[cfg(feature = "verbs")]
from! { crate::verbs::VerbsPlaneError => Verbs }
