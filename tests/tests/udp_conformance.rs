//! Ports for datagrams against the conformance suite: over UDP on the kernel that runs, with one submission for all packets and one for each, and over
//! simulated RDMA devices, and over the queues of mlx5 on a model of theirs.
//!
//! What it does where datagrams promise nothing is tried in `udp_port`.

use spinwire_dataplane::provider::EndpointType;
use spinwire_tests::conformance::{Mlx5Dgram, RdmaDgram, Udp, UdpOneByOne, random};

spinwire_tests::datagram_conformance! {
    by_one_submission: Udp,
    one_by_one: UdpOneByOne,
    over_rdma: RdmaDgram,
    over_mlx5: Mlx5Dgram,
}

/// See [`random`]: on the loopback interface nothing is lost that there is room for, and the order is kept.
#[test]
fn any_sequence_is_as_the_model_says() {
    random::any_sequence_is_as_the_model_says::<Udp>(EndpointType::Dgram, 8);
}
