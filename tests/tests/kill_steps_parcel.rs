//! A process is killed before each of its writes while buffers of a pool go to and fro as messages. Run with
//! `RUSTFLAGS="--cfg spinwire_steps"`.
//!
//! ```text
//!   mortal    sends one of its own | takes one, sends it on | drops one unread | leaves one that nobody asked for | writes one again
//!             kill -9 before store 0, 1, 2, ..                      one life each, until one comes to its end
//!   survivor  takes what comes, answers with buffers of its own; takes back; then every buffer is free, and the next life begins
//! ```
//!
//! So the receiver dies with a descriptor in its lane, in its unexpected queue, in its hands, taken and not settled; and the
//! sender with a buffer written, staged, published, taken, settled. `kill_steps` has the deaths of joins and connects.
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
use spinwire_dataplane::error::{PostError, Refused};
use spinwire_dataplane::id::{Addr, Name};
use spinwire_dataplane::msg::{Endpoint, EndpointConfig, Kind, Lender, Parcel, RecvFrom, SendTo};
use spinwire_dataplane::poll::{Budget, Poll};
use spinwire_dataplane::pool::{Guard, Mode, PoolError, PoolGeometry, Reclaimed, Shared};
use spinwire_dataplane::provider::EndpointType;
use spinwire_dataplane::provider::shm::{ShmConfig, ShmPort};
use spinwire_dataplane::raw::loan::LoanPool;
use spinwire_dataplane::raw::place::Bump;
use spinwire_dataplane::shm::{Geometry, Segment, directory, lane_table, lease};
use spinwire_dataplane::time::Instant;
use spinwire_hostshim::domain::{Domain, DomainConfig, take_back_from_the_dead};
use spinwire_hostshim::liveness::boot_id;
use spinwire_hostshim::mem::{PageKind, PagePolicy};
use spinwire_hostshim::plane::Plane;
use spinwire_hostshim::pool::{BufferPool, PoolConfig, PoolFiles, PoolHandle};
use spinwire_layouts::shm::LaneState;
use spinwire_tests::steps;

const TEST: &str = "a_kill_before_every_store_loses_no_buffer_under_way";
const SLOTS: u32 = 12;
const BYTES: usize = 256;
/// What nobody asks for before its sender is gone.
const UNASKED: u64 = 9;
/// Of the mortal, so that it says what it waits for before the survivor loses its own.
const MORTAL_PATIENCE: Duration = Duration::from_secs(20);
/// The watchers of the survivor must not be the ones that take back: their first round is their last. Those of the mortal end
/// with it, and not later.
const NEVER: Duration = Duration::from_secs(4 * 3600);
const SOON: Duration = Duration::from_millis(4);

const fn domain_config(death_noticed_within: Duration) -> DomainConfig {
    let geometry = Geometry {
        process_count: 4,
        endpoint_count: 4,
        lane_count: 8,
        lane_cell_count: 8,
        lane_spill_bytes: 1024,
    };
    DomainConfig { geometry, pages: PagePolicy::Only(PageKind::Base4K), death_noticed_within }
}

const fn pool_config(death_noticed_within: Duration) -> PoolConfig {
    let geometry = PoolGeometry::new(4).class(256, SLOTS);
    PoolConfig { geometry, pages: PagePolicy::Only(PageKind::Base4K), death_noticed_within }
}

/// One end.
struct Station<'p, 'm> {
    endpoint: Endpoint<'m, ShmPort<'m, 'm>>,
    lender: Lender<'p, 'm, PoolFiles>,
    receives: &'m LoanPool<'m>,
}

type Held<'p> = Guard<'p, Shared, PoolFiles>;

impl<'p, 'm> Station<'p, 'm> {
    fn open(domain: &'m Domain, handle: &'p PoolHandle<'m>, bump: &Bump<'m>, name: &str) -> Self {
        let naming = (&Name::new(name).unwrap(), EndpointType::Rdm);
        let port = domain.open_port(bump, naming, &ShmConfig::default()).unwrap();
        Self {
            endpoint: Endpoint::new(port, bump, &EndpointConfig::default()).unwrap(),
            lender: Lender::place(handle, bump, 6).unwrap(),
            receives: LoanPool::place(bump, 8, 64).unwrap(),
        }
    }

