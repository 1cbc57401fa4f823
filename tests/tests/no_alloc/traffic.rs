//! Two services in one thread, over one segment, and a round of everything that a service does in its turns.

use core::cell::Cell;
use core::ops::Range;

use spinwire_dataplane::error::PostError;
use spinwire_dataplane::id::{Addr, Name};
use spinwire_dataplane::msg::{Completion, Endpoint, EndpointConfig, Kind, RecvFrom, SendTo};
use spinwire_dataplane::poll::{Budget, HistogramId, Outcome, Poll};
use spinwire_dataplane::provider::shm::{ShmConfig, ShmPort};
use spinwire_dataplane::provider::{EndpointType, Status, Waiting};
use spinwire_dataplane::raw::loan::{Loan, LoanPool};
use spinwire_dataplane::raw::place::Bump;
use spinwire_dataplane::shm::Geometry;
use spinwire_dataplane::sync::{AtomicU64, Ordering};
use spinwire_dataplane::table::Timers;
use spinwire_dataplane::time::{Instant, Nanos};
use spinwire_hostshim::domain::{Domain, DomainConfig};
use spinwire_hostshim::plane::{Plane, PlaneConfig, StatsPage};

/// Message lengths of the rounds: within a cell, just beyond it, with a spill, with a long spill, and none.
const LENGTHS: [usize; 10] = [0, 1, 8, 32, 48, 49, 64, 200, 1024, 8000];
const LOAN_BYTES: usize = 8192;
const ARENA_BYTES: usize = 4 << 20;

/// What happened in the rounds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Seen {
    pings: u64,
    pongs: u64,
    unexpected: u64,
    batched: u64,
    refused: u64,
    cancelled: u64,
    timers: u64,
    wrong: u64,
}

impl Seen {
    /// Everything happened as often as it should, and nothing went wrong.
    pub(crate) fn is_complete(&self, rounds: u64) -> bool {
        let Self { pings, pongs, unexpected, batched, refused, cancelled, timers, wrong } = *self;
        let each = [pings, pongs, unexpected, cancelled, timers];
        wrong == 0 && each.iter().all(|count| *count == rounds) && refused > 0 && batched > rounds
    }
}

struct Side<'d> {
    endpoint: Endpoint<'d, ShmPort<'d, 'd>>,
    pool: &'d LoanPool<'d>,
    peer: Cell<Option<Addr>>,
    timers: Timers<'d, u64>,
    plane: Plane<'d, 'd>,
}

/// Both sides.
pub(crate) struct Traffic<'d> {
    a: Side<'d>,
    b: Side<'d>,
}

fn name(text: &str) -> Name {
    Name::new(text).expect("a good name")
}

impl<'d> Side<'d> {
    fn open(domain: &'d Domain, bump: &Bump<'d>, page: &'d StatsPage, own: &Name) -> Self {
        let every_turn = PlaneConfig { stats_every: Nanos::ZERO, ..PlaneConfig::default() };
        let naming = (own, EndpointType::Rdm);
        let port = domain.open_port(bump, naming, &ShmConfig::default()).expect("port");
        Self {
            endpoint: Endpoint::new(port, bump, &EndpointConfig::default()).expect("endpoint"),
            pool: LoanPool::place(bump, 32, LOAN_BYTES).expect("pool"),
            peer: Cell::new(None),
            timers: Timers::place(bump, 16, Nanos::new(1024)).expect("timers"),
            plane: Plane::open(own, page, bump, &every_turn).expect("plane"),
        }
    }

    const fn to(&self) -> SendTo {
        SendTo::peer(self.peer.get().expect("connected when it was opened"))
    }
}

