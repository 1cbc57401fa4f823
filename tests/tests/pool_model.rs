//! The pool against a naive oracle: random operations of up to four processes, some of which die, in pools of a few buffers.
//!
//! The oracle is a table of who has what, kept in plain numbers: no words, no bits, no generations. After each operation every
//! buffer is asked for and compared.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    reason = "a test stops at the first thing that is not as expected"
)]
#![allow(clippy::large_stack_frames, reason = "a test has a whole stack to itself")]

use std::collections::BTreeMap;

use spinwire_dataplane::error::Retry;
use spinwire_dataplane::pool::{ExclusiveGuard, Pool, PoolError, PoolGeometry, SharedGuard};
use spinwire_layouts::shm::{BufferId, Orphans};
use spinwire_tests::pool::Rig;
use spinwire_tests::rng::{Rng, pattern};

/// Sequences that are tried.
const ROUNDS: u64 = 400;
const OPERATIONS: u64 = 300;

/// One use of one buffer, as the oracle knows it.
#[derive(Debug)]
struct Buffer {
    id: BufferId,
    class: usize,
    /// Who writes.
    writer: Option<usize>,
    /// Guards for reading, by process.
    readers: BTreeMap<usize, u32>,
    detached: u32,
    detached_by: Option<usize>,
    /// What it holds.
    content: u64,
    length: usize,
}

impl Buffer {
    fn references(&self) -> u32 {
        let holders = self.readers.len() + usize::from(self.writer.is_some());
        u32::try_from(holders).unwrap() + self.detached
    }
}

/// A process and its guards.
struct Process {
    number: usize,
    pool: &'static Pool<'static>,
    writes: Vec<ExclusiveGuard<'static>>,
    reads: Vec<SharedGuard<'static>>,
}

struct Model {
    rig: Rig,
    slots: [usize; 2],
    orphans: Orphans,
    live: Vec<Buffer>,
    gone: Vec<BufferId>,
    processes: Vec<Process>,
    joined: usize,
    rng: Rng,
    stamp: u64,
}

const SIZES: [usize; 2] = [64, 256];

impl Model {
    fn new(seed: u64) -> Self {
        let mut rng = Rng::new(seed);
        let slots = [1 + rng.index(4), 1 + rng.index(3)];
        let orphans = [Orphans::Keep, Orphans::Release][rng.index(2)];
        let count = |n: usize| u32::try_from(n).unwrap();
        let geometry = PoolGeometry::new([4, 16, 20, 32][rng.index(4)])
            .class(64, count(slots[0]))
            .class(256, count(slots[1]))
            .orphans(orphans);
        let rig = Rig::new(geometry);
        let mut model = Self {
            rig,
            slots,
            orphans,
            live: Vec::new(),
            gone: Vec::new(),
            processes: Vec::new(),
            joined: 0,
            rng,
            stamp: seed << 20,
        };
        for _ in 0..1 + model.rng.index(4) {
            model.join();
        }
        model
    }

    fn join(&mut self) {
        self.joined += 1;
        let pool = self.rig.process(u32::try_from(self.joined).unwrap());
        let (writes, reads) = (Vec::new(), Vec::new());
        self.processes.push(Process { number: self.joined, pool, writes, reads });
    }

    fn find(&mut self, id: BufferId) -> Option<&mut Buffer> {
        self.live.iter_mut().find(|buffer| buffer.id == id)
    }

    /// A buffer without references is no more.
    fn settle(&mut self) {
        let gone = &mut self.gone;
        self.live.retain(|buffer| {
            let stays = buffer.references() > 0;
            if !stays {
                gone.push(buffer.id);
            }
            stays
        });
    }

    /// An id, in most cases of a buffer that lives.
    fn any_id(&mut self) -> BufferId {
        let (live, gone) = (self.live.len(), self.gone.len());
        if live > 0 && (gone == 0 || self.rng.chance(85)) {
            self.live[self.rng.index(live)].id
        } else if gone > 0 {
            self.gone[self.rng.index(gone)]
        } else {
            BufferId::NONE
        }
    }

    fn step(&mut self) {
        if self.processes.is_empty() || self.processes.len() < 4 && self.rng.chance(3) {
            return self.join();
        }
        let who = self.rng.index(self.processes.len());
        match self.rng.weighted(&[20, 8, 20, 8, 12, 8, 8, 15, 15, 12, 6, 8, 6, 2]) {
            0 => self.acquire(who),
            1 => self.write(who),
            2 => self.get(who),
            3 => self.get_mut(who),
            4 => self.adopt(who),
            5 => self.adopt_mut(who),
            6 => self.publish(who),
            7 => self.drop_write(who),
            8 => self.drop_read(who),
            9 => self.detach(who),
            10 => self.add_ref(who),
            11 => self.release(who),
            12 => self.preset(who),
            _ => self.die(who),
        }
        self.settle();
    }

