//! Ports for datagrams over simulated devices.

use core::cell::RefCell;
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
use spinwire_dataplane::verbs::Limits;

use super::{Rig, Sizes};
use crate::sim::fabric::{Fabric, Links, SimCq, SimQp};

/// Ports for datagrams.
#[derive(Debug)]
pub struct RdmaDgram;

type Port<'m> = RdmaDatagrams<'m, SimQp<'m>, SimCq<'m>>;

/// The network, and who is found where.
#[derive(Debug)]
pub struct RdmaDgramGround {
    fabric: Fabric,
    listed: RefCell<BTreeMap<String, Mailbox>>,
}

impl RdmaDgramGround {
    /// The network.
    #[must_use]
    pub const fn fabric(&self) -> &Fabric {
        &self.fabric
    }

    /// Where a port is found.
    #[must_use]
    pub fn find(&self, name: &str) -> Mailbox {
        self.listed.borrow()[name]
    }
}

/// A port whose host answers at once.
#[derive(Debug)]
pub struct HostedDgram<'m> {
    port: Port<'m>,
    ground: &'m RdmaDgramGround,
}

impl<'m> HostedDgram<'m> {
    /// The port itself.
    #[must_use]
    pub const fn rdma(&self) -> &Port<'m> {
        &self.port
    }
}

#[expect(unsafe_code, reason = "a promise, which its port keeps")]
// SAFETY: it hands everything on to its port, which goes with it, or is never turned again.
unsafe impl KeepsPosted for HostedDgram<'_> {}

impl Provider for HostedDgram<'_> {
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
        while self.ground.fabric.advance(3_000) {}
        self.port.poll_cq(now, out);
        while let Some((addr, gid, qp_num)) = self.port.next_unresolved() {
            let listed = self.ground.listed.borrow();
            let is_it = |mailbox: &&Mailbox| (mailbox.gid, mailbox.to.qp_num) == (gid, qp_num);
            if let Some(mailbox) = listed.values().find(is_it) {
                self.port.resolve(addr, mailbox.to).unwrap();
            }
        }
        assert_eq!(self.ground.fabric.violation(), None);
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

impl Rig for RdmaDgram {
    type Ground<'m> = RdmaDgramGround;
    type Port<'m> = HostedDgram<'m>;
    const TYPES: &'static [EndpointType] = &[EndpointType::Dgram];
    const SPILLS: bool = false;

    fn lay<'m>(_lines: &'m [Line], _bump: &Bump<'m>, _sizes: &Sizes) -> RdmaDgramGround {
        let fabric = Fabric::new(1, 0, Links::QUIET, 1);
        RdmaDgramGround { fabric, listed: RefCell::default() }
    }

    #[expect(clippy::large_stack_frames, reason = "set-up: the port is made here, and moved out")]
    fn open<'m>(
        ground: &'m RdmaDgramGround,
        bump: &Bump<'m>,
        (name, _dgram): (&Name, EndpointType),
        sizes: &Sizes,
    ) -> Result<HostedDgram<'m>, String> {
        let config = RdmaDatagramsConfig {
            peers_max: sizes.peers_max,
            age_min: Nanos::new(1),
            send_depth: sizes.send_depth,
            matching: sizes.matching(),
            message_bytes_max: sizes.message_bytes_max,
            receives: 64,
            routes_max: 64,
        };
        let bytes = usize::try_from(config.memory_bytes()).unwrap();
        let lines: &'m [Line] = bump.slice_with(bytes.div_ceil(64), |_| Line::zeroed()).unwrap();
        let host = ground.fabric.add_host();
        let address = u64::try_from(lines.as_ptr().expose_provenance()).unwrap();
        let range = (address, config.memory_bytes());
        ground.fabric.register(host, 7, range, Access::NONE);
        let limits = Limits { message_bytes_max: 16 << 10, ..config.pair() };
        let (pair, (gid, to)) = ground.fabric.datagrams(host, limits);
        let cq = ground.fabric.cq(host, 0, config.completions());
        let memory = Memory { lines, address, key: 7, loans: None };
        let port = RdmaDatagrams::place(bump, &config, (pair, cq), &memory);
        let port = port.map_err(|e| e.to_string())?;
        ground.listed.borrow_mut().insert(name.to_string(), Mailbox { gid, to });
        Ok(HostedDgram { port, ground })
    }

    fn kill(ground: &RdmaDgramGround, who: &Name) {
        ground.listed.borrow_mut().remove(who.as_str());
    }

    fn leftovers(_ground: &RdmaDgramGround) -> String {
        String::new()
    }
}
