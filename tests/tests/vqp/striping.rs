//! More devices carry more: links of 100 Gb/s, in virtual time.

use spinwire_dataplane::vqp::sequence::SequenceCodec;
use spinwire_dataplane::vqp::{
    Op, RecvKind, RecvWr, Refusal, Replay, Scheme, SendWr, Signal, Visibility, VqpConfig,
};
use spinwire_tests::sim::fabric::Links;

use crate::pair::{Plan, quick};

const MESSAGE: u64 = 8 << 20;
const MESSAGES: u64 = 12;

/// Nanoseconds until so many messages of 8 MiB have arrived over that many devices.
fn time(devices: u32, scheme: Scheme) -> u64 {
    let config = quick(VqpConfig { scheme, replay: Replay::Never, ..VqpConfig::default() });
    let is_spray = matches!(scheme, Scheme::Spray(_));
    let plan = Plan {
        devices: (0..8).map(|path| path % devices).collect(),
        notify: is_spray.then_some(0),
        config,
        links: Links::QUIET,
        memory: 1 << 24,
        seed: 1,
        hides_devices: false,
        cq_depth: 1 << 14,
    };
    let mut took = 0;
    let configure = |config: VqpConfig, scratch| {
        let scheme = if is_spray && devices > 1 {
            Scheme::Spray(Visibility::FlushingRead(scratch))
        } else {
            config.scheme
        };
        VqpConfig { scheme, ..config }
    };
    plan.with(configure, |pair| {
        let mut posted = 0;
        let mut notified = 0;
        for context in 0..MESSAGES {
            let recv = RecvWr { context, kind: RecvKind::Notification, sges: &[] };
            pair.ends[1].vqp.post_recv(&recv).unwrap();
        }
        while notified < MESSAGES {
            let end = &pair.ends[0];
            let sges = [end.sge(4096, MESSAGE)];
            while posted < MESSAGES {
                let wr = SendWr {
                    context: posted,
                    op: Op::WriteNotify,
                    sges: &sges,
                    remote: Some(end.remote(4096)),
                    signal: Signal::Always,
                };
                match end.vqp.post_send(&wr) {
                    Ok(()) => posted += 1,
                    Err(Refusal::Retry(_)) => break,
                    Err(error) => panic!("{error}"),
                }
            }
            let [here, there] = pair.turn();
            assert!(here.iter().all(|completion| completion.outcome.is_ok()));
            notified += u64::try_from(there.len()).unwrap();
            pair.fabric.advance(1000);
            assert_eq!(pair.fabric.violation(), None);
        }
        took = pair.fabric.now();
    });
    took
}

#[test]
fn two_devices_carry_twice_as_much_and_four_four_times() {
    for scheme in [Scheme::Spray(Visibility::OneDevice), Scheme::Dqplb(SequenceCodec::Clean)] {
        let one = time(1, scheme);
        // 12.5 bytes in a nanosecond: the link is full all the time.
        let floor = MESSAGE * MESSAGES * 2 / 25;
        assert!(one >= floor && one * 100 < floor * 102, "{one} ns, the link alone {floor}");
        let (two, four) = (time(2, scheme), time(4, scheme));
        println!("{scheme:?}: {one} ns, {two} ns, {four} ns");
        assert!(one * 100 >= two * 195, "two devices: {one} / {two}");
        assert!(one * 100 >= four * 380, "four devices: {one} / {four}");
    }
}
