//! Any text is a URI or refused; any plan is whole and in order.

use proptest::prelude::*;
use spinwire_dataplane::provider::{Caps, EndpointType, Info, LatencyClass, Paths};
use spinwire_hostshim::discover::{Absence, Found, Sizes, Transport};
use spinwire_hostshim::negotiate::{Peer, Requirements, negotiate};
use spinwire_hostshim::uri::Uri;

/// Texts that are nearly right.
fn nearly() -> impl Strategy<Value = String> {
    let piece = prop_oneof![
        Just("shm"),
        Just("tcp"),
        Just("udp"),
        Just("verbs"),
        Just("mlx5"),
        Just("ofi"),
        Just("://"),
        Just("/"),
        Just(":"),
        Just("["),
        Just("]"),
        Just("::1"),
        Just("7000"),
        Just("65536"),
        Just("0"),
        Just("-1"),
        Just("host"),
        Just("rxe0"),
        Just("quotes"),
        Just("."),
        Just(";"),
        Just("%"),
        Just("\u{0}"),
        Just("\u{202e}"),
        Just(" "),
        Just("\u{e9}"),
        Just("@"),
        Just("?"),
        Just("#"),
    ];
    prop::collection::vec(piece, 0..12).prop_map(|pieces| pieces.concat())
}

fn is_read_or_refused(text: &str) {
    match text.parse::<Uri>() {
        Ok(uri) => {
            assert_eq!(uri.to_string().parse::<Uri>().as_ref(), Ok(&uri), "{text:?}");
            assert!(uri.to_string().is_ascii() && !uri.to_string().contains(' '), "{text:?}");
        }
        Err(e) => {
            let said = e.to_string();
            assert!(said.contains("; remedy: ") && said.len() < 1024, "{said}");
            assert!(!said.chars().any(|c| c.is_control() || c == '\u{202e}'), "{said:?}");
        }
    }
}

const TYPES: [EndpointType; 3] = [EndpointType::Rdm, EndpointType::Msg, EndpointType::Dgram];

fn some_found() -> impl Strategy<Value = Found> {
    let info = (0..3_usize, 0..3_usize, any::<bool>()).prop_map(|(kind, latency, parcels)| {
        let info = Sizes::default().tcp().port.info(TYPES[kind], Paths::NONE);
        let latency = [LatencyClass::Memory, LatencyClass::Device, LatencyClass::Kernel][latency];
        let caps = if parcels { info.caps.with(Caps::PARCEL) } else { info.caps };
        Info { caps, ..info.with_latency(latency) }
    });
    (0..6_usize, prop::option::of(info)).prop_map(|(transport, info)| {
        let offer = info.ok_or_else(|| Absence::beyond_remedy("not there"));
        Found { transport: Transport::ALL[transport], device: None, offer }
    })
}

fn some_wish() -> impl Strategy<Value = Requirements> {
    let types = prop::collection::vec(0..3_usize, 0..4);
    let peer = prop_oneof![
        Just(Peer::Anywhere),
        Just(Peer::ThisHost),
        Just(Peer::OtherHost),
        Just(Peer::At(
            ["tcp://a:1", "shm://a", "tcp://b:1"].map(|text| text.parse().unwrap()).to_vec()
        )),
    ];
    (types, any::<bool>(), any::<bool>(), peer).prop_map(|(types, parcels, ordered, peer)| {
        Requirements {
            types: types.into_iter().map(|kind| TYPES[kind]).collect(),
            caps: if parcels { Caps::PARCEL } else { Caps::NONE },
            ordered,
            peer,
            ..Requirements::default()
        }
    })
}

proptest! {
    #[test]
    fn any_text_is_read_or_refused(text in ".{0,80}") {
        is_read_or_refused(&text);
    }

    #[test]
    fn what_is_nearly_right_is_read_or_refused(text in nearly()) {
        is_read_or_refused(&text);
    }

    /// Everything that was found is chosen or rejected; what is chosen fulfils everything, and the order never goes back.
    #[test]
    fn plans_are_whole_and_in_order(
        found in prop::collection::vec(some_found(), 0..12),
        wanted in some_wish(),
    ) {
        let plan = negotiate(&wanted, &found);
        for each in &found {
            let is_chosen = plan.choices.iter().any(|choice| choice.found == *each);
            let is_rejected = plan.rejected.iter().any(|rejected| rejected.found == *each);
            prop_assert!(is_chosen != is_rejected, "{each}: {plan}");
        }
        for choice in &plan.choices {
            let info = choice.found.info().unwrap();
            prop_assert!(wanted.types.contains(&info.endpoint_type) && info.caps.has(wanted.caps));
            prop_assert!(!wanted.ordered || info.endpoint_type != EndpointType::Dgram);
            prop_assert!(wanted.peer != Peer::OtherHost || choice.found.transport != Transport::Shm);
            prop_assert_eq!(choice.uri.is_some(), matches!(wanted.peer, Peer::At(_)));
            prop_assert!(choice.uri.as_ref().is_none_or(|uri| uri.transport() == choice.found.transport));
        }
        for rejected in &plan.rejected {
            prop_assert!(!rejected.unmet.is_empty());
        }
        let ranks: Vec<_> = plan.choices.iter().map(|choice| {
            let info = choice.found.info().unwrap();
            let kind = wanted.types.iter().position(|kind| *kind == info.endpoint_type).unwrap();
            (kind, info.latency, choice.found.transport)
        }).collect();
        prop_assert!(ranks.is_sorted(), "{ranks:?}");
    }
}
