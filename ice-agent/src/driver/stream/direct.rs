//! Connections of the agent's own (RFC 6544): from and to the TCP ports that it has told.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use socket2::SockRef;
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::mpsc;

use super::super::queue::Queue;
use super::framed::carry;
use super::{Happened, Reporter, StreamEvent};
use crate::agent::{Framing, ListenerId};

/// Connections that wait to be accepted.
const BACKLOG: u32 = 64;
/// When the system has nothing left to accept with, it may have after so long.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// What the kernel keeps beyond what is on its way: bytes. Checks stand behind that.
const NOT_SENT: u32 = 32 * 1024;

/// A port to listen on and to connect from: this one, if nobody else has it, or another.
pub(in crate::driver) fn listen(wanted: SocketAddr) -> io::Result<TcpListener> {
    // Connections from the port need it shared (SO_REUSEPORT), but what others share already is theirs.
    let mut wanted = wanted;
    if std::net::TcpListener::bind(wanted).is_err() {
        wanted.set_port(0);
    }
    bind(wanted, true)?.listen(BACKLOG)
}

fn bind(local: SocketAddr, shared: bool) -> io::Result<TcpSocket> {
    let socket = if local.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    if shared {
        socket.set_reuseaddr(true)?;
        socket.set_reuseport(true)?;
    }
    socket.bind(local)?;
    Ok(socket)
}

/// Tells of connections until it is aborted.
pub(super) async fn accept(listener: TcpListener, id: ListenerId, events: mpsc::Sender<Happened>) {
    loop {
        match listener.accept().await {
            Ok((stream, from)) => {
                if events.send(Happened::Accepted(id, stream, from)).await.is_err() {
                    return;
                }
            }
            Err(_) => tokio::time::sleep(ACCEPT_PAUSE).await,
        }
    }
}

/// Connects, and passes frames on until either side closes. The agent says how long that may take: it closes the queue.
pub(super) async fn connect(
    local: SocketAddr,
    to: SocketAddr,
    framing: Framing,
    outgoing: Arc<Queue>,
    reporter: Reporter,
) {
    let connected = tokio::select! {
        connected = open(local, to) => connected,
        () = outgoing.closed() => return,
    };
    match connected {
        Ok((local, stream)) => {
            reporter.connected(Ok(local)).await;
            carry(stream, framing, &outgoing, &reporter).await;
            reporter.tell(StreamEvent::Closed).await;
        }
        Err(error) => drop(reporter.connected(Err(error.to_string())).await),
    }
}

/// Passes frames on until either side closes.
pub(super) async fn take(stream: TcpStream, outgoing: Arc<Queue>, reporter: Reporter) {
    if prepare(&stream).is_ok() {
        carry(stream, Framing::Packets, &outgoing, &reporter).await;
    }
    reporter.tell(StreamEvent::Closed).await;
}

async fn open(local: SocketAddr, to: SocketAddr) -> io::Result<(SocketAddr, TcpStream)> {
    let stream = bind(local, local.port() != 0)?.connect(to).await?;
    prepare(&stream)?;
    Ok((stream.local_addr()?, stream))
}

fn prepare(stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    // Where the system cannot do that, more waits.
    SockRef::from(stream).set_tcp_notsent_lowat(NOT_SENT).ok();
    Ok(())
}
