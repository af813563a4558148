//! Datagrams to a TURN server from a socket of their own, which makes a five-tuple that no other allocation has.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use tokio::net::UdpSocket;

use super::super::queue::Queue;
use super::{Reporter, StreamEvent, Target};

/// The largest UDP payload, and some.
pub(super) const MAX_DATAGRAM: usize = 65_536;

/// Passes datagrams on until either side closes. An error says why there is no socket.
pub(super) async fn run(target: &Target, outgoing: &Queue, reporter: &Reporter) -> Result<(), String> {
    let socket = open(target).await.map_err(|error| error.to_string())?;
    let local = socket.local_addr().map_err(|error| error.to_string())?;
    reporter.connected(Ok(local)).await;
    let mut buffer = vec![0; MAX_DATAGRAM];
    loop {
        tokio::select! {
            received = socket.recv(&mut buffer) => match received {
                Ok(len) if !reporter.tell(StreamEvent::Frame(buffer[..len].to_vec())).await => return Ok(()),
                Ok(_) => {}
                // An ICMP error: the server's port is closed.
                Err(_) => return Ok(()),
            },
            bytes = outgoing.pop() => match bytes {
                // What does not leave is lost, as any datagram may be.
                Some(bytes) => drop(socket.send(&bytes).await),
                None => return Ok(()),
            },
        }
    }
}

/// A socket that takes the server's datagrams alone.
pub(super) async fn open(target: &Target) -> io::Result<UdpSocket> {
    let server = target.way_to(target.server).await;
    let any: IpAddr = match server {
        SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let socket = UdpSocket::bind((any, 0)).await?;
    socket.connect(server).await?;
    Ok(socket)
}
