//! Datagrams: a queue pair that sends to any other, by an address handle, and is told who has sent what it receives.
//!
//! Nothing is promised: where there is nobody, no receive or another key, a datagram is gone; so it is by a planted loss, and its sender is told that
//! all is well.

use spinwire_dataplane::verbs::{Destination, WcFields, WcStatus};

use super::world::{Event, State, Work};

/// The key of all queue pairs for datagrams.
pub(super) const QKEY: u32 = 0x1111_1111;

/// Bytes that a device writes in front of a datagram.
const ROUTE_BYTES: usize = 40;

/// The address of a host, as devices have it.
pub(super) const fn gid(host: usize) -> [u8; 16] {
    let [low, high, ..] = host.to_le_bytes();
    [0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, high, low]
}

impl State {
    /// A datagram goes out. It is done with when it has left.
    pub(super) fn post(&mut self, qp: usize, work: &Work, to: Destination) {
        let (host, device) = (self.qps[qp].host, self.qps[qp].device);
        let bytes = self.gather(host, &work.segments);
        let free = self.occupy(host, device, work.bytes());
        let when = self.dma_time(host, device).max(free);
        self.dma_last[host][device] = when;
        let fields = self.fields(qp, work.wr_id(), WcStatus::SUCCESS);
        self.events.push(when, Event::Complete { qp, fields });
        if self.fault(self.faults.losses) {
            return;
        }
        let jitter = self.rng.below(self.links.jitter_ns + 1);
        let arrival = free + self.links.latency_ns + jitter;
        self.events.push(arrival, Event::Datagram { from: qp, to, bytes });
    }

    /// It has arrived.
    pub(super) fn drop_in(&mut self, from: usize, to: Destination, bytes: &[u8]) {
        let number = self.qps[from].number;
        self.drop_from((from, number), to, bytes);
    }

    /// The same, of a queue pair that the device says is that number.
    pub(super) fn drop_from(
        &mut self,
        (from, number): (usize, u32),
        to: Destination,
        bytes: &[u8],
    ) {
        let there = usize::try_from(to.handle).expect("a handle");
        let Some(qp) = self.qps.get(there) else { return };
        let receive = qp.rq.front().cloned();
        let is_there = qp.number == to.qp_num && to.qkey == QKEY && !self.is_dead(there);
        let Some(receive) = receive.filter(|_| is_there) else { return };
        let mut packet = vec![0; ROUTE_BYTES];
        packet[0] = 0x60;
        packet[8..24].copy_from_slice(&gid(self.qps[from].host));
        packet.extend_from_slice(bytes);
        let room: u64 = receive.segments.iter().map(|s| u64::from(s.1)).sum();
        let length = u64::try_from(packet.len()).expect("a length");
        if length > room {
            return;
        }
        let (host, device) = (self.qps[there].host, self.qps[there].device);
        self.scatter((host, device), &receive.segments, &packet);
        self.received_from(there, length, number);
    }

    /// A receive of the end `qp` is used up by a datagram that the queue pair of that number has sent.
    fn received_from(&mut self, qp: usize, length: u64, source_qp: u32) {
        if let Some((when, fields)) = self.use_up(qp, length) {
            let fields = WcFields { immediate: None, is_written: false, source_qp, ..fields };
            self.events.push(when, Event::Complete { qp, fields });
        }
    }
}
