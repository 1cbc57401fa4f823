//! The queue alone: whose turn an entry is, what is read of it and when, what the device is told.

use core::cell::{Cell, RefCell};
use core::panic::AssertUnwindSafe;
use std::collections::VecDeque;
use std::panic::catch_unwind;

use spinwire_dataplane::cq::{
    Arrival, Compression, Cq, CqError, CqMemory, Cqe, EntryBytes, Failure, MiniFormat, Notify, Odd,
    Side, Syndrome,
};
use spinwire_dataplane::error::Retry;
use spinwire_dataplane::raw::line::Line;
use spinwire_dataplane::raw::mmio::{Bus, CoherentDevice, Device};
use spinwire_dataplane::sync::{AtomicU32, AtomicU64, Ordering};
use spinwire_layouts::endian::Be32;
use spinwire_tests::rng::Rng;

use crate::device::{Fields, REQ, REQ_ERR, RESP_ERR, RESP_SEND, Ring};

fn sent(counter: u16) -> Fields {
    Fields { opcode: REQ, qpn: 0x12_3456, counter, wqe_opcode: 0x0a, ..Fields::default() }
}

fn counters<B: Bus>(cq: &Cq<'_, B>, budget: u32) -> Vec<u16> {
    let mut seen = Vec::new();
    let count = cq.poll(budget, |cqe| match cqe {
        Cqe::Sent(cqe) => seen.push(cqe.wqe_counter()),
        other => panic!("{other:?}"),
    });
    assert_eq!(usize::try_from(count).unwrap(), seen.len());
    seen
}

#[test]
fn entries_are_taken_once_in_order_over_many_laps() {
    taken_once_in_order(Device);
    taken_once_in_order(CoherentDevice);
}

fn taken_once_in_order(bus: impl Bus + Copy) {
    for (entries, bytes) in [(1, 64), (2, 64), (8, 128), (64, 64)] {
        let ring = Ring::new(entries, bytes);
        let cq = Cq::new(ring.memory(), Compression::Off, bus).unwrap();
        let (mut rng, mut expected, mut next) = (Rng::new(3), 0_u16, 0_u16);
        for _ in 0..2000 {
            for _ in 0..rng.index(ring.room() + 1) {
                ring.push(sent(next));
                next = next.wrapping_add(1);
            }
            let budget = rng.index(40);
            let waiting = usize::from(next.wrapping_sub(expected));
            let seen = counters(&cq, u32::try_from(budget).unwrap());
            assert_eq!(seen.len(), waiting.min(budget));
            for counter in seen {
                assert_eq!(counter, expected);
                expected = expected.wrapping_add(1);
            }
            assert_eq!(ring.told(), cq.ci());
        }
    }
}

#[test]
fn entries_of_zeros_are_not_completions() {
    let ring = Ring::new(4, 64);
    let cq = ring.cq(Compression::Off);
    assert_eq!((counters(&cq, 9), ring.told()), (vec![], 0));
    // Nor are those that rdma-core has marked invalid, with the owner bit of the first lap.
    let invalid = Fields { opcode: 15, ..sent(0) }.bytes();
    (0..4).for_each(|position| ring.write(position, &invalid));
    assert_eq!((counters(&cq, 9), ring.told()), (vec![], 0));
}

/// Writes the rest of an entry only when the barrier is passed, as a device might that was seen half way.
struct Late<'r> {
    ring: &'r Ring,
    rest: RefCell<Vec<(usize, [u8; 64])>>,
    log: RefCell<Vec<String>>,
}

impl Bus for Late<'_> {
    fn to_device(&self) {
        self.log.borrow_mut().push("to_device".into());
    }

    fn from_device(&self) {
        self.log.borrow_mut().push("from_device".into());
        for (position, bytes) in self.rest.borrow_mut().drain(..) {
            self.ring.write(position, &bytes);
        }
    }

    fn wc_start(&self) {
        self.log.borrow_mut().push("wc_start".into());
    }

    fn flush(&self) {
        self.log.borrow_mut().push("flush".into());
    }

    fn store_record(&self, slot: &AtomicU32, value: Be32) {
        self.log.borrow_mut().push(format!("record {:#x}", value.get()));
        Device.store_record(slot, value);
    }

    fn write_register(&self, register: &AtomicU64, word: u64) {
        self.log.borrow_mut().push(format!("register {:#x}", word.swap_bytes()));
        Device.write_register(register, word);
    }

    fn copy_block(&self, _register: &Line, _block: &Line) {
        panic!("a completion queue has no BlueFlame");
    }
}

