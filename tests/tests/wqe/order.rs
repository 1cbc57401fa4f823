//! The order in which the device hears of WQEs, written down by a recorder in the place of the bus.

use core::cell::{Cell, RefCell};
use std::rc::Rc;

use spinwire_dataplane::raw::line::Line;
use spinwire_dataplane::raw::mmio::{Bus, Device};
use spinwire_dataplane::sync::{AtomicU32, AtomicU64, Ordering};
use spinwire_dataplane::wqe::{
    BlueFlame, Qp, QpConfig, QpMemory, RecvConfig, SendConfig, Straddle, Transport, WqeFlags,
};
use spinwire_layouts::endian::Be32;

use super::{Memory, QPN, SHAPE, Shape, TestQp, arena, bytes_of, lines, open, sge};

const NONE: WqeFlags = WqeFlags::NONE;

/// What reached the device.
#[derive(Clone, PartialEq, Eq, Debug)]
enum Event {
    ToDevice,
    WcStart,
    Flush,
    /// A slot of the record, and its bytes.
    Record(usize, [u8; 4]),
    /// Which line of the registers, and the bytes.
    Register(usize, [u8; 8]),
    Block(usize, Vec<u8>),
}

/// Writes down what it does. At each barrier towards the device it looks at the send ring.
#[derive(Clone, Default)]
struct Recorder(Rc<Notes>);

#[derive(Default)]
struct Notes {
    events: RefCell<Vec<Event>>,
    memory: Cell<Option<&'static Memory>>,
    at_barrier: RefCell<Vec<u8>>,
}

impl Recorder {
    fn note(&self, event: Event) {
        self.0.events.borrow_mut().push(event);
    }

    fn line(&self, at: *const AtomicU64) -> usize {
        let uar = self.0.memory.get().unwrap().uar;
        uar.iter().position(|line| core::ptr::eq(&raw const line.words()[0], at)).unwrap()
    }

    fn take(&self) -> Vec<Event> {
        self.0.events.take()
    }
}

impl Bus for Recorder {
    fn to_device(&self) {
        let memory = self.0.memory.get().unwrap();
        self.0.at_barrier.replace([bytes_of(memory.sq), bytes_of(memory.rq)].concat());
        self.note(Event::ToDevice);
    }

    fn from_device(&self) {
        panic!("nothing is read here");
    }

    fn wc_start(&self) {
        self.note(Event::WcStart);
    }

    fn flush(&self) {
        self.note(Event::Flush);
    }

    fn store_record(&self, slot: &AtomicU32, value: Be32) {
        let record = self.0.memory.get().unwrap().record;
        let index = record.iter().position(|s| core::ptr::eq(s, slot)).unwrap();
        Device.store_record(slot, value);
        self.note(Event::Record(index, slot.load(Ordering::Relaxed).to_le_bytes()));
    }

    fn write_register(&self, register: &AtomicU64, word: u64) {
        Device.write_register(register, word);
        self.note(Event::Register(self.line(register), word.to_le_bytes()));
    }

    fn copy_block(&self, register: &Line, block: &Line) {
        Device.copy_block(register, block);
        let bytes = bytes_of(core::slice::from_ref(register));
        assert_eq!(bytes, bytes_of(core::slice::from_ref(block)));
        self.note(Event::Block(self.line(&raw const register.words()[0]), bytes));
    }
}

struct Rig {
    qp: TestQp<Recorder>,
    recorder: Recorder,
    memory: &'static Memory,
}

fn rig(shape: Shape) -> Rig {
    let recorder = Recorder::default();
    let (qp, memory) = open(shape, recorder.clone());
    let memory: &'static Memory = Box::leak(Box::new(memory));
    recorder.0.memory.set(Some(memory));
    Rig { qp, recorder, memory }
}

