//! What a peer leaves behind: messages that it had published and that nobody had asked for when it went.

use spinwire_dataplane::error::{Misuse, PostError};
use spinwire_dataplane::id::Addr;
use spinwire_dataplane::msg::{Kind, RecvFrom, SendTo};
use spinwire_dataplane::provider::{Event, Status};

use super::peers::{End, end, next_end};
use super::{Node, Rig, World};
use crate::rng::pattern;

const STALE: PostError = PostError::Misuse(Misuse::StaleAddress);

fn long<R: Rig>(world: &World<'_, R>) -> Vec<u8> {
    pattern(1, world.sizes().unexpected_bytes_max + 1)
}

/// A node that a peer has sent a message which is too long to wait outside of its lane, with tag 1, and behind it three
/// short ones with tag 2; and that peer is gone. `looked`: whether the node has seen the messages before the end.
fn stalled<'m, R: Rig>(world: &World<'m, R>, how: End, looked: bool) -> (Node<'m, R>, Addr) {
    let (a, b, to_b, to_a) = world.pair();
    world.insist(&[&a, &b], || a.inject(SendTo::peer(to_b).tag(1), &long(world)));
    for number in 0..3 {
        world.insist(&[&a, &b], || a.inject(SendTo::peer(to_b).tag(2).immediate(number), b"m"));
    }
    // What a wrapper holds back is published when it lets go of it.
    world.turns(30, &[&a]);
    if looked {
        world.turns(30, &[&b]);
    }
    end(world, a, how);
    (b, to_a)
}

fn all_ways() -> impl Iterator<Item = (End, bool)> {
    [End::Dropped, End::Killed].into_iter().flat_map(|how| [(how, false), (how, true)])
}

/// A peer's end is reported though nobody asks for what it has left; what it has left can be had afterwards.
pub fn an_end_waits_for_no_receive<R: Rig>(world: &World<'_, R>) {
    for (how, looked) in all_ways() {
        let (b, to_a) = stalled(world, how, looked);
        // Nobody will ever fill this one.
        let hopeless = b.recv(RecvFrom::peer(to_a).tag(9), 9);
        assert_eq!(next_end(world, &b), Event::PeerGone(to_a));
        if hopeless.is_ok() {
            let got = b.take().unwrap();
            assert_eq!((got.context, got.status), (9, Status::PeerGone), "before the event");
        }
        assert_eq!(b.inject(SendTo::peer(to_a), b"m"), Err(STALE));
        assert_eq!(b.recv(RecvFrom::peer(to_a).tag(9), 9), Err(STALE));
        let waiting = b.peek(RecvFrom::any().tag(1)).unwrap();
        assert_eq!((waiting.source, waiting.length), (to_a, long(world).len()));
        b.recv(RecvFrom::any().tag(1), 1).unwrap();
        world.until("it is there", &[&b], || b.inbox_len() > 0);
        let got = b.take().unwrap();
        assert_eq!((got.source, got.status), (Some(to_a), Status::Success));
        assert!(got.bytes == long(world));
        // What was behind it can be asked for by its old address.
        for number in 0..3 {
            b.recv(RecvFrom::peer(to_a).tag(2), number).unwrap();
            world.until("it is there", &[&b], || b.inbox_len() > 0);
            let got = b.take().unwrap();
            assert_eq!((got.context, got.immediate), (number, Some(number)));
        }
        world.turns(5, &[&b]);
        assert_eq!(b.recv(RecvFrom::peer(to_a).tag(2), 3), Err(STALE));
        assert_eq!((b.events(), b.inbox_len(), b.posted_count()), (vec![], 0, 0));
        drop(b);
        assert_eq!(R::leftovers(world.ground()), "");
    }
}

