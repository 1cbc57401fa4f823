//! Hostile segments: whatever is scribbled into shared memory, nobody panics, hangs or takes what is not theirs; and a
//! segment that is not as it should be is not joined.
//!
//! ```text
//!   honest a <--> honest b <--> honest c        turns, sends, receives, reclaim
//!        \            |            /
//!         segment <-- scribbler                 between the turns, by seed; or from a thread of its own
//! ```
//!
//! `SPINWIRE_CHAOS_ROUNDS` sets how many seeds are tried, `SPINWIRE_SEED` with which to begin.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    reason = "a test stops at the first thing that is not as expected"
)]
#![allow(clippy::large_stack_frames, reason = "a test has a whole stack to itself")]
#![allow(clippy::print_stderr, clippy::exit, reason = "a hanging test says where it hangs")]

use core::mem::offset_of;
use core::time::Duration;
use std::time::Instant as WallClock;

use spinwire_dataplane::error::{Fatal, PostError};
use spinwire_dataplane::id::Addr;
use spinwire_dataplane::msg::{RecvFrom, SendTo};
use spinwire_dataplane::provider::shm::ShmPort;
use spinwire_dataplane::provider::{EndpointType, Event};
use spinwire_dataplane::raw::line::{Line, word};
use spinwire_dataplane::shm::lease::Joiner;
use spinwire_dataplane::shm::{JoinError, Segment, directory, lease, reclaim};
use spinwire_dataplane::sync::{AtomicU64, Ordering};
use spinwire_layouts::shm::{
    EndpointEntry, LaneHeader, LaneState, LaneWord, Lease, LeaseState, ProcessEntry, SegmentHeader,
};
use spinwire_layouts::wire::message::{Head, flags};
use spinwire_tests::conformance::{Node, Shm, Sizes, World, name, run};
use spinwire_tests::rng::{Rng, pattern};

/// Seeds that are tried.
const ROUNDS: u64 = 150;

const SIZES: Sizes = Sizes {
    endpoints: 5,
    pairs: 8,
    link_depth: 8,
    message_bytes_max: 512,
    peers_max: 4,
    send_depth: 8,
    recv_depth: 8,
    unexpected_depth: 4,
    unexpected_bytes_max: 128,
    contexts_max: 16,
    regions_max: 1,
};

fn number_of(variable: &str, otherwise: u64) -> u64 {
    std::env::var(variable).map_or(otherwise, |text| text.parse().expect("a number"))
}

/// Ends the test, with a word on where it was, if it stands still for too long.
struct Watchdog {
    at: AtomicU64,
    over: AtomicU64,
}

impl Watchdog {
    const PATIENCE: Duration = Duration::from_secs(120);

    const fn new() -> Self {
        Self { at: AtomicU64::new(0), over: AtomicU64::new(0) }
    }

    fn step(&self, at: u64) {
        self.at.store(at, Ordering::Relaxed);
    }

    fn guard(&self, what: &str, work: impl FnOnce()) {
        struct Over<'w>(&'w AtomicU64);
        impl Drop for Over<'_> {
            fn drop(&mut self) {
                self.0.store(1, Ordering::Relaxed);
            }
        }
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let (mut seen, mut since) = (0, WallClock::now());
                while self.over.load(Ordering::Relaxed) == 0 {
                    std::thread::sleep(Duration::from_millis(20));
                    let at = self.at.load(Ordering::Relaxed);
                    if at != seen {
                        (seen, since) = (at, WallClock::now());
                    } else if since.elapsed() > Self::PATIENCE {
                        eprintln!("{what}: stands still at seed {at}");
                        std::process::exit(101);
                    }
                }
            });
            let _over = Over(&self.over);
            work();
        });
    }
}

/// The tables of a segment, in words.
struct Map {
    processes: usize,
    endpoints: usize,
    lanes: usize,
    rings: usize,
    end: usize,
}

impl Map {
    fn new(sizes: &Sizes) -> Self {
        let count = |n: u32| usize::try_from(n).unwrap();
        let processes = size_of::<SegmentHeader>();
        let endpoints = processes + count(sizes.endpoints) * size_of::<ProcessEntry>();
        let lanes = endpoints + count(sizes.endpoints) * size_of::<EndpointEntry>();
        let rings = (lanes + count(sizes.pairs) * size_of::<LaneHeader>()).next_multiple_of(4096);
        let end = usize::try_from(sizes.geometry().segment_bytes().unwrap()).unwrap();
        Self { processes, endpoints, lanes, rings, end }
    }

