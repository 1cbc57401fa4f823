//! Work queues of mlx5 devices: what is built is what rdma-core's header says, nothing is written that was refused, and the device
//! hears of it in the right order.
//!
//! ```text
//!   golden.rs    every opcode x segment x position against `vectors.c`, a C program over infiniband/mlx5dv.h
//!   header.rs    structures and numbers against the same header
//!   wrap.rs      small rings, every sequence: wrap, full, fill, inline data past the end; an oracle of blocks
//!   mixed.rs     any sequence of builds, completions and errors (proptest), with the same oracle
//!   order.rs     a recorder: words, record, barriers, register, halves in turn
//!   flag.rs      one builder at a time: the flag falls on every exit
//!   receive.rs   receive queues, alone and shared
//!   region.rs    ranges of memory that a WQE may name
//! ```
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    clippy::print_stdout,
    reason = "a test stops at the first thing that is not as expected"
)]

mod flag;
mod golden;
mod header;
#[path = "../host_process/mod.rs"]
mod host_process;
mod mixed;
mod order;
mod receive;
mod region;
mod wrap;

use core::mem::MaybeUninit;

use spinwire_dataplane::raw::line::Line;
use spinwire_dataplane::raw::mmio::Bus;
use spinwire_dataplane::raw::place::Bump;
use spinwire_dataplane::raw::region::LocalSge;
use spinwire_dataplane::sync::{AtomicU32, Ordering};
use spinwire_dataplane::wqe::{
    BlueFlame, Qp, QpConfig, QpMemory, RecvConfig, SendConfig, Straddle, Transport,
};

const QPN: u32 = 0x00ab_cdef;
/// What the device's memory holds before anything was written.
const UNWRITTEN: u64 = 0xEEEE_EEEE_EEEE_EEEE;

/// Memory of a device that is not there. It lives as long as the process.
struct Memory {
    sq: &'static [Line],
    rq: &'static [Line],
    record: &'static [AtomicU32; 2],
    uar: &'static [Line],
}

fn lines(count: usize) -> &'static [Line] {
    let lines: Vec<Line> = (0..count).map(|_| Line::zeroed()).collect();
    let lines: &'static [Line] = lines.leak();
    wipe(lines);
    lines
}

fn wipe(lines: &[Line]) {
    for word in lines.iter().flat_map(Line::words) {
        word.store(UNWRITTEN, Ordering::Relaxed);
    }
}

fn bytes_of(lines: &[Line]) -> Vec<u8> {
    let words = lines.iter().flat_map(Line::words);
    words.flat_map(|word| word.load(Ordering::Relaxed).to_le_bytes()).collect()
}

fn arena(bytes: usize) -> Bump<'static> {
    Bump::new(vec![MaybeUninit::uninit(); bytes].leak())
}

/// How the tests want their queue pairs.
#[derive(Clone, Copy)]
struct Shape {
    blocks: usize,
    wqe_blocks_max: u16,
    straddle: Straddle,
    blue_flame: BlueFlame,
    transport: Transport,
    recv: Option<RecvConfig>,
}

const SHAPE: Shape = Shape {
    blocks: 16,
    wqe_blocks_max: 4,
    straddle: Straddle::Fill,
    blue_flame: BlueFlame::Inline,
    transport: Transport::Rc { path: None },
    recv: None,
};

type TestQp<B> = Qp<'static, u32, B>;

fn open<B: Bus + Clone>(shape: Shape, bus: B) -> (TestQp<B>, Memory) {
    let rq_lines = shape.recv.map_or(0, |r| usize::from(r.wqes) * usize::from(r.sge_max) / 4);
    let memory = Memory {
        sq: lines(shape.blocks),
        rq: lines(rq_lines),
        record: Box::leak(Box::new([AtomicU32::new(0), AtomicU32::new(0)])),
        uar: lines(8),
    };
    let config = QpConfig {
        qpn: QPN,
        transport: shape.transport,
        send: SendConfig {
            wqe_blocks_max: shape.wqe_blocks_max,
            straddle: shape.straddle,
            blue_flame: shape.blue_flame,
        },
        recv: shape.recv,
    };
    let of = QpMemory { sq: memory.sq, rq: memory.rq, record: memory.record, uar: memory.uar };
    (Qp::place(&arena(1 << 20), config, of, bus).unwrap(), memory)
}

/// A range that no device will ever touch.
fn sge(addr: u64, length: u32, lkey: u32) -> LocalSge {
    // SAFETY: there is no device behind these queues.
    unsafe { LocalSge::from_raw(addr, length, lkey) }.unwrap()
}
