//! Work-queue entries: what it costs to build one and stage it, by a closure with the flag, without the flag, and through `Rc<RefCell<Qp>>`.
//!
//! A round builds a ring's worth, of which the last is signaled, and completes that: what a completion costs is spread over all of
//! them. No doorbell is rung, so no barrier is in it.

use core::cell::RefCell;
use core::hint::black_box;
use std::rc::Rc;

use spinwire_dataplane::raw::line::Line;
use spinwire_dataplane::raw::mmio::Device;
use spinwire_dataplane::sync::{AtomicU32, Ordering};
use spinwire_dataplane::wqe::{
    BlueFlame, Qp, QpConfig, QpMemory, SendConfig, Straddle, Transport, WqeFlags,
};

use crate::case::{Case, Entry, fold, fold_below};
use crate::lane::mark;
use crate::memory;

/// The cases.
pub const ENTRIES: &[Entry] = &[
    Entry::new("wqe/inline_send/32", inline_send).ops(ROUND_OPS),
    Entry::new("wqe/inline_send_unchecked/32", inline_send_unchecked).ops(ROUND_OPS),
    Entry::new("wqe/inline_send_ref_cell/32", inline_send_ref_cell).ops(ROUND_OPS).yardstick(),
    Entry::new("wqe/inline_send_any_length/32", any_length).ops(ROUND_OPS),
    Entry::new("wqe/inline_send_signaled_completed/32", all_signaled).ops(ROUND_OPS),
    Entry::new("wqe/write_sge_signaled", write_signaled).ops(ROUND_OPS),
    Entry::new("wqe/doorbell_of_one", doorbell),
];

/// Most instructions that an inline SEND of 32 bytes may take.
pub const SEND_INSTRUCTIONS_MAX: f64 = 60.0;
/// Most nanoseconds that it may take.
pub const SEND_NS_MAX: u32 = 20;
/// WQEs of a round.
pub const ROUND_OPS: u32 = 64;
const BATCH: u64 = 64;
const BLOCKS: usize = 128;

type Queues = Qp<'static, u64, Device>;

fn queues() -> (Queues, &'static [Line]) {
    let ring = memory::lines(BLOCKS);
    let record: &'static [AtomicU32; 2] =
        Box::leak(Box::new([AtomicU32::new(0), AtomicU32::new(0)]));
    let memory = QpMemory { sq: ring, rq: &[], record, uar: memory::lines(8) };
    let config = QpConfig {
        qpn: 0x1234,
        transport: Transport::Rc { path: None },
        send: SendConfig {
            wqe_blocks_max: 4,
            straddle: Straddle::Fill,
            blue_flame: BlueFlame::Inline,
        },
        recv: None,
    };
    (Qp::place(&memory::arena(1 << 16), config, memory, Device).unwrap(), ring)
}

/// The number that the newest WQE carries behind control segment and length.
fn newest(ring: &[Line], qp: &Queues) -> u64 {
    let at = usize::from(qp.sq().tracker().pi().wrapping_sub(1)) % BLOCKS;
    let [_, _, a, b, ..] = ring[at].words();
    a.load(Ordering::Relaxed) >> 32 | b.load(Ordering::Relaxed) << 32
}

/// What the newest WQE carries after so many rounds of a batch.
fn expected(rounds: u64) -> u64 {
    (1..=rounds).fold(0, |hash, round| fold(hash, round * BATCH - 1))
}

/// A batch: all but the last by `quiet(bytes)`, the last by `signaled(bytes, entry)`.
#[inline(always)]
fn batch(
    from: &mut [u8; 32],
    round: u64,
    quiet: impl Fn(&[u8; 32]),
    signaled: impl Fn(&[u8; 32], u64),
) {
    // By sevens, so that it is not the loop that is measured.
    for _ in 0..(BATCH - 1) / 7 {
        quiet(black_box(&*from));
        quiet(black_box(&*from));
        quiet(black_box(&*from));
        quiet(black_box(&*from));
        quiet(black_box(&*from));
        quiet(black_box(&*from));
        quiet(black_box(&*from));
    }
    mark(from, round * BATCH + BATCH - 1);
    signaled(black_box(&*from), round);
}

/// Completes a batch, and folds what its last WQE carries.
#[inline(always)]
fn settle(qp: &Queues, ring: &[Line], (hash, round): (u64, u64)) -> u64 {
    let last = qp.sq().tracker().pi().wrapping_sub(1);
    let done = qp.sq().complete(last).unwrap();
    assert_eq!((done.entry, u64::from(done.unsignaled)), (round, BATCH - 1));
    fold(hash, newest(ring, qp))
}

/// Runs `round(bytes, number)` for each round.
fn rounds(
    (qp, ring): (impl core::borrow::Borrow<Queues> + 'static, &'static [Line]),
    round: impl Fn(&mut [u8; 32], u64) + 'static,
) -> Case {
    let from = memory::bytes(32).first_chunk_mut().unwrap();
    let rounds = move |rounds| {
        (0..rounds).fold(0, |hash, number| {
            round(from, number);
            settle(qp.borrow(), ring, (hash, number))
        })
    };
    Case::new(rounds, expected)
}

