//! Faults that are planted, so that it is seen that they would be found.

use spinwire_dataplane::vqp::sequence::SequenceCodec;
use spinwire_dataplane::vqp::{Replay, Scheme, Visibility};
use spinwire_tests::sim::fabric::Faults;

use crate::soak::{Mix, base, plan, run};

const SPRAY: Scheme = Scheme::Spray(Visibility::OneDevice);
const DQPLB: Scheme = Scheme::Dqplb(SequenceCodec::Clean);

fn found(
    (scheme, devices, notify): (Scheme, &[u32], Option<u32>),
    faults: Faults,
    hides_devices: bool,
) -> String {
    let mut plan = plan(devices, notify, base(scheme, Replay::Never), 3);
    plan.hides_devices = hides_devices;
    let mix = if notify.is_some() { Mix::Spray } else { Mix::Dqplb };
    let result = run(&plan, |config, _| config, (mix, 3000), faults);
    result.expect_err("what was planted was not found")
}

/// The devices are passed off as one, so that nothing is read back.
#[test]
fn without_a_flushing_read_data_is_overtaken() {
    let what = found((SPRAY, &[0, 1, 2], Some(0)), Faults::default(), true);
    assert!(what.contains("is not intact"), "{what}");
}

#[test]
fn a_byte_that_changes_on_the_way_is_seen() {
    let faults = Faults { corruptions: 20, ..Faults::default() };
    for (scheme, notify) in [(SPRAY, Some(0)), (DQPLB, None)] {
        let what = found((scheme, &[0, 0], notify), faults, false);
        assert!(what.contains("is not intact") || what.contains("something else"), "{what}");
    }
}

#[test]
fn a_message_that_is_acknowledged_and_lost_is_seen() {
    let faults = Faults { losses: 20, ..Faults::default() };
    for (scheme, notify) in [(SPRAY, Some(0)), (DQPLB, None)] {
        let what = found((scheme, &[0, 0], notify), faults, false);
        let expected =
            ["is not intact", "not told", "no progress", "something else", "never told", "of "];
        assert!(expected.iter().any(|words| what.contains(words)), "{what}");
    }
}

/// A completion queue that says that it is deeper than it is.
#[test]
fn a_completion_queue_that_overflows_is_seen() {
    let mut plan = plan(&[0, 0, 0], None, base(DQPLB, Replay::Never), 3);
    plan.cq_depth = 4096;
    plan.with(
        |config, _| config,
        |pair| {
            pair.fabric.limit_cqs(8);
            let end = &pair.ends[0];
            for context in 0..16 {
                let sges = [end.sge(0, 100)];
                let wr = spinwire_dataplane::vqp::SendWr {
                    context,
                    op: spinwire_dataplane::vqp::Op::WriteNotify,
                    sges: &sges,
                    remote: Some(end.remote(0)),
                    signal: spinwire_dataplane::vqp::Signal::Always,
                };
                end.vqp.post_send(&wr).unwrap();
            }
            end.vqp.ring_doorbell();
            for _ in 0..100 {
                pair.fabric.advance(10_000);
            }
            let what = pair.fabric.violation().expect("an overflow");
            assert!(what.contains("overflows"), "{what}");
        },
    );
}