    /// A word of one of the structures, by weight.
    fn choose(&self, weights: &[u64; 7], rng: &mut Rng) -> usize {
        let lane = usize::try_from(SIZES.link_depth * 64 + SIZES.message_bytes_max * 2).unwrap();
        let cells = usize::try_from(SIZES.link_depth).unwrap();
        let lanes = usize::try_from(SIZES.pairs).unwrap();
        let byte = match rng.weighted(weights) {
            0 => offset_of!(SegmentHeader, liveness_epoch),
            1 => rng.between(self.processes, self.endpoints - 1),
            2 => rng.between(self.endpoints, self.lanes - 1),
            // State, sender, receiver, credit and the rest of a lane header.
            3 => self.lanes + rng.index(lanes) * size_of::<LaneHeader>() + rng.index(5) * 8,
            4 => self.lanes + rng.index(lanes) * size_of::<LaneHeader>() + 64 + rng.index(4) * 8,
            // The head of a cell.
            5 => self.rings + rng.index(lanes) * lane + rng.index(cells) * 64,
            _ => rng.between(self.rings, self.end - 1),
        };
        byte / 8
    }
}

/// A word as somebody would write it who wants to do harm.
fn value(rng: &mut Rng, old: u64) -> u64 {
    match rng.index(12) {
        0 => rng.word(),
        1 => rng.below(16),
        2 => u64::MAX - rng.below(16),
        3 | 4 => old ^ (1 << rng.below(64)),
        5 | 6 => old.wrapping_add(rng.below(40)).wrapping_sub(20),
        7 => {
            let state =
                [LeaseState::Free, LeaseState::Claiming, LeaseState::Live, LeaseState::Dead];
            let (generation, subject) = (small(rng), small(rng));
            Lease { state: state[rng.index(4)], generation, subject }.pack()
        }
        8 => {
            let state = [
                LaneState::Free,
                LaneState::Claiming,
                LaneState::Open,
                LaneState::SenderLeft,
                LaneState::ReceiverLeft,
            ];
            let process = |rng: &mut Rng| u16::try_from(rng.below(6)).unwrap();
            LaneWord {
                state: state[rng.index(5)],
                generation: small(rng),
                sender_process: process(rng),
                receiver_process: process(rng),
            }
            .pack()
        }
        9 | 10 => {
            let sequence = Head::unpack(old).sequence.wrapping_add(small(rng));
            let any = u8::try_from(rng.below(256)).unwrap();
            let bits = [flags::VALID, flags::VALID | flags::TAGGED | flags::IMMEDIATE, any];
            Head::pack(sequence, rng.index(700), bits[rng.index(3)])
        }
        _ => rng.below(6) | rng.below(4) << 32,
    }
}

fn small(rng: &mut Rng) -> u32 {
    u32::try_from(rng.below(12)).unwrap()
}

/// Which structures are hit how often: each seed has its own taste, so that no kind of damage always hides another.
fn taste(rng: &mut Rng) -> [u64; 7] {
    let mut weights = core::array::from_fn(|_| [0, 0, 1, 5][rng.index(4)]);
    // The cells are always in danger.
    weights[5] += 1;
    weights
}

fn scribble(lines: &[Line], map: &Map, weights: &[u64; 7], rng: &mut Rng) {
    if let Some(word) = word(lines, map.choose(weights, rng)) {
        let old = word.load(Ordering::Relaxed);
        word.store(value(rng, old), Ordering::Relaxed);
    }
}

