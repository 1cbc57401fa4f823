//! A process stops before each of its writes, for ever or while others act: afterwards every buffer is free or somebody's, and
//! every count is right. Run with `RUSTFLAGS="--cfg spinwire_steps"`.
//!
//! ```text
//!   for every operation, for every write in it:
//!     kill       the process dies there; one survivor reclaims, or two at once, or one dies while it does
//!     pause      it stops there while another does something from beginning to end, and then goes on
//! ```
//!
//! The processes are handles of one thread; the atomics of the data plane ask this test before each write.
#![cfg(spinwire_steps)]
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    reason = "a test stops at the first thing that is not as expected"
)]
#![allow(clippy::print_stdout, reason = "how much was tried is worth knowing")]

use std::cell::RefCell;

use spinwire_dataplane::pool::{AnyGuard, Description, Pool, PoolGeometry, Shape};
use spinwire_dataplane::shm::{ProcessLease, lease};
use spinwire_layouts::shm::{AccessMode, BufferId, DType, Orphans};
use spinwire_tests::pool::Rig;
use spinwire_tests::steps::stepped;

/// What a process can do. It ends with what it holds then.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Op {
    Acquire,
    AcquireDrop,
    Publish,
    PublishDrop,
    Detach,
    PresetDrop,
    Describe,
    AcquireAll,
    Wait,
    Get,
    GetDrop,
    GetDetach,
    GetOther,
    GetOtherDrop,
    Adopt,
    AdoptDrop,
    AdoptMut,
    AdoptMutDetach,
    GetMutDrop,
    AddRef,
    Release,
    Preallocate,
}

const OPS: [Op; 22] = [
    Op::Acquire,
    Op::AcquireDrop,
    Op::Publish,
    Op::PublishDrop,
    Op::Detach,
    Op::PresetDrop,
    Op::Describe,
    Op::AcquireAll,
    Op::Wait,
    Op::Get,
    Op::GetDrop,
    Op::GetDetach,
    Op::GetOther,
    Op::GetOtherDrop,
    Op::Adopt,
    Op::AdoptDrop,
    Op::AdoptMut,
    Op::AdoptMutDetach,
    Op::GetMutDrop,
    Op::AddRef,
    Op::Release,
    Op::Preallocate,
];

/// Five slots: one that b reads, one with a detached reference, three free ones of which the bits of two are clear.
#[derive(Clone, Copy)]
struct World {
    rig: Rig,
    a: &'static Pool<'static>,
    b: &'static Pool<'static>,
    c: &'static Pool<'static>,
    read: BufferId,
    left: BufferId,
}

const SLOTS: usize = 5;

/// What an operation has come to.
#[derive(Default)]
struct Outcome {
    guards: Vec<AnyGuard<'static>>,
    /// Detached references more (or less) than before.
    detached: i32,
}

fn world(orphans: Orphans) -> (World, Outcome) {
    let rig = Rig::new(PoolGeometry::new(4).class(64, 5).orphans(orphans));
    let (a, b, c) = (rig.process(1), rig.process(2), rig.process(3));
    let read = b.acquire(8).unwrap().publish().unwrap();
    let left = c.acquire(8).unwrap().detach().unwrap();
    // A search that finds all in use clears their bits; what is released then gets its own back.
    let all: Vec<_> = core::iter::from_fn(|| c.acquire(1).ok()).collect();
    assert_eq!(all.len(), SLOTS - 2);
    drop(all);
    let world = World { rig, a, b, c, read: read.id(), left };
    (world, Outcome { guards: vec![AnyGuard::Shared(read)], detached: 1 })
}

