//! Compressed queues: whatever form completions come in, they are the same ones, once and in order.

use std::collections::VecDeque;

use spinwire_dataplane::cq::{Compression, Cq, Cqe, MiniFormat, ShortInfo};
use spinwire_dataplane::raw::mmio::Device;
use spinwire_tests::rng::Rng;

use crate::device::{Fields, REQ, REQ_ERR, RESP_SEND, Ring};

/// What a completion comes to, whole or short.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Seen {
    opcode: u8,
    qpn: u32,
    counter: u16,
    /// Of a send: opcode of the WQE. Of a receive: bytes.
    more: u32,
    info: Option<ShortInfo>,
}

fn seen(cqe: &Cqe<'_>) -> Seen {
    match cqe {
        Cqe::Sent(cqe) => Seen {
            opcode: REQ,
            qpn: cqe.qpn(),
            counter: cqe.wqe_counter(),
            more: u32::from(cqe.opcode()),
            info: None,
        },
        Cqe::Received(cqe) => Seen {
            opcode: RESP_SEND,
            qpn: cqe.qpn(),
            counter: cqe.wqe_counter(),
            more: cqe.bytes(),
            info: cqe.short_info(),
        },
        Cqe::Failed(failure) => Seen {
            opcode: REQ_ERR,
            qpn: failure.qpn,
            counter: failure.wqe_counter,
            more: u32::from(failure.syndrome.0),
            info: None,
        },
        Cqe::Odd(odd) => panic!("{odd:?}"),
    }
}

fn poll(cq: &Cq<'_, Device>, budget: u32) -> Vec<Seen> {
    let mut all = Vec::new();
    cq.poll(budget, |cqe| all.push(seen(&cqe)));
    all
}

/// A device that compresses, and what it has said.
struct Sender<'r> {
    ring: &'r Ring,
    rng: Rng,
    format: MiniFormat,
    receives: u16,
    sends: u16,
    qpn_mask: u8,
    expected: VecDeque<Seen>,
}

