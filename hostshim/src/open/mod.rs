//! Endpoints of any transport, opened by what a plan or a URI says.
//!
//! ```text
//!   with(&plan, &config, |opened| ..)          along the plan: opens, connects, falls back; then runs the program, once
//!
//!   Host::open      what the kernel has to be asked for: a segment, or a ring and a socket
//!    '─ seat()      where tables and buffers are placed
//!        ├─ endpoint()   Endpoint<AnyPort>
//!        └─ connect()    the address of a peer that is found at a URI
//! ```
//!
//! Everything here may block and allocates: it is set-up. What comes of it is an endpoint of the data plane like any other.

mod bell;
mod error;
mod news;
mod port;
mod seat;

use core::fmt;
use core::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use core::time::Duration;

use spinwire_dataplane::id::{Addr, Name};
use spinwire_dataplane::msg::{Completion, Endpoint};
use spinwire_dataplane::provider::{EndpointType, Info};
use spinwire_dataplane::raw::place::Bump;
use spinwire_dataplane::time::Instant;

pub use error::OpenError;
pub use news::News;
pub use port::AnyPort;
pub use seat::Seat;

use crate::clock::TscClock;
use crate::discover::{Found, Sizes, Transport};
use crate::domain::{Domain, DomainError};
#[cfg(feature = "libfabric")]
use crate::libfabric::OfiPlane;
use crate::mem::{Mapping, Problem};
#[cfg(feature = "mlx5")]
use crate::mlx5::Direct;
use crate::negotiate::{Choice, Failed, NoPath, Plan};
use crate::plane::Plane;
use crate::socket::{Address, AddressError, Scheme};
use crate::tcp::TcpPlane;
use crate::udp::UdpHost;
use crate::uri::{Part, Place, Uri, UriError};
#[cfg(feature = "verbs")]
use crate::verbs::{Queues, VerbsDatagrams, VerbsPlane};

/// Memory for what stands beside the arena of a ring: the ring itself, and routes.
const BESIDE_BYTES: usize = 256 << 10;

/// What this end does at a URI.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Role {
    /// It is found there: makes the segment, or listens.
    Listen,
    /// It connects to who is found there.
    Connect,
}

/// How endpoints are opened.
#[derive(Clone, Debug)]
pub struct OpenConfig {
    /// What this end does.
    pub role: Role,
    /// What this end is called where it connects; one that listens has the name in its URI. `None`: a name that nobody else has.
    pub name: Option<Name>,
    /// How much endpoints are to hold.
    pub sizes: Sizes,
    /// Bytes of the arena for the program: its buffers and tables.
    pub arena_bytes: usize,
    /// How long to wait for a peer at each of its addresses.
    pub patience: Duration,
    /// Whether a thread may sleep until something comes ([`Opened::news`]). Over libfabric that costs each completion something, and has to be said
    /// beforehand; other transports have it anyway.
    pub waits: bool,
}

impl OpenConfig {
    /// For an end that is found at its URI.
    #[must_use]
    pub fn listen() -> Self {
        Self {
            role: Role::Listen,
            name: None,
            sizes: Sizes::default(),
            arena_bytes: 4 << 20,
            patience: Duration::from_secs(5),
            waits: false,
        }
    }

    /// For an end that connects to who is found there.
    #[must_use]
    pub fn connect() -> Self {
        Self { role: Role::Connect, ..Self::listen() }
    }

    /// The same, for endpoints that hold so much.
    #[must_use]
    pub const fn with_sizes(self, sizes: Sizes) -> Self {
        Self { sizes, ..self }
    }

    /// The same, with so many bytes of the arena for the program.
    #[must_use]
    pub const fn with_arena(self, arena_bytes: usize) -> Self {
        Self { arena_bytes, ..self }
    }

    /// The same, waiting so long for a peer at each of its addresses.
    #[must_use]
    pub const fn within(self, patience: Duration) -> Self {
        Self { patience, ..self }
    }

    /// The same, for a thread that sleeps until something comes ([`Opened::news`]).
    #[must_use]
    pub const fn waiting(self) -> Self {
        Self { waits: true, ..self }
    }
}

/// A name that no other end has: of this process, and of this moment.
fn name_of_nobody_else() -> Name {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    let nanos = now.unwrap_or_default().as_nanos();
    let text = format!("end-{}-{nanos:x}", std::process::id());
    #[expect(clippy::expect_used, reason = "of digits and letters, and shorter than a name may be")]
    Name::new(&text).expect("a name")
}

