//! TCP: listeners, and connections with bounded buffers out of which whole frames are taken.

use std::io::{self, IoSlice, Read};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsFd, BorrowedFd};

use socket2::{Domain, Protocol, SockAddr, SockRef, Socket, Type};

use super::buffer::{FrameBuffer, WriteQueue};
use super::datagram::check_family;
use crate::wire::FrameLen;

/// So many connections that failed before they were accepted are passed over in one call.
const FAILED_CONNECTIONS: usize = 16;

/// A frame is written from at most so many parts without a copy.
pub(super) const PARTS: usize = 4;

/// How to listen. An IPv6 listener never takes IPv4: each family has its own.
#[derive(Clone, Debug)]
pub struct ListenOptions {
    /// Let other sockets listen on the same address; the kernel spreads connections over them (`SO_REUSEPORT`).
    pub reuse_port: bool,
    /// How many connections may wait to be accepted, as far as the system allows.
    pub backlog: i32,
    /// The bounds of each connection's buffers.
    pub limits: StreamLimits,
}

impl Default for ListenOptions {
    /// A port of its own, and the backlog that Linux allows at most by default.
    fn default() -> Self {
        ListenOptions { reuse_port: false, backlog: 4096, limits: StreamLimits::default() }
    }
}

impl ListenOptions {
    /// A nonblocking listener on `addr` (port 0: one that the system chooses).
    pub fn listen(&self, addr: SocketAddr) -> io::Result<StreamListener> {
        let socket = Socket::new(Domain::for_address(addr), Type::STREAM, Some(Protocol::TCP))?;
        socket.set_nonblocking(true)?;
        if addr.is_ipv6() {
            socket.set_only_v6(true)?;
        }
        // A restart may not have to wait for the connections of the last run to time out.
        socket.set_reuse_address(true)?;
        if self.reuse_port {
            socket.set_reuse_port(true)?;
        }
        socket.bind(&SockAddr::from(addr))?;
        socket.listen(self.backlog)?;
        Ok(StreamListener { listener: socket.into(), limits: self.limits })
    }

    /// Makes one of a socket on which somebody else listens. One that takes both families is refused.
    pub fn adopt(&self, listener: TcpListener) -> io::Result<StreamListener> {
        let addr = listener.local_addr()?;
        let socket = Socket::from(listener);
        check_family(&socket, addr)?;
        socket.set_nonblocking(true)?;
        Ok(StreamListener { listener: socket.into(), limits: self.limits })
    }
}

/// How much a connection may hold in memory, each way, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StreamLimits {
    /// Received and not taken. A frame longer than this is refused.
    pub read: usize,
    /// Written and not yet sent. A frame that was begun is always ended, so one frame may exceed it.
    pub write: usize,
}

impl Default for StreamLimits {
    /// One frame of the longest that STUN and ChannelData know (65,556 bytes); and some 0.2 s at 10 Mbit/s.
    fn default() -> Self {
        StreamLimits { read: 65_556, write: 256 * 1024 }
    }
}

/// A nonblocking TCP listener.
#[derive(Debug)]
pub struct StreamListener {
    listener: TcpListener,
    limits: StreamLimits,
}

/// What [`StreamListener::accept`] found.
#[derive(Debug)]
pub enum Accepted {
    /// A connection.
    Connection(StreamConn),
    /// No connection waits.
    Nothing,
    /// The process or the system has no descriptor or memory for it (`EMFILE`, `ENFILE`, `ENOBUFS`, `ENOMEM`).
    ///
    /// The connection still waits, so the listener stays readable: watch it with [`Interest::NONE`](super::Interest::NONE)
    /// until a connection was closed or some time has passed, or the loop spins.
    Exhausted(io::Error),
}

impl StreamListener {
    /// The next connection that waits. An error is a fault of the listener itself.
    pub fn accept(&self) -> io::Result<Accepted> {
        for _ in 0..FAILED_CONNECTIONS {
            let error = match self.listener.accept() {
                // A connection that was reset meanwhile may refuse its options.
                Ok((stream, _)) => match StreamConn::new(stream, self.limits) {
                    Ok(connection) => return Ok(Accepted::Connection(connection)),
                    Err(_) => continue,
                },
                Err(error) => error,
            };
            match error.raw_os_error() {
                Some(libc::EAGAIN) => return Ok(Accepted::Nothing),
                Some(libc::EMFILE | libc::ENFILE | libc::ENOBUFS | libc::ENOMEM) => {
                    return Ok(Accepted::Exhausted(error));
                }
                Some(libc::EBADF | libc::EINVAL | libc::ENOTSOCK | libc::EOPNOTSUPP | libc::EFAULT) => {
                    return Err(error);
                }
                // EINTR, or an error of the connection that waited, which is gone (accept(2)).
                _ => {}
            }
        }
        Ok(Accepted::Nothing)
    }

