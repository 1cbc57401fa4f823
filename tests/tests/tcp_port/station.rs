//! A port over TCP with its endpoint, and time that passes.

use core::cell::{Cell, RefCell};
use core::net::{Ipv4Addr, SocketAddr};
use core::time::Duration;
use std::collections::VecDeque;
use std::time::Instant as Clock;

use spinwire_dataplane::error::PostError;
use spinwire_dataplane::id::{Addr, Name};
use spinwire_dataplane::msg::{Completion, Endpoint, EndpointConfig, RecvFrom};
use spinwire_dataplane::poll::{Budget, Poll};
use spinwire_dataplane::provider::tcp::{TcpConfig, TcpPort};
use spinwire_dataplane::provider::{EndpointType, Event};
use spinwire_dataplane::raw::loan::LoanPool;
use spinwire_dataplane::time::Instant;
use spinwire_dataplane::uring::Ring;
use spinwire_hostshim::tcp::{TcpPlane, TcpPlaneConfig};
use spinwire_hostshim::uring::RingEntry;

pub(crate) type Port<'p> = TcpPort<'p, RingEntry<'p>>;

/// Longest message of the stations here.
pub(crate) const LONGEST: u32 = 512 << 10;
/// Buffers of a station.
pub(crate) const BUFFERS: u32 = 24;
/// How long anything may take on a machine that has other things to do.
const PATIENCE: Duration = Duration::from_secs(60);

pub(crate) fn name(text: &str) -> Name {
    Name::new(text).unwrap()
}

pub(crate) fn anywhere() -> SocketAddr {
    SocketAddr::from((Ipv4Addr::LOCALHOST, 0))
}

/// A port whose limits are easily reached.
pub(crate) fn config() -> TcpPlaneConfig {
    let port = TcpConfig {
        message_bytes_max: LONGEST,
        credit_messages: 16,
        credit_bytes: 2 << 20,
        peers_max: 8,
        ..TcpConfig::default()
    };
    TcpPlaneConfig { port, arena_bytes: 32 << 20, ..TcpPlaneConfig::default() }
}

pub(crate) struct Station<'p> {
    pub(crate) endpoint: Endpoint<'p, Port<'p>>,
    pub(crate) plane: &'p TcpPlane,
    pub(crate) pool: &'p LoanPool<'p>,
    began: Clock,
    events: RefCell<VecDeque<Event>>,
    pub(crate) turns: Cell<u64>,
}

/// Runs `work` with a station of that name.
pub(crate) fn with<R>(
    text: &str,
    endpoint_type: EndpointType,
    config: &TcpPlaneConfig,
    work: impl FnOnce(&Station<'_>) -> R,
) -> R {
    let plane = TcpPlane::open(Some(anywhere()), config).unwrap();
    let ring = plane.ring().unwrap();
    work(&Station::new((&plane, &ring), (&name(text), endpoint_type), config))
}

/// Runs `work` with two stations of those names.
pub(crate) fn with_two<R>(
    [first, second]: [&str; 2],
    endpoint_type: EndpointType,
    work: impl for<'p> FnOnce(&Station<'p>, &Station<'p>) -> R,
) -> R {
    with_two_at(anywhere(), &config(), ([first, second], endpoint_type), work)
}

/// Runs `work` with two stations of those names, which listen at such an address.
pub(crate) fn with_two_at<R>(
    at: SocketAddr,
    config: &TcpPlaneConfig,
    ([first, second], endpoint_type): ([&str; 2], EndpointType),
    work: impl for<'p> FnOnce(&Station<'p>, &Station<'p>) -> R,
) -> R {
    let planes = [(); 2].map(|()| TcpPlane::open(Some(at), config).unwrap());
    let [ring_a, ring_b] = [planes[0].ring().unwrap(), planes[1].ring().unwrap()];
    let a = Station::new((&planes[0], &ring_a), (&name(first), endpoint_type), config);
    let b = Station::new((&planes[1], &ring_b), (&name(second), endpoint_type), config);
    work(&a, &b)
}

impl<'p> Station<'p> {
    fn new(
        (plane, ring): (&'p TcpPlane, &'p Ring<'p, RingEntry<'p>>),
        who: (&Name, EndpointType),
        config: &TcpPlaneConfig,
    ) -> Self {
        let port = plane.port(ring, who).unwrap();
        let bump = ring.arena().bump();
        let longest = usize::try_from(config.port.message_bytes_max).unwrap();
        Self {
            pool: LoanPool::place(bump, BUFFERS, longest).unwrap(),
            endpoint: Endpoint::new(port, bump, &EndpointConfig::default()).unwrap(),
            plane,
            began: Clock::now(),
            events: RefCell::default(),
            turns: Cell::new(0),
        }
    }

    pub(crate) fn local(&self) -> SocketAddr {
        self.plane.local().unwrap()
    }

    pub(crate) const fn port(&self) -> &Port<'p> {
        self.endpoint.provider()
    }

    pub(crate) fn now(&self) -> Instant {
        Instant::from_nanos(u64::try_from(self.began.elapsed().as_nanos()).unwrap())
    }

    /// Says where somebody is, and gives his address.
    pub(crate) fn know(&self, text: &str, at: SocketAddr) -> Addr {
        self.plane.introduce(self.port(), &name(text), at).unwrap();
        self.endpoint.connect(&name(text)).unwrap()
    }

    /// A turn, which enters the kernel at most once.
    pub(crate) fn turn(&self) {
        let enters = || self.port().streams().ring().counters().enters;
        let before = enters();
        let _busy = self.endpoint.turn(self.now(), Budget::DEFAULT);
        assert!(enters() <= before + 1, "{} calls of the kernel in one turn", enters() - before);
        self.turns.set(self.turns.get() + 1);
        self.events.borrow_mut().extend(core::iter::from_fn(|| self.endpoint.poll_event()));
    }

    pub(crate) fn poll(&self) -> Option<Completion<'p>> {
        self.endpoint.poll()
    }

    pub(crate) fn event(&self) -> Option<Event> {
        self.events.borrow_mut().pop_front()
    }

    /// Posts a receive for anybody's message.
    pub(crate) fn recv(&self, context: u64) {
        let loan = self.pool.lend().expect("a buffer");
        self.endpoint.post_recv(RecvFrom::any(), loan, context).map_err(|r| r.error).unwrap();
    }
}

/// Turns all until something is so.
pub(crate) fn until(what: &str, stations: &[&Station<'_>], mut so: impl FnMut() -> bool) {
    let began = Clock::now();
    while !so() {
        assert!(began.elapsed() < PATIENCE, "not after {PATIENCE:?}: {what}");
        for station in stations {
            station.turn();
        }
    }
}

/// Does something until it is not refused with `Retry`, turning all meanwhile.
pub(crate) fn insist<T>(
    what: &str,
    stations: &[&Station<'_>],
    mut try_it: impl FnMut() -> Result<T, PostError>,
) -> T {
    let mut done = None;
    until(what, stations, || match try_it() {
        Ok(value) => {
            done = Some(value);
            true
        }
        Err(PostError::Retry(_)) => false,
        Err(refused) => panic!("{what}: {refused}"),
    });
    done.unwrap()
}

/// The next event that is not `Connected`.
pub(crate) fn next_end(station: &Station<'_>) -> Event {
    let mut end = None;
    until("an end is told", &[station], || {
        while end.is_none() {
            match station.event() {
                Some(Event::Connected(_)) => {}
                Some(other) => end = Some(other),
                None => return false,
            }
        }
        true
    });
    end.unwrap()
}
