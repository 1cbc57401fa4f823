//! Queue pairs of mlx5 over a model of the device, for ports: made and destroyed by the host part that makes those of real devices, with nothing of
//! a library between the port and the rings.

use core::cell::{Cell, RefCell};
use core::fmt;
use std::collections::{BTreeSet, VecDeque};
use std::rc::Rc;

use spinwire_dataplane::error::{Fatal, PostError};
use spinwire_dataplane::provider::mlx5::{PairConfig, Route};
use spinwire_dataplane::provider::rdma::{
    Mailbox, Memory, RdmaConfig, RdmaDatagramsConfig, Registrar,
};
use spinwire_dataplane::provider::{Access, Sge};
use spinwire_dataplane::raw::line::Line;
use spinwire_dataplane::raw::place::Bump;
use spinwire_dataplane::raw::region::{Destroyed, Loans, MemoryKey, Region};
use spinwire_dataplane::sync::{AtomicU32, Ordering};
use spinwire_dataplane::verbs::{Destination, Limits, PairId, QueuePair as _, Segment};
use spinwire_dataplane::wqe::{Grh, RoceGrh, Transport};
use spinwire_hostshim::mlx5::dv::{DvCq, DvQp};
use spinwire_hostshim::mlx5::{
    Completions, CompletionsHandle, Mlx5Error, Pair, PairHandle, QueueConfig,
};

use super::rdma::{Host, Network, NetworkKind, RdmaRig};
use super::rdma_datagrams::{DatagramEnd, DatagramKind, DatagramNetwork, DatagramRig};
use super::rdma_fabric::{KEYS, slots};
use crate::sim::nic::memory::Access as Rights;
use crate::sim::nic::wqe::{Rules, Transport as Kind};
use crate::sim::nic::{CqPlan, Fabric, Manner, Node, QpPlan, Receives, Short, State};

/// Devices of mlx5, as the model of them is.
#[derive(Debug)]
pub struct Mlx5Model;

impl NetworkKind for Mlx5Model {
    type Network<'m> = Devices<'m>;
}

impl DatagramKind for Mlx5Model {
    type Network<'m> = Devices<'m>;
}

/// Ports for datagrams over such.
pub type Mlx5Dgram = DatagramRig<Mlx5Model>;

/// Ports over such.
pub type Mlx5<const UNCOPIED: bool> = RdmaRig<Mlx5Model, UNCOPIED>;

/// Where the queues of a pair lie, and its number.
#[derive(Clone, Copy)]
struct Unit<'m> {
    qpn: u32,
    sq: &'m [Line],
    rq: &'m [Line],
    record: &'m [AtomicU32; 2],
    uar: &'m [Line],
}

impl Unit<'_> {
    /// As it was when it was mapped.
    fn wipe(&self) {
        let lines = [self.sq, self.rq, self.uar].into_iter().flatten();
        lines.flat_map(Line::words).for_each(|word| word.store(0, Ordering::Relaxed));
        self.record.iter().for_each(|word| word.store(0, Ordering::Relaxed));
    }
}

/// A queue pair, as the model hands it to the host.
pub struct ModelPair<'m> {
    devices: &'m Devices<'m>,
    host: usize,
    unit: Unit<'m>,
    id: PairId,
}

impl fmt::Debug for ModelPair<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ModelPair({:#x})", self.unit.qpn)
    }
}

fn count(count: usize) -> u32 {
    u32::try_from(count).expect("a size of a queue")
}

/// As libmlx5 describes the queues that lie there. The register has two halves.
#[must_use]
pub fn describe_pair([sq, rq, uar]: [&[Line]; 3], record: &[AtomicU32; 2], stride: usize) -> DvQp {
    DvQp {
        dbrec: record.as_ptr().cast_mut().cast(),
        sq_buf: sq.as_ptr().cast_mut().cast(),
        sq_wqe_cnt: count(sq.len()),
        sq_stride: 64,
        rq_buf: rq.as_ptr().cast_mut().cast(),
        rq_wqe_cnt: count(rq.len() * 64 / stride),
        rq_stride: count(stride),
        bf_reg: uar.as_ptr().cast_mut().cast(),
        bf_size: u64::from(count(uar.len() * 32)),
        comp_mask: 0,
        uar_mmap_offset: 0,
        tirn: 0,
        tisn: 0,
        rqn: 0,
        sqn: 0,
        tir_icm_addr: 0,
    }
}

