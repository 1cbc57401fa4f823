//! Addresses where datagrams go: tables of a fixed size, and more peers than places.

use core::net::{Ipv4Addr, Ipv6Addr};
use core::time::Duration;

use std::time::Instant as RealTime;

use spinwire_dataplane::error::{Misuse, PostError, Retry};
use spinwire_dataplane::id::{Addr, Name};
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
    VerbsDatagramPort, VerbsDatagrams, VerbsDatagramsConfig, VerbsError, VerbsPlaneError,
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
    /// Places of a pair.
    const MOST: u32 = 1024;
    let Some([device, far]) = devices() else { return };
    // Where such an address is found is written in itself, and nobody is asked.
    let gids = far.port(1).unwrap().gids;
    let there = gids.iter().find(|entry| entry.gid.is_link_local()).unwrap().gid;
    let gids = device.port(1).unwrap().gids;
    let own = gids.iter().find(|entry| entry.gid.is_link_local()).unwrap().index;
    let config = PairConfig { gid_index: Some(own), ..PairConfig::default() };
    let end = End::open(&device, PairKind::Ud, &config);
    end.pair.ready(QKEY_DEFAULT, &ConnectConfig::default()).unwrap();
    // One neighbour, in as many ways as there are.
    let add = |number: u32| {
        let [traffic_class, hop_limit, ..] = number.to_le_bytes();
        let hop_limit = hop_limit + 1;
        let how = ConnectConfig { traffic_class, hop_limit, ..ConnectConfig::default() };
        end.pair.add_address(AddressOf { gid: there, lid: 0 }, &how)
    };
    for number in 0..MOST {
        assert_eq!(add(number).unwrap(), number);
    }
    assert_eq!((add(5).unwrap(), end.pair.addresses()), (5, MOST as usize), "once each");
    let full = add(MOST).unwrap_err();
    assert!(
        matches!(full, VerbsError::Limit { field: "address handles", most: 1024, .. }),
        "{full}"
    );
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

/// A plane on the near device, and an endpoint on it.
pub(crate) struct Hub<'p> {
    pub(crate) plane: &'p VerbsDatagrams,
    pub(crate) endpoint: Endpoint<'p, VerbsDatagramPort<'p>>,
    loans: &'p LoanPool<'p>,
    since: RealTime,
}

/// What `port` does not say is as ever.
pub(crate) fn with_hub(port: RdmaDatagramsConfig, run: impl FnOnce(&Hub<'_>)) {
    let config = VerbsDatagramsConfig { port, ..VerbsDatagramsConfig::default() };
    let plane = VerbsDatagrams::open("rxe0", None, &config).unwrap();
    let mut memory = Plane::memory(port.arena_bytes() + (1 << 20)).unwrap();
    let bump = Plane::arena(&mut memory);
    let port = plane.port(&bump).unwrap();
    let endpoint = Endpoint::new(port, &bump, &EndpointConfig::default()).unwrap();
    let loans = LoanPool::place(&bump, 1, 2048).unwrap();
    run(&Hub { plane: &plane, endpoint, loans, since: RealTime::now() });
}

impl Hub<'_> {
    pub(crate) fn turn(&self) {
        self.plane.attend(self.endpoint.provider()).unwrap();
        let now = u64::try_from(self.since.elapsed().as_nanos()).unwrap();
        let _outcome = self.endpoint.turn(Instant::from_nanos(now), Budget::DEFAULT);
        assert!(self.since.elapsed() < Duration::from_secs(60), "nothing within a minute");
    }

    /// Says something to the hub as `speaker`, which posts a receive for an answer. Who that is to the hub.
    pub(crate) fn hears(&self, speaker: &End, said: &[u8]) -> Addr {
        let packet = [&head_of(said)[..], said].concat();
        speaker.write(0, &packet);
        speaker.recv(1, &[speaker.segment(4096, 2048)]);
        let at = AddressOf { gid: self.plane.card().gid, lid: 0 };
        let handle = speaker.pair.add_address(at, &ConnectConfig::default()).unwrap();
        let to = Destination { handle, qp_num: self.plane.card().qp_num, qkey: QKEY_DEFAULT };
        let segments = [speaker.segment(0, packet.len() as u32)];
        let loan = self.loans.lend().unwrap();
        self.endpoint.post_recv(RecvFrom::any(), loan, 1).map_err(|e| e.error).unwrap();
        speaker.send(&SendRequest::new(wr(2), Verb::Send, &segments).to(to));
        speaker.done(2);
        loop {
            self.turn();
            if let Some(got) = self.endpoint.poll() {
                assert_eq!(got.bytes(), Some(said));
                return got.source.unwrap();
            }
        }
    }

    /// Answers it, when it can be answered, and the answer finds it.
    pub(crate) fn answers(&self, peer: Addr, speaker: &End, said: &[u8]) {
        while self.endpoint.inject(SendTo::peer(peer), said).is_err() {
            self.turn();
        }
        self.endpoint.flush();
        speaker.done(1);
        let back = speaker.read(4096 + 40 + head_of(said).len(), said.len());
        assert_eq!(back, said, "the answer has found the one that asked");
    }
}

