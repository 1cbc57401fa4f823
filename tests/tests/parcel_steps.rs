//! A process stops before each of its writes while buffers go to and fro as messages, for ever or while its peer acts: nobody's
//! buffer is anybody else's, and in the end all are free. Run with `RUSTFLAGS="--cfg spinwire_steps"`.
//!
//! ```text
//!   for either end, for everything that it does, for every write in it:
//!     kill       it dies there, and is taken back from; the other one goes on
//!     pause      it stops there while the other one does something from beginning to end, and then goes on
//! ```
//!
//! Before that, each has sent the other buffers that are in the lane, in the other's hands unopened, taken, and settled.
#![cfg(spinwire_steps)]
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    reason = "a test stops at the first thing that is not as expected"
)]
#![allow(clippy::print_stdout, reason = "how much was tried is worth knowing")]

use core::cell::{Cell, RefCell};
use core::mem::MaybeUninit;

use spinwire_dataplane::error::{PostError, Refused};
use spinwire_dataplane::id::{Addr, Name};
use spinwire_dataplane::msg::matching::MatchingConfig;
use spinwire_dataplane::msg::{Endpoint, EndpointConfig, Lender, Parcel, RecvFrom, SendTo};
use spinwire_dataplane::poll::{Budget, Poll};
use spinwire_dataplane::pool::{Guard, NoHost, PoolError, PoolGeometry, Shared};
use spinwire_dataplane::provider::EndpointType;
use spinwire_dataplane::provider::shm::{ShmConfig, ShmPort};
use spinwire_dataplane::raw::line::Line;
use spinwire_dataplane::raw::loan::LoanPool;
use spinwire_dataplane::raw::place::Bump;
use spinwire_dataplane::shm::lease::{self, Joiner};
use spinwire_dataplane::shm::{Geometry, ProcessLease, Segment, reclaim};
use spinwire_dataplane::time::Instant;
use spinwire_tests::pool::{Rig, identity};
use spinwire_tests::steps::{is_dead, stepped};

const SLOTS: u32 = 16;
const WORDS: usize = 8;

type Held = Guard<'static, Shared, NoHost>;

/// One end, which nobody drops: the dead run no destructor.
struct End {
    endpoint: Endpoint<'static, ShmPort<'static, 'static>>,
    lease: ProcessLease,
    lender: RefCell<Option<Lender<'static, 'static, NoHost>>>,
    pool: &'static spinwire_dataplane::pool::Pool<'static>,
    receives: &'static LoanPool<'static>,
    peer: Cell<Option<Addr>>,
    parcels: RefCell<Vec<Parcel<'static>>>,
    /// Each with the number that was in it when it was taken.
    held: RefCell<Vec<(Held, u64)>>,
    /// What it goes on reading of what it has sent, where it does that.
    kept: Option<RefCell<Vec<(Held, u64)>>>,
    /// Whether what was sent to it may be gone, because its sender is, or has let go.
    may_lose: Cell<bool>,
    next: Cell<u64>,
}

/// What an end can do.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Op {
    Send,
    SendOn,
    Receive,
    Take,
    ReceiveAndTake,
    DropUnread,
    LetGo,
    Flush,
    Collect,
    WriteAgain,
    DropLender,
    Disconnect,
}

const OPS: [Op; 12] = [
    Op::Send,
    Op::SendOn,
    Op::Receive,
    Op::Take,
    Op::ReceiveAndTake,
    Op::DropUnread,
    Op::LetGo,
    Op::Flush,
    Op::Collect,
    Op::WriteAgain,
    Op::DropLender,
    Op::Disconnect,
];

fn block() -> Bump<'static> {
    Bump::new(Box::leak(vec![MaybeUninit::uninit(); 48 << 10].into_boxed_slice()))
}

impl Op {
    /// Whether it takes away what the other one has not taken yet.
    const fn takes_away(self) -> bool {
        matches!(self, Self::DropLender | Self::Disconnect)
    }
}

