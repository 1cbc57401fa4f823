//! What happens next: events by time, and by age where times are equal.

use core::cmp::{Ordering, Reverse};
use std::collections::BinaryHeap;

/// Something that will happen.
#[derive(Debug)]
struct Entry<E> {
    at: u64,
    age: u64,
    event: E,
}

impl<E> PartialEq for Entry<E> {
    fn eq(&self, other: &Self) -> bool {
        (self.at, self.age) == (other.at, other.age)
    }
}

impl<E> Eq for Entry<E> {}

impl<E> PartialOrd for Entry<E> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl<E> Ord for Entry<E> {
    fn cmp(&self, other: &Self) -> Ordering {
        (self.at, self.age).cmp(&(other.at, other.age))
    }
}

/// Events to come.
#[derive(Debug)]
pub(super) struct Queue<E> {
    heap: BinaryHeap<Reverse<Entry<E>>>,
    age: u64,
}

impl<E> Queue<E> {
    pub(super) const fn new() -> Self {
        Self { heap: BinaryHeap::new(), age: 0 }
    }

    pub(super) fn push(&mut self, at: u64, event: E) {
        self.age += 1;
        self.heap.push(Reverse(Entry { at, age: self.age, event }));
    }

    /// When the next one happens.
    pub(super) fn next_at(&self) -> Option<u64> {
        self.heap.peek().map(|entry| entry.0.at)
    }

    pub(super) fn pop(&mut self) -> Option<E> {
        self.heap.pop().map(|entry| entry.0.event)
    }
}
