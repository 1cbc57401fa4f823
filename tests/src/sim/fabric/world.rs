//! Devices, links and memory.

use std::collections::VecDeque;

use spinwire_dataplane::error::{Fatal, PostError, Retry};
use spinwire_dataplane::provider::Published;
use spinwire_dataplane::verbs::{
    Destination, RecvRequest, RemotePlace, SendRequest, Verb, WcFields, WcStatus,
};

use super::fault::{Death, Faults};
use super::memory::Memory;
use super::queue::Queue;
use crate::rng::Rng;

/// How links and devices behave.
#[derive(Clone, Copy, Debug)]
pub struct Links {
    /// Nanoseconds from one end to the other.
    pub latency_ns: u64,
    /// Up to so many more, drawn for each message.
    pub jitter_ns: u64,
    /// Nanoseconds from a device to memory, at most, of either host; drawn for each write.
    pub dma_ns: [u64; 2],
    /// Nanoseconds that a message occupies a link beside its bytes.
    pub message_ns: u64,
}

impl Links {
    /// Of a quiet network: 1 us, no jitter.
    pub const QUIET: Self =
        Self { latency_ns: 1000, jitter_ns: 0, dma_ns: [100; 2], message_ns: 20 };
    /// Of a network in which everything overtakes everything that it may.
    pub const WILD: Self =
        Self { latency_ns: 1000, jitter_ns: 40_000, dma_ns: [2000, 60_000], message_ns: 20 };
}

/// A send as it was posted.
#[derive(Clone, Debug)]
pub(super) struct Work {
    wr_id: u64,
    pub(super) verb: Verb,
    pub(super) segments: Vec<(u64, u32, u32)>,
    pub(super) remote: Option<RemotePlace>,
    pub(super) destination: Option<Destination>,
}

impl Work {
    pub(super) fn of(send: &SendRequest<'_, u32>) -> Self {
        let segments = send.segments.iter().map(|s| (s.address, s.length, s.key)).collect();
        let (remote, destination) = (send.remote, send.destination);
        Self { wr_id: send.wr_id.as_raw(), verb: send.verb, segments, remote, destination }
    }

    pub(super) const fn wr_id(&self) -> u64 {
        self.wr_id
    }

    pub(super) fn bytes(&self) -> u64 {
        self.segments.iter().map(|segment| u64::from(segment.1)).sum()
    }
}

#[derive(Clone, Debug)]
pub(super) struct Receive {
    wr_id: u64,
    pub(super) segments: Vec<(u64, u32, u32)>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Condition {
    Good,
    Error,
    Silent,
}

#[derive(Debug)]
pub(super) struct Qp {
    pub(super) host: usize,
    pub(super) device: usize,
    pub(super) number: u32,
    condition: Condition,
    staged: Vec<Work>,
    /// Published, not completed; whether it is acknowledged.
    sent: VecDeque<(Work, bool)>,
    /// How many of `sent` have been executed at the other end, and how many have arrived there.
    executed: usize,
    arrived: usize,
    is_waiting: bool,
    last_arrival: u64,
    staged_recvs: Vec<Receive>,
    pub(super) rq: VecDeque<Receive>,
    /// Which life of the connection this is; events of earlier ones mean nothing.
    life: u64,
    is_destroyed: bool,
    is_muted: bool,
    held: Vec<WcFields>,
}

#[derive(Debug)]
pub(super) enum Event {
    /// The oldest message under way on a queue pair has arrived at the other end.
    Arrive { qp: usize, life: u64 },
    /// The other end looks again whether there is a receive.
    Again { qp: usize, life: u64 },
    /// An acknowledgement has come back.
    Acked { qp: usize, life: u64 },
    /// A datagram has arrived where it was sent to, from that queue pair.
    Datagram { from: usize, to: Destination, bytes: Vec<u8> },
    /// A device writes to memory.
    Dma { host: usize, device: usize, at: u64, bytes: Vec<u8> },
    /// A completion is seen.
    Complete { qp: usize, fields: WcFields },
    /// The error is noticed.
    Fail { qp: usize, life: u64, status: WcStatus, flushes: bool },
}

#[derive(Debug)]
pub(super) struct State {
    pub(super) now: u64,
    pub(super) rng: Rng,
    pub(super) links: Links,
    pub(super) faults: Faults,
    pub(super) memory: Vec<Memory>,
    pub(super) cqs: Vec<Vec<VecDeque<WcFields>>>,
    /// When a link is free again, and when the last write of a device will have reached memory: by host and device.
    pub(super) link_free: Vec<Vec<u64>>,
    pub(super) dma_last: Vec<Vec<u64>>,
    pub(super) qps: Vec<Qp>,
    pub(super) events: Queue<Event>,
    pub(super) violation: Option<String>,
    /// Keys are not looked at.
    pub(super) is_lax: bool,
    /// What completion queues really hold.
    pub(super) cq_limit: u32,
    /// Hosts whose completion queues are broken, and whether that was told.
    pub(super) broken: Vec<(usize, bool)>,
    pub(super) deaths: u64,
}

pub(super) const fn key(host: usize, device: usize) -> u32 {
    // Small numbers, of two hosts and few devices.
    let [host, device] = [host.to_le_bytes()[0], device.to_le_bytes()[0]];
    u32::from_le_bytes([device, host, 0xE7, 0x5A])
}

impl State {
    pub(super) fn new(devices: usize, memory: usize, links: Links, seed: u64) -> Self {
        let cqs = || (0..devices).map(|_| VecDeque::new()).collect();
        let times = || vec![vec![0; devices], vec![0; devices]];
        Self {
            now: 0,
            rng: Rng::new(seed),
            links,
            faults: Faults::default(),
            memory: vec![Memory::Own(vec![0; memory]), Memory::Own(vec![0; memory])],
            cqs: vec![cqs(), cqs()],
            link_free: times(),
            dma_last: times(),
            qps: Vec::new(),
            events: Queue::new(),
            violation: None,
            is_lax: false,
            cq_limit: u32::MAX,
            broken: Vec::new(),
            deaths: 0,
        }
    }

