//! The back end of a shard with io_uring: receives that stay with the kernel, and one system call a turn.
//!
//! Each socket has one multishot receive in flight. It takes a buffer out of those the shard gave (`buffers`) for each
//! datagram that comes, and posts a completion, within the turn's one call of the kernel (`ring`), which also submits the
//! queue. Each buffer is a slot of the arena:
//!
//! ```text
//! io_uring_recvmsg_out  name   control                         payload ..   padding
//! 16                    48     24, 64 with packet information               4
//! ```
//!
//! What stands before the payload is of no use once it was read, and is the [`HEADROOM`] that prefixes are written to.
//!
//! # Whose a buffer is
//! This is what the `unsafe` blocks here rest on. The kernel reads and writes memory of ours only while [`Ring::enter`]
//! runs: receives run as task work, which `IORING_SETUP_DEFER_TASKRUN` puts off to that call, and sends are done there in
//! submission. `enter` is called with `&mut self`, so that no reference into the arena exists meanwhile. Between calls:
//!
//! - **A slot of the arena** is the kernel's from the moment that its number is given to the [`BufferRing`], until a
//!   completion returns the number; then it is ours. In the turn that hands it on it may be put into the queue. It is
//!   given back in the next turn, after the queue was sent. A number is thus in one place: the ring, `arrived` or `held`.
//! - **A send's bytes, name and header** stay unchanged from its submission until it is done, which it is when `enter`
//!   returns: with `MSG_DONTWAIT` a send never waits, neither for room nor on a worker thread: the kernel has copied the
//!   bytes or refused them. Successes post no completion, so those left out are the failures.
//! - **The headers of receives** are written once, and live as long as `self`.
//! - **When `self` is dropped**, all receives are cancelled and their last completions awaited before the memory is freed.
//!   Should that fail, the memory is never freed.
//!
//! # Whose a completion is
//! A receive carries its [`SocketId`], of which the generation makes it no other's. Removing a socket cancels its receive
//! and awaits its last completion, so that the descriptor is free when its owner closes it; what came for it meanwhile
//! names a socket that is not there, and is dropped.
#![expect(unsafe_code, reason = "memory shared with the kernel")]

mod buffers;
mod check;
mod receiving;
mod ring;

use std::collections::VecDeque;
use std::io;
use std::mem::ManuallyDrop;
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd};
use std::time::Duration;

use io_uring::types::{CancelBuilder, Fd, RecvMsgOut};
use io_uring::{cqueue, opcode, squeue};

use super::backend::{Backend, Shard, Technique, is_fatal};
use super::batch::{Batch, HEADROOM, Origin, PIECES, QUEUE, Train};
use super::datagram::DatagramSocket;
use super::memory::Fixed;
use super::mmsg::SendHeaders;
use super::poller::{Event, Poller};
use super::shard::{IoOptions, SocketId, Sockets};
use super::sys::{Ancillary, Control, Name};
use buffers::{BufferRing, GROUP};
pub(super) use check::{check, explain};
use receiving::Receiving;
use ring::{Ring, Wait};

/// What the kernel puts before the name: four integers (`struct io_uring_recvmsg_out`).
const OUT: usize = 16;

/// Room for the name. More than one takes, so that the payload has its headroom.
#[expect(clippy::cast_possible_truncation, reason = "48, in the type that C has for it")]
const NAME: libc::socklen_t = (HEADROOM - OUT) as _;

/// What stands before a payload at most.
const HEAD: usize = HEADROOM + Control::LEN;

/// So many times the datagrams of a turn fit the buffers: those of this turn, and those that the kernel fills before the
/// next. Receives that find no buffer end and have to be made anew; but the kernel takes buffers in turn, and the fewer there
/// are, the more of them lie in the caches.
const TURNS: usize = 2;

/// So many datagrams of one socket the kernel takes before it looks at the next (`MULTISHOT_MAX_RETRY` of its
/// io_uring/net.c).
const BURST: usize = 32;

/// How often the end of what was cancelled is looked for, and how long it is waited for each time: 5 s in all.
const CANCEL_WAITS: usize = 100;
const CANCEL_WAIT: Duration = Duration::from_millis(50);

