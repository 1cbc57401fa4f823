//! Datagrams of the provider `udp`: no tags, no immediate data, nothing promised.

use spinwire_dataplane::error::{Misuse, PostError};
use spinwire_dataplane::msg::{Kind, RecvFrom, SendTo};
use spinwire_dataplane::provider::{Caps, EndpointType, Order, Reliability, Status};
use spinwire_dataplane::raw::loan::LoanPool;
use spinwire_tests::conformance::OfiChoice;

use super::pair::{config, named, on_ground};

const PACKETS: OfiChoice = OfiChoice::new("udp", EndpointType::Dgram);

/// A message is a packet, with its sender where that is known.
#[test]
fn packets_arrive_with_their_senders() {
    on_ground(|ground| {
        let (a, b, to_b, to_a) = ground.pair(&config(&PACKETS));
        let info = *a.info();
        assert_eq!((info.reliability, info.order), (Reliability::Unreliable, Order::None));
        assert!(info.caps.has(Caps::MESSAGE.with(Caps::SOURCE)) && !info.caps.has(Caps::TAGGED));
        // What UDP carries in one packet over Ethernet.
        assert_eq!(info.limits.message_bytes_max, 1472);
        let lacking = Err(PostError::Misuse(Misuse::Unsupported));
        assert_eq!(a.inject(SendTo::peer(to_b).tag(1), b"m"), lacking);
        assert_eq!(a.inject(SendTo::peer(to_b).immediate(1), b"m"), lacking);
        let too_long = Err(PostError::Misuse(Misuse::TooLong));
        assert_eq!(a.inject(SendTo::peer(to_b), &[0; 1473]), too_long);
        for length in [0, 1, 64, 1472] {
            b.post_recv(RecvFrom::any(), ground.loan(), 1).unwrap();
            ground.until("it is taken", &[&a, &b], || {
                a.inject(SendTo::peer(to_b), &[5; 1472][..length]).is_ok()
            });
            let got = ground.next(&b, &[&a, &b]);
            assert_eq!((got.kind, got.source, got.length), (Kind::Received, Some(to_a), length));
            assert_eq!(got.bytes(), Some(&[5; 1472][..length]));
        }
        // The library does not say that a packet was longer than its receive: the port's own byte behind it does.
        let short = LoanPool::place(ground.bump, 1, 64).unwrap();
        for (length, status) in
            [(64, Status::Success), (65, Status::Truncated), (1472, Status::Truncated)]
        {
            b.post_recv(RecvFrom::any(), short.lend().unwrap(), 2).unwrap();
            ground.until("it is taken", &[&a, &b], || {
                a.inject(SendTo::peer(to_b), &[6; 1472][..length]).is_ok()
            });
            let got = ground.next(&b, &[&a, &b]);
            assert_eq!((got.status, got.bytes()), (status, Some(&[6; 64][..])), "{length}");
        }
        // One that b has not entered into its table.
        let c = ground.end("c", &config(&PACKETS));
        let from_c = c.connect(&named("b")).unwrap();
        b.post_recv(RecvFrom::any(), ground.loan(), 1).unwrap();
        ground.until("it is taken", &[&c, &b], || c.inject(SendTo::peer(from_c), b"who").is_ok());
        let got = ground.next(&b, &[&c, &b]);
        let stranger = b.provider().stranger();
        assert_eq!((got.bytes(), got.source), (Some(&b"who"[..]), Some(stranger)));
        let nobody = Err(PostError::Misuse(Misuse::UnknownAddress));
        assert_eq!(b.inject(SendTo::peer(stranger), b"m"), nobody);
    });
}
