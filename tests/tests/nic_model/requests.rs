//! Every request, by its bytes, and what comes of it at both ends.

use spinwire_tests::sim::nic::bytes::read_ring;
use spinwire_tests::sim::nic::memory::{Access, Change};
use spinwire_tests::sim::nic::wqe::{Atomic, opcode};
use spinwire_tests::sim::nic::{Counters, Manner, Short, cqe};

use crate::hand::{
    Hand, KEY, QPN, RECEIVES, SIGNALED, START, Shape, ctrl, data, inline, memory, raddr, request,
};

fn remote(at: u64) -> Vec<u8> {
    raddr(START[1] + at, KEY[1])
}

fn local(at: u64, length: u32) -> Vec<u8> {
    data(length, KEY[0], START[0] + at)
}

/// The bytes of a completion that mean something: immediate, bytes, opcode and queue, counter.
fn meaning(entry: &[u8; 64]) -> (u32, u8, u32, u16) {
    let word = |at: usize| u32::from_be_bytes(entry[at..at + 4].try_into().unwrap());
    let counter = u16::from_be_bytes([entry[60], entry[61]]);
    (word(44), entry[56], word(56) & 0xFF_FFFF, counter)
}

#[test]
fn a_message_in_the_bytes_of_the_manual() {
    let shape = Shape::default();
    let memory = memory(&shape);
    let mut hand = Hand::new(&memory, shape, Manner::default());
    hand.receive(1, 0, 0, 64);
    // SEND (0x0A), index 0, queue 0x11, 3 units, completion wanted; then 0x8000_0005 "hello".
    let bytes = [
        [0, 0, 0, 0x0A, 0, 0, 0x11, 2, 0, 0, 0, 8, 0, 0, 0, 0],
        [0x80, 0, 0, 5, b'h', b'e', b'l', b'l', b'o', 0, 0, 0, 0, 0, 0, 0],
    ];
    hand.post(0, &bytes.concat());
    hand.clean();
    assert_eq!(hand.get(1, 0, 6), b"hello\0");
    let sent = hand.cqe(0, 0, 0).expect("it was asked for");
    assert_eq!((sent[63], meaning(&sent)), (0, (0, 0x0A, QPN[0], 0)));
    let received = hand.cqe(1, 1, 0).expect("every receive has one");
    assert_eq!(received[63] & 0xFD, 0x20, "a receive of a send, in the first lap, in memory");
    let (bytes, _, qpn, counter) = meaning(&received);
    assert_eq!((bytes, qpn, counter), (5, QPN[1], 0));
    assert_eq!(hand.cqe(0, 0, 1), None);
}

#[test]
fn every_kind_of_send_arrives_as_that_kind() {
    let shape = Shape::default();
    let memory = memory(&shape);
    let mut hand = Hand::new(&memory, shape, Manner::default());
    hand.fabric.nodes[1].keys.window(0x3300, 1);
    let change = Change {
        length: Some(64),
        access: Some(Access::REMOTE_WRITE),
        entries: vec![(KEY[1], START[1], 64)],
        ..Change::default()
    };
    assert!(hand.fabric.nodes[1].keys.change(0x3300, 1, &change));
    let kinds = [
        (opcode::SEND, 0, 0x20),
        (opcode::SEND_IMM, 0xCAFE_0001, 0x30),
        (opcode::SEND_INVAL, 0x3300, 0x40),
        (opcode::RDMA_WRITE_IMM, 0x0102_0304, 0x10),
    ];
    for (number, (code, imm, kind)) in (0_u16..).zip(kinds) {
        hand.receive(1, number, 0, 64);
        hand.put(0, 128, &[number.to_be_bytes()[1]; 7]);
        let mut segments = vec![local(128, 7)];
        if code == opcode::RDMA_WRITE_IMM {
            segments.insert(0, remote(64));
        }
        let mut bytes = request(number, code, SIGNALED | 2, &segments);
        bytes[12..16].copy_from_slice(&u32::to_be_bytes(imm));
        hand.post(number, &bytes);
        hand.clean();
        let at = usize::from(number);
        let entry = hand.cqe(1, 1, at).unwrap();
        assert_eq!(entry[63], kind | 2, "kind and solicited event of {code:#x}");
        if imm != 0 {
            assert_eq!(entry[36..40], u32::to_be_bytes(imm));
        }
        assert_eq!(meaning(&entry).0, 7);
        assert_eq!(hand.cqe(0, 0, at).unwrap()[56], code);
        let place = if code == opcode::RDMA_WRITE_IMM { 64 } else { 0 };
        assert_eq!(hand.get(1, place, 7), [number.to_be_bytes()[1]; 7]);
    }
    let keys = &hand.fabric.nodes[1].keys;
    assert!(keys.find((0x3300, 1), 0, 1, Access::LOCAL_READ).is_none(), "it was invalidated");
}

