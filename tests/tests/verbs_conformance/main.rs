//! Messages over real devices against the conformance suite: Soft-RoCE, in the guest of `tests/vm`. See `spinwire_tests::conformance`.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    clippy::large_stack_frames,
    missing_docs,
    unreachable_pub,
    reason = "a test"
)]

mod datagrams;
mod rig;

use datagrams::VerbsDgram;
use rig::Verbs;
use spinwire_tests::conformance;

conformance! {
    verbs: Verbs,
}

spinwire_tests::datagram_conformance! {
    dgram: VerbsDgram,
}