/// A name that leads nowhere would be taken for one that was found.
fn has_meaning(uri: &Uri) -> Result<(), OpenError> {
    if uri.names_in_vain() {
        let refused = UriError::unwanted(&uri.to_string(), uri.transport(), Part::Endpoint);
        return Err(OpenError::Address(AddressError::Uri(refused)));
    }
    Ok(())
}

/// What the kernel was asked for.
enum Ground {
    /// `made` where the segment is this end's: its name goes with it.
    Shm {
        domain: Domain,
        made: bool,
    },
    Tcp(Box<TcpPlane>),
    Udp(Box<UdpHost>),
    #[cfg(feature = "verbs")]
    Verbs(Box<VerbsPlane>),
    #[cfg(feature = "verbs")]
    VerbsDatagrams(Box<VerbsDatagrams>),
    #[cfg(feature = "mlx5")]
    Mlx5(Box<VerbsPlane<Direct>>),
    #[cfg(feature = "mlx5")]
    Mlx5Datagrams(Box<VerbsDatagrams<Direct>>),
    #[cfg(feature = "libfabric")]
    Ofi(Box<OfiPlane>),
}

impl Ground {
    /// What endpoints of that type need at `uri`, and how much memory beside it.
    fn open(
        uri: &Uri,
        kind: EndpointType,
        config: &OpenConfig,
    ) -> Result<(Self, usize), OpenError> {
        let is_datagram = kind == EndpointType::Dgram;
        Ok(match uri.place() {
            Place::Shm { domain } => {
                let tables = config.sizes.shm();
                let each = tables.matching.unexpected_bytes_max.saturating_add(640);
                let rows =
                    tables.matching.recv_depth.saturating_add(tables.matching.unexpected_depth);
                let bytes = usize::try_from(rows).unwrap_or(usize::MAX).saturating_mul(each);
                let bytes = bytes.saturating_add(4 << 20).saturating_add(config.arena_bytes);
                (open_domain(domain, config)?, bytes)
            }
            Place::Socket(address) if is_datagram => (open_udp(address, config)?, BESIDE_BYTES),
            Place::Socket(address) => (open_tcp(address, config)?, BESIDE_BYTES),
            #[cfg(feature = "verbs")]
            Place::Device { direct: false, device, port, meet } if is_datagram => {
                let (plane, bytes) = open_datagrams((device, *port), meet, config)?;
                (Self::VerbsDatagrams(plane), bytes)
            }
            #[cfg(feature = "verbs")]
            Place::Device { direct: false, device, port, meet } => {
                (Self::Verbs(open_device((device, *port), meet, config)?), BESIDE_BYTES)
            }
            #[cfg(feature = "mlx5")]
            Place::Device { direct: true, device, port, meet } if is_datagram => {
                let (plane, bytes) = open_datagrams((device, *port), meet, config)?;
                (Self::Mlx5Datagrams(plane), bytes)
            }
            #[cfg(feature = "mlx5")]
            Place::Device { direct: true, device, port, meet } => {
                (Self::Mlx5(open_device((device, *port), meet, config)?), BESIDE_BYTES)
            }
            #[cfg(feature = "libfabric")]
            Place::Fabric { provider, node } => open_ofi((provider, kind), node.as_ref(), config)?,
            #[cfg(not(feature = "libfabric"))]
            Place::Fabric { .. } => return Err(OpenError::Transport(uri.transport())),
            #[cfg(not(feature = "mlx5"))]
            Place::Device { .. } => return Err(OpenError::Transport(uri.transport())),
        })
    }
}

/// What an endpoint stands on: descriptors and memory. Belongs to the thread that opened it.
pub struct Host {
    ground: Ground,
    memory: Mapping,
    kind: EndpointType,
    uri: Uri,
    config: OpenConfig,
}

impl fmt::Debug for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Host")
            .field("kind", &self.kind)
            .field("uri", &self.uri)
            .finish_non_exhaustive()
    }
}

