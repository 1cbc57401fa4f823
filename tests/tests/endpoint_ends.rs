//! How an endpoint ends: its buffers come back, and a peer whose credit is nonsense is cut off.
#![allow(
    clippy::unwrap_used,
    clippy::large_stack_frames,
    clippy::large_stack_arrays,
    reason = "a test stops at the first thing that is not as expected, and has a stack to itself"
)]

use core::mem::MaybeUninit;

use spinwire_dataplane::error::{Fatal, PostError};
use spinwire_dataplane::id::Name;
use spinwire_dataplane::msg::{Endpoint, EndpointConfig, RecvFrom, SendTo};
use spinwire_dataplane::poll::{Budget, Poll};
use spinwire_dataplane::provider::shm::{ShmConfig, ShmPort};
use spinwire_dataplane::provider::{EndpointType, Event};
use spinwire_dataplane::raw::line::Line;
use spinwire_dataplane::raw::loan::LoanPool;
use spinwire_dataplane::raw::place::Bump;
use spinwire_dataplane::shm::lease::{self, Joiner};
use spinwire_dataplane::shm::{Geometry, Identity, Segment};
use spinwire_dataplane::sync::Ordering;
use spinwire_dataplane::time::Instant;

const fn geometry() -> Geometry {
    Geometry {
        process_count: 2,
        endpoint_count: 2,
        lane_count: 2,
        lane_cell_count: 8,
        lane_spill_bytes: 1 << 10,
    }
}

fn memory() -> Vec<Line> {
    let bytes = usize::try_from(geometry().segment_bytes().unwrap()).unwrap();
    (0..bytes / 64).map(|_| Line::zeroed()).collect()
}

fn segment(lines: &[Line]) -> Segment<'_> {
    let identity = Identity {
        name: Name::new("ends").unwrap(),
        boot_id: [0; 16],
        created_unix_ns: 0,
        pid: 1,
        start_time: 1,
        page_bytes: 4096,
        pid_namespace: 0,
    };
    Segment::format(lines, geometry(), &identity).unwrap()
}

fn endpoint<'s, 'm>(
    segment: Segment<'s>,
    bump: &Bump<'m>,
    name: &str,
) -> Endpoint<'m, ShmPort<'s, 'm>> {
    let joiner = Joiner { pid: 1, start_time: 1, joined_unix_ns: 0, command: [0; 64] };
    let lease = lease::join(&segment, &joiner).unwrap();
    let who = (&Name::new(name).unwrap(), EndpointType::Rdm);
    let port = ShmPort::open(segment, lease, bump, who, &ShmConfig::default()).unwrap();
    Endpoint::new(port, bump, &EndpointConfig::default()).unwrap()
}

#[test]
fn posted_loans_come_back_with_the_end() {
    let lines = memory();
    let mut block: Box<[MaybeUninit<u8>]> = Box::new_uninit_slice(4 << 20);
    let bump = Bump::new(&mut block);
    let pool = LoanPool::place(&bump, 8, 64).unwrap();
    let a = endpoint(segment(&lines), &bump, "a");
    for context in 0..5 {
        a.post_recv(RecvFrom::any(), pool.lend().unwrap(), context).unwrap();
    }
    assert_eq!(pool.free_count(), 3);
    drop(a);
    assert_eq!(pool.free_count(), 8);
}

#[test]
fn who_returns_impossible_credit_is_cut_off() {
    let lines = memory();
    let segment = segment(&lines);
    let mut block: Box<[MaybeUninit<u8>]> = Box::new_uninit_slice(8 << 20);
    let bump = Bump::new(&mut block);
    let (a, b) = (endpoint(segment, &bump, "a"), endpoint(segment, &bump, "b"));
    let to_b = a.connect(&Name::new("b").unwrap()).unwrap();
    a.inject(SendTo::peer(to_b), b"opens the lane").unwrap();
    // More cells given back than were ever sent.
    let [cells, ..] = segment.lane_memory(0).unwrap().credit.words();
    cells.store(1 << 40, Ordering::Relaxed);
    let mut last = Ok(());
    for _ in 0..8 {
        last = a.inject(SendTo::peer(to_b), b"fills it");
    }
    assert_eq!(last, Err(PostError::Fatal(Fatal::Corrupt)));
    let _busy = a.turn(Instant::ORIGIN, Budget::DEFAULT).is_busy();
    assert_eq!(a.poll_event(), Some(Event::PeerCorrupt(to_b)));
    drop(b);
}
