//! Rigs: how to make and kill the ports of one provider, all of them in plain memory and in one thread.

use core::cell::RefCell;
use std::collections::BTreeMap;

use spinwire_dataplane::id::{Addr, Name};
use spinwire_dataplane::msg::matching::MatchingConfig;
use spinwire_dataplane::provider::fault::{Fault, FaultConfig};
use spinwire_dataplane::provider::loopback::{Hub, HubConfig, Port, PortConfig};
use spinwire_dataplane::provider::shm::{ShmConfig, ShmPort};
use spinwire_dataplane::provider::trace::Trace;
use spinwire_dataplane::provider::{Caps, EndpointType, Provider};
use spinwire_dataplane::raw::line::Line;
use spinwire_dataplane::raw::loan::LoanPool;
use spinwire_dataplane::raw::place::Bump;
use spinwire_dataplane::shm::lease::{self, Joiner};
use spinwire_dataplane::shm::segment::Identity;
use spinwire_dataplane::shm::{Geometry, ProcessLease, Segment, directory, lane_table, reclaim};
use spinwire_hostshim::open::AnyPort;
use spinwire_layouts::shm::LaneState;

use super::world::name;

/// How much everything holds. Small, so that every table can be filled.
#[derive(Clone, Copy, Debug)]
pub struct Sizes {
    /// Endpoints at once.
    pub endpoints: u32,
    /// Pairs of endpoints that send to each other, each direction counted.
    pub pairs: u32,
    /// Messages under way from one endpoint to one other; a power of two from 8 on.
    pub link_depth: u32,
    /// Longest message, in bytes; a power of two from 512 on.
    pub message_bytes_max: u32,
    /// Rows of an address table.
    pub peers_max: u32,
    /// Sends of an endpoint; a power of two.
    pub send_depth: u32,
    /// Receives of an endpoint.
    pub recv_depth: u32,
    /// Messages of an endpoint that may wait for a receive.
    pub unexpected_depth: u32,
    /// Longest message that may wait, in bytes.
    pub unexpected_bytes_max: usize,
    /// Operations of an endpoint.
    pub contexts_max: u32,
    /// Ranges of memory that an endpoint may expose, where it can.
    pub regions_max: u32,
}

impl Default for Sizes {
    fn default() -> Self {
        Self {
            endpoints: 12,
            pairs: 40,
            link_depth: 16,
            message_bytes_max: 8192,
            peers_max: 12,
            send_depth: 16,
            recv_depth: 32,
            unexpected_depth: 8,
            unexpected_bytes_max: 256,
            contexts_max: 64,
            regions_max: 4,
        }
    }
}

impl Sizes {
    /// The queues of an endpoint.
    #[must_use]
    pub const fn matching(&self) -> MatchingConfig {
        MatchingConfig {
            recv_depth: self.recv_depth,
            unexpected_depth: self.unexpected_depth,
            unexpected_bytes_max: self.unexpected_bytes_max,
        }
    }

    /// The segment that holds as much.
    #[must_use]
    pub const fn geometry(&self) -> Geometry {
        Geometry {
            process_count: self.endpoints,
            endpoint_count: self.endpoints,
            lane_count: self.pairs,
            lane_cell_count: self.link_depth,
            lane_spill_bytes: self.message_bytes_max * 2,
        }
    }

    /// The configuration of an endpoint in that segment.
    #[must_use]
    pub const fn shm(&self) -> ShmConfig {
        ShmConfig {
            peers_max: self.peers_max,
            send_depth: self.send_depth,
            matching: self.matching(),
        }
    }
}

