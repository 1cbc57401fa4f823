//! Round trips over a reliable connection whose devices are not there: what an endpoint, its port and the virtual nothing below them cost a
//! processor, where each instruction is between a completion and the next doorbell.
//!
//! The device is as small as it can be: at its doorbell a send is in a receive of the other end, and completed there. Sends that nobody wants
//! to hear of complete in silence.
#![allow(
    clippy::large_stack_frames,
    clippy::large_stack_arrays,
    reason = "both ends are moved into the case, once and before anything is measured"
)]

use core::cell::Cell;
use core::hint::black_box;

use heapless::VecView;
use spinwire_dataplane::error::{PostError, Retry};
use spinwire_dataplane::id::Addr;
use spinwire_dataplane::msg::{Completion, Endpoint, EndpointConfig, RecvFrom, SendTo};
use spinwire_dataplane::poll::{Budget, Poll as _};
use spinwire_dataplane::provider::rdma::{Memory, RdmaConfig, RdmaPort, Request};
use spinwire_dataplane::provider::{EndpointType, Event, Published};
use spinwire_dataplane::raw::line::{self, Line};
use spinwire_dataplane::raw::loan::LoanPool;
use spinwire_dataplane::time::Instant;
use spinwire_dataplane::verbs::{
    CompletionQueue, Limits, POLL_EACH_MAX, QueuePair, RecvRequest, SendRequest, Verb, Wc,
    WcFields, WcStatus,
};

use crate::case::{Case, Entry, fold, fold_below};
use crate::lane::{mark, number};
use crate::memory;

/// The cases.
pub const ENTRIES: &[Entry] = &[
    Entry::new("rdma/round_trip/64", || round_trip(64)),
    Entry::new("rdma/turn_in_vain", turn_in_vain),
];

/// Requests that a queue holds; a power of two.
const PLACES: usize = 128;
const SLOT_BYTES: u32 = 256;

/// What was posted, oldest first.
struct Queue<T: 'static> {
    items: &'static [Cell<T>],
    head: Cell<usize>,
    tail: Cell<usize>,
}

impl<T: Copy + 'static> Queue<T> {
    fn of(filler: T) -> Self {
        let items = (0..PLACES).map(|_| Cell::new(filler)).collect::<Vec<_>>().leak();
        Self { items, head: Cell::new(0), tail: Cell::new(0) }
    }

    #[inline]
    fn push(&self, item: T) -> Result<(), Retry> {
        let tail = self.tail.get();
        if tail.wrapping_sub(self.head.get()) >= PLACES {
            return Err(Retry::SqFull);
        }
        self.items[tail % PLACES].set(item);
        self.tail.set(tail.wrapping_add(1));
        Ok(())
    }

    #[inline]
    fn pop(&self) -> Option<T> {
        let head = self.head.get();
        if head == self.tail.get() {
            return None;
        }
        self.head.set(head.wrapping_add(1));
        Some(self.items[head % PLACES].get())
    }
}

/// A request: its id, where its memory begins in the slots and how long it is, what goes beside it, and whether its end is told.
type Posted = (u64, usize, usize, Option<u32>, bool);
/// A completion: its id, bytes and what came beside it.
type Done = (u64, u32, Option<u32>);

/// A queue pair with the completion queue of its port.
struct Device {
    number: u32,
    lines: &'static [Line],
    address: u64,
    sends: Queue<Posted>,
    receives: Queue<Posted>,
    done: Queue<Done>,
    peer: Cell<Option<&'static Self>>,
    staged: Cell<u64>,
}

