//! A domain whose header is scribbled over after the join: nothing in it is read again, so nothing changes. And one whose
//! tables are full, each in its turn.
#![allow(
    clippy::unwrap_used,
    clippy::arithmetic_side_effects,
    clippy::large_stack_frames,
    reason = "a test stops at the first thing that is not as expected, and has a stack to itself"
)]

use core::time::Duration;
use std::process::{Command, Stdio};
use std::time::Instant;

use spinwire_dataplane::error::{PostError, Retry};
use spinwire_dataplane::id::Name;
use spinwire_dataplane::msg::SendTo;
use spinwire_dataplane::poll::{Budget, Poll};
use spinwire_dataplane::provider::EndpointType;
use spinwire_dataplane::provider::shm::ShmOpenError;
use spinwire_dataplane::raw::place::Bump;
use spinwire_dataplane::shm::lease::{self, Joiner};
use spinwire_dataplane::shm::{Geometry, RegisterError};
use spinwire_dataplane::sync::Ordering;
use spinwire_dataplane::time::Instant as Now;
use spinwire_hostshim::domain::{Domain, DomainConfig, DomainError, EndpointError};
use spinwire_hostshim::liveness::Identity;
use spinwire_hostshim::mem::{PageKind, PagePolicy};
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

/// A domain of two process slots, three endpoints and one lane, and what each says when it is full.
#[test]
fn every_table_of_a_segment_says_that_it_is_full_and_works_again() {
    let name = format!("host-full-{}", std::process::id());
    let geometry = Geometry {
        process_count: 2,
        endpoint_count: 3,
        lane_count: 1,
        lane_cell_count: 8,
        lane_spill_bytes: 1024,
    };
    let pages = PagePolicy::Only(PageKind::Base4K);
    let config = DomainConfig { geometry, pages, death_noticed_within: DEATH };
    let domain = Domain::create(&name, &config).unwrap();

    let second = Domain::join(&name, &config).unwrap();
    let e = Domain::join(&name, &config).unwrap_err();
    assert_eq!(e, DomainError::Full { process_count: 2 });
    assert!(e.to_string().contains("make the segment with more"), "{e}");
    drop(second);
    drop(Domain::join(&name, &config).unwrap());

    let mut memory = Plane::memory(16 << 20).unwrap();
    let bump = Plane::arena(&mut memory);
    let open = |name: &str| domain.open_endpoint(&bump, name, EndpointType::Rdm);
    let (a, b, c) = (open("a").unwrap(), open("b").unwrap(), open("c").unwrap());
    let e = open("d").unwrap_err();
    let full = ShmOpenError::Register(RegisterError::DirectoryFull);
    assert_eq!(e, EndpointError::Open(full));
    assert!(e.to_string().contains("make the segment with a higher one"), "{e}");

    let [to_b, to_c] = ["b", "c"].map(|name| a.connect(&Name::new(name).unwrap()).unwrap());
    let mut now = 0;
    let mut turn = || {
        for endpoint in [&a, &c] {
            now += 1000;
            let _busy = endpoint.turn(Now::from_nanos(now), Budget::DEFAULT).is_busy();
            while endpoint.poll().is_some() || endpoint.poll_event().is_some() {}
        }
    };
    a.inject(SendTo::peer(to_b), b"m").unwrap();
    let refused = a.inject(SendTo::peer(to_c), b"m").unwrap_err();
    assert_eq!(refused, PostError::Retry(Retry::NoLane));
    // The lane comes back with the end of its receiver, and so does the directory entry.
    drop(b);
    let mut turns = 0;
    while a.inject(SendTo::peer(to_c), b"m").is_err() {
        turn();
        turns += 1;
        assert!(turns < 10_000, "the lane does not come back");
    }
    drop(open("d").unwrap());

    let mut small = [core::mem::MaybeUninit::uninit(); 1024];
    let e = domain.open_endpoint(&Bump::new(&mut small), "e", EndpointType::Rdm).unwrap_err();
    assert!(matches!(e, EndpointError::Open(ShmOpenError::Arena(_))), "{e}");
    assert!(e.to_string().contains("open it with more"), "{e}");
    domain.unlink().unwrap();
}
