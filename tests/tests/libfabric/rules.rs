//! What a provider lacks is refused, and what fails says why.

use spinwire_dataplane::error::{Misuse, PostError};
use spinwire_dataplane::msg::{Kind, RecvFrom, SendTo};
use spinwire_dataplane::provider::{Caps, Status};
use spinwire_dataplane::raw::loan::LoanPool;
use spinwire_hostshim::libfabric::{OfiConfig, OfiError, OfiHints, OfiPort, found};

use spinwire_tests::conformance::OfiChoice;

use super::pair::{config, named, on_ground};
use super::{ALL, SHM, SOCKETS, SOCKETS_MSG, TCP, TCP_MSG, UDP};

const LACKING: PostError = PostError::Misuse(Misuse::Unsupported);

/// Capabilities that are not there are refused by name, and nothing is posted.
#[test]
fn what_a_provider_lacks_is_refused_before_it_is_posted() {
    let any_tag = RecvFrom::any().tag_ignoring(0, u64::MAX);
    for (choice, lacks) in
        [(TCP_MSG, Caps::TAGGED), (SOCKETS, Caps::IMMEDIATE), (SHM, Caps::NONE), (TCP, Caps::NONE)]
    {
        on_ground(|ground| {
            let (a, b, to_b, _) = ground.pair(&config(&choice));
            let caps = a.info().caps;
            let expected =
                Caps::MESSAGE.with(Caps::TAGGED).with(Caps::INJECT).with(Caps::IMMEDIATE);
            let expected = expected.with(Caps::DIRECTED_RECV).with(Caps::SOURCE).with(Caps::CANCEL);
            let several = Caps::GATHER.with(Caps::SCATTER);
            let several = if choice == TCP_MSG { Caps::GATHER } else { several };
            assert_eq!(caps, expected.with(several).without(lacks), "{choice:?}");
            let refused = |to: SendTo| a.inject(to, b"m").err() == Some(LACKING);
            assert_eq!(refused(SendTo::peer(to_b).tag(1)), lacks == Caps::TAGGED);
            assert_eq!(refused(SendTo::peer(to_b).immediate(1)), lacks == Caps::IMMEDIATE);
            let post = |from| b.post_recv(from, ground.loan(), 1).map_err(|refused| refused.error);
            assert_eq!(post(RecvFrom::any().tag(1)).err() == Some(LACKING), lacks == Caps::TAGGED);
            let no_masks = lacks == Caps::TAGGED || choice.provider == "shm";
            assert_eq!(post(any_tag).err() == Some(LACKING), no_masks, "{choice:?}");
            let many = b.post_multi_recv(RecvFrom::any(), ground.loan(), 64, 1).unwrap_err();
            assert_eq!(many.error, LACKING);
            assert!(b.peek(any_tag).is_none());
        });
    }
}

/// Whose connections bring nothing more after such a message.
const BREAKS_OFF: [OfiChoice; 2] = [TCP, TCP_MSG];

/// A message that is longer than its receive ends it with its status, and with all that the library said; what follows is not disturbed.
#[test]
fn a_short_receive_says_so_with_the_librarys_reason() {
    for choice in [TCP, TCP_MSG, SOCKETS, SOCKETS_MSG] {
        on_ground(|ground| {
            let (a, b, to_b, _) = ground.pair(&config(&choice));
            let short = LoanPool::place(ground.bump, 2, 64).unwrap();
            let id = b.post_recv(RecvFrom::any(), short.lend().unwrap(), 1).unwrap();
            ground.until("it is taken", &[&a, &b], || {
                a.inject(SendTo::peer(to_b), &[7; 200]).is_ok()
            });
            let got = ground.next(&b, &[&a, &b]);
            assert_eq!(
                (got.id, got.kind, got.status),
                (id, Kind::Received, Status::Truncated),
                "{choice:?}"
            );
            assert!(got.length <= 64 && got.loan.is_some());
            let failure = b.provider().poll_failure().expect("what the library said");
            // FI_ETRUNC of fi_errno(3).
            assert_eq!((failure.wr_id, failure.errno.number()), (id, 265), "{choice:?}: {failure}");
            assert!(failure.to_string().contains("bytes delivered"), "{failure}");
            assert_eq!((b.provider().poll_failure(), b.provider().counters().failed), (None, 1));
            if BREAKS_OFF.contains(&choice) {
                return;
            }
            b.post_recv(RecvFrom::any(), ground.loan(), 2).unwrap();
            ground
                .until("it is taken", &[&a, &b], || a.inject(SendTo::peer(to_b), b"next").is_ok());
            let got = ground.next(&b, &[&a, &b]);
            assert_eq!((got.context, got.bytes()), (2, Some(&b"next"[..])), "{choice:?}");
        });
    }
}