/// As libmlx5 describes a completion queue that lies there.
#[must_use]
pub fn describe_completions(
    ring: &[Line],
    record: &[AtomicU32; 2],
    (cqn, cqe_bytes): (u32, usize),
) -> DvCq {
    DvCq {
        buf: ring.as_ptr().cast_mut().cast(),
        dbrec: record.as_ptr().cast_mut().cast(),
        cqe_cnt: count(ring.len() * 64 / cqe_bytes),
        cqe_size: count(cqe_bytes),
        cq_uar: core::ptr::null_mut(),
        cqn,
        comp_mask: 0,
    }
}

#[expect(unsafe_code, reason = "a promise about a model of devices")]
// SAFETY: the queues lie in the arena of the world, which outlives all, and are used again after the handle was dropped. Keys are those of the
// data plane. A pair that the model has destroyed touches nothing any more.
unsafe impl<'m> PairHandle<'m> for ModelPair<'m> {
    type Key = MemoryKey<'m>;
    type Error = Mlx5Error;

    fn qp_num(&self) -> u32 {
        self.unit.qpn
    }

    fn id(&self) -> PairId {
        self.id
    }

    fn describe(&self) -> Result<DvQp, Mlx5Error> {
        let Unit { sq, rq, record, uar, .. } = self.unit;
        Ok(describe_pair([sq, rq, uar], record, STRIDE))
    }

    fn admits(&self, range: &Segment<MemoryKey<'m>>) -> Option<MemoryKey<'m>> {
        range.key.covers(range.address, range.length).then_some(range.key)
    }

    fn destroy(self) -> Result<Destroyed, Mlx5Error> {
        let id = self.id;
        drop(self);
        // SAFETY: it was, just now, and ids are counted.
        Ok(unsafe { Destroyed::promise(id) })
    }
}

impl Drop for ModelPair<'_> {
    fn drop(&mut self) {
        let Self { devices, host, unit, .. } = self;
        devices.fabric.borrow_mut().destroy(*host, unit.qpn);
        let mut hosts = devices.hosts.borrow_mut();
        hosts[*host].used.remove(&unit.qpn);
        unit.wipe();
        hosts[*host].spare.push_back(*unit);
    }
}

/// A completion queue, as the model hands it to the host.
#[derive(Debug)]
pub struct ModelCompletions<'m> {
    ring: &'m [Line],
    record: &'m [AtomicU32; 2],
    cqe_bytes: usize,
}

#[expect(unsafe_code, reason = "a promise about a model of devices")]
// SAFETY: it lies in the arena of the world, which outlives all, and belongs to this queue alone.
unsafe impl CompletionsHandle for ModelCompletions<'_> {
    fn describe(&self) -> Result<DvCq, Mlx5Error> {
        Ok(describe_completions(self.ring, self.record, (0, self.cqe_bytes)))
    }

    fn take_error(&self) -> Option<Fatal> {
        None
    }
}

type HostPair<'m> = Pair<'m, ModelPair<'m>, ModelCompletions<'m>>;
type HostCq<'m> = Completions<'m, ModelPair<'m>, ModelCompletions<'m>>;

/// A device of a host: its completion queue, and its queue pairs. One that comes back is used again as late as can be.
struct Queues<'m> {
    cq: &'m Rc<HostCq<'m>>,
    kind: Kind,
    config: QueueConfig,
    spare: VecDeque<Unit<'m>>,
    used: BTreeSet<u32>,
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
    /// Queue pairs for datagrams, one a host.
    datagrams: RefCell<Vec<&'m HostPair<'m>>>,
    /// The id of the next queue pair.
    next_id: Cell<u64>,
}

