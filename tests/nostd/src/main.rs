//! Link proof: a program of its own, without std, libc, loader and allocator, that sends messages to itself.
//!
//! It makes a segment in static memory, registers two endpoints, opens a lane and exchanges messages until both rings
//! have wrapped many times; then endpoints talk over shared memory and over the loopback, and hand over buffers of a pool; work queues of
//! a device are filled; a virtual queue pair stripes over two devices. Its exit code says which step failed; 0 is success, 101 a panic.
#![no_std]
#![no_main]

mod bare;
mod device;
mod lent;
mod service;
mod striped;

use core::ptr::NonNull;

use bare::Arena;
use spinwire_dataplane::error::{PostError, Retry};
use spinwire_dataplane::id::Name;
use spinwire_dataplane::raw::line::{Line, lines_from_raw};
use spinwire_dataplane::raw::place::Bump;
use spinwire_dataplane::shm::lane::{Envelope, LaneRx, LaneTx};
use spinwire_dataplane::shm::lease::Joiner;
use spinwire_dataplane::shm::segment::{Geometry, Identity, Segment};
use spinwire_dataplane::shm::{directory, lane_table, lease};
use spinwire_layouts::shm::EndpointKind;

const ARENA_BYTES: usize = 64 << 10;
static ARENA: Arena<ARENA_BYTES> = Arena::zeroed();
static TABLES: Arena<{ 1 << 20 }> = Arena::zeroed();

const GEOMETRY: Geometry = Geometry {
    process_count: 4,
    endpoint_count: 4,
    lane_count: 4,
    lane_cell_count: 8,
    lane_spill_bytes: 1024,
};

/// Which step failed.
#[derive(Clone, Copy)]
#[repr(i32)]
enum Step {
    Memory = 1,
    Format = 2,
    Attach = 3,
    Join = 4,
    Register = 5,
    Open = 6,
    Accept = 7,
    Send = 8,
    Receive = 9,
    Content = 10,
    Credit = 11,
    Arena = 12,
    ShmPort = 13,
    ShmTalk = 14,
    Hub = 15,
    HubTalk = 16,
    Lent = 17,
    Queues = 18,
    Striped = 19,
}

extern "C" fn main() -> ! {
    bare::exit(match run() {
        Ok(()) => 0,
        Err(step) => step as i32,
    })
}

fn run() -> Result<(), Step> {
    let base = NonNull::new(ARENA.base()).ok_or(Step::Memory)?;
    // SAFETY: the arena is static, one thread runs, and nothing else ever looks into it.
    let lines = unsafe { lines_from_raw(base, ARENA_BYTES) }.ok_or(Step::Memory)?;
    let (sender, receiver) = open_lane(lines)?;
    exchange(&sender, &receiver)?;
    fill(&sender)?;
    let segment = Segment::attach(lines).map_err(|_| Step::Attach)?;
    let block = TABLES.take().ok_or(Step::Arena)?;
    let bump = Bump::new(block);
    service::over_shm(segment, &bump)?;
    device::over(&bump).ok_or(Step::Queues)?;
    service::over_loopback(&bump)?;
    striped::over_two_devices(&bump).ok_or(Step::Striped)
}

/// One process, two endpoints, one lane between them.
fn open_lane(lines: &'static [Line]) -> Result<(LaneTx<'static>, LaneRx<'static>), Step> {
    let name = |text| Name::new(text).map_err(|_| Step::Format);
    let identity = Identity {
        name: name("proof")?,
        boot_id: [7; 16],
        created_unix_ns: 1,
        pid: 1,
        start_time: 1,
        page_bytes: 4096,
        pid_namespace: 0,
    };
    Segment::format(lines, GEOMETRY, &identity).map_err(|_| Step::Format)?;
    let segment = Segment::attach(lines).map_err(|_| Step::Attach)?;
    let joiner = Joiner { pid: 1, start_time: 1, joined_unix_ns: 1, command: [0; 64] };
    let lease = lease::join(&segment, &joiner).map_err(|_| Step::Join)?;
    let register = |text| {
        directory::register(&segment, &lease, &name(text)?, EndpointKind::Rdm)
            .map_err(|_| Step::Register)
    };
    let from = register("from")?;
    let to = register("to")?;
    let target = directory::lookup(&segment, &name("to")?).ok_or(Step::Register)?;
    let sending =
        lane_table::open(&segment, from, lease.slot(), &target, 0).map_err(|_| Step::Open)?;
    let (receiving, sender) =
        lane_table::inbound(&segment, sending.lane, to).ok_or(Step::Accept)?;
    if sender != from || receiving.generation != sending.generation {
        return Err(Step::Accept);
    }
    let longest = GEOMETRY.message_bytes_max();
    Ok((LaneTx::new(sending.memory), LaneRx::new(receiving.memory, longest)))
}

/// Messages of every length, with and without a tag, until the rings have wrapped many times.
fn exchange(sender: &LaneTx<'_>, receiver: &LaneRx<'_>) -> Result<(), Step> {
    let mut sent = [0_u8; 512];
    let mut received = [0_u8; 512];
    for round in 0..2000_usize {
        let length = round * 7 % (sent.len() + 1);
        for (i, byte) in sent.iter_mut().enumerate() {
            *byte = (round ^ i) as u8;
        }
        let number = round as u64;
        let envelope = Envelope {
            tag: (round % 2 == 0).then_some(number),
            immediate: (round % 3 == 0).then_some(!number),
        };
        sender.stage(sent.get(..length).ok_or(Step::Send)?, envelope).map_err(|_| Step::Send)?;
        if !matches!(receiver.peek(), Ok(None)) {
            return Err(Step::Receive);
        }
        if sender.publish() != 1 {
            return Err(Step::Send);
        }
        let arrival = receiver.peek().map_err(|_| Step::Receive)?.ok_or(Step::Receive)?;
        if arrival.length != length || arrival.envelope != envelope {
            return Err(Step::Content);
        }
        receiver.copy_out(&arrival, received.get_mut(..length).ok_or(Step::Receive)?);
        receiver.advance(&arrival);
        if received.get(..length) != sent.get(..length) {
            return Err(Step::Content);
        }
    }
    receiver.return_credit();
    Ok(())
}

/// A full lane refuses, and says why.
fn fill(sender: &LaneTx<'_>) -> Result<(), Step> {
    for _ in 0..8 {
        sender.stage(b"x", Envelope::default()).map_err(|_| Step::Credit)?;
    }
    match sender.stage(b"x", Envelope::default()) {
        Err(PostError::Retry(Retry::NoCredit)) => Ok(()),
        _ => Err(Step::Credit),
    }
}
