//! Every order in which two ends connect, disconnect, send and look: they agree on what came of it.
//!
//! A step of one end is one call or one turn, so an order is a word over eight letters. After it both look until
//! nothing happens any more; then:
//! - both are connected, to each other, or neither is;
//! - nobody heard of more ends than the other has made, so that none hears of a connection that there never was;
//! - nobody is refused, for there is nobody else;
//! - what was sent on the connection that stands has arrived, in order, and what arrives from one address was sent to one.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::arithmetic_side_effects,
    reason = "a test stops at the first thing that is not as expected"
)]
#![allow(clippy::print_stderr, reason = "a failure says which order it was")]
#![allow(clippy::large_stack_frames, reason = "a test has a whole stack to itself")]

use std::collections::BTreeMap;

use spinwire_dataplane::error::PostError;
use spinwire_dataplane::id::Addr;
use spinwire_dataplane::msg::{Kind, RecvFrom, SendTo};
use spinwire_dataplane::provider::{EndpointType, Event};
use spinwire_layouts::word::join;
use spinwire_tests::conformance::{Loopback, Node, Rig, Shm, Sizes, World, run};

/// Steps of an order, after the first, which is a connect.
const STEPS: usize = 5;
/// Turns of either end after which nothing happens any more.
const QUIET_TURNS: u32 = 24;

const SIZES: Sizes = Sizes {
    endpoints: 2,
    pairs: 8,
    link_depth: 16,
    message_bytes_max: 512,
    peers_max: 4,
    send_depth: 4,
    recv_depth: 4,
    unexpected_depth: 16,
    unexpected_bytes_max: 64,
    contexts_max: 16,
    regions_max: 1,
};

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Step {
    Connect,
    Disconnect,
    Send,
    Turn,
}

const ALL: [Step; 4] = [Step::Connect, Step::Disconnect, Step::Send, Step::Turn];

const fn key(addr: Addr) -> u64 {
    join(addr.generation().as_raw(), addr.slot())
}

/// One end, and what it knows.
struct End<'m, R: Rig> {
    node: Node<'m, R>,
    /// The peer, from connect or from the event on.
    peer: Option<Addr>,
    connected: bool,
    disconnects: u32,
    gone: u32,
    refused: u32,
    /// Messages sent, by address.
    sent: BTreeMap<u64, u64>,
    /// By address that they came from: the address that they were sent to, and how many.
    arrived: BTreeMap<u64, (u64, u64)>,
}

impl<'m, R: Rig> End<'m, R> {
    fn new(world: &World<'m, R>, name: &str) -> Self {
        let node = world.node(name);
        let (sent, arrived) = (BTreeMap::new(), BTreeMap::new());
        Self {
            node,
            peer: None,
            connected: false,
            disconnects: 0,
            gone: 0,
            refused: 0,
            sent,
            arrived,
        }
    }

    /// Does one step. `None`: it is none here, and the order is the same as one without it.
    fn act(&mut self, step: Step, other: &Self, world: &World<'m, R>) -> Option<()> {
        match step {
            Step::Connect => {
                let known = self.peer.is_some();
                match self.node.connect(other.node.name()) {
                    Ok(addr) => self.peer = Some(addr),
                    // It hears at its next look that the one before is gone.
                    Err(PostError::Misuse(_) | PostError::Retry(_)) => {}
                    Err(fatal) => panic!("{fatal}"),
                }
                if known { None } else { Some(()) }
            }
            Step::Disconnect => {
                let addr = self.peer.take()?;
                self.node.disconnect(addr).unwrap();
                self.connected = false;
                self.disconnects += 1;
                Some(())
            }
            Step::Send => {
                let sent = self.send();
                self.node.flush();
                sent
            }
            Step::Turn => {
                self.turn(world);
                Some(())
            }
        }
    }

    /// Sends a message that says to which address, and which message it is.
    fn send(&mut self) -> Option<()> {
        let addr = self.peer?;
        let number = self.sent.entry(key(addr)).or_default();
        let bytes = number.to_le_bytes();
        self.node.inject(SendTo::peer(addr).immediate(key(addr)), &bytes).ok()?;
        *number += 1;
        Some(())
    }

