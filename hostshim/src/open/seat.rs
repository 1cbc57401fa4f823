//! Where the tables of an endpoint are placed, and how its peers are reached.

use core::cell::Cell;
use core::fmt;
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use core::time::Duration;
use std::io;
use std::net::{TcpStream, UdpSocket};
use std::time::Instant;

use spinwire_dataplane::error::{Fatal, Misuse, PostError};
use spinwire_dataplane::id::{Addr, Name};
use spinwire_dataplane::msg::{Completion, Endpoint, EndpointConfig};
use spinwire_dataplane::poll::{Budget, Outcome, Poll, WakeSource as _};
use spinwire_dataplane::provider::tcp::FrameFault;
use spinwire_dataplane::provider::udp::Routes;
use spinwire_dataplane::provider::{EndpointType, Event};
use spinwire_dataplane::raw::place::Bump;
use spinwire_dataplane::shm::bell;
use spinwire_dataplane::uring::Ring;

use super::error::leads_nowhere;
use super::{AnyPort, Ground, News, OpenConfig, OpenError, first_of, has_meaning};
use crate::clock::TscClock;
use crate::discover::Transport;
use crate::domain::{Domain, EndpointError};
use crate::error::Errno;
#[cfg(feature = "libfabric")]
use crate::libfabric::{CallError, OfiPlane};
#[cfg(feature = "mlx5")]
use crate::mlx5::Direct;
use crate::socket::Address;
use crate::tcp::TcpPlane;
use crate::udp::{self, UdpHost};
use crate::uri::{Place, Uri};
use crate::uring::RingEntry;
#[cfg(feature = "verbs")]
use crate::uring::UringError;
#[cfg(feature = "verbs")]
use crate::verbs::{Queues, VerbsDatagrams, VerbsPlane, VerbsPort};

type HostRing<'a> = Ring<'a, RingEntry<'a>>;

/// What the tables are placed on.
enum Floor<'a> {
    Shm(&'a Domain, Bump<'a>),
    Tcp(&'a TcpPlane, &'a HostRing<'a>),
    Udp(&'a UdpHost, &'a HostRing<'a>, &'a Routes<'a>),
    #[cfg(feature = "verbs")]
    Verbs(&'a VerbsPlane, Bump<'a>),
    #[cfg(feature = "verbs")]
    VerbsDatagrams(&'a VerbsDatagrams, Bump<'a>),
    #[cfg(feature = "mlx5")]
    Mlx5(&'a VerbsPlane<Direct>, Bump<'a>),
    #[cfg(feature = "mlx5")]
    Mlx5Datagrams(&'a VerbsDatagrams<Direct>, Bump<'a>),
    #[cfg(feature = "libfabric")]
    Ofi(&'a OfiPlane, Bump<'a>),
}

fn udp_floor<'a>(host: &'a UdpHost, bump: &Bump<'a>) -> Result<Floor<'a>, OpenError> {
    let ring = bump.value(host.uring().ring()?)?;
    let routes = bump.value(Routes::place(bump, host.config().peers_max)?)?;
    Ok(Floor::Udp(host, ring, routes))
}

/// Where the tables of one endpoint are placed, and those of the program.
pub struct Seat<'a> {
    floor: Floor<'a>,
    name: Name,
    kind: EndpointType,
    config: &'a OpenConfig,
    /// There is a descriptor that tells of its endpoint, or was.
    is_told: Cell<bool>,
}

impl fmt::Debug for Seat<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Seat")
            .field("name", &self.name)
            .field("kind", &self.kind)
            .finish_non_exhaustive()
    }
}

