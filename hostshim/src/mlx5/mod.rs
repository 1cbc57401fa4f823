//! mlx5 devices (ConnectX, BlueField): opened through libibverbs, with the memory of their queues handed to the data plane, which then
//! reads and writes it without any library (`mlx5dv_init_obj`).
//!
//! **Unverified on hardware.** It was run against a stand-in for the libraries, whose structures are compared with rdma-core's headers.
//!
//! ```text
//!   Mlx5::open ── port, address
//!     ├── register(memory)      ──> Region                   lives as long as the device
//!     └── completions(entries)  ──> Completions ── build() ──> Cq                            before any connect
//!           └── queue_pair(..)  ──> QueuePair ── address() ──> to the other end, by any way
//!                                             ── connect(peer): init, ready to receive, ready to send
//!                                             ── build(bump) ──> Rc<Qp>                     over RoCE it knows its route, where it is connected
//! ```
//!
//! With `provider::mlx5::{Pair, Completions}` around both they are queues as verbs have them, for ports and virtual queue pairs.
//!
//! Everything here is set-up. The libraries are linked where the feature `mlx5` is on; without it [`Library::linked`] says how to build
//! it, and everything else compiles and is tested all the same.

pub mod dv;
mod error;
mod queue;

use core::cell::RefCell;
use core::fmt;
use core::str::FromStr;
use std::rc::Rc;

use spinwire_dataplane::raw::region::Region;

use crate::gid::{self, Gid, GidEntry};
use crate::mem::Mapping;
pub use crate::raw::mlx5::Library;
use crate::raw::mlx5::{Context, Devices, Mr, Pd};
pub use error::Mlx5Error;
pub use queue::{Completions, QueuePair, QueuePairConfig};

/// Which device, and which port of it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Mlx5Config {
    /// Name of the device; `None` for the first one of mlx5.
    pub device: Option<String>,
    /// Number of the port, from 1.
    pub port: u8,
    /// Which of the port's addresses (`show_gids`, /sys/class/infiniband/DEVICE/ports/PORT/gids); the best one where `None`: RoCE v2 before anything
    /// else, of those an IPv4 one, then one that is good beyond its link.
    pub gid_index: Option<u8>,
}

impl Default for Mlx5Config {
    fn default() -> Self {
        Self { device: None, port: 1, gid_index: None }
    }
}

/// What the other side, and the device, may do with registered memory. The device may always write to it.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct MemoryAccess {
    /// The other end may write to it.
    pub remote_write: bool,
    /// The other end may read it.
    pub remote_read: bool,
    /// The other end may change it by atomics.
    pub remote_atomic: bool,
    /// What the device writes may arrive in another order than it was sent in: faster, and only for who looks at completions, not
    /// at memory.
    pub relaxed_ordering: bool,
}

impl MemoryAccess {
    /// The bits for the library.
    #[must_use]
    pub const fn bits(self) -> u32 {
        let mut bits = dv::IBV_ACCESS_LOCAL_WRITE;
        if self.remote_write {
            bits |= dv::IBV_ACCESS_REMOTE_WRITE;
        }
        if self.remote_read {
            bits |= dv::IBV_ACCESS_REMOTE_READ;
        }
        if self.remote_atomic {
            bits |= dv::IBV_ACCESS_REMOTE_ATOMIC;
        }
        if self.relaxed_ordering {
            bits |= dv::IBV_ACCESS_RELAXED_ORDERING;
        }
        bits
    }
}

/// Where a queue pair is, for the other end. As text: `qpn:psn:lid:gid:mtu`, in hexadecimal numbers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PeerAddress {
    /// Number of the queue pair.
    pub qpn: u32,
    /// Number of the first packet that it sends, 24 bits.
    pub psn: u32,
    /// Local address of the port; 0 over RoCE.
    pub lid: u16,
    /// Global address of the port.
    pub gid: [u8; 16],
    /// Largest packets of the port: the number of `enum ibv_mtu`, 1 to 5.
    pub mtu: u8,
}

impl fmt::Display for PeerAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let gid = u128::from_be_bytes(self.gid);
        write!(f, "{:06x}:{:06x}:{:04x}:{gid:032x}:{:x}", self.qpn, self.psn, self.lid, self.mtu)
    }
}

/// A text is no [`PeerAddress`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct NotAnAddress;

impl fmt::Display for NotAnAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("not the address of a queue pair: give QPN:PSN:LID:GID:MTU in hexadecimal, as the other end prints it")
    }
}

impl core::error::Error for NotAnAddress {}

impl FromStr for PeerAddress {
    type Err = NotAnAddress;

    fn from_str(text: &str) -> Result<Self, NotAnAddress> {
        let parts: Vec<&str> = text.trim().split(':').collect();
        let [qpn, psn, lid, gid, mtu] = parts.as_slice() else {
            return Err(NotAnAddress);
        };
        let number = |text: &str| u32::from_str_radix(text, 16).ok().filter(|n| *n < 1 << 24);
        let (Some(qpn), Some(psn)) = (number(qpn), number(psn)) else {
            return Err(NotAnAddress);
        };
        let lid = u16::from_str_radix(lid, 16).map_err(|_bad| NotAnAddress)?;
        let gid = u128::from_str_radix(gid, 16).map_err(|_bad| NotAnAddress)?;
        let mtu = u8::from_str_radix(mtu, 16).ok().filter(|mtu| (1..=5).contains(mtu));
        let mtu = mtu.ok_or(NotAnAddress)?;
        Ok(Self { qpn, psn, lid, gid: gid.to_be_bytes(), mtu })
    }
}

