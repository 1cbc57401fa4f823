//! Which endpoint a program gets that asks for capabilities: a ranked plan, with the reasons.
//!
//! ```text
//!   Requirements ─┐
//!   discover() ───┴─> negotiate ──> Plan ── choices   ranked: each fulfils everything; why it stands where it stands
//!                                     |  '─ rejected  each with every requirement that it does not fulfil, and what would help
//!                                     '─ walk(attempt)   the first that opens; what the others said is kept
//! ```
//!
//! *The order*: first the type of endpoint, as the program prefers them (RDM before MSG unless it says otherwise), because that is what the
//! program is written for; then what lies between the ends, memory before devices before the kernel; then our own transports
//! before those of others, and the first address of a peer before the second. The order depends on nothing else, so two runs on one machine choose alike.
//!
//! *Where the peer is* decides about shared memory. Who knows addresses of the peer gives them all ([`Peer::At`]), and takes the same list to
//! every host: where the segment is not there, the attempt fails and the next address has its turn.

mod plan;
mod remedy;
mod requirement;

use spinwire_dataplane::provider::{EndpointType, Info, LatencyClass, Order};

pub use plan::{Choice, Failed, NoPath, Nowhere, Plan, Reason, Rejected, Walked};
pub use requirement::{Peer, Requirements, UnknownNeed, Unmet};

use crate::discover::{Found, Transport};
use crate::uri::{Place, Uri};

/// Ranks what fulfils the requirements, and says of the rest why it does not.
#[must_use]
pub fn negotiate(wanted: &Requirements, found: &[Found]) -> Plan {
    let mut plan = Plan::default();
    for each in found {
        let unmet = unmet(wanted, each);
        if !unmet.is_empty() {
            let remedies =
                unmet.iter().filter_map(|it| remedy::of(it, each, wanted, found)).collect();
            plan.rejected.push(Rejected { found: each.clone(), unmet, remedies });
            continue;
        }
        let choice = |uri| Choice { found: each.clone(), uri, reasons: reasons(wanted, each) };
        match &wanted.peer {
            Peer::At(uris) => {
                let its = uris.iter().filter(|uri| leads_to(uri, each));
                plan.choices.extend(its.map(|uri| choice(Some(uri.clone()))));
            }
            Peer::Anywhere | Peer::ThisHost | Peer::OtherHost => plan.choices.push(choice(None)),
        }
    }
    if let Peer::At(uris) = &wanted.peer {
        let unknown = uris.iter().filter(|uri| is_unknown(uri, found));
        plan.unknown = unknown.cloned().map(Nowhere).collect();
    }
    // Stable: what is equal stays in the order of discovery, and of the addresses.
    plan.choices.sort_by_key(|choice| rank(wanted, choice));
    plan
}

/// Where a choice stands among the others; the least is the best.
fn rank(wanted: &Requirements, choice: &Choice) -> (usize, LatencyClass, Transport, usize) {
    let info = choice.found.info();
    let preferred = info.map_or(usize::MAX, |info| preference(wanted, info.endpoint_type));
    let latency = info.map_or(LatencyClass::Kernel, |info| info.latency);
    let address = match (&wanted.peer, &choice.uri) {
        (Peer::At(uris), Some(uri)) => uris.iter().position(|its| its == uri).unwrap_or(usize::MAX),
        _ => 0,
    };
    (preferred, latency, choice.found.transport, address)
}

fn preference(wanted: &Requirements, kind: EndpointType) -> usize {
    wanted.types.iter().position(|its| *its == kind).unwrap_or(usize::MAX)
}

/// Whether a URI is one of this transport, and of its device where it names one.
fn leads_to(uri: &Uri, found: &Found) -> bool {
    let named = match uri.place() {
        Place::Shm { .. } | Place::Socket(_) => return uri.transport() == found.transport,
        Place::Device { device, port: Some(port), .. } => format!("{device}/{port}"),
        Place::Device { device, .. } => device.clone(),
        Place::Fabric { provider, .. } => provider.clone(),
    };
    let its = found.device.as_deref().unwrap_or_default();
    // `tcp;ofi_rxm` is what libfabric makes of `tcp`.
    let is_named = its == named || its.split(['/', ';']).next() == Some(&named);
    uri.transport() == found.transport && is_named
}