    /// What has come since, and from whom.
    fn turn(&self) -> Vec<(Parcel<'m>, Addr)> {
        while let Some(loan) = self.receives.lend() {
            if self.endpoint.post_recv(RecvFrom::any(), loan, 0).is_err() {
                break;
            }
        }
        let _busy = self.endpoint.turn(Instant::ORIGIN, Budget::DEFAULT).is_busy();
        let mut came = Vec::new();
        while let Some(mut completion) = self.endpoint.poll() {
            if completion.kind == Kind::Parcel {
                came.push((completion.parcel.take().unwrap(), completion.source.unwrap()));
            }
        }
        while self.endpoint.poll_event().is_some() {}
        self.lender.collect(&self.endpoint);
        came
    }

    /// Sends a buffer with `number` in every word.
    fn send(&self, to: SendTo, number: u64) -> Result<(), PoolError> {
        let mut guard = self.lender.pool().acquire(BYTES)?;
        fill(&mut guard, number);
        let sent = self.endpoint.send_loan(&self.lender, to, guard);
        self.endpoint.flush();
        // Where the peer is gone it is free again by itself.
        if let Err(Refused { error: PostError::Retry(retry), .. }) = sent {
            panic!("{retry}");
        }
        Ok(())
    }
}

fn fill(guard: &mut Guard<'_, spinwire_dataplane::pool::Exclusive, PoolFiles>, number: u64) {
    let word = number.to_le_bytes();
    for at in (0..BYTES).step_by(8) {
        guard.copy_from(at, &word).unwrap();
    }
}

/// The number in a buffer, which is the same everywhere, whoever else lives or dies.
fn number_in<M: Mode>(guard: &Guard<'_, M, PoolFiles>) -> u64 {
    let mut bytes = [0; BYTES];
    guard.copy_to(0, &mut bytes).unwrap();
    let (first, rest) = bytes.as_chunks::<8>().0.split_first().unwrap();
    assert!(rest.iter().all(|word| word == first), "somebody else writes into it");
    u64::from_le_bytes(*first)
}

fn mortal(writes: u32) {
    let mut memory = Plane::memory(4 << 20).unwrap();
    let bump = Plane::arena(&mut memory);
    let pool = BufferPool::open("steps.pool", &pool_config(SOON)).unwrap();
    let domain = Domain::join("steps", &domain_config(SOON)).unwrap();
    let handle = pool.handle(&bump).unwrap();
    let station = Station::open(&domain, &handle, &bump, "mortal");
    let to = station.endpoint.connect(&Name::new("survivor").unwrap()).unwrap();
    steps::kill_after(writes);
    live(&station, to);
    drop(station);
    drop(handle);
    drop(domain);
    drop(pool);
    say(&format!("the end, {} writes", writes - steps::left()));
}

/// Everything that a process does with buffers as messages.
fn live<'m>(station: &Station<'_, 'm>, to: Addr) {
    let began = WallClock::now();
    let next = || -> Parcel<'m> {
        loop {
            if let Some((parcel, _from)) = station.turn().pop() {
                return parcel;
            }
            assert!(began.elapsed() < MORTAL_PATIENCE, "the survivor answers");
        }
    };
    let until_settled = |left: usize| {
        while station.lender.under_way() > left {
            drop(station.turn());
            assert!(began.elapsed() < MORTAL_PATIENCE, "the survivor settles");
        }
    };
    let peer = SendTo::peer(to);
    // One there, one back, which is sent on for reading while this end reads it, too.
    station.send(peer.immediate(1), 1).unwrap();
    let answer: Held<'_> = next().take(station.lender.pool()).unwrap();
    let number = number_in(&answer);
    let again = station.lender.pool().get(answer.id()).unwrap();
    station.endpoint.send_loan(&station.lender, peer, again).unwrap();
    station.endpoint.flush();
    assert_eq!(number_in(&answer), number);
    // One that is dropped unread.
    station.send(peer.immediate(1), 2).unwrap();
    drop(next());
    // One that nobody asks for, and a batch.
    station.send(peer.tag(UNASKED), 3).unwrap();
    for number in 4..7 {
        station.send(peer, number).unwrap();
    }
    drop(answer);
    until_settled(1);
    // What comes back may be written again, when the one who sent it has let go.
    station.send(peer.immediate(1), 7).unwrap();
    let mut mine = next().take(station.lender.pool()).unwrap();
    let mut owned = loop {
        match mine.try_exclusive() {
            Ok(owned) => break owned,
            Err(kept) => mine = kept.guard,
        }
        drop(station.turn());
        assert!(began.elapsed() < MORTAL_PATIENCE, "the survivor lets go");
    };
    fill(&mut owned, 8);
    station.endpoint.send_loan(&station.lender, peer, owned).unwrap();
    until_settled(1);
    station.endpoint.disconnect(to).unwrap();
}

