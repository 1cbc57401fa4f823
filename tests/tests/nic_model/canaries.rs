//! Each thing that a driver can do wrong is done once, and the model has to say which it was.

use spinwire_tests::sim::nic::bytes::{poison, write_lines};
use spinwire_tests::sim::nic::wqe::opcode;
use spinwire_tests::sim::nic::{Fault, Manner};

use crate::hand::{
    Hand, KEY, RECEIVES, SIGNALED, START, Shape, ctrl, data, inline, memory, raddr, request,
};

/// What the model says to whatever `act` does.
fn says(shape: Shape, act: impl FnOnce(&mut Hand<'_>)) -> Vec<Fault> {
    let memory = memory(&shape);
    let mut hand = Hand::new(&memory, shape, Manner { timeout: 50, ..Manner::default() });
    for number in 0..u16::try_from(RECEIVES).unwrap() {
        hand.receive(1, number, 0, 256);
    }
    act(&mut hand);
    hand.fabric.settle(20_000);
    hand.faults()
}

fn say(act: impl FnOnce(&mut Hand<'_>)) -> Vec<Fault> {
    says(Shape::default(), act)
}

/// A message of one block.
fn send(index: u16, flags: u8) -> Vec<u8> {
    request(index, opcode::SEND, flags, &[inline(b"message")])
}

/// Fills the first lap of the ring with messages.
fn lap(hand: &mut Hand<'_>) {
    for index in 0..8 {
        hand.post(index, &send(index, SIGNALED));
    }
    hand.consumed(0, 0, 8);
    hand.consumed(1, 1, 8);
    for number in 8..16 {
        hand.receive(1, number, 0, 256);
    }
}

#[test]
fn nothing_is_said_of_what_is_right() {
    assert_eq!(say(lap), []);
}

#[test]
fn blocks_of_an_older_lap() {
    // Published, and not written: as it was left a lap ago, whether the model has written over it or not.
    let stale = |hand: &mut Hand<'_>| {
        lap(hand);
        hand.record(9);
        hand.ring(&ctrl(8, opcode::SEND, 2, SIGNALED, 0)[..8]);
    };
    assert!(say(stale).contains(&Fault::StaleBlock));
    let stale_as_left = |hand: &mut Hand<'_>| {
        hand.fabric.manner.poisons = false;
        stale(hand);
    };
    assert!(say(stale_as_left).contains(&Fault::StaleBlock));
    // The head is new; the second block, with the data, is of the lap before.
    let faults = say(|hand| {
        lap(hand);
        let bytes = request(8, opcode::SEND, SIGNALED, &[inline(&[5; 100])]);
        hand.write(8, &bytes[..64]);
        hand.record(10);
        hand.ring(&bytes[..8]);
    });
    assert_eq!(faults, [Fault::StaleBlock]);
    // One unit in the middle was forgotten.
    let faults = say(|hand| {
        lap(hand);
        let bytes = request(8, opcode::RDMA_WRITE, SIGNALED, &[raddr(0, 0), data(1, 1, 1)]);
        hand.write(8, &bytes[..16]);
        write_lines(&hand.memory[0].sq, 32, &bytes[32..]);
        hand.record(9);
        hand.ring(&bytes[..8]);
    });
    assert_eq!(faults, [Fault::StaleBlock]);
}

