//! A port over a reliable connection of a device, and somebody at its other end who says anything.
//!
//! While nothing is damaged, an oracle says what must arrive: every message, once, in order, with its bytes and envelope, and no
//! fault. Once bytes were damaged or made up, anything may be said, but nothing panics, no message is longer than may be, and no
//! receive ends twice. A header that is believed is one that would have been written.
#![no_main]

use core::cell::{Cell, RefCell};
use core::mem::MaybeUninit;
use std::collections::VecDeque;

use heapless::VecView;
use libfuzzer_sys::fuzz_target;
use spinwire_dataplane::error::{Misuse, PostError};
use spinwire_dataplane::id::Addr;
use spinwire_dataplane::msg::matching::MatchingConfig;
use spinwire_dataplane::msg::{Endpoint, EndpointConfig, Kind, RecvFrom, SendTo};
use spinwire_dataplane::poll::{Budget, Poll};
use spinwire_dataplane::provider::rdma::piece::{self, Content, Grant, HEADER_BYTES};
use spinwire_dataplane::provider::rdma::{Memory, RdmaConfig, RdmaPort};
use spinwire_dataplane::provider::tcp::frame::{Envelope, Greeting, Limits as FrameLimits};
use spinwire_dataplane::provider::{EndpointType, Event, Published, Status};
use spinwire_dataplane::raw::line::{self, Line};
use spinwire_dataplane::raw::loan::LoanPool;
use spinwire_dataplane::raw::place::Bump;
use spinwire_dataplane::time::Instant;
use spinwire_dataplane::verbs::{
    CompletionQueue, Limits, QueuePair, RecvRequest, Segment, SendRequest, Verb, Wc, WcFields,
    WcStatus,
};
use spinwire_fuzz::{Input, name};
use spinwire_layouts::shm::EndpointKind;

const SLOTS: u32 = 8;
const SLOT_BYTES: usize = 256;
const LONGEST: usize = 1000;
const BUFFERS: u32 = 4;

/// Bytes of a send, and what goes beside them.
type Said = (Vec<u8>, Option<u32>);

/// The queue pair of the port, and its completion queue. What was posted and said stands here.
struct Device<'m> {
    lines: &'m [Line],
    /// Place in memory, and id, of each receive that waits.
    receives: RefCell<VecDeque<(usize, u64)>>,
    sends: RefCell<VecDeque<(Said, Option<u64>)>>,
    done: RefCell<VecDeque<WcFields>>,
    /// What the port has said.
    said: RefCell<VecDeque<Said>>,
    staged: Cell<u64>,
}

fn address(lines: &[Line]) -> u64 {
    u64::try_from(lines.as_ptr().expose_provenance()).expect("it fits")
}

impl<'m> Device<'m> {
    const fn new(lines: &'m [Line]) -> Self {
        Self {
            lines,
            receives: RefCell::new(VecDeque::new()),
            sends: RefCell::new(VecDeque::new()),
            done: RefCell::new(VecDeque::new()),
            said: RefCell::new(VecDeque::new()),
            staged: Cell::new(0),
        }
    }

    fn place(&self, segments: &[Segment<u32>]) -> Result<(usize, usize), PostError> {
        let [one] = segments else { return Err(Misuse::TooLong.into()) };
        let at = usize::try_from(one.address - address(self.lines)).expect("it is in our memory");
        Ok((at, usize::try_from(one.length).expect("it fits")))
    }

    fn complete(&self, wr_id: u64, bytes: usize, (immediate, is_written): (Option<u32>, bool)) {
        let (status, byte_len) = (WcStatus::SUCCESS, u32::try_from(bytes).expect("it fits"));
        let fields = WcFields {
            wr_id,
            qp_num: 1,
            status,
            vendor: 0,
            byte_len,
            immediate,
            is_written,
            source_qp: 0,
        };
        self.done.borrow_mut().push_back(fields);
    }

    /// The other end sends this. Whether there is a receive for it.
    fn deliver(&self, bytes: &[u8], beside: Option<u32>) -> bool {
        let Some((at, wr_id)) = self.receives.borrow_mut().pop_front() else { return false };
        assert!(line::copy_in(self.lines, at, bytes), "a receive outside of memory");
        self.complete(wr_id, bytes.len(), (beside, false));
        true
    }

    /// The other end writes somewhere, and says so.
    fn announce(&self, length: usize, beside: u32) {
        if let Some((_, wr_id)) = self.receives.borrow_mut().pop_front() {
            self.complete(wr_id, length, (Some(beside), true));
        }
    }
}

