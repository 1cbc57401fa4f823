//! Planes that sleep until something is published to them: by real processes, that are killed and stopped, and by scribblers.
//!
//! Every sleep here could last a minute. A wake-up that is lost shows as a park that nobody rang, without a look at a clock.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    clippy::large_stack_frames,
    clippy::large_stack_arrays,
    reason = "a test stops at the first thing that is not as expected, and has a stack to itself"
)]

mod host_process;

use core::time::Duration;
use std::process::Child;
use std::sync::mpsc;

use host_process::{again, lines, role, say, signal};
use spinwire_dataplane::error::{Misuse, PostError};
use spinwire_dataplane::id::{Addr, Name};
use spinwire_dataplane::msg::{Endpoint, EndpointConfig, RecvFrom, SendTo};
use spinwire_dataplane::poll::{Budget, IdleLadder, Outcome, Poll, Rester, Thresholds, WakeSource};
use spinwire_dataplane::provider::shm::{ShmConfig, ShmPort};
use spinwire_dataplane::provider::{EndpointType, Event};
use spinwire_dataplane::raw::loan::LoanPool;
use spinwire_dataplane::raw::pause::CpuWait;
use spinwire_dataplane::raw::place::Bump;
use spinwire_dataplane::shm::lease::{self, Joiner};
use spinwire_dataplane::shm::{Geometry, Segment, bell, directory};
use spinwire_dataplane::sync::{AtomicU64, Ordering};
use spinwire_dataplane::time::{Instant, Nanos};
use spinwire_hostshim::clock::TscClock;
use spinwire_hostshim::domain::{Domain, DomainConfig};
use spinwire_hostshim::idle::{HostRester, Parks};
use spinwire_hostshim::liveness::Identity;
use spinwire_hostshim::mem::{PageKind, PagePolicy};
use spinwire_hostshim::plane::Plane;
use spinwire_layouts::shm::BELL_ARMED;
use spinwire_tests::rng::Rng;

const LONG: Duration = Duration::from_secs(60);
const SHORT: Duration = Duration::from_millis(20);
const ROUNDS: u64 = 3_000;

const fn config() -> DomainConfig {
    DomainConfig {
        geometry: Geometry {
            process_count: 8,
            endpoint_count: 8,
            lane_count: 16,
            lane_cell_count: 16,
            lane_spill_bytes: 4 << 10,
        },
        pages: PagePolicy::Only(PageKind::Base4K),
        death_noticed_within: Duration::from_millis(100),
    }
}

/// Parks as soon as nothing is there.
const fn ladder() -> IdleLadder {
    IdleLadder::new(Thresholds { park_after: 0, ..Thresholds::SPIN }, CpuWait::NONE, 2)
}

fn name(text: &str) -> Name {
    Name::new(text).unwrap()
}

struct Station<'s, 'm> {
    endpoint: Endpoint<'m, ShmPort<'s, 'm>>,
    pool: &'m LoanPool<'m>,
}

impl<'s, 'm> Station<'s, 'm> {
    fn open(domain: &'s Domain, bump: &Bump<'m>, name: &str, kind: EndpointType) -> Self {
        Self::of(bump, domain.segment(), domain, (name, kind))
    }

    fn of(
        bump: &Bump<'m>,
        segment: Segment<'s>,
        domain: &Domain,
        (called, kind): (&str, EndpointType),
    ) -> Self {
        let config = ShmConfig { peers_max: 8, ..ShmConfig::default() };
        let port =
            ShmPort::open(segment, domain.lease(), bump, (&name(called), kind), &config).unwrap();
        let endpoint = Endpoint::new(port, bump, &EndpointConfig { contexts_max: 64 }).unwrap();
        Self { endpoint, pool: LoanPool::place(bump, 16, 64).unwrap() }
    }

    fn connect(&self, to: &str) -> Addr {
        loop {
            match self.endpoint.connect(&name(to)) {
                Err(PostError::Misuse(Misuse::UnknownAddress)) => std::thread::yield_now(),
                found => break found.unwrap(),
            }
        }
    }

    fn send(&self, to: Addr, number: u64) {
        while let Err(refused) = self.endpoint.inject(SendTo::peer(to), &number.to_le_bytes()) {
            assert!(matches!(refused, PostError::Retry(_)), "{refused}");
            // It may be about to be connected.
            let _busy_or_idle = self.endpoint.turn(Instant::ORIGIN, Budget::DEFAULT);
            std::thread::yield_now();
        }
        self.endpoint.flush();
    }