#[test]
fn record_and_register() {
    let post = |hand: &mut Hand<'_>, end: u16| {
        hand.write(0, &send(0, SIGNALED));
        hand.record(end);
    };
    let ring = |hand: &mut Hand<'_>, index| hand.ring(&send(index, SIGNALED)[..8]);
    assert_eq!(say(|hand| post(hand, 1)), [Fault::RecordWithoutDoorbell]);
    let late = say(|hand| {
        hand.write(0, &send(0, SIGNALED));
        ring(hand, 0);
        hand.fabric.step();
    });
    assert_eq!(late, [Fault::RecordMismatch], "rung before the record was stored");
    let short = say(|hand| {
        hand.write(1, &send(1, SIGNALED));
        post(hand, 2);
        ring(hand, 0);
    });
    assert_eq!(short, [Fault::RecordMismatch], "rung for the first of two");
    let far = say(|hand| {
        post(hand, 3);
        ring(hand, 0);
    });
    assert!(far.contains(&Fault::RecordMismatch), "{far:?}");
    let wrong_slot = say(|hand| {
        hand.write(0, &send(0, SIGNALED));
        hand.store(0, 0, 0, 1_u32.to_be_bytes());
        ring(hand, 0);
    });
    assert!(wrong_slot.contains(&Fault::RecordMismatch), "{wrong_slot:?}");
    let back = say(|hand| {
        lap(hand);
        hand.record(7);
        ring(hand, 6);
    });
    assert_eq!(back, [Fault::RecordBackwards]);
    let wide = say(|hand| {
        hand.write(0, &send(0, SIGNALED));
        hand.store(0, 0, 1, [1, 0, 0, 1]);
        ring(hand, 0);
    });
    assert_eq!(wide, [Fault::RecordTooWide]);
    let little_endian = say(|hand| {
        hand.write(0, &send(0, SIGNALED));
        hand.store(0, 0, 1, [1, 0, 0, 0]);
        ring(hand, 0);
    });
    assert_eq!(little_endian, [Fault::RecordTooWide]);
    let halves = say(|hand| {
        hand.post(0, &send(0, SIGNALED));
        ring(hand, 9);
        hand.fabric.listen();
        hand.fabric.violations.clear();
        hand.post(1, &send(1, SIGNALED));
        hand.fabric.settle(100);
    });
    assert_eq!(halves, []);
    let same = say(|hand| {
        for index in 0..2 {
            hand.write(usize::from(index), &send(index, SIGNALED));
            hand.record(index + 1);
            write_lines(&hand.memory[0].register, 0, &send(index, SIGNALED)[..8]);
            hand.fabric.settle(100);
        }
    });
    assert_eq!(same, [Fault::SameHalfTwice]);
}

#[test]
fn slots_that_are_not_over() {
    // Nine messages in eight blocks, none of which has completed.
    let faults = say(|hand| {
        for index in 0..9 {
            hand.write(usize::from(index), &send(index, 0));
        }
        hand.record(9);
        hand.ring(&send(8, 0)[..8]);
    });
    assert!(faults.contains(&Fault::Overrun), "{faults:?}");
    // They are done, but nobody can know: none asked for a completion.
    let faults = say(|hand| {
        for index in 0..9 {
            hand.post(index, &send(index, 0));
        }
    });
    assert_eq!(faults, [Fault::Overrun]);
    // Written while it is under way, without a doorbell.
    let faults = say(|hand| {
        hand.fabric.manner.cut = true;
        hand.write(0, &send(0, SIGNALED));
        hand.record(1);
        hand.ring(&send(0, SIGNALED)[..8]);
        hand.fabric.step();
        hand.write(0, &request(8, opcode::SEND, SIGNALED, &[inline(b"another")]));
    });
    assert_eq!(faults, [Fault::ChangedAfterDoorbell]);
    // What it sends is as it was, and is changed.
    let faults = say(|hand| {
        hand.fabric.manner.cut = true;
        let bytes = request(0, opcode::SEND, SIGNALED, &[data(8, KEY[0], START[0])]);
        hand.post(0, &bytes[..]);
        hand.fabric.violations.clear();
    });
    assert_eq!(faults, []);
    let faults = say(|hand| {
        hand.fabric.manner.cut = true;
        let bytes = request(0, opcode::SEND, SIGNALED, &[data(8, KEY[0], START[0])]);
        hand.write(0, &bytes);
        hand.record(1);
        hand.ring(&bytes[..8]);
        hand.fabric.step();
        hand.fabric.step();
        hand.put(0, 3, b"!");
    });
    assert_eq!(faults, [Fault::PayloadChanged]);
}

