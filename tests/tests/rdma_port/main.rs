//! Ports over RDMA connections on a network in which everything goes wrong that may: what was sent arrives once, in order and intact until a
//! connection ends; every buffer comes back once; credit is neither lost nor made; a connection that ends harms no other.

#![allow(
    clippy::large_stack_frames,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    reason = "a test stops at the first thing that is not as expected"
)]

mod datagrams;
mod ends;
mod odd_device;
mod polls;

use core::cell::Cell;
use core::panic::AssertUnwindSafe;
use std::panic::catch_unwind;

use spinwire_dataplane::error::PostError;
use spinwire_dataplane::id::Addr;
use spinwire_dataplane::msg::{Kind, RecvFrom, SendTo};
use spinwire_dataplane::provider::rdma::Request;
use spinwire_dataplane::provider::rdma::piece::{self, Content, Grant};
use spinwire_dataplane::provider::tcp::frame::{Envelope, FrameFault, Greeting, Limits};
use spinwire_dataplane::provider::{EndpointType, Event, Provider, Status};
use spinwire_dataplane::time::{Instant, Nanos};
use spinwire_layouts::abi::WIRE_VERSION;
use spinwire_layouts::shm::EndpointKind;
use spinwire_layouts::wire::Hello;
use spinwire_tests::conformance::{Node, Rdma, Sizes, Stranger, World, run};
use spinwire_tests::rng::{Rng, pattern};
use spinwire_tests::sim::fabric::{Faults, Links};

type Rig = Rdma<true>;

/// Messages of a run, at least; `SPINWIRE_RDMA_MESSAGES` asks for more.
fn messages() -> u64 {
    std::env::var("SPINWIRE_RDMA_MESSAGES").map_or(1_500, |text| text.parse().unwrap())
}

/// One end: what it has sent and heard.
struct End<'w, 'm> {
    node: &'w Node<'m, Rig>,
    peer: Cell<Option<Addr>>,
    /// Which connection it is, as this end counts, and what is sent next on it.
    epoch: Cell<u64>,
    next: Cell<u64>,
    /// The connection and the number of the message that was heard last.
    heard: Cell<Option<(u64, u64)>>,
    sends: Cell<u64>,
    sends_over: Cell<u64>,
    received: Cell<u64>,
    ends: Cell<u64>,
}

fn text(epoch: u64, number: u64, length: usize) -> Vec<u8> {
    pattern(epoch * 1_000_003 + number, length)
}

impl<'w, 'm> End<'w, 'm> {
    fn new(node: &'w Node<'m, Rig>) -> Self {
        let zero = || Cell::new(0);
        Self {
            node,
            peer: Cell::new(None),
            epoch: zero(),
            next: zero(),
            heard: Cell::new(None),
            sends: zero(),
            sends_over: zero(),
            received: zero(),
            ends: zero(),
        }
    }

    /// Sends a message, if there is somebody and room.
    fn send(&self, rng: &mut Rng) {
        let Some(peer) = self.peer.get() else { return };
        let length = match rng.below(10) {
            0..5 => rng.index(200),
            5..9 => rng.index(3000),
            _ => rng.index(8193),
        };
        let (epoch, number) = (self.epoch.get(), self.next.get());
        let to = SendTo::peer(peer).immediate(epoch << 32 | number);
        let bytes = text(epoch, number, length);
        let posted = rng.chance(60);
        let under_way = self.sends_under_way(peer);
        let sent = if posted {
            self.node.send(to, &bytes, number).map(|_| ())
        } else {
            self.node.inject(to, &bytes)
        };
        match sent {
            Ok(()) => {
                self.next.set(number + 1);
                self.sends.set(self.sends.get() + u64::from(posted));
            }
            Err(PostError::Retry(_) | PostError::Fatal(_)) => {
                let is_copied = !posted || bytes.len() < 300;
                assert!(is_copied || self.sends_under_way(peer) == under_way, "the buffer is back");
            }
            Err(PostError::Misuse(misuse)) => panic!("{misuse}"),
        }
    }

