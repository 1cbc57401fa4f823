//! Rounds like those of [`round`](crate::round), by hand over the bare providers: what is left over there is what an endpoint costs.

use core::hint::black_box;
use core::ptr::NonNull;

use spinwire_dataplane::id::{Generation, OpTag, WrId};
use spinwire_dataplane::provider::{
    Cqe, Payload, Provider, RecvWr, Select, SendWr, Sge, Sight, Source, Use,
};
use spinwire_dataplane::raw::place::Bump;
use spinwire_dataplane::time::Instant;

use crate::case::{Case, Entry, fold, fold_below};
use crate::lane::{mark, number};
use crate::memory::{self, Pair, ShmEndpoint};

/// The cases.
pub const ENTRIES: &[Entry] = &[Entry::new("round/bare/32", || bare(32)).ops(BATCH_OPS)];

const BATCH: u64 = 16;
const BATCH_OPS: u32 = 16;
const TAG: u64 = 7;

/// A round of [`BATCH`] messages of `size` bytes, without endpoints: what [`round`](crate::round) of single receives does, with buffers of its own.
#[expect(
    clippy::large_stack_frames,
    reason = "both ends are moved into the case, once and before anything is measured"
)]
fn bare(size: usize) -> Case {
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

/// A buffer that a provider may write as long as the arena is there: for ever, in a bench.
#[expect(unsafe_code, reason = "a bare provider is posted bare memory")]
fn buffer(bump: &Bump<'static>) -> Sge {
    let bytes = bump.slice_with(32 << 10, |_| 0_u8).unwrap();
    let length = u32::try_from(bytes.len()).unwrap();
    // SAFETY: just placed in an arena that is never given back; nobody else has the slice. It is read between a completion and the next
    // message, on the thread of the provider.
    unsafe { Sge::from_raw(NonNull::from_mut(bytes).cast(), length) }
}