    fn acquire(&mut self, who: usize) {
        let class = self.rng.index(2);
        let length = SIZES[class] - self.rng.index(SIZES[class] / 2);
        let process = &mut self.processes[who];
        let used = self.live.iter().filter(|buffer| buffer.class == class).count();
        match process.pool.acquire(length) {
            Ok(mut guard) => {
                assert!(used < self.slots[class], "more buffers than there are");
                let id = guard.id();
                assert!(self.live.iter().all(|b| b.id.slot() != id.slot()), "given twice");
                assert!(!self.gone.contains(&id), "an id that was given before");
                self.stamp += 1;
                guard.copy_from(0, &pattern(self.stamp, length)).unwrap();
                self.live.push(Buffer {
                    id,
                    class,
                    writer: Some(process.number),
                    readers: BTreeMap::new(),
                    detached: 0,
                    detached_by: None,
                    content: self.stamp,
                    length,
                });
                process.writes.push(guard);
            }
            Err(error) => {
                assert_eq!(error, PoolError::Retry(Retry::PoolFull));
                assert_eq!(used, self.slots[class], "refused although one is free");
            }
        }
    }

    fn write(&mut self, who: usize) {
        let process = &mut self.processes[who];
        let Some(guard) = process.writes.last_mut() else { return };
        self.stamp += 1;
        let (stamp, id) = (self.stamp, guard.id());
        let bytes = guard.as_mut_slice::<u8>().unwrap();
        bytes.copy_from_slice(&pattern(stamp, bytes.len()));
        self.find(id).unwrap().content = stamp;
    }

    /// Why nobody may read it, or write it.
    fn refusal(&mut self, id: BufferId, alone: bool, adopts: bool) -> Option<PoolError> {
        if id == BufferId::NONE {
            return Some(PoolError::Foreign);
        }
        let Some(buffer) = self.find(id) else { return Some(PoolError::Stale) };
        let held = buffer.writer.is_some() || alone && !buffer.readers.is_empty();
        if held {
            Some(PoolError::Busy)
        } else if adopts && buffer.detached == 0 {
            Some(PoolError::NoReference)
        } else {
            None
        }
    }

    fn read_with(&mut self, who: usize, adopts: bool) {
        let id = self.any_id();
        let expected = self.refusal(id, false, adopts);
        let process = &mut self.processes[who];
        let got = if adopts { process.pool.adopt(id) } else { process.pool.get(id) };
        match got {
            Ok(guard) => {
                assert_eq!(expected, None);
                let number = process.number;
                process.reads.push(guard);
                let buffer = self.find(id).unwrap();
                *buffer.readers.entry(number).or_default() += 1;
                buffer.detached -= u32::from(adopts);
            }
            Err(error) => assert_eq!(Some(error), expected),
        }
    }

    fn write_with(&mut self, who: usize, adopts: bool) {
        let id = self.any_id();
        let expected = self.refusal(id, true, adopts);
        let process = &mut self.processes[who];
        let got = if adopts { process.pool.adopt_mut(id) } else { process.pool.get_mut(id) };
        match got {
            Ok(guard) => {
                assert_eq!(expected, None);
                let number = process.number;
                process.writes.push(guard);
                let buffer = self.find(id).unwrap();
                buffer.writer = Some(number);
                buffer.detached -= u32::from(adopts);
            }
            Err(error) => assert_eq!(Some(error), expected),
        }
    }

    fn get(&mut self, who: usize) {
        self.read_with(who, false);
    }

    fn adopt(&mut self, who: usize) {
        self.read_with(who, true);
    }

    fn get_mut(&mut self, who: usize) {
        self.write_with(who, false);
    }

    fn adopt_mut(&mut self, who: usize) {
        self.write_with(who, true);
    }

    fn publish(&mut self, who: usize) {
        let process = &mut self.processes[who];
        let Some(guard) = process.writes.pop() else { return };
        let (id, number) = (guard.id(), process.number);
        process.reads.push(guard.publish().unwrap());
        let buffer = self.find(id).unwrap();
        buffer.writer = None;
        buffer.readers.insert(number, 1);
    }

    fn drop_write(&mut self, who: usize) {
        let Some(guard) = self.processes[who].writes.pop() else { return };
        self.find(guard.id()).unwrap().writer = None;
    }

    fn let_go(&mut self, id: BufferId, number: usize) {
        let readers = &mut self.find(id).unwrap().readers;
        let guards = readers.get_mut(&number).unwrap();
        *guards -= 1;
        if *guards == 0 {
            readers.remove(&number);
        }
    }

    fn drop_read(&mut self, who: usize) {
        let process = &mut self.processes[who];
        if process.reads.is_empty() {
            return;
        }
        let at = self.rng.index(process.reads.len());
        let (guard, number) = (process.reads.swap_remove(at), process.number);
        let id = guard.id();
        drop(guard);
        self.let_go(id, number);
    }