impl End {
    fn open(
        (rig, segment): (Rig, Segment<'static>),
        (name, first): (&str, u64),
        keeps: bool,
    ) -> &'static Self {
        let joiner = Joiner { pid: 1, start_time: 1, joined_unix_ns: 1, command: [0; 64] };
        let lease = lease::join(&segment, &joiner).unwrap();
        let matching =
            MatchingConfig { recv_depth: 16, unexpected_depth: 8, unexpected_bytes_max: 64 };
        let (bump, config) = (block(), ShmConfig { peers_max: 2, send_depth: 8, matching });
        let naming = (&Name::new(name).unwrap(), EndpointType::Rdm);
        let port = ShmPort::open(segment, lease, &bump, naming, &config).unwrap();
        let pool = rig.process(1);
        Box::leak(Box::new(Self {
            endpoint: Endpoint::new(port, &bump, &EndpointConfig { contexts_max: 32 }).unwrap(),
            lease,
            lender: RefCell::new(Some(Lender::place(pool, &bump, 8).unwrap())),
            pool,
            receives: LoanPool::place(&bump, 8, 64).unwrap(),
            peer: Cell::new(None),
            parcels: RefCell::default(),
            held: RefCell::default(),
            kept: keeps.then(RefCell::default),
            may_lose: Cell::new(false),
            next: Cell::new(first),
        }))
    }

    fn send(&self) {
        let lender = self.lender.borrow();
        let Some(lender) = lender.as_ref() else { return };
        let Ok(mut guard) = self.pool.acquire(WORDS * 8) else { return };
        let number = self.next.replace(self.next.get() + 1);
        for at in 0..WORDS {
            guard.copy_from(at * 8, &number.to_le_bytes()).unwrap();
        }
        let id = guard.id();
        let sent = self.endpoint.send_loan(lender, SendTo::peer(self.peer.get().unwrap()), guard);
        if let (Some(kept), Ok(())) = (&self.kept, &sent) {
            kept.borrow_mut().extend(self.pool.get(id).map(|guard| (guard, number)));
        }
        if let Err(Refused { error: PostError::Misuse(misuse), .. }) = sent {
            assert_eq!(misuse, spinwire_dataplane::error::Misuse::StaleAddress);
        }
    }

    fn send_on(&self) {
        let lender = self.lender.borrow();
        let (Some(lender), Some((guard, _))) = (lender.as_ref(), self.held.borrow_mut().pop())
        else {
            return;
        };
        let to = SendTo::peer(self.peer.get().unwrap());
        let _refused = self.endpoint.send_loan(lender, to, guard);
    }

    fn receive(&self) {
        while let Some(loan) = self.receives.lend() {
            if self.endpoint.post_recv(RecvFrom::any(), loan, 0).is_err() {
                break;
            }
        }
        let _busy = self.endpoint.turn(Instant::ORIGIN, Budget::DEFAULT).is_busy();
        while let Some(mut completion) = self.endpoint.poll() {
            self.parcels.borrow_mut().extend(completion.parcel.take());
        }
    }

    /// Takes the last parcel that came.
    fn take(&self) {
        let first = self.parcels.borrow_mut().pop();
        if let Some(parcel) = first {
            match parcel.take(self.pool) {
                Ok(guard) => {
                    let number = number_in(&guard);
                    self.held.borrow_mut().push((guard, number));
                }
                // Its sender is gone. What the dead are told does not matter.
                Err(untaken) => {
                    let late = untaken.error == PoolError::Stale && self.may_lose.get();
                    assert!(late || is_dead(), "{untaken}");
                }
            }
        }
    }

    fn write_again(&self) {
        let Some((guard, _)) = self.held.borrow_mut().pop() else { return };
        match guard.try_exclusive() {
            Ok(mut alone) => {
                for at in 0..WORDS {
                    alone.copy_from(at * 8, &u64::MAX.to_le_bytes()).unwrap();
                }
            }
            Err(kept) => {
                let number = number_in(&kept.guard);
                self.held.borrow_mut().push((kept.guard, number));
            }
        }
    }