/// What an honest process does in a while: everything, whatever comes of it.
fn live<'m>(
    world: &World<'m, Shm>,
    (node, known): (&Node<'m, Shm>, &mut Vec<Addr>),
    rng: &mut Rng,
    seen: &mut Seen,
) {
    let names = ["a", "b", "c", "nobody"];
    for _ in 0..rng.index(6) {
        let to = known.get(rng.index(known.len() + 1)).copied();
        let bytes = pattern(1, rng.index(513));
        match (rng.index(8), to) {
            (0, _) => {
                if let Ok(addr) = node.connect(&name(names[rng.index(4)])) {
                    known.push(addr);
                }
            }
            (1, Some(to)) if rng.chance(20) => {
                let _refused_where_stale = node.disconnect(to);
            }
            (2 | 3, Some(to)) => {
                let _refused = node.inject(SendTo::peer(to).tag(rng.below(2)), &bytes);
            }
            (4, Some(to)) => {
                let _refused = node.send(SendTo::peer(to).immediate(1), &bytes, 0);
            }
            (5, Some(to)) => {
                let _refused = node.recv(RecvFrom::peer(to), 0);
            }
            (6, _) => {
                let _refused = node.multi_recv(RecvFrom::any().tag(1), 64, 0);
            }
            _ => {
                let from = RecvFrom::any().tag_ignoring(0, u64::MAX);
                let _refused = node.recv(if rng.chance(50) { from } else { RecvFrom::any() }, 0);
            }
        }
    }
    node.turn(world.now());
    while let Some(got) = node.take() {
        assert!(got.offset + got.bytes.len() <= 512 + 64, "inside of its buffer: {got:?}");
        seen.messages += u64::from(got.source.is_some());
    }
    for event in node.events() {
        match event {
            Event::Connected(addr) => known.push(addr),
            Event::StaleCompletion(_) => panic!("no peer can forge an id: {event:?}"),
            Event::PeerCorrupt(_) => seen.corrupt += 1,
            Event::PeerGone(_) | Event::Refused(_) => seen.gone += 1,
        }
    }
    known.truncate(8);
}

/// What a watchful process does now and then.
fn watch(segment: &Segment<'_>, rng: &mut Rng) {
    let rows: Vec<_> = lease::rows(segment).collect();
    let _endpoints = directory::rows(segment).count();
    if let Some(row) = rows.get(rng.index(rows.len() + 1))
        && rng.chance(30)
    {
        let _dead = lease::mark_dead(segment, row.slot, row.lease);
        let _free = reclaim::reclaim(segment, row.slot);
    }
}

/// That something happened at all.
#[derive(Debug, Default)]
struct Seen {
    messages: u64,
    corrupt: u64,
    gone: u64,
    reopened: u64,
}

impl Seen {
    const fn add(&mut self, other: &Self) {
        self.messages += other.messages;
        self.corrupt += other.corrupt;
        self.gone += other.gone;
        self.reopened += other.reopened;
    }

    fn is_enough(&self, rounds: u64) {
        if rounds >= 100 {
            assert!(self.messages > rounds * 50, "{self:?}");
            assert!(self.corrupt > rounds && self.gone > rounds, "{self:?}");
            assert!(self.reopened > rounds / 4, "{self:?}");
        }
    }
}

/// An honest process; without an endpoint while it cannot open one.
struct Process<'m> {
    text: &'static str,
    node: Option<Node<'m, Shm>>,
    known: Vec<Addr>,
}

/// Three of them, and the loans that they share.
struct Party<'w, 'm> {
    world: &'w World<'m, Shm>,
    processes: [Process<'m>; 3],
    free: usize,
    rng: Rng,
    seen: Seen,
}

impl<'w, 'm> Party<'w, 'm> {
    fn new(world: &'w World<'m, Shm>, seed: u64) -> Self {
        let processes = ["a", "b", "c"].map(|text| {
            let node = Some(world.node(text));
            Process { text, node, known: Vec::new() }
        });
        let free = world.pool().free_count();
        Self { world, processes, free, rng: Rng::new(seed), seen: Seen::default() }
    }

    /// A turn of each process, and `after_each` whatever the enemy does.
    fn turn(&mut self, mut after_each: impl FnMut(&mut Rng)) {
        let Self { world, processes, rng, seen, .. } = self;
        for Process { node, known, .. } in processes {
            if let Some(node) = node {
                live(world, (node, known), rng, seen);
            }
            after_each(rng);
        }
        if rng.chance(5) {
            watch(&world.ground().segment, rng);
        }
        let at = rng.index(3);
        let fenced = |node: &Node<'m, Shm>| {
            node.connect(&name("nobody")) == Err(PostError::Fatal(Fatal::Fenced))
        };
        if self.processes[at].node.as_ref().is_none_or(fenced) {
            self.reopen(at);
        }
    }

