//! How connections end, and how they do not: hosts that cannot destroy, strangers with the names of others, peers that are gone without a word.

use spinwire_dataplane::id::Addr;
use spinwire_dataplane::msg::{RecvFrom, SendTo};
use spinwire_dataplane::provider::secret::Secret;
use spinwire_dataplane::provider::{EndpointType, Event, Provider, Status};
use spinwire_dataplane::time::{Instant, Nanos};
use spinwire_dataplane::verbs::{QueuePair, WcStatus};
use spinwire_layouts::pod::Pod;
use spinwire_layouts::wire::Hello;
use spinwire_tests::conformance::{Network, Node, Sizes, World, run};
use spinwire_tests::sim::fabric::Faults;

use super::{Rig, hello, hello_with};

/// Turns nodes for so long, a look each millisecond, and collects what the first is told.
fn pass(nodes: &[&Node<'_, Rig>], now: &mut Instant, millis: u32) -> Vec<Event> {
    let mut told = Vec::new();
    for _ in 0..millis {
        *now = now.saturating_add(Nanos::from_millis(1));
        nodes.iter().for_each(|node| node.turn(*now));
        told.extend(nodes[0].events());
    }
    told
}

/// Two that are connected, and the time.
fn connected<'m>(world: &World<'m, Rig>) -> (Node<'m, Rig>, Node<'m, Rig>, Addr, Instant) {
    let (a, b, to_b, _) = world.pair();
    let mut is_up = false;
    world.until("it is up", &[&a, &b], || {
        is_up = is_up || a.inject(SendTo::peer(to_b), b"up").is_ok();
        is_up
    });
    world.turns(20, &[&a, &b]);
    assert_eq!((a.events(), b.events()), (Vec::new(), Vec::new()));
    (a, b, to_b, world.now())
}

/// A queue pair on which receives were posted is not given back while its device may write where they say: it is to be destroyed, and only then
/// its slots are another's.
#[test]
fn a_pair_with_receives_is_not_given_back() {
    run::<Rig>(EndpointType::Rdm, Sizes::default(), |world| {
        let a = world.node("a");
        let port = a.provider().rdma();
        // The first two hosts of the network have no port; that of this one is the third.
        let [_other, pair] = Network::connect(world.ground().network(), [0, 2]);
        let network = world.ground().network();
        network.set_faults(Faults { receive_refusals: 2_000, ..Faults::default() });
        let rejected = port.accept(pair).unwrap_err();
        network.set_faults(Faults::default());
        assert!(rejected.pair.is_none(), "its device may write into slots: {rejected}");
        assert!(!port.is_quiet(), "until it is destroyed");
        world.turn(&[&a]);
        assert!(port.is_quiet());
        // One that was not touched comes back.
        let [_other, pair] = Network::connect(world.ground().network(), [0, 2]);
        let limits = pair.limits();
        world.ground().network().break_cqs(2);
        world.turns(200, &[&a]);
        let rejected = port.accept(pair).unwrap_err();
        assert_eq!(rejected.pair.map(|pair| pair.limits()), Some(limits));
    });
}

/// The queue pairs of an endpoint that goes go with it. What a device that does not let go may still read is nobody's any more.
#[test]
fn what_cannot_be_destroyed_keeps_its_buffers() {
    for is_stubborn in [false, true] {
        run::<Rig>(EndpointType::Rdm, Sizes::default(), |world| {
            let (a, _b, to_b, _) = connected(world);
            let free = world.pool().free_count();
            a.send(SendTo::peer(to_b), &[7; 2000], 1).unwrap();
            a.provider().rdma().ring_doorbell();
            assert_eq!(world.pool().free_count(), free - 1);
            if is_stubborn {
                world.ground().network().keep_pairs();
            }
            drop(a);
            let kept = usize::from(is_stubborn);
            assert_eq!(world.pool().free_count(), free - kept, "stubborn: {is_stubborn}");
        });
    }
}