fn run(op: Op, pool: &'static Pool<'static>, read: BufferId, left: BufferId) -> Outcome {
    let mut out = Outcome::default();
    match op {
        Op::Acquire => out.guards.extend(pool.acquire(8).map(AnyGuard::Exclusive)),
        Op::AcquireDrop => drop(pool.acquire(8)),
        Op::Publish | Op::PublishDrop => {
            let published = pool.acquire(8).and_then(|guard| guard.publish()).ok();
            if op == Op::Publish {
                out.guards.extend(published.map(AnyGuard::Shared));
            }
        }
        Op::Detach => {
            let detached = pool.acquire(8).ok().and_then(|guard| guard.detach().ok());
            out.detached += i32::from(detached.is_some());
        }
        Op::PresetDrop => {
            let preset = pool.acquire(8).and_then(|guard| guard.set_ref_count(3));
            out.detached += 2 * i32::from(preset.is_ok());
        }
        Op::Describe => {
            let shape = Shape::contiguous(DType::U8, &[2, 4]).unwrap();
            if let Ok(mut guard) = pool.acquire(8) {
                guard.describe(&Description::new(DType::U8, shape)).unwrap();
                out.guards.push(AnyGuard::Exclusive(guard));
            }
        }
        Op::AcquireAll => {
            while let Ok(guard) = pool.acquire(8) {
                out.guards.push(AnyGuard::Exclusive(guard));
                // A dead process is never refused in its own mind.
                if out.guards.len() > SLOTS {
                    break;
                }
            }
        }
        Op::Wait => out.guards.extend(pool.acquire_until(8, None).map(AnyGuard::Exclusive)),
        Op::Get => out.guards.extend(pool.get(read).map(AnyGuard::Shared)),
        Op::GetDrop => drop(pool.get(read)),
        Op::GetDetach => {
            let detached = pool.get(read).ok().and_then(|guard| guard.detach().ok());
            out.detached += i32::from(detached.is_some());
        }
        Op::GetOther => out.guards.extend(pool.get(left).map(AnyGuard::Shared)),
        Op::GetOtherDrop => drop(pool.get(left)),
        Op::Adopt => {
            let adopted = pool.adopt(left).ok();
            out.detached -= i32::from(adopted.is_some());
            out.guards.extend(adopted.map(AnyGuard::Shared));
        }
        Op::AdoptDrop => out.detached -= i32::from(pool.adopt(left).is_ok()),
        Op::AdoptMut => {
            let adopted = pool.adopt_mut(left).ok();
            out.detached -= i32::from(adopted.is_some());
            out.guards.extend(adopted.map(AnyGuard::Exclusive));
        }
        Op::AdoptMutDetach => {
            if let Ok(guard) = pool.adopt_mut(left) {
                out.detached += i32::from(guard.detach().is_ok()) - 1;
            }
        }
        Op::GetMutDrop => drop(pool.get_as(left, AccessMode::ReadWrite)),
        Op::AddRef => out.detached += i32::from(pool.add_ref(read).is_ok()),
        Op::Release => out.detached -= i32::from(pool.release(left).is_ok()),
        Op::Preallocate => {
            let mut ids = [BufferId::NONE; 2];
            out.detached += 2 * i32::from(pool.preallocate(8, &mut ids).is_ok());
        }
    }
    out
}

/// Every word says exactly what the guards say that there are, every free slot can be found, and all of them are to be had.
fn check(world: &World, owners: &[(&'static Pool<'static>, &Outcome)], what: &str) -> u32 {
    let rows: Vec<_> = world.rig.segment.rows().collect();
    let mut expected = [(0_u32, false); SLOTS];
    for (pool, outcome) in owners {
        for guard in &outcome.guards {
            let (holders, writer) =
                &mut expected[usize::try_from(guard.id().unwrap().slot()).unwrap()];
            let alone = *holders == 0;
            let bit = 1 << pool.lease().slot();
            match guard.mode().unwrap() {
                AccessMode::ReadWrite => assert!(alone, "{what}: two owners: {rows:?}"),
                AccessMode::ReadOnly => assert!(!*writer, "{what}: two owners: {rows:?}"),
            }
            *holders |= bit;
            *writer |= guard.mode() == Ok(AccessMode::ReadWrite);
        }
    }
    for (row, (holders, writer)) in rows.iter().zip(expected) {
        assert_eq!((row.word.holders, row.word.writer), (holders, writer), "{what}: {row:?}");
        assert!(!row.word.is_free() || row.is_marked, "{what}: lost: {row:?}");
    }
    let free = rows.iter().filter(|row| row.word.is_free()).count();
    let taken: Vec<_> = core::iter::from_fn(|| world.b.acquire(1).ok()).collect();
    assert_eq!(taken.len(), free, "{what}: {rows:?}");
    drop(taken);
    rows.iter().map(|row| row.word.detached).sum()
}

