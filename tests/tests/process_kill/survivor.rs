//! The one that lives: it starts children, talks to them, kills them, and checks what it hears and sees.

use core::time::Duration;
use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::process::ExitStatusExt;
use std::process::Child;
use std::time::Instant;

use spinwire_dataplane::error::Fatal;
use spinwire_dataplane::id::Addr;
use spinwire_dataplane::provider::{EndpointType, Event};
use spinwire_hostshim::domain::Domain;
use spinwire_hostshim::plane::Plane;
use spinwire_tests::rng::Rng;

use crate::host_process::say;
use crate::traffic::{Census, DEATH, Got, PATIENCE, Station, census, config, start};

/// Children that live at once.
const SEATS: usize = 3;
/// Letters sent to a peer in one go.
const BURST: usize = 4;
/// After that time without an end in sight something hangs.
const HANGS: Duration = Duration::from_secs(30);

/// When a child is killed.
#[derive(Clone, Copy, Debug)]
enum Plan {
    /// So long after it was started: it may be starting, joining, connecting.
    After(Duration),
    /// So long after letters went both ways, on both endpoints.
    AfterLetters(Duration),
}

/// A child of this moment.
struct Seat {
    child: Child,
    stay: u64,
    born: Instant,
    plan: Plan,
    talks_since: Option<Instant>,
    killed: bool,
}

/// What is known of the peer at one address of one station.
#[derive(Debug)]
struct Session {
    stay: u64,
    next_in: u64,
    next_out: u64,
}

type At = (usize, (u32, u32));

struct Survivor<'s, 'm> {
    test: &'static str,
    /// The hub, and then one line for each seat.
    stations: Vec<Station<'s, 'm>>,
    seats: [Option<Seat>; SEATS],
    sessions: BTreeMap<At, (Addr, Session)>,
    /// Stations and the stays that they have heard of: none begins twice.
    begun: BTreeSet<(usize, u64)>,
    killed: BTreeMap<u64, Instant>,
    noticed: Vec<Duration>,
    /// Peers that connected and were gone before they had said anything.
    silent: u64,
    letters: u64,
    kills_left: u64,
    next_stay: u64,
    rng: Rng,
}

const fn at(station: usize, addr: Addr) -> At {
    (station, (addr.slot(), addr.generation().as_raw()))
}

impl Survivor<'_, '_> {
    fn hear(&mut self, station: usize, got: Got) {
        let new = || (got.from, Session { stay: got.stay, next_in: 0, next_out: 0 });
        let known = self.sessions.contains_key(&at(station, got.from));
        if !known {
            assert!(self.begun.insert((station, got.stay)), "stay {} begins anew", got.stay);
            let seat = usize::try_from(got.stay).unwrap() % SEATS;
            assert!(station == 0 || station == seat + 1, "a letter on the line of another");
        }
        let (_, session) = self.sessions.entry(at(station, got.from)).or_insert_with(new);
        assert_eq!(got.stay, session.stay, "two stays at one address");
        assert_eq!(got.number, session.next_in, "stay {}: lost, twice, or out of order", got.stay);
        session.next_in += 1;
        self.letters += 1;
    }

    fn notice(&mut self, station: usize, event: Event) {
        match event {
            Event::Connected(_) => {}
            Event::PeerGone(addr) => match self.sessions.remove(&at(station, addr)) {
                Some((_, session)) => {
                    let since = self.killed.get(&session.stay);
                    let since = since.expect("told that somebody is gone who was not killed");
                    self.noticed.push(since.elapsed());
                }
                None => self.silent += 1,
            },
            other => panic!("station {station}: {other:?}"),
        }
    }

    fn turn(&mut self) -> bool {
        let mut busy = false;
        for station in 0..self.stations.len() {
            let mut heard = Vec::new();
            busy |= self.stations[station].turn(|got| heard.push(got));
            for got in heard {
                self.hear(station, got);
            }
            while let Some(event) = self.stations[station].event() {
                self.notice(station, event);
            }
        }
        for (&(station, _), (addr, session)) in &mut self.sessions {
            for _ in 0..BURST {
                match self.stations[station].send(*addr, session.stay, session.next_out) {
                    Ok(true) => session.next_out += 1,
                    Ok(false) => break,
                    Err(Fatal::PeerGone) if self.killed.contains_key(&session.stay) => break,
                    Err(other) => panic!("stay {}: send: {other}", session.stay),
                }
            }
        }
        busy
    }

