//! `recvmmsg` into the arena and `sendmmsg` out of it, with headers that are made once.
#![expect(unsafe_code, reason = "headers that point to memory for the kernel")]

use std::io;
use std::os::fd::BorrowedFd;

use super::backend::{Outcome, is_fatal, may_be_pending};
use super::batch::{Batch, HEADROOM, Origin, Route};
use super::memory::Fixed;
use super::shard::{DatagramCounters, SendFailure, SocketId};
use super::sys::{self, Control, Name};

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
            // SAFETY: just filled by recvmmsg, and the control buffers live as long as the headers.
            let local = if header.msg_controllen > 0 { unsafe { sys::local_address(header) } } else { None };
            let whole = header.msg_flags & libc::MSG_TRUNC == 0;
            rearm(header);
            match from {
                Some(from) if whole => {
                    counters.received += 1;
                    let start = self.batch.slots().start(slot) + HEADROOM;
                    self.batch.received_at(
                        start,
                        message.msg_len as usize,
                        Origin { socket, token, from, local },
                    );
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
        let mut parts: Fixed<libc::iovec> = Fixed::new(count);
        for (index, message) in headers.iter_mut().enumerate() {
            message.msg_hdr.msg_name = names.at(index).cast();
            message.msg_hdr.msg_iov = parts.at(index);
            message.msg_hdr.msg_iovlen = 1;
        }
        SendHeaders { headers, names, controls: Fixed::new(count), parts }
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
        let count = count.min(self.headers.len());
        for index in 0..count {
            if let Some((route, bytes)) = batch.queued(first + index) {
                self.fill(index, route, bytes);
            }
        }
        let (mut done, mut retried) = (0, false);
        while done < count {
            // SAFETY: these headers were just filled: each points to its name, perhaps its control buffer, and its part,
            // which points to bytes that `batch` keeps through this function. The kernel only reads them.
            match unsafe { sys::sendmmsg(fd, &mut self.headers[done..count]) } {
                Ok(some) => {
                    done += some;
                    outcome.counters.sent += some as u64;
                    retried = false;
                }
                Err(error) => match error.raw_os_error() {
                    Some(libc::EINTR) => {}
                    // The error of an earlier datagram, perhaps, which kept this one from being sent.
                    Some(errno) if may_be_pending(errno) && !retried => retried = true,
                    errno => {
                        if let Some((route, _)) = batch.queued(first + done) {
                            outcome.failed(SendFailure { route, errno: errno.unwrap_or(libc::EIO) });
                        }
                        done += 1;
                        retried = false;
                    }
                },
            }
        }
    }

    /// Makes the header at `index` one for this datagram; it points to `bytes`, and to memory of `self`.
    pub(super) fn fill(&mut self, index: usize, route: Route, bytes: &[u8]) -> &libc::msghdr {
        // The kernel's type is not const, but sending reads only.
        self.parts[index] = libc::iovec { iov_base: bytes.as_ptr().cast_mut().cast(), iov_len: bytes.len() };
        let header = &mut self.headers[index].msg_hdr;
        header.msg_namelen = self.names[index].set(route.to);
        if let Some(source) = route.source {
            header.msg_controllen = self.controls[index].set_source(source) as _;
            header.msg_control = self.controls.at(index).cast();
        } else {
            header.msg_control = std::ptr::null_mut();
            header.msg_controllen = 0;
        }
        header
    }
}