impl<'m> Devices<'m> {
    /// Makes a queue pair of a host.
    fn pair(&'m self, host: usize) -> HostPair<'m> {
        let (unit, cq, kind, config) = {
            let queues = &mut self.hosts.borrow_mut()[host];
            let unit = queues.spare.pop_front().expect("as many as connections");
            queues.used.insert(unit.qpn);
            (unit, queues.cq, queues.kind, queues.config)
        };
        let plan = QpPlan {
            rules: Rules { qpn: unit.qpn, transport: kind, inline_max: 64 },
            domain: DOMAIN,
            sq: unit.sq,
            rq: Receives::Ring(unit.rq, STRIDE),
            record: unit.record,
            register: unit.uar,
            cqs: (0, 0),
            qkey: QKEY,
            retries: 7,
            rnr_retries: 7,
            scatter_to_cqe: true,
        };
        self.fabric.borrow_mut().qp(host, plan);
        let id = PairId::from_raw(self.next_id.replace(self.next_id.get() + 1));
        let made = Pair::new(cq, ModelPair { devices: self, host, unit, id }, &config);
        made.expect("sizes that go together")
    }

    /// A device with room for so many queue pairs, and a completion queue for all of them. Its number.
    fn machine(
        &'m self,
        bump: &Bump<'m>,
        (kind, pairs): (Kind, u32),
        config: QueueConfig,
    ) -> (usize, &'m Rc<HostCq<'m>>) {
        let mut fabric = self.fabric.borrow_mut();
        let host = fabric.node();
        let first = (u32::try_from(host).expect("few hosts") + 1) << 8;
        let spare: VecDeque<_> =
            (0..pairs).map(|number| unit(bump, first | number, &config)).collect();
        let blocks = |unit: &Unit<'_>| unit.sq.len() + unit.rq.len() * 64 / STRIDE;
        let entries: usize = spare.iter().map(blocks).sum();
        // Every other host has wide entries.
        let cqe_bytes = if host.is_multiple_of(2) { 64 } else { 128 };
        let ring = lines(bump, entries.next_power_of_two() * (cqe_bytes / 64));
        let record = record(bump);
        let handle = ModelCompletions { ring, record, cqe_bytes };
        let cq = Completions::new(handle, pairs).expect("a queue of that size");
        let cq = &*bump.value(cq).expect("room");
        fabric.cq(host, CqPlan { number: 0, ring, cqe_bytes, record, compress: Short::Never });
        let used = BTreeSet::new();
        self.hosts.borrow_mut().push(Queues { cq, kind, config, spare, used });
        (host, cq)
    }

    /// Registers the slots of a host.
    #[expect(unsafe_code, reason = "the rig says what is registered")]
    fn register_slots(&self, host: usize, (lines, address): (&'m [Line], u64)) -> MemoryKey<'m> {
        let keys = &mut self.fabric.borrow_mut().nodes[host].keys;
        keys.lines((KEYS[0], DOMAIN), address, lines, Rights::LOCAL);
        // SAFETY: the device was told so just now; the world's memory outlives its ports and the devices.
        unsafe { Region::promise(lines, KEYS[0]) }.key()
    }

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
/// The key of datagrams.
const QKEY: u32 = 0x1234_5678;
/// Bytes of a receive: two segments.
const STRIDE: usize = 32;
/// Steps within which everything comes to rest.
const STEPS: usize = 200_000;
/// Hosts of datagrams.
const HOSTS_MAX: u32 = 64;
/// One block a request: two ranges, or what fits beside a remote address.
const PAIR: PairConfig = PairConfig::DEFAULT;

fn lines<'m>(bump: &Bump<'m>, count: usize) -> &'m [Line] {
    bump.slice_with(count, |_| Line::zeroed()).expect("room")
}

fn record<'m>(bump: &Bump<'m>) -> &'m [AtomicU32; 2] {
    bump.value([AtomicU32::new(0), AtomicU32::new(0)]).expect("room")
}

/// Room for a queue pair of that number, for as many requests as the port wants.
fn unit<'m>(bump: &Bump<'m>, qpn: u32, config: &QueueConfig) -> Unit<'m> {
    let depth = |wanted: u32| usize::try_from(wanted.next_power_of_two()).expect("a depth");
    let each = u32::from(config.pair.wqe_blocks(config.transport));
    // With room for fill, where there may be some.
    let (blocks, wqes) = (depth(config.send_depth * each + each - 1), depth(config.recv_depth));
    Unit {
        qpn,
        sq: lines(bump, blocks),
        rq: lines(bump, (wqes * STRIDE).div_ceil(64)),
        record: record(bump),
        uar: lines(bump, 2),
    }
}

