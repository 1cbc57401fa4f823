use spinwire_dataplane::provider::{Caps, Paths};

use super::*;
use crate::discover::{Absence, Sizes};

fn info(transport: Transport, kind: EndpointType) -> Info {
    let sizes = Sizes::default();
    match (transport, kind) {
        (Transport::Shm, _) => sizes.shm().info(kind, 65_536),
        (_, EndpointType::Dgram) => sizes.udp().port.info(Paths::NONE),
        (Transport::Verbs | Transport::Mlx5, _) => {
            sizes.tcp().port.info(kind, Paths::NONE).with_latency(LatencyClass::Device)
        }
        _ => sizes.tcp().port.info(kind, Paths::NONE),
    }
}

/// A machine that has everything.
fn everything() -> Vec<Found> {
    let kinds = [EndpointType::Msg, EndpointType::Rdm];
    let mut found = vec![];
    // In another order than that of any rank.
    for (transport, device) in [
        (Transport::Ofi, Some("tcp")),
        (Transport::Tcp, None),
        (Transport::Verbs, Some("rxe0/1")),
        (Transport::Shm, None),
    ] {
        let device = device.map(str::to_owned);
        found.extend(
            kinds.map(|kind| Found::ready(transport, device.clone(), info(transport, kind))),
        );
    }
    found.push(Found::ready(Transport::Udp, None, info(Transport::Udp, EndpointType::Dgram)));
    found.push(Found::absent(Transport::Mlx5, None, Absence::beyond_remedy("no device")));
    found
}

fn names(plan: &Plan) -> Vec<String> {
    plan.choices.iter().map(Choice::to_string).collect()
}

#[test]
fn an_address_that_leads_nowhere_is_said_once_and_nothing_beside_it() {
    let uris: [Uri; 2] =
        ["ofi://nonsense/h:1".parse().unwrap(), "verbs://rxe7/h:1".parse().unwrap()];
    let plan = negotiate(&Requirements::default().for_peer_at(&uris), &everything());
    assert_eq!(plan.unknown, uris.map(Nowhere), "{plan}");
    let text = plan.walk(|_| Err::<(), _>("unopened")).unwrap_err().to_string();
    assert_eq!(
        text.lines().skip(1).collect::<Vec<_>>(),
        [
            "  ofi://nonsense/h:1: there is no provider \"nonsense\" of libfabric here; remedy: spinwire providers --only ofi # lists what there is",
            "  verbs://rxe7/h:1: there is no device \"rxe7\" here; remedy: spinwire providers --only verbs # lists what there is",
        ]
    );
    // What there is, is no more than what is absent, unknown.
    for known in ["verbs://rxe0/h:1", "ofi://tcp/h:1", "mlx5://mlx5_0/h:1", "tcp://h:1", "shm://d"]
    {
        let uri: Uri = known.parse().unwrap();
        let plan = negotiate(&Requirements::default().for_peer_at([&uri]), &everything());
        assert_eq!(plan.unknown, [], "{known}: {plan}");
    }
}

#[test]
fn the_preferred_type_comes_first_then_memory_devices_and_the_kernel() {
    let plan = negotiate(&Requirements::default(), &everything());
    assert_eq!(
        names(&plan),
        [
            "shm rdm",
            "verbs rxe0/1 rdm",
            "tcp rdm",
            "ofi tcp rdm",
            "shm msg",
            "verbs rxe0/1 msg",
            "tcp msg",
            "ofi tcp msg",
        ]
    );
    assert_eq!(plan.rejected.len(), 2, "{plan}");
    assert_eq!(plan.rejected[0].unmet.len(), 1, "{plan}");
    assert!(
        plan.to_string().contains("1. shm rdm: rdm is preferred, shared memory, if the peer"),
        "{plan}"
    );
    let msg_first = Requirements::default().of_types(&[EndpointType::Msg, EndpointType::Rdm]);
    assert_eq!(names(&negotiate(&msg_first, &everything()))[0], "shm msg");
    assert_eq!(names(&negotiate(&Requirements::datagrams(), &everything())), ["udp dgram"]);
    assert_eq!(negotiate(&Requirements::anything(), &everything()).choices.len(), 9);
}

