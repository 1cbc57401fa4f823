//! Providers of libfabric: what the library lists, without opening any.

#[cfg(feature = "libfabric")]
use std::sync::OnceLock;

#[cfg(feature = "libfabric")]
use spinwire_dataplane::provider::EndpointType;

use super::{Absence, Found, Hints, Transport};
#[cfg(feature = "libfabric")]
use crate::libfabric::{KNOWN, Known, OfiError, offered, providers};

/// What there is of them.
#[cfg(not(feature = "libfabric"))]
pub(super) fn found(_hints: &Hints) -> Vec<Found> {
    let why = Absence::new(
        "this build is without libfabric",
        "apt-get install libfabric-dev libclang-dev && cargo build --release --features libfabric",
    );
    vec![Found::absent(Transport::Ofi, None, why)]
}

/// What there is of them: an entry for each provider and type of endpoint.
///
/// The library is asked where hints name it, and where it may have something that is not known beforehand. What it lists is remembered as long as the
/// process lives: the first answer takes it a quarter of a second, because then it is loaded with all its providers, whichever are asked for.
#[cfg(feature = "libfabric")]
pub(super) fn found(hints: &Hints) -> Vec<Found> {
    if hints.transports.contains(&Transport::Ofi) || !is_known_here(hints) {
        asked(hints)
    } else {
        known(hints)
    }
}

/// What is known of it beforehand.
#[cfg(feature = "libfabric")]
fn known(hints: &Hints) -> Vec<Found> {
    let entry = |known: &Known| {
        let device = Some(known.provider.to_owned());
        match known.info(&hints.sizes.ofi(known.provider, known.endpoint_type)) {
            Ok(info) => Found::ready(Transport::Ofi, device, info),
            Err(error) => Found::absent(Transport::Ofi, device, absence(&error)),
        }
    };
    KNOWN.iter().map(entry).collect()
}

/// The error as discovery tells it: the remedy apart.
#[cfg(feature = "libfabric")]
fn absence(error: &OfiError) -> Absence {
    let text = error.to_string();
    match text.split_once("; remedy: ") {
        Some((why, remedy)) => Absence::new(why, remedy),
        None => Absence::beyond_remedy(text),
    }
}

/// Whether a device, the environment or another version could make the library say something else than is known.
#[cfg(feature = "libfabric")]
fn is_known_here(hints: &Hints) -> bool {
    let devices =
        [("sys/class/infiniband", ""), ("sys/class/cxi", ""), ("dev", "hfi1"), ("dev", "ipath")];
    let has = |(folder, start): (&str, &str)| {
        hints.names(folder).iter().any(|name| name.starts_with(start))
    };
    !devices.into_iter().any(has) && crate::libfabric::is_known_here()
}

/// What it says.
#[cfg(feature = "libfabric")]
fn asked(hints: &Hints) -> Vec<Found> {
    static LISTED: OnceLock<Result<Vec<(String, EndpointType)>, OfiError>> = OnceLock::new();

    let absent = |provider, why| Found::absent(Transport::Ofi, provider, why);
    let listed = LISTED.get_or_init(providers);
    let listed = match listed {
        Ok(listed) if listed.is_empty() => {
            return vec![absent(None, Absence::new("libfabric lists no provider", "fi_info -l"))];
        }
        Ok(listed) => listed,
        Err(error) => return vec![absent(None, absence(error))],
    };
    let entry = |(provider, kind): &(String, EndpointType)| {
        let device = Some(provider.clone());
        match offered(&hints.sizes.ofi(provider, *kind)) {
            Ok((_, modes)) if modes.local => {
                let why = format!("its {kind} endpoints take buffers in registered memory alone");
                let remedy = "open them by hostshim::libfabric::OfiPort";
                absent(device, Absence::new(why, remedy))
            }
            Ok((info, _)) => Found::ready(Transport::Ofi, device, info),
            Err(error) => absent(device, absence(&error)),
        }
    };
    listed.iter().map(entry).collect()
}
