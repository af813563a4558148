//! A client's connection by TCP that may begin with TLS: the same frames, with records of `rustls` around them.

use std::fmt;
use std::io::{self, BufRead, IoSlice, Write};
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;

use rustls::server::{Acceptor, ClientHello};
use rustls::{ServerConfig, ServerConnection};

use super::stream::{PARTS, ReadOutcome, StreamConn, TakeError, WriteOutcome};
use crate::proxy_protocol::{self, Header};
use crate::wire::FrameLen;

/// The first byte of every TLS connection, and of nothing that goes without: `ContentType.handshake` (RFC 8446, section 5.1).
const HANDSHAKE: u8 = 22;

/// Each read takes 4 KiB at most; the poller tells if there is more than so many.
const READS: usize = 4;

/// A connection that a client opened, used as a [`StreamConn`] is. Its first byte tells whether it is TLS.
///
/// Of TLS, frames are taken out of the record that they were decrypted in, and copied only where records cut them. What is
/// written is encrypted from where it lies, and copied only where the kernel does not take it. The bounds are those of the
/// stream, and one or two records more for `rustls`.
#[derive(Debug)]
pub struct ClientConn {
    stream: StreamConn,
    stage: Stage,
    /// Whom a proxy speaks for.
    client: Option<SocketAddr>,
}

/// What is known of a connection.
#[derive(Debug)]
enum Stage {
    /// It begins with a PROXY protocol header.
    ProxyHeader,
    /// Its first byte will tell.
    FirstByte,
    /// It is TLS, and its ClientHello will tell for whom.
    Hello(Box<Hello>),
    Plain,
    Tls(Tls),
    /// It is TLS, for somebody else.
    Foreign,
}

impl ClientConn {
    /// Of which nothing was read.
    pub fn new(stream: StreamConn) -> ClientConn {
        ClientConn { stream, stage: Stage::FirstByte, client: None }
    }

    /// Of which it is known that it is no TLS.
    pub fn plain(stream: StreamConn) -> ClientConn {
        ClientConn { stage: Stage::Plain, ..ClientConn::new(stream) }
    }

    /// Of which nothing was read, and in which a proxy says first whom it speaks for.
    pub fn by_proxy(stream: StreamConn) -> ClientConn {
        ClientConn { stage: Stage::ProxyHeader, ..ClientConn::new(stream) }
    }

    /// The client's address: the other side's, or what a proxy says.
    pub fn client_addr(&self) -> SocketAddr {
        self.client.unwrap_or_else(|| self.stream.peer_addr())
    }

    /// This side's address, as [`StreamConn::local_addr`].
    pub fn local_addr(&self) -> SocketAddr {
        self.stream.local_addr()
    }

    /// Whether the client began with TLS, and was taken at its word.
    pub fn is_tls(&self) -> bool {
        matches!(self.stage, Stage::Hello(_) | Stage::Tls(_) | Stage::Foreign)
    }

    /// Whether the client speaks TLS, but wants none of our protocols (RFC 7301): all that came is still to be read.
    pub fn is_foreign(&self) -> bool {
        matches!(self.stage, Stage::Foreign)
    }

    /// The connection as it is, for who takes it over.
    pub fn into_stream(self) -> StreamConn {
        self.stream
    }

    /// Whether the handshake of TLS is going on, or a proxy has not said yet whom it speaks for.
    pub fn is_handshaking(&self) -> bool {
        match &self.stage {
            Stage::ProxyHeader | Stage::Hello(_) => true,
            Stage::FirstByte | Stage::Plain | Stage::Foreign => false,
            Stage::Tls(tls) => tls.connection.is_handshaking(),
        }
    }

    /// Reads once, or a few times. `config` is asked for when the client begins with TLS; without one, that is a frame that
    /// nobody knows. With `pass_on`, one who offers protocols of which the configuration has none is [foreign](Self::is_foreign);
    /// otherwise it is refused. An error means that the connection is lost; a client that is at fault was told.
    pub fn read(
        &mut self,
        config: impl FnOnce() -> Option<Arc<ServerConfig>>,
        pass_on: bool,
    ) -> io::Result<ReadOutcome> {
        match &mut self.stage {
            Stage::Tls(tls) => return tls.read(&mut self.stream),
            Stage::Plain => return self.stream.read(),
            Stage::Foreign => return Ok(ReadOutcome::Full),
            Stage::ProxyHeader | Stage::FirstByte | Stage::Hello(_) => {}
        }
        let outcome = self.stream.read()?;
        self.begin(config, pass_on)?;
        Ok(outcome)
    }

