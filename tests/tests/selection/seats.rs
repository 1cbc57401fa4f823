//! What a seat refuses: the endpoint of another, for a descriptor, which would tell of what another stands on, or to connect it; and a name that nobody has.

use spinwire_dataplane::id::Name;
use spinwire_dataplane::provider::EndpointType;
use spinwire_hostshim::clock::TscClock;
use spinwire_hostshim::open::{Host, OpenConfig, OpenError};
use spinwire_hostshim::uri::Uri;

use crate::sleeps::places;

fn each_takes_its_own(at: &Uri, kind: EndpointType) {
    let open = |uri: &Uri, config: OpenConfig| Host::open(uri, kind, &config.waiting()).unwrap();
    let mut listening = open(at, OpenConfig::listen());
    let at = listening.uri();
    let mut beside = open(&at, OpenConfig::connect());
    let (seat, other_seat) = (listening.seat().unwrap(), beside.seat().unwrap());
    let (end, other) = (seat.endpoint().unwrap(), other_seat.endpoint().unwrap());
    for (seat, stranger) in [(&seat, &other), (&other_seat, &end)] {
        let refused = seat.news(stranger).unwrap_err();
        assert!(
            matches!(refused, OpenError::Stranger { seat: its } if its == *seat.name()),
            "{at}: {refused:?}"
        );
        let refused = refused.to_string();
        assert!(
            refused.contains(seat.name().as_str()) && refused.contains("remedy: "),
            "{refused}"
        );
        let refused = seat.connect(stranger, &at, &TscClock::calibrate());
        assert!(matches!(refused, Err(OpenError::Stranger { .. })), "{at}: {refused:?}");
    }
    // What was refused has not used up the one descriptor of either.
    let (_news, _of_the_other) = (seat.news(&end).unwrap(), other_seat.news(&other).unwrap());
}

#[test]
fn a_seat_refuses_the_endpoint_of_another() {
    let mut places = places();
    // One of each transport.
    places.dedup_by_key(|(at, _)| at.transport());
    assert!(places.len() >= 2, "shm and udp are everywhere: {places:?}");
    places.iter().for_each(|(at, kind)| each_takes_its_own(at, *kind));
    // Of two transports neither is the other's.
    let config = OpenConfig::listen();
    let open = |(at, kind): &(Uri, EndpointType)| Host::open(at, *kind, &config).unwrap();
    let (mut first, mut last) = (open(&places[0]), open(&places[places.len() - 1]));
    let (seat, other_seat) = (first.seat().unwrap(), last.seat().unwrap());
    let other = other_seat.endpoint().unwrap();
    assert!(matches!(seat.news(&other), Err(OpenError::Stranger { .. })));
}

/// Over UDP whoever has the port would answer to any name.
#[test]
fn a_name_over_udp_is_refused_before_anything_is_opened() {
    let at: Uri = "udp://127.0.0.1:0".parse().unwrap();
    let open = |uri: &Uri, config| Host::open(uri, EndpointType::Dgram, &config);
    let mut host = open(&at, OpenConfig::listen()).unwrap();
    let named = host.uri().with_endpoint(Name::new("quotes").unwrap());
    let seat = host.seat().unwrap();
    let connected = seat.connect(&seat.endpoint().unwrap(), &named, &TscClock::calibrate());
    let all = [
        open(&named, OpenConfig::listen()).map(drop),
        open(&named, OpenConfig::connect()).map(drop),
        connected.map(drop),
    ];
    for refused in all {
        let said = refused.unwrap_err().to_string();
        assert!(said.contains("/quotes\": the name of the endpoint has no place here"), "{said}");
        assert!(said.contains("remedy: leave it out: udp://HOST:PORT"), "{said}");
    }
}
