//! Peers that come, go and come again.

use spinwire_dataplane::error::{Fatal, Misuse, PostError};
use spinwire_dataplane::id::{Addr, Generation};
use spinwire_dataplane::msg::{Kind, RecvFrom, SendTo};
use spinwire_dataplane::provider::{Event, Status};

use super::{Node, Rig, Sizes, World, name, run};
use crate::rng::pattern;

/// How a node ends.
#[derive(Clone, Copy, Debug)]
pub(super) enum End {
    Dropped,
    Killed,
}

pub(super) fn end<'m, R: Rig>(world: &World<'m, R>, node: Node<'m, R>, end: End) {
    match end {
        End::Dropped => drop(node),
        End::Killed => world.kill(node),
    }
}

/// Turns until there is an event that is not `Connected`.
pub(super) fn next_end<'m, R: Rig>(world: &World<'m, R>, node: &Node<'m, R>) -> Event {
    let mut event = None;
    world.until("there is an event", &[node], || {
        while event.is_none() {
            match node.poll_event() {
                None => return false,
                Some(Event::Connected(_)) => {}
                other => event = other,
            }
        }
        true
    });
    event.unwrap()
}

fn reported_after_messages<R: Rig>(world: &World<'_, R>, how: End) {
    let (a, b, to_b, to_a) = world.pair();
    for number in 0..12 {
        world
            .insist(&[&a], || a.inject(SendTo::peer(to_b).immediate(number), &pattern(number, 80)));
    }
    // What a wrapper holds back is published when it lets go of it.
    world.turns(30, &[&a]);
    end(world, a, how);
    for context in 0..12 {
        b.recv(RecvFrom::peer(to_a), context).unwrap();
    }
    let mut event = None;
    world.until("its end is reported", &[&b], || {
        event = b.poll_event();
        event.is_some()
    });
    assert_eq!(event, Some(Event::PeerGone(to_a)));
    assert_eq!(b.inbox_len(), 12, "the messages come first");
    for number in 0..12 {
        let got = b.take().unwrap();
        assert_eq!((got.status, got.immediate), (Status::Success, Some(number)));
        assert_eq!(got.bytes, pattern(number, 80));
    }
    world.turns(20, &[&b]);
    assert_eq!((b.events(), b.inbox_len()), (vec![], 0), "it is said once");
}

/// Everything that a peer published before it left is delivered; then its end is reported.
pub fn a_dropped_peer_is_reported_after_its_messages<R: Rig>(world: &World<'_, R>) {
    reported_after_messages(world, End::Dropped);
}

/// The same for one that was killed.
pub fn a_killed_peer_is_reported_after_its_messages<R: Rig>(world: &World<'_, R>) {
    reported_after_messages(world, End::Killed);
}

/// Receives that only the gone one could have filled fail; those of others go on.
pub fn receives_of_the_gone_fail<R: Rig>(world: &World<'_, R>) {
    for how in [End::Dropped, End::Killed] {
        let (a, b, _, to_a) = world.pair();
        let free = world.pool().free_count();
        for context in 0..3 {
            b.recv(RecvFrom::peer(to_a), context).unwrap();
            b.recv(RecvFrom::peer(to_a).tag(context), 10 + context).unwrap();
            b.recv(RecvFrom::any(), 20 + context).unwrap();
        }
        world.turns(3, &[&a, &b]);
        end(world, a, how);
        let fail = if world.is_msg() { 9 } else { 6 };
        world.until("they have failed", &[&b], || b.inbox_len() == fail);
        let mut contexts = Vec::new();
        while let Some(got) = b.take() {
            assert_eq!((got.status, got.kind), (Status::PeerGone, Kind::RecvEnded));
            assert!(got.returned);
            let tag = (10..20).contains(&got.context).then(|| got.context - 10);
            assert_eq!(got.tag, tag, "the tag that it waited for");
            contexts.push(got.context);
        }
        contexts.sort_unstable();
        let directed = [0, 1, 2, 10, 11, 12, 20, 21, 22];
        assert_eq!(contexts, directed[..fail]);
        assert_eq!(next_end(world, &b), Event::PeerGone(to_a));
        world.turns(20, &[&b]);
        assert_eq!(b.inbox_len(), 0);
        if !world.is_msg() {
            // Somebody else can still fill them.
            let c = world.node("c");
            let to_b = c.connect(b.name()).unwrap();
            world.insist(&[&b, &c], || c.inject(SendTo::peer(to_b), b"c"));
            world.until("it is there", &[&b, &c], || b.inbox_len() == 1);
            assert_eq!(b.take().unwrap().context, 20);
        }
        drop(b);
        let _ = free;
    }
}

