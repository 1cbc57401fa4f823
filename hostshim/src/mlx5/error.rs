//! Why a device or a queue of it cannot be had.

use core::fmt;

use spinwire_dataplane::cq::CqError;
use spinwire_dataplane::wqe::BadQueue;

use crate::error::Errno;
use crate::mem::MapError;

/// Why there is no device, or no queue of one.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum Mlx5Error {
    /// This build is not linked with libmlx5.
    NotBuilt,
    /// The machine has no RDMA device.
    NoDevice,
    /// None of its devices is one of mlx5, or none has that name.
    NotOne {
        /// The name that was asked for.
        wanted: Option<String>,
        /// The devices that there are; those of mlx5 are marked.
        found: Vec<(String, bool)>,
    },
    /// A function of the libraries refused.
    Refused {
        /// The function.
        call: &'static str,
        /// Why, as it says.
        errno: Errno,
    },
    /// The port is not up.
    PortDown {
        /// Device and port.
        device: String,
        /// Its number.
        port: u8,
    },
    /// What the libraries hand out cannot be used by this version.
    Memory {
        /// The field of `mlx5dv_qp` or `mlx5dv_cq`.
        field: &'static str,
        /// What it says.
        value: u64,
    },
    /// The queue was handed out before: its memory has one owner.
    Taken,
    /// All queue pairs together could have more completions than their queue has entries, and the device would overrun it.
    Entries {
        /// Work requests and receives of all of them, this one included, as the library made their queues.
        needed: u32,
        /// Entries of the completion queue.
        entries: u32,
    },
    /// A queue pair was to be connected before its completion queue was built.
    NoCompletions,
    /// No memory to register.
    Map(MapError),
    /// The send or receive queue.
    Queue(BadQueue),
    /// The completion queue.
    Completion(CqError),
}

/// How this is built with it.
const BUILD: &str =
    "sudo apt-get install libibverbs-dev && cargo build --release -p spinwire --features mlx5";

impl Mlx5Error {
    /// The command that mends it, where there is one.
    #[must_use]
    pub const fn remedy(&self) -> Option<&'static str> {
        match self {
            Self::NotBuilt => Some(BUILD),
            Self::NoDevice => Some("sudo modprobe mlx5_ib"),
            Self::NotOne { .. }
            | Self::Refused { .. }
            | Self::PortDown { .. }
            | Self::Memory { .. }
            | Self::Taken
            | Self::Entries { .. }
            | Self::NoCompletions
            | Self::Map(_)
            | Self::Queue(_)
            | Self::Completion(_) => None,
        }
    }
}

impl fmt::Display for Mlx5Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotBuilt => write!(f, "this build has no mlx5; remedy: {BUILD}"),
            Self::NoDevice => f.write_str(
                "no RDMA device; remedy: ls /sys/class/infiniband; sudo modprobe mlx5_ib where there is a ConnectX or BlueField, or use --provider shm or tcp",
            ),
            Self::NotOne { wanted, found } => {
                match wanted {
                    Some(name) => write!(f, "no mlx5 device {name}; there are:")?,
                    None => f.write_str("no mlx5 device; there are:")?,
                }
                for (name, is_mlx5) in found {
                    write!(f, " {name}{}", if *is_mlx5 { "" } else { " (of another maker)" })?;
                }
                f.write_str("; remedy: name one of mlx5, or use --provider shm or tcp")
            }
            Self::Refused { call, errno } => {
                write!(f, "{call}: {errno}")?;
                errno.remedy().map_or(Ok(()), |remedy| write!(f, "; remedy: {remedy}"))
            }
            Self::PortDown { device, port } => write!(
                f,
                "port {port} of {device} is not up; remedy: ibv_devinfo -d {device}; sudo ip link set INTERFACE up"
            ),
            Self::Memory { field, value } => write!(
                f,
                "libmlx5 says {field} = {value:#x}, which this version cannot use; remedy: report it with the version of rdma-core"
            ),
            Self::Taken => f.write_str("that queue was handed out before; open another"),
            Self::Entries { needed, entries } => write!(
                f,
                "sends and receives of all queue pairs ({needed}) <= entries of their completion queue ({entries}); remedy: open it with {needed}"
            ),
            Self::NoCompletions => f.write_str(
                "a queue pair is connected after its completion queue was built; remedy: Completions::build first",
            ),
            Self::Map(e) => e.fmt(f),
            Self::Queue(e) => e.fmt(f),
            Self::Completion(e) => e.fmt(f),
        }
    }
}

impl core::error::Error for Mlx5Error {}

impl From<MapError> for Mlx5Error {
    fn from(value: MapError) -> Self {
        Self::Map(value)
    }
}

impl From<BadQueue> for Mlx5Error {
    fn from(value: BadQueue) -> Self {
        Self::Queue(value)
    }
}

impl From<CqError> for Mlx5Error {
    fn from(value: CqError) -> Self {
        Self::Completion(value)
    }
}
