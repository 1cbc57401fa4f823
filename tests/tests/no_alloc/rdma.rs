//! Two ports over a reliable connection of devices that are not there: each queue pair does at its doorbell what a device would do.

use core::cell::Cell;
use core::mem::MaybeUninit;

use heapless::VecView;
use spinwire_dataplane::error::{Misuse, PostError, Retry};
use spinwire_dataplane::id::{Addr, Name};
use spinwire_dataplane::msg::{Endpoint, EndpointConfig, Kind, RecvFrom, SendTo};
use spinwire_dataplane::poll::{Budget, Poll};
use spinwire_dataplane::provider::rdma::{Memory, RdmaConfig, RdmaPort, Request};
use spinwire_dataplane::provider::{EndpointType, Event, Published, Status};
use spinwire_dataplane::raw::line::{self, Line};
use spinwire_dataplane::raw::loan::LoanPool;
use spinwire_dataplane::raw::place::Bump;
use spinwire_dataplane::time::Instant;
use spinwire_dataplane::verbs::{
    CompletionQueue, Limits, QueuePair, RecvRequest, Segment, SendRequest, Verb, Wc, WcFields,
    WcStatus,
};

/// Requests that may be under way on a queue; a power of two.
const PLACES: usize = 128;
const SLOT_BYTES: usize = 512;
/// More than a slot holds: it goes in pieces.
const LONGEST: usize = 3000;

/// What was posted, oldest first.
struct Queue<T>([Cell<Option<T>>; PLACES], Cell<usize>, Cell<usize>);

impl<T> Queue<T> {
    const fn new() -> Self {
        Self([const { Cell::new(None) }; PLACES], Cell::new(0), Cell::new(0))
    }

    const fn len(&self) -> usize {
        self.2.get() - self.1.get()
    }

    fn push(&self, item: T) -> bool {
        let has_room = self.len() < PLACES;
        if has_room {
            self.0[self.2.get() % PLACES].set(Some(item));
            self.2.set(self.2.get() + 1);
        }
        has_room
    }

    fn pop(&self) -> Option<T> {
        let item = self.0[self.1.get() % PLACES].take()?;
        self.1.set(self.1.get() + 1);
        Some(item)
    }
}

/// A request, and the one range of memory that it names.
#[derive(Clone, Copy)]
struct Posted {
    id: u64,
    at: usize,
    length: usize,
    is_signaled: bool,
    immediate: Option<u32>,
}

/// A queue pair, the completion queue of its port, and the memory that it is let into.
struct Device {
    number: u32,
    lines: &'static [Line],
    sends: Queue<Posted>,
    receives: Queue<Posted>,
    done: Queue<WcFields>,
    peer: Cell<Option<&'static Self>>,
    staged_receives: Cell<u64>,
    /// Messages for which there was no receive.
    dropped: Cell<u64>,
}

fn address(lines: &[Line]) -> u64 {
    u64::try_from(lines.as_ptr().expose_provenance()).unwrap()
}

impl Device {
    fn posted(&self, id: u64, segments: &[Segment<u32>]) -> Result<Posted, PostError> {
        let [one] = segments else { return Err(Misuse::TooLong.into()) };
        if one.key != self.number {
            return Err(Misuse::ForeignKey.into());
        }
        let at = one.address.wrapping_sub(address(self.lines));
        let at = usize::try_from(at).unwrap_or(usize::MAX);
        let length = usize::try_from(one.length).unwrap_or(usize::MAX);
        Ok(Posted { id, at, length, is_signaled: true, immediate: None })
    }

    fn complete(&self, id: u64, bytes: usize, immediate: Option<u32>) -> bool {
        self.done.push(WcFields {
            wr_id: id,
            qp_num: self.number,
            status: WcStatus::SUCCESS,
            vendor: 0,
            byte_len: u32::try_from(bytes).unwrap_or(u32::MAX),
            immediate,
            is_written: false,
            source_qp: 0,
        })
    }

