//! Byte streams over a ring: what a service that echoes costs for each request, from the completions in the queue to the submission of the
//! answer.
//!
//! The kernel is a few lines at the other end of the queues: a send completes at once, and its answer brings the next request of that
//! connection, in the buffer whose turn it is. What that takes is in the counts; `stream/floor_kernel` is that alone.

use core::cell::Cell;
use core::hint::black_box;

use spinwire_dataplane::poll::{Budget, Poll as _};
use spinwire_dataplane::raw::kernel_memory::KernelMemory;
use spinwire_dataplane::raw::line::Line;
use spinwire_dataplane::stream::{StreamConfig, StreamEvent, StreamFeatures, Streams};
use spinwire_dataplane::sync::{AtomicU32, Ordering};
use spinwire_dataplane::time::{Instant, Nanos};
use spinwire_dataplane::uring::{Enter, EnterError, Ring, RingMemory};
use spinwire_layouts::uring::{CqOffsets, Params, SqOffsets, cqe, op, setup};
use spinwire_layouts::word::{high, join, low};

use crate::case::{Case, Entry, fold};
use crate::memory;

/// The cases: connections that each have a request under way.
pub const ENTRIES: &[Entry] = &[
    Entry::new("stream/echo/1", || echo(1)),
    Entry::new("stream/echo/16", || echo(16)).ops(16),
    Entry::new("stream/turn_in_vain", in_vain),
    Entry::new("stream/floor_kernel", floor).ops(16).yardstick(),
];

/// Bytes of a request.
const REQUEST: u32 = 64;
/// Answers that are handed in together.
const AT_ONCE: u32 = 4;
/// Rows, and as many descriptors.
const CONNS: u32 = 32;
/// Entries of both queues.
const ENTRIES_MAX: u32 = 64;
const ARENA_BYTES: usize = 4 << 20;
const WORDS: usize = 16 + 4 * 64;

// Where the words of the rings lie, in bytes.
const SQ_HEAD: u32 = 0;
const SQ_TAIL: u32 = 4;
const CQ_HEAD: u32 = 8;
const CQ_TAIL: u32 = 12;
const SQ_FLAGS: u32 = 16;
const SQ_DROPPED: u32 = 20;
const CQ_OVERFLOW: u32 = 24;
const CQES: u32 = 64;

/// What stands for the kernel, and for a client behind each descriptor.
struct Kernel {
    words: &'static [AtomicU32],
    sqes: &'static [Line],
    /// The words of the ring of provided buffers, and how many buffers were filled.
    buffers: Cell<&'static [Line]>,
    filled: Cell<u32>,
    clients: [Client; 32],
    /// Sends that were not the answer to the request.
    wrong: Cell<u64>,
}

/// What a client has under way.
#[derive(Default)]
struct Client {
    /// The receive that its requests complete.
    receive: Cell<u64>,
    /// Where the request lies that was not answered.
    request: Cell<u64>,
}

impl Kernel {
    fn new() -> &'static Self {
        let words = core::iter::repeat_with(|| AtomicU32::new(0)).take(WORDS).collect::<Vec<_>>();
        Box::leak(Box::new(Self {
            words: words.leak(),
            sqes: memory::lines(64),
            buffers: Cell::new(&[]),
            filled: Cell::new(0),
            clients: Default::default(),
            wrong: Cell::new(0),
        }))
    }

    fn memory(&self) -> RingMemory<'static> {
        let zero = Params::ZERO;
        let sq_off = SqOffsets {
            head: SQ_HEAD,
            tail: SQ_TAIL,
            flags: SQ_FLAGS,
            dropped: SQ_DROPPED,
            ..zero.sq_off
        };
        let cq_off = CqOffsets {
            head: CQ_HEAD,
            tail: CQ_TAIL,
            overflow: CQ_OVERFLOW,
            cqes: CQES,
            ..zero.cq_off
        };
        let flags = setup::NO_SQARRAY;
        let (sq_entries, cq_entries) = (ENTRIES_MAX, ENTRIES_MAX);
        let params = Params { sq_entries, cq_entries, flags, sq_off, cq_off, ..zero };
        RingMemory::new(self.words, self.sqes, &params).unwrap()
    }

    #[inline(always)]
    fn word(&self, offset: u32) -> &AtomicU32 {
        &self.words[index(offset / 4)]
    }

    #[inline(always)]
    fn complete(&self, user_data: u64, res: u32, flags: u32) {
        let tail = self.word(CQ_TAIL).load(Ordering::Relaxed);
        let first = index(CQES / 4 + (tail % ENTRIES_MAX) * 4);
        let entry = self.words[first..].first_chunk::<4>().unwrap();
        for (word, value) in entry.iter().zip([low(user_data), high(user_data), res, flags]) {
            word.store(value, Ordering::Relaxed);
        }
        self.word(CQ_TAIL).store(tail.wrapping_add(1), Ordering::Release);
    }

    /// A client asks for something, in the next of the provided buffers.
    #[inline(always)]
    fn ask(&self, client: &Client) {
        let buffers = self.buffers.get();
        let place = self.filled.replace(self.filled.get().wrapping_add(1));
        let place = index(place) & (buffers.len() * 4 - 1);
        let entry = &buffers[place / 4].words()[place % 4 * 2..];
        client.request.set(entry[0].load(Ordering::Relaxed));
        let number = high(entry[1].load(Ordering::Relaxed)) & 0xffff;
        let flags = cqe::MORE | cqe::BUFFER | number << cqe::BUFFER_SHIFT;
        self.complete(client.receive.get(), REQUEST, flags);
    }
}

