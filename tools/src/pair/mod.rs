//! The two ends of a measurement.
//!
//! ```text
//!   client (this process)                                server (a second process)
//!     order: Floor, Echo, CopyOut, Drain  ------------->   does its half of it        (or EchoLoans, DrainLoans, EchoWrites, TakeWrites)
//!     its own half, with timestamps       <------------>
//!     order: Bye                          ------------->   ends
//! ```
//!
//! Both ends are processes of their own, pinned, in one domain that the server makes. Floors are measured by the same two
//! processes on the same two CPUs, in the memory of a lane that nobody else uses, in turn with the measurements proper. Over TCP the
//! server listens instead (`network`), and the floor is a plain socket beside the measured one; so it is on RDMA devices (`verbs`, for queues of mlx5 devices too)
//! and over libfabric (`ofi`). Over UDP (`datagrams`), and by datagrams of RDMA devices (`ud`), orders and messages
//! have numbers, and what is lost is sent again or counted (`lossy`).

pub(crate) mod client;
mod datagrams;
mod ending;
#[cfg(feature = "libfabric")]
pub(crate) mod fabric;
pub(crate) mod floor;
pub(crate) mod laps;
pub(crate) mod limit;
pub(crate) mod loans;
pub(crate) mod lossy;
mod network;
#[cfg(feature = "libfabric")]
mod ofi;
pub(crate) mod one_sided;
pub(crate) mod options;
pub(crate) mod order;
pub(crate) mod server;
mod silence;
pub(crate) mod sources;
pub(crate) mod station;
#[cfg(feature = "verbs")]
mod ud;
#[cfg(feature = "verbs")]
mod verbs;
