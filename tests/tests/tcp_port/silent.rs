//! Peers that say nothing, that take nothing, and that are stopped: when they are given up, and who does not notice.

use core::net::{Ipv6Addr, SocketAddr};

use spinwire_dataplane::error::PostError;
use spinwire_dataplane::id::Addr;
use spinwire_dataplane::msg::SendTo;
use spinwire_dataplane::provider::tcp::TcpConfig;
use spinwire_dataplane::provider::{EndpointType, Event, Paths};
use spinwire_dataplane::time::Nanos;
use spinwire_hostshim::socket::SocketOptions;
use spinwire_hostshim::tcp::TcpPlaneConfig;
use spinwire_hostshim::uring::{Feature, FeatureSet};

use crate::host_process::{Kept, again, lines, role, say, signal};
use crate::station::{self, Station, insist, name, next_end, until, with_two_at};
use crate::stranger::Stranger;

/// Bytes of a message.
const LENGTH: usize = 8000;

/// Sockets that hold little, so that much waits in the port; and no limits of time.
fn config() -> TcpPlaneConfig {
    let port = TcpConfig { peers_max: 8, credit_messages: 4096, ..TcpConfig::default() };
    // Small, so that the kernels of both ends do not take all for which there is credit.
    let bytes = Some(8 << 10);
    let socket =
        SocketOptions { send_bytes: bytes, receive_bytes: bytes, ..SocketOptions::default() };
    TcpPlaneConfig {
        port,
        socket,
        arena_bytes: 8 << 20,
        send_timeout: Nanos::MAX,
        ..TcpPlaneConfig::default()
    }
}

/// The address of the peer of that name, when it is there.
fn guest(hub: &Station<'_>, text: &str) -> Addr {
    let mut addr = None;
    until("it is there", &[hub], || {
        addr = hub.endpoint.connect(&name(text)).ok();
        addr.is_some()
    });
    addr.unwrap()
}

/// Sends to somebody until he has been refused more often than it takes him to take something.
fn fill(hub: &Station<'_>, to: Addr) {
    let mut refused = 0;
    until("nothing more is taken for it", &[hub], || {
        match hub.endpoint.inject(SendTo::peer(to), &vec![7; LENGTH]) {
            Ok(()) => refused = 0,
            Err(PostError::Retry(_)) => refused += 1,
            Err(e) => panic!("{e}"),
        }
        refused > 300
    });
}

/// A message there, and one back.
fn pass<'p>(hub: &Station<'p>, neighbour: &Station<'p>, (to_hub, to_neighbour): (Addr, Addr)) {
    for (from, to, at) in [(neighbour, hub, to_hub), (hub, neighbour, to_neighbour)] {
        to.recv(1);
        let inject = || from.endpoint.inject(SendTo::peer(at), &vec![9; LENGTH]);
        insist("a neighbour is sent to", &[hub, neighbour], inject);
        until("it has come", &[hub, neighbour], || {
            to.poll().is_some_and(|got| got.loan.is_some_and(|loan| loan.len() == LENGTH))
        });
    }
}

/// Six that take nothing hold what they can get; without any limit of time a seventh goes on.
#[test]
fn who_takes_nothing_leaves_enough_for_others() {
    with_two_at(
        station::anywhere(),
        &config(),
        (["hub", "good"], EndpointType::Rdm),
        |hub, good| {
            let to_hub = good.know("hub", hub.local());
            insist("it is there", &[hub, good], || good.endpoint.inject(SendTo::peer(to_hub), b""));
            let to_good = guest(hub, "good");
            hub.recv(0);
            until("its first has come", &[hub, good], || hub.poll().is_some());
            let mut strangers = Vec::new();
            for number in 0..6 {
                let text = format!("stuck-{number}");
                let mut stranger = Stranger::connect(hub);
                stranger.greet(&text, hub);
                let to = guest(hub, &text);
                fill(hub, to);
                strangers.push((stranger, to));
                pass(hub, good, (to_hub, to_good));
            }
            for round in 0..20 {
                // Whatever the kernel has taken meanwhile, they take its place.
                for (_, to) in strangers.iter().filter(|_| round < 4) {
                    fill(hub, *to);
                }
                pass(hub, good, (to_hub, to_good));
            }
            // All are there still.
            for (_, to) in &strangers {
                assert!(hub.port().reach(*to).is_ok());
            }
        },
    );
}

