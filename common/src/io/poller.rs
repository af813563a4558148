//! Waiting for descriptors: epoll with tokens, and an eventfd to end the wait from another thread.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use libc::c_int;

use super::sys;

/// Tokens of callers are below this; those above are the shard's own datagram sockets'.
pub const TOKEN_LIMIT: u64 = 1 << 63;

/// How many descriptors one wait may report; what is ready beyond them comes with the next.
const EVENTS: usize = 128;

/// What to be told of. Errors and hang-ups are reported whatever is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Interest {
    /// There is something to read, or to accept.
    pub readable: bool,
    /// There is room to write.
    pub writable: bool,
}

impl Interest {
    /// Nothing but errors: for a listener that backs off, or a connection whose other side is full.
    pub const NONE: Interest = Interest { readable: false, writable: false };
    /// Reading.
    pub const READ: Interest = Interest { readable: true, writable: false };
    /// Reading and writing: while a write is queued.
    pub const READ_WRITE: Interest = Interest { readable: true, writable: true };
    /// Writing only: a connection whose input is not wanted for now.
    pub const WRITE: Interest = Interest { readable: false, writable: true };

    fn bits(self) -> c_int {
        let readable = if self.readable { libc::EPOLLIN } else { 0 };
        let writable = if self.writable { libc::EPOLLOUT } else { 0 };
        readable | writable
    }
}

/// A descriptor that is ready.
///
/// A descriptor removed while a list of events is worked through may still stand further down in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Event {
    /// The token it was added with.
    pub token: u64,
    /// Reading returns something: data, the end, or an error.
    pub readable: bool,
    /// Writing makes progress or returns an error.
    pub writable: bool,
    /// Failed, or closed in both directions. It is reported at every wait until the descriptor is removed.
    pub closed: bool,
}

/// An epoll instance.
///
/// Level-triggered: a socket of which only a part was read is reported again, so that no list of half-read sockets has to
/// be kept, no read until `EAGAIN` is needed, and fairness among sockets is the kernel's. What the edge would save, a
/// second look at each socket by the kernel, was not measurable in the forwarder's cost per packet.
#[derive(Debug)]
pub struct Poller {
    epoll: OwnedFd,
    raw: Vec<libc::epoll_event>,
}

impl Poller {
    /// A poller that watches nothing yet.
    pub fn new() -> io::Result<Self> {
        let raw = vec![libc::epoll_event { events: 0, u64: 0 }; EVENTS];
        Ok(Poller { epoll: sys::epoll_create()?, raw })
    }

    /// Watches `source` under a token below [`TOKEN_LIMIT`].
    pub fn add(&self, source: &impl AsFd, token: u64, interest: Interest) -> io::Result<()> {
        self.control(libc::EPOLL_CTL_ADD, source, check_token(token)?, interest.bits())
    }

    /// Changes what `source` is watched for, or its token.
    pub fn modify(&self, source: &impl AsFd, token: u64, interest: Interest) -> io::Result<()> {
        self.control(libc::EPOLL_CTL_MOD, source, check_token(token)?, interest.bits())
    }

    /// Watches `source` no more. A descriptor that is closed needs no removal.
    pub fn remove(&self, source: &impl AsFd) -> io::Result<()> {
        self.control(libc::EPOLL_CTL_DEL, source, 0, 0)
    }

    /// A waker that ends the wait with an event for `token`.
    pub fn waker(&self, token: u64) -> io::Result<Waker> {
        let eventfd = sys::eventfd()?;
        // Edge-triggered: each write is an event, and nobody has to read the counter back.
        self.control(libc::EPOLL_CTL_ADD, &eventfd, check_token(token)?, libc::EPOLLIN | libc::EPOLLET)?;
        Ok(Waker(Arc::new(File::from(eventfd))))
    }

    /// Waits until something is ready or `timeout` (rounded up to a millisecond) has passed, and replaces `events`.
    ///
    /// It may return early with no event, when a signal comes.
    pub fn wait(&mut self, timeout: Option<Duration>, events: &mut Vec<Event>) -> io::Result<()> {
        events.clear();
        self.wait_with(timeout, |event| events.push(event))
    }

    /// Watches a shard's own datagram socket, under a token from [`TOKEN_LIMIT`] on.
    pub(super) fn add_own(&self, source: &impl AsFd, token: u64) -> io::Result<()> {
        self.control(libc::EPOLL_CTL_ADD, source, token, libc::EPOLLIN)
    }

    pub(super) fn wait_with(
        &mut self,
        timeout: Option<Duration>,
        mut ready: impl FnMut(Event),
    ) -> io::Result<()> {
        let count = match sys::epoll_wait(self.epoll.as_fd(), &mut self.raw, milliseconds(timeout)) {
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => 0,
            Err(error) => return Err(error),
        };
        for raw in self.raw.iter().take(count) {
            let (bits, token) = (raw.events, raw.u64);
            let has = |mask: c_int| bits & mask.cast_unsigned() != 0;
            let closed = has(libc::EPOLLERR | libc::EPOLLHUP);
            let readable = closed || has(libc::EPOLLIN);
            let writable = closed || has(libc::EPOLLOUT);
            ready(Event { token, readable, writable, closed });
        }
        Ok(())
    }

    fn control(&self, operation: c_int, source: &impl AsFd, token: u64, bits: c_int) -> io::Result<()> {
        sys::epoll_ctl(self.epoll.as_fd(), operation, source.as_fd(), bits.cast_unsigned(), token)
    }
}

/// Readable when something that it watches is ready: for a ring, or a poller above.
impl AsFd for Poller {
    fn as_fd(&self) -> std::os::fd::BorrowedFd<'_> {
        self.epoll.as_fd()
    }
}

/// Ends a [`Poller`]'s wait from any thread. Its clones wake the same poller; it is watched while one of them lives.
#[derive(Clone, Debug)]
pub struct Waker(Arc<File>);

impl Waker {
    /// Makes the poller's current or next wait return. Wakes that come together may be one event.
    pub fn wake(&self) -> io::Result<()> {
        (&*self.0).write(&1u64.to_ne_bytes()).map(|_| ())
    }
}

fn check_token(token: u64) -> io::Result<u64> {
    if token < TOKEN_LIMIT {
        return Ok(token);
    }
    Err(io::Error::new(
        io::ErrorKind::InvalidInput,
        format!("token {token:#x} is not below {TOKEN_LIMIT:#x}"),
    ))
}

/// For epoll: rounded up, so that a timer has expired when the wait for it ends; -1 is for ever.
fn milliseconds(timeout: Option<Duration>) -> c_int {
    let Some(timeout) = timeout else { return -1 };
    c_int::try_from(timeout.as_nanos().div_ceil(1_000_000)).unwrap_or(c_int::MAX)
}