    /// Work requests that the device has, or will have with the next doorbell.
    fn sends_under_way(&self, peer: Addr) -> Option<u32> {
        self.node.provider().rdma().figures(peer).ok().map(|figures| figures.sends)
    }

    /// Takes what has come.
    fn take(&self) {
        while let Some(got) = self.node.take() {
            match got.kind {
                Kind::Sent => self.sends_over.set(self.sends_over.get() + 1),
                Kind::Received => {
                    assert_eq!(got.status, Status::Success);
                    let immediate = got.immediate.expect("every message has one");
                    let (epoch, number) = (immediate >> 32, immediate & 0xffff_ffff);
                    let expected = match self.heard.get() {
                        Some((before, last)) if before == epoch => last + 1,
                        Some((before, _)) => {
                            assert!(epoch > before, "a message of an old connection: {epoch}");
                            0
                        }
                        None => 0,
                    };
                    assert_eq!(number, expected, "once and in order, epoch {epoch}");
                    assert!(got.bytes == text(epoch, number, got.bytes.len()), "intact");
                    self.heard.set(Some((epoch, number)));
                    self.received.set(self.received.get() + 1);
                }
                Kind::RecvEnded => assert_eq!(got.status, Status::PeerGone),
                Kind::Parcel | Kind::Written | Kind::Read | Kind::Atomic => panic!("{got:?}"),
            }
        }
        while let Some(event) = self.node.poll_event() {
            match event {
                Event::Connected(peer) => {
                    self.peer.set(Some(peer));
                    self.epoch.set(self.epoch.get() + 1);
                    self.next.set(0);
                }
                Event::PeerGone(peer) | Event::Refused(peer) => {
                    if self.peer.get() == Some(peer) {
                        self.peer.set(None);
                    }
                    self.ends.set(self.ends.get() + 1);
                }
                Event::PeerCorrupt(_) | Event::StaleCompletion(_) => panic!("{event:?}"),
            }
        }
    }
}

/// Both ends send as fast as they may, and connect again when the connection has ended.
fn soak(seed: u64, faults: Faults, messages: u64) -> u64 {
    let ends = Cell::new(0);
    run::<Rig>(EndpointType::Msg, Sizes::default(), |world| {
        let mut rng = Rng::new(seed);
        let (a, b) = (world.node("a"), world.node("b"));
        let free = world.pool().free_count();
        world.ground().network().set_links(Links::WILD);
        world.ground().set_pace(Some(2_000));
        let both = [End::new(&a), End::new(&b)];
        world.ground().network().set_faults(faults);
        let done = || both.iter().map(|end| end.received.get()).sum::<u64>() >= messages;
        let mut turns = 0;
        while !done() {
            step(world, &both, &mut rng, true);
            turns += 1;
            assert!(turns < messages * 200, "no progress: {seed}, {}", state(&both));
        }
        world.ground().network().set_faults(Faults::default());
        let mut quiet = 0;
        while quiet < 200 {
            step(world, &both, &mut rng, false);
            let over = |end: &End<'_, '_>| end.sends.get() == end.sends_over.get();
            quiet = if both.iter().all(over) { quiet + 1 } else { 0 };
            turns += 1;
            assert!(turns < messages * 400, "sends are not over: {seed}, {}", state(&both));
        }
        check_whole(world, &both);
        ends.set(both.iter().map(|end| end.ends.get()).sum());
        if faults.reuses {
            // What comes late from an old queue pair ends no new connection of the same number.
            let deaths = world.ground().network().deaths();
            assert!(ends.get() <= 2 * deaths, "{} ends of {deaths} deaths", ends.get());
        }
        drop((a, b));
        assert_eq!(world.pool().free_count(), free, "every buffer is back");
    });
    ends.get()
}