impl<'a> Seat<'a> {
    pub(super) fn take(
        ground: &'a Ground,
        bump: Bump<'a>,
        (name, kind): (Name, EndpointType),
        config: &'a OpenConfig,
    ) -> Result<Self, OpenError> {
        let floor = match ground {
            Ground::Shm { domain, .. } => Floor::Shm(domain, bump),
            Ground::Tcp(plane) => Floor::Tcp(plane, bump.value(plane.ring()?)?),
            Ground::Udp(host) => udp_floor(host, &bump)?,
            #[cfg(feature = "verbs")]
            Ground::Verbs(plane) => Floor::Verbs(plane, plane.arena().ok_or(UringError::Taken)?),
            #[cfg(feature = "verbs")]
            Ground::VerbsDatagrams(plane) => Floor::VerbsDatagrams(plane, bump),
            #[cfg(feature = "mlx5")]
            Ground::Mlx5(plane) => Floor::Mlx5(plane, plane.arena().ok_or(UringError::Taken)?),
            #[cfg(feature = "mlx5")]
            Ground::Mlx5Datagrams(plane) => Floor::Mlx5Datagrams(plane, bump),
            #[cfg(feature = "libfabric")]
            Ground::Ofi(plane) => Floor::Ofi(plane, bump),
        };
        Ok(Self { floor, name, kind, config, is_told: Cell::new(false) })
    }

    /// What this end is called.
    #[must_use]
    pub const fn name(&self) -> &Name {
        &self.name
    }

