//! Parcels that no correct peer writes: out of range, twice, of foreign pools, of buffers that are somebody else's.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::arithmetic_side_effects,
    clippy::wildcard_enum_match_arm,
    reason = "a test stops at the first thing that is not as expected"
)]

use spinwire_dataplane::error::{Fatal, PostError};
use spinwire_dataplane::msg::{Kind, Lender, RecvFrom, SendTo};
use spinwire_dataplane::pool::{NoHost, PoolError, PoolGeometry};
use spinwire_dataplane::provider::{EndpointType, Event, ParcelWr, Provider};
use spinwire_dataplane::raw::line::Line;
use spinwire_dataplane::shm::lane::{LaneMemory, LaneRx, LaneTx};
use spinwire_layouts::pod::Pod;
use spinwire_layouts::shm::{BufferId, ParcelBody};
use spinwire_tests::conformance::{Shm, Sizes, World, run};
use spinwire_tests::pool::Rig as Pools;
use spinwire_tests::rng::Rng;

const BUFFERS: u32 = 8;

fn key(pools: &Pools, world: &World<'_, Shm>) -> u32 {
    // What a correct sender writes, read back from a completion.
    let (a, b) = (world.node("probe-a"), world.node("probe-b"));
    let (to_b, _) = world.introduce(&a, &b);
    let lender = Lender::<NoHost>::place(pools.process(9), world.bump(), 4).unwrap();
    b.recv(RecvFrom::any(), 0).unwrap();
    a.send_loan(&lender, SendTo::peer(to_b), lender.pool().acquire(8).unwrap()).unwrap();
    world.until("it is there", &[&a, &b], || b.inbox_len() == 1);
    let parcel = b.take_parcel().unwrap();
    assert!(parcel.is_of(pools.segment));
    parcel.pool_key()
}

/// Every id that a hostile sender can write gives a guard for reading what is published, or a typed error; the buffers of
/// others keep their references, whatever is done with the parcel.
#[test]
fn scribbled_ids_take_nothing_from_anybody() {
    run(EndpointType::Rdm, Sizes::default(), |world: &World<'_, Shm>| {
        let pools = Pools::new(PoolGeometry::new(4).class(64, BUFFERS));
        let pool_key = key(&pools, world);
        let (owner, b_pool) = (pools.process(1), pools.process(2));
        let published = owner.acquire(8).unwrap().publish().unwrap();
        let written = owner.acquire(8).unwrap();
        let detached = owner.acquire(8).unwrap().detach().unwrap();
        let freed = owner.acquire(8).unwrap().id();
        let (a, b, to_b, _) = world.pair();
        let mut rng = Rng::new(5);
        let mut told = [0_u32; 5];
        for round in 0..3000_u64 {
            let buffer = match round % 8 {
                0 => published.id(),
                1 => written.id(),
                2 => detached,
                3 => freed,
                4 => BufferId::from_raw(published.id().as_raw() ^ 1 << rng.below(64)),
                5 => BufferId::NONE,
                _ => BufferId::from_raw(rng.word()),
            };
            b.recv(RecvFrom::any(), 0).unwrap();
            let pool = if round % 5 == 0 { pool_key ^ 1 } else { pool_key };
            let wr = ParcelWr { to: to_b, buffer, pool, tag: None, immediate: None };
            world.insist(&[&a, &b], || a.provider().post_parcel(&wr));
            world.until("it is there", &[&a, &b], || b.inbox_len() == 1);
            assert_eq!(b.take().unwrap().kind, Kind::Parcel);
            let parcel = b.take_parcel().unwrap();
            let at = match parcel.take(b_pool) {
                Ok(guard) => {
                    assert!(guard.id() == published.id() || guard.id() == detached);
                    0
                }
                Err(untaken) => match untaken.error {
                    PoolError::Foreign => 1,
                    PoolError::Stale => 2,
                    PoolError::Busy => 3,
                    other => panic!("{other}"),
                },
            };
            told[at] += 1;
            assert_eq!((published.ref_count(), written.ref_count()), (1, 1), "round {round}");
            assert_eq!(owner.ref_count(detached), Ok(1), "round {round}");
        }
        assert!(told.iter().take(4).all(|count| *count > 50), "{told:?}");
    });
}

fn lane() -> (Vec<Line>, Vec<Line>, Line) {
    let lines = |n| (0..n).map(|_| Line::zeroed()).collect::<Vec<_>>();
    (lines(8), lines(16), Line::zeroed())
}