impl Late<'_> {
    /// The owner bit of the next entry is there, the rest comes with the barrier.
    fn push(&self, fields: Fields) {
        let position = self.ring.pi.get();
        let mut bytes = fields.bytes();
        bytes[63] |= self.ring.lap(position) & 1;
        let mut early = [0xAA; 64];
        early[63] = bytes[63];
        self.ring.write(position, &early);
        self.rest.borrow_mut().push((position, bytes));
        self.ring.pi.set(position + 1);
    }
}

#[test]
fn nothing_of_an_entry_is_believed_before_the_barrier() {
    let ring = Ring::new(8, 64);
    let bus = Late { ring: &ring, rest: RefCell::default(), log: RefCell::default() };
    let cq = Cq::new(ring.memory(), Compression::Off, &bus).unwrap();
    let mut next = 0;
    for count in [1, 3, 8, 2, 7] {
        bus.log.borrow_mut().clear();
        for counter in next..next + count {
            bus.push(sent(counter));
        }
        assert_eq!(counters(&cq, 100), Vec::from_iter(next..next + count));
        next += count;
        assert_eq!(*bus.log.borrow(), ["from_device".into(), format!("record {next:#x}")]);
    }
    bus.log.borrow_mut().clear();
    assert_eq!((counters(&cq, 9), bus.log.borrow().len()), (vec![], 0), "nothing for nothing");
}

#[test]
fn compressed_queues_pass_the_barrier_too() {
    let ring = Ring::new(8, 64);
    let bus = Late { ring: &ring, rest: RefCell::default(), log: RefCell::default() };
    let cq = Cq::new(ring.memory(), Compression::Basic(MiniFormat::Hash), &bus).unwrap();
    bus.push(sent(5));
    assert_eq!(counters(&cq, 100), [5]);
}

#[test]
fn a_wish_for_an_event_goes_out_in_order() {
    let ring = Ring::new(8, 64);
    let register = AtomicU64::new(0);
    let bus = Late { ring: &ring, rest: RefCell::default(), log: RefCell::default() };
    let memory = CqMemory { register: Some(&register), ..ring.memory() };
    let cq = Cq::new(memory, Compression::Off, &bus).unwrap();
    ring.push(sent(0));
    assert_eq!(counters(&cq, 1), [0]);
    bus.log.borrow_mut().clear();
    assert!(cq.arm(Notify::Any));
    cq.note_event();
    assert!(cq.arm(Notify::Solicited));
    assert_eq!(
        *bus.log.borrow(),
        [
            "record 0x1",
            "wc_start",
            "register 0x100000055",
            "flush",
            "record 0x11000001",
            "wc_start",
            "register 0x1100000100000055",
            "flush"
        ]
    );
    assert_eq!(u32::from_be(ring.record[1].load(Ordering::Relaxed)), 0x1100_0001);
    assert!(!ring.cq(Compression::Off).arm(Notify::Any), "there is no register");
}

#[test]
fn of_an_error_only_status_and_name_are_read() {
    let ring = Ring::new(16, 64);
    let cq = ring.cq(Compression::Off);
    // Whatever the format bits of an error are, they mean nothing.
    for format in 0..4 {
        for (opcode, side) in [(REQ_ERR, Side::Send), (RESP_ERR, Side::Receive)] {
            let fields = Fields { syndrome: 0x13, vendor: 0x88, format, opcode, ..sent(0xfffe) };
            ring.push(Fields { wqe_opcode: 0xee, ..fields });
            let count = cq.poll(1, |cqe| {
                let Cqe::Failed(failure) = cqe else { panic!("{cqe:?}") };
                let (qpn, syndrome) = (0x12_3456, Syndrome(0x13));
                let expected = Failure { side, qpn, wqe_counter: 0xfffe, syndrome, vendor: 0x88 };
                assert_eq!(failure, expected);
            });
            assert_eq!(count, 1);
        }
    }
    assert_eq!(cq.counts().failed, 8);
    assert!(Syndrome(5).is_flush() && !Syndrome(0x13).is_flush());
    let said = Syndrome(0x13).to_string();
    assert!(said.contains("remote access") && said.contains("0x13"), "{said}");
}

#[test]
fn what_makes_no_sense_is_odd_and_counted() {
    let ring = Ring::new(8, 64);
    let cq = ring.cq(Compression::Off);
    let odd = [
        Fields { opcode: 5, ..sent(1) },
        Fields { opcode: 6, ..sent(2) },
        Fields { opcode: 12, ..sent(3) },
        Fields { format: 3, ..sent(4) },
        Fields { format: 1, bytes: 33, ..sent(5) },
        Fields { format: 2, bytes: 8, ..sent(6) },
    ];
    odd.iter().for_each(|fields| ring.push(*fields));
    let mut seen = Vec::new();
    cq.poll(100, |cqe| match cqe {
        Cqe::Odd(Odd { op_own, qpn: 0x12_3456, wqe_counter }) => seen.push((op_own, wqe_counter)),
        other => panic!("{other:?}"),
    });
    let expected = odd.map(|fields| ((fields.opcode << 4) | (fields.format << 2), fields.counter));
    assert_eq!(seen, expected);
    assert_eq!(cq.counts().odd, 6);
}

