//! Ports for datagrams, on the devices as `hostshim::verbs` opens them.
//!
//! A port lives in memory that is never given back, with what it stands on: a case may forget it, as a killed process would.

use core::cell::RefCell;
use core::time::Duration;
use std::collections::BTreeMap;

use heapless::VecView;
use spinwire_dataplane::error::{Misuse, PostError};
use spinwire_dataplane::id::{Addr, Name, WrId};
use spinwire_dataplane::provider::rdma::RdmaDatagramsConfig;
use spinwire_dataplane::provider::{
    CancelError, Cqe, EndpointType, Event, Info, KeepsPosted, Provider, Published, RecvPartsWr,
    RecvWr, Select, SendPartsWr, SendWr, Source, Waiting,
};
use spinwire_dataplane::raw::line::Line;
use spinwire_dataplane::raw::place::Bump;
use spinwire_dataplane::time::{Instant, Nanos};
use spinwire_hostshim::verbs::{Card, VerbsDatagramPort, VerbsDatagrams, VerbsDatagramsConfig};
use spinwire_tests::conformance::{Rig, Sizes};

use super::rig::is_here;

/// Ports for datagrams.
#[derive(Debug)]
pub struct VerbsDgram;

/// Who is found where.
#[derive(Debug, Default)]
pub struct Ground {
    listed: RefCell<BTreeMap<String, Card>>,
}

/// A port, and what it stands on.
#[derive(Debug)]
pub struct HostedDgram<'m> {
    port: VerbsDatagramPort<'m>,
    plane: &'m VerbsDatagrams,
    ground: &'m Ground,
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
            Some(card) => self.plane.know(&self.port, name, card).unwrap(),
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
        self.port.poll_cq(now, out);
        if out.is_empty() {
            // What is sent by one thread of a kernel comes by another.
            std::thread::sleep(Duration::from_micros(20));
        }
        self.plane.attend(&self.port).unwrap();
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

impl Rig for VerbsDgram {
    type Ground<'m> = Ground;
    type Port<'m> = HostedDgram<'m>;
    const TYPES: &'static [EndpointType] = &[EndpointType::Dgram];
    const SPILLS: bool = false;
    const SHORTENED: u32 = 8;
    const MESSAGE_BYTES_MAX: u32 = 2048;

    fn is_here() -> bool {
        is_here()
    }

    fn lay<'m>(_lines: &'m [Line], _bump: &Bump<'m>, _sizes: &Sizes) -> Ground {
        Ground::default()
    }

    fn open<'m>(
        ground: &'m Ground,
        bump: &Bump<'m>,
        (name, _dgram): (&Name, EndpointType),
        sizes: &Sizes,
    ) -> Result<HostedDgram<'m>, String> {
        let port = RdmaDatagramsConfig {
            peers_max: sizes.peers_max,
            age_min: Nanos::new(1),
            send_depth: sizes.send_depth,
            matching: sizes.matching(),
            message_bytes_max: sizes.message_bytes_max,
            receives: 128,
            routes_max: 16,
            ..RdmaDatagramsConfig::default()
        };
        let config = VerbsDatagramsConfig { port, ..VerbsDatagramsConfig::default() };
        let device = ["rxe0", "rxe1"][ground.listed.borrow().len() % 2];
        let plane = VerbsDatagrams::open(device, None, &config).map_err(|e| e.to_string())?;
        let plane: &'static VerbsDatagrams = Box::leak(Box::new(plane));
        let port = plane.port(bump).map_err(|e| e.to_string())?;
        ground.listed.borrow_mut().insert(name.to_string(), *plane.card());
        Ok(HostedDgram { port, plane, ground })
    }

    fn kill(ground: &Ground, who: &Name) {
        ground.listed.borrow_mut().remove(who.as_str());
    }

    fn leftovers(_ground: &Ground) -> String {
        String::new()
    }
}
