//! Both ends on RDMA devices, by datagrams of queue pairs that nobody is connected with (UD).
//!
//! ```text
//!   client                                                   server
//!     device A                                                 device B, listens for TCP
//!     asks for the card   ------------------ TCP ----------->  tells it: number of its queue pair, address
//!     order: OpenFloor { its port, longest message }  ------>  makes an address handle for whom it has heard
//!     ..                                                       as over UDP (`datagrams`)
//! ```

use core::net::{IpAddr, Ipv6Addr, SocketAddr};

use spinwire_dataplane::id::{Addr, Name};
use spinwire_dataplane::msg::matching::MatchingConfig;
use spinwire_dataplane::provider::rdma::RdmaDatagramsConfig;
use spinwire_hostshim::affinity;
use spinwire_hostshim::plane::Plane;
use spinwire_hostshim::verbs::{
    Device, Mtu, Queues, VerbsDatagramPort, VerbsDatagrams, VerbsDatagramsConfig,
};
use spinwire_layouts::wire::datagram::DATAGRAM_HEADER_BYTES;

use super::client::Measure;
use super::datagrams::{DatagramFloor, Finds, meet, role, with_peer};
use super::lossy::obey;
use super::network::say_listening;
use super::options::PairOptions;
use super::server::SERVER;
use super::station::{self, Role, Station};
use super::verbs::Meet;
use crate::report::{Failure, Verdict};

type End<'p, Q> = Station<'p, VerbsDatagramPort<'p, Q>, DatagramFloor>;

/// The longest message: what a packet of the device's port carries.
fn longest(to: &Meet) -> Result<usize, Failure> {
    let mtu = Device::open(&to.device)?.port(to.port)?.mtu.unwrap_or(Mtu::B1024);
    Ok(usize::try_from(mtu.bytes())?.saturating_sub(DATAGRAM_HEADER_BYTES))
}

fn config(longest: usize, port: u8) -> Result<VerbsDatagramsConfig, Failure> {
    let small = RdmaDatagramsConfig::default();
    let port_config = RdmaDatagramsConfig {
        message_bytes_max: u32::try_from(longest)?,
        matching: MatchingConfig { unexpected_bytes_max: longest, ..small.matching },
        ..small
    };
    Ok(VerbsDatagramsConfig {
        port: port_config,
        device_port: port,
        ..VerbsDatagramsConfig::default()
    })
}

/// Bytes of an arena for the port and its station.
fn arena_bytes(config: &VerbsDatagramsConfig, role: &Role) -> usize {
    config.port.arena_bytes().saturating_add(station::arena_bytes(role))
}

impl<'p, Q: Queues> Finds<VerbsDatagramPort<'p, Q>> for VerbsDatagrams<Q> {
    fn attend(&self, port: &VerbsDatagramPort<'p, Q>) -> Result<(), Failure> {
        Ok(self.attend(port)?)
    }

    fn find(
        &self,
        port: &VerbsDatagramPort<'p, Q>,
        sender: Addr,
        name: &Name,
    ) -> Result<Option<SocketAddr>, Failure> {
        let Ok(mailbox) = port.mailbox_of(sender) else { return Ok(None) };
        port.set_route(name, mailbox)?;
        let address = Ipv6Addr::from(mailbox.gid);
        let address = address.to_ipv4_mapped().map_or(IpAddr::V6(address), IpAddr::V4);
        Ok(Some(SocketAddr::new(address, 0)))
    }
}

/// Serves one client on a device.
pub(super) fn serve<Q: Queues>(
    (command, to): (&str, &Meet),
    options: &PairOptions,
) -> Result<Verdict, Failure> {
    let (_, cpu) = options.placement()?;
    let size = longest(to)?;
    let (role, config) = (role(SERVER, size, options)?, config(size, to.port)?);
    affinity::pin(cpu)?;
    let plane = VerbsDatagrams::<Q>::open_with(&to.device, Some(to.at.port()), &config)?;
    let local = plane.local().ok_or("the device does not listen")?;
    to.check::<Q>(local)?;
    let mut memory = Plane::memory(arena_bytes(&config, &role))?;
    let bump = Plane::arena(&mut memory);
    let floor = DatagramFloor::open(local.ip(), options, role.yields)?;
    let station: End<'_, Q> = Station::over(plane.port(&bump)?, floor, &bump, &role)?.that_spins();
    say_listening(command, &format!("{}://{}/{local}", Q::TRANSPORT, to.device), options)?;
    let desk = meet(&station, &plane, size)?;
    obey((&desk, &station), size)
}

/// Runs `measure` on a client that talks to its server by datagrams.
pub(super) fn with_server<Q: Queues, M: Measure>(
    to: &Meet,
    options: &PairOptions,
    measure: M,
) -> Result<M::Result, Failure> {
    let (cpu, _) = options.placement()?;
    let (size, device) = (longest(to)?, &to.device);
    if let Some(long) = options.sizes().into_iter().find(|asked| *asked > size) {
        return Err(format!("--size: {long} is more than a datagram of {device} carries, which is {size}; send less, or leave out --datagrams").into());
    }
    let (role, config) = (role("client", size, options)?, config(size, to.port)?);
    affinity::pin(cpu)?;
    let plane = VerbsDatagrams::<Q>::open_with(device, None, &config)?;
    let mut memory = Plane::memory(arena_bytes(&config, &role))?;
    let bump = Plane::arena(&mut memory);
    let floor = DatagramFloor::open(plane.address(), options, role.yields)?;
    let station: End<'_, Q> = Station::over(plane.port(&bump)?, floor, &bump, &role)?.that_spins();
    let place = format!("{}://{device}/{}", Q::TRANSPORT, to.at);
    let name = Name::new(SERVER)?;
    let asked = plane.introduce(station.endpoint.provider(), &name, to.at);
    asked.map_err(|e| {
        format!("{place}: nobody answers: {e}; is spinwire listening there, with --datagrams?")
    })?;
    let server = station.endpoint.connect(&name)?;
    let page = plane.slots_report().page().to_string();
    with_peer(station, (server, place, to.at.ip()), (options, page), measure)
}