/// A send to a gone peer is refused: `PeerGone` until its end was taken note of, then its address is stale.
pub fn sends_to_the_gone_fail<R: Rig>(world: &World<'_, R>) {
    for how in [End::Dropped, End::Killed] {
        let (a, b, to_b, to_a) = world.pair();
        b.recv(RecvFrom::any(), 1).unwrap();
        world.insist(&[&a, &b], || a.inject(SendTo::peer(to_b), b"m"));
        world.until("it is there", &[&a, &b], || b.take().is_some());
        world.insist(&[&a, &b], || b.inject(SendTo::peer(to_a), b"m"));
        world.turns(10, &[&a, &b]);
        end(world, a, how);
        let gone = PostError::Fatal(Fatal::PeerGone);
        let mut refused = None;
        world.until("a send is refused", &[&b], || {
            refused = b.inject(SendTo::peer(to_a), b"m").err();
            refused.is_some()
        });
        assert_eq!(refused, Some(gone));
        assert_eq!(b.send(SendTo::peer(to_a), b"m", 1), Err(gone));
        world.turns(5, &[&b]);
        assert_eq!(b.recv(RecvFrom::peer(to_a), 1), Err(gone));
        assert_eq!(next_end(world, &b), Event::PeerGone(to_a));
        let stale = PostError::Misuse(Misuse::StaleAddress);
        assert_eq!(b.inject(SendTo::peer(to_a), b"m"), Err(stale));
        assert_eq!(b.send(SendTo::peer(to_a), b"m", 1), Err(stale));
        assert_eq!(b.recv(RecvFrom::peer(to_a), 1), Err(stale));
        assert_eq!(b.disconnect(to_a), Err(stale));
    }
}

/// A peer that connected, sent and went before anybody looked is still heard.
pub fn a_sender_that_was_never_met_is_heard<R: Rig>(world: &World<'_, R>) {
    if world.is_msg() {
        return;
    }
    for how in [End::Dropped, End::Killed] {
        let [a, b] = ["a", "b"].map(|text| world.node(text));
        let to_b = a.connect(b.name()).unwrap();
        world.meet(&a, &b, to_b);
        for number in 0..5 {
            world.insist(&[&a], || a.inject(SendTo::peer(to_b).immediate(number), b"m"));
        }
        world.turns(30, &[&a]);
        end(world, a, how);
        for context in 0..5 {
            b.recv(RecvFrom::any(), context).unwrap();
        }
        world.until("all are there", &[&b], || b.inbox_len() == 5);
        let source = b.take().unwrap().source.unwrap();
        assert_eq!(next_end(world, &b), Event::PeerGone(source));
    }
}

/// A sender whose receiver goes without ever having looked is told.
pub fn a_receiver_that_never_looked_is_reported<R: Rig>(world: &World<'_, R>) {
    for how in [End::Dropped, End::Killed] {
        let [a, b] = ["a", "b"].map(|text| world.node(text));
        let to_b = a.connect(b.name()).unwrap();
        if !world.is_msg() {
            world.meet(&a, &b, to_b);
            for _ in 0..3 {
                world.insist(&[&a], || a.inject(SendTo::peer(to_b), b"m"));
            }
        }
        world.turns(3, &[&a]);
        end(world, b, how);
        assert_eq!(next_end(world, &a), Event::PeerGone(to_b));
    }
}

