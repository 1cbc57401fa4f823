//! Datagrams: garbage, strangers, and what is lost on the way.

use spinwire_dataplane::msg::{RecvFrom, SendTo};
use spinwire_dataplane::provider::EndpointType;
use spinwire_dataplane::provider::tcp::frame::Envelope;
use spinwire_dataplane::provider::udp::datagram::{self, DatagramFault};
use spinwire_tests::conformance::{RdmaDgram, Sizes, run};
use spinwire_tests::rng::{Rng, pattern};
use spinwire_tests::sim::fabric::Faults;

/// What strangers send as datagrams is dropped and counted, those who speak properly are heard and can be answered; what is lost is gone, and nothing else.
#[test]
fn of_datagrams_garbage_is_counted_and_strangers_are_answered() {
    run::<RdmaDgram>(EndpointType::Dgram, Sizes::default(), |world| {
        let (a, b) = (world.node("a"), world.node("b"));
        let fabric = world.ground().fabric();
        let to_b = a.connect(b.name()).unwrap();
        b.recv(RecvFrom::any(), 0).unwrap();
        a.inject(SendTo::peer(to_b), b"who is there").unwrap();
        world.until("it is there", &[&a, &b], || b.inbox_len() > 0);
        let to_a = b.take().unwrap().source.unwrap();
        a.recv(RecvFrom::any(), 0).unwrap();
        world.insist(&[&a, &b], || b.inject(SendTo::peer(to_a), b"I am"));
        world.until("it is answered", &[&a, &b], || a.inbox_len() > 0);
        assert_eq!(a.take().unwrap().source, Some(to_b), "who answers is who was asked");
        // Garbage of all short lengths, and a header that says more than there is.
        let mailbox = world.ground().find("b");
        let mut rng = Rng::new(7);
        for length in 0..80 {
            let bytes: Vec<u8> = (0..length).map(|_| rng.word().to_le_bytes()[0]).collect();
            fabric.send_datagram(mailbox.to, &bytes);
            world.turn(&[&b]);
        }
        world.turn(&[&b]);
        let port = b.provider().rdma();
        let counters = port.counters();
        assert_eq!((counters.garbage, counters.received), (80, 81), "{counters:?}");
        // What was wrong with the last one is said: one that is too short, of another build, longer than it says.
        let sound = datagram::header(3, Envelope::default()).unwrap();
        let (mut of_another, mut stranger) = (sound, sound);
        of_another[2] ^= 1;
        stranger[0] ^= 1;
        for (garbage, (packet, fault)) in (81..).zip([
            (sound[..9].to_vec(), DatagramFault::Short),
            ([&of_another[..], b"who"].concat(), DatagramFault::Version),
            ([&sound[..], b"who else"].concat(), DatagramFault::Length),
            ([&stranger[..], b"who"].concat(), DatagramFault::Magic),
        ]) {
            fabric.send_datagram(mailbox.to, &packet);
            world.turns(2, &[&b]);
            assert_eq!(port.last_fault(), Some(fault));
            assert_eq!(port.counters().garbage, garbage);
        }
        // A proper one of which is not told who has sent it, whatever is in front.
        let proper = datagram::header(3, Envelope::default()).unwrap();
        let proper = [&proper[..], b"who"].concat();
        fabric.send_without_route(mailbox.to, &proper);
        world.turns(2, &[&b]);
        assert_eq!((port.counters().garbage, port.last_fault()), (85, Some(DatagramFault::Route)));
        fabric.send_datagram(mailbox.to, &proper);
        b.recv(RecvFrom::any(), 0).unwrap();
        world.until("it is there", &[&b], || b.inbox_len() > 0);
        assert_eq!(b.take().unwrap().bytes, b"who");
        assert_eq!(port.counters().garbage, 85);
        // Half of all are lost on the way; each of the others comes once and intact.
        fabric.set_faults(Faults { losses: 5_000, ..Faults::default() });
        let mut heard = Vec::new();
        for number in 0..400_u64 {
            let bytes = pattern(number, 300);
            world.insist(&[&a], || a.inject(SendTo::peer(to_b).immediate(number), &bytes));
            let _posted = b.recv(RecvFrom::any(), 0);
            world.turn(&[&a, &b]);
            while let Some(got) = b.take() {
                let number = got.immediate.unwrap();
                assert!(got.bytes == pattern(number, 300));
                heard.push(number);
            }
        }
        let mut once = heard.clone();
        once.sort_unstable();
        once.dedup();
        assert_eq!(once.len(), heard.len(), "once");
        assert!((100..300).contains(&heard.len()), "{}", heard.len());
    });
}

/// One look takes so much and no more; and whoever would sleep then, on a queue that tells of what comes later alone, knows that there is more.
#[test]
fn who_has_not_heard_all_knows() {
    run::<RdmaDgram>(EndpointType::Dgram, Sizes { recv_depth: 160, ..Sizes::default() }, |world| {
        let (a, b) = (world.node("a"), world.node("b"));
        world.turn(&[&a, &b]);
        let port = b.provider().rdma();
        assert!(port.has_heard_all());
        let to = world.ground().find("b").to;
        (0..140).for_each(|_| world.ground().fabric().send_datagram(to, b"garbage"));
        let mut seen = Vec::new();
        for _ in 0..2 {
            world.turn(&[&b]);
            seen.push((port.counters().garbage, port.has_heard_all()));
        }
        assert_eq!(seen, [(128, false), (140, true)]);
    });
}