/// A number that is out of range, or comes twice, or a body of another length, is the end of that lane.
#[test]
fn numbers_out_of_range_and_repeated_are_corrupt() {
    for (offset, value) in [(1, 64), (1, 65), (1, u32::MAX), (0, 0x0100_0000), (0, u32::MAX)] {
        let (cells, spill, credit) = lane();
        let memory = LaneMemory { cells: &cells, spill: &spill, credit: &credit };
        memory.reset();
        let (tx, rx) = (LaneTx::new(memory), LaneRx::new(memory, 256));
        assert_eq!(tx.stage_parcel((BufferId::from_raw(7), 3), Default::default()), Ok(0));
        tx.publish();
        // Word 3 of the cell: pool in the low half, number in the high one.
        let word = cells[0].words()[3].load(spinwire_dataplane::sync::Ordering::Relaxed);
        let word = if offset == 0 {
            word & !0xffff_ffff | u64::from(value)
        } else {
            word & 0xffff_ffff | u64::from(value) << 32
        };
        cells[0].words()[3].store(word, spinwire_dataplane::sync::Ordering::Relaxed);
        let arrival = rx.peek().unwrap().unwrap();
        assert_eq!(rx.read_parcel(&arrival), Err(Fatal::Corrupt), "{offset} {value:x}");
    }
    let (cells, spill, credit) = lane();
    let memory = LaneMemory { cells: &cells, spill: &spill, credit: &credit };
    memory.reset();
    let (tx, rx) = (LaneTx::new(memory), LaneRx::new(memory, 256));
    for round in 0..2 {
        assert_eq!(tx.stage_parcel((BufferId::from_raw(7), 3), Default::default()), Ok(round));
    }
    tx.publish();
    let first = rx.peek().unwrap().unwrap();
    let descriptor = rx.read_parcel(&first).unwrap();
    rx.take_parcel(&first, &descriptor);
    let body = ParcelBody { buffer: 7, pool: 3, number: 0 };
    assert_eq!(body.as_bytes().len(), 16);
    let word = cells[0].words()[3].load(spinwire_dataplane::sync::Ordering::Relaxed);
    cells[1].words()[3].store(word, spinwire_dataplane::sync::Ordering::Relaxed);
    let second = rx.peek().unwrap().unwrap();
    assert_eq!(rx.read_parcel(&second), Err(Fatal::Corrupt), "number 0 again");
    rx.settle(1);
    assert_eq!(rx.read_parcel(&second).unwrap().number, 0, "settled, it may come again");
    // Numbers that it does not hold are not settled, however often it is asked.
    let before = credit.words()[4].load(spinwire_dataplane::sync::Ordering::Relaxed);
    rx.settle(u64::MAX);
    assert_eq!(credit.words()[4].load(spinwire_dataplane::sync::Ordering::Relaxed), before);
}

/// A receiver that scribbles over what it has settled loses the buffers that were sent to it, and nobody else loses any.
#[test]
fn a_receiver_that_settles_at_random_harms_itself() {
    run(EndpointType::Rdm, Sizes::default(), |world: &World<'_, Shm>| {
        let pools = Pools::new(PoolGeometry::new(4).class(64, 64));
        let (a_pool, b_pool) = (pools.process(1), pools.process(2));
        let lender = Lender::place(a_pool, world.bump(), 64).unwrap();
        let (a, b, to_b, to_a) = world.pair();
        let mine = a_pool.acquire(8).unwrap().publish().unwrap();
        let mut rng = Rng::new(11);
        for _round in 0..500 {
            b.recv(RecvFrom::any(), 0).unwrap();
            let guard = a_pool.acquire(8).unwrap();
            match a.send_loan(&lender, SendTo::peer(to_b), guard).map_err(|r| r.error) {
                Ok(()) | Err(PostError::Retry(_)) => {}
                Err(other) => panic!("{other}"),
            }
            // It says of numbers that it holds that it has done with them, before it has.
            b.provider().settle(to_a, rng.word());
            world.turn(&[&a, &b]);
            b.provider().settle(to_a, rng.word());
            lender.collect(&a);
            let _inbox = b.take();
            if let Some(parcel) = b.take_parcel() {
                let taken = parcel.take(b_pool).map_err(|untaken| untaken.error);
                assert!(matches!(taken, Ok(_) | Err(PoolError::Stale)));
            }
            assert_eq!(mine.ref_count(), 1);
            assert!(!matches!(a.poll_event(), Some(Event::PeerCorrupt(_))));
        }
        drop((lender, mine));
        assert!(pools.segment.stats().all(|class| class.free == class.slots));
    });
}