    /// One turn. Returns whether it was busy, and the message that has come, if any.
    fn turn(&self, clock: &TscClock) -> (bool, Option<(Addr, u64)>) {
        while let Some(loan) = self.pool.lend() {
            self.endpoint.post_recv(RecvFrom::any(), loan, 0).map_err(|r| r.error).unwrap();
        }
        let budget = Budget { completions: 1, ..Budget::DEFAULT };
        let outcome = self.endpoint.turn(clock.now(), budget);
        let got = self.endpoint.poll().and_then(|completion| {
            // None where the receive ended with its peer.
            let source = completion.source?;
            Some((source, u64::from_le_bytes(completion.bytes()?.try_into().unwrap())))
        });
        (outcome.is_busy(), got)
    }

    fn bell(&self) -> &AtomicU64 {
        self.endpoint.bell().unwrap()
    }
}

/// Turns all stations, and rests in between, until one has a message.
fn wait(
    stations: &[Station<'_, '_>],
    clock: &TscClock,
    (ladder, rester): (&IdleLadder, &HostRester<'_>),
) -> (usize, Addr, u64) {
    loop {
        let mut busy = false;
        let mut got = None;
        for (at, station) in stations.iter().enumerate() {
            let (was_busy, message) = station.turn(clock);
            busy |= was_busy;
            got = got.or(message.map(|(from, number)| (at, from, number)));
            if got.is_some() {
                busy = true;
                break;
            }
        }
        ladder.rest(Outcome::from_count(busy.into()), None, None, rester);
        if let Some(got) = got {
            return got;
        }
    }
}

/// Nobody napped, and (nearly) every park was ended by somebody who rang. Who has taken a bell and loses his CPU before he wakes its owner wakes the next
/// park of that: few of them. One that nobody ends takes [`LONG`].
fn assert_all_rung(parks: Parks) {
    assert_eq!(parks.naps, 0, "{parks:?}");
    assert!(parks.parks - parks.rung <= parks.rung / 8, "not rung: {parks:?}");
}

/// Killed at the end, whatever comes.
struct Other(Child);

impl Other {
    fn start(test: &str, role: &str, segment: &str) -> Self {
        Self(again(test, &format!("{role} {segment}")).spawn().unwrap())
    }

    /// The next thing that it says.
    fn hear(&mut self) -> impl Iterator<Item = String> + use<> {
        lines(&mut self.0)
    }
}

impl Drop for Other {
    fn drop(&mut self) {
        let _ended_already = self.0.kill();
        let _status = self.0.wait();
    }
}

/// The role and the segment of a process that was started by [`Other::start`].
fn cast() -> Option<(String, String)> {
    let role = role()?;
    let (part, segment) = role.split_once(' ').unwrap();
    Some((part.to_owned(), segment.to_owned()))
}

/// A segment whose name goes with it.
struct Meeting(Domain);

impl Meeting {
    fn new(test: &str) -> Self {
        let name = format!("host-bell-{test}-{}", std::process::id());
        Self(Domain::create(&name, &config()).unwrap())
    }

    fn name(&self) -> &str {
        self.0.mapping().name()
    }
}

impl Drop for Meeting {
    fn drop(&mut self) {
        let _gone_already = self.0.unlink();
    }
}

/// Opens an RDM endpoint for `play`.
fn with_station(domain: &Domain, called: &str, play: impl FnOnce(Station<'_, '_>)) {
    let mut memory = Plane::memory(2 << 20).unwrap();
    let bump = Plane::arena(&mut memory);
    play(Station::open(domain, &bump, called, EndpointType::Rdm));
}

/// Sends numbers to and fro between two that sleep whenever it is not their turn.
fn ping_pong(station: Station<'_, '_>, to: &str, begins: bool) -> (Parks, u64) {
    let clock = TscClock::kernel();
    let sources: [&dyn WakeSource; 1] = [&station.endpoint];
    let rester = HostRester::new(&clock, &sources).with_park_max(LONG);
    let (ladder, station) = (ladder(), core::slice::from_ref(&station));
    let mut rng = Rng::new(u64::from(begins) + 1);
    let to = station[0].connect(to);
    let mut next = 0;
    if begins {
        station[0].send(to, next);
        next = 1;
    }
    while next < ROUNDS {
        let (_, from, number) = wait(station, &clock, (&ladder, &rester));
        assert_eq!(number, next);
        // From the moment in which the peer arms to that in which it sleeps.
        for _ in 0..rng.below(3_000) {
            core::hint::spin_loop();
        }
        if rng.below(64) == 0 {
            std::thread::sleep(Duration::from_millis(1));
        }
        station[0].send(from, number + 1);
        next = number + 2;
    }
    (rester.parks(), station[0].endpoint.provider().bells_rung())
}

#[test]
fn two_processes_wake_each_other() {
    const NAME: &str = "two_processes_wake_each_other";
    if let Some((_, segment)) = cast() {
        let domain = Domain::join(&segment, &config()).unwrap();
        with_station(&domain, "pong", |station| {
            assert_all_rung(ping_pong(station, "ping", false).0);
            say("done");
        });
        return;
    }
    let meeting = Meeting::new("pair");
    let mut other = Other::start(NAME, "pong", meeting.name());
    with_station(&meeting.0, "ping", |station| {
        let (parks, rung) = ping_pong(station, "pong", true);
        assert_all_rung(parks);
        assert!(parks.rung > 0 && rung > 0, "nobody slept: {parks:?}, {rung} rung");
        println!("{parks:?}, rang {rung} times");
    });
    assert_eq!(other.hear().collect::<Vec<_>>(), ["done"]);
}

/// Answers everything that comes with the number after it, and sleeps in between, until it is killed.
fn echo(station: Station<'_, '_>) -> ! {
    let clock = TscClock::kernel();
    let sources: [&dyn WakeSource; 1] = [&station.endpoint];
    let rester = HostRester::new(&clock, &sources).with_park_max(LONG);
    let (ladder, station) = (ladder(), core::slice::from_ref(&station));
    say("ready");
    loop {
        let (_, from, number) = wait(station, &clock, (&ladder, &rester));
        station[0].send(from, number + 1);
    }
}

fn play_echo(segment: &str) {
    let domain = Domain::join(segment, &config()).unwrap();
    with_station(&domain, "echo", |station| echo(station));
}

/// Until the owner of the bell has gone to sleep, as far as can be seen from outside.
fn until_asleep(bell: &AtomicU64) {
    while bell.load(Ordering::Relaxed) != BELL_ARMED {
        std::thread::yield_now();
    }
    std::thread::sleep(Duration::from_millis(20));
}

/// A signal takes its time.
fn until_stopped(pid: u32) {
    let is_stopped = |task: std::fs::DirEntry| {
        let status = std::fs::read_to_string(task.path().join("status")).unwrap();
        status.lines().any(|line| line.starts_with("State:\tT"))
    };
    let tasks = || std::fs::read_dir(format!("/proc/{pid}/task")).unwrap().map(Result::unwrap);
    while !tasks().all(is_stopped) {
        std::thread::yield_now();
    }
}

#[test]
fn the_death_of_the_publisher_wakes() {
    const NAME: &str = "the_death_of_the_publisher_wakes";
    if let Some((_, segment)) = cast() {
        return play_echo(&segment);
    }
    let meeting = Meeting::new("death");
    let mut other = Other::start(NAME, "echo", meeting.name());
    with_station(&meeting.0, "sleeper", |station| {
        let clock = TscClock::kernel();
        let sources: [&dyn WakeSource; 1] = [&station.endpoint];
        let rester = HostRester::new(&clock, &sources).with_park_max(LONG);
        let (ladder, peer) = (ladder(), station.connect("echo"));
        station.send(peer, 7);
        let stations = core::slice::from_ref(&station);
        assert_eq!(wait(stations, &clock, (&ladder, &rester)).2, 8);
        let connected = station.endpoint.poll_event();
        assert!(matches!(connected, None | Some(Event::Connected(_))), "{connected:?}");
        let (bell, pid) = (station.endpoint.provider().id().slot, other.0.id());
        let bell = bell::bell(&meeting.0.segment(), bell).unwrap();
        std::thread::scope(|scope| {
            scope.spawn(move || {
                until_asleep(bell);
                signal(pid, "KILL");
            });
            loop {
                let (busy, message) = station.turn(&clock);
                assert_eq!(message, None);
                match station.endpoint.poll_event() {
                    Some(Event::PeerGone(gone)) => break assert_eq!(gone, peer),
                    other => assert_eq!(other, None),
                }
                let outcome = Outcome::from_count(busy.into());
                ladder.rest(outcome, None, None, &rester);
            }
        });
        assert_all_rung(rester.parks());
    });
    assert!(!other.0.wait().unwrap().success());
}

#[test]
fn who_is_stopped_is_woken_when_it_goes_on() {
    const NAME: &str = "who_is_stopped_is_woken_when_it_goes_on";
    if let Some((_, segment)) = cast() {
        return play_echo(&segment);
    }
    let meeting = Meeting::new("stop");
    let other = Other::start(NAME, "echo", meeting.name());
    with_station(&meeting.0, "sleeper", |station| {
        let clock = TscClock::kernel();
        let sources: [&dyn WakeSource; 1] = [&station.endpoint];
        let rester = HostRester::new(&clock, &sources).with_park_max(LONG);
        let (ladder, peer) = (ladder(), station.connect("echo"));
        let stations = core::slice::from_ref(&station);
        let bell = directory::lookup(&meeting.0.segment(), &name("echo")).unwrap().id.slot;
        let bell = bell::bell(&meeting.0.segment(), bell).unwrap();
        for number in 0..5 {
            until_asleep(bell);
            signal(other.0.id(), "STOP");
            until_stopped(other.0.id());
            // It is stopped in its sleep; the ring finds its word, and its sleep ends when it may run again.
            station.send(peer, number);
            assert_eq!(bell.load(Ordering::Relaxed), 0, "rung");
            std::thread::scope(|scope| {
                scope.spawn(|| {
                    until_asleep(station_bell(&meeting.0, "sleeper"));
                    signal(other.0.id(), "CONT");
                });
                assert_eq!(wait(stations, &clock, (&ladder, &rester)).2, number + 1);
            });
        }
        assert_all_rung(rester.parks());
        // The first is rung for the new lane.
        assert!(rester.parks().rung >= 5 && station.endpoint.provider().bells_rung() >= 4);
    });
}

fn station_bell<'s>(domain: &'s Domain, called: &str) -> &'s AtomicU64 {
    let segment = domain.segment();
    bell::bell(&segment, directory::lookup(&segment, &name(called)).unwrap().id.slot).unwrap()
}

