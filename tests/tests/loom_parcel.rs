//! Every interleaving of who sends a buffer of a pool, who receives it, and who takes back from the dead. Run with
//! `RUSTFLAGS="--cfg loom"`, in release.
//!
//! ```text
//!   sender: Endpoint, Lender ---- a real lane ----> receiver: Endpoint, Parcel, Guard
//!              '----------- one pool of one buffer ------------'
//! ```
//!
//! Endpoint, lender, parcel, pool and lane are those that ship; only what connects them (names, the table of lanes, matching)
//! is left out. As there is one buffer, whoever gets it too early writes into what another reads.
#![cfg(loom)]
#![allow(
    clippy::unwrap_used,
    clippy::arithmetic_side_effects,
    clippy::indexing_slicing,
    reason = "a test stops at the first thing that is not as expected"
)]

use core::cell::Cell;
use core::mem::MaybeUninit;

use heapless::VecView;
use loom::thread;
use spinwire_dataplane::error::{Misuse, PostError};
use spinwire_dataplane::id::{Addr, Generation, Name, WrId};
use spinwire_dataplane::msg::{Endpoint, EndpointConfig, Kind, Lender, Parcel, RecvFrom, SendTo};
use spinwire_dataplane::poll::{Budget, Poll};
use spinwire_dataplane::pool::{Guard, Mode, NoHost, Pool, PoolError, PoolGeometry, Shared};
use spinwire_dataplane::provider::{
    Buffer, CancelError, Caps, Cqe, EndpointType, Event, Info, KeepsPosted, LatencyClass, Limits,
    Modes, Order, ParcelWr, Paths, Provider, Published, RecvWr, Reliability, Select, SendWr,
    Source, Status, Waiting,
};
use spinwire_dataplane::raw::line::Line;
use spinwire_dataplane::raw::loan::LoanPool;
use spinwire_dataplane::raw::place::Bump;
use spinwire_dataplane::shm::lane::{Envelope, LaneMemory, LaneRx, LaneTx};
use spinwire_dataplane::time::Instant;
use spinwire_tests::pool::Rig;

/// Who is at the other end.
const PEER: Addr = Addr::new(0, Generation::FIRST);
const BYTES: usize = 16;

fn model(case: impl Fn() + Sync + Send + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = builder.preemption_bound.or(Some(3));
    builder.max_branches = 100_000;
    builder.check(case);
}

/// A lane of two cells; its memory is not given back.
fn lane() -> LaneMemory<'static> {
    let lines: &'static [Line] = (0..4).map(|_| Line::zeroed()).collect::<Vec<_>>().leak();
    let (credit, rings) = lines.split_last().unwrap();
    let (cells, spill) = rings.split_at(2);
    let memory = LaneMemory { cells, spill: &spill[..1], credit };
    memory.reset();
    memory
}

/// One end of a lane, as a provider. What was not asked for waits in the lane.
struct Wire {
    tx: Option<LaneTx<'static>>,
    rx: Option<LaneRx<'static>>,
    posted: Cell<Option<WrId>>,
    /// The other end was found dead, and the lane is gone.
    gone: Cell<bool>,
}

const INFO: Info = Info {
    provider: "wire",
    endpoint_type: EndpointType::Msg,
    caps: Caps::PARCEL,
    limits: Limits {
        message_bytes_max: 64,
        inject_bytes_max: 64,
        sge_max: 1,
        send_depth: 1,
        recv_depth: 1,
        unexpected_depth: 0,
        unexpected_bytes_max: 0,
        peers_max: 1,
    },
    reliability: Reliability::Reliable,
    order: Order::PerPeer,
    paths: Paths::NONE,
    modes: Modes::NONE,
    latency: LatencyClass::Memory,
    immediate_bits: 0,
};

#[expect(unsafe_code, reason = "a promise that is easily kept")]
// SAFETY: of a request it keeps the id alone.
unsafe impl KeepsPosted for Wire {}

