//! Both ends over TCP, on this machine or on two.
//!
//! ```text
//!   client                                               server
//!     connects to tcp://host:port   ------------------->   listens
//!     order: OpenFloor              ------------------->   listens once more, answers with that port
//!     a plain socket                <==================>   a plain socket: the floor
//! ```

use core::cell::RefCell;
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
#[cfg(feature = "libfabric")]
use std::fs::File;
use std::io::{ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::time::Instant;

use spinwire_dataplane::id::{Addr, Name};
use spinwire_dataplane::provider::tcp::{TcpConfig, TcpPort};
use spinwire_dataplane::provider::{EndpointType, Provider};
use spinwire_dataplane::uring::Ring;
use spinwire_hostshim::affinity;
use spinwire_hostshim::error::{Errno, OsError};
use spinwire_hostshim::socket::{Address, Scheme};
use spinwire_hostshim::tcp::{TcpPlane, TcpPlaneConfig};
use spinwire_hostshim::uring::RingEntry;

use super::client::{Client, Measure, Other};
use super::ending::Input;
use super::floor::{Floor, ServerFloor, Witness};
use super::limit::Limit;
use super::options::PairOptions;
use super::order::Order;
use super::server::{SERVER, STREAM_BUFFER_BYTES, obey};
use super::station::{self, Deadline, GONE, PATIENCE, Patience, Role, Station, mind};
use crate::cmd::ps::table::wrapped;
use crate::report::{self, Failure, Verdict};

type Port<'p> = TcpPort<'p, RingEntry<'p>>;
type End<'p> = Station<'p, Port<'p>, SocketFloor>;

/// What the last block of a stream begins with, and no other.
const LAST: u8 = 0xA5;

/// A plain connection beside the measured one. Both ends spin on it.
#[derive(Debug)]
pub(crate) struct SocketFloor {
    stream: RefCell<Option<TcpStream>>,
    buffer: RefCell<Vec<u8>>,
    yields: bool,
}

impl SocketFloor {
    pub(super) fn new(yields: bool) -> Self {
        Self { stream: RefCell::default(), buffer: RefCell::default(), yields }
    }

    pub(super) fn set(&self, stream: TcpStream) -> Result<(), Failure> {
        stream.set_nodelay(true)?;
        stream.set_nonblocking(true)?;
        self.stream.replace(Some(stream));
        Ok(())
    }

    /// Reads or writes until all of it is done.
    #[inline(always)]
    fn all(
        &self,
        length: usize,
        mut some: impl FnMut(&mut TcpStream, usize) -> std::io::Result<usize>,
    ) -> Result<(), Failure> {
        let mut stream = self.stream.borrow_mut();
        let stream = stream.as_mut().ok_or("floor: there is no bare connection")?;
        let deadline = Deadline::new();
        let mut done = 0_usize;
        while done < length {
            match some(stream, done) {
                Ok(0) => return Err(GONE.into()),
                Ok(count) => done = done.saturating_add(count),
                Err(e) if e.kind() == ErrorKind::WouldBlock => {
                    if self.yields {
                        std::thread::yield_now();
                    }
                    deadline.check("floor: the other end stopped answering")?;
                }
                Err(e) if is_of_an_end(&e) => return Err(GONE.into()),
                Err(e) => return Err(e.into()),
            }
        }
        Ok(())
    }

    #[inline(always)]
    fn write(&self, bytes: &[u8]) -> Result<(), Failure> {
        self.all(bytes.len(), |stream, done| stream.write(bytes.get(done..).unwrap_or_default()))
    }

    #[inline(always)]
    fn read(&self, bytes: &mut [u8]) -> Result<(), Failure> {
        self.all(bytes.len(), |stream, done| stream.read(bytes.get_mut(done..).unwrap_or_default()))
    }
}

/// Whether nobody has the other end of a connection any more.
fn is_of_an_end(e: &std::io::Error) -> bool {
    matches!(e.kind(), ErrorKind::ConnectionReset | ErrorKind::BrokenPipe)
}

impl Witness for SocketFloor {
    fn is_there(&self) -> Result<(), Failure> {
        match self.stream.borrow().as_ref().map(|stream| stream.peek(&mut [0])) {
            Some(Ok(0)) => Err(GONE.into()),
            Some(Err(e)) if is_of_an_end(&e) => Err(GONE.into()),
            _ => Ok(()),
        }
    }
}

impl Floor for SocketFloor {
    fn reset(&self) {}

    #[inline(always)]
    fn bounce(&self, _number: u64, size: usize) -> Result<bool, Failure> {
        let mut buffer = self.buffer.borrow_mut();
        buffer.resize(size, 0x5A);
        self.write(&buffer)?;
        self.read(&mut buffer).map(|()| true)
    }

    fn copy_in(
        &self,
        _round: u64,
        block: &[u8],
        (count, limit): (u64, &Limit),
    ) -> Result<u64, Failure> {
        let mut last = block.to_vec();
        last.iter_mut().take(1).for_each(|first| *first = LAST);
        let mut number = 1;
        while limit.goes_on(number, count) {
            self.write(block)?;
            number = number.saturating_add(1);
        }
        self.write(&last)?;
        // The other end has all of it.
        self.read(&mut [0]).map(|()| number)
    }
}

impl ServerFloor for SocketFloor {
    fn has_begun(&self) -> bool {
        let stream = self.stream.borrow();
        let seen = stream.as_ref().map(|stream| stream.peek(&mut [0]));
        !matches!(seen, Some(Err(e)) if e.kind() == ErrorKind::WouldBlock)
    }

    fn answer(&self, count: u64, size: usize) -> Result<(), Failure> {
        let mut buffer = self.buffer.borrow_mut();
        buffer.resize(size, 0);
        for _ in 0..count {
            self.read(&mut buffer)?;
            self.write(&buffer)?;
        }
        Ok(())
    }

    fn copy_out(&self, block: &mut [u8], count: u64) -> Result<(), Failure> {
        for _ in 0..count {
            self.read(block)?;
            if block.first() == Some(&LAST) {
                break;
            }
        }
        self.write(&[0])
    }
}

/// The address in an argument.
pub(super) fn resolve(
    scheme: Scheme,
    (argument, text): (&str, &str),
) -> Result<SocketAddr, Failure> {
    let form = || {
        format!("{argument}: with --provider {scheme} an address like {scheme}://127.0.0.1:7000")
    };
    let address: Address = text.parse().map_err(|e| format!("{}; {e}", form()))?;
    if address.scheme() != scheme {
        return Err(form().into());
    }
    address.resolve()?.first().copied().ok_or_else(|| form().into())
}

/// Fails where this machine has no way to an address. To connect a socket of UDP asks for the way, and sends nothing.
pub(super) fn ask_for_way(at: SocketAddr) -> Result<(), Failure> {
    let any: IpAddr =
        if at.is_ipv6() { Ipv6Addr::UNSPECIFIED.into() } else { Ipv4Addr::UNSPECIFIED.into() };
    let asked = UdpSocket::bind((any, 0)).and_then(|socket| socket.connect(at));
    let kind = |e: &std::io::Error| e.kind();
    match asked.as_ref().map_err(kind) {
        Err(
            ErrorKind::NetworkUnreachable
            | ErrorKind::HostUnreachable
            | ErrorKind::AddrNotAvailable,
        ) => {}
        // What else there is, who connects in earnest says.
        Ok(()) | Err(_) => return Ok(()),
    }
    let remedy = if at.ip().is_loopback() {
        "ip link set lo up".to_owned()
    } else {
        format!("ip route get {} # says which way there is", at.ip())
    };
    let why = asked.err().map_or_else(String::new, |e| e.to_string());
    Err(format!("{at}: {why}; remedy: {remedy}").into())
}

/// Fails where this process may not have `count` files more open, which it will need. A library that connects by itself may say nothing of a
/// connection that it could not open, and try for ever.
#[cfg(feature = "libfabric")]
pub(super) fn has_descriptors_for(count: usize) -> Result<(), Failure> {
    let opened: std::io::Result<Vec<_>> = (0..count).map(|_| File::open("/dev/null")).collect();
    let refused = |e| OsError::new("connections to the other end", Errno::from_io(&e));
    Ok(opened.map(drop).map_err(refused)?)
}

/// What the kernel says of the plain connection, with the remedy.
fn of_the_bare_one(e: &std::io::Error) -> Failure {
    OsError::new("the plain connection beside the measured one", Errno::from_io(e)).into()
}

/// A plane for messages of up to `largest` bytes, and buffers of a station.
fn config(largest: usize, role: &Role) -> Result<TcpPlaneConfig, Failure> {
    let longest = u32::try_from(largest)?;
    let port = TcpConfig {
        peers_max: 2,
        message_bytes_max: longest,
        credit_messages: 256,
        credit_bytes: longest.saturating_mul(4).max(2 << 20),
        ..TcpConfig::default()
    };
    let arena_bytes = station::arena_bytes(role);
    Ok(TcpPlaneConfig { port, arena_bytes, ..TcpPlaneConfig::default() })
}

/// An end whose messages and streams both fit.
pub(super) fn role(name: &'static str, options: &PairOptions) -> Result<Role, Failure> {
    let buffer_bytes = largest(options).max(STREAM_BUFFER_BYTES);
    let (yields, input) = (options.shares_cpu()?, Input::of(options));
    Ok(Role { name, buffer_bytes, yields, input })
}

/// Messages that both ends take: at least 64 KiB, so that a listening end need not be told.
pub(super) fn largest(options: &PairOptions) -> usize {
    options.sizes().into_iter().max().unwrap_or(64).max(64 << 10)
}

fn open<'p>(
    plane: &'p TcpPlane,
    ring: &'p Ring<'p, RingEntry<'p>>,
    role: &Role,
) -> Result<End<'p>, Failure> {
    let port = plane.port(ring, (&Name::new(role.name)?, EndpointType::Rdm))?;
    Station::over(port, SocketFloor::new(role.yields), ring.arena().bump(), role)
}

