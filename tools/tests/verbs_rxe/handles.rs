//! Addresses where datagrams go: tables of a fixed size, and more peers than places.

use core::net::{Ipv4Addr, Ipv6Addr};
use core::time::Duration;

use std::time::Instant as RealTime;

use spinwire_dataplane::error::{Misuse, PostError, Retry};
use spinwire_dataplane::id::Name;
use spinwire_dataplane::msg::{Endpoint, EndpointConfig, RecvFrom, SendTo};
use spinwire_dataplane::poll::{Budget, Poll};
use spinwire_dataplane::provider::Provider as _;
use spinwire_dataplane::provider::rdma::RdmaDatagramsConfig;
use spinwire_dataplane::provider::udp::datagram;
use spinwire_dataplane::raw::loan::LoanPool;
use spinwire_dataplane::shm::lane::Envelope;
use spinwire_dataplane::time::{Instant, Nanos};
use spinwire_dataplane::verbs::{Destination, QueuePair as _, SendRequest, Verb};
use spinwire_hostshim::plane::Plane;
use spinwire_hostshim::verbs::{
    self, AddressOf, Card, ConnectConfig, Device, Gid, PairConfig, PairKind, QKEY_DEFAULT,
    VerbsDatagrams, VerbsDatagramsConfig, VerbsPlaneError,
};

use super::faults::{Mended, network};
use super::rig::{End, devices, wr};

/// Somebody on the cable who is not there, by number.
const fn nobody(number: u32) -> Gid {
    let [_, _, high, low] = number.to_be_bytes();
    let address = Ipv4Addr::new(10, 79, high, low);
    Gid::from_bytes(address.to_ipv6_mapped().octets())
}

/// Lets the kernel believe in so many of them: it makes no handle for whom it does not find.
fn believe_in(count: u32) -> Option<Mended> {
    if !network("ip route add 10.79.0.0/16 dev cable0") {
        return None;
    }
    let mended = Mended("ip route del 10.79.0.0/16 dev cable0");
    let line = |number| {
        let address = Ipv6Addr::from(nobody(number).bytes()).to_ipv4_mapped().unwrap();
        neighbour(&address.to_string(), "02:00:00:00:00:01")
    };
    batch(&(0..count).map(line).collect::<String>());
    Some(mended)
}

/// What `ip` is told, for it to know where that address is found on the cable.
fn neighbour(address: &str, link: &str) -> String {
    format!("neigh replace {address} lladdr {} dev cable0\n", link.trim())
}

fn batch(lines: &str) {
    let file = std::env::temp_dir().join("spinwire-neighbours");
    std::fs::write(&file, lines).unwrap();
    network(&format!("ip -batch {}", file.display()));
}

#[test]
fn places_of_a_table_are_used_again_and_not_while_they_may_be_named() {
    /// Of the 1024 places of a pair: to make a handle takes long in an emulated guest.
    const MOST: u32 = 8;
    let Some([device, _]) = devices() else { return };
    let Some(_mended) = believe_in(MOST + 3) else { return };
    let end = End::open(&device, PairKind::Ud, &PairConfig::default());
    let how = ConnectConfig::default();
    end.pair.ready(QKEY_DEFAULT, &how).unwrap();
    let add = |number| end.pair.add_address(AddressOf { gid: nobody(number), lid: 0 }, &how);
    for number in 0..MOST {
        assert_eq!(add(number).unwrap(), number);
    }
    assert_eq!((add(5).unwrap(), end.pair.addresses()), (5, MOST as usize), "once each");
    for (number, place) in [(MOST, 6), (MOST + 1, 0), (MOST + 2, 7)] {
        assert!(end.pair.remove_address(place));
        assert!(!end.pair.remove_address(place), "it is gone");
        let to = Destination { handle: place, qp_num: 17, qkey: QKEY_DEFAULT };
        let segments = [end.segment(0, 8)];
        let send = SendRequest::new(wr(1), Verb::Send, &segments).to(to);
        assert_eq!(end.pair.post_send(&send), Err(PostError::Misuse(Misuse::UnknownAddress)));
        assert_eq!(add(number).unwrap(), place);
        // While a send is staged that may name it, no handle is given back.
        end.pair.post_send(&send).unwrap();
        assert!(!end.pair.remove_address(place));
        assert_eq!(end.pair.ring_doorbell().count, 1);
        end.done(1);
    }
    assert_eq!(end.pair.addresses(), MOST as usize);
    drop(end);
    assert_eq!(verbs::lost(), 0, "the library has taken all of them back");
}

