//! Every interleaving of the two ends of a lane, and every value that the memory model lets either see. Run with
//! `RUSTFLAGS="--cfg loom"`, in release.
//!
//! The lanes are tiny, so that each message but the first waits for credit or wraps around.
//!
//! What this cannot show: loom runs the accesses of one thread in their order and lets a load see old values, never future
//! ones. That a receiver's reads stay before its return of credit (the Release there, the Acquire at the sender) is
//! therefore not checked here.
#![cfg(loom)]
#![allow(
    clippy::unwrap_used,
    clippy::arithmetic_side_effects,
    clippy::indexing_slicing,
    reason = "a test stops at the first thing that is not as expected"
)]

use loom::sync::Arc;
use loom::thread;
use spinwire_dataplane::error::{PostError, Retry};
use spinwire_dataplane::raw::line::Line;
use spinwire_dataplane::shm::lane::{Envelope, LaneMemory, LaneRx, LaneTx, ReceiverState};

/// The memory of a lane: cells, spill lines, the credit line.
struct Memory {
    lines: Vec<Line>,
    cells: usize,
}

impl Memory {
    fn new(cells: usize, spill: usize) -> Arc<Self> {
        let memory = Self { lines: (0..=cells + spill).map(|_| Line::zeroed()).collect(), cells };
        memory.lane().reset();
        Arc::new(memory)
    }

    fn lane(&self) -> LaneMemory<'_> {
        let (credit, rings) = self.lines.split_last().unwrap();
        let (cells, spill) = rings.split_at(self.cells);
        LaneMemory { cells, spill, credit }
    }
}

/// Every byte of a message tells which one it is.
fn message(number: u8, length: usize) -> Vec<u8> {
    vec![number + 1; length]
}

/// Stages, and waits for credit where there is none.
fn stage(tx: &LaneTx<'_>, number: u8, length: usize) {
    let envelope = Envelope { tag: Some(u64::from(number)), immediate: None };
    while let Err(refused) = tx.stage(&message(number, length), envelope) {
        assert!(
            matches!(refused, PostError::Retry(Retry::NoCredit | Retry::NoSpill)),
            "{refused:?}"
        );
        thread::yield_now();
    }
}

/// Takes messages `0..count` of that length.
fn take(rx: &LaneRx<'_>, count: u8, length: usize) {
    for number in 0..count {
        let arrival = loop {
            match rx.peek().unwrap() {
                Some(arrival) => break arrival,
                None => thread::yield_now(),
            }
        };
        assert_eq!(arrival.length, length, "message {number}");
        assert_eq!(arrival.envelope.tag, Some(u64::from(number)), "lost, twice, or overtaken");
        let mut bytes = vec![0; length];
        rx.copy_out(&arrival, &mut bytes);
        assert_eq!(bytes, message(number, length), "torn");
        rx.advance(&arrival);
    }
    assert!(rx.peek().unwrap().is_none(), "one too many");
}

/// One sends `count` messages, `batch` at once, the other takes them.
fn exchange(memory: &Arc<Memory>, (count, batch): (u8, u8), length: usize) {
    let sender = {
        let memory = Arc::clone(memory);
        thread::spawn(move || {
            let tx = LaneTx::new(memory.lane());
            for number in 0..count {
                stage(&tx, number, length);
                if (number + 1) % batch == 0 {
                    tx.publish();
                }
            }
            tx.publish();
        })
    };
    take(&LaneRx::new(memory.lane(), 128), count, length);
    sender.join().unwrap();
}

#[test]
fn one_by_one_around_the_ring() {
    loom::model(|| exchange(&Memory::new(2, 1), (4, 1), 8));
}

#[test]
fn in_batches_around_the_ring() {
    loom::model(|| exchange(&Memory::new(2, 1), (4, 2), 8));
}

/// 16 bytes of each are in the spill, which has room for four of them and wraps around.
#[test]
fn through_the_spill() {
    loom::model(|| exchange(&Memory::new(2, 1), (3, 1), 64));
}

/// 48 bytes of each are in the spill: the second message goes around its end, and waits for the first to be taken.
#[test]
fn around_the_end_of_the_spill() {
    loom::model(|| exchange(&Memory::new(4, 1), (2, 1), 96));
}

/// A batch shows whole or not at all: who sees the first message need not wait for the second.
#[test]
fn a_batch_shows_at_once() {
    loom::model(|| {
        let memory = Memory::new(4, 1);
        let sender = {
            let memory = Arc::clone(&memory);
            thread::spawn(move || {
                let tx = LaneTx::new(memory.lane());
                stage(&tx, 0, 8);
                stage(&tx, 1, 8);
                assert_eq!(tx.publish(), 2);
            })
        };
        let rx = LaneRx::new(memory.lane(), 128);
        if let Some(first) = rx.peek().unwrap() {
            rx.advance(&first);
            let second = rx.peek().unwrap().expect("the other half of the batch");
            assert_eq!(second.envelope.tag, Some(1));
        }
        sender.join().unwrap();
    });
}

/// A sender that dies before it has published has sent nothing.
#[test]
fn what_was_staged_is_not_there() {
    loom::model(|| {
        let memory = Memory::new(4, 1);
        let sender = {
            let memory = Arc::clone(&memory);
            thread::spawn(move || {
                let tx = LaneTx::new(memory.lane());
                stage(&tx, 0, 64);
                stage(&tx, 1, 8);
            })
        };
        let rx = LaneRx::new(memory.lane(), 128);
        assert!(rx.peek().unwrap().is_none());
        sender.join().unwrap();
        assert!(rx.peek().unwrap().is_none());
    });
}

/// A run is taken as its messages would be one by one. Each was published alone, and has a line of the spill to itself.
#[test]
fn a_run() {
    loom::model(|| {
        let memory = Memory::new(4, 2);
        let sender = {
            let memory = Arc::clone(&memory);
            thread::spawn(move || {
                let tx = LaneTx::new(memory.lane());
                let envelope = Envelope { tag: Some(0), immediate: None };
                for number in 0..2 {
                    tx.stage(&message(number, 56), envelope).unwrap();
                    tx.publish();
                }
            })
        };
        let rx = LaneRx::new(memory.lane(), 128);
        let first = loop {
            match rx.peek().unwrap() {
                Some(arrival) => break arrival,
                None => thread::yield_now(),
            }
        };
        rx.advance(&first);
        let mut room = [0; 56];
        if rx.take_run(&first, &mut room, 56) == 1 {
            assert_eq!(room[..], message(1, 56), "torn");
        }
        sender.join().unwrap();
    });
}

/// What a receiver did before it answered is seen by the sender that sees the answer.
#[test]
fn an_answer_comes_after_what_was_done() {
    loom::model(|| {
        let memory = Memory::new(2, 1);
        let receiver = {
            let memory = Arc::clone(&memory);
            thread::spawn(move || {
                let rx = LaneRx::new(memory.lane(), 128);
                rx.arm(false);
                rx.answer(ReceiverState::Accepted);
            })
        };
        let tx = LaneTx::new(memory.lane());
        if tx.receiver_state() == ReceiverState::Accepted {
            assert!(!tx.is_armed(), "the answer overtook");
        }
        receiver.join().unwrap();
    });
}
