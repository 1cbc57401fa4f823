//! Chapter 9: from one machine to a cluster.
//!
//! A program that was written against endpoints moves by its URIs. What changes is where a name is looked up, and what can go wrong.
//!
//! | | one machine | two and more |
//! |---|---|---|
//! | address | `shm://DOMAIN/NAME` | `tcp://HOST:PORT/NAME`, `udp://HOST:PORT`, `verbs://..`, `ofi://..` |
//! | who finds whom | by the name in the segment | by the address; the name says which endpoint is meant |
//! | a peer dies | seen within 100 ms, by the kernel's word | seen when its connection ends; a machine that loses power is seen by time limits |
//! | what was sent and not yet received | stays in shared memory, and is delivered | is lost with the connection, and `PeerGone` says so |
//! | a peer of another build | is refused: version and layout hash of the segment | is refused: version and hash of what travels; its datagrams are dropped, and counted |
//!
//! *One service, several ways to it.* A service listens at several places at once, with an endpoint for each in one loop; its clients have one list of addresses,
//! wherever they run:
//!
//! ```
//! use spinwire_dataplane::provider::EndpointType;
//! use spinwire_hostshim::open::{Host, OpenConfig};
//! use spinwire_hostshim::uri::Uri;
//!
//! # fn main() -> Result<(), Box<dyn core::error::Error>> {
//! # let domain = format!("guide-cluster-{}", std::process::id());
//! # let uris = [format!("shm://{domain}/quotes"), "tcp://127.0.0.1:0/quotes".to_owned()];
//! // shm://market/quotes and tcp://0.0.0.0:7000/quotes, say
//! let uris: Vec<Uri> = uris.iter().map(|text| text.parse()).collect::<Result<_, _>>()?;
//! let open = |uri| Host::open(uri, EndpointType::Rdm, &OpenConfig::listen());
//! let mut hosts = uris.iter().map(open).collect::<Result<Vec<_>, _>>()?;
//! let seats = hosts.iter_mut().map(Host::seat).collect::<Result<Vec<_>, _>>()?;
//! let endpoints = seats.iter().map(|seat| seat.endpoint()).collect::<Result<Vec<_>, _>>()?;
//! // The loop turns them all: endpoints.turn(now, budget), then polls each.
//! assert_eq!(endpoints.len(), 2);
//! # Ok(())
//! # }
//! ```
//!
//! *Check the way before the program.* On one host `spinwire serve tcp://0.0.0.0:7000`, on the other `spinwire ping tcp://first:7000`: round trips, losses, and which of several ways was
//! taken. `spinwire lat --listen tcp://0.0.0.0:7000` and `--connect` measure the same way beside plain sockets.
//!
//! *What to plan for.* Everything that answers may answer late, or not at all: give questions numbers and time limits from the beginning, even where shared memory would make
//! that easy to forget. Reconnecting is the program's: an address that was reported gone is stale, and `connect` with the same name gives a new one. Retry with the same number is safe only
//! if the other end knows numbers that it has seen.
//!
//! *What not to expect.* Processes of a segment trust each other as processes of one user do. Over a network nothing is encrypted, and nobody is asked who he
//! is: use networks that only your machines can reach, or tunnels.
//!
//! That is the end of the guide. The examples in `tools/examples` are whole programs to start from.