impl QueuePair for Device<'_> {
    type Key = u32;

    fn limits(&self) -> Limits {
        let (send_depth, recv_depth) = (64, 64);
        let message_bytes_max = 1 << 20;
        Limits { send_depth, recv_depth, sge_max: 2, message_bytes_max, inline_bytes_max: 0 }
    }

    fn qp_num(&self) -> u32 {
        1
    }

    fn post_send(&self, send: &SendRequest<'_, u32>) -> Result<(), PostError> {
        let (at, length) = self.place(send.segments)?;
        let mut bytes = vec![0; length];
        assert!(line::copy_out(self.lines, at, &mut bytes), "a send outside of memory");
        let told = (!send.flags.unsignaled).then(|| send.wr_id.as_raw());
        let beside = if let Verb::SendImm(beside) = send.verb { Some(beside) } else { None };
        self.sends.borrow_mut().push_back(((bytes, beside), told));
        Ok(())
    }

    fn post_recv(&self, recv: &RecvRequest<'_, u32>) -> Result<(), PostError> {
        let (at, length) = self.place(recv.segments)?;
        assert!(length == SLOT_BYTES, "a receive is a slot");
        self.receives.borrow_mut().push_back((at, recv.wr_id.as_raw()));
        self.staged.set(self.staged.get() + 1);
        Ok(())
    }

    fn ring_doorbell(&self) -> Published {
        let mut count = 0;
        for (said, told) in self.sends.borrow_mut().drain(..) {
            count += 1;
            self.said.borrow_mut().push_back(said);
            if let Some(wr_id) = told {
                self.complete(wr_id, 0, (None, false));
            }
        }
        Published { count, error: None }
    }

    fn ring_recv_doorbell(&self) -> Published {
        Published { count: self.staged.replace(0), error: None }
    }
}

impl CompletionQueue for Device<'_> {
    fn depth(&self) -> u32 {
        1 << 10
    }

    fn poll_cq(&self, out: &mut VecView<Wc>) {
        while !out.is_full() {
            let Some(fields) = self.done.borrow_mut().pop_front() else { return };
            assert!(out.push(Wc::new(fields)).is_ok());
        }
    }
}

type Port<'m> = RdmaPort<'m, &'m Device<'m>, &'m Device<'m>>;

fuzz_target!(|data: &[u8]| {
    let mut input = Input::new(data);
    header(&mut input);
    let config = RdmaConfig {
        peers_max: 2,
        links: 2,
        send_depth: 8,
        matching: MatchingConfig { recv_depth: 8, unexpected_depth: 3, unexpected_bytes_max: 500 },
        message_bytes_max: u32::try_from(LONGEST).expect("it fits"),
        slots: SLOTS,
        slot_bytes: u32::try_from(SLOT_BYTES).expect("it fits"),
        ..RdmaConfig::default()
    };
    let bytes = usize::try_from(config.memory_bytes()).expect("it fits");
    let lines: Vec<Line> = std::iter::repeat_with(Line::zeroed).take(bytes / 64).collect();
    let device = Device::new(&lines);
    let mut block = vec![MaybeUninit::uninit(); config.arena_bytes() + (64 << 10)];
    let bump = Bump::new(&mut block);
    let memory = Memory { lines: &lines, address: address(&lines), key: 7, loans: None };
    let who = (&name("port"), EndpointType::Rdm);
    let port: Port<'_> = RdmaPort::place(&bump, who, &config, &device, memory).expect("room");
    port.accept(&device).map_err(|rejected| rejected.error).expect("there is a place");
    let endpoint = Endpoint::new(port, &bump, &EndpointConfig { contexts_max: 16 }).expect("room");
    let pool = LoanPool::place(&bump, BUFFERS, LONGEST).expect("room");
    let last = [(); 2].map(|()| LoanPool::place(&bump, 1, LONGEST).expect("room"));
    let mut run = Run {
        input,
        device: &device,
        endpoint,
        pool,
        last,
        peer: None,
        sequence: 0,
        credit: SLOTS,
        heard: None,
        expected: VecDeque::new(),
        answers: VecDeque::new(),
        posted: Vec::new(),
        next: 0,
        is_damaged: false,
    };
    run.hello();
    for _ in 0..200 {
        if run.input.is_empty() {
            break;
        }
        run.step();
    }
    run.finish();
});

/// Any header: one that is believed is one that would have been written.
fn header(input: &mut Input<'_>) {
    let mut bytes = [0; HEADER_BYTES];
    for (byte, given) in bytes.iter_mut().zip(input.bytes(HEADER_BYTES)) {
        *byte = *given;
    }
    let sequence = u32::from(input.byte());
    if let Ok((content, grant)) = piece::read(&bytes, sequence) {
        assert_eq!(piece::write(sequence, content, grant), bytes);
    }
    let beside = u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
    if let Ok(grant) = piece::read_brief(beside, sequence) {
        assert_eq!(piece::write_brief(sequence, grant), beside);
    }
}

