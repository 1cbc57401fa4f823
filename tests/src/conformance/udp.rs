//! Rigs of ports over UDP, on the kernel that runs and its loopback interface.
//!
//! A port lives in memory that is never given back: a case may forget it, as a killed process would, and the kernel may be in the middle of
//! a receive.

use std::net::UdpSocket;

use spinwire_dataplane::id::Name;
use spinwire_dataplane::provider::EndpointType;
use spinwire_dataplane::provider::udp::{Route, Routes, UdpConfig, UdpPort};
use spinwire_dataplane::raw::line::Line;
use spinwire_dataplane::raw::place::Bump;
use spinwire_dataplane::time::Nanos;
use spinwire_dataplane::uring::Ring;
use spinwire_hostshim::socket::SocketOptions;
use spinwire_hostshim::udp::{UdpHost, UdpOptions};
use spinwire_hostshim::uring::{Feature, FeatureSet, RingEntry, UringConfig};
use spinwire_layouts::uring::SockAddr;

use super::rig::{Rig, Sizes};

/// Ports that receive by one submission, into provided buffers.
#[derive(Debug)]
pub struct Udp;

/// Ports that receive packet by packet, as on a kernel that can do no better.
#[derive(Debug)]
pub struct UdpOneByOne;

/// What ports share: where they are found.
#[derive(Debug)]
pub struct UdpGround<'m> {
    routes: Routes<'m>,
}

impl UdpGround<'_> {
    /// A route to a socket of somebody else.
    pub fn know(&self, name: Name, socket: &UdpSocket) {
        let address = SockAddr::new(socket.local_addr().unwrap());
        self.routes.add(Route { name, address }).unwrap();
    }

    /// Where a port is found.
    #[must_use]
    pub fn find(&self, name: &Name) -> core::net::SocketAddr {
        SockAddr::read(self.routes.find(name).unwrap().as_bytes()).unwrap()
    }
}

type Port<'m> = UdpPort<'m, RingEntry<'m>>;

fn open<'m>(
    ground: &'m UdpGround<'m>,
    name: &Name,
    (sizes, deny): (&Sizes, FeatureSet),
) -> Result<Port<'m>, String> {
    let port = UdpConfig {
        peers_max: sizes.peers_max,
        age_min: Nanos::new(1),
        send_depth: sizes.send_depth,
        message_bytes_max: usize::try_from(sizes.message_bytes_max).unwrap(),
        recv_buffers: 64,
        multishot: false,
        matching: sizes.matching(),
    };
    let socket = SocketOptions { receive_bytes: Some(1 << 20), ..SocketOptions::default() };
    let ring = UringConfig { entries: 64, completions: 512, deny, ..UringConfig::default() };
    let options = UdpOptions { port, socket, ring };
    let address = "udp://127.0.0.1:0".parse().map_err(|e| format!("{e}"))?;
    let host = UdpHost::open(&address, &options).map_err(|e| e.to_string())?;
    assert_eq!(host.config().multishot, deny == FeatureSet::EMPTY, "{}", host.uring().features());
    let host: &'static UdpHost = Box::leak(Box::new(host));
    let ring: &'static Ring<'static, _> = Box::leak(Box::new(host.uring().ring().unwrap()));
    let route = Route { name: *name, address: SockAddr::new(host.local()) };
    ground.routes.add(route).map_err(|e| e.to_string())?;
    host.port(ring, &ground.routes).map_err(|e| e.to_string())
}

macro_rules! rigs {
    ($($rig:ident: $deny:expr;)+) => {$(
        impl Rig for $rig {
            type Ground<'m> = UdpGround<'m>;
            type Port<'m> = Port<'m>;
            const TYPES: &'static [EndpointType] = &[EndpointType::Dgram];
            const SPILLS: bool = false;

            fn lay<'m>(_lines: &'m [Line], bump: &Bump<'m>, _sizes: &Sizes) -> UdpGround<'m> {
                UdpGround { routes: Routes::place(bump, 64).unwrap() }
            }

            fn open<'m>(
                ground: &'m UdpGround<'m>,
                _bump: &Bump<'m>,
                (name, _dgram): (&Name, EndpointType),
                sizes: &Sizes,
            ) -> Result<Port<'m>, String> {
                open(ground, name, (sizes, $deny))
            }

            fn kill<'m>(ground: &'m UdpGround<'m>, who: &Name) {
                ground.routes.remove(who).unwrap();
            }

            fn leftovers<'m>(_ground: &'m UdpGround<'m>) -> String {
                String::new()
            }
        }
    )+};
}

rigs! {
    Udp: FeatureSet::EMPTY;
    UdpOneByOne: FeatureSet::EMPTY.with(Feature::BufferRings);
}
