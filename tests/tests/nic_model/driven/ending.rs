//! What a node makes of what has ended: it is held against the oracle, and against memory.

use spinwire_dataplane::cq::Arrival;
use spinwire_dataplane::tracker::{Earlier, Posted};
use spinwire_tests::sim::nic::bytes::read_ring;
use spinwire_tests::sim::nic::{Fabric, State};

use super::ends::Ended;
use super::node::{Node, Pair, SLOT, qpn};
use super::oracle::{Effect, Message, Request};

impl<'m> Node<'m> {
    pub(super) fn handle(&mut self, pair: usize, ended: Ended) {
        let slot = |entry: u64| usize::try_from(entry).unwrap();
        match ended {
            Ended::Sent { entry, unsignaled, bytes, inline } => {
                let over = self.pairs[pair].oracle.complete(entry, unsignaled);
                self.check(pair, &over, (bytes, inline));
            }
            Ended::Received { entry, arrival, bytes, inline } => {
                self.arrived(pair, slot(entry), (arrival, bytes), inline);
            }
            Ended::SendFailed { wqe, earlier, is_flush } => {
                self.send_failed(pair, wqe, (earlier, is_flush));
            }
            Ended::ReceiveFailed { entry } => self.give_back(pair, slot(entry)),
        }
    }

    fn give_back(&mut self, pair: usize, slot: usize) {
        let free =
            if self.plan.shared { &mut self.srq_free } else { &mut self.pairs[pair].receives_free };
        assert!(!free.contains(&slot), "a receive came back twice");
        free.push(slot);
    }

    /// A message is here: the next one of that queue pair, all of it, and where it belongs.
    fn arrived(
        &mut self,
        pair: usize,
        slot: usize,
        (arrival, bytes): (Arrival, u32),
        inline: Option<Vec<u8>>,
    ) {
        let number = self.pairs[pair].oracle.delivered;
        let message = Message::new(self.plan.seed, qpn(self.other(), pair), number);
        self.pairs[pair].oracle.delivered += 1;
        assert_eq!(usize::try_from(bytes).unwrap(), message.length, "message {number}");
        let expected = match message.kind {
            0 => Arrival::Send,
            1 => Arrival::SendImm(message.imm),
            _ => Arrival::WriteImm(message.imm),
        };
        assert_eq!(arrival, expected);
        let map = self.map;
        let at = if self.plan.shared { map.receive(0, slot) } else { map.receive(pair, slot) };
        if message.kind != 2 {
            let here = read_ring(self.data(), at, SLOT);
            let found = inline.as_deref().unwrap_or(&here[..message.length]);
            assert_eq!(found, message.bytes(), "message {number} of pair {pair}");
            let rest = if inline.is_some() { 0 } else { message.length };
            assert!(here[rest..].iter().all(|byte| *byte == 0xEE), "and nothing behind it");
        }
        self.give_back(pair, slot);
    }

    /// What is over has had its effect.
    fn check(&mut self, pair: usize, over: &[Request], (back, inline): (u32, Option<Vec<u8>>)) {
        let last = over.last().map(|request| request.id);
        if let Some(Effect::Read(_, bytes)) = over.last().map(|request| &request.effect) {
            assert_eq!(usize::try_from(back).unwrap(), bytes.len());
        }
        for request in over {
            match &request.effect {
                Effect::Written(at, bytes) => {
                    let there = &self.memory[self.other()].data;
                    let at = usize::try_from(*at).unwrap();
                    assert_eq!(read_ring(there, at, bytes.len()), *bytes);
                }
                Effect::Read(at, bytes) => {
                    let at = usize::try_from(*at).unwrap();
                    let inline = inline.as_ref().filter(|_| last == Some(request.id));
                    let found =
                        inline.cloned().unwrap_or_else(|| read_ring(self.data(), at, bytes.len()));
                    assert_eq!(found, *bytes);
                }
                Effect::Message => {}
            }
        }
        self.release(pair, over);
    }

    fn release(&mut self, pair: usize, over: &[Request]) {
        self.pairs[pair].free.extend(over.iter().filter_map(|request| request.slot));
    }

    fn send_failed(&mut self, pair: usize, wqe: Posted<u64>, (earlier, is_flush): (Earlier, bool)) {
        let at = &mut self.pairs[pair];
        let (count, are_done) = match earlier {
            Earlier::Done(count) => (count, true),
            Earlier::Flushed(count) => (count, false),
        };
        let over = at.oracle.earlier(count, are_done);
        let id = match wqe {
            Posted::Signaled(entry) => Some(entry),
            Posted::Unsignaled => None,
            Posted::Fill => {
                // The first error of a queue that the other end broke may name it.
                at.oracle.broken = true;
                return self.release(pair, &over);
            }
        };
        let request = at.oracle.fail(id, is_flush);
        self.release(pair, &over);
        self.release(pair, &[request]);
    }

    /// Whether there is nothing more to be done here.
    pub(crate) fn is_done(&self) -> bool {
        let over = |pair: &Pair<'_>| {
            let oracle = &pair.oracle;
            let all = oracle.messages_posted == self.plan.messages && oracle.under_way.is_empty();
            all || oracle.broken
        };
        self.pairs.iter().all(over)
    }

    /// Everything is quiet: what is left ends here.
    pub(crate) fn finish(&mut self, fabric: &Fabric<'m>) {
        for pair in 0..self.pairs.len() {
            let broken = fabric.state(self.number, qpn(self.number, pair)) == State::Error;
            let at = &mut self.pairs[pair];
            if broken {
                while let Some(flushed) = at.ends.qp.sq().flush() {
                    at.oracle.broken = true;
                    let request = at.oracle.fail(flushed.entry, true);
                    at.free.extend(request.slot);
                }
            }
            let left: Vec<_> = at.oracle.under_way.iter().filter(|r| r.signaled).collect();
            assert!(left.is_empty(), "never completed: {left:?}");
            if broken {
                assert!(at.oracle.under_way.is_empty() && at.ends.qp.sq().tracker().is_empty());
                assert_eq!(at.free.len(), self.plan.blocks, "each place is free again");
            } else {
                let sums = read_ring(&self.memory[1 - self.number].data, self.map.sum(pair), 8);
                assert_eq!(sums, at.sums.to_le_bytes(), "each sum once");
            }
        }
    }
}
