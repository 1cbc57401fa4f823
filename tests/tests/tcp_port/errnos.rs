//! What ends with a connection says with which number the kernel has ended it.

use std::net::TcpListener;

use spinwire_dataplane::error::PostError;
use spinwire_dataplane::id::Addr;
use spinwire_dataplane::msg::{Failure, RecvFrom, SendTo};
use spinwire_dataplane::provider::{EndpointType, Event, Status};

use crate::station::{self, LONGEST, Station, insist, next_end, until};
use crate::stranger::Stranger;

const REFUSED: u32 = libc::ECONNREFUSED.unsigned_abs();
const RESET: u32 = libc::ECONNRESET.unsigned_abs();
const BROKEN_PIPE: u32 = libc::EPIPE.unsigned_abs();

fn next_failure(hub: &Station<'_>) -> Failure {
    let mut failure = None;
    until("it has failed", &[hub], || {
        failure = hub.poll().map(|over| over.failure().unwrap());
        failure.is_some()
    });
    failure.unwrap()
}

fn receive(hub: &Station<'_>, from: RecvFrom, context: u64) {
    hub.endpoint.post_recv(from, hub.pool.lend().unwrap(), context).unwrap();
}

#[test]
fn where_nobody_listens_the_kernel_says_refused() {
    // Nobody listens at an address that was just given up.
    let nobody = TcpListener::bind(station::anywhere()).unwrap().local_addr().unwrap();
    station::with("hub", EndpointType::Rdm, &station::config(), |hub| {
        let to = hub.know("nobody", nobody);
        receive(hub, RecvFrom::peer(to).tag(5), 1);
        // The first send begins to connect.
        let begun = hub.endpoint.inject(SendTo::peer(to), b"m");
        assert!(matches!(begun, Err(PostError::Retry(_))), "{begun:?}");
        let failure = next_failure(hub);
        assert_eq!((failure.status, failure.context), (Status::PeerGone, 1));
        assert_eq!((failure.code, failure.tag), (REFUSED, Some(5)));
        assert_eq!(next_end(hub), Event::Refused(to));
    });
}

/// A stranger that has sent one message, with a receive for it alone, until the kernel resets the connection: it does so where one is closed with bytes
/// unread in it. What `fill` has sent is that. Returns contexts and codes of what has failed.
fn reset(fill: impl FnOnce(&Station<'_>, Addr)) -> Vec<(u64, u32)> {
    station::with("hub", EndpointType::Rdm, &station::config(), |hub| {
        let mut stranger = Stranger::connect(hub);
        stranger.greet("gone", hub);
        let message = stranger.message(b"here");
        stranger.write(&message);
        hub.recv(1);
        let mut met = None;
        until("it is there", &[hub], || {
            met = hub.poll();
            met.is_some()
        });
        let peer = met.unwrap().source.unwrap();
        receive(hub, RecvFrom::peer(peer), 2);
        fill(hub, peer);
        drop(stranger);
        let mut failed = Vec::new();
        until("all are over", &[hub], || {
            while let Some(over) = hub.poll() {
                if let Some(failure) = over.failure() {
                    assert_eq!(failure.status, Status::PeerGone);
                    let is_send = failure.context >= 10;
                    assert_eq!(failure.tag, is_send.then_some(failure.context));
                    failed.push((failure.context, failure.code));
                }
            }
            hub.endpoint.posted_count() == 0
        });
        assert_eq!(next_end(hub), Event::PeerGone(peer));
        failed
    })
}

#[test]
fn a_reset_ends_receives_with_its_number() {
    let failed = reset(|hub, peer| {
        insist("it is sent", &[hub], || hub.endpoint.inject(SendTo::peer(peer), b"unread"));
        (0..10).for_each(|_| hub.turn());
    });
    assert_eq!(failed, [(2, RESET)]);
}

/// The kernel gives a number to whoever asks it first: a send or a receive.
#[test]
fn a_reset_ends_sends_with_its_number() {
    let failed = reset(|hub, peer| {
        // As much as is taken, so that the kernel has a part of it still when the connection ends.
        let (mut context, mut idle) = (10, 0);
        while idle < 500 {
            let mut loan = hub.pool.lend().unwrap();
            loan.set_len(usize::try_from(LONGEST).unwrap()).unwrap();
            let to = SendTo::peer(peer).tag(context);
            let is_posted = hub.endpoint.post_send(to, loan, context).is_ok();
            (context, idle) = if is_posted { (context + 1, 0) } else { (context, idle + 1) };
            hub.turn();
            while let Some(sent) = hub.poll() {
                assert_eq!(sent.status, Status::Success);
            }
        }
    });
    assert!(failed.iter().any(|(context, _)| *context >= 10), "a send was under way: {failed:?}");
    assert!(failed.iter().all(|(_, code)| [0, RESET, BROKEN_PIPE].contains(code)), "{failed:?}");
    assert!(failed.iter().any(|(_, code)| *code != 0), "{failed:?}");
}

/// Who says goodbye was not ended by the kernel.
#[test]
fn a_goodbye_has_no_number() {
    station::with_two(["hub", "other"], EndpointType::Rdm, |hub, other| {
        let to = hub.know("other", other.local());
        other.recv(1);
        insist("it is sent", &[hub, other], || hub.endpoint.inject(SendTo::peer(to), b"m"));
        let mut source = None;
        until("it is there", &[hub, other], || {
            source = other.poll().and_then(|it| it.source);
            source.is_some()
        });
        receive(hub, RecvFrom::peer(to), 2);
        other.endpoint.disconnect(source.unwrap()).unwrap();
        let failure = next_failure(hub);
        assert_eq!((failure.status, failure.code), (Status::PeerGone, 0));
    });
}
