//! Where the tables of an endpoint are placed, and how its peers are reached.

use core::fmt;
use core::time::Duration;
use std::net::TcpStream;
use std::time::Instant;

use spinwire_dataplane::error::{Misuse, PostError};
use spinwire_dataplane::id::{Addr, Name};
use spinwire_dataplane::msg::{Endpoint, EndpointConfig};
use spinwire_dataplane::poll::{Budget, Poll};
use spinwire_dataplane::provider::udp::Routes;
use spinwire_dataplane::provider::{EndpointType, Event};
use spinwire_dataplane::raw::place::Bump;
use spinwire_dataplane::uring::Ring;

use super::{AnyPort, Ground, OpenConfig, OpenError, first_of};
use crate::clock::TscClock;
use crate::discover::Transport;
use crate::domain::{Domain, EndpointError};
#[cfg(feature = "libfabric")]
use crate::libfabric::{CallError, OfiPlane};
use crate::socket::Address;
use crate::tcp::TcpPlane;
use crate::udp::{self, UdpHost};
use crate::uri::{Place, Uri};
use crate::uring::RingEntry;
#[cfg(feature = "verbs")]
use crate::uring::UringError;
#[cfg(feature = "verbs")]
use crate::verbs::VerbsPlane;

type HostRing<'a> = Ring<'a, RingEntry<'a>>;

