//! The back end of a shard with epoll, `recvmmsg` and `sendmmsg`.

use std::collections::VecDeque;
use std::io;
use std::os::fd::AsFd;
use std::time::Duration;

use super::batch::Batch;
use super::mmsg::{RecvHeaders, SEND_RUN, SendHeaders};
use super::poller::{Event, Poller};
use super::shard::{DatagramCounters, SendFailure, SocketId, Sockets};

pub(super) struct Epoll {
    recv: RecvHeaders,
    send: SendHeaders,
    /// Sockets that are ready and were not read yet, because the arena was full.
    ready: VecDeque<SocketId>,
    per_socket: usize,
}

impl Epoll {
    pub(super) fn new(batch: Batch, per_socket: usize) -> Self {
        let recv = RecvHeaders::new(batch);
        Epoll { recv, send: SendHeaders::new(), ready: VecDeque::new(), per_socket }
    }

    pub(super) fn batch(&self) -> &Batch {
        &self.recv.batch
    }

    pub(super) fn batch_mut(&mut self) -> &mut Batch {
        &mut self.recv.batch
    }

    /// Fills the arena anew from the sockets that are ready, at most `per_socket` from each, so that a busy one does
    /// not keep the others waiting. Waits only if none is left over from the last time.
    pub(super) fn receive(
        &mut self,
        poller: &mut Poller,
        sockets: &Sockets,
        timeout: Option<Duration>,
        counters: &mut DatagramCounters,
        mut other: impl FnMut(Event),
    ) -> io::Result<()> {
        self.recv.clear();
        if self.ready.is_empty() {
            let ready = &mut self.ready;
            poller.wait_with(timeout, |event| match SocketId::from_token(event.token) {
                Some(id) => ready.push_back(id),
                None => other(event),
            })?;
        }
        while self.recv.free() > 0
            && let Some(id) = self.ready.pop_front()
        {
            let Some((socket, token)) = sockets.get(id) else { continue };
            self.recv.receive(socket.as_fd(), (id, token), self.per_socket, counters)?;
        }
        Ok(())
    }

    /// Sends all that is queued, in order, and forgets it: one system call for each run of datagrams by one socket.
    pub(super) fn flush(
        &mut self,
        sockets: &Sockets,
        counters: &mut DatagramCounters,
        mut failed: impl FnMut(SendFailure),
    ) {
        let batch = &mut self.recv.batch;
        let mut next = 0;
        while let Some((route, _)) = batch.queued(next) {
            let run = batch.queued_run(next, SEND_RUN);
            match sockets.get(route.socket) {
                Some((socket, _)) => {
                    let sent = self.send.send(socket.as_fd(), batch, next, run, |failure| {
                        counters.count_failure(failure.errno);
                        failed(failure);
                    });
                    counters.sent += sent as u64;
                }
                None => counters.misdirected += run as u64,
            }
            next += run;
        }
        batch.clear_queue();
    }
}
