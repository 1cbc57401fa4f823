//! From completions to entries: random posts, completions, errors and flushes on several queue pairs, against a list of all that
//! was posted. Through both kinds of dispatch.

use core::cell::{Cell, RefCell};
use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;

use proptest::prelude::*;
use spinwire_dataplane::cq::{
    Compression, Cqe, Event, GeneralCq, Handled, MiniFormat, MonoCq, QueueTable, Routed,
    TableError, Target, Tracked,
};
use spinwire_dataplane::raw::mmio::Device;
use spinwire_dataplane::raw::place::Bump;
use spinwire_dataplane::tracker::{Earlier, Posted, Stale};
use spinwire_tests::rng::Rng;

use crate::device::{Fields, REQ, REQ_ERR, RESP_ERR, RESP_SEND, Ring, pair};
use crate::with_arena;

type Pair = Tracked<'static, u64, u64>;

/// A send as the device has it.
#[derive(Clone, Copy, Debug)]
struct Wqe {
    start: u16,
    /// `None`: unsignaled.
    id: Option<u64>,
}

/// One queue pair of the oracle: what is under way, as posted.
#[derive(Default)]
struct Oracle {
    sends: VecDeque<Wqe>,
    receives: VecDeque<(u16, u64)>,
    failed: bool,
    /// Unsignaled ones of this pair that were posted, and that have ended.
    silent: (u64, u64),
}

#[derive(Default)]
struct Ledger {
    next_id: u64,
    /// How often each has ended; unsignaled ones have no id.
    ended: BTreeMap<u64, u32>,
    oracles: BTreeMap<u32, Oracle>,
}

impl Ledger {
    fn id(&mut self) -> u64 {
        self.next_id += 1;
        self.ended.insert(self.next_id, 0);
        self.next_id
    }

    fn end(&mut self, id: u64) {
        *self.ended.get_mut(&id).unwrap() += 1;
    }

    /// What an event ends, by the count that it states.
    fn note(&mut self, qpn: u32, event: &Event<'_, u64, u64>) {
        let silent = match *event {
            Event::Sent { entry, unsignaled, .. } => {
                self.end(entry);
                u64::from(unsignaled)
            }
            Event::Received { entry, .. } | Event::ReceiveFailed { entry, .. } => {
                self.end(entry);
                0
            }
            Event::SendFailed { wqe, earlier, .. } => {
                let (Earlier::Done(before) | Earlier::Flushed(before)) = earlier;
                let own = match wqe {
                    Posted::Signaled(entry) => {
                        self.end(entry);
                        0
                    }
                    Posted::Unsignaled => 1,
                    Posted::Fill => 0,
                };
                own + u64::from(before)
            }
            Event::Stale { .. } | Event::UnknownQueue { .. } | Event::Odd(_) => 0,
        };
        self.oracles.get_mut(&qpn).unwrap().silent.1 += silent;
    }
}

const QPNS: [u32; 4] = [0x11, 0x12, 0x51, 0x00ff_ffff];

/// Posts at random, has the device complete, fail and flush at random, and polls through `poll`.
struct Rig<'r> {
    ring: &'r Ring,
    pairs: BTreeMap<u32, Rc<Pair>>,
    ledger: Rc<RefCell<Ledger>>,
    rng: Rng,
}

impl<'r> Rig<'r> {
    fn new(ring: &'r Ring, seed: u64) -> Self {
        let pairs: BTreeMap<_, _> = QPNS.map(|qpn| (qpn, Rc::new(leaked_pair(qpn)))).into();
        let oracles = QPNS.map(|qpn| (qpn, Oracle::default())).into();
        let ledger = Rc::new(RefCell::new(Ledger { oracles, ..Ledger::default() }));
        Self { ring, pairs, ledger, rng: Rng::new(seed) }
    }

    fn post(&mut self, qpn: u32) {
        let pair = &self.pairs[&qpn];
        let mut ledger = self.ledger.borrow_mut();
        if self.rng.chance(30) {
            let id = ledger.id();
            let counter = pair.receive.pi();
            if pair.receive.post(1, Some(id)).is_ok() {
                ledger.oracles.get_mut(&qpn).unwrap().receives.push_back((counter, id));
            } else {
                ledger.ended.remove(&id);
            }
            return;
        }
        let blocks = u16::try_from(self.rng.between(1, 4)).unwrap();
        let start = pair.send.pi();
        let id = self.rng.chance(50).then(|| ledger.id());
        if pair.send.post(blocks, id).is_ok() {
            let oracle = ledger.oracles.get_mut(&qpn).unwrap();
            oracle.sends.push_back(Wqe { start, id });
            oracle.silent.0 += u64::from(id.is_none());
        } else if let Some(id) = id {
            ledger.ended.remove(&id);
        }
    }

