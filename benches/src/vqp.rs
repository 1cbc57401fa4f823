//! Virtual queue pairs over a device that has done everything at once: what lies between the caller and the device.
//!
//! The yardstick is the same device without anything above it. Posting and completing are counted together; [`split`] times
//! them apart.

use core::cell::Cell;
use core::hint::black_box;
use std::time::Instant as Clock;

use spinwire_dataplane::error::{PostError, Retry};
use spinwire_dataplane::id::{Generation, OpTag, WrId};
use spinwire_dataplane::poll::{Budget, Poll};
use spinwire_dataplane::provider::Published;
use spinwire_dataplane::time::Instant;
use spinwire_dataplane::verbs::{
    CompletionQueue, Limits, POLL_EACH_MAX, QueuePair, RecvRequest, RemotePlace, Segment,
    SendRequest, Verb, Wc, WcFields, WcStatus,
};
use spinwire_dataplane::vqp::sequence::SequenceCodec;
use spinwire_dataplane::vqp::{
    Op, RegionId, Regions, Remote, Scheme, SendWr, Setup, Sge, Signal, VirtualCq, VirtualQp,
    VqpConfig,
};

use crate::case::{Case, Entry, fold};
use crate::memory;

/// The cases.
pub const ENTRIES: &[Entry] = &[
    Entry::new("vqp/device_alone", device_alone).ops(REQUESTS).yardstick(),
    Entry::new("vqp/one_path", || case(&Shape::ONE)).ops(REQUESTS),
    Entry::new("vqp/spray_fragments", || case(&Shape::SPRAY)).ops(REQUESTS),
    Entry::new("vqp/dqplb_fragments", || case(&Shape::DQPLB)).ops(REQUESTS),
    Entry::new("vqp/spray_notified", || case(&Shape::NOTIFIED)).ops(REQUESTS),
    Entry::new("vqp/idle_turn", idle_turn),
];

/// Work requests in a round.
pub const REQUESTS: u32 = 64;
const PART: u32 = 4096;
const RING: usize = 256;

/// The bars, in nanoseconds above the device's own: to post on one path, to post a fragment on several, to poll on one, on several.
pub const BARS_NS: [f64; 4] = [10.0, 60.0, 5.0, 15.0];

/// Where completions lie.
#[derive(Debug)]
struct Ring {
    ids: &'static [Cell<(u64, u32)>],
    head: Cell<usize>,
    tail: Cell<usize>,
}

/// A queue pair whose work is done when the doorbell rings.
#[derive(Debug)]
pub struct Device {
    number: u32,
    ring: &'static Ring,
    staged: Cell<u64>,
    /// Depends on everything that it was given.
    seen: Cell<u64>,
}

impl QueuePair for Device {
    type Key = u32;

    fn limits(&self) -> Limits {
        Limits {
            send_depth: 128,
            recv_depth: 128,
            sge_max: 4,
            message_bytes_max: 1 << 30,
            inline_bytes_max: 0,
        }
    }

    fn qp_num(&self) -> u32 {
        self.number
    }

    #[inline(always)]
    fn post_send(&self, send: &SendRequest<'_, u32>) -> Result<(), PostError> {
        let tail = self.ring.tail.get();
        if tail.wrapping_sub(self.ring.head.get()) >= RING {
            return Err(Retry::SqFull.into());
        }
        let mut seen = self.seen.get();
        for segment in send.segments {
            seen = fold(seen, segment.address ^ u64::from(segment.length ^ segment.key));
        }
        if let Some(remote) = send.remote {
            seen = fold(seen, remote.address ^ u64::from(remote.key));
        }
        self.seen.set(seen);
        self.ring.ids[tail % RING].set((send.wr_id.as_raw(), self.number));
        self.ring.tail.set(tail.wrapping_add(1));
        self.staged.set(self.staged.get() + 1);
        Ok(())
    }

    fn post_recv(&self, _: &RecvRequest<'_, u32>) -> Result<(), PostError> {
        Ok(())
    }

    #[inline]
    fn ring_doorbell(&self) -> Published {
        Published { count: self.staged.replace(0), error: None }
    }

    fn ring_recv_doorbell(&self) -> Published {
        Published { count: 1 << 20, error: None }
    }
}

impl CompletionQueue for Ring {
    fn depth(&self) -> u32 {
        1 << 20
    }

    #[inline]
    fn poll_cq(&self, out: &mut heapless::VecView<Wc>) {
        let mut head = self.head.get();
        while head != self.tail.get() && !out.is_full() {
            let (wr_id, qp_num) = self.ids[head % RING].get();
            let _fits = out.push(completion(wr_id, qp_num));
            head = head.wrapping_add(1);
        }
        self.head.set(head);
    }

