//! Queue pairs of mlx5 over a model of the device, for ports: nothing of a library between the port and the rings.

use core::cell::{Cell, RefCell};
use core::fmt;
use std::collections::{BTreeMap, VecDeque};

use spinwire_dataplane::cq::{Compression, Cq, CqMemory, EntryBytes};
use spinwire_dataplane::error::PostError;
use spinwire_dataplane::provider::mlx5::{Completions, Pair, PairConfig};
use spinwire_dataplane::provider::rdma::{Memory, RdmaConfig, Registrar};
use spinwire_dataplane::provider::{Access, Published, Sge};
use spinwire_dataplane::raw::line::Line;
use spinwire_dataplane::raw::mmio::Device;
use spinwire_dataplane::raw::place::Bump;
use spinwire_dataplane::raw::region::{Loans, MemoryKey, Region};
use spinwire_dataplane::sync::AtomicU32;
use spinwire_dataplane::verbs::{Limits, QueuePair, RecvRequest, SendRequest};
use spinwire_dataplane::wqe::{
    BlueFlame, Qp, QpConfig, QpMemory, RecvConfig, SendConfig, Straddle, Transport,
};

use super::rdma::{Host, KEYS, Network, NetworkKind, RdmaRig, slots};
use crate::sim::nic::memory::Access as Rights;
use crate::sim::nic::wqe::{Rules, Transport as Kind};
use crate::sim::nic::{CqPlan, Fabric, Manner, QpPlan, Receives, Short, State};

/// Devices of mlx5, as the model of them is.
#[derive(Debug)]
pub struct Mlx5Model;

impl NetworkKind for Mlx5Model {
    type Network<'m> = Devices<'m>;
}

/// Ports over such.
pub type Mlx5<const UNCOPIED: bool> = RdmaRig<Mlx5Model, UNCOPIED>;

/// A queue pair that can be had, and the memory that it lies in.
#[derive(Clone, Copy)]
struct Unit<'m> {
    pair: &'m Pair<'m, Device>,
    memory: QpMemory<'m>,
}

type HostCq<'m> = &'m Completions<'m, Device, &'m Pair<'m, Device>>;

/// A device of a host: its completion queue, and its queue pairs. One that comes back is used again as late as can be.
struct Queues<'m> {
    cq: HostCq<'m>,
    spare: VecDeque<Unit<'m>>,
    used: BTreeMap<u32, Unit<'m>>,
}

/// A queue pair that is destroyed when it is dropped.
pub struct Connected<'m> {
    devices: &'m Devices<'m>,
    host: usize,
    pair: &'m Pair<'m, Device>,
}

impl fmt::Debug for Connected<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.pair.fmt(f)
    }
}

impl<'m> QueuePair for Connected<'m> {
    type Key = MemoryKey<'m>;

    fn limits(&self) -> Limits {
        self.pair.limits()
    }
    fn qp_num(&self) -> u32 {
        self.pair.qp_num()
    }
    fn post_send(&self, send: &SendRequest<'_, MemoryKey<'m>>) -> Result<(), PostError> {
        self.pair.post_send(send)
    }
    fn post_recv(&self, recv: &RecvRequest<'_, MemoryKey<'m>>) -> Result<(), PostError> {
        self.pair.post_recv(recv)
    }
    fn ring_doorbell(&self) -> Published {
        self.pair.ring_doorbell()
    }
    fn ring_recv_doorbell(&self) -> Published {
        self.pair.ring_recv_doorbell()
    }
}

impl Drop for Connected<'_> {
    fn drop(&mut self) {
        self.devices.destroy(self.host, self.pair.qpn());
    }
}

/// Registers memory of a host.
pub struct DeviceKeys<'m> {
    devices: &'m Devices<'m>,
    host: usize,
    next: Cell<u32>,
}

impl fmt::Debug for DeviceKeys<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DeviceKeys").field("host", &self.host).finish_non_exhaustive()
    }
}

