//! Rounds like those of [`round`](crate::round), by hand over the bare providers, and the same steps through endpoints: the difference is what an
//! endpoint costs.
//!
//! | step | bare | through an endpoint |
//! |---|---|---|
//! | post | a [`RecvWr`] of a number and a range | takes the loan, and a row of the context table |
//! | send | `post_send` | `inject`: the same, and two counters |
//! | turn | `look`, then `take_ready` or `poll_cq` | the same, and a budget |
//! | completion | a [`Cqe`] | finds the row by slot and generation, gives the loan and the context back, counts |
//!
//! The bar is 3 ns a message ([`ENDPOINT_NS_MAX`]). Counted by valgrind, an endpoint takes 30 instructions more. What it
//! promises beyond its provider (each loan comes back once, whatever a provider says; no completion of what is over is taken for another's; everything is
//! counted) takes most of them: a row of the context table is taken and given up, its generation moved on. In nanoseconds it is 1.2 to 2.1 in 31 of 32 runs
//! where this was written, eight each with the code at four addresses, and 2.7 in one. Where the memory of the two happens to lie makes one more or less, so `hot_paths -- --endpoint` builds both anew some times; it says
//! what it is where it runs, and fails above the bar. What is kept while bytes are copied counts most: there are 15 registers, and what does not fit goes to memory and back.

use core::hint::black_box;
use core::ptr::NonNull;

use spinwire_dataplane::id::{Generation, OpTag, WrId};
use spinwire_dataplane::msg::{RecvFrom, SendTo};
use spinwire_dataplane::provider::{
    Cqe, Payload, Provider, RecvWr, Select, SendWr, Sge, Sight, Source, Use,
};
use spinwire_dataplane::raw::loan::LoanPool;
use spinwire_dataplane::raw::place::Bump;
use spinwire_dataplane::time::Instant;

use crate::case::{Case, Entry, fold, fold_below};
use crate::lane::{mark, number};
use crate::memory::{self, Pair, ShmEndpoint};

/// The cases.
pub const ENTRIES: &[Entry] = &[
    Entry::new("round/bare/32", || bare(32)).ops(BATCH_OPS),
    Entry::new("round/endpoint/32", || endpoint(32)).ops(BATCH_OPS),
];

/// What an endpoint may cost above its provider, in nanoseconds a message.
pub const ENDPOINT_NS_MAX: f64 = 3.0;
/// The same in instructions a message, counted by valgrind: with so many the bar was met at each of nine addresses that the code was linked to; with 44 it
/// was met or missed by where that lay.
pub const ENDPOINT_INSTRUCTIONS_MAX: f64 = 36.0;
/// Messages of a round.
pub const ROUND_OPS: u32 = BATCH_OPS;

const BATCH: u64 = 16;
const BATCH_OPS: u32 = 16;
const TAG: u64 = 7;

/// A round of `BATCH` messages of `size` bytes, without endpoints: what [`round`](crate::round) of single receives does, with buffers of its own.
#[expect(
    clippy::large_stack_frames,
    reason = "both ends are moved into the case, once and before anything is measured"
)]
#[must_use]
pub fn bare(size: usize) -> Case {
    let bump = memory::arena(4 << 20);
    let Pair { sender, receiver, to } = memory::pair(&bump, 64);
    let buffers: Vec<Sge> = (0..32).map(|_| buffer(&bump)).collect();
    let post = move |at: &ShmEndpoint, number: u32| {
        let wr_id = WrId::new(OpTag::Recv, Generation::FIRST, number);
        let sge = buffers[usize::try_from(number).unwrap()];
        let select = Select::Tagged { tag: TAG, ignore: 0 };
        let wr = RecvWr { wr_id, sge, from: Source::Any, select, buffer: Use::Single };
        at.provider().post_recv(&wr).unwrap();
        sge
    };
    for number in 0..32 {
        let _sge = post(&receiver, number);
    }
    let message = memory::bytes(size);
    let rounds = move |rounds: u64| {
        let mut hash = 0;
        for round in 0..rounds {
            for i in 0..BATCH {
                mark(message, round * BATCH + i);
                let payload = Payload::Inject(black_box(&*message));
                let wr = SendWr { to, payload, tag: Some(TAG), immediate: None };
                sender.provider().post_send(&wr).unwrap();
            }
            sender.provider().ring_doorbell();
            let mut missing = BATCH;
            let mut batch = heapless::Vec::<Cqe, 64>::new();
            while missing > 0 {
                let mut take = |cqe: Cqe| {
                    let (_, _, slot) = cqe.wr_id.parts().unwrap();
                    let length = usize::try_from(cqe.length).unwrap();
                    hash = fold(hash, number(&post(&receiver, slot).bytes()[..length]));
                    missing -= 1;
                };
                match receiver.provider().look() {
                    Sight::Nothing => {}
                    Sight::Ready => {
                        while let Some(cqe) = receiver.provider().take_ready() {
                            take(cqe);
                        }
                    }
                    Sight::Work => {
                        batch.clear();
                        receiver.provider().poll_cq(Instant::ORIGIN, &mut batch);
                        batch.iter().copied().for_each(&mut take);
                    }
                }
                receiver.provider().ring_doorbell();
            }
        }
        hash
    };
    Case::new(rounds, move |rounds| fold_below(rounds * BATCH))
}

/// The same round through endpoints, each step where [`bare`] has it.
#[expect(
    clippy::large_stack_frames,
    reason = "both ends are moved into the case, once and before anything is measured"
)]
#[must_use]
pub fn endpoint(size: usize) -> Case {
    let bump = memory::arena(4 << 20);
    let Pair { sender, receiver, to } = memory::pair(&bump, 64);
    let pool = LoanPool::place(&bump, 32, 32 << 10).unwrap();
    for context in 0..32 {
        let loan = pool.lend().unwrap();
        receiver.post_recv(RecvFrom::any().tag(TAG), loan, context).unwrap();
    }
    let message = memory::bytes(size);
    let rounds = move |rounds: u64| {
        let mut hash = 0;
        for round in 0..rounds {
            for i in 0..BATCH {
                mark(message, round * BATCH + i);
                sender.inject(SendTo::peer(to).tag(TAG), black_box(&*message)).unwrap();
            }
            sender.flush();
            let mut missing = BATCH;
            while missing > 0 {
                let _outcome = memory::turn(&receiver);
                while let Some(completion) = receiver.poll() {
                    let loan = completion.loan.unwrap();
                    hash = fold(hash, number(&loan));
                    receiver.post_recv(RecvFrom::any().tag(TAG), loan, completion.context).unwrap();
                    missing -= 1;
                }
            }
        }
        hash
    };
    Case::new(rounds, move |rounds| fold_below(rounds * BATCH))
}

/// A buffer that a provider may write as long as the arena is there: for ever, in a bench.
#[expect(unsafe_code, reason = "a bare provider is posted bare memory")]
fn buffer(bump: &Bump<'static>) -> Sge {
    let bytes = bump.slice_with(32 << 10, |_| 0_u8).unwrap();
    let length = u32::try_from(bytes.len()).unwrap();
    // SAFETY: just placed in an arena that is never given back; nobody else has the slice. It is read between a completion and the next
    // message, on the thread of the provider.
    unsafe { Sge::from_raw(NonNull::from_mut(bytes).cast(), length) }
}
