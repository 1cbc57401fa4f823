//! Tag matching, seen from outside: a message comes for one of many posted receives, and that is posted again.
//!
//! The cost of the message itself is in all cases; `front` has hardly any other.

use core::hint::black_box;

use spinwire_dataplane::msg::{Completion, Kind, RecvFrom, SendTo};
use spinwire_dataplane::raw::loan::LoanPool;

use crate::case::{Case, Entry, fold, fold_below};
use crate::lane::{mark, number};
use crate::memory::{self, Pair};

/// The cases.
pub const ENTRIES: &[Entry] = &[
    Entry::new("matching/front", || one_of(1, exact)),
    Entry::new("matching/exact_last_of_1000", || one_of(1000, exact)),
    Entry::new("matching/masked_last_of_1000", || one_of(1000, masked)),
];

const MESSAGE_BYTES: usize = 32;

/// A receive for exactly this tag.
const fn exact(tag: u64) -> RecvFrom {
    RecvFrom::any().tag(tag)
}

/// A receive for this tag, whatever its upper half is.
const fn masked(tag: u64) -> RecvFrom {
    RecvFrom::any().tag_ignoring(tag, 0xFFFF_FFFF_0000_0000)
}

/// So many receives, each for a tag of its own; messages always come for the one that was posted last.
#[expect(
    clippy::large_stack_frames,
    reason = "two endpoints; on the heap they are not what a service measures"
)]
fn one_of(posted: u32, receive: fn(u64) -> RecvFrom) -> Case {
    let bump = memory::arena(4 << 20);
    let Pair { sender, receiver, to } = memory::pair(&bump, posted);
    let pool = LoanPool::place(&bump, posted, 64).unwrap();
    for tag in 0..u64::from(posted) {
        receiver.post_recv(receive(tag), pool.lend().unwrap(), tag).unwrap();
    }
    let last = u64::from(posted - 1);
    let message = memory::bytes(MESSAGE_BYTES);
    let rounds = move |rounds| {
        let mut hash = 0;
        for i in 0..rounds {
            mark(message, i);
            sender.inject(SendTo::peer(to).tag(black_box(last)), black_box(&*message)).unwrap();
            sender.flush();
            let Completion { kind, context, loan, .. } = loop {
                let _outcome = memory::turn(&receiver);
                if let Some(completion) = receiver.poll() {
                    break completion;
                }
            };
            let loan = loan.unwrap();
            assert!(kind == Kind::Received && context == last);
            hash = fold(hash, number(&loan));
            receiver.post_recv(receive(last), loan, last).unwrap();
        }
        hash
    };
    Case::new(rounds, fold_below)
}