    /// Brings a message to the other end. Whether it has.
    fn carry(&self, send: &Posted) -> bool {
        let Some(peer) = self.peer.get() else { return false };
        let Some(receive) = peer.receives.pop() else { return false };
        let mut bytes = [0; SLOT_BYTES];
        let Some(bytes) = bytes.get_mut(..send.length.min(receive.length)) else { return false };
        line::copy_out(self.lines, send.at, bytes)
            && line::copy_in(peer.lines, receive.at, bytes)
            && peer.complete(receive.id, bytes.len(), send.immediate)
            && (!send.is_signaled || self.complete(send.id, 0, None))
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
            message_bytes_max: u32::try_from(SLOT_BYTES).unwrap(),
            inline_bytes_max: 0,
        }
    }

    fn qp_num(&self) -> u32 {
        self.number
    }

    fn post_send(&self, send: &SendRequest<'_, u32>) -> Result<(), PostError> {
        let immediate = match send.verb {
            Verb::Send => None,
            Verb::SendImm(immediate) => Some(immediate),
            Verb::Write
            | Verb::WriteImm(_)
            | Verb::Read
            | Verb::SendInvalidate(_)
            | Verb::FetchAdd(_)
            | Verb::CompareSwap { .. } => return Err(Misuse::Unsupported.into()),
        };
        let posted = self.posted(send.wr_id.as_raw(), send.segments)?;
        let posted = Posted { is_signaled: !send.flags.unsignaled, immediate, ..posted };
        if self.sends.push(posted) { Ok(()) } else { Err(Retry::SqFull.into()) }
    }

    fn post_recv(&self, recv: &RecvRequest<'_, u32>) -> Result<(), PostError> {
        let posted = self.posted(recv.wr_id.as_raw(), recv.segments)?;
        if !self.receives.push(posted) {
            return Err(Retry::RqFull.into());
        }
        self.staged_receives.set(self.staged_receives.get() + 1);
        Ok(())
    }

    fn ring_doorbell(&self) -> Published {
        let mut count = 0;
        while let Some(send) = self.sends.pop() {
            count += 1;
            self.dropped.set(self.dropped.get() + u64::from(!self.carry(&send)));
        }
        Published { count, error: None }
    }

    fn ring_recv_doorbell(&self) -> Published {
        Published { count: self.staged_receives.replace(0), error: None }
    }
}

impl CompletionQueue for Device {
    fn depth(&self) -> u32 {
        u32::try_from(PLACES).unwrap()
    }

    fn poll_cq(&self, out: &mut VecView<Wc>) {
        while !out.is_full() {
            let Some(fields) = self.done.pop() else { return };
            let _fits = out.push(Wc::new(fields));
        }
    }
}

type Port = RdmaPort<'static, &'static Device, &'static Device>;