    fn does(&self, op: Op) {
        match op {
            Op::Send => self.send(),
            Op::SendOn => self.send_on(),
            Op::Receive => self.receive(),
            Op::Take => self.take(),
            Op::ReceiveAndTake => {
                self.receive();
                self.take();
            }
            Op::DropUnread => drop(self.parcels.borrow_mut().pop()),
            Op::LetGo => drop(self.held.borrow_mut().pop()),
            Op::Flush => {}
            Op::Collect => {
                self.lender.borrow().as_ref().map(|lender| lender.collect(&self.endpoint));
            }
            Op::WriteAgain => self.write_again(),
            Op::DropLender => drop(self.lender.borrow_mut().take()),
            Op::Disconnect => drop(self.endpoint.disconnect(self.peer.get().unwrap())),
        }
        self.endpoint.flush();
    }

    /// What it holds is as it was when it got it, and held by it for all to see.
    fn check(&self, rig: &Rig, what: &str) {
        let bit = 1 << self.pool.lease().slot();
        let (held, kept) = (self.held.borrow(), self.kept.as_ref().map(RefCell::borrow));
        for (guard, number) in held.iter().chain(kept.iter().flat_map(|kept| kept.iter())) {
            assert_eq!(number_in(guard), *number, "{what}: somebody else writes into it");
            let row = rig.segment.rows().find(|row| row.id == guard.id());
            let word = row.unwrap_or_else(|| panic!("{what}: {guard:?} is stale")).word;
            assert!(word.holders & bit != 0 && !word.writer, "{what}: {guard:?}: {word:?}");
        }
    }

    /// Lets go of all that it has, and turns.
    fn wind_down(&self) {
        self.receive();
        self.parcels.borrow_mut().clear();
        self.held.borrow_mut().clear();
        self.kept.iter().for_each(|kept| kept.borrow_mut().clear());
        while self.endpoint.poll_event().is_some() {}
        self.endpoint.flush();
        if let Some(lender) = self.lender.borrow().as_ref() {
            lender.collect(&self.endpoint);
        }
    }

    fn under_way(&self) -> usize {
        self.lender.borrow().as_ref().map_or(0, Lender::under_way)
    }
}

fn number_in(guard: &Held) -> u64 {
    let mut bytes = [0; WORDS * 8];
    guard.copy_to(0, &mut bytes).unwrap();
    let (first, rest) = bytes.as_chunks::<8>().0.split_first().unwrap();
    assert!(rest.iter().all(|word| word == first), "torn");
    u64::from_le_bytes(*first)
}

/// Two ends, each of which has sent the other four buffers: one is in its lane, one unopened, one taken, one settled.
struct World {
    rig: Rig,
    segment: Segment<'static>,
    ends: [&'static End; 2],
}

impl World {
    fn new(keep: bool) -> Self {
        let geometry = Geometry {
            process_count: 2,
            endpoint_count: 2,
            lane_count: 4,
            lane_cell_count: 8,
            lane_spill_bytes: 1024,
        };
        let count = usize::try_from(geometry.segment_bytes().unwrap()).unwrap() / 64;
        let lines: &'static [Line] = (0..count).map(|_| Line::zeroed()).collect::<Vec<_>>().leak();
        let segment = Segment::format(lines, geometry, &identity()).unwrap();
        let rig = Rig::new(PoolGeometry::new(3).class(64, SLOTS));
        let ends = [("a", 100), ("b", 200)].map(|who| End::open((rig, segment), who, keep));
        let [a, b] = ends;
        a.peer.set(Some(a.endpoint.connect(&Name::new("b").unwrap()).unwrap()));
        b.peer.set(Some(b.endpoint.connect(&Name::new("a").unwrap()).unwrap()));
        for (from, to) in [(a, b), (b, a)] {
            for _ in 0..3 {
                from.does(Op::Send);
            }
            while to.parcels.borrow().len() < 3 {
                to.receive();
            }
            to.does(Op::Take);
            to.does(Op::LetGo);
            to.does(Op::Take);
        }
        for end in ends {
            end.does(Op::Send);
        }
        Self { rig, segment, ends }
    }