    /// One that was fenced off opens its endpoint anew, if it can.
    fn reopen(&mut self, at: usize) {
        let (process, world) = (&mut self.processes[at], self.world);
        // Its loans come back with it.
        drop(process.node.take());
        process.known.clear();
        let joiner = Joiner { pid: 7, start_time: 7, joined_unix_ns: 7, command: [7; 64] };
        let segment = world.ground().segment;
        let Ok(lease) = lease::join(&segment, &joiner) else { return };
        let who = (&name(process.text), world.endpoint_type());
        if let Ok(port) = ShmPort::open(segment, lease, world.bump(), who, &SIZES.shm()) {
            process.node = Some(world.node_over(port, process.text));
            self.seen.reopened += 1;
        }
    }

    fn end(self) -> Seen {
        let nodes = self.processes.iter().filter_map(|process| process.node.as_ref());
        let posted: u32 = nodes.clone().map(|node| node.posted_count()).sum();
        let all = self.world.pool().free_count() + usize::try_from(posted).unwrap();
        assert_eq!(all, self.free, "every loan is somewhere");
        assert!(nodes.into_iter().all(|node| node.totals().stale_ids == 0), "no id was forged");
        self.seen
    }
}

fn scribbled_between_turns(endpoint_type: EndpointType, seed: u64) -> Seen {
    let mut seen = Seen::default();
    run::<Shm>(endpoint_type, SIZES, |world| {
        let map = Map::new(&SIZES);
        let mut party = Party::new(world, seed);
        let weights = taste(&mut party.rng);
        // How mad it is: from a word in a hundred turns to many in each.
        let (chance, most) = (party.rng.between(1, 50), party.rng.between(1, 8));
        for turn in 0..400 {
            party.turn(|rng| {
                if turn > 20 && rng.chance(u64::try_from(chance).unwrap()) {
                    for _ in 0..rng.between(1, most) {
                        scribble(world.lines(), &map, &weights, rng);
                    }
                }
            });
        }
        seen = party.end();
    });
    seen
}

#[test]
fn nothing_scribbled_between_turns_does_harm() {
    let watchdog = Watchdog::new();
    let (first, rounds) =
        (number_of("SPINWIRE_SEED", 1), number_of("SPINWIRE_CHAOS_ROUNDS", ROUNDS));
    let mut all = Seen::default();
    watchdog.guard("scribbled between turns", || {
        for seed in first..first + rounds {
            watchdog.step(seed);
            let _shown = Shown { seed };
            all.add(&scribbled_between_turns(EndpointType::Rdm, seed));
            all.add(&scribbled_between_turns(EndpointType::Msg, seed));
        }
    });
    all.is_enough(rounds);
}

/// Says which seed it was if a panic passes by.
struct Shown {
    seed: u64,
}

impl Drop for Shown {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!(
                "replay: SPINWIRE_SEED={} SPINWIRE_CHAOS_ROUNDS=1 cargo test -p spinwire-tests --test chaos_hostile",
                self.seed
            );
        }
    }
}

#[test]
fn nothing_scribbled_meanwhile_does_harm() {
    let watchdog = Watchdog::new();
    let rounds = number_of("SPINWIRE_CHAOS_ROUNDS", ROUNDS).div_ceil(10);
    watchdog.guard("scribbled meanwhile", || {
        for seed in 0..rounds {
            watchdog.step(seed + 1);
            for endpoint_type in [EndpointType::Rdm, EndpointType::Msg] {
                run::<Shm>(endpoint_type, SIZES, |world| scribbled_meanwhile(world, seed));
            }
        }
    });
}

fn scribbled_meanwhile(world: &World<'_, Shm>, seed: u64) {
    let (map, over) = (Map::new(&SIZES), AtomicU64::new(0));
    let lines = world.lines();
    let mut party = Party::new(world, seed);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut rng = Rng::new(seed ^ 0xBAD);
            let weights = taste(&mut rng);
            // From a word now and then to as many as it can.
            let pause = [0, 10, 1000, 100_000][rng.index(4)];
            while over.load(Ordering::Relaxed) == 0 {
                scribble(lines, &map, &weights, &mut rng);
                for _ in 0..pause {
                    core::hint::spin_loop();
                }
            }
        });
        for _ in 0..800 {
            party.turn(|_| {});
        }
        over.store(1, Ordering::Relaxed);
    });
    party.end();
}

