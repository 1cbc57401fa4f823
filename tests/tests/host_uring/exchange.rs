//! Entries by hand: what is submitted, what comes back.

use core::time::Duration;
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::net::UnixStream;

use spinwire_dataplane::raw::kernel_memory;
use spinwire_dataplane::raw::line::{self, LINE_BYTES, Line};
use spinwire_dataplane::uring::{Enter, Ring};
use spinwire_hostshim::uring::{RingEntry, Uring};
use spinwire_layouts::pod::Pod;
use spinwire_layouts::uring::{Buf, Cqe, Sqe, enter, op};

/// How long a completion may take that nothing holds up.
const PATIENCE_LOOKS: u32 = 20_000;

/// Memory that the kernel reads and writes: seen by atomics only.
pub(crate) struct Memory(Vec<Line>);

impl Memory {
    pub(crate) fn new(bytes: usize) -> Self {
        Self((0..bytes.div_ceil(LINE_BYTES)).map(|_| Line::zeroed()).collect())
    }

    pub(crate) fn lines(&self) -> &[Line] {
        &self.0
    }

    pub(crate) fn address(&self) -> u64 {
        u64::try_from(self.0.as_ptr().expose_provenance()).unwrap()
    }

    /// Puts `bytes` at `at`, a multiple of 8.
    pub(crate) fn put(&self, at: usize, bytes: &[u8]) {
        assert!(line::copy_in(&self.0, at, bytes));
    }

    pub(crate) fn get(&self, at: usize, count: usize) -> Vec<u8> {
        let mut bytes = vec![0; count];
        assert!(line::copy_out(&self.0, at, &mut bytes));
        bytes
    }
}

/// A ring that is used by one test.
pub(crate) struct Used<'u> {
    pub(crate) ring: Ring<'u, RingEntry<'u>>,
}

impl<'u> Used<'u> {
    pub(crate) fn new(of: &'u Uring) -> Self {
        Self { ring: of.ring().unwrap() }
    }

    #[expect(unsafe_code, reason = "what entries name is for who makes them to answer for")]
    pub(crate) fn push(&self, entries: &[Sqe]) {
        // SAFETY: the memory of a test outlives its ring or is waited for: each entry ends before the test does, by its
        // completion or by the cancelling of what is under way when the ring is closed.
        unsafe { kernel_memory::push(&self.ring, entries) }.unwrap();
    }

    /// The next completion, whosever it is.
    pub(crate) fn next(&self) -> Cqe {
        for look in 0..PATIENCE_LOOKS {
            let submitted = self.ring.submit();
            assert!(submitted.error.is_none_or(|e| e.is_retry()), "{submitted:?}");
            let mut found = None;
            self.ring.harvest(1, |cqe| found = Some(cqe));
            if let Some(cqe) = found {
                return cqe;
            }
            if look > 10 {
                std::thread::sleep(Duration::from_micros(500));
                // As a thread does that has nothing else to do.
                let _taken = self.ring.enter().enter(0, 0, enter::GETEVENTS);
            }
        }
        panic!("no completion");
    }

    /// Submits one entry and gives back its completion; nothing else is under way.
    pub(crate) fn one(&self, entry: Sqe) -> Cqe {
        self.push(&[entry]);
        let cqe = self.next();
        assert_eq!(cqe.user_data, entry.user_data);
        cqe
    }

    /// Is nothing there to be harvested?
    pub(crate) fn is_quiet(&self) -> bool {
        let _taken = self.ring.enter().enter(0, 0, enter::GETEVENTS);
        self.ring.harvest(8, |_cqe| {}) == 0
    }
}

pub(crate) const fn nop(user_data: u64) -> Sqe {
    Sqe { opcode: op::NOP, user_data, ..Sqe::ZERO }
}

pub(crate) fn send(fd: RawFd, from: &Memory, len: u32, user_data: u64) -> Sqe {
    Sqe { opcode: op::SEND, fd, addr: from.address(), len, user_data, ..Sqe::ZERO }
}

pub(crate) fn receive(fd: RawFd, to: &Memory, len: u32, user_data: u64) -> Sqe {
    Sqe { opcode: op::RECV, fd, addr: to.address(), len, user_data, ..Sqe::ZERO }
}

/// One entry of a ring of provided buffers; `tail` goes into the first.
pub(crate) fn provide(places: &[Line], index: u16, at: u64, len: u32, tail: u16) {
    let resv = if index == 0 { tail } else { 0 };
    let buffer = Buf { addr: at, len, bid: index, resv };
    assert!(line::copy_in(places, usize::from(index) * size_of::<Buf>(), buffer.as_bytes()));
}

/// Does nothing, then sends bytes from one end of a pair of sockets to the other, and finds them there.
pub(crate) fn carries_bytes(used: &Used<'_>) {
    let done = used.one(nop(7));
    assert_eq!((done.res, done.flags), (0, 0));
    let (near, far) = UnixStream::pair().unwrap();
    let (from, to) = (Memory::new(64), Memory::new(64));
    from.put(0, b"through the ring");
    // The receive waits until the send has been.
    used.push(&[receive(far.as_raw_fd(), &to, 64, 1)]);
    used.push(&[send(near.as_raw_fd(), &from, 16, 2)]);
    let mut seen = [used.next(), used.next()].map(|cqe| (cqe.user_data, cqe.res));
    seen.sort_unstable();
    assert_eq!(seen, [(1, 16), (2, 16)]);
    assert_eq!(to.get(0, 16), b"through the ring");
    assert!(used.is_quiet());
    assert_eq!(used.ring.lost(), (0, 0));
}
