//! Connected endpoints: one peer, and no other.

use spinwire_dataplane::error::{Misuse, PostError, Retry};
use spinwire_dataplane::msg::{RecvFrom, SendTo};
use spinwire_dataplane::provider::{Cqe, EndpointType, Event, Provider, Status};

use super::{Rig, World, name};

/// A connection is not up before the other end took it; both are told once.
pub fn connects_once<R: Rig>(world: &World<'_, R>) {
    if !world.is_msg() {
        return;
    }
    let [a, b] = ["a", "b"].map(|text| world.node(text));
    let to_b = a.connect(b.name()).unwrap();
    let not_yet = PostError::Retry(Retry::NotConnected);
    assert_eq!(a.inject(SendTo::peer(to_b), b"m"), Err(not_yet));
    world.turns(5, &[&a]);
    assert_eq!((a.events(), a.inject(SendTo::peer(to_b), b"m")), (vec![], Err(not_yet)));
    assert_eq!(a.connect(b.name()), Ok(to_b), "the same again is the same");
    world.turns(5, &[&a, &b]);
    assert_eq!(a.events(), [Event::Connected(to_b)]);
    let [Event::Connected(to_a)] = b.events()[..] else { panic!("b is told") };
    assert_eq!(b.connect(a.name()), Ok(to_a));
    a.recv(RecvFrom::any(), 1).unwrap();
    world.insist(&[&a, &b], || b.inject(SendTo::peer(to_a), b"m"));
    world.until("it is there", &[&a, &b], || a.take().is_some());
    assert_eq!((a.events(), b.events()), (vec![], vec![]));
}

/// Two that connect to each other at the same time have one connection.
pub fn crossing_connects_meet<R: Rig>(world: &World<'_, R>) {
    if !world.is_msg() {
        return;
    }
    let [a, b] = ["a", "b"].map(|text| world.node(text));
    let to_b = a.connect(b.name()).unwrap();
    let to_a = b.connect(a.name()).unwrap();
    world.turns(5, &[&a, &b]);
    assert_eq!(a.events(), [Event::Connected(to_b)]);
    assert_eq!(b.events(), [Event::Connected(to_a)]);
    for (from, to, addr) in [(&a, &b, to_b), (&b, &a, to_a)] {
        to.recv(RecvFrom::any(), 1).unwrap();
        world.insist(&[&a, &b], || from.inject(SendTo::peer(addr), b"m"));
        world.until("it is there", &[&a, &b], || to.take().is_some());
    }
}

/// Who is connected refuses others, who can go elsewhere; its own peer does not notice.
pub fn a_second_is_refused<R: Rig>(world: &World<'_, R>) {
    if !world.is_msg() {
        return;
    }
    let (a, b, to_b, _) = world.pair();
    let [c, d] = ["c", "d"].map(|text| world.node(text));
    let wrong = PostError::Misuse(Misuse::WrongPeer);
    assert_eq!(a.connect(c.name()), Err(wrong));
    c.recv(RecvFrom::any(), 7).unwrap();
    let refused = c.connect(b.name()).unwrap();
    let mut event = None;
    world.until("c is told", &[&a, &b, &c], || {
        event = c.poll_event();
        event.is_some()
    });
    assert_eq!(event, Some(Event::Refused(refused)));
    let got = c.take().unwrap();
    assert_eq!((got.context, got.status), (7, Status::PeerGone));
    let stale = PostError::Misuse(Misuse::StaleAddress);
    assert_eq!(c.inject(SendTo::peer(refused), b"m"), Err(stale));
    let (_, to_c) = world.introduce(&c, &d);
    c.recv(RecvFrom::any(), 8).unwrap();
    world.insist(&[&c, &d], || d.inject(SendTo::peer(to_c), b"m"));
    world.until("it is there", &[&c, &d], || c.take().is_some());
    b.recv(RecvFrom::any(), 9).unwrap();
    world.insist(&[&a, &b], || a.inject(SendTo::peer(to_b), b"m"));
    world.until("it is there", &[&a, &b], || b.take().is_some());
    assert_eq!((a.events(), b.events()), (vec![], vec![]));
}

/// Connected and unconnected endpoints cannot talk to each other.
pub fn types_do_not_mix<R: Rig>(world: &World<'_, R>) {
    let other = if world.is_msg() { EndpointType::Rdm } else { EndpointType::Msg };
    let a = world.node("a");
    let b = R::open(world.ground(), world.bump(), (&name("b"), other), world.sizes()).unwrap();
    if !R::MEETS {
        assert_eq!(a.connect(&name("b")), Err(Misuse::Unsupported.into()));
        return;
    }
    let to_b = a.connect(&name("b")).unwrap();
    let mut out: heapless::Vec<Cqe, 4> = heapless::Vec::new();
    let mut event = None;
    world.until("it is told", &[&a], || {
        assert!(!R::has_met(a.provider(), to_b));
        b.poll_cq(world.now(), &mut out);
        b.ring_doorbell();
        event = a.poll_event();
        event.is_some()
    });
    assert_eq!((event, b.poll_event()), (Some(Event::Refused(to_b)), None));
}

/// The other end of a connection that one end gives up is free for another.
pub fn disconnect_ends_the_other_end<R: Rig>(world: &World<'_, R>) {
    if !world.is_msg() {
        return;
    }
    let (a, b, to_b, to_a) = world.pair();
    b.recv(RecvFrom::any(), 5).unwrap();
    a.disconnect(to_b).unwrap();
    let mut event = None;
    world.until("b is told", &[&a, &b], || {
        event = b.poll_event();
        event.is_some()
    });
    assert_eq!(event, Some(Event::PeerGone(to_a)));
    assert_eq!(b.take().map(|got| (got.context, got.status)), Some((5, Status::PeerGone)));
    let c = world.node("c");
    let (_, to_c_of_b) = world.introduce(&c, &b);
    c.recv(RecvFrom::any(), 6).unwrap();
    world.insist(&[&b, &c], || b.inject(SendTo::peer(to_c_of_b), b"m"));
    world.until("it is there", &[&b, &c], || c.take().is_some());
}