/// Who takes the name of a peer that lives is not taken for it, however long it waits; who comes instead of one that is no more is.
#[test]
fn a_stranger_with_the_name_of_a_peer_ends_nothing() {
    run::<Rig>(EndpointType::Rdm, Sizes::default(), |world| {
        let (a, b, to_b, mut now) = connected(world);
        let stranger = world.ground().call(world.bump(), "b");
        stranger.send(&hello("a"));
        // The peer's program does nothing meanwhile; its device answers.
        let told = pass(&[&b], &mut now, 12_000);
        assert_eq!(told, [], "its connection stands");
        assert!(stranger.is_cut_off());
        assert_eq!(b.provider().rdma().counters().refused, 1);
        a.inject(SendTo::peer(to_b), b"still here").unwrap();
        pass(&[&a, &b], &mut now, 10);
        assert_eq!(b.provider().rdma().matcher().unexpected_len(), 2);
        // Now the peer goes without a word, and comes again.
        world.ground().vanish("a");
        let stranger = world.ground().call(world.bump(), "b");
        stranger.send(&hello("a"));
        let told = pass(&[&b], &mut now, 12_000);
        assert!(told.iter().any(|e| matches!(e, Event::PeerGone(_))), "{told:?}");
        assert!(!stranger.is_cut_off());
    });
}

/// Where the device says nothing of the old connection, neither that it was answered nor that it has failed, whoever comes with its name has begun anew.
#[test]
fn a_quiet_device_vouches_for_nobody() {
    run::<Rig>(EndpointType::Rdm, Sizes::default(), |world| {
        let (_a, b, _, mut now) = connected(world);
        world.ground().hush("b");
        let stranger = world.ground().call(world.bump(), "b");
        stranger.send(&hello("a"));
        assert_eq!(pass(&[&b], &mut now, 4_900), []);
        let told = pass(&[&b], &mut now, 500);
        assert!(told.iter().any(|e| matches!(e, Event::PeerGone(_))), "{told:?}");
        pass(&[&b], &mut now, 10);
        assert!(!stranger.is_cut_off());
        assert_eq!(b.provider().rdma().counters().connected, 2);
    });
}

/// A peer that is gone without a word is noticed though nothing is sent to it, within twice the time that was asked for; one that says nothing
/// and lives is not.
#[test]
fn who_vanishes_is_missed() {
    run::<Rig>(EndpointType::Rdm, Sizes::default(), |world| {
        world.ground().set_keepalive(Nanos::from_millis(100));
        let (a, b, _, mut now) = connected(world);
        assert!(b.provider().poll_at().is_some());
        // With a receive a turn that finds nothing is a look alone.
        b.recv(RecvFrom::any().tag(4), 1).unwrap();
        let told = pass(&[&b], &mut now, 2_000);
        assert_eq!(told, [], "its device answers, whether its program turns or not");
        world.ground().vanish("a");
        let told = pass(&[&b], &mut now, 210);
        assert!(matches!(told[..], [Event::PeerGone(_)]), "{told:?}");
        drop(a);
    });
    // Nor where the device does not tell that it gets no answer.
    run::<Rig>(EndpointType::Rdm, Sizes::default(), |world| {
        world.ground().set_keepalive(Nanos::from_millis(100));
        let (_a, b, _, mut now) = connected(world);
        pass(&[&b], &mut now, 50);
        world.ground().hush("b");
        let told = pass(&[&b], &mut now, 310);
        assert!(matches!(told[..], [Event::PeerGone(_)]), "{told:?}");
        assert_eq!(b.provider().rdma().counters().expired, 1);
    });
    // Nobody is asked where that was not asked for.
    run::<Rig>(EndpointType::Rdm, Sizes::default(), |world| {
        let (_a, b, _, mut now) = connected(world);
        world.ground().vanish("a");
        // The host of the rig does not notice so soon, either.
        assert_eq!(pass(&[&b], &mut now, 400), []);
        assert_eq!(b.provider().poll_at(), None);
    });
}

