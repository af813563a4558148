//! The ways to ask the kernel: what each does for a shard, and which one it is.

use std::fmt;
use std::io;
use std::str::FromStr;
use std::time::Duration;

use super::batch::{Batch, Train};
use super::datagram::DatagramSocket;
use super::poller::{Event, Poller};
use super::shard::{DatagramCounters, SendFailure, SocketId, Sockets};

/// A way to ask the kernel for datagrams.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Technique {
    /// Receives that stay with the kernel, and one system call a turn. Linux 6.1, where it is not forbidden.
    IoUring,
    /// Readiness, then `recvmmsg` and `sendmmsg` for each socket. Everywhere.
    Epoll,
}

impl fmt::Display for Technique {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Technique::IoUring => "io_uring",
            Technique::Epoll => "epoll",
        })
    }
}

/// There is no such technique.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("neither `io_uring` nor `epoll`")]
pub struct UnknownTechnique;

impl FromStr for Technique {
    type Err = UnknownTechnique;

    fn from_str(text: &str) -> Result<Self, UnknownTechnique> {
        match text {
            "io_uring" => Ok(Technique::IoUring),
            "epoll" => Ok(Technique::Epoll),
            _ => Err(UnknownTechnique),
        }
    }
}

/// What a [`ShardIo`](super::ShardIo) leaves to its technique.
pub(super) trait Backend: Send {
    fn technique(&self) -> Technique;

    fn batch(&self) -> &Batch;

    fn batch_mut(&mut self) -> &mut Batch;

    /// Receives from this socket from the next turn on.
    fn add(&mut self, poller: &Poller, id: SocketId, socket: &DatagramSocket) -> io::Result<()>;

    /// Receives from this socket no more: nothing of the kernel holds it when this returns. The queue is empty.
    fn remove(&mut self, poller: &Poller, id: SocketId, socket: &DatagramSocket);

    /// Sends the queue and forgets what was received; then waits until something is ready or `timeout` has passed,
    /// receives, and adds to `events` what else is ready.
    fn turn(
        &mut self,
        shard: &mut Shard<'_>,
        timeout: Option<Duration>,
        events: &mut Vec<Event>,
    ) -> io::Result<()>;

    /// Sends the queue and forgets it, whatever becomes of its datagrams.
    fn flush(&mut self, shard: &mut Shard<'_>);
}

/// What a back end is lent of its shard.
pub(super) struct Shard<'a> {
    pub(super) poller: &'a mut Poller,
    pub(super) sockets: &'a Sockets,
    pub(super) outcome: &'a mut Outcome,
}

/// A datagram's failure to be sent is remembered for so many in a turn; all are counted.
const FAILURES: usize = 512;

/// What became of datagrams.
#[derive(Default)]
pub(super) struct Outcome {
    pub(super) counters: DatagramCounters,
    /// Since the turn began.
    pub(super) failures: Vec<SendFailure>,
    /// Sockets whose error queue may hold something, with repetitions.
    pub(super) with_errors: Vec<SocketId>,
}

impl Outcome {
    /// The system would not send a train.
    pub(super) fn failed(&mut self, batch: &Batch, train: Train, errno: i32) {
        for route in (train.first..train.first + train.count).filter_map(|index| batch.route(index)) {
            self.counters.count_failure(errno);
            if self.failures.len() < FAILURES {
                self.failures.push(SendFailure { route, errno });
            }
        }
    }
}

/// Errors that an ICMP message leaves on a socket, and that the next call reports in place of its own work (the kernel's
/// `icmp_err_convert` and `icmpv6_err_convert`).
fn may_be_pending(errno: i32) -> bool {
    matches!(
        errno,
        libc::ECONNREFUSED
            | libc::EHOSTUNREACH
            | libc::EHOSTDOWN
            | libc::ENETUNREACH
            | libc::ENONET
            | libc::ENOPROTOOPT
            | libc::EMSGSIZE
            | libc::EPROTO
            | libc::EOPNOTSUPP
            | libc::EACCES
    )
}

impl Train {
    /// Whether, after this error, its datagrams are to be sent once more, each by itself: those that an older datagram's
    /// error kept from being sent, and those that cannot leave together, since each is longer than the path takes
    /// (`EINVAL`, or `EMSGSIZE` from Linux 6.14 on), or since the device sums up no datagrams (`EIO`).
    pub(super) fn goes_again(self, errno: i32) -> bool {
        may_be_pending(errno) || self.count > 1 && matches!(errno, libc::EINVAL | libc::EIO)
    }
}

/// Errors of receiving that no later try mends: a fault of the program, not of a datagram.
pub(super) fn is_fatal(errno: i32) -> bool {
    matches!(errno, libc::EBADF | libc::ENOTSOCK | libc::EFAULT | libc::EINVAL)
}