impl Rig {
    fn inline(&self, length: usize) {
        let bytes = vec![0x5a; length];
        let at = self.qp.sq().tracker().pi();
        self.qp.with_sq_wqe(|w| w.send(NONE).inline(&bytes).finish_signaled(1)).unwrap();
        assert_eq!(self.recorder.take(), [], "a WQE that is staged is nobody's business");
        let passes = usize::from(at % 16) * 64 + 20 + length > 1024;
        let begins = if passes { at.next_multiple_of(16) } else { at };
        let wraps = self.qp.sq().complete(begins).is_err();
        if wraps {
            self.qp.sq().complete(at).unwrap();
        }
    }

    fn plain(&self) {
        let at = self.qp.sq().tracker().pi();
        self.qp.with_sq_wqe(|w| w.read(NONE, 1, 2).sge(sge(3, 4, 5)).finish_signaled(1)).unwrap();
        self.qp.sq().complete(at).unwrap();
    }

    /// Rings; what the device saw, from the first barrier on.
    fn ring(&self) -> Vec<Event> {
        self.qp.ring_doorbell();
        let at_barrier = self.recorder.0.at_barrier.take();
        let now = [bytes_of(self.memory.sq), bytes_of(self.memory.rq)].concat();
        assert_eq!(at_barrier, now, "a word of a WQE was stored after the barrier");
        self.recorder.take()
    }

    /// The doorbell of eight bytes: those of the control segment that was staged last.
    fn eight(&self, half: usize, last: u16) -> Vec<Event> {
        let at = usize::from(last % 16) * 64;
        let first = bytes_of(self.memory.sq)[at..at + 8].try_into().unwrap();
        self.around(Event::Register(half, first))
    }

    fn around(&self, event: Event) -> Vec<Event> {
        self.around_all([event])
    }

    fn around_all(&self, events: impl IntoIterator<Item = Event>) -> Vec<Event> {
        let [a, b] = self.qp.sq().tracker().pi().to_be_bytes();
        let mut all = vec![Event::ToDevice, Event::Record(1, [0, 0, a, b]), Event::WcStart];
        all.extend(events);
        all.push(Event::Flush);
        all
    }

    /// The doorbell by BlueFlame.
    fn blocks(&self, half: usize, start: u16, count: usize) -> Vec<Event> {
        let ring = bytes_of(self.memory.sq);
        let block = |i: usize| {
            let at = (usize::from(start) % 16 + i) * 64;
            Event::Block(half + i, ring[at..at + 64].to_vec())
        };
        self.around_all((0..count).map(block))
    }
}

#[test]
fn stores_barriers_and_registers_come_in_their_order_and_halves_in_turn() {
    let rig = rig(SHAPE);
    assert_eq!(rig.qp.ring_doorbell(), 0);
    assert_eq!(rig.recorder.take(), [], "nothing is staged");
    let mut half = 0;
    for round in 0..20 {
        let at = rig.qp.sq().tracker().pi();
        if round % 2 == 0 {
            rig.plain();
            assert_eq!(rig.ring(), rig.eight(half, at));
        } else {
            rig.inline(20);
            assert_eq!(rig.ring(), rig.blocks(half, at, 1));
        }
        half ^= 4;
    }
}

#[test]
fn one_doorbell_publishes_a_batch_and_names_its_last_wqe() {
    let rig = rig(SHAPE);
    for count in 2..7 {
        let mut last = 0;
        for _ in 0..count {
            last = rig.qp.sq().tracker().pi();
            rig.inline(10);
        }
        assert_eq!(rig.qp.sq().staged(), count);
        assert_eq!(rig.ring(), rig.eight(usize::from(count % 2) * 4, last));
    }
}

