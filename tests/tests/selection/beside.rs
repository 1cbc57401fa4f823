//! An endpoint in use reaches another peer: what completes meanwhile is the program's, and what came of others says nothing of this one.

use core::time::Duration;
use std::io::{Read as _, Write as _};
use std::net::TcpListener;
use std::sync::mpsc;

use spinwire_dataplane::id::Addr;
use spinwire_dataplane::msg::{Completion, Kind, RecvFrom, SendTo};
use spinwire_dataplane::poll::{Budget, Poll};
use spinwire_dataplane::provider::EndpointType;
use spinwire_dataplane::raw::loan::LoanPool;
use spinwire_dataplane::sync::{AtomicU64, Ordering};
use spinwire_hostshim::clock::TscClock;
use spinwire_hostshim::open::{Host, OpenConfig, OpenError};
use spinwire_hostshim::uri::Uri;

use crate::{STUCK, message, send};

/// Answers whatever comes with as many messages as its first byte says.
fn answer(name: &str, uris: &mpsc::Sender<Uri>, is_over: &AtomicU64) {
    let uri = format!("tcp://127.0.0.1:0/{name}").parse().unwrap();
    let mut host = Host::open(&uri, EndpointType::Rdm, &OpenConfig::listen()).unwrap();
    uris.send(host.uri()).unwrap();
    let seat = host.seat().unwrap();
    let end = seat.endpoint().unwrap();
    let clock = TscClock::calibrate();
    let buffers = LoanPool::place(seat.bump(), 1, 64).unwrap();
    end.post_recv(RecvFrom::any(), buffers.lend().unwrap(), 0).unwrap();
    while is_over.load(Ordering::Relaxed) == 0 {
        if !end.turn(clock.now(), Budget::DEFAULT).is_busy() {
            std::thread::yield_now();
        }
        let Some(asked) = end.poll().filter(|it| it.kind == Kind::Received) else { continue };
        for _ in 0..asked.bytes().unwrap()[0] {
            send(&end, SendTo::peer(asked.source.unwrap()), b"answer", &[&end]);
        }
        end.post_recv(RecvFrom::any(), asked.loan.unwrap(), 0).unwrap();
    }
}

/// Where somebody listens who says nothing sensible to one guest, and is gone then.
fn stranger() -> Uri {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let uri = format!("tcp://{}/stranger", listener.local_addr().unwrap()).parse().unwrap();
    std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        drop(listener);
        stream.write_all(&[0xEE; 256]).unwrap();
        let _all = stream.read_to_end(&mut Vec::new());
    });
    uri
}

#[test]
fn another_peer_is_reached_while_the_first_sends() {
    let (uris, of_servers) = mpsc::channel();
    let is_over = AtomicU64::new(0);
    std::thread::scope(|scope| {
        let [first, second] = ["first", "second"].map(|name| {
            let (uris, is_over) = (uris.clone(), &is_over);
            scope.spawn(move || answer(name, &uris, is_over));
            of_servers.recv_timeout(STUCK).unwrap()
        });
        let clock = TscClock::calibrate();
        let config = OpenConfig::connect().within(Duration::from_secs(5));
        let mut host = Host::open(&first, EndpointType::Rdm, &config).unwrap();
        let seat = host.seat().unwrap();
        let end = seat.endpoint().unwrap();
        let buffers = LoanPool::place(seat.bump(), 200, 64).unwrap();
        let one = seat.connect(&end, &first, &clock).unwrap();
        for _ in 0..199 {
            end.post_recv(RecvFrom::any(), buffers.lend().unwrap(), 1).unwrap();
        }
        send(&end, SendTo::peer(one), &[150], &[&end]);
        // Where nobody takes what was harvested every turn is a busy one.
        let mut busy = 0;
        while busy < 1000 {
            let is_busy = end.turn(clock.now(), Budget::DEFAULT).is_busy();
            busy = if is_busy { busy + 1 } else { 0 };
        }
        let mut sources: Vec<Option<Addr>> = Vec::new();
        let mut others = |completion: Completion<'_>| {
            assert_eq!(completion.bytes(), Some(&b"answer"[..]));
            sources.push(completion.source);
        };
        let nonsense = stranger();
        let strange = seat.connect_beside(&end, &nonsense, &clock, &mut others);
        assert!(matches!(strange, Err(OpenError::Nonsense { .. })), "{strange:?}");
        let nobody = seat.connect_beside(&end, &nonsense, &clock, &mut others);
        assert!(
            matches!(nobody, Err(OpenError::Nobody { .. })),
            "what the stranger said is not said of who is not there: {nobody:?}"
        );
        let two = seat.connect_beside(&end, &second, &clock, &mut others).unwrap();
        while sources.len() < 150 {
            sources.push(message(&end, &[&end]).source);
        }
        assert!(sources.iter().all(|source| *source == Some(one)));
        send(&end, SendTo::peer(two), &[1], &[&end]);
        assert_eq!(message(&end, &[&end]).source, Some(two));
        is_over.store(1, Ordering::Relaxed);
    });
}