/// A message: its bytes and envelope.
type Message = (Vec<u8>, Envelope);

struct Run<'d, 'm> {
    input: Input<'d>,
    device: &'m Device<'m>,
    endpoint: Endpoint<'m, Port<'m>>,
    pool: &'m LoanPool<'m>,
    /// For untagged messages at the end, and for tagged ones.
    last: [&'m LoanPool<'m>; 2],
    /// What the port calls the other end.
    peer: Option<Addr>,
    /// Of the next header of the other end.
    sequence: u32,
    /// Receives for messages that the port has posted.
    credit: u32,
    /// Headers that the port has said; none before its hello.
    heard: Option<u32>,
    /// Messages on their way to the port.
    expected: VecDeque<Message>,
    /// Messages on their way from it.
    answers: VecDeque<Vec<u8>>,
    /// Contexts of receives that have not ended.
    posted: Vec<u64>,
    next: u64,
    is_damaged: bool,
}

impl Run<'_, '_> {
    fn hello(&mut self) {
        let slot_bytes = u32::try_from(SLOT_BYTES).expect("it fits");
        let limits = FrameLimits {
            message_bytes_max: u32::try_from(LONGEST).expect("it fits"),
            credit_messages: SLOTS,
            credit_bytes: SLOTS * slot_bytes,
        };
        let greeting =
            Greeting { name: name("peer"), kind: EndpointKind::Rdm, limits, token: 0, number: 0 };
        let mut bytes = greeting.to_wire().to_vec();
        if self.input.byte() < 40 {
            self.damage(&mut bytes);
        }
        self.device.deliver(&bytes, None);
        self.turn();
        self.turn();
    }

    fn step(&mut self) {
        match self.input.byte() % 16 {
            0..=4 => self.say_message(),
            5..=8 => self.post(),
            9 => self.answer(),
            10 if self.input.byte() < 64 => {
                let length = self.input.below(SLOT_BYTES + 1);
                let bytes = self.input.bytes(length);
                self.is_damaged = true;
                let low = self.input.byte();
                let beside = piece::write_brief(self.sequence, Grant::default()) | u32::from(low);
                match low % 4 {
                    0 => self.device.announce(length, beside),
                    1 => _ = self.device.deliver(bytes, Some(beside)),
                    _ => _ = self.device.deliver(bytes, None),
                }
            }
            11 if self.input.byte() < 64 => {
                self.is_damaged = true;
                let content =
                    if self.input.byte() % 2 == 0 { Content::Credit } else { Content::Goodbye };
                let grant = Grant {
                    messages: u32::from(self.input.byte() % 4),
                    control: u32::from(self.input.byte() % 4),
                };
                self.device.deliver(&piece::write(self.sequence, content, grant), None);
                self.sequence = self.sequence.wrapping_add(1);
            }
            _ => self.turn(),
        }
    }

    /// Changes bytes on their way.
    fn damage(&mut self, bytes: &mut Vec<u8>) {
        self.is_damaged = true;
        let at = self.input.below(bytes.len());
        match self.input.byte() % 4 {
            0 => bytes[at] = self.input.byte(),
            1 => bytes[at] ^= 1 << (self.input.byte() % 8),
            2 => bytes.truncate(at),
            _ => bytes.resize(SLOT_BYTES.min(bytes.len() + at), 0x33),
        }
    }

    /// A message, in as many pieces as it needs.
    fn say_message(&mut self) {
        let length = self.input.below(LONGEST + 1);
        let how = self.input.byte();
        let envelope = Envelope {
            tag: (how & 1 != 0).then(|| u64::from(self.input.byte() % 4)),
            immediate: (how & 2 != 0).then(|| self.input.word()),
        };
        let mut bytes = self.input.bytes(length).to_vec();
        bytes.resize(length, how);
        let content =
            Content::Message { length: u32::try_from(length).expect("it fits"), envelope };
        let is_bare = envelope == Envelope::default() && (1..=SLOT_BYTES).contains(&length);
        let is_brief = is_bare && how & 0x10 == 0;
        let beside = is_brief.then(|| piece::write_brief(self.sequence, Grant::default()));
        let mut all = Vec::new();
        if !is_brief {
            all.extend(piece::write(self.sequence, content, Grant::default()));
        }
        all.extend(&bytes);
        let pieces = all.chunks(SLOT_BYTES);
        let count = u32::try_from(pieces.len()).expect("few");
        if count > self.credit && how & 4 == 0 {
            return;
        }
        self.is_damaged |= count > self.credit;
        self.credit = self.credit.saturating_sub(count);
        self.sequence = self.sequence.wrapping_add(1);
        let is_damaged = how & 0xf8 == 0x88;
        for piece in pieces {
            let mut piece = piece.to_vec();
            if is_damaged {
                self.damage(&mut piece);
            }
            self.device.deliver(&piece, beside);
        }
        self.expected.push_back((bytes, envelope));
    }

