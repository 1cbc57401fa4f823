//! Pools in ordinary memory, and processes that are no more than a lease and a handle.
#![expect(unsafe_code, reason = "the tests keep the promise that plain slices need")]

use core::mem::MaybeUninit;

use spinwire_dataplane::pool::{NoHost, Pool, PoolGeometry, PoolHost, PoolSegment, Reclaimed};
use spinwire_dataplane::raw::line::Line;
use spinwire_dataplane::raw::payload::PlainAccess;
use spinwire_dataplane::raw::place::Bump;
use spinwire_dataplane::shm::lease::{self, Joiner};
use spinwire_dataplane::shm::{Identity, ProcessLease};

use crate::conformance::name;

/// Who makes the pools of the tests.
#[must_use]
pub fn identity() -> Identity {
    Identity {
        name: name("pool"),
        boot_id: [1; 16],
        created_unix_ns: 7,
        pid: 1,
        start_time: 1,
        pid_namespace: 1,
        page_bytes: 4096,
    }
}

/// A pool. Its memory is not given back: threads and handles may outlive the test.
#[derive(Debug)]
pub struct Rig<H: PoolHost + 'static = NoHost> {
    /// All of it.
    pub lines: &'static [Line],
    /// The checked view, with plain slices.
    pub segment: &'static PoolSegment<'static>,
    host: &'static H,
}

impl<H: PoolHost> Clone for Rig<H> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<H: PoolHost> Copy for Rig<H> {}

impl Rig {
    /// A fresh pool on which nobody waits.
    #[must_use]
    pub fn new(geometry: PoolGeometry) -> Self {
        Self::with_host(geometry, &NoHost)
    }

    /// A fresh pool of another name, or made by somebody else.
    #[must_use]
    pub fn named(geometry: PoolGeometry, identity: &Identity) -> Self {
        Self::made(&geometry, &NoHost, identity)
    }
}

impl<H: PoolHost> Rig<H> {
    /// A fresh pool with a host of the test's own.
    #[must_use]
    pub fn with_host(geometry: PoolGeometry, host: &'static H) -> Self {
        Self::made(&geometry, host, &identity())
    }

    fn made(geometry: &PoolGeometry, host: &'static H, identity: &Identity) -> Self {
        let bytes = geometry.segment_bytes().expect("a good geometry");
        let count = usize::try_from(bytes / 64).expect("small");
        let lines: &'static [Line] = (0..count).map(|_| Line::zeroed()).collect::<Vec<_>>().leak();
        let segment = PoolSegment::format(lines, geometry, identity).expect("fresh memory");
        // SAFETY: everybody in the tests goes through guards; whoever scribbles takes no slices.
        let access = unsafe { PlainAccess::promise() };
        let segment = Box::leak(Box::new(segment.with_plain_access(access)));
        Self { lines, segment, host }
    }

    /// A process joins. `None` where the table is full.
    #[must_use]
    pub fn join(&self, pid: u32) -> Option<ProcessLease> {
        let joiner = Joiner { pid, start_time: 1, joined_unix_ns: 1, command: [0; 64] };
        lease::join(self.segment, &joiner).ok()
    }

    /// A handle on a lease.
    #[must_use]
    pub fn open(&self, lease: ProcessLease) -> &'static Pool<'static, H> {
        let bytes = self.segment.handle_bytes();
        let bump = Bump::new(Box::leak(vec![MaybeUninit::uninit(); bytes].into_boxed_slice()));
        Box::leak(Box::new(Pool::open(self.segment, lease, &bump, self.host).expect("room")))
    }

    /// A process with a handle.
    #[must_use]
    pub fn process(&self, pid: u32) -> &'static Pool<'static, H> {
        self.open(self.join(pid).expect("a free lease"))
    }

    /// The process of that lease is found dead. Returns whether the lease was still its own.
    #[must_use]
    pub fn mark_dead(&self, lease: &ProcessLease) -> bool {
        let row = lease::rows(self.segment).find(|row| row.slot == lease.slot());
        row.is_some_and(|row| lease::mark_dead(self.segment, row.slot, row.lease))
    }

    /// What a dead process held is taken back.
    #[must_use]
    pub fn reclaim(&self, lease: &ProcessLease) -> Option<Reclaimed> {
        self.segment.reclaim(lease.slot(), self.host)
    }
}
