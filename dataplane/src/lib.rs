//! The Spinwire data plane: messages between pinned, busy-polled threads, without heap, lock, panic or system call.
//!
//! This crate is `no_std` and knows memory only. It never opens, maps or asks the kernel for anything: `spinwire-hostshim`
//! does that before the first turn. The layouts of shared memory are in `spinwire-layouts`.
//!
//! # The model
//!
//! ```text
//!    your service, one thread on one core
//!      loop { endpoint.turn(now, budget);  while let Some(completion) = endpoint.poll() { .. } }
//!               |  post_send, post_recv, inject            ^  Completion { context, status, loan, .. }
//!               v                                          |
//!    +-----------------------------------------------------------------+
//!    | msg::Endpoint    contexts with generations, owned buffers       |      one thread: `&self`, `Cell`s, `!Sync`
//!    |   provider       shm | loopback | fault<..> | trace<..>         |
//!    |     Matcher      posted receives, unexpected messages, tags     |
//!    +-----------------------------------------------------------------+
//!               |  lanes: one writer, one reader                 ^
//!               v                                                |
//!    +-----------------------------------------------------------------+
//!    | shm::Segment     processes | endpoints | lane table | rings     |      mapped by several processes
//!    +-----------------------------------------------------------------+
//! ```
//!
//! | word | what it is |
//! |---|---|
//! | *segment* | One mapped object that any process of the machine may join ([`shm::Segment`]). It holds who is there, by what names they are found, and the *lanes* between them. |
//! | *endpoint* | What a service holds in its hands ([`msg::Endpoint`]): it posts sends and receives and polls for completions. MSG endpoints have one peer, RDM endpoints any. |
//! | *provider* | Whatever moves the bytes below it ([`provider::Provider`]). A service is generic over it, and is tested over [`provider::loopback`]. |
//! | *loan* | A buffer with exactly one holder ([`raw::loan::Loan`]). A post takes it away, the completion gives it back; in between nobody can read or write it. |
//! | *turn* | One bounded look at everything ([`poll::Poll::turn`]). It takes the time as an argument and never blocks. |
//! | *seal* | The end of set-up (`Plane::seal` in the host shim). From then on a turn allocates nothing, locks nothing and makes no system call, but for the one that wakes a peer that has parked. |
//!
//! Everything is placed at set-up: [`raw::place::Bump`] hands out parts of one block of memory, and every table has a fixed
//! capacity from then on. A table that is full answers with a [`Retry`](error::Retry) that names it; nothing was consumed,
//! and what was handed in comes back in [`Refused`](error::Refused).
//!
//! # Example
//!
//! Two endpoints of one thread, without an operating system. Over shared memory only the two ports differ.
//!
//! ```
//! use core::mem::MaybeUninit;
//! use spinwire_dataplane::id::Name;
//! use spinwire_dataplane::msg::{Endpoint, EndpointConfig, Kind, RecvFrom, SendTo};
//! use spinwire_dataplane::poll::{Budget, Poll};
//! use spinwire_dataplane::provider::EndpointType;
//! use spinwire_dataplane::provider::loopback::{Hub, HubConfig, Port, PortConfig};
//! use spinwire_dataplane::raw::{loan::LoanPool, place::Bump};
//! use spinwire_dataplane::time::Instant;
//!
//! # fn main() -> Result<(), Box<dyn core::error::Error>> {
//! // Set-up: all memory that will ever be used.
//! let mut block = vec![MaybeUninit::uninit(); 4 << 20];
//! let bump = Bump::new(&mut block);
//! let hub = Hub::place(&bump, &HubConfig::default())?;
//! let buffers = LoanPool::place(&bump, 16, 256)?;
//! let open = |name: &str| {
//!     let name = Name::new(name).map_err(|e| e.to_string())?;
//!     let port = Port::open(&hub, &bump, (&name, EndpointType::Rdm), &PortConfig::default());
//!     Endpoint::new(port.map_err(|e| e.to_string())?, &bump, &EndpointConfig::default())
//!         .map_err(|e| e.to_string())
//! };
//! let (quotes, reader) = (open("quotes")?, open("reader")?);
//!
//! // A buffer to receive one message with tag 7; 42 is the reader's own context.
//! let loan = buffers.lend().ok_or("no buffer")?;
//! reader.post_recv(RecvFrom::any().tag(7), loan, 42).map_err(|refused| refused.error)?;
//!
//! // A copy goes out with the next turn; the slice is free at once.
//! let peer = quotes.connect(&Name::new("reader")?)?;
//! quotes.inject(SendTo::peer(peer).tag(7), b"bid 101.25")?;
//!
//! // The loop. A service reads `now` from its clock once a turn.
//! let message = loop {
//!     let now = Instant::from_nanos(0);
//!     let _busy_or_idle = [&quotes, &reader].turn(now, Budget::DEFAULT);
//!     if let Some(completion) = reader.poll() {
//!         break completion;
//!     }
//! };
//! assert_eq!(message.kind, Kind::Received);
//! assert_eq!((message.context, message.tag), (42, Some(7)));
//! assert_eq!(message.bytes(), Some(&b"bid 101.25"[..]));
//! // `message.loan` is the buffer, and goes back to its pool when it is dropped.
//! # Ok(())
//! # }
//! ```
//!
//! # Rooms
//!
//! | room | what is in it |
//! |---|---|
//! | [`msg`] | endpoints and completions; matching of tags |
//! | [`provider`] | the trait of all transports; shared memory, loopback, faults by seed, a trace |
//! | [`shm`] | segments, leases of processes, the directory of endpoints, lanes, reclaim from the dead |
//! | [`pool`] | buffers that processes share: guards, ids, descriptions, reclaim from the dead |
//! | [`chain`] | linked submissions of io_uring: which entry has ended, whose memory is back, where to go on |
//! | [`mod@file`] | reads, writes and syncs over io_uring, one by one or in chains |
//! | [`poll`] | turns, budgets, the idle ladder, counters, histograms, the stats page |
//! | [`services`] | streams and files on one ring |
//! | [`stream`] | byte streams over io_uring, for services of any protocol |
//! | [`uring`] | rings of io_uring: submissions and completions in memory that the kernel maps |
//! | [`verbs`] | queue pairs and completion queues of RDMA devices: the seam below all that speaks RDMA |
//! | [`wqe`] | work queues of mlx5 devices: WQEs built by type, and published by a doorbell |
//! | [`vqp`] | queue pairs and completion queues of several devices that act as one |
//! | [`table`] | slab, lists, ring, bit set, timer wheel: fixed capacity, one thread |
//! | [`cq`] | completion queues of mlx5 devices: whose a completion is, and what it ends |
//! | [`tracker`] | what was posted to a device queue, found again by the numbers that the device brings back |
//! | [`raw`] | the only files with `unsafe`: foreign memory, placement, loans, pause instructions |
//! | [`id`], [`error`], [`time`], [`sync`] | ids with generations; errors by remedy; instants; the one door to atomics |
//!
//! # Rules
//!
//! 1. Only loads and stores live here. A file descriptor, a system call or a C library belongs to the host shim.
//! 2. After the seal a turn allocates nothing, locks nothing, formats nothing, reads no clock, and cannot panic on anything
//!    that a peer, the kernel or the caller gives it.
//! 3. Memory that a peer can write is a bounded slice of atomics ([`raw::line::Line`]). Nothing in it is taken as an index,
//!    a length or a state before it was checked, and nothing is read twice.
//! 4. Every handle carries a generation. A stale or unknown one is counted and reported, never matched.
#![no_std]
#![deny(unsafe_code)]

#[cfg(any(test, loom))]
extern crate std;

pub mod chain;
pub mod cq;
pub mod error;
pub mod file;
pub mod id;
pub mod msg;
pub mod poll;
pub mod pool;
pub mod provider;
#[expect(unsafe_code, reason = "the fenced yard")]
pub mod raw;
pub mod services;
pub mod shm;
pub mod stream;
pub mod sync;
pub mod table;
pub mod time;
pub mod tracker;
pub mod uring;
pub mod verbs;
pub mod vqp;
pub mod wqe;
