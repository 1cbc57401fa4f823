//! What fails, and how that is told.

use core::time::Duration;
use std::process::Command;
use std::rc::Rc;
use std::time::Instant;

use spinwire_dataplane::error::{Fatal, PostError};
use spinwire_dataplane::verbs::{QueuePair as _, SendRequest, Verb, WcStatus};
use spinwire_hostshim::verbs::{
    CompletionQueue, ConnectConfig, Device, EventKind, Pair, PairConfig, PairKind, PairState,
    PortState, ProtectionDomain, VerbsError,
};

use super::rig::{End, connected, devices, quick, wr};

#[test]
fn a_pair_that_is_failed_flushes_all_that_was_posted_once() {
    let Some([a, b]) = connected(&PairConfig::default(), &quick()) else { return };
    for id in 0..5 {
        b.recv(id, &[b.segment(0, 64)]);
    }
    b.pair.fail().unwrap();
    assert_eq!(b.pair.state().unwrap(), PairState::Error);
    for id in 0..5 {
        b.failed(id, WcStatus::FLUSHED);
    }
    let after =
        b.pair.post_recv(&spinwire_dataplane::verbs::RecvRequest { wr_id: wr(9), segments: &[] });
    assert_eq!(after, Err(PostError::Fatal(Fatal::QueueError)));
    assert!(b.next_within(Duration::from_millis(100)).is_none());
    drop(a);
}

#[test]
fn a_failed_pair_can_be_connected_again() {
    let Some([a, b]) = connected(&PairConfig::default(), &quick()) else { return };
    for end in [&a, &b] {
        end.pair.fail().unwrap();
        end.pair.reset().unwrap();
    }
    a.pair.connect(b.pair.card(), &quick()).unwrap();
    b.pair.connect(a.pair.card(), &quick()).unwrap();
    b.recv(1, &[b.segment(0, 64)]);
    a.send(&SendRequest::new(wr(1), Verb::Send, &[a.segment(0, 8)]));
    a.done(1);
    b.done(1);
}

#[test]
fn a_peer_that_is_gone_is_told_within_the_bound() {
    let Some([a, b]) = connected(&PairConfig::default(), &quick()) else { return };
    drop(b);
    let from = Instant::now();
    a.send(&SendRequest::new(wr(1), Verb::Send, &[a.segment(0, 8)]));
    a.failed(1, WcStatus::RETRY_EXCEEDED);
    // Four tries of 4 ms each; the emulated guest takes its time, and yet this is no 60 s.
    assert!(from.elapsed() < Duration::from_secs(20), "{:?}", from.elapsed());
    // The state is the driver's belief, and it follows.
    assert_eq!(a.pair.state().unwrap(), PairState::Error);
}

#[test]
fn a_send_that_finds_no_receive_waits_or_fails_as_was_said() {
    let how = ConnectConfig { rnr_retry: 1, rnr_timer: 1, timeout: 16, ..quick() };
    let Some([a, b]) = connected(&PairConfig::default(), &how) else { return };
    a.send(&SendRequest::new(wr(1), Verb::Send, &[a.segment(0, 8)]));
    a.failed(1, WcStatus::RNR_EXCEEDED);
    drop((a, b));
    let how = ConnectConfig { rnr_retry: 7, timeout: 20, ..quick() };
    let [a, b] = connected(&PairConfig::default(), &how).unwrap();
    a.send(&SendRequest::new(wr(1), Verb::Send, &[a.segment(0, 8)]));
    assert!(a.next_within(Duration::from_millis(50)).is_none(), "it waits for a receive");
    b.recv(1, &[b.segment(0, 64)]);
    b.done(1);
    a.done(1);
}

#[test]
fn a_message_longer_than_its_receive_fails_both_ends() {
    let Some([a, b]) = connected(&PairConfig::default(), &quick()) else { return };
    b.recv(1, &[b.segment(0, 16)]);
    a.send(&SendRequest::new(wr(2), Verb::Send, &[a.segment(0, 17)]));
    let (status, _) = a.next().outcome().unwrap_err();
    // Soft-RoCE says "remote operation error" where a card says "remote invalid request".
    assert!([9, 11].contains(&status.as_raw()), "{status}");
    assert!(b.next().outcome().is_err());
    assert_eq!(b.read(16, 1), [0], "nothing beyond the receive");
}

