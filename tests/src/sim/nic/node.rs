//! A device: its keys, how it is found, its queues.

use std::collections::BTreeMap;

use super::cq::Queue;
use super::memory::Keys;
use super::queue::{Pair, Shared};

/// A device.
#[derive(Debug)]
pub struct Node<'m> {
    /// Its registered memory.
    pub keys: Keys<'m>,
    /// How it is found on InfiniBand: its local identifier.
    pub lid: u16,
    /// How it is found on Ethernet.
    pub mac: [u8; 6],
    /// Its global address.
    pub gid: [u8; 16],
    pub(super) pairs: BTreeMap<u32, Pair<'m>>,
    pub(super) shared: BTreeMap<u32, Shared<'m>>,
    pub(super) queues: BTreeMap<u32, Queue<'m>>,
}

impl Node<'_> {
    pub(super) fn new(number: u16) -> Self {
        let [_, low] = number.to_be_bytes();
        Self {
            keys: Keys::default(),
            lid: number + 1,
            mac: [2, 0, 0, 0, 0, low.wrapping_add(1)],
            gid: [0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, low],
            pairs: BTreeMap::new(),
            shared: BTreeMap::new(),
            queues: BTreeMap::new(),
        }
    }
}