pub(super) struct Uring {
    ring: ManuallyDrop<Ring>,
    memory: ManuallyDrop<Memory>,
    /// Receives that completed and were not handed on yet.
    arrived: VecDeque<Arrival>,
    /// The buffers of what was handed on, and of what was dropped.
    held: Vec<u16>,
    /// How many buffers are not in the buffer ring.
    taken: usize,
    /// Sockets without a receive in flight: new ones, and those whose receive ended.
    idle: VecDeque<SocketId>,
    /// Sockets whose receive ended because there was no buffer.
    starved: VecDeque<SocketId>,
    receiving: Receiving,
    /// What of the queue failed, and why.
    failed: Vec<(Train, i32)>,
    poll: Poll,
    /// How many datagrams a turn hands on at most.
    per_turn: usize,
    /// Why the ring is not asked any more.
    broken: Option<i32>,
}

/// What requests point to.
struct Memory {
    batch: Batch,
    buffers: BufferRing,
    send: SendHeaders,
    /// What a receive is to write before the payload: without packet information, and with it.
    recv: Fixed<libc::msghdr>,
}

// SAFETY: the headers for receives hold no pointers. `BufferRing` owns its memory.
unsafe impl Send for Memory {}

/// A completion of a receive.
struct Arrival {
    socket: SocketId,
    /// The length of what was written, or an error number below 0.
    result: i32,
    buffer: Option<u16>,
    /// It was the receive's last.
    last: bool,
}

/// The watch on the poller's descriptor. It sees at once what is ready still, so that nothing is missed.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Poll {
    Idle,
    InFlight,
    Ready,
}

/// What a completion is of. In `user_data`, a receive's socket is a token, whose highest bit is set.
enum Tag {
    Receive(SocketId),
    /// The first datagram of a train, and how many it has.
    Send(usize, usize),
    Poll,
    Cancel,
}

impl Uring {
    pub(super) fn new(options: &IoOptions) -> io::Result<Uring> {
        let per_turn = options.slots.max(1);
        let count = per_turn.saturating_mul(TURNS).checked_next_power_of_two().unwrap_or(usize::MAX);
        let count = u16::try_from(count.clamp(16, BufferRing::MOST)).unwrap_or(1 << 15);
        let ring = Ring::new(4 * u32::from(count))?;
        let mut recv: Fixed<libc::msghdr> = Fixed::new(2);
        for (header, control) in recv.iter_mut().zip([Control::SEGMENT_LEN, Control::LEN]) {
            header.msg_namelen = NAME;
            header.msg_controllen = control as _;
        }
        let mut uring = Uring {
            ring: ManuallyDrop::new(ring),
            memory: ManuallyDrop::new(Memory {
                batch: Batch::new(count.into(), HEAD, options.max_datagram),
                buffers: BufferRing::new(count),
                send: SendHeaders::new(QUEUE),
                recv,
            }),
            arrived: VecDeque::new(),
            held: (0..count).collect(),
            taken: count.into(),
            idle: VecDeque::new(),
            starved: VecDeque::new(),
            receiving: Receiving::default(),
            failed: Vec::new(),
            poll: Poll::Idle,
            per_turn,
            broken: None,
        };
        // SAFETY: `Memory` is freed after the ring can use it no more (see "Whose a buffer is"), and `give_back` gives whole
        // slots of the arena, which are nobody else's.
        unsafe { uring.memory.buffers.register(&uring.ring)? };
        uring.give_back();
        Ok(uring)
    }

    /// Sends the queue, makes receives for the sockets that have none, and waits.
    fn exchange(&mut self, shard: &mut Shard<'_>, wait: Option<Duration>) -> io::Result<()> {
        let queued = self.queue_sends(shard)?;
        self.queue_receives(shard.sockets)?;
        if self.poll == Poll::Idle {
            let poll =
                opcode::PollAdd::new(Fd(shard.poller.as_fd().as_raw_fd()), libc::POLLIN as u32).build();
            self.poll = Poll::InFlight;
            // SAFETY: it points to nothing.
            unsafe { self.push(&poll.user_data(Tag::Poll.encode())) }?;
        }
        let wait = if !self.arrived.is_empty() {
            Wait::Not
        } else if self.starved.is_empty() && self.poll != Poll::Ready {
            Wait::For(wait)
        } else {
            Wait::Glance
        };
        self.enter(wait)?;
        self.settle(queued, shard)
    }

