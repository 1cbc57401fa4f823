//! Both ends on RDMA devices, through libibverbs or on queues of mlx5 devices: on one machine, or on two. What makes the queues is `Q`; all else is
//! the same.
//!
//! ```text
//!   client                                               server
//!     device A                                             device B, listens by librdmacm
//!     connects to verbs://A/HOST:PORT  ----------------->  answers
//!     order: OpenFloor                 ----------------->  listens for TCP, answers with that port
//!     a plain socket                   <================>  a plain socket: the floor
//! ```

use core::net::SocketAddr;

use spinwire_dataplane::id::{Addr, Name};
use spinwire_dataplane::provider::EndpointType;
use spinwire_dataplane::provider::rdma::RdmaConfig;
use spinwire_dataplane::provider::rdma::piece::HEADER_BYTES;
use spinwire_hostshim::affinity;
use spinwire_hostshim::uri::{Place, Uri};
use spinwire_hostshim::verbs::{
    Device, DeviceInfo, GidKind, PortInfo, PortState, Queues, VerbsPlane, VerbsPlaneConfig,
    VerbsPort, devices,
};

use super::client::{Measure, Other};
use super::network::{self, SocketFloor};
use super::options::PairOptions;
use super::server::{SERVER, obey};
use super::station::{self, Nap, Role, Station};
use super::ud;
use crate::report::{Failure, Verdict};

type End<'p, Q> = Station<'p, VerbsPort<'p, Q>, SocketFloor>;

/// Pieces that may be under way.
const SLOTS: u32 = 32;
/// Polls of a completion queue that has nothing, before an end goes around: it turns for that alone.
const POLLS: u32 = 8;

/// A device of this end, and where the ends meet.
pub(super) struct Meet {
    pub(super) device: String,
    pub(super) port: u8,
    pub(super) at: SocketAddr,
}

impl Meet {
    /// Whether it is at the address of its device, where it was said which: an end listens nowhere else.
    pub(super) fn check<Q: Queues>(&self, local: SocketAddr) -> Result<(), Failure> {
        let Self { device, at, .. } = self;
        if at.ip().is_unspecified() || at.ip() == local.ip() {
            return Ok(());
        }
        let (transport, wrong) = (Q::TRANSPORT, at.ip());
        Err(format!(
            "--listen: {wrong} is no address of {device}; remedy: {transport}://{device}/{local}"
        )
        .into())
    }
}

/// What an argument says.
fn meet<Q: Queues>(argument: &str, text: &str) -> Result<Meet, Failure> {
    let form = || {
        let transport = Q::TRANSPORT;
        format!(
            "{argument}: with --provider {transport} an address like {transport}://DEVICE/10.0.0.1:7000, the device of this end first"
        )
    };
    let uri: Uri = text.parse().map_err(|e| format!("{}; {e}", form()))?;
    let Place::Device { device, port, meet, .. } = uri.place() else {
        return Err(form().into());
    };
    if uri.transport() != Q::TRANSPORT {
        return Err(form().into());
    }
    let at = meet.resolve()?.first().copied().ok_or_else(form)?;
    Ok(Meet { device: device.clone(), port: port.unwrap_or(1), at })
}

/// The devices of both ends: as said, or the first one that suits, whose port is up and has an address.
fn chosen<Q: Queues>(options: &PairOptions) -> Result<[String; 2], Failure> {
    match options.device.as_slice() {
        [] => {}
        [one] => return Ok([one.clone(), one.clone()]),
        [a, b] => return Ok([a.clone(), b.clone()]),
        _ => return Err("--device: give one, or two, like rxe0,rxe1".into()),
    }
    let all = devices()?;
    let mut unsuited = None;
    let mut suits = |device: &&DeviceInfo| {
        let suited = Device::open(&device.name).and_then(|device| Q::suits(&device));
        suited.map_err(|why| _ = unsuited.get_or_insert(why)).is_ok()
    };
    let such: Vec<&DeviceInfo> = all.iter().filter(&mut suits).collect();
    if let ([], Some(why)) = (such.as_slice(), unsuited) {
        return Err(why.into());
    }
    let is_up = |port: &PortInfo| {
        port.port == 1
            && port.state == PortState::Active
            && port.gids.iter().any(|entry| entry.kind == GidKind::RoceV2)
    };
    let first = such.iter().find(|device| device.ports.iter().any(is_up));
    let Some(first) = first else {
        let names: Vec<&str> = such.iter().map(|device| device.name.as_str()).collect();
        return Err(format!("--device: none of {} has a port that is up, with an address of RoCE v2; remedy: spinwire devices shows them", names.join(", ")).into());
    };
    Ok([first.name.clone(), first.name.clone()])
}

/// The longest message: an end that listens for whoever comes takes 64 KiB at least, so that it need not be told. All others know what is
/// asked for, and have no larger slots: those of short messages share pages, and what translates addresses holds few of these.
fn largest(options: &PairOptions) -> usize {
    let asked = options.sizes().into_iter().max().unwrap_or(0).max(64);
    let is_told = options.listen.is_none() || options.until_input_ends;
    if is_told { asked } else { network::largest(options) }
}

