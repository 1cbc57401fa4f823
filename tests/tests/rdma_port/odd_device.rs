//! Datagrams over a device that does what the test says, whether a device would or not.

use core::cell::{Cell, RefCell};
use core::mem::MaybeUninit;
use std::collections::VecDeque;

use heapless::VecView;
use spinwire_dataplane::error::{Fatal, Misuse, PostError, Retry};
use spinwire_dataplane::id::{Addr, Name};
use spinwire_dataplane::msg::{Endpoint, EndpointConfig, RecvFrom, SendTo};
use spinwire_dataplane::poll::{Budget, Poll};
use spinwire_dataplane::provider::rdma::{
    DatagramCounters, Mailbox, Memory, PortOpenError, RdmaDatagrams, RdmaDatagramsConfig,
};
use spinwire_dataplane::provider::tcp::frame::Envelope;
use spinwire_dataplane::provider::udp::datagram::{self, DatagramFault};
use spinwire_dataplane::provider::{Published, Status};
use spinwire_dataplane::raw::line::{Line, copy_in};
use spinwire_dataplane::raw::loan::LoanPool;
use spinwire_dataplane::raw::place::Bump;
use spinwire_dataplane::time::{Instant, Nanos};
use spinwire_dataplane::verbs::{
    CompletionQueue, Destination, Limits, QueuePair, RecvRequest, SendRequest, Wc, WcFields,
    WcStatus,
};

const NUMBER: u32 = 5;
const RECEIVES: u32 = 8;

/// Queue pair and completion queue in one.
#[derive(Debug, Default)]
struct Device {
    /// Ids, and where each send goes.
    sends: RefCell<VecDeque<(u64, Destination)>>,
    /// Ids, and where each receive lies.
    receives: RefCell<VecDeque<(u64, u64)>>,
    done: RefCell<VecDeque<WcFields>>,
    broken: Cell<Option<Fatal>>,
    /// What it says it takes; as much as is asked for, where there is nothing.
    limits: Cell<Option<Limits>>,
    depth: Cell<Option<u32>>,
    staged: Cell<(u64, u64)>,
}

const ALL: Limits = Limits {
    send_depth: 1024,
    recv_depth: 1024,
    sge_max: 1,
    message_bytes_max: 4096,
    inline_bytes_max: 0,
};

impl QueuePair for Device {
    type Key = u32;

    fn limits(&self) -> Limits {
        self.limits.get().unwrap_or(ALL)
    }

    fn qp_num(&self) -> u32 {
        NUMBER
    }

    fn post_send(&self, send: &SendRequest<'_, u32>) -> Result<(), PostError> {
        let to = send.destination.unwrap();
        self.sends.borrow_mut().push_back((send.wr_id.as_raw(), to));
        self.staged.set((self.staged.get().0 + 1, self.staged.get().1));
        Ok(())
    }

    fn post_recv(&self, recv: &RecvRequest<'_, u32>) -> Result<(), PostError> {
        let address = recv.segments[0].address;
        self.receives.borrow_mut().push_back((recv.wr_id.as_raw(), address));
        self.staged.set((self.staged.get().0, self.staged.get().1 + 1));
        Ok(())
    }

    fn ring_doorbell(&self) -> Published {
        let (count, receives) = self.staged.get();
        self.staged.set((0, receives));
        Published { count, error: None }
    }

    fn ring_recv_doorbell(&self) -> Published {
        let (sends, count) = self.staged.get();
        self.staged.set((sends, 0));
        Published { count, error: None }
    }
}

impl CompletionQueue for Device {
    fn depth(&self) -> u32 {
        self.depth.get().unwrap_or(1 << 20)
    }

    fn poll_cq(&self, out: &mut VecView<Wc>) {
        while !out.is_full() {
            let Some(fields) = self.done.borrow_mut().pop_front() else { break };
            let _fits = out.push(Wc::new(fields));
        }
    }

    fn take_error(&self) -> Option<Fatal> {
        self.broken.take()
    }
}

type Port<'m> = RdmaDatagrams<'m, &'m Device, &'m Device>;

