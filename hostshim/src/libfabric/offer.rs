//! What libfabric's providers offer, in the words of this house.

use std::ffi::OsStr;

use spinwire_dataplane::msg::endpoint::PARTS_MAX;
use spinwire_dataplane::provider::{Caps, EndpointType, Info, LatencyClass, Limits};
use spinwire_layouts::word::widen;
use spinwire_ofi_sys as sys;

use super::error::OfiError;
use super::setup::OfiConfig;
use crate::raw::ofi::{Offer, Wanted};

/// What may be asked of the providers. What is `None` may be anything.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct OfiHints {
    /// The provider, as `fi_info -p` takes it: `tcp`, `tcp;ofi_rxm`, `sockets`, `shm`, ..
    pub provider: Option<String>,
    /// What the endpoint is to be.
    pub endpoint_type: Option<EndpointType>,
    /// The address to be at: a host, or an address of an interface.
    pub node: Option<String>,
}

/// What a provider asks of those who use it: `mode` and `mr_mode` of `fi_getinfo(3)`, `fi_mr(3)`. The port does all of it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct OfiModes {
    /// Memory for each operation that is posted.
    pub context: bool,
    /// Buffers of messages lie in registered memory.
    pub local: bool,
    /// Memory of others is named by its address, not by its distance from the start of the region.
    pub virtual_address: bool,
    /// Memory that is registered has pages already.
    pub allocated: bool,
    /// The provider chooses the keys.
    pub provider_key: bool,
}

/// An endpoint that can be had.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct OfiOffer {
    /// The provider, as `fi_info` names it.
    pub provider: String,
    /// The fabric: who are on the same one may reach each other.
    pub fabric: String,
    /// The domain: a network interface, a device.
    pub domain: String,
    /// What a port of it is and can do, with the limits of the provider alone.
    pub info: Info,
    /// What it asks for.
    pub modes: OfiModes,
    /// Whether messages make progress without being polled for.
    pub automatic_progress: bool,
}

/// All endpoints that can be had, in libfabric's order: the best first. Nothing is opened. Not among them: those that cannot be closed
/// ([`OfiError::Crashes`]).
///
/// # Errors
/// What `fi_getinfo(3)` says; that nothing is offered is an empty list.
pub fn found(hints: &OfiHints) -> Result<Vec<OfiOffer>, OfiError> {
    let closes = |offer: &Offer| can_be_closed(&offer.provider());
    Ok(listed(hints)?.iter().filter(|offer| closes(offer)).filter_map(describe).collect())
}

/// The providers that list endpoints, with the types of those, in libfabric's order; those that cannot be closed among them.
pub(crate) fn providers() -> Result<Vec<(String, EndpointType)>, OfiError> {
    let mut all = Vec::new();
    for offer in listed(&OfiHints::default())? {
        let Some(endpoint_type) = type_of(offer.endpoint().type_) else { continue };
        let entry = (offer.provider(), endpoint_type);
        if !all.contains(&entry) {
            all.push(entry);
        }
    }
    Ok(all)
}

fn listed(hints: &OfiHints) -> Result<Vec<Offer>, OfiError> {
    offers(&Wanted {
        endpoint_type: hints.endpoint_type.map_or(sys::FI_EP_UNSPEC, type_number),
        provider: hints.provider.as_deref(),
        node: hints.node.as_deref(),
        ..Wanted::default()
    })
}

/// What is offered; nothing is no error.
fn offers(wanted: &Wanted<'_>) -> Result<Vec<Offer>, OfiError> {
    match Offer::list(wanted) {
        Err(failed) if failed.code == libc::ENODATA => Ok(Vec::new()),
        other => Ok(other?),
    }
}

fn describe(offer: &Offer) -> Option<OfiOffer> {
    let endpoint_type = type_of(offer.endpoint().type_)?;
    let provider = offer.provider();
    let longest = longest(&provider, offer.endpoint().max_msg_size);
    let limits = Limits {
        message_bytes_max: longest,
        inject_bytes_max: offer.transmit().inject_size,
        sge_max: parts_max(offer, endpoint_type),
        send_depth: u32::try_from(offer.transmit().size).unwrap_or(u32::MAX),
        recv_depth: u32::try_from(offer.receive().size).unwrap_or(u32::MAX),
        unexpected_depth: u32::MAX,
        unexpected_bytes_max: longest,
        peers_max: if endpoint_type == EndpointType::Msg { 1 } else { u32::MAX },
    };
    let mut caps = with_descriptor(&provider, caps(offer, endpoint_type));
    if faults(&provider).loses_immediate {
        caps = caps.without(Caps::IMMEDIATE);
    }
    Some(OfiOffer {
        fabric: offer.fabric(),
        domain: offer.domain_name(),
        info: Info {
            latency: latency(&provider),
            ..Info::of_type(label(&provider), endpoint_type, caps, limits)
        },
        modes: modes(offer),
        automatic_progress: offer.domain().data_progress == sys::FI_PROGRESS_AUTO,
        provider,
    })
}