/// Says where this end listens.
pub(super) fn say_listening(command: &str, at: &str, options: &PairOptions) -> Result<(), Failure> {
    if options.json {
        report::emit(&format!("{}\n", serde_json::json!({ "listening": at })))?;
    } else {
        report::complain(&format!(
            "listening on {at}; in another terminal: spinwire {command} --connect {at}\n"
        ));
    }
    Ok(())
}

/// Serves one client at an address.
pub(super) fn serve(
    (command, text): (&str, &str),
    options: &PairOptions,
) -> Result<Verdict, Failure> {
    let at = resolve(Scheme::Tcp, ("--listen", text))?;
    let (_, cpu) = options.placement()?;
    let (size, role) = (largest(options), role(SERVER, options)?);
    affinity::pin(cpu)?;
    let plane = TcpPlane::open(Some(at), &config(size, &role)?)?;
    let local = plane.local().ok_or("the port does not listen")?;
    let ring = plane.ring()?;
    let station = open(&plane, &ring, &role)?;
    say_listening(command, &format!("tcp://{local}"), options)?;
    if !options.json {
        report::complain(&wrapped("", &format!("io_uring {}", plane.features())));
    }
    meet_on_a_socket(&station, local.ip())?;
    obey(&station, None, size)
}

/// Waits for a client that asks for the floor, and opens it at an address of this machine.
pub(super) fn meet_on_a_socket<P: Provider>(
    station: &Station<'_, P, SocketFloor>,
    at: IpAddr,
) -> Result<(), Failure> {
    let (client, order) = station.next_order(Patience::Unlimited)?;
    if !matches!(order, Order::OpenFloor { .. }) {
        return Err("the client does not begin with the floor; is it the same version?".into());
    }
    let listener = TcpListener::bind(SocketAddr::new(at, 0)).map_err(|e| of_the_bare_one(&e))?;
    let port = u64::from(listener.local_addr()?.port());
    station.send_order(client, Order::Done { value: port })?;
    listener.set_nonblocking(true)?;
    let deadline = Deadline::new();
    let bare = loop {
        match listener.accept() {
            Ok((bare, _)) => break bare,
            Err(e) if e.kind() == ErrorKind::WouldBlock => station.turn(),
            Err(e) => return Err(of_the_bare_one(&e)),
        }
        station.watch(&deadline, "the client opens no bare connection")?;
    };
    station.floor.set(bare)
}