impl Sender<'_> {
    fn fields(&mut self, opcode: u8) -> (Fields, Seen) {
        let random = self.rng.word().to_le_bytes();
        let qpn = u32::from(random[0] & self.qpn_mask);
        let mut fields = Fields { opcode, qpn, ..Fields::default() };
        let more = match opcode {
            RESP_SEND => {
                fields.counter = self.receives;
                self.receives = self.receives.wrapping_add(1);
                fields.bytes = u32::from_le_bytes([random[1], random[2], random[3], 0]);
                fields.bytes
            }
            REQ => {
                fields.counter = self.sends;
                self.sends = self.sends.wrapping_add(u16::from(random[1] % 5));
                fields.wqe_opcode = random[2];
                u32::from(random[2])
            }
            _ => {
                fields.syndrome = random[1];
                u32::from(random[1])
            }
        };
        (fields, Seen { opcode, qpn, counter: fields.counter, more, info: None })
    }

    fn plain(&mut self, opcode: u8, signature: Option<u8>) {
        let (fields, seen) = self.fields(opcode);
        self.expected.push_back(seen);
        let position = self.ring.pi.get();
        let mut bytes = fields.bytes();
        bytes[62] = signature.unwrap_or(bytes[5]);
        bytes[63] |= self.ring.lap(position) & 1;
        self.ring.write(position, &bytes);
        self.ring.pi.set(position + 1);
    }

    /// A short one of queue pair `qpn`, as its 8 bytes.
    fn mini(&mut self, opcode: u8, qpn: u32) -> [u8; 8] {
        let (fields, seen) = self.fields(opcode);
        let mut seen = Seen { qpn, ..seen };
        let mut mini = [0; 8];
        mini[4..].copy_from_slice(&fields.bytes.to_be_bytes());
        let random = self.rng.word().to_le_bytes();
        let sum = [random[0], random[1]];
        if opcode == REQ {
            mini[..2].copy_from_slice(&fields.counter.to_be_bytes());
            mini[2] = fields.wqe_opcode;
            mini[3] = random[3];
        } else {
            mini[..4].copy_from_slice(&random[..4]);
            seen.info = Some(match self.format {
                MiniFormat::Hash => {
                    ShortInfo::Hash(u32::from_be_bytes(random[..4].try_into().unwrap()))
                }
                MiniFormat::Checksum => ShortInfo::Checksum(u16::from_be_bytes(sum)),
                MiniFormat::ChecksumStride => {
                    // Any order: it is named.
                    seen.counter = u16::from_be_bytes([random[2], random[3]]);
                    ShortInfo::Checksum(u16::from_be_bytes(sum))
                }
            });
        }
        self.expected.push_back(seen);
        mini
    }

    /// A title and its arrays, over `count` entries.
    fn basic(&mut self, opcode: u8, count: usize) {
        let start = self.ring.pi.get();
        let qpn = u32::from(self.rng.word().to_le_bytes()[0] & self.qpn_mask);
        let counter = self.receives;
        let minis: Vec<_> = (0..count).map(|_| self.mini(opcode, qpn)).collect();
        for (number, array) in minis.chunks(8).enumerate() {
            // What is left of the last array is rubbish.
            let mut bytes: [u8; 64] = core::array::from_fn(|_| self.rng.word().to_le_bytes()[0]);
            bytes[..array.len() * 8].copy_from_slice(array.as_flattened());
            self.ring.write(start + (number * 8).max(1), &bytes);
        }
        let bytes = u32::try_from(count).unwrap();
        let title = Fields { opcode, qpn, counter, bytes, format: 3, ..Fields::default() };
        let mut title = title.bytes();
        title[63] |= self.ring.lap(start) & 1;
        self.ring.write(start, &title);
        self.ring.pi.set(start + count);
    }

    /// An array behind what came before.
    fn enhanced(&mut self, opcode: u8, qpn: u32, count: usize) {
        let start = self.ring.pi.get();
        let mut bytes: [u8; 64] = core::array::from_fn(|_| self.rng.word().to_le_bytes()[0]);
        for chunk in bytes.as_chunks_mut().0.iter_mut().take(count) {
            *chunk = self.mini(opcode, qpn);
        }
        bytes[62] = self.ring.lap(start);
        bytes[63] = (u8::try_from(count - 1).unwrap() << 4) | 3 << 2;
        self.ring.write(start, &bytes);
        self.ring.pi.set(start + count);
    }

    /// Takes out what one queue pair has there, or one that has nothing. Its number, and how many they were.
    fn discard(&mut self, cq: &Cq<'_, Device>) -> (u32, usize) {
        let waiting = self.expected.len();
        let qpn = match self.expected.get(self.rng.index(waiting + 1)) {
            Some(seen) => seen.qpn,
            None => 0x1234,
        };
        // Nothing of what waits keeps what there is in short forms only.
        let all = self.expected.drain(..).map(|seen| Seen { info: None, ..seen });
        let (gone, left): (VecDeque<_>, VecDeque<_>) = all.partition(|seen| seen.qpn == qpn);
        self.expected = left;
        let mut taken = VecDeque::new();
        let count = cq.discard(qpn, |cqe| taken.push_back(seen(&cqe))).unwrap();
        assert_eq!((usize::try_from(count).unwrap(), &taken), (gone.len(), &gone));
        assert_eq!(self.ring.told(), cq.ci());
        (qpn, gone.len())
    }

    fn take(&mut self, cq: &Cq<'_, Device>) {
        let budget = self.rng.between(1, 30);
        let seen = poll(cq, u32::try_from(budget).unwrap());
        assert_eq!(seen.len(), budget.min(self.expected.len()));
        for seen in seen {
            assert_eq!(Some(seen), self.expected.pop_front());
        }
        assert_eq!(self.ring.told(), cq.ci());
    }
}

const FORMATS: [MiniFormat; 3] =
    [MiniFormat::Hash, MiniFormat::Checksum, MiniFormat::ChecksumStride];

