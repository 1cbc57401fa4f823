//! What a message does at the other end, and when it is seen in memory.

use spinwire_dataplane::verbs::{Verb, WcStatus};

use super::world::{Event, State, Work};

impl State {
    /// One message at the other end. When it is acknowledged; `None` where a receive is missing.
    pub(super) fn execute(&mut self, qp: usize, work: &Work) -> Result<u64, Option<WcStatus>> {
        let host = self.qps[qp].host;
        let (there, device) = (self.qps[qp ^ 1].host, self.qps[qp ^ 1].device);
        let wants_receive = !work.verb.is_one_sided() || matches!(work.verb, Verb::WriteImm(_));
        if wants_receive && self.qps[qp ^ 1].rq.is_empty() {
            return Err(None);
        }
        let length = work.bytes();
        if let Some(remote) = work.remote
            && !self.lets_in((there, device), remote.key, (remote.address, length), work.verb)
        {
            return Err(Some(WcStatus::REMOTE_ACCESS));
        }
        let is_atomic = matches!(work.verb, Verb::FetchAdd(_) | Verb::CompareSwap { .. });
        if is_atomic && work.remote.is_some_and(|remote| !remote.address.is_multiple_of(8)) {
            return Err(Some(WcStatus::REMOTE_INVALID_REQUEST));
        }
        let remote = work.remote.map_or(0, |remote| remote.address);
        if self.fault(self.faults.losses) {
            return Ok(self.now);
        }
        match work.verb {
            Verb::Write => self.dma(there, device, remote, self.gather(host, &work.segments)),
            Verb::WriteImm(immediate) => {
                self.dma(there, device, remote, self.gather(host, &work.segments));
                self.received(qp ^ 1, length, (Some(immediate), true));
            }
            Verb::Send | Verb::SendImm(_) | Verb::SendInvalidate(_) => {
                let bytes = self.gather(host, &work.segments);
                let receive = self.qps[qp ^ 1].rq.front().cloned().expect("seen above");
                let room: u64 = receive.segments.iter().map(|s| u64::from(s.1)).sum();
                if room < length {
                    return Err(Some(WcStatus::from_raw(9)));
                }
                self.scatter((there, device), &receive.segments, &bytes);
                let immediate =
                    if let Verb::SendImm(immediate) = work.verb { Some(immediate) } else { None };
                self.received(qp ^ 1, length, (immediate, false));
            }
            Verb::Read => return Ok(self.read_back(qp, work, remote)),
            Verb::FetchAdd(_) | Verb::CompareSwap { .. } => self.compute(qp, work, remote),
        }
        Ok(self.now)
    }

    fn read_back(&mut self, qp: usize, work: &Work, remote: u64) -> u64 {
        let here = (self.qps[qp].host, self.qps[qp].device);
        let (there, device) = (self.qps[qp ^ 1].host, self.qps[qp ^ 1].device);
        // What this device wrote before is in memory before it reads.
        let ready = self.dma_last[there][device].max(self.now);
        self.settle((there, device), ready);
        let bytes = self.memory[there].load(remote, work.bytes());
        let free = self.occupy(there, device, work.bytes());
        self.scatter(here, &work.segments, &bytes);
        free.max(ready)
    }

    /// What is to be in memory by `until` is read as if it were: a read at that time sees it.
    pub(super) fn settle(&mut self, (host, device): (usize, usize), until: u64) {
        let mut kept = Vec::new();
        while let Some(at) = self.events.next_at().filter(|at| *at <= until) {
            let Some(event) = self.events.pop() else { break };
            match event {
                Event::Dma { host: to, device: by, at, bytes } if (to, by) == (host, device) => {
                    self.memory[to].store(at, &bytes);
                }
                other @ (Event::Dma { .. }
                | Event::Datagram { .. }
                | Event::Arrive { .. }
                | Event::Again { .. }
                | Event::Acked { .. }
                | Event::Complete { .. }
                | Event::Fail { .. }) => kept.push((at, other)),
            }
        }
        for (at, event) in kept {
            self.events.push(at, event);
        }
    }

    fn compute(&mut self, qp: usize, work: &Work, remote: u64) {
        let (host, device) = (self.qps[qp].host, self.qps[qp].device);
        let there = self.qps[qp ^ 1].host;
        let cell = self.memory[there].load(remote, 8);
        let before = u64::from_le_bytes(cell.try_into().expect("8 bytes"));
        let after = if let Verb::FetchAdd(amount) = work.verb {
            before.wrapping_add(amount)
        } else if let Verb::CompareSwap { expected, swap } = work.verb {
            if expected == before { swap } else { before }
        } else {
            before
        };
        self.memory[there].store(remote, &after.to_le_bytes());
        self.scatter((host, device), &work.segments, &before.to_le_bytes());
    }

    pub(super) fn gather(&self, host: usize, segments: &[(u64, u32, u32)]) -> Vec<u8> {
        let mut bytes = Vec::new();
        for (address, length, _) in segments {
            bytes.extend(self.memory[host].load(*address, u64::from(*length)));
        }
        bytes
    }

    pub(super) fn scatter(
        &mut self,
        (host, device): (usize, usize),
        segments: &[(u64, u32, u32)],
        bytes: &[u8],
    ) {
        let mut rest = bytes;
        for (address, length, _) in segments {
            let (here, behind) = rest.split_at(rest.len().min((*length).try_into().expect("u32")));
            self.dma(host, device, *address, here.to_vec());
            rest = behind;
        }
    }

    fn dma(&mut self, host: usize, device: usize, at: u64, mut bytes: Vec<u8>) {
        if !bytes.is_empty() && self.fault(self.faults.corruptions) {
            let wrong = self.rng.index(bytes.len());
            bytes[wrong] ^= 1;
        }
        let when = self.dma_time(host, device);
        if !bytes.is_empty() {
            self.events.push(when, Event::Dma { host, device, at, bytes });
        }
    }

    /// When something that a device writes now reaches memory: behind all that it wrote before.
    pub(super) fn dma_time(&mut self, host: usize, device: usize) -> u64 {
        let delay = self.rng.below(self.links.dma_ns[host & 1] + 1);
        let when = (self.now + delay).max(self.dma_last[host][device]);
        self.dma_last[host][device] = when;
        when
    }
}
