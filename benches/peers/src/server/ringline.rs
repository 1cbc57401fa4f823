//! ringline: one worker, with the entries and buffers of its own echo benchmark, and one of its ways
//! to send back what came.
//!
//! * Direct echo, as in that benchmark: the send is submitted where the completion of the receive is
//!   handled, without a copy, and no task is woken. What is left of a send it keeps for each
//!   connection, not for each buffer, so that an echo of several buffers of different lengths comes
//!   back wrong (seen with 1 MiB); therefore only short requests that come one by one get it.
//! * For the others a task waits for each send, and the buffers are as long as the requests. Its way
//!   to forward several buffers without a copy takes longer at every length that was tried.
//!
//! It is the only server that is told how long requests are.

use std::net::SocketAddr;

use ::ringline::{AsyncEventHandler, ConfigBuilder, ConnCtx, ParseResult, RinglineBuilder};
use anyhow::{Context, anyhow};

/// Connections, and entries of the ring.
const MANY: u16 = 4096;

/// Bytes of all buffers to receive, and of all to send.
const BUFFERS: u32 = 64 << 20;

/// Bytes of a buffer: the least for short and for long requests, and the most.
const BUFFER_SHORT: u32 = 16 << 10;
const BUFFER_LONG: u32 = 64 << 10;
const BUFFER_MOST: u32 = 1 << 20;

/// Requests up to so many bytes arrive in one piece.
const SHORT: u32 = 4096;

/// The direct echo.
struct Direct;

/// A task that waits for each send.
struct Wait;

impl AsyncEventHandler for Direct {
    #[expect(clippy::manual_async_fn, reason = "an async fn would borrow self for its whole life")]
    fn on_accept(&self, connection: ConnCtx) -> impl Future<Output = ()> + 'static {
        async move { connection.run_direct_echo().await }
    }

    fn create_for_worker(_worker: usize) -> Self {
        Self
    }
}

impl AsyncEventHandler for Wait {
    #[expect(clippy::manual_async_fn, reason = "an async fn would borrow self for its whole life")]
    fn on_accept(&self, connection: ConnCtx) -> impl Future<Output = ()> + 'static {
        async move {
            loop {
                let mut sent = None;
                let received = connection.with_data(|bytes| {
                    sent = Some(connection.send(bytes));
                    ParseResult::Consumed(bytes.len())
                });
                // The end of the connection; an error is one that the client sees too.
                if received.await == 0 {
                    break;
                }
                let Some(Ok(sent)) = sent else { break };
                if sent.await.is_err() {
                    break;
                }
            }
        }
    }

    fn create_for_worker(_worker: usize) -> Self {
        Self
    }
}

/// Serves until it is killed; a connection has at most `depth` requests under way.
pub(super) fn serve(address: SocketAddr, request_bytes: u32, depth: u32) -> anyhow::Result<()> {
    let is_short = depth == 1 && request_bytes <= SHORT;
    let least = if is_short { BUFFER_SHORT } else { BUFFER_LONG };
    let buffer =
        request_bytes.saturating_mul(depth).min(BUFFER_MOST).next_power_of_two().max(least);
    let count = u16::try_from(BUFFERS / buffer)?;
    let config = ConfigBuilder::new()
        .workers(1)
        // The process is pinned already.
        .pin_to_core(false)
        .tcp_nodelay(true)
        .backlog(MANY.into())
        .sq_entries(MANY.into())
        .max_connections(MANY.into())
        .recv_buffer(count, buffer)
        .send_pool(count, buffer)
        .build()
        .context("ringline refuses its configuration")?;
    let builder = RinglineBuilder::new(config).bind(address);
    let (_shutdown, workers) =
        if is_short { builder.launch::<Direct>() } else { builder.launch::<Wait>() }
            .context("ringline does not start")?;
    for worker in workers {
        worker.join().map_err(|_panic| anyhow!("a worker of ringline panicked"))??;
    }
    Ok(())
}