#[test]
fn sizes_that_do_not_go_together_are_named() {
    let Some([device, _]) = devices() else { return };
    let domain = ProtectionDomain::new(&device).unwrap();
    let small = CompletionQueue::new(&device, 8).unwrap();
    let config = PairConfig { send_depth: 4096, recv_depth: 4096, ..PairConfig::default() };
    let overrun = Pair::new(&domain, PairKind::Rc, (&small, &small), &config).unwrap_err();
    assert!(matches!(overrun, VerbsError::Relation { left: 8192, .. }), "{overrun}");
    let text = overrun.to_string();
    assert!(text.contains("completion queue depth") && text.contains("remedy"), "{text}");
    let large = CompletionQueue::new(&device, u32::MAX).unwrap_err();
    assert!(large.to_string().contains("at most"), "{large}");
    let parts = PairConfig { sge_max: 10_000, ..PairConfig::default() };
    let parts = Pair::new(&domain, PairKind::Rc, (&small, &small), &parts).unwrap_err();
    assert!(parts.to_string().contains("segments"), "{parts}");
    let unknown = Device::open("mlx5_77").unwrap_err().to_string();
    assert!(unknown.contains("mlx5_77") && unknown.contains("rxe0"), "{unknown}");
    assert_eq!(Rc::strong_count(&small), 1, "nothing keeps what was not made");
}

/// Runs a command of iproute2 in the guest. Not elsewhere: that would be this machine's own network.
pub(crate) fn network(command: &str) -> bool {
    if std::env::var_os("SPINWIRE_VM").is_none() {
        eprintln!("!! NOT RUN: {command}: only in the guest of tests/vm");
        return false;
    }
    assert!(runs(command), "{command}");
    true
}

/// Whether that command of the guest does what it is to do.
pub(crate) fn runs(command: &str) -> bool {
    let mut words = command.split(' ');
    Command::new(words.next().unwrap()).args(words).status().unwrap().success()
}

#[test]
fn what_is_lost_on_the_way_is_sent_again() {
    // Soft-RoCE takes 7 for ever; and a lossy cable may lose six of one packet.
    let how = ConnectConfig { timeout: 14, retry_count: 7, ..quick() };
    let Some([a, b]) = connected(&PairConfig::default(), &how) else { return };
    b.recv(1, &[b.segment(0, 64)]);
    if !network("tc qdisc add dev cable0 root netem loss 100%") {
        return;
    }
    let _mended = Mended("tc qdisc del dev cable0 root");
    a.write(0, b"held up");
    a.send(&SendRequest::new(wr(1), Verb::Send, &[a.segment(0, 7)]));
    assert!(b.next_within(Duration::from_millis(100)).is_none());
    network("tc qdisc change dev cable0 root netem delay 2ms 1ms loss 10% reorder 10%");
    b.done(1);
    assert_eq!(b.read(0, 7), b"held up");
    a.done(1);
    for id in 0..40_u32 {
        b.recv(id, &[b.segment(0, 16384)]);
        let bytes = vec![id as u8; 9000];
        a.write(0, &bytes);
        a.send(&SendRequest::new(wr(id), Verb::Send, &[a.segment(0, 9000)]));
        b.done(id);
        assert_eq!(b.read(0, 9000), bytes);
        a.done(id);
    }
}

/// Puts the network in order again, whatever the test has come to.
pub(crate) struct Mended(pub &'static str);

impl Drop for Mended {
    fn drop(&mut self) {
        network(self.0);
    }
}

#[test]
fn a_pulled_cable_is_told_and_what_is_connected_afterwards_works() {
    let Some([a, b]) = connected(&PairConfig::default(), &quick()) else { return };
    a.device.events_without_waiting().unwrap();
    while a.device.next_event().unwrap().is_some() {}
    if !network("ip link set cable0 down") {
        return;
    }
    let mended = Mended("ip link set cable0 up");
    wait_for(&a, EventKind::PortDown);
    assert_eq!(a.device.port(1).unwrap().state, PortState::Down);
    a.send(&SendRequest::new(wr(1), Verb::Send, &[a.segment(0, 7)]));
    assert!(a.next().outcome().is_err(), "it ends, and not well");
    drop(mended);
    wait_for(&a, EventKind::PortActive);
    drop((a, b));
    let [a, b] = connected(&PairConfig::default(), &quick()).unwrap();
    b.recv(1, &[b.segment(0, 64)]);
    a.send(&SendRequest::new(wr(1), Verb::Send, &[a.segment(0, 7)]));
    b.done(1);
    a.done(1);
}

fn wait_for(end: &End, kind: EventKind) {
    let until = Instant::now() + Duration::from_secs(30);
    while Instant::now() < until {
        match end.device.next_event().unwrap() {
            Some(event) if event.kind == kind => {
                assert_eq!(event.about, 1, "the port");
                return;
            }
            Some(_) | None => std::thread::sleep(Duration::from_millis(5)),
        }
    }
    panic!("no {kind:?} within 30 s");
}