    /// How many of the queue have a socket to go by.
    fn queue_sends(&mut self, shard: &mut Shard<'_>) -> io::Result<usize> {
        let (mut next, mut queued) = (0, 0);
        while next < self.memory.batch.queued_len() {
            let train = self.memory.batch.train(next, QUEUE);
            if self.queue_send(train, shard.sockets)? {
                queued += train.count;
            } else {
                shard.outcome.counters.misdirected += train.count as u64;
            }
            next += train.count;
        }
        Ok(queued)
    }

    /// False if there is no socket for it.
    fn queue_send(&mut self, train: Train, sockets: &Sockets) -> io::Result<bool> {
        let Memory { batch, send, .. } = &mut *self.memory;
        let Some(route) = batch.route(train.first) else { return Ok(false) };
        let Some((socket, _)) = sockets.get(route.socket) else { return Ok(false) };
        let fd = Fd(socket.as_fd().as_raw_fd());
        let header = send.fill(train.first, PIECES * train.first, batch, train);
        let request = if train.count == 1 && route.source.is_none() && header.msg_iovlen <= 1 {
            // Cheaper by a seventh than a header, which the kernel would have to copy and take apart.
            let bytes =
                batch.pieces(train.first).into_iter().find(|piece| !piece.is_empty()).unwrap_or_default();
            let len = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
            opcode::Send::new(fd, bytes.as_ptr(), len)
                .dest_addr(header.msg_name.cast())
                .dest_addr_len(header.msg_namelen)
                .flags(libc::MSG_DONTWAIT)
                .build()
        } else {
            opcode::SendMsg::new(fd, header).flags(libc::MSG_DONTWAIT.cast_unsigned()).build()
        };
        let tag = Tag::Send(train.first, train.count);
        let request = request.flags(squeue::Flags::SKIP_SUCCESS).user_data(tag.encode());
        // SAFETY: the header at `first` with its parts, and the bytes, are changed only after the queue was settled (see
        // "Whose a buffer is").
        unsafe { self.push(&request) }?;
        Ok(true)
    }

    /// The starved wait their turn: only as many are served at a time as can be, so that none takes the buffers of others
    /// again and again.
    fn queue_receives(&mut self, sockets: &Sockets) -> io::Result<()> {
        let free = self.memory.batch.slots().count - self.taken;
        let served = self.starved.len().min(free.div_ceil(BURST));
        self.idle.extend(self.starved.drain(..served));
        while let Some(id) = self.idle.pop_front() {
            let Some((socket, _)) = sockets.get(id) else { continue };
            let header = self.memory.recv.at(socket.packet_info().into());
            let fd = Fd(socket.as_fd().as_raw_fd());
            let request = opcode::RecvMsgMulti::new(fd, header, GROUP).build().user_data(id.to_token());
            self.receiving.begin(id);
            // SAFETY: the headers for receives do not change, and live until there is no receive.
            unsafe { self.push(&request) }?;
        }
        Ok(())
    }

    /// Queues a request, after those queued were submitted if there is no room.
    ///
    /// # Safety
    /// As for [`Ring::push`].
    unsafe fn push(&mut self, request: &squeue::Entry) -> io::Result<()> {
        if self.ring.is_full() {
            self.enter(Wait::Not)?;
        }
        // SAFETY: the caller's.
        unsafe { self.ring.push(request) };
        Ok(())
    }

    /// Submits what is queued, and sorts what completed. After an error the ring is not used any more: what is queued was
    /// not submitted, and never will be.
    fn enter(&mut self, wait: Wait) -> io::Result<()> {
        if let Some(errno) = self.broken {
            return Err(io::Error::from_raw_os_error(errno));
        }
        let Self { ring, arrived, taken, receiving, failed, poll, .. } = self;
        let entered = ring.enter(wait, |completion| match Tag::decode(completion.user_data()) {
            Tag::Receive(socket) => {
                let buffer = cqueue::buffer_select(completion.flags());
                let last = !cqueue::more(completion.flags());
                *taken += usize::from(buffer.is_some());
                if last {
                    receiving.end(socket);
                }
                arrived.push_back(Arrival { socket, result: completion.result(), buffer, last });
            }
            Tag::Send(first, count) => {
                failed.push((Train { first, count, segment: 0 }, -completion.result()));
            }
            Tag::Poll => *poll = Poll::Ready,
            Tag::Cancel => {}
        });
        entered.inspect_err(|error| self.broken = Some(error.raw_os_error().unwrap_or(libc::EIO)))
    }