/// Every send is over, and no credit was lost or made.
fn check_whole<'m>(world: &World<'m, Rig>, both: &[End<'_, 'm>; 2]) {
    for end in both {
        assert_eq!(end.sends.get(), end.sends_over.get(), "each send is over once");
    }
    if let (Some(to_b), Some(to_a)) = (both[0].peer.get(), both[1].peer.get()) {
        for (from, to, back) in [(0, to_b, to_a), (1, to_a, to_b)] {
            let here = both[from].node.provider().rdma().figures(to).unwrap();
            let there = both[1 - from].node.provider().rdma().figures(back).unwrap();
            // What is due may be on its way; it is not lost.
            assert_eq!(there.unread, 0);
            assert_eq!(here.credit + there.due, world.sizes().link_depth, "credit is kept");
        }
    }
}

fn state(both: &[End<'_, '_>; 2]) -> String {
    let of = |end: &End<'_, '_>| {
        let port = end.node.provider().rdma();
        let figures = end.peer.get().map(|peer| port.figures(peer));
        format!("{:?} {figures:?} {:?}", end.heard.get(), port.counters())
    };
    both.iter().map(of).collect::<Vec<_>>().join("; ")
}

fn step<'m>(world: &World<'m, Rig>, both: &[End<'_, 'm>; 2], rng: &mut Rng, sends: bool) {
    for end in both {
        if sends && end.peer.get().is_none() && rng.chance(10) {
            let other = if end.node.name().as_str() == "a" { "b" } else { "a" };
            match end.node.connect(&spinwire_tests::conformance::name(other)) {
                Ok(_) | Err(PostError::Retry(_)) => {}
                Err(refused) => panic!("{refused}"),
            }
        }
        for _ in 0..rng.index(4) {
            if sends {
                end.send(rng);
            }
        }
        for _ in 0..rng.index(4) {
            // Refused when there are as many as there can be.
            let _posted = end.node.recv(RecvFrom::any(), 0);
        }
        if !sends {
            let _posted = end.node.recv(RecvFrom::any(), 0);
        }
        world.turn(&[end.node]);
        end.take();
    }
}

#[test]
fn without_faults_no_connection_ends() {
    for seed in 1..4 {
        assert_eq!(soak(seed, Faults::default(), messages()), 0);
    }
}

#[test]
fn what_dies_harms_nothing_else() {
    for seed in 10..14 {
        let faults = Faults { deaths: 30, reuses: seed > 11, ..Faults::default() };
        assert!(soak(seed, faults, messages()) > 4, "connections have died");
    }
}

#[test]
fn devices_that_misbehave_cost_their_connection() {
    for (seed, faults) in [
        (20, Faults { repeats: 10, ..Faults::default() }),
        (21, Faults { partial_doorbells: 10, ..Faults::default() }),
        (22, Faults { short_doorbells: 10, ..Faults::default() }),
        (23, Faults { refusals: 60, ..Faults::default() }),
        (
            24,
            Faults {
                deaths: 5,
                repeats: 5,
                partial_doorbells: 5,
                refusals: 5,
                ..Faults::default()
            },
        ),
    ] {
        assert!(soak(seed, faults, messages()) > 0, "connections have ended: {seed}");
    }
}

/// A completion queue that breaks ends every connection of its port, whose buffers come back; the other end hears of it.
#[test]
fn a_broken_completion_queue_ends_every_connection() {
    run::<Rig>(EndpointType::Rdm, Sizes::default(), |world| {
        let [a, b, c] = ["a", "b", "c"].map(|text| world.node(text));
        let free = world.pool().free_count();
        let to = [world.introduce(&a, &b).0, world.introduce(&a, &c).0];
        // The first two hosts of the network have no port.
        world.ground().network().break_cqs(2);
        for (context, to) in to.into_iter().enumerate() {
            a.send(SendTo::peer(to), &[7; 2000], context.try_into().unwrap()).unwrap();
        }
        let mut gone = Vec::new();
        world.until("all is over", &[&a], || {
            gone.extend(a.events().into_iter().filter(|e| matches!(e, Event::PeerGone(_))));
            gone.len() == 2 && a.inbox_len() == 2
        });
        while let Some(got) = a.take() {
            assert_eq!((got.kind, got.status), (Kind::Sent, Status::PeerGone));
        }
        assert_eq!(world.pool().free_count(), free);
        let again = a.connect(b.name()).unwrap();
        let mut told = None;
        world.until("it is told", &[&a, &b], || {
            let _not_up = a.inject(SendTo::peer(again), b"m");
            told = told.or_else(|| a.poll_event());
            told.is_some()
        });
        assert_eq!(told, Some(Event::PeerGone(again)), "nothing is connected any more");
        let is_end = |e: &Event| matches!(e, Event::PeerGone(_));
        world.until("they hear it", &[&a, &b], || b.events().iter().any(is_end));
        world.until("they hear it", &[&a, &c], || c.events().iter().any(is_end));
    });
}

