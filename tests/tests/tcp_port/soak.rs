//! Peers that come, talk and go, over and over: nothing of them stays with who is there all the time.

use core::time::Duration;
use std::time::Instant;

use spinwire_dataplane::error::PostError;
use spinwire_dataplane::id::Addr;
use spinwire_dataplane::msg::SendTo;
use spinwire_dataplane::provider::EndpointType;
use spinwire_tests::rng::{Rng, pattern};

use crate::host_process::{again, role};
use crate::station::{self, Station, name, until};

const NAME: &str = "soak::peers_that_come_and_go_leave_nothing";

/// Peers that come one after the other (`SPINWIRE_TCP_PEERS`).
fn peers() -> usize {
    std::env::var("SPINWIRE_TCP_PEERS").ok().and_then(|n| n.parse().ok()).unwrap_or(24)
}

/// In a process of its own, as it counts the descriptors of the process.
#[test]
fn peers_that_come_and_go_leave_nothing() {
    if role().is_none() {
        let ran = again(NAME, "soak").output().unwrap();
        assert!(ran.status.success(), "{}", String::from_utf8_lossy(&ran.stderr));
        return;
    }
    station::with("hub", EndpointType::Rdm, &station::config(), |hub| {
        let mut rng = Rng::new(7);
        // The first shows what there is at rest.
        visit(hub, &mut rng, 0);
        let at_rest = load(hub);
        for number in 1..peers() {
            visit(hub, &mut rng, number);
            assert_eq!(load(hub), at_rest, "after peer {number}");
        }
    });
}

/// Turns both until something is so.
fn both(what: &str, (one, other): (&Station<'_>, &Station<'_>), mut so: impl FnMut() -> bool) {
    let began = Instant::now();
    while !so() {
        assert!(began.elapsed() < Duration::from_secs(60), "not after a minute: {what}");
        one.turn();
        other.turn();
    }
}

fn inject(from: &Station<'_>, to: Addr, bytes: &[u8]) -> bool {
    match from.endpoint.inject(SendTo::peer(to), bytes) {
        Ok(()) => true,
        Err(PostError::Retry(_)) => false,
        Err(refused) => panic!("{refused}"),
    }
}

/// A message from one to the other.
fn pass((from, to, at): (&Station<'_>, &Station<'_>, Addr), bytes: &[u8]) {
    to.recv(1);
    both("it is sent", (from, to), || inject(from, at, bytes));
    both("it has come", (from, to), || {
        to.poll().is_some_and(|got| got.loan.is_some_and(|loan| *loan == *bytes))
    });
}

/// Somebody comes, messages of all lengths go both ways, and it says goodbye.
fn visit(hub: &Station<'_>, rng: &mut Rng, number: usize) {
    let text = format!("guest-{number}");
    station::with(&text, EndpointType::Rdm, &station::config(), |guest| {
        let to_hub = guest.know("hub", hub.local());
        pass((guest, hub, to_hub), b"first");
        let to_guest = hub.endpoint.connect(&name(&text)).unwrap();
        for round in 0..6 {
            let seed = u64::try_from(number * 8 + round).unwrap();
            let bytes = pattern(seed, rng.between(1, 100_000));
            pass((guest, hub, to_hub), &bytes);
            pass((hub, guest, to_guest), &bytes);
        }
    });
    until("nothing of it is left", &[hub], || {
        while hub.event().is_some() {}
        hub.port().streams().len() == 1
    });
}

/// Descriptors of the process; buffers that the kernel has, and that are free to be sent from; streams; messages that wait.
fn load(hub: &Station<'_>) -> (usize, u32, usize, u32, u32) {
    let streams = hub.port().streams();
    (0..4).for_each(|_| hub.turn());
    // Up to an eighth of them is not given again before there is something to do.
    streams.buffers().refill();
    let mut free = Vec::new();
    while let Some(loan) = streams.lend() {
        free.push(loan);
    }
    let files = std::fs::read_dir("/proc/self/fd").unwrap().count();
    let waiting = hub.port().matcher().unexpected_len();
    (files, streams.buffers().given(), free.len(), streams.len(), waiting)
}