/// Who takes nothing is given up after so long; who says nothing and hears nothing, too. Others stay: so the limits are longer than a busy
/// machine keeps this thread, which turns all of them, from its processor.
#[test]
fn who_is_silent_or_takes_nothing_is_given_up_in_time() {
    let limits = [
        TcpPlaneConfig { send_timeout: Nanos::from_millis(800), ..config() },
        TcpPlaneConfig { idle_timeout: Nanos::from_millis(800), ..config() },
    ];
    for limit in limits {
        let takes_nothing = limit.idle_timeout == Nanos::MAX;
        with_two_at(
            station::anywhere(),
            &limit,
            (["hub", "good"], EndpointType::Rdm),
            |hub, good| {
                let to_hub = good.know("hub", hub.local());
                insist("it is there", &[hub, good], || {
                    good.endpoint.inject(SendTo::peer(to_hub), b"")
                });
                let to_good = guest(hub, "good");
                hub.recv(0);
                until("its first has come", &[hub, good], || hub.poll().is_some());
                let mut stranger = Stranger::connect(hub);
                stranger.greet("silent", hub);
                let to = guest(hub, "silent");
                let mut end = None;
                let began = hub.now();
                until("it is given up", &[hub, good], || {
                    if takes_nothing {
                        let _refused_in_the_end =
                            hub.endpoint.inject(SendTo::peer(to), &vec![7; LENGTH]);
                    }
                    pass(hub, good, (to_hub, to_good));
                    while let Some(event) = hub.event() {
                        end = end.or(Some(event).filter(|e| !matches!(e, Event::Connected(_))));
                    }
                    end.is_some()
                });
                assert_eq!(end, Some(Event::PeerGone(to)));
                let least = if takes_nothing { limit.send_timeout } else { limit.idle_timeout };
                assert!(hub.now() >= began.saturating_add(least), "not before its time");
                until("it is closed", &[hub, good], || {
                    let mut byte = [0; 1024];
                    stranger.stream.set_nonblocking(true).unwrap();
                    match std::io::Read::read(&mut stranger.stream, &mut byte) {
                        Ok(count) => count == 0,
                        Err(e) => e.kind() != std::io::ErrorKind::WouldBlock,
                    }
                });
                pass(hub, good, (to_hub, to_good));
                let ends = |event| !matches!(event, Event::Connected(_));
                assert!(
                    !core::iter::from_fn(|| good.event()).any(ends),
                    "the other noticed nothing"
                );
            },
        );
    }
}

const STOPPED: &str = "silent::who_is_stopped_is_given_up_and_comes_back_as_another";

/// Connects, and takes what comes. When its hub gives it up it comes again.
fn child(role: &str) {
    let hub: SocketAddr = role.parse().unwrap();
    station::with("sleeper", EndpointType::Rdm, &config(), |me| {
        me.know("hub", hub);
        (0..8).for_each(|_| me.recv(0));
        let mut greeted = None;
        // For as long as whoever has started it is there; orphans need not become children of process 1.
        let parent = std::os::unix::process::parent_id();
        while std::os::unix::process::parent_id() == parent {
            me.turn();
            while let Some(got) = me.poll() {
                if got.loan.is_some() {
                    drop(got);
                    me.recv(0);
                }
            }
            me.plane.refill(me.port(), hub, 1).unwrap();
            let Ok(to) = me.endpoint.connect(&name("hub")) else { continue };
            if greeted != Some(to) && me.endpoint.inject(SendTo::peer(to), b"awake").is_ok() {
                greeted = Some(to);
                say("awake");
            }
            while me.event().is_some() {}
        }
    });
}

/// The kernel of a stopped process answers for it: only time tells that nobody reads.
#[test]
fn who_is_stopped_is_given_up_and_comes_back_as_another() {
    if let Some(role) = role() {
        child(&role);
        return;
    }
    let limit = TcpPlaneConfig { send_timeout: Nanos::from_millis(600), ..config() };
    station::with("hub", EndpointType::Rdm, &limit, |hub| {
        (0..8).for_each(|_| hub.recv(0));
        let mut process = Kept::new(again(STOPPED, &hub.local().to_string()));
        let mut out = lines(&mut process.0);
        let first = guest(hub, "sleeper");
        until("it is heard", &[hub], || hub.poll().is_some());
        assert_eq!(out.next().as_deref(), Some("awake"));
        signal(process.0.id(), "STOP");
        let mut end = None;
        until("it is given up", &[hub], || {
            let _refused_in_the_end = hub.endpoint.inject(SendTo::peer(first), &vec![7; LENGTH]);
            while let Some(event) = hub.event() {
                end = end.or(Some(event).filter(|e| !matches!(e, Event::Connected(_))));
            }
            end.is_some()
        });
        assert_eq!(end, Some(Event::PeerGone(first)));
        signal(process.0.id(), "CONT");
        let mut again = None;
        until("it comes again", &[hub], || {
            again = again.or_else(|| hub.poll().and_then(|got| got.source));
            again.is_some()
        });
        assert_ne!(again, Some(first), "as another");
        drop(process);
        assert_eq!(next_end(hub), Event::PeerGone(again.unwrap()));
        assert_eq!(hub.port().counters().corrupt, 0, "{:?}", hub.port().last_fault());
    });
}

const SATED: &str =
    "silent::who_is_stopped_is_noticed_though_its_kernel_takes_all_there_is_credit_for";

