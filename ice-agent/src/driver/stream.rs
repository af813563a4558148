//! A TCP connection to a TURN server: frames in, bytes out.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use thirl_common::wire::{FrameLen, frame_len};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::mpsc;

use super::queue::Queue;
use crate::agent::StreamId;

/// A server that takes longer to accept is as good as none.
const CONNECT_PATIENCE: Duration = Duration::from_secs(10);
/// What is read at once: bytes. No frame is larger than 65,556.
const READ_SIZE: usize = 16 * 1024;

/// What a connection tells the agent's task.
pub(super) enum StreamEvent {
    Connected(Result<SocketAddr, String>),
    Frame(Vec<u8>),
    Closed,
}

/// Runs a connection until either side closes it.
pub(super) async fn run(
    id: StreamId,
    server: SocketAddr,
    outgoing: Arc<Queue>,
    events: mpsc::Sender<(StreamId, StreamEvent)>,
) {
    let connected = match tokio::time::timeout(CONNECT_PATIENCE, TcpStream::connect(server)).await {
        Ok(connected) => connected,
        Err(_) => Err(io::ErrorKind::TimedOut.into()),
    };
    let local = connected.and_then(|stream| {
        stream.set_nodelay(true)?;
        let local = stream.local_addr()?;
        Ok((stream, local))
    });
    let stream = match local {
        Ok((stream, local)) => {
            events.send((id, StreamEvent::Connected(Ok(local)))).await.ok();
            stream
        }
        Err(error) => {
            let reason = format!("no TCP connection to the TURN server: {error}");
            events.send((id, StreamEvent::Connected(Err(reason)))).await.ok();
            return;
        }
    };
    let (reader, writer) = stream.into_split();
    tokio::select! {
        _ = read(id, reader, &events) => {}
        _ = write(writer, &outgoing) => {}
    }
    events.send((id, StreamEvent::Closed)).await.ok();
}

/// The bounded channel to the task holds up the server when the task is behind.
async fn read(
    id: StreamId,
    mut reader: OwnedReadHalf,
    events: &mpsc::Sender<(StreamId, StreamEvent)>,
) -> io::Result<()> {
    let mut buffer = Vec::with_capacity(READ_SIZE);
    loop {
        let mut at = 0;
        while let FrameLen::Complete { frame, padded } = frame_len(&buffer[at..]).map_err(io::Error::other)? {
            let bytes = buffer[at..at + frame].to_vec();
            at += padded;
            if events.send((id, StreamEvent::Frame(bytes))).await.is_err() {
                return Ok(());
            }
        }
        buffer.drain(..at);
        buffer.reserve(READ_SIZE);
        if reader.read_buf(&mut buffer).await? == 0 {
            return Ok(());
        }
    }
}

async fn write(mut writer: OwnedWriteHalf, outgoing: &Queue) -> io::Result<()> {
    while let Some(bytes) = outgoing.pop().await {
        writer.write_all(&bytes).await?;
    }
    writer.shutdown().await
}
