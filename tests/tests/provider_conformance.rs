//! Every provider against the one conformance suite: see `spinwire_tests::conformance`. Behind faults and delays: `wrapped_conformance`.

use spinwire_dataplane::msg::{RecvFrom, SendTo};
use spinwire_dataplane::provider::EndpointType;
use spinwire_tests::conformance;
use spinwire_tests::conformance::{
    AnyShm, Loopback, Mlx5, Rdma, Shm, Sizes, Tcp, Traced, random, run,
};

conformance! {
    loopback: Loopback,
    shm: Shm,
    any_port: Traced<AnyShm>,
    tcp: Tcp,
    rdma: Rdma<false>,
    rdma_uncopied: Rdma<true>,
    mlx5: Mlx5<true>,
}

/// What only shared memory has: lanes that nobody looks at until their sender says so.
#[test]
fn idle_lanes_turn_cold_and_are_heard_at_once() {
    run::<Shm>(EndpointType::Rdm, Sizes::default(), |world| {
        let b = world.node("b");
        let senders: Vec<_> = (0..9)
            .map(|number| {
                let sender = world.node(&format!("s{number}"));
                let (to, _) = world.introduce(&sender, &b);
                world.insist(&[&sender], || sender.inject(SendTo::peer(to), b"hello"));
                sender.flush();
                (sender, to)
            })
            .collect();
        for round in 0..20 {
            for _ in 0..10 {
                while b.take().is_some() {}
                let _refused_when_full = b.recv(RecvFrom::any(), 0);
                world.turns(3000, &[&b]);
            }
            assert!(b.provider().hot_count() <= 4, "{} are hot", b.provider().hot_count());
            let (sender, to) = &senders[round % 9];
            world.insist(&[sender], || sender.inject(SendTo::peer(*to), b"news"));
            sender.flush();
            world.turns(2, &[&b]);
            assert_eq!(b.take().map(|got| got.bytes), Some(b"news".to_vec()));
        }
    });
}

/// See [`random`].
#[test]
fn any_sequence_is_as_the_model_says_in_memory() {
    for endpoint_type in [EndpointType::Rdm, EndpointType::Msg] {
        random::any_sequence_is_as_the_model_says::<Loopback>(endpoint_type, 40);
        random::any_sequence_is_as_the_model_says::<Shm>(endpoint_type, 40);
    }
}

#[test]
fn any_sequence_is_as_the_model_says_over_tcp() {
    random::any_sequence_is_as_the_model_says::<Tcp>(EndpointType::Rdm, 8);
}

#[test]
fn any_sequence_is_as_the_model_says_over_devices() {
    for endpoint_type in [EndpointType::Rdm, EndpointType::Msg] {
        random::any_sequence_is_as_the_model_says::<Rdma<false>>(endpoint_type, 8);
        random::any_sequence_is_as_the_model_says::<Mlx5<true>>(endpoint_type, 4);
    }
}