/// Addresses that never were, or are no more, are refused.
pub fn addresses_are_checked<R: Rig>(world: &World<'_, R>) {
    let (a, b, to_b, _) = world.pair();
    let unknown = PostError::Misuse(Misuse::UnknownAddress);
    let stale = PostError::Misuse(Misuse::StaleAddress);
    assert_eq!(a.connect(&name("nobody")), Err(unknown));
    let far = Addr::new(world.sizes().peers_max, Generation::FIRST);
    assert_eq!(a.inject(SendTo::peer(far), b"m"), Err(unknown));
    assert_eq!(a.recv(RecvFrom::peer(far), 1), Err(unknown));
    assert_eq!(a.disconnect(far), Err(unknown));
    for wrong in [
        Addr::new(to_b.slot(), to_b.generation().next()),
        Addr::new(world.sizes().peers_max - 1, Generation::FIRST),
    ] {
        assert_eq!(a.inject(SendTo::peer(wrong), b"m"), Err(stale));
        assert_eq!(a.send(SendTo::peer(wrong), b"m", 1), Err(stale));
        assert_eq!(a.recv(RecvFrom::peer(wrong), 1), Err(stale));
        assert_eq!(a.disconnect(wrong), Err(stale));
    }
    a.disconnect(to_b).unwrap();
    assert_eq!(a.inject(SendTo::peer(to_b), b"m"), Err(stale));
    assert_eq!(a.disconnect(to_b), Err(stale));
    drop(b);
    assert_eq!(a.connect(&name("b")), Err(unknown));
}

/// A peer that was disconnected gets what was sent before, and is told.
pub fn disconnect_is_told<R: Rig>(world: &World<'_, R>) {
    let (a, b, to_b, to_a) = world.pair();
    world.insist(&[&a, &b], || b.inject(SendTo::peer(to_a), b"m"));
    world.turns(20, &[&a, &b]);
    for number in 0..5 {
        world.insist(&[&a], || a.inject(SendTo::peer(to_b).immediate(number), b"m"));
        b.recv(RecvFrom::peer(to_a), number).unwrap();
    }
    b.recv(RecvFrom::peer(to_a), 5).unwrap();
    world.turns(30, &[&a]);
    a.disconnect(to_b).unwrap();
    world.until("all are over", &[&a, &b], || b.inbox_len() == 6);
    for number in 0..5 {
        let got = b.take().unwrap();
        assert_eq!((got.context, got.immediate), (number, Some(number)));
    }
    let got = b.take().unwrap();
    assert_eq!((got.context, got.status), (5, Status::PeerGone));
    assert_eq!(next_end(world, &b), Event::PeerGone(to_a));
    let stale = PostError::Misuse(Misuse::StaleAddress);
    assert_eq!(b.inject(SendTo::peer(to_a), b"m"), Err(stale));
    assert_eq!(a.inject(SendTo::peer(to_b), b"m"), Err(stale));
}

/// Who disconnects a peer gets back the receives that waited for that peer alone, and no others.
pub fn disconnect_gives_directed_receives_back<R: Rig>(world: &World<'_, R>) {
    let (a, _b, to_b, _) = world.pair();
    a.recv(RecvFrom::peer(to_b), 7).unwrap();
    a.recv(RecvFrom::any(), 8).unwrap();
    a.recv(RecvFrom::peer(to_b).tag(1), 9).unwrap();
    a.disconnect(to_b).unwrap();
    world.until("both are back", &[&a], || a.inbox_len() == 2);
    let mut contexts = [a.take().unwrap(), a.take().unwrap()].map(|got| {
        assert_eq!((got.kind, got.status), (Kind::RecvEnded, Status::Cancelled));
        assert_eq!(got.tag, (got.context == 9).then_some(1));
        got.context
    });
    contexts.sort_unstable();
    assert_eq!(contexts, [7, 9]);
    world.turns(20, &[&a]);
    assert_eq!((a.inbox_len(), a.posted_count()), (0, 1));
}