    /// Where buffers and tables of the program are placed. What is sent from here need not be copied.
    #[must_use]
    pub const fn bump(&self) -> &Bump<'a> {
        match &self.floor {
            Floor::Shm(_, bump) => bump,
            #[cfg(feature = "verbs")]
            Floor::Verbs(_, bump) | Floor::VerbsDatagrams(_, bump) => bump,
            #[cfg(feature = "mlx5")]
            Floor::Mlx5(_, bump) | Floor::Mlx5Datagrams(_, bump) => bump,
            #[cfg(feature = "libfabric")]
            Floor::Ofi(_, bump) => bump,
            Floor::Tcp(_, ring) | Floor::Udp(_, ring, _) => ring.arena().bump(),
        }
    }

    /// A descriptor that tells when `endpoint`, which is this seat's, has something to turn for: for `epoll(7)`, or the reactor of a runtime. One a seat.
    /// [`Caps::DESCRIPTOR`](spinwire_dataplane::provider::Caps::DESCRIPTOR) says which endpoints have one. How it is slept on: [`News`], and [the guide](crate::guide::desks).
    ///
    /// # Errors
    /// [`OpenError::NoDescriptor`] over mlx5 devices, and over those providers of libfabric that have none; [`OpenError::Polled`] over libfabric, where
    /// [`OpenConfig::waits`] was not set; [`OpenError::Told`] where there was one already; [`OpenError::Stranger`] for an endpoint of another seat; and what the
    /// kernel says.
    pub fn news<'e>(
        &self,
        endpoint: &'e Endpoint<'a, AnyPort<'a>>,
    ) -> Result<News<'e, 'a>, OpenError> {
        if !self.has(endpoint) {
            return Err(OpenError::Stranger { seat: self.name });
        }
        if self.is_told.get() {
            return Err(OpenError::Told);
        }
        let ring = if let Floor::Tcp(plane, _) = &self.floor {
            Some(plane.uring())
        } else if let Floor::Udp(host, ..) = &self.floor {
            Some(host.uring())
        } else {
            None
        };
        let domain = if let Floor::Shm(domain, _) = &self.floor { Some(*domain) } else { None };
        let news = News::of(endpoint, (ring, domain))?;
        self.is_told.set(true);
        Ok(news)
    }

    /// Whether the endpoint is this seat's: it stands on the same ring, plane or segment, each of which has one seat.
    fn has(&self, endpoint: &Endpoint<'a, AnyPort<'a>>) -> bool {
        match (&self.floor, endpoint.provider()) {
            (Floor::Shm(domain, _), AnyPort::Shm(port)) => {
                let segment = domain.segment();
                let here = bell::bell(&segment, port.id().slot);
                // By where its bell lies. Of a process that was declared dead it has none, and nothing comes any more.
                endpoint.bell().is_none_or(|its| here.is_some_and(|here| core::ptr::eq(here, its)))
            }
            (Floor::Tcp(_, ring), AnyPort::Tcp(port)) => {
                core::ptr::eq(*ring, port.streams().ring())
            }
            (Floor::Udp(_, ring, _), AnyPort::Udp(port)) => core::ptr::eq(*ring, port.ring()),
            #[cfg(feature = "verbs")]
            (Floor::Verbs(plane, _), AnyPort::Verbs(_, its)) => core::ptr::eq(*plane, *its),
            #[cfg(feature = "verbs")]
            (Floor::VerbsDatagrams(plane, _), AnyPort::VerbsDatagrams(_, its)) => {
                core::ptr::eq(*plane, *its)
            }
            #[cfg(feature = "mlx5")]
            (Floor::Mlx5(plane, _), AnyPort::Mlx5(_, its)) => core::ptr::eq(*plane, *its),
            #[cfg(feature = "mlx5")]
            (Floor::Mlx5Datagrams(plane, _), AnyPort::Mlx5Datagrams(_, its)) => {
                core::ptr::eq(*plane, *its)
            }
            #[cfg(feature = "libfabric")]
            (Floor::Ofi(plane, _), AnyPort::Ofi(_, its)) => core::ptr::eq(*plane, *its),
            _ => false,
        }
    }

    /// The endpoint. One a seat.
    ///
    /// # Errors
    /// [`OpenError`].
    #[expect(
        clippy::large_stack_frames,
        reason = "set-up, once: what is built on the stack is moved to where it stays"
    )]
    pub fn endpoint(&self) -> Result<Endpoint<'a, AnyPort<'a>>, OpenError> {
        let who = (&self.name, self.kind);
        let port = match &self.floor {
            Floor::Shm(domain, bump) => {
                let port = domain.open_port(bump, who, &self.config.sizes.shm());
                AnyPort::Shm(port.map_err(EndpointError::Open)?)
            }
            Floor::Tcp(plane, ring) => AnyPort::Tcp(plane.port(ring, who)?),
            Floor::Udp(host, ring, routes) => AnyPort::Udp(host.port(ring, routes)?),
            #[cfg(feature = "verbs")]
            Floor::Verbs(plane, bump) => AnyPort::Verbs(plane.port(bump, who)?, plane),
            #[cfg(feature = "verbs")]
            Floor::VerbsDatagrams(plane, bump) => AnyPort::VerbsDatagrams(plane.port(bump)?, plane),
            #[cfg(feature = "mlx5")]
            Floor::Mlx5(plane, bump) => AnyPort::Mlx5(plane.port(bump, who)?, plane),
            #[cfg(feature = "mlx5")]
            Floor::Mlx5Datagrams(plane, bump) => AnyPort::Mlx5Datagrams(plane.port(bump)?, plane),
            #[cfg(feature = "libfabric")]
            Floor::Ofi(plane, bump) => AnyPort::Ofi(plane.port(bump, &self.name)?, plane),
        };
        Ok(Endpoint::new(port, self.bump(), &EndpointConfig::default())?)
    }

    /// The address of the peer that is found at `uri`, connected as far as the transport has connections. Waits as long as the configuration says.
    /// For an endpoint of which nothing is posted yet: of one in use see [`connect_beside`](Self::connect_beside).
    ///
    /// # Errors
    /// [`OpenError`]; `Nobody` and `Refused` say what the peer lacks, `Stranger` that the endpoint is another seat's.
    pub fn connect(
        &self,
        endpoint: &Endpoint<'a, AnyPort<'a>>,
        uri: &Uri,
        clock: &TscClock,
    ) -> Result<Addr, OpenError> {
        self.reach((endpoint, uri, clock), None)
    }

    /// The same for an endpoint in use. Whatever completes meanwhile is handed to `others`: an endpoint whose completions nobody takes does not
    /// get on. Events are left to [`poll_event`](Endpoint::poll_event), also that of a peer who was given up, by an address that is stale.
    ///
    /// # Errors
    /// As [`connect`](Self::connect).
    pub fn connect_beside(
        &self,
        endpoint: &Endpoint<'a, AnyPort<'a>>,
        uri: &Uri,
        clock: &TscClock,
        others: &mut dyn FnMut(Completion<'a>),
    ) -> Result<Addr, OpenError> {
        self.reach((endpoint, uri, clock), Some(others))
    }

    fn reach(
        &self,
        (endpoint, uri, clock): (&Endpoint<'a, AnyPort<'a>>, &Uri, &TscClock),
        others: Option<&mut dyn FnMut(Completion<'a>)>,
    ) -> Result<Addr, OpenError> {
        if !self.has(endpoint) {
            return Err(OpenError::Stranger { seat: self.name });
        }
        has_meaning(uri)?;
        let name = uri.endpoint_or_default();
        let (since, patience) = (Instant::now(), self.config.patience);
        let mut wait = Wait { endpoint, uri, clock, since, patience, others };
        // Who was never turned does not know what time it is, and would have its first time limits in the past. One that has
        // completions of an earlier turn hears the time with the second.
        let _busy_or_idle = (wait.step(), wait.step());
        match (&self.floor, uri.place(), endpoint.provider()) {
            (Floor::Shm(..), Place::Shm { .. }, _) => wait.in_domain(&name, self.kind),
            (Floor::Tcp(plane, _), Place::Socket(address), AnyPort::Tcp(port)) => {
                plane.introduce(port, &name, first_of(address)?)?;
                let fault = port.last_fault();
                let peer = endpoint.connect(&name)?;
                wait.until((peer, fault), || port.reach(peer))
            }
            #[cfg(feature = "verbs")]
            (Floor::Verbs(..), Place::Device { meet, .. }, AnyPort::Verbs(port, plane)) => {
                wait.on_device((port, plane), (&name, meet))
            }
            #[cfg(feature = "verbs")]
            (
                Floor::VerbsDatagrams(..),
                Place::Device { meet, .. },
                AnyPort::VerbsDatagrams(port, plane),
            ) => {
                plane.introduce(port, &name, first_of(meet)?)?;
                Ok(endpoint.connect(&name)?)
            }
            #[cfg(feature = "mlx5")]
            (Floor::Mlx5(..), Place::Device { meet, .. }, AnyPort::Mlx5(port, plane)) => {
                wait.on_device((port, plane), (&name, meet))
            }
            #[cfg(feature = "mlx5")]
            (
                Floor::Mlx5Datagrams(..),
                Place::Device { meet, .. },
                AnyPort::Mlx5Datagrams(port, plane),
            ) => {
                plane.introduce(port, &name, first_of(meet)?)?;
                Ok(endpoint.connect(&name)?)
            }
            #[cfg(feature = "libfabric")]
            (Floor::Ofi(..), Place::Fabric { node: Some(node), .. }, AnyPort::Ofi(port, plane)) => {
                let called = plane.call(port, (&name, first_of(node)?), self.config.patience);
                let peer = called.map_err(|why| wait.why_not_called(why))?;
                wait.until((peer, None), || port.reach(peer))
            }
            (Floor::Udp(host, _, routes), Place::Socket(address), _) => {
                self.route(routes, name, address)?;
                check_way(host, uri, address)?;
                Ok(endpoint.connect(&name)?)
            }
            _ => Err(OpenError::Transport(uri.transport())),
        }
    }

    fn route(&self, routes: &Routes<'_>, name: Name, address: &Address) -> Result<(), OpenError> {
        // One that was there before may lead elsewhere.
        let _was_there = routes.remove(&name);
        Ok(udp::route(routes, name, address)?)
    }
}

/// Whether datagrams from that socket have a way to `uri`: which is looked for no later than here.
fn check_way(host: &UdpHost, uri: &Uri, address: &Address) -> Result<(), OpenError> {
    let tried = find_way(host.local().ip(), first_of(address)?);
    tried.err().and_then(|e| unreachable(uri, &e)).map_or(Ok(()), Err)
}

/// Whether the kernel knows a way from an address of this host to that one. It is asked by connect(2) of a socket of UDP, which sends nothing.
fn find_way(from: IpAddr, to: SocketAddr) -> io::Result<()> {
    UdpSocket::bind((from, 0))?.connect(to)
}

/// Any address of this host, of the same family.
const fn anywhere(like: SocketAddr) -> IpAddr {
    match like {
        SocketAddr::V4(_) => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        SocketAddr::V6(_) => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
    }
}

/// That no network leads to `uri`, if that is what the kernel says.
fn unreachable(uri: &Uri, error: &io::Error) -> Option<OpenError> {
    let errno = Errno::from_io(error);
    leads_nowhere(errno).then(|| OpenError::Unreachable { at: uri.to_string(), errno })
}

/// A peer that is waited for.
struct Wait<'w, 'a, 'o> {
    endpoint: &'w Endpoint<'a, AnyPort<'a>>,
    uri: &'w Uri,
    clock: &'w TscClock,
    since: Instant,
    patience: Duration,
    /// Who has what completes meanwhile.
    others: Option<&'o mut dyn FnMut(Completion<'a>)>,
}

