//! What a device refuses: the syndrome, at which end, and what becomes of what is behind it.

use spinwire_tests::sim::nic::memory::Access;
use spinwire_tests::sim::nic::wqe::opcode;
use spinwire_tests::sim::nic::{Flush, Manner, State, lines};

use crate::hand::{Hand, KEY, QPN, SIGNALED, START, Shape, data, inline, memory, raddr, request};

/// Opcode, syndrome and counter of an error completion.
const fn error(entry: &[u8; 64]) -> (u8, u8, u16) {
    (entry[63] >> 4, entry[55], u16::from_be_bytes([entry[60], entry[61]]))
}

/// Posts one request and says with which syndrome it fails, at either end.
fn fails(segments: &[Vec<u8>], code: u8, receive: Option<u32>) -> (Option<u8>, Option<u8>) {
    let shape = Shape { rnr_retries: 2, ..Shape::default() };
    let memory = memory(&shape);
    let read_only = lines(4);
    let mut hand = Hand::new(&memory, shape, Manner::default());
    for node in &mut hand.fabric.nodes {
        node.keys.lines((0xA00, 1), 0x1000, &read_only, Access::LOCAL_READ);
        node.keys.lines((0xB00, 2), 0x1000, &read_only, Access::ALL);
    }
    if let Some(length) = receive {
        hand.receive(1, 0, 0, length);
        hand.receive(1, 1, 0, length);
    }
    hand.post(0, &request(0, code, 0, segments));
    hand.clean();
    let syndrome = |entry: Option<[u8; 64]>, kind| {
        entry.filter(|entry| entry[63] >> 4 >= 13).map(|entry| {
            let (code, syndrome, counter) = error(&entry);
            assert_eq!((code, counter), (kind, 0));
            syndrome
        })
    };
    let (sent, got) = (syndrome(hand.cqe(0, 0, 0), 13), syndrome(hand.cqe(1, 1, 0), 14));
    let state = if sent.is_some() { State::Error } else { State::Ready };
    assert_eq!(hand.fabric.state(0, QPN[0]), state);
    (sent, got)
}

#[test]
fn each_refusal_has_its_syndrome() {
    let far = |at, key| raddr(at, key);
    let good = far(START[1], KEY[1]);
    let near = data(8, KEY[0], START[0]);
    let (write, read) = (opcode::RDMA_WRITE, opcode::RDMA_READ);
    let flushed = Some(0x05);
    // Local: no such key, out of bounds, before it, another domain, not writable.
    for place in [(1, 8), (KEY[0], 4097), (0xB00, 8)] {
        let segments = [good.clone(), data(place.1, place.0, START[0])];
        assert_eq!(fails(&segments, write, None), (Some(0x04), None), "{place:?}");
    }
    let before = [good.clone(), data(8, KEY[0], START[0] - 1)];
    assert_eq!(fails(&before, write, None), (Some(0x04), None));
    let read_only = [good, data(8, 0xA00, 0x1000)];
    assert_eq!(fails(&read_only, write, None), (None, None), "it may be read");
    assert_eq!(fails(&read_only, read, None), (Some(0x04), None), "and not written");
    // Remote: no such key, out of bounds, rights, another domain; nothing of the receives is used, but they are flushed.
    for (at, key) in [(START[1], 1), (START[1] + 4089, KEY[1]), (0x1000, 0xA00), (0x1000, 0xB00)] {
        let segments = [far(at, key), near.clone()];
        assert_eq!(fails(&segments, write, Some(64)), (Some(0x13), flushed), "{at:#x} {key:#x}");
        assert_eq!(fails(&segments, read, Some(64)), (Some(0x13), flushed), "{at:#x} {key:#x}");
    }
    // Atomics: alignment, rights.
    let operands = vec![0; 16];
    let atomic = |at, key| [far(at, key), operands.clone(), near.clone()];
    let (code, wrong) = (opcode::ATOMIC_FA, START[1] + 4);
    assert_eq!(fails(&atomic(wrong, KEY[1]), code, None), (Some(0x12), None));
    assert_eq!(fails(&atomic(0x1000, 0xA00), code, None), (Some(0x13), None));
    // Messages: too long, no receive, no right to write there.
    let send = opcode::SEND;
    assert_eq!(fails(&[inline(&[1; 9])], send, Some(8)), (Some(0x12), Some(0x01)));
    assert_eq!(fails(&[inline(&[1; 9])], send, None), (Some(0x16), None));
}

