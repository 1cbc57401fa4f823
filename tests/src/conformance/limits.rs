//! Every table can be filled, says which one it is, and works again afterwards.

use spinwire_dataplane::error::{PostError, Retry};
use spinwire_dataplane::id::WrId;
use spinwire_dataplane::msg::{RecvFrom, SendTo};
use spinwire_dataplane::provider::{EndpointType, Status};

use super::{Node, Rig, Sizes, World, name, run};
use crate::rng::pattern;

/// Posts receives until one is refused.
fn fill_receives<R: Rig>(b: &Node<'_, R>) -> (Vec<WrId>, PostError) {
    let mut ids = Vec::new();
    loop {
        match b.recv(RecvFrom::any(), 0) {
            Ok(id) => ids.push(id),
            Err(refused) => return (ids, refused),
        }
    }
}

/// As many receives as `recv_depth`, then `RqFull`.
pub fn receive_queue_full<R: Rig>(world: &World<'_, R>) {
    let (a, b, to_b, _) = world.pair();
    let free = world.pool().free_count();
    let depth = usize::try_from(world.sizes().recv_depth).unwrap();
    for _ in 0..3 {
        let (ids, refused) = fill_receives(&b);
        assert_eq!((ids.len(), refused), (depth, Retry::RqFull.into()));
        assert_eq!(world.pool().free_count() + depth, free, "the refused loan came back");
        // One that is used up makes room for one.
        world.insist(&[&a, &b], || a.inject(SendTo::peer(to_b), b"m"));
        world.until("it is there", &[&a, &b], || b.inbox_len() == 1);
        assert_eq!(b.take().unwrap().id, ids[0]);
        let last = b.recv(RecvFrom::any(), 1).unwrap();
        assert_eq!(b.recv(RecvFrom::any(), 1), Err(Retry::RqFull.into()));
        for id in ids[1..].iter().chain([&last]) {
            b.cancel(*id).unwrap();
        }
        world.until("all are back", &[&b], || b.inbox_len() == depth);
        while b.take().is_some() {}
    }
    assert_eq!(world.pool().free_count(), free);
}

/// As many sends without a poll as `send_depth`, then `CqFull`.
pub fn completion_queue_full<R: Rig>(world: &World<'_, R>) {
    // With links that hold more than the completion queue.
    let sizes = Sizes { link_depth: 64, ..*world.sizes() };
    run::<R>(world.endpoint_type(), sizes, |world| {
        let (a, b, to_b, _) = world.pair();
        for round in 0..3 {
            let mut posted = 0_u64;
            let refused = loop {
                match a.send(SendTo::peer(to_b), b"m", posted) {
                    Ok(_) => posted += 1,
                    Err(refused) => break refused,
                }
            };
            if !R::FAULTS {
                assert_eq!(posted, u64::from(world.sizes().send_depth), "round {round}");
                assert_eq!(refused, Retry::CqFull.into());
                assert_eq!(a.inject(SendTo::peer(to_b), b"m"), Ok(()), "needs no completion");
            }
            let mut over = 0;
            world.until("all are over", &[&a, &b], || {
                over += core::iter::from_fn(|| a.take()).count();
                if b.recv(RecvFrom::any(), 0).is_err() {
                    while b.take().is_some() {}
                }
                a.posted_count() == 0
            });
            assert_eq!(u64::try_from(over).unwrap(), posted);
        }
    });
}

/// As many operations as `contexts_max`, then `NoSlot`.
pub fn context_table_full<R: Rig>(world: &World<'_, R>) {
    let sizes = Sizes { contexts_max: 10, ..*world.sizes() };
    run::<R>(world.endpoint_type(), sizes, |world| {
        let (a, b, to_b, to_a) = world.pair();
        let (ids, refused) = fill_receives(&a);
        assert_eq!((ids.len(), refused), (10, Retry::NoSlot.into()));
        assert_eq!(a.send(SendTo::peer(to_b), b"m", 0), Err(Retry::NoSlot.into()));
        assert_eq!(a.inject(SendTo::peer(to_b), b"m"), Ok(()), "needs no context");
        world.insist(&[&a, &b], || b.inject(SendTo::peer(to_a), b"m"));
        world.until("it is there", &[&a, &b], || a.take().is_some());
        world.insist(&[&a, &b], || a.send(SendTo::peer(to_b), b"m", 7));
        assert_eq!(a.recv(RecvFrom::any(), 0), Err(Retry::NoSlot.into()));
        world.until("it is sent", &[&a, &b], || a.take().is_some_and(|got| got.context == 7));
        a.recv(RecvFrom::any(), 0).unwrap();
    });
}

