//! One program, several paths: RDM endpoints where the service has them, MSG where it has not, and the next address where nobody answers
//! at the first. The client says which path it got, and why no better one.
//!
//! `cargo run --release --example provider_switch`
#![allow(clippy::large_stack_frames, reason = "an example")]
#![allow(clippy::print_stdout, reason = "an example")]

use std::thread;

use spinwire_dataplane::msg::{Completion, RecvFrom, SendTo};
use spinwire_dataplane::poll::{Budget, Poll};
use spinwire_dataplane::provider::EndpointType::{self, Msg, Rdm};
use spinwire_dataplane::raw::loan::LoanPool;
use spinwire_hostshim::discover::{Hints, discover};
use spinwire_hostshim::error::InWords;
use spinwire_hostshim::negotiate::{Requirements, negotiate};
use spinwire_hostshim::open::{OpenConfig, Opened, with};
use spinwire_hostshim::uri::Uri;

type Failure = InWords;

fn main() -> Result<(), Failure> {
    let nobody: Uri = "shm://example-provider-switch-nobody".parse()?;
    // Somewhere on this machine: shared memory is the best of that. Over TCP: at any free port.
    let tcp: Uri = "tcp://127.0.0.1:0".parse()?;
    let anywhere = Requirements::default();
    service(Rdm, &anywhere, &[])?;
    service(Msg, &anywhere, &[])?;
    service(Rdm, &anywhere.clone().for_peer_at([&tcp]), &[nobody])
}

/// A service of one type of endpoint, and a client that prefers RDM and knows `others` as addresses of it, too.
fn service(kind: EndpointType, at: &Requirements, others: &[Uri]) -> Result<(), Failure> {
    let plan = negotiate(&at.clone().of_types(&[kind]), &discover(&Hints::default()));
    with(&plan, &OpenConfig::listen(), |server| {
        println!("service: {server}");
        let uris = [others, core::slice::from_ref(&server.uri)].concat();
        thread::scope(|scope| {
            let client = scope.spawn(move || with_client(&uris));
            let served = echo(&server, &|| client.is_finished());
            served.and(client.join().map_err(|_panicked| "the client has panicked")?)
        })
    })?
}

/// The client. What it does on a path is the same on all of them.
fn with_client(uris: &[Uri]) -> Result<(), Failure> {
    let need = Requirements::default().of_types(&[Rdm, Msg]).for_peer_at(uris);
    let plan = negotiate(&need, &discover(&Hints::default()));
    with(&plan, &OpenConfig::connect(), |client| {
        println!("path: {client}");
        let info = client.info();
        println!(
            "  {} is {:?}, takes {} bytes, injects {}, and asks for {:?}",
            info.endpoint_type,
            info.reliability,
            info.limits.message_bytes_max,
            info.limits.inject_bytes_max,
            info.modes
        );
        let buffers = LoanPool::place(client.bump(), 1, 64)?;
        let server = client.peer.ok_or("connected to nobody")?;
        for number in 0..100_u64 {
            let loan = buffers.lend().ok_or("no buffer")?;
            client.endpoint.post_recv(RecvFrom::any(), loan, 0).map_err(|r| r.error)?;
            client.endpoint.inject(SendTo::peer(server), &number.to_le_bytes())?;
            let answer = until(&client, || client.endpoint.poll());
            assert_eq!(answer.bytes(), Some(&number.to_le_bytes()[..]));
        }
        println!("  100 round trips");
        Ok(())
    })?
}

/// Sends back what comes, until the client has ended.
fn echo(server: &Opened<'_>, is_over: &dyn Fn() -> bool) -> Result<(), Failure> {
    let buffers = LoanPool::place(server.bump(), 4, 64)?;
    while !is_over() {
        while let Some(loan) = buffers.lend() {
            server.endpoint.post_recv(RecvFrom::any(), loan, 0).map_err(|r| r.error)?;
        }
        let message = until(server, || {
            server.endpoint.poll().map(Some).or_else(|| is_over().then_some(None))
        });
        let _gone = server.endpoint.poll_event();
        let Some((client, bytes)) = message.as_ref().and_then(peer_and_bytes) else { continue };
        server.endpoint.inject(SendTo::peer(client), bytes)?;
    }
    Ok(())
}

fn peer_and_bytes<'c>(
    message: &'c Completion<'_>,
) -> Option<(spinwire_dataplane::id::Addr, &'c [u8])> {
    message.source.zip(message.bytes())
}

/// Turns until there is something.
fn until<T>(end: &Opened<'_>, there: impl Fn() -> Option<T>) -> T {
    loop {
        let is_busy = end.endpoint.turn(end.now(), Budget::DEFAULT).is_busy();
        if let Some(it) = there() {
            return it;
        }
        if !is_busy {
            thread::yield_now();
        }
    }
}