    /// Finds out what it is, as far as the bytes that came say.
    fn begin(&mut self, config: impl FnOnce() -> Option<Arc<ServerConfig>>, pass_on: bool) -> io::Result<()> {
        if matches!(self.stage, Stage::ProxyHeader) {
            let header = proxy_protocol::of_stream(self.stream.input.buffered());
            let header = header.map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
            let Some(Header { client, len }) = header else { return Ok(()) };
            self.stream.input.take(len, len);
            self.client = client;
            self.stage = Stage::FirstByte;
        }
        let Some(&first) = self.stream.input.buffered().first() else { return Ok(()) };
        let Some(config) = (if first == HANDSHAKE { config() } else { None }) else {
            self.stage = Stage::Plain;
            return Ok(());
        };
        if pass_on {
            if matches!(self.stage, Stage::FirstByte) {
                self.stage = Stage::Hello(Box::default());
            }
            if let Stage::Hello(hello) = &mut self.stage {
                match hello.read(self.stream.input.buffered(), &config.alpn_protocols)? {
                    None => return Ok(()),
                    Some(Wish::Ours) => {}
                    Some(Wish::Others) => {
                        self.stage = Stage::Foreign;
                        return Ok(());
                    }
                }
            }
        }
        self.stage = Stage::Tls(Tls::begin(&mut self.stream, config)?);
        Ok(())
    }

    /// As [`StreamConn::take_frame`].
    #[inline]
    pub fn take_frame<E>(
        &mut self,
        frame_len: impl Fn(&[u8]) -> Result<FrameLen, E>,
    ) -> Result<Option<&[u8]>, TakeError<E>> {
        match &mut self.stage {
            Stage::ProxyHeader | Stage::FirstByte | Stage::Hello(_) | Stage::Foreign => Ok(None),
            Stage::Plain => self.stream.take_frame(frame_len),
            Stage::Tls(tls) => tls.take_frame(&mut self.stream, frame_len),
        }
    }

    /// As [`StreamConn::write`].
    #[inline]
    pub fn write(&mut self, parts: &[&[u8]]) -> io::Result<WriteOutcome> {
        match &mut self.stage {
            Stage::Tls(tls) => tls.write(&mut self.stream, parts),
            _ => self.stream.write(parts),
        }
    }

    /// As [`StreamConn::flush`].
    pub fn flush(&mut self) -> io::Result<bool> {
        self.stream.flush()
    }

    /// As [`StreamConn::wants_write`].
    pub fn wants_write(&self) -> bool {
        self.stream.wants_write()
    }

    /// As [`StreamConn::buffer_memory`]; of TLS, without what `rustls` holds.
    pub fn buffer_memory(&self) -> usize {
        self.stream.buffer_memory()
    }

    /// Writes to `other` all that was received and not taken, and says how much that was.
    pub(super) fn pass_to(&mut self, other: &mut ClientConn) -> io::Result<usize> {
        let mut passed = pass(&mut self.stream, other)?;
        if let Stage::Tls(tls) = &mut self.stage {
            tls.consume_taken();
            while let len @ 1.. = tls.decrypted().len() {
                write_all(other, tls.decrypted())?;
                tls.connection.reader().consume(len);
                passed += len;
            }
        }
        Ok(passed)
    }

    /// Whether TLS says that the other side has sent its last byte. Without TLS, [`read`](Self::read) says so.
    pub(super) fn has_ended(&self) -> bool {
        matches!(&self.stage, Stage::Tls(tls) if tls.ended)
    }

    /// Says that nothing follows what was written. Nothing may be queued.
    pub(super) fn shut_down(&mut self) -> io::Result<()> {
        if let Stage::Tls(tls) = &mut self.stage {
            tls.connection.send_close_notify();
            tls.send(&mut self.stream)?;
            if self.stream.wants_write() {
                // TLS says it when that is sent.
                return Ok(());
            }
        }
        self.stream.shut_down()
    }

    /// How many bytes are queued, encrypted if they are to be.
    pub fn queued_len(&self) -> usize {
        self.stream.queued_len()
    }

    /// Says that this was all, where the protocol has a word for it and as far as the kernel takes it.
    pub fn close(mut self) {
        if let Stage::Tls(tls) = &mut self.stage {
            tls.connection.send_close_notify();
            // It is dropped, whether or not the client learns why.
            let _ = tls.send(&mut self.stream);
        }
    }
}

