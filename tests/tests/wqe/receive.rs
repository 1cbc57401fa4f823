//! Receive queues: lists that end, rings that come round, and the linked list of a shared one against a device that walks it.

use core::fmt::Write as _;

use spinwire_dataplane::error::{Fatal, Misuse, Retry};
use spinwire_dataplane::raw::line::Line;
use spinwire_dataplane::raw::mmio::{Device, DoorbellRecord};
use spinwire_dataplane::raw::region::LocalSge;
use spinwire_dataplane::sync::{AtomicU32, Ordering};
use spinwire_dataplane::tracker::Stale;
use spinwire_dataplane::wqe::receive::RecvMemory;
use spinwire_dataplane::wqe::{BadQueue, RecvConfig, SharedRecvQueue};
use spinwire_tests::rng::Rng;

use super::{SHAPE, Shape, arena, bytes_of, lines, open, sge, wipe};

fn range(number: u64) -> LocalSge {
    sge(number << 20, 64 + u32::try_from(number % 1000).unwrap(), 0x77)
}

/// A segment as the device reads it.
fn segment(number: u64) -> Vec<u8> {
    let length = 64 + u32::try_from(number % 1000).unwrap();
    let mut bytes = length.to_be_bytes().to_vec();
    bytes.extend(0x77_u32.to_be_bytes());
    bytes.extend((number << 20).to_be_bytes());
    bytes
}

const END: [u8; 16] = [0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0];

/// What a WQE of these ranges is in a stride of `sge_max` segments, over what was there before.
fn expected(numbers: &[u64], sge_max: usize, before: &[u8]) -> Vec<u8> {
    let mut bytes: Vec<u8> = numbers.iter().flat_map(|number| segment(*number)).collect();
    if numbers.len() < sge_max {
        bytes.extend(END);
    }
    bytes.extend(&before[bytes.len()..]);
    bytes
}

#[test]
fn lists_end_and_rings_come_round() {
    for sge_max in [1, 2, 4, 8] {
        let recv = Some(RecvConfig { wqes: 4, sge_max });
        let (qp, memory) = open(Shape { recv, ..SHAPE }, Device);
        let (rq, stride) = (qp.rq().unwrap(), usize::from(sge_max) * 16);
        let mut number = 1_u64;
        for round in 0..40_usize {
            let count = round % (usize::from(sge_max) + 1);
            let numbers: Vec<u64> =
                (0..count).map(|i| number + u64::try_from(i).unwrap()).collect();
            number += 10;
            let at = usize::from(rq.tracker().pi() % 4) * stride;
            let mut ring = bytes_of(memory.rq);
            let wqe = expected(&numbers, usize::from(sge_max), &ring[at..at + stride]);
            ring[at..at + stride].copy_from_slice(&wqe);
            let ranges: Vec<_> = numbers.iter().map(|number| range(*number)).collect();
            let posted = match ranges.as_slice() {
                [a, b] => qp.with_rq_wqe(|w| w.sge(*a).sge(*b).finish(3)),
                all => qp.with_rq_wqe(|w| w.sges(all).finish(3)),
            };
            posted.unwrap();
            assert_eq!(bytes_of(memory.rq), ring, "{sge_max} segments, round {round}");
            if rq.tracker().free() == 0 {
                let refused = qp.with_rq_wqe(|w| w.sge(range(99)).finish(4));
                assert_eq!(refused, Err(Retry::RqFull.into()));
                assert_eq!(bytes_of(memory.rq), ring);
                assert_eq!(rq.ring_doorbell(), 4);
                for _ in 0..4 {
                    assert_eq!(rq.complete(rq.tracker().ci()).unwrap().entry, 3);
                }
            }
        }
    }
}

/// What a list of `count` ranges at `place` is for the C program. A ring of four WQEs has as many blocks as a WQE has segments.
fn asked(
    text: &mut String,
    (mode, segments): (char, u16),
    (place, count): (u16, usize),
) -> Vec<LocalSge> {
    let ranges = ranges(count);
    let next = if mode == 's' { (place + 1) % 4 } else { 0 };
    write!(text, "{segments:x} {place:x} {mode} {:x} {next:x}", segments * 16).unwrap();
    for range in &ranges {
        write!(text, " D {:x} {:x} {:x}", range.length(), range.lkey(), range.addr()).unwrap();
    }
    text.push('\n');
    ranges
}

