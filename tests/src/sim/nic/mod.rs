//! A device, and the network between two of them: reads queues from memory as a ConnectX does, moves the data, writes completions.
//!
//! ```text
//!   driver   ring, record, register  --listen-->  posted --launch--> flights --requests--> the other end: receives, keys
//!            completion ring         <--write---  pending <--------- answers <-------------
//! ```
//!
//! It knows the layouts by the offsets of the manual and of mlx5dv.h, not by the house's own: it is what those are held against. What a
//! device validates it validates, and completes with an error; what a device would silently do wrong is a [`Violation`]. What to do next,
//! what is lost and what is late is decided by a seed; queue pairs overtake each other, requests of one do not. Time is the number of steps.
//!
//! Assumed, as no document at hand says so: operands and results of atomics of 4 and 8 bytes are host-endian in memory; a datagram that is
//! longer than its receive ends that queue; of a queue in error every request is flushed with a completion (or only those that asked for
//! one, see [`Flush`]); data goes to a completion where it fits, whatever the length of the receive.

pub mod bytes;
mod cq;
mod fault;
pub mod memory;
mod node;
mod queue;
mod requester;
mod responder;
pub mod wqe;

use spinwire_dataplane::raw::line::{LINE_BYTES, Line};
use spinwire_dataplane::sync::Ordering;

pub use self::cq::{Counters, CqPlan, Short, cqe};
pub use self::fault::{Fault, Syndrome, Violation};
pub use self::node::Node;
use self::queue::{Pair, Posted, Shared};
pub use self::queue::{QpPlan, Receives, SrqPlan, State};
use crate::rng::Rng;
use bytes::{be16, be32, read_record, read_ring};
use cq::{Completion, Queue};
use requester::Datagram;
use wqe::{blocks_of, ds_of, parse};

/// Which requests of a queue in error have a completion.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Flush {
    /// Every one, whether it asked for one or not, fill included.
    Every,
    /// Those that asked for one.
    Signaled,
}

/// How the devices and the network behave: in so many of 100 cases.
#[derive(Clone, Copy, Debug)]
pub struct Manner {
    /// A message between two queue pairs that are connected is lost, and sent again.
    pub loses: u64,
    /// So is an answer.
    pub loses_answers: u64,
    /// A datagram is lost for good.
    pub loses_datagrams: u64,
    /// Datagrams overtake no others.
    pub keeps_order: bool,
    /// Most bytes of a datagram.
    pub datagram_bytes_max: usize,
    /// A completion is written in pieces.
    pub tears: u64,
    /// Steps until a message that was not answered is sent again.
    pub timeout: u64,
    /// Steps until a message that found no receive is sent again.
    pub rnr_wait: u64,
    /// Most messages of a queue pair under way.
    pub window: usize,
    /// See there.
    pub flush: Flush,
    /// What has completed is written over, so that whoever publishes it again is found out.
    pub poisons: bool,
    /// The other end does not hear anything.
    pub cut: bool,
    /// In so many of 100 cases the device is broken in this way, which an oracle has to find out.
    pub broken: Option<(Broken, u64)>,
}

/// What a device may do wrong.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Broken {
    /// A byte of a message is another one.
    Spoils,
    /// A message is delivered twice.
    Repeats,
    /// A message is acknowledged, and not delivered.
    Swallows,
    /// A completion of a request is not written.
    Forgets,
}

impl Default for Manner {
    fn default() -> Self {
        Self {
            loses: 0,
            loses_answers: 0,
            loses_datagrams: 0,
            keeps_order: false,
            datagram_bytes_max: 4096,
            tears: 20,
            timeout: 500,
            rnr_wait: 40,
            window: 16,
            flush: Flush::Every,
            poisons: true,
            cut: false,
            broken: None,
        }
    }
}

/// What has happened, in numbers.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Totals {
    /// Requests that were read, fill and bad ones included.
    pub read: u64,
    /// Messages that were lost or came twice.
    pub lost: u64,
    /// Completions written.
    pub completions: u64,
    /// Of those, in short form.
    pub compressed: u64,
    /// Of those, errors.
    pub errors: u64,
    /// Times that there was no receive.
    pub not_ready: u64,
    /// Doorbells that carried the request itself.
    pub blue_flame: u64,
    /// Times that a request began again at the begin of the ring.
    pub wrapped: u64,
}

