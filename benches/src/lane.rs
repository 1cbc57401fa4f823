//! Lanes: a message from the sender's bytes to the receiver's, both ends on one thread.

use core::hint::black_box;

use spinwire_dataplane::shm::lane::{Envelope, LaneRx, LaneTx};

use crate::case::{Case, Entry, fold, fold_below};
use crate::memory;

/// The cases.
pub const ENTRIES: &[Entry] = &[
    Entry::new("lane/message/32", || message(32)),
    Entry::new("lane/message/64", || message(64)),
    Entry::new("lane/message/4096", || message(4096)),
    Entry::new("lane/batch_of_16/32", || batch(32)).ops(BATCH_OPS),
    Entry::new("lane/look_in_vain", look_in_vain),
];

const BATCH_OPS: u32 = 16;
const BATCH: u64 = 16;
const ENVELOPE: Envelope = Envelope { tag: Some(7), immediate: None };

fn lane() -> (LaneTx<'static>, LaneRx<'static>) {
    let memory = memory::lane_memory(128, 32 << 10);
    (LaneTx::new(memory), LaneRx::new(memory, 16 << 10))
}

/// Numbers the message, for the hash.
#[inline(always)]
pub(crate) const fn mark(message: &mut [u8], number: u64) {
    *message.first_chunk_mut().unwrap() = number.to_le_bytes();
}

/// The number of a message.
#[inline(always)]
pub(crate) const fn number(message: &[u8]) -> u64 {
    u64::from_le_bytes(*message.first_chunk().unwrap())
}

#[inline(always)]
fn take(rx: &LaneRx<'_>, to: &mut [u8]) -> u64 {
    let arrival = rx.peek().unwrap().unwrap();
    rx.copy_out(&arrival, &mut to[..arrival.length]);
    rx.advance(&arrival);
    number(to)
}

fn message(size: usize) -> Case {
    let (tx, rx) = lane();
    let (from, to) = (memory::bytes(size), memory::bytes(size));
    let rounds = move |rounds| {
        let mut hash = 0;
        for i in 0..rounds {
            mark(from, i);
            tx.stage(black_box(&*from), ENVELOPE).unwrap();
            tx.publish();
            hash = fold(hash, take(&rx, black_box(&mut *to)));
        }
        hash
    };
    Case::new(rounds, fold_below)
}

fn batch(size: usize) -> Case {
    let (tx, rx) = lane();
    let (from, to) = (memory::bytes(size), memory::bytes(size));
    let rounds = move |rounds: u64| {
        let mut hash = 0;
        for round in 0..rounds {
            for i in 0..BATCH {
                mark(from, round * BATCH + i);
                tx.stage(black_box(&*from), ENVELOPE).unwrap();
            }
            assert_eq!(tx.publish(), BATCH);
            for _ in 0..BATCH {
                hash = fold(hash, take(&rx, black_box(&mut *to)));
            }
        }
        hash
    };
    Case::new(rounds, |rounds| fold_below(rounds * BATCH))
}

fn look_in_vain() -> Case {
    let (tx, rx) = lane();
    // One message has come and gone, and one look has found nothing more.
    tx.stage(&[0; 8], ENVELOPE).unwrap();
    tx.publish();
    take(&rx, &mut [0; 8]);
    assert!(rx.peek().unwrap().is_none());
    let rounds = move |rounds| {
        let in_vain = (0..rounds).filter(|_| !black_box(&rx).may_have_news());
        u64::try_from(in_vain.count()).unwrap()
    };
    Case::new(rounds, |rounds| rounds)
}
