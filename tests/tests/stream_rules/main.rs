//! Streams over a kernel whose every completion the test writes by hand: what is submitted, when, and what comes of it.
//!
//! ```text
//!   notices.rs   results, announcements and notifications of zero-copy sends, in all combinations
//!   queues.rs    submission queues of every size, full at every position; the ring of provided buffers, round and round
//!   asked.rs     who is asked, who is waited for, and in which order
//!   crowd.rs     a crowd of clients that are asked, and no state in which both ends wait
//!   fixed.rs     sends out of a registered arena
//!   ends.rs      closing, aborting, resetting, time limits, a lost ring
//!   operations.rs  time limits of single operations, and what is taken back
//!   shares.rs    who gets how many of the buffers that writes copy into
//!   hostile.rs   a kernel that completes anything
//!   one_ring     files on the same ring, here and on the real kernel
//! ```
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    clippy::large_stack_frames,
    reason = "a test stops at the first thing that is not as expected"
)]

mod asked;
mod crowd;
mod ends;
mod fixed;
mod hostile;
mod notices;
mod one_ring;
mod operations;
mod queues;
mod shares;

use core::cell::Cell;
use core::mem::MaybeUninit;

use spinwire_dataplane::poll::{Budget, Poll};
use spinwire_dataplane::stream::{ConnId, StreamConfig, StreamEvent, StreamFeatures, Streams};
use spinwire_dataplane::time::{Instant, Nanos};
use spinwire_dataplane::uring::Ring;
use spinwire_layouts::uring::{Sqe, op};
use spinwire_tests::fake_kernel::{FakeConfig, FakeKernel};

/// A service and its kernel.
struct Rig<'s, 'k, 'm> {
    streams: &'s Streams<'m, &'k FakeKernel>,
    kernel: &'k FakeKernel,
    now: Cell<u64>,
}

const ALL: StreamFeatures = StreamFeatures {
    accept_multishot: true,
    recv_multishot: true,
    bundles: true,
    send_zero_copy: true,
    sendmsg_zero_copy: false,
    fixed_buffers: false,
    direct_files: false,
};

const fn config() -> StreamConfig {
    StreamConfig {
        conns: 8,
        recv_buffers: (4, 64),
        send_buffers: (16, 64),
        segments: 32,
        zero_copy_min: 1,
        features: ALL,
        backlog: 0,
        linger_timeout: Nanos::ZERO,
        ..StreamConfig::DEFAULT
    }
}

fn with<R>(
    config: &StreamConfig,
    rings: FakeConfig,
    test: impl for<'s, 'k, 'm> FnOnce(&Rig<'s, 'k, 'm>) -> R,
) -> R {
    let mut block = vec![MaybeUninit::uninit(); config.arena_bytes() + (64 << 10)];
    let kernel = FakeKernel::new(rings);
    let ring = Ring::new(kernel.memory().unwrap(), kernel.arena(&mut block), &kernel);
    let streams = Streams::place(&ring, 0, config).unwrap();
    test(&Rig { streams: &streams, kernel: &kernel, now: Cell::new(1 << 40) })
}

impl<'m> Rig<'_, '_, 'm> {
    /// A turn, this many milliseconds later.
    fn turn_after(&self, milliseconds: u64) {
        self.now.set(self.now.get() + milliseconds * 1_000_000);
        let _busy = self.streams.turn(Instant::from_nanos(self.now.get()), Budget::default());
        self.audit();
    }

    fn turn(&self) {
        self.turn_after(0);
    }

    fn audit(&self) {
        if let Err(why) = self.streams.audit() {
            panic!("{why:?}: {:#?}", self.streams);
        }
    }

    /// What the kernel was given.
    fn taken(&self) -> Vec<Sqe> {
        core::iter::from_fn(|| self.kernel.taken()).flatten().collect()
    }

    /// A turn, and what the kernel was given of that operation.
    fn submitted(&self, opcode: u8) -> Vec<Sqe> {
        self.turn();
        self.taken().into_iter().filter(|entry| entry.opcode == opcode).collect()
    }

    fn submitted_one(&self, opcode: u8) -> Sqe {
        let all = self.submitted(opcode);
        let [entry] = all.as_slice() else { panic!("one entry of {opcode}, not {all:?}") };
        *entry
    }

    fn complete(&self, entry: &Sqe, res: i32, flags: u32) {
        self.kernel.complete(entry.user_data, res, flags);
    }

    /// All that has happened.
    fn events(&self) -> Vec<StreamEvent<'m>> {
        self.turn();
        let events = core::iter::from_fn(|| self.streams.poll()).collect();
        self.audit();
        events
    }

    /// A connection, whose receive is under way.
    fn connection(&self) -> (ConnId, Sqe) {
        let conn = self.streams.adopt(7).unwrap();
        (conn, self.submitted_one(op::RECV))
    }

    fn send(&self, conn: ConnId, bytes: &[u8], context: u64) {
        let mut loan = self.streams.lend().unwrap();
        loan.fill(bytes).unwrap();
        self.streams.send(conn, loan, context).unwrap();
    }
}
