//! Work queues of a device that is not there: everything that a turn does with them.

use core::mem::MaybeUninit;

use spinwire_dataplane::error::{PostError, Retry};
use spinwire_dataplane::raw::line::Line;
use spinwire_dataplane::raw::mmio::Device;
use spinwire_dataplane::raw::place::Bump;
use spinwire_dataplane::sync::AtomicU32;
use spinwire_dataplane::wqe::{
    Qp, QpConfig, QpMemory, RecvConfig, SendConfig, Transport, WqeFlags,
};

type Queues<'m> = Qp<'m, u64, Device>;

/// Runs `work` with fresh queues.
pub(crate) fn with<R>(work: impl FnOnce(&Queues<'_>) -> R) -> R {
    let lines = |count: usize| (0..count).map(|_| Line::zeroed()).collect::<Vec<_>>();
    let (sq, rq, uar) = (lines(16), lines(4), lines(8));
    let record = [AtomicU32::new(0), AtomicU32::new(0)];
    let memory = QpMemory { sq: &sq, rq: &rq, record: &record, uar: &uar };
    let config = QpConfig {
        qpn: 3,
        transport: Transport::Rc { path: None },
        send: SendConfig::DEFAULT,
        recv: Some(RecvConfig { wqes: 4, sge_max: 4 }),
    };
    let mut block = vec![MaybeUninit::uninit(); 4096];
    work(&Qp::place(&Bump::new(&mut block), config, memory, Device).expect("queues"))
}

/// So many rounds; the number of those in which everything was as it should be.
pub(crate) fn run(queues: &Queues<'_>, rounds: u64) -> u64 {
    (0..rounds).map(|round| u64::from(is_good(queues, round).unwrap_or(false))).sum()
}

/// `None` where a call was refused that should not be.
fn is_good(qp: &Queues<'_>, round: u64) -> Option<bool> {
    let bytes = [7; 200];
    let message = bytes.get(..usize::try_from(round % 200).ok()?)?;
    qp.with_rq_wqe(|wqe| wqe.finish(round)).ok()?;
    qp.with_sq_wqe(|wqe| wqe.write(WqeFlags::FENCE, 1, 2).empty().finish_unsignaled()).ok()?;
    qp.with_sq_wqe(|wqe| wqe.send(WqeFlags::NONE).inline(message).finish_signaled(round)).ok()?;
    let blocked = qp.with_sq_wqe(|wqe| {
        let wqe = wqe.send(WqeFlags::NONE).inline(message);
        let nested = qp.with_sq_wqe(|wqe| wqe.nop(WqeFlags::NONE).finish_unsignaled());
        drop(wqe);
        nested
    });
    let mut good = blocked == Err(PostError::Retry(Retry::WouldBlock));
    good &= qp.ring_doorbell() == 2;
    let (sq, rq) = (qp.sq(), qp.rq()?);
    let head = if message.is_empty() { 16 } else { 20 };
    let blocks = u16::try_from((head + message.len()).div_ceil(64)).ok()?;
    let done = sq.complete(sq.tracker().pi().wrapping_sub(blocks)).ok()?;
    good &= (done.entry, done.unsignaled) == (round, 1);
    good &= rq.complete(rq.tracker().ci()).ok()?.entry == round;
    Some(good)
}
