//! Ports over TCP: real sockets of this machine, all in one thread, each with a ring of its own.

use core::cell::RefCell;
use core::mem::ManuallyDrop;
use core::net::{Ipv4Addr, SocketAddr};
use std::collections::BTreeMap;
use std::net::{Shutdown, TcpStream};
use std::os::fd::{FromRawFd, OwnedFd};

use heapless::VecView;
use spinwire_dataplane::error::{Misuse, PostError};
use spinwire_dataplane::id::{Addr, Name, WrId};
use spinwire_dataplane::provider::tcp::{TcpConfig, TcpPort};
use spinwire_dataplane::provider::{
    CancelError, Cqe, EndpointType, Event, Info, KeepsPosted, Provider, Published, RecvPartsWr,
    RecvWr, Select, SendPartsWr, SendWr, Sight, Source, Waiting,
};
use spinwire_dataplane::raw::line::Line;
use spinwire_dataplane::raw::place::Bump;
use spinwire_dataplane::time::Instant;
use spinwire_dataplane::uring::Ring;
use spinwire_hostshim::tcp::{TcpPlane, TcpPlaneConfig};
use spinwire_hostshim::uring::RingEntry;

use super::{Rig, Sizes};

/// Ports over TCP.
#[derive(Debug)]
pub struct Tcp;

type Port<'m> = TcpPort<'m, RingEntry<'m>>;

/// Somebody who listens.
#[derive(Debug)]
struct Listed<'m> {
    address: SocketAddr,
    plane: *mut TcpPlane,
    port: *const Port<'m>,
}

/// Who listens where: what a name service would know.
#[derive(Debug, Default)]
pub struct TcpGround<'m> {
    listed: RefCell<BTreeMap<String, Listed<'m>>>,
}

impl TcpGround<'_> {
    fn address(&self, name: &Name) -> Option<SocketAddr> {
        self.listed.borrow().get(name.as_str()).map(|listed| listed.address)
    }
}

/// A port that asks who listens where before it connects, and has sockets opened as it needs them.
#[derive(Debug)]
pub struct NamedPort<'m> {
    port: ManuallyDrop<Box<Port<'m>>>,
    name: Name,
    ground: &'m TcpGround<'m>,
    plane: *mut TcpPlane,
    ring: *mut Ring<'m, RingEntry<'m>>,
}

impl<'m> NamedPort<'m> {
    /// The port itself.
    #[must_use]
    pub fn tcp(&self) -> &Port<'m> {
        &self.port
    }

    #[expect(unsafe_code, reason = "plane and port refer to each other")]
    fn plane(&self) -> &'m TcpPlane {
        // SAFETY: made by `open`, and freed only when this is dropped, or forgotten after the kill.
        unsafe { &*self.plane }
    }

    fn refill(&self) {
        if self.port.sockets_left() == 0 {
            self.plane().refill(&self.port, SocketAddr::from((Ipv4Addr::LOCALHOST, 0)), 2).unwrap();
        }
    }
}

#[expect(unsafe_code, reason = "a promise, which its port keeps")]
// SAFETY: it hands everything on to its port, which goes with it, or is never turned again.
unsafe impl KeepsPosted for NamedPort<'_> {}

impl Provider for NamedPort<'_> {
    fn info(&self) -> &Info {
        self.port.info()
    }
    fn connect(&self, name: &Name) -> Result<Addr, PostError> {
        self.refill();
        match self.ground.address(name) {
            Some(address) => self.plane().introduce(&self.port, name, address).unwrap(),
            None => self.port.forget_route(name),
        }
        self.port.connect(name)
    }
    fn name_of(&self, addr: Addr) -> Result<Option<Name>, Misuse> {
        self.port.name_of(addr)
    }
    fn disconnect(&self, addr: Addr) -> Result<(), Misuse> {
        self.port.disconnect(addr)
    }
    fn post_send(&self, wr: &SendWr<'_>) -> Result<(), PostError> {
        self.refill();
        self.port.post_send(wr)
    }
    fn post_recv(&self, wr: &RecvWr) -> Result<(), PostError> {
        self.port.post_recv(wr)
    }
    fn post_send_parts(&self, wr: &SendPartsWr<'_>) -> Result<(), PostError> {
        self.refill();
        self.port.post_send_parts(wr)
    }
    fn post_recv_parts(&self, wr: &RecvPartsWr<'_>) -> Result<(), PostError> {
        self.port.post_recv_parts(wr)
    }
    fn ring_doorbell(&self) -> Published {
        self.port.ring_doorbell()
    }
    fn poll_cq(&self, now: Instant, out: &mut VecView<Cqe>) {
        self.port.poll_cq(now, out);
    }
    fn look(&self) -> Sight {
        self.port.look()
    }
    fn take_ready(&self) -> Option<Cqe> {
        self.port.take_ready()
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
    fn poll_at(&self) -> Option<Instant> {
        self.port.poll_at()
    }
}