/// What a stranger says beside a message without a header, that is of this length, has to be right; and before the hello, in the middle of a
/// message, and with a write it is nonsense.
#[test]
fn what_is_said_beside_a_message_is_checked() {
    let beside =
        |sequence, messages, control| piece::write_brief(sequence, Grant { messages, control });
    let good = beside(0, 0, 0);
    // What is said before it; bytes, and what is said beside them; the fault.
    type Case<'a> = (&'a [Vec<u8>], (usize, u32), Option<FrameFault>);
    let cases: [Case<'_>; 12] = [
        (&[], (8, good), Some(FrameFault::Immediate)),
        (&[hello("s")], (8, good), None),
        (&[hello("s")], (1024, good), None),
        (&[hello("s")], (0, good), Some(FrameFault::Length)),
        (&[hello("s")], (8, beside(1, 0, 0)), Some(FrameFault::Sequence)),
        (&[hello("s"), message(0, 5, 5)], (8, good), Some(FrameFault::Sequence)),
        (&[hello("s"), message(0, 5, 5)], (8, beside(1, 0, 0)), None),
        (&[hello("s")], (8, good | 1 << 20), Some(FrameFault::Immediate)),
        (&[hello("s")], (8, beside(0, 1, 0)), Some(FrameFault::Credit)),
        (&[hello("s")], (8, beside(0, 0, 3)), Some(FrameFault::Credit)),
        (&[hello("s")], (8, beside(0, 0xffff, 15)), Some(FrameFault::Credit)),
        (
            &[hello("s"), message(0, 2000, 992)],
            (1008, beside(1, 0, 0)),
            Some(FrameFault::Immediate),
        ),
    ];
    for (said, (bytes, beside), fault) in cases {
        run::<Rig>(EndpointType::Rdm, Sizes::default(), |world| {
            let b = world.node("b");
            let stranger = world.ground().call(world.bump(), "b");
            for said in said {
                stranger.send(said);
                world.turns(10, &[&b]);
            }
            stranger.send_beside(&vec![3; bytes], beside);
            world.turns(10, &[&b]);
            assert_eq!(b.provider().rdma().last_fault(), fault, "{bytes} {beside:x}");
            assert_eq!(stranger.is_cut_off(), fault.is_some(), "{bytes} {beside:x}");
        });
    }
    run::<Rig>(EndpointType::Rdm, Sizes::default(), |world| {
        let b = world.node("b");
        let stranger = world.ground().call(world.bump(), "b");
        stranger.send(&hello("s"));
        stranger.write_beside(good);
        world.turns(10, &[&b]);
        assert_eq!(b.provider().rdma().last_fault(), Some(FrameFault::Immediate));
        assert!(stranger.is_cut_off(), "nothing has come into the receive");
    });
}

