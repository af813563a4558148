//! All sockets of one shard: what [`ShardIo`] offers, over whichever back end asks the kernel.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::fmt;
use std::io;
use std::ops::Range;
use std::os::fd::AsFd;
use std::thread;
use std::time::Duration;

use super::backend::{Backend, Outcome, Shard, Technique};
use super::batch::{QUEUE, Received, Route};
use super::datagram::{DatagramSocket, can_send_trains};
use super::epoll::Epoll;
use super::error_queue::{Fragmentation, take_error_with_quote};
use super::poller::{Event, Poller, TOKEN_LIMIT};
use super::uring::{self, Uring};
use crate::net::Undelivered;

/// Generations count up to this and begin anew, so that an id with [`TOKEN_LIMIT`]'s bit fits a token.
const GENERATIONS: u32 = 1 << 31;

/// So many errors of datagrams are handed on in a turn.
const UNDELIVERED: usize = 256;

/// Datagrams that the kernel hands on together have so many bytes at most.
const LONGEST_TRAIN: usize = 65_535;

/// The sizes of a [`ShardIo`], and its way to ask the kernel.
#[derive(Clone, Copy, Debug)]
pub struct IoOptions {
    /// How many datagrams, or trains of them, one turn receives at most.
    pub slots: usize,
    /// The longest datagram taken, in bytes; longer ones are dropped and counted. The arena takes `slots` times as much
    /// of address space (with io_uring, which receives ahead, twice that), but memory only as far as datagrams reach.
    /// Below 65,535 the kernel is not asked for trains, which would not fit.
    pub max_datagram: usize,
    /// How many datagrams one turn takes from one socket at most. With io_uring the kernel decides that: 32.
    pub per_socket: usize,
    /// Whether datagrams may be received and sent several as one.
    pub trains: bool,
    /// How to ask the kernel; `None`: by io_uring where it can be used, otherwise by epoll.
    pub technique: Option<Technique>,
}

impl Default for IoOptions {
    /// 128 datagrams a turn, 32 of one socket, of any length that UDP can carry.
    fn default() -> Self {
        IoOptions { slots: 128, max_datagram: 65_535, per_socket: 32, trains: true, technique: None }
    }
}

/// Names a datagram socket of a [`ShardIo`]; of a removed one it names nothing ever after.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SocketId {
    index: u32,
    generation: u32,
}

impl SocketId {
    #[expect(clippy::cast_possible_truncation, reason = "the halves of a u64")]
    pub(super) fn from_token(token: u64) -> Option<Self> {
        let bits = token.checked_sub(TOKEN_LIMIT)?;
        Some(SocketId { index: bits as u32, generation: (bits >> 32) as u32 })
    }

    /// Where it stands among the sockets there are; used again after it was removed.
    pub(super) fn place(self) -> usize {
        self.index as usize
    }

    pub(super) fn to_token(self) -> u64 {
        TOKEN_LIMIT | u64::from(self.generation) << 32 | u64::from(self.index)
    }
}

/// What became of datagrams since the [`ShardIo`] was made. What was queued is in the end sent, failed or misdirected.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct DatagramCounters {
    /// Received and handed on.
    pub received: u64,
    /// Dropped on arrival, since longer than [`IoOptions::max_datagram`].
    pub oversized: u64,
    /// Errors that receiving passed over (`ECONNREFUSED`, `ENOMEM`..).
    pub receive_errors: u64,
    /// Handed to the kernel.
    pub sent: u64,
    /// Not sent: the socket's send buffer is full (`EAGAIN`) or the system has none (`ENOBUFS`, `ENOMEM`); and those of
    /// [`ShardIo::count_no_buffer`].
    pub no_buffer: u64,
    /// Not sent: longer than the path or the protocol takes (`EMSGSIZE`).
    pub too_long: u64,
    /// Not sent: a local rule forbids it (`EPERM`, `EACCES`).
    pub forbidden: u64,
    /// Not sent: no route, host or port (`ENETUNREACH`, `EHOSTUNREACH`, `ECONNREFUSED`..).
    pub unreachable: u64,
    /// Not sent: any other error, such as an address that is not of the socket's family.
    pub refused: u64,
    /// Not sent: the socket was removed, or there is no such range: a fault of the caller.
    pub misdirected: u64,
}

impl DatagramCounters {
    /// All datagrams that the system would not send.
    pub fn failed(&self) -> u64 {
        self.no_buffer + self.too_long + self.forbidden + self.unreachable + self.refused
    }

    /// Adds up.
    pub fn add(&mut self, other: &DatagramCounters) {
        self.received += other.received;
        self.oversized += other.oversized;
        self.receive_errors += other.receive_errors;
        self.sent += other.sent;
        self.no_buffer += other.no_buffer;
        self.too_long += other.too_long;
        self.forbidden += other.forbidden;
        self.unreachable += other.unreachable;
        self.refused += other.refused;
        self.misdirected += other.misdirected;
    }