/// Messages of a gone peer that wait can be asked for by its address; who comes too late is told.
pub fn the_gone_can_be_asked_for_what_waits<R: Rig>(world: &World<'_, R>) {
    for how in [End::Dropped, End::Killed] {
        let (a, b, to_b, to_a) = world.pair();
        for number in 0..3 {
            world.insist(&[&a, &b], || a.inject(SendTo::peer(to_b).immediate(number), b"m"));
        }
        world.turns(30, &[&a, &b]);
        end(world, a, how);
        assert_eq!(next_end(world, &b), Event::PeerGone(to_a));
        assert_eq!(b.peek(RecvFrom::peer(to_a)).map(|w| w.immediate), Some(Some(0)));
        assert_eq!(b.recv(RecvFrom::peer(to_a).tag(1), 1), Err(STALE), "none with a tag waits");
        b.recv(RecvFrom::any(), 10).unwrap();
        for context in 11..14 {
            b.recv(RecvFrom::peer(to_a), context).unwrap();
        }
        world.until("all are over", &[&b], || b.inbox_len() == 4);
        for number in 0..3 {
            let got = b.take().unwrap();
            assert_eq!((got.context, got.immediate), (10 + number, Some(number)));
        }
        let got = b.take().unwrap();
        assert_eq!((got.context, got.kind), (13, Kind::RecvEnded));
        assert_eq!(got.status, Status::PeerGone);
        assert_eq!(b.recv(RecvFrom::peer(to_a), 14), Err(STALE));
        assert_eq!((b.events(), b.posted_count()), (vec![], 0));
    }
}

/// Of two who ask for the same message that is left in a lane one gets it, and the other is told.
pub fn one_left_message_is_had_once<R: Rig>(world: &World<'_, R>) {
    let (b, to_a) = stalled(world, End::Killed, true);
    assert_eq!(next_end(world, &b), Event::PeerGone(to_a));
    b.recv(RecvFrom::peer(to_a).tag(1), 1).unwrap();
    b.recv(RecvFrom::peer(to_a).tag(1), 2).unwrap();
    world.until("both are over", &[&b], || b.inbox_len() == 2);
    let [first, second] = [b.take().unwrap(), b.take().unwrap()];
    assert_eq!((first.context, first.status), (1, Status::Success));
    assert_eq!((second.context, second.status), (2, Status::PeerGone));
    assert_eq!(b.posted_count(), 0);
}

/// Who wants nothing of what is left gives it up, and its place is free.
pub fn what_is_left_can_be_given_up<R: Rig>(world: &World<'_, R>) {
    for (how, looked) in all_ways() {
        let (b, to_a) = stalled(world, how, looked);
        assert_eq!(next_end(world, &b), Event::PeerGone(to_a));
        assert_eq!(b.disconnect(to_a), Ok(()));
        assert_eq!(b.peek(RecvFrom::any().tag(1)), None);
        assert_eq!(b.disconnect(to_a), Err(STALE));
        b.recv(RecvFrom::any().tag(1), 1).unwrap();
        world.turns(30, &[&b]);
        assert_eq!((b.inbox_len(), b.events()), (0, vec![]));
        let c = world.node("c");
        world.introduce(&c, &b);
        drop((b, c));
        assert_eq!(R::leftovers(world.ground()), "");
    }
}

/// What one has left does not keep others out, nor is it lost when they end.
pub fn others_come_beside_what_is_left<R: Rig>(world: &World<'_, R>) {
    for how in [End::Dropped, End::Killed] {
        let c = world.node("c");
        let (b, to_a) = stalled(world, how, true);
        assert_eq!(next_end(world, &b), Event::PeerGone(to_a));
        let (to_b, to_c) = world.introduce(&c, &b);
        assert_ne!(to_c, to_a);
        b.recv(RecvFrom::any().tag(3), 3).unwrap();
        world.insist(&[&c, &b], || c.inject(SendTo::peer(to_b).tag(3), b"new"));
        world.until("it is there", &[&c, &b], || b.inbox_len() > 0);
        assert_eq!(b.take().unwrap().source, Some(to_c));
        end(world, c, how);
        assert_eq!(next_end(world, &b), Event::PeerGone(to_c));
        b.recv(RecvFrom::any().tag(1), 1).unwrap();
        world.until("it is there", &[&b], || b.inbox_len() > 0);
        let got = b.take().unwrap();
        assert_eq!((got.source, got.status), (Some(to_a), Status::Success));
        assert!(got.bytes == long(world));
    }
}

/// Of one whose lane is never looked through to its end nothing is told twice, whatever happens to the listener.
pub fn a_fenced_endpoint_hears_an_end_once<R: Rig>(world: &World<'_, R>) {
    if !R::FENCES {
        return;
    }
    for looked in [false, true] {
        let (b, to_a) = stalled(world, End::Killed, looked);
        // Its end is reported, and not taken note of.
        world.turns(2000, &[&b]);
        R::kill(world.ground(), b.name());
        world.turns(10, &[&b]);
        assert_eq!(b.events().into_iter().filter(|e| *e == Event::PeerGone(to_a)).count(), 1);
        world.turns(10, &[&b]);
        assert_eq!(b.events(), []);
        assert_eq!(b.peek(RecvFrom::any().tag(1)), None, "its lanes are others' by now");
        b.recv(RecvFrom::any().tag(1), 1).unwrap();
        world.turns(10, &[&b]);
        assert_eq!(b.inbox_len(), 0);
        drop(b);
        assert_eq!(R::leftovers(world.ground()), "");
    }
}

