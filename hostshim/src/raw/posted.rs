//! Ports of this crate, and what they promise of posted memory.

use spinwire_dataplane::provider::KeepsPosted;

#[cfg(feature = "libfabric")]
use crate::libfabric::OfiPort;
use crate::open::AnyPort;

// SAFETY: it hands everything on to the one port that it is, which has made this promise, and keeps nothing.
unsafe impl KeepsPosted for AnyPort<'_> {}

// SAFETY: (1) a range is handed to the library when a request is taken, with a context of its own, and what the library refuses is not kept;
// what is injected is copied by the library or by the port within the post. (2) a completion is reported when the library has reported
// one for the live context, once; or after the endpoint was closed that the operation was posted to, when the library uses none of its
// ranges any more. (3) no range stays posted. (4) exposed memory is registered until it is withdrawn; the library has let go of it when
// `fi_close` of the registration has returned. (5) dropping the port closes the endpoint first. (6) there are no references to it.
#[cfg(feature = "libfabric")]
unsafe impl KeepsPosted for OfiPort<'_> {}