/// Its kernel has room for all that there is credit for, so that nothing waits here. Before that, what is short of a quarter of the credit is not
/// returned for any time, and nobody is given up for it.
#[test]
fn who_is_stopped_is_noticed_though_its_kernel_takes_all_there_is_credit_for() {
    if let Some(role) = role() {
        child(&role);
        return;
    }
    let port = TcpConfig {
        peers_max: 8,
        credit_messages: 64,
        credit_timeout: Nanos::from_millis(600),
        ..TcpConfig::default()
    };
    let limit = TcpPlaneConfig { port, ..config() };
    station::with("hub", EndpointType::Rdm, &limit, |hub| {
        (0..8).for_each(|_| hub.recv(0));
        let mut process = Kept::new(again(SATED, &hub.local().to_string()));
        let mut out = lines(&mut process.0);
        let first = guest(hub, "sleeper");
        until("it is heard", &[hub], || hub.poll().is_some());
        assert_eq!(out.next().as_deref(), Some("awake"));
        let inject = || hub.endpoint.inject(SendTo::peer(first), b"short");
        let ended =
            || core::iter::from_fn(|| hub.event()).find(|e| !matches!(e, Event::Connected(_)));
        // More than all credit goes while it is awake, and some of it is never returned.
        for _ in 0..200 {
            insist("it is sent to", &[hub], inject);
        }
        let quiet = hub.now().saturating_add(Nanos::from_millis(900));
        until("a while has passed", &[hub], || hub.now() >= quiet);
        assert_eq!(ended(), None, "who returns credit when it is due is not given up");
        signal(process.0.id(), "STOP");
        until("there is no credit", &[hub], || inject().is_err());
        let began = hub.now();
        let mut end = None;
        until("it is given up", &[hub], || {
            // What it had returned before it was stopped may still come.
            let _refused_in_the_end = inject();
            end = end.or_else(ended);
            end.is_some()
        });
        assert_eq!(end, Some(Event::PeerGone(first)));
        assert!(hub.now() >= began.saturating_add(Nanos::from_millis(590)), "not before its time");
        assert_eq!(hub.port().counters().expired, 1);
    });
}

/// A port with fewer rows than may wait does not say that one accept brings many, whatever the kernel has.
#[test]
fn a_port_says_how_it_accepts_and_not_how_it_could() {
    for (backlog, said) in [(2, Paths::MULTISHOT_ACCEPT), (128, Paths::ONE_SHOT_ACCEPT)] {
        let config = TcpPlaneConfig { backlog, ..config() };
        station::with("hub", EndpointType::Rdm, &config, |hub| {
            if hub.plane.features().has(Feature::MultishotAccept) {
                assert!(hub.endpoint.info().paths.has(said), "backlog {backlog}");
            } else {
                assert!(hub.endpoint.info().paths.has(Paths::ONE_SHOT_ACCEPT));
            }
        });
    }
}

/// Over IPv6, with what the kernel has and without: and the port says by which ways it goes.
#[test]
fn ports_meet_over_ipv6_and_say_by_which_ways_they_go() {
    let one_by_one = [
        Feature::MultishotReceive,
        Feature::MultishotAccept,
        Feature::DeferTaskrun,
        Feature::RegisteredRing,
    ];
    for deny in [FeatureSet::EMPTY, one_by_one.into_iter().collect()] {
        let config = TcpPlaneConfig { deny, backlog: 2, ..config() };
        let at = SocketAddr::from((Ipv6Addr::LOCALHOST, 0));
        with_two_at(at, &config, (["hub", "good"], EndpointType::Rdm), |hub, good| {
            assert!(hub.local().is_ipv6());
            let to_hub = good.know("hub", hub.local());
            insist("it is there", &[hub, good], || good.endpoint.inject(SendTo::peer(to_hub), b""));
            let to_good = guest(hub, "good");
            hub.recv(0);
            until("its first has come", &[hub, good], || hub.poll().is_some());
            for _ in 0..5 {
                pass(hub, good, (to_hub, to_good));
            }
            let (paths, features) = (hub.endpoint.info().paths, hub.plane.features());
            let choices = [
                (Feature::MultishotReceive, Paths::MULTISHOT_RECEIVE, Paths::ONE_SHOT_RECEIVE),
                (Feature::MultishotAccept, Paths::MULTISHOT_ACCEPT, Paths::ONE_SHOT_ACCEPT),
                (Feature::RegisteredRing, Paths::REGISTERED_RING, Paths::RING_BY_DESCRIPTOR),
            ];
            for (feature, path, instead) in choices {
                assert_eq!(paths.has(path), features.has(feature), "{feature}: {paths}");
                assert_eq!(paths.has(instead), !features.has(feature), "{feature}: {paths}");
            }
            assert_eq!(paths.has(Paths::DEFER_TASKRUN), features.has(Feature::DeferTaskrun));
            assert!(paths.has(Paths::PROVIDED_BUFFERS.with(Paths::COPIED_SENDS)), "{paths}");
            assert!(paths.has(Paths::DESCRIPTORS) && !paths.has(Paths::NAPI), "{paths}");
        });
    }
}
