//! The end that is asked: each request is done once, in order; those that come again are answered again.

use super::cq::{Completion, Outcome, cqe};
use super::fault::Syndrome;
use super::memory::Access;
use super::queue::{Answer, Receives, Request, State, Taken};
use super::requester::Datagram;
use super::wqe::{Atomic, What, opcode};
use super::{Broken, Fabric};

/// Bytes before a datagram: the global route that it came by.
const ROUTE_BYTES: usize = 40;
/// Answers to atomics that are kept for those who ask again.
const ATOMICS_KEPT: usize = 64;

/// What a message says besides its bytes.
struct Arrived {
    kind: u8,
    imm: [u8; 4],
    solicited: bool,
    from: u32,
}

impl Fabric<'_> {
    /// A message has reached the other end, or not.
    pub(super) fn deliver(&mut self, node: usize, qpn: u32) {
        let pair = self.pair(node, qpn);
        let request = pair.requests.pop_front().expect("it was there");
        let Some((node, qpn)) = pair.peer else { return };
        let lost = self.manner.cut || self.rng.chance(self.manner.loses);
        let there = self.nodes[node].pairs.get(&qpn).map(|pair| pair.state);
        if lost || there != Some(State::Ready) {
            self.totals.lost += 1;
            return;
        }
        let expected = self.pair(node, qpn).expected;
        if request.sequence > expected {
            // One before it was lost: it will come again, with this one after it.
            return;
        }
        let answer = if request.sequence < expected {
            self.again(node, qpn, &request)
        } else {
            let sends = matches!(request.order.what, What::Send);
            let answer = if sends && self.is_broken(Broken::Swallows) {
                Answer::Ack(request.sequence)
            } else {
                self.perform(node, qpn, &request)
            };
            if sends && matches!(answer, Answer::Ack(_)) && self.is_broken(Broken::Repeats) {
                let _twice = self.perform(node, qpn, &request);
            }
            if !matches!(answer, Answer::NotReady(_)) {
                self.pair(node, qpn).expected += 1;
            }
            answer
        };
        let fails = matches!(answer, Answer::Refused(..));
        self.totals.not_ready += u64::from(matches!(answer, Answer::NotReady(_)));
        self.pair(node, qpn).answers.push_back(answer);
        if fails {
            self.put_in_error(node, qpn);
        }
    }

    fn again(&mut self, node: usize, qpn: u32, request: &Request) -> Answer {
        self.totals.lost += 1;
        let sequence = request.sequence;
        match request.order.what {
            What::Read(..) => self.perform(node, qpn, request),
            What::Atomic(..) => {
                let kept = &self.pair(node, qpn).atomics;
                let answer = kept.iter().find(|(number, _)| *number == sequence);
                let (_, bytes) = answer.expect("no more are under way than are kept");
                Answer::Data(sequence, bytes.clone())
            }
            What::Nop
            | What::Send
            | What::Datagram(_)
            | What::Write(..)
            | What::Invalidate(_)
            | What::Change(..) => Answer::Ack(sequence),
        }
    }

    fn perform(&mut self, node: usize, qpn: u32, request: &Request) -> Answer {
        let sequence = request.sequence;
        let domain = self.nodes[node].pairs[&qpn].plan.domain;
        let keys = &self.nodes[node].keys;
        let refused = |syndrome| Answer::Refused(sequence, syndrome);
        match request.order.what {
            What::Read(address, key) => {
                let (need, length) = (Access::REMOTE_READ, request.wanted);
                match keys.find((key, domain), address, length, need) {
                    _ if length == 0 => Answer::Data(sequence, Vec::new()),
                    Some(place) => Answer::Data(sequence, place.read()),
                    None => refused(Syndrome::RemoteAccess),
                }
            }
            What::Atomic(address, key, atomic) => {
                self.change(node, qpn, sequence, (address, key, atomic))
            }
            What::Write(address, key) => {
                let length = request.payload.len();
                let place = keys.find((key, domain), address, length, Access::REMOTE_WRITE);
                if place.is_none() && length > 0 {
                    return refused(Syndrome::RemoteAccess);
                }
                if request.order.opcode == opcode::RDMA_WRITE_IMM {
                    let Some(taken) = self.take(node, qpn) else {
                        return Answer::NotReady(sequence);
                    };
                    let arrived = arrived(request, cqe::RESP_WR_IMM);
                    let length = u32::try_from(length).unwrap();
                    self.received(node, qpn, taken.counter, (&arrived, length, Vec::new()));
                }
                if let Some(place) = place {
                    place.write(&request.payload);
                }
                Answer::Ack(sequence)
            }
            What::Nop | What::Send | What::Datagram(_) | What::Invalidate(_) | What::Change(..) => {
                self.message(node, qpn, request)
            }
        }
    }

    fn change(
        &mut self,
        node: usize,
        qpn: u32,
        sequence: u64,
        (address, key, atomic): (u64, u32, Atomic),
    ) -> Answer {
        let size = atomic.size();
        if !address.is_multiple_of(u64::try_from(size).unwrap()) {
            return Answer::Refused(sequence, Syndrome::RemoteInvalidRequest);
        }
        let domain = self.nodes[node].pairs[&qpn].plan.domain;
        let place = self.nodes[node].keys.find((key, domain), address, size, Access::REMOTE_ATOMIC);
        let Some(place) = place else {
            return Answer::Refused(sequence, Syndrome::RemoteAccess);
        };
        let bytes = place.read();
        let mut old = [0; 8];
        old[..size].copy_from_slice(&bytes);
        let new = atomic.apply(u64::from_le_bytes(old));
        place.write(&new.to_le_bytes()[..size]);
        let pair = self.pair(node, qpn);
        pair.atomics.push_back((sequence, bytes.clone()));
        if pair.atomics.len() > ATOMICS_KEPT {
            pair.atomics.pop_front();
        }
        Answer::Data(sequence, bytes)
    }

    fn message(&mut self, node: usize, qpn: u32, request: &Request) -> Answer {
        let sequence = request.sequence;
        let domain = self.nodes[node].pairs[&qpn].plan.domain;
        let Some(taken) = self.take(node, qpn) else { return Answer::NotReady(sequence) };
        let kind = match request.order.opcode {
            opcode::SEND_IMM => cqe::RESP_SEND_IMM,
            opcode::SEND_INVAL => cqe::RESP_SEND_INV,
            _ => cqe::RESP_SEND,
        };
        if kind == cqe::RESP_SEND_INV {
            let key = u32::from_be_bytes(request.order.imm);
            if !self.nodes[node].keys.invalidate(key, domain) {
                self.receive_failed(node, qpn, taken.counter, Syndrome::LocalOperation);
                return Answer::Refused(sequence, Syndrome::RemoteAccess);
            }
        }
        let arrived = arrived(request, kind);
        let mut payload = request.payload.clone();
        if let Some(last) = payload.last_mut()
            && self.is_broken(Broken::Spoils)
        {
            *last ^= 0x10;
        }
        match self.put(node, qpn, &taken, (&arrived, &payload)) {
            Ok(()) => Answer::Ack(sequence),
            Err(Syndrome::LocalLength) => Answer::Refused(sequence, Syndrome::RemoteInvalidRequest),
            Err(_) => Answer::Refused(sequence, Syndrome::RemoteOperation),
        }
    }

    /// A message into a receive, with a completion.
    fn put(
        &mut self,
        node: usize,
        qpn: u32,
        taken: &Taken,
        (arrived, bytes): (&Arrived, &[u8]),
    ) -> Result<(), Syndrome> {
        let plan = &self.nodes[node].pairs[&qpn].plan;
        let queue = &self.nodes[node].queues[&plan.cqs.1];
        let room: usize = taken.pieces.iter().map(|(_, _, length)| length).sum();
        let fits = !bytes.is_empty() && bytes.len() <= queue.inline_max();
        let into_cqe = plan.scatter_to_cqe && fits && bytes.len() <= room;
        let mut result = if bytes.len() > room { Err(Syndrome::LocalLength) } else { Ok(()) };
        if result.is_ok() && !into_cqe {
            let mut rest = bytes;
            for (address, key, length) in &taken.pieces {
                let (here, after) = rest.split_at((*length).min(rest.len()));
                let need = Access::LOCAL_WRITE;
                let keys = &self.nodes[node].keys;
                match keys.find((*key, plan.domain), *address, here.len(), need) {
                    _ if here.is_empty() => {}
                    Some(place) => place.write(here),
                    None => result = Err(Syndrome::LocalProtection),
                }
                rest = after;
            }
        }
        match result {
            Ok(()) => {
                let inline = if into_cqe { bytes.to_vec() } else { Vec::new() };
                let length = u32::try_from(bytes.len()).unwrap();
                self.received(node, qpn, taken.counter, (arrived, length, inline));
            }
            Err(syndrome) => self.receive_failed(node, qpn, taken.counter, syndrome),
        }
        result
    }

    /// The next receive, of its own or of the shared queue.
    fn take(&mut self, node: usize, qpn: u32) -> Option<Taken> {
        let pair = self.pair(node, qpn);
        let (number, index, taken) = match pair.plan.rq {
            Receives::Ring(..) => (qpn, pair.rq.taken, pair.take_receive()),
            Receives::Shared(number) => {
                let shared = self.nodes[node].shared.get_mut(&number).expect("it was made");
                (number, shared.head, shared.take())
            }
        };
        match taken? {
            Ok(taken) => Some(taken),
            Err(fault) => {
                self.report(node, number, index, fault);
                None
            }
        }
    }

    fn received(
        &mut self,
        node: usize,
        qpn: u32,
        counter: u16,
        (arrived, bytes, inline): (&Arrived, u32, Vec<u8>),
    ) {
        let Arrived { kind, imm, solicited, from } = *arrived;
        let outcome = Outcome::Received { kind, imm, solicited, from, bytes, inline };
        self.recv_completion(node, qpn, counter, outcome);
    }

    fn receive_failed(&mut self, node: usize, qpn: u32, counter: u16, syndrome: Syndrome) {
        let kind = cqe::RESP_ERR;
        self.recv_completion(node, qpn, counter, Outcome::Failed { kind, syndrome });
    }

    fn recv_completion(&mut self, node: usize, qpn: u32, counter: u16, outcome: Outcome) {
        let plan = &self.nodes[node].pairs[&qpn].plan;
        let srqn = if let Receives::Shared(number) = plan.rq { number } else { 0 };
        let number = plan.cqs.1;
        let completion = Completion { qpn, srqn, counter, retires: None, outcome };
        self.nodes[node]
            .queues
            .get_mut(&number)
            .expect("it was made")
            .pending
            .push_back(completion);
    }

    /// One receive of a queue in error is completed as flushed.
    pub(super) fn flush_receive(&mut self, node: usize, qpn: u32) {
        let counter = self.pair(node, qpn).rq.taken;
        if self.pair(node, qpn).take_receive().is_some() {
            self.receive_failed(node, qpn, counter, Syndrome::Flush);
        }
    }

    /// A datagram has reached a node.
    pub(super) fn deliver_datagram(&mut self, at: usize) {
        let Datagram { to: (node, qpn), from, vector, imm, solicited, payload } =
            self.datagrams.remove(at);
        let Some(pair) = self.nodes[node].pairs.get(&qpn) else { return };
        if pair.is_rc() || pair.state == State::Error || pair.plan.qkey != vector.qkey {
            return;
        }
        let Some(taken) = self.take(node, qpn) else { return };
        // The place of the route is there whether there was one or not.
        let mut bytes = vec![0; ROUTE_BYTES];
        let (sender, from) = from;
        if vector.global {
            // Version 6 of IP, and an IB transport within (ibv_grh).
            (bytes[0], bytes[6]) = (6 << 4, 27);
            bytes[8..24].copy_from_slice(&self.nodes[sender].gid);
            bytes[24..].copy_from_slice(&vector.gid);
        }
        bytes.extend(payload);
        let route = u32::from(vector.global) << 28 | u32::from(vector.level) << 24;
        let kind = if imm.is_some() { cqe::RESP_SEND_IMM } else { cqe::RESP_SEND };
        let from = from | route;
        let arrived = Arrived { kind, imm: imm.unwrap_or_default(), solicited, from };
        if self.put(node, qpn, &taken, (&arrived, &bytes)).is_err() {
            self.put_in_error(node, qpn);
        }
    }
}

const fn arrived(request: &Request, kind: u8) -> Arrived {
    let order = &request.order;
    Arrived { kind, imm: order.imm, solicited: order.solicited, from: 0 }
}
