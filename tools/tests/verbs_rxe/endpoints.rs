//! Endpoints on devices: connected when they are first spoken to, one-sided operations, and the command that measures them.

use core::time::Duration;
use std::process::Command;
use std::time::Instant as RealTime;

use spinwire_dataplane::id::{Addr, Name};
use spinwire_dataplane::msg::{Endpoint, EndpointConfig, Kind, RecvFrom, SendTo, Target};
use spinwire_dataplane::poll::{Budget, Poll};
use spinwire_dataplane::provider::rdma::RdmaConfig;
use spinwire_dataplane::provider::{Access, EndpointType, Event, Provider, Status};
use spinwire_dataplane::raw::loan::LoanPool;
use spinwire_dataplane::time::{Instant, Nanos};
use spinwire_hostshim::clock::TscClock;
use spinwire_hostshim::open::{AnyPort, Host, OpenConfig};
use spinwire_hostshim::uri::Uri;
use spinwire_hostshim::verbs::{VerbsPlane, VerbsPlaneConfig, VerbsPort};

use super::faults::{Mended, network};
use super::rig::devices;

pub(crate) struct Node<'p> {
    pub(crate) plane: &'p VerbsPlane,
    pub(crate) endpoint: Endpoint<'p, VerbsPort<'p>>,
    pub(crate) loans: &'p LoanPool<'p>,
}

impl<'p> Node<'p> {
    pub(crate) fn open(plane: &'p VerbsPlane, name: &str) -> Self {
        let bump = plane.arena().unwrap();
        assert!(plane.arena().is_none(), "lent once");
        let port = plane.port(&bump, (&Name::new(name).unwrap(), EndpointType::Rdm)).unwrap();
        let endpoint = Endpoint::new(port, &bump, &EndpointConfig::default()).unwrap();
        let loans = LoanPool::place(&bump, 16, 16 << 10).unwrap();
        Self { plane, endpoint, loans }
    }

    pub(crate) fn turn(&self) {
        self.plane.attend(self.endpoint.provider()).unwrap();
        let _outcome = self.endpoint.turn(Instant::ORIGIN, Budget::DEFAULT);
    }
}

