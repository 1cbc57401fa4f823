//! A camera that hands frames to a reader in another process, uncopied: it writes them in a pool, the reader looks at them there.
//!
//! `cargo run --release --example frames`
#![allow(clippy::large_stack_frames, clippy::print_stdout, reason = "an example")]

use std::process::{Child, Command};
use std::{env, thread};

use spinwire_dataplane::error::{Misuse, PostError, Refused};
use spinwire_dataplane::id::Name;
use spinwire_dataplane::msg::{Endpoint, EndpointConfig, Lender, RecvFrom, SendTo};
use spinwire_dataplane::poll::{Budget, Poll};
use spinwire_dataplane::pool::{PoolGeometry, PoolHost};
use spinwire_dataplane::provider::{EndpointType, Event, Provider, shm::ShmConfig};
use spinwire_dataplane::{raw::loan::LoanPool, time::Instant};
use spinwire_hostshim::domain::{Domain, DomainConfig};
use spinwire_hostshim::error::InWords;
use spinwire_hostshim::plane::Plane;
use spinwire_hostshim::pool::{BufferPool, PoolConfig, PoolHandle};

type Done = Result<(), InWords>;

const FRAME_BYTES: usize = 640 * 480 * 2;
const FRAMES: u64 = 2_000;

fn main() -> Done {
    let reads = env::args().any(|arg| arg == "read");
    let geometry = PoolGeometry::new(4).class(1 << 20, 16);
    let config = PoolConfig { geometry, ..PoolConfig::default() };
    let pool = BufferPool::open_or_create("example-frames.pool", &config)?;
    let domain = Domain::create_or_join("example-frames", &DomainConfig::default())?;
    let mut memory = Plane::memory(4 << 20)?;
    let bump = Plane::arena(&mut memory);
    let handle = pool.handle(&bump)?;
    let name = Name::new(if reads { "reader" } else { "camera" })?;
    let port = domain.open_port(&bump, (&name, EndpointType::Rdm), &ShmConfig::default())?;
    let endpoint = Endpoint::new(port, &bump, &EndpointConfig::default())?;
    if reads {
        return read(&endpoint, &handle, LoanPool::place(&bump, 8, 64)?);
    }
    let mut reader = Command::new(env::current_exe()?).arg("read").spawn()?;
    let lender = Lender::place(&handle, &bump, 8)?; // holds what is under way
    let shot = shoot(&endpoint, &lender, &mut reader).inspect_err(|_| drop(reader.kill()));
    drop((lender, endpoint)); // the reader sees that, and ends
    let ended = reader.wait()?;
    pool.unlink()?;
    domain.unlink()?;
    shot?;
    if ended.success() { Ok(()) } else { Err(format!("the reader failed: {ended}"))? }
}

/// Writes one frame after the other into the pool, and tells the reader of each.
fn shoot<P: Provider, H: PoolHost>(
    endpoint: &Endpoint<'_, P>,
    lender: &Lender<'_, '_, H>,
    process: &mut Child,
) -> Done {
    let reader = loop {
        match endpoint.connect(&Name::new("reader")?) {
            Err(PostError::Misuse(Misuse::UnknownAddress)) => thread::yield_now(), // not yet there
            found => break found?,
        }
        if let Some(ended) = process.try_wait()? {
            return Err(format!("the reader ended before it came: {ended}").into());
        }
    };
    let mut number = 0;
    while number < FRAMES || lender.under_way() > 0 {
        lender.collect(endpoint); // what the reader has let go of
        let _busy = endpoint.turn(Instant::ORIGIN, Budget::DEFAULT).is_busy();
        if let Some(Event::PeerGone(_)) = endpoint.poll_event() {
            return Err("the reader is gone: its process ended".into());
        }
        if number == FRAMES {
            continue;
        }
        let Ok(mut frame) = lender.pool().acquire(FRAME_BYTES) else { continue }; // all are with the reader
        frame.copy_from(0, &number.to_le_bytes())?; // the pixels, in place
        match endpoint.send_loan(lender, SendTo::peer(reader).immediate(number), frame) {
            Ok(()) => number = number.wrapping_add(1),
            Err(Refused { error: PostError::Retry(_), .. }) => {} // its frame is dropped: try again
            Err(refused) => return Err(refused.error.into()),
        }
    }
    Ok(())
}

/// Takes each frame and looks at it where it lies, until the camera is gone.
fn read<'m, P: Provider>(
    endpoint: &Endpoint<'m, P>,
    pool: &PoolHandle<'_>,
    receives: &'m LoanPool<'m>,
) -> Done {
    let mut seen = 0_u64;
    while !matches!(endpoint.poll_event(), Some(Event::PeerGone(_))) {
        while let Some(loan) = receives.lend() {
            endpoint.post_recv(RecvFrom::any(), loan, 0).map_err(|r| r.error)?;
        }
        let _busy = endpoint.turn(Instant::ORIGIN, Budget::DEFAULT).is_busy();
        while let Some(mut completion) = endpoint.poll() {
            let Ok(frame) = completion.take_guard(pool) else { continue };
            let mut first = [0; 8];
            frame.copy_to(0, &mut first)?;
            assert_eq!(completion.immediate, Some(u64::from_le_bytes(first)));
            seen = seen.wrapping_add(1);
        } // the guard goes: the camera may have the buffer again
    }
    println!("reader: {seen} frames of {FRAME_BYTES} bytes, none copied");
    Ok(())
}