    pub(super) fn violate(&mut self, what: impl FnOnce() -> String) {
        if self.violation.is_none() {
            self.violation = Some(what());
        }
    }

    /// Another host, with one device, whose memory is that of this process.
    pub(super) fn add_host(&mut self) -> usize {
        self.memory.push(Memory::Machine(Vec::new()));
        self.cqs.push(vec![VecDeque::new()]);
        self.link_free.push(vec![0]);
        self.dma_last.push(vec![0]);
        self.memory.len() - 1
    }

    pub(super) fn connect(&mut self, ends: [(usize, usize); 2]) -> usize {
        let first = self.qps.len();
        for (host, device) in ends {
            // The numbers of two devices are the same: only both together name a queue pair.
            let is_there = |qp: &&Qp| (qp.host, qp.device) == (host, device);
            let on_device: Vec<_> = self.qps.iter().filter(is_there).collect();
            let is_used =
                |number| on_device.iter().any(|qp| qp.number == number && !qp.is_destroyed);
            let mut free = on_device.iter().map(|qp| qp.number).filter(|number| !is_used(*number));
            let next = u32::try_from(0x100 + on_device.len()).expect("few");
            let number = free.next().filter(|_| self.faults.reuses).unwrap_or(next);
            self.qps.push(Qp {
                host,
                device,
                number,
                condition: Condition::Good,
                staged: Vec::new(),
                sent: VecDeque::new(),
                executed: 0,
                arrived: 0,
                is_waiting: false,
                last_arrival: 0,
                staged_recvs: Vec::new(),
                rq: VecDeque::new(),
                life: 0,
                is_destroyed: false,
                is_muted: false,
                held: Vec::new(),
            });
        }
        first
    }

    pub(super) const fn fault(&mut self, of_10_000: u64) -> bool {
        of_10_000 > 0 && self.rng.below(10_000) < of_10_000
    }

    pub(super) fn post_send(&mut self, qp: usize, work: Work, depth: u32) -> Result<(), PostError> {
        if self.fault(self.faults.refusals) {
            return Err(PostError::Retry(Retry::Injected));
        }
        let host = self.qps[qp].host;
        let device = self.qps[qp].device;
        if let Memory::Machine(_) = &self.memory[host] {
            self.check_local(host, &work.segments);
        } else if !self.is_lax && work.segments.iter().any(|segment| segment.2 != key(host, device))
        {
            self.violate(|| format!("a local key of another device on {device}"));
        }
        let queue = &mut self.qps[qp];
        if queue.staged.len() + queue.sent.len() >= usize::try_from(depth).expect("a depth") {
            self.violate(|| "a send queue would overflow".to_owned());
            return Err(PostError::Retry(Retry::SqFull));
        }
        queue.staged.push(work);
        Ok(())
    }

