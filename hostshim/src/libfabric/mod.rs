//! Messages through libfabric (feature `libfabric`): a port over an endpoint of any of its providers.
//!
//! ```text
//!   found(hints)      what the providers offer; nothing is opened
//!   OfiPort::open     fabric, domain, queue, address vector, endpoint, by the best offer for what was asked
//!      .address()     where it is, for the others: a file, a connection of TCP (`Names`)
//!   Endpoint::new     the same interface as over every transport
//! ```
//!
//! The library is loaded when it is first asked for something, which takes Debian's some 0.2 s; it is not linked.
//!
//! The port adds nothing to what travels: whoever speaks libfabric understands it. What an operation is and when it is over, the library
//! says; the port keeps a context for each (`contexts`), and hands out what the library says as completions.
//!
//! # What is as everywhere, and what is not
//!
//! - **Capabilities are the provider's.** What it lacks is not in [`Caps`](spinwire_dataplane::provider::Caps) and is refused before it is
//!   posted: tags over `tcp` of type MSG, immediate data over `udp`.
//! - **A send is the library's at once.** The peer may see it before the doorbell. The library says `FI_EAGAIN` where it has no room, or a
//!   connection is not there yet: that is [`Retry::NoSendRoom`](spinwire_dataplane::error::Retry), and polling helps.
//! - **Copies.** What is injected is injected up to the provider's `inject_size`, and longer messages go from a copy in a slot of the port;
//!   posted memory goes uncopied, as far as the port is concerned.
//! - **Messages that nobody has asked for** wait in the library, which bounds neither their number nor their memory. There is no look at them
//!   (`PEEK`): that of libfabric, `FI_PEEK`, is for tagged messages alone, and says neither sender nor immediate data.
//! - **Buffers for many messages** (`MULTI_RECV`) are not there: those of libfabric 1.17 are written behind their ends, or said to be free too soon.
//! - **Several parts** are sent up to the provider's `iov_limit`, and received likewise, but over connections.
//! - **Cancelling** asks the library; the completion says whether that came in time.
//! - **Who has sent a message** is known where the sender is in the address table. Others have one address together, [`OfiPort::stranger`],
//!   to which nothing can be sent. So has a message that was cut off: the library does not say whose it was.
//! - **The end of a peer** is told by type MSG. Of type RDM it is found out when a send to it fails: then it is reported, and receives that wait
//!   for it alone end. Of type DGRAM never.
//! - **What is too long** for its receive is `Truncated`, though some providers cut it off in silence, and `shm` never comes back from it: those have
//!   something of the port's behind each receive, for which one of their ranges goes (so messages over `shm` are of 16 MiB at most). How much was
//!   delivered not all of them say; then it is 0.
//! - **Failures** end with a status like everywhere, and the whole of what the library said: [`OfiPort::poll_failure`]. What was injected and is lost is
//!   there, too, of no operation.
//!
//! What Debian's libfabric 1.17 does otherwise than its manual says is in `ARCHITECTURE.md`.

mod complete;
mod connect;
mod contexts;
mod error;
mod known;
mod left;
mod memory;
mod names;
mod offer;
mod parts;
mod plane;
mod port;
mod send;
mod setup;

pub use error::{FiErrno, OfiError, OfiFailure};
pub(crate) use known::{KNOWN, Known, is_known_here};
pub use left::remove_shm_left_by;
pub use names::{Names, OfiAddress};
pub(crate) use offer::providers;
pub use offer::{OfiHints, OfiModes, OfiOffer, found};
pub use plane::{CallError, OfiPlane};
pub use port::{OfiCounters, OfiPort};
pub use setup::OfiConfig;
pub(crate) use setup::offered;

/// The version of the library that this runs with: major, minor.
///
/// # Errors
/// [`OfiError::Missing`], where there is none.
pub fn library_version() -> Result<(u32, u32), OfiError> {
    Ok(crate::raw::ofi::version()?)
}
