//! Providers of libfabric: what the library lists, without opening any.

use super::{Absence, Found, Hints, Transport};

/// What there is of them.
#[cfg(not(feature = "libfabric"))]
pub(super) fn found(_hints: &Hints) -> Vec<Found> {
    let why = Absence::new(
        "this build is without libfabric",
        "apt-get install libfabric-dev libclang-dev && cargo build --release --features libfabric",
    );
    vec![Found::absent(Transport::Ofi, None, why)]
}

/// What there is of them: an entry for each provider and type of endpoint. What the library lists is remembered as long as the process lives:
/// the first answer takes it some tenths of a second, because then it loads all its providers, whichever are asked for.
#[cfg(feature = "libfabric")]
pub(super) fn found(hints: &Hints) -> Vec<Found> {
    use std::sync::OnceLock;

    use spinwire_dataplane::provider::EndpointType;

    use crate::libfabric::{OfiHints, found, offered};

    static LISTED: OnceLock<Result<Vec<(String, EndpointType)>, String>> = OnceLock::new();

    let absent = |provider, why| Found::absent(Transport::Ofi, provider, why);
    let listed = LISTED.get_or_init(|| {
        let offers = found(&OfiHints::default()).map_err(|e| e.to_string())?;
        let mut listed = Vec::new();
        for offer in offers {
            let entry = (offer.provider, offer.info.endpoint_type);
            if !listed.contains(&entry) {
                listed.push(entry);
            }
        }
        Ok(listed)
    });
    let listed = match listed {
        Ok(listed) if listed.is_empty() => {
            return vec![absent(None, Absence::new("libfabric lists no provider", "fi_info -l"))];
        }
        Ok(listed) => listed,
        Err(why) => return vec![absent(None, Absence::beyond_remedy(why))],
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
            Err(e) => absent(device, Absence::beyond_remedy(e.to_string())),
        }
    };
    listed.iter().map(entry).collect()
}