/// Rows of the address table, and routes: so many handles are kept at most.
const ROWS: u32 = 4;
const ROUTES: u32 = 4;
/// Sends, at most, whose end is not yet known: handles that these may use are kept, too.
const SENDS: u32 = 8;
/// Peers, each at an address of its own.
const PEERS: u32 = 20;

/// One that speaks from an address of its own.
fn speaker(device: &Device, address: &str) -> End {
    let gid: Gid = format!("::ffff:{address}").parse().unwrap();
    let until = RealTime::now() + Duration::from_secs(10);
    let index = loop {
        let gids = device.port(1).unwrap().gids;
        if let Some(entry) = gids.iter().find(|entry| entry.gid == gid) {
            break entry.index;
        }
        assert!(RealTime::now() < until, "no {gid} among {gids:?}");
    };
    let end = End::open(
        device,
        PairKind::Ud,
        &PairConfig {
            gid_index: Some(index),
            send_depth: 8,
            recv_depth: 8,
            ..PairConfig::default()
        },
    );
    end.pair.ready(QKEY_DEFAULT, &ConnectConfig::default()).unwrap();
    end
}

/// Addresses of the far end, one for each peer, and known to the near one.
fn addresses() -> Option<Vec<Mended>> {
    let mut mended = Vec::new();
    for number in 0..PEERS {
        let command = |verb: &str| format!("ip addr {verb} 10.77.0.{}/24 dev cable1", 20 + number);
        if !network(&command("add")) {
            return None;
        }
        mended.push(Mended(command("del").leak()));
    }
    // Else the kernel asks for each, which takes a second here.
    let link = std::fs::read_to_string("/sys/class/net/cable1/address").unwrap();
    let lines = (0..PEERS).map(|number| neighbour(&format!("10.77.0.{}", 20 + number), &link));
    batch(&lines.collect::<String>());
    Some(mended)
}

