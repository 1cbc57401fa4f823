//! Both ends by datagrams, of which some may be lost: over UDP, on this machine or on two. What does not depend on how they travel is here for RDMA devices
//! (`ud`), too.
//!
//! ```text
//!   client                                                   server
//!     a plain socket, connected to nobody                      has udp://host:port
//!     order: OpenFloor { its port, longest message }  ----->   a plain socket, connected to that one
//!                                      <----- its port  or  TooLong
//!     connects the plain socket        <==================>    the floor
//! ```
//!
//! The plain sockets are connected, so that the kernel keeps strangers out, and says where nobody has the other port any more: so the
//! end of a killed process is seen.

use core::cell::{Cell, RefCell};
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use core::time::Duration;
use std::io::ErrorKind;
use std::net::UdpSocket;
use std::time::Instant;

use spinwire_dataplane::id::{Addr, Name};
use spinwire_dataplane::msg::matching::MatchingConfig;
use spinwire_dataplane::provider::Provider;
use spinwire_dataplane::provider::udp::{Route, Routes, UdpConfig, UdpPort};
use spinwire_dataplane::uring::Ring;
use spinwire_hostshim::affinity;
use spinwire_hostshim::plane::Plane;
use spinwire_hostshim::socket::{Address, Scheme};
use spinwire_hostshim::udp::{UdpHost, UdpOptions};
use spinwire_hostshim::uring::RingEntry;
use spinwire_layouts::uring::SockAddr;

use super::client::{Client, Measure, Other};
use super::ending::Input;
use super::floor::{Floor, Witness};
use super::limit::Limit;
use super::lossy::{Desk, Exchange, Quiet, Tally, obey};
use super::network::{START_FIRST, ask_for_way, resolve, say_listening};
use super::options::PairOptions;
use super::order::{Marking, Order};
use super::server::SERVER;
use super::station::{self, DataUse, Heard, Nap, PATIENCE, Role, Station};
use crate::cmd::ps::table::wrapped;
use crate::report::{self, Failure, Verdict};

type Port<'p> = UdpPort<'p, RingEntry<'p>>;
type End<'p, P> = Station<'p, P, DatagramFloor>;

/// Both ends take messages of so many bytes at least: what an Ethernet frame holds.
const MESSAGE_BYTES: usize = 1432;
/// Streams are received into buffers of at least so many bytes.
const STREAM_BYTES: usize = 64 << 10;
/// Looks at an empty socket between two at the clock or at orders.
const LOOKS: u32 = 256;
/// Says nothing but that its sender is there.
const SIGN_OF_LIFE: u64 = u64::MAX;
/// Bytes of the number that every bare datagram begins with.
const NUMBER_BYTES: usize = 8;
const GONE: &str = "the other end is gone: nobody has its port any more";

/// A plain socket beside the measured one, connected to that of the other end. Both ends spin on it.
#[derive(Debug)]
pub(crate) struct DatagramFloor {
    socket: UdpSocket,
    buffer: RefCell<Vec<u8>>,
    limit: Duration,
    /// The number of the last bounce, whether or not it came back.
    number: Cell<u64>,
    /// Whether there is another end, as far as this one knows.
    is_connected: Cell<bool>,
    yields: bool,
}

impl DatagramFloor {
    /// At any port of that address of this machine.
    pub(super) fn open(at: IpAddr, options: &PairOptions, yields: bool) -> Result<Self, Failure> {
        let socket = UdpSocket::bind(SocketAddr::new(at, 0))?;
        socket.set_nonblocking(true)?;
        let buffer = RefCell::new(vec![0; 1 << 16]);
        let (number, is_connected) = (Cell::new(0), Cell::new(false));
        Ok(Self { socket, buffer, limit: lost_after(options), number, is_connected, yields })
    }

    fn port(&self) -> Result<u64, Failure> {
        Ok(u64::from(self.socket.local_addr()?.port()))
    }