const fn sender(ring: &Ring, format: MiniFormat, seed: u64) -> Sender<'_> {
    let (receives, sends) = (0xffe0, 0xfff0);
    let expected = VecDeque::new();
    Sender { ring, rng: Rng::new(seed), format, receives, sends, qpn_mask: 0xff, expected }
}

#[test]
fn titles_and_arrays_come_to_what_was_compressed() {
    for (seed, format) in (0..).zip(FORMATS) {
        let ring = Ring::new(64, 64);
        let cq = ring.cq(Compression::Basic(format));
        let mut device = sender(&ring, format, seed);
        for _ in 0..3000 {
            let opcode = if device.rng.chance(60) { RESP_SEND } else { REQ };
            let room = ring.room();
            let count = device.rng.between(2, 40);
            match device.rng.index(3) {
                0 if count < room => device.basic(opcode, count),
                1 if room > 0 => device.plain(REQ_ERR, None),
                _ if room > 0 => device.plain(opcode, None),
                _ => {}
            }
            device.take(&cq);
        }
        while !device.expected.is_empty() {
            device.take(&cq);
        }
        assert_eq!(poll(&cq, 9), [], "what the device never wrote is no completion");
    }
}

#[test]
fn what_a_queue_pair_leaves_in_titles_and_arrays_is_taken_out_and_the_rest_stays() {
    let mut discarded = 0;
    for (seed, (format, entries)) in
        (0..).zip(FORMATS.into_iter().flat_map(|format| [(format, 64), (format, 8), (format, 32)]))
    {
        let ring = Ring::new(entries, 64);
        let cq = ring.cq(Compression::Basic(format));
        let mut device = Sender { qpn_mask: 3, ..sender(&ring, format, 100 + seed) };
        for _ in 0..1500 {
            for _ in 0..device.rng.index(4) {
                let opcode = if device.rng.chance(60) { RESP_SEND } else { REQ };
                let (room, count) = (ring.room(), device.rng.between(2, 27));
                match device.rng.index(3) {
                    0 | 1 if count <= room => device.basic(opcode, count),
                    2 if room > 0 => device.plain(REQ_ERR, None),
                    _ if room > 0 => device.plain(opcode, None),
                    _ => {}
                }
            }
            if device.rng.chance(40) {
                discarded += device.discard(&cq).1;
            }
            if device.rng.chance(70) {
                device.take(&cq);
            }
        }
        while !device.expected.is_empty() {
            device.take(&cq);
        }
        assert_eq!(poll(&cq, 9), [], "what the device never wrote is no completion");
    }
    assert!(discarded > 5000, "{discarded}");
}

#[test]
fn what_a_queue_pair_leaves_in_arrays_behind_plain_ones_is_taken_out_and_the_rest_stays() {
    let mut discarded = 0;
    for (seed, (format, entries)) in
        (0..).zip(FORMATS.into_iter().flat_map(|format| [(format, 64), (format, 8)]))
    {
        let ring = Ring::new(entries, 64);
        let cq = ring.cq(Compression::Enhanced(format));
        let mut device = Sender { qpn_mask: 3, ..sender(&ring, format, 200 + seed) };
        let mut title = None;
        for _ in 0..2000 {
            for _ in 0..device.rng.index(4) {
                let (room, count) = (ring.room(), device.rng.between(1, 7));
                let lap = Some(ring.lap(ring.pi.get()));
                match title {
                    Some((opcode, qpn)) if device.rng.chance(60) && count <= room => {
                        device.enhanced(opcode, qpn, count);
                    }
                    _ if room > 0 => {
                        let opcode = if device.rng.chance(60) { RESP_SEND } else { REQ };
                        device.plain(opcode, lap);
                        title = device.expected.back().map(|seen| (opcode, seen.qpn));
                    }
                    _ => {}
                }
            }
            if device.rng.chance(40) {
                let (qpn, count) = device.discard(&cq);
                discarded += count;
                // A queue pair that was reset completes nothing more.
                title = title.filter(|(_, of)| *of != qpn);
            }
            if device.rng.chance(70) {
                device.take(&cq);
            }
        }
        while !device.expected.is_empty() {
            device.take(&cq);
        }
        assert_eq!(poll(&cq, 9), []);
    }
    assert!(discarded > 5000, "{discarded}");
}

