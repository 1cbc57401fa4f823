//! What discovery says of an endpoint is what the endpoint says of itself; and two ends over each of them.

use spinwire_dataplane::msg::{RecvFrom, SendTo};
use spinwire_dataplane::provider::{Caps, Info, Paths};
use spinwire_dataplane::raw::loan::LoanPool;
use spinwire_hostshim::clock::TscClock;
use spinwire_hostshim::discover::{Found, Hints, Sizes, Transport, discover};
use spinwire_hostshim::mem::SegmentDir;
use spinwire_hostshim::negotiate::{Peer, Plan, Requirements, negotiate};
use spinwire_hostshim::open::{Host, OpenConfig, with};

use crate::{message, send};

/// What the kernel decides when a ring is opened is not in an offer.
const fn without_paths(info: &Info) -> Info {
    Info { paths: Paths::NONE, ..*info }
}

fn plan_of(found: Found) -> Plan {
    negotiate(&Requirements::anything(), &[found])
}

#[test]
fn endpoints_are_what_was_offered() {
    let sizes = Sizes {
        message_bytes: Some(300_000),
        peers: Some(3),
        send_depth: Some(16),
        recv_depth: Some(32),
    };
    let mut opened = Vec::new();
    for sizes in [Sizes::default(), sizes] {
        for found in discover(&Hints::default().with_sizes(sizes)) {
            let Some(offer) = found.info().copied() else {
                println!("!! NOT RUN: {found}: {}", found.offer.as_ref().unwrap_err());
                continue;
            };
            let name = found.to_string();
            let config = OpenConfig::listen().with_sizes(sizes).waiting();
            with(&plan_of(found), &config, |end| {
                assert_eq!(without_paths(end.info()), offer, "{name}");
                // Libfabric does not say which ways through the kernel it takes.
                let is_silent = offer.provider == "shm" || name.starts_with("ofi");
                assert_eq!(end.info().paths.is_empty(), is_silent, "{name}");
                assert!(end.to_string().starts_with(&name), "{end}");
            })
            .unwrap();
            opened.push(name);
        }
    }
    assert!(opened.iter().any(|name| name == "shm rdm"), "{opened:?}");
}

/// One program, whatever the transport: a round trip, tagged and with immediate data where there are such.
#[test]
fn two_ends_talk_over_each_offer() {
    for found in discover(&Hints::default()) {
        let Some(caps) = found.info().map(|info| info.caps) else { continue };
        let name = found.to_string();
        let (tag, immediate) = (caps.has(Caps::TAGGED), caps.has(Caps::IMMEDIATE));
        let from = |number| if tag { RecvFrom::any().tag(number) } else { RecvFrom::any() };
        let to = |peer, number| {
            let to = SendTo::peer(peer);
            if tag { to.tag(number) } else { to }
        };
        let config = OpenConfig::listen();
        with(&plan_of(found.clone()), &config, |server| {
            let wanted = Requirements {
                peer: Peer::At(vec![server.uri.clone()]),
                ..Requirements::anything()
            };
            let plan = negotiate(&wanted, &[found]);
            // In one thread nobody turns the other end while this one connects.
            std::thread::scope(|scope| {
                let client = scope.spawn(|| {
                    with(&plan, &OpenConfig::connect(), |client| {
                        let buffers = LoanPool::place(client.bump(), 1, 64).unwrap();
                        let loan = buffers.lend().unwrap();
                        client.endpoint.post_recv(from(8), loan, 1).unwrap();
                        let to = to(client.peer.unwrap(), 7);
                        let to = if immediate { to.immediate(9) } else { to };
                        send(&client.endpoint, to, b"ask", &[&client.endpoint]);
                        let answer = message(&client.endpoint, &[&client.endpoint]);
                        (answer.bytes().unwrap().to_vec(), answer.source == client.peer)
                    })
                });
                let end = &server.endpoint;
                let buffers = LoanPool::place(server.bump(), 1, 64).unwrap();
                end.post_recv(from(7), buffers.lend().unwrap(), 1).unwrap();
                let asked = message(end, &[end]);
                assert_eq!(
                    (asked.bytes(), asked.immediate),
                    (Some(&b"ask"[..]), immediate.then_some(9)),
                    "{name}"
                );
                send(end, to(asked.source.unwrap(), 8), b"answer", &[end]);
                crate::until("the client ends", &[end], || client.is_finished().then_some(()));
                assert_eq!(client.join().unwrap().unwrap(), (b"answer".to_vec(), true), "{name}");
            });
        })
        .unwrap();
    }
}

