//! Ports over RDMA connections: whatever devices complete, peers write, and the host answers. What a turn does is probed through the endpoint.

use spinwire_dataplane::error::PostError;
use spinwire_dataplane::id::{Addr, Name};
use spinwire_dataplane::provider::rdma::{
    Gid, LinkId, Mailbox, RdmaCounters, RdmaDatagrams, RdmaPort, Registrar, Request, Unreachable,
    piece,
};
use spinwire_dataplane::provider::tcp::frame::FrameFault;
use spinwire_dataplane::provider::{Access, OneSidedWr, Provider, Sge};
use spinwire_dataplane::raw::region::Destroyed;

use crate::paths::{AnyCq, AnyQp};

/// A registrar that says anything.
#[derive(Clone, Copy, Debug)]
pub struct AnyRegistrar {
    register: extern "C" fn() -> Result<u32, PostError>,
    unregister: extern "C" fn(u32) -> bool,
}

// SAFETY: it registers nothing, and is never run.
unsafe impl Registrar for AnyRegistrar {
    fn register(&self, _: &Sge, _: Access) -> Result<u32, PostError> {
        (self.register)()
    }

    fn unregister(&self, key: u32) -> bool {
        (self.unregister)(key)
    }
}

pub type AnyPort<'a> = RdmaPort<'a, AnyQp, AnyCq, AnyRegistrar>;
pub type AnyDatagrams<'a> = RdmaDatagrams<'a, AnyQp, AnyCq>;

#[unsafe(no_mangle)]
pub extern "C" fn probe_rdma_one_sided(
    port: &AnyPort<'_>,
    wr: &OneSidedWr,
) -> Result<(), PostError> {
    port.post_one_sided(wr)
}

#[unsafe(no_mangle)]
pub extern "C" fn probe_rdma_request(port: &AnyPort<'_>) -> Option<Request<AnyQp>> {
    port.next_request()
}

#[unsafe(no_mangle)]
pub extern "C" fn probe_rdma_connected(port: &AnyPort<'_>, link: LinkId, pair: AnyQp) -> bool {
    port.connected(link, pair).is_ok()
}

#[unsafe(no_mangle)]
pub extern "C" fn probe_rdma_accept(port: &AnyPort<'_>, pair: AnyQp) -> Option<LinkId> {
    port.accept(pair).ok()
}

#[unsafe(no_mangle)]
pub extern "C" fn probe_rdma_ends(
    port: &AnyPort<'_>,
    link: LinkId,
    why: Unreachable,
    proof: Destroyed,
) -> RdmaCounters {
    port.not_connected(link, why);
    port.lost(link);
    let _refused = port.destroyed(link, proof);
    port.counters()
}

#[unsafe(no_mangle)]
pub extern "C" fn probe_rdma_route(
    port: &AnyPort<'_>,
    name: &Name,
    peer: Addr,
) -> Result<bool, PostError> {
    port.set_route(name)?;
    port.forget_route(name);
    port.reach(peer)
}

#[unsafe(no_mangle)]
pub extern "C" fn probe_rdma_mailboxes(
    port: &AnyDatagrams<'_>,
    name: &Name,
    mailbox: Mailbox,
) -> Result<Option<(Addr, Gid, u32)>, PostError> {
    port.forget_route(name);
    port.set_route(name, mailbox)?;
    let unresolved = port.next_unresolved();
    if let Some((peer, _, _)) = unresolved {
        port.resolve(peer, mailbox.to)?;
    }
    Ok(unresolved)
}

#[unsafe(no_mangle)]
pub extern "C" fn probe_rdma_piece(
    bytes: &[u8; piece::HEADER_BYTES],
    sequence: u32,
) -> Result<[u8; piece::HEADER_BYTES], FrameFault> {
    let (content, grant) = piece::read(bytes, sequence)?;
    Ok(piece::write(sequence, content, grant))
}

#[unsafe(no_mangle)]
pub extern "C" fn probe_rdma_drop(port: &mut core::mem::ManuallyDrop<AnyPort<'static>>) {
    // SAFETY: never run.
    unsafe { core::mem::ManuallyDrop::drop(port) };
}