/// The time that the other end has begins when it is waited for, however long ago the last turn was.
#[test]
fn time_begins_with_the_wait() {
    run::<Rig>(EndpointType::Msg, Sizes::default(), |world| {
        let (a, b) = (world.node("a"), world.node("b"));
        let mut now = Instant::from_nanos(1);
        // One has turned before, the other has not.
        a.turn(now);
        now = now.saturating_add(Nanos::from_millis(60_000));
        let _to_b = a.connect(b.name()).unwrap();
        let mut told = [None; 2];
        for _ in 0..2_000 {
            for (node, told) in [&a, &b].into_iter().zip(&mut told) {
                node.turn(now);
                now = now.saturating_add(Nanos::from_micros(1));
                *told = told.or_else(|| node.poll_event());
            }
        }
        assert!(matches!(told, [Some(Event::Connected(_)), Some(Event::Connected(_))]), "{told:?}");
        let counters = [&a, &b].map(|node| node.provider().rdma().counters());
        assert_eq!(counters.map(|counters| counters.expired), [0; 2]);
    });
}

/// A queue pair that the host has and has not destroyed may go on with what was posted by it when the endpoint goes: that memory is
/// nobody's any more.
#[test]
fn what_the_host_has_not_destroyed_keeps_its_buffers() {
    run::<Rig>(EndpointType::Rdm, Sizes::default(), |world| {
        let (a, b, to_b, _) = world.pair();
        let mut up = false;
        world.until("it is up", &[&a, &b], || {
            up = up || a.inject(SendTo::peer(to_b), b"up").is_ok();
            up
        });
        let free = world.pool().free_count();
        a.send(SendTo::peer(to_b), &[7; 2000], 1).unwrap();
        assert_eq!(world.pool().free_count(), free - 1);
        let port = a.provider().rdma();
        port.ring_doorbell();
        world.ground().network().break_cqs(2);
        let mut kept = None;
        for _ in 0..1_000 {
            port.poll_cq(world.now(), &mut heapless::Vec::<_, 64>::new());
            if let Some(Request::Close { pair, .. }) = port.next_request() {
                kept = Some(pair);
                break;
            }
        }
        assert!(kept.is_some() && port.lingers());
        drop(a);
        assert_eq!(world.pool().free_count(), free - 1, "the device may still read it");
        drop(kept);
    });
}

fn hello(name: &str) -> Vec<u8> {
    hello_with(name, (0, 0))
}

fn hello_with(name: &str, (token, number): (u64, u64)) -> Vec<u8> {
    let limits = Limits { message_bytes_max: 4096, credit_messages: 16, credit_bytes: 16 << 10 };
    let name = spinwire_tests::conformance::name(name);
    Greeting { name, kind: EndpointKind::Rdm, limits, token, number }.to_wire().to_vec()
}

/// A message of so many bytes, as its first piece.
fn message(sequence: u32, length: u32, body: usize) -> Vec<u8> {
    let content = Content::Message { length, envelope: Envelope::default() };
    let mut bytes = piece::write(sequence, content, Grant::default()).to_vec();
    bytes.extend(vec![7; body]);
    bytes
}

/// Whether the last that a stranger has heard is the hello of `b`.
fn is_told(stranger: &Stranger<'_>) -> bool {
    let mut heard = [0; size_of::<Hello>()];
    stranger.heard(&mut heard);
    Greeting::from_wire(&heard).is_ok_and(|it| it.name.as_str() == "b")
}

/// The hello of one that differs in that byte.
fn other_hello(at: usize) -> Vec<Vec<u8>> {
    let mut bytes = hello("s");
    bytes[at] ^= 1;
    vec![bytes]
}

