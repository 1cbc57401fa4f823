//! The memory of hosts, and who is let into it.

use super::world::{State, key};
use crate::fake_net::memory;

/// The memory of a host.
#[derive(Debug)]
pub(super) enum Memory {
    /// So many bytes from 0 on.
    Own(Vec<u8>),
    /// What this process has, as far as it is registered: key, address, bytes.
    Machine(Vec<(u32, u64, u64)>),
}

impl Memory {
    pub(super) fn names(&self, key: u32, at: u64, length: u64) -> bool {
        let Self::Machine(ranges) = self else { return false };
        ranges.iter().any(|(of, start, bytes)| {
            *of == key && *start <= at && at.saturating_add(length) <= start + bytes
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
    ) -> bool {
        match &self.memory[host] {
            Memory::Own(bytes) => {
                let end = usize::try_from(at + length).expect("an address");
                (self.is_lax || its_key == key(host, device)) && end <= bytes.len()
            }
            Memory::Machine(_) => self.memory[host].names(its_key, at, length),
        }
    }

    /// Memory of this process is named with the key that it was registered under.
    pub(super) fn check_local(&mut self, host: usize, segments: &[(u64, u32, u32)]) {
        if let Memory::Machine(_) = &self.memory[host] {
            let named = |s: &(u64, u32, u32)| self.memory[host].names(s.2, s.0, u64::from(s.1));
            if !segments.iter().all(named) {
                self.violate(|| format!("memory that host {host} has not registered"));
            }
        }
    }
}
