//! What a device writes into a completion queue, byte by byte at the offsets of `infiniband/mlx5dv.h`, without the layouts of
//! the library.

use core::cell::Cell;

use spinwire_dataplane::cq::{Compression, Cq, CqMemory, EntryBytes, Queues, Tracked};
use spinwire_dataplane::raw::line::Line;
use spinwire_dataplane::raw::mmio::Device;
use spinwire_dataplane::raw::place::Bump;
use spinwire_dataplane::sync::{AtomicU32, Ordering};
use spinwire_dataplane::tracker::{Ordered, OrderedConfig};

pub(crate) const REQ: u8 = 0;
pub(crate) const RESP_SEND: u8 = 2;
pub(crate) const REQ_ERR: u8 = 13;
pub(crate) const RESP_ERR: u8 = 14;

/// The fields of a completion that tests set.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Fields {
    pub(crate) opcode: u8,
    pub(crate) qpn: u32,
    pub(crate) counter: u16,
    pub(crate) wqe_opcode: u8,
    pub(crate) bytes: u32,
    pub(crate) imm: u32,
    pub(crate) syndrome: u8,
    pub(crate) vendor: u8,
    /// 0 plain, 1 and 2 inline, 3 compressed.
    pub(crate) format: u8,
}

impl Fields {
    /// The 64 bytes, but for owner and signature. What an error does not have is filled with rubbish.
    pub(crate) fn bytes(self) -> [u8; 64] {
        let error = matches!(self.opcode, REQ_ERR | RESP_ERR);
        let mut cqe = [if error { 0xEE } else { 0 }; 64];
        if !error {
            cqe[36..40].copy_from_slice(&self.imm.to_be_bytes());
            cqe[44..48].copy_from_slice(&self.bytes.to_be_bytes());
        }
        cqe[54] = self.vendor;
        cqe[55] = self.syndrome;
        cqe[56..60].copy_from_slice(&self.qpn.to_be_bytes());
        cqe[56] = self.wqe_opcode;
        cqe[60..62].copy_from_slice(&self.counter.to_be_bytes());
        cqe[63] = (self.opcode << 4) | (self.format << 2);
        cqe
    }
}

/// A completion queue in ordinary memory, seen by the device.
pub(crate) struct Ring {
    pub(crate) lines: Vec<Line>,
    pub(crate) record: [AtomicU32; 2],
    pub(crate) entry: usize,
    pub(crate) entries: usize,
    /// Entries written so far.
    pub(crate) pi: Cell<usize>,
}

impl Ring {
    pub(crate) fn new(entries: usize, entry: usize) -> Self {
        let lines = (0..entries * entry / 64).map(|_| Line::zeroed()).collect();
        let record = [AtomicU32::new(7), AtomicU32::new(7)];
        Self { lines, record, entry, entries, pi: Cell::new(0) }
    }

    pub(crate) fn memory(&self) -> CqMemory<'_> {
        let entry_bytes = if self.entry == 64 { EntryBytes::B64 } else { EntryBytes::B128 };
        let (lines, record) = (&self.lines[..], &self.record);
        CqMemory { lines, entry_bytes, record, register: None, cqn: 0x55 }
    }

    pub(crate) fn cq(&self, compression: Compression) -> Cq<'_, Device> {
        Cq::new(self.memory(), compression, Device).unwrap()
    }

    /// Index of the doorbell record.
    pub(crate) fn told(&self) -> u32 {
        u32::from_be(self.record[0].load(Ordering::Relaxed))
    }

    /// Entries that the device may still write, as the record says.
    pub(crate) fn room(&self) -> usize {
        let taken = usize::try_from(self.told()).unwrap();
        self.entries - (self.pi.get() - taken)
    }

    pub(crate) fn lap(&self, position: usize) -> u8 {
        u8::try_from((position / self.entries) & 0xff).unwrap()
    }

    /// Writes 64 bytes to the upper part of the entry of `position`, the last word last.
    pub(crate) fn write(&self, position: usize, bytes: &[u8; 64]) {
        let line = (position % self.entries + 1) * (self.entry / 64) - 1;
        self.write_line(line, bytes);
    }

    pub(crate) fn write_line(&self, line: usize, bytes: &[u8; 64]) {
        for (word, chunk) in self.lines[line].words().iter().zip(bytes.as_chunks().0) {
            word.store(u64::from_le_bytes(*chunk), Ordering::Relaxed);
        }
    }

    /// A plain completion in the next entry, with the owner bit of its lap.
    pub(crate) fn push(&self, fields: Fields) {
        assert!(self.room() > 0, "the test overruns the queue");
        let position = self.pi.get();
        let mut bytes = fields.bytes();
        bytes[63] |= self.lap(position) & 1;
        self.write(position, &bytes);
        self.pi.set(position + 1);
    }
}

/// A queue pair of 64 blocks and 32 receives.
pub(crate) fn pair<'m>(bump: &Bump<'m>, qpn: u32) -> Tracked<'m, u64, u64> {
    let send = Ordered::place(bump, OrderedConfig { rows: 64, wqe_blocks_max: 4 }).unwrap();
    let receive = Ordered::place(bump, OrderedConfig { rows: 32, wqe_blocks_max: 1 }).unwrap();
    let pair = Tracked { qpn, send, receive };
    assert_eq!(pair.qpn(), qpn);
    pair
}
