//! monoio: the `io_uring` driver without a timer, with the many entries that its guide advises for
//! many requests; a task for each connection, which owns a buffer, as in its echo example.
//!
//! The set-up flags COOP_TASKRUN and DEFER_TASKRUN, which its builder can pass on, change nothing
//! that can be measured here.

use std::net::SocketAddr;

use ::monoio::io::{AsyncReadRent, AsyncWriteRentExt};
use ::monoio::net::{ListenerOpts, TcpListener, TcpStream};
use ::monoio::{IoUringDriver, RuntimeBuilder};

use super::{BACKLOG, BUFFER};

/// Entries of the ring: see its guide to configuration.
const ENTRIES: u32 = 32768;

/// Serves until it is killed.
pub(super) fn serve(address: SocketAddr) -> anyhow::Result<()> {
    let options = ListenerOpts::new().backlog(BACKLOG);
    RuntimeBuilder::<IoUringDriver>::new().with_entries(ENTRIES).build()?.block_on(async {
        let listener = TcpListener::bind_with_config(address, &options)?;
        loop {
            let (stream, _) = listener.accept().await?;
            stream.set_nodelay(true)?;
            ::monoio::spawn(echo(stream));
        }
    })
}

/// Echoes until the client has closed; an error is one that the client sees too.
async fn echo(mut stream: TcpStream) {
    let mut buffer = Vec::with_capacity(BUFFER);
    loop {
        let (read, filled) = stream.read(buffer).await;
        if !matches!(read, Ok(1..)) {
            break;
        }
        let (written, mut emptied) = stream.write_all(filled).await;
        if written.is_err() {
            break;
        }
        emptied.clear();
        buffer = emptied;
    }
}