impl Host {
    /// Opens what endpoints of that type need at `uri`: to be found there, or to connect to who is.
    ///
    /// # Errors
    /// [`OpenError`].
    pub fn open(uri: &Uri, kind: EndpointType, config: &OpenConfig) -> Result<Self, OpenError> {
        let transport = uri.transport();
        has_meaning(uri)?;
        let is_datagram = kind == EndpointType::Dgram;
        match (transport, is_datagram) {
            (Transport::Shm | Transport::Tcp, false) | (Transport::Udp, true) => {}
            #[cfg(feature = "verbs")]
            (Transport::Verbs, _) => {}
            #[cfg(feature = "mlx5")]
            (Transport::Mlx5, _) => {}
            #[cfg(feature = "libfabric")]
            (Transport::Ofi, _) => {}
            (Transport::Shm | Transport::Tcp | Transport::Udp, _) => {
                return Err(OpenError::Type { transport, wanted: kind });
            }
            #[cfg(not(feature = "verbs"))]
            (Transport::Verbs, _) => {
                return Err(OpenError::Transport(transport));
            }
            #[cfg(not(feature = "mlx5"))]
            (Transport::Mlx5, _) => {
                return Err(OpenError::Transport(transport));
            }
            #[cfg(not(feature = "libfabric"))]
            (Transport::Ofi, _) => {
                return Err(OpenError::Transport(transport));
            }
        }
        if config.role == Role::Connect && uri.address().is_some_and(|at| at.port() == 0) {
            return Err(OpenError::NoPort { at: uri.to_string() });
        }
        let (ground, bytes) = Ground::open(uri, kind, config)?;
        let memory = Plane::memory(bytes)?;
        Ok(Self { ground, memory, kind, uri: uri.clone(), config: config.clone() })
    }

    /// Where this end is found, with the port that it got where 0 was asked for; for one that connects, where its peer is.
    #[must_use]
    pub fn uri(&self) -> Uri {
        let local = match &self.ground {
            Ground::Shm { .. } => None,
            Ground::Tcp(plane) => plane.local(),
            Ground::Udp(host) => Some(host.local()),
            #[cfg(feature = "verbs")]
            Ground::Verbs(plane) => plane.local(),
            #[cfg(feature = "verbs")]
            Ground::VerbsDatagrams(plane) => plane.local(),
            #[cfg(feature = "mlx5")]
            Ground::Mlx5(plane) => plane.local(),
            #[cfg(feature = "mlx5")]
            Ground::Mlx5Datagrams(plane) => plane.local(),
            #[cfg(feature = "libfabric")]
            Ground::Ofi(plane) => plane.local(),
        };
        match (self.config.role, self.uri.place(), local) {
            (Role::Listen, Place::Socket(asked), Some(local)) => {
                let address = Address::new(asked.scheme(), asked.host(), local.port());
                Uri::new(Place::Socket(address), self.uri.endpoint().copied())
            }
            (Role::Listen, Place::Device { direct, device, port, meet }, Some(local)) => {
                let meet = Address::new(meet.scheme(), meet.host(), local.port());
                let place =
                    Place::Device { direct: *direct, device: device.clone(), port: *port, meet };
                Uri::new(place, self.uri.endpoint().copied())
            }
            (Role::Listen, Place::Fabric { provider, node: Some(node) }, Some(local)) => {
                let node = Some(Address::new(node.scheme(), node.host(), local.port()));
                let place = Place::Fabric { provider: provider.clone(), node };
                Uri::new(place, self.uri.endpoint().copied())
            }
            _ => self.uri.clone(),
        }
    }

    /// Where its tables and those of the program are placed. Once: the second time has the memory of the first.
    ///
    /// # Errors
    /// [`OpenError`].
    pub fn seat(&mut self) -> Result<Seat<'_>, OpenError> {
        let Self { ground, memory, kind, uri, config } = self;
        let name = match config.role {
            Role::Listen => uri.endpoint_or_default(),
            Role::Connect => config.name.unwrap_or_else(name_of_nobody_else),
        };
        Seat::take(ground, Plane::arena(memory), (name, *kind), config)
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        if let Ground::Shm { domain, made } = &self.ground {
            // Gone already where somebody removed it, which is as well. Whoever was killed before he removed his left it to those who came in.
            let _removed =
                if *made { domain.unlink().map(|()| true) } else { domain.unlink_if_last() };
        }
    }
}

fn open_domain(name: &Name, config: &OpenConfig) -> Result<Ground, OpenError> {
    let domain = config.sizes.domain();
    if config.role == Role::Connect {
        return Ok(Ground::Shm { domain: Domain::join(name.as_str(), &domain)?, made: false });
    }
    match Domain::create(name.as_str(), &domain) {
        Ok(domain) => Ok(Ground::Shm { domain, made: true }),
        Err(DomainError::Map(e)) if e.problem() == Some(Problem::Exists) => {
            let domain = Domain::create_or_join(name.as_str(), &domain)?;
            Ok(Ground::Shm { domain, made: false })
        }
        Err(e) => Err(e.into()),
    }
}

fn first_of(address: &Address) -> Result<SocketAddr, OpenError> {
    // A resolver that succeeds has at least one.
    address.resolve()?.first().copied().ok_or(OpenError::NoUri)
}

