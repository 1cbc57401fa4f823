//! Work queues of a device that is not there, in static memory.

use core::ptr::NonNull;

use spinwire_dataplane::error::{PostError, Retry};
use spinwire_dataplane::raw::line::lines_from_raw;
use spinwire_dataplane::raw::mmio::Device;
use spinwire_dataplane::raw::place::Bump;
use spinwire_dataplane::sync::{AtomicU32, Ordering};
use spinwire_dataplane::wqe::{Qp, QpConfig, QpMemory, SendConfig, Transport, WqeFlags};

use crate::bare::Arena;

const QUEUES_BYTES: usize = 4096;
static QUEUES: Arena<QUEUES_BYTES> = Arena::zeroed();
static RECORD: [AtomicU32; 2] = [AtomicU32::new(0), AtomicU32::new(0)];
const BLOCKS: usize = 16;

/// Sends until the ring is full, completes, many times over; then one too many. `None` where anything is not as it should be.
pub fn over(bump: &Bump<'static>) -> Option<()> {
    // SAFETY: the arena is static, one thread runs, and nothing else ever looks into it.
    let lines = unsafe { lines_from_raw(NonNull::new(QUEUES.base())?, QUEUES_BYTES) }?;
    let (sq, rest) = lines.split_at_checked(BLOCKS)?;
    let memory = QpMemory { sq, rq: &[], record: &RECORD, uar: rest.get(..8)? };
    let config = QpConfig {
        qpn: 5,
        transport: Transport::Rc { path: None },
        send: SendConfig::DEFAULT,
        recv: None,
    };
    let qp = Qp::<u16, _>::place(bump, config, memory, Device).ok()?;
    let mut bytes = [0_u8; 200];
    for round in 0..10_000_u16 {
        bytes.fill(round.to_le_bytes()[0]);
        let message = bytes.get(..usize::from(round % 200))?;
        qp.with_sq_wqe(|wqe| {
            wqe.write(WqeFlags::NONE, 7, 8).inline(message).finish_signaled(round)
        })
        .ok()?;
        let end = qp.sq().tracker().pi();
        if qp.ring_doorbell() != 1
            || RECORD.get(1)?.load(Ordering::Relaxed) != u32::from(end).to_be()
        {
            return None;
        }
        // It starts so many blocks before the end as its length says, behind fill or not.
        let blocks = u16::try_from(
            (32 + message.len() + if message.is_empty() { 0 } else { 4 }).div_ceil(64),
        )
        .ok()?;
        let done = qp.sq().complete(end.wrapping_sub(blocks)).ok()?;
        (done.entry == round).then_some(())?;
    }
    for _ in 0..BLOCKS {
        qp.with_sq_wqe(|wqe| wqe.nop(WqeFlags::NONE).finish_signaled(1)).ok()?;
    }
    let full = qp.with_sq_wqe(|wqe| wqe.nop(WqeFlags::NONE).finish_signaled(1));
    matches!(full, Err(PostError::Retry(Retry::SqFull))).then_some(())
}