/// Who says the token that was said on the connection that is up has lost that one, and is taken at once; with another token it is a stranger.
#[test]
fn who_has_lost_its_connection_is_known_again() {
    run::<Rig>(EndpointType::Rdm, Sizes::default(), |world| {
        let b = world.node("b");
        let call = |said| {
            let caller = world.ground().call(world.bump(), "b");
            caller.send(&hello_with("guest", said));
            world.turns(20, &[&b]);
            caller
        };
        let first = call((7, 4));
        assert_eq!(b.provider().rdma().counters().connected, 1);
        let stranger = call((8, 9));
        assert_eq!(b.provider().rdma().counters().connected, 1, "it is held");
        let _earlier = call((7, 3));
        assert!(!first.is_cut_off(), "what was said before is no news");
        let again = call((7, 5));
        assert!(first.is_cut_off() && !again.is_cut_off());
        let counters = b.provider().rdma().counters();
        assert_eq!((counters.connected, counters.expired), (2, 0), "without any time limit");
        assert!(stranger.is_cut_off(), "it has not got the place of the other");
        let gone = b.events().into_iter().filter(|e| matches!(e, Event::PeerGone(_)));
        assert_eq!(gone.count(), 1);
    });
}

/// The token that whoever says that name hears from an endpoint.
fn token_for<'m>(world: &World<'m, Rig>, said: &str, of: &Node<'m, Rig>) -> u64 {
    let caller = world.ground().call(world.bump(), of.name().as_str());
    caller.send(&hello(said));
    world.turns(20, &[of]);
    let mut answer = [0; 128];
    caller.heard(&mut answer);
    let answer = Hello::from_bytes(&answer).unwrap();
    assert!(answer.name.starts_with(of.name().as_str().as_bytes()), "it is a hello");
    answer.token.get()
}

/// An endpoint says another token to each peer, the same one each time, and others when it is opened anew, with another secret.
#[test]
fn each_peer_hears_a_token_of_its_own() {
    run::<Rig>(EndpointType::Rdm, Sizes::default(), |world| {
        world.ground().set_secret(Secret::new([1, 2]));
        let one = world.node("one");
        let [a, b] = ["a", "b"].map(|peer| token_for(world, peer, &one));
        assert!(a != b && a != 0 && b != 0, "{a:x} {b:x}");
        drop(one);
        let again = world.node("one");
        assert_eq!(token_for(world, "a", &again), a);
        world.ground().set_secret(Secret::new([1, 3]));
        let other = world.node("other");
        assert_ne!(token_for(world, "a", &other), a);
    });
}

/// What ends because a device says so says with which status of a work completion, and with its tag.
#[test]
fn what_a_device_ends_says_its_status() {
    run::<Rig>(EndpointType::Rdm, Sizes::default(), |world| {
        let (a, b, to_b, mut now) = connected(world);
        a.recv(RecvFrom::peer(to_b).tag(4), 1).unwrap();
        for context in 10..13 {
            a.send(SendTo::peer(to_b).tag(context), &[7; 2000], context).unwrap();
        }
        world.ground().vanish("b");
        let mut failed = Vec::new();
        for _ in 0..12_000 {
            now = now.saturating_add(Nanos::from_millis(1));
            if let Some(over) = a.completion(now) {
                let it = over.failure().unwrap();
                assert_eq!(it.status, Status::PeerGone);
                failed.push((it.context, it.tag, it.code));
            }
            if failed.len() == 4 {
                break;
            }
        }
        failed.sort_unstable();
        // What was flushed says why: for the sake of the first.
        let why = u32::from(WcStatus::RETRY_EXCEEDED.as_raw());
        let expected = [(1, 4), (10, 10), (11, 11), (12, 12)];
        assert_eq!(failed, expected.map(|(context, tag)| (context, Some(tag), why)));
        drop(b);
    });
}
