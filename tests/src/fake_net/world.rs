//! A service on the fake network, its application and an oracle: bytes, loans and events, from the first connection until
//! everything is over.
//!
//! ```text
//!   chaos    connections come and go, peers stall and reset, the application writes, sends, pauses, holds, shuts, closes, aborts
//!   settle   peers take and send everything; who was refused waits to be told; whoever has heard the end closes
//!   check    nothing is left anywhere
//! ```

use core::mem::MaybeUninit;
use std::collections::{BTreeMap, VecDeque};

use spinwire_dataplane::error::{PostError, Refused};
use spinwire_dataplane::poll::{Budget, Poll};
use spinwire_dataplane::raw::loan::Loan;
use spinwire_dataplane::stream::{CloseReason, ConnId, StreamEvent, Streams, Undone};
use spinwire_dataplane::time::Instant;
use spinwire_dataplane::uring::{EnterError, Ring};
use spinwire_layouts::uring::SockAddr;

use super::FakeNet;
use super::plan::{Plan, Totals};
use crate::fake_kernel::FakeKernel;
use crate::rng::{Rng, pattern};

const PATIENCE: usize = 30_000;

/// Runs a plan, and panics where anything is not as it should be.
pub(super) fn run(plan: &Plan) -> Totals {
    let mut block = vec![MaybeUninit::uninit(); plan.config.arena_bytes() + (64 << 10)];
    let kernel = FakeKernel::new(plan.kernel);
    let ring = Ring::new(kernel.memory().unwrap(), kernel.arena(&mut block), &kernel);
    let streams = Streams::place(&ring, 0, &plan.config).unwrap();
    let net = FakeNet::new(&kernel, streams.buffers().registration(), plan.manner);
    let mut world = World::new(plan, &kernel, &streams, net);
    world.chaos();
    world.settle();
    world.check();
    let mut totals = world.totals;
    totals.counters = streams.counters();
    totals.cut = ring.counters().cut;
    totals.overflows = ring.counters().overflows;
    totals
}

#[derive(Debug, Default)]
struct Conn {
    dialled: Option<usize>,
    up: bool,
    received: Vec<u8>,
    /// What was handed in, and not taken back, with the number of what may be.
    sent: Vec<(Option<u64>, Vec<u8>)>,
    /// Some of it had a time limit, or was taken back.
    limited: bool,
    /// When something is to come by; and whether it was told that nothing has.
    expects: Option<u64>,
    late: bool,
    todo: VecDeque<Vec<u8>>,
    blocked: bool,
    heard_end: bool,
    paused: bool,
    shut: bool,
    closing: bool,
    aborted: bool,
    over: Option<CloseReason>,
}

impl Conn {
    fn sent(&self) -> Vec<u8> {
        self.sent.iter().flat_map(|(_, bytes)| bytes).copied().collect()
    }

    fn peer(&self) -> Option<usize> {
        let first = self.received.get(..2)?;
        self.dialled.or_else(|| Some(usize::from(u16::from_le_bytes(first.try_into().unwrap()))))
    }

    /// Whether its peer may have ended it by force; where its number has not come, any peer.
    fn may_fail(&self, net: &FakeNet<'_>) -> bool {
        match self.peer().or(self.dialled) {
            Some(peer) => net.has_failed(peer),
            None => (0..net.peers.len()).any(|peer| net.has_failed(peer)),
        }
    }
}

/// A loan that is being sent.
struct Lent {
    to: ConnId,
    bytes: Vec<u8>,
    until: Instant,
    taken_back: bool,
}

struct World<'p, 'k, 's, 'm> {
    plan: &'p Plan,
    kernel: &'k FakeKernel,
    streams: &'s Streams<'m, &'k FakeKernel>,
    net: FakeNet<'k>,
    rng: Rng,
    now: u64,
    listener: ConnId,
    listens_at: i32,
    conns: Vec<(ConnId, Conn)>,
    scripts: Vec<Vec<u8>>,
    /// Bytes of each script that were let go.
    told: Vec<usize>,
    held: Vec<Loan<'m>>,
    lent: BTreeMap<u64, Lent>,
    next_context: u64,
    totals: Totals,
    settling: bool,
    listener_is_over: bool,
}

