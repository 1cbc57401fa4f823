//! tokio: the current-thread runtime, a task for each connection.

use std::net::TcpListener;

use ::tokio::io::{AsyncReadExt, AsyncWriteExt};
use ::tokio::net;
use ::tokio::runtime::Builder;

use super::BUFFER;

/// Serves until it is killed.
pub(super) fn serve(listener: TcpListener) -> anyhow::Result<()> {
    let runtime = Builder::new_current_thread().enable_io().build()?;
    runtime.block_on(async {
        let listener = net::TcpListener::from_std(listener)?;
        loop {
            let (stream, _) = listener.accept().await?;
            stream.set_nodelay(true)?;
            ::tokio::spawn(echo(stream));
        }
    })
}

/// Echoes until the client has closed; an error is one that the client sees too.
async fn echo(mut stream: net::TcpStream) {
    let mut buffer = vec![0; BUFFER];
    while let Ok(length @ 1..) = stream.read(&mut buffer).await {
        let Some(bytes) = buffer.get(..length) else { break };
        if stream.write_all(bytes).await.is_err() {
            break;
        }
    }
}
