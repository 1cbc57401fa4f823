//! Virtual queue pairs: everything that a turn calls, with devices that answer anything.

use heapless::VecView;
use spinwire_dataplane::error::PostError;
use spinwire_dataplane::poll::{Budget, Outcome, Poll, StatsWriter};
use spinwire_dataplane::provider::Published;
use spinwire_dataplane::time::Instant;
use spinwire_dataplane::verbs::{
    CompletionQueue, Limits, QueuePair, RecvRequest, SendRequest, Wc, WcFields,
};
use spinwire_dataplane::vqp::sequence::{InOrder, ReceiveWindow, SendWindow, SequenceFault};
use spinwire_dataplane::vqp::{
    CallError, Completion, PathFigures, PlanError, RecvWr, Refusal, RegionId, Regions, Remains,
    SendWr, VirtualCq, VirtualQp,
};

/// A queue pair that answers anything.
#[derive(Clone, Copy, Debug)]
pub struct AnyQp {
    limits: Limits,
    answer: extern "C" fn(u64) -> Result<(), PostError>,
    ring: extern "C" fn() -> Published,
}

impl QueuePair for AnyQp {
    type Key = u32;

    fn limits(&self) -> Limits {
        self.limits
    }

    fn qp_num(&self) -> u32 {
        self.limits.sge_max
    }

    fn post_send(&self, send: &SendRequest<'_, u32>) -> Result<(), PostError> {
        (self.answer)(send.wr_id.as_raw())
    }

    fn post_recv(&self, recv: &RecvRequest<'_, u32>) -> Result<(), PostError> {
        (self.answer)(recv.wr_id.as_raw())
    }

    fn ring_doorbell(&self) -> Published {
        (self.ring)()
    }

    fn ring_recv_doorbell(&self) -> Published {
        (self.ring)()
    }
}

/// A completion queue in which anything may lie.
#[derive(Clone, Copy, Debug)]
pub struct AnyCq(extern "C" fn() -> Option<WcFields>);

impl CompletionQueue for AnyCq {
    fn depth(&self) -> u32 {
        u32::MAX
    }

    fn poll_cq(&self, out: &mut VecView<Wc>) {
        while let Some(fields) = (self.0)() {
            if out.push(Wc::new(fields)).is_err() {
                break;
            }
        }
    }
}

type Qp<'m> = VirtualQp<'m, AnyQp>;
type Cq<'m> = VirtualCq<'m, AnyQp, AnyCq>;

#[unsafe(no_mangle)]
pub extern "C" fn probe_vqp_post_send(vqp: &Qp<'_>, wr: &SendWr<'_>) -> Result<(), Refusal> {
    vqp.post_send(wr)
}

#[unsafe(no_mangle)]
pub extern "C" fn probe_vqp_post_recv(vqp: &Qp<'_>, wr: &RecvWr<'_>) -> Result<(), Refusal> {
    vqp.post_recv(wr)
}

#[unsafe(no_mangle)]
pub extern "C" fn probe_vqp_doorbell(vqp: &Qp<'_>) {
    vqp.ring_doorbell();
}

#[unsafe(no_mangle)]
pub extern "C" fn probe_vqp_paths(vqp: &Qp<'_>, path: u32) -> Result<Remains, Refusal> {
    vqp.exclude(path)?;
    vqp.readmit(path)?;
    vqp.close();
    Ok(vqp.remains())
}

#[unsafe(no_mangle)]
pub extern "C" fn probe_vqp_figures(vqp: &Qp<'_>, path: u32) -> Option<PathFigures> {
    vqp.failure()?;
    vqp.path(path)
}

#[unsafe(no_mangle)]
pub extern "C" fn probe_vcq_turn(vcq: &Cq<'_>, now: Instant, budget: Budget) -> Outcome {
    vcq.turn(now, budget)
}

#[unsafe(no_mangle)]
pub extern "C" fn probe_vcq_take(vcq: &Cq<'_>) -> Option<Completion> {
    vcq.take()
}

#[unsafe(no_mangle)]
pub extern "C" fn probe_vcq_publish(vcq: &Cq<'_>, page: &StatsWriter<'_>, now: Instant) {
    vcq.publish(page, now);
}

#[unsafe(no_mangle)]
pub extern "C" fn probe_vcq_attach<'m>(
    vcq: &Cq<'m>,
    vqp: &'m Qp<'m>,
) -> Result<Result<(), Remains>, PlanError> {
    vcq.attach(vqp)?;
    Ok(vcq.detach(vqp))
}

#[unsafe(no_mangle)]
pub extern "C" fn probe_vqp_regions(
    regions: &Regions<'_, u32>,
    (base, length): (u64, u64),
    keys: &[Option<u32>],
    id: RegionId,
) -> Result<RegionId, CallError> {
    regions.remove(id)?;
    regions.register(base, length, keys).map_err(|_full| CallError::UnknownRegion)
}

#[unsafe(no_mangle)]
pub extern "C" fn probe_vqp_windows(
    send: &SendWindow<'_>,
    receive: &ReceiveWindow<'_>,
    immediate: u32,
    bytes: u32,
) -> Result<Option<InOrder>, SequenceFault> {
    if send.peek().is_some() {
        send.consume();
    }
    send.acknowledge(immediate);
    receive.accept(immediate, bytes)?;
    let front = receive.front();
    receive.advance();
    Ok(front)
}