impl Device {
    fn new(number: u32, lines: &'static [Line]) -> &'static Self {
        let address = u64::try_from(lines.as_ptr().expose_provenance()).unwrap();
        let nothing = (0, 0, 0, None, false);
        let (sends, receives) = (Queue::of(nothing), Queue::of(nothing));
        let (peer, staged) = (Cell::new(None), Cell::new(0));
        let done = Queue::of((0, 0, None));
        Box::leak(Box::new(Self { number, lines, address, sends, receives, done, peer, staged }))
    }

    #[inline]
    fn at(&self, address: u64) -> usize {
        usize::try_from(address - self.address).unwrap()
    }

    #[inline(always)]
    const fn completion(&self, wr_id: u64, byte_len: u32, immediate: Option<u32>) -> Wc {
        let (status, vendor, is_written, source_qp) = (WcStatus::SUCCESS, 0, false, 0);
        let qp_num = self.number;
        Wc::new(WcFields {
            wr_id,
            qp_num,
            status,
            vendor,
            byte_len,
            immediate,
            is_written,
            source_qp,
        })
    }

    /// Puts a send into a receive of the other end.
    fn carry(&self, (id, from, length, beside, is_told): Posted) {
        let peer = self.peer.get().unwrap();
        let (receive, to, room, ..) = peer.receives.pop().unwrap();
        let mut bytes = [0; 256];
        let bytes = &mut bytes[..length.min(room)];
        assert!(line::copy_out(self.lines, from, bytes) && line::copy_in(peer.lines, to, bytes));
        peer.done.push((receive, u32::try_from(length).unwrap(), beside)).unwrap();
        if is_told {
            self.done.push((id, 0, None)).unwrap();
        }
    }
}

impl QueuePair for Device {
    type Key = u32;

    fn limits(&self) -> Limits {
        let depth = u32::try_from(PLACES).unwrap();
        Limits {
            send_depth: depth,
            recv_depth: depth,
            sge_max: 2,
            message_bytes_max: 1 << 20,
            inline_bytes_max: 0,
        }
    }

    fn qp_num(&self) -> u32 {
        self.number
    }

    #[inline]
    fn post_send(&self, send: &SendRequest<'_, u32>) -> Result<(), PostError> {
        let beside = if let Verb::SendImm(beside) = send.verb { Some(beside) } else { None };
        let one = send.segments[0];
        let length = usize::try_from(one.length).unwrap();
        let told = !send.flags.unsignaled;
        Ok(self.sends.push((send.wr_id.as_raw(), self.at(one.address), length, beside, told))?)
    }

    #[inline]
    fn post_recv(&self, recv: &RecvRequest<'_, u32>) -> Result<(), PostError> {
        let one = recv.segments[0];
        let length = usize::try_from(one.length).unwrap();
        self.staged.set(self.staged.get() + 1);
        Ok(self.receives.push((recv.wr_id.as_raw(), self.at(one.address), length, None, true))?)
    }

    #[inline(never)]
    fn ring_doorbell(&self) -> Published {
        let mut count = 0;
        while let Some(send) = self.sends.pop() {
            self.carry(send);
            count += 1;
        }
        Published { count, error: None }
    }

    fn ring_recv_doorbell(&self) -> Published {
        Published { count: self.staged.replace(0), error: None }
    }
}

impl CompletionQueue for Device {
    fn depth(&self) -> u32 {
        u32::try_from(PLACES).unwrap()
    }

    #[inline]
    fn poll_cq(&self, out: &mut VecView<Wc>) {
        while !out.is_full() {
            let Some((wr_id, byte_len, immediate)) = self.done.pop() else { return };
            let _fits = out.push(self.completion(wr_id, byte_len, immediate));
        }
    }

    #[inline(always)]
    fn poll_each(&self, mut take: impl FnMut(&Wc)) -> usize {
        for count in 0..POLL_EACH_MAX {
            let Some((wr_id, byte_len, immediate)) = self.done.pop() else { return count };
            take(&self.completion(wr_id, byte_len, immediate));
        }
        POLL_EACH_MAX
    }
}

type Port = RdmaPort<'static, &'static Device, &'static Device>;

/// One end, and the address of the other.
struct End {
    endpoint: Endpoint<'static, Port>,
    peer: Addr,
}

impl End {
    /// The next message, which is there.
    #[inline]
    fn hear(&self) -> Completion<'static> {
        loop {
            let _busy = self.endpoint.turn(Instant::ORIGIN, Budget::default());
            if let Some(completion) = self.endpoint.poll() {
                return completion;
            }
        }
    }

