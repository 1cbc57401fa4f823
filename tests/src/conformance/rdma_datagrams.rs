//! Ports for datagrams over simulated devices, and over whatever else has queue pairs for them.

use core::cell::RefCell;
use core::fmt;
use core::marker::PhantomData;
use std::collections::BTreeMap;

use heapless::VecView;
use spinwire_dataplane::error::{Misuse, PostError};
use spinwire_dataplane::id::{Addr, Name, WrId};
use spinwire_dataplane::provider::rdma::{Mailbox, Memory, RdmaDatagrams, RdmaDatagramsConfig};
use spinwire_dataplane::provider::{
    Access, CancelError, Cqe, EndpointType, Event, Info, KeepsPosted, Provider, Published,
    RecvPartsWr, RecvWr, Select, SendPartsWr, SendWr, Source, Waiting,
};
use spinwire_dataplane::raw::line::Line;
use spinwire_dataplane::raw::place::Bump;
use spinwire_dataplane::time::{Instant, Nanos};
use spinwire_dataplane::verbs::{CompletionQueue, Limits, QueuePair};

use super::{Rig, Sizes};
use crate::sim::fabric::{Fabric, Links, SimCq, SimQp};

/// A network of devices for datagrams, and a port's share of it.
pub trait DatagramNetwork<'m>: fmt::Debug + Sized {
    /// A queue pair.
    type Pair: QueuePair;
    /// Where it completes.
    type Cq: CompletionQueue;

    /// A network without hosts.
    fn lay() -> Self;

    /// A host with one queue pair, which uses those lines as slots; and where others find it.
    fn open(
        &'m self,
        bump: &Bump<'m>,
        of_port: (&'m [Line], &RdmaDatagramsConfig),
    ) -> (DatagramEnd<'m, Self>, Mailbox);

    /// Lets everything that is under way happen.
    fn settle(&self);

    /// What somebody has done wrong.
    fn violation(&self) -> Option<String>;
}

/// What a port stands on.
#[derive(Debug)]
pub struct DatagramEnd<'m, N: DatagramNetwork<'m>> {
    /// The queue pair.
    pub pair: N::Pair,
    /// Where it completes.
    pub cq: N::Cq,
    /// Its slots.
    pub memory: Memory<'m, N::Pair, N::Cq>,
}

/// Which network.
pub trait DatagramKind: fmt::Debug + 'static {
    /// It.
    type Network<'m>: DatagramNetwork<'m>;
}

/// Ports for datagrams over such a network.
#[derive(Debug)]
pub struct DatagramRig<K>(PhantomData<K>);

/// Devices that are simulated at the traits of verbs.
#[derive(Debug)]
pub struct SimulatedDatagrams;

impl DatagramKind for SimulatedDatagrams {
    type Network<'m> = Fabric;
}

/// Ports for datagrams over such.
pub type RdmaDgram = DatagramRig<SimulatedDatagrams>;

impl<'m> DatagramNetwork<'m> for Fabric {
    type Pair = SimQp<'m>;
    type Cq = SimCq<'m>;

    fn lay() -> Self {
        Self::new(1, 0, Links::QUIET, 1)
    }

    fn open(
        &'m self,
        _bump: &Bump<'m>,
        (lines, config): (&'m [Line], &RdmaDatagramsConfig),
    ) -> (DatagramEnd<'m, Self>, Mailbox) {
        let host = self.add_host();
        let address = u64::try_from(lines.as_ptr().expose_provenance()).unwrap();
        self.register(host, 7, (address, config.memory_bytes()), Access::NONE);
        let limits = Limits { message_bytes_max: 16 << 10, ..config.pair() };
        let (pair, (gid, to)) = self.datagrams(host, limits);
        let cq = self.cq(host, 0, config.completions());
        let memory = Memory { lines, address, key: 7, loans: None };
        (DatagramEnd { pair, cq, memory }, Mailbox { gid, to })
    }

    fn settle(&self) {
        while self.advance(3_000) {}
    }

    fn violation(&self) -> Option<String> {
        self.violation().map(|violation| format!("{violation:?}"))
    }
}

type Port<'m, N> =
    RdmaDatagrams<'m, <N as DatagramNetwork<'m>>::Pair, <N as DatagramNetwork<'m>>::Cq>;

/// The network, and who is found where.
#[derive(Debug)]
pub struct RdmaDgramGround<N> {
    network: N,
    listed: RefCell<BTreeMap<String, Mailbox>>,
}

impl RdmaDgramGround<Fabric> {
    /// The network.
    #[must_use]
    pub const fn fabric(&self) -> &Fabric {
        &self.network
    }
}

impl<N> RdmaDgramGround<N> {
    /// Where a port is found.
    #[must_use]
    pub fn find(&self, name: &str) -> Mailbox {
        self.listed.borrow()[name]
    }
}

/// A port whose host answers at once.
#[derive(Debug)]
pub struct HostedDgram<'m, N: DatagramNetwork<'m>> {
    port: Port<'m, N>,
    ground: &'m RdmaDgramGround<N>,
}

impl<'m, N: DatagramNetwork<'m>> HostedDgram<'m, N> {
    /// The port itself.
    #[must_use]
    pub const fn rdma(&self) -> &Port<'m, N> {
        &self.port
    }
}