/// The provider reads what is too long from the memory of its sender, and does not come back where there is no room for all of it. Both ends are
/// of one process here, which is as it is between two.
#[test]
fn what_is_too_long_over_shared_memory_comes_to_an_end() {
    on_ground(|ground| {
        let long = OfiConfig { message_bytes_max: 100_000, ..config(&SHM) };
        let (a, b, to_b, _) = ground.pair(&long);
        let short = LoanPool::place(ground.bump, 1, 64).unwrap();
        let longest = a.info().limits.message_bytes_max;
        for length in [65, 200, 4096, 4097, 5000, longest] {
            let loan = short.lend().unwrap();
            let id = b.post_recv(RecvFrom::any(), loan, 1).unwrap();
            let message = vec![7; length];
            let send = || a.inject(SendTo::peer(to_b), &message).is_ok();
            ground.until("it is taken", &[&a, &b], send);
            let got = ground.next(&b, &[&a, &b]);
            assert_eq!((got.id, got.status), (id, Status::Truncated), "{length}");
            assert_eq!(got.loan.map(|loan| loan.capacity()), Some(64));
            b.post_recv(RecvFrom::any(), ground.loan(), 2).unwrap();
            let send = || a.inject(SendTo::peer(to_b), b"next").is_ok();
            ground.until("it is taken", &[&a, &b], send);
            let got = ground.next(&b, &[&a, &b]);
            assert_eq!((got.context, got.bytes()), (2, Some(&b"next"[..])), "{length}");
        }
    });
}

/// Short messages are the library's to copy, longer ones the port's; and neither may be under way without bound.
#[test]
fn what_is_injected_goes_by_the_librarys_own_limit_and_never_without_end() {
    for choice in ALL {
        on_ground(|ground| {
            let (a, b, to_b, _) = ground.pair(&config(choice));
            let mut from = vec![0; 4096];
            for (at, byte) in from.iter_mut().enumerate() {
                *byte = u8::try_from(at % 251).unwrap();
            }
            for length in [0, 1, 64, 65, 128, 129, 255, 256, 4095, 4096] {
                b.post_recv(RecvFrom::any(), ground.loan(), 1).unwrap();
                let send = || a.inject(SendTo::peer(to_b), &from[..length]).is_ok();
                ground.until("it is taken", &[&a, &b], send);
                let got = ground.next(&b, &[&a, &b]);
                assert_eq!(got.bytes(), Some(&from[..length]), "{choice:?}");
            }
            let counters = a.provider().counters();
            assert!(counters.injected >= 2 && counters.copied >= 2, "{choice:?}: {counters:?}");
            assert_eq!(counters.injected + counters.copied, 10);
            // Nobody polls: it ends.
            let sent = (0..1000).take_while(|_| a.inject(SendTo::peer(to_b), b"m").is_ok()).count();
            assert!((8..=40).contains(&sent), "{choice:?}: {sent}");
        });
    }
}

/// Who asks for what is not there is told what is.
#[test]
fn what_cannot_be_had_is_told() {
    let open = |config: &OfiConfig| {
        let mut told = None;
        on_ground(|ground| {
            told = OfiPort::open(ground.bump, ground.names, &named("a"), config).err();
        });
        told.expect("nobody has that")
    };
    let none = open(&OfiConfig { provider: Some("no-such".into()), ..config(&TCP) });
    assert!(matches!(none, OfiError::NoOffer { .. }), "{none:?}");
    assert!(none.to_string().contains("remedy: fi_info -p 'no-such'"), "{none}");
    let elsewhere = open(&OfiConfig { node: Some("192.0.2.77".into()), ..config(&TCP) });
    let told = matches!(elsewhere, OfiError::NoOffer { .. } | OfiError::Refused { .. });
    assert!(told && elsewhere.to_string().len() > 20, "{elsewhere:?}");
}

/// What the providers offer is told without opening any of it.
#[test]
fn offers_say_what_ports_will_be() {
    for choice in ALL {
        let hints = OfiHints {
            provider: Some(choice.provider.into()),
            endpoint_type: Some(choice.endpoint_type),
            node: choice.node.map(Into::into),
        };
        let offers = found(&hints).unwrap();
        let offer = offers.first().unwrap_or_else(|| panic!("{choice:?} is offered"));
        assert_eq!(offer.info.endpoint_type, choice.endpoint_type);
        assert!(
            offer.provider.starts_with(choice.provider) && offer.info.provider.starts_with("ofi:")
        );
        assert!(offer.info.caps.has(Caps::MESSAGE.with(Caps::INJECT)));
        assert_eq!(offer.info.caps.has(Caps::TAGGED), *choice != TCP_MSG);
        assert!(!offer.modes.local && offer.info.limits.inject_bytes_max >= 64, "{offer:?}");
    }
    let nothing = OfiHints { provider: Some("no-such".into()), ..OfiHints::default() };
    assert_eq!(found(&nothing), Ok(vec![]));
    assert!(UDP.provider == "udp");
}