impl<'p, 'k, 's, 'm> World<'p, 'k, 's, 'm> {
    fn new(
        plan: &'p Plan,
        kernel: &'k FakeKernel,
        streams: &'s Streams<'m, &'k FakeKernel>,
        mut net: FakeNet<'k>,
    ) -> Self {
        let listens_at = net.listener();
        let listener = streams.listen(listens_at).unwrap();
        Self {
            plan,
            kernel,
            streams,
            net,
            rng: Rng::new(plan.seed ^ 0xC0FFEE),
            now: 1 << 40,
            listener,
            listens_at,
            conns: Vec::new(),
            scripts: Vec::new(),
            told: Vec::new(),
            held: Vec::new(),
            lent: BTreeMap::new(),
            next_context: 0,
            totals: Totals::default(),
            settling: false,
            listener_is_over: false,
        }
    }

    fn audit(&self) {
        if let Err((what, slot)) = self.streams.audit() {
            panic!("not so: {what}, slot {slot}: {:#?}", self.streams);
        }
    }

    fn turn(&mut self) {
        self.now += self.rng.below(3_000_000);
        let budget = if self.rng.chance(20) { Budget::MIN } else { Budget::default() };
        let enters = self.kernel.enters();
        let _busy = self.streams.turn(Instant::from_nanos(self.now), budget);
        assert!(self.kernel.enters() <= enters + 1, "more than one system call a turn");
        self.audit();
        let most = if self.rng.chance(20) { 1 } else { 1_000 };
        for _ in 0..most {
            let Some(event) = self.streams.poll() else { break };
            self.audit();
            self.hear(event);
            self.audit();
        }
        if self.rng.chance(10) {
            self.streams.flush();
            self.audit();
        }
    }

    fn chaos(&mut self) {
        for _ in 0..self.plan.turns {
            self.peers_act();
            if self.rng.chance(10) {
                self.kernel.take_at_most(u32::try_from(self.rng.below(4)).unwrap());
            }
            if self.rng.chance(5) {
                let errors = [EnterError::Busy, EnterError::Again, EnterError::Interrupted];
                self.kernel.answer_with(&[errors[self.rng.index(3)]]);
            }
            for _ in 0..self.rng.below(8) {
                self.net.step(&mut self.rng);
            }
            self.turn();
            if !self.conns.is_empty() {
                let at = self.rng.index(self.conns.len());
                self.act(at);
                self.audit();
            }
        }
    }

    fn peers_act(&mut self) {
        if self.scripts.len() < self.plan.peers && self.rng.chance(15) {
            self.new_peer();
        }
        if self.scripts.is_empty() {
            return;
        }
        let at = self.rng.index(self.scripts.len());
        match self.rng.below(100) {
            0..=49 => {
                let most = self.scripts[at].len() - self.told[at];
                let count = self.rng.between(0, most.min(200));
                self.tell(at, count);
            }
            50..=89 => self.net.peers[at].window += self.rng.between(0, 300),
            90..=92 => self.net.peers[at].reset = true,
            93..=94 => self.net.peers[at].silent = false,
            _ => {}
        }
    }

    /// A peer sends so many bytes of its script.
    fn tell(&mut self, at: usize, count: usize) {
        let (from, script) = (self.told[at], &self.scripts[at]);
        self.net.peers[at].outgoing.extend(&script[from..from + count]);
        self.told[at] += count;
        if self.told[at] == script.len() {
            self.net.peers[at].fin = true;
        }
    }

    fn new_peer(&mut self) {
        let peer = self.net.peer();
        let length = self.rng.between(0, 1_500);
        let mut script = u16::try_from(peer).unwrap().to_le_bytes().to_vec();
        script.extend(pattern(self.plan.seed ^ u64::try_from(peer).unwrap(), length));
        self.scripts.push(script);
        self.told.push(0);
        let (streams, dials) = (self.streams, self.rng.chance(30));
        if !dials {
            self.net.arrive(self.listens_at, peer);
            return;
        }
        let adopts = self.rng.chance(50);
        let fd = if adopts { self.net.connected(peer) } else { self.net.connector(peer) };
        let id = if adopts {
            streams.adopt(fd).map(|id| (id, true))
        } else {
            let to = SockAddr::new("127.0.0.1:7000".parse().unwrap());
            self.net.peers[peer].silent = self.rng.chance(30);
            self.net.peers[peer].refusal = self.rng.chance(10).then_some(111);
            streams.connect(fd, &to).map(|id| (id, false))
        };
        if let Ok((id, up)) = id {
            self.conns.push((id, Conn { dialled: Some(peer), up, ..Conn::default() }));
        } else {
            // Its descriptor stays the application's, which does without.
            self.net.close_unused(fd);
        }
    }

