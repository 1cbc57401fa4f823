//! Work queues of devices: every builder, with arguments and ring contents of any kind.

use heapless::VecView;
use spinwire_dataplane::error::{PostError, Retry};
use spinwire_dataplane::provider::mlx5::{Completions, Pair, Route, Shared};
use spinwire_dataplane::raw::mmio::Device;
use spinwire_dataplane::raw::region::{LocalSge, MemoryKey, Region};
use spinwire_dataplane::tracker::{FailedBy, Stale};
use spinwire_dataplane::verbs::{CompletionQueue, QueuePair, RecvRequest, SendRequest, Wc};
use spinwire_dataplane::wqe::{
    Access, Av, KeyUpdate, Qp, RelaxedOrdering, RoceGrh, SharedRecvQueue, UdPeer, Window, WqeFlags,
};

type Queues<'m> = Qp<'m, u64, Device>;

const FLAGS: WqeFlags = WqeFlags::FENCE;

#[unsafe(no_mangle)]
pub extern "C" fn probe_wqe_send(
    qp: &Queues<'_>,
    bytes: &[u8],
    entry: u64,
) -> Result<(), PostError> {
    qp.with_sq_wqe(|wqe| wqe.send(FLAGS).inline(bytes).finish_unsignaled())?;
    qp.with_sq_wqe(|wqe| wqe.send_imm(FLAGS, 7).inline(bytes).finish_signaled(entry))
}

#[unsafe(no_mangle)]
pub extern "C" fn probe_wqe_write(
    qp: &Queues<'_>,
    raddr: u64,
    sges: &[LocalSge],
    entry: u64,
) -> Result<(), PostError> {
    qp.with_sq_wqe(|wqe| wqe.write(FLAGS, raddr, 1).sges(sges).finish_unsignaled())?;
    qp.with_sq_wqe(|wqe| wqe.read(FLAGS, raddr, 1).sges(sges).finish_signaled(entry))?;
    let mut borrow = qp.sq_borrow()?;
    borrow.sq_wqe()?.write_imm(FLAGS, (raddr, 1), 3).empty().finish_signaled(entry)
}

#[unsafe(no_mangle)]
pub extern "C" fn probe_wqe_atomic(
    qp: &Queues<'_>,
    raddr: u64,
    sge: LocalSge,
    operand: u64,
) -> Result<(), PostError> {
    let (far, pair) = ((raddr, 1), (operand, operand));
    qp.with_sq_wqe(|wqe| {
        wqe.atomic_cs(FLAGS, far, operand, operand).result(sge)?.finish_signaled(operand)
    })?;
    qp.with_sq_wqe(|wqe| {
        wqe.masked_cs(FLAGS, far, pair, pair).result(sge)?.finish_signaled(operand)
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn probe_wqe_keys(
    qp: &Queues<'_>,
    key: u32,
    window: &Window,
    memory: &[LocalSge],
) -> Result<(), PostError> {
    qp.with_sq_wqe(|wqe| wqe.local_inval(FLAGS, key).finish_unsignaled())?;
    let relaxed_ordering = Some(RelaxedOrdering { writes: true, reads: true });
    let update = KeyUpdate { access: Some(Access::default()), relaxed_ordering };
    qp.with_sq_wqe(|wqe| wqe.update_key(FLAGS, key, &update, memory).finish_unsignaled())?;
    let [first, ..] = memory else { return Ok(()) };
    qp.with_sq_wqe(|wqe| wqe.bind_window(FLAGS, window, first).finish_signaled(1))
}

#[unsafe(no_mangle)]
pub extern "C" fn probe_wqe_datagram(
    qp: &Queues<'_>,
    av: &Av,
    route: &RoceGrh,
    bytes: &[u8],
) -> Result<(), PostError> {
    qp.with_ud_sq_wqe(|wqe| wqe.av(av).send(FLAGS).inline(bytes).finish_signaled(1))?;
    let peer = UdPeer { qpn: 1, qkey: 2 };
    qp.with_ud_sq_wqe_roce(route, |wqe| wqe.to(peer).send(FLAGS).inline(bytes).finish_signaled(1))
}

#[unsafe(no_mangle)]
pub extern "C" fn probe_wqe_receive(
    qp: &Queues<'_>,
    region: &Region<'_>,
    offset: u64,
    length: u32,
) -> Result<(), PostError> {
    let sge = region.range(offset, length)?;
    qp.with_rq_wqe(|wqe| wqe.sge(sge).sges(&[sge; 3]).finish(offset))
}

#[unsafe(no_mangle)]
pub extern "C" fn probe_wqe_doorbell(qp: &Queues<'_>) -> u16 {
    qp.ring_doorbell()
}

#[unsafe(no_mangle)]
pub extern "C" fn probe_wqe_end(qp: &Queues<'_>, counter: u16) -> Result<Option<u64>, Stale> {
    let done = qp.sq().complete(counter)?;
    qp.sq().fail(counter, FailedBy::Itself)?;
    let flushed = qp.sq().flush().and_then(|flushed| flushed.entry);
    Ok(flushed.or(qp.sq().restart().is_ok().then_some(done.entry)))
}

#[unsafe(no_mangle)]
pub extern "C" fn probe_wqe_shared(
    queue: &SharedRecvQueue<'_, u64, Device>,
    sges: &[LocalSge],
    counter: u16,
) -> Result<u16, PostError> {
    if let Ok(entry) = queue.complete(counter) {
        queue.with_srq_wqe(|wqe| wqe.sges(sges).finish(entry))?;
    }
    Ok(queue.ring_doorbell())
}

/// A queue pair as verbs have it.
type VerbsPair<'m> = Pair<'m, Device>;

#[unsafe(no_mangle)]
pub extern "C" fn probe_mlx5_post<'m>(
    pair: &VerbsPair<'m>,
    send: &SendRequest<'_, MemoryKey<'m>>,
    recv: &RecvRequest<'_, MemoryKey<'m>>,
) -> Result<u64, PostError> {
    pair.post_send(send)?;
    pair.post_recv(recv)?;
    pair.renew()?;
    Ok(pair.ring_doorbell().count ^ pair.ring_recv_doorbell().count)
}

#[unsafe(no_mangle)]
pub extern "C" fn probe_mlx5_poll<'m>(
    cq: &Completions<'m, Device, &'m VerbsPair<'m>>,
    out: &mut VecView<Wc>,
    qpn: u32,
) -> Result<bool, PostError> {
    cq.poll_cq(out);
    let Some(pair) = cq.remove(qpn)? else { return Ok(false) };
    cq.end(pair)?;
    Ok(cq.add(pair).is_ok())
}

/// Receives that several pairs take from.
#[unsafe(no_mangle)]
pub extern "C" fn probe_mlx5_shared<'m>(
    shared: &Shared<'m, Device>,
    recv: &RecvRequest<'_, MemoryKey<'m>>,
) -> Result<u64, PostError> {
    shared.post_recv(recv)?;
    let published = shared.ring_recv_doorbell().count;
    Ok(shared.next_returned().map_or(published, |id| id.as_raw()))
}

/// Where datagrams go; and a pair that begins anew.
#[unsafe(no_mangle)]
pub extern "C" fn probe_mlx5_routes(
    pair: &VerbsPair<'_>,
    route: &Route,
    row: u32,
) -> Result<bool, Retry> {
    let added = pair.add_route(*route)?;
    let is_set = pair.set_route(row, *route).is_ok();
    pair.restart()?;
    Ok(is_set && pair.remove_route(added).is_some())
}
