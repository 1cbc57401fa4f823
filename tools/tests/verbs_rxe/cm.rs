//! Connections through librdmacm.

use core::net::{IpAddr, SocketAddr};
use core::time::Duration;

use spinwire_dataplane::verbs::{SendRequest, Verb, WcStatus};
use spinwire_hostshim::verbs::{
    CmChannel, CmEvent, CmNews, Link, LinkId, PairConfig, PairKind, PairState, VerbsError,
};

use super::rig::{End, devices, quick, wr};

const LIMIT: Duration = Duration::from_secs(30);

fn address(text: &str) -> SocketAddr {
    SocketAddr::new(text.parse().unwrap(), 0)
}

pub(crate) fn end_on(link: &Link) -> End {
    End::open(&link.open_device().unwrap(), PairKind::Rc, &PairConfig::default())
}

/// The next event, which must be that.
fn next(channel: &CmChannel, about: LinkId, news: CmNews) -> CmEvent {
    let event = channel.wait(LIMIT).unwrap().expect("no event within 30 s");
    assert_eq!((event.about, event.news), (about, news));
    event
}

/// As often as it takes: in the first moments of a guest, its network may lose a question.
fn resolved(channel: &CmChannel, from: IpAddr, to: SocketAddr) -> Link {
    for _ in 0..20 {
        let link = channel.resolve(Some(from), to, Duration::from_secs(2)).unwrap();
        let event = channel.wait(LIMIT).unwrap().expect("no event within 30 s");
        assert_eq!(event.about, link.id());
        if event.news == CmNews::AddressResolved {
            return link;
        }
        assert_eq!(event.news, CmNews::Failed(libc::ETIMEDOUT));
    }
    panic!("no address within 40 s");
}

/// Both ends of a call on one channel each, as far as the request.
fn called(data: &[u8]) -> Option<([CmChannel; 2], Link, Link, End)> {
    devices()?;
    let [near, far] = [CmChannel::open().unwrap(), CmChannel::open().unwrap()];
    let listener = far.listen(address("10.77.0.2"), 4).unwrap();
    let to = listener.local_addr().unwrap();
    assert!(to.port() != 0 && to.ip() == address("10.77.0.2").ip(), "{to}");
    let from: IpAddr = "10.77.0.1".parse().unwrap();
    let link = resolved(&near, from, to);
    assert_eq!((link.device_name().as_deref(), link.port()), (Some("rxe0"), Some(1)));
    link.route(LIMIT).unwrap();
    next(&near, link.id(), CmNews::RouteResolved);
    let end = end_on(&link);
    link.connect(&end.pair, &quick(), data).unwrap();
    let request = next(&far, listener.id(), CmNews::Request);
    assert_eq!(&request.data.bytes()[..data.len()], data);
    assert!(request.data.bytes()[data.len()..].iter().all(|byte| *byte == 0));
    let guest = request.link.unwrap();
    assert_eq!(guest.device_name().as_deref(), Some("rxe1"));
    assert_eq!(guest.peer_addr().map(|peer| peer.ip()), Some(from));
    Some(([near, far], link, guest, end))
}