#[test]
fn a_receive_without_the_right_to_write() {
    let shape = Shape::default();
    let memory = memory(&shape);
    let read_only = lines(4);
    let mut hand = Hand::new(&memory, shape, Manner::default());
    hand.fabric.nodes[1].keys.lines((KEY[1], 1), START[1], &read_only, Access::LOCAL_READ);
    hand.receive(1, 0, 0, 64);
    hand.post(0, &request(0, opcode::SEND, SIGNALED, &[inline(b"no")]));
    assert_eq!(error(&hand.cqe(0, 0, 0).unwrap()), (13, 0x14, 0), "remote operation");
    assert_eq!(error(&hand.cqe(1, 1, 0).unwrap()), (14, 0x04, 0), "local protection");
    hand.clean();
}

#[test]
fn nobody_answers() {
    let shape = Shape::default();
    let memory = memory(&shape);
    let mut hand = Hand::new(&memory, shape, Manner { cut: true, ..Manner::default() });
    hand.post(0, &request(0, opcode::SEND, 0, &[inline(b"hello?")]));
    assert_eq!(error(&hand.cqe(0, 0, 0).unwrap()), (13, 0x15, 0));
    assert_eq!(hand.fabric.totals.lost, 8, "once, and seven times again");
    hand.clean();
}

#[test]
fn a_late_receive_is_waited_for() {
    let shape = Shape::default();
    let memory = memory(&shape);
    let mut hand = Hand::new(&memory, shape, Manner::default());
    hand.write(0, &request(0, opcode::SEND, 0, &[inline(b"early")]));
    let second = request(1, opcode::SEND, SIGNALED, &[inline(b"EARLY")]);
    hand.write(1, &second);
    hand.record(2);
    hand.ring(&second[..8]);
    for _ in 0..5000 {
        hand.fabric.step();
    }
    assert!(hand.fabric.totals.not_ready > 5, "and asked for again and again");
    hand.receive(1, 0, 0, 64);
    hand.receive(1, 1, 64, 64);
    hand.fabric.settle(1000);
    assert_eq!((hand.get(1, 0, 5), hand.get(1, 64, 5)), (b"early".into(), b"EARLY".into()));
    assert_eq!(hand.cqe(0, 0, 0).unwrap()[63] >> 4, 0);
    hand.clean();
}

#[test]
fn what_is_behind_an_error_is_flushed() {
    for (flush, expected) in [(Flush::Every, vec![1, 2, 3, 4]), (Flush::Signaled, vec![1, 2, 4])] {
        let shape = Shape::default();
        let memory = memory(&shape);
        let mut hand = Hand::new(&memory, shape, Manner { flush, ..Manner::default() });
        hand.receive(1, 0, 0, 64);
        hand.receive(0, 0, 0, 64);
        hand.write(0, &request(0, opcode::SEND, 0, &[inline(b"good")]));
        let bad = [raddr(1, 2), data(8, KEY[0], START[0])];
        // The request that fails did not ask for a completion, and has one.
        hand.write(1, &request(1, opcode::RDMA_WRITE, 0, &bad));
        hand.write(2, &request(2, opcode::SEND, SIGNALED, &[inline(b"not")]));
        let last = request(3, opcode::SEND, 0, &[inline(b"sent")]);
        hand.write(3, &last);
        hand.record(4);
        hand.ring(&last[..8]);
        hand.fabric.settle(5000);
        // Whoever posts later is flushed too.
        hand.post(4, &request(4, opcode::SEND, SIGNALED, &[inline(b"late")]));
        hand.clean();
        assert_eq!(hand.get(1, 0, 4), b"good");
        let errors: Vec<u16> =
            (0..8).filter_map(|at| hand.cqe(0, 0, at)).map(|entry| error(&entry).2).collect();
        assert_eq!(errors, expected);
        let first = error(&hand.cqe(0, 0, 0).unwrap());
        assert_eq!(first, (13, 0x13, 1));
        assert!((1..errors.len()).all(|at| error(&hand.cqe(0, 0, at).unwrap()).1 == 0x05));
        // Its receives, and those of the other end, which refused, are flushed.
        assert_eq!(error(&hand.cqe(0, 1, 0).unwrap()), (14, 0x05, 0));
    }
}