/// One who has only listened is missed as well.
pub fn a_silent_end_disconnects_too<R: Rig>(world: &World<'_, R>) {
    if world.is_msg() {
        return;
    }
    let [a, b] = ["a", "b"].map(|text| world.node(text));
    let to_a = b.connect(a.name()).unwrap();
    a.recv(RecvFrom::any(), 1).unwrap();
    world.insist(&[&a, &b], || b.inject(SendTo::peer(to_a), b"m"));
    world.until("it is there", &[&a, &b], || a.inbox_len() > 0);
    a.disconnect(a.take().unwrap().source.unwrap()).unwrap();
    assert_eq!(next_end(world, &b), Event::PeerGone(to_a));
    assert!(b.inject(SendTo::peer(to_a), b"m").is_err());
}

/// Disconnected peers can connect again, from either side, many times.
pub fn a_disconnected_peer_comes_back<R: Rig>(world: &World<'_, R>) {
    let [a, b] = ["a", "b"].map(|text| world.node(text));
    for round in 0..30_u64 {
        let (to_b, to_a) = world.introduce(&a, &b);
        for (from, to, addr) in [(&a, &b, to_b), (&b, &a, to_a)] {
            to.recv(RecvFrom::any(), round).unwrap();
            world.insist(&[&a, &b], || from.inject(SendTo::peer(addr).immediate(round), b"m"));
            world.until("it is there", &[&a, &b], || to.inbox_len() > 0);
            let got = to.take().unwrap();
            assert_eq!((got.context, got.immediate), (round, Some(round)));
        }
        let (first, other, addr, back) =
            if round % 2 == 0 { (&a, &b, to_b, to_a) } else { (&b, &a, to_a, to_b) };
        first.disconnect(addr).unwrap();
        world.turn(&[first]);
        assert_eq!(next_end(world, other), Event::PeerGone(back));
        assert_eq!(first.events(), []);
    }
}

/// A peer that was killed or dropped comes back under its name; nobody takes it for the old one.
pub fn a_peer_comes_back_under_its_name<R: Rig>(world: &World<'_, R>) {
    for how in [End::Dropped, End::Killed] {
        let (a, b, to_b, to_a) = world.pair();
        a.recv(RecvFrom::any(), 1).unwrap();
        world.insist(&[&a, &b], || b.inject(SendTo::peer(to_a).immediate(1), b"old"));
        world.turns(20, &[&b]);
        end(world, b, how);
        let b = world.node("b");
        let mut before = None;
        world.until("the old message is there", &[&a, &b], || {
            before = before.take().or_else(|| a.take());
            before.is_some()
        });
        assert_eq!((before.unwrap().bytes, b.inbox_len()), (b"old".to_vec(), 0));
        assert_eq!(next_end(world, &a), Event::PeerGone(to_b));
        let (new_to_b, new_to_a) = world.introduce(&a, &b);
        assert_ne!(new_to_b, to_b);
        for (from, to, addr) in [(&a, &b, new_to_b), (&b, &a, new_to_a)] {
            to.recv(RecvFrom::any(), 2).unwrap();
            world.insist(&[&a, &b], || from.inject(SendTo::peer(addr), b"new"));
            world.until("it is there", &[&a, &b], || to.inbox_len() > 0);
            assert_eq!(to.take().unwrap().bytes, b"new");
        }
        let stale = PostError::Misuse(Misuse::StaleAddress);
        assert_eq!(a.inject(SendTo::peer(to_b), b"m"), Err(stale));
    }
}

