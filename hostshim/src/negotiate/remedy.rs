//! What would satisfy a requirement that is not fulfilled: another size, another provider, another build, or something else to ask for.

use spinwire_dataplane::provider::{Caps, EndpointType, Order};

use super::requirement::{Requirements, Unmet};
use crate::discover::{Found, Sizes};

/// So many are named of those that would do.
const NAMED_MAX: usize = 3;

/// What helps `found` or the program, where `all` is what else there is. `None` where nothing does.
pub(super) fn of(
    unmet: &Unmet,
    found: &Found,
    wanted: &Requirements,
    all: &[Found],
) -> Option<String> {
    let that = |fulfils: &dyn Fn(&Found) -> bool| named(all, fulfils);
    Some(match unmet {
        Unmet::Absent(absence) => return absence.remedy.clone(),
        Unmet::Transport => format!("have {} among the transports, too", found.transport),
        Unmet::Type { has, wants } => {
            let of_type = |it: &Found| wants.iter().any(|kind| it.supports_endpoint_type(*kind));
            match that(&of_type) {
                Some(those) => format!("take {those}, or ask for {has}, too"),
                None => format!("ask for {has}, too: nothing here has another"),
            }
        }
        Unmet::Caps(missing) => {
            let has = |it: &Found| it.info().is_some_and(|info| info.caps.has(*missing));
            that(&has).map_or_else(|| elsewhere(*missing), |those| format!("take {those}"))
        }
        Unmet::TooLittle { what, wants, .. } => too_little((what, *wants), found, wanted, all),
        Unmet::Order => {
            let keeps = |it: &Found| it.info().is_some_and(|info| info.order == Order::PerPeer);
            match that(&keeps) {
                Some(those) => format!("take {those}, or number the messages"),
                None => "number the messages".to_owned(),
            }
        }
        Unmet::OtherHost => {
            let reaches = |it: &Found| it.info().is_some() && !super::is_memory(it);
            return that(&reaches).map(|those| format!("take {those}"));
        }
        Unmet::NoAddress(form) => format!("give one, too: {form}"),
    })
}

/// Some of those that can be opened and do so.
fn named(all: &[Found], fulfils: &dyn Fn(&Found) -> bool) -> Option<String> {
    let those = all.iter().filter(|it| it.info().is_some() && fulfils(it));
    let names: Vec<String> = those.map(Found::to_string).take(NAMED_MAX).collect();
    (!names.is_empty()).then(|| names.join(" or "))
}

/// Where capabilities are that nothing here has.
fn elsewhere(missing: Caps) -> String {
    let has = |cap| missing.has(cap);
    if has(Caps::PARCEL) {
        return "buffers of a pool go through shm alone: have a segment, and ask for nothing that shm lacks".to_owned();
    }
    if has(Caps::RMA) || has(Caps::ATOMIC) || has(Caps::EXPOSE) {
        let built = if cfg!(all(feature = "verbs", feature = "libfabric")) {
            ""
        } else {
            "; cargo build --release --features verbs,libfabric"
        };
        return format!("an RDMA device has that (verbs, mlx5), or ofi with sockets{built}");
    }
    let those: Vec<&str> = missing.names().collect();
    format!("nothing here has {} together: ask for less, or widen --only", those.join(", "))
}

fn too_little(
    (what, wants): (&str, usize),
    found: &Found,
    wanted: &Requirements,
    all: &[Found],
) -> String {
    let kind = found.info().map(|info| info.endpoint_type);
    match what {
        MESSAGE_BYTES | INJECT_BYTES => {
            let most = kind.and_then(|kind| Sizes::longest(found.transport, kind));
            if most.is_some_and(|most| wants <= most) {
                return format!("open it for them: Sizes::messages_of({wants})");
            }
            let takes = |it: &Found| {
                let most =
                    it.info().and_then(|info| Sizes::longest(it.transport, info.endpoint_type));
                most.is_some_and(|most| wants <= most) && fits_type(it, wanted)
            };
            let pieces = "send in pieces";
            named(all, &takes)
                .map_or_else(|| pieces.to_owned(), |those| format!("take {those}, or {pieces}"))
        }
        PEERS if kind == Some(EndpointType::Msg) => {
            "ask for rdm, too: an endpoint of type msg has one peer".to_owned()
        }
        PEERS => format!("open it for them: Sizes {{ peers: Some({wants}), .. }}"),
        _ => {
            let carries = |it: &Found| {
                it.info().is_some_and(|info| usize::from(info.immediate_bits) >= wants)
            };
            let beside = "send them in the message";
            named(all, &carries)
                .map_or_else(|| beside.to_owned(), |those| format!("take {those}, or {beside}"))
        }
    }
}

fn fits_type(found: &Found, wanted: &Requirements) -> bool {
    wanted.types.iter().any(|kind| found.supports_endpoint_type(*kind))
}

/// What there may be too little of.
pub(super) const MESSAGE_BYTES: &str = "bytes a message";
/// The same.
pub(super) const INJECT_BYTES: &str = "bytes injected";
/// The same.
pub(super) const PEERS: &str = "peers";
/// The same.
pub(super) const IMMEDIATE_BITS: &str = "bits of immediate data";
