//! A service that gives its CPU away when nobody asks: down the idle ladder, to each rung in turn. Shows how late each wakes.
//!
//! `cargo run --release --example sleeper`: the client starts the service once for each rung, leaves it alone for a
//! millisecond before each question, and compares the answer's time with that of a service that spins.
#![allow(clippy::large_stack_frames, clippy::print_stdout, reason = "an example")]

use core::time::Duration;
use std::process::{Child, Command};
use std::{env, thread};

use spinwire_dataplane::error::{Misuse, PostError};
use spinwire_dataplane::id::Name;
use spinwire_dataplane::msg::{Endpoint, RecvFrom, SendTo};
use spinwire_dataplane::poll::{Budget, IdleLadder, Poll, Thresholds, WakeSource};
use spinwire_dataplane::provider::{EndpointType, Event, shm::ShmPort};
use spinwire_dataplane::raw::{loan::LoanPool, pause::CpuWait};
use spinwire_hostshim::domain::{Domain, DomainConfig};
use spinwire_hostshim::{clock::TscClock, error::InWords, idle::HostRester, plane::Plane};

type End<'s, 'm> = Endpoint<'m, ShmPort<'s, 'm>>;
type Done<T> = Result<T, InWords>;

fn main() -> Done<()> {
    let rung = env::args().nth(1);
    let domain = Domain::create_or_join("example-sleeper", &DomainConfig::default())?;
    let mut memory = Plane::memory(4 << 20)?;
    let bump = Plane::arena(&mut memory);
    let buffers = LoanPool::place(&bump, 64, 64)?;
    let called = rung.as_deref().unwrap_or("client");
    let endpoint = domain.open_endpoint(&bump, called, EndpointType::Rdm)?;
    if let Some(rung) = rung {
        return serve(&rung, &endpoint, buffers);
    }
    let compared = compare(&endpoint, buffers);
    domain.unlink()?;
    compared
}

/// Starts the service at each rung, and asks it.
fn compare<'m>(endpoint: &End<'_, 'm>, buffers: &'m LoanPool<'m>) -> Done<()> {
    let mut spins = 0;
    for rung in ["spin", "pause", "yield", "nap", "park"] {
        let mut server = Command::new(env::current_exe()?).arg(rung).spawn()?;
        let asked = ask(rung, endpoint, buffers, &mut server);
        let asked = asked.inspect_err(|_| drop(server.kill()));
        server.wait()?;
        let p50 = asked?;
        spins = if spins == 0 { p50 } else { spins };
        println!("{rung}: p50 {p50} ns, {} times a spin", p50.checked_div(spins).unwrap_or(0));
    }
    Ok(())
}

/// Sends back what comes, and rests in between, until the client lets go.
fn serve<'m>(rung: &str, endpoint: &End<'_, 'm>, buffers: &'m LoanPool<'m>) -> Done<()> {
    let mut thresholds = Thresholds::SPIN;
    match rung {
        "pause" => thresholds.pause_after = 64,
        "yield" => thresholds.yield_after = 64,
        "nap" | "park" => thresholds.park_after = 64,
        _ => {}
    }
    let (clock, ladder) = (TscClock::calibrate(), IdleLadder::new(thresholds, CpuWait::NONE, 2));
    let sources: [&dyn WakeSource; 1] = [endpoint];
    let naps = HostRester::without_bell(&clock);
    let rester = if rung == "nap" { naps } else { HostRester::new(&clock, &sources) };
    while !matches!(endpoint.poll_event(), Some(Event::PeerGone(_))) {
        while let Some(loan) = buffers.lend() {
            endpoint.post_recv(RecvFrom::any(), loan, 0).map_err(|r| r.error)?;
        }
        let outcome = endpoint.turn(clock.now(), Budget::DEFAULT);
        while let Some(message) = endpoint.poll() {
            if let (Some(bytes), Some(client)) = (message.bytes(), message.source) {
                endpoint.inject(SendTo::peer(client), bytes)?;
            }
        }
        ladder.rest(outcome, None, None, &rester);
    }
    println!("{rung}: {:?}", rester.parks());
    Ok(())
}

/// Asks after every millisecond of rest. The median time to the answer, in nanoseconds.
fn ask<'m>(
    rung: &str,
    endpoint: &End<'_, 'm>,
    buffers: &'m LoanPool<'m>,
    process: &mut Child,
) -> Done<u64> {
    let (clock, mut times) = (TscClock::calibrate(), Vec::new());
    let server = loop {
        match endpoint.connect(&Name::new(rung)?) {
            Err(PostError::Misuse(Misuse::UnknownAddress)) => thread::yield_now(),
            found => break found?,
        }
        if let Some(ended) = process.try_wait()? {
            return Err(format!("the service at {rung} ended before it came: {ended}").into());
        }
    };
    while times.len() < 200 {
        let loan = buffers.lend().ok_or("no buffer")?;
        endpoint.post_recv(RecvFrom::peer(server), loan, 0).map_err(|r| r.error)?;
        thread::sleep(Duration::from_millis(1));
        let start = clock.now_ns();
        endpoint.inject(SendTo::peer(server), b"?")?;
        while !endpoint.turn(clock.now(), Budget::DEFAULT).is_busy() || endpoint.poll().is_none() {}
        times.push(clock.now_ns().saturating_sub(start));
    }
    endpoint.disconnect(server)?;
    times.sort_unstable();
    Ok(times.get(times.len() / 2).copied().unwrap_or(0))
}
