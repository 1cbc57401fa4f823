//! Work queues and a completion queue of a device that is not there, in static memory.

use core::ptr::NonNull;

use spinwire_dataplane::cq::{Compression, Cq, CqMemory, EntryBytes, Event, MonoCq, QueueTable};
use spinwire_dataplane::error::{PostError, Retry};
use spinwire_dataplane::raw::line::lines_from_raw;
use spinwire_dataplane::raw::mmio::Device;
use spinwire_dataplane::raw::place::Bump;
use spinwire_dataplane::sync::{AtomicU32, Ordering};
use spinwire_dataplane::wqe::{Qp, QpConfig, QpMemory, SendConfig, Transport, WqeFlags};
use spinwire_layouts::mlx5::cqe::Tail;

use crate::bare::Arena;

const QUEUES_BYTES: usize = 4096;
static QUEUES: Arena<QUEUES_BYTES> = Arena::zeroed();
static RECORD: [AtomicU32; 2] = [AtomicU32::new(0), AtomicU32::new(0)];
static CQ_RECORD: [AtomicU32; 2] = [AtomicU32::new(0), AtomicU32::new(0)];
const CQES: usize = 8;
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
    let qp = &*bump.value(Qp::<u16, _>::place(bump, config, memory, Device).ok()?).ok()?;
    let cqes = rest.get(8..8 + CQES)?;
    let memory = CqMemory {
        lines: cqes,
        entry_bytes: EntryBytes::B64,
        record: &CQ_RECORD,
        register: None,
        cqn: 1,
    };
    let cq = Cq::new(memory, Compression::Off, Device).ok()?;
    let cq = MonoCq::new(cq, QueueTable::place(bump, 1).ok()?);
    cq.add(qp).ok()?;
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
        let tail = Tail {
            wqe_opcode: 8,
            qpn: 5,
            wqe_counter: end.wrapping_sub(blocks),
            signature: 0,
            op_own: (round / 8).to_le_bytes()[0] & 1,
        };
        cqes.get(usize::from(round) % CQES)?.words()[7].store(tail.pack(), Ordering::Relaxed);
        let mut seen = None;
        cq.poll(4, |event| match event {
            Event::Sent { entry, .. } => seen = Some(entry),
            _ => {}
        });
        (seen == Some(round)).then_some(())?;
    }
    for _ in 0..BLOCKS {
        qp.with_sq_wqe(|wqe| wqe.nop(WqeFlags::NONE).finish_signaled(1)).ok()?;
    }
    let full = qp.with_sq_wqe(|wqe| wqe.nop(WqeFlags::NONE).finish_signaled(1));
    matches!(full, Err(PostError::Retry(Retry::SqFull))).then_some(())
}