impl Enter for Kernel {
    #[inline(never)]
    fn enter(&self, _to_submit: u32, _least: u32, _flags: u32) -> Result<u32, EnterError> {
        let tail = self.word(SQ_TAIL).load(Ordering::Acquire);
        let head = self.word(SQ_HEAD).load(Ordering::Relaxed);
        for position in head..tail {
            let entry = self.sqes[index(position % ENTRIES_MAX)].words();
            let [first, _, address, length, user_data, ..] = entry;
            let (first, user_data) =
                (first.load(Ordering::Relaxed), user_data.load(Ordering::Relaxed));
            let client = &self.clients[index(high(first)) % 32];
            if low(first) & 0xff == u32::from(op::SEND) {
                let length = low(length.load(Ordering::Relaxed));
                let is_right =
                    length == REQUEST && address.load(Ordering::Relaxed) == client.request.get();
                self.wrong.set(self.wrong.get() + u64::from(!is_right));
                self.complete(user_data, length, 0);
            } else {
                client.receive.set(user_data);
            }
            self.ask(client);
        }
        self.word(SQ_HEAD).store(tail, Ordering::Release);
        Ok(tail - head)
    }
}

fn index(number: u32) -> usize {
    usize::try_from(number).unwrap()
}

/// A service with so many connections, each of which has asked once.
#[expect(unsafe_code, reason = "what stands for the kernel looks at the memory that a ring names")]
fn service(conns: u32) -> (&'static Kernel, Streams<'static, &'static Kernel>) {
    let kernel = Kernel::new();
    // SAFETY: the arena is leaked, and nobody else has it.
    let arena = unsafe { KernelMemory::promise(memory::arena(ARENA_BYTES)) };
    let ring: &'static _ = Box::leak(Box::new(Ring::new(kernel.memory(), arena, kernel)));
    let config = StreamConfig {
        conns: CONNS,
        recv_buffers: (64, 256),
        send_buffers: (1, 64),
        segments: 64,
        send_timeout: Nanos::from_millis(30_000),
        hoard_timeout: Nanos::from_millis(1_000),
        features: StreamFeatures { recv_multishot: true, bundles: false, ..StreamFeatures::NONE },
        ..StreamConfig::DEFAULT
    };
    let streams = Streams::place(ring, 0, &config).unwrap();
    let (start, entries) = streams.buffers().registration();
    let start = core::ptr::with_exposed_provenance_mut(usize::try_from(start).unwrap());
    let start = core::ptr::NonNull::new(start).unwrap();
    // SAFETY: the lines were placed in the arena, which is leaked; who touches them does so by atomics.
    let lines =
        unsafe { spinwire_dataplane::raw::line::lines_from_raw(start, index(entries) * 16) };
    kernel.buffers.set(lines.unwrap());
    for fd in 0..conns {
        streams.adopt(fd.cast_signed()).unwrap();
    }
    let _busy = streams.turn(Instant::from_nanos(1), Budget::default());
    (kernel, streams)
}

/// A round answers a request of each connection, a few at once, as `spinwire echo` does.
fn echo(conns: u32) -> Case {
    let (kernel, streams) = service(conns);
    let mut now = 1;
    let rounds = move |rounds| {
        let (mut hash, wrong) = (0, kernel.wrong.get());
        for _ in 0..rounds {
            now += 1_000;
            let _busy = streams.turn(black_box(Instant::from_nanos(now)), Budget::default());
            let mut answers = AT_ONCE.min(conns);
            while let Some(event) = streams.poll() {
                let StreamEvent::Received { conn, bytes } = event else { continue };
                hash = fold(hash, u64::from(conn.slot()));
                streams.send_unsignaled(conn, bytes).unwrap();
                answers -= 1;
                if answers == 0 {
                    streams.flush();
                    answers = AT_ONCE.min(conns);
                }
            }
        }
        fold(hash, kernel.wrong.get() - wrong)
    };
    Case::new(rounds, move |rounds| {
        let all = (0..rounds).flat_map(|_| 0..u64::from(conns));
        fold(all.fold(0, fold), 0)
    })
}

/// A turn of a service in which nothing has come.
fn in_vain() -> Case {
    let (_kernel, streams) = service(0);
    let mut now = 1;
    let rounds = move |rounds| {
        let mut busy = 0;
        for _ in 0..rounds {
            now += 100;
            let outcome = streams.turn(black_box(Instant::from_nanos(now)), Budget::default());
            busy += u64::from(outcome.is_busy()) + u64::from(streams.poll().is_some());
        }
        busy
    };
    Case::new(rounds, |_rounds| 0)
}

/// What stands for the kernel, alone: sends of sixteen connections, four with each call.
fn floor() -> Case {
    let (kernel, streams) = service(16);
    // What it would say at its end is behind what is submitted here.
    let _never_dropped = Box::leak(Box::new(streams));
    let rounds = move |rounds| {
        let mut hash = 0;
        for _ in 0..rounds {
            let tail = kernel.word(SQ_TAIL).load(Ordering::Relaxed);
            for at in 0..16 {
                let position = tail.wrapping_add(at);
                let words = kernel.sqes[index(position % ENTRIES_MAX)].words();
                words[0].store(join(u32::from(op::SEND), at), Ordering::Relaxed);
                words[2].store(kernel.clients[index(at)].request.get(), Ordering::Relaxed);
                words[3].store(REQUEST.into(), Ordering::Relaxed);
                if at % AT_ONCE == AT_ONCE - 1 {
                    kernel.word(SQ_TAIL).store(position.wrapping_add(1), Ordering::Release);
                    hash += u64::from(kernel.enter(AT_ONCE, 0, 0).unwrap());
                }
            }
        }
        hash
    };
    Case::new(rounds, |rounds| rounds * 16)
}