    /// That end is found dead by both tables.
    fn bury(&self, dead: &End, what: &str) {
        let row = lease::rows(&self.segment).find(|row| row.slot == dead.lease.slot()).unwrap();
        assert!(lease::mark_dead(&self.segment, row.slot, row.lease), "{what}");
        let _done = reclaim::reclaim(&self.segment, row.slot);
        assert!(self.rig.mark_dead(dead.pool.lease()), "{what}");
        assert!(self.rig.reclaim(dead.pool.lease()).is_some_and(|done| done.leases == 1), "{what}");
    }

    /// Those who live let go of everything: then every buffer is free, and can be found.
    fn wind_down(&self, living: &[&End], what: &str) {
        let all_free = || self.rig.segment.rows().all(|row| row.word.is_free() && row.is_marked);
        for _ in 0..200 {
            living.iter().for_each(|end| end.wind_down());
            if all_free() && living.iter().all(|end| end.under_way() == 0) {
                return;
            }
        }
        let rows: Vec<_> = self.rig.segment.rows().filter(|row| !row.word.is_free()).collect();
        panic!("{what}: not free: {rows:?}");
    }
}

/// Every end, everything that it does, everything that the other one does, with and without guards that senders keep.
fn for_all(case: impl Fn(&World, (usize, Op, Op), u32, &str) -> bool) -> u32 {
    let mut cases = 0;
    for who in [0, 1] {
        for (first, second) in OPS.iter().flat_map(|one| OPS.map(|other| (*one, other))) {
            for keep in [false, true] {
                for step in 1.. {
                    let what = format!("{who} at write {step} of {first:?}, {second:?}, {keep}");
                    if !case(&World::new(keep), (who, first, second), step, &what) {
                        break;
                    }
                    cases += 1;
                }
            }
        }
    }
    cases
}

#[test]
fn an_end_that_dies_before_any_of_its_writes_keeps_no_buffer() {
    let deaths = for_all(|world, (who, op, after), step, what| {
        let (dead, other) = (world.ends[who], world.ends[1 - who]);
        if stepped(step, None, || dead.does(op)).1 < step {
            return false;
        }
        // Nobody knows yet.
        other.may_lose.set(op.takes_away() || after.takes_away());
        other.does(after);
        other.check(&world.rig, what);
        world.bury(dead, what);
        other.check(&world.rig, what);
        other.may_lose.set(true);
        other.does(after);
        other.check(&world.rig, what);
        world.wind_down(&[other], what);
        true
    });
    println!("{deaths} deaths");
    assert!(deaths > 1000, "{deaths}");
}

#[test]
fn whatever_the_peer_does_between_two_writes_no_buffer_has_two_owners() {
    let pauses = for_all(|world, (who, first, second), step, what| {
        let (one, other) = (world.ends[who], world.ends[1 - who]);
        for end in world.ends {
            end.may_lose.set(first.takes_away() || second.takes_away());
        }
        let meanwhile = move || {
            other.does(second);
            other.does(Op::Collect);
        };
        if stepped(step, Some(Box::new(meanwhile)), || one.does(first)).1 < step {
            return false;
        }
        one.does(Op::Collect);
        for end in [one, other] {
            end.does(Op::ReceiveAndTake);
            end.does(Op::WriteAgain);
            end.check(&world.rig, what);
        }
        one.check(&world.rig, what);
        world.wind_down(&world.ends, what);
        true
    });
    println!("{pauses} pauses");
    assert!(pauses > 1000, "{pauses}");
}