    fn connect(&self, to: SocketAddr) -> Result<(), Failure> {
        self.socket.connect(to)?;
        self.is_connected.set(true);
        Ok(())
    }

    /// Sends a datagram; false where there is no room for it now.
    #[inline(always)]
    fn send(&self, bytes: &[u8]) -> Result<bool, Failure> {
        match self.socket.send(bytes) {
            Ok(_all) => Ok(true),
            Err(e) if e.kind() == ErrorKind::WouldBlock => Ok(false),
            Err(e) => Err(gone(e)),
        }
    }

    /// Takes a datagram: its number and length; `None` where there is none now, or one without a number.
    #[inline(always)]
    fn take(&self, buffer: &mut [u8]) -> Result<Option<(u64, usize)>, Failure> {
        match self.socket.recv(buffer) {
            Ok(length) => Ok(buffer.first_chunk().map(|n| (u64::from_le_bytes(*n), length))),
            Err(e) if e.kind() == ErrorKind::WouldBlock => {
                if self.yields {
                    std::thread::yield_now();
                }
                Ok(None)
            }
            Err(e) => Err(gone(e)),
        }
    }

    /// Sends back whatever comes, until there is an order.
    pub(super) fn answer_until(
        &self,
        mut order: impl FnMut() -> Result<Option<Order>, Failure>,
    ) -> Result<Order, Failure> {
        let mut buffer = self.buffer.borrow_mut();
        let quiet = Quiet::new();
        let mut empty = 0_u32;
        loop {
            match self.take(&mut buffer)? {
                Some((SIGN_OF_LIFE, _)) => {}
                Some((_, length)) => {
                    // Without room it is lost.
                    self.send(buffer.get(..length).unwrap_or_default())?;
                    quiet.moved();
                    empty = 0;
                }
                None => {
                    empty = empty.wrapping_add(1);
                    if empty.is_multiple_of(LOOKS)
                        && let Some(order) = order()?
                    {
                        return Ok(order);
                    }
                    quiet.check(self)?;
                }
            }
        }
    }

    /// Takes a stream, until there is an order and nothing comes any more.
    pub(super) fn drain_until(
        &self,
        tally: &mut Tally,
        mut order: impl FnMut() -> Result<Option<Order>, Failure>,
    ) -> Result<Order, Failure> {
        let mut buffer = self.buffer.borrow_mut();
        let (quiet, begin) = (Quiet::new(), Instant::now());
        let mut empty = 0_u32;
        let mut next = None;
        loop {
            if let Some((number, _)) = self.take(&mut buffer)? {
                let now = u64::try_from(begin.elapsed().as_nanos())?;
                let _place = tally.note(number, now);
                quiet.moved();
                empty = 0;
                continue;
            }
            empty = empty.wrapping_add(1);
            if !empty.is_multiple_of(LOOKS) {
                continue;
            }
            if let Some(order) = next {
                return Ok(order);
            }
            next = order()?;
            quiet.check(self)?;
        }
    }
}

/// The kernel says that nobody has the other port: ICMP has told it (udp(7)).
fn gone(e: std::io::Error) -> Failure {
    if e.kind() == ErrorKind::ConnectionRefused { GONE.into() } else { e.into() }
}

impl Witness for DatagramFloor {
    fn is_there(&self) -> Result<(), Failure> {
        if !self.is_connected.get() {
            return Ok(());
        }
        self.send(&SIGN_OF_LIFE.to_le_bytes())?;
        match self.socket.take_error()? {
            Some(e) => Err(gone(e)),
            None => Ok(()),
        }
    }
}

impl Floor for DatagramFloor {
    fn reset(&self) {}