    fn post(&mut self) {
        let Some(loan) = self.pool.lend() else { return };
        let how = self.input.byte();
        let from = if how & 1 == 0 {
            RecvFrom::any()
        } else {
            RecvFrom::any().tag_ignoring(u64::from(how >> 2 & 3), if how & 2 == 0 { 0 } else { 3 })
        };
        self.next += 1;
        if self.endpoint.post_recv(from, loan, self.next).is_ok() {
            self.posted.push(self.next);
        }
    }

    fn answer(&mut self) {
        let Some(peer) = self.peer else { return };
        let length = self.input.below(SLOT_BYTES - HEADER_BYTES + 1);
        let bytes = vec![self.input.byte(); length];
        if self.endpoint.inject(SendTo::peer(peer), &bytes).is_ok() {
            self.answers.push_back(bytes);
        }
    }

    fn turn(&mut self) {
        let _busy_or_idle = self.endpoint.turn(Instant::ORIGIN, Budget::DEFAULT);
        while let Some(event) = self.endpoint.poll_event() {
            match event {
                Event::Connected(peer) => self.peer = Some(peer),
                other => assert!(self.is_damaged, "{other:?} of an honest peer"),
            }
        }
        while let Some(ended) = self.endpoint.poll() {
            if ended.kind == Kind::Sent {
                continue;
            }
            let posted = self.posted.iter().position(|context| *context == ended.context);
            self.posted.remove(posted.expect("it was posted and has not ended"));
            assert!(ended.length <= LONGEST);
            if ended.status == Status::Success {
                let bytes = ended.bytes().expect("of a receive").to_vec();
                let envelope = Envelope { tag: ended.tag, immediate: ended.immediate };
                self.arrived(&(bytes, envelope));
            } else {
                assert!(self.is_damaged, "{:?} of an honest peer", ended.status);
            }
        }
        let fault = self.endpoint.provider().last_fault();
        assert!(self.is_damaged || fault.is_none(), "{fault:?} of an honest peer");
        self.listen();
    }

    /// Of those that one receive may take the oldest comes first: of equal tags they come in order.
    fn arrived(&mut self, message: &Message) {
        if self.is_damaged {
            return;
        }
        let tag = message.1.tag;
        let at = self.expected.iter().position(|(_, envelope)| envelope.tag == tag);
        let expected = at.and_then(|at| self.expected.remove(at));
        assert!(expected.as_ref() == Some(message), "another message than was sent");
    }

    /// What the port says.
    fn listen(&mut self) {
        while let Some((bytes, beside)) = self.device.said.borrow_mut().pop_front() {
            let Some(sequence) = self.heard else {
                self.heard = Some(0);
                continue;
            };
            if self.is_damaged {
                // The other end may have said that its slots are smaller.
                continue;
            }
            let (content, grant, body) = if let Some(beside) = beside {
                let grant = piece::read_brief(beside, sequence).expect("a port says what is so");
                (None, grant, &bytes[..])
            } else {
                let header = bytes.first_chunk().expect("a header");
                let (content, grant) =
                    piece::read(header, sequence).expect("a port writes good headers");
                (Some(content), grant, &bytes[HEADER_BYTES..])
            };
            self.heard = Some(sequence.wrapping_add(1));
            self.credit += grant.messages;
            assert!(self.credit <= SLOTS, "more credit than receives");
            if let Some(Content::Message { length, .. }) = content {
                assert_eq!(usize::try_from(length), Ok(body.len()));
            }
            if matches!(content, None | Some(Content::Message { .. })) {
                let answer = self.answers.pop_front().expect("it was sent");
                assert!(body == answer, "another answer than was sent");
            }
        }
    }

    /// Both kinds of messages are asked for until there are no more: of an honest peer all have come.
    fn finish(&mut self) {
        let kinds = [RecvFrom::any(), RecvFrom::any().tag_ignoring(0, u64::MAX)];
        for _ in 0..64 {
            for (pool, from) in self.last.into_iter().zip(kinds) {
                let Some(loan) = pool.lend() else { continue };
                self.next += 1;
                if self.endpoint.post_recv(from, loan, self.next).is_ok() {
                    self.posted.push(self.next);
                }
            }
            self.turn();
        }
        assert!(self.is_damaged || self.expected.is_empty(), "a message was lost");
        assert!(self.is_damaged || self.answers.is_empty(), "an answer was not said");
    }
}
