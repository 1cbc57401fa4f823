//! A service that answers tagged requests, and a client that asks, in two processes: the client starts the service. Both run unchanged over
//! any transport; the URI says over which.
//!
//! `cargo run --release --example request_reply [URI]`, for instance `tcp://127.0.0.1:7000`
#![allow(clippy::large_stack_frames, reason = "an example")]
#![allow(clippy::print_stdout, reason = "an example")]

use core::time::Duration;
use std::process::{Child, Command};
use std::{env, thread, time::Instant};

use spinwire_dataplane::error::PostError;
use spinwire_dataplane::msg::{RecvFrom, SendTo};
use spinwire_dataplane::poll::{Budget, Poll};
use spinwire_dataplane::provider::{Caps, Event};
use spinwire_dataplane::raw::loan::LoanPool;
use spinwire_hostshim::discover::{Hints, discover};
use spinwire_hostshim::error::InWords;
use spinwire_hostshim::negotiate::{Plan, Requirements, negotiate};
use spinwire_hostshim::open::{OpenConfig, Opened, with};
use spinwire_hostshim::uri::Uri;

type Done = Result<(), InWords>;

fn main() -> Done {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let serves = arguments.iter().any(|argument| argument == "serve");
    let uri = arguments.iter().find(|argument| *argument != "serve");
    let uri: Uri = uri.map_or("shm://example-request-reply", String::as_str).parse()?;
    let need = Requirements::default().with_caps(Caps::TAGGED).for_peer_at([&uri]);
    let plan = negotiate(&need, &discover(&Hints::default()));
    if serves {
        return with(&plan, &OpenConfig::listen(), |service| serve(&service))?;
    }
    let mut server = Command::new(env::current_exe()?).arg("serve").arg(uri.to_string()).spawn()?;
    let asked = when_it_is_there(&plan, &mut server).inspect_err(|_| drop(server.kill()));
    server.wait()?; // it sees that its client is gone, and ends
    asked
}

/// The service was started just now: it is tried for a while, as long as it runs.
fn when_it_is_there(plan: &Plan, server: &mut Child) -> Done {
    let since = Instant::now();
    loop {
        match with(plan, &OpenConfig::connect(), |client| ask(&client)) {
            Ok(asked) => return asked,
            Err(why) if since.elapsed().as_secs() > 10 || server.try_wait()?.is_some() => Err(why)?,
            Err(_not_yet) => thread::sleep(Duration::from_millis(10)),
        }
    }
}

fn turn(end: &Opened<'_>) {
    if !end.endpoint.turn(end.now(), Budget::DEFAULT).is_busy() {
        thread::yield_now(); // not on a CPU of its own
    }
}

/// Answers each number with its square, until the client is gone.
fn serve(service: &Opened<'_>) -> Done {
    let (endpoint, any_tag) = (&service.endpoint, RecvFrom::any().tag_ignoring(0, !0));
    let buffers = LoanPool::place(service.bump(), 64, 64)?;
    while !matches!(endpoint.poll_event(), Some(Event::PeerGone(_))) {
        // The buffers that are not posted: at first all, later those that came back.
        while let Some(loan) = buffers.lend() {
            endpoint.post_recv(any_tag, loan, 0).map_err(|r| r.error)?;
        }
        turn(service);
        while let Some(request) = endpoint.poll() {
            let Some(client) = request.source else { continue };
            let number = request.bytes().and_then(|b| b.try_into().ok());
            let square = number.map_or(0, u64::from_le_bytes).wrapping_pow(2);
            let to = SendTo::peer(client).tag(request.tag.unwrap_or(0));
            // `Retry`: there is no room towards this client until it has caught up.
            while let Err(PostError::Retry(_)) = endpoint.inject(to, &square.to_le_bytes()) {
                turn(service);
            }
        }
    }
    println!("server: {} requests", endpoint.totals().messages_received);
    Ok(())
}

/// Asks one question after the other, and prints how long the answers took.
fn ask(client: &Opened<'_>) -> Done {
    println!("path: {client}");
    let (endpoint, server) = (&client.endpoint, client.peer.ok_or("connected to nobody")?);
    let (buffers, mut times) = (LoanPool::place(client.bump(), 1, 64)?, Vec::new());
    for number in 0..20_000_u64 {
        let (start, loan) = (client.now(), buffers.lend().ok_or("no buffer")?);
        let from = RecvFrom::peer(server).tag(number); // which question it is an answer to
        endpoint.post_recv(from, loan, 0).map_err(|r| r.error)?;
        endpoint.inject(SendTo::peer(server).tag(number), &number.to_le_bytes())?;
        let answer = loop {
            turn(client);
            if let Some(answer) = endpoint.poll() {
                break answer;
            }
        };
        let square = number.wrapping_pow(2).to_le_bytes();
        assert_eq!(answer.bytes(), Some(&square[..]));
        times.push(client.now().saturating_since(start).as_nanos());
    }
    times.sort_unstable();
    let p50 = times.get(times.len() / 2).unwrap_or(&0);
    println!("client: {} answers, p50 {p50} ns", times.len());
    Ok(())
}