/// Whoever writes nonsense loses its connection, by which field it was is told, and a neighbour does not notice.
#[test]
fn who_writes_nonsense_is_cut_off_alone() {
    let grant = |messages, control| Grant { messages, control };
    let credit = |sequence, grant| piece::write(sequence, Content::Credit, grant).to_vec();
    let good = message(0, 5, 5);
    let flipped = |at: usize| {
        let mut bytes = good.clone();
        bytes[at] ^= 0x40;
        bytes
    };
    let goodbye = || piece::write(0, Content::Goodbye, Grant::default()).to_vec();
    let short_hello = hello("s")[..100].to_vec();
    let other_version = FrameFault::Version { theirs: WIRE_VERSION ^ 1 };
    // What is said, the last of which cannot be said; and the fault.
    let mut cases: Vec<(Vec<Vec<u8>>, FrameFault)> = vec![
        (vec![short_hello], FrameFault::Magic),
        (vec![Vec::new()], FrameFault::Magic),
        (other_hello(0), FrameFault::Magic),
        (other_hello(core::mem::offset_of!(Hello, version)), other_version),
        (other_hello(core::mem::offset_of!(Hello, wire_hash)), FrameFault::Hash),
        (vec![goodbye()], FrameFault::Magic),
        (vec![hello("s"), flipped(0)], FrameFault::Sequence),
        (vec![hello("s"), flipped(7)], FrameFault::Flags),
        (vec![hello("s"), flipped(8)], FrameFault::Tag),
        (vec![hello("s"), flipped(16)], FrameFault::Immediate),
        (vec![hello("s"), message(0, 5, 4)], FrameFault::Length),
        (vec![hello("s"), message(0, 5, 6)], FrameFault::Length),
        (vec![hello("s"), message(0, 1 << 20, 900)], FrameFault::Length),
        (vec![hello("s"), vec![1; 31]], FrameFault::Length),
        (vec![hello("s"), good.clone(), good.clone()], FrameFault::Sequence),
        (vec![hello("s"), credit(0, grant(1, 0))], FrameFault::Credit),
        (vec![hello("s"), credit(0, grant(0, 3))], FrameFault::Credit),
        (vec![hello("s"), credit(0, grant(u32::MAX, 0))], FrameFault::Credit),
        // The second piece of a message has another length than is left.
        (vec![hello("s"), message(0, 2000, 992), vec![3; 1009]], FrameFault::Length),
        (vec![hello("s"), message(0, 2000, 992), Vec::new()], FrameFault::Length),
    ];
    // More than it was allowed to, where nobody asks for any of it.
    let long = |sequence| message(sequence, 900, 900);
    cases.push((
        core::iter::once(hello("s")).chain((0..17).map(long)).collect(),
        FrameFault::Overrun,
    ));
    for (said, fault) in cases {
        run::<Rig>(EndpointType::Rdm, Sizes::default(), |world| {
            let (a, b) = (world.node("a"), world.node("b"));
            let (to_b, _) = world.introduce(&a, &b);
            let stranger = world.ground().call(world.bump(), "b");
            for bytes in &said {
                assert!(!stranger.is_cut_off(), "{fault:?}: too early");
                stranger.send(bytes);
                world.turn(&[&b]);
            }
            world.turns(10, &[&b]);
            let port = b.provider().rdma();
            assert_eq!(port.last_fault(), Some(fault), "{said:?}");
            assert_eq!(port.counters().corrupt, 1);
            assert!(stranger.is_cut_off(), "{fault:?}");
            // One of another build is told what this one is.
            let is_of_another_build =
                matches!(fault, FrameFault::Version { .. } | FrameFault::Hash);
            assert_eq!(is_told(&stranger), is_of_another_build || said.len() > 1, "{fault:?}");
            // Its neighbour goes on.
            b.recv(RecvFrom::any().tag(4), 1).unwrap();
            world.insist(&[&a, &b], || a.inject(SendTo::peer(to_b).tag(4), b"still here"));
            world.until("it is there", &[&a, &b], || b.take_message().is_some());
            // What it has said before that waits for a receive; its end does not wait for long.
            world.turns(200, &[&b]);
            let named = b.events().into_iter().filter(|e| matches!(e, Event::PeerCorrupt(_)));
            assert_eq!(named.count(), usize::from(said.len() > 1), "who had a name is reported");
        });
    }
}

/// The checks find what no device does.
#[test]
fn canaries_are_found() {
    for faults in [
        Faults { corruptions: 20, ..Faults::default() },
        Faults { losses: 20, ..Faults::default() },
    ] {
        let found = catch_unwind(AssertUnwindSafe(|| soak(30, faults, messages())));
        assert!(found.is_err() || found.is_ok_and(|ends| ends > 0), "{faults:?}");
    }
}