#[expect(unsafe_code, reason = "a promise about a model of devices")]
// SAFETY: the device lets in whom it is told to; it acts only when it is settled, and knows nothing of a key that was taken back.
unsafe impl Registrar for DeviceKeys<'_> {
    fn register(&self, memory: &Sge, access: Access) -> Result<u32, PostError> {
        let key = self.next.get();
        self.next.set(key + 1);
        let start = u64::try_from(memory.bytes().as_ptr().expose_provenance()).unwrap();
        let bytes = u64::try_from(memory.length()).unwrap();
        let mut rights = Rights::LOCAL.0;
        for (access_of_peers, right) in [
            (Access::READ, Rights::REMOTE_READ),
            (Access::WRITE, Rights::REMOTE_WRITE),
            (Access::ATOMIC, Rights::REMOTE_ATOMIC),
        ] {
            rights |= if access.has(access_of_peers) { right.0 } else { 0 };
        }
        let keys = &mut self.devices.fabric.borrow_mut().nodes[self.host].keys;
        keys.machine((key, DOMAIN), (start, bytes), Rights(rights));
        Ok(key)
    }

    fn unregister(&self, key: u32) -> bool {
        self.devices.rest();
        self.devices.fabric.borrow_mut().nodes[self.host].keys.remove(key)
    }
}

/// A model of devices, and the hosts that they are in.
pub struct Devices<'m> {
    fabric: RefCell<Fabric<'m>>,
    hosts: RefCell<Vec<Queues<'m>>>,
}

impl Devices<'_> {
    /// Lets everything that is under way happen: the time of the model is its steps.
    fn rest(&self) {
        self.fabric.borrow_mut().settle(STEPS);
    }
}

impl fmt::Debug for Devices<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Devices").finish_non_exhaustive()
    }
}

const DOMAIN: u32 = 5;
/// Bytes of a receive: two segments.
const STRIDE: usize = 32;
/// Steps within which everything comes to rest.
const STEPS: usize = 200_000;
/// One block a request: two ranges, or what fits beside a remote address.
const PAIR: PairConfig = PairConfig::DEFAULT;

fn lines<'m>(bump: &Bump<'m>, count: usize) -> &'m [Line] {
    bump.slice_with(count, |_| Line::zeroed()).expect("room")
}

fn record<'m>(bump: &Bump<'m>) -> &'m [AtomicU32; 2] {
    bump.value([AtomicU32::new(0), AtomicU32::new(0)]).expect("room")
}

/// Room for a queue pair of that number, for as many requests as the port wants.
fn unit<'m>(bump: &Bump<'m>, qpn: u32, config: &RdmaConfig) -> Unit<'m> {
    let depth = |wanted: u32| u16::try_from(wanted.next_power_of_two()).expect("a depth");
    let (blocks, wqes) = (depth(config.pair().send_depth), depth(config.pair().recv_depth));
    let memory = QpMemory {
        sq: lines(bump, blocks.into()),
        rq: lines(bump, (usize::from(wqes) * STRIDE).div_ceil(64)),
        record: record(bump),
        uar: lines(bump, 2),
    };
    let transport = Transport::Rc { path: None };
    let send = SendConfig {
        wqe_blocks_max: PAIR.wqe_blocks(transport),
        straddle: Straddle::Fill,
        blue_flame: BlueFlame::Inline,
    };
    let recv = Some(RecvConfig { wqes, sge_max: PAIR.sge_max.try_into().expect("few") });
    let qp = Qp::place(bump, QpConfig { qpn, transport, send, recv }, memory, Device);
    let pair = Pair::place(bump, qp.expect("room"), PAIR).expect("sizes that go together");
    Unit { pair: bump.value(pair).expect("room"), memory }
}

