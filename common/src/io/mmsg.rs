//! `recvmmsg` into the arena and `sendmmsg` out of it, with headers that are made once.
#![expect(unsafe_code, reason = "headers that point to memory for the kernel")]

use std::io;
use std::ops::Range;
use std::os::fd::BorrowedFd;

use super::backend::{Outcome, is_fatal};
use super::batch::{Batch, HEADROOM, Origin, PIECES, Train};
use super::memory::Fixed;
use super::shard::{DatagramCounters, SocketId};
use super::sys::{self, Ancillary, Control, Name};

/// How many datagrams one `sendmmsg` may hold.
pub(super) const SEND_RUN: usize = 64;

/// How many pending errors of a socket a receive passes over before it leaves the socket to the next turn.
const PENDING_ERRORS: usize = 4;

/// Headers of which each points to one slot of the arena, for good, and the batch that the arena belongs to.
pub(super) struct RecvHeaders {
    /// Only ever replaced together with the headers.
    pub(super) batch: Batch,
    headers: Fixed<libc::mmsghdr>,
    names: Fixed<Name>,
    // Reached only by the headers' pointers.
    _controls: Fixed<Control>,
    _parts: Fixed<libc::iovec>,
    used: usize,
}

// SAFETY: the headers point only into memory that this value owns.
unsafe impl Send for RecvHeaders {}

impl RecvHeaders {
    pub(super) fn new(mut batch: Batch) -> Self {
        let slots = batch.slots();
        let mut headers: Fixed<libc::mmsghdr> = Fixed::new(slots.count);
        let mut names: Fixed<Name> = Fixed::new(slots.count);
        let mut controls: Fixed<Control> = Fixed::new(slots.count);
        let mut parts: Fixed<libc::iovec> = Fixed::new(slots.count);
        for (slot, message) in headers.iter_mut().enumerate() {
            parts[slot].iov_base = batch.address(slots.start(slot) + HEADROOM).cast();
            parts[slot].iov_len = slots.max_datagram;
            let header = &mut message.msg_hdr;
            header.msg_iov = parts.at(slot);
            header.msg_iovlen = 1;
            header.msg_name = names.at(slot).cast();
            header.msg_control = controls.at(slot).cast();
            rearm(header);
        }
        RecvHeaders { batch, headers, names, _controls: controls, _parts: parts, used: 0 }
    }

    /// Forgets what was received and starts again at the first slot.
    pub(super) fn clear(&mut self) {
        self.batch.clear_received();
        self.used = 0;
    }

    pub(super) fn free(&self) -> usize {
        self.headers.len() - self.used
    }

    /// Receives at most `at_most` datagrams of a socket into the next free slots.
    pub(super) fn receive(
        &mut self,
        fd: BorrowedFd<'_>,
        (socket, token): (SocketId, u64),
        at_most: usize,
        counters: &mut DatagramCounters,
    ) -> io::Result<()> {
        let first = self.used;
        let last = first + at_most.min(self.free());
        let count = receive_past_errors(fd, &mut self.headers[first..last], counters)?;
        self.used += count;
        for slot in first..first + count {
            let message = &mut self.headers[slot];
            let header = &mut message.msg_hdr;
            let from = self.names[slot].get(header.msg_namelen);
            let said = match header.msg_controllen {
                0 => Ancillary::default(),
                // SAFETY: just filled by recvmmsg, and the control buffers live as long as the headers.
                _ => unsafe { sys::ancillary(header) },
            };
            let whole = header.msg_flags & libc::MSG_TRUNC == 0;
            rearm(header);
            match from {
                Some(from) if whole => {
                    let start = self.batch.slots().start(slot) + HEADROOM;
                    let origin = Origin { socket, token, from, local: said.local };
                    let len = message.msg_len as usize;
                    counters.received += self.batch.received_at(start, len, said.segment, origin);
                }
                _ => counters.oversized += 1,
            }
        }
        Ok(())
    }
}

/// The lengths that the kernel overwrites.
fn rearm(header: &mut libc::msghdr) {
    header.msg_namelen = Name::LEN;
    header.msg_controllen = Control::LEN as _;
}

/// Errors of a socket (an ICMP message that arrived, a want of memory) concern no datagram that waits.
fn receive_past_errors(
    fd: BorrowedFd<'_>,
    headers: &mut [libc::mmsghdr],
    counters: &mut DatagramCounters,
) -> io::Result<usize> {
    for _ in 0..PENDING_ERRORS {
        // SAFETY: each header points to a name, a control buffer and a slot, of the lengths noted beside them, which live
        // as long as the headers (`RecvHeaders::new`).
        match unsafe { sys::recvmmsg(fd, headers) } {
            Ok(count) => return Ok(count),
            Err(error) => match error.raw_os_error() {
                Some(libc::EAGAIN) => return Ok(0),
                Some(libc::EINTR) => {}
                Some(errno) if is_fatal(errno) => return Err(error),
                _ => counters.receive_errors += 1,
            },
        }
    }
    Ok(0)
}

