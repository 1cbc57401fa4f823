//! Both ends over a provider of libfabric: on one machine, or on two.
//!
//! ```text
//!   client                                               server
//!     calls ofi://PROVIDER/HOST:PORT   ----------------->  answers: each has the other's address
//!     order: OpenFloor                 ----------------->  listens for TCP, answers with that port
//!     a plain socket                   <================>  a plain socket: the floor
//! ```
//!
//! Round trips to be held against `fi_pingpong` are those of `fabric`, which has no orders beside its messages.

use core::net::SocketAddr;
use core::time::Duration;
use std::os::unix::process::parent_id;
use std::time::Instant;

use spinwire_dataplane::id::{Addr, Name};
use spinwire_dataplane::provider::Provider;
use spinwire_dataplane::raw::place::Bump;
use spinwire_dataplane::time::Instant as PlaneInstant;
use spinwire_hostshim::affinity;
use spinwire_hostshim::libfabric::{OfiConfig, OfiPlane, OfiPort};
use spinwire_hostshim::plane::Plane;
use spinwire_hostshim::uri::{Place, Uri};

use super::client::{Measure, Other};
use super::ending::{self, Input};
use super::network::{self, SocketFloor};
use super::options::PairOptions;
use super::server::{SERVER, obey};
use super::station::{self, Nap, PATIENCE, Role, Station};
use crate::report::{Failure, Verdict};

type End<'p> = Station<'p, OfiPort<'p>, SocketFloor>;

/// Sends and receives under way, each.
const DEPTH: u32 = 256;
/// Sockets that an end opens when the two meet: that of the plane, the library's, and the plain one, for which the server listens besides.
const CONNECTION_FILES: usize = 4;
/// How long the other end may take to hear that it may go.
const FAREWELL: Duration = Duration::from_secs(2);

/// A provider, and where the ends tell each other who they are.
struct Meet {
    provider: String,
    at: SocketAddr,
}

/// What an argument says.
fn meet(argument: &str, text: &str) -> Result<Meet, Failure> {
    let form = || {
        format!(
            "{argument}: with --provider ofi an address like ofi://tcp/127.0.0.1:7000, the provider of libfabric first"
        )
    };
    let uri: Uri = text.parse().map_err(|e| format!("{}; {e}", form()))?;
    let Place::Fabric { provider, node } = uri.place() else { return Err(form().into()) };
    let at = match node {
        Some(node) => node.resolve()?.first().copied().ok_or_else(form)?,
        None if argument == "--connect" => return Err(form().into()),
        None => SocketAddr::from(([127, 0, 0, 1], 0)),
    };
    Ok(Meet { provider: provider.clone(), at })
}

/// A port for messages of up to `largest` bytes.
fn config(provider: &str, largest: usize, options: &PairOptions) -> Result<OfiConfig, Failure> {
    Ok(OfiConfig {
        provider: Some(provider.to_owned()),
        endpoint_type: options.fabric_type.endpoint_type(),
        peers_max: 4,
        send_depth: DEPTH,
        recv_depth: DEPTH,
        message_bytes_max: u32::try_from(largest)?,
        ..OfiConfig::default()
    })
}

/// Bytes for the tables of a port, and for a station.
fn memory_bytes(role: &Role) -> usize {
    station::arena_bytes(role).saturating_add(4 << 20)
}

fn open<'p>(plane: &'p OfiPlane, bump: &Bump<'p>, role: &Role) -> Result<End<'p>, Failure> {
    let port = plane.port(bump, &Name::new(role.name)?)?;
    let info = port.info();
    if !info.supports_tagged() {
        return Err(format!(
            "{} of type {}: it has no tags, by which the ends tell orders from messages; remedy: another --fabric-type or provider, or `spinwire lat --provider \
             ofi`, which does without",
            port.provider_name(),
            info.endpoint_type
        )
        .into());
    }
    Station::over(port, SocketFloor::new(role.yields), bump, role)
}

/// This end's half of a turn that is about connections.
fn attend(plane: &OfiPlane, station: &End<'_>) {
    let now = PlaneInstant::from_nanos(station.clock.now_ns());
    plane.attend(station.endpoint.provider(), now);
    station.turn_now();
}

/// Serves one client over a provider.
pub(super) fn serve(
    (command, text): (&str, &str),
    options: &PairOptions,
) -> Result<Verdict, Failure> {
    let (starter, input) = (parent_id(), Input::of(options));
    let served = serve_at(meet("--listen", text)?, command, options);
    served.inspect_err(|_| ending::clear_after(starter, input))
}