fn head_of(said: &[u8]) -> [u8; 24] {
    datagram::header(said.len(), Envelope { tag: None, immediate: None }).unwrap()
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
    with_hub(port, |hub| {
        let speakers: Vec<End> =
            (0..PEERS).map(|number| speaker(&far, &format!("10.77.0.{}", 20 + number))).collect();
        let mut most = 0;
        for round in 0..2_u8 {
            for (number, speaker) in (0_u8..).zip(&speakers) {
                let said = [round, number];
                let peer = hub.hears(speaker, &said);
                hub.answers(peer, speaker, &said);
                most = most.max(hub.plane.handles());
            }
        }
        // Of a quarter of the sends that the pair takes, which are four times as many, it is not known whether they are over.
        let kept = (ROWS + ROUTES)..=(ROWS + ROUTES + SENDS);
        assert!(kept.contains(&(most as u32)), "{most} handles for {PEERS} peers");
    });
    drop(mended);
    assert_eq!(verbs::lost(), 0);
}

/// The far end does not tell where it is.
struct Muted;

impl Muted {
    fn set(how: &str) {
        std::fs::write("/proc/sys/net/ipv4/conf/cable1/arp_ignore", how).unwrap();
    }

    fn new() -> Self {
        Self::set("8");
        Self
    }
}

impl Drop for Muted {
    fn drop(&mut self) {
        Self::set("0");
    }
}

/// Somebody is heard who cannot be found: others are heard and answered while the kernel looks for it, and so is it when it is there.
#[test]
fn who_cannot_be_found_holds_up_nobody() {
    let Some([_, far]) = devices() else { return };
    if !network("ip addr add 10.77.0.50/24 dev cable1") {
        return;
    }
    let _mended = Mended("ip addr del 10.77.0.50/24 dev cable1");
    let port = RdmaDatagramsConfig::default();
    with_hub(port, |hub| {
        hub.plane.finds_without_waiting().unwrap();
        let (mute, known) = (speaker(&far, "10.77.0.50"), speaker(&far, "10.77.0.2"));
        let peer = hub.hears(&known, b"I am found");
        hub.answers(peer, &known, b"so you are");
        let muted = Muted::new();
        // Where the machine stands still for long, the kernel has done looking before the others have spoken.
        let lost = (0..5).find_map(|_| {
            let lost = hub.hears(&mute, b"where am I");
            let peer = hub.hears(&known, b"still here");
            hub.answers(peer, &known, b"still here");
            (hub.plane.lookups() == 1).then_some(lost)
        });
        let lost = lost.expect("it is looked for while others are answered");
        while hub.plane.lookups() > 0 {
            hub.turn();
        }
        let refused = hub.endpoint.inject(SendTo::peer(lost), b"there?").unwrap_err();
        assert_eq!(refused, PostError::Retry(Retry::NotConnected));
        drop(muted);
        let found = hub.hears(&mute, b"here I am");
        assert_eq!(found, lost, "its row is as it was");
        // What was posted for the answers that did not come takes this one, the oldest first.
        hub.answers(found, &mute, b"there");
    });
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
    with_hub(port, come_and_go);
    assert_eq!(verbs::lost(), 0);
}

fn come_and_go(hub: &Hub<'_>) {
    let (plane, hub) = (hub.plane, hub.endpoint.provider());
    let name = |number: u32| Name::new(&format!("peer-{number}")).unwrap();
    let mut most = 0;
    for number in 0..24_u32 {
        let card = Card { gid: nobody(number), qp_num: 17, ..*plane.card() };
        plane.know(hub, &name(number), &card).unwrap();
        let peer = hub.connect(&name(number)).unwrap();
        // The card of a peer that moves: the same name, elsewhere.
        hub.forget_route(&name(number));
        hub.disconnect(peer).unwrap();
        most = most.max(plane.handles());
    }
    assert_eq!(most, (ROWS + ROUTES) as usize);
    for number in 0..ROUTES {
        let card = Card { gid: nobody(number), qp_num: 17, ..*plane.card() };
        plane.know(hub, &name(number), &card).unwrap();
    }
    let one_more = plane.know(hub, &name(ROUTES), plane.card()).unwrap_err();
    assert!(matches!(one_more, VerbsPlaneError::Post(PostError::Retry(Retry::AddressesFull))));
}