impl AsFd for ClientConn {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }
}

/// Writes what was received of a stream as it came.
fn pass(from: &mut StreamConn, to: &mut ClientConn) -> io::Result<usize> {
    let buffered = from.input.buffered();
    let len = buffered.len();
    write_all(to, buffered)?;
    from.input.take(len, len);
    from.input.settle();
    Ok(len)
}

fn write_all(to: &mut ClientConn, bytes: &[u8]) -> io::Result<()> {
    if !bytes.is_empty() && to.write(&[bytes])? == WriteOutcome::Full {
        return Err(io::ErrorKind::WriteZero.into());
    }
    Ok(())
}

/// A ClientHello is no longer than this, in bytes: with keys that withstand quantum computers it has some 2,000.
const MAX_HELLO: usize = 16 * 1024;

/// A ClientHello that is read to see what it asks for; its bytes stay where they are.
#[derive(Default)]
struct Hello {
    acceptor: Acceptor,
    /// How much of the stream's input it was given.
    read: usize,
}

/// Whom a ClientHello is for.
enum Wish {
    Ours,
    Others,
}

impl Hello {
    /// `None`: it is not there as a whole yet.
    fn read(&mut self, input: &[u8], ours: &[Vec<u8>]) -> io::Result<Option<Wish>> {
        if input.len() > MAX_HELLO {
            return Err(io::ErrorKind::InvalidData.into());
        }
        let mut rest = input.get(self.read..).unwrap_or_default();
        self.read = input.len();
        while !rest.is_empty() {
            self.acceptor.read_tls(&mut rest)?;
            match self.acceptor.accept() {
                Ok(None) => {}
                Ok(Some(accepted)) => return Ok(Some(wish(&accepted.client_hello(), ours))),
                // It is told what is wrong when it is read in earnest.
                Err(_) => return Ok(Some(Wish::Ours)),
            }
        }
        Ok(None)
    }
}

impl fmt::Debug for Hello {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Hello").field("read", &self.read).finish_non_exhaustive()
    }
}

/// Who offers nothing is ours: clients of TURN need not (RFC 7443, section 3).
fn wish(hello: &ClientHello<'_>, ours: &[Vec<u8>]) -> Wish {
    let is_ours = |protocol: &[u8]| ours.iter().any(|own| own == protocol);
    if hello.alpn().is_none_or(|mut offered| offered.any(is_ours)) { Wish::Ours } else { Wish::Others }
}

/// TLS over a stream. Frames that records cut are joined in the stream's input; what the kernel does not take waits in its
/// output.
#[derive(Debug)]
struct Tls {
    connection: Box<ServerConnection>,
    /// How many decrypted bytes the frame last taken had, padding included.
    taken: usize,
    /// The client has sent its last byte.
    ended: bool,
}

impl Tls {
    /// Begins with what was read of the stream.
    fn begin(stream: &mut StreamConn, config: Arc<ServerConfig>) -> io::Result<Tls> {
        let mut connection = ServerConnection::new(config).map_err(io::Error::other)?;
        // What waits is bounded by the stream: all that is encrypted goes there at once.
        connection.set_buffer_limit(None);
        let mut tls = Tls { connection: Box::new(connection), taken: 0, ended: false };
        let begun = stream.input.buffered().to_vec();
        stream.input.take(begun.len(), begun.len());
        stream.input.settle();
        let mut begun = &begun[..];
        while !begun.is_empty() {
            tls.connection.read_tls(&mut begun)?;
            tls.process(stream)?;
        }
        Ok(tls)
    }

    fn read(&mut self, stream: &mut StreamConn) -> io::Result<ReadOutcome> {
        self.consume_taken();
        let mut read = 0;
        for _ in 0..READS {
            match self.connection.read_tls(&mut &stream.stream) {
                Ok(0) if read == 0 => return Ok(ReadOutcome::Closed),
                Ok(0) => break,
                Ok(count) => read += count,
                Err(error) => match error.kind() {
                    io::ErrorKind::WouldBlock if read == 0 => return Ok(ReadOutcome::Idle),
                    // What was decrypted has to be taken first.
                    io::ErrorKind::Other if read == 0 => return Ok(ReadOutcome::Full),
                    io::ErrorKind::WouldBlock | io::ErrorKind::Other => break,
                    io::ErrorKind::Interrupted => continue,
                    _ => return Err(error),
                },
            }
            self.process(stream)?;
        }
        Ok(ReadOutcome::Data(read))
    }

