//! What a user may say of how pairs talk: it is what the device then does, or is refused by name.

use spinwire_dataplane::verbs::{Destination, SendRequest, Verb};
use spinwire_hostshim::verbs::{
    AddressOf, ConnectConfig, Mtu, PairConfig, PairKind, PairState, QKEY_DEFAULT, VerbsDatagrams,
    VerbsDatagramsConfig, VerbsError, VerbsPlane, VerbsPlaneConfig,
};

use super::rig::{End, devices, quick, wr};

/// Each unlike the default.
const UNUSUAL: ConnectConfig = ConnectConfig {
    mtu: Some(Mtu::B1024),
    timeout: 17,
    retry_count: 5,
    rnr_retry: 3,
    rnr_timer: 20,
    reads: 4,
    hop_limit: 9,
    traffic_class: 0x68,
    service_level: 3,
    pkey_index: 0,
};

fn ends(kind: PairKind, psns: [u32; 2]) -> Option<[End; 2]> {
    let [a, b] = devices()?;
    let open = |device, psn| {
        End::open(device, kind, &PairConfig { psn: Some(psn), ..PairConfig::default() })
    };
    Some([open(&a, psns[0]), open(&b, psns[1])])
}

fn connect([a, b]: &[End; 2], how: &ConnectConfig) {
    a.pair.connect(b.pair.card(), how).unwrap();
    b.pair.connect(a.pair.card(), how).unwrap();
}

#[test]
fn a_pair_talks_as_it_was_told_to() {
    let Some(ends) = ends(PairKind::Rc, [0xab_cdef, 0x12_3456]) else { return };
    connect(&ends, &UNUSUAL);
    for (own, other) in [(0, 1), (1, 0)] {
        let (own, other) = (ends[own].pair.card(), ends[other].pair.card());
        let has =
            ends.iter().find(|end| end.pair.card() == own).unwrap().pair.attributes().unwrap();
        eprintln!(
            "!! NOT RUN: service level, hop limit: Soft-RoCE keeps no level, and the kernel takes the limit from the route"
        );
        let unseen = ConnectConfig {
            service_level: has.how.service_level,
            hop_limit: has.how.hop_limit,
            ..UNUSUAL
        };
        assert_eq!((has.state, has.how), (PairState::ReadyToSend, unseen));
        assert_eq!((has.send_psn, has.recv_psn), (own.psn, other.psn));
        assert_eq!((has.reads_answered, has.peer), (UNUSUAL.reads, other.qp_num));
        assert_eq!(has.to.gid, other.gid);
    }
    let [a, b] = &ends;
    b.recv(1, &[b.segment(0, 4096)]);
    a.send(&SendRequest::new(wr(1), Verb::Send, &[a.segment(0, 4096)]));
    a.done(1);
    b.done(1);
    let after = a.pair.attributes().unwrap();
    assert_eq!(after.send_psn, 0xab_cdef + 4, "four packets of 1024 bytes");
}

#[test]
fn what_no_device_has_is_refused_by_name() {
    let Some([a, b]) = ends(PairKind::Rc, [0, 0]) else { return };
    let one = ConnectConfig::default();
    let bad = [
        ("timeout 32: the device has at most 31", ConnectConfig { timeout: 32, ..one }),
        ("retry count 8: the device has at most 7", ConnectConfig { retry_count: 8, ..one }),
        ("RNR retries 8: the device has at most 7", ConnectConfig { rnr_retry: 8, ..one }),
        ("RNR timer 32: the device has at most 31", ConnectConfig { rnr_timer: 32, ..one }),
        ("reads under way 255: the device has", ConnectConfig { reads: 255, ..one }),
        ("service level 16: the device has at most 15", ConnectConfig { service_level: 16, ..one }),
        ("index of the partition key 900: the", ConnectConfig { pkey_index: 900, ..one }),
    ];
    let is_named = |error: &VerbsError, text: &str| {
        let said = error.to_string();
        assert!(said.contains(text) && said.contains("remedy: ask for less"), "{text}: {said}");
    };
    for (text, how) in &bad {
        is_named(&a.pair.connect(b.pair.card(), how).unwrap_err(), text);
        let config = VerbsPlaneConfig { connect: *how, ..VerbsPlaneConfig::default() };
        let refused = VerbsPlane::open("rxe0", None, &config).unwrap_err().to_string();
        assert!(refused.contains(text), "{text}: when it is opened, not with each peer: {refused}");
    }
    let mut short = *b.pair.card();
    short.mtu = Mtu::B512;
    let long = ConnectConfig { mtu: Some(Mtu::B1024), ..one };
    let refused = a.pair.connect(&short, &long).unwrap_err();
    is_named(&refused, "bytes of a packet 1024: the device has at most 512");
    assert_eq!(a.pair.state().unwrap(), PairState::Reset, "none of them was begun with");
    connect(&[a, b], &one);
    let domain = End::open(&devices().unwrap()[0], PairKind::Ud, &PairConfig::default());
    let level = ConnectConfig { service_level: 16, ..one };
    is_named(&domain.pair.ready(QKEY_DEFAULT, &level).unwrap_err(), "service level 16");
    let to = AddressOf { gid: domain.pair.card().gid, lid: 0 };
    is_named(&domain.pair.add_address(to, &level).unwrap_err(), "service level 16");
    let config = VerbsDatagramsConfig { how: level, ..VerbsDatagramsConfig::default() };
    let refused = VerbsDatagrams::open("rxe0", None, &config).unwrap_err().to_string();
    assert!(refused.contains("service level 16"), "{refused}");
    let cq = &domain.cq;
    let late = PairConfig { psn: Some(1 << 24), ..PairConfig::default() };
    drop(domain.pair);
    let refused =
        spinwire_hostshim::verbs::Pair::new(&domain.domain, PairKind::Rc, (cq, cq), &late);
    is_named(&refused.unwrap_err(), "number of the first packet 16777216");
}