/// The survivor: takes what comes, looks at it, holds the last few, and answers whoever wants it.
struct Survivor<'p, 'm> {
    station: Station<'p, 'm>,
    held: Vec<Held<'p>>,
    taken: u64,
}

impl Survivor<'_, '_> {
    fn turn(&mut self) {
        for (parcel, from) in self.station.turn() {
            match parcel.take(self.station.lender.pool()) {
                Ok(guard) => {
                    self.taken += 1;
                    // Those that want an answer; the others are what an answer was about.
                    let number = number_in(&guard);
                    self.held.push(guard);
                    if [1, 2, 7].contains(&number) {
                        self.station.send(SendTo::peer(from), 100 + number).unwrap();
                    }
                }
                // Its sender was killed, and nobody else has it.
                Err(untaken) => assert_eq!(untaken.error, PoolError::Stale),
            }
        }
        if self.held.len() > 2 {
            self.held.remove(0);
        }
    }

    /// Asks for what nobody has asked for, if there is something.
    fn ask_for_the_rest(&self) {
        let unasked = RecvFrom::any().tag(UNASKED);
        if self.station.endpoint.peek(unasked).is_some()
            && let Some(loan) = self.station.receives.lend()
        {
            self.station.endpoint.post_recv(unasked, loan, 0).unwrap();
        }
    }
}

/// What is not free, apart from the survivor itself.
fn left_over(segment: &Segment<'_>, pool: &BufferPool) -> Option<String> {
    let lanes: Vec<_> = (0..segment.geometry().lane_count)
        .filter_map(|lane| Some((lane, lane_table::state_of(segment, lane)?)))
        .filter(|(_, word)| word.state != LaneState::Free)
        .collect();
    let ends = (lease::rows(segment).count(), directory::rows(segment).count());
    let pool = pool.segment();
    let handles = lease::rows(&pool).count();
    let used: Vec<_> = pool.rows().filter(|row| !row.word.is_free() || !row.is_marked).collect();
    let clean = lanes.is_empty() && ends == (1, 1) && handles == 1 && used.is_empty();
    (!clean).then(|| format!("{ends:?}, {handles} handles, lanes {lanes:?}, buffers {used:?}"))
}

#[test]
fn a_kill_before_every_store_loses_no_buffer_under_way() {
    match role().as_deref() {
        Some("survivor") => return survive(),
        Some(writes) => return mortal(writes.parse().unwrap()),
        None => {}
    }
    survivor_of(TEST);
}

fn survive() {
    // Never dropped: their watchers sleep for an hour, and this process ends before that.
    let domain = Box::leak(Box::new(Domain::create("steps", &domain_config(NEVER)).unwrap()));
    let pool = Box::leak(Box::new(BufferPool::create("steps.pool", &pool_config(NEVER)).unwrap()));
    let boot_id = boot_id().unwrap();
    let mut memory = Plane::memory(8 << 20).unwrap();
    let bump = Plane::arena(&mut memory);
    let handle = pool.handle(&bump).unwrap();
    let station = Station::open(domain, &handle, &bump, "survivor");
    let mut survivor = Survivor { station, held: Vec::new(), taken: 0 };
    let mut lives = 0..LIVES_MAX;
    let last = lives.find_map(|writes| {
        let said = a_life(TEST, &writes.to_string(), || {
            survivor.turn();
            std::thread::yield_now();
        });
        let at = format!("killed before write {writes}");
        let _how_many = take_back_from_the_dead(&domain.segment(), boot_id);
        let _what = pool.reclaim();
        assert_eq!(pool.reclaim(), Reclaimed::default(), "{at}: there was more to take back");
        let mut turns = 0;
        while let Some(what) = left_over(&domain.segment(), pool) {
            survivor.turn();
            survivor.ask_for_the_rest();
            survivor.held.clear();
            turns += 1;
            assert!(turns < 100_000, "{at}, left over: {what}");
        }
        assert_eq!(survivor.station.lender.under_way(), 0, "{at}");
        said
    });
    let last = last.unwrap();
    let count = lives.start;
    assert!(count > 50 && survivor.taken > count, "{count} lives, {} taken", survivor.taken);
    say(&format!("after {count} lives: {last}; {} buffers taken", survivor.taken));
}