/// All devices, and what is between them.
#[derive(Debug)]
pub struct Fabric<'m> {
    /// The devices.
    pub nodes: Vec<Node<'m>>,
    /// How they behave.
    pub manner: Manner,
    /// What the drivers have done wrong.
    pub violations: Vec<Violation>,
    /// What has happened.
    pub totals: Totals,
    datagrams: Vec<Datagram>,
    now: u64,
    rng: Rng,
}

/// Something that can be done next.
#[derive(Clone, Copy, Debug)]
enum Action {
    Launch(usize, u32),
    Deliver(usize, u32),
    Return(usize, u32),
    Expire(usize, u32),
    FlushSend(usize, u32),
    FlushReceive(usize, u32),
    Write(usize, u32),
    Datagram(usize),
}

impl<'m> Fabric<'m> {
    /// Devices without anything.
    #[must_use]
    pub fn new(seed: u64, nodes: u16, manner: Manner) -> Self {
        Self {
            nodes: (0..nodes).map(Node::new).collect(),
            manner,
            violations: Vec::new(),
            totals: Totals::default(),
            datagrams: Vec::new(),
            now: 1,
            rng: Rng::new(seed),
        }
    }

    /// Adds a device. Its number.
    pub fn node(&mut self) -> usize {
        let number = self.nodes.len();
        self.nodes.push(Node::new(u16::try_from(number).unwrap()));
        number
    }

    /// Makes a completion queue.
    pub fn cq(&mut self, node: usize, plan: CqPlan<'m>) {
        self.nodes[node].queues.insert(plan.number, Queue::new(plan));
    }

    /// Makes a shared receive queue.
    pub fn srq(&mut self, node: usize, plan: SrqPlan<'m>) {
        self.nodes[node].shared.insert(plan.number, Shared::new(plan));
    }

    /// Makes a queue pair, which is ready at once.
    pub fn qp(&mut self, node: usize, plan: QpPlan<'m>) {
        self.nodes[node].pairs.insert(plan.rules.qpn, Pair::new(plan));
    }

    /// Connects two queue pairs.
    pub fn connect(&mut self, one: (usize, u32), other: (usize, u32)) {
        for (at, peer) in [(one, other), (other, one)] {
            self.nodes[at.0].pairs.get_mut(&at.1).expect("it was made").peer = Some(peer);
        }
    }

    /// Whether a queue pair works.
    #[must_use]
    pub fn state(&self, node: usize, qpn: u32) -> State {
        self.nodes[node].pairs[&qpn].state
    }

    /// A queue pair is put into error, as `ibv_modify_qp` does.
    pub fn fail(&mut self, node: usize, qpn: u32) {
        self.put_in_error(node, qpn);
    }

    /// Takes a queue pair away, with what is under way of it. Its completions are written before, as they are before the library says that it
    /// is gone.
    pub fn destroy(&mut self, node: usize, qpn: u32) {
        self.nodes[node].pairs.remove(&qpn);
        let numbers: Vec<u32> = self.nodes[node].queues.keys().copied().collect();
        for number in numbers {
            while !self.nodes[node].queues[&number].pending.is_empty() {
                self.write(node, number);
            }
        }
    }

    /// Listens, and does one thing. Whether there was one.
    pub fn step(&mut self) -> bool {
        self.listen();
        self.act()
    }

    /// Does one thing, if there is one.
    fn act(&mut self) -> bool {
        let mut actions = Vec::new();
        for node in 0..self.nodes.len() {
            self.find_actions(node, &mut actions);
        }
        let next = if self.manner.keeps_order { 1 } else { usize::MAX };
        actions.extend((0..self.datagrams.len().min(next)).map(Action::Datagram));
        self.now += 1;
        if actions.is_empty() {
            return false;
        }
        let action = actions[self.rng.index(actions.len())];
        match action {
            Action::Launch(node, qpn) => self.launch(node, qpn),
            Action::Deliver(node, qpn) => self.deliver(node, qpn),
            Action::Return(node, qpn) => self.answered(node, qpn),
            Action::Expire(node, qpn) => self.expire(node, qpn),
            Action::FlushSend(node, qpn) => self.flush_send(node, qpn),
            Action::FlushReceive(node, qpn) => self.flush_receive(node, qpn),
            Action::Write(node, number) => self.write(node, number),
            Action::Datagram(at) => self.deliver_datagram(at),
        }
        true
    }

