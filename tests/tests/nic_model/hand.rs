//! A driver that is written by hand: memory of two nodes, and bytes put where a device looks for them.

use spinwire_dataplane::raw::line::Line;
use spinwire_dataplane::sync::{AtomicU32, Ordering};
use spinwire_tests::sim::nic::bytes::{read_ring, write_lines};
use spinwire_tests::sim::nic::memory::Access;
use spinwire_tests::sim::nic::wqe::{Rules, Transport};
use spinwire_tests::sim::nic::{
    CqPlan, Fabric, Fault, Manner, QpPlan, Receives, Short, SrqPlan, lines,
};

/// Numbers of the queue pairs.
pub(crate) const QPN: [u32; 2] = [0x11, 0x0A_BC22];
/// Keys of the memory of the nodes.
pub(crate) const KEY: [u32; 2] = [0x0700, 0x0901];
/// Where that memory begins.
pub(crate) const START: [u64; 2] = [0x10_0000, 0x7F00_2000_0000];
/// The shared receive queue.
pub(crate) const SRQ: u32 = 0x5;
pub(crate) const QKEY: u32 = 0x8001_0001;

/// What one node has.
pub(crate) struct Memory {
    pub(crate) sq: Vec<Line>,
    pub(crate) rq: Vec<Line>,
    pub(crate) records: [[AtomicU32; 2]; 4],
    pub(crate) register: Vec<Line>,
    pub(crate) cqs: [Vec<Line>; 2],
    pub(crate) data: Vec<Line>,
}

/// Entries of the receive queues.
pub(crate) const RECEIVES: usize = 8;

/// How the queues are made.
#[derive(Clone, Copy)]
pub(crate) struct Shape {
    pub(crate) blocks: usize,
    pub(crate) cqe_bytes: usize,
    pub(crate) transport: Transport,
    pub(crate) shared: bool,
    pub(crate) scatter: bool,
    pub(crate) compress: Short,
    pub(crate) cq_entries: usize,
    pub(crate) rnr_retries: u8,
    pub(crate) seed: u64,
}

impl Default for Shape {
    fn default() -> Self {
        Self {
            blocks: 8,
            cqe_bytes: 64,
            transport: Transport::Rc,
            shared: false,
            scatter: false,
            compress: Short::Never,
            cq_entries: 16,
            rnr_retries: 7,
            seed: 1,
        }
    }
}

impl Memory {
    pub(crate) fn new(shape: &Shape) -> Self {
        let cq = || {
            let ring = lines(shape.cq_entries * shape.cqe_bytes / 64);
            for at in (0..ring.len() * 64).step_by(64) {
                write_lines(&ring, at + 63, &[0xF1]);
            }
            ring
        };
        Self {
            sq: lines(shape.blocks),
            rq: lines(RECEIVES * 64 / 64),
            records: core::array::from_fn(|_| [AtomicU32::new(0), AtomicU32::new(0)]),
            register: lines(8),
            cqs: [cq(), cq()],
            data: lines(64),
        }
    }
}

/// Both nodes, and the devices.
pub(crate) struct Hand<'m> {
    pub(crate) fabric: Fabric<'m>,
    pub(crate) memory: &'m [Memory; 2],
    pub(crate) shape: Shape,
    half: [usize; 2],
}

impl<'m> Hand<'m> {
    pub(crate) fn new(memory: &'m [Memory; 2], shape: Shape, manner: Manner) -> Self {
        let mut fabric = Fabric::new(shape.seed, 2, manner);
        for (node, memory) in memory.iter().enumerate() {
            let keys = &mut fabric.nodes[node].keys;
            keys.lines((KEY[node], 1), START[node], &memory.data, Access::ALL);
            for (number, ring) in (0..).zip(&memory.cqs) {
                let record = &memory.records[usize::try_from(number + 1).unwrap()];
                let (cqe_bytes, compress) = (shape.cqe_bytes, shape.compress);
                fabric.cq(node, CqPlan { number, ring, cqe_bytes, record, compress });
            }
            let (number, stride) = (SRQ, 64);
            let record = &memory.records[3];
            fabric.srq(node, SrqPlan { number, domain: 1, ring: &memory.rq, stride, record });
            let rq =
                if shape.shared { Receives::Shared(SRQ) } else { Receives::Ring(&memory.rq, 64) };
            let plan = QpPlan {
                rules: Rules { qpn: QPN[node], transport: shape.transport, inline_max: 256 },
                domain: 1,
                sq: &memory.sq,
                rq,
                record: &memory.records[0],
                register: &memory.register,
                cqs: (0, 1),
                qkey: QKEY,
                retries: 7,
                rnr_retries: shape.rnr_retries,
                scatter_to_cqe: shape.scatter,
            };
            fabric.qp(node, plan);
        }
        if shape.transport == Transport::Rc {
            fabric.connect((0, QPN[0]), (1, QPN[1]));
        }
        Self { fabric, memory, shape, half: [0; 2] }
    }

    /// Writes a request at that block of the ring of node 0, around its end if need be.
    pub(crate) fn write(&self, block: usize, bytes: &[u8]) {
        for (number, unit) in bytes.chunks(16).enumerate() {
            let at = (block * 64 + number * 16) % (self.shape.blocks * 64);
            write_lines(&self.memory[0].sq, at, unit);
        }
    }