/// Whether a URI names a device or provider that is not among what was found, where its transport is.
fn is_unknown(uri: &Uri, found: &[Found]) -> bool {
    let mut of_transport = found.iter().filter(|it| it.transport == uri.transport()).peekable();
    of_transport.peek().is_some()
        && of_transport.all(|it| !is_absent_as_a_whole(it) && !leads_to(uri, it))
}

/// Whether nothing at all of a transport is there, rather than one device or provider of it.
fn is_absent_as_a_whole(found: &Found) -> bool {
    found.info().is_none() && found.device.is_none()
}

fn is_memory(found: &Found) -> bool {
    let is_memory = found.info().is_some_and(|info| info.latency == LatencyClass::Memory);
    found.transport == Transport::Shm || is_memory
}

/// Every requirement that is not fulfilled.
fn unmet(wanted: &Requirements, found: &Found) -> Vec<Unmet> {
    let mut unmet = Vec::new();
    if !wanted.transports.is_empty() && !wanted.transports.contains(&found.transport) {
        unmet.push(Unmet::Transport);
    }
    match &wanted.peer {
        Peer::OtherHost if is_memory(found) => unmet.push(Unmet::OtherHost),
        // What is not there at all may well have been meant.
        Peer::At(uris)
            if is_absent_as_a_whole(found)
                && uris.iter().any(|uri| uri.transport() == found.transport) => {}
        Peer::At(uris) if !uris.iter().any(|uri| leads_to(uri, found)) => {
            unmet.push(Unmet::NoAddress(found.form()));
        }
        Peer::At(_) | Peer::Anywhere | Peer::ThisHost | Peer::OtherHost => {}
    }
    match &found.offer {
        Ok(info) => lacks(wanted, info, &mut unmet),
        Err(absence) => unmet.push(Unmet::Absent(absence.clone())),
    }
    unmet
}

fn lacks(wanted: &Requirements, info: &Info, unmet: &mut Vec<Unmet>) {
    if preference(wanted, info.endpoint_type) == usize::MAX {
        unmet.push(Unmet::Type { has: info.endpoint_type, wants: wanted.types.clone() });
    }
    let missing = wanted.caps.without(info.caps);
    if !info.caps.has(wanted.caps) {
        unmet.push(Unmet::Caps(missing));
    }
    let mut at_least = |what, has: usize, wants: usize| {
        if has < wants {
            unmet.push(Unmet::TooLittle { what, has, wants });
        }
    };
    let limits = &info.limits;
    at_least(remedy::MESSAGE_BYTES, limits.message_bytes_max, wanted.message_bytes);
    at_least(remedy::INJECT_BYTES, limits.inject_bytes_max, wanted.inject_bytes);
    // Whatever room its address table has: a connected endpoint has one peer.
    let peers = if info.supports_msg() { 1 } else { limits.peers_max };
    at_least(remedy::PEERS, usize::try_from(peers).unwrap_or(usize::MAX), wanted.peers);
    at_least(remedy::IMMEDIATE_BITS, info.immediate_bits.into(), wanted.immediate_bits.into());
    if wanted.ordered && info.order != Order::PerPeer {
        unmet.push(Unmet::Order);
    }
}

fn reasons(wanted: &Requirements, found: &Found) -> Vec<Reason> {
    let Some(info) = found.info() else { return Vec::new() };
    let kind = info.endpoint_type;
    let mut reasons = vec![match preference(wanted, kind) {
        0 => Reason::Preferred(kind),
        _ => Reason::SecondBest(kind),
    }];
    reasons.push(match (info.latency, &wanted.peer) {
        (LatencyClass::Memory, Peer::Anywhere | Peer::At(_)) => Reason::MemoryIfHere,
        (LatencyClass::Memory, Peer::ThisHost | Peer::OtherHost) => Reason::MemoryHere,
        (LatencyClass::Device, _) => Reason::Device,
        (LatencyClass::Kernel, _) => Reason::Kernel,
    });
    if found.transport == Transport::Ofi {
        reasons.push(Reason::Foreign);
    }
    reasons
}

#[cfg(test)]
mod tests;
