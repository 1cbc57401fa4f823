//! Ports that talk over TCP: their ring, listener and sockets.
//!
//! ```text
//!   TcpPlane::open   ring and arena, by what the kernel can; a socket that listens
//!      .ring()       the ring as the data plane turns it
//!      .port(&ring)  streams and port, placed in the arena; connections are taken from here on
//!      .introduce()  where somebody listens, and a socket to connect to him with
//! ```
//!
//! After that the data plane makes no socket by itself: one that it has used up to connect with is replaced by [`TcpPlane::refill`],
//! whenever the thread has time for it.

use core::fmt;
use core::net::SocketAddr;
use core::time::Duration;
use std::os::fd::{AsRawFd, IntoRawFd};

use spinwire_dataplane::error::PostError;
use spinwire_dataplane::id::Name;
use spinwire_dataplane::provider::tcp::{PortOpenError, SpareSocket, TcpConfig, TcpPort};
use spinwire_dataplane::provider::{EndpointType, Paths};
use spinwire_dataplane::stream::{StreamConfig, Streams};
use spinwire_dataplane::time::Nanos;
use spinwire_dataplane::uring::Ring;
use spinwire_layouts::uring::SockAddr;

use crate::discover::{Found, Hints, Transport};
use crate::mem::PageReport;
use crate::secret;
use crate::socket::{self, Bound, SocketError, SocketOptions};
use crate::uring::{self, FeatureSet, Features, News, RingEntry, Uring, UringConfig, UringError};

/// What a plane for TCP shall be like.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TcpPlaneConfig {
    /// How much the port holds.
    pub port: TcpConfig,
    /// Options of its sockets.
    pub socket: SocketOptions,
    /// Connections that may wait to be accepted.
    pub backlog: u32,
    /// Bytes of the arena beside what port and streams take: for the endpoint's tables, and for buffers, which are sent uncopied if they
    /// lie there.
    pub arena_bytes: usize,
    /// From so many bytes on the network reads a buffer where it lies (`SEND_ZC`), where the kernel can; 0 for never.
    pub zero_copy_min: u32,
    /// How long to connect may take.
    pub connect_timeout: Nanos,
    /// How long a peer may be silent and hear nothing.
    pub idle_timeout: Nanos,
    /// How long a peer may take nothing of what is sent to it. Its machine may be silent for no longer either, unless `socket.user_timeout` says otherwise: so
    /// the connection of one that has vanished is over by then, and the peer can come again.
    pub send_timeout: Nanos,
    /// What of io_uring is not to be used though the kernel had it.
    pub deny: FeatureSet,
}

impl Default for TcpPlaneConfig {
    /// The port's defaults, 4 MiB of arena, five seconds to connect, ten seconds for a peer that takes nothing, and any time for one that is
    /// silent.
    fn default() -> Self {
        Self {
            port: TcpConfig::default(),
            socket: SocketOptions::default(),
            backlog: 128,
            arena_bytes: 4 << 20,
            zero_copy_min: 0,
            connect_timeout: Nanos::from_millis(5_000),
            idle_timeout: Nanos::MAX,
            send_timeout: Nanos::from_millis(10_000),
            deny: FeatureSet::EMPTY,
        }
    }
}

/// Why there is no such plane or port.
#[derive(Debug)]
pub enum TcpError {
    /// The ring.
    Ring(UringError),
    /// A socket.
    Socket(SocketError),
    /// The streams.
    Streams(spinwire_dataplane::stream::PlaceError),
    /// The port.
    Port(PortOpenError),
    /// A table of the port.
    Post(PostError),
}

impl fmt::Display for TcpError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ring(e) => e.fmt(f),
            Self::Socket(e) => e.fmt(f),
            Self::Streams(e) => e.fmt(f),
            Self::Port(e) => e.fmt(f),
            Self::Post(e) => e.fmt(f),
        }
    }
}

impl core::error::Error for TcpError {}

impl From<UringError> for TcpError {
    fn from(e: UringError) -> Self {
        Self::Ring(e)
    }
}

impl From<SocketError> for TcpError {
    fn from(e: SocketError) -> Self {
        Self::Socket(e)
    }
}

impl From<spinwire_dataplane::stream::PlaceError> for TcpError {
    fn from(e: spinwire_dataplane::stream::PlaceError) -> Self {
        Self::Streams(e)
    }
}

impl From<PortOpenError> for TcpError {
    fn from(e: PortOpenError) -> Self {
        Self::Port(e)
    }
}

impl From<PostError> for TcpError {
    fn from(e: PostError) -> Self {
        Self::Post(e)
    }
}

/// What TCP has to offer.
pub(crate) fn found(hints: &Hints) -> Vec<Found> {
    if let Err(why) = uring::is_allowed() {
        return vec![Found::absent(Transport::Tcp, None, why.into())];
    }
    let port = hints.sizes.tcp().port;
    [EndpointType::Rdm, EndpointType::Msg]
        .map(|kind| Found::ready(Transport::Tcp, None, port.info(kind, Paths::NONE)))
        .to_vec()
}

/// What a port over TCP stands on. Belongs to the thread that opened it.
#[derive(Debug)]
pub struct TcpPlane {
    uring: Uring,
    listener: Option<Bound>,
    config: TcpPlaneConfig,
    streams: StreamConfig,
}