    pub(super) fn post_recv(
        &mut self,
        qp: usize,
        recv: &RecvRequest<'_, u32>,
        depth: u32,
    ) -> Result<(), PostError> {
        let segments: Vec<_> = recv.segments.iter().map(|s| (s.address, s.length, s.key)).collect();
        self.check_local(self.qps[qp].host, &segments);
        let queue = &mut self.qps[qp];
        if queue.staged_recvs.len() + queue.rq.len() >= usize::try_from(depth).expect("a depth") {
            self.violate(|| "a receive queue would overflow".to_owned());
            return Err(PostError::Retry(Retry::RqFull));
        }
        queue.staged_recvs.push(Receive { wr_id: recv.wr_id.as_raw(), segments });
        Ok(())
    }

    pub(super) fn ring(&mut self, qp: usize) -> Published {
        let staged = core::mem::take(&mut self.qps[qp].staged);
        let whole = staged.len();
        let is_partial = self.fault(self.faults.partial_doorbells);
        let is_short = self.fault(self.faults.short_doorbells);
        let part = if is_partial || is_short { self.rng.index(whole + 1) } else { whole };
        for work in staged.into_iter().take(part) {
            self.depart(qp, work);
        }
        let error = if is_partial {
            self.kill(qp, Death::Flushes);
            Some(Fatal::Injected)
        } else {
            None
        };
        Published { count: u64::try_from(part).expect("a count"), error }
    }

    pub(super) fn ring_recv(&mut self, qp: usize) -> Published {
        let staged = core::mem::take(&mut self.qps[qp].staged_recvs);
        let count = u64::try_from(staged.len()).expect("a count");
        self.qps[qp].rq.extend(staged);
        if self.qps[qp].condition == Condition::Error {
            let flushed = self.qps[qp].rq.drain(..).collect::<Vec<_>>();
            for receive in flushed {
                self.complete(qp, receive.wr_id, WcStatus::FLUSHED, 10);
            }
        }
        Published { count, error: None }
    }

    /// A message goes out.
    fn depart(&mut self, qp: usize, work: Work) {
        if self.fault(self.faults.deaths) {
            let deaths = [Death::Flushes, Death::NeverFlushes, Death::AnswerLost];
            let death = deaths[self.rng.index(deaths.len())];
            self.kill(qp, death);
        }
        if let Some(to) = work.destination {
            return self.post(qp, &work, to);
        }
        let (host, device, life) = (self.qps[qp].host, self.qps[qp].device, self.qps[qp].life);
        let bytes = if work.verb == Verb::Read { 16 } else { work.bytes() };
        let wr_id = work.wr_id;
        self.qps[qp].sent.push_back((work, false));
        match self.qps[qp].condition {
            Condition::Good => {}
            Condition::Silent => return,
            Condition::Error => {
                self.qps[qp].sent.pop_back();
                self.complete(qp, wr_id, WcStatus::FLUSHED, 10);
                return;
            }
        }
        let free = self.occupy(host, device, bytes);
        let jitter = self.rng.below(self.links.jitter_ns + 1);
        let arrival = (free + self.links.latency_ns + jitter).max(self.qps[qp].last_arrival);
        self.qps[qp].last_arrival = arrival;
        self.events.push(arrival, Event::Arrive { qp, life });
    }

    /// Puts bytes on a link; when the last of them has left. 100 Gb/s are 12.5 bytes in a nanosecond.
    pub(super) fn occupy(&mut self, host: usize, device: usize, bytes: u64) -> u64 {
        let free = &mut self.link_free[host][device];
        *free = (*free).max(self.now) + bytes * 2 / 25 + self.links.message_ns;
        *free
    }

    pub(super) fn kill(&mut self, qp: usize, death: Death) {
        let life = self.qps[qp].life;
        if self.qps[qp].condition != Condition::Good {
            return;
        }
        self.deaths += 1;
        if death == Death::AnswerLost
            && let Some((work, _)) = self.qps[qp].sent.get(self.qps[qp].executed).cloned()
        {
            let _done = self.execute(qp, &work);
        }
        let both = [qp, qp ^ 1];
        for end in both {
            self.qps[end].condition = Condition::Silent;
        }
        if death == Death::Silent {
            return;
        }
        let flushes = death != Death::NeverFlushes;
        let later = self.now + 5_000 + self.rng.below(5_000);
        let status = WcStatus::RETRY_EXCEEDED;
        self.events.push(later, Event::Fail { qp, life, status, flushes });
        let other = WcStatus::FLUSHED;
        self.events.push(later, Event::Fail { qp: qp ^ 1, life, status: other, flushes });
    }