#[test]
fn data_within_a_completion_is_handed_out() {
    let ring = Ring::new(4, 128);
    let cq = ring.cq(Compression::Off);
    let message: [u8; 64] = core::array::from_fn(|i| u8::try_from(i + 1).unwrap());
    let check = |length: usize| {
        let seen = Cell::new(0);
        cq.poll(1, |cqe| {
            let Cqe::Received(cqe) = cqe else { panic!("{cqe:?}") };
            let inline = cqe.inline().unwrap();
            assert_eq!((inline.len(), inline.is_empty()), (length, length == 0));
            let mut out = [0; 80];
            assert_eq!(inline.copy_out(&mut out), length);
            assert_eq!((&out[..length], out[length]), (&message[..length], 0));
            assert_eq!(inline.copy_out(&mut out[..5.min(length)]), 5.min(length));
            seen.set(1);
        });
        assert_eq!(seen.get(), 1, "{length}");
    };
    for length in [0, 1, 8, 31, 32] {
        // The first 32 bytes of the entry itself.
        let bytes = u32::try_from(length).unwrap();
        let mut cqe = Fields { opcode: RESP_SEND, format: 1, bytes, ..sent(0) }.bytes();
        cqe[..32].copy_from_slice(&message[..32]);
        cqe[63] |= ring.lap(ring.pi.get()) & 1;
        ring.write(ring.pi.replace(ring.pi.get() + 1), &cqe);
        check(length);
    }
    for length in [0, 33, 63, 64] {
        // The 64 bytes before it.
        ring.write_line(ring.pi.get() % 4 * 2, &message);
        let bytes = u32::try_from(length).unwrap();
        ring.push(Fields { opcode: RESP_SEND, format: 2, bytes, ..sent(0) });
        check(length);
    }
    ring.push(Fields { opcode: RESP_SEND, format: 2, bytes: 65, ..sent(0) });
    cq.poll(1, |cqe| assert!(matches!(cqe, Cqe::Odd(_)), "{cqe:?}"));
}

#[test]
fn the_fields_of_a_receive_lie_where_the_header_says() {
    let ring = Ring::new(8, 64);
    let cq = ring.cq(Compression::Off);
    let arrivals = [
        (1, Arrival::WriteImm(0xdead_beef)),
        (2, Arrival::Send),
        (3, Arrival::SendImm(0xdead_beef)),
        (4, Arrival::SendInvalidate(0xdead_beef)),
    ];
    for (opcode, expected) in arrivals {
        let fields = Fields { opcode, bytes: 0x0102_0304, imm: 0xdead_beef, ..sent(9) };
        let mut cqe = fields.bytes();
        cqe[24..28].copy_from_slice(&0x3abc_def0_u32.to_be_bytes());
        cqe[32..36].copy_from_slice(&0xff00_0007_u32.to_be_bytes());
        cqe[48..56].copy_from_slice(&0x1122_3344_5566_7788_u64.to_be_bytes());
        cqe[63] |= 1 << 1;
        ring.write(ring.pi.replace(ring.pi.get() + 1), &cqe);
        let count = cq.poll(1, |cqe| {
            let Cqe::Received(cqe) = cqe else { panic!("{cqe:?}") };
            assert_eq!((cqe.arrival(), cqe.bytes()), (expected, 0x0102_0304));
            assert_eq!((cqe.qpn(), cqe.wqe_counter(), cqe.srqn()), (0x12_3456, 9, 7));
            assert_eq!((cqe.source_qpn(), cqe.has_grh()), (0x00bc_def0, true));
            assert_eq!(cqe.timestamp(), 0x1122_3344_5566_7788);
            assert!(cqe.is_solicited() && cqe.inline().is_none() && cqe.short_info().is_none());
        });
        assert_eq!(count, 1);
    }
    for (wqe_opcode, bytes) in [(0x10, 77), (0x11, 8), (0x12, 8), (0x14, 77), (0x08, 0), (0x0a, 0)]
    {
        let cq = &cq;
        // Taken by the loop above: four; each of these is one more.
        ring.push(Fields { wqe_opcode, bytes: 77, ..sent(1) });
        cq.poll(1, |cqe| {
            let Cqe::Sent(cqe) = cqe else { panic!("{cqe:?}") };
            assert_eq!((cqe.opcode(), cqe.bytes()), (wqe_opcode, bytes));
        });
    }
}