    /// The device is done with something of this queue pair, well or not.
    fn complete(&mut self, qpn: u32) {
        let mut ledger = self.ledger.borrow_mut();
        let oracle = ledger.oracles.get_mut(&qpn).unwrap();
        if self.rng.chance(40) {
            if let Some((counter, _)) = oracle.receives.pop_front() {
                let (opcode, syndrome) = if oracle.failed { (RESP_ERR, 5) } else { (RESP_SEND, 0) };
                self.ring.push(Fields { opcode, qpn, counter, syndrome, ..Fields::default() });
            }
            return;
        }
        let signaled = oracle.sends.iter().position(|wqe| wqe.id.is_some());
        let fails = oracle.failed || self.rng.chance(3);
        let chosen = if fails && !oracle.sends.is_empty() {
            // An error may be of any up to the next signaled one.
            let last = signaled.unwrap_or(oracle.sends.len() - 1);
            Some(self.rng.index(last + 1))
        } else {
            signaled
        };
        let Some(chosen) = chosen else { return };
        let wqe = oracle.sends[chosen];
        oracle.sends.drain(..=chosen);
        let syndrome = if oracle.failed { 5 } else { 0x14 };
        oracle.failed |= fails;
        let opcode = if fails { REQ_ERR } else { REQ };
        let syndrome = if fails { syndrome } else { 0 };
        self.ring.push(Fields { opcode, qpn, counter: wqe.start, syndrome, ..Fields::default() });
    }

    fn run(&mut self, rounds: u32, mut poll: impl FnMut(u32) -> u32) {
        for _ in 0..rounds {
            let qpn = QPNS[self.rng.index(QPNS.len())];
            match self.rng.index(5) {
                0 | 1 => self.post(qpn),
                2 | 3 if self.ring.room() > 0 => self.complete(qpn),
                _ => {
                    let _count = poll(u32::try_from(self.rng.index(12)).unwrap());
                }
            }
        }
        while poll(64) > 0 {}
        self.settle();
    }

    /// Flushes what is left: then everything has ended once.
    fn settle(&self) {
        let mut ledger = self.ledger.borrow_mut();
        for (qpn, pair) in &self.pairs {
            for queue in [&pair.send, &pair.receive] {
                while let Some(flushed) = queue.flush() {
                    match flushed.entry {
                        Some(id) => ledger.end(id),
                        None => ledger.oracles.get_mut(qpn).unwrap().silent.1 += 1,
                    }
                }
            }
        }
        assert!(ledger.ended.len() > 50, "a run that does nothing shows nothing");
        assert!(ledger.ended.values().all(|times| *times == 1));
        for oracle in ledger.oracles.values() {
            assert_eq!(oracle.silent.0, oracle.silent.1);
        }
    }
}

/// A pair in memory that lives as long as the process, as handles in an `Rc` borrow from nothing.
fn leaked_pair(qpn: u32) -> Pair {
    let block = Box::leak(vec![core::mem::MaybeUninit::uninit(); 1 << 13].into_boxed_slice());
    pair(&Bump::new(block), qpn)
}

fn qpn_of(event: &Event<'_, u64, u64>, sent: impl Fn() -> u32) -> u32 {
    match event {
        Event::Sent { cqe, .. } => cqe.qpn(),
        Event::Received { cqe, .. } => cqe.qpn(),
        Event::SendFailed { failure, .. } | Event::ReceiveFailed { failure, .. } => failure.qpn,
        Event::Stale { .. } | Event::UnknownQueue { .. } | Event::Odd(_) => sent(),
    }
}