#[test]
fn types_that_a_transport_lacks_are_refused_before_anything_is_opened() {
    use spinwire_dataplane::provider::EndpointType::{Dgram, Msg, Rdm};
    let is_linked = spinwire_hostshim::mlx5::is_linked().is_ok();
    let no_mlx5 = if is_linked { "no RDMA device" } else { "cannot be opened by this build" };
    for (uri, kind, says) in [
        ("shm://selection-none", Dgram, "shm has no dgram endpoints"),
        ("tcp://127.0.0.1:0", Dgram, "tcp has no dgram"),
        ("udp://127.0.0.1:0", Rdm, "udp has no rdm"),
        ("udp://127.0.0.1:0", Msg, "udp has no msg"),
        ("mlx5://mlx5_0/h:1", Rdm, no_mlx5),
        ("mlx5://mlx5_0/h:1", Dgram, no_mlx5),
    ] {
        let e = Host::open(&uri.parse().unwrap(), kind, &OpenConfig::listen()).unwrap_err();
        assert!(e.to_string().contains(says), "{e}");
    }
    assert!(spinwire_hostshim::mem::list().unwrap().iter().all(|it| it.name != "selection-none"));
}

/// The seat of a host, step by step: what `with` does.
#[test]
fn a_host_says_where_it_is_found_and_takes_several() {
    let uri = format!("shm://selection-{}/hub", std::process::id()).parse().unwrap();
    let kind = spinwire_dataplane::provider::EndpointType::Rdm;
    let clock = TscClock::calibrate();
    let mut hub = Host::open(&uri, kind, &OpenConfig::listen()).unwrap();
    assert_eq!(hub.uri(), uri);
    let seat = hub.seat().unwrap();
    let server = seat.endpoint().unwrap();
    let buffers = LoanPool::place(seat.bump(), 1, 64).unwrap();
    let mut hosts = [(); 2].map(|()| Host::open(&uri, kind, &OpenConfig::connect()).unwrap());
    for host in &mut hosts {
        let seat = host.seat().unwrap();
        let client = seat.endpoint().unwrap();
        let peer = seat.connect(&client, &uri, &clock).unwrap();
        server.post_recv(RecvFrom::any(), buffers.lend().unwrap(), 1).unwrap();
        send(&client, SendTo::peer(peer), b"hello", &[&client, &server]);
        assert_eq!(message(&server, &[&client, &server]).bytes(), Some(&b"hello"[..]));
    }
    drop(server);
    drop(hub);
    let missing = Host::open(&uri, kind, &OpenConfig::connect()).unwrap_err();
    assert!(
        missing.to_string().contains("selection-"),
        "who made the segment removed its name: {missing}"
    );
    assert_eq!(uri.transport(), Transport::Shm);
}

/// A call that is not handed on would be the default of the trait, in silence.
#[test]
fn a_port_of_any_transport_hands_every_call_on() {
    let calls = |source: &'static str, from: &str| {
        let body = source.split_once(from).unwrap().1.split_once("\n}\n").unwrap().0;
        let names = body.lines().filter_map(|line| line.trim().strip_prefix("fn "));
        names.map(|line| line.split('(').next().unwrap()).collect::<std::collections::BTreeSet<_>>()
    };
    let all = include_str!("../../../dataplane/src/provider/mod.rs");
    let handed_on = include_str!("../../../hostshim/src/open/port.rs");
    let all = calls(all, "pub trait Provider");
    assert!(all.len() > 15, "{all:?}");
    assert_eq!(all, calls(handed_on, "impl Provider for AnyPort<'_> {"));
}