/// A provider, and what its ports share.
pub trait Rig: Sized + 'static {
    /// What the ports share.
    type Ground<'m>;
    /// A port.
    type Port<'m>: Provider;
    /// The endpoint types that it has.
    const TYPES: &'static [EndpointType];
    /// Whether it refuses and delays now and then without need.
    const FAULTS: bool = false;
    /// Whether long messages can run out of room before the messages run out of places.
    const SPILLS: bool = true;
    /// Whether both ends have to turn before the first message is taken: what the other end is, and whether it takes a connection, is
    /// known only then.
    const MEETS: bool = false;
    /// Whether a port that others hold for dead finds that out. Where nobody can take its connections away from it, it is not.
    const FENCES: bool = true;
    /// Whether what is refused on the memory of a peer ends the connection to it.
    const REFUSALS_END: bool = false;
    /// Whether exposed memory ends where its region does. A key that opens a whole arena lets one into what is beside it.
    const BOUNDS: bool = true;
    /// Whether a write has to complete before a message that is to be seen after it may be posted.
    const WRITES_COMPLETE_FIRST: bool = false;
    /// What its ports do not have of that which the suite wants of all.
    const LACKS: Caps = Caps::NONE;
    /// Floods are so many times shorter, and what comes round again comes round less often. For devices that the kernel of an emulated machine plays.
    const SHORTENED: u32 = 1;
    /// No message is longer; a power of two. For ports whose packets hold no more.
    const MESSAGE_BYTES_MAX: u32 = 1 << 31;
    /// Whether there is what its ports stand on. Where there is not, it says so, and no case is run.
    #[must_use]
    fn is_here() -> bool {
        true
    }
    /// Begins to meet a peer, where that takes turns. Whether they have met.
    fn has_met(_port: &Self::Port<'_>, _peer: Addr) -> bool {
        true
    }
    /// Lines of foreign memory that the ground needs.
    #[must_use]
    fn lines(_sizes: &Sizes) -> usize {
        0
    }
    /// Makes what the ports share.
    fn lay<'m>(lines: &'m [Line], bump: &Bump<'m>, sizes: &Sizes) -> Self::Ground<'m>;
    /// Buffers that all nodes lend from. Before any port is opened.
    fn know_pool<'m>(_ground: &'m Self::Ground<'m>, _pool: &'m LoanPool<'m>) {}
    /// Opens a port. Refusals come back as text.
    ///
    /// # Errors
    /// What the provider says.
    fn open<'m>(
        ground: &'m Self::Ground<'m>,
        bump: &Bump<'m>,
        who: (&Name, EndpointType),
        sizes: &Sizes,
    ) -> Result<Self::Port<'m>, String>;
    /// Somebody has found that a port is dead, and says so. What it held is not taken back yet.
    fn mark_dead<'m>(_ground: &'m Self::Ground<'m>, _who: &Name) {}
    /// Ends a port as a killed process would end: all that it held is taken back. Whoever holds it forgets it before or
    /// afterwards, or finds it fenced.
    fn kill<'m>(ground: &'m Self::Ground<'m>, who: &Name);
    /// What is still taken after all ports were dropped or killed; empty where nothing is.
    fn leftovers<'m>(ground: &'m Self::Ground<'m>) -> String;
}

/// Ports of a hub.
#[derive(Debug)]
pub struct Loopback;

impl Rig for Loopback {
    type Ground<'m> = Hub<'m>;
    type Port<'m> = Port<'m, 'm>;
    const TYPES: &'static [EndpointType] =
        &[EndpointType::Msg, EndpointType::Rdm, EndpointType::Dgram];
    const SPILLS: bool = false;

    fn lay<'m>(_lines: &'m [Line], bump: &Bump<'m>, sizes: &Sizes) -> Hub<'m> {
        let config = HubConfig {
            ports_max: sizes.endpoints,
            link_depth: sizes.link_depth,
            messages_max: sizes.link_depth * 12,
            message_bytes_max: usize::try_from(sizes.message_bytes_max).unwrap(),
        };
        Hub::place(bump, &config).unwrap()
    }

    fn open<'m>(
        hub: &'m Hub<'m>,
        bump: &Bump<'m>,
        who: (&Name, EndpointType),
        sizes: &Sizes,
    ) -> Result<Port<'m, 'm>, String> {
        let config = PortConfig {
            peers_max: sizes.peers_max,
            send_depth: sizes.send_depth,
            matching: sizes.matching(),
            regions_max: sizes.regions_max,
        };
        Port::open(hub, bump, who, &config).map_err(|e| e.to_string())
    }

    fn kill<'m>(hub: &'m Hub<'m>, who: &Name) {
        assert!(hub.kill(who), "there is a port {who}");
    }

    fn leftovers<'m>(hub: &'m Hub<'m>) -> String {
        match (hub.messages_len(), hub.requests_len()) {
            (0, 0) => String::new(),
            (messages, requests) => format!("{messages} messages, {requests} requests"),
        }
    }
}

/// Endpoints of a segment, each in a process of its own.
#[derive(Debug)]
pub struct Shm;

/// A segment, and which process slot each name has.
#[derive(Debug)]
pub struct ShmGround<'m> {
    /// The segment.
    pub segment: Segment<'m>,
    leases: RefCell<BTreeMap<String, ProcessLease>>,
}

impl<'m> ShmGround<'m> {
    /// A fresh segment in `lines`.
    #[must_use]
    pub fn new(lines: &'m [Line], sizes: &Sizes) -> Self {
        let identity = Identity {
            name: name("ground"),
            boot_id: [7; 16],
            created_unix_ns: 1,
            pid: 1,
            start_time: 1,
            page_bytes: 4096,
            pid_namespace: 0,
        };
        let made = Segment::format(lines, sizes.geometry(), &identity).unwrap();
        assert_eq!(made.geometry(), &sizes.geometry());
        let segment = Segment::attach(lines).unwrap();
        Self { segment, leases: RefCell::default() }
    }

