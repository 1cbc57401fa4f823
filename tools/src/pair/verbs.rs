//! Both ends on RDMA devices, through libibverbs: on one machine, or on two.
//!
//! ```text
//!   client                                               server
//!     device A                                             device B, listens by librdmacm
//!     connects to verbs://A/HOST:PORT  ----------------->  answers
//!     order: OpenFloor                 ----------------->  listens for TCP, answers with that port
//!     a plain socket                   <================>  a plain socket: the floor
//! ```

use core::net::SocketAddr;
use std::net::TcpStream;
use std::time::Instant;

use spinwire_dataplane::id::{Addr, Name};
use spinwire_dataplane::provider::EndpointType;
use spinwire_dataplane::provider::rdma::RdmaConfig;
use spinwire_dataplane::provider::rdma::piece::HEADER_BYTES;
use spinwire_hostshim::affinity;
use spinwire_hostshim::uri::{Place, Uri};
use spinwire_hostshim::verbs::{
    GidKind, PortState, VerbsPlane, VerbsPlaneConfig, VerbsPort, devices,
};

use super::client::{Client, Measure, Other};
use super::network::{self, SocketFloor};
use super::options::PairOptions;
use super::order::Order;
use super::server::{SERVER, STREAM_BUFFER_BYTES, obey};
use super::station::{self, Nap, PATIENCE, Role, Station, mind};
use crate::report::{Failure, Verdict};

type End<'p> = Station<'p, VerbsPort<'p>, SocketFloor>;

/// Pieces that may be under way.
const SLOTS: u32 = 32;

/// A device of this end, and where the ends meet.
struct Meet {
    device: String,
    port: u8,
    at: SocketAddr,
}

/// What an argument says.
fn meet(argument: &str, text: &str) -> Result<Meet, Failure> {
    let form = || {
        format!(
            "{argument}: with --provider verbs an address like verbs://rxe0/10.0.0.1:7000, the device of this end first"
        )
    };
    let uri: Uri = text.parse().map_err(|e| format!("{}; {e}", form()))?;
    let Place::Device { direct: false, device, port, meet } = uri.place() else {
        return Err(form().into());
    };
    let at = meet.resolve()?.first().copied().ok_or_else(form)?;
    Ok(Meet { device: device.clone(), port: port.unwrap_or(1), at })
}

/// The devices of both ends: as said, or the first one whose port is up and has an address.
fn chosen(options: &PairOptions) -> Result<[String; 2], Failure> {
    match options.device.as_slice() {
        [] => {}
        [one] => return Ok([one.clone(), one.clone()]),
        [a, b] => return Ok([a.clone(), b.clone()]),
        _ => return Err("--device: give one, or two, like rxe0,rxe1".into()),
    }
    let all = devices()?;
    let is_up = |port: &spinwire_hostshim::verbs::PortInfo| {
        port.port == 1
            && port.state == PortState::Active
            && port.gids.iter().any(|entry| entry.kind == GidKind::RoceV2)
    };
    let first = all.iter().find(|device| device.ports.iter().any(is_up));
    let Some(first) = first else {
        let names: Vec<&str> = all.iter().map(|device| device.name.as_str()).collect();
        return Err(format!("--device: none of {} has a port that is up, with an address of RoCE v2; remedy: spinwire devices shows them", names.join(", ")).into());
    };
    Ok([first.name.clone(), first.name.clone()])
}

/// A plane for messages of up to `largest` bytes, and buffers of a station. Most messages are one piece.
fn config(largest: usize, role: &Role, port: u8) -> Result<VerbsPlaneConfig, Failure> {
    let longest = u32::try_from(largest)?;
    // Three quarters of the slots hold the longest one.
    let slot = longest.min(64 << 10).max(longest.div_ceil(SLOTS / 2));
    let slot = slot.saturating_add(u32::try_from(HEADER_BYTES)?).next_multiple_of(64);
    let port_config = RdmaConfig {
        peers_max: 2,
        message_bytes_max: longest,
        slots: SLOTS,
        slot_bytes: slot,
        ..RdmaConfig::default()
    };
    let arena_bytes = station::arena_bytes(role);
    let device_port = port;
    Ok(VerbsPlaneConfig {
        port: port_config,
        arena_bytes,
        device_port,
        ..VerbsPlaneConfig::default()
    })
}