/// Says that this process is the one that opens and closes, with nothing beside it.
const ALONE: &str = "SELECTION_TEST_ALONE";

/// So many endpoints are opened and closed in shared memory; over each of the others a 25th.
fn endpoints() -> usize {
    std::env::var("SPINWIRE_TEST_ENDPOINTS").map_or(Ok(1000), |text| text.parse()).unwrap()
}

/// What this process has.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Held {
    descriptors: usize,
    threads: usize,
    segments: usize,
    mappings: usize,
    resident_pages: usize,
}

fn held() -> Held {
    let entries = |folder: &str| std::fs::read_dir(folder).unwrap().count();
    let ours = format!("selection-many-{}", std::process::id());
    let segments = std::fs::read_dir(SegmentDir::from_env().path()).unwrap();
    let is_ours = |file: &std::fs::DirEntry| file.file_name().to_string_lossy().contains(&ours);
    let pages = std::fs::read_to_string("/proc/self/statm").unwrap();
    Held {
        descriptors: entries("/proc/self/fd"),
        threads: entries("/proc/self/task"),
        segments: segments.filter(|file| is_ours(file.as_ref().unwrap())).count(),
        mappings: std::fs::read_to_string("/proc/self/maps").unwrap().lines().count(),
        resident_pages: pages.split(' ').nth(1).unwrap().parse().unwrap(),
    }
}

#[test]
fn endpoints_that_are_opened_and_closed_leave_nothing() {
    if std::env::var_os(ALONE).is_none() {
        let this = std::env::current_exe().unwrap();
        let name = "offers::endpoints_that_are_opened_and_closed_leave_nothing";
        let alone =
            std::process::Command::new(this).args(["--exact", name]).env(ALONE, "1").output();
        let alone = alone.unwrap();
        assert!(alone.status.success(), "{}", String::from_utf8_lossy(&alone.stdout));
        return;
    }
    use spinwire_dataplane::provider::EndpointType::{Dgram, Rdm};
    let uri = format!("shm://selection-many-{}", std::process::id()).parse().unwrap();
    let hub = Host::open(&uri, Rdm, &OpenConfig::listen()).unwrap();
    let udp = "udp://127.0.0.1:0".parse().unwrap();
    let tcp = "tcp://127.0.0.1:0".parse().unwrap();
    let open = |uri, kind, config| {
        let mut host = Host::open(uri, kind, &config).unwrap();
        let seat = host.seat().unwrap();
        let _endpoint = seat.endpoint().unwrap();
    };
    let others = || {
        open(&tcp, Rdm, OpenConfig::listen());
        open(&udp, Dgram, OpenConfig::listen());
    };
    // A join of its own for each, and one for all: most of the time of opening is that of joining.
    let mut host = Host::open(&uri, Rdm, &OpenConfig::connect()).unwrap();
    let mut in_memory = |count: usize| {
        for number in 0..count {
            if number % 10 == 0 {
                open(&uri, Rdm, OpenConfig::connect());
            }
            let seat = host.seat().unwrap();
            let _endpoint = seat.endpoint().unwrap();
        }
    };
    // What the first ones leave is there once: memory that the allocator keeps, say.
    in_memory(20);
    (0..3).for_each(|_| others());
    let before = held();
    in_memory(endpoints());
    (0..endpoints() / 25).for_each(|_| others());
    let after = held();
    let exact = |held: Held| (held.descriptors, held.threads, held.segments);
    assert_eq!(exact(after), exact(before), "descriptors, threads, segments");
    assert!(after.mappings <= before.mappings + 8, "{before:?}, then {after:?}");
    // A page for each would be more.
    assert!(after.resident_pages < before.resident_pages + 600, "{before:?}, then {after:?}");
    drop(host);
    drop(hub);
}
