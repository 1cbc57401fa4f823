//! The end that asks: requests are begun in order, sent again when nobody answers, and completed in order.

use super::cq::{Completion, Outcome, cqe};
use super::fault::{Fault, Syndrome};
use super::memory::Access;
use super::queue::{Answer, Flight, Pair, Posted, Progress, Request, State};
use super::wqe::{Fence, Order, Piece, Transport, Vector, What, opcode};
use super::{Broken, Fabric, Flush};

fn length_of(pieces: &[Piece]) -> usize {
    let length = |piece: &Piece| match piece {
        Piece::Inline(bytes) => bytes.len(),
        Piece::Memory { length, .. } => *length,
    };
    pieces.iter().map(length).sum()
}

/// Whether data comes back.
const fn is_read(what: &What) -> bool {
    matches!(what, What::Read(..) | What::Atomic(..))
}

/// A datagram on its way.
#[derive(Debug)]
pub(super) struct Datagram {
    pub(super) to: (usize, u32),
    pub(super) from: (usize, u32),
    pub(super) vector: Vector,
    pub(super) imm: Option<[u8; 4]>,
    pub(super) solicited: bool,
    pub(super) payload: Vec<u8>,
}

impl<'m> Fabric<'m> {
    pub(super) fn may_launch(&self, pair: &Pair<'_>) -> bool {
        let sq = &pair.sq;
        let Some(next) = sq.posted.front() else { return false };
        let failed = sq.flights.iter().any(|f| matches!(f.progress, Progress::Failed(_)));
        if failed || sq.flights.len() >= self.manner.window || sq.rest_until > self.now {
            return false;
        }
        let Ok(order) = &next.order else { return true };
        let waits = |flight: &Flight| {
            let under_way = matches!(flight.progress, Progress::Sent(_));
            under_way && flight.posted.order.as_ref().is_ok_and(|order| is_read(&order.what))
        };
        order.fence != Fence::Full || !sq.flights.iter().any(waits)
    }