    #[inline]
    fn say(&self, bytes: &[u8]) {
        self.endpoint.inject(SendTo::peer(self.peer), black_box(bytes)).unwrap();
        self.endpoint.flush();
    }

    #[inline]
    fn post_again(&self, completion: Completion<'static>) {
        let loan = completion.loan.unwrap();
        self.endpoint.post_recv(RecvFrom::any(), loan, completion.context).unwrap();
    }
}

/// Two ends that are connected, each with eight receives posted.
fn ends() -> [End; 2] {
    let bump = memory::arena(16 << 20);
    let config = RdmaConfig {
        peers_max: 2,
        slot_bytes: SLOT_BYTES,
        message_bytes_max: 1024,
        ..RdmaConfig::default()
    };
    let config = RdmaConfig { links: 1, ..config };
    let names = ["a", "b"].map(memory::name);
    let bytes = usize::try_from(config.memory_bytes()).unwrap();
    let devices = [1, 2].map(|number| Device::new(number, memory::lines(bytes / 64)));
    let [a, b] = [0, 1].map(|end| {
        let Device { lines, number, address, .. } = *devices[end];
        let memory = Memory { lines, address, key: number, loans: None };
        let who = (&names[end], EndpointType::Rdm);
        let port = RdmaPort::place(&bump, who, &config, devices[end], memory).unwrap();
        Endpoint::new(port, &bump, &EndpointConfig::default()).unwrap()
    });
    devices[0].peer.set(Some(devices[1]));
    devices[1].peer.set(Some(devices[0]));
    a.provider().set_route(&names[1]).unwrap();
    let to_b = a.connect(&names[1]).unwrap();
    a.inject(SendTo::peer(to_b), &[0]).unwrap_err();
    let Some(Request::Connect { link, .. }) = a.provider().next_request() else {
        panic!("a connection is asked for");
    };
    b.provider().accept(devices[1]).unwrap();
    a.provider().connected(link, devices[0]).unwrap();
    let mut to_a = None;
    for _ in 0..16 {
        for end in [&a, &b] {
            let _busy_or_idle = end.turn(Instant::ORIGIN, Budget::DEFAULT);
        }
        if let Some(Event::Connected(peer)) = b.poll_event() {
            to_a = Some(peer);
        }
    }
    let pool = LoanPool::place(&bump, 16, 256).unwrap();
    let peers = [to_b, to_a.expect("both have met")];
    let ends = [(a, peers[0]), (b, peers[1])].map(|(endpoint, peer)| End { endpoint, peer });
    for end in &ends {
        for context in 0..8 {
            end.endpoint.post_recv(RecvFrom::any(), pool.lend().unwrap(), context).unwrap();
        }
        let _busy_or_idle = end.endpoint.turn(Instant::ORIGIN, Budget::DEFAULT);
    }
    ends
}

/// A message of `size` bytes there and back, as `spinwire lat` sends it: receives are posted again behind the doorbells.
fn round_trip(size: usize) -> Case {
    let [client, server] = ends();
    let message = memory::bytes(size);
    let rounds = move |rounds: u64| {
        let mut hash = 0;
        for round in 0..rounds {
            mark(message, round);
            client.say(message);
            let came = server.hear();
            server.endpoint.read(&came, |bytes| server.say(bytes)).unwrap();
            server.post_again(came);
            let back = client.hear();
            hash = fold(hash, number(back.bytes().unwrap()));
            client.post_again(back);
        }
        hash
    };
    Case::new(rounds, fold_below)
}

/// A turn in which nothing has come, and a poll of the endpoint: what an end does until something comes.
fn turn_in_vain() -> Case {
    let [client, _server] = ends();
    let rounds = move |rounds| {
        (0..rounds).fold(0, |hash, _| {
            let _idle = black_box(client.endpoint.turn(Instant::ORIGIN, Budget::default()));
            fold(hash, u64::from(client.endpoint.poll().is_some()))
        })
    };
    Case::new(rounds, |rounds| (0..rounds).fold(0, |hash, _| fold(hash, 0)))
}
