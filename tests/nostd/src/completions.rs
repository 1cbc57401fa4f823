//! Completion queues and trackers: whatever a device writes.

use spinwire_dataplane::cq::{
    Cq, Cqe, Event, GeneralCq, MonoCq, Notify, Odd, QueueTable, Routed, Target, Tracked,
};
use spinwire_dataplane::error::PostError;
use spinwire_dataplane::raw::mmio::Device;
use spinwire_dataplane::tracker::{
    Completed, Failed, FailedBy, Flushed, Ordered, Stale, Ticket, Unordered,
};

type Pair<'m> = Tracked<'m, u64, u64>;

#[unsafe(no_mangle)]
pub extern "C" fn probe_tracker_post(
    queue: &Ordered<'_, u64>,
    fill: u16,
    blocks: u16,
    entry: Option<u64>,
) -> Result<(), PostError> {
    queue.fill(fill)?;
    queue.post(blocks, entry)
}

#[unsafe(no_mangle)]
pub extern "C" fn probe_tracker_complete(
    queue: &Ordered<'_, u64>,
    counter: u16,
) -> Result<Completed<u64>, Stale> {
    queue.complete(counter)
}

#[unsafe(no_mangle)]
pub extern "C" fn probe_tracker_fail(
    queue: &Ordered<'_, u64>,
    counter: u16,
    by: FailedBy,
) -> Result<Failed<u64>, Stale> {
    queue.fail(counter, by)
}

#[unsafe(no_mangle)]
pub extern "C" fn probe_tracker_flush(queue: &Ordered<'_, u64>) -> Option<Flushed<u64>> {
    queue.flush()
}

#[unsafe(no_mangle)]
pub extern "C" fn probe_tracker_slots(
    slots: &Unordered<'_, u64>,
    entry: u64,
    slot: u16,
    ticket: Ticket,
) -> u64 {
    let taken = slots.acquire(entry).map_or(0, Ticket::as_raw);
    let done = slots.complete(slot).unwrap_or(0);
    let exact = slots.complete_exact(ticket).unwrap_or(0);
    let flushed = slots.flush(&mut 3).map_or(0, |(_, entry)| entry);
    u64::from(taken) ^ done ^ exact ^ flushed
}

/// Everything that can be asked of a completion.
fn look(cqe: &Cqe<'_>, out: &mut [u8]) -> u64 {
    match cqe {
        Cqe::Sent(cqe) => {
            let inline = cqe.inline().map_or(0, |inline| inline.copy_out(out));
            u64::from(cqe.bytes()) ^ cqe.timestamp() ^ u64::from(inline > 3)
        }
        Cqe::Received(cqe) => {
            let inline = cqe.inline().map_or(0, |inline| inline.copy_out(out));
            let grh = u64::from(cqe.has_grh()) ^ u64::from(cqe.short_info().is_some());
            u64::from(cqe.source_qpn()) ^ u64::from(cqe.srqn()) ^ grh ^ u64::from(inline > 3)
        }
        Cqe::Failed(failure) => u64::from(failure.syndrome.0),
        Cqe::Odd(Odd { op_own, .. }) => u64::from(*op_own),
    }
}

#[unsafe(no_mangle)]
pub extern "C" fn probe_cq_poll(
    cq: &Cq<'_, Device>,
    budget: u32,
    out: &mut [u8],
    total: &mut u64,
) -> u32 {
    let count = cq.poll(budget, |cqe| *total ^= look(&cqe, out));
    cq.arm(Notify::Solicited);
    count
}

#[unsafe(no_mangle)]
pub extern "C" fn probe_cq_discard(
    cq: &Cq<'_, Device>,
    qpn: u32,
    out: &mut [u8],
    total: &mut u64,
) -> Result<u32, PostError> {
    cq.discard(qpn, |cqe| *total ^= look(&cqe, out))
}

#[unsafe(no_mangle)]
pub extern "C" fn probe_cq_mono(
    cq: &MonoCq<'_, Device, &Pair<'_>>,
    budget: u32,
    total: &mut u64,
) -> u32 {
    cq.poll(budget, |event| {
        *total ^= match event {
            Event::Sent { entry, unsignaled, .. } => entry ^ u64::from(unsignaled),
            Event::Received { entry, .. } | Event::ReceiveFailed { entry, .. } => entry,
            Event::SendFailed { failure, .. } => u64::from(failure.qpn),
            Event::Stale { qpn, .. } | Event::UnknownQueue { qpn, .. } => u64::from(qpn),
            Event::Odd(odd) => u64::from(odd.qpn),
        };
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn probe_cq_general<'m>(
    cq: &GeneralCq<'m, Device, &'m dyn Target>,
    budget: u32,
    total: &mut u64,
) -> u32 {
    cq.poll(budget, |event| *total ^= u64::from(matches!(event, Event::Odd(_))))
}

#[unsafe(no_mangle)]
pub extern "C" fn probe_cq_target(
    target: &Routed<&Pair<'_>, fn(Event<'_, u64, u64>)>,
    cqe: &Cqe<'_>,
) -> u32 {
    u32::from(matches!(target.complete(cqe), spinwire_dataplane::cq::Handled::Ended))
}

#[unsafe(no_mangle)]
pub extern "C" fn probe_cq_table<'m>(
    table: &QueueTable<'m, &'m Pair<'m>>,
    pair: &'m Pair<'m>,
    qpn: u32,
) -> bool {
    table.insert(qpn, pair).is_ok() ^ table.remove(qpn.wrapping_mul(3)).is_some()
}
