use spinwire_dataplane::provider::Caps;

use super::*;
use crate::fake_tree::Tree;

fn hints(tree: &Tree) -> Hints {
    Hints { root: tree.root().to_path_buf(), ..Hints::default() }
}

#[test]
fn every_transport_has_an_entry_and_every_lack_a_reason() {
    let found = discover(&Hints::default());
    for transport in Transport::ALL {
        let entries: Vec<_> = found.iter().filter(|it| it.transport == transport).collect();
        assert!(!entries.is_empty(), "{transport}");
        for Found { offer, .. } in entries {
            assert!(offer.as_ref().err().is_none_or(|absence| !absence.why.is_empty()));
        }
    }
    let shm = found.iter().find(|it| it.supports_endpoint_type(EndpointType::Rdm)).unwrap();
    assert_eq!(shm.to_string(), "shm rdm");
    assert!(!found.iter().any(|it| it.to_string() == "shm dgram"));
}

#[test]
fn only_what_is_asked_for_is_looked_at() {
    let found = discover(&Hints::only(&[Transport::Udp]));
    assert!(found.iter().all(|it| it.transport == Transport::Udp));
    let missing = Hints { segments: SegmentDir::new("/nowhere"), ..Hints::only(&[Transport::Shm]) };
    let found = discover(&missing);
    let [Found { offer: Err(absence), .. }] = found.as_slice() else { panic!("{found:?}") };
    assert!(absence.to_string().contains("/nowhere"), "{absence}");
}

#[test]
fn sizes_are_in_the_offers() {
    let sizes = Sizes {
        message_bytes: Some(1 << 20),
        peers: Some(5),
        send_depth: Some(32),
        recv_depth: Some(64),
    };
    for found in discover(&Hints::default().with_sizes(sizes)) {
        let Some(info) = found.info() else { continue };
        let limits = info.limits;
        assert_eq!(
            (limits.peers_max, limits.send_depth, limits.recv_depth),
            (5, 32, 64),
            "{found}"
        );
        let most = limits.message_bytes_max;
        assert!(if info.supports_datagram() { most < 65_536 } else { most >= 1 << 20 }, "{found}");
    }
}

#[test]
fn devices_that_cannot_be_used_say_why() {
    let tree = Tree::new();
    let why = |transport| {
        let found = rdma::found(transport, &hints(&tree));
        found
            .iter()
            .map(|it| format!("{it}: {}", it.offer.as_ref().unwrap_err()))
            .collect::<Vec<_>>()
    };
    assert!(
        why(Transport::Verbs)[0].starts_with("verbs: no RDMA device"),
        "{:?}",
        why(Transport::Verbs)
    );
    tree.file("sys/class/infiniband/rxe0/ports/1/state", "1: DOWN\n");
    tree.file("sys/class/infiniband/rxe0/ports/1/gid_attrs/ndevs/0", "eth5\n");
    assert!(why(Transport::Mlx5)[0].contains("ConnectX"));
    let said = why(Transport::Verbs).remove(0);
    if cfg!(feature = "verbs") {
        assert!(said.contains("modprobe ib_uverbs"), "{said}");
        tree.file("dev/infiniband/uverbs0", "");
        let said = why(Transport::Verbs).remove(0);
        assert!(
            said.ends_with("rxe0/1: the port is DOWN; remedy: sudo ip link set eth5 up"),
            "{said}"
        );
    } else {
        assert!(said.ends_with("rxe0/1: this build is without verbs; remedy: cargo build --release --features verbs"), "{said}");
    }
    tree.file("sys/class/infiniband/mlx5_0/ports/1/state", "4: ACTIVE\n");
    tree.file("sys/class/infiniband/mlx5_0/device/uevent", "DRIVER=mlx5_core\n");
    let direct = rdma::found(Transport::Mlx5, &hints(&tree));
    let names: Vec<String> = direct.iter().map(ToString::to_string).collect();
    if cfg!(feature = "mlx5") {
        let ready = ["mlx5 mlx5_0/1 rdm", "mlx5 mlx5_0/1 msg", "mlx5 mlx5_0/1 dgram"];
        assert_eq!(names, ready, "and none of another make");
        let caps =
            |found: &[Found]| found.iter().map(|it| it.info().unwrap().caps).collect::<Vec<_>>();
        let by_library = caps(rdma::found(Transport::Verbs, &hints(&tree)).get(..3).unwrap());
        assert!(by_library.iter().all(|its| its.has(Caps::DESCRIPTOR)), "{by_library:?}");
        // No library is asked for completions, which alone could have the device tell of them.
        let told = |its: &Caps| its.without(Caps::DESCRIPTOR);
        assert_eq!(caps(&direct), by_library.iter().map(told).collect::<Vec<_>>());
    } else {
        let said = why(Transport::Mlx5).remove(0);
        assert!(said.ends_with("mlx5_0/1: this build is without mlx5; remedy: cargo build --release --features mlx5"), "{said}");
    }
    let found = rdma::found(Transport::Verbs, &hints(&tree));
    let names: Vec<String> = found.iter().map(ToString::to_string).collect();
    if cfg!(feature = "verbs") {
        let ready = ["verbs mlx5_0/1 rdm", "verbs mlx5_0/1 msg", "verbs mlx5_0/1 dgram"];
        assert_eq!(names, [&ready[..], &["verbs rxe0/1"]].concat());
    } else {
        assert_eq!(names, ["verbs mlx5_0/1", "verbs rxe0/1"]);
    }
}
