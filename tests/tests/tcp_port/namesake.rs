//! Somebody comes who says the name of a peer that is connected: that peer itself, which has lost its connection or has begun anew, or a stranger.

use std::os::fd::AsRawFd;

use spinwire_dataplane::msg::RecvFrom;
use spinwire_dataplane::provider::{EndpointType, Event};
use spinwire_dataplane::time::Nanos;
use spinwire_hostshim::tcp::TcpPlaneConfig;

use crate::station::{self, Station, next_end, until};
use crate::stranger::Stranger;

/// Somebody who is connected under that name and has said that token, and the event of it taken.
fn guest(hub: &Station<'_>, token: u64) -> Stranger {
    let mut guest = Stranger::connect(hub);
    guest.greet_as(("guest", (token, 4)), hub);
    let mut event = None;
    until("it is told", &[hub], || {
        event = hub.event();
        event.is_some()
    });
    assert!(matches!(event, Some(Event::Connected(_))), "{event:?}");
    guest
}

/// The kernel drops whatever comes to a socket: as if its machine had vanished.
#[expect(unsafe_code, reason = "there is no other way to this option")]
fn vanish(stranger: &Stranger) {
    // BPF: of each packet nothing is kept (socket(7), SO_ATTACH_FILTER).
    let mut nothing = libc::sock_filter { code: 6, jt: 0, jf: 0, k: 0 };
    let program = libc::sock_fprog { len: 1, filter: &raw mut nothing };
    let length = libc::socklen_t::try_from(size_of_val(&program)).unwrap();
    let fd = stranger.stream.as_raw_fd();
    // SAFETY: the kernel copies the program, of one instruction, before the call returns.
    let answer = unsafe {
        let at = (&raw const program).cast();
        libc::setsockopt(fd, libc::SOL_SOCKET, libc::SO_ATTACH_FILTER, at, length)
    };
    assert_eq!(answer, 0, "{}", std::io::Error::last_os_error());
}

/// A guest that is there and does nothing, and strangers of its name, with no token, another one, or none where the guest has none either: none is taken, and the
/// guest stays.
#[test]
fn who_says_the_name_of_a_peer_that_is_there_ends_nothing() {
    let mut config = station::config();
    config.port.greeting_timeout = Nanos::from_millis(60);
    for (own, others) in [(7, [0, 8]), (0, [0, 8])] {
        station::with("hub", EndpointType::Rdm, &config, |hub| {
            let mut guest = guest(hub, own);
            for (number, token) in (1..).zip(others) {
                let mut stranger = Stranger::connect(hub);
                stranger.write(&Stranger::hello_with("guest", (token, 9)));
                until("it is not taken", &[hub], || stranger.is_cut());
                assert_eq!(hub.port().counters().refused, number);
            }
            assert_eq!(hub.event(), None, "nobody has gone or come");
            guest.write(&guest.message(b"still here"));
            until("it is heard", &[hub], || hub.endpoint.peek(RecvFrom::any()).is_some());
        });
    }
}

/// One that has the token is the guest itself: it is taken at once, by whatever connection it comes.
#[test]
fn who_has_lost_its_connection_is_known_again() {
    station::with("hub", EndpointType::Rdm, &station::config(), |hub| {
        let mut before = guest(hub, 7);
        before.write(&before.message(b"before"));
        until("it is heard", &[hub], || hub.endpoint.peek(RecvFrom::any()).is_some());
        for number in 5..8 {
            let mut again = Stranger::connect(hub);
            again.write(&Stranger::hello_with("guest", (7, number)));
            assert!(matches!(next_end(hub), Event::PeerGone(_)), "the connection that it had");
            again.hear_hello(hub);
            until("it is let go of", &[hub], || before.is_cut());
            before = again;
        }
        let counters = hub.port().counters();
        assert_eq!((counters.expired, counters.refused, counters.connected), (0, 0, 4));
        let waits = hub.endpoint.peek(RecvFrom::any()).unwrap();
        assert_eq!(waits.length, 6, "what came before is there still");
    });
}

/// One whose machine has vanished without a word, and that has begun anew: the network says that nobody is at the old end, and it is taken.
#[test]
fn who_has_vanished_comes_again() {
    let limit = Nanos::from_millis(400);
    let config = TcpPlaneConfig { send_timeout: limit, ..station::config() };
    station::with("hub", EndpointType::Rdm, &config, |hub| {
        let old = guest(hub, 7);
        vanish(&old);
        let began = hub.now();
        let mut new = Stranger::connect(hub);
        new.greet_as(("guest", (8, 0)), hub);
        assert!(hub.now() >= began.saturating_add(limit), "not before its time");
        assert!(matches!(next_end(hub), Event::PeerGone(_)));
        let counters = hub.port().counters();
        assert_eq!((counters.refused, counters.connected), (0, 2));
    });
}

/// An endpoint says another token to each peer, the same one each time, and others when it is opened anew.
#[test]
fn each_peer_hears_a_token_of_its_own() {
    let hear = |hub: &Station<'_>, text| {
        let mut stranger = Stranger::connect(hub);
        let token = stranger.greet_as((text, (0, 0)), hub);
        drop(stranger);
        assert!(matches!(next_end(hub), Event::PeerGone(_)));
        token
    };
    let tokens = [(); 2].map(|()| {
        station::with("hub", EndpointType::Rdm, &station::config(), |hub| {
            let [a, b] = ["a", "b"].map(|text| hear(hub, text));
            assert_eq!(hear(hub, "a"), a);
            assert!(a != b && a != 0 && b != 0);
            a
        })
    });
    assert_ne!(tokens[0], tokens[1]);
}
