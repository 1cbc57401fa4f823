//! Devices: which there are, and what they and their ports can do.

use core::fmt;
use std::rc::Rc;

use rdma_sys as sys;

use super::attributes::Bounds;
use super::error::VerbsError;
use super::gid::{self, Gid, GidEntry};
use crate::raw::verbs::{Context, Devices};

/// A port's largest packet, without headers.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[repr(u8)]
#[expect(missing_docs, reason = "bytes")]
pub enum Mtu {
    B256 = 1,
    B512 = 2,
    B1024 = 3,
    B2048 = 4,
    B4096 = 5,
}

impl Mtu {
    /// By the number of `enum ibv_mtu`.
    #[must_use]
    pub const fn from_code(code: u32) -> Option<Self> {
        Some(match code {
            1 => Self::B256,
            2 => Self::B512,
            3 => Self::B1024,
            4 => Self::B2048,
            5 => Self::B4096,
            _ => return None,
        })
    }

    /// Its number in `enum ibv_mtu`.
    #[must_use]
    pub const fn code(self) -> u8 {
        match self {
            Self::B256 => 1,
            Self::B512 => 2,
            Self::B1024 => 3,
            Self::B2048 => 4,
            Self::B4096 => 5,
        }
    }

    /// In bytes.
    #[must_use]
    pub const fn bytes(self) -> u32 {
        128 << self.code()
    }
}

impl fmt::Display for Mtu {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.bytes().fmt(f)
    }
}

/// What a port is connected to.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum LinkLayer {
    /// InfiniBand: peers are found by LID.
    Infiniband,
    /// Ethernet: RoCE. Peers are found by GID.
    Ethernet,
    /// The device does not say.
    Unspecified,
}

/// Whether a port carries anything.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum PortState {
    /// No link.
    Down,
    /// There is a link, and it is being set up.
    Init,
    /// Set up, not yet enabled.
    Armed,
    /// It does.
    Active,
    /// It did, and the link is gone for the moment.
    ActiveDefer,
    /// The device does not know.
    Unknown,
}

impl fmt::Display for PortState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Down => "down",
            Self::Init => "init",
            Self::Armed => "armed",
            Self::Active => "active",
            Self::ActiveDefer => "active, link lost",
            Self::Unknown => "unknown",
        })
    }
}

/// A port.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PortInfo {
    /// Its number, from 1.
    pub port: u8,
    /// Whether it carries anything.
    pub state: PortState,
    /// What it is connected to.
    pub link: LinkLayer,
    /// Its local id; 0 on Ethernet.
    pub lid: u16,
    /// Packets that it carries now.
    pub mtu: Option<Mtu>,
    /// Bytes of its longest message.
    pub message_bytes_max: u32,
    /// Its addresses, without empty entries.
    pub gids: Vec<GidEntry>,
}

/// What a device can do (`ibv_query_device(3)`).
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct DeviceInfo {
    /// As in `/sys/class/infiniband`.
    pub name: String,
    /// Its maker, as PCI numbers it; 0xFFFFFF is Soft-RoCE.
    pub vendor_id: u32,
    /// Queue pairs, at most.
    pub pairs_max: u32,
    /// Work requests of one queue, at most.
    pub depth_max: u32,
    /// Segments of a work request, at most.
    pub sge_max: u32,
    /// Entries of a completion queue, at most.
    pub completions_max: u32,
    /// Registrations, at most.
    pub regions_max: u32,
    /// Reads and atomics that a queue pair answers at a time, at most.
    pub reads_max: u8,
    /// Whether it has atomics.
    pub atomics: bool,
    /// Whether it has shared receive queues.
    pub shared_receives: bool,
    /// Its ports.
    pub ports: Vec<PortInfo>,
}

/// All devices, with what they can do. Opens each for a moment.
///
/// # Errors
/// [`VerbsError::NoDevices`], or what the library says.
pub fn devices() -> Result<Vec<DeviceInfo>, VerbsError> {
    let list = list()?;
    if list.count() == 0 {
        return Err(VerbsError::NoDevices);
    }
    (0..list.count()).map(|index| open(&list, index)?.info()).collect()
}

/// The names of those that are as asked.
#[cfg(feature = "mlx5")]
pub(crate) fn devices_that(
    are: fn(core::ptr::NonNull<sys::ibv_device>) -> bool,
) -> Result<Vec<String>, VerbsError> {
    let list = list()?;
    let such = (0..list.count()).filter(|index| list.device(*index).is_ok_and(are));
    such.map(|index| list.name(index).map_err(|e| VerbsError::os("ibv_get_device_name", e)))
        .collect()
}

fn list() -> Result<Devices, VerbsError> {
    Devices::list().map_err(|e| match e.number() {
        // A kernel without RDMA, or without its drivers.
        libc::ENOSYS => VerbsError::NoDevices,
        _ => VerbsError::os("ibv_get_device_list", e),
    })
}

fn open(list: &Devices, index: usize) -> Result<Device, VerbsError> {
    let name = list.name(index).map_err(|e| VerbsError::os("ibv_get_device_name", e))?;
    let context = list.open(index).map_err(|e| VerbsError::os("ibv_open_device", e))?;
    Ok(Device { context, name })
}

