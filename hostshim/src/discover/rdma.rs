//! RDMA devices, by what `/sys` says of them. Those that are ready are asked whether they have atomics. A device of mlx5 is found twice: over
//! libibverbs, and over its queues. Both have the same capabilities, and a negotiation prefers the first, as the second was never run on hardware.

use spinwire_dataplane::provider::rdma::{RdmaConfig, RdmaDatagramsConfig};
use spinwire_dataplane::provider::{Caps, EndpointType, Info};

use super::{Absence, Found, Hints, Transport};

/// Where the kernel lists them.
const CLASS: &str = "sys/class/infiniband";

/// A port of a device.
struct Port {
    /// `rxe0/1`.
    name: String,
    device: String,
    /// `ACTIVE`, `DOWN`, ..
    state: String,
    is_mlx5: bool,
}

/// Every port of every device.
fn ports(hints: &Hints) -> Vec<Port> {
    let ports_of = |device: String| {
        let driver = hints.text(format!("{CLASS}/{device}/device/uevent")).unwrap_or_default();
        let is_mlx5 = driver.lines().any(|line| line == "DRIVER=mlx5_core");
        let numbers = hints.names(&format!("{CLASS}/{device}/ports")).into_iter();
        let each = numbers.map(move |number| {
            // `4: ACTIVE`
            let state = hints.text(format!("{CLASS}/{device}/ports/{number}/state"));
            let state = state.unwrap_or_default();
            let state = state.split_once(':').map_or(state.as_str(), |(_number, word)| word);
            let state = state.trim().to_owned();
            Port { name: format!("{device}/{number}"), device: device.clone(), state, is_mlx5 }
        });
        each.collect::<Vec<_>>()
    };
    hints.names(CLASS).into_iter().flat_map(ports_of).collect()
}

/// Whether a device has atomics, which `/sys` does not tell: it is opened and asked. Of one that is not this machine's, none are promised.
#[cfg(feature = "verbs")]
fn has_atomics(device: &str, hints: &Hints) -> bool {
    let is_here = hints.root == std::path::Path::new("/");
    let all = if is_here { crate::verbs::devices().unwrap_or_default() } else { Vec::new() };
    all.iter().any(|known| known.name == device && known.atomics)
}

#[cfg(not(feature = "verbs"))]
const fn has_atomics(_device: &str, _hints: &Hints) -> bool {
    false
}

/// What there is of `transport`: verbs or mlx5.
pub(super) fn found(transport: Transport, hints: &Hints) -> Vec<Found> {
    let direct = transport == Transport::Mlx5;
    let ports: Vec<Port> = ports(hints).into_iter().filter(|p| p.is_mlx5 || !direct).collect();
    if ports.is_empty() {
        let why = if direct {
            Absence::beyond_remedy("no device of the mlx5 driver (ConnectX)")
        } else {
            Absence::new(
                "no RDMA device",
                "sudo modprobe rdma_rxe && sudo rdma link add rxe0 type rxe netdev eth0 # Soft-RoCE over a network card",
            )
        };
        return vec![Found::absent(transport, None, why)];
    }
    ports.into_iter().flat_map(|port| of_port(transport, port, hints)).collect()
}

fn of_port(transport: Transport, port: Port, hints: &Hints) -> Vec<Found> {
    let direct = transport == Transport::Mlx5;
    let absent = |why| vec![Found::absent(transport, Some(port.name.clone()), why)];
    let built =
        [(Transport::Verbs, cfg!(feature = "verbs")), (Transport::Mlx5, cfg!(feature = "mlx5"))];
    if !built.contains(&(transport, true)) {
        return absent(Absence::new(
            format!("this build is without {transport}"),
            format!("cargo build --release --features {transport}"),
        ));
    }
    if !hints.names("dev/infiniband").iter().any(|name| name.starts_with("uverbs")) {
        return absent(Absence::new("no /dev/infiniband/uverbs*", "sudo modprobe ib_uverbs"));
    }
    if port.state != "ACTIVE" {
        let interface =
            hints.text(format!("{CLASS}/{}/gid_attrs/ndevs/0", port.name.replace('/', "/ports/")));
        let interface = interface.map_or(port.device, |text| text.trim().to_owned());
        return vec![Found::absent(
            transport,
            Some(port.name),
            Absence::new(
                format!(
                    "the port is {}",
                    if port.state.is_empty() { "silent" } else { &port.state }
                ),
                format!("sudo ip link set {interface} up"),
            ),
        )];
    }
    // Its plane registers the arena, and what peers are let into.
    let mut beside = Caps::RMA.with(Caps::EXPOSE);
    if has_atomics(&port.device, hints) {
        beside = beside.with(Caps::ATOMIC);
    }
    // The queues of mlx5 are read without the library that could arm them.
    let descriptor = !direct;
    let offer = |kind| {
        let info = RdmaConfig { descriptor, ..hints.sizes.rdma() }.info(kind);
        let info = Info { caps: info.caps.with(beside), ..info };
        Found::ready(transport, Some(port.name.clone()), info)
    };
    let [rdm, msg] = [EndpointType::Rdm, EndpointType::Msg].map(offer);
    let datagrams = RdmaDatagramsConfig { descriptor, ..hints.sizes.rdma_datagrams() }.info();
    vec![rdm, msg, Found::ready(transport, Some(port.name.clone()), datagrams)]
}
