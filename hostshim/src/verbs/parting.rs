//! Links of librdmacm that go while their port carries nothing.
//!
//! When an id goes, the kernel tells the other end by a datagram of its own. Where that cannot be sent it is lost, and Soft-RoCE (of Linux 6.1) makes it worse: it fails the queue pair
//! of such datagrams, which is set up again for sending alone, so that nobody is connected over that device any more before it is made anew. So what goes while the port is
//! down waits here until the port is up, and the other end hears of it then.
//!
//! Not held back is what the kernel sends by itself: what it repeats, and what it says of a process that ends. Nor is anything once the device was taken away:
//! then nobody is told, and the kernel waits until all links on it are gone.

use core::cell::{Cell, RefCell};
use core::ops::Deref;
use std::rc::Rc;

use super::cm::Link;

/// Whether a port carries, and the links that wait until it does.
#[derive(Debug)]
pub(super) struct Parting<L = Link> {
    is_down: Cell<bool>,
    is_removed: Cell<bool>,
    links: RefCell<Vec<Rc<L>>>,
}

impl<L> Parting<L> {
    pub(super) fn new(is_down: bool) -> Rc<Self> {
        let (is_down, is_removed) = (Cell::new(is_down), Cell::new(false));
        Rc::new(Self { is_down, is_removed, links: RefCell::default() })
    }

    /// The port carries nothing any more, or carries again.
    pub(super) fn set_down(&self, is_down: bool) {
        self.is_down.set(is_down && !self.is_removed.get());
        if !self.is_down.get() {
            self.links.borrow_mut().clear();
        }
    }

    /// Its device was taken away, whatever is heard of the port after that: the two come by different descriptors.
    pub(super) fn set_removed(&self) {
        self.is_removed.set(true);
        self.set_down(false);
    }

    /// Whether the port carries nothing.
    pub(super) const fn is_down(&self) -> bool {
        self.is_down.get()
    }
}

/// A link that goes when that can be told.
#[derive(Debug)]
pub(super) struct Held<L = Link> {
    link: Rc<L>,
    parting: Rc<Parting<L>>,
}

impl<L> Held<L> {
    pub(super) fn new(link: L, parting: &Rc<Parting<L>>) -> Self {
        Self { link: Rc::new(link), parting: Rc::clone(parting) }
    }
}

impl<L> Deref for Held<L> {
    type Target = L;

    fn deref(&self) -> &L {
        &self.link
    }
}

impl<L> Drop for Held<L> {
    fn drop(&mut self) {
        if self.parting.is_down() {
            self.parting.links.borrow_mut().push(Rc::clone(&self.link));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_goes_while_the_port_is_down_goes_when_it_is_up() {
        let (parting, link) = (Parting::new(false), Rc::new(()));
        let held = || Held::new(Rc::clone(&link), &parting);
        drop(held());
        assert_eq!(Rc::strong_count(&link), 1);
        parting.set_down(true);
        let stays = held();
        drop((held(), held()));
        assert_eq!(Rc::strong_count(&link), 4);
        parting.set_down(false);
        assert_eq!(Rc::strong_count(&link), 2, "what has not gone stays");
        drop(stays);
        assert_eq!(Rc::strong_count(&link), 1);
    }

    #[test]
    fn on_a_device_that_was_taken_away_nothing_waits() {
        let (parting, link) = (Parting::new(true), Rc::new(()));
        let held = || Held::new(Rc::clone(&link), &parting);
        drop(held());
        assert_eq!(Rc::strong_count(&link), 2);
        parting.set_removed();
        assert_eq!(Rc::strong_count(&link), 1);
        parting.set_down(true);
        drop(held());
        assert_eq!(Rc::strong_count(&link), 1, "that its port is down was told too late");
    }
}