#[test]
fn a_call_that_is_accepted_hands_over_connected_pairs() {
    let Some(([near, far], link, guest, a)) = called(b"who I am") else { return };
    let b = end_on(&guest);
    guest.prepare(&b.pair, &quick()).unwrap();
    b.recv(1, &[b.segment(0, 64)]);
    guest.accept(&b.pair, &quick(), b"who I am, then").unwrap();
    let answer = next(&near, link.id(), CmNews::Answered);
    assert!(answer.data.bytes().starts_with(b"who I am, then\0"));
    assert!(far.next_event().unwrap().is_none(), "not before the caller is ready");
    link.establish(&a.pair, &quick()).unwrap();
    next(&far, guest.id(), CmNews::Established);
    for end in [&a, &b] {
        assert_eq!(end.pair.state().unwrap(), PairState::ReadyToSend);
    }
    a.write(0, b"by librdmacm");
    a.send(&SendRequest::new(wr(2), Verb::Send, &[a.segment(0, 12)]));
    a.done(2);
    assert_eq!(b.done(1).bytes, 12);
    assert_eq!(b.read(0, 12), b"by librdmacm");
    let place = a.region.remote_key().place(4096, 12).unwrap();
    b.send(&SendRequest::new(wr(3), Verb::Write, &[b.segment(0, 12)]).at(place));
    b.done(3);
    assert_eq!(a.read(4096, 12), b"by librdmacm");
    // The one who hangs up flushes what is posted, and both are told.
    a.recv(4, &[a.segment(0, 64)]);
    link.disconnect(&a.pair).unwrap();
    a.failed(4, WcStatus::FLUSHED);
    next(&far, guest.id(), CmNews::Disconnected);
    guest.disconnect(&b.pair).unwrap();
    next(&near, link.id(), CmNews::Disconnected);
}

#[test]
fn a_call_that_is_rejected_says_so_and_brings_data() {
    let Some(([near, _far], link, guest, end)) = called(b"may I") else { return };
    guest.reject(b"not today").unwrap();
    let event = next(&near, link.id(), CmNews::Rejected(28));
    assert!(event.data.bytes().starts_with(b"not today\0"));
    assert!(event.news.to_string().contains("rejected"));
    drop((link, end));
    let Some(([near, _far], link, guest, _end)) = called(b"and now") else { return };
    drop(guest);
    next(&near, link.id(), CmNews::Rejected(28));
}

#[test]
fn calls_that_lead_nowhere_end_in_errors_with_a_remedy() {
    if devices().is_none() {
        return;
    }
    let channel = CmChannel::open().unwrap();
    let call = |to: SocketAddr| {
        let make = |link: &Link| Ok::<_, VerbsError>(end_on(link).pair);
        let how = (&quick(), b"".as_slice());
        channel.call((None, to), how, Duration::from_secs(5), make).unwrap_err()
    };
    let refused = call(SocketAddr::new("10.77.0.2".parse().unwrap(), 9));
    let VerbsError::Unreached { why: CmNews::Rejected(8), .. } = refused else {
        panic!("{refused}")
    };
    assert!(refused.to_string().contains("nothing listens there; remedy"), "{refused}");
    let nowhere = call(SocketAddr::new("192.0.2.1".parse().unwrap(), 9));
    assert!(
        nowhere.to_string().contains("remedy") || matches!(nowhere, VerbsError::Os(_)),
        "{nowhere}"
    );
    let long = [0; 57];
    let listener = channel.listen(address("10.77.0.2"), 1).unwrap();
    let how = (&quick(), long.as_slice());
    let make = |link: &Link| Ok::<_, VerbsError>(end_on(link).pair);
    let long = channel.call((None, listener.local_addr().unwrap()), how, LIMIT, make).unwrap_err();
    assert!(matches!(long, VerbsError::Os(_)), "{long}");
    // A pair of another device, and one of another kind.
    let link = channel.resolve(None, listener.local_addr().unwrap(), LIMIT).unwrap();
    assert!(
        matches!(link.open_device(), Err(VerbsError::WrongKind { .. }))
            || link.device_name().is_some()
    );
    next(&channel, link.id(), CmNews::AddressResolved);
    let [near, far] = devices().unwrap();
    let other = if link.device_name().as_deref() == Some("rxe0") { far } else { near };
    let other = End::open(&other, PairKind::Rc, &PairConfig::default());
    let wrong = link.connect(&other.pair, &quick(), &[]).unwrap_err();
    assert!(wrong.to_string().contains("device of the link"), "{wrong}");
    let datagrams = End::open(&link.open_device().unwrap(), PairKind::Ud, &PairConfig::default());
    let wrong = link.connect(&datagrams.pair, &quick(), &[]).unwrap_err();
    assert!(wrong.to_string().contains("RC"), "{wrong}");
}