struct Desk<'m> {
    device: &'m Device,
    lines: &'m [Line],
    endpoint: Endpoint<'m, Port<'m>>,
    pool: &'m LoanPool<'m>,
    now: Cell<u64>,
}

fn config() -> RdmaDatagramsConfig {
    RdmaDatagramsConfig {
        peers_max: 2,
        age_min: Nanos::from_micros(100),
        send_depth: 8,
        receives: RECEIVES,
        ..RdmaDatagramsConfig::default()
    }
}

fn address(lines: &[Line]) -> u64 {
    u64::try_from(lines.as_ptr().expose_provenance()).unwrap()
}

fn open<'m>(
    bump: &Bump<'m>,
    device: &'m Device,
    config: &RdmaDatagramsConfig,
) -> Result<(Port<'m>, &'m [Line]), PortOpenError> {
    let bytes = usize::try_from(config.memory_bytes()).unwrap();
    let lines: &'m [Line] = bump.slice_with(bytes.div_ceil(64), |_| Line::zeroed()).unwrap();
    let memory = Memory { lines, address: address(lines), key: 7, loans: None };
    Ok((Port::place(bump, config, (device, device), &memory)?, lines))
}

fn with(config: &RdmaDatagramsConfig, test: impl FnOnce(&Desk<'_>)) {
    let mut block: Box<[MaybeUninit<u8>]> = Box::new_uninit_slice(4 << 20);
    let device = Device::default();
    let bump = Bump::new(&mut block);
    let (port, lines) = open(&bump, &device, config).unwrap();
    let endpoint = Endpoint::new(port, &bump, &EndpointConfig::default()).unwrap();
    let pool = LoanPool::place(&bump, 8, 512).unwrap();
    let desk = Desk { device: &device, lines, endpoint, pool, now: Cell::new(0) };
    desk.turn(1);
    test(&desk);
}

/// The route that a device writes in front of a datagram of that sender.
fn route(sender: u8) -> [u8; 40] {
    let mut route = [0; 40];
    route[0] = 0x60;
    route[8..24].fill(sender);
    route
}

fn packet(length: usize) -> Vec<u8> {
    let header = datagram::header(length, Envelope::default()).unwrap();
    [&header[..], &vec![b'x'; length]].concat()
}

impl Desk<'_> {
    fn turn(&self, ns: u64) {
        self.now.set(self.now.get() + ns);
        let _outcome = self.endpoint.turn(Instant::from_nanos(self.now.get()), Budget::DEFAULT);
    }

    const fn counters(&self) -> DatagramCounters {
        self.endpoint.provider().counters()
    }

    fn completes(&self, wr_id: u64, status: WcStatus, (byte_len, source_qp): (u32, u32)) {
        let (vendor, is_written, qp_num) = (9, false, NUMBER);
        let immediate = None;
        let fields =
            WcFields { wr_id, qp_num, status, vendor, byte_len, immediate, is_written, source_qp };
        self.device.done.borrow_mut().push_back(fields);
    }

    /// A packet comes into the oldest receive: bytes from its start on, and as many behind the route as it is said.
    fn arrives(&self, bytes: &[u8], length: usize, source_qp: u32) {
        let (id, to) = self.device.receives.borrow_mut().pop_front().unwrap();
        let at = usize::try_from(to - address(self.lines)).unwrap();
        assert!(copy_in(self.lines, at, bytes));
        self.completes(id, WcStatus::SUCCESS, (u32::try_from(length).unwrap(), source_qp));
        self.turn(1);
    }

    /// A message of `sender` with so many bytes.
    fn message(&self, sender: u8, length: usize) {
        let bytes = [&route(sender)[..], &packet(length)].concat();
        self.arrives(&bytes, bytes.len(), u32::from(sender));
    }

    fn receive(&self) {
        self.endpoint.post_recv(RecvFrom::any(), self.pool.lend().unwrap(), 0).unwrap();
    }

    /// Asks for a message and takes it: how it ended, its bytes, and who has sent it.
    fn take(&self) -> Option<(Status, usize, Addr)> {
        self.turn(1);
        let came = self.endpoint.poll()?;
        Some((came.status, came.length, came.source?))
    }

    fn send(&self, to: Addr) -> Result<(), PostError> {
        self.endpoint.inject(SendTo::peer(to), b"answer")
    }

    /// Somebody who was heard, and can be answered at row `handle`.
    fn meet(&self, sender: u8, handle: u32) -> Addr {
        self.receive();
        self.message(sender, 1);
        let (.., from) = self.take().unwrap();
        let (addr, _gid, qp_num) = self.endpoint.provider().next_unresolved().unwrap();
        assert_eq!((addr, qp_num), (from, u32::from(sender)));
        let to = Destination { handle, qp_num, qkey: 1 };
        self.endpoint.provider().resolve(addr, to).unwrap();
        addr
    }

    fn is_failed(&self, to: Addr) -> bool {
        self.turn(1);
        match self.send(to) {
            Ok(()) => false,
            Err(error) => {
                assert_eq!(error, PostError::Fatal(Fatal::QueueError));
                true
            }
        }
    }
}