#[test]
fn mono_dispatch_ends_each_work_request_once() {
    for seed in 0..12 {
        let ring = Ring::new(16, 64);
        let mut rig = Rig::new(&ring, seed);
        with_arena(1 << 12, |bump| {
            let cq = MonoCq::new(ring.cq(Compression::Off), QueueTable::place(bump, 4).unwrap());
            for pair in rig.pairs.values() {
                cq.add(Rc::clone(pair)).map_err(|(error, _)| error).unwrap();
            }
            let ledger = Rc::clone(&rig.ledger);
            rig.run(1500, |budget| {
                cq.poll(budget, |event| {
                    let qpn = qpn_of(&event, || panic!("{event:?}"));
                    ledger.borrow_mut().note(qpn, &event);
                })
            });
            for qpn in QPNS {
                assert!(cq.remove(qpn).is_some() && cq.remove(qpn).is_none());
            }
        });
        assert!(rig.pairs.values().all(|pair| Rc::strong_count(pair) == 1), "all came back");
    }
}

#[test]
fn general_dispatch_ends_each_work_request_once() {
    for seed in 100..112 {
        let ring = Ring::new(16, 128);
        let mut rig = Rig::new(&ring, seed);
        with_arena(1 << 12, |bump| {
            let cq = GeneralCq::new(ring.cq(Compression::Off), QueueTable::place(bump, 4).unwrap());
            for (&qpn, pair) in &rig.pairs {
                let ledger = Rc::clone(&rig.ledger);
                let target: Rc<dyn Target> = Rc::new(Routed::new(Rc::clone(pair), move |event| {
                    assert_eq!(qpn_of(&event, || panic!("{event:?}")), qpn);
                    ledger.borrow_mut().note(qpn, &event);
                }));
                cq.add(target).map_err(|(error, _)| error).unwrap();
            }
            rig.run(1500, |budget| cq.poll(budget, |stray| panic!("{stray:?}")));
            QPNS.iter().for_each(|qpn| drop(cq.remove(*qpn)));
        });
        assert!(rig.pairs.values().all(|pair| Rc::strong_count(pair) == 1), "all came back");
    }
}

/// What came, in words.
fn told(event: &Event<'_, u64, u64>) -> String {
    match event {
        Event::Sent { entry, unsignaled, .. } => format!("sent {entry} and {unsignaled}"),
        Event::Received { entry, .. } => format!("received {entry}"),
        Event::SendFailed { wqe, earlier, failure } => {
            format!("failed {wqe:?} {earlier:?} {:#x}", failure.syndrome.0)
        }
        Event::ReceiveFailed { entry, failure } => {
            format!("receive failed {entry} {:#x}", failure.syndrome.0)
        }
        Event::Stale { qpn, side, wqe_counter, why, failure } => {
            format!("stale {qpn:#x} {side:?} {wqe_counter} {why:?} {}", failure.is_some())
        }
        Event::UnknownQueue { qpn, side, wqe_counter, failure } => {
            format!("unknown {qpn:#x} {side:?} {wqe_counter} {}", failure.is_some())
        }
        Event::Odd(odd) => format!("odd {:#x}", odd.op_own),
    }
}

#[test]
fn what_ends_nothing_is_told_and_counted() {
    let ring = Ring::new(16, 64);
    let pair = leaked_pair(0x11);
    with_arena(1 << 12, |bump| {
        let cq = MonoCq::new(ring.cq(Compression::Off), QueueTable::place(bump, 1).unwrap());
        cq.add(&pair).map_err(|(error, _)| error).unwrap();
        pair.send.post(2, None).unwrap();
        pair.send.post(2, Some(7)).unwrap();
        let fields = Fields { qpn: 0x11, ..Fields::default() };
        for (opcode, qpn, counter) in [
            (REQ, 0x11, 1),
            (REQ, 0x11, 0),
            (REQ, 0x11, 4),
            (RESP_SEND, 0x11, 0),
            (RESP_ERR, 0x11, 3),
            (REQ, 0x12, 2),
            (REQ_ERR, 0x13, 9),
            (9, 0x11, 2),
            (REQ, 0x11, 2),
        ] {
            ring.push(Fields { opcode, qpn, counter, syndrome: 5, ..fields });
        }
        let mut seen = Vec::new();
        assert_eq!(cq.poll(100, |event| seen.push(told(&event))), 9);
        let expected = [
            "stale 0x11 Send 1 NotAStart false",
            "stale 0x11 Send 0 Unsignaled false",
            "stale 0x11 Send 4 NotPosted false",
            "stale 0x11 Receive 0 NotPosted false",
            "stale 0x11 Receive 3 NotPosted true",
            "unknown 0x12 Send 2 false",
            "unknown 0x13 Send 9 true",
            "odd 0x90",
            "sent 7 and 1",
        ];
        assert_eq!(seen, expected);
        let counts = cq.counts();
        assert_eq!((counts.stale, counts.unknown_queue, counts.odd, counts.failed), (5, 2, 1, 2));
    });
    // The same in general: what is stale goes to the handler, the rest is stray.
    let ring = Ring::new(16, 64);
    with_arena(1 << 12, |bump| {
        let cq = GeneralCq::new(ring.cq(Compression::Off), QueueTable::place(bump, 1).unwrap());
        let handled = RefCell::new(Vec::new());
        let routed = Routed::new(&pair, |event| handled.borrow_mut().push(told(&event)));
        cq.add(&routed).map_err(|(error, _)| error).unwrap();
        for (opcode, qpn) in [(REQ, 0x11), (REQ, 0x12), (9, 0x11)] {
            ring.push(Fields { opcode, qpn, counter: 9, ..Fields::default() });
        }
        let mut strays = Vec::new();
        let stray = |event: Event<'_, (), ()>| strays.push(matches!(event, Event::Odd(_)));
        assert_eq!((cq.poll(100, stray), strays), (3, vec![false, true]));
        assert_eq!(*handled.borrow(), ["stale 0x11 Send 9 NotPosted false"]);
        let counts = cq.counts();
        assert_eq!((counts.stale, counts.unknown_queue, counts.odd), (1, 1, 1));
    });
}