/// What lies between two ends.
pub(super) fn latency(provider: &str) -> LatencyClass {
    match provider.split(';').next() {
        Some("shm") => LatencyClass::Memory,
        Some("verbs" | "efa" | "psm2" | "psm3" | "opx" | "gni" | "cxi") => LatencyClass::Device,
        _ => LatencyClass::Kernel,
    }
}

/// What the ports of a provider are called, in `Info`.
pub(super) fn label(provider: &str) -> &'static str {
    match provider {
        "tcp" => "ofi:tcp",
        "tcp;ofi_rxm" => "ofi:tcp;ofi_rxm",
        "net" => "ofi:net",
        "net;ofi_rxm" => "ofi:net;ofi_rxm",
        "sockets" => "ofi:sockets",
        "udp" => "ofi:udp",
        "udp;ofi_rxd" => "ofi:udp;ofi_rxd",
        "shm" => "ofi:shm",
        "verbs" => "ofi:verbs",
        "verbs;ofi_rxm" => "ofi:verbs;ofi_rxm",
        "verbs;ofi_rxd" => "ofi:verbs;ofi_rxd",
        "efa" => "ofi:efa",
        _ => "ofi",
    }
}

/// What a provider does about ranges, rights and keys of memory that others may touch.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) enum Guard {
    /// It checks them.
    #[default]
    Checks,
    /// It has no rights; who has a wrong key is cut off, or waits for ever.
    KeysOnly,
    /// It lets everybody in, even after the key was withdrawn.
    None,
}

/// What a provider is known to do wrong, in silence.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Faults {
    /// The completion of a receive that took a message which had waited does not say that there is immediate data.
    pub(super) loses_immediate: bool,
    /// A receive with a mask is not compared with the messages that wait.
    pub(super) misses_masks: bool,
    /// A message that is longer than its receive is cut off, and its completion says neither that nor how long it was.
    pub(super) cuts_in_silence: bool,
    /// A message of more than 4 KiB that is longer than its receive is read from its sender's memory without end: neither process comes back.
    pub(super) reads_without_end: bool,
    /// Posted receives cannot be taken back.
    pub(super) keeps_receives: bool,
    /// The name of an endpoint is the number of its process, and one that a killed process of that number has left is in its way, once.
    pub(super) names_by_pid: bool,
    /// What it does about memory.
    pub(super) memory_guard: Guard,
}

/// Whether a thread that sleeps on descriptors is woken by all that it waits for, and by nothing else for long. `smr_cq_open` has no `FI_WAIT_FD`; `rxd` sends anew by
/// the clock, which nobody who sleeps looks at; the descriptor of `net` can be read from all the time while there is a connection.
pub(super) fn can_wait(provider: &str) -> bool {
    let core = provider.split(';').next();
    !(matches!(core, Some("shm" | "net")) || provider.ends_with(";ofi_rxd"))
}

/// With [`Caps::DESCRIPTOR`] where such a port can be opened.
pub(super) fn with_descriptor(provider: &str, caps: Caps) -> Caps {
    if can_wait(provider) { caps.with(Caps::DESCRIPTOR) } else { caps }
}

/// Those of libfabric 1.17; later versions were not looked at.
pub(super) fn faults(provider: &str) -> Faults {
    let memory_guard = match provider {
        // Of `verbs` the regions that it keeps have all rights, whoever was given which, and are kept when they were closed
        // (`vrb_mr_cache_add_region`).
        "shm" | "verbs" | "verbs;ofi_rxm" => Guard::None,
        "tcp" | "net" | "tcp;ofi_rxm" | "net;ofi_rxm" | "udp;ofi_rxd" => Guard::KeysOnly,
        _ => Guard::Checks,
    };
    Faults {
        loses_immediate: provider == "sockets",
        misses_masks: provider == "shm",
        // Neither `udpx_ep_progress` nor `rxd_match_rx` looks whether there was more.
        cuts_in_silence: provider == "udp" || provider.ends_with(";ofi_rxd"),
        // `smr_cma_loop` goes on until all bytes of the message are read, and `process_vm_readv` reads none where there is no room left.
        reads_without_end: provider == "shm",
        // `vrb_ep_base_ops` has `fi_no_cancel`.
        keeps_receives: matches!(provider, "udp" | "verbs"),
        names_by_pid: provider == "shm",
        memory_guard,
    }
}