/// Runs `measure` on a client that is connected over TCP.
pub(super) fn with_client<M: Measure>(
    command: &str,
    options: &PairOptions,
    measure: M,
) -> Result<M::Result, Failure> {
    if let Some(text) = &options.connect {
        return with_server(resolve(Scheme::Tcp, ("--connect", text))?, options, measure);
    }
    let place = options.meeting_place()?.unwrap_or_else(|| "tcp://127.0.0.1:0".to_owned());
    Other::beside((command, &place), options, |text| {
        with_server(resolve(Scheme::Tcp, ("--listen", text))?, options, measure)
    })
}

fn with_server<M: Measure>(
    at: SocketAddr,
    options: &PairOptions,
    measure: M,
) -> Result<M::Result, Failure> {
    ask_for_way(at)?;
    let (cpu, _) = options.placement()?;
    let role = role("client", options)?;
    affinity::pin(cpu)?;
    let plane = TcpPlane::open(None, &config(largest(options), &role)?)?;
    let ring = plane.ring()?;
    let station = open(&plane, &ring, &role)?;
    let server = connect(&plane, &station, at)?;
    let page = plane.arena_report().map_or_else(String::new, |report| report.page().to_string());
    with_peer(station, (server, at.ip()), (options, page), measure).map(|(measured, _)| measured)
}

