//! Buffers of a pool as messages: taken, sent, received, let go of, and collected.

use spinwire_dataplane::msg::{Kind, Lender, RecvFrom, SendTo};
use spinwire_dataplane::raw::loan::LoanPool;

use crate::case::{Case, Entry, fold, fold_below};
use crate::memory::{self, Pair};
use crate::pool::pools;

/// The cases.
pub const ENTRIES: &[Entry] = &[Entry::new("parcel/there_and_free", there_and_free)];

const BYTES: usize = 4096;

/// One buffer a round, from the sender's `acquire` to its `collect`.
#[expect(
    clippy::large_stack_frames,
    reason = "both ends are moved into the case, once and before anything is measured"
)]
fn there_and_free() -> Case {
    let bump = memory::arena(4 << 20);
    let Pair { sender, receiver, to } = memory::pair(&bump, 64);
    let [pool, other] = pools();
    let lender = Lender::place(pool, &bump, 8).unwrap();
    let receives = LoanPool::place(&bump, 2, 64).unwrap();
    receiver.post_recv(RecvFrom::any(), receives.lend().unwrap(), 0).unwrap();
    let rounds = move |rounds: u64| {
        let mut hash = 0;
        for round in 0..rounds {
            let mut guard = pool.acquire(BYTES).unwrap();
            guard.copy_from(0, &round.to_le_bytes()).unwrap();
            sender.send_loan(&lender, SendTo::peer(to), guard).unwrap();
            sender.flush();
            let mut came = loop {
                let _outcome = memory::turn(&receiver);
                if let Some(completion) = receiver.poll() {
                    break completion;
                }
            };
            assert_eq!(came.kind, Kind::Parcel);
            let guard = came.take_guard(other).unwrap();
            let mut number = [0; 8];
            guard.copy_to(0, &mut number).unwrap();
            drop(guard);
            hash = fold(hash, u64::from_le_bytes(number));
            receiver.post_recv(RecvFrom::any(), came.loan.take().unwrap(), 0).unwrap();
            receiver.flush();
            assert_eq!(lender.collect(&sender), 1);
        }
        hash
    };
    Case::new(rounds, fold_below)
}