    /// Joins as a process of its own. What processes that have dropped their endpoint held is taken back first.
    #[must_use]
    pub fn join(&self) -> ProcessLease {
        self.bury_those_without_endpoint();
        let joiner = Joiner { pid: 1000, start_time: 5, joined_unix_ns: 1, command: [0; 64] };
        lease::join(&self.segment, &joiner).unwrap()
    }

    /// The row of a process as the table shows it.
    fn row(&self, lease: &ProcessLease) -> Option<lease::ProcessRow> {
        lease::rows(&self.segment).find(|row| row.slot == lease.slot())
    }

    /// Marks a process dead, and takes back what it held.
    pub fn kill(&self, who: &Name) {
        let lease = self.leases.borrow_mut().remove(who.as_str()).expect("it joined");
        self.bury(&lease);
    }

    fn is_full(&self) -> bool {
        self.bury_those_without_endpoint();
        let taken = lease::rows(&self.segment).count();
        taken == usize::try_from(self.segment.geometry().process_count).unwrap()
    }

    fn mark(&self, lease: &ProcessLease) -> u16 {
        let row = self.row(lease).expect("it is in the table");
        assert!(lease::mark_dead(&self.segment, row.slot, row.lease), "it was there");
        row.slot
    }

    fn bury(&self, lease: &ProcessLease) {
        let slot = self.mark(lease);
        assert!(reclaim::reclaim(&self.segment, slot), "it was dead");
        // Another survivor comes too late.
        assert!(!reclaim::reclaim(&self.segment, slot), "it is free");
    }

    /// Processes whose endpoint was dropped: here, each has just one.
    fn bury_those_without_endpoint(&self) {
        let segment = &self.segment;
        let live: Vec<u16> = directory::rows(segment).map(|row| row.process).collect();
        self.leases.borrow_mut().retain(|_, lease| {
            let stays = live.contains(&lease.slot());
            if !stays {
                self.bury(lease);
            }
            stays
        });
    }
}

impl Rig for Shm {
    type Ground<'m> = ShmGround<'m>;
    type Port<'m> = ShmPort<'m, 'm>;
    const TYPES: &'static [EndpointType] = &[EndpointType::Msg, EndpointType::Rdm];

    fn lines(sizes: &Sizes) -> usize {
        usize::try_from(sizes.geometry().segment_bytes().unwrap()).unwrap().div_ceil(64)
    }

    fn lay<'m>(lines: &'m [Line], _bump: &Bump<'m>, sizes: &Sizes) -> ShmGround<'m> {
        ShmGround::new(lines, sizes)
    }

    fn open<'m>(
        ground: &'m ShmGround<'m>,
        bump: &Bump<'m>,
        who: (&Name, EndpointType),
        sizes: &Sizes,
    ) -> Result<ShmPort<'m, 'm>, String> {
        if ground.is_full() {
            return Err("no process slot".into());
        }
        let lease = ground.join();
        match ShmPort::open(ground.segment, lease, bump, who, &sizes.shm()) {
            Ok(port) => {
                ground.leases.borrow_mut().insert(who.0.to_string(), lease);
                Ok(port)
            }
            Err(refused) => {
                ground.bury(&lease);
                Err(refused.to_string())
            }
        }
    }

    fn mark_dead<'m>(ground: &'m ShmGround<'m>, who: &Name) {
        let lease = ground.leases.borrow().get(who.as_str()).copied();
        ground.mark(&lease.expect("it joined"));
    }

    fn kill<'m>(ground: &'m ShmGround<'m>, who: &Name) {
        ground.kill(who);
    }

    fn leftovers<'m>(ground: &'m ShmGround<'m>) -> String {
        ground.bury_those_without_endpoint();
        let segment = &ground.segment;
        let taken = |lane: &u32| {
            let word = lane_table::state_of(segment, *lane);
            word.is_none_or(|word| word.state != LaneState::Free)
        };
        let lanes = (0..segment.geometry().lane_count).filter(taken).count();
        let processes = lease::rows(segment).count();
        let endpoints = directory::rows(segment).count();
        if (lanes, processes, endpoints) == (0, 0, 0) {
            return String::new();
        }
        format!("{lanes} lanes, {processes} processes, {endpoints} endpoints")
    }
}

/// [`Shm`], behind the branch that stands for any transport.
#[derive(Debug)]
pub struct AnyShm;

impl Rig for AnyShm {
    type Ground<'m> = ShmGround<'m>;
    type Port<'m> = AnyPort<'m>;
    const TYPES: &'static [EndpointType] = Shm::TYPES;