/// Turns all until something is there.
pub(crate) fn until<T>(nodes: &[&Node<'_>], mut so: impl FnMut() -> Option<T>) -> T {
    let (mut last, mut waited) = (RealTime::now(), Duration::ZERO);
    loop {
        if let Some(found) = so() {
            return found;
        }
        nodes.iter().for_each(|node| node.turn());
        // A machine that was stopped meanwhile has not waited.
        waited += last.elapsed().min(Duration::from_millis(100));
        last = RealTime::now();
        assert!(waited < Duration::from_secs(60), "nothing within a minute");
    }
}

pub(crate) fn plane(device: &str) -> VerbsPlane {
    let port = RdmaConfig { peers_max: 4, links: 5, ..RdmaConfig::default() };
    let config = VerbsPlaneConfig { port, ..VerbsPlaneConfig::default() };
    VerbsPlane::open(device, Some(0), &config).unwrap()
}

pub(crate) fn introduce(a: &Node<'_>, name: &str, b: &Node<'_>) -> Addr {
    let name = Name::new(name).unwrap();
    a.plane.introduce(a.endpoint.provider(), &name, b.plane.local().unwrap()).unwrap();
    a.endpoint.connect(&name).unwrap()
}

#[test]
fn peers_are_connected_when_they_are_asked_for_and_missed_when_they_go() {
    if devices().is_none() {
        return;
    }
    let planes = ["rxe0", "rxe1", "rxe1"].map(plane);
    let a = Node::open(&planes[0], "a");
    let b = Node::open(&planes[1], "b");
    let to_b = introduce(&a, "b", &b);
    let c = Node::open(&planes[2], "c");
    let to_c = introduce(&a, "c", &c);
    {
        for (node, to, text) in [(&b, to_b, "to b"), (&c, to_c, "to c, and longer")] {
            let loan = node.loans.lend().unwrap();
            node.endpoint.post_recv(RecvFrom::any(), loan, 7).map_err(|e| e.error).unwrap();
            until(&[&a, &b, &c], || a.endpoint.inject(SendTo::peer(to), text.as_bytes()).ok());
            a.endpoint.flush();
            let got = until(&[&a, &b, &c], || node.endpoint.poll());
            assert_eq!((got.kind, got.bytes()), (Kind::Received, Some(text.as_bytes())));
        }
        assert!(planes[0].connections() >= 1);
    }
    assert_eq!([0, 1, 2].map(|at: usize| planes[at].connections()), [2, 1, 1]);
    drop(c);
    // Gone with its queue pair, and heard of without a send.
    until(&[&a, &b], || a.endpoint.poll_event().filter(|event| *event == Event::PeerGone(to_c)));
}

/// A connection on which nothing is said is asked about, and stands: the device of the other end answers.
#[test]
fn who_is_quiet_and_lives_is_kept() {
    if devices().is_none() {
        return;
    }
    let port = RdmaConfig { keepalive: Nanos::from_millis(40), ..RdmaConfig::default() };
    let config = VerbsPlaneConfig { port, ..VerbsPlaneConfig::default() };
    let planes = ["rxe0", "rxe1"].map(|device| VerbsPlane::open(device, Some(0), &config).unwrap());
    let (a, b) = (Node::open(&planes[0], "a"), Node::open(&planes[1], "b"));
    let to = introduce(&a, "b", &b);
    let port = a.endpoint.provider();
    until(&[&a, &b], || port.reach(to).unwrap().then_some(()));
    let (since, mut now) = (RealTime::now(), Instant::ORIGIN);
    while since.elapsed() < Duration::from_millis(400) {
        // The other end does not turn.
        now = Instant::from_nanos(u64::try_from(since.elapsed().as_nanos()).unwrap());
        let _outcome = a.endpoint.turn(now, Budget::DEFAULT);
        assert_eq!(a.endpoint.poll_event(), None);
    }
    assert!(Provider::poll_at(port).is_some_and(|at| at > now));
    assert_eq!((port.counters().expired, port.last_error()), (0, None));
}

/// Datagrams by URI: the one that is found tells its queue pair to who asks, and answers whom it has heard.
#[test]
fn datagrams_go_by_uri() {
    if devices().is_none() {
        return;
    }
    let (tell, told) = std::sync::mpsc::channel();
    let server = std::thread::spawn(move || {
        let uri: Uri = "verbs://rxe1/10.77.0.2:0".parse().unwrap();
        let mut host = Host::open(&uri, EndpointType::Dgram, &OpenConfig::listen()).unwrap();
        tell.send(host.uri()).unwrap();
        let seat = host.seat().unwrap();
        let endpoint = seat.endpoint().unwrap();
        let loans = LoanPool::place(seat.bump(), 2, 2048).unwrap();
        let loan = loans.lend().unwrap();
        endpoint.post_recv(RecvFrom::any(), loan, 1).map_err(|e| e.error).unwrap();
        let got = turn_until(&endpoint, || endpoint.poll());
        let back = SendTo::peer(got.source.unwrap());
        turn_until(&endpoint, || endpoint.inject(back, got.bytes().unwrap()).ok());
        // Until it has gone out.
        let since = RealTime::now();
        turn_until(&endpoint, || (since.elapsed() > Duration::from_millis(50)).then_some(()));
    });
    let uri = told.recv().unwrap();
    let mut host = Host::open(&uri, EndpointType::Dgram, &OpenConfig::connect()).unwrap();
    let seat = host.seat().unwrap();
    let endpoint = seat.endpoint().unwrap();
    let loans = LoanPool::place(seat.bump(), 2, 2048).unwrap();
    let peer = seat.connect(&endpoint, &uri, &TscClock::calibrate()).unwrap();
    let loan = loans.lend().unwrap();
    endpoint.post_recv(RecvFrom::any(), loan, 1).map_err(|e| e.error).unwrap();
    turn_until(&endpoint, || endpoint.inject(SendTo::peer(peer), b"who is there").ok());
    let got = turn_until(&endpoint, || endpoint.poll());
    assert_eq!((got.source, got.bytes()), (Some(peer), Some(&b"who is there"[..])));
    server.join().unwrap();
}

fn turn_until<T>(endpoint: &Endpoint<'_, AnyPort<'_>>, mut so: impl FnMut() -> Option<T>) -> T {
    let from = RealTime::now();
    loop {
        let _outcome = endpoint.turn(Instant::ORIGIN, Budget::DEFAULT);
        if let Some(found) = so() {
            return found;
        }
        assert!(from.elapsed() < Duration::from_secs(60), "nothing within a minute");
    }
}

#[test]
fn one_sided_operations_reach_what_a_peer_exposes() {
    if devices().is_none() {
        return;
    }
    let planes = ["rxe0", "rxe1"].map(plane);
    let (a, b) = (Node::open(&planes[0], "a"), Node::open(&planes[1], "b"));
    let to = introduce(&a, "b", &b);
    let port = a.endpoint.provider();
    until(&[&a, &b], || port.reach(to).unwrap().then_some(()));
    let exposed =
        b.endpoint.expose(b.loans.lend().unwrap(), Access::ALL).map_err(|e| e.error).unwrap();
    let place = exposed.region.place(64, 9).unwrap();
    let mut loan = a.loans.lend().unwrap();
    loan.fill(b"one-sided").unwrap();
    a.endpoint.post_write(Target::new(to, place), loan, 1).map_err(|e| e.error).unwrap();
    a.endpoint.flush();
    let written = until(&[&a, &b], || a.endpoint.poll());
    assert_eq!(
        (written.kind, written.context, written.status),
        (Kind::Written, 1, Status::Success)
    );
    let mut there = [0; 9];
    b.endpoint.copy_exposed(exposed.id, 64, &mut there).unwrap();
    assert_eq!(&there, b"one-sided");
    let into = a.loans.lend().unwrap();
    a.endpoint.post_read(Target::new(to, place), into, 9, 2).map_err(|e| e.error).unwrap();
    a.endpoint.flush();
    let read = until(&[&a, &b], || a.endpoint.poll());
    assert_eq!((read.kind, read.bytes()), (Kind::Read, Some(&b"one-sided"[..])));
    b.endpoint.withdraw(exposed.id).unwrap();
    // The key is no good any more, and that costs the connection.
    let mut loan = a.loans.lend().unwrap();
    loan.fill(b"too late!").unwrap();
    a.endpoint.post_write(Target::new(to, place), loan, 3).map_err(|e| e.error).unwrap();
    a.endpoint.flush();
    let refused = until(&[&a, &b], || a.endpoint.poll());
    assert_eq!((refused.context, refused.status), (3, Status::RemoteAccess));
}

#[test]
fn lat_measures_between_the_two_devices() {
    if devices().is_none() {
        return;
    }
    let run = |words: &[&str]| {
        let ran = Command::new(env!("CARGO_BIN_EXE_spinwire")).args(words).output().unwrap();
        let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
        (ran.status.success(), text(&ran.stdout), text(&ran.stderr))
    };
    let small = ["--iters", "40", "--rounds", "2", "--json"];
    let with = |words: &[&'static str]| [words, &small].concat();
    let (is_good, out, err) = run(&with(&["lat", "--provider", "verbs", "--device", "rxe0,rxe1"]));
    assert!(
        is_good && out.contains("\"provider\": \"verbs\"") && out.contains("\"iters\": 40"),
        "{out} {err}"
    );
    let datagrams = ["lat", "--provider", "verbs", "--device", "rxe0,rxe1", "--datagrams"];
    let (is_good, _, err) = run(&with(&[&datagrams[..], &["--size", "4073"]].concat()));
    assert!(!is_good && err.contains("--size: 4073") && err.contains("which is 4072"), "{err}");
    // Every fifth packet is lost, of one direction: orders, messages and answers.
    let lossy = network("tc qdisc add dev cable0 root netem loss 20%");
    let mended = lossy.then_some(Mended("tc qdisc del dev cable0 root"));
    let (is_good, out, err) = run(&with(&[&datagrams[..], &["--size", "64"]].concat()));
    drop(mended);
    assert!(is_good, "{out} {err}");
    let report: serde_json::Value = serde_json::from_str(&out).unwrap();
    let number = |path: &str| report.pointer(path).and_then(serde_json::Value::as_u64).unwrap();
    assert_eq!((report["datagrams"].as_bool(), number("/iters")), (Some(true), 40), "{out}");
    assert_eq!(number("/loss/sent"), 40 + number("/loss/lost"), "{out}");
    assert!(!lossy || number("/loss/lost") > 0, "{out}");
    assert_eq!((number("/loss/floor_sent"), number("/loss/floor_lost")), (40, 0), "{out}");
    assert!(number("/rtt_ns/p50") > 0 && number("/floor_rtt_ns/p50") > 0, "{out}");
    let (is_good, _, err) = run(&with(&["lat", "--provider", "verbs", "--device", "rxe7"]));
    assert!(!is_good && err.contains("no RDMA device rxe7; there is: rxe0"), "{err}");
}