#[test]
fn where_the_peer_is_decides_about_shared_memory() {
    let elsewhere = Requirements { peer: Peer::OtherHost, ..Requirements::default() };
    let plan = negotiate(&elsewhere, &everything());
    assert_eq!(names(&plan)[0], "verbs rxe0/1 rdm");
    assert!(
        plan.rejected.iter().any(|it| it.to_string().contains("shm rdm: reaches this host alone"))
    );
    let here = Requirements { peer: Peer::ThisHost, ..Requirements::default() };
    assert!(negotiate(&here, &everything()).choices[0].reasons.contains(&Reason::MemoryHere));
    let at = [
        "tcp://h:1",
        "shm://a",
        "tcp://g:1",
        "verbs://rxe0/h:1",
        "verbs://rxe1/h:1",
        "ofi://shm/x",
    ];
    let at = at.map(|text| text.parse().unwrap());
    let plan = negotiate(&Requirements::default().for_peer_at(&at), &everything());
    let found = names(&plan);
    assert_eq!(
        found[..4],
        [
            "shm rdm shm://a",
            "verbs rxe0/1 rdm verbs://rxe0/h:1",
            "tcp rdm tcp://h:1",
            "tcp rdm tcp://g:1"
        ]
    );
    assert!(plan.rejected.iter().any(|it| {
        it.to_string().contains("ofi tcp rdm: the peer has no address ofi://tcp/HOST:PORT")
    }));
}

#[test]
fn of_what_is_absent_it_is_not_said_that_it_was_not_named() {
    let at = ["mlx5://mlx5_0/h:1".parse().unwrap()];
    let plan = negotiate(&Requirements::default().for_peer_at(&at), &everything());
    let absent: Vec<_> = plan.rejected.iter().map(ToString::to_string).collect();
    assert!(absent.contains(&"mlx5: no device".to_owned()), "{absent:?}");
    assert!(
        absent.iter().any(|it| it.starts_with("tcp rdm: the peer has no address tcp://")),
        "{absent:?}"
    );
}

#[test]
fn each_requirement_can_reject_and_all_that_do_are_named() {
    let asks: [(Requirements, &str); 8] = [
        (Requirements::default().with_caps(Caps::PARCEL), "capabilities: lacks parcel"),
        (
            Requirements::default().for_messages_of(1 << 20),
            "bytes a message: has 65536, wanted 1048576",
        ),
        (
            Requirements { inject_bytes: 1 << 20, ..Requirements::default() },
            "bytes injected: has 65536",
        ),
        (Requirements { peers: 100, ..Requirements::default() }, "peers: has 16, wanted 100"),
        (
            Requirements { immediate_bits: 65, ..Requirements::default() },
            "bits of immediate data: has 64",
        ),
        (
            Requirements { ordered: true, ..Requirements::datagrams() },
            "order: messages may overtake",
        ),
        (
            Requirements { transports: vec![Transport::Shm], ..Requirements::default() },
            "is not among the transports",
        ),
        (Requirements::datagrams(), "type: has rdm, wanted dgram"),
    ];
    for (wanted, says) in asks {
        let plan = negotiate(&wanted, &everything());
        let said: Vec<String> = plan.rejected.iter().map(Rejected::to_string).collect();
        assert!(said.iter().any(|text| text.contains(says)), "{says}: {said:?}");
    }
    let both = Requirements { peers: 100, ..Requirements::default().with_caps(Caps::PARCEL) };
    let plan = negotiate(&both, &everything());
    let tcp = plan.rejected.iter().find(|it| it.found.to_string() == "tcp rdm").unwrap();
    assert_eq!(tcp.unmet.len(), 2);
}