/// Headers that are filled for the datagrams of a queue.
pub(super) struct SendHeaders {
    headers: Fixed<libc::mmsghdr>,
    names: Fixed<Name>,
    controls: Fixed<Control>,
    parts: Fixed<libc::iovec>,
}

// SAFETY: between calls the headers point only to memory that this value owns; the parts are filled before each.
unsafe impl Send for SendHeaders {}

impl SendHeaders {
    /// Headers for `count` datagrams.
    pub(super) fn new(count: usize) -> Self {
        let mut headers: Fixed<libc::mmsghdr> = Fixed::new(count);
        let mut names: Fixed<Name> = Fixed::new(count);
        for (index, message) in headers.iter_mut().enumerate() {
            message.msg_hdr.msg_name = names.at(index).cast();
        }
        SendHeaders { headers, names, controls: Fixed::new(count), parts: Fixed::new(PIECES * count) }
    }

    /// Sends the queued datagrams `first..first + count` (as many as there are headers, at most) by `fd`. One that fails is
    /// passed over.
    pub(super) fn send(
        &mut self,
        fd: BorrowedFd<'_>,
        batch: &Batch,
        first: usize,
        count: usize,
        outcome: &mut Outcome,
    ) {
        let last = first + count.min(self.headers.len());
        // Those before `apart` go once more, each by itself.
        let (mut next, mut apart) = (first, first);
        while next < last {
            let filled = self.fill_all(batch, next..last, apart);
            // SAFETY: these headers were just filled: each points to its name, perhaps its control buffer, and its parts,
            // which point to bytes that `batch` keeps through this function. The kernel only reads them.
            match unsafe { sys::sendmmsg(fd, &mut self.headers[..filled]) } {
                Ok(some) => {
                    let before = next;
                    (0..some).for_each(|_| next += next_train(batch, next..last, apart).count);
                    outcome.counters.sent += (next - before) as u64;
                }
                Err(error) if error.raw_os_error() == Some(libc::EINTR) => {}
                Err(error) => {
                    let errno = error.raw_os_error().unwrap_or(libc::EIO);
                    let train = next_train(batch, next..last, apart);
                    if next >= apart && train.goes_again(errno) {
                        apart = next + train.count;
                    } else {
                        outcome.failed(batch, train, errno);
                        next += train.count;
                    }
                }
            }
        }
    }

    /// Makes headers for the datagrams of `range`, and returns how many.
    fn fill_all(&mut self, batch: &Batch, range: Range<usize>, apart: usize) -> usize {
        let (mut next, mut filled) = (range.start, 0);
        while next < range.end {
            let train = next_train(batch, next..range.end, apart);
            self.fill(filled, PIECES * (next - range.start), batch, train);
            next += train.count;
            filled += 1;
        }
        filled
    }

    /// Makes the header at `index` one for this train, with its parts from `part` on; it points to bytes of `batch`, and
    /// to memory of `self`.
    pub(super) fn fill(&mut self, index: usize, part: usize, batch: &Batch, train: Train) -> &libc::msghdr {
        let mut parts = 0;
        for datagram in train.first..train.first + train.count {
            for piece in batch.pieces(datagram) {
                if !piece.is_empty() {
                    // The kernel's type is not const, but sending reads only.
                    let start = piece.as_ptr().cast_mut().cast();
                    self.parts[part + parts] = libc::iovec { iov_base: start, iov_len: piece.len() };
                    parts += 1;
                }
            }
        }
        let header = &mut self.headers[index].msg_hdr;
        header.msg_iov = self.parts.at(part);
        header.msg_iovlen = parts as _;
        let Some(route) = batch.route(train.first) else { return header };
        header.msg_namelen = self.names[index].set(route.to);
        let control = &mut self.controls[index];
        let mut used = route.source.map_or(0, |source| control.set_source(source));
        if train.count > 1
            && let Ok(segment) = u16::try_from(train.segment)
        {
            used = control.add_segment(used, segment);
        }
        header.msg_controllen = used as _;
        header.msg_control = if used > 0 { self.controls.at(index).cast() } else { std::ptr::null_mut() };
        header
    }
}

/// The train that starts with `range`, of one datagram if that is before `apart`.
fn next_train(batch: &Batch, range: Range<usize>, apart: usize) -> Train {
    batch.train(range.start, if range.start < apart { 1 } else { range.len() })
}