fn exact(world: &World, owners: &[(&'static Pool<'static>, &Outcome)], what: &str) {
    let told: i32 = owners.iter().map(|(_, outcome)| outcome.detached).sum();
    assert_eq!(i64::from(check(world, owners, what)), i64::from(told), "{what}");
}

fn bury(world: &World, lease: &ProcessLease) -> bool {
    world.rig.mark_dead(lease) && world.rig.reclaim(lease).is_some_and(|done| done.leases == 1)
}

/// How many detached references there may be after `op` was killed: as before, or as it would have left them.
fn allowed(op: Op, orphans: Orphans) -> &'static [u32] {
    match (op, orphans) {
        (Op::Detach | Op::GetDetach, Orphans::Keep) => &[1, 2],
        // A buffer that was being written goes with all that was preset.
        (Op::PresetDrop, _) => &[1],
        // Attributed only once it is there: see `Pool::add_ref`.
        (Op::AddRef, _) => &[1, 2],
        (Op::Preallocate, Orphans::Keep) => &[1, 2, 3],
        (Op::Adopt | Op::AdoptDrop | Op::AdoptMut | Op::Release, _) => &[0, 1],
        (Op::AdoptMutDetach | Op::GetMutDrop, _) => &[0, 1],
        _ => &[1],
    }
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Survivors {
    One,
    TwoAtOnce,
    OneDies,
}

#[test]
fn a_process_that_dies_before_any_of_its_writes_takes_nothing_with_it() {
    let mut cases = 0_u32;
    for orphans in [Orphans::Keep, Orphans::Release] {
        for op in OPS {
            for survivors in [Survivors::One, Survivors::TwoAtOnce, Survivors::OneDies] {
                for step in 1.. {
                    let (died, tried) = killed(op, orphans, survivors, step);
                    cases += tried;
                    if !died {
                        break;
                    }
                }
            }
        }
    }
    println!("{cases} deaths");
    assert!(cases > 2000, "{cases}");
}

/// Whether the operation came as far as that step, and how many cases that was.
fn killed(op: Op, orphans: Orphans, survivors: Survivors, step: u32) -> (bool, u32) {
    let mut cases = 0;
    for reclaim_step in 1.. {
        let (world, base) = world(orphans);
        let World { a, b, c, read, left, .. } = world;
        let (outcome, writes) = stepped(step, None, || run(op, a, read, left));
        let died = writes >= step;
        // The dead hold what they hold without a destructor.
        outcome.guards.leak();
        let what = format!("{op:?} step {step}, {survivors:?} {reclaim_step}, {orphans:?}");
        let mut gone = vec![(c, Outcome::default())];
        let more = match survivors {
            Survivors::One => {
                assert!(bury(&world, a.lease()), "{what}");
                false
            }
            Survivors::TwoAtOnce => {
                assert!(world.rig.mark_dead(a.lease()));
                let other = move || {
                    let _by_me = world.rig.reclaim(a.lease());
                };
                let reclaim = || world.rig.reclaim(a.lease());
                stepped(reclaim_step, Some(Box::new(other)), reclaim).1 >= reclaim_step
            }
            Survivors::OneDies => {
                assert!(world.rig.mark_dead(a.lease()));
                let (_, writes) = stepped(reclaim_step, None, || world.rig.reclaim(a.lease()));
                gone.clear();
                assert!(bury(&world, c.lease()), "{what}");
                let _perhaps_done = world.rig.reclaim(a.lease());
                writes >= reclaim_step
            }
        };
        cases += 1;
        let mut owners = vec![(b, &base)];
        owners.extend(gone.iter().map(|(pool, outcome)| (*pool, outcome)));
        let detached = check(&world, &owners, &what);
        let mut fine = allowed(op, orphans).to_vec();
        if orphans == Orphans::Release && survivors == Survivors::OneDies {
            // What c had left behind goes with it.
            fine = fine.iter().flat_map(|n| [*n, n.saturating_sub(1)]).collect();
        }
        if died {
            assert!(fine.contains(&detached), "{what}: {detached}");
        }
        assert!(world.rig.reclaim(a.lease()).is_none(), "{what}: a second one finds nothing");
        let alive: Vec<_> = lease::rows(world.rig.segment).map(|row| row.slot).collect();
        assert!(!alive.contains(&a.lease().slot()), "{what}");
        if !more || !died {
            return (died, cases);
        }
    }
    (false, cases)
}