    /// Counts what was sent of the `queued`, and forgets the queue. Some that failed goes once more.
    fn settle(&mut self, mut sent: usize, shard: &mut Shard<'_>) -> io::Result<()> {
        let failed = std::mem::take(&mut self.failed);
        let (again, failed): (Vec<_>, _) =
            failed.into_iter().partition(|(train, errno)| train.goes_again(*errno));
        self.failed = failed;
        for (train, _) in &again {
            // The error was taken by the send, and the receive will not report it.
            shard.outcome.with_errors.extend(self.memory.batch.route(train.first).map(|route| route.socket));
            for first in train.first..train.first + train.count {
                self.queue_send(self.memory.batch.train(first, 1), shard.sockets)?;
            }
        }
        if !again.is_empty() {
            self.enter(Wait::Not)?;
        }
        for (train, errno) in self.failed.drain(..) {
            sent -= train.count;
            shard.outcome.failed(&self.memory.batch, train, errno);
        }
        shard.outcome.counters.sent += sent as u64;
        self.memory.batch.clear_queue();
        Ok(())
    }

    /// Forgets the queue, which the ring does not take.
    fn discard(&mut self, error: &io::Error, shard: &mut Shard<'_>) {
        let errno = error.raw_os_error().unwrap_or(libc::EIO);
        let all = Train { first: 0, count: self.memory.batch.queued_len(), segment: 0 };
        shard.outcome.failed(&self.memory.batch, all, errno);
        self.failed.clear();
        self.memory.batch.clear_queue();
    }

    /// Gives the kernel the buffers that are of no more use.
    fn give_back(&mut self) {
        let Memory { batch, buffers, .. } = &mut *self.memory;
        let slots = batch.slots();
        self.taken -= self.held.len();
        for number in self.held.drain(..) {
            buffers.give(number, batch.address(slots.start(number.into())), HEAD + slots.max_datagram);
        }
        buffers.publish();
    }

    /// Hands on what arrived, as much as a turn may.
    fn hand_on(&mut self, shard: &mut Shard<'_>) -> io::Result<()> {
        let mut fatal = Ok(());
        while self.memory.batch.received_len() < self.per_turn
            && let Some(Arrival { socket: id, result, buffer, last }) = self.arrived.pop_front()
        {
            self.held.extend(buffer);
            let Some((socket, token)) = shard.sockets.get(id) else { continue };
            let len = usize::try_from(result);
            match (buffer, len) {
                (Some(buffer), Ok(len)) => match self.memory.read(buffer, len, socket.packet_info()) {
                    Some((start, len, from, said)) => {
                        let origin = Origin { socket: id, token, from, local: said.local };
                        shard.outcome.counters.received +=
                            self.memory.batch.received_at(start, len, said.segment, origin);
                    }
                    None => shard.outcome.counters.oversized += 1,
                },
                _ if result == -libc::ENOBUFS && last => {
                    self.starved.push_back(id);
                    continue;
                }
                _ if is_fatal(-result) => {
                    fatal = Err(io::Error::from_raw_os_error(-result));
                    continue;
                }
                _ => {
                    shard.outcome.counters.receive_errors += 1;
                    shard.outcome.with_errors.push(id);
                }
            }
            if last {
                self.idle.push_back(id);
            }
        }
        fatal
    }

    /// Cancels what `cancel` says and waits until `done`. Data that comes meanwhile is kept.
    fn cancel(&mut self, cancel: squeue::Entry, done: impl Fn(&Self) -> bool) -> io::Result<()> {
        let cancel = cancel.flags(squeue::Flags::SKIP_SUCCESS).user_data(Tag::Cancel.encode());
        // SAFETY: it points to nothing.
        unsafe { self.push(&cancel) }?;
        for _ in 0..CANCEL_WAITS {
            self.enter(Wait::For(Some(CANCEL_WAIT)))?;
            if done(self) {
                return Ok(());
            }
        }
        Err(io::ErrorKind::TimedOut.into())
    }
}