/// Inline SENDs of 32 bytes, by closures and the flag.
#[must_use]
pub fn inline_send() -> Case {
    let (qp, ring) = queues();
    let qp = Rc::new(qp);
    rounds((Rc::clone(&qp), ring), move |from, round| {
        let qp: &Queues = &qp;
        batch(
            from,
            round,
            |bytes| {
                qp.with_sq_wqe(|wqe| wqe.send(WqeFlags::NONE).inline(bytes).finish_unsignaled())
                    .unwrap();
            },
            |bytes, entry| {
                qp.with_sq_wqe(|wqe| wqe.send(WqeFlags::NONE).inline(bytes).finish_signaled(entry))
                    .unwrap();
            },
        );
    })
}

/// The same, without the flag.
#[must_use]
pub fn inline_send_unchecked() -> Case {
    let (qp, ring) = queues();
    let qp = Rc::new(qp);
    rounds((Rc::clone(&qp), ring), move |from, round| {
        let qp: &Queues = &qp;
        // SAFETY: one builder after the other, on an RC queue pair.
        let wqe = || unsafe { qp.sq_wqe_unchecked() };
        batch(
            from,
            round,
            |bytes| wqe().send(WqeFlags::NONE).inline(bytes).finish_unsignaled().unwrap(),
            |bytes, entry| wqe().send(WqeFlags::NONE).inline(bytes).finish_signaled(entry).unwrap(),
        );
    })
}

/// The same, as it was done before: `&mut Qp` out of an `Rc<RefCell<Qp>>`.
#[must_use]
pub fn inline_send_ref_cell() -> Case {
    let (qp, ring) = queues();
    let qp = Rc::new(RefCell::new(qp));
    let from = memory::bytes(32).first_chunk_mut().unwrap();
    let rounds = move |rounds| {
        (0..rounds).fold(0, |hash, round| {
            batch(
                from,
                round,
                |bytes| {
                    let mut qp = qp.borrow_mut();
                    let wqe = qp.sq_wqe().unwrap();
                    wqe.send(WqeFlags::NONE).inline(bytes).finish_unsignaled().unwrap();
                },
                |bytes, entry| {
                    let mut qp = qp.borrow_mut();
                    let wqe = qp.sq_wqe().unwrap();
                    wqe.send(WqeFlags::NONE).inline(bytes).finish_signaled(entry).unwrap();
                },
            );
            settle(&qp.borrow(), ring, (hash, round))
        })
    };
    Case::new(rounds, expected)
}

/// As [`inline_send`], of a length that the compiler does not know.
fn any_length() -> Case {
    let (qp, ring) = queues();
    let qp = Rc::new(qp);
    rounds((Rc::clone(&qp), ring), move |from, round| {
        let qp: &Queues = &qp;
        batch(
            from,
            round,
            |bytes| {
                let bytes: &[u8] = black_box(bytes);
                qp.with_sq_wqe(|wqe| wqe.send(WqeFlags::NONE).inline(bytes).finish_unsignaled())
                    .unwrap();
            },
            |bytes, entry| {
                qp.with_sq_wqe(|wqe| wqe.send(WqeFlags::NONE).inline(bytes).finish_signaled(entry))
                    .unwrap();
            },
        );
    })
}

/// Batches of WQEs by `post(queues, number)`, each of them signaled; all are completed at the end of the round.
fn signaled(mut post: impl FnMut(&Queues, u64) + 'static) -> Case {
    let (qp, _ring) = queues();
    let rounds = move |rounds| {
        let mut hash = 0;
        for round in 0..rounds {
            let first = qp.sq().tracker().pi();
            for i in 0..BATCH {
                post(black_box(&qp), round * BATCH + i);
            }
            for counter in 0..64 {
                let done = qp.sq().complete(black_box(first.wrapping_add(counter))).unwrap();
                hash = done.entry.wrapping_add(hash);
            }
        }
        hash
    };
    Case::new(rounds, |rounds| (0..rounds * BATCH).fold(0, u64::wrapping_add))
}

/// As [`inline_send`], each of them signaled.
fn all_signaled() -> Case {
    let from = memory::bytes(32).first_chunk_mut().unwrap();
    signaled(move |qp, number| {
        mark(from, number);
        let bytes: &[u8; 32] = black_box(&*from);
        qp.with_sq_wqe(|wqe| wqe.send(WqeFlags::NONE).inline(bytes).finish_signaled(number))
            .unwrap();
    })
}

/// Writes from registered memory, each signaled.
fn write_signaled() -> Case {
    // SAFETY: there is no device.
    let sge = unsafe { spinwire_dataplane::raw::region::LocalSge::from_raw(0x1000, 4096, 7) };
    let sge = sge.unwrap();
    signaled(move |qp, number| {
        qp.with_sq_wqe(|wqe| {
            wqe.write(WqeFlags::NONE, black_box(number), 9)
                .sge(black_box(sge))
                .finish_signaled(number)
        })
        .unwrap();
    })
}

/// One WQE, one doorbell by BlueFlame into ordinary memory, one completion.
fn doorbell() -> Case {
    let (qp, _ring) = queues();
    let from = memory::bytes(32);
    let rounds = move |rounds| {
        let mut hash = 0;
        for round in 0..rounds {
            mark(from, round);
            let counter = qp.sq().tracker().pi();
            let posted = black_box(&qp).with_sq_wqe(|wqe| {
                wqe.send(WqeFlags::NONE)
                    .inline(black_box(&*from).first_chunk::<32>().unwrap())
                    .finish_signaled(round)
            });
            posted.unwrap();
            assert_eq!(qp.ring_doorbell(), 1);
            hash = fold(hash, qp.sq().complete(counter).unwrap().entry);
        }
        hash
    };
    Case::new(rounds, fold_below)
}