/// One thread that polls three endpoints, in two segments, and sleeps on all of them at once.
#[test]
fn one_thread_sleeps_on_several_endpoints() {
    let meetings = [Meeting::new("here"), Meeting::new("there")];
    let others = [0, 1].map(|at| Domain::join(meetings[at].name(), &config()).unwrap());
    let (go, may_go) = mpsc::channel();
    std::thread::scope(|scope| {
        let others = &others;
        scope.spawn(move || {
            let mut memory = Plane::memory(4 << 20).unwrap();
            let bump = Plane::arena(&mut memory);
            let rdm = others
                .each_ref()
                .map(|domain| Station::open(domain, &bump, "from", EndpointType::Rdm));
            let msg = Station::open(&others[0], &bump, "msg-from", EndpointType::Msg);
            let clock = TscClock::kernel();
            let peers = [rdm[0].connect("to"), rdm[1].connect("to"), msg.connect("msg-to")];
            let stations = [&rdm[0], &rdm[1], &msg];
            let mut rng = Rng::new(3);
            for number in 0..600 {
                let at = usize::try_from(rng.below(3)).unwrap();
                stations[at].send(peers[at], number);
                // Answers to connects, and none of the numbers before the last was seen.
                while may_go.try_recv().is_err() {
                    for station in stations {
                        assert_eq!(station.turn(&clock).1, None);
                    }
                    std::thread::yield_now();
                }
                for _ in 0..rng.below(3_000) {
                    core::hint::spin_loop();
                }
            }
        });
        let mut memory = Plane::memory(4 << 20).unwrap();
        let bump = Plane::arena(&mut memory);
        let stations = [
            Station::open(&meetings[0].0, &bump, "to", EndpointType::Rdm),
            Station::open(&meetings[1].0, &bump, "to", EndpointType::Rdm),
            Station::open(&meetings[0].0, &bump, "msg-to", EndpointType::Msg),
        ];
        let clock = TscClock::kernel();
        let sources = stations.each_ref().map(|station| -> &dyn WakeSource { &station.endpoint });
        let rester = HostRester::new(&clock, &sources).with_park_max(LONG);
        let ladder = ladder();
        let mut seen = [0; 3];
        for number in 0..600 {
            let (at, _, got) = wait(&stations, &clock, (&ladder, &rester));
            assert_eq!(got, number);
            seen[at] += 1;
            go.send(()).unwrap();
        }
        assert!(seen.iter().all(|seen| *seen > 100), "{seen:?}");
        assert_all_rung(rester.parks());
        assert!(rester.parks().rung > 0, "never slept");
    });
}

