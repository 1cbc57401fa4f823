//! Opens, maps, pins and watches what the Spinwire data plane polls.
//!
//! The data plane knows memory and nothing else. Everything that needs a file descriptor, a system call or a look at the
//! machine happens here, before the first turn or beside it, and may block, allocate and format text.
//!
//! ```text
//!             tools            the command line
//!               |
//!   +---------- hostshim ---------------------------------------------------+
//!   | discover   which endpoints this machine can open, asked before one is  |
//!   | negotiate  which of them a program gets that asks for capabilities    |
//!   | open       endpoints of any transport, along a plan or at a URI        |
//!   | desk       one operation at a time, with deadlines; futures          |
//!   | domain     segments that processes meet in                            |
//!   | pool       buffers that processes share                               |
//!   | membership what both have in common; the watcher of deaths            |
//!   | plane      arena, clock, stats page and seal of one pinned thread     |
//!   | uring      rings of io_uring: opened by what the kernel can            |
//!   | socket     TCP and UDP sockets, and their addresses                   |
//!   | tcp        ring, listener and sockets of a port that talks over TCP   |
//!   | udp        ports for messages over UDP: udp://host:port               |
//!   | uri        where endpoints are found: shm://market, tcp://host:port  |
//!   | file       files, with direct I/O where there is any                  |
//!   | libfabric  ports over libfabric's providers (feature `libfabric`)     |
//!   | mlx5       queues of ConnectX devices (unverified on hardware)        |
//!   | mem        memory: private arenas, named segments, huge pages         |
//!   | affinity   which CPUs, and pinning to one                             |
//!   | clock      the time-stamp counter, calibrated                         |
//!   | liveness   who is a process, and does it still live                   |
//!   | limits     open files and locked memory                               |
//!   | preflight  is this machine set up for low latency: `spinwire doctor`  |
//!   | verbs      RDMA devices through libibverbs (feature `verbs`)           |
//!   | idle       yield and park: the lower rungs of the idle ladder         |
//!   | alloc_gate proof that a sealed thread allocates nothing               |
//!   | layout     the layout checker, with the feature of that name           |
//!   | raw        the only files with `unsafe` in them                       |
//!   +-----------------------------------------------------------------------+
//!               |
//!           dataplane          loads and stores on mapped memory
//! ```
//!
//! # Example
//!
//! The whole of a set-up, and one turn. Two processes that run this with two names find each other in the domain.
//!
//! ```no_run
//! use spinwire_dataplane::poll::{Budget, Poll};
//! use spinwire_dataplane::provider::EndpointType;
//! use spinwire_dataplane::raw::loan::LoanPool;
//! use spinwire_hostshim::domain::{Domain, DomainConfig};
//! use spinwire_hostshim::plane::{Plane, PlaneConfig, StatsPage};
//!
//! # fn main() -> Result<(), Box<dyn core::error::Error>> {
//! let name = spinwire_dataplane::id::Name::new("quotes")?;
//! let mut memory = Plane::memory(4 << 20)?; // private; huge pages where there are any
//! let bump = Plane::arena(&mut memory); // all tables are placed in it
//! let domain = Domain::create_or_join("market", &DomainConfig::default())?; // shared
//! let page = StatsPage::create(&name)?; // what `spinwire top` reads
//! let plane = Plane::open(&name, &page, &bump, &PlaneConfig::default())?;
//! let buffers = LoanPool::place(&bump, 64, 256)?;
//! let endpoint = domain.open_endpoint(&bump, "quotes", EndpointType::Rdm)?;
//! let _sealed = plane.seal(); // from here on: no allocation, no lock, no system call
//! let now = plane.now();
//! let _busy_or_idle = endpoint.turn(now, Budget::DEFAULT); // in a loop: see `spinwire_dataplane`
//! plane.count(&[endpoint.totals()]);
//! plane.publish(now);
//! # drop(buffers);
//! # Ok(())
//! # }
//! ```
//!
//! # What to know
//!
//! - A domain or a pool starts one thread, which sleeps until a process of the segment ends. It runs no turn. A
//!   turn never waits for it.
//! - Asking for huge pages and getting them are two things. Every mapping says what it got and why not better:
//!   [`mem::PageReport`].
//! - A name in `/dev/shm` (or the folder in `SPINWIRE_SHM_DIR`) stays until [`domain::Domain::unlink`], or `spinwire rm`.
//!
//! [`guide`] is a book in nine chapters: the model, choosing a transport, buffers, completions, polling, datagrams, tuning, and the way from one machine to
//! a cluster.
//!
//! # Errors
//! Each room has its error type; all of them keep what the kernel said (operation, path, number: [`error::OsError`]) and
//! print the remedy.
#![allow(
    clippy::arithmetic_side_effects,
    reason = "runs before the first turn; overflow is checked where a peer has a say"
)]
#![deny(unsafe_code)]

pub mod affinity;
pub mod alloc_gate;
pub mod clock;
pub mod desk;
pub mod discover;
pub mod domain;
pub mod error;
pub mod file;
pub mod gid;
pub mod guide;
pub mod idle;
#[cfg(feature = "layout")]
pub mod layout;
#[cfg(feature = "libfabric")]
pub mod libfabric;
pub mod limits;
pub mod liveness;
pub mod mem;
pub mod membership;
pub mod mlx5;
pub mod negotiate;
pub mod open;
pub mod plane;
pub mod pool;
pub mod preflight;
pub mod socket;
pub mod tcp;
pub mod udp;
pub mod uri;
pub mod uring;
#[cfg(feature = "verbs")]
pub mod verbs;

#[cfg(test)]
mod fake_tree;
#[allow(unsafe_code, reason = "the fenced yard")]
mod raw;
mod secret;

/// The code in `README.md` is compiled with the documentation tests.
#[cfg(doctest)]
#[doc = include_str!("../../README.md")]
mod readme {}