    fn take_frame<'s, E>(
        &'s mut self,
        stream: &'s mut StreamConn,
        frame_len: impl Fn(&[u8]) -> Result<FrameLen, E>,
    ) -> Result<Option<&'s [u8]>, TakeError<E>> {
        self.consume_taken();
        loop {
            let joining = stream.input.buffered().len();
            let front = if joining > 0 { stream.input.buffered() } else { self.decrypted() };
            if front.is_empty() {
                break;
            }
            let needed = match frame_len(front).map_err(TakeError::Framing)? {
                FrameLen::Complete { frame, padded } if joining > 0 => {
                    return Ok(stream.input.take(frame, padded));
                }
                FrameLen::Complete { frame, padded } => {
                    self.taken = padded;
                    return Ok(self.decrypted().get(..frame));
                }
                FrameLen::NeedMore(needed) => needed,
            };
            let limit = stream.limits.read;
            if needed > limit {
                return Err(TakeError::TooLong { frame: needed, limit });
            }
            // No more than the frame needs, so that the next one can be taken where it lies.
            if self.join(stream, needed - joining) == 0 {
                break;
            }
        }
        stream.input.settle();
        Ok(None)
    }

    /// Before the end of the handshake nothing is taken.
    fn write(&mut self, stream: &mut StreamConn, parts: &[&[u8]]) -> io::Result<WriteOutcome> {
        let len: usize = parts.iter().map(|part| part.len()).sum();
        let behind = stream.wants_write() && stream.queued_len() + len > stream.limits.write;
        if behind || self.connection.is_handshaking() {
            return Ok(WriteOutcome::Full);
        }
        let mut slices = [IoSlice::new(&[]); PARTS];
        for (slice, part) in slices.iter_mut().zip(parts) {
            *slice = IoSlice::new(part);
        }
        let taken = self.connection.writer().write_vectored(&slices[..parts.len().min(PARTS)])?;
        debug_assert_eq!(taken, len, "nothing bounds what is encrypted");
        self.send(stream)?;
        Ok(if stream.wants_write() { WriteOutcome::Queued } else { WriteOutcome::Written })
    }

    /// Decrypts what was read, and sends what the handshake has to say.
    fn process(&mut self, stream: &mut StreamConn) -> io::Result<()> {
        let processed = self.connection.process_new_packets();
        // If that failed, there is an alert to send.
        let sent = self.send(stream);
        let state = processed.map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
        self.ended |= state.peer_has_closed();
        sent?;
        // A client that makes the server answer, and does not read the answers.
        if stream.queued_len() > stream.limits.write {
            return Err(io::ErrorKind::WriteZero.into());
        }
        Ok(())
    }

    fn send(&mut self, stream: &mut StreamConn) -> io::Result<()> {
        while self.connection.wants_write() {
            self.connection.write_tls(&mut Sink(stream))?;
        }
        Ok(())
    }

    fn consume_taken(&mut self) {
        let taken = std::mem::take(&mut self.taken);
        if taken > 0 {
            self.connection.reader().consume(taken);
        }
    }

    /// What was decrypted of one record and not yet taken.
    fn decrypted(&mut self) -> &[u8] {
        // It is an error if there is nothing; `read` tells whether more will come.
        self.connection.reader().into_first_chunk().unwrap_or_default()
    }

    /// Moves at most `len` decrypted bytes to where frames are joined, and says how many.
    fn join(&mut self, stream: &mut StreamConn, len: usize) -> usize {
        let Some(space) = stream.input.space(stream.limits.read) else { return 0 };
        let decrypted = self.decrypted();
        let len = len.min(decrypted.len()).min(space.len());
        space[..len].copy_from_slice(&decrypted[..len]);
        stream.input.filled(len);
        self.connection.reader().consume(len);
        len
    }
}

/// Takes everything: what the kernel does not, waits in the stream's output.
struct Sink<'a>(&'a mut StreamConn);

impl Write for Sink<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.write_vectored(&[IoSlice::new(bytes)])
    }

    fn write_vectored(&mut self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        let Sink(stream) = self;
        let mut sent = if stream.wants_write() { 0 } else { stream.send(slices)? };
        for slice in slices {
            stream.output.push(&[slice], sent);
            sent = sent.saturating_sub(slice.len());
        }
        Ok(slices.iter().map(|slice| slice.len()).sum())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
