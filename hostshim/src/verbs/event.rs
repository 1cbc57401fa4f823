//! What a device tells out of turn: ports that come and go, queue pairs that fail (`ibv_get_async_event(3)`).

use core::cell::RefCell;
use core::fmt;
use std::os::fd::{AsFd, BorrowedFd};

use heapless::Deque;

use super::device::Device;
use super::error::VerbsError;
use crate::raw::file;

/// What has happened.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum EventKind {
    /// A completion queue has overrun or lost its memory.
    CqError,
    /// A queue pair is in error, and its driver could not say so by a completion. **Unverified on hardware**: Soft-RoCE tells of none, so that
    /// what is done about it was seen with events that a test made.
    PairFatal,
    /// A queue pair got a request that it cannot serve.
    PairRequest,
    /// A queue pair was not allowed what was asked of it.
    PairAccess,
    /// The first message has come before the pair was told that it may send.
    Established,
    /// A send queue has come to rest.
    SendsDrained,
    /// The last receive of a failed queue pair was taken off.
    LastReceive,
    /// The device is lost.
    DeviceFatal,
    /// A port carries again.
    PortActive,
    /// A port carries no more.
    PortDown,
    /// The addresses of a port have changed.
    AddressChange,
    /// Anything else, by its number in `enum ibv_event_type`.
    Other(u32),
}

/// An event.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Event {
    /// What has happened.
    pub kind: EventKind,
    /// To which port, queue pair or completion queue; 0 where it is about none of them.
    pub about: u32,
}

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.kind {
            EventKind::CqError => write!(f, "completion queue {} has failed", self.about),
            EventKind::PairFatal => write!(f, "queue pair {} has failed", self.about),
            EventKind::PairRequest => write!(f, "queue pair {} got an invalid request", self.about),
            EventKind::PairAccess => write!(f, "queue pair {} was refused access", self.about),
            EventKind::Established => write!(f, "queue pair {} was spoken to early", self.about),
            EventKind::SendsDrained => write!(f, "queue pair {} has drained its sends", self.about),
            EventKind::LastReceive => {
                write!(f, "queue pair {} takes no receive any more", self.about)
            }
            EventKind::DeviceFatal => f.write_str("the device is lost"),
            EventKind::PortActive => write!(f, "port {} is active", self.about),
            EventKind::PortDown => write!(f, "port {} is down", self.about),
            EventKind::AddressChange => {
                write!(f, "the addresses of port {} have changed", self.about)
            }
            EventKind::Other(number) => write!(f, "event {number}"),
        }
    }
}

/// The numbers of `enum ibv_event_type` (`infiniband/verbs.h`).
const fn kind_of(number: u32) -> EventKind {
    match number {
        0 => EventKind::CqError,
        1 => EventKind::PairFatal,
        2 => EventKind::PairRequest,
        3 => EventKind::PairAccess,
        4 => EventKind::Established,
        5 => EventKind::SendsDrained,
        8 => EventKind::DeviceFatal,
        9 => EventKind::PortActive,
        10 => EventKind::PortDown,
        16 => EventKind::LastReceive,
        18 => EventKind::AddressChange,
        other => EventKind::Other(other),
    }
}

/// Events that a program has not asked for yet: the last ones.
#[derive(Debug, Default)]
pub(super) struct Told(RefCell<Deque<Event, 16>>);

impl Told {
    pub(super) fn keep(&self, event: Event) {
        let mut told = self.0.borrow_mut();
        if told.is_full() {
            let _oldest = told.pop_front();
        }
        let pushed = told.push_back(event);
        debug_assert!(pushed.is_ok(), "room was made");
    }

    pub(super) fn next(&self) -> Option<Event> {
        self.0.borrow_mut().pop_front()
    }
}

impl Device {
    /// Makes [`Device::next_event`] answer at once. Without, it waits for one.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn events_without_waiting(&self) -> Result<(), VerbsError> {
        file::set_nonblocking(self.context().event_fd())
            .map_err(|e| VerbsError::os("fcntl(O_NONBLOCK)", e))
    }

    /// The next event; `None` where there is none just now ([`Device::events_without_waiting`]). A system call: ask now and then, or when
    /// the descriptor of [`AsFd`] is readable.
    ///
    /// # Errors
    /// What the library says.
    pub fn next_event(&self) -> Result<Option<Event>, VerbsError> {
        match self.context().next_event() {
            Ok(raw) => Ok(Some(Event { kind: kind_of(raw.kind), about: raw.about })),
            Err(e) if matches!(e.number(), libc::EAGAIN | libc::EINTR) => Ok(None),
            Err(e) => Err(VerbsError::os("ibv_get_async_event", e)),
        }
    }
}

impl AsFd for Device {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.context().event_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_sixteen_events_are_kept_in_order() {
        let told = Told::default();
        assert_eq!(told.next(), None);
        for about in 0..20 {
            told.keep(Event { kind: EventKind::PortDown, about });
        }
        let kept: Vec<u32> = core::iter::from_fn(|| told.next()).map(|event| event.about).collect();
        assert_eq!(kept, (4..20).collect::<Vec<_>>());
    }
}
