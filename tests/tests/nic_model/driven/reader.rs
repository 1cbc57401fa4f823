//! Completions, as whoever polls gets them: by a reader of the tests' own, after mlx5dv.h.

use spinwire_dataplane::raw::line::Line;
use spinwire_dataplane::sync::{AtomicU32, Ordering};
use spinwire_tests::sim::nic::bytes::{be16, be32, read_ring, write_lines};

/// A completion.
#[derive(Clone, Debug)]
pub(crate) enum Seen {
    Sent { qpn: u32, counter: u16, bytes: u32, inline: Option<Vec<u8>> },
    Received { qpn: u32, counter: u16, kind: u8, imm: u32, bytes: u32, inline: Option<Vec<u8>> },
    Failed { send: bool, qpn: u32, counter: u16, syndrome: u8 },
}

/// A completion queue that is read by hand.
pub(crate) struct Reader<'m> {
    ring: &'m [Line],
    record: &'m [AtomicU32; 2],
    bytes: usize,
    ci: u32,
}

impl<'m> Reader<'m> {
    pub(crate) fn new(ring: &'m [Line], record: &'m [AtomicU32; 2], bytes: usize) -> Self {
        for at in (0..ring.len() * 64).step_by(64) {
            write_lines(ring, at + 63, &[0xF1]);
        }
        Self { ring, record, bytes, ci: 0 }
    }

    fn entry(&self, index: u32) -> (usize, u8) {
        let entries = u32::try_from(self.ring.len() * 64 / self.bytes).unwrap();
        let at = usize::try_from(index % entries).unwrap() * self.bytes + self.bytes - 64;
        (at, u8::from(index & entries != 0))
    }

    pub(crate) fn poll(&mut self) -> Vec<Seen> {
        let mut all = Vec::new();
        while all.len() < 16 {
            let (at, lap) = self.entry(self.ci);
            let entry = read_ring(self.ring, at, 64);
            if entry[63] & 1 != lap || entry[63] >> 4 == 0xF {
                break;
            }
            if entry[63] >> 2 & 3 == 3 && entry[63] >> 4 < 13 {
                self.expand(&entry, &mut all);
            } else {
                self.ci = self.ci.wrapping_add(1);
                all.push(self.decode(&entry, at));
            }
        }
        self.record[0].store((self.ci & 0xFF_FFFF).to_be(), Ordering::Release);
        all
    }

    /// A title and lengths.
    fn expand(&mut self, title: &[u8], all: &mut Vec<Seen>) {
        let count = be32(title, 44);
        let (at, _) = self.entry(self.ci.wrapping_add(1));
        let minis = read_ring(self.ring, at, 64);
        for number in 0..count {
            let (at, lap) = self.entry(self.ci);
            // Whatever is there must not look valid in the next lap.
            write_lines(self.ring, at + 63, &[0xF0 | lap]);
            self.ci = self.ci.wrapping_add(1);
            let mini = usize::try_from(number).unwrap() * 8;
            let mut entry = title.to_vec();
            let counter = be16(title, 60).wrapping_add(u16::try_from(number).unwrap());
            entry[60..62].copy_from_slice(&counter.to_be_bytes());
            entry[44..48].copy_from_slice(&minis[mini + 4..mini + 8]);
            entry[63] &= !0xC;
            all.push(self.decode(&entry, 64));
        }
    }

    fn decode(&self, entry: &[u8], at: usize) -> Seen {
        let (qpn, counter) = (be32(entry, 56) & 0xFF_FFFF, be16(entry, 60));
        let bytes = be32(entry, 44);
        let length = usize::try_from(bytes).unwrap();
        let inline = || match entry[63] >> 2 & 3 {
            1 => Some(entry[..length].to_vec()),
            2 => Some(read_ring(self.ring, at - 64, length)),
            _ => None,
        };
        match entry[63] >> 4 {
            0 => {
                let back = matches!(entry[56], 0x10..=0x15);
                Seen::Sent { qpn, counter, bytes: if back { bytes } else { 0 }, inline: inline() }
            }
            kind @ 1..=4 => {
                let imm = if kind == 2 { 0 } else { be32(entry, 36) };
                Seen::Received { qpn, counter, kind, imm, bytes, inline: inline() }
            }
            kind @ (13 | 14) => {
                Seen::Failed { send: kind == 13, qpn, counter, syndrome: entry[55] }
            }
            kind => panic!("a completion of kind {kind}"),
        }
    }
}
