//! Both services on one ring, each turned by itself: neither takes what is the other's, however the completions come.

use core::mem::MaybeUninit;

use spinwire_dataplane::file::{FileRef, FileShape, Files};
use spinwire_dataplane::id::{Generation, OpTag, WrId};
use spinwire_dataplane::poll::{Budget, Poll};
use spinwire_dataplane::stream::{StreamEvent, Streams};
use spinwire_dataplane::time::Instant;
use spinwire_dataplane::uring::Ring;
use spinwire_layouts::uring::{Sqe, op};
use spinwire_tests::fake_kernel::{FakeConfig, FakeKernel};

use super::{file_config, stream_config};

/// Four completions, two of each, in every order; services turn by turn, either first.
#[test]
fn services_that_are_turned_alone_leave_each_other_theirs() {
    for order in 0..16_u32 {
        if order.count_ones() == 2 {
            for files_first in [false, true] {
                run(order, files_first);
            }
        }
    }
}

fn run(order: u32, files_first: bool) {
    let (config, files) = (stream_config(), file_config());
    let kernel = FakeKernel::new(FakeConfig::default());
    let mut block =
        vec![MaybeUninit::uninit(); config.arena_bytes() + files.arena_bytes() + (64 << 10)];
    let ring = Ring::new(kernel.memory().unwrap(), kernel.arena(&mut block), &kernel);
    let streams = Streams::place(&ring, 0, &config).unwrap();
    let files = Files::place(&ring, &files).unwrap();
    let log = files.add(FileRef::Descriptor(7), FileShape::BUFFERED).unwrap();
    let turn = || {
        if files_first {
            let _busy = files.turn(Instant::ORIGIN, Budget::default());
        }
        let _busy = streams.turn(Instant::ORIGIN, Budget::default());
        if !files_first {
            let _busy = files.turn(Instant::ORIGIN, Budget::default());
        }
    };
    for fd in [8, 9] {
        streams.adopt(fd).unwrap();
    }
    for context in [0, 1] {
        let mut chain = files.chain().unwrap();
        chain.sync(log, context).unwrap();
        chain.submit().unwrap();
    }
    turn();
    let taken: Vec<Sqe> = core::iter::from_fn(|| kernel.taken()).flatten().collect();
    let of = |opcode| taken.iter().filter(move |entry: &&Sqe| entry.opcode == opcode);
    let (mut receives, mut syncs) = (of(op::RECV), of(op::FSYNC));
    for bit in 0..4 {
        if order & 1 << bit == 0 {
            kernel.complete(syncs.next().unwrap().user_data, 0, 0);
        } else {
            kernel.complete(receives.next().unwrap().user_data, 0, 0);
        }
    }
    let (mut ends, mut synced) = (0, Vec::new());
    for _ in 0..6 {
        turn();
        while let Some(event) = streams.poll() {
            assert!(matches!(event, StreamEvent::PeerClosed(_)), "{event:?}");
            ends += 1;
        }
        while let Some(done) = files.poll() {
            assert!(done.result.is_ok(), "{done:?}");
            synced.push(done.context);
        }
    }
    assert_eq!((ends, synced.len()), (2, 2), "{order:#06b}");
    assert_eq!((streams.counters().stale, files.counters().stale), (0, 0));
    // Whoever is left alone takes everything.
    drop(files);
    let of_a_file = WrId::new(OpTag::File, Generation::FIRST, 0);
    kernel.complete(of_a_file.as_raw(), 0, 0);
    let _busy = streams.turn(Instant::ORIGIN, Budget::default());
    assert!(streams.poll().is_none());
    assert_eq!(streams.counters().stale, 1);
}