/// A connection is accepted while the one that asked for it sleeps.
#[test]
fn an_answered_connection_wakes() {
    let meeting = Meeting::new("connect");
    let other = Domain::join(meeting.name(), &config()).unwrap();
    let mut memory = Plane::memory(4 << 20).unwrap();
    let bump = Plane::arena(&mut memory);
    let answering = Station::open(&other, &bump, "answers", EndpointType::Msg);
    std::thread::scope(|scope| {
        let sleeper = scope.spawn(|| {
            let mut memory = Plane::memory(2 << 20).unwrap();
            let bump = Plane::arena(&mut memory);
            let station = Station::open(&meeting.0, &bump, "asks", EndpointType::Msg);
            let clock = TscClock::kernel();
            let sources: [&dyn WakeSource; 1] = [&station.endpoint];
            let rester = HostRester::new(&clock, &sources).with_park_max(LONG);
            let (ladder, peer) = (ladder(), station.connect("answers"));
            loop {
                let (busy, _) = station.turn(&clock);
                if let Some(event) = station.endpoint.poll_event() {
                    assert_eq!(event, Event::Connected(peer));
                    break rester.parks();
                }
                ladder.rest(Outcome::from_count(busy.into()), None, None, &rester);
            }
        });
        while directory::lookup(&other.segment(), &name("asks")).is_none() {
            std::thread::yield_now();
        }
        until_asleep(station_bell(&other, "asks"));
        let clock = TscClock::kernel();
        while !sleeper.is_finished() {
            answering.turn(&clock);
            std::thread::yield_now();
        }
        let parks = sleeper.join().unwrap();
        assert_all_rung(parks);
        assert!(parks.rung > 0);
    });
}

