//! Ends that sleep on the descriptor of their endpoint, over every path that has one: in another process than their peer, woken by each message, and by
//! the end of the peer; by nothing else.
//!
//! Every sleep could last [`STUCK`](crate::STUCK). A wake-up that is lost shows as one that nobody ended, without a look at a clock; a descriptor that tells
//! what is not there as turns in a silence.

#[path = "../host_process/mod.rs"]
mod host_process;

use core::cell::Cell;
use core::time::Duration;

use host_process::{Kept, again, lines, role, say, signal};
use spinwire_dataplane::id::Addr;
use spinwire_dataplane::msg::{Completion, Kind, RecvFrom, SendTo};
use spinwire_dataplane::poll::{Budget, Outcome, Poll};
use spinwire_dataplane::provider::{Caps, EndpointType, Event};
use spinwire_dataplane::raw::loan::LoanPool;
use spinwire_dataplane::sync::{AtomicU32, Ordering};
use spinwire_hostshim::clock::TscClock;
use spinwire_hostshim::discover::{Found, Hints, Transport, discover};
use spinwire_hostshim::open::{Host, News, OpenConfig, OpenError};
use spinwire_hostshim::uri::Uri;
use spinwire_tests::reactor::Reactor;
use spinwire_tests::rng::Rng;

use crate::{Any, STUCK, send};

/// Questions that are asked there, one by one; `SPINWIRE_TEST_WAKES` says otherwise.
fn questions(at: &Uri) -> u64 {
    let default = match at.transport() {
        _ if in_guest() => 30,
        Transport::Shm => 1000,
        // A message takes libfabric's provider `sockets` 20 ms where nobody polls it.
        Transport::Ofi if at.to_string().contains("sockets") => 10,
        Transport::Tcp | Transport::Udp | Transport::Verbs | Transport::Mlx5 | Transport::Ofi => {
            200
        }
    };
    std::env::var("SPINWIRE_TEST_WAKES").map_or(Ok(default), |text| text.parse()).unwrap()
}

/// For how long nothing happens, in the middle.
const SILENCE: Duration = Duration::from_millis(30);
/// Turns in that silence: some for each wake-up, of which there are a few when a peer goes. One that polls takes a thousand times as many.
const TURNS_MAX: u64 = 500;

/// An end, and how it sleeps.
struct Sleeper<'e, 'a> {
    end: &'e Any<'a>,
    news: News<'e, 'a>,
    reactor: Reactor,
    buffers: &'a LoanPool<'a>,
    clock: &'e TscClock,
    turns: Cell<u64>,
    sleeps: Cell<u64>,
    naps: Cell<u64>,
}

impl<'e, 'a> Sleeper<'e, 'a> {
    fn new(end: &'e Any<'a>, news: News<'e, 'a>, at: (&'a LoanPool<'a>, &'e TscClock)) -> Self {
        let (turns, sleeps, naps) = (Cell::new(0), Cell::new(0), Cell::new(0));
        let reactor = Reactor::edge(&news);
        Self { end, news, reactor, buffers: at.0, clock: at.1, turns, sleeps, naps }
    }

    /// Turns until there is something, and sleeps while there is nothing.
    fn until<T>(&self, what: &str, mut there: impl FnMut() -> Option<T>) -> T {
        loop {
            while let Some(loan) = self.buffers.lend() {
                self.end.post_recv(RecvFrom::any(), loan, 0).map_err(|r| r.error).unwrap();
            }
            let outcome = self.end.turn(self.clock.now(), Budget::DEFAULT);
            self.turns.set(self.turns.get() + 1);
            if let Some(it) = there() {
                return it;
            }
            if let Some(most) = self.news.may_sleep(outcome, self.clock.now()) {
                self.sleeps.set(self.sleeps.get() + 1);
                self.naps.set(self.naps.get() + u64::from(most < Duration::from_millis(1)));
                let told = self.reactor.wait(most.min(STUCK));
                assert!(told || most < STUCK, "{what}: nobody has woken it");
            }
        }
    }

    /// Turns until nothing tells anything for a while. How often it turned; one that polls does it a thousand times as often as there is need.
    fn quiet(&self, what: &str) -> u64 {
        let from = self.turns.get();
        loop {
            let outcome = self.end.turn(self.clock.now(), Budget::DEFAULT);
            let _ended_with_a_peer = self.end.poll();
            self.turns.set(self.turns.get() + 1);
            let turns = self.turns.get() - from;
            assert!(turns < TURNS_MAX, "{what}: {turns} turns, and nothing to do");
            match self.news.may_sleep(outcome, self.clock.now()) {
                Some(most) if !self.reactor.wait(most.min(SILENCE)) && most > SILENCE => {
                    return turns;
                }
                Some(_) | None => {}
            }
        }
    }

    fn message(&self, what: &str) -> Completion<'a> {
        let is_message = |it: &Completion<'_>| it.kind == Kind::Received && it.source.is_some();
        self.until(what, || self.end.poll().filter(is_message))
    }

