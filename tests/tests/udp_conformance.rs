//! Ports over UDP against the conformance suite, on the kernel that runs.
#![allow(unused_imports, reason = "t")]
use spinwire_tests::conformance;
use spinwire_tests::conformance::{Udp, UdpOneByOne};
conformance! {
    udp: Udp,
    one_by_one: UdpOneByOne,
}