impl Wait<'_, '_, '_> {
    fn nobody(&self) -> OpenError {
        OpenError::Nobody { at: self.uri.to_string() }
    }

    fn refused(&self) -> OpenError {
        OpenError::Refused { at: self.uri.to_string() }
    }

    /// A turn, and what has completed.
    fn step(&mut self) -> Outcome {
        let outcome = self.endpoint.turn(self.clock.now(), Budget::DEFAULT);
        if let Some(others) = &mut self.others {
            while let Some(completion) = self.endpoint.poll() {
                others(completion);
            }
        }
        outcome
    }

    /// A step. Whether there is time for another: the last look is the one after that.
    fn turn(&mut self) -> bool {
        let is_over = self.since.elapsed() > self.patience;
        if !self.step().is_busy() {
            std::thread::yield_now();
        }
        !is_over
    }

    /// Who makes the segment names its endpoint a moment later.
    fn in_domain(&mut self, name: &Name, kind: EndpointType) -> Result<Addr, OpenError> {
        let mut is_last = false;
        let peer = loop {
            match self.endpoint.connect(name) {
                Err(PostError::Misuse(Misuse::UnknownAddress)) if is_last => {
                    return Err(self.nobody());
                }
                Err(PostError::Misuse(Misuse::UnknownAddress)) => is_last = !self.turn(),
                Err(PostError::Misuse(Misuse::Unsupported)) => return Err(self.refused()),
                other => break other?,
            }
        };
        if kind == EndpointType::Msg
            && let Err(why) = self.has_come_up(is_last)
        {
            // Its address may be stale already.
            let _given_up = self.endpoint.disconnect(peer);
            return Err(why);
        }
        Ok(peer)
    }

    /// Until the one peer of an endpoint of type MSG is up: no event is anybody else's.
    fn has_come_up(&mut self, mut is_last: bool) -> Result<(), OpenError> {
        loop {
            match self.endpoint.poll_event() {
                Some(Event::Connected(_)) => return Ok(()),
                Some(Event::Refused(_)) => return Err(self.refused()),
                Some(Event::PeerGone(_) | Event::PeerCorrupt(_)) => return Err(self.nobody()),
                Some(Event::StaleCompletion(_)) => {}
                None if is_last => return Err(self.nobody()),
                None => is_last = !self.turn(),
            }
        }
    }

    /// The port does not tell nobody from somebody who hangs up, nor from a network that does not lead there: so it is tried once more,
    /// by a plain socket.
    fn why_refused(&self) -> OpenError {
        if self.uri.transport() != Transport::Tcp {
            return self.refused();
        }
        let tried = self.socket_address();
        match tried.map(|at| TcpStream::connect_timeout(&at, Duration::from_millis(500))) {
            Some(Ok(_somebody)) => self.refused(),
            Some(Err(e)) => unreachable(self.uri, &e).unwrap_or_else(|| self.nobody()),
            None => self.nobody(),
        }
    }

    /// Connects over RDMA devices: to the peer of that name, which answers calls at `meet`.
    #[cfg(feature = "verbs")]
    fn on_device<Q: Queues>(
        &mut self,
        (port, plane): (&VerbsPort<'_, Q>, &VerbsPlane<Q>),
        (name, meet): (&Name, &Address),
    ) -> Result<Addr, OpenError> {
        plane.introduce(port, name, first_of(meet)?)?;
        let fault = port.last_fault();
        let peer = self.endpoint.connect(name)?;
        self.until((peer, fault), || port.reach(peer))
    }

    /// Why a call through libfabric has led to nobody.
    #[cfg(feature = "libfabric")]
    fn why_not_called(&self, why: CallError) -> OpenError {
        match why {
            CallError::Nobody => self.nobody(),
            CallError::Refused => self.refused(),
            CallError::Post(e) => e.into(),
        }
    }

    /// Nobody answers; or the kernel knows no way there, which it is asked for once more.
    fn why_nobody(&self) -> OpenError {
        let way = self.socket_address().map(|at| find_way(anywhere(at), at));
        let no_way = way.and_then(|way| unreachable(self.uri, &way.err()?));
        no_way.unwrap_or_else(|| self.nobody())
    }

    fn socket_address(&self) -> Option<SocketAddr> {
        self.uri.address().and_then(|address| first_of(address).ok())
    }

    const fn last_fault(&self) -> Option<FrameFault> {
        match self.endpoint.provider() {
            AnyPort::Tcp(port) => port.last_fault(),
            #[cfg(feature = "verbs")]
            AnyPort::Verbs(port, _) => port.last_fault(),
            #[cfg(feature = "verbs")]
            AnyPort::VerbsDatagrams(..) => None,
            #[cfg(feature = "mlx5")]
            AnyPort::Mlx5(port, _) => port.last_fault(),
            #[cfg(feature = "mlx5")]
            AnyPort::Mlx5Datagrams(..) => None,
            #[cfg(feature = "libfabric")]
            AnyPort::Ofi(..) => None,
            AnyPort::Shm(_) | AnyPort::Udp(_) => None,
        }
    }

    /// Until it is up. Where it comes to nothing its address is given up. `before` is the fault of whoever was cut off earlier.
    fn until(
        &mut self,
        (peer, before): (Addr, Option<FrameFault>),
        is_up: impl Fn() -> Result<bool, PostError>,
    ) -> Result<Addr, OpenError> {
        let mut is_last = false;
        let outcome = loop {
            match is_up() {
                Ok(true) => return Ok(peer),
                Err(why @ (PostError::Fatal(_) | PostError::Misuse(_))) => break Err(why),
                Ok(false) if is_last => break Ok(()),
                Err(why) if is_last => break Err(why),
                // What is used up may come free.
                Ok(false) | Err(_) => is_last = !self.turn(),
            }
        };
        // Its address may be stale already.
        let _given_up = self.endpoint.disconnect(peer);
        if let Some(fault) = self.last_fault().filter(|_| self.last_fault() != before) {
            return Err(OpenError::Nonsense { at: self.uri.to_string(), fault });
        }
        match outcome {
            Err(PostError::Fatal(Fatal::Refused)) => Err(self.why_refused()),
            Err(why @ PostError::Retry(_)) => Err(why.into()),
            Ok(()) | Err(PostError::Fatal(_) | PostError::Misuse(_)) => Err(self.why_nobody()),
        }
    }
}