    /// Steps until there is nothing to do but to wait for drivers; waits for what is late. So many steps at most.
    pub fn settle(&mut self, most: usize) {
        // The drivers do nothing meanwhile.
        self.listen();
        for _ in 0..most {
            if !self.act() {
                match self.next_timer() {
                    Some(then) => self.now = then.max(self.now),
                    None => return,
                }
            }
        }
    }

    /// Whether the device is broken just now, and in that way.
    fn is_broken(&mut self, broken: Broken) -> bool {
        self.manner.broken.is_some_and(|(what, percent)| what == broken && self.rng.chance(percent))
    }

    fn report(&mut self, node: usize, queue: u32, index: u16, fault: Fault) {
        let violation = Violation { node, queue, index, fault };
        if self.violations.len() < 64 && self.violations.last() != Some(&violation) {
            self.violations.push(violation);
        }
    }

    fn find_actions(&self, node: usize, actions: &mut Vec<Action>) {
        for (&qpn, pair) in &self.nodes[node].pairs {
            if pair.is_idle() {
                continue;
            }
            if pair.state == State::Error {
                if !pair.sq.flights.is_empty() || !pair.sq.posted.is_empty() {
                    actions.push(Action::FlushSend(node, qpn));
                }
                if pair.receives() > 0 {
                    actions.push(Action::FlushReceive(node, qpn));
                }
            } else {
                if self.may_launch(pair) {
                    actions.push(Action::Launch(node, qpn));
                }
                if self.has_expired(pair) {
                    actions.push(Action::Expire(node, qpn));
                }
            }
            if !pair.requests.is_empty() {
                actions.push(Action::Deliver(node, qpn));
            }
            if !pair.answers.is_empty() {
                actions.push(Action::Return(node, qpn));
            }
        }
        for (&number, queue) in &self.nodes[node].queues {
            if !queue.pending.is_empty() {
                actions.push(Action::Write(node, number));
            }
        }
    }

    fn write(&mut self, node: usize, number: u32) {
        let Self { nodes, rng, manner, totals, .. } = self;
        let queue = nodes[node].queues.get_mut(&number).expect("it is there");
        if rng.chance(manner.tears) {
            queue.scribble(rng);
            if rng.chance(80) {
                return;
            }
        }
        if manner.poisons {
            // Whoever sees this completion may use the blocks again, and not before. (Where data is in it, they say where it goes.)
            let first = queue.pending.front().filter(|next| !next.has_data());
            if let Some((qpn, Some(end))) = first.map(|next| (next.qpn, next.retires))
                && let Some(pair) = nodes[node].pairs.get_mut(&qpn)
                && pair.state == State::Ready
            {
                pair.poison_to(end);
            }
        }
        let queue = nodes[node].queues.get_mut(&number).expect("it is there");
        let written = match queue.write_next(rng) {
            Ok(written) => written,
            Err(fault) => {
                let lost = queue.pending.pop_front();
                let index = lost.map_or(0, |completion| completion.counter);
                return self.report(node, number, index, fault);
            }
        };
        // A place of an enhanced queue may hold a single short one, which is not counted.
        totals.compressed += u64::try_from(written.len().saturating_sub(1)).unwrap();
        for completion in written {
            totals.completions += 1;
            totals.errors += u64::from(matches!(completion.outcome, cq::Outcome::Failed { .. }));
            nodes[node].is_written(&completion, manner.poisons);
        }
    }