/// What a port is like.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Port {
    /// Its number.
    pub number: u8,
    /// Its local address; 0 over RoCE.
    pub lid: u16,
    /// Its global address.
    pub gid: [u8; 16],
    /// Which of its global addresses that is.
    pub gid_index: u8,
    /// Largest packets: the number of `enum ibv_mtu`.
    pub mtu: u32,
    /// Whether it is one of Ethernet.
    pub is_ethernet: bool,
}

/// An open device.
#[derive(Debug)]
pub struct Mlx5 {
    inner: Rc<Inner>,
}

/// What every queue pair keeps alive: the device, and the regions that WQEs may name.
#[derive(Debug)]
struct Inner {
    // Dropped in this order: regions before their domain.
    regions: RefCell<Vec<Rc<Mr>>>,
    pd: Rc<Pd>,
    device: String,
    port: Port,
}

/// Devices that the libraries see, and whether each is one of mlx5.
///
/// # Errors
/// What the library says.
pub fn devices(library: Library) -> Result<Vec<(String, bool)>, Mlx5Error> {
    Ok(Devices::list(library)?.map_or_else(Vec::new, |devices| devices.names()))
}

impl Mlx5 {
    /// Opens a device and looks at its port.
    ///
    /// # Errors
    /// [`Mlx5Error`], each with its remedy.
    pub fn open(library: Library, config: &Mlx5Config) -> Result<Self, Mlx5Error> {
        let devices = Devices::list(library)?.ok_or(Mlx5Error::NoDevice)?;
        let found = devices.names();
        if found.is_empty() {
            return Err(Mlx5Error::NoDevice);
        }
        let is_it = |(name, is_mlx5): &(String, bool)| {
            *is_mlx5 && config.device.as_ref().is_none_or(|wanted| wanted == name)
        };
        let Some(index) = found.iter().position(is_it) else {
            return Err(Mlx5Error::NotOne { wanted: config.device.clone(), found });
        };
        let device = found.into_iter().nth(index).map(|(name, _)| name).unwrap_or_default();
        let context = devices.open(index)?;
        let attr = context.port(config.port)?;
        if attr.state != dv::IBV_PORT_ACTIVE {
            return Err(Mlx5Error::PortDown { device, port: config.port });
        }
        let is_ethernet = u32::from(attr.link_layer) == dv::IBV_LINK_LAYER_ETHERNET;
        let (gid_index, gid) = match config.gid_index {
            Some(index) => (index, context.gid(config.port, index)?),
            None => best_gid(&context, &device, (config.port, attr.gid_tbl_len), is_ethernet)?,
        };
        let port = Port {
            number: config.port,
            lid: attr.lid,
            gid,
            gid_index,
            mtu: attr.active_mtu,
            is_ethernet,
        };
        let pd = Rc::new(Pd::new(context)?);
        let regions = RefCell::default();
        Ok(Self { inner: Rc::new(Inner { regions, pd, device, port }) })
    }

    /// Name of the device.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.inner.device
    }

    /// Its port.
    #[must_use]
    pub fn port(&self) -> Port {
        self.inner.port
    }

    /// Registers `memory`, which the device keeps until it and all of its queue pairs are gone.
    ///
    /// # Errors
    /// What the library says; locked memory may be limited (`spinwire doctor`).
    pub fn register(
        &self,
        memory: Mapping,
        access: MemoryAccess,
    ) -> Result<RegisteredMemory, Mlx5Error> {
        let mr = Rc::new(Mr::new(&self.inner.pd, memory, access.bits())?);
        self.inner.regions.borrow_mut().push(Rc::clone(&mr));
        Ok(RegisteredMemory { mr })
    }

    /// A completion queue of at least `entries` entries.
    ///
    /// # Errors
    /// What the library says.
    pub fn completions(&self, entries: u32) -> Result<Completions, Mlx5Error> {
        Completions::open(Rc::clone(&self.inner), entries)
    }
}

/// The address that `hostshim::verbs` would take, too: entries that cannot be read are passed over, but for the first.
fn best_gid(
    context: &Context,
    device: &str,
    (port, entries): (u8, i32),
    is_ethernet: bool,
) -> Result<(u8, [u8; 16]), Mlx5Error> {
    let entries = u8::try_from(entries.max(1)).unwrap_or(u8::MAX);
    let entry = |index, bytes| {
        let kind = gid::kind_of(device, port, index, is_ethernet);
        GidEntry { index, gid: Gid::from_bytes(bytes), kind }
    };
    let first = context.gid(port, 0)?;
    let others =
        (1..entries).filter_map(|index| Some(entry(index, context.gid(port, index).ok()?)));
    let table: Vec<_> = core::iter::once(entry(0, first)).chain(others).collect();
    Ok(gid::best(&table).map_or((0, first), |entry| (entry.index, entry.gid.bytes())))
}

/// Registered memory, as lines that the data plane names to the device.
#[derive(Debug)]
pub struct RegisteredMemory {
    mr: Rc<Mr>,
}

impl RegisteredMemory {
    /// As lines, ranges of which WQEs name.
    #[must_use]
    pub fn region(&self) -> Region<'_> {
        self.mr.region()
    }

    /// The key for the other end.
    #[must_use]
    pub fn rkey(&self) -> u32 {
        self.mr.keys().1
    }

    /// Address and bytes, for the other end.
    #[must_use]
    pub fn remote(&self) -> (u64, u64) {
        let (start, bytes) = self.mr.range();
        let word = spinwire_layouts::word::from_usize;
        (word(start.as_ptr().addr()), word(bytes))
    }
}