    #[inline(always)]
    fn bounce(&self, _number: u64, size: usize) -> Result<bool, Failure> {
        let mut buffer = self.buffer.borrow_mut();
        let number = self.number.get().wrapping_add(1);
        self.number.set(number);
        let size = size.max(NUMBER_BYTES);
        let Some((bytes, length)) = buffer.get_mut(..size).map(|b| (b, size)) else {
            return Err("floor: no datagram holds so much".into());
        };
        if let Some(place) = bytes.first_chunk_mut() {
            *place = number.to_le_bytes();
        }
        self.send(bytes)?;
        let mut begin = None;
        let mut looks = 0_u32;
        loop {
            if self.take(&mut buffer)? == Some((number, length)) {
                return Ok(true);
            }
            looks = looks.wrapping_add(1);
            if looks.is_multiple_of(LOOKS)
                && begin.get_or_insert_with(Instant::now).elapsed() > self.limit
            {
                return Ok(false);
            }
        }
    }

    fn copy_in(
        &self,
        round: u64,
        block: &[u8],
        (count, limit): (u64, &Limit),
    ) -> Result<u64, Failure> {
        let mut block = block.to_vec();
        block.resize(block.len().max(NUMBER_BYTES), 0);
        let mut number = 0;
        while limit.goes_on(number, count) {
            if let Some(place) = block.first_chunk_mut() {
                *place = (round | number).to_le_bytes();
            }
            let mut waits = None;
            while !self.send(&block)? {
                if waits.get_or_insert_with(Instant::now).elapsed() > PATIENCE {
                    return Err("floor: the network takes nothing".into());
                }
            }
            number = number.wrapping_add(1);
        }
        Ok(number)
    }
}

/// What a port is opened with, for messages of up to `largest` bytes.
fn options_of(largest: usize, role: &Role) -> UdpOptions {
    let port = UdpConfig {
        message_bytes_max: largest,
        matching: MatchingConfig { unexpected_bytes_max: largest, ..UdpConfig::default().matching },
        ..UdpConfig::default()
    };
    let mut options = UdpOptions { port, ..UdpOptions::default() };
    options.ring.arena_bytes =
        port.arena_bytes().saturating_add(station::arena_bytes(role)).saturating_add(1 << 20);
    options
}

fn largest(options: &PairOptions) -> usize {
    options.sizes().into_iter().max().unwrap_or(64).max(MESSAGE_BYTES)
}

/// Any address of this machine, of the same version of IP as `like`.
const fn any(like: SocketAddr) -> IpAddr {
    if like.is_ipv6() {
        IpAddr::V6(Ipv6Addr::UNSPECIFIED)
    } else {
        IpAddr::V4(Ipv4Addr::UNSPECIFIED)
    }
}

/// An end that takes messages of up to `largest` bytes.
pub(super) fn role(
    name: &'static str,
    largest: usize,
    options: &PairOptions,
) -> Result<Role, Failure> {
    let buffer_bytes = largest.saturating_mul(4).max(STREAM_BYTES);
    let (yields, input) = (options.shares_cpu()?, Input::of(options));
    Ok(Role { name, buffer_bytes, yields, input })
}

const fn lost_after(options: &PairOptions) -> Duration {
    Duration::from_millis(options.lost_after)
}

/// An end on a ring that is there.
fn open<'p>(
    (host, ring): (&'p UdpHost, &'p Ring<'p, RingEntry<'p>>),
    routes: &'p Routes<'p>,
    floor: DatagramFloor,
    role: &Role,
) -> Result<End<'p, Port<'p>>, Failure> {
    let port = host.port(ring, routes)?;
    Station::over(port, floor, ring.arena().bump(), role)
}

