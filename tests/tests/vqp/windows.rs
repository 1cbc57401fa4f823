//! Sequence numbers and windows, against the plainest model there is: counting without end.

use std::collections::BTreeMap;

use spinwire_dataplane::raw::place::Bump;
use spinwire_dataplane::vqp::sequence::{
    InOrder, ReceiveWindow, SendWindow, SequenceCodec, SequenceFault,
};
use spinwire_tests::rng::Rng;

use crate::manual::block;

const CODECS: [SequenceCodec; 2] = [SequenceCodec::Clean, SequenceCodec::Compatible];

#[test]
fn each_codec_has_the_numbers_that_it_should() {
    let (clean, compatible) = (SequenceCodec::Clean, SequenceCodec::Compatible);
    assert_eq!([clean.next(0), clean.next(0xFF_FFFE), clean.next(0xFF_FFFF)], [1, 0xFF_FFFF, 0]);
    assert_eq!(
        [compatible.next(0), compatible.next(0xFF_FFFD), compatible.next(0xFF_FFFE)],
        [1, 0xFF_FFFE, 0]
    );
    assert_eq!(clean.decode(0xFF_FFFF), Ok((0xFF_FFFF, false)));
    assert_eq!(compatible.decode(0xFF_FFFF), Err(SequenceFault::Malformed));
    for codec in CODECS {
        for number in [0, 1, 0xFF_FFFD, 0xFF_FFFE] {
            for is_last in [false, true] {
                assert_eq!(codec.decode(codec.encode(number, is_last)), Ok((number, is_last)));
            }
        }
    }
    // Bits between: garbage for one, not looked at by the other.
    assert_eq!(clean.decode(0x0100_0005), Err(SequenceFault::Malformed));
    assert_eq!(compatible.decode(0x0100_0005), Ok((5, false)));
}

#[test]
fn distances_count_steps() {
    for codec in CODECS {
        for from in [0, 1, 0xFF_FFF0, 0xFF_FFFD, 0xFF_FFFE] {
            let mut to = from;
            for steps in 0..40 {
                assert_eq!(codec.distance(from, to), steps, "{codec:?} {from:#x} {to:#x}");
                to = codec.next(to);
            }
        }
    }
}

/// A sender and a receiver over several queues with delays, around the wrap and far from it.
#[test]
fn numbers_wrap_without_collision() {
    for codec in CODECS {
        for first in [0, 5, 0xFF_FFFC, 0xFF_FFFD, 0xFF_FFFE] {
            for seed in 0..20 {
                travel(codec, first, seed);
            }
        }
    }
}

fn travel(codec: SequenceCodec, first: u32, seed: u64) {
    const WINDOW: u32 = 16;
    let mut memory = block(1 << 16);
    let bump = Bump::new(&mut memory);
    let send = SendWindow::place(&bump, codec, WINDOW, first).unwrap();
    let receive = ReceiveWindow::place(&bump, codec, 64, first).unwrap();
    let mut rng = Rng::new(seed);
    // The model: numbers without end.
    let (mut sent, mut delivered) = (0_u64, 0_u64);
    let mut ways: Vec<Vec<(u64, u32)>> = vec![Vec::new(); 3];
    let mut arrived: BTreeMap<u64, u32> = BTreeMap::new();
    while delivered < 400 {
        let oldest = ways.iter().flatten().map(|entry| entry.0).min().unwrap_or(sent);
        let may_send = sent - oldest < u64::from(WINDOW);
        assert_eq!(send.peek().is_some(), may_send, "{sent} sent, {oldest} the oldest");
        if may_send && rng.chance(50) {
            let number = send.peek().unwrap();
            let expected = (u64::from(first) + sent) % u64::from(codec.modulus());
            assert_eq!(u64::from(number), expected);
            send.consume();
            ways[rng.index(3)].push((sent, number));
            sent += 1;
            continue;
        }
        let way = rng.index(3);
        if ways[way].is_empty() {
            continue;
        }
        let (index, number) = ways[way].remove(0);
        let is_last = index % 3 == 2;
        let bytes = u32::try_from(index).unwrap();
        receive.accept(codec.encode(number, is_last), bytes).unwrap();
        arrived.insert(index, bytes);
        send.acknowledge(number);
        // Once more, as a replayed one: dropped, and acknowledged in vain.
        if rng.chance(20) {
            let again = receive.accept(codec.encode(number, is_last), bytes);
            assert_eq!(again, Err(SequenceFault::Duplicate));
            send.acknowledge(number);
        }
        while let Some(next) = receive.front() {
            let bytes = arrived.remove(&delivered).expect("in order, and it has arrived");
            assert_eq!(next, InOrder { bytes, is_last: delivered % 3 == 2 });
            receive.advance();
            delivered += 1;
        }
        assert!(!arrived.contains_key(&delivered));
        assert_eq!(usize::try_from(receive.waiting()).unwrap(), arrived.len());
    }
}

#[test]
fn what_is_too_far_ahead_is_told_from_what_is_old() {
    for codec in CODECS {
        let mut memory = block(1 << 12);
        let bump = Bump::new(&mut memory);
        let receive = ReceiveWindow::place(&bump, codec, 8, 3).unwrap();
        let number = |steps: u32| (3 + codec.modulus() + steps) % codec.modulus();
        assert_eq!(receive.accept(number(8), 1), Err(SequenceFault::Beyond));
        assert_eq!(receive.accept(number(7), 1), Ok(()));
        for behind in 1..=8 {
            let old = (3 + codec.modulus() - behind) % codec.modulus();
            assert_eq!(receive.accept(old, 1), Err(SequenceFault::Duplicate), "{behind}");
        }
        assert_eq!(
            receive.accept((3 + codec.modulus() - 9) % codec.modulus(), 1),
            Err(SequenceFault::Beyond)
        );
        assert_eq!((receive.front(), receive.waiting()), (None, 1));
    }
}