#[test]
fn a_poll_within_a_poll_does_nothing_and_a_panic_ends_it() {
    let ring = Ring::new(8, 64);
    let cq = ring.cq(Compression::Off);
    (0..4).for_each(|counter| ring.push(sent(counter)));
    assert_eq!(cq.poll(2, |_| assert_eq!(cq.poll(9, |_| panic!("within")), 0)), 2);
    let panicked = catch_unwind(AssertUnwindSafe(|| cq.poll(9, |_| panic!("planned"))));
    assert!(panicked.is_err());
    assert_eq!(counters(&cq, 9), [3], "the one whose handler panicked is over");
}

#[test]
fn what_cannot_be_a_queue_says_why() {
    let lines: Vec<Line> = (0..6).map(|_| Line::zeroed()).collect();
    let record = [AtomicU32::new(0), AtomicU32::new(0)];
    let open = |lines, entry_bytes, compression| {
        let memory = CqMemory { lines, entry_bytes, record: &record, register: None, cqn: 0 };
        Cq::new(memory, compression, Device).map(|cq| cq.entries())
    };
    let off = Compression::Off;
    assert_eq!(open(&lines[..4], EntryBytes::B128, off), Ok(2));
    assert_eq!(open(&lines[..0], EntryBytes::B64, off), Err(CqError::Entries { entries: 0 }));
    assert_eq!(open(&lines[..3], EntryBytes::B64, off), Err(CqError::Entries { entries: 3 }));
    assert_eq!(open(&lines[..5], EntryBytes::B128, off), Err(CqError::Entries { entries: 2 }));
    let packed = Compression::Basic(MiniFormat::Hash);
    assert_eq!(open(&lines[..4], EntryBytes::B128, packed), Err(CqError::CompressedWide));
}

/// What a completion says, data within it included.
fn told(cqe: &Cqe<'_>) -> (u32, u16, Vec<u8>) {
    match cqe {
        Cqe::Sent(cqe) => (cqe.qpn(), cqe.wqe_counter(), Vec::new()),
        Cqe::Received(cqe) => {
            let mut bytes = [0; 64];
            let length = cqe.inline().map_or(0, |inline| inline.copy_out(&mut bytes));
            (cqe.qpn(), cqe.wqe_counter(), bytes[..length].to_vec())
        }
        Cqe::Failed(failure) => (failure.qpn, failure.wqe_counter, vec![failure.syndrome.0]),
        Cqe::Odd(odd) => panic!("{odd:?}"),
    }
}

#[test]
fn what_a_queue_pair_left_behind_is_taken_out_and_nothing_else() {
    let mut rng = Rng::new(5);
    for (entries, bytes) in [(1, 64), (2, 128), (8, 64), (8, 128), (64, 64)] {
        let ring = Ring::new(entries, bytes);
        let cq = ring.cq(Compression::Off);
        let (mut waiting, mut next) = (VecDeque::new(), 0_u16);
        for round in 0..1500 {
            for _ in 0..rng.index(ring.room() + 1) {
                let qpn = 0x40 + u32::try_from(rng.index(3)).unwrap();
                let opcode = [REQ, RESP_SEND, REQ_ERR, RESP_ERR][rng.index(4)];
                let fields = Fields { opcode, qpn, counter: next, ..Fields::default() };
                let (fields, data) = match opcode {
                    RESP_SEND if bytes == 128 => {
                        let data = next.to_be_bytes().repeat(32);
                        (Fields { format: 2, bytes: 64, ..fields }, data)
                    }
                    REQ_ERR | RESP_ERR => (Fields { syndrome: 5, ..fields }, vec![5]),
                    _ => (fields, Vec::new()),
                };
                if let Ok(data) = data.as_slice().try_into() {
                    ring.write_line(ring.pi.get() % entries * 2, data);
                }
                ring.push(fields);
                waiting.push_back((qpn, next, data));
                next = next.wrapping_add(1);
            }
            let qpn = 0x40 + u32::try_from(rng.index(4)).unwrap();
            let (taken, left): (VecDeque<_>, VecDeque<_>) =
                waiting.into_iter().partition(|(of, ..)| *of == qpn);
            let mut seen = VecDeque::new();
            let count = cq.discard(qpn, |cqe| seen.push_back(told(&cqe))).unwrap();
            assert_eq!((usize::try_from(count).unwrap(), &seen), (taken.len(), &taken), "{round}");
            assert_eq!(ring.told(), cq.ci());
            waiting = left;
            cq.poll(u32::try_from(rng.index(12)).unwrap(), |cqe| {
                assert_eq!(Some(told(&cqe)), waiting.pop_front());
                assert_eq!(cq.discard(0x40, |_| ()), Err(Retry::WouldBlock.into()), "in a poll");
            });
        }
    }
}