/// What is done to a good request, and what it is then.
type Way = (&'static str, fn(&mut Vec<u8>), Fault);

#[test]
fn every_field_that_is_validated() {
    let ways: [Way; 16] = [
        ("index", |b| b[2] = 5, Fault::WrongIndex),
        ("index of a lap before", |b| b[1] = 0xFF, Fault::StaleBlock),
        ("queue", |b| b[6] = 0x12, Fault::WrongQpn),
        ("size 0", |b| b[7] = 0, Fault::BadSize),
        ("size beyond the record", |b| b[7] = 9, Fault::BadSize),
        ("size without the address", |b| b[7] = 1, Fault::BadSize),
        ("opcode", |b| b[3] = 0x77, Fault::BadOpcode),
        ("modifier", |b| b[0] = 1, Fault::BadModifier),
        ("signature", |b| b[8] = 1, Fault::Reserved(8)),
        ("stream", |b| b[10] = 1, Fault::Reserved(10)),
        ("fence", |b| b[11] |= 0xA0, Fault::BadFlags),
        ("reserved flag", |b| b[11] |= 1, Fault::BadFlags),
        ("completion", |b| b[11] |= 4, Fault::BadFlags),
        ("immediate", |b| b[15] = 1, Fault::Reserved(15)),
        ("after the key", |b| b[28] = 1, Fault::Reserved(28)),
        ("no bytes", |b| b[32..36].fill(0), Fault::BadData),
    ];
    let good = || {
        let pieces = [raddr(START[1], KEY[1]), data(8, KEY[0], START[0])];
        request(0, opcode::RDMA_WRITE, SIGNALED, &pieces)
    };
    let publish = |hand: &mut Hand<'_>, bytes: &[u8]| {
        hand.write(0, bytes);
        hand.record(1);
        hand.ring(&bytes[..8]);
    };
    assert_eq!(say(|hand| publish(hand, &good())), []);
    for (what, way, fault) in ways {
        let mut failed = None;
        let faults = say(|hand| {
            let mut bytes = good();
            way(&mut bytes);
            publish(hand, &bytes);
            hand.fabric.settle(1000);
            failed = hand.cqe(0, 0, 0);
        });
        assert!(faults.contains(&fault), "{what}: {faults:?}");
        let entry = failed.expect("it has a completion");
        assert_eq!((entry[63] >> 4, entry[55]), (13, 0x02), "{what}: local operation");
    }
    let pieces = |code, segments: &[Vec<u8>]| {
        let bytes = request(0, code, SIGNALED, segments);
        say(|hand| publish(hand, &bytes))
    };
    let far = || raddr(START[1], KEY[1]);
    let inline_longer = [[0x80, 0, 0, 13].to_vec(), vec![1; 12]].concat();
    let inline_empty = [[0x80, 0, 0, 0].to_vec(), vec![0; 12]].concat();
    assert_eq!(pieces(opcode::SEND, &[inline_longer]), [Fault::BadInline]);
    assert_eq!(pieces(opcode::SEND, &[inline_empty]), [Fault::BadInline]);
    assert_eq!(pieces(opcode::RDMA_READ, &[far(), inline(b"?")]), [Fault::BadInline]);
    let near = |length| data(length, KEY[0], START[0]);
    assert_eq!(
        pieces(opcode::ATOMIC_CS, &[far(), vec![0; 16], near(4)]),
        [Fault::BadData],
        "room for the answer"
    );
    assert_eq!(pieces(opcode::ATOMIC_CS, &[far(), vec![0; 16]]), [Fault::BadData]);
    assert_eq!(pieces(opcode::RDMA_WRITE, &[]), [Fault::BadSize]);
    assert_eq!(pieces(opcode::ATOMIC_MASKED_CS, &[far(), vec![0; 16]]), [Fault::BadModifier]);
    let long = request(0, opcode::SEND, SIGNALED, &[inline(&[1; 257])]);
    let faults = say(|hand| {
        hand.write(0, &long);
        hand.record(5);
        hand.ring(&long[..8]);
    });
    assert_eq!(faults, [Fault::BadInline], "more than the queue takes");
}