/// What goes by BlueFlame, and what must not.
#[test]
fn blue_flame_takes_one_wqe_in_one_piece_that_fits() {
    let rig = rig(SHAPE);
    // Four blocks are a half.
    rig.inline(256 - 20);
    assert_eq!(rig.ring(), rig.blocks(0, 0, 4));
    for _ in 4..14 {
        rig.plain();
    }
    assert_eq!(rig.ring(), rig.eight(4, 13));
    // Two blocks are left, it has three: fill comes first, and the device has to fetch that.
    rig.inline(128);
    assert_eq!(rig.qp.sq().tracker().pi(), 19);
    assert_eq!(rig.ring(), rig.eight(0, 16));

    let long = Shape { blocks: 16, wqe_blocks_max: 8, ..SHAPE };
    let rig = self::rig(long);
    rig.inline(257 - 20);
    assert_eq!(rig.ring(), rig.eight(0, 0), "more than a half");

    let rig = self::rig(Shape { straddle: Straddle::Wrap, ..SHAPE });
    for _ in 0..14 {
        rig.plain();
    }
    rig.ring();
    rig.inline(128);
    assert_eq!(rig.qp.sq().tracker().pi(), 17);
    assert_eq!(rig.ring(), rig.eight(4, 14), "it lies in two pieces");

    let rig = self::rig(Shape { blue_flame: BlueFlame::Never, ..SHAPE });
    rig.inline(20);
    assert_eq!(rig.ring(), rig.eight(0, 0));

    let rig = self::rig(Shape { blue_flame: BlueFlame::Always, ..SHAPE });
    rig.plain();
    assert_eq!(rig.ring(), rig.blocks(0, 0, 1));
    rig.qp.with_sq_wqe(|w| w.nop(NONE).finish_unsignaled()).unwrap();
    assert_eq!(rig.ring(), rig.eight(4, 1), "a control segment alone is shorter by eight bytes");
}

/// A device without BlueFlame has one register.
#[test]
fn one_register_is_used_every_time() {
    let recorder = Recorder::default();
    let memory: &'static Memory = Box::leak(Box::new(Memory {
        sq: lines(16),
        rq: lines(1),
        record: Box::leak(Box::new([AtomicU32::new(0), AtomicU32::new(0)])),
        uar: lines(1),
    }));
    recorder.0.memory.set(Some(memory));
    let config = QpConfig {
        qpn: QPN,
        transport: Transport::Rc { path: None },
        send: SendConfig::DEFAULT,
        recv: None,
    };
    let of = QpMemory { sq: memory.sq, rq: &[], record: memory.record, uar: memory.uar };
    let qp = Qp::place(&arena(1 << 12), config, of, recorder.clone()).unwrap();
    let rig = Rig { qp, recorder, memory };
    for round in 0..4 {
        rig.inline(20);
        assert_eq!(rig.ring(), rig.eight(0, round));
    }
}

#[test]
fn receives_are_published_by_the_record_alone() {
    let recv = Some(RecvConfig { wqes: 4, sge_max: 2 });
    let rig = rig(Shape { recv, ..SHAPE });
    let rq = rig.qp.rq().unwrap();
    for count in 1..=3_u16 {
        for _ in 0..count {
            rig.qp.with_rq_wqe(|w| w.sge(sge(1, 2, 3)).finish(1)).unwrap();
        }
        assert_eq!(rig.recorder.take(), []);
        assert_eq!(rq.staged(), count);
        let [a, b] = rq.tracker().pi().to_be_bytes();
        assert_eq!(rig.ring(), [Event::ToDevice, Event::Record(0, [0, 0, a, b])]);
        while !rq.tracker().is_empty() {
            rq.complete(rq.tracker().ci()).unwrap();
        }
    }
    assert_eq!(rig.ring_nothing(), []);
}

impl Rig {
    fn ring_nothing(&self) -> Vec<Event> {
        self.qp.ring_doorbell();
        self.recorder.take()
    }
}

/// The record counts 16 bits and begins anew; after a reset of the queue pair it is 0 again.
#[test]
fn the_record_has_sixteen_bits() {
    let rig = rig(SHAPE);
    for _ in 0..u16::MAX {
        rig.plain();
    }
    assert_eq!(rig.ring()[1], Event::Record(1, [0, 0, 0xff, 0xff]));
    rig.plain();
    assert_eq!(rig.ring()[1], Event::Record(1, [0; 4]));
    rig.plain();
    rig.qp.sq().restart().unwrap();
    assert_eq!(rig.recorder.take(), [Event::Record(1, [0; 4])]);
    assert_eq!((rig.qp.sq().tracker().pi(), rig.qp.sq().staged()), (0, 0));
}
