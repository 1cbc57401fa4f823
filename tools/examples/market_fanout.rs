//! One publisher of quotes and several readers. A reader that is slow misses quotes, knows how many, and holds nobody up.
//!
//! `cargo run --release --example market_fanout`. They are threads here; processes would do just the same.
#![allow(clippy::arithmetic_side_effects, reason = "an example")]
#![allow(clippy::large_stack_frames, reason = "an example")]
#![allow(clippy::print_stdout, reason = "an example")]
#![allow(clippy::unwrap_used, reason = "an example")]

use core::time::Duration;
use std::thread;

use spinwire_dataplane::error::{Misuse, PostError};
use spinwire_dataplane::msg::{Endpoint, EndpointConfig, RecvFrom, SendTo};
use spinwire_dataplane::poll::{Budget, Poll};
use spinwire_dataplane::provider::{EndpointType, Event, shm::ShmConfig};
use spinwire_dataplane::{id::Name, raw::loan::LoanPool, time::Instant};
use spinwire_hostshim::{domain::Domain, domain::DomainConfig, error::InWords, plane::Plane};

type Done = Result<(), InWords>;

const READERS: [&str; 3] = ["fast", "faster", "slow"];
const QUOTES: u64 = 20_000;

fn main() -> Done {
    let domain = &Domain::create_or_join("example-market-fanout", &DomainConfig::default())?;
    thread::scope(|scope| {
        for name in READERS {
            scope.spawn(move || read(domain, name).unwrap());
        }
        publish(domain)
    })?;
    Ok(domain.unlink()?)
}

/// Sends each quote to every reader that has room for it.
fn publish(domain: &Domain) -> Done {
    let mut memory = Plane::memory(4 << 20)?;
    let bump = Plane::arena(&mut memory);
    let me = (&Name::new("publisher")?, EndpointType::Rdm);
    let port = domain.open_port(&bump, me, &ShmConfig::default())?;
    let endpoint = Endpoint::new(port, &bump, &EndpointConfig::default())?;
    let mut readers = Vec::new();
    for name in READERS {
        readers.push(loop {
            match endpoint.connect(&Name::new(name)?) {
                Err(PostError::Misuse(Misuse::UnknownAddress)) => thread::yield_now(), // not yet
                found => break found?,
            }
        });
    }
    let mut dropped = [0_u64; READERS.len()];
    for number in 0..QUOTES {
        let price = 1_000_000 + number % 100;
        for (reader, dropped) in readers.iter().zip(&mut dropped) {
            let to = SendTo::peer(*reader).immediate(number);
            match endpoint.inject(to, &price.to_le_bytes()) {
                Err(PostError::Retry(_)) => *dropped += 1, // its lane is full: it misses this one
                sent => sent?,
            }
        }
        endpoint.flush();
        thread::sleep(Duration::from_micros(1)); // quotes do not come as fast as they can be sent
    }
    println!("publisher: {QUOTES} quotes, dropped for {READERS:?}: {dropped:?}");
    Ok(())
}

/// Takes quotes until the publisher is gone, which is said after the last of them.
fn read(domain: &Domain, name: &str) -> Done {
    let mut memory = Plane::memory(4 << 20)?;
    let bump = Plane::arena(&mut memory);
    let me = (&Name::new(name)?, EndpointType::Rdm);
    let port = domain.open_port(&bump, me, &ShmConfig::default())?;
    let endpoint = Endpoint::new(port, &bump, &EndpointConfig::default())?;
    let buffers = LoanPool::place(&bump, 2, 64 << 10)?; // each takes one quote after the other
    let (mut next, mut missed, mut sum) = (0, 0, 0_u64);
    while !matches!(endpoint.poll_event(), Some(Event::PeerGone(_))) {
        while let Some(loan) = buffers.lend() {
            let posted = endpoint.post_multi_recv(RecvFrom::any(), loan, 64, 0);
            posted.map_err(|r| r.error)?;
        }
        let _outcome = endpoint.turn(Instant::ORIGIN, Budget::DEFAULT);
        while let Some(quote) = endpoint.poll() {
            if let Some(number) = quote.immediate {
                (missed, next) = (missed + number - next, number + 1);
                let price = endpoint.read(&quote, |b| b.try_into().map(u64::from_le_bytes));
                sum += price.ok_or("no quote")??;
            }
        }
        if name == "slow" {
            thread::sleep(Duration::from_millis(50));
        }
    }
    missed += QUOTES - next;
    println!("{name}: {missed} quotes missed, the others add up to {sum}");
    Ok(())
}
