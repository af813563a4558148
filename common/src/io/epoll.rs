//! The back end of a shard with epoll, `recvmmsg` and `sendmmsg`.

use std::collections::VecDeque;
use std::io;
use std::os::fd::AsFd;
use std::time::Duration;

use super::backend::{Backend, Shard, Technique};
use super::batch::{Batch, HEADROOM};
use super::datagram::DatagramSocket;
use super::mmsg::{RecvHeaders, SEND_RUN, SendHeaders};
use super::poller::{Event, Poller};
use super::shard::{IoOptions, SocketId};

pub(super) struct Epoll {
    recv: RecvHeaders,
    send: SendHeaders,
    /// Sockets that are ready and were not read yet, because the arena was full.
    ready: VecDeque<SocketId>,
    per_socket: usize,
}

impl Epoll {
    pub(super) fn new(options: &IoOptions) -> Self {
        let batch = Batch::new(options.slots.max(1), HEADROOM, options.max_datagram);
        Epoll {
            recv: RecvHeaders::new(batch),
            send: SendHeaders::new(SEND_RUN),
            ready: VecDeque::new(),
            per_socket: options.per_socket.max(1),
        }
    }
}

impl Backend for Epoll {
    fn technique(&self) -> Technique {
        Technique::Epoll
    }

    fn batch(&self) -> &Batch {
        &self.recv.batch
    }

    fn batch_mut(&mut self) -> &mut Batch {
        &mut self.recv.batch
    }

    fn add(&mut self, poller: &Poller, id: SocketId, socket: &DatagramSocket) -> io::Result<()> {
        poller.add_own(socket, id.to_token())
    }

    fn remove(&mut self, poller: &Poller, _: SocketId, socket: &DatagramSocket) {
        // It is watched, so this cannot fail; if it did, its events would be known by their old generation.
        let _ = poller.remove(socket);
    }

    /// Takes at most `per_socket` datagrams from each socket, so that a busy one does not keep the others waiting. Waits
    /// only if no ready socket is left over from the last time.
    fn turn(
        &mut self,
        shard: &mut Shard<'_>,
        timeout: Option<Duration>,
        events: &mut Vec<Event>,
    ) -> io::Result<()> {
        self.flush(shard);
        self.recv.clear();
        if self.ready.is_empty() {
            let ready = &mut self.ready;
            let with_errors = &mut shard.outcome.with_errors;
            shard.poller.wait_with(timeout, |event| match SocketId::from_token(event.token) {
                Some(id) => {
                    ready.push_back(id);
                    if event.closed {
                        with_errors.push(id);
                    }
                }
                None => events.push(event),
            })?;
        }
        while self.recv.free() > 0
            && let Some(id) = self.ready.pop_front()
        {
            let Some((socket, token)) = shard.sockets.get(id) else { continue };
            self.recv.receive(socket.as_fd(), (id, token), self.per_socket, &mut shard.outcome.counters)?;
        }
        Ok(())
    }

    /// In order: one system call for each run of datagrams by one socket.
    fn flush(&mut self, shard: &mut Shard<'_>) {
        let batch = &mut self.recv.batch;
        let mut next = 0;
        while let Some(route) = batch.route(next) {
            let run = batch.queued_run(next, SEND_RUN);
            match shard.sockets.get(route.socket) {
                Some((socket, _)) => self.send.send(socket.as_fd(), batch, next, run, shard.outcome),
                None => shard.outcome.counters.misdirected += run as u64,
            }
            next += run;
        }
        batch.clear_queue();
    }
}
