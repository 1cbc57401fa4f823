//! Two survivors and a mortal, each in a thread of its own: the mortal joins, connects, sends and dies, over and over; both
//! survivors find it dead at the same time, and both take back what it held, while they go on talking to each other.
//!
//! ```text
//!   survivor a <====> survivor b        numbered messages, in order, all the time
//!         ^              ^
//!         '---- mortal --'              a new life each time; what it published is delivered, then its end is told
//! ```
//!
//! `SPINWIRE_CHAOS_LIVES` sets how often it dies.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    reason = "a test stops at the first thing that is not as expected"
)]
#![allow(clippy::large_stack_frames, reason = "a test has a whole stack to itself")]
#![allow(
    clippy::mem_forget,
    reason = "a process that was killed runs no destructor: its endpoint is forgotten"
)]

use core::mem::MaybeUninit;
use core::time::Duration;
use std::collections::BTreeMap;
use std::time::Instant as WallClock;

use spinwire_dataplane::error::{PostError, Retry};
use spinwire_dataplane::id::{Addr, Name};
use spinwire_dataplane::msg::{Endpoint, EndpointConfig, Kind, RecvFrom, SendTo};
use spinwire_dataplane::poll::{Budget, Poll};
use spinwire_dataplane::provider::shm::ShmPort;
use spinwire_dataplane::provider::{EndpointType, Event, Status};
use spinwire_dataplane::raw::line::Line;
use spinwire_dataplane::raw::loan::LoanPool;
use spinwire_dataplane::raw::place::Bump;
use spinwire_dataplane::shm::lease::{self, Joiner};
use spinwire_dataplane::shm::segment::Identity;
use spinwire_dataplane::shm::{ProcessLease, Segment, directory, lane_table, reclaim};
use spinwire_dataplane::sync::{AtomicU64, Ordering};
use spinwire_dataplane::time::Instant;
use spinwire_layouts::shm::{LaneState, Lease};
use spinwire_tests::conformance::{Sizes, name};
use spinwire_tests::rng::{Rng, pattern};

const SIZES: Sizes = Sizes {
    endpoints: 8,
    pairs: 64,
    link_depth: 16,
    message_bytes_max: 512,
    // As many as there are lanes: one who was away for long finds one from each life.
    peers_max: 80,
    send_depth: 16,
    recv_depth: 32,
    unexpected_depth: 16,
    unexpected_bytes_max: 512,
    contexts_max: 64,
    regions_max: 1,
};

/// What the threads tell each other outside of the segment.
#[derive(Default)]
struct Stage {
    /// Lease words of the mortal's lives that are over, by process slot; 0 for none.
    dead: [AtomicU64; 8],
    /// The mortal has died for the last time.
    last: AtomicU64,
    /// Survivors that have heard of each other.
    ready: AtomicU64,
    /// Survivors that have nothing left to do.
    done: AtomicU64,
}

fn join(segment: &Segment<'_>, pid: u32) -> Option<ProcessLease> {
    lease::join(segment, &Joiner { pid, start_time: 1, joined_unix_ns: 1, command: [0; 64] }).ok()
}

/// The dead are marked and what they held is taken back, by whoever comes by.
fn bury(segment: &Segment<'_>, stage: &Stage) {
    for (slot, dead) in (0_u16..).zip(&stage.dead) {
        let word = dead.load(Ordering::Acquire);
        let Some(lease) = Lease::unpack(word).filter(|_| word != 0) else { continue };
        if lease::mark_dead(segment, slot, lease) {
            let _by_me = reclaim::reclaim(segment, slot);
        }
        // Whoever comes later finds that it is somebody else's slot by now.
        let _by_other = dead.compare_exchange(word, 0, Ordering::AcqRel, Ordering::Relaxed);
    }
}

/// What a survivor has heard of one sender.
#[derive(Default)]
struct Heard {
    next: u64,
}

struct Survivor<'m> {
    endpoint: Endpoint<'m, ShmPort<'m, 'm>>,
    pool: &'m LoanPool<'m>,
    other: Addr,
    sent: u64,
    heard: BTreeMap<(u32, u32), Heard>,
    connected: u64,
    gone: u64,
}

const fn key(addr: Addr) -> (u32, u32) {
    (addr.slot(), addr.generation().as_raw())
}