    pub(super) fn count_failure(&mut self, errno: i32) {
        *match errno {
            libc::EAGAIN | libc::ENOBUFS | libc::ENOMEM => &mut self.no_buffer,
            libc::EMSGSIZE => &mut self.too_long,
            libc::EPERM | libc::EACCES => &mut self.forbidden,
            libc::ENETUNREACH
            | libc::EHOSTUNREACH
            | libc::ECONNREFUSED
            | libc::ENETDOWN
            | libc::EHOSTDOWN
            | libc::EADDRNOTAVAIL => &mut self.unreachable,
            _ => &mut self.refused,
        } += 1;
    }
}

/// A datagram that the system would not send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SendFailure {
    /// The way it should have gone.
    pub route: Route,
    /// The system's error number.
    pub errno: i32,
}

impl fmt::Display for SendFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.route.to, io::Error::from_raw_os_error(self.errno))
    }
}

/// The sockets of one shard, the datagrams of one turn, and the wait for more.
///
/// Each round: [`turn`](Self::turn), then the events it listed, then [`received`](Self::received) from 0 up, each answered
/// by [`forward`](Self::forward) and [`send`](Self::send). The next `turn` sends what was queued.
///
/// It is best dropped when its thread ends: a ring that is closed may interrupt a later blocking call of the thread that
/// it served (`EINTR`).
pub struct ShardIo {
    // First, since it ends what the kernel does with the others' descriptors when it is dropped.
    backend: Box<dyn Backend>,
    takes_trains: bool,
    poller: Poller,
    sockets: Sockets,
    outcome: Outcome,
    undelivered: Vec<(u64, Undelivered)>,
    no_io_uring: Option<io::Error>,
}

impl ShardIo {
    /// A shard without sockets. If [`IoOptions::technique`] asks for io_uring, and that cannot be used, the error says
    /// why.
    pub fn new(options: IoOptions) -> io::Result<Self> {
        let mut no_io_uring = None;
        let backend: Box<dyn Backend> = match options.technique {
            Some(Technique::Epoll) => Box::new(Epoll::new(&options)),
            Some(Technique::IoUring) => Box::new(usable_ring(&options)?),
            None => match usable_ring(&options) {
                Ok(ring) => Box::new(ring),
                Err(error) => {
                    no_io_uring = Some(error);
                    Box::new(Epoll::new(&options))
                }
            },
        };
        Ok(ShardIo { no_io_uring, ..Self::over(backend, &options)? })
    }

    pub(super) fn over(mut backend: Box<dyn Backend>, options: &IoOptions) -> io::Result<Self> {
        if !options.trains || !can_send_trains() {
            backend.batch_mut().forbid_trains();
        }
        Ok(ShardIo {
            backend,
            takes_trains: options.trains && options.max_datagram >= LONGEST_TRAIN,
            poller: Poller::new()?,
            sockets: Sockets::default(),
            outcome: Outcome::default(),
            undelivered: Vec::new(),
            no_io_uring: None,
        })
    }

    /// How it asks the kernel.
    pub fn technique(&self) -> Technique {
        self.backend.technique()
    }

    /// Why it is not by io_uring, though [`IoOptions::technique`] left the choice.
    pub fn why_not_io_uring(&self) -> Option<&io::Error> {
        self.no_io_uring.as_ref()
    }

    /// Where streams, listeners and wakers are watched; [`turn`](Self::turn) lists their events.
    pub fn poller(&self) -> &Poller {
        &self.poller
    }

    /// Receives from `socket` from now on, under a `token` that each of its datagrams carries.
    pub fn add(&mut self, socket: DatagramSocket, token: u64) -> io::Result<SocketId> {
        let id = self.sockets.next_id();
        if self.takes_trains {
            socket.receive_trains();
        }
        self.backend.add(&self.poller, id, &socket)?;
        Ok(self.sockets.insert(socket, token))
    }

    /// Sends what is queued, and gives the socket back; dropped, it is closed. What it received in this turn stays.
    pub fn remove(&mut self, id: SocketId) -> Option<DatagramSocket> {
        self.flush();
        let socket = self.sockets.remove(id)?;
        self.backend.remove(&self.poller, id, &socket);
        Some(socket)
    }

    /// A socket that was added.
    pub fn socket(&self, id: SocketId) -> Option<&DatagramSocket> {
        self.sockets.get(id).map(|(socket, _)| socket)
    }

