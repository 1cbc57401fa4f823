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

/// What there is of them: an entry for each provider. No URI leads to them so far, so none is an offer.
#[cfg(feature = "libfabric")]
pub(super) fn found(_hints: &Hints) -> Vec<Found> {
    use crate::libfabric::{OfiHints, found};

    let absent = |provider, why| Found::absent(Transport::Ofi, provider, why);
    let offers = match found(&OfiHints::default()) {
        Ok(offers) => offers,
        Err(e) => return vec![absent(None, Absence::beyond_remedy(e.to_string()))],
    };
    let mut types: Vec<(String, Vec<String>)> = Vec::new();
    for offer in offers {
        let kind = offer.info.endpoint_type.to_string();
        match types.iter_mut().find(|(provider, _)| *provider == offer.provider) {
            Some((_, kinds)) if kinds.contains(&kind) => {}
            Some((_, kinds)) => kinds.push(kind),
            None => types.push((offer.provider, vec![kind])),
        }
    }
    if types.is_empty() {
        return vec![absent(None, Absence::new("libfabric lists no provider", "fi_info -l"))];
    }
    let entry = |(provider, kinds): (String, Vec<String>)| {
        let why = Absence::new(
            format!("has {} endpoints, which no URI opens in this version", kinds.join(", ")),
            "open them by hostshim::libfabric::OfiPort",
        );
        absent(Some(provider), why)
    };
    types.into_iter().map(entry).collect()
}
