//! Datagrams there and back. Any may be lost: the client gives each some time, and counts.
//!
//! `cargo run --release --example datagram_echo`
#![allow(clippy::large_stack_frames, reason = "an example")]
#![allow(clippy::print_stdout, reason = "an example")]

use std::thread;

use spinwire_dataplane::error::PostError;
use spinwire_dataplane::msg::{RecvFrom, SendTo};
use spinwire_dataplane::poll::{Budget, Poll};
use spinwire_dataplane::provider::{Caps, Status};
use spinwire_dataplane::raw::loan::LoanPool;
use spinwire_dataplane::time::Nanos;
use spinwire_hostshim::discover::{Hints, discover};
use spinwire_hostshim::error::InWords;
use spinwire_hostshim::negotiate::{Requirements, negotiate};
use spinwire_hostshim::open::{OpenConfig, Opened, with};
use spinwire_hostshim::uri::Uri;

type Failure = InWords;

/// Datagrams that the client sends.
const COUNT: u64 = 2_000;
/// After so long without an answer one is lost.
const LOST_AFTER: Nanos = Nanos::from_millis(100);

/// What a datagram needs beside itself: that its sender is named, as there is no connection to answer on.
fn need() -> Requirements {
    Requirements::datagrams().with_caps(Caps::SOURCE.with(Caps::TAGGED))
}

fn main() -> Result<(), Failure> {
    let plan = negotiate(&need(), &discover(&Hints::default()));
    with(&plan, &OpenConfig::listen(), |server| {
        println!("server: {server}, {} bytes a datagram", server.info().limits.message_bytes_max);
        let uri = server.uri.clone();
        thread::scope(|scope| {
            let client = scope.spawn(move || ask(&uri));
            let served = echo(&server, &|| client.is_finished());
            served.and(client.join().map_err(|_panicked| "the client has panicked")?)
        })
    })?
}

/// Sends every datagram back to where it came from.
fn echo(server: &Opened<'_>, is_over: &dyn Fn() -> bool) -> Result<(), Failure> {
    let buffers = LoanPool::place(server.bump(), 16, 1024)?;
    while !is_over() {
        while let Some(loan) = buffers.lend() {
            let any = RecvFrom::any().tag_ignoring(0, u64::MAX);
            server.endpoint.post_recv(any, loan, 0).map_err(|r| r.error)?;
        }
        turn(server);
        while let Some(datagram) = server.endpoint.poll() {
            let (Some(from), Some(tag), Some(bytes)) =
                (datagram.source, datagram.tag, datagram.bytes())
            else {
                continue;
            };
            // No room to send is one more way to get lost.
            match server.endpoint.inject(SendTo::peer(from).tag(tag), bytes) {
                Ok(()) | Err(PostError::Retry(_)) => {}
                Err(refused) => return Err(refused.into()),
            }
        }
    }
    Ok(())
}

/// Sends one after the other; the tag says which one an answer is to, however late.
fn ask(uri: &Uri) -> Result<(), Failure> {
    let plan = negotiate(&need().for_peer_at([uri]), &discover(&Hints::default()));
    with(&plan, &OpenConfig::connect(), |client| {
        let server = client.peer.ok_or("no address")?;
        let buffers = LoanPool::place(client.bump(), 16, 1024)?;
        let (mut answered, mut late) = (0_u64, 0_u64);
        for number in 0..COUNT {
            let sent = client.now();
            client.endpoint.inject(SendTo::peer(server).tag(number), &[7; 100])?;
            let mut is_waiting = true;
            while is_waiting && client.now().saturating_since(sent) < LOST_AFTER {
                while let Some(loan) = buffers.lend() {
                    let from = RecvFrom::peer(server).tag_ignoring(0, u64::MAX);
                    client.endpoint.post_recv(from, loan, 0).map_err(|r| r.error)?;
                }
                turn(&client);
                while let Some(answer) = client.endpoint.poll() {
                    let is_whole = answer.status == Status::Success && answer.length == 100;
                    if is_whole && answer.tag == Some(number) {
                        (answered, is_waiting) = (answered.saturating_add(1), false);
                    } else {
                        late = late.saturating_add(1);
                    }
                }
            }
        }
        let lost = COUNT.saturating_sub(answered);
        println!("client: {COUNT} datagrams, {answered} answered, {lost} lost, {late} late");
        Ok(())
    })?
}

fn turn(end: &Opened<'_>) {
    if !end.endpoint.turn(end.now(), Budget::DEFAULT).is_busy() {
        thread::yield_now(); // not on a CPU of its own
    }
}