/// An end for messages of up to `largest` bytes: only a stream of them shares buffers.
fn role(
    (command, name): (&str, &'static str),
    largest: usize,
    options: &PairOptions,
) -> Result<Role, Failure> {
    let role = network::role(name, options)?;
    let buffer_bytes = if command == "lat" { largest } else { role.buffer_bytes };
    Ok(Role { buffer_bytes, ..role })
}

/// A plane for messages of up to `largest` bytes, and buffers of a station. Most messages are one piece.
fn config(
    options: &PairOptions,
    (largest, role): (usize, &Role),
    port: u8,
) -> Result<VerbsPlaneConfig, Failure> {
    let longest = u32::try_from(largest)?;
    // Three quarters of the slots hold the longest one.
    let slot = longest.min(64 << 10).max(longest.div_ceil(SLOTS / 2));
    let slot = slot.saturating_add(u32::try_from(HEADER_BYTES)?).next_multiple_of(64);
    let port_config = RdmaConfig {
        peers_max: 2,
        message_bytes_max: longest,
        slots: SLOTS,
        slot_bytes: slot,
        // Where it looks at its memory, it does so between two polls.
        polls: if options.one_sided { 1 } else { POLLS },
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

fn open<'p, Q: Queues>(plane: &'p VerbsPlane<Q>, role: &Role) -> Result<End<'p, Q>, Failure> {
    let bump = plane.arena().ok_or("the arena is taken")?;
    let port = plane.port(&bump, (&Name::new(role.name)?, EndpointType::Rdm))?;
    Ok(Station::over(port, SocketFloor::new(role.yields), &bump, role)?.that_spins())
}

/// Serves one client on a device.
pub(super) fn serve<Q: Queues>(
    (command, text): (&str, &str),
    options: &PairOptions,
) -> Result<Verdict, Failure> {
    let to = meet::<Q>("--listen", text)?;
    if options.datagrams {
        return ud::serve::<Q>((command, &to), options);
    }
    let Meet { device, port, at } = &to;
    let (_, cpu) = options.placement()?;
    let size = largest(options);
    let role = role((command, SERVER), size, options)?;
    affinity::pin(cpu)?;
    let plane = VerbsPlane::<Q>::open_with(
        device,
        Some(at.port()),
        &config(options, (size, &role), *port)?,
    )?;
    let local = plane.local().ok_or("the device does not listen")?;
    to.check::<Q>(local)?;
    let transport = Q::TRANSPORT;
    let station = open(&plane, &role)?;
    network::say_listening(command, &format!("{transport}://{device}/{local}"), options)?;
    let nap = Nap::new(role.input);
    while plane.connections() == 0 {
        plane.attend(station.endpoint.provider())?;
        station.turn();
        nap.rest(false)?;
    }
    network::meet_on_a_socket(&station, local.ip())?;
    obey(&station, None, size)
}

/// Runs `measure` on a client that is connected on devices.
pub(super) fn with_client<Q: Queues, M: Measure>(
    command: &str,
    options: &PairOptions,
    measure: M,
) -> Result<M::Result, Failure> {
    if let Some(text) = &options.connect {
        return with_server::<Q, M>((command, &meet::<Q>("--connect", text)?), options, measure);
    }
    let (here, place) = match options.meeting_place()? {
        Some(place) => (meet::<Q>("--uri", &place)?.device, place),
        None => {
            let [here, there] = chosen::<Q>(options)?;
            (here, format!("{}://{there}/0.0.0.0:0", Q::TRANSPORT))
        }
    };
    Other::beside((command, &place), options, |text| {
        let Meet { at, .. } = meet::<Q>("--listen", text)?;
        with_server::<Q, M>((command, &Meet { device: here, port: 1, at }), options, measure)
    })
}

fn with_server<Q: Queues, M: Measure>(
    (command, to): (&str, &Meet),
    options: &PairOptions,
    measure: M,
) -> Result<M::Result, Failure> {
    if options.datagrams {
        return ud::with_server::<Q, M>(to, options, measure);
    }
    let (cpu, _) = options.placement()?;
    let size = largest(options);
    let role = role((command, "client"), size, options)?;
    affinity::pin(cpu)?;
    let plane =
        VerbsPlane::<Q>::open_with(&to.device, None, &config(options, (size, &role), to.port)?)?;
    let station = open(&plane, &role)?;
    let server = connect(&plane, &station, to)?;
    let page = plane.slots_report().page().to_string();
    let measured = network::with_peer(station, (server, to.at.ip()), (options, page), measure)?;
    Ok(measured.0)
}

fn connect<Q: Queues>(
    plane: &VerbsPlane<Q>,
    station: &End<'_, Q>,
    to: &Meet,
) -> Result<Addr, Failure> {
    let name = Name::new(SERVER)?;
    let port = station.endpoint.provider();
    plane.introduce(port, &name, to.at)?;
    let server = station.endpoint.connect(&name)?;
    let place = format!("{}://{}/{}", Q::TRANSPORT, to.device, to.at);
    network::reach(station, &place, || {
        let is_there = port.reach(server)?;
        if !is_there {
            plane.attend(port)?;
            station.turn();
        }
        Ok(is_there)
    })?;
    Ok(server)
}