#[test]
fn memory_of_the_other_end_is_written_and_read() {
    let shape = Shape::default();
    let memory = memory(&shape);
    let mut hand = Hand::new(&memory, shape, Manner::default());
    hand.put(0, 3, b"from an odd address, in two pieces");
    let pieces = [remote(1001), local(3, 4), local(7, 30)];
    hand.post(0, &request(0, opcode::RDMA_WRITE, 0, &pieces));
    assert_eq!(hand.get(1, 1001, 34), b"from an odd address, in two pieces");
    assert_eq!(hand.cqe(0, 0, 0), None, "nobody asked");
    let pieces = [remote(1006), local(512, 2), local(1024, 3)];
    hand.post(1, &request(1, opcode::RDMA_READ, SIGNALED, &pieces));
    hand.clean();
    assert_eq!((hand.get(0, 512, 3), hand.get(0, 1024, 4)), (b"an\0".into(), b" od\0".into()));
    let entry = hand.cqe(0, 0, 0).unwrap();
    assert_eq!(meaning(&entry), (5, 0x10, QPN[0], 1));
}

#[test]
fn atomics_answer_what_was_there() {
    let shape = Shape { blocks: 16, ..Shape::default() };
    let memory = memory(&shape);
    let mut hand = Hand::new(&memory, shape, Manner::default());
    let word = |number: u64| number.to_be_bytes().to_vec();
    let pair = |one: u64, other: u64| [word(one), word(other)].concat();
    hand.put(1, 64, &5_u64.to_le_bytes());
    let code = opcode::ATOMIC_CS;
    hand.post(0, &request(0, code, SIGNALED, &[remote(64), pair(9, 5), local(0, 8)]));
    assert_eq!(hand.get(0, 0, 8), 5_u64.to_le_bytes(), "what was there");
    assert_eq!(hand.get(1, 64, 8), 9_u64.to_le_bytes(), "swapped");
    hand.post(1, &request(1, code, SIGNALED, &[remote(64), pair(1, 5), local(0, 8)]));
    assert_eq!(hand.get(0, 0, 8), 9_u64.to_le_bytes());
    assert_eq!(hand.get(1, 64, 8), 9_u64.to_le_bytes(), "not equal: not swapped");
    let code = opcode::ATOMIC_FA;
    hand.post(2, &request(2, code, SIGNALED, &[remote(64), pair(3, 0), local(8, 8)]));
    assert_eq!((hand.get(0, 8, 1), hand.get(1, 64, 1)), (vec![9], vec![12]));
    assert_eq!(meaning(&hand.cqe(0, 0, 2).unwrap()), (8, 0x12, QPN[0], 2));
    // Masked, 8 bytes: swap, compare, and their masks: 5 units, two blocks. Only the low byte is looked at, only the next one changed.
    let operands = [pair(0x5500, 0x0C), pair(0xFF00, 0xFF)].concat();
    let mut bytes =
        request(3, opcode::ATOMIC_MASKED_CS, SIGNALED, &[remote(64), operands, local(0, 8)]);
    bytes[0] = 9;
    hand.post(3, &bytes);
    assert_eq!(hand.get(1, 64, 2), [12, 0x55]);
    // Masked, 4 bytes: sum and boundary, 4 bytes each: a carry does not leave its byte.
    hand.put(1, 72, &[0xFF, 1, 0, 0]);
    let mut operands = vec![0, 0, 0, 2, 0, 0, 0, 0x80];
    operands.resize(16, 0);
    let code = opcode::ATOMIC_MASKED_FA;
    let mut bytes = request(5, code, SIGNALED, &[remote(72), operands, local(0, 4)]);
    bytes[0] = 8;
    hand.post(5, &bytes);
    hand.clean();
    assert_eq!(hand.get(1, 72, 4), [1, 1, 0, 0]);
    assert_eq!(hand.get(0, 0, 4), [0xFF, 1, 0, 0]);
}