#[test]
fn whatever_another_does_between_two_writes_nobody_gets_what_is_anothers() {
    let mut cases = 0_u32;
    for first in OPS {
        for second in OPS {
            for step in 1.. {
                let (world, base) = world(Orphans::Keep);
                let World { a, b, c, read, left, .. } = world;
                let other = std::rc::Rc::new(RefCell::new(Outcome::default()));
                let told = std::rc::Rc::clone(&other);
                let meanwhile = move || *told.borrow_mut() = run(second, c, read, left);
                let (outcome, writes) =
                    stepped(step, Some(Box::new(meanwhile)), || run(first, a, read, left));
                if writes < step {
                    break;
                }
                cases += 1;
                let what = format!("{first:?} step {step}: {second:?}");
                exact(&world, &[(a, &outcome), (b, &base), (c, &other.borrow())], &what);
                // And the other way to end: all let go.
                drop(outcome);
                drop(other.take());
            }
        }
    }
    println!("{cases} pauses");
    assert!(cases > 1000, "{cases}");
}

/// A survivor stops in the middle; another one finishes; a successor joins in the same slot and takes the same buffers. The
/// slow one goes on and takes nothing from the successor.
#[test]
fn a_slow_survivor_takes_nothing_from_a_successor() {
    for orphans in [Orphans::Keep, Orphans::Release] {
        for lives in [1, 2, 3] {
            for step in 1.. {
                let (world, base) = world(orphans);
                let World { rig, a, b, read, .. } = world;
                let held = a.get(read).unwrap();
                let written = a.acquire(1).unwrap();
                let shared = a.acquire(1).unwrap().publish().unwrap();
                let shared_id = b.get(shared.id()).unwrap();
                // The dead run no destructor.
                vec![
                    AnyGuard::Shared(held),
                    AnyGuard::Exclusive(written),
                    AnyGuard::Shared(shared),
                ]
                .leak();
                assert!(rig.mark_dead(a.lease()));
                let successor = std::rc::Rc::new(RefCell::new(None));
                let told = std::rc::Rc::clone(&successor);
                let (slot, id) = (a.lease().slot(), shared_id.id());
                let meanwhile = move || {
                    let _by_me = rig.reclaim(a.lease());
                    for life in 1..=lives {
                        let pool = rig.process(7);
                        assert_eq!(pool.lease().slot(), slot);
                        let guards = vec![
                            AnyGuard::Shared(pool.get(read).unwrap()),
                            AnyGuard::Shared(pool.get(id).unwrap()),
                            AnyGuard::Exclusive(pool.acquire(1).unwrap()),
                        ];
                        if life < lives {
                            guards.leak();
                            assert!(bury(&world, pool.lease()));
                        } else {
                            *told.borrow_mut() = Some((pool, Outcome { guards, detached: 0 }));
                        }
                    }
                };
                let reclaim = || rig.reclaim(a.lease());
                let (_, writes) = stepped(step, Some(Box::new(meanwhile)), reclaim);
                if writes < step {
                    break;
                }
                let (pool, outcome) = successor.take().unwrap();
                let mine = Outcome { guards: vec![AnyGuard::Shared(shared_id)], detached: 0 };
                let what = format!("step {step}, {lives} lives, {orphans:?}");
                exact(&world, &[(pool, &outcome), (b, &base), (b, &mine)], &what);
                assert!(lease::is_held(rig.segment, pool.lease()), "{what}");
            }
        }
    }
}