    /// The children: starts them, kills them, asks for their end.
    fn rule(&mut self, number: usize) {
        let Some(seat) = &mut self.seats[number] else {
            if self.kills_left > 0 {
                self.kills_left -= 1;
                self.seats[number] = Some(self.begin(number));
            }
            return;
        };
        if seat.killed {
            if let Some(status) = seat.child.try_wait().unwrap() {
                assert_eq!(status.signal(), Some(9), "stay {} ended by itself", seat.stay);
                self.seats[number] = None;
            }
            return;
        }
        let ended = seat.child.try_wait().unwrap();
        assert_eq!(ended, None, "stay {} ended by itself", seat.stay);
        let mine = self.sessions.values().filter(|(_, s)| s.stay == seat.stay);
        let talking = mine.filter(|(_, s)| s.next_in > 0 && s.next_out > 0).count();
        if talking == 2 && seat.talks_since.is_none() {
            seat.talks_since = Some(Instant::now());
        }
        let due = match seat.plan {
            Plan::After(time) => seat.born.elapsed() >= time,
            Plan::AfterLetters(time) => seat.talks_since.is_some_and(|t| t.elapsed() >= time),
        };
        assert!(due || seat.born.elapsed() < HANGS, "stay {} never got to talk", seat.stay);
        if due {
            self.killed.insert(seat.stay, Instant::now());
            seat.child.kill().unwrap();
            seat.killed = true;
        }
    }

    fn begin(&mut self, number: usize) -> Seat {
        // Remainder by SEATS: the seat.
        let stay = self.next_stay * u64::try_from(SEATS).unwrap() + u64::try_from(number).unwrap();
        self.next_stay += 1;
        let micros = Duration::from_micros;
        let plan = if self.rng.chance(50) {
            Plan::After(micros(self.rng.below(12_000)))
        } else {
            Plan::AfterLetters(micros(self.rng.below(4_000)))
        };
        let child = start(self.test, &format!("child {number} {stay}"));
        let born = Instant::now();
        Seat { child, stay, born, plan, talks_since: None, killed: false }
    }

    fn check_overdue(&self) {
        for (_, session) in self.sessions.values() {
            let late = self.killed.get(&session.stay).map(Instant::elapsed);
            let late = late.filter(|late| *late > DEATH * PATIENCE);
            assert_eq!(late, None, "the end of stay {} is not noticed", session.stay);
        }
    }

    fn report(&mut self, began: Instant) {
        self.noticed.sort_unstable();
        let n = self.noticed.len();
        let part = |percent: usize| {
            self.noticed.get(n.saturating_sub(1) * percent / 100).copied().unwrap_or_default()
        };
        say(&format!(
            "{} killed in {:.1?}; {} letters came; PeerGone of {n} peers after p50 {:?}, p99 {:?}, max {:?}; {} more before their first letter",
            self.killed.len(),
            began.elapsed(),
            self.letters,
            part(50),
            part(99),
            part(100),
            self.silent,
        ));
    }
}

fn kills() -> u64 {
    std::env::var("SPINWIRE_KILLS").map_or(1000, |n| n.parse().expect("SPINWIRE_KILLS: a number"))
}

pub(crate) fn run(test: &'static str) {
    let domain = Domain::create("kill", &config()).unwrap();
    let mut memory = Plane::memory(4 << 20).unwrap();
    let bump = Plane::arena(&mut memory);
    let mut stations = vec![Station::open(&domain, &bump, "hub", EndpointType::Rdm)];
    for seat in 0..SEATS {
        stations.push(Station::open(&domain, &bump, &format!("line-{seat}"), EndpointType::Msg));
    }
    let mut me = Survivor {
        test,
        stations,
        seats: [const { None }; SEATS],
        sessions: BTreeMap::new(),
        begun: BTreeSet::new(),
        killed: BTreeMap::new(),
        noticed: Vec::new(),
        silent: 0,
        letters: 0,
        kills_left: kills(),
        next_stay: 0,
        rng: Rng::new(u64::from(std::process::id())),
    };
    let began = Instant::now();
    while me.kills_left > 0 || me.seats.iter().any(Option::is_some) || !me.sessions.is_empty() {
        if !me.turn() {
            std::thread::yield_now();
        }
        (0..SEATS).for_each(|seat| me.rule(seat));
        me.check_overdue();
    }
    me.report(began);
    // Those who died before their first letter are let go of, too.
    let alone = Census { processes: 1, endpoints: SEATS + 1, lanes: Vec::new() };
    let end = Instant::now();
    while census(&domain) != alone {
        me.turn();
        assert!(end.elapsed() < DEATH * PATIENCE, "leaked: {:?}", census(&domain));
    }
    domain.unlink().unwrap();
}