#[test]
fn the_register_and_the_ring() {
    let bytes = send(0, SIGNALED);
    let faults = say(|hand| {
        hand.write(0, &bytes);
        hand.record(1);
        let mut other = bytes.clone();
        other[21] ^= 1;
        hand.ring(&other);
    });
    assert_eq!(faults, [Fault::RegisterDiffers]);
    let faults = say(|hand| {
        hand.write(0, &bytes);
        hand.write(1, &send(1, SIGNALED));
        hand.record(2);
        hand.ring(&send(1, SIGNALED));
    });
    assert_eq!(faults, [Fault::RegisterOfBatch]);
    let faults = say(|hand| {
        hand.write(0, &bytes);
        hand.record(1);
        let mut other = bytes[..8].to_vec();
        other[6] = 0x12;
        hand.ring(&other);
    });
    assert!(faults.contains(&Fault::UnknownQueue), "{faults:?}");
}

#[test]
fn completion_queues() {
    let shape = Shape { cq_entries: 4, ..Shape::default() };
    let faults = says(shape, |hand| (0..5).for_each(|at| hand.post(at, &send(at, SIGNALED))));
    assert!(faults.contains(&Fault::CqOverrun), "{faults:?}");
    let ahead = say(|hand| {
        hand.post(0, &send(0, SIGNALED));
        hand.consumed(0, 0, 2);
    });
    assert_eq!(ahead, [Fault::CqRecord]);
    let back = say(|hand| {
        lap(hand);
        hand.fabric.listen();
        hand.consumed(0, 0, 7);
    });
    assert_eq!(back, [Fault::CqRecord]);
    let wide = say(|hand| hand.consumed(0, 0, 0x0100_0000));
    assert_eq!(wide, [Fault::RecordTooWide]);
}

#[test]
fn receives_of_an_older_lap() {
    for shared in [false, true] {
        let shape = Shape { shared, ..Shape::default() };
        let faults = says(shape, |hand| {
            lap(hand);
            // The ninth has a range, and no end behind it.
            let at = if shared { 16 } else { 0 };
            write_lines(&hand.memory[1].rq, at + 16, &poison(0).to_le_bytes());
            hand.post(8, &send(8, 0));
        });
        assert_eq!(faults, [Fault::StaleBlock]);
    }
}

#[test]
fn receive_queues() {
    let nine = u16::try_from(RECEIVES).unwrap();
    let over = say(|hand| hand.receive(1, nine, 0, 64));
    assert_eq!(over, [Fault::RecvOverrun]);
    let back = say(|hand| {
        hand.fabric.listen();
        hand.store(1, 0, 0, 3_u32.to_be_bytes());
    });
    assert_eq!(back, [Fault::RecordBackwards]);
    let shape = Shape { shared: true, ..Shape::default() };
    let over = says(shape, |hand| hand.receive(1, nine, 0, 64));
    assert_eq!(over, [Fault::RecvOverrun]);
    // The list leads back to an entry that was taken and whose completion nobody has seen.
    for (next, fault) in [(0_u16, Fault::BadNext), (8, Fault::BadNext)] {
        let faults = says(shape, |hand| {
            write_lines(&hand.memory[1].rq, 2, &next.to_be_bytes());
            for index in 0..2 {
                hand.write(usize::from(index), &send(index, 0));
            }
            hand.record(2);
            hand.ring(&send(1, 0)[..8]);
            for _ in 0..2000 {
                hand.fabric.step();
            }
            hand.fabric.manner.cut = true;
        });
        let seen = faults.contains(&fault);
        // Whether the first has its completion before the second asks is up to the seed; an entry that is not there is always found.
        assert!(seen || next == 0, "{faults:?}");
    }
    let reserved = says(shape, |hand| {
        write_lines(&hand.memory[1].rq, 4, &[1]);
        hand.write(0, &send(0, 0));
        hand.record(1);
        hand.ring(&send(0, 0)[..8]);
        for _ in 0..200 {
            hand.fabric.step();
        }
        hand.fabric.manner.cut = true;
    });
    assert!(reserved.contains(&Fault::Reserved(4)), "{reserved:?}");
}