#[test]
fn what_is_lost_comes_again_and_is_done_once() {
    let mut lost = 0;
    for seed in 0..20 {
        let shape = Shape { blocks: 64, cq_entries: 64, seed, ..Shape::default() };
        let memory = memory(&shape);
        let manner = Manner { loses: 12, loses_answers: 12, timeout: 60, ..Manner::default() };
        let mut hand = Hand::new(&memory, shape, manner);
        hand.put(1, 0, &[0; 8]);
        let code = opcode::ATOMIC_FA;
        let add = [1_u64.to_be_bytes(), [0; 8]].concat();
        for number in 0..20_u16 {
            hand.receive(1, number, 64, 64);
            let far = raddr(START[1], KEY[1]);
            let into = data(8, KEY[0], START[0] + u64::from(number) * 8);
            let sum = request(number * 2, code, SIGNALED, &[far, add.clone(), into]);
            hand.write(usize::from(number) * 2, &sum);
            let send = request(number * 2 + 1, opcode::SEND, SIGNALED, &[inline(&[1])]);
            hand.post(number * 2, &sum);
            hand.post(number * 2 + 1, &send);
            let count = u32::from(number) + 1;
            hand.consumed(1, 1, count);
            hand.consumed(0, 0, count * 2);
            let entry = hand.cqe(0, 0, usize::from(number) * 2 + 1).expect("it gets through");
            assert_eq!(entry[63] >> 4, 0);
        }
        hand.clean();
        assert_eq!(hand.get(1, 0, 8), 20_u64.to_le_bytes(), "each sum once");
        for number in 0..20_u8 {
            assert_eq!(hand.get(0, usize::from(number) * 8, 1), [number], "and each answer");
        }
        lost += hand.fabric.totals.lost;
    }
    assert!(lost > 50);
}

#[test]
fn a_fence_waits_for_what_is_read_before() {
    let mut early = 0;
    for fence in [0, 0x40, 0x60, 0x80] {
        for seed in 0..30 {
            let shape = Shape { seed, ..Shape::default() };
            let memory = memory(&shape);
            let mut hand = Hand::new(&memory, shape, Manner::default());
            hand.put(0, 0, b"old");
            hand.put(1, 0, b"new");
            let near = data(3, KEY[0], START[0]);
            let read = [raddr(START[1], KEY[1]), near.clone()];
            hand.write(0, &request(0, opcode::RDMA_READ, 0, &read));
            let write = [raddr(START[1] + 64, KEY[1]), near];
            let second = request(1, opcode::RDMA_WRITE, SIGNALED | fence, &write);
            hand.write(1, &second);
            hand.record(2);
            hand.ring(&second[..8]);
            hand.fabric.settle(1000);
            hand.clean();
            match hand.get(1, 64, 3).as_slice() {
                b"new" => {}
                _ => {
                    assert_eq!(fence, 0, "it was sent before it was read");
                    early += 1;
                }
            }
        }
    }
    assert!(early > 0, "without a fence it may be");
}