    /// Sends what is queued and forgets what was received; then waits until something is ready or `timeout` has passed,
    /// receives, and replaces `events` by what else is ready.
    ///
    /// It may return with nothing. An error is a fault of the program or the system, not of a datagram or a peer. From
    /// its first turn on, a `ShardIo` stays on its thread: io_uring serves no other.
    pub fn turn(&mut self, timeout: Option<Duration>, events: &mut Vec<Event>) -> io::Result<()> {
        self.outcome.failures.clear();
        events.clear();
        // Errors that a flush met with are told now.
        let timeout = if self.outcome.with_errors.is_empty() { timeout } else { Some(Duration::ZERO) };
        let Self { backend, poller, sockets, outcome, .. } = self;
        let turned = backend.turn(&mut Shard { poller, sockets, outcome }, timeout, events);
        if !self.outcome.with_errors.is_empty() {
            self.read_errors();
        }
        turned
    }

    /// Empties the error queues that may hold something, or the kernel would tell of them again and again.
    fn read_errors(&mut self) {
        for id in std::mem::take(&mut self.outcome.with_errors) {
            let Some((socket, token)) = self.sockets.get(id) else { continue };
            while let Ok(error) = take_error_with_quote(socket.as_fd(), Vec::new()) {
                if self.undelivered.len() < UNDELIVERED {
                    self.undelivered.push((token, error));
                }
            }
        }
    }

    /// What the network said in this turn of datagrams sent by sockets with [`BindOptions::report_errors`], and the tokens
    /// of these: 256 at the most. Nothing is quoted of the datagrams.
    ///
    /// [`BindOptions::report_errors`]: super::BindOptions::report_errors
    pub fn take_undelivered(&mut self) -> Vec<(u64, Undelivered)> {
        std::mem::take(&mut self.undelivered)
    }

    /// How many datagrams this turn received.
    pub fn received_len(&self) -> usize {
        self.backend.batch().received_len()
    }

    /// A datagram of this turn; `None` from [`received_len`](Self::received_len) on.
    pub fn received(&self, index: usize) -> Option<Received<'_>> {
        self.backend.batch().received(index)
    }

    /// Queues a datagram made of `prefix`, the bytes `range` of the datagram received at `index`, and `pad` zeros.
    ///
    /// `prefix` (at most [`HEADROOM`](super::HEADROOM) bytes, or as many more as `range` leaves out before it) and `pad`
    /// (at most 4) are written around the range, over what [`received`](Self::received) showed there; the payload is not
    /// copied. Where there is no room, and for the second datagram made of one received, all is copied.
    pub fn forward(&mut self, index: usize, range: Range<usize>, prefix: &[u8], pad: usize, route: Route) {
        if self.backend.batch().queued_len() >= QUEUE {
            self.flush();
        }
        if !self.backend.batch_mut().forward(index, range, prefix, pad, route) {
            self.outcome.counters.misdirected += 1;
        }
    }

    /// Queues a copy of `datagram`.
    pub fn send(&mut self, route: Route, datagram: &[u8]) {
        self.send_parts(route, &[datagram]);
    }

    /// Queues a datagram made of copies of these parts.
    pub fn send_parts(&mut self, route: Route, parts: &[&[u8]]) {
        if self.backend.batch().queued_len() >= QUEUE {
            self.flush();
        }
        self.backend.batch_mut().send(route, parts);
    }

    /// Sends what is queued, then what `queue` queues for `socket`, of which nothing may be fragmented; later datagrams may
    /// again ([`Fragmentation::AsNeeded`]).
    ///
    /// The system has that as an option of the socket, not of a datagram: this costs some system calls, and others
    /// nothing.
    pub fn send_whole(&mut self, socket: SocketId, queue: impl FnOnce(&mut Self)) {
        self.flush();
        let set = |io: &Self, fragmentation| match io.socket(socket) {
            Some(socket) => socket.set_fragmentation(fragmentation).is_ok(),
            None => false,
        };
        if !set(self, Fragmentation::Never) {
            self.outcome.counters.refused += 1;
            return;
        }
        queue(self);
        self.flush();
        set(self, Fragmentation::AsNeeded);
    }

    /// Sends what is queued now: before a socket is closed or a long computation; otherwise [`turn`](Self::turn) does.
    pub fn flush(&mut self) {
        if self.backend.batch().queued_len() == 0 {
            return;
        }
        let Self { backend, poller, sockets, outcome, .. } = self;
        backend.flush(&mut Shard { poller, sockets, outcome });
    }

    /// The datagrams that the system would not send, as far as was learnt since the last [`turn`](Self::turn) began.
    pub fn failures(&self) -> &[SendFailure] {
        &self.outcome.failures
    }

    /// Counts datagrams that should have gone another way, in memory, where there was no room for them.
    pub fn count_no_buffer(&mut self, datagrams: usize) {
        self.outcome.counters.no_buffer += datagrams as u64;
    }

    /// What became of datagrams so far.
    pub fn counters(&self) -> DatagramCounters {
        self.outcome.counters
    }
}

