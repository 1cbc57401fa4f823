//! Devices and queue pairs that fail under way: it is told, what was posted completes once, and the others live on.

use core::time::Duration;
use std::process::{Child, Command};
use std::time::Instant as RealTime;

use spinwire_dataplane::id::Addr;
use spinwire_dataplane::msg::{Endpoint, EndpointConfig, RecvFrom, SendTo};
use spinwire_dataplane::poll::{Budget, Poll};
use spinwire_dataplane::provider::rdma::RdmaDatagramsConfig;
use spinwire_dataplane::provider::{Event as Told, Status};
use spinwire_dataplane::time::Instant;
use spinwire_hostshim::plane::Plane;
use spinwire_hostshim::verbs::{
    Event, EventKind, PortState, VerbsDatagrams, VerbsDatagramsConfig, VerbsPlane, VerbsPlaneConfig,
};

use super::endpoints::{Node, introduce, plane, until};
use super::faults::network;
use super::rig::devices;
use super::striped::lay_second_cable;

/// What `plane` tells of its device, up to an event of that kind.
fn told(nodes: &[&Node<'_>], plane: &VerbsPlane, kind: EventKind) -> Event {
    until(nodes, || {
        std::thread::sleep(Duration::from_millis(1));
        plane.next_event().filter(|event| event.kind == kind)
    })
}

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

/// A second cable with a device at either end, for what may end with it. A device that a process has open is not taken away before that has closed it, and to take away
/// what is below it waits for that, whatever happens: so where a test has failed nobody waits for it here.
struct Wire;

impl Wire {
    fn lay() -> Option<Self> {
        lay_second_cable().then_some(Self)
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        let remove = "ip link del wire0";
        if std::thread::panicking() {
            let _it_is_said_already =
                Command::new("sh").args(["-c", &format!("{remove} &")]).status();
        } else {
            network(remove);
        }
    }
}

/// A command that takes a device away. It waits until nobody has the device open.
struct Removal(Child);

impl Removal {
    fn begin(device: &str) -> Self {
        Self(Command::new("rdma").args(["link", "delete", device]).spawn().unwrap())
    }

    /// Nobody has it open any more.
    fn ends(mut self) {
        let until = RealTime::now() + Duration::from_secs(60);
        let status = loop {
            if let Some(status) = self.0.try_wait().unwrap() {
                break status;
            }
            assert!(RealTime::now() < until, "somebody has the device open");
            std::thread::sleep(Duration::from_millis(1));
        };
        assert!(status.success(), "{status}");
    }
}

/// Sends a text from `a` to `to`, which is `b`.
fn say<'p>(a: &Node<'p>, to: Addr, b: &Node<'p>, text: &[u8]) {
    let loan = b.loans.lend().unwrap();
    b.endpoint.post_recv(RecvFrom::any(), loan, 1).map_err(|e| e.error).unwrap();
    until(&[a, b], || a.endpoint.inject(SendTo::peer(to), text).ok());
    a.endpoint.flush();
    let got = until(&[a, b], || b.endpoint.poll());
    assert_eq!(got.bytes(), Some(text));
}