#[test]
fn arrays_behind_plain_ones_come_to_what_was_compressed() {
    for (seed, format) in (9..).zip(FORMATS) {
        let ring = Ring::new(32, 64);
        let cq = ring.cq(Compression::Enhanced(format));
        let mut device = sender(&ring, format, seed);
        // The last plain one: its opcode and queue pair.
        let mut title = None;
        for _ in 0..6000 {
            let room = ring.room();
            let (count, is_receive) = (device.rng.between(1, 7), device.rng.chance(60));
            let lap = Some(ring.lap(ring.pi.get()));
            match title {
                // A receive's counters go on behind the title, unless they are named.
                Some((opcode, qpn)) if device.rng.chance(60) && count <= room => {
                    device.enhanced(opcode, qpn, count);
                }
                _ if room > 0 => {
                    let opcode = if is_receive { RESP_SEND } else { REQ };
                    device.plain(opcode, lap);
                    title = device.expected.back().map(|seen| (opcode, seen.qpn));
                }
                _ => {}
            }
            device.take(&cq);
        }
    }
}

#[test]
fn titles_and_arrays_that_cannot_be_are_odd_and_take_one_entry() {
    let odd = |cq: &Cq<'_, Device>| {
        let mut count = 0;
        cq.poll(100, |cqe| {
            assert!(matches!(cqe, Cqe::Odd(_)), "{cqe:?}");
            count += 1;
        });
        count
    };
    let title = Fields { opcode: RESP_SEND, format: 3, qpn: 1, ..Fields::default() };
    let ring = Ring::new(16, 64);
    let cq = ring.cq(Compression::Basic(MiniFormat::Hash));
    for bytes in [0, 17, u32::MAX] {
        ring.push(Fields { bytes, ..title });
    }
    ring.push(Fields { opcode: 7, bytes: 2, ..title });
    assert_eq!((odd(&cq), cq.counts().odd, cq.ci()), (4, 4, 4));

    let ring = Ring::new(16, 64);
    let cq = ring.cq(Compression::Enhanced(MiniFormat::Hash));
    let array = |opcode| {
        let mut bytes = Fields { opcode, format: 3, ..Fields::default() }.bytes();
        bytes[62] = 0;
        ring.write(ring.pi.replace(ring.pi.get() + 1), &bytes);
    };
    array(0);
    assert_eq!(odd(&cq), 1, "no title has come before");
    ring.push(Fields { opcode: RESP_SEND, ..Fields::default() });
    assert_eq!(poll(&cq, 9).len(), 1);
    array(7);
    array(15);
    assert_eq!(odd(&cq), 2, "more than an array holds");
    let resized = Fields { opcode: 5, ..Fields::default() };
    ring.push(resized);
    array(1);
    assert_eq!(odd(&cq), 2, "the title is none");
    ring.push(Fields { opcode: REQ_ERR, ..Fields::default() });
    let mut failed = 0;
    cq.poll(9, |cqe| failed += u32::from(matches!(cqe, Cqe::Failed(_))));
    assert_eq!(failed, 0, "its signature is that of no lap");
}

#[test]
fn entries_that_were_never_written_are_not_taken_for_ones_of_lap_255() {
    let ring = Ring::new(4, 64);
    let cq = ring.cq(Compression::Enhanced(MiniFormat::Hash));
    let mut device = sender(&ring, MiniFormat::Hash, 1);
    device.plain(RESP_SEND, Some(0));
    let qpn = device.expected[0].qpn;
    // Only entries 0 and 1 are ever written.
    device.enhanced(RESP_SEND, qpn, 3);
    for _lap in 1..255 {
        device.expected.drain(..poll(&cq, 9).len());
        device.enhanced(RESP_SEND, qpn, 4);
    }
    device.expected.drain(..poll(&cq, 9).len());
    device.enhanced(RESP_SEND, qpn, 2);
    assert_eq!(poll(&cq, 9), Vec::from(device.expected));
}
