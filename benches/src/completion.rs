//! Completion queues: from an entry that a device has written to what was posted. In each round work requests are posted, their
//! completions are written as a device does, and polled; the floor does the same without a poll,
//! another one passes the barrier that a poll cannot do without, and a third only writes completions.

use core::hint::black_box;

use spinwire_dataplane::cq::{
    Compression, Cq, CqMemory, EntryBytes, Event, GeneralCq, MonoCq, QueueTable, Routed, Target,
    Tracked,
};
use spinwire_dataplane::raw::line::Line;
use spinwire_dataplane::raw::mmio::{Bus, CoherentDevice, Device};
use spinwire_dataplane::sync::{AtomicU32, Ordering};
use spinwire_dataplane::tracker::{Ordered, OrderedConfig};
use spinwire_layouts::mlx5::cqe::Tail;

use crate::case::{Case, Entry, fold, fold_below};
use crate::memory;

/// The cases. `coherent` is a device that writes ordinary memory only, so that no barrier of the
/// processor is passed: as many instructions but for that one, so they have no limit of their own.
pub const ENTRIES: &[Entry] = &[
    Entry::new("cq/mono/1", || mono(Device, 1)),
    Entry::new("cq/mono/16", || mono(Device, RUN)).ops(RUN),
    Entry::new("cq/mono_coherent/1", || mono(CoherentDevice, 1)).yardstick(),
    Entry::new("cq/mono_coherent/16", || mono(CoherentDevice, RUN)).ops(RUN).yardstick(),
    Entry::new("cq/general/1", || general(Device, 1)),
    Entry::new("cq/general/16", || general(Device, RUN)).ops(RUN),
    Entry::new("cq/general_coherent/1", || general(CoherentDevice, 1)).yardstick(),
    Entry::new("cq/general_coherent/16", || general(CoherentDevice, RUN)).ops(RUN).yardstick(),
    Entry::new("cq/in_vain", in_vain),
    Entry::new("cq/floor_no_poll/1", || floor(1)).yardstick(),
    Entry::new("cq/floor_no_poll/16", || floor(RUN)).ops(RUN).yardstick(),
    Entry::new("cq/floor_barrier/1", || barrier(1)).yardstick(),
    Entry::new("cq/floor_barrier/16", || barrier(RUN)).ops(RUN).yardstick(),
    Entry::new("cq/floor_writes_only/1", || writes_only(1)).yardstick(),
    Entry::new("cq/floor_writes_only/16", || writes_only(RUN)).ops(RUN).yardstick(),
];

/// Nanoseconds from the poll to the entry: one closure for all queue pairs.
pub const MONO_NS_MAX: f64 = 5.0;
/// The same with a handler for each.
pub const GENERAL_NS_MAX: f64 = 8.0;

/// Most completions that are there at one poll.
pub const RUN: u32 = 16;
/// As many as are there at one poll, in the cases by wall time.
pub const RUNS: [u32; 5] = [1, 2, 4, 8, RUN];
const CQES: usize = 256;
const QPNS: [u32; 4] = [0x40, 0x41, 0x42, 0x43];
const ARENA_BYTES: usize = 1 << 16;

type Pair = Tracked<'static, u64, u64>;

/// A device that writes completions of one queue pair after the other.
struct Writer {
    lines: &'static [Line],
    pairs: &'static [Pair],
    pi: usize,
}

impl Writer {
    /// `count` work requests with entries from `first` on, spread over the queue pairs; and their completions.
    #[inline(always)]
    fn complete(&mut self, first: u64, count: u32) {
        for i in 0..count {
            // Runs of four on one queue pair.
            let pair = &self.pairs[usize::try_from(i).unwrap() / 4 % QPNS.len()];
            let wqe_counter = pair.send.pi();
            pair.send.post(1, Some(first + u64::from(i))).unwrap();
            self.write(pair.qpn, wqe_counter);
        }
    }

    /// One completion.
    #[inline(always)]
    fn write(&mut self, qpn: u32, wqe_counter: u16) {
        let op_own = u8::try_from((self.pi / CQES) & 1).unwrap();
        let tail = Tail { wqe_opcode: 0x0a, qpn, wqe_counter, signature: 0, op_own };
        let [.., last] = self.lines[self.pi % CQES].words();
        last.store(tail.pack(), Ordering::Relaxed);
        self.pi += 1;
    }
}

fn set_up<B: Bus>(bus: B) -> (Writer, Cq<'static, B>) {
    let lines = memory::lines(CQES);
    let bump = memory::arena(ARENA_BYTES);
    let queue =
        |wqe_blocks_max| Ordered::place(&bump, OrderedConfig { rows: 64, wqe_blocks_max }).unwrap();
    let pairs: Vec<Pair> =
        QPNS.iter().map(|&qpn| Tracked { qpn, send: queue(16), receive: queue(1) }).collect();
    let record = Box::leak(Box::new([AtomicU32::new(0), AtomicU32::new(0)]));
    let memory = CqMemory { lines, entry_bytes: EntryBytes::B64, record, register: None, cqn: 1 };
    let cq = Cq::new(memory, Compression::Off, bus).unwrap();
    (Writer { lines, pairs: pairs.leak(), pi: 0 }, cq)
}