#[test]
fn fields_of_a_sum_keep_their_carry() {
    let add = |add, boundary| Atomic::FetchAdd { size: 8, add, boundary };
    assert_eq!(add(1, 0).apply(u64::MAX), 0);
    assert_eq!(add(1, 1 << 63).apply(u64::MAX), 0);
    assert_eq!(add(0x0101, 0x8080).apply(0xFFFF), 0);
    assert_eq!(add(0x0101, 0x80).apply(0xFFFF), 0x1_0000);
}

#[test]
fn keys_are_bound_and_freed_by_requests() {
    let shape = Shape::default();
    let memory = memory(&shape);
    let mut hand = Hand::new(&memory, shape, Manner::default());
    hand.fabric.nodes[0].keys.window(0x4400, 1);
    // UMR: control 48 (inline, check that it is free; 4 octowords; length, start, key, rights, free), context 64, one entry of 64.
    let mut control = vec![0xA0, 0, 0, 0, 0, 4, 0, 0];
    control.extend((1_u64 | 1 << 6 | 1 << 13 | 0xF << 18 | 1 << 29).to_be_bytes());
    control.resize(48, 0);
    let mut context = vec![0, 0, 1 << 4 | 1 << 5, 0, 0, 0, 0x11, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    context.extend(0x5000_u64.to_be_bytes());
    context.extend(100_u64.to_be_bytes());
    context.resize(64, 0);
    let mut entry = data(100, KEY[0], START[0] + 256);
    entry.resize(64, 0);
    let mut bytes = request(0, opcode::UMR, SIGNALED, &[control.clone(), context.clone(), entry]);
    bytes[12..16].copy_from_slice(&0x4400_u32.to_be_bytes());
    hand.post(0, &bytes);
    hand.clean();
    let keys = &hand.fabric.nodes[0].keys;
    assert!(keys.find((0x4400, 1), 0x5000, 100, Access::REMOTE_WRITE).is_some());
    assert!(keys.find((0x4400, 1), 0x5000, 101, Access::REMOTE_WRITE).is_none(), "too long");
    assert!(keys.find((0x4400, 1), 0x5000, 1, Access::REMOTE_ATOMIC).is_none(), "not granted");
    assert!(keys.find((0x4400, 2), 0x5000, 1, Access::REMOTE_READ).is_none(), "another domain");
    // Freed again, as rdma-core does it: a context that says free, and no entries.
    control[0] = 0x98;
    control[5] = 0;
    context.fill(0);
    context[0] = 1 << 6;
    let mut bytes = request(3, opcode::UMR, SIGNALED, &[control, context]);
    bytes[12..16].copy_from_slice(&0x4400_u32.to_be_bytes());
    hand.post(3, &bytes);
    hand.clean();
    assert!(hand.fabric.nodes[0].keys.find((0x4400, 1), 0x5000, 1, Access::LOCAL_READ).is_none());
    // And by the request that is for that; a second time it fails.
    hand.post(5, &ctrl(5, opcode::LOCAL_INVAL, 1, SIGNALED, 0x4400));
    assert_eq!(hand.cqe(0, 0, 2).unwrap()[55], 0x02);
}

#[test]
fn requests_and_inline_data_go_around_the_end() {
    for start in 0..8_u16 {
        let shape = Shape::default();
        let memory = memory(&shape);
        let mut hand = Hand::new(&memory, shape, Manner::default());
        hand.receive(1, 0, 0, 256);
        if start > 0 {
            // Fill: one entry of so many blocks, of which only the control segment is looked at.
            let ds = u8::try_from(start * 4).unwrap();
            let mut fill = ctrl(0, opcode::NOP, ds, SIGNALED, 0);
            fill.resize(usize::from(start) * 64, 0xEE);
            hand.post(0, &fill);
            assert_eq!(hand.cqe(0, 0, 0).unwrap()[56], opcode::NOP);
        }
        let text: Vec<u8> = (0..200).collect();
        hand.post(start, &request(start, opcode::SEND, SIGNALED, &[inline(&text)]));
        hand.clean();
        assert_eq!(hand.get(1, 0, 200), text, "from block {start}");
        assert_eq!(hand.fabric.totals.wrapped, u64::from(start > 4));
    }
}

#[test]
fn a_batch_and_one_doorbell() {
    let shape = Shape::default();
    let memory = memory(&shape);
    let mut hand = Hand::new(&memory, shape, Manner::default());
    for number in 0..4_u16 {
        hand.receive(1, number, u64::from(number) * 8, 8);
        let flags = if number == 3 { SIGNALED } else { 0 };
        let text = [number.to_be_bytes()[1]; 3];
        let bytes = request(number, opcode::SEND, flags, &[inline(&text)]);
        hand.write(usize::from(number), &bytes);
    }
    hand.record(4);
    hand.ring(&request(3, opcode::SEND, SIGNALED, &[inline(&[3; 3])])[..8]);
    hand.fabric.settle(1000);
    hand.clean();
    assert_eq!(hand.cqe(0, 0, 0).map(|entry| meaning(&entry).3), Some(3), "one, of the last");
    assert_eq!(hand.cqe(0, 0, 1), None);
    for number in 0..4 {
        assert_eq!(meaning(&hand.cqe(1, 1, number).unwrap()).0, 3);
        assert_eq!(hand.get(1, number * 8, 1), [u8::try_from(number).unwrap()]);
    }
}

#[test]
fn a_request_through_the_register() {
    let shape = Shape::default();
    let memory = memory(&shape);
    let mut hand = Hand::new(&memory, shape, Manner::default());
    hand.receive(1, 0, 0, 64);
    let bytes = request(0, opcode::SEND, SIGNALED, &[inline(b"blue")]);
    hand.write(0, &bytes);
    hand.record(1);
    hand.ring(&bytes);
    hand.fabric.settle(1000);
    hand.clean();
    assert_eq!((hand.get(1, 0, 4), hand.fabric.totals.blue_flame), (b"blue".to_vec(), 1));
}

#[test]
fn laps_of_all_rings() {
    for (cqe_bytes, shared, times) in [(64, false, 8400), (128, true, 100)] {
        let shape = Shape { cqe_bytes, shared, cq_entries: 4, ..Shape::default() };
        let memory = memory(&shape);
        let mut hand = Hand::new(&memory, shape, Manner::default());
        let mut done = 0;
        for number in 0..times {
            // One message in eight blocks; the others are fill. The index comes round at 65536.
            let index = u16::try_from((number * 8) & 0xFFFF_u32).unwrap();
            hand.post(index, &ctrl(index, opcode::NOP, 28, 0, 0)[..]);
            let index = index + 7;
            let (step, post) = (number.to_be_bytes()[3], u16::try_from(number).unwrap());
            hand.receive(1, post, 8, 64);
            hand.post(index, &request(index, opcode::SEND, SIGNALED, &[inline(&[step; 9])]));
            let at = usize::try_from(number).unwrap();
            assert_eq!(meaning(&hand.cqe(0, 0, at).unwrap()).3, index);
            let entry = hand.cqe(1, 1, at).unwrap();
            let counter = if shared { post % u16::try_from(RECEIVES).unwrap() } else { post };
            assert_eq!(meaning(&entry).3, counter);
            assert_eq!(hand.get(1, 8, 9), [step; 9]);
            done += 1;
            hand.consumed(0, 0, done);
            hand.consumed(1, 1, done);
        }
        hand.clean();
    }
}

#[test]
fn data_comes_in_the_completion() {
    for (cqe_bytes, length, format) in [(64, 32, 1), (64, 33, 0), (128, 33, 2), (128, 64, 2)] {
        let shape = Shape { cqe_bytes, scatter: true, ..Shape::default() };
        let memory = memory(&shape);
        let mut hand = Hand::new(&memory, shape, Manner::default());
        hand.receive(1, 0, 0, 128);
        let text: Vec<u8> = (1..=length).collect();
        hand.post(0, &request(0, opcode::SEND, SIGNALED, &[inline(&text)]));
        let entry = hand.cqe(1, 1, 0).unwrap();
        assert_eq!(entry[63] >> 2 & 3, format, "{length} bytes in entries of {cqe_bytes}");
        let all = |node: usize, cq: usize| read_ring(&memory[node].cqs[cq], 0, cqe_bytes);
        let found = match format {
            0 => hand.get(1, 0, text.len()),
            _ => all(1, 1)[..text.len()].to_vec(),
        };
        assert_eq!(found, text);
        assert_eq!(hand.get(1, 0, 1) == [0], format != 0, "and memory is as it was");
        // So do answers.
        hand.put(1, 512, &text);
        let next = u16::try_from(text.len().div_ceil(64)).unwrap().max(1);
        let index = u16::try_from((16 + 4 + text.len()).div_ceil(64)).unwrap().max(next);
        let length = u32::from(length);
        let pieces = [remote(512), local(0, length)];
        hand.post(index, &request(index, opcode::RDMA_READ, SIGNALED, &pieces));
        let entry = hand.cqe(0, 0, 1).unwrap();
        assert_eq!((meaning(&entry).0, entry[63] >> 2 & 3), (length, format));
        hand.clean();
    }
}

#[test]
fn a_run_of_receives_is_written_short() {
    let shape = Shape { compress: Short::Basic(Counters::Counted), ..Shape::default() };
    let memory = memory(&shape);
    let mut hand = Hand::new(&memory, shape, Manner { tears: 0, ..Manner::default() });
    for number in 0..5_u16 {
        hand.receive(1, number, 0, 64);
        let text = vec![7; usize::from(number) + 1];
        hand.write(usize::from(number), &request(number, opcode::SEND, 0, &[inline(&text)]));
    }
    hand.record(5);
    hand.ring(&request(4, opcode::SEND, 0, &[inline(&[7; 5])])[..8]);
    hand.fabric.settle(1000);
    hand.clean();
    let written = hand.fabric.totals;
    assert_eq!(written.completions, 5);
    assert!(written.compressed > 0, "by this seed some wait for each other");
    let (mut at, mut titles) = (0, 0);
    while at < 5 {
        let entry = hand.cqe(1, 1, at).expect("it was written");
        let (count, _, _, counter) = meaning(&entry);
        assert_eq!((entry[63] >> 4, usize::from(counter)), (cqe::RESP_SEND, at));
        if entry[63] >> 2 & 3 != 3 {
            assert_eq!(count, u32::from(counter) + 1);
            at += 1;
            continue;
        }
        assert!((2..=5).contains(&count));
        let minis = read_ring(&memory[1].cqs[1], (at + 1) * 64, 64);
        for mini in 0..usize::try_from(count).unwrap() {
            let length = u32::try_from(at + mini + 1).unwrap();
            assert_eq!(minis[mini * 8 + 4..][..4], length.to_be_bytes());
        }
        at += usize::try_from(count).unwrap();
        titles += 1;
    }
    assert!(titles > 0);
}