impl Drop for NamedPort<'_> {
    #[expect(unsafe_code, reason = "plane and port refer to each other")]
    fn drop(&mut self) {
        self.ground.listed.borrow_mut().remove(self.name.as_str());
        // SAFETY: not used afterwards.
        unsafe { ManuallyDrop::drop(&mut self.port) };
        // SAFETY: made by `Box::into_raw`; the port, which alone refers to it, is gone.
        drop(unsafe { Box::from_raw(self.ring) });
        // SAFETY: likewise; the ring is gone.
        drop(unsafe { Box::from_raw(self.plane) });
    }
}

fn config_of(sizes: &Sizes) -> TcpPlaneConfig {
    TcpPlaneConfig {
        port: TcpConfig {
            peers_max: sizes.peers_max,
            send_depth: sizes.send_depth,
            matching: sizes.matching(),
            message_bytes_max: sizes.message_bytes_max,
            credit_messages: sizes.link_depth,
            credit_bytes: sizes.link_depth * sizes.message_bytes_max,
            routes_max: sizes.endpoints + 4,
            ..TcpConfig::default()
        },
        arena_bytes: 0,
        ..TcpPlaneConfig::default()
    }
}

fn boxed_ring(plane: &TcpPlane) -> *mut Ring<'_, RingEntry<'_>> {
    Box::into_raw(Box::new(plane.ring().unwrap()))
}

fn boxed_port<'m>(
    plane: &'m TcpPlane,
    ring: &'m Ring<'m, RingEntry<'m>>,
    who: (&Name, EndpointType),
) -> Result<Box<Port<'m>>, String> {
    plane.port(ring, who).map(Box::new).map_err(|e| e.to_string())
}

impl Rig for Tcp {
    type Ground<'m> = TcpGround<'m>;
    type Port<'m> = NamedPort<'m>;
    const TYPES: &'static [EndpointType] = &[EndpointType::Msg, EndpointType::Rdm];
    const SPILLS: bool = false;
    const MEETS: bool = true;
    const FENCES: bool = false;

    fn lay<'m>(_lines: &'m [Line], _bump: &Bump<'m>, _sizes: &Sizes) -> TcpGround<'m> {
        TcpGround::default()
    }

    #[expect(unsafe_code, reason = "plane and port refer to each other")]
    fn open<'m>(
        ground: &'m TcpGround<'m>,
        _bump: &Bump<'m>,
        (name, endpoint_type): (&Name, EndpointType),
        sizes: &Sizes,
    ) -> Result<NamedPort<'m>, String> {
        if ground.address(name).is_some() {
            return Err("the name is taken".into());
        }
        if ground.listed.borrow().len() == usize::try_from(sizes.endpoints).unwrap() {
            return Err("there are too many".into());
        }
        let anywhere = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let plane = TcpPlane::open(Some(anywhere), &config_of(sizes)).map_err(|e| e.to_string())?;
        let address = plane.local().unwrap();
        let plane = Box::into_raw(Box::new(plane));
        // SAFETY: freed only when the port is dropped, or after a kill, and then the port is not used any more.
        let of_plane: &'m TcpPlane = unsafe { &*plane };
        let ring = boxed_ring(of_plane);
        // SAFETY: as above.
        let of_ring: &'m Ring<'m, RingEntry<'m>> = unsafe { &*ring };
        let port = boxed_port(of_plane, of_ring, (name, endpoint_type))?;
        let listed = Listed { address, plane, port: &raw const *port };
        ground.listed.borrow_mut().insert(name.to_string(), listed);
        Ok(NamedPort { port: ManuallyDrop::new(port), name: *name, ground, plane, ring })
    }

    fn has_met(port: &NamedPort<'_>, peer: Addr) -> bool {
        port.refill();
        port.tcp().reach(peer) == Ok(true)
    }

    /// What the kernel does with a process that is killed: the ring goes, then all of its descriptors, whatever was under way. But it
    /// would reset connections by which something had come that was not received; `process_kill_tcp` has that.
    #[expect(unsafe_code, reason = "the port is forgotten, as that of a process that is gone")]
    fn kill<'m>(ground: &'m TcpGround<'m>, who: &Name) {
        let listed = ground.listed.borrow_mut().remove(who.as_str()).expect("there is such a port");
        // SAFETY: the port is there until it is dropped, which takes it out of the list.
        let streams = unsafe { (*listed.port).streams() };
        let descriptors: Vec<i32> = streams.descriptors().collect();
        // SAFETY: made by `Box::into_raw`; the port is forgotten, and nothing of it used any more.
        drop(unsafe { Box::from_raw(listed.plane) });
        for fd in descriptors {
            // SAFETY: it was the port's alone.
            let stream = TcpStream::from(unsafe { OwnedFd::from_raw_fd(fd) });
            // The kernel gives up the ring by and by, and keeps the sockets meanwhile.
            let _connected = stream.shutdown(Shutdown::Both);
        }
    }

    fn leftovers<'m>(ground: &'m TcpGround<'m>) -> String {
        ground.listed.borrow().keys().cloned().collect::<Vec<_>>().join(", ")
    }
}