    /// The application does something with a connection.
    fn act(&mut self, at: usize) {
        let (id, over) = (self.conns[at].0, self.conns[at].1.over.is_some());
        if over {
            assert!(self.streams.close(id).is_err(), "its id is stale");
            return;
        }
        match self.rng.below(100) {
            0..=39 => {
                let bytes = pattern(self.rng.word(), self.rng.between(0, 400));
                self.conns[at].1.todo.push_back(bytes);
                self.write(at);
            }
            40..=54 => self.send_lent(at),
            55..=62 => {
                self.streams.pause(id).unwrap();
                self.conns[at].1.paused = true;
            }
            63..=74 => self.resume(at),
            75..=84 => drop(self.held.pop()),
            85..=87 => {
                self.streams.shutdown(id).unwrap();
                let conn = &mut self.conns[at].1;
                (conn.shut, conn.blocked) = (true, false);
                conn.todo.clear();
            }
            88..=91 => self.close(at),
            92..=93 => {
                self.streams.abort(id).unwrap();
                let conn = &mut self.conns[at].1;
                (conn.aborted, conn.closing, conn.blocked) = (true, true, false);
                conn.todo.clear();
            }
            94..=95 => self.streams.pause(self.listener).unwrap(),
            96..=97 => self.streams.resume(self.listener).unwrap(),
            98 => self.take_back(at),
            _ if self.rng.chance(self.plan.limits) => self.expect(at),
            _ => {}
        }
    }

    /// Takes back what it has sent last, if it may be.
    fn take_back(&mut self, at: usize) {
        let (id, conn) = &mut self.conns[at];
        let of = |lent: &&mut Lent| lent.to == *id && self.plan.limits > 0;
        let Some((context, lent)) =
            self.lent.iter_mut().rev().find(|(_, lent)| of(lent)).map(|(c, l)| (*c, l))
        else {
            return;
        };
        if self.streams.cancel_send(*id, context).is_ok() {
            lent.taken_back = true;
            conn.limited = true;
        }
    }

    /// Something is to come soon.
    fn expect(&mut self, at: usize) {
        let until = self.now + self.rng.below(30_000_000);
        self.streams.receive_until(self.conns[at].0, Instant::from_nanos(until)).unwrap();
        let conn = &mut self.conns[at].1;
        (conn.expects, conn.late, conn.paused) = (Some(until), false, false);
    }

    fn resume(&mut self, at: usize) {
        self.streams.resume(self.conns[at].0).unwrap();
        let conn = &mut self.conns[at].1;
        (conn.paused, conn.late) = (false, false);
    }

    fn close(&mut self, at: usize) {
        let (id, conn) = &mut self.conns[at];
        self.streams.close(*id).unwrap();
        conn.closing = true;
        conn.blocked = false;
        conn.todo.clear();
    }

    /// Writes what it has to, until it is refused; then it waits to be told.
    fn write(&mut self, at: usize) {
        let (id, conn) = &mut self.conns[at];
        while !conn.blocked
            && let Some(bytes) = conn.todo.pop_front()
        {
            match self.streams.write(*id, &bytes) {
                Ok(()) => conn.sent.push((None, bytes)),
                Err(PostError::Retry(_)) => {
                    conn.blocked = true;
                    conn.todo.push_front(bytes);
                }
                Err(PostError::Misuse(_)) => assert!(bytes.len() > 1, "one byte always fits"),
                Err(PostError::Fatal(_)) => {
                    let gone = conn.closing || conn.shut || conn.may_fail(&self.net);
                    assert!(gone || conn.limited || self.plan.has_timeouts(), "{conn:?}");
                    conn.todo.clear();
                }
            }
        }
        self.audit();
    }

    fn send_lent(&mut self, at: usize) {
        if let Some(mut loan) = self.streams.lend() {
            let most = loan.capacity();
            let bytes = pattern(self.rng.word(), self.rng.between(0, most));
            loan.fill(&bytes).unwrap();
            self.send(at, loan);
        }
    }

