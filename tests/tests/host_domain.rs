//! A domain whose header is scribbled over after the join: nothing in it is read again, so nothing changes.
#![allow(
    clippy::unwrap_used,
    clippy::large_stack_frames,
    reason = "a test stops at the first thing that is not as expected, and has a stack to itself"
)]

use core::time::Duration;
use std::process::{Command, Stdio};
use std::time::Instant;

use spinwire_dataplane::provider::EndpointType;
use spinwire_dataplane::shm::lease::{self, Joiner};
use spinwire_dataplane::sync::Ordering;
use spinwire_hostshim::domain::{Domain, DomainConfig};
use spinwire_hostshim::liveness::Identity;
use spinwire_hostshim::plane::Plane;

/// Words of the header before the epoch.
const HEADER_WORDS: usize = 24;
const DEATH: Duration = Duration::from_millis(50);
/// Machines are shared; what matters is that it happens at all.
const PATIENCE: u32 = 200;

#[test]
fn a_scribbled_header_neither_panics_nor_blinds_the_watcher_nor_leaks_a_slot() {
    let name = format!("host-domain-{}", std::process::id());
    let config = DomainConfig { death_noticed_within: DEATH, ..DomainConfig::default() };
    let domain = Domain::create(&name, &config).unwrap();
    let other = Domain::join(&name, &config).unwrap();
    for line in domain.mapping().lines().iter().take(HEADER_WORDS / 8) {
        for word in line.words() {
            word.store(0x5C5C_5C5C_5C5C_5C5C, Ordering::Relaxed);
        }
    }
    assert!(Domain::join(&name, &config).is_err(), "newcomers see that it is damaged");

    // Set-up goes on by what was checked at the join.
    let mut memory = Plane::memory(4 << 20).unwrap();
    let bump = Plane::arena(&mut memory);
    let endpoint = domain.open_endpoint(&bump, "still-here", EndpointType::Rdm).unwrap();
    drop(endpoint);

    // A death is still noticed, and what the dead held taken back.
    let mut child = Command::new("sleep").arg("600").stdin(Stdio::null()).spawn().unwrap();
    let identity = Identity::of(child.id()).unwrap();
    let joiner = Joiner {
        pid: identity.pid,
        start_time: identity.start_time,
        joined_unix_ns: 0,
        command: [0; 64],
    };
    let lease = lease::join(&domain.segment(), &joiner).unwrap();
    child.kill().unwrap();
    child.wait().unwrap();
    let killed = Instant::now();
    while lease::rows(&domain.segment()).any(|row| row.slot == lease.slot()) {
        assert!(killed.elapsed() < DEATH * PATIENCE, "the watcher has gone blind");
        std::thread::sleep(Duration::from_millis(1));
    }

    // Who leaves gives the slot back.
    assert_eq!(lease::rows(&domain.segment()).count(), 2);
    drop(other);
    assert_eq!(lease::rows(&domain.segment()).count(), 1);
    domain.unlink().unwrap();
}
