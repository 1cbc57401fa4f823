//! Processes that hand each other buffers of a pool and are killed at random moments: no buffer is lost, none has two owners.
//!
//! ```text
//!   test ---> survivor ---> child, one after the other      survivor, child: send, take, check, hold, send back, drop
//! ```
//!
//! A buffer is filled with one number by whoever writes it, so a reader that shares it with a writer sees two. After each kill the
//! survivor waits until it has heard of it, drops what it holds, and counts: every buffer is free.
//!
//! `SPINWIRE_KILLS=N` sets how many children are killed; 150 where it is not set.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::arithmetic_side_effects,
    clippy::large_stack_frames,
    clippy::wildcard_enum_match_arm,
    reason = "a test stops at the first thing that is not as expected"
)]
#![allow(clippy::print_stdout, reason = "what was handed over is for those who run it")]

mod host_process;

use core::time::Duration;
use std::time::Instant;

use host_process::{Folder, again, lines, role, say};
use spinwire_dataplane::error::{Misuse, PostError, Refused};
use spinwire_dataplane::id::{Addr, Name};
use spinwire_dataplane::msg::{Endpoint, EndpointConfig, Kind, Lender, Parcel, RecvFrom, SendTo};
use spinwire_dataplane::poll::{Budget, Poll};
use spinwire_dataplane::pool::{Guard, PoolError, PoolGeometry, Shared};
use spinwire_dataplane::provider::shm::{ShmConfig, ShmPort};
use spinwire_dataplane::provider::{EndpointType, Event};
use spinwire_dataplane::raw::loan::LoanPool;
use spinwire_dataplane::time::Instant as PlaneInstant;
use spinwire_hostshim::domain::{Domain, DomainConfig};
use spinwire_hostshim::plane::Plane;
use spinwire_hostshim::pool::{BufferPool, PoolConfig, PoolFiles};
use spinwire_tests::rng::Rng;

const NAME: &str = "the_killed_lose_no_buffer";
const PATIENCE: Duration = Duration::from_secs(60);
const BUFFERS: u32 = 24;
const BYTES: usize = 1024;

fn domain_config() -> DomainConfig {
    DomainConfig { death_noticed_within: Duration::from_millis(10), ..DomainConfig::default() }
}

fn pool_config() -> PoolConfig {
    let bytes = u64::try_from(BYTES).unwrap();
    PoolConfig {
        geometry: PoolGeometry::new(6).class(bytes, BUFFERS),
        death_noticed_within: Duration::from_millis(10),
        ..PoolConfig::default()
    }
}

#[test]
fn the_killed_lose_no_buffer() {
    match role().as_deref() {
        None => {
            let folder = Folder::new();
            let mut process =
                again(NAME, "survivor").env("SPINWIRE_SHM_DIR", folder.path()).spawn().unwrap();
            for line in lines(&mut process) {
                println!("{line}");
            }
            assert!(process.wait().unwrap().success(), "see above");
            assert_eq!(folder.names(), Vec::<String>::new(), "left behind");
        }
        Some("survivor") => survive(),
        Some(seat) => live(seat.parse().unwrap()),
    }
}

/// One end, in either process.
struct End<'p, 'm> {
    endpoint: Endpoint<'m, ShmPort<'m, 'm>>,
    lender: Lender<'p, 'm, PoolFiles>,
    loans: &'m LoanPool<'m>,
    rng: Rng,
    number: u64,
    parcels: Vec<Parcel<'m>>,
    guards: Vec<Guard<'p, Shared, PoolFiles>>,
    taken: u64,
}

impl End<'_, '_> {
    /// One turn: something is sent, taken, held, sent on, dropped. Returns whether the peer is gone.
    fn turn(&mut self, peer: Option<Addr>) -> Option<Addr> {
        while let Some(loan) = self.loans.lend() {
            self.endpoint.post_recv(RecvFrom::any(), loan, 0).unwrap();
        }
        let _busy = self.endpoint.turn(PlaneInstant::ORIGIN, Budget::DEFAULT).is_busy();
        while let Some(mut completion) = self.endpoint.poll() {
            if completion.kind == Kind::Parcel {
                self.parcels.extend(completion.parcel.take());
            }
        }
        self.use_what_has_come();
        if let Some(peer) = peer
            && self.rng.chance(70)
        {
            self.send(peer);
        }
        if self.guards.len() > 5 {
            let at = self.rng.index(self.guards.len());
            self.guards.swap_remove(at);
        }
        self.lender.collect(&self.endpoint);
        match self.endpoint.poll_event() {
            Some(Event::PeerGone(addr)) => Some(addr),
            Some(Event::PeerCorrupt(_) | Event::Refused(_)) => panic!("nobody does that"),
            _ => None,
        }
    }