/// Everything that can be wrong with the first cell of a lane, with the neighbour as witness.
#[test]
fn a_corrupt_cell_cuts_off_its_sender_and_nobody_else() {
    let valid = flags::VALID;
    for (what, head) in [
        ("longer than the longest", Head::pack(0, 513, valid)),
        ("much longer", Head::pack(0, 0xFF_FFFF, valid)),
        ("a flag that nobody knows", Head::pack(0, 8, valid | 0x40)),
        ("not valid", Head::pack(0, 8, 0)),
        ("a message of the future", Head::pack(1, 8, valid)),
        ("a message of another lap", Head::pack(8, 8, valid)),
        ("a sequence without flags", Head::pack(7, 0, 0)),
        ("all ones", u64::MAX),
    ] {
        run::<Shm>(EndpointType::Rdm, SIZES, |world| {
            let map = Map::new(&SIZES);
            let [a, b, c] = ["a", "b", "c"].map(|text| world.node(text));
            let to_b = a.connect(b.name()).unwrap();
            let (c_to_b, _) = world.introduce(&c, &b);
            // The first lane that is opened is the first of the table.
            a.inject(SendTo::peer(to_b), b"true").unwrap();
            let cell = word(world.lines(), map.rings / 8).unwrap();
            let good = cell.load(Ordering::Relaxed);
            a.flush();
            assert_ne!(cell.load(Ordering::Relaxed), good, "this is the cell");
            cell.store(head, Ordering::Relaxed);
            b.recv(RecvFrom::any(), 1).unwrap();
            world.turns(5, &[&b]);
            let events = b.events();
            let [Event::Connected(addr), Event::PeerCorrupt(gone)] = events[..] else {
                panic!("{what}: {events:?}");
            };
            assert_eq!((addr, b.inbox_len()), (gone, 0), "{what}");
            assert!(b.inject(SendTo::peer(addr), b"m").is_err(), "{what}");
            world.insist(&[&b, &c], || c.inject(SendTo::peer(c_to_b), b"neighbour"));
            world.until("it is there", &[&b, &c], || b.inbox_len() > 0);
            assert_eq!(b.take().unwrap().bytes, b"neighbour", "{what}");
            // And the one that was cut off is told.
            let mut event = None;
            world.until("it is told", &[&a, &b], || {
                event = a.poll_event();
                event.is_some()
            });
            assert_eq!(event, Some(Event::PeerGone(to_b)), "{what}");
        });
    }
}

/// A receiver that returns credit which it never had.
#[test]
fn impossible_credit_is_an_error_of_that_peer_alone() {
    for (offset, credit) in [
        (offset_of!(LaneHeader, credit_cells), u64::MAX),
        (offset_of!(LaneHeader, credit_cells), 9),
        (offset_of!(LaneHeader, credit_cells), 1 << 40),
        (offset_of!(LaneHeader, credit_spill_bytes), u64::MAX),
        (offset_of!(LaneHeader, credit_spill_bytes), 4096),
    ] {
        run::<Shm>(EndpointType::Rdm, SIZES, |world| {
            let map = Map::new(&SIZES);
            let [a, b, c] = ["a", "b", "c"].map(|text| world.node(text));
            let to_b = a.connect(b.name()).unwrap();
            a.inject(SendTo::peer(to_b), &[1; 60]).unwrap();
            let (to_c, _) = world.introduce(&a, &c);
            word(world.lines(), (map.lanes + offset) / 8).unwrap().store(credit, Ordering::Relaxed);
            let refused = (0..20).find_map(|_| a.inject(SendTo::peer(to_b), &[1; 60]).err());
            assert_eq!(refused, Some(PostError::Fatal(Fatal::Corrupt)), "{offset} {credit:#x}");
            c.recv(RecvFrom::any(), 1).unwrap();
            world.insist(&[&a, &c], || a.inject(SendTo::peer(to_c), b"neighbour"));
            world.until("it is there", &[&a, &c], || c.take().is_some());
        });
    }
}