/// Serves one client at an address.
pub(super) fn serve(
    (command, text): (&str, &str),
    options: &PairOptions,
) -> Result<Verdict, Failure> {
    let at = resolve(Scheme::Udp, ("--listen", text))?;
    let address: Address = text.parse()?;
    let (_, cpu) = options.placement()?;
    let size = largest(options);
    let role = role(SERVER, size, options)?;
    affinity::pin(cpu)?;
    let host = UdpHost::open(&address, &options_of(size, &role))?;
    let mut memory = Plane::memory(1 << 20)?;
    let bump = Plane::arena(&mut memory);
    let routes = Routes::place(&bump, 1)?;
    let floor = DatagramFloor::open(any(at), options, role.yields)?;
    let ring = host.uring().ring()?;
    let station = open((&host, &ring), &routes, floor, &role)?;
    say_listening(command, &format!("udp://{}", host.local()), options)?;
    if !options.json {
        report::complain(&wrapped("", &format!("io_uring {}", host.uring().features())));
    }
    let desk = meet(&station, &routes, size)?;
    obey((&desk, &station), size)
}

/// How a listening end finds those that it hears of.
pub(super) trait Finds<P> {
    /// What is to be done between turns until the ends have met.
    fn attend(&self, port: &P) -> Result<(), Failure>;

    /// Gives a sender that name, so that it can be connected to, and says where it is, whatever the port. `None`: it cannot be answered, or not yet.
    fn find(&self, port: &P, sender: Addr, name: &Name) -> Result<Option<SocketAddr>, Failure>;
}

impl<'p> Finds<Port<'p>> for Routes<'_> {
    fn attend(&self, _port: &Port<'p>) -> Result<(), Failure> {
        Ok(())
    }

    fn find(
        &self,
        port: &Port<'p>,
        sender: Addr,
        name: &Name,
    ) -> Result<Option<SocketAddr>, Failure> {
        let Ok(address) = port.address_of(sender) else { return Ok(None) };
        self.add(Route { name: *name, address: SockAddr::new(address) })?;
        Ok(Some(address))
    }
}

/// Waits for a client. Whatever is no such order is not heard, and not kept either: what is kept holds the row of its sender.
pub(super) fn meet<P: Provider>(
    station: &End<'_, P>,
    finds: &impl Finds<P>,
    most: usize,
) -> Result<Desk, Failure> {
    let patience = Nap::new(station.input);
    let dropped = (Marking::Untagged, DataUse::OneMessage);
    station.post_one_data(dropped.0, dropped.1)?;
    loop {
        station.turn_now();
        finds.attend(station.endpoint.provider())?;
        let Some(completion) = station.endpoint.poll() else {
            patience.rest(false)?;
            continue;
        };
        patience.rest(true)?;
        if !End::<P>::is_of_order(&completion) {
            drop(completion);
            station.post_one_data(dropped.0, dropped.1)?;
        } else if let Some(heard) = station.heard(completion)?
            && let Some(desk) = greet(station, finds, (heard, most))?
        {
            return Ok(desk);
        }
    }
}

/// The client that has said hello, if that is what it has said and it can be served.
fn greet<P: Provider>(
    station: &End<'_, P>,
    finds: &impl Finds<P>,
    (heard, most): (Heard, usize),
) -> Result<Option<Desk>, Failure> {
    let Heard { source, number, order: Order::OpenFloor { port, size } } = heard else {
        return Ok(None);
    };
    // Who is only heard of may have to make room for another; who is connected to stays.
    let name = Name::new("client")?;
    let Some(mut address) = finds.find(station.endpoint.provider(), source, &name)? else {
        return Ok(None);
    };
    let client = station.endpoint.connect(&name)?;
    let desk = Desk::new(client, number);
    if usize::try_from(size).is_ok_and(|size| size <= most) {
        address.set_port(u16::try_from(port).unwrap_or(0));
        if station.floor.connect(address).is_ok() {
            let value = station.floor.port()?;
            desk.answer(station, Order::Done { value })?;
            return Ok(Some(desk));
        }
    } else {
        desk.answer(station, Order::TooLong { most: u64::try_from(most)? })?;
    }
    station.endpoint.disconnect(client)?;
    Ok(None)
}