fn serve_at(
    Meet { provider, at }: Meet,
    command: &str,
    options: &PairOptions,
) -> Result<Verdict, Failure> {
    if provider == "shm" {
        ending::ends_in_spite_of_shm(Input::of(options), || ())?;
    }
    let (_, cpu) = options.placement()?;
    let (size, role) = (network::largest(options), network::role(SERVER, options)?);
    affinity::pin(cpu)?;
    network::has_descriptors_for(1)?;
    let plane = OfiPlane::open(at, true, config(&provider, size, options)?).map_err(|e| {
        format!("--listen: {at}: {e}; remedy: ss -anp | grep :{} # says who has it", at.port())
    })?;
    let local = plane.local().ok_or("nobody can call here")?;
    let mut memory = Plane::memory(memory_bytes(&role))?;
    let bump = Plane::arena(&mut memory);
    let station = open(&plane, &bump, &role)?;
    network::has_descriptors_for(CONNECTION_FILES)?;
    network::say_listening(command, &format!("ofi://{provider}/{local}"), options)?;
    let nap = Nap::new(role.input);
    // Of type MSG it is the library that tells of a connection.
    while plane.connections() == 0 && station.endpoint.poll_event().is_none() {
        attend(&plane, &station);
        nap.rest(false)?;
    }
    network::meet_on_a_socket(&station, local.ip())?;
    obey(&station, None, size)
}

/// Runs `measure` on a client that is connected over a provider.
pub(super) fn with_client<M: Measure>(
    command: &str,
    options: &PairOptions,
    measure: M,
) -> Result<M::Result, Failure> {
    if let Some(text) = &options.connect {
        return with_server(&meet("--connect", text)?, options, measure);
    }
    let own = || format!("ofi://{}/127.0.0.1:0", options.fabric_provider);
    let place = options.meeting_place()?.unwrap_or_else(own);
    let Meet { provider, at } = meet("--uri", &place)?;
    Other::beside((command, &format!("ofi://{provider}/{at}")), options, |text| {
        with_server(&meet("--listen", text)?, options, measure)
    })
}

fn with_server<M: Measure>(
    to: &Meet,
    options: &PairOptions,
    measure: M,
) -> Result<M::Result, Failure> {
    network::ask_for_way(to.at)?;
    if to.provider == "shm" {
        ending::ends_in_spite_of_shm(Input::Ignored, || ())?;
    }
    let (cpu, _) = options.placement()?;
    let (size, role) = (network::largest(options), network::role("client", options)?);
    affinity::pin(cpu)?;
    network::has_descriptors_for(1)?;
    let plane = OfiPlane::open(to.at, false, config(&to.provider, size, options)?)?;
    let mut memory = Plane::memory(memory_bytes(&role))?;
    let page = memory.page().to_string();
    let bump = Plane::arena(&mut memory);
    let station = open(&plane, &bump, &role)?;
    network::has_descriptors_for(CONNECTION_FILES)?;
    let server = connect(&plane, &station, to)?;
    // Until the plain connection is there, that of the plane says whether the other end lives.
    plane.connection_to(server)?.map_or(Ok(()), |line| station.floor.set(line))?;
    let (measured, station) =
        network::with_peer(station, (server, to.at.ip()), (options, page), measure)?;
    see_off(&plane, &station);
    Ok(measured)
}

/// What was said last is on its way only as long as this end turns. The other one ends when it has heard it.
fn see_off(plane: &OfiPlane, station: &End<'_>) {
    let since = Instant::now();
    while since.elapsed() < FAREWELL && station.endpoint.poll_event().is_none() {
        attend(plane, station);
    }
}

fn connect(plane: &OfiPlane, station: &End<'_>, to: &Meet) -> Result<Addr, Failure> {
    let Meet { provider, at } = to;
    let port = station.endpoint.provider();
    let called = plane.call(port, (&Name::new(SERVER)?, *at), PATIENCE);
    let server = called.map_err(|e| format!("ofi://{provider}/{at}: {e}"))?;
    network::reach(station, &format!("ofi://{provider}/{at}"), || {
        let is_there = port.reach(server)?;
        if !is_there {
            attend(plane, station);
        }
        Ok(is_there)
    })?;
    Ok(server)
}