    /// Looks at all records and registers.
    pub fn listen(&mut self) {
        for node in 0..self.nodes.len() {
            let mut faults = Vec::new();
            let at = &mut self.nodes[node];
            for (&number, queue) in &mut at.queues {
                if let Err(fault) = queue.listen() {
                    faults.push((number, 0, fault));
                }
            }
            for (&number, shared) in &mut at.shared {
                let seen = shared.seen;
                if let Err(fault) = shared.listen() {
                    faults.push((number, seen, fault));
                }
            }
            for (&qpn, pair) in &mut at.pairs {
                let mut heard = Heard::default();
                pair.listen(&mut heard);
                faults.extend(heard.faults.into_iter().map(|(index, fault)| (qpn, index, fault)));
                self.totals.read += heard.read;
                self.totals.blue_flame += heard.blue_flame;
                self.totals.wrapped += heard.wrapped;
            }
            for (queue, index, fault) in faults {
                self.report(node, queue, index, fault);
            }
        }
    }
}

impl Node<'_> {
    /// What a completion that was written says is over.
    fn is_written(&mut self, completion: &Completion, poisons: bool) {
        if let Some(pair) = self.pairs.get_mut(&completion.qpn) {
            match completion.retires {
                Some(end) => pair.sq.retired = end,
                None if completion.srqn == 0 => {
                    pair.rq.done = completion.counter.wrapping_add(1);
                    if poisons {
                        pair.poison_receive(completion.counter);
                    }
                }
                None => {}
            }
        }
        if let Some(shared) = self.shared.get_mut(&completion.srqn) {
            shared.busy[usize::from(completion.counter)] = false;
            if poisons {
                shared.poison(completion.counter);
            }
        }
    }
}

/// What was heard of a queue pair.
#[derive(Debug, Default)]
struct Heard {
    faults: Vec<(u16, Fault)>,
    read: u64,
    blue_flame: u64,
    wrapped: u64,
}

impl Shared<'_> {
    fn listen(&mut self) -> Result<(), Fault> {
        let record = read_record(&self.plan.record[0]);
        let Ok(record) = u16::try_from(record) else { return Err(Fault::RecordTooWide) };
        let moved = record.wrapping_sub(self.seen);
        if moved >= 1 << 15 {
            return Err(Fault::RecordBackwards);
        }
        self.seen = record;
        let busy = self.busy.iter().filter(|busy| **busy).count();
        let posted = usize::from(self.seen.wrapping_sub(self.taken));
        if posted + busy > self.busy.len() { Err(Fault::RecvOverrun) } else { Ok(()) }
    }
}

