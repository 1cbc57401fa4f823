//! RDMA devices through libibverbs: opened, asked what they can do, and given memory and queue pairs.
//!
//! ```text
//!   devices() ──> DeviceInfo          what there is: ports, addresses, limits
//!   Device::open
//!     ├─ next_event()                 ports that go down, queue pairs that fail
//!     └─ ProtectionDomain
//!          ├─ register() ── Region    memory that the device may touch; LocalKey, RemoteKey
//!          ├─ CompletionQueue  ◄─┐
//!          ├─ SharedReceives ──┐ │    receives that several pairs take from
//!          └─ Pair ────────────┴─┘    RC or UD; dataplane::verbs::QueuePair
//!               └─ connect            states of ibv_modify_qp(3); cards travel over TCP: `exchange`
//!
//!   CmChannel ── Listener, Link        the same by librdmacm, with a pair of ours: `CmChannel::call`, `CmChannel::answer`
//! ```
//!
//! What is made of something keeps it alive, so a [`Pair`] may outlive the [`Device`] that it was made of. Everything belongs to the thread that
//! opened the device. Set-up allocates and blocks; posting, doorbells and polls do neither.
//!
//! Run on Soft-RoCE (`rdma_rxe`) in a virtual machine. **Unverified on hardware**: there is no RDMA device here.

mod attributes;
mod cm;
mod completion;
mod connect;
mod datagrams;
mod device;
mod error;
mod event;
mod neighbours;
mod pair;
mod parting;
mod plane;
mod queues;
mod region;
mod shared;
mod states;

use crate::gid;
pub use crate::gid::{Gid, GidEntry, GidKind};
pub use crate::raw::verbs::Grants;
pub use attributes::PairAttributes;
pub use cm::{CmChannel, CmEvent, CmNews, Link, LinkId, Listener, PrivateData};
pub use completion::CompletionQueue;
pub use connect::{Card, CardError, ConnectError, exchange};
pub use datagrams::{VerbsDatagramPort, VerbsDatagrams, VerbsDatagramsConfig};
#[cfg(feature = "mlx5")]
pub(crate) use device::devices_that;
pub use device::{Device, DeviceInfo, LinkLayer, Mtu, PortInfo, PortState, devices};
pub use error::VerbsError;
pub use event::{Event, EventKind};
pub use pair::{Pair, PairConfig, PairKind};
pub use plane::{VerbsPlane, VerbsPlaneConfig, VerbsPlaneError, VerbsPort};
#[cfg(feature = "mlx5")]
pub(crate) use queues::Trusted;
pub use queues::{Library, Queues, QueuesConfig};
pub use region::{Access, LocalKey, ProtectionDomain, Region, RemoteKey};
pub use shared::SharedReceives;
/// Queue pairs, registrations and address handles of this process that the library did not end: their memory stays mapped, and what they were lent is given
/// to nobody else.
#[must_use]
pub fn lost() -> u64 {
    crate::raw::verbs::lost()
}

pub use states::{AddressOf, ConnectConfig, PairState, QKEY_DEFAULT};
