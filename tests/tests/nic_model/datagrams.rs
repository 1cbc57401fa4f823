//! Datagrams: address vectors of both kinds of port, and what comes of them.

use spinwire_tests::sim::nic::wqe::{Transport, opcode};
use spinwire_tests::sim::nic::{Fault, Manner};

use crate::hand::{Hand, KEY, QKEY, QPN, SIGNALED, START, Shape, data, inline, memory, request};

/// An address vector: key, queue pair, then by port; `route` and what follows it is the global part.
fn vector(qpn: u32, lid: u16, mac: [u8; 6], route: u32, gid: [u8; 16]) -> Vec<u8> {
    let mut bytes = QKEY.to_be_bytes().to_vec();
    bytes.extend([0; 4]);
    bytes.extend((0x8000_0000 | qpn).to_be_bytes());
    bytes.extend([0x03, 0]);
    bytes.extend(lid.to_be_bytes());
    bytes.extend([0; 4]);
    bytes.extend(mac);
    bytes.extend([0, 64]);
    bytes.extend(route.to_be_bytes());
    bytes.extend(gid);
    bytes
}

fn sent(transport: Transport, av: Vec<u8>) -> (Option<[u8; 64]>, Vec<u8>, Vec<Fault>) {
    let shape = Shape { transport, ..Shape::default() };
    let memory = memory(&shape);
    let mut hand = Hand::new(&memory, shape, Manner::default());
    hand.receive(1, 0, 0, 100);
    hand.put(0, 0, b"datagram");
    let near = data(8, KEY[0], START[0]);
    hand.post(0, &request(0, opcode::SEND_IMM, SIGNALED, &[av, near]));
    assert!(hand.cqe(0, 0, 0).is_some());
    (hand.cqe(1, 1, 0), hand.get(1, 0, 48), hand.faults())
}

#[test]
fn datagrams_find_their_way() {
    let gid = core::array::from_fn(|at| u8::try_from(at + 1).unwrap());
    let lid = vector(QPN[1], 2, [0; 6], 0, [0; 16]);
    let global = vector(QPN[1], 2, [0; 6], 1 << 30 | 3 << 20 | 0xABCDE, gid);
    let mac = vector(QPN[1], 0xC123, [2, 0, 0, 0, 0, 2], 3 << 20, gid);
    for (transport, av, has_route, level) in [
        (Transport::Ud, lid, false, 3),
        (Transport::Ud, global, true, 3),
        (Transport::UdRoce, mac, true, 1),
    ] {
        let (entry, bytes, faults) = sent(transport, av);
        let entry = entry.expect("it has arrived");
        assert_eq!(faults, []);
        assert_eq!(&bytes[40..], b"datagram", "behind the place of the route");
        assert_eq!(bytes[24..40] == gid, has_route);
        assert_eq!(entry[44..48], 48_u32.to_be_bytes(), "which counts");
        let from = u32::from_be_bytes(entry[24..28].try_into().unwrap());
        assert_eq!(from & 0xFF_FFFF, QPN[0]);
        assert_eq!((from >> 28 & 3 != 0, from >> 24 & 15), (has_route, level));
    }
}

#[test]
fn wrong_vectors_are_refused() {
    let gid = [9; 16];
    let good = vector(QPN[1], 2, [0; 6], 0, [0; 16]);
    let mut plain = good.clone();
    plain[8] = 0;
    let mut reserved = good.clone();
    reserved[4] = 1;
    let mut padding = good.clone();
    padding[16] = 1;
    let ib = [
        (plain, Fault::BadVector),
        (reserved, Fault::Reserved(16 + 4)),
        (padding, Fault::Reserved(16 + 16)),
        (vector(0, 2, [0; 6], 0, [0; 16]), Fault::BadVector),
        (vector(QPN[1], 0, [0; 6], 0, [0; 16]), Fault::BadVector),
        (vector(QPN[1], 2, [0; 6], 5, gid), Fault::BadVector),
        (vector(QPN[1], 2, [1; 6], 0, [0; 16]), Fault::BadVector),
    ];
    for (av, fault) in ib {
        assert_eq!(sent(Transport::Ud, av).2, [fault]);
    }
    let mac = [2, 0, 0, 0, 0, 2];
    for av in [
        vector(QPN[1], 0, mac, 1 << 30, gid),
        vector(QPN[1], 0, [0; 6], 0, gid),
        vector(QPN[1], 0, mac, 0, [0; 16]),
    ] {
        assert_eq!(sent(Transport::UdRoce, av).2, [Fault::BadVector]);
    }
}

#[test]
fn what_nobody_can_take_is_lost() {
    for av in [
        vector(0x99, 2, [0; 6], 0, [0; 16]),
        vector(QPN[1], 9, [0; 6], 0, [0; 16]),
        [&[0, 0, 0, 1], &vector(QPN[1], 2, [0; 6], 0, [0; 16])[4..]].concat(),
    ] {
        let (entry, _, faults) = sent(Transport::Ud, av);
        assert_eq!((entry, faults), (None, Vec::new()));
    }
    let shape = Shape { transport: Transport::Ud, ..Shape::default() };
    let memory = memory(&shape);
    let mut hand = Hand::new(&memory, shape, Manner::default());
    let av = vector(QPN[1], 2, [0; 6], 0, [0; 16]);
    hand.post(0, &request(0, opcode::SEND, SIGNALED, &[av.clone(), inline(b"nobody")]));
    assert_eq!(hand.cqe(0, 0, 0).unwrap()[63] >> 4, 0, "it is complete all the same");
    hand.post(2, &request(2, opcode::RDMA_WRITE, SIGNALED, &[av]));
    assert_eq!(hand.faults(), [Fault::BadOpcode]);
}