/// An open device.
#[derive(Clone, Debug)]
pub struct Device {
    context: Rc<Context>,
    name: String,
}

impl Device {
    /// Opens the device of that name.
    ///
    /// # Errors
    /// [`VerbsError::NoDevices`], [`VerbsError::UnknownDevice`], or what the library says.
    pub fn open(name: &str) -> Result<Self, VerbsError> {
        let list = list()?;
        let mut have = Vec::new();
        for index in 0..list.count() {
            let found = list.name(index).map_err(|e| VerbsError::os("ibv_get_device_name", e))?;
            if found == name {
                return open(&list, index);
            }
            have.push(found);
        }
        if have.is_empty() {
            return Err(VerbsError::NoDevices);
        }
        Err(VerbsError::UnknownDevice { name: name.to_owned(), have })
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    pub(crate) const fn context(&self) -> &Rc<Context> {
        &self.context
    }

    pub(super) fn attributes(&self) -> Result<sys::ibv_device_attr, VerbsError> {
        self.context.device_attributes().map_err(|e| VerbsError::os("ibv_query_device", e))
    }

    /// What it can do.
    ///
    /// # Errors
    /// What the library says.
    pub fn info(&self) -> Result<DeviceInfo, VerbsError> {
        let has = self.attributes()?;
        let ports =
            (1..=has.phys_port_cnt).map(|port| self.port(port)).collect::<Result<_, _>>()?;
        Ok(DeviceInfo {
            name: self.name.clone(),
            vendor_id: has.vendor_id,
            pairs_max: count(has.max_qp),
            depth_max: count(has.max_qp_wr),
            sge_max: count(has.max_sge),
            completions_max: count(has.max_cqe),
            regions_max: count(has.max_mr),
            reads_max: u8::try_from(has.max_qp_rd_atom).unwrap_or(u8::MAX),
            atomics: has.atomic_cap != 0,
            shared_receives: has.max_srq > 0,
            ports,
        })
    }

    /// What one of its ports can do.
    ///
    /// # Errors
    /// [`VerbsError::UnknownPort`], or what the library says.
    pub fn port(&self, port: u8) -> Result<PortInfo, VerbsError> {
        let has = self.port_attributes(port)?;
        let link = match has.link_layer {
            1 => LinkLayer::Infiniband,
            2 => LinkLayer::Ethernet,
            _ => LinkLayer::Unspecified,
        };
        Ok(PortInfo {
            port,
            state: match has.state {
                1 => PortState::Down,
                2 => PortState::Init,
                3 => PortState::Armed,
                4 => PortState::Active,
                5 => PortState::ActiveDefer,
                _ => PortState::Unknown,
            },
            link,
            lid: has.lid,
            mtu: Mtu::from_code(has.active_mtu),
            message_bytes_max: has.max_msg_sz,
            gids: self.gids(port, &has).collect(),
        })
    }

    pub(super) fn port_attributes(&self, port: u8) -> Result<sys::ibv_port_attr, VerbsError> {
        let count = self.attributes()?.phys_port_cnt;
        if port == 0 || port > count {
            return Err(VerbsError::UnknownPort { port, count });
        }
        self.context.port_attributes(port).map_err(|e| VerbsError::os("ibv_query_port", e))
    }

    /// What a port takes.
    pub(super) fn bounds(&self, port: u8) -> Result<Bounds, VerbsError> {
        Ok(Bounds::of(&self.attributes()?, &self.port_attributes(port)?))
    }

    /// The addresses of a port, without empty entries: a system call for each of up to 255.
    fn gids(&self, port: u8, has: &sys::ibv_port_attr) -> impl Iterator<Item = GidEntry> {
        let is_ethernet = has.link_layer == 2;
        let most = u8::try_from(has.gid_tbl_len).unwrap_or(u8::MAX);
        (0..most).filter_map(move |index| self.gid_at((port, index), is_ethernet))
    }

    fn gid_at(&self, (port, index): (u8, u8), is_ethernet: bool) -> Option<GidEntry> {
        // Empty entries of RoCE are errors to some drivers.
        let gid = Gid::from_bytes(self.context.gid(port, index).ok()?);
        let kind = || gid::kind_of(&self.name, port, index, is_ethernet);
        (!gid.is_zero()).then(|| GidEntry { index, gid, kind: kind() })
    }

    /// The address that connections of a port begin at: that of `index`, or the best of them, which is RoCE v2 over IPv4 where there is that.
    /// To find the best takes a system call for each entry: who makes many queue pairs asks once, and names it from then on.
    ///
    /// # Errors
    /// [`VerbsError::NoGid`], and those of [`Device::port`].
    pub fn gid(&self, port: u8, index: Option<u8>) -> Result<GidEntry, VerbsError> {
        let has = self.port_attributes(port)?;
        let found = match index {
            Some(index) => self.gid_at((port, index), has.link_layer == 2),
            None => gid::best(&self.gids(port, &has).collect::<Vec<_>>()),
        };
        found.ok_or_else(|| VerbsError::NoGid {
            device: self.name.clone(),
            port,
            wanted: index.map_or_else(|| "RoCE".to_owned(), |index| format!("GID {index} for an")),
        })
    }
}

fn count(number: i32) -> u32 {
    u32::try_from(number).unwrap_or(0)
}
