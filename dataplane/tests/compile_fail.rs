//! Promises that the compiler keeps.
//!
//! Each file in `ui` breaks one, and must not compile, for the stated reason. The `.stderr` files are what the pinned
//! compiler says; after a wanted change run `cargo bless`.
//!
//! Who may cross threads is asked of the types themselves: the compiler's answer to a file would list their private
//! fields.

use core::marker::PhantomData;

use spinwire_dataplane::msg::Endpoint;
use spinwire_dataplane::pool::{ExclusiveGuard, Pool, PoolSegment, SharedGuard};
use spinwire_dataplane::provider::shm::ShmPort;
use spinwire_dataplane::raw::line::Line;
use spinwire_dataplane::raw::loan::{Loan, LoanPool};
use spinwire_dataplane::raw::mmio::Device;
use spinwire_dataplane::raw::place::Bump;
use spinwire_dataplane::shm::Segment;
use spinwire_dataplane::shm::lane::{LaneRx, LaneTx};
use spinwire_dataplane::table::{BitSet, Fifos, Ring, Slab, Timers};
use spinwire_dataplane::wqe::{Qp, SharedRecvQueue};

#[test]
fn broken_promises_do_not_compile() {
    let cases = trybuild::TestCases::new();
    cases.compile_fail("tests/ui/*.rs");
}

/// Asks whether `T` is `Send` or `Sync`: the inherent constant exists for such types only, and where it does, it goes before
/// that of the trait.
struct Ask<T>(PhantomData<T>);

trait Otherwise {
    const IS_SEND: bool = false;
    const IS_SYNC: bool = false;
}

impl<T> Otherwise for Ask<T> {}

impl<T: Send> Ask<T> {
    const IS_SEND: bool = true;
}

impl<T: Sync> Ask<T> {
    const IS_SYNC: bool = true;
}

macro_rules! asked {
    ($($type:ty),+ $(,)?) => {
        [$((stringify!($type), Ask::<$type>::IS_SEND, Ask::<$type>::IS_SYNC)),+]
    };
}

/// The question itself is right: it tells four known types apart.
#[test]
fn the_question_has_both_answers() {
    let answers = asked![u8, core::cell::Cell<u8>, std::sync::MutexGuard<'static, u8>, *const u8];
    let known = [(true, true), (true, false), (false, true), (false, false)];
    for ((name, send, sync), expected) in answers.into_iter().zip(known) {
        assert_eq!((send, sync), expected, "{name}");
    }
}

/// What counts without atomics is used by one thread. A lane end may be moved to its thread, and then stays.
#[test]
fn owners_stay_on_their_thread() {
    let never_shared = asked![
        Endpoint<'static, ()>,
        Endpoint<'static, ShmPort<'static, 'static>>,
        ShmPort<'static, 'static>,
        Loan<'static>,
        LoanPool<'static>,
        Pool<'static>,
        ExclusiveGuard<'static>,
        SharedGuard<'static>,
        Bump<'static>,
        LaneTx<'static>,
        LaneRx<'static>,
        Slab<'static, u64>,
        Ring<'static, u64>,
        Fifos<'static>,
        BitSet<'static>,
        Timers<'static, u64>,
        Qp<'static, u64, Device>,
        SharedRecvQueue<'static, u64, Device>,
    ];
    for (name, _, sync) in never_shared {
        assert!(!sync, "{name} is Sync: two threads could turn it at once");
    }
    for (name, send, _) in asked![Endpoint<'static, ()>, Loan<'static>, ExclusiveGuard<'static>] {
        assert!(!send, "{name} is Send: it could part from its pool, which counts without atomics");
    }
}

/// Shared memory, and a checked view of it, are for every thread.
#[test]
fn shared_memory_is_for_all_threads() {
    for (name, send, sync) in asked![&'static [Line], Segment<'static>, PoolSegment<'static>] {
        assert!(send && sync, "{name}");
    }
}