fn ranges(count: usize) -> Vec<LocalSge> {
    (1_u64..).take(count).map(|number| range(number * 77)).collect()
}

/// Each place of a ring of four, in turn, with lists of all lengths.
fn places(sge_max: u16) -> impl Iterator<Item = (u16, usize)> {
    (0..=usize::from(sge_max)).flat_map(|count| (0..4).map(move |place| (place, count)))
}

/// Receives of every length at every place of a ring, in a queue of their own and in a shared one: lines for the C program, and what
/// the rings were then.
pub(crate) fn built(text: &mut String) -> Vec<Vec<u8>> {
    let mut rings = Vec::new();
    for sge_max in [1, 2, 4, 8] {
        let shape = Shape { recv: Some(RecvConfig { wqes: 4, sge_max }), ..SHAPE };
        let (qp, memory) = open(shape, Device);
        let rq = qp.rq().unwrap();
        for (place, count) in places(sge_max) {
            let ranges = asked(text, ('r', sge_max), (place, count));
            wipe(memory.rq);
            qp.with_rq_wqe(|wqe| wqe.sges(&ranges).finish(1)).unwrap();
            rings.push(bytes_of(memory.rq));
            assert_eq!(rq.complete(rq.tracker().ci()).unwrap().entry, 1);
        }
    }
    for sge_max in [1, 3, 7] {
        let segments = sge_max + 1;
        let (ring, record) = (lines(usize::from(segments)), [AtomicU32::new(0), AtomicU32::new(0)]);
        let memory = RecvMemory { ring, record: DoorbellRecord::new(&record) };
        let config = RecvConfig { wqes: 4, sge_max };
        let srq = SharedRecvQueue::place(&arena(1 << 12), config, memory, Device).unwrap();
        for (place, count) in places(sge_max) {
            let ranges = asked(text, ('s', segments), (place, count));
            let words = || ring.iter().flat_map(Line::words);
            let before: Vec<u64> = words().map(|word| word.load(Ordering::Relaxed)).collect();
            wipe(ring);
            srq.with_srq_wqe(|wqe| wqe.sges(&ranges).finish(place)).unwrap();
            let mut seen = bytes_of(ring);
            // Heads are written when places become free, and stay.
            let head = usize::from(place * segments) * 16;
            for (word, old) in words().zip(&before) {
                word.store(*old, Ordering::Relaxed);
            }
            seen[head..head + 16].copy_from_slice(&bytes_of(ring)[head..head + 16]);
            rings.push(seen);
            assert_eq!(srq.complete(place), Ok(place));
        }
    }
    rings
}

/// A device: it goes from each WQE to the one that its head names, as many as the record says.
struct Walker {
    next: u16,
    taken: u16,
}