#[test]
fn the_error_of_an_unsignaled_one_is_told_and_the_rest_is_flushed() {
    let ring = Ring::new(16, 64);
    let pair = leaked_pair(0x11);
    with_arena(1 << 12, |bump| {
        let cq = MonoCq::new(ring.cq(Compression::Off), QueueTable::place(bump, 1).unwrap());
        cq.add(&pair).map_err(|(error, _)| error).unwrap();
        for id in [None, None, None, Some(1), None, Some(2), None] {
            pair.send.post(1, id).unwrap();
        }
        for (counter, syndrome) in [(1, 0x13), (3, 5), (5, 5)] {
            let fields = Fields { opcode: REQ_ERR, qpn: 0x11, ..Fields::default() };
            ring.push(Fields { counter, syndrome, ..fields });
        }
        let mut seen = Vec::new();
        cq.poll(100, |event| seen.push(told(&event)));
        let expected = [
            "failed Unsignaled Done(1) 0x13",
            "failed Signaled(1) Flushed(1) 0x5",
            "failed Signaled(2) Flushed(1) 0x5",
        ];
        assert_eq!(seen, expected);
        assert!(pair.send.flush().is_some() && pair.send.flush().is_none());
        assert!(pair.send.is_failed() && pair.send.is_empty());
    });
}

/// Changes the table from within.
struct Changes<'c> {
    qpn: u32,
    seen: Cell<u32>,
    change: &'c dyn Fn(),
}

impl<'c> Changes<'c> {
    fn new(qpn: u32, change: &'c dyn Fn()) -> Rc<Self> {
        Rc::new(Self { qpn, seen: Cell::new(0), change })
    }
}

impl Target for Changes<'_> {
    fn qpn(&self) -> u32 {
        self.qpn
    }

    fn complete(&self, _cqe: &Cqe<'_>) -> Handled {
        (self.change)();
        self.seen.set(self.seen.get() + 1);
        Handled::Ended
    }
}

type Handle<'c> = Rc<dyn Target + 'c>;
type Shared<'c> = RefCell<Option<&'c GeneralCq<'c, Device, Handle<'c>>>>;

#[test]
fn a_handler_may_remove_its_own_queue() {
    let ring = Ring::new(16, 64);
    with_arena(1 << 12, |bump| {
        let cq: Shared<'_> = RefCell::new(None);
        let remove = || assert!(cq.borrow().unwrap().remove(5).is_none(), "it is in use");
        let leaves = Changes::new(5, &remove);
        let general =
            GeneralCq::new(ring.cq(Compression::Off), QueueTable::place(bump, 2).unwrap());
        cq.replace(Some(&general));
        let own = Rc::clone(&leaves);
        let handle: Handle<'_> = own;
        general.add(handle).map_err(|(error, _)| error).unwrap();
        let fields = Fields { opcode: REQ, qpn: 5, ..Fields::default() };
        ring.push(fields);
        ring.push(fields);
        let mut strays = 0;
        assert_eq!(general.poll(9, |_| strays += 1), 2);
        assert_eq!((strays, leaves.seen.get(), Rc::strong_count(&leaves)), (1, 1, 1));
        cq.replace(None);
    });
}