    fn use_what_has_come(&mut self) {
        while self.parcels.len() > self.rng.index(4) {
            let at = self.rng.index(self.parcels.len());
            let parcel = self.parcels.swap_remove(at);
            if self.rng.chance(20) {
                continue;
            }
            match parcel.take(self.lender.pool()) {
                Ok(guard) => {
                    let mut bytes = [0; BYTES];
                    guard.copy_to(0, &mut bytes).unwrap();
                    let (first, words) = bytes.as_chunks::<8>().0.split_first().unwrap();
                    assert!(words.iter().all(|word| word == first), "somebody writes into it");
                    self.guards.push(guard);
                    self.taken += 1;
                }
                // Its sender was killed meanwhile; what it left may have a new writer, whose use it is.
                Err(untaken) => assert_eq!(untaken.error, PoolError::Stale),
            }
        }
    }

    fn send(&mut self, peer: Addr) {
        let sent = if self.rng.chance(30) && !self.guards.is_empty() {
            let guard = self.guards.swap_remove(0);
            self.endpoint.send_loan(&self.lender, SendTo::peer(peer), guard).map_err(error_of)
        } else {
            let Ok(mut guard) = self.lender.pool().acquire(BYTES) else { return };
            self.number += 1;
            let word = self.number.to_le_bytes();
            for at in 0..BYTES / 8 {
                guard.copy_from(at * 8, &word).unwrap();
            }
            self.endpoint.send_loan(&self.lender, SendTo::peer(peer), guard).map_err(error_of)
        };
        match sent {
            Ok(()) | Err(PostError::Retry(_) | PostError::Fatal(_)) => {}
            Err(PostError::Misuse(misuse)) => assert_eq!(misuse, Misuse::StaleAddress),
        }
    }
}

fn error_of<T>(refused: Refused<T>) -> PostError {
    refused.error
}

fn with_end<R>(
    name: &str,
    seed: u64,
    run: impl FnOnce(End<'_, '_>, &Domain, &BufferPool) -> R,
) -> R {
    let domain = Domain::create_or_join("parcels", &domain_config()).unwrap();
    let pool = BufferPool::open_or_create("parcels.pool", &pool_config()).unwrap();
    let mut memory = Plane::memory(8 << 20).unwrap();
    let bump = Plane::arena(&mut memory);
    let handle = pool.handle(&bump).unwrap();
    let port = domain
        .open_port(&bump, (&Name::new(name).unwrap(), EndpointType::Rdm), &ShmConfig::default())
        .unwrap();
    let end = End {
        endpoint: Endpoint::new(port, &bump, &EndpointConfig::default()).unwrap(),
        lender: Lender::place(&handle, &bump, 8).unwrap(),
        loans: LoanPool::place(&bump, 16, 64).unwrap(),
        rng: Rng::new(seed),
        number: seed << 32,
        parcels: Vec::new(),
        guards: Vec::new(),
        taken: 0,
    };
    run(end, &domain, &pool)
}

/// A child: sends for as long as it lives.
fn live(seat: u64) {
    with_end(&format!("child-{seat}"), seat + 1, |mut end, _, _| {
        let hub = end.endpoint.connect(&Name::new("hub").unwrap()).unwrap();
        say("up");
        loop {
            assert_eq!(end.turn(Some(hub)), None, "the survivor survives");
        }
    });
}

fn survive() {
    let kills = std::env::var("SPINWIRE_KILLS").map_or(150, |kills| kills.parse().unwrap());
    with_end("hub", 0, |mut end, domain, pool| {
        for seat in 0..kills {
            let mut child = again(NAME, &seat.to_string()).spawn().unwrap();
            let mut said = lines(&mut child);
            assert_eq!(said.next().as_deref(), Some("up"));
            let peer = end.endpoint.connect(&Name::new(&format!("child-{seat}")).unwrap()).unwrap();
            let until = Instant::now() + Duration::from_micros(end.rng.below(4000));
            while Instant::now() < until {
                assert_eq!(end.turn(Some(peer)), None, "nobody was killed yet");
            }
            child.kill().unwrap();
            child.wait().unwrap();
            count_after_death(&mut end, pool, peer);
        }
        say(&format!("{} buffers taken by the survivor of {kills} kills", end.taken));
        assert!(end.taken > kills, "they did exchange something");
        drop(end);
        pool.unlink().unwrap();
        domain.unlink().unwrap();
    });
}

fn count_after_death(end: &mut End<'_, '_>, pool: &BufferPool, peer: Addr) {
    let began = Instant::now();
    let mut gone = false;
    loop {
        gone |= end.turn(None) == Some(peer);
        let in_use: u32 = pool.stats().iter().map(|class| class.slots - class.free).sum();
        if gone {
            end.guards.clear();
            end.parcels.clear();
        }
        if gone && in_use == 0 {
            assert_eq!(end.lender.under_way(), 0);
            let again = pool.reclaim();
            assert_eq!((again.held, again.freed, again.found), (0, 0, 0), "nothing more to find");
            return;
        }
        assert!(began.elapsed() < PATIENCE, "gone: {gone}, in use: {in_use}: {:?}", pool.stats());
        std::thread::yield_now();
    }
}
