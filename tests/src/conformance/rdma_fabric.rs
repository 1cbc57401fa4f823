//! Devices that are simulated at the traits of verbs, for the [rig of ports over connections](super::rdma).

use core::cell::Cell;

use spinwire_dataplane::error::PostError;
use spinwire_dataplane::provider::rdma::{Loans, Memory, RdmaConfig, Registrar};
use spinwire_dataplane::provider::{Access, Published, Sge};
use spinwire_dataplane::raw::line::Line;
use spinwire_dataplane::raw::place::Bump;
use spinwire_dataplane::verbs::{Limits, QueuePair, RecvRequest, SendRequest};

use super::rdma::{Host, Network, NetworkKind, RdmaRig};
use crate::sim::fabric::{Fabric, Links, SimCq, SimQp};

/// Devices that are simulated at the traits of verbs.
#[derive(Debug)]
pub struct Simulated;

impl NetworkKind for Simulated {
    type Network<'m> = Fabric;
}

/// Ports over such.
pub type Rdma<const UNCOPIED: bool> = RdmaRig<Simulated, UNCOPIED>;

/// A queue pair that is destroyed when it is dropped, as those of libraries are: what is under way then is lost.
#[derive(Debug)]
pub struct Pair<'m> {
    pub(super) fabric: &'m Fabric,
    pub(super) inner: SimQp<'m>,
}

impl QueuePair for Pair<'_> {
    type Key = u32;

    fn limits(&self) -> Limits {
        self.inner.limits()
    }
    fn qp_num(&self) -> u32 {
        self.inner.qp_num()
    }
    fn end(self) -> bool {
        if self.fabric.keeps_pairs() {
            core::mem::forget(self);
            return false;
        }
        true
    }
    fn post_send(&self, send: &SendRequest<'_, u32>) -> Result<(), PostError> {
        self.inner.post_send(send)
    }
    fn post_recv(&self, recv: &RecvRequest<'_, u32>) -> Result<(), PostError> {
        self.inner.post_recv(recv)
    }
    fn ring_doorbell(&self) -> Published {
        self.inner.ring_doorbell()
    }
    fn ring_recv_doorbell(&self) -> Published {
        self.inner.ring_recv_doorbell()
    }
}

impl Drop for Pair<'_> {
    fn drop(&mut self) {
        self.fabric.destroy(&self.inner);
    }
}

/// Registers memory of a host, where anything is registered at all.
#[derive(Debug)]
pub struct Keys<'m> {
    fabric: &'m Fabric,
    host: usize,
    next: Cell<u32>,
}

#[expect(unsafe_code, reason = "a promise about simulated devices")]
// SAFETY: the network lets in whom it is told to, and settles what is under way when a range is taken back.
unsafe impl Registrar for Keys<'_> {
    fn register(&self, memory: &Sge, access: Access) -> Result<u32, PostError> {
        let key = self.next.get();
        self.next.set(key + 5);
        let start = u64::try_from(memory.bytes().as_ptr().expose_provenance()).unwrap();
        let bytes = u64::try_from(memory.length()).unwrap();
        self.fabric.register(self.host, key, (start, bytes), access);
        Ok(key)
    }

    fn unregister(&self, key: u32) -> bool {
        self.fabric.unregister(self.host, key)
    }
}

pub(super) const PAIR: Limits = Limits {
    send_depth: 1024,
    recv_depth: 1024,
    sge_max: 4,
    message_bytes_max: 1 << 20,
    inline_bytes_max: 0,
};

/// The key of the slots, and that of the loans; those of exposed memory come after.
pub(super) const KEYS: [u32; 3] = [0x51, 0x10, 0x1000];

/// Memory for the slots of a port, and where it begins.
pub(super) fn slots<'m>(bump: &Bump<'m>, config: &RdmaConfig) -> (&'m [Line], u64) {
    let bytes = usize::try_from(config.memory_bytes()).unwrap();
    let lines: &'m [Line] = bump.slice_with(bytes.div_ceil(64), |_| Line::zeroed()).unwrap();
    (lines, u64::try_from(lines.as_ptr().expose_provenance()).unwrap())
}

impl<'m> Network<'m> for Fabric {
    type Pair = Pair<'m>;
    type Cq = SimCq<'m>;
    type Keys = Keys<'m>;

    fn lay() -> Self {
        Self::new(1, 0, Links::QUIET, 1)
    }

    #[expect(unsafe_code, reason = "the rig says what is registered")]
    fn host(&'m self, bump: &Bump<'m>, config: &RdmaConfig) -> Host<'m, Self> {
        let (lines, address) = slots(bump, config);
        let number = self.add_host();
        self.register(number, KEYS[0], (address, config.memory_bytes()), Access::NONE);
        self.register(number, KEYS[1], (0, u64::MAX), Access::NONE);
        // SAFETY: all memory of the world outlives its ports and the network. Simulated devices use what requests name until they have completed
        // them, or the queue pair was destroyed, as it is when it is dropped.
        let loans = unsafe { Loans::promise(0, u64::MAX, KEYS[1]) };
        let memory = Memory { lines, address, key: KEYS[0], loans: Some(loans) };
        let cq = self.cq(number, 0, config.completions());
        let keys = Keys { fabric: self, host: number, next: Cell::new(KEYS[2]) };
        Host { number, cq, keys, memory }
    }

    fn connect(&'m self, hosts: [usize; 2]) -> [Pair<'m>; 2] {
        let (one, other) = self.connect_hosts(hosts.map(|host| (host, 0)), PAIR);
        [one, other].map(|inner| Pair { fabric: self, inner })
    }

    fn destroy(&'m self, host: usize, qp_num: u32) {
        Self::destroy_numbered(self, host, qp_num);
    }

    fn settle(&self, pace_ns: Option<u64>) {
        if let Some(pace) = pace_ns {
            let end = self.now() + pace;
            while self.now() < end {
                self.advance(end - self.now());
            }
            return;
        }
        for _ in 0..10_000 {
            if !self.advance(3_000) {
                return;
            }
        }
        panic!("the network does not come to rest");
    }

    fn is_dead(&self, host: usize, qp_num: u32) -> bool {
        self.is_dead_numbered(host, qp_num)
    }

    fn violation(&self) -> Option<String> {
        Self::violation(self).map(|violation| format!("{violation:?}"))
    }
}
