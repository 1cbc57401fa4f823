//! `spinwire devices`: the RDMA devices of this machine, and what they can do.

use clap::Args as ClapArgs;

/// What `spinwire devices` takes.
#[derive(Debug, ClapArgs)]
#[command(
    after_help = "Exit codes: 0 there are some, 1 there is none, 2 it could not be found out. \
Needs a build with libibverbs: cargo build --release --features verbs \
(Debian: apt-get install libibverbs-dev librdmacm-dev libclang-dev)."
)]
pub(crate) struct Args {
    /// Print JSON: a list of devices with their ports and addresses.
    #[arg(long)]
    json: bool,
}

/// Lists them.
#[cfg(not(feature = "verbs"))]
pub(crate) fn run(args: &Args) -> Result<crate::report::Verdict, crate::report::Failure> {
    let _in_other_builds = args.json;
    Err("this build knows no RDMA; remedy: cargo run --release --features verbs -- devices \
         (Debian: apt-get install libibverbs-dev librdmacm-dev libclang-dev)"
        .into())
}

#[cfg(feature = "verbs")]
pub(crate) use with_verbs::run;

#[cfg(feature = "verbs")]
mod with_verbs {
    use serde::Serialize;
    use spinwire_hostshim::verbs::{
        DeviceInfo, GidEntry, LinkLayer, PortInfo, PortState, VerbsError, devices,
    };

    use super::Args;
    use crate::report::{self, Failure, Verdict};

    #[derive(Serialize)]
    struct Device<'a> {
        name: &'a str,
        vendor_id: u32,
        queue_pairs_max: u32,
        depth_max: u32,
        sge_max: u32,
        completions_max: u32,
        regions_max: u32,
        reads_max: u8,
        atomics: bool,
        shared_receives: bool,
        ports: Vec<Port>,
    }

    #[derive(Serialize)]
    struct Port {
        port: u8,
        state: String,
        link: &'static str,
        lid: u16,
        mtu_bytes: Option<u32>,
        message_bytes_max: u32,
        gids: Vec<Address>,
    }

    #[derive(Serialize)]
    struct Address {
        index: u8,
        gid: String,
        kind: String,
    }

    const fn link(port: &PortInfo) -> &'static str {
        match port.link {
            LinkLayer::Infiniband => "infiniband",
            LinkLayer::Ethernet => "ethernet",
            LinkLayer::Unspecified => "unspecified",
        }
    }

    fn address(entry: &GidEntry) -> Address {
        Address { index: entry.index, gid: entry.gid.to_string(), kind: entry.kind.to_string() }
    }

    fn as_json(device: &DeviceInfo) -> Device<'_> {
        let port = |port: &PortInfo| Port {
            port: port.port,
            state: port.state.to_string(),
            link: link(port),
            lid: port.lid,
            mtu_bytes: port.mtu.map(spinwire_hostshim::verbs::Mtu::bytes),
            message_bytes_max: port.message_bytes_max,
            gids: port.gids.iter().map(address).collect(),
        };
        Device {
            name: &device.name,
            vendor_id: device.vendor_id,
            queue_pairs_max: device.pairs_max,
            depth_max: device.depth_max,
            sge_max: device.sge_max,
            completions_max: device.completions_max,
            regions_max: device.regions_max,
            reads_max: device.reads_max,
            atomics: device.atomics,
            shared_receives: device.shared_receives,
            ports: device.ports.iter().map(port).collect(),
        }
    }

    /// Lists them.
    pub(crate) fn run(args: &Args) -> Result<Verdict, Failure> {
        let found = match devices() {
            Ok(found) => found,
            Err(VerbsError::NoDevices) if args.json => Vec::new(),
            Err(none @ VerbsError::NoDevices) => {
                report::emit(&format!("{none}\n"))?;
                return Ok(Verdict::NotWell);
            }
            Err(e) => return Err(e.to_string().into()),
        };
        if args.json {
            let list: Vec<Device<'_>> = found.iter().map(as_json).collect();
            report::emit(&format!("{}\n", serde_json::to_string_pretty(&list)?))?;
        } else {
            report::emit(&found.iter().map(in_words).collect::<String>())?;
        }
        let active = |port: &PortInfo| port.state == PortState::Active;
        let is_well = found.iter().any(|device| device.ports.iter().any(active));
        Ok(if is_well { Verdict::Well } else { Verdict::NotWell })
    }

    fn in_words(device: &DeviceInfo) -> String {
        let able = [(device.atomics, "atomics"), (device.shared_receives, "shared receives")];
        let able: Vec<&str> = able.iter().filter(|(has, _)| *has).map(|(_, name)| *name).collect();
        let mut text = format!(
            "{}  vendor {:#x}; up to {} queue pairs, {} requests each, {} segments, {} completions; {}\n",
            device.name,
            device.vendor_id,
            device.pairs_max,
            device.depth_max,
            device.sge_max,
            device.completions_max,
            able.join(", "),
        );
        for port in &device.ports {
            let mtu = port.mtu.map_or_else(|| "?".to_owned(), |mtu| mtu.to_string());
            text += &format!(
                "  port {}  {}, {}, packets of {mtu} bytes, messages up to {} bytes\n",
                port.port,
                port.state,
                link(port),
                port.message_bytes_max,
            );
            for entry in &port.gids {
                text += &format!("    GID {:3}  {}  {}\n", entry.index, entry.kind, entry.gid);
            }
        }
        text
    }
}
