//! A process is killed before each of its writes to shared memory, from the join to the farewell. Run with
//! `RUSTFLAGS="--cfg spinwire_steps"`, which makes every atomic of the data plane a place to stop at.
//!
//! ```text
//!   mortal    join (takes back from a corpse) | open | connect | messages both ways | disconnect | close | leave
//!             kill -9 before store 0, 1, 2, ..                              one life each, until one comes to its end
//!   survivor  talks with it; takes back what it held; then all is free, and the next life begins
//! ```
//!
//! `process_kill` kills at random moments, and few of those fall between two writes of a claim. `chaos_reclaim` dies between
//! two calls only. Here each store is the last one once, in a real process, found dead by what the kernel says of it.
#![cfg(spinwire_steps)]
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::arithmetic_side_effects,
    clippy::large_stack_frames,
    reason = "a test stops at the first thing that is not as expected, and has a stack to itself"
)]

mod host_process;
mod lives;

use core::time::Duration;
use std::time::Instant as WallClock;

use host_process::{role, say};
use lives::{LIVES_MAX, a_life, survivor_of};
use spinwire_dataplane::error::PostError;
use spinwire_dataplane::id::{Addr, Name};
use spinwire_dataplane::msg::{Endpoint, RecvFrom, SendTo};
use spinwire_dataplane::poll::{Budget, Poll};
use spinwire_dataplane::provider::EndpointType;
use spinwire_dataplane::provider::shm::ShmPort;
use spinwire_dataplane::raw::loan::LoanPool;
use spinwire_dataplane::shm::lease::{self, Joiner};
use spinwire_dataplane::shm::{Geometry, Segment, directory, lane_table};
use spinwire_dataplane::time::Instant;
use spinwire_hostshim::domain::{Domain, DomainConfig, take_back_from_the_dead};
use spinwire_hostshim::liveness::boot_id;
use spinwire_hostshim::mem::{PageKind, PagePolicy};
use spinwire_hostshim::plane::Plane;
use spinwire_layouts::shm::{EndpointKind, LaneState};
use spinwire_tests::rng::pattern;
use spinwire_tests::steps;

const TEST: &str = "a_kill_before_every_store_leaves_nothing_behind";
/// Messages that a life sends; some need more than a cell, and more than the ring holds at once.
const MESSAGES: u64 = 24;
const PATIENCE: Duration = Duration::from_secs(60);

const fn config() -> DomainConfig {
    let geometry = Geometry {
        process_count: 4,
        endpoint_count: 4,
        lane_count: 8,
        lane_cell_count: 8,
        lane_spill_bytes: 1024,
    };
    // The watcher of the survivor must not be the one that takes back: its first round is its last.
    let death_noticed_within = Duration::from_secs(4 * 3600);
    DomainConfig { geometry, pages: PagePolicy::Only(PageKind::Base4K), death_noticed_within }
}

fn length(number: u64) -> usize {
    usize::try_from(number * 37 % 300).unwrap()
}

fn now() -> Instant {
    use std::sync::OnceLock;
    static BEGAN: OnceLock<WallClock> = OnceLock::new();
    let elapsed = BEGAN.get_or_init(WallClock::now).elapsed();
    Instant::from_nanos(u64::try_from(elapsed.as_nanos()).unwrap())
}

/// What one end has heard of another, and owes it.
struct Talk {
    with: Addr,
    heard: u64,
    answered: u64,
}

/// One end: its endpoint, and its talks.
struct Station<'s, 'm> {
    endpoint: Endpoint<'m, ShmPort<'s, 'm>>,
    pool: &'m LoanPool<'m>,
    talks: Vec<Talk>,
}

impl Station<'_, '_> {
    /// Takes what has come: each message once, in order, untorn.
    fn turn(&mut self) {
        while let Some(loan) = self.pool.lend() {
            if self.endpoint.post_recv(RecvFrom::any(), loan, 0).is_err() {
                break;
            }
        }
        let _busy = self.endpoint.turn(now(), Budget::DEFAULT).is_busy();
        while let Some(message) = self.endpoint.poll() {
            let (Some(from), Some(number)) = (message.source, message.immediate) else { continue };
            if !self.talks.iter().any(|talk| talk.with == from) {
                self.talks.push(Talk { with: from, heard: 0, answered: 0 });
            }
            let talk = self.talks.iter_mut().find(|talk| talk.with == from).unwrap();
            assert_eq!(number, talk.heard, "each once, in order");
            talk.heard += 1;
            assert_eq!(message.bytes().unwrap(), pattern(number, length(number)), "untorn");
        }
        while self.endpoint.poll_event().is_some() {}
    }