    fn detach(&mut self, who: usize) {
        let process = &mut self.processes[who];
        let number = process.number;
        let (id, writes) = match (process.writes.pop(), process.reads.pop()) {
            (Some(write), read) => {
                process.reads.extend(read);
                (write.detach().map_err(|kept| process.writes.push(kept.guard)), true)
            }
            (None, Some(read)) => {
                (read.detach().map_err(|kept| process.reads.push(kept.guard)), false)
            }
            (None, None) => return,
        };
        let Ok(id) = id else { panic!("there are fewer than 31 references") };
        if writes {
            self.find(id).unwrap().writer = None;
        } else {
            self.let_go(id, number);
        }
        let buffer = self.find(id).unwrap();
        buffer.detached += 1;
        buffer.detached_by = Some(number);
    }

    fn add_ref(&mut self, who: usize) {
        let id = self.any_id();
        let number = self.processes[who].number;
        let got = self.processes[who].pool.add_ref(id);
        let Some(buffer) = self.find(id) else {
            assert!(matches!(got, Err(PoolError::Stale | PoolError::Foreign)));
            return;
        };
        if buffer.detached == 31 {
            return assert_eq!(got, Err(PoolError::TooManyReferences));
        }
        buffer.detached += 1;
        buffer.detached_by = Some(number);
        assert_eq!(got, Ok(buffer.references()));
    }

    fn release(&mut self, who: usize) {
        let id = self.any_id();
        let got = self.processes[who].pool.release(id);
        let Some(buffer) = self.find(id) else {
            assert!(matches!(got, Err(PoolError::Stale | PoolError::Foreign)));
            return;
        };
        if buffer.detached == 0 {
            return assert_eq!(got, Err(PoolError::NoReference));
        }
        buffer.detached -= 1;
        assert_eq!(got, Ok(buffer.references()));
    }

    fn preset(&mut self, who: usize) {
        let count = u32::try_from(self.rng.below(5)).unwrap();
        let process = &self.processes[who];
        let Some(guard) = process.writes.last() else { return };
        let (id, number, got) = (guard.id(), process.number, guard.set_ref_count(count));
        let Some(detached) = count.checked_sub(1) else {
            return assert_eq!(got, Err(PoolError::NoReference));
        };
        got.unwrap();
        let buffer = self.find(id).unwrap();
        buffer.detached = detached;
        buffer.detached_by = Some(number);
    }

    fn die(&mut self, who: usize) {
        let Process { number, pool, writes, reads } = self.processes.swap_remove(who);
        // No destructor runs.
        writes.leak();
        reads.leak();
        assert!(self.rig.mark_dead(pool.lease()));
        let done = self.rig.reclaim(pool.lease()).unwrap();
        assert_eq!(done.leases, 1);
        let orphans = self.orphans;
        let mut held = 0;
        for buffer in &mut self.live {
            let before = (buffer.references(), buffer.detached);
            if buffer.writer == Some(number) {
                buffer.writer = None;
                buffer.detached = 0;
            }
            buffer.readers.remove(&number);
            if orphans == Orphans::Release && buffer.detached_by == Some(number) {
                buffer.detached = 0;
            }
            held += u32::from(before != (buffer.references(), buffer.detached));
        }
        assert_eq!(done.held, held);
        assert!(self.rig.reclaim(pool.lease()).is_none());
    }

    fn check(&self) {
        for Process { pool, writes, reads, .. } in &self.processes {
            for buffer in &self.live {
                assert_eq!(pool.ref_count(buffer.id), Ok(buffer.references()), "{buffer:?}");
            }
            for id in self.gone.iter().rev().take(20) {
                assert_eq!(pool.ref_count(*id), Err(PoolError::Stale));
            }
            let content = |id: BufferId, bytes: &[u8]| {
                let buffer = self.live.iter().find(|buffer| buffer.id == id).unwrap();
                assert!(bytes == pattern(buffer.content, buffer.length), "{buffer:?}");
            };
            for guard in writes {
                content(guard.id(), guard.as_slice().unwrap());
            }
            for guard in reads {
                content(guard.id(), guard.as_slice().unwrap());
            }
        }
        for (class, stats) in self.rig.segment.stats().enumerate() {
            let of_class: Vec<_> = self.live.iter().filter(|b| b.class == class).collect();
            let references: u32 = of_class.iter().map(|b| b.references()).sum();
            let used: usize = of_class.iter().map(|b| b.length).sum();
            let free = self.slots[class] - of_class.len();
            assert_eq!(usize::try_from(stats.free).unwrap(), free);
            assert_eq!(stats.references, u64::from(references));
            assert_eq!(usize::try_from(stats.used_bytes).unwrap(), used);
        }
    }
}

#[test]
fn random_operations_of_processes_that_come_and_die() {
    let first = std::env::var("SPINWIRE_SEED").map_or(0, |text| text.parse().unwrap());
    for seed in first..first + ROUNDS {
        let mut model = Model::new(seed);
        let result = std::panic::catch_unwind(core::panic::AssertUnwindSafe(|| {
            for _ in 0..OPERATIONS {
                model.step();
                model.check();
            }
        }));
        assert!(result.is_ok(), "seed {seed}; again: SPINWIRE_SEED={seed}");
    }
}