/// One closure for all queue pairs; `run` completions are there at each poll.
#[must_use]
pub fn mono(bus: impl Bus + 'static, run: u32) -> Case {
    let (mut writer, cq) = set_up(bus);
    let table = QueueTable::place(&memory::arena(ARENA_BYTES), 16).unwrap();
    let cq = MonoCq::new(cq, table);
    for pair in writer.pairs {
        cq.add(pair).map_err(|(error, _)| error).unwrap();
    }
    let rounds = move |rounds| {
        let mut hash = 0;
        for round in 0..rounds {
            writer.complete(round * u64::from(run), run);
            let count = cq.poll(black_box(64), |event| match event {
                Event::Sent { entry, .. } => hash = fold(hash, entry),
                other @ (Event::Received { .. }
                | Event::SendFailed { .. }
                | Event::ReceiveFailed { .. }
                | Event::Stale { .. }
                | Event::UnknownQueue { .. }
                | Event::Odd(_)) => panic!("{other:?}"),
            });
            assert_eq!(count, run);
        }
        hash
    };
    Case::new(rounds, move |rounds| fold_below(rounds * u64::from(run)))
}

/// A handler for each queue pair, behind an indirect call.
#[must_use]
pub fn general(bus: impl Bus + 'static, run: u32) -> Case {
    let (mut writer, cq) = set_up(bus);
    let table = QueueTable::place(&memory::arena(ARENA_BYTES), 16).unwrap();
    let cq = GeneralCq::new(cq, table);
    let hash: &'static core::cell::Cell<u64> = Box::leak(Box::default());
    for pair in writer.pairs {
        let target: &'static dyn Target =
            Box::leak(Box::new(Routed::new(pair, move |event: Event<'_, u64, u64>| match event {
                Event::Sent { entry, .. } => hash.set(fold(hash.get(), entry)),
                other @ (Event::Received { .. }
                | Event::SendFailed { .. }
                | Event::ReceiveFailed { .. }
                | Event::Stale { .. }
                | Event::UnknownQueue { .. }
                | Event::Odd(_)) => panic!("{other:?}"),
            })));
        cq.add(target).map_err(|(error, _)| error).unwrap();
    }
    let rounds = move |rounds| {
        hash.set(0);
        for round in 0..rounds {
            writer.complete(round * u64::from(run), run);
            let count = cq.poll(black_box(64), |stray| panic!("{stray:?}"));
            assert_eq!(count, run);
        }
        hash.get()
    };
    Case::new(rounds, move |rounds| fold_below(rounds * u64::from(run)))
}

/// A poll that finds nothing.
fn in_vain() -> Case {
    let (_writer, cq) = set_up(Device);
    let rounds = move |rounds| {
        let found: u64 = (0..rounds).map(|_| u64::from(cq.poll(black_box(64), |_| ()))).sum();
        found + rounds
    };
    Case::new(rounds, |rounds| rounds)
}

/// All but the poll: each entry is asked of its tracker, in order.
#[must_use]
pub fn floor(run: u32) -> Case {
    let (mut writer, _cq) = set_up(Device);
    let rounds = move |rounds| {
        let mut hash = 0;
        for round in 0..rounds {
            writer.complete(round * u64::from(run), run);
            for i in 0..black_box(run) {
                let pair = &writer.pairs[usize::try_from(i).unwrap() / 4 % QPNS.len()];
                hash = fold(hash, pair.send.complete(pair.send.ci()).unwrap().entry);
            }
        }
        hash
    };
    Case::new(rounds, move |rounds| fold_below(rounds * u64::from(run)))
}

/// The [`floor`], and what no poll of a device can do without: a look at each owner bit, one barrier, a load of each entry behind it.
/// What this costs more than the floor is below every poll, whoever writes it.
#[must_use]
pub fn barrier(run: u32) -> Case {
    let (mut writer, _cq) = set_up(Device);
    let rounds = move |rounds| {
        let mut hash = 0;
        for round in 0..rounds {
            let first = writer.pi;
            writer.complete(round * u64::from(run), run);
            let lines = (first..writer.pi).map(|at| &writer.lines[at % CQES]);
            let load = |line: &Line| line.words()[7].load(Ordering::Relaxed);
            for line in lines.clone() {
                black_box(Tail::op_own_of(load(line)));
            }
            Device.from_device();
            for line in lines {
                black_box(load(line));
            }
            for i in 0..black_box(run) {
                let pair = &writer.pairs[usize::try_from(i).unwrap() / 4 % QPNS.len()];
                hash = fold(hash, pair.send.complete(pair.send.ci()).unwrap().entry);
            }
        }
        hash
    };
    Case::new(rounds, move |rounds| fold_below(rounds * u64::from(run)))
}

/// Only what the device does: nothing is posted, nothing polled.
fn writes_only(run: u32) -> Case {
    let (mut writer, _cq) = set_up(Device);
    let rounds = move |rounds: u64| {
        for round in 0..rounds {
            for i in 0..black_box(run) {
                let qpn = QPNS[usize::try_from(i).unwrap() / 4 % QPNS.len()];
                let [a, b, ..] = round.to_le_bytes();
                writer.write(black_box(qpn), u16::from_le_bytes([a, b]));
            }
        }
        u64::try_from(core::mem::take(&mut writer.pi)).unwrap()
    };
    Case::new(rounds, move |rounds| rounds * u64::from(run))
}