impl Backend for Uring {
    fn technique(&self) -> Technique {
        Technique::IoUring
    }

    fn batch(&self) -> &Batch {
        &self.memory.batch
    }

    fn batch_mut(&mut self) -> &mut Batch {
        &mut self.memory.batch
    }

    fn add(&mut self, _: &Poller, id: SocketId, _: &DatagramSocket) -> io::Result<()> {
        self.idle.push_back(id);
        Ok(())
    }

    fn remove(&mut self, _: &Poller, id: SocketId, _: &DatagramSocket) {
        if self.receiving.contains(id) {
            let cancel = opcode::AsyncCancel::new(id.to_token()).build();
            // Without success it may go on for a while, of which nothing is handed on.
            if let Err(error) = self.cancel(cancel, |uring| !uring.receiving.contains(id)) {
                tracing::error!(%error, "io_uring does not end a receive");
            }
        }
    }

    fn turn(
        &mut self,
        shard: &mut Shard<'_>,
        timeout: Option<Duration>,
        events: &mut Vec<Event>,
    ) -> io::Result<()> {
        let exchanged = self.exchange(shard, timeout).inspect_err(|error| self.discard(error, shard));
        self.memory.batch.clear_received();
        exchanged?;
        self.give_back();
        if self.poll == Poll::Ready {
            self.poll = Poll::Idle;
            shard.poller.wait_with(Some(Duration::ZERO), |event| events.push(event))?;
        }
        self.hand_on(shard)
    }

    fn flush(&mut self, shard: &mut Shard<'_>) {
        let sent = self.queue_sends(shard).and_then(|queued| {
            self.enter(Wait::Not)?;
            self.settle(queued, shard)
        });
        if let Err(error) = sent {
            self.discard(&error, shard);
        }
    }
}

impl Drop for Uring {
    fn drop(&mut self) {
        let all = opcode::AsyncCancel2::new(CancelBuilder::any()).build();
        let idle = self.receiving.is_empty() || self.cancel(all, |uring| uring.receiving.is_empty()).is_ok();
        // SAFETY: once, and neither is used after this. The ring is closed first.
        unsafe { ManuallyDrop::drop(&mut self.ring) };
        if idle {
            // SAFETY: as above; no request that points to it is in flight.
            unsafe { ManuallyDrop::drop(&mut self.memory) };
        }
    }
}

impl Memory {
    /// Where the datagram in a buffer lies, and what else the kernel wrote about it; `None` if it is not whole.
    fn read(
        &self,
        buffer: u16,
        written: usize,
        packet_info: bool,
    ) -> Option<(usize, usize, SocketAddr, Ancillary)> {
        let slots = self.batch.slots();
        let start = slots.start(buffer.into());
        let header = &self.recv[usize::from(packet_info)];
        let out = RecvMsgOut::parse(self.batch.bytes(start..start + written)?, header).ok()?;
        let payload = out.payload_data().len();
        if out.is_payload_truncated() || payload > slots.max_datagram {
            return None;
        }
        let from = Name::read(out.name_data())?;
        let said = match out.control_data() {
            [] => Ancillary::default(),
            control => Control::read(control)?,
        };
        Some((start + written - payload, payload, from, said))
    }
}

impl Tag {
    fn encode(self) -> u64 {
        match self {
            Tag::Receive(id) => id.to_token(),
            Tag::Send(first, count) => (count << 16 | first) as u64,
            Tag::Poll => 1 << 32,
            Tag::Cancel => 2 << 32,
        }
    }

    fn decode(user_data: u64) -> Tag {
        match (SocketId::from_token(user_data), u32::try_from(user_data)) {
            (Some(id), _) => Tag::Receive(id),
            (None, Ok(train)) => Tag::Send((train & 0xffff) as usize, (train >> 16) as usize),
            (None, _) if user_data == Tag::Poll.encode() => Tag::Poll,
            (None, _) => Tag::Cancel,
        }
    }
}
