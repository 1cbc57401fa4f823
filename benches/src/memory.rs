//! Memory and endpoints for the cases: two or more endpoints of one process in a segment that is ordinary memory.

use spinwire_dataplane::id::{Addr, Name};
use spinwire_dataplane::msg::matching::MatchingConfig;
use spinwire_dataplane::msg::{Endpoint, EndpointConfig};
use spinwire_dataplane::poll::{Budget, Outcome, Poll as _};
use spinwire_dataplane::provider::shm::{ShmConfig, ShmPort};
use spinwire_dataplane::provider::{EndpointType, Provider};
use spinwire_dataplane::raw::line::Line;
use spinwire_dataplane::raw::place::Bump;
use spinwire_dataplane::shm::lane::LaneMemory;
use spinwire_dataplane::shm::{Geometry, Identity, Segment, lease};
use spinwire_dataplane::time::Instant;

/// An endpoint over shared memory.
pub type ShmEndpoint = Endpoint<'static, ShmPort<'static, 'static>>;

/// `count` lines of zeros.
#[must_use]
pub fn lines(count: usize) -> &'static [Line] {
    (0..count).map(|_| Line::zeroed()).collect::<Vec<_>>().leak()
}

/// An arena.
#[must_use]
pub fn arena(bytes: usize) -> Bump<'static> {
    Bump::new(Box::leak(Box::<[u8]>::new_uninit_slice(bytes)))
}

/// `count` bytes, the first of them at the start of a cache line.
#[must_use]
pub fn bytes(count: usize) -> &'static mut [u8] {
    let block = vec![0x5A; count + 64].leak();
    let at = block.as_ptr().align_offset(64);
    &mut block[at..at + count]
}

/// The memory of one lane.
#[must_use]
pub fn lane_memory(cells: usize, spill_bytes: usize) -> LaneMemory<'static> {
    let memory =
        LaneMemory { cells: lines(cells), spill: lines(spill_bytes / 64), credit: &lines(1)[0] };
    memory.reset();
    memory
}

/// A segment for that many endpoints: one, and others that each have a lane to it and one back.
#[must_use]
pub fn segment(endpoints: u32) -> Segment<'static> {
    let geometry = Geometry {
        process_count: endpoints,
        endpoint_count: endpoints,
        lane_count: (endpoints - 1) * 2,
        lane_cell_count: 128,
        lane_spill_bytes: 16 << 10,
    };
    let bytes = usize::try_from(geometry.segment_bytes().unwrap()).unwrap();
    let identity = Identity {
        name: name("bench"),
        boot_id: [0; 16],
        created_unix_ns: 0,
        pid: 1,
        start_time: 1,
        pid_namespace: 1,
        page_bytes: 4096,
    };
    Segment::format(lines(bytes / 64), geometry, &identity).unwrap()
}

/// A name.
#[must_use]
pub fn name(text: &str) -> Name {
    Name::new(text).unwrap()
}

/// An endpoint with room for so many posted receives.
#[must_use]
pub fn endpoint(
    segment: Segment<'static>,
    bump: &Bump<'static>,
    called: &str,
    recv_depth: u32,
) -> ShmEndpoint {
    endpoint_over(segment, bump, (called, recv_depth), |port| port)
}

/// The same, over what is made of the port.
#[must_use]
pub fn endpoint_over<P: Provider>(
    segment: Segment<'static>,
    bump: &Bump<'static>,
    (called, recv_depth): (&str, u32),
    over: impl FnOnce(ShmPort<'static, 'static>) -> P,
) -> Endpoint<'static, P> {
    let joiner = lease::Joiner { pid: 1, start_time: 1, joined_unix_ns: 0, command: [0; 64] };
    let lease = lease::join(&segment, &joiner).unwrap();
    let matching = MatchingConfig { recv_depth, unexpected_depth: 64, unexpected_bytes_max: 64 };
    let config = ShmConfig { peers_max: 64, send_depth: 64, matching };
    let port = ShmPort::open(segment, lease, bump, (&name(called), EndpointType::Rdm), &config);
    let contexts = EndpointConfig { contexts_max: recv_depth + 64 };
    Endpoint::new(over(port.unwrap()), bump, &contexts).unwrap()
}

/// A sender, a receiver, and the receiver's address.
#[derive(Debug)]
pub struct Pair<P = ShmPort<'static, 'static>> {
    /// Who sends.
    pub sender: Endpoint<'static, P>,
    /// Who receives.
    pub receiver: Endpoint<'static, P>,
    /// Of the receiver.
    pub to: Addr,
}

/// Two endpoints in a segment of their own, connected. The receiver's tables and buffers are placed in `bump`.
#[must_use]
pub fn pair(bump: &Bump<'static>, recv_depth: u32) -> Pair {
    pair_over(bump, recv_depth, |port| port)
}

/// The same, over what is made of their ports.
#[must_use]
pub fn pair_over<P: Provider>(
    bump: &Bump<'static>,
    recv_depth: u32,
    over: fn(ShmPort<'static, 'static>) -> P,
) -> Pair<P> {
    let segment = segment(2);
    let sender = endpoint_over(segment, bump, ("sender", 16), over);
    let receiver = endpoint_over(segment, bump, ("receiver", recv_depth), over);
    let to = sender.connect(&name("receiver")).unwrap();
    Pair { sender, receiver, to }
}

/// One turn, at an instant that is always the same.
#[inline(always)]
pub fn turn<P: Provider>(endpoint: &Endpoint<'_, P>) -> Outcome {
    endpoint.turn(Instant::ORIGIN, Budget::DEFAULT)
}