    /// The newest queue pair of that number on a host with one device.
    pub(super) fn numbered(&self, host: usize, number: u32) -> Option<usize> {
        self.qps.iter().rposition(|qp| qp.host == host && qp.number == number)
    }

    pub(super) fn destroy(&mut self, qp: usize) {
        let here = (self.qps[qp].host, self.qps[qp].device);
        // What its device was about to write is written; nothing more will be.
        self.settle(here, u64::MAX);
        let queue = &mut self.qps[qp];
        queue.is_destroyed = true;
        queue.condition = Condition::Silent;
        queue.staged.clear();
        queue.sent.clear();
        queue.rq.clear();
        queue.staged_recvs.clear();
        (queue.executed, queue.arrived) = (0, 0);
    }

    pub(super) fn is_dead(&self, qp: usize) -> bool {
        self.qps[qp].condition != Condition::Good || self.qps[qp ^ 1].is_destroyed
    }

    pub(super) fn reset(&mut self, qp: usize) {
        for end in [qp & !1, qp | 1] {
            let queue = &mut self.qps[end];
            queue.condition = Condition::Good;
            queue.life += 1;
            queue.staged.clear();
            queue.sent.clear();
            queue.rq.clear();
            queue.staged_recvs.clear();
            (queue.executed, queue.arrived) = (0, 0);
            queue.is_waiting = false;
            queue.last_arrival = self.now;
        }
        // Both ends live the same life.
        let life = self.qps[qp & !1].life.max(self.qps[qp | 1].life);
        self.qps[qp & !1].life = life;
        self.qps[qp | 1].life = life;
    }

    pub(super) fn mute(&mut self, qp: usize, is_muted: bool) {
        self.qps[qp].is_muted = is_muted;
        if !is_muted {
            let held = core::mem::take(&mut self.qps[qp].held);
            let (host, device) = (self.qps[qp].host, self.qps[qp].device);
            self.cqs[host][device].extend(held);
        }
    }

    pub(super) fn check_depth(&mut self, host: usize, device: usize, depth: u32) {
        let length = self.cqs[host][device].len();
        if length > usize::try_from(depth).expect("a depth") {
            self.violate(|| format!("a completion queue of {depth} overflows: {length}"));
        }
    }

    pub(super) fn advance(&mut self, most_ns: u64) -> bool {
        let end = self.now + most_ns;
        let Some(at) = self.events.next_at().filter(|at| *at <= end) else {
            self.now = end;
            return false;
        };
        self.now = self.now.max(at);
        while self.events.next_at().is_some_and(|next| next <= self.now) {
            if let Some(event) = self.events.pop() {
                self.happen(event);
            }
        }
        true
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::Arrive { qp, life } if self.is_alive(qp, life) => {
                self.qps[qp].arrived += 1;
                self.deliver(qp);
            }
            Event::Again { qp, life } if self.is_alive(qp, life) => {
                self.qps[qp].is_waiting = false;
                self.deliver(qp);
            }
            Event::Acked { qp, life } if self.is_alive(qp, life) => self.acked(qp),
            Event::Arrive { .. } | Event::Again { .. } | Event::Acked { .. } => {}
            Event::Dma { host, at, bytes, .. } => {
                self.memory[host].store(at, &bytes);
            }
            Event::Datagram { from, to, bytes } => self.drop_in(from, to, &bytes),
            Event::Complete { qp, fields } => self.see(qp, fields),
            Event::Fail { qp, life, status, flushes } => {
                if self.qps[qp].life == life {
                    self.fail(qp, status, flushes);
                }
            }
        }
    }

    fn is_alive(&self, qp: usize, life: u64) -> bool {
        self.qps[qp].life == life && self.qps[qp].condition == Condition::Good
    }

    /// Executes at the other end what has arrived there, as far as there are receives.
    fn deliver(&mut self, qp: usize) {
        while !self.qps[qp].is_waiting && self.qps[qp].executed < self.qps[qp].arrived {
            let Some((work, _)) = self.qps[qp].sent.get(self.qps[qp].executed).cloned() else {
                return;
            };
            let life = self.qps[qp].life;
            let is_nobody_there = self.qps[qp ^ 1].is_destroyed;
            let executed = if is_nobody_there {
                Err(Some(WcStatus::RETRY_EXCEEDED))
            } else {
                self.execute(qp, &work)
            };
            match executed {
                Ok(after) => {
                    self.qps[qp].executed += 1;
                    self.events.push(after + self.links.latency_ns, Event::Acked { qp, life });
                }
                Err(None) => {
                    self.qps[qp].is_waiting = true;
                    self.events.push(self.now + 10_000, Event::Again { qp, life });
                }
                Err(Some(status)) => {
                    let at = self.now + self.links.latency_ns;
                    for (qp, status) in [(qp, status), (qp ^ 1, WcStatus::FLUSHED)] {
                        self.qps[qp].condition = Condition::Silent;
                        self.events.push(at, Event::Fail { qp, life, status, flushes: true });
                    }
                    return;
                }
            }
        }
    }