fn open_tcp(address: &Address, config: &OpenConfig) -> Result<Ground, OpenError> {
    let listen = match config.role {
        Role::Listen => Some(first_of(address)?),
        Role::Connect => None,
    };
    let mut tcp = config.sizes.tcp();
    tcp.arena_bytes = config.arena_bytes.saturating_add(2 << 20);
    tcp.connect_timeout = spinwire_dataplane::time::Nanos::new(
        u64::try_from(config.patience.as_nanos()).unwrap_or(u64::MAX),
    );
    Ok(Ground::Tcp(Box::new(TcpPlane::open(listen, &tcp)?)))
}

fn open_udp(address: &Address, config: &OpenConfig) -> Result<Ground, OpenError> {
    let any = |like: SocketAddr| match like {
        SocketAddr::V4(_) => Address::new(Scheme::Udp, &Ipv4Addr::UNSPECIFIED.to_string(), 0),
        SocketAddr::V6(_) => Address::new(Scheme::Udp, &Ipv6Addr::UNSPECIFIED.to_string(), 0),
    };
    let local = match config.role {
        Role::Listen => address.clone(),
        Role::Connect => any(first_of(address)?),
    };
    let mut udp = config.sizes.udp();
    udp.ring.arena_bytes =
        udp.port.arena_bytes().saturating_add(config.arena_bytes).saturating_add(2 << 20);
    Ok(Ground::Udp(Box::new(UdpHost::open(&local, &udp)?)))
}

#[cfg(feature = "verbs")]
fn open_device<Q: Queues>(
    (device, port): (&str, Option<u8>),
    meet: &Address,
    config: &OpenConfig,
) -> Result<Box<VerbsPlane<Q>>, OpenError> {
    let listen = match config.role {
        Role::Listen => Some(meet.port()),
        Role::Connect => None,
    };
    let mut plane = config.sizes.verbs();
    plane.device_port = port.unwrap_or(plane.device_port);
    plane.arena_bytes = config.arena_bytes.saturating_add(2 << 20);
    Ok(Box::new(VerbsPlane::open_with(device, listen, &plane)?))
}

/// Returns the memory that its tables take, too.
#[cfg(feature = "verbs")]
fn open_datagrams<Q: Queues>(
    (device, port): (&str, Option<u8>),
    meet: &Address,
    config: &OpenConfig,
) -> Result<(Box<VerbsDatagrams<Q>>, usize), OpenError> {
    let listen = match config.role {
        Role::Listen => Some(meet.port()),
        Role::Connect => None,
    };
    let mut plane = config.sizes.verbs_datagrams();
    plane.device_port = port.unwrap_or(plane.device_port);
    let bytes = plane.port.arena_bytes().saturating_add(config.arena_bytes);
    let bytes = bytes.saturating_add(2 << 20);
    let plane = VerbsDatagrams::open_with(device, listen, &plane)?;
    Ok((Box::new(plane), bytes))
}

/// Returns the memory that it takes, too.
#[cfg(feature = "libfabric")]
fn open_ofi(
    (provider, kind): (&str, EndpointType),
    node: Option<&Address>,
    config: &OpenConfig,
) -> Result<(Ground, usize), OpenError> {
    let at = first_of(node.ok_or(OpenError::NoUri)?)?;
    let mut ofi = config.sizes.ofi(provider, kind);
    ofi.waits = config.waits;
    let rows = u64::from(ofi.send_depth) + u64::from(ofi.recv_depth) + u64::from(ofi.peers_max);
    let bytes = usize::try_from(rows).unwrap_or(0).saturating_mul(1024).saturating_add(4 << 20);
    let plane = OfiPlane::open(at, config.role == Role::Listen, ofi);
    let plane = plane.map_err(|error| OpenError::Meeting { at, error })?;
    Ok((Ground::Ofi(Box::new(plane)), bytes.saturating_add(config.arena_bytes)))
}

/// An endpoint that is open, and how it came to be.
#[derive(Debug)]
pub struct Opened<'a> {
    /// The endpoint.
    pub endpoint: Endpoint<'a, AnyPort<'a>>,
    /// The peer, where this end has connected.
    pub peer: Option<Addr>,
    /// Where this end is found, or its peer.
    pub uri: Uri,
    /// What was chosen.
    pub choice: &'a Choice,
    /// What was preferred, and why it was in vain.
    pub failed: &'a [Failed<OpenError>],
    /// The clock that it has been turned by so far.
    pub clock: &'a TscClock,
    seat: &'a Seat<'a>,
}