/// Bells that somebody scribbles over: messages arrive all the same, some of them late.
#[test]
fn a_scribbled_bell_costs_time_and_nothing_else() {
    let meeting = Meeting::new("scribble");
    let other = Domain::join(meeting.name(), &config()).unwrap();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            with_station(&other, "from", |station| {
                let (to, clock) = (station.connect("to"), TscClock::kernel());
                let bell = station_bell(&other, "to");
                for (number, scribble) in
                    (0..).zip([0, 2, u64::MAX, 1 << 32, BELL_ARMED | 1 << 63, BELL_ARMED].repeat(5))
                {
                    until_asleep(bell);
                    bell.store(scribble, Ordering::Relaxed);
                    station.send(to, number);
                    station.turn(&clock);
                }
            });
        });
        with_station(&meeting.0, "to", |station| {
            let clock = TscClock::kernel();
            let sources: [&dyn WakeSource; 1] = [&station.endpoint];
            let rester = HostRester::new(&clock, &sources).with_park_max(SHORT);
            let ladder = ladder();
            for number in 0..30 {
                let stations = core::slice::from_ref(&station);
                assert_eq!(wait(stations, &clock, (&ladder, &rester)).2, number);
            }
        });
    });
}

/// A bell that says that somebody sleeps who does not: one ring for each lie, and everything arrives.
#[test]
fn a_bell_armed_for_nothing_costs_a_ring() {
    let meeting = Meeting::new("lie");
    let mut memory = Plane::memory(4 << 20).unwrap();
    let bump = Plane::arena(&mut memory);
    let [from, to] =
        ["from", "to"].map(|called| Station::open(&meeting.0, &bump, called, EndpointType::Rdm));
    let (clock, addr) = (TscClock::kernel(), from.connect("to"));
    let receive = || core::iter::repeat_with(|| to.turn(&clock).1).flatten().next().unwrap().1;
    for number in 0..100 {
        from.send(addr, number);
        assert_eq!(receive(), number);
    }
    assert_eq!(from.endpoint.provider().bells_rung(), 0, "nobody ever slept");
    for number in 0..100 {
        to.bell().store(BELL_ARMED, Ordering::Relaxed);
        from.send(addr, number);
        assert_eq!(receive(), number);
    }
    assert_eq!(
        from.endpoint.provider().bells_rung(),
        0,
        "its lane is hot: nobody looks at the bell"
    );
    to.endpoint.arm();
    from.send(addr, 1);
    assert_eq!((receive(), from.endpoint.provider().bells_rung()), (1, 1));
    to.endpoint.disarm();
    from.send(addr, 2);
    assert_eq!((receive(), from.endpoint.provider().bells_rung()), (2, 1));
}