/// The longest message over a provider that reads without end: then this much room behind each receive is enough. Pages that are not written take no memory.
const LONGEST_READ: usize = 16 << 20;

impl Faults {
    /// Bytes that have to lie behind each receive so that a message that is too long for it is seen to be, and does no harm.
    pub(super) const fn tail_bytes(&self) -> usize {
        if self.reads_without_end {
            LONGEST_READ
        } else if self.cuts_in_silence {
            1
        } else {
            0
        }
    }
}

/// The longest message over a provider that says that.
pub(super) fn longest(provider: &str, said: usize) -> usize {
    if faults(provider).reads_without_end { said.min(LONGEST_READ) } else { said }
}

/// Whether the connections of `ofi_rxm` receive by one context of their endpoint; by default they do over `tcp` alone.
pub(super) const SHARED_RECEIVES: &str = "FI_OFI_RXM_USE_SRX";

/// Whether an endpoint of that provider can be closed.
pub(super) fn can_be_closed(provider: &str) -> bool {
    closes(provider, std::env::var_os(SHARED_RECEIVES).as_deref())
}

/// The same where the variable says that.
///
/// `ofi_rxm` closes a connection and then reads what is left in its queue (`rxm_close_conn`). For each message that it finds there it posts the buffer
/// anew, on the connection that is freed by then (`rxm_post_recv`), unless there is the one context. Who closes cannot rule out that a message is
/// there: it may come in meanwhile.
fn closes(provider: &str, shared: Option<&OsStr>) -> bool {
    let Some(core) = provider.strip_suffix(";ofi_rxm") else { return true };
    // As `rxm_use_srx` and `fi_parse_bool` have it.
    shared.map_or_else(
        || core.to_ascii_lowercase().contains("tcp"),
        |value| ["1", "true", "yes", "on"].into_iter().any(|yes| value.eq_ignore_ascii_case(yes)),
    )
}

const fn type_of(number: u32) -> Option<EndpointType> {
    match number {
        sys::FI_EP_MSG => Some(EndpointType::Msg),
        sys::FI_EP_RDM => Some(EndpointType::Rdm),
        sys::FI_EP_DGRAM => Some(EndpointType::Dgram),
        _ => None,
    }
}

const fn type_number(of: EndpointType) -> u32 {
    match of {
        EndpointType::Msg => sys::FI_EP_MSG,
        EndpointType::Rdm => sys::FI_EP_RDM,
        EndpointType::Dgram => sys::FI_EP_DGRAM,
    }
}

/// What a port can do over it. Not among them: looks at waiting messages and buffers for many messages, because what libfabric has of
/// these is something else; see the room's comment.
pub(super) fn caps(offer: &Offer, endpoint_type: EndpointType) -> Caps {
    let has = |bits: u32| offer.info().caps & u64::from(bits) != 0;
    let has_wide = |bits: u64| offer.info().caps & bits != 0;
    let connected = endpoint_type == EndpointType::Msg;
    // A connected endpoint hears one peer, whatever the provider says of that.
    [
        (has(sys::FI_MSG), Caps::MESSAGE),
        (has(sys::FI_TAGGED), Caps::TAGGED),
        (true, Caps::INJECT),
        (offer.domain().cq_data_size >= 8, Caps::IMMEDIATE),
        (connected || has_wide(sys::FI_DIRECTED_RECV), Caps::DIRECTED_RECV),
        (connected || has_wide(sys::FI_SOURCE), Caps::SOURCE),
        (parts_max(offer, endpoint_type) > 1, Caps::GATHER),
        (parts_max(offer, endpoint_type) > 1 && !connected, Caps::SCATTER),
    ]
    .into_iter()
    .filter(|(there, _)| *there)
    .fold(Caps::NONE, |all, (_, cap)| all.with(cap))
}