    /// Stores these bytes in a slot of a record of a node: 0 of the queue pair, 1 and 2 of its completion queues, 3 of the shared one.
    pub(crate) fn store(&self, node: usize, record: usize, slot: usize, bytes: [u8; 4]) {
        let slot = &self.memory[node].records[record][slot];
        slot.store(u32::from_le_bytes(bytes), Ordering::Release);
    }

    /// Stores the record of the send queue of node 0.
    pub(crate) fn record(&self, end: u16) {
        self.store(0, 0, 1, u32::from(end).to_be_bytes());
    }

    /// Writes to the register of node 0: the next half.
    pub(crate) fn ring(&mut self, bytes: &[u8]) {
        write_lines(&self.memory[0].register, self.half[0] * 256, bytes);
        self.half[0] ^= 1;
    }

    /// Writes a request at its place, publishes it, and lets things settle.
    pub(crate) fn post(&mut self, index: u16, bytes: &[u8]) {
        self.write(usize::from(index), bytes);
        let blocks = u16::from(bytes[7] & 0x3F).div_ceil(4);
        self.record(index.wrapping_add(blocks));
        self.ring(&bytes[..8]);
        self.fabric.settle(10_000);
    }

    /// Posts a receive of so many bytes at that place of the memory of a node; `number` is how many were posted before.
    pub(crate) fn receive(&self, node: usize, number: u16, at: u64, length: u32) {
        let memory = &self.memory[node];
        let mut entry = Vec::new();
        if self.shape.shared {
            // The list leads from each entry to the next.
            let next = (number + 1) % u16::try_from(RECEIVES).unwrap();
            entry.extend([0, 0]);
            entry.extend(next.to_be_bytes());
            entry.extend([0; 12]);
        }
        entry.extend(data(length, KEY[node], START[node] + at));
        entry.extend([0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
        let slot = usize::from(number) % RECEIVES;
        write_lines(&memory.rq, slot * 64, &entry);
        let record = if self.shape.shared { 3 } else { 0 };
        self.store(node, record, 0, u32::from(number + 1).to_be_bytes());
    }

    /// The completion at that place, if it was written in that lap.
    pub(crate) fn cqe(&self, node: usize, cq: usize, number: usize) -> Option<[u8; 64]> {
        let bytes = self.shape.cqe_bytes;
        let at = number % self.shape.cq_entries * bytes + bytes - 64;
        let entry: [u8; 64] = read_ring(&self.memory[node].cqs[cq], at, 64).try_into().unwrap();
        let lap = u8::from(number / self.shape.cq_entries % 2 == 1);
        (entry[63] & 1 == lap && entry[63] >> 4 != 0xF).then_some(entry)
    }

    /// The driver of a node has consumed so many.
    pub(crate) fn consumed(&self, node: usize, cq: usize, count: u32) {
        self.store(node, cq + 1, 0, count.to_be_bytes());
    }

    pub(crate) fn put(&self, node: usize, at: usize, bytes: &[u8]) {
        write_lines(&self.memory[node].data, at, bytes);
    }

    pub(crate) fn get(&self, node: usize, at: usize, length: usize) -> Vec<u8> {
        read_ring(&self.memory[node].data, at, length)
    }

    /// The faults so far, without where they are.
    pub(crate) fn faults(&self) -> Vec<Fault> {
        self.fabric.violations.iter().map(|violation| violation.fault).collect()
    }

    /// Nothing was wrong.
    pub(crate) fn clean(&self) {
        assert_eq!(self.fabric.violations, [], "nothing is wrong with it");
    }
}

/// A control segment: `opmod 8 | index 16 | opcode 8`, `qpn 24 | ds 8`, signature, stream, flags, immediate.
pub(crate) fn ctrl(index: u16, opcode: u8, ds: u8, flags: u8, imm: u32) -> Vec<u8> {
    let index = index.to_be_bytes();
    let mut bytes = vec![0, index[0], index[1], opcode, 0, 0, 0x11, ds, 0, 0, 0, flags];
    bytes.extend(imm.to_be_bytes());
    bytes
}

/// A data segment.
pub(crate) fn data(length: u32, key: u32, address: u64) -> Vec<u8> {
    let mut bytes = length.to_be_bytes().to_vec();
    bytes.extend(key.to_be_bytes());
    bytes.extend(address.to_be_bytes());
    bytes
}

/// A remote address segment.
pub(crate) fn raddr(address: u64, key: u32) -> Vec<u8> {
    let mut bytes = address.to_be_bytes().to_vec();
    bytes.extend(key.to_be_bytes());
    bytes.extend([0; 4]);
    bytes
}

/// An inline segment, filled up to 16.
pub(crate) fn inline(text: &[u8]) -> Vec<u8> {
    let mut bytes = (0x8000_0000 | u32::try_from(text.len()).unwrap()).to_be_bytes().to_vec();
    bytes.extend(text);
    bytes.resize(bytes.len().next_multiple_of(16), 0);
    bytes
}

/// The completion flag.
pub(crate) const SIGNALED: u8 = 8;

/// A request of these segments, whose size is filled in.
pub(crate) fn request(index: u16, opcode: u8, flags: u8, segments: &[Vec<u8>]) -> Vec<u8> {
    let length: usize = segments.iter().map(Vec::len).sum();
    let mut bytes = ctrl(index, opcode, u8::try_from(1 + length / 16).unwrap(), flags, 0);
    bytes.extend(segments.concat());
    bytes
}

/// The memory of two nodes.
pub(crate) fn memory(shape: &Shape) -> [Memory; 2] {
    [Memory::new(shape), Memory::new(shape)]
}