    /// A receive of the end `qp` is used up.
    pub(super) fn received(
        &mut self,
        qp: usize,
        length: u64,
        (immediate, is_written): (Option<u32>, bool),
    ) {
        if let Some((when, fields)) = self.use_up(qp, length) {
            let fields = WcFields { immediate, is_written, ..fields };
            self.events.push(when, Event::Complete { qp, fields });
        }
    }

    pub(super) fn use_up(&mut self, qp: usize, length: u64) -> Option<(u64, WcFields)> {
        let receive = self.qps[qp].rq.pop_front()?;
        let (host, device) = (self.qps[qp].host, self.qps[qp].device);
        let when = self.dma_time(host, device);
        let mut fields = self.fields(qp, receive.wr_id, WcStatus::SUCCESS);
        fields.byte_len = u32::try_from(length).expect("a message");
        Some((when, fields))
    }

    /// The answer to the oldest message that was not acknowledged has come.
    fn acked(&mut self, qp: usize) {
        if let Some(entry) = self.qps[qp].sent.iter_mut().find(|entry| !entry.1) {
            entry.1 = true;
        }
        while self.qps[qp].sent.front().is_some_and(|entry| entry.1) {
            let Some((work, _)) = self.qps[qp].sent.pop_front() else { break };
            self.qps[qp].executed = self.qps[qp].executed.saturating_sub(1);
            self.qps[qp].arrived = self.qps[qp].arrived.saturating_sub(1);
            let (host, device) = (self.qps[qp].host, self.qps[qp].device);
            let when = self.dma_time(host, device);
            let fields = self.fields(qp, work.wr_id, WcStatus::SUCCESS);
            self.events.push(when, Event::Complete { qp, fields });
        }
    }

    fn fail(&mut self, qp: usize, status: WcStatus, flushes: bool) {
        self.qps[qp].condition = Condition::Error;
        let sent = core::mem::take(&mut self.qps[qp].sent);
        let mut status = status;
        for (work, _) in sent {
            self.complete(qp, work.wr_id, status, 0);
            status = WcStatus::FLUSHED;
            if !flushes {
                break;
            }
        }
        let receives = core::mem::take(&mut self.qps[qp].rq);
        for receive in receives.into_iter().filter(|_| flushes) {
            self.complete(qp, receive.wr_id, WcStatus::FLUSHED, 0);
        }
    }

    fn complete(&mut self, qp: usize, wr_id: u64, status: WcStatus, after: u64) {
        let fields = self.fields(qp, wr_id, status);
        let when = self.dma_time(self.qps[qp].host, self.qps[qp].device).max(self.now + after);
        self.dma_last[self.qps[qp].host][self.qps[qp].device] = when;
        self.events.push(when, Event::Complete { qp, fields });
    }

    /// A completion, with garbage in whatever is not defined.
    pub(super) fn fields(&mut self, qp: usize, wr_id: u64, status: WcStatus) -> WcFields {
        let garbage = self.rng.word().to_le_bytes();
        let [a, b, c, d, e, f, g, h] = garbage;
        WcFields {
            wr_id,
            qp_num: self.qps[qp].number,
            status,
            vendor: u32::from(a),
            byte_len: u32::from_le_bytes([a, b, c, d]),
            immediate: Some(u32::from_le_bytes([e, f, g, h])),
            is_written: d & 1 != 0,
            source_qp: u32::from_le_bytes([h, a, c, e]),
        }
    }

    fn see(&mut self, qp: usize, fields: WcFields) {
        let (host, device) = (self.qps[qp].host, self.qps[qp].device);
        if self.qps[qp].is_muted {
            self.qps[qp].held.push(fields);
            return;
        }
        self.cqs[host][device].push_back(fields);
        self.check_depth(host, device, self.cq_limit);
        if self.fault(self.faults.repeats) {
            let later = self.now + self.rng.below(50_000);
            self.events.push(later, Event::Complete { qp, fields });
        }
    }
}
