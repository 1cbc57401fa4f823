//! Providers of libfabric.

use super::{Absence, Found, Hints, Transport};

/// What there is of them.
pub(super) fn found(_hints: &Hints) -> Vec<Found> {
    let why = Absence::beyond_remedy("this version is without libfabric");
    vec![Found::absent(Transport::Ofi, None, why)]
}