    #[inline(always)]
    fn poll_each(&self, mut take: impl FnMut(&Wc)) -> usize {
        let (head, tail) = (self.head.get(), self.tail.get());
        let count = tail.wrapping_sub(head).min(POLL_EACH_MAX);
        for at in head..head + count {
            let (wr_id, qp_num) = self.ids[at % RING].get();
            take(&completion(wr_id, qp_num));
        }
        self.head.set(head + count);
        count
    }
}

/// A completion without error.
#[inline(always)]
const fn completion(wr_id: u64, qp_num: u32) -> Wc {
    let status = WcStatus::SUCCESS;
    let (vendor, byte_len, immediate, is_written, source_qp) = (0, 0, None, false, 0);
    Wc::new(WcFields { wr_id, qp_num, status, vendor, byte_len, immediate, is_written, source_qp })
}

fn ring() -> &'static Ring {
    let ids = (0..RING).map(|_| Cell::new((0, 0))).collect::<Vec<_>>().leak();
    Box::leak(Box::new(Ring { ids, head: Cell::new(0), tail: Cell::new(0) }))
}

fn device(number: u32, ring: &'static Ring) -> &'static Device {
    let (staged, seen) = (Cell::new(0), Cell::new(0));
    Box::leak(Box::new(Device { number, ring, staged, seen }))
}

/// What is posted in a round, and over what.
#[derive(Clone, Copy, Debug)]
struct Shape {
    paths: u32,
    /// Fragments of each message.
    parts: u32,
    op: Op,
    scheme: Option<SequenceCodec>,
    notify: bool,
}

impl Shape {
    const ONE: Self = Self { paths: 1, parts: 1, op: Op::Write, scheme: None, notify: false };
    const SPRAY: Self = Self { paths: 4, parts: 4, notify: true, ..Self::ONE };
    const DQPLB: Self = Self {
        paths: 4,
        parts: 4,
        op: Op::WriteNotify,
        scheme: Some(SequenceCodec::Clean),
        ..Self::ONE
    };
    /// Three fragments and a notification: four work requests, too.
    const NOTIFIED: Self =
        Self { paths: 4, parts: 3, op: Op::WriteImm(1), notify: true, ..Self::ONE };
    const SINGLES: Self = Self { parts: 1, ..Self::SPRAY };

    const fn requests(&self) -> u32 {
        if self.notify && matches!(self.op, Op::WriteImm(_)) { self.parts + 1 } else { self.parts }
    }

    const fn messages(&self) -> u32 {
        REQUESTS / self.requests()
    }
}

/// A virtual queue pair in its place.
struct Rig {
    vqp: &'static VirtualQp<'static, &'static Device>,
    vcq: &'static VirtualCq<'static, &'static Device, &'static Ring>,
    here: RegionId,
    there: RegionId,
    shape: Shape,
}

impl Rig {
    fn new(shape: &Shape) -> Self {
        let bump = memory::arena(4 << 20);
        let ring = ring();
        let place = |key: u32| {
            let regions = Regions::place(&bump, 16, 1).unwrap();
            let id = regions.register(1 << 32, 1 << 30, &[Some(key)]).unwrap();
            (&*bump.value(regions).unwrap(), id)
        };
        let ((local, here), (remote, there)) = (place(1), place(2));
        let paths: Vec<_> = (0..shape.paths).map(|number| (device(number, ring), 0)).collect();
        let notify = shape.notify.then(|| (device(shape.paths, ring), 0));
        let base = VqpConfig { max_message: PART, ..VqpConfig::default() };
        let scheme = shape.scheme.map_or(base.scheme, Scheme::Dqplb);
        let config = VqpConfig { scheme, ..base };
        let setup = Setup { paths: &paths, notify, local, remote };
        let vqp = VirtualQp::place(&bump, &setup, &config).unwrap();
        let vcq = VirtualCq::place(&bump, &[(ring, 0)], 1).unwrap();
        vcq.attach(vqp).unwrap();
        Self { vqp, vcq, here, there, shape: *shape }
    }

    #[inline]
    fn post(&self, first: u64) {
        let bytes = u64::from(self.shape.parts * PART);
        for message in 0..u64::from(self.shape.messages()) {
            let sges = [Sge { region: self.here, offset: message * 64, length: bytes }];
            let remote = Some(Remote { region: self.there, offset: message * 64 });
            let (op, signal) = (self.shape.op, Signal::Always);
            let wr = SendWr { context: first + message, op, sges: &sges, remote, signal };
            self.vqp.post_send(black_box(&wr)).unwrap();
        }
        self.vqp.ring_doorbell();
    }

    #[inline]
    fn take(&self, mut hash: u64) -> u64 {
        let (mut left, mut now) = (self.shape.messages(), 0);
        while left > 0 {
            now += 1;
            let _outcome = self.vcq.turn(Instant::from_nanos(now), Budget::DEFAULT);
            while let Some(completion) = self.vcq.take() {
                hash = fold(hash, completion.context ^ completion.outcome.unwrap().bytes);
                left -= 1;
            }
        }
        hash
    }
}

/// Requests through a virtual queue pair, posted by 64 work requests and then completed.
fn case(shape: &Shape) -> Case {
    let rig = Rig::new(shape);
    let shape = *shape;
    let each = u64::from(shape.messages());
    let rounds = move |rounds| {
        (0..rounds).fold(0, |hash, round| {
            rig.post(round * each);
            rig.take(hash)
        })
    };
    let bytes = u64::from(shape.parts * PART);
    Case::new(rounds, move |rounds| {
        (0..rounds * each).fold(0, |hash, context| fold(hash, context ^ bytes))
    })
}

/// The same work requests straight to the device.
fn device_alone() -> Case {
    let ring = ring();
    let device = device(0, ring);
    let rounds = move |rounds| {
        (0..rounds).fold(0, |hash, round| {
            post_alone(device, round * u64::from(REQUESTS));
            take_alone(ring, hash)
        })
    };
    Case::new(rounds, |rounds| {
        (0..rounds * u64::from(REQUESTS)).fold(0, |hash, context| fold(hash, context & 0xFFFF))
    })
}

#[inline]
fn post_alone(device: &Device, first: u64) {
    for message in 0..u64::from(REQUESTS) {
        let address = (1 << 32) + message * 64;
        let segments = [Segment { address, length: PART, key: 1 }];
        let slot = u32::try_from((first + message) & 0xFFFF).unwrap();
        let wr_id = WrId::new(OpTag::Send, Generation::FIRST, slot);
        let send = SendRequest::new(wr_id, Verb::Write, &segments);
        device.post_send(black_box(&send.at(RemotePlace { address, key: 2 }))).unwrap();
    }
    let _published = black_box(device.ring_doorbell());
}

#[inline]
fn take_alone(ring: &Ring, mut hash: u64) -> u64 {
    loop {
        let mut batch = heapless::Vec::<Wc, 16>::new();
        ring.poll_cq(&mut batch);
        for wc in &batch {
            wc.outcome().unwrap();
            hash = fold(hash, wc.wr_id().as_raw() & 0xFFFF);
        }
        if batch.is_empty() {
            return hash;
        }
    }
}

/// A turn in which nothing has come.
fn idle_turn() -> Case {
    let rig = Rig::new(&Shape::ONE);
    let rounds = move |rounds| {
        (0..rounds).fold(0, |hash, _| {
            let _outcome = black_box(rig.vcq.turn(Instant::ORIGIN, Budget::DEFAULT));
            fold(hash, u64::from(rig.vcq.take().is_some()))
        })
    };
    Case::new(rounds, |rounds| (0..rounds).fold(0, |hash, _| fold(hash, 0)))
}

/// Median nanoseconds of a work request to post, and of a completion to poll.
#[derive(Clone, Copy, Debug)]
pub struct Split {
    /// To post one.
    pub post_ns: f64,
    /// To take one in.
    pub poll_ns: f64,
}

/// What is timed by [`split`].
pub const SPLITS: [&str; 4] =
    ["device alone", "one path", "several, fragments", "several, singles"];

/// Times posting and polling of each of [`SPLITS`] apart, in turns, `samples` times 64 work requests.
#[must_use]
pub fn split(samples: usize) -> [Split; 4] {
    let (alone_ring, shapes) = (ring(), [Shape::ONE, Shape::SPRAY, Shape::SINGLES]);
    let alone = device(0, alone_ring);
    let rigs = shapes.map(|shape| Rig::new(&shape));
    let mut times = [const { (Vec::new(), Vec::new()) }; 4];
    for _ in 0..samples {
        for (at, (posts, polls)) in times.iter_mut().enumerate() {
            let rig = at.checked_sub(1).map(|at| &rigs[at]);
            let start = Clock::now();
            rig.map_or_else(|| post_alone(alone, 0), |rig| rig.post(0));
            let posted = Clock::now();
            black_box(rig.map_or_else(|| take_alone(alone_ring, 0), |rig| rig.take(0)));
            let polled = Clock::now();
            posts.push((posted - start).as_secs_f64());
            polls.push((polled - posted).as_secs_f64());
        }
    }
    let median = |mut values: Vec<f64>| {
        values.sort_by(f64::total_cmp);
        values[values.len() / 2] * 1e9 / f64::from(REQUESTS)
    };
    times.map(|(posts, polls)| Split { post_ns: median(posts), poll_ns: median(polls) })
}
