//! Registered memory: keys, bounds, permissions, protection domains, as a device checks them.

use std::collections::BTreeMap;

use spinwire_dataplane::raw::line::{LINE_BYTES, Line};

use super::bytes::{read_ring, write_lines};
use crate::fake_net::memory;

/// What a key allows: bits, as in the context of a key (mlx5dv.h, `MLX5_WQE_MKEY_CONTEXT_ACCESS_FLAGS_*`).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Access(pub u8);

impl Access {
    /// Everybody who may use the key at all may read through it locally.
    pub const LOCAL_READ: Self = Self(1 << 2);
    /// Receives, answers to reads and atomics may be written.
    pub const LOCAL_WRITE: Self = Self(1 << 3);
    /// The other end may read.
    pub const REMOTE_READ: Self = Self(1 << 4);
    /// The other end may write.
    pub const REMOTE_WRITE: Self = Self(1 << 5);
    /// The other end may do atomics.
    pub const REMOTE_ATOMIC: Self = Self(1 << 6);
    /// All of it.
    pub const ALL: Self = Self(0b111_1100);

    /// Whether all of `other` is allowed.
    #[must_use]
    pub const fn has(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }
}

#[derive(Clone, Copy, Debug)]
enum Store<'m> {
    /// These lines, at an address that nobody else knows.
    Lines(&'m [Line]),
    /// What the machine has at that address.
    Machine,
    /// Part of what another key names.
    Through { key: u32, address: u64 },
    /// Nothing: the key is free.
    Free,
}

/// What a key stands for.
#[derive(Clone, Copy, Debug)]
struct Region<'m> {
    domain: u32,
    start: u64,
    length: u64,
    access: Access,
    store: Store<'m>,
    /// The other end may ask for its invalidation.
    window: bool,
}

/// A place in memory that was checked.
#[derive(Clone, Copy, Debug)]
pub struct Place<'m> {
    lines: Option<&'m [Line]>,
    at: u64,
}

impl Place<'_> {
    /// Its bytes.
    #[must_use]
    pub fn read(&self, length: usize) -> Vec<u8> {
        match self.lines {
            _ if length == 0 => Vec::new(),
            Some(lines) => read_ring(lines, usize::try_from(self.at).unwrap(), length),
            None => memory::read(self.at, length),
        }
    }

    /// Writes there.
    pub fn write(&self, bytes: &[u8]) {
        match self.lines {
            _ if bytes.is_empty() => {}
            Some(lines) => write_lines(lines, usize::try_from(self.at).unwrap(), bytes),
            None => memory::write(self.at, bytes),
        }
    }
}

/// A key that a request may describe anew.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Binding {
    /// First address.
    pub start: u64,
    /// Bytes.
    pub length: u64,
    /// What it allows.
    pub access: Access,
    /// The key whose memory it shows, and from which address of that.
    pub target: (u32, u64),
}

/// The keys of one node.
#[derive(Debug, Default)]
pub struct Keys<'m> {
    regions: BTreeMap<u32, Region<'m>>,
}

impl<'m> Keys<'m> {
    /// Registers lines under an address of their own.
    pub fn lines(
        &mut self,
        (key, domain): (u32, u32),
        start: u64,
        lines: &'m [Line],
        access: Access,
    ) {
        let length = u64::try_from(lines.len() * LINE_BYTES).unwrap();
        let store = Store::Lines(lines);
        self.regions.insert(key, Region { domain, start, length, access, store, window: false });
    }

    /// Registers memory of this process at its address. It has to stay for as long as the device may run.
    pub fn machine(&mut self, (key, domain): (u32, u32), range: (u64, u64), access: Access) {
        let (start, length) = range;
        let store = Store::Machine;
        self.regions.insert(key, Region { domain, start, length, access, store, window: false });
    }

    /// Allocates a key that is free, for requests to bind.
    pub fn window(&mut self, key: u32, domain: u32) {
        let (access, store) = (Access(0), Store::Free);
        self.regions
            .insert(key, Region { domain, start: 0, length: 0, access, store, window: true });
    }

    /// Takes a key back.
    pub fn remove(&mut self, key: u32) {
        self.regions.remove(&key);
    }

    /// Binds a window. Whether that was possible.
    pub fn bind(&mut self, key: u32, domain: u32, binding: &Binding) -> bool {
        let (target, address) = binding.target;
        let need = Access(binding.access.0 & !Access::LOCAL_READ.0);
        let writes = Access::REMOTE_WRITE.0 | Access::REMOTE_ATOMIC.0;
        let need = if need.0 & writes == 0 { Access::LOCAL_READ } else { Access::LOCAL_WRITE };
        let length = usize::try_from(binding.length).unwrap();
        let Some(_) = self.find((target, domain), address, length, need) else { return false };
        let Some(region) = self.regions.get_mut(&key) else { return false };
        if !region.window || region.domain != domain || !matches!(region.store, Store::Free) {
            return false;
        }
        let store = Store::Through { key: target, address };
        let Binding { start, length, access, .. } = *binding;
        *region = Region { domain, start, length, access, store, window: true };
        true
    }

    /// Frees a window. Whether that was possible.
    pub fn invalidate(&mut self, key: u32, domain: u32) -> bool {
        match self.regions.get_mut(&key) {
            Some(region)
                if region.window
                    && region.domain == domain
                    && !matches!(region.store, Store::Free) =>
            {
                region.store = Store::Free;
                true
            }
            _ => false,
        }
    }

    /// Where bytes lie, if the key allows it.
    #[must_use]
    pub fn find(
        &self,
        (key, domain): (u32, u32),
        address: u64,
        length: usize,
        need: Access,
    ) -> Option<Place<'m>> {
        let region = self.regions.get(&key)?;
        let at = address.checked_sub(region.start)?;
        let end = at.checked_add(u64::try_from(length).ok()?)?;
        let granted = Access(region.access.0 | Access::LOCAL_READ.0);
        if end > region.length || region.domain != domain || !granted.has(need) {
            return None;
        }
        match region.store {
            Store::Lines(lines) => Some(Place { lines: Some(lines), at }),
            Store::Machine => Some(Place { lines: None, at: address }),
            Store::Through { key, address } => {
                self.find((key, domain), address + at, length, Access::LOCAL_READ)
            }
            Store::Free => None,
        }
    }
}