    pub(super) fn pair(&mut self, node: usize, qpn: u32) -> &mut Pair<'m> {
        self.nodes[node].pairs.get_mut(&qpn).expect("it is there")
    }

    pub(super) fn launch(&mut self, node: usize, qpn: u32) {
        let posted = self.pair(node, qpn).sq.posted.pop_front().expect("it was there");
        let (progress, payload) = match &posted.order {
            Err(_) => (Progress::Failed(Syndrome::LocalOperation), Vec::new()),
            Ok(order) => self.begin(node, qpn, order),
        };
        let now = self.now;
        let pair = self.pair(node, qpn);
        let sequence = pair.sq.next_sequence;
        if matches!(progress, Progress::Sent(_)) {
            pair.sq.next_sequence += 1;
        }
        let flight = Flight { posted, sequence, payload, progress };
        if let Progress::Sent(since) = flight.progress {
            assert_eq!(since, now);
            pair.requests.extend(request_of(&flight));
        }
        pair.sq.flights.push_back(flight);
        self.complete(node, qpn);
    }

    fn begin(&mut self, node: usize, qpn: u32, order: &Order) -> (Progress, Vec<u8>) {
        let done = Progress::Done(0, Vec::new());
        let failed = |syndrome| (Progress::Failed(syndrome), Vec::new());
        let domain = self.nodes[node].pairs[&qpn].plan.domain;
        let need = if is_read(&order.what) { Access::LOCAL_WRITE } else { Access::LOCAL_READ };
        let Some(payload) = self.gather(node, domain, &order.pieces, need) else {
            return failed(Syndrome::LocalProtection);
        };
        let keys = &mut self.nodes[node].keys;
        match &order.what {
            What::Nop => (done, Vec::new()),
            What::Invalidate(key) if keys.invalidate(*key, domain) => (done, Vec::new()),
            What::Change(key, change) if keys.change(*key, domain, change) => (done, Vec::new()),
            What::Invalidate(_) => failed(Syndrome::LocalOperation),
            What::Change(..) => failed(Syndrome::Bind),
            What::Datagram(_) if payload.len() > self.manner.datagram_bytes_max => {
                failed(Syndrome::LocalLength)
            }
            What::Datagram(vector) => {
                let roce = self.nodes[node].pairs[&qpn].plan.rules.transport == Transport::UdRoce;
                let found = |at: &usize| {
                    let other = &self.nodes[*at];
                    if roce { other.mac == vector.mac } else { other.lid == vector.lid }
                };
                let to = (0..self.nodes.len()).find(found);
                let imm = (order.opcode == opcode::SEND_IMM).then_some(order.imm);
                if let Some(to) = to
                    && !self.rng.chance(self.manner.loses_datagrams)
                {
                    let (to, solicited) = ((to, vector.qpn), order.solicited);
                    let vector = *vector;
                    let from = (node, qpn);
                    let datagram = Datagram { to, from, vector, imm, solicited, payload };
                    self.datagrams.push(datagram);
                }
                (done, Vec::new())
            }
            What::Send | What::Write(..) => (Progress::Sent(self.now), payload),
            What::Read(..) | What::Atomic(..) => (Progress::Sent(self.now), Vec::new()),
        }
    }

    /// The bytes of a request; of one that reads, only whether they could be written.
    fn gather(&self, node: usize, domain: u32, pieces: &[Piece], need: Access) -> Option<Vec<u8>> {
        let mut bytes = Vec::new();
        for piece in pieces {
            match piece {
                Piece::Inline(inline) => bytes.extend_from_slice(inline),
                Piece::Memory { address, lkey, length } => {
                    let place =
                        self.nodes[node].keys.find((*lkey, domain), *address, *length, need)?;
                    if need == Access::LOCAL_READ {
                        bytes.extend(place.read());
                    }
                }
            }
        }
        Some(bytes)
    }

    /// An answer has come back to the queue pair that asked: the next of its peer's.
    pub(super) fn answered(&mut self, node: usize, qpn: u32) {
        let pair = self.pair(node, qpn);
        let answer = pair.answers.pop_front().expect("it was there");
        let Some((node, qpn)) = pair.peer else { return };
        let lost = self.manner.cut || self.rng.chance(self.manner.loses_answers);
        let there = self.nodes[node].pairs.get(&qpn);
        if lost || there.is_none_or(|pair| pair.state == State::Error) {
            self.totals.lost += 1;
            return;
        }
        let (number, refused) = match &answer {
            Answer::Ack(number) | Answer::Data(number, _) => (*number, false),
            Answer::NotReady(number) | Answer::Refused(number, _) => (*number, true),
        };
        let pair = self.pair(node, qpn);
        pair.sq.tries = 0;
        // What comes after has been had too, but for answers with data.
        for flight in &mut pair.sq.flights {
            let before = flight.sequence < number || flight.sequence == number && !refused;
            if let (true, Progress::Sent(_), Ok(order)) =
                (before, &flight.progress, &flight.posted.order)
                && !is_read(&order.what)
            {
                flight.progress = Progress::Done(0, Vec::new());
                pair.sq.rnr_tries = 0;
            }
        }
        let is_it = |flight: &Flight| {
            flight.sequence == number && matches!(flight.progress, Progress::Sent(_))
        };
        match answer {
            Answer::Ack(_) => {}
            Answer::Data(_, bytes) => {
                if let Some(at) = pair.sq.flights.iter().position(is_it) {
                    self.scatter(node, qpn, at, bytes);
                }
            }
            Answer::NotReady(_) => {
                if pair.sq.flights.iter().any(is_it) {
                    self.not_ready(node, qpn, number);
                }
            }
            Answer::Refused(_, syndrome) => {
                if let Some(flight) = pair.sq.flights.iter_mut().find(|flight| is_it(flight)) {
                    flight.progress = Progress::Failed(syndrome);
                }
            }
        }
        self.complete(node, qpn);
    }

    /// Puts what came back where it belongs.
    fn scatter(&mut self, node: usize, qpn: u32, at: usize, bytes: Vec<u8>) {
        let pair = &self.nodes[node].pairs[&qpn];
        let order = pair.sq.flights[at].posted.order.clone().expect("it was sent");
        let queue = &self.nodes[node].queues[&pair.plan.cqs.0];
        let length = u32::try_from(bytes.len()).unwrap();
        let fits = !bytes.is_empty() && bytes.len() <= queue.inline_max();
        let progress = if pair.plan.scatter_to_cqe && order.signaled && fits {
            Progress::Done(length, bytes)
        } else {
            let mut rest = bytes.as_slice();
            let mut allowed = true;
            for piece in &order.pieces {
                let Piece::Memory { address, lkey, length } = *piece else { continue };
                let (domain, need) = (pair.plan.domain, Access::LOCAL_WRITE);
                let (here, after) = rest.split_at(length.min(rest.len()));
                match self.nodes[node].keys.find((lkey, domain), address, here.len(), need) {
                    Some(place) => place.write(here),
                    None => allowed = false,
                }
                rest = after;
            }
            match (allowed, rest.is_empty()) {
                (false, _) => Progress::Failed(Syndrome::LocalProtection),
                (true, false) => Progress::Failed(Syndrome::LocalLength),
                (true, true) => Progress::Done(length, Vec::new()),
            }
        };
        self.pair(node, qpn).sq.flights[at].progress = progress;
    }

    fn not_ready(&mut self, node: usize, qpn: u32, number: u64) {
        let again = self.now + self.manner.rnr_wait;
        let pair = self.pair(node, qpn);
        let most = pair.plan.rnr_retries;
        pair.sq.rnr_tries = pair.sq.rnr_tries.saturating_add(1);
        if most != 7 && pair.sq.rnr_tries > most {
            let flight = pair.sq.flights.iter_mut().find(|flight| flight.sequence == number);
            flight.expect("it was found").progress = Progress::Failed(Syndrome::RnrRetry);
            return;
        }
        // Nothing goes out before the time is over; then all of it, from that one.
        pair.sq.rest_until = again;
        pair.requests.clear();
        for flight in &mut pair.sq.flights {
            if let Progress::Sent(since) = &mut flight.progress {
                *since = 0;
            }
        }
    }

    /// When the oldest message that is not answered is sent again.
    fn due(&self, pair: &Pair<'_>) -> Option<u64> {
        let oldest = pair.sq.flights.iter().find_map(|flight| match flight.progress {
            Progress::Sent(since) => Some(since),
            Progress::Done(..) | Progress::Failed(_) => None,
        })?;
        let since = if oldest == 0 { 0 } else { oldest + self.manner.timeout };
        Some(since.max(pair.sq.rest_until))
    }

    pub(super) fn has_expired(&self, pair: &Pair<'_>) -> bool {
        self.due(pair).is_some_and(|due| due <= self.now)
    }

    pub(super) fn next_timer(&self) -> Option<u64> {
        let pairs = self.nodes.iter().flat_map(|node| node.pairs.values());
        let ready = pairs.filter(|pair| pair.state == State::Ready);
        let due = |pair: &Pair<'_>| {
            let waits = !pair.sq.posted.is_empty() && pair.sq.rest_until > self.now;
            self.due(pair).or_else(|| waits.then_some(pair.sq.rest_until))
        };
        ready.filter_map(due).min()
    }

    /// Nobody has answered, or the wait for a receive is over: everything is sent again.
    pub(super) fn expire(&mut self, node: usize, qpn: u32) {
        let now = self.now;
        let mut changed = Vec::new();
        let pair = &self.nodes[node].pairs[&qpn];
        let waited = pair.sq.flights.iter().any(|f| matches!(f.progress, Progress::Sent(0)));
        for flight in &pair.sq.flights {
            if let (Progress::Sent(_), Ok(order)) = (&flight.progress, &flight.posted.order)
                && !is_read(&order.what)
            {
                let domain = pair.plan.domain;
                let bytes = self.gather(node, domain, &order.pieces, Access::LOCAL_READ);
                if bytes.as_ref() != Some(&flight.payload) {
                    changed.push(flight.posted.index);
                }
            }
        }
        for index in changed {
            self.report(node, qpn, index, Fault::PayloadChanged);
        }
        let pair = self.pair(node, qpn);
        pair.sq.tries = if waited { pair.sq.tries } else { pair.sq.tries.saturating_add(1) };
        let fails = pair.sq.tries > pair.plan.retries;
        pair.requests.clear();
        for flight in &mut pair.sq.flights {
            if let Progress::Sent(since) = &mut flight.progress {
                if fails {
                    flight.progress = Progress::Failed(Syndrome::TransportRetry);
                    break;
                }
                *since = now;
                pair.requests.extend(request_of(flight));
            }
        }
        self.complete(node, qpn);
    }

    /// Completes what is done, in order.
    fn complete(&mut self, node: usize, qpn: u32) {
        loop {
            let pair = self.pair(node, qpn);
            let over = |flight: &Flight| !matches!(flight.progress, Progress::Sent(_));
            if !pair.sq.flights.front().is_some_and(over) {
                return;
            }
            let flight = pair.sq.flights.pop_front().expect("it was there");
            let Posted { index, blocks, bytes, .. } = &flight.posted;
            let nop = flight.posted.order.as_ref().is_ok_and(|order| order.what == What::Nop);
            let now = pair.read_send(*index, if nop { 16 } else { bytes.len() });
            if now != bytes[..now.len()] {
                self.report(node, qpn, *index, Fault::ChangedAfterDoorbell);
            }
            match flight.progress {
                Progress::Failed(syndrome) => {
                    self.send_failed(node, qpn, (*index, *blocks), syndrome);
                    return self.put_in_error(node, qpn);
                }
                Progress::Done(bytes, ref inline) => {
                    let order = flight.posted.order.as_ref().expect("a bad one has failed");
                    if order.signaled && !self.is_broken(Broken::Forgets) {
                        let inline = inline.clone();
                        let outcome = Outcome::Sent { opcode: order.opcode, bytes, inline };
                        self.send_completion(node, qpn, (*index, *blocks), outcome);
                    }
                }
                Progress::Sent(_) => {}
            }
        }
    }

    fn send_completion(
        &mut self,
        node: usize,
        qpn: u32,
        (index, blocks): (u16, u16),
        outcome: Outcome,
    ) {
        let number = self.nodes[node].pairs[&qpn].plan.cqs.0;
        let retires = Some(index.wrapping_add(blocks));
        let completion = Completion { qpn, srqn: 0, counter: index, retires, outcome };
        self.nodes[node]
            .queues
            .get_mut(&number)
            .expect("it was made")
            .pending
            .push_back(completion);
    }

    fn send_failed(&mut self, node: usize, qpn: u32, at: (u16, u16), syndrome: Syndrome) {
        let kind = cqe::REQ_ERR;
        self.send_completion(node, qpn, at, Outcome::Failed { kind, syndrome });
    }

    pub(super) fn put_in_error(&mut self, node: usize, qpn: u32) {
        let some_get_through = self.rng.chance(50);
        let pair = self.pair(node, qpn);
        pair.state = State::Error;
        if !some_get_through {
            pair.requests.clear();
        }
    }

    /// One request of a queue in error is completed as flushed.
    pub(super) fn flush_send(&mut self, node: usize, qpn: u32) {
        let every = self.manner.flush == Flush::Every;
        let pair = self.pair(node, qpn);
        let begun = pair.sq.flights.pop_front().map(|flight| flight.posted);
        let posted = begun.or_else(|| pair.sq.posted.pop_front()).expect("it was there");
        if every || posted.order.as_ref().is_ok_and(|order| order.signaled) {
            self.send_failed(node, qpn, (posted.index, posted.blocks), Syndrome::Flush);
        }
    }
}

fn request_of(flight: &Flight) -> Option<Request> {
    let order = flight.posted.order.as_ref().ok()?.clone();
    let wanted = length_of(&order.pieces);
    let (sequence, payload) = (flight.sequence, flight.payload.clone());
    Some(Request { sequence, order, payload, wanted })
}