impl Survivor<'_> {
    fn turn(&mut self, now: u64) {
        let payload = pattern(self.sent, usize::try_from(self.sent % 300).unwrap());
        let to = SendTo::peer(self.other).immediate(self.sent);
        match self.endpoint.inject(to, &payload) {
            Ok(()) => self.sent += 1,
            Err(PostError::Retry(_)) => {}
            Err(other) => panic!("the other survivor lives: {other}"),
        }
        while self.endpoint.posted_count() < 8 {
            self.endpoint.post_recv(RecvFrom::any(), self.pool.lend().unwrap(), 0).unwrap();
        }
        let _busy = self.endpoint.turn(Instant::from_nanos(now), Budget::DEFAULT).is_busy();
        while let Some(completion) = self.endpoint.poll() {
            assert_eq!((completion.kind, completion.status), (Kind::Received, Status::Success));
            let (source, number) = (completion.source.unwrap(), completion.immediate.unwrap());
            let heard = self.heard.entry(key(source)).or_default();
            assert_eq!(number, heard.next, "in order, each once, from {source}");
            heard.next += 1;
            let bytes = completion.bytes().unwrap();
            assert!(bytes == pattern(number, bytes.len()), "untorn");
        }
        while let Some(event) = self.endpoint.poll_event() {
            match event {
                Event::Connected(_) => self.connected += 1,
                Event::PeerGone(addr) => {
                    assert_ne!(addr, self.other, "the other survivor lives");
                    self.gone += 1;
                }
                Event::Refused(_) | Event::PeerCorrupt(_) | Event::StaleCompletion(_) => {
                    panic!("{event:?}")
                }
            }
        }
    }
}

fn survive(segment: Segment<'_>, stage: &Stage, names: [&Name; 2], until: WallClock) -> (u64, u64) {
    let mut block: Box<[MaybeUninit<u8>]> = Box::new_uninit_slice(4 << 20);
    let bump = Bump::new(&mut block);
    let lease = join(&segment, 1).unwrap();
    let who = (names[0], EndpointType::Rdm);
    let port = ShmPort::open(segment, lease, &bump, who, &SIZES.shm()).unwrap();
    let config = EndpointConfig { contexts_max: SIZES.contexts_max };
    let endpoint = Endpoint::new(port, &bump, &config).unwrap();
    let pool = LoanPool::place(&bump, 64, 512).unwrap();
    let other = loop {
        match endpoint.connect(names[1]) {
            Ok(addr) => break addr,
            Err(_not_there_yet) => std::thread::yield_now(),
        }
        assert!(WallClock::now() < until);
    };
    let heard = BTreeMap::new();
    let mut survivor = Survivor { endpoint, pool, other, sent: 0, heard, connected: 0, gone: 0 };
    let (mut now, mut calm) = (0, 0);
    while !survivor.heard.contains_key(&key(other)) {
        now += 100;
        survivor.turn(now);
        assert!(WallClock::now() < until);
    }
    stage.ready.fetch_add(1, Ordering::AcqRel);
    while calm < 200 {
        now += 100;
        survivor.turn(now);
        bury(&segment, stage);
        // Over when the mortal is, its end is told, and both have kept still for a while.
        let over = stage.last.load(Ordering::Acquire) != 0
            && stage.dead.iter().all(|dead| dead.load(Ordering::Acquire) == 0)
            && survivor.connected == survivor.gone;
        calm = if over { calm + 1 } else { 0 };
        assert!(
            WallClock::now() < until,
            "{}: {} came, {} went",
            names[0],
            survivor.connected,
            survivor.gone
        );
    }
    // The other one still needs somebody to talk to.
    stage.done.fetch_add(1, Ordering::AcqRel);
    while stage.done.load(Ordering::Acquire) < 2 {
        now += 100;
        survivor.turn(now);
        assert!(WallClock::now() < until);
    }
    // Neither closes while the other is in a turn.
    stage.done.fetch_add(1, Ordering::AcqRel);
    while stage.done.load(Ordering::Acquire) < 4 {
        std::thread::yield_now();
        assert!(WallClock::now() < until);
    }
    let heard = survivor.heard[&key(survivor.other)].next;
    (heard, survivor.gone)
}