impl TcpPlane {
    /// Opens ring, arena, and where `listen` says so a socket that listens there.
    ///
    /// # Errors
    /// [`TcpError`] says what could not be had, and the remedy.
    pub fn open(listen: Option<SocketAddr>, config: &TcpPlaneConfig) -> Result<Self, TcpError> {
        let mut config = *config;
        let limit = Duration::from_nanos(config.send_timeout.as_nanos());
        let is_limited = config.send_timeout != Nanos::MAX;
        config.socket.user_timeout = config.socket.user_timeout.or(is_limited.then_some(limit));
        if !config.port.secret.is_some() {
            config.port.secret = secret::fresh();
        }
        let listener = listen
            .map(|address| socket::listen(address, config.backlog, &config.socket))
            .transpose()?;
        let mut streams = StreamConfig {
            zero_copy_min: config.zero_copy_min,
            backlog: config.backlog,
            connect_timeout: config.connect_timeout,
            idle_timeout: config.idle_timeout,
            send_timeout: config.send_timeout,
            ..config.port.streams(spinwire_dataplane::stream::StreamFeatures::default())
        };
        let uring = Uring::open(&UringConfig {
            entries: config.port.conns().saturating_mul(4).clamp(64, 4096).next_power_of_two(),
            completions: config.port.conns().saturating_mul(64).clamp(1024, 16_384),
            clamp: true,
            arena_bytes: streams.arena_bytes() + config.port.arena_bytes() + config.arena_bytes,
            deny: config.deny,
            ..UringConfig::default()
        })?;
        streams.features = uring.stream_features();
        Ok(Self { uring, listener, config, streams })
    }

    /// Where it listens, with the port that it got where 0 was asked for.
    #[must_use]
    pub fn local(&self) -> Option<SocketAddr> {
        self.listener.as_ref().map(|bound| bound.local)
    }

    /// Which ways of the kernel are taken, and why not the others.
    #[must_use]
    pub const fn features(&self) -> &Features {
        self.uring.features()
    }

    /// Its ring.
    pub(crate) const fn uring(&self) -> &Uring {
        &self.uring
    }

    /// A descriptor that tells when there is something to turn for, to sleep on: see [`Uring::news`].
    ///
    /// # Errors
    /// [`UringError`].
    pub fn news(&self) -> Result<News, UringError> {
        self.uring.news()
    }

    /// The pages of the arena.
    #[must_use]
    pub fn arena_report(&self) -> Option<&PageReport> {
        self.uring.arena_report()
    }

    /// The ring as the data plane turns it. Once.
    ///
    /// # Errors
    /// [`UringError::Taken`] the second time.
    pub fn ring(&self) -> Result<Ring<'_, RingEntry<'_>>, UringError> {
        self.uring.ring()
    }

    /// The port, placed in the arena of the ring. It takes connections from now on.
    ///
    /// # Errors
    /// [`TcpError`].
    pub fn port<'p>(
        &'p self,
        ring: &'p Ring<'p, RingEntry<'p>>,
        who: (&Name, EndpointType),
    ) -> Result<TcpPort<'p, RingEntry<'p>>, TcpError> {
        let streams = self.place_streams(ring)?;
        let port = TcpPort::open(streams, ring.arena().bump(), who, &self.config.port)?;
        if let Some(listener) = &self.listener {
            port.listen(listener.fd.as_raw_fd())?;
        }
        Ok(port)
    }

    fn place_streams<'p>(
        &'p self,
        ring: &'p Ring<'p, RingEntry<'p>>,
    ) -> Result<&'p Streams<'p, RingEntry<'p>>, TcpError> {
        let streams = Streams::place(ring, 0, &self.streams)?;
        let too_small = |e| TcpError::Port(PortOpenError::Arena(e));
        let streams = ring.arena().bump().value(streams).map_err(too_small)?;
        self.uring.provide(streams.buffers())?;
        Ok(streams)
    }

    /// Says where the endpoint of that name listens, and opens a socket to connect to it with.
    ///
    /// # Errors
    /// [`TcpError`].
    pub fn introduce(
        &self,
        port: &TcpPort<'_, RingEntry<'_>>,
        name: &Name,
        at: SocketAddr,
    ) -> Result<(), TcpError> {
        port.set_route(name, SockAddr::new(at))?;
        let spare = socket::unconnected(at, &self.config.socket)?;
        hand_over(port, spare.fd, at);
        Ok(())
    }

    /// Opens sockets for connections to addresses like `like` until `count` of any kind are left.
    ///
    /// # Errors
    /// [`TcpError::Socket`]; those that were opened before it stay.
    pub fn refill(
        &self,
        port: &TcpPort<'_, RingEntry<'_>>,
        like: SocketAddr,
        count: u32,
    ) -> Result<(), TcpError> {
        for _ in port.sockets_left()..count {
            let spare = socket::unconnected(like, &self.config.socket)?;
            if !hand_over(port, spare.fd, like) {
                break;
            }
        }
        Ok(())
    }
}

/// Returns whether there was room for the socket; else it is closed.
fn hand_over(
    port: &TcpPort<'_, RingEntry<'_>>,
    socket: std::os::fd::OwnedFd,
    to: SocketAddr,
) -> bool {
    let spare = SpareSocket { fd: socket.as_raw_fd(), is_v6: to.is_ipv6() };
    if port.give_socket(spare).is_err() {
        return false;
    }
    // The port's from now on.
    let _its_number = socket.into_raw_fd();
    true
}
