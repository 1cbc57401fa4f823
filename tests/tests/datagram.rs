//! Messages that are datagrams: they come back as they were sent, cut short ones say so, and every wrong field is named.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    reason = "a test stops at the first thing that is not as expected"
)]

use proptest::prelude::*;
use spinwire_dataplane::error::Misuse;
use spinwire_dataplane::provider::tcp::frame::Envelope;
use spinwire_dataplane::provider::udp::datagram::{Datagram, DatagramFault, header};

const HEADER: usize = 24;

fn packet(payload: &[u8], envelope: Envelope) -> Vec<u8> {
    let mut packet = header(payload.len(), envelope).unwrap().to_vec();
    packet.extend(payload);
    packet
}

#[test]
fn only_what_a_packet_holds_can_be_sent() {
    let plain = Envelope::default();
    assert!(header(65_483, plain).is_ok());
    for length in [65_484, 65_535, 65_536, usize::MAX] {
        assert_eq!(header(length, plain), Err(Misuse::TooLong));
    }
}

#[test]
fn each_wrong_field_is_named() {
    let with = |at: usize, byte: u8| {
        let mut packet = packet(b"abc", Envelope { tag: None, immediate: None });
        packet[at] = byte;
        Datagram::from_wire(&packet).map(|_| ())
    };
    assert_eq!(with(0, b'S'), Ok(()));
    assert_eq!(with(0, b'G'), Err(DatagramFault::Magic));
    assert_eq!(with(1, b'G'), Err(DatagramFault::Magic));
    assert_eq!(with(2, 0), Err(DatagramFault::Version));
    for flags in [0, 2, 8 | 1, 16 | 1, 32 | 1, 64 | 1, 128 | 1] {
        assert_eq!(with(3, flags), Err(DatagramFault::Flags), "{flags}");
    }
    assert_eq!(with(4, 2), Err(DatagramFault::Length));
    assert_eq!(with(4, 4), Ok(()), "one byte was lost");
    for at in 8..16 {
        assert_eq!(with(at, 1), Err(DatagramFault::Tag));
        assert_eq!(with(at + 8, 1), Err(DatagramFault::Immediate));
    }
    let mut wrong = packet(b"", Envelope::default());
    wrong[7] ^= 1;
    assert_eq!(Datagram::from_wire(&wrong), Err(DatagramFault::Hash));
    let mut long = packet(b"", Envelope::default());
    long[4..6].copy_from_slice(&65_484_u16.to_le_bytes());
    assert_eq!(Datagram::from_wire(&long), Err(DatagramFault::Length));
    assert!(DatagramFault::Hash.to_string().starts_with("hash: "));
}

proptest! {
    #[test]
    fn what_was_sent_comes_back_as_far_as_it_goes(
        payload in prop::collection::vec(any::<u8>(), 0..300),
        tag in any::<Option<u64>>(),
        immediate in any::<Option<u64>>(),
        lost in 0..400_usize,
    ) {
        let envelope = Envelope { tag, immediate };
        let packet = packet(&payload, envelope);
        let here = packet.len().saturating_sub(lost);
        let found = Datagram::from_wire(&packet[..here]);
        if here < HEADER {
            prop_assert_eq!(found, Err(DatagramFault::Short));
            return Ok(());
        }
        let found = found.unwrap();
        prop_assert_eq!(found.length, payload.len());
        prop_assert_eq!(found.envelope, envelope);
        prop_assert_eq!(found.bytes, &payload[..here - HEADER]);
        prop_assert_eq!(found.is_truncated(), here < packet.len());
    }

    #[test]
    fn any_bytes_get_an_answer(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
        let mut bytes = bytes;
        let _any = Datagram::from_wire(&bytes);
        // Past the magic, the version and the hash.
        let good = header(0, Envelope::default()).unwrap();
        for (to, from) in bytes.iter_mut().zip(&good[..3]) {
            *to = *from;
        }
        if bytes.len() > 7 {
            bytes[6..8].copy_from_slice(&good[6..8]);
        }
        if let Ok(found) = Datagram::from_wire(&bytes) {
            prop_assert_eq!(found.bytes, &bytes[HEADER..]);
        }
    }
}