/// Where the host has looked in vain, the next send has it look again, once.
#[test]
fn who_cannot_be_answered_is_asked_for_anew_by_the_next_send() {
    with(&config(), |desk| {
        desk.receive();
        desk.message(1, 1);
        let (.., from) = desk.take().unwrap();
        let asked = || desk.endpoint.provider().next_unresolved().map(|(addr, ..)| addr);
        assert_eq!((asked(), asked()), (Some(from), None));
        for _ in 0..2 {
            assert_eq!(desk.send(from), Err(PostError::Retry(Retry::NotConnected)));
        }
        assert_eq!((asked(), asked()), (Some(from), None));
    });
}

#[test]
fn completions_of_others_are_counted_and_harm_nobody() {
    with(&config(), |desk| {
        let to = desk.meet(1, 0);
        desk.send(to).unwrap();
        desk.turn(1);
        let (id, _to) = desk.device.sends.borrow()[0];
        let of_another = |wr_id, status| WcFields {
            wr_id,
            qp_num: NUMBER + 1,
            status,
            vendor: 0,
            byte_len: 100,
            immediate: Some(1),
            is_written: true,
            source_qp: 1,
        };
        let receive = desk.device.receives.borrow()[0].0;
        let strays = desk.counters().strays;
        for (wr_id, status) in [
            (id, WcStatus::SUCCESS),
            (id, WcStatus::RETRY_EXCEEDED),
            (receive, WcStatus::SUCCESS),
            (receive, WcStatus::FLUSHED),
        ] {
            desk.device.done.borrow_mut().push_back(of_another(wr_id, status));
        }
        // Ids that no work request has.
        desk.completes(0, WcStatus::SUCCESS, (0, 0));
        desk.completes(u64::MAX, WcStatus::FLUSHED, (0, 0));
        assert!(!desk.is_failed(to));
        assert_eq!(desk.counters().strays, strays + 6);
        // What they were about goes on as if nothing had been.
        desk.receive();
        desk.message(1, 10);
        assert_eq!(desk.take(), Some((Status::Success, 10, to)));
    });
}