/// Whoever was held for dead, and is not, finds out, and does not disturb its successor.
pub fn a_fenced_endpoint_touches_nothing<R: Rig>(world: &World<'_, R>) {
    if !R::FENCES {
        return;
    }
    let (ghost, b, to_b, to_ghost) = world.pair();
    world.insist(&[&ghost, &b], || ghost.inject(SendTo::peer(to_b), b"before"));
    b.recv(RecvFrom::any(), 1).unwrap();
    world.until("it is there", &[&ghost, &b], || b.take().is_some());
    ghost.recv(RecvFrom::peer(to_b), 2).unwrap();
    R::kill(world.ground(), ghost.name());
    let a = world.node("a");
    assert_eq!(next_end(world, &b), Event::PeerGone(to_ghost));
    assert_eq!(next_end(world, &ghost), Event::PeerGone(to_b));
    assert_eq!(ghost.take().unwrap().status, Status::PeerGone);
    let fenced = PostError::Fatal(Fatal::Fenced);
    for round in 0..40_u64 {
        assert_eq!(ghost.connect(b.name()), Err(fenced));
        assert!(ghost.inject(SendTo::peer(to_b), b"ghost").is_err());
        let (to_b, to_a) = world.introduce(&a, &b);
        for (from, to, addr) in [(&a, &b, to_b), (&b, &a, to_a)] {
            to.recv(RecvFrom::any(), round).unwrap();
            world.insist(&[&ghost, &a, &b], || from.inject(SendTo::peer(addr), b"m"));
            world.until("it is there", &[&ghost, &a, &b], || to.inbox_len() > 0);
            assert_eq!(to.take().unwrap().bytes, b"m");
        }
        a.disconnect(to_b).unwrap();
        assert_eq!(next_end(world, &b), Event::PeerGone(to_a));
        world.turn(&[&ghost, &a]);
        assert_eq!((ghost.events(), a.events()), (vec![], vec![]));
    }
    drop(ghost);
    world.introduce(&a, &b);
}

/// Peers that come and go, with and without messages under way, leave nothing behind in any table.
pub fn nothing_leaks_by_coming_and_going<R: Rig>(world: &World<'_, R>) {
    let a = world.node("a");
    for round in 0..60 / u64::from(R::SHORTENED.min(3)) {
        let b = world.node("b");
        let (to_b, to_a) = world.introduce(&a, &b);
        if round % 3 > 0 {
            world.insist(&[&a, &b], || a.inject(SendTo::peer(to_b), &pattern(1, 900)));
            world.insist(&[&a, &b], || b.inject(SendTo::peer(to_a).tag(1), b"m"));
        }
        if round % 4 > 1 {
            world.turns(3, &[&a, &b]);
        }
        end(world, b, if round % 2 == 0 { End::Killed } else { End::Dropped });
        // What came in waits for nobody: take it.
        world.until("the end is reported", &[&a], || {
            if a.peek(RecvFrom::any().tag(1)).is_some() {
                a.recv(RecvFrom::any().tag(1), 0).unwrap();
            }
            while a.take().is_some() {}
            a.events().contains(&Event::PeerGone(to_b))
        });
    }
    let b = world.node("b");
    let (to_b, _) = world.introduce(&a, &b);
    b.recv(RecvFrom::any(), 0).unwrap();
    world.insist(&[&a, &b], || a.inject(SendTo::peer(to_b), b"m"));
    world.until("it is there", &[&a, &b], || b.take().is_some());
}