/// What the tables are placed on.
enum Floor<'a> {
    Shm(&'a Domain, Bump<'a>),
    Tcp(&'a TcpPlane, &'a HostRing<'a>),
    Udp(&'a UdpHost, &'a HostRing<'a>, &'a Routes<'a>),
    #[cfg(feature = "verbs")]
    Verbs(&'a VerbsPlane, Bump<'a>),
    #[cfg(feature = "libfabric")]
    Ofi(&'a OfiPlane, Bump<'a>),
}

/// Where the tables of one endpoint are placed, and those of the program.
pub struct Seat<'a> {
    floor: Floor<'a>,
    name: Name,
    kind: EndpointType,
    config: &'a OpenConfig,
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
            Ground::Udp(host) => {
                let ring = bump.value(host.uring().ring()?)?;
                let routes = bump.value(Routes::place(&bump, host.config().peers_max)?)?;
                Floor::Udp(host, ring, routes)
            }
            #[cfg(feature = "verbs")]
            Ground::Verbs(plane) => Floor::Verbs(plane, plane.arena().ok_or(UringError::Taken)?),
            #[cfg(feature = "libfabric")]
            Ground::Ofi(plane) => Floor::Ofi(plane, bump),
        };
        Ok(Self { floor, name, kind, config })
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
            Floor::Verbs(_, bump) => bump,
            #[cfg(feature = "libfabric")]
            Floor::Ofi(_, bump) => bump,
            Floor::Tcp(_, ring) | Floor::Udp(_, ring, _) => ring.arena().bump(),
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
            #[cfg(feature = "libfabric")]
            Floor::Ofi(plane, bump) => AnyPort::Ofi(plane.port(bump, &self.name)?, plane),
        };
        Ok(Endpoint::new(port, self.bump(), &EndpointConfig::default())?)
    }

    /// The address of the peer that is found at `uri`, connected as far as the transport has connections. Waits as long as the configuration says.
    ///
    /// # Errors
    /// [`OpenError`]; `Nobody` and `Refused` say what the peer lacks.
    pub fn connect(
        &self,
        endpoint: &Endpoint<'a, AnyPort<'a>>,
        uri: &Uri,
        clock: &TscClock,
    ) -> Result<Addr, OpenError> {
        let name = uri.endpoint_or_default();
        let wait =
            Wait { endpoint, uri, clock, since: Instant::now(), patience: self.config.patience };
        // Who was never turned does not know what time it is, and would have its first time limits in the past.
        let _busy_or_idle = endpoint.turn(clock.now(), Budget::DEFAULT);
        match (&self.floor, uri.place(), endpoint.provider()) {
            (Floor::Shm(..), Place::Shm { .. }, _) => wait.in_domain(&name, self.kind),
            (Floor::Tcp(plane, _), Place::Socket(address), AnyPort::Tcp(port)) => {
                plane.introduce(port, &name, first_of(address)?)?;
                let peer = endpoint.connect(&name)?;
                wait.until(peer, || port.reach(peer))
            }
            #[cfg(feature = "verbs")]
            (Floor::Verbs(..), Place::Device { meet, .. }, AnyPort::Verbs(port, plane)) => {
                plane.introduce(port, &name, first_of(meet)?)?;
                let peer = endpoint.connect(&name)?;
                wait.until(peer, || port.reach(peer))
            }
            #[cfg(feature = "libfabric")]
            (Floor::Ofi(..), Place::Fabric { node: Some(node), .. }, AnyPort::Ofi(port, plane)) => {
                let called = plane.call(port, (&name, first_of(node)?), self.config.patience);
                let peer = called.map_err(|why| match why {
                    CallError::Nobody => wait.nobody(),
                    CallError::Refused => OpenError::Refused { at: uri.to_string() },
                    CallError::Post(e) => e.into(),
                })?;
                wait.until(peer, || port.reach(peer))
            }
            (Floor::Udp(_, _, routes), Place::Socket(address), _) => {
                self.route(routes, name, address)?;
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

/// A peer that is waited for.
struct Wait<'w, 'a> {
    endpoint: &'w Endpoint<'a, AnyPort<'a>>,
    uri: &'w Uri,
    clock: &'w TscClock,
    since: Instant,
    patience: Duration,
}

impl Wait<'_, '_> {
    fn nobody(&self) -> OpenError {
        OpenError::Nobody { at: self.uri.to_string() }
    }

    fn turn(&self) -> Result<(), OpenError> {
        if !self.endpoint.turn(self.clock.now(), Budget::DEFAULT).is_busy() {
            std::thread::yield_now();
        }
        if self.since.elapsed() > self.patience { Err(self.nobody()) } else { Ok(()) }
    }

    /// Who makes the segment names its endpoint a moment later.
    fn in_domain(&self, name: &Name, kind: EndpointType) -> Result<Addr, OpenError> {
        let peer = loop {
            match self.endpoint.connect(name) {
                Err(PostError::Misuse(Misuse::UnknownAddress)) => self.turn()?,
                Err(PostError::Misuse(Misuse::Unsupported)) => {
                    return Err(OpenError::Refused { at: self.uri.to_string() });
                }
                other => break other?,
            }
        };
        if kind == EndpointType::Msg {
            // It has one peer, so no event is anybody else's.
            let mut is_up = false;
            while !is_up {
                self.turn()?;
                is_up = self.has_come_up()?;
            }
        }
        Ok(peer)
    }

    fn has_come_up(&self) -> Result<bool, OpenError> {
        match self.endpoint.poll_event() {
            Some(Event::Connected(_)) => Ok(true),
            Some(Event::Refused(_)) => Err(OpenError::Refused { at: self.uri.to_string() }),
            Some(Event::PeerGone(_) | Event::PeerCorrupt(_)) => Err(self.nobody()),
            Some(Event::StaleCompletion(_)) | None => Ok(false),
        }
    }

    /// The port does not tell nobody from somebody who hangs up: so it is tried once more, by a plain socket.
    fn somebody_listens(&self) -> bool {
        if self.uri.transport() != Transport::Tcp {
            return true;
        }
        let found = self.uri.address().and_then(|address| first_of(address).ok());
        found.is_some_and(|at| TcpStream::connect_timeout(&at, Duration::from_millis(500)).is_ok())
    }

    /// Until it is up. Where it comes to nothing, the events of this peer are taken, and its address is given up.
    fn until(
        &self,
        peer: Addr,
        is_up: impl Fn() -> Result<bool, PostError>,
    ) -> Result<Addr, OpenError> {
        let outcome = loop {
            match is_up() {
                Ok(true) => return Ok(peer),
                Ok(false) => {}
                Err(_gone) => break Err(self.nobody()),
            }
            if let Err(nobody) = self.turn() {
                break Err(nobody);
            }
        };
        let fault = match self.endpoint.provider() {
            AnyPort::Tcp(port) => port.last_fault(),
            #[cfg(feature = "verbs")]
            AnyPort::Verbs(port, _) => port.last_fault(),
            #[cfg(feature = "libfabric")]
            AnyPort::Ofi(..) => None,
            AnyPort::Shm(_) | AnyPort::Udp(_) => None,
        };
        if let Some(fault) = fault {
            return Err(OpenError::Nonsense { at: self.uri.to_string(), fault });
        }
        let refused = self.endpoint.poll_event() == Some(Event::Refused(peer));
        // Its address may be stale already.
        let _given_up = self.endpoint.disconnect(peer);
        if refused && self.somebody_listens() {
            return Err(OpenError::Refused { at: self.uri.to_string() });
        }
        outcome
    }
}
