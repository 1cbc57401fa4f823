//! A completion queue of a device that is not there: everything that a turn does with it.

use core::mem::MaybeUninit;

use spinwire_dataplane::cq::{
    Compression, Cq, CqMemory, EntryBytes, Event, MonoCq, Notify, QueueTable, Tracked,
};
use spinwire_dataplane::raw::line::Line;
use spinwire_dataplane::raw::mmio::Device;
use spinwire_dataplane::raw::place::Bump;
use spinwire_dataplane::sync::{AtomicU32, AtomicU64, Ordering};
use spinwire_dataplane::tracker::{Ordered, OrderedConfig, Unordered};

type Pair<'m> = Tracked<'m, u64, u64>;

/// A queue, a queue pair that completes into it, slots of a shared queue, and the entries as the device sees them.
pub(crate) struct Queues<'m> {
    cq: MonoCq<'m, Device, &'m Pair<'m>>,
    pair: &'m Pair<'m>,
    slots: Unordered<'m, u64>,
    lines: &'m [Line],
}

/// Runs `work` with fresh queues.
pub(crate) fn with<R>(work: impl FnOnce(&Queues<'_>) -> R) -> R {
    let lines: Vec<Line> = (0..16).map(|_| Line::zeroed()).collect();
    let record = [AtomicU32::new(0), AtomicU32::new(0)];
    let register = AtomicU64::new(0);
    let mut block = vec![MaybeUninit::uninit(); 8192];
    let bump = Bump::new(&mut block);
    let queue = |wqe_blocks_max| {
        Ordered::place(&bump, OrderedConfig { rows: 8, wqe_blocks_max }).expect("rows")
    };
    let pair = Tracked { qpn: 3, send: queue(2), receive: queue(1) };
    let memory = CqMemory {
        lines: &lines,
        entry_bytes: EntryBytes::B64,
        record: &record,
        register: Some(&register),
        cqn: 1,
    };
    let cq = Cq::new(memory, Compression::Off, Device).expect("a queue");
    let cq = MonoCq::new(cq, QueueTable::place(&bump, 2).expect("a table"));
    assert!(cq.add(&pair).is_ok());
    let slots = Unordered::place(&bump, 4).expect("slots");
    work(&Queues { cq, pair: &pair, slots, lines: &lines })
}

/// So many rounds; the number of those in which everything was as it should be.
pub(crate) fn run(queues: &Queues<'_>, rounds: u64) -> u64 {
    (0..rounds).map(|round| u64::from(is_good(queues, round).unwrap_or(false))).sum()
}

impl Queues<'_> {
    /// The device writes the entry `ahead` of the next one.
    fn write(&self, ahead: u32, (op, counter): (u8, u16), (qpn, syndrome): (u8, u8)) -> Option<()> {
        let at = self.cq.cq().ci().wrapping_add(ahead);
        let words = self.lines.get(usize::try_from(at % 16).ok()?)?.words();
        let lap = u8::try_from((at / 16) & 1).ok()?;
        let [high, low] = counter.to_be_bytes();
        let last = u64::from_le_bytes([0x0a, 0, 0, qpn, high, low, 0, (op << 4) | lap]);
        let error = u64::from_le_bytes([0, 0, 0, 0, 0, 0, 0, syndrome]);
        words[6].store(error, Ordering::Relaxed);
        words[7].store(last, Ordering::Relaxed);
        Some(())
    }
}

/// `None` where a call was refused that should not be.
fn is_good(queues: &Queues<'_>, round: u64) -> Option<bool> {
    let (send, receive) = (&queues.pair.send, &queues.pair.receive);
    send.post(1, None).ok()?;
    let signaled = send.pi();
    send.post(1, Some(round)).ok()?;
    let received = receive.pi();
    receive.post(1, Some(round)).ok()?;
    let fails = send.pi();
    send.post(1, None).ok()?;
    send.post(1, Some(round)).ok()?;
    queues.write(0, (0, signaled), (3, 0))?;
    queues.write(1, (2, received), (3, 0))?;
    queues.write(2, (0, signaled), (4, 0))?;
    queues.write(3, (0, signaled), (3, 0))?;
    queues.write(4, (9, 0), (3, 0))?;
    queues.write(5, (13, fails), (3, 0x13))?;
    let mut seen = [0_u8; 6];
    let polled = queues.cq.poll(16, |event| {
        let at = match event {
            Event::Sent { entry, unsignaled, .. } if (entry, unsignaled) == (round, 1) => 0,
            Event::Received { entry, .. } if entry == round => 1,
            Event::UnknownQueue { qpn: 4, .. } => 2,
            Event::Stale { .. } => 3,
            Event::Odd(_) => 4,
            Event::SendFailed { .. } => 5,
            Event::Sent { .. }
            | Event::Received { .. }
            | Event::ReceiveFailed { .. }
            | Event::UnknownQueue { .. } => return,
        };
        seen[at] += 1;
    });
    let mut good = (polled, seen) == (6, [1; 6]);
    good &= send.flush()?.entry == Some(round) && send.flush().is_none();
    send.restart().ok()?;
    good &= queues.cq.cq().arm(Notify::Any) && queues.cq.poll(16, |_| ()) == 0;
    let ticket = queues.slots.acquire(round).ok()?;
    good &= queues.slots.complete_exact(ticket) == Ok(round);
    Some(good)
}
