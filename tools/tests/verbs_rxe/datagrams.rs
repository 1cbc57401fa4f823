//! Unreliable datagrams.

use core::time::Duration;

use spinwire_dataplane::error::{Misuse, PostError};
use spinwire_dataplane::verbs::{Destination, QueuePair as _, SendRequest, Verb};
use spinwire_hostshim::verbs::{
    AddressOf, Card, ConnectConfig, PairConfig, PairKind, QKEY_DEFAULT, VerbsError,
};

use super::rig::{End, devices, wr};

/// Bytes of header in front of every datagram (`ibv_post_recv(3)`).
const HEADER: usize = 40;

fn ready() -> Option<[End; 2]> {
    let ends = devices()?.map(|device| End::open(&device, PairKind::Ud, &PairConfig::default()));
    for end in &ends {
        end.pair.ready(QKEY_DEFAULT, &ConnectConfig::default()).unwrap();
    }
    Some(ends)
}

fn to(end: &End, peer: &Card) -> Destination {
    let at = AddressOf { gid: peer.gid, lid: peer.lid };
    let handle = end.pair.add_address(at, &ConnectConfig::default()).unwrap();
    Destination { handle, qp_num: peer.qp_num, qkey: QKEY_DEFAULT }
}

#[test]
fn a_datagram_says_who_sent_it_and_can_be_answered() {
    let Some([a, b]) = ready() else { return };
    let (there, back) = (to(&a, b.pair.card()), to(&b, a.pair.card()));
    b.recv(1, &[b.segment(0, 2048)]);
    a.recv(2, &[a.segment(4096, 2048)]);
    a.write(0, b"a question");
    a.send(&SendRequest::new(wr(3), Verb::SendImm(5), &[a.segment(0, 10)]).to(there));
    let came = b.done(1);
    assert_eq!((came.bytes as usize, came.immediate), (HEADER + 10, Some(5)));
    assert_eq!(came.source_qp, a.pair.qp_num());
    assert_eq!(b.read(HEADER, 10), b"a question");
    a.done(3);
    b.write(0, b"an answer");
    b.send(&SendRequest::new(wr(4), Verb::Send, &[b.segment(0, 9)]).to(back));
    assert_eq!(a.done(2).bytes as usize, HEADER + 9);
    assert_eq!(a.read(4096 + HEADER, 9), b"an answer");
}

#[test]
fn one_that_nobody_asked_for_is_lost_and_the_next_one_comes() {
    let Some([a, b]) = ready() else { return };
    let there = to(&a, b.pair.card());
    for id in 0..3 {
        a.write(0, &[id as u8; 8]);
        a.send(&SendRequest::new(wr(id), Verb::Send, &[a.segment(0, 8)]).to(there));
        a.done(id);
        if id == 1 {
            // They have arrived or are lost by now: the cable of the guest is short.
            assert!(b.next_within(Duration::from_millis(300)).is_none());
            b.recv(9, &[b.segment(0, 2048)]);
        }
    }
    b.done(9);
    assert_eq!(b.read(HEADER, 8), [2; 8]);
    // Another key: dropped by the receiver.
    b.recv(10, &[b.segment(0, 2048)]);
    let wrong = Destination { qkey: 0x2222, ..there };
    a.send(&SendRequest::new(wr(4), Verb::Send, &[a.segment(0, 8)]).to(wrong));
    a.done(4);
    assert!(b.next_within(Duration::from_millis(300)).is_none());
}

#[test]
fn datagrams_have_no_reads_and_no_peer() {
    let Some([a, b]) = ready() else { return };
    let there = to(&a, b.pair.card());
    let segments = [a.segment(0, 8)];
    let post = |request: &SendRequest<'_, _>| a.pair.post_send(request).unwrap_err();
    let read = SendRequest::new(wr(1), Verb::Read, &segments).at(b
        .region
        .remote_key()
        .place(0, 8)
        .unwrap());
    assert_eq!(post(&read), PostError::Misuse(Misuse::Unsupported));
    let nobody = SendRequest::new(wr(1), Verb::Send, &segments);
    assert_eq!(post(&nobody), PostError::Misuse(Misuse::UnknownAddress));
    let unknown = nobody.to(Destination { handle: 500, ..there });
    assert_eq!(post(&unknown), PostError::Misuse(Misuse::UnknownAddress));
    let long = [a.segment(0, 4097)];
    let long = SendRequest::new(wr(1), Verb::Send, &long).to(there);
    assert_eq!(post(&long), PostError::Misuse(Misuse::TooLong), "longer than a packet");
    let connect = a.pair.connect(b.pair.card(), &ConnectConfig::default());
    assert!(matches!(connect, Err(VerbsError::WrongKind { call: "connect", .. })));
}