impl Provider for Wire {
    fn info(&self) -> &Info {
        &INFO
    }
    fn connect(&self, _: &Name) -> Result<Addr, PostError> {
        Ok(PEER)
    }
    fn disconnect(&self, _: Addr) -> Result<(), Misuse> {
        Ok(())
    }
    fn post_send(&self, _: &SendWr<'_>) -> Result<(), PostError> {
        Err(Misuse::Unsupported.into())
    }
    fn post_parcel(&self, wr: &ParcelWr) -> Result<u8, PostError> {
        self.tx.as_ref().unwrap().stage_parcel((wr.buffer, wr.pool), Envelope::default())
    }
    fn is_settled(&self, _: Addr, number: u8) -> bool {
        self.gone.get() || self.tx.as_ref().unwrap().is_settled(number)
    }
    fn settle(&self, _: Addr, numbers: u64) {
        self.rx.as_ref().unwrap().settle(numbers);
    }
    fn post_recv(&self, wr: &RecvWr) -> Result<(), PostError> {
        self.posted.set(Some(wr.wr_id));
        Ok(())
    }
    fn ring_doorbell(&self) -> Published {
        let count = self.tx.as_ref().map_or(0, LaneTx::publish);
        Published { count, error: None }
    }
    fn poll_cq(&self, _: Instant, out: &mut VecView<Cqe>) {
        let Some(rx) = &self.rx else { return };
        let Some(wr_id) = self.posted.get() else { return };
        if let Some(arrival) = rx.peek().unwrap() {
            let descriptor = rx.read_parcel(&arrival).unwrap();
            rx.take_parcel(&arrival, &descriptor);
            self.posted.set(None);
            let cqe = Cqe::without_message(wr_id, Status::Success).with_parcel(descriptor);
            out.push(Cqe { source: Some(PEER), buffer: Buffer::Returned, ..cqe }).unwrap();
        }
    }
    fn poll_event(&self) -> Option<Event> {
        None
    }
    fn peek(&self, _: Source, _: Select) -> Option<Waiting> {
        None
    }
    fn cancel(&self, _: WrId) -> Result<(), CancelError> {
        Err(CancelError::Unsupported)
    }
}

type Handle = Pool<'static, NoHost>;
type End = Endpoint<'static, Wire>;

fn block() -> Bump<'static> {
    Bump::new(Box::leak(vec![MaybeUninit::uninit(); 64 << 10].into_boxed_slice()))
}

fn end(tx: Option<LaneMemory<'static>>, rx: Option<LaneMemory<'static>>) -> End {
    let wire = Wire {
        tx: tx.map(LaneTx::new),
        rx: rx.map(|memory| LaneRx::new(memory, 64)),
        posted: Cell::new(None),
        gone: Cell::new(false),
    };
    Endpoint::new(wire, &block(), &EndpointConfig { contexts_max: 4 }).unwrap()
}

/// The sender's side: an endpoint, and what it lends with.
fn sender(
    pool: &'static Handle,
    memory: LaneMemory<'static>,
) -> (End, Lender<'static, 'static, NoHost>) {
    (end(Some(memory), None), Lender::place(pool, &block(), 2).unwrap())
}

/// The next parcel at the receiver's side.
fn receive(endpoint: &End) -> Parcel<'static> {
    let loans = LoanPool::place(&block(), 1, 8).unwrap();
    let loans: &'static LoanPool<'static> = loans;
    endpoint.post_recv(RecvFrom::any(), loans.lend().unwrap(), 0).unwrap();
    loop {
        let _busy = endpoint.turn(Instant::ORIGIN, Budget::DEFAULT).is_busy();
        if let Some(mut completion) = endpoint.poll() {
            assert_eq!(completion.kind, Kind::Parcel);
            return completion.parcel.take().unwrap();
        }
        thread::yield_now();
    }
}

fn send(pool: &'static Handle, end: &End, lender: &Lender<'static, 'static, NoHost>, value: u8) {
    let mut guard = pool.acquire(BYTES).unwrap();
    guard.copy_from(0, &[value; BYTES]).unwrap();
    end.send_loan(lender, SendTo::peer(PEER), guard).unwrap();
    end.flush();
}

fn content<M: Mode>(guard: &Guard<'_, M>) -> [u8; BYTES] {
    let mut bytes = [0; BYTES];
    guard.copy_to(0, &mut bytes).unwrap();
    bytes
}

/// Reads for as long as it holds it.
fn assert_stays(guard: &Guard<'_, Shared>, value: u8) {
    for _ in 0..2 {
        assert_eq!(content(guard), [value; BYTES], "somebody has it too early");
    }
}

/// Collects until nothing is under way, and writes into the buffer as soon as it is free.
fn take_back(pool: &'static Handle, end: &End, lender: &Lender<'static, 'static, NoHost>) {
    loop {
        lender.collect(end);
        if let Ok(mut guard) = pool.acquire(BYTES) {
            guard.copy_from(0, &[99; BYTES]).unwrap();
            break;
        }
        thread::yield_now();
    }
    assert_eq!(lender.under_way(), 0, "what is free is not under way");
}

fn assert_all_free(rig: Rig) {
    for row in rig.segment.rows() {
        assert!(row.word.is_free() && row.is_marked, "{row:?}");
    }
}

fn rig() -> Rig {
    Rig::new(PoolGeometry::new(3).class(64, 1))
}

/// The receiver takes a guard, reads and lets go, while the sender collects and wants the buffer back.
#[test]
fn a_buffer_that_was_taken_is_not_free_before_it_is_let_go() {
    model(|| {
        let (rig, memory) = (rig(), lane());
        let (a, b) = (rig.join(1).unwrap(), rig.join(2).unwrap());
        let other = thread::spawn(move || {
            let pool = rig.open(a);
            let (end, lender) = sender(pool, memory);
            send(pool, &end, &lender, 7);
            take_back(pool, &end, &lender);
        });
        let (pool, end) = (rig.open(b), end(None, Some(memory)));
        let guard = receive(&end).take(pool).unwrap();
        end.flush();
        assert_stays(&guard, 7);
        drop(guard);
        other.join().unwrap();
        assert_all_free(rig);
    });
}

