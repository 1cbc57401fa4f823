//! A completion queue in which a device writes anything at any time.
//!
//! Work requests are posted to two queue pairs, lines of the queue are scribbled over, and it is polled: nothing panics, no poll
//! gives more than its budget, and every work request that was posted ends at most once, and exactly once after a flush.
#![no_main]

use core::mem::MaybeUninit;
use std::collections::BTreeMap;

use libfuzzer_sys::fuzz_target;
use spinwire_dataplane::cq::{
    Compression, Cq, CqMemory, EntryBytes, Event, MiniFormat, MonoCq, QueueTable, Tracked,
};
use spinwire_dataplane::raw::line::Line;
use spinwire_dataplane::raw::mmio::Device;
use spinwire_dataplane::raw::place::Bump;
use spinwire_dataplane::sync::{AtomicU32, Ordering};
use spinwire_dataplane::tracker::{Ordered, OrderedConfig, Posted};
use spinwire_fuzz::Input;

const FORMS: [(Compression, EntryBytes); 6] = [
    (Compression::Off, EntryBytes::B64),
    (Compression::Off, EntryBytes::B128),
    (Compression::Basic(MiniFormat::Hash), EntryBytes::B64),
    (Compression::Basic(MiniFormat::ChecksumStride), EntryBytes::B64),
    (Compression::Enhanced(MiniFormat::Checksum), EntryBytes::B64),
    (Compression::Enhanced(MiniFormat::ChecksumStride), EntryBytes::B64),
];

type Pair<'m> = Tracked<'m, u64, u64>;

fuzz_target!(|data: &[u8]| {
    let mut input = Input::new(data);
    let (compression, entry_bytes) = FORMS[input.below(FORMS.len())];
    let lines: Vec<Line> = (0..8).map(|_| Line::zeroed()).collect();
    let record = [AtomicU32::new(0), AtomicU32::new(0)];
    let memory = CqMemory { lines: &lines, entry_bytes, record: &record, register: None, cqn: 1 };
    let cq = Cq::new(memory, compression, Device).expect("a queue");
    let mut block = vec![MaybeUninit::uninit(); 1 << 13];
    let bump = Bump::new(&mut block);
    let queue = |wqe_blocks_max| {
        Ordered::place(&bump, OrderedConfig { rows: 8, wqe_blocks_max }).expect("room")
    };
    let pairs: [Pair<'_>; 2] =
        [1, 2].map(|qpn| Tracked { qpn, send: queue(2), receive: queue(1) });
    let cq = MonoCq::new(cq, QueueTable::place(&bump, 2).expect("room"));
    for pair in &pairs {
        cq.add(pair).map_err(|(error, _)| error).expect("room");
    }
    let mut run = Run { input, lines: &lines, pairs: &pairs, ended: BTreeMap::new(), next: 0 };
    while !run.input.is_empty() {
        run.step(&cq);
    }
    run.finish();
});

struct Run<'r, 'm, 'd> {
    input: Input<'d>,
    lines: &'r [Line],
    pairs: &'r [Pair<'m>; 2],
    /// How often each entry that was posted has ended.
    ended: BTreeMap<u64, u32>,
    next: u64,
}

impl Run<'_, '_, '_> {
    fn step(&mut self, cq: &MonoCq<'_, Device, &Pair<'_>>) {
        let pair = &self.pairs[self.input.below(2)];
        match self.input.below(7) {
            0 => self.post(&pair.send, true),
            1 => self.post(&pair.receive, false),
            2 | 3 => self.scribble(),
            4 => {
                let budget = u32::from(self.input.byte()) % 12;
                let ended = &mut self.ended;
                let count = cq.poll(budget, |event| note(event, ended));
                assert!(count <= budget);
            }
            5 => {
                // The work requests stay under way: what was taken out names them no more.
                let _refused = cq.cq().discard(pair.qpn, |cqe| drop(format!("{cqe:?}")));
            }
            _ => self.flush(self.input_side(pair)),
        }
    }

    fn input_side<'p>(&self, pair: &'p Pair<'p>) -> &'p Ordered<'p, u64> {
        if pair.send.is_failed() { &pair.send } else { &pair.receive }
    }

    fn post(&mut self, queue: &Ordered<'_, u64>, may_be_silent: bool) {
        let how = self.input.byte();
        self.next += 1;
        let blocks = if may_be_silent { u16::from(how & 1) + 1 } else { 1 };
        let entry = (!may_be_silent || how & 2 == 0).then_some(self.next);
        if queue.post(blocks, entry).is_ok() {
            self.ended.extend(entry.map(|entry| (entry, 0)));
        }
    }

    fn scribble(&mut self) {
        let line = &self.lines[self.input.below(self.lines.len())];
        let words = line.words();
        // Mostly the last word, which says what the entry is; or a good one of a queue pair that there is.
        match self.input.byte() % 4 {
            0 => {
                let word = &words[self.input.below(words.len())];
                word.store(self.input.scribble(word.load(Ordering::Relaxed)), Ordering::Relaxed);
            }
            1 => {
                let op_own = self.input.byte();
                let qpn = self.input.byte() % 3;
                let counter = self.input.byte() % 16;
                let signature = self.input.byte() % 4;
                let last = [0x0a, 0, 0, qpn, 0, counter, signature, op_own];
                words[7].store(u64::from_le_bytes(last), Ordering::Relaxed);
            }
            _ => {
                let old = words[7].load(Ordering::Relaxed);
                words[7].store(self.input.scribble(old), Ordering::Relaxed);
            }
        }
    }

    fn flush(&mut self, queue: &Ordered<'_, u64>) {
        if !queue.is_failed() {
            return;
        }
        self.drain(queue);
        queue.restart().expect("it is empty");
    }

    fn drain(&mut self, queue: &Ordered<'_, u64>) {
        while let Some(flushed) = queue.flush() {
            if let Some(entry) = flushed.entry {
                end(entry, &mut self.ended);
            }
        }
    }

    fn finish(mut self) {
        for pair in self.pairs {
            self.drain(&pair.send);
            self.drain(&pair.receive);
        }
        assert!(self.ended.values().all(|times| *times == 1));
    }
}

fn note(event: Event<'_, u64, u64>, ended: &mut BTreeMap<u64, u32>) {
    match event {
        Event::Sent { entry, cqe, .. } => {
            let _all = (cqe.bytes(), cqe.timestamp(), cqe.inline());
            end(entry, ended);
        }
        Event::Received { entry, cqe } => {
            let mut out = [0; 70];
            let _all = (cqe.arrival(), cqe.bytes(), cqe.srqn(), cqe.has_grh(), cqe.short_info());
            let length = cqe.inline().map_or(0, |inline| inline.copy_out(&mut out));
            assert!(length <= 64);
            end(entry, ended);
        }
        Event::SendFailed { wqe: Posted::Signaled(entry), .. }
        | Event::ReceiveFailed { entry, .. } => end(entry, ended),
        Event::SendFailed { failure, .. } => assert!(!failure.syndrome.text().is_empty()),
        Event::Stale { .. } | Event::UnknownQueue { .. } | Event::Odd(_) => {}
    }
}

fn end(entry: u64, ended: &mut BTreeMap<u64, u32>) {
    *ended.get_mut(&entry).expect("it was posted") += 1;
}
