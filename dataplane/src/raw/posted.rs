//! Who may be handed posted memory: what a transport promises of it.
//!
//! ```text
//!   Loan ── post ──> Sge in a request ──> KeepsPosted ── completion ──> Loan
//!                    the loan waits in the context table       who believes it gives the loan back
//! ```
//!
//! A [`Sge`](super::loan::Sge) is plain data: it can be copied, and its bytes can be reached without `unsafe`. That is sound because
//! none is in the hands of anybody but a transport that made this promise: an endpoint makes them, and hands them to its provider only.
//! A completion that comes too early would give a loan to its owner while something still writes to it; so the promise covers completions, too.
//!
//! The transports of this crate make it here, in one place.

use crate::provider::Provider;
use crate::provider::fault::Fault;
use crate::provider::loopback::Port;
use crate::provider::rdma::{RdmaDatagrams, RdmaPort};
use crate::provider::shm::ShmPort;
use crate::provider::tcp::TcpPort;
use crate::provider::trace::Trace;
use crate::provider::udp::UdpPort;
use crate::raw::region::Registrar;
use crate::uring::Enter;
use crate::verbs::{CompletionQueue, QueuePair};

/// A transport that keeps to the rules of posted memory. Every [`Provider`] makes this promise.
///
/// # Safety
/// 1. A range that a request names is used (read, written, handed to a device, the kernel, or another provider) only after the
///    request was taken, and no more when its completion is reported. Of a request that was refused nothing is kept. Bytes to inject
///    are read during the call only.
/// 2. A completion that gives a buffer back (`Buffer::Returned`) is reported of an operation that has let go of its range, whichever way
///    it ended, and never of one that goes on. The same id is posted again afterwards, and has a new range.
/// 3. Of a range that stays posted (`Buffer::StillPosted`), bytes that were reported are written no more.
/// 4. Exposed memory is used until it was withdrawn, and no more when [`withdraw`](crate::provider::Provider::withdraw) says yes.
/// 5. What was dropped uses no range any more, and neither does what it had handed them on to; but where
///    [`lingers`](crate::provider::Provider::lingers) said yes just before, that may go on for ever.
/// 6. It is of one endpoint, since ids are those of one endpoint. A reference to a provider is none, therefore: two endpoints could
///    have it, and take each other's completions.
pub unsafe trait KeepsPosted {}

// SAFETY: (1) sends are copied within the post; a receive's range is in the table of `queues` from post to completion, and written only
// when a message is taken for it. (2), (3) `queues` takes it out of the table as it completes, and its multi-receives move on behind
// what was reported. (4) the table goes with the port.
unsafe impl KeepsPosted for ShmPort<'_, '_> {}

// SAFETY: as of `ShmPort`. One-sided operations copy out within the post, and in as they leave the table of the port's own; exposed memory
// is in the port's table until it is withdrawn, and touched by the port's own polls only.
unsafe impl KeepsPosted for Port<'_, '_> {}

// SAFETY: as of `ShmPort`; what the kernel reads and writes are buffers of the ring, never a range that was posted.
unsafe impl<E: Enter> KeepsPosted for TcpPort<'_, E> {}

// SAFETY: as of `TcpPort`.
unsafe impl<E: Enter> KeepsPosted for UdpPort<'_, E> {}

// SAFETY: as of `ShmPort`, but for ranges inside of its `Loans`, which it names to a queue pair. Those it takes back when the request has completed
// (a completion ends what the list of that queue has it for, and that only once), or when it was promised that the queue pair is no more; what it
// has of queue pairs goes with it, and of those that its host has it says that they linger. That devices keep to the same is promised with the `Loans`. Exposed memory it hands to a `Registrar`, and takes back
// from it when that is withdrawn, or the port goes.
unsafe impl<Q: QueuePair, C: CompletionQueue, X: Registrar> KeepsPosted for RdmaPort<'_, Q, C, X> {}

// SAFETY: as of `ShmPort`; what the device reads and writes are slots, never a range that was posted.
unsafe impl<Q: QueuePair, C> KeepsPosted for RdmaDatagrams<'_, Q, C> {}

// SAFETY: it hands requests on, or copies what they send within the post; completions are those of the inner provider, or of sends
// that it has not handed on.
unsafe impl<P: Provider> KeepsPosted for Fault<'_, P> {}

// SAFETY: it hands everything on, and keeps lengths and ids only.
unsafe impl<P: KeepsPosted> KeepsPosted for Trace<'_, P> {}