/// Opens everything, by the same calls as a service, and lets `work` use it. Nothing stays behind in the machine.
pub(crate) fn with<R>(work: impl FnOnce(&Traffic<'_>) -> R) -> R {
    static OPENED: AtomicU64 = AtomicU64::new(0);
    let stem = format!("test-{}-{}", std::process::id(), OPENED.fetch_add(1, Ordering::Relaxed));
    let [name_a, name_b] = ["a", "b"].map(|side| name(&format!("{stem}-{side}")));
    let geometry =
        Geometry { process_count: 4, endpoint_count: 4, lane_count: 4, ..Geometry::default() };
    let config = DomainConfig { geometry, ..DomainConfig::default() };
    let domain = Domain::create(&stem, &config).expect("domain");
    domain.unlink().expect("the name goes, the memory stays");
    let [mut memory_a, mut memory_b] =
        [(); 2].map(|()| Plane::memory(ARENA_BYTES).expect("memory"));
    let pages = [&name_a, &name_b].map(|own| StatsPage::create(own).expect("stats page"));
    let [page_a, page_b] = &pages;
    let a = Side::open(&domain, &Plane::arena(&mut memory_a), page_a, &name_a);
    let b = Side::open(&domain, &Plane::arena(&mut memory_b), page_b, &name_b);
    a.peer.set(Some(a.endpoint.connect(&name_b).expect("b is there")));
    b.peer.set(Some(b.endpoint.connect(&name_a).expect("a is there")));
    work(&Traffic { a, b })
}

impl<'d> Traffic<'d> {
    pub(crate) fn check(&self, seen: &Seen, rounds: u64) {
        assert!(
            seen.is_complete(rounds),
            "{rounds} rounds: {seen:?}, {:?}",
            self.b.endpoint.totals()
        );
    }

    pub(crate) fn run(&self, rounds: Range<u64>) -> Seen {
        let mut seen = Seen::default();
        for round in rounds {
            self.ping_pong(round, &mut seen);
            self.unexpected(round, &mut seen);
            self.cancel(round, &mut seen);
            self.batch(round, &mut seen);
            self.upkeep(round, &mut seen);
            if round % 64 == 0 {
                self.overflow(&mut seen);
            }
        }
        seen
    }

    fn now(&self) -> Instant {
        self.a.plane.now()
    }

    /// Turns both sides until one of them has a completion for `side`.
    fn completion(&self, side: &Side<'d>) -> Option<Completion<'d>> {
        for _ in 0..16 {
            let now = self.now();
            let _: Outcome = self.a.endpoint.turn(now, Budget::DEFAULT)
                | self.b.endpoint.turn(now, Budget::DEFAULT);
            if let Some(completion) = side.endpoint.poll() {
                return Some(completion);
            }
        }
        None
    }

    /// A tagged message one way by copy, and its answer back out of a posted buffer.
    fn ping_pong(&self, round: u64, seen: &mut Seen) {
        let length = LENGTHS[usize::try_from(round).unwrap_or(0) % LENGTHS.len()];
        let ignore = if round.is_multiple_of(4) { u64::MAX } else { 0 };
        let Some(posted) = self.b.pool.lend() else {
            return wrong(seen);
        };
        if self
            .b
            .endpoint
            .post_recv(RecvFrom::any().tag_ignoring(round, ignore), posted, round)
            .is_err()
        {
            return wrong(seen);
        }
        let Some(mut message) = self.a.pool.lend() else {
            return wrong(seen);
        };
        fill(&mut message, length, round);
        let sent = self.a.endpoint.inject(self.a.to().tag(round).immediate(!round), &message);
        drop(message);
        let Some(mut ping) = self.completion(&self.b) else {
            return wrong(seen);
        };
        let good = sent.is_ok()
            && (ping.kind, ping.status, ping.context) == (Kind::Received, Status::Success, round)
            && (ping.tag, ping.immediate) == (Some(round), Some(!round))
            && ping.bytes().is_some_and(|bytes| is_filled(bytes, length, round));
        let Some(answer) = ping.loan.take().filter(|_| good) else {
            return wrong(seen);
        };
        seen.pings += 1;
        self.pong(round, answer, length, seen);
    }

    fn pong(&self, round: u64, answer: Loan<'d>, length: usize, seen: &mut Seen) {
        let Some(posted) = self.a.pool.lend() else {
            return wrong(seen);
        };
        if self.a.endpoint.post_recv(RecvFrom::any(), posted, round).is_err()
            || self.b.endpoint.post_send(self.b.to(), answer, round).is_err()
        {
            return wrong(seen);
        }
        let sent = self.completion(&self.b).map(|c| (c.kind, c.status));
        let good = self
            .completion(&self.a)
            .is_some_and(|pong| pong.bytes().is_some_and(|bytes| is_filled(bytes, length, round)));
        if good && sent == Some((Kind::Sent, Status::Success)) {
            seen.pongs += 1;
        } else {
            wrong(seen);
        }
    }

    /// A message that nobody asked for yet.
    fn unexpected(&self, round: u64, seen: &mut Seen) {
        let sent = self.a.endpoint.inject(self.a.to().tag(7), b"early");
        self.a.endpoint.flush();
        let waiting = self.put_aside();
        let Some(loan) = self.b.pool.lend() else {
            return wrong(seen);
        };
        let posted = self.b.endpoint.post_recv(RecvFrom::any().tag(7), loan, round);
        let received = self.completion(&self.b);
        let good = received.is_some_and(|completion| completion.bytes() == Some(b"early"));
        if sent.is_ok() && waiting.is_some_and(|w| w.length == 5) && posted.is_ok() && good {
            seen.unexpected += 1;
        } else {
            wrong(seen);
        }
    }

    /// Turns the receiver until the message, for which no receive is posted, waits.
    fn put_aside(&self) -> Option<Waiting> {
        for _ in 0..16 {
            let _: Outcome = self.b.endpoint.turn(self.now(), Budget::DEFAULT);
            if self.b.endpoint.poll().is_some() {
                return None;
            }
            if let Some(waiting) = self.b.endpoint.peek(RecvFrom::any().tag(7)) {
                return Some(waiting);
            }
        }
        None
    }

    /// A receive that is taken back; and an id that is stale from then on.
    fn cancel(&self, round: u64, seen: &mut Seen) {
        let Some(loan) = self.b.pool.lend() else {
            return wrong(seen);
        };
        let Ok(id) = self.b.endpoint.post_recv(RecvFrom::any().tag(u64::MAX - 1), loan, round)
        else {
            return wrong(seen);
        };
        let taken_back = self.b.endpoint.cancel(id).is_ok();
        let ended = self.completion(&self.b).map(|c| (c.status, c.loan.is_some()));
        let again = self.b.endpoint.cancel(id).is_err();
        if taken_back && again && ended == Some((Status::Cancelled, true)) {
            seen.cancelled += 1;
        } else {
            wrong(seen);
        }
    }

    /// Several messages by one doorbell, into one buffer.
    fn batch(&self, round: u64, seen: &mut Seen) {
        let Some(loan) = self.b.pool.lend() else {
            return wrong(seen);
        };
        let Ok(id) = self.b.endpoint.post_multi_recv(RecvFrom::any().tag(9), loan, 256, round)
        else {
            return wrong(seen);
        };
        for part in 0..4_u8 {
            if self.a.endpoint.inject(self.a.to().tag(9), &[part; 100]).is_err() {
                return wrong(seen);
            }
        }
        let mut next = 0_u8;
        while next < 4 {
            let Some(completion) = self.completion(&self.b) else {
                return wrong(seen);
            };
            // Messages that follow one another may come as one run.
            let read = self.b.endpoint.read(&completion, |bytes| {
                for message in completion.messages(bytes) {
                    let whole = message.len() == 100 && message.iter().all(|byte| *byte == next);
                    next += 1;
                    if whole {
                        seen.batched += 1;
                    } else {
                        wrong(seen);
                    }
                }
            });
            if read.is_none() {
                return wrong(seen);
            }
        }
        if self.b.endpoint.cancel(id).is_err() || self.completion(&self.b).is_none() {
            wrong(seen);
        }
    }

    /// What a service does beside its messages: timers, figures, events.
    fn upkeep(&self, round: u64, seen: &mut Seen) {
        let now = self.now();
        for side in [&self.a, &self.b] {
            side.plane.stats().record(HistogramId::RoundTrip, round);
            side.plane.publish(now);
            while side.endpoint.poll_event().is_some() {}
        }
        let set = self.a.timers.insert(now, round).is_ok();
        let later = now.saturating_add(Nanos::from_millis(1));
        let fired = self.a.timers.expire(later, 8).filter(|due| due.payload == round).count();
        if set && fired == 1 {
            seen.timers += 1;
        } else {
            wrong(seen);
        }
    }

    /// The lane is filled until it refuses, and emptied.
    fn overflow(&self, seen: &mut Seen) {
        let mut sent = 0_u32;
        loop {
            match self.a.endpoint.inject(self.a.to().tag(11), b"one more") {
                Ok(()) => sent += 1,
                Err(PostError::Retry(_)) => break,
                Err(_) => return wrong(seen),
            }
        }
        seen.refused += 1;
        for _ in 0..sent {
            let Some(loan) = self.b.pool.lend() else {
                return wrong(seen);
            };
            let posted = self.b.endpoint.post_recv(RecvFrom::any().tag(11), loan, 0);
            if posted.is_err() || self.completion(&self.b).is_none() {
                return wrong(seen);
            }
        }
    }
}

const fn wrong(seen: &mut Seen) {
    seen.wrong += 1;
}

fn fill(loan: &mut Loan<'_>, length: usize, round: u64) {
    for (at, byte) in loan.room().iter_mut().take(length).enumerate() {
        *byte = pattern(at, round);
    }
    let _fits = loan.set_len(length).is_ok();
}

fn is_filled(bytes: &[u8], length: usize, round: u64) -> bool {
    bytes.len() == length && bytes.iter().enumerate().all(|(at, byte)| *byte == pattern(at, round))
}

fn pattern(at: usize, round: u64) -> u8 {
    let [low, ..] =
        round.wrapping_mul(31).wrapping_add(u64::try_from(at).unwrap_or(0)).to_le_bytes();
    low
}