    /// The address it listens on.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Lets connections leave from the address it listens on ([`Connecting::from_to`]). It listens alone already, so that
    /// nobody else's listener was there; the system lets another of the same user join it from now on.
    pub fn share_address(&self) -> io::Result<()> {
        SockRef::from(&self.listener).set_reuse_port(true)
    }
}

impl AsFd for StreamListener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.listener.as_fd()
    }
}

/// A nonblocking TCP connection, with `TCP_NODELAY`. While nothing is under way it holds no buffer.
///
/// When it is readable: [`read`](Self::read) once, then [`take_frame`](Self::take_frame) until there is none. When it is
/// writable: [`flush`](Self::flush). Watch it for writing while [`wants_write`](Self::wants_write).
#[derive(Debug)]
pub struct StreamConn {
    pub(super) stream: TcpStream,
    peer: SocketAddr,
    local: SocketAddr,
    pub(super) limits: StreamLimits,
    pub(super) input: FrameBuffer,
    pub(super) output: WriteQueue,
}

/// What [`StreamConn::read`] found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReadOutcome {
    /// So many bytes more. There may be others: the poller tells.
    Data(usize),
    /// Nothing for now.
    Idle,
    /// The buffer is full: frames must be taken first.
    Full,
    /// The other side has sent its last byte.
    Closed,
}

/// What became of a frame given to [`StreamConn::write`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WriteOutcome {
    /// The kernel has it.
    Written,
    /// It is queued, in part or whole: watch for writing, and [`StreamConn::flush`].
    Queued,
    /// Nothing of it was taken: the other side does not read as fast as this. Drop the frame or the connection.
    Full,
}

/// Why [`StreamConn::take_frame`] can go no further: the connection must be closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TakeError<E> {
    /// What the framing says.
    #[error(transparent)]
    Framing(E),
    /// A frame that the buffer's limit does not allow.
    #[error("the stream announces a frame of {frame} bytes, and at most {limit} are allowed")]
    TooLong {
        /// The length of the frame, as far as it is known.
        frame: usize,
        /// [`StreamLimits::read`].
        limit: usize,
    },
}

impl StreamConn {
    /// A connection over `stream`, which becomes nonblocking.
    pub fn new(stream: TcpStream, limits: StreamLimits) -> io::Result<Self> {
        stream.set_nonblocking(true)?;
        stream.set_nodelay(true)?;
        let (peer, local) = (stream.peer_addr()?, stream.local_addr()?);
        Ok(StreamConn {
            stream,
            peer,
            local,
            limits,
            input: FrameBuffer::default(),
            output: WriteQueue::default(),
        })
    }

    /// The other side's address.
    pub fn peer_addr(&self) -> SocketAddr {
        self.peer
    }

    /// This side's address: on a wildcard listener, the one that the other side connected to.
    pub fn local_addr(&self) -> SocketAddr {
        self.local
    }