    fn send(&self, to: Addr, number: u64) {
        send(self.end, SendTo::peer(to), &number.to_le_bytes(), &[self.end]);
    }
}

fn number(message: &Completion<'_>) -> u64 {
    u64::from_le_bytes(message.bytes().unwrap().try_into().unwrap())
}

/// From the moment in which the peer arms to that in which it sleeps, now and then longer.
fn dawdle(rng: &mut Rng) {
    for _ in 0..rng.below(3_000) {
        core::hint::spin_loop();
    }
    if rng.below(64) == 0 {
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// On another kernel, and an emulated processor.
fn in_guest() -> bool {
    std::env::var_os("SPINWIRE_VM").is_some()
}

/// Everything. In the guest that is what depends on the kernel: libfabric has its turn on the machine itself, and takes long to be loaded.
pub(crate) fn hints() -> Hints {
    if in_guest() {
        return Hints::only(&[Transport::Shm, Transport::Udp, Transport::Verbs]);
    }
    Hints::default()
}

/// A number that no other place has.
pub(crate) fn fresh() -> u32 {
    static NUMBERS: AtomicU32 = AtomicU32::new(0);
    NUMBERS.fetch_add(1, Ordering::Relaxed)
}

/// Where an end may listen over that; `None` where there is no descriptor, or where nobody knows an address.
pub(crate) fn place(found: &Found) -> Option<(Uri, EndpointType)> {
    let info = found.info()?;
    let kind = info.endpoint_type;
    if !info.caps.has(Caps::DESCRIPTOR) {
        println!("{found} has no descriptor");
        return None;
    }
    let device = found.device.as_deref().unwrap_or_default();
    let uri = match (found.transport, device.split([';', '/']).next().unwrap_or_default()) {
        (Transport::Shm, _) => format!("shm://sleeps-{}-{}", std::process::id(), fresh()),
        (Transport::Verbs, "rxe1") => "verbs://rxe1/10.77.0.2:0".to_owned(),
        // The other device, and the other end.
        (Transport::Verbs | Transport::Mlx5, _) => return None,
        // In the guest, by a test of its own.
        (Transport::Ofi, "verbs") => return None,
        (Transport::Ofi, provider) => format!("ofi://{provider}/127.0.0.1:0"),
        (transport, _) => format!("{transport}://127.0.0.1:0"),
    };
    Some((uri.parse().unwrap(), kind))
}

/// All of them.
pub(crate) fn places() -> Vec<(Uri, EndpointType)> {
    let mut all: Vec<_> = discover(&hints()).iter().filter_map(place).collect();
    let mut seen = Vec::new();
    // `net` and `net;ofi_rxm` have one address.
    all.retain(|(uri, kind)| {
        let each = (uri.to_string(), *kind);
        !seen.contains(&each) && {
            seen.push(each);
            true
        }
    });
    // There is one everywhere.
    assert!(all.iter().any(|(uri, _)| uri.transport() == Transport::Shm), "{all:?}");
    all
}

/// Opens an end there.
fn with_end(
    (uri, kind): (&Uri, EndpointType),
    config: &OpenConfig,
    play: impl FnOnce(&Sleeper<'_, '_>, &Uri, Option<Addr>),
) {
    let clock = TscClock::calibrate();
    let mut host = Host::open(uri, kind, config).unwrap();
    let at = host.uri();
    let seat = host.seat().unwrap();
    let end = seat.endpoint().unwrap();
    let is_caller = config.role == spinwire_hostshim::open::Role::Connect;
    let peer = is_caller.then(|| seat.connect(&end, uri, &clock).unwrap());
    let buffers = LoanPool::place(seat.bump(), 4, 64).unwrap();
    let buffers = seat.bump().value(buffers).unwrap();
    let news = seat.news(&end).unwrap();
    assert!(matches!(seat.news(&end), Err(OpenError::Told)), "one a seat");
    play(&Sleeper::new(&end, news, (buffers, &clock)), &at, peer);
}

/// What the other process does: asks so many questions, sleeping until each is answered; then sleeps until it is killed, or leaves.
fn ask(how: &str) {
    let mut words = how.split(' ');
    let mut next = || words.next().unwrap();
    let (kind, uri) = (EndpointType::of_name(next()).unwrap(), next().replace("rxe1/", "rxe0/"));
    let (count, leaves) = (next().parse::<u64>().unwrap(), next() == "leaves");
    let config = OpenConfig::connect().waiting().within(STUCK);
    with_end((&uri.parse().unwrap(), kind), &config, |end, _, peer| {
        let mut rng = Rng::new(1);
        for asked in 0..count {
            dawdle(&mut rng);
            end.send(peer.unwrap(), asked);
            assert_eq!(number(&end.message("an answer")), asked);
        }
        say(&format!("done, slept {} times, naps {}", end.sleeps.get(), end.naps.get()));
        if !leaves {
            host_process::wait_for_end_of_input();
            panic!("not killed");
        }
        // The last answer is here, so that nothing is lost by going.
        std::thread::sleep(SILENCE);
    });
}

/// Answers until the other process has asked all, and then until it is gone.
fn answer((uri, kind): &(Uri, EndpointType), count: u64, leaves: bool, test: &str) {
    let what = format!("{uri} {kind}");
    with_end((uri, *kind), &OpenConfig::listen().waiting(), |end, at, _| {
        let how = if leaves { "leaves" } else { "stays" };
        let role = format!("{kind} {at} {count} {how}");
        let mut other = Kept(again(test, &role).spawn().unwrap());
        let mut rng = Rng::new(2);
        let mut peer = None;
        for asked in 0..count {
            let question = end.message(&what);
            assert_eq!(number(&question), asked, "{what}");
            peer = question.source;
            drop(question.loan);
            dawdle(&mut rng);
            end.send(peer.unwrap(), asked);
        }
        while let Some(event) = end.end.poll_event() {
            assert!(matches!(event, Event::Connected(_)), "{what}: {event:?}");
        }
        // Heard to the end, or it could not say how its test has ended.
        let mut says = lines(&mut other.0);
        let said = says.next().unwrap();
        assert!(said.starts_with("done"), "{what}: {said}");
        let (turns, sleeps, naps) = (end.turns.get(), end.sleeps.get(), end.naps.get());
        println!(
            "{what}: {count} answers, {turns} turns, {sleeps} sleeps, {naps} naps; it: {said}"
        );
        assert!(sleeps > count / 20, "{what}: slept {sleeps} times of {count}");
        let quiet = end.quiet(&what);
        if *kind == EndpointType::Dgram {
            // Of datagrams nobody says that he is gone.
            return;
        }
        let (pid, before) = (other.0.id(), end.turns.get());
        std::thread::scope(|scope| {
            scope.spawn(move || {
                std::thread::sleep(SILENCE);
                if !leaves {
                    signal(pid, "KILL");
                }
            });
            let event = end.until(&format!("{what}: its end"), || {
                let _ended_with_it = end.end.poll();
                end.end.poll_event()
            });
            assert_eq!(event, Event::PeerGone(peer.unwrap()), "{what}");
        });
        let ended = end.turns.get() - before;
        let after = end.quiet(&what);
        println!("{what}: {quiet} turns in a silence, {ended} until its end, {after} after that");
        // Two ends over libfabric's `ofi_rxm` that part look for each other for a while.
        let is_loud = at.transport() == Transport::Ofi;
        assert!(ended < TURNS_MAX || is_loud, "{what}: {ended} turns until it is gone");
        assert_eq!(says.count(), 0);
        assert_eq!(other.0.wait().unwrap().success(), leaves, "{what}");
    });
}

#[test]
fn messages_and_the_death_of_a_peer_wake_whoever_sleeps_on_a_descriptor() {
    const NAME: &str =
        "sleeps::messages_and_the_death_of_a_peer_wake_whoever_sleeps_on_a_descriptor";
    if let Some(how) = role() {
        return ask(&how);
    }
    for place in &places() {
        answer(place, questions(&place.0), false, NAME);
    }
}

#[test]
fn a_peer_that_leaves_wakes_whoever_sleeps_on_a_descriptor() {
    const NAME: &str = "sleeps::a_peer_that_leaves_wakes_whoever_sleeps_on_a_descriptor";
    if let Some(how) = role() {
        return ask(&how);
    }
    let connected = |(_, kind): &&(Uri, EndpointType)| *kind != EndpointType::Dgram;
    for place in places().iter().filter(connected) {
        answer(place, 3, true, NAME);
    }
}

/// Ends of one thread that are not idle at the same turn at first fall in step and sleep together; whichever is told something wakes it.
#[test]
fn several_are_slept_on_together() {
    let clock = TscClock::calibrate();
    let config = OpenConfig::listen();
    let shm = format!("shm://both-{}-{}", std::process::id(), fresh());
    let open = |uri: &str| Host::open(&uri.parse().unwrap(), EndpointType::Rdm, &config).unwrap();
    let mut hosts = [open(&shm), open("tcp://127.0.0.1:0")];
    let at = hosts.each_ref().map(Host::uri);
    let seats = hosts.each_mut().map(|host| host.seat().unwrap());
    let ends = seats.each_ref().map(|seat| seat.endpoint().unwrap());
    let news: Vec<_> = seats.iter().zip(&ends).map(|(seat, end)| seat.news(end).unwrap()).collect();
    let turn = || {
        let turned = ends.each_ref().map(|end| end.turn(clock.now(), Budget::DEFAULT));
        if turned.iter().any(|it| it.is_busy()) { Outcome::Busy } else { Outcome::Idle }
    };
    let until_asleep = || {
        for _ in 0..TURNS_MAX {
            if let Some(most) = News::may_sleep_on(&news, turn(), clock.now()) {
                return most;
            }
        }
        panic!("{TURNS_MAX} turns, and nothing to do");
    };
    // The first is a turn ahead.
    assert!(until_asleep() > SILENCE);
    assert_eq!(news[0].may_sleep(Outcome::Idle, clock.now()), None);
    assert!(until_asleep() > SILENCE, "in step again");
    assert!(!News::sleep_on(&news, SILENCE).unwrap(), "nobody has told anything");
    for (end, at, seat) in [(&ends[0], &at[0], &seats[0]), (&ends[1], &at[1], &seats[1])] {
        let buffers = LoanPool::place(seat.bump(), 1, 64).unwrap();
        end.post_recv(RecvFrom::any(), buffers.lend().unwrap(), 0).unwrap();
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let config = OpenConfig::connect().within(STUCK);
                let mut host = Host::open(at, EndpointType::Rdm, &config).unwrap();
                let seat = host.seat().unwrap();
                let (own, clock) = (seat.endpoint().unwrap(), TscClock::calibrate());
                let to = seat.connect(&own, at, &clock).unwrap();
                send(&own, SendTo::peer(to), b"awake", &[&own]);
            });
            loop {
                let outcome = turn();
                if let Some(message) = end.poll() {
                    assert_eq!(message.bytes().unwrap(), b"awake");
                    break;
                }
                if let Some(most) = News::may_sleep_on(&news, outcome, clock.now()) {
                    let told = News::sleep_on(&news, most.min(STUCK)).unwrap();
                    assert!(told || most < STUCK, "{at}: nobody has woken it");
                }
            }
        });
    }
}

/// Over the device that libfabric reaches by its provider `verbs`; the ends meet by an address of its network.
#[cfg(feature = "libfabric")]
#[test]
fn asleep_over_a_device_of_libfabric() {
    const NAME: &str = "sleeps::asleep_over_a_device_of_libfabric";
    if let Some(how) = role() {
        return ask(&how);
    }
    if !in_guest() {
        println!(
            "!! NOT RUN: asleep over ofi verbs: it takes an RDMA device; tests/vm/suite selection --rxe"
        );
        return;
    }
    answer(&("ofi://verbs/10.77.0.1:0".parse().unwrap(), EndpointType::Msg), 10, false, NAME);
}