    /// A turn, and an answer for each message heard, as far as there is room.
    fn answer(&mut self) {
        self.turn();
        for talk in &mut self.talks {
            while talk.answered < talk.heard {
                let number = talk.answered;
                let to = SendTo::peer(talk.with).immediate(number);
                // No room yet, or gone: then it will never be.
                if self.endpoint.inject(to, &pattern(number, length(number))).is_err() {
                    break;
                }
                talk.answered += 1;
            }
        }
    }
}

fn mortal(writes: u32) {
    let mut memory = Plane::memory(4 << 20).unwrap();
    let bump = Plane::arena(&mut memory);
    let pool = LoanPool::place(&bump, 16, 512).unwrap();
    steps::kill_after(writes);
    let domain = Domain::join(
        "steps",
        &DomainConfig { death_noticed_within: Duration::from_millis(4), ..config() },
    )
    .unwrap();
    let endpoint = domain.open_endpoint(&bump, "mortal", EndpointType::Rdm).unwrap();
    let to = endpoint.connect(&Name::new("survivor").unwrap()).unwrap();
    let mut station = Station { endpoint, pool, talks: Vec::new() };
    let began = WallClock::now();
    for number in 0..MESSAGES {
        let bytes = pattern(number, length(number));
        while let Err(e) = station.endpoint.inject(SendTo::peer(to).immediate(number), &bytes) {
            assert!(matches!(e, PostError::Retry(_)), "{e}");
            station.turn();
            assert!(began.elapsed() < PATIENCE);
        }
    }
    while station.talks.iter().all(|talk| talk.heard < MESSAGES / 4) {
        station.turn();
        assert!(began.elapsed() < PATIENCE);
    }
    station.endpoint.disconnect(to).unwrap();
    drop(station);
    drop(domain);
    say(&format!("the end, {} writes", writes - steps::left()));
}

/// A process that died before, and held one end of a lane each way.
fn lay_out_a_corpse(segment: &Segment<'_>, survivor: &Station<'_, '_>) {
    // This process's number with another's start: whose it was is dead.
    let joiner =
        Joiner { pid: std::process::id(), start_time: 1, joined_unix_ns: 1, command: [0; 64] };
    let corpse = lease::join(segment, &joiner).unwrap();
    let name = Name::new("corpse").unwrap();
    let id = directory::register(segment, &corpse, &name, EndpointKind::Rdm).unwrap();
    let receiver = directory::rows(segment).find(|row| row.name.to_string() == "survivor").unwrap();
    lane_table::open(segment, id, corpse.slot(), &receiver, 0).unwrap();
    let to: Addr = survivor.endpoint.connect(&name).unwrap();
    survivor.endpoint.inject(SendTo::peer(to).immediate(0), b"too late").unwrap();
}

/// What is not free, apart from the survivor itself.
fn left_over(segment: &Segment<'_>) -> Option<String> {
    let lanes: Vec<_> = (0..segment.geometry().lane_count)
        .filter_map(|lane| Some((lane, lane_table::state_of(segment, lane)?)))
        .filter(|(_, word)| word.state != LaneState::Free)
        .collect();
    let (processes, ends) = (lease::rows(segment).count(), directory::rows(segment).count());
    let clean = lanes.is_empty() && (processes, ends) == (1, 1);
    (!clean).then(|| format!("{processes} processes, {ends} endpoints, lanes {lanes:?}"))
}

#[test]
fn a_kill_before_every_store_leaves_nothing_behind() {
    match role().as_deref() {
        Some("survivor") => return survive(),
        Some(writes) => return mortal(writes.parse().unwrap()),
        None => {}
    }
    survivor_of(TEST);
}

fn survive() {
    // Never dropped: its watcher sleeps for an hour, and this process ends before that.
    let domain = Box::leak(Box::new(Domain::create("steps", &config()).unwrap()));
    let segment = domain.segment();
    let boot_id = boot_id().unwrap();
    let mut memory = Plane::memory(4 << 20).unwrap();
    let bump = Plane::arena(&mut memory);
    let pool = LoanPool::place(&bump, 16, 512).unwrap();
    let endpoint = domain.open_endpoint(&bump, "survivor", EndpointType::Rdm).unwrap();
    let mut survivor = Station { endpoint, pool, talks: Vec::new() };
    let mut lives = 0..LIVES_MAX;
    let last = lives.find_map(|writes| {
        lay_out_a_corpse(&segment, &survivor);
        let said = a_life(TEST, &writes.to_string(), || {
            survivor.answer();
            std::thread::yield_now();
        });
        let _how_many = take_back_from_the_dead(&segment, boot_id);
        let mut turns = 0;
        while let Some(what) = left_over(&segment) {
            survivor.answer();
            turns += 1;
            assert!(turns < 100_000, "killed before write {writes}, left over: {what}");
        }
        survivor.talks.clear();
        said
    });
    let last = last.unwrap();
    let count = lives.start;
    assert!(count > 50, "{count} lives are fewer than there are steps to die at");
    say(&format!("after {count} lives: {last}"));
}
