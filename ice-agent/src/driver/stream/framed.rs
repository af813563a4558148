//! A connection that carries a stream: what comes is cut into frames.

use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use thirl_common::net::Transport;
use thirl_common::uri::Host;
use thirl_common::wire::{FrameLen, PACKET_HEADER_LEN, frame_len, packet_frame_len};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;

use super::super::queue::Queue;
use super::{CONNECT_PATIENCE, Outward, Reporter, StreamEvent, Target, tls};
use crate::agent::Framing;

/// What is read at once: bytes. No frame is larger than 65,556.
const READ_SIZE: usize = 16 * 1024;

/// So many leave at one call.
const FRAMES_AT_ONCE: usize = 64;
/// How long after closing what waits may still be sent.
const LINGER: Duration = Duration::from_secs(5);

/// A stream of whatever kind.
pub trait Connection: AsyncRead + AsyncWrite + Send + Unpin {}

impl<C: AsyncRead + AsyncWrite + Send + Unpin> Connection for C {}

/// A connection and its local address.
type Opened = (SocketAddr, Box<dyn Connection>);

/// Connects, and passes frames on until either side closes. An error says why there is no connection.
pub(super) async fn run(
    target: &Target,
    outward: &Outward,
    outgoing: &Queue,
    reporter: &Reporter,
) -> Result<(), String> {
    let opened = tokio::time::timeout(CONNECT_PATIENCE, open(target, outward)).await;
    let (local, connection) =
        opened.unwrap_or_else(|_| Err(format!("no answer within {} s", CONNECT_PATIENCE.as_secs())))?;
    reporter.connected(Ok(local)).await;
    carry(connection, Framing::Stun, outgoing, reporter).await;
    Ok(())
}

/// Passes frames on until either side closes. What waits when this side does is sent, if the other takes it in time.
pub(super) async fn carry(
    connection: impl AsyncRead + AsyncWrite,
    framing: Framing,
    outgoing: &Queue,
    reporter: &Reporter,
) {
    let (reader, writer) = tokio::io::split(connection);
    let lingers = async {
        outgoing.closed().await;
        tokio::time::sleep(LINGER).await;
    };
    tokio::select! {
        _ = read(reader, framing, reporter) => {}
        _ = write(writer, outgoing) => {}
        () = lingers => {}
    }
}

async fn open(target: &Target, outward: &Outward) -> Result<Opened, String> {
    match target.transport {
        Transport::Tls => tls::open(target, outward).await,
        _ => open_clear(target, outward).await,
    }
}

/// What TLS goes over, or frames by themselves.
pub(super) async fn open_clear(target: &Target, outward: &Outward) -> Result<Opened, String> {
    let host = if target.by_name { target.host.clone() } else { Host::Ip(target.server.ip()) };
    if let Some(proxy) = outward.proxy_for(&host) {
        let opened = proxy.connect(&host, target.server.port(), &outward.trust).await;
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

async fn read(reader: impl AsyncRead, framing: Framing, reporter: &Reporter) -> io::Result<()> {
    let mut reader = std::pin::pin!(reader);
    let mut buffer = Vec::with_capacity(READ_SIZE);
    loop {
        let mut at = 0;
        while let (FrameLen::Complete { frame, padded }, header) = cut(framing, &buffer[at..])? {
            let bytes = buffer[at + header..at + frame].to_vec();
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

/// Where the next frame ends, and what of it stands before the message.
fn cut(framing: Framing, buffered: &[u8]) -> io::Result<(FrameLen, usize)> {
    match framing {
        Framing::Stun => Ok((frame_len(buffered).map_err(io::Error::other)?, 0)),
        Framing::Packets => Ok((packet_frame_len(buffered).map_err(io::Error::other)?, PACKET_HEADER_LEN)),
    }
}

/// What waits leaves together.
async fn write(writer: impl AsyncWrite, outgoing: &Queue) -> io::Result<()> {
    let mut writer = std::pin::pin!(writer);
    let (mut frames, mut bytes) = (Vec::new(), Vec::new());
    while poll_fn(|cx| outgoing.poll_fill(cx, &mut frames, FRAMES_AT_ONCE)).await > 0 {
        bytes.clear();
        frames.drain(..).for_each(|frame: Bytes| bytes.extend_from_slice(&frame));
        writer.write_all(&bytes).await?;
        // TLS may keep a record back otherwise.
        writer.flush().await?;
    }
    writer.shutdown().await
}