/// Runs `measure` on a client that is connected to its server, which has `address`: beside a bare connection there. Hands back the
/// client's end, which has said goodbye.
pub(super) fn with_peer<'p, P: Provider, M: Measure>(
    station: Station<'p, P, SocketFloor>,
    (server, address): (Addr, IpAddr),
    (options, page): (&PairOptions, String),
    measure: M,
) -> Result<(M::Result, Station<'p, P, SocketFloor>), Failure> {
    let (cpu, other_cpu) = options.placement()?;
    let cpus = [cpu, other_cpu];
    let client = Client { station, loans: None, server, cpus, page, exchange: None };
    client.station.send_order(server, Order::OpenFloor { port: 0, size: 0 })?;
    let port = u16::try_from(client.answer()?)?;
    let bare = TcpStream::connect(SocketAddr::new(address, port));
    client.station.floor.set(bare.map_err(|e| of_the_bare_one(&e))?)?;
    let measured = measure.run(&client)?;
    client.station.send_order(server, Order::Bye)?;
    Ok((measured, client.station))
}

/// What helps where nobody takes a connection.
pub(super) const START_FIRST: &str =
    "remedy: start the end that listens first, and give the port that it says";

/// Goes on with `step`, which says whether the server at `place` is there, until it is.
pub(super) fn reach<P: Provider>(
    station: &Station<'_, P, SocketFloor>,
    place: &str,
    mut step: impl FnMut() -> Result<bool, Failure>,
) -> Result<(), Failure> {
    let since = Instant::now();
    while !step()? {
        while let Some(event) = station.endpoint.poll_event() {
            mind(event).map_err(|e| format!("{place}: {e}; {START_FIRST}"))?;
        }
        if since.elapsed() > PATIENCE {
            return Err(format!("{place}: nobody answers; {START_FIRST}").into());
        }
    }
    Ok(())
}

fn connect(plane: &TcpPlane, station: &End<'_>, at: SocketAddr) -> Result<Addr, Failure> {
    let name = Name::new(SERVER)?;
    let port = station.endpoint.provider();
    plane.introduce(port, &name, at)?;
    let server = station.endpoint.connect(&name)?;
    reach(station, &format!("tcp://{at}"), || {
        let is_there = port.reach(server)?;
        if !is_there {
            station.turn();
        }
        Ok(is_there)
    })?;
    Ok(server)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_floor_that_is_cut_short_ends_with_what_was_sent_and_the_next_is_whole()
    -> Result<(), Failure> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let (near, far) = (SocketFloor::new(true), SocketFloor::new(true));
        near.set(TcpStream::connect(listener.local_addr()?)?)?;
        far.set(listener.accept()?.0)?;
        let over = Limit::after(Some(0.0));
        std::thread::scope(|scope| {
            let takes = scope.spawn(move || {
                far.copy_out(&mut [0; 64], u64::MAX)?;
                far.copy_out(&mut [0; 1], 5)
            });
            let sent = near.copy_in(0, &[0x5A; 64], (u64::MAX, &over))?;
            assert!(sent > 0 && sent < u64::MAX, "{sent}");
            assert_eq!(near.copy_in(0, &[0x5A], (5, &Limit::none()))?, 5);
            takes.join().map_err(|_panicked| "it panicked")?
        })?;
        // The other end has gone by now.
        assert_eq!(near.bounce(0, 8).unwrap_err().to_string(), GONE);
        Ok(())
    }
}