#[test]
fn a_device_that_walks_the_links_finds_what_was_posted() {
    const WQES: u16 = 8;
    let record: &'static [AtomicU32; 2] =
        Box::leak(Box::new([AtomicU32::new(0), AtomicU32::new(0)]));
    let ring = lines(usize::from(WQES));
    let memory = RecvMemory { ring, record: DoorbellRecord::new(record) };
    let config = RecvConfig { wqes: WQES, sge_max: 3 };
    let srq = SharedRecvQueue::<u64, _>::place(&arena(1 << 12), config, memory, Device).unwrap();
    let mut device = Walker { next: 0, taken: 0 };
    let (mut rng, mut number) = (Rng::new(11), 1_u64);
    // Numbers that were posted and not seen by the device; places that it has taken, with their numbers.
    let (mut posted, mut held) = (std::collections::VecDeque::new(), Vec::new());
    for step in 0..30_000 {
        match rng.index(3) {
            0 if srq.room() > 0 => {
                let (a, b) = (range(number), range(number + 1));
                srq.with_srq_wqe(|w| w.sge(a).sge(b).finish(number)).unwrap();
                posted.push_back(number);
                number += 2;
            }
            0 => {
                let before = bytes_of(ring);
                let refused = srq.with_srq_wqe(|w| w.sge(range(1)).finish(0));
                assert_eq!(refused, Err(Retry::RqFull.into()));
                assert_eq!(bytes_of(ring), before);
                assert_eq!(posted.len() + held.len(), usize::from(WQES) - 1);
            }
            1 => {
                srq.ring_doorbell();
                let counter = u32::from_be(record[0].load(Ordering::Relaxed));
                while u32::from(device.taken) != counter {
                    let place = device.next;
                    let at = usize::from(place) * 64;
                    let wqe = bytes_of(ring)[at..at + 64].to_vec();
                    let number = posted.pop_front().unwrap();
                    let body = [segment(number), segment(number + 1), END.to_vec()].concat();
                    assert_eq!(wqe[16..], body, "step {step}");
                    assert_eq!((&wqe[..2], &wqe[4..16]), (&[0; 2][..], &[0; 12][..]));
                    held.push((place, number));
                    device.next = u16::from_be_bytes([wqe[2], wqe[3]]);
                    device.taken = device.taken.wrapping_add(1);
                }
            }
            _ if !held.is_empty() => {
                let which = rng.index(held.len());
                let (place, number) = held.swap_remove(which);
                assert_eq!(srq.complete(place), Ok(number));
                assert_eq!(srq.complete(place), Err(Stale::NotPosted));
                assert_eq!(srq.complete(WQES), Err(Stale::NotPosted));
            }
            _ => {}
        }
    }
    assert!(number > 1 << 12, "hardly anything was posted");
    assert_eq!(record[1].load(Ordering::Relaxed), 0, "the slot of sends was written");
    let refused = srq.with_srq_wqe(|w| {
        assert_eq!(srq.with_srq_wqe(|w| w.finish(1)), Err(Retry::WouldBlock.into()));
        w.sges(&[range(1); 4]).finish(1)
    });
    assert_eq!(refused, Err(Misuse::WqeTooLong.into()));
    let (mut from, mut left) = (0, 0);
    while srq.flush(&mut from).is_some() {
        left += 1;
    }
    assert_eq!((left, srq.room()), (posted.len() + held.len(), WQES - 1));
}

#[test]
fn a_shared_queue_that_was_flushed_publishes_nothing_any_more() {
    let record: &'static [AtomicU32; 2] =
        Box::leak(Box::new([AtomicU32::new(0), AtomicU32::new(0)]));
    let memory = RecvMemory { ring: lines(8), record: DoorbellRecord::new(record) };
    let config = RecvConfig { wqes: 8, sge_max: 3 };
    let srq = SharedRecvQueue::<u64, _>::place(&arena(1 << 12), config, memory, Device).unwrap();
    let published = || u32::from_be(record[0].load(Ordering::Relaxed));
    srq.with_srq_wqe(|w| w.finish(0)).unwrap();
    assert_eq!((srq.ring_doorbell(), published()), (1, 1));
    srq.with_srq_wqe(|w| w.finish(1)).unwrap();
    let mut from = 0;
    assert_eq!(srq.flush(&mut from), Some((0, 0)));
    assert_eq!(srq.flush(&mut from), Some((1, 1)), "staged only");
    assert_eq!(srq.flush(&mut from), None);
    // The device goes from place to place, and where it stands is not known.
    assert_eq!((srq.staged(), srq.ring_doorbell(), published()), (0, 0, 1));
    assert_eq!(srq.with_srq_wqe(|w| w.finish(2)), Err(Fatal::QueueError.into()));
    assert_eq!((srq.ring_doorbell(), published()), (0, 1));
}

#[test]
fn a_queue_that_cannot_be_is_refused_by_name() {
    let record: &'static [AtomicU32; 2] =
        Box::leak(Box::new([AtomicU32::new(0), AtomicU32::new(0)]));
    let place = |wqes, sge_max, count| {
        let memory = RecvMemory { ring: lines(count), record: DoorbellRecord::new(record) };
        let config = RecvConfig { wqes, sge_max };
        SharedRecvQueue::<u64, _>::place(&arena(1 << 16), config, memory, Device).err()
    };
    assert_eq!(place(8, 3, 8), None);
    for sge_max in [0, 2, 4, 64, u16::MAX] {
        assert_eq!(place(8, sge_max, 64), Some(BadQueue::Segments { sge_max }));
    }
    assert_eq!(place(8, 3, 7), Some(BadQueue::Ring { lines: 7 }));
    assert!(matches!(place(0, 3, 8), Some(BadQueue::Tracker(_))));
}
