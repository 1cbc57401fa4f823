//! A service that answers requests, and a client that asks, in two processes: the client starts the service.
//!
//! `cargo run --release --example request_reply`
#![allow(clippy::large_stack_frames, reason = "an example")]
#![allow(clippy::print_stdout, reason = "an example")]

use std::{env, process::Command, thread};

use spinwire_dataplane::error::{Misuse, PostError};
use spinwire_dataplane::msg::{Endpoint, EndpointConfig, Kind, RecvFrom, SendTo};
use spinwire_dataplane::poll::{Budget, Poll};
use spinwire_dataplane::provider::{EndpointType, Event, Provider, shm::ShmConfig};
use spinwire_dataplane::{id::Name, raw::loan::LoanPool};
use spinwire_hostshim::clock::TscClock;
use spinwire_hostshim::domain::{Domain, DomainConfig};
use spinwire_hostshim::plane::Plane;

type Done = Result<(), Box<dyn core::error::Error>>;

fn main() -> Done {
    let serves = env::args().any(|arg| arg == "serve");
    let name = Name::new(if serves { "server" } else { "client" })?;
    let domain = Domain::create_or_join("example-request-reply", &DomainConfig::default())?;
    let mut memory = Plane::memory(4 << 20)?;
    let bump = Plane::arena(&mut memory);
    let buffers = LoanPool::place(&bump, 64, 64)?;
    let port = domain.open_port(&bump, (&name, EndpointType::Rdm), &ShmConfig::default())?;
    let endpoint = Endpoint::new(port, &bump, &EndpointConfig::default())?;
    if serves {
        return serve(&endpoint, buffers);
    }
    let mut server = Command::new(env::current_exe()?).arg("serve").spawn()?;
    let asked = ask(&endpoint, buffers).inspect_err(|_| drop(server.kill()));
    drop(endpoint); // the server sees that, and ends
    server.wait()?;
    domain.unlink()?;
    asked
}

fn turn<P: Provider>(endpoint: &Endpoint<'_, P>, clock: &TscClock) {
    if !endpoint.turn(clock.now(), Budget::DEFAULT).is_busy() {
        thread::yield_now(); // not on a CPU of its own
    }
}

/// Answers each number with its square, until the client is gone.
fn serve<'m, P: Provider>(endpoint: &Endpoint<'m, P>, buffers: &'m LoanPool<'m>) -> Done {
    let (clock, any_tag) = (TscClock::calibrate(), RecvFrom::any().tag_ignoring(0, !0));
    while !matches!(endpoint.poll_event(), Some(Event::PeerGone(_))) {
        // The buffers that are not posted: at first all, later those that came back.
        while let Some(loan) = buffers.lend() {
            endpoint.post_recv(any_tag, loan, 0).map_err(|r| r.error)?;
        }
        turn(endpoint, &clock);
        while let Some(request) = endpoint.poll() {
            if let (Kind::Received, Some(client)) = (request.kind, request.source) {
                let number = request.bytes().and_then(|b| b.try_into().ok());
                let square = number.map_or(0, u64::from_le_bytes).wrapping_pow(2);
                let to = SendTo::peer(client).tag(request.tag.unwrap_or(0));
                // `Retry`: there is no room towards this client until it has caught up.
                while let Err(PostError::Retry(_)) = endpoint.inject(to, &square.to_le_bytes()) {
                    turn(endpoint, &clock);
                }
            }
        }
    }
    println!("server: {} requests", endpoint.totals().messages_received);
    Ok(())
}

/// Asks one question after the other, and prints how long the answers took.
fn ask<'m, P: Provider>(endpoint: &Endpoint<'m, P>, buffers: &'m LoanPool<'m>) -> Done {
    let (clock, mut times) = (TscClock::calibrate(), Vec::new());
    let server = loop {
        match endpoint.connect(&Name::new("server")?) {
            Err(PostError::Misuse(Misuse::UnknownAddress)) => thread::yield_now(), // not yet there
            found => break found?,
        }
    };
    for number in 0..20_000_u64 {
        let (start, loan) = (clock.now_ns(), buffers.lend().ok_or("no buffer")?);
        let from = RecvFrom::peer(server).tag(number); // which question it is an answer to
        endpoint.post_recv(from, loan, 0).map_err(|r| r.error)?;
        endpoint.inject(SendTo::peer(server).tag(number), &number.to_le_bytes())?;
        let answer = loop {
            turn(endpoint, &clock);
            if let Some(answer) = endpoint.poll() {
                break answer;
            }
        };
        let square = number.wrapping_pow(2).to_le_bytes();
        assert_eq!(answer.bytes(), Some(&square[..]));
        times.push(clock.now_ns().saturating_sub(start));
    }
    times.sort_unstable();
    let p50 = times.get(times.len() / 2).unwrap_or(&0);
    println!("client: {} answers, p50 {p50} ns", times.len());
    Ok(())
}