/// Bytes of route in front of a datagram; over IPv4 the header of its packet is the last 20 of them.
const ROUTE: usize = 40;

#[test]
fn datagrams_have_the_traffic_class_of_their_address() {
    let Some([a, b]) = ends(PairKind::Ud, [0, 0]) else { return };
    for end in [&a, &b] {
        end.pair.ready(QKEY_DEFAULT, &ConnectConfig::default()).unwrap();
    }
    let to = AddressOf { gid: b.pair.card().gid, lid: 0 };
    for (id, class) in [(0, 0), (1, 0x68), (2, 0xff)] {
        let how = ConnectConfig { traffic_class: class, ..ConnectConfig::default() };
        let handle = a.pair.add_address(to, &how).unwrap();
        assert_eq!(handle, id, "each way to talk has a handle of its own");
        let there = Destination { handle, qp_num: b.pair.card().qp_num, qkey: QKEY_DEFAULT };
        b.recv(id, &[b.segment(0, 2048)]);
        a.send(&SendRequest::new(wr(id), Verb::Send, &[a.segment(0, 8)]).to(there));
        a.done(id);
        b.done(id);
        let header = b.read(ROUTE - 20, 20);
        // The kernel has two bits of it for congestion, and Soft-RoCE sends all eight as they are.
        assert_eq!((header[0], header[1] & 0xfc), (0x45, class & 0xfc), "{header:?}");
        assert_eq!(header[12..16], [10, 77, 0, 1], "by whom");
    }
}

#[test]
fn numbers_of_packets_go_round() {
    let Some(ends) = ends(PairKind::Rc, [0xff_fffa, 0xff_ffff]) else { return };
    connect(&ends, &ConnectConfig { mtu: Some(Mtu::B256), ..quick() });
    let [a, b] = &ends;
    let bytes: Vec<u8> = (0..4096_u32).map(|at| ((at * 7) >> 3) as u8).collect();
    for (from, to) in [(a, b), (b, a)] {
        for id in 0..3 {
            from.write(0, &bytes);
            to.recv(id, &[to.segment(8192, 4096)]);
            from.send(&SendRequest::new(wr(id), Verb::Send, &[from.segment(0, 4096)]));
            to.done(id);
            from.done(id);
            assert_eq!(to.read(8192, 4096), bytes);
            to.write(8192, &vec![0; 4096]);
        }
        let place = to.region.remote_key().place(8192, 4096).unwrap();
        from.send(&SendRequest::new(wr(8), Verb::Write, &[from.segment(0, 4096)]).at(place));
        from.done(8);
        from.write(0, &vec![0; 4096]);
        from.send(&SendRequest::new(wr(9), Verb::Read, &[from.segment(0, 4096)]).at(place));
        from.done(9);
        assert_eq!(from.read(0, 4096), bytes);
    }
    for (end, first) in [(a, 0xff_fffa_u32), (b, 0xff_ffff)] {
        // Sixteen packets each for three sends, a write, and the answer to a read.
        let has = end.pair.attributes().unwrap();
        assert_eq!(has.send_psn, (first + 5 * 16) & 0xff_ffff);
    }
}