/// Runs `measure` on a client that talks to its server over UDP.
pub(super) fn with_client<M: Measure>(
    command: &str,
    options: &PairOptions,
    measure: M,
) -> Result<M::Result, Failure> {
    if let Some(text) = &options.connect {
        return with_server(resolve(Scheme::Udp, ("--connect", text))?, options, measure);
    }
    let place = options.meeting_place()?.unwrap_or_else(|| "udp://127.0.0.1:0".to_owned());
    Other::beside((command, &place), options, |text| {
        with_server(resolve(Scheme::Udp, ("--listen", text))?, options, measure)
    })
}

fn with_server<M: Measure>(
    at: SocketAddr,
    options: &PairOptions,
    measure: M,
) -> Result<M::Result, Failure> {
    ask_for_way(at)?;
    let (cpu, _) = options.placement()?;
    let size = largest(options);
    let role = role("client", size, options)?;
    affinity::pin(cpu)?;
    let from = if at.is_ipv6() { "udp://[::]:0" } else { "udp://0.0.0.0:0" };
    let host = UdpHost::open(&from.parse()?, &options_of(size, &role))?;
    let mut memory = Plane::memory(1 << 20)?;
    let bump = Plane::arena(&mut memory);
    let routes = Routes::place(&bump, 1)?;
    let floor = DatagramFloor::open(any(at), options, role.yields)?;
    let ring = host.uring().ring()?;
    let station = open((&host, &ring), &routes, floor, &role)?;
    let name = Name::new(SERVER)?;
    routes.add(Route { name, address: SockAddr::new(at) })?;
    let server = station.endpoint.connect(&name)?;
    // Until the bare socket of this end is connected to that of the server it is to the server's own, so that it is seen where nobody has it.
    station.floor.connect(at)?;
    let page = host.uring().arena_report().map_or_else(String::new, |r| r.page().to_string());
    with_peer(station, (server, format!("udp://{at}"), at.ip()), (options, page), measure)
}

/// Runs `measure` on a client whose server can be sent to, and is found at that place.
pub(super) fn with_peer<P: Provider, M: Measure>(
    station: End<'_, P>,
    (server, place, address): (Addr, String, IpAddr),
    (options, page): (&PairOptions, String),
    measure: M,
) -> Result<M::Result, Failure> {
    let (cpu, other_cpu) = options.placement()?;
    let exchange = Exchange::new(lost_after(options), drawn()?);
    let largest = options.sizes().into_iter().max().unwrap_or(64);
    let port = hello((&station, &exchange), (server, &place), largest)?;
    station.floor.connect(SocketAddr::new(address, port))?;
    let cpus = [cpu, other_cpu];
    let client = Client { station, loans: None, server, cpus, page, exchange: Some(exchange) };
    let measured = measure.run(&client)?;
    if let Some(exchange) = &client.exchange {
        exchange.part(&client.station, server);
    }
    Ok(measured)
}

/// Says who is there; the port of the other end's bare socket.
fn hello<P: Provider>(
    (station, exchange): (&End<'_, P>, &Exchange),
    (server, place): (Addr, &str),
    largest: usize,
) -> Result<u16, Failure> {
    let (port, size) = (station.floor.port()?, u64::try_from(largest)?);
    let order = Order::OpenFloor { port, size };
    let answer = exchange.ask(station, (server, order), PATIENCE);
    match answer.map_err(|e| format!("{place}: nobody answers: {e}; {START_FIRST}"))? {
        Some(Order::Done { value }) => Ok(u16::try_from(value)?),
        Some(Order::TooLong { most }) => Err(format!("--size: the other end takes messages of up to {most} bytes; start the listening end with --size {largest}").into()),
        Some(_) => Err(format!("{place}: what answers there is no server of this version").into()),
        None => Err(format!("{place}: nobody answers; is spinwire listening there, of the same version?").into()),
    }
}

/// A number that another client hardly has.
fn drawn() -> Result<u32, Failure> {
    let since = std::time::UNIX_EPOCH.elapsed()?;
    Ok(since.subsec_nanos() ^ std::process::id().rotate_left(16))
}
