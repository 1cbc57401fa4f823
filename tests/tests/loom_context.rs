//! Ids that travel to another thread and back while their slots are given to others. Run with `RUSTFLAGS="--cfg loom"`, in
//! release.
//!
//! The table belongs to one thread. The ids do not: they come back late, twice, or for somebody who is gone.
#![cfg(loom)]
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test stops at the first thing that is not as expected"
)]

use loom::sync::Arc;
use loom::thread;
use spinwire_dataplane::id::{OpTag, WrId};
use spinwire_dataplane::raw::line::Line;
use spinwire_dataplane::shm::lane::{Envelope, LaneMemory, LaneRx, LaneTx};
use spinwire_dataplane::table::{Key, Slab, SlabError, Slot};

/// Two lanes, there and back: two cells, a spill line and a credit line each.
struct Memory([Vec<Line>; 2]);

impl Memory {
    fn new() -> Arc<Self> {
        let lines = || (0..4).map(|_| Line::zeroed()).collect();
        let memory = Self([lines(), lines()]);
        memory.lane(0).reset();
        memory.lane(1).reset();
        Arc::new(memory)
    }

    fn lane(&self, which: usize) -> LaneMemory<'_> {
        match self.0.get(which).unwrap().as_slice() {
            [cells @ .., spill, credit] => {
                LaneMemory { cells, spill: core::slice::from_ref(spill), credit }
            }
            _ => panic!("four lines"),
        }
    }
}

fn send(tx: &LaneTx<'_>, id: WrId) {
    tx.stage(&id.as_raw().to_le_bytes(), Envelope::default()).unwrap();
    tx.publish();
}

fn take(rx: &LaneRx<'_>) -> Option<WrId> {
    let arrival = rx.peek().unwrap()?;
    let mut bytes = [0; 8];
    rx.copy_out(&arrival, &mut bytes);
    rx.advance(&arrival);
    Some(WrId::from_raw(u64::from_le_bytes(bytes)))
}

fn wait(rx: &LaneRx<'_>) -> WrId {
    loop {
        match take(rx) {
            Some(id) => break id,
            None => thread::yield_now(),
        }
    }
}

const fn id_of(key: Key) -> WrId {
    WrId::new(OpTag::Recv, key.generation(), key.slot())
}

const fn key_of(id: WrId) -> Key {
    let (_, generation, slot) = id.parts().unwrap();
    Key::new(slot, generation)
}

/// The first operation is given up, and another one gets its slot, before, while or after its completion is under way. That
/// completion is the first one's or stale, and never the other one's, whose own comes after.
#[test]
fn a_late_completion_is_stale_and_never_anothers() {
    loom::model(|| {
        let memory = Memory::new();
        let device = {
            let memory = Arc::clone(&memory);
            thread::spawn(move || {
                let (rx, tx) = (LaneRx::new(memory.lane(0), 64), LaneTx::new(memory.lane(1)));
                for _ in 0..2 {
                    send(&tx, wait(&rx));
                }
            })
        };
        let (tx, rx) = (LaneTx::new(memory.lane(0)), LaneRx::new(memory.lane(1), 64));
        let mut storage = [const { Slot::vacant() }; 1];
        let contexts: Slab<'_, &str> = Slab::new(&mut storage);
        let first = contexts.insert("first").unwrap();
        send(&tx, id_of(first));
        // In time, in some interleavings.
        let early = take(&rx);
        match early {
            Some(id) => assert_eq!(contexts.remove(key_of(id)), Ok("first")),
            None => assert_eq!(contexts.remove(first), Ok("first"), "given up"),
        }
        let second = contexts.insert("second").unwrap();
        assert_eq!(second.slot(), first.slot(), "the slot is used again");
        send(&tx, id_of(second));
        if early.is_none() {
            let late = key_of(wait(&rx));
            assert_eq!(contexts.check(late), Err(SlabError::Stale));
            assert_eq!(contexts.remove(late), Err(SlabError::Stale));
        }
        let id = wait(&rx);
        assert_eq!(contexts.remove(key_of(id)), Ok("second"));
        assert_eq!(contexts.remove(key_of(id)), Err(SlabError::Stale), "released twice");
        device.join().unwrap();
    });
}

/// A device that reports one completion twice: the second is stale, whoever has the slot by then.
#[test]
fn a_completion_that_comes_twice_counts_once() {
    loom::model(|| {
        let memory = Memory::new();
        let device = {
            let memory = Arc::clone(&memory);
            thread::spawn(move || {
                let (rx, tx) = (LaneRx::new(memory.lane(0), 64), LaneTx::new(memory.lane(1)));
                let id = wait(&rx);
                send(&tx, id);
                send(&tx, id);
            })
        };
        let (tx, rx) = (LaneTx::new(memory.lane(0)), LaneRx::new(memory.lane(1), 64));
        let mut storage = [const { Slot::vacant() }; 1];
        let contexts: Slab<'_, u32> = Slab::new(&mut storage);
        send(&tx, id_of(contexts.insert(1).unwrap()));
        assert_eq!(contexts.remove(key_of(wait(&rx))), Ok(1));
        let next = contexts.insert(2).unwrap();
        assert_eq!(contexts.remove(key_of(wait(&rx))), Err(SlabError::Stale));
        assert_eq!(contexts.remove(next), Ok(2));
        device.join().unwrap();
    });
}