/// The fields of the header that a join looks at, and the words of an error about each.
fn fields() -> Vec<(&'static str, usize, usize)> {
    macro_rules! fields {
        ($($field:ident: $bytes:literal),* $(,)?) => {
            vec![$((stringify!($field), offset_of!(SegmentHeader, $field), $bytes)),*]
        };
    }
    fields! {
        magic: 8, abi_version: 4, kind: 4, layout_hash: 8, segment_bytes: 8, ready: 8,
        process_count: 4, endpoint_count: 4, lane_count: 4, lane_cell_count: 4, lane_spill_bytes: 4,
        process_table_offset: 8, endpoint_table_offset: 8, lane_table_offset: 8, lane_ring_offset: 8,
    }
}

#[test]
fn a_header_with_a_wrong_field_is_not_joined_and_the_field_is_named() {
    run::<Shm>(EndpointType::Rdm, SIZES, |world| {
        let lines = world.lines();
        for (field, offset, bytes) in fields() {
            let word = word(lines, offset / 8).unwrap();
            let good = word.load(Ordering::Relaxed);
            let (shift, width) = (offset % 8 * 8, bytes * 8);
            let mask = if width == 64 { u64::MAX } else { ((1 << width) - 1) << shift };
            let flips = (0..width).map(|bit| good ^ 1 << (shift + bit));
            let others = [0, mask, good.wrapping_add(1 << shift) & mask, (mask / 3) & mask]
                .map(|value| good & !mask | value);
            for bad in flips.chain(others).filter(|&bad| bad != good) {
                word.store(bad, Ordering::Relaxed);
                let error = Segment::attach(lines).expect_err(field);
                let text = error.to_string();
                // A count that is possible, but not this one, shows in what follows from it.
                let follows = field.ends_with("_count") || field == "lane_spill_bytes";
                let named = text.contains(field)
                    || field == "ready" && error == JoinError::NotReady
                    || follows && (text.contains("segment_bytes") || text.contains("_offset"));
                assert!(named, "{field} = {bad:#x}: {text}");
            }
            word.store(good, Ordering::Relaxed);
            Segment::attach(lines).unwrap();
        }
    });
}

#[test]
fn a_name_that_is_none_is_not_joined() {
    run::<Shm>(EndpointType::Rdm, SIZES, |world| {
        let first = offset_of!(SegmentHeader, name) / 8;
        for (at, bad) in [
            (first, 0),
            (first, u64::from_le_bytes(*b"../../et")),
            (first, u64::MAX),
            (first + 7, u64::MAX),
            (first + 3, 0x41),
        ] {
            let word = word(world.lines(), at).unwrap();
            let good = word.load(Ordering::Relaxed);
            word.store(bad, Ordering::Relaxed);
            let error = Segment::attach(world.lines()).unwrap_err();
            assert!(matches!(error, JoinError::Name(_)), "{at} {bad:#x}: {error}");
            assert!(error.to_string().contains("name"));
            word.store(good, Ordering::Relaxed);
        }
        Segment::attach(world.lines()).unwrap();
    });
}

#[test]
fn a_truncated_or_unfinished_segment_is_not_joined() {
    run::<Shm>(EndpointType::Rdm, SIZES, |world| {
        let lines = world.lines();
        let total = Map::new(&SIZES).end / 64;
        assert_eq!(lines.len(), total);
        for length in 0..total {
            let error = Segment::attach(&lines[..length]).unwrap_err();
            let JoinError::Truncated { found, wanted } = error else { panic!("{length}: {error}") };
            assert_eq!(found, u64::try_from(length * 64).unwrap());
            assert!(found < wanted, "{found} {wanted}");
            assert!(error.to_string().contains("segment_bytes"));
        }
        Segment::attach(lines).unwrap();
        let ready = word(lines, offset_of!(SegmentHeader, ready) / 8).unwrap();
        ready.store(0, Ordering::Relaxed);
        assert_eq!(Segment::attach(lines).unwrap_err(), JoinError::NotReady);
        // A creator that died before it wrote anything.
        for line in lines {
            line.words().iter().for_each(|word| word.store(0, Ordering::Relaxed));
        }
        assert_eq!(Segment::attach(lines).unwrap_err(), JoinError::NotReady);
        // Something else altogether.
        for (i, line) in (1..).zip(lines) {
            line.words().iter().for_each(|word| word.store(i * 0x0101_0101, Ordering::Relaxed));
        }
        let error = Segment::attach(lines).unwrap_err();
        assert!(matches!(error, JoinError::Mismatch { field: "magic", .. }), "{error}");
    });
}
