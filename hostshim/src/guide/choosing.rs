//! Chapter 2: asking for what is needed.
//!
//! Three steps, of which only the third opens anything:
//!
//! ```text
//!   discover(&Hints)                  what could be opened here, each with an Info; what is absent, with the reason
//!   negotiate(&Requirements, &found)  a ranked plan; what is rejected, why, and what would help
//!   open::with(&plan, ..)             the first that opens, and whose peer is reached; what failed before it is kept
//! ```
//!
//! Ask for what the program relies on and for nothing else: each requirement takes transports away. What can be asked for:
//!
//! - *types of endpoints*, the best first. RDM is preferred by default: one endpoint for all peers. A program that can do with MSG
//!   says so by naming it second, and has to know then that it has one peer.
//! - *capabilities*: tags, messages of several parts, immediate data, receives for one peer only, multi-receives, buffers of a pool as messages, access to memory of the peer, ..
//! - *limits*: the longest message, the longest that has to be injected, the number of peers.
//! - *where the peer is*. Give every address under which it can be found, and the same list on every host.
//!
//! ```
//! use spinwire_dataplane::provider::{Caps, EndpointType};
//! use spinwire_hostshim::discover::{Hints, discover};
//! use spinwire_hostshim::negotiate::{Requirements, negotiate};
//! use spinwire_hostshim::uri::Uri;
//!
//! # fn main() -> Result<(), Box<dyn core::error::Error>> {
//! let service: [Uri; 2] = ["shm://market/quotes".parse()?, "tcp://quotes.example:7000/quotes".parse()?];
//! let need = Requirements::default()
//!     .of_types(&[EndpointType::Rdm, EndpointType::Msg])
//!     .with_caps(Caps::TAGGED)
//!     .for_messages_of(4096)
//!     .for_peer_at(&service);
//! let plan = negotiate(&need, &discover(&Hints::default()));
//! // On any machine: shared memory first, where the service may be on this host; TCP behind it.
//! assert_eq!(plan.best().map(|choice| choice.to_string()).as_deref(), Some("shm rdm shm://market/quotes"));
//! print!("{plan}"); // what `spinwire providers --need rdm,msg,tagged --peer ..` shows
//! # Ok(())
//! # }
//! ```
//!
//! The order of a plan is: the type, as the program prefers them; then what lies between the ends, memory before devices before the
//! kernel; then our own transports before those of libraries; then the order of the addresses. So a plan is the same today and tomorrow.
//!
//! *Say which path it got.* [`Opened`](crate::open::Opened) prints itself: `tcp rdm tcp://quotes.example:7000/quotes (not shm rdm
//! shm://market/quotes: ..)`. Put that line into the log of the service; with [`Plane::goes_by`](crate::plane::Plane::goes_by) `spinwire top`
//! shows it, too. Half of all riddles about latency end with it.
//!
//! *Check before use.* What an endpoint lacks it refuses before anything is posted (`Misuse::Unsupported`); it never emulates in silence. Ask beforehand:
//! `info.supports_tagged()`, `info.supports_inject(bytes)`, `found.supports_endpoint_type(..)`.
//!
//! At the prompt: `spinwire providers` lists everything, `--need` ranks, and the exit code says whether there is anything.
//!
//! Next: [`buffers`](super::buffers).
