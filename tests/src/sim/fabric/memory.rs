//! The memory of hosts, and who is let into it.

use spinwire_dataplane::provider::Access;
use spinwire_dataplane::verbs::Verb;

use super::world::{State, key};
use crate::fake_net::memory;

/// A range that is registered.
#[derive(Clone, Copy, Debug)]
pub(super) struct Range {
    pub(super) key: u32,
    pub(super) start: u64,
    pub(super) bytes: u64,
    /// What the other ends of queue pairs may do.
    pub(super) rights: Access,
}

/// The memory of a host.
#[derive(Debug)]
pub(super) enum Memory {
    /// So many bytes from 0 on.
    Own(Vec<u8>),
    /// What this process has, as far as it is registered.
    Machine(Vec<Range>),
}

impl Memory {
    pub(super) fn names(&self, key: u32, (at, length): (u64, u64), rights: Access) -> bool {
        let Self::Machine(ranges) = self else { return false };
        ranges.iter().any(|range| {
            range.key == key
                && range.rights.has(rights)
                && range.start <= at
                && at.checked_add(length).is_some_and(|end| end <= range.start + range.bytes)
        })
    }

    pub(super) fn load(&self, at: u64, length: u64) -> Vec<u8> {
        let length = usize::try_from(length).expect("a length");
        match self {
            Self::Own(bytes) => {
                let at = usize::try_from(at).expect("an address");
                bytes[at..at + length].to_vec()
            }
            Self::Machine(_) => memory::read(at, length),
        }
    }

    pub(super) fn store(&mut self, at: u64, from: &[u8]) {
        match self {
            Self::Own(bytes) => {
                let at = usize::try_from(at).expect("an address");
                bytes[at..at + from.len()].copy_from_slice(from);
            }
            Self::Machine(_) => memory::write(at, from),
        }
    }
}

impl State {
    /// Whether a key of a device lets the other end into a range.
    pub(super) fn lets_in(
        &self,
        (host, device): (usize, usize),
        its_key: u32,
        (at, length): (u64, u64),
        verb: Verb,
    ) -> bool {
        if length == 0 {
            // Nothing is not looked up.
            return true;
        }
        match &self.memory[host] {
            Memory::Own(bytes) => {
                let end = usize::try_from(at + length).expect("an address");
                (self.is_lax || its_key == key(host, device)) && end <= bytes.len()
            }
            Memory::Machine(_) => {
                let rights = match verb {
                    Verb::Read => Access::READ,
                    Verb::FetchAdd(_) | Verb::CompareSwap { .. } => Access::ATOMIC,
                    Verb::Write
                    | Verb::WriteImm(_)
                    | Verb::Send
                    | Verb::SendImm(_)
                    | Verb::SendInvalidate(_) => Access::WRITE,
                };
                self.memory[host].names(its_key, (at, length), rights)
            }
        }
    }

    /// Memory of this process is named with the key that it was registered under.
    pub(super) fn check_local(&mut self, host: usize, segments: &[(u64, u32, u32)]) {
        if let Memory::Machine(_) = &self.memory[host] {
            let named = |s: &(u64, u32, u32)| {
                self.memory[host].names(s.2, (s.0, u64::from(s.1)), Access::NONE)
            };
            if !segments.iter().all(named) {
                self.violate(|| format!("memory that host {host} has not registered"));
            }
        }
    }

    /// Whether a receive is refused just now.
    pub(super) const fn is_receive_refused(&mut self) -> bool {
        self.fault(self.faults.receive_refusals)
    }

    pub(super) fn is_cq_broken(&self, host: usize) -> bool {
        self.broken.iter().any(|(of, _)| *of == host)
    }

    /// Whether that is so, and was not told yet.
    pub(super) fn take_cq_error(&mut self, host: usize) -> bool {
        let told = self.broken.iter_mut().find(|(of, told)| *of == host && !*told);
        told.map(|entry| entry.1 = true).is_some()
    }
}
