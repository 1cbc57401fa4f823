//! Byte streams over a ring, from what callers ask for to what the kernel completes; and files on the same ring.

use spinwire_dataplane::error::{Misuse, PostError, Refused};
use spinwire_dataplane::poll::{Budget, Outcome, Poll};
use spinwire_dataplane::raw::loan::Loan;
use spinwire_dataplane::services::StreamsAndFiles;
use spinwire_dataplane::stream::{ConnId, StreamEvent, Streams};
use spinwire_dataplane::time::Instant;
use spinwire_dataplane::uring::{Enter, EnterError};
use spinwire_layouts::uring::SockAddr;

/// A kernel that answers anything.
#[derive(Debug)]
pub struct AnyKernel(extern "C" fn(u32, u32, u32) -> i32);

impl Enter for AnyKernel {
    fn enter(&self, to_submit: u32, min_complete: u32, flags: u32) -> Result<u32, EnterError> {
        let answer = (self.0)(to_submit, min_complete, flags);
        u32::try_from(answer).map_err(|_negative| EnterError::Fatal(answer))
    }
}

type Service<'m> = Streams<'m, AnyKernel>;

#[unsafe(no_mangle)]
pub extern "C" fn probe_streams_turn(
    streams: &Service<'_>,
    now: Instant,
    budget: Budget,
) -> Outcome {
    streams.turn(now, budget)
}

#[unsafe(no_mangle)]
pub extern "C" fn probe_streams_and_files_turn(
    both: &StreamsAndFiles<'_, '_, AnyKernel>,
    now: Instant,
    budget: Budget,
) -> Outcome {
    both.flush();
    both.turn(now, budget)
}

#[unsafe(no_mangle)]
pub extern "C" fn probe_streams_poll<'m>(streams: &Service<'m>) -> Option<StreamEvent<'m>> {
    streams.poll()
}

#[unsafe(no_mangle)]
pub extern "C" fn probe_streams_flush(streams: &Service<'_>) {
    streams.flush();
}

#[unsafe(no_mangle)]
pub extern "C" fn probe_streams_write(
    streams: &Service<'_>,
    conn: ConnId,
    bytes: &[u8],
) -> Result<(), PostError> {
    streams.write(conn, bytes)
}

#[unsafe(no_mangle)]
pub extern "C" fn probe_streams_send<'m>(
    streams: &Service<'m>,
    conn: ConnId,
    loan: Loan<'m>,
    context: u64,
) -> Result<(), Refused<Loan<'m>>> {
    streams.send(conn, loan, context)
}

#[unsafe(no_mangle)]
pub extern "C" fn probe_streams_send_unsignaled<'m>(
    streams: &Service<'m>,
    conn: ConnId,
    loan: Loan<'m>,
) -> Result<(), Refused<Loan<'m>>> {
    streams.send_unsignaled(conn, loan)
}

#[unsafe(no_mangle)]
pub extern "C" fn probe_streams_open(
    streams: &Service<'_>,
    fd: i32,
    to: &SockAddr,
) -> Result<[ConnId; 3], PostError> {
    Ok([streams.listen(fd)?, streams.connect(fd, to)?, streams.adopt(fd)?])
}

#[unsafe(no_mangle)]
pub extern "C" fn probe_streams_steer(
    streams: &Service<'_>,
    conn: ConnId,
    context: u64,
) -> Result<u64, Misuse> {
    streams.pause(conn)?;
    streams.resume(conn)?;
    streams.set_context(conn, context)?;
    Ok(streams.context(conn)?.wrapping_add(streams.queued(conn)?))
}

#[unsafe(no_mangle)]
pub extern "C" fn probe_streams_end(streams: &Service<'_>, conn: ConnId) -> Result<(), Misuse> {
    streams.shutdown(conn)?;
    streams.close(conn)?;
    streams.abort(conn)
}