impl fmt::Debug for ShardIo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ShardIo")
            .field("technique", &self.technique())
            .field("counters", &self.counters())
            .finish_non_exhaustive()
    }
}

/// A ring, once one like it was seen to work. Both are made on a thread that ends: when a ring is closed, the kernel
/// interrupts the thread that made it, whose blocking calls may then fail (`EINTR`).
fn usable_ring(options: &IoOptions) -> io::Result<Uring> {
    let make = || uring::check().and_then(|()| Uring::new(options));
    let made = thread::scope(|scope| {
        let maker = thread::Builder::new().name("io_uring-check".to_owned()).spawn_scoped(scope, make)?;
        maker.join().unwrap_or_else(|_| Err(io::ErrorKind::Other.into()))
    });
    made.map_err(|error| uring::explain(&error))
}

/// The datagram sockets by id.
#[derive(Default)]
pub(super) struct Sockets {
    entries: Vec<Option<Entry>>,
    /// Places in `entries`. The first is taken first, so that the last ones get empty, and memory is given back.
    free: BinaryHeap<Reverse<u32>>,
    next_generation: u32,
}

struct Entry {
    generation: u32,
    socket: DatagramSocket,
    token: u64,
}

/// Room for so many sockets is kept.
const ROOM_KEPT: usize = 64;

impl Sockets {
    pub(super) fn get(&self, id: SocketId) -> Option<(&DatagramSocket, u64)> {
        let entry = self.entries.get(id.index as usize)?.as_ref()?;
        (entry.generation == id.generation).then_some((&entry.socket, entry.token))
    }

    /// What [`Sockets::insert`] will return.
    #[expect(clippy::cast_possible_truncation, reason = "a process has fewer than 2^31 descriptors")]
    fn next_id(&self) -> SocketId {
        let index = match self.free.peek() {
            Some(&Reverse(index)) if (index as usize) < self.entries.len() => index,
            _ => self.entries.len() as u32,
        };
        SocketId { index, generation: self.next_generation }
    }

    fn insert(&mut self, socket: DatagramSocket, token: u64) -> SocketId {
        let id = self.next_id();
        self.next_generation = (id.generation + 1) % GENERATIONS;
        let entry = Some(Entry { generation: id.generation, socket, token });
        match self.entries.get_mut(id.index as usize) {
            Some(place) => {
                *place = entry;
                self.free.pop();
            }
            None => {
                // What is free lies beyond the end.
                self.free.clear();
                self.entries.push(entry);
            }
        }
        id
    }

    fn remove(&mut self, id: SocketId) -> Option<DatagramSocket> {
        let entry = self.entries.get_mut(id.index as usize)?;
        let removed = entry.take_if(|entry| entry.generation == id.generation)?;
        self.free.push(Reverse(id.index));
        while let Some(None) = self.entries.last() {
            self.entries.pop();
        }
        let wanted = 2 * self.entries.len() + ROOM_KEPT;
        if self.entries.capacity() > 2 * wanted {
            self.entries.shrink_to(wanted);
            self.free.retain(|Reverse(index)| (*index as usize) < self.entries.len());
            self.free.shrink_to(wanted);
        }
        Some(removed.socket)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::io::BindOptions;

    #[test]
    fn ids_are_never_used_again_and_room_is_given_back() {
        let mut sockets = Sockets::default();
        let add = |sockets: &mut Sockets, token| {
            sockets.insert(BindOptions::default().bind("127.0.0.1:0".parse().unwrap()).unwrap(), token)
        };
        let old: Vec<_> = (0..300).map(|token| add(&mut sockets, token)).collect();
        // One stays, in the middle; the others go, every third first.
        for (at, id) in old.iter().enumerate().filter(|(at, _)| at % 3 == 0) {
            assert!(sockets.remove(*id).is_some(), "{at}");
        }
        for id in old.iter().filter(|id| **id != old[100]) {
            sockets.remove(*id);
        }
        assert_eq!(sockets.get(old[100]).map(|(_, token)| token), Some(100));
        assert!(sockets.entries.len() == 101 && sockets.remove(old[99]).is_none());
        let new: Vec<_> = (0..150).map(|token| add(&mut sockets, 1000 + token)).collect();
        assert!(new.iter().all(|id| !old.contains(id)), "a place may be the same, an id may not");
        for (token, id) in (1000..).zip(&new) {
            assert_eq!(sockets.get(*id).map(|(_, token)| token), Some(token));
        }
        assert!(old.iter().all(|id| *id == old[100] || sockets.get(*id).is_none()));
        for id in new.iter().chain(&old[100..101]) {
            assert!(sockets.remove(*id).is_some());
        }
        assert!(sockets.entries.capacity() <= 2 * ROOM_KEPT, "{}", sockets.entries.capacity());
    }
}