impl<'a> Opened<'a> {
    /// Where buffers and tables of the program are placed. What is sent from here need not be copied.
    #[must_use]
    pub const fn bump(&self) -> &Bump<'a> {
        self.seat.bump()
    }

    /// What the endpoint is and can do.
    #[must_use]
    pub fn info(&self) -> &Info {
        self.endpoint.info()
    }

    /// Now, once a turn.
    #[must_use]
    pub fn now(&self) -> Instant {
        self.clock.now()
    }

    /// A descriptor that tells when there is something to turn for: see [`Seat::news`].
    ///
    /// # Errors
    /// As there.
    pub fn news(&self) -> Result<News<'_, 'a>, OpenError> {
        self.seat.news(&self.endpoint)
    }

    /// Connects to another peer, by the same transport. What completes meanwhile is handed to `others`; see [`Seat::connect_beside`].
    ///
    /// # Errors
    /// [`OpenError`].
    pub fn connect(
        &self,
        uri: &Uri,
        mut others: impl FnMut(Completion<'a>),
    ) -> Result<Addr, OpenError> {
        self.seat.connect_beside(&self.endpoint, uri, self.clock, &mut others)
    }
}

impl fmt::Display for Opened<'_> {
    /// Which path it got, and why no better one: `tcp rdm tcp://h:1 (not shm rdm shm://a: ..)`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.choice.found, self.uri)?;
        self.failed.iter().try_for_each(|failed| write!(f, " (not {failed})"))
    }
}

/// Opens the first of the plan that can be opened, and of which the peer is reached where this end connects; then runs `body` on it, once.
/// What was preferred and failed is told to it, in [`Opened::failed`]. A choice without a URI is listened at under a name of this process's own.
///
/// # Errors
/// [`NoPath`] with every error, where nothing could be opened.
pub fn with<R>(
    plan: &Plan,
    config: &OpenConfig,
    body: impl FnOnce(Opened<'_>) -> R,
) -> Result<R, NoPath<OpenError>> {
    let clock = TscClock::calibrate();
    let mut failed = Vec::new();
    let mut body = Some(body);
    for choice in &plan.choices {
        match open_one((choice, config), &clock, &failed, &mut body) {
            Ok(result) => return Ok(result),
            Err(error) => failed.push(Failed { choice: choice.clone(), error }),
        }
    }
    Err(NoPath { failed, rejected: plan.rejected.clone(), unknown: plan.unknown.clone() })
}

#[expect(
    clippy::large_stack_frames,
    reason = "set-up, once: what is built on the stack is moved to where it stays"
)]
fn open_one<R, F: FnOnce(Opened<'_>) -> R>(
    (choice, config): (&Choice, &OpenConfig),
    clock: &TscClock,
    failed: &[Failed<OpenError>],
    body: &mut Option<F>,
) -> Result<R, OpenError> {
    let kind =
        choice.found.info().ok_or(OpenError::Transport(choice.found.transport))?.endpoint_type;
    let uri = match (&choice.uri, config.role) {
        (Some(uri), _) => uri.on_port_of(choice.found.device.as_deref()),
        (None, Role::Listen) => local(&choice.found)?,
        (None, Role::Connect) => return Err(OpenError::NoUri),
    };
    let mut host = Host::open(&uri, kind, config)?;
    let found_at = host.uri();
    let seat = host.seat()?;
    let endpoint = seat.endpoint()?;
    let peer = match config.role {
        Role::Listen => None,
        Role::Connect => Some(seat.connect(&endpoint, &uri, clock)?),
    };
    // Taken once: whoever comes here returns.
    let body = body.take().ok_or(OpenError::NoUri)?;
    Ok(body(Opened { endpoint, peer, uri: found_at, choice, failed, clock, seat: &seat }))
}

/// A place of this machine that nobody else has.
fn local(found: &Found) -> Result<Uri, OpenError> {
    let transport = found.transport;
    let place = match transport {
        Transport::Shm => Place::Shm { domain: name_of_nobody_else() },
        Transport::Tcp => Place::Socket(Address::new(Scheme::Tcp, "127.0.0.1", 0)),
        Transport::Udp => Place::Socket(Address::new(Scheme::Udp, "127.0.0.1", 0)),
        Transport::Ofi => Place::Fabric {
            provider: found.device.clone().ok_or(OpenError::NoUri)?,
            node: Some(Address::new(Scheme::Tcp, "127.0.0.1", 0)),
        },
        Transport::Verbs | Transport::Mlx5 => {
            return Err(OpenError::Transport(transport));
        }
    };
    Ok(Uri::new(place, None))
}
