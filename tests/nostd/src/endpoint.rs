//! The endpoint over the shared-memory provider, and the providers themselves: everything a turn of a service calls.

use spinwire_dataplane::error::{PostError, Refused};
use spinwire_dataplane::id::{Addr, Name, WrId};
use spinwire_dataplane::msg::{Completion, Endpoint, RecvFrom, SendTo};
use spinwire_dataplane::poll::{Budget, Outcome, Poll};
use spinwire_dataplane::provider::shm::ShmPort;
use spinwire_dataplane::provider::{CancelError, Event, Waiting};
use spinwire_dataplane::raw::loan::Loan;
use spinwire_dataplane::time::Instant;

type Shm<'a> = Endpoint<'a, ShmPort<'a, 'a>>;

#[unsafe(no_mangle)]
pub extern "C" fn probe_endpoint_inject(
    endpoint: &Shm<'_>,
    to: SendTo,
    bytes: &[u8],
) -> Result<(), PostError> {
    endpoint.inject(to, bytes)
}

#[unsafe(no_mangle)]
pub extern "C" fn probe_endpoint_post_send<'a>(
    endpoint: &Shm<'a>,
    to: SendTo,
    loan: Loan<'a>,
    context: u64,
) -> Result<WrId, Refused<Loan<'a>>> {
    endpoint.post_send(to, loan, context)
}

#[unsafe(no_mangle)]
pub extern "C" fn probe_endpoint_post_recv<'a>(
    endpoint: &Shm<'a>,
    from: RecvFrom,
    loan: Loan<'a>,
    context: u64,
) -> Result<WrId, Refused<Loan<'a>>> {
    endpoint.post_recv(from, loan, context)
}

#[unsafe(no_mangle)]
pub extern "C" fn probe_endpoint_post_multi_recv<'a>(
    endpoint: &Shm<'a>,
    from: RecvFrom,
    loan: Loan<'a>,
    room_bytes_min: u32,
) -> Result<WrId, Refused<Loan<'a>>> {
    endpoint.post_multi_recv(from, loan, room_bytes_min, 0)
}

#[unsafe(no_mangle)]
pub extern "C" fn probe_endpoint_turn(endpoint: &Shm<'_>, now: Instant, budget: Budget) -> Outcome {
    endpoint.turn(now, budget)
}

#[unsafe(no_mangle)]
pub extern "C" fn probe_endpoint_poll<'a>(endpoint: &Shm<'a>) -> Option<Completion<'a>> {
    endpoint.poll()
}

#[unsafe(no_mangle)]
pub extern "C" fn probe_endpoint_read<'a>(
    endpoint: &Shm<'a>,
    completion: &Completion<'a>,
) -> Option<usize> {
    endpoint.read(completion, <[u8]>::len)
}

#[unsafe(no_mangle)]
pub extern "C" fn probe_endpoint_poll_event(endpoint: &Shm<'_>) -> Option<Event> {
    endpoint.poll_event()
}

#[unsafe(no_mangle)]
pub extern "C" fn probe_endpoint_cancel(endpoint: &Shm<'_>, id: WrId) -> Result<(), CancelError> {
    endpoint.cancel(id)
}

#[unsafe(no_mangle)]
pub extern "C" fn probe_endpoint_peek(endpoint: &Shm<'_>, from: RecvFrom) -> Option<Waiting> {
    endpoint.peek(from)
}

#[unsafe(no_mangle)]
pub extern "C" fn probe_endpoint_connect(
    endpoint: &Shm<'_>,
    name: &Name,
) -> Result<Addr, PostError> {
    endpoint.connect(name)
}

#[unsafe(no_mangle)]
pub extern "C" fn probe_endpoint_disconnect(
    endpoint: &Shm<'_>,
    peer: Addr,
) -> Result<(), PostError> {
    endpoint.disconnect(peer)
}