#[test]
fn more_peers_than_places_are_answered_and_none_leaks() {
    let Some([_, far]) = devices() else { return };
    let Some(mended) = addresses() else { return };
    let port = RdmaDatagramsConfig {
        peers_max: ROWS,
        routes_max: ROUTES,
        age_min: Nanos::new(1),
        send_depth: SENDS,
        ..RdmaDatagramsConfig::default()
    };
    let config = VerbsDatagramsConfig { port, ..VerbsDatagramsConfig::default() };
    let plane = VerbsDatagrams::open("rxe0", None, &config).unwrap();
    let mut memory = Plane::memory(port.arena_bytes() + (1 << 20)).unwrap();
    let bump = Plane::arena(&mut memory);
    let hub = plane.port(&bump).unwrap();
    let hub = Endpoint::new(hub, &bump, &EndpointConfig::default()).unwrap();
    let loans = LoanPool::place(&bump, 1, 2048).unwrap();
    let since = RealTime::now();
    let turn = || {
        plane.attend(hub.provider()).unwrap();
        let now = u64::try_from(since.elapsed().as_nanos()).unwrap();
        let _outcome = hub.turn(Instant::from_nanos(now), Budget::DEFAULT);
        assert!(since.elapsed() < Duration::from_secs(60), "nothing within a minute");
    };
    let speakers: Vec<End> =
        (0..PEERS).map(|number| speaker(&far, &format!("10.77.0.{}", 20 + number))).collect();
    let at = AddressOf { gid: plane.card().gid, lid: 0 };
    let mut most = 0;
    for round in 0..2_u8 {
        for (number, speaker) in (0_u8..).zip(&speakers) {
            let said = [round, number];
            let envelope = Envelope { tag: None, immediate: None };
            let head = datagram::header(said.len(), envelope).unwrap();
            let packet = [&head[..], &said].concat();
            speaker.write(0, &packet);
            speaker.recv(1, &[speaker.segment(4096, 2048)]);
            let handle = speaker.pair.add_address(at, &ConnectConfig::default()).unwrap();
            let to = Destination { handle, qp_num: plane.card().qp_num, qkey: QKEY_DEFAULT };
            let segments = [speaker.segment(0, packet.len() as u32)];
            let loan = loans.lend().unwrap();
            hub.post_recv(RecvFrom::any(), loan, 1).map_err(|e| e.error).unwrap();
            speaker.send(&SendRequest::new(wr(2), Verb::Send, &segments).to(to));
            let got = loop {
                turn();
                if let Some(got) = hub.poll() {
                    break got;
                }
            };
            assert_eq!(got.bytes(), Some(&said[..]));
            while hub.inject(SendTo::peer(got.source.unwrap()), &said).is_err() {
                turn();
            }
            hub.flush();
            let both = [speaker.next(), speaker.next()];
            assert!(both.iter().all(|wc| wc.outcome().is_ok()), "{both:?}");
            let back = speaker.read(4096 + 40 + head.len(), said.len());
            assert_eq!(back, said, "the answer has found the one that asked");
            most = most.max(plane.handles());
        }
    }
    // Of a quarter of the sends that the pair takes, which are four times as many, it is not known whether they are over.
    let kept = (ROWS + ROUTES)..=(ROWS + ROUTES + SENDS);
    assert!(kept.contains(&(most as u32)), "{most} handles for {PEERS} peers");
    drop(speakers);
    drop(mended);
    assert_eq!(verbs::lost(), 0);
}

/// Those that are known by card and by name come and go, too.
#[test]
fn routes_come_and_go_and_their_handles_with_them() {
    if devices().is_none() {
        return;
    }
    let Some(_mended) = believe_in(24) else { return };
    let port = RdmaDatagramsConfig {
        peers_max: ROWS,
        routes_max: ROUTES,
        ..RdmaDatagramsConfig::default()
    };
    let config = VerbsDatagramsConfig { port, ..VerbsDatagramsConfig::default() };
    let plane = VerbsDatagrams::open("rxe0", None, &config).unwrap();
    let mut memory = Plane::memory(port.arena_bytes() + (1 << 20)).unwrap();
    let bump = Plane::arena(&mut memory);
    let hub = plane.port(&bump).unwrap();
    let name = |number: u32| Name::new(&format!("peer-{number}")).unwrap();
    let mut most = 0;
    for number in 0..24_u32 {
        let card = Card { gid: nobody(number), qp_num: 17, ..*plane.card() };
        plane.know(&hub, &name(number), &card).unwrap();
        let peer = hub.connect(&name(number)).unwrap();
        // The card of a peer that moves: the same name, elsewhere.
        hub.forget_route(&name(number));
        hub.disconnect(peer).unwrap();
        most = most.max(plane.handles());
    }
    assert_eq!(most, (ROWS + ROUTES) as usize);
    for number in 0..ROUTES {
        let card = Card { gid: nobody(number), qp_num: 17, ..*plane.card() };
        plane.know(&hub, &name(number), &card).unwrap();
    }
    let one_more = plane.know(&hub, &name(ROUTES), plane.card()).unwrap_err();
    assert!(matches!(one_more, VerbsPlaneError::Post(PostError::Retry(Retry::AddressesFull))));
    drop(plane);
    assert_eq!(verbs::lost(), 0);
}
