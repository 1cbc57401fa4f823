//! Whole rounds of two endpoints: inject, flush, turn, poll, read; by the three uses of a posted buffer.

use core::hint::black_box;

use spinwire_dataplane::error::Refused;
use spinwire_dataplane::id::WrId;
use spinwire_dataplane::msg::{Completion, Endpoint, Kind, RecvFrom, SendTo};
use spinwire_dataplane::provider::Provider;
use spinwire_dataplane::provider::shm::ShmPort;
use spinwire_dataplane::raw::loan::{Loan, LoanPool};

use spinwire_hostshim::open::AnyPort;

use crate::case::{Case, Entry, fold, fold_below};
use crate::lane::{mark, number};
use crate::memory::{self, Pair};

/// The cases.
pub const ENTRIES: &[Entry] = &[
    Entry::new("round/one_message/32", || round(1, (own, post_single), 32)),
    Entry::new("round/single/32", || round(BATCH, (own, post_single), 32)).ops(BATCH_OPS),
    Entry::new("round/multi/32", || round(BATCH, (own, post_multi), 32)).ops(BATCH_OPS),
    Entry::new("round/runs/32", || round(BATCH, (own, post_runs), 32)).ops(BATCH_OPS),
    Entry::new("round/single/64", || round(BATCH, (own, post_single), 64)).ops(BATCH_OPS),
    Entry::new("round/any_port/one_message/32", || round(1, (any, post_single), 32)),
    Entry::new("round/any_port/single/32", || round(BATCH, (any, post_single), 32)).ops(BATCH_OPS),
    Entry::new("round/runs/64", || round(BATCH, (own, post_runs), 64)).ops(BATCH_OPS),
];

const BATCH: u64 = 16;
const BATCH_OPS: u32 = 16;
const TAG: u64 = 7;
/// Room that a message needs at the end of a shared buffer; more than any of them has bytes.
const ROOM_BYTES_MIN: u32 = 64;

type At<P> = Endpoint<'static, P>;
type Posted = Result<WrId, Refused<Loan<'static>>>;
type Post<P> = fn(&At<P>, Loan<'static>) -> Posted;

fn post_single<P: Provider>(at: &At<P>, loan: Loan<'static>) -> Posted {
    at.post_recv(RecvFrom::any().tag(TAG), loan, 0)
}

fn post_multi<P: Provider>(at: &At<P>, loan: Loan<'static>) -> Posted {
    at.post_multi_recv(RecvFrom::any().tag(TAG), loan, ROOM_BYTES_MIN, 0)
}

fn post_runs<P: Provider>(at: &At<P>, loan: Loan<'static>) -> Posted {
    at.post_run_recv(RecvFrom::any().tag(TAG), loan, ROOM_BYTES_MIN, 0)
}

type Shm = ShmPort<'static, 'static>;

/// The port itself.
const fn own(port: Shm) -> Shm {
    port
}

/// The port behind the branch that stands for any transport.
const fn any(port: Shm) -> AnyPort<'static> {
    AnyPort::Shm(port)
}

/// A round of `batch` messages of `size` bytes.
fn round<P: Provider + 'static>(
    batch: u64,
    (over, post): (fn(Shm) -> P, Post<P>),
    size: usize,
) -> Case {
    let bump = memory::arena(4 << 20);
    let Pair { sender, receiver, to } = memory::pair_over(&bump, 64, over);
    let pool = LoanPool::place(&bump, 32, 32 << 10).unwrap();
    for _ in 0..32 {
        post(&receiver, pool.lend().unwrap()).unwrap();
    }
    let message = memory::bytes(size);
    let rounds = move |rounds: u64| {
        let mut hash = 0;
        for round in 0..rounds {
            for i in 0..batch {
                mark(message, round * batch + i);
                sender.inject(SendTo::peer(to).tag(TAG), black_box(&*message)).unwrap();
            }
            sender.flush();
            let mut missing = batch;
            while missing > 0 {
                let _outcome = memory::turn(&receiver);
                while let Some(completion) = receiver.poll() {
                    missing -= take(&receiver, completion, post, &mut hash);
                }
            }
        }
        hash
    };
    Case::new(rounds, move |rounds| fold_below(rounds * batch))
}

/// Hashes what a completion brings, and posts its buffer again. Returns how many messages it was.
#[inline(always)]
fn take<P: Provider>(
    at: &At<P>,
    completion: Completion<'static>,
    post: Post<P>,
    hash: &mut u64,
) -> u64 {
    let mut count = 0;
    if completion.kind == Kind::Received {
        count = u64::from(completion.count);
        let read = at.read(&completion, |bytes| {
            *hash = completion.messages(bytes).fold(*hash, |hash, m| fold(hash, number(m)));
        });
        assert!(read.is_some());
    }
    if let Some(loan) = completion.loan {
        post(at, loan).unwrap();
    }
    count
}