    fn send(&mut self, at: usize, loan: Loan<'m>) {
        let (id, conn) = &mut self.conns[at];
        let context = self.next_context;
        let bytes = loan.to_vec();
        if conn.blocked {
            drop(loan);
            conn.todo.push_back(bytes);
            return;
        }
        let until = match self.rng.chance(self.plan.limits) {
            true => Instant::from_nanos(self.now + self.rng.below(30_000_000)),
            false => Instant::NEVER,
        };
        match self.streams.send_until(*id, (loan, context), until) {
            Ok(()) => {
                self.next_context += 1;
                conn.limited |= until != Instant::NEVER;
                conn.sent.push((Some(context), bytes.clone()));
                self.lent.insert(context, Lent { to: *id, bytes, until, taken_back: false });
            }
            Err(Refused { error: PostError::Retry(_), item }) => {
                assert!(*item == *bytes);
                conn.blocked = true;
                conn.todo.push_back(bytes);
            }
            Err(Refused { item, .. }) => assert!(*item == *bytes),
        }
    }

    fn find(&self, id: ConnId) -> usize {
        self.conns.iter().position(|(other, _)| *other == id).expect("a connection of ours")
    }

    fn hear(&mut self, event: StreamEvent<'m>) {
        match event {
            StreamEvent::Accepted { listener, conn } => {
                assert!(listener == self.listener);
                self.conns.push((conn, Conn { up: true, ..Conn::default() }));
            }
            StreamEvent::AcceptFailed { .. } => self.totals.not_accepted += 1,
            StreamEvent::Connected(id) => {
                let at = self.find(id);
                assert!(!self.conns[at].1.up, "connected twice");
                self.conns[at].1.up = true;
            }
            StreamEvent::Received { conn, bytes } => self.received(self.find(conn), bytes),
            StreamEvent::Sent { conn, context, loan } => {
                self.came_back((conn, context), &loan);
                self.totals.sent.0 += 1;
            }
            StreamEvent::NotSent { conn, context, loan, why } => {
                let lent = self.came_back((conn, context), &loan);
                self.totals.sent.1 += 1;
                let at = self.find(conn);
                match why {
                    Undone::Ended => return,
                    Undone::TimedOut => assert!(lent.until.as_nanos() <= self.now, "too early"),
                    Undone::Cancelled => assert!(lent.taken_back, "nobody has taken it back"),
                }
                self.totals.taken_back += 1;
                self.conns[at].1.sent.retain(|(of, _)| *of != Some(context));
            }
            StreamEvent::ReceiveTimedOut(id) => {
                let at = self.find(id);
                let conn = &mut self.conns[at].1;
                assert!(conn.expects.take().is_some_and(|until| until <= self.now), "too early");
                self.totals.late += 1;
                if self.settling {
                    self.resume(at);
                } else {
                    (conn.late, conn.paused) = (true, true);
                }
            }
            StreamEvent::Writable(id) => {
                let at = self.find(id);
                assert!(self.conns[at].1.blocked, "nothing was refused");
                self.conns[at].1.blocked = false;
                self.totals.writable += 1;
                self.write(at);
            }
            StreamEvent::PeerClosed(id) => {
                let at = self.find(id);
                let conn = &mut self.conns[at].1;
                assert!(!conn.heard_end, "it ends twice");
                conn.heard_end = true;
                let peer = conn.peer().expect("it has sent its number before");
                assert!(conn.received == self.scripts[peer], "not all has come before the end");
            }
            StreamEvent::Closed { conn, reason } => self.closed(conn, reason),
            StreamEvent::RangeBack { .. } => panic!("nothing was posted"),
        }
    }

    fn came_back(&mut self, (conn, context): (ConnId, u64), loan: &Loan<'m>) -> Lent {
        let lent = self.lent.remove(&context).expect("a loan that came back before");
        assert!(lent.to == conn && **loan == *lent.bytes, "another loan");
        let (_, conn) = &self.conns[self.find(conn)];
        assert!(conn.over.is_none(), "after its connection was closed");
        lent
    }

    fn received(&mut self, at: usize, loan: Loan<'m>) {
        let conn = &mut self.conns[at].1;
        assert!(conn.up && conn.over.is_none() && !conn.heard_end);
        assert!(!conn.late, "after it was told that nothing has come");
        conn.expects = None;
        conn.received.extend(&*loan);
        if let Some(peer) = conn.peer() {
            let script = &self.scripts[peer];
            let mut received = conn.received.clone();
            if let Some(byte) = self.plan.canary.and_then(|at| received.get_mut(at)) {
                *byte ^= 1;
            }
            assert!(script.starts_with(&received), "bytes are lost, doubled or out of order");
        }
        match self.rng.below(4) {
            0 if !self.settling => self.held.push(loan),
            1 => self.send(at, loan),
            2 => {
                conn.todo.push_back(loan.to_vec());
                drop(loan);
                self.write(at);
            }
            _ => drop(loan),
        }
    }