impl Pair<'_> {
    /// Takes in what was published since.
    fn listen(&mut self, heard: &mut Heard) {
        let [receives, sends] = self.plan.record;
        self.listen_receives(read_record(receives), heard);
        let record = read_record(sends);
        let seen = self.sq.seen;
        let rings = self.take_register();
        let Ok(record) = u16::try_from(record) else {
            return heard.faults.push((seen, Fault::RecordTooWide));
        };
        let moved = record.wrapping_sub(seen);
        if rings.is_empty() {
            if moved != 0 && self.sq.silent != Some(record) {
                self.sq.silent = Some(record);
                heard.faults.push((seen, Fault::RecordWithoutDoorbell));
            }
            return;
        }
        self.sq.silent = None;
        if moved >= 1 << 15 {
            return heard.faults.push((seen, Fault::RecordBackwards));
        }
        self.check_register(&rings, record, heard);
        if record.wrapping_sub(self.sq.retired) > self.blocks() && self.state == State::Ready {
            heard.faults.push((seen, Fault::Overrun));
        }
        self.read_posted(record, heard);
    }

    fn listen_receives(&mut self, record: u32, heard: &mut Heard) {
        let Receives::Ring(ring, stride) = self.plan.rq else { return };
        let Ok(record) = u16::try_from(record) else {
            return heard.faults.push((self.rq.seen, Fault::RecordTooWide));
        };
        let moved = record.wrapping_sub(self.rq.seen);
        if moved >= 1 << 15 {
            return heard.faults.push((self.rq.seen, Fault::RecordBackwards));
        }
        let entries = ring.len() * LINE_BYTES / stride;
        if usize::from(record.wrapping_sub(self.rq.done)) > entries && moved > 0 {
            heard.faults.push((self.rq.seen, Fault::RecvOverrun));
        }
        self.rq.seen = record;
    }

    /// The halves of the register that were written, which are empty afterwards.
    fn take_register(&self) -> Vec<(usize, Vec<u8>)> {
        let half = self.plan.register.len().div_ceil(2);
        let mut rings = Vec::new();
        for (number, lines) in self.plan.register.chunks_exact(half).enumerate() {
            let written =
                |line: &Line| line.words().iter().any(|word| word.load(Ordering::Relaxed) != 0);
            if lines.iter().any(written) {
                let bytes = read_ring(lines, 0, half * LINE_BYTES);
                bytes::write_lines(lines, 0, &vec![0; bytes.len()]);
                rings.push((number, bytes));
            }
        }
        rings
    }

    /// Doorbells name the last request before the record, and say what is in the ring.
    fn check_register(&mut self, rings: &[(usize, Vec<u8>)], record: u16, heard: &mut Heard) {
        let seen = self.sq.seen;
        if let [(half, _)] = rings {
            if self.sq.half == Some(*half) && self.plan.register.len() > 1 {
                heard.faults.push((seen, Fault::SameHalfTwice));
            }
            self.sq.half = Some(*half);
        } else {
            // Who rang last is not known.
            self.sq.half = None;
        }
        let mut ends_at_record = false;
        for (_, bytes) in rings {
            let (index, ds) = (be16(bytes, 1), ds_of(bytes));
            if be32(bytes, 4) >> 8 != self.plan.rules.qpn {
                heard.faults.push((index, Fault::UnknownQueue));
            }
            let length = usize::from(ds).max(1) * 16;
            let in_ring = self.read_send(index, length);
            ends_at_record |= index.wrapping_add(blocks_of(ds)) == record;
            let whole = bytes[8..].iter().any(|byte| *byte != 0);
            let told = if whole { length.min(bytes.len()) } else { 8 };
            if bytes[..told] != in_ring[..told] {
                heard.faults.push((index, Fault::RegisterDiffers));
            }
            if whole {
                heard.blue_flame += 1;
                if index != seen && rings.len() == 1 {
                    heard.faults.push((index, Fault::RegisterOfBatch));
                }
            }
        }
        if !ends_at_record || record == seen {
            heard.faults.push((seen, Fault::RecordMismatch));
        }
    }

    fn read_posted(&mut self, record: u16, heard: &mut Heard) {
        while self.sq.seen != record {
            let index = self.sq.seen;
            let left = record.wrapping_sub(index);
            let ctrl = self.read_send(index, 16);
            let ds = ds_of(&ctrl);
            let blocks = blocks_of(ds);
            let found = be16(&ctrl, 1);
            let lap = self.blocks() - 1;
            let head = if bytes::is_poison(u64::from_le_bytes(ctrl[..8].try_into().unwrap())) {
                Err(Fault::StaleBlock)
            } else if found != index {
                let stale = found & lap == index & lap;
                Err(if stale { Fault::StaleBlock } else { Fault::WrongIndex })
            } else if blocks == 0 || blocks > left {
                Err(Fault::BadSize)
            } else {
                Ok(())
            };
            heard.read += 1;
            if let Err(fault) = head {
                // It does not know where the next one would begin.
                heard.faults.push((index, fault));
                let posted = Posted { index, blocks: left, bytes: ctrl, order: Err(fault) };
                self.sq.posted.push_back(posted);
                self.sq.seen = record;
                return;
            }
            heard.wrapped += u64::from((index & lap) + blocks > lap + 1);
            let bytes = self.read_send(index, usize::from(ds) * 16);
            let order = parse(&bytes, index, &self.plan.rules);
            if let Err(fault) = order {
                heard.faults.push((index, fault));
            }
            self.sq.posted.push_back(Posted { index, blocks, bytes, order });
            self.sq.seen = index.wrapping_add(blocks);
        }
    }

    /// Writes over all blocks that are done.
    fn poison_to(&self, end: u16) {
        let mut index = self.sq.retired;
        while index != end {
            let at = usize::from(index & (self.blocks() - 1)) * LINE_BYTES;
            let word = bytes::poison(index).to_le_bytes();
            for number in 0..LINE_BYTES / 8 {
                bytes::write_lines(self.plan.sq, at + number * 8, &word);
            }
            index = index.wrapping_add(1);
        }
    }
}

/// The send ring of a queue pair with as many lines as asked for, all zero.
#[must_use]
pub fn lines(count: usize) -> Vec<Line> {
    (0..count).map(|_| Line::zeroed()).collect()
}
