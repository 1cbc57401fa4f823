//! Queue pairs that fail under way: it is told, what was posted completes once, and the others live on.

use spinwire_dataplane::id::Addr;
use spinwire_dataplane::msg::{RecvFrom, SendTo};
use spinwire_dataplane::provider::{Event as Told, Status};
use spinwire_hostshim::verbs::{Event, EventKind};

use super::endpoints::{Node, introduce, plane, until};
use super::rig::devices;

/// Bytes of a message that is left.
const LONG: usize = 9000;

/// Leaves receives from the peer and sends to it with an endpoint; how many. Of the first four nothing comes.
fn leave(node: &Node<'_>, peer: Addr) -> u64 {
    // Which peer it is can be told from the context of what completes.
    let mut posted = 0;
    let context = |posted| u64::from(peer.slot()) << 32 | posted;
    while posted < 4 {
        let loan = node.loans.lend().unwrap();
        let from = RecvFrom::peer(peer);
        node.endpoint.post_recv(from, loan, context(posted)).map_err(|e| e.error).unwrap();
        posted += 1;
    }
    while posted < 7 {
        let mut loan = node.loans.lend().unwrap();
        loan.fill(&vec![7; LONG]).unwrap();
        if node.endpoint.post_send(SendTo::peer(peer), loan, context(posted)).is_err() {
            break;
        }
        posted += 1;
    }
    node.endpoint.flush();
    posted
}

/// Turns until the peer is gone and all that was left with it has completed: once each. How each did.
fn ends(
    node: &Node<'_>,
    peer: Addr,
    (left, seen, mut is_gone): (u64, &mut Vec<Seen>, bool),
) -> Vec<Status> {
    let is_of = |seen: &Seen| seen.0 >> 32 == u64::from(peer.slot());
    let mut turns = 0;
    until(&[node], || {
        is_gone |= node.endpoint.poll_event() == Some(Told::PeerGone(peer));
        look(node, seen);
        let are_all = is_gone && seen.iter().filter(|seen| is_of(seen)).count() as u64 >= left;
        turns += u32::from(are_all);
        // And nothing behind it.
        (turns > 200).then_some(())
    });
    let mut of_peer: Vec<Seen> = seen.iter().copied().filter(is_of).collect();
    of_peer.sort_by_key(|(context, _)| *context);
    let numbers = of_peer.iter().map(|(context, _)| context & 0xffff_ffff);
    assert!(numbers.eq(0..left), "{of_peer:?}");
    of_peer.into_iter().map(|(_, status)| status).collect()
}

/// What has completed: its context, and how.
type Seen = (u64, Status);

fn look(node: &Node<'_>, seen: &mut Vec<Seen>) {
    seen.extend(
        core::iter::from_fn(|| node.endpoint.poll()).map(|done| (done.context, done.status)),
    );
}

#[test]
fn a_pair_that_fails_out_of_turn_costs_its_connection_alone() {
    if devices().is_none() {
        return;
    }
    let planes = ["rxe0", "rxe1", "rxe1"].map(plane);
    let [a, b, c] = [(0, "a"), (1, "b"), (2, "c")].map(|(at, name)| Node::open(&planes[at], name));
    let peers = [introduce(&a, "b", &b), introduce(&a, "c", &c)];
    for to in peers {
        until(&[&a, &b, &c], || a.endpoint.provider().reach(to).unwrap().then_some(()));
    }
    let left = peers.map(|to| leave(&a, to));
    eprintln!(
        "!! NOT RUN: QP fatal by a device: Soft-RoCE tells of none; the plane is told by hand"
    );
    // Which numbers its two have nobody says: of all these two are meant, and the first of them is enough.
    let mut seen = Vec::new();
    let mut about = 0;
    let gone = loop {
        about += 1;
        planes[0].note(a.endpoint.provider(), Event { kind: EventKind::PairFatal, about });
        a.turn();
        look(&a, &mut seen);
        if let Some(Told::PeerGone(gone)) = a.endpoint.poll_event() {
            break gone;
        }
        assert!(about < 10_000, "none of these numbers is that of a pair");
    };
    let last = core::iter::from_fn(|| planes[0].next_event()).last();
    assert_eq!(last.map(|event| event.about), Some(about));
    let at = peers.iter().position(|to| *to == gone).expect("one of the two");
    let how = ends(&a, gone, (left[at], &mut seen, true));
    assert!(how[..4].iter().all(|status| *status != Status::Success), "{how:?}");
    // The other connection is as it was.
    let (to, other) = if at == 0 { (peers[1], &c) } else { (peers[0], &b) };
    let receive = |context| {
        let loan = other.loans.lend().unwrap();
        other.endpoint.post_recv(RecvFrom::any(), loan, context).map_err(|e| e.error).unwrap();
    };
    receive(1);
    until(&[&a, &b, &c], || a.endpoint.inject(SendTo::peer(to), b"still here").ok());
    a.endpoint.flush();
    loop {
        let got = until(&[&a, &b, &c], || other.endpoint.poll());
        if got.bytes() == Some(&b"still here"[..]) {
            break;
        }
        assert_eq!(got.bytes().map(<[u8]>::len), Some(LONG), "of those that were left");
        receive(1);
    }
}
