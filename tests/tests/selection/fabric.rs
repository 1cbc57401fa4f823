//! Ends over providers of libfabric, found at URIs; what is refused at the door, and who is gone.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::Command;

use spinwire_dataplane::msg::{RecvFrom, SendTo};
use spinwire_dataplane::provider::{EndpointType, Event};
use spinwire_dataplane::raw::loan::LoanPool;
use spinwire_hostshim::discover::{Hints, Sizes, Transport, discover};
use spinwire_hostshim::negotiate::{Requirements, negotiate};
use spinwire_hostshim::open::{OpenConfig, Opened, with};

use crate::{message, send};

fn opened<R>(
    uri: &str,
    config: &OpenConfig,
    body: impl FnOnce(Opened<'_>) -> R,
) -> Result<R, String> {
    let wanted =
        Requirements::default().of_types(&[EndpointType::Rdm]).for_peer_at(&[uri.parse().unwrap()]);
    let plan = negotiate(&wanted, &discover(&Hints::only(&[Transport::Ofi])));
    with(&plan, config, body).map_err(|e| e.to_string())
}

/// What a service answers at its door.
fn said_at(at: &str, hello: &str, turn: impl FnMut()) -> String {
    let mut stream = TcpStream::connect(at).unwrap();
    stream.write_all(hello.as_bytes()).unwrap();
    stream.set_nonblocking(true).unwrap();
    let (mut turn, mut text, since) = (turn, Vec::new(), std::time::Instant::now());
    loop {
        turn();
        let mut bytes = [0; 64];
        match stream.read(&mut bytes) {
            Ok(0) => break,
            Ok(length) => text.extend_from_slice(&bytes[..length]),
            Err(e) if e.kind() == std::io::ErrorKind::WouldBlock => {}
            Err(_reset) => break,
        }
        if text.ends_with(b"\n") {
            break;
        }
        assert!(since.elapsed() < crate::STUCK, "{hello:?}");
    }
    String::from_utf8(text).unwrap()
}

#[test]
fn an_end_at_a_uri_answers_refuses_and_sees_who_is_gone() {
    for provider in ["tcp", "shm"] {
        let listen = format!("ofi://{provider}/127.0.0.1:0/echo");
        opened(&listen, &OpenConfig::listen(), |server| {
            let (at, end) = (server.uri.to_string(), &server.endpoint);
            let buffers = LoanPool::place(server.bump(), 1, 64).unwrap();
            end.post_recv(RecvFrom::any(), buffers.lend().unwrap(), 1).unwrap();
            let address = server.uri.address().unwrap().resolve().unwrap()[0].to_string();
            let turn = || {
                use spinwire_dataplane::poll::{Budget, Poll as _};
                let _busy = end.turn(server.now(), Budget::DEFAULT).is_busy();
            };
            for hello in [
                "nonsense\n",
                "msg echo spinwire-ofi-1 me 2:00\n",
                "rdm quotes spinwire-ofi-1 me 2:00\n",
                "rdm echo spinwire-ofi-9 me 2:00\n",
                "rdm echo spinwire-ofi-1 me 99:00\n",
            ] {
                assert_eq!(said_at(&address, hello, turn), "", "{hello:?}");
            }
            assert_eq!(end.poll_event(), None, "nobody was let in");
            std::thread::scope(|scope| {
                let client = scope.spawn(|| {
                    let other = at.replace("/echo", "/quotes");
                    let refused = opened(&other, &OpenConfig::connect(), |_| ()).unwrap_err();
                    assert!(refused.contains("another name or type"), "{refused}");
                    opened(&at, &OpenConfig::connect(), |client| {
                        let buffers = LoanPool::place(client.bump(), 1, 64).unwrap();
                        let here = &client.endpoint;
                        here.post_recv(RecvFrom::any(), buffers.lend().unwrap(), 1).unwrap();
                        send(here, SendTo::peer(client.peer.unwrap()), b"ask", &[here]);
                        message(here, &[here]).bytes().unwrap().to_vec()
                    })
                });
                let asked = message(end, &[end]);
                assert_eq!(asked.bytes(), Some(&b"ask"[..]), "{provider}");
                let peer = asked.source.unwrap();
                send(end, SendTo::peer(peer), b"answer", &[end]);
                let gone = crate::until("its end is told", &[end], || end.poll_event());
                assert_eq!(gone, Event::PeerGone(peer), "{provider}");
                assert_eq!(client.join().unwrap(), Ok(b"answer".to_vec()), "{provider}");
            });
        })
        .unwrap();
    }
}

/// What is said of it without asking it is what it says where it is asked by name.
#[test]
fn what_is_known_beforehand_is_what_the_library_says() {
    // More than any provider has.
    let most = Sizes {
        message_bytes: Some(5 << 20),
        peers: Some(3),
        send_depth: Some(4096),
        recv_depth: Some(4096),
    };
    for sizes in [Sizes::default(), most] {
        let told = |hints: &Hints| -> Vec<String> {
            let mut all = discover(hints);
            all.retain(|found| found.transport == Transport::Ofi);
            all.iter().map(|found| format!("{found:?}")).collect()
        };
        let everything = Hints { transports: Vec::new(), ..Hints::default() }.with_sizes(sizes);
        let by_name = Hints::only(&[Transport::Ofi]).with_sizes(sizes);
        assert_eq!(told(&everything), told(&by_name));
        assert!(told(&by_name).len() >= 8);
    }
}

/// Says to a child that it is one, and what is in its environment beside that.
const CHILD: &str = "SPINWIRE_OFI_SHARED_RECEIVES";
const REMEDY: &str = "set FI_OFI_RXM_USE_SRX=1 in the environment";

/// What is found and not offered is listed with the remedy, and offered where that was taken. The library reads its environment once: a process for each.
#[test]
fn what_crashes_is_listed_with_its_remedy_and_offered_where_that_was_taken() {
    for (value, asked) in [(None, false), (None, true), (Some("0"), true), (Some("1"), true)] {
        let mut child = Command::new(std::env::current_exe().unwrap());
        child.args(["--exact", "fabric::lists_what_crashes", "--nocapture"]);
        child.env_remove("FI_OFI_RXM_USE_SRX").env(CHILD, if asked { "asked" } else { "known" });
        value.into_iter().for_each(|value| {
            child.env("FI_OFI_RXM_USE_SRX", value);
        });
        let ran = child.output().unwrap();
        let out = String::from_utf8_lossy(&ran.stdout);
        assert!(ran.status.success(), "{value:?}: {out}{}", String::from_utf8_lossy(&ran.stderr));
        let offered = value == Some("1");
        assert!(out.contains(&format!("net;ofi_rxm is offered: {offered}")), "{value:?}: {out}");
    }
}

/// The child. Does nothing where it is run as a test.
#[test]
fn lists_what_crashes() {
    let Ok(how) = std::env::var(CHILD) else { return };
    let asked: &[Transport] = if how == "asked" { &[Transport::Ofi] } else { &[] };
    let all = discover(&Hints { transports: asked.to_vec(), ..Hints::default() });
    let layered = all.iter().filter(|found| found.device.as_deref() == Some("net;ofi_rxm"));
    let [found] = layered.collect::<Vec<_>>()[..] else { panic!("not listed once: {all:?}") };
    if let Err(absence) = &found.offer {
        assert!(absence.why.contains("crashes when it is closed"), "{absence}");
        assert_eq!(absence.remedy.as_deref(), Some(REMEDY));
    }
    println!("net;ofi_rxm is offered: {}", found.offer.is_ok());
}