/// Sends until refused, with nobody there to take anything; then all of it arrives.
fn fill_link<R: Rig>(world: &World<'_, R>, length: usize, expected: Retry) -> u64 {
    let (a, b, to_b, _) = world.pair();
    // The way is open before it is filled.
    b.recv(RecvFrom::any(), 0).unwrap();
    world.insist(&[&a, &b], || a.inject(SendTo::peer(to_b), b""));
    world.until("it is there", &[&a, &b], || b.take().is_some());
    let mut sent = 0;
    let refused = loop {
        let to = SendTo::peer(to_b).immediate(sent);
        match a.inject(to, &pattern(sent, length)) {
            Ok(()) => sent += 1,
            Err(refused) => break refused,
        }
        // What was staged is published, whoever turns.
        a.flush();
    };
    if !R::FAULTS {
        assert_eq!(refused, expected.into());
        assert_eq!(a.inject(SendTo::peer(to_b), &pattern(sent, length)), Err(refused));
    }
    for taken in 0..sent {
        world.insist(&[&b], || b.recv(RecvFrom::any(), taken));
        world.until("it is there", &[&a, &b], || b.inbox_len() > 0);
        let got = b.take().unwrap();
        assert_eq!((got.status, got.immediate), (Status::Success, Some(taken)));
        assert!(got.bytes == pattern(taken, length));
    }
    // Most of the room is there again: credit comes back in steps of a quarter.
    for number in 0..sent - sent.div_ceil(4) {
        a.inject(SendTo::peer(to_b).immediate(number), &pattern(number, length)).unwrap();
        if R::FAULTS {
            b.recv(RecvFrom::any(), 0).unwrap();
            world.until("it is there", &[&a, &b], || b.take().is_some());
        }
    }
    sent
}

/// A link takes as many messages as it is deep, then `NoCredit`.
pub fn no_credit<R: Rig>(world: &World<'_, R>) {
    let sent = fill_link(world, 8, Retry::NoCredit);
    // Lazy credit may keep back a part, for messages that were taken before.
    let depth = u64::from(world.sizes().link_depth);
    assert!(sent >= depth / 2 && (sent <= depth || R::FAULTS), "{sent} of {depth}");
}

/// Long messages run out of room before the messages run out of places.
pub fn no_spill<R: Rig>(world: &World<'_, R>) {
    if R::SPILLS {
        let sent = fill_link(world, 3000, Retry::NoSpill);
        assert!(sent >= 3, "at least half of the room can be used: {sent}");
    }
}

/// As many peers as `peers_max`, then `AddressesFull`; a row that is given up can be had again.
pub fn address_table_full<R: Rig>(world: &World<'_, R>) {
    if world.is_msg() {
        return;
    }
    let sizes = Sizes { peers_max: 3, ..*world.sizes() };
    run::<R>(world.endpoint_type(), sizes, |world| {
        let a = world.node("a");
        let others = ["b", "c", "d", "e"].map(|text| world.node(text));
        let known = [0, 1, 2].map(|i: usize| a.connect(others[i].name()).unwrap());
        assert_eq!(a.connect(others[3].name()), Err(Retry::AddressesFull.into()));
        assert_eq!(a.connect(others[1].name()), Ok(known[1]), "the same again is the same");
        a.disconnect(known[1]).unwrap();
        let e = a.connect(others[3].name()).unwrap();
        assert_ne!(e, known[1]);
        others[3].recv(RecvFrom::any(), 0).unwrap();
        world.insist(&[&a, &others[3]], || a.inject(SendTo::peer(e), b"m"));
        world.until("it is there", &[&a, &others[3]], || others[3].take().is_some());
        assert_eq!(a.connect(others[1].name()), Err(Retry::AddressesFull.into()));
    });
}

/// Two endpoints never have one name at once, and one more than there is room for is refused.
pub fn names_are_taken_once<R: Rig>(world: &World<'_, R>) {
    let open = |text: &str, endpoint_type: EndpointType| {
        R::open(world.ground(), world.bump(), (&name(text), endpoint_type), world.sizes())
    };
    let endpoint_type = world.endpoint_type();
    let a = open("a", endpoint_type).unwrap();
    for other in [EndpointType::Msg, EndpointType::Rdm] {
        assert!(open("a", other).is_err());
    }
    drop(a);
    let mut all: Vec<R::Port<'_>> = Vec::new();
    for number in 0..world.sizes().endpoints {
        all.push(open(&format!("n{number}"), endpoint_type).unwrap());
    }
    assert!(open("a", endpoint_type).is_err(), "there is no room");
    all.pop();
    open("a", endpoint_type).unwrap();
}
