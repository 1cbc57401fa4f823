//! Ports for messages over UDP: a socket and a ring of its own, by what the kernel can.
//!
//! ```text
//!   "udp://host:port" ── Address ── UdpHost::open ── socket, ring, arena
//!                                      ring()  ──> Ring ── port() ──> UdpPort ── Endpoint::new
//!   names and addresses ── route() ──> Routes, which all ports of the thread share
//! ```

use core::fmt;
use core::net::SocketAddr;
use std::os::fd::AsRawFd;

use spinwire_dataplane::error::Retry;
use spinwire_dataplane::id::Name;
use spinwire_dataplane::provider::udp::{Route, Routes, UdpConfig, UdpPlaceError, UdpPort};
use spinwire_dataplane::provider::{Info, Paths};
use spinwire_dataplane::uring::Ring;
use spinwire_layouts::uring::SockAddr;

use crate::discover::{Found, Hints, Transport};
use crate::socket::{self, Address, AddressError, Bound, Scheme, SocketError, SocketOptions};
use crate::uring::{self, Feature, RingEntry, Uring, UringConfig, UringError};

/// The number of the group of provided buffers: the ring carries one port.
const GROUP: u16 = 0;

/// What a port is to be like.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct UdpOptions {
    /// Its tables. Whether packets come by one submission, the kernel decides.
    pub port: UdpConfig,
    /// Its socket.
    pub socket: SocketOptions,
    /// Its ring. The arena is as large as the port needs at least.
    pub ring: UringConfig,
}

/// Why there is no port.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum UdpError {
    /// The address is none, or leads nowhere.
    Address(AddressError),
    /// The address is not one of UDP.
    Scheme(Scheme),
    /// The socket.
    Socket(SocketError),
    /// The ring.
    Ring(UringError),
    /// The tables.
    Place(UdpPlaceError),
    /// There are more routes than the table holds.
    Routes(Retry),
}

impl fmt::Display for UdpError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address(e) => e.fmt(f),
            Self::Scheme(scheme) => {
                write!(f, "an address of {scheme}; remedy: write udp://HOST:PORT")
            }
            Self::Socket(e) => e.fmt(f),
            Self::Ring(e) => e.fmt(f),
            Self::Place(e) => e.fmt(f),
            Self::Routes(_full) => f.write_str("too many routes; place the table with more"),
        }
    }
}

impl core::error::Error for UdpError {}

/// What UDP has to offer.
pub(crate) fn found(hints: &Hints) -> Vec<Found> {
    if let Err(why) = uring::is_allowed() {
        return vec![Found::absent(Transport::Udp, None, why.into())];
    }
    let info = Info { paths: Paths::NONE, ..hints.sizes.udp().port.info(Paths::NONE) };
    vec![Found::ready(Transport::Udp, None, info)]
}

/// What a port needs of the host: a socket that is bound, and a ring.
#[derive(Debug)]
pub struct UdpHost {
    uring: Uring,
    bound: Bound,
    config: UdpConfig,
}

impl UdpHost {
    /// Opens a socket at `address`, the first that the resolver knows of, and a ring for the calling thread.
    ///
    /// # Errors
    /// [`UdpError`].
    pub fn open(address: &Address, options: &UdpOptions) -> Result<Self, UdpError> {
        let bound = socket::bind_udp(first_of(address)?, &options.socket);
        let bound = bound.map_err(UdpError::Socket)?;
        let mut config = options.port;
        let arena_bytes = options.ring.arena_bytes.max(config.arena_bytes());
        let uring = Uring::open(&UringConfig { arena_bytes, ..options.ring });
        let uring = uring.map_err(UdpError::Ring)?;
        let has = |feature| uring.features().has(feature);
        // Receives of messages go on since the same kernel as those of bytes: Linux 6.0.
        config.multishot = has(Feature::MultishotReceive) && has(Feature::BufferRings);
        Ok(Self { uring, bound, config })
    }

    /// Its address, with the port that it got where 0 was asked for.
    #[must_use]
    pub const fn local(&self) -> SocketAddr {
        self.bound.local
    }

    /// Its ring, and which paths are taken.
    #[must_use]
    pub const fn uring(&self) -> &Uring {
        &self.uring
    }

    /// What the port will be like.
    #[must_use]
    pub const fn config(&self) -> &UdpConfig {
        &self.config
    }

    /// The port, on the ring of [`Uring::ring`], which carries it alone.
    ///
    /// # Errors
    /// [`UdpError::Place`], or what the kernel says to the group of buffers.
    pub fn port<'m>(
        &'m self,
        ring: &'m Ring<'m, RingEntry<'m>>,
        routes: &'m Routes<'m>,
    ) -> Result<UdpPort<'m, RingEntry<'m>>, UdpError> {
        let at = (self.bound.fd.as_raw_fd(), GROUP);
        let port = UdpPort::place(ring, at, routes, &self.config).map_err(UdpError::Place)?;
        if let Some(buffers) = port.buffers() {
            self.uring.provide(buffers).map_err(UdpError::Ring)?;
        }
        Ok(port)
    }
}

/// Resolves where `name` is found, and enters it into the table. May ask the network, and wait for it.
///
/// # Errors
/// [`UdpError`].
pub fn route(routes: &Routes<'_>, name: Name, address: &Address) -> Result<(), UdpError> {
    let address = SockAddr::new(first_of(address)?);
    routes.add(Route { name, address }).map_err(UdpError::Routes)
}

fn first_of(address: &Address) -> Result<SocketAddr, UdpError> {
    if address.scheme() != Scheme::Udp {
        return Err(UdpError::Scheme(address.scheme()));
    }
    let found = address.resolve().map_err(UdpError::Address)?;
    let nowhere = || AddressError::Unresolved {
        host: address.host().to_owned(),
        why: "the resolver knows none".to_owned(),
    };
    found.first().copied().ok_or_else(|| UdpError::Address(nowhere()))
}
