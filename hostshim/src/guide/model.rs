//! Chapter 1: what a program sees.
//!
//! A service owns a core. One thread, pinned to it, turns a loop: look whether anything has come, handle it, send what there is to send, once
//! again. It does not sleep, and it is never called back. Everything that it will ever need was built before the first turn.
//!
//! ```text
//!   set-up    discover -> negotiate -> open      may block, allocate, ask the kernel
//!   ------------------------------------------------------------------------------------
//!   the loop  endpoint.turn(now, budget)         bounded; no heap, no lock, no formatting
//!             endpoint.poll() -> Completion      one at a time, until there is none
//!             endpoint.post_send, inject, ..     refused or taken, at once
//! ```
//!
//! An *endpoint* is what the loop turns. It is of one of three types, which say what a program may rely on:
//!
//! | type | peers | a message that was taken | order |
//! |---|---|---|---|
//! | MSG | one, connected | arrives once and whole, or the peer is reported gone | as sent |
//! | RDM | any number, by address | the same | as sent, for each peer |
//! | DGRAM | any number, by address | may be lost, or come twice | none |
//!
//! Below the endpoint is a *provider*, which moves the bytes: shared memory, TCP or UDP through io_uring, and others. A program is
//! written against [`Endpoint`](spinwire_dataplane::msg::Endpoint) and does not see which one it is, unless it asks
//! ([`Info`](spinwire_dataplane::provider::Info)).
//!
//! A whole program: two ends in two threads, a question and an answer.
//!
//! ```
//! use spinwire_dataplane::msg::{RecvFrom, SendTo};
//! use spinwire_dataplane::poll::{Budget, Poll};
//! use spinwire_dataplane::raw::loan::LoanPool;
//! use spinwire_hostshim::discover::{Hints, discover};
//! use spinwire_hostshim::negotiate::{Requirements, negotiate};
//! use spinwire_hostshim::open::{OpenConfig, Opened, with};
//!
//! # type Failure = Box<dyn core::error::Error + Send + Sync>;
//! /// Posts a buffer, and turns until a message is in it.
//! fn receive(end: &Opened<'_>, tag: u64) -> Result<Vec<u8>, Failure> {
//!     let buffers = LoanPool::place(end.bump(), 1, 64)?;
//!     let loan = buffers.lend().ok_or("no buffer")?;
//!     end.endpoint.post_recv(RecvFrom::any().tag(tag), loan, 0).map_err(|refused| refused.error)?;
//!     loop {
//!         let _busy_or_idle = end.endpoint.turn(end.now(), Budget::DEFAULT);
//!         if let Some(message) = end.endpoint.poll() {
//!             return Ok(message.bytes().unwrap_or_default().to_vec());
//!         }
//!         # std::thread::yield_now();
//!     }
//! }
//!
//! # fn main() -> Result<(), Failure> {
//! let need = Requirements::default(); // messages that arrive: RDM, or else MSG
//! let plan = negotiate(&need, &discover(&Hints::default()));
//! with(&plan, &OpenConfig::listen(), |server| {
//!     let uri = server.uri.clone();
//!     std::thread::scope(|scope| {
//!         let client = scope.spawn(move || -> Result<(), Failure> {
//!             let plan = negotiate(&need.for_peer_at([&uri]), &discover(&Hints::default()));
//!             with(&plan, &OpenConfig::connect(), |client| {
//!                 let to = SendTo::peer(client.peer.ok_or("no peer")?).tag(7);
//!                 client.endpoint.inject(to, b"bid 101.25")?; // a copy; goes out with the next turn
//!                 client.endpoint.flush(); // or now
//!                 Ok(())
//!             })?
//!         });
//!         assert_eq!(receive(&server, 7)?, b"bid 101.25");
//!         client.join().map_err(|_| "the client has panicked")?
//!     })
//! })?
//! # }
//! ```
//!
//! What is not there is as much a part of the model: no callback, so nothing of yours runs inside a turn; no thread of the
//! library, so nothing moves while you do not turn (the one thread that a domain starts sleeps until a process dies, and touches no message); no
//! lock, so an endpoint belongs to one thread, and the compiler sees to that.
//!
//! Next: [`choosing`](super::choosing).