    /// Reads once into the buffer. An error means that the connection is lost.
    pub fn read(&mut self) -> io::Result<ReadOutcome> {
        let Some(space) = self.input.space(self.limits.read) else { return Ok(ReadOutcome::Full) };
        let result = loop {
            match self.stream.read(space) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                result => break result,
            }
        };
        self.input.filled(*result.as_ref().unwrap_or(&0));
        match result {
            Ok(0) => Ok(ReadOutcome::Closed),
            Ok(count) => Ok(ReadOutcome::Data(count)),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(ReadOutcome::Idle),
            Err(error) => Err(error),
        }
    }

    /// Takes the next whole frame out of the buffer, padding left out. `frame_len` is [`crate::wire::frame_len`] or alike.
    pub fn take_frame<E>(
        &mut self,
        frame_len: impl FnOnce(&[u8]) -> Result<FrameLen, E>,
    ) -> Result<Option<&[u8]>, TakeError<E>> {
        let buffered = self.input.buffered();
        if buffered.is_empty() {
            self.input.settle();
            return Ok(None);
        }
        match frame_len(buffered).map_err(TakeError::Framing)? {
            FrameLen::Complete { frame, padded } => Ok(self.input.take(frame, padded)),
            FrameLen::NeedMore(frame) if frame > self.limits.read => {
                Err(TakeError::TooLong { frame, limit: self.limits.read })
            }
            FrameLen::NeedMore(_) => {
                self.input.settle();
                Ok(None)
            }
        }
    }

    /// Writes a frame, given in parts: at once as far as the kernel takes it, and the rest is queued. An error means that
    /// the connection is lost.
    pub fn write(&mut self, parts: &[&[u8]]) -> io::Result<WriteOutcome> {
        let len: usize = parts.iter().map(|part| part.len()).sum();
        let mut written = 0;
        if self.output.is_empty() {
            let mut slices = [IoSlice::new(&[]); PARTS];
            for (slice, part) in slices.iter_mut().zip(parts) {
                *slice = IoSlice::new(part);
            }
            written = self.send(&slices[..parts.len().min(PARTS)])?;
            if written == len {
                return Ok(WriteOutcome::Written);
            }
        }
        if written == 0 && self.output.len() + len > self.limits.write {
            return Ok(WriteOutcome::Full);
        }
        self.output.push(parts, written);
        Ok(WriteOutcome::Queued)
    }

    /// Writes what is queued, as far as the kernel takes it, and says whether that was all. An error means that the
    /// connection is lost.
    pub fn flush(&mut self) -> io::Result<bool> {
        while !self.output.is_empty() {
            let written = self.send(&self.output.slices())?;
            if written == 0 {
                return Ok(false);
            }
            self.output.written(written);
        }
        Ok(true)
    }

    /// Says that nothing follows.
    #[cfg(feature = "tls")]
    pub(super) fn shut_down(&self) -> io::Result<()> {
        self.stream.shutdown(std::net::Shutdown::Write)
    }

    /// Whether something is queued, for which it should be watched.
    pub fn wants_write(&self) -> bool {
        !self.output.is_empty()
    }

    /// How many bytes are queued.
    pub fn queued_len(&self) -> usize {
        self.output.len()
    }

    /// How much memory its buffers hold, in bytes.
    pub fn buffer_memory(&self) -> usize {
        self.input.memory() + self.output.memory()
    }

    /// How many bytes the kernel took; 0 when its buffer is full.
    pub(super) fn send(&self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        loop {
            // A connection that the other side reset is an error, not a signal that ends the process.
            match SockRef::from(&self.stream).send_vectored_with_flags(slices, libc::MSG_NOSIGNAL) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(0),
                result => return result,
            }
        }
    }
}

/// A TCP connection that this side opens. Watched for writing, it is ready when it is made or has failed.
#[derive(Debug)]
pub struct Connecting {
    socket: Socket,
    limits: StreamLimits,
}

impl Connecting {
    /// Begins to connect.
    pub fn to(addr: SocketAddr, limits: StreamLimits) -> io::Result<Self> {
        let socket = Socket::new(Domain::for_address(addr), Type::STREAM, Some(Protocol::TCP))?;
        Connecting::begin(socket, addr, limits)
    }

    /// Begins to connect from an address where a listener [shares](StreamListener::share_address) it.
    pub fn from_to(local: SocketAddr, addr: SocketAddr, limits: StreamLimits) -> io::Result<Self> {
        let socket = Socket::new(Domain::for_address(local), Type::STREAM, Some(Protocol::TCP))?;
        if local.is_ipv6() {
            socket.set_only_v6(true)?;
        }
        socket.set_reuse_address(true)?;
        socket.set_reuse_port(true)?;
        socket.bind(&SockAddr::from(local))?;
        Connecting::begin(socket, addr, limits)
    }

    fn begin(socket: Socket, addr: SocketAddr, limits: StreamLimits) -> io::Result<Self> {
        socket.set_nonblocking(true)?;
        match socket.connect(&SockAddr::from(addr)) {
            Err(error) if error.raw_os_error() != Some(libc::EINPROGRESS) => Err(error),
            _ => Ok(Connecting { socket, limits }),
        }
    }

    /// The connection, once it is made; or why it failed.
    pub fn finish(self) -> io::Result<StreamConn> {
        match self.socket.take_error()? {
            Some(error) => Err(error),
            None => StreamConn::new(self.socket.into(), self.limits),
        }
    }
}

impl AsFd for Connecting {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl AsFd for StreamConn {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }
}