/// One life after the other.
fn live_and_die(segment: Segment<'_>, stage: &Stage, lives: u64, until: WallClock) {
    let mut rng = Rng::new(lives);
    let me = name("mortal");
    let _last = Last(&stage.last);
    for life in 0..lives {
        let mut block: Box<[MaybeUninit<u8>]> = Box::new_uninit_slice(1 << 20);
        let bump = Bump::new(&mut block);
        let (lease, port) = loop {
            assert!(WallClock::now() < until, "no place for life {life}");
            let Some(lease) = join(&segment, 2) else {
                std::thread::yield_now();
                continue;
            };
            let who = (&me, EndpointType::Rdm);
            match ShmPort::open(segment, lease, &bump, who, &SIZES.shm()) {
                Ok(port) => break (lease, port),
                // The last life is not buried yet; this one ends before it began.
                Err(_taken) => die(&lease, stage),
            }
        };
        let config = EndpointConfig { contexts_max: SIZES.contexts_max };
        let endpoint = Endpoint::new(port, &bump, &config).unwrap();
        let peers: Vec<Addr> = [name("a"), name("b")]
            .iter()
            .filter(|_| rng.chance(80))
            .filter_map(|peer| endpoint.connect(peer).ok())
            .collect();
        let mut sent = vec![0_u64; peers.len()];
        for step in 0..rng.below(60) {
            for (to, sent) in peers.iter().zip(&mut sent) {
                let bytes = pattern(*sent, rng.index(500));
                match endpoint.inject(SendTo::peer(*to).immediate(*sent), &bytes) {
                    Ok(()) => *sent += 1,
                    Err(PostError::Retry(Retry::NoCredit | Retry::NoSpill | Retry::NoLane)) => {}
                    Err(other) => panic!("{other}"),
                }
            }
            if rng.chance(30) {
                let _busy = endpoint.turn(Instant::from_nanos(step), Budget::DEFAULT).is_busy();
            }
        }
        if rng.chance(20) {
            // In good order, for once. Its lease is left for the survivors.
            drop(endpoint);
        } else {
            core::mem::forget(endpoint);
        }
        die(&lease, stage);
    }
}

/// Says that there will be no more lives, whatever happens.
struct Last<'s>(&'s AtomicU64);

impl Drop for Last<'_> {
    fn drop(&mut self) {
        self.0.store(1, Ordering::Release);
    }
}

fn die(lease: &ProcessLease, stage: &Stage) {
    stage.dead[usize::from(lease.slot())].store(lease.word(), Ordering::Release);
}

#[test]
fn two_survivors_bury_the_same_dead() {
    let lives = std::env::var("SPINWIRE_CHAOS_LIVES")
        .map_or(400, |text| text.parse().expect("a number of lives"));
    let geometry = SIZES.geometry();
    let bytes = usize::try_from(geometry.segment_bytes().unwrap()).unwrap();
    let lines: Vec<Line> = (0..bytes / 64).map(|_| Line::zeroed()).collect();
    let identity = Identity {
        name: name("chaos"),
        boot_id: [1; 16],
        created_unix_ns: 1,
        pid: 1,
        start_time: 1,
        pid_namespace: 1,
        page_bytes: 4096,
    };
    let segment = Segment::format(&lines, geometry, &identity).unwrap();
    let stage = Stage::default();
    let until = WallClock::now() + Duration::from_secs(120 + lives / 10);
    let (a, b) = (name("a"), name("b"));
    let told = std::thread::scope(|scope| {
        let first = scope.spawn(|| survive(segment, &stage, [&a, &b], until));
        let second = scope.spawn(|| survive(segment, &stage, [&b, &a], until));
        while stage.ready.load(Ordering::Acquire) < 2 {
            std::thread::yield_now();
            assert!(WallClock::now() < until);
        }
        live_and_die(segment, &stage, lives, until);
        [first, second].map(|survivor| survivor.join().unwrap())
    });
    for (heard, gone) in told {
        assert!(heard > 0, "the survivors talked: {told:?}");
        assert!(gone > lives / 8, "the mortal was met: {told:?}");
    }
    // The survivors have closed; their leases are all that is left.
    for row in lease::rows(&segment) {
        assert_eq!(row.lease.subject, 1, "{row:?}");
        assert!(lease::mark_dead(&segment, row.slot, row.lease));
        assert!(reclaim::reclaim(&segment, row.slot));
    }
    assert_eq!(directory::rows(&segment).count(), 0);
    for lane in 0..geometry.lane_count {
        let word = lane_table::state_of(&segment, lane).unwrap();
        assert_eq!(word.state, LaneState::Free, "lane {lane}: {word:?}");
    }
}