/// The receiver drops the parcel unread; the sender has its buffer back.
#[test]
fn a_parcel_that_is_dropped_is_settled() {
    model(|| {
        let (rig, memory) = (rig(), lane());
        let a = rig.join(1).unwrap();
        let other = thread::spawn(move || {
            let pool = rig.open(a);
            let (end, lender) = sender(pool, memory);
            send(pool, &end, &lender, 7);
            take_back(pool, &end, &lender);
        });
        let end = end(None, Some(memory));
        drop(receive(&end));
        end.flush();
        other.join().unwrap();
        assert_all_free(rig);
    });
}

/// The receiver wants to write what it got, and may as soon as the sender has let go; the sender, which gets guards without a
/// look at the slot for as long as it holds the buffer, never sees it written.
#[test]
fn a_receiver_writes_when_the_sender_has_let_go() {
    model(|| {
        let (rig, memory) = (rig(), lane());
        let (a, b) = (rig.join(1).unwrap(), rig.join(2).unwrap());
        let other = thread::spawn(move || {
            let pool = rig.open(a);
            let (end, lender) = sender(pool, memory);
            let mut guard = pool.acquire(BYTES).unwrap();
            guard.copy_from(0, &[7; BYTES]).unwrap();
            let id = guard.id();
            end.send_loan(&lender, SendTo::peer(PEER), guard).unwrap();
            end.flush();
            assert_stays(&pool.get(id).unwrap(), 7);
            while lender.under_way() > 0 {
                lender.collect(&end);
                thread::yield_now();
            }
        });
        let (pool, end) = (rig.open(b), end(None, Some(memory)));
        let mut guard = receive(&end).take(pool).unwrap();
        end.flush();
        let mut writer = loop {
            match guard.try_exclusive() {
                Ok(writer) => break writer,
                Err(kept) => {
                    assert_eq!(kept.error, PoolError::Busy);
                    guard = kept.guard;
                }
            }
            thread::yield_now();
        };
        writer.copy_from(0, &[8; BYTES]).unwrap();
        assert_eq!(content(&writer), [8; BYTES], "two hold it");
        drop(writer);
        other.join().unwrap();
        assert_all_free(rig);
    });
}

/// The receiver has taken the parcel and is killed; its reference is taken back while the sender lets go of its own.
#[test]
fn a_receiver_that_is_killed_keeps_nothing() {
    model(|| {
        let (rig, memory) = (rig(), lane());
        let (a, b) = (rig.join(1).unwrap(), rig.join(2).unwrap());
        let pool = rig.open(a);
        let (end_a, lender) = sender(pool, memory);
        send(pool, &end_a, &lender, 7);
        let end_b = end(None, Some(memory));
        // Dead: neither guard nor note comes to anything.
        vec![receive(&end_b).take(rig.open(b)).unwrap()].leak();
        Box::leak(Box::new(end_b));
        assert!(rig.mark_dead(&b));
        let survivor = thread::spawn(move || rig.reclaim(&b).map(|done| done.leases));
        end_a.provider().gone.set(true);
        take_back(pool, &end_a, &lender);
        assert_eq!(survivor.join().unwrap(), Some(1));
        assert_all_free(rig);
    });
}

/// The sender is killed with the buffer under way; what it held is taken back while the receiver takes the parcel. Either it has
/// the buffer, whole, for as long as it likes, or it is too late.
#[test]
fn a_sender_that_is_killed_takes_nothing_back() {
    model(|| {
        let (rig, memory) = (rig(), lane());
        let (a, b, c) = (rig.join(1).unwrap(), rig.join(2).unwrap(), rig.join(3).unwrap());
        let pool = rig.open(a);
        let (end_a, lender) = sender(pool, memory);
        send(pool, &end_a, &lender, 7);
        Box::leak(Box::new(lender));
        assert!(rig.mark_dead(&a));
        let survivor = thread::spawn(move || {
            assert_eq!(rig.reclaim(&a).map(|done| done.leases), Some(1));
            // Whoever has it next writes.
            if let Ok(mut guard) = rig.open(c).acquire(BYTES) {
                guard.copy_from(0, &[99; BYTES]).unwrap();
            }
        });
        let (pool, end) = (rig.open(b), end(None, Some(memory)));
        match receive(&end).take(pool) {
            Ok(guard) => assert_stays(&guard, 7),
            Err(untaken) => {
                assert!(matches!(untaken.error, PoolError::Stale | PoolError::Busy), "{untaken}")
            }
        }
        end.flush();
        survivor.join().unwrap();
        assert_all_free(rig);
    });
}
