//! A connection that carries a stream: what comes is cut into frames.

use std::io;
use std::net::SocketAddr;

use thirl_common::net::Transport;
use thirl_common::uri::Host;
use thirl_common::wire::{FrameLen, frame_len};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;

use super::super::queue::Queue;
use super::{CONNECT_PATIENCE, Reporter, Settings, StreamEvent, Target, tls};

/// What is read at once: bytes. No frame is larger than 65,556.
const READ_SIZE: usize = 16 * 1024;

/// Of whatever kind.
pub(super) trait Connection: AsyncRead + AsyncWrite + Send + Unpin {}

impl<C: AsyncRead + AsyncWrite + Send + Unpin> Connection for C {}

/// A connection and its local address.
type Opened = (SocketAddr, Box<dyn Connection>);

/// Connects, and passes frames on until either side closes. An error says why there is no connection.
pub(super) async fn run(
    target: &Target,
    settings: &Settings,
    outgoing: &Queue,
    reporter: &Reporter,
) -> Result<(), String> {
    let opened = tokio::time::timeout(CONNECT_PATIENCE, open(target, settings)).await;
    let (local, connection) =
        opened.unwrap_or_else(|_| Err(format!("no answer within {} s", CONNECT_PATIENCE.as_secs())))?;
    reporter.connected(Ok(local)).await;
    let (reader, writer) = tokio::io::split(connection);
    tokio::select! {
        _ = read(reader, reporter) => {}
        _ = write(writer, outgoing) => {}
    }
    Ok(())
}

async fn open(target: &Target, settings: &Settings) -> Result<Opened, String> {
    match target.transport {
        Transport::Tls => tls::open(target, settings).await,
        _ => open_clear(target, settings).await,
    }
}

/// What TLS goes over, or frames by themselves.
pub(super) async fn open_clear(target: &Target, settings: &Settings) -> Result<Opened, String> {
    if let Some(proxy) = &settings.proxy {
        let host = if target.by_name { target.host.clone() } else { Host::Ip(target.server.ip()) };
        let opened = proxy.connect(&host, target.server.port()).await;
        let (local, stream) = opened.map_err(|error| format!("through the proxy {proxy}: {error}"))?;
        return Ok((local, Box::new(stream)));
    }
    let connect = async {
        let stream = TcpStream::connect(target.way_to(target.server).await).await?;
        stream.set_nodelay(true)?;
        Ok((stream.local_addr()?, stream))
    };
    let (local, stream) = connect.await.map_err(|error: io::Error| error.to_string())?;
    Ok((local, Box::new(stream)))
}

async fn read(mut reader: impl AsyncRead + Unpin, reporter: &Reporter) -> io::Result<()> {
    let mut buffer = Vec::with_capacity(READ_SIZE);
    loop {
        let mut at = 0;
        while let FrameLen::Complete { frame, padded } = frame_len(&buffer[at..]).map_err(io::Error::other)? {
            let bytes = buffer[at..at + frame].to_vec();
            at += padded;
            if !reporter.tell(StreamEvent::Frame(bytes)).await {
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

async fn write(mut writer: impl AsyncWrite + Unpin, outgoing: &Queue) -> io::Result<()> {
    while let Some(bytes) = outgoing.pop().await {
        writer.write_all(&bytes).await?;
        // TLS may keep a record back otherwise.
        writer.flush().await?;
    }
    writer.shutdown().await
}