/// The same for peers that stay, and connect and disconnect without waiting for each other.
pub fn nothing_leaks_by_connecting_and_disconnecting<R: Rig>(world: &World<'_, R>) {
    if world.is_msg() {
        return;
    }
    let [a, b] = ["a", "b"].map(|text| world.node(text));
    b.recv(RecvFrom::any(), 0).unwrap();
    for number in 0..200 / u64::from(R::SHORTENED.min(3)) {
        let to_b = a.connect(b.name()).unwrap();
        world.insist(&[&a, &b], || a.inject(SendTo::peer(to_b).immediate(number), b"m"));
        a.flush();
        a.disconnect(to_b).unwrap();
        world.until("it is there", &[&a, &b], || {
            // Whoever takes no note of who has gone has no room for who comes.
            let _ = b.events();
            b.inbox_len() > 0
        });
        assert_eq!(b.take().unwrap().immediate, Some(number));
        b.recv(RecvFrom::any(), 0).unwrap();
        let _ = a.events();
    }
}

/// One who has no room for another peer refuses it, and says so.
pub fn a_full_address_table_refuses<R: Rig>(world: &World<'_, R>) {
    if world.is_msg() {
        return;
    }
    let sizes = Sizes { peers_max: 2, ..*world.sizes() };
    run::<R>(world.endpoint_type(), sizes, |world| {
        let [a, b, c, d] = ["a", "b", "c", "d"].map(|text| world.node(text));
        let at_a = [a.connect(b.name()).unwrap(), a.connect(c.name()).unwrap()];
        let to_a = d.connect(a.name()).unwrap();
        a.recv(RecvFrom::any(), 0).unwrap();
        // It is taken and lost, or waits until there is no need of it.
        let mut taken = false;
        let mut event = None;
        world.until("it is told", &[&a, &d], || {
            taken = taken || d.inject(SendTo::peer(to_a), b"lost").is_ok();
            event = d.poll_event();
            event.is_some()
        });
        assert!(taken || R::MEETS);
        assert_eq!(event, Some(Event::Refused(to_a)));
        assert_eq!((a.events(), a.inbox_len()), (vec![], 0));
        let stale = PostError::Misuse(Misuse::StaleAddress);
        assert_eq!(d.inject(SendTo::peer(to_a), b"m"), Err(stale));
        // With room it is welcome.
        a.disconnect(at_a[0]).unwrap();
        let to_a = d.connect(a.name()).unwrap();
        world.insist(&[&a, &d], || d.inject(SendTo::peer(to_a), b"now"));
        world.until("it is there", &[&a, &d], || a.inbox_len() > 0);
        assert_eq!(a.take().unwrap().bytes, b"now");
    });
}

/// An address is looked up for its name, whoever has connected to whom; the first row, which is number 0, is as good as any. Whoever is not
/// specified has no address at all, and one that is over has no name.
pub fn names_are_found_by_address<R: Rig>(world: &World<'_, R>) {
    let (a, b, to_b, to_a) = world.pair();
    if a.name_of(to_b) == Err(Misuse::Unsupported) {
        return;
    }
    assert_eq!((to_b.slot(), to_a.slot()), (0, 0), "the first row of either table");
    assert_eq!(a.name_of(to_b), Ok(Some(*b.name())));
    assert_eq!(b.name_of(to_a), Ok(Some(*a.name())));
    // Somebody is meant by number 0, and nobody by a receive for anybody: what it takes says who it was.
    b.recv(RecvFrom::any(), 1).unwrap();
    world.insist(&[&a, &b], || a.inject(SendTo::peer(to_b), b"from the first row"));
    world.until("it is there", &[&a, &b], || b.messages_len() > 0);
    let source = b.take_message().unwrap().source.unwrap();
    assert_eq!((source, b.name_of(source)), (to_a, Ok(Some(*a.name()))));
    let beyond = Addr::new(world.sizes().peers_max + 1, Generation::FIRST);
    assert_eq!(a.name_of(beyond), Err(Misuse::UnknownAddress));
    let older = Addr::new(0, to_b.generation().next());
    assert_eq!(a.name_of(older), Err(Misuse::StaleAddress));
    a.disconnect(to_b).unwrap();
    assert_eq!(a.name_of(to_b), Err(Misuse::StaleAddress));
}