impl<'m> Network<'m> for Devices<'m> {
    type Pair = Connected<'m>;
    type Cq = HostCq<'m>;
    type Keys = DeviceKeys<'m>;

    fn lay() -> Self {
        let manner = Manner { tears: 1, loses: 2, timeout: 200, ..Manner::default() };
        Self { fabric: RefCell::new(Fabric::new(1, 0, manner)), hosts: RefCell::default() }
    }

    #[expect(unsafe_code, reason = "the rig says what is registered")]
    fn host(&'m self, bump: &Bump<'m>, config: &RdmaConfig) -> Host<'m, Self> {
        let mut fabric = self.fabric.borrow_mut();
        let host = fabric.node();
        let first = u32::try_from(host).expect("few hosts") << 8;
        let spare: VecDeque<_> =
            (0..config.links).map(|number| unit(bump, first | number, config)).collect();
        let entries: u32 = spare.iter().map(|unit| unit.pair.completions_max()).sum();
        // Every other host has wide entries.
        let (entry_bytes, cqe_bytes) =
            if host.is_multiple_of(2) { (EntryBytes::B64, 64) } else { (EntryBytes::B128, 128) };
        let entries = usize::try_from(entries.next_power_of_two()).expect("a size");
        let (ring, record) = (lines(bump, entries * (cqe_bytes / 64)), record(bump));
        let memory = CqMemory { lines: ring, entry_bytes, record, register: None, cqn: 0 };
        let cq = Cq::new(memory, Compression::Off, Device).expect("a power of two");
        fabric.cq(host, CqPlan { number: 0, ring, cqe_bytes, record, compress: Short::Never });
        let (lines, address) = slots(bump, config);
        let keys = &mut fabric.nodes[host].keys;
        keys.lines((KEYS[0], DOMAIN), address, lines, Rights::LOCAL);
        keys.machine((KEYS[1], DOMAIN), (0, u64::MAX), Rights::LOCAL);
        let cq = Completions::place(bump, cq, config.links).expect("room");
        let cq = &*bump.value(cq).expect("room");
        self.hosts.borrow_mut().push(Queues { cq, spare, used: BTreeMap::new() });
        // SAFETY: the device was told so above; the world's memory outlives its ports and the devices.
        let key = unsafe { Region::promise(lines, KEYS[0]) }.key();
        let all = core::ptr::NonNull::<u8>::dangling();
        // SAFETY: as above, all of it; the port names its posted buffers only, and nobody else has this key.
        let all = unsafe { MemoryKey::promise(all, u64::MAX - 1, KEYS[1]) };
        // SAFETY: devices of the model use what requests name until they have completed them, or the queue pair was destroyed, as it is when
        // it is dropped.
        let loans = Some(unsafe { Loans::promise(1, u64::MAX - 1, all) });
        let keys = DeviceKeys { devices: self, host, next: Cell::new(KEYS[2]) };
        Host { number: host, cq, keys, memory: Memory { lines, address, key, loans } }
    }

    fn connect(&'m self, hosts: [usize; 2]) -> [Connected<'m>; 2] {
        let (mut fabric, mut all) = (self.fabric.borrow_mut(), self.hosts.borrow_mut());
        let pairs = hosts.map(|number| {
            let host = &mut all[number];
            let unit = host.spare.pop_front().expect("as many as connections");
            let Unit { pair, memory } = unit;
            host.cq.add(pair).expect("there is room for all");
            host.used.insert(pair.qpn(), unit);
            let plan = QpPlan {
                rules: Rules { qpn: pair.qpn(), transport: Kind::Rc, inline_max: 64 },
                domain: DOMAIN,
                sq: memory.sq,
                rq: Receives::Ring(memory.rq, STRIDE),
                record: memory.record,
                register: memory.uar,
                cqs: (0, 0),
                qkey: 0,
                retries: 7,
                rnr_retries: 7,
                scatter_to_cqe: true,
            };
            fabric.qp(number, plan);
            pair
        });
        fabric.connect((hosts[0], pairs[0].qpn()), (hosts[1], pairs[1].qpn()));
        let connected = |at: usize| Connected { devices: self, host: hosts[at], pair: pairs[at] };
        [connected(0), connected(1)]
    }

    fn destroy(&'m self, host: usize, qp_num: u32) {
        let (mut fabric, mut all) = (self.fabric.borrow_mut(), self.hosts.borrow_mut());
        let queues = &mut all[host];
        let Some(unit) = queues.used.remove(&qp_num) else { return };
        fabric.destroy(host, qp_num);
        let removed = queues.cq.remove(qp_num).expect("not within a poll");
        assert!(removed.is_some(), "it was there");
        unit.pair.renew().expect("nothing holds it");
        queues.spare.push_back(unit);
    }

    fn settle(&self, _pace_ns: Option<u64>) {
        self.rest();
    }

    fn is_dead(&self, host: usize, qp_num: u32) -> bool {
        let is_there = self.hosts.borrow()[host].used.contains_key(&qp_num);
        !is_there || self.fabric.borrow().state(host, qp_num) == State::Error
    }

    fn violation(&self) -> Option<String> {
        let fabric = self.fabric.borrow();
        if fabric.totals.not_ready > 0 {
            return Some("a message came for which no receive was posted".to_owned());
        }
        (!fabric.violations.is_empty()).then(|| format!("{:?}", fabric.violations))
    }
}