#[expect(unsafe_code, reason = "a promise, which its port keeps")]
// SAFETY: it hands everything on to its port, which goes with it, or is never turned again.
unsafe impl<'m, N: DatagramNetwork<'m>> KeepsPosted for HostedDgram<'m, N> {}

impl<'m, N: DatagramNetwork<'m>> Provider for HostedDgram<'m, N> {
    fn info(&self) -> &Info {
        self.port.info()
    }
    fn connect(&self, name: &Name) -> Result<Addr, PostError> {
        match self.ground.listed.borrow().get(name.as_str()) {
            Some(mailbox) => self.port.set_route(name, *mailbox).unwrap(),
            None => self.port.forget_route(name),
        }
        self.port.connect(name)
    }
    fn disconnect(&self, addr: Addr) -> Result<(), Misuse> {
        self.port.disconnect(addr)
    }
    fn post_send(&self, wr: &SendWr<'_>) -> Result<(), PostError> {
        self.port.post_send(wr)
    }
    fn post_send_parts(&self, wr: &SendPartsWr<'_>) -> Result<(), PostError> {
        self.port.post_send_parts(wr)
    }
    fn post_recv_parts(&self, wr: &RecvPartsWr<'_>) -> Result<(), PostError> {
        self.port.post_recv_parts(wr)
    }
    fn post_recv(&self, wr: &RecvWr) -> Result<(), PostError> {
        self.port.post_recv(wr)
    }
    fn ring_doorbell(&self) -> Published {
        self.port.ring_doorbell()
    }
    fn poll_cq(&self, now: Instant, out: &mut VecView<Cqe>) {
        self.ground.network.settle();
        self.port.poll_cq(now, out);
        while let Some((addr, gid, qp_num)) = self.port.next_unresolved() {
            let listed = self.ground.listed.borrow();
            let is_it = |mailbox: &&Mailbox| (mailbox.gid, mailbox.to.qp_num) == (gid, qp_num);
            if let Some(mailbox) = listed.values().find(is_it) {
                self.port.resolve(addr, mailbox.to).unwrap();
            }
        }
        assert_eq!(self.ground.network.violation(), None);
    }
    fn poll_event(&self) -> Option<Event> {
        self.port.poll_event()
    }
    fn cancel(&self, wr_id: WrId) -> Result<(), CancelError> {
        self.port.cancel(wr_id)
    }
    fn peek(&self, from: Source, select: Select) -> Option<Waiting> {
        self.port.peek(from, select)
    }
}

impl<K: DatagramKind> Rig for DatagramRig<K> {
    type Ground<'m> = RdmaDgramGround<K::Network<'m>>;
    type Port<'m> = HostedDgram<'m, K::Network<'m>>;
    const TYPES: &'static [EndpointType] = &[EndpointType::Dgram];
    const SPILLS: bool = false;

    fn lay<'m>(_lines: &'m [Line], _bump: &Bump<'m>, _sizes: &Sizes) -> Self::Ground<'m> {
        RdmaDgramGround { network: K::Network::lay(), listed: RefCell::default() }
    }

    fn open<'m>(
        ground: &'m Self::Ground<'m>,
        bump: &Bump<'m>,
        (name, _dgram): (&Name, EndpointType),
        sizes: &Sizes,
    ) -> Result<Self::Port<'m>, String> {
        let config = RdmaDatagramsConfig {
            peers_max: sizes.peers_max,
            age_min: Nanos::new(1),
            send_depth: sizes.send_depth,
            matching: sizes.matching(),
            message_bytes_max: sizes.message_bytes_max,
            receives: sizes.recv_depth.max(64),
            routes_max: 64,
            ..RdmaDatagramsConfig::default()
        };
        let bytes = usize::try_from(config.memory_bytes()).unwrap();
        let lines: &'m [Line] = bump.slice_with(bytes.div_ceil(64), |_| Line::zeroed()).unwrap();
        let (DatagramEnd { pair, cq, memory }, mailbox) =
            ground.network.open(bump, (lines, &config));
        let port = RdmaDatagrams::place(bump, &config, (pair, cq), &memory);
        let port = port.map_err(|e| e.to_string())?;
        ground.listed.borrow_mut().insert(name.to_string(), mailbox);
        Ok(HostedDgram { port, ground })
    }

    fn kill(ground: &Self::Ground<'_>, who: &Name) {
        ground.listed.borrow_mut().remove(who.as_str());
    }

    fn leftovers(_ground: &Self::Ground<'_>) -> String {
        String::new()
    }
}