    fn turn(&mut self, world: &World<'m, R>) {
        while self.node.posted_count() < 2 {
            self.node.recv(RecvFrom::any(), 0).unwrap();
        }
        self.node.turn(world.now());
        while let Some(got) = self.node.take() {
            if got.kind == Kind::Received {
                let to = got.immediate.unwrap();
                let number = u64::from_le_bytes(got.bytes[..].try_into().unwrap());
                let from = self.arrived.entry(key(got.source.unwrap())).or_insert((to, 0));
                assert_eq!(*from, (to, number), "in order, and of one connection");
                from.1 += 1;
            }
        }
        for event in self.node.events() {
            match event {
                Event::Connected(addr) => {
                    assert!(self.peer.is_none_or(|peer| peer == addr), "one connection at a time");
                    (self.peer, self.connected) = (Some(addr), true);
                }
                Event::PeerGone(addr) | Event::Refused(addr) => {
                    self.gone += u32::from(event == Event::PeerGone(addr));
                    self.refused += u32::from(event == Event::Refused(addr));
                    if self.peer == Some(addr) {
                        (self.peer, self.connected) = (None, false);
                    }
                }
                Event::PeerCorrupt(_) | Event::StaleCompletion(_) => panic!("{event:?}"),
            }
        }
    }
}

/// Plays an order. Returns whether it was one of its own.
fn play<R: Rig>(world: &World<'_, R>, steps: &[(usize, Step)]) -> bool {
    let mut ends = ["a", "b"].map(|name| End::new(world, name));
    for &(who, step) in steps {
        let [a, b] = &mut ends;
        let (end, other) = if who == 0 { (a, b) } else { (b, a) };
        if end.act(step, other, world).is_none() {
            return false;
        }
    }
    for _ in 0..QUIET_TURNS {
        ends.iter_mut().for_each(|end| end.turn(world));
    }
    let [a, b] = &mut ends;
    assert_eq!(a.connected, b.connected, "both are connected, or neither is");
    assert_eq!(a.peer.is_some(), a.connected, "and know it");
    assert_eq!(b.peer.is_some(), b.connected, "and know it");
    assert!(a.gone <= b.disconnects && b.gone <= a.disconnects, "ends that nobody has made");
    assert_eq!((a.refused, b.refused), (0, 0), "there is nobody else to be connected to");
    if a.connected {
        assert_eq!((a.send(), b.send()), (Some(()), Some(())));
        for _ in 0..QUIET_TURNS {
            a.turn(world);
            b.turn(world);
        }
        for (from, to) in [(&*a, &*b), (&*b, &*a)] {
            let addr = key(from.peer.unwrap());
            let arrived = to.arrived.get(&key(to.peer.unwrap()));
            assert_eq!(arrived, Some(&(addr, from.sent[&addr])), "all that was sent");
        }
    }
    true
}

/// Says which order it was if a panic passes by.
struct Told<'o>(&'o [(usize, Step)]);

impl Drop for Told<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("order: {:?}", self.0);
        }
    }
}

/// Plays an order, and every one that goes on from it. What goes on from one that is not its own is none either.
fn play_from<R: Rig>(steps: &mut Vec<(usize, Step)>, played: &mut u32) {
    let mut own = false;
    {
        let _told = Told(steps);
        run::<R>(EndpointType::Msg, SIZES, |world| own = play(world, steps));
    }
    if !own {
        return;
    }
    *played += 1;
    if steps.len() > STEPS {
        return;
    }
    for (who, step) in (0..2).flat_map(|who| ALL.map(|step| (who, step))) {
        steps.push((who, step));
        play_from::<R>(steps, played);
        steps.pop();
    }
}

fn every_order<R: Rig>() {
    let mut played = 0;
    play_from::<R>(&mut vec![(0, Step::Connect)], &mut played);
    // So that nobody takes an empty stage for a good play.
    assert!(played > 1000, "only {played} orders");
}

#[test]
fn two_ends_agree_over_shm() {
    every_order::<Shm>();
}

#[test]
fn two_ends_agree_over_loopback() {
    every_order::<Loopback>();
}