/// The same where the end was taken note of, and what was left is still there.
pub fn a_fenced_endpoint_keeps_nothing<R: Rig>(world: &World<'_, R>) {
    if !R::FENCES {
        return;
    }
    let (b, to_a) = stalled(world, End::Dropped, true);
    assert_eq!(next_end(world, &b), Event::PeerGone(to_a));
    b.recv(RecvFrom::peer(to_a).tag(1), 1).unwrap();
    R::kill(world.ground(), b.name());
    world.until("it is over", &[&b], || b.inbox_len() > 0);
    let got = b.take().unwrap();
    // A message that lies ready is still handed out: the lane is not another's yet.
    assert!(got.status == Status::PeerGone || got.source == Some(to_a), "{got:?}");
    world.turns(10, &[&b]);
    assert_eq!((b.events(), b.posted_count()), (vec![], 0));
    assert_eq!(b.recv(RecvFrom::peer(to_a).tag(2), 1), Err(STALE));
    drop(b);
    assert_eq!(R::leftovers(world.ground()), "");
}

/// One who was held for dead and ends without having noticed writes into no lane that is another's by now.
pub fn a_fenced_endpoint_ends_quietly<R: Rig>(world: &World<'_, R>) {
    if !R::FENCES {
        return;
    }
    let (ghost, b, to_b, _) = world.pair();
    world.insist(&[&ghost, &b], || ghost.inject(SendTo::peer(to_b), b"before"));
    b.recv(RecvFrom::any(), 1).unwrap();
    world.until("it is there", &[&ghost, &b], || b.take_message().is_some());
    // Staged, and not published. A wrapper that holds sends publishes what it still has when it ends, noticed or not.
    if !R::FAULTS {
        ghost.inject(SendTo::peer(to_b).immediate(666), b"ghost").unwrap();
    }
    R::kill(world.ground(), ghost.name());
    next_end(world, &b);
    let a = world.node("a2");
    let (to_b, to_a) = world.introduce(&a, &b);
    a.recv(RecvFrom::any(), 1).unwrap();
    world.insist(&[&a, &b], || b.inject(SendTo::peer(to_a), b"opens"));
    world.insist(&[&a, &b], || a.inject(SendTo::peer(to_b).immediate(1), b"m"));
    world.insist(&[&a, &b], || a.inject(SendTo::peer(to_b).immediate(2), b"m"));
    drop(ghost);
    for number in 1..3 {
        b.recv(RecvFrom::any(), number).unwrap();
        world.until("it is there", &[&a, &b], || b.messages_len() > 0);
        let got = b.take_message().unwrap();
        assert_eq!((got.immediate, got.bytes), (Some(number), b"m".to_vec()));
    }
    world.turns(20, &[&a, &b]);
    assert_eq!((a.events(), b.events()), (vec![], vec![]));
}

/// Whoever asks for one message after the other has them all before the end is reported.
pub fn an_end_has_patience<R: Rig>(world: &World<'_, R>) {
    for how in [End::Dropped, End::Killed] {
        let (a, b, to_b, to_a) = world.pair();
        for number in 0..8 {
            let bytes = if number % 2 == 0 { long(world) } else { b"short".to_vec() };
            world.insist(&[&a], || a.inject(SendTo::peer(to_b).immediate(number), &bytes));
        }
        world.turns(60, &[&a]);
        end(world, a, how);
        for number in 0..8 {
            // As slow as somebody who has other things to do.
            world.turns(10, &[&b]);
            assert_eq!(b.events().into_iter().filter(|e| *e == Event::PeerGone(to_a)).count(), 0);
            world.insist(&[&b], || b.recv(RecvFrom::any(), number));
            world.until("it is there", &[&b], || b.inbox_len() > 0);
            assert_eq!(b.take().unwrap().immediate, Some(number));
        }
        assert_eq!(next_end(world, &b), Event::PeerGone(to_a));
    }
}