impl<'m> Network<'m> for Devices<'m> {
    type Pair = HostPair<'m>;
    type Cq = &'m HostCq<'m>;
    type Keys = DeviceKeys<'m>;

    fn lay() -> Self {
        // The suite takes datagrams as the loopback interface hands them on.
        let manner = Manner {
            tears: 1,
            loses: 2,
            timeout: 200,
            keeps_order: true,
            datagram_bytes_max: 16 << 10,
            ..Manner::default()
        };
        Self {
            fabric: RefCell::new(Fabric::new(1, 0, manner)),
            hosts: RefCell::default(),
            datagrams: RefCell::default(),
            next_id: Cell::new(1),
        }
    }

    #[expect(unsafe_code, reason = "the rig says what is registered")]
    fn host(&'m self, bump: &Bump<'m>, config: &RdmaConfig) -> Host<'m, Self> {
        let queues = QueueConfig {
            transport: Transport::Rc { path: None },
            send_depth: config.pair().send_depth,
            recv_depth: config.pair().recv_depth,
            pair: PAIR,
        };
        let (host, cq) = self.machine(bump, (Kind::Rc, config.links), queues);
        let (lines, address) = slots(bump, config);
        let key = self.register_slots(host, (lines, address));
        let keys = &mut self.fabric.borrow_mut().nodes[host].keys;
        keys.machine((KEYS[1], DOMAIN), (0, u64::MAX), Rights::LOCAL);
        let all = core::ptr::NonNull::<u8>::dangling();
        // SAFETY: as above, all of it; the port names its posted buffers only, and nobody else has this key.
        let all = unsafe { MemoryKey::promise(all, u64::MAX - 1, KEYS[1]) };
        // SAFETY: devices of the model use what requests name until they have completed them, or the queue pair was destroyed, as it is when
        // it is dropped.
        let loans = Some(unsafe { Loans::promise(1, u64::MAX - 1, all) });
        let keys = DeviceKeys { devices: self, host, next: Cell::new(KEYS[2]) };
        Host { number: host, cq: &**cq, keys, memory: Memory { lines, address, key, loans } }
    }

    fn connect(&'m self, hosts: [usize; 2]) -> [HostPair<'m>; 2] {
        let pairs = hosts.map(|number| self.pair(number));
        let [one, other] = pairs.each_ref().map(Pair::qp_num);
        self.fabric.borrow_mut().connect((hosts[0], one), (hosts[1], other));
        pairs
    }

    fn destroy(&'m self, host: usize, qp_num: u32) {
        self.hosts.borrow_mut()[host].used.remove(&qp_num);
        self.fabric.borrow_mut().destroy(host, qp_num);
    }

    fn settle(&self, _pace_ns: Option<u64>) {
        self.rest();
    }

    fn is_dead(&self, host: usize, qp_num: u32) -> bool {
        let is_there = self.hosts.borrow()[host].used.contains(&qp_num);
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

impl<'m> DatagramNetwork<'m> for Devices<'m> {
    type Pair = &'m HostPair<'m>;
    type Cq = &'m HostCq<'m>;

    fn lay() -> Self {
        <Self as Network<'m>>::lay()
    }

    fn open(
        &'m self,
        bump: &Bump<'m>,
        (lines, config): (&'m [Line], &RdmaDatagramsConfig),
    ) -> (DatagramEnd<'m, Self>, Mailbox) {
        let Limits { send_depth, recv_depth, .. } = config.pair();
        let pair = PairConfig { message_bytes_max: 16 << 10, routes_max: HOSTS_MAX, ..PAIR };
        let queues = QueueConfig { transport: Transport::Ud, send_depth, recv_depth, pair };
        let (host, cq) = self.machine(bump, (Kind::UdRoce, 1), queues);
        let address = u64::try_from(lines.as_ptr().expose_provenance()).unwrap();
        let key = self.register_slots(host, (lines, address));
        let pair = &*bump.value(self.pair(host)).expect("room");
        // Each host is found in the row of its number, at everybody's.
        let mut datagrams = self.datagrams.borrow_mut();
        datagrams.push(pair);
        for one in &*datagrams {
            for (row, other) in (0..).zip(&self.fabric.borrow().nodes) {
                one.set_route(row, route(other)).expect("few hosts");
            }
        }
        let handle = count(host);
        let to = Destination { handle, qp_num: pair.qp_num(), qkey: QKEY };
        let gid = self.fabric.borrow().nodes[host].gid;
        let memory = Memory { lines, address, key, loans: None };
        (DatagramEnd { pair, cq: &**cq, memory }, Mailbox { gid, to })
    }

    fn settle(&self) {
        self.rest();
    }

    fn violation(&self) -> Option<String> {
        Network::violation(self)
    }
}

const fn route(to: &Node<'_>) -> Route {
    let grh = Grh { dgid: to.gid, sgid_index: 3, flow_label: 0, traffic_class: 0, hop_limit: 64 };
    let (mac, udp_source_port) = (to.mac, 0xc000);
    Route::Roce(RoceGrh { grh, mac, priority: 0, static_rate: 0, udp_source_port })
}