    fn closed(&mut self, id: ConnId, reason: CloseReason) {
        if id == self.listener {
            assert!(self.settling && reason == CloseReason::Closed);
            self.listener_is_over = true;
            return;
        }
        let at = self.find(id);
        let conn = &mut self.conns[at].1;
        assert!(conn.over.is_none(), "closed twice");
        conn.over = Some(reason);
        let owed = self.lent.values().filter(|lent| lent.to == id).count();
        assert!(owed == 0, "{owed} loans of a closed connection have not come back");
        let failed = conn.may_fail(&self.net);
        match reason {
            CloseReason::Closed => {
                assert!(conn.closing, "nobody closed it");
                let peer = conn.peer().or(conn.dialled);
                if let Some(peer) = peer.filter(|_| conn.up) {
                    let all = self.net.peers[peer].incoming == conn.sent();
                    assert!(all || failed, "closed, but not all of it has arrived");
                    let cut = self.net.peers[peer].cut;
                    assert!(
                        !cut || failed || !self.plan.hears_all_out(),
                        "closed with bytes unread"
                    );
                    let unheard = conn.received.len() < self.told[peer];
                    self.totals.heard_out += u64::from(unheard && !cut);
                }
                self.totals.closed += 1;
            }
            CloseReason::Aborted => assert!(conn.aborted, "nobody aborted it"),
            CloseReason::Errno(errno) => {
                assert!(failed, "it failed with {errno} by itself");
                assert!(errno != 125, "nobody else cancels anything");
            }
            CloseReason::ConnectTimeout | CloseReason::IdleTimeout | CloseReason::SendTimeout => {
                assert!(self.plan.has_timeouts());
            }
            CloseReason::Torn => assert!(conn.limited, "nothing was taken back"),
            CloseReason::Garbled => panic!("this kernel says nothing that cannot be"),
            CloseReason::RingLost => panic!("the ring is there"),
        }
        self.totals.failed += u64::from(reason != CloseReason::Closed);
    }

    fn settle(&mut self) {
        self.settling = true;
        self.held.clear();
        self.streams.resume(self.listener).unwrap();
        for at in 0..self.conns.len() {
            if self.conns[at].1.over.is_none() {
                self.resume(at);
            }
        }
        for at in 0..self.scripts.len() {
            self.tell(at, self.scripts[at].len() - self.told[at]);
            self.net.peers[at].window = 1 << 40;
            self.net.peers[at].silent = false;
        }
        for turn in 0.. {
            for _ in 0..4 {
                self.net.step(&mut self.rng);
            }
            self.turn();
            for at in 0..self.conns.len() {
                let conn = &self.conns[at].1;
                let done = conn.heard_end && conn.todo.is_empty() && !conn.blocked;
                let alone = conn.shut && conn.up && conn.heard_end;
                if conn.over.is_none() && !conn.closing && (done || alone) {
                    self.close(at);
                }
            }
            let open = self.conns.iter().filter(|(_, conn)| conn.over.is_none()).count();
            if open == 0 && self.net.is_quiet(self.listens_at) {
                break;
            }
            assert!(turn < PATIENCE, "{open} do not end: {:#?} {:#?}", self.conns, self.net);
        }
        self.streams.close(self.listener).unwrap();
        for turn in 0.. {
            self.net.step(&mut self.rng);
            self.turn();
            if self.listener_is_over && self.net.load() == (1, 0, 0) {
                break;
            }
            assert!(turn < PATIENCE, "the listener does not end: {:#?}", self.streams);
        }
    }

    fn check(&mut self) {
        self.turn();
        assert!(self.streams.is_empty() && self.lent.is_empty());
        let (_, entries) = self.streams.buffers().registration();
        assert_eq!(self.streams.buffers().given(), entries, "not all buffers are back");
        let mut copies = Vec::new();
        while let Some(loan) = self.streams.lend() {
            copies.push(loan);
        }
        assert_eq!(copies.len(), usize::try_from(self.plan.config.send_buffers.0).unwrap());
        drop(copies);
        let mut seen = std::collections::BTreeSet::new();
        for (_, conn) in &self.conns {
            let Some(peer) = conn.peer() else { continue };
            assert!(seen.insert(peer), "one peer has two connections");
            let incoming = &self.net.peers[peer].incoming;
            assert!(conn.sent().starts_with(incoming), "what has arrived is not what was sent");
        }
    }
}