#[test]
fn whatever_is_not_fulfilled_says_what_would_help() {
    let from = |wanted: &Requirements, found: &[Found], name: &str| {
        let plan = negotiate(wanted, found);
        let it = plan.rejected.into_iter().find(|it| it.found.to_string() == name);
        it.unwrap_or_else(|| panic!("{name} is not rejected")).remedies.join(" + ")
    };
    let all = everything();
    let any = Requirements::default;
    let tcp = |wanted: Requirements| from(&wanted, &all, "tcp rdm");
    // Another provider, where there is one that has it; else where it is to be had.
    let holders = "take shm msg or shm rdm";
    assert_eq!(tcp(any().with_caps(Caps::PARCEL)), holders);
    assert!(tcp(any().with_caps(Caps::ATOMIC)).starts_with("an RDMA device has that"));
    let none: Vec<Found> =
        all.iter().filter(|it| it.transport != Transport::Shm).cloned().collect();
    let text = from(&any().with_caps(Caps::PARCEL), &none, "tcp rdm");
    assert!(text.starts_with("buffers of a pool go through shm alone"), "{text}");
    // A size that it can have, or pieces.
    let sized = "open it for them: Sizes::messages_of(1048576)";
    assert_eq!(tcp(any().for_messages_of(1 << 20)), sized);
    assert_eq!(tcp(Requirements { inject_bytes: 1 << 20, ..any() }), sized);
    assert_eq!(tcp(any().for_messages_of(1 << 25)), "send in pieces");
    let long = Requirements::anything().for_messages_of(1 << 20);
    let udp = from(&long, &all, "udp dgram");
    assert_eq!(udp, "take tcp msg or tcp rdm or verbs rxe0/1 msg, or send in pieces");
    assert_eq!(
        tcp(Requirements { peers: 100, ..any() }),
        "open it for them: Sizes { peers: Some(100), .. }"
    );
    // One that is connected has one peer, whatever its size.
    let msg = Requirements { peers: 2, types: vec![EndpointType::Msg], ..any() };
    assert_eq!(
        from(&msg, &all, "tcp msg"),
        "ask for rdm, too: an endpoint of type msg has one peer"
    );
    assert_eq!(tcp(Requirements { immediate_bits: 65, ..any() }), "send them in the message");
    // Another type, order, host, address, transport.
    assert_eq!(tcp(Requirements::datagrams()), "take udp dgram, or ask for rdm, too");
    let none = [all[2].clone()];
    let text = from(&Requirements::datagrams(), &none, "tcp msg");
    assert_eq!(text, "ask for msg, too: nothing here has another");
    let ordered = Requirements { ordered: true, ..Requirements::anything() };
    let text = from(&ordered, &all, "udp dgram");
    assert_eq!(text, "take ofi tcp msg or ofi tcp rdm or tcp msg, or number the messages");
    let elsewhere = Requirements { peer: Peer::OtherHost, ..any() };
    assert!(from(&elsewhere, &all, "shm rdm").starts_with("take ofi tcp msg or ofi tcp rdm or"));
    let at = any().for_peer_at(&["shm://a".parse().unwrap()]);
    assert_eq!(tcp(at.clone()), "give one, too: tcp://HOST:PORT[/NAME]");
    assert_eq!(
        from(&at, &everything(), "verbs rxe0/1 rdm"),
        "give one, too: verbs://rxe0:1/HOST:PORT[/NAME]"
    );
    assert_eq!(from(&at, &all, "ofi tcp rdm"), "give one, too: ofi://tcp/HOST:PORT[/NAME]");
    let only = Requirements { transports: vec![Transport::Shm], ..any() };
    assert_eq!(tcp(only), "have tcp among the transports, too");
    // All of it, in the words of a plan.
    let both = Requirements { peers: 100, ..any().with_caps(Caps::PARCEL) };
    let said = negotiate(&both, &all).to_string();
    assert!(
        said.contains("-  tcp rdm: capabilities: lacks parcel; peers: has 16, wanted 100; remedy: take shm msg or shm rdm; and open it for them"),
        "{said}"
    );
}

#[test]
fn words_ask_for_types_and_capabilities() {
    let wanted: Requirements = "tagged, msg,rdm,ordered".parse().unwrap();
    assert_eq!(wanted.types, [EndpointType::Msg, EndpointType::Rdm]);
    assert!(wanted.ordered && wanted.caps == Caps::TAGGED);
    assert_eq!("".parse::<Requirements>().unwrap(), Requirements::anything());
    let e = "tagged,fast".parse::<Requirements>().unwrap_err().to_string();
    assert!(e.contains("\"fast\"") && e.contains("multi-recv"), "{e}");
}

#[test]
fn a_walk_ends_with_the_first_that_opens_and_keeps_what_the_others_said() {
    let plan = negotiate(&Requirements::default(), &everything());
    let mut tried = Vec::new();
    let walked = plan
        .walk(|choice| {
            tried.push(choice.to_string());
            if choice.found.transport == Transport::Tcp { Ok(7) } else { Err("no") }
        })
        .unwrap();
    assert_eq!(tried, ["shm rdm", "verbs rxe0/1 rdm", "tcp rdm"]);
    assert_eq!((walked.value, walked.choice.to_string().as_str()), (7, "tcp rdm"));
    assert_eq!(walked.failed[1].to_string(), "verbs rxe0/1 rdm: no");
    let no_path = plan.walk(|_| Err::<(), _>("never")).unwrap_err();
    let text = no_path.to_string();
    assert_eq!((no_path.failed.len(), no_path.rejected.len()), (8, 2));
    assert!(text.contains("ofi tcp msg: never") && text.contains("mlx5: no device"), "{text}");
    let lines: Vec<_> = text.lines().collect();
    assert_eq!(lines.last(), Some(&"  ofi tcp msg: never"), "what was tried comes last: {text}");
    let of_shm = negotiate(
        &Requirements::default().for_peer_at(&["shm://a".parse().unwrap()]),
        &everything(),
    );
    let text = of_shm.walk(|_| Err::<(), _>("remedy")).unwrap_err().to_string();
    assert!(text.ends_with("  shm rdm shm://a: remedy\n  shm msg shm://a: remedy"), "{text}");
    let none = Plan::default().walk(|_| Ok::<(), &str>(())).unwrap_err().to_string();
    assert!(none.starts_with("nothing here fulfils"), "{none}");
}
