//! Why a device cannot be used, and what to do about it.

use core::fmt;

use super::cm::CmNews;
use super::connect::CardError;
use crate::error::{Errno, OsError};
use crate::mem::MapError;
use crate::mlx5::Mlx5Error;

/// What can go wrong while RDMA is set up.
#[derive(Debug)]
pub enum VerbsError {
    /// There is no RDMA device.
    NoDevices,
    /// There is none of that name.
    UnknownDevice {
        /// The name asked for.
        name: String,
        /// Those that there are.
        have: Vec<String>,
    },
    /// The device has no such port.
    UnknownPort {
        /// The port asked for.
        port: u8,
        /// How many there are, from 1 on.
        count: u8,
    },
    /// The port has no address that would do.
    NoGid {
        /// The device.
        device: String,
        /// The port.
        port: u8,
        /// What was looked for.
        wanted: String,
    },
    /// A number that the device cannot have.
    Limit {
        /// Which.
        field: &'static str,
        /// What was asked for.
        asked: u64,
        /// The most.
        most: u64,
    },
    /// Two numbers that do not go together.
    Relation {
        /// What must hold.
        rule: &'static str,
        /// The left side.
        left: u64,
        /// The right side.
        right: u64,
    },
    /// A call that this kind of queue pair does not have, or not in this state.
    WrongKind {
        /// What was asked for.
        call: &'static str,
        /// What has it.
        wants: &'static str,
    },
    /// No memory to register.
    Memory(MapError),
    /// The other end cannot be reached, or does not want to be.
    Unreached {
        /// What was under way.
        step: &'static str,
        /// What came instead.
        why: CmNews,
    },
    /// What the other end said of itself cannot be right.
    Card(CardError),
    /// Its queues cannot be had directly.
    Direct(Box<Mlx5Error>),
    /// The library or the kernel refused.
    Os(OsError),
}

impl VerbsError {
    pub(crate) const fn os(operation: &'static str, errno: Errno) -> Self {
        Self::Os(OsError::new(operation, errno))
    }
}

impl fmt::Display for VerbsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoDevices => f.write_str(
                "no RDMA device; remedy: load the driver of the card, or try Soft-RoCE: \
                 modprobe rdma_rxe && rdma link add rxe0 type rxe netdev eth0",
            ),
            Self::UnknownDevice { name, have } => {
                write!(f, "no RDMA device {name}; there is: {}", have.join(", "))
            }
            Self::UnknownPort { port, count } => {
                write!(f, "no port {port}: the device has ports 1 to {count}")
            }
            Self::NoGid { device, port, wanted } => write!(
                f,
                "port {port} of {device} has no {wanted} address; remedy: give its network interface an IP address, \
                 or name an entry of /sys/class/infiniband/{device}/ports/{port}/gids"
            ),
            Self::Limit { field, asked, most } => {
                write!(f, "{field} {asked}: the device has at most {most}; remedy: ask for less")
            }
            Self::Relation { rule, left, right } => {
                write!(
                    f,
                    "{rule} does not hold: {left} against {right}; remedy: change one of them"
                )
            }
            Self::WrongKind { call, wants } => write!(f, "{call} needs {wants}"),
            Self::Unreached { step, why } => write!(f, "{step}: {why}"),
            Self::Memory(e) => e.fmt(f),
            Self::Card(e) => e.fmt(f),
            Self::Direct(e) => e.fmt(f),
            Self::Os(e) => {
                e.fmt(f)?;
                match (e.operation(), e.errno().number()) {
                    ("ibv_reg_mr", libc::ENOMEM) => f.write_str(
                        ": too little memory may be locked (ulimit -l), or the device has no room for another registration",
                    ),
                    ("rdma_create_event_channel", libc::ENODEV | libc::ENOENT) => f.write_str(
                        ": connections by address need the module rdma_ucm; remedy: modprobe rdma_ucm",
                    ),
                    ("ibv_reg_mr", libc::EOPNOTSUPP | libc::EINVAL) => f.write_str(
                        ": the device does not know such access; remedy: without on_demand, or without relaxed_ordering",
                    ),
                    ("ibv_open_device", libc::EACCES | libc::EPERM) => {
                        f.write_str(": /dev/infiniband/uverbs* must be readable and writable")
                    }
                    _ => Ok(()),
                }
            }
        }
    }
}

impl core::error::Error for VerbsError {
    fn source(&self) -> Option<&(dyn core::error::Error + 'static)> {
        match self {
            Self::Memory(e) => Some(e),
            Self::Card(e) => Some(e),
            Self::Direct(e) => e.source(),
            Self::Os(e) => Some(e),
            Self::NoDevices
            | Self::UnknownDevice { .. }
            | Self::UnknownPort { .. }
            | Self::NoGid { .. }
            | Self::Limit { .. }
            | Self::Relation { .. }
            | Self::Unreached { .. }
            | Self::WrongKind { .. } => None,
        }
    }
}

impl From<CardError> for VerbsError {
    fn from(e: CardError) -> Self {
        Self::Card(e)
    }
}

impl From<Mlx5Error> for VerbsError {
    fn from(e: Mlx5Error) -> Self {
        Self::Direct(Box::new(e))
    }
}

/// Whether a number is one that the device can have.
pub(super) fn within(field: &'static str, asked: u32, most: u32) -> Result<(), VerbsError> {
    if asked <= most {
        return Ok(());
    }
    Err(VerbsError::Limit { field, asked: asked.into(), most: most.into() })
}