/// Who comes in its place under the same number stays; who is moved by the leave of another is found again.
#[test]
fn a_handler_may_put_another_in_its_place_and_remove_its_neighbour() {
    let ring = Ring::new(16, 64);
    with_arena(1 << 12, |bump| {
        let cq: Shared<'_> = RefCell::new(None);
        let newer = Changes::new(5, &|| ());
        let replace = || {
            assert!(cq.borrow().unwrap().remove(5).is_none(), "it is in use");
            let own = Rc::clone(&newer);
            let handle: Handle<'_> = own;
            cq.borrow().unwrap().add(handle).map_err(|(error, _)| error).unwrap();
        };
        let remove = || drop(cq.borrow().unwrap().remove(5));
        let older = Changes::new(5, &replace);
        // Its home is that of 5: it lies behind it, until 5 leaves.
        let neighbour = Changes::new(5 + 4, &remove);
        let general =
            GeneralCq::new(ring.cq(Compression::Off), QueueTable::place(bump, 2).unwrap());
        cq.replace(Some(&general));
        for target in [&older, &neighbour] {
            let own = Rc::clone(target);
            let handle: Handle<'_> = own;
            general.add(handle).map_err(|(error, _)| error).unwrap();
        }
        for qpn in [5, 5, 9, 5, 9] {
            ring.push(Fields { opcode: REQ, qpn, ..Fields::default() });
        }
        let mut strays = 0;
        assert_eq!(general.poll(9, |_| strays += 1), 5);
        let seen = [&older, &newer, &neighbour].map(|target| target.seen.get());
        assert_eq!((seen, strays), ([1, 1, 2], 1));
        let held = [&older, &newer, &neighbour].map(Rc::strong_count);
        assert_eq!(held, [1, 1, 2], "who is not in the table is not held by it");
        cq.replace(None);
    });
}

#[derive(Clone, Copy, Debug)]
enum Op {
    Insert(u32),
    Remove(u32),
}

fn op() -> impl Strategy<Value = Op> {
    // Few homes, so that they collide; some at the end, so that walks wrap.
    let qpn = prop_oneof![0..7_u32, (0..4_u32).prop_map(|n| n * 16 + 15), Just(1 << 24)];
    prop_oneof![qpn.clone().prop_map(Op::Insert), qpn.prop_map(Op::Remove)]
}

proptest! {
    #![proptest_config(crate::config())]

    #[test]
    fn the_table_knows_whom_it_was_given(ops in prop::collection::vec(op(), 0..80)) {
        let ring = Ring::new(16, 64);
        with_arena(1 << 12, |bump| {
            let pairs: BTreeMap<u32, Named> =
                (0..100).chain([1 << 24]).map(|qpn| (qpn, Named { qpn, hits: Cell::new(0) })).collect();
            let cq = GeneralCq::new(ring.cq(Compression::Off), QueueTable::place(bump, 8).unwrap());
            let mut model: BTreeMap<u32, u32> = BTreeMap::new();
            for op in ops {
                match op {
                    Op::Insert(qpn) => {
                        let answer = cq.add(&pairs[&qpn]).map_err(|(error, back)| {
                            assert_eq!(back.qpn, qpn);
                            error
                        });
                        let expected = if qpn >= 1 << 24 {
                            Err(TableError::Number)
                        } else if model.contains_key(&qpn) {
                            Err(TableError::Twice)
                        } else if model.len() == 8 {
                            Err(TableError::Full)
                        } else {
                            model.insert(qpn, 0);
                            Ok(())
                        };
                        assert_eq!(answer, expected);
                    }
                    Op::Remove(qpn) => {
                        let removed = cq.remove(qpn).map(|named| named.qpn);
                        assert_eq!(removed, model.remove(&qpn).map(|_| qpn));
                    }
                }
                for qpn in [0, 1, 2, 3, 15, 31, 47, 63] {
                    let before = pairs[&qpn].hits.get();
                    ring.push(Fields { opcode: REQ, qpn, ..Fields::default() });
                    let mut strays = 0;
                    cq.poll(1, |_| strays += 1);
                    let known = u32::from(model.contains_key(&qpn));
                    assert_eq!((strays, pairs[&qpn].hits.get() - before), (1 - known, known));
                }
            }
        });
    }
}

