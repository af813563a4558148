//! A UDP socket of an agent: datagrams in batches, and trains of them at one call where the system has GSO and GRO.

use std::cell::RefCell;
use std::io::{self, IoSliceMut};
use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::task::{Context, Poll, ready};

use quinn_udp::{RecvMeta, Transmit, UdpSocketState};
use thirl_common::io::{Fragmentation, set_fragmentation};
use tokio::io::Interest;
use tokio::net::UdpSocket;

/// Room for what arrives while the task is busy: bytes, if the system lets us have them.
const SYSTEM_BUFFER: usize = 1 << 20;
/// A datagram, or a train of them that the system has joined: bytes.
const MAX_RECEIVED: usize = 65_535;
/// So many are taken at one call.
const BATCH: usize = 8;

thread_local! {
    /// What is received is dealt with before a task waits again, so that one arena serves all agents of a thread.
    static ARENA: RefCell<Vec<u8>> = RefCell::new(vec![0; BATCH * MAX_RECEIVED]);
}

/// A socket that is bound to one address.
#[derive(Debug)]
pub(super) struct Socket {
    io: UdpSocket,
    system: UdpSocketState,
}

impl Socket {
    /// Must be called within a tokio runtime.
    pub(super) fn bind(address: SocketAddr) -> io::Result<Socket> {
        let socket = std::net::UdpSocket::bind(address)?;
        let system = UdpSocketState::new((&socket).into())?;
        // A smaller buffer works as well.
        system.set_recv_buffer_size((&socket).into(), SYSTEM_BUFFER).ok();
        system.set_send_buffer_size((&socket).into(), SYSTEM_BUFFER).ok();
        // `UdpSocketState` forbids fragments, which QUIC wants and not every application.
        set_fragmentation(socket.as_fd(), address.is_ipv4(), Fragmentation::BySender)?;
        Ok(Socket { io: UdpSocket::from_std(socket)?, system })
    }

    pub(super) fn local_addr(&self) -> io::Result<SocketAddr> {
        self.io.local_addr()
    }

    /// So many datagrams of one length can be sent at one call.
    pub(super) fn max_train(&self) -> usize {
        self.system.max_gso_segments()
    }

    /// Sends datagrams of so many bytes each, of which the last may be shorter. A train that the system refuses goes as
    /// single datagrams; those for which there is no room then are lost.
    pub(super) fn try_send(&self, to: SocketAddr, bytes: &[u8], segment: usize) -> io::Result<()> {
        let send = |contents: &[u8], segment_size| {
            let transmit = Transmit { destination: to, ecn: None, contents, segment_size, src_ip: None };
            let send = || self.system.try_send((&self.io).into(), &transmit);
            match self.io.try_io(Interest::WRITABLE, send) {
                // Of a socket that its reactor has not seen yet tokio says so too, and the first check would be lost.
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => send(),
                result => result,
            }
        };
        if bytes.len() <= segment {
            return send(bytes, None);
        }
        match send(bytes, Some(segment)) {
            Err(error) if error.kind() != io::ErrorKind::WouldBlock => {
                bytes.chunks(segment).try_for_each(|datagram| send(datagram, None))
            }
            result => result,
        }
    }

    /// As [`Socket::try_send`], once there is room.
    pub(super) async fn send(&self, to: SocketAddr, bytes: &[u8], segment: usize) -> io::Result<()> {
        loop {
            self.io.writable().await?;
            match self.try_send(to, bytes, segment) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                result => return result,
            }
        }
    }

    /// Waits until there is room to send.
    pub(super) async fn writable(&self) -> io::Result<()> {
        self.io.writable().await
    }

    /// Hands on what has arrived.
    pub(super) fn poll_recv(
        &self,
        cx: &mut Context<'_>,
        take: impl FnOnce(&mut dyn Iterator<Item = (SocketAddr, &[u8])>),
    ) -> Poll<io::Result<()>> {
        loop {
            ready!(self.io.poll_recv_ready(cx))?;
            let received = ARENA.with_borrow_mut(|arena| {
                let mut metas = [RecvMeta::default(); BATCH];
                let count = {
                    let mut rest = &mut arena[..];
                    let mut slots: [IoSliceMut<'_>; BATCH] = std::array::from_fn(|_| {
                        let (slot, others) = std::mem::take(&mut rest).split_at_mut(MAX_RECEIVED);
                        rest = others;
                        IoSliceMut::new(slot)
                    });
                    let receive = || self.system.recv((&self.io).into(), &mut slots, &mut metas);
                    self.io.try_io(Interest::READABLE, receive)?
                };
                Ok((count, metas))
            });
            let (count, metas) = match received {
                Ok(received) => received,
                Err(error) if io::Error::kind(&error) == io::ErrorKind::WouldBlock => continue,
                Err(error) => return Poll::Ready(Err(error)),
            };
            ARENA.with_borrow(|arena| {
                let filled = arena.chunks(MAX_RECEIVED).zip(&metas[..count]);
                take(&mut filled.flat_map(|(slot, meta)| datagrams(&slot[..meta.len], meta)));
            });
            return Poll::Ready(Ok(()));
        }
    }
}

/// The datagrams of a slot with their sender. One without content is one as well.
fn datagrams<'a>(slot: &'a [u8], meta: &RecvMeta) -> impl Iterator<Item = (SocketAddr, &'a [u8])> {
    let from = meta.addr;
    let empty = slot.is_empty().then_some(slot);
    empty.into_iter().chain(slot.chunks(meta.stride.max(1))).map(move |datagram| (from, datagram))
}
