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
    /// What needs no rights of the other end.
    pub const LOCAL: Self = Self(Self::LOCAL_READ.0 | Self::LOCAL_WRITE.0);
    /// All of it.
    pub const ALL: Self = Self(0b111_1100);

    /// Whether all of `other` is allowed.
    #[must_use]
    pub const fn has(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }
}

#[derive(Clone, Debug)]
enum Store<'m> {
    /// These lines, at an address that nobody else knows.
    Lines(&'m [Line]),
    /// What the machine has at that address.
    Machine,
    /// Parts of what other keys name: key, address, bytes.
    Through(Vec<(u32, u64, u64)>),
    /// Nothing: the key is free.
    Free,
}

/// What a key stands for.
#[derive(Clone, Debug)]
struct Region<'m> {
    domain: u32,
    start: u64,
    length: u64,
    access: Access,
    store: Store<'m>,
    /// The other end may ask for its invalidation.
    window: bool,
}

#[derive(Clone, Copy, Debug)]
struct Part<'m> {
    lines: Option<&'m [Line]>,
    at: u64,
    length: usize,
}

/// A place in memory that was checked.
#[derive(Clone, Debug)]
pub struct Place<'m> {
    parts: Vec<Part<'m>>,
}

impl Place<'_> {
    /// Its bytes.
    #[must_use]
    pub fn read(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        for Part { lines, at, length } in &self.parts {
            match lines {
                _ if *length == 0 => {}
                Some(lines) => {
                    bytes.extend(read_ring(lines, usize::try_from(*at).unwrap(), *length));
                }
                None => bytes.extend(memory::read(*at, *length)),
            }
        }
        bytes
    }

    /// Writes there.
    pub fn write(&self, mut bytes: &[u8]) {
        for Part { lines, at, length } in &self.parts {
            let (here, rest) = bytes.split_at(*length);
            match lines {
                _ if here.is_empty() => {}
                Some(lines) => write_lines(lines, usize::try_from(*at).unwrap(), here),
                None => memory::write(*at, here),
            }
            bytes = rest;
        }
    }
}

/// What a request changes of a key; what is `None` stays.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Change {
    /// First address.
    pub start: Option<u64>,
    /// Bytes.
    pub length: Option<u64>,
    /// What it allows.
    pub access: Option<Access>,
    /// It has to be free so far.
    pub check_free: bool,
    /// The memory that it shows from then on, one piece after the other: key, address, bytes.
    pub entries: Vec<(u32, u64, u64)>,
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

    /// Takes a key back. Whether it was there.
    pub fn remove(&mut self, key: u32) -> bool {
        self.regions.remove(&key).is_some()
    }

    /// Changes a key. Whether that was possible.
    pub fn change(&mut self, key: u32, domain: u32, change: &Change) -> bool {
        let Some(region) = self.regions.get(&key) else { return false };
        let is_free = matches!(region.store, Store::Free);
        if !region.window || region.domain != domain || (change.check_free && !is_free) {
            return false;
        }
        let access = change.access.unwrap_or(region.access);
        let writes = Access::LOCAL_WRITE.0 | Access::REMOTE_WRITE.0 | Access::REMOTE_ATOMIC.0;
        let need = if access.0 & writes == 0 { Access::LOCAL_READ } else { Access::LOCAL_WRITE };
        for (target, address, bytes) in &change.entries {
            let length = usize::try_from(*bytes).unwrap();
            if self.find((*target, domain), *address, length, need).is_none() {
                return false;
            }
        }
        if is_free && change.entries.is_empty() {
            return false;
        }
        let region = self.regions.get_mut(&key).expect("it was there");
        region.access = access;
        region.start = change.start.unwrap_or(region.start);
        region.length = change.length.unwrap_or(region.length);
        if !change.entries.is_empty() {
            region.store = Store::Through(change.entries.clone());
        }
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
        let one = |lines, at| Some(Place { parts: vec![Part { lines, at, length }] });
        match &region.store {
            Store::Lines(lines) => one(Some(*lines), at),
            Store::Machine => one(None, address),
            Store::Through(entries) => self.through(entries, domain, (at, end)),
            Store::Free => None,
        }
    }

    /// The bytes `from..to` of a list.
    fn through(
        &self,
        entries: &[(u32, u64, u64)],
        domain: u32,
        (from, to): (u64, u64),
    ) -> Option<Place<'m>> {
        let (mut parts, mut begin) = (Vec::new(), 0);
        for (key, address, bytes) in entries {
            let (first, last) = (from.max(begin), to.min(begin + bytes));
            if first < last {
                let length = usize::try_from(last - first).unwrap();
                let at = address + (first - begin);
                let place = self.find((*key, domain), at, length, Access::LOCAL_READ)?;
                parts.extend(place.parts);
            }
            begin += bytes;
        }
        Some(Place { parts })
    }
}