struct Named {
    qpn: u32,
    hits: Cell<u32>,
}

impl Target for Named {
    fn qpn(&self) -> u32 {
        self.qpn
    }

    fn complete(&self, cqe: &Cqe<'_>) -> Handled {
        assert!(matches!(cqe, Cqe::Sent(cqe) if cqe.qpn() == self.qpn));
        self.hits.set(self.hits.get() + 1);
        Handled::Ended
    }
}

#[test]
fn whatever_the_bytes_are_nothing_panics_and_nothing_ends_twice() {
    let forms = [
        (Compression::Off, 64),
        (Compression::Off, 128),
        (Compression::Basic(MiniFormat::Checksum), 64),
        (Compression::Enhanced(MiniFormat::ChecksumStride), 64),
    ];
    for (seed, (compression, entry)) in (0..).zip(forms) {
        let (ring, pair, mut rng) = (Ring::new(8, entry), leaked_pair(0x11), Rng::new(seed));
        let (mut posted, mut ended) = (0_u64, BTreeMap::new());
        with_arena(1 << 12, |bump| {
            let cq = MonoCq::new(ring.cq(compression), QueueTable::place(bump, 1).unwrap());
            cq.add(&pair).map_err(|(error, _)| error).unwrap();
            for _ in 0..6_000 {
                posted += 1;
                let entry = rng.chance(70).then_some(posted);
                let _full = pair.send.post(1, entry);
                let _full = pair.receive.post(1, Some(posted | 1 << 40));
                for queue in [&pair.send, &pair.receive] {
                    if queue.is_failed() && rng.chance(20) {
                        while let Some(flushed) = queue.flush() {
                            if let Some(id) = flushed.entry {
                                *ended.entry(id).or_insert(0) += 1;
                            }
                        }
                        queue.restart().unwrap();
                    }
                }
                scribble(&ring, &mut rng, &pair, usize::try_from(cq.cq().ci()).unwrap());
                let count = cq.poll(8, |event: Event<'_, u64, u64>| {
                    let id = match event {
                        Event::Sent { entry, cqe, .. } => {
                            let _bytes = (cqe.bytes(), cqe.timestamp(), cqe.inline());
                            Some(entry)
                        }
                        Event::Received { entry, cqe } => {
                            let mut out = [0; 64];
                            let _all = (cqe.arrival(), cqe.source_qpn(), cqe.short_info());
                            let _length = cqe.inline().map(|inline| inline.copy_out(&mut out));
                            Some(entry)
                        }
                        Event::SendFailed { wqe: Posted::Signaled(entry), .. }
                        | Event::ReceiveFailed { entry, .. } => Some(entry),
                        Event::Stale { why, .. } => {
                            assert_ne!(why, Stale::Reused);
                            None
                        }
                        Event::SendFailed { .. } | Event::UnknownQueue { .. } | Event::Odd(_) => {
                            None
                        }
                    };
                    if let Some(id) = id {
                        *ended.entry(id).or_insert(0) += 1;
                    }
                });
                assert!(count <= 8);
                if rng.chance(3) {
                    let mut taken = 0;
                    let said = cq.cq().discard(0x11, |_cqe| taken += 1);
                    assert_eq!(said, Ok(taken));
                }
            }
            assert!(ended.len() > 500, "{} {:?}", ended.len(), cq.counts());
            assert!(ended.values().all(|times| *times == 1));
        });
    }
}

/// A random entry near the next one, often one that nearly makes sense.
fn scribble(ring: &Ring, rng: &mut Rng, pair: &Pair, ci: usize) {
    let position = ci + rng.index(3);
    let mut bytes: [u8; 64] = core::array::from_fn(|_| rng.word().to_le_bytes()[0]);
    if rng.chance(80) {
        bytes[57..60].copy_from_slice(&[0, 0, 0x11]);
        let op_own = [0x00, 0x20, 0x20, 0xd0, 0x0c, 0x2c, 0x1c, 0x24][rng.index(8)];
        bytes[63] = op_own | ring.lap(position) & 1;
        let counter = if op_own & 0x20 == 0 { pair.send.ci() } else { pair.receive.ci() };
        bytes[60..62].copy_from_slice(&counter.to_be_bytes());
        bytes[62] = ring.lap(position);
        bytes[44..47].fill(0);
        bytes[47] &= 15;
    }
    ring.write(position, &bytes);
}
