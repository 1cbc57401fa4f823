//! What fails to open, or to be reached, is passed over, and told.

use core::time::Duration;
use std::net::TcpListener;

use spinwire_dataplane::msg::{RecvFrom, SendTo};
use spinwire_dataplane::provider::EndpointType;
use spinwire_dataplane::raw::loan::LoanPool;
use spinwire_hostshim::discover::{Hints, discover};
use spinwire_hostshim::negotiate::{Requirements, negotiate};
use spinwire_hostshim::open::{OpenConfig, with};
use spinwire_hostshim::uri::Uri;

use crate::{message, send};

/// An address that nobody has.
fn nobody() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let at = listener.local_addr().unwrap();
    format!("tcp://{at}")
}

fn uris(texts: &[&str]) -> Vec<Uri> {
    texts.iter().map(|text| text.parse().unwrap()).collect()
}

#[test]
fn the_next_address_has_its_turn_where_the_first_leads_nowhere() {
    let found = discover(&Hints::default());
    let missing = format!("shm://selection-missing-{}", std::process::id());
    let nobody = nobody();
    let listen = Requirements::default().for_peer_at(uris(&["tcp://127.0.0.1:0/quotes"]));
    with(&negotiate(&listen, &found), &OpenConfig::listen(), |server| {
        let at = server.uri.to_string();
        let wrong_name = at.replace("/quotes", "/orders");
        let plan =
            Requirements::default().for_peer_at(uris(&[&nobody, &missing, &wrong_name, &at]));
        let plan = negotiate(&plan.of_types(&[EndpointType::Rdm]), &found);
        std::thread::scope(|scope| {
            let client = scope.spawn(|| {
                let config = OpenConfig::connect().within(Duration::from_secs(10));
                with(&plan, &config, |client| {
                    let failed: Vec<String> =
                        client.failed.iter().map(ToString::to_string).collect();
                    let to = SendTo::peer(client.peer.unwrap());
                    send(&client.endpoint, to, b"here", &[&client.endpoint]);
                    (failed, client.to_string())
                })
            });
            let end = &server.endpoint;
            let buffers = LoanPool::place(server.bump(), 1, 64).unwrap();
            end.post_recv(RecvFrom::any(), buffers.lend().unwrap(), 1).unwrap();
            assert_eq!(message(end, &[end]).bytes(), Some(&b"here"[..]));
            let (failed, said) = client.join().unwrap().unwrap();
            let says = |index: usize, words: [&str; 2]| {
                assert!(words.iter().all(|word| failed[index].contains(word)), "{failed:?}");
            };
            assert_eq!(failed.len(), 3, "{failed:?}");
            says(0, ["shm rdm shm://selection-missing", "does not exist"]);
            says(1, [&nobody, "nobody answers"]);
            says(2, [&wrong_name, "another name or type"]);
            assert!(said.starts_with(&format!("tcp rdm {at} (not shm rdm")), "{said}");
        });
    })
    .unwrap();
}

#[test]
fn nothing_is_left_over_where_everything_fails_and_every_error_is_told() {
    let found = discover(&Hints::default());
    let missing = format!("shm://selection-missing-{}", std::process::id());
    let wanted = Requirements::default().for_peer_at(uris(&[&missing, &nobody()]));
    let no_path = with(&negotiate(&wanted, &found), &OpenConfig::connect(), |_| panic!("opened"))
        .unwrap_err();
    assert_eq!(no_path.failed.len(), 4, "rdm and msg, by both: {no_path}");
    let text = no_path.to_string();
    for word in ["nothing that fulfils", "shm msg shm://selection-missing", "nobody answers"] {
        assert!(text.contains(word), "{word}: {text}");
    }
    assert!(!text.contains("udp"), "no address leads there, so there is nothing to mend: {text}");
}

#[test]
fn a_program_that_listens_falls_back_too() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let uri = format!("tcp://{}", taken.local_addr().unwrap());
    let wanted = Requirements::default().for_peer_at(uris(&[&uri, "tcp://127.0.0.1:0"]));
    let plan = negotiate(&wanted, &discover(&Hints::default()));
    let (failed, at) = with(&plan, &OpenConfig::listen(), |end| {
        (end.failed.iter().map(ToString::to_string).collect::<Vec<_>>(), end.uri.to_string())
    })
    .unwrap();
    assert!(failed[0].contains("ss -anp"), "{failed:?}");
    assert!(at.starts_with("tcp://127.0.0.1:") && !at.ends_with(":0"), "{at}");
}