fn open<'p>(plane: &'p VerbsPlane, role: &Role) -> Result<End<'p>, Failure> {
    let bump = plane.arena().ok_or("the arena is taken")?;
    let port = plane.port(&bump, (&Name::new(role.name)?, EndpointType::Rdm))?;
    Ok(Station::over(port, SocketFloor::new(role.yields), &bump, role)?.that_spins())
}

/// Serves one client on a device.
pub(super) fn serve(
    (command, text): (&str, &str),
    options: &PairOptions,
) -> Result<Verdict, Failure> {
    let Meet { device, port, at } = meet("--listen", text)?;
    let (_, cpu) = options.placement()?;
    let size = network::largest(options);
    let buffer_bytes = size.max(STREAM_BUFFER_BYTES);
    let role = Role { name: SERVER, buffer_bytes, yields: options.shares_cpu()? };
    affinity::pin(cpu)?;
    let plane = VerbsPlane::open(&device, Some(at.port()), &config(size, &role, port)?)?;
    let local = plane.local().ok_or("the device does not listen")?;
    if !at.ip().is_unspecified() && at.ip() != local.ip() {
        return Err(format!(
            "--listen: {} is no address of {device}; remedy: verbs://{device}/{local}",
            at.ip()
        )
        .into());
    }
    let station = open(&plane, &role)?;
    network::say_listening(command, &format!("verbs://{device}/{local}"), options);
    let nap = Nap::new();
    while plane.connections() == 0 {
        plane.attend(station.endpoint.provider())?;
        station.turn();
        nap.rest(false);
    }
    network::meet_on_a_socket(&station, local.ip())?;
    obey(&station, None, size)
}

/// Runs `measure` on a client that is connected on devices.
pub(super) fn with_client<M: Measure>(
    command: &str,
    options: &PairOptions,
    measure: M,
) -> Result<M::Result, Failure> {
    if let Some(text) = &options.connect {
        return with_server(&meet("--connect", text)?, options, measure);
    }
    let (here, place) = match options.meeting_place()? {
        Some(place) => (meet("--uri", &place)?.device, place),
        None => {
            let [here, there] = chosen(options)?;
            (here, format!("verbs://{there}/0.0.0.0:0"))
        }
    };
    let mut other = Other::start(command, &place, options)?;
    let Meet { at, .. } = meet("--listen", &other.listening()?)?;
    let to = Meet { device: here, port: 1, at };
    let measured = with_server(&to, options, measure)?;
    other.finish().map(|()| measured)
}

fn with_server<M: Measure>(
    to: &Meet,
    options: &PairOptions,
    measure: M,
) -> Result<M::Result, Failure> {
    let (cpu, other_cpu) = options.placement()?;
    let size = network::largest(options);
    let buffer_bytes = size.max(STREAM_BUFFER_BYTES);
    let role = Role { name: "client", buffer_bytes, yields: options.shares_cpu()? };
    affinity::pin(cpu)?;
    let plane = VerbsPlane::open(&to.device, None, &config(size, &role, to.port)?)?;
    let station = open(&plane, &role)?;
    let server = connect(&plane, &station, to)?;
    let page = plane.slots_report().page().to_string();
    let cpus = [cpu, other_cpu];
    let client = Client { station, loans: None, server, cpus, page, exchange: None };
    client.station.send_order(server, Order::OpenFloor { port: 0, size: 0 })?;
    let port = u16::try_from(client.answer()?)?;
    client.station.floor.set(TcpStream::connect(SocketAddr::new(to.at.ip(), port))?)?;
    let measured = measure.run(&client)?;
    client.station.send_order(server, Order::Bye)?;
    Ok(measured)
}

fn connect(plane: &VerbsPlane, station: &End<'_>, to: &Meet) -> Result<Addr, Failure> {
    let name = Name::new(SERVER)?;
    let port = station.endpoint.provider();
    plane.introduce(port, &name, to.at)?;
    let server = station.endpoint.connect(&name)?;
    let since = Instant::now();
    while !port.reach(server)? {
        plane.attend(port)?;
        station.turn();
        while let Some(event) = station.endpoint.poll_event() {
            mind(event).map_err(|e| format!("verbs://{}/{}: {e}", to.device, to.at))?;
        }
        if since.elapsed() > PATIENCE {
            return Err(format!("verbs://{}/{}: nobody answers", to.device, to.at).into());
        }
    }
    Ok(server)
}
