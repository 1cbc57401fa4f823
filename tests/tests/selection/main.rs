//! Endpoints that are chosen by what they can do: discovery keeps its word, plans are walked, URIs are read, other builds are refused.
//!
//! | file | what is tried |
//! |---|---|
//! | [`offers`] | what discovery says of an endpoint is what the endpoint says of itself; two ends over each of them |
//! | [`walks`] | what fails to open, or to be reached, is passed over, and told |
//! | [`beside`] | an endpoint in use reaches another peer |
//! | [`datagrams`] | endpoints of datagrams, of providers and with hints that the environment says |
//! | `fabric` | ends over libfabric at a URI: answered, refused, gone (feature `libfabric`) |
//! | [`builds`] | processes of different builds |
//! | [`quiet`] | nothing is opened before something was chosen |
//! | [`sleeps`] | ends that sleep on a descriptor, over every path that has one |
//! | [`drowsy`] | what is done in the last moment before such a sleep |
//! | [`seats`] | a seat refuses the endpoint of another |
//! | [`runtime`] | endpoints as tasks of tokio, woken by descriptors |
//! | [`texts`] | any text is a URI or refused; any plan is whole and in order |
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    clippy::large_stack_frames,
    clippy::print_stdout,
    reason = "a test stops at the first thing that is not as expected"
)]

mod beside;
mod builds;
mod datagrams;
mod drowsy;
#[cfg(feature = "libfabric")]
mod fabric;
mod offers;
mod quiet;
mod runtime;
mod seats;
mod sleeps;
mod texts;
mod walks;

use core::time::Duration;
use std::time::Instant as Clock;

use spinwire_dataplane::error::{PostError, Retry};
use spinwire_dataplane::msg::{Completion, Endpoint, Kind, SendTo};
use spinwire_dataplane::poll::{Budget, Poll};
use spinwire_hostshim::clock::TscClock;
use spinwire_hostshim::open::AnyPort;

type Any<'a> = Endpoint<'a, AnyPort<'a>>;

/// How long anything may take before it is held to be stuck.
const STUCK: Duration = Duration::from_secs(60);

/// Turns all until there is something.
fn until<T>(what: &str, ends: &[&dyn Poll], mut there: impl FnMut() -> Option<T>) -> T {
    thread_local!(static CLOCK: TscClock = TscClock::calibrate());
    let since = Clock::now();
    loop {
        let now = CLOCK.with(TscClock::now);
        for end in ends {
            if !end.turn(now, Budget::DEFAULT).is_busy() {
                std::thread::yield_now();
            }
        }
        if let Some(it) = there() {
            return it;
        }
        assert!(since.elapsed() < STUCK, "{what}");
    }
}

/// The next message of an end.
fn message<'a>(end: &Any<'a>, ends: &[&dyn Poll]) -> Completion<'a> {
    until("a message", ends, || end.poll().filter(|completion| completion.kind == Kind::Received))
}

/// Sends a copy, as soon as there is room and a connection.
fn send(end: &Any<'_>, to: SendTo, bytes: &[u8], ends: &[&dyn Poll]) {
    until("a send", ends, || match end.inject(to, bytes) {
        Ok(()) => {
            end.flush();
            Some(())
        }
        Err(PostError::Retry(
            Retry::NoCredit
            | Retry::NotConnected
            | Retry::NoSpill
            | Retry::SqFull
            | Retry::NoSendRoom,
        )) => None,
        Err(refused) => panic!("{refused}"),
    });
}