/// Ranges that one message is sent from. Into so many it is received, too, but over connections: a receive may wait there for an endpoint, and
/// with it would have to wait what the caller has back. One is the port's where something has to lie behind each receive (see `OfiPort::receive`).
pub(super) fn parts_max(offer: &Offer, endpoint_type: EndpointType) -> u32 {
    let taken = usize::from(faults(&offer.provider()).tail_bytes() > 0);
    let (out, within) =
        (offer.transmit().iov_limit, offer.receive().iov_limit.saturating_sub(taken));
    let most = if endpoint_type == EndpointType::Msg { out } else { out.min(within) };
    u32::try_from(most.clamp(1, PARTS_MAX)).unwrap_or(1)
}

pub(super) fn modes(offer: &Offer) -> OfiModes {
    let mode = offer.domain().mr_mode;
    let has = |bit: u32| i32::try_from(bit).is_ok_and(|bit| mode & bit != 0);
    OfiModes {
        context: offer.info().mode & (sys::FI_CONTEXT | sys::FI_CONTEXT2) != 0,
        local: has(sys::FI_MR_LOCAL),
        virtual_address: has(sys::FI_MR_VIRT_ADDR),
        allocated: has(sys::FI_MR_ALLOCATED),
        provider_key: has(sys::FI_MR_PROV_KEY),
    }
}

/// The bits of tags that the provider carries: all up to the highest of its format (`mem_tag_format` of `fi_endpoint(3)`).
pub(super) const fn tag_bits(offer: &Offer) -> u64 {
    match offer.endpoint().mem_tag_format {
        0 => 0,
        format => u64::MAX >> format.leading_zeros(),
    }
}

/// Whether memory can be read and written from afar, in both directions.
pub(super) const fn has_memory(offer: &Offer) -> bool {
    has_all(
        offer,
        sys::FI_RMA | sys::FI_READ | sys::FI_WRITE | sys::FI_REMOTE_READ | sys::FI_REMOTE_WRITE,
    )
}

/// Whether there are atomic operations at all.
pub(super) const fn has_atomics(offer: &Offer) -> bool {
    has_all(offer, sys::FI_ATOMIC)
}

const fn has_all(offer: &Offer, bits: u32) -> bool {
    let bits = widen(bits);
    offer.info().caps & bits == bits
}

/// The best offer for such a port: with as many of the capabilities as one has, those that matter most first.
pub(super) fn choose(config: &OfiConfig) -> Result<Offer, OfiError> {
    let message = u64::from(sys::FI_MSG);
    let tagged = message | u64::from(sys::FI_TAGGED);
    let who = tagged | sys::FI_SOURCE | sys::FI_DIRECTED_RECV;
    let memory = u64::from(sys::FI_RMA);
    let mut all = vec![who, tagged | sys::FI_SOURCE, tagged, message | sys::FI_SOURCE, message];
    if config.one_sided {
        let beside = [memory | u64::from(sys::FI_ATOMIC), memory, 0];
        all = beside.iter().flat_map(|more| all.iter().map(move |caps| caps | more)).collect();
    }
    let mut crashes = None;
    for caps in all {
        let wanted = Wanted {
            endpoint_type: type_number(config.endpoint_type),
            caps,
            in_order: config.endpoint_type != EndpointType::Dgram,
            // Who sleeps on a descriptor is woken by a thread, where the provider has one; whoever polls needs none beside it.
            manual: !config.waits,
            provider: config.provider.as_deref(),
            node: config.node.as_deref(),
            service: config.service.as_deref(),
        };
        for offer in offers(&wanted)? {
            let provider = offer.provider();
            if can_be_closed(&provider) {
                return Ok(offer);
            }
            crashes = Some(provider);
        }
    }
    if let Some(provider) = crashes {
        return Err(OfiError::Crashes { provider });
    }
    let wanted = format!("endpoint of type {}", config.endpoint_type);
    Err(OfiError::NoOffer { provider: config.provider.clone(), wanted })
}

#[cfg(test)]
mod tests {
    use std::ffi::OsStr;

    use super::closes;

    #[test]
    fn what_crashes_is_known_by_its_layer_and_the_variable() {
        let all = ["verbs;ofi_rxm", "net;ofi_rxm", "tcp;ofi_rxm", "verbs", "udp;ofi_rxd", "shm"];
        for (value, expected) in [
            (None, [false, false, true, true, true, true]),
            (Some("0"), [false, false, false, true, true, true]),
            (Some("perhaps"), [false, false, false, true, true, true]),
            (Some("1"), [true; 6]),
            (Some("Yes"), [true; 6]),
        ] {
            let seen = all.map(|provider| closes(provider, value.map(OsStr::new)));
            assert_eq!(seen, expected, "{value:?}");
        }
    }
}