/// Where a process does not ring, nobody relies on it: parks are naps.
#[test]
fn next_to_one_that_does_not_ring_parks_are_naps() {
    let meeting = Meeting::new("mute");
    let clock = TscClock::kernel();
    let mut memory = Plane::memory(4 << 20).unwrap();
    let bump = Plane::arena(&mut memory);
    let to = Station::open(&meeting.0, &bump, "to", EndpointType::Rdm);
    // The same process once more, in a seat from which it has promised nothing.
    let mute = Segment::attach(meeting.0.mapping().lines()).unwrap();
    let identity = Identity::mine().unwrap();
    let joiner = Joiner {
        pid: identity.pid,
        start_time: identity.start_time,
        joined_unix_ns: 0,
        command: [0; 64],
    };
    let seat = lease::join(&mute, &joiner).unwrap();
    let config = ShmConfig { peers_max: 8, ..ShmConfig::default() };
    let port = ShmPort::open(mute, seat, &bump, (&name("mute"), EndpointType::Rdm), &config);
    let endpoint = Endpoint::new(port.unwrap(), &bump, &EndpointConfig::default()).unwrap();
    let from = Station { endpoint, pool: LoanPool::place(&bump, 16, 64).unwrap() };
    let addr = from.connect("to");
    let sources: [&dyn WakeSource; 1] = [&to.endpoint];
    let rester = HostRester::new(&clock, &sources).with_park_max(LONG);
    rester.arm();
    from.send(addr, 5);
    assert_eq!(to.bell().load(Ordering::Relaxed), BELL_ARMED, "it leaves the bell alone");
    rester.park(None);
    rester.arm();
    rester.park(None);
    assert_eq!(rester.parks(), Parks { parks: 2, rung: 0, spurious: 0, naps: 2 });
    let stations = core::slice::from_ref(&to);
    assert_eq!(wait(stations, &clock, (&ladder(), &rester)).2, 5);
    // It promises, and is relied on.
    lease::vow_to_ring(&mute, &seat);
    let until = clock.now().saturating_add(Nanos::from_millis(2));
    let naps = rester.parks().naps;
    rester.arm();
    rester.park(Some(until));
    assert_eq!(rester.parks().naps, naps);
    assert!(clock.now() >= until);
}

/// Going to sleep finds what its sender did not tell of, in whatever lane.
#[test]
fn the_last_look_goes_to_every_lane() {
    let meeting = Meeting::new("look");
    let clock = TscClock::kernel();
    let mut memory = Plane::memory(8 << 20).unwrap();
    let bump = Plane::arena(&mut memory);
    let to = Station::open(&meeting.0, &bump, "to", EndpointType::Rdm);
    let names = ["a", "b", "c", "d", "e", "f"];
    let from = names.map(|called| Station::open(&meeting.0, &bump, called, EndpointType::Rdm));
    let addrs = from.each_ref().map(|station| station.connect("to"));
    let receive = || core::iter::repeat_with(|| to.turn(&clock).1).flatten().next().unwrap().1;
    for (station, addr) in from.iter().zip(addrs) {
        station.send(addr, 1);
        assert_eq!(receive(), 1);
    }
    // Those that say nothing turn cold, all but two.
    for _ in 0..100_000 {
        assert_eq!(to.turn(&clock).1, None);
    }
    assert_eq!(to.endpoint.provider().hot_count(), 2);
    let sources: [&dyn WakeSource; 1] = [&to.endpoint];
    let rester = HostRester::new(&clock, &sources).with_park_max(LONG);
    for (number, (station, addr)) in (2..).zip(from.iter().zip(addrs)) {
        // As if the sender had looked at its mark a moment before it was set.
        station.send(addr, number);
        let news = directory::news(&meeting.0.segment(), to.endpoint.provider().id().slot).unwrap();
        news.iter().for_each(|word| word.store(0, Ordering::Relaxed));
        rester.arm();
        assert!(
            to.turn(&clock).0 || to.turn(&clock).1.is_some(),
            "lane {number} was not looked at"
        );
        rester.disarm();
        while to.turn(&clock).1.is_some() {}
    }
}