    fn lines(sizes: &Sizes) -> usize {
        Shm::lines(sizes)
    }

    fn lay<'m>(lines: &'m [Line], bump: &Bump<'m>, sizes: &Sizes) -> Self::Ground<'m> {
        Shm::lay(lines, bump, sizes)
    }

    fn open<'m>(
        ground: &'m Self::Ground<'m>,
        bump: &Bump<'m>,
        who: (&Name, EndpointType),
        sizes: &Sizes,
    ) -> Result<Self::Port<'m>, String> {
        Shm::open(ground, bump, who, sizes).map(AnyPort::Shm)
    }

    fn mark_dead<'m>(ground: &'m Self::Ground<'m>, who: &Name) {
        Shm::mark_dead(ground, who);
    }

    fn kill<'m>(ground: &'m Self::Ground<'m>, who: &Name) {
        Shm::kill(ground, who);
    }

    fn leftovers<'m>(ground: &'m Self::Ground<'m>) -> String {
        Shm::leftovers(ground)
    }
}

/// Another rig behind the fault wrapper. Everything that a reliable provider may do goes wrong often; what only an
/// unreliable one may do is asked for as well, and must not happen.
#[derive(Debug)]
pub struct Faulty<R, const SEED: u64>(R);

impl<R: Rig, const SEED: u64> Rig for Faulty<R, SEED> {
    type Ground<'m> = R::Ground<'m>;
    type Port<'m> = Fault<'m, R::Port<'m>>;
    const TYPES: &'static [EndpointType] = &[EndpointType::Msg, EndpointType::Rdm];
    const FAULTS: bool = true;
    const SPILLS: bool = R::SPILLS;

    fn lines(sizes: &Sizes) -> usize {
        R::lines(sizes)
    }

    fn lay<'m>(lines: &'m [Line], bump: &Bump<'m>, sizes: &Sizes) -> Self::Ground<'m> {
        R::lay(lines, bump, sizes)
    }

    fn open<'m>(
        ground: &'m Self::Ground<'m>,
        bump: &Bump<'m>,
        who: (&Name, EndpointType),
        sizes: &Sizes,
    ) -> Result<Self::Port<'m>, String> {
        let inner = R::open(ground, bump, who, sizes)?;
        let letters = who.0.as_str().bytes().fold(0, |sum, letter| sum * 31 + u64::from(letter));
        let config = FaultConfig {
            seed: SEED.wrapping_add(letters),
            refuse_ppm: 100_000,
            fail_ppm: 100_000,
            delay_ppm: 100_000,
            reorder_ppm: 100_000,
            drop_ppm: 500_000,
            duplicate_ppm: 500_000,
            ..FaultConfig::default()
        };
        Fault::place(inner, bump, &config).map_err(|e| e.to_string())
    }

    fn mark_dead<'m>(ground: &'m Self::Ground<'m>, who: &Name) {
        R::mark_dead(ground, who);
    }

    fn kill<'m>(ground: &'m Self::Ground<'m>, who: &Name) {
        R::kill(ground, who);
    }

    fn leftovers<'m>(ground: &'m Self::Ground<'m>) -> String {
        R::leftovers(ground)
    }
}

/// Another rig behind the trace wrapper.
#[derive(Debug)]
pub struct Traced<R>(R);

impl<R: Rig> Rig for Traced<R> {
    type Ground<'m> = R::Ground<'m>;
    type Port<'m> = Trace<'m, R::Port<'m>>;
    const TYPES: &'static [EndpointType] = R::TYPES;
    const FAULTS: bool = R::FAULTS;
    const SPILLS: bool = R::SPILLS;

    fn lines(sizes: &Sizes) -> usize {
        R::lines(sizes)
    }

    fn lay<'m>(lines: &'m [Line], bump: &Bump<'m>, sizes: &Sizes) -> Self::Ground<'m> {
        R::lay(lines, bump, sizes)
    }

    fn open<'m>(
        ground: &'m Self::Ground<'m>,
        bump: &Bump<'m>,
        who: (&Name, EndpointType),
        sizes: &Sizes,
    ) -> Result<Self::Port<'m>, String> {
        let inner = R::open(ground, bump, who, sizes)?;
        Trace::place(inner, bump, 64).map_err(|e| e.to_string())
    }

    fn mark_dead<'m>(ground: &'m Self::Ground<'m>, who: &Name) {
        R::mark_dead(ground, who);
    }

    fn kill<'m>(ground: &'m Self::Ground<'m>, who: &Name) {
        R::kill(ground, who);
    }

    fn leftovers<'m>(ground: &'m Self::Ground<'m>) -> String {
        R::leftovers(ground)
    }
}