/// While nothing is under way an outage is told and costs nothing. What is under way ends, and afterwards the two are connected anew.
#[test]
fn a_port_that_goes_down_is_told_and_is_used_again_when_it_is_up() {
    if devices().is_none() {
        return;
    }
    let Some(_wire) = Wire::lay() else { return };
    let planes = ["rxe2", "rxe3"].map(plane);
    let (a, b) = (Node::open(&planes[0], "a"), Node::open(&planes[1], "b"));
    let both = [&a, &b];
    let to = introduce(&a, "b", &b);
    until(&both, || a.endpoint.provider().reach(to).unwrap().then_some(()));
    network("ip link set wire0 down");
    assert_eq!(told(&both, &planes[0], EventKind::PortDown).about, 1);
    assert_eq!(told(&both, &planes[1], EventKind::PortDown).about, 1, "its other end");
    network("ip link set wire0 up");
    assert_eq!(told(&both, &planes[0], EventKind::PortActive).about, 1);
    say(&a, to, &b, b"still here");

    network("ip link set wire0 down");
    let left = leave(&a, to);
    let how = ends(&a, to, (left, &mut Vec::new(), false));
    assert!(how.iter().all(|status| *status != Status::Success), "{how:?}");
    // Nobody is called while there is no way: that is said at once.
    let to = introduce(&a, "b", &b);
    until(&[&a], || a.endpoint.provider().reach(to).err());
    network("ip link set wire0 up");
    // Of the first outage it was told before, of this one it may come as one.
    until(&both, || {
        let is_up = planes[0].device().port(1).unwrap().state == PortState::Active;
        (is_up && planes[0].next_event().is_none()).then_some(())
    });
    let to = introduce(&a, "b", &b);
    until(&both, || a.endpoint.provider().reach(to).unwrap().then_some(()));
    say(&a, to, &b, b"here again");

    let removals = ["rxe2", "rxe3"].map(Removal::begin);
    told(&both, &planes[0], EventKind::DeviceFatal);
    told(&both, &planes[1], EventKind::DeviceFatal);
    drop((a, b));
    for plane in planes {
        drop(plane);
    }
    removals.into_iter().for_each(Removal::ends);
}

#[test]
fn a_device_that_is_taken_away_is_told_and_what_was_posted_on_it_ends() {
    if devices().is_none() {
        return;
    }
    let Some(_wire) = Wire::lay() else { return };
    let (near, far) = (plane("rxe2"), plane("rxe3"));
    let (a, b) = (Node::open(&near, "a"), Node::open(&far, "b"));
    let to = introduce(&a, "b", &b);
    until(&[&a, &b], || a.endpoint.provider().reach(to).unwrap().then_some(()));
    let left = leave(&a, to);
    let removal = Removal::begin("rxe2");
    assert_eq!(told(&[&a], &near, EventKind::DeviceFatal).about, 0);
    let how = ends(&a, to, (left, &mut Vec::new(), false));
    assert!(how[..4].iter().all(|status| *status != Status::Success), "{how:?}");
    let again = a.endpoint.inject(SendTo::peer(to), b"no more");
    assert!(again.is_err(), "{again:?}");
    assert_eq!(near.next_event(), None, "told once");
    drop((a, b));
    drop((near, far));
    removal.ends();
    // It is told where nobody is connected and nobody listens, too, and to who sends datagrams.
    let quiet = VerbsPlane::open("rxe3", None, &VerbsPlaneConfig::default()).unwrap();
    let node = Node::open(&quiet, "quiet");
    let mut memory = Plane::memory(1 << 20).unwrap();
    let bump = Plane::arena(&mut memory);
    let port = RdmaDatagramsConfig { peers_max: 4, ..RdmaDatagramsConfig::default() };
    let config = VerbsDatagramsConfig { port, ..VerbsDatagramsConfig::default() };
    let datagrams = VerbsDatagrams::open("rxe3", None, &config).unwrap();
    datagrams.finds_without_waiting().unwrap();
    let port = datagrams.port(&bump).unwrap();
    let endpoint = Endpoint::new(port, &bump, &EndpointConfig::default()).unwrap();
    let removal = Removal::begin("rxe3");
    assert_eq!(told(&[&node], &quiet, EventKind::DeviceFatal).about, 0);
    let of_datagrams = until(&[&node], || {
        datagrams.attend(endpoint.provider()).unwrap();
        let _outcome = endpoint.turn(Instant::ORIGIN, Budget::DEFAULT);
        datagrams.next_event()
    });
    assert_eq!(of_datagrams.kind, EventKind::DeviceFatal);
    drop((node, endpoint));
    drop((quiet, datagrams));
    removal.ends();
}