#[test]
fn what_fails_on_the_queue_pair_ends_the_port_with_its_cause() {
    let of_send = |desk: &Desk<'_>| {
        let (id, _to) = desk.device.sends.borrow_mut().pop_front().unwrap();
        desk.completes(id, WcStatus::from_raw(4), (0xFFFF, 0xFFFF));
    };
    let of_receive = |desk: &Desk<'_>| {
        let (id, _at) = desk.device.receives.borrow_mut().pop_front().unwrap();
        desk.completes(id, WcStatus::from_raw(4), (64, 1));
    };
    let fails: [&dyn Fn(&Desk<'_>); 2] = [&of_send, &of_receive];
    for fail in fails {
        with(&config(), |desk| {
            let to = desk.meet(1, 0);
            desk.send(to).unwrap();
            desk.turn(1);
            let received = desk.counters().received;
            fail(desk);
            assert!(desk.is_failed(to));
            assert_eq!(desk.counters().received, received, "nothing has come");
            let error = desk.endpoint.provider().last_error();
            assert_eq!(error, Some((WcStatus::from_raw(4), 9)));
        });
    }
}

#[test]
fn completions_out_of_order_or_twice_end_the_port() {
    let second_receive = |desk: &Desk<'_>| {
        let id = desk.device.receives.borrow()[1].0;
        desk.completes(id, WcStatus::SUCCESS, (80, 1));
    };
    let twice = |desk: &Desk<'_>| {
        let (id, _at) = desk.device.receives.borrow_mut().pop_front().unwrap();
        desk.completes(id, WcStatus::SUCCESS, (80, 1));
        desk.completes(id, WcStatus::SUCCESS, (80, 1));
    };
    let never_sent = |desk: &Desk<'_>| {
        // By the form of the ids: the number of the send is the lower half.
        let id = desk.device.sends.borrow()[0].0;
        desk.completes(id.wrapping_add(50), WcStatus::SUCCESS, (0, 0));
    };
    let fails: [&dyn Fn(&Desk<'_>); 3] = [&second_receive, &twice, &never_sent];
    for fail in fails {
        with(&config(), |desk| {
            let to = desk.meet(1, 0);
            desk.send(to).unwrap();
            desk.turn(1);
            assert!(!desk.is_failed(to));
            fail(desk);
            assert!(desk.is_failed(to));
            assert_eq!(desk.counters().strays, 1);
        });
    }
}

#[test]
fn a_completion_queue_that_breaks_ends_the_port() {
    with(&config(), |desk| {
        let to = desk.meet(1, 0);
        desk.device.broken.set(Some(Fatal::QueueError));
        // It is asked now and then, where nothing comes.
        (0..1000).for_each(|_| desk.turn(1));
        assert!(desk.is_failed(to));
    });
}

/// What a device leaves out of a route is not that of whoever was heard in the same place before.
#[test]
fn a_route_that_is_not_written_is_nobodys() {
    with(&config(), |desk| {
        for _ in 0..4 * RECEIVES {
            desk.receive();
            desk.message(1, 10);
            assert!(desk.take().is_some());
        }
        let slots: Vec<u64> = desk.device.receives.borrow().iter().map(|it| it.1).collect();
        assert!(slots.len() >= 4, "{slots:?}");
        desk.receive();
        let at = usize::try_from(slots[0] - address(desk.lines)).unwrap() + 40;
        assert!(copy_in(desk.lines, at, &packet(3)));
        desk.arrives(&[], 40 + packet(3).len(), 1);
        assert_eq!(desk.take(), None);
        let fault = desk.endpoint.provider().last_fault();
        assert_eq!((fault, desk.counters().garbage), (Some(DatagramFault::Route), 1));
    });
}

/// A packet that says more than has come of it.
#[test]
fn what_came_in_part_is_said_to_be_cut_and_is_not_kept() {
    with(&config(), |desk| {
        let bytes = [&route(1)[..], &packet(100)].concat();
        desk.receive();
        desk.arrives(&bytes, bytes.len() - 90, 1);
        let (status, length, _from) = desk.take().unwrap();
        assert_eq!((status, length), (Status::Truncated, 10));
        // Nobody asks for it.
        let unasked = desk.counters().unasked;
        desk.arrives(&bytes, bytes.len() - 90, 1);
        desk.receive();
        assert_eq!((desk.take(), desk.counters().unasked), (None, unasked + 1));
        // And one that no receive could hold: no more than the slot is looked at.
        desk.arrives(&[&route(1)[..], &packet(10)].concat(), 1 << 31, 1);
        assert_eq!(desk.take(), None);
        assert_eq!(desk.endpoint.provider().last_fault(), Some(DatagramFault::Length));
    });
}

#[test]
fn rows_go_to_others_when_they_are_old_and_empty_and_nobody_is_answered_in_anothers_place() {
    with(&config(), |desk| {
        let (one, two) = (desk.meet(1, 11), desk.meet(2, 12));
        let port = desk.endpoint.provider();
        assert!(port.uses(11) && port.uses(12) && !port.uses(13));
        // Both are young.
        desk.receive();
        desk.message(3, 5);
        assert_eq!((desk.take(), desk.counters().crowded), (None, 1));
        desk.turn(200_000);
        desk.message(2, 5);
        assert!(desk.take().is_some(), "the second is young again");
        // Who waits for the first is told that nobody comes.
        desk.endpoint.post_recv(RecvFrom::peer(one), desk.pool.lend().unwrap(), 77).unwrap();
        desk.message(3, 5);
        assert_eq!(desk.counters().aged, 1);
        desk.turn(1);
        let ended = desk.endpoint.poll().unwrap();
        assert_eq!((ended.context, ended.source), (77, None), "{ended:?}");
        assert_ne!(ended.status, Status::Success);
        assert_eq!(desk.send(one), Err(PostError::Misuse(Misuse::StaleAddress)));
        desk.receive();
        let (_, _, three) = desk.take().unwrap();
        // In the row of the first, which cannot be answered by the address handle of that one.
        assert_eq!(three.slot(), one.slot());
        assert_eq!(desk.send(three), Err(PostError::Retry(Retry::NotConnected)));
        assert!(!port.uses(11), "nobody is sent to by it any more");
        desk.send(two).unwrap();
        desk.turn(1);
        let sent = desk.device.sends.borrow().back().copied().unwrap();
        assert_eq!((sent.1.handle, sent.1.qp_num), (12, 2));
    });
}

/// A row stays while a message of its sender waits, however old.
#[test]
fn rows_with_messages_are_kept() {
    with(&config(), |desk| {
        let (one, _two) = (desk.meet(1, 11), desk.meet(2, 12));
        desk.message(1, 5);
        desk.turn(200_000);
        desk.message(2, 5);
        desk.turn(200_000);
        desk.message(3, 5);
        assert_eq!((desk.counters().crowded, desk.counters().aged), (1, 0));
        desk.receive();
        assert_eq!(desk.take(), Some((Status::Success, 5, one)));
    });
}

#[test]
fn sizes_that_do_not_go_together_are_named_by_the_port() {
    let needs = config().pair();
    let refuse = |limits: Limits, depth: u32| {
        let mut block: Box<[MaybeUninit<u8>]> = Box::new_uninit_slice(4 << 20);
        let device = Device::default();
        device.limits.set(Some(limits));
        device.depth.set(Some(depth));
        let bump = Bump::new(&mut block);
        open(&bump, &device, &config()).err()
    };
    let (enough, needed) = (config().completions(), config().completions());
    assert_eq!(refuse(needs, enough), None);
    let pair = Some(PortOpenError::QueuePair);
    assert_eq!(refuse(Limits { send_depth: needs.send_depth - 1, ..needs }, enough), pair);
    assert_eq!(refuse(Limits { recv_depth: needs.recv_depth - 1, ..needs }, enough), pair);
    let message_bytes_max = needs.message_bytes_max - 1;
    let short = refuse(Limits { message_bytes_max, ..needs }, enough);
    assert_eq!(short, Some(PortOpenError::MessageBytesMax));
    let depth = enough - 1;
    assert_eq!(refuse(needs, depth), Some(PortOpenError::CompletionQueue { needed, depth }));
    let mailbox = Mailbox { gid: [1; 16], to: Destination { handle: 0, qp_num: 3, qkey: 1 } };
    with(&RdmaDatagramsConfig { routes_max: 1, ..config() }, |desk| {
        let [a, b] = ["a", "b"].map(|text| Name::new(text).unwrap());
        let port = desk.endpoint.provider();
        port.set_route(&a, mailbox).unwrap();
        assert_eq!(port.set_route(&b, mailbox), Err(Retry::AddressesFull.into()));
        port.forget_route(&a);
        port.set_route(&b, mailbox).unwrap();
    });
}