/// Both ends, connected.
pub(crate) struct Work {
    ends: [Endpoint<'static, Port>; 2],
    to: [Addr; 2],
    devices: [&'static Device; 2],
    pool: &'static LoanPool<'static>,
}

/// Set up once; leaked, as a plane's memory is.
pub(crate) fn place() -> Work {
    let bump = Bump::new(Box::leak(vec![MaybeUninit::uninit(); 8 << 20].into_boxed_slice()));
    let config = RdmaConfig {
        links: 1,
        slots: 16,
        slot_bytes: u32::try_from(SLOT_BYTES).unwrap(),
        message_bytes_max: u32::try_from(LONGEST).unwrap(),
        ..RdmaConfig::default()
    };
    let names = ["a", "b"].map(|text| Name::new(text).unwrap());
    let devices = [1, 2].map(|number| {
        let bytes = usize::try_from(config.memory_bytes()).unwrap();
        let lines = bump.slice_with(bytes / 64, |_| Line::zeroed()).unwrap();
        let device = Device {
            number,
            lines,
            sends: Queue::new(),
            receives: Queue::new(),
            done: Queue::new(),
            peer: Cell::new(None),
            staged_receives: Cell::new(0),
            dropped: Cell::new(0),
        };
        &*Box::leak(Box::new(device))
    });
    let ends = [0, 1].map(|end| {
        let Device { lines, number, .. } = *devices[end];
        let memory = Memory { lines, address: address(lines), key: number, loans: None };
        let who = (&names[end], EndpointType::Msg);
        let port = RdmaPort::place(&bump, who, &config, devices[end], memory).unwrap();
        Endpoint::new(port, &bump, &EndpointConfig::default()).unwrap()
    });
    let pool = LoanPool::place(&bump, 16, LONGEST).unwrap();
    let [a, b] = &ends;
    devices[0].peer.set(Some(devices[1]));
    devices[1].peer.set(Some(devices[0]));
    a.provider().set_route(&names[1]).unwrap();
    let to_b = a.connect(&names[1]).unwrap();
    let Some(Request::Connect { link, .. }) = a.provider().next_request() else {
        panic!("a connection is asked for");
    };
    b.provider().accept(devices[1]).unwrap();
    a.provider().connected(link, devices[0]).unwrap();
    let mut connected = [None; 2];
    for _ in 0..16 {
        for (end, heard) in ends.iter().zip(&mut connected) {
            let _busy_or_idle = end.turn(Instant::ORIGIN, Budget::DEFAULT);
            if let Some(Event::Connected(peer)) = end.poll_event() {
                *heard = Some(peer);
            }
        }
    }
    assert_eq!(connected[0], Some(to_b));
    let to = connected.map(|peer| peer.expect("both have met"));
    Work { ends, to, devices, pool }
}

/// So many rounds; the number of those in which everything was as it should be.
pub(crate) fn run(work: &Work, rounds: u64) -> u64 {
    let good = (0..rounds).map(|round| u64::from(is_good(work, round).unwrap_or(false))).sum();
    let dropped: u64 = work.devices.iter().map(|device| device.dropped.get()).sum();
    if dropped == 0 { good } else { 0 }
}

/// Each end sends a message of any length from a buffer, and a short one without, which waits until somebody asks for its tag.
fn is_good(work: &Work, round: u64) -> Option<bool> {
    let length = usize::try_from(round).ok()? * 97 % LONGEST + 1;
    let first = u8::try_from(round % 251).ok()?;
    let mut over = [0; 2];
    for (end, to) in work.ends.iter().zip(work.to) {
        end.inject(SendTo::peer(to).tag(round).immediate(round), &[first; 40]).ok()?;
        let mut loan = work.pool.lend()?;
        loan.room().get_mut(..length)?.fill(first);
        loan.set_len(length).ok()?;
        end.post_send(SendTo::peer(to), loan, round).ok()?;
        end.post_recv(RecvFrom::any(), work.pool.lend()?, round).ok()?;
    }
    for turn in 0..64 {
        for (end, over) in work.ends.iter().zip(&mut over) {
            let _busy_or_idle = end.turn(Instant::ORIGIN, Budget::DEFAULT);
            if turn == 4 {
                end.post_recv(RecvFrom::any().tag(round), work.pool.lend()?, round).ok()?;
            }
            while let Some(came) = end.poll() {
                let is_same = came.bytes().is_none_or(|bytes| bytes.iter().all(|b| *b == first));
                let expected = if came.tag.is_some() { 40 } else { length };
                let is_right = match came.kind {
                    Kind::Received => {
                        is_same && came.bytes().is_some_and(|bytes| bytes.len() == expected)
                    }
                    Kind::Sent => true,
                    Kind::RecvEnded | Kind::Parcel | Kind::Written | Kind::Read | Kind::Atomic => {
                        false
                    }
                };
                if came.status != Status::Success || came.context != round || !is_right {
                    return None;
                }
                *over += 1;
            }
        }
        if over == [3, 3] {
            return Some(true);
        }
    }
    None
}
